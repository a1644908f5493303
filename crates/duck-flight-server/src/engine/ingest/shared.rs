//! What all share who write: the writers, large units, clients' statements, and the checkpoint thread.

use std::sync::Arc;

use super::producers::Producers;
use super::queue::Queue;
use super::rejects::Rejects;
use crate::engine::Lossless;
use crate::engine::catalog::SeenTables;
use crate::engine::connections::commits::Commits;
use crate::engine::storage::bell::CheckpointBell;
use crate::engine::storage::health::Health;
use crate::engine::storage::mark::Mark;
use crate::engine::storage::room::HeldUp;
use crate::error::Error;

/// What writers, large units, queries and the checkpoint thread share.
pub(in crate::engine) struct Shared {
    pub(in crate::engine) queue: Arc<Queue>,
    pub(in crate::engine) producers: Producers,
    pub(in crate::engine) rejects: Rejects,
    pub(in crate::engine) seen: Arc<SeenTables>,
    pub(in crate::engine) health: Health,
    pub(in crate::engine) lossless: Arc<Lossless>,
    pub(in crate::engine) mark: Mark,
    pub(in crate::engine) bell: CheckpointBell,
    pub(in crate::engine) commits: Arc<Commits>,
    pub(in crate::engine) held_up: HeldUp,
}

impl Shared {
    /// Takes note of an error after which the database must be opened again: DuckDB's fatal ones, and a log that
    /// ends with half of an entry. DuckDB would go on behind it, and the next start could not read that. To be called where
    /// no commit of this thread's is under way, and before its turn, if it has one, is given away.
    pub(in crate::engine) fn observe(&self, error: Error) -> Error {
        if error.is_failed_commit() && self.mark.is_torn() {
            // Somebody may be writing it. Whoever is alone waits for commits, and lets nobody else commit before the failure is noted.
            let _alone = self.commits.alone();
            if self.mark.is_torn() {
                self.health.fail(&format!(
                    "the write-ahead log ends with half of what a failed commit wrote: {error}"
                ));
            }
        }
        self.health.observe(error)
    }
}
