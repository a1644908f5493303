//! The bytes of a request on their way to the decoder of its messages.
//!
//! tonic's decoder trusts its client in two things that are seen to here: that a message will come to its end, and that
//! a request did.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use tonic::Status;

use super::inflow::{Inflow, Room};
use crate::error::Error;
use crate::grpc::Header;
use crate::intake::Intake;

/// A request's body. It asks for room before it hands on a large message, and fails where it was cut short.
///
/// hyper reports a stream that its client reset with CANCEL as if it had ended, and tonic turns what is left
/// of the difference into a clean end too; a cancelled put would be committed. Below both, the body still
/// knows whether the client's END_STREAM has come.
pub(super) struct RequestBody {
    body: tonic::body::Body,
    inflow: Inflow,
    intake: Intake,
    framing: Framing,
    /// What came behind the end of a message, and begins a large one.
    rest: Option<Bytes>,
    /// The first bytes of a large message, and the wait for its room.
    asking: Option<(BoxFuture<'static, Room>, Bytes)>,
    /// The room of the message that is coming in.
    room: Option<Room>,
}

impl RequestBody {
    pub(super) fn new(body: tonic::body::Body, inflow: Inflow, intake: Intake) -> Self {
        Self {
            body,
            inflow,
            intake,
            framing: Framing::default(),
            rest: None,
            asking: None,
            room: None,
        }
    }

    /// The next bytes of the client.
    fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // tonic takes the code CANCELLED for a clean end, so the error has another one on its way up.
        let cut_short = || Status::aborted(Error::PutCutShort.to_string());
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) if !self.body.is_end_stream() => Poll::Ready(Some(Err(cut_short()))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(cut_short()))),
            Poll::Pending => match &mut self.room {
                Some(room) => room
                    .poll_stalled(context)
                    .map(|error| Some(Err(error.into()))),
                None => Poll::Pending,
            },
            other => other,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some((room, _)) = &mut this.asking {
                this.room = Some(ready!(room.poll_unpin(context)));
            }
            if let Some((_, bytes)) = this.asking.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.framing.is_between() {
                // Whoever had the last message asks for more.
                this.room = None;
            }
            let mut bytes = match this.rest.take() {
                Some(rest) => rest,
                None => match ready!(this.poll_bytes(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => bytes,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    end => return Poll::Ready(end),
                },
            };
            if let Some(room) = &mut this.room {
                room.moved();
            }
            let is_large = |length| this.inflow.concerns(length);
            match this.framing.follow(&bytes, is_large) {
                Some(Large { start: 0, length }) => {
                    let room = this.inflow.clone().take(this.intake.standing(), length);
                    this.asking = Some((room.boxed(), bytes));
                }
                Some(Large { start, .. }) => {
                    this.rest = Some(bytes.split_off(start));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                None => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.asking.is_none() && self.body.is_end_stream()
    }
}

/// Where messages begin and end among the bytes of a body.
#[derive(Default)]
struct Framing {
    header: Header,
    /// How many bytes of the message are still to come.
    missing: usize,
}

/// A large message that ends beyond the bytes it begins in.
#[derive(Debug, PartialEq, Eq)]
struct Large {
    /// Where it begins; 0 also where a part of its header came before.
    start: usize,
    length: usize,
}

impl Framing {
    /// Whether no message has begun that has not ended.
    fn is_between(&self) -> bool {
        self.missing == 0
    }

    /// Follows the next bytes, up to a large message that ends beyond them. From where one begins behind others on,
    /// they must be followed once more.
    fn follow(&mut self, bytes: &[u8], is_large: impl Fn(usize) -> bool) -> Option<Large> {
        let mut at = 0;
        while at < bytes.len() {
            if self.missing > 0 {
                let step = self.missing.min(bytes.len() - at);
                self.missing -= step;
                at += step;
                continue;
            }
            let start = at;
            let mut rest = &bytes[at..];
            let (_, length) = self.header.fill(&mut rest)?;
            let there = rest.len();
            at = bytes.len() - there;
            if length > there && is_large(length) {
                self.missing = if start == 0 { length - there } else { 0 };
                return Some(Large { start, length });
            }
            self.missing = length;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let header = [&[0][..], &length.to_be_bytes()].concat();
        let body = vec![7; usize::try_from(length).unwrap()];
        [header, body].concat()
    }

    /// Follows bytes in parts of a size, as [`RequestBody`] does; answers with the large messages that were found.
    fn follow_in_parts(bytes: &[u8], size: usize) -> Vec<usize> {
        let (mut framing, mut found) = (Framing::default(), Vec::new());
        for part in bytes.chunks(size) {
            let mut part = part;
            while let Some(large) = framing.follow(part, |length| length > 100) {
                if large.start == 0 {
                    found.push(large.length);
                    break;
                }
                part = &part[large.start..];
            }
        }
        assert!(framing.is_between(), "parts of {size}");
        found
    }

    #[test]
    fn large_messages_are_found_however_the_bytes_are_cut() {
        let lengths = [0, 3, 200, 101, 1, 100, 300, 0, 150];
        let bytes = lengths.map(message).concat();
        for size in 1..=100 {
            assert_eq!(
                follow_in_parts(&bytes, size),
                [200, 101, 300, 150],
                "parts of {size}"
            );
        }
        assert_eq!(follow_in_parts(&bytes, bytes.len()), [0; 0], "all at once");
    }
}
