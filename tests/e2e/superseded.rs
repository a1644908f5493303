//! `on_error: reject` where rows of a unit have one key: the last one counts, and those before it are nobody's fault.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::PutOptions;
use duck_tests::{Client, assert_refused, start};
use tonic::Code;

type Row<'a> = (i64, Option<i64>, &'a str);

/// A batch of rows with their keys, values and operations.
fn rows(rows: &[Row<'_>], has_op: bool) -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1)));
    let ops: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2)));
    let mut columns = vec![("k", keys, true), ("v", values, true)];
    columns.extend(has_op.then_some(("op", ops, true)));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The numbers of the rows of a unit that are put aside, and the rows that are then in the table.
async fn put_aside(client: &Client, unit: &[Row<'_>], mode: &str) -> (Vec<String>, Vec<String>) {
    client
        .execute("DELETE FROM t; DELETE FROM duck_flight.rejects; INSERT INTO t VALUES (9, 90)")
        .await;
    let json = format!(r#"{{"table":"t","mode":"{mode}","on_error":"reject"}}"#);
    let options: PutOptions = serde_json::from_str(&json).unwrap();
    let batch = rows(unit, mode == "changes");
    let acks = client.put(&options, &[batch]).await.unwrap();
    let numbers = client
        .rows("SELECT \"row\" FROM duck_flight.rejects ORDER BY \"row\"")
        .await;
    let rejected = usize::try_from(acks[0].rejected).unwrap();
    assert_eq!(rejected, numbers.len());
    (numbers, client.rows("FROM t WHERE k < 9 ORDER BY k").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_one_supersedes_is_not_put_aside() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE others (i BIGINT PRIMARY KEY); INSERT INTO others FROM range(1, 100);
             CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT NOT NULL UNIQUE CHECK (v <> 13) REFERENCES others (i))",
        )
        .await;
    // NULL, what CHECK forbids, what there is no row for, and what another row has.
    for bad in [None, Some(13), Some(500), Some(90)] {
        let unit = [(1, bad, "U"), (1, Some(5), "U"), (2, bad, "U")];
        for mode in ["upsert", "changes"] {
            let (numbers, stored) = put_aside(&client, &unit, mode).await;
            assert_eq!(numbers, ["3"], "{bad:?}, {mode}");
            assert_eq!(stored, ["1|5"], "{bad:?}, {mode}");
        }
        // Nor one whose row is deleted in the end.
        let unit = [(1, bad, "U"), (1, None, "D"), (2, Some(6), "U")];
        let (numbers, stored) = put_aside(&client, &unit, "changes").await;
        assert!(numbers.is_empty(), "{bad:?}: {numbers:?}");
        assert_eq!(stored, ["2|6"], "{bad:?}");
        // The first that is named is one at fault.
        let options: PutOptions = serde_json::from_str(r#"{"table":"t","mode":"upsert"}"#).unwrap();
        let unit = rows(&[(1, bad, ""), (1, Some(5), ""), (2, bad, "")], false);
        assert_refused(
            client.put(&options, &[unit]).await,
            Code::InvalidArgument,
            &["row 3", "v"],
        );
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_last_row_of_a_key_is_put_aside_the_last_one_that_fits_counts() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT NOT NULL CHECK (v <> 13))")
        .await;
    let unit = [
        (1, None, "U"),
        (1, Some(5), "U"),
        (1, Some(13), "U"),
        (1, None, "U"),
        (2, None, "U"),
    ];
    let (numbers, stored) = put_aside(&client, &unit, "upsert").await;
    assert_eq!(numbers, ["3", "4", "5"]);
    assert_eq!(stored, ["1|5"]);
    // However many of them there are.
    let mut unit = vec![(1, Some(5), "U")];
    unit.extend(std::iter::repeat_n((1, None, "U"), 1000));
    let (numbers, stored) = put_aside(&client, &unit, "upsert").await;
    assert_eq!(numbers.len(), 1000);
    assert_eq!(stored, ["1|5"]);
    server.shutdown().await;
}
