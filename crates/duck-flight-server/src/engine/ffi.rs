//! Safe wrappers over DuckDB's C API: the one place with unsafe code.
//!
//! The `duckdb` crate's own wrappers stand in the way here: its streaming iterators panic on an error in
//! the middle of a result, its `prepare` runs all statements of a script but the last, its Arrow appender
//! loses the nulls of intervals, and a statement's schema is known only after it has run. So this module
//! takes the crate's bindings and wraps the calls the engine needs:
//!
//! - [`Database`] and [`Connection`]: opened once, closed when the last user is gone;
//! - [`transaction`], [`checkpoint`]: a connection's transaction, and what it must not do beside a checkpoint;
//! - [`query::Script`], [`Prepared`], [`QueryResult`]: one statement at a time, results chunk by chunk;
//! - [`Appender`], [`ArrowImporter`], [`append::DataChunk`]: Arrow in, rows appended;
//! - [`insert::Insert`]: the same by a statement that is planned once;
//! - [`tasks::Tasks`]: the tasks of all statements, for threads of ours;
//! - [`allocator`]: how long DuckDB's allocator keeps memory that was freed;
//! - [`lock`]: a lock on the database file that outlives what DuckDB does with the file.
//!
//! A wrapper owns what it wraps and frees it once. Whatever borrows from a connection says so with a
//! lifetime, and a connection belongs to one thread at a time; only its [`Interrupter`] is shared.

#![expect(unsafe_code, reason = "this module is where the C API is called")]

pub(in crate::engine) mod allocator;
pub(crate) mod append;
mod arrow_type;
mod checkpoint;
mod columns;
mod database;
mod files;
pub(crate) mod insert;
pub(crate) mod lock;
mod logical_type;
mod nulls;
mod plans;
pub(crate) mod query;
mod result;
mod table_function;
mod tasks;
mod transaction;
pub(crate) mod value;

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use duckdb::ffi;
use parking_lot::{Mutex, RwLock};

pub(crate) use append::{Appender, ArrowImporter, ColumnShape};
pub(super) use checkpoint::Filling;
pub(crate) use columns::PlainColumns;
pub(crate) use database::Database;
pub(crate) use files::FILES_REFUSED;
pub(crate) use logical_type::MAX_MEMBERS;
pub(crate) use query::{Parameter, Pending, Prepared, StatementKind};
pub(crate) use result::{Batches, QueryResult, ResultChunk};

use logical_type::LogicalType;

use super::catalog::SeenTables;
use super::connections::cancel::Cancel;
use super::connections::commits::{Commits, UnderWay};
use super::connections::helpers::{Helpers, Stay};
use super::ingest::queue::Turn;
use super::ingest::queue::holds::{Hold, Reach};
use super::replay::Indexes;
use super::replay::index_work::may_delete;
use super::replay::open_transactions::OpenTransaction;
use super::sql::frozen::FrozenDefinitions;
use super::sql_error::{SqlError, SqlErrorKind};

pub(crate) type Result<T> = std::result::Result<T, SqlError>;

/// A connection: one session, used by one thread at a time.
pub(crate) struct Connection {
    raw: ffi::duckdb_connection,
    interrupter: Interrupter,
    /// `BEGIN` and `COMMIT`, prepared when they are first needed: to parse them takes longer than to run them. Freed
    /// by `drop`.
    begin: OnceCell<ffi::duckdb_prepared_statement>,
    commit: OnceCell<ffi::duckdb_prepared_statement>,
    update_nothing: OnceCell<ffi::duckdb_prepared_statement>,
    plans: RefCell<plans::Plans>,
    /// Of the last result.
    chunks_fetched: Cell<u64>,
    rows_fetched: Cell<u64>,
    /// Whether a transaction is open whose end commits what runs here.
    commits_later: Cell<bool>,
    /// How many rows the open transaction may have written.
    rows_written: Cell<u64>,
    makes_checkpoint: Cell<bool>,
    /// Whether a [`Filling`] of its own keeps checkpoints out.
    is_filling: Cell<bool>,
    open_transaction: OpenTransaction,
    // After `raw`, so that the database outlives the connection.
    database: Database,
}

// SAFETY: a connection may move between threads, and its statements with it; it is not Sync, so only one uses it at a time.
unsafe impl Send for Connection {}

impl Connection {
    /// Shared by statements that define something while they run and commit; whoever holds it alone knows that
    /// none of them gets in the way.
    pub(crate) fn definitions(&self) -> &RwLock<()> {
        &self.database.0.definitions
    }

    /// Whether views and macros of the database decide by their plan what each run should.
    pub(super) fn frozen_definitions(&self) -> &FrozenDefinitions {
        &self.database.0.frozen_definitions
    }

    /// The settings of a new connection that times depend on, once they are known.
    pub(super) fn zone(&self) -> &OnceLock<Vec<[String; 2]>> {
        &self.database.0.zone
    }

