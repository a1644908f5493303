//! INSERTs that a writer prepares once for each table, and runs for every group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::TableName;

use super::ffi::Connection;
use super::ffi::append::MAX_CHUNK_ROWS;
use super::ffi::insert::{HANDED_ROWS, Insert};
use super::plan::Plan;
use crate::error::Result;

/// So many tables have a prepared INSERT at a time.
const MAX_TABLES: usize = 256;

/// A batch of so many rows and bytes at most is small; so many bytes of them are put together.
const SMALL_ROWS: usize = 256;
const SMALL_BYTES: usize = 1 << 20;
const JOINED_BYTES: usize = 16 << 20;

/// How long a table whose INSERT cannot be used twice goes without one. DuckDB plans some anew each time: where a
/// column defaults to the time of day, for one.
const PAUSE: Duration = Duration::from_secs(10);

/// The prepared INSERTs of a connection.
pub(super) struct Inserts<'c> {
    pub(super) connection: &'c Connection,
    tables: HashMap<TableName, Known<'c>>,
}

struct Known<'c> {
    plan: Arc<Plan>,
    /// `None` where the table has to do without.
    insert: Option<Insert<'c>>,
    prepared_at: Instant,
    has_run: bool,
}

impl<'c> Inserts<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            tables: HashMap::new(),
        }
    }

    /// Makes an INSERT by this plan ready, with the rows of these batches. False where there is none: the table is
    /// not as the plan has it, or DuckDB would have to cast. Outside of a transaction.
    pub(super) fn load<'b>(
        &mut self,
        table: &TableName,
        plan: &Arc<Plan>,
        batches: impl IntoIterator<Item = &'b RecordBatch>,
    ) -> Result<bool> {
        let is_known = |known: &Known<'_>| {
            known.plan.is_same(plan)
                && (known.insert.is_some() || known.prepared_at.elapsed() < PAUSE)
        };
        if !self.tables.get(table).is_some_and(is_known) {
            self.prepare(table, plan)?;
        }
        let known = self.tables.get_mut(table);
        let Some(insert) = known.and_then(|known| known.insert.as_mut()) else {
            return Ok(false);
        };
        for chunk in chunks(plan.schema(), batches) {
            if let Err(error) = insert.add(&chunk) {
                self.tables.remove(table);
                return Err(error.into());
            }
        }
        Ok(true)
    }

    /// Inserts the rows that were loaded; without an open transaction, commits them. An INSERT that fails is not used
    /// again, since it fails where its table has changed.
    pub(super) fn run(&mut self, table: &TableName) -> Result<()> {
        let Some(known) = self.tables.get_mut(table) else {
            return Ok(());
        };
        let Some(insert) = known.insert.as_mut() else {
            return Ok(());
        };
        let outcome = insert.run();
        if outcome.is_ok() {
            known.has_run = true;
        } else if known.has_run {
            self.tables.remove(table);
        } else {
            known.insert = None;
        }
        Ok(outcome?)
    }

    /// Prepares first and looks at the table afterwards: if it has changed in between, or does so later, DuckDB
    /// refuses to run what was prepared.
    fn prepare(&mut self, table: &TableName, plan: &Arc<Plan>) -> Result<()> {
        if self.tables.len() >= MAX_TABLES {
            self.tables.clear();
        }
        self.tables.remove(table);
        let given: Vec<_> = plan.given().collect();
        let sql = plan.sql(table, HANDED_ROWS);
        // What is wrong comes out where the rows take the longer way.
        let insert = self.connection.insert(&sql, plan.schema(), &given);
        let columns = self.connection.table_columns(table)?;
        let fits = columns.is_some_and(|columns| plan.fits(&columns));
        let known = Known {
            plan: plan.clone(),
            insert: insert.ok().flatten().filter(|_| fits),
            prepared_at: Instant::now(),
            has_run: false,
        };
        self.tables.insert(table.clone(), known);
        Ok(())
    }
}

/// Brings batches to the size of a chunk: large ones are cut, and small ones put together, for each chunk takes DuckDB
/// as long as some hundred rows.
fn chunks<'b>(
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = &'b RecordBatch>,
) -> Vec<RecordBatch> {
    let mut chunks = Vec::new();
    let mut small: Vec<&RecordBatch> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for batch in batches {
        let (batch_rows, batch_bytes) = (batch.num_rows(), batch.get_array_memory_size());
        let is_small = batch_rows <= SMALL_ROWS && batch_bytes <= SMALL_BYTES;
        if !is_small || rows + batch_rows > MAX_CHUNK_ROWS || bytes + batch_bytes > JOINED_BYTES {
            join(schema, &mut small, &mut chunks);
            (rows, bytes) = (0, 0);
        }
        if is_small {
            small.push(batch);
            rows += batch_rows;
            bytes += batch_bytes;
            continue;
        }
        for start in (0..batch_rows).step_by(MAX_CHUNK_ROWS) {
            chunks.push(batch.slice(start, MAX_CHUNK_ROWS.min(batch_rows - start)));
        }
    }
    join(schema, &mut small, &mut chunks);
    chunks
}

/// Makes one chunk of small batches, where their types allow it.
fn join(schema: &SchemaRef, small: &mut Vec<&RecordBatch>, chunks: &mut Vec<RecordBatch>) {
    let joined = match small.len() {
        0 | 1 => None,
        _ => concat_batches(schema, small.iter().copied()).ok(),
    };
    match joined {
        Some(joined) => chunks.push(joined),
        None => chunks.extend(small.iter().map(|&batch| batch.clone())),
    }
    small.clear();
}
