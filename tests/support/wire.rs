//! A connection that can be cut, or stand still.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Stands between one client and a server, and can be cut: both sides then see a connection that is gone.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    carrying: JoinHandle<()>,
    frozen: Arc<Notify>,
}

impl Wire {
    /// Lays a wire to the server at `address`, for one connection.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn to(address: &str) -> Self {
        Self::from("127.0.0.1:0".parse().expect("an address"), address).await
    }

    /// As [`Wire::to`]; the server sees its client at the address `from`, also once another wire was cut that had it.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn from(from: SocketAddr, address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = address.parse().expect("an address");
        let frozen = Arc::new(Notify::new());
        Self {
            frozen: frozen.clone(),
            address: listener.local_addr().expect("bound"),
            carrying: tokio::spawn(async move {
                let (mut near, _) = listener.accept().await.expect("a client");
                let far = TcpSocket::new_v4().expect("a socket");
                far.set_reuseaddr(true).expect("an option");
                // Closed, it leaves nothing that keeps its address.
                far.set_zero_linger().expect("an option");
                // What stands still is soon full.
                far.set_recv_buffer_size(64 << 10).expect("an option");
                far.bind(from).expect("a free address");
                let mut far = far.connect(server).await.expect("a server");
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = frozen.notified() => pending().await,
                }
            }),
        }
    }

    /// Where the client connects to: `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Carries nothing more, either way, and stays open: to the server, a client that stands still.
    pub fn freeze(&self) {
        self.frozen.notify_one();
    }

    /// Cuts it, without a word to either side.
    pub async fn cut(self) {
        self.carrying.abort();
        self.carrying.await.ok();
    }
}
