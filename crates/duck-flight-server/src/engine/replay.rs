//! Commits that the next start can replay.
//!
//! What a transaction has written to the file in whole row groups, DuckDB 1.5.5 logs as the places of their blocks. To replay that
//! spoils indexes (`ReplayRowGroupData`): one that CREATE INDEX has made is given all columns for its own, so that the
//! start fails, or the index has other values; and where a row of the transaction has a key that it has deleted before, the
//! key leads nowhere. A transaction that deletes one of its own new rows is logged row by row instead, and replayed well.
//!
//! Beside it stand other things that must be refused, or done another way, before DuckDB commits them: [`index_work`],
//! [`kept_indexes`], [`new_types`], [`rename`], [`referred`] and [`schemas`] for what the next start could not replay; [`structs`] for values
//! that would not be kept; [`alterations`] for commits that DuckDB breaks off; [`widened`] and [`open_transactions`] for what older transactions would undo. [`claim`] holds a table against others, and
//! [`named`] finds the one that a statement means.

pub(super) mod alterations;
pub(super) mod claim;
pub(super) mod index_work;
pub(super) mod kept_indexes;
pub(super) mod named;
pub(super) mod new_types;
pub(super) mod open_transactions;
pub(super) mod referred;
pub(super) mod rename;
pub(super) mod schemas;
pub(super) mod structs;
pub(super) mod widened;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use duck_flight_protocol::{TableName, quote};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::catalog::texts;
use super::connections::pool::Work;
use super::ffi::{ColumnShape, Connection};
use super::rows::types::same_name;
use super::sql::deed::{Asked, Change, Deed, own_name};
use super::sql::tokens::{Token, contains_word, tokens};
use crate::error::{Error, Result};

/// The number of the first row that a transaction has not committed yet (DuckDB's `MAX_ROW_ID`).
pub(super) const FIRST_NEW_ROW: u64 = 36_028_797_018_960_000;

/// The tables that have an index which a statement has made.
const INDEXED_SQL: &str = "
    SELECT DISTINCT database_name, schema_name, table_name FROM system.main.duckdb_indexes()";

/// The tables that have any index, also if it is only that of a constraint.
const KEYED_SQL: &str = "
    SELECT database_name, schema_name, table_name FROM system.main.duckdb_indexes()
    UNION
    SELECT database_name, schema_name, table_name FROM system.main.duckdb_constraints()
    WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE', 'FOREIGN KEY')";

/// The tables of databases that have a log.
const LOGGED_SQL: &str = "
    SELECT database_name, schema_name, table_name FROM system.main.duckdb_tables()
    WHERE NOT internal AND database_name IN
        (SELECT database_name FROM system.main.duckdb_databases() WHERE path IS NOT NULL)";

/// All tables.
const ALL_SQL: &str = "
    SELECT database_name, schema_name, table_name FROM system.main.duckdb_tables() WHERE NOT internal";

/// What may stand before INDEX where one is made or dropped.
const BEFORE_INDEX: &[&str] = &["create", "drop", "replace", "temp", "temporary", "unique"];

/// What is known of the indexes that CREATE INDEX makes.
#[derive(Default)]
pub(super) struct Indexes {
    /// Whether there may be any. Once it is so it stays so.
    may_be: AtomicBool,
    making: RwLock<()>,
    /// How many statements have ended since the start that may have made one.
    made: AtomicU64,
}

/// The indexes that a transaction sees, however many are made after it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeenIndexes(u64);

/// Keeps new indexes from being made. `is_certain` is false where one was being made already, or where one was made that the
/// transaction does not see: then it is unknown which tables have indexes.
pub(super) struct Steady<'a> {
    is_certain: bool,
    _making: Option<RwLockReadGuard<'a, ()>>,
}

/// Lives while an index may be made, until its commit.
pub(super) struct Making<'a> {
    indexes: &'a Indexes,
    _making: RwLockWriteGuard<'a, ()>,
}

impl Indexes {
    /// The indexes that a transaction sees which begins after this call.
    pub(super) fn seen(&self) -> SeenIndexes {
        SeenIndexes(self.made.load(Ordering::Acquire))
    }

    /// Keeps scripts from making an index until the commit of a transaction that begins afterwards.
    pub(super) fn steady(&self) -> Steady<'_> {
        self.steady_since(self.seen())
    }

    /// Keeps scripts from making an index, from a look for those that a transaction sees until its commit.
    pub(super) fn steady_since(&self, seen: SeenIndexes) -> Steady<'_> {
        let making = self.making.try_read();
        Steady {
            is_certain: making.is_some() && self.seen() == seen,
            _making: making,
        }
    }

    /// Records a script that may make an index. To be called before it runs.
    pub(super) fn note(&self, sql: &str) {
        if may_make_index(sql) {
            self.may_be.store(true, Ordering::Release);
        }
    }

    /// To be held while a statement runs that may make an index, and until its commit.
    pub(super) fn make(&self) -> Making<'_> {
        Making {
            indexes: self,
            _making: self.making.write(),
        }
    }

    fn may_be(&self) -> bool {
        self.may_be.load(Ordering::Acquire)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // Only now, after the commit: who has counted before may have begun before it, too.
        self.indexes.made.fetch_add(1, Ordering::Release);
    }
}

