//! Tables that a foreign key refers to.
//!
//! DuckDB 1.5.5 refuses to replace and to rename such a table for what depends on it, and forgets that once the table that
//! refers to it was altered. Its log then drops a table, which the replay refuses for its foreign key, or renames one, and the
//! database cannot be opened any more. Where the table that refers is renamed, the other one keeps its old name, by which it
//! is looked for in vain. What such a table uses takes it with it by a CASCADE: a sequence for a default, a type, or the schema of one.
//!
//! So each of these is refused by the constraints that are there.

use duck_flight_protocol::TableName;

use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::rows::types::same_name;
use crate::engine::sql::deed::{Asked, Deed, How, What, own_name};
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::Result;

/// The foreign keys of tables that others also see: where they are, which table refers, and to which one.
const FOREIGN_KEYS_SQL: &str = "
    SELECT database_name, schema_name, table_name, referenced_table FROM system.main.duckdb_constraints()
    WHERE constraint_type = 'FOREIGN KEY' AND database_name <> 'temp'";

/// The schemas that have something which tables of other schemas may use, and that takes them with it.
const USED_SQL: &str = "
    SELECT schema_name FROM system.main.duckdb_sequences() WHERE database_name <> 'temp'
    UNION
    SELECT schema_name FROM system.main.duckdb_types() WHERE NOT internal AND database_name <> 'temp'";

/// Refuses a statement that replaces or renames a table of a foreign key, or may drop it with its schema or with what it uses. To be
/// asked in its transaction, before it runs.
pub(in crate::engine) fn check(connection: &Connection, asked: Asked<'_>) -> Result<()> {
    match Step::of(asked) {
        Some(step) => step.check(connection),
        None => Ok(()),
    }
}

/// Refuses to replace a table that a foreign key refers to.
pub(in crate::engine) fn check_replaced(connection: &Connection, table: &TableName) -> Result<()> {
    Step::Replaces(Some(&table.path())).check(connection)
}

/// What a statement does to tables. Names have their qualifiers, and are `None` where they are not certain.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Replaces(Option<&'a [String]>),
    Renames(Option<&'a [String]>),
    DropsSchema(Option<&'a [String]>),
    /// Drops what tables may use, and the tables with it.
    DropsUsed,
}

impl<'a> Step<'a> {
    fn of(asked: Asked<'a>) -> Option<Self> {
        match asked.deed {
            Deed::Creates {
                what: What::Table,
                name,
                replaces: true,
                is_temporary: false,
                ..
            } => Some(Self::Replaces(name.as_deref())),
            Deed::Alters {
                table,
                how: How::Renames,
            } => Some(Self::Renames(table.as_deref())),
            Deed::Drops {
                what: What::Schema,
                name,
                cascades: true,
            } => Some(Self::DropsSchema(name.as_deref())),
            Deed::Drops {
                what: What::Sequence | What::Type,
                cascades: true,
                ..
            } => Some(Self::DropsUsed),
            Deed::Doubt if asked.may_define() => {
                // To rename a table in doubt is refused anyway.
                if asked.says("replace") && asked.says("table") {
                    return Some(Self::Replaces(None));
                }
                let mut used = ["schema", "sequence", "type"].iter();
                let drops_used = asked.says("cascade") && used.any(|word| asked.says(word));
                drops_used.then_some(Self::DropsUsed)
            }
            _ => None,
        }
    }

    fn check(&self, connection: &Connection) -> Result<()> {
        let keys = texts::<4>(connection, FOREIGN_KEYS_SQL)?;
        let mut refusal = keys.iter().find_map(|key| self.refusal(key));
        if let Self::DropsSchema(name) = self
            && refusal.is_none()
            && !keys.is_empty()
            && has_used(connection, own_name(*name))?
        {
            refusal = keys.iter().find_map(|key| Self::DropsUsed.refusal(key));
        }
        match refusal {
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
                let is_replaced = !same_name(table, referenced) && may_be(*name, key, referenced);
                is_replaced.then(|| {
                    format!(
                        "Dependency Error: Cannot drop entry \"{referenced}\" because there are entries that depend on it: \
                         {depends}. DROP that one first, or DELETE the rows and INSERT others"
                    )
                })
            }
            Self::Renames(name) => {
                let mut tables = [referenced, table].into_iter();
                let renamed = tables.find(|table| may_be(*name, key, table))?;
                Some(format!(
                    "Dependency Error: Cannot alter entry \"{renamed}\" because of a foreign key: {depends}, and DuckDB 1.5.5 \
                     looks for it by its old name. Make a table of the new name, and DROP the old one"
                ))
            }
            Self::DropsSchema(name) => {
                let is_dropped = !same_name(table, referenced)
                    && own_name(*name).is_none_or(|name| same_name(name, schema));
                is_dropped.then(|| {
                    format!(
                        "Dependency Error: Cannot drop entry \"{schema}\" because of a foreign key in it: {depends}. DROP \
                         TABLE \"{table}\" first"
                    )
                })
            }
            Self::DropsUsed => (!same_name(table, referenced)).then(|| {
                format!(
                    "Dependency Error: Cannot drop with CASCADE what tables may use while there are foreign keys: {depends}, and \
                     DuckDB 1.5.5 may have forgotten that. DROP what uses it first, one by one, and then this without CASCADE"
                )
            }),
        }
    }
}

