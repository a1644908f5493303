//! Indexes that are made or dropped where their table keeps others, and a log that can be replayed all the same.
//!
//! While DuckDB 1.5.5 replays a log, an index that CREATE INDEX has made is given what rows change as the columns that are in any
//! index of their table by then, and reads them later by those that were in any at the first of them (`UnboundIndex::BufferChunk`,
//! `BoundIndex::ApplyBufferedReplays`). Where another index is made or dropped in between, it reads one column for another: the database
//! cannot be opened any more, or the index lacks keys. What the transaction changes that makes the other one comes before it, too.
//!
//! So a CREATE INDEX or a DROP INDEX beside which others stay runs right behind a checkpoint, and in no client's transaction. The indexes of
//! constraints are never given anything in this way, and DuckDB alters no columns of a table that has others.

use std::time::Duration;

use super::index_work::IndexStep;
use super::named::tables;
use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::ingest::target::TEMPORARY;
use crate::engine::rows::types::same_name;
use crate::engine::sql::deed::Asked;
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::{Error, Result};

/// How long the checkpoint waits for what writes rows: nobody else commits meanwhile.
const PATIENCE: Duration = Duration::from_millis(50);

/// An index that CREATE INDEX has made: the names of its schema and of its table, and its own.
pub(super) type Made = [String; 3];

/// A table that others also see: the names of its schema, and its own. `None` where it is not certain which one.
pub(super) type Shared = Option<[String; 2]>;

const MADE_SQL: &str = "
    SELECT schema_name, table_name, index_name FROM system.main.duckdb_indexes()
    WHERE database_name IN
        (SELECT database_name FROM system.main.duckdb_databases() WHERE path IS NOT NULL)";

/// Makes a checkpoint where a statement must run right behind one. To be called for one in a transaction of the server's own, in a
/// turn, while nobody else commits anything.
pub(in crate::engine) fn checkpoint(connection: &Connection, asked: Asked<'_>) -> Result<()> {
    let Some(step) = IndexStep::of(asked) else {
        return Ok(());
    };
    // Not the client's: that may be in another database, and an interrupt may come.
    let other = connection.another()?;
    if !keeps_any(&step, &made(&other)?, &[]) {
        return Ok(());
    }
    match other.checkpoint(PATIENCE) {
        Err(
            Error::CheckpointBesideRows
            | Error::Sql(SqlError {
                kind: SqlErrorKind::Transaction,
                ..
            }),
        ) => Err(Error::IndexBesideWriters),
        outcome => outcome.map(drop),
    }
}

/// Whether the index that a statement makes is there already, so that it makes none. To be asked while nobody else drops any.
pub(in crate::engine) fn is_there(connection: &Connection, asked: Asked<'_>) -> Result<bool> {
    let Some(step) = IndexStep::of(asked) else {
        return Ok(false);
    };
    let made = made(&connection.another()?)?;
    Ok(makes_none(&step, &table_of(connection, &step)?, &made))
}

/// The indexes that the open transaction sees and a statement may drop, of whatever schema.
pub(super) fn seen(connection: &Connection, step: &IndexStep) -> Result<Vec<Made>> {
    let mut seen = made(connection)?;
    seen.retain(|[.., name]| step.is_of(name));
    Ok(seen)
}

/// Refuses a statement in a client's transaction, which was to drop some of these indexes, where one must not run there. Answers
/// with the tables whose indexes it changes.
pub(super) fn check_inside(
    connection: &Connection,
    step: &IndexStep,
    dropped: &[Made],
) -> Result<Vec<Shared>> {
    let made = made(&connection.another()?)?;
    if keeps_any(step, &made, &gone(connection, dropped)?) {
        return Err(Error::IndexBesideIndex);
    }
    if !step.makes {
        let of_step = made.into_iter().filter(|[.., name]| step.is_of(name));
        return Ok(of_step
            .map(|[schema, table, _]| Some([schema, table]))
            .collect());
    }
    let table = table_of(connection, step)?;
    Ok(match makes_none(step, &table, &made) {
        true => Vec::new(),
        false => vec![table],
    })
}

