//! The way of a put, up to the writers: batches are cast to the table's types and gathered into units.
//!
//! A unit is what is committed as a whole: a record batch, or a whole put. Small units wait in memory,
//! within one budget for all puts, and go to the [writers](super::writer), where they share commits. A unit that
//! grows large, or that finds the budget spent, moves to a transaction and a connection of its own and is
//! written while it comes in; so memory stays bounded and no unit waits for another one's budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, PutOptions, TableName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::appender::TableWriter;
use super::ffi::ColumnShape;
use super::pool::{Pool, Session};
use super::types::Plan;
use super::writer;
use super::{Engine, transaction};
use crate::error::{Error, Result};

/// From this size on a unit has a transaction of its own.
const LARGE_UNIT_BYTES: usize = 32 << 20;

/// From this many rows on, too: more do not make a shared commit any cheaper.
const LARGE_UNIT_ROWS: u64 = 1 << 20;

/// How many batches of a large unit may wait for its transaction.
const LARGE_UNIT_BATCHES_WAITING: usize = 2;

/// The budget is counted in these, so that it fits the semaphore's range. No unit counts less than one.
const BUDGET_GRAIN_BYTES: usize = 1024;

/// The bytes that units may hold in memory before they are committed, over all puts.
#[derive(Clone)]
pub(super) struct Budget {
    grains: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let total = grains(bytes);
        Self {
            grains: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    fn take_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.grains
            .clone()
            .try_acquire_many_owned(grains(bytes))
            .ok()
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if grains(bytes) > self.total {
            return None;
        }
        self.grains
            .clone()
            .acquire_many_owned(grains(bytes))
            .await
            .ok()
    }
}

fn grains(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BUDGET_GRAIN_BYTES).max(1)).unwrap_or(u32::MAX >> 3)
}

/// What all units of a put have in common.
pub(super) struct Target {
    failed: AtomicBool,
    pub(super) table: TableName,
    pub(super) create: Create,
    /// The stream's schema.
    pub(super) schema: SchemaRef,
}

impl Target {
    /// Notes that a unit of this put was refused.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// Rows that are committed as a whole, on their way to a writer.
pub(super) struct Unit {
    pub(super) put: Arc<Target>,
    /// The rows as they were sent.
    pub(super) sent: Vec<RecordBatch>,
    /// The rows cast according to a plan made beforehand; void when the table has changed since.
    pub(super) cast: Option<(Arc<Plan>, Vec<RecordBatch>)>,
    pub(super) rows: u64,
    /// Whether `create: always` and `create: replace` are this unit's to do.
    pub(super) is_first: bool,
    pub(super) answer: oneshot::Sender<Result<u64>>,
    /// Freed once the unit is committed or refused.
    _budget: Option<OwnedSemaphorePermit>,
}

/// An open put: units are built from its batches and committed.
pub(crate) struct Put {
    engine: Engine,
    target: Arc<Target>,
    plan: Option<Arc<Plan>>,
    begun: bool,
}

/// What a record batch weighs against the budget.
pub(crate) struct SentBatch {
    /// The rows, checked.
    pub(crate) rows: RecordBatch,
    /// The memory they hold.
    pub(crate) bytes: usize,
}

impl Put {
    /// Opens a put: resolves the table and matches the stream's columns with it.
    pub(super) async fn open(
        engine: &Engine,
        options: &PutOptions,
        schema: SchemaRef,
    ) -> Result<Self> {
        let table = options.table.clone();
        let columns = engine.columns(&table).await?;
        let plan = match (&columns, options.create) {
            (None, Create::Never) => return Err(Error::NoTable(table)),
            (Some(_), Create::Always) => return Err(Error::TableExists(table)),
            // The table that the rows go into is yet to be made.
            (None, _) | (Some(_), Create::Replace) => {
                super::sql_type::create_table_sql("CREATE TABLE", &table.to_sql(), &schema)?;
                None
            }
            (Some(columns), _) => Some(Arc::new(Plan::new(&schema, columns)?)),
        };
        let target = Arc::new(Target {
            failed: AtomicBool::new(false),
            table,
            create: options.create,
            schema,
        });
        Ok(Self {
            engine: engine.clone(),
            target,
            plan,
            begun: false,
        })
    }

    /// Starts a unit.
    pub(crate) fn unit(&mut self) -> UnitBuilder<'_> {
        let is_first = !std::mem::replace(&mut self.begun, true);
        UnitBuilder {
            put: self,
            is_first,
            rows: 0,
            state: State::Small(Small::default()),
        }
    }
}

/// A unit that is growing. Dropped before [`UnitBuilder::commit`], it leaves nothing behind.
pub(crate) struct UnitBuilder<'a> {
    put: &'a Put,
    is_first: bool,
    rows: u64,
    state: State,
}

enum State {
    Small(Small),
    Large(Large),
}

#[derive(Default)]
struct Small {
    sent: Vec<RecordBatch>,
    cast: Vec<RecordBatch>,
    bytes: usize,
    budget: Option<OwnedSemaphorePermit>,
}

/// A unit that is being written in a transaction of its own.
struct Large {
    steps: mpsc::Sender<LargeStep>,
    answer: oneshot::Receiver<Result<u64>>,
}

enum LargeStep {
    Append(RecordBatch),
    /// All rows are there. A channel that closes without it rolls back.
    Commit,
}

/// What a commit will answer: the rows of the unit, once they are durable.
pub(crate) struct Committing(oneshot::Receiver<Result<u64>>);

impl Committing {
    /// Waits for the commit.
    pub(crate) async fn rows(self) -> Result<u64> {
        self.0.await.map_err(|_| Error::WorkerLost)?
    }
}

