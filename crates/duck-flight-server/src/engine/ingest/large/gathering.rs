//! Rows that may be in the way of others, or at fault: they are gathered in a temporary table as they come in, and go from there to
//! their own once all are there.

use std::sync::Arc;

use duck_flight_protocol::{Create, TableName};

use super::writing::{CommitTurn, LargeUnit};
use crate::engine::catalog::Columns;
use crate::engine::ffi::Connection;
use crate::engine::ingest::queue::holds::{Others, Reach, Tables};
use crate::engine::ingest::staged::StagedRows;
use crate::engine::ingest::tables::resolve;
use crate::engine::ingest::unit::Committed;
use crate::engine::rows::appender::{STAGED, TableWriter, staged_table};
use crate::engine::rows::effect::check_names;
use crate::engine::rows::plan::Plan;
use crate::engine::rows::sql_type::create_table_sql;
use crate::engine::rows::stored::AT_FAULT;
use crate::engine::transaction;
use crate::error::{Error, Result, in_a_line};

impl LargeUnit {
    /// How rows are gathered that may be in the way of others, or at fault; `None` where they are written as they come. Those that
    /// refer to another table are gathered, too: while they came in, nobody could be let change its rows.
    pub(super) fn gathering_plan(
        &self,
        connection: &Connection,
        makes_anew: bool,
    ) -> Result<Option<Arc<Plan>>> {
        let put = &self.put;
        let refers = !self.referred.is_empty();
        if makes_anew {
            return self.plan_of_new_table(connection).map(Some);
        }
        let columns = self.make_table(connection)?;
        let must_be_gathered = put.effect.is_keyed() || refers;
        if !must_be_gathered && !put.rejects {
            return Ok(None);
        }
        let plan = self.plan(&columns)?;
        if refers {
            check_names(plan.given().map(|column| column.field.name()))?;
        }
        let is_gathered = must_be_gathered || plan.may_be_refused(connection, &put.table)?;
        Ok(is_gathered.then_some(plan))
    }

    /// How rows go into the table that the unit is to make: by the columns of one like it, which is left as [`STAGED`].
    pub(super) fn plan_of_new_table(&self, connection: &Connection) -> Result<Arc<Plan>> {
        let put = &*self.put;
        if put.create == Create::Always && connection.table_columns(&put.table)?.is_some() {
            return Err(Error::TableExists(put.table.clone()));
        }
        check_names(put.schema.fields().iter().map(|field| field.name()))?;
        let like = staged_table();
        connection.execute(&create_table_sql(
            "CREATE OR REPLACE TEMP TABLE",
            &like.to_sql(),
            &put.schema,
            &put.effect,
            put.schema_mode,
        )?)?;
        let columns = connection.table_columns(&like)?;
        let columns = columns.ok_or(Error::NoTable(like))?.into();
        put.plan(&columns).map(Arc::new)
    }

    /// Makes the table where it is missing, and answers with its columns. It is made in a turn and a commit of its own: as long as the
    /// unit's own transaction had made it nobody else could put into it, and DuckDB would make no checkpoint.
    fn make_table(&self, connection: &Connection) -> Result<Columns> {
        if let Some(columns) = connection.table_columns(&self.put.table)? {
            return Ok(columns.into());
        }
        let turn = self.shared.queue.turn();
        turn.wait();
        let made = transaction(connection, |connection| {
            resolve(connection, &self.put, self.is_first, None)
        });
        // Still in its turn, as at the end of the unit.
        made.map_err(|error| self.shared.observe(error))
    }

