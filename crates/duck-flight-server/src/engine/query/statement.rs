//! A script, run statement by statement: each in a transaction, or in none where that is safe, and admitted or refused
//! by its kind. A script goes through them here; a statement goes on [`inside`] of its client's transaction, or [`outside`] of one.

mod effects;
mod inside;
mod outside;
mod reason;
mod search_path;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::Sql;
use super::expansion::{Expansion, Expansions};
use super::pivots;
use crate::engine::connections::cancel::Cancel;
use crate::engine::connections::lease::Traces;
use crate::engine::connections::pool::{ClientTransaction, Session, Work};
use crate::engine::ffi::query::Script;
use crate::engine::ffi::{Connection, Pending, Prepared, QueryResult, StatementKind};
use crate::engine::replay::referred;
use crate::engine::replay::rename;
use crate::engine::sql::admission::{
    Gate, check_altered, check_before_planning, check_comment, check_replay, may_create_temporary,
};
use crate::engine::sql::deed::{Asked, Deed, What, own_name};
use crate::engine::sql::tokens::begins_with;
use crate::engine::storage::images::PATIENCE;
use crate::error::{Error, Result};

/// Runs every statement of a script in order; the results of the last one go to `last`.
pub(super) fn run_script(
    session: &mut Session,
    traces: Traces,
    sql: &Sql,
    cancel: &Cancel,
    last: impl FnMut(QueryResult<'_>) -> Result<()>,
) -> Result<u64> {
    let outcome = run_statements(session, traces, sql, cancel, last);
    pivots::forget(session, traces, &sql.text);
    outcome
}

fn run_statements(
    session: &mut Session,
    traces: Traces,
    sql: &Sql,
    cancel: &Cancel,
    mut last: impl FnMut(QueryResult<'_>) -> Result<()>,
) -> Result<u64> {
    let Session {
        connection,
        dirty,
        transaction,
        work,
        ..
    } = session;
    cancel.check()?;
    if *transaction == ClientTransaction::None && traces == Traces::KeptInTransaction {
        // Outside of it, what is to be all or nothing would be committed bit by bit.
        return Err(Error::TransactionFailed);
    }
    // In a transaction that has failed it cannot be watched, but rolled back.
    let _watched = sql.progress.as_ref().and_then(|progress| {
        *dirty = true;
        progress.watch(connection).ok()
    });
    let gate = Gate::new(&sql.text);
    let statement = |index, text, is_alone, expansion| Statement {
        connection,
        sql,
        gate: &gate,
        cancel,
        traces,
        index,
        text,
        deed: OnceCell::new(),
        is_alone,
        is_of_swap: false,
        expansion,
        executions: Cell::new(0),
    };
    let whole = Some(sql.text.as_str());
    if *transaction == ClientTransaction::None
        && let Some(rows_changed) = statement(0, whole, true, None).run_kept(dirty, &mut last)?
    {
        return Ok(rows_changed);
    }
    check_before_planning(&sql.text)?;
    let mut script = connection.parse(&sql.text)?;
    let (count, mut number, mut rows_changed) = (script.len(), 0, 0);
    if count > 1 || !begins_like_a_query(&sql.text) {
        connection.frozen_definitions().note(&sql.text);
        connection.indexes().note(&sql.text);
    }
    if count > 1 {
        check_several(traces, sql)?;
    }
    let mut expansions = Expansions::find(connection, &sql.text, count, *transaction)?;
    let is_swap = *transaction == ClientTransaction::None && rename::is_swap(&sql.text);
    let mut alone = is_swap.then(|| rename::exclude_commits(connection));
    while number < count {
        let index = number;
        number += 1;
        let at = |error: Error| match error {
            Error::Sql(source) if count > 1 => Error::Statement {
                number,
                count,
                source,
            },
            other => other,
        };
        let expansion = expansions.enter(index, *transaction, work.rows_written);
        let is_last = expansions.is_last(index, count);
        let mut consume = |result: QueryResult<'_>| match is_last {
            true => {
                // It is committed, and the client may take long to read that.
                drop(alone.take());
                last(result)
            }
            false => drain(result, cancel),
        };
        let text = if count == 1 {
            whole
        } else {
            expansions.text(index)
        };
        let statement = Statement {
            is_of_swap: is_swap,
            ..statement(index, text, count == 1, expansion)
        };
        let outcome = statement.run(&mut script, transaction, work, dirty, &mut consume);
        expansions.leave(outcome.is_err(), transaction);
        if is_swap && outcome.is_err() {
            connection.roll_back();
            *transaction = ClientTransaction::None;
        }
        rows_changed += outcome.map_err(at)?;
    }
    let is_open = *transaction != ClientTransaction::None;
    let is_kept = matches!(traces, Traces::Kept | Traces::KeptInTransaction);
    match (count, is_open && !is_kept) {
        (0, _) => Err(Error::NoStatement),
        (_, true) => Err(Error::OpenTransaction),
        (_, false) => Ok(rows_changed),
    }
}

/// Refuses several statements where they cannot run.
fn check_several(traces: Traces, sql: &Sql) -> Result<()> {
    if traces == Traces::Refused {
        return Err(Error::NeedsConnection);
    }
    if sql.parameters.rows() > 0 {
        return Err(Error::ParametersOfScript);
    }
    Ok(())
}

/// One statement of a script.
struct Statement<'a> {
    connection: &'a Connection,
    sql: &'a Sql,
    gate: &'a Gate<'a>,
    cancel: &'a Cancel,
    traces: Traces,
    index: u64,
    /// Its own text, where that is certain.
    text: Option<&'a str>,
    /// What it does, read when somebody first asks: a query whose plan is kept is not read again.
    deed: OnceCell<Deed>,
    /// Whether it is the only one of its script.
    is_alone: bool,
    /// Whether its script is a swap of tables: nobody else commits anything while that runs.
    is_of_swap: bool,
    /// What it belongs to, where DuckDB has made several statements of one.
    expansion: Option<Rc<Expansion>>,
    /// How often it has run to its effect: once for each row of values.
    executions: Cell<usize>,
}

