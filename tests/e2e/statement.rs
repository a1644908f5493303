//! Flight SQL statements: each runs once, can be cancelled, and can be asked how far it is.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, UnionArray,
};
use arrow::datatypes::{DataType, Field, Schema, UnionFields, UnionMode};
use arrow_flight::sql::{Any, CommandStatementQuery, ProstMessageExt};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor,
    FlightInfo, PollInfo,
};
use duck_tests::{
    Client, ENDLESS_COUNT, ENDLESS_ROWS, TestServer, assert_refused, ints, soon, start, status,
};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::Code;

pub(super) async fn cancel(client: &Client, info: FlightInfo) -> CancelStatus {
    let request = CancelFlightInfoRequest::new(info).encode_to_vec();
    let action = Action::new("CancelFlightInfo", request);
    let answers = client.flight().do_action(action).await.unwrap();
    let answers: Vec<_> = answers.try_collect().await.unwrap();
    let result = CancelFlightInfoResult::decode(&*answers[0]).unwrap();
    result.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_anything_runs_when_its_flight_info_is_asked_for_and_only_then() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    let made = sql.info("CREATE TABLE t (i INTEGER)", None).await.unwrap();
    assert_eq!(client.count("t").await, 0);
    let insert = sql
        .info("INSERT INTO t VALUES (1), (2)", None)
        .await
        .unwrap();
    assert_eq!(insert.total_records, 2);
    for info in [&made, &insert, &insert] {
        assert!(
            info.clone()
                .try_decode_schema()
                .unwrap()
                .fields()
                .is_empty()
        );
        assert!(sql.fetch(info).await.unwrap().is_empty());
    }
    assert_eq!(client.count("t").await, 2);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn returned_rows_are_there_before_they_are_fetched_and_are_fetched_once() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let info = sql.info("INSERT INTO t VALUES (1), (2) RETURNING i * 10", None);
    let info = info.await.unwrap();
    assert_eq!(client.count("t").await, 2);
    assert!(info.endpoint[0].expiration_time.is_some());
    assert_eq!(client.kept("results").await, 1);
    assert_eq!(sql.fetch(&info).await.unwrap(), ["10", "20"]);
    assert_eq!(client.kept("results").await, 0);
    assert_refused(sql.fetch(&info).await, Code::NotFound, &["once"]);
    assert_eq!(client.count("t").await, 2);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn returned_rows_are_counted_as_changed_whichever_way_a_statement_goes() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for (statement, changed) in [
        ("INSERT INTO t FROM range(5000) RETURNING i", 5000),
        ("UPDATE t SET i = i + 1 WHERE i < 3 RETURNING i", 3),
        ("DELETE FROM t WHERE i = 4999 RETURNING i", 1),
        ("DELETE FROM t WHERE i = 4999 RETURNING i", 0),
        (
            "WITH c AS (SELECT 7 AS i) INSERT INTO t FROM c RETURNING *",
            1,
        ),
        (
            "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2), (3) RETURNING i",
            3,
        ),
        ("INSERT INTO t VALUES (1), (2) RETURNING i; SELECT 1", 2),
    ] {
        let again = format!("BEGIN; {statement}; ROLLBACK");
        let counted = client.execute(&again).await;
        assert_eq!(counted, changed, "{statement}");
        let counted = sql.update(statement, None).await.unwrap();
        assert_eq!(counted.cast_unsigned(), changed, "{statement}");
    }
    let insert = "INSERT INTO t VALUES (?) RETURNING i".to_owned();
    let mut insert = sql.raw().prepare(insert, None).await.unwrap();
    insert.set_parameters(ints(0..1000)).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 1000);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_stands_wherever_a_query_does() {
    let (server, client) = start().await;
    let mut session = client.session().await;
    client
        .execute("CREATE TABLE t AS SELECT * FROM (VALUES (1, 'x'), (2, 'y'), (3, 'x')) v(a, b)")
        .await;
    session.update("BEGIN", None).await.unwrap();
    let pivot = "PIVOT (SELECT b FROM t) ON b USING count(*)";
    for sql in [
        pivot.to_owned(),
        format!("FROM ({pivot})"),
        format!("SELECT x, y FROM ({pivot})"),
        format!("WITH p AS ({pivot}) FROM p"),
        format!("SELECT 1; FROM ({pivot})"),
    ] {
        assert_eq!(client.rows(&sql).await, ["2|1"], "{sql}");
        assert_eq!(client.sql().rows(&sql, None).await, ["2|1"], "{sql}");
        assert_eq!(session.rows(&sql, None).await, ["2|1"], "{sql}");
    }
    let missing = client
        .try_rows("FROM (PIVOT nowhere ON b USING sum(a))")
        .await;
    assert_refused(missing, Code::NotFound, &["nowhere"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_transaction_is_another_one_each_time() {
    let (server, client) = start().await;
    for function in ["current_transaction_id()", "txid_current()"] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            seen.extend(client.rows(&format!("SELECT {function}")).await);
        }
        assert_eq!(seen.len(), 20, "{function}: {seen:?}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_all_statements_that_run() {
    let server = TestServer::with_max_queries(4).await;
    let client = server.client().await;
    let rows = client.stream(ENDLESS_ROWS).await.unwrap();
    let mut tasks = Vec::new();
    let action = client.clone();
    tasks.push(tokio::spawn(async move {
        action.try_execute(ENDLESS_COUNT).await.err();
    }));
    let mut sql = client.sql();
    tasks.push(tokio::spawn(async move {
        let made = format!("CREATE TABLE t AS {ENDLESS_COUNT}");
        sql.info(&made, None).await.err();
    }));
    let any = Any::pack(&CommandStatementQuery {
        query: ENDLESS_COUNT.into(),
        transaction_id: None,
    });
    let descriptor = FlightDescriptor::new_cmd(any.unwrap().encode_to_vec());
    let polled = poll(&client, descriptor).await.info.unwrap();
    client.until_kept("running", 4).await;
    assert_eq!(cancel(&client, polled).await, CancelStatus::Cancelled);
    for task in tasks {
        task.abort();
    }
    drop(rows);
    client.until_nothing_is_kept().await;
    server.shutdown().await;
}

/// A batch of one column, called `p`.
fn parameter(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("p", column)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unions_are_bound_and_types_that_duckdb_does_not_have_are_refused_by_name() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    client
        .execute("CREATE TABLE u (u UNION(i INTEGER, s VARCHAR))")
        .await;
    let members = || {
        UnionFields::try_new(
            [0, 1],
            [
                Field::new("i", DataType::Int32, true),
                Field::new("s", DataType::Utf8, true),
            ],
        )
        .unwrap()
    };
    let children = |rows: usize| -> Vec<ArrayRef> {
        vec![
            Arc::new(Int32Array::from_iter_values(
                [1, 2, 3].into_iter().take(rows),
            )),
            Arc::new(StringArray::from_iter(
                ["x", "y", "z"].into_iter().map(Some).take(rows),
            )),
        ]
    };
    let sparse = UnionArray::try_new(members(), vec![0, 1, 0].into(), None, children(3)).unwrap();
    let insert = "INSERT INTO u VALUES (?)".to_owned();
    let mut insert = sql.raw().prepare(insert, None).await.unwrap();
    let declared = insert
        .parameter_schema()
        .unwrap()
        .field(0)
        .data_type()
        .clone();
    assert_eq!(declared, DataType::Union(members(), UnionMode::Sparse));
    insert.set_parameters(parameter(Arc::new(sparse))).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 3);
    let found = client.rows("SELECT union_tag(u), u::VARCHAR FROM u").await;
    assert_eq!(found, ["i|1", "s|y", "i|3"]);
    let offsets = Some(vec![0, 0, 1].into());
    let dense = UnionArray::try_new(members(), vec![0, 1, 0].into(), offsets, children(3)).unwrap();
    let empty = StructArray::new_empty_fields(1, None);
    let select = "SELECT ? AS x".to_owned();
    let mut select = sql.raw().prepare(select, None).await.unwrap();
    let refused: [(ArrayRef, &str); 2] = [(Arc::new(dense), "Dense"), (Arc::new(empty), "struct")];
    for (column, word) in refused {
        select.set_parameters(parameter(column)).unwrap();
        let answer = select.execute().await.map_err(status);
        assert_refused(answer, Code::InvalidArgument, &["parameter 1", word]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_a_number_from_a_sequence_runs_once() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    client.execute("CREATE SEQUENCE s").await;
    let info = sql.info("SELECT nextval('s')", None).await.unwrap();
    assert_eq!(sql.fetch(&info).await.unwrap(), ["1"]);
    assert_refused(sql.fetch(&info).await, Code::NotFound, &["once"]);
    assert_eq!(sql.rows("SELECT nextval('s')", None).await, ["2"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_result_beforehand_is_what_comes() {
    let server = TestServer::start().await;
    let mut sql = server.client().await.sql();
    let query = "SELECT union_value(a := 1)::UNION(a INTEGER, b VARCHAR) AS u, [u] AS l, {'x': u} AS s, 1::UHUGEINT AS h,
                     'a'::ENUM ('a') AS e, MAP {1: 2} AS m, NULL AS n, '1'::BIT AS b";
    let info = sql.info(query, None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = sql.raw().do_get(ticket).await.unwrap();
    while rows.try_next().await.unwrap().is_some() {}
    let came = rows.schema().unwrap();
    assert_eq!(info.try_decode_schema().unwrap(), **came);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_once_and_answers_with_its_last_result() {
    let server = TestServer::start().await;
    let mut sql = server.client().await.sql();
    let script = "CREATE TABLE t AS SELECT 1 AS i; INSERT INTO t VALUES (2); FROM t ORDER BY i";
    assert_eq!(sql.rows(script, None).await, ["1", "2"]);
    assert_refused(
        sql.try_rows("SELECT 1; SELEC", None).await,
        Code::InvalidArgument,
        &["SELEC"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_reads_waits_in_its_ticket_for_as_long_as_one_likes() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    let mut tickets = Vec::new();
    for number in 0..2000 {
        tickets.push(sql.info(&format!("SELECT {number}"), None).await.unwrap());
    }
    assert_eq!(client.kept("results").await, 0);
    for (number, info) in tickets.iter().enumerate() {
        assert_eq!(sql.fetch(info).await.unwrap(), [number.to_string()]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_runs_once_for_each_row_of_values() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    client
        .execute("CREATE TABLE t (i BIGINT PRIMARY KEY)")
        .await;
    let mut insert = sql
        .raw()
        .prepare("INSERT INTO t VALUES (?)".into(), None)
        .await
        .unwrap();
    assert!(insert.dataset_schema().unwrap().fields().is_empty());
    assert_eq!(
        insert.parameter_schema().unwrap().field(0).data_type(),
        &DataType::Int64
    );
    insert.set_parameters(ints(1..=1000)).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 1000);
    // All or nothing: the last row breaks the key.
    insert.set_parameters(ints([1001, 1002, 1])).unwrap();
    let again = insert.execute_update().await.map_err(status);
    assert_refused(again, Code::InvalidArgument, &["Duplicate key"]);
    assert_eq!(client.count("t").await, 1000);
    let mut select = sql
        .raw()
        .prepare("SELECT ? + 1 AS j".into(), None)
        .await
        .unwrap();
    select.set_parameters(ints([1, 2, 3])).unwrap();
    for _ in 0..2 {
        let info = select.execute().await.unwrap();
        assert_eq!(sql.fetch(&info).await.unwrap(), ["2", "3", "4"]);
    }
    let wrong = Schema::new(vec![
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Int64, false),
    ]);
    let column = || std::sync::Arc::new(Int64Array::from(vec![1]));
    let wrong = RecordBatch::try_new(wrong.into(), vec![column(), column()]).unwrap();
    select.set_parameters(wrong).unwrap();
    let info = select.execute().await.unwrap();
    assert_refused(
        sql.fetch(&info).await,
        Code::InvalidArgument,
        &["1 parameters", "given 2"],
    );
    select.close().await.unwrap();
    insert.close().await.unwrap();
    assert_eq!(client.kept("prepared_statements").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_of_many_clients_do_not_mix_and_leave_nothing() {
    let (server, client) = start().await;
    let tasks = (0..16_i64).map(|number| {
        let mut sql = client.sql();
        tokio::spawn(async move {
            for round in 0..20 {
                let query = format!("SELECT ? * 100 + {number}");
                let mut statement = sql.raw().prepare(query, None).await.unwrap();
                statement.set_parameters(ints([round])).unwrap();
                let info = statement.execute().await.unwrap();
                let expected = (round * 100 + number).to_string();
                assert_eq!(sql.fetch(&info).await.unwrap(), [expected]);
                statement.close().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for what in [
        "prepared_statements",
        "results",
        "running",
        "transactions",
        "sessions",
    ] {
        assert_eq!(client.kept(what).await, 0, "{what}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_flight_info_ends_its_query_and_no_other() {
    let server = TestServer::with_max_queries(2).await;
    let client = server.client().await;
    let mut sql = client.sql();
    // One that is still looking for its first row, and one whose rows nobody reads.
    let counting = sql.info(ENDLESS_COUNT, None).await.unwrap();
    let fetching = tokio::spawn({
        let (mut sql, info) = (sql.clone(), counting.clone());
        async move { sql.fetch(&info).await }
    });
    let streaming = sql.info(ENDLESS_ROWS, None).await.unwrap();
    let ticket = streaming.endpoint[0].ticket.clone().unwrap();
    let mut rows = sql.raw().do_get(ticket).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    client.until_kept("running", 2).await;
    assert_eq!(cancel(&client, counting).await, CancelStatus::Cancelled);
    let ended = soon("the end of the query", fetching).await.unwrap();
    assert_refused(ended, Code::Cancelled, &["cancelled"]);
    assert!(rows.next().await.unwrap().is_ok());
    assert_eq!(cancel(&client, streaming).await, CancelStatus::Cancelled);
    let end = soon("the end of the rows", async {
        loop {
            match rows.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    let end = end.await.expect("an error").map_err(status);
    assert_refused(end, Code::Cancelled, &["cancelled"]);
    assert_eq!(client.kept("running").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_cancelled_before_it_is_fetched_never_runs() {
    let (server, client) = start().await;
    let mut sql = client.sql();
    let info = sql.info("SELECT 1", None).await.unwrap();
    assert_eq!(cancel(&client, info.clone()).await, CancelStatus::Cancelled);
    assert_refused(sql.fetch(&info).await, Code::Cancelled, &["cancelled"]);
    server.shutdown().await;
}

pub(super) async fn poll(client: &Client, descriptor: FlightDescriptor) -> PollInfo {
    let mut client = client.clone();
    let answer = client.raw().poll_flight_info(descriptor).await;
    answer.unwrap().into_inner()
}

pub(super) fn query(sql: &str) -> FlightDescriptor {
    let query = CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(query.as_any().encode_to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_query_tells_how_far_it_is_until_its_rows_are_there() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(10000000)")
        .await;
    // Long enough for some polls: every row is hashed and sorted.
    let slow = "SELECT count(*) FROM (SELECT DISTINCT md5(i::VARCHAR) AS h FROM t ORDER BY h DESC)";
    let mut polled = poll(&client, query(slow)).await;
    let mut told = Vec::new();
    while let Some(next) = polled.flight_descriptor.clone() {
        told.extend(polled.progress);
        let info = polled.info.expect("what is known already");
        assert!(info.endpoint.is_empty());
        polled = poll(&client, next).await;
    }
    assert!(told.iter().any(|progress| *progress > 0.0), "{told:?}");
    assert!(
        told.is_sorted() && told.iter().all(|progress| *progress <= 1.0),
        "{told:?}"
    );
    assert_eq!(polled.progress, Some(1.0));
    let info = polled.info.expect("where the rows are");
    assert_eq!(client.sql().fetch(&info).await.unwrap(), ["10000000"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_query_can_be_cancelled_and_its_error_is_told() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let polled = poll(&client, query(ENDLESS_COUNT)).await;
    assert!(polled.flight_descriptor.is_some());
    let status = cancel(&client, polled.info.unwrap()).await;
    assert_eq!(status, CancelStatus::Cancelled);
    assert_eq!(
        soon("a free connection", client.rows("SELECT 1")).await,
        ["1"]
    );
    let bad = client
        .clone()
        .raw()
        .poll_flight_info(query("SELECT no_such"))
        .await;
    assert_refused(bad, Code::InvalidArgument, &["no_such"]);
    let gone = Any {
        type_url: "type.googleapis.com/arrow.flight.protocol.sql.TicketStatementQuery".into(),
        value: polled.flight_descriptor.unwrap().cmd.slice(..0),
    };
    let gone = FlightDescriptor::new_cmd(gone.encode_to_vec());
    let gone = client.clone().raw().poll_flight_info(gone).await;
    assert_refused(gone, Code::NotFound, &["polled statement"]);
    server.shutdown().await;
}