/// Refuses to commit a client's transaction that has changed the indexes of these tables where others have made some meanwhile. To be
/// called while nobody else makes any, until the commit.
pub(super) fn check_commit(
    connection: &Connection,
    changed: &[Shared],
    dropped: &[Made],
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let gone = gone(connection, dropped)?;
    let is_changed = |index: &Made| changed.iter().any(|table| may_be_of(index, table));
    let is_kept = |index: &Made| is_changed(index) && !gone.contains(index);
    match made(&connection.another()?)?.iter().any(is_kept) {
        true => Err(Error::Sql(SqlError::new(
            SqlErrorKind::Conflict,
            "another transaction has made an index of a table that this one has made or dropped one of: it was rolled back, run it again",
        ))),
        false => Ok(()),
    }
}

/// The table that a step is for, as DuckDB finds it.
fn table_of(connection: &Connection, step: &IndexStep) -> Result<Shared> {
    let Some(name) = &step.table else {
        return Ok(None);
    };
    let found = tables(connection, name)?.into_iter().next();
    let shared = found.filter(|[database, ..]| database != TEMPORARY);
    Ok(shared.map(|[_, schema, table]| [schema, table]))
}

/// Whether a step makes no index, for one of its name is there, for certain of that very table.
fn makes_none(step: &IndexStep, table: &Shared, made: &[Made]) -> bool {
    let is_it = |index: &Made| may_be_of(index, table) && step.is_of(&index[2]);
    table.is_some() && made.iter().any(is_it)
}

fn may_be_of([its_schema, its_table, _]: &Made, table: &Shared) -> bool {
    table
        .as_ref()
        .is_none_or(|[schema, table]| same_name(its_schema, schema) && same_name(its_table, table))
}

/// Which of the indexes in `dropped` the open transaction really has dropped: it does not see them any more.
fn gone(connection: &Connection, dropped: &[Made]) -> Result<Vec<Made>> {
    let mut gone = dropped.to_vec();
    if !gone.is_empty() {
        let seen = made(connection)?;
        gone.retain(|index| !seen.contains(index));
    }
    Ok(gone)
}

/// The indexes that CREATE INDEX has made, as the connection sees them: outside of a transaction, those that are committed.
fn made(connection: &Connection) -> Result<Vec<Made>> {
    texts(connection, MADE_SQL)
}

/// Whether any of these stays, and is not gone, while one of its table is made or dropped. None does where the one to be made is there, or
/// the one to be dropped is not; in doubt any may.
fn keeps_any(step: &IndexStep, made: &[Made], gone: &[Made]) -> bool {
    let is_at_hand = |[schema, table, _]: &Made| {
        let mut of_table = made
            .iter()
            .filter(|other| other[0] == *schema && other[1] == *table);
        let is_there = of_table.any(|[.., name]| step.is_of(name));
        match &step.table {
            Some(parts) => !is_there && parts.last().is_some_and(|name| same_name(name, table)),
            None => step.makes || step.name.is_none() || is_there,
        }
    };
    let is_dropped = |index: &Made| !step.makes && step.is_of(&index[2]) && is_only(index, made);
    let is_kept = |index: &Made| is_at_hand(index) && !is_dropped(index) && !gone.contains(index);
    !step.is_of_key() && made.iter().any(is_kept)
}

