//! A client's connection, which the server can cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use duck_flight_protocol::Socket;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::drain::{Drain, Stage};
use crate::session::Peer;

/// What every client of HTTP/2 sends first has this many bytes. From then on pings tell whether it is there.
const GREETING_BYTES: usize = 24;

/// How long a client may take to send that.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// A connection until it is cut. What runs for its client then ends as if the client had gone.
pub(super) struct Connection {
    stream: Socket<TcpStream>,
    cut: Fuse<BoxFuture<'static, ()>>,
    greeting: Option<Greeting>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

/// What is still to come of a client's greeting, and the time it has for that.
struct Greeting {
    missing: usize,
    time: Pin<Box<Sleep>>,
}

impl Connection {
    /// A connection that has just been accepted. It is cut when the way down comes to that.
    pub(super) fn new(stream: TcpStream, drain: &Drain, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream: Socket::new(stream),
            cut: drain.reaches(Stage::Cut).boxed().fuse(),
            greeting: Some(Greeting {
                missing: GREETING_BYTES,
                time: Box::pin(tokio::time::sleep(GREETING_TIME)),
            }),
            peer: Peer::default(),
            _place: place,
        }
    }

    /// Fails once it is cut, and wakes whoever waits for the client then.
    ///
    /// Each way to wait asks: HTTP/2 reads nothing more while it says goodbye to a client that takes nothing, and writes
    /// nothing more while there is nothing to say.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.poll_unpin(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Counts bytes that came; fails when the greeting is not there in time.
    fn check_greeting(&mut self, context: &mut Context<'_>, came: usize) -> io::Result<()> {
        let Some(greeting) = &mut self.greeting else {
            return Ok(());
        };
        greeting.missing = greeting.missing.saturating_sub(came);
        if greeting.missing == 0 {
            self.greeting = None;
        } else if greeting.time.poll_unpin(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    /// Stands in the extensions of each request.
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.check_greeting(context, buffer.filled().len() - before)?;
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
