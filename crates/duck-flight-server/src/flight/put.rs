//! `DoPut` of plain Flight: batches in, acknowledgements out.

use arrow_flight::{FlightData, PutResult};
use duck_flight_protocol::{Ack, BatchMetadata, Commit, PutOptions};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::decode::PutStream;
use super::{Answers, sql};
use crate::engine::{Committing, Engine, Put};
use crate::error::{Error, Result};

/// How many units of a stream may wait for their acks; then the stream is read no further.
const ACKS_WAITING: usize = 256;

/// Opens a put, and answers with its acks.
pub(super) async fn put(
    engine: &Engine,
    messages: Streaming<FlightData>,
    max_message_bytes: usize,
) -> Result<Answers<PutResult>> {
    let (descriptor, batches) = PutStream::open(messages, max_message_bytes).await?;
    sql::refuse(&descriptor.cmd)?;
    let options = PutOptions::from_descriptor(&descriptor)?;
    let missing = options.not_built_yet();
    if !missing.is_empty() {
        return Err(Error::PutOption(missing.join(", ")));
    }
    let put = engine.put(&options, batches.schema().clone()).await?;
    match options.commit {
        Commit::Stream => {
            let ack = put_stream(put, batches).await?;
            Ok(stream::once(async move { Ok(result(ack)) }).boxed())
        }
        Commit::Batch => Ok(put_batches(put, batches)),
    }
}

/// The whole stream is one unit, with one ack at its end.
async fn put_stream(mut put: Put, mut batches: PutStream) -> Result<Ack> {
    let mut unit = put.unit();
    while let Some((batch, _)) = batches.next().await? {
        unit.push(batch).await?;
    }
    let rows = unit.commit().await?.rows().await?;
    Ok(Ack {
        rows,
        sequence: None,
        duplicate: false,
    })
}

/// A unit on its way, or the end of the stream said aloud.
enum Step {
    Unit(Committing),
    End(Result<()>),
}

/// Each batch is a unit, acknowledged in order while the stream goes on.
fn put_batches(put: Put, batches: PutStream) -> Answers<PutResult> {
    let (steps, receiver) = mpsc::channel(ACKS_WAITING);
    let reading = tokio::spawn(async move {
        let end = read_batches(put, batches, &steps).await;
        steps.send(Step::End(end)).await.ok();
    });
    let acks = Acks {
        steps: receiver,
        ended: false,
        _reading: AbortOnDrop(reading),
    };
    stream::unfold(acks, |mut acks| async move {
        let ack = acks.next().await?;
        Some((ack.map(result).map_err(Status::from), acks))
    })
    .boxed()
}

async fn read_batches(
    mut put: Put,
    mut batches: PutStream,
    steps: &mpsc::Sender<Step>,
) -> Result<()> {
    let mut units: u64 = 0;
    while let Some((batch, metadata)) = batches.next().await? {
        refuse_sequence(&metadata)?;
        units += 1;
        let mut unit = put.unit();
        unit.push(batch).await?;
        let committing = unit.commit().await?;
        if steps.send(Step::Unit(committing)).await.is_err() {
            return Err(Error::Cancelled);
        }
    }
    if units == 0 {
        // Nothing to acknowledge, but the table is made as the put says.
        put.unit().commit().await?.rows().await?;
    }
    Ok(())
}

/// The acks of a stream in the order of its batches. Dropping them stops the reading.
struct Acks {
    steps: mpsc::Receiver<Step>,
    ended: bool,
    _reading: AbortOnDrop,
}

impl Acks {
    /// The next ack; an error is the last one.
    async fn next(&mut self) -> Option<Result<Ack>> {
        if self.ended {
            return None;
        }
        let rows = match self.steps.recv().await {
            Some(Step::Unit(committing)) => committing.rows().await,
            Some(Step::End(end)) => {
                self.ended = true;
                return end.err().map(Err);
            }
            None => Err(Error::WorkerLost),
        };
        self.ended = rows.is_err();
        Some(rows.map(|rows| Ack {
            rows,
            sequence: None,
            duplicate: false,
        }))
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sequences belong to exactly-once delivery, which is yet to come; taking and forgetting one would be a lie.
fn refuse_sequence(metadata: &[u8]) -> Result<()> {
    if metadata.is_empty() {
        return Ok(());
    }
    let metadata: BatchMetadata = serde_json::from_slice(metadata).map_err(|error| {
        Error::Malformed(format!("bad app_metadata of a record batch: {error}"))
    })?;
    match metadata.sequence {
        Some(_) => Err(Error::PutOption("sequence".into())),
        None => Ok(()),
    }
}

fn result(ack: Ack) -> PutResult {
    PutResult {
        app_metadata: ack.to_json().into(),
    }
}
