//! The catalog as Flight SQL's metadata commands ask for it: catalogs, schemas, tables and their keys, each as the
//! record batch that the specification describes.
//!
//! What a listing shows is what its session can name: the server's own database, databases the session has
//! attached, and `temp` where the session has put something there. DuckDB's own views (`information_schema`,
//! `pg_catalog`, `duckdb_tables`, ...) are left out: they are the same in every database, would outnumber the
//! tables of most, and stay open to queries. So is the server's own schema.
//!
//! Names are compared as DuckDB compares them, without regard to the case of ASCII letters. In a pattern, `%` stands for
//! any text, `_` for any character, and a `\` before either of them, or before another `\`, for that character itself.
//!
//! Functions are called by their full names, for a client may have made a macro of the same name.

mod columns;
mod keys;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_flight::sql::metadata::GetTablesBuilder;
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTables};
use duck_flight_protocol::TableName;

use super::{current, folded, is_name, literal, rows, select_all_schema, text, texts};
use crate::engine::Lossless;
use crate::engine::connections::cancel::Cancel;
use crate::engine::ffi::Connection;
use crate::engine::ingest::producers::OWN_SCHEMA;
use crate::engine::ingest::target::TEMPORARY;
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::{Result, in_a_line};
use columns::{Columns, columns};

pub(crate) use columns::sql_type_metadata;
pub(crate) use keys::TableRef;
use keys::{
    cross_reference, exported_keys, foreign_keys_schema, imported_keys, primary_keys,
    primary_keys_schema,
};

/// The types of tables, in their order. `TABLE` is what JDBC and ODBC call it and what their tools ask for, where
/// DuckDB's `information_schema` says `BASE TABLE`.
const TABLE_TYPES: [&str; 3] = ["LOCAL TEMPORARY", "TABLE", "VIEW"];

/// What a client may call the type `TABLE` when it asks for it.
const BASE_TABLE: &str = "BASE TABLE";

/// Which tables to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct TablesFilter {
    /// The catalog; all when absent. None is without a catalog, so the empty string finds nothing.
    pub(crate) catalog: Option<String>,
    /// A pattern for the schema's name.
    pub(crate) schema_pattern: Option<String>,
    /// A pattern for the table's name.
    pub(crate) table_pattern: Option<String>,
    /// The types of tables; all when empty.
    pub(crate) types: Vec<String>,
    /// Whether to answer with the columns of each table.
    pub(crate) include_schema: bool,
}

/// What a client asks of the catalog.
#[derive(Debug, Clone)]
pub(crate) enum CatalogRequest {
    Catalogs,
    DbSchemas {
        catalog: Option<String>,
        schema_pattern: Option<String>,
    },
    Tables(TablesFilter),
    TableTypes,
    PrimaryKeys(TableRef),
    ExportedKeys(TableRef),
    ImportedKeys(TableRef),
    CrossReference {
        parent: TableRef,
        child: TableRef,
    },
}

impl CatalogRequest {
    /// The schema of the answer.
    pub(crate) fn schema(&self) -> SchemaRef {
        match self {
            Self::Catalogs => CommandGetCatalogs {}.into_builder().schema(),
            Self::DbSchemas { .. } => CommandGetDbSchemas::default().into_builder().schema(),
            Self::Tables(filter) => {
                let command = CommandGetTables {
                    include_schema: filter.include_schema,
                    ..CommandGetTables::default()
                };
                command.into_builder().schema()
            }
            Self::TableTypes => table_types_schema(),
            Self::PrimaryKeys(_) => primary_keys_schema(),
            Self::ExportedKeys(_) | Self::ImportedKeys(_) | Self::CrossReference { .. } => {
                foreign_keys_schema()
            }
        }
    }

    /// The answer, as the connection's session sees the catalog.
    pub(in crate::engine) fn answer(
        &self,
        connection: &Connection,
        lossless: &Lossless,
        cancel: &Cancel,
    ) -> Result<RecordBatch> {
        match self {
            Self::Catalogs => catalogs(connection, lossless),
            Self::DbSchemas {
                catalog,
                schema_pattern,
            } => db_schemas(
                connection,
                lossless,
                catalog.as_deref(),
                schema_pattern.as_deref(),
            ),
            Self::Tables(filter) => tables(connection, lossless, filter, cancel),
            Self::TableTypes => table_types(),
            Self::PrimaryKeys(table) => primary_keys(connection, lossless, table),
            Self::ExportedKeys(table) => exported_keys(connection, lossless, table),
            Self::ImportedKeys(table) => imported_keys(connection, lossless, table),
            Self::CrossReference { parent, child } => {
                cross_reference(connection, lossless, parent, child)
            }
        }
    }
}

