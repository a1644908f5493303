//! Which table an ALTER is about, and what it does to it.

use super::{Deed, How};
use crate::engine::sql::tokens::{Token, Tokens};

/// What ALTER does to a column that leaves the rows where they are.
const KEEPING: &[&[&str]] = &[
    &["set", "default"],
    &["drop", "default"],
    &["drop", "not", "null"],
];

pub(super) fn alteration(rest: &mut Tokens<'_>) -> Deed {
    if rest.accept(&["table"]) {
        return Deed::Alters {
            table: rest.altered_table(),
            how: how(rest),
        };
    }
    match rest.next() {
        Some(Token::Doubt) => Deed::Doubt,
        Some(word) if word.is("view") => only(rest, &["rename", "to"]),
        Some(word) if word.is("sequence") => only(rest, &["owned", "by"]),
        Some(word) if word.is("index") => Deed::Disguised,
        _ => Deed::Defines,
    }
}

/// What an ALTER does to a view or a sequence, of which DuckDB alters only this.
fn only(rest: &mut Tokens<'_>, action: &[&str]) -> Deed {
    rest.altered_table();
    match rest.accept_certain(action) {
        Some(true) => Deed::Defines,
        Some(false) if in_doubt_or_moves(rest) == How::Moves => Deed::Disguised,
        _ => Deed::Doubt,
    }
}

/// What is done to a table.
fn how(rest: &mut Tokens<'_>) -> How {
    if rest.accept(&["rename"]) {
        if rest.accept(&["to"]) {
            return How::Renames;
        }
        rest.accept(&["column"]);
        return of_column(rest, How::Keeps);
    }
    if rest.accept(&["add"]) {
        let has_name = rest.accept(&["constraint"]);
        if has_name && rest.qualified_name().is_none() {
            return How::Any;
        }
        if rest.accept(&["primary"]) {
            return How::AddsKey;
        }
        if has_name {
            return in_doubt_or_moves(rest);
        }
        rest.accept(&["column"]);
        return match rest.accept_certain(&["if", "not", "exists"]) {
            Some(_) => of_column(rest, How::Moves),
            None => How::Any,
        };
    }
    if rest.accept(&["drop"]) {
        rest.accept(&["column"]);
        return match rest.accept_certain(&["if", "exists"]) {
            Some(_) => of_column(rest, How::Moves),
            None => How::Any,
        };
    }
    if rest.accept(&["alter"]) {
        rest.accept(&["column"]);
        let of_column = of_column(rest, How::Moves);
        if of_column != How::Moves {
            return of_column;
        }
        if KEEPING.iter().any(|words| rest.accept_all(words)) {
            return How::Keeps;
        }
        if rest.accept(&["set"]) {
            rest.accept(&["data"]);
        }
        if rest.accept(&["type"]) {
            return How::ChangesType;
        }
    }
    in_doubt_or_moves(rest)
}

/// What is done to the column that is named next, where it is this to a whole one.
fn of_column(rest: &mut Tokens<'_>, to_whole: How) -> How {
    match rest.qualified_name().as_deref() {
        Some([_]) => to_whole,
        // DuckDB makes the values of the column anew.
        Some(_) => How::ChangesType,
        None => How::Any,
    }
}

