//! Prepared statements: their text, and the values that their clients have bound.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Caller, Handle, HeldBytes, Session, Sessions};
use crate::engine::{Description, Parameters, Place};
use crate::error::Result;

/// A prepared statement.
pub(crate) struct PreparedStatement {
    pub(crate) sql: String,
    pub(crate) description: Description,
    /// The values that its client bound last.
    bound: Mutex<Option<(Parameters, HeldBytes)>>,
    _held: HeldBytes,
    transaction: Option<Handle>,
    pub(super) session: Option<Handle>,
}

impl PreparedStatement {
    /// The values that its client bound last, or none.
    pub(crate) fn parameters(&self) -> Parameters {
        let bound = self.bound.lock();
        let parameters = bound.as_ref().map(|(parameters, _)| parameters.clone());
        parameters.unwrap_or_default()
    }

    /// The transaction it was prepared in.
    pub(crate) fn transaction(&self) -> Option<Vec<u8>> {
        self.transaction.map(Handle::to_bytes)
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
        let handle = Handle::new();
        let statement = PreparedStatement {
            _held: self.hold(sql.len())?,
            sql,
            description,
            bound: Mutex::default(),
            transaction: transaction.and_then(Handle::from_bytes),
            session: caller.session().map(Session::id),
        };
        self.0.statements.insert(handle, Arc::new(statement))?;
        Ok(handle)
    }

    /// The prepared statement of a handle, and where it runs.
    pub(crate) async fn prepared(
        &self,
        caller: &Caller,
        handle: &[u8],
    ) -> Result<(Arc<PreparedStatement>, Place)> {
        let (_, statement) = self.0.statements.find(handle)?;
        let transaction = statement.transaction();
        let place = self.place(caller, transaction.as_deref()).await?;
        Ok((statement, place))
    }

    /// Binds values to a prepared statement.
    pub(crate) fn bind(&self, handle: &[u8], parameters: Parameters) -> Result<()> {
        let (_, statement) = self.0.statements.find(handle)?;
        // What was bound before makes room first.
        let mut bound = statement.bound.lock();
        *bound = None;
        let held = self.hold(parameters.bytes())?;
        *bound = Some((parameters, held));
        Ok(())
    }

    /// Forgets a prepared statement.
    pub(crate) fn unprepare(&self, handle: &[u8]) -> Result<()> {
        let (handle, _) = self.0.statements.find(handle)?;
        self.0.statements.remove(handle);
        Ok(())
    }
}
