//! The writers: group commit.
//!
//! DuckDB commits one transaction at a time and waits for the disk in each, so small units share commits.
//! Each writer is a thread with a connection and a lane of waiting units. It takes all that waits, appends
//! it in one transaction, commits, and answers; meanwhile the next group gathers. There is no delay that
//! somebody chose: an idle writer commits a lone unit at once.
//!
//! While one writer waits for the disk another appends. A stream keeps its lane, so its units commit in
//! their order. When a group fails it is rolled back and halved until the offender stands alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use duck_flight_protocol::{Create, TableName};
use tokio::sync::mpsc;

use super::checkpoint::CheckpointBell;
use super::ffi::append::MAX_CHUNK_ROWS;
use super::ffi::{Appender, ArrowImporter, Connection, Database};
use super::ingest::{Columns, SeenColumns, Target, Unit};
use super::pool::STACK_BYTES;
use super::sql_error::SqlError;
use super::types::{Plan, create_table_sql};
use super::{Health, transaction};
use crate::error::{Error, Result};

/// A group is full at this many rows: DuckDB's row group, from which on rows are compressed and written
/// to the database file by the append itself.
const GROUP_ROWS: u64 = 122_880;

/// How often a unit is tried again when a client's own DDL got in its way.
const CONFLICT_TRIES: u32 = 20;

/// All writers.
pub(super) struct Writers {
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to one writer. Clones count as its streams.
pub(super) struct Lane {
    units: mpsc::UnboundedSender<Unit>,
    streams: Arc<AtomicUsize>,
}

impl Clone for Lane {
    fn clone(&self) -> Self {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            units: self.units.clone(),
            streams: self.streams.clone(),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    /// Queues a unit. The queue is bounded by the budget that every unit holds a part of.
    pub(super) fn submit(&self, unit: Unit) -> Result<()> {
        self.units.send(unit).map_err(|_| Error::ShuttingDown)
    }
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
        let mut writers = Self {
            lanes: Vec::new(),
            threads: Vec::new(),
        };
        for index in 0..count {
            let connection = database.connect()?;
            set_up(&connection)?;
            let (units, waiting) = mpsc::unbounded_channel();
            let writer = Writer {
                connection,
                waiting,
                held: None,
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
            writers.lanes.push(Lane {
                units,
                streams: Arc::new(AtomicUsize::new(1)),
            });
            writers.threads.push(thread);
        }
        Ok(writers)
    }

    pub(super) fn first_lane(&self) -> Lane {
        self.lanes[0].clone()
    }

    pub(super) fn least_busy_lane(&self) -> Lane {
        let lane = self
            .lanes
            .iter()
            .min_by_key(|lane| lane.streams.load(Ordering::Relaxed));
        lane.unwrap_or(&self.lanes[0]).clone()
    }

    /// Commits what waits and ends the threads. Blocks until no stream holds a lane.
    pub(super) fn stop(self) {
        drop(self.lanes);
        for thread in self.threads {
            thread.join().ok();
        }
    }
}

/// What every connection that writes needs: row groups compressed by the append, outside the commit's locks.
pub(super) fn set_up(connection: &Connection) -> Result<()> {
    Ok(connection.execute("SET SESSION preserve_insertion_order = false")?)
}

struct Writer {
    connection: Connection,
    waiting: mpsc::UnboundedReceiver<Unit>,
    /// Taken from the queue, but for the next group.
    held: Option<Unit>,
    seen: Arc<SeenColumns>,
    health: Health,
    bell: CheckpointBell,
}

impl Writer {
    fn run(mut self) {
        while let Some(unit) = self.held.take().or_else(|| self.waiting.blocking_recv()) {
            let group = self.gather(unit);
            self.commit(group);
            self.bell.ring();
        }
    }

    /// Takes all that waits and may share a transaction with `first`.
    fn gather(&mut self, first: Unit) -> Vec<Unit> {
        let mut rows = first.rows;
        let mut group = vec![first];
        while rows < GROUP_ROWS
            && let Ok(unit) = self.waiting.try_recv()
        {
            if !may_join(&group[0], &unit) {
                self.held = Some(unit);
                break;
            }
            rows += unit.rows;
            group.push(unit);
        }
        group
    }

