//! A statement in the transaction of its client.

use super::super::expansion::Expansion;
use super::Statement;
use crate::engine::connections::lease::Traces;
use crate::engine::connections::pool::{ClientTransaction, Work};
use crate::engine::ffi::query::Script;
use crate::engine::ffi::{Prepared, QueryResult, StatementKind};
use crate::engine::replay;
use crate::engine::replay::{alterations, new_types, schemas};
use crate::engine::sql::tokens::{Tokens, contains_word, count_pairs, statements};
use crate::error::{Error, Result};

impl<'a> Statement<'a> {
    /// Runs the statement in the client's transaction.
    pub(super) fn run_inside(
        &self,
        script: &mut Script<'a>,
        transaction: &mut ClientTransaction,
        work: &mut Work,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        let watch = self.cancel.watch(self.connection);
        let (mut kind, mut runs, mut is_refused, mut is_cleared) = (None, false, false, false);
        let outcome = self.prepare(script).and_then(|statement| {
            let kind = *kind.insert(statement.kind());
            if let Some(expansion) = &self.expansion
                && kind == StatementKind::Set
            {
                expansion.note_set();
                return Ok(0);
            }
            // What an expansion alters behind its own UPDATE is a default, which leaves the rows where they are.
            let expansion = self.expansion.as_deref();
            let written_before = expansion.map_or(work.rows_written, |it| it.rows_before);
            self.check_alteration(&statement, written_before)?;
            let asked = self.asked(kind);
            let is_behind_own = expansion.is_some_and(Expansion::has_updated);
            work.indexes
                .check_alteration(self.connection, asked, is_behind_own)?;
            if let Some(expansion) = expansion
                && kind == StatementKind::Rows
            {
                expansion.note_update();
            }
            let renames = self.renames_table(kind)?;
            if renames && !self.is_of_swap {
                return Err(Error::RenameInTransaction);
            }
            if kind == StatementKind::Transaction && *transaction == ClientTransaction::Doubtful {
                self.check_commit()?;
            }
            let may_end = self.traces != Traces::KeptInTransaction;
            let commits = kind == StatementKind::Transaction && may_end && !self.rolls_back();
            let secured = commits.then(|| replay::secure_commit(self.connection, work));
            is_refused = matches!(secured, Some(Err(_)));
            // Until the commit.
            let _secured = secured.transpose()?;
            new_types::check(self.connection, asked, work.makes_schema)?;
            let alone = self.alone_inside(kind, &work.indexes)?;
            work.indexes.check(self.connection, asked)?;
            runs = true;
            work.makes_schema |= self.makes_schema(kind);
            work.makes_index |= self.may_make_index();
            work.defines |= self.defines(kind);
            self.claim(renames, kind)?;
            if self.defines(kind) {
                alterations::note(self.connection, asked)?;
                is_cleared = schemas::clear(self.connection, asked)?;
            }
            let begun = commits.then(|| self.connection.begin_commit());
            is_refused = matches!(begun, Some(Err(_)));
            let mut begun = begun.transpose()?;
            let mut consume = |result: QueryResult<'_>| {
                // It is committed, and the client may take long to read that.
                drop(begun.take());
                consume(result)
            };
            let (_, rows_changed) = self.run_prepared(&statement, dirty, &mut consume)?;
            drop(alone);
            work.indexes.note_made(self.connection, asked)?;
            let written = self.rows_written(kind, rows_changed);
            work.rows_written = work.rows_written.saturating_add(written);
            if written > 0 {
                let steady = self.connection.indexes().steady_since(work.seen_indexes);
                let rows = work.rows_written;
                replay::secure_statement(self.connection, asked, rows, false, &steady)?;
            }
            if kind == StatementKind::Transaction {
                *transaction = ClientTransaction::None;
            }
            Ok(rows_changed)
        });
        // An interrupt that hit a roll back would leave open what is taken for ended.
        drop(watch);
        let ends = kind == Some(StatementKind::Transaction);
        if ends && work.defines {
            self.connection.seen_tables().forget_all();
        }
        if let Err(error) = &outcome {
            if is_cleared && self.executions.get() == 0 {
                // What was in the schema has been dropped, and the schema has not.
                self.connection.spoil_transaction();
            }
            self.after_failure(error, kind, runs, is_refused, transaction, work);
        }
        outcome.map_err(|error| match error {
            // It cannot be run again for its error: nothing runs in the transaction any more.
            Error::Sql(error) if self.is_untold(&error) => Error::ReasonLost,
            other => other,
        })
    }

    /// Sees to what a statement leaves behind that has failed, where `runs` after it had begun, and `is_refused` where a commit
    /// must not run: it could not be replayed, would end the process, or comes once nothing may be committed any more.
    fn after_failure(
        &self,
        error: &Error,
        kind: Option<StatementKind>,
        runs: bool,
        is_refused: bool,
        transaction: &mut ClientTransaction,
        work: &mut Work,
    ) {
        let ends = kind == Some(StatementKind::Transaction);
        match error {
            // It has not run.
            Error::TransactionByCall
            | Error::AlterationTooLate { .. }
            | Error::AlterationBesideChanges
            | Error::RenameInTransaction
            | Error::IndexMadeAgain
            | Error::IndexBesideOlder
            | Error::IndexBesideIndex
            | Error::IndexBesideChanges
            | Error::TypeBesideOlder => {}
            Error::TransactionFailed => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            // It has ended the transaction all the same: a commit that fails is rolled back, also where it was not
            // let run, and one that is cancelled or interrupted may be done.
            _ if is_refused || ends && self.connection.begin().is_ok() => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            error => {
                let is_part = self
                    .expansion
                    .as_ref()
                    .is_some_and(|expansion| expansion.is_whole());
                if is_part || self.leaves_changes(kind, error) {
                    self.connection.spoil_transaction();
                }
                *transaction = ClientTransaction::Doubtful;
                if runs {
                    // It may have written rows all the same, where only its result was given up.
                    work.rows_written = u64::MAX;
                }
            }
        }
    }

    /// Whether a statement that has failed with this error has changed what a commit would keep: for some of its rows of
    /// values, or for all, where only its result could not be told. One whose result was given up has not failed.
    fn leaves_changes(&self, kind: Option<StatementKind>, error: &Error) -> bool {
        let executions = self.executions.get();
        let wanted = self.sql.parameters.rows().max(1);
        let is_given_up = matches!(error, Error::Cancelled) && executions == wanted;
        let may_change = !matches!(
            kind,
            None | Some(StatementKind::Select | StatementKind::Set | StatementKind::Transaction)
        );
        may_change && executions > 0 && !is_given_up
    }

    /// Refuses to alter a table after a row group of rows was written.
    ///
    /// DuckDB 1.5.5 forgets on the way that such rows are in the file already
    /// (`RowGroupCollection::AddColumn`, `OptimisticWriteCollection`): what comes next in the transaction, or the next
    /// checkpoint, ends the process, or finds other values.
    fn check_alteration(&self, statement: &Prepared<'_>, rows_written: u64) -> Result<()> {
        let rows = self.connection.fewest_filed_rows();
        let alters = self.alters(statement.kind());
        if rows_written >= rows && alters && !renames_tables_only(&self.sql.text) {
            return Err(Error::AlterationTooLate { rows });
        }
        Ok(())
    }

    /// Refuses to commit a transaction that can be rolled back only. DuckDB itself would roll it back and say nothing.
    fn check_commit(&self) -> Result<()> {
        let is_failed = self.connection.check_transaction().is_err();
        if is_failed && !self.rolls_back() {
            return Err(Error::TransactionFailed);
        }
        Ok(())
    }

    /// Whether it is a ROLLBACK for certain: a later one of a script may be taken for a COMMIT, which does no harm.
    fn rolls_back(&self) -> bool {
        let is_one = |mut first: Tokens<'_>| first.accept(&["rollback", "abort"]);
        self.index == 0 && statements(&self.sql.text).next().is_some_and(is_one)
    }
}

/// Whether all that a script alters are names of tables, which touches no rows.
fn renames_tables_only(sql: &str) -> bool {
    let all_are_of_tables = count_pairs(sql, "rename", "to")
        .is_some_and(|(renames, of_tables)| renames > 0 && renames == of_tables);
    let mut others = ["add", "column", "drop", "not", "set", "type"].iter();
    all_are_of_tables && !others.any(|word| contains_word(sql, word))
}
