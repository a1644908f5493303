//! Tables that a foreign key refers to.
//!
//! DuckDB 1.5.5 refuses to replace and to rename such a table for what depends on it, and forgets that once the table that
//! refers to it was altered. Its log then drops a table, which the replay refuses for its foreign key, or renames one, and the
//! database cannot be opened any more. Where the table that refers is renamed, the other one keeps its old name, by which it
//! is looked for in vain.
//!
//! So each of these is refused by the constraints that are there.

use duck_flight_protocol::TableName;

use crate::engine::catalog::texts;
use crate::engine::ffi::{Connection, StatementKind};
use crate::engine::rows::types::same_name;
use crate::engine::sql::admission::run_by;
use crate::engine::sql::tokens::{contains_any_word, contains_word};
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::Result;

/// The foreign keys of tables that others also see: where they are, which table refers, and to which one.
const FOREIGN_KEYS_SQL: &str = "
    SELECT database_name, schema_name, table_name, referenced_table FROM system.main.duckdb_constraints()
    WHERE constraint_type = 'FOREIGN KEY' AND database_name <> 'temp'";

/// Refuses a statement that replaces or renames a table of a foreign key, or drops it with its schema. `statement` is the one of
/// the script, where that is certain. To be asked in its transaction, before it runs.
pub(in crate::engine) fn check(
    connection: &Connection,
    kind: StatementKind,
    statement: Option<&str>,
    script: &str,
) -> Result<()> {
    let defines = matches!(
        kind,
        StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
    );
    let words = &["cascade", "rename", "replace"];
    if !defines || !contains_any_word(statement.unwrap_or(script), words) {
        return Ok(());
    }
    match Step::of(statement, script) {
        Some(step) => step.check(connection),
        None => Ok(()),
    }
}

/// Refuses to replace a table that a foreign key refers to.
pub(in crate::engine) fn check_replaced(connection: &Connection, table: &TableName) -> Result<()> {
    Step::Replaces(Some(table.path())).check(connection)
}

/// What a statement does to tables. Names have their qualifiers, and are `None` where they are not certain.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Replaces(Option<Vec<String>>),
    Renames(Option<Vec<String>>),
    DropsSchema(Option<Vec<String>>),
}

impl Step {
    fn of(statement: Option<&str>, script: &str) -> Option<Self> {
        let Some(statement) = statement else {
            // To rename a table in doubt is refused anyway.
            let says = |word| contains_word(script, word);
            return if says("replace") && says("table") {
                Some(Self::Replaces(None))
            } else {
                (says("cascade") && says("schema")).then_some(Self::DropsSchema(None))
            };
        };
        let mut rest = run_by(statement)?;
        if rest.accept_all(&["alter", "table"]) {
            let name = rest.altered_table();
            let renames = rest.accept_all(&["rename", "to"]);
            return renames.then_some(Self::Renames(name));
        }
        if rest.accept_all(&["drop", "schema"]) {
            rest.accept_all(&["if", "exists"]);
            let name = rest.qualified_name();
            let drops_tables = contains_word(statement, "cascade");
            return drops_tables.then_some(Self::DropsSchema(name));
        }
        let replaces = rest.accept_all(&["create", "or", "replace", "table"]);
        replaces.then(|| Self::Replaces(rest.qualified_name()))
    }

    fn check(&self, connection: &Connection) -> Result<()> {
        let keys = texts::<4>(connection, FOREIGN_KEYS_SQL)?;
        match keys.iter().find_map(|key| self.refusal(key)) {
            Some(message) => Err(SqlError::new(SqlErrorKind::Invalid, message).into()),
            None => Ok(()),
        }
    }

