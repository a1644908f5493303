//! The way of a query: a script runs statement by statement, and the last result streams out.
//!
//! [`statement`] runs the script, [`pump`] gathers what comes of it into messages, in types that every client can read
//! ([`readable`], [`interval`]), and [`frames`] leads them to the client. What is small goes by the [`express`] lane, beside which
//! [`lookout`] watches.

pub(super) mod expansion;
pub(super) mod express;
pub(super) mod frames;
pub(super) mod interval;
pub(super) mod lookout;
pub(super) mod parameters;
pub(super) mod pivots;
pub(super) mod progress;
pub(super) mod pump;
pub(super) mod readable;
pub(super) mod statement;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::Stream;
use tokio::sync::oneshot;

use super::Lossless;
use super::connections::cancel::{Cancel, CancelOnDrop};
use super::connections::commits::{Commits, Moment};
use super::connections::lease::{Held, InUse, Place, Seat, Traces};
use super::connections::patience::Patience;
use super::connections::pool::{Pool, Session};
use super::ffi::{Prepared, QueryResult, StatementKind};
use super::holdings::{HeldBytes, Holdings};
use super::ingest::writer::Shared;
use super::sql::admission::check_before_planning;
use super::sql::tokens::contains_word;
use super::sql_error::SqlErrorKind;
use crate::error::{Error, Result};
use crate::gauge::Counted;
use express::Express;
use frames::{FrameReceiver, channel};
use parameters::Parameters;
use progress::Progress;
use pump::{Frame, Pump, Start};
use readable::Readable;
use statement::{drain, run_script};

/// How many bytes the result of a statement may have that is kept in memory until its client fetches it.
const HELD_BYTES: usize = 64 << 20;

/// What a client asks to be run: a script, with values for the parameters of its one statement.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    pub(crate) text: String,
    pub(crate) parameters: Parameters,
    /// Where to tell how far it is, where somebody wants to know.
    pub(super) progress: Option<Progress>,
    /// The memory of a long text, for as long as anybody keeps it.
    _held: Option<Arc<HeldBytes>>,
}

impl Sql {
    pub(crate) fn new(text: String, parameters: Parameters) -> Self {
        Self {
            text,
            parameters,
            progress: None,
            _held: None,
        }
    }

    /// Adds the memory that its text takes, to be held as long as the script lives.
    pub(super) fn held_by(self, held: HeldBytes) -> Self {
        Self {
            _held: Some(Arc::new(held)),
            ..self
        }
    }

    /// Adds where its progress is told, for somebody who asks.
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
    /// The batch that came with the schema.
    first: Option<RecordBatch>,
    /// Where the others come from, until the end.
    frames: Option<FrameReceiver>,
    cancel: CancelOnDrop,
    /// Keeps the client's session alive.
    _in_use: Option<InUse>,
    _runs: Option<Counted>,
}

impl ResultStream {
    fn new(
        start: Start,
        frames: Option<FrameReceiver>,
        cancel: CancelOnDrop,
        in_use: Option<InUse>,
    ) -> Self {
        Self {
            schema: start.schema,
            type_names: start.type_names,
            first: start.batch,
            frames: frames.filter(|_| !start.is_all),
            cancel,
            _in_use: in_use,
            _runs: None,
        }
    }

