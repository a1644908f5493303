//! What EXPLAIN explains: with ANALYZE it runs that, and DuckDB tells of an EXPLAIN only.

use super::super::tokens::{Token, Tokens, is_certain, statements};
use super::{FILES, ascii_words};
use crate::engine::ffi::StatementKind;

const REFUSED: &str = "EXPLAIN takes only queries, INSERT, UPDATE, DELETE, MERGE, CREATE, ALTER and DROP here: with ANALYZE it would run \
     what others notice; run the statement itself";

/// What a query begins with.
const QUERY: &[&str] = &[
    "desc",
    "describe",
    "from",
    "pivot",
    "pivot_wider",
    "select",
    "show",
    "summarize",
    "table",
    "unpivot",
    "values",
    "with",
];

/// What goes on after a query in parentheses.
const AFTER_QUERY: &[&str] = &["except", "intersect", "limit", "offset", "order", "union"];

/// What a statement begins with that changes rows.
const ROWS: &[&str] = &["delete", "insert", "merge", "truncate", "update"];

/// A statement that is explained.
pub(in crate::engine::sql) struct Explained<'a> {
    /// What kind of statement it is. `None` of one that is not to be explained, and in doubt.
    pub(in crate::engine::sql) kind: Option<StatementKind>,
    /// Whether it is run.
    pub(in crate::engine::sql) is_run: bool,
    pub(in crate::engine::sql) statement: Tokens<'a>,
}

/// What a statement explains, if it is an EXPLAIN.
pub(in crate::engine::sql) fn explained(mut statement: Tokens<'_>) -> Option<Explained<'_>> {
    if !statement.accept(&["explain"]) {
        return None;
    }
    let mut is_run = statement.accept(&["analyze", "analyse"]);
    statement.accept(&["verbose"]);
    // Options, or a query. What follows tells.
    let (mut is_query, mut is_doubtful) = (false, false);
    while statement.peek() == Some(Token::Symbol('(')) {
        is_query = true;
        match skip_parentheses(&mut statement) {
            Some(analyzes) => is_run |= analyzes,
            None => {
                is_doubtful = true;
                break;
            }
        }
    }
    let kind = match statement.peek() {
        _ if is_doubtful => None,
        None | Some(Token::Symbol(';')) => is_query.then_some(StatementKind::Select),
        Some(first) if is_query && first.is_any(AFTER_QUERY) => Some(StatementKind::Select),
        Some(first) => kind(first, &statement),
    };
    Some(Explained {
        kind,
        is_run,
        statement,
    })
}

/// Skips what stands in parentheses, and answers whether the word ANALYZE does. `None` in doubt, and where the statement ends
/// before they do: how often it is asked must not matter to the statements behind it.
fn skip_parentheses(statement: &mut Tokens<'_>) -> Option<bool> {
    let (mut depth, mut analyzes) = (0_usize, false);
    for token in statement
        .by_ref()
        .take_while(|token| *token != Token::Symbol(';'))
    {
        let name = token.name().unwrap_or_default();
        let mut words = ["analyze", "analyse"].iter();
        analyzes |= words.any(|word| name.eq_ignore_ascii_case(word));
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(analyzes);
        }
    }
    None
}

/// The kind of a statement that begins with this token.
fn kind(first: Token<'_>, statement: &Tokens<'_>) -> Option<StatementKind> {
    if first.is("update") && updates_extensions(statement.clone()) {
        return None;
    }
    let changes_rows = || {
        let mut tokens = statement.clone().until_end();
        tokens.any(|token| token.is_any(ROWS))
    };
    match first {
        _ if first.is("with") && changes_rows() => Some(StatementKind::Rows),
        _ if first.is_any(QUERY) => Some(StatementKind::Select),
        _ if first.is_any(ROWS) => Some(StatementKind::Rows),
        _ if first.is_any(&["create", "drop"]) => Some(StatementKind::Definition),
        _ if first.is("alter") => Some(StatementKind::Alteration),
        _ => None,
    }
}

/// Whether it is UPDATE EXTENSIONS, not the update of a table that has this name.
fn updates_extensions(mut statement: Tokens<'_>) -> bool {
    statement.accept(&["update"])
        && statement.accept(&["extensions"])
        && !matches!(statement.next(), Some(Token::Word(_) | Token::Name(_)))
}

