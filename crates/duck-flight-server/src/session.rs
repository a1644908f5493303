//! Who is asking, and what the server keeps for them: sessions, transactions, prepared statements, results that
//! wait to be fetched. Each has a handle that cannot be guessed, and expires.
//!
//! A client is in a session once it shows a token from `Handshake` or a cookie; others have none, and nothing of
//! theirs outlives a call. A session costs next to nothing until a statement leaves something behind: only then
//! it gets a connection of its own (see [`Place::Own`]).

mod handles;
mod peer;
mod prepared;
mod running;
mod transactions;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;

pub(crate) use handles::{Handle, Handles};
pub(crate) use peer::Peer;
pub(crate) use prepared::{Execution, PreparedStatement};
use running::Running;
pub(crate) use running::RunningGuard;
use transactions::{Owner, Transaction};
pub(crate) use waiting::Waiting;

use crate::engine::{Engine, HeldBytes, InUse, Lease, Place, ResultStream, Rows, Sql};
use crate::error::{Error, Result};

/// How many sessions, transactions, prepared statements and unfetched results there may be.
const MAX_SESSIONS: usize = 10_000;
const MAX_TRANSACTIONS: usize = 10_000;
const MAX_STATEMENTS: usize = 100_000;
const MAX_RESULTS: usize = 100_000;

/// How long a result waits to be fetched.
pub(crate) const RESULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often what has expired is looked for, at the most and at the least.
const SWEEP_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// When what clients leave behind expires.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// A session or prepared statement that nobody uses.
    pub session: Duration,
    /// A transaction in which nothing is run any more, or whose client has left before anything was.
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
    /// Transactions that have expired, and that their clients have not ended yet.
    expired: Handles<Owner>,
    statements: Handles<Arc<PreparedStatement>>,
    results: Handles<Arc<Waiting>>,
    running: Running,
}

/// A client's session. Clones share it.
#[derive(Clone)]
pub(crate) struct Session {
    id: Handle,
    lease: Lease,
    transaction: Arc<Mutex<Option<Handle>>>,
}

/// Who sends a request.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    session: Option<Session>,
    /// The other end of the connection.
    peer: Option<Peer>,
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
        self.lease.is_open() || self.transaction.lock().is_some()
    }

    /// Whether nobody would miss it: another one like it is a call away.
    fn is_spare(&self) -> bool {
        !self.is_kept() && !self.lease.is_busy()
    }
}

