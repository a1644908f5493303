//! The engine's way down: statements end, then what is being written, and a checkpoint is made where nothing was left behind.

use std::time::{Duration, Instant};

use super::Engine;
use super::storage::images::PATIENCE;
use crate::error::in_a_line;

/// How long statements that were cancelled may take to end before the server ends without them, and then whoever writes rows: DuckDB
/// does not look everywhere whether it was interrupted.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What an end without a checkpoint means for whoever copies the database.
const LOG_LEFT: &str = "what was acknowledged last is in the log alone, which the next start replays: until then the database \
                        file, its .wal*, its .mark and its .metadata belong together, in a backup, too";

/// How a database was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// All of it is in its file, and no log is left.
    Checkpointed,
    /// What was committed last may be in its log alone, which the next start replays.
    LogLeft,
}

impl Engine {
    /// Finishes what was begun, checkpoints and closes the database. Blocks. Where a statement goes on although it was
    /// cancelled, or a writer does not end, the database stays as it is: what was acknowledged is in the log.
    pub(crate) fn close(&self) -> Closed {
        let have_statements_ended = self.0.queries.stop(Some(Instant::now() + STOP_PATIENCE));
        if !have_statements_ended {
            // Units that wait for one would keep the writers from ending.
            self.0.shared.queue.leave_statements();
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut have_units_ended = self.0.large_units.stop(deadline);
        have_units_ended &= self.0.lookups.stop(Some(deadline));
        have_units_ended &= self.0.writers.stop(deadline);
        if !have_units_ended {
            // The checkpoint thread may wait for one.
            tracing::warn!(
                "a put that is being written does not end, so it is left behind, and no checkpoint is made; {LOG_LEFT}"
            );
            return Closed::LogLeft;
        }
        let checkpointer = self.0.checkpointer.lock().take();
        if let Some(checkpointer) = checkpointer {
            checkpointer.stop();
        }
        if !have_statements_ended {
            tracing::warn!(
                "a statement that was cancelled does not end, so it is left behind, and no checkpoint is made; {LOG_LEFT}"
            );
            return Closed::LogLeft;
        }
        let database = self.0.database.lock().take();
        let checkpoint = database.map(|database| database.connect()?.checkpoint(PATIENCE));
        if let Some(Err(error)) = checkpoint {
            tracing::warn!(error = %in_a_line(&error), "no checkpoint at the end; {LOG_LEFT}");
            return Closed::LogLeft;
        }
        let mark = &self.0.shared.mark;
        if mark.has_log() {
            tracing::warn!("the last checkpoint has left a log; {LOG_LEFT}");
            return Closed::LogLeft;
        }
        mark.remove();
        Closed::Checkpointed
    }
}
