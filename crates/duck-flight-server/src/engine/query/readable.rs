//! Values on their way out: what DuckDB exports with all its digits, in types every client can read.
//!
//! DuckDB's plain export cannot tell a `UHUGEINT` above 2^127 from a negative number, drops the offset of
//! `TIME WITH TIME ZONE` and gives a `BIT` as raw bytes. A result that holds such a type anywhere is
//! therefore exported losslessly, with Arrow's extension types, and those become plain types here:
//!
//! | DuckDB | lossless export | what clients get |
//! | --- | --- | --- |
//! | `HUGEINT` | 16 bytes | `decimal128(38, 0)`, as from the plain export |
//! | `UHUGEINT` | 16 bytes | `decimal256(39, 0)` |
//! | `TIME WITH TIME ZONE` | 8 bytes | text: `12:34:56.789+02` |
//! | `BIT` | bytes | text: `0101` |
//! | `BIGNUM` | bytes | text: digits |
//! | `UUID` | `arrow.uuid` | text, as from the plain export |
//! | `BOOLEAN` | `arrow.bool8` | boolean, as from the plain export |
//! | `JSON` | `arrow.json` | text, as from the plain export |
//!
//! An `ENUM` comes as a dictionary either way, and clients get its text.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Decimal128Array, Decimal256Array, FixedSizeBinaryArray,
    FixedSizeListArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StringArray,
    StructArray, UnionArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int8Type, Schema, SchemaRef, i256};
use num_bigint::{BigInt, Sign};

use super::interval::{check_intervals, has_intervals};
use crate::engine::sql_error::SqlError;

/// Turns batches of one exported schema into batches of the schema that clients see.
pub(in crate::engine) struct Readable {
    exported: SchemaRef,
    schema: SchemaRef,
    has_intervals: bool,
}

/// The extension types of DuckDB's lossless export.
#[derive(Clone, Copy, PartialEq)]
enum Extension {
    Hugeint,
    Uhugeint,
    TimeTz,
    Bit,
    Bignum,
    Uuid,
    Bool8,
    Json,
}

impl Readable {
    pub(in crate::engine) fn new(exported: &SchemaRef) -> Self {
        let fields = readable_fields(exported.fields());
        let schema = if fields == *exported.fields() {
            exported.clone()
        } else {
            Arc::new(Schema::new(fields))
        };
        Self {
            has_intervals: has_intervals(&schema),
            exported: exported.clone(),
            schema,
        }
    }

    /// The schema that clients see.
    pub(in crate::engine) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A batch as clients see it; for most results the batch itself.
    pub(in crate::engine) fn apply(&self, batch: RecordBatch) -> Result<RecordBatch, SqlError> {
        if self.has_intervals {
            check_intervals(&batch)?;
        }
        if Arc::ptr_eq(&self.exported, &self.schema) {
            return Ok(batch);
        }
        let fields = self.exported.fields().iter().zip(self.schema.fields());
        let columns = fields
            .zip(batch.columns())
            .map(|((exported, readable), array)| convert(exported, readable, array))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows).map_err(unreadable)
    }
}

fn extension(field: &Field) -> Option<Extension> {
    match field.extension_type_name()? {
        "arrow.uuid" => Some(Extension::Uuid),
        "arrow.bool8" => Some(Extension::Bool8),
        "arrow.json" => Some(Extension::Json),
        "arrow.opaque" => {
            let opaque =
                serde_json::from_str::<serde_json::Value>(field.extension_type_metadata()?);
            match opaque.ok()?.get("type_name")?.as_str()? {
                "hugeint" => Some(Extension::Hugeint),
                "uhugeint" => Some(Extension::Uhugeint),
                "time_tz" => Some(Extension::TimeTz),
                "bit" => Some(Extension::Bit),
                "bignum" => Some(Extension::Bignum),
                _ => None,
            }
        }
        _ => None,
    }
}

fn readable_fields(fields: &Fields) -> Fields {
    fields.iter().map(readable_field).collect()
}

