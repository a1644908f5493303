//! The channel between the thread that runs a statement and the task that sends its result.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::pump::Frame;
use crate::engine::connections::lease::Requests;
use crate::engine::connections::patience::{Patience, Stall, for_a_moment};
use crate::error::{Error, Result};

/// How many messages may wait for a slow client: with the one in hand and the one being written, this
/// and the size of a message bound what a result holds in memory.
const FRAMES_WAITING: usize = 2;

/// How many bytes of a result are read ahead when others wait for its connection or its thread, and how many of all.
const READ_AHEAD_BYTES: usize = 64 << 20;
const ALL_READ_AHEAD_BYTES: usize = 256 << 20;

type Item = (Result<Frame>, Option<Taken>);

/// What a message has taken until its client takes it: a place, or room to read ahead.
struct Taken {
    _of_all: OwnedSemaphorePermit,
    _of_its_result: Option<OwnedSemaphorePermit>,
}

/// The end of the thread that runs the statement.
pub(super) struct FrameSender {
    frames: mpsc::UnboundedSender<Item>,
    places: Arc<Semaphore>,
    /// The requests that wait for the connection, where it is a client's own.
    requests: Option<Arc<Requests>>,
    /// The memory for what is read ahead of this result.
    read_ahead: ReadAhead,
    all_read_ahead: ReadAhead,
    patience: Patience,
    /// Since the client has taken its last message.
    stall: Option<Stall>,
}

/// The memory for what is read ahead: of all results, unless it is said to be that of one. Clones share it.
#[derive(Clone)]
pub(in crate::engine) struct ReadAhead(Arc<Semaphore>);

impl Default for ReadAhead {
    fn default() -> Self {
        Self::new(ALL_READ_AHEAD_BYTES)
    }
}

impl ReadAhead {
    fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Room for this many bytes, taken until it is dropped; `None` where there is not as much.
    fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        self.0.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// The end of the task that sends the result.
pub(super) struct FrameReceiver {
    frames: mpsc::UnboundedReceiver<Item>,
    places: Arc<Semaphore>,
}

pub(super) fn channel(
    requests: Option<Arc<Requests>>,
    all_read_ahead: ReadAhead,
    patience: Patience,
) -> (FrameSender, FrameReceiver) {
    let places = Arc::new(Semaphore::new(FRAMES_WAITING));
    let (sender, receiver) = mpsc::unbounded_channel();
    let sender = FrameSender {
        frames: sender,
        places: places.clone(),
        requests,
        read_ahead: ReadAhead::new(READ_AHEAD_BYTES),
        all_read_ahead,
        patience,
        stall: None,
    };
    let receiver = FrameReceiver {
        frames: receiver,
        places,
    };
    (sender, receiver)
}

impl FrameSender {
    /// Sends a frame. Waits while the client is slow, unless others wait for the connection or the thread.
    pub(super) fn send(&mut self, frame: Frame) -> Result<()> {
        let place = self.place(frame.bytes())?;
        self.frames
            .send((Ok(frame), Some(place)))
            .map_err(|_| Error::Cancelled)
    }

    /// Says why there will be no more. Nobody may be listening.
    pub(super) fn fail(&self, error: Error) {
        self.frames.send((Err(error), None)).ok();
    }

    /// Waits for a place, or for room to read ahead.
    fn place(&mut self, bytes: usize) -> Result<Taken> {
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            self.stall = None;
            return Ok(Taken::place(place));
        }
        let place = places
            .acquire_owned()
            .map(|place| place.map_err(|_| Error::Cancelled));
        let mut place = pin!(place);
        let requests = self.requests.clone();
        let stall = self.stall.take().unwrap_or_else(|| self.patience.stall());
        loop {
            // What its client has dropped is in nobody's way, and nobody is refused for it.
            if self.places.is_closed() {
                return Err(Error::Cancelled);
            }
            let requested = requests.as_ref().filter(|requests| requests.any());
            if requested.is_some() || stall.is_in_the_way() {
                if let Some(room) = self.room(bytes) {
                    self.stall = Some(stall);
                    return Ok(room);
                }
                stall.check()?;
            }
            if let Some(requests) = requested {
                requests.refuse();
            }
            // One that is there is told again in a moment.
            let awaited = requests.as_deref().filter(|_| requested.is_none());
            let waiting = pin!(async {
                tokio::select! {
                    biased;
                    place = &mut place => Some(place),
                    () = arrival(awaited) => None,
                }
            });
            if let Some(Some(place)) = for_a_moment(waiting) {
                return place.map(Taken::place);
            }
        }
    }

