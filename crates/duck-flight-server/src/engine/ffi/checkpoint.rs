//! Checkpoints, and what keeps them apart from rows on their way into the database file.

use std::time::{Duration, Instant};

use parking_lot::RwLockReadGuard;

use super::{Connection, Result};
use crate::engine::connections::cancel::Cancel;
use crate::engine::connections::helpers::Stay;
use crate::engine::storage::attach::MAX_ROW_GROUP_ROWS;
use crate::engine::storage::checkpoint::LOOK_SQL;
use crate::engine::storage::images::{Images, Kept};

/// How often whoever waits for a checkpoint looks whether it was cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A checkpoint can be made by this connection, as long as this lives.
pub(in crate::engine) struct Ready<'a> {
    connection: &'a Connection,
    /// `None` of a database in memory.
    _kept: Option<Kept<'a>>,
    /// DuckDB has a checkpoint begin as one task, and cuts it into more only there: without them one thread alone would compress all
    /// that the log has, while commits wait.
    _helpers: Option<Stay<'a>>,
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        self.connection.makes_checkpoint.set(false);
    }
}

/// No checkpoint runs, and nothing on this connection waits for one, as long as this lives.
pub(in crate::engine) struct Filling<'a> {
    connection: &'a Connection,
    /// `None` where nothing there would wait for one.
    guard: Option<RwLockReadGuard<'a, ()>>,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.connection.is_filling.set(false);
        }
    }
}