impl<'a> Statement<'a> {
    /// Runs the statement, and answers with the rows it changed.
    ///
    /// DuckDB plans with a table's statistics, and relies on them: a plan made in one transaction and run in
    /// a later one gives wrong results when the table has changed in between. So a statement that the client
    /// runs outside of a transaction gets one around both, unless nothing is committed in between.
    fn run(
        &self,
        script: &mut Script<'a>,
        transaction: &mut ClientTransaction,
        work: &mut Work,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        if *transaction != ClientTransaction::None {
            return self.run_inside(script, transaction, work, dirty, consume);
        }
        let begun = Work::none(self.connection);
        let outcome = self.run_outside(script, dirty, consume);
        let (kind, rows_changed) = outcome.map_err(|error| self.told(error, dirty))?;
        // Outside of a transaction only a BEGIN succeeds.
        if kind == StatementKind::Transaction {
            *transaction = ClientTransaction::Open;
            *work = begun;
        }
        Ok(rows_changed)
    }

    /// Prepares the statement. The script gives it once; later it is parsed again.
    fn prepare(&self, script: &mut Script<'a>) -> Result<Prepared<'a>> {
        let statement = if script.position() == self.index {
            script.next_statement()
        } else {
            self.connection.parse(&self.sql.text)?.statement(self.index)
        };
        let statement = statement.ok_or(Error::NoStatement)??;
        let kind = statement.kind();
        self.check_checkpoint(kind)?;
        if matches!(
            kind,
            StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
        ) {
            let asked = self.asked(kind);
            self.gate.admit(kind)?;
            check_comment(asked)?;
            // Of a script of which it is in doubt where its statements end, it cannot be told of any.
            if self.text.is_some() {
                check_altered(asked)?;
            }
            // By itself, for those before it have run.
            check_replay(self.connection, kind, self.text())?;
            referred::check(self.connection, asked)?;
        }
        Ok(statement)
    }

    fn run_prepared(
        &self,
        statement: &Prepared<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        let kind = statement.kind();
        let search_path = (kind == StatementKind::Set).then(|| self.search_path());
        let mut rows_changed = 0;
        let outcome = self.sql.parameters.for_each(statement, || {
            // What belongs in a transaction is committed by the COMMIT that ends it; anything else may be a COMMIT, which is
            // done once there is a result: a client may take long to read that.
            let mut under_way =
                (!self.belongs_in_transaction(kind)).then(|| self.connection.commits().under_way());
            let mut ready = match self.is_checkpoint(kind) {
                true => Some(self.connection.ready_checkpoint(PATIENCE)?),
                false => None,
            };
            let mut consume = |result: QueryResult<'_>| {
                drop((under_way.take(), ready.take()));
                consume(result)
            };
            let pending = self.start(statement, dirty)?;
            rows_changed += self.finish(pending, kind, &mut consume)?;
            Ok(())
        });
        // One that is cancelled may be done all the same.
        if let Some(before) = search_path
            && (outcome.is_ok() || self.cancel.is_cancelled())
        {
            self.check_search_path(before.ok())?;
        }
        outcome?;
        if self.traces == Traces::Wiped && self.is_alone && is_for_session(self.asked(kind)) {
            return Err(Error::NoSession);
        }
        Ok((kind, rows_changed))
    }

