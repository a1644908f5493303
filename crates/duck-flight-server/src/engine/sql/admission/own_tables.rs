//! The server's own tables: which statements would change them.

use super::super::tokens::{MAX_NAME_PARTS, Token, Tokens, is_certain, statements};
use super::explained::{Explained, explained};
use crate::engine::ingest::producers::OWN_SCHEMA;

/// The one whose rows may be deleted.
const REJECTS: &str = "rejects";

/// What may stand between CREATE, DROP or COMMENT and the kind of thing it is about.
const BEFORE_KIND: &[&str] = &[
    "on",
    "or",
    "recursive",
    "replace",
    "temp",
    "temporary",
    "unique",
    "unlogged",
];

/// Whether a script changes the server's own schema or tables, or may do so: whether one of them stands where a statement
/// names what it changes.
pub(super) fn may_be_changed(sql: &str) -> bool {
    if !is_certain(sql) {
        return names_own_schema(&sql.to_ascii_lowercase());
    }
    statements(sql).any(|statement| {
        let statement = match explained(statement.clone()) {
            Some(Explained { statement, .. }) => statement,
            None => statement,
        };
        is_definition(statement.clone()) || changes_rows(statement)
    })
}

/// Whether the name of our schema stands anywhere in a script, in lower case, but in a longer name.
fn names_own_schema(sql: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    sql.match_indices(OWN_SCHEMA)
        .any(|(start, name)| !goes_on(&sql[start + name.len()..]))
}

/// Whether a statement defines, alters or comments on something of ours: whether that stands before its first
/// parenthesis, AS or IS.
fn is_definition(mut statement: Tokens<'_>) -> bool {
    if !statement.accept(&["alter", "comment", "create", "drop"]) {
        return false;
    }
    while statement.accept(BEFORE_KIND) {}
    let kind = statement.peek();
    let is_a = |name| kind.is_some_and(|kind| kind.is(name));
    let is_own = |name: &[&str]| match name {
        [.., schema] if is_a("schema") => is_own_schema(schema),
        [table @ .., _] if is_a("column") => is_own_table(table),
        _ => is_own_table(name),
    };
    let (mut name, mut last) = (Vec::new(), Token::Symbol(';'));
    for token in statement.until_end() {
        let is_qualified = last == Token::Symbol('.');
        let was_text = matches!(last, Token::Text(_));
        let was_only = last.is("only");
        last = token;
        match token {
            Token::Symbol('.') => continue,
            Token::Symbol('(') if was_only || is_a("column") => continue,
            Token::Symbol('(') => break,
            _ if token.is_any(&["as", "is"]) && !is_qualified => break,
            // A schema's name may be a text, which escapes and continuations write otherwise.
            Token::Escaped(_) if is_a("schema") => return true,
            Token::Text(_) if is_a("schema") && was_text => return true,
            _ => {}
        }
        if !is_qualified {
            if is_own(&name) {
                return true;
            }
            name.clear();
        }
        match token {
            Token::Word(part) | Token::Name(part) | Token::Text(part) => name.push(part),
            _ => name.clear(),
        }
    }
    is_own(&name)
}

/// Whether a statement changes rows of a table of ours.
fn changes_rows(statement: Tokens<'_>) -> bool {
    let mut rest = statement;
    while let Some(token) = rest.next().filter(|token| *token != Token::Symbol(';')) {
        let deletes = token.is("delete") && rest.accept(&["from"]);
        if deletes || token.is_any(&["into", "truncate", "update"]) {
            let name = target(rest.clone());
            let may_delete = deletes && name.last().is_some_and(|name| is_named(name, REJECTS));
            if is_own_table(&name) && !may_delete {
                return true;
            }
        }
    }
    false
}

/// The name, part by part, of what a statement changes that goes on like this. Only as many parts as it may have: each of them
/// may be a word that a name follows.
fn target(mut rest: Tokens<'_>) -> Vec<&str> {
    rest.accept(&["table"]);
    if rest.accept(&["only"]) && rest.peek() == Some(Token::Symbol('(')) {
        rest.next();
    }
    let mut name = Vec::new();
    while name.len() < MAX_NAME_PARTS
        && let Some(part) = rest.next().and_then(Token::name)
    {
        name.push(part);
        if rest.next() != Some(Token::Symbol('.')) {
            break;
        }
    }
    name
}

/// Whether a name is one of a table in our schema, with its catalog or without. In doubt whether the first of two parts is
/// a schema or a catalog, it is.
fn is_own_table(name: &[&str]) -> bool {
    match name {
        [schema, _] | [_, schema, _, ..] => is_own_schema(schema),
        _ => false,
    }
}

fn is_own_schema(name: &str) -> bool {
    is_named(name, OWN_SCHEMA)
}

