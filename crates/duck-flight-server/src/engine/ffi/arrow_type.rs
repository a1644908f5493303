//! The DuckDB types of values that come from Arrow.

use std::ffi::{CString, c_char};

use arrow::datatypes::*;
use duckdb::ffi;

use super::value::{MAX_DEPTH, no_value, refused};
use super::{LogicalType, Result, c_string};

/// The type that [`Value::of_row`] gives values of a field.
pub(super) fn logical_type(field: &Field, depth: usize) -> Result<LogicalType> {
    if depth > MAX_DEPTH {
        return Err(refused(format!(
            "the type is nested deeper than {MAX_DEPTH}"
        )));
    }
    let depth = depth + 1;
    let child = |child: &Field| logical_type(child, depth);
    let unnamed =
        |data_type: &DataType| logical_type(&Field::new("", data_type.clone(), true), depth);
    // The types given are live and copied; the type made is freed by its wrapper.
    let logical = match field.data_type() {
        DataType::Dictionary(_, values) => return unnamed(values),
        DataType::RunEndEncoded(_, values) => return child(values),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element) => {
            let element = child(element)?;
            // SAFETY: the types given are live and copied.
            unsafe { ffi::duckdb_create_list_type(element.0) }
        }
        DataType::FixedSizeList(element, size) => {
            let element = child(element)?;
            let size = u64::try_from(*size).unwrap_or_default();
            // SAFETY: the types given are live and copied.
            unsafe { ffi::duckdb_create_array_type(element.0, size) }
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(no_value(field.data_type()));
            };
            let [key, value] = &pair[..] else {
                return Err(refused("a map's entries are a key and a value".into()));
            };
            let (key, value) = (child(key)?, child(value)?);
            // SAFETY: the types given are live and copied.
            unsafe { ffi::duckdb_create_map_type(key.0, value.0) }
        }
        DataType::Struct(children) => {
            let children: Vec<_> = children.iter().collect();
            return holder_type(&children, depth, ffi::duckdb_create_struct_type);
        }
        DataType::Union(members, UnionMode::Sparse) => {
            let members: Vec<_> = members.iter().map(|(_, member)| member).collect();
            return holder_type(&members, depth, ffi::duckdb_create_union_type);
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => decimal_type(*precision, *scale)?,
        DataType::Decimal256(precision, scale) if is_uhugeint(*precision, *scale) => {
            // SAFETY: the id is one of a plain type.
            unsafe { ffi::duckdb_create_logical_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT) }
        }
        DataType::Decimal256(_, scale) => decimal_type(38, *scale)?,
        _ => {
            let id = plain_type(field)?;
            // SAFETY: the id is one of a plain type.
            unsafe { ffi::duckdb_create_logical_type(id) }
        }
    };
    if logical.is_null() {
        return Err(no_value(field.data_type()));
    }
    Ok(LogicalType(logical))
}

fn decimal_type(precision: u8, scale: i8) -> Result<ffi::duckdb_logical_type> {
    match decimal_scale(precision, scale) {
        // SAFETY: the width and scale are ones DuckDB has.
        Some(scale) => Ok(unsafe { ffi::duckdb_create_decimal_type(precision, scale) }),
        None => Err(refused(format!(
            "DuckDB has no DECIMAL({precision}, {scale})"
        ))),
    }
}

/// The scale of a decimal, where DuckDB has such a one: it looks neither of the two up in its tables with care.
pub(super) fn decimal_scale(precision: u8, scale: i8) -> Option<u8> {
    let scale = u8::try_from(scale).ok()?;
    ((1..=38).contains(&precision) && scale <= precision).then_some(scale)
}

/// Whether a decimal of this precision and scale is how a `UHUGEINT` leaves.
pub(super) fn is_uhugeint(precision: u8, scale: i8) -> bool {
    (precision, scale) == (39, 0)
}

/// What makes a type of types with names.
type Create = unsafe extern "C" fn(
    *mut ffi::duckdb_logical_type,
    *mut *const c_char,
    ffi::idx_t,
) -> ffi::duckdb_logical_type;

fn holder_type(children: &[&FieldRef], depth: usize, create: Create) -> Result<LogicalType> {
    let types = children.iter().map(|child| logical_type(child, depth));
    let types = types.collect::<Result<Vec<_>>>()?;
    let names = children.iter().map(|child| c_string(child.name()));
    let names = names.collect::<Result<Vec<CString>>>()?;
    let nothing_inside = || refused("DuckDB has no struct and no union of nothing".into());
    if types.is_empty() {
        return Err(nothing_inside());
    }
    let mut raw_types: Vec<_> = types.iter().map(|logical| logical.0).collect();
    let mut raw_names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: both arrays hold one live entry for each field, which DuckDB copies.
    let logical = unsafe {
        create(
            raw_types.as_mut_ptr(),
            raw_names.as_mut_ptr(),
            types.len() as u64,
        )
    };
    if logical.is_null() {
        return Err(nothing_inside());
    }
    Ok(LogicalType(logical))
}

fn plain_type(field: &Field) -> Result<ffi::duckdb_type> {
    match field.extension_type_name() {
        Some("arrow.uuid") => return Ok(ffi::DUCKDB_TYPE_DUCKDB_TYPE_UUID),
        Some("arrow.bool8") => return Ok(ffi::DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN),
        _ => {}
    }
    Ok(match field.data_type() {
        DataType::Null => ffi::DUCKDB_TYPE_DUCKDB_TYPE_SQLNULL,
        DataType::Boolean => ffi::DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN,
        DataType::Int8 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TINYINT,
        DataType::Int16 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT,
        DataType::Int32 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTEGER,
        DataType::Int64 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT,
        DataType::UInt8 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT,
        DataType::UInt16 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT,
        DataType::UInt32 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER,
        DataType::UInt64 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT,
        DataType::Float16 | DataType::Float32 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_FLOAT,
        DataType::Float64 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_DOUBLE,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR
        }
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_BLOB,
        DataType::Date32 | DataType::Date64 => ffi::DUCKDB_TYPE_DUCKDB_TYPE_DATE,
        DataType::Time64(TimeUnit::Nanosecond) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_NS,
        DataType::Time32(_) | DataType::Time64(_) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME,
        DataType::Timestamp(_, Some(_)) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_TZ,
        DataType::Timestamp(TimeUnit::Second, _) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_S,
        DataType::Timestamp(TimeUnit::Millisecond, _) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_MS,
        DataType::Timestamp(TimeUnit::Microsecond, _) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_NS,
        DataType::Duration(_) | DataType::Interval(_) => ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTERVAL,
        other => return Err(no_value(other)),
    })
}
