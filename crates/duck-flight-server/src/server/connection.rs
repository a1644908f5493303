//! A client's connection, which the server can cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use duck_flight_protocol::Socket;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::FAREWELL;
use crate::drain::{Drain, Stage};
use crate::session::Peer;

/// What every client of HTTP/2 sends first has this many bytes. From then on pings tell whether it is there.
const GREETING_BYTES: usize = 24;

/// How long a client may take to send that.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// How much of what a client still sends is thrown away at a time.
const DISCARDED_BYTES: usize = 4096;

/// A connection until it is cut. What runs for its client then ends as if the client had gone.
pub(super) struct Connection {
    stream: Socket<TcpStream>,
    cut: Fuse<BoxFuture<'static, ()>>,
    greeting: Option<Greeting>,
    /// Once all is sent: until when the client has to take it, counted from what it sent last.
    farewell: Option<Pin<Box<Sleep>>>,
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
            farewell: None,
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

    /// Waits until the client has closed its end, too, for it does so when it has taken all; one that takes nothing is not waited for.
    ///
    /// Where a socket is closed while something still comes in, the system resets the connection, and then the client's next write
    /// fails: that of HTTP/2 which makes room for more. What it had not read by then is lost to it.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let over = || Instant::now() + FAREWELL;
        let farewell = self
            .farewell
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(over())));
        let mut discarded = [0; DISCARDED_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    farewell.as_mut().reset(over());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return farewell.as_mut().poll(context),
            }
        }
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
        if self.farewell.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        self.poll_farewell(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    /// A connection and its client.
    async fn connected() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        // Nobody leads a server down whose stages are gone.
        let (_stages, drain) = Drain::new();
        let connection = Connection::new(accepted.unwrap().0, &drain, place);
        (connection, client.unwrap())
    }

    #[tokio::test]
    async fn a_client_that_still_sends_gets_all_and_no_reset() {
        let (mut connection, mut client) = connected().await;
        let goodbye = tokio::spawn(async move {
            connection.write_all(b"the last answer").await?;
            connection.shutdown().await
        });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"the last answer");
        for _ in 0..100 {
            client.write_all(b"room for more").await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(!goodbye.is_finished());
        drop(client);
        goodbye.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_not_waited_for() {
        let (mut connection, client) = connected().await;
        connection.shutdown().await.unwrap();
        drop(client);
    }
}