fn readable_field(field: &FieldRef) -> FieldRef {
    if let Some(extension) = extension(field) {
        let data_type = match extension {
            Extension::Hugeint => DataType::Decimal128(38, 0),
            Extension::Uhugeint => DataType::Decimal256(39, 0),
            Extension::Bool8 => DataType::Boolean,
            Extension::TimeTz
            | Extension::Bit
            | Extension::Bignum
            | Extension::Uuid
            | Extension::Json => DataType::Utf8,
        };
        return Arc::new(Field::new(field.name(), data_type, field.is_nullable()));
    }
    let data_type = match field.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::List(child) => DataType::List(readable_field(child)),
        DataType::FixedSizeList(child, size) => {
            DataType::FixedSizeList(readable_field(child), *size)
        }
        DataType::Map(entries, sorted) => DataType::Map(readable_field(entries), *sorted),
        DataType::Struct(children) => DataType::Struct(readable_fields(children)),
        DataType::Union(members, mode) => {
            let members = members
                .iter()
                .map(|(id, member)| (id, readable_field(member)));
            DataType::Union(members.collect(), *mode)
        }
        _ => return field.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

fn convert(exported: &Field, readable: &Field, array: &ArrayRef) -> Result<ArrayRef, SqlError> {
    if exported == readable {
        return Ok(array.clone());
    }
    if let Some(extension) = extension(exported) {
        return convert_extension(extension, array);
    }
    let array: ArrayRef = match (exported.data_type(), readable.data_type()) {
        (DataType::Dictionary(..), values) => cast(array, values).map_err(unreadable)?,
        (DataType::List(from), DataType::List(to)) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let values = convert(from, to, &values)?;
            Arc::new(ListArray::try_new(to.clone(), offsets, values, nulls).map_err(unreadable)?)
        }
        (DataType::FixedSizeList(from, _), DataType::FixedSizeList(to, size)) => {
            let (_, _, values, nulls) = array.as_fixed_size_list().clone().into_parts();
            let values = convert(from, to, &values)?;
            let list = FixedSizeListArray::try_new(to.clone(), *size, values, nulls);
            Arc::new(list.map_err(unreadable)?)
        }
        (DataType::Struct(from), DataType::Struct(to)) => {
            Arc::new(convert_struct(from, to, array.as_struct())?)
        }
        (DataType::Map(from, _), DataType::Map(to, sorted)) => {
            let (_, offsets, entries, nulls, _) = array.as_map().clone().into_parts();
            let (DataType::Struct(from), DataType::Struct(to_children)) =
                (from.data_type(), to.data_type())
            else {
                return Err(unreadable("a map without entries"));
            };
            let entries = convert_struct(from, to_children, &entries)?;
            let map = MapArray::try_new(to.clone(), offsets, entries, nulls, *sorted);
            Arc::new(map.map_err(unreadable)?)
        }
        (DataType::Union(from, _), DataType::Union(to, _)) => {
            let (_, type_ids, offsets, members) = array.as_union().clone().into_parts();
            let fields = from.iter().zip(to.iter());
            let members = fields
                .zip(&members)
                .map(|(((_, from), (_, to)), member)| convert(from, to, member))
                .collect::<Result<_, _>>()?;
            let union = UnionArray::try_new(to.clone(), type_ids, offsets, members);
            Arc::new(union.map_err(unreadable)?)
        }
        (from, to) => return Err(unreadable(format!("{from} has no way to {to}"))),
    };
    Ok(array)
}

fn convert_struct(
    from: &Fields,
    to: &Fields,
    array: &StructArray,
) -> Result<StructArray, SqlError> {
    let (_, children, nulls) = array.clone().into_parts();
    let children = from
        .iter()
        .zip(to)
        .zip(&children)
        .map(|((from, to), child)| convert(from, to, child))
        .collect::<Result<_, _>>()?;
    StructArray::try_new(to.clone(), children, nulls).map_err(unreadable)
}

