//! Rows on their way in: Arrow batches become data chunks, which an appender adds to a table.

use std::ptr;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use duck_flight_protocol::TableName;
use duckdb::ffi;

use super::{
    ArrowOptions, Connection, LogicalType, Result, SqlError, SqlErrorKind, c_string, check,
    take_text, text,
};
use crate::engine::catalog::{is_name, literal, texts_of};
use crate::engine::replay::index_work::may_delete;
use crate::engine::rows::constraints::is_in_schema;

/// The most rows a data chunk may have. A longer one that needs a cast overruns DuckDB's buffers
/// (`BaseAppender::AppendDataChunk` casts into a chunk of the standard vector size).
pub(crate) const MAX_CHUNK_ROWS: usize = 2048;

/// How DuckDB refuses to describe a view.
const IS_NO_TABLE: &str = " is not an table";

/// What an appender's statement calls the rows that were gathered.
pub(crate) const ROWS: &str = "duck_flight_rows";

/// A column of a table: its name and the Arrow type DuckDB exports it as.
#[derive(Clone)]
pub(crate) struct ColumnShape {
    pub(crate) field: FieldRef,
    /// The type as DuckDB knows it, for comparisons and messages.
    pub(crate) type_id: u32,
    /// Whether its values are computed, so that none can be given. Known from a look-up alone, see
    /// [`Connection::mark_generated`].
    pub(crate) is_generated: bool,
    /// Whether new rows have a default there.
    has_default: bool,
    /// Whether its values are JSON, which to DuckDB is text by another name.
    pub(crate) is_json: bool,
    /// Whether Arrow has a type for it. One that it has none for is told as text.
    pub(crate) has_arrow_type: bool,
    /// Whether the Arrow type tells all about the type.
    is_plain: bool,
    logical: Arc<LogicalType>,
}

impl ColumnShape {
    /// Whether DuckDB keeps its values as structs: those of unions too, and of `VARIANT`, for which Arrow has no type.
    pub(crate) fn is_kept_as_struct(&self) -> bool {
        matches!(
            self.type_id,
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_STRUCT | ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION
        ) || !self.has_arrow_type
    }

    /// A column of truth values that is no table's: it goes with the rows for an appender's statement to read.
    pub(crate) fn flag(name: &str) -> Self {
        Self::of(
            name,
            DataType::Boolean,
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN,
        )
    }

    /// A column of numbers that is no table's, as [`ColumnShape::flag`].
    pub(crate) fn number(name: &str) -> Self {
        Self::of(name, DataType::UInt64, ffi::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT)
    }

    /// The type as SQL writes it.
    pub(crate) fn sql_type(&self) -> String {
        self.logical.name()
    }

    /// The type as DuckDB knows it.
    pub(super) fn logical(&self) -> &LogicalType {
        &self.logical
    }

    /// What stands inside its values: a list's elements, a struct's fields, a union's members, a map's keys and values.
    pub(crate) fn children(&self) -> Vec<Self> {
        let fields: Vec<&FieldRef> = match self.field.data_type() {
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::ListView(element)
            | DataType::LargeListView(element)
            | DataType::FixedSizeList(element, _) => vec![element],
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) => pair.iter().collect(),
                _ => Vec::new(),
            },
            DataType::Struct(fields) => fields.iter().collect(),
            DataType::Union(members, _) => members.iter().map(|(_, member)| member).collect(),
            _ => Vec::new(),
        };
        let types = self.logical.children().into_iter();
        let children = fields.into_iter().zip(types);
        children
            .map(|(field, (_, logical))| Self::new(field.clone(), logical))
            .collect()
    }

    fn new(field: FieldRef, logical: LogicalType) -> Self {
        Self {
            field,
            type_id: logical.id(),
            is_generated: false,
            has_default: false,
            is_json: logical.is_json(),
            has_arrow_type: logical.has_arrow_type(),
            is_plain: logical.is_plain(),
            logical: Arc::new(logical),
        }
    }

    fn of(name: &str, data_type: DataType, type_id: ffi::duckdb_type) -> Self {
        // SAFETY: the id is one of a plain type; the type is freed by its wrapper.
        let logical = LogicalType(unsafe { ffi::duckdb_create_logical_type(type_id) });
        Self::new(Arc::new(Field::new(name, data_type, true)), logical)
    }
}