    /// Why it is refused for a foreign key.
    fn refusal(&self, key: &[String; 4]) -> Option<String> {
        let [_, schema, table, referenced] = key;
        let depends = format!("table \"{table}\" depends on table \"{referenced}\"");
        match self {
            Self::Replaces(name) => {
                let is_replaced = !same_name(table, referenced) && may_be(name, key, referenced);
                is_replaced.then(|| {
                    format!(
                        "Dependency Error: Cannot drop entry \"{referenced}\" because there are entries that depend on it: \
                         {depends}. DROP that one first, or DELETE the rows and INSERT others"
                    )
                })
            }
            Self::Renames(name) => {
                let mut tables = [referenced, table].into_iter();
                let renamed = tables.find(|table| may_be(name, key, table))?;
                Some(format!(
                    "Dependency Error: Cannot alter entry \"{renamed}\" because of a foreign key: {depends}, and DuckDB 1.5.5 \
                     looks for it by its old name. Make a table of the new name, and DROP the old one"
                ))
            }
            Self::DropsSchema(name) => {
                let name = name.as_ref().and_then(|parts| parts.last());
                let is_dropped = !same_name(table, referenced)
                    && name.is_none_or(|name| same_name(name, schema));
                is_dropped.then(|| {
                    format!(
                        "Dependency Error: Cannot drop entry \"{schema}\" because of a foreign key in it: {depends}. DROP \
                         TABLE \"{table}\" first"
                    )
                })
            }
        }
    }
}

/// Whether a name with its qualifiers may be that of this table, which is where the key is; one that is not certain may be.
fn may_be(name: &Option<Vec<String>>, [database, schema, ..]: &[String; 4], table: &str) -> bool {
    match name.as_deref() {
        None => true,
        Some([own]) => same_name(own, table),
        Some([one, own]) => {
            same_name(own, table) && (same_name(one, schema) || same_name(one, database))
        }
        Some([.., its_schema, own]) => same_name(own, table) && same_name(its_schema, schema),
        Some([]) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_table_away_is_told_from_what_does_not() {
        let name = |parts: &[&str]| Some(parts.iter().map(|&part| part.to_owned()).collect());
        for (sql, expected) in [
            (
                "CREATE OR REPLACE TABLE s.\"T x\" AS SELECT 1",
                Some(Step::Replaces(name(&["s", "T x"]))),
            ),
            (
                "explain analyze create or replace table p (i integer)",
                Some(Step::Replaces(name(&["p"]))),
            ),
            (
                "CREATE OR REPLACE TABLE 🦆 AS SELECT 1",
                Some(Step::Replaces(None)),
            ),
            (
                "ALTER TABLE IF EXISTS p RENAME TO q",
                Some(Step::Renames(name(&["p"]))),
            ),
            (
                "DROP SCHEMA IF EXISTS db.s CASCADE",
                Some(Step::DropsSchema(name(&["db", "s"]))),
            ),
            ("EXPLAIN CREATE OR REPLACE TABLE p (i INTEGER)", None),
            ("CREATE OR REPLACE TEMP TABLE p (i INTEGER)", None),
            ("CREATE TABLE IF NOT EXISTS p (i INTEGER)", None),
            ("CREATE OR REPLACE VIEW p AS SELECT 1", None),
            ("ALTER TABLE p RENAME COLUMN i TO j", None),
            ("DROP SCHEMA s", None),
            ("DROP TABLE p CASCADE", None),
        ] {
            assert_eq!(Step::of(Some(sql), sql), expected, "{sql}");
        }
        let script = "SELECT é; CREATE OR REPLACE TABLE p AS SELECT 1";
        assert_eq!(Step::of(None, script), Some(Step::Replaces(None)));
    }

    #[test]
    fn a_table_that_refers_to_itself_may_be_replaced_but_not_renamed() {
        let key = |to: &str| ["db", "s", "c", to].map(str::to_owned);
        let name = |parts: &[&str]| Some(parts.iter().map(|&part| part.to_owned()).collect());
        let refused = |step: Step, to: &str| step.refusal(&key(to)).is_some();
        for parts in [&["P"][..], &["s", "p"], &["db", "p"], &["db", "s", "p"]] {
            assert!(refused(Step::Replaces(name(parts)), "p"), "{parts:?}");
        }
        assert!(!refused(Step::Replaces(name(&["other", "p"])), "p"));
        assert!(!refused(Step::Replaces(name(&["c"])), "p"));
        assert!(!refused(Step::Replaces(name(&["c"])), "c"));
        assert!(refused(Step::Renames(name(&["c"])), "c"));
        assert!(refused(Step::Renames(name(&["p"])), "p"));
        assert!(refused(Step::DropsSchema(name(&["S"])), "p"));
        assert!(!refused(Step::DropsSchema(name(&["other"])), "p"));
    }
}
