//! INSERTs that a writer prepares once for each table, and runs for every group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::TableName;

use super::plan::Plan;
use crate::engine::ffi::Connection;
use crate::engine::ffi::append::MAX_CHUNK_ROWS;
use crate::engine::ffi::insert::{HANDED_ROWS, Insert};
use crate::engine::sql_error::SqlError;
use crate::error::Result;

/// How many tables have a prepared INSERT at a time.
const MAX_TABLES: usize = 256;

/// A batch of `SMALL_ROWS` rows and `SMALL_BYTES` bytes at most is small; `JOINED_BYTES` of small ones are put together.
const SMALL_ROWS: usize = 1024;
const SMALL_BYTES: usize = 1 << 20;
const JOINED_BYTES: usize = 16 << 20;

/// How long a table whose INSERT cannot be used twice goes without one. DuckDB plans some anew each time: where a
/// column defaults to the time of day, for one.
const PAUSE: Duration = Duration::from_secs(10);

/// The prepared INSERTs of a connection.
pub(in crate::engine) struct Inserts<'c> {
    pub(in crate::engine) connection: &'c Connection,
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
    pub(in crate::engine) fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            tables: HashMap::new(),
        }
    }

    /// Makes an INSERT by this plan ready, with the rows of these batches and no others: `rows` together, or it will fail.
    /// False where there is none: the table is not as the plan has it, or DuckDB would have to cast.
    pub(in crate::engine) fn load<'b>(
        &mut self,
        table: &TableName,
        plan: &Arc<Plan>,
        batches: impl IntoIterator<Item = &'b RecordBatch>,
        rows: u64,
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
        insert.load(&chunks(plan.schema(), batches), rows)?;
        Ok(true)
    }

    /// Inserts the rows that were loaded; without an open transaction, commits them. An INSERT that fails is not used
    /// again, since it fails where its table has changed.
    pub(in crate::engine) fn run(&mut self, table: &TableName) -> Result<()> {
        // Whoever runs it acknowledges the rows afterwards.
        let lost = || SqlError::internal(format!("no rows of a put are loaded for `{table}`"));
        let known = self.tables.get_mut(table).ok_or_else(lost)?;
        let outcome = known.insert.as_mut().ok_or_else(lost)?.run();
        if outcome.is_ok() {
            known.has_run = true;
        } else if known.has_run {
            self.tables.remove(table);
        } else {
            known.insert = None;
        }
        Ok(outcome?)
    }

    /// Forgets the rows that were loaded and will not be run.
    pub(in crate::engine) fn unload(&mut self, table: &TableName) {
        let known = self.tables.get(table);
        if let Some(insert) = known.and_then(|known| known.insert.as_ref()) {
            insert.unload();
        }
    }

    /// Prepares first and looks at the table afterwards: if it has changed in between, or does so later, DuckDB
    /// refuses to run what was prepared.
    fn prepare(&mut self, table: &TableName, plan: &Arc<Plan>) -> Result<()> {
        if self.tables.len() >= MAX_TABLES {
            self.tables.clear();
        }
        self.tables.remove(table);
        let given: Vec<_> = plan.given().collect();
        // Rows that are appended take one statement.
        let sql = plan
            .statements(self.connection, table, HANDED_ROWS, 0)
            .swap_remove(0);
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
/// as long as some hundred rows. Those without rows are left out.
fn chunks<'b>(
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = &'b RecordBatch>,
) -> Vec<RecordBatch> {
    let mut chunks = Vec::new();
    let mut small: Vec<&RecordBatch> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for batch in batches {
        if batch.num_rows() == 0 {
            continue;
        }
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use duck_flight_protocol::SchemaMode;

    use super::super::effect::Effect;
    use super::*;
    use crate::engine::ffi::Database;

    fn database(sql: &str) -> (Database, Connection) {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection.make_handover().unwrap();
        connection.execute(sql).unwrap();
        (database, connection)
    }

    fn table() -> TableName {
        TableName {
            catalog: None,
            schema: None,
            table: "t".into(),
        }
    }

    fn batch(column: impl Into<ArrayRef>) -> RecordBatch {
        let column = column.into();
        let field = Field::new("i", column.data_type().clone(), true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    }

    fn ints(values: std::ops::Range<i64>) -> RecordBatch {
        batch(Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)
    }

    /// The plan of a batch for the table as it is, and the batch as it goes there.
    fn plan(connection: &Connection, batch: &RecordBatch) -> (Arc<Plan>, RecordBatch) {
        let columns = connection.table_columns(&table()).unwrap().unwrap();
        let plan = Plan::new(
            batch.schema_ref(),
            &columns.into(),
            &Effect::Append,
            SchemaMode::Match,
        )
        .unwrap();
        let cast = plan.apply(batch, 0).unwrap();
        (Arc::new(plan), cast)
    }

    /// Makes an INSERT of these batches ready, where there is one.
    fn load(inserts: &mut Inserts<'_>, plan: &Arc<Plan>, batches: &[&RecordBatch]) -> bool {
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let batches = batches.iter().copied();
        inserts.load(&table(), plan, batches, rows).unwrap()
    }

    /// Fails unless the table has this many rows with this sum.
    fn assert_rows(connection: &Connection, rows: i64, sum: i64) {
        let is_so = format!("count(*) = {rows} AND coalesce(sum(i), 0) = {sum}");
        let sql = format!("SELECT CASE WHEN {is_so} THEN 1 ELSE error(sum(i)::VARCHAR) END FROM t");
        connection.execute(&sql).unwrap();
    }

    #[test]
    fn rows_of_any_number_and_size_of_batches_are_inserted_once() {
        let (_database, connection) = database("CREATE TABLE t (i BIGINT)");
        let mut inserts = Inserts::new(&connection);
        let all = ints(0..10_000);
        let (plan, all) = plan(&connection, &all);
        let mut sizes = [0, 1, 1, 255, 0, 3000, 0, 7, 256, 257, 0, 0, 2048, 2049, 0].into_iter();
        let mut batches = Vec::new();
        let mut start = 0;
        for size in sizes.by_ref() {
            batches.push(all.slice(start, size));
            start += size;
        }
        for run in 1..=3 {
            assert!(load(
                &mut inserts,
                &plan,
                &batches.iter().collect::<Vec<_>>()
            ));
            inserts.run(&table()).unwrap();
            let rows = i64::try_from(start).unwrap();
            assert_rows(&connection, run * rows, run * rows * (rows - 1) / 2);
        }
    }

    #[test]
    fn rows_that_were_loaded_and_did_not_run_are_gone() {
        let (_database, connection) = database("CREATE TABLE t (i BIGINT)");
        let mut inserts = Inserts::new(&connection);
        let (plan, rows) = plan(&connection, &ints(0..10));
        assert!(load(&mut inserts, &plan, &[&rows]));
        assert!(load(&mut inserts, &plan, &[&rows.slice(0, 2)]));
        inserts.run(&table()).unwrap();
        inserts.run(&table()).unwrap();
        assert_rows(&connection, 2, 1);
        assert!(load(&mut inserts, &plan, &[&rows]));
        inserts.unload(&table());
        inserts.run(&table()).unwrap();
        assert_rows(&connection, 2, 1);
    }

    #[test]
    fn nothing_runs_for_a_table_without_an_insert() {
        let (_database, connection) = database("CREATE TABLE t (i UUID)");
        let mut inserts = Inserts::new(&connection);
        assert!(inserts.run(&table()).is_err());
        let texts = StringArray::from(vec!["no uuid"]);
        let (plan, rows) = plan(&connection, &batch(Arc::new(texts) as ArrayRef));
        // DuckDB would have to cast.
        assert!(!load(&mut inserts, &plan, &[&rows]));
        assert!(inserts.run(&table()).is_err());
    }

    #[test]
    fn where_rows_are_missing_none_is_inserted() {
        let (_database, connection) = database("CREATE TABLE t (i BIGINT)");
        let (plan, rows) = plan(&connection, &ints(0..5000));
        for counted in [0, 4999, 5001] {
            let mut inserts = Inserts::new(&connection);
            assert!(inserts.load(&table(), &plan, [&rows], counted).unwrap());
            let error = inserts.run(&table()).unwrap_err();
            assert!(error.to_string().contains("lost"), "{error}");
            assert_rows(&connection, 0, 0);
        }
        let mut inserts = Inserts::new(&connection);
        assert!(inserts.load(&table(), &plan, [&rows], 5000).unwrap());
        inserts.run(&table()).unwrap();
        assert_rows(&connection, 5000, 5000 * 4999 / 2);
    }

    #[test]
    fn a_full_group_is_the_transactions_until_its_commit() {
        let (database, connection) = database("CREATE TABLE t (i BIGINT)");
        let other = database.connect().unwrap();
        let mut inserts = Inserts::new(&connection);
        let (plan, rows) = plan(&connection, &ints(0..130_000));
        for _ in 0..3 {
            connection.begin().unwrap();
            assert!(load(&mut inserts, &plan, &[&rows]));
            inserts.run(&table()).unwrap();
            assert_rows(&other, 0, 0);
            connection.roll_back();
            assert_rows(&connection, 0, 0);
        }
        connection.begin().unwrap();
        assert!(load(&mut inserts, &plan, &[&rows]));
        inserts.run(&table()).unwrap();
        connection.commit().unwrap();
        assert_rows(&other, 130_000, 130_000 * 129_999 / 2);
    }

    #[test]
    fn an_insert_does_not_outlive_a_change_of_its_table() {
        let (database, connection) = database("CREATE TABLE t (i BIGINT)");
        let mut inserts = Inserts::new(&connection);
        let (old_plan, rows) = plan(&connection, &ints(0..10));
        assert!(load(&mut inserts, &old_plan, &[&rows]));
        inserts.run(&table()).unwrap();
        assert!(load(&mut inserts, &old_plan, &[&rows]));
        let other = database.connect().unwrap();
        other.execute("ALTER TABLE t ALTER i TYPE VARCHAR").unwrap();
        let error = inserts.run(&table()).unwrap_err();
        assert!(error.is_conflict(), "{error}");
        // The plan does not fit any more, until the table is as it was.
        assert!(!load(&mut inserts, &old_plan, &[&rows]));
        other.execute("ALTER TABLE t ALTER i TYPE BIGINT").unwrap();
        let (plan, rows) = plan(&connection, &ints(0..5));
        let mut inserts = Inserts::new(&connection);
        assert!(load(&mut inserts, &plan, &[&rows]));
        inserts.run(&table()).unwrap();
        assert_rows(&connection, 15, 45 + 10);
    }

    #[test]
    fn an_insert_whose_table_or_column_is_gone_is_in_conflict_with_who_took_it_away() {
        let create = "CREATE OR REPLACE TABLE t (i BIGINT, j BIGINT)";
        for gone in ["DROP TABLE t", "ALTER TABLE t DROP COLUMN i"] {
            let (database, connection) = database(create);
            let mut inserts = Inserts::new(&connection);
            let (plan, rows) = plan(&connection, &ints(0..10));
            assert!(load(&mut inserts, &plan, &[&rows]));
            inserts.run(&table()).unwrap();
            assert!(load(&mut inserts, &plan, &[&rows]));
            database.connect().unwrap().execute(gone).unwrap();
            let error = inserts.run(&table()).unwrap_err();
            assert!(error.is_conflict(), "{gone}: {error}");
        }
    }

    #[test]
    fn where_duckdb_would_cast_or_plan_anew_there_is_no_prepared_insert() {
        let (_database, connection) = database("CREATE TABLE t (i UUID)");
        let texts = StringArray::from(vec!["no uuid"]);
        let (uuid_plan, rows) = plan(&connection, &batch(Arc::new(texts) as ArrayRef));
        assert_eq!(rows.schema_ref().field(0).data_type(), &DataType::Utf8);
        let mut inserts = Inserts::new(&connection);
        assert!(!load(&mut inserts, &uuid_plan, &[&rows]));

        connection
            .execute("CREATE OR REPLACE TABLE t (i BIGINT, given_at TIMESTAMPTZ DEFAULT now())")
            .unwrap();
        let (plan, rows) = plan(&connection, &ints(0..10));
        assert!(load(&mut inserts, &plan, &[&rows]));
        assert!(inserts.run(&table()).unwrap_err().is_conflict());
        assert!(!load(&mut inserts, &plan, &[&rows]));
        assert_rows(&connection, 0, 0);
    }

    #[test]
    fn nobody_else_calls_the_function() {
        let (_database, connection) = database("CREATE TABLE t (i BIGINT)");
        let error = connection
            .execute(&format!("FROM {HANDED_ROWS}"))
            .unwrap_err();
        assert!(
            error.message.contains("only the server calls it"),
            "{error}"
        );
    }
}
