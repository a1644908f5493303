//! What a put holds while its next message is read: told by whoever reads messages, heeded by whoever reads bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a request holds, while its next message is read, that others may be waiting for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    #[default]
    Idle,
    /// A part of the memory for rows.
    Holding,
    /// A transaction that is being written.
    Writing,
}

/// Where the standing of one request is told. Clones are of the same request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intake(Arc<AtomicU8>);

impl Intake {
    pub(crate) fn tell(&self, standing: Standing) {
        let number = match standing {
            Standing::Idle => 0,
            Standing::Holding => 1,
            Standing::Writing => 2,
        };
        self.0.store(number, Ordering::Release);
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.0.load(Ordering::Acquire) {
            0 => Standing::Idle,
            1 => Standing::Holding,
            _ => Standing::Writing,
        }
    }
}