    /// Whether the database may have indexes that statements have made.
    pub(super) fn indexes(&self) -> &Indexes {
        &self.database.0.indexes
    }

    /// Records that views or macros of the database call functions that read files. To be called before there are connections
    /// for clients.
    pub(super) fn note_definitions_that_read_files(&self) {
        let noted = &self.database.0.definitions_read_files;
        noted.store(true, Ordering::Release);
    }

    /// The commits of the database, of which every connection tells.
    pub(super) fn commits(&self) -> &Commits {
        &self.database.0.commits
    }

    /// Another connection to the database, in the state of a new one.
    pub(super) fn another(&self) -> Result<Self> {
        self.database.connect()
    }

    /// Waits for a turn to commit: in it no writer has a transaction open that changes rows. `None` where there are no writers.
    pub(super) fn turn(&self) -> Option<Turn> {
        let turn = self.database.0.queue.get()?.upgrade()?.turn();
        turn.wait();
        Some(turn)
    }

    /// Holds these tables for a statement that changes their rows, or adds some that refer to theirs. `None` where there are no writers.
    ///
    /// # Errors
    /// When it is cancelled before they are held.
    pub(super) fn hold(&self, reach: Reach, cancel: &Cancel) -> crate::error::Result<Option<Hold>> {
        let queue = self.database.0.queue.get().and_then(Weak::upgrade);
        let hold = queue.map(|queue| queue.hold_for_statement(reach, cancel));
        hold.transpose()
    }

    /// An error of DuckDB's, with note taken of one after which the database cannot be used any more: not everybody who meets
    /// that tells of it.
    fn noted(&self, error: SqlError) -> SqlError {
        if error.is_fatal() {
            self.database.0.health.fail(&error.message);
        }
        error
    }

    /// What is known of the database's tables, as they were last seen.
    pub(super) fn seen_tables(&self) -> &SeenTables {
        &self.database.0.seen_tables
    }

    /// Calls the helpers: what runs here takes longer.
    fn call_helpers(&self) {
        if let Some(helpers) = self.database.0.helpers.get() {
            helpers.call();
        }
    }

