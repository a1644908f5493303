//! What a run is to do.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use duck_flight_protocol::{Commit, PutOptions, TableName};

/// What a run is to do: how many rows go where, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The table the rows go to. The server creates it when it is missing.
    pub table: TableName,
    /// Rows of each batch.
    pub rows: NonZeroU32,
    /// Batches each writer sends; without limit when absent.
    pub batches: Option<NonZeroU64>,
    /// How long new batches are sent; without limit when absent.
    pub duration: Option<Duration>,
    /// The time between the planned starts of a writer's batches. When absent, a writer sends as soon as the
    /// server's answers let it (a closed loop).
    pub interval: Option<Duration>,
    /// Writers, each with a stream of its own.
    pub writers: NonZeroUsize,
    /// Whether each batch is a put of its own, or a part of its writer's one long put.
    pub commit: Commit,
    /// Batches a writer may have sent without an ack, with [`Commit::Batch`]; fewer where they would take more than
    /// [`Plan::WINDOW_BYTES`]. With [`Commit::Stream`] it is one.
    pub in_flight: NonZeroUsize,
    /// Makes values and categories repeatable. Batch ids stay unique: see [`Plan::first_batch_id`]. When absent,
    /// a producer takes [`Plan::PRODUCER_SEED`].
    pub seed: Option<u64>,
    /// The id of the first batch; the others count up from it. When absent, the run draws a place of its own, and
    /// a producer has one by its name. Runs side by side must not be given ranges that overlap.
    pub first_batch_id: Option<u64>,
    /// Who sends, for exactly-once delivery: the producer itself when there is one writer; several are the
    /// producers `NAME-1`, `NAME-2` and so on. Each numbers its batches from 1, and sends a batch again whatever
    /// became of it, for the server applies it once.
    pub producer: Option<String>,
    /// With a producer: begin after the last batch that is durable, and go on after any failure that may pass.
    /// [`Plan::batches`] then counts from the producer's first batch, whichever process sent it.
    pub resume: bool,
    /// With [`Plan::resume`]: how long to go on without any progress. With [`Plan::verify`]: how long to wait for
    /// the table's answer, all attempts together.
    pub give_up_after: Duration,
    /// Prove afterwards from the table itself that every acknowledged batch is there once, and whole.
    pub verify: bool,
    /// How often a batch is sent again after failures that certainly committed nothing of it; of a producer, after
    /// any failure that may pass. With [`Plan::resume`] without limit, but for a batch that the server answers with an error of
    /// its own (`INTERNAL`) each time.
    pub retries: u32,
    /// How long a writer waits for an answer, from the one before, until it takes the answer for lost.
    pub ack_timeout: Duration,
}

/// What a row takes while its batch has no ack: it is kept as it was made and as the message that is sent, some 30 bytes each.
const WAITING_ROW_BYTES: usize = 60;

impl Plan {
    /// Batches of a writer when neither a number nor a duration is given: enough for a 99th percentile.
    pub const DEFAULT_BATCHES: u64 = 100;
    /// Rows of a batch unless told otherwise.
    pub const DEFAULT_ROWS: u32 = 1000;
    /// The most rows of a batch. With [`Commit::Batch`] a batch is one message, of some 30 bytes a row.
    pub const MAX_ROWS: u32 = 1_000_000;
    /// The memory that the batches of a writer take while they have no ack.
    pub const WINDOW_BYTES: usize = 256 << 20;
    /// The table rows go to unless told otherwise.
    pub const DEFAULT_TABLE: &str = "concurrent_test";
    /// The seed of a producer unless told otherwise: a restarted process must make the same rows.
    pub const PRODUCER_SEED: u64 = 0;
    /// How long to go on without any progress unless told otherwise.
    pub const DEFAULT_GIVE_UP_AFTER: Duration = Duration::from_secs(300);

    /// A plan of one writer that sends 100 batches of 1,000 rows in a closed loop, each a put of its own.
    ///
    /// # Panics
    /// Never: the defaults are not zero.
    pub fn new(table: impl Into<TableName>) -> Self {
        Self {
            table: table.into(),
            rows: NonZeroU32::new(Self::DEFAULT_ROWS).expect("not zero"),
            batches: NonZeroU64::new(Self::DEFAULT_BATCHES),
            duration: None,
            interval: None,
            writers: NonZeroUsize::MIN,
            commit: Commit::Stream,
            in_flight: NonZeroUsize::new(32).expect("not zero"),
            seed: None,
            first_batch_id: None,
            producer: None,
            resume: false,
            give_up_after: Self::DEFAULT_GIVE_UP_AFTER,
            verify: false,
            retries: 7,
            ack_timeout: Duration::from_secs(60),
        }
    }

    /// The most batches a writer may have sent without an ack.
    pub(crate) fn window(&self) -> usize {
        match self.commit {
            Commit::Stream => 1,
            Commit::Batch => {
                let rows = usize::try_from(self.rows.get()).unwrap_or(usize::MAX);
                let fitting = Self::WINDOW_BYTES / rows.saturating_mul(WAITING_ROW_BYTES);
                self.in_flight.get().min(fitting)
            }
        }
    }

    /// The options of the puts of one writer; a put of one batch still needs its sequence.
    pub(crate) fn put_options(&self, producer: Option<String>) -> PutOptions {
        let mut options = PutOptions::new(self.table.clone());
        options.commit = self.commit;
        options.producer = producer;
        options
    }

    /// The producer that one of several writers is; the first is writer 0.
    pub(crate) fn producer_of(&self, writer: u64, writers: u64) -> Option<String> {
        let name = self.producer.as_ref()?;
        match writers {
            0 | 1 => Some(name.clone()),
            _ => Some(format!("{name}-{}", writer + 1)),
        }
    }

    /// Rows of the whole run, where the plan limits them.
    pub(crate) fn total_rows(&self) -> Option<u64> {
        let writers = u64::try_from(self.writers.get()).unwrap_or(u64::MAX);
        let per_writer = self.batches?.get().saturating_mul(self.rows.get().into());
        Some(per_writer.saturating_mul(writers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_batches_have_a_smaller_window() {
        let window = |rows, in_flight| {
            let plan = Plan {
                rows: NonZeroU32::new(rows).unwrap(),
                in_flight: NonZeroUsize::new(in_flight).unwrap(),
                commit: Commit::Batch,
                ..Plan::new("t")
            };
            plan.window()
        };
        assert_eq!(window(1000, 4096), 4096);
        assert_eq!(window(Plan::MAX_ROWS, 32), 4);
        assert_eq!(window(Plan::MAX_ROWS, 1), 1);
    }
}