    fn start(&self, statement: &Prepared<'a>, dirty: &mut bool) -> Result<Pending<'a>> {
        let kind = statement.kind();
        let leaves_traces = self.gate.admit(kind)?;
        if kind == StatementKind::Transaction && self.traces == Traces::KeptInTransaction {
            return Err(Error::TransactionByCall);
        }
        if leaves_traces && self.traces == Traces::Refused {
            return Err(Error::NeedsConnection);
        }
        *dirty |= leaves_traces;
        if kind != StatementKind::Select {
            self.note_changes(statement);
        }
        // How many rows it writes is known when it has written them. A checkpoint would wait for itself.
        if statement.may_write() && !self.is_checkpoint(kind) {
            self.connection.note_written(u64::MAX);
            self.note_new_rows(kind);
        }
        self.begin(statement)
    }

    /// Takes note of the table to which what runs next may write rows.
    fn note_new_rows(&self, kind: StatementKind) {
        let asked = self.asked(kind);
        let table = match asked.deed {
            Deed::Writes { table, .. }
            | Deed::Alters { table, .. }
            | Deed::Creates {
                what: What::Table,
                name: table,
                ..
            } => own_name(table.as_deref()),
            Deed::Creates { .. }
            | Deed::MakesIndex { .. }
            | Deed::Drops { .. }
            | Deed::CommentsOnIndex
            | Deed::Defines => return,
            // A query that is explained, or the type of a PIVOT.
            Deed::Nothing if asked.may_define() => return,
            Deed::Nothing | Deed::Doubt | Deed::Disguised => None,
        };
        let changes = self.connection.changes();
        changes.note_new_rows(table.map(str::to_owned));
    }

    /// Takes note of the rows that may be changed or deleted by what runs next.
    fn note_changes(&self, statement: &Prepared<'a>) {
        let asked = self.asked(statement.kind());
        let may_delete = statement.may_delete();
        let changed = match asked.change() {
            Some((_, table)) => Some(table),
            None => (may_delete && *asked.deed == Deed::Doubt).then_some(None),
        };
        if may_delete || changed.is_some() {
            self.connection.note_deletion();
        }
        if let Some(table) = changed {
            let table = own_name(table).map(str::to_owned);
            self.connection.changes().note_rows(table);
        }
    }

    fn begin(&self, statement: &Prepared<'a>) -> Result<Pending<'a>> {
        let pending = statement.start_unless(self.cancel)?;
        // An interrupt sent before the start was lost; the flag was not.
        self.cancel.check()?;
        Ok(pending)
    }

    /// Runs the statement to its end; answers with the rows it changed, which with a RETURNING are those it answers with.
    fn finish(
        &self,
        pending: Pending<'a>,
        kind: StatementKind,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        let mut result = pending.finish()?;
        self.executions.update(|count| count + 1);
        let is_returning = kind == StatementKind::Rows && result.has_rows();
        let rows_changed = result.rows_changed();
        consume(result)?;
        match is_returning {
            true => Ok(self.connection.rows_fetched()),
            false => Ok(rows_changed),
        }
    }
}

/// Whether all that a statement does is gone with its session.
fn is_for_session(asked: Asked<'_>) -> bool {
    match (asked.kind, asked.deed) {
        (StatementKind::Set, _) => true,
        (
            StatementKind::Definition | StatementKind::Explain,
            Deed::Creates { is_temporary, .. },
        ) => *is_temporary,
        (StatementKind::Definition, Deed::Doubt) => may_create_temporary(asked.script),
        _ => false,
    }
}

/// Whether a script looks like a query. It saves planning other statements twice, and decides nothing else.
fn begins_like_a_query(sql: &str) -> bool {
    begins_with(sql, &["select", "from", "with"])
}

/// Runs a statement to its end, and drops its rows.
pub(super) fn drain(mut result: QueryResult<'_>, cancel: &Cancel) -> Result<()> {
    while result.next_chunk()?.is_some() {
        cancel.check()?;
    }
    cancel.check()
}
