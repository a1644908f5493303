//! A connection's socket, written to in as few calls as can be: each one costs both ends a system call, and may wake the
//! other end for a part of what it waits for.
//!
//! h2 joins a small message's frames into one buffer and writes them at once, but only where the socket takes one
//! buffer at a time, and a data frame of more than 256 bytes is written apart from what follows otherwise. A socket
//! that takes one buffer at a time gets the head of each large frame by itself, though. So this one takes one, holds
//! back what is small until the next comes, and writes both at once.
//!
//! A client's call begins with a frame of headers, which h2 flushes before it asks for the message: that is three
//! writes for a call of a few bytes. A [patient](Socket::patient) socket lets whatever else can run do so before it
//! writes what is small, and by then the message is there.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tonic::transport::server::Connected;

/// The most that is held back: the frames of a small call, and far less than it pays to copy. A call's headers and the
/// beginning of a large frame fit in together, which h2 writes apart from the rest: it has 1,024 bytes
/// (`CHAIN_THRESHOLD_WITHOUT_VECTORED_IO`).
const HELD_BYTES: usize = 2048;

/// A stream of bytes, such as a TCP connection.
pub struct Socket<S> {
    stream: S,
    held: Vec<u8>,
    patience: Patience,
    /// Counted when it is dropped.
    _ending: Option<Ending>,
}

/// How many connections have ended, whoever ended them. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Endings(Arc<AtomicU64>);

impl Endings {
    /// How many they are so far. One that the other end has closed is among them before another one is made in its place.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

struct Ending(Endings);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// How long what is held may still wait at a flush.
enum Patience {
    None,
    /// Until whatever else can run has done so, or something is written.
    Ready,
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It has waited.
    Over,
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// A socket that holds nothing back beyond a flush.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            held: Vec::with_capacity(HELD_BYTES),
            patience: Patience::None,
            _ending: None,
        }
    }

    /// The same socket, whose end is counted.
    #[must_use]
    pub fn counted(self, endings: &Endings) -> Self {
        Self {
            _ending: Some(Ending(endings.clone())),
            ..self
        }
    }

    /// A socket whose flush of a few bytes waits until the thread on which it is called has nothing else to run, or looks
    /// for what has come in ([`yield_now`]). That thread is one of a tokio runtime: where a task blocks it while waiting
    /// for an answer, what is held is never written.
    pub fn patient(stream: S) -> Self {
        Self {
            patience: Patience::Ready,
            ..Self::new(stream)
        }
    }

    /// Waits once, where it is patient, for what else there may be to write.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.patience {
                Patience::None | Patience::Over => return Poll::Ready(()),
                Patience::Ready => self.patience = Patience::Waiting(Box::pin(yield_now())),
                Patience::Waiting(others) => {
                    ready!(others.as_mut().poll(context));
                    self.patience = Patience::Over;
                }
            }
        }
    }

    /// Takes the first bytes of what was held back off, for they have been written.
    fn advance(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        if self.held.is_empty() && !matches!(self.patience, Patience::None) {
            self.patience = Patience::Ready;
        }
    }

    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
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
        if let Patience::Waiting(_) = this.patience {
            this.patience = Patience::Over;
        }
        if this.held.len() + bytes.len() <= HELD_BYTES {
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !this.held.is_empty() {
            let both = [IoSlice::new(&this.held), IoSlice::new(bytes)];
            let stream = Pin::new(&mut this.stream);
            let written = ready!(stream.poll_write_vectored(context, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(this.held.len());
            this.advance(of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            ready!(self.poll_patience(context));
            ready!(self.poll_held(context))?;
        }
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
    use std::pin::pin;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const KINDS: [fn(DuplexStream) -> Socket<DuplexStream>; 2] = [Socket::new, Socket::patient];

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    /// Writes pieces through a pipe of so many bytes, flushing after every third, and reads them at the other end.
    async fn pass(
        kind: fn(DuplexStream) -> Socket<DuplexStream>,
        pieces: &[Vec<u8>],
        pipe_bytes: usize,
    ) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(pipe_bytes);
        let mut socket = kind(near);
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
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..30),
                    prop::collection::vec(any::<u8>(), 0..3 * HELD_BYTES / 2),
                ],
                0..40,
            ),
            pipe_bytes in prop_oneof![1_usize..64, 1..2 * HELD_BYTES],
        ) {
            for kind in KINDS {
                let read = runtime().block_on(pass(kind, &pieces, pipe_bytes));
                prop_assert_eq!(read, pieces.concat());
            }
        }
    }

    #[tokio::test]
    async fn a_flush_leaves_nothing_behind() {
        for kind in KINDS {
            let (near, mut far) = tokio::io::duplex(64);
            let mut socket = kind(near);
            socket.write_all(b"head").await.unwrap();
            socket.flush().await.unwrap();
            let mut read = [0; 4];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"head");
        }
    }

    #[test]
    fn a_patient_flush_ends_where_there_is_no_runtime() {
        let (near, _far) = tokio::io::duplex(64);
        let mut socket = Socket::patient(near);
        futures::executor::block_on(async {
            socket.write_all(b"head").await.unwrap();
            socket.flush().await.unwrap();
        });
    }

    /// Counts writes, and keeps what is written.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffers: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = buffers
                .iter()
                .flat_map(|buffer| &**buffer)
                .copied()
                .collect();
            self.poll_write(context, &bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_comes_while_a_flush_is_patient_is_written_with_it() {
        runtime().block_on(async {
            let mut socket = Socket::patient(Writes::default());
            socket.write_all(b"headers").await.unwrap();
            assert!(futures::poll!(pin!(socket.flush())).is_pending());
            socket.write_all(b", message").await.unwrap();
            socket.flush().await.unwrap();
            assert_eq!(socket.stream.0, [b"headers, message"]);
        });
    }

    #[test]
    fn the_beginning_of_a_large_frame_is_written_with_the_rest() {
        runtime().block_on(async {
            let mut socket = Socket::patient(Writes::default());
            for bytes in [200, 1024, 40_000] {
                socket.write_all(&vec![7; bytes]).await.unwrap();
            }
            assert_eq!(socket.stream.0, [vec![7; 41_224]]);
        });
    }
}
