//! The way of a query: a script runs statement by statement, and the last result streams out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::Stream;
use tokio::sync::oneshot;

use super::Lossless;
use super::admission::{OWN_TABLES, admit};
use super::commits::{Commits, Moment};
use super::ffi::query::Script;
use super::ffi::{Connection, Pending, Prepared, QueryResult, StatementKind};
use super::frames::{FrameReceiver, channel};
use super::lease::{Held, Place, Traces};
use super::parameters::{self, Parameters};
use super::pool::{Cancel, CancelOnDrop, ClientTransaction, Pool, Session};
use super::progress::Progress;
use super::pump::{Frame, Pump, Start};
use super::readable::Readable;
use super::sql_error::SqlErrorKind;
use super::transaction_that;
use crate::error::{Error, Result};

/// The longest text of a query whose plan is kept.
const MAX_KEPT_SQL_BYTES: usize = 16 << 10;

/// How often a query is run again whose error DuckDB did not tell.
const REASON_TRIES: u32 = 3;

/// A row where names are looked up among the server's own tables: a statement that names one by its last part alone
/// would not be recognised.
const OWN_SCHEMA_SQL: &str = "
    SELECT 1 WHERE system.main.list_contains(system.main.current_schemas(false), 'duck_flight')";
const RESET_SCHEMA_SQL: &str = "RESET search_path";

/// What DuckDB says of a commit that it has rolled back.
const COMMIT_FAILED: &str = "Failed to commit";

/// How many bytes the result of a statement may have that is kept in memory until its client fetches it.
const HELD_BYTES: usize = 64 << 20;

/// What a client asks to be run: a script, with values for the parameters of its one statement.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    pub(crate) text: String,
    pub(crate) parameters: Parameters,
    /// Where to tell how far it is, where somebody wants to know.
    progress: Option<Progress>,
}

impl Sql {
    pub(crate) fn new(text: String, parameters: Parameters) -> Self {
        Self {
            text,
            parameters,
            progress: None,
        }
    }

    /// The same, with somebody who asks how far it is.
    pub(crate) fn watched_by(self, progress: &Progress) -> Self {
        Self {
            progress: Some(progress.clone()),
            ..self
        }
    }
}

impl From<String> for Sql {
    fn from(text: String) -> Self {
        Self::new(text, Parameters::default())
    }
}

/// A result on its way: its schema, then its record batches. Dropping it stops the statement.
pub(crate) struct ResultStream {
    schema: SchemaRef,
    type_names: Vec<String>,
    /// Batches that came with the schema.
    first: VecDeque<RecordBatch>,
    frames: FrameReceiver,
    ended: bool,
    cancel: CancelOnDrop,
}

impl ResultStream {
    fn new(start: Start, frames: FrameReceiver, cancel: CancelOnDrop) -> Self {
        Self {
            schema: start.schema,
            type_names: start.type_names,
            first: start.batches.into(),
            frames,
            ended: start.is_all,
            cancel,
        }
    }

    /// The schema of every batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The SQL type of each column.
    pub(crate) fn type_names(&self) -> &[String] {
        &self.type_names
    }

    /// The memory that its first batches take.
    pub(crate) fn first_bytes(&self) -> usize {
        let sizes = self.first.iter().map(RecordBatch::get_array_memory_size);
        sizes.sum()
    }

    /// What stops the statement.
    pub(crate) fn cancel(&self) -> Arc<Cancel> {
        self.cancel.cancel()
    }
}

impl Stream for ResultStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.frames.poll_recv(context)) {
            Some(Ok(Frame::Batch(batch))) => return Poll::Ready(Some(Ok(batch))),
            Some(Ok(Frame::End)) => None,
            Some(Ok(Frame::Start(_))) | None => Some(Err(Error::WorkerLost)),
            Some(Err(error)) => Some(Err(error)),
        };
        self.ended = true;
        Poll::Ready(item)
    }
}

/// What a script that has run to its end answers.
pub(crate) struct Outcome {
    pub(crate) rows_changed: u64,
    /// The rows of its last statement, where it has any.
    pub(crate) rows: Option<Rows>,
}

