//! What a script answers: a stream of rows, or all of them in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;

use super::frames::FrameReceiver;
use super::pump::{Frame, Start};
use super::readable::Readable;
use super::statement::drain;
use crate::engine::Lossless;
use crate::engine::connections::cancel::{Cancel, CancelOnDrop};
use crate::engine::connections::lease::InUse;
use crate::engine::ffi::QueryResult;
use crate::engine::holdings::{HeldBytes, Holdings};
use crate::error::{Error, Result};
use crate::gauge::Counted;

/// How many bytes the result of a statement may have that is kept in memory until its client fetches it.
const HELD_BYTES: usize = 64 << 20;

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
    pub(super) fn new(
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

/// The rows of a statement, gathered in memory.
pub(super) struct Collected<'a> {
    holdings: &'a Holdings,
    pub(super) rows: Option<Rows>,
}

impl<'a> Collected<'a> {
    pub(super) fn new(holdings: &'a Holdings) -> Self {
        Self {
            holdings,
            rows: None,
        }
    }

    /// Adds the rows of a result, where it has any. What fails here is rolled back; later it is too late to refuse.
    pub(super) fn add(
        &mut self,
        result: QueryResult<'_>,
        lossless: &Lossless,
        cancel: &Cancel,
    ) -> Result<()> {
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
