//! Large units: each in a transaction of its own, written while it comes in.
//!
//! Here is what its put has of one, and the threads that write them. There a unit is [written](writing) as its rows come in; where
//! those may be in the way of others, or at fault, they are [gathered](gathering) first. An ingest on a client's own connection is
//! [written there](in_session).

mod gathering;
mod in_session;
mod writing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::PutOptions;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Committing;
use super::target::{TableKey, Target};
use super::unit::{Answer, Committed};
use crate::engine::Engine;
use crate::engine::connections::lease::{Held, Place};
use crate::engine::connections::patience::{self, Patience};
use crate::engine::connections::pool::{Jobs, Pool, Session};
use crate::engine::ffi::Database;
use crate::engine::ffi::append::MAX_CHUNK_ROWS;
use crate::engine::rows::effect::Effect;
use crate::error::{Error, Result};
use crate::unpacking::Room;
use writing::LargeUnit;

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
