//! Columns that get another type beside open transactions: DuckDB 1.5.5 makes the new column of what the oldest one sees, and what was
//! acknowledged since must be there all the same, at once, after a kill, and after a checkpoint and another kill.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_flight::decode::FlightRecordBatchStream;
use bytes::Bytes;
use duck_flight_protocol::PutOptions;
use duck_tests::{
    Answer, Client, OpenPut, ServerProcess, SqlClient, assert_refused, eventually, numbered,
    options, soon,
};
use futures::TryStreamExt;
use tonic::Code;

/// More than a row group.
const ROWS: i32 = 30_000;

/// All rows but the one that is put to give the column another type.
const FOUND: &str = "SELECT k, CAST(v AS VARCHAR), w FROM t WHERE k >= 0 ORDER BY k";

const CHANGE: &str = "ALTER TABLE t ALTER v TYPE BIGINT";

async fn make(client: &Client) {
    let sql = format!(
        "CREATE TABLE t (k BIGINT PRIMARY KEY, v INTEGER, w VARCHAR);
         INSERT INTO t SELECT range, nullif(range % 100, 7), 's' || range FROM range({ROWS});
         CREATE TABLE other AS SELECT range AS batch, range AS row FROM range(100000)"
    );
    client.execute(&sql).await;
}

/// Changes most rows, each in its way: to a value, to NULL, or to none.
async fn change_rows(client: &Client) {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::from(ROWS) - 5000));
    let values = (0..ROWS - 5000).map(|k| (k % 5 != 0).then_some(1_000_000 + k));
    let values: ArrayRef = Arc::new(Int32Array::from_iter(values));
    let rows = RecordBatch::try_from_iter([("k", keys), ("v", values)]).expect("two columns");
    let upsert = options(r#"{"table":"t","mode":"upsert"}"#);
    client.put(&upsert, &[rows]).await.unwrap();
    client
        .execute("UPDATE t SET v = -v WHERE k % 7 = 1; DELETE FROM t WHERE k % 11 = 3")
        .await;
}

