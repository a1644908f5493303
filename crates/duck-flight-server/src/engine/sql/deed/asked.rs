//! A statement with what is known of it, and the answers to who must know which rows it changes.

use super::{CHANGING, Change, Deed};
use crate::engine::ffi::StatementKind;
use crate::engine::sql::admission::may_contain;

/// A statement, as those are asked about it who must know what it does.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Asked<'a> {
    pub(in crate::engine) kind: StatementKind,
    pub(in crate::engine) deed: &'a Deed,
    pub(in crate::engine) script: &'a str,
}

impl<'a> Asked<'a> {
    /// Whether it defines something by its kind, or explains what may.
    pub(in crate::engine) fn may_define(self) -> bool {
        matches!(
            self.kind,
            StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
        )
    }

    /// Whether a word is part of its script, or may be.
    pub(in crate::engine) fn says(self, word: &str) -> bool {
        may_contain(self.script, word)
    }

    /// Of which table it may delete or change rows that are there, and how; `None` where it does neither.
    pub(in crate::engine) fn change(self) -> Option<(Change, Option<&'a [String]>)> {
        if !matches!(self.kind, StatementKind::Rows | StatementKind::Explain) {
            return None;
        }
        match self.deed {
            Deed::Writes {
                change: Change::Adds,
                ..
            } => None,
            Deed::Writes { table, change } => Some((*change, table.as_deref())),
            Deed::Doubt => {
                let may_change = CHANGING.iter().any(|word| self.says(word));
                may_change.then_some((Change::Deletes, None))
            }
            _ => None,
        }
    }

    /// To which table it may write rows, and how; `None` where it writes none.
    pub(in crate::engine) fn write(self) -> Option<(Change, Option<&'a [String]>)> {
        if let Some(change) = self.change() {
            return Some(change);
        }
        if !matches!(self.kind, StatementKind::Rows | StatementKind::Explain) {
            return None;
        }
        match self.deed {
            Deed::Writes { table, .. } => Some((Change::Adds, table.as_deref())),
            Deed::Doubt => self.says("insert").then_some((Change::Adds, None)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a statement that DuckDB takes for one of this kind changes rows that are there.
    fn change(kind: StatementKind, sql: &str) -> Option<Change> {
        let asked = Asked {
            kind,
            deed: &Deed::of(sql),
            script: sql,
        };
        asked.change().map(|(change, _)| change)
    }

    #[test]
    fn a_statement_that_takes_rows_away_is_told_from_one_that_adds_some() {
        use Change::{Deletes, Updates};
        use StatementKind::{Definition, Explain, Rows, Select};
        for (kind, sql, expected) in [
            (Rows, "DELETE FROM t", Some(Deletes)),
            (Rows, "; /* */ truncate t", Some(Deletes)),
            (Rows, "\u{a0}DELETE FROM t", Some(Deletes)),
            (Rows, ";\u{a0}DELETE FROM t", Some(Deletes)),
            (
                Rows,
                "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
                Some(Deletes),
            ),
            (Rows, "WITH c AS (SELECT 1) DELETE FROM t", Some(Deletes)),
            (Rows, "/* */ update t set c = 1", Some(Updates)),
            (Rows, "INSERT OR REPLACE INTO t VALUES (1)", Some(Deletes)),
            (
                Rows,
                "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET c = 1",
                Some(Deletes),
            ),
            (
                Rows,
                "INSERT\u{a0}OR REPLACE INTO t VALUES (1)",
                Some(Deletes),
            ),
            (Explain, "EXPLAIN ANALYZE DELETE FROM t", Some(Deletes)),
            (
                Rows,
                "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
                None,
            ),
            (
                Rows,
                "INSERT OR IGNORE INTO t SELECT replace(c, 'a', 'b') FROM s",
                None,
            ),
            (Rows, "INSERT INTO t SELECT 'delete from t'", None),
            (
                Rows,
                "ALTER TABLE \"delete\" ADD COLUMN c INTEGER DEFAULT random()",
                None,
            ),
            (Explain, "EXPLAIN DELETE FROM t", None),
            (Select, "SELECT 'update', replace(c, 'a', 'b') FROM t", None),
            (Select, "\u{a0}SELECT replace(c, 'a', 'b') FROM t", None),
            (
                Definition,
                "CREATE OR REPLACE TABLE t AS SELECT 1 AS \"update\"",
                None,
            ),
        ] {
            assert_eq!(change(kind, sql), expected, "{sql}");
        }
        for (script, may_change) in [
            ("SELECT é; UPDATE t SET c = 1", true),
            ("SELECT é; SELECT 1", false),
        ] {
            let in_doubt = Asked {
                kind: Rows,
                deed: &Deed::Doubt,
                script,
            };
            assert_eq!(in_doubt.change().is_some(), may_change, "{script}");
        }
    }
}
