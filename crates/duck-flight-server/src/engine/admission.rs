//! What a client may run: DuckDB takes SQL for trusted input, so this boundary is ours.

use super::ffi::StatementKind;
use super::producers::OWN_SCHEMA;
use super::tokens::{Token, count_pairs, skip_space, tokens};
use crate::error::{Error, Result};

/// Functions that change all clients at once, or run SQL that nobody has seen.
///
/// `enable_logging` needs no right and no setting: it switches logging on for everybody, prints on the
/// server's output, and with a storage it cannot write it makes the next statements fail and the process end.
/// DuckDB can neither drop a built-in function nor let another one stand in for it.
const REFUSED_FUNCTIONS: &[&str] = &[
    "enable_logging",
    "disable_logging",
    "truncate_duckdb_logs",
    "query",
    "json_execute_serialized_sql",
];

/// How often comments behind the name of a refused function are skipped in a script. Comments nest: without a bound, each
/// of many names could be followed by the whole rest of the script.
const MAX_COMMENT_SKIPS: usize = 16;

/// The function that leaves a query's connection with a seed of its own.
const SET_SEED: &str = "setseed";

/// Why the server's own tables are left alone.
pub(super) const OWN_TABLES: &str = "the schema duck_flight is the server's own: its tables can be read, and rows of duck_flight.rejects deleted";

/// Why no database gets another name.
const RENAMES: &str = "ALTER DATABASE would rename it for every client";

/// Refuses what one client must not do to all others: by the statement's kind, as DuckDB parsed it, and by the
/// functions the script calls. Answers whether the statement may leave something behind in the session.
pub(super) fn admit(kind: StatementKind, sql: &str) -> Result<bool> {
    let sql = sql.to_ascii_lowercase();
    if calls_refused_function(&sql) {
        return Err(Error::Forbidden(
            "logging belongs to the server, and query() and its like would run statements unseen",
        ));
    }
    if kind != StatementKind::Select && changes_own_tables(&sql) {
        return Err(Error::Forbidden(OWN_TABLES));
    }
    let mut skips_left = MAX_COMMENT_SKIPS;
    let sets_seed = calls(&sql, SET_SEED, &mut skips_left);
    match kind {
        StatementKind::Select | StatementKind::Rows => Ok(sets_seed),
        // EXPLAIN ANALYZE runs its statement, and its kind does not tell which.
        StatementKind::Explain if renames_database(&sql) => Err(Error::Forbidden(RENAMES)),
        StatementKind::Explain if !sql.contains("copy") => Ok(sets_seed),
        StatementKind::Explain | StatementKind::Copy => Err(Error::Forbidden(
            "COPY and EXPORT reach files of the server; send rows with a put",
        )),
        StatementKind::Attach => Err(Error::Forbidden(
            "ATTACH and DETACH would change every client's databases",
        )),
        StatementKind::Alteration if renames_database(&sql) => Err(Error::Forbidden(RENAMES)),
        StatementKind::Definition | StatementKind::Alteration if sets_seed => {
            Err(Error::Forbidden(
                "a definition that calls setseed() would set the seed of clients that do not know; call it in a query",
            ))
        }
        StatementKind::Definition
        | StatementKind::Alteration
        | StatementKind::Transaction
        | StatementKind::Other => Ok(true),
        StatementKind::Pragma => Err(Error::Forbidden(
            "this PRAGMA changes the server or writes on it; use SET for settings of the session",
        )),
        // The scope of SET cannot be asked for, so a script with SET must not hold the word at all.
        StatementKind::Set if sql.contains("global") => Err(Error::Forbidden(
            "SET GLOBAL would change every client's results; use SET SESSION",
        )),
        StatementKind::Set if sql.contains("progress_bar") => Err(Error::Forbidden(
            "the progress bar would be printed on the server; poll for a query to see how far it is",
        )),
        StatementKind::Set => Ok(true),
    }
}

