//! A large unit on the thread that writes it: its rows as they come in, and its commit, in its turn.

use std::sync::Arc;

use arrow::array::RecordBatch;
use duck_flight_protocol::SchemaMode;
use tokio::sync::mpsc;

use super::{Step, parts};
use crate::engine::catalog::Columns;
use crate::engine::ffi::Connection;
use crate::engine::ingest::producers::{Claim, Producers, Standing};
use crate::engine::ingest::queue::TurnToFill;
use crate::engine::ingest::recent::Recent;
use crate::engine::ingest::rejects::{MAX_REJECTS, RejectedBytes, Sifted};
use crate::engine::ingest::shared::Shared;
use crate::engine::ingest::target::{TableKey, Target};
use crate::engine::ingest::unit::Committed;
use crate::engine::replay::{self, Steady};
use crate::engine::rows::appender::TableWriter;
use crate::engine::rows::constraints::has_constraints;
use crate::engine::rows::plan::Plan;
use crate::engine::storage::mark::Before;
use crate::engine::transaction;
use crate::error::{Error, Result};

pub(super) struct LargeUnit {
    pub(super) put: Arc<Target>,
    pub(super) sequence: Option<u64>,
    pub(super) is_first: bool,
    /// The tables that its rows may refer to by foreign keys: none for one in a client's transaction.
    pub(super) referred: Vec<TableKey>,
    pub(super) shared: Arc<Shared>,
    pub(super) steps: mpsc::Receiver<Step>,
}

/// The turn in which a unit is committed.
pub(super) struct CommitTurn<'c> {
    /// Looked at in the turn: after a checkpoint between the two the commit could not be marked.
    before: Before,
    _turn: TurnToFill<'c>,
}

impl LargeUnit {
    /// Whether it holds tables at its end, for which it waits until nobody else does.
    pub(super) fn may_hold(&self) -> bool {
        self.put.effect.is_keyed() || self.makes_anew() || !self.referred.is_empty()
    }

    /// Whether its table is made with it. DuckDB makes no checkpoint as long as a transaction has made a table, so that is done
    /// once all rows are there.
    pub(super) fn makes_anew(&self) -> bool {
        self.is_first && self.put.makes_anew()
    }

    /// Writes the unit batch by batch as they come, and commits it in its turn.
    pub(super) fn write(&mut self, connection: &Connection) -> Result<Committed> {
        let put = self.put.clone();
        if put.standing(self.sequence) == Standing::Duplicate {
            let rows = self.each_batch(|_, _| Ok(()))?;
            return Ok(Committed {
                rows,
                duplicate: true,
                rejected: 0,
            });
        }
        let mut turn = None;
        let seen = connection.indexes().seen();
        let mut steady = None;
        let makes_anew = self.makes_anew();
        // A table that is yet to be made nobody alters.
        let appending = (!makes_anew).then(|| self.shared.queue.append_to(&put.key));
        let plan = self.gathering_plan(connection, makes_anew)?;
        let is_gathered = plan.is_some();
        let outcome = match plan {
            Some(plan) => self.gather_and_apply(connection, plan, makes_anew, &mut turn),
            None => {
                let mut recent = Recent::default();
                let outcome = transaction(connection, |connection| {
                    let columns = self.columns(connection)?;
                    let keeps = has_constraints(connection, &put.table)?;
                    let kept = keeps.then_some(&mut recent);
                    let committed = self.append(connection, &put, &columns, kept)?;
                    let steady = steady.insert(connection.indexes().steady_since(seen));
                    self.secure(connection, committed.rows, steady)?;
                    self.finish(connection, &mut turn)?;
                    Ok(committed)
                });
                let lossless = &self.shared.lossless;
                outcome.map_err(|error| recent.named(connection, lossless, &put, error))
            }
        };
        drop(appending);
        // Still in its turn: what others commit behind half an entry of the log is never read again.
        let outcome = outcome.map_err(|error| self.shared.observe(error).of_put());
        if let Ok(committed) = &outcome {
            if makes_anew {
                self.shared.seen.forget_made(&put.key);
            }
            let mark = &self.shared.mark;
            let log_bytes = turn.as_ref().and_then(|turn| mark.write(turn.before));
            let commit = std::iter::once((&put.key, committed.rows));
            self.shared.bell.ring(log_bytes, commit);
            Producers::advance(self.identity());
        }
        drop(turn);
        if is_gathered {
            self.drop_gathered(connection);
        }
        outcome
    }

    /// Hands over each batch with the number of rows before it, and answers with the rows of all. A batch of very many values
    /// is cut: whoever takes it casts all of them at once, and they may become far larger.
    pub(super) fn each_batch(
        &mut self,
        mut take: impl FnMut(&RecordBatch, u64) -> Result<()>,
    ) -> Result<u64> {
        let mut rows = 0;
        loop {
            match self.steps.blocking_recv() {
                Some(Step::Append(batch, _room)) => {
                    for part in parts(&batch) {
                        take(&part, rows)?;
                        rows += part.num_rows() as u64;
                    }
                }
                Some(Step::Commit) => return Ok(rows),
                None => return Err(Error::PutCutShort),
            }
        }
    }

