//! INSERTs that are planned once and run for many groups of rows.
//!
//! An appender parses, binds and plans its statement at every flush, which for a few thousand rows takes longer than
//! to insert them. So the statement is prepared, and reads its rows from a table function of ours, which hands out
//! the chunks that were [loaded](Insert::load). Nothing is copied on the way.
//!
//! DuckDB plans a prepared statement anew when something was defined since. The function lets itself be bound only
//! while [`Connection::insert`] prepares, so that such a statement fails instead: its table may be another one
//! now, or there may be none of its name any more. For the same reason a client's call of it is refused.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use duckdb::ffi;
use parking_lot::Mutex;

use super::append::{ArrowImporter, DataChunk};
use super::table_function::TableFunction;
use super::{ColumnShape, Connection, LogicalType, Result, SqlError, SqlErrorKind, c_string, text};

/// How a statement calls the rows.
pub(crate) const HANDED_ROWS: &str = "system.main.duck_flight_handed_rows()";

const FUNCTION: &CStr = c"duck_flight_handed_rows";

/// Why nobody else can call it.
const REFUSAL: &CStr =
    c"duck_flight_handed_rows() hands rows of a put to their table; only the server calls it";

/// Why a run fails that would insert other rows than those that were loaded.
const INCOMPLETE: &CStr = c"rows of a put were lost on the way to their table";

/// The most rows that come, as far as a plan is concerned.
const CARDINALITY: u64 = 122_880;

thread_local! {
    /// What the statement that is being prepared on this thread will read.
    static PREPARING: RefCell<Option<Arc<Handover>>> = const { RefCell::new(None) };
}

/// Rows on their way to a statement.
struct Handover {
    columns: Vec<(CString, LogicalType)>,
    chunks: Mutex<Chunks>,
}

#[derive(Default)]
struct Chunks {
    /// All of them stay until the statement has run: of chunks made from Arrow only the first column owns the values.
    all: Vec<DataChunk>,
    /// The one to be handed out next.
    next: usize,
    /// How many rows were loaded, and how many of them a run has handed out.
    rows: u64,
    rows_handed_out: u64,
}

impl Chunks {
    /// The next chunk that has rows, and how many; `None` once all are handed out. To DuckDB a chunk without rows is the
    /// end, whatever comes after it.
    fn next_chunk(&mut self) -> Option<(&DataChunk, u64)> {
        while let Some(chunk) = self.all.get(self.next) {
            self.next += 1;
            let rows = chunk.rows();
            if rows > 0 {
                self.rows_handed_out += rows;
                return Some((chunk, rows));
            }
        }
        None
    }
}

impl Connection {
    /// Makes the table function, for all connections of the database.
    pub(crate) fn make_handover(&self) -> Result<()> {
        self.make_table_function(&TableFunction {
            name: FUNCTION,
            parameters: &[],
            bind,
            start,
            read: hand_out,
        })
    }

    /// Whether batches of this schema have the very types of these columns, so that DuckDB casts nothing.
    pub(crate) fn takes_uncast(
        &self,
        schema: &SchemaRef,
        columns: &[&ColumnShape],
    ) -> Result<bool> {
        let types = types(&mut self.importer(schema)?, schema, columns.len())?;
        Ok(are_same(&types, columns))
    }

    /// Prepares a statement that inserts batches of this schema, which it reads from [`HANDED_ROWS`], into columns of
    /// these types. `None` where DuckDB would have to cast: a plan's cast does not say which value is at fault.
    pub(crate) fn insert(
        &self,
        sql: &str,
        schema: &SchemaRef,
        columns: &[&ColumnShape],
    ) -> Result<Option<Insert<'_>>> {
        let mut importer = self.importer(schema)?;
        let types = types(&mut importer, schema, columns.len())?;
        if !are_same(&types, columns) {
            return Ok(None);
        }
        let handover = Arc::new(Handover {
            columns: names(schema)?.into_iter().zip(types).collect(),
            chunks: Mutex::default(),
        });
        let query = c_string(sql)?;
        let mut insert = Insert {
            connection: self,
            importer,
            raw: ptr::null_mut(),
            handover: handover.clone(),
        };
        PREPARING.set(Some(handover));
        let state = self.open_transaction.briefly(|| {
            // SAFETY: the connection is open and the text NUL-terminated; the statement is freed by `drop`, also after
            // a failure.
            unsafe { ffi::duckdb_prepare(self.raw, query.as_ptr(), &raw mut insert.raw) }
        });
        PREPARING.set(None);
        if state == ffi::DuckDBSuccess {
            return Ok(Some(insert));
        }
        // SAFETY: a failed prepare leaves a statement that holds the message, or null; it is copied.
        let message = unsafe { text(ffi::duckdb_prepare_error(insert.raw)) };
        Err(self.noted(SqlError::from_message(&message)))
    }
}

