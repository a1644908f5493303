//! When a checkpoint is due, and the bell by which commits tell the checkpoint thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::engine::ingest::target::TableKey;

/// The log is checkpointed from this size on. Commits that append to a table wait while it is written, and a larger
/// log makes that longer.
const LOG_BYTES: u64 = 16 << 20;

/// The log is checkpointed from this size on already where its rows fill `MANY_ROW_GROUPS` row groups of each table: that halves
/// the wait, and as a checkpoint writes whole row groups, costs little. With fewer, the last one is written over and over
/// (checkpoints at 8 instead of 16 MiB load long texts, of which two row groups come to 16 MiB, 0.67 times as fast).
const LOG_BYTES_OF_MANY_ROWS: u64 = 4 << 20;
const MANY_ROW_GROUPS: u64 = 8;

/// A checkpoint is due after so many row groups that puts have written to the database file itself, of which the log has but a
/// few hundred bytes each. It writes the metadata of the new ones, and goes over all of the others: about 35 and 10 µs for each,
/// with five columns. Whatever fills row groups waits for it.
const ROW_GROUPS: u64 = 1024;

/// Where the last checkpoint took long, more row groups are waited for, this many for each of its milliseconds: otherwise a table of very
/// many would be gone over again and again. To write as many takes some thirty times as long as the checkpoint does.
const ROW_GROUPS_PER_MS: u64 = 8;

/// Tells the checkpoint thread of commits, where it wants to know: to wake a thread costs about a twentieth of a small
/// commit.
#[derive(Clone)]
pub(in crate::engine) struct CheckpointBell {
    signals: Sender<Signal>,
    watch: Arc<Watch>,
}

/// What the checkpoint thread is told.
pub(super) enum Signal {
    Ring,
    Stop,
}

/// The checkpoint thread's end of a bell.
pub(in crate::engine) struct Rings {
    signals: Receiver<Signal>,
    watch: Arc<Watch>,
}

struct Watch {
    row_group_rows: u64,
    logged: Mutex<Logged>,
    /// How many row groups in the database file a checkpoint is due after.
    row_groups_due: AtomicU64,
    /// Whether any commit is to ring.
    is_awaited: AtomicBool,
}

/// What puts have written since the last checkpoint, and ingests outside of clients' transactions. Of what statements commit nobody tells:
/// the thread sees by itself how long the log is.
#[derive(Default)]
pub(super) struct Logged {
    /// Rows that are in the log.
    rows: u64,
    /// The tables of these rows.
    tables: HashSet<TableKey>,
    /// Row groups that are in the database file.
    row_groups: u64,
}

impl CheckpointBell {
    /// A bell that nobody hears yet, for a database with row groups of `row_group_rows` rows.
    pub(in crate::engine) fn new(row_group_rows: u64) -> (Self, Rings) {
        // A bell that has rung already is as good as one that rings again.
        let (sender, receiver) = bounded(1);
        let watch = Arc::new(Watch {
            row_group_rows,
            logged: Mutex::default(),
            row_groups_due: AtomicU64::new(ROW_GROUPS),
            is_awaited: AtomicBool::new(false),
        });
        let bell = Self {
            signals: sender,
            watch: watch.clone(),
        };
        let rings = Rings {
            signals: receiver,
            watch,
        };
        (bell, rings)
    }

    /// Tells of a commit of rows to tables, after which the log has this size where it is known; 0 where there is none.
    pub(in crate::engine) fn ring<'t>(
        &self,
        log_bytes: Option<u64>,
        commit: impl Iterator<Item = (&'t TableKey, u64)>,
    ) {
        if log_bytes == Some(0) {
            return;
        }
        self.watch.note(commit);
        let is_awaited = || self.watch.is_awaited.load(Ordering::Relaxed);
        if log_bytes.is_none_or(|bytes| self.watch.is_due(bytes)) || is_awaited() {
            self.ring_at_once();
        }
    }

    /// Tells of something to do.
    pub(in crate::engine) fn ring_at_once(&self) {
        self.signals.try_send(Signal::Ring).ok();
    }

    /// Ends the thread. Blocks while a ring is not heard yet.
    pub(super) fn stop(&self) {
        self.signals.send(Signal::Stop).ok();
    }
}

impl Rings {
    /// Waits until a checkpoint may be due.
    pub(super) fn wait(&self, at_most: Duration) -> Result<Signal, RecvTimeoutError> {
        self.signals.recv_timeout(at_most)
    }

    /// Waits for any commit.
    pub(super) fn wait_for_commit(&self, at_most: Duration) -> Result<Signal, RecvTimeoutError> {
        self.watch.is_awaited.store(true, Ordering::Relaxed);
        let signal = self.wait(at_most);
        self.watch.is_awaited.store(false, Ordering::Relaxed);
        signal
    }

    /// Whether the log is to be checkpointed at this size.
    pub(super) fn is_due(&self, log_bytes: u64) -> bool {
        self.watch.is_due(log_bytes)
    }

    /// Takes note of how long a checkpoint took.
    pub(super) fn note_checkpoint(&self, took: Duration) {
        let row_groups = u64::try_from(took.as_millis())
            .map_or(u64::MAX, |ms| ms.saturating_mul(ROW_GROUPS_PER_MS));
        let row_groups = row_groups.max(ROW_GROUPS);
        self.watch
            .row_groups_due
            .store(row_groups, Ordering::Relaxed);
    }

    /// Counts from here on, for a checkpoint begins; answers with what was counted before.
    pub(super) fn start_anew(&self) -> Logged {
        std::mem::take(&mut *self.watch.logged.lock())
    }

    /// Counts as before: the checkpoint has failed.
    pub(super) fn put_back(&self, before: Logged) {
        let mut logged = self.watch.logged.lock();
        logged.rows += before.rows;
        logged.row_groups += before.row_groups;
        logged.tables.extend(before.tables);
    }
}