/// Whether no other one has its name, in another schema.
fn is_only(index: &Made, made: &[Made]) -> bool {
    let mut others = made.iter().filter(|other| other[0] != index[0]);
    !others.any(|other| same_name(&other[2], &index[2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::{Database, StatementKind};
    use crate::engine::sql::deed::Deed;

    fn step(sql: &str) -> Option<IndexStep> {
        IndexStep::of(Asked {
            kind: StatementKind::Definition,
            deed: &Deed::of(sql),
            script: sql,
        })
    }

    #[test]
    fn an_index_beside_which_others_stay_is_told_from_one_that_is_alone() {
        let made = ["a.t.i", "a.t.j", "a.one.k", "b.t.l", "a.u.m", "b.u.m"].map(|index| {
            let parts: Vec<_> = index.split('.').map(str::to_owned).collect();
            <Made>::try_from(parts).unwrap()
        });
        for (sql, keeps) in [
            ("CREATE INDEX new ON a.t (c)", true),
            ("CREATE UNIQUE INDEX IF NOT EXISTS new ON \"T\" (c)", true),
            ("CREATE INDEX new ON one (c)", true),
            ("CREATE INDEX new ON other (c)", false),
            ("CREATE INDEX IF NOT EXISTS K ON one (c)", false),
            ("CREATE INDEX i ON t (c)", true),
            ("DROP INDEX i", true),
            ("DROP INDEX IF EXISTS a.J", true),
            ("DROP INDEX k", false),
            ("DROP INDEX m", true),
            ("DROP INDEX new", false),
            ("ALTER TABLE t ADD PRIMARY KEY (c)", false),
        ] {
            assert_eq!(keeps_any(&step(sql).unwrap(), &made, &[]), keeps, "{sql}");
        }
        let in_doubt = IndexStep::of(Asked {
            kind: StatementKind::Definition,
            deed: &Deed::Doubt,
            script: "CREATE INDEX new ON one (c); SELECT é",
        });
        assert!(keeps_any(&in_doubt.unwrap(), &made, &[]));
    }

    #[test]
    fn only_an_index_of_that_very_table_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute(
                "CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE TABLE s1.t (c INT); CREATE INDEX i ON s1.t (c);
                 CREATE TABLE s2.t (c INT); CREATE TABLE s2.u (c INT); CREATE INDEX of_u ON s2.u (c);
                 CREATE TABLE u (c INT)",
            )
            .unwrap();
        for (path, sql, expected) in [
            ("s1", "CREATE INDEX IF NOT EXISTS I ON S1.T (c)", true),
            ("s2", "CREATE INDEX i ON test.s1.t (c)", true),
            ("s1", "CREATE INDEX i ON s2.t (c)", false),
            ("s1", "CREATE INDEX i ON s2.u (c)", false),
            ("s1", "CREATE INDEX i ON t (c)", true),
            ("s1,s2", "CREATE INDEX i ON t (c)", true),
            ("s2,s1", "CREATE INDEX i ON t (c)", false),
            ("S2", "CREATE INDEX of_u ON u (c)", true),
            ("s1", "CREATE INDEX of_u ON u (c)", false),
            ("s2", "CREATE INDEX of_u ON test.u (c)", false),
            ("s1", "CREATE INDEX j ON s1.t (c)", false),
            ("s1", "CREATE INDEX i ON none (c)", false),
            ("s1", "CREATE INDEX i ON t\u{a0}u (c)", false),
            ("s1", "ALTER TABLE s1.t ADD PRIMARY KEY (c)", false),
        ] {
            let set = format!("RESET search_path; SET search_path = '{path}'");
            connection.execute(&set).unwrap();
            let asked = Asked {
                kind: StatementKind::Definition,
                deed: &Deed::of(sql),
                script: sql,
            };
            assert_eq!(
                is_there(&connection, asked).unwrap(),
                expected,
                "{path}: {sql}"
            );
        }
        connection.execute("CREATE TEMP TABLE t (c INT)").unwrap();
        let sql = "CREATE INDEX i ON t (c)";
        let of_temporary = Asked {
            kind: StatementKind::Definition,
            deed: &Deed::of(sql),
            script: sql,
        };
        assert!(!is_there(&connection, of_temporary).unwrap());
    }

    #[test]
    fn an_index_is_gone_once_its_own_transaction_has_dropped_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute(
                "CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE TABLE s1.t (c INT, d INT); CREATE INDEX i ON s1.t (c)",
            )
            .unwrap();
        for (sql, is_gone) in [
            ("DROP INDEX IF EXISTS s2.i", false),
            ("DROP INDEX IF EXISTS i", false),
            ("DROP INDEX s1.I", true),
        ] {
            connection.begin().unwrap();
            let dropped = seen(&connection, &step(sql).unwrap()).unwrap();
            connection.execute(sql).unwrap();
            let next = step("CREATE INDEX j ON s1.t (d)").unwrap();
            let outcome = check_inside(&connection, &next, &dropped);
            connection.roll_back();
            match outcome {
                Ok(changed) => assert!(is_gone && changed.len() == 1, "{sql}: {changed:?}"),
                Err(error) => assert!(
                    !is_gone && matches!(error, Error::IndexBesideIndex),
                    "{sql}: {error}"
                ),
            }
        }
    }
}
