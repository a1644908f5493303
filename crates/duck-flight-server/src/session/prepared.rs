//! Prepared statements: their text, and the values that their clients have bound.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::peer::{KnownPeer, Peer};
use super::transactions::{GivenUp, Meant};
use super::{Caller, Handle, Session, Sessions};
use crate::engine::{Description, HeldBytes, Parameters, Place};
use crate::error::{Error, Result};

/// Which part of a client's prepared statements makes room at once: to find them, all are looked at.
const PART: usize = 10;

/// A prepared statement.
pub(crate) struct PreparedStatement {
    pub(crate) sql: String,
    pub(crate) description: Description,
    /// The values that its client bound last.
    bound: Mutex<Option<(Parameters, HeldBytes)>>,
    _held: HeldBytes,
    /// The transaction it was prepared in.
    transaction: Option<(Handle, GivenUp)>,
    pub(super) session: Option<Handle>,
    /// The connection over which it was prepared.
    peer: KnownPeer,
}

/// Whose a prepared statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    Session(Handle),
    /// The network connection over which it was prepared.
    Peer(usize),
}

/// A prepared statement that is to run.
pub(crate) struct Execution {
    pub(crate) statement: Arc<PreparedStatement>,
    /// The transaction that it runs in.
    pub(crate) transaction: Option<Vec<u8>>,
    pub(crate) place: Place,
}

impl PreparedStatement {
    /// The values that its client bound last, or none.
    pub(crate) fn parameters(&self) -> Parameters {
        let bound = self.bound.lock();
        let parameters = bound.as_ref().map(|(parameters, _)| parameters.clone());
        parameters.unwrap_or_default()
    }

    fn client(&self) -> Client {
        match self.session {
            Some(session) => Client::Session(session),
            None => Client::Peer(self.peer.address()),
        }
    }

    /// Whether its client has gone. A session takes its statements with it when it ends.
    fn is_abandoned(&self) -> bool {
        self.session.is_none() && !self.peer.is_connected()
    }
}

impl Sessions {
    /// Keeps a prepared statement.
    pub(crate) fn prepare(
        &self,
        caller: &Caller,
        transaction: Option<&[u8]>,
        sql: String,
        description: Description,
    ) -> Result<Handle> {
        let transaction = match transaction.filter(|id| !id.is_empty()) {
            Some(id) => Some(self.named(caller, id)?),
            None => None,
        };
        let handle = Handle::new();
        let statement = PreparedStatement {
            _held: self.hold_statement(sql.len() + description.bytes())?,
            sql,
            description,
            bound: Mutex::default(),
            transaction: transaction.map(|(id, transaction)| (id, transaction.given_up())),
            session: caller.session().map(Session::id),
            peer: caller.peer.as_ref().map(Peer::known).unwrap_or_default(),
        };
        if self.0.statements.check_room().is_err() {
            self.make_room();
        }
        self.0.statements.insert(handle, Arc::new(statement))?;
        Ok(handle)
    }

    /// Takes memory for a prepared statement; those of clients that have gone make room.
    fn hold_statement(&self, bytes: usize) -> Result<HeldBytes> {
        self.hold(bytes).or_else(|_| {
            self.forget_abandoned();
            self.hold(bytes)
        })
    }

    /// Forgets the prepared statements of clients that have gone, and answers whether there were any.
    fn forget_abandoned(&self) -> bool {
        let statements = &self.0.statements;
        let abandoned = statements.remove_if(|statement| statement.is_abandoned());
        !abandoned.is_empty()
    }

    /// Forgets the prepared statements of clients that have gone or, where there are none, a part of those of the client that has
    /// the most: those that were not used for the longest time. A client that closes none keeps no other from preparing.
    fn make_room(&self) {
        if self.forget_abandoned() {
            return;
        }
        let statements = &self.0.statements;
        let mut clients = HashMap::<_, usize>::new();
        for statement in statements.all() {
            *clients.entry(statement.client()).or_default() += 1;
        }
        if let Some((client, count)) = clients.into_iter().max_by_key(|(_, count)| *count) {
            let part = count.div_ceil(PART);
            drop(statements.remove_oldest(part, |statement| statement.client() == client));
        }
    }

