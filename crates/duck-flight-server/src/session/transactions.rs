//! Transactions that calls begin and end, and which one a client means that names none.
//!
//! A transaction is its client's until that ends it: one that expires is rolled back, but remembered, so that nothing
//! meant for it is committed by itself, and so that its client can roll it back and go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::peer::{KnownPeers, Peer};
use super::{Caller, Handle, Session, Sessions};
use crate::engine::{Held, Place, TransactionLease};
use crate::error::{Error, Result, in_a_line};

/// A transaction of a client's. Clones share it.
#[derive(Clone)]
pub(super) struct Transaction {
    /// The transaction begins with its first statement: drivers begin one long before they use it.
    lease: TransactionLease,
    owner: Owner,
}

/// Whose a transaction is. Clones share it.
#[derive(Clone)]
pub(super) struct Owner {
    session: Option<Session>,
    /// The connections of a client without a session: it was begun or named over them.
    peers: Arc<Mutex<KnownPeers>>,
    given_up: GivenUp,
}

/// Whether a transaction's client has ended it, and so counts on it no more.
#[derive(Clone, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

/// The transaction that a client means that names none.
pub(super) enum Meant {
    /// None: it has begun none.
    None,
    /// Its session's, or the only one that was begun or named over its connection.
    One(Handle, Transaction),
    /// One of several that were begun or named over its connection.
    OneOfSeveral,
}

/// What ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    RollBack,
    /// Nothing was run in it for too long.
    Expiry,
}

/// Which transactions make room for others at the limit: the first ones first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Spare {
    Abandoned,
    OfSameOwner,
    OfOther,
}

impl GivenUp {
    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Owner {
    fn new(caller: &Caller) -> Self {
        let owner = Self {
            session: caller.session().cloned(),
            peers: Arc::default(),
            given_up: GivenUp::default(),
        };
        owner.named_by(caller);
        owner
    }

    fn is(&self, peer: &Peer) -> bool {
        self.peers.lock().include(peer)
    }

    /// Whether its client may still come back to it. A session takes its transaction with it when it ends.
    fn is_there(&self) -> bool {
        self.session.is_some() || self.peers.lock().are_connected()
    }

    fn is_same(&self, other: &Self) -> bool {
        let id = |owner: &Self| owner.session.as_ref().map(Session::id);
        match (id(self), id(other)) {
            (None, None) => self.peers.lock().overlap(&other.peers.lock()),
            (one, other) => one == other,
        }
    }

    /// Records that this caller names the transaction: a client that has lost its connection goes on over another. The
    /// server may take the first one for open still, where it was cut without a word.
    fn named_by(&self, caller: &Caller) {
        if let (None, None, Some(peer)) = (&self.session, caller.session(), &caller.peer) {
            self.peers.lock().add(peer);
        }
    }

    /// From here on, statements of its session that name no transaction are not its own.
    fn leave_session(&self, handle: Handle) {
        if let Some(session) = &self.session {
            session.transaction.lock().take_if(|open| *open == handle);
        }
    }
}

impl Transaction {
    pub(super) fn given_up(&self) -> GivenUp {
        self.owner.given_up.clone()
    }

    /// Whether it neither holds anything nor is about to.
    fn is_unused(&self) -> bool {
        !self.lease.has_begun() && !self.lease.connection().is_busy()
    }

    /// An unused one is kept for as long as its client is there: drivers have one open all the time, and cannot go on
    /// without it.
    fn is_in_use(&self) -> bool {
        let is_kept = !self.lease.has_begun() && self.owner.is_there();
        is_kept || self.lease.connection().is_busy()
    }

    /// Whether it makes room for one of `owner`'s.
    fn spare_for(&self, owner: &Owner) -> Option<Spare> {
        self.is_unused().then(|| {
            if !self.owner.is_there() {
                Spare::Abandoned
            } else if self.owner.is_same(owner) {
                Spare::OfSameOwner
            } else {
                Spare::OfOther
            }
        })
    }
}

impl Sessions {
    /// Begins a transaction. In a session it is the session's, with its temporary tables and settings.
    pub(crate) fn begin(&self, caller: &Caller) -> Result<Handle> {
        let handle = Handle::new();
        let owner = Owner::new(caller);
        let Some(session) = caller.session() else {
            self.add(handle, TransactionLease::default(), owner)?;
            return Ok(handle);
        };
        let mut open = session.transaction.lock();
        if open.is_some_and(|id| self.0.transactions.get(id).is_some())
            || session.lease.is_in_transaction()
        {
            return Err(Error::TransactionOpen);
        }
        self.add(handle, TransactionLease::on(session.lease.clone()), owner)?;
        if let Some(expired) = open.replace(handle) {
            self.0.expired.remove(expired);
        }
        Ok(handle)
    }

