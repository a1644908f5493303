//! How the batches of a stream become rows of a table: which column goes where, and what a row does there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duck_flight_protocol::{SchemaMode, TableName};

use super::appender::STAGED;
use super::constraints::{collates, has_constraints, refuses_rows};
use super::effect::{self, DELETES, Effect, ORDINAL};
use super::evolve::{has_no_type_yet, why_it_stays};
use super::keys::Refusals;
use super::row_bytes::width;
use super::types::{ColumnCast, Names, is_text};
use crate::engine::ffi::ColumnShape;
use crate::engine::ffi::Connection;
use crate::engine::replay::structs;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// What a value of no fixed width takes at most beside its bytes.
const OFFSET_BYTES: usize = 8;

/// How the batches of one stream become rows of one table.
pub(in crate::engine) struct Plan {
    /// The table's columns this was made for.
    table: Arc<[ColumnShape]>,
    effect: Effect,
    columns: Vec<PlannedColumn>,
    /// The places of the key's columns among `columns`.
    key: Vec<usize>,
    /// The place in the stream of the column that says what each row is.
    op: Option<usize>,
    schema: SchemaRef,
    cast: CastColumns,
}

/// The columns whose values take other memory than in the stream once they are cast.
#[derive(Default)]
struct CastColumns {
    /// The bytes that a row has in the columns of a fixed width.
    row_bytes: usize,
    /// The places of those without a fixed width among the plan's columns.
    variable: Vec<usize>,
}

struct PlannedColumn {
    /// The column's place in the stream, and in the table.
    source: usize,
    place: usize,
    values: ColumnCast,
    /// Why it has a type still that values may not fit, for a put that changes its table.
    stays: Option<String>,
}

impl PlannedColumn {
    fn new(
        source: usize,
        field: &Field,
        place: usize,
        column: &ColumnShape,
        mode: SchemaMode,
    ) -> Result<Self> {
        let stays = why_it_stays(column, field, mode);
        match ColumnCast::new(field, column) {
            Ok(values) => Ok(Self {
                source,
                place,
                values,
                stays,
            }),
            Err(error) => Err(with_reason(error, stays.as_deref())),
        }
    }

    /// Casts its values in a batch of the stream.
    fn apply(&self, batch: &RecordBatch, rows_before: u64) -> Result<ArrayRef> {
        let values = self.values.apply(batch.column(self.source), rows_before);
        values.map_err(|error| with_reason(error, self.stays.as_deref()))
    }
}

/// The error of a column or a value that does not fit, with the reason why the column is not another one by now.
fn with_reason(error: Error, stays: Option<&str>) -> Error {
    match (error, stays) {
        (Error::Columns(message), Some(stays)) => Error::Columns(format!("{message}; {stays}")),
        (
            Error::Value {
                row,
                column,
                reason,
            },
            Some(stays),
        ) => Error::Value {
            row,
            column,
            reason: format!("{reason}; {stays}"),
        },
        (error, _) => error,
    }
}

impl Plan {
    /// Matches a stream's columns with a table's, by name and without regard to case. Where the table may change, a column
    /// of nothing but nulls that it lacks is left out.
    ///
    /// # Errors
    /// When a column is unknown, missing, given twice, or cannot become the table's type; the message names it.
    pub(in crate::engine) fn new(
        stream: &Schema,
        table: &Arc<[ColumnShape]>,
        effect: &Effect,
        mode: SchemaMode,
    ) -> Result<Self> {
        let mut columns: Vec<PlannedColumn> = Vec::with_capacity(stream.fields().len());
        let mut op = None;
        let names = Names::new(table.iter().map(|column| column.field.name()));
        let mut is_given = vec![false; table.len()];
        for (source, field) in stream.fields().iter().enumerate() {
            if effect.is_op(field.name()) {
                if op.replace(source).is_some() {
                    return Err(given_twice(field));
                }
                check_op(field)?;
            }
            if !effect.concerns(field.name()) {
                continue;
            }
            let place = match names.place(field.name()) {
                Some(place) => place,
                None if has_no_type_yet(field, mode) => continue,
                None => return Err(unknown_column(field, table)),
            };
            if std::mem::replace(&mut is_given[place], true) {
                return Err(given_twice(field));
            }
            columns.push(PlannedColumn::new(
                source,
                field,
                place,
                &table[place],
                mode,
            )?);
        }
        if let (Effect::Changes { op: name, .. }, None) = (effect, op) {
            return Err(missing_column(name, "`op`"));
        }
        columns.sort_by_key(|column| column.place);
        let key = places_of_key(effect, &names, &columns)?;
        if columns.is_empty() {
            return Err(no_columns(stream));
        }
        let deletes = op.map(|_| ColumnShape::flag(DELETES).field);
        let fields: Vec<_> = columns
            .iter()
            .map(|column| column.values.target().clone())
            .chain(deletes)
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let cast = CastColumns::of(stream, &columns);
        Ok(Self {
            table: table.clone(),
            effect: effect.clone(),
            columns,
            key,
            op,
            schema,
            cast,
        })
    }