impl Watch {
    /// Notes the rows of a commit. Those that fill row groups of their table are written to the database file itself, and
    /// those of other databases to their own logs.
    fn note<'t>(&self, commit: impl Iterator<Item = (&'t TableKey, u64)>) {
        let mut by_table: Vec<(&TableKey, u64)> = Vec::new();
        for (table, rows) in commit.filter(|(table, _)| table.catalog.is_none()) {
            match by_table.iter_mut().find(|(known, _)| *known == table) {
                Some((_, sum)) => *sum += rows,
                None => by_table.push((table, rows)),
            }
        }
        let mut logged = self.logged.lock();
        for (table, rows) in by_table {
            if rows < self.row_group_rows {
                logged.rows += rows;
                if !logged.tables.contains(table) {
                    logged.tables.insert(table.clone());
                }
            } else {
                logged.row_groups += rows / self.row_group_rows;
            }
        }
    }

    fn is_due(&self, log_bytes: u64) -> bool {
        let logged = self.logged.lock();
        let many = MANY_ROW_GROUPS * self.row_group_rows * logged.tables.len() as u64;
        let least = if logged.rows >= many.max(1) {
            LOG_BYTES_OF_MANY_ROWS
        } else {
            LOG_BYTES
        };
        log_bytes >= least || logged.row_groups >= self.row_groups_due.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW_GROUP_ROWS: u64 = 2048;

    fn table(name: &str) -> TableKey {
        TableKey {
            catalog: None,
            schema: "main".to_owned(),
            table: name.to_owned(),
        }
    }

    /// Whether a checkpoint is due at the smaller size after `commits` commits of `rows` rows to each table.
    fn is_due_early(tables: &[&str], commits: u64, rows: u64) -> bool {
        let (bell, rings) = CheckpointBell::new(ROW_GROUP_ROWS);
        for _ in 0..commits {
            for name in tables {
                let key = table(name);
                bell.ring(Some(1), [(&key, rows)].into_iter());
            }
        }
        assert!(!rings.is_due(LOG_BYTES_OF_MANY_ROWS - 1));
        assert!(rings.is_due(LOG_BYTES));
        let is_due = rings.is_due(LOG_BYTES_OF_MANY_ROWS);
        let before = rings.start_anew();
        assert!(!rings.is_due(LOG_BYTES_OF_MANY_ROWS));
        rings.put_back(before);
        assert_eq!(rings.is_due(LOG_BYTES_OF_MANY_ROWS), is_due);
        is_due
    }

    #[test]
    fn a_log_of_many_row_groups_is_checkpointed_early() {
        assert!(is_due_early(&["t"], 16, 1024));
        assert!(!is_due_early(&["t"], 15, 1024));
        assert!(!is_due_early(&[], 0, 0));
    }

    #[test]
    fn each_table_needs_as_many() {
        assert!(!is_due_early(&["t", "u"], 15, 1024));
        assert!(is_due_early(&["t", "u"], 16, 1024));
    }

    #[test]
    fn rows_that_fill_row_groups_are_not_in_the_log() {
        assert!(!is_due_early(&["t"], 100, ROW_GROUP_ROWS));
    }

    #[test]
    fn many_row_groups_in_the_file_are_checkpointed_and_more_after_a_long_checkpoint() {
        let (bell, rings) = CheckpointBell::new(ROW_GROUP_ROWS);
        let key = table("t");
        let write = |row_groups| {
            bell.ring(Some(1), [(&key, row_groups * ROW_GROUP_ROWS)].into_iter());
        };
        write(ROW_GROUPS - 1);
        assert!(!rings.is_due(1));
        write(1);
        assert!(rings.is_due(1));
        let before = rings.start_anew();
        assert!(!rings.is_due(1));
        rings.put_back(before);
        assert!(rings.is_due(1));

        rings.note_checkpoint(Duration::from_millis(ROW_GROUPS));
        assert!(!rings.is_due(1));
        write(ROW_GROUPS * ROW_GROUPS_PER_MS - ROW_GROUPS);
        assert!(rings.is_due(1));
        rings.note_checkpoint(Duration::from_millis(1));
        rings.start_anew();
        write(ROW_GROUPS);
        assert!(rings.is_due(1));
    }

    #[test]
    fn rows_of_other_databases_are_in_other_logs() {
        let (bell, rings) = CheckpointBell::new(ROW_GROUP_ROWS);
        let key = TableKey {
            catalog: Some("other".to_owned()),
            ..table("t")
        };
        for _ in 0..100 {
            bell.ring(Some(1), [(&key, 1024)].into_iter());
        }
        assert!(!rings.is_due(LOG_BYTES_OF_MANY_ROWS));
    }

    #[test]
    fn a_commit_rings_where_a_checkpoint_is_due_or_it_is_awaited() {
        let (bell, rings) = CheckpointBell::new(ROW_GROUP_ROWS);
        let key = table("t");
        let commit = || [(&key, 1)].into_iter();
        bell.ring(Some(LOG_BYTES - 1), commit());
        assert!(rings.wait(Duration::ZERO).is_err());
        bell.ring(Some(LOG_BYTES), commit());
        assert!(matches!(rings.wait(Duration::ZERO), Ok(Signal::Ring)));
        bell.ring(None, commit());
        assert!(matches!(rings.wait(Duration::ZERO), Ok(Signal::Ring)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| rings.wait_for_commit(Duration::from_secs(60)));
            while !waits.is_finished() {
                bell.ring(Some(1), commit());
                std::thread::yield_now();
            }
            assert!(matches!(waits.join().unwrap(), Ok(Signal::Ring)));
        });
    }
}