/// Whether a script may make an index, or drop one. In doubt it may where the word stands in it.
pub(super) fn may_make_index(sql: &str) -> bool {
    let mut last = Token::Symbol(';');
    for token in tokens(sql) {
        if token == Token::Doubt {
            return contains_word(sql, "index");
        }
        if token.is("index") && last.is_any(BEFORE_INDEX) {
            return true;
        }
        last = token;
    }
    false
}

/// Notes whether there are indexes already.
pub(super) fn note_existing_indexes(connection: &Connection) -> Result<()> {
    let is_any = !tables(connection, INDEXED_SQL)?.is_empty();
    connection.indexes().may_be.store(is_any, Ordering::Release);
    Ok(())
}

/// Makes sure that the open transaction can be replayed, in which a put has written `rows` rows to a table, or fewer.
/// `is_keyed` where it may also have deleted or changed some. `steady` must live until the commit.
pub(super) fn secure_put(
    connection: &Connection,
    table: &TableName,
    rows: u64,
    is_keyed: bool,
    steady: &Steady<'_>,
) -> Result<()> {
    if !secure_rows(connection, table, rows, is_keyed, steady)? {
        return Ok(());
    }
    structs::rewrite(connection, table, true)
}

/// As [`secure_put`], but for structs. Answers whether the transaction is logged row by row.
fn secure_rows(
    connection: &Connection,
    table: &TableName,
    rows: u64,
    is_keyed: bool,
    steady: &Steady<'_>,
) -> Result<bool> {
    if rows < connection.fewest_filed_rows() {
        return Ok(false);
    }
    let is_at_risk = is_keyed
        || !steady.is_certain
        || connection.indexes().may_be() && is_among(table, &tables(connection, INDEXED_SQL)?);
    if is_at_risk {
        note_put(connection, table);
        log_row_by_row(connection, table, steady.is_certain)?;
    }
    Ok(is_at_risk)
}

/// As [`secure_put`], of an append that has written `rows` rows in a client's transaction, in which `rows_before` were written
/// before: some of them may have been deleted.
pub(super) fn secure_append(
    connection: &Connection,
    table: &TableName,
    rows_before: u64,
    rows: u64,
    steady: &Steady<'_>,
) -> Result<()> {
    // Statements that follow may look for its new rows.
    note_put(connection, table);
    let rows = rows_before.saturating_add(rows);
    let may_have_deleted_keys = rows_before > 0
        && rows >= connection.fewest_filed_rows()
        && is_among(table, &tables(connection, KEYED_SQL)?);
    secure_rows(connection, table, rows, may_have_deleted_keys, steady).map(drop)
}

/// Takes note of the table that a put has written rows to: of statements it is told before they run.
fn note_put(connection: &Connection, table: &TableName) {
    let changes = connection.changes();
    changes.note_new_rows(Some(table.table.clone()));
}

/// Whether a table is one of these, or may be: the database is not compared.
fn is_among(table: &TableName, others: &[TableName]) -> bool {
    let schema = table.schema.as_deref().unwrap_or("main");
    let is_schema = |other: &str| same_name(other, schema);
    others.iter().any(|other| {
        same_name(&other.table, &table.table) && other.schema.as_deref().is_some_and(is_schema)
    })
}

/// Makes sure that the open transaction can be replayed, in which a client's statements, this one the last, have written
/// `rows` rows. `is_alone` where there was no other. `steady` should live until the commit.
pub(super) fn secure_statement(
    connection: &Connection,
    asked: Asked<'_>,
    rows: u64,
    is_alone: bool,
    steady: &Steady<'_>,
) -> Result<()> {
    if rows < connection.fewest_filed_rows() {
        return Ok(());
    }
    let only_adds = is_alone
        && matches!(
            asked.deed,
            Deed::Writes {
                change: Change::Adds,
                ..
            }
        );
    let at_risk = match (steady.is_certain, only_adds) {
        (false, _) => ALL_SQL,
        (true, false) => KEYED_SQL,
        (true, true) if connection.indexes().may_be() => INDEXED_SQL,
        (true, true) => return Ok(()),
    };
    let target = match asked.deed {
        // DuckDB makes an UPDATE of an ALTER that gives a new column a default.
        Deed::Writes { table, .. } | Deed::Alters { table, .. } => own_name(table.as_deref()),
        Deed::Doubt => None,
        _ => return Ok(()),
    };
    for table in tables(connection, at_risk)? {
        if target.is_none_or(|target| same_name(target, &table.table)) {
            log_row_by_row(connection, &table, steady.is_certain)?;
        }
    }
    Ok(())
}

