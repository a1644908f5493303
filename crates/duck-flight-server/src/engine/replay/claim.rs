//! Tables that nobody else alters until the end of a transaction.
//!
//! Where an ALTER finds that another transaction has altered the table since, DuckDB 1.5.5 has already put a new storage in the place of
//! the table's (`CatalogSet::AlterEntry`, and the constructors of `DataTable` that say ALTERED), and does not take that back. What
//! the other one commits may keep that storage, as a comment, a default or another name of a column does: then nobody can
//! write to the table any more until the next start.
//!
//! So a table is claimed before it is altered, by the comment that it has: that fails before anything is touched, and DuckDB
//! allows it whatever depends on the table. One that is given another name is claimed by a [rename](super::rename) to the name
//! that it has.

use duck_flight_protocol::{TableName, quote};

use super::named::tables_sql;
use super::rename::renamed;
use crate::engine::catalog::{literal, texts};
use crate::engine::ffi::Connection;
use crate::engine::ingest::unit::TEMPORARY;
use crate::engine::sql::admission::run_by;
use crate::engine::sql::tokens::contains_word;
use crate::error::{Error, Result};

const UNREADABLE: &str = "a table is renamed by ALTER TABLE name RENAME TO name alone, with names in double quotes where they are not ASCII: the \
     server must know which one";

/// What a table is claimed by.
const CLAIMED_COLUMNS: &str = "database_name, schema_name, table_name, coalesce(comment, ''), CAST(comment IS NULL AS VARCHAR)";

/// Claims a table in the open transaction.
///
/// # Errors
/// Where another transaction has altered it.
pub(in crate::engine) fn claim(connection: &Connection, table: &TableName) -> Result<()> {
    claim_name(connection, &table.path())
}

/// Claims the table that a statement alters, if it alters one. Where it is in doubt which one, none is claimed.
pub(in crate::engine) fn claim_altered(connection: &Connection, statement: &str) -> Result<()> {
    match altered(statement) {
        Some(name) => claim_name(connection, &name),
        None => Ok(()),
    }
}

/// Claims the table that a statement renames.
///
/// # Errors
/// Where another transaction has altered it, or it is not certain which table it is.
pub(in crate::engine) fn claim_renamed(
    connection: &Connection,
    statement: Option<&str>,
) -> Result<()> {
    let parts = statement.and_then(renamed);
    let parts = parts.ok_or(Error::Forbidden(UNREADABLE))?;
    let own = parts.last().map_or("", String::as_str);
    let name = parts.join(".");
    let claim = format!("ALTER TABLE IF EXISTS {name} RENAME TO {own}");
    Ok(connection.execute(&claim)?)
}

/// Claims the table that DuckDB finds by a name with its qualifiers. Nobody else has a temporary one.
fn claim_name(connection: &Connection, name: &[String]) -> Result<()> {
    let Some(sql) = tables_sql(CLAIMED_COLUMNS, name) else {
        return Ok(());
    };
    let found = texts(connection, &sql)?.into_iter().next();
    let Some([database, schema, table, comment, has_none]) = found else {
        return Ok(());
    };
    if database == TEMPORARY {
        return Ok(());
    }
    let comment = match &*has_none {
        "true" => "NULL".to_owned(),
        _ => literal(&comment),
    };
    let name = [database, schema, table].map(|part| quote(&part)).join(".");
    Ok(connection.execute(&format!("COMMENT ON TABLE {name} IS {comment}"))?)
}

/// The name of the table that a statement alters, or that one alters which it explains and runs.
pub(in crate::engine) fn altered(statement: &str) -> Option<Vec<String>> {
    let mut rest = run_by(statement)?;
    if !rest.accept_all(&["alter", "table"]) {
        return None;
    }
    rest.altered_table()
}

/// Whether an ALTER may give a column another type. In doubt it may where the word stands in it.
pub(in crate::engine) fn may_change_type(statement: &str) -> bool {
    let does_not = run_by(statement).is_some_and(|mut rest| {
        rest.accept_all(&["alter", "table"])
            && rest.altered_table().is_some()
            && rest.accept(&["add", "drop", "rename"])
    });
    !does_not && contains_word(statement, "type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alter_that_changes_a_type_is_told_from_one_that_has_the_word() {
        for (sql, may) in [
            ("ALTER TABLE t ALTER i TYPE BIGINT", true),
            (
                "alter table if exists s.t alter column i set data type bigint",
                true,
            ),
            (
                "ALTER TABLE ONLY (t) ALTER \"a b\" TYPE VARCHAR USING i || 'x'",
                true,
            ),
            ("ALTER TABLE größe ALTER länge TYPE BIGINT", true),
            ("EXPLAIN ANALYZE ALTER TABLE t ALTER i TYPE BIGINT", true),
            ("ALTER TABLE add ALTER type TYPE BIGINT", true),
            ("ALTER TABLE t ADD COLUMN type VARCHAR", false),
            ("ALTER TABLE \"a t\" RENAME kind TO type", false),
            ("ALTER TABLE t DROP type", false),
            ("ALTER TABLE t ALTER i SET DEFAULT 1", false),
        ] {
            assert_eq!(may_change_type(sql), may, "{sql}");
        }
    }

    #[test]
    fn the_table_that_a_statement_alters_is_found() {
        for (sql, name) in [
            ("ALTER TABLE t ADD COLUMN i INTEGER", Some(&["t"][..])),
            (
                "alter table IF EXISTS s.\"T x\" drop i",
                Some(&["s", "T x"]),
            ),
            ("ALTER TABLE ONLY t DROP i", Some(&["t"])),
            ("ALTER TABLE ONLY (db.s.t) DROP i", Some(&["db", "s", "t"])),
            ("ALTER TABLE if DROP i", Some(&["if"])),
            (
                "ALTER TABLE größe ADD PRIMARY KEY (länge)",
                Some(&["größe"]),
            ),
            ("EXPLAIN ANALYZE ALTER TABLE t DROP i", Some(&["t"])),
            ("EXPLAIN ALTER TABLE t DROP i", None),
            ("ALTER VIEW v RENAME TO w", None),
            ("COMMENT ON TABLE t IS 'alter table t'", None),
            ("ALTER TABLE 🦆 DROP i", None),
        ] {
            let found = altered(sql);
            let found: Option<Vec<_>> = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), name, "{sql}");
        }
    }
}
