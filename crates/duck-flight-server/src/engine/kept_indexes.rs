//! Indexes that are made or dropped where their table keeps others, and a log that can be replayed all the same.
//!
//! While DuckDB 1.5.5 replays a log, an index that CREATE INDEX has made is given what rows change as the columns that are in any
//! index of their table by then, and reads them later by those that were in any at the first of them (`UnboundIndex::BufferChunk`,
//! `BoundIndex::ApplyBufferedReplays`). Where another index is made or dropped in between, it reads one column for another: the database
//! cannot be opened any more, or the index lacks keys. What the transaction changes that makes the other one comes before it, too.
//!
//! So a CREATE INDEX or a DROP INDEX beside which others stay runs right behind a checkpoint, and in no client's transaction. The indexes of
//! constraints are never given anything in this way, and DuckDB alters no columns of a table that has others.

use super::catalog::texts;
use super::ffi::Connection;
use super::index_work::{Asked, IndexStep, Names};
use super::sql_error::{SqlError, SqlErrorKind};
use super::types::same_name;
use crate::error::{Error, Result};

/// An index that CREATE INDEX has made: the names of its schema and of its table, and its own.
type Made = [String; 3];

const MADE_SQL: &str = "
    SELECT schema_name, table_name, index_name FROM system.main.duckdb_indexes()
    WHERE database_name IN
        (SELECT database_name FROM system.main.duckdb_databases() WHERE path IS NOT NULL)";

/// Makes a checkpoint where a statement must run right behind one. To be called for one in a transaction of the server's own, in a
/// turn, while nobody else commits anything.
pub(super) fn checkpoint(connection: &Connection, asked: Asked<'_>) -> Result<()> {
    let Some(step) = IndexStep::of(asked) else {
        return Ok(());
    };
    // Not the client's: that may be in another database, and an interrupt may come.
    let other = connection.another()?;
    if !keeps_any(&step, &made(&other)?, &Names::default()) {
        return Ok(());
    }
    let outcome = other.execute("CHECKPOINT");
    outcome.map_err(|error| match error.kind {
        SqlErrorKind::Transaction => Error::IndexBesideWriters,
        _ => error.into(),
    })
}

/// Whether the index that a statement makes is there already, so that it makes none. To be asked while nobody else drops any.
pub(super) fn is_there(connection: &Connection, asked: Asked<'_>) -> Result<bool> {
    let Some(step) = IndexStep::of(asked) else {
        return Ok(false);
    };
    let Some(table) = step.table.as_ref().and_then(|parts| parts.last()) else {
        return Ok(false);
    };
    let made = made(&connection.another()?)?;
    let is_it = |[_, its_table, name]: &Made| same_name(its_table, table) && step.is_of(name);
    Ok(made.iter().any(is_it))
}

/// Refuses a statement in a client's transaction, which has dropped these indexes, where one must not run there. Answers with the
/// tables whose indexes it changes.
pub(super) fn check_inside(
    connection: &Connection,
    step: &IndexStep,
    dropped: &Names,
) -> Result<Vec<Option<String>>> {
    let made = made(&connection.another()?)?;
    if keeps_any(step, &made, dropped) {
        return Err(Error::IndexBesideIndex);
    }
    let of_step = made.into_iter().filter(|[.., name]| step.is_of(name));
    let of_step: Vec<_> = of_step.map(|[_, table, _]| Some(table)).collect();
    if !step.makes {
        return Ok(of_step);
    }
    let name = step.table.as_ref().and_then(|parts| parts.last());
    let is_it = |table: &String| name.is_some_and(|name| same_name(name, table));
    // Where it is there already none is made.
    let is_there = of_step.iter().flatten().any(is_it);
    Ok(if is_there {
        Vec::new()
    } else {
        vec![name.cloned()]
    })
}

/// Refuses to commit a client's transaction that has changed the indexes of these tables where others have made some meanwhile. To be
/// called while nobody else makes any, until the commit.
pub(super) fn check_commit(
    connection: &Connection,
    changed: &Names,
    dropped: &Names,
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let made = made(&connection.another()?)?;
    let is_kept = |index: &Made| changed.has(Some(&index[1])) && !is_gone(index, &made, dropped);
    match made.iter().any(is_kept) {
        true => Err(Error::Sql(SqlError::new(
            SqlErrorKind::Conflict,
            "another transaction has made an index of a table that this one has made or dropped one of: it was rolled back, run it again",
        ))),
        false => Ok(()),
    }
}

/// Those that are committed, as a connection sees them in no transaction.
fn made(other: &Connection) -> Result<Vec<Made>> {
    texts(other, MADE_SQL)
}

/// Whether any of these stays while one of its table is made or dropped. None does where the one to be made is there, or the one to be
/// dropped is not; in doubt any may.
fn keeps_any(step: &IndexStep, made: &[Made], dropped: &Names) -> bool {
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
    let is_kept =
        |index: &Made| is_at_hand(index) && !is_dropped(index) && !is_gone(index, made, dropped);
    !step.is_of_key() && made.iter().any(is_kept)
}

/// Whether an index is one of those that were dropped, for certain.
fn is_gone(index: &Made, made: &[Made], dropped: &Names) -> bool {
    dropped.knows(&index[2]) && is_only(index, made)
}

/// Whether no other one has its name, in another schema.
fn is_only(index: &Made, made: &[Made]) -> bool {
    let mut others = made.iter().filter(|other| other[0] != index[0]);
    !others.any(|other| same_name(&other[2], &index[2]))
}

#[cfg(test)]
mod tests {
    use super::super::ffi::StatementKind;
    use super::*;

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
            let kind = match sql.starts_with("ALTER") {
                true => StatementKind::Alteration,
                false => StatementKind::Definition,
            };
            let step = IndexStep::of(Asked {
                kind,
                text: Some(sql),
                script: sql,
            });
            let dropped = Names::default();
            assert_eq!(keeps_any(&step.unwrap(), &made, &dropped), keeps, "{sql}");
        }
        let sql = "CREATE INDEX new ON one (c); SELECT é";
        let in_doubt = IndexStep::of(Asked {
            kind: StatementKind::Definition,
            text: None,
            script: sql,
        });
        let mut dropped = Names::default();
        assert!(keeps_any(&in_doubt.unwrap(), &made, &dropped));
        dropped.add(Some("K".to_owned()));
        dropped.add(Some("m".to_owned()));
        let gone: Vec<_> = made
            .iter()
            .filter(|index| is_gone(index, &made, &dropped))
            .collect();
        assert_eq!(gone, [&made[2]]);
    }
}
