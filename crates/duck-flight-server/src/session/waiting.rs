//! What waits to be fetched, and the memory that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::engine::{ResultStream, Rows, Sql};
use crate::error::{Error, Result};

/// How many bytes unread results and prepared statements with their values may take together.
const MAX_HELD_BYTES: usize = 256 << 20;

/// What waits to be fetched.
pub(crate) enum Waiting {
    /// Rows of a statement that has run.
    Rows { rows: Rows, _held: HeldBytes },
    /// A query, and the transaction it belongs to.
    Query {
        sql: Sql,
        transaction: Option<Vec<u8>>,
        _held: HeldBytes,
    },
    /// A result on its way, taken once.
    Stream {
        result: Mutex<Option<ResultStream>>,
        _held: HeldBytes,
    },
}

/// Memory that something takes which waits for its client.
pub(crate) struct HeldBytes {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl HeldBytes {
    pub(super) fn take(all: &Arc<AtomicUsize>, bytes: usize) -> Result<Self> {
        let held = Self {
            all: all.clone(),
            bytes,
        };
        if all.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_HELD_BYTES {
            return Err(Error::TooMuchHeld(MAX_HELD_BYTES));
        }
        Ok(held)
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
