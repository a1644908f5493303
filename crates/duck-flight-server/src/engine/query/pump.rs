//! A result on its way to its client: chunks are gathered to messages of a good size.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::frames::FrameSender;
use super::readable::Readable;
use crate::engine::connections::cancel::Cancel;
use crate::engine::ffi::{ArrowOptions, Batches, PlainColumns, QueryResult, ResultChunk};
use crate::error::{Error, Result};

/// How many rows of a result go into one message, where they are small: enough to make the cost of a
/// message vanish, few enough to stay in the processor's cache (measured from 2,048 to 131,072 rows).
const BATCH_ROWS: usize = 16_384;

/// How many bytes of a result go into one message: half of the smallest limit stock clients have (4 MiB).
const BATCH_BYTES: usize = 2 << 20;

/// What a worker sends of a result. Where the channel closes without `End`, the result was cut short.
pub(super) enum Frame {
    /// The beginning: with a small result, all of it.
    Start(Start),
    Batch(RecordBatch),
    End,
}

impl Frame {
    /// The memory it takes, more or less.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Start(start) => start
                .batch
                .as_ref()
                .map_or(0, RecordBatch::get_array_memory_size),
            Self::Batch(batch) => batch.get_array_memory_size(),
            Self::End => 0,
        }
    }
}

pub(super) struct Start {
    pub(super) schema: SchemaRef,
    /// The SQL type of each column.
    pub(super) type_names: Vec<String>,
    pub(super) batch: Option<RecordBatch>,
    pub(super) is_all: bool,
}

/// All of a result that has one chunk at most; `None` where it has more.
pub(super) fn whole(
    result: QueryResult<'_>,
    lossless: &ArrowOptions,
    cancel: &Cancel,
) -> Result<Option<Start>> {
    let mut batches = result.into_batches(lossless)?;
    let readable = Readable::new(batches.schema());
    let mut gathered = Gathered::default();
    if let Some(batch) = batches.next_batch()? {
        gathered.push(readable.apply(batch)?);
        if batches.next_batch()?.is_some() {
            return Ok(None);
        }
    }
    // A statement that was interrupted can look as if it had ended.
    cancel.check()?;
    Ok(Some(Start {
        schema: readable.schema().clone(),
        type_names: batches.type_names(),
        batch: gathered.take()?,
        is_all: true,
    }))
}

/// Sends a result as messages of a good size.
pub(super) struct Pump {
    frames: FrameSender,
    /// The schema and the types of the columns, once they are known.
    head: Option<(SchemaRef, Vec<String>)>,
    is_started: bool,
    gathered: Gathered,
}

impl Pump {
    pub(super) fn new(frames: FrameSender) -> Self {
        Self {
            frames,
            head: None,
            is_started: false,
            gathered: Gathered::default(),
        }
    }

    /// Sends all batches of a result but the last ones. Another result of the same schema may follow.
    pub(super) fn send_batches(
        &mut self,
        result: QueryResult<'_>,
        lossless: &ArrowOptions,
        cancel: &Cancel,
    ) -> Result<()> {
        let mut batches = result.into_batches(lossless)?;
        let readable = Readable::new(batches.schema());
        match &self.head {
            None => self.head = Some((readable.schema().clone(), batches.type_names())),
            Some((schema, _)) if schema == readable.schema() => {}
            Some(_) => return Err(Error::SchemaChanged),
        }
        self.gathered.begin(batches.plain_columns())?;
        while let Some(chunk) = batches.next_chunk()? {
            cancel.check()?;
            if self.gathered.is_full() {
                self.send_gathered()?;
            }
            self.gathered.add(&chunk, &batches, &readable)?;
        }
        // A statement that was interrupted can look as if it had ended.
        cancel.check()
    }

    fn send_gathered(&mut self) -> Result<()> {
        let batch = self.gathered.take()?;
        if let Some(start) = self.start(batch.clone(), false) {
            return self.frames.send(start);
        }
        batch.map_or(Ok(()), |batch| self.frames.send(Frame::Batch(batch)))
    }

    /// The first frame, where it has not been sent and there is a result.
    fn start(&mut self, batch: Option<RecordBatch>, is_all: bool) -> Option<Frame> {
        let (schema, type_names) = self.head.clone().filter(|_| !self.is_started)?;
        self.is_started = true;
        Some(Frame::Start(Start {
            schema,
            type_names,
            batch,
            is_all,
        }))
    }

    /// Sends what is left, and the end; or the error. Nobody may be listening any more.
    pub(super) fn finish(mut self, outcome: Result<()>) {
        let sent = outcome.and_then(|()| {
            self.gathered.begin(None)?;
            if self.is_started {
                self.send_gathered()?;
                return self.frames.send(Frame::End);
            }
            let batch = self.gathered.take()?;
            let start = self.start(batch, true).ok_or(Error::WorkerLost)?;
            self.frames.send(start)
        });
        if let Err(error) = sent {
            self.frames.fail(error);
        }
    }
}

/// Chunks of a result until they make a message.
#[derive(Default)]
struct Gathered {
    /// The chunks of the result at hand, where its types allow it.
    columns: Option<PlainColumns>,
    /// What was gathered before those chunks.
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    /// Gets ready for another result; `None` where there are no columns for it.
    fn begin(&mut self, columns: Option<PlainColumns>) -> Result<()> {
        self.close_columns(0)?;
        self.columns = columns;
        Ok(())
    }

    /// Adds a chunk of the result at hand.
    fn add(
        &mut self,
        chunk: &ResultChunk,
        batches: &Batches<'_>,
        readable: &Readable,
    ) -> Result<()> {
        match &mut self.columns {
            Some(columns) => columns.append(chunk)?,
            None => self.push(readable.apply(batches.export(chunk)?)?),
        }
        Ok(())
    }

    fn push(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    fn is_full(&self) -> bool {
        let columns = self.columns.as_ref();
        let rows = self.rows + columns.map_or(0, PlainColumns::rows);
        let bytes = self.bytes + columns.map_or(0, PlainColumns::bytes);
        rows >= BATCH_ROWS || bytes >= BATCH_BYTES
    }

    /// Puts what is in columns behind what was gathered before, and makes room for `rows` rows more.
    fn close_columns(&mut self, rows: usize) -> Result<()> {
        let columns = self.columns.as_mut();
        let batch = columns.map_or(Ok(None), |columns| columns.take(rows))?;
        if let Some(batch) = batch {
            self.push(batch);
        }
        Ok(())
    }

    /// What was gathered, as one batch.
    fn take(&mut self) -> Result<Option<RecordBatch>> {
        self.close_columns(BATCH_ROWS)?;
        (self.rows, self.bytes) = (0, 0);
        let batches = std::mem::take(&mut self.batches);
        let Some(first) = batches.first() else {
            return Ok(None);
        };
        if batches.len() == 1 {
            return Ok(Some(first.clone()));
        }
        let whole = concat_batches(&first.schema(), &batches);
        whole
            .map(Some)
            .map_err(|error| Error::Malformed(error.to_string()))
    }
}
