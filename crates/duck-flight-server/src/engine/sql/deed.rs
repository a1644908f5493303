//! What a statement does, read from its words once, for everybody who must know it before it runs.
//!
//! DuckDB tells of what kind a statement is, but not what it is about. So its head is read as DuckDB's grammar has it, up to the word
//! that decides and the name behind that. Where a [`Token::Doubt`] comes first nothing is certain; one that comes later does not matter.
//!
//! Here the verb is found. What follows it is read by [`altered`], [`defined`] and [`written`].

mod altered;
mod asked;
mod defined;
mod written;

use super::admission::explained::explained;
use super::tokens::{Token, Tokens, statements};

pub(in crate::engine) use asked::Asked;

use altered::alteration;
use defined::{comment, creation, removal};
use written::{insertion, skip_queries, writes};

/// A name with its qualifiers, as DuckDB knows them; `None` where it is not certain.
pub(in crate::engine) type Named = Option<Vec<String>>;

/// Words of which one is in each statement that deletes or changes rows.
pub(in crate::engine) const CHANGING: &[&str] =
    &["delete", "merge", "replace", "truncate", "update"];

/// What a statement does.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum Deed {
    /// It reads, or is only explained, or is about the session.
    Nothing,
    /// Its words do not tell: its kind and its script must do.
    Doubt,
    Alters {
        table: Named,
        how: How,
    },
    /// Alters a table, called a view, an index or a sequence: DuckDB takes that for the table, too.
    Disguised,
    Creates {
        what: What,
        name: Named,
        /// Whether it takes the place of what has the name.
        replaces: bool,
        is_temporary: bool,
        /// Whether it makes nothing where the name is taken.
        may_be_there: bool,
        /// Whether it is a table that a query fills.
        is_filled: bool,
    },
    MakesIndex {
        name: Option<String>,
        table: Named,
    },
    Drops {
        what: What,
        name: Named,
        /// Whether what depends on it goes, too.
        cascades: bool,
    },
    CommentsOnIndex,
    /// Defines something that leaves all rows where they are.
    Defines,
    Writes {
        table: Named,
        change: Change,
    },
}

/// How a table is altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum How {
    Renames,
    /// Leaves its rows where they are.
    Keeps,
    /// Makes new values of a column, be it for a field of it that comes, goes or gets another name.
    ChangesType,
    /// Makes a primary key.
    AddsKey,
    /// Puts its rows into another storage in another way.
    Moves,
    /// In one of these ways: it is in doubt which.
    Any,
}

/// What is made or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum What {
    Table,
    Schema,
    Index,
    Type,
    Sequence,
    Macro,
    Other,
}

/// How rows are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Change {
    Adds,
    /// Leaves rows in their places where no column of an index is changed.
    Updates,
    /// May take rows away that are there.
    Deletes,
}

impl Deed {
    /// Reads a statement: what it does, or what the one does that it explains, where that is run.
    pub(in crate::engine) fn of(text: &str) -> Self {
        let Some(statement) = statements(text).next() else {
            return Self::Nothing;
        };
        match explained(statement.clone()) {
            None => read(statement),
            Some(explained) if explained.kind.is_none() => Self::Doubt,
            Some(explained) if explained.is_run => read(explained.statement),
            Some(_) => Self::Nothing,
        }
    }
}

/// A name without its qualifiers.
pub(in crate::engine) fn own_name(name: Option<&[String]>) -> Option<&str> {
    name?.last().map(String::as_str)
}

fn read(mut statement: Tokens<'_>) -> Deed {
    let before = statement.clone();
    if statement.accept(&["with"]) && !skip_queries(&mut statement) {
        // Only what reads or changes rows has queries before it.
        let change = match CHANGING.iter().any(|word| before.may_say(word)) {
            true => Change::Deletes,
            false => Change::Adds,
        };
        return Deed::Writes {
            table: None,
            change,
        };
    }
    let rest = &mut statement;
    if rest.accept(&["alter"]) {
        return alteration(rest);
    }
    if rest.accept(&["create"]) {
        return creation(rest);
    }
    if rest.accept(&["drop"]) {
        return removal(rest);
    }
    if rest.accept(&["comment"]) {
        return comment(rest);
    }
    if rest.accept(&["insert"]) {
        return insertion(rest);
    }
    if rest.accept(&["update"]) {
        return writes(rest, Change::Updates);
    }
    if rest.accept(&["truncate"]) {
        rest.accept(&["table"]);
        return writes(rest, Change::Deletes);
    }
    for (verb, before_table) in [("delete", "from"), ("merge", "into")] {
        if rest.accept(&[verb]) {
            return match rest.accept(&[before_table]) {
                true => writes(rest, Change::Deletes),
                false => Deed::Doubt,
            };
        }
    }
    match rest.peek() {
        Some(Token::Doubt) => Deed::Doubt,
        // What it runs stands elsewhere.
        Some(first) if first.is("execute") => Deed::Doubt,
        _ => Deed::Nothing,
    }
}

