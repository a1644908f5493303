//! `on_error: reject`: rows that do not fit are put aside, whatever they break, and all others are committed once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, RunArray, StringArray,
};
use duck_flight_protocol::PutOptions;
use duck_tests::{Client, Setup, TestServer, assert_refused, eventually, options, soon, start};
use tonic::Code;

/// Stands for a NULL.
const NULL: i64 = i64::MIN;

/// A batch of integers, column by column.
fn longs(columns: &[(&str, &[i64])]) -> RecordBatch {
    let columns = columns.iter().map(|(name, values)| {
        let values = values.iter().map(|&value| (value != NULL).then_some(value));
        let values: ArrayRef = Arc::new(Int64Array::from_iter(values));
        (*name, values, true)
    });
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The batch with an operation for each row.
fn with_ops(batch: &RecordBatch, ops: &[&str]) -> RecordBatch {
    let ops: ArrayRef = Arc::new(StringArray::from_iter_values(ops));
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| (field.name().as_str(), column.clone(), true));
    RecordBatch::try_from_iter_with_nullable(columns.chain([("op", ops, true)])).unwrap()
}

/// Puts a batch with the rows that do not fit put aside; answers with their numbers.
async fn put_aside(client: &Client, put: &str, batch: &RecordBatch) -> Vec<u64> {
    let put = PutOptions {
        on_error: duck_flight_protocol::OnError::Reject,
        ..options(put)
    };
    let name = &put.table.table;
    let rejects = format!("duck_flight.rejects WHERE \"table\" = '{name}'");
    let before = client.count(&rejects).await;
    let acks = client.put(&put, std::slice::from_ref(batch)).await.unwrap();
    let sql =
        format!("SELECT \"row\" FROM {rejects} ORDER BY rejected_at, \"row\" OFFSET {before}");
    let numbers = client.rows(&sql).await;
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(acks[0].rejected, numbers.len() as u64);
    assert_eq!(acks[0].rows + acks[0].rejected, batch.num_rows() as u64);
    numbers
}

