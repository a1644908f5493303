//! A client whose answers are short to compare.

use std::str::FromStr;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightClient, FlightData, Ticket};
use bytes::Bytes;
use duck_flight_protocol::{
    ACTION_QUERY, Ack, ConnectError, ConnectOptions, PutOptions, RowsChanged,
};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::open_put::{OpenPut, ack};
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

    /// Makes a round trip that needs no connection to the database: the puts that were opened before on this connection have
    /// then reached the server. Their messages may still be on their way, and so may a call that another task makes.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ping(&self) {
        let actions = self.flight().list_actions().await.expect("an answer");
        assert!(actions.count().await > 0);
    }

    /// How much the server keeps for its clients, by the action `status`: `sessions`, `transactions`, `prepared_statements`,
    /// `results` or `running`, which are the statements that run or wait for their turn. Asking takes no place among them.
    ///
    /// # Panics
    /// When the server does not say.
    pub async fn kept(&self, what: &str) -> u64 {
        let answers = self.flight().do_action(Action::new("status", "")).await;
        let answers: Vec<_> = answers.expect("a status").try_collect().await.expect("one");
        let counts: serde_json::Value = serde_json::from_slice(&answers[0]).expect("JSON");
        counts[what].as_u64().expect("a number")
    }

    /// Waits until the server keeps just so much.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until_kept(&self, what: &str, count: u64) {
        let kept = async { while self.kept(what).await != count {} };
        soon(&format!("{count} {what}"), kept).await;
    }

    /// Waits until the server keeps nothing for any client.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until_nothing_is_kept(&self) {
        for what in [
            "running",
            "results",
            "transactions",
            "sessions",
            "prepared_statements",
        ] {
            self.until_kept(what, 0).await;
        }
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

    /// Makes a checkpoint. A transaction of the server's own may be in its way for a moment, and a put that was cut off in its commit.
    ///
    /// # Panics
    /// When something else is in its way, or that stays.
    pub async fn checkpoint(&self) {
        let checkpoint = async {
            while let Err(refused) = self.try_execute("CHECKPOINT").await {
                let is_not_yet = refused.message().contains("Cannot CHECKPOINT");
                assert!(is_not_yet, "{refused:?}");
            }
        };
        soon("a checkpoint", checkpoint).await;
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
        let put = self.open_raw_put().await;
        for message in messages(options.descriptor(), schema, &[], None) {
            put.send(message).await;
        }
        put
    }

    /// Opens a put of which nothing is sent yet but the call.
    pub async fn open_raw_put(&self) -> OpenPut {
        let mut client = self.0.clone();
        OpenPut::calling(|upload| async move { Ok(client.do_put(upload).await?.into_inner()) })
            .await
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
