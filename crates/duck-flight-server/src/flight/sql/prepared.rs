//! Prepared statements: SQL, what is known of it, and the values its client bound last.
//!
//! No plan is kept with it: DuckDB plans with a table's statistics, and a plan that is older than a commit gives wrong
//! results.

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    CommandPreparedStatementQuery, DoPutPreparedStatementResult,
};
use arrow_flight::{FlightDescriptor, FlightInfo, IpcMessage, SchemaAsIpc};
use arrow_ipc::writer::IpcWriteOptions;
use bytes::Bytes;
use duck_flight_protocol::PreparedStatementResult;

use super::statement::{info, run_now, schema_of};
use super::ticket::StatementTicket;
use crate::engine::{Description, HeldBytes, Parameters, Place, Rows, Sql};
use crate::error::{Error, Result};
use crate::flight::get::{encoding, sql_text};
use crate::flight::upload::Upload;
use crate::session::{Caller, Execution, PreparedStatement, Sessions};

/// How many bytes of parameters one execution may have.
const MAX_PARAMETER_BYTES: usize = 64 << 20;

/// Prepares a statement. Nothing runs.
pub(super) async fn create(
    sessions: &Sessions,
    caller: &Caller,
    request: ActionCreatePreparedStatementRequest,
) -> Result<PreparedStatementResult> {
    let sql = sql_text(request.query.as_bytes(), "statement")?;
    let transaction = request.transaction_id.as_deref();
    let place = sessions.place(caller, transaction).await?;
    let description = match sessions.engine().describe(&place, sql.clone()).await {
        // What it answers is known once it has run.
        Err(Error::UnknownSchema(_)) => Description::unknown(),
        description => description?,
    };
    let schema = schema_of(&description);
    let (parameters, is_update) = (description.parameters.clone(), !description.has_rows);
    let handle = sessions.prepare(caller, transaction, sql, description)?;
    Ok(PreparedStatementResult {
        prepared_statement_handle: handle.to_bytes().into(),
        dataset_schema: ipc(&schema)?,
        parameter_schema: ipc(&parameters)?,
        is_update: Some(is_update),
    })
}

/// Forgets a statement.
pub(super) fn close(
    sessions: &Sessions,
    request: &ActionClosePreparedStatementRequest,
) -> Result<()> {
    sessions.unprepare(&request.prepared_statement_handle)
}

/// Binds values: a row for each time that the statement is to run.
pub(super) async fn bind(
    sessions: &Sessions,
    command: CommandPreparedStatementQuery,
    upload: Upload,
) -> Result<DoPutPreparedStatementResult> {
    let handle = command.prepared_statement_handle;
    sessions.unbind(&handle)?;
    let values = values(sessions, upload).await?;
    sessions.bind(&handle, values)?;
    Ok(DoPutPreparedStatementResult {
        prepared_statement_handle: Some(handle),
    })
}

/// Where and how to get the result of a prepared statement.
pub(super) async fn flight_info(
    sessions: &Sessions,
    caller: &Caller,
    command: &CommandPreparedStatementQuery,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let handle = &command.prepared_statement_handle;
    let Execution {
        statement,
        transaction,
        place,
    } = sessions.prepared(caller, handle).await?;
    let sql = sql_of(&statement);
    if runs_never(&statement, &sql.parameters)? {
        return nothing(sessions, &statement, descriptor);
    }
    if !statement.description.is_query {
        return run_now(sessions, &place, sql, descriptor).await;
    }
    let schema = current_schema(sessions, &statement, &place).await?;
    let ticket = if sql.parameters.are_sent() {
        StatementTicket::waiting(sessions.keep_query(sql, transaction)?)
    } else {
        StatementTicket::query(sql.text, transaction.as_deref())
    };
    info(descriptor, schema.as_deref(), &ticket, -1)
}

