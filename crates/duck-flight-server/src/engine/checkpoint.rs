//! The checkpoint thread: it keeps the write-ahead log short, so that no commit has to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ffi::{Connection, Database};
use super::pool::STACK_BYTES;
use super::room::log_path;
use super::writer::Shared;
use crate::error::{Error, Result};

/// The log is checkpointed from this size on. Commits that append to a table wait while it is written,
/// and a larger log makes that longer.
const CHECKPOINT_WAL_BYTES: u64 = 16 << 20;

/// Tells the checkpoint thread that something was committed.
#[derive(Clone)]
pub(super) struct CheckpointBell(Sender<Signal>);

enum Signal {
    Ring,
    Stop,
}

/// The other end of a bell, for the thread.
pub(super) struct Rings(Receiver<Signal>);

impl CheckpointBell {
    /// A bell that nobody hears yet.
    pub(super) fn new() -> (Self, Rings) {
        let (sender, receiver) = bounded(1);
        (Self(sender), Rings(receiver))
    }

    pub(super) fn ring(&self) {
        // A bell that has rung already is as good.
        self.0.try_send(Signal::Ring).ok();
    }
}

/// The checkpoint thread.
pub(super) struct Checkpointer {
    thread: JoinHandle<()>,
    bell: CheckpointBell,
}

impl Checkpointer {
    /// Starts the thread for the database at `path`; one in memory has no log.
    pub(super) fn start(
        database: &Database,
        path: &Path,
        shared: &Arc<Shared>,
        rings: Rings,
    ) -> Result<Self> {
        let work = Work {
            connection: database.connect()?,
            log: log_path(path),
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .stack_size(STACK_BYTES)
            .spawn(move || work.run(&rings))
            .map_err(|source| Error::Io {
                doing: "start the checkpoint thread",
                source,
            })?;
        Ok(Self {
            thread,
            bell: shared.bell.clone(),
        })
    }

    /// Ends the thread, after the checkpoint it is at. Blocks.
    pub(super) fn stop(self) {
        self.bell.0.send(Signal::Stop).ok();
        self.thread.join().ok();
    }
}

struct Work {
    connection: Connection,
    log: PathBuf,
    shared: Arc<Shared>,
}

impl Work {
    fn run(&self, rings: &Rings) {
        while let Ok(Signal::Ring) = rings.0.recv() {
            if let Err(error) = self.shared.producers.compact(&self.connection) {
                let error = self.shared.health.observe(error);
                tracing::debug!(%error, "compaction of producers put off");
            }
            let wal_bytes = self.log.metadata().map_or(0, |metadata| metadata.len());
            if wal_bytes >= CHECKPOINT_WAL_BYTES {
                self.checkpoint(wal_bytes);
            }
        }
    }

    fn checkpoint(&self, wal_bytes: u64) {
        let start = Instant::now();
        let outcome = self.connection.execute("CHECKPOINT").or_else(|_| {
            // A transaction that changes rows stands in the way; the writers' are open in their turn only.
            let turn = self.shared.queue.turn();
            turn.wait();
            self.connection.execute("CHECKPOINT")
        });
        match outcome {
            Ok(()) => {
                let elapsed_ms = start.elapsed().as_millis();
                tracing::debug!(wal_bytes, elapsed_ms, "checkpoint finished");
            }
            // A client's; the next commit rings again.
            Err(error) => {
                let error = self.shared.health.observe(error.into());
                tracing::debug!(wal_bytes, %error, "checkpoint put off");
            }
        }
    }
}
