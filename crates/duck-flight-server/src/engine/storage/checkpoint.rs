//! The checkpoint thread: it keeps the write-ahead log short, so that no commit has to.
//!
//! DuckDB does more in a checkpoint when no transaction needs old data: it vacuums, which goes over the whole table
//! while commits wait (0.3 to 0.8 s with 50 million rows). So while rows come in, a checkpoint has a transaction of
//! our own beside it that needs old data.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::bell::{CheckpointBell, Rings, Signal};
use super::images::PATIENCE;
use super::room::log_path;
use crate::engine::ffi::{Connection, Database};
use crate::engine::ingest::shared::Shared;
use crate::engine::sql_error::SqlError;
use crate::engine::thread;
use crate::error::{Error, Result, in_a_line};

/// Without a ring the thread looks this often whether there is something to do: clients' statements do not ring.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a checkpoint is not tried again that was not possible: each try takes a turn, in which nobody else commits, or keeps rows
/// from being written, and what stands in the way may do so for long. Twice as long after each try, up to the other.
const PUT_OFF: Duration = Duration::from_millis(100);
const LONGEST_PUT_OFF: Duration = Duration::from_millis(1600);

/// A database that gets no commit for this long is left alone, and can be vacuumed.
const QUIET: Duration = Duration::from_millis(100);

/// A database that is never left alone is vacuumed this often all the same: otherwise the room of deleted rows is never used again.
const VACUUM_AT_LEAST_EVERY: Duration = Duration::from_secs(15 * 60);

/// Reads no rows, but makes DuckDB begin its transaction on the database file.
pub(in crate::engine) const LOOK_SQL: &str = "FROM duck_flight.sequences LIMIT 0";

/// The checkpoint thread.
pub(in crate::engine) struct Checkpointer {
    thread: JoinHandle<()>,
    bell: CheckpointBell,
}

impl Checkpointer {
    /// Starts the thread for the database at `path`; one in memory has no log.
    pub(in crate::engine) fn start(
        database: &Database,
        path: &Path,
        shared: &Arc<Shared>,
        rings: Rings,
    ) -> Result<Self> {
        let mut work = Work {
            connection: database.connect()?,
            old_data: database.connect()?,
            log: log_path(path),
            shared: shared.clone(),
            last_vacuum: Instant::now(),
            put_off: None,
        };
        let thread = thread::start("checkpoint", move || work.run(&rings))?;
        Ok(Self {
            thread,
            bell: shared.bell.clone(),
        })
    }

    /// Ends the thread, after the checkpoint it is at. Blocks.
    pub(in crate::engine) fn stop(self) {
        self.bell.stop();
        self.thread.join().ok();
    }
}

struct Work {
    connection: Connection,
    /// A connection whose transaction, while it is open, needs old data.
    old_data: Connection,
    log: PathBuf,
    shared: Arc<Shared>,
    last_vacuum: Instant,
    /// When a checkpoint was not possible last, and how long none is tried since.
    put_off: Option<(Instant, Duration)>,
}

impl Work {
    fn run(&mut self, rings: &Rings) {
        loop {
            let signal = rings.wait(LOOK_EVERY);
            if !matches!(signal, Ok(Signal::Ring) | Err(RecvTimeoutError::Timeout)) {
                return;
            }
            if let Err(error) = self.shared.producers.compact(&self.connection) {
                let error = self.shared.observe(error);
                tracing::debug!(error = %in_a_line(&error), "compaction of producers put off");
            }
            let wal_bytes = self.log.metadata().map_or(0, |metadata| metadata.len());
            let is_put_off = self
                .put_off
                .is_some_and(|(since, time)| since.elapsed() < time);
            if rings.is_due(wal_bytes) && !is_put_off {
                let next = self.wait_for_commit(rings);
                let logged = rings.start_anew();
                let before = self.put_off.take();
                if let Some(took) = self.checkpoint(wal_bytes) {
                    rings.note_checkpoint(took);
                } else {
                    rings.put_back(logged);
                    let time = before.map_or(PUT_OFF, |(_, time)| LONGEST_PUT_OFF.min(time * 2));
                    self.put_off = Some((Instant::now(), time));
                }
                if let Ok(Signal::Stop) = next {
                    return;
                }
            }
        }
    }

    /// Waits for another commit. Where one comes, begins a transaction that needs old data, unless a vacuum is due.
    fn wait_for_commit(&mut self, rings: &Rings) -> std::result::Result<Signal, RecvTimeoutError> {
        let signal = rings.wait_for_commit(QUIET);
        let is_due = self.last_vacuum.elapsed() >= VACUUM_AT_LEAST_EVERY;
        if is_due || !matches!(signal, Ok(Signal::Ring)) {
            self.last_vacuum = Instant::now();
        } else if let Err(error) = self.need_old_data() {
            tracing::debug!(error = %in_a_line(&error), "no transaction needs old data");
        }
        signal
    }

    /// Begins a transaction that needs old data: after it another one commits, though it has only read. A commit of
    /// rows may not come before the checkpoint begins.
    fn need_old_data(&self) -> std::result::Result<(), SqlError> {
        self.old_data.begin()?;
        self.old_data.execute(LOOK_SQL)?;
        self.connection.execute(LOOK_SQL)
    }

    /// Checkpoints; answers how long that took where it was possible. What it waits for does not count: more row groups would be waited
    /// for after it, though it had no more to do.
    fn checkpoint(&self, wal_bytes: u64) -> Option<Duration> {
        let outcome = self.connection.checkpoint(PATIENCE).or_else(|error| {
            if !matches!(error, Error::Sql(_)) {
                return Err(error);
            }
            tracing::debug!(error = %in_a_line(&error), "checkpoint in turn");
            // A transaction that changes rows stands in the way, or one whose changes are kept for ours: the writers'
            // are open in their turn only.
            self.old_data.roll_back();
            let turn = self.shared.queue.turn();
            turn.wait();
            self.connection.checkpoint(PATIENCE)
        });
        self.old_data.roll_back();
        self.shared.held_up.note(&outcome);
        match outcome {
            Ok(took) => {
                let elapsed_ms = took.as_millis();
                tracing::debug!(wal_bytes, elapsed_ms, "checkpoint finished");
                Some(took)
            }
            // The disk is in the way.
            Err(error @ Error::Io { .. }) => {
                tracing::warn!(wal_bytes, error = %in_a_line(&error), "checkpoint put off");
                None
            }
            // A client's transaction is in the way. The next commit rings the bell again.
            Err(error) => {
                let error = self.shared.observe(error);
                tracing::debug!(wal_bytes, error = %in_a_line(&error), "checkpoint put off");
                None
            }
        }
    }
}
