//! Flight SQL with spoiled bytes: whatever arrives, the server answers with an error of the client's or an answer, lives,
//! and keeps nothing in the end.

use arrow::array::{ArrayRef, RecordBatch};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    ActionEndTransactionRequest, Any, CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementUpdate, ProstMessageExt,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, FlightData, FlightDescriptor, FlightInfo, Ticket,
};
use bytes::Bytes;
use duck_tests::{Client, ServerProcess, ingest_into, messages, soon};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::{Code, Status};

use super::fuzz::{Random, corpus, spoil, spoil_bytes};

/// How many spoiled messages are made of all valid ones together, and how many uploads of each valid one.
const SPOILED: usize = 3000;
const SPOILED_UPLOADS: usize = 150;

fn start() -> ServerProcess {
    ServerProcess::start(&["--session-timeout", "2s", "--transaction-timeout", "2s"])
}

/// Fails where the server does not call the error the client's.
fn check(what: &str, error: &Status) {
    let broken = [Code::Internal, Code::Unknown, Code::Unavailable];
    assert!(!broken.contains(&error.code()), "{what}: {error:?}");
}

/// Valid commands, of all kinds.
fn commands() -> Vec<Bytes> {
    let query = |sql: &str| CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    let update = CommandStatementUpdate {
        query: "INSERT INTO t VALUES (1)".into(),
        transaction_id: Some(vec![7; 16].into()),
    };
    let tables = CommandGetTables {
        catalog: Some("test".into()),
        db_schema_filter_pattern: Some("m%".into()),
        table_name_filter_pattern: None,
        table_types: vec!["BASE TABLE".into()],
        include_schema: true,
    };
    let schemas = CommandGetDbSchemas {
        catalog: None,
        db_schema_filter_pattern: Some("%".into()),
    };
    let prepared = CommandPreparedStatementQuery {
        prepared_statement_handle: vec![1; 16].into(),
    };
    [
        query("SELECT 42 AS a, 'text' AS b").as_any(),
        query("FROM t WHERE i > 3").as_any(),
        query("INSERT INTO t VALUES (1)").as_any(),
        query("BEGIN; SELECT 1; COMMIT").as_any(),
        update.as_any(),
        tables.as_any(),
        schemas.as_any(),
        prepared.as_any(),
        CommandGetCatalogs {}.as_any(),
        CommandGetSqlInfo { info: vec![0, 500] }.as_any(),
        CommandGetXdbcTypeInfo { data_type: Some(4) }.as_any(),
        ingest_into("t", None).as_any(),
    ]
    .map(|any| any.encode_to_vec().into())
    .into()
}

/// Valid bodies of actions.
fn actions() -> Vec<(&'static str, Bytes)> {
    let create = ActionCreatePreparedStatementRequest {
        query: "SELECT ?::INTEGER".into(),
        transaction_id: None,
    };
    let close = ActionClosePreparedStatementRequest {
        prepared_statement_handle: vec![3; 16].into(),
    };
    let end = ActionEndTransactionRequest {
        transaction_id: vec![3; 16].into(),
        action: 1,
    };
    let cancel = CancelFlightInfoRequest::new(FlightInfo::new().with_app_metadata(vec![1; 16]));
    vec![
        (
            "CreatePreparedStatement",
            create.as_any().encode_to_vec().into(),
        ),
        (
            "ClosePreparedStatement",
            close.as_any().encode_to_vec().into(),
        ),
        (
            "BeginTransaction",
            ActionBeginTransactionRequest {}
                .as_any()
                .encode_to_vec()
                .into(),
        ),
        ("EndTransaction", end.as_any().encode_to_vec().into()),
        ("CancelFlightInfo", cancel.encode_to_vec().into()),
        ("CancelQuery", vec![10, 0].into()),
        ("SetSessionOptions", vec![10, 4, 10, 0, 18, 0].into()),
        ("GetSessionOptions", Bytes::new()),
        ("CloseSession", Bytes::new()),
    ]
}

/// Spoils a message: as a whole, or only what its `Any` holds, so that it gets past the first look.
fn spoiled(random: &mut Random, bytes: &Bytes) -> Bytes {
    match Any::decode(bytes.clone()) {
        Ok(mut any) if random.below(4) > 0 => {
            any.value = spoil_bytes(random, &any.value);
            any.encode_to_vec().into()
        }
        _ => spoil_bytes(random, bytes),
    }
}

/// Fetches what a `FlightInfo` offers, its tickets spoiled or not, then cancels it.
async fn fetch(client: &mut Client, random: &mut Random, info: FlightInfo) {
    for endpoint in &info.endpoint {
        let mut ticket = endpoint.ticket.clone().unwrap_or_default();
        if random.below(2) == 0 {
            ticket.ticket = spoiled(random, &ticket.ticket);
        }
        get(client, ticket).await;
    }
    let body = CancelFlightInfoRequest::new(info).encode_to_vec();
    act(client, Action::new("CancelFlightInfo", body)).await;
}