    /// Commits a group and answers its units; where that fails, halves of it, down to the unit at fault.
    fn commit(&self, mut group: Vec<Unit>) {
        let outcome = transaction(&self.connection, |connection| {
            self.append(connection, &group)
        });
        let error = match outcome {
            Ok(()) => {
                for unit in group {
                    unit.answer.send(Ok(unit.rows)).ok();
                }
                return;
            }
            Err(error) => self.health.observe(error),
        };
        let second = group.split_off(group.len() / 2);
        match (group.is_empty(), second) {
            (true, mut alone) => {
                if let Some(unit) = alone.pop() {
                    self.retry_or_refuse(unit, error);
                }
            }
            (false, second) => {
                self.commit(group);
                self.commit(second);
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
            std::thread::yield_now();
            match transaction(&self.connection, |connection| {
                self.append(connection, &group)
            }) {
                Ok(()) => {
                    let [unit] = group;
                    unit.answer.send(Ok(unit.rows)).ok();
                    return;
                }
                Err(again) => error = again,
            }
        }
        let [unit] = group;
        unit.answer.send(Err(error)).ok();
    }

    /// Appends a group within the open transaction: table by table, each table's units in their order.
    fn append(&self, connection: &Connection, group: &[Unit]) -> Result<()> {
        let mut tables: Vec<&TableName> = group.iter().map(|unit| &unit.target.table).collect();
        tables.sort_unstable();
        tables.dedup();
        for table in tables {
            let units = group.iter().filter(|unit| unit.target.table == *table);
            self.append_to_table(connection, table, units)?;
        }
        Ok(())
    }

    fn append_to_table<'u>(
        &self,
        connection: &Connection,
        table: &TableName,
        units: impl Iterator<Item = &'u Unit>,
    ) -> Result<()> {
        let mut columns: Option<Columns> = None;
        let mut open: Option<TableWriter<'_>> = None;
        for unit in units {
            let columns = match &columns {
                Some(columns) => columns,
                None => columns.insert(resolve(connection, &unit.target, unit.is_first)?),
            };
            let replanned;
            let (plan, batches) = match &unit.cast {
                Some((plan, batches)) if plan.fits(columns) => (plan.as_ref(), batches),
                _ => {
                    self.seen.set(table, Some(columns));
                    replanned = replan(unit, columns)?;
                    (&replanned.0, &replanned.1)
                }
            };
            if unit.rows == 0 {
                continue;
            }
            let writer = match open.take() {
                Some(writer) if writer.takes(plan) => open.insert(writer),
                other => {
                    other.map_or(Ok(()), TableWriter::finish)?;
                    open.insert(TableWriter::open(connection, table, plan)?)
                }
            };
            let mut rows = 0;
            for batch in batches {
                writer.append(batch, rows)?;
                rows += batch.num_rows() as u64;
            }
        }
        open.map_or(Ok(()), TableWriter::finish)
    }
}

/// Whether two units may share a transaction: DuckDB writes one database in each, and a unit that makes
/// its table anew stands alone.
fn may_join(first: &Unit, unit: &Unit) -> bool {
    let stands_alone = |unit: &Unit| {
        unit.is_first && matches!(unit.target.create, Create::Always | Create::Replace)
    };
    first.target.table.catalog == unit.target.table.catalog
        && !stands_alone(first)
        && !stands_alone(unit)
}

fn replan(unit: &Unit, columns: &Columns) -> Result<(Plan, Vec<RecordBatch>)> {
    let plan = Plan::new(&unit.target.schema, columns)?;
    let mut batches = Vec::with_capacity(unit.sent.len());
    let mut rows = 0;
    for batch in &unit.sent {
        batches.push(plan.apply(batch, rows)?);
        rows += batch.num_rows() as u64;
    }
    Ok((plan, batches))
}

/// The columns of a put's table as this transaction sees it, made first where the put says so.
pub(super) fn resolve(connection: &Connection, target: &Target, is_first: bool) -> Result<Columns> {
    let Target {
        table,
        create,
        schema,
    } = target;
    let columns = connection.table_columns(table)?;
    let verb = match (columns, create) {
        (Some(_), Create::Always) if is_first => return Err(Error::TableExists(table.clone())),
        (Some(_), Create::Replace) if is_first => "CREATE OR REPLACE TABLE",
        (Some(columns), _) => return Ok(columns.into()),
        (None, Create::Never) => return Err(Error::NoTable(table.clone())),
        (None, _) => "CREATE TABLE",
    };
    connection.execute(&create_table_sql(verb, &table.to_sql(), schema)?)?;
    let columns = connection.table_columns(table)?;
    Ok(columns.ok_or_else(|| Error::NoTable(table.clone()))?.into())
}

/// Appends batches of one plan to one table.
pub(super) struct TableWriter<'a> {
    connection: &'a Connection,
    table: TableName,
    given: Option<Vec<String>>,
    schema: arrow::datatypes::SchemaRef,
    appender: Appender<'a>,
    importer: ArrowImporter<'a>,
}

impl<'a> TableWriter<'a> {
    pub(super) fn open(connection: &'a Connection, table: &TableName, plan: &Plan) -> Result<Self> {
        let given = plan.given();
        Ok(Self {
            connection,
            table: table.clone(),
            appender: connection.appender(table, given.as_deref())?,
            importer: connection.importer(plan.schema())?,
            schema: plan.schema().clone(),
            given,
        })
    }