/// All catalogs: attached databases, and `temp` where the session has something in it.
fn catalogs(connection: &Connection, lossless: &Lossless) -> Result<RecordBatch> {
    let sql = format!(
        "SELECT database_name FROM system.main.duckdb_databases()
         WHERE NOT internal OR database_name IN (SELECT database_name FROM ({relations}))
         ORDER BY ALL",
        relations = relations(),
    );
    let found = rows(connection, lossless, &sql)?;
    as_specified(&found, CommandGetCatalogs {}.into_builder().schema())
}

/// The schemas of a catalog, or of all, whose names match a pattern.
fn db_schemas(
    connection: &Connection,
    lossless: &Lossless,
    catalog: Option<&str>,
    schema_pattern: Option<&str>,
) -> Result<RecordBatch> {
    // A database's schema `main` counts as internal.
    let sql = format!(
        "SELECT database_name, schema_name FROM system.main.duckdb_schemas()
         WHERE (NOT internal OR database_name IN (SELECT database_name FROM ({relations}))
                 OR (schema_name = 'main' AND database_name NOT IN ('system', 'temp')))
             AND schema_name <> '{OWN_SCHEMA}'{catalog}{schema}
         ORDER BY ALL",
        relations = relations(),
        catalog = equal("database_name", catalog),
        schema = like("schema_name", schema_pattern),
    );
    let found = rows(connection, lossless, &sql)?;
    let command = CommandGetDbSchemas::default();
    as_specified(&found, command.into_builder().schema())
}

/// Tables and views, with their columns if the filter says so. One whose columns cannot be told, such as a view that
/// has lost its table, is listed without columns.
fn tables(
    connection: &Connection,
    lossless: &Lossless,
    filter: &TablesFilter,
    cancel: &Cancel,
) -> Result<RecordBatch> {
    let mut known = if filter.include_schema {
        columns(connection, &filter.names("table_name"))?
    } else {
        HashMap::new()
    };
    let nothing = || None::<&str>;
    let types: [&str; 0] = [];
    let mut tables = GetTablesBuilder::new(
        nothing(),
        nothing(),
        nothing(),
        types,
        filter.include_schema,
    );
    for [catalog, schema, table, kind] in texts(connection, &filter.sql())? {
        cancel.check()?;
        let mut fields = Some(Schema::empty());
        if filter.include_schema {
            let name = TableName {
                catalog: Some(catalog.clone()),
                schema: Some(schema.clone()),
                table: table.clone(),
            };
            let columns = known.remove(&name).unwrap_or_default();
            fields = told_schema(connection, lossless, &name, &columns, kind == "VIEW")?;
        }
        if let Some(fields) = fields {
            tables
                .append(catalog, schema, table, kind, &fields)
                .map_err(unbuilt)?;
        }
    }
    // The last one's columns may be missing for it.
    cancel.check()?;
    let tables = tables.build().map_err(unbuilt)?;
    // Who asks for the columns of a table and not for a schema takes the first one of that name.
    let is_lookup = filter.include_schema && filter.schema_pattern.is_none();
    if is_lookup && filter.table_pattern.is_some() {
        return named_first(&tables, &current(connection)?);
    }
    Ok(tables)
}

/// The tables in the order in which a name that stands alone means them: temporary ones, those of the current schema, and
/// all others.
fn named_first(tables: &RecordBatch, current: &(String, String)) -> Result<RecordBatch> {
    let distance = |row: &usize| {
        let [catalog, schema] = [0, 1].map(|column| text(tables.column(column), *row));
        if catalog == TEMPORARY {
            0
        } else if (catalog, schema) == *current {
            1
        } else {
            2
        }
    };
    let mut rows: Vec<_> = (0..tables.num_rows()).collect();
    rows.sort_by_key(distance);
    let rows = UInt64Array::from_iter_values(rows.into_iter().map(|row| row as u64));
    take_record_batch(tables, &rows).map_err(|error| unbuilt(error).into())
}

/// The types of tables there are.
fn table_types() -> Result<RecordBatch> {
    let types = Arc::new(StringArray::from_iter_values(TABLE_TYPES));
    RecordBatch::try_new(table_types_schema(), vec![types]).map_err(|error| unbuilt(error).into())
}

/// The schema of [`table_types`].
fn table_types_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(
        "table_type",
        DataType::Utf8,
        false,
    )]))
}

