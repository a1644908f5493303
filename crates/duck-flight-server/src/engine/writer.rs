//! The writers: group commit.
//!
//! DuckDB commits one transaction at a time and waits for the disk in each, so small units share commits.
//! A writer is a thread with a connection. It takes all units that wait, appends them in one transaction,
//! commits, and answers; meanwhile the next group gathers. There is no delay that somebody chose: an idle
//! writer commits a lone unit at once.
//!
//! A second writer appends while the first one commits, but only where much waits: two small groups would
//! wait for the disk twice. Groups commit in the order in which they were taken, so the units of a stream
//! commit in theirs. A group that fails is rolled back and halved until the offender stands alone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::RecordBatch;
use duck_flight_protocol::{Create, TableName};

use super::appender::TableWriter;
use super::checkpoint::CheckpointBell;
use super::ffi::{Connection, Database};
use super::ingest::{Columns, SeenColumns, Target, Unit};
use super::pool::STACK_BYTES;
use super::sql_type::create_table_sql;
use super::types::Plan;
use super::{Health, transaction};
use crate::error::{Error, Result};

/// A group is full at this many rows: DuckDB's row group, from which on rows are compressed and written
/// to the database file by the append itself.
const GROUP_ROWS: u64 = 122_880;

/// From this many waiting rows on a second writer joins in: appending them takes about as long as a commit
/// waits for the disk.
const SECOND_WRITER_ROWS: u64 = 16_384;

/// How often a unit is tried again when a client's DDL got in its way, and how long it waits each time for the
/// DDL that runs. More than that, and a long statement would hold up all writers.
const CONFLICT_TRIES: u32 = 20;
const CONFLICT_WAIT: Duration = Duration::from_millis(20);

/// All writers.
pub(super) struct Writers {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The units that wait, and whose turn it is to commit.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    units: VecDeque<Unit>,
    rows: u64,
    closed: bool,
    /// Writers that have taken a group and not answered it yet.
    busy: usize,
    /// The number of the next group to be taken, and of the next one to be committed.
    next_group: u64,
    turn: u64,
}