    /// The schema of the batches that [`Plan::apply`] makes.
    pub(in crate::engine) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether batches of both plans go through the same appender.
    pub(in crate::engine) fn is_same(&self, other: &Self) -> bool {
        self.schema == other.schema && self.effect == other.effect && self.fits(&other.table)
    }

    /// Whether this is how rows go into a table with these columns.
    pub(in crate::engine) fn fits(&self, table: &[ColumnShape]) -> bool {
        *self.table == *table
    }

    /// Whether rows that this has cast go into a table with these columns as they are: it still has each of those that are given.
    pub(in crate::engine) fn still_fits(&self, table: &[ColumnShape]) -> bool {
        self.fits(table) || self.given().all(|column| table.contains(column))
    }

    /// Whether it was made for this very look at the table.
    pub(in crate::engine) fn is_for(&self, table: &Arc<[ColumnShape]>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// Whether the order of rows matters, so that an ordinal must go with them.
    pub(super) fn is_keyed(&self) -> bool {
        self.effect.is_keyed()
    }

    /// Whether a column goes with the rows that says which of them delete.
    pub(super) fn has_op(&self) -> bool {
        self.op.is_some()
    }

    /// Whether the table has columns that are not given.
    pub(super) fn is_partial(&self) -> bool {
        let takes_values = |column: &&ColumnShape| !column.is_generated;
        self.columns.len() < self.table.iter().filter(takes_values).count()
    }

    /// Whether any row of a batch that [`Plan::apply`] has made deletes.
    pub(super) fn deletes_any(&self, batch: &RecordBatch) -> bool {
        // The flag follows the values.
        self.has_op() && batch.column(self.columns.len()).as_boolean().true_count() > 0
    }

    /// The columns of the table that are given, in the table's order.
    pub(in crate::engine) fn given(&self) -> impl Iterator<Item = &ColumnShape> {
        self.columns.iter().map(|column| &self.table[column.place])
    }

    /// The columns by which rows are told; none where they are only added.
    pub(super) fn key_columns(&self) -> Vec<&str> {
        let name = |&place: &usize| self.columns[place].values.target().name().as_str();
        self.key.iter().map(name).collect()
    }

    /// The condition that rows `one` and `other` have the same key.
    pub(super) fn same_key(&self, one: &str, other: &str) -> String {
        effect::same_key(&self.key_columns(), one, other)
    }

    /// The statements that apply `rows` rows of `source`, or fewer, one after another.
    pub(super) fn statements(
        &self,
        connection: &Connection,
        table: &TableName,
        source: &str,
        rows: u64,
    ) -> Vec<String> {
        let columns: Vec<_> = self
            .given()
            .map(|column| column.field.name().as_str())
            .collect();
        let key = self.key_columns();
        let may_fill_row_group = rows >= connection.row_group_rows();
        self.effect
            .statements(table, source, &columns, &key, may_fill_row_group)
    }

    /// Applies `rows` rows of [`STAGED`], or fewer, in the open transaction.
    pub(in crate::engine) fn apply_staged(
        &self,
        connection: &Connection,
        table: &TableName,
        rows: u64,
    ) -> Result<()> {
        let source = match self.is_keyed() {
            true => STAGED.to_owned(),
            false => format!("{STAGED} ORDER BY {ORDINAL}"),
        };
        // They may have been gathered before the transaction began.
        connection.note_written(rows);
        for sql in self.statements(connection, table, &source, rows) {
            connection.execute(&sql)?;
        }
        structs::secure_inserted(connection, table, rows)
    }

    /// Whether rows that this has cast may be refused by their table, for a value or for a constraint.
    pub(in crate::engine) fn may_be_refused(
        &self,
        connection: &Connection,
        table: &TableName,
    ) -> Result<bool> {
        let given: Vec<_> = self.given().collect();
        if !connection.takes_uncast(&self.schema, &given)? {
            return Ok(true);
        }
        has_constraints(connection, table)
    }

    /// Whether its table may refuse one row with a key and take another one.
    pub(in crate::engine) fn refusals(
        &self,
        connection: &Connection,
        table: &TableName,
    ) -> Result<Refusals> {
        let refuses = refuses_rows(connection, table, &self.key_columns())?;
        Ok(match refuses {
            false => Refusals::Never,
            true if collates(connection, table)? => Refusals::OfCollatedKeys,
            true => Refusals::OfKeys,
        })
    }

    /// The columns by which rows are told: how their values are cast, and what they are in the table.
    pub(super) fn key_casts(&self) -> impl Iterator<Item = (&ColumnCast, &ColumnShape)> {
        let columns = self.key.iter().map(|&place| &self.columns[place]);
        columns.map(|column| (&column.values, &self.table[column.place]))
    }

    /// The columns by which rows are told, of a batch that [`Plan::apply`] has made.
    pub(super) fn key_values(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        let of_place = |&place: &usize| batch.column(place).clone();
        self.key.iter().map(of_place).collect()
    }

    /// What a batch of this many rows will take once it is cast, beside what was sent, which takes `sent_bytes`: as nearly as it
    /// can be told beforehand, and rather too much.
    pub(in crate::engine) fn expected_bytes(&self, rows: usize, sent_bytes: usize) -> usize {
        let CastColumns {
            row_bytes,
            variable,
        } = &self.cast;
        let row_bytes = row_bytes + variable.len() * OFFSET_BYTES;
        let values = if variable.is_empty() { 0 } else { sent_bytes };
        rows.saturating_mul(row_bytes).saturating_add(values)
    }

    /// What a batch that [`Plan::apply`] has made takes beside the one that it was made of.
    pub(in crate::engine) fn cast_bytes(&self, cast: &RecordBatch) -> usize {
        let bytes = |&place: &usize| {
            let column = cast.column(place).to_data();
            let bytes = column.get_slice_memory_size();
            bytes.unwrap_or_else(|_| column.get_array_memory_size())
        };
        let variable: usize = self.cast.variable.iter().map(bytes).sum();
        variable.saturating_add(cast.num_rows().saturating_mul(self.cast.row_bytes))
    }

    /// Casts a batch of the stream. `rows_before` are the rows of the unit before this batch, for errors. One that makes Arrow's casts
    /// panic is refused like any other that cannot be cast: nobody else's rows are to fail with it.
    pub(in crate::engine) fn apply(
        &self,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<RecordBatch> {
        let cast = AssertUnwindSafe(|| self.cast_batch(batch, rows_before));
        catch_unwind(cast).unwrap_or_else(|_| {
            let message = "the batch cannot be cast to the types of its table";
            Err(Error::Malformed(message.into()))
        })
    }

    fn cast_batch(&self, batch: &RecordBatch, rows_before: u64) -> Result<RecordBatch> {
        let mut columns = self
            .columns
            .iter()
            .map(|column| column.apply(batch, rows_before))
            .collect::<Result<Vec<_>>>()?;
        for &place in &self.key {
            if let Some(nulls) = columns[place].logical_nulls()
                && let Some(row) = (0..nulls.len()).find(|&row| nulls.is_null(row))
            {
                return Err(Error::Value {
                    row: rows_before + row as u64 + 1,
                    column: self.columns[place].values.target().name().clone(),
                    reason: "a key cannot be NULL, for it finds no row".into(),
                });
            }
        }
        if let Some(op) = self.op {
            let name = batch.schema_ref().field(op).name();
            columns.push(deletions(batch.column(op), name, rows_before)?);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows)
            .map_err(|error| SqlError::internal(error.to_string()).into())
    }
}

impl CastColumns {
    /// A cast to the type that it has already is for its checks, and shares the values.
    fn of(stream: &Schema, columns: &[PlannedColumn]) -> Self {
        let mut cast = Self::default();
        for (place, column) in columns.iter().enumerate() {
            let from = stream.field(column.source).data_type();
            let to = column.values.target().data_type();
            match width(to) {
                _ if from == to => {}
                Some(bytes) => cast.row_bytes += bytes,
                None => cast.variable.push(place),
            }
        }
        cast
    }
}

/// Where the key's columns stand among the given ones.
fn places_of_key(effect: &Effect, table: &Names, columns: &[PlannedColumn]) -> Result<Vec<usize>> {
    let place = |name: &String| {
        let place = table.place(name)?;
        columns
            .binary_search_by_key(&place, |column| column.place)
            .ok()
    };
    let place = |name: &String| place(name).ok_or_else(|| missing_column(name, "key"));
    effect.key().iter().map(place).collect()
}

fn missing_column(name: &str, role: &str) -> Error {
    Error::Columns(format!(
        "the {role} column `{name}` is not in the stream; send it, or name another"
    ))
}

fn check_op(field: &Field) -> Result<()> {
    if is_text(field.data_type()) {
        return Ok(());
    }
    Err(Error::Columns(format!(
        "column `{}` says what each row is as text ({}), not as {}",
        field.name(),
        effect::OPS,
        field.data_type()
    )))
}

/// Which rows delete.
fn deletions(ops: &ArrayRef, name: &str, rows_before: u64) -> Result<ArrayRef> {
    let texts = cast(ops, &DataType::Utf8).map_err(|error| Error::Columns(error.to_string()))?;
    let mut flags = BooleanBuilder::with_capacity(texts.len());
    for (row, op) in texts.as_string::<i32>().iter().enumerate() {
        let delete = op.and_then(effect::deletes).ok_or_else(|| Error::Value {
            row: rows_before + row as u64 + 1,
            column: name.to_owned(),
            reason: format!("`{}` is none of {}", op.unwrap_or("NULL"), effect::OPS),
        })?;
        flags.append_value(delete);
    }
    Ok(Arc::new(flags.finish()))
}

pub(super) fn no_columns(stream: &Schema) -> Error {
    let why = match stream.fields().is_empty() {
        true => "the stream's schema has no columns",
        false => {
            "the stream's columns are of the type null, and a table that evolves gets them once they have another: send \
             them with their types"
        }
    };
    Error::Columns(why.into())
}

pub(super) fn given_twice(field: &Field) -> Error {
    Error::Columns(format!(
        "the stream has two columns `{}`; DuckDB does not tell names apart by their case",
        field.name()
    ))
}

fn unknown_column(field: &Field, table: &[ColumnShape]) -> Error {
    let names: Vec<_> = table
        .iter()
        .map(|column| column.field.name().as_str())
        .collect();
    Error::Columns(format!(
        "the table has no column `{}`; its columns are {}",
        field.name(),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_whose_cast_panics_is_refused() {
        let columns = ["i", "j"].map(ColumnShape::number);
        let fields = columns.each_ref().map(|column| column.field.clone());
        let stream = Schema::new(fields.to_vec());
        let plan = Plan::new(&stream, &columns.into(), &Effect::Append, SchemaMode::Match);
        // It has none of the columns.
        let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let refused = plan.unwrap().apply(&batch, 0);
        assert!(matches!(refused, Err(Error::Malformed(_))), "{refused:?}");
    }
}
