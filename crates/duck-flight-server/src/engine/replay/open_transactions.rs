//! Which transactions of DuckDB's are open, and which of them are older than the last rows that were deleted.
//!
//! DuckDB 1.5.5 keeps the rows that a commit has deleted for as long as a transaction is open that began before it. Once the last
//! one of those ends, it takes them out of what each index of their table keeps of deleted rows. An index that was made in between has never
//! had them there: where it has others by then, that fails, and the database cannot be used any more (`CleanupState::CleanupDelete`).
//! And it was made of those rows, too (`TABLE_SCAN_COMMITTED_ROWS_OMIT_PERMANENTLY_DELETED`): a unique one refuses their keys for good.
//!
//! So an index is made when no such transaction is open, with nobody else committing anything. That is counted here, for every
//! connection: in doubt a transaction is open, and rows have been deleted. To update a row in its place counts as well, for that is
//! undone by whoever [gives its column another type](super::widened) beside an older transaction.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::alterations::{Alterations, Changes};
use crate::engine::connections::cancel::Cancel;
use crate::error::Result;

/// After how long whoever waits for the end of older transactions looks for them again. Twice as long each time, up to the other: a look
/// may keep others from committing.
const LOOK_AFTER: Duration = Duration::from_millis(10);
const LONGEST_LOOK_AFTER: Duration = Duration::from_millis(320);

/// The open transactions of a database.
#[derive(Default)]
pub(in crate::engine) struct OpenTransactions {
    /// How many have ended that may have deleted rows.
    deletions: AtomicU64,
    connections: Mutex<Vec<Weak<Since>>>,
    /// How long whoever makes an index, or changes a type, waits for older ones.
    patience: OnceLock<Duration>,
    alterations: Arc<Alterations>,
}

/// When a connection's transaction began: one more than the deletions before it, or zero where none is open.
#[derive(Default)]
struct Since(AtomicU64);

/// What a connection tells of its transaction.
pub(in crate::engine) struct OpenTransaction {
    all: Arc<OpenTransactions>,
    since: Arc<Since>,
    /// Whether it is one that lasts until a COMMIT or a ROLLBACK.
    lasts: Cell<bool>,
    may_delete: Cell<bool>,
    changes: Changes,
}

/// Whether there are open transactions that are older than the last rows that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Older {
    /// Whether the connection's own is one.
    pub(in crate::engine) own: bool,
    pub(in crate::engine) others: bool,
}

/// Somebody who waits for the end of older transactions, but not without an end.
pub(in crate::engine) struct WaitForOlder {
    begun: Instant,
    patience: Duration,
    next: Cell<Duration>,
}

impl OpenTransactions {
    /// The transactions of a new connection.
    pub(in crate::engine) fn of_connection(self: &Arc<Self>) -> OpenTransaction {
        let since = Arc::<Since>::default();
        let mut connections = self.connections.lock();
        connections.retain(|since| since.strong_count() > 0);
        connections.push(Arc::downgrade(&since));
        OpenTransaction {
            all: self.clone(),
            since,
            lasts: Cell::default(),
            may_delete: Cell::default(),
            changes: self.alterations.of_connection(),
        }
    }

    /// Says how long whoever makes an index, or changes a type, waits for older ones. To be called once.
    pub(in crate::engine) fn set_patience(&self, patience: Duration) {
        self.patience.set(patience).ok();
    }

    /// Begins to wait for older ones to end.
    pub(in crate::engine) fn wait_for_older(&self) -> WaitForOlder {
        WaitForOlder {
            begun: Instant::now(),
            patience: self.patience.get().copied().unwrap_or_default(),
            next: Cell::new(LOOK_AFTER),
        }
    }
}

impl WaitForOlder {
    /// Waits a moment. False where that has been enough.
    pub(in crate::engine) fn goes_on(&self, cancel: &Cancel) -> Result<bool> {
        cancel.check()?;
        let goes_on = self.begun.elapsed() < self.patience;
        if goes_on {
            let time = self.next.get();
            std::thread::sleep(time);
            self.next.set(LONGEST_LOOK_AFTER.min(time * 2));
        }
        Ok(goes_on)
    }
}

