//! A Flight server as a target.

use std::fmt;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightClient, FlightData, FlightDescriptor, PutResult, Ticket};
use duck_flight_protocol::{
    ACTION_PRODUCERS, Ack, BatchMetadata, Commit, ConnectError, ConnectOptions, Endings,
    ProducerState, PutOptions, Resume,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryFutureExt, TryStreamExt};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::encoder::Encoder;
use super::{Failure, Outcome, Target};
use crate::{Batch, Plan, Progress, retry};

/// How many connections a run opens at most; more writers share them.
const MAX_CONNECTIONS: usize = 64;

/// The schema of a table whose name says none.
const DEFAULT_SCHEMA: &str = "main";

/// The most rows of a message, where a batch may be several messages: near 2 MiB.
const MESSAGE_ROWS: usize = 65_536;

/// A Flight server, to which one writer sends: with [`Commit::Stream`] each batch is a `DoPut` of its own, with
/// [`Commit::Batch`] all go into one long `DoPut`, which is opened with the first batch, and again after a
/// failure. That of a producer is opened by [`Target::locate`], for the server begins it by saying where the
/// producer is.
pub struct FlightTarget {
    server: ConnectOptions,
    client: FlightServiceClient<Channel>,
    endings: Endings,
    /// How many connections had ended when the producer was last located.
    endings_located: u64,
    metadata: MetadataMap,
    encoder: Encoder,
    options: PutOptions,
    window: usize,
    put: Option<Put>,
    /// Whether the connection itself is in doubt: nothing came over it for too long.
    silent: bool,
}

/// A `DoPut` that is going on.
struct Put {
    /// Where messages go in; absent when no more will come.
    messages: Option<mpsc::Sender<FlightData>>,
    answers: BoxStream<'static, Result<PutResult, Failure>>,
    /// With [`Commit::Batch`]: batches that were sent and have no ack.
    unanswered: usize,
    /// With [`Commit::Stream`]: the ack, while the put's end is awaited.
    ack: Option<Ack>,
}

impl FlightTarget {
    /// Connects the writers of a plan. Up to 64 have a connection of their own, more share those. With
    /// [`Plan::resume`] it waits for a server that is not there yet.
    ///
    /// # Errors
    /// When the address is malformed, or no server answers there (in time, with [`Plan::resume`]).
    pub async fn connect_all(
        server: &ConnectOptions,
        plan: &Plan,
        progress: &Progress,
    ) -> Result<Vec<Self>, ConnectError> {
        let writers = plan.writers.get();
        // The others once there is a server: one that waits for it is enough.
        let first = connect_in_time(server, plan, progress).await?;
        let others =
            (1..writers.min(MAX_CONNECTIONS)).map(|_| connect_in_time(server, plan, progress));
        let mut clients = futures::future::try_join_all(others).await?;
        clients.insert(0, first);
        let count = u64::try_from(writers).unwrap_or(u64::MAX);
        let targets = clients.iter().cycle().zip(0..count);
        Ok(targets
            .map(|(client, writer)| {
                let options = plan.put_options(plan.producer_of(writer, count));
                let (client, endings) = client;
                Self::new(server, client, endings, options, plan.window())
            })
            .collect())
    }

