//! The types of DuckDB as JDBC and ODBC describe types.
//!
//! The code of a type is the one a driver gives to a column that arrives: what clients see as text is a `VARCHAR`
//! here, whatever DuckDB makes of it. Left out are types that no client can read or that no column has (`VARIANT`,
//! `NULL`).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

use super::unbuilt;
use crate::error::Result;

/// The types with this code, or all of them.
pub(in super::super) fn xdbc_type_info(data_type: Option<i32>) -> Result<RecordBatch> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    all().into_iter().for_each(|info| builder.append(info));
    let types = builder.build().map_err(unbuilt)?;
    types.record_batch(data_type).map_err(unbuilt)
}

/// The schema of [`xdbc_type_info`].
pub(in super::super) fn xdbc_type_info_schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

pub(super) fn all() -> Vec<XdbcTypeInfo> {
    use XdbcDataType::*;
    use XdbcDatetimeSubcode::*;
    vec![
        info("BOOLEAN", XdbcBit),
        integer("TINYINT", XdbcTinyint, 3, false),
        integer("SMALLINT", XdbcSmallint, 5, false),
        integer("INTEGER", XdbcInteger, 10, false),
        integer("BIGINT", XdbcBigint, 19, false),
        integer("HUGEINT", XdbcDecimal, 39, false),
        integer("UTINYINT", XdbcTinyint, 3, true),
        integer("USMALLINT", XdbcSmallint, 5, true),
        integer("UINTEGER", XdbcInteger, 10, true),
        integer("UBIGINT", XdbcBigint, 20, true),
        integer("UHUGEINT", XdbcDecimal, 39, true),
        decimal(),
        float("FLOAT", XdbcReal, 24),
        float("DOUBLE", XdbcDouble, 53),
        text("VARCHAR", i32::MAX, "'"),
        text("JSON", i32::MAX, "JSON '"),
        text("UUID", 36, "UUID '"),
        text("BIT", i32::MAX, "BIT '"),
        text("BIGNUM", i32::MAX, "BIGNUM '"),
        text("TIME WITH TIME ZONE", 24, "TIME WITH TIME ZONE '"),
        XdbcTypeInfo {
            create_params: Some(vec!["values".into()]),
            ..text("ENUM", i32::MAX, "'")
        },
        quoted("BLOB", XdbcVarbinary, Some(i32::MAX)),
        quoted("GEOMETRY", XdbcVarbinary, Some(i32::MAX)),
        moment("DATE", XdbcDate, XdbcSubcodeYear, 10, None),
        moment("TIME", XdbcTime, XdbcSubcodeTime, 15, Some(6)),
        moment("TIME_NS", XdbcTime, XdbcSubcodeTime, 18, Some(9)),
        timestamp("TIMESTAMP_S", 19, 0),
        timestamp("TIMESTAMP_MS", 23, 3),
        timestamp("TIMESTAMP", 26, 6),
        timestamp("TIMESTAMP_NS", 29, 9),
        moment(
            "TIMESTAMP WITH TIME ZONE",
            XdbcTimestamp,
            XdbcSubcodeTimestampWithTimezone,
            32,
            Some(6),
        ),
        interval(),
        info("LIST", XdbcUnknownType),
        info("ARRAY", XdbcUnknownType),
        info("STRUCT", XdbcUnknownType),
        info("MAP", XdbcUnknownType),
        info("UNION", XdbcUnknownType),
    ]
}

/// What most types have in common: nullable, and no text that LIKE could search.
fn info(name: &str, data_type: XdbcDataType) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.into(),
        local_type_name: Some(name.into()),
        data_type,
        sql_data_type: data_type,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Basic,
        ..XdbcTypeInfo::default()
    }
}

fn integer(name: &str, data_type: XdbcDataType, digits: i32, unsigned: bool) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(digits),
        unsigned_attribute: Some(unsigned),
        auto_increment: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..info(name, data_type)
    }
}

fn decimal() -> XdbcTypeInfo {
    XdbcTypeInfo {
        create_params: Some(vec!["precision".into(), "scale".into()]),
        maximum_scale: Some(38),
        ..integer("DECIMAL", XdbcDataType::XdbcDecimal, 38, false)
    }
}

fn float(name: &str, data_type: XdbcDataType, bits: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        minimum_scale: None,
        maximum_scale: None,
        num_prec_radix: Some(2),
        ..integer(name, data_type, bits, false)
    }
}

/// A type whose literals are its name and a text in quotes.
fn quoted(name: &str, data_type: XdbcDataType, column_size: Option<i32>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size,
        literal_prefix: Some(format!("{name} '")),
        literal_suffix: Some("'".into()),
        ..info(name, data_type)
    }
}

fn text(name: &str, length: i32, prefix: &str) -> XdbcTypeInfo {
    let is_text = ["VARCHAR", "JSON", "ENUM"].contains(&name);
    XdbcTypeInfo {
        literal_prefix: Some(prefix.into()),
        case_sensitive: is_text,
        searchable: if is_text {
            Searchable::Full
        } else {
            Searchable::Basic
        },
        ..quoted(name, XdbcDataType::XdbcVarchar, Some(length))
    }
}

/// A date, a time or both, told by its generic code and a subcode.
fn moment(
    name: &str,
    data_type: XdbcDataType,
    subcode: XdbcDatetimeSubcode,
    length: i32,
    scale: Option<i32>,
) -> XdbcTypeInfo {
    XdbcTypeInfo {
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(subcode),
        minimum_scale: scale,
        maximum_scale: scale,
        ..quoted(name, data_type, Some(length))
    }
}

fn timestamp(name: &str, length: i32, scale: i32) -> XdbcTypeInfo {
    moment(
        name,
        XdbcDataType::XdbcTimestamp,
        XdbcDatetimeSubcode::XdbcSubcodeTimestamp,
        length,
        Some(scale),
    )
}

/// Months, days and microseconds in one: none of the subcodes, which have a first and a last unit of one kind.
fn interval() -> XdbcTypeInfo {
    XdbcTypeInfo {
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeUnknown),
        // Years, as many as fit the months.
        interval_precision: Some(9),
        ..quoted("INTERVAL", XdbcDataType::XdbcInterval, None)
    }
}