impl UnitBuilder<'_> {
    /// Adds a batch. Waits while the budget is spent, which holds back the client.
    pub(crate) async fn push(&mut self, batch: SentBatch) -> Result<()> {
        let rows_before = self.rows;
        self.rows += batch.rows.num_rows() as u64;
        if let State::Small(small) = &mut self.state {
            let plan = self.put.plan.as_deref();
            if self.rows < LARGE_UNIT_ROWS
                && small
                    .make_room(&self.put.engine.budget(), batch.bytes)
                    .await
            {
                return small.add(plan, batch.rows, rows_before);
            }
            let sent = std::mem::take(&mut small.sent);
            let large = Large::start(self.put, self.is_first).await?;
            self.state = State::Large(large);
            for batch in sent {
                self.push_large(batch).await?;
            }
        }
        self.push_large(batch.rows).await
    }

    async fn push_large(&mut self, batch: RecordBatch) -> Result<()> {
        let State::Large(large) = &mut self.state else {
            return Err(Error::WorkerLost);
        };
        if large.steps.send(LargeStep::Append(batch)).await.is_ok() {
            return Ok(());
        }
        // The transaction has failed, and its answer says why.
        let answer = std::mem::replace(&mut large.answer, oneshot::channel().1);
        Err(Committing(answer)
            .rows()
            .await
            .err()
            .unwrap_or(Error::WorkerLost))
    }

    /// Hands the unit over to be committed.
    pub(crate) async fn commit(self) -> Result<Committing> {
        match self.state {
            State::Large(Large { steps, answer }) => {
                // Where nobody takes the step, the answer says why.
                steps.send(LargeStep::Commit).await.ok();
                Ok(Committing(answer))
            }
            State::Small(small) => {
                let (answer, committing) = oneshot::channel();
                let plan = self.put.plan.clone();
                let unit = Unit {
                    put: self.put.target.clone(),
                    cast: plan.map(|plan| (plan, small.cast)),
                    sent: small.sent,
                    rows: self.rows,
                    is_first: self.is_first,
                    answer,
                    _budget: small.budget,
                };
                self.put.engine.submit(unit)?;
                Ok(Committing(committing))
            }
        }
    }
}

impl Small {
    /// Takes budget for `bytes` more; false when the unit must go on in a transaction of its own.
    async fn make_room(&mut self, budget: &Budget, bytes: usize) -> bool {
        if self.bytes + bytes > LARGE_UNIT_BYTES {
            return false;
        }
        let permit = match &self.budget {
            // A unit that holds nothing may wait for others; one that holds some must not.
            None => budget.take(bytes).await,
            Some(_) => budget.take_now(bytes),
        };
        let Some(permit) = permit else { return false };
        self.bytes += bytes;
        match &mut self.budget {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }

    fn add(&mut self, plan: Option<&Plan>, batch: RecordBatch, rows_before: u64) -> Result<()> {
        if let Some(plan) = plan {
            self.cast.push(plan.apply(&batch, rows_before)?);
        }
        self.sent.push(batch);
        Ok(())
    }
}

impl Large {
    async fn start(put: &Put, is_first: bool) -> Result<Self> {
        let target = put.target.clone();
        if target.create == Create::IfMissing && put.plan.is_none() {
            // In a commit of its own: while a long transaction creates a table, nobody else can put into it.
            let mut empty = Put {
                engine: put.engine.clone(),
                target: target.clone(),
                plan: None,
                begun: false,
            };
            empty.unit().commit().await?.rows().await?;
        }
        let (steps, receiver) = mpsc::channel(LARGE_UNIT_BATCHES_WAITING);
        let (sender, answer) = oneshot::channel();
        put.engine.large_units().submit(move |session| {
            sender
                .send(write_large(session, &target, is_first, receiver))
                .ok();
        })?;
        Ok(Self { steps, answer })
    }
}

/// Writes one large unit in its own transaction, batch by batch as they come.
fn write_large(
    session: &mut Session,
    target: &Target,
    is_first: bool,
    mut steps: mpsc::Receiver<LargeStep>,
) -> Result<u64> {
    transaction(&session.connection, |connection| {
        let columns = writer::resolve(connection, target, is_first, || ())?;
        let plan = Arc::new(Plan::new(&target.schema, &columns)?);
        let mut table = TableWriter::open(connection, &target.table, &plan)?;
        let mut rows = 0;
        loop {
            match steps.blocking_recv() {
                Some(LargeStep::Append(batch)) => {
                    table.append(&plan.apply(&batch, rows)?, rows)?;
                    rows += batch.num_rows() as u64;
                }
                Some(LargeStep::Commit) => {
                    table.finish()?;
                    return Ok(rows);
                }
                None => return Err(Error::PutCutShort),
            }
        }
    })
}

/// Where large units are written: few at a time, for each has a transaction that may take long.
pub(super) type LargeUnits = Pool;

/// The columns of tables as they were last seen: a hint that saves a look-up, checked in the transaction.
#[derive(Default)]
pub(super) struct SeenColumns(Mutex<HashMap<TableName, Columns>>);

pub(super) type Columns = Arc<[ColumnShape]>;

/// How many tables are remembered.
const MAX_SEEN_TABLES: usize = 4096;

impl SeenColumns {
    pub(super) fn get(&self, table: &TableName) -> Option<Columns> {
        self.lock().get(table).cloned()
    }

    pub(super) fn set(&self, table: &TableName, columns: &Columns) {
        let mut seen = self.lock();
        if seen.len() >= MAX_SEEN_TABLES {
            seen.clear();
        }
        seen.insert(table.clone(), columns.clone());
    }

    pub(super) fn forget(&self, table: &TableName) {
        self.lock().remove(table);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Columns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
