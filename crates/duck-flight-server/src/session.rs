//! Who is asking, and what the server keeps for them: sessions, transactions, prepared statements, results that
//! wait to be fetched. Each has a handle that cannot be guessed, and expires.
//!
//! A client is in a session once it shows a token from `Handshake` or a cookie; others have none, and nothing of
//! theirs outlives a call. A session costs next to nothing until a statement leaves something behind: only then
//! it gets a connection of its own (see [`Place::Own`]).

mod handles;
mod prepared;
mod running;
mod waiting;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;

pub(crate) use handles::{Handle, Handles};
pub(crate) use prepared::PreparedStatement;
use running::Running;
pub(crate) use running::RunningGuard;
pub(crate) use waiting::{HeldBytes, Waiting};

use crate::engine::{Engine, Held, InUse, Lease, Place, ResultStream, Rows, Sql, TransactionLease};
use crate::error::{Error, Result};

/// How many sessions, transactions, prepared statements and unfetched results there may be.
const MAX_SESSIONS: usize = 10_000;
const MAX_TRANSACTIONS: usize = 10_000;
const MAX_STATEMENTS: usize = 100_000;
const MAX_RESULTS: usize = 100_000;

/// How long a result waits to be fetched.
pub(crate) const RESULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a transaction lasts that was never used. It holds nothing up, and a driver that has one open all the time
/// cannot go on without it.
const UNUSED_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often what has expired is looked for, at the most and at the least.
const SWEEP_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// How many connections on which a cookie was offered are remembered.
const MAX_OFFERED: usize = 100_000;

/// When what clients leave behind expires.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// A session or prepared statement that nobody uses.
    pub session: Duration,
    /// A transaction in which nothing is run.
    pub transaction: Duration,
}

/// All that is kept for clients. Clones share it.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Inner>);

struct Inner {
    engine: Engine,
    expiry: Expiry,
    sessions: Handles<Session>,
    transactions: Handles<Transaction>,
    statements: Handles<Arc<PreparedStatement>>,
    results: Handles<Arc<Waiting>>,
    held_bytes: Arc<AtomicUsize>,
    running: Running,
    /// Connections on which a cookie was offered.
    offered: Mutex<HashSet<SocketAddr>>,
}

/// A client's session. Clones share it.
#[derive(Clone)]
pub(crate) struct Session {
    id: Handle,
    lease: Lease,
    transaction: Arc<Mutex<Option<Handle>>>,
}

/// A transaction of a client's. Clones share it.
#[derive(Clone)]
struct Transaction {
    /// It begins with its first statement: drivers begin one long before they use it.
    lease: TransactionLease,
    session: Option<Session>,
    /// Who began it, where they have no session.
    peer: Option<SocketAddr>,
}

/// Who sends a request.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    session: Option<Session>,
    /// The other end of the connection.
    peer: Option<SocketAddr>,
    /// Keeps the session alive.
    _in_use: Option<Arc<InUse>>,
}

/// What a client shows of its session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof {
    /// A token from `Handshake`, or the cookie of a session that the server keeps something for.
    Kept(Handle),
    /// A cookie that nothing was kept for when it was given.
    Fresh(Handle),
}

impl Session {
    fn new(id: Handle) -> Self {
        Self {
            id,
            lease: Lease::default(),
            transaction: Arc::default(),
        }
    }

    pub(crate) fn id(&self) -> Handle {
        self.id
    }

    /// Whether there is anything to lose.
    pub(crate) fn is_kept(&self) -> bool {
        self.lease.is_open()
    }
}

impl Caller {
    /// The same caller in this session, or in none.
    pub(crate) fn in_session(&self, session: Option<Session>) -> Self {
        let in_use = session.as_ref().map(|session| session.lease.in_use());
        Self {
            session,
            peer: self.peer,
            _in_use: in_use.map(Arc::new),
        }
    }

    /// The caller's session.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Where statements run that belong to no transaction.
    fn place(&self) -> Place {
        let session = self.session.as_ref();
        session.map_or(Place::Any, |session| Place::Own(session.lease.clone()))
    }
}

