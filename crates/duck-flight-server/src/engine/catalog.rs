//! What is in the database: tables and views, with their schemas.

pub(super) mod metadata;
pub(super) mod references;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use duck_flight_protocol::{TableName, quote};
use parking_lot::Mutex;

use super::connections::lease::Place;
use super::connections::pool::Pool;
use super::ffi::{ArrowOptions, ColumnShape, Connection, Prepared};
use super::ingest::producers::OWN_SCHEMA;
use super::ingest::unit::TableKey;
use super::query::readable::Readable;
use super::rows::keys::Refusals;
use super::rows::types::same_name;
use super::sql_error::SqlError;
use super::{Engine, Lossless, SESSION_SETTINGS, query};
use crate::error::{Result, in_a_line};
use references::References;

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

/// Lists tables and views whose name matches a `LIKE` pattern, in the order of their names. One whose
/// columns cannot be exported, or a view that has lost its table, is left out. It takes as long as it takes to plan each view.
pub(super) async fn relations(
    pool: &Pool,
    lossless: Arc<Lossless>,
    pattern: Option<String>,
) -> Result<Vec<Relation>> {
    pool.run(move |session, cancel| {
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
    })
    .await
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

impl Engine {
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
        query::run_on(
            &self.0.queries,
            &self.0.shared,
            place,
            move |session, _, cancel| {
                let _watch = cancel.watch(&session.connection);
                what(&session.connection)
            },
        )
        .await
    }
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

/// The texts that one of the engine's own small queries answers with, in a transaction that is open or in one of its own.
pub(super) fn texts<const N: usize>(
    connection: &Connection,
    sql: &str,
) -> Result<Vec<[String; N]>> {
    let options = ArrowOptions::of(connection);
    let mut batches = prepare(connection, sql)?
        .execute()?
        .into_batches(&options)?;
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

/// The columns of a table in their order, shared by all that look at the same state of it.
pub(super) type Columns = Arc<[ColumnShape]>;

/// What is known of tables as they were last seen: their columns, a hint that saves a look-up, checked in the transaction; which tables
/// refer to which; and which refuse rows. All is forgotten once a client's definition is committed, and of a table what is known once a
/// put has made it anew.
#[derive(Default)]
pub(super) struct SeenTables(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    columns: HashMap<TableName, Columns>,
    /// Of all tables. Those that puts make have no foreign keys; but what they take the place of may have had some.
    references: Option<Arc<References>>,
    /// Whether tables refuse rows with a key for what else is in them.
    refusals: HashMap<(TableName, Vec<String>), Refusals>,
    times_forgotten: u64,
}

/// How many tables are remembered.
const MAX_SEEN_TABLES: usize = 4096;

impl SeenTables {
    pub(super) fn columns(&self, table: &TableName) -> Option<Columns> {
        self.0.lock().columns.get(table).cloned()
    }

    /// How often any of them was forgotten: to be asked before a table is looked at.
    pub(super) fn times_forgotten(&self) -> u64 {
        self.0.lock().times_forgotten
    }

    /// Remembers a table as it was looked at, unless any was forgotten meanwhile: it may be another one since.
    pub(super) fn set_columns(&self, table: &TableName, columns: &Columns, times_forgotten: u64) {
        let mut seen = self.0.lock();
        if seen.times_forgotten != times_forgotten {
            return;
        }
        if seen.columns.len() >= MAX_SEEN_TABLES {
            seen.columns.clear();
        }
        seen.columns.insert(table.clone(), columns.clone());
    }

    /// Whether a table may refuse one row with a key and take another one, as it was last seen.
    pub(super) fn refusals(&self, table: &TableName, key: &[String]) -> Option<Refusals> {
        let seen = self.0.lock();
        let known = (table.clone(), key.to_vec());
        seen.refusals.get(&known).copied()
    }

    /// Remembers that, as [`SeenTables::set_columns`] does the columns.
    pub(super) fn set_refusals(
        &self,
        table: &TableName,
        key: &[String],
        refusals: Refusals,
        times_forgotten: u64,
    ) {
        let mut seen = self.0.lock();
        if seen.times_forgotten != times_forgotten {
            return;
        }
        if seen.refusals.len() >= MAX_SEEN_TABLES {
            seen.refusals.clear();
        }
        let known = (table.clone(), key.to_vec());
        seen.refusals.insert(known, refusals);
    }

    pub(super) fn forget(&self, table: &TableName) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns.remove(table);
        // It may have other names there.
        seen.refusals.clear();
    }

    /// To be called after the commit of a put that has made a table anew, by whatever names it is known.
    pub(super) fn forget_made(&self, table: &TableKey) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns
            .retain(|known, _| !same_name(&known.table, &table.table));
        seen.refusals.clear();
        let references = seen.references.as_ref();
        if references.is_some_and(|references| !references.of(table).is_empty()) {
            seen.references = None;
        }
    }

    /// To be called after the commit of what may have altered or dropped any table.
    pub(super) fn forget_all(&self) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns.clear();
        seen.refusals.clear();
        seen.references = None;
    }

    pub(super) fn references(&self) -> Option<Arc<References>> {
        self.0.lock().references.clone()
    }

    /// Remembers which tables refer to which, unless any table was forgotten meanwhile.
    pub(super) fn set_references(&self, references: &Arc<References>, times_forgotten: u64) {
        let mut seen = self.0.lock();
        if seen.times_forgotten == times_forgotten {
            seen.references = Some(references.clone());
        }
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
    fn what_was_looked_at_before_a_definition_was_committed_is_not_remembered() {
        let seen = SeenTables::default();
        let (table, columns) = (TableName::from("t"), Columns::from(Vec::new()));
        let forget_other = |seen: &SeenTables| seen.forget(&TableName::from("other"));
        let ways: [fn(&SeenTables); 2] = [SeenTables::forget_all, forget_other];
        for forget in ways {
            let times_forgotten = seen.times_forgotten();
            forget(&seen);
            seen.set_columns(&table, &columns, times_forgotten);
            assert!(seen.columns(&table).is_none());
            seen.set_columns(&table, &columns, seen.times_forgotten());
            assert!(seen.columns(&table).is_some());
            seen.forget_all();
            assert!(seen.columns(&table).is_none());
            // The same of its constraints.
            let key = ["k".to_owned()];
            let refusals = Refusals::OfKeys;
            seen.set_refusals(&table, &key, refusals, times_forgotten);
            assert_eq!(seen.refusals(&table, &key), None);
            seen.set_refusals(&table, &key, refusals, seen.times_forgotten());
            assert_eq!(seen.refusals(&table, &key), Some(refusals));
            forget(&seen);
            assert_eq!(seen.refusals(&table, &key), None);
        }
    }

    #[test]
    fn what_is_known_of_a_table_that_was_made_anew_is_forgotten_by_all_of_its_names() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute(
                "CREATE TABLE p (i BIGINT PRIMARY KEY); CREATE TABLE c (i BIGINT REFERENCES p (i))",
            )
            .unwrap();
        let seen = connection.seen_tables();
        let columns = Columns::from(Vec::new());
        let (names, key) = (["p", "P", "c"].map(TableName::from), ["i".to_owned()]);
        let look = || {
            for name in &names {
                seen.set_columns(name, &columns, seen.times_forgotten());
                seen.set_refusals(name, &key, Refusals::OfKeys, seen.times_forgotten());
            }
            References::seen(&connection).unwrap();
        };
        // How many of the names are known after a table was made anew, and whether which tables refer to which.
        for (made, known, knows_references) in [("p", 1, true), ("c", 2, false)] {
            look();
            let before = seen.times_forgotten();
            seen.forget_made(&TableKey::in_own_catalog("main", made));
            assert_ne!(seen.times_forgotten(), before);
            let is_known = |name: &&TableName| seen.columns(name).is_some();
            assert_eq!(names.iter().filter(is_known).count(), known, "{made}");
            assert_eq!(seen.refusals(&names[2], &key), None, "{made}");
            assert_eq!(seen.references().is_some(), knows_references, "{made}");
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
