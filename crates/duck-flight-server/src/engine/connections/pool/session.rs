//! A connection while it serves clients, and the transaction that one of them may have open in it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use duck_flight_protocol::TableName;

use crate::engine::catalog;
use crate::engine::ffi::{Connection, Database};
use crate::engine::replay::SeenIndexes;
use crate::engine::replay::index_work::IndexWork;
use crate::error::Result;

/// A connection, and what a client's statements have done on it. In the pool it is as new; a lease keeps it from one request to
/// the next.
pub(in crate::engine) struct Session {
    pub(in crate::engine) connection: Connection,
    /// Whether the request may have left something behind (a temporary table, a setting, a transaction).
    pub(in crate::engine) dirty: bool,
    pub(in crate::engine) transaction: ClientTransaction,
    /// What the client's transaction has done.
    pub(in crate::engine) work: Work,
    /// Whether a PIVOT may have left types behind.
    pub(in crate::engine) has_pivoted: bool,
    pub(super) database: Database,
}

/// What a transaction that a client has begun has done so far.
#[derive(Debug)]
pub(in crate::engine) struct Work {
    /// How many rows it has written, as far as it is known; more where it is not.
    pub(in crate::engine) rows_written: u64,
    /// Whether it may have made an index.
    pub(in crate::engine) makes_index: bool,
    /// Whether it may have made a schema.
    pub(in crate::engine) makes_schema: bool,
    /// Whether it may have defined anything, altered or dropped it.
    pub(in crate::engine) defines: bool,
    /// The indexes of others that it sees.
    pub(in crate::engine) seen_indexes: SeenIndexes,
    /// What it has done to indexes, and to rows that may be in them.
    pub(in crate::engine) indexes: IndexWork,
}

impl Work {
    /// What a transaction has done that begins afterwards.
    pub(in crate::engine) fn none(connection: &Connection) -> Self {
        Self {
            rows_written: 0,
            makes_index: false,
            makes_schema: false,
            defines: false,
            seen_indexes: connection.indexes().seen(),
            indexes: IndexWork::default(),
        }
    }
}

/// A transaction that a client has begun, and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum ClientTransaction {
    None,
    Open,
    /// Open, and something may have failed in it. It may be that DuckDB lets it be rolled back only.
    Doubtful,
}

impl Session {
    pub(super) fn open(database: &Database) -> Result<Self> {
        let connection = database.connect_for_clients()?;
        Ok(Self {
            dirty: false,
            transaction: ClientTransaction::None,
            work: Work::none(&connection),
            has_pivoted: false,
            connection,
            database: database.clone(),
        })
    }

    /// Records that something runs in the client's transaction whose failures are not all told.
    pub(in crate::engine) fn doubt(&mut self) {
        if self.transaction == ClientTransaction::Open {
            self.transaction = ClientTransaction::Doubtful;
        }
    }

    /// Runs `work` on a client's own connection. Whatever fails inside of its transaction, be it a question about a statement,
    /// may have left nothing possible in it but to roll it back; where `work` panics, nothing else is.
    pub(in crate::engine) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            self.give_up();
            resume_unwind(panic)
        });
        if outcome.is_err() {
            self.doubt();
        }
        outcome
    }

    /// Gives up what was done halfway.
    fn give_up(&mut self) {
        // A client's transaction may have ended on the way, and what is none of its own is open for this work only.
        if self.transaction == ClientTransaction::None || self.connection.begin().is_ok() {
            self.connection.roll_back();
            self.transaction = ClientTransaction::None;
        } else {
            self.connection.spoil_transaction();
            self.transaction = ClientTransaction::Doubtful;
        }
    }

    /// Rolls back what a script has left open that failed between its BEGIN and its COMMIT.
    pub(in crate::engine::connections) fn end_transaction(&mut self) {
        if self.transaction != ClientTransaction::None {
            self.connection.roll_back();
            self.transaction = ClientTransaction::None;
        }
    }

    /// Opens another connection to the same database.
    pub(in crate::engine::connections) fn another(&self) -> Result<Self> {
        Self::open(&self.database)
    }

    /// The name of a table in full, as the session looks up names.
    pub(in crate::engine) fn full_name(&self, table: TableName) -> Result<TableName> {
        let TableName {
            catalog,
            schema,
            table,
        } = table;
        let (own_catalog, own_schema) = catalog::current(&self.connection)?;
        Ok(TableName {
            schema: schema.or_else(|| catalog.is_none().then_some(own_schema)),
            catalog: catalog.or(Some(own_catalog)),
            table,
        })
    }

    /// Replaces a connection that may hold something of the last request. Answers whether it is as new.
    pub(super) fn renew(&mut self) -> bool {
        if self.dirty {
            match self.another() {
                Ok(new) => *self = new,
                Err(error) => {
                    tracing::error!(%error, "no new connection; the next request tries again");
                }
            }
        }
        !self.dirty
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::engine::{Engine, EngineOptions, Lease, Place, TransactionLease};
    use crate::error::Error;

    async fn engine_with_table() -> Engine {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        execute(&engine, &Place::Any, "CREATE TABLE t (i BIGINT)").await;
        engine
    }

    async fn execute(engine: &Engine, place: &Place, sql: &str) {
        engine.execute(place, sql.to_owned()).await.unwrap();
    }

    /// The rows of the table that are committed.
    async fn count(engine: &Engine) -> i64 {
        let counted = engine.run(&Place::Any, "SELECT count(*) FROM t".to_owned());
        let rows = counted.await.unwrap().rows.unwrap();
        rows.batches[0]
            .column(0)
            .as_primitive::<Int64Type>()
            .value(0)
    }

    /// Inserts a row, in a transaction of its own where the client has none, and panics before that is committed.
    async fn insert_and_panic(engine: &Engine, place: &Place) {
        let panics = engine.run_on(place, |session, _, _| -> Result<()> {
            if session.transaction == ClientTransaction::None {
                session.connection.begin()?;
            }
            session.connection.execute("INSERT INTO t VALUES (2)")?;
            panic!("on purpose")
        });
        assert!(matches!(panics.await, Err(Error::WorkerLost)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_panics_in_a_transaction_leaves_nothing_of_it_to_commit() {
        let engine = engine_with_table().await;
        let transaction = TransactionLease::default();
        engine.begin(&transaction).await.unwrap();
        let place = Place::Transaction(transaction.clone());
        execute(&engine, &place, "INSERT INTO t VALUES (1)").await;
        insert_and_panic(&engine, &place).await;
        let held = engine.hold(&transaction).await.unwrap();
        let commit = engine.end(held, &transaction, true).unwrap().await;
        assert!(
            matches!(commit, Err(Error::TransactionFailed)),
            "{commit:?}"
        );
        assert_eq!(count(&engine).await, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_goes_on_in_no_transaction_where_its_statement_panics_in_one_of_its_own() {
        let engine = engine_with_table().await;
        let place = Place::Own(Lease::default());
        execute(&engine, &place, "CREATE TEMP TABLE own (i INTEGER)").await;
        insert_and_panic(&engine, &place).await;
        execute(&engine, &place, "INSERT INTO own VALUES (1)").await;
        execute(&engine, &place, "INSERT INTO t FROM own").await;
        assert_eq!(count(&engine).await, 1, "it is committed");
    }
}
