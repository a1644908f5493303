//! What clients keep from one call to the next: connections of their own, and the transactions that calls begin and end there.

use arrow::datatypes::SchemaRef;
use duck_flight_protocol::PutOptions;

use super::{Engine, Held, Large, Lease, Place, Put, TransactionLease};
use crate::error::{Error, Result};

impl Engine {
    /// The client's own connection, where rows must go in by it: into a temporary table, or in its transaction.
    pub(crate) async fn own_connection(
        &self,
        place: &Place,
        is_temporary: bool,
    ) -> Result<Option<Held>> {
        match place {
            Place::Transaction(transaction) => transaction.hold().await.map(Some),
            Place::Own(lease) if is_temporary || lease.is_open() => lease.hold().await.map(Some),
            Place::Any if is_temporary => Err(Error::NoSession),
            _ => Ok(None),
        }
    }

    /// Opens a put on a client's own connection: in its transaction, or as one of its own.
    pub(crate) fn put_on(
        &self,
        held: Held,
        options: PutOptions,
        schema: SchemaRef,
    ) -> Result<Large> {
        let key = self.table_key(&options.table);
        Put::check_table(&key)?;
        Large::start_on(self, held, options, key, schema)
    }

    /// Begins a transaction, unless that is done. It begins even if the caller stops waiting.
    pub(crate) async fn begin(&self, transaction: &TransactionLease) -> Result<()> {
        if transaction.has_begun() {
            return Ok(());
        }
        let held = transaction.hold().await?;
        // Another request may have been faster.
        if transaction.has_begun() {
            return Ok(());
        }
        // Begun by a statement, it would be ended by ours failing.
        if held.is_in_transaction() {
            return Err(Error::TransactionOpen);
        }
        let begun = transaction.clone();
        let done = move || begun.set_begun();
        let answer = self.control(held, "BEGIN TRANSACTION", done)?;
        answer.await.map_err(|_| Error::WorkerLost)?
    }

    /// Waits until a transaction can be ended: until no statement runs in it.
    pub(crate) async fn hold(&self, transaction: &TransactionLease) -> Result<Held> {
        transaction.hold().await
    }

    /// Begins to end a transaction that is held; from then on nothing runs in it. Where a commit fails, it is rolled
    /// back.
    ///
    /// # Errors
    /// When too many statements wait; the transaction then stays open.
    pub(crate) fn end(
        &self,
        held: Held,
        transaction: &TransactionLease,
        commit: bool,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let answer = if transaction.has_begun() {
            let sql = if commit { "COMMIT" } else { "ROLLBACK" };
            Some(self.control(held, sql, || ())?)
        } else {
            None
        };
        transaction.set_ended();
        Ok(async move {
            match answer {
                Some(answer) => answer.await.map_err(|_| Error::WorkerLost)?,
                None => Ok(()),
            }
        })
    }

    /// The connection of a transaction in which nothing runs.
    pub(crate) fn try_hold(&self, transaction: &TransactionLease) -> Option<Held> {
        transaction.try_hold()
    }

    /// Closes a client's own connection for good, whatever is open in it; a statement that runs there is cancelled.
    pub(crate) async fn close_lease(&self, lease: &Lease) {
        if let Ok(mut held) = lease.end().await
            && lease.is_open()
        {
            // On a thread of the pool, for a roll back may take long. Without one, it is closed here.
            self.0.queries.submit(move |_| held.close()).ok();
        }
    }
}
