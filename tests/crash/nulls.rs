//! A value in the place of a NULL stays: DuckDB 1.5.5 cannot replay one where it has compressed texts and their NULLs together, and
//! has appended rows behind them since.

use duck_tests::{ServerProcess, options, pairs};

const ROWS: &str = "SELECT CAST(t AS VARCHAR) FROM t ORDER BY i";

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_set_in_the_place_of_a_null_survives_a_kill() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT PRIMARY KEY, s VARCHAR, b BLOB, nested STRUCT(a VARCHAR), n BIGINT, u UUID);
             INSERT INTO t (i, nested) VALUES (1, {'a': NULL}), (2, {'a': NULL}), (3, {'a': NULL});
             INSERT INTO t VALUES (4, 'a', 'a', {'a': 'a'}, 4, uuid())",
        )
        .await;
    client.checkpoint().await;
    client
        .execute("INSERT INTO t VALUES (5, 'b', 'b', {'a': 'b'}, 5, uuid())")
        .await;
    client
        .execute(
            "UPDATE t SET s = 'new', b = 'new', nested = {'a': 'new'}, n = 7, u = uuid() WHERE i = 1",
        )
        .await;
    let upsert = options(r#"{"table": "t", "mode": "upsert", "key": ["i"]}"#);
    client
        .put(&upsert, &[pairs(&[(2, "put"), (6, "more")])])
        .await
        .unwrap();
    let before = client.rows(ROWS).await;
    assert!(before[1].contains("put"), "{before:?}");

    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(server.client().await.rows(ROWS).await, before);
    server.stop();
}
