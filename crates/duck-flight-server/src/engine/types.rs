//! Values on their way in: how the values of a stream's columns become a table's.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNanoType, IntervalUnit, Schema, SchemaRef, UnionMode,
};
use arrow::util::display::array_value_to_string;
use duck_flight_protocol::TableName;
use duckdb::ffi;

use super::effect::{self, DELETES, Effect};
use super::ffi::ColumnShape;
use crate::error::{Error, Result};

/// How the batches of one stream become rows of one table.
pub(super) struct Plan {
    /// The table's columns this was made for.
    table: Arc<[ColumnShape]>,
    effect: Effect,
    columns: Vec<PlannedColumn>,
    /// The places of the key's columns among `columns`.
    key: Vec<usize>,
    /// The place in the stream of the column that says what each row is.
    op: Option<usize>,
    schema: SchemaRef,
}

#[derive(Debug)]
struct PlannedColumn {
    /// The column's place in the stream, and in the table.
    source: usize,
    place: usize,
    /// The type to cast to before DuckDB sees the values; `None` to pass them as they are.
    cast: Option<Conversion>,
    /// What DuckDB imports, and casts itself where the table has another type.
    target: FieldRef,
}

#[derive(Debug)]
enum Conversion {
    /// Arrow's cast, checked row by row.
    To(DataType),
    /// The text of a UUID's 16 bytes.
    UuidText,
}

