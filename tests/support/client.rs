//! A client whose answers are short to compare.

use std::str::FromStr;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightClient, FlightData, PutResult, Ticket};
use bytes::Bytes;
use duck_flight_protocol::{
    ACTION_QUERY, Ack, BatchMetadata, ConnectError, ConnectOptions, PutOptions, Resume, RowsChanged,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::{messages, soon};

/// What a call comes to.
pub type Answer<T> = Result<T, Status>;

/// The status of a failed call.
pub fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::unknown(format!("not from the server: {other}")),
    }
}

/// A client with one connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Client(FlightServiceClient<Channel>);

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Panics
    /// When nobody answers there.
    pub async fn connect(address: &str) -> Self {
        Self::try_connect(address).await.expect("a server listens")
    }

    /// Connects to `host:port`, where a server may listen or not.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn try_connect(address: &str) -> Result<Self, ConnectError> {
        let server = address.to_owned();
        let client = ConnectOptions { server }.connect().await?;
        Ok(Self(client.into_inner()))
    }

    /// The generated client, for what has no shorter way.
    pub fn raw(&mut self) -> &mut FlightServiceClient<Channel> {
        &mut self.0
    }

    /// Arrow Flight's own client on the same connection.
    pub fn flight(&self) -> FlightClient {
        FlightClient::new_from_inner(self.0.clone())
    }

    /// Makes a round trip that needs no connection to the database: what was sent before on this connection has
    /// then reached the server.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ping(&self) {
        let actions = self.flight().list_actions().await.expect("an answer");
        assert!(actions.count().await > 0);
    }

    /// Starts a query; its batches stream.
    ///
    /// # Errors
    /// What the server says before the first message.
    pub async fn stream(&self, sql: impl Into<Bytes>) -> Answer<FlightRecordBatchStream> {
        let call = self.flight().do_get(Ticket::new(sql)).await;
        call.map_err(status)
    }

    /// Runs a query to its end.
    ///
    /// # Errors
    /// What the server says, whenever it says it.
    pub async fn query(&self, sql: impl Into<Bytes>) -> Answer<Vec<RecordBatch>> {
        let stream = self.stream(sql).await?;
        stream.try_collect().await.map_err(status)
    }

    /// The rows of a query as text: values separated by `|`.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// When a value cannot be shown.
    pub async fn try_rows(&self, sql: &str) -> Answer<Vec<String>> {
        let batches = self.query(sql.to_owned()).await?;
        Ok(batches.iter().flat_map(rows_of).collect())
    }

    /// As [`Client::try_rows`], of a query that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        match self.try_rows(sql).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// The one value of a query.
    ///
    /// # Panics
    /// When there is not exactly one, or it is of another type.
    pub async fn value<T: FromStr>(&self, sql: &str) -> T {
        let rows = self.rows(sql).await;
        let [row] = rows.as_slice() else {
            panic!("{sql}: one row expected: {rows:?}")
        };
        row.parse()
            .unwrap_or_else(|_| panic!("{sql}: not the type expected: {row}"))
    }

    /// The number of rows of a table, named in SQL.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn count(&self, table: &str) -> u64 {
        self.value(&format!("SELECT count(*) FROM {table}")).await
    }

    /// Runs a script by the action `query`; answers with the rows it changed.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// When the answer is not what the protocol says.
    pub async fn try_execute(&self, sql: impl Into<Bytes>) -> Answer<u64> {
        let action = Action::new(ACTION_QUERY, sql);
        let answers = self.flight().do_action(action).await.map_err(status)?;
        let answers: Vec<_> = answers.try_collect().await.map_err(status)?;
        let answer: RowsChanged = serde_json::from_slice(&answers[0]).expect("JSON");
        Ok(answer.rows_changed)
    }

    /// Runs a script that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn execute(&self, sql: &str) -> u64 {
        match self.try_execute(sql.to_owned()).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// Sends batches in one put, and answers with its acks.
    ///
    /// # Errors
    /// What the server says.
    pub async fn put(&self, options: &PutOptions, batches: &[RecordBatch]) -> Answer<Vec<Ack>> {
        let schema = batches[0].schema();
        let descriptor = options.descriptor();
        self.put_messages(messages(descriptor, &schema, batches, None))
            .await
    }

    /// Sends batches in one put into `table` with the default options; answers with the rows acknowledged.
    ///
    /// # Errors
    /// What the server says.
    pub async fn append(&self, table: &str, batches: &[RecordBatch]) -> Answer<u64> {
        let acks = self.put(&PutOptions::new(table), batches).await?;
        Ok(acks.iter().map(|ack| ack.rows).sum())
    }

    /// Sends these messages as one put, as they are.
    ///
    /// # Errors
    /// What the server says.
    pub async fn put_messages(&self, messages: Vec<FlightData>) -> Answer<Vec<Ack>> {
        let mut client = self.0.clone();
        let acks = client.do_put(stream::iter(messages)).await?.into_inner();
        acks.map(|result| result.map(ack)).try_collect().await
    }

    /// Opens a put whose messages are sent one by one. The schema is sent with it.
    pub async fn open_put(&self, options: &PutOptions, schema: &SchemaRef) -> OpenPut {
        let put = self.open_raw_put();
        for message in messages(options.descriptor(), schema, &[], None) {
            put.send(message).await;
        }
        put
    }

    /// Opens a put of which nothing is sent yet.
    pub fn open_raw_put(&self) -> OpenPut {
        let (messages, sent) = upload();
        let mut client = self.0.clone();
        OpenPut::calling(messages, async move {
            Ok(client.do_put(sent).await?.into_inner())
        })
    }
}

pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that can be shown"))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            let values: Vec<_> = columns.iter().map(|c| c.value(row).to_string()).collect();
            values.join("|")
        })
        .collect()
}

fn ack(result: PutResult) -> Ack {
    Ack::from_json(&result.app_metadata).expect("an ack is JSON")
}

pub(crate) type Sender = mpsc::Sender<Option<FlightData>>;

/// Messages that are sent one by one, up to the one that says the end. Without it the stream stays open for good, so
/// that a put ends cleanly only where the test says so.
pub(crate) fn upload() -> (
    Sender,
    impl Stream<Item = FlightData> + Send + Sync + Unpin + 'static,
) {
    let (sender, mut messages) = mpsc::channel(1);
    let sent = stream::poll_fn(move |context| match messages.poll_recv(context) {
        std::task::Poll::Ready(None) => std::task::Poll::Pending,
        other => other.map(Option::flatten),
    });
    (sender, sent)
}

/// A put in the middle of which anything may happen. Dropped, it stays open as long as its connection.
#[derive(Debug)]
pub struct OpenPut {
    messages: Sender,
    state: State,
}

#[derive(Debug)]
enum State {
    Calling(JoinHandle<Answer<Streaming<PutResult>>>),
    Answered(Box<Streaming<PutResult>>),
    Over,
}

impl OpenPut {
    pub(crate) fn calling(
        messages: Sender,
        call: impl Future<Output = Answer<Streaming<PutResult>>> + Send + 'static,
    ) -> Self {
        Self {
            messages,
            state: State::Calling(tokio::spawn(call)),
        }
    }

    /// Sends a message: it waits while the server takes none. One that the server has no more use for is
    /// dropped; the acks say why.
    pub async fn send(&self, message: FlightData) {
        self.messages.send(Some(message)).await.ok();
    }

    /// Sends a batch.
    ///
    /// # Panics
    /// When it has dictionaries.
    pub async fn send_batch(&self, batch: &RecordBatch) {
        let none = arrow_flight::FlightDescriptor::default();
        let mut messages = messages(none, &batch.schema(), std::slice::from_ref(batch), None);
        assert_eq!(messages.len(), 2, "schema and batch");
        self.send(messages.swap_remove(1)).await;
    }

    /// Sends a batch with its sequence.
    ///
    /// # Panics
    /// When it has dictionaries.
    pub async fn send_sequenced(&self, batch: &RecordBatch, sequence: u64) {
        let none = arrow_flight::FlightDescriptor::default();
        let mut messages = messages(none, &batch.schema(), std::slice::from_ref(batch), None);
        assert_eq!(messages.len(), 2, "schema and batch");
        let sequence = Some(sequence);
        let metadata = BatchMetadata { sequence }.to_json();
        self.send(messages.swap_remove(1).with_app_metadata(metadata))
            .await;
    }

    /// Says that everything was sent.
    pub async fn end(&self) {
        self.messages.send(None).await.ok();
    }

    /// Waits for the next ack; `None` is the end of a put that succeeded.
    ///
    /// # Panics
    /// When the client itself fails.
    pub async fn ack(&mut self) -> Option<Answer<Ack>> {
        self.result().await.map(|result| result.map(ack))
    }

    /// Waits for the first answer to a producer's put of batches: the sequence to go on after. The put is then
    /// open, and those of the same producer before it are fenced.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// When the answer is another one, or there is none.
    pub async fn resume_after(&mut self) -> Answer<u64> {
        let result = soon("where to go on", self.result()).await;
        let result = result.expect("an answer")?;
        let resume = Resume::from_json(&result.app_metadata).expect("where to go on");
        Ok(resume.resume_after)
    }

    /// Waits for the next answer as it comes; `None` is the end.
    ///
    /// # Panics
    /// When the client itself fails.
    pub async fn result(&mut self) -> Option<Answer<PutResult>> {
        if let State::Calling(call) = &mut self.state {
            match call.await.expect("the call does not panic") {
                Ok(acks) => self.state = State::Answered(Box::new(acks)),
                Err(error) => {
                    self.state = State::Over;
                    return Some(Err(error));
                }
            }
        }
        let State::Answered(acks) = &mut self.state else {
            return None;
        };
        acks.next().await
    }

    /// Ends the put and answers with the acks that are left.
    ///
    /// # Errors
    /// What the server says.
    pub async fn finish(mut self) -> Answer<Vec<Ack>> {
        self.end().await;
        let mut acks = Vec::new();
        while let Some(ack) = soon("an ack", self.ack()).await {
            acks.push(ack?);
        }
        Ok(acks)
    }

    /// Cancels the put: its stream is reset, as any gRPC client does that cancels a call or gives up on it.
    pub async fn cancel(self) {
        if let State::Calling(call) = self.state {
            call.abort();
            call.await.ok();
        }
    }
}

/// Sees that an answer is a refusal with this code, and that its message holds these words.
///
/// # Panics
/// When it is not.
pub fn assert_refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, words: &[&str]) {
    let error = answer.expect_err("a refusal");
    assert_eq!(error.code(), code, "{error:?}");
    for word in words {
        assert!(
            error.message().contains(word),
            "`{word}` is missing: {error:?}"
        );
    }
}
