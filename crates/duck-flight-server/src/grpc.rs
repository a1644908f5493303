//! What gRPC puts before each message: a flag, and the message's length.

use bytes::Buf;

/// The length of what comes before a message: one byte for the flag, four for the length.
pub(crate) const HEADER_BYTES: usize = 5;

/// The header of a message, gathered from its parts.
#[derive(Default)]
pub(crate) struct Header {
    bytes: [u8; HEADER_BYTES],
    /// How many of them are there.
    filled: usize,
}

impl Header {
    /// Takes what there is of it. Once all of it is there, answers with the flag and the length, and begins with the next one.
    pub(crate) fn fill(&mut self, source: &mut impl Buf) -> Option<(u8, usize)> {
        let step = (HEADER_BYTES - self.filled).min(source.remaining());
        source.copy_to_slice(&mut self.bytes[self.filled..][..step]);
        self.filled += step;
        if self.filled < HEADER_BYTES {
            return None;
        }
        self.filled = 0;
        let [flag, length @ ..] = self.bytes;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Some((flag, length))
    }

    /// Whether nothing of it is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }
}
