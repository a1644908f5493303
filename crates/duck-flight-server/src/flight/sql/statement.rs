//! Statements: a query runs when its result is fetched, anything else at once and once.
//!
//! Drivers send all statements the same way, as queries, and some never fetch a result that has no rows. So what
//! changes anything runs in `GetFlightInfo`; its ticket hands out what it answered.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::sql::{CommandStatementQuery, CommandStatementUpdate};
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo};
use futures::{StreamExt, TryStreamExt, stream};
use prost_types::Timestamp;

use super::ticket::{Query, StatementTicket, Work};
use crate::engine::{Description, Place, ResultStream, Rows, Sql};
use crate::error::{Error, Result};
use crate::flight::Answers;
use crate::flight::columns::with_types;
use crate::flight::get::{encode, encoding, sql_text};
use crate::session::{Caller, Handle, RESULT_TIMEOUT, RunningGuard, Sessions, Waiting};

/// Where and how to get the result of a statement.
pub(super) async fn flight_info(
    sessions: &Sessions,
    caller: &Caller,
    command: &CommandStatementQuery,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let sql = sql_text(command.query.as_bytes(), "statement")?;
    let transaction = command.transaction_id.as_deref();
    let place = sessions.place(caller, transaction).await?;
    match sessions.engine().describe(&place, sql.clone()).await {
        Ok(described) if described.is_query => {
            let ticket = StatementTicket::query(sql, transaction);
            info(descriptor, Some(&schema_of(&described)), &ticket, -1)
        }
        Ok(_) | Err(Error::UnknownSchema(_)) => {
            run_now(sessions, &place, sql.into(), descriptor).await
        }
        Err(error) => Err(error),
    }
}

/// The schema of a statement's result. Nothing runs.
pub(super) async fn schema(
    sessions: &Sessions,
    caller: &Caller,
    command: &CommandStatementQuery,
) -> Result<SchemaRef> {
    let sql = sql_text(command.query.as_bytes(), "statement")?;
    let transaction = command.transaction_id.as_deref();
    let place = sessions.place(caller, transaction).await?;
    let described = sessions.engine().describe(&place, sql).await?;
    Ok(schema_of(&described))
}

/// The schema of a result as Flight SQL tells it; without columns where there are no rows.
pub(super) fn schema_of(described: &Description) -> SchemaRef {
    if described.has_rows {
        with_types(&described.schema, &described.type_names)
    } else {
        Arc::new(Schema::empty())
    }
}

/// Runs a statement; its result waits to be fetched.
pub(super) async fn run_now(
    sessions: &Sessions,
    place: &Place,
    sql: Sql,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    sessions.check_room_for_result()?;
    let outcome = sessions.engine().run(place, sql).await?;
    let Some(rows) = outcome.rows else {
        let changed = i64::try_from(outcome.rows_changed).unwrap_or(i64::MAX);
        let ticket = StatementTicket::nothing();
        return info(descriptor, Some(&Schema::empty()), &ticket, changed);
    };
    let schema = with_types(&rows.schema, &rows.type_names);
    let count: usize = rows.batches.iter().map(|batch| batch.num_rows()).sum();
    let ticket = StatementTicket::waiting(sessions.keep(rows));
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    info(descriptor, Some(&schema), &ticket, count)
}

/// A `FlightInfo` with one endpoint. Without a schema, it comes with the rows.
pub(super) fn info(
    descriptor: FlightDescriptor,
    schema: Option<&Schema>,
    ticket: &StatementTicket,
    total_records: i64,
) -> Result<FlightInfo> {
    let mut endpoint = FlightEndpoint::new().with_ticket(ticket.to_ticket());
    if matches!(ticket.work, Some(Work::Waiting(_))) {
        let expires = std::time::SystemTime::now() + RESULT_TIMEOUT;
        endpoint = endpoint.with_expiration_time(Timestamp::from(expires));
    }
    let info = FlightInfo::new()
        .with_endpoint(endpoint)
        .with_total_records(total_records)
        .with_descriptor(descriptor);
    match schema {
        Some(schema) => info.try_with_schema(schema).map_err(encoding),
        None => Ok(info),
    }
}

/// Runs a script for its effect; answers with the rows it changed. All of it is in the command: some clients end
/// their stream only once they have the answer.
pub(super) async fn update(
    sessions: &Sessions,
    caller: &Caller,
    command: CommandStatementUpdate,
) -> Result<u64> {
    let sql = sql_text(command.query.as_bytes(), "statement")?;
    let place = sessions
        .place(caller, command.transaction_id.as_deref())
        .await?;
    sessions.engine().execute(&place, sql).await
}

/// Does what a ticket says.
pub(super) async fn get(
    sessions: &Sessions,
    caller: &Caller,
    handle: &[u8],
) -> Result<Answers<FlightData>> {
    let ticket = StatementTicket::read(handle)?;
    let id = ticket.id()?;
    match ticket.work {
        Some(Work::Query(Query { sql, transaction })) => {
            run(sessions, caller, id, sql.into(), Some(&transaction)).await
        }
        Some(Work::Waiting(_)) => {
            let waiting = sessions.fetch(id)?;
            match &*waiting {
                Waiting::Rows(rows) => Ok(rows_answer(rows, waiting.clone())),
                Waiting::Query {
                    sql, transaction, ..
                } => run(sessions, caller, id, sql.clone(), transaction.as_deref()).await,
                Waiting::Stream { result, .. } => {
                    let result = result.lock().take().ok_or(Error::WorkerLost)?;
                    answer(sessions.running(id)?, result)
                }
            }
        }
        Some(Work::Nothing(_)) => {
            let nothing = stream::empty::<Result<_>>();
            Ok(encode(Arc::new(Schema::empty()), nothing))
        }
        None => Err(Error::Malformed(
            "the ticket holds nothing to run: send SQL text, or a ticket that GetFlightInfo gave"
                .into(),
        )),
    }
}

async fn run(
    sessions: &Sessions,
    caller: &Caller,
    id: Handle,
    sql: Sql,
    transaction: Option<&[u8]>,
) -> Result<Answers<FlightData>> {
    let place = sessions.place(caller, transaction).await?;
    let running = sessions.running(id)?;
    let result = running.start(sessions.engine().query(&place, sql)).await?;
    answer(running, result)
}

/// A result on its way to its client. As long as rows come, the ticket can cancel them.
fn answer(running: RunningGuard, result: ResultStream) -> Result<Answers<FlightData>> {
    running.cancel_by(result.cancel());
    let schema = with_types(result.schema(), result.type_names());
    let batches = result.inspect_ok(move |_| {
        let _ = &running;
    });
    Ok(encode(schema, batches))
}

/// Rows on their way to their client. Until they are all sent, they take the memory that they took while they waited.
fn rows_answer(rows: &Rows, waiting: Arc<Waiting>) -> Answers<FlightData> {
    let schema = with_types(&rows.schema, &rows.type_names);
    let batches = stream::iter(rows.batches.clone().into_iter().map(Ok));
    let batches = batches.inspect(move |_| {
        let _ = &waiting;
    });
    encode(schema, batches)
}
