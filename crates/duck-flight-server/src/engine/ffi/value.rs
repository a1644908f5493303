//! Values on their way in one by one: what a client binds to a statement's parameters.

use arrow::array::{Array, AsArray, RecordBatch, RunArray};
use arrow::datatypes::*;
use duckdb::ffi;

use super::arrow_type::{decimal_scale, logical_type};
use super::{Result, SqlError, SqlErrorKind};

/// Microseconds of a day: the largest TIME.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// How deep a nested value may be: far more than anyone needs, far less than the stack holds.
pub(super) const MAX_DEPTH: usize = 64;

/// How many values those of one row may hold: DuckDB keeps each in some hundred bytes, whatever its type.
const MAX_ELEMENTS: usize = 1 << 20;

/// A DuckDB value, owned.
pub(crate) struct Value(pub(super) ffi::duckdb_value);

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: made by DuckDB for us, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_value(&raw mut self.0) };
    }
}

impl Value {
    /// The values of a row, each in the DuckDB type that a column made from its field would have.
    ///
    /// # Errors
    /// When DuckDB has no such type, the type does not hold the value, or the row holds too much.
    pub(crate) fn of_row(batch: &RecordBatch, columns: &[usize], row: usize) -> Result<Vec<Self>> {
        let schema = batch.schema_ref();
        let mut extent = Extent::default();
        let values = columns.iter().map(|&column| {
            let field = schema.field(column);
            value(field, batch.column(column), row, &mut extent)
        });
        values.collect()
    }

    fn null() -> Self {
        // SAFETY: takes nothing; freed by `drop`.
        Self(unsafe { ffi::duckdb_create_null_value() })
    }

    /// Takes over a value DuckDB made, which is null where it could not.
    fn made(raw: ffi::duckdb_value, data_type: &DataType) -> Result<Self> {
        if raw.is_null() {
            return Err(refused(format!(
                "DuckDB takes no value of type {data_type}"
            )));
        }
        Ok(Self(raw))
    }

    fn text(text: &str) -> Self {
        let length = text.len() as u64;
        // SAFETY: the text is valid for the call and copied.
        Self(unsafe { ffi::duckdb_create_varchar_length(text.as_ptr().cast(), length) })
    }

    fn blob(bytes: &[u8]) -> Self {
        // SAFETY: the bytes are valid for the call and copied.
        Self(unsafe { ffi::duckdb_create_blob(bytes.as_ptr(), bytes.len() as u64) })
    }

    fn decimal(value: i128, precision: u8, scale: i8) -> Result<Self> {
        let fits = value.unsigned_abs() < 10_u128.pow(u32::from(precision.min(38)));
        let (Some(scale), true) = (decimal_scale(precision, scale), fits) else {
            return Err(refused(format!(
                "{value} does not fit a DECIMAL({precision}, {scale}) of DuckDB"
            )));
        };
        let value = ffi::duckdb_decimal {
            width: precision,
            scale,
            value: hugeint(value),
        };
        // SAFETY: the width and scale are ones DuckDB has, and the value has no more digits.
        Ok(Self(unsafe { ffi::duckdb_create_decimal(value) }))
    }

    fn time(micros: i64) -> Result<Self> {
        if !(0..=DAY_MICROS).contains(&micros) {
            return Err(refused(format!("{micros} µs is no time of a day")));
        }
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            ffi::duckdb_create_time(ffi::duckdb_time { micros })
        }))
    }

    fn time_ns(nanos: i64) -> Result<Self> {
        if !(0..=DAY_MICROS * 1000).contains(&nanos) {
            return Err(refused(format!("{nanos} ns is no time of a day")));
        }
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            ffi::duckdb_create_time_ns(ffi::duckdb_time_ns { nanos })
        }))
    }

    fn interval(months: i32, days: i32, micros: i64) -> Self {
        let interval = ffi::duckdb_interval {
            months,
            days,
            micros,
        };
        // SAFETY: takes numbers and gives a value, freed by `drop`.
        Self(unsafe { ffi::duckdb_create_interval(interval) })
    }

    fn timestamp(value: i64, unit: TimeUnit, has_zone: bool) -> Result<Self> {
        let micros = |factor: i64| {
            value
                .checked_mul(factor)
                .ok_or_else(|| refused(format!("the timestamp {value} is out of range")))
        };
        // SAFETY: each takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            match (unit, has_zone) {
                (TimeUnit::Second, false) => {
                    micros(1_000_000)?;
                    ffi::duckdb_create_timestamp_s(ffi::duckdb_timestamp_s { seconds: value })
                }
                (TimeUnit::Millisecond, false) => {
                    micros(1000)?;
                    ffi::duckdb_create_timestamp_ms(ffi::duckdb_timestamp_ms { millis: value })
                }
                (TimeUnit::Microsecond, false) => {
                    ffi::duckdb_create_timestamp(ffi::duckdb_timestamp { micros: value })
                }
                (TimeUnit::Nanosecond, false) => {
                    ffi::duckdb_create_timestamp_ns(ffi::duckdb_timestamp_ns { nanos: value })
                }
                (unit, true) => {
                    let micros = match unit {
                        TimeUnit::Second => micros(1_000_000)?,
                        TimeUnit::Millisecond => micros(1000)?,
                        TimeUnit::Microsecond => value,
                        TimeUnit::Nanosecond => value.div_euclid(1000),
                    };
                    ffi::duckdb_create_timestamp_tz(ffi::duckdb_timestamp { micros })
                }
            }
        }))
    }

    fn uuid(bytes: &[u8]) -> Result<Self> {
        let bytes =
            <[u8; 16]>::try_from(bytes).map_err(|_| refused("a UUID has 16 bytes".into()))?;
        let number = u128::from_be_bytes(bytes);
        let input = ffi::duckdb_uhugeint {
            lower: low(number),
            upper: low(number >> 64),
        };
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe { ffi::duckdb_create_uuid(input) }))
    }
}