impl PartialEq for ColumnShape {
    fn eq(&self, other: &Self) -> bool {
        self.type_id == other.type_id
            && self.field == other.field
            && (self.is_plain && other.is_plain || self.logical.is_equal(&other.logical))
    }
}

impl Connection {
    /// The columns of a table in their order, or `None` where there is no such table. It is read in the
    /// connection's transaction where one is open.
    pub(crate) fn table_columns(&self, table: &TableName) -> Result<Option<Vec<ColumnShape>>> {
        let names = TableNames::new(table)?;
        let mut description = TableDescription(ptr::null_mut());
        let state = self.open_transaction.briefly(|| {
            // SAFETY: the connection is open and the names are NUL-terminated; freed by `drop`, also after a failure.
            unsafe {
                ffi::duckdb_table_description_create_ext(
                    self.raw,
                    names.catalog(),
                    names.schema(),
                    names.table.as_ptr(),
                    &raw mut description.0,
                )
            }
        });
        if state != ffi::DuckDBSuccess {
            // SAFETY: the failed description holds the message.
            let message = unsafe { text(ffi::duckdb_table_description_error(description.0)) };
            if message == "No table with that schema+name could be located" {
                return Ok(None);
            }
            if message.ends_with(IS_NO_TABLE) {
                return Err(SqlError::new(
                    SqlErrorKind::Invalid,
                    format!("`{table}` is a view; put into a table"),
                ));
            }
            return Err(self.noted(SqlError::from_message(&message)));
        }
        self.describe_columns(&description).map(Some)
    }

    /// Finds the generated columns of a table: those that its description gives no default, though the catalog tells an expression. Nothing
    /// of that fails, for an error could end the open transaction.
    pub(crate) fn mark_generated(&self, table: &TableName, columns: &mut [ColumnShape]) {
        if columns.iter().all(|column| column.has_default) {
            return;
        }
        let found = self.query(&with_expressions_sql(table)).ok();
        let names = found.and_then(|found| texts_of::<1>(self, found).ok());
        let Some(with_expressions) = names else {
            return;
        };
        for column in columns.iter_mut().filter(|column| !column.has_default) {
            let name = column.field.name();
            column.is_generated = with_expressions.iter().any(|[other]| other == name);
        }
    }

    fn describe_columns(&self, description: &TableDescription) -> Result<Vec<ColumnShape>> {
        let options = ArrowOptions::of(self);
        // SAFETY: the description is live; names are copied and types owned.
        unsafe {
            let count = ffi::duckdb_table_description_get_column_count(description.0);
            (0..count)
                .map(|index| {
                    let mut has_default = false;
                    // It fails for no index that is there.
                    ffi::duckdb_column_has_default(description.0, index, &raw mut has_default);
                    let name = take_text(ffi::duckdb_table_description_get_column_name(
                        description.0,
                        index,
                    ));
                    let logical = LogicalType(ffi::duckdb_table_description_get_column_type(
                        description.0,
                        index,
                    ));
                    let shape = column_shape(&options, &name, logical);
                    shape.map(|shape| ColumnShape {
                        has_default,
                        ..shape
                    })
                })
                .collect()
        }
    }

