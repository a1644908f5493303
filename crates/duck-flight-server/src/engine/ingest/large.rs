//! Large units: each in a transaction of its own, written while it comes in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, PutOptions, SchemaMode, TableName};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Committing;
use super::producers::{Claim, Producers, Standing};
use super::queue::TurnToFill;
use super::queue::holds::{Others, Reach, Tables};
use super::recent::Recent;
use super::rejects::{MAX_REJECTS, RejectedBytes, Sifted};
use super::shared::Shared;
use super::staged::StagedRows;
use super::tables::resolve;
use super::target::{TableKey, Target};
use super::unit::{Answer, Committed};
use crate::engine::catalog::Columns;
use crate::engine::connections::lease::{Held, Place};
use crate::engine::connections::patience::{self, Patience};
use crate::engine::connections::pool::{ClientTransaction, Jobs, Pool, Session};
use crate::engine::ffi::append::MAX_CHUNK_ROWS;
use crate::engine::ffi::{Connection, Database};
use crate::engine::replay::{self, Steady};
use crate::engine::rows::appender::{STAGED, TableWriter, staged_table};
use crate::engine::rows::constraints::has_constraints;
use crate::engine::rows::effect::{Effect, check_names};
use crate::engine::rows::plan::Plan;
use crate::engine::rows::sql_type::create_table_sql;
use crate::engine::rows::stored::AT_FAULT;
use crate::engine::storage::mark::Before;
use crate::engine::{Engine, transaction};
use crate::error::{Error, Result, in_a_line};
use crate::unpacking::Room;

/// How many batches of a large unit may wait for its transaction.
const BATCHES_WAITING: usize = 2;

/// How many values are cast at once by the thread that writes them: as many as take 32 MiB where each takes eight bytes.
const VALUES_AT_ONCE: usize = 4 << 20;

/// How many large units are written at a time that only append rows, and how many others.
const APPENDS: usize = 4;
const CHANGES: usize = 2;

/// How many of either may wait.
const UNITS_WAITING: usize = 1024;

const fn jobs(name: &'static str) -> Jobs {
    Jobs {
        name,
        what: "puts that are too large for memory",
        remedy: "try again once some of them have ended",
    }
}

/// Where large units are written: few at a time, for each has a transaction that may take long.
pub(in crate::engine) struct LargeUnits {
    /// For those that only append rows: they wait for no table.
    pub(in crate::engine) appends: Pool,
    /// For those that may wait for their table: as long as somebody holds it they would keep the threads of all others.
    changes: Pool,
    stall_timeout: Duration,
}

impl LargeUnits {
    /// Starts the threads. A client that stands still for longer than `stall_timeout` while others wait for one is given up.
    pub(in crate::engine) fn start(database: &Database, stall_timeout: Duration) -> Result<Self> {
        Ok(Self {
            appends: Pool::start(jobs("large-append"), APPENDS, UNITS_WAITING, database)?,
            changes: Pool::start(jobs("large-change"), CHANGES, UNITS_WAITING, database)?,
            stall_timeout,
        })
    }

    /// Finishes what was begun and ends the threads. Blocks. Answers whether all had ended by the deadline; those that had not go
    /// on, and keep their connections.
    pub(in crate::engine) fn stop(&self, deadline: Instant) -> bool {
        let have_ended = [&self.appends, &self.changes].map(|pool| pool.stop(Some(deadline)));
        have_ended == [true; 2]
    }

    fn threads_for(&self, unit: &LargeUnit) -> &Pool {
        match unit.may_hold() {
            true => &self.changes,
            false => &self.appends,
        }
    }
}

/// A unit that is being written in a transaction of its own, or in a client's.
pub(crate) struct Large {
    engine: Engine,
    /// With its client, where that keeps others waiting.
    patience: Patience,
    started: oneshot::Receiver<()>,
    steps: mpsc::Sender<Step>,
    answer: oneshot::Receiver<Result<Committed>>,
}

enum Step {
    /// Rows, and the room that they have until they are written.
    Append(RecordBatch, Option<Room>),
    /// All rows are there. A channel that closes without it rolls back.
    Commit,
}