impl Connection {
    /// Makes ready for a checkpoint here, until the answer is dropped, having waited so long at most for what writes rows.
    ///
    /// # Errors
    /// When none is possible at present.
    pub(in crate::engine) fn ready_checkpoint(
        &self,
        patience: Duration,
    ) -> crate::error::Result<Ready<'_>> {
        let kept = match self.database.0.images.get() {
            Some(images) => Some(images.keep(&self.another()?, patience)?),
            None => None,
        };
        self.makes_checkpoint.set(true);
        Ok(Ready {
            connection: self,
            _kept: kept,
            _helpers: self.keep_helpers(),
        })
    }

    /// Makes a checkpoint, having waited so long at most for what writes rows. Answers with how long it took, without that wait.
    ///
    /// # Errors
    /// When none is possible at present.
    pub(in crate::engine) fn checkpoint(
        &self,
        patience: Duration,
    ) -> crate::error::Result<Duration> {
        // First of all: who waits here for somebody who is alone must not hold what that one waits for.
        let _committing = self.committing();
        let _ready = self.ready_checkpoint(patience)?;
        let start = Instant::now();
        self.run("CHECKPOINT")?;
        Ok(start.elapsed())
    }

    /// Makes DuckDB clean up deleted rows that no open transaction needs. DuckDB does so when a transaction ends while no checkpoint
    /// runs; the end of a checkpoint itself does not do it.
    pub(in crate::engine) fn finish_deletions(&self) -> Result<()> {
        self.another()?.execute(LOOK_SQL)
    }

    /// The most rows of a row group.
    pub(in crate::engine) fn row_group_rows(&self) -> u64 {
        let given = self.database.0.row_group_rows.get();
        given.copied().unwrap_or(MAX_ROW_GROUP_ROWS)
    }

    /// The fewest rows of a table of which a transaction may write some to the database file before its commit. Most ways of inserting
    /// wait for a whole row group; but of what several threads read in an order DuckDB 1.5.5 writes batches from nine tenths of one on
    /// (`BatchInsertGlobalState::ReadyToMerge`).
    pub(in crate::engine) fn fewest_filed_rows(&self) -> u64 {
        self.row_group_rows() / 10 * 9
    }

    /// Takes note of rows that are about to be written in the open transaction.
    pub(in crate::engine) fn note_written(&self, rows: u64) {
        let written = self.rows_written.get();
        self.rows_written.set(written.saturating_add(rows));
    }

    /// Counts anew where no transaction is open that lasts: what ran is committed by now, or undone. To be called once it has ended.
    pub(super) fn forget_written(&self) {
        if !self.open_transaction.lasts() {
            self.rows_written.set(0);
        }
    }

    /// Keeps checkpoints from running until the guard is dropped, and waits for the one that runs. `None` where the open transaction
    /// has too few rows to write any to the database file before a checkpoint does. See [`Images`].
    pub(super) fn filling(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.to_fill().map(Images::filling)
    }

    /// As [`filling`](Self::filling), but waits no longer once it is cancelled.
    pub(super) fn filling_unless(
        &self,
        cancel: &Cancel,
    ) -> crate::error::Result<Option<RwLockReadGuard<'_, ()>>> {
        let Some(images) = self.to_fill() else {
            return Ok(None);
        };
        loop {
            cancel.check()?;
            let filling = images.try_filling(LOOK_EVERY);
            if filling.is_some() {
                return Ok(filling);
            }
        }
    }

    /// As [`filling`](Self::filling), for all that runs here until the answer is dropped.
    pub(in crate::engine) fn fill(&self) -> Filling<'_> {
        self.keep_filling(self.filling())
    }

    /// As [`fill`](Self::fill), but without a wait: `None` where a checkpoint runs, or waits.
    pub(in crate::engine) fn try_fill(&self) -> Option<Filling<'_>> {
        let guard = match self.to_fill() {
            Some(images) => Some(images.try_filling(Duration::ZERO)?),
            None => None,
        };
        Some(self.keep_filling(guard))
    }

    fn keep_filling<'a>(&'a self, guard: Option<RwLockReadGuard<'a, ()>>) -> Filling<'a> {
        if guard.is_some() {
            self.is_filling.set(true);
        }
        Filling {
            connection: self,
            guard,
        }
    }

    /// Waits for the checkpoint that runs, or waits, where what runs here would do so.
    pub(in crate::engine) fn wait_for_checkpoint(&self) {
        drop(self.filling());
    }

    /// What keeps checkpoints apart from what runs here, where that may write row groups. `None` also for the connection that has it: it would
    /// wait for itself.
    fn to_fill(&self) -> Option<&Images> {
        let images = self.database.0.images.get()?;
        let fills = self.rows_written.get() >= self.fewest_filed_rows();
        let is_kept_apart = self.makes_checkpoint.get() || self.is_filling.get();
        (fills && !is_kept_apart).then_some(images)
    }

    /// Where the open transaction may have deleted rows, waits for the checkpoint that runs, and keeps the next one from running until
    /// the transaction ends, as DuckDB does for one that updates rows. To be called before its commit.
    ///
    /// While a checkpoint runs DuckDB 1.5.5 takes each NULL in an index for one that it has removed (`ART::DeleteKeys`), and gives the
    /// database up where a commit has deleted rows with NULLs and rows without (`RowGroupCollection::RemoveFromIndexes`).
    pub(in crate::engine) fn keep_checkpoints_out(&self) -> Result<()> {
        match self.database.0.update_nothing.get() {
            Some(sql) if self.may_have_deleted() => self.run_often(sql, &self.update_nothing),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::engine::ffi::Database;

    /// A database of whose file images are kept, with row groups of 20,480 rows and a table `t` of numbers.
    pub(crate) fn with_images() -> (TempDir, Database, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        database.set_row_group_rows(20_480);
        let connection = database.connect().unwrap();
        let made = "CREATE TABLE t (i BIGINT); CHECKPOINT";
        connection.execute(made).unwrap();
        database.set_images(Images::of(&path).unwrap().unwrap());
        (directory, database, connection)
    }

    #[test]
    fn a_checkpoint_takes_as_long_as_duckdb_does_and_not_as_what_it_waits_for() {
        let (_directory, database, connection) = with_images();
        let images = database.0.images.get().unwrap();
        let filling = images.filling();
        std::thread::scope(|scope| {
            let long = Duration::from_secs(600);
            let checkpoint = scope.spawn(move || connection.checkpoint(long).unwrap());
            // Until it waits.
            while images.try_filling(Duration::ZERO).is_some() {
                std::thread::yield_now();
            }
            let freed = Instant::now();
            drop(filling);
            let took = checkpoint.join().unwrap();
            assert!(took <= freed.elapsed());
        });
    }
}
