//! Tables that a foreign key refers to.
//!
//! DuckDB 1.5.5 refuses to replace and to rename such a table for what depends on it, and forgets that once the table that
//! refers to it was altered. Its log then drops a table, which the replay refuses for its foreign key, or renames one, and the
//! database cannot be opened any more. Where the table that refers is renamed, the other one keeps its old name, by which it
//! is looked for in vain. A CASCADE takes either table with what its expressions use, and asks for no foreign key then: a sequence, a
//! macro or a type, in a default, a check or a generated column, or what owns such a sequence, or the schema of one of these. Where it takes
//! the table that refers, the other one can be neither dropped nor deleted from any more. The type of a column takes nothing.
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

/// What takes a table of a foreign key with it where it is dropped with a CASCADE, and that table: where it is, its name, and what it is. A
/// sequence and what owns it take each other. DuckDB tells what depends on what of the current database only: where that is another one, it
/// may be anything, but tables and views only where there is a sequence to own.
const TAKERS_SQL: &str = "
    WITH RECURSIVE entries AS (
        SELECT 'table' AS kind, table_oid AS oid, database_name, schema_name, table_name AS name
        FROM system.main.duckdb_tables() WHERE NOT internal
        UNION ALL
        SELECT 'view', view_oid, database_name, schema_name, view_name
        FROM system.main.duckdb_views() WHERE NOT internal
        UNION ALL
        SELECT 'sequence', sequence_oid, database_name, schema_name, sequence_name
        FROM system.main.duckdb_sequences()
        UNION ALL
        SELECT 'type', type_oid, database_name, schema_name, type_name
        FROM system.main.duckdb_types() WHERE NOT internal
        UNION ALL
        SELECT 'macro', function_oid, database_name, schema_name, function_name
        FROM system.main.duckdb_functions() WHERE NOT internal
    ), keyed AS (
        SELECT DISTINCT e.oid, e.name
        FROM system.main.duckdb_constraints() k JOIN entries e ON e.kind = 'table'
            AND e.database_name = k.database_name AND e.schema_name = k.schema_name
            AND system.main.lower(e.name) IN (system.main.lower(k.table_name), system.main.lower(k.referenced_table))
        WHERE k.constraint_type = 'FOREIGN KEY' AND k.database_name <> 'temp'
            AND system.main.lower(k.table_name) <> system.main.lower(k.referenced_table)
    ), dependencies AS (
        SELECT d.objid AS used, d.refobjid AS dependent, d.deptype FROM system.main.duckdb_dependencies() d
        WHERE NOT (d.objid IN (SELECT oid FROM keyed) AND d.refobjid IN (SELECT oid FROM keyed))
    ), steps AS (
        SELECT used AS taker, dependent AS taken FROM dependencies
        UNION ALL
        SELECT dependent, used FROM dependencies
        WHERE deptype = 'a' AND used IN (SELECT oid FROM entries WHERE kind = 'sequence')
    ), takers AS (
        SELECT s.taker, k.oid AS goes FROM steps s JOIN keyed k ON k.oid = s.taken
        UNION
        SELECT s.taker, t.goes FROM takers t JOIN steps s ON s.taken = t.taker
    )
    SELECT e.database_name, e.schema_name, e.name, e.kind, k.name
    FROM entries e CROSS JOIN keyed k LEFT JOIN takers t ON t.taker = e.oid AND t.goes = k.oid
    WHERE e.oid <> k.oid AND e.database_name <> 'temp' AND (
        t.taker IS NOT NULL
        OR system.main.current_database() IN ('system', 'temp') AND (
            e.kind NOT IN ('table', 'view') OR EXISTS (FROM entries WHERE kind = 'sequence')))
    ORDER BY ALL";

