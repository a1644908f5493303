//! Values on their way in one by one: what a client binds to a statement's parameters.

mod nested;
mod temporal;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::*;
use duckdb::ffi;

use super::arrow_type::{decimal_scale, is_uhugeint, logical_type};
use super::{Result, SqlError, SqlErrorKind, take_text};
use nested::{Extent, nested};
use temporal::temporal;

pub(super) use nested::MAX_DEPTH;

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
            let (field, array) = (schema.field(column), batch.column(column));
            if array.is_null(row) {
                return Ok(Self::null_of(field));
            }
            value(field, array, row, &mut extent)
        });
        values.collect()
    }

    /// DuckDB's text of an Arrow value; `None` where DuckDB does not hold it.
    pub(crate) fn text_of(array: &dyn Array, row: usize) -> Option<String> {
        let field = Field::new("", array.data_type().clone(), true);
        let value = value(&field, array, row, &mut Extent::default()).ok()?;
        // SAFETY: the value is live, and the text is allocated for us.
        Some(unsafe { take_text(ffi::duckdb_get_varchar(value.0)) })
    }

    /// Fails where DuckDB has no type for a field's values.
    pub(crate) fn check_type(field: &Field) -> Result<()> {
        logical_type(field, 0).map(drop)
    }

    fn null() -> Self {
        // SAFETY: takes nothing; freed by `drop`.
        Self(unsafe { ffi::duckdb_create_null_value() })
    }

    /// A NULL of the type that the field's other values have, where DuckDB has that type: a statement's columns may
    /// depend on it.
    fn null_of(field: &Field) -> Self {
        let holder = Fields::from(vec![field.clone().with_name("null")]);
        let holder = Field::new("", DataType::Struct(holder), true);
        let Ok(holder) = logical_type(&holder, 0) else {
            return Self::null();
        };
        // The C API makes a NULL of a type only as part of another value.
        let mut child = Self::null();
        // SAFETY: the type is a struct of one field, and there is one value, both live; DuckDB copies them.
        let holder = unsafe { ffi::duckdb_create_struct_value(holder.0, &raw mut child.0) };
        if holder.is_null() {
            return child;
        }
        let holder = Self(holder);
        // SAFETY: the value is a live struct of one field, which is copied.
        let typed = unsafe { ffi::duckdb_get_struct_child(holder.0, 0) };
        if typed.is_null() { child } else { Self(typed) }
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

    /// A whole number of 38 digits that has 39, as a `HUGEINT` leaves, is one.
    fn decimal(value: i128, precision: u8, scale: i8) -> Result<Self> {
        let fits = value.unsigned_abs() < 10_u128.pow(u32::from(precision.min(38)));
        if !fits && (precision, scale) == (38, 0) {
            // SAFETY: takes a number and gives a value, freed by `drop`.
            return Ok(Self(unsafe { ffi::duckdb_create_hugeint(hugeint(value)) }));
        }
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

    /// A decimal of 256 bits: a `UHUGEINT` where it has as many digits as one, and else what fits.
    fn wide_decimal(value: i256, precision: u8, scale: i8) -> Result<Self> {
        if let (true, (number, 0)) = (is_uhugeint(precision, scale), value.to_parts()) {
            // SAFETY: takes a number and gives a value, freed by `drop`.
            return Ok(Self(unsafe {
                ffi::duckdb_create_uhugeint(uhugeint(number))
            }));
        }
        let narrow = value.to_i128();
        let narrow = narrow.ok_or_else(|| refused(format!("{value} has more than 38 digits")))?;
        Self::decimal(narrow, 38, scale)
    }

    fn uuid(bytes: &[u8]) -> Result<Self> {
        let bytes =
            <[u8; 16]>::try_from(bytes).map_err(|_| refused("a UUID has 16 bytes".into()))?;
        let number = uhugeint(u128::from_be_bytes(bytes));
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe { ffi::duckdb_create_uuid(number) }))
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
        _ => nested(field, array, row, extent)?,
    })
}

fn extension(field: &Field, array: &dyn Array, row: usize) -> Result<Option<Value>> {
    match (field.extension_type_name(), array.data_type()) {
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
            let DataType::Decimal256(precision, scale) = array.data_type() else {
                return Err(no_value(array.data_type()));
            };
            let value = array.as_primitive::<Decimal256Type>().value(row);
            Value::wide_decimal(value, *precision, *scale)
        }
    }
}

fn hugeint(value: i128) -> ffi::duckdb_hugeint {
    ffi::duckdb_hugeint {
        lower: low(value.cast_unsigned()),
        upper: low((value >> 64).cast_unsigned()).cast_signed(),
    }
}

fn uhugeint(value: u128) -> ffi::duckdb_uhugeint {
    ffi::duckdb_uhugeint {
        lower: low(value),
        upper: low(value >> 64),
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