/// A result in memory.
pub(crate) struct Rows {
    pub(crate) schema: SchemaRef,
    pub(crate) type_names: Vec<String>,
    pub(crate) batches: Vec<RecordBatch>,
}

impl Rows {
    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let sizes = self.batches.iter().map(RecordBatch::get_array_memory_size);
        sizes.sum()
    }
}

/// What is known of a script before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    /// The schema of its last statement's result.
    pub(crate) schema: SchemaRef,
    /// The SQL type of each column of that.
    pub(crate) type_names: Vec<String>,
    /// The schema of the values it takes.
    pub(crate) parameters: SchemaRef,
    /// Whether it is one statement that reads, and nothing else.
    pub(crate) is_query: bool,
    /// Whether it answers with rows, rather than with how many it changed or with nothing.
    pub(crate) has_rows: bool,
    /// When that was found out, where nothing was being committed.
    moment: Option<Moment>,
}

impl Description {
    /// What is known of a script whose statements depend on each other.
    pub(crate) fn unknown() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            type_names: Vec::new(),
            parameters: Arc::new(Schema::empty()),
            is_query: false,
            has_rows: true,
            moment: None,
        }
    }

    /// Whether nothing has been committed since.
    pub(super) fn is_current(&self, commits: &Commits) -> bool {
        let moments = self.moment.zip(commits.quiet());
        moments.is_some_and(|(then, now)| then == now)
    }
}

/// Runs a script; answers with the first rows of its last statement, or all where they are few.
pub(super) async fn query(
    pool: &Pool,
    lossless: &Arc<Lossless>,
    place: &Place,
    sql: Sql,
) -> Result<ResultStream> {
    let sql = Arc::new(sql);
    let mut seat = place.seat().await?;
    loop {
        let guard = CancelOnDrop::default();
        let cancel = guard.cancel();
        let (sender, mut frames) = channel(place.requests(), pool.read_ahead());
        cancel.closes(frames.places());
        let (sql, lossless) = (sql.clone(), lossless.clone());
        pool.submit(move |thread| {
            let mut pump = Pump::new(sender);
            let outcome = seat.run(thread, |session, traces| {
                run_script(session, traces, &sql, &cancel, |result| {
                    pump.send_batches(result, &lossless.options, &cancel)
                })
            });
            pump.finish(told(outcome, &cancel).map(|_| ()));
        })?;
        match frames.recv().await.ok_or(Error::WorkerLost)? {
            Err(Error::NeedsConnection) => seat = place.own_seat().await?,
            Err(error) => return Err(error),
            Ok(Frame::Start(start)) => return Ok(ResultStream::new(start, frames, guard)),
            Ok(Frame::Batch(_) | Frame::End) => return Err(Error::WorkerLost),
        }
    }
}

/// Runs a script to its end; its last result is kept in memory.
pub(super) async fn run(
    pool: &Pool,
    lossless: &Arc<Lossless>,
    place: &Place,
    sql: Sql,
) -> Result<Outcome> {
    let lossless = lossless.clone();
    run_on(pool, place, move |session, traces, cancel| {
        let mut rows = None;
        let rows_changed = run_script(session, traces, &sql, cancel, |result| {
            collect(result, &lossless, cancel, &mut rows)
        })?;
        Ok(Outcome { rows_changed, rows })
    })
    .await
}

/// Runs a script for its effect; answers with the rows all its statements changed.
pub(super) async fn execute(pool: &Pool, place: &Place, sql: Sql) -> Result<u64> {
    run_on(pool, place, move |session, traces, cancel| {
        run_script(session, traces, &sql, cancel, |result| {
            drain(result, cancel)
        })
    })
    .await
}

/// What is known of a script, without running any of it.
pub(super) async fn describe(
    pool: &Pool,
    lossless: &Arc<Lossless>,
    place: &Place,
    sql: String,
) -> Result<Description> {
    let lossless = lossless.clone();
    run_on(pool, place, move |session, _, cancel| {
        let _watch = cancel.watch(&session.connection);
        let moment = session.connection.commits().quiet();
        let script = session.connection.parse(&sql)?;
        let count = script.len();
        let described = script
            .last_statement()
            .ok_or(Error::NoStatement)?
            .map_err(Error::from)
            .and_then(|statement| description(&statement, &lossless, &sql, count))
            .map(|described| Description {
                moment,
                ..described
            });
        match described {
            // What the last statement names may be made by the ones before it.
            Err(Error::Sql(error)) if count > 1 => Err(Error::UnknownSchema(error)),
            described => described,
        }
    })
    .await
}

