//! A Flight server as a target.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::writer::{
    CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions,
};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, FlightData, FlightDescriptor, PutResult, SchemaAsIpc};
use duck_flight_protocol::{Ack, Commit, ConnectError, ConnectOptions};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryFutureExt};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{Failure, Outcome, Target};
use crate::{Batch, Plan, batch};

/// How many connections a run opens at most; more writers share them.
const MAX_CONNECTIONS: usize = 64;

/// The most rows of a message, where a batch may be several messages: near 2 MiB.
const MESSAGE_ROWS: usize = 65_536;

/// A Flight server, to which one writer sends: with [`Commit::Stream`] each batch is a `DoPut` of its own, with
/// [`Commit::Batch`] all go into one long `DoPut`, which is opened with the first batch, and again after a
/// failure.
pub struct FlightTarget {
    client: FlightServiceClient<Channel>,
    metadata: MetadataMap,
    encoder: Encoder,
    commit: Commit,
    window: usize,
    put: Option<Put>,
}

/// A `DoPut` that is going on.
struct Put {
    /// Where messages go in; absent when no more will come.
    messages: Option<mpsc::Sender<FlightData>>,
    answers: BoxStream<'static, Result<PutResult, Status>>,
    /// With [`Commit::Stream`]: the ack, while the put's end is awaited.
    ack: Option<Ack>,
}

impl FlightTarget {
    /// Connects the writers of a plan. Up to 64 have a connection of their own, more share those.
    ///
    /// # Errors
    /// When the address is malformed, or no server answers there.
    pub async fn connect_all(
        server: &ConnectOptions,
        plan: &Plan,
    ) -> Result<Vec<Self>, ConnectError> {
        let writers = plan.writers.get();
        let connections = (0..writers.min(MAX_CONNECTIONS)).map(|_| server.connect());
        let clients = futures::future::try_join_all(connections).await?;
        let targets = clients.iter().cycle().take(writers);
        Ok(targets.map(|client| Self::new(client, plan)).collect())
    }

    fn new(client: &FlightClient, plan: &Plan) -> Self {
        let descriptor = match plan.commit {
            // The default options: a path serves any Flight server.
            Commit::Stream => FlightDescriptor::new_path(plan.table.path()),
            Commit::Batch => plan.put_options().descriptor(),
        };
        Self {
            client: client.inner().clone(),
            metadata: client.metadata().clone(),
            encoder: Encoder::new(descriptor),
            commit: plan.commit,
            window: plan.window(),
            put: None,
        }
    }

    fn open(&self, messages: impl Stream<Item = FlightData> + Send + 'static) -> Put {
        let mut client = self.client.clone();
        let mut request = Request::new(messages);
        *request.metadata_mut() = self.metadata.clone();
        // The server may answer only after the first messages, so that the call is a part of the answers.
        let call = async move { client.do_put(request).await };
        Put {
            messages: None,
            answers: call
                .map_ok(tonic::Response::into_inner)
                .try_flatten_stream()
                .boxed(),
            ack: None,
        }
    }

    fn send_put(&mut self, batch: &Batch) -> Result<(), Failure> {
        let mut messages = vec![self.encoder.schema.clone()];
        for start in (0..batch.rows.num_rows()).step_by(MESSAGE_ROWS) {
            let rows = MESSAGE_ROWS.min(batch.rows.num_rows() - start);
            messages.push(self.encoder.encode(&batch.rows.slice(start, rows))?);
        }
        self.put = Some(self.open(futures::stream::iter(messages)));
        Ok(())
    }

    fn send_part(&mut self, batch: &Batch) -> Result<(), Failure> {
        let message = self.encoder.encode(&batch.rows)?;
        if self.put.is_none() {
            // Room for the schema and for every batch that may be without an answer.
            let (sender, receiver) = mpsc::channel(self.window + 1);
            let _ = sender.try_send(self.encoder.schema.clone());
            let mut put = self.open(ReceiverStream::new(receiver));
            put.messages = Some(sender);
            self.put = Some(put);
        }
        let Some(sender) = self.put.as_ref().and_then(|put| put.messages.as_ref()) else {
            return Ok(());
        };
        // When the call is over, its answer says why, and what that means for this batch.
        if let Err(TrySendError::Full(_)) = sender.try_send(message) {
            let message = "more batches are waiting for an answer than the put has room for";
            return Err(Failure::of_all(Outcome::Refused, message));
        }
        Ok(())
    }
}

impl Target for FlightTarget {
    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        match self.commit {
            Commit::Stream => self.send_put(batch),
            Commit::Batch => self.send_part(batch),
        }
    }

    async fn answer(&mut self) -> Result<Ack, Failure> {
        let Some(put) = &mut self.put else {
            return Err(ended_early());
        };
        let result = match self.commit {
            Commit::Stream => put.only_ack().await,
            Commit::Batch => put.next_ack().await,
        };
        if self.commit == Commit::Stream || result.is_err() {
            self.put = None;
        }
        result
    }

    fn reset(&mut self) {
        self.put = None;
    }

    async fn close(&mut self) -> Result<(), Failure> {
        let Some(mut put) = self.put.take() else {
            return Ok(());
        };
        put.messages = None;
        match put.answers.next().await {
            None => Ok(()),
            Some(Err(status)) => Err(status.into()),
            Some(Ok(_)) => Err(Failure::of_all(
                Outcome::Unknown,
                "the server sent more acks than it was sent batches",
            )),
        }
    }
}

impl Put {
    async fn next_ack(&mut self) -> Result<Ack, Failure> {
        let answer = self.answers.next().await.ok_or_else(ended_early)??;
        Ack::from_json(&answer.app_metadata).map_err(|error| {
            let message = format!("the server's ack cannot be read: {error}");
            Failure::of_all(Outcome::Unknown, message)
        })
    }

    /// The ack of a put that has only one. Reads on until the put's end: dropping it earlier would reset the
    /// stream, and servers count resets against a connection.
    async fn only_ack(&mut self) -> Result<Ack, Failure> {
        let ack = match self.ack {
            Some(ack) => ack,
            None => {
                let ack = self.next_ack().await?;
                *self.ack.insert(ack)
            }
        };
        // Whatever comes after the ack, the rows are committed.
        while let Some(Ok(_)) = self.answers.next().await {}
        Ok(ack)
    }
}

fn ended_early() -> Failure {
    Failure::of_all(Outcome::Unknown, "the server ended the put without an ack")
}

/// Turns batches into messages. A batch that fails to encode fails by itself, before any part of it is sent.
struct Encoder {
    /// The first message of every put: its descriptor and its schema.
    schema: FlightData,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    compression: CompressionContext,
}

impl Encoder {
    fn new(descriptor: FlightDescriptor) -> Self {
        let options = IpcWriteOptions::default();
        let schema = FlightData::from(SchemaAsIpc::new(&batch::schema(), &options));
        Self {
            schema: schema.with_descriptor(descriptor),
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options,
            compression: CompressionContext::default(),
        }
    }

    fn encode(&mut self, rows: &RecordBatch) -> Result<FlightData, ArrowError> {
        let (_, message) = self.generator.encode(
            rows,
            &mut self.dictionaries,
            &self.options,
            &mut self.compression,
        )?;
        Ok(message.into())
    }
}

impl fmt::Debug for FlightTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FlightTarget")
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}
