//! The budget: how many bytes of rows may wait for their commit, over all puts.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in these, so that it fits the semaphore's range. No unit counts less than one.
const GRAIN_BYTES: usize = 1024;

/// The bytes that units may hold in memory before they are committed, over all puts.
#[derive(Clone)]
pub(super) struct Budget {
    grains: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let total = grains(bytes);
        Self {
            grains: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Takes a part if it is free now.
    pub(super) fn take_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.grains
            .clone()
            .try_acquire_many_owned(grains(bytes))
            .ok()
    }

    /// Waits for a part, first come first served; `None` where it is more than there is.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if grains(bytes) > self.total {
            return None;
        }
        self.grains
            .clone()
            .acquire_many_owned(grains(bytes))
            .await
            .ok()
    }
}

fn grains(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(GRAIN_BYTES).max(1)).unwrap_or(u32::MAX >> 3)
}
