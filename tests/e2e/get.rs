//! What a get promises: scripts, sessions of their own, results of any shape.

use arrow::array::{Array, RecordBatch};
use arrow_flight::FlightDescriptor;
use duck_tests::{TestServer, assert_refused, ints, soon, start, status};
use futures::{StreamExt, TryStreamExt};
use tonic::Code;

/// Half of what stock clients take in one message by default, and room for what surrounds it.
const MAX_BATCH_BYTES: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_in_order_and_answers_with_its_last_result() {
    let (server, client) = start().await;
    let script = "CREATE TABLE t (i BIGINT); INSERT INTO t FROM range(3); SELECT 'lost'; SELECT sum(i) FROM t;";
    assert_eq!(client.rows(script).await, ["3"]);
    assert_eq!(client.rows("INSERT INTO t VALUES (4), (5)").await, ["2"]);
    assert_eq!(
        client
            .execute("INSERT INTO t VALUES (6); DELETE FROM t WHERE i < 2")
            .await,
        3
    );
    assert_eq!(
        client
            .rows("SET VARIABLE x = 7; SELECT getvariable('x')")
            .await,
        ["7"]
    );
    assert_eq!(
        client
            .rows("BEGIN; INSERT INTO t VALUES (99); ROLLBACK; SELECT count(*) FROM t WHERE i = 99")
            .await,
        ["0"]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_its_statement_and_those_before_it_have_run() {
    let (server, client) = start().await;
    let script = "CREATE TABLE t (i BIGINT); SELECT * FROM missing; CREATE TABLE u (i BIGINT)";
    assert_refused(
        client.query(script).await,
        Code::NotFound,
        &["statement 2 of 3", "missing"],
    );
    assert_eq!(client.count("t").await, 0);
    assert_refused(client.query("FROM u").await, Code::NotFound, &["u"]);
    assert_refused(
        client.query("CREATE TABLE w (i BIGINT); SELEC 1").await,
        Code::InvalidArgument,
        &["SELEC"],
    );
    assert_refused(client.query("FROM w").await, Code::NotFound, &["w"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_is_left_for_the_next_request() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client
        .execute("CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 1 AS i")
        .await;
    let zone = client.rows("SELECT current_setting('TimeZone')").await;
    let traces = [
        ("CREATE TEMP TABLE mine (i BIGINT)", "FROM mine"),
        ("CREATE TEMP MACRO f() AS 1", "SELECT f()"),
        ("CREATE TEMP VIEW v AS SELECT 1", "FROM v"),
        ("USE other", "FROM t"),
        ("SET search_path = 'other'", "FROM t"),
        ("SET schema = 'other'", "FROM t"),
    ];
    for (left, found) in traces {
        for failing in [false, true] {
            let script = if failing {
                format!("{left}; SELECT error('on purpose')")
            } else {
                format!("{left}; SELECT 1")
            };
            assert_eq!(client.query(script).await.is_err(), failing);
            assert!(client.query(found).await.is_err(), "{left} was still there");
        }
    }
    client.rows("SET VARIABLE x = 7; SELECT 1").await;
    assert_eq!(client.rows("SELECT getvariable('x')").await, ["NULL"]);
    client.rows("SET TimeZone = 'Asia/Tokyo'; SELECT 1").await;
    assert_eq!(
        client.rows("SELECT current_setting('TimeZone')").await,
        zone
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_is_refused_and_rolled_back() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for script in [
        "BEGIN; INSERT INTO t VALUES (1)",
        "BEGIN; INSERT INTO t VALUES (1); SELECT 1",
        "BEGIN",
    ] {
        assert_refused(
            client.try_execute(script).await,
            Code::FailedPrecondition,
            &["COMMIT"],
        );
        assert_refused(
            client.query(script).await,
            Code::FailedPrecondition,
            &["COMMIT"],
        );
        assert_eq!(client.count("t").await, 0);
    }
    assert_refused(
        client
            .query("BEGIN; INSERT INTO t VALUES (1); SELECT error('no')")
            .await,
        Code::InvalidArgument,
        &["no"],
    );
    assert_eq!(client.count("t").await, 0);
    client
        .execute("BEGIN; INSERT INTO t VALUES (1); COMMIT")
        .await;
    assert_eq!(client.count("t").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_fails_in_its_transaction_is_rolled_back_before_it_is_answered() {
    let (server, client) = start().await;
    const MAKE: &str = "CREATE OR REPLACE TABLE t (i INTEGER)";
    client.execute(MAKE).await;
    for _ in 0..50 {
        let failing =
            "BEGIN; ALTER TABLE t ADD COLUMN j INTEGER; SELECT error('no'); DROP TABLE t; COMMIT";
        assert_refused(
            client.try_execute(failing).await,
            Code::InvalidArgument,
            &["no"],
        );
        client.execute(MAKE).await;
    }
    server.shutdown().await;
}

/// DuckDB interrupts the other threads of a statement that fails, and may tell of that instead of the failure.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_its_reason_while_many_statements_fail_at_once() {
    let server = TestServer::start().await;
    let failing = (0..6).map(|_| async {
        let client = server.client().await;
        for _ in 0..20 {
            let sql = "SELECT CAST(CASE WHEN range < 1000000 THEN '1' ELSE 'one' END AS BIGINT) FROM range(2000000)";
            let mut result = client.stream(sql).await.unwrap();
            let error = loop {
                if let Err(error) = result.next().await.expect("an error ends the result") {
                    break status(error);
                }
            };
            assert_refused(Err::<(), _>(error), Code::InvalidArgument, &["one"]);
        }
    });
    soon("the errors", futures::future::join_all(failing)).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_middle_of_a_result_comes_after_the_batches_before_it() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let cases = [
        (
            "SELECT CASE WHEN range < 1000000 THEN range ELSE error('at a million') END AS i FROM range(2000000)",
            "at a million",
        ),
        (
            "SELECT CAST(CASE WHEN range < 1000000 THEN '1' ELSE 'one' END AS BIGINT) AS i FROM range(2000000)",
            "one",
        ),
    ];
    for (sql, word) in cases {
        let mut result = client.stream(sql).await.unwrap();
        let mut rows = 0;
        let error = loop {
            match soon("the next batch", result.next())
                .await
                .expect("an error ends the result")
            {
                Ok(batch) => rows += batch.num_rows(),
                Err(error) => break status(error),
            }
        };
        assert!((1..=1_000_000).contains(&rows), "{rows}");
        assert_refused(Err::<(), _>(error), Code::InvalidArgument, &[word]);
        assert_eq!(client.rows("SELECT 1").await, ["1"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_has_its_schema() {
    let (server, client) = start().await;
    let mut result = client
        .stream("SELECT 1::BIGINT AS i, 'x' AS s, [1.5] AS l WHERE false")
        .await
        .unwrap();
    assert!(result.next().await.is_none());
    let schema = result.schema().expect("a schema");
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["i", "s", "l"]);
    let mut result = client.stream("CREATE TABLE t (i BIGINT)").await.unwrap();
    while let Some(batch) = result.next().await {
        batch.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_carry_their_sql_types_and_are_announced_as_they_come() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let query = "SELECT 1.50 AS d, 1::UHUGEINT AS h, 'a'::ENUM ('a') AS e, uuid() AS u, [1] AS l, INTERVAL 1 DAY AS i, '1'::BIT AS b";
    let mut rows = client.stream(query).await.unwrap();
    while rows.try_next().await.unwrap().is_some() {}
    let came = rows.schema().unwrap();
    let fields = came.fields().iter();
    let types = fields.map(|field| field.metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"].as_str());
    assert_eq!(
        types.collect::<Vec<_>>(),
        [
            "DECIMAL",
            "UHUGEINT",
            "ENUM",
            "UUID",
            "INTEGER[]",
            "INTERVAL",
            "BIT"
        ]
    );
    let scale = &came.field(0).metadata()["ARROW:FLIGHT:SQL:SCALE"];
    assert_eq!(scale, "2");
    let descriptor = || FlightDescriptor::new_cmd(query);
    let mut flight = client.flight();
    let info = flight.get_flight_info(descriptor()).await.unwrap();
    assert_eq!(info.try_decode_schema().unwrap(), **came);
    let schema = flight.get_schema(descriptor()).await.unwrap();
    assert_eq!(schema, **came);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_under_nulls_are_zero_whoever_used_the_memory_before() {
    let server = TestServer::start().await;
    let first = server.client().await;
    let mut first = first.session().await;
    let secret =
        "CREATE TEMP TABLE secret AS SELECT i AS k, 'topsecret-' || i AS s FROM range(100000) r(i)";
    first.update(secret, None).await.unwrap();
    let rows = first.rows("SELECT k, s || 'x' FROM secret ORDER BY k DESC", None);
    assert_eq!(rows.await.len(), 100_000);
    let second = server.client().await;
    assert_refused(
        second.query("FROM secret").await,
        Code::NotFound,
        &["secret"],
    );
    let values = ["1::BIGINT", "1::DOUBLE", "1::HUGEINT", "1::DECIMAL(9, 2)"];
    let columns: Vec<_> = values
        .iter()
        .map(|value| format!("CASE WHEN i % 2047 = 0 THEN {value} END"))
        .collect();
    let columns = columns.join(", ");
    // The rows of the one are gathered from DuckDB's chunks, those of the other are exported by it.
    for more in ["", ", CASE WHEN i % 2047 = 0 THEN INTERVAL 1 DAY END"] {
        let sql = format!("SELECT {columns}{more} FROM range(20000) r(i)");
        let batches = second.query(sql.clone()).await.unwrap();
        for column in batches.iter().flat_map(RecordBatch::columns) {
            assert!(column.null_count() > 0);
            let data = column.to_data();
            let bytes = data.buffers()[0].as_slice();
            let width = column.data_type().primitive_width().unwrap();
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                let value = &bytes[row * width..][..width];
                assert!(value.iter().all(|byte| *byte == 0), "{sql}: {row}");
            }
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stay_small_however_wide_the_rows() {
    let (server, client) = start().await;
    let many = (0..300)
        .map(|column| format!("range + {column} AS c{column}"))
        .collect::<Vec<_>>()
        .join(", ");
    let cases = [
        ("SELECT range AS i, repeat('x', 10000) AS s FROM range(20000)".to_owned(), 20_000),
        (format!("SELECT {many} FROM range(50000)"), 50_000),
        ("SELECT list_transform(range(500), lambda x: x + r.range) AS l FROM range(20000) r".to_owned(), 20_000),
        ("SELECT 1; SELECT repeat('x', 10000) AS s FROM range(2048)".to_owned(), 2048),
        // The large rows of a chunk first.
        ("SELECT CASE WHEN range < 20 THEN repeat('x', 1000000) ELSE 'y' END AS s FROM range(2048)".to_owned(), 2048),
        // A few huge values among small ones.
        ("SELECT CASE WHEN range % 1000 = 0 THEN repeat('x', 2000000) ELSE 'y' END AS s FROM range(10000)".to_owned(), 10_000),
    ];
    for (sql, expected) in cases {
        let batches = client.query(sql.clone()).await.unwrap();
        assert_eq!(
            batches.iter().map(RecordBatch::num_rows).sum::<usize>(),
            expected
        );
        for batch in &batches {
            let bytes: usize = batch
                .columns()
                .iter()
                .map(|column| column.to_data().get_slice_memory_size().unwrap())
                .sum();
            assert!(
                bytes <= MAX_BATCH_BYTES || batch.num_rows() == 1,
                "{sql:.60}: {} rows of {bytes} bytes",
                batch.num_rows()
            );
        }
    }
    let row = client
        .query("SELECT repeat('x', 50000000) AS s")
        .await
        .unwrap();
    assert_eq!(row[0].num_rows(), 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_values_come_back_as_they_are() {
    let (server, client) = start().await;
    let sql =
        "SELECT {'a': [1, NULL, 3], 'b': {'c': 'x', 'd': NULL}} AS s, MAP {'k': [1], 'l': []} AS m,
               [[1], NULL, []] AS l, [1, 2]::INTEGER[2] AS f, NULL AS n";
    let expected =
        "{a: [1, NULL, 3], b: {c: x, d: NULL}}|{k: [1], l: []}|[[1], NULL, []]|[1, 2]|NULL";
    assert_eq!(client.rows(sql).await, [expected]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_of_one_moment_while_others_insert() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT 0::BIGINT AS g FROM range(1000)")
        .await;
    let writing = tokio::spawn({
        let client = server.client().await;
        async move {
            for value in 1..400_i64 {
                let insert = format!("INSERT INTO t SELECT {value} FROM range(100)");
                client.execute(&insert).await;
            }
        }
    });
    while !writing.is_finished() {
        // Three ways to the same number, of which DuckDB's statistics may answer some.
        let sql = "SELECT (SELECT count(*) FROM t) - (SELECT sum(n) FROM (SELECT g, count(*) AS n FROM t GROUP BY g)),
                   (SELECT max(g) FROM t) * 100 + 1000 - (SELECT count(*) FROM t), (SELECT count(*) FROM t WHERE g > (SELECT max(g) FROM t))";
        assert_eq!(client.rows(sql).await, ["0|0|0"]);
    }
    writing.await.unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_run_again_sees_what_was_committed_and_what_the_time_is() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 0 AS i").await;
    client
        .execute("CREATE VIEW v AS SELECT i AS x FROM t")
        .await;
    client.execute("CREATE MACRO m() AS 1").await;
    client.execute("CREATE SEQUENCE s").await;
    for round in 0..50 {
        for _ in 0..2 {
            assert_eq!(client.rows("FROM t").await, [round.to_string()]);
            assert_eq!(
                client.rows("SELECT m() + max(x) FROM v").await,
                [(round + 1).to_string()]
            );
        }
        match round % 2 {
            0 => client.execute("UPDATE t SET i = i + 1").await,
            _ => {
                client.append("t", &[ints([round + 1])]).await.unwrap()
                    + client
                        .execute(&format!("DELETE FROM t WHERE i = {round}"))
                        .await
            }
        };
    }
    client
        .execute("CREATE OR REPLACE VIEW v AS SELECT 'text' AS x")
        .await;
    assert_eq!(client.rows("SELECT x FROM v").await, ["text"]);
    for sql in [
        "SELECT now()",
        "SELECT current_timestamp",
        "SELECT get_current_timestamp()",
        "SELECT random()",
        "SELECT uuid()",
        "SELECT nextval('s')",
        "SELECT epoch_ns(now()) % 1000000007 FROM t",
        "SELECT * FROM (VALUES (random()))",
        "SELECT i FROM range(100000) t(i) USING SAMPLE 1",
        "SELECT txid_current()",
    ] {
        let (first, second) = (client.rows(sql).await, client.rows(sql).await);
        assert_ne!(first, second, "{sql}");
    }
    client.execute("DROP TABLE t").await;
    assert_refused(client.query("FROM t").await, Code::NotFound, &["t"]);
    server.shutdown().await;
}