    fn new(
        server: &ConnectOptions,
        client: &FlightClient,
        endings: &Endings,
        options: PutOptions,
        window: usize,
    ) -> Self {
        let descriptor = match options.commit {
            // The default options: a path serves any Flight server.
            Commit::Stream => FlightDescriptor::new_path(options.table.path()),
            Commit::Batch => options.descriptor(),
        };
        Self {
            server: server.clone(),
            client: client.inner().clone(),
            endings: endings.clone(),
            endings_located: 0,
            metadata: client.metadata().clone(),
            encoder: Encoder::new(descriptor),
            options,
            window,
            put: None,
            silent: false,
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    fn failed(&self, error: impl Into<FlightError>) -> Failure {
        Failure::of_call(error, &self.server.server)
    }

    fn open(&self, messages: impl Stream<Item = FlightData> + Send + 'static) -> Put {
        let mut client = self.client.clone();
        let request = self.request(messages);
        let server = self.server.server.clone();
        // The server may answer only after the first messages, so that the call is a part of the answers.
        let call = async move { client.do_put(request).await };
        Put {
            messages: None,
            answers: call
                .map_ok(tonic::Response::into_inner)
                .try_flatten_stream()
                .map_err(move |status: Status| Failure::of_call(status, &server))
                .boxed(),
            unanswered: 0,
            ack: None,
        }
    }

    /// Opens the one long put.
    fn open_long(&self) -> Put {
        // Room for the schema and for every batch that may be without an answer.
        let (sender, receiver) = mpsc::channel(self.window + 1);
        let _ = sender.try_send(self.encoder.schema.clone());
        let mut put = self.open(ReceiverStream::new(receiver));
        put.messages = Some(sender);
        put
    }

    /// Finds that the connection has ended over which the producer was located.
    fn check_connection(&self) -> Result<(), Failure> {
        if self.endings.count() == self.endings_located {
            return Ok(());
        }
        let message = "the connection has ended";
        Err(Failure::of_all(Outcome::Retriable, message))
    }

    fn send_put(&mut self, batch: &Batch) -> Result<(), Failure> {
        let mut schema = self.encoder.schema.clone();
        if self.options.producer.is_some() {
            // Over another connection another server may answer. One that knows less would take the batch all the same, and
            // what lies before it could never be sent again.
            self.check_connection()?;
            let options = PutOptions {
                sequence: Some(batch.sequence),
                ..self.options.clone()
            };
            schema = schema.with_descriptor(options.descriptor());
        }
        let mut messages = vec![schema];
        for start in (0..batch.rows.num_rows()).step_by(MESSAGE_ROWS) {
            let rows = MESSAGE_ROWS.min(batch.rows.num_rows() - start);
            messages.push(self.encoder.encode(&batch.rows.slice(start, rows))?);
        }
        self.put = Some(self.open(futures::stream::iter(messages)));
        Ok(())
    }

    fn send_part(&mut self, batch: &Batch) -> Result<(), Failure> {
        let mut message = self.encoder.encode(&batch.rows)?;
        if self.options.producer.is_some() {
            let metadata = BatchMetadata {
                sequence: Some(batch.sequence),
            };
            message.app_metadata = metadata.to_json().into();
        }
        let put = match self.put.take() {
            // A producer is to be located first.
            Some(put) if self.options.producer.is_some() || !put.is_over() => put,
            _ => self.open_long(),
        };
        self.put.insert(put).send(message)
    }

    /// Where the server says the producer is, from the list of all producers.
    async fn ask_position(&mut self) -> Result<u64, Failure> {
        let request = self.request(Action::new(ACTION_PRODUCERS, ""));
        let states = self.client.do_action(request).await;
        let mut states = states.map_err(|status| self.failed(status))?.into_inner();
        let mut position = None;
        while let Some(state) = states
            .message()
            .await
            .map_err(|status| self.failed(status))?
        {
            let state: ProducerState = serde_json::from_slice(&state.body).map_err(|error| {
                let message = format!("the server's list of producers cannot be read: {error}");
                Failure::of_all(Outcome::Refused, message)
            })?;
            if self.is_mine(&state) {
                // Of tables that cannot be told apart, the one that is behind: resending costs only time.
                let last = state.last_sequence;
                position = Some(position.map_or(last, |least: u64| least.min(last)));
            }
        }
        Ok(position.unwrap_or(0))
    }

    /// How many of the table's rows meet a condition, at most so many; `None` where there is no table.
    async fn count_rows(&mut self, condition: &str, limit: u8) -> Result<Option<usize>, Failure> {
        let table = self.options.table.to_sql();
        let query = format!("SELECT 1 FROM {table} WHERE {condition} LIMIT {limit}");
        let answer = self.ask(query).await;
        if self.options.commit == Commit::Stream {
            // What another server has, such as an older copy, says nothing of what the first one had. A long put ends by itself.
            self.check_connection()?;
        }
        match answer {
            Ok(rows) => Ok(Some(rows)),
            Err(FlightError::Tonic(status)) if status.code() == Code::NotFound => Ok(None),
            Err(error) => {
                // A long put says only once where the producer is.
                self.put = None;
                Err(self.failed(error))
            }
        }
    }

    /// How many rows answer a query.
    async fn ask(&mut self, query: String) -> Result<usize, FlightError> {
        let request = self.request(Ticket::new(query));
        let answer = self.client.do_get(request).await?.into_inner();
        FlightRecordBatchStream::new_from_flight_data(answer.map_err(FlightError::from))
            .try_fold(0, async |rows, batch| Ok(rows + batch.num_rows()))
            .await
    }

    /// Whether a producer's state is that of this producer and this table. The server names tables in full.
    fn is_mine(&self, state: &ProducerState) -> bool {
        let same = |mine: Option<&str>, its: Option<&str>| match (mine, its) {
            (Some(mine), Some(its)) => mine.eq_ignore_ascii_case(its),
            _ => true,
        };
        let (mine, its) = (&self.options.table, &state.table);
        let schema = mine.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        self.options.producer.as_ref() == Some(&state.producer)
            && mine.table.eq_ignore_ascii_case(&its.table)
            && same(Some(schema), its.schema.as_deref())
            && same(mine.catalog.as_deref(), its.catalog.as_deref())
    }

    /// Makes a new connection in place of one that went silent: a machine that lost its power closes nothing.
    async fn reconnect(&mut self) -> Result<(), Failure> {
        let (client, endings) = connect(&self.server).await.map_err(|error| {
            let message = format!("{:#}", anyhow::Error::from(error));
            Failure::of_all(Outcome::Retriable, message)
        })?;
        self.client = client.into_inner();
        self.endings = endings;
        self.silent = false;
        Ok(())
    }
}

/// A connection whose end is counted.
async fn connect(server: &ConnectOptions) -> Result<(FlightClient, Endings), ConnectError> {
    let endings = Endings::default();
    Ok((server.connect_counted(&endings).await?, endings))
}

/// A connection at the start of a run. With [`Plan::resume`] it is tried again until the plan gives up.
async fn connect_in_time(
    server: &ConnectOptions,
    plan: &Plan,
    progress: &Progress,
) -> Result<(FlightClient, Endings), ConnectError> {
    let started = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        match connect(server).await {
            Err(error @ ConnectError::Refused { .. })
                if plan.resume && started.elapsed() < plan.give_up_after =>
            {
                let delay = retry::delay(attempt);
                let millis = delay.as_millis();
                progress.say(&format!("connecting again in {millis} ms: {error}"));
                sleep(delay).await;
            }
            result => return result,
        }
    }
}

impl Target for FlightTarget {
    async fn locate(&mut self) -> Result<u64, Failure> {
        if self.silent {
            self.reconnect().await?;
        }
        if self.options.commit == Commit::Stream {
            return self.last_durable().await;
        }
        // Put in its place before it is awaited, so that nothing is lost when the waiting is dropped.
        let put = self.put.take().unwrap_or_else(|| self.open_long());
        let result = self.put.insert(put).resume().await;
        if result.is_err() {
            self.put = None;
        }
        result
    }