impl OpenTransaction {
    /// Says that DuckDB may begin a transaction from here on, where none is open.
    pub(in crate::engine) fn touch(&self) {
        if self.since.0.load(Ordering::SeqCst) == 0 {
            self.changes.begin();
            let deletions = self.all.deletions.load(Ordering::SeqCst);
            self.since.0.store(deletions + 1, Ordering::SeqCst);
        }
    }

    /// Says that it may delete rows.
    pub(in crate::engine) fn note_deletion(&self) {
        self.may_delete.set(true);
    }

    /// Whether the open one may have deleted rows.
    pub(in crate::engine) fn may_have_deleted(&self) -> bool {
        self.may_delete.get()
    }

    /// What it has changed and defined.
    pub(in crate::engine) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Runs something that leaves no transaction open behind it, except for one that lasts.
    pub(in crate::engine) fn briefly<T>(&self, run: impl FnOnce() -> T) -> T {
        let was_open = self.since.0.load(Ordering::SeqCst) != 0;
        self.touch();
        let outcome = run();
        if !was_open {
            self.settle();
        }
        outcome
    }

    /// Whether one is open that lasts until a COMMIT or a ROLLBACK.
    pub(in crate::engine) fn lasts(&self) -> bool {
        self.lasts.get()
    }

    /// Says that a statement has ended, and with it the transaction that DuckDB has begun for it.
    pub(in crate::engine) fn settle(&self) {
        if !self.lasts.get() {
            self.end();
        }
    }

    /// Says that one has begun that lasts. It sees what is committed when it first looks at the database.
    pub(in crate::engine) fn begun(&self) {
        self.end();
        self.lasts.set(true);
    }

    /// Says that one has ended that lasts.
    pub(in crate::engine) fn ended(&self) {
        self.lasts.set(false);
        self.end();
    }

    /// Says that a statement has succeeded which begins one that lasts, or ends it.
    pub(in crate::engine) fn begun_or_ended(&self) {
        match self.lasts.get() {
            true => self.ended(),
            false => self.begun(),
        }
    }

    fn end(&self) {
        self.changes.end();
        // After the commit: whatever began before it is older.
        if self.may_delete.take() {
            self.all.deletions.fetch_add(1, Ordering::SeqCst);
        }
        self.since.0.store(0, Ordering::SeqCst);
    }

    /// Whether there are older ones than the last rows that were deleted. To be asked while nobody else commits anything.
    pub(in crate::engine) fn older(&self) -> Older {
        let deletions = self.all.deletions.load(Ordering::SeqCst);
        let is_older = |since: &Since| (1..=deletions).contains(&since.0.load(Ordering::SeqCst));
        Older {
            own: is_older(&self.since),
            others: self.is_any_other(is_older),
        }
    }

    /// Whether others are open, or may be.
    pub(in crate::engine) fn is_beside_others(&self) -> bool {
        self.is_any_other(|since| since.0.load(Ordering::SeqCst) != 0)
    }

