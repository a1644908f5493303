//! Macros and indexes that are made beside each other.
//!
//! What an open transaction has made nobody else sees. So a macro with the name of a function, and an index that may call that, are both
//! let through where neither is committed when the other one is made. Whoever has made one looks again right before its commit, one after the
//! other: the later one sees what the earlier one has committed.

use parking_lot::MutexGuard;

use super::Logged;
use super::surroundings::Surroundings;
use crate::engine::ffi::Connection;
use crate::error::{Error, Result};

/// Takes note of such macros and indexes among the statements that the open transaction is to run.
pub(super) fn note(connection: &Connection, statements: &[Logged<'_>], around: &Surroundings) {
    let changes = connection.changes();
    if statements.iter().any(|it| it.shadows(around)) {
        changes.note_shadow();
    }
    if statements.iter().any(|it| it.binds(around)) {
        changes.note_binding();
    }
}

/// Refuses to commit the open transaction where others have committed what must not be there beside what it has made. What is given back
/// must live until after the commit.
pub(in crate::engine) fn check_beside(
    connection: &Connection,
) -> Result<Option<MutexGuard<'_, ()>>> {
    let changes = connection.changes();
    if !changes.shadows() && !changes.binds() {
        return Ok(None);
    }
    let alone = changes.alone_with_pairs();
    let around = Surroundings::committed(connection)?;
    if let Some(index) = around.bound_index.filter(|_| changes.shadows()) {
        return Err(Error::Unimplemented(format!(
            "the index `{index}` was made beside this transaction, and DuckDB 1.5.5 may find a macro of the transaction in the place of \
             its own function when it binds the index again after a start: the transaction was rolled back, give the macro another name, \
             or drop each index of an expression first"
        )));
    }
    if let Some(name) = around.shadow.filter(|_| changes.binds()) {
        return Err(Error::Unimplemented(format!(
            "the macro `{name}` was made beside this transaction, and DuckDB 1.5.5 may find it in the place of its own function when it \
             binds an index of the transaction again after a start: the transaction was rolled back, drop that macro first, or index a \
             column that is given its values"
        )));
    }
    Ok(Some(alone))
}

#[cfg(test)]
mod tests {
    use super::super::check_replay;
    use crate::engine::ffi::{Database, StatementKind};

    #[test]
    fn of_a_macro_and_an_index_that_may_call_it_the_later_one_is_not_committed() {
        const INDEX: &str = "CREATE INDEX lowered ON t (lower(a))";
        const SHADOW: &str = "CREATE MACRO lower(one, other) AS one";
        let database = Database::open(":memory:", &[]).unwrap();
        let (own, other) = (database.connect().unwrap(), database.connect().unwrap());
        own.execute("CREATE TABLE t (a VARCHAR)").unwrap();
        for (made, beside, refused_for, undo) in [
            (SHADOW, INDEX, Some("`lowered`"), "DROP INDEX lowered"),
            (INDEX, SHADOW, Some("`lower`"), "DROP MACRO lower"),
            (
                "CREATE MACRO doubled(x) AS x * 2",
                INDEX,
                None,
                "DROP INDEX lowered; DROP MACRO doubled",
            ),
            (
                "CREATE INDEX plain ON t (a)",
                SHADOW,
                None,
                "DROP MACRO lower; DROP INDEX plain",
            ),
        ] {
            own.begin().unwrap();
            check_replay(&own, StatementKind::Definition, made).unwrap();
            own.execute(made).unwrap();
            other.execute(beside).unwrap();
            match (own.commit(), refused_for) {
                (Ok(()), None) => {}
                (Err(error), Some(name)) => {
                    let told = error.to_string();
                    assert!(told.contains(name), "{told}");
                    own.roll_back();
                }
                (outcome, _) => panic!("{made}: {outcome:?}"),
            }
            other.execute(undo).unwrap();
        }
        // What is rolled back counts no more.
        for made in [INDEX, SHADOW] {
            own.begin().unwrap();
            check_replay(&own, StatementKind::Definition, made).unwrap();
            own.roll_back();
            assert!(!own.changes().shadows() && !own.changes().binds());
        }
    }
}
