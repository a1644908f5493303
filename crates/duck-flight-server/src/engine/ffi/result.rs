//! Results: chunk by chunk, as record batches.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use duckdb::ffi;

use super::columns::PlainColumns;
use super::nulls::cleared;
use super::{ArrowOptions, Connection, LogicalType, Result, SqlError, SqlErrorKind, check, text};
use crate::engine::sql_error::UNSUPPORTED_TYPE;

/// From this chunk on a result is a large one.
const MANY_CHUNKS: u64 = 8;

impl Connection {
    /// How many chunks of the last result have been fetched.
    pub(crate) fn chunks_fetched(&self) -> u64 {
        self.chunks_fetched.get()
    }

    /// How many rows of the last result have been fetched.
    pub(crate) fn rows_fetched(&self) -> u64 {
        self.rows_fetched.get()
    }
}

/// A result whose rows are fetched chunk by chunk, while the statement runs unless it ran to its end at once.
pub(crate) struct QueryResult<'a> {
    pub(super) raw: ffi::duckdb_result,
    pub(super) connection: &'a Connection,
}

impl<'a> QueryResult<'a> {
    /// Rows inserted, updated or deleted by the statement.
    pub(crate) fn rows_changed(&mut self) -> u64 {
        // SAFETY: the result is live.
        unsafe { ffi::duckdb_rows_changed(&raw mut self.raw) }
    }

    /// Whether the statement answers with rows, rather than with how many it changed or with nothing.
    pub(crate) fn has_rows(&self) -> bool {
        // SAFETY: the result is live.
        let kind = unsafe { ffi::duckdb_result_return_type(self.raw) };
        kind == ffi::duckdb_result_type_DUCKDB_RESULT_TYPE_QUERY_RESULT
    }

    /// Fetches the next chunk: at most 2,048 rows, and never none. `None` is the end.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<ResultChunk>> {
        let fetched = &self.connection.chunks_fetched;
        if fetched.get() >= MANY_CHUNKS {
            self.connection.call_helpers();
        }
        // SAFETY: the result is live; the chunk is owned by its wrapper.
        let chunk = ResultChunk(unsafe { ffi::duckdb_fetch_chunk(self.raw) });
        let rows = chunk.rows();
        if rows > 0 {
            fetched.update(|count| count + 1);
            self.connection
                .rows_fetched
                .update(|count| count + rows as u64);
            return Ok(Some(chunk));
        }
        self.connection.open_transaction.settle();
        self.error().map_or(Ok(None), Err)
    }

    /// Turns the result into one of record batches. `lossless` are the options for types that Arrow
    /// has no plain equal for.
    pub(crate) fn into_batches(mut self, lossless: &'a ArrowOptions) -> Result<Batches<'a>> {
        // SAFETY: the result is live; names are copied, types owned.
        let columns = unsafe {
            (0..ffi::duckdb_column_count(&raw mut self.raw))
                .map(|index| Column {
                    name: CStr::from_ptr(ffi::duckdb_column_name(&raw mut self.raw, index))
                        .to_owned(),
                    logical: LogicalType(ffi::duckdb_column_logical_type(&raw mut self.raw, index)),
                })
                .collect::<Vec<_>>()
        };
        let options = if is_lossy(&columns) {
            BatchOptions::Lossless(lossless)
        } else {
            BatchOptions::Plain(ArrowOptions::of(self.connection))
        };
        let (c_schema, schema) = export_schema(options.get(), &columns)?;
        Ok(Batches {
            result: self,
            columns,
            options,
            c_schema,
            schema: Arc::new(schema),
        })
    }

    pub(super) fn error(&mut self) -> Option<SqlError> {
        // SAFETY: the result is live; the message is copied.
        let message = unsafe { text(ffi::duckdb_result_error(&raw mut self.raw)) };
        (!message.is_empty()).then(|| self.connection.noted(SqlError::from_message(&message)))
    }
}

impl Drop for QueryResult<'_> {
    fn drop(&mut self) {
        // SAFETY: filled in by duckdb_execute_pending or duckdb_query, freed only here.
        unsafe { ffi::duckdb_destroy_result(&raw mut self.raw) };
    }
}

/// A chunk of a result, in DuckDB's own layout.
pub(crate) struct ResultChunk(ffi::duckdb_data_chunk);

impl ResultChunk {
    pub(super) fn raw(&self) -> ffi::duckdb_data_chunk {
        self.0
    }

    pub(super) fn rows(&self) -> usize {
        // SAFETY: the chunk is live or null, which has none.
        let rows = unsafe { ffi::duckdb_data_chunk_get_size(self.0) };
        usize::try_from(rows).unwrap_or(0)
    }
}

