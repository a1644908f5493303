//! The channel between the thread that runs a statement and the task that sends its result.

use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::executor::block_on;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::lease::Requests;
use super::pump::Frame;
use crate::error::{Error, Result};

/// How many messages may wait for a slow client: with the one in hand and the one being written, this
/// and the size of a message bound what a result holds in memory.
const FRAMES_WAITING: usize = 2;

/// How many bytes of a result are read ahead when another request waits for its connection.
const READ_AHEAD_BYTES: usize = 64 << 20;

type Item = (Result<Frame>, Option<OwnedSemaphorePermit>);

/// The end of the thread that runs the statement.
pub(super) struct FrameSender {
    frames: mpsc::UnboundedSender<Item>,
    places: Arc<Semaphore>,
    /// The requests that wait for the connection, where it is a client's own.
    requests: Option<Arc<Requests>>,
    read_ahead_bytes: usize,
}

/// The end of the task that sends the result.
pub(super) struct FrameReceiver {
    frames: mpsc::UnboundedReceiver<Item>,
    places: Arc<Semaphore>,
}

pub(super) fn channel(requests: Option<Arc<Requests>>) -> (FrameSender, FrameReceiver) {
    let places = Arc::new(Semaphore::new(FRAMES_WAITING));
    let (sender, receiver) = mpsc::unbounded_channel();
    let sender = FrameSender {
        frames: sender,
        places: places.clone(),
        requests,
        read_ahead_bytes: 0,
    };
    let receiver = FrameReceiver {
        frames: receiver,
        places,
    };
    (sender, receiver)
}

impl FrameSender {
    /// Sends a frame. Waits while the client is slow, unless another request waits for the connection.
    pub(super) fn send(&mut self, frame: Frame) -> Result<()> {
        let place = self.place(frame.bytes())?;
        self.frames
            .send((Ok(frame), place))
            .map_err(|_| Error::Cancelled)
    }

    /// Says why there will be no more. Nobody may be listening.
    pub(super) fn fail(&self, error: Error) {
        self.frames.send((Err(error), None)).ok();
    }

    /// Waits for a place. `None` where the frame needs none, for it is read ahead.
    fn place(&mut self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>> {
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(Some(place));
        }
        let place = places
            .acquire_owned()
            .map(|place| place.map_err(|_| Error::Cancelled));
        let Some(requests) = self.requests.clone() else {
            return block_on(place).map(Some);
        };
        let mut place = pin!(place);
        loop {
            let found = block_on(async {
                tokio::select! {
                    biased;
                    place = &mut place => place.map(Some),
                    () = requests.arrival() => Ok(None),
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
            if self.read_ahead_bytes + bytes <= READ_AHEAD_BYTES {
                self.read_ahead_bytes += bytes;
                return Ok(None);
            }
            // It takes those that wait a moment to go.
            requests.refuse();
            std::thread::yield_now();
        }
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
