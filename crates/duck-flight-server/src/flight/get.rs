//! `DoGet`, `GetFlightInfo` and `GetSchema` of plain Flight.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::{Command, CommandStatementQuery};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, SchemaAsIpc, SchemaResult, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use duck_flight_protocol::{TableName, quote};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::Answers;
use super::columns::with_types;
use super::cut::cut;
use crate::engine::{Engine, Place};
use crate::error::{Error, Result};

/// Runs the ticket's SQL; the last statement's result streams back.
pub(super) async fn get(
    engine: &Engine,
    place: &Place,
    ticket: &[u8],
) -> Result<Answers<FlightData>> {
    let result = engine.query(place, sql_text(ticket, "ticket")?).await?;
    let schema = with_types(result.schema(), result.type_names());
    Ok(encode(schema, result))
}

/// Encodes a result. Its schema goes as it is: the encoder's own leaves out what the field of a union says of itself.
pub(super) fn encode(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> Answers<FlightData> {
    let batches = batches
        .map_ok(|batch| stream::iter(cut(batch)).map(Ok::<_, Error>))
        .try_flatten();
    let told = FlightData::from(SchemaAsIpc::new(&schema, &IpcWriteOptions::default()));
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        // The encoder would cut them by their buffers' size.
        .with_max_flight_data_size(usize::MAX)
        // The engine has left no dictionaries; looking for some, the encoder trips over lists of unions.
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(batches.map_err(|error| FlightError::from(Status::from(error))));
    // The encoder's first message is the schema.
    let messages = messages.skip(1).map_err(Status::from);
    stream::once(async move { Ok(told) })
        .chain(messages)
        .boxed()
}

/// Where and how to get a table or the result of a query. Nothing runs yet.
pub(super) async fn flight_info(
    engine: &Engine,
    place: &Place,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let sql = descriptor_sql(&descriptor)?;
    let info = FlightInfo::new()
        .with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(sql.clone())))
        .with_descriptor(descriptor);
    match engine.describe(place, sql).await {
        Ok(described) => {
            let schema = with_types(&described.schema, &described.type_names);
            info.try_with_schema(&schema).map_err(encoding)
        }
        // A script whose later statements need the earlier ones has its schema once it has run.
        Err(Error::UnknownSchema(_)) => Ok(info),
        Err(error) => Err(error),
    }
}

/// The schema of a table or of the result of a query. Nothing runs.
pub(super) async fn schema(
    engine: &Engine,
    place: &Place,
    descriptor: &FlightDescriptor,
) -> Result<SchemaResult> {
    let sql = descriptor_sql(descriptor)?;
    let described = engine.describe(place, sql).await?;
    schema_result(&with_types(&described.schema, &described.type_names))
}

/// A schema as `GetSchema` answers.
pub(super) fn schema_result(schema: &Schema) -> Result<SchemaResult> {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(encoding)
}

/// The SQL that a descriptor stands for: all rows of its path, or its command.
fn descriptor_sql(descriptor: &FlightDescriptor) -> Result<String> {
    match descriptor.r#type() {
        DescriptorType::Path => Ok(select_all(&TableName::from_path(&descriptor.path)?, &[])),
        DescriptorType::Cmd => sql_text(&descriptor.cmd, "descriptor's command"),
        DescriptorType::Unknown => Err(Error::Malformed(
            "the descriptor is neither a path nor a command: set path to [table], or cmd to SQL"
                .into(),
        )),
    }
}

/// The statement that a plain descriptor stands for.
pub(super) fn as_statement(descriptor: &FlightDescriptor) -> Result<Command> {
    Ok(Command::CommandStatementQuery(CommandStatementQuery {
        query: descriptor_sql(descriptor)?,
        transaction_id: None,
    }))
}

/// All rows of a table, with these columns cast to texts.
pub(super) fn select_all(table: &TableName, texts: &[String]) -> String {
    let table = table.to_sql();
    if texts.is_empty() {
        return format!("SELECT * FROM {table}");
    }
    let texts = texts.iter().map(|name| quote(name));
    let casts: Vec<_> = texts
        .map(|name| format!("CAST({name} AS VARCHAR) AS {name}"))
        .collect();
    format!("SELECT * REPLACE ({}) FROM {table}", casts.join(", "))
}

pub(super) fn sql_text(bytes: &[u8], place: &str) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(sql) if sql.trim().is_empty() => Err(Error::NoStatement),
        Ok(sql) => Ok(sql.to_owned()),
        Err(error) => Err(Error::Malformed(format!(
            "the {place} is not SQL text in UTF-8: {error}"
        ))),
    }
}

pub(super) fn encoding(error: arrow::error::ArrowError) -> Error {
    Error::Malformed(format!("the schema cannot be encoded: {error}"))
}
