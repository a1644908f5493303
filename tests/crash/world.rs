//! What the loaders know of the server, and what the one who kills it knows of the loaders.

use std::sync::Arc;

use tokio::sync::watch;

/// The server as the loaders see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Server {
    /// Grows with every start.
    life: u64,
    /// Where it listens; `None` from just before it is killed until it listens again.
    address: Option<String>,
    /// Nobody begins a transaction that takes long, for those are in the way of checkpoints.
    is_calm: bool,
    /// There is no life after this one.
    is_last: bool,
}

/// What has happened, all loaders together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Units acknowledged.
    pub(crate) acks: u64,
    /// Units that change a table's schema, about to be sent.
    pub(crate) evolutions: u64,
    /// Units too large for the buffer, about to be sent.
    pub(crate) large_units: u64,
    /// Checkpoints that a client asked for and got.
    pub(crate) checkpoints: u64,
}

/// The meeting point of the loaders and the one who kills the server.
#[derive(Debug, Clone)]
pub(crate) struct World {
    server: Arc<watch::Sender<Server>>,
    counts: Arc<watch::Sender<Counts>>,
}

/// One life of the server, from a start to a kill.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    number: u64,
    pub(crate) address: String,
    /// Whether nobody begins a transaction that takes long.
    pub(crate) is_calm: bool,
    world: World,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            server: Arc::new(watch::Sender::new(Server::default())),
            counts: Arc::new(watch::Sender::new(Counts::default())),
        }
    }

    /// Tells the loaders that a server listens, and whether its life is to be one with checkpoints.
    pub(crate) fn up(&self, address: &str, is_calm: bool) {
        self.server.send_modify(|server| {
            server.life += 1;
            server.address = Some(address.to_owned());
            server.is_calm = is_calm;
        });
    }

    /// Tells the loaders that the server is about to be killed: from now on its errors are to be expected.
    pub(crate) fn down(&self) {
        self.server.send_modify(|server| server.address = None);
    }

    /// Tells the loaders that nobody kills the server that listens: they do their share in its life, and end.
    pub(crate) fn end(&self) {
        self.server.send_modify(|server| server.is_last = true);
    }

    /// Waits for a server that is not of the life `after`; `None` at the end.
    pub(crate) async fn next_life(&self, after: u64) -> Option<Life> {
        let mut server = self.server.subscribe();
        let found = server.wait_for(|server| {
            server.is_last || (server.address.is_some() && server.life != after)
        });
        let found = found.await.ok()?.clone();
        match found.address {
            Some(address) if found.life != after => Some(Life {
                number: found.life,
                address,
                is_calm: found.is_calm,
                world: self.clone(),
            }),
            _ => None,
        }
    }

    /// Takes note of what has happened.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until enough has happened.
    pub(crate) async fn until(&self, enough: impl FnMut(&Counts) -> bool) {
        self.counts.subscribe().wait_for(enough).await.ok();
    }
}

impl Life {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the server of this life is, or is about to be, no more.
    pub(crate) fn is_gone(&self) -> bool {
        let server = self.world.server.borrow();
        server.life != self.number || server.address.is_none()
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }
}