    /// At the limit, one that was never used makes room.
    fn add(&self, handle: Handle, lease: TransactionLease, owner: Owner) -> Result<()> {
        let transaction = Transaction {
            lease,
            owner: owner.clone(),
        };
        let spare = |other: &Transaction| other.spare_for(&owner);
        let displaced = self.0.transactions.replace(handle, transaction, spare)?;
        if let Some((handle, displaced)) = displaced {
            displaced.lease.set_ended();
            self.remember(handle, displaced.owner);
        }
        Ok(())
    }

    /// Remembers a transaction that has expired.
    fn remember(&self, handle: Handle, owner: Owner) {
        // Whichever has waited the longest makes room.
        self.0.expired.replace(handle, owner, |_| Some(())).ok();
    }

    /// Ends a transaction. Once no statement runs in it any more it is over whatever comes of it: a commit that fails
    /// has rolled back.
    pub(crate) async fn end(&self, caller: &Caller, id: &[u8], commit: bool) -> Result<()> {
        let (handle, transaction) = match self.named(caller, id) {
            Err(Error::TransactionExpired) => return self.end_expired(id, commit),
            found => found?,
        };
        let held = self.0.engine.hold(&transaction.lease).await?;
        let end = if commit { End::Commit } else { End::RollBack };
        self.finish(handle, &transaction, held, end).await
    }

    /// Ends a transaction that was rolled back when it expired.
    fn end_expired(&self, id: &[u8], commit: bool) -> Result<()> {
        let (handle, owner) = self.0.expired.find(id)?;
        owner.given_up.set();
        if commit {
            return Err(Error::TransactionExpired);
        }
        owner.leave_session(handle);
        self.0.expired.remove(handle);
        Ok(())
    }

    async fn finish(
        &self,
        handle: Handle,
        transaction: &Transaction,
        held: Held,
        end: End,
    ) -> Result<()> {
        let engine = &self.0.engine;
        let Transaction { lease, owner } = transaction;
        let ending = engine.end(held, lease, end == End::Commit)?;
        if end == End::Expiry {
            self.remember(handle, owner.clone());
        } else {
            owner.leave_session(handle);
            owner.given_up.set();
        }
        self.0.transactions.remove(handle);
        let outcome = ending.await;
        if owner.session.is_none() {
            engine.close_lease(lease.connection()).await;
        }
        outcome
    }

    /// Ends the transactions that were begun or named over a connection.
    pub(super) async fn end_transactions_of(&self, peer: &Peer) {
        drop(self.0.expired.remove_if(|owner| owner.is(peer)));
        let is_theirs = |transaction: &Transaction| transaction.owner.is(peer);
        for (_, transaction) in self.0.transactions.remove_if(is_theirs) {
            self.cut(&transaction).await;
        }
    }

    /// Ends all transactions.
    pub(super) async fn end_transactions(&self) {
        let transactions = self.0.transactions.remove_if(|_| true);
        let ended = transactions
            .iter()
            .map(|(_, transaction)| self.cut(transaction));
        futures::future::join_all(ended).await;
    }

    /// Ends a session's transaction, whose connection is the session's.
    pub(super) fn end_transaction_of(&self, session: &Session) {
        let Some(handle) = session.transaction.lock().take() else {
            return;
        };
        self.0.expired.remove(handle);
        if let Some(transaction) = self.0.transactions.remove(handle) {
            transaction.lease.set_ended();
        }
    }

    async fn cut(&self, transaction: &Transaction) {
        transaction.lease.set_ended();
        let connection = transaction.lease.connection();
        self.0.engine.close_lease(connection).await;
    }

    /// Where the caller's statement runs: in the transaction it names, in its session's, or in none.
    pub(crate) async fn place(&self, caller: &Caller, transaction: Option<&[u8]>) -> Result<Place> {
        let transaction = match transaction.filter(|id| !id.is_empty()) {
            Some(id) => Some(self.named(caller, id)?),
            None => self.of_session(caller)?,
        };
        match transaction {
            Some((_, transaction)) => self.begun(&transaction).await,
            None => Ok(caller.place()),
        }
    }

