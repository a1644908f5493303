//! The checkpoint thread: it keeps the write-ahead log short, so that no commit has to.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ffi::{Connection, Database};
use super::pool::STACK_BYTES;
use crate::error::{Error, Result};

/// The log is checkpointed from this size on. Commits that append to a table wait while it is written,
/// and a larger log makes that longer.
const CHECKPOINT_WAL_BYTES: u64 = 64 << 20;

/// Tells the checkpoint thread that something was committed.
#[derive(Clone)]
pub(super) struct CheckpointBell(Sender<()>);

impl CheckpointBell {
    pub(super) fn ring(&self) {
        // A bell that has rung already is as good.
        self.0.try_send(()).ok();
    }
}

/// The checkpoint thread. It ends when the last bell is gone.
pub(super) struct Checkpointer(JoinHandle<()>);

impl Checkpointer {
    /// Starts the thread for the database at `path`; one in memory has no log, and its bell rings for nobody.
    pub(super) fn start(database: &Database, path: &Path) -> Result<(Self, CheckpointBell)> {
        let (sender, bell) = bounded(1);
        let connection = database.connect()?;
        let log = PathBuf::from(format!("{}.wal", path.display()));
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&connection, &log, &bell))
            .map_err(|source| Error::Io {
                doing: "start the checkpoint thread",
                source,
            })?;
        Ok((Self(thread), CheckpointBell(sender)))
    }

    pub(super) fn stop(self) {
        self.0.join().ok();
    }
}

fn run(connection: &Connection, log: &Path, bell: &Receiver<()>) {
    for () in bell {
        let wal_bytes = log.metadata().map_or(0, |metadata| metadata.len());
        if wal_bytes < CHECKPOINT_WAL_BYTES {
            continue;
        }
        let start = Instant::now();
        // An open transaction that has changed rows stands in the way; the next commit rings again.
        match connection.execute("CHECKPOINT") {
            Ok(()) => {
                let elapsed_ms = start.elapsed().as_millis();
                tracing::debug!(wal_bytes, elapsed_ms, "checkpoint finished");
            }
            Err(error) => tracing::debug!(wal_bytes, %error, "checkpoint put off"),
        }
    }
}
