//! What drivers read about a column from its field's metadata.

use std::collections::HashMap;

use arrow::datatypes::{Field, FieldRef};
use duck_flight_protocol::TableName;

use super::super::texts;
use crate::engine::ffi::Connection;
use crate::engine::sql_error::SqlError;
use crate::error::Result;

const CATALOG_NAME: &str = "ARROW:FLIGHT:SQL:CATALOG_NAME";
/// What the specification calls it, and what drivers look for.
const DB_SCHEMA_NAME: &str = "ARROW:FLIGHT:SQL:DB_SCHEMA_NAME";
const SCHEMA_NAME: &str = "ARROW:FLIGHT:SQL:SCHEMA_NAME";
const TABLE_NAME: &str = "ARROW:FLIGHT:SQL:TABLE_NAME";
const TYPE_NAME: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";
const PRECISION: &str = "ARROW:FLIGHT:SQL:PRECISION";
const SCALE: &str = "ARROW:FLIGHT:SQL:SCALE";
const IS_AUTO_INCREMENT: &str = "ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT";
const IS_CASE_SENSITIVE: &str = "ARROW:FLIGHT:SQL:IS_CASE_SENSITIVE";
const IS_READ_ONLY: &str = "ARROW:FLIGHT:SQL:IS_READ_ONLY";
const IS_SEARCHABLE: &str = "ARROW:FLIGHT:SQL:IS_SEARCHABLE";

/// The metadata of a column's field that tells its SQL type, from the type's name as DuckDB writes it: `VARCHAR`,
/// `DECIMAL(18,3)`, `INTEGER[]`.
///
/// Precision counts decimal digits of a number, and the characters of anything else that has a longest text. A
/// decimal's parameters and an enum's values are left out of the name, so that GetXdbcTypeInfo has it too.
pub(crate) fn sql_type_metadata(type_name: &str) -> HashMap<String, String> {
    let mut name = type_name;
    let (mut precision, mut scale) = (None, None);
    if type_name.ends_with(')') && type_name.starts_with("ENUM(") {
        name = "ENUM";
    } else if let Some((digits, after_point)) = decimal_parameters(type_name) {
        name = "DECIMAL";
        (precision, scale) = (Some(digits), Some(after_point));
    } else if let Some((known, known_scale)) = known_size(type_name) {
        (precision, scale) = (Some(known), known_scale);
    }
    let entries = [
        Some((TYPE_NAME, name.to_owned())),
        precision.map(|precision| (PRECISION, precision.to_string())),
        scale.map(|scale| (SCALE, scale.to_string())),
    ];
    owned(entries.into_iter().flatten())
}

/// The digits of a decimal, and those after the point.
fn decimal_parameters(type_name: &str) -> Option<(u32, u32)> {
    let parameters = type_name.strip_prefix("DECIMAL(")?.strip_suffix(')')?;
    let (digits, scale) = parameters.split_once(',')?;
    Some((digits.trim().parse().ok()?, scale.trim().parse().ok()?))
}

/// Precision and scale of a type that has no parameters.
fn known_size(type_name: &str) -> Option<(u32, Option<u32>)> {
    let size = match type_name {
        "BOOLEAN" => (1, None),
        "TINYINT" | "UTINYINT" => (3, Some(0)),
        "SMALLINT" | "USMALLINT" => (5, Some(0)),
        "INTEGER" | "UINTEGER" => (10, Some(0)),
        "BIGINT" => (19, Some(0)),
        "UBIGINT" => (20, Some(0)),
        "HUGEINT" | "UHUGEINT" => (39, Some(0)),
        "FLOAT" => (7, None),
        "DOUBLE" => (15, None),
        "DATE" => (10, None),
        "TIME" => (15, Some(6)),
        "TIME_NS" => (18, Some(9)),
        "TIME WITH TIME ZONE" => (24, Some(6)),
        "TIMESTAMP_S" => (19, Some(0)),
        "TIMESTAMP_MS" => (23, Some(3)),
        "TIMESTAMP" => (26, Some(6)),
        "TIMESTAMP_NS" => (29, Some(9)),
        "TIMESTAMP WITH TIME ZONE" => (32, Some(6)),
        "UUID" => (36, None),
        _ => return None,
    };
    Some(size)
}