    /// Starts to gather rows of these columns for a statement, which reads them as [`ROWS`]. Each flush runs
    /// the statement once, over what was gathered.
    pub(crate) fn appender(&self, sql: &str, columns: &[&ColumnShape]) -> Result<Appender<'_>> {
        let (query, rows) = (c_string(sql)?, c_string(ROWS)?);
        let names = columns
            .iter()
            .map(|column| c_string(column.field.name()))
            .collect::<Result<Vec<_>>>()?;
        let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let mut types: Vec<_> = columns.iter().map(|column| column.logical.0).collect();
        let mut appender = Appender {
            raw: ptr::null_mut(),
            connection: self,
            may_delete: may_delete(sql),
            is_temporary: false,
            is_helped: false,
        };
        // SAFETY: the connection is open, all texts are NUL-terminated and outlive the call, both arrays have
        // the length given; the appender is freed by `drop`, also after a failure.
        let state = unsafe {
            ffi::duckdb_appender_create_query(
                self.raw,
                query.as_ptr(),
                columns.len() as u64,
                types.as_mut_ptr(),
                rows.as_ptr(),
                names.as_mut_ptr(),
                &raw mut appender.raw,
            )
        };
        appender.check(state)?;
        Ok(appender)
    }

    /// Prepares to turn batches of this schema into data chunks.
    pub(crate) fn importer(&self, schema: &Schema) -> Result<ArrowImporter<'_>> {
        let mut c_schema = FFI_ArrowSchema::try_from(schema)
            .map_err(|error| SqlError::new(SqlErrorKind::Invalid, error.to_string()))?;
        let mut importer = ArrowImporter {
            connection: self,
            raw: ptr::null_mut(),
        };
        // SAFETY: the connection is open, the schema struct has the layout of the C data interface and is
        // only read; the converted schema is freed by `drop`.
        unsafe {
            check(ffi::duckdb_schema_from_arrow(
                self.raw,
                (&raw mut c_schema).cast(),
                &raw mut importer.raw,
            ))?;
        }
        Ok(importer)
    }
}

fn column_shape(options: &ArrowOptions, name: &str, logical: LogicalType) -> Result<ColumnShape> {
    if !logical.has_arrow_type() {
        let field = Arc::new(Field::new(name, DataType::Utf8, true));
        return Ok(ColumnShape::new(field, logical));
    }
    let c_name = c_string(name)?;
    let mut c_schema = FFI_ArrowSchema::empty();
    let (mut types, mut names) = ([logical.0], [c_name.as_ptr()]);
    // SAFETY: one live type and one NUL-terminated name; the schema struct has the layout of the C data
    // interface and is released by its own drop.
    unsafe {
        check(ffi::duckdb_to_arrow_schema(
            options.0,
            types.as_mut_ptr(),
            names.as_mut_ptr(),
            1,
            (&raw mut c_schema).cast(),
        ))?;
    }
    let schema =
        Schema::try_from(&c_schema).map_err(|error| SqlError::internal(error.to_string()))?;
    Ok(ColumnShape::new(schema.fields()[0].clone(), logical))
}

/// The columns of a table that have an expression: a default, or what they are computed by.
fn with_expressions_sql(table: &TableName) -> String {
    let name = table.to_sql();
    if name.contains("\"\"") {
        // The pragma reads a quote in a name as none, and would tell of another table. This one goes over all tables.
        return format!(
            "SELECT column_name FROM system.main.duckdb_columns() WHERE column_default IS NOT NULL AND {is_of} AND {place}",
            is_of = is_name("table_name", &table.table),
            place = is_in_schema(table),
        );
    }
    format!(
        "SELECT name FROM system.main.pragma_table_info({}) WHERE dflt_value IS NOT NULL",
        literal(&name)
    )
}

struct TableNames {
    catalog: Option<std::ffi::CString>,
    schema: Option<std::ffi::CString>,
    table: std::ffi::CString,
}

impl TableNames {
    fn new(name: &TableName) -> Result<Self> {
        Ok(Self {
            catalog: name.catalog.as_deref().map(c_string).transpose()?,
            schema: name.schema.as_deref().map(c_string).transpose()?,
            table: c_string(&name.table)?,
        })
    }

    fn catalog(&self) -> *const std::ffi::c_char {
        self.catalog
            .as_ref()
            .map_or(ptr::null(), |name| name.as_ptr())
    }

    fn schema(&self) -> *const std::ffi::c_char {
        self.schema
            .as_ref()
            .map_or(ptr::null(), |name| name.as_ptr())
    }
}

struct TableDescription(ffi::duckdb_table_description);

impl Drop for TableDescription {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_table_description_create_ext, freed only here.
        unsafe { ffi::duckdb_table_description_destroy(&raw mut self.0) };
    }
}

