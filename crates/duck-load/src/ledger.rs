//! What a writer sent, and what of it was acknowledged.

use crate::BatchSource;

/// What one writer sent: enough to make every batch again, and to tell which of them were acknowledged.
#[derive(Debug)]
pub(crate) struct Ledger {
    source: BatchSource,
    /// The batches 1 to this one were sent, by this process or an earlier one of the same producer.
    sent: u64,
    /// Those of them without an ack, in order: few, for a writer gives up when they become many.
    unacknowledged: Vec<u64>,
    end: End,
}

/// Why a writer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The plan wanted nothing more of it, and nothing that was lost is left to be sent again.
    Done,
    /// It gave up, or was asked to end.
    Early,
    /// The same, before it had learned what its producer has loaded already.
    Unlocated,
}

impl Ledger {
    pub(crate) fn new(
        source: BatchSource,
        sent: u64,
        mut unacknowledged: Vec<u64>,
        end: End,
    ) -> Self {
        unacknowledged.sort_unstable();
        unacknowledged.dedup();
        Self {
            source,
            sent,
            unacknowledged,
            end,
        }
    }

    /// Why the writer ended.
    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// Makes the batches again.
    pub(crate) fn source(&self) -> &BatchSource {
        &self.source
    }

    /// The sequence of the last batch sent; 0 when there is none.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether a batch that was sent was acknowledged.
    pub(crate) fn is_acknowledged(&self, sequence: u64) -> bool {
        self.unacknowledged.binary_search(&sequence).is_err()
    }

    /// How many batches were sent and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        u64::try_from(self.unacknowledged.len()).unwrap_or(u64::MAX)
    }
}