impl Plan {
    /// Matches a stream's columns with a table's, by name and without regard to case.
    ///
    /// # Errors
    /// When a column is unknown, missing, given twice, or cannot become the table's type; the message names it.
    pub(super) fn new(
        stream: &Schema,
        table: &Arc<[ColumnShape]>,
        effect: &Effect,
    ) -> Result<Self> {
        let mut columns: Vec<PlannedColumn> = Vec::with_capacity(stream.fields().len());
        let mut op = None;
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
            let place = table
                .iter()
                .position(|column| same_name(column.field.name(), field.name()))
                .ok_or_else(|| unknown_column(field, table))?;
            if columns.iter().any(|other| other.place == place) {
                return Err(given_twice(field));
            }
            let (cast, target) = conversion(field, &table[place])?;
            columns.push(PlannedColumn {
                source,
                place,
                cast,
                target,
            });
        }
        if let (Effect::Changes { op: name, .. }, None) = (effect, op) {
            return Err(missing_column(name, "`op`"));
        }
        columns.sort_by_key(|column| column.place);
        let key = places_of_key(effect, &columns)?;
        if columns.is_empty() {
            return Err(Error::Columns("the stream's schema has no columns".into()));
        }
        let deletes = op.map(|_| ColumnShape::flag(DELETES).field);
        let fields: Vec<_> = columns
            .iter()
            .map(|column| column.target.clone())
            .chain(deletes)
            .collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(Self {
            table: table.clone(),
            effect: effect.clone(),
            columns,
            key,
            op,
            schema,
        })
    }

    /// The schema of the batches that [`Plan::apply`] makes.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether batches of both plans go through the same appender.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.schema == other.schema && self.effect == other.effect && self.fits(&other.table)
    }

    /// Whether this is how rows go into a table with these columns.
    pub(super) fn fits(&self, table: &[ColumnShape]) -> bool {
        *self.table == *table
    }

    /// Whether it was made for this very look at the table.
    pub(super) fn is_for(&self, table: &Arc<[ColumnShape]>) -> bool {
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

    /// The columns of the table that are given, in the table's order.
    pub(super) fn given(&self) -> impl Iterator<Item = &ColumnShape> {
        self.columns.iter().map(|column| &self.table[column.place])
    }

    /// The statement that applies the rows of `source`.
    pub(super) fn sql(&self, table: &TableName, source: &str) -> String {
        let columns: Vec<_> = self
            .given()
            .map(|column| column.field.name().as_str())
            .collect();
        let key: Vec<_> = self.key.iter().map(|&place| columns[place]).collect();
        self.effect.sql(table, source, &columns, &key)
    }

    /// Casts a batch of the stream. `rows_before` are the rows of the unit before this batch, for errors.
    pub(super) fn apply(&self, batch: &RecordBatch, rows_before: u64) -> Result<RecordBatch> {
        let mut columns = self
            .columns
            .iter()
            .map(|column| column.apply(batch.column(column.source), rows_before))
            .collect::<Result<Vec<_>>>()?;
        for &place in &self.key {
            if let Some(nulls) = columns[place].logical_nulls()
                && let Some(row) = (0..nulls.len()).find(|&row| nulls.is_null(row))
            {
                return Err(Error::Value {
                    row: rows_before + row as u64 + 1,
                    column: self.columns[place].target.name().clone(),
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
            .map_err(|error| Error::Columns(error.to_string()))
    }
}

/// Where the key's columns stand among the given ones.
fn places_of_key(effect: &Effect, columns: &[PlannedColumn]) -> Result<Vec<usize>> {
    let place = |name: &String| {
        columns
            .iter()
            .position(|column| same_name(column.target.name(), name))
            .ok_or_else(|| missing_column(name, "key"))
    };
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
        "column `{}` says what each row is as text (I, U, D or c, r, u, d), not as {}",
        field.name(),
        field.data_type()
    )))
}

/// Which rows delete.
fn deletions(ops: &ArrayRef, name: &str, rows_before: u64) -> Result<ArrayRef> {
    let texts = cast_with_options(ops, &DataType::Utf8, &CastOptions::default())
        .map_err(|error| Error::Columns(error.to_string()))?;
    let mut flags = BooleanBuilder::with_capacity(texts.len());
    for (row, op) in texts.as_string::<i32>().iter().enumerate() {
        let delete = op.and_then(effect::deletes).ok_or_else(|| Error::Value {
            row: rows_before + row as u64 + 1,
            column: name.to_owned(),
            reason: format!("`{}` is none of I, U, D, c, r, u, d", op.unwrap_or("NULL")),
        })?;
        flags.append_value(delete);
    }
    Ok(Arc::new(flags.finish()))
}

impl PlannedColumn {
    fn apply(&self, array: &ArrayRef, rows_before: u64) -> Result<ArrayRef> {
        match &self.cast {
            None => Ok(array.clone()),
            Some(Conversion::UuidText) => {
                let texts: StringArray = array
                    .as_fixed_size_binary()
                    .iter()
                    .map(|value| value.and_then(|v| uuid::Uuid::from_slice(v).ok()))
                    .map(|uuid| uuid.map(|uuid| uuid.hyphenated().to_string()))
                    .collect();
                Ok(Arc::new(texts))
            }
            Some(Conversion::To(target)) => self.cast(array, target, rows_before),
        }
    }

    /// Casts without losing anything: a value that does not fit is an error that names its row.
    fn cast(&self, array: &ArrayRef, target: &DataType, rows_before: u64) -> Result<ArrayRef> {
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        let refused = |error: arrow::error::ArrowError| {
            Error::Columns(format!("column `{}`: {error}", self.target.name()))
        };
        let cast = cast_with_options(array, target, &options).map_err(refused)?;
        let lost = if let Some(row) = finer_than_micros(&cast) {
            Some(row)
        } else if cast.logical_null_count() > array.logical_null_count() {
            (0..array.len()).find(|&row| is_null(&cast, row) && !is_null(array, row))
        } else if may_round(array.data_type(), target) {
            let back = cast_with_options(&cast, array.data_type(), &options).map_err(refused)?;
            let same = not_distinct(array, &back).map_err(refused)?;
            (0..same.len()).find(|&row| !same.value(row))
        } else {
            None
        };
        lost.map_or(Ok(cast), |row| {
            let value = array_value_to_string(array, row).unwrap_or_default();
            let reason = format!(
                "`{value}` of type {} does not fit {target} of the table",
                array.data_type()
            );
            let row = rows_before + row as u64 + 1;
            Err(Error::Value {
                row,
                column: self.target.name().clone(),
                reason,
            })
        })
    }
}

/// The first row of an interval with parts of a microsecond, which DuckDB has no place for.
fn finer_than_micros(array: &ArrayRef) -> Option<usize> {
    let intervals = array.as_primitive_opt::<IntervalMonthDayNanoType>()?;
    intervals
        .iter()
        .position(|value| value.is_some_and(|value| value.nanoseconds % 1000 != 0))
}

fn is_null(array: &ArrayRef, row: usize) -> bool {
    array
        .logical_nulls()
        .is_some_and(|nulls| nulls.is_null(row))
}

/// Whether Arrow's cast would round silently.
fn may_round(from: &DataType, to: &DataType) -> bool {
    use DataType::{Duration, Interval, Time32, Time64, Timestamp};
    let unit = |data_type: &DataType| match data_type {
        Timestamp(unit, _) | Time32(unit) | Time64(unit) | Duration(unit) => Some(*unit),
        _ => None,
    };
    if let (Some(from), Some(to)) = (unit(from), unit(to)) {
        return to < from;
    }
    if matches!((from, to), (Timestamp(..), DataType::Date32)) {
        return true;
    }
    if matches!(to, Interval(_)) {
        return false;
    }
    if from.is_integer() && to.is_floating() {
        return true;
    }
    let scale = |data_type: &DataType| match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => Some(i16::from(*scale)),
        other if other.is_integer() => Some(0),
        other if other.is_floating() => Some(i16::MAX),
        _ => None,
    };
    match (scale(from), scale(to)) {
        (Some(i16::MAX), Some(to)) => to < i16::MAX,
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

pub(super) fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
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

/// How a column of the stream becomes a column of the table, and as what DuckDB imports it.
fn conversion(field: &Field, column: &ColumnShape) -> Result<(Option<Conversion>, FieldRef)> {
    let name = column.field.name();
    if column.is_generated {
        let message = format!("column `{name}` is generated by the table; leave it out");
        return Err(Error::Columns(message));
    }
    let named = |data_type: &DataType| Arc::new(Field::new(name, data_type.clone(), true));
    let (from, to) = (field.data_type(), column.field.data_type());
    let is_type = |id: ffi::duckdb_type| column.type_id == id;
    match extension_name(field) {
        Some("arrow.bool8") if *from == DataType::Int8 && *to == DataType::Boolean => {
            return Ok((Some(Conversion::To(DataType::Boolean)), named(to)));
        }
        Some("arrow.uuid") if *from == DataType::FixedSizeBinary(16) => {
            return Ok((Some(Conversion::UuidText), named(&DataType::Utf8)));
        }
        _ => {}
    }
    let cast_to = |target: &DataType| Ok((Some(Conversion::To(target.clone())), named(target)));
    if matches!(to, DataType::Interval(IntervalUnit::MonthDayNano)) && *from == *to {
        // A cast that changes nothing, for its check.
        return cast_to(to);
    }
    if same_shape(from, to) {
        return Ok((None, named(from)));
    }
    let text_of = [
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_ENUM,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UUID,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT,
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGNUM,
    ];
    // DuckDB parses these from text; what is no text by nature goes there as text too, losing nothing.
    let by_text = text_of.iter().any(|id| is_type(*id));
    if by_text && (is_text(from) || matches!(from, DataType::Decimal256(_, 0))) {
        return cast_to(&DataType::Utf8);
    }
    let huge = is_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT)
        || is_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT)
        || is_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGNUM);
    if huge && from.is_integer() {
        return Ok((None, named(from)));
    }
    if let (DataType::Timestamp(..), DataType::Timestamp(unit, Some(_))) = (from, to) {
        // DuckDB keeps the instant alone, so the zone's name does not matter; an offset needs no zone table.
        return cast_to(&DataType::Timestamp(*unit, Some("+00:00".into())));
    }
    if is_text(from) && to.is_nested() {
        return cast_to(&DataType::Utf8);
    }
    if are_kin(from, to) && arrow::compute::can_cast_types(from, to) {
        return cast_to(to);
    }
    // DuckDB casts nested values itself, structs by name; it needs them in plain encodings.
    if from.is_nested() && to.is_nested() && importable(from) {
        let plain = plain_encoding(from);
        if plain == *from {
            return Ok((None, named(from)));
        }
        if arrow::compute::can_cast_types(from, &plain) {
            return cast_to(&plain);
        }
    }
    Err(Error::Columns(format!(
        "column `{name}`: {from} cannot become {to} of the table"
    )))
}