/// Whether a script, in lower case, may change the server's own schema or tables: whether one of them stands where a
/// statement names what it changes.
fn changes_own_tables(sql: &str) -> bool {
    let Some(words) = words(sql) else {
        return sql.contains(OWN_SCHEMA);
    };
    words.iter().enumerate().any(|(at, word)| {
        if *word != OWN_SCHEMA {
            return false;
        }
        let is_qualified = words.get(at + 1) == Some(&".");
        // The name may begin with the catalog.
        let catalog = at >= 2 && words[at - 1] == ".";
        let before = &words[..if catalog { at - 2 } else { at }];
        match before {
            // The schema itself, not a catalog of the same name.
            [.., "schema"] | [.., "schema", "exists"] | [.., "schema", _, "exists"] => true,
            [.., "delete", "from"] => words.get(at + 2) != Some(&"rejects"),
            [
                ..,
                "into" | "update" | "table" | "view" | "truncate" | "exists" | "on",
            ] => is_qualified && is_own_table(&words[at + 2..]),
            _ => false,
        }
    })
}

/// Whether a name goes on as one of our tables, rather than as a schema of a catalog that is called as our schema.
fn is_own_table(rest: &[&str]) -> bool {
    match rest {
        [schema, ".", ..] => *schema == OWN_SCHEMA,
        _ => true,
    }
}

/// The words and dots of a script. `None` where it may be read in two ways.
fn words(sql: &str) -> Option<Vec<&str>> {
    let mut words = Vec::new();
    for token in tokens(sql) {
        match token {
            // A name may be written as a text where DuckDB expects nothing else.
            Token::Word(word) | Token::Text(word) | Token::Digits(word) => words.push(word),
            Token::Symbol('.') => words.push("."),
            Token::Symbol(_) => {}
            Token::Doubt => return None,
        }
    }
    Some(words)
}

/// Whether the script, in lower case, may call a refused function.
///
/// DuckDB tells nobody which functions a statement calls. But with the functions gone that run text as SQL, a
/// function can only be called by its name, and behind a name only a quote, white space and comments can
/// stand before the parenthesis. This finds every such place, those inside of texts and comments included.
fn calls_refused_function(sql: &str) -> bool {
    // An identifier spelled with Unicode escapes could be any name.
    if sql.contains("u&\"") {
        return true;
    }
    let mut skips_left = MAX_COMMENT_SKIPS;
    REFUSED_FUNCTIONS
        .iter()
        .any(|name| calls(sql, name, &mut skips_left))
}

/// Whether the script, in lower case, may call this function.
fn calls(sql: &str, name: &str, skips_left: &mut usize) -> bool {
    sql.match_indices(name).any(|(start, _)| {
        let before = sql[..start].chars().next_back();
        let is_whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        is_whole && opens_call(&sql[start + name.len()..], skips_left)
    })
}

/// Whether a parenthesis comes next, after a quote, white space and comments; also once too many were skipped.
fn opens_call(rest: &str, skips_left: &mut usize) -> bool {
    // DuckDB takes some characters for white space that are none to Unicode.
    let is_space = |c: char| c == ' ' || c.is_control() || !c.is_ascii() && !c.is_alphanumeric();
    let mut rest = rest.strip_prefix('"').unwrap_or(rest);
    loop {
        rest = rest.trim_start_matches(is_space);
        let after = skip_space(rest);
        if after.len() == rest.len() {
            return rest.starts_with('(');
        }
        let Some(left) = skips_left.checked_sub(1) else {
            return true;
        };
        (*skips_left, rest) = (left, after);
    }
}

