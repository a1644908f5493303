//! Primary and foreign keys, from DuckDB's constraints.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::super::{folded, is_name, rows};
use super::{as_specified, equal};
use crate::engine::Lossless;
use crate::engine::ffi::Connection;
use crate::engine::ingest::producers::OWN_SCHEMA;
use crate::error::Result;

/// A table that keys are asked of.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableRef {
    /// Its catalog; any when absent. None is without a catalog, so the empty string finds nothing.
    pub(crate) catalog: Option<String>,
    /// Its schema; any when absent.
    pub(crate) schema: Option<String>,
    /// The table itself.
    pub(crate) table: String,
}

impl TableRef {
    /// The condition that three columns name this table.
    fn is(&self, catalog: &str, schema: &str, table: &str) -> String {
        format!(
            "{is_table}{catalog}{schema}",
            is_table = is_name(table, &self.table),
            catalog = equal(catalog, self.catalog.as_deref()),
            schema = equal(schema, self.schema.as_deref()),
        )
    }
}

/// The columns of a table's primary key.
pub(crate) fn primary_keys(
    connection: &Connection,
    lossless: &Lossless,
    table: &TableRef,
) -> Result<RecordBatch> {
    let sql = format!(
        "SELECT database_name, schema_name, table_name, unnest(constraint_column_names),
             constraint_name, {numbers}::INTEGER AS key_sequence
         FROM system.main.duckdb_constraints()
         WHERE constraint_type = 'PRIMARY KEY' AND schema_name <> '{OWN_SCHEMA}' AND {is_table}
         ORDER BY database_name, schema_name, table_name, constraint_name, key_sequence",
        numbers = numbers("constraint_column_names"),
        is_table = table.is("database_name", "schema_name", "table_name"),
    );
    as_specified(&rows(connection, lossless, &sql)?, primary_keys_schema())
}

/// The foreign keys of other tables that refer to this one.
pub(crate) fn exported_keys(
    connection: &Connection,
    lossless: &Lossless,
    table: &TableRef,
) -> Result<RecordBatch> {
    foreign_keys(connection, lossless, &is_parent(table), BY_CHILD)
}

/// The foreign keys of this table.
pub(crate) fn imported_keys(
    connection: &Connection,
    lossless: &Lossless,
    table: &TableRef,
) -> Result<RecordBatch> {
    foreign_keys(connection, lossless, &is_child(table), BY_PARENT)
}

/// The foreign keys of one table that refer to another.
pub(crate) fn cross_reference(
    connection: &Connection,
    lossless: &Lossless,
    parent: &TableRef,
    child: &TableRef,
) -> Result<RecordBatch> {
    let condition = format!("{} AND {}", is_parent(parent), is_child(child));
    foreign_keys(connection, lossless, &condition, BY_PARENT)
}

/// The schema of [`primary_keys`].
pub(crate) fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// The schema of [`exported_keys`], [`imported_keys`] and [`cross_reference`].
pub(crate) fn foreign_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// By child and by parent, as the specification orders the answers.
const BY_CHILD: &str = "fk_catalog, fk_schema, fk_table, fk_key, key_sequence";
const BY_PARENT: &str = "pk_catalog, pk_schema, pk_table, pk_key, key_sequence, fk_catalog, fk_schema, fk_table, fk_key";

/// The numbers of a list's members, from 1.
fn numbers(list: &str) -> String {
    format!("unnest(system.main.generate_series(1, system.main.len({list})))")
}

fn is_parent(table: &TableRef) -> String {
    table.is("pk_catalog", "pk_schema", "pk_table")
}

fn is_child(table: &TableRef) -> String {
    table.is("fk_catalog", "fk_schema", "fk_table")
}

fn foreign_keys(
    connection: &Connection,
    lossless: &Lossless,
    condition: &str,
    order: &str,
) -> Result<RecordBatch> {
    // A foreign key stays within its schema, repeats the columns of the key it refers to in their order, and holds
    // the names as they were typed; DuckDB has no action but to refuse (NO ACTION is 3).
    let sql = format!(
        "WITH keys AS (
             SELECT * FROM system.main.duckdb_constraints() WHERE schema_name <> '{OWN_SCHEMA}'
         ), parents AS (
             SELECT database_name, schema_name, table_name, constraint_column_names AS columns,
                 constraint_name, constraint_type
             FROM keys WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE')
         ), foreign_keys AS (
             SELECT pk.database_name AS pk_catalog, pk.schema_name AS pk_schema, pk.table_name AS pk_table,
                 unnest(pk.columns) AS pk_column,
                 fk.database_name AS fk_catalog, fk.schema_name AS fk_schema, fk.table_name AS fk_table,
                 unnest(fk.constraint_column_names) AS fk_column,
                 {numbers}::INTEGER AS key_sequence,
                 fk.constraint_name AS fk_key, pk.constraint_name AS pk_key,
                 3::UTINYINT AS update_rule, 3::UTINYINT AS delete_rule
             FROM keys AS fk JOIN parents AS pk
                 ON pk.database_name = fk.database_name AND pk.schema_name = fk.schema_name
                     AND {parent} = {referenced} AND {parent_columns} = {referenced_columns}
             WHERE fk.constraint_type = 'FOREIGN KEY'
             QUALIFY row_number() OVER (
                 PARTITION BY fk.database_name, fk.schema_name, fk.table_name, fk.constraint_index
                 ORDER BY pk.constraint_type
             ) = 1
         )
         FROM foreign_keys WHERE {condition} ORDER BY {order}",
        numbers = numbers("fk.constraint_column_names"),
        parent = folded("pk.table_name"),
        referenced = folded("fk.referenced_table"),
        parent_columns = folded("pk.columns::VARCHAR"),
        referenced_columns = folded("fk.referenced_column_names::VARCHAR"),
    );
    as_specified(&rows(connection, lossless, &sql)?, foreign_keys_schema())
}