fn description(
    statement: &Prepared<'_>,
    lossless: &Lossless,
    sql: &str,
    count: u64,
) -> Result<Description> {
    let (schema, type_names) = statement.schema(&lossless.options)?;
    let is_one_column = |name| schema.fields().len() == 1 && schema.field(0).name() == name;
    let has_rows = match statement.kind() {
        StatementKind::Select | StatementKind::Explain => true,
        // DuckDB answers with how many rows were changed, unless there is a RETURNING.
        StatementKind::Rows => !is_one_column("Count") || contains_word(sql, "returning"),
        StatementKind::Pragma | StatementKind::Other => !is_one_column("Success"),
        _ => false,
    };
    Ok(Description {
        schema: Readable::new(&schema).schema().clone(),
        type_names,
        parameters: parameters::schema(&statement.parameters()?),
        // A query that takes a number from a sequence changes it.
        is_query: count == 1
            && statement.kind() == StatementKind::Select
            && !contains_word(sql, "nextval"),
        has_rows,
        moment: None,
    })
}

fn contains_word(sql: &str, word: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|found| found.eq_ignore_ascii_case(word))
}

/// Runs a job on the connection that a client's statements run on, and waits for its answer. One that was refused,
/// for it would leave something behind, runs on the client's own. When the caller stops waiting, the job is cancelled.
pub(super) async fn run_on<T: Send + 'static>(
    pool: &Pool,
    place: &Place,
    job: impl Fn(&mut Session, Traces, &Cancel) -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    let mut seat = place.seat().await?;
    loop {
        let job = job.clone();
        let outcome = pool.run(move |thread, cancel| {
            let outcome = seat.run(thread, |session, traces| job(session, traces, cancel));
            told(outcome, cancel)
        });
        match outcome.await {
            Err(Error::NeedsConnection) => seat = place.own_seat().await?,
            outcome => return outcome,
        }
    }
}

/// What a client is told: that an interrupt of its own was one.
fn told<T>(outcome: Result<T>, cancel: &Cancel) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Sql(sql) if sql.kind == SqlErrorKind::Interrupted && cancel.is_cancelled() => {
            Error::Cancelled
        }
        error => error,
    })
}

/// Begins or ends the transaction of a client's own connection, and calls `done` once that has succeeded. It runs to its
/// end, whether or not anybody waits for the answer.
pub(super) fn control(
    pool: &Pool,
    mut held: Held,
    sql: &'static str,
    done: impl FnOnce() + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let (answer, waiting) = oneshot::channel();
    pool.submit(move |thread| {
        let outcome = held.session(thread).and_then(|session| {
            let cancel = Cancel::default();
            let sql = sql.to_owned().into();
            run_script(session, Traces::Kept, &sql, &cancel, |result| {
                drain(result, &cancel)
            })
        });
        answer.send(outcome.map(|_| done())).ok();
    })?;
    Ok(waiting)
}

