//! One connection to the server, and the way its SQL takes.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use duck_query::texts;
use duck_tests::{Answer, Client, status};
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput};
use tonic::Status;

use crate::column_type::ColumnType;

/// A way to run SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A plain Flight ticket.
    Ticket,
}

impl Way {
    pub(crate) const ALL: [Self; 1] = [Self::Ticket];

    /// Whether a connection's statements share a session.
    pub(crate) fn has_sessions(self) -> bool {
        match self {
            Self::Ticket => false,
        }
    }
}

/// A connection of the cases.
pub(crate) struct Connection {
    client: Client,
    way: Way,
}

impl Connection {
    pub(crate) async fn open(way: Way, address: String) -> Result<Self, Refusal> {
        let client = Client::connect(&address).await;
        Ok(Self { client, way })
    }

    /// Runs a statement; answers with its result.
    async fn result(&mut self, sql: &str) -> Answer<(Schema, Vec<RecordBatch>)> {
        match self.way {
            Way::Ticket => {
                let mut stream = self.client.stream(sql.to_owned()).await?;
                let mut batches = Vec::new();
                while let Some(batch) = stream.try_next().await.map_err(status)? {
                    batches.push(batch);
                }
                let schema = stream.schema().expect("a result has a schema");
                Ok((schema.as_ref().clone(), batches))
            }
        }
    }
}

#[tonic::async_trait]
impl AsyncDB for Connection {
    type Error = Refusal;
    type ColumnType = ColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<ColumnType>, Refusal> {
        let (schema, batches) = self.result(sql).await.map_err(Refusal)?;
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