/// What follows a name; in doubt where that ends, the name is a part of it.
fn behind<'a>(name: &Named, rest: &Tokens<'a>, before: &Tokens<'a>) -> Tokens<'a> {
    match name {
        Some(_) => rest.clone(),
        None => before.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::tokens::reads_of_each;

    pub(super) fn named(parts: &[&str]) -> Named {
        let parts = parts.iter().map(|&part| part.to_owned());
        Some(parts.collect())
    }

    #[track_caller]
    pub(super) fn assert_deeds(cases: impl IntoIterator<Item = (&'static str, Deed)>) {
        for (sql, deed) in cases {
            assert_eq!(Deed::of(sql), deed, "{sql}");
        }
    }

    #[test]
    fn what_reads_or_is_only_explained_does_nothing() {
        for sql in [
            "",
            ";;",
            "SELECT 1",
            "(SELECT 1)",
            "FROM t",
            "WITH c AS (SELECT 1) SELECT replace('delete from t', 'a', 'b') AS update",
            "WITH c AS (SELECT 1) (SELECT f(1) delete FROM c)",
            "PIVOT t ON c USING sum(i)",
            "SET x = 1",
            "BEGIN",
            "CALL f('insert into t')",
            "SELECT é; DELETE FROM t",
            "'delete from t'",
            "\"delete\" FROM t",
            "EXPLAIN DELETE FROM t",
            "EXPLAIN (FORMAT json) ALTER TABLE t RENAME TO u",
            "EXPLAIN VERBOSE CREATE INDEX i ON t (c)",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE) (SELECT 1)",
        ] {
            assert_eq!(Deed::of(sql), Deed::Nothing, "{sql}");
        }
    }

    #[test]
    fn a_doubt_in_front_of_what_decides_is_one() {
        for sql in [
            ";\u{a0}CREATE INDEX i ON t (c)",
            "é; ALTER TABLE t ADD COLUMN i INTEGER",
            "CREATE\u{a0}OR REPLACE TABLE p AS SELECT 1",
            "CREATE OR\u{a0}REPLACE TABLE t (i INTEGER)",
            "CREATE OR REPLACE\u{a0}TABLE t (i INTEGER)",
            "CREATE TEMP\u{a0}TABLE t (i INTEGER)",
            "DROP\u{a0}SCHEMA s CASCADE",
            "DROP\u{a0}INDEX i",
            "INSERT\u{a0}INTO t VALUES (1)",
            "INSERT\u{a0}OR REPLACE INTO t VALUES (1)",
            "INSERT OR\u{a0}REPLACE INTO t VALUES (1)",
            "DELETE\u{a0}FROM t",
            "MERGE\u{a0}INTO t USING s ON true WHEN MATCHED THEN DELETE",
            "ALTER\u{a0}TABLE t RENAME TO u",
            "COMMENT\u{a0}ON INDEX i IS 'x'",
            "COMMENT ON\u{a0}INDEX i IS 'x'",
            "WITH c AS (SELECT 1)\u{a0}DELETE FROM t",
            "EXPLAIN\u{a0}ANALYZE DELETE FROM t",
            "EXPLAIN (ANALYZE, \u{a0}e) DELETE FROM t",
            "EXPLAIN ANALYZE \u{a0}DELETE FROM t",
            "EXECUTE p",
        ] {
            assert_eq!(Deed::of(sql), Deed::Doubt, "{sql}");
        }
    }

    #[test]
    fn a_long_statement_is_looked_through_no_more_often_than_a_short_one() {
        for part in [
            ";",
            "(",
            ")",
            "with c as (",
            "with c as () , ",
            "explain analyze ",
            "explain (analyze) (",
            "a.",
            "update.",
            "update s.",
            "insert into t conflict ",
            "create temp ",
            "create table t (",
            "alter table t add ",
            "drop table t. ",
            "comment on ",
            "only (",
            "if not exists ",
        ] {
            for begin in ["", "with c as (select 1) ", "insert into ", "alter table "] {
                for end in ["", "\u{a0} delete"] {
                    let sql = format!("{begin}{}{end}", part.repeat(1 << 12));
                    let reads = reads_of_each(&sql, || drop(Deed::of(&sql)));
                    assert!(reads < 32, "{begin}{part}{end}: {reads}");
                }
            }
        }
    }
}