    /// Keeps the helpers at hand for what runs until the guard is dropped.
    fn keep_helpers(&self) -> Option<Stay<'_>> {
        self.database.0.helpers.get().map(Helpers::stay)
    }

    /// What stops this connection's statement from another thread.
    pub(crate) fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Says that what runs here may be committed at once, until the guard is dropped. `None` where the end of the open
    /// transaction commits it.
    fn committing(&self) -> Option<UnderWay<'_>> {
        (!self.commits_later.get()).then(|| self.commits().under_way())
    }

    /// Runs a script for its effect and drops its results: for the engine's own statements, whose results
    /// are small. One call, where preparing each statement costs a transaction more.
    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        if may_delete(sql) {
            self.note_deletion();
        }
        self.execute_unindexed(sql)
    }

    /// As [`execute`](Self::execute), for what deletes rows only of tables that have no index and never get one: an index of
    /// another table may be made beside transactions that are older than that.
    pub(super) fn execute_unindexed(&self, sql: &str) -> Result<()> {
        let _committing = self.committing();
        let _helpers = self.keep_helpers();
        self.run(sql)
    }

    fn run(&self, sql: &str) -> Result<()> {
        let text = c_string(sql)?;
        let _filling = self.filling();
        self.open_transaction.touch();
        // SAFETY: the connection is open and the text NUL-terminated.
        let outcome =
            self.outcome(|result| unsafe { ffi::duckdb_query(self.raw, text.as_ptr(), result) });
        self.open_transaction.settle();
        outcome
    }

    /// Runs a statement that is prepared once.
    fn run_often(
        &self,
        sql: &CStr,
        prepared: &OnceCell<ffi::duckdb_prepared_statement>,
    ) -> Result<()> {
        let Some(prepared) = prepared.get().copied().or_else(|| {
            let mut new = ptr::null_mut();
            // SAFETY: the connection is open and the text NUL-terminated; what could not be prepared is freed here,
            // and all else by `drop`.
            unsafe {
                let state = ffi::duckdb_prepare(self.raw, sql.as_ptr(), &raw mut new);
                if state != ffi::DuckDBSuccess {
                    ffi::duckdb_destroy_prepare(&raw mut new);
                    return None;
                }
            }
            Some(*prepared.get_or_init(|| new))
        }) else {
            // The transaction may be past preparing anything, and says so.
            return self.run(&sql.to_string_lossy());
        };
        // SAFETY: the statement is live until the connection is dropped.
        self.outcome(|result| unsafe { ffi::duckdb_execute_prepared(prepared, result) })
    }

    /// Runs a statement for its effect and drops its result.
    fn outcome(
        &self,
        run: impl FnOnce(*mut ffi::duckdb_result) -> ffi::duckdb_state,
    ) -> Result<()> {
        // SAFETY: an all-zero duckdb_result is what the C API expects to fill in.
        let mut result: ffi::duckdb_result = unsafe { std::mem::zeroed() };
        let state = run(&raw mut result);
        // SAFETY: the result holds the message, which is copied, and is freed here, also after a failure.
        let message = unsafe {
            let message = text(ffi::duckdb_result_error(&raw mut result));
            ffi::duckdb_destroy_result(&raw mut result);
            message
        };
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        Err(self.noted(SqlError::from_message(&message)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Under the interrupter's lock, so that nobody interrupts a connection that is gone.
        let mut shared = self.interrupter.0.lock();
        *shared = None;
        self.plans.take();
        let prepared = [&mut self.begin, &mut self.commit, &mut self.update_nothing];
        for mut prepared in prepared.into_iter().filter_map(OnceCell::take) {
            // SAFETY: made by duckdb_prepare, freed only here; null is allowed.
            unsafe { ffi::duckdb_destroy_prepare(&raw mut prepared) };
        }
        // SAFETY: made by duckdb_connect, closed only here.
        unsafe { ffi::duckdb_disconnect(&raw mut self.raw) };
    }
}

/// Stops whatever a connection is running, from any thread. Harmless once the connection is gone.
#[derive(Debug, Clone)]
pub(crate) struct Interrupter(Arc<Mutex<Option<RawConnection>>>);

#[derive(Debug)]
struct RawConnection(ffi::duckdb_connection);

// SAFETY: the pointer is used only for duckdb_interrupt and duckdb_query_progress, which set and read atomic
// values, and only under the lock that `Connection::drop` takes before it closes the connection.
unsafe impl Send for RawConnection {}

impl Interrupter {
    /// Stops the statement that is running, if any; one that starts later is not touched.
    pub(crate) fn interrupt(&self) {
        let connection = self.0.lock();
        if let Some(RawConnection(raw)) = *connection {
            // SAFETY: under the lock the connection is open.
            unsafe { ffi::duckdb_interrupt(raw) };
        }
    }

    /// How far the running statement has come, from 0 to 1; `None` where DuckDB does not tell.
    pub(crate) fn progress(&self) -> Option<f64> {
        let connection = self.0.lock();
        let RawConnection(raw) = connection.as_ref()?;
        // SAFETY: under the lock the connection is open; what is read are atomic counters.
        let progress = unsafe { ffi::duckdb_query_progress(*raw) };
        (progress.percentage >= 0.0).then(|| (progress.percentage / 100.0).min(1.0))
    }
}

/// How values are exported to Arrow, captured from a connection's settings. It must not outlive that
/// connection, so whoever makes one keeps the connection beside it.
pub(crate) struct ArrowOptions(ffi::duckdb_arrow_options);

// SAFETY: the options are plain values that are only read; the conversion registry they lead to is
// guarded by a lock of its own.
unsafe impl Send for ArrowOptions {}
// SAFETY: as above.
unsafe impl Sync for ArrowOptions {}

impl ArrowOptions {
    /// The options as the connection's settings are now.
    pub(crate) fn of(connection: &Connection) -> Self {
        let mut options = ptr::null_mut();
        // SAFETY: the connection is open; the options are freed by `drop`.
        unsafe { ffi::duckdb_connection_get_arrow_options(connection.raw, &raw mut options) };
        Self(options)
    }
}

impl Drop for ArrowOptions {
    fn drop(&mut self) {
        // SAFETY: made by DuckDB, freed only here.
        unsafe { ffi::duckdb_destroy_arrow_options(&raw mut self.0) };
    }
}

/// Turns DuckDB's error data into a result, and frees it.
///
/// # Safety
/// `error` is null or error data that nobody else frees.
unsafe fn check(mut error: ffi::duckdb_error_data) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let outcome = if ffi::duckdb_error_data_has_error(error) {
            let kind = SqlErrorKind::from_code(ffi::duckdb_error_data_error_type(error));
            let message = text(ffi::duckdb_error_data_message(error));
            Err(SqlError::from_data(kind, &message))
        } else {
            Ok(())
        };
        ffi::duckdb_destroy_error_data(&raw mut error);
        outcome
    }
}

/// Copies a C string of DuckDB's; empty for null.
///
/// # Safety
/// `pointer` is null or NUL-terminated.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Copies a string that DuckDB allocated for us, and frees it.
///
/// # Safety
/// `pointer` is null or NUL-terminated and allocated by DuckDB for us.
unsafe fn take_text(pointer: *mut c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe {
        let text = text(pointer);
        ffi::duckdb_free(pointer.cast());
        text
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        SqlError::new(
            SqlErrorKind::Invalid,
            "the character NUL (0x00) cannot stand in SQL",
        )
    })
}
