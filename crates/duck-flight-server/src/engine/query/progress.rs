//! How far a statement has come, for whoever asks while it runs.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::ffi::{Connection, Interrupter};

/// Set on a connection before a statement whose progress somebody asks for: DuckDB counts, and prints nothing.
const COUNT_SQL: &str = "SET enable_progress_bar_print = false; SET enable_progress_bar = true";

/// Makes the connection as it was.
const RESET_SQL: &str = "RESET enable_progress_bar; RESET enable_progress_bar_print";

/// The progress of one request. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Interrupter>>>);

/// While it lives, the request can be asked.
pub(super) struct Watched<'a> {
    progress: &'a Progress,
    connection: &'a Connection,
}

impl Progress {
    /// From 0 to 1, while the statement runs and where DuckDB can tell.
    pub(crate) fn get(&self) -> Option<f64> {
        self.0.lock().as_ref()?.progress()
    }

    /// Lets it be asked how far the connection's statements are.
    pub(super) fn watch<'a>(
        &'a self,
        connection: &'a Connection,
    ) -> crate::engine::ffi::Result<Watched<'a>> {
        connection.execute(COUNT_SQL)?;
        *self.0.lock() = Some(connection.interrupter());
        Ok(Watched {
            progress: self,
            connection,
        })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        *self.progress.0.lock() = None;
        // In a transaction that has failed nothing runs any more, and it counts on.
        self.connection.execute(RESET_SQL).ok();
    }
}
