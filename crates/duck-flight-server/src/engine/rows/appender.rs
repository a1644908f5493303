//! Batches into a table: in chunks that DuckDB takes safely, and with the row that it refuses named.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use duck_flight_protocol::{TableName, quote};

use super::effect::{DELETES, ORDINAL};
use super::offences::Offence;
use super::plan::Plan;
use super::row_bytes::{row_bytes, width};
use crate::engine::catalog::qualified;
use crate::engine::ffi;
use crate::engine::ffi::append::{DataChunk, MAX_CHUNK_ROWS, ROWS};
use crate::engine::ffi::{Appender, ArrowImporter, ColumnShape, Connection};
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// The temporary table of a connection for rows that are looked at before they go into their table.
pub(in crate::engine) const STAGED: &str = "temp.main.duck_flight_staged";

/// The name of [`STAGED`].
pub(in crate::engine) fn staged_table() -> TableName {
    let mut parts = STAGED.split('.').map(str::to_owned);
    TableName {
        catalog: parts.next(),
        schema: parts.next(),
        table: parts.next().unwrap_or_default(),
    }
}

/// How many rows an appender gathers for one run of its statement; with more it runs it in between
/// (`BaseAppender::DEFAULT_FLUSH_COUNT`).
const GATHERED_ROWS: u64 = 204_800;

/// How many bytes of rows that may be applied in parts are gathered at most: what an appender holds counts nowhere in DuckDB's limit
/// of memory.
pub(in crate::engine) const GATHERED_BYTES: usize = 32 << 20;

/// What DuckDB refers by to a value that has no fixed width.
const REFERENCE_BYTES: usize = 16;

/// Brings batches of one plan to one table.
pub(in crate::engine) struct TableWriter<'a> {
    connection: &'a Connection,
    table: &'a TableName,
    pub(super) plan: Arc<Plan>,
    /// One for each statement that applies the rows.
    appenders: Vec<Appender<'a>>,
    importer: ArrowImporter<'a>,
    /// What they have gathered, where it may be applied in parts.
    gathered: Option<Gathered>,
    /// The schema with an ordinal, where the order of rows matters.
    ordinals: Option<SchemaRef>,
    rows: u64,
    /// Whether any of them deletes.
    deletes: bool,
}

/// What appenders have gathered since they ran their statement last.
#[derive(Default)]
struct Gathered {
    rows: u64,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, rows: usize, bytes: usize) {
        self.rows += rows as u64;
        self.bytes += bytes;
        if self.rows >= GATHERED_ROWS {
            // They have run it again.
            *self = Self::default();
        }
    }
}

impl<'a> TableWriter<'a> {
    /// Opens a writer for up to `rows` rows of a plan. In a table that nobody else sees yet their number does not matter.
    pub(in crate::engine) fn open(
        connection: &'a Connection,
        table: &'a TableName,
        plan: &Arc<Plan>,
        rows: u64,
    ) -> Result<Self> {
        let ordered = plan.is_keyed();
        let schema = gathered_schema(plan, ordered);
        Ok(Self {
            connection,
            table,
            plan: plan.clone(),
            appenders: plan
                .statements(connection, table, ROWS, rows)
                .iter()
                .map(|sql| {
                    let appender = open_appender(connection, sql, plan, ordered);
                    // It joins the rows with all of the table.
                    appender.map(|appender| match ordered {
                        true => appender.helped(),
                        false => appender,
                    })
                })
                .collect::<Result<_>>()?,
            importer: connection.importer(&schema)?,
            gathered: (!ordered).then(Gathered::default),
            ordinals: ordered.then_some(schema),
            rows: 0,
            deletes: false,
        })
    }

    /// Makes the temporary table [`STAGED`], for rows as the plan's table takes them, and their ordinals. The columns are those
    /// of `table`, which may be [`STAGED`] itself as it was before.
    pub(in crate::engine) fn stage(
        connection: &'a Connection,
        table: &'a TableName,
        plan: &Arc<Plan>,
    ) -> Result<Self> {
        let mut names: Vec<_> = plan
            .given()
            .map(|column| quote(column.field.name()))
            .collect();
        let mut columns = names.clone();
        if plan.has_op() {
            names.push(DELETES.into());
            columns.push(format!("false AS {DELETES}"));
        }
        names.push(ORDINAL.into());
        columns.push(format!("0::UBIGINT AS {ORDINAL}"));
        connection.execute(&format!(
            "CREATE OR REPLACE TEMP TABLE {STAGED} AS SELECT {} FROM {} LIMIT 0",
            columns.join(", "),
            qualified(table)
        ))?;
        let sql = format!(
            "INSERT INTO {STAGED} SELECT {} FROM {ROWS}",
            names.join(", ")
        );
        let schema = gathered_schema(plan, true);
        Ok(Self {
            connection,
            table,
            plan: plan.clone(),
            appenders: vec![open_appender(connection, &sql, plan, true)?.temporary()],
            importer: connection.importer(&schema)?,
            gathered: Some(Gathered::default()),
            ordinals: Some(schema),
            rows: 0,
            deletes: false,
        })
    }