/// Whether values of one type mean the same as values of the other: a number is no date, a time no timestamp.
fn are_kin(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, Dictionary, Duration, Interval, Null, RunEndEncoded, Time32,
        Time64, Timestamp,
    };
    match (from, to) {
        (Dictionary(_, values), _) => are_kin(values, to),
        (RunEndEncoded(_, values), _) => are_kin(values.data_type(), to),
        (Null, _) => true,
        _ if from.is_nested() || to.is_nested() => false,
        _ if is_text(from) || is_text(to) => true,
        (Date32 | Date64 | Timestamp(..), _) => matches!(to, Date32 | Date64 | Timestamp(..)),
        (Time32(_) | Time64(_), _) => matches!(to, Time32(_) | Time64(_)),
        (Duration(_) | Interval(_), _) => matches!(to, Interval(_)),
        (Boolean, _) => to.is_numeric(),
        _ => from.is_numeric() == to.is_numeric() && !to.is_temporal() && *to != Boolean,
    }
}

/// Whether two types are laid out alike: the names of list and map entries, and of zones, do not matter.
fn same_shape(one: &DataType, other: &DataType) -> bool {
    use DataType::{FixedSizeList, List, Map, Struct, Timestamp, Union};
    let same = |one: &FieldRef, other: &FieldRef| same_shape(one.data_type(), other.data_type());
    match (one, other) {
        (Timestamp(one, Some(_)), Timestamp(other, Some(_))) => one == other,
        (List(one), List(other)) => same(one, other),
        (FixedSizeList(one, n), FixedSizeList(other, m)) => n == m && same(one, other),
        (Struct(one), Struct(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(a, b)| a.name() == b.name() && same(a, b))
        }
        (Map(one, _), Map(other, _)) => match (one.data_type(), other.data_type()) {
            (Struct(one), Struct(other)) => one.iter().zip(other).all(|(a, b)| same(a, b)),
            _ => false,
        },
        (Union(one, UnionMode::Sparse), Union(other, UnionMode::Sparse)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other.iter())
                    .all(|((_, a), (_, b))| a.name() == b.name() && same(a, b))
        }
        _ => one == other,
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        DataType::RunEndEncoded(_, values) => is_text(values.data_type()),
        other => matches!(
            other,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ),
    }
}