/// What DuckDB's catalog knows about the columns of one table.
#[derive(Debug, Default)]
pub(super) struct Columns(HashMap<String, Column>);

#[derive(Debug)]
struct Column {
    type_name: String,
    is_nullable: bool,
    /// The expression of its default value; of its values, where they are computed.
    default: String,
}

/// The columns of all tables and views that meet `conditions` (each with an AND before it).
pub(super) fn columns(
    connection: &Connection,
    conditions: &str,
) -> Result<HashMap<TableName, Columns>> {
    let sql = format!(
        "SELECT database_name, schema_name, table_name, column_name, data_type,
             IF(is_nullable, 'yes', 'no'), coalesce(column_default, '')
         FROM system.main.duckdb_columns() WHERE NOT internal{conditions}"
    );
    let mut tables: HashMap<TableName, Columns> = HashMap::new();
    for [
        catalog,
        schema,
        table,
        name,
        type_name,
        is_nullable,
        default,
    ] in texts(connection, &sql)?
    {
        let table = TableName {
            catalog: Some(catalog),
            schema: Some(schema),
            table,
        };
        let column = Column {
            type_name,
            is_nullable: is_nullable == "yes",
            default,
        };
        tables.entry(table).or_default().0.insert(name, column);
    }
    Ok(tables)
}

impl Columns {
    /// Which columns are computed.
    pub(super) fn generated(
        &self,
        connection: &Connection,
        table: &TableName,
    ) -> std::result::Result<Vec<String>, SqlError> {
        // The expression of a generated column looks like a default, and spares tables without any the look-up.
        if self.0.values().all(|column| column.default.is_empty()) {
            return Ok(Vec::new());
        }
        let mut columns = connection.table_columns(table)?.unwrap_or_default();
        connection.mark_generated(table, &mut columns);
        let generated = columns.iter().filter(|column| column.is_generated);
        Ok(generated
            .map(|column| column.field.name().clone())
            .collect())
    }

    /// A field of `SELECT *` from the table, with all that is known about its column.
    pub(super) fn describe(
        &self,
        field: &FieldRef,
        table: &TableName,
        is_read_only: bool,
    ) -> Field {
        let mut metadata = field.metadata().clone();
        let mut described = field.as_ref().clone();
        let mut is_auto_increment = false;
        let mut is_case_sensitive = false;
        if let Some(column) = self.0.get(field.name()) {
            metadata.extend(sql_type_metadata(&column.type_name));
            described = described.with_nullable(column.is_nullable);
            is_auto_increment = column.default.contains("nextval(");
            is_case_sensitive = ["VARCHAR", "JSON"].contains(&column.type_name.as_str())
                || column.type_name.starts_with("ENUM(");
        }
        metadata.extend(owned([
            (CATALOG_NAME, table.catalog.clone().unwrap_or_default()),
            (DB_SCHEMA_NAME, table.schema.clone().unwrap_or_default()),
            (SCHEMA_NAME, table.schema.clone().unwrap_or_default()),
            (TABLE_NAME, table.table.clone()),
            (IS_AUTO_INCREMENT, flag(is_auto_increment)),
            (IS_CASE_SENSITIVE, flag(is_case_sensitive)),
            (IS_READ_ONLY, flag(is_read_only)),
            (IS_SEARCHABLE, flag(true)),
        ]));
        described.with_metadata(metadata)
    }
}

fn flag(is_so: bool) -> String {
    if is_so { "1" } else { "0" }.into()
}

fn owned(entries: impl IntoIterator<Item = (&'static str, String)>) -> HashMap<String, String> {
    let entries = entries.into_iter();
    entries.map(|(key, value)| (key.into(), value)).collect()
}
