//! A script, run statement by statement: each in a transaction, or in none where that is safe, and admitted or refused
//! by its kind.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::admission::{
    Gate, OWN_TABLES, check_before_planning, check_comment, check_replay, creates_temporary,
    makes_index, may_explain_alteration, may_explain_definition,
};
use super::cancel::Cancel;
use super::catalog::{folded, literal, texts};
use super::claim::{claim_altered, claim_renamed};
use super::commits::{Alone, Moment, Starting};
use super::expansion::{Expansion, Expansions};
use super::ffi::query::{ALONE, Script};
use super::ffi::{Connection, Pending, Prepared, QueryResult, StatementKind};
use super::frozen::is_frozen_by_plan;
use super::index_work::Asked;
use super::lease::Traces;
use super::new_types;
use super::pivots::{self, PIVOTS};
use super::pool::{ClientTransaction, Session, Work};
use super::producers::OWN_SCHEMA;
use super::query::Sql;
use super::rename::{self, alters_view, may_rename_table};
use super::replay::{self, may_make_index};
use super::sql_error::{SqlError, SqlErrorKind};
use super::tokens::{
    Tokens, begins_with, contains_any_word, contains_word, count_pairs, statements,
};
use super::transaction_that;
use crate::error::{Error, Result};

/// The longest text of a query whose plan is kept.
const MAX_KEPT_SQL_BYTES: usize = 16 << 10;

/// How often a query is run again whose error DuckDB did not tell.
const REASON_TRIES: u32 = 3;

const EXPLAINS_RENAME: &str =
    "EXPLAIN ANALYZE would rename the table, which is not explained: run the statement itself";

