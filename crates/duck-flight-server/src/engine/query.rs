//! The way of a query: a script runs statement by statement, and the last result streams out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;

use super::admission::admit;
use super::commits::Moment;
use super::ffi::query::Script;
use super::ffi::{Connection, Pending, Prepared, QueryResult, StatementKind};
use super::pool::{Cancel, CancelOnDrop, Pool, Session};
use super::pump::{Frame, Pump, Start};
use super::readable::Readable;
use super::sql_error::SqlErrorKind;
use super::transaction_that;
use crate::error::{Error, Result};

/// How many messages may wait for a slow client: with the one in hand and the one being written, this
/// and the size of a message bound what a result holds in memory.
const FRAMES_WAITING: usize = 2;

/// How often a query is run again whose error DuckDB did not tell.
const REASON_TRIES: u32 = 3;

/// A result on its way: its schema, then its record batches. Dropping it stops the statement.
pub(crate) struct ResultStream {
    schema: SchemaRef,
    /// Batches that came with the schema.
    first: VecDeque<RecordBatch>,
    frames: mpsc::Receiver<Result<Frame>>,
    ended: bool,
    _cancel: CancelOnDrop,
}

impl ResultStream {
    /// The schema of every batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
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

/// Runs a script on the next free connection; answers with its first rows, or all where they are few.
pub(super) async fn query(
    pool: &Pool,
    lossless: Arc<super::Lossless>,
    sql: String,
) -> Result<ResultStream> {
    let guard = CancelOnDrop::default();
    let cancel = guard.cancel();
    let (sender, mut frames) = mpsc::channel(FRAMES_WAITING);
    pool.submit(move |session| {
        let mut pump = Pump::new(sender);
        let outcome = run_script(session, &sql, &cancel, |result| {
            pump.send_batches(result, &lossless.options, &cancel)
        });
        pump.finish(outcome.map(|_| ()));
    })?;
    match frames.recv().await.ok_or(Error::WorkerLost)?? {
        Frame::Start(Start {
            schema,
            batches,
            is_all,
        }) => Ok(ResultStream {
            schema,
            first: batches.into(),
            frames,
            ended: is_all,
            _cancel: guard,
        }),
        Frame::Batch(_) | Frame::End => Err(Error::WorkerLost),
    }
}

/// Runs a script for its effect; answers with the rows all its statements changed.
pub(super) async fn execute(pool: &Pool, sql: String) -> Result<u64> {
    pool.run(move |session, cancel| {
        run_script(session, &sql, cancel, |result| drain(result, cancel))
    })
    .await
}

/// The schema of a script's last statement, without running any of it.
pub(super) async fn describe(
    pool: &Pool,
    lossless: Arc<super::Lossless>,
    sql: String,
) -> Result<SchemaRef> {
    pool.run(move |session, cancel| {
        let _watch = cancel.watch(&session.connection);
        let script = session.connection.parse(&sql)?;
        let count = script.len();
        let described = script
            .last_statement()
            .ok_or(Error::NoStatement)?
            .and_then(|statement| statement.schema(&lossless.options));
        match described {
            Ok(schema) => Ok(Readable::new(&schema).schema().clone()),
            // What the last statement names may be made by the ones before it.
            Err(error) if count > 1 => Err(Error::UnknownSchema(error)),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Runs every statement of a script in order; the result of the last one goes to `last`.
fn run_script(
    session: &mut Session,
    sql: &str,
    cancel: &Cancel,
    last: impl FnOnce(QueryResult<'_>) -> Result<()>,
) -> Result<u64> {
    let Session {
        connection, dirty, ..
    } = session;
    cancel.check()?;
    let mut script = connection.parse(sql)?;
    let (count, mut number, mut rows_changed) = (script.len(), 0, 0);
    let mut in_transaction = false;
    let mut last = Some(last);
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
        let mut consume =
            |result: QueryResult<'_>| match (number == count).then(|| last.take()).flatten() {
                Some(last) => last(result),
                None => drain(result, cancel),
            };
        let statement = Statement {
            connection,
            sql,
            cancel,
            index: number - 1,
        };
        let (kind, rows) = statement
            .run(&mut script, in_transaction, dirty, &mut consume)
            .map_err(at)?;
        rows_changed += rows;
        // One that succeeds begins a transaction where there is none, and ends it where there is one.
        in_transaction ^= kind == StatementKind::Transaction;
    }
    match (count, in_transaction) {
        (0, _) => Err(Error::NoStatement),
        (_, true) => Err(Error::OpenTransaction),
        (_, false) => Ok(rows_changed),
    }
}

/// One statement of a script.
struct Statement<'a> {
    connection: &'a Connection,
    sql: &'a str,
    cancel: &'a Cancel,
    index: u64,
}

impl<'a> Statement<'a> {
    /// Runs the statement, and answers with its kind and the rows it changed.
    ///
    /// DuckDB plans with a table's statistics, and relies on them: a plan made in one transaction and run in
    /// a later one gives wrong results when the table has changed in between. So a statement that the client
    /// runs outside of a transaction gets one around both, unless nothing is committed in between.
    fn run(
        &self,
        script: &mut Script<'a>,
        in_transaction: bool,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        if in_transaction {
            let _watch = self.cancel.watch(self.connection);
            return self.run_prepared(self.prepare(script)?, dirty, consume);
        }
        match self.run_outside(script, dirty, consume) {
            Err(Error::Sql(error))
                if error.kind == SqlErrorKind::Interrupted && !self.cancel.is_cancelled() =>
            {
                Err(self.find_reason(dirty))
            }
            outcome => outcome,
        }
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
                    let statement = self.connection.parse(self.sql)?.statement(self.index);
                    let statement = statement.ok_or(Error::NoStatement)??;
                    if statement.kind() != StatementKind::Select {
                        return Err(Error::ReasonLost);
                    }
                    let mut consume = |result: QueryResult<'_>| drain(result, self.cancel);
                    Ok(self.run_prepared(statement, dirty, &mut consume)?.1)
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
        if begins_like_a_query(self.sql)
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
        let statement = self.prepare(script)?;
        let kind = statement.kind();
        if kind != StatementKind::Select {
            return Ok(None);
        }
        // Until it has started: by then DuckDB has its view of every database the plan was made with.
        let Some(starting) = self.connection.commits().still(moment) else {
            return Ok(None);
        };
        let pending = self.start(statement, dirty)?;
        drop(starting);
        Ok(Some((kind, self.finish(pending, consume)?)))
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
            self.run_prepared(statement, dirty, consume).map(Some)
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
                let _watch = self.cancel.watch(self.connection);
                self.run_prepared(self.prepare(script)?, dirty, consume)
            }
        }
    }

    /// Prepares the statement. The script gives it once; later it is parsed again.
    fn prepare(&self, script: &mut Script<'a>) -> Result<Prepared<'a>> {
        let statement = if script.position() == self.index {
            script.next_statement()
        } else {
            self.connection.parse(self.sql)?.statement(self.index)
        };
        Ok(statement.ok_or(Error::NoStatement)??)
    }

    fn run_prepared(
        &self,
        statement: Prepared<'a>,
        dirty: &mut bool,
        consume: &mut dyn FnMut(QueryResult<'_>) -> Result<()>,
    ) -> Result<(StatementKind, u64)> {
        let kind = statement.kind();
        // What belongs in a transaction is committed by the COMMIT that ends it; anything else may be a COMMIT.
        let _under_way =
            (!belongs_in_transaction(kind)).then(|| self.connection.commits().under_way());
        let pending = self.start(statement, dirty)?;
        Ok((kind, self.finish(pending, consume)?))
    }

    fn start(&self, statement: Prepared<'a>, dirty: &mut bool) -> Result<Pending<'a>> {
        *dirty |= admit(statement.kind(), self.sql)?;
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
    let word = sql.trim_start().split(|c: char| !c.is_alphabetic()).next();
    let word = word.unwrap_or_default();
    ["select", "from", "with"]
        .iter()
        .any(|query| word.eq_ignore_ascii_case(query))
}

fn drain(mut result: QueryResult<'_>, cancel: &Cancel) -> Result<()> {
    while result.next_chunk()?.is_some() {
        cancel.check()?;
    }
    cancel.check()
}
