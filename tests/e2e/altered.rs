//! Tables that clients alter, rename or drop beside puts: no put goes by what was there before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch};
use duck_flight_protocol::PutOptions;
use duck_tests::{
    Client, OpenPut, Setup, TestServer, assert_refused, ints, numbered, options, soon, start,
};
use tonic::Code;

/// A server on which a unit is large from two of [`batches`] on.
async fn start_with_small_buffer() -> (TestServer, Client) {
    let setup = Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    (server, client)
}

const BATCHES: usize = 16;
const BATCH_ROWS: usize = 50_000;

/// Rows with keys `k` of their own and a value `v`: more than client and server hold of a stream that nobody reads.
fn batches(value: impl Fn(usize) -> ArrayRef) -> Vec<RecordBatch> {
    let batch = |number: usize| {
        let first = i64::try_from(number * BATCH_ROWS).unwrap();
        let last = i64::try_from((number + 1) * BATCH_ROWS).unwrap();
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(first..last));
        RecordBatch::try_from_iter([("k", keys), ("v", value(BATCH_ROWS))]).unwrap()
    };
    (0..BATCHES).map(batch).collect()
}

/// Opens a put and sends batches, of which the server must have begun to write most.
async fn open_large(client: &Client, put: &PutOptions, batches: &[RecordBatch]) -> OpenPut {
    let put = client.open_put(put, &batches[0].schema()).await;
    for batch in batches {
        soon("a batch taken", put.send_batch(batch)).await;
    }
    put
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_into_a_table_that_an_open_transaction_has_defined_is_told_so_and_succeeds_after_its_end()
 {
    let (server, client) = start().await;
    client.append("t", &[ints(0..3)]).await.unwrap();
    let mut other = server.client().await.sql();
    for (table, definition, rows) in [
        ("t", "ALTER TABLE t ADD COLUMN note VARCHAR", 4),
        ("made", "CREATE TABLE made (i BIGINT)", 1),
    ] {
        let transaction = other.begin().await.unwrap();
        other.update(definition, Some(&transaction)).await.unwrap();
        let refused = soon("a refusal", client.append(table, &[ints(3..4)])).await;
        let words = ["open transaction has altered or made the table"];
        assert_refused(refused, Code::Aborted, &words);
        other.commit(&transaction).await.unwrap();
        client.append(table, &[ints(3..4)]).await.unwrap();
        assert_eq!(client.count(table).await, rows);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_gathered_for_a_table_are_not_rounded_for_what_it_has_become() {
    let (server, client) = start_with_small_buffer().await;
    let batches = batches(|rows| Arc::new(Float64Array::from(vec![1.5; rows])));
    for (constraint, put) in [
        ("PRIMARY KEY", r#"{"table":"t","mode":"upsert"}"#),
        ("CHECK (k >= 0)", r#"{"table":"t","on_error":"reject"}"#),
    ] {
        let create = format!("CREATE OR REPLACE TABLE t (k BIGINT {constraint}, v DOUBLE)");
        for change in [
            "ALTER TABLE t ALTER v TYPE INTEGER",
            "CREATE OR REPLACE TABLE t (k BIGINT PRIMARY KEY, v INTEGER)",
            "DROP TABLE t",
        ] {
            client.execute(&create).await;
            let put = open_large(&client, &options(put), &batches).await;
            client.execute(change).await;
            assert_refused(put.finish().await, Code::Aborted, &["`t`", "send it again"]);
            client
                .execute("CREATE TABLE IF NOT EXISTS t (i INTEGER)")
                .await;
            assert_eq!(client.count("t").await, 0, "{change}");
        }
        // What is not sent does not matter.
        client.execute(&create).await;
        let put = open_large(&client, &options(put), &batches).await;
        client
            .execute("ALTER TABLE t ADD COLUMN other INTEGER DEFAULT 7")
            .await;
        let acks = put.finish().await.unwrap();
        let rows = (BATCHES * BATCH_ROWS) as u64;
        assert_eq!(acks[0].rows, rows);
        let found = "SELECT count(*), min(v), max(v), min(other) FROM t";
        assert_eq!(client.rows(found).await, [format!("{rows}|1.5|1.5|7")]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upsert_does_not_fail_because_another_loader_widens_its_column() {
    let (server, client) = start_with_small_buffer().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v INTEGER)")
        .await;
    let batches = batches(|rows| Arc::new(Int32Array::from(vec![1; rows])));
    let upsert = options(r#"{"table":"t","mode":"upsert"}"#);
    let put = open_large(&client, &upsert, &batches).await;
    let widening = tokio::spawn({
        let client = server.client().await;
        async move {
            let evolve = options(r#"{"table":"t","schema":"evolve"}"#);
            let columns = ["k", "v"].map(|name| {
                let value: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN]));
                (name, value)
            });
            let row = RecordBatch::try_from_iter(columns).unwrap();
            client.put(&evolve, &[row]).await
        }
    });
    // All the time it wants.
    for _ in 0..20 {
        client.ping().await;
    }
    let rows = (BATCHES * BATCH_ROWS) as u64;
    assert_eq!(put.finish().await.unwrap()[0].rows, rows);
    let widened = soon("an ack", widening).await.unwrap().unwrap();
    assert_eq!(widened[0].rows, 1);
    let found = "SELECT count(*), min(v), any_value(typeof(v)) FROM t";
    let expected = format!("{}|{}|BIGINT", rows + 1, i64::MIN);
    assert_eq!(client.rows(found).await, [expected]);
    server.shutdown().await;
}

/// Puts into a table twice: the first put makes it, and the second one looks at it.
async fn make_and_look(client: &Client) {
    for _ in 0..2 {
        client.append("t", &[ints(0..3)]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_is_not_taken_to_be_there() {
    let (server, client) = start().await;
    let always = options(r#"{"table":"t","create":"always"}"#);
    let upsert = options(r#"{"table":"t","mode":"upsert"}"#);
    let rows = [ints(0..3)];
    for gone in [
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO old",
        "EXPLAIN ANALYZE DROP TABLE t",
        "BEGIN; DROP TABLE t; COMMIT",
        "BEGIN; ALTER TABLE t RENAME TO old; COMMIT",
    ] {
        make_and_look(&client).await;
        let refused = client.put(&upsert, &rows).await;
        assert_refused(refused, Code::InvalidArgument, &["no primary key"]);
        client.try_execute(gone).await.expect(gone);
        let refused = client.put(&upsert, &rows).await;
        assert_refused(refused, Code::NotFound, &["`t`", "`key`"]);
        let made = client.put(&always, &rows).await;
        assert_eq!(made.expect(gone)[0].rows, 3);
        client
            .execute("DROP TABLE t; DROP TABLE IF EXISTS old")
            .await;
    }
    make_and_look(&client).await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("DROP TABLE t", Some(&transaction))
        .await
        .unwrap();
    // To others it is there until the commit.
    let refused = client.put(&always, &rows).await;
    assert_refused(refused, Code::AlreadyExists, &["`t`"]);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.put(&always, &rows).await.unwrap()[0].rows, 3);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_makes_a_table_that_is_gone_before_its_rows_come_in() {
    // Eight of them are a small unit still, and more than client and server hold of a stream that nobody reads.
    const ROWS: i64 = 130_000;
    let (server, client) = start().await;
    let batch = ints(0..ROWS);
    for drops_first in [true, false] {
        make_and_look(&client).await;
        if drops_first {
            client.execute("DROP TABLE t").await;
        }
        let put = client
            .open_put(&PutOptions::new("t"), &batch.schema())
            .await;
        for number in 0..16 {
            if number == 8 && !drops_first {
                client.execute("DROP TABLE t").await;
            }
            soon("a batch taken", put.send_batch(&batch)).await;
        }
        let rows = [ints(0..10)];
        let other = soon("another put", client.append("t", &rows)).await;
        assert_eq!(other.unwrap(), 10);
        assert_eq!(put.finish().await.unwrap()[0].rows, 16 * 130_000);
        assert_eq!(client.count("t").await, 16 * 130_000 + 10);
        client.execute("DROP TABLE t").await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_go_on_beside_a_client_that_takes_their_table_or_a_column_away() {
    let (server, client) = start().await;
    for (takes_away, put) in [
        ("DROP TABLE IF EXISTS t", r#"{"table":"t"}"#),
        (
            "ALTER TABLE IF EXISTS t DROP COLUMN IF EXISTS batch",
            r#"{"table":"t","schema":"evolve"}"#,
        ),
    ] {
        let over = Arc::new(AtomicBool::new(false));
        let taking = tokio::spawn({
            let (client, over) = (server.client().await, over.clone());
            async move {
                let mut times = 0;
                while !over.load(Ordering::Acquire) {
                    // It may lose to a loader.
                    times += u32::from(client.try_execute(takes_away).await.is_ok());
                }
                times
            }
        });
        for number in 0..300 {
            let rows = [numbered(number, 10)];
            let acks = client.put(&options(put), &rows).await;
            assert_eq!(acks.expect(takes_away)[0].rows, 10);
        }
        over.store(true, Ordering::Release);
        assert!(taking.await.unwrap() > 0, "{takes_away}");
    }
    server.shutdown().await;
}