const SEARCH_PATH_SQL: &str = "SELECT system.main.current_setting('search_path')";
const RESET_SCHEMA_SQL: &str = "RESET search_path";

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
    let mut alone = is_swap.then(|| rename::alone(connection));
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
    /// Whether it is the only one of its script.
    is_alone: bool,
    /// Whether its script is a swap of tables: nobody else commits anything while that runs.
    is_of_swap: bool,
    /// What it belongs to, where DuckDB has made several statements of one.
    expansion: Option<Rc<Expansion>>,
    /// How often it has run to its effect: for so many rows of values.
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

    /// Runs a query whose plan is kept: what it is was found out when the plan was made. `None` where there is no plan,
    /// or where a commit has begun since: then it has not run.
    fn run_kept(
        &self,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<Option<u64>> {
        let commits = self.connection.commits();
        if !self.may_have_plan() {
            return Ok(None);
        }
        let Some(moment) = commits.quiet() else {
            return Ok(None);
        };
        let Some(plan) = self.connection.take_plan(&self.sql.text, moment) else {
            return Ok(None);
        };
        let Some(starting) = commits.still(moment) else {
            return Ok(None);
        };
        let watch = self.cancel.watch(self.connection);
        let start = Instant::now();
        let begun = self.begin(&plan);
        if !starting.end() {
            drop((begun, watch));
            return self.give_up().map(|()| None);
        }
        let outcome =
            begun.and_then(|pending| self.finish(pending, StatementKind::Select, consume));
        drop(watch);
        match outcome {
            Ok(rows_changed) => {
                self.keep_plan(plan, moment, start);
                Ok(Some(rows_changed))
            }
            Err(error) => {
                self.connection.roll_back();
                Err(self.told(error, dirty))
            }
        }
    }

    /// Takes back a query that a commit has overtaken while it started. It has read nothing yet; at most it has drawn from a
    /// sequence, as one that is rolled back.
    fn give_up(&self) -> Result<()> {
        self.connection.roll_back();
        self.cancel.check()
    }

    /// The error as the client is told it.
    fn told(&self, error: Error, dirty: &mut bool) -> Error {
        match error {
            Error::Sql(error) if self.is_untold(&error) => self.find_reason(dirty),
            other => other,
        }
    }

    /// Whether DuckDB says that the statement was interrupted, although nobody did: it has failed.
    fn is_untold(&self, error: &SqlError) -> bool {
        error.kind == SqlErrorKind::Interrupted && !self.cancel.is_cancelled()
    }

    /// Runs the statement in the client's transaction.
    fn run_inside(
        &self,
        script: &mut Script<'a>,
        transaction: &mut ClientTransaction,
        work: &mut Work,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        let watch = self.cancel.watch(self.connection);
        let (mut kind, mut runs, mut is_insecure) = (None, false, false);
        let outcome = self.prepare(script).and_then(|statement| {
            let kind = *kind.insert(statement.kind());
            if let Some(expansion) = &self.expansion
                && kind == StatementKind::Set
            {
                expansion.note_set();
                return Ok(0);
            }
            // What an expansion alters behind its own UPDATE is a default, which leaves the rows where they are.
            let written_before = self
                .expansion
                .as_ref()
                .map(|expansion| expansion.rows_before);
            self.check_alteration(&statement, written_before.unwrap_or(work.rows_written))?;
            let renames = self.renames_table(kind)?;
            if renames && !self.is_of_swap {
                return Err(Error::RenameInTransaction);
            }
            if kind == StatementKind::Transaction && *transaction == ClientTransaction::Doubtful {
                self.check_commit()?;
            }
            let commits = kind == StatementKind::Transaction && !self.rolls_back();
            let secured = commits.then(|| replay::secure_commit(self.connection, work));
            is_insecure = matches!(secured, Some(Err(_)));
            // Until the commit.
            let _secured = secured.transpose()?;
            new_types::check(self.connection, kind, &self.sql.text, work.makes_schema)?;
            let asked = Asked {
                kind,
                text: self.text,
                script: &self.sql.text,
            };
            work.indexes.check(self.connection, asked)?;
            runs = true;
            work.makes_schema |= contains_word(&self.sql.text, "schema");
            work.makes_index |= self.may_make_index();
            work.defines |= self.defines(kind);
            let alone = self.alone(kind);
            self.claim(renames, kind)?;
            let (_, rows_changed) = self.run_prepared(&statement, dirty, consume)?;
            drop(alone);
            work.indexes.note_made(asked);
            let written = self.rows_written(kind, rows_changed);
            work.rows_written = work.rows_written.saturating_add(written);
            if written > 0 {
                let steady = self.connection.indexes().steady_since(work.seen_indexes);
                let (sql, rows) = (&self.sql.text, work.rows_written);
                replay::secure_statement(self.connection, sql, rows, false, &steady)?;
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
            self.connection.seen_columns().forget_all();
        }
        match &outcome {
            // It has not run.
            Err(
                Error::TransactionByCall
                | Error::AlterationTooLate { .. }
                | Error::RenameInTransaction
                | Error::IndexMadeAgain
                | Error::IndexBesideChanges,
            ) => {}
            Err(Error::TransactionFailed) => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            // It has ended the transaction all the same: a commit that fails is rolled back, also where it could not be
            // replayed, and one that is cancelled or interrupted may be done.
            Err(_) if is_insecure || ends && self.connection.begin().is_ok() => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            Err(error) => {
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
            Ok(_) => {}
        }
        outcome.map_err(|error| match error {
            // It cannot be run again for its error: nothing runs in the transaction any more.
            Error::Sql(error) if self.is_untold(&error) => Error::ReasonLost,
            other => other,
        })
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
        let rows = self.connection.row_group_rows();
        let sql = &self.sql.text;
        let alters = match statement.kind() {
            StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => contains_word(sql, "alter"),
            _ => false,
        };
        if rows_written >= rows && alters && !renames_tables_only(sql) {
            return Err(Error::AlterationTooLate { rows });
        }
        Ok(())
    }

    /// The rows that a statement may have written, where it has changed so many as far as DuckDB tells. It does not tell
    /// of what runs another statement, or makes a table of a query.
    fn rows_written(&self, kind: StatementKind, rows_changed: u64) -> u64 {
        let says = |word| contains_word(&self.sql.text, word);
        let is_untold = match kind {
            StatementKind::Explain => says("analyze") || says("analyse"),
            StatementKind::Call | StatementKind::Other => says("execute") || says("copy"),
            StatementKind::Definition => says("table") && says("as"),
            _ => false,
        };
        if is_untold { u64::MAX } else { rows_changed }
    }

    /// Refuses to commit a transaction that can be rolled back only. DuckDB itself would roll it back and say nothing.
    fn check_commit(&self) -> Result<()> {
        let is_failed = self.connection.check_transaction().is_err();
        if is_failed && !self.rolls_back() {
            return Err(Error::TransactionFailed);
        }
        Ok(())
    }

    /// Its text, or that of the whole script.
    fn text(&self) -> &'a str {
        self.text.unwrap_or(&self.sql.text)
    }

    /// Whether it may define anything, alter or drop it.
    fn defines(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Definition | StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => may_explain_definition(self.text()),
            _ => false,
        }
    }

    /// Whether it may make an index, or drop one.
    fn may_make_index(&self) -> bool {
        let in_script = || may_make_index(&self.sql.text);
        self.text.map_or_else(in_script, makes_index)
    }

    /// Keeps others from committing anything where the statement may make an index or alter a table. DuckDB 1.5.5 reads the table
    /// first and then adds the index, and what is committed in between is never found by it. Where it changes a type, it reads the
    /// table and then puts a new one in its place (and locks the new one's `append_lock`, not the old one's): what is committed in
    /// between is lost, or makes it fail.
    fn alone(&self, kind: StatementKind) -> Option<Alone<'a>> {
        let leaves_out = match kind {
            StatementKind::Alteration => true,
            StatementKind::Definition => self.may_make_index(),
            // With ANALYZE it runs the statement.
            StatementKind::Explain => self.may_make_index() || may_explain_alteration(self.text()),
            _ => false,
        };
        (leaves_out && !self.is_of_swap).then(|| self.connection.commits().alone())
    }

    /// Whether it may give a table another name.
    fn renames_table(&self, kind: StatementKind) -> Result<bool> {
        let text = self.text();
        match kind {
            StatementKind::Alteration => {
                Ok(may_rename_table(text) && !self.text.is_some_and(alters_view))
            }
            StatementKind::Explain if may_explain_alteration(text) && may_rename_table(text) => {
                Err(Error::Forbidden(EXPLAINS_RENAME))
            }
            _ => Ok(false),
        }
    }

    /// Claims the table that it alters, or `renames`, where it does.
    fn claim(&self, renames: bool, kind: StatementKind) -> Result<()> {
        let alters = matches!(kind, StatementKind::Alteration | StatementKind::Explain);
        match self.text {
            _ if renames => {
                self.gate.admit(kind)?;
                claim_renamed(self.connection, self.text)
            }
            Some(text) if alters => claim_altered(self.connection, text),
            _ => Ok(()),
        }
    }

    /// Whether it is a ROLLBACK for certain: a later one of a script may be taken for a COMMIT, which does no harm.
    fn rolls_back(&self) -> bool {
        let is_one = |mut first: Tokens<'_>| first.accept(&["rollback", "abort"]);
        self.index == 0 && statements(&self.sql.text).next().is_some_and(is_one)
    }

    /// Whether it runs in a transaction of ours where the client has none. A SET does, for a variable may be given what a
    /// query finds, and so does a CALL, which is planned as a query. But a CHECKPOINT, which DuckDB makes a CALL, does not.
    fn belongs_in_transaction(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Select
            | StatementKind::Rows
            | StatementKind::Explain
            | StatementKind::Definition
            | StatementKind::Alteration
            | StatementKind::Set => true,
            StatementKind::Call => !contains_word(&self.sql.text, "checkpoint"),
            _ => false,
        }
    }

    /// The error of a statement that says it was interrupted although nobody did.
    ///
    /// DuckDB stops the other threads of a statement that fails by an interrupt, and in a race of its own tells of
    /// that instead of the failure (`SimpleBufferedData::ExecuteTaskInternal`). A query is run again for its error
    /// alone.
    fn find_reason(&self, dirty: &mut bool) -> Error {
        let is_parsed_alike = self.is_alone || !contains_any_word(&self.sql.text, PIVOTS);
        let tries = if is_parsed_alike { REASON_TRIES } else { 0 };
        for _ in 0..tries {
            let outcome = transaction_that(
                |_: &u64| false,
                self.connection,
                |connection| {
                    let _watch = self.cancel.watch(connection);
                    let statement = self.connection.parse(&self.sql.text)?.statement(self.index);
                    let statement = statement.ok_or(Error::NoStatement)??;
                    if statement.kind() != StatementKind::Select {
                        return Err(Error::ReasonLost);
                    }
                    let mut consume = |result: QueryResult<'_>| drain(result, self.cancel);
                    Ok(self.run_prepared(&statement, dirty, &mut consume)?.1)
                },
            );
            match outcome {
                Err(Error::Sql(error)) if error.kind == SqlErrorKind::Interrupted => {}
                Err(error) => return error,
                Ok(_) => break,
            }
        }
        match self.cancel.check() {
            Ok(()) => Error::ReasonLost,
            Err(cancelled) => cancelled,
        }
    }

    fn run_outside(
        &self,
        script: &mut Script<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        // What is not alone must not be parsed anew: a PIVOT is several statements, under a name that is drawn by the parser.
        if self.is_alone
            && self.sql.parameters.rows() <= 1
            && begins_like_a_query(&self.sql.text)
            && let Some(moment) = self.connection.commits().quiet()
        {
            let outcome = self.run_alone(script, moment, dirty, consume);
            if outcome.is_err() {
                self.connection.roll_back();
            }
            if let Some(outcome) = outcome? {
                return Ok(outcome);
            }
        }
        self.run_in_transaction(script, dirty, consume)
    }

    /// Runs a statement that reads in no transaction of ours, which to begin and to end takes as long as a small
    /// query. `None` if it does more than read, or if a commit has begun between the moment and its start: then it has not run.
    fn run_alone(
        &self,
        script: &mut Script<'a>,
        moment: Moment,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<Option<(StatementKind, u64)>> {
        let watch = self.cancel.watch(self.connection);
        let statement = self.prepare(script)?;
        let kind = statement.kind();
        if kind != StatementKind::Select {
            return Ok(None);
        }
        // Until it has started: by then DuckDB has its view of every database the plan was made with.
        let Some(starting) = self.connection.commits().still(moment) else {
            return Ok(None);
        };
        let mut starting = Some(starting);
        let (mut rows_changed, mut is_overtaken) = (0, false);
        let start = Instant::now();
        // Once, or not at all.
        self.sql.parameters.for_each(&statement, || {
            let begun = self.start(&statement, dirty);
            is_overtaken = !starting.take().is_some_and(Starting::end);
            if !is_overtaken {
                rows_changed = self.finish(begun?, kind, consume)?;
            }
            Ok(())
        })?;
        if is_overtaken {
            drop(watch);
            return self.give_up().map(|()| None);
        }
        if !*dirty && self.may_keep_plan() {
            self.keep_plan(statement, moment, start);
        }
        Ok(Some((kind, rows_changed)))
    }

    /// Keeps the plan of a query that was started then and has just ended. What the express lane gives up is run again, so
    /// what draws from a sequence is never brief.
    fn keep_plan(&self, plan: Prepared<'_>, moment: Moment, start: Instant) {
        let sql = &self.sql.text;
        let is_brief = start.elapsed() <= ALONE
            && self.connection.chunks_fetched() <= 1
            && !contains_word(sql, "nextval");
        self.connection.keep_plan(sql, plan, moment, is_brief);
    }

    /// Whether the plan may serve the same query again, for as long as nothing is committed.
    fn may_keep_plan(&self) -> bool {
        self.may_have_plan()
            && !self.connection.frozen_definitions().may_be()
            && !is_frozen_by_plan(&self.sql.text)
    }

    /// Whether there can be a plan of the same query: it stands alone, on a connection whose settings stay as they
    /// are, and has no parameters, for of other types than before DuckDB binds them as what they are not.
    fn may_have_plan(&self) -> bool {
        self.is_alone
            && matches!(self.traces, Traces::Wiped | Traces::Refused)
            && self.sql.parameters.rows() == 0
            && self.sql.progress.is_none()
            && self.sql.text.len() <= MAX_KEPT_SQL_BYTES
    }

    fn run_in_transaction(
        &self,
        script: &mut Script<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        let seen = self.connection.indexes().seen();
        let (mut defining, mut steady) = (None, None);
        let work = |connection: &Connection| {
            // Not longer than this: an interrupt that hit the roll back would leave the transaction open, and the
            // next client in it.
            let _watch = self.cancel.watch(connection);
            let statement = self.prepare(script)?;
            let kind = statement.kind();
            if !self.belongs_in_transaction(kind) {
                return Ok(None);
            }
            let renames = self.renames_table(kind)?;
            if self.defines(kind) {
                new_types::check(connection, kind, &self.sql.text, false)?;
                let indexes = self.connection.indexes();
                defining = Some((
                    self.connection.definitions().read(),
                    self.may_make_index().then(|| indexes.make()),
                    self.alone(kind),
                ));
            }
            self.claim(renames, kind)?;
            let (kind, rows_changed) = self.run_prepared(&statement, dirty, consume)?;
            let written = self.rows_written(kind, rows_changed);
            let steady = steady.insert(self.connection.indexes().steady_since(seen));
            replay::secure_statement(connection, &self.sql.text, written, self.is_alone, steady)?;
            Ok(Some((kind, rows_changed)))
        };
        let changes = |outcome: &Option<(StatementKind, u64)>| {
            outcome.is_some_and(|(kind, _)| kind != StatementKind::Select)
        };
        let inside = transaction_that(changes, self.connection, work);
        if defining.is_some() {
            self.connection.seen_columns().forget_all();
        }
        drop((defining, steady));
        match inside? {
            Some(outcome) => Ok(outcome),
            // It is about transactions, or does what is refused inside one.
            None => {
                let watch = self.cancel.watch(self.connection);
                let statement = self.prepare(script)?;
                let outcome = self.run_prepared(&statement, dirty, consume);
                drop(watch);
                if outcome.is_err() {
                    // A BEGIN that was cancelled may have begun all the same.
                    self.connection.roll_back();
                }
                outcome
            }
        }
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
        if matches!(
            kind,
            StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
        ) {
            self.gate.admit(kind)?;
            check_comment(kind, self.text, &self.sql.text)?;
            check_replay(self.connection, kind, &self.sql.text)?;
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
            let mut consume = |result: QueryResult<'_>| {
                drop(under_way.take());
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
        if self.traces == Traces::Wiped && self.is_alone && is_for_session(kind, &self.sql.text) {
            return Err(Error::NoSession);
        }
        Ok((kind, rows_changed))
    }

    /// Where names are looked up, as a SET takes it.
    fn search_path(&self) -> Result<String> {
        let found = texts(self.connection, SEARCH_PATH_SQL)?.pop();
        Ok(found.map_or_else(String::new, |[path]| path))
    }

    /// Refuses a search path that leads to the server's own tables, and goes back to the one before.
    fn check_search_path(&self, before: Option<String>) -> Result<()> {
        let found = || {
            let statement = self.connection.parse(&own_schema_sql())?.last_statement();
            let mut rows = statement.ok_or(Error::NoStatement)??.execute()?;
            Ok::<_, Error>(rows.next_chunk()?.is_some())
        };
        // The check must not fail by what it finds: in a transaction that has failed, no setting can be taken back.
        if let Ok(false) = found() {
            return Ok(());
        }
        let before = before.filter(|path| !path.is_empty());
        let back = before.map(|path| format!("SET search_path = {}", literal(&path)));
        let go_back = || {
            let outcome = back.as_deref().map(|sql| self.connection.execute(sql));
            match outcome {
                Some(Ok(())) => Ok(()),
                // What it named may be gone.
                _ => self.connection.execute(RESET_SCHEMA_SQL),
            }
        };
        if go_back().is_ok() {
            return Err(Error::Forbidden(OWN_TABLES));
        }
        self.connection.roll_back();
        go_back()?;
        Err(Error::TransactionFailed)
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
        self.begin(statement)
    }

    fn begin(&self, statement: &Prepared<'a>) -> Result<Pending<'a>> {
        let pending = statement.start()?;
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

/// A query with a row where names are looked up among the server's own tables, in whatever case the path writes their
/// schema: a statement that names one by its last part alone would not be recognised.
fn own_schema_sql() -> String {
    format!(
        "SELECT 1 WHERE system.main.list_contains(system.main.list_transform(\
         system.main.current_schemas(false), lambda name: {}), '{OWN_SCHEMA}')",
        folded("name")
    )
}

/// Whether all that a script alters are names of tables, which touches no rows.
fn renames_tables_only(sql: &str) -> bool {
    let all_are_of_tables = count_pairs(sql, "rename", "to")
        .is_some_and(|(renames, of_tables)| renames > 0 && renames == of_tables);
    let mut others = ["add", "column", "drop", "not", "set", "type"].iter();
    all_are_of_tables && !others.any(|word| contains_word(sql, word))
}

/// Whether all that a statement does is gone with its session.
fn is_for_session(kind: StatementKind, sql: &str) -> bool {
    match kind {
        StatementKind::Set => true,
        StatementKind::Definition | StatementKind::Explain => creates_temporary(sql),
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