impl Sessions {
    pub(crate) fn new(engine: Engine, expiry: Expiry) -> Self {
        Self(Arc::new(Inner {
            engine,
            expiry,
            sessions: Handles::new("session", MAX_SESSIONS, expiry.session),
            transactions: Handles::new("transaction", MAX_TRANSACTIONS, expiry.session),
            statements: Handles::new("prepared statement", MAX_STATEMENTS, expiry.session),
            results: Handles::new("unfetched result", MAX_RESULTS, RESULT_TIMEOUT),
            held_bytes: Arc::default(),
            running: Running::default(),
            offered: Mutex::default(),
        }))
    }

    pub(crate) fn expiry(&self) -> Expiry {
        self.0.expiry
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The caller that shows this.
    ///
    /// # Errors
    /// When the session it shows has ended, and something may have been lost with it.
    pub(crate) fn caller(&self, proof: Option<Proof>, peer: Option<SocketAddr>) -> Result<Caller> {
        let sessions = &self.0.sessions;
        let session = match proof {
            None => None,
            Some(Proof::Kept(id)) => Some(sessions.get(id).ok_or(Error::SessionEnded)?),
            Some(Proof::Fresh(id)) => Some(match sessions.get(id) {
                Some(session) => session,
                None => self.open_as(id)?,
            }),
        };
        let caller = Caller {
            peer,
            ..Caller::default()
        };
        Ok(caller.in_session(session))
    }

    /// Takes note that the caller is offered a cookie.
    pub(crate) fn offer(&self, caller: &Caller) {
        let mut offered = self.0.offered.lock();
        if offered.len() >= MAX_OFFERED {
            offered.clear();
        }
        offered.extend(caller.peer);
    }

    /// Fails for a caller that was offered a cookie and shows none: it would not be in a session that was opened for it.
    pub(crate) fn check_cookies(&self, caller: &Caller) -> Result<()> {
        let was_offered = |peer: &SocketAddr| self.0.offered.lock().contains(peer);
        match caller.session().is_none() && caller.peer.as_ref().is_some_and(was_offered) {
            true => Err(Error::NoSession),
            false => Ok(()),
        }
    }

    /// Opens a session.
    pub(crate) fn open(&self) -> Result<Session> {
        self.open_as(Handle::new())
    }

    fn open_as(&self, id: Handle) -> Result<Session> {
        let session = Session::new(id);
        self.0.sessions.insert(id, session.clone())?;
        Ok(session)
    }

    /// Ends the caller's session: its transaction is rolled back, its temporary tables are gone. A caller without one
    /// leaves the transactions that were begun on its connection.
    pub(crate) async fn close(&self, caller: &Caller) {
        if let Some(session) = caller.session() {
            self.0.sessions.remove(session.id);
            return self.end_session(session).await;
        }
        let Some(peer) = caller.peer else { return };
        let of_peer = |transaction: &Transaction| transaction.peer == Some(peer);
        for (_, transaction) in self.0.transactions.remove_if(of_peer) {
            transaction.lease.set_ended();
            self.0
                .engine
                .close_lease(transaction.lease.connection())
                .await;
        }
    }

    /// Ends everything that is kept for clients: what is open is rolled back.
    pub(crate) async fn end_all(&self) {
        let Inner {
            engine,
            sessions,
            transactions,
            results,
            ..
        } = &*self.0;
        drop(results.remove_if(|_| true));
        let transactions = transactions.remove_if(|_| true);
        let ended = transactions.iter().map(|(_, transaction)| {
            transaction.lease.set_ended();
            engine.close_lease(transaction.lease.connection())
        });
        join_all(ended).await;
        let sessions = sessions.remove_if(|_| true);
        join_all(
            sessions
                .iter()
                .map(|(_, session)| self.end_session(session)),
        )
        .await;
    }

    async fn end_session(&self, session: &Session) {
        let transaction = session.transaction.lock().take();
        if let Some(transaction) = transaction.and_then(|id| self.0.transactions.remove(id)) {
            transaction.lease.set_ended();
        }
        let of_session = |statement: &Arc<PreparedStatement>| statement.session == Some(session.id);
        drop(self.0.statements.remove_if(of_session));
        self.0.engine.close_lease(&session.lease).await;
    }

    /// Where the caller's statement runs: in the transaction it names, in its session's, or in none.
    pub(crate) async fn place(&self, caller: &Caller, transaction: Option<&[u8]>) -> Result<Place> {
        let of_session = || {
            caller
                .session()
                .and_then(|session| *session.transaction.lock())
        };
        match transaction.filter(|id| !id.is_empty()) {
            Some(id) => {
                let (_, transaction) = self.0.transactions.find(id)?;
                self.begun(&transaction).await
            }
            None => match of_session().and_then(|id| self.0.transactions.get(id)) {
                Some(transaction) => self.begun(&transaction).await,
                None => Ok(caller.place()),
            },
        }
    }

    /// Where the rows of an ingest go in.
    ///
    /// ADBC's driver names no transaction with an ingest, though it has one open all the time unless told otherwise.
    /// A caller without a session is therefore taken to mean the one transaction that was begun on its connection.
    pub(crate) async fn ingest_place(
        &self,
        caller: &Caller,
        transaction: Option<&[u8]>,
    ) -> Result<Place> {
        let is_named = transaction.is_some_and(|id| !id.is_empty());
        if let (None, false, Some(peer)) = (caller.session(), is_named, caller.peer) {
            let of_peer = |transaction: &Transaction| transaction.peer == Some(peer);
            if let [transaction] = self.0.transactions.matching(of_peer).as_slice() {
                return self.begun(transaction).await;
            }
        }
        self.place(caller, transaction).await
    }

    /// The place of a transaction, which begins with its first statement.
    async fn begun(&self, transaction: &Transaction) -> Result<Place> {
        self.0.engine.begin(&transaction.lease).await?;
        Ok(Place::Transaction(transaction.lease.clone()))
    }

    /// Begins a transaction. In a session it is the session's, with its temporary tables and settings.
    pub(crate) fn begin(&self, caller: &Caller) -> Result<Handle> {
        let handle = Handle::new();
        let session = caller.session().cloned();
        let lease = session.as_ref().map(|session| session.lease.clone());
        let transaction = Transaction {
            lease: TransactionLease::on(lease.unwrap_or_default()),
            session: session.clone(),
            peer: caller.peer.filter(|_| session.is_none()),
        };
        if let Some(session) = &session {
            let mut open = session.transaction.lock();
            if open.is_some_and(|id| self.0.transactions.get(id).is_some()) {
                return Err(Error::TransactionOpen);
            }
            self.0.transactions.insert(handle, transaction)?;
            *open = Some(handle);
        } else {
            self.0.transactions.insert(handle, transaction)?;
        }
        Ok(handle)
    }

    /// Ends a transaction. Once no statement runs in it any more it is over whatever comes of it: a commit that fails
    /// has rolled back.
    pub(crate) async fn end(&self, id: &[u8], commit: bool) -> Result<()> {
        let (handle, transaction) = self.0.transactions.find(id)?;
        let held = self.0.engine.hold(&transaction.lease).await?;
        self.finish(handle, &transaction, held, commit).await
    }

    async fn finish(
        &self,
        handle: Handle,
        transaction: &Transaction,
        held: Held,
        commit: bool,
    ) -> Result<()> {
        let engine = &self.0.engine;
        let ending = engine.end(held, &transaction.lease, commit)?;
        self.0.transactions.remove(handle);
        if let Some(session) = &transaction.session {
            session.transaction.lock().take_if(|open| *open == handle);
        }
        let outcome = ending.await;
        if transaction.session.is_none() {
            engine.close_lease(transaction.lease.connection()).await;
        }
        outcome
    }

    /// Keeps a result until it is fetched.
    pub(crate) fn keep(&self, rows: Rows) -> Result<Handle> {
        let _held = self.hold(rows.bytes())?;
        self.wait(Waiting::Rows { rows, _held })
    }

    /// Keeps a query, with the values of its parameters, until its result is fetched.
    pub(crate) fn keep_query(&self, sql: Sql, transaction: Option<Vec<u8>>) -> Result<Handle> {
        let _held = self.hold(sql.parameters.bytes() + sql.text.len())?;
        self.wait(Waiting::Query {
            sql,
            transaction,
            _held,
        })
    }

    /// Keeps a result that is on its way until it is fetched.
    pub(crate) fn keep_stream(&self, result: ResultStream) -> Result<Handle> {
        let _held = self.hold(result.first_bytes())?;
        let result = Mutex::new(Some(result));
        self.wait(Waiting::Stream { result, _held })
    }

    fn hold(&self, bytes: usize) -> Result<HeldBytes> {
        HeldBytes::take(&self.0.held_bytes, bytes)
    }

    fn wait(&self, waiting: Waiting) -> Result<Handle> {
        let handle = Handle::new();
        self.0.results.insert(handle, Arc::new(waiting))?;
        Ok(handle)
    }

    /// Hands out what waits to be fetched; it is kept no longer.
    pub(crate) fn fetch(&self, handle: Handle) -> Result<Arc<Waiting>> {
        let waiting = self.0.results.remove(handle);
        waiting.ok_or(Error::UnknownHandle {
            what: "result, which can be fetched once",
        })
    }

    /// Lets the holder of a ticket cancel its statement for as long as the guard lives.
    pub(crate) fn running(&self, ticket: Handle) -> Result<RunningGuard> {
        self.0.running.begin(ticket)
    }

    /// Cancels the statement of a ticket, or drops its result. A ticket that was not fetched yet never will be.
    pub(crate) fn cancel(&self, ticket: Handle) {
        if self.0.results.remove(ticket).is_some() {
            return;
        }
        self.0.running.cancel(ticket);
    }

    /// What is kept at present.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            sessions: self.0.sessions.len(),
            transactions: self.0.transactions.len(),
            prepared_statements: self.0.statements.len(),
            results: self.0.results.len(),
            running: self.0.running.len(),
        }
    }
}

