//! The messages of a put, read from the bytes of its request.
//!
//! Each is gathered in memory of its own, which is as large as the message and is freed with the last that is kept of it.
//! tonic's decoder reads a whole stream by one buffer: there a small row keeps whatever came beside it, and a stream that
//! waits for its client keeps its last message, however large.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow_flight::FlightData;
use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use prost::Message as _;
use tonic::body::Body;
use tonic::{Request, Status};

use super::decode::malformed;
use crate::drain::{Drain, Stage};
use crate::error::{Error, Result};
use crate::grpc::Header;
use crate::intake::{Intake, Standing};

/// The bytes of a request, for whoever reads them first: tonic, or a handler that takes them. Clones are of the same
/// request.
#[derive(Clone)]
pub(crate) struct RequestBytes(Arc<Mutex<Body>>);

impl RequestBytes {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// Takes what has not been read; nobody else finds any.
    fn take(&self) -> Body {
        std::mem::take(&mut *self.0.lock())
    }
}

impl http_body::Body for RequestBytes {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }
}

/// The messages of a put as they come, until the server is on its way down.
pub(super) struct Messages {
    body: Body,
    gathering: Gathering,
    intake: Intake,
    drain: Drain,
    end: Fuse<BoxFuture<'static, ()>>,
}

/// A message of a put.
pub(super) struct PutMessage {
    pub(super) data: FlightData,
    /// The memory that all of it shares, and that any part of it keeps.
    pub(super) bytes: usize,
}

impl Messages {
    /// The messages of a request, each of which has `max_bytes` at most.
    pub(super) fn of<T>(request: Request<T>, max_bytes: usize, drain: &Drain) -> Self {
        let extensions = request.extensions();
        let body = extensions.get().map(RequestBytes::take);
        Self {
            body: body.unwrap_or_default(),
            gathering: Gathering::new(max_bytes),
            intake: extensions.get().cloned().unwrap_or_default(),
            drain: drain.clone(),
            end: drain.reaches(Stage::Ending).boxed().fuse(),
        }
    }

    /// How many bytes a message has at most.
    pub(super) fn max_bytes(&self) -> usize {
        self.gathering.max_bytes
    }

    /// Tells what the put holds while its next message is read.
    pub(super) fn tell(&self, standing: Standing) {
        self.intake.tell(standing);
    }

    /// Fails from this stage of the server's way down on.
    pub(super) fn end_at(&mut self, stage: Stage) {
        self.end = self.drain.reaches(stage).boxed().fuse();
    }

    /// The next message, or `None` once the client has ended the stream.
    pub(super) async fn next(&mut self) -> Result<Option<PutMessage>> {
        let Self {
            body,
            gathering,
            end,
            ..
        } = self;
        let message = tokio::select! {
            biased;
            () = end => return Err(Error::ShuttingDown),
            message = poll_fn(|context| gathering.poll_message(body, context)) => message?,
        };
        message.map(PutMessage::decode).transpose()
    }
}

impl PutMessage {
    fn decode(message: Bytes) -> Result<Self> {
        let bytes = message.len();
        let data = FlightData::decode(message)
            .map_err(|error| malformed(format!("a message of the put is malformed: {error}")))?;
        Ok(Self { data, bytes })
    }
}

/// Gathers one message after the other.
struct Gathering {
    /// What has come and is in no message yet.
    bytes: Bytes,
    /// What is there of the next message's header.
    header: Header,
    /// The message that has begun, and how long it is to be.
    message: Option<(Vec<u8>, usize)>,
    max_bytes: usize,
}

impl Gathering {
    fn new(max_bytes: usize) -> Self {
        Self {
            bytes: Bytes::new(),
            header: Header::default(),
            message: None,
            max_bytes,
        }
    }

    fn poll_message(
        &mut self,
        body: &mut Body,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>>> {
        loop {
            if let Some(message) = self.gather()? {
                return Poll::Ready(Ok(Some(message)));
            }
            // They are all in the message, and their memory is the connection's.
            self.bytes = Bytes::new();
            match ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => self.bytes = frame.into_data().unwrap_or_default(),
                Some(Err(status)) => {
                    let message = status.message().to_owned();
                    return Poll::Ready(Err(Error::Transport(status.code(), message)));
                }
                None if self.header.is_empty() && self.message.is_none() => {
                    return Poll::Ready(Ok(None));
                }
                None => {
                    return Poll::Ready(Err(malformed("the put ends in the middle of a message")));
                }
            }
        }
    }

    /// The next message, if all of it is there. If it is not, it has all the bytes that are.
    fn gather(&mut self) -> Result<Option<Bytes>> {
        let (mut message, length) = match self.message.take() {
            Some(begun) => begun,
            None => match self.length()? {
                Some(length) => (Vec::with_capacity(length), length),
                None => return Ok(None),
            },
        };
        let step = (length - message.len()).min(self.bytes.len());
        message.extend_from_slice(&self.bytes[..step]);
        self.bytes.advance(step);
        if message.len() < length {
            self.message = Some((message, length));
            return Ok(None);
        }
        Ok(Some(message.into()))
    }

    /// The length of the next message, once its header is there.
    fn length(&mut self) -> Result<Option<usize>> {
        let Some((flag, length)) = self.header.fill(&mut self.bytes) else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(malformed(
                "a message of the put is compressed as a whole: only the buffers of a batch may be",
            ));
        }
        let limit = self.max_bytes;
        if length > limit {
            return Err(Error::MessageTooLarge(format!(
                "a message of the put has {length} bytes, the limit is {limit} bytes"
            )));
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::HEADER_BYTES;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    /// The messages in these bytes, which come in parts of a size.
    fn gather_in_parts(bytes: &[u8], size: usize) -> Vec<Bytes> {
        let mut gathering = Gathering::new(1000);
        let mut messages = Vec::new();
        for part in bytes.chunks(size) {
            gathering.bytes = Bytes::copy_from_slice(part);
            while let Some(message) = gathering.gather().unwrap() {
                messages.push(message);
            }
            assert!(gathering.bytes.is_empty());
        }
        messages
    }

    #[test]
    fn messages_are_whole_however_their_bytes_are_cut() {
        let messages = [0, 3, 200, 101, 1, 1000, 0, 0, 150].map(|length| vec![7; length]);
        let bytes = messages.each_ref().map(|message| framed(message)).concat();
        for size in (1..=100).chain([bytes.len()]) {
            assert_eq!(gather_in_parts(&bytes, size), messages, "parts of {size}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header_alone() {
        let mut gathering = Gathering::new(1000);
        gathering.bytes = Bytes::from(framed(&[7; 1001])[..HEADER_BYTES].to_vec());
        let refused = gathering.gather().unwrap_err().to_string();
        assert!(
            refused.contains("1001 bytes, the limit is 1000"),
            "{refused}"
        );
    }
}
