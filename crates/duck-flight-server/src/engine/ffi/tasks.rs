//! The tasks of all statements, for threads of ours to run.

use duckdb::ffi;

/// Runs tasks of a database's statements until it is dropped.
pub(super) struct Tasks(ffi::duckdb_task_state);

// SAFETY: DuckDB's task state is made to be shared: its counters are atomic, and the queue behind it is one for many
// threads.
unsafe impl Send for Tasks {}
// SAFETY: as above.
unsafe impl Sync for Tasks {}

impl Tasks {
    /// # Safety
    /// The database must be open for as long as this lives.
    pub(super) unsafe fn of(database: ffi::duckdb_database) -> Self {
        // SAFETY: the database is open; the state is freed by `drop`.
        Self(unsafe { ffi::duckdb_create_task_state(database) })
    }

    /// Runs all tasks that wait; answers with how many have come to their end.
    pub(super) fn run(&self) -> u64 {
        // SAFETY: the state is live, and its database open.
        unsafe { ffi::duckdb_execute_n_tasks_state(self.0, u64::MAX) }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_create_task_state, freed only here, where nobody runs tasks by it any more.
        unsafe { ffi::duckdb_destroy_task_state(self.0) };
    }
}