/// The schema of a prepared statement's result.
pub(super) async fn schema(
    sessions: &Sessions,
    caller: &Caller,
    command: &CommandPreparedStatementQuery,
) -> Result<SchemaRef> {
    let handle = &command.prepared_statement_handle;
    let Execution {
        statement, place, ..
    } = sessions.prepared(caller, handle).await?;
    let schema = current_schema(sessions, &statement, &place).await?;
    Ok(schema.unwrap_or_else(|| schema_of(&statement.description)))
}

/// Runs a prepared statement for its effect, once for each row of values; answers with the rows it changed.
pub(super) async fn update(
    sessions: &Sessions,
    caller: &Caller,
    handle: &[u8],
    upload: Upload,
) -> Result<u64> {
    let Execution {
        statement, place, ..
    } = sessions.prepared(caller, handle).await?;
    let mut sql = sql_of(&statement);
    if statement.description.parameters.fields().is_empty() {
        // Nothing is to come, and some clients end their stream only once they have the answer.
        return sessions.engine().execute(&place, sql).await;
    }
    let (parameters, _held) = values(sessions, upload).await?;
    if parameters.are_sent() {
        sql.parameters = parameters;
    }
    if runs_never(&statement, &sql.parameters)? {
        return Ok(0);
    }
    sessions.engine().execute(&place, sql).await
}

/// The values that a client sends, and the memory they take.
async fn values(sessions: &Sessions, upload: Upload) -> Result<(Parameters, HeldBytes)> {
    let mut held = sessions.hold(0)?;
    let meanwhile = sessions.hold(0)?;
    let sent = upload.all_rows(MAX_PARAMETER_BYTES, &mut held, meanwhile);
    let sent = sent.await?;
    let parameters = sent.map_or_else(Parameters::default, |(schema, rows)| {
        Parameters::new(schema, rows)
    });
    Ok((parameters, held))
}

/// Whether the statement is to run for each of no rows.
pub(super) fn runs_never(statement: &PreparedStatement, parameters: &Parameters) -> Result<bool> {
    if !parameters.are_sent() || parameters.rows() > 0 {
        return Ok(false);
    }
    let wanted = statement.description.parameters.fields().len();
    parameters.check_columns(wanted)?;
    Ok(true)
}

/// The result of a statement that runs for no row of values: its columns, and no rows.
pub(super) fn nothing(
    sessions: &Sessions,
    statement: &PreparedStatement,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let described = &statement.description;
    let schema = schema_of(described);
    let ticket = if described.has_rows {
        StatementTicket::waiting(sessions.keep(Rows {
            schema: described.schema.clone(),
            type_names: described.type_names.clone(),
            batches: Vec::new(),
            held: sessions.hold(0)?,
        }))
    } else {
        StatementTicket::nothing()
    };
    info(descriptor, Some(&schema), &ticket, 0)
}

/// The statement with the values that were bound last.
pub(super) fn sql_of(statement: &PreparedStatement) -> Sql {
    Sql::new(statement.sql.clone(), statement.parameters())
}

/// The schema as it is now. `None` where the values of parameters decide it.
async fn current_schema(
    sessions: &Sessions,
    statement: &PreparedStatement,
    place: &Place,
) -> Result<Option<SchemaRef>> {
    let engine = sessions.engine();
    let described = if engine.is_current(&statement.description, place) {
        statement.description.clone()
    } else {
        engine.describe(place, statement.sql.clone()).await?
    };
    let fields = described.schema.fields();
    let is_open = fields
        .iter()
        .any(|field| *field.data_type() == DataType::Null);
    let has_parameters = !described.parameters.fields().is_empty();
    Ok((!(is_open && has_parameters)).then(|| schema_of(&described)))
}

/// A schema as an IPC message; nothing at all where it has no columns.
fn ipc(schema: &Schema) -> Result<Bytes> {
    if schema.fields().is_empty() {
        return Ok(Bytes::new());
    }
    let message = IpcMessage::try_from(SchemaAsIpc::new(schema, &IpcWriteOptions::default()));
    Ok(message.map_err(encoding)?.0)
}