/// How deep the value is that is being made, and how much the row holds so far.
#[derive(Default)]
struct Extent {
    depth: usize,
    elements: usize,
}

impl Extent {
    /// Goes into a value.
    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(refused(format!(
                "the value is nested deeper than {MAX_DEPTH}"
            )));
        }
        Ok(())
    }

    /// Counts values before they are made.
    fn count(&mut self, elements: usize) -> Result<()> {
        self.elements += elements;
        if self.elements > MAX_ELEMENTS {
            return Err(refused(format!(
                "the values hold more than {MAX_ELEMENTS} others; send them as rows"
            )));
        }
        Ok(())
    }
}

/// Makes a value of a plain type by one of DuckDB's functions for it.
macro_rules! plain {
    ($array:expr, $row:expr, $type:ty, $create:ident) => {{
        let value = $array.as_primitive::<$type>().value($row);
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Value(unsafe { ffi::$create(value) })
    }};
}

fn value(field: &Field, array: &dyn Array, row: usize, extent: &mut Extent) -> Result<Value> {
    if array.is_null(row) {
        return Ok(Value::null());
    }
    if let Some(value) = extension(field, array, row)? {
        return Ok(value);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::null(),
        DataType::Boolean => {
            // SAFETY: takes a truth value and gives a value, freed by `drop`.
            Value(unsafe { ffi::duckdb_create_bool(array.as_boolean().value(row)) })
        }
        DataType::Int8 => plain!(array, row, Int8Type, duckdb_create_int8),
        DataType::Int16 => plain!(array, row, Int16Type, duckdb_create_int16),
        DataType::Int32 => plain!(array, row, Int32Type, duckdb_create_int32),
        DataType::Int64 => plain!(array, row, Int64Type, duckdb_create_int64),
        DataType::UInt8 => plain!(array, row, UInt8Type, duckdb_create_uint8),
        DataType::UInt16 => plain!(array, row, UInt16Type, duckdb_create_uint16),
        DataType::UInt32 => plain!(array, row, UInt32Type, duckdb_create_uint32),
        DataType::UInt64 => plain!(array, row, UInt64Type, duckdb_create_uint64),
        DataType::Float32 => plain!(array, row, Float32Type, duckdb_create_float),
        DataType::Float64 => plain!(array, row, Float64Type, duckdb_create_double),
        DataType::Float16 => {
            let value = array.as_primitive::<Float16Type>().value(row).to_f32();
            // SAFETY: takes a number and gives a value, freed by `drop`.
            Value(unsafe { ffi::duckdb_create_float(value) })
        }
        DataType::Utf8 => Value::text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::text(array.as_string_view().value(row)),
        DataType::Binary => Value::blob(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Value::blob(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Value::blob(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Value::blob(array.as_fixed_size_binary().value(row)),
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => decimal(array, row)?,
        DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Interval(_) => temporal(array, row)?,
        _ => {
            let depth = extent.depth;
            let made = nested(field, array, row, extent)?;
            extent.depth = depth;
            made
        }
    })
}

fn extension(field: &Field, array: &dyn Array, row: usize) -> Result<Option<Value>> {
    let name = field.metadata().get("ARROW:extension:name");
    match (name.map(String::as_str), array.data_type()) {
        (Some("arrow.uuid"), DataType::FixedSizeBinary(16)) => {
            Value::uuid(array.as_fixed_size_binary().value(row)).map(Some)
        }
        (Some("arrow.bool8"), DataType::Int8) => {
            let is_true = array.as_primitive::<Int8Type>().value(row) != 0;
            // SAFETY: takes a truth value and gives a value, freed by `drop`.
            Ok(Some(Value(unsafe { ffi::duckdb_create_bool(is_true) })))
        }
        _ => Ok(None),
    }
}

fn decimal(array: &dyn Array, row: usize) -> Result<Value> {
    match array.data_type() {
        DataType::Decimal32(precision, scale) => {
            let value = array.as_primitive::<Decimal32Type>().value(row);
            Value::decimal(value.into(), *precision, *scale)
        }
        DataType::Decimal64(precision, scale) => {
            let value = array.as_primitive::<Decimal64Type>().value(row);
            Value::decimal(value.into(), *precision, *scale)
        }
        DataType::Decimal128(precision, scale) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            Value::decimal(value, *precision, *scale)
        }
        _ => {
            let DataType::Decimal256(_, scale) = array.data_type() else {
                return Err(no_value(array.data_type()));
            };
            let value = array.as_primitive::<Decimal256Type>().value(row);
            let value = value
                .to_i128()
                .ok_or_else(|| refused(format!("{value} has more than 38 digits")))?;
            Value::decimal(value, 38, *scale)
        }
    }
}

fn temporal(array: &dyn Array, row: usize) -> Result<Value> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    Ok(match array.data_type() {
        DataType::Date32 => date(array.as_primitive::<Date32Type>().value(row).into())?,
        DataType::Date64 => {
            let millis = array.as_primitive::<Date64Type>().value(row);
            date(millis.div_euclid(24 * 60 * 60 * 1000))?
        }
        DataType::Time32(Second) => {
            let seconds = array.as_primitive::<Time32SecondType>().value(row);
            Value::time(i64::from(seconds) * 1_000_000)?
        }
        DataType::Time32(_) => {
            let millis = array.as_primitive::<Time32MillisecondType>().value(row);
            Value::time(i64::from(millis) * 1000)?
        }
        DataType::Time64(Microsecond) => {
            Value::time(array.as_primitive::<Time64MicrosecondType>().value(row))?
        }
        DataType::Time64(_) => {
            Value::time_ns(array.as_primitive::<Time64NanosecondType>().value(row))?
        }
        DataType::Timestamp(unit, zone) => {
            let value = match unit {
                Second => array.as_primitive::<TimestampSecondType>().value(row),
                Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row),
                Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
                Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
            };
            Value::timestamp(value, *unit, zone.is_some())?
        }
        DataType::Duration(unit) => {
            let micros = match unit {
                Second => array
                    .as_primitive::<DurationSecondType>()
                    .value(row)
                    .checked_mul(1_000_000),
                Millisecond => array
                    .as_primitive::<DurationMillisecondType>()
                    .value(row)
                    .checked_mul(1000),
                Microsecond => Some(array.as_primitive::<DurationMicrosecondType>().value(row)),
                Nanosecond => {
                    Some(array.as_primitive::<DurationNanosecondType>().value(row) / 1000)
                }
            };
            let micros = micros.ok_or_else(|| refused("the duration is out of range".into()))?;
            Value::interval(0, 0, micros)
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            let months = array.as_primitive::<IntervalYearMonthType>().value(row);
            Value::interval(months, 0, 0)
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            Value::interval(0, value.days, i64::from(value.milliseconds) * 1000)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            Value::interval(value.months, value.days, value.nanoseconds / 1000)
        }
        other => return Err(no_value(other)),
    })
}

