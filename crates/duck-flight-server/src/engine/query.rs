//! The way of a query: a script runs statement by statement, and the last result streams out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;

use super::ffi::{ArrowOptions, Prepared, QueryResult, StatementKind};
use super::pool::{Cancel, CancelOnDrop, Pool, Session};
use super::readable::Readable;
use super::sql_error::SqlError;
use crate::error::{Error, Result};

/// How many rows of a result go into one message, where they are small: enough to make the cost of a
/// message vanish, few enough to stay in the processor's cache (measured from 2,048 to 131,072 rows).
const BATCH_ROWS: usize = 16_384;

/// How many bytes of a result go into one message: half of the smallest limit stock clients have (4 MiB).
const BATCH_BYTES: usize = 2 << 20;

/// How many messages may wait for a slow client: with the one in hand and the one being written, this
/// and [`BATCH_BYTES`] bound what a result holds in memory.
const FRAMES_WAITING: usize = 2;

/// What a worker sends of a result. A channel that closes without `End` was cut short.
enum Frame {
    Schema(SchemaRef),
    Batch(RecordBatch),
    End,
}

/// A result on its way: its schema, then its record batches. Dropping it stops the statement.
pub(crate) struct ResultStream {
    schema: SchemaRef,
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
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.frames.poll_recv(context)) {
            Some(Ok(Frame::Batch(batch))) => return Poll::Ready(Some(Ok(batch))),
            Some(Ok(Frame::End)) => None,
            Some(Ok(Frame::Schema(_))) | None => Some(Err(Error::WorkerLost)),
            Some(Err(error)) => Some(Err(error)),
        };
        self.ended = true;
        Poll::Ready(item)
    }
}

/// Runs a script on the next free connection; answers once its last statement has a schema.
pub(super) async fn query(
    pool: &Pool,
    lossless: Arc<super::Lossless>,
    sql: String,
) -> Result<ResultStream> {
    let guard = CancelOnDrop::default();
    let cancel = guard.cancel();
    let (sender, mut frames) = mpsc::channel(FRAMES_WAITING);
    pool.submit(move |session| {
        let outcome = run_script(session, &sql, &cancel, |result| {
            pump(result, &lossless.options, &cancel, &sender)
        })
        .map(|_| Frame::End);
        sender.blocking_send(outcome).ok();
    })?;
    match frames.recv().await.ok_or(Error::WorkerLost)?? {
        Frame::Schema(schema) => Ok(ResultStream {
            schema,
            frames,
            ended: false,
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
    let _watch = cancel.watch(connection);
    cancel.check()?;
    let mut script = connection.parse(sql)?;
    let (count, mut number, mut rows_changed) = (script.len(), 0, 0);
    let mut last = Some(last);
    while let Some(statement) = script.next_statement() {
        number += 1;
        let at = |source: SqlError| match count {
            1 => Error::Sql(source),
            _ => Error::Statement {
                number,
                count,
                source,
            },
        };
        let statement = statement.map_err(at)?;
        *dirty |= admit(&statement, sql)?;
        let pending = statement.start().map_err(at)?;
        // An interrupt sent before the start was lost; the flag was not.
        cancel.check()?;
        let mut result = pending.finish().map_err(at)?;
        rows_changed += result.rows_changed();
        match (number == count).then(|| last.take()).flatten() {
            Some(last) => last(result).map_err(|error| match error {
                Error::Sql(source) => at(source),
                other => other,
            })?,
            None => drain(result, cancel)?,
        }
    }
    if number == 0 {
        return Err(Error::NoStatement);
    }
    if *dirty && connection.execute("ROLLBACK").is_ok() {
        return Err(Error::OpenTransaction);
    }
    Ok(rows_changed)
}

/// Refuses what one client must not do to all others, by the statement's type. Answers whether the
/// statement may leave something behind in the session.
fn admit(statement: &Prepared<'_>, sql: &str) -> Result<bool> {
    match statement.kind() {
        StatementKind::Rows => Ok(false),
        StatementKind::Other => Ok(true),
        StatementKind::Pragma => Err(Error::Forbidden(
            "this PRAGMA changes the server or writes on it; use SET for settings of the session",
        )),
        // The scope of SET cannot be asked for, so a script with SET must not hold the word at all.
        StatementKind::Set if sql.to_ascii_lowercase().contains("global") => Err(Error::Forbidden(
            "SET GLOBAL would change every client's results; use SET SESSION",
        )),
        StatementKind::Set => Ok(true),
    }
}

fn drain(mut result: QueryResult<'_>, cancel: &Cancel) -> Result<()> {
    while result.next_chunk()?.is_some() {
        cancel.check()?;
    }
    cancel.check()
}

/// Sends a whole result but its end: the schema, then batches of a good size.
fn pump(
    result: QueryResult<'_>,
    lossless: &ArrowOptions,
    cancel: &Cancel,
    frames: &mpsc::Sender<Result<Frame>>,
) -> Result<()> {
    let send = |frame| {
        frames
            .blocking_send(Ok(frame))
            .map_err(|_| Error::Cancelled)
    };
    let mut batches = result.into_batches(lossless)?;
    let readable = Readable::new(batches.schema());
    send(Frame::Schema(readable.schema().clone()))?;
    let mut gathered = Gathered::default();
    while let Some(batch) = batches.next_batch()? {
        cancel.check()?;
        gathered.push(readable.apply(batch)?);
        if gathered.is_full() {
            for batch in gathered.take()? {
                send(Frame::Batch(batch))?;
            }
        }
    }
    // A statement that was interrupted can look as if it had ended.
    cancel.check()?;
    for batch in gathered.take()? {
        send(Frame::Batch(batch))?;
    }
    Ok(())
}

/// Chunks of a result until they make a message.
#[derive(Default)]
struct Gathered {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    fn push(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// What was gathered as one batch, or as several where the rows are large.
    fn take(&mut self) -> Result<Vec<RecordBatch>> {
        let Self {
            batches,
            rows,
            bytes,
        } = std::mem::take(self);
        let Some(first) = batches.first() else {
            return Ok(Vec::new());
        };
        let whole = match batches.len() {
            1 => first.clone(),
            _ => concat_batches(&first.schema(), &batches)
                .map_err(|error| Error::Malformed(error.to_string()))?,
        };
        let pieces = bytes.div_ceil(2 * BATCH_BYTES).clamp(1, rows);
        let piece_rows = rows.div_ceil(pieces);
        Ok((0..rows)
            .step_by(piece_rows)
            .map(|start| whole.slice(start, piece_rows.min(rows - start)))
            .collect())
    }
}
