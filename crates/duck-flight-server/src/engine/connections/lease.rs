//! Connections that clients keep from one request to the next: a session's, or a transaction's.
//!
//! Most requests need none: any connection of the pool serves them, and nothing of theirs stays in it. A client
//! gets a connection of its own once a statement leaves something behind (a temporary table, a setting, an open
//! transaction). It then serves one request at a time; a result that is still being read when the next request
//! comes is read ahead into memory, up to a bound, so that the next one need not wait for the reader.
//!
//! Which connection a request runs on, its [`Place`] says.

mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use super::cancel::Cancel;
use super::pool::{ClientTransaction, Session};
use crate::error::{Error, Result};
use crate::gauge::{Counted, Gauge};

pub(crate) use place::Place;
pub(in crate::engine) use place::{Seat, Traces};

/// How long a request waits for the one before it on the same connection.
const BUSY_WAIT: Duration = Duration::from_secs(30);

/// How long a request waits at least before it is refused because a result is still being read: long enough for the server to
/// notice that the client has dropped that result, and to end it.
const MOMENT: Duration = Duration::from_millis(100);

/// A client's own connection, opened when it is first needed. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Lease(Arc<Inner>);

#[derive(Default)]
struct Inner {
    connection: Arc<Mutex<Option<Session>>>,
    is_open: AtomicBool,
    /// Whether the client's session has ended: nothing runs here any more.
    has_ended: AtomicBool,
    ended: Notify,
    /// What stops the request that has the connection.
    running: parking_lot::Mutex<Option<Arc<Cancel>>>,
    /// How many requests of the client's go on, on this connection or on another one.
    users: Gauge,
    requests: Arc<Requests>,
}

/// A request of a client's goes on.
pub(crate) struct InUse {
    _counted: Counted,
    _lease: Lease,
}

/// A request has the connection, and can be cancelled.
struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.running.lock() = None;
    }
}

/// The requests that wait for a connection.
#[derive(Default)]
pub(in crate::engine) struct Requests {
    waiting: Gauge,
    arrived: Notify,
    refused: Notify,
}

impl Requests {
    /// Whether one waits.
    pub(in crate::engine) fn any(&self) -> bool {
        self.waiting.count() > 0
    }

    /// Says that one waits, until it is dropped.
    fn wait(&self) -> Counted {
        let waiting = self.waiting.enter();
        self.arrived.notify_waiters();
        waiting
    }

    /// Tells those that have waited for a moment that it is in vain: the connection is free only once a slow client reads on.
    /// To be told again and again, for the others.
    pub(in crate::engine) fn refuse(&self) {
        self.refused.notify_waiters();
    }

    /// Waits until [`refuse`](Self::refuse) is called after this request has waited for a moment.
    async fn refusal(&self) {
        tokio::time::sleep(MOMENT).await;
        self.refused.notified().await;
    }

    /// Waits until one waits.
    pub(in crate::engine) async fn arrival(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.any() {
                return;
            }
            arrived.await;
        }
    }
}

/// A connection that one request has to itself.
pub(crate) struct Held {
    slot: OwnedMutexGuard<Option<Session>>,
    lease: Lease,
}

impl Lease {
    /// Whether there is a connection yet.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::SeqCst)
    }

    /// Whether a statement of the client's has left a transaction open, as far as that can be told: not while a request
    /// has the connection.
    pub(crate) fn is_in_transaction(&self) -> bool {
        let slot = self.0.connection.try_lock();
        slot.is_ok_and(|slot| is_in_transaction(slot.as_ref()))
    }

    /// Whether a request of the client's goes on at present.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.users.count() > 0 || self.0.connection.try_lock().is_err()
    }

    /// Says that a request of the client's goes on, until it is dropped.
    pub(crate) fn in_use(&self) -> InUse {
        InUse {
            _counted: self.0.users.enter(),
            _lease: self.clone(),
        }
    }

    /// From now on, closing the client's session cancels this request.
    fn running(&self, cancel: &Arc<Cancel>) -> Result<Running<'_>> {
        *self.0.running.lock() = Some(cancel.clone());
        let running = Running(&self.0);
        // Closed a moment ago, it may not have found the request.
        self.check()?;
        Ok(running)
    }

    /// Waits until the client's session has ended.
    async fn ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.check().is_err() {
                return;
            }
            ended.await;
        }
    }

    /// Waits for the connection.
    ///
    /// # Errors
    /// When it stays busy, or has ended meanwhile: another connection would not be in the state that the request
    /// counts on.
    pub(in crate::engine) async fn hold(&self) -> Result<Held> {
        let held = self.hold_whatever().await?;
        self.check()?;
        Ok(held)
    }

    fn check(&self) -> Result<()> {
        match self.0.has_ended.load(Ordering::SeqCst) {
            true => Err(Error::SessionEnded),
            false => Ok(()),
        }
    }

    /// Lets no request have the connection any more: the one that has it is cancelled.
    pub(in crate::engine) async fn end(&self) -> Result<Held> {
        self.0.has_ended.store(true, Ordering::SeqCst);
        self.0.ended.notify_waiters();
        let running = self.0.running.lock().clone();
        if let Some(running) = running {
            running.cancel();
        }
        self.hold_whatever().await
    }

    async fn hold_whatever(&self) -> Result<Held> {
        let requests = &self.0.requests;
        let _waiting = requests.wait();
        let slot = tokio::select! {
            biased;
            slot = self.0.connection.clone().lock_owned() => slot,
            () = requests.refusal() => return Err(Error::SessionBusy),
            () = tokio::time::sleep(BUSY_WAIT) => return Err(Error::SessionBusy),
        };
        Ok(self.held(slot))
    }

    fn held(&self, slot: OwnedMutexGuard<Option<Session>>) -> Held {
        Held {
            slot,
            lease: self.clone(),
        }
    }
}

