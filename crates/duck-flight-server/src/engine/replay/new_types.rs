//! Types that the next start can replay.
//!
//! DuckDB 1.5.5 reads a log once to look for a checkpoint in it, before it replays it. Nothing is made of its entries then but
//! types (`ReplayCreateType`). One of a schema that the same log makes finds no schema there, and the database cannot be opened
//! any more.

use std::fs::File;
use std::path::Path;

use super::named::MAIN;
use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::sql::deed::{Asked, Deed, What};
use crate::engine::storage::log_entries::{CREATE_SCHEMA, Entries, Header, start};
use crate::engine::storage::mark;
use crate::error::{Error, Result};

const PATHS_SQL: &str = "
    SELECT path FROM system.main.duckdb_databases() WHERE NOT internal AND path IS NOT NULL";
const SCHEMA_SQL: &str = "SELECT system.main.current_schema()";

/// Refuses to make a type in a schema that the log also makes, or that the open transaction may have made.
pub(in crate::engine) fn check(
    connection: &Connection,
    asked: Asked<'_>,
    makes_schema: bool,
) -> Result<()> {
    if !may_be_elsewhere(connection, asked)? {
        return Ok(());
    }
    match makes_schema || logs_make_schemas(connection)? {
        true => Err(Error::Unimplemented(
            "DuckDB 1.5.5 cannot replay a type of a schema that the same log makes: run CHECKPOINT before it and outside of a \
             transaction, or make the type in the schema main"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Whether a statement makes a type in another schema than `main`, or may do so.
fn may_be_elsewhere(connection: &Connection, asked: Asked<'_>) -> Result<bool> {
    match schema(asked) {
        None | Some(Schema::Main) => Ok(false),
        Some(Schema::Other) => Ok(true),
        Some(Schema::Current) => {
            let current = texts::<1>(connection, SCHEMA_SQL)?;
            Ok(current != [[MAIN.to_owned()]])
        }
    }
}

/// In which schema a statement makes a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    Main,
    Current,
    Other,
}

/// The schema in which a statement makes a type, if it makes one that is not temporary.
fn schema(asked: Asked<'_>) -> Option<Schema> {
    match asked.deed {
        Deed::Creates {
            what: What::Type,
            name,
            is_temporary: false,
            ..
        } => Some(match name.as_deref() {
            Some([_]) => Schema::Current,
            Some([.., schema, _]) if schema.eq_ignore_ascii_case(MAIN) => Schema::Main,
            _ => Schema::Other,
        }),
        Deed::Doubt if asked.may_define() && asked.says("type") => Some(Schema::Other),
        _ => None,
    }
}

/// Whether a log has an entry that makes a schema, or that cannot be told apart from one.
fn logs_make_schemas(connection: &Connection) -> Result<bool> {
    for [path] in texts(connection, PATHS_SQL)? {
        for log in mark::logs(Path::new(&path)) {
            let log = match File::open(log) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                log => log.map_err(|source| Error::Io {
                    doing: "read the write-ahead log",
                    source,
                })?,
            };
            let makes_schema = |kind: Option<u8>| kind.is_none_or(|kind| kind == CREATE_SCHEMA);
            let entries = Entries::of(&log);
            let mut kinds = entries
                .from(Header::read(&start(&log)).end)
                .map(|entry| entry.kind);
            if kinds.any(makes_schema) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::StatementKind;

    #[test]
    fn a_statement_says_in_which_schema_it_makes_a_type() {
        for (sql, expected) in [
            ("CREATE TYPE t AS ENUM ('a')", Some(Schema::Current)),
            (
                "create or replace type if not exists \"t\" as integer",
                Some(Schema::Current),
            ),
            ("CREATE TYPE größe AS INTEGER", Some(Schema::Current)),
            ("CREATE TYPE main.t AS INTEGER", Some(Schema::Main)),
            ("CREATE TYPE db.\"Main\".t AS INTEGER", Some(Schema::Main)),
            ("; CREATE TYPE s.t AS INTEGER", Some(Schema::Other)),
            (
                "CREATE UNLOGGED TYPE s.t AS ENUM ('a')",
                Some(Schema::Other),
            ),
            (
                "EXPLAIN (ANALYZE) CREATE TYPE s.t AS INTEGER",
                Some(Schema::Other),
            ),
            ("CREATE TEMP TYPE s.t AS INTEGER", None),
            ("CREATE TABLE s.type (type INTEGER)", None),
            ("EXPLAIN SELECT type FROM t", None),
            ("SELECT 'CREATE TYPE s.t AS INTEGER'", None),
            // In doubt.
            ("CREATE TYPE t\u{a0}u AS INTEGER", Some(Schema::Other)),
            (";\u{a0}CREATE TYPE t AS INTEGER", Some(Schema::Other)),
            ("CREATE\u{a0}TYPE t AS INTEGER", Some(Schema::Other)),
            ("CREATE TABLE t (type INTEGER, größe INTEGER)", None),
        ] {
            let asked = Asked {
                kind: StatementKind::Definition,
                deed: &Deed::of(sql),
                script: sql,
            };
            assert_eq!(schema(asked), expected, "{sql}");
        }
    }
}