/// Adds data chunks to a table. Nothing that was not flushed survives the drop, so that an error or a
/// cancelled put leaves nothing behind.
pub(crate) struct Appender<'a> {
    raw: ffi::duckdb_appender,
    connection: &'a Connection,
    /// Whether its statement may delete rows.
    may_delete: bool,
    /// Whether its statement writes into temporary tables only.
    is_temporary: bool,
    /// Whether its statement has tasks for helpers.
    is_helped: bool,
}

impl Appender<'_> {
    /// Says that its statement writes into temporary tables only: nothing of that goes into the database file.
    pub(crate) fn temporary(mut self) -> Self {
        self.is_temporary = true;
        self
    }

    /// Keeps the helpers at hand while its statement runs, for one that reads a whole table. One that only adds rows has no tasks
    /// for them, and to wake one takes a twentieth of a small commit.
    pub(crate) fn helped(mut self) -> Self {
        self.is_helped = true;
        self
    }

    /// Adds the rows of a chunk, casting where types differ.
    pub(crate) fn append(&mut self, chunk: &DataChunk) -> Result<()> {
        // SAFETY: the chunk is live.
        let rows = unsafe { ffi::duckdb_data_chunk_get_size(chunk.0) };
        if !self.is_temporary {
            self.connection.note_written(rows);
        }
        let _filling = self.connection.filling();
        // SAFETY: appender and chunk are live, and no chunk is longer than MAX_CHUNK_ROWS.
        let state = unsafe { ffi::duckdb_append_data_chunk(self.raw, chunk.0) };
        self.check(state)
    }

    /// Writes what was added into the transaction; without one, commits it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let _committing = self.connection.committing();
        let filling = self.connection.filling();
        let helpers = match self.is_helped {
            true => self.connection.keep_helpers(),
            false => None,
        };
        let open_transaction = &self.connection.open_transaction;
        open_transaction.touch();
        if self.may_delete {
            open_transaction.note_deletion();
        }
        // SAFETY: the appender is live.
        let state = unsafe { ffi::duckdb_appender_flush(self.raw) };
        open_transaction.settle();
        drop((helpers, filling));
        self.connection.forget_written();
        self.check(state)
    }

    fn check(&self, state: ffi::duckdb_state) -> Result<()> {
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        // SAFETY: the appender is live or null; the error data is freed by `check`.
        let outcome = unsafe { check(ffi::duckdb_appender_error_data(self.raw)) };
        outcome.map_err(|error| self.connection.noted(error))?;
        Err(SqlError::internal("the appender failed without a reason"))
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        // Destroying an appender flushes it, so what it holds is thrown away first.
        // SAFETY: made by duckdb_appender_create_ext, freed only here.
        unsafe {
            ffi::duckdb_appender_clear(self.raw);
            ffi::duckdb_appender_destroy(&raw mut self.raw);
        }
    }
}

/// Turns record batches of one schema into data chunks.
pub(crate) struct ArrowImporter<'a> {
    connection: &'a Connection,
    raw: ffi::duckdb_arrow_converted_schema,
}

impl ArrowImporter<'_> {
    /// Turns a batch of at most [`MAX_CHUNK_ROWS`] rows into a chunk that shares its buffers.
    ///
    /// The batch must have the importer's schema, with no extension type that DuckDB converts while it
    /// imports (`arrow.bool8`): DuckDB frees the array after the first such column. [`types`](crate::engine::rows::types)
    /// sees to it.
    pub(crate) fn import(&mut self, batch: &RecordBatch) -> Result<DataChunk> {
        debug_assert!(batch.num_rows() <= MAX_CHUNK_ROWS);
        let rows = batch.num_rows();
        if rows > MAX_CHUNK_ROWS {
            let message = format!("a chunk of {rows} rows is longer than {MAX_CHUNK_ROWS}");
            return Err(SqlError::internal(message));
        }
        let mut c_array = FFI_ArrowArray::new(&StructArray::from(batch.clone()).to_data());
        let mut chunk = DataChunk(ptr::null_mut());
        // SAFETY: the array has the importer's schema (the caller's promise, checked by the engine when it
        // plans a put) and the layout of the C data interface. DuckDB takes it over by clearing `release`.
        unsafe {
            check(ffi::duckdb_data_chunk_from_arrow(
                self.connection.raw,
                (&raw mut c_array).cast(),
                self.raw,
                &raw mut chunk.0,
            ))?;
        }
        Ok(chunk)
    }
}

