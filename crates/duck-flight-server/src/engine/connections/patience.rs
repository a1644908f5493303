//! What a client that keeps a place for statements busy without doing anything may cost the others.
//!
//! A result that is not read, and an ingest that does not go on, each keep one of the `--max-queries` places; a put that stands
//! still in the middle of a unit keeps memory for rows. While others find a place, and memory, that harms nobody. Once a
//! statement has waited for a place for a while, results that nobody reads are read ahead into memory, as far as there is room;
//! and what has stood still for longer than the patience, in the way of others, is ended.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::lease::Place;
use super::pool::Waits;
use crate::engine::ingest::budget::Budget;
use crate::error::{Error, Result};

/// How long a statement waits for a place before those who stand still count as in its way.
const CROWDED_AFTER: Duration = Duration::from_secs(1);

/// How often what stands still looks whether it is in the way.
const LOOK: Duration = Duration::from_millis(100);

/// How long others bear with what stands still. Clones share the queue of those others.
#[derive(Clone)]
pub(in crate::engine) struct Patience {
    others: Others,
    limit: Duration,
}

/// Who waits, and for what.
#[derive(Clone)]
pub(in crate::engine) enum Others {
    /// For a thread of a pool.
    Jobs(Waits),
    /// For a part of the memory for rows.
    Units(Budget),
}

impl Others {
    /// How long the one who has waited longest has done so.
    fn longest_wait(&self) -> Duration {
        match self {
            Self::Jobs(waits) => waits.longest(),
            Self::Units(budget) => budget.longest_wait(),
        }
    }
}

impl Patience {
    pub(in crate::engine) fn new(others: Others, limit: Duration) -> Self {
        Self { others, limit }
    }

    /// Something begins to stand still.
    pub(in crate::engine) fn stall(&self) -> Stall {
        Stall {
            patience: self.clone(),
            since: Instant::now(),
        }
    }

    /// Waits for the client of a put that keeps the connection of `place` busy. Gives it up when it is in the way for too
    /// long, and when its session is closed.
    pub(in crate::engine) async fn bear<T>(
        &self,
        place: &Place,
        next: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let stall = self.stall();
        let (mut next, mut end) = (pin!(next), pin!(place.end()));
        loop {
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = &mut end => return Err(Error::SessionEnded),
                () = tokio::time::sleep(LOOK) => stall.check()?,
            }
        }
    }
}

/// Something that stands still.
pub(in crate::engine) struct Stall {
    patience: Patience,
    since: Instant,
}

impl Stall {
    /// Whether a statement has waited for a while for the place that this one keeps.
    pub(in crate::engine) fn is_in_the_way(&self) -> bool {
        let Patience { others, .. } = &self.patience;
        self.since.elapsed() >= CROWDED_AFTER && others.longest_wait() >= CROWDED_AFTER
    }

    /// Fails once it has been in the way for too long.
    pub(in crate::engine) fn check(&self) -> Result<()> {
        let Patience { limit, .. } = &self.patience;
        match self.is_in_the_way() && self.since.elapsed() >= *limit {
            true => Err(Error::Stalled(*limit)),
            false => Ok(()),
        }
    }
}

/// Runs a future on this thread for a moment; `None` where it takes longer.
pub(in crate::engine) fn for_a_moment<T>(
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let start = Instant::now();
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = LOOK.checked_sub(start.elapsed())?;
        std::thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
