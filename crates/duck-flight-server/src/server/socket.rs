//! A connection's socket, written to in as few calls as can be.
//!
//! h2 joins a small answer's frames into one buffer and writes them at once, but only where the socket takes one
//! buffer at a time, and a data frame of more than 256 bytes is written apart from the trailers otherwise. Then the
//! client is woken twice. A socket that takes one buffer at a time gets the head of each large frame by itself,
//! though. So this one takes one, holds back what is small until the next comes, and writes both at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// The head of an HTTP/2 frame, the largest piece that is held back.
const HEAD_BYTES: usize = 9;

/// A stream of bytes, such as a TCP connection.
pub(super) struct Socket<S> {
    stream: S,
    head: [u8; HEAD_BYTES],
    held: usize,
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            head: [0; HEAD_BYTES],
            held: 0,
        }
    }

    /// Takes the first bytes of what was held back off, for they have been written.
    fn advance(&mut self, bytes: usize) {
        self.head.copy_within(bytes..self.held, 0);
        self.held -= bytes;
    }

    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held > 0 {
            let held = &self.head[..self.held];
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.held == 0 {
            if bytes.len() <= HEAD_BYTES {
                this.head[..bytes.len()].copy_from_slice(bytes);
                this.held = bytes.len();
                return Poll::Ready(Ok(bytes.len()));
            }
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        loop {
            let both = [IoSlice::new(&this.head[..this.held]), IoSlice::new(bytes)];
            let stream = Pin::new(&mut this.stream);
            let written = ready!(stream.poll_write_vectored(context, &both))?;
            if written > this.held {
                let of_bytes = written - this.held;
                this.held = 0;
                return Poll::Ready(Ok(of_bytes));
            }
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.advance(written);
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Connected> Connected for Socket<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Writes pieces through a pipe of so many bytes, flushing after every third, and reads them at the other end.
    async fn pass(pieces: &[Vec<u8>], pipe_bytes: usize) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(pipe_bytes);
        let mut socket = Socket::new(near);
        let write = async move {
            for (index, piece) in pieces.iter().enumerate() {
                socket.write_all(piece).await.unwrap();
                if index % 3 == 0 {
                    socket.flush().await.unwrap();
                }
            }
            socket.shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let (_, end) = tokio::join!(write, far.read_to_end(&mut read));
        end.unwrap();
        read
    }

    proptest! {
        #[test]
        fn what_is_written_arrives(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..40),
            pipe_bytes in 1_usize..64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(pass(&pieces, pipe_bytes));
            prop_assert_eq!(read, pieces.concat());
        }
    }

    #[tokio::test]
    async fn a_flush_leaves_nothing_behind() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut socket = Socket::new(near);
        socket.write_all(b"head").await.unwrap();
        socket.flush().await.unwrap();
        let mut read = [0; 4];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"head");
    }
}