    /// Counts the result among the statements that run, for as long as it lives.
    pub(super) fn counted_by(self, runs: Counted) -> Self {
        Self {
            _runs: Some(runs),
            ..self
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

    /// The memory that its first batch takes.
    pub(crate) fn first_bytes(&self) -> usize {
        let first = self.first.as_ref();
        first.map_or(0, RecordBatch::get_array_memory_size)
    }

    /// What stops the statement.
    pub(crate) fn cancel(&self) -> Arc<Cancel> {
        self.cancel.cancel()
    }
}

impl Stream for ResultStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = self.first.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        let item = match ready!(frames.poll_recv(context)) {
            Some(Ok(Frame::Batch(batch))) => return Poll::Ready(Some(Ok(batch))),
            Some(Ok(Frame::End)) => None,
            Some(Ok(Frame::Start(_))) | None => Some(Err(Error::WorkerLost)),
            Some(Err(error)) => Some(Err(error)),
        };
        self.frames = None;
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
    /// The memory they take.
    pub(crate) held: HeldBytes,
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

    /// The memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let names = self.type_names.iter();
        let names: usize = names.map(|name| size_of::<String>() + name.len()).sum();
        self.schema.fields().size() + self.parameters.fields().size() + names
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
    express: &Express,
    patience: &Patience,
    shared: &Arc<Shared>,
    place: &Place,
    sql: Sql,
) -> Result<ResultStream> {
    let in_use = place.in_use();
    let mut seat = place.seat().await?;
    if matches!(seat, Seat::Shared(_))
        && let Some(all) = express.query(pool, &shared.lossless, &sql)
    {
        return Ok(ResultStream::new(
            all,
            None,
            CancelOnDrop::default(),
            in_use,
        ));
    }
    let sql = Arc::new(sql);
    loop {
        let guard = CancelOnDrop::default();
        let cancel = guard.cancel();
        let (sender, mut frames) = channel(place.requests(), pool.read_ahead(), patience.clone());
        cancel.closes(frames.places());
        let (sql, shared) = (sql.clone(), shared.clone());
        pool.submit(move |thread| {
            let mut pump = Pump::new(sender);
            let outcome = seat.run(thread, &cancel, |session, traces| {
                run_script(session, traces, &sql, &cancel, |result| {
                    pump.send_batches(result, &shared.lossless.options, &cancel)
                })
            });
            pump.finish(told(outcome, &cancel, &shared).map(|_| ()));
        })?;
        match frames.recv().await.ok_or(Error::WorkerLost)? {
            Err(Error::NeedsConnection) => seat = place.own_seat().await?,
            Err(error) => return Err(error),
            Ok(Frame::Start(start)) => {
                return Ok(ResultStream::new(start, Some(frames), guard, in_use));
            }
            Ok(Frame::Batch(_) | Frame::End) => return Err(Error::WorkerLost),
        }
    }
}

/// Runs a script to its end; its last result is kept in memory.
pub(super) async fn run(
    pool: &Pool,
    shared: &Arc<Shared>,
    holdings: &Holdings,
    place: &Place,
    sql: Sql,
) -> Result<Outcome> {
    let (lossless, holdings) = (shared.lossless.clone(), holdings.clone());
    run_on(pool, shared, place, move |session, traces, cancel| {
        let mut gathered = Collected::new(&holdings);
        let rows_changed = run_script(session, traces, &sql, cancel, |result| {
            gathered.add(result, &lossless, cancel)
        })?;
        let rows = gathered.rows;
        Ok(Outcome { rows_changed, rows })
    })
    .await
}

/// Runs a script for its effect; answers with the rows all its statements changed.
pub(super) async fn execute(
    pool: &Pool,
    shared: &Arc<Shared>,
    place: &Place,
    sql: Sql,
) -> Result<u64> {
    run_on(pool, shared, place, move |session, traces, cancel| {
        run_script(session, traces, &sql, cancel, |result| {
            drain(result, cancel)
        })
    })
    .await
}

/// What is known of a script, without running any of it.
pub(super) async fn describe(
    pool: &Pool,
    express: &Express,
    shared: &Arc<Shared>,
    place: &Place,
    sql: Sql,
) -> Result<Description> {
    if place.is_shared()
        && let Some(described) = express.describe(pool, &shared.lossless, &sql.text)
    {
        return Ok(described);
    }
    let lossless = shared.lossless.clone();
    run_on(pool, shared, place, move |session, _, cancel| {
        let sql = &sql.text;
        // Not before, on a thread of the network: a script may be long.
        check_before_planning(sql)?;
        let _watch = cancel.watch(&session.connection);
        let moment = session.connection.commits().quiet();
        let script = session.connection.parse(sql)?;
        let count = script.len();
        let described = script
            .last_statement()
            .ok_or(Error::NoStatement)?
            .map_err(Error::from)
            .and_then(|statement| description(&statement, &lossless, sql, count, moment));
        match described {
            // What the last statement names may be made by the ones before it.
            Err(Error::Sql(error)) if count > 1 => Err(Error::UnknownSchema(error)),
            described => described,
        }
    })
    .await
}

/// What is known of the last one of `count` statements, since that moment.
pub(super) fn description(
    statement: &Prepared<'_>,
    lossless: &Lossless,
    sql: &str,
    count: u64,
    moment: Option<Moment>,
) -> Result<Description> {
    let (schema, type_names) = statement.schema(&lossless.options)?;
    let is_one_column = |name| schema.fields().len() == 1 && schema.field(0).name() == name;
    let has_rows = match statement.kind() {
        StatementKind::Select | StatementKind::Explain => true,
        // DuckDB answers with how many rows were changed, unless there is a RETURNING.
        StatementKind::Rows => !is_one_column("Count") || contains_word(sql, "returning"),
        StatementKind::Call | StatementKind::Pragma | StatementKind::Other => {
            !is_one_column("Success")
        }
        _ => false,
    };
    Ok(Description {
        schema: Readable::new(&schema).schema().clone(),
        type_names,
        parameters: parameters::schema(&statement.parameters(&lossless.options)?),
        // A query that takes a number from a sequence changes it.
        is_query: count == 1
            && statement.kind() == StatementKind::Select
            && !contains_word(sql, "nextval"),
        has_rows,
        moment,
    })
}

/// Runs a job on the connection that a client's statements run on, and waits for its answer. One that was refused,
/// for it would leave something behind, runs on the client's own. When the caller stops waiting, the job is cancelled.
pub(super) async fn run_on<T: Send + 'static>(
    pool: &Pool,
    shared: &Arc<Shared>,
    place: &Place,
    job: impl Fn(&mut Session, Traces, &Cancel) -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    let _in_use = place.in_use();
    let mut seat = place.seat().await?;
    loop {
        let (job, shared) = (job.clone(), shared.clone());
        let outcome = pool.run(move |thread, cancel| {
            let outcome = seat.run(thread, cancel, |session, traces| {
                job(session, traces, cancel)
            });
            told(outcome, cancel, &shared)
        });
        match outcome.await {
            Err(Error::NeedsConnection) => seat = place.own_seat().await?,
            outcome => return outcome,
        }
    }
}

