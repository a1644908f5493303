//! A connection's transaction: how it begins and ends, and what is known of it.

use parking_lot::{MutexGuard, RwLockReadGuard};

use super::{Connection, Result};
use crate::engine::connections::commits::UnderWay;
use crate::engine::replay::alterations::Changes;
use crate::engine::replay::open_transactions::{Older, WaitForOlder};
use crate::engine::sql::admission::check_beside;

/// A commit that is under way until this is dropped.
pub(in crate::engine) struct Begun<'c> {
    _under_way: UnderWay<'c>,
    _changes: Option<RwLockReadGuard<'c, ()>>,
    _pairs: Option<MutexGuard<'c, ()>>,
}

impl Connection {
    /// Begins a transaction. It sees what is committed when it first looks at the database.
    pub(crate) fn begin(&self) -> Result<()> {
        self.run_often(c"BEGIN TRANSACTION", &self.begin)?;
        // Not where it is refused, for another one is open: that has written them.
        self.rows_written.set(0);
        self.open_transaction.begun();
        Ok(())
    }

    /// Begins a transaction of ours, whose commit alone is announced to others.
    pub(in crate::engine) fn begin_work(&self) -> Result<()> {
        self.begin()?;
        self.set_commits_later(true);
        Ok(())
    }

    /// Gives up what the open transaction of ours has done, and begins anew: as young as what others have committed.
    pub(in crate::engine) fn restart_work(&self) -> Result<()> {
        self.roll_back();
        self.begin_work()
    }

    /// Commits the open transaction.
    pub(crate) fn commit(&self) -> crate::error::Result<()> {
        let _begun = self.begin_commit()?;
        Ok(self.run_commit()?)
    }

    /// Marks the open transaction as being committed, until what comes back is dropped.
    ///
    /// # Errors
    /// Where DuckDB would refuse that in its middle, where others have committed what must not be there beside it, and where nothing may
    /// be committed any more. Then it must be rolled back.
    pub(in crate::engine) fn begin_commit(&self) -> crate::error::Result<Begun<'_>> {
        // Before the other: who waits here for somebody who alters a table must not hold what that one waits for.
        let under_way = self.commits().under_way();
        // Only now: it may have waited for whoever found the log to end with half an entry, behind which DuckDB itself goes on.
        self.database.0.health.check()?;
        // Nor before the first: whoever keeps others from committing would wait here for one that waits for the end of that.
        let pairs = check_beside(self)?;
        let changes = self.changes().begin_commit()?;
        Ok(Begun {
            _under_way: under_way,
            _changes: changes,
            _pairs: pairs,
        })
    }

    /// Commits a transaction that has changed nothing plans rely on: no rows and no definitions.
    pub(crate) fn commit_unchanged(&self) -> Result<()> {
        self.run_commit()
    }

    fn run_commit(&self) -> Result<()> {
        let filling = self.filling();
        self.run_often(c"COMMIT", &self.commit)?;
        drop(filling);
        self.rows_written.set(0);
        self.open_transaction.ended();
        Ok(())
    }

    /// Rolls back the open transaction, or the statement that stopped halfway outside of one.
    pub(crate) fn roll_back(&self) {
        self.set_commits_later(false);
        self.rows_written.set(0);
        // Without a transaction it fails, having closed the statement.
        self.run("ROLLBACK").ok();
        self.open_transaction.ended();
    }

    /// Leaves nothing possible in the open transaction but to roll it back, as an error in a statement does.
    pub(crate) fn spoil_transaction(&self) {
        // Fails on purpose: DuckDB then refuses every statement but ROLLBACK, and quotes this text.
        self.run("SELECT 'rows of a put are missing'::INTEGER").ok();
    }

    /// Fails when the open transaction can be rolled back only.
    pub(crate) fn check_transaction(&self) -> Result<()> {
        self.run("SELECT 1")
    }

    /// Records whether an outer transaction is open. Then a statement here is no commit of its own, and only the outer COMMIT is
    /// announced to others.
    pub(in crate::engine) fn set_commits_later(&self, commits_later: bool) {
        self.commits_later.set(commits_later);
    }

    /// Records that what runs next may take rows away that are there.
    pub(in crate::engine) fn note_deletion(&self) {
        self.open_transaction.note_deletion();
    }

    /// Whether the open transaction may have deleted rows, its own among them.
    pub(in crate::engine) fn may_have_deleted(&self) -> bool {
        self.open_transaction.may_have_deleted()
    }

    /// What the open transaction has changed and defined.
    pub(in crate::engine) fn changes(&self) -> &Changes {
        self.open_transaction.changes()
    }

    /// Whether transactions are open that are too old for an index to be made, or a type to be changed. To be asked while nobody else
    /// commits anything.
    pub(in crate::engine) fn older_transactions(&self) -> Older {
        self.open_transaction.older()
    }

    /// Whether other connections have transactions open.
    pub(in crate::engine) fn is_beside_others(&self) -> bool {
        self.open_transaction.is_beside_others()
    }

    /// Begins to wait for transactions to end that are too old for a new index (see [`older_transactions`](Self::older_transactions)).
    pub(in crate::engine) fn wait_for_older(&self) -> WaitForOlder {
        self.database.0.open_transactions.wait_for_older()
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::ffi::Database;

    #[test]
    fn a_begin_that_is_refused_forgets_nothing_of_what_the_open_transaction_has_written() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection.begin().unwrap();
        connection.note_written(7);
        assert!(connection.begin().is_err());
        assert_eq!(connection.rows_written.get(), 7);
        connection.roll_back();
        assert_eq!(connection.rows_written.get(), 0);
    }
}