/// Whether a script may give a database another name.
fn renames_database(sql: &str) -> bool {
    count_pairs(sql, "alter", "database").is_none_or(|(_, pairs)| pairs > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(sql: &str) -> bool {
        admit(StatementKind::Select, sql).is_err()
    }

    #[test]
    fn a_refused_function_is_found_however_its_call_is_written() {
        for sql in [
            "CALL enable_logging()",
            "from Enable_Logging ('QueryLog')",
            "FROM system.main.\"enable_logging\"(storage = 'stdout')",
            "FROM enable_logging/* a /* b */ c */ -- d\n ()",
            "FROM query('FROM enable_' || 'logging()')",
            "SELECT '--', * FROM \"query\"\t('x')",
            "FROM U&\"\\0065nable_logging\"()",
            "CREATE VIEW v AS FROM json_execute_serialized_sql('{}')",
            "FROM query\u{a0}\u{200b}-- a\n\u{feff}('x')",
        ] {
            assert!(is_refused(sql), "{sql}");
        }
    }

    #[test]
    fn many_names_in_nested_comments_are_refused_without_a_look_at_each() {
        let depth = 1 << 17;
        let sql = format!("SELECT 1 {}{}", "/*query".repeat(depth), "*/".repeat(depth));
        assert!(is_refused(&sql));
    }

    #[test]
    fn names_that_only_look_like_a_refused_function_are_let_through() {
        for sql in [
            "SELECT query, count(*) FROM log GROUP BY query",
            "SELECT my_query(1)",
            "SELECT \"query\" FROM t WHERE query IN ('a')",
            "SELECT query_id(1), \"a query\" FROM t",
        ] {
            assert!(!is_refused(sql), "{sql}");
        }
    }

    #[test]
    fn the_servers_own_tables_are_left_alone_however_they_are_named() {
        for sql in [
            "DROP SCHEMA duck_flight CASCADE",
            "drop schema if exists db.\"duck_flight\"",
            "DELETE FROM duck_flight.sequences",
            "DELETE /* x */ FROM -- y\n \"Duck_Flight\" . sequences",
            "INSERT INTO db.duck_flight.sequences VALUES (1)",
            "INSERT INTO duck_flight.duck_flight.sequences VALUES (1)",
            "UPDATE duck_flight.sequences SET sequence = 0",
            "TRUNCATE duck_flight.rejects",
            "CREATE OR REPLACE VIEW duck_flight.producers AS SELECT 1",
            "DROP TABLE IF EXISTS duck_flight.rejects",
            "ALTER TABLE duck_flight.rejects DROP data",
            "MERGE INTO duck_flight.rejects USING t ON true WHEN MATCHED THEN DELETE",
            "PREPARE p AS DELETE FROM duck_flight.sequences",
            // What stands in a literal hides nothing behind it.
            "SELECT '--', '\"', '/*'; DELETE FROM duck_flight.sequences",
            "SELECT $$ ' $$; DELETE FROM duck_flight.sequences",
            "SELECT e'\\''; DELETE FROM duck_flight.sequences -- '",
            // In doubt, the name is enough.
            "DELETE FROM\u{a0}duck_flight.sequences",
            "éDELETE FROM duck_flight.sequences",
            "DROP SCHEMA duck_flighté; é",
        ] {
            assert!(admit(StatementKind::Other, sql).is_err(), "{sql}");
        }
        for sql in [
            "DELETE FROM duck_flight.rejects WHERE row = 1",
            "CREATE VIEW v AS SELECT * FROM duck_flight.producers",
            "INSERT INTO seen SELECT * FROM duck_flight.rejects",
            // A catalog of that name, as the default database's is.
            "INSERT INTO duck_flight.main.t VALUES (1)",
            "DROP TABLE IF EXISTS duck_flight.main.t",
            "CREATE TABLE duck_flight_log (i INTEGER)",
            "INSERT INTO t VALUES ('duck_flight.sequences')",
            "INSERT INTO t VALUES ('DELETE FROM duck_flight.sequences') -- UPDATE duck_flight.sequences",
        ] {
            assert!(admit(StatementKind::Rows, sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn an_unfinished_comment_ends_with_the_script() {
        assert!(!is_refused("SELECT query /* ("));
        assert!(!is_refused("SELECT query --"));
        assert!(!is_refused("SELECT query /*é"));
    }
}
