//! The functions that a script calls.
//!
//! DuckDB tells nobody which functions a statement calls. But with the functions gone that run text as SQL, a function can
//! only be called by its name, with a parenthesis behind it. DuckDB can neither drop a built-in function nor let another one
//! stand in for it.

use super::super::files::{FILE_FUNCTIONS, is_file_function};
use super::super::tokens::{Token, Tokens, is_certain, skip_space, statements, tokens};

use super::explained::explained;
use super::may_contain;

/// These functions need no right and no setting. Logging is switched for everybody, prints on the server's output, and with a
/// storage it cannot write it makes the next statements fail and the process end.
const LOGGING: &str = "enable_logging(), disable_logging() and truncate_duckdb_logs() are refused: they would switch the logging of the server, \
     which is every client's";
const UNSEEN: &str = "query(), json_execute_serialized_sql() and json_serialize_plan() are refused: they would run or plan statements unseen; send the \
     statement itself";
/// After these functions the next statements on the connection fail, whoever sends them.
const PROFILING: &str = "enable_profiling() and disable_profiling() are refused: they would change the connection, which other clients use \
     as well; use EXPLAIN ANALYZE";
const PARSER: &str = "enable_peg_parser() and disable_peg_parser() are refused: they would change how the SQL of every client is read";
/// These functions go as deep as their argument is nested, and where that is deeper than the stack the process ends.
const BOTTOMLESS: &str = "sql_auto_complete(), check_peg_parser() and json_deserialize_sql() are refused: what is nested deeply enough would end \
     the server";
const READS_FILES: &str = "functions that read files are refused: the files would be the server's; send rows with a put (the README \
     shows how to load a file)";
const UNCOVERS: &str =
    "macros that are called as DuckDB's functions that read files are the server's, and stay";
pub(super) const FORCED_CHECKPOINT: &str = "a forced checkpoint would make every client wait until the last transaction has ended; use CHECKPOINT";

/// Before a checkpoint the server keeps what one that is cut off may leave half written. It knows the statement, not what a view or a
/// query calls.
const CHECKPOINT: &str = "checkpoint() is refused: what the server keeps in case that a checkpoint is cut off, it keeps for the statement; use \
     CHECKPOINT";

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
    ("checkpoint", CHECKPOINT),
    ("force_checkpoint", FORCED_CHECKPOINT),
    ("sql_auto_complete", BOTTOMLESS),
    ("check_peg_parser", BOTTOMLESS),
    ("json_deserialize_sql", BOTTOMLESS),
    ("json_serialize_plan", UNSEEN),
];

/// The functions that are refused, each with why.
fn refused() -> impl Iterator<Item = (&'static str, &'static str)> {
    let files = FILE_FUNCTIONS.iter().map(|name| (*name, READS_FILES));
    REFUSED.iter().copied().chain(files)
}

/// The function that leaves a query's connection with a seed of its own.
const SET_SEED: &str = "setseed";

/// Keywords behind which stands the name of a table or of a query, and in parentheses its columns: no function can be
/// called there.
const BEFORE_COLUMNS: &[&str] = &[
    "exists",
    "into",
    "recursive",
    "references",
    "table",
    "view",
    "with",
];

/// A function that is an operator as well, before which stands a value.
const GLOB: &str = "glob";

/// Keywords behind which a table is called.
const BEFORE_TABLE: &[&str] = &[
    "call",
    "from",
    "join",
    "lateral",
    "pivot",
    "pivot_longer",
    "pivot_wider",
    "unpivot",
    "using",
];

/// How often comments behind the name of a refused function are skipped in a script that is in doubt. Comments nest: without
/// a bound, each of many names could be followed by the whole rest of the script.
const MAX_COMMENT_SKIPS: usize = 16;

/// Why a script is refused for a function that it calls, or may call.
pub(super) fn refusal(sql: &str) -> Option<&'static str> {
    for call in calls(sql) {
        let Some(name) = call else {
            return refusal_in_doubt(sql);
        };
        let known = refused().find(|(refused, _)| refused.eq_ignore_ascii_case(name));
        if let Some((_, reason)) = known {
            return Some(reason);
        }
    }
    None
}

/// Why a script is refused for a macro that it drops, or may drop.
pub(super) fn refused_drop(sql: &str) -> Option<&'static str> {
    let drops = |statement: Tokens<'_>| {
        let explained = explained(statement.clone());
        let mut statement = explained.map_or(statement, |explained| explained.statement);
        let is_name = |token: Token<'_>| token.name().is_some_and(is_file_function);
        statement.accept(&["drop"])
            && statement.accept(&["function", "macro"])
            && statement.until_end().any(is_name)
    };
    let may_drop = || {
        !is_certain(sql)
            && may_contain(sql, "drop")
            && FILE_FUNCTIONS.iter().any(|name| may_contain(sql, name))
    };
    (statements(sql).any(drops) || may_drop()).then_some(UNCOVERS)
}