/// Runs every statement of a script in order; the results of the last one go to `last`.
fn run_script(
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
        ..
    } = session;
    cancel.check()?;
    if *transaction != ClientTransaction::None {
        cancel.spare_transaction();
    } else if traces == Traces::KeptInTransaction {
        // Outside of it, what is to be all or nothing would be committed bit by bit.
        return Err(Error::TransactionFailed);
    }
    let _watched = match &sql.progress {
        Some(progress) => {
            *dirty = true;
            Some(progress.watch(connection)?)
        }
        None => None,
    };
    let mut script = connection.parse(&sql.text)?;
    let (count, mut number, mut rows_changed) = (script.len(), 0, 0);
    if count > 1 {
        if traces == Traces::Refused {
            return Err(Error::NeedsConnection);
        }
        if sql.parameters.rows() > 0 {
            return Err(Error::ParametersOfScript);
        }
    }
    while number < count {
        number += 1;
        let at = |error: Error| match error {
            Error::Sql(source) if count > 1 => Error::Statement {
                number,
                count,
                source,
            },
            other => other,
        };
        let is_last = number == count;
        let mut consume = |result: QueryResult<'_>| match is_last {
            true => last(result),
            false => drain(result, cancel),
        };
        let statement = Statement {
            connection,
            sql,
            cancel,
            traces,
            index: number - 1,
            is_alone: count == 1,
        };
        rows_changed += statement
            .run(&mut script, transaction, dirty, &mut consume)
            .map_err(at)?;
    }
    let is_open = *transaction != ClientTransaction::None;
    let is_kept = matches!(traces, Traces::Kept | Traces::KeptInTransaction);
    match (count, is_open && !is_kept) {
        (0, _) => Err(Error::NoStatement),
        (_, true) => Err(Error::OpenTransaction),
        (_, false) => Ok(rows_changed),
    }
}