    fn is_any_other(&self, is_one: impl Fn(&Since) -> bool) -> bool {
        let connections = self.all.connections.lock();
        let mut others = connections
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|since| !Arc::ptr_eq(since, &self.since));
        others.any(|since| is_one(&since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::{Connection, Database};

    const NONE: Older = Older {
        own: false,
        others: false,
    };

    fn database() -> (Database, Connection) {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute("CREATE TABLE t (k INT PRIMARY KEY, n INT); INSERT INTO t SELECT range, range FROM range(60)")
            .unwrap();
        (database, connection)
    }

    /// Runs the only statement of a script to its end, as a client's.
    fn run(connection: &Connection, sql: &str) {
        let statement = connection.parse(sql).unwrap().last_statement();
        let mut result = statement.unwrap().unwrap().execute().unwrap();
        while result.next_chunk().unwrap().is_some() {}
    }

    #[test]
    fn a_transaction_is_older_than_what_was_deleted_since_its_first_look() {
        let (database, own) = database();
        let other = database.connect().unwrap();
        let older = Older {
            own: false,
            others: true,
        };
        for end in ["COMMIT", "ROLLBACK"] {
            assert!(!own.is_beside_others());
            run(&other, "BEGIN");
            run(&own, "DELETE FROM t WHERE k = 1");
            assert_eq!(own.older_transactions(), NONE, "it has not looked yet");
            run(&other, "SELECT count(*) FROM t");
            assert_eq!(own.older_transactions(), NONE, "it sees what is left");
            assert!(own.is_beside_others());
            own.execute("INSERT INTO t VALUES (1, 1)").unwrap();
            for harmless in [
                "EXPLAIN SELECT * FROM t",
                "PRAGMA table_info('t')",
                "EXPLAIN ANALYZE FROM t",
            ] {
                run(&own, harmless);
            }
            assert_eq!(own.older_transactions(), NONE, "nothing was deleted");
            run(&own, "DELETE FROM t WHERE k = 1");
            assert_eq!(own.older_transactions(), older);
            assert!(other.older_transactions().own);
            run(&other, end);
            assert_eq!(own.older_transactions(), NONE);
            own.execute("INSERT INTO t VALUES (1, 1)").unwrap();
        }
        other.begin().unwrap();
        other.execute("FROM t LIMIT 1").unwrap();
        own.begin().unwrap();
        own.execute("DELETE FROM t WHERE k = 2").unwrap();
        assert_eq!(own.older_transactions(), NONE, "it is not committed");
        own.commit().unwrap();
        assert_eq!(own.older_transactions(), older);
        other.roll_back();
        assert_eq!(own.older_transactions(), NONE);
    }

    #[test]
    fn a_result_is_open_until_it_is_read_to_its_end() {
        let (database, own) = database();
        let other = database.connect().unwrap();
        let statement = other.parse("FROM t, range(1000)").unwrap();
        let statement = statement.last_statement().unwrap().unwrap();
        for reads_all in [true, false] {
            let mut result = statement.execute().unwrap();
            result.next_chunk().unwrap();
            own.execute("DELETE FROM t WHERE k = (SELECT min(k) FROM t)")
                .unwrap();
            assert!(own.older_transactions().others);
            while reads_all && result.next_chunk().unwrap().is_some() {}
            drop(result);
            assert_eq!(own.older_transactions().others, !reads_all);
            other.roll_back();
            assert_eq!(own.older_transactions(), NONE);
        }
        let failing = other.parse("SELECT error(k::VARCHAR) FROM t").unwrap();
        let failing = failing.last_statement().unwrap().unwrap();
        let failed = failing
            .execute()
            .and_then(|mut result| result.next_chunk().map(drop));
        assert!(failed.is_err());
        own.execute("DELETE FROM t WHERE k = (SELECT min(k) FROM t)")
            .unwrap();
        assert_eq!(own.older_transactions(), NONE);
    }

    /// What this module is for: DuckDB makes the index beside the older transaction, and later cannot go on. Whoever meets that,
    /// be it in a roll back, which tells nobody, takes note of it.
    #[test]
    fn an_index_that_is_made_beside_an_older_transaction_ends_the_database() {
        let (database, own) = database();
        let other = database.connect().unwrap();
        other.begin().unwrap();
        other.execute("FROM t LIMIT 1").unwrap();
        own.execute("DELETE FROM t WHERE k < 11").unwrap();
        assert!(own.older_transactions().others);
        own.execute("CREATE INDEX i ON t (n)").unwrap();
        own.execute("DELETE FROM t WHERE k = 20").unwrap();
        database.health().check().unwrap();
        other.roll_back();
        assert!(own.execute("FROM t").is_err());
        assert!(database.health().check().is_err());
    }
}