/// Gives the column another type by a put.
async fn widen(client: &Client, schema: &str, value: ArrayRef) {
    let key: ArrayRef = Arc::new(Int64Array::from_iter_values([-1]));
    let row = RecordBatch::try_from_iter([("k", key), ("v", value)]).expect("two columns");
    let put = options(&format!(r#"{{"table":"t","schema":"{schema}"}}"#));
    client.put(&put, &[row]).await.unwrap();
}

async fn widen_to_integers(client: &Client) {
    widen(
        client,
        "evolve",
        Arc::new(Int64Array::from_iter_values([i64::MAX])),
    )
    .await;
}

async fn widen_to_texts(client: &Client) {
    let text = StringArray::from_iter_values(["no number"]);
    widen(client, "evolve_text", Arc::new(text)).await;
}

/// Alters a column by a statement: something that is older may be in its way for a moment, be it of the server's own.
async fn alter(client: &Client, sql: &'static str) {
    soon(sql, async {
        while let Err(refused) = client.try_execute(sql).await {
            assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
        }
    })
    .await;
}

async fn change_type(client: &Client) {
    alter(client, CHANGE).await;
}

/// Asserts that rows are as they were, and tells some that are not.
fn assert_same(what: &str, found: &[String], expected: &[String]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let pairs = found.iter().zip(expected);
    let wrong: Vec<_> = pairs
        .filter(|(found, expected)| found != expected)
        .collect();
    let some = &wrong[..wrong.len().min(5)];
    assert!(wrong.is_empty(), "{what}: {} rows: {some:?}", wrong.len());
}

/// Asserts it now, after a kill, and after a checkpoint and another kill.
async fn assert_survives(what: &str, server: ServerProcess, expected: &[String]) {
    let client = server.client().await;
    assert_same(what, &client.rows(FOUND).await, expected);
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_same(
        &format!("{what}, killed"),
        &client.rows(FOUND).await,
        expected,
    );
    client.checkpoint().await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_same(
        &format!("{what}, checkpointed and killed"),
        &client.rows(FOUND).await,
        expected,
    );
    server.stop();
}

/// What is open beside the change, and has looked at another table before the rows were changed.
enum Older {
    Result(Box<FlightRecordBatchStream>),
    Transaction(Box<SqlClient>, Bytes),
    Put(OpenPut),
}

#[derive(Debug, Clone, Copy)]
enum OlderKind {
    Result,
    Transaction,
    Put,
}

impl OlderKind {
    const ALL: [Self; 3] = [Self::Result, Self::Transaction, Self::Put];

    async fn open(self, client: &Client) -> Older {
        match self {
            Self::Result => {
                let mut result = client.stream("FROM other, range(100)").await.unwrap();
                result.try_next().await.unwrap();
                Older::Result(Box::new(result))
            }
            Self::Transaction => {
                let mut sql = client.sql();
                let transaction = sql.begin().await.unwrap();
                sql.rows("SELECT count(*) FROM other", Some(&transaction))
                    .await;
                Older::Transaction(Box::new(sql), transaction)
            }
            Self::Put => {
                let schema = numbered(0, 0).schema();
                let put = client.open_put(&PutOptions::new("other"), &schema).await;
                // More than a small unit takes, and than may be on its way: rows are in their transaction by now.
                for batch in 0..80 {
                    put.send_batch(&numbered(batch, 25_000)).await;
                }
                Older::Put(put)
            }
        }
    }
}

impl Older {
    async fn end(self) {
        match self {
            Self::Result(result) => drop(result),
            Self::Transaction(mut sql, transaction) => sql.roll_back(&transaction).await.unwrap(),
            Self::Put(put) => drop(eventually("the put", put.finish()).await.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_since_an_older_transaction_survives_a_put_that_widens_its_column() {
    for kind in OlderKind::ALL {
        for is_text in [false, true] {
            let what = format!("{kind:?}, {is_text}");
            let server = ServerProcess::start(&[]);
            let client = server.client().await;
            make(&client).await;
            let reader = server.client().await;
            let older = kind.open(&reader).await;
            change_rows(&client).await;
            let expected = client.rows(FOUND).await;
            match is_text {
                true => soon("an ack", widen_to_texts(&client)).await,
                false => soon("an ack", widen_to_integers(&client)).await,
            }
            assert_same(&what, &client.rows(FOUND).await, &expected);
            older.end().await;
            assert_survives(&what, server, &expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_changed_once_what_is_older_than_changed_rows_has_ended() {
    for kind in OlderKind::ALL {
        let what = format!("{kind:?}");
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        make(&client).await;
        let reader = server.client().await;
        let older = kind.open(&reader).await;
        change_rows(&client).await;
        let expected = client.rows(FOUND).await;
        let changing = tokio::spawn({
            let client = server.client().await;
            async move { client.try_execute(CHANGE).await }
        });
        older.end().await;
        soon("the change", changing).await.unwrap().unwrap();
        assert_eq!(
            client.rows("SELECT typeof(v) FROM t LIMIT 1").await,
            ["BIGINT"]
        );
        assert_survives(&what, server, &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_type_is_changed_in_or_beside_a_transaction_that_is_older_than_changed_rows() {
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    make(&client).await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.rows("SELECT count(*) FROM t", Some(&transaction)).await;
    change_rows(&client).await;
    let expected = client.rows(FOUND).await;
    let words = ["older than rows", "in no transaction"];
    let own = sql.update(CHANGE, Some(&transaction)).await;
    assert_refused(own, Code::Aborted, &words);
    assert_refused(client.try_execute(CHANGE).await, Code::Aborted, &words);
    assert_same("refused", &client.rows(FOUND).await, &expected);
    // The transaction goes on, and its own tables have nothing to lose.
    for of_its_own in [
        "CREATE TABLE made (i INTEGER)",
        "ALTER TABLE made ALTER i TYPE HUGEINT",
    ] {
        sql.update(of_its_own, Some(&transaction)).await.unwrap();
    }
    client
        .execute("ALTER TABLE other ADD COLUMN type VARCHAR")
        .await;
    sql.commit(&transaction).await.unwrap();
    change_type(&client).await;
    assert_survives("changed", server, &expected).await;
}

/// DuckDB makes new values of the column for that, as for another type.
#[tokio::test(flavor = "multi_thread")]
async fn no_field_is_added_dropped_or_renamed_beside_a_transaction_that_is_older_than_changed_rows()
{
    const ALTERATIONS: [&str; 3] = [
        "ALTER TABLE t ADD COLUMN s.b INTEGER",
        "ALTER TABLE t RENAME COLUMN s.a TO c",
        "ALTER TABLE t DROP COLUMN s.z",
    ];
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE other AS SELECT 1 AS i;
             CREATE TABLE t AS SELECT range AS k, {'a': 1, 'z': 1} AS s FROM range(30000)",
        )
        .await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.rows("FROM other", Some(&transaction)).await;
    client.execute("UPDATE t SET s = {'a': 2, 'z': 2}").await;
    for alteration in ALTERATIONS {
        let refused = client.try_execute(alteration).await;
        assert_refused(refused, Code::Aborted, &["older than rows"]);
    }
    let found = "SELECT count(*), min(s.a), max(s.z) FROM t";
    assert_eq!(client.rows(found).await, ["30000|2|2"]);
    sql.roll_back(&transaction).await.unwrap();
    for alteration in ALTERATIONS {
        alter(&client, alteration).await;
    }
    let found = "SELECT count(*), min(s.c), count(s.b) FROM t";
    assert_eq!(client.rows(found).await, ["30000|2|0"]);
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(server.client().await.rows(found).await, ["30000|2|0"]);
    server.stop();
}

/// What an open transaction has changed and not committed is nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_widens_a_column_takes_nothing_from_an_open_transaction() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    make(&client).await;
    let expected = client.rows(FOUND).await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("UPDATE t SET v = 77", Some(&transaction))
        .await
        .unwrap();
    widen_to_integers(&client).await;
    assert_same("beside it", &client.rows(FOUND).await, &expected);
    assert!(sql.commit(&transaction).await.is_err());
    assert_survives("without it", server, &expected).await;
}

/// Who changes the type has looked at the table before the update is committed, and after it has begun.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_committed_while_a_type_is_changed_is_kept() {
    for is_put in [true, false] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        let (mut kept, mut refused) = (0, 0);
        for round in 0..12 {
            client
                .execute(
                    "CREATE OR REPLACE TABLE t (k BIGINT PRIMARY KEY, v INTEGER, w VARCHAR);
                     INSERT INTO t (k, v) SELECT range, 1 FROM range(50000)",
                )
                .await;
            let updating = tokio::spawn({
                let client = server.client().await;
                async move { client.try_execute("UPDATE t SET v = 2").await }
            });
            for _ in 0..3 * round {
                client.ping().await;
            }
            match is_put {
                true => widen_to_integers(&client).await,
                false => change_type(&client).await,
            }
            let updated: Answer<u64> = soon("an update", updating).await.unwrap();
            let found = client
                .rows("SELECT v, count(*) FROM t WHERE k >= 0 GROUP BY v")
                .await;
            match updated {
                Ok(_) => {
                    kept += 1;
                    assert_eq!(found, ["2|50000"], "round {round}, by a put: {is_put}");
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.code(), Code::Aborted, "{error:?}");
                    // An ALTER of a client's takes over what is not committed.
                    assert!(!is_put || found == ["1|50000"], "round {round}: {found:?}");
                }
            }
        }
        let expected = client.rows(FOUND).await;
        let what = format!("by a put: {is_put}, {kept} kept, {refused} refused");
        assert_survives(&what, server, &expected).await;
    }
}