impl Sessions {
    /// Ends what has expired, for as long as it is polled.
    pub(crate) async fn sweep(&self, also: impl Fn()) {
        let Expiry {
            session,
            transaction,
        } = self.0.expiry;
        let (least, most) = SWEEP_INTERVALS;
        let interval = (session.min(transaction) / 4).clamp(least, most);
        loop {
            tokio::time::sleep(interval).await;
            self.expire().await;
            also();
        }
    }

    async fn expire(&self) {
        let Inner {
            expiry,
            sessions,
            transactions,
            statements,
            results,
            ..
        } = &*self.0;
        let patience = |transaction: &Transaction| match transaction.lease.has_begun() {
            true => expiry.transaction,
            false => UNUSED_TRANSACTION_TIMEOUT.max(expiry.session),
        };
        let is_busy = |transaction: &Transaction| transaction.lease.connection().is_busy();
        for (handle, transaction) in transactions.expired(is_busy, patience) {
            // A request may have come in between: held, there is none.
            let Some(held) = self.0.engine.try_hold(&transaction.lease) else {
                continue;
            };
            if !transactions.is_expired(handle, patience) {
                continue;
            }
            tracing::info!("a transaction is rolled back: nothing was run in it for too long");
            if let Err(error) = self.finish(handle, &transaction, held, false).await {
                tracing::debug!(%error, "an expired transaction has not ended");
            }
        }
        for (_, session) in sessions.expire(|session| session.lease.is_busy()) {
            self.end_session(&session).await;
        }
        statements.expire(|_| false);
        results.expire(|_| false);
    }
}

/// How much is kept for clients.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Counts {
    sessions: usize,
    transactions: usize,
    prepared_statements: usize,
    results: usize,
    running: usize,
}
