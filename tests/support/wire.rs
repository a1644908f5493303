//! A connection that can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Stands between one client and a server, and can be cut: both sides then see a connection that is gone.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    carrying: JoinHandle<()>,
}

impl Wire {
    /// Lays a wire to the server at `address`, for one connection.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = address.to_owned();
        Self {
            address: listener.local_addr().expect("bound"),
            carrying: tokio::spawn(async move {
                let (mut near, _) = listener.accept().await.expect("a client");
                let mut far = TcpStream::connect(server).await.expect("a server");
                copy_bidirectional(&mut near, &mut far).await.ok();
            }),
        }
    }

    /// Where the client connects to: `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts it, without a word to either side.
    pub async fn cut(self) {
        self.carrying.abort();
        self.carrying.await.ok();
    }
}
