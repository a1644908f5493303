//! What is made or dropped, and its name; and whether it is an index that is commented on.

use super::{Deed, What, behind};
use crate::engine::sql::tokens::{Token, Tokens};

/// What may stand between CREATE and the kind of what is made.
const BEFORE_KIND: &[&str] = &[
    "global",
    "local",
    "persistent",
    "recursive",
    "temp",
    "temporary",
    "unique",
    "unlogged",
];

pub(super) fn creation(rest: &mut Tokens<'_>) -> Deed {
    let Some(replaces) = rest.accept_certain(&["or", "replace"]) else {
        return Deed::Doubt;
    };
    let mut is_temporary = false;
    while let Some(word) = rest.peek().filter(|word| word.is_any(BEFORE_KIND)) {
        is_temporary |= word.is_any(&["temp", "temporary"]);
        rest.next();
    }
    let Some(what) = what(rest) else {
        return Deed::Doubt;
    };
    if what == What::Index {
        return new_index(rest);
    }
    let may_be_there = rest.accept_certain(&["if", "not", "exists"]);
    let before = rest.clone();
    let name = rest.qualified_name().filter(|_| may_be_there.is_some());
    let is_filled = what == What::Table && behind(&name, rest, &before).says("as");
    Deed::Creates {
        what,
        name,
        replaces,
        is_temporary,
        may_be_there: may_be_there.unwrap_or(true),
        is_filled,
    }
}

fn new_index(rest: &mut Tokens<'_>) -> Deed {
    rest.accept(&["concurrently"]);
    let is_certain = rest.accept_certain(&["if", "not", "exists"]).is_some();
    let name = rest.qualified_name().filter(|_| is_certain);
    let has_table = name.is_some() && rest.accept(&["on"]);
    Deed::MakesIndex {
        name: name.and_then(|mut parts| parts.pop()),
        table: has_table.then(|| rest.qualified_name()).flatten(),
    }
}

pub(super) fn removal(rest: &mut Tokens<'_>) -> Deed {
    let Some(what) = what(rest) else {
        return Deed::Doubt;
    };
    let is_certain = rest.accept_certain(&["if", "exists"]).is_some();
    let before = rest.clone();
    let name = rest.qualified_name().filter(|_| is_certain);
    let cascades = behind(&name, rest, &before).says("cascade");
    Deed::Drops {
        what,
        name,
        cascades,
    }
}

/// Takes the word for what is made or dropped. `None` in doubt.
fn what(rest: &mut Tokens<'_>) -> Option<What> {
    match rest.next()? {
        word if word.is("table") => Some(What::Table),
        word if word.is("schema") => Some(What::Schema),
        word if word.is("index") => Some(What::Index),
        word if word.is("type") => Some(What::Type),
        word if word.is("sequence") => Some(What::Sequence),
        word if word.is_any(&["macro", "function"]) => Some(What::Macro),
        Token::Word(_) => Some(What::Other),
        _ => None,
    }
}