impl Large {
    /// Starts the transaction of a unit whose rows may refer to these tables. The put's `places` are free again once it has ended.
    pub(super) fn start(
        engine: &Engine,
        put: &Arc<Target>,
        sequence: Option<u64>,
        is_first: bool,
        referred: Vec<TableKey>,
        places: OwnedSemaphorePermit,
    ) -> Result<Self> {
        let (steps, receiver) = mpsc::channel(BATCHES_WAITING);
        let (sender, answer) = oneshot::channel();
        let giving = Answer::new(put.clone(), sender, Some(places));
        let mut unit = LargeUnit {
            put: put.clone(),
            sequence,
            is_first,
            referred,
            shared: engine.shared().clone(),
            steps: receiver,
        };
        let (start, started) = oneshot::channel();
        let units = engine.large_units();
        let threads = units.threads_for(&unit);
        threads.submit(move |session| {
            start.send(()).ok();
            let outcome = unit.write(&session.connection);
            giving.give(outcome.map_err(|error| unit.shared.observe(error)));
        })?;
        Ok(Self {
            engine: engine.clone(),
            patience: Patience::new(patience::Others::Jobs(threads.waits()), units.stall_timeout),
            started,
            steps,
            answer,
        })
    }

    /// Starts a put on a client's own connection: in the transaction that is open there, or in one of its own.
    pub(in crate::engine) fn start_on(
        engine: &Engine,
        mut held: Held,
        options: PutOptions,
        key: TableKey,
        schema: SchemaRef,
    ) -> Result<Self> {
        let (steps, receiver) = mpsc::channel(BATCHES_WAITING);
        let (sender, answer) = oneshot::channel();
        let shared = engine.shared().clone();
        let (start, started) = oneshot::channel();
        engine.queries().submit(move |thread| {
            start.send(()).ok();
            let observer = shared.clone();
            let write = |session: &mut Session| {
                let table = session.full_name(options.table.clone())?;
                let options = PutOptions { table, ..options };
                let put = Target::new(&options, key, Effect::Append, None, schema);
                let unit = LargeUnit {
                    put: Arc::new(put),
                    sequence: None,
                    is_first: true,
                    referred: Vec::new(),
                    shared,
                    steps: receiver,
                };
                unit.write_in_session(session)
            };
            let outcome = held
                .session(thread)
                .and_then(|session| session.attempt(write));
            sender
                .send(outcome.map_err(|error| observer.observe(error)))
                .ok();
        })?;
        Ok(Self {
            engine: engine.clone(),
            patience: engine.patience().clone(),
            started,
            steps,
            answer,
        })
    }

    /// Waits until a thread writes it: what were read meanwhile would count nowhere.
    pub(crate) async fn started(&mut self) {
        // One that never starts has an answer that says why.
        (&mut self.started).await.ok();
    }

    /// Waits for the client to go on. Gives it up when it keeps others waiting for too long, and when the session of `place` is
    /// closed.
    pub(crate) async fn wait_for_client<T>(
        &self,
        place: &Place,
        next: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.patience.bear(place, next).await
    }

    /// Adds a batch, having waited a little where the disk is nearly full; fails where no room is left on it, or when the transaction has
    /// failed.
    pub(crate) async fn push(&mut self, batch: RecordBatch, room: Option<Room>) -> Result<()> {
        self.engine.room().wait().await?;
        self.append(batch, room).await
    }

    /// As [`push`](Self::push), of a batch that is counted among the rows in memory: others would wait for what it takes.
    pub(super) async fn push_kept(&mut self, batch: RecordBatch) -> Result<()> {
        self.engine.room().check()?;
        self.append(batch, None).await
    }

    async fn append(&mut self, batch: RecordBatch, room: Option<Room>) -> Result<()> {
        if self.steps.send(Step::Append(batch, room)).await.is_ok() {
            return Ok(());
        }
        // The transaction has failed, and its answer says why.
        let answer = std::mem::replace(&mut self.answer, oneshot::channel().1);
        Err(Committing(answer)
            .done()
            .await
            .err()
            .unwrap_or(Error::WorkerLost))
    }

    /// Says that all rows are there.
    pub(crate) async fn commit(self) -> Committing {
        // Where nobody takes the step, the answer says why.
        self.steps.send(Step::Commit).await.ok();
        Committing(self.answer)
    }
}

/// A batch in parts of few enough values to be cast at once; one without rows, too.
pub(super) fn parts(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let at_once = VALUES_AT_ONCE / batch.num_columns().max(1);
    let at_once = at_once.max(MAX_CHUNK_ROWS);
    let starts = (0..batch.num_rows().max(1)).step_by(at_once);
    starts.map(move |start| batch.slice(start, at_once.min(batch.num_rows() - start)))
}

/// The turn in which a unit is committed.
struct CommitTurn<'c> {
    /// Looked at in the turn: after a checkpoint between the two the commit could not be marked.
    before: Before,
    _turn: TurnToFill<'c>,
}

