//! Other names for tables, and a log that can be replayed all the same.
//!
//! DuckDB 1.5.5 logs rows under the name that their table has at that moment, and gives it a new one when the statement runs,
//! not when that is committed (`DuckTableEntry::AlterEntry`). What others commit in between is logged under a name that the log
//! does not know yet, or that is another table's there: after a kill the database does not open, or the rows are in that table. And
//! where the statement fails because another transaction has altered the table, DuckDB does not take the name back at all.
//!
//! So nobody commits anything from such a statement to its commit, which no client has in its hands; and the table is
//! [claimed](super::claim) first, by a rename to the name that it has.

use duck_flight_protocol::quote;
use parking_lot::RwLockReadGuard;

use crate::engine::connections::commits::Alone;
use crate::engine::ffi::Connection;
use crate::engine::sql::tokens::{
    begins_with, count_pairs, is_certain, single_statements, statements, tokens,
};

/// Whether a script may give a table another name, or a view.
pub(in crate::engine) fn may_rename_table(sql: &str) -> bool {
    if let Some((_, pairs)) = count_pairs(sql, "rename", "to") {
        return pairs > 0;
    }
    let sql = sql.to_ascii_lowercase();
    sql.match_indices("rename").any(|(at, rename)| {
        let rest = sql[at + rename.len()..].trim_start_matches(|c: char| c.is_ascii_whitespace());
        rest.starts_with("to") || !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '"')
    })
}

/// Whether a script gives tables other names, and drops some, in a transaction of its own.
pub(in crate::engine) fn is_swap(sql: &str) -> bool {
    let may_begin = begins_with(sql, &["begin", "start"]) && may_rename_table(sql);
    let statements = may_begin.then(|| single_statements(sql)).flatten();
    match statements.as_deref() {
        Some([begin, between @ .., commit]) => {
            let changes = |sql: &&str| renamed(sql).is_some() || drops_table(sql);
            is_all(begin, &[&["begin", "start"], &["transaction", "work"]])
                && is_all(commit, &[&["commit", "end"], &["transaction", "work"]])
                && between.iter().all(changes)
        }
        _ => false,
    }
}

/// Keeps others from committing anything while such a script runs; in the order in which a statement takes both that defines
/// something.
pub(in crate::engine) fn exclude_commits(
    connection: &Connection,
) -> (RwLockReadGuard<'_, ()>, Alone<'_>) {
    let definitions = connection.definitions().read();
    (definitions, connection.commits().alone())
}

/// The parts of the name of the table that a statement renames, quoted.
pub(super) fn renamed(sql: &str) -> Option<Vec<String>> {
    let mut tokens = statements(sql).next().filter(|_| is_certain(sql))?;
    if !tokens.accept_all(&["alter", "table"]) {
        return None;
    }
    let table = tokens.altered_table()?;
    let renames = tokens.accept_all(&["rename", "to"]);
    tokens.next()?.name()?;
    let ends = tokens.until_end().next().is_none();
    (renames && ends).then(|| table.iter().map(|part| quote(part)).collect())
}

fn drops_table(sql: &str) -> bool {
    tokens(sql).accept_all(&["drop", "table"])
}

/// Whether a statement is one of the first words, and perhaps one of the second.
fn is_all(sql: &str, [first, second]: &[&[&str]; 2]) -> bool {
    let mut tokens = tokens(sql);
    let begins = tokens.accept(first);
    tokens.accept(second);
    begins && tokens.until_end().next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::tokens::reads_of_each;

    #[test]
    fn what_renames_a_table_is_told_from_what_does_not() {
        for (sql, renames) in [
            ("ALTER TABLE t RENAME TO u", true),
            ("alter table t rename/**/\nto u", true),
            ("EXPLAIN ANALYZE ALTER TABLE t RENAME TO u", true),
            ("ALTER TABLE größe RENAME TO u", true),
            ("ALTER TABLE größe RENAME -- COLUMN\n TO u", true),
            ("ALTER TABLE größe RENAME\u{a0}TO u", true),
            ("ALTER TABLE größe RENAME COLUMN i TO j", false),
            ("ALTER TABLE t RENAME i TO j", false),
            ("ALTER TABLE t RENAME COLUMN i TO j", false),
            ("COMMENT ON TABLE t IS 'rename to'", false),
        ] {
            assert_eq!(may_rename_table(sql), renames, "{sql}");
        }
    }

    #[test]
    fn the_table_that_is_renamed_is_found_where_the_statement_is_plain() {
        for (sql, name) in [
            ("ALTER TABLE t RENAME TO u", Some("\"t\"")),
            (
                "alter table IF EXISTS a.\"b \"\"\" . T rename to \"ü\" ; -- end",
                Some("\"a\".\"b \"\"\".\"T\""),
            ),
            ("ALTER TABLE if RENAME TO u", Some("\"if\"")),
            ("ALTER TABLE ONLY t RENAME TO u", Some("\"t\"")),
            ("ALTER TABLE $$t$$ RENAME TO u", Some("\"t\"")),
            (";; ALTER TABLE t RENAME TO u;", Some("\"t\"")),
            ("ALTER TABLE ONLY (s.t) RENAME TO u", Some("\"s\".\"t\"")),
            ("ALTER TABLE t RENAME TO u, ADD COLUMN i INTEGER", None),
            ("ALTER TABLE (t) RENAME TO u", None),
            ("ALTER TABLE größe RENAME TO u", Some("\"größe\"")),
            ("ALTER TABLE t\u{a0}u RENAME TO v", None),
            ("ALTER TABLE t ADD COLUMN rename TO", None),
        ] {
            let found = renamed(sql).map(|parts| parts.join("."));
            assert_eq!(found.as_deref(), name, "{sql}");
        }
    }

    #[test]
    fn only_renames_and_drops_in_one_transaction_are_a_swap() {
        for (sql, is_one) in [
            ("BEGIN; ALTER TABLE t RENAME TO u; COMMIT", true),
            (
                "begin transaction;; drop table if exists old; alter table t rename to old;
                 alter table next rename to t; end;",
                true,
            ),
            (
                "START TRANSACTION; ALTER TABLE t RENAME TO u; COMMIT WORK;",
                true,
            ),
            ("BEGIN; ALTER TABLE t RENAME TO u", false),
            ("BEGIN; ALTER TABLE t RENAME TO u; ROLLBACK", false),
            ("BEGIN; ALTER TABLE t RENAME TO u; COMMIT; SELECT 1", false),
            ("BEGIN; ALTER TABLE t RENAME TO u; SELECT 1; COMMIT", false),
            ("BEGIN; ALTER TABLE größe RENAME TO u; COMMIT", true),
            ("BEGIN; ALTER TABLE t\u{a0}u RENAME TO v; COMMIT", false),
            ("ALTER TABLE t RENAME TO u", false),
            ("BEGIN; DROP TABLE t; COMMIT", false),
        ] {
            assert_eq!(is_swap(sql), is_one, "{sql}");
        }
    }

    #[test]
    fn a_long_script_is_looked_through_no_more_often_than_a_short_one() {
        for part in [
            "begin;",
            "alter table t rename to u;",
            "rename ",
            "a.",
            "begin; drop table ",
        ] {
            for end in ["", "\u{a0} rename"] {
                let sql = format!("begin; {}{end}", part.repeat(1 << 12));
                let reads = reads_of_each(&sql, || {
                    may_rename_table(&sql);
                    is_swap(&sql);
                    renamed(&sql);
                });
                assert!(reads < 64, "{part}: {reads}");
            }
        }
    }
}