/// The types in which the first columns of a batch are imported.
fn types(
    importer: &mut ArrowImporter<'_>,
    schema: &SchemaRef,
    count: usize,
) -> Result<Vec<LogicalType>> {
    let empty = importer.import(&RecordBatch::new_empty(schema.clone()))?;
    Ok(empty.types(count))
}

fn are_same(types: &[LogicalType], columns: &[&ColumnShape]) -> bool {
    let is_same = |(given, column): (&LogicalType, &&ColumnShape)| given.is_same(column.logical());
    types.iter().zip(columns).all(is_same)
}

fn names(schema: &Schema) -> Result<Vec<CString>> {
    let fields = schema.fields().iter();
    fields.map(|field| c_string(field.name())).collect()
}

/// A prepared INSERT and the rows it is to insert next.
pub(crate) struct Insert<'c> {
    connection: &'c Connection,
    importer: ArrowImporter<'c>,
    raw: ffi::duckdb_prepared_statement,
    handover: Arc<Handover>,
}

impl Insert<'_> {
    /// Takes these batches, each of at most [`MAX_CHUNK_ROWS`](super::append::MAX_CHUNK_ROWS) rows, for the next run: `rows`
    /// rows together, as whoever acknowledges them counts them. Those that were loaded before and did not run are gone.
    pub(crate) fn load(&mut self, batches: &[RecordBatch], rows: u64) -> Result<()> {
        let chunks = batches.iter().map(|batch| self.importer.import(batch));
        let all = chunks.collect::<Result<_>>()?;
        *self.handover.chunks.lock() = Chunks {
            all,
            rows,
            ..Chunks::default()
        };
        Ok(())
    }

    /// Leaves nothing of what was loaded.
    pub(crate) fn unload(&self) {
        *self.handover.chunks.lock() = Chunks::default();
    }

    /// Inserts what was loaded, in the open transaction; without one, commits it. Either way nothing is left. All rows are
    /// inserted, or it fails and none is.
    ///
    /// # Errors
    /// Of the kind [`SqlErrorKind::Conflict`] where something was defined since the statement was prepared.
    pub(crate) fn run(&mut self) -> Result<()> {
        let _committing = self.connection.committing();
        self.connection
            .note_written(self.handover.chunks.lock().rows);
        let filling = self.connection.filling();
        let open_transaction = &self.connection.open_transaction;
        open_transaction.touch();
        // SAFETY: the statement is live.
        let outcome = self
            .connection
            .outcome(|result| unsafe { ffi::duckdb_execute_prepared(self.raw, result) });
        open_transaction.settle();
        drop(filling);
        self.connection.forget_written();
        let has_begun = self.handover.chunks.lock().next > 0;
        self.unload();
        outcome.map_err(|error| {
            if error.message.contains(&*INCOMPLETE.to_string_lossy()) {
                return SqlError::internal(error.message);
            }
            // Before it binds the function DuckDB looks for the table and its columns, which may be gone.
            let is_missing = matches!(error.kind, SqlErrorKind::NotFound | SqlErrorKind::Invalid);
            let is_refused = error.message.contains(&*REFUSAL.to_string_lossy());
            if !(is_refused || is_missing && !has_begun) {
                return error;
            }
            let message = "the table may have changed since its INSERT was prepared";
            SqlError::new(SqlErrorKind::Conflict, message)
        })
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_prepare, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_prepare(&raw mut self.raw) };
    }
}

/// Binds a call of the function: to the rows of the statement that is being prepared on this thread.
extern "C" fn bind(info: ffi::duckdb_bind_info) {
    let Some(handover) = PREPARING.with_borrow(Clone::clone) else {
        // SAFETY: DuckDB's info is live during the call, and the text is copied.
        unsafe { ffi::duckdb_bind_set_error(info, REFUSAL.as_ptr()) };
        return;
    };
    // SAFETY: DuckDB's info is live during the call; names and types are copied. The plan owns a count of the
    // handover, given back by `forget`.
    unsafe {
        for (name, logical) in &handover.columns {
            ffi::duckdb_bind_add_result_column(info, name.as_ptr(), logical.0);
        }
        ffi::duckdb_bind_set_cardinality(info, CARDINALITY, false);
        let data = Arc::into_raw(handover).cast_mut().cast();
        ffi::duckdb_bind_set_bind_data(info, data, Some(forget));
    }
}