    /// Where the rows of an ingest go in.
    ///
    /// ADBC's driver names no transaction with an ingest, though it has one open all the time unless told otherwise.
    pub(crate) async fn ingest_place(
        &self,
        caller: &Caller,
        transaction: Option<&[u8]>,
    ) -> Result<Place> {
        if transaction.is_some_and(|id| !id.is_empty()) {
            return self.place(caller, transaction).await;
        }
        match self.meant(caller)? {
            Meant::One(_, transaction) => self.begun(&transaction).await,
            Meant::None | Meant::OneOfSeveral => Ok(caller.place()),
        }
    }

    /// Where the catalog is read, whose commands name no transaction: as the caller's statements see it. A transaction
    /// that has not begun sees what all see, and does not begin for that.
    pub(crate) fn catalog_place(&self, caller: &Caller) -> Place {
        match self.meant(caller) {
            Ok(Meant::One(_, Transaction { lease, .. })) if lease.has_begun() => {
                Place::Transaction(lease)
            }
            _ => caller.place(),
        }
    }

    /// The place of a transaction, which begins with its first statement.
    async fn begun(&self, transaction: &Transaction) -> Result<Place> {
        self.0.engine.begin(&transaction.lease).await?;
        Ok(Place::Transaction(transaction.lease.clone()))
    }

    /// The transaction that the caller names by these bytes, and so says to be its own.
    ///
    /// # Errors
    /// When there is none, or it has expired. An expired one also counts as the caller's own.
    pub(super) fn named(&self, caller: &Caller, id: &[u8]) -> Result<(Handle, Transaction)> {
        let unknown = match self.0.transactions.find(id) {
            Ok((handle, transaction)) => {
                transaction.owner.named_by(caller);
                return Ok((handle, transaction));
            }
            Err(unknown) => unknown,
        };
        let (_, owner) = self.0.expired.find(id).map_err(|_| unknown)?;
        owner.named_by(caller);
        Err(Error::TransactionExpired)
    }

    /// The transaction of the caller's session.
    fn of_session(&self, caller: &Caller) -> Result<Option<(Handle, Transaction)>> {
        let open = caller.session().map(|session| *session.transaction.lock());
        let Some(handle) = open.flatten() else {
            return Ok(None);
        };
        match self.0.transactions.get(handle) {
            Some(transaction) => Ok(Some((handle, transaction))),
            None => Err(Error::TransactionExpired),
        }
    }

    /// The transaction that the caller means where it names none.
    ///
    /// # Errors
    /// When it has expired.
    pub(super) fn meant(&self, caller: &Caller) -> Result<Meant> {
        let peer = caller.peer.as_ref().filter(|_| caller.session().is_none());
        let Some(peer) = peer else {
            let of_session = self.of_session(caller)?;
            return Ok(of_session.map_or(Meant::None, |(id, found)| Meant::One(id, found)));
        };
        let is_theirs = |transaction: &Transaction| transaction.owner.is(peer);
        let mut found = self.0.transactions.matching(is_theirs);
        match (found.pop(), found.is_empty()) {
            (Some((handle, transaction)), true) => Ok(Meant::One(handle, transaction)),
            (Some(_), false) => Ok(Meant::OneOfSeveral),
            (None, _) if self.0.expired.matching(|owner| owner.is(peer)).is_empty() => {
                Ok(Meant::None)
            }
            (None, _) => Err(Error::TransactionExpired),
        }
    }

    /// Begins to end the transactions in which nothing was run for too long.
    pub(super) fn expire_transactions(&self, patience: Duration) {
        let transactions = &self.0.transactions;
        for (handle, transaction) in transactions.expired(patience, Transaction::is_in_use) {
            // A request may have come in between: held, there is none.
            let Some(held) = self.0.engine.try_hold(&transaction.lease) else {
                continue;
            };
            if !transactions.is_expired(handle, patience) {
                continue;
            }
            tracing::info!("a transaction is rolled back: nothing was run in it for too long");
            let sessions = self.clone();
            tokio::spawn(async move {
                let ended = sessions.finish(handle, &transaction, held, End::Expiry);
                if let Err(error) = ended.await {
                    tracing::debug!(error = %in_a_line(&error), "an expired transaction has not ended");
                }
            });
        }
        // What is remembered of them is so for as long as their clients are there, and then some time.
        self.0.expired.expire(Owner::is_there);
    }
}
