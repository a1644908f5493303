//! Values on their way in: how the values of a stream's columns become a table's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNanoType, IntervalUnit, UnionMode,
};
use arrow::util::display::array_value_to_string;
use duckdb::ffi;

use super::ffi::ColumnShape;
use crate::error::{Error, Result};

/// How the values of a stream's column become those of a table's.
#[derive(Debug)]
pub(super) struct ColumnCast {
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

impl ColumnCast {
    /// Finds the way from one column to the other.
    ///
    /// # Errors
    /// When there is none; the message names the column and both types.
    pub(super) fn new(field: &Field, column: &ColumnShape) -> Result<Self> {
        let (cast, target) = conversion(field, column)?;
        Ok(Self { cast, target })
    }

    /// What DuckDB imports.
    pub(super) fn target(&self) -> &FieldRef {
        &self.target
    }

    /// Casts values. `rows_before` are the rows of the unit before them, for errors.
    pub(super) fn apply(&self, array: &ArrayRef, rows_before: u64) -> Result<ArrayRef> {
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