/// One statement of a script.
struct Statement<'a> {
    connection: &'a Connection,
    sql: &'a Sql,
    cancel: &'a Cancel,
    traces: Traces,
    index: u64,
    /// Whether it is the only one of its script.
    is_alone: bool,
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
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        if *transaction != ClientTransaction::None {
            return self.run_inside(script, transaction, dirty, consume);
        }
        let (kind, rows_changed) = match self.run_outside(script, dirty, consume) {
            Err(Error::Sql(error))
                if error.kind == SqlErrorKind::Interrupted && !self.cancel.is_cancelled() =>
            {
                return Err(self.find_reason(dirty));
            }
            outcome => outcome?,
        };
        // Outside of a transaction only a BEGIN succeeds.
        if kind == StatementKind::Transaction {
            *transaction = ClientTransaction::Open;
        }
        Ok(rows_changed)
    }

    /// Runs the statement in the client's transaction.
    fn run_inside(
        &self,
        script: &mut Script<'a>,
        transaction: &mut ClientTransaction,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        let _watch = self.cancel.watch(self.connection);
        let mut ends = false;
        let outcome = self.prepare(script).and_then(|statement| {
            ends = statement.kind() == StatementKind::Transaction;
            if ends && *transaction == ClientTransaction::Doubtful {
                self.check_commit()?;
            }
            let (_, rows_changed) = self.run_prepared(&statement, dirty, consume)?;
            if ends {
                *transaction = ClientTransaction::None;
            }
            Ok(rows_changed)
        });
        match &outcome {
            // It has not run.
            Err(Error::TransactionByCall) => {}
            // A commit that fails is rolled back.
            Err(Error::TransactionFailed) => *transaction = ClientTransaction::None,
            Err(Error::Sql(error)) if error.message.contains(COMMIT_FAILED) => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            // It may have ended the transaction all the same, where it was interrupted or cancelled.
            Err(_) if ends && self.connection.begin().is_ok() => {
                self.connection.roll_back();
                *transaction = ClientTransaction::None;
            }
            Err(_) => *transaction = ClientTransaction::Doubtful,
            Ok(_) => {}
        }
        outcome
    }

    /// Refuses to commit a transaction that can be rolled back only, and rolls it back. DuckDB itself would roll it back
    /// and say nothing.
    fn check_commit(&self) -> Result<()> {
        let is_failed = self.connection.check_transaction().is_err();
        if is_failed && !begins_with(&self.sql.text, &["rollback", "abort"]) {
            self.connection.roll_back();
            return Err(Error::TransactionFailed);
        }
        Ok(())
    }

    /// The error of a statement that says it was interrupted although nobody did.
    ///
    /// DuckDB stops the other threads of a statement that fails by an interrupt, and in a race of its own tells of
    /// that instead of the failure (`SimpleBufferedData::ExecuteTaskInternal`). A query is run again for its error
    /// alone.
    fn find_reason(&self, dirty: &mut bool) -> Error {
        for _ in 0..REASON_TRIES {
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
        if self.sql.parameters.rows() <= 1
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
    /// query. `None` if it does more than read, or if a commit has begun since the moment: then it has not run.
    fn run_alone(
        &self,
        script: &mut Script<'a>,
        moment: Moment,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<Option<(StatementKind, u64)>> {
        let _watch = self.cancel.watch(self.connection);
        let may_keep = self.may_keep_plan(script);
        let kept = may_keep
            .then(|| self.connection.take_plan(&self.sql.text, moment))
            .flatten();
        let statement = match kept {
            Some(statement) => statement,
            None => self.prepare(script)?,
        };
        let kind = statement.kind();
        if kind != StatementKind::Select {
            return Ok(None);
        }
        // Until it has started: by then DuckDB has its view of every database the plan was made with.
        let Some(starting) = self.connection.commits().still(moment) else {
            return Ok(None);
        };
        let mut starting = Some(starting);
        let mut rows_changed = 0;
        self.sql.parameters.for_each(&statement, || {
            let pending = self.start(&statement, dirty)?;
            drop(starting.take());
            rows_changed += self.finish(pending, consume)?;
            Ok(())
        })?;
        if may_keep {
            self.connection.keep_plan(&self.sql.text, statement, moment);
        }
        Ok(Some((kind, rows_changed)))
    }

    /// Whether the plan may serve the same query again, for as long as nothing is committed: it stands alone, on a
    /// connection whose settings stay as they are. A sample is drawn by its plan, and parameters of other types than before
    /// are bound by DuckDB as what they are not.
    fn may_keep_plan(&self, script: &Script<'_>) -> bool {
        let sql = &self.sql.text;
        let is_shared = matches!(self.traces, Traces::Wiped | Traces::Refused);
        is_shared
            && script.len() == 1
            && self.sql.parameters.rows() == 0
            && sql.len() <= MAX_KEPT_SQL_BYTES
            && !["sample", "tablesample"]
                .iter()
                .any(|word| contains_word(sql, word))
    }

    fn run_in_transaction(
        &self,
        script: &mut Script<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        let mut defining = None;
        let work = |connection: &Connection| {
            // Not longer than this: an interrupt that hit the roll back would leave the transaction open, and the
            // next client in it.
            let _watch = self.cancel.watch(connection);
            let statement = self.prepare(script)?;
            let kind = statement.kind();
            if !belongs_in_transaction(kind) {
                return Ok(None);
            }
            if kind == StatementKind::Definition {
                defining = Some(self.connection.definitions().read());
            }
            self.run_prepared(&statement, dirty, consume).map(Some)
        };
        let changes = |outcome: &Option<(StatementKind, u64)>| {
            outcome.is_some_and(|(kind, _)| kind != StatementKind::Select)
        };
        let inside = transaction_that(changes, self.connection, work)?;
        drop(defining);
        match inside {
            Some(outcome) => Ok(outcome),
            // It is about transactions, or about the session: neither belongs inside one.
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
        Ok(statement.ok_or(Error::NoStatement)??)
    }

    fn run_prepared(
        &self,
        statement: &Prepared<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        let kind = statement.kind();
        // What belongs in a transaction is committed by the COMMIT that ends it; anything else may be a COMMIT.
        let _under_way =
            (!belongs_in_transaction(kind)).then(|| self.connection.commits().under_way());
        let mut rows_changed = 0;
        self.sql.parameters.for_each(statement, || {
            let pending = self.start(statement, dirty)?;
            rows_changed += self.finish(pending, consume)?;
            Ok(())
        })?;
        if kind == StatementKind::Set {
            self.check_search_path()?;
        }
        if self.traces == Traces::Wiped && self.is_alone && is_for_session(kind, &self.sql.text) {
            return Err(Error::NoSession);
        }
        Ok((kind, rows_changed))
    }

    /// Refuses a search path that leads to the server's own tables, and takes it back.
    fn check_search_path(&self) -> Result<()> {
        let found = || {
            let statement = self.connection.parse(OWN_SCHEMA_SQL)?.last_statement();
            let mut rows = statement.ok_or(Error::NoStatement)??.execute()?;
            Ok::<_, Error>(rows.next_chunk()?.is_some())
        };
        // The check must not fail by what it finds: in a transaction that has failed, no setting can be taken back.
        if let Ok(false) = found() {
            return Ok(());
        }
        if self.connection.execute(RESET_SCHEMA_SQL).is_ok() {
            return Err(Error::Forbidden(OWN_TABLES));
        }
        self.connection.roll_back();
        self.connection.execute(RESET_SCHEMA_SQL)?;
        Err(Error::TransactionFailed)
    }

    fn start(&self, statement: &Prepared<'a>, dirty: &mut bool) -> Result<Pending<'a>> {
        let kind = statement.kind();
        let leaves_traces = admit(kind, &self.sql.text)?;
        if kind == StatementKind::Transaction && self.traces == Traces::KeptInTransaction {
            return Err(Error::TransactionByCall);
        }
        if leaves_traces && self.traces == Traces::Refused {
            return Err(Error::NeedsConnection);
        }
        *dirty |= leaves_traces;
        let pending = statement.start()?;
        // An interrupt sent before the start was lost; the flag was not.
        self.cancel.check()?;
        Ok(pending)
    }

    fn finish(
        &self,
        pending: Pending<'a>,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<u64> {
        let mut result = pending.finish()?;
        let rows_changed = result.rows_changed();
        consume(result)?;
        Ok(rows_changed)
    }
}

/// Whether all that a statement does is gone with its session.
fn is_for_session(kind: StatementKind, sql: &str) -> bool {
    match kind {
        StatementKind::Set => true,
        StatementKind::Other => begins_with(sql, &["prepare"]),
        StatementKind::Definition => {
            begins_with(sql, &["create"])
                && ["temp", "temporary"]
                    .iter()
                    .any(|word| second_word_is(sql, word))
        }
        _ => false,
    }
}

fn second_word_is(sql: &str, word: &str) -> bool {
    let mut words = sql.split_whitespace().skip(1);
    let first = words.next().unwrap_or_default();
    let is_replace = first.eq_ignore_ascii_case("or");
    let second = if is_replace {
        words.nth(1)
    } else {
        Some(first)
    };
    second.is_some_and(|second| second.eq_ignore_ascii_case(word))
}

/// Whether a statement of this kind runs in a transaction of ours where the client has none.
fn belongs_in_transaction(kind: StatementKind) -> bool {
    matches!(
        kind,
        StatementKind::Select
            | StatementKind::Rows
            | StatementKind::Explain
            | StatementKind::Definition
    )
}

/// Whether a script looks like a query. It saves planning other statements twice, and decides nothing else.
fn begins_like_a_query(sql: &str) -> bool {
    begins_with(sql, &["select", "from", "with"])
}

fn begins_with(sql: &str, words: &[&str]) -> bool {
    let first = sql.trim_start().split(|c: char| !c.is_alphabetic()).next();
    let first = first.unwrap_or_default();
    words.iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Gathers the rows of a result, where it has any.
fn collect(
    result: QueryResult<'_>,
    lossless: &Lossless,
    cancel: &Cancel,
    rows: &mut Option<Rows>,
) -> Result<()> {
    if !result.has_rows() {
        return drain(result, cancel);
    }
    let mut found = result.into_batches(&lossless.options)?;
    let readable = Readable::new(found.schema());
    let rows = rows.get_or_insert_with(|| Rows {
        schema: readable.schema().clone(),
        type_names: found.type_names(),
        batches: Vec::new(),
    });
    if rows.schema != *readable.schema() {
        return Err(Error::SchemaChanged);
    }
    let mut bytes = rows.bytes();
    while let Some(batch) = found.next_batch()? {
        cancel.check()?;
        let batch = readable.apply(batch)?;
        bytes += batch.get_array_memory_size();
        if bytes > HELD_BYTES {
            return Err(Error::ResultTooLarge(HELD_BYTES));
        }
        rows.batches.push(batch);
    }
    cancel.check()
}

fn drain(mut result: QueryResult<'_>, cancel: &Cancel) -> Result<()> {
    while result.next_chunk()?.is_some() {
        cancel.check()?;
    }
    cancel.check()
}
