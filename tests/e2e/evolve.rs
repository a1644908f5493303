//! Schema evolution: a table grows with its streams, and no stream is in the way of the next one.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, NullArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use duck_flight_protocol::{OnError, PutOptions, SchemaMode};
use duck_tests::{Answer, Client, Setup, assert_refused, soon, start};
use tonic::Code;

const MODES: [SchemaMode; 2] = [SchemaMode::Evolve, SchemaMode::EvolveText];

fn options(table: &str, schema: SchemaMode) -> PutOptions {
    PutOptions {
        schema,
        ..PutOptions::new(table)
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, values, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn nulls(rows: usize) -> ArrayRef {
    Arc::new(NullArray::new(rows))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

async fn put(client: &Client, options: &PutOptions, batch: RecordBatch) -> Answer<u64> {
    let acks = client.put(options, &[batch]).await?;
    Ok(acks[0].rows)
}

async fn types(client: &Client, table: &str) -> Vec<String> {
    let sql = format!("SELECT column_name || ' ' || column_type FROM (DESCRIBE {table})");
    client.rows(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_column_is_narrowed_to_nanoseconds() {
    let (server, client) = start().await;
    for (number, mode) in MODES.into_iter().enumerate() {
        for sql_type in ["TIMESTAMP", "TIMESTAMP_MS", "DATE"] {
            let table = format!("t{number}_{sql_type}");
            let sql = format!("CREATE TABLE {table} AS SELECT '9999-01-01'::{sql_type} AS v");
            client.execute(&sql).await;
            let options = options(&table, mode);
            let nanos =
                |value| -> ArrayRef { Arc::new(TimestampNanosecondArray::from(vec![value])) };
            let fits = put(&client, &options, batch(vec![("v", nanos(0))])).await;
            assert_eq!(fits.unwrap(), 1, "{sql_type}");
            assert_refused(
                put(&client, &options, batch(vec![("v", nanos(1))])).await,
                Code::InvalidArgument,
                &["row 1", "`v`"],
            );
            assert_eq!(types(&client, &table).await, [format!("v {sql_type}")]);
        }
        let table = format!("nanos{number}");
        client
            .execute(&format!("CREATE TABLE {table} (v TIMESTAMP_NS)"))
            .await;
        let options = options(&table, mode);
        let micros = TimestampMicrosecondArray::from(vec![1]);
        let days = Date32Array::from(vec![1]);
        for values in [Arc::new(micros) as ArrayRef, Arc::new(days)] {
            let fits = put(&client, &options, batch(vec![("v", values)])).await;
            assert_eq!(fits.unwrap(), 1);
        }
        assert_eq!(types(&client, &table).await, ["v TIMESTAMP_NS"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_nothing_but_nulls_waits_for_its_type() {
    let (server, client) = start().await;
    for mode in MODES {
        client.execute("DROP TABLE IF EXISTS t").await;
        let options = options("t", mode);
        // As the table is made, and once it is there.
        for id in [1, 2] {
            let rows = batch(vec![("id", numbers(&[id])), ("c", nulls(1))]);
            assert_eq!(put(&client, &options, rows).await.unwrap(), 1);
        }
        assert_eq!(types(&client, "t").await, ["id BIGINT"]);
        let rows = batch(vec![("id", numbers(&[3])), ("c", texts(&["text"]))]);
        assert_eq!(put(&client, &options, rows).await.unwrap(), 1);
        let rows = batch(vec![("c", nulls(1)), ("id", numbers(&[4]))]);
        assert_eq!(put(&client, &options, rows).await.unwrap(), 1);
        assert_eq!(types(&client, "t").await, ["id BIGINT", "c VARCHAR"]);
        assert_eq!(
            client.rows("FROM t ORDER BY id").await,
            ["1|NULL", "2|NULL", "3|text", "4|NULL"]
        );
        // Of nothing else no table can be made.
        for table in ["t", "new"] {
            let options = PutOptions {
                table: table.into(),
                ..options.clone()
            };
            assert_refused(
                put(&client, &options, batch(vec![("d", nulls(1))])).await,
                Code::InvalidArgument,
                &["type null", "send"],
            );
        }
    }
    // Where no table changes, names are still checked.
    let rows = batch(vec![("id", numbers(&[5])), ("d", nulls(1))]);
    assert_refused(
        put(&client, &PutOptions::new("t"), rows).await,
        Code::InvalidArgument,
        &["no column `d`"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_units_and_rejects_leave_such_columns_out_too() {
    const ROWS: i64 = 600_000;
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (id BIGINT CHECK (id >= 0))")
        .await;
    for on_error in [OnError::Fail, OnError::Reject] {
        let options = PutOptions {
            on_error,
            ..options("t", SchemaMode::Evolve)
        };
        let first = if on_error == OnError::Reject { -1 } else { 0 };
        let ids = (first..ROWS).collect::<Vec<_>>();
        let rows = batch(vec![("id", numbers(&ids)), ("c", nulls(ids.len()))]);
        let acks = client.put(&options, &[rows.clone(), rows]).await.unwrap();
        assert_eq!(acks[0].rows, 2 * ROWS.cast_unsigned());
    }
    assert_eq!(types(&client, "t").await, ["id BIGINT"]);
    server.shutdown().await;
}

/// Batches of a put that is a large one where the buffer is as small as [`small_buffer`].
fn large() -> Vec<RecordBatch> {
    let ids: Vec<_> = (0..50_000).collect();
    vec![batch(vec![("id", numbers(&ids))]); 20]
}

fn small_buffer() -> Setup {
    Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    }
}

/// Puts a row with a column of its own.
async fn add_column(client: &Client, number: i64) -> Answer<u64> {
    let name = format!("c{number}");
    let row = batch(vec![("id", numbers(&[number])), (&name, texts(&["new"]))]);
    put(client, &options("t", SchemaMode::Evolve), row).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_append_does_not_fail_because_other_loaders_add_columns() {
    let server = small_buffer().start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (id BIGINT)").await;
    let mut columns = 0;
    for round in 1..=3 {
        let appending = tokio::spawn({
            let client = client.clone();
            async move { client.append("t", &large()).await }
        });
        while !appending.is_finished() {
            assert_eq!(add_column(&client, columns).await.unwrap(), 1);
            columns += 1;
        }
        assert_eq!(appending.await.unwrap().unwrap(), 1_000_000);
        let rows = (round * 1_000_000 + columns).cast_unsigned();
        assert_eq!(client.count("t").await, rows);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_without_an_end_for_a_large_append_that_stands_still() {
    let setup = Setup {
        stall_timeout: Duration::from_millis(200),
        ..small_buffer()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (id BIGINT)").await;
    let batches = large();
    let standing = client
        .open_put(&PutOptions::new("t"), &batches[0].schema())
        .await;
    for batch in &batches {
        standing.send_batch(batch).await;
    }
    for column in 0..3 {
        let acked = soon("an ack", add_column(&client, column)).await;
        assert_eq!(acked.unwrap(), 1);
    }
    standing.cancel().await;
    server.shutdown().await;
}