/// Whether a schema of this name has something that tables of other schemas may use; `None` is any.
fn has_used(connection: &Connection, schema: Option<&str>) -> Result<bool> {
    let schemas = texts::<1>(connection, USED_SQL)?;
    let is_it = |[name]: &[String; 1]| schema.is_none_or(|schema| same_name(schema, name));
    Ok(schemas.iter().any(is_it))
}

/// Whether a name with its qualifiers may be that of this table, which is where the key is; one that is not certain may be.
fn may_be(name: Option<&[String]>, [database, schema, ..]: &[String; 4], table: &str) -> bool {
    match name {
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
    use crate::engine::ffi::StatementKind;

    fn name(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|&part| part.to_owned()).collect()
    }

    #[track_caller]
    fn assert_step(sql: &str, expected: Option<Step<'_>>) {
        let asked = Asked {
            kind: StatementKind::Definition,
            deed: &Deed::of(sql),
            script: sql,
        };
        assert_eq!(Step::of(asked), expected, "{sql}");
    }

    #[test]
    fn what_takes_a_table_away_is_told_from_what_does_not() {
        use Step::{DropsSchema, DropsUsed, Renames, Replaces};
        for (sql, parts) in [
            (
                "CREATE OR REPLACE TABLE s.\"T x\" AS SELECT 1",
                Some(&["s", "T x"][..]),
            ),
            (
                "explain analyze create or replace table p (i integer)",
                Some(&["p"]),
            ),
            (";CREATE OR REPLACE TABLE p (i INTEGER)", Some(&["p"])),
            (
                "CREATE OR REPLACE UNLOGGED TABLE p (i INTEGER)",
                Some(&["p"]),
            ),
            ("CREATE OR REPLACE TABLE t\u{a0}u AS SELECT 1", None),
            ("CREATE\u{a0}OR REPLACE TABLE p AS SELECT 1", None),
        ] {
            let name = parts.map(name);
            assert_step(sql, Some(Replaces(name.as_deref())));
        }
        assert_step(
            "ALTER TABLE IF EXISTS p RENAME TO q",
            Some(Renames(Some(&name(&["p"])))),
        );
        assert_step(
            "DROP SCHEMA IF EXISTS db.s CASCADE",
            Some(DropsSchema(Some(&name(&["db", "s"])))),
        );
        assert_step(
            ";DROP SCHEMA s CASCADE",
            Some(DropsSchema(Some(&name(&["s"])))),
        );
        for sql in [
            "DROP SEQUENCE s CASCADE",
            "; DROP TYPE IF EXISTS s.e CASCADE",
            "DROP\u{a0}SCHEMA s CASCADE",
            "DROP\u{a0}TYPE e CASCADE",
        ] {
            assert_step(sql, Some(DropsUsed));
        }
        for sql in [
            "EXPLAIN CREATE OR REPLACE TABLE p (i INTEGER)",
            "CREATE OR REPLACE TEMP TABLE p (i INTEGER)",
            "CREATE TABLE IF NOT EXISTS p (i INTEGER)",
            "CREATE OR REPLACE VIEW p AS SELECT 1",
            "ALTER TABLE p RENAME COLUMN i TO j",
            "DROP SCHEMA s",
            "DROP SEQUENCE s",
            "DROP TABLE p CASCADE",
            "DROP VIEW v CASCADE",
        ] {
            assert_step(sql, None);
        }
        let in_doubt = Asked {
            kind: StatementKind::Definition,
            deed: &Deed::Doubt,
            script: "SELECT é; CREATE OR REPLACE TABLE p AS SELECT 1",
        };
        assert_eq!(Step::of(in_doubt), Some(Replaces(None)));
    }

    /// Whether a step is refused for a key of table `c` in the schema `s`.
    fn refused(step: Step<'_>, to: &str) -> bool {
        let key = ["db", "s", "c", to].map(str::to_owned);
        step.refusal(&key).is_some()
    }

    #[test]
    fn a_table_that_refers_to_itself_may_be_replaced_but_not_renamed() {
        for parts in [&["P"][..], &["s", "p"], &["db", "p"], &["db", "s", "p"]] {
            let name = name(parts);
            assert!(refused(Step::Replaces(Some(&name)), "p"), "{parts:?}");
        }
        assert!(!refused(Step::Replaces(Some(&name(&["other", "p"]))), "p"));
        let own = name(&["c"]);
        assert!(!refused(Step::Replaces(Some(&own)), "p"));
        assert!(!refused(Step::Replaces(Some(&own)), "c"));
        assert!(refused(Step::Renames(Some(&own)), "c"));
        assert!(refused(Step::Renames(Some(&name(&["p"]))), "p"));
        assert!(refused(Step::DropsSchema(Some(&name(&["S"]))), "p"));
        assert!(!refused(Step::DropsSchema(Some(&name(&["other"]))), "p"));
        assert!(refused(Step::DropsUsed, "p"));
        assert!(!refused(Step::DropsUsed, "C"));
    }
}
