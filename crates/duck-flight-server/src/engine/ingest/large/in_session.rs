//! An ingest on a client's own connection: in the transaction that is open there, or in one of its own.

use super::writing::LargeUnit;
use crate::engine::connections::pool::{ClientTransaction, Session};
use crate::engine::ffi::Connection;
use crate::engine::ingest::tables::resolve;
use crate::engine::ingest::target::Target;
use crate::engine::ingest::unit::Committed;
use crate::engine::replay;
use crate::engine::rows::appender::{STAGED, staged_table};
use crate::engine::transaction;
use crate::error::Result;

impl LargeUnit {
    /// Writes the unit on a client's own connection. Where a transaction is open there, it commits or rolls back the
    /// rows; and when they are not all written, nothing but a roll back is possible any more.
    pub(super) fn write_in_session(mut self, session: &mut Session) -> Result<Committed> {
        let put = self.put.clone();
        let connection = &session.connection;
        if session.transaction == ClientTransaction::None {
            return self.commit_in_session(connection);
        }
        let rows_written = session.work.rows_written;
        let outcome = self.append_in_session(connection, &put);
        let outcome = outcome.and_then(|committed| {
            let steady = connection.indexes().steady_since(session.work.seen_indexes);
            let rows = committed.rows;
            replay::secure_append(connection, &put.table, rows_written, rows, &steady)?;
            Ok(committed)
        });
        if outcome.is_err() {
            connection.spoil_transaction();
        }
        session.work.defines |= connection.changes().define();
        let rows = outcome.as_ref().map_or(0, |committed| committed.rows);
        session.work.rows_written = rows_written.saturating_add(rows);
        outcome
    }

    /// Writes the unit on a client's own connection in a transaction of its own, as into a temporary table.
    fn commit_in_session(&mut self, connection: &Connection) -> Result<Committed> {
        let put = self.put.clone();
        let seen = connection.indexes().seen();
        let (mut steady, mut defines) = (None, false);
        let (committed, before) = transaction(connection, |connection| {
            let committed = self.append_in_session(connection, &put)?;
            let steady = steady.insert(connection.indexes().steady_since(seen));
            self.secure(connection, committed.rows, steady)?;
            defines = connection.changes().define();
            Ok((committed, self.shared.mark.before()))
        })?;
        if defines {
            self.shared.seen.forget_all();
        }
        // A client's transaction may have ended while the ingest waited for it. Nothing of a temporary table is in the log.
        if !put.key.is_temporary() {
            let log_bytes = self.shared.mark.write(before);
            let commit = std::iter::once((&put.key, committed.rows));
            self.shared.bell.ring(log_bytes, commit);
        }
        Ok(committed)
    }

    /// Appends the rows in the open transaction of a client's connection: as they come, but for a table that is made with them.
    fn append_in_session(&mut self, connection: &Connection, put: &Target) -> Result<Committed> {
        if self.makes_anew() && !put.key.is_temporary() {
            return self.append_to_new_table(connection, put);
        }
        let columns = resolve(connection, put, self.is_first, None)?;
        self.append(connection, put, &columns, None)
    }

    /// Makes the table and appends the rows, once all are there, in the open transaction.
    fn append_to_new_table(&mut self, connection: &Connection, put: &Target) -> Result<Committed> {
        let plan = self.plan_of_new_table(connection)?;
        let rows = self.gather(connection, &staged_table(), plan)?;
        resolve(connection, put, self.is_first, None)?;
        rows.plan
            .apply_staged(connection, &put.table, rows.sent())?;
        connection.execute(&format!("DROP TABLE {STAGED}"))?;
        Ok(rows.committed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use duck_flight_protocol::{Create, PutOptions};
    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::connections::pool::Work;
    use crate::engine::ingest::large::{BATCHES_WAITING, Step};
    use crate::engine::rows::effect::Effect;
    use crate::engine::{Engine, EngineOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingest_that_makes_its_table_in_a_clients_transaction_is_a_definition() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("i", ids)]).unwrap();
        for (create, is_one) in [
            (Create::IfMissing, true),
            (Create::IfMissing, false),
            (Create::Replace, true),
        ] {
            let options = PutOptions {
                create,
                ..PutOptions::new("t")
            };
            let key = engine.table_key(&options.table);
            let put = Target::new(&options, key, Effect::Append, None, rows.schema());
            let (steps, receiver) = mpsc::channel(BATCHES_WAITING);
            for step in [Step::Append(rows.clone(), None), Step::Commit] {
                assert!(steps.try_send(step).is_ok());
            }
            let unit = LargeUnit {
                put: Arc::new(put),
                sequence: None,
                is_first: true,
                referred: Vec::new(),
                shared: engine.shared().clone(),
                steps: receiver,
            };
            let ingested = engine.large_units().changes.run(move |session, _| {
                session.connection.begin()?;
                session.transaction = ClientTransaction::Open;
                session.work = Work::none(&session.connection);
                unit.write_in_session(session)?;
                session.connection.commit()?;
                session.transaction = ClientTransaction::None;
                Ok(session.work.defines)
            });
            assert_eq!(ingested.await.unwrap(), is_one, "{create:?}");
        }
    }
}