/// The reasons of all rejects, in their order.
async fn reasons(client: &Client) -> Vec<String> {
    client
        .rows("SELECT reason FROM duck_flight.rejects ORDER BY rejected_at, \"row\"")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_none_are_put_aside() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE p (a BIGINT, b BIGINT, PRIMARY KEY (a, b)); INSERT INTO p VALUES (1, 1), (1, 2);
             CREATE TABLE c (x BIGINT, y BIGINT, v BIGINT PRIMARY KEY, FOREIGN KEY (x, y) REFERENCES p (a, b))",
        )
        .await;
    let batch = longs(&[
        ("x", &[1, 2, 1, NULL, 7, 1]),
        ("y", &[1, 1, 3, 9, NULL, 2]),
        ("v", &[1, 2, 3, 4, 5, 6]),
    ]);
    assert_eq!(put_aside(&client, r#"{"table":"c"}"#, &batch).await, [2, 3]);
    let stored = client.rows("SELECT v FROM c ORDER BY v").await;
    assert_eq!(stored, ["1", "4", "5", "6"]);
    assert!(
        reasons(&client).await[0].contains("FOREIGN KEY (x, y)"),
        "the constraint is named"
    );
    // The same where rows are replaced.
    let upsert = r#"{"table":"c","mode":"upsert"}"#;
    let batch = longs(&[("x", &[1, 3]), ("y", &[2, 3]), ("v", &[1, 6])]);
    assert_eq!(put_aside(&client, upsert, &batch).await, [2]);
    let stored = client.rows("FROM c WHERE v IN (1, 6) ORDER BY v").await;
    assert_eq!(stored, ["1|2|1", "1|2|6"]);
    // Otherwise the first such row is named.
    let refused = client.put(&options(upsert), &[batch]).await;
    assert_refused(
        refused,
        Code::InvalidArgument,
        &["row 2", "x, y", "FOREIGN KEY"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_others_of_their_unit_are_put_aside_as_duckdb_refuses_them() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE tree (i BIGINT PRIMARY KEY, parent BIGINT REFERENCES tree (i));
             INSERT INTO tree VALUES (1, NULL)",
        )
        .await;
    let batch = longs(&[("i", &[2, 3, 4, 5]), ("parent", &[1, 2, 4, NULL])]);
    let append = r#"{"table":"tree"}"#;
    assert_eq!(put_aside(&client, append, &batch).await, [2, 3]);
    // Once the others are there, those fit.
    let batch = longs(&[("i", &[3]), ("parent", &[2])]);
    assert!(put_aside(&client, append, &batch).await.is_empty());
    // Nor can a row go with the one that refers to it.
    let batch = longs(&[("i", &[2, 3, 5])]);
    let delete = r#"{"table":"tree","mode":"delete"}"#;
    assert_eq!(put_aside(&client, delete, &batch).await, [1]);
    assert_eq!(
        client.rows("SELECT i FROM tree ORDER BY i").await,
        ["1", "2"]
    );
    let reasons = reasons(&client).await;
    let key = "FOREIGN KEY (parent) REFERENCES tree(i)";
    assert_eq!(reasons[0], format!("breaks the table's {key}"));
    assert_eq!(reasons[2], format!("table `tree` refers to its row: {key}"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_delete_what_others_refer_to_are_put_aside() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE p (i BIGINT PRIMARY KEY, u BIGINT UNIQUE, v BIGINT);
             CREATE TABLE c (x BIGINT REFERENCES p (i), y BIGINT REFERENCES p (u));
             INSERT INTO p SELECT range, 10 * range, 0 FROM range(10);
             INSERT INTO c VALUES (1, 20), (NULL, NULL)",
        )
        .await;
    let delete = r#"{"table":"p","mode":"delete"}"#;
    let batch = longs(&[("i", &[0, 1, 2, 3, 1])]);
    assert_eq!(put_aside(&client, delete, &batch).await, [2, 3, 5]);
    let refused = client
        .put(&options(delete), &[longs(&[("i", &[7, 2])])])
        .await;
    assert_refused(
        refused,
        Code::InvalidArgument,
        &["row 2", "column `u`", "`c`"],
    );
    let changes = r#"{"table":"p","mode":"changes"}"#;
    let batch = longs(&[("i", &[1, 4, 2, 5, 11, 1]), ("v", &[1; 6])]);
    // Where the last row of a key is put aside, the one before it counts.
    let batch = with_ops(&batch, &["U", "D", "D", "U", "I", "D"]);
    assert_eq!(put_aside(&client, changes, &batch).await, [3, 6]);
    let stored = client.rows("FROM p WHERE v = 1 OR i < 5 ORDER BY i").await;
    assert_eq!(stored, ["1|10|1", "2|20|0", "5|50|1", "11|NULL|1"]);
    // DuckDB replaces a row whose indexed columns change: one that is referred to stays as it is.
    let batch = longs(&[("i", &[1, 6]), ("u", &[1000, 6000])]);
    let upsert = r#"{"table":"p","mode":"upsert"}"#;
    assert_eq!(put_aside(&client, upsert, &batch).await, [1]);
    let stored = client
        .rows("SELECT i, u FROM p WHERE i IN (1, 6) ORDER BY i")
        .await;
    assert_eq!(stored, ["1|10", "6|6000"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_unique_beside_the_key_are_the_firsts() {
    let (server, client) = start().await;
    for (number, (columns, index)) in [
        ("k BIGINT PRIMARY KEY, u BIGINT UNIQUE, v BIGINT", ""),
        (
            "k BIGINT, u BIGINT, v BIGINT",
            "CREATE UNIQUE INDEX i ON t (u)",
        ),
        (
            "k BIGINT, \"a,'b\" BIGINT, u BIGINT, v BIGINT",
            "CREATE UNIQUE INDEX i ON t ((u + 0))",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        client
            .execute(&format!(
                "CREATE OR REPLACE TABLE t ({columns}); INSERT INTO t BY NAME SELECT range AS k, 10 * range AS u FROM range(6);
                 {index}; DELETE FROM duck_flight.rejects"
            ))
            .await;
        let upsert = r#"{"table":"t","mode":"upsert","key":["k"]}"#;
        let batch = longs(&[
            // Row 2 has the value of key 3. Rows 3 and 4 change places, and row 5 takes what row 6 gives up. Of rows 7
            // and 8, both new, the first keeps the value; row 9 says nothing, for row 10 counts.
            ("k", &[0, 1, 4, 5, 6, 2, 7, 8, 9, 9]),
            ("u", &[0, 30, 50, 40, 20, 200, 300, 300, 300, NULL]),
            ("v", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ]);
        assert_eq!(put_aside(&client, upsert, &batch).await, [2, 8], "{number}");
        let stored = client.rows("SELECT k, u, v FROM t ORDER BY k").await;
        let expected = [
            "0|0|1",
            "1|10|NULL",
            "2|200|6",
            "3|30|NULL",
            "4|50|3",
            "5|40|4",
            "6|20|5",
            "7|300|7",
            "9|NULL|10",
        ];
        assert_eq!(stored, expected, "{number}");
        // Without row 2 the value is not given up, either.
        let batch = longs(&[("k", &[3, 1, 9]), ("u", &[40, 30, 7])]);
        assert_eq!(put_aside(&client, upsert, &batch).await, [1, 2], "{number}");
        let refused = client.put(&options(upsert), &[batch]).await;
        assert_refused(refused, Code::InvalidArgument, &["row 1", "u", "UNIQUE"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_hang_together_are_put_aside_together() {
    const KEYS: i64 = 3000;
    let (server, client) = start().await;
    client
        .execute(&format!(
            "CREATE TABLE t (k BIGINT PRIMARY KEY, u BIGINT UNIQUE); INSERT INTO t SELECT range, range FROM range({KEYS} + 1);
             CREATE TABLE p (i BIGINT PRIMARY KEY, code BIGINT UNIQUE, v BIGINT); INSERT INTO p VALUES (1, 0, 0), (2, -1, 0);
             CREATE TABLE c (i BIGINT REFERENCES p (i)); INSERT INTO c VALUES (1)"
        ))
        .await;
    // Each takes what the next one gives up, but for the last one: nobody gives that up. Two others change places.
    let keys: Vec<_> = (0..KEYS).collect();
    let mut values: Vec<_> = (1..=KEYS).collect();
    (values[0], values[1]) = (1, 0);
    let batch = longs(&[("k", &keys), ("u", &values)]);
    let upsert = r#"{"table":"t","mode":"upsert"}"#;
    let numbers = eventually("an ack", put_aside(&client, upsert, &batch)).await;
    assert_eq!(numbers, (3..=3000).collect::<Vec<u64>>());
    let stored =
        "SELECT count(*), count(*) FILTER (u = k), count(*) FILTER (k < 2 AND u = 1 - k) FROM t";
    let expected = format!("{}|{}|2", KEYS + 1, KEYS - 1);
    assert_eq!(client.rows(stored).await, [expected]);
    // Rows of one key, each of which takes a row away that another table refers to.
    let mut keys = vec![1; 3000];
    keys.push(2);
    let mut ops = vec!["D"; 3000];
    ops.push("U");
    let deletes = longs(&[("i", &keys), ("v", &[7; 3001])]);
    let changes = r#"{"table":"p","mode":"changes"}"#;
    let rows = with_ops(&deletes, &ops);
    let put = put_aside(&client, changes, &rows);
    assert_eq!(
        eventually("an ack", put).await,
        (1..=3000).collect::<Vec<u64>>()
    );
    let codes: Vec<_> = (100..3101).collect();
    let replaces = longs(&[("i", &keys), ("code", &codes)]);
    let put = put_aside(&client, r#"{"table":"p","mode":"upsert"}"#, &replaces);
    assert_eq!(
        eventually("an ack", put).await,
        (1..=3000).collect::<Vec<u64>>()
    );
    let stored = client.rows("FROM p ORDER BY i").await;
    assert_eq!(stored, ["1|0|0", "2|3100|7"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_break_a_unique_index_are_put_aside() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (\"i i\" BIGINT, j BIGINT);
             CREATE UNIQUE INDEX one ON t (\"i i\");
             CREATE UNIQUE INDEX two ON t ((j % 100), (CASE WHEN j > 0 THEN 'it''s, \"so\"' END));
             INSERT INTO t VALUES (0, 1)",
        )
        .await;
    let batch = longs(&[
        ("i i", &[0, 1, 2, 1, NULL, NULL, 5, 6]),
        ("j", &[7, 201, 2, 3, 102, 4, -4, -4]),
    ]);
    let append = r#"{"table":"t"}"#;
    assert_eq!(put_aside(&client, append, &batch).await, [1, 2, 5]);
    let stored = client.rows("SELECT j FROM t ORDER BY j, \"i i\"").await;
    assert_eq!(stored, ["-4", "-4", "1", "2", "3", "4"]);
    let reasons = reasons(&client).await;
    assert!(reasons[0].contains(r#"UNIQUE INDEX "one""#), "{reasons:?}");
    assert!(reasons[1].contains(r#"UNIQUE INDEX "two""#), "{reasons:?}");
    let refused = client.put(&options(append), &[batch]).await;
    assert_refused(
        refused,
        Code::InvalidArgument,
        &["row 1", "i i", "UNIQUE INDEX"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_hold_for_columns_that_are_not_sent() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (k BIGINT PRIMARY KEY, least DECIMAL(6, 2) NOT NULL DEFAULT '5', v BIGINT,
                             given BIGINT, twice BIGINT GENERATED ALWAYS AS (2 * v),
                             CHECK (t.v >= least), CHECK (v < 100 OR given IS NOT NULL));
             INSERT INTO t VALUES (1, 1, 1, 1), (2, 50, 50, NULL)",
        )
        .await;
    let batch = longs(&[("k", &[10, 11, 12, 13]), ("v", &[5, 4, 100, NULL])]);
    assert_eq!(put_aside(&client, r#"{"table":"t"}"#, &batch).await, [2, 3]);
    // Of a row that is there its own values count.
    let upsert = r#"{"table":"t","mode":"upsert"}"#;
    let batch = longs(&[("k", &[1, 2, 20, 21, 1]), ("v", &[200, 49, 6, 3, 0])]);
    assert_eq!(put_aside(&client, upsert, &batch).await, [2, 4, 5]);
    let stored = client
        .rows("SELECT k, least, v, given FROM t ORDER BY k")
        .await;
    let expected = [
        "1|1.00|200|1",
        "2|50.00|50|NULL",
        "10|5.00|5|NULL",
        "13|5.00|NULL|NULL",
        "20|5.00|6|NULL",
    ];
    assert_eq!(stored, expected);
    let refused = client.put(&options(upsert), &[batch]).await;
    assert_refused(refused, Code::InvalidArgument, &["row 2", "CHECK"]);
    // A column without a value.
    client
        .execute("CREATE TABLE n (k BIGINT PRIMARY KEY, v BIGINT, must BIGINT NOT NULL); INSERT INTO n VALUES (1, 1, 1)")
        .await;
    let batch = longs(&[("k", &[1, 2]), ("v", &[7, 7])]);
    let upsert = r#"{"table":"n","mode":"upsert"}"#;
    assert_eq!(put_aside(&client, upsert, &batch).await, [2]);
    assert_eq!(client.rows("FROM n").await, ["1|7|1"]);
    let told = reasons(&client).await;
    let reason = "breaks the table's NOT NULL of column `must`";
    assert_eq!(told.last().map(String::as_str), Some(reason));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_for_which_a_check_fails_are_put_aside() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT, CHECK (CAST(i::VARCHAR AS TINYINT) > 0), CHECK (i - 5))",
        )
        .await;
    let batch = longs(&[("i", &[1, 1000, 3, NULL, -1, 5])]);
    let append = r#"{"table":"t"}"#;
    assert_eq!(put_aside(&client, append, &batch).await, [2, 5, 6]);
    let stored = client.rows("FROM t ORDER BY i").await;
    assert_eq!(stored, ["1", "3", "NULL"]);
    let refused = client.put(&options(append), &[batch]).await;
    assert_refused(refused, Code::InvalidArgument, &["row 2", "CHECK", "1000"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_counts_is_left_to_duckdb() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE SEQUENCE s; CREATE MACRO counted() AS nextval('s');
             CREATE TABLE t (i BIGINT CHECK (i > 0), n BIGINT DEFAULT nextval('s') CHECK (n < 9), m BIGINT DEFAULT (counted()))",
        )
        .await;
    let append = r#"{"table":"t"}"#;
    assert_eq!(
        put_aside(&client, append, &longs(&[("i", &[1, 0])])).await,
        [2]
    );
    // What breaks a constraint on its value is DuckDB's to say.
    let reject = options(r#"{"table":"t","on_error":"reject"}"#);
    let refused = client.put(&reject, &[longs(&[("i", &[1; 9])])]).await;
    assert_refused(refused, Code::InvalidArgument, &["CHECK"]);
    assert_eq!(client.count("t").await, 1);
    server.shutdown().await;
}

/// A server on which a unit of more than a mebibyte is a large one.
async fn with_small_budget() -> TestServer {
    let setup = Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    setup.start().await
}

const ROWS: i64 = 120_000;

/// Batches of rows with numbers from 0, a value of them each, and a UUID as text.
fn large_unit(value: impl Fn(i64) -> i64, is_uuid: impl Fn(i64) -> bool) -> Vec<RecordBatch> {
    let batch = |start: i64| {
        let numbers = start..start + 7_500;
        let uuids = numbers.clone().map(|number| match is_uuid(number) {
            true => format!("00000000-0000-0000-0000-{number:012}"),
            false => format!("no uuid {number}"),
        });
        let uuids: ArrayRef = Arc::new(StringArray::from_iter_values(uuids));
        let values: Vec<_> = numbers.clone().map(&value).collect();
        let longs = longs(&[("i", &numbers.collect::<Vec<_>>()), ("v", &values)]);
        let columns = [
            ("i", longs.column(0).clone(), true),
            ("v", longs.column(1).clone(), true),
            ("id", uuids, true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    (0..ROWS).step_by(7_500).map(batch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_large_unit_that_breaks_a_constraint_is_named() {
    // DuckDB has looked at more than one appender's rows before.
    const BAD: i64 = 500_000;
    let server = with_small_budget().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v INTEGER NOT NULL CHECK (v >= 0))")
        .await;
    let cases = [
        (BAD, -5, "column `v`: breaks the table's CHECK"),
        (BAD, NULL, "column `v`: breaks the table's NOT NULL"),
        (BAD - 2, 7, "column `k`: breaks the table's PRIMARY KEY"),
    ];
    for (key, value, words) in cases {
        let batch = |start: i64| {
            let numbers = start..start + 50_000;
            let column = |bad: i64| -> Vec<i64> {
                let numbers = numbers.clone();
                let values = numbers.map(|number| if number == BAD { bad } else { number });
                values.collect()
            };
            longs(&[("k", &column(key)), ("v", &column(value))])
        };
        let unit: Vec<_> = (0..600_000).step_by(50_000).map(batch).collect();
        let refused = client.put(&PutOptions::new("t"), &unit).await;
        assert_refused(refused, Code::InvalidArgument, &["row 500001, ", words]);
        assert_eq!(client.count("t").await, 0);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_large_unit_are_put_aside_whatever_they_break() {
    let server = with_small_budget().await;
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (i INTEGER, v INTEGER NOT NULL CHECK (v >= 0), id UUID, PRIMARY KEY (v));
             INSERT INTO t VALUES (-1, 777, NULL)",
        )
        .await;
    let value = |number| match number {
        // Not cast, NULL, refused by the CHECK, and the value of another row.
        0 | 30_000 => 1 << 40,
        1 | 7_499 => NULL,
        7_500 | 60_001 => -5,
        90_000 => 89_999,
        number => number,
    };
    let is_uuid = |number| ![2, 30_001, ROWS - 1].contains(&number);
    let unit = large_unit(value, is_uuid);
    let put = options(r#"{"table":"t","on_error":"reject","producer":"p","sequence":3}"#);
    let acks = client.put(&put, &unit).await.unwrap();
    let ack = (acks[0].rows, acks[0].rejected, acks[0].duplicate);
    assert_eq!(ack, (ROWS.unsigned_abs() - 11, 11, false));
    let again = client.put(&put, &unit).await.unwrap();
    assert!(again[0].duplicate && again[0].rejected == 0, "{again:?}");
    let rejects = client
        .rows(
            "SELECT \"row\" - 1, data->>'i', data->>'v', data->>'id', \"sequence\", producer, regexp_extract(reason, \
             'UUID|INTEGER|NOT NULL|CHECK|PRIMARY KEY') FROM duck_flight.rejects ORDER BY \"row\"",
        )
        .await;
    let id = |number: i64| match is_uuid(number) {
        true => format!("00000000-0000-0000-0000-{number:012}"),
        false => format!("no uuid {number}"),
    };
    let expected = [
        (0, "INTEGER"),
        (1, "NOT NULL"),
        (2, "UUID"),
        (777, "PRIMARY KEY"),
        (7_499, "NOT NULL"),
        (7_500, "CHECK"),
        (30_000, "INTEGER"),
        (30_001, "UUID"),
        (60_001, "CHECK"),
        (90_000, "PRIMARY KEY"),
        (ROWS - 1, "UUID"),
    ];
    let expected = expected.map(|(number, reason)| {
        let value = match value(number) {
            NULL => "NULL".to_owned(),
            value => value.to_string(),
        };
        format!("{number}|{number}|{value}|{}|3|p|{reason}", id(number))
    });
    assert_eq!(rejects, expected);
    // All others are there once, in their order.
    let state = "SELECT count(*), count(DISTINCT i), count(*) FILTER (v = i AND id::VARCHAR LIKE '%' || i), \
                 count(*) FILTER (i < before) FROM (SELECT *, lag(i) OVER (ORDER BY rowid) AS before FROM t)";
    let rows = ROWS - 11;
    assert_eq!(
        client.rows(state).await,
        [format!("{}|{}|{rows}|0", rows + 1, rows + 1)]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_large_unit_are_put_aside_up_to_a_limit() {
    let server = with_small_budget().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i INTEGER, s VARCHAR)")
        .await;
    // 80 MB as JSON.
    let text = "x".repeat(10_000);
    let columns: [(_, ArrayRef); 2] = [
        ("i", Arc::new(Int64Array::from(vec![1_i64 << 40; 1000]))),
        ("s", Arc::new(StringArray::from(vec![text.as_str(); 1000]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let put = options(r#"{"table":"t","on_error":"reject"}"#);
    let refused = client.put(&put, &vec![batch; 8]).await;
    assert_refused(refused, Code::InvalidArgument, &["67108864 bytes as JSON"]);
    assert_eq!(client.count("duck_flight.rejects").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_large_unit_of_changes_are_put_aside() {
    let server = with_small_budget().await;
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE p (i BIGINT PRIMARY KEY, v BIGINT, id UUID); CREATE UNIQUE INDEX u ON p ((v + 1));
             CREATE TABLE c (i BIGINT REFERENCES p (i));
             INSERT INTO p VALUES (7, 7, NULL), (200000, -1, NULL), (300000, -2, NULL); INSERT INTO c VALUES (7)",
        )
        .await;
    // Row 100,000 has the value of a row that stays, 100,001 that of one before it; 7 is referred to.
    let value = |number| match number {
        100_000 => -1,
        100_001 => 50_000,
        number => number,
    };
    let mut start = 0;
    let unit: Vec<_> = large_unit(value, |number| number != 5)
        .into_iter()
        .map(|batch| {
            let mut ops = vec!["I"; batch.num_rows()];
            if start == 0 {
                ops[7] = "D";
            }
            start += batch.num_rows();
            with_ops(&batch, &ops)
        })
        .collect();
    let failing = options(r#"{"table":"p","mode":"changes"}"#);
    let valid = unit[1..].to_vec();
    let refused = client.put(&failing, &valid).await;
    assert_refused(
        refused,
        Code::InvalidArgument,
        &["row 92501", "UNIQUE INDEX"],
    );
    let put = options(r#"{"table":"p","mode":"changes","on_error":"reject"}"#);
    let acks = client.put(&put, &unit).await.unwrap();
    assert_eq!(
        (acks[0].rows, acks[0].rejected),
        (ROWS.unsigned_abs() - 4, 4)
    );
    let rejects = "SELECT \"row\", data->>'i', data->>'v', data->>'op' FROM duck_flight.rejects ORDER BY \"row\"";
    assert_eq!(
        client.rows(rejects).await,
        [
            "6|5|5|I",
            "8|7|7|D",
            "100001|100000|-1|U",
            "100002|100001|50000|U"
        ]
    );
    let state = "SELECT count(*), count(*) FILTER (v = i), count(DISTINCT v) FROM p";
    let rows = ROWS - 3;
    assert_eq!(
        client.rows(state).await,
        [format!("{}|{rows}|{}", rows + 2, rows + 2)]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_goes_on_behind_a_unit_of_which_rows_were_put_aside() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE p (i BIGINT PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE c (i BIGINT REFERENCES p (i))")
        .await;
    let put = |sequence: u64| {
        options(&format!(
            r#"{{"table":"c","on_error":"reject","producer":"p","sequence":{sequence}}}"#
        ))
    };
    let unit = [longs(&[("i", &[1, 2, 1])])];
    for (sequence, expected) in [
        (1, (2, 1, false)),
        (1, (3, 0, true)),
        (2, (2, 1, false)),
        (1, (3, 0, true)),
    ] {
        let ack = &client.put(&put(sequence), &unit).await.unwrap()[0];
        assert_eq!((ack.rows, ack.rejected, ack.duplicate), expected);
    }
    assert_eq!(client.count("c").await, 4);
    let rejects = "SELECT producer, \"sequence\", \"row\" FROM duck_flight.rejects ORDER BY ALL";
    assert_eq!(client.rows(rejects).await, ["p|1|2", "p|2|2"]);
    let last = client
        .rows("SELECT last_sequence FROM duck_flight.producers")
        .await;
    assert_eq!(last, ["2"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_put_aside_although_the_next_unit_of_its_commit_has_its_key() {
    const KEYS: i64 = 40;
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT CHECK (v >= 0))")
        .await;
    let put = options(r#"{"table":"t","mode":"upsert","commit":"batch","on_error":"reject"}"#);
    let unit = |key: i64, value: i64| longs(&[("k", &[key]), ("v", &[value])]);
    let units: Vec<_> = (0..KEYS)
        .flat_map(|key| [unit(key, -1), unit(key, 1)])
        .collect();
    let acks = client.put(&put, &units).await.unwrap();
    let rejected: Vec<_> = acks.iter().map(|ack| ack.rejected).collect();
    assert_eq!(rejected, [1, 0].repeat(40));
    let stored = client.rows("SELECT count(*), sum(v) FROM t").await;
    assert_eq!(stored, [format!("{KEYS}|{KEYS}")]);
    assert_eq!(client.count("duck_flight.rejects").await, 40);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_put_aside_although_the_next_unit_of_its_commit_has_its_key_in_another_spelling() {
    const KEYS: u64 = 40;
    let (server, client) = start().await;
    let put = options(r#"{"table":"t","mode":"upsert","commit":"batch","on_error":"reject"}"#);
    let unit = |key: String, value: i64| {
        let key: ArrayRef = Arc::new(StringArray::from(vec![key]));
        let value: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        RecordBatch::try_from_iter([("k", key), ("v", value)]).unwrap()
    };
    type Spell = fn(u64) -> [String; 2];
    let spellings: [(&str, Spell); 3] = [
        ("VARCHAR COLLATE NOCASE", |key| {
            [format!("k{key}"), format!("K{key}")]
        }),
        ("UUID", |key| {
            let uuid = format!("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaa{key:02}");
            [uuid.clone(), uuid.to_uppercase()]
        }),
        ("HUGEINT", |key| [key.to_string(), format!("0{key}")]),
    ];
    for (sql_type, spell) in spellings {
        client
            .execute(&format!(
                "CREATE OR REPLACE TABLE t (k {sql_type} PRIMARY KEY, v BIGINT CHECK (v >= 0))"
            ))
            .await;
        let units: Vec<_> = (0..KEYS)
            .map(spell)
            .flat_map(|[one, other]| [unit(one, -1), unit(other, 1)])
            .collect();
        let acks = client.put(&put, &units).await.unwrap();
        let rejected: Vec<_> = acks.iter().map(|ack| ack.rejected).collect();
        assert_eq!(rejected, [1, 0].repeat(40), "{sql_type}");
        let stored = client.rows("SELECT count(*), sum(v) FROM t").await;
        assert_eq!(stored, [format!("{KEYS}|{KEYS}")], "{sql_type}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_server_uses_itself_are_a_tables_or_refused() {
    let (server, client) = start().await;
    let put =
        |table: &str, mode: &str| format!(r#"{{"table":"{table}","mode":"{mode}","key":["k"]}}"#);
    let put_rows = |mode| options(&put("duck_flight_rows", mode));
    let rows = longs(&[("k", &[1, 2, 3]), ("v", &[1, 2, 3])]);
    let all = std::slice::from_ref(&rows);
    client.put(&put_rows("upsert"), all).await.unwrap();
    let append = r#"{"table":"duck_flight_rows"}"#;
    assert_eq!(put_aside(&client, append, &rows).await, [1, 2, 3]);
    let changes = with_ops(&rows.slice(0, 2), &["D", "U"]);
    client.put(&put_rows("changes"), &[changes]).await.unwrap();
    client
        .put(&put_rows("delete"), &[rows.slice(2, 1)])
        .await
        .unwrap();
    assert_eq!(client.rows("FROM duck_flight_rows").await, ["2|2"]);
    for table in ["Duck_Flight_Staged", "duck_flight_at_fault"] {
        let refused = client.put(&options(&put(table, "upsert")), all).await;
        assert_refused(refused, Code::PermissionDenied, &["choose another name"]);
    }
    for column in ["duck_flight_ordinal", "Duck_Flight_Deletes"] {
        let rows = longs(&[("k", &[1]), (column, &[1])]);
        let put = options(r#"{"table":"t","mode":"upsert","key":["k"]}"#);
        let refused = client.put(&put, std::slice::from_ref(&rows)).await;
        assert_refused(refused, Code::InvalidArgument, &[&format!("`{column}`")]);
        client
            .execute(&format!(
                "CREATE OR REPLACE TABLE t (k BIGINT, {column} BIGINT)"
            ))
            .await;
        let refused = client.put(&put, &[longs(&[("k", &[1])])]).await;
        assert_refused(refused, Code::InvalidArgument, &[&format!("`{column}`")]);
        // Rows that are only added go in.
        assert_eq!(client.append("t", &[rows]).await.unwrap(), 1);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_large_dictionaries_or_many_runs_are_sifted_in_moderate_time() {
    const ROWS: i32 = 100_000;
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    // Every other value is no number. Half of the dictionary is not used.
    let values = StringArray::from_iter_values((0..2 * ROWS).map(|value| match value % 2 {
        0 => value.to_string(),
        _ => format!("x{value}"),
    }));
    let values: ArrayRef = Arc::new(values);
    let keys = Int32Array::from_iter_values(0..ROWS);
    let ends = Int32Array::from_iter_values(1..=ROWS);
    let used = values.slice(0, values.len() / 2);
    let dictionary: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
    let runs: ArrayRef = Arc::new(RunArray::try_new(&ends, &used).unwrap());
    for column in [dictionary, runs] {
        let batch = RecordBatch::try_from_iter([("i", column)]).unwrap();
        let put = options(r#"{"table":"t","on_error":"reject"}"#);
        let put = client.put(&put, std::slice::from_ref(&batch));
        let acks = soon("an ack", put).await.unwrap();
        assert_eq!((acks[0].rows, acks[0].rejected), (50_000, 50_000));
    }
    let stored = client
        .rows("SELECT count(*), sum(i), (SELECT count(*) FROM duck_flight.rejects) FROM t")
        .await;
    assert_eq!(stored, ["100000|4999900000|100000"]);
    server.shutdown().await;
}
