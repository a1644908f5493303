//! Flight SQL: told apart from plain Flight here, and each command brought to where it is done.

mod info;
mod ingest;
mod metadata;
mod options;
mod poll;
mod prepared;
mod statement;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionEndTransactionRequest, Any, Command,
    DoPutUpdateResult, EndTransaction, ProstMessageExt,
};
use arrow_flight::{
    CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightData, FlightDescriptor,
    FlightInfo, PollInfo, PutResult,
};
use bytes::Bytes;
use duck_flight_protocol::{
    ACTION_CLOSE_SESSION, ACTION_GET_SESSION_OPTIONS, ACTION_SET_SESSION_OPTIONS,
    SetSessionOptionsRequest,
};
use futures::{StreamExt, stream};
use prost::Message;

use super::Answers;
use super::put::result;
use super::upload::Upload;
use super::visit::Visit;
use crate::error::{Error, Result};
use crate::session::{Caller, Handle, Handles, Sessions};
use poll::Poll;

const TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// What the names of the commands begin with that ask about the catalog or the server, and how large one may be: it may
/// take a multiple of that to read and to answer.
const METADATA_PREFIX: &str = "CommandGet";
const MAX_METADATA_BYTES: usize = 64 << 10;

/// How many statements may be polled for at the same time, and how long one goes on that nobody polls for.
const MAX_POLLS: usize = 1000;
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

/// The actions of Flight SQL and of Flight's sessions, with what they do.
pub(super) const ACTIONS: &[(&str, &str)] = &[
    (
        "CreatePreparedStatement",
        "Prepare a statement: ActionCreatePreparedStatementRequest.",
    ),
    (
        "ClosePreparedStatement",
        "Forget a prepared statement: ActionClosePreparedStatementRequest; no result.",
    ),
    (
        "BeginTransaction",
        "Begin a transaction: ActionBeginTransactionRequest.",
    ),
    (
        "EndTransaction",
        "Commit or roll back a transaction: ActionEndTransactionRequest; no result.",
    ),
    (
        "CancelFlightInfo",
        "Cancel the statement of a FlightInfo: CancelFlightInfoRequest.",
    ),
    (
        "CancelQuery",
        "Cancel the statement of a FlightInfo: ActionCancelQueryRequest.",
    ),
    (
        ACTION_SET_SESSION_OPTIONS,
        "Set options of the session: SetSessionOptionsRequest.",
    ),
    (
        ACTION_GET_SESSION_OPTIONS,
        "Read the options of the session: GetSessionOptionsResult.",
    ),
    (ACTION_CLOSE_SESSION, "End the session: CloseSessionResult."),
];

/// The Flight SQL half of the service.
pub(super) struct FlightSql {
    sessions: Sessions,
    polls: Arc<Handles<Arc<Poll>>>,
}

/// The Flight SQL command in a ticket or descriptor, or `None` where it is plain Flight: what decodes as a protobuf
/// `Any` with a type of Flight SQL's is one.
pub(super) fn command(bytes: &[u8]) -> Result<Option<Command>> {
    let Some(any) = Any::decode(bytes).ok().filter(is_flight_sql) else {
        return Ok(None);
    };
    let name = any.type_url[TYPE_PREFIX.len()..].to_owned();
    let bytes = any.value.len();
    if name.starts_with(METADATA_PREFIX) && bytes > MAX_METADATA_BYTES {
        return Err(Error::Malformed(format!(
            "the {name} has {bytes} bytes, and it may have {MAX_METADATA_BYTES}: ask for less at a time"
        )));
    }
    match Command::try_from(any) {
        Ok(Command::Unknown(_)) => Err(Error::Unimplemented(format!(
            "this server does not know the Flight SQL command {name}"
        ))),
        Ok(command) => Ok(Some(command)),
        Err(error) => Err(Error::Malformed(format!(
            "the {name} is malformed: {error}"
        ))),
    }
}

fn is_flight_sql(any: &Any) -> bool {
    any.type_url.starts_with(TYPE_PREFIX)
}

/// What a command that is not for this call comes to.
fn misplaced(command: &Command, call: &str) -> Error {
    let name = command.type_url().rsplit('.').next().unwrap_or_default();
    match command {
        Command::CommandStatementSubstraitPlan(_) => Error::Unimplemented(
            "Substrait plans are not supported (DuckDB's extension for them is not part of this server): send SQL"
                .into(),
        ),
        _ => Error::Malformed(format!("{name} is not for {call}")),
    }
}