fn convert_extension(extension: Extension, array: &ArrayRef) -> Result<ArrayRef, SqlError> {
    Ok(match extension {
        Extension::Json => array.clone(),
        Extension::Bool8 => {
            cast(array.as_primitive::<Int8Type>(), &DataType::Boolean).map_err(unreadable)?
        }
        Extension::Hugeint => {
            let values = fixed(array)?
                .iter()
                .map(|value| value.map(|v| i128::from_le_bytes(bytes(v))));
            let array: Decimal128Array = values.collect();
            Arc::new(array.with_data_type(DataType::Decimal128(38, 0)))
        }
        Extension::Uhugeint => {
            let values = fixed(array)?
                .iter()
                .map(|value| value.map(|v| i256::from_parts(u128::from_le_bytes(bytes(v)), 0)));
            let array: Decimal256Array = values.collect();
            Arc::new(array.with_data_type(DataType::Decimal256(39, 0)))
        }
        Extension::Uuid => texts(fixed(array)?.iter(), |v| {
            uuid::Uuid::from_bytes(bytes(v)).hyphenated().to_string()
        }),
        Extension::TimeTz => texts(fixed(array)?.iter(), |v| {
            time_tz_text(u64::from_le_bytes(bytes(v)))
        }),
        Extension::Bit => texts(binary(array)?.iter(), bit_text),
        Extension::Bignum => texts(binary(array)?.iter(), bignum_text),
    })
}

fn texts<'a>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    text: impl Fn(&'a [u8]) -> String,
) -> ArrayRef {
    let array: StringArray = values.map(|value| value.map(&text)).collect();
    Arc::new(array)
}

fn fixed(array: &ArrayRef) -> Result<&FixedSizeBinaryArray, SqlError> {
    array
        .as_fixed_size_binary_opt()
        .ok_or_else(|| unreadable("bytes of a fixed size expected"))
}

fn binary(array: &ArrayRef) -> Result<&BinaryArray, SqlError> {
    array
        .as_binary_opt::<i32>()
        .ok_or_else(|| unreadable("bytes expected"))
}

/// The value's bytes; zeros where it has another length, which DuckDB's export never has.
fn bytes<const N: usize>(value: &[u8]) -> [u8; N] {
    value.try_into().unwrap_or([0; N])
}

/// DuckDB keeps microseconds in the upper 40 bits, and below them the offset in seconds, counted down from
/// its largest (`dtime_tz_t`).
fn time_tz_text(bits: u64) -> String {
    const MAX_OFFSET_SECONDS: i64 = 16 * 60 * 60 - 1;
    let (micros, offset) = (
        bits >> 24,
        MAX_OFFSET_SECONDS - (bits & 0xFF_FFFF).cast_signed(),
    );
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    if fraction > 0 {
        let digits = format!(".{fraction:06}");
        text.push_str(digits.trim_end_matches('0'));
    }
    let (sign, offset) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    text.push_str(&format!("{sign}{:02}", offset / 3600));
    if offset % 3600 > 0 {
        text.push_str(&format!(":{:02}", offset / 60 % 60));
    }
    if offset % 60 > 0 {
        text.push_str(&format!(":{:02}", offset % 60));
    }
    text
}

/// DuckDB keeps the number of padding bits in the first byte, and the padding before the first bit.
fn bit_text(value: &[u8]) -> String {
    let Some((padding, bytes)) = value.split_first() else {
        return String::new();
    };
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    bits.skip(usize::from(*padding))
        .map(|bit| if bit == 1 { '1' } else { '0' })
        .collect()
}

/// DuckDB keeps a header of three bytes, its top bit set for positive numbers, then the magnitude with the
/// highest byte first; all bits are flipped for negative numbers.
fn bignum_text(value: &[u8]) -> String {
    let Some((header, magnitude)) = value.split_at_checked(3) else {
        return String::new();
    };
    if header[0] & 0x80 != 0 {
        return BigInt::from_bytes_be(Sign::Plus, magnitude).to_string();
    }
    let flipped: Vec<u8> = magnitude.iter().map(|byte| !byte).collect();
    BigInt::from_bytes_be(Sign::Minus, &flipped).to_string()
}

fn unreadable(reason: impl ToString) -> SqlError {
    let message = format!("a result cannot be read: {}", reason.to_string());
    SqlError::internal(message)
}