async fn get(client: &mut Client, ticket: Ticket) {
    let what = format!("DoGet {ticket:?}");
    let rows = async {
        let rows = client.raw().do_get(ticket).await?.into_inner();
        // What was spoiled may ask for very much.
        rows.take(3).try_collect::<Vec<_>>().await
    };
    if let Err(error) = soon(&what, rows).await {
        check(&what, &error);
    }
}

async fn act(client: &mut Client, action: Action) -> Vec<arrow_flight::Result> {
    let what = format!("{action:?}");
    let answers = async {
        let answers = client.raw().do_action(action).await?.into_inner();
        answers.try_collect::<Vec<_>>().await
    };
    match soon(&what, answers).await {
        Ok(answers) => answers,
        Err(error) => {
            check(&what, &error);
            Vec::new()
        }
    }
}

async fn put(client: &mut Client, messages: Vec<FlightData>) -> bool {
    let answers = async {
        let answers = client.raw().do_put(futures::stream::iter(messages)).await?;
        answers.into_inner().try_collect::<Vec<_>>().await
    };
    match soon("an answer to an upload", answers).await {
        Ok(_) => true,
        Err(error) => {
            check("DoPut", &error);
            false
        }
    }
}

async fn send(client: &mut Client, random: &mut Random, command: Bytes) {
    let descriptor = FlightDescriptor::new_cmd(command.clone());
    let info = match random.below(5) {
        0 => client
            .raw()
            .get_flight_info(descriptor)
            .await
            .map(|info| info.into_inner()),
        1 => {
            let poll = client.raw().poll_flight_info(descriptor).await;
            poll.map(|poll| poll.into_inner().info.unwrap_or_default())
        }
        2 => {
            let schema = client.raw().get_schema(descriptor).await;
            schema.map(|_| FlightInfo::new())
        }
        3 => {
            put(client, vec![FlightData::new().with_descriptor(descriptor)]).await;
            return;
        }
        _ => {
            get(client, Ticket::new(command)).await;
            return;
        }
    };
    match info {
        Ok(info) => fetch(client, random, info).await,
        Err(error) => check("a command", &error),
    }
}

async fn at_rest(server: &mut ServerProcess) {
    let client = server.client().await;
    client.until_nothing_is_kept().await;
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    assert!(server.is_alive());
    let said = server.stderr();
    let engine = said
        .lines()
        .find(|line| line.contains("panicked") && !line.contains("tokio-rt-worker"));
    assert_eq!(engine, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_commands_tickets_and_actions_are_answered_and_leave_nothing() {
    let mut server = start();
    let mut client = server.client().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let (commands, actions) = (commands(), actions());
    let mut random = Random(4);
    for round in 0..SPOILED {
        if round % 3 == 0 {
            let (name, body) = &actions[random.below(actions.len())];
            let body = spoiled(&mut random, body);
            act(&mut client, Action::new(*name, body)).await;
        } else {
            let command = &commands[random.below(commands.len())];
            let command = spoiled(&mut random, command);
            send(&mut client, &mut random, command).await;
        }
    }
    // What was begun on this connection goes with it.
    act(&mut client, Action::new("CloseSession", "")).await;
    at_rest(&mut server).await;
    server.stop();
}

/// Prepares a statement that takes the values; answers with its handle.
async fn prepare(client: &mut Client, columns: usize) -> Bytes {
    let values: Vec<_> = (1..=columns).map(|n| format!("${n}")).collect();
    let request = ActionCreatePreparedStatementRequest {
        query: format!("SELECT {}", values.join(", ")),
        transaction_id: None,
    };
    let body = request.as_any().encode_to_vec();
    let answers = act(client, Action::new("CreatePreparedStatement", body)).await;
    let any = Any::decode(&*answers[0].body).unwrap();
    let result: ActionCreatePreparedStatementResult = any.unpack().unwrap().unwrap();
    result.prepared_statement_handle
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_parameters_are_refused_or_bound_and_the_server_lives() {
    let mut server = start();
    let mut random = Random(5);
    for (name, columns) in corpus() {
        let mut client = server.client().await;
        let handle = prepare(&mut client, columns.len()).await;
        let columns = columns
            .into_iter()
            .map(|(name, column): (_, ArrayRef)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let update = CommandPreparedStatementUpdate {
            prepared_statement_handle: handle.clone(),
        };
        let descriptor = FlightDescriptor::new_cmd(update.as_any().encode_to_vec());
        let valid = messages(descriptor, &batch.schema(), &[batch.slice(0, 20)], None);
        assert!(put(&mut client, valid.clone()).await, "{name}");
        for _ in 0..SPOILED_UPLOADS {
            let mut messages = valid.clone();
            spoil(&mut random, &mut messages);
            put(&mut client, messages).await;
        }
        let close = ActionClosePreparedStatementRequest {
            prepared_statement_handle: handle,
        };
        let body = close.as_any().encode_to_vec();
        act(&mut client, Action::new("ClosePreparedStatement", body)).await;
    }
    at_rest(&mut server).await;
    server.stop();
}
