//! `DoPut` of plain Flight: batches in, acknowledgements out.

use arrow_flight::{FlightDescriptor, PutResult};
use duck_flight_protocol::{Ack, BatchMetadata, Commit, PutOptions, Resume};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tonic::Status;

use super::Answers;
use super::upload::{PutStream, Upload};
use crate::engine::{Committed, Committing, Engine, Put};
use crate::error::{Error, Result};
use crate::intake::Standing;

/// How many units of a stream may wait for their acks; then the stream is read no further.
const ACKS_WAITING: usize = 256;

/// Opens a put, and answers with its acks.
pub(super) async fn put(
    engine: &Engine,
    descriptor: FlightDescriptor,
    upload: Upload,
) -> Result<Answers<PutResult>> {
    let batches = upload.rows(engine.hold_bytes(0)?)?;
    let options = PutOptions::from_descriptor(&descriptor)?;
    // The descriptor keeps its whole message in memory, and the put may stay open for long.
    drop(descriptor);
    let put = engine.put(&options, batches.schema().clone()).await?;
    match options.commit {
        Commit::Stream => {
            let ack = put_stream(put, batches, options.sequence).await?;
            Ok(stream::once(async move { Ok(result(ack.to_json())) }).boxed())
        }
        Commit::Batch => {
            let resume = put
                .last_sequence()
                .map(|resume_after| Ok(result(Resume { resume_after }.to_json())));
            Ok(stream::iter(resume)
                .chain(put_batches(put, batches))
                .boxed())
        }
    }
}

/// The whole stream is one unit, with one ack at its end.
pub(super) async fn put_stream(
    mut put: Put,
    mut batches: PutStream,
    sequence: Option<u64>,
) -> Result<Ack> {
    put.await_table().await?;
    let mut unit = put.unit(sequence).await?;
    while let Some((batch, _)) = unit.wait_for_client(batches.next(unit.standing())).await? {
        unit.push(batch).await?;
    }
    Ok(ack(unit.commit().await?.done().await?, sequence))
}

/// A unit on its way, or the end of the stream said aloud.
enum Step {
    Unit(Committing, Option<u64>),
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
        let ack = ack.map(|ack| result(ack.to_json()));
        Some((ack.map_err(Status::from), acks))
    })
    .boxed()
}

async fn read_batches(
    mut put: Put,
    mut batches: PutStream,
    steps: &mpsc::Sender<Step>,
) -> Result<()> {
    // A loader's stream may have no end.
    batches.end_with_the_server();
    let has_producer = put.last_sequence().is_some();
    let mut units: u64 = 0;
    loop {
        put.await_table().await?;
        let Some((batch, metadata)) = batches.next(Standing::Idle).await? else {
            break;
        };
        units += 1;
        let sequence = sequence(&metadata, has_producer, units)?;
        let mut unit = put.unit(sequence).await?;
        unit.push(batch).await?;
        let committing = unit.commit().await?;
        if steps.send(Step::Unit(committing, sequence)).await.is_err() {
            return Err(Error::Cancelled);
        }
    }
    if units == 0 && !has_producer {
        // Nothing to acknowledge, but the table is made as the put says.
        put.unit(None).await?.commit().await?.done().await?;
    }
    Ok(())
}

/// The sequence of batch number `number` of a put.
fn sequence(metadata: &[u8], has_producer: bool, number: u64) -> Result<Option<u64>> {
    let sequence = BatchMetadata::from_json(metadata)?.sequence;
    match sequence {
        Some(0) => Err(Error::Malformed(format!(
            "batch {number} of the put has sequence 0; sequences start at 1"
        ))),
        Some(_) if !has_producer => Err(Error::NoProducer(number)),
        None if has_producer => Err(Error::NoSequence(number)),
        sequence => Ok(sequence),
    }
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
        let outcome = match self.steps.recv().await {
            Some(Step::Unit(committing, sequence)) => committing
                .done()
                .await
                .map(|committed| ack(committed, sequence)),
            Some(Step::End(end)) => {
                self.ended = true;
                return end.err().map(Err);
            }
            None => Err(Error::WorkerLost),
        };
        self.ended = outcome.is_err();
        Some(outcome)
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn ack(committed: Committed, sequence: Option<u64>) -> Ack {
    Ack {
        rows: committed.rows,
        sequence,
        duplicate: committed.duplicate,
        rejected: committed.rejected,
    }
}

pub(super) fn result(app_metadata: Vec<u8>) -> PutResult {
    PutResult {
        app_metadata: app_metadata.into(),
    }
}
