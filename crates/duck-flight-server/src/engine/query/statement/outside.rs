//! A statement that its client runs in no transaction: in one of its own, or in none where that is safe.

use std::time::Instant;

use super::{Statement, begins_like_a_query};
use crate::engine::connections::commits::{Moment, Starting};
use crate::engine::connections::lease::Traces;
use crate::engine::ffi::query::{ALONE, Script};
use crate::engine::ffi::{Connection, Prepared, QueryResult, StatementKind};
use crate::engine::replay::index_work::IndexWork;
use crate::engine::replay::{alterations, kept_indexes, new_types, schemas, structs};
use crate::engine::sql::frozen::is_frozen_by_plan;
use crate::engine::sql::tokens::contains_word;
use crate::engine::{replay, transaction_that};
use crate::error::{Error, Result};

/// The longest text of a query whose plan is kept.
const MAX_KEPT_SQL_BYTES: usize = 16 << 10;

impl<'a> Statement<'a> {
    pub(super) fn run_outside(
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
        let wait = self.connection.wait_for_older();
        loop {
            match self.run_in_transaction(script, dirty, consume) {
                // It has not run. Others commit meanwhile, and none of what it needs alone is held.
                Err(
                    Error::IndexBesideOlder | Error::IndexBesideWriters | Error::TypeBesideOlder,
                ) if wait.goes_on(self.cancel)? => {}
                outcome => return outcome,
            }
        }
    }

    /// Runs a query whose plan is kept: what it is was found out when the plan was made. `None` where there is no plan,
    /// or where a commit has begun since: then it has not run.
    pub(super) fn run_kept(
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

    /// Takes back a query that a commit has overtaken while it started. It has read nothing yet; at most it has drawn from a
    /// sequence, as one that is rolled back.
    fn give_up(&self) -> Result<()> {
        self.connection.roll_back();
        self.cancel.check()
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
            && self.is_shared()
            && self.sql.parameters.rows() == 0
            && self.sql.progress.is_none()
            && self.sql.text.len() <= MAX_KEPT_SQL_BYTES
    }

    /// Whether the connection is no client's own.
    fn is_shared(&self) -> bool {
        matches!(self.traces, Traces::Wiped | Traces::Refused)
    }

    fn run_in_transaction(
        &self,
        script: &mut Script<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        // Until after the commit.
        let mut held = self.hold_changed(self.is_shared() && !*dirty)?;
        let seen = self.connection.indexes().seen();
        let (mut defining, mut steady) = (None, None);
        let work = |connection: &Connection| {
            // Not longer than this: an interrupt that hit the roll back would leave the transaction open, and the
            // next client in it.
            let _watch = self.cancel.watch(connection);
            let mut statement = self.prepare(script)?;
            let kind = statement.kind();
            if !self.belongs_in_transaction(kind) {
                return Ok(None);
            }
            if !matches!(kind, StatementKind::Rows | StatementKind::Explain) {
                // It was in doubt whether it changes any.
                held = None;
            }
            let renames = self.renames_table(kind)?;
            if self.defines(kind) {
                new_types::check(connection, self.asked(kind), false)?;
                let may_make_for_others =
                    IndexWork::default().makes_for_others(connection, self.asked(kind))?;
                let changes_type = self.changes_type(kind, &IndexWork::default())?;
                let indexes = self.connection.indexes();
                let may_make_index = self.may_make_index();
                defining = Some((
                    self.connection.definitions().read(),
                    may_make_index.then(|| indexes.make()),
                    // Behind that: who keeps indexes steady may have to wait for a turn.
                    may_make_index.then(|| self.connection.turn()),
                    self.alone(kind),
                ));
                let makes_index =
                    may_make_for_others && !kept_indexes::is_there(connection, self.asked(kind))?;
                let older = connection.older_transactions();
                if makes_index && older.others {
                    return Err(Error::IndexBesideOlder);
                }
                if changes_type && older.others {
                    return Err(Error::TypeBesideOlder);
                }
                if (makes_index || changes_type) && older.own {
                    // It has begun before others had committed what they were at.
                    connection.restart_work()?;
                    statement = self.prepare(script)?;
                }
                if may_make_index {
                    kept_indexes::checkpoint(connection, self.asked(kind))?;
                }
                if makes_index {
                    connection.finish_deletions()?;
                }
            }
            self.claim(renames, kind)?;
            if self.defines(kind) {
                alterations::note(connection, self.asked(kind))?;
                schemas::clear(connection, self.asked(kind))?;
            }
            let (kind, rows_changed) = self.run_prepared(&statement, dirty, consume)?;
            let written = self.rows_written(kind, rows_changed);
            let steady = steady.insert(self.connection.indexes().steady_since(seen));
            let asked = self.asked(kind);
            replay::secure_statement(connection, asked, written, self.is_alone, steady)?;
            structs::secure(connection, written)?;
            Ok(Some((kind, rows_changed)))
        };
        let changes = |outcome: &Option<(StatementKind, u64)>| {
            outcome.is_some_and(|(kind, _)| kind != StatementKind::Select)
        };
        let inside = transaction_that(changes, self.connection, work);
        if defining.is_some() {
            self.connection.seen_tables().forget_all();
        }
        drop((defining, steady, held));
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
}