    /// Gathers the rows as they come; applies them, without those at fault, once all are there.
    pub(super) fn gather_and_apply<'c>(
        &mut self,
        connection: &'c Connection,
        plan: Arc<Plan>,
        makes_anew: bool,
        turn: &mut Option<CommitTurn<'c>>,
    ) -> Result<Committed> {
        let put = self.put.clone();
        let like = match makes_anew {
            true => staged_table(),
            false => put.table.clone(),
        };
        let mut rows = self.gather(connection, &like, plan)?;
        // No other loader makes the table or changes its rows meanwhile, nor those that its rows refer to.
        let others = match makes_anew {
            true => Others::All,
            false => Others::Changing,
        };
        let is_changed = makes_anew || put.effect.is_keyed();
        let changed = is_changed.then(|| put.key.clone());
        let reach = Reach {
            changed: Tables::These(changed.into_iter().collect()),
            referred: self.referred.clone(),
        };
        let _hold = (!reach.is_empty()).then(|| self.shared.queue.hold(reach, others));
        let steady = connection.indexes().steady();
        let lossless = &self.shared.lossless;
        rows.apply(
            connection,
            lossless,
            &put,
            turn,
            |connection, rows, turn| {
                let columns = match makes_anew {
                    true => resolve(connection, &put, self.is_first, None)?,
                    false => self.columns(connection)?,
                };
                // DuckDB would cast them once more, and round what does not fit.
                if !rows.plan.still_fits(&columns) {
                    return Err(Error::TableAltered(put.table.clone()));
                }
                rows.plan
                    .apply_staged(connection, &put.table, rows.sent())?;
                self.secure(connection, rows.sent(), &steady)?;
                let rejects = rows.rejects();
                self.shared
                    .rejects
                    .write(connection, &put, self.sequence, rejects)?;
                self.finish(connection, turn)
            },
        )?;
        Ok(rows.committed())
    }

    /// Gathers the rows as they come in [`STAGED`], for a table with the columns of `like`.
    pub(super) fn gather(
        &mut self,
        connection: &Connection,
        like: &TableName,
        plan: Arc<Plan>,
    ) -> Result<StagedRows> {
        let put = self.put.clone();
        let mut staged = TableWriter::stage(connection, like, &plan)?;
        let mut rows = StagedRows::new(plan);
        self.each_batch(|batch, _| rows.add(&mut staged, &put, batch))?;
        staged.finish()?;
        Ok(rows)
    }

    /// Drops the tables in which rows were gathered. What has become of the unit does not depend on it: where it fails, they
    /// stay until the connection's next unit replaces them.
    pub(super) fn drop_gathered(&self, connection: &Connection) {
        let sql = format!("DROP TABLE IF EXISTS {STAGED}; DROP TABLE IF EXISTS {AT_FAULT}");
        if let Err(error) = connection.execute(&sql) {
            let error = self.shared.observe(error.into());
            tracing::warn!(error = %in_a_line(&error), "rows that were gathered are not dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use duck_flight_protocol::{Mode, PutOptions};

    use super::*;
    use crate::engine::connections::lease::Place;
    use crate::engine::ingest::SentBatch;
    use crate::engine::{Engine, EngineOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_unit_is_committed_although_what_it_gathered_cannot_be_dropped() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        engine
            .execute(
                &Place::Any,
                "CREATE TABLE t (i BIGINT PRIMARY KEY)".to_owned(),
            )
            .await
            .unwrap();
        // No DROP TABLE drops a view. The connection that was used last is the next one's.
        engine
            .large_units()
            .changes
            .run(|session, _| {
                let sql = "CREATE TEMP VIEW duck_flight_at_fault AS SELECT 1";
                Ok(session.connection.execute(sql)?)
            })
            .await
            .unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let rows = RecordBatch::try_from_iter([("i", ids)]).unwrap();
        let options = PutOptions {
            mode: Mode::Upsert,
            producer: Some("p".into()),
            ..PutOptions::new("t")
        };
        let mut put = engine.put(&options, rows.schema()).await.unwrap();
        let mut unit = put.unit(Some(7)).await.unwrap();
        // What weighs so much is a large unit.
        let bytes = 1 << 30;
        let room = None;
        unit.push(SentBatch { rows, bytes, room }).await.unwrap();
        let committed = unit.commit().await.unwrap().done().await.unwrap();
        assert_eq!(committed.rows, 1000);
        assert_eq!(put.last_sequence(), Some(7));
    }
}
