//! What is in the database: tables and views, with their schemas.

mod lookups;
pub(super) mod metadata;
pub(super) mod references;
mod seen;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use duck_flight_protocol::{TableName, quote};

use super::connections::lease::Place;
use super::ffi::{ArrowOptions, Connection, Prepared, QueryResult};
use super::ingest::producers::OWN_SCHEMA;
use super::query::readable::Readable;
use super::sql_error::SqlError;
use super::{Engine, Lossless, SESSION_SETTINGS};
use crate::error::{Result, in_a_line};
use metadata::CatalogRequest;

pub(super) use seen::{Columns, SeenTables};

/// A table or view.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    /// Its full name.
    pub(crate) name: TableName,
    /// The schema of its columns, in which those that Arrow has no type for are texts.
    pub(crate) schema: SchemaRef,
    /// The columns that must be cast to texts.
    pub(crate) texts: Vec<String>,
    /// DuckDB's estimate; unknown for a view.
    pub(crate) rows_estimate: Option<i64>,
}

impl Engine {
    /// Lists tables and views whose name matches a `LIKE` pattern, or all, in the order of their names. One whose
    /// columns cannot be exported, or a view that has lost its table, is left out. It takes as long as it takes to plan each view.
    pub(crate) async fn relations(&self, pattern: Option<String>) -> Result<Vec<Relation>> {
        let lossless = self.0.shared.lossless.clone();
        let listing = self.0.queries.run(move |session, cancel| {
            let connection = &session.connection;
            let _watch = cancel.watch(connection);
            let mut relations = Vec::new();
            let found = rows(connection, &lossless, &listing_sql(pattern.as_deref()))?;
            for row in 0..found.num_rows() {
                cancel.check()?;
                let name = TableName {
                    catalog: Some(text(found.column(0), row)),
                    schema: Some(text(found.column(1), row)),
                    table: text(found.column(2), row),
                };
                let estimate = found.column(3).as_primitive::<Int64Type>();
                let rows_estimate = estimate.is_valid(row).then(|| estimate.value(row));
                match select_all_schema(connection, &lossless, &name) {
                    Ok((schema, texts)) => relations.push(Relation {
                        name,
                        schema,
                        texts,
                        rows_estimate,
                    }),
                    Err(error) => {
                        let (name, error) = (in_a_line(&name), in_a_line(&error));
                        tracing::warn!(%name, %error, "left out of the listing");
                    }
                }
            }
            Ok(relations)
        });
        listing.await
    }

    /// What is in the catalog, as the client's statements see it.
    pub(crate) async fn catalog(
        &self,
        place: &Place,
        request: CatalogRequest,
    ) -> Result<RecordBatch> {
        let lossless = self.0.shared.lossless.clone();
        self.run_on(place, move |session, _, cancel| {
            // It goes on where it cannot tell all of a table, which may have failed the transaction.
            session.doubt();
            let _watch = cancel.watch(&session.connection);
            request.answer(&session.connection, &lossless, cancel)
        })
        .await
    }

    /// The catalog and the schema in which a client's statements look up names first.
    pub(crate) async fn current_names(&self, place: &Place) -> Result<(String, String)> {
        self.look_up(place, current).await
    }

    /// The settings that a session may change, and their values in this one.
    pub(crate) async fn session_settings(&self, place: &Place) -> Result<Vec<(String, String)>> {
        self.look_up(place, session_settings).await
    }

    async fn look_up<T: Send + 'static>(
        &self,
        place: &Place,
        what: fn(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.run_on(place, move |session, _, cancel| {
            let _watch = cancel.watch(&session.connection);
            what(&session.connection)
        })
        .await
    }
}

fn listing_sql(pattern: Option<&str>) -> String {
    let filter = pattern.map_or(String::new(), |pattern| {
        format!(" AND system.main.\"~~\"(name, {})", literal(pattern))
    });
    format!(
        "SELECT database_name, schema_name, name, rows FROM (
             SELECT database_name, schema_name, table_name AS name, internal, estimated_size::BIGINT AS rows
             FROM system.main.duckdb_tables()
             UNION ALL
             SELECT database_name, schema_name, view_name, internal, NULL FROM system.main.duckdb_views()
         ) WHERE NOT internal AND schema_name <> '{OWN_SCHEMA}'{filter} ORDER BY ALL"
    )
}

/// The schema of all columns, and those that Arrow has no type for, which are told as texts.
pub(super) fn select_all_schema(
    connection: &Connection,
    lossless: &Lossless,
    name: &TableName,
) -> std::result::Result<(SchemaRef, Vec<String>), SqlError> {
    let statement = prepare(connection, &format!("FROM {}", name.to_sql()))?;
    let (schema, texts) = statement.schema_as_texts(&lossless.options)?;
    Ok((Readable::new(&schema).schema().clone(), texts))
}

/// The catalog and the schema in which a connection looks up names first.
pub(super) fn current(connection: &Connection) -> Result<(String, String)> {
    let sql = "SELECT system.main.current_database(), system.main.current_schema()";
    let [catalog, schema] = texts::<2>(connection, sql)?.pop().unwrap_or_default();
    Ok((catalog, schema))
}

fn session_settings(connection: &Connection) -> Result<Vec<(String, String)>> {
    let names: Vec<_> = SESSION_SETTINGS.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT name, coalesce(value, '') FROM system.main.duckdb_settings() WHERE name IN ({})",
        names.join(", ")
    );
    let found = texts::<2>(connection, &sql)?.into_iter();
    Ok(found.map(|[name, value]| (name, value)).collect())
}

