//! Rows that refer to others by a foreign key, beside those who delete or change these.
//!
//! DuckDB 1.5.5 finds no conflict there: neither in one transaction, where the row is deleted first, nor between two.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duck_tests::{Client, assert_refused, ints, options, soon, start};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tonic::Code;

const TABLES: &str = "
    CREATE TABLE a_parent (i BIGINT PRIMARY KEY, n BIGINT DEFAULT 0);
    CREATE TABLE b_child (i BIGINT REFERENCES a_parent (i), s VARCHAR);
    CREATE TABLE other (i BIGINT)";

const DELETE_PARENTS: &str = r#"{"table":"a_parent","mode":"delete"}"#;
const APPEND_CHILDREN: &str = r#"{"table":"b_child"}"#;
const APPEND_OTHERS: &str = r#"{"table":"other"}"#;

const ORPHANS: &str = "SELECT count(*) FROM b_child ANTI JOIN a_parent USING (i)";

/// Begins to put a batch; true where it is acknowledged, false where a row breaks the foreign key.
fn putting(client: &Client, put: &str, batch: RecordBatch) -> JoinHandle<bool> {
    let (client, put) = (client.clone(), options(put));
    tokio::spawn(async move {
        match client.put(&put, &[batch]).await {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
                false
            }
        }
    })
}

/// Begins to run a statement.
fn running(client: &Client, sql: String) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        client.try_execute(sql).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_refers_to_one_that_was_deleted_beside_it() {
    const KEYS: i64 = 200;
    let (server, client) = start().await;
    client.execute(TABLES).await;
    client.append("a_parent", &[ints(0..KEYS)]).await.unwrap();
    let tasks = (0..KEYS).flat_map(|key| {
        [
            putting(&client, DELETE_PARENTS, ints([key])),
            putting(&client, APPEND_CHILDREN, ints([key])),
            putting(&client, APPEND_OTHERS, ints([key])),
        ]
    });
    let mut acknowledged = Vec::new();
    for task in join_all(tasks).await {
        acknowledged.push(task.unwrap());
    }
    assert_eq!(client.rows(ORPHANS).await, ["0"]);
    for of_key in acknowledged.chunks(3) {
        assert!(of_key[0] != of_key[1], "one of both is in the way");
        assert!(of_key[2]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_second_writer_adds_refer_to_what_is_there() {
    const PARENTS: i64 = 60_000;
    const CHILDREN: i64 = 35_000;
    let (server, client) = start().await;
    client.execute(TABLES).await;
    for _ in 0..4 {
        let parents = ints(0..PARENTS);
        client
            .append("a_parent", std::slice::from_ref(&parents))
            .await
            .unwrap();
        let mut tasks = vec![putting(&client, DELETE_PARENTS, parents)];
        for _ in 0..3 {
            tasks.push(putting(&client, APPEND_CHILDREN, ints(0..CHILDREN)));
        }
        for task in join_all(tasks).await {
            task.unwrap();
        }
        assert_eq!(client.rows(ORPHANS).await, ["0"]);
        client
            .execute("DELETE FROM b_child; DELETE FROM a_parent")
            .await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_unit_does_not_refer_to_what_was_deleted_while_it_came_in() {
    const ROWS: usize = 48;
    let (server, client) = start().await;
    client.execute(TABLES).await;
    client.append("a_parent", &[ints([1, 2])]).await.unwrap();
    // More than 32 MiB have been read once all but the last few are sent.
    let text = "x".repeat(1 << 20);
    let row = |key: i64| {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![key]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
        RecordBatch::try_from_iter([("i", keys), ("s", texts)]).unwrap()
    };
    for (key, is_deleted_first) in [(1, true), (2, false)] {
        let row = row(key);
        let put = client
            .open_put(&options(APPEND_CHILDREN), &row.schema())
            .await;
        for _ in 0..ROWS {
            soon("a row taken", put.send_batch(&row)).await;
        }
        if is_deleted_first {
            let delete = putting(&client, DELETE_PARENTS, ints([key]));
            assert!(soon("the deletion", delete).await.unwrap());
            assert_refused(put.finish().await, Code::InvalidArgument, &["row 1"]);
            assert_eq!(client.count("b_child").await, 0);
        } else {
            let acks = put.finish().await.unwrap();
            assert_eq!(acks.iter().map(|ack| ack.rows).sum::<u64>(), ROWS as u64);
            let delete = putting(&client, DELETE_PARENTS, ints([key]));
            assert!(!delete.await.unwrap(), "rows refer to it");
        }
    }
    assert_eq!(client.rows(ORPHANS).await, ["0"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_units_wait_for_each_other_where_one_refers_to_what_the_other_changes() {
    let (server, client) = start().await;
    client.execute(TABLES).await;
    client.append("a_parent", &[ints(0..10)]).await.unwrap();
    for (number, statement, put) in [
        (
            0,
            "DELETE FROM a_parent WHERE n = (ENDLESS)",
            APPEND_CHILDREN,
        ),
        (
            1,
            "INSERT INTO b_child (i) SELECT i FROM a_parent WHERE n = (ENDLESS)",
            DELETE_PARENTS,
        ),
        (
            2,
            "UPDATE b_child SET i = 1 WHERE i = (ENDLESS)",
            DELETE_PARENTS,
        ),
    ] {
        client.execute(&format!("CREATE SEQUENCE s{number}")).await;
        client.append("b_child", &[ints([0])]).await.unwrap();
        let endless = format!(
            "SELECT sum(a + s) AS n FROM (SELECT nextval('s{number}') AS s), range(1000000) AS r(a), range(1000000) AS q(b)
             WHERE a + b < 3"
        );
        let statement = running(&client, statement.replace("ENDLESS", &endless));
        let drawn = format!(
            "SELECT count(last_value) FROM duckdb_sequences() WHERE sequence_name = 's{number}'"
        );
        soon("a number drawn", async {
            while client.rows(&drawn).await != ["1"] {}
        })
        .await;
        let waits = putting(&client, put, ints([number + 1]));
        for round in 0..10 {
            let others = putting(&client, APPEND_OTHERS, ints([round]));
            soon("an append", others).await.unwrap();
        }
        assert!(!waits.is_finished());
        statement.abort();
        assert!(soon("the put", waits).await.unwrap());
        client.until_nothing_is_kept().await;
    }
    assert_eq!(client.rows(ORPHANS).await, ["0"]);
    server.shutdown().await;
}