/// What a client is told: that an interrupt of its own was one. Note is taken of what ends the server, whether or not the
/// client still waits.
fn told<T>(outcome: Result<T>, cancel: &Cancel, shared: &Shared) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Sql(sql) if sql.kind == SqlErrorKind::Interrupted && cancel.is_cancelled() => {
            Error::Cancelled
        }
        error => shared.observe(error),
    })
}

/// Begins or ends the transaction of a client's own connection, and calls `done` once that has succeeded. It runs to its
/// end, whether or not anybody waits for the answer.
pub(super) fn control(
    pool: &Pool,
    shared: &Arc<Shared>,
    mut held: Held,
    sql: &'static str,
    done: impl FnOnce() + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let (answer, waiting) = oneshot::channel();
    let shared = shared.clone();
    pool.submit(move |thread| {
        let outcome = held.session(thread).and_then(|session| {
            let cancel = Cancel::default();
            let sql = sql.to_owned().into();
            session.attempt(|session| {
                run_script(session, Traces::Kept, &sql, &cancel, |result| {
                    drain(result, &cancel)
                })
            })
        });
        let outcome = outcome.map_err(|error| shared.observe(error));
        answer.send(outcome.map(|_| done())).ok();
    })?;
    Ok(waiting)
}

/// The rows of a statement, gathered in memory.
struct Collected<'a> {
    holdings: &'a Holdings,
    rows: Option<Rows>,
}

impl<'a> Collected<'a> {
    fn new(holdings: &'a Holdings) -> Self {
        Self {
            holdings,
            rows: None,
        }
    }

    /// Adds the rows of a result, where it has any. What fails here is rolled back; later it is too late to refuse.
    fn add(&mut self, result: QueryResult<'_>, lossless: &Lossless, cancel: &Cancel) -> Result<()> {
        if !result.has_rows() {
            return drain(result, cancel);
        }
        let mut found = result.into_batches(&lossless.options)?;
        let readable = Readable::new(found.schema());
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(Rows {
                schema: readable.schema().clone(),
                type_names: found.type_names(),
                batches: Vec::new(),
                held: self.holdings.take(0)?,
            }),
        };
        if rows.schema != *readable.schema() {
            return Err(Error::SchemaChanged);
        }
        while let Some(batch) = found.next_batch()? {
            cancel.check()?;
            let batch = readable.apply(batch)?;
            let bytes = batch.get_array_memory_size();
            if rows.held.bytes() + bytes > HELD_BYTES {
                return Err(Error::ResultTooLarge(HELD_BYTES));
            }
            rows.held.grow(bytes)?;
            rows.batches.push(batch);
        }
        cancel.check()
    }
}