/// The kinds of the statements that a script explains. An error where one of them, or what it is in doubt, is refused.
pub(super) fn kinds(sql: &str) -> Result<Vec<StatementKind>, &'static str> {
    let (mut kinds, mut known) = (Vec::new(), 0);
    for explained in statements(sql).filter_map(explained) {
        let is_copy = |token: Token<'_>| token.is("copy");
        let kind = match explained.kind {
            Some(kind) => kind,
            None if explained.statement.peek().is_some_and(is_copy) => return Err(FILES),
            None => return Err(REFUSED),
        };
        known += 1;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() || !is_certain(sql) && may_explain_more(sql, known) {
        return Err(REFUSED);
    }
    Ok(kinds)
}

/// Whether a script in doubt may have more EXPLAINs than are known of.
fn may_explain_more(sql: &str, known: usize) -> bool {
    ascii_words(sql)
        .filter(|word| word.eq_ignore_ascii_case("explain"))
        .count()
        != known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::tokens::tokens;

    #[test]
    fn what_is_explained_is_told_by_its_first_word() {
        use StatementKind::{Alteration, Definition, Rows, Select};
        for (sql, kind) in [
            ("EXPLAIN SELECT 1", Select),
            ("explain analyze FROM t", Select),
            ("EXPLAIN ANALYSE (VALUES (1))", Select),
            ("EXPLAIN (FORMAT json) (SELECT 1) UNION (SELECT 2)", Select),
            ("EXPLAIN ((SELECT 1)) LIMIT 1", Select),
            (
                "EXPLAIN (ANALYZE, FORMAT json) INSERT INTO t SELECT 1",
                Rows,
            ),
            ("EXPLAIN WITH c AS (SELECT 1) DELETE FROM t", Rows),
            ("EXPLAIN WITH c AS (SELECT 1) FROM c", Select),
            ("EXPLAIN UPDATE extensions SET i = 1", Rows),
            ("EXPLAIN SELECT copy_count, 'copy' FROM t", Select),
            ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", Definition),
            ("EXPLAIN ALTER TABLE t ADD COLUMN é INTEGER", Alteration),
            ("EXPLAIN SELECT é FROM t", Select),
            ("EXPLAIN VERBOSE DELETE FROM t", Rows),
        ] {
            assert_eq!(kinds(sql), Ok(vec![kind]), "{sql}");
        }
        let script = "EXPLAIN SELECT 1; SET x = 1; EXPLAIN SELECT 2; EXPLAIN DELETE FROM t";
        assert_eq!(kinds(script), Ok(vec![Select, Rows]));
    }

    #[test]
    fn what_is_not_to_be_explained_is_refused() {
        for sql in [
            "EXPLAIN ANALYZE SET x = 1",
            "EXPLAIN (ANALYZE) RESET x",
            "EXPLAIN (ANALYZE) (FORMAT json) PRAGMA x",
            "EXPLAIN ANALYZE\n-- SELECT\nBEGIN",
            "EXPLAIN ANALYZE COMMIT",
            "EXPLAIN ANALYZE \"select\" 1",
            "EXPLAIN ANALYZE PREPARE p AS SELECT 1",
            "EXPLAIN ANALYZE EXECUTE p",
            "EXPLAIN COPY t TO 'x'",
            "EXPLAIN VERBOSE COPY t TO 'x'",
            "EXPLAIN ANALYZE verbose SET x = 1",
            "EXPLAIN ANALYZE LOAD x",
            "EXPLAIN ANALYZE CHECKPOINT",
            "EXPLAIN ANALYZE FORCE CHECKPOINT",
            "EXPLAIN ANALYZE CALL f()",
            "EXPLAIN ANALYZE VACUUM",
            "EXPLAIN UPDATE EXTENSIONS (x)",
            "EXPLAIN UPDATE EXTENSIONS",
            "EXPLAIN",
            "EXPLAIN SELECT 1; EXPLAIN ANALYZE SET x = 1",
            // In doubt.
            ";\u{a0}EXPLAIN SELECT 1",
            "EXPLAIN \u{a0}SELECT 1",
            "EXPLAIN (ANALYZE, \u{a0}e) SET x = 1",
            "EXPLAIN (SELECT 'a",
            "EXPLAIN ANALYZE SELECT é; EXPLAIN ANALYZE SET x = 1",
        ] {
            assert!(kinds(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn only_analyze_runs_what_is_explained() {
        for (sql, is_run) in [
            ("EXPLAIN CREATE TABLE analyze (i INTEGER)", false),
            ("EXPLAIN (FORMAT json) SELECT 1", false),
            ("EXPLAIN ANALYSE SELECT 1", true),
            ("EXPLAIN (FORMAT json, \"analyze\") SELECT 1", true),
        ] {
            assert_eq!(explained(tokens(sql)).unwrap().is_run, is_run, "{sql}");
        }
    }
}