impl Drop for ResultChunk {
    fn drop(&mut self) {
        // SAFETY: given to us by duckdb_fetch_chunk, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_data_chunk(&raw mut self.0) };
    }
}

/// A result as record batches, one for each chunk.
pub(crate) struct Batches<'a> {
    result: QueryResult<'a>,
    columns: Vec<Column>,
    options: BatchOptions<'a>,
    c_schema: FFI_ArrowSchema,
    schema: SchemaRef,
}

enum BatchOptions<'a> {
    Plain(ArrowOptions),
    Lossless(&'a ArrowOptions),
}

impl BatchOptions<'_> {
    fn get(&self) -> &ArrowOptions {
        match self {
            Self::Plain(options) => options,
            Self::Lossless(options) => options,
        }
    }
}

impl Batches<'_> {
    /// The schema of every batch, as DuckDB exports it.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The SQL type of each column.
    pub(crate) fn type_names(&self) -> Vec<String> {
        type_names(&self.columns)
    }

    /// Where the rows may be gathered without DuckDB's export; `None` where their types need it.
    pub(crate) fn plain_columns(&self) -> Option<PlainColumns> {
        let is_plain = matches!(self.options, BatchOptions::Plain(_));
        is_plain
            .then(|| PlainColumns::new(&self.schema, &self.columns))
            .flatten()
    }

    /// Fetches the next chunk: at most 2,048 rows, and never none. `None` is the end.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<ResultChunk>> {
        self.result.next_chunk()
    }

    /// Fetches the next chunk as a batch.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let chunk = self.next_chunk()?;
        chunk.map(|chunk| self.export(&chunk)).transpose()
    }

    /// A chunk of this result as a batch.
    pub(crate) fn export(&self, chunk: &ResultChunk) -> Result<RecordBatch> {
        let mut c_array = FFI_ArrowArray::empty();
        // SAFETY: options and chunk are live; both Arrow structs have the layout of the C data interface.
        unsafe {
            check(ffi::duckdb_data_chunk_to_arrow(
                self.options.get().0,
                chunk.0,
                (&raw mut c_array).cast(),
            ))?;
        }
        // SAFETY: DuckDB filled in the array according to this schema, exported with the same options.
        let data = unsafe { from_ffi(c_array, &self.c_schema) }.map_err(arrow_error)?;
        let array = StructArray::from(cleared(data));
        let rows = RecordBatchOptions::new().with_row_count(Some(arrow::array::Array::len(&array)));
        let columns = array.into_parts().1;
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows).map_err(arrow_error)
    }
}

/// A column of a result.
pub(super) struct Column {
    pub(super) name: CString,
    pub(super) logical: LogicalType,
}

/// The types whose plain export loses something: a sign or digits, an offset, or their meaning.
const LOSSY: &[ffi::duckdb_type] = &[
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT,
];

pub(super) fn is_lossy(columns: &[Column]) -> bool {
    columns.iter().any(|column| column.logical.contains(LOSSY))
}

pub(super) fn type_names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.logical.name()).collect()
}

pub(super) fn export_schema(
    options: &ArrowOptions,
    columns: &[Column],
) -> Result<(FFI_ArrowSchema, Schema)> {
    let mut types: Vec<_> = columns.iter().map(|column| column.logical.0).collect();
    let mut names: Vec<_> = columns.iter().map(|column| column.name.as_ptr()).collect();
    let mut c_schema = FFI_ArrowSchema::empty();
    // SAFETY: both arrays hold `columns.len()` live entries; the schema struct has the layout of the C
    // data interface and is released by its own drop.
    unsafe {
        check(ffi::duckdb_to_arrow_schema(
            options.0,
            types.as_mut_ptr(),
            names.as_mut_ptr(),
            columns.len() as u64,
            (&raw mut c_schema).cast(),
        ))
        .map_err(|error| name_column(error, columns))?;
    }
    let schema = Schema::try_from(&c_schema).map_err(arrow_error);
    let schema = schema.map_err(|error| name_column(error, columns))?;
    Ok((c_schema, schema))
}

/// Says which column it is that cannot be exported, where that is known.
fn name_column(error: SqlError, columns: &[Column]) -> SqlError {
    let at_fault = columns
        .iter()
        .find(|column| !column.logical.has_arrow_type());
    match at_fault {
        Some(Column { name, logical }) => {
            let (name, data_type) = (name.to_string_lossy(), logical.name());
            let reason = format!("column `{name}`: {UNSUPPORTED_TYPE} {data_type}");
            SqlError::new(SqlErrorKind::Unsupported, reason)
        }
        None => error,
    }
}

pub(super) fn arrow_error(error: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(format!("DuckDB's Arrow export cannot be read: {error}"))
}