fn is_named(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_left_alone_however_they_are_named() {
        for sql in [
            "DROP SCHEMA duck_flight CASCADE",
            "drop schema if exists db.\"duck_flight\"",
            "CREATE OR REPLACE SCHEMA e'duck\\x5fflight'",
            "CREATE SCHEMA 'duck_'\n'flight'",
            "CREATE SCHEMA IF NOT EXISTS 'duck_flight'",
            "DELETE FROM duck_flight.sequences",
            "DELETE /* x */ FROM -- y\n \"Duck_Flight\" . sequences",
            "INSERT INTO db.duck_flight.sequences VALUES (1)",
            "INSERT OR REPLACE INTO duck_flight.sequences VALUES (1)",
            "INSERT INTO duck_flight.duck_flight.sequences VALUES (1)",
            "UPDATE duck_flight.sequences SET sequence = 0",
            "TRUNCATE duck_flight.rejects",
            "TRUNCATE TABLE ONLY duck_flight.rejects",
            "CREATE OR REPLACE VIEW duck_flight.producers AS SELECT 1",
            "CREATE TEMP TABLE duck_flight.t (i INTEGER)",
            "CREATE RECURSIVE VIEW duck_flight.v (i) AS SELECT 1",
            "CREATE TABLE IF NOT EXISTS duck_flight.t AS SELECT 1",
            "CREATE SEQUENCE duck_flight.s",
            "CREATE TYPE duck_flight.e AS ENUM ('a')",
            "CREATE MACRO duck_flight.m() AS 1",
            "CREATE UNIQUE INDEX i ON duck_flight.rejects (row)",
            "DROP TABLE IF EXISTS duck_flight.rejects",
            "DROP FUNCTION duck_flight.m",
            "ALTER TABLE duck_flight.rejects DROP data",
            "ALTER TABLE IF EXISTS ONLY duck_flight.rejects ADD COLUMN i INTEGER",
            "ALTER TABLE ONLY (duck_flight.rejects) ADD COLUMN i INTEGER",
            "COMMENT ON TABLE duck_flight.rejects IS 'x'",
            "COMMENT ON COLUMN duck_flight.rejects.row IS 'x'",
            "COMMENT ON COLUMN db.duck_flight.rejects.row IS 'x'",
            "COMMENT ON COLUMN (duck_flight.sequences.producer) IS 'x'",
            "COMMENT ON COLUMN ((db.duck_flight.rejects.row)) IS 'x'",
            "MERGE INTO duck_flight.rejects USING t ON true WHEN MATCHED THEN DELETE",
            "MERGE INTO ONLY duck_flight.rejects USING t ON true WHEN MATCHED THEN DELETE",
            "DELETE FROM ONLY duck_flight.sequences",
            "DELETE FROM ONLY ( duck_flight . sequences )",
            "UPDATE ONLY duck_flight.sequences SET sequence = 0",
            "WITH insert AS (SELECT 1) DELETE FROM duck_flight.sequences",
            "PREPARE p AS DELETE FROM duck_flight.sequences",
            "EXPLAIN ANALYZE DROP TABLE duck_flight.sequences",
            "EXPLAIN (ANALYZE, FORMAT json) DELETE FROM ONLY duck_flight.sequences",
            // What stands in a literal hides nothing behind it.
            "SELECT '--', '\"', '/*'; DELETE FROM duck_flight.sequences",
            "SELECT $$ ' $$; DELETE FROM duck_flight.sequences",
            "SELECT e'\\''; DELETE FROM duck_flight.sequences -- '",
            // In doubt, the name is enough.
            "DELETE FROM\u{a0}duck_flight.sequences",
            ";\u{a0}DELETE FROM duck_flight.sequences",
            "DROP SCHEMA duck_flighté; é",
        ] {
            assert!(may_be_changed(sql), "{sql}");
        }
    }

    #[test]
    fn what_reads_them_and_what_is_called_alike_is_let_through() {
        for sql in [
            "DELETE FROM duck_flight.rejects WHERE row = 1",
            "DELETE FROM ONLY db.duck_flight.rejects",
            "CREATE VIEW v AS SELECT * FROM duck_flight.producers",
            "CREATE TABLE t AS FROM duck_flight.rejects",
            "INSERT INTO seen SELECT * FROM duck_flight.rejects",
            "INSERT INTO log FROM t JOIN duck_flight.producers ON duck_flight.producers.producer = t.p",
            "DELETE FROM t WHERE p IN (SELECT producer FROM duck_flight.producers)",
            "MERGE INTO t USING duck_flight.rejects ON true WHEN MATCHED THEN DELETE",
            // A catalog of that name, and a table.
            "INSERT INTO duck_flight.main.t VALUES (1)",
            "DELETE FROM duck_flight.main.t",
            "TRUNCATE duck_flight.main.t",
            "DROP TABLE IF EXISTS duck_flight.main.t",
            "ALTER TABLE duck_flight.main.t ADD COLUMN i INTEGER",
            "CREATE SCHEMA duck_flight.s",
            "DELETE FROM duck_flight",
            "COMMENT ON COLUMN duck_flight.i IS 'x'",
            "COMMENT ON COLUMN duck_flight.main.t.i IS 'x'",
            "CREATE TABLE duck_flight_log (i INTEGER)",
            "INSERT INTO t VALUES ('duck_flight.sequences')",
            "INSERT INTO t VALUES ('DELETE FROM duck_flight.sequences') -- UPDATE duck_flight.sequences",
            "COMMENT ON TABLE t IS 'duck_flight.sequences'",
            "COMMENT ON COLUMN (main.t.i) IS 'duck_flight.sequences'",
            "INSERT INTO duck_flight_db.main.t SELECT 1 AS größe",
        ] {
            assert!(!may_be_changed(sql), "{sql}");
        }
    }
}
