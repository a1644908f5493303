//! One connection to the server, and the way its SQL takes.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::SqlInfo;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightInfo, Ticket};
use duck_query::texts;
use duck_tests::{Answer, status};
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput};
use tonic::Status;
use tonic::transport::Endpoint;

use crate::column_type::ColumnType;
use crate::cookies::CookieChannel;

/// A way to run SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A plain Flight ticket, as pyarrow sends it.
    Ticket,
    /// Flight SQL's statement query, for definitions and changes too, as ADBC sends it.
    Statement,
    /// A prepared statement, run as an update where it has no result, as JDBC sends it.
    Prepared,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Ticket, Self::Statement, Self::Prepared];

    /// Whether a connection's statements share a session.
    pub(crate) fn has_sessions(self) -> bool {
        self != Self::Ticket
    }

    /// What the cases call it.
    fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Statement => "statement",
            Self::Prepared => "prepared",
        }
    }
}

/// A connection of the cases: one session.
pub(crate) struct Connection {
    client: FlightSqlServiceClient<CookieChannel>,
    way: Way,
}

/// What a statement comes to.
enum Outcome {
    Rows(Schema, Vec<RecordBatch>),
    Count(u64),
}

impl Outcome {
    /// A count of rows that Flight tells. Less than none is a count that nobody knows.
    fn changed(rows: i64) -> Self {
        Self::Count(u64::try_from(rows).unwrap_or(0))
    }
}

impl Connection {
    pub(crate) async fn open(way: Way, address: String) -> Result<Self, Refusal> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("a server listens");
        let client = FlightServiceClient::new(CookieChannel::new(channel));
        let client = client.max_decoding_message_size(usize::MAX);
        let mut client = FlightSqlServiceClient::new_from_inner(client);
        if way.has_sessions() {
            // Drivers ask as they connect, and get the cookie of their session.
            let name = vec![SqlInfo::FlightSqlServerName];
            let answer = client.get_sql_info(name).await.map_err(status);
            answer.map_err(Refusal)?;
        }
        Ok(Self { client, way })
    }

    async fn outcome(&mut self, sql: String) -> Answer<Outcome> {
        match self.way {
            Way::Ticket => self.fetch(Ticket::new(sql)).await,
            Way::Statement => {
                let info = self.client.execute(sql, None).await.map_err(status)?;
                self.fetch_all(info).await
            }
            Way::Prepared => self.run_prepared(sql).await,
        }
    }

    async fn run_prepared(&mut self, sql: String) -> Answer<Outcome> {
        let mut statement = self.client.prepare(sql, None).await.map_err(status)?;
        let schema = statement.dataset_schema().map_err(status)?;
        let outcome = if schema.fields().is_empty() {
            let count = statement.execute_update().await.map_err(status);
            count.map(Outcome::changed)
        } else {
            match statement.execute().await.map_err(status) {
                Ok(info) => self.fetch_all(info).await,
                Err(error) => Err(error),
            }
        };
        statement.close().await.map_err(status)?;
        outcome
    }

    async fn fetch_all(&mut self, info: FlightInfo) -> Answer<Outcome> {
        let total = info.total_records;
        let [endpoint] = info.endpoint.as_slice() else {
            panic!("one endpoint expected: {info:?}");
        };
        let ticket = endpoint.ticket.clone().expect("an endpoint has a ticket");
        match self.fetch(ticket).await? {
            // A statement without a result tells the rows it has changed in their place.
            Outcome::Rows(schema, _) if schema.fields().is_empty() => Ok(Outcome::changed(total)),
            outcome => Ok(outcome),
        }
    }

    async fn fetch(&mut self, ticket: Ticket) -> Answer<Outcome> {
        let stream = self.client.do_get(ticket).await.map_err(status)?;
        rows(stream).await
    }
}

async fn rows(mut stream: FlightRecordBatchStream) -> Answer<Outcome> {
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await.map_err(status)? {
        batches.push(batch);
    }
    let schema = stream.schema().expect("a result has a schema");
    Ok(Outcome::Rows(schema.as_ref().clone(), batches))
}

#[tonic::async_trait]
impl AsyncDB for Connection {
    type Error = Refusal;
    type ColumnType = ColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<ColumnType>, Refusal> {
        let outcome = self.outcome(sql.to_owned()).await.map_err(Refusal)?;
        let (schema, batches) = match outcome {
            Outcome::Rows(schema, batches) => (schema, batches),
            Outcome::Count(count) => return Ok(DBOutput::StatementComplete(count)),
        };
        let rows: Vec<_> = batches.iter().flat_map(texts).collect();
        if let Some(count) = count(&schema, &rows) {
            return Ok(DBOutput::StatementComplete(count));
        }
        let fields = schema.fields().iter();
        Ok(DBOutput::Rows {
            types: fields
                .map(|field| ColumnType::of(field.data_type()))
                .collect(),
            rows: rows.into_iter().map(|row| vec![line(row)]).collect(),
        })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        self.way.name()
    }
}

/// The rows a statement has changed, where that is its result.
fn count(schema: &Schema, rows: &[Vec<Option<String>>]) -> Option<u64> {
    let [field] = schema.fields().as_ref() else {
        return None;
    };
    let is_count = field.name() == "Count" && *field.data_type() == DataType::Int64;
    match rows {
        _ if !is_count => None,
        // A statement that defines something.
        [] => Some(0),
        [row] => row.first()?.as_ref()?.parse().ok(),
        _ => None,
    }
}

/// A row as a line of the cases.
fn line(row: Vec<Option<String>>) -> String {
    let values: Vec<_> = row.into_iter().map(shown).collect();
    values.join(" | ")
}

fn shown(value: Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) if text.is_empty() => "(empty)".to_owned(),
        Some(text) => text.replace('\\', "\\\\").replace('\n', "\\n"),
    }
}

/// An error of the server's: its code and its message.
#[derive(Debug)]
pub(crate) struct Refusal(Status);

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}: {}", self.0.code(), self.0.message())
    }
}

impl std::error::Error for Refusal {}