extern "C" fn forget(handover: *mut c_void) {
    // SAFETY: the pointer comes from `Arc::into_raw` in `bind`, and DuckDB gives it back once.
    drop(unsafe { Arc::from_raw(handover.cast_const().cast::<Handover>()) });
}

/// Begins a run of the statement, whose rows stay in their order.
extern "C" fn start(info: ffi::duckdb_init_info) {
    // SAFETY: DuckDB's info is live during the call, and its bind data is what `bind` set, alive as long as the plan.
    let handover = unsafe {
        ffi::duckdb_init_set_max_threads(info, 1);
        &*ffi::duckdb_init_get_bind_data(info).cast::<Handover>()
    };
    let mut chunks = handover.chunks.lock();
    (chunks.next, chunks.rows_handed_out) = (0, 0);
}

/// Hands out the next chunk; an empty one is the end. That one it refuses unless all rows were handed out: so the statement
/// fails while it can still be rolled back, also where it is a transaction in itself.
extern "C" fn hand_out(info: ffi::duckdb_function_info, output: ffi::duckdb_data_chunk) {
    // SAFETY: as in `start`.
    let handover = unsafe { &*ffi::duckdb_function_get_bind_data(info).cast::<Handover>() };
    let mut chunks = handover.chunks.lock();
    let Some((chunk, rows)) = chunks.next_chunk() else {
        // SAFETY: info and output are live during the call, and the text is copied.
        unsafe {
            if chunks.rows_handed_out != chunks.rows {
                ffi::duckdb_function_set_error(info, INCOMPLETE.as_ptr());
            }
            ffi::duckdb_data_chunk_set_size(output, 0);
        }
        return;
    };
    // SAFETY: both chunks are live and have the columns of the handover: the output by `bind`, the other one since
    // it comes from the importer that told their types. Vectors that are referred to live until the statement has run.
    unsafe {
        for index in 0..handover.columns.len() as u64 {
            ffi::duckdb_vector_reference_vector(
                ffi::duckdb_data_chunk_get_vector(output, index),
                ffi::duckdb_data_chunk_get_vector(chunk.0, index),
            );
        }
        ffi::duckdb_data_chunk_set_size(output, rows);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use duck_flight_protocol::TableName;

    use super::*;
    use crate::engine::ffi::checkpoint::tests::with_images;
    use crate::engine::storage::images::PATIENCE;

    fn rows(count: i64) -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        RecordBatch::try_from_iter([("i", ids)]).unwrap()
    }

    fn run(insert: &mut Insert<'_>, count: i64) {
        let rows = rows(count);
        let all = rows.num_rows() as u64;
        insert.load(std::slice::from_ref(&rows), all).unwrap();
        insert.run().unwrap();
    }

    #[test]
    fn rows_that_are_committed_do_not_keep_later_ones_waiting_for_a_checkpoint() {
        let (_directory, database, connection) = with_images();
        connection.make_handover().unwrap();
        let table = TableName::from("t");
        let columns = connection.table_columns(&table).unwrap().unwrap();
        let columns: Vec<_> = columns.iter().collect();
        let sql = format!("INSERT INTO t FROM {HANDED_ROWS}");
        let insert = connection.insert(&sql, &rows(0).schema(), &columns);
        let mut insert = insert.unwrap().unwrap();
        for _ in 0..30 {
            run(&mut insert, 1000);
        }
        assert_eq!(connection.rows_written.get(), 0);
        let other = database.connect().unwrap();
        let ready = other.ready_checkpoint(PATIENCE).unwrap();
        // It does not wait for what is held by this very thread.
        run(&mut insert, 1);
        drop(ready);
        connection.begin().unwrap();
        run(&mut insert, 1000);
        run(&mut insert, 1000);
        assert_eq!(connection.rows_written.get(), 2000);
        connection.commit().unwrap();
        assert_eq!(connection.rows_written.get(), 0);
    }
}
