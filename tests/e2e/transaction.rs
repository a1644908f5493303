//! Transactions at their edges: what comes too early, too late, or is given up never runs outside of its transaction.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandPreparedStatementUpdate, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{Action, FlightDescriptor};
use bytes::Bytes;
use duck_flight_server::Expiry;
use duck_tests::{
    Answer, OpenPut, ServerProcess, Setup, SqlClient, TestServer, assert_refused, ingest_into,
    ints, messages, soon,
};
use prost::Message;
use tonic::Code;

/// Prepares a statement; answers with its handle.
pub(super) async fn prepare(
    sql: &mut SqlClient,
    query: &str,
    transaction: Option<&Bytes>,
) -> Bytes {
    let request = ActionCreatePreparedStatementRequest {
        query: query.into(),
        transaction_id: transaction.cloned(),
    };
    let request = request.as_any().encode_to_vec();
    let action = tonic::Request::new(Action::new("CreatePreparedStatement", request));
    let mut prepared = sql.raw().do_action(action).await.unwrap();
    let prepared = prepared.message().await.unwrap().unwrap();
    let prepared: ActionCreatePreparedStatementResult = Any::decode(&*prepared.body)
        .unwrap()
        .unpack()
        .unwrap()
        .unwrap();
    prepared.prepared_statement_handle
}

/// An update by a prepared statement, of whose rows of values only these have been sent.
pub(super) async fn begin_update(
    sql: &SqlClient,
    prepared_statement_handle: Bytes,
    schema: &SchemaRef,
    values: &[RecordBatch],
) -> OpenPut {
    let command = CommandPreparedStatementUpdate {
        prepared_statement_handle,
    };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let put = sql.open_raw_put().await;
    for message in messages(descriptor, schema, values, None) {
        put.send(message).await;
    }
    put
}

/// Runs a prepared statement for one row of values.
async fn run_for(sql: &SqlClient, handle: &Bytes, value: i64) -> Answer<()> {
    let values = ints([value]);
    let mut put = begin_update(sql, handle.clone(), &values.schema(), &[values]).await;
    put.end().await;
    let answer = soon("an answer", put.result()).await.unwrap();
    answer.map(|_| ())
}

const INSERT: &str = "INSERT INTO t VALUES (?)";

/// An update of a prepared INSERT whose values are still on their way: the server has looked for the statement, and reads them.
async fn begin_insert(sql: &mut SqlClient, transaction: Option<&Bytes>) -> OpenPut {
    let handle = prepare(sql, INSERT, transaction).await;
    let update = begin_update(sql, handle, &ints([]).schema(), &[]).await;
    update.fill(&ints(0..100_000)).await;
    update
}

