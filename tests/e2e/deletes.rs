//! Statements that delete or change rows beside loaders that change rows of the same table.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duck_tests::{Client, options, soon, start};
use futures::future::join_all;
use tokio::task::JoinHandle;

/// A batch of keys `k`, all with the value `n`.
fn keyed(keys: impl IntoIterator<Item = i64>, value: i64) -> RecordBatch {
    let keys = Int64Array::from_iter_values(keys);
    let values = Int64Array::from_iter_values(std::iter::repeat_n(value, keys.values().len()));
    let columns: [(_, ArrayRef); 2] = [("k", Arc::new(keys)), ("n", Arc::new(values))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Begins to put a batch.
fn putting(client: &Client, put: &str, batch: RecordBatch) -> JoinHandle<()> {
    let (client, put) = (client.clone(), options(put));
    tokio::spawn(async move {
        client.put(&put, &[batch]).await.unwrap();
    })
}

/// Begins to run a statement.
fn running(client: &Client, sql: &str) -> JoinHandle<()> {
    let (client, sql) = (client.clone(), sql.to_owned());
    tokio::spawn(async move {
        client.try_execute(sql).await.unwrap();
    })
}

const UPSERT_T: &str = r#"{"table":"t","mode":"upsert"}"#;
const UPSERT_U: &str = r#"{"table":"u","mode":"upsert"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_of_its_table_waits_for_a_delete_and_an_append_does_not() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (k BIGINT PRIMARY KEY, n BIGINT);
             CREATE TABLE u (k BIGINT PRIMARY KEY, n BIGINT)",
        )
        .await;
    for (number, statement, is_certain) in [
        (0, "DELETE FROM t WHERE n = (ENDLESS)", true),
        (
            1,
            "SELECT 1; EXPLAIN ANALYZE UPDATE main.\"T\" SET n = 0 WHERE n = (ENDLESS)",
            true,
        ),
        (
            2,
            ";DELETE FROM t WHERE n = (SELECT n AS é FROM (ENDLESS))",
            true,
        ),
        // In doubt it may be any table.
        (3, "\u{a0}DELETE FROM t WHERE n = (ENDLESS)", false),
    ] {
        client.append("t", &[keyed(0..10, 1)]).await.unwrap();
        client.execute(&format!("CREATE SEQUENCE s{number}")).await;
        let endless = format!(
            "SELECT sum(a + s) AS n FROM (SELECT nextval('s{number}') AS s), range(1000000) AS r(a), range(1000000) AS q(b)
             WHERE a + b < 3"
        );
        let statement = running(&client, &statement.replace("ENDLESS", &endless));
        let drawn = format!(
            "SELECT count(last_value) FROM duckdb_sequences() WHERE sequence_name = 's{number}'"
        );
        soon("a number drawn", async {
            while client.rows(&drawn).await != ["1"] {}
        })
        .await;
        let upsert = putting(&client, UPSERT_T, keyed(0..20, 100));
        let delete = running(&client, "DELETE FROM t WHERE n < 50");
        client.until_kept("running", 2).await;
        let given_up = running(&client, "TRUNCATE t");
        client.until_kept("running", 3).await;
        for round in 0..10 {
            let new = 1000 * (number + 1) + round;
            let rows = [keyed([new], 100)];
            soon("an append", client.append("t", &rows)).await.unwrap();
            if is_certain {
                let upsert = putting(&client, UPSERT_U, keyed(0..20, round));
                soon("an upsert of another table", upsert).await.unwrap();
            }
        }
        assert!(!upsert.is_finished() && !delete.is_finished());
        given_up.abort();
        client.until_kept("running", 2).await;
        statement.abort();
        soon("the upsert", upsert).await.unwrap();
        soon("the DELETE", delete).await.unwrap();
        client.until_nothing_is_kept().await;
        let state = "SELECT count(*), min(n) FROM t WHERE k < 20";
        assert_eq!(client.rows(state).await, ["20|100"]);
        client.execute("DELETE FROM t").await;
    }
    server.shutdown().await;
}

/// DuckDB deletes rows that another transaction updates, and tells neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_upserted_beside_a_delete_that_no_longer_fits_it_is_there() {
    const KEYS: i64 = 20_000;
    const CHANGED: i64 = 5_000;
    const NEW: i64 = 100;
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, n BIGINT)")
        .await;
    for round in 0..30 {
        let high = 100 + round;
        let upsert = options(UPSERT_T);
        client.put(&upsert, &[keyed(0..KEYS, 1)]).await.unwrap();
        let loaders = (0..2).map(|loader| {
            let new = KEYS * (round + 1) + NEW * loader;
            let keys = (CHANGED * loader..CHANGED * (loader + 1)).chain(new..new + NEW);
            putting(&client, UPSERT_T, keyed(keys, high))
        });
        let mut tasks: Vec<_> = loaders.collect();
        // Nobody is told to try again.
        tasks.extend((0..3).map(|_| running(&client, "DELETE FROM t WHERE n < 10")));
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let there: i64 = client
            .value(&format!("SELECT count(*) FROM t WHERE n = {high}"))
            .await;
        assert_eq!(there, 2 * (CHANGED + NEW), "round {round}");
    }
    server.shutdown().await;
}