    /// Whether another unit of `rows` rows may be applied with those that were appended, by one run of the statement. Of
    /// the rows with one key only the last one counts then: where it lacks columns, those of a row that it deletes before
    /// would stay.
    pub(in crate::engine) fn takes(&self, plan: &Plan, rows: u64) -> bool {
        self.plan.is_same(plan)
            && (!plan.is_keyed() || self.rows + rows <= GATHERED_ROWS)
            && !(self.deletes && plan.is_partial())
    }

    /// Appends the batches of a unit.
    pub(in crate::engine) fn append_unit<'b>(
        &mut self,
        batches: impl IntoIterator<Item = &'b RecordBatch>,
    ) -> Result<()> {
        let mut rows = 0;
        for batch in batches {
            self.append(batch, rows)?;
            rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Appends a batch in chunks. `rows_before` are the rows of the unit before it, for errors.
    pub(in crate::engine) fn append(
        &mut self,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<()> {
        let numbered;
        let batch = match &self.ordinals {
            Some(schema) => {
                numbered = number(batch, schema, self.rows)?;
                &numbered
            }
            None => batch,
        };
        self.deletes |= self.plan.deletes_any(batch);
        let mut rows_before = rows_before;
        for chunk in self.chunks(batch) {
            if let Err(error) = self.append_chunk(&chunk) {
                return Err(self.find_row(&chunk.rows, rows_before, error));
            }
            rows_before += chunk.rows.num_rows() as u64;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// How many of the rows that were appended last are not applied yet.
    pub(in crate::engine) fn waiting(&self) -> u64 {
        let gathered = self.gathered.as_ref();
        gathered.map_or(self.rows, |gathered| gathered.rows)
    }

    /// Cuts a batch into chunks.
    fn chunks<'b>(&self, batch: &'b RecordBatch) -> impl Iterator<Item = Chunk> + use<'b> {
        let most_bytes = match self.gathered {
            Some(_) => GATHERED_BYTES,
            None => usize::MAX,
        };
        let rows = batch.num_rows();
        let starts = (0..rows).step_by(MAX_CHUNK_ROWS);
        starts.flat_map(move |start| {
            let mut chunks = Vec::new();
            let slice = batch.slice(start, MAX_CHUNK_ROWS.min(rows - start));
            Chunk::of(slice).cut(most_bytes, &mut chunks);
            chunks
        })
    }

    /// Appends a chunk. What is gathered is applied before, where both would be too much.
    fn append_chunk(&mut self, chunk: &Chunk) -> ffi::Result<()> {
        let Chunk { rows, bytes } = chunk;
        let gathered = self.gathered.as_ref();
        if gathered.is_some_and(|gathered| gathered.bytes + bytes > GATHERED_BYTES) {
            self.apply()?;
        }
        let imported = self.importer.import(rows)?;
        append_to_all(&mut self.appenders, &imported)?;
        if let Some(gathered) = &mut self.gathered {
            gathered.add(rows.num_rows(), *bytes);
        }
        Ok(())
    }

    /// Applies what is gathered, in the open transaction.
    fn apply(&mut self) -> ffi::Result<()> {
        self.appenders.iter_mut().try_for_each(Appender::flush)?;
        if let Some(gathered) = &mut self.gathered {
            *gathered = Gathered::default();
        }
        Ok(())
    }

    /// Applies what was appended, in the open transaction.
    pub(in crate::engine) fn finish(mut self) -> Result<()> {
        Ok(self.apply()?)
    }

    /// Applies the rows of a unit, in the open transaction, as one: by way of a temporary table where they are more than an
    /// appender gathers.
    pub(in crate::engine) fn apply_unit(
        connection: &'a Connection,
        table: &'a TableName,
        plan: &Arc<Plan>,
        batches: &[RecordBatch],
        rows: u64,
    ) -> Result<()> {
        let mut staged = Self::stage(connection, table, plan)?;
        staged.append_unit(batches)?;
        staged.finish()?;
        plan.apply_staged(connection, table, rows)?;
        connection.execute(&format!("DROP TABLE {STAGED}"))?;
        Ok(())
    }

    /// Whether a unit of `rows` rows must be applied by [`TableWriter::apply_unit`].
    pub(in crate::engine) fn is_too_large(plan: &Plan, rows: u64) -> bool {
        plan.is_keyed() && rows > GATHERED_ROWS
    }

    /// Appends the rows of a batch that DuckDB can cast; answers with the others, in their order. `rows_before` are the rows
    /// of the unit before it: ordinals also count those that are left out.
    pub(in crate::engine) fn sift(
        &mut self,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<Vec<Offence>> {
        let numbered;
        let batch = match &self.ordinals {
            Some(schema) => {
                numbered = number(batch, schema, rows_before)?;
                &numbered
            }
            None => batch,
        };
        let mut misfits = Vec::new();
        let mut rows_before = rows_before;
        for chunk in self.chunks(batch) {
            self.sift_chunk(&chunk, rows_before, &mut misfits)?;
            rows_before += chunk.rows.num_rows() as u64;
        }
        Ok(misfits)
    }

    /// Halves what cannot be cast, down to the rows at fault.
    fn sift_chunk(
        &mut self,
        chunk: &Chunk,
        rows_before: u64,
        misfits: &mut Vec<Offence>,
    ) -> Result<()> {
        let Err(error) = self.append_chunk(chunk) else {
            return Ok(());
        };
        let slice = &chunk.rows;
        let Some(index) = column_in(&error.message).filter(|index| *index < slice.num_columns())
        else {
            return Err(error.into());
        };
        if let Some([first, second]) = chunk.halves() {
            self.sift_chunk(&first, rows_before, misfits)?;
            let rows_before = rows_before + first.rows.num_rows() as u64;
            return self.sift_chunk(&second, rows_before, misfits);
        }
        let column = slice.schema_ref().field(index).name().as_str();
        let misfit = misfit(slice, 0, index, &error);
        misfits.push(Offence {
            row: rows_before,
            columns: column.into(),
            reason: format!("column `{column}`: {misfit}").into(),
        });
        Ok(())
    }

    /// Names the row and the value that DuckDB could not cast; it tells only the column.
    fn find_row(&mut self, slice: &RecordBatch, rows_before: u64, error: SqlError) -> Error {
        let Some(index) = column_in(&error.message).filter(|index| *index < slice.num_columns())
        else {
            return error.into();
        };
        // An appender of its own, never flushed: one row after another until one fails.
        let scratch = Self::open(self.connection, self.table, &self.plan, 1);
        let Ok(Self { mut appenders, .. }) = scratch else {
            return error.into();
        };
        let bad = (0..slice.num_rows()).find(|&row| {
            let chunk = self.importer.import(&slice.slice(row, 1));
            chunk.is_ok_and(|chunk| append_to_all(&mut appenders, &chunk).is_err())
        });
        let Some(row) = bad else { return error.into() };
        Error::Value {
            row: rows_before + row as u64 + 1,
            column: slice.schema_ref().field(index).name().clone(),
            reason: misfit(slice, row, index, &error),
        }
    }
}

fn append_to_all(appenders: &mut [Appender<'_>], chunk: &DataChunk) -> ffi::Result<()> {
    appenders
        .iter_mut()
        .try_for_each(|appender| appender.append(chunk))
}

/// Rows that are appended at once.
struct Chunk {
    rows: RecordBatch,
    /// What an appender holds of them, more or less.
    bytes: usize,
}

impl Chunk {
    fn of(rows: RecordBatch) -> Self {
        let bytes = |column: &ArrayRef| match width(column.data_type()) {
            Some(width) => column.len() * width,
            None => column.len() * REFERENCE_BYTES + row_bytes(column),
        };
        let bytes = rows.columns().iter().map(bytes).sum();
        Self { rows, bytes }
    }

    /// Halves it until no part has more bytes, unless a row has.
    fn cut(self, most_bytes: usize, parts: &mut Vec<Self>) {
        let halves = match self.bytes > most_bytes {
            true => self.halves(),
            false => None,
        };
        match halves {
            Some(halves) => halves
                .into_iter()
                .for_each(|half| half.cut(most_bytes, parts)),
            None => parts.push(self),
        }
    }

    /// Its halves; `None` of a row.
    fn halves(&self) -> Option<[Self; 2]> {
        let rows = self.rows.num_rows();
        let half = rows / 2;
        (half > 0).then(|| {
            let first = self.rows.slice(0, half);
            let second = self.rows.slice(half, rows - half);
            [first, second].map(Self::of)
        })
    }
}

/// What is wrong with a value that DuckDB could not cast.
fn misfit(slice: &RecordBatch, row: usize, column: usize, error: &SqlError) -> String {
    let value = array_value_to_string(slice.column(column), row).unwrap_or_default();
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
    format!("`{value}` of type {got} does not fit {expected} of the table")
}

/// The batch with the ordinals of its rows.
fn number(batch: &RecordBatch, schema: &SchemaRef, first: u64) -> Result<RecordBatch> {
    let ordinals = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(ordinals));
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|error| SqlError::internal(error.to_string()).into())
}

fn gathered_schema(plan: &Plan, ordered: bool) -> SchemaRef {
    if !ordered {
        return plan.schema().clone();
    }
    let mut fields = plan.schema().fields().to_vec();
    fields.push(ColumnShape::number(ORDINAL).field);
    Arc::new(Schema::new(fields))
}

fn open_appender<'a>(
    connection: &'a Connection,
    sql: &str,
    plan: &Plan,
    ordered: bool,
) -> Result<Appender<'a>> {
    let deletes = plan.has_op().then(|| ColumnShape::flag(DELETES));
    let ordinal = ordered.then(|| ColumnShape::number(ORDINAL));
    let columns: Vec<_> = plan.given().chain(&deletes).chain(&ordinal).collect();
    Ok(connection.appender(sql, &columns)?)
}

/// The column that DuckDB's cast error names by number.
fn column_in(message: &str) -> Option<usize> {
    let (_, number) = message
        .split_once("type mismatch in AppendDataChunk")?
        .1
        .rsplit_once("for column ")?;
    number.trim().parse().ok()
}