struct LargeUnit {
    put: Arc<Target>,
    sequence: Option<u64>,
    is_first: bool,
    /// The tables that its rows may refer to by foreign keys: none for one in a client's transaction.
    referred: Vec<TableKey>,
    shared: Arc<Shared>,
    steps: mpsc::Receiver<Step>,
}

impl LargeUnit {
    /// Writes the unit batch by batch as they come, and commits it in its turn.
    fn write(&mut self, connection: &Connection) -> Result<Committed> {
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

    /// Drops the tables in which rows were gathered. What has become of the unit does not depend on it: where it fails, they
    /// stay until the connection's next unit replaces them.
    fn drop_gathered(&self, connection: &Connection) {
        let sql = format!("DROP TABLE IF EXISTS {STAGED}; DROP TABLE IF EXISTS {AT_FAULT}");
        if let Err(error) = connection.execute(&sql) {
            let error = self.shared.observe(error.into());
            tracing::warn!(error = %in_a_line(&error), "rows that were gathered are not dropped");
        }
    }

    /// Writes the unit on a client's own connection. Where a transaction is open there, it commits or rolls back the
    /// rows; and when they are not all written, nothing but a roll back is possible any more.
    fn write_in_session(mut self, session: &mut Session) -> Result<Committed> {
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

    fn identity(&self) -> Option<(&Claim, u64)> {
        self.put.claim.as_ref().zip(self.sequence)
    }

    /// Hands over each batch with the number of rows before it, and answers with the rows of all. A batch of very many values
    /// is cut: whoever takes it casts all of them at once, and they may become far larger.
    fn each_batch(&mut self, mut take: impl FnMut(&RecordBatch, u64) -> Result<()>) -> Result<u64> {
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

    /// Appends the rows in the open transaction of a client's connection: as they come, but for a table that is made with them.
    fn append_in_session(&mut self, connection: &Connection, put: &Target) -> Result<Committed> {
        if self.makes_anew() && !put.key.is_temporary() {
            return self.append_to_new_table(connection, put);
        }
        let columns = resolve(connection, put, self.is_first, None)?;
        self.append(connection, put, &columns, None)
    }

    /// Appends the rows as they come to a table with these columns, in the open transaction. Keeps those in `recent` that DuckDB
    /// has not looked at.
    fn append(
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

    /// Whether its table is made with it. DuckDB makes no checkpoint as long as a transaction has made a table, so that is done
    /// once all rows are there.
    fn makes_anew(&self) -> bool {
        self.is_first && self.put.makes_anew()
    }

    /// Whether it holds tables at its end, for which it waits until nobody else does.
    fn may_hold(&self) -> bool {
        self.put.effect.is_keyed() || self.makes_anew() || !self.referred.is_empty()
    }

    /// How rows are gathered that may be in the way of others, or at fault; `None` where they are written as they come. Those that
    /// refer to another table are gathered, too: while they came in, nobody could be let change its rows.
    fn gathering_plan(
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

    /// How the rows go into the table that is there. One that may be changed for them has been before the unit began: where it does not
    /// fit, somebody else has altered or replaced it since.
    fn plan(&self, columns: &Columns) -> Result<Arc<Plan>> {
        let put = &self.put;
        match put.plan(columns) {
            Err(Error::Columns(_)) if put.schema_mode != SchemaMode::Match => {
                Err(Error::TableAltered(put.table.clone()))
            }
            plan => plan.map(Arc::new),
        }
    }

    /// The columns of its table in the open transaction.
    fn columns(&self, connection: &Connection) -> Result<Columns> {
        let table = &self.put.table;
        let columns = connection.table_columns(table)?;
        let columns = columns.ok_or_else(|| Error::TableAltered(table.clone()))?;
        Ok(columns.into())
    }

    /// How rows go into the table that the unit is to make: by the columns of one like it, which is left as [`STAGED`].
    fn plan_of_new_table(&self, connection: &Connection) -> Result<Arc<Plan>> {
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

    /// Gathers the rows as they come in [`STAGED`], for a table with the columns of `like`.
    fn gather(
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

    /// Gathers the rows as they come; applies them, without those at fault, once all are there.
    fn gather_and_apply<'c>(
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

    /// Makes sure that the open transaction, which has written `rows` rows, can be replayed.
    fn secure(&self, connection: &Connection, rows: u64, steady: &Steady<'_>) -> Result<()> {
        let Target { table, effect, .. } = &*self.put;
        replay::secure_put(connection, table, rows, effect.is_keyed(), steady)
    }

    /// The end of the transaction, up to its commit: in its turn, if the unit is to be committed at all.
    fn finish<'c>(
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
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use duck_flight_protocol::Mode;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::connections::pool::Work;
    use crate::engine::ingest::SentBatch;

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