    async fn last_durable(&mut self) -> Result<u64, Failure> {
        self.endings_located = self.endings.count();
        self.ask_position().await
    }

    async fn holds(&mut self, ids: [i64; 2]) -> Result<bool, Failure> {
        let [first, last] = ids;
        let condition = format!("batch_id IN ({first}, {last})");
        // An older copy may be from before the table.
        let rows = self.count_rows(&condition, 1).await?;
        Ok(rows.is_some_and(|rows| rows > 0))
    }

    async fn has_table(&mut self) -> Result<bool, Failure> {
        Ok(self.count_rows("true", 0).await?.is_some())
    }

    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        match self.options.commit {
            Commit::Stream => self.send_put(batch),
            Commit::Batch => self.send_part(batch),
        }
    }

    async fn answer(&mut self) -> Result<Ack, Failure> {
        let Some(put) = &mut self.put else {
            return Err(ended_early());
        };
        let result = match self.options.commit {
            Commit::Stream => put.only_ack().await,
            Commit::Batch => put.next_ack().await,
        };
        if self.options.commit == Commit::Stream || result.is_err() {
            self.put = None;
        }
        result
    }

    fn reset(&mut self) {
        self.put = None;
        self.silent = true;
    }

    async fn close(&mut self) -> Result<(), Failure> {
        let Some(mut put) = self.put.take() else {
            return Ok(());
        };
        put.messages = None;
        match put.answers.next().await {
            None => Ok(()),
            Some(Err(failure)) => Err(failure),
            Some(Ok(_)) => Err(Failure::of_all(
                Outcome::Unknown,
                "the server sent more acks than it was sent batches",
            )),
        }
    }
}

impl Put {
    /// Sends a batch on a long put.
    fn send(&mut self, message: FlightData) -> Result<(), Failure> {
        let Some(sender) = &self.messages else {
            return Ok(());
        };
        // When the call is over, its answer says why, and what that means for this batch.
        if let Err(TrySendError::Full(_)) = sender.try_send(message) {
            let message = "more batches are waiting for an answer than the put has room for";
            return Err(Failure::of_all(Outcome::Refused, message));
        }
        self.unanswered += 1;
        Ok(())
    }

    /// Whether nothing more can be sent on a long put, and all that was sent has its ack.
    fn is_over(&self) -> bool {
        self.unanswered == 0 && self.messages.as_ref().is_some_and(mpsc::Sender::is_closed)
    }

    /// Where the producer is: the first answer of its long put.
    async fn resume(&mut self) -> Result<u64, Failure> {
        let answer = self.answers.next().await.ok_or_else(ended_early)??;
        match Resume::from_json(&answer.app_metadata) {
            Ok(resume) => Ok(resume.resume_after),
            Err(error) => {
                let message = format!("the server does not say where the producer is: {error}");
                Err(Failure::of_all(Outcome::Refused, message))
            }
        }
    }

    async fn next_ack(&mut self) -> Result<Ack, Failure> {
        let answer = self.answers.next().await.ok_or_else(ended_early)??;
        self.unanswered = self.unanswered.saturating_sub(1);
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

impl fmt::Debug for FlightTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FlightTarget")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
