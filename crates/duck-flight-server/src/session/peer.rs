//! Who is at the other end of a network connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The other end of a network connection. Each connection has one of its own, for addresses are used again. Clones are
/// the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer(Arc<State>);

#[derive(Debug, Default)]
struct State {
    was_offered_cookie: AtomicBool,
}

impl Peer {
    /// Takes note that it was offered a cookie.
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

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// What tells it apart from others that are known.
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Whether its connection is open.
    pub(super) fn is_connected(&self) -> bool {
        self.0.strong_count() > 0
    }
}