/// Makes sure that a client's transaction can be committed and replayed: indexes may have been made since its statements were
/// looked at, by itself or beside it, and a checkpoint may run. What is given back must live until the commit.
pub(super) fn secure_commit<'c>(
    connection: &'c Connection,
    work: &Work,
) -> Result<(Option<Making<'c>>, Option<Steady<'c>>)> {
    connection.keep_checkpoints_out()?;
    let indexes = connection.indexes();
    let making = work.makes_index.then(|| indexes.make());
    if making.is_some() {
        work.indexes.check_commit(connection)?;
    }
    if work.rows_written < connection.fewest_filed_rows() {
        return Ok((making, None));
    }
    let steady = indexes.steady_since(work.seen_indexes);
    if !steady.is_certain {
        for table in tables(connection, LOGGED_SQL)? {
            log_row_by_row(connection, &table, false)?;
        }
    }
    structs::secure(connection, work.rows_written)?;
    Ok((making, Some(steady)))
}

fn tables(connection: &Connection, sql: &str) -> Result<Vec<TableName>> {
    let found = texts(connection, sql)?.into_iter();
    let name = |[catalog, schema, table]: [String; 3]| TableName {
        catalog: Some(catalog),
        schema: Some(schema),
        table,
    };
    Ok(found.map(name).collect())
}

/// Puts the last new row of a table in its own place, where the transaction may have written a row group of it: to update a
/// column of an index is to delete the row and to insert it. Where it is not certain which tables have one, a table that seems
/// to have none may get it before the commit: there the row is inserted again, and deleted.
fn log_row_by_row(connection: &Connection, table: &TableName, is_certain: bool) -> Result<()> {
    let Some(mut columns) = connection.table_columns(table)? else {
        return Ok(());
    };
    if hides_row_numbers(&columns) && !connection.changes().may_have_written(&table.table) {
        // None of its rows is new.
        return Ok(());
    }
    check_row_numbers(connection, table, &columns)?;
    let name = table.to_sql();
    let Some(row) = last_new_row(connection, &name)? else {
        return Ok(());
    };
    connection.mark_generated(table, &mut columns);
    let columns = columns.iter().filter(|column| !column.is_generated);
    let may_update = is_certain
        || is_among(table, &tables(connection, INDEXED_SQL)?)
        || is_among(table, &tables(connection, KEYED_SQL)?);
    if may_update {
        let values = unchanged(columns);
        connection.execute(&format!("UPDATE {name} SET {values} WHERE rowid = {row}"))?;
    } else {
        let columns = columns.map(|column| quote(column.field.name()));
        let columns = columns.collect::<Vec<_>>().join(", ");
        connection.execute(&format!(
            "INSERT INTO {name} ({columns}) SELECT {columns} FROM {name} WHERE rowid = {row};
             DELETE FROM {name} WHERE rowid = {row}"
        ))?;
    }
    Ok(())
}

/// Refuses a table in which DuckDB's own numbers of rows cannot be asked for.
fn check_row_numbers(
    connection: &Connection,
    table: &TableName,
    columns: &[ColumnShape],
) -> Result<()> {
    match hides_row_numbers(columns) {
        true => Err(Error::Unimplemented(format!(
            "table {} has a column called rowid, so DuckDB does not tell which of its rows are new: write fewer than {} of them in a \
             transaction, or give the column another name",
            table.to_sql(),
            connection.fewest_filed_rows()
        ))),
        false => Ok(()),
    }
}

/// Whether a column has the name by which DuckDB tells the numbers of rows.
pub(super) fn hides_row_numbers(columns: &[ColumnShape]) -> bool {
    let mut names = columns.iter().map(|column| column.field.name());
    names.any(|name| same_name(name, "rowid"))
}

/// What UPDATE sets these columns to, to leave them as they are.
fn unchanged<'c>(columns: impl Iterator<Item = &'c ColumnShape>) -> String {
    let names = columns.map(|column| quote(column.field.name()));
    let values = names.map(|name| format!("{name} = {name}"));
    values.collect::<Vec<_>>().join(", ")
}

/// The last of the transaction's new rows of a table, where some of them may be in the database file.
fn last_new_row(connection: &Connection, table: &str) -> Result<Option<String>> {
    let fewest = FIRST_NEW_ROW + connection.fewest_filed_rows() - 1;
    let sql = format!(
        "SELECT CAST(system.main.max(rowid) AS VARCHAR) AS last FROM {table} \
         WHERE rowid >= {fewest} HAVING last IS NOT NULL"
    );
    Ok(texts(connection, &sql)?.pop().map(|[row]| row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_makes_an_index_is_told_from_one_that_has_the_word() {
        for (sql, makes) in [
            ("CREATE INDEX i ON t (c)", true),
            ("create /* */ unique\nIndex IF NOT EXISTS i ON t (c)", true),
            ("SELECT 1; EXPLAIN ANALYZE CREATE INDEX i ON t (c)", true),
            ("SELECT \u{a0}e, index", true),
            ("CREATE TABLE t AS SELECT 1 AS \"index\"", false),
            ("EXPLAIN ANALYZE SELECT sum(\"index\") FROM index", false),
            ("DROP INDEX i", true),
            ("CREATE TABLE t (c VARCHAR) -- create index", false),
        ] {
            assert_eq!(may_make_index(sql), makes, "{sql}");
        }
    }
}
