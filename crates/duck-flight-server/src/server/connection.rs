//! A client's connection, which the server can cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use duck_flight_protocol::Socket;
use futures::future::{BoxFuture, Fuse};
use futures::{FutureExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpIncoming};

use crate::drain::{Drain, Stage};
use crate::session::Peer;

/// The connections that clients open. When the way down comes to that, those that are still open are cut.
pub(super) fn connections(
    listener: TcpListener,
    drain: &Drain,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let drain = drain.clone();
    // Without it every put larger than a segment waits for a delayed acknowledgement.
    let streams = TcpIncoming::from(listener).with_nodelay(Some(true));
    streams.map(move |stream| {
        Ok(Connection {
            stream: Socket::new(stream?),
            cut: drain.reaches(Stage::Cut).boxed().fuse(),
            peer: Peer::default(),
        })
    })
}

/// A connection until it is cut. What runs for its client then ends as if the client had gone.
pub(super) struct Connection {
    stream: Socket<TcpStream>,
    cut: Fuse<BoxFuture<'static, ()>>,
    peer: Peer,
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
        // HTTP/2 reads all the time, also where a client takes nothing of what is written.
        if self.cut.poll_unpin(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