pub(super) fn comment(rest: &mut Tokens<'_>) -> Deed {
    for word in ["on", "index"] {
        match rest.next() {
            Some(Token::Doubt) => return Deed::Doubt,
            Some(token) if token.is(word) => {}
            _ => return Deed::Defines,
        }
    }
    Deed::CommentsOnIndex
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::deed::Named;
    use crate::engine::sql::deed::tests::{assert_deeds, named};

    /// What a statement makes that is neither temporary nor filled, and takes no place that is taken.
    fn makes(what: What, name: &[&str]) -> Deed {
        Deed::Creates {
            what,
            name: named(name),
            replaces: false,
            is_temporary: false,
            may_be_there: false,
            is_filled: false,
        }
    }

    fn replaces(what: What, name: Named) -> Deed {
        Deed::Creates {
            what,
            name,
            replaces: true,
            is_temporary: false,
            may_be_there: false,
            is_filled: false,
        }
    }

    fn index(name: Option<&str>, table: Named) -> Deed {
        Deed::MakesIndex {
            name: name.map(str::to_owned),
            table,
        }
    }

    fn drops(what: What, name: &[&str], cascades: bool) -> Deed {
        Deed::Drops {
            what,
            name: named(name),
            cascades,
        }
    }

    #[test]
    fn what_is_made_is_told_with_its_name() {
        use What::{Macro, Other, Schema, Sequence, Table, Type};
        let filled = |name, replaces| Deed::Creates {
            what: Table,
            name,
            replaces,
            is_temporary: false,
            may_be_there: false,
            is_filled: true,
        };
        assert_deeds([
            (
                ";CREATE OR REPLACE TABLE p (i INTEGER)",
                replaces(Table, named(&["p"])),
            ),
            (
                "\u{feff}CREATE OR REPLACE TABLE 🦆 (i INTEGER)",
                replaces(Table, named(&["🦆"])),
            ),
            (
                "create or /* */ replace -- x\n unlogged table s.\"T x\" as select 1",
                filled(named(&["s", "T x"]), true),
            ),
            (
                "CREATE OR REPLACE TABLE t\u{a0}u AS SELECT 1",
                filled(None, true),
            ),
            (
                "EXPLAIN (ANALYZE) CREATE TABLE t (a, \"as\") AS FROM u",
                filled(named(&["t"]), false),
            ),
            (
                "CREATE TABLE t (i INTEGER, j INTEGER AS (i + 1))",
                makes(Table, &["t"]),
            ),
            (
                "CREATE TABLE größe (as_is INTEGER)",
                makes(Table, &["größe"]),
            ),
            ("CREATE TABLE temp (temp INTEGER)", makes(Table, &["temp"])),
            ("CREATE SCHEMA db.s", makes(Schema, &["db", "s"])),
            (
                "CREATE OR REPLACE SCHEMA s",
                replaces(Schema, named(&["s"])),
            ),
            (
                "CREATE UNLOGGED TYPE s.t AS ENUM ('a')",
                makes(Type, &["s", "t"]),
            ),
            ("CREATE SEQUENCE s", makes(Sequence, &["s"])),
            (
                "CREATE RECURSIVE VIEW v (i) AS SELECT 1",
                makes(Other, &["v"]),
            ),
            ("CREATE MACRO f(x) AS x", makes(Macro, &["f"])),
            ("CREATE FUNCTION s.f(x) AS x", makes(Macro, &["s", "f"])),
        ]);
    }

    #[test]
    fn what_is_temporary_or_may_be_there_is_told_from_what_is_not() {
        for (sql, temporary, there) in [
            ("CREATE TEMP TABLE t (i INTEGER)", true, Some(false)),
            (";CREATE temporary TABLE t (i INTEGER)", true, Some(false)),
            ("CREATE LOCAL TEMP TABLE t (i INTEGER)", true, Some(false)),
            (
                "CREATE GLOBAL TEMPORARY TABLE t (i INTEGER)",
                true,
                Some(false),
            ),
            (
                "EXPLAIN ANALYZE CREATE TEMP TABLE t (i INTEGER)",
                true,
                Some(false),
            ),
            ("CREATE UNLOGGED TABLE t (i INTEGER)", false, Some(false)),
            (
                "CREATE TABLE IF NOT EXISTS t (i INTEGER)",
                false,
                Some(true),
            ),
            (
                "CREATE TEMP TABLE if not exists t (i INTEGER)",
                true,
                Some(true),
            ),
            ("CREATE TABLE IF NOT\u{a0}EXISTS t (i INTEGER)", false, None),
        ] {
            let expected = Deed::Creates {
                what: What::Table,
                name: there.and_then(|_| named(&["t"])),
                replaces: false,
                is_temporary: temporary,
                may_be_there: there.unwrap_or(true),
                is_filled: false,
            };
            assert_eq!(Deed::of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn an_index_is_told_with_its_table() {
        assert_deeds([
            (";CREATE INDEX i ON t (c)", index(Some("i"), named(&["t"]))),
            (
                "create unique index IF NOT EXISTS \"I \"\"x\"\"\" on s.t using art (c)",
                index(Some("I \"x\""), named(&["s", "t"])),
            ),
            (
                "EXPLAIN ANALYZE CREATE INDEX größe ON straße (c)",
                index(Some("größe"), named(&["straße"])),
            ),
            ("CREATE INDEX i ON t\u{a0}u (c)", index(Some("i"), None)),
            ("CREATE INDEX t\u{a0}u ON t (c)", index(None, None)),
            (
                "CREATE INDEX IF\u{a0}NOT EXISTS i ON t (c)",
                index(None, None),
            ),
            (
                "CREATE TABLE index (i INTEGER)",
                makes(What::Table, &["index"]),
            ),
        ]);
    }

    #[test]
    fn what_is_dropped_is_told_with_its_name() {
        use What::{Index, Macro, Other, Schema, Sequence, Table, Type};
        let in_doubt = |what, cascades| Deed::Drops {
            what,
            name: None,
            cascades,
        };
        assert_deeds([
            (";DROP TABLE t", drops(Table, &["t"], false)),
            (
                "drop table IF EXISTS s.\"T x\" RESTRICT",
                drops(Table, &["s", "T x"], false),
            ),
            ("DROP TABLE cascade", drops(Table, &["cascade"], false)),
            ("DROP TABLE t cascade;", drops(Table, &["t"], true)),
            (";DROP SCHEMA s CASCADE", drops(Schema, &["s"], true)),
            (
                "DROP SCHEMA IF EXISTS db.größe CASCADE",
                drops(Schema, &["db", "größe"], true),
            ),
            ("DROP SCHEMA s -- cascade", drops(Schema, &["s"], false)),
            ("DROP SEQUENCE s CASCADE", drops(Sequence, &["s"], true)),
            ("DROP TYPE e", drops(Type, &["e"], false)),
            ("DROP MACRO f CASCADE", drops(Macro, &["f"], true)),
            (
                "DROP FUNCTION IF EXISTS s.f",
                drops(Macro, &["s", "f"], false),
            ),
            (
                "DROP INDEX IF EXISTS db.s.i",
                drops(Index, &["db", "s", "i"], false),
            ),
            ("EXPLAIN ANALYZE DROP VIEW v", drops(Other, &["v"], false)),
            ("DROP INDEX t\u{a0}u", in_doubt(Index, false)),
            (
                "DROP SCHEMA IF\u{a0}EXISTS s CASCADE",
                in_doubt(Schema, true),
            ),
            ("DROP TABLE s\u{a0}.t", in_doubt(Table, false)),
            ("DROP TABLE t\u{a0}u CASCADE", in_doubt(Table, true)),
        ]);
    }

    #[test]
    fn a_comment_on_an_index_is_told_from_others() {
        assert_deeds([
            ("COMMENT ON TABLE t IS 'alter table t'", Deed::Defines),
            ("COMMENT ON COLUMN t.\"index\" IS 'x'", Deed::Defines),
            ("COMMENT ON INDEX größe IS 'x'", Deed::CommentsOnIndex),
            (
                "; comment /* */ on\nIndex s.i is null",
                Deed::CommentsOnIndex,
            ),
        ]);
    }
}