fn in_doubt_or_moves(rest: &Tokens<'_>) -> How {
    match rest.peek() {
        Some(Token::Doubt) | None => How::Any,
        Some(_) => How::Moves,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::deed::tests::{assert_deeds, named};

    fn alters(table: &[&str], how: How) -> Deed {
        Deed::Alters {
            table: named(table),
            how,
        }
    }

    #[test]
    fn what_is_done_to_a_table_is_told_apart() {
        use How::{AddsKey, Any, ChangesType, Keeps, Moves, Renames};
        for (action, how) in [
            ("RENAME TO u", Renames),
            ("rename/**/to \"ü\"", Renames),
            ("RENAME COLUMN c TO d", Keeps),
            ("RENAME \"to\" TO d", Keeps),
            ("RENAME größe TO d", Keeps),
            ("RENAME toé TO d", Keeps),
            ("RENAME COLUMN s.a TO b", ChangesType),
            ("RENAME s /* */ . \"a b\" TO b", ChangesType),
            ("ADD COLUMN c INTEGER", Moves),
            ("ADD c INTEGER DEFAULT random()", Moves),
            ("ADD COLUMN IF NOT EXISTS c INTEGER", Moves),
            ("ADD COLUMN type VARCHAR", Moves),
            ("ADD COLUMN \"s.b\" INTEGER", Moves),
            ("ADD COLUMN \"primary\" INTEGER", Moves),
            ("ADD COLUMN größe INTEGER", Moves),
            ("ADD primaryé INTEGER", Moves),
            ("ADD COLUMN s.b INTEGER", ChangesType),
            ("ADD s.größe INTEGER", ChangesType),
            ("ADD COLUMN IF NOT EXISTS s.b INTEGER", ChangesType),
            ("ADD COLUMN \"s\" -- x\n .\"b\"\"c\".d INTEGER", ChangesType),
            ("ADD PRIMARY KEY (c)", AddsKey),
            ("ADD CONSTRAINT k PRIMARY KEY (größe)", AddsKey),
            ("ADD CONSTRAINT k CHECK (c > 1)", Moves),
            ("DROP COLUMN c", Moves),
            ("DROP type", Moves),
            ("DROP COLUMN IF EXISTS c CASCADE", Moves),
            ("DROP COLUMN s.b", ChangesType),
            ("DROP COLUMN IF EXISTS s.b", ChangesType),
            ("ALTER c TYPE BIGINT", ChangesType),
            ("ALTER COLUMN c SET DATA TYPE BIGINT", ChangesType),
            ("ALTER type SET TYPE BIGINT", ChangesType),
            ("ALTER \"a b\" TYPE VARCHAR USING i || 'x'", ChangesType),
            ("ALTER länge TYPE BIGINT", ChangesType),
            ("ALTER COLUMN c SET NOT NULL", Moves),
            ("ALTER c DROP NOT NULL", Keeps),
            ("ALTER COLUMN c SET DEFAULT 'type'", Keeps),
            ("ALTER c DROP DEFAULT", Keeps),
            ("SET SCHEMA s", Moves),
            // In doubt.
            ("RENAME\u{a0}TO u", Any),
            ("RENAME COLUMN s\u{a0}.a TO b", Any),
            ("ADD\u{a0}COLUMN s.b INTEGER", Any),
            ("ADD COLUMN IF\u{a0}NOT EXISTS s.b INTEGER", Any),
            ("ADD COLUMN t\u{a0}u INTEGER", Any),
            ("ADD CONSTRAINT k\u{a0}PRIMARY KEY (c)", Any),
            ("ALTER c\u{a0}TYPE BIGINT", Any),
            ("ALTER c SET\u{a0}DATA TYPE BIGINT", Any),
            ("\u{a0}ADD COLUMN c INTEGER", Any),
        ] {
            let sql = format!("ALTER TABLE t {action}");
            assert_eq!(Deed::of(&sql), alters(&["t"], how), "{sql}");
        }
    }

    #[test]
    fn the_table_that_is_altered_is_found() {
        let in_doubt = |how| Deed::Alters { table: None, how };
        assert_deeds([
            (";ALTER TABLE t RENAME TO u", alters(&["t"], How::Renames)),
            (
                " ; /* x */ ;; alter table IF EXISTS s.\"T x\" drop i",
                alters(&["s", "T x"], How::Moves),
            ),
            (
                "ALTER TABLE ONLY (db.s.\"a \"\" b\") DROP i",
                alters(&["db", "s", "a \" b"], How::Moves),
            ),
            (
                "ALTER TABLE if ADD COLUMN add INTEGER",
                alters(&["if"], How::Moves),
            ),
            (
                "ALTER TABLE add ALTER type TYPE BIGINT",
                alters(&["add"], How::ChangesType),
            ),
            (
                "ALTER TABLE größe ADD PRIMARY KEY (länge)",
                alters(&["größe"], How::AddsKey),
            ),
            (
                "EXPLAIN ANALYZE ALTER TABLE ONLY t DROP i",
                alters(&["t"], How::Moves),
            ),
            ("ALTER TABLE t\u{a0}u DROP i", in_doubt(How::Any)),
            ("ALTER TABLE t\u{a0}.u DROP i", in_doubt(How::Any)),
            ("ALTER TABLE e't' DROP i", in_doubt(How::Moves)),
            ("ALTER VIEW v RENAME TO w", Deed::Defines),
            (";ALTER VIEW IF EXISTS v RENAME TO w", Deed::Defines),
            ("ALTER VIEW größe RENAME TO w", Deed::Defines),
            ("ALTER SEQUENCE s OWNED BY t", Deed::Defines),
            (
                "EXPLAIN ANALYZE ALTER SEQUENCE IF EXISTS db.s OWNED BY t",
                Deed::Defines,
            ),
            ("ALTER VIEW t ALTER c SET NOT NULL", Deed::Disguised),
            ("ALTER VIEW t ADD PRIMARY KEY (c)", Deed::Disguised),
            (
                "alter index if exists t alter c drop not null",
                Deed::Disguised,
            ),
            ("ALTER SEQUENCE t ALTER c SET NOT NULL", Deed::Disguised),
            ("ALTER VIEW t\u{a0}u RENAME TO w", Deed::Doubt),
            ("ALTER VIEW v RENAME\u{a0}TO w", Deed::Doubt),
            ("ALTER VIEW v\u{a0}RENAME TO w", Deed::Doubt),
            ("ALTER DATABASE a SET ALIAS TO b", Deed::Defines),
        ]);
    }
}
