//! The functions that a script calls.
//!
//! DuckDB tells nobody which functions a statement calls. But with the functions gone that run text as SQL, a function can
//! only be called by its name, with a parenthesis behind it. DuckDB can neither drop a built-in function nor let another one
//! stand in for it.

use crate::engine::tokens::{Token, Tokens, skip_space, tokens};

/// They need no right and no setting: logging is switched for everybody, prints on the server's output, and with a storage
/// it cannot write it makes the next statements fail and the process end.
const LOGGING: &str = "enable_logging(), disable_logging() and truncate_duckdb_logs() are refused: they would switch the logging of the server, \
     which is every client's";
const UNSEEN: &str = "query() and json_execute_serialized_sql() are refused: they would run statements unseen; send the statement itself";
/// The next statements on the connection fail, whoever sends them.
const PROFILING: &str = "enable_profiling() and disable_profiling() are refused: they would change the connection, which other clients use \
     as well; use EXPLAIN ANALYZE";
const PARSER: &str = "enable_peg_parser() and disable_peg_parser() are refused: they would change how the SQL of every client is read";
pub(super) const FORCED_CHECKPOINT: &str = "a forced checkpoint would make every client wait until the last transaction has ended; use CHECKPOINT";

/// Functions that change all clients at once, or run SQL that nobody has seen, each with why it is refused.
const REFUSED: &[(&str, &str)] = &[
    ("enable_logging", LOGGING),
    ("disable_logging", LOGGING),
    ("truncate_duckdb_logs", LOGGING),
    ("query", UNSEEN),
    ("json_execute_serialized_sql", UNSEEN),
    ("enable_profiling", PROFILING),
    ("disable_profiling", PROFILING),
    ("enable_peg_parser", PARSER),
    ("disable_peg_parser", PARSER),
    ("force_checkpoint", FORCED_CHECKPOINT),
];

/// The function that leaves a query's connection with a seed of its own.
const SET_SEED: &str = "setseed";

/// Keywords behind which stands the name of a table or of a query, and in parentheses its columns: no function can be
/// called there.
const BEFORE_COLUMNS: &[&str] = &["exists", "into", "recursive", "references", "table", "with"];

/// How often comments behind the name of a refused function are skipped in a script that is in doubt. Comments nest: without
/// a bound, each of many names could be followed by the whole rest of the script.
const MAX_COMMENT_SKIPS: usize = 16;

/// Why a script is refused for a function that it calls, or may call.
pub(super) fn refusal(sql: &str) -> Option<&'static str> {
    for call in calls(sql) {
        let Some(name) = call else {
            return refusal_in_doubt(sql);
        };
        let known = REFUSED
            .iter()
            .find(|(refused, _)| refused.eq_ignore_ascii_case(name));
        if let Some((_, reason)) = known {
            return Some(reason);
        }
    }
    None
}

/// Whether a script sets the seed of its connection, or may do so.
pub(super) fn sets_seed(sql: &str) -> bool {
    let mut skips_left = MAX_COMMENT_SKIPS;
    calls(sql).any(|call| match call {
        Some(name) => name.eq_ignore_ascii_case(SET_SEED),
        None => may_call(&sql.to_ascii_lowercase(), SET_SEED, &mut skips_left),
    })
}

/// The names of the functions that a script calls, as they are written. The last one is `None` in doubt: then others may
/// follow.
fn calls(sql: &str) -> Calls<'_> {
    Calls {
        tokens: tokens(sql),
        last: Token::Symbol(';'),
        before_name: Token::Symbol(';'),
        name: None,
    }
}

struct Calls<'a> {
    tokens: Tokens<'a>,
    last: Token<'a>,
    /// What stood before the last name and its qualifiers.
    before_name: Token<'a>,
    name: Option<&'a str>,
}

impl<'a> Iterator for Calls<'a> {
    type Item = Option<&'a str>;

    fn next(&mut self) -> Option<Option<&'a str>> {
        loop {
            let token = self.tokens.next()?;
            let last = std::mem::replace(&mut self.last, token);
            match token {
                Token::Doubt => return Some(None),
                Token::Symbol('(') => {
                    let name = self.name.take();
                    if name.is_some() && !self.before_name.is_any(BEFORE_COLUMNS) {
                        return Some(name);
                    }
                }
                Token::Symbol('.') => {}
                _ => {
                    if last != Token::Symbol('.') {
                        self.before_name = last;
                    }
                    self.name = token.name();
                }
            }
        }
    }
}

/// Why a script in doubt is refused: for the name of a function wherever it stands, texts and comments included, if it looks
/// like a call.
fn refusal_in_doubt(sql: &str) -> Option<&'static str> {
    let sql = sql.to_ascii_lowercase();
    // A name that is spelled with Unicode escapes could be any.
    if sql.contains("u&\"") {
        return Some(UNSEEN);
    }
    let mut skips_left = MAX_COMMENT_SKIPS;
    REFUSED
        .iter()
        .find(|(name, _)| may_call(&sql, name, &mut skips_left))
        .map(|(_, reason)| *reason)
}

/// Whether a script, in lower case, may call this function: behind a name only a quote, white space and comments can stand
/// before the parenthesis.
fn may_call(sql: &str, name: &str, skips_left: &mut usize) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            "CREATE MACRO m() AS TABLE FROM query('x')",
            "SELECT 1 INTO FROM query('x')",
            "FROM query\u{a0}\u{200b}-- a\n\u{feff}('x')",
            "SELECT é; FROM query('x')",
            "FROM enable_profiling(format = 'json')",
            "CALL disable_profiling()",
            "FROM Enable_PEG_parser(), disable_peg_parser()",
            "FROM t, LATERAL \"force_checkpoint\" ()",
        ] {
            assert!(refusal(sql).is_some(), "{sql}");
        }
    }

    #[test]
    fn many_names_in_nested_comments_are_answered_without_a_look_at_each() {
        let depth = 1 << 17;
        let sql = format!("SELECT 1 {}{}", "/*query".repeat(depth), "*/".repeat(depth));
        assert_eq!(refusal(&sql), None);
        assert_eq!(refusal(&format!("{sql} é")), Some(UNSEEN));
    }

    #[test]
    fn names_that_only_look_like_a_refused_function_are_let_through() {
        for sql in [
            "SELECT query, count(*) FROM log GROUP BY query",
            "SELECT my_query(1)",
            "SELECT \"query\" FROM t WHERE query IN ('a')",
            "SELECT query_id(1), \"a query\" FROM t",
            "INSERT INTO log VALUES ('slow query (12s)'), ($$query ($$), (e'\\'query(')",
            "SELECT 1 -- query (\n /* setseed(1) */",
            "CREATE TABLE query (i INTEGER)",
            "CREATE TABLE IF NOT EXISTS main.query (i INTEGER)",
            "INSERT INTO main.\"query\" (i) VALUES (1)",
            "WITH query (i) AS (SELECT 1) FROM query",
            "SELECT query /* (",
            "SELECT query --",
            "SELECT query /*é",
        ] {
            assert_eq!(refusal(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_seed_is_set_by_a_call_only() {
        assert!(sets_seed("SELECT SetSeed (0.5)"));
        assert!(sets_seed("SELECT \u{a0} setseed(0.5)"));
        assert!(!sets_seed("SELECT setseed, 'setseed(0.5)'"));
    }
}
