//! Where a client's statements run: on any connection, or on the client's own.

use std::sync::Arc;

use super::{Held, InUse, Lease, Requests, TransactionLease};
use crate::engine::connections::cancel::Cancel;
use crate::engine::connections::pool::{ClientTransaction, Session};
use crate::error::Result;

/// Where a client's statements run.
#[derive(Clone)]
pub(crate) enum Place {
    /// On any connection, with nothing left behind.
    Any,
    /// On any connection too, until something is left behind; from then on on the client's own.
    Own(Lease),
    /// On the client's own, in a transaction that a call has begun, and a call ends.
    Transaction(TransactionLease),
}

/// What happens to what a statement leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Traces {
    /// It is gone: the connection is replaced after the request.
    Wiped,
    /// A statement that leaves something behind does not run: the client gets a connection of its own for it.
    Refused,
    /// It stays: the connection is the client's own.
    Kept,
    /// It stays, but no statement may end the open transaction.
    KeptInTransaction,
}

/// The connection that one request runs on.
pub(in crate::engine) enum Seat {
    /// The one of the thread that takes the request.
    Shared(Traces),
    /// The client's own.
    Own(Held, Traces),
}

impl Place {
    /// The connection that a request runs on, or tries to.
    pub(in crate::engine) async fn seat(&self) -> Result<Seat> {
        match self {
            Self::Any => Ok(Seat::Shared(Traces::Wiped)),
            Self::Own(lease) if !lease.is_open() => {
                lease.check()?;
                Ok(Seat::Shared(Traces::Refused))
            }
            Self::Own(_) | Self::Transaction(_) => self.own_seat().await,
        }
    }

    /// The client's own connection, for a request that was refused elsewhere.
    pub(in crate::engine) async fn own_seat(&self) -> Result<Seat> {
        match self {
            Self::Any => Ok(Seat::Shared(Traces::Wiped)),
            Self::Own(lease) => Ok(Seat::Own(lease.hold().await?, Traces::Kept)),
            Self::Transaction(transaction) => {
                let held = transaction.hold().await?;
                Ok(Seat::Own(held, Traces::KeptInTransaction))
            }
        }
    }

    /// Whether any connection serves, and none is the client's own.
    pub(in crate::engine) fn is_shared(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Own(lease) => !lease.is_open(),
            Self::Transaction(_) => false,
        }
    }

    /// The requests that wait for the client's own connection.
    pub(in crate::engine) fn requests(&self) -> Option<Arc<Requests>> {
        self.lease().map(|lease| lease.0.requests.clone())
    }

    /// Says that a request of the client's goes on, until it is dropped.
    pub(in crate::engine) fn in_use(&self) -> Option<InUse> {
        self.lease().map(Lease::in_use)
    }

    /// Waits until the client's session or transaction is closed.
    pub(in crate::engine::connections) async fn end(&self) {
        match self.lease() {
            Some(lease) => lease.ended().await,
            None => std::future::pending().await,
        }
    }

    fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Any => None,
            Self::Own(lease) => Some(lease),
            Self::Transaction(transaction) => Some(&transaction.lease),
        }
    }
}

impl Seat {
    /// Runs `work` on the connection; `thread` is the session of the thread that does it. Closing the client's session
    /// cancels it.
    pub(in crate::engine) fn run<T>(
        mut self,
        thread: &mut Session,
        cancel: &Arc<Cancel>,
        work: impl FnOnce(&mut Session, Traces) -> Result<T>,
    ) -> Result<T> {
        match &mut self {
            Self::Shared(traces) => {
                let outcome = work(thread, *traces);
                // Before the answer, for what its client runs next must not find it in the way.
                thread.end_transaction();
                outcome
            }
            Self::Own(held, traces) => {
                let lease = held.lease.clone();
                let _running = lease.running(cancel)?;
                let session = held.session(thread)?;
                if session.transaction != ClientTransaction::None {
                    cancel.spare_transaction();
                }
                session.attempt(|session| work(session, *traces))
            }
        }
    }
}
