//! Who is at the other end of a network connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// How many connections of one client are remembered.
const MAX_KNOWN: usize = 8;

/// The other end of a network connection. Each connection has one of its own, for addresses are used again. Clones share
/// it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer(Arc<State>);

#[derive(Debug, Default)]
struct State {
    was_offered_cookie: AtomicBool,
}

impl Peer {
    /// Records that the client was offered a cookie.
    pub(super) fn offer_cookie(&self) {
        self.0.was_offered_cookie.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_offered_cookie(&self) -> bool {
        self.0.was_offered_cookie.load(Ordering::Relaxed)
    }

    /// What it is known by once its connection may be closed.
    pub(super) fn known(&self) -> KnownPeer {
        KnownPeer(Arc::downgrade(&self.0))
    }
}

/// A peer whose connection may be closed by now; nobody, by default.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownPeer(Weak<State>);

impl KnownPeer {
    pub(super) fn is(&self, peer: &Peer) -> bool {
        // As long as either is there, no other peer is at its address.
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&peer.0))
    }

    /// What tells it apart from others that are known.
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Whether its connection is open, as far as the server knows.
    pub(super) fn is_connected(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The peers that one client is known by; nobody, by default. A client that has lost its connection comes back over another,
/// and the server may take the first one for open for a while.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownPeers(Vec<KnownPeer>);

impl KnownPeers {
    pub(super) fn include(&self, peer: &Peer) -> bool {
        self.0.iter().any(|known| known.is(peer))
    }

    /// Whether one peer is among both.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        let is_theirs = |known: &KnownPeer| other.0.iter().any(|other| other.0.ptr_eq(&known.0));
        self.0.iter().any(is_theirs)
    }

    /// Whether the connection of any of them is open, as far as the server knows.
    pub(super) fn are_connected(&self) -> bool {
        self.0.iter().any(KnownPeer::is_connected)
    }

    /// Adds a peer. Those whose connections are closed make room for it, and at the limit the first one does.
    pub(super) fn add(&mut self, peer: &Peer) {
        if self.include(peer) {
            return;
        }
        self.0.retain(KnownPeer::is_connected);
        if self.0.len() >= MAX_KNOWN {
            self.0.remove(0);
        }
        self.0.push(peer.known());
    }
}
