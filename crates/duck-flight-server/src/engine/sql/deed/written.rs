//! To which table rows are written, and how they are changed.

use super::{Change, Deed, behind};
use crate::engine::sql::tokens::{Token, Tokens};

pub(super) fn writes(rest: &mut Tokens<'_>, change: Change) -> Deed {
    Deed::Writes {
        table: rest.relation(),
        change,
    }
}

pub(super) fn insertion(rest: &mut Tokens<'_>) -> Deed {
    let replaces = rest.accept_all(&["or", "replace"]);
    rest.accept_all(&["or", "ignore"]);
    if !rest.accept(&["into"]) {
        return Deed::Doubt;
    }
    let before = rest.clone();
    let table = rest.relation();
    let says = |word| behind(&table, rest, &before).says(word);
    let change = match replaces || says("conflict") && says("update") {
        true => Change::Deletes,
        false => Change::Adds,
    };
    Deed::Writes { table, change }
}

/// Takes the queries that follow WITH. Answers whether it is certain where they end.
pub(super) fn skip_queries(rest: &mut Tokens<'_>) -> bool {
    let mut depth = 0_usize;
    while let Some(token) = rest.next() {
        match token {
            Token::Doubt => return false,
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') if depth > 1 => depth -= 1,
            Token::Symbol(')') => {
                depth = 0;
                // Before these stand columns, or a query that another one follows.
                let goes_on =
                    |next: Token<'_>| next == Token::Symbol(',') || next.is_any(&["as", "using"]);
                if !rest.peek().is_some_and(goes_on) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::deed::tests::{assert_deeds, named};

    fn writes(table: &[&str], change: Change) -> Deed {
        Deed::Writes {
            table: named(table),
            change,
        }
    }

    #[test]
    fn the_table_that_is_written_to_is_found() {
        use Change::{Adds, Deletes, Updates};
        let in_doubt = |change| Deed::Writes {
            table: None,
            change,
        };
        assert_deeds([
            ("; INSERT INTO t FROM s", writes(&["t"], Adds)),
            (
                "insert or replace into a.b.\"T x\" (i) values (1)",
                writes(&["a", "b", "T x"], Deletes),
            ),
            (
                "INSERT OR IGNORE INTO t SELECT replace(c, 'update', 'b') FROM delete",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t AS x VALUES (1) ON CONFLICT (i) DO UPDATE SET i = 1",
                writes(&["t"], Deletes),
            ),
            (
                "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t SELECT (SELECT conflict FROM update)",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t SELECT \u{a0}e, 'on conflict do update'",
                writes(&["t"], Deletes),
            ),
            ("UPDATE t SET größe = 1", writes(&["t"], Updates)),
            ("UPDATE set SET \"update\" = 1", writes(&["set"], Updates)),
            ("UPDATE if exists SET update = 1", writes(&["if"], Updates)),
            (
                "DELETE FROM s.t WHERE é IN (FROM u)",
                writes(&["s", "t"], Deletes),
            ),
            ("DELETE FROM ONLY (s.t)", writes(&["s", "t"], Deletes)),
            (
                "DELETE FROM \"a \"\" b\" . T USING u WHERE i = 1",
                writes(&["a \" b", "T"], Deletes),
            ),
            ("DELETE FROM 't'", writes(&["t"], Deletes)),
            ("TRUNCATE TABLE ONLY t", writes(&["t"], Deletes)),
            ("TRUNCATE a.b.t;", writes(&["a", "b", "t"], Deletes)),
            ("TRUNCATE tableé", writes(&["tableé"], Deletes)),
            (
                "MERGE INTO main . t USING s USING (i) WHEN MATCHED THEN UPDATE",
                writes(&["main", "t"], Deletes),
            ),
            (
                "EXPLAIN ANALYZE VERBOSE INSERT INTO t VALUES (1)",
                writes(&["t"], Adds),
            ),
            (
                "EXPLAIN (FORMAT json, analyze) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "INSERT INTO t\u{a0}u VALUES (1) ON CONFLICT DO UPDATE SET i = 1",
                in_doubt(Deletes),
            ),
            ("INSERT INTO t\u{a0}u VALUES (1)", in_doubt(Adds)),
            ("DELETE FROM t\u{a0}u", in_doubt(Deletes)),
            ("UPDATE\u{a0}t SET i = 1", in_doubt(Updates)),
            ("UPDATE s\u{a0}.t SET i = 1", in_doubt(Updates)),
            ("TRUNCATE TABLE\u{a0}t", in_doubt(Deletes)),
        ]);
    }

    #[test]
    fn the_verb_behind_a_with_is_found() {
        use Change::{Adds, Deletes, Updates};
        assert_deeds([
            (
                ";WITH c AS (SELECT 1) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "with recursive insert (a, \"b)\") as not materialized ((SELECT (1), ')')), delete AS MATERIALIZED (FROM (FROM s))
                 UPDATE s.t SET i = 1",
                writes(&["s", "t"], Updates),
            ),
            (
                "WITH RECURSIVE c(a) USING KEY (a) AS (SELECT 1) INSERT INTO t FROM c",
                writes(&["t"], Adds),
            ),
            (
                "WITH c AS (FROM s) MERGE INTO t USING c ON true WHEN MATCHED THEN DELETE",
                writes(&["t"], Deletes),
            ),
            (
                "EXPLAIN ANALYZE WITH c AS (SELECT 1) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "WITH c AS (SELECT 1 /* ) DELETE FROM u */) -- ) DELETE FROM v
                 DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            ("EXPLAIN WITH c AS (SELECT 1) DELETE FROM t", Deed::Nothing),
            (
                "WITH c AS (SELECT 1) SELECT f(1) delete FROM c",
                Deed::Nothing,
            ),
            ("WITH c AS (SELECT 1) FROM c", Deed::Nothing),
            (
                "\u{feff} WITH c AS (SELECT \u{a0}e) DELETE FROM t",
                Deed::Writes {
                    table: None,
                    change: Deletes,
                },
            ),
            (
                "WITH c AS (SELECT \u{a0}e) SELECT type, now() FROM c",
                Deed::Writes {
                    table: None,
                    change: Adds,
                },
            ),
        ]);
    }
}