/// Refuses a statement that replaces or renames a table of a foreign key, or drops it with its schema or with what it uses. To be asked
/// in its transaction, before it runs.
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
    /// Drops this, and what uses it; of any kind where that is not certain.
    Drops(Option<What>, Option<&'a [String]>),
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
                what,
                name,
                cascades: true,
            } => Some(Self::Drops(Some(*what), name.as_deref())),
            Deed::Doubt if asked.may_define() => {
                // To rename a table in doubt is refused anyway.
                if asked.says("replace") && asked.says("table") {
                    return Some(Self::Replaces(None));
                }
                if !asked.says("drop") || !asked.says("cascade") {
                    return None;
                }
                Some(match asked.says("schema") {
                    true => Self::DropsSchema(None),
                    false => Self::Drops(None, None),
                })
            }
            _ => None,
        }
    }

    fn check(&self, connection: &Connection) -> Result<()> {
        let keys = texts::<4>(connection, FOREIGN_KEYS_SQL)?;
        let is_of_two = |[_, _, table, referenced]: &[String; 4]| !same_name(table, referenced);
        let mut refusal = keys.iter().find_map(|key| self.refusal(key));
        if matches!(self, Self::DropsSchema(_) | Self::Drops(..))
            && refusal.is_none()
            && keys.iter().any(is_of_two)
        {
            let takers = texts::<5>(connection, TAKERS_SQL)?;
            refusal = takers.iter().find_map(|taker| self.refusal_of(taker));
        }
        match refusal {
            Some(message) => Err(SqlError::new(SqlErrorKind::Invalid, message).into()),
            None => Ok(()),
        }
    }

    /// Why it is refused for a foreign key.
    fn refusal(&self, key: &[String; 4]) -> Option<String> {
        let [database, schema, table, referenced] = key;
        let depends = format!("table \"{table}\" depends on table \"{referenced}\"");
        match self {
            Self::Replaces(name) => {
                let is_replaced =
                    !same_name(table, referenced) && may_be(*name, [database, schema], referenced);
                is_replaced.then(|| {
                    format!(
                        "Dependency Error: Cannot drop entry \"{referenced}\" because there are entries that depend on it: \
                         {depends}. DROP that one first, or DELETE the rows and INSERT others"
                    )
                })
            }
            Self::Renames(name) => {
                let mut tables = [referenced, table].into_iter();
                let renamed = tables.find(|table| may_be(*name, [database, schema], table))?;
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
            Self::Drops(..) => None,
        }
    }

    /// Why it is refused for what takes a table of a foreign key with it.
    fn refusal_of(&self, taker: &[String; 5]) -> Option<String> {
        let [database, schema, name, kind, table] = taker;
        let drops_it = match self {
            Self::Replaces(_) | Self::Renames(_) => false,
            Self::DropsSchema(dropped) => {
                own_name(*dropped).is_none_or(|dropped| same_name(dropped, schema))
            }
            Self::Drops(what, dropped) => {
                what.is_none_or(|what| kind_of(what) == Some(kind.as_str()))
                    && may_be(*dropped, [database, schema], name)
            }
        };
        drops_it.then(|| {
            format!(
                "Dependency Error: Cannot drop {kind} \"{name}\" with CASCADE: table \"{table}\" depends on it, or may, and has a \
                 foreign key, for which DuckDB 1.5.5 does not ask. DROP what uses it first, one by one, and then this without CASCADE"
            )
        })
    }
}

/// The kind of what is dropped, as [`TAKERS_SQL`] has it; `None` for what takes no table with it.
fn kind_of(what: What) -> Option<&'static str> {
    match what {
        What::Table => Some("table"),
        What::Type => Some("type"),
        What::Sequence => Some("sequence"),
        What::Macro => Some("macro"),
        // Of these, a view may own a sequence.
        What::Other => Some("view"),
        What::Schema | What::Index => None,
    }
}

/// Whether a name with its qualifiers may be that of a table, or of something else, in this database and schema; one that is not certain
/// may be.
fn may_be(name: Option<&[String]>, [database, schema]: [&str; 2], table: &str) -> bool {
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
        use Step::{Drops, DropsSchema, Renames, Replaces};
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
        for (sql, what, parts) in [
            ("DROP SEQUENCE s CASCADE", What::Sequence, &["s"][..]),
            ("; DROP TYPE IF EXISTS s.e CASCADE", What::Type, &["s", "e"]),
            ("DROP MACRO f CASCADE", What::Macro, &["f"]),
            ("drop function if exists f cascade", What::Macro, &["f"]),
            ("DROP TABLE p CASCADE", What::Table, &["p"]),
            ("DROP VIEW v CASCADE", What::Other, &["v"]),
        ] {
            assert_step(sql, Some(Drops(Some(what), Some(&name(parts)))));
        }
        assert_step("DROP\u{a0}SCHEMA s CASCADE", Some(DropsSchema(None)));
        for sql in ["DROP\u{a0}TYPE e CASCADE", "DROP\u{a0}MACRO f CASCADE"] {
            assert_step(sql, Some(Drops(None, None)));
        }
        for sql in [
            "EXPLAIN CREATE OR REPLACE TABLE p (i INTEGER)",
            "CREATE OR REPLACE TEMP TABLE p (i INTEGER)",
            "CREATE TABLE IF NOT EXISTS p (i INTEGER)",
            "CREATE OR REPLACE VIEW p AS SELECT 1",
            "ALTER TABLE p RENAME COLUMN i TO j",
            "DROP SCHEMA s",
            "DROP SEQUENCE s",
            "DROP MACRO f",
            "DROP TABLE p",
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
        assert!(!refused(Step::DropsSchema(Some(&name(&["s"]))), "C"));
    }

    #[test]
    fn what_takes_a_table_with_it_is_told_by_its_kind_and_name() {
        let taker = ["db", "u", "F", "macro", "p"].map(str::to_owned);
        let refused = |step: Step<'_>| step.refusal_of(&taker).is_some();
        let f = name(&["f"]);
        assert!(refused(Step::Drops(Some(What::Macro), Some(&f))));
        assert!(!refused(Step::Drops(Some(What::Sequence), Some(&f))));
        assert!(!refused(Step::Drops(Some(What::Index), Some(&f))));
        assert!(refused(Step::Drops(Some(What::Macro), None)));
        assert!(refused(Step::Drops(None, None)));
        let other = name(&["other", "f"]);
        assert!(!refused(Step::Drops(Some(What::Macro), Some(&other))));
        assert!(refused(Step::DropsSchema(Some(&name(&["db", "U"])))));
        assert!(refused(Step::DropsSchema(None)));
        assert!(!refused(Step::DropsSchema(Some(&name(&["other"])))));
    }
}