impl FlightSql {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self {
            sessions,
            polls: Arc::new(Handles::new("polled statement", MAX_POLLS, POLL_TIMEOUT)),
        }
    }

    /// What ends statements that nobody polls for any more.
    pub(super) fn sweep(&self) -> impl Fn() + Send + use<> {
        let polls = self.polls.clone();
        move || drop(polls.expire(|_| false))
    }

    pub(super) async fn flight_info(
        &self,
        caller: &Caller,
        command: Command,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo> {
        flight_info(&self.sessions, caller, command, descriptor).await
    }

    pub(super) async fn schema(&self, caller: &Caller, command: &Command) -> Result<SchemaRef> {
        match command {
            Command::CommandStatementQuery(query) => {
                statement::schema(&self.sessions, caller, query).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                prepared::schema(&self.sessions, caller, query).await
            }
            command => metadata::schema(command).ok_or_else(|| misplaced(command, "GetSchema")),
        }
    }

    pub(super) async fn poll(
        &self,
        caller: &Caller,
        command: Command,
        descriptor: FlightDescriptor,
    ) -> Result<PollInfo> {
        poll::poll(&self.sessions, &self.polls, caller, command, descriptor).await
    }

    pub(super) async fn get(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Answers<FlightData>> {
        match command {
            Command::TicketStatementQuery(ticket) => {
                statement::get(&self.sessions, caller, &ticket.statement_handle).await
            }
            command => metadata::get(&self.sessions, caller, command).await,
        }
    }

    pub(super) async fn put(
        &self,
        caller: &Caller,
        command: Command,
        upload: Upload,
    ) -> Result<Answers<PutResult>> {
        let sessions = &self.sessions;
        let rows = match command {
            Command::CommandStatementUpdate(command) => {
                statement::update(sessions, caller, command).await?
            }
            Command::CommandPreparedStatementUpdate(command) => {
                let handle = &command.prepared_statement_handle;
                prepared::update(sessions, caller, handle, upload).await?
            }
            Command::CommandStatementIngest(command) => {
                ingest::ingest(sessions, caller, command, upload).await?
            }
            Command::CommandPreparedStatementQuery(command) => {
                let bound = prepared::bind(sessions, command, upload).await?;
                return Ok(one(result(bound.encode_to_vec())));
            }
            command => return Err(misplaced(&command, "DoPut")),
        };
        let changed = DoPutUpdateResult {
            record_count: i64::try_from(rows).unwrap_or(i64::MAX),
        };
        Ok(one(result(changed.encode_to_vec())))
    }

    /// Runs an action of Flight SQL or of Flight's sessions; `None` where it is another one.
    pub(super) async fn action(
        &self,
        visit: &mut Visit,
        name: &str,
        body: &[u8],
    ) -> Option<Result<Answers<arrow_flight::Result>>> {
        let answer = self.run_action(visit, name, body).await.transpose()?;
        Some(answer.map(|body| {
            let results = body.map(|body| Ok(arrow_flight::Result { body }));
            stream::iter(results).boxed()
        }))
    }

    /// The body of an action's one result. The outer `None` is an action of somebody else's, the inner one no result.
    async fn run_action(
        &self,
        visit: &mut Visit,
        name: &str,
        body: &[u8],
    ) -> Result<Option<Option<Bytes>>> {
        let sessions = &self.sessions;
        let caller = visit.caller.clone();
        let body = match name {
            "CreatePreparedStatement" => {
                let request: ActionCreatePreparedStatementRequest = unpack(name, body)?;
                packed(&prepared::create(sessions, &caller, request).await?)
            }
            "ClosePreparedStatement" => {
                let request: ActionClosePreparedStatementRequest = unpack(name, body)?;
                prepared::close(sessions, &request)?;
                None
            }
            "BeginTransaction" => {
                unpack::<ActionBeginTransactionRequest>(name, body)?;
                let transaction_id = sessions.begin(&caller)?.to_bytes().into();
                packed(&ActionBeginTransactionResult { transaction_id })
            }
            "EndTransaction" => {
                self.end_transaction(&caller, &unpack(name, body)?).await?;
                None
            }
            "CancelFlightInfo" => {
                let request = CancelFlightInfoRequest::decode(body)
                    .map_err(|error| malformed(name, &error))?;
                let info = request.info.unwrap_or_default();
                let status = self.cancel(&info);
                Some(CancelFlightInfoResult::new(status).encode_to_vec().into())
            }
            "CancelQuery" => {
                let request: ActionCancelQueryRequest = unpack(name, body)?;
                let info =
                    FlightInfo::decode(&*request.info).map_err(|error| malformed(name, &error))?;
                let result = self.cancel(&info).into();
                packed(&ActionCancelQueryResult { result })
            }
            ACTION_SET_SESSION_OPTIONS => {
                let request = SetSessionOptionsRequest::decode(body)
                    .map_err(|error| malformed(name, &error))?;
                sessions.check_cookies(&caller)?;
                visit.session(sessions)?;
                let answer = options::set(sessions, &visit.caller, request).await?;
                Some(answer.encode_to_vec().into())
            }
            ACTION_GET_SESSION_OPTIONS => {
                let answer = options::get(sessions, &caller).await?;
                Some(answer.encode_to_vec().into())
            }
            ACTION_CLOSE_SESSION => {
                let answer = options::close(sessions, &caller).await;
                visit.forget();
                Some(answer.encode_to_vec().into())
            }
            "BeginSavepoint" | "EndSavepoint" => {
                return Err(Error::Unimplemented("DuckDB has no savepoints".into()));
            }
            "CreatePreparedSubstraitPlan" => {
                return Err(Error::Unimplemented(
                    "Substrait plans are not supported: prepare SQL".into(),
                ));
            }
            _ => return Ok(None),
        };
        Ok(Some(body))
    }

    async fn end_transaction(
        &self,
        caller: &Caller,
        request: &ActionEndTransactionRequest,
    ) -> Result<()> {
        let commit = match EndTransaction::try_from(request.action) {
            Ok(EndTransaction::Commit) => true,
            Ok(EndTransaction::Rollback) => false,
            _ => {
                return Err(Error::Malformed(
                    "EndTransaction says neither commit nor roll back".into(),
                ));
            }
        };
        let id = &request.transaction_id;
        self.sessions.end(caller, id, commit).await
    }

    /// Cancels the statements of a `FlightInfo`: of its tickets, and one that is polled for. A ticket that was not
    /// fetched yet never will be.
    fn cancel(&self, info: &FlightInfo) -> CancelStatus {
        let polled = Handle::from_bytes(&info.app_metadata).and_then(|id| self.polls.remove(id));
        let has_tickets = cancel_tickets(&self.sessions, info);
        match polled.is_some() || has_tickets {
            true => CancelStatus::Cancelled,
            false => CancelStatus::NotCancellable,
        }
    }
}

/// Cancels the statements of a `FlightInfo`'s tickets; answers with whether there are any.
fn cancel_tickets(sessions: &Sessions, info: &FlightInfo) -> bool {
    let tickets = info.endpoint.iter().filter_map(|endpoint| {
        let ticket = &endpoint.ticket.as_ref()?.ticket;
        let Command::TicketStatementQuery(ticket) = command(ticket).ok()?? else {
            return None;
        };
        let ticket = ticket::StatementTicket::read(&ticket.statement_handle).ok()?;
        ticket.id().ok()
    });
    tickets.map(|id| sessions.cancel(id)).count() > 0
}

async fn flight_info(
    sessions: &Sessions,
    caller: &Caller,
    command: Command,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    match command {
        Command::CommandStatementQuery(query) => {
            statement::flight_info(sessions, caller, &query, descriptor).await
        }
        Command::CommandPreparedStatementQuery(query) => {
            prepared::flight_info(sessions, caller, &query, descriptor).await
        }
        command => metadata::flight_info(&command, descriptor),
    }
}

fn one(result: PutResult) -> Answers<PutResult> {
    stream::once(async { Ok(result) }).boxed()
}

fn packed(message: &impl ProstMessageExt) -> Option<Bytes> {
    Some(message.as_any().encode_to_vec().into())
}

fn unpack<M: ProstMessageExt + Default>(name: &str, body: &[u8]) -> Result<M> {
    let any = Any::decode(body).map_err(|error| malformed(name, &error))?;
    any.unpack::<M>()
        .map_err(|error| malformed(name, &error))?
        .ok_or_else(|| malformed(name, &"its body is another message's"))
}

fn malformed(name: &str, error: &impl std::fmt::Display) -> Error {
    Error::Malformed(format!("the body of `{name}` is malformed: {error}"))
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::CommandStatementQuery;

    use super::*;

    #[test]
    fn flight_sql_is_told_apart_from_sql_text() {
        let query = CommandStatementQuery {
            query: "SELECT 1".into(),
            transaction_id: None,
        };
        let any = query.as_any().encode_to_vec();
        let found = command(&any).unwrap();
        assert!(matches!(found, Some(Command::CommandStatementQuery(found)) if found == query));
        for sql in ["SELECT 1", "", "\n", "from t", "{\"table\":\"t\"}"] {
            assert!(command(sql.as_bytes()).unwrap().is_none(), "{sql}");
        }
    }

    #[test]
    fn an_unknown_command_is_refused_by_its_name() {
        let any = Any {
            type_url: format!("{TYPE_PREFIX}CommandOfTheFuture"),
            value: Bytes::new(),
        };
        let error = command(&any.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains("CommandOfTheFuture"), "{error}");
    }
}