/// A text as SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A table's name as SQL, with its schema: so it is no other relation of a statement.
pub(super) fn qualified(table: &TableName) -> String {
    let schema = table.schema.as_deref().unwrap_or("main");
    let parts = [table.catalog.as_deref(), Some(schema), Some(&table.table)];
    let quoted: Vec<_> = parts.into_iter().flatten().map(quote).collect();
    quoted.join(".")
}

/// The condition that an expression of SQL is a name, by the rules of DuckDB's catalog.
pub(super) fn is_name(expression: &str, name: &str) -> String {
    format!(
        "{} = {}",
        folded(expression),
        literal(&name.to_ascii_lowercase())
    )
}

/// An expression of SQL with its ASCII letters in lower case, as names are compared: `lower` changes other letters, too.
pub(super) fn folded(expression: &str) -> String {
    format!(
        "system.main.translate({expression}, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')"
    )
}

/// Runs one of the engine's own small queries, and answers with its rows as a batch. Such queries call functions by their full
/// names, for a client may have made a macro of the same name.
pub(super) fn rows(connection: &Connection, lossless: &Lossless, sql: &str) -> Result<RecordBatch> {
    fetch(prepare(connection, sql)?, lossless)
}

/// The texts that one of the engine's own small queries answers with. Where no transaction is open it is planned in one of its own, and
/// run in another one.
pub(super) fn texts<const N: usize>(
    connection: &Connection,
    sql: &str,
) -> Result<Vec<[String; N]>> {
    texts_of(connection, prepare(connection, sql)?.execute()?)
}

/// The texts of a result.
pub(super) fn texts_of<const N: usize>(
    connection: &Connection,
    result: QueryResult<'_>,
) -> Result<Vec<[String; N]>> {
    let options = ArrowOptions::of(connection);
    let mut batches = result.into_batches(&options)?;
    let mut rows = Vec::new();
    while let Some(found) = batches.next_batch()? {
        let row = |row| std::array::from_fn(|column| text(found.column(column), row));
        rows.extend((0..found.num_rows()).map(row));
    }
    Ok(rows)
}

/// Prepares one of the engine's own small queries.
pub(super) fn prepare<'c>(
    connection: &'c Connection,
    sql: &str,
) -> std::result::Result<Prepared<'c>, SqlError> {
    let statement = connection.parse(sql)?.last_statement();
    statement.ok_or_else(|| SqlError::internal("a statement was not parsed"))?
}

/// Runs a prepared query of the engine's own, and answers with its rows as a batch.
pub(super) fn fetch(statement: Prepared<'_>, lossless: &Lossless) -> Result<RecordBatch> {
    let mut batches = statement.execute()?.into_batches(&lossless.options)?;
    let mut all = Vec::new();
    while let Some(batch) = batches.next_batch()? {
        all.push(batch);
    }
    let rows = concat_batches(batches.schema(), &all);
    Ok(rows.map_err(|error| SqlError::internal(error.to_string()))?)
}

pub(super) fn text(array: &ArrayRef, row: usize) -> String {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn a_change_of_what_arrow_does_not_tell_is_seen() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let types = [
            "ENUM('a')",
            "ENUM('b')",
            "ENUM('a', 'b')",
            "ENUM('a')[]",
            "ENUM('a', 'b')[]",
            "STRUCT(e ENUM('a'))",
            "STRUCT(e ENUM('b'))",
            "VARCHAR",
            "JSON",
            "UNION(a ENUM('a'), b INTEGER)",
            "UNION(a ENUM('b'), b INTEGER)",
        ];
        let shapes = types.map(|sql_type| {
            let sql = format!("CREATE OR REPLACE TABLE t (v {sql_type})");
            connection.execute(&sql).unwrap();
            let table = TableName {
                catalog: None,
                schema: None,
                table: "t".into(),
            };
            let look = || connection.table_columns(&table).unwrap().unwrap();
            assert!(look() == look(), "{sql_type}");
            look()
        });
        for (one, shape) in shapes.iter().enumerate() {
            for (other, other_shape) in shapes.iter().enumerate() {
                assert_eq!(
                    shape == other_shape,
                    one == other,
                    "{}, {}",
                    types[one],
                    types[other]
                );
            }
        }
    }

    #[test]
    fn duckdb_ignores_the_case_of_ascii_letters_only() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let names = ["é", "É", "k", "\u{212a}", "straße", "STRASSE", "i", "İ"];
        for (index, name) in names.iter().enumerate() {
            for other in &names[..index] {
                let sql = format!("CREATE OR REPLACE TABLE t (\"{name}\" INT, \"{other}\" INT)");
                let is_refused = connection.execute(&sql).is_err();
                let is_same = crate::engine::rows::types::same_name(name, other);
                assert_eq!(is_same, is_refused, "{name}, {other}");
                let is_same_in_sql = is_name(&literal(name), other);
                let check = format!("SELECT CASE WHEN {is_same_in_sql} THEN 1 ELSE error('') END");
                assert_eq!(
                    connection.execute(&check).is_ok(),
                    is_refused,
                    "{name}, {other}"
                );
            }
        }
        connection
            .execute("CREATE OR REPLACE TABLE t (a INT, A INT)")
            .unwrap_err();
    }
}
