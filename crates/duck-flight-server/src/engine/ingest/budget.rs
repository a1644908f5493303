//! The budget: how many bytes of rows may wait for their commit, over all puts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grains::grains;

/// The bytes that units may hold in memory before they are committed, over all puts.
#[derive(Clone)]
pub(in crate::engine) struct Budget {
    grains: Arc<Semaphore>,
    total: u32,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for a part, and since when.
#[derive(Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// Somebody who waits, until this is dropped.
struct Waiter {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
}

impl Budget {
    pub(in crate::engine) fn new(bytes: usize) -> Self {
        let total = grains(bytes);
        Self {
            grains: Arc::new(Semaphore::new(total as usize)),
            total,
            waiting: Arc::default(),
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
        if let Some(permit) = self.take_now(bytes) {
            return Some(permit);
        }
        let _waiter = self.wait();
        self.grains
            .clone()
            .acquire_many_owned(grains(bytes))
            .await
            .ok()
    }

    /// Whether more than half of it is taken. The rest is for units that begin, and can be committed soon: those that grow move on, and
    /// those that would wait for a table take nothing.
    pub(super) fn is_scarce(&self) -> bool {
        self.grains.available_permits() < self.total as usize / 2
    }

    /// A part for one unit, nothing yet.
    pub(super) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            permit: None,
            cast_bytes: 0,
            reject_bytes: 0,
        }
    }

    fn wait(&self) -> Waiter {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, Instant::now());
        Waiter {
            waiting: self.waiting.clone(),
            number,
        }
    }

    /// How long the one who has waited longest for a part has done so.
    pub(in crate::engine) fn longest_wait(&self) -> Duration {
        let waiting = self.waiting.lock();
        let first = waiting.since.values().next();
        first.map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// What one unit has taken of the budget. Dropped, it is free again.
pub(super) struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
    /// How much of it is for what rows become when they are cast, and for those that were put aside.
    cast_bytes: usize,
    reject_bytes: usize,
}

impl Share {
    pub(super) fn is_empty(&self) -> bool {
        self.permit.is_none()
    }

    /// Takes more, for rows and for what they become when they are cast; false where there is not as much. A unit that holds
    /// nothing waits for others; one that holds some must not, and leaves half of the budget to those that begin.
    pub(super) async fn take(&mut self, bytes: usize, cast_bytes: usize) -> bool {
        let all = bytes.saturating_add(cast_bytes);
        let is_taken = if self.permit.is_some() {
            !self.budget.is_scarce() && self.take_now(all)
        } else {
            self.permit = self.budget.take(all).await;
            self.permit.is_some()
        };
        if is_taken {
            self.cast_bytes += cast_bytes;
        }
        is_taken
    }

    /// Takes what is lacking for this many bytes of rows that were cast; false where that is not free now.
    pub(super) fn cover_cast(&mut self, bytes: usize) -> bool {
        self.cover(bytes, |share| &mut share.cast_bytes)
    }

    /// Takes what is lacking for this many bytes of rows that were put aside; false where that is not free now.
    pub(super) fn cover_rejects(&mut self, bytes: usize) -> bool {
        self.cover(bytes, |share| &mut share.reject_bytes)
    }

    fn cover(&mut self, bytes: usize, covered: fn(&mut Self) -> &mut usize) -> bool {
        let more = bytes.saturating_sub(*covered(self));
        if more > 0 && !self.take_now(more) {
            return false;
        }
        *covered(self) += more;
        true
    }

    /// Is a part of another budget from here on, where there is as much free; otherwise it stays what it is.
    pub(super) fn moved_to(self, other: &Budget) -> Self {
        let grains = self.permit.as_ref().map_or(0, |held| held.num_permits());
        let taken =
            u32::try_from(grains).map(|grains| other.grains.clone().try_acquire_many_owned(grains));
        match taken {
            Ok(Ok(permit)) => Self {
                budget: other.clone(),
                permit: Some(permit),
                ..self
            },
            _ => self,
        }
    }

    fn take_now(&mut self, bytes: usize) -> bool {
        let Some(permit) = self.budget.take_now(bytes) else {
            return false;
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grains::GRAIN_BYTES;

    #[tokio::test]
    async fn a_unit_that_grows_leaves_half_of_the_budget_to_those_that_begin() {
        let budget = Budget::new(8 * GRAIN_BYTES);
        let mut growing = budget.share();
        assert!(growing.take(4 * GRAIN_BYTES, 0).await);
        assert!(growing.take(GRAIN_BYTES, 0).await);
        assert!(!growing.take(GRAIN_BYTES, 0).await);
        let mut beginning = budget.share();
        assert!(beginning.take(3 * GRAIN_BYTES, 0).await);
    }

    #[tokio::test]
    async fn a_part_is_one_of_another_budget_where_that_has_room() {
        let (one, other) = (Budget::new(4 * GRAIN_BYTES), Budget::new(4 * GRAIN_BYTES));
        let free = |budget: &Budget| budget.grains.available_permits();
        let mut parts = Vec::new();
        for (of_one, of_other) in [(4, 1), (1, 1)] {
            let mut share = one.share();
            assert!(share.take(3 * GRAIN_BYTES, 0).await);
            parts.push(share.moved_to(&other));
            assert_eq!((free(&one), free(&other)), (of_one, of_other));
        }
        drop(parts);
        assert_eq!((free(&one), free(&other)), (4, 4));
    }
}