impl Caller {
    /// The same caller in this session, or in none.
    pub(crate) fn in_session(&self, session: Option<Session>) -> Self {
        let in_use = session.as_ref().map(|session| session.lease.in_use());
        Self {
            session,
            peer: self.peer.clone(),
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
            expired: Handles::new("transaction", MAX_TRANSACTIONS, expiry.session),
            statements: Handles::new("prepared statement", MAX_STATEMENTS, expiry.session),
            results: Handles::new("unfetched result", MAX_RESULTS, RESULT_TIMEOUT),
            running: Running::default(),
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
    pub(crate) fn caller(&self, proof: Option<Proof>, peer: Option<Peer>) -> Result<Caller> {
        let sessions = &self.0.sessions;
        let session = match proof {
            None => None,
            Some(Proof::Kept(id)) => Some(sessions.get(id).ok_or(Error::SessionEnded)?),
            Some(Proof::Fresh(id)) => Some(self.open_as(id)?),
        };
        let caller = Caller {
            peer,
            ..Caller::default()
        };
        Ok(caller.in_session(session))
    }

    /// Records that the caller is offered a cookie.
    pub(crate) fn offer(&self, caller: &Caller) {
        if let Some(peer) = &caller.peer {
            peer.offer_cookie();
        }
    }

    /// Fails for a caller that was offered a cookie and shows none: it would not be in a session that was opened for it.
    pub(crate) fn check_cookies(&self, caller: &Caller) -> Result<()> {
        let was_offered = caller.peer.as_ref().is_some_and(Peer::was_offered_cookie);
        match caller.session().is_none() && was_offered {
            true => Err(Error::NoSession),
            false => Ok(()),
        }
    }

    /// Opens a session.
    pub(crate) fn open(&self) -> Result<Session> {
        self.open_as(Handle::new())
    }

    /// The session of this id, opened where there is none: of requests that come at once, by one of them.
    fn open_as(&self, id: Handle) -> Result<Session> {
        // At the limit, one that holds nothing makes room.
        let spare = |other: &Session| other.is_spare().then_some(());
        let sessions = &self.0.sessions;
        sessions.get_or_insert_with(id, || Session::new(id), spare)
    }

    /// Ends the caller's session: its transaction is rolled back, its temporary tables are gone. A caller without one
    /// leaves the transactions that were begun on its connection.
    pub(crate) async fn close(&self, caller: &Caller) {
        if let Some(session) = caller.session() {
            self.0.sessions.remove(session.id);
            return self.end_session(session).await;
        }
        if let Some(peer) = &caller.peer {
            self.end_transactions_of(peer).await;
        }
    }

    /// Ends everything that is kept for clients: what is open is rolled back.
    pub(crate) async fn end_all(&self) {
        let Inner {
            sessions, results, ..
        } = &*self.0;
        drop(results.remove_if(|_| true));
        self.end_transactions().await;
        let sessions = sessions.remove_if(|_| true);
        join_all(
            sessions
                .iter()
                .map(|(_, session)| self.end_session(session)),
        )
        .await;
    }

    async fn end_session(&self, session: &Session) {
        self.end_transaction_of(session);
        let of_session = |statement: &Arc<PreparedStatement>| statement.session == Some(session.id);
        drop(self.0.statements.remove_if(of_session));
        self.0.engine.close_lease(&session.lease).await;
    }

    /// Whether another result may be kept. To be asked before a statement runs that changes something: afterwards it is too
    /// late to refuse.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn check_room_for_result(&self) -> Result<()> {
        self.0.results.check_room()
    }

    /// Keeps a result until it is fetched.
    pub(crate) fn keep(&self, rows: Rows) -> Handle {
        let handle = Handle::new();
        self.0
            .results
            .insert_at_any_rate(handle, Arc::new(Waiting::Rows(rows)));
        handle
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

    /// Takes memory for what waits for its client.
    ///
    /// # Errors
    /// When all would hold too much.
    pub(crate) fn hold(&self, bytes: usize) -> Result<HeldBytes> {
        self.0.engine.hold_bytes(bytes)
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
            running: self.0.engine.running(),
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
            also();
            self.expire();
        }
    }

    /// Ends what has expired. Waits for none of it: to roll back takes a thread of the pool, which may be free only once
    /// something else has expired.
    fn expire(&self) {
        let Inner {
            expiry,
            sessions,
            statements,
            results,
            ..
        } = &*self.0;
        drop(results.expire(|_| false));
        drop(statements.expire(|_| false));
        self.expire_transactions(expiry.transaction);
        for (_, session) in sessions.expire(|session| session.lease.is_busy()) {
            let sessions = self.clone();
            tokio::spawn(async move { sessions.end_session(&session).await });
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::EngineOptions;

    #[tokio::test]
    async fn what_expires_is_found_while_a_transaction_that_has_waits_for_a_thread() {
        let engine = Engine::open(&EngineOptions {
            max_queries: 1,
            ..EngineOptions::in_memory()
        });
        let engine = engine.unwrap();
        let at_once = Duration::from_millis(1);
        let expiry = Expiry {
            session: at_once,
            transaction: at_once,
        };
        let sessions = Sessions::new(engine.clone(), expiry);
        let caller = Caller::default();
        let begun = sessions.begin(&caller).unwrap().to_bytes();
        let place = sessions.place(&caller, Some(&begun)).await;
        assert!(matches!(place, Ok(Place::Transaction(_))));
        drop(place);
        let endless = "SELECT * FROM range(100000000000)".to_owned();
        let endless = engine.query(&Place::Any, endless).await.unwrap();
        let (swept, mut sweeps) = mpsc::unbounded_channel();
        let several = async {
            for _ in 0..4 {
                sweeps.recv().await;
            }
        };
        tokio::select! {
            () = sessions.sweep(|| swept.send(()).unwrap()) => {}
            swept = tokio::time::timeout(Duration::from_secs(10), several) => swept.unwrap(),
        }
        assert_eq!(
            sessions.0.transactions.len(),
            0,
            "it is on its way to its end"
        );
        drop(endless);
    }

    #[tokio::test]
    async fn requests_that_come_at_once_with_a_fresh_cookie_are_in_one_session() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let long = Duration::from_secs(3600);
        let expiry = Expiry {
            session: long,
            transaction: long,
        };
        let sessions = Sessions::new(engine, expiry);
        let ids: Vec<_> = (0..MAX_SESSIONS).map(|_| Handle::new()).collect();
        let together = Barrier::new(2);
        let request = |id: &Handle| {
            together.wait();
            let caller = sessions.caller(Some(Proof::Fresh(*id)), None).unwrap();
            caller.session().unwrap().transaction.clone()
        };
        let requests = || ids.iter().map(request).collect::<Vec<_>>();
        let (one, other) = std::thread::scope(|scope| {
            let other = scope.spawn(requests);
            (requests(), other.join().unwrap())
        });
        let is_one = one
            .iter()
            .zip(&other)
            .map(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(
            is_one.filter(|is_one| !is_one).count(),
            0,
            "of {MAX_SESSIONS}"
        );
    }
}
