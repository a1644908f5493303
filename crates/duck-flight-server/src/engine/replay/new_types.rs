//! Types that the next start can replay.
//!
//! DuckDB 1.5.5 reads a log once to look for a checkpoint in it, before it replays it. Nothing is made of its entries then but
//! types (`ReplayCreateType`). One of a schema that the same log makes finds no schema there, and the database cannot be opened
//! any more.

use std::fs::File;
use std::path::Path;

use crate::engine::catalog::texts;
use crate::engine::ffi::{Connection, StatementKind};
use crate::engine::sql::tokens::{Token, Tokens, contains_word, single_statements, tokens};
use crate::engine::storage::log_entries::{CREATE_SCHEMA, Entries, Header, start};
use crate::engine::storage::mark;
use crate::error::{Error, Result};

/// The schema that DuckDB finds in each database.
const MAIN: &str = "main";

const PATHS_SQL: &str = "
    SELECT path FROM system.main.duckdb_databases() WHERE NOT internal AND path IS NOT NULL";
const SCHEMA_SQL: &str = "SELECT system.main.current_schema()";

/// Refuses to make a type in a schema that the log also makes, or that the open transaction may have made.
pub(in crate::engine) fn check(
    connection: &Connection,
    kind: StatementKind,
    sql: &str,
    makes_schema: bool,
) -> Result<()> {
    let defines = matches!(kind, StatementKind::Definition | StatementKind::Explain);
    if !defines || !contains_word(sql, "type") || !may_be_elsewhere(connection, sql)? {
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

/// Whether a script makes a type in another schema than `main`, or may do so.
fn may_be_elsewhere(connection: &Connection, sql: &str) -> Result<bool> {
    let Some(parts) = single_statements(sql) else {
        return Ok(true);
    };
    let schemas: Vec<_> = parts.into_iter().filter_map(schema).collect();
    if schemas.contains(&Schema::Current) {
        let current = texts::<1>(connection, SCHEMA_SQL)?;
        if current != [[MAIN.to_owned()]] {
            return Ok(true);
        }
    }
    Ok(schemas.contains(&Schema::Other))
}

/// In which schema a statement makes a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    Main,
    Current,
    Other,
}

/// The schema in which a statement makes a type, if it makes one that is not temporary.
fn schema(statement: &str) -> Option<Schema> {
    let mut statement = tokens(statement);
    if statement.accept(&["explain"]) {
        // Its options do not matter.
        let create = |token: &Token<'_>| token.is("create") || *token == Token::Doubt;
        match statement.find(create)? {
            Token::Doubt => return Some(Schema::Other),
            _ => return schema_behind_create(statement),
        }
    }
    match statement.next()? {
        Token::Doubt => Some(Schema::Other),
        first => first
            .is("create")
            .then(|| schema_behind_create(statement))?,
    }
}

fn schema_behind_create(mut rest: Tokens<'_>) -> Option<Schema> {
    while rest.accept(&["or", "replace"]) {}
    if !rest.accept(&["type"]) {
        return None;
    }
    rest.accept_all(&["if", "not", "exists"]);
    let mut schema = Schema::Current;
    let mut name = rest.next();
    while rest.accept_symbol('.') {
        let is_main = |name: &str| name.eq_ignore_ascii_case(MAIN);
        schema = match name.and_then(Token::name).is_some_and(is_main) {
            true => Schema::Main,
            false => Schema::Other,
        };
        name = rest.next();
    }
    match name {
        // The name may go on.
        _ if rest.peek() == Some(Token::Doubt) => Some(Schema::Other),
        Some(Token::Word(_) | Token::Name(_)) => Some(schema),
        _ => Some(Schema::Other),
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

    #[test]
    fn a_statement_says_in_which_schema_it_makes_a_type() {
        for (sql, expected) in [
            ("CREATE TYPE t AS ENUM ('a')", Some(Schema::Current)),
            (
                "create or replace type if not exists \"t\" as integer",
                Some(Schema::Current),
            ),
            ("CREATE TYPE main.t AS INTEGER", Some(Schema::Main)),
            ("CREATE TYPE db.\"Main\".t AS INTEGER", Some(Schema::Main)),
            ("CREATE TYPE s.t AS INTEGER", Some(Schema::Other)),
            (
                "EXPLAIN (ANALYZE) CREATE TYPE s.t AS INTEGER",
                Some(Schema::Other),
            ),
            ("CREATE TEMP TYPE s.t AS INTEGER", None),
            ("CREATE TABLE s.type (type INTEGER)", None),
            ("EXPLAIN SELECT type FROM t", None),
            ("SELECT 'CREATE TYPE s.t AS INTEGER'", None),
            // In doubt.
            ("CREATE TYPE größe AS INTEGER", Some(Schema::Other)),
            ("éCREATE TYPE t AS INTEGER", Some(Schema::Other)),
            ("CREATE TABLE t (type INTEGER, größe INTEGER)", None),
        ] {
            assert_eq!(schema(sql), expected, "{sql}");
        }
    }
}
