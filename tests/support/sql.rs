//! A Flight SQL client whose answers are short to compare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementIngest, EndTransaction, TableDefinitionOptions};
use arrow_flight::{Action, FlightInfo};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Answer, Client, rows_of, status};
use crate::open_put::OpenPut;
use crate::soon;

/// A query whose rows never end.
pub const ENDLESS_ROWS: &str = "SELECT range AS i FROM range(100000000000)";

/// A query that never comes to its first row.
pub const ENDLESS_COUNT: &str =
    "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range < 3";

/// A Flight SQL client, in a session or in none.
#[derive(Debug, Clone)]
pub struct SqlClient(FlightSqlServiceClient<Channel>);

impl Client {
    /// A Flight SQL client on the same connection, in no session.
    pub fn sql(&self) -> SqlClient {
        let mut client = self.clone();
        let inner = client.raw().clone();
        SqlClient(FlightSqlServiceClient::new_from_inner(inner))
    }

    /// A Flight SQL client on the same connection, in a session of its own.
    ///
    /// # Panics
    /// When the server opens none.
    pub async fn session(&self) -> SqlClient {
        let mut client = self.sql();
        client
            .0
            .handshake("user", "password")
            .await
            .expect("a session");
        client
    }
}

impl SqlClient {
    /// Arrow Flight's own client, for what has no shorter way.
    pub fn raw(&mut self) -> &mut FlightSqlServiceClient<Channel> {
        &mut self.0
    }

    /// Runs a statement by `GetFlightInfo` and `DoGet`; answers with its rows as text: values separated by `|`.
    ///
    /// # Errors
    /// What the server says.
    pub async fn try_rows(
        &mut self,
        sql: &str,
        transaction: Option<&Bytes>,
    ) -> Answer<Vec<String>> {
        let info = self.info(sql, transaction).await?;
        self.fetch(&info).await
    }

    /// As [`SqlClient::try_rows`], of a statement that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn rows(&mut self, sql: &str, transaction: Option<&Bytes>) -> Vec<String> {
        match self.try_rows(sql, transaction).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// As [`SqlClient::rows`], right behind a result that was dropped: where the server is so busy that it has yet to find out, it
    /// refuses the statement, of which then nothing has run, and it is sent again.
    ///
    /// # Panics
    /// When it does not succeed, or is refused for too long.
    pub async fn rows_behind(&mut self, sql: &str, transaction: Option<&Bytes>) -> Vec<String> {
        let answer = soon(sql, async {
            loop {
                match self.try_rows(sql, transaction).await {
                    Err(error)
                        if error.code() == Code::ResourceExhausted
                            && error.message().contains("still running") => {}
                    answer => return answer,
                }
            }
        });
        match answer.await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// Where and how to get a statement's result.
    ///
    /// # Errors
    /// What the server says.
    pub async fn info(&mut self, sql: &str, transaction: Option<&Bytes>) -> Answer<FlightInfo> {
        let info = self.0.execute(sql.to_owned(), transaction.cloned()).await;
        info.map_err(status)
    }

    /// Fetches what a `FlightInfo` is about.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// When there is not one endpoint with a ticket.
    pub async fn fetch(&mut self, info: &FlightInfo) -> Answer<Vec<String>> {
        let [endpoint] = info.endpoint.as_slice() else {
            panic!("one endpoint expected: {info:?}")
        };
        let ticket = endpoint.ticket.clone().expect("a ticket");
        let batches = self.0.do_get(ticket).await.map_err(status)?;
        let batches: Vec<RecordBatch> = batches.try_collect().await.map_err(status)?;
        Ok(batches.iter().flat_map(rows_of).collect())
    }

    /// Runs a statement for its effect; answers with the rows it changed.
    ///
    /// # Errors
    /// What the server says.
    pub async fn update(&mut self, sql: &str, transaction: Option<&Bytes>) -> Answer<i64> {
        let changed = self.0.execute_update(sql.to_owned(), transaction.cloned());
        changed.await.map_err(status)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// What the server says.
    pub async fn begin(&mut self) -> Answer<Bytes> {
        self.0.begin_transaction().await.map_err(status)
    }

    /// Commits a transaction.
    ///
    /// # Errors
    /// What the server says.
    pub async fn commit(&mut self, transaction: &Bytes) -> Answer<()> {
        let end = self
            .0
            .end_transaction(transaction.clone(), EndTransaction::Commit);
        end.await.map_err(status)
    }

    /// Rolls a transaction back.
    ///
    /// # Errors
    /// What the server says.
    pub async fn roll_back(&mut self, transaction: &Bytes) -> Answer<()> {
        let end = self
            .0
            .end_transaction(transaction.clone(), EndTransaction::Rollback);
        end.await.map_err(status)
    }

    /// Ends its session; without one, the transactions of its connection.
    ///
    /// # Panics
    /// When the server does not.
    pub async fn close(&mut self) {
        let close = tonic::Request::new(Action::new("CloseSession", ""));
        let mut closed = self.0.do_action(close).await.expect("an answer");
        closed.message().await.expect("the end of the session");
    }

    /// Appends batches to a table, made where it is missing; answers with the rows put in.
    ///
    /// # Errors
    /// What the server says.
    pub async fn ingest(
        &mut self,
        table: &str,
        transaction: Option<&Bytes>,
        batches: Vec<RecordBatch>,
    ) -> Answer<i64> {
        let batches = stream::iter(batches.into_iter().map(Ok));
        self.0
            .execute_ingest(ingest_into(table, transaction), batches)
            .await
            .map_err(status)
    }

    /// Looks at a table again and again, each time in a transaction in which it must stay as it is, until it is over.
    ///
    /// # Panics
    /// When it does not, or when a query fails.
    pub async fn watch_snapshots(mut self, table: &str, column: &str, over: Arc<AtomicBool>) {
        let sum = format!("SELECT count(*), sum({column}) FROM {table}");
        let groups = format!("SELECT {column} % 7, count(*) FROM {table} GROUP BY ALL");
        while !over.load(Ordering::Acquire) {
            let transaction = self.begin().await.expect("a transaction");
            let before = self.rows(&sum, Some(&transaction)).await;
            self.rows(&groups, Some(&transaction)).await;
            assert_eq!(self.rows(&sum, Some(&transaction)).await, before);
            self.commit(&transaction).await.expect("a commit");
        }
    }

    /// Opens a put of which nothing is sent yet but the call: an ingest, or a statement that awaits its parameters.
    pub async fn open_raw_put(&self) -> OpenPut {
        let mut client = self.0.clone();
        OpenPut::calling(|upload| async move { client.do_put(upload).await.map_err(status) }).await
    }
}

/// The command of an ingest that appends to a table, made where it is missing.
pub fn ingest_into(table: &str, transaction: Option<&Bytes>) -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: 1,
            if_exists: 2,
        }),
        table: table.to_owned(),
        schema: None,
        catalog: None,
        temporary: false,
        transaction_id: transaction.cloned(),
        options: Default::default(),
    }
}
