//! Room for large messages while they come in.
//!
//! A message is gathered in memory until all of it is there, and a client may send one on each of its streams. So what is
//! there of a large one waits for room, and keeps it until its request is read further: by then its rows are counted
//! in the memory for rows, or gone.
//!
//! Nobody may wait here who holds what those with room wait for. A put in the middle of a unit holds memory for rows: it
//! waits only while too many others of its kind read beyond the room. One that is written holds a transaction, of which
//! there are few: it never waits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::error::Error;
use crate::gauge::Gauge;
use crate::grains::grains;
use crate::intake::Standing;

/// A message of up to this many bytes is read without asking: all streams of a connection together have little of these.
const SMALL_BYTES: usize = 64 << 10;

/// A message of up to this many bytes is one of ordinary batches. There is room for `ORDINARY_MESSAGES` of this size.
const ORDINARY_BYTES: usize = 1 << 20;
const ORDINARY_MESSAGES: usize = 128;

/// There is room for this many messages of the largest size.
const LARGEST_MESSAGES: usize = 4;

/// This many messages more, of each kind, are read for puts in the middle of a unit, whatever their size.
const BEYOND: usize = 16;

/// How often a message that does not go on looks whether others wait for its room.
const LOOK: Duration = Duration::from_secs(1);

/// A patience so long that the clock could not count it is cut to this.
const LONGEST: Duration = Duration::from_secs(1 << 30);

/// The server's room for messages on their way. Clones share it.
#[derive(Clone)]
pub(super) struct Inflow {
    ordinary: Space,
    large: Space,
    max_message_bytes: usize,
    patience: Duration,
}

/// Room that messages share. Clones share it too.
#[derive(Clone)]
struct Space {
    grains: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
    waiting: Gauge,
}

impl Inflow {
    /// Room for messages of at most `max_message_bytes`. One that stands still for longer than `patience`, while others
    /// wait for its room, loses it.
    pub(super) fn new(max_message_bytes: usize, patience: Duration) -> Self {
        Self {
            ordinary: Space::new(ORDINARY_BYTES, ORDINARY_MESSAGES),
            large: Space::new(max_message_bytes, LARGEST_MESSAGES),
            max_message_bytes,
            patience: patience.min(LONGEST),
        }
    }

    /// The largest message that is read, in bytes.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    /// Whether a message of this size needs room. One that is larger than the limit needs none: it is refused.
    pub(super) fn concerns(&self, bytes: usize) -> bool {
        bytes > SMALL_BYTES && bytes <= self.max_message_bytes
    }

    /// Waits for the room of a message, as far as its request's standing allows.
    pub(super) async fn take(self, standing: Standing, bytes: usize) -> Room {
        if standing == Standing::Writing {
            return Room {
                _permit: None,
                stall: None,
            };
        }
        let is_ordinary = bytes <= ORDINARY_BYTES;
        let space = if is_ordinary {
            self.ordinary
        } else {
            self.large
        };
        let grains = grains(bytes);
        let permit = match space.grains.clone().try_acquire_many_owned(grains) {
            Ok(permit) => Some(permit),
            Err(_) => space.wait(standing, grains).await,
        };
        Room {
            _permit: permit,
            stall: Some(Stall {
                look: Box::pin(tokio::time::sleep(self.patience)),
                waiting: space.waiting,
                patience: self.patience,
            }),
        }
    }
}

impl Space {
    /// Room for `messages` messages of `bytes` bytes.
    fn new(bytes: usize, messages: usize) -> Self {
        Self {
            grains: Arc::new(Semaphore::new(grains(bytes) as usize * messages)),
            beyond: Arc::new(Semaphore::new(BEYOND)),
            waiting: Gauge::default(),
        }
    }

    async fn wait(&self, standing: Standing, grains: u32) -> Option<OwnedSemaphorePermit> {
        let _waiter = self.waiting.enter();
        let room = self.grains.clone().acquire_many_owned(grains);
        if standing == Standing::Idle {
            return room.await.ok();
        }
        tokio::select! {
            biased;
            permit = room => permit.ok(),
            permit = self.beyond.clone().acquire_owned() => permit.ok(),
        }
    }
}

/// The room of a message, until this is dropped.
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
    stall: Option<Stall>,
}

/// How long a message has stood still.
struct Stall {
    look: Pin<Box<Sleep>>,
    waiting: Gauge,
    patience: Duration,
}

impl Room {
    /// Says that the message goes on.
    pub(super) fn moved(&mut self) {
        if let Some(stall) = &mut self.stall {
            stall.look.as_mut().reset(Instant::now() + stall.patience);
        }
    }

    /// Ready once the message has stood still for too long while others wait for its room.
    pub(super) fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let Some(stall) = &mut self.stall else {
            return Poll::Pending;
        };
        loop {
            ready!(stall.look.as_mut().poll(context));
            if stall.waiting.count() > 0 {
                return Poll::Ready(Error::Stalled(stall.patience));
            }
            stall.look.as_mut().reset(Instant::now() + LOOK);
        }
    }
}