/// Whether a script calls functions that read files, or may do so.
pub(super) fn may_read_files(sql: &str) -> bool {
    let mut skips_left = MAX_COMMENT_SKIPS;
    calls(sql).any(|call| match call {
        Some(name) => is_file_function(name),
        None => {
            let sql = sql.to_ascii_lowercase();
            let mut names = FILE_FUNCTIONS.iter();
            sql.contains("u&\"") || names.any(|name| may_call(&sql, name, &mut skips_left))
        }
    })
}

/// Whether a script sets the seed of its connection, or may do so.
pub(super) fn sets_seed(sql: &str) -> bool {
    let mut skips_left = MAX_COMMENT_SKIPS;
    calls(sql).any(|call| match call {
        Some(name) => name.eq_ignore_ascii_case(SET_SEED),
        None => may_call(&sql.to_ascii_lowercase(), SET_SEED, &mut skips_left),
    })
}

/// The first of these functions, in lower case, that a script calls, or may call.
pub(in crate::engine) fn called<'n>(
    sql: &str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<&'n str> {
    let mut skips_left = MAX_COMMENT_SKIPS;
    calls(sql).find_map(|call| match call {
        Some(name) => {
            let name = name.replace("\"\"", "\"");
            let mut names = names.clone();
            names.find(|other| name.eq_ignore_ascii_case(other))
        }
        None => {
            let sql = sql.to_ascii_lowercase();
            let is_any = sql.contains("u&\"");
            let mut names = names.clone();
            names.find(|name| is_any || may_call(&sql, name, &mut skips_left))
        }
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
                    if let Some(name) = self.name.take()
                        && self.may_be_called(name)
                    {
                        return Some(Some(name));
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

impl Calls<'_> {
    /// Whether the parenthesis behind this name can begin what a function is given.
    fn may_be_called(&self, name: &str) -> bool {
        let is_table = || match self.before_name {
            Token::Symbol(symbol) => !")]}?".contains(symbol),
            before => before.is_any(BEFORE_TABLE),
        };
        if name.eq_ignore_ascii_case(GLOB) {
            return is_table();
        }
        // A table may have that name.
        if name.eq_ignore_ascii_case("checkpoint") {
            return is_table();
        }
        !self.before_name.is_any(BEFORE_COLUMNS)
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
    refused()
        .find(|(name, _)| may_call(&sql, name, &mut skips_left))
        .map(|(_, reason)| reason)
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
            "FROM system.main.checkpoint()",
            "CALL checkpoint('t')",
            ";CALL system.main.\"Checkpoint\"()",
            "FROM check_peg_parser(repeat('(', 100000))",
            "SELECT json_serialize_plan('FROM read_blob(''x'')')",
            "SELECT json_deserialize_sql(j) FROM t",
            "SELECT (FROM sql_auto_complete('select '))",
            "FROM system.main.\"Read_Blob\" ('x')",
            "FROM f: read_csv_auto(['x'])",
            "SELECT 1 FROM t, parquet_metadata('x')",
            "CREATE MACRO m(path) AS TABLE FROM read_text(path)",
            "CREATE OR REPLACE TEMP MACRO read_csv_auto(path) AS TABLE SELECT 1",
            "FROM glob('*')",
            "FROM t JOIN LATERAL system.main.glob ('*')",
            "FROM t, \"glob\"('*')",
            "PIVOT glob('*') ON file",
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
            "CREATE OR REPLACE VIEW query (i) AS SELECT 1",
            "SELECT query /* (",
            "SELECT query --",
            "SELECT query /*é",
            "SELECT * FROM t WHERE name GLOB ('a*') AND lower(name) NOT GLOB (SELECT p FROM x)",
            "SELECT 'a' GLOB ('a*'), t.a[1] glob (b)",
            "CREATE TABLE glob (read_text VARCHAR)",
            "CREATE INDEX i ON checkpoint (step)",
        ] {
            assert_eq!(refusal(sql), None, "{sql}");
        }
    }

    #[test]
    fn macros_in_the_place_of_functions_are_not_dropped() {
        for sql in [
            "DROP MACRO TABLE read_csv_auto",
            "DROP FUNCTION IF EXISTS temp.\"Parquet_Scan\"",
            "EXPLAIN ANALYZE DROP MACRO read_duckdb",
            "SELECT é; DROP MACRO TABLE read_json_auto",
            "DROP /* */ FUNCTION U&\"\\0072ead_csv_auto\"",
        ] {
            assert!(refused_drop(sql).is_some(), "{sql}");
        }
        for sql in [
            "DROP TABLE read_csv_auto",
            "DROP MACRO my_macro",
            "CREATE VIEW glob AS SELECT 'drop macro read_text'",
        ] {
            assert_eq!(refused_drop(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_seed_is_set_by_a_call_only() {
        assert!(sets_seed("SELECT SetSeed (0.5)"));
        assert!(sets_seed("SELECT \u{a0} setseed(0.5)"));
        assert!(!sets_seed("SELECT setseed, 'setseed(0.5)'"));
    }
}