fn date(days: i64) -> Result<Value> {
    let days = i32::try_from(days)
        .map_err(|_| refused(format!("the date {days} days from 1970 is out of range")))?;
    // SAFETY: takes a number and gives a value, freed by `drop`.
    Ok(Value(unsafe {
        ffi::duckdb_create_date(ffi::duckdb_date { days })
    }))
}

/// Values of types that hold others.
fn nested(field: &Field, array: &dyn Array, row: usize, extent: &mut Extent) -> Result<Value> {
    extent.deeper()?;
    let depth = extent.depth;
    let data_type = array.data_type();
    match data_type {
        DataType::Dictionary(..) => {
            // Of the one row: the keys come all at once.
            let row = array.slice(row, 1);
            let dictionary = row.as_any_dictionary();
            let values = dictionary.values();
            let key = dictionary.normalized_keys()[0];
            let field = Field::new("", values.data_type().clone(), true);
            value(&field, values, key, extent)
        }
        DataType::RunEndEncoded(ends, values) => match ends.data_type() {
            DataType::Int16 => run::<Int16Type>(values, array, row, extent),
            DataType::Int32 => run::<Int32Type>(values, array, row, extent),
            _ => run::<Int64Type>(values, array, row, extent),
        },
        DataType::List(child) => list(child, &*array.as_list::<i32>().value(row), extent),
        DataType::LargeList(child) => list(child, &*array.as_list::<i64>().value(row), extent),
        DataType::ListView(child) => list(child, &*array.as_list_view::<i32>().value(row), extent),
        DataType::LargeListView(child) => {
            list(child, &*array.as_list_view::<i64>().value(row), extent)
        }
        DataType::FixedSizeList(child, _) => {
            let elements = array.as_fixed_size_list().value(row);
            let mut values = Values::all(child, &*elements, extent)?;
            let logical = logical_type(child, depth)?;
            let count = values.raw.len() as u64;
            // SAFETY: the type and the `count` values are live; DuckDB copies both.
            let raw = unsafe {
                ffi::duckdb_create_array_value(logical.0, values.raw.as_mut_ptr(), count)
            };
            Value::made(raw, data_type)
        }
        DataType::Struct(children) => {
            let columns = array.as_struct().columns();
            let values = children.iter().zip(columns);
            extent.count(columns.len())?;
            let values = values.map(|(child, column)| value(child, column, row, extent));
            let mut values = Values::new(values.collect::<Result<_>>()?);
            let logical = logical_type(field, depth)?;
            // SAFETY: the type is a struct with as many fields as there are values; DuckDB copies both.
            let raw =
                unsafe { ffi::duckdb_create_struct_value(logical.0, values.raw.as_mut_ptr()) };
            Value::made(raw, data_type)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(no_value(data_type));
            };
            let found = array.as_map().value(row);
            let mut keys = Values::all(&pair[0], found.column(0), extent)?;
            let mut values = Values::all(&pair[1], found.column(1), extent)?;
            let logical = logical_type(field, depth)?;
            let count = keys.raw.len() as u64;
            // SAFETY: the type is a map, and both arrays hold `count` live values; DuckDB copies all.
            let raw = unsafe {
                ffi::duckdb_create_map_value(
                    logical.0,
                    keys.raw.as_mut_ptr(),
                    values.raw.as_mut_ptr(),
                    count,
                )
            };
            Value::made(raw, data_type)
        }
        other => Err(no_value(other)),
    }
}