    /// Whether batches of this plan go through the same appender.
    fn takes(&self, plan: &Plan) -> bool {
        self.schema == *plan.schema() && self.given == plan.given()
    }

    /// Appends a batch in chunks. `rows_before` are the rows of the unit before it, for errors.
    pub(super) fn append(&mut self, batch: &RecordBatch, rows_before: u64) -> Result<()> {
        let rows = batch.num_rows();
        for start in (0..rows).step_by(MAX_CHUNK_ROWS) {
            let slice = batch.slice(start, MAX_CHUNK_ROWS.min(rows - start));
            let chunk = self.importer.import(&slice)?;
            if let Err(error) = self.appender.append(&chunk) {
                return Err(self.find_row(&slice, rows_before + start as u64, error));
            }
        }
        Ok(())
    }

    /// Writes what was appended into the transaction.
    pub(super) fn finish(mut self) -> Result<()> {
        Ok(self.appender.flush()?)
    }

    /// Names the row and the value that DuckDB could not cast; it tells only the column.
    fn find_row(&mut self, slice: &RecordBatch, rows_before: u64, error: SqlError) -> Error {
        let Some(index) = column_in(&error.message).filter(|index| *index < slice.num_columns())
        else {
            return error.into();
        };
        // An appender of its own, never flushed: one row after another until one fails.
        let Ok(mut scratch) = self.connection.appender(&self.table, self.given.as_deref()) else {
            return error.into();
        };
        let bad = (0..slice.num_rows()).find(|&row| {
            let chunk = self.importer.import(&slice.slice(row, 1));
            chunk.is_ok_and(|chunk| scratch.append(&chunk).is_err())
        });
        let Some(row) = bad else { return error.into() };
        let column = slice.schema_ref().field(index);
        let value = array_value_to_string(slice.column(index), row).unwrap_or_default();
        let types = error
            .message
            .split_once("expected ")
            .and_then(|(_, rest)| rest.split_once(", got "));
        let (expected, got) = types.map_or(("the table's type", ""), |(expected, rest)| {
            (
                expected,
                rest.split(" for column").next().unwrap_or_default(),
            )
        });
        Error::Value {
            row: rows_before + row as u64 + 1,
            column: column.name().clone(),
            reason: format!("`{value}` of type {got} does not fit {expected} of the table"),
        }
    }
}

/// The column that DuckDB's cast error names by number.
fn column_in(message: &str) -> Option<usize> {
    let (_, number) = message
        .split_once("type mismatch in AppendDataChunk")?
        .1
        .rsplit_once("for column ")?;
    number.trim().parse().ok()
}
