//! The table that a stream without one gets: which SQL type each of its columns becomes.

use std::collections::HashSet;

use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Schema, TimeUnit, UnionMode,
};
use duck_flight_protocol::{SchemaMode, quote};

use super::effect::Effect;
use super::evolve::has_no_type_yet;
use super::plan::{given_twice, no_columns};
use super::types::{is_text, same_name};
use crate::error::{Error, Result};

/// The statement that creates a table for a stream, up to its verb: `create` is `CREATE TABLE` and its kind.
/// Rows that are told by a key get it as their primary key. Where the table may change, columns that have no type yet are
/// left out.
pub(in crate::engine) fn create_table_sql(
    create: &str,
    table: &str,
    stream: &Schema,
    effect: &Effect,
    mode: SchemaMode,
) -> Result<String> {
    let mut columns = Vec::with_capacity(stream.fields().len() + 1);
    let mut names = HashSet::with_capacity(stream.fields().len());
    for field in stream.fields() {
        let is_new = names.insert(field.name().to_ascii_lowercase());
        if effect.is_op(field.name()) {
            continue;
        }
        if !is_new {
            return Err(given_twice(field));
        }
        let is_key = || {
            effect
                .key()
                .iter()
                .any(|name| same_name(name, field.name()))
        };
        if has_no_type_yet(field, mode) && !is_key() {
            continue;
        }
        columns.push(column_definition(field)?);
    }
    if columns.is_empty() {
        return Err(no_columns(stream));
    }
    if effect.is_keyed() {
        let key: Vec<_> = effect.key().iter().map(|name| quote(name)).collect();
        columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    Ok(format!("{create} {table} ({})", columns.join(", ")))
}

/// The name and the type of a column made from a stream's field, as SQL.
pub(super) fn column_definition(field: &Field) -> Result<String> {
    if field.name().is_empty() {
        let message =
            "a column of the stream has no name, by which it could go into the table: give it one";
        return Err(Error::Columns(message.into()));
    }
    let sql_type = sql_type(field)
        .map_err(|reason| Error::Columns(format!("column `{}`: {reason}", field.name())))?;
    Ok(format!("{} {sql_type}", quote(field.name())))
}

/// The SQL type of a column made from a stream's field.
pub(super) fn sql_type(field: &Field) -> std::result::Result<String, String> {
    match field.extension_type_name() {
        Some("arrow.uuid") if *field.data_type() == DataType::FixedSizeBinary(16) => {
            return Ok("UUID".into());
        }
        Some("arrow.json") if is_text(field.data_type()) => return Ok("JSON".into()),
        Some("arrow.bool8") if *field.data_type() == DataType::Int8 => return Ok("BOOLEAN".into()),
        _ => {}
    }
    sql_type_of(field.data_type())
}

fn sql_type_of(data_type: &DataType) -> std::result::Result<String, String> {
    use DataType::*;
    let name = match data_type {
        Boolean => "BOOLEAN",
        Int8 => "TINYINT",
        Int16 => "SMALLINT",
        // A column of nothing but nulls is an INTEGER, as in CREATE TABLE AS SELECT NULL.
        Int32 | Null => "INTEGER",
        Int64 => "BIGINT",
        UInt8 => "UTINYINT",
        UInt16 => "USMALLINT",
        UInt32 => "UINTEGER",
        UInt64 => "UBIGINT",
        Float16 | Float32 => "FLOAT",
        Float64 => "DOUBLE",
        Utf8 | LargeUtf8 | Utf8View => "VARCHAR",
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "BLOB",
        Date32 | Date64 => "DATE",
        Time32(_) | Time64(TimeUnit::Microsecond) => "TIME",
        Time64(_) => "TIME_NS",
        Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        Timestamp(TimeUnit::Second, None) => "TIMESTAMP_S",
        Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP_MS",
        Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP",
        Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP_NS",
        Duration(_) | Interval(_) => "INTERVAL",
        Decimal32(digits, scale)
        | Decimal64(digits, scale)
        | Decimal128(digits, scale)
        | Decimal256(digits, scale) => return decimal_type(*digits, *scale),
        Dictionary(_, values) => return sql_type_of(values),
        RunEndEncoded(_, values) => return sql_type(values),
        List(child) | LargeList(child) | ListView(child) | LargeListView(child) => {
            return Ok(format!("{}[]", sql_type(child)?));
        }
        FixedSizeList(child, 0) => {
            let child = sql_type(child)?;
            return Err(format!("a list of 0 {child} has no DuckDB type"));
        }
        FixedSizeList(child, size) => return Ok(format!("{}[{size}]", sql_type(child)?)),
        Struct(children) if children.is_empty() => {
            return Err("a struct without fields has no DuckDB type".into());
        }
        Struct(children) => return members("STRUCT", children.iter()),
        Union(_, UnionMode::Dense) => {
            return Err("dense unions are not supported; send a sparse union".into());
        }
        Union(union_members, UnionMode::Sparse) => {
            return members("UNION", union_members.iter().map(|(_, member)| member));
        }
        Map(entries, _) => match entries.data_type() {
            Struct(pair) if pair.len() == 2 => {
                return Ok(format!(
                    "MAP({}, {})",
                    sql_type(&pair[0])?,
                    sql_type(&pair[1])?
                ));
            }
            _ => return Err("a map's entries are a key and a value".into()),
        },
    };
    Ok(name.into())
}

fn decimal_type(digits: u8, scale: i8) -> std::result::Result<String, String> {
    // Digits before the point that a negative scale stands for.
    let digits = digits.saturating_add(scale.min(0).unsigned_abs());
    let scale = scale.max(0).unsigned_abs();
    if digits > DECIMAL128_MAX_PRECISION || scale > digits {
        return Err(format!(
            "a decimal of {digits} digits, {scale} after the point, does not fit DuckDB's {DECIMAL128_MAX_PRECISION}; \
             send text, or create the table beforehand"
        ));
    }
    Ok(format!("DECIMAL({digits}, {scale})"))
}

fn members<'a>(
    kind: &str,
    fields: impl Iterator<Item = &'a FieldRef>,
) -> std::result::Result<String, String> {
    let members = fields
        .map(|field| match field.name().as_str() {
            "" => Err(format!("a {kind} has a field without a name: give it one")),
            name => Ok(format!("{} {}", quote(name), sql_type(field)?)),
        })
        .collect::<std::result::Result<Vec<_>, String>>()?;
    Ok(format!("{kind}({})", members.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_list_without_a_length_is_told_by_the_type_of_its_elements() {
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let list = Field::new("l", DataType::FixedSizeList(item, 0), true);
        let reason = sql_type(&list).unwrap_err();
        assert_eq!(reason, "a list of 0 INTEGER has no DuckDB type");
    }
}