/// Every table and view that is not DuckDB's or the server's own.
fn relations() -> String {
    format!(
        "SELECT database_name, schema_name, table_name, IF(temporary, 'LOCAL TEMPORARY', 'TABLE') AS table_type
         FROM system.main.duckdb_tables() WHERE NOT internal AND schema_name <> '{OWN_SCHEMA}'
         UNION ALL
         SELECT database_name, schema_name, view_name, 'VIEW'
         FROM system.main.duckdb_views() WHERE NOT internal AND schema_name <> '{OWN_SCHEMA}'"
    )
}

impl TablesFilter {
    fn sql(&self) -> String {
        let types = match self.types.as_slice() {
            [] => String::new(),
            types => {
                let types: BTreeSet<_> = types.iter().map(|name| type_literal(name)).collect();
                let types: Vec<_> = types.into_iter().collect();
                format!(" AND table_type IN ({})", types.join(", "))
            }
        };
        format!(
            "FROM ({relations}) WHERE true{names}{types}
             ORDER BY ALL",
            relations = relations(),
            names = self.names("table_name"),
        )
    }

    /// The conditions on the names, each with an AND before it.
    fn names(&self, table_column: &str) -> String {
        [
            equal("database_name", self.catalog.as_deref()),
            like("schema_name", self.schema_pattern.as_deref()),
            like(table_column, self.table_pattern.as_deref()),
        ]
        .concat()
    }
}

fn type_literal(name: &str) -> String {
    let name = name.to_uppercase();
    literal(if name == BASE_TABLE { "TABLE" } else { &name })
}

/// The condition that a name is the given one, with an AND before it.
fn equal(column: &str, name: Option<&str>) -> String {
    name.map_or(String::new(), |name| {
        format!(" AND {}", is_name(column, name))
    })
}

/// The condition that a name matches a pattern, with an AND before it.
fn like(column: &str, pattern: Option<&str>) -> String {
    pattern.map_or(String::new(), |pattern| {
        format!(
            " AND system.main.like_escape({}, {}, '\\')",
            folded(column),
            literal(&escaped(pattern).to_ascii_lowercase())
        )
    })
}

/// A pattern in which every `\` escapes something, as DuckDB demands: those that do not stand for themselves.
fn escaped(pattern: &str) -> String {
    let mut escaped = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        escaped.push(char);
        if char == '\\' {
            let next = chars.next_if(|next| matches!(next, '%' | '_' | '\\'));
            escaped.push(next.unwrap_or('\\'));
        }
    }
    escaped
}

/// The columns of a table or view, or none where they cannot be told. `None` where the table was dropped since it was listed.
///
/// # Errors
/// When DuckDB takes what is wrong with a view for a failure of the client's transaction: it may be rolled back only.
fn told_schema(
    connection: &Connection,
    lossless: &Lossless,
    name: &TableName,
    columns: &Columns,
    is_view: bool,
) -> Result<Option<Schema>> {
    match table_schema(connection, lossless, name, columns, is_view) {
        Ok(schema) => Ok(Some(schema)),
        Err(error) if !is_view && error.kind == SqlErrorKind::NotFound => Ok(None),
        Err(error) if connection.check_transaction().is_err() => {
            let message = format!(
                "listing the columns of `{name}` has failed the transaction, so that it can only be rolled back; outside of \
                 transactions it is listed without them: {}",
                error.message
            );
            Err(SqlError::new(error.kind, message).into())
        }
        Err(error) => {
            let (name, error) = (in_a_line(name), in_a_line(&error));
            tracing::warn!(%name, %error, "listed without its columns");
            Ok(Some(Schema::empty()))
        }
    }
}

/// The columns of `SELECT *`, with what DuckDB knows about each.
fn table_schema(
    connection: &Connection,
    lossless: &Lossless,
    name: &TableName,
    columns: &Columns,
    is_view: bool,
) -> std::result::Result<Schema, SqlError> {
    let (schema, _) = select_all_schema(connection, lossless, name)?;
    let generated = if is_view {
        Vec::new()
    } else {
        columns.generated(connection, name)?
    };
    let field = |field: &FieldRef| {
        let is_read_only = is_view || generated.contains(field.name());
        columns.describe(field, name, is_read_only)
    };
    Ok(Schema::new(
        schema.fields().iter().map(field).collect::<Vec<_>>(),
    ))
}

/// A query's rows under the schema of the specification, which has its own names and nullability.
fn as_specified(found: &RecordBatch, schema: SchemaRef) -> Result<RecordBatch> {
    RecordBatch::try_new(schema, found.columns().to_vec()).map_err(|error| unbuilt(error).into())
}

fn unbuilt(error: impl std::fmt::Display) -> SqlError {
    SqlError::internal(format!("a listing cannot be built: {error}"))
}

#[cfg(test)]
mod tests;