    /// Appends the rows as they come to a table with these columns, in the open transaction. Keeps those in `recent` that DuckDB
    /// has not looked at.
    pub(super) fn append(
        &mut self,
        connection: &Connection,
        put: &Target,
        columns: &Columns,
        mut recent: Option<&mut Recent>,
    ) -> Result<Committed> {
        let plan = self.plan(columns)?;
        let mut table = TableWriter::open(connection, &put.table, &plan, 0)?;
        let (shared, sequence) = (self.shared.clone(), self.sequence);
        let (mut rejected, mut rejected_bytes) = (0, RejectedBytes::default());
        let rows = self.each_batch(|batch, rows_before| {
            let Sifted { cast, rejects } = put.cast(&plan, batch, rows_before)?;
            rejected += rejects.len() as u64;
            if rejected > MAX_REJECTS as u64 {
                return Err(Error::TooManyRejects(MAX_REJECTS));
            }
            rejected_bytes.add(&rejects)?;
            shared.rejects.write(connection, put, sequence, &rejects)?;
            if let Some(recent) = &mut recent {
                recent.keep_last(table.waiting());
                recent.add(&plan, &cast);
            }
            table.append(&cast, rows_before)
        })?;
        table.finish()?;
        Ok(Committed {
            rows: rows - rejected,
            duplicate: false,
            rejected,
        })
    }

    /// How the rows go into the table that is there. One that may be changed for them has been before the unit began: where it does not
    /// fit, somebody else has altered or replaced it since.
    pub(super) fn plan(&self, columns: &Columns) -> Result<Arc<Plan>> {
        let put = &self.put;
        match put.plan(columns) {
            Err(Error::Columns(_)) if put.schema_mode != SchemaMode::Match => {
                Err(Error::TableAltered(put.table.clone()))
            }
            plan => plan.map(Arc::new),
        }
    }

    /// The columns of its table in the open transaction.
    pub(super) fn columns(&self, connection: &Connection) -> Result<Columns> {
        let table = &self.put.table;
        let columns = connection.table_columns(table)?;
        let columns = columns.ok_or_else(|| Error::TableAltered(table.clone()))?;
        Ok(columns.into())
    }

    /// Makes sure that the open transaction, which has written `rows` rows, can be replayed.
    pub(super) fn secure(
        &self,
        connection: &Connection,
        rows: u64,
        steady: &Steady<'_>,
    ) -> Result<()> {
        let Target { table, effect, .. } = &*self.put;
        replay::secure_put(connection, table, rows, effect.is_keyed(), steady)
    }

    /// The end of the transaction, up to its commit: in its turn, if the unit is to be committed at all.
    pub(super) fn finish<'c>(
        &self,
        connection: &'c Connection,
        turn: &mut Option<CommitTurn<'c>>,
    ) -> Result<()> {
        // That of a try before would keep this one waiting.
        *turn = None;
        let own = self.shared.queue.turn_to_fill(connection);
        *turn = Some(CommitTurn {
            before: self.shared.mark.before(),
            _turn: own,
        });
        self.shared.health.check()?;
        if let Some((claim, sequence)) = self.identity() {
            match claim.standing(sequence) {
                Standing::New => {}
                Standing::Duplicate => return Err(Error::Resent(sequence)),
                Standing::Fenced => return Err(claim.fenced_error()),
            }
        }
        if self.put.has_failed() {
            return Err(Error::EarlierBatchFailed);
        }
        if self.put.effect.is_keyed() {
            let table = self.put.table.table.clone();
            connection.changes().note_rows(Some(table));
        }
        self.shared.producers.write(connection, self.identity())
    }

    fn identity(&self) -> Option<(&Claim, u64)> {
        self.put.claim.as_ref().zip(self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use duck_flight_protocol::PutOptions;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::engine::connections::lease::Place;
    use crate::engine::ingest::large::Large;
    use crate::engine::rows::effect::Effect;
    use crate::engine::{Engine, EngineOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_table_that_was_replaced_before_the_unit_began_is_told_as_altered() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let sql = "CREATE TABLE t (k BIGINT PRIMARY KEY)".to_owned();
        engine.execute(&Place::Any, sql).await.unwrap();
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("k", keys.clone()), ("z", keys)]).unwrap();
        let options = PutOptions {
            schema: SchemaMode::Evolve,
            ..PutOptions::new("t")
        };
        let upsert = Effect::Upsert {
            key: vec!["k".to_owned()],
        };
        for effect in [Effect::Append, upsert] {
            let key = engine.table_key(&options.table);
            let put = Target::new(&options, key, effect, None, rows.schema());
            let places = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let unit =
                Large::start(&engine, &Arc::new(put), None, false, Vec::new(), places).unwrap();
            let refused = unit.commit().await.done().await;
            assert!(
                matches!(refused, Err(Error::TableAltered(_))),
                "{refused:?}"
            );
        }
    }
}