/// A transaction that calls begin and end, on a client's own connection. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct TransactionLease {
    lease: Lease,
    stage: Arc<AtomicU8>,
}

/// How far a transaction is.
const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const ENDED: u8 = 2;

impl TransactionLease {
    /// One that has not begun yet.
    pub(crate) fn on(lease: Lease) -> Self {
        Self {
            lease,
            stage: Arc::default(),
        }
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Lease {
        &self.lease
    }

    /// Whether the database knows of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == BEGUN
    }

    /// Waits for the connection.
    ///
    /// # Errors
    /// When it stays busy, or the transaction has ended meanwhile: outside of it, its statements would be committed
    /// each for itself, or belong to the next one.
    pub(in crate::engine) async fn hold(&self) -> Result<Held> {
        let held = self.lease.hold_whatever().await?;
        self.check()?;
        Ok(held)
    }

    /// The connection, where no request has it.
    pub(in crate::engine) fn try_hold(&self) -> Option<Held> {
        let slot = self.lease.0.connection.clone().try_lock_owned().ok()?;
        self.check().ok()?;
        Some(self.lease.held(slot))
    }

    fn check(&self) -> Result<()> {
        match self.stage.load(Ordering::SeqCst) {
            ENDED => Err(Error::UnknownHandle {
                what: "transaction",
            }),
            _ => Ok(()),
        }
    }

    pub(in crate::engine) fn set_begun(&self) {
        let stage = &self.stage;
        // One that has ended stays so.
        stage
            .compare_exchange(WAITING, BEGUN, Ordering::SeqCst, Ordering::SeqCst)
            .ok();
    }

    /// Lets no statement run in it any more.
    pub(crate) fn set_ended(&self) {
        self.stage.store(ENDED, Ordering::SeqCst);
    }
}

fn is_in_transaction(session: Option<&Session>) -> bool {
    session.is_some_and(|session| session.transaction != ClientTransaction::None)
}

impl Held {
    /// Whether a transaction is open on the connection.
    pub(in crate::engine) fn is_in_transaction(&self) -> bool {
        is_in_transaction(self.slot.as_ref())
    }

    /// The connection, opened beside `other` where it is not yet.
    pub(in crate::engine) fn session(&mut self, other: &Session) -> Result<&mut Session> {
        if self.slot.is_none() {
            *self.slot = Some(other.another()?);
            self.lease.0.is_open.store(true, Ordering::SeqCst);
        }
        self.slot.as_mut().ok_or(Error::WorkerLost)
    }

    /// Closes the connection; what is open in it is rolled back.
    pub(in crate::engine) fn close(&mut self) {
        *self.slot = None;
        self.lease.0.is_open.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_refused_only_once_it_has_waited_for_a_moment() {
        let lease = Lease::default();
        let held = lease.hold().await;
        let mut next = pin!(lease.hold());
        assert!(poll!(&mut next).is_pending());
        lease.0.requests.refuse();
        assert!(poll!(&mut next).is_pending(), "at once");
        tokio::time::advance(2 * MOMENT).await;
        assert!(poll!(&mut next).is_pending(), "without a refusal");
        lease.0.requests.refuse();
        assert!(matches!(next.await, Err(Error::SessionBusy)));
        drop(held);
        assert!(lease.hold().await.is_ok());
    }
}
