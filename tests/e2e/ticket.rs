//! Tickets and what waits behind them: cancelling reaches every run, and what nobody fetches stays bounded.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int8Array, ListArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Decimal128Type, Field};
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandPreparedStatementQuery, ProstMessageExt,
};
use arrow_flight::{Action, CancelStatus, FlightDescriptor};
use bytes::Bytes;
use duck_tests::{
    Client, ENDLESS_ROWS, ServerProcess, TestServer, assert_refused, messages, soon, start, status,
};
use futures::future::select_all;
use futures::{FutureExt, StreamExt, TryStreamExt};
use prost::Message;
use tonic::Code;

use super::statement::{cancel, poll, query};

/// How long an answer is waited for that may not come.
const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_ticket_that_was_fetched_twice_ends_both() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    let info = sql.info(ENDLESS_ROWS, None).await.unwrap();
    let mut runs = Vec::new();
    for _ in 0..3 {
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        // On a connection of its own: what is not read of others may fill the window that a connection's streams share.
        let mut reader = server.client().await.sql();
        let mut rows = reader.raw().do_get(ticket).await.unwrap();
        assert!(rows.next().await.unwrap().is_ok());
        runs.push(rows);
    }
    assert_eq!(client.kept("running").await, 3);
    // One that has gone leaves the others within reach.
    drop(runs.pop());
    client.until_kept("running", 2).await;
    assert_eq!(cancel(&client, info).await, CancelStatus::Cancelled);
    for run in runs {
        let end = soon("the end", run.try_collect::<Vec<_>>()).await;
        assert_refused(end.map_err(status), Code::Cancelled, &["cancelled"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_query_is_cancelled_also_when_its_first_rows_are_there_already() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let late_and_endless = "SELECT r.range FROM range(100000000000) r, \
        (SELECT max(md5(range::VARCHAR)) AS h FROM range(8000000)) m WHERE h <> ''";
    let polled = poll(&client, query(late_and_endless)).await;
    assert!(polled.flight_descriptor.is_some(), "it takes longer");
    client.until_kept("results", 1).await;
    let answer = cancel(&client, polled.info.unwrap()).await;
    assert_eq!(answer, CancelStatus::Cancelled);
    // The poll may be about to say where its rows are; it drops them then.
    client.until_kept("results", 0).await;
    assert_eq!(
        soon("a free connection", client.rows("SELECT 1")).await,
        ["1"]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_values_bound_to_many_prepared_statements_have_a_limit_together() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (n BIGINT)").await;
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(["x".repeat(50_000_000)]));
    let values = RecordBatch::try_from_iter([("s", text)]).unwrap();
    let mut prepared = Vec::new();
    let refused = loop {
        assert!(prepared.len() < 10, "500 MB are kept");
        let sql = "INSERT INTO t VALUES (length(?::VARCHAR))".to_owned();
        let mut statement = client.sql().raw().prepare(sql, None).await.unwrap();
        statement.set_parameters(values.clone()).unwrap();
        let info = statement.execute().await.map_err(status);
        prepared.push(statement);
        if let Err(error) = info {
            break error;
        }
    };
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &["limit"]);
    assert!(prepared.len() > 2);
    for statement in prepared {
        statement.close().await.ok();
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_prepared_statements_counts_as_memory_that_is_kept() {
    let (server, client) = start().await;
    let name = "n".repeat(4 << 20);
    let wide = format!("CREATE TABLE t (\"{name}\" BIGINT)");
    client.execute(&wide).await;
    let mut sql = client.sql();
    let mut prepared = Vec::new();
    let refused = loop {
        assert!(prepared.len() < 64, "names of 256 MB are kept");
        match sql.raw().prepare("FROM t".to_owned(), None).await {
            Ok(statement) => prepared.push(statement),
            Err(error) => break status(error),
        }
    };
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &["limit"]);
    for statement in prepared {
        statement.close().await.unwrap();
    }
    sql.raw().prepare("FROM t".to_owned(), None).await.unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_there_is_no_room_for_does_not_happen() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    // What does more than read waits until it is fetched.
    let answers =
        |megabytes| format!("INSERT INTO t FROM range({megabytes}) RETURNING repeat('x', 1000000)");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(client.sql().info(&answers(40), None).await.unwrap());
    }
    let rows = client.count("t").await;
    let refused = loop {
        match client.sql().info(&answers(40), None).await {
            Ok(info) => waiting.push(info),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10, "400 MB are kept");
    };
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &["unread results"]);
    let kept = u64::try_from(waiting.len()).unwrap();
    assert_eq!((rows, client.count("t").await), (160, 40 * kept));
    for info in &waiting {
        assert_eq!(client.sql().fetch(info).await.unwrap().len(), 40);
    }
    // Once they are fetched there is room again.
    client.sql().info(&answers(40), None).await.unwrap();
    server.shutdown().await;
}