impl Drop for ArrowImporter<'_> {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_schema_from_arrow, freed only here.
        unsafe { ffi::duckdb_destroy_arrow_converted_schema(&raw mut self.raw) };
    }
}

/// At most [`MAX_CHUNK_ROWS`] rows in DuckDB's layout.
pub(crate) struct DataChunk(pub(super) ffi::duckdb_data_chunk);

// SAFETY: a chunk is used by one thread at a time, and what it shares inside is counted atomically.
unsafe impl Send for DataChunk {}

impl DataChunk {
    /// How many rows it has.
    pub(super) fn rows(&self) -> u64 {
        // SAFETY: the chunk is live.
        unsafe { ffi::duckdb_data_chunk_get_size(self.0) }
    }

    /// The types of its first `count` columns.
    pub(super) fn types(&self, count: usize) -> Vec<LogicalType> {
        // SAFETY: the chunk is live, a column that it does not have is null, and so is its type.
        (0..count as u64)
            .map(|index| unsafe {
                let vector = ffi::duckdb_data_chunk_get_vector(self.0, index);
                LogicalType(ffi::duckdb_vector_get_column_type(vector))
            })
            .collect()
    }
}

impl Drop for DataChunk {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_data_chunk_from_arrow, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_data_chunk(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::engine::ffi::Database;

    /// DuckDB's look-up holds on to the table that it was planned with: planned in one transaction and run in another one, it read what
    /// was freed in between.
    #[test]
    fn generated_columns_are_found_while_their_table_is_replaced() {
        let database = Database::open(":memory:", &[]).unwrap();
        let (own, other) = (database.connect().unwrap(), database.connect().unwrap());
        let name = "a name that is too long to be kept in place";
        let replace =
            format!("CREATE OR REPLACE TABLE t (\"{name}\" BIGINT, twice AS (2 * \"{name}\"))");
        other.execute(&replace).unwrap();
        std::thread::scope(|scope| {
            let replacing = scope.spawn(move || {
                for _ in 0..2_000 {
                    other.execute(&replace).unwrap();
                }
            });
            while !replacing.is_finished() {
                let table = TableName::from("t");
                let mut columns = own.table_columns(&table).unwrap().unwrap();
                own.mark_generated(&table, &mut columns);
                let generated: Vec<_> = columns.iter().map(|column| column.is_generated).collect();
                assert_eq!(generated, [false, true]);
            }
        });
    }

    #[test]
    fn rows_count_as_written_until_they_are_committed_and_not_at_all_in_a_temporary_table() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let create = "CREATE TABLE t (i BIGINT); CREATE TEMP TABLE scratch (i BIGINT)";
        connection.execute(create).unwrap();
        let columns = connection.table_columns(&TableName::from("t"));
        let columns = columns.unwrap().unwrap();
        let columns: Vec<_> = columns.iter().collect();
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let rows = RecordBatch::try_from_iter([("i", ids)]).unwrap();
        let mut importer = connection.importer(&rows.schema()).unwrap();
        let chunk = importer.import(&rows).unwrap();
        let written = || connection.rows_written.get();
        let appender = |table: &str| {
            let sql = format!("INSERT INTO {table} FROM {ROWS}");
            connection.appender(&sql, &columns).unwrap()
        };
        let (mut kept, mut gathered) = (appender("t"), appender("scratch").temporary());
        connection.begin().unwrap();
        for appender in [&mut kept, &mut gathered] {
            appender.append(&chunk).unwrap();
            appender.flush().unwrap();
        }
        assert_eq!(written(), 1000);
        connection.commit().unwrap();
        assert_eq!(written(), 0);
        gathered.append(&chunk).unwrap();
        assert_eq!(written(), 0);
        gathered.flush().unwrap();
        kept.append(&chunk).unwrap();
        assert_eq!(written(), 1000);
        kept.flush().unwrap();
        assert_eq!(written(), 0);
    }
}
