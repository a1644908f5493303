//! Prepared statements: their text, and the values that their clients have bound.

use std::sync::Arc;

use parking_lot::Mutex;

use super::peer::{KnownPeer, Peer};
use super::transactions::{GivenUp, Meant};
use super::{Caller, Handle, Session, Sessions};
use crate::engine::{Description, HeldBytes, Parameters, Place};
use crate::error::{Error, Result};

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
            _held: self.hold(sql.len() + description.bytes())?,
            sql,
            description,
            bound: Mutex::default(),
            transaction: transaction.map(|(id, transaction)| (id, transaction.given_up())),
            session: caller.session().map(Session::id),
            peer: caller.peer.as_ref().map(Peer::known).unwrap_or_default(),
        };
        self.0.statements.insert(handle, Arc::new(statement))?;
        Ok(handle)
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