/// Occupies a session's connection: an ingest of which not all has been sent. Answers with the rows that have.
pub(super) async fn occupy(session: &SqlClient) -> (OpenPut, u64) {
    const ROWS: u64 = 100_000;
    let put = session.open_raw_put().await;
    let command = ingest_into("t", None).as_any().encode_to_vec();
    let descriptor = FlightDescriptor::new_cmd(command);
    let batch = ints(0..ROWS.cast_signed());
    for message in messages(descriptor, &batch.schema(), &[], None) {
        put.send(message).await;
    }
    // It has the connection before its rows are read.
    let batches = put.fill(&batch).await;
    (put, batches as u64 * ROWS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_once_its_transaction_has_ended_does_not_run() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for mut sql in [client.sql(), client.session().await] {
        let transaction = sql.begin().await.unwrap();
        sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
            .await
            .unwrap();
        let mut late = begin_insert(&mut sql, Some(&transaction)).await;
        sql.roll_back(&transaction).await.unwrap();
        late.send_batch(&ints([2])).await;
        late.end().await;
        let answer = soon("an answer", late.result()).await.unwrap();
        assert_refused(answer, Code::NotFound, &["transaction"]);
        assert_eq!(client.count("t").await, 0);
    }
    server.shutdown().await;
}

/// Drivers keep a statement when they end its transaction, and run it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_goes_on_in_the_next_transaction_or_in_none() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for mut sql in [client.sql(), client.session().await] {
        client.execute("DELETE FROM t").await;
        let first = sql.begin().await.unwrap();
        let handle = prepare(&mut sql, INSERT, Some(&first)).await;
        run_for(&sql, &handle, 1).await.unwrap();
        sql.commit(&first).await.unwrap();
        assert_eq!(client.rows("FROM t").await, ["1"]);
        let second = sql.begin().await.unwrap();
        run_for(&sql, &handle, 2).await.unwrap();
        assert_eq!(client.rows("FROM t").await, ["1"]);
        sql.roll_back(&second).await.unwrap();
        assert_eq!(client.rows("FROM t").await, ["1"]);
        run_for(&sql, &handle, 3).await.unwrap();
        assert_eq!(client.rows("FROM t ORDER BY i").await, ["1", "3"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_does_not_run_where_its_next_transaction_is_not_certain() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut sql = client.sql();
    let first = sql.begin().await.unwrap();
    let handle = prepare(&mut sql, INSERT, Some(&first)).await;
    sql.commit(&first).await.unwrap();
    let (one, other) = (sql.begin().await.unwrap(), sql.begin().await.unwrap());
    let words = ["prepared statement", "anew"];
    let ambiguous = run_for(&sql, &handle, 1).await;
    assert_refused(ambiguous, Code::NotFound, &words);
    sql.roll_back(&one).await.unwrap();
    // Over another connection it may be of a client that has lost this one, and its transaction's.
    let stranger = server.client().await.sql();
    let elsewhere = run_for(&stranger, &handle, 2).await;
    assert_refused(elsewhere, Code::NotFound, &words);
    run_for(&sql, &handle, 3).await.unwrap();
    assert_eq!(client.count("t").await, 0);
    sql.commit(&other).await.unwrap();
    assert_eq!(client.rows("FROM t").await, ["3"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_a_transaction_that_has_expired_is_not_committed_by_itself() {
    let setup = Setup {
        expiry: Expiry {
            session: Duration::from_secs(3600),
            // Long enough for all that is done in one before it is committed.
            transaction: Duration::from_secs(3),
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for mut sql in [client.sql(), client.session().await] {
        let transaction = sql.begin().await.unwrap();
        let handle = prepare(&mut sql, INSERT, Some(&transaction)).await;
        run_for(&sql, &handle, 1).await.unwrap();
        client.until_kept("transactions", 0).await;
        let ingest = sql.ingest("t", None, vec![ints([2])]).await;
        assert_refused(ingest, Code::FailedPrecondition, &["expired"]);
        let run = run_for(&sql, &handle, 3).await;
        assert_refused(run, Code::FailedPrecondition, &["expired"]);
        assert_eq!(client.count("t").await, 0);
        sql.roll_back(&transaction).await.unwrap();
        let next = sql.begin().await.unwrap();
        run_for(&sql, &handle, 4).await.unwrap();
        sql.ingest("t", None, vec![ints([5])]).await.unwrap();
        assert_eq!(client.count("t").await, 0);
        sql.commit(&next).await.unwrap();
        assert_eq!(client.rows("FROM t ORDER BY i").await, ["4", "5"]);
        client.execute("DELETE FROM t").await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_begins_no_transaction_beside_one_that_a_statement_has_begun() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut session = client.session().await;
    let insert = "INSERT INTO t VALUES (1)";
    session.update("BEGIN", None).await.unwrap();
    session.update(insert, None).await.unwrap();
    let second = session.begin().await;
    assert_refused(second, Code::FailedPrecondition, &["end it first"]);
    session.update(insert, None).await.unwrap();
    session.update("COMMIT", None).await.unwrap();
    assert_eq!(client.count("t").await, 2);
    let transaction = session.begin().await.unwrap();
    session.update(insert, Some(&transaction)).await.unwrap();
    session.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 3);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_first_statement_was_given_up_is_one_all_the_same() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut session = client.session().await;
    session
        .update("CREATE TEMP TABLE own AS SELECT 1", None)
        .await
        .unwrap();
    let (mut busy, rows) = occupy(&session).await;
    let transaction = session.begin().await.unwrap();
    let mut first = session.clone();
    let begin = first.update("INSERT INTO t VALUES (2)", Some(&transaction));
    // The connection is busy, so it waits until its client gives up.
    let given_up = tokio::time::timeout(Duration::from_millis(300), begin).await;
    assert!(given_up.is_err());
    busy.end().await;
    soon("the ingest", busy.result()).await.unwrap().unwrap();
    session
        .update("INSERT INTO t VALUES (3)", Some(&transaction))
        .await
        .unwrap();
    assert_eq!(client.count("t").await, rows);
    session.roll_back(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, rows);
    server.shutdown().await;
}

/// What waits for a busy connection does so for half a minute, so this takes as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_end_because_its_connection_is_busy_goes_on() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut session = client.session().await;
    let transaction = session.begin().await.unwrap();
    session
        .update("INSERT INTO t VALUES (2)", Some(&transaction))
        .await
        .unwrap();
    let (mut busy, rows) = occupy(&session).await;
    let refused = session.commit(&transaction).await;
    assert_refused(refused, Code::ResourceExhausted, &["still running"]);
    busy.end().await;
    soon("the ingest", busy.result()).await.unwrap().unwrap();
    assert_eq!(client.count("t").await, 0);
    session.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 1 + rows);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_once_its_session_has_ended_does_not_run() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i BIGINT); CREATE SCHEMA s; CREATE TABLE s.t (i BIGINT)")
        .await;
    let mut session = client.session().await;
    session.update("USE s", None).await.unwrap();
    let mut late = begin_insert(&mut session, None).await;
    session.close().await;
    late.send_batch(&ints([1])).await;
    late.end().await;
    let answer = soon("an answer", late.result()).await.unwrap();
    assert_refused(answer, Code::Unauthenticated, &["connect again"]);
    assert_eq!(client.count("t").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_schema_is_not_searched_after_a_refusal_inside_a_transaction() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for set in [
        "SET search_path = 'duck_flight'",
        "SET schema = 'duck_' || 'flight'",
        "USE duck_flight",
    ] {
        let mut session = client.session().await;
        session.update("BEGIN", None).await.unwrap();
        let refused = session.update(set, None).await;
        assert_refused(refused, Code::PermissionDenied, &["duck_flight"]);
        session.update("ROLLBACK", None).await.unwrap();
        let path = session.rows("SELECT current_schema()", None).await;
        assert_eq!(path, ["main"], "{set}");
        let hidden = session.update("DELETE FROM sequences", None).await;
        assert_refused(hidden, Code::NotFound, &["sequences"]);
    }
    server.shutdown().await;
}

/// Runs updates in a transaction, and commits it.
async fn in_one_transaction(sql: &mut SqlClient, statements: &[&str]) {
    let transaction = sql.begin().await.unwrap();
    for statement in statements {
        sql.update(statement, Some(&transaction)).await.unwrap();
    }
    sql.commit(&transaction).await.unwrap();
}

/// DuckDB crashes where rows that it has written into the file before their commit are followed by an ALTER.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_altered_before_many_rows_are_written_and_not_after() {
    const MANY: i64 = 50_000;
    let server = TestServer::start().await;
    let mut sql = server.client().await.sql();
    sql.update("CREATE TABLE t (i BIGINT)", None).await.unwrap();
    let insert = format!("INSERT INTO t SELECT range FROM range({MANY})");
    let mut rows = 0;
    for way in [
        &insert,
        &format!("{insert} RETURNING i"),
        &format!("EXPLAIN ANALYZE {insert}"),
        &format!("CREATE OR REPLACE TABLE other AS FROM range({MANY})"),
        "ingest",
    ] {
        let transaction = sql.begin().await.unwrap();
        match way {
            "ingest" => {
                let batches = vec![ints(0..MANY)];
                let ingested = sql.ingest("t", Some(&transaction), batches).await;
                assert_eq!(ingested.unwrap(), MANY);
            }
            way => drop(sql.rows(way, Some(&transaction)).await),
        }
        let late = sql
            .update("ALTER TABLE t ADD COLUMN late INTEGER", Some(&transaction))
            .await;
        assert!(late.is_err(), "after {way}");
        assert_refused(late, Code::FailedPrecondition, &["ALTER", "commit"]);
        let explained = "EXPLAIN ANALYZE ALTER TABLE t ADD COLUMN late INTEGER";
        let late = sql.try_rows(explained, Some(&transaction)).await;
        assert_refused(late, Code::FailedPrecondition, &["ALTER", "commit"]);
        // The transaction goes on as it was.
        sql.rows(&insert, Some(&transaction)).await;
        sql.commit(&transaction).await.unwrap();
        rows += if way.contains("other") {
            MANY
        } else {
            2 * MANY
        };
        let found = sql.rows("SELECT count(*) FROM t", None).await;
        assert_eq!(found, [rows.to_string()], "{way}");
    }
    // Few rows are in memory still; and in the next transaction all is well.
    in_one_transaction(
        &mut sql,
        &[
            "INSERT INTO t SELECT range FROM range(10000)",
            "ALTER TABLE t ADD COLUMN early INTEGER",
            "INSERT INTO t SELECT range, 1 FROM range(10000)",
        ],
    )
    .await;
    sql.update("CHECKPOINT", None).await.unwrap();
    let found = sql.rows("SELECT count(*), count(early) FROM t", None).await;
    assert_eq!(found, [format!("{}|10000", rows + 20_000)]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_altered_behind_a_query_that_is_analyzed_and_a_generated_column() {
    let server = TestServer::start().await;
    let mut sql = server.client().await.sql();
    sql.update("CREATE TABLE t (i BIGINT)", None).await.unwrap();
    in_one_transaction(
        &mut sql,
        &[
            "EXPLAIN ANALYZE SELECT 1",
            "CREATE TABLE made (i INTEGER, j INTEGER AS (i + 1))",
            "ALTER TABLE t ADD COLUMN k INTEGER",
        ],
    )
    .await;
    assert_eq!(sql.rows("SELECT count(k) FROM t", None).await, ["0"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_that_makes_its_table_holds_up_no_checkpoint_while_it_comes_in() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE other (i BIGINT)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let mut command = ingest_into("t", Some(&transaction));
    command.table_definition_options = Some(TableDefinitionOptions {
        if_not_exist: TableNotExistOption::Create.into(),
        if_exists: TableExistsOption::Fail.into(),
    });
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let batch = ints(0..300_000);
    let mut put = sql.open_raw_put().await;
    for message in messages(descriptor, &batch.schema(), &[], None) {
        put.send(message).await;
    }
    for _ in 0..12 {
        soon("a batch taken", put.send_batch(&batch)).await;
    }
    client.execute("INSERT INTO other VALUES (1)").await;
    client.execute("CHECKPOINT").await;
    put.end().await;
    soon("the end", put.result()).await.unwrap().unwrap();
    let in_order = "SELECT count(*), bool_and(i = rowid % 300000) FROM t";
    let count = "SELECT count(*) FROM t";
    assert_eq!(sql.rows(count, Some(&transaction)).await, ["3600000"]);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.rows(in_order).await, ["3600000|true"]);
    server.shutdown().await;
}

/// DuckDB makes BEGIN, ALTER, UPDATE, ALTER and COMMIT of such an ALTER.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_with_a_default_that_is_no_literal_is_added_as_a_whole_or_not_at_all() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT PRIMARY KEY); INSERT INTO t SELECT range FROM range(100000);
             CREATE TABLE small AS SELECT 1 AS i",
        )
        .await;
    client
        .execute("ALTER TABLE t ADD COLUMN a BOOLEAN DEFAULT false")
        .await;
    client
        .execute("ALTER TABLE small ADD COLUMN größe INTEGER DEFAULT (2 + 3)")
        .await;
    client
        .execute("INSERT INTO small VALUES (2, 0); ALTER TABLE t ADD b DATE DEFAULT DATE '2020-01-01'; SELECT 1")
        .await;
    let mut session = client.session().await;
    for failing in [
        "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT ('x'::INTEGER)",
        "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT nowhere(1)",
        "ALTER TABLE nowhere ADD COLUMN c BOOLEAN DEFAULT false",
        "CREATE TABLE t AS PIVOT small ON i USING count(*)",
    ] {
        session.update(failing, None).await.expect_err(failing);
        session
            .update("INSERT INTO small (i) VALUES (3)", None)
            .await
            .unwrap();
        // It is committed: the session is in no transaction that nobody has begun.
        let found = client.rows("FROM small WHERE i = 3").await;
        assert_eq!(found, ["3|5"], "{failing}");
        session
            .update("DELETE FROM small WHERE i = 3", None)
            .await
            .unwrap();
        // In a transaction there is no part of it either.
        session.update("BEGIN", None).await.unwrap();
        session.update(failing, None).await.expect_err(failing);
        session.update("COMMIT", None).await.ok();
        client.try_rows("SELECT c FROM t").await.expect_err(failing);
    }
    for sql in [
        "BEGIN",
        "INSERT INTO t (i) VALUES (-1)",
        "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT (1 + 1)",
        "INSERT INTO t (i) VALUES (-2)",
        "CREATE TABLE wide AS PIVOT small ON i USING count(*) GROUP BY größe",
        "COMMIT",
        "CREATE TABLE other AS PIVOT small ON i USING count(*) GROUP BY größe",
    ] {
        session.update(sql, None).await.expect(sql);
    }
    let late = "BEGIN; INSERT INTO t (i) SELECT -range FROM range(10, 50010); ALTER TABLE t ADD COLUMN d BOOLEAN DEFAULT true";
    let refused = session.update(late, None).await;
    assert_refused(refused, Code::FailedPrecondition, &["ALTER", "commit"]);
    session.update("ROLLBACK", None).await.unwrap();
    for sql in ["FROM wide ORDER BY ALL", "FROM other ORDER BY ALL"] {
        assert_eq!(client.rows(sql).await, ["0|0|1", "5|1|0"], "{sql}");
    }
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    client.execute("INSERT INTO t (i) VALUES (-3)").await;
    let found = client
        .rows("SELECT count(*), bool_or(a), min(b), max(b), sum(c), max(i) FROM t")
        .await;
    assert_eq!(found, ["100003|false|2020-01-01|2020-01-01|200006|99999"]);
    assert_eq!(
        client.rows("SELECT i FROM t WHERE i = 70001").await,
        ["70001"]
    );
}

/// DuckDB gives the database up where it is to do both at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_nested_column_is_added_without_its_default_and_given_it_then() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(50000)")
        .await;
    for (column_type, default) in [
        ("INTEGER[]", "(list_value(1, 1 + 1))"),
        ("INTEGER[2]", "array_value(1, 2)"),
        ("STRUCT(a INTEGER)", "{'a': 1}"),
        ("MAP(INTEGER, INTEGER)", "map{1: 2}"),
    ] {
        for add in ["ADD", "ADD COLUMN", "ADD COLUMN IF NOT EXISTS"] {
            let refused = client
                .try_execute(format!(
                    "ALTER TABLE t {add} l {column_type} DEFAULT {default}"
                ))
                .await;
            assert_refused(refused, Code::Unimplemented, &["UPDATE", "SET DEFAULT"]);
        }
        for sql in [
            format!("ALTER TABLE t ADD COLUMN l {column_type}"),
            format!("UPDATE t SET l = {default}"),
            format!("ALTER TABLE t ALTER l SET DEFAULT {default}"),
            "ALTER TABLE t DROP l".to_owned(),
        ] {
            client.execute(&sql).await;
        }
    }
    assert_eq!(client.count("t").await, 50_000);
    server.shutdown().await;
}