/// Prepares a statement; answers with its handle.
pub(super) async fn prepare(client: &Client, sql: &str) -> Bytes {
    let request = ActionCreatePreparedStatementRequest {
        query: sql.into(),
        transaction_id: None,
    };
    let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
    let answers = client.flight().do_action(action).await.unwrap();
    let answers: Vec<_> = answers.try_collect().await.unwrap();
    let result = Any::decode(&*answers[0]).unwrap();
    let result: ActionCreatePreparedStatementResult = result.unpack().unwrap().unwrap();
    result.prepared_statement_handle
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_still_being_sent_count_too() {
    let (server, client) = start().await;
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(["x".repeat(30_000_000)]));
    let values = RecordBatch::try_from_iter([("s", text)]).unwrap();
    let mut open = Vec::new();
    let refused = soon("the limit", async {
        loop {
            let command = CommandPreparedStatementQuery {
                prepared_statement_handle: prepare(&client, "SELECT length(?::VARCHAR)").await,
            };
            let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
            let put = client.open_raw_put().await;
            for message in messages(descriptor, values.schema_ref(), from_ref(&values), None) {
                put.send(message).await;
            }
            open.push(put);
            assert!(open.len() < 20, "600 MB are held");
            let ends = open.iter_mut().map(|put| put.result().boxed());
            let ended = tokio::time::timeout(MOMENT, select_all(ends)).await;
            if let Ok((ended, ..)) = ended {
                break ended.expect("an answer");
            }
        }
    });
    let refused = refused.await;
    assert_refused(refused.map(|_| ()), Code::ResourceExhausted, &["limit"]);
    assert!(open.len() > 6, "{}", open.len());
    for put in open {
        put.cancel().await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decimal_with_more_digits_behind_the_point_than_it_has_is_refused() {
    let (server, client) = start().await;
    for (precision, scale, told) in [
        (5, 10, "DECIMAL"),
        (38, 127, "DECIMAL"),
        (0, 0, "decimal of 0 digits"),
        (3, -2, "DECIMAL"),
    ] {
        let data = arrow::array::ArrayData::builder(DataType::Decimal128(precision, scale))
            .len(1)
            .add_buffer(Buffer::from_slice_ref([0_i128]))
            .build();
        let Ok(data) = data else { continue };
        let value: ArrayRef = Arc::new(PrimitiveArray::<Decimal128Type>::from(data));
        let values = RecordBatch::try_from_iter([("d", value)]).unwrap();
        let sql = "SELECT (?)::DOUBLE, (?)::VARCHAR".replace("(?)", "($1)");
        let mut statement = client.sql().raw().prepare(sql, None).await.unwrap();
        statement.set_parameters(values).unwrap();
        let answer = match statement.execute().await {
            Ok(info) => client.sql().fetch(&info).await,
            Err(error) => Err(status(error)),
        };
        assert_refused(answer, Code::InvalidArgument, &[told]);
    }
    server.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_of_very_many_values_does_not_take_all_memory() {
    const ELEMENTS: i32 = 10_000_000;
    let server = ServerProcess::start(&["--memory-limit", "256MiB"]);
    let client = server.client().await;
    let child: ArrayRef = Arc::new(Int8Array::from(vec![1; 10_000_000]));
    let field = Arc::new(Field::new_list_field(DataType::Int8, true));
    let offsets = OffsetBuffer::new(vec![0, ELEMENTS].into());
    let list: ArrayRef = Arc::new(ListArray::new(field, offsets, child, None));
    let values = RecordBatch::try_from_iter([("l", list)]).unwrap();
    let sql = "SELECT len(?::TINYINT[])".to_owned();
    let mut statement = client.sql().raw().prepare(sql, None).await.unwrap();
    statement.set_parameters(values).unwrap();
    let answer = match statement.execute().await {
        Ok(info) => client.sql().fetch(&info).await,
        Err(error) => Err(status(error)),
    };
    assert!(
        server.peak_memory_bytes() < 700 << 20,
        "{} MiB, {answer:?}",
        server.peak_memory_bytes() >> 20
    );
    assert_refused(answer, Code::InvalidArgument, &["values"]);
    server.stop();
}