impl Writers {
    /// Starts `count` writers.
    pub(super) fn start(
        count: usize,
        database: &Database,
        seen: &Arc<SeenColumns>,
        health: &Health,
        bell: &CheckpointBell,
    ) -> Result<Self> {
        let queue = Arc::<Queue>::default();
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let connection = database.connect()?;
            let unordered = database.connect()?;
            give_up_order(&unordered)?;
            let writer = Writer {
                connection,
                unordered,
                queue: queue.clone(),
                seen: seen.clone(),
                health: health.clone(),
                bell: bell.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("writer-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || writer.run())
                .map_err(|source| Error::Io {
                    doing: "start a writer thread",
                    source,
                })?;
            threads.push(thread);
        }
        Ok(Self {
            queue,
            threads: Mutex::new(threads),
        })
    }

    /// Queues a unit. The queue is bounded by the budget that every unit holds a part of.
    pub(super) fn submit(&self, unit: Unit) -> Result<()> {
        let mut state = self.queue.lock();
        if state.closed {
            return Err(Error::ShuttingDown);
        }
        state.rows += unit.rows;
        state.units.push_back(unit);
        drop(state);
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Commits what waits and ends the threads. Blocks.
    pub(super) fn stop(&self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.join().ok();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for units that are this writer's to take, and takes all that may share a transaction. `None`
    /// when there will be no more.
    fn take(self: &Arc<Self>) -> Option<(Turn, Vec<Unit>)> {
        let mut state = self.lock();
        while !state.is_ready() {
            if state.closed && state.units.is_empty() {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let group = state.take_group();
        state.busy += 1;
        state.next_group += 1;
        let turn = Turn {
            queue: self.clone(),
            number: state.next_group - 1,
        };
        Some((turn, group))
    }
}

impl QueueState {
    fn is_ready(&self) -> bool {
        let enough = if self.busy == 0 {
            0
        } else {
            SECOND_WRITER_ROWS
        };
        !self.units.is_empty() && self.rows >= enough
    }

    fn take_group(&mut self) -> Vec<Unit> {
        let mut group: Vec<Unit> = Vec::new();
        let mut rows = 0;
        while rows < GROUP_ROWS
            && let Some(unit) = self.units.pop_front()
        {
            if group.first().is_some_and(|first| !may_join(first, &unit)) {
                self.units.push_front(unit);
                break;
            }
            rows += unit.rows;
            group.push(unit);
        }
        self.rows -= rows;
        group
    }
}

/// A group's place in the order of commits. Dropped, it is the next one's turn.
struct Turn {
    queue: Arc<Queue>,
    number: u64,
}

impl Turn {
    /// Waits until all groups taken before have been answered.
    fn wait(&self) {
        let mut state = self.queue.lock();
        while state.turn != self.number {
            state = self
                .queue
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.wait();
        let mut state = self.queue.lock();
        state.turn += 1;
        state.busy -= 1;
        drop(state);
        self.queue.changed.notify_all();
    }
}

/// Lets DuckDB append in any order: only so does it compress row groups while they are appended.
pub(super) fn give_up_order(connection: &Connection) -> Result<()> {
    Ok(connection.execute("SET SESSION preserve_insertion_order = false")?)
}

struct Writer {
    connection: Connection,
    /// For full groups: it compresses rows while they are appended, outside the locks of the commit, and gives
    /// up their order for it.
    unordered: Connection,
    queue: Arc<Queue>,
    seen: Arc<SeenColumns>,
    health: Health,
    bell: CheckpointBell,
}

impl Writer {
    fn run(self) {
        while let Some((turn, group)) = self.queue.take() {
            // Whoever waits for these units is told that their worker is lost.
            if catch_unwind(AssertUnwindSafe(|| self.write(&turn, group))).is_err() {
                tracing::error!("a writer panicked; its group is rolled back");
                self.connection.execute("ROLLBACK").ok();
                self.unordered.execute("ROLLBACK").ok();
            }
            drop(turn);
            self.bell.ring();
        }
    }

    /// Commits a group and answers its units.
    fn write(&self, turn: &Turn, group: Vec<Unit>) {
        let outcome = self.insert(turn, &group).and_then(|done| match done {
            true => Ok(()),
            false => self.append_in_turn(turn, &group),
        });
        match outcome {
            Ok(()) => answer(group),
            Err(error) => {
                // A group before this one may have been in the way; from here on none is.
                turn.wait();
                self.take_apart(group, error);
            }
        }
    }

    /// Appends a group while the one before it commits, and commits it in its turn.
    fn append_in_turn(&self, turn: &Turn, group: &[Unit]) -> Result<()> {
        // Making a table conflicts with another transaction that makes it, and one that waits for its turn
        // would be in the way of the one whose turn it is. So tables are made in turn only.
        if group.iter().any(|unit| unit.cast.is_none()) {
            turn.wait();
        }
        let rows: u64 = group.iter().map(|unit| unit.rows).sum();
        let connection = if rows < GROUP_ROWS {
            &self.connection
        } else {
            &self.unordered
        };
        transaction(connection, |connection| {
            self.append(connection, group, || turn.wait())?;
            turn.wait();
            check_puts(group)
        })
    }

    /// Commits a small group for one table by a single INSERT, which is a transaction in itself and costs a
    /// third of one that is begun and committed. False where the group needs more than that.
    fn insert(&self, turn: &Turn, group: &[Unit]) -> Result<bool> {
        let Some(plan) = single_insert(group) else {
            return Ok(false);
        };
        let table = &group[0].put.table;
        if !self
            .connection
            .table_columns(table)?
            .is_some_and(|columns| plan.fits(&columns))
        {
            return Ok(false);
        }
        let mut writer = TableWriter::open(&self.connection, table, plan)?;
        for unit in group {
            writer.append_unit(unit.cast.iter().flat_map(|(_, batches)| batches))?;
        }
        turn.wait();
        check_puts(group)?;
        writer.finish()?;
        Ok(true)
    }

    /// A group that failed: its halves are tried, down to the unit at fault.
    fn take_apart(&self, mut group: Vec<Unit>, error: Error) {
        let error = self.health.observe(error);
        let second = group.split_off(group.len().div_ceil(2));
        if second.is_empty() {
            if let Some(unit) = group.pop() {
                self.retry_or_refuse(unit, error);
            }
            return;
        }
        for half in [group, second] {
            match self.try_commit(&half) {
                Ok(()) => answer(half),
                Err(error) => self.take_apart(half, error),
            }
        }
    }

    /// A lone unit that failed: tried again where only the moment was wrong.
    fn retry_or_refuse(&self, unit: Unit, mut error: Error) {
        let group = [unit];
        for _ in 0..CONFLICT_TRIES {
            if !error.is_conflict() {
                break;
            }
            // While it is held no DDL begins.
            let _alone = self.connection.definitions().try_write_for(CONFLICT_WAIT);
            match self.try_commit(&group) {
                Ok(()) => return answer(group),
                Err(again) => error = again,
            }
        }
        let [unit] = group;
        unit.put.fail();
        unit.answer.send(Err(error)).ok();
    }

    fn try_commit(&self, group: &[Unit]) -> Result<()> {
        check_puts(group)?;
        transaction(&self.connection, |connection| {
            self.append(connection, group, || ())
        })
    }

    /// Appends a group within the open transaction: table by table, each table's units in their order.
    /// `before_create` is called before a table is made.
    fn append(
        &self,
        connection: &Connection,
        group: &[Unit],
        before_create: impl Fn(),
    ) -> Result<()> {
        let mut tables: Vec<&TableName> = group.iter().map(|unit| &unit.put.table).collect();
        tables.sort_unstable();
        tables.dedup();
        for table in tables {
            let units = group.iter().filter(|unit| unit.put.table == *table);
            self.append_to_table(connection, table, units, &before_create)?;
        }
        Ok(())
    }

    fn append_to_table<'u>(
        &self,
        connection: &Connection,
        table: &TableName,
        units: impl Iterator<Item = &'u Unit>,
        before_create: &impl Fn(),
    ) -> Result<()> {
        let mut columns: Option<Columns> = None;
        let mut open: Option<TableWriter<'_>> = None;
        for unit in units {
            let columns = match &columns {
                Some(columns) => columns,
                None => columns.insert(resolve(
                    connection,
                    &unit.put,
                    unit.is_first,
                    before_create,
                )?),
            };
            let replanned;
            let (plan, batches) = match &unit.cast {
                Some((plan, batches)) if plan.fits(columns) => (plan, batches),
                _ => {
                    // Not remembered: what this transaction sees may be of its own making, and undone.
                    self.seen.forget(table);
                    replanned = replan(unit, columns)?;
                    (&replanned.0, &replanned.1)
                }
            };
            if unit.rows == 0 {
                continue;
            }
            let writer = match open.take() {
                Some(writer) if writer.plan.is_same(plan) => open.insert(writer),
                other => {
                    other.map_or(Ok(()), TableWriter::finish)?;
                    open.insert(TableWriter::open(connection, table, plan)?)
                }
            };
            writer.append_unit(batches)?;
        }
        open.map_or(Ok(()), TableWriter::finish)
    }
}

fn answer(group: impl IntoIterator<Item = Unit>) {
    for unit in group {
        unit.answer.send(Ok(unit.rows)).ok();
    }
}

/// The plan by which all units of a group become one INSERT, where they do.
fn single_insert(group: &[Unit]) -> Option<&Arc<Plan>> {
    let first = group.first()?;
    let (plan, _) = first.cast.as_ref()?;
    let rows: u64 = group.iter().map(|unit| unit.rows).sum();
    let alike = |unit: &Unit| {
        unit.put.table == first.put.table
            && unit
                .cast
                .as_ref()
                .is_some_and(|(other, _)| other.is_same(plan))
    };
    (rows < SECOND_WRITER_ROWS && group.iter().all(alike)).then_some(plan)
}

/// Refuses units that follow a failed one in their stream: batches are committed in order, without gaps.
fn check_puts(group: &[Unit]) -> Result<()> {
    if group.iter().any(|unit| unit.put.has_failed()) {
        Err(Error::EarlierBatchFailed)
    } else {
        Ok(())
    }
}

/// Whether two units may share a transaction: DuckDB writes one database in each, and a unit that makes
/// its table anew stands alone.
fn may_join(first: &Unit, unit: &Unit) -> bool {
    let stands_alone =
        |unit: &Unit| unit.is_first && matches!(unit.put.create, Create::Always | Create::Replace);
    first.put.table.catalog == unit.put.table.catalog && !stands_alone(first) && !stands_alone(unit)
}

fn replan(unit: &Unit, columns: &Columns) -> Result<(Arc<Plan>, Vec<RecordBatch>)> {
    let plan = Arc::new(Plan::new(&unit.put.schema, columns)?);
    let mut batches = Vec::with_capacity(unit.sent.len());
    let mut rows = 0;
    for batch in &unit.sent {
        batches.push(plan.apply(batch, rows)?);
        rows += batch.num_rows() as u64;
    }
    Ok((plan, batches))
}

/// The columns of a put's table as this transaction sees it, made first where the put says so.
pub(super) fn resolve(
    connection: &Connection,
    target: &Target,
    is_first: bool,
    before_create: impl Fn(),
) -> Result<Columns> {
    let Target {
        table,
        create,
        schema,
        ..
    } = target;
    let columns = connection.table_columns(table)?;
    let verb = match (columns, create) {
        (Some(_), Create::Always) if is_first => return Err(Error::TableExists(table.clone())),
        (Some(_), Create::Replace) if is_first => "CREATE OR REPLACE TABLE",
        (Some(columns), _) => return Ok(columns.into()),
        (None, Create::Never) => return Err(Error::NoTable(table.clone())),
        (None, _) => "CREATE TABLE",
    };
    before_create();
    connection.execute(&create_table_sql(verb, &table.to_sql(), schema)?)?;
    let columns = connection.table_columns(table)?;
    Ok(columns.ok_or_else(|| Error::NoTable(table.clone()))?.into())
}