    /// Room to read ahead, where there is any.
    fn room(&self, bytes: usize) -> Option<Taken> {
        let of_its_result = self.read_ahead.room(bytes)?;
        Some(Taken {
            _of_all: self.all_read_ahead.room(bytes)?,
            _of_its_result: Some(of_its_result),
        })
    }
}

impl Taken {
    fn place(place: OwnedSemaphorePermit) -> Self {
        Self {
            _of_all: place,
            _of_its_result: None,
        }
    }
}

/// Waits for a request, where some can come.
async fn arrival(requests: Option<&Requests>) {
    match requests {
        Some(requests) => requests.arrival().await,
        None => pending().await,
    }
}

impl FrameReceiver {
    /// What lets a sender that waits for a place go, with an error, once it is closed.
    pub(super) fn places(&self) -> Arc<Semaphore> {
        self.places.clone()
    }

    /// The next frame; `None` where the sender is gone.
    pub(super) async fn recv(&mut self) -> Option<Result<Frame>> {
        self.frames.recv().await.map(|(frame, _)| frame)
    }

    pub(super) fn poll_recv(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame>>> {
        let item = self.frames.poll_recv(context);
        item.map(|item| item.map(|(frame, _)| frame))
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        // A sender that waits for a place learns that nobody is listening.
        self.places.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::poll;

    use super::*;
    use crate::engine::connections::lease::{Lease, Place};
    use crate::engine::connections::patience::Others;
    use crate::engine::ingest::budget::Budget;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_refused_for_a_result_that_was_dropped() {
        let lease = Lease::default();
        let requests = Place::Own(lease.clone()).requests();
        let held = lease.hold().await;
        let mut next = pin!(lease.hold());
        assert!(poll!(&mut next).is_pending());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(poll!(&mut next).is_pending());
        let patience = Patience::new(Others::Units(Budget::new(1)), Duration::MAX);
        let (mut sender, receiver) = channel(requests, ReadAhead::default(), patience);
        for _ in 0..FRAMES_WAITING {
            sender.send(Frame::End).unwrap();
        }
        // One that finds room to read ahead refuses nobody in any case.
        sender.read_ahead.0.close();
        drop(receiver);
        assert!(matches!(sender.send(Frame::End), Err(Error::Cancelled)));
        assert!(poll!(&mut next).is_pending(), "refused");
        drop(held);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn what_a_client_has_taken_leaves_its_room_to_what_is_read_ahead_next() {
        let patience = Patience::new(Others::Units(Budget::new(1)), Duration::MAX);
        let (sender, mut receiver) = channel(None, ReadAhead::default(), patience);
        for _ in 0..5 {
            let room = sender.room(READ_AHEAD_BYTES);
            assert!(room.is_some());
            assert!(sender.room(1).is_none());
            sender.frames.send((Ok(Frame::End), room)).ok();
            assert!(receiver.recv().await.is_some());
        }
    }

    #[test]
    fn what_is_read_ahead_has_a_limit_of_all_together() {
        let all = ReadAhead::default();
        let taken: Vec<_> = (0..4).map(|_| all.room(READ_AHEAD_BYTES)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(all.room(1).is_none());
        drop(taken);
        assert!(all.room(1).is_some());
        assert!(all.room(usize::MAX).is_none());
    }
}