/// Whether DuckDB's Arrow import takes the type as it is.
fn importable(data_type: &DataType) -> bool {
    use DataType::{
        Decimal32, Decimal64, Decimal128, Decimal256, Dictionary, FixedSizeList, Float16,
        LargeList, LargeListView, List, ListView, Map, RunEndEncoded, Struct, Union,
    };
    match data_type {
        Float16 | Decimal256(..) | Union(_, UnionMode::Dense) => false,
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) => *scale >= 0,
        List(child)
        | LargeList(child)
        | ListView(child)
        | LargeListView(child)
        | FixedSizeList(child, _)
        | Map(child, _) => importable(child.data_type()),
        RunEndEncoded(_, values) => importable(values.data_type()),
        Dictionary(_, values) => importable(values),
        Struct(children) => children.iter().all(|child| importable(child.data_type())),
        Union(members, _) => members
            .iter()
            .all(|(_, member)| importable(member.data_type())),
        _ => true,
    }
}

/// The type with its dictionaries, runs and views spelled out. DuckDB's import reads the wrong values from a
/// dictionary inside a list that starts at an offset.
fn plain_encoding(data_type: &DataType) -> DataType {
    use DataType::{
        BinaryView, Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map,
        RunEndEncoded, Struct, Utf8View,
    };
    let plain = |field: &FieldRef| {
        let data_type = plain_encoding(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    match data_type {
        Dictionary(_, values) => plain_encoding(values),
        RunEndEncoded(_, values) => plain_encoding(values.data_type()),
        Utf8View => DataType::Utf8,
        BinaryView => DataType::Binary,
        List(child) | ListView(child) => List(plain(child)),
        LargeList(child) | LargeListView(child) => LargeList(plain(child)),
        FixedSizeList(child, size) => FixedSizeList(plain(child), *size),
        Map(entries, sorted) => Map(plain(entries), *sorted),
        Struct(children) => Struct(children.iter().map(plain).collect()),
        other => other.clone(),
    }
}

pub(super) fn extension_name(field: &Field) -> Option<&str> {
    field
        .metadata()
        .get("ARROW:extension:name")
        .map(String::as_str)
}