    /// The prepared statement of a handle, and where it runs.
    pub(crate) async fn prepared(&self, caller: &Caller, handle: &[u8]) -> Result<Execution> {
        let (_, statement) = self.0.statements.find(handle)?;
        let transaction = self.transaction_of(caller, &statement)?;
        let transaction = transaction.map(Handle::to_bytes);
        let place = self.place(caller, transaction.as_deref()).await?;
        Ok(Execution {
            statement,
            transaction,
            place,
        })
    }

    /// The transaction that a prepared statement runs in.
    ///
    /// Drivers keep a statement when they end its transaction, and run it again without a word: it then belongs to the
    /// transaction that they have begun since, or to none. Where that is not certain, it does not run.
    fn transaction_of(
        &self,
        caller: &Caller,
        statement: &PreparedStatement,
    ) -> Result<Option<Handle>> {
        let transaction = match &statement.transaction {
            Some((_, given_up)) if given_up.get() => self.meant(caller)?,
            prepared_in => return Ok(prepared_in.as_ref().map(|(id, _)| *id)),
        };
        let is_its_peer = |peer: &Peer| statement.peer.is(peer);
        let is_certain =
            caller.session().is_some() || caller.peer.as_ref().is_some_and(is_its_peer);
        match transaction {
            Meant::One(id, _) => Ok(Some(id)),
            Meant::None if is_certain => Ok(None),
            Meant::None | Meant::OneOfSeveral => Err(Error::UnknownHandle {
                what: "transaction of a prepared statement, which must be prepared anew",
            }),
        }
    }

    /// Forgets the values that were bound to a prepared statement, to make room for others.
    pub(crate) fn unbind(&self, handle: &[u8]) -> Result<()> {
        let (_, statement) = self.0.statements.find(handle)?;
        *statement.bound.lock() = None;
        Ok(())
    }

    /// Binds values to a prepared statement, with the memory they take.
    pub(crate) fn bind(&self, handle: &[u8], values: (Parameters, HeldBytes)) -> Result<()> {
        let (_, statement) = self.0.statements.find(handle)?;
        *statement.bound.lock() = Some(values);
        Ok(())
    }

    /// Forgets a prepared statement.
    pub(crate) fn unprepare(&self, handle: &[u8]) -> Result<()> {
        let (handle, _) = self.0.statements.find(handle)?;
        self.0.statements.remove(handle);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::session::{Expiry, MAX_STATEMENTS};

    fn sessions() -> Sessions {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let hour = Duration::from_secs(3600);
        let expiry = Expiry {
            session: hour,
            transaction: hour,
        };
        Sessions::new(engine, expiry)
    }

    fn caller(sessions: &Sessions, peer: &Peer) -> Caller {
        sessions.caller(None, Some(peer.clone())).unwrap()
    }

    fn prepare(sessions: &Sessions, caller: &Caller, sql: &str) -> Result<Handle> {
        sessions.prepare(caller, None, sql.to_owned(), Description::unknown())
    }

    #[tokio::test]
    async fn a_client_that_closes_no_prepared_statement_takes_no_room_from_others() {
        let sessions = sessions();
        let (greedy, other) = (Peer::default(), Peer::default());
        let (greedy, other) = (caller(&sessions, &greedy), caller(&sessions, &other));
        let statements = &sessions.0.statements;
        let others = prepare(&sessions, &other, "SELECT 1").unwrap();
        let first = prepare(&sessions, &greedy, "SELECT 2").unwrap();
        let mut last = first;
        while statements.check_room().is_ok() {
            last = prepare(&sessions, &greedy, "SELECT 2").unwrap();
        }
        let new = prepare(&sessions, &other, "SELECT 3").unwrap();
        for kept in [others, last, new] {
            assert!(statements.get(kept).is_some());
        }
        assert!(statements.get(first).is_none(), "it has waited the longest");
    }

    #[tokio::test]
    async fn prepared_statements_of_clients_that_have_gone_make_room_first() {
        let sessions = sessions();
        let (gone, there) = (Peer::default(), Peer::default());
        let there = caller(&sessions, &there);
        let left = {
            let gone = caller(&sessions, &gone);
            prepare(&sessions, &gone, "SELECT 1").unwrap()
        };
        let statements = &sessions.0.statements;
        while statements.check_room().is_ok() {
            prepare(&sessions, &there, "SELECT 2").unwrap();
        }
        drop(gone);
        prepare(&sessions, &there, "SELECT 3").unwrap();
        assert!(statements.get(left).is_none());
        assert_eq!(statements.len(), MAX_STATEMENTS);
    }
}