fn run<R: RunEndIndexType>(
    values: &Field,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let runs: Option<&RunArray<R>> = array.as_run_opt();
    let runs = runs.ok_or_else(|| no_value(array.data_type()))?;
    value(values, runs.values(), runs.get_physical_index(row), extent)
}

fn list(child: &Field, elements: &dyn Array, extent: &mut Extent) -> Result<Value> {
    let mut values = Values::all(child, elements, extent)?;
    let logical = logical_type(child, extent.depth)?;
    let count = values.raw.len() as u64;
    // SAFETY: the type and the `count` values are live; DuckDB copies both.
    let raw = unsafe { ffi::duckdb_create_list_value(logical.0, values.raw.as_mut_ptr(), count) };
    Value::made(raw, child.data_type())
}

/// Values, and the same as the C API takes them.
struct Values {
    raw: Vec<ffi::duckdb_value>,
    _owned: Vec<Value>,
}

impl Values {
    fn new(owned: Vec<Value>) -> Self {
        let raw = owned.iter().map(|value| value.0).collect();
        Self { raw, _owned: owned }
    }

    fn all(field: &Field, array: &dyn Array, extent: &mut Extent) -> Result<Self> {
        extent.count(array.len())?;
        let values = (0..array.len()).map(|row| value(field, array, row, extent));
        Ok(Self::new(values.collect::<Result<_>>()?))
    }
}

fn hugeint(value: i128) -> ffi::duckdb_hugeint {
    ffi::duckdb_hugeint {
        lower: low(value.cast_unsigned()),
        upper: low((value >> 64).cast_unsigned()).cast_signed(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn low(value: u128) -> u64 {
    value as u64
}

pub(super) fn no_value(data_type: &DataType) -> SqlError {
    refused(format!(
        "a parameter cannot have the Arrow type {data_type}; bind its parts, or text, and cast in SQL"
    ))
}

pub(super) fn refused(message: String) -> SqlError {
    SqlError::new(SqlErrorKind::Invalid, message)
}
