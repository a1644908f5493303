//! Fields of structs that are the same in all rows of a row group, such as NULLs. DuckDB 1.5.5 fills some of them with whatever is in its
//! memory where a transaction has written a row group, has deleted one of its new rows, and its table does not end with a row group.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use duck_tests::{Client, assert_refused, ints, options, start};
use tonic::Code;

/// More than two row groups of 20,480 rows.
const ROWS: i64 = 60_000;

/// Rows that are there before: not a whole vector.
const ROWS_BEFORE: i64 = 5_000;

/// How the tables are made: one with a primary key, one with an index, and one without either.
const TABLES: [&str; 3] = [
    "CREATE TABLE t (k BIGINT PRIMARY KEY, s STRUCT(a INTEGER, b VARCHAR), u UNION(x INTEGER, y VARCHAR))",
    "CREATE TABLE t (k BIGINT, s STRUCT(a INTEGER, b VARCHAR), u UNION(x INTEGER, y VARCHAR)); CREATE INDEX i ON t (k)",
    "CREATE TABLE t (k BIGINT, s STRUCT(a INTEGER, b VARCHAR), u UNION(x INTEGER, y VARCHAR))",
];

const TEXT: &str = "a text that is too long to be kept in its place";

/// SQL that gives the rows from `first` to before `end`.
fn select(first: i64, end: i64) -> String {
    format!(
        "SELECT range AS k, {{a: NULL::INTEGER, b: '{TEXT}'}} AS s, 7::UNION(x INTEGER, y VARCHAR) AS u FROM range({first}, {end})"
    )
}

/// The new rows, as a put sends them: without the union.
fn batch() -> RecordBatch {
    let rows = usize::try_from(ROWS).unwrap();
    let fields: Vec<(Arc<Field>, ArrayRef)> = vec![
        (
            Arc::new(Field::new("a", DataType::Int32, true)),
            Arc::new(Int32Array::new_null(rows)),
        ),
        (
            Arc::new(Field::new("b", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![TEXT; rows])),
        ),
    ];
    let columns: [(_, ArrayRef); 2] = [
        (
            "k",
            Arc::new(Int64Array::from_iter_values(
                ROWS_BEFORE..ROWS_BEFORE + ROWS,
            )),
        ),
        ("s", Arc::new(StructArray::from(fields))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn make(client: &Client, table: &str) {
    client
        .execute(&format!("DROP TABLE IF EXISTS t; {table}"))
        .await;
    let before = format!("INSERT INTO t {}", select(0, ROWS_BEFORE));
    client.execute(&before).await;
}

/// Asserts that there are so many rows, all of them as they were sent.
async fn assert_whole(client: &Client, rows: i64, how: &str) {
    let found = format!(
        "SELECT count(*), count(DISTINCT k), count(s.a), count(*) FILTER (s.b = '{TEXT}'), min(coalesce(u.x, 7)), count(u.y) FROM t"
    );
    let expected = format!("{rows}|{rows}|0|{rows}|7|0");
    assert_eq!(client.rows(&found).await, [expected], "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn structs_of_a_large_put_stay_as_they_were_sent() {
    let (server, client) = start().await;
    for (table, put) in [
        (TABLES[0], r#"{"table": "t", "mode": "upsert"}"#),
        (TABLES[1], r#"{"table": "t"}"#),
        (TABLES[2], r#"{"table": "t"}"#),
        (
            TABLES[2],
            r#"{"table": "t", "mode": "upsert", "key": ["k"]}"#,
        ),
    ] {
        make(&client, table).await;
        client.put(&options(put), &[batch()]).await.unwrap();
        assert_whole(&client, ROWS_BEFORE + ROWS, &format!("{put} {table}")).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn structs_of_a_large_statement_stay_as_they_are() {
    let (server, client) = start().await;
    // What has structs and no rows of its own is left alone.
    client
        .execute(
            "CREATE VIEW v AS SELECT {a: 1} AS s; CREATE TABLE g (i BIGINT PRIMARY KEY, s STRUCT(i BIGINT) AS ({i: i}))",
        )
        .await;
    let new = select(ROWS_BEFORE, ROWS_BEFORE + ROWS);
    let all = ROWS_BEFORE + ROWS;
    for table in TABLES {
        for (script, rows) in [
            (format!("INSERT INTO t {new}"), all),
            (format!("SELECT 1; INSERT INTO t {new}"), all),
            (format!("BEGIN; INSERT INTO t {new}; COMMIT"), all),
            (
                format!("BEGIN; INSERT INTO t {new}; DELETE FROM t WHERE k = 6000; COMMIT"),
                all - 1,
            ),
            // The rest ends within the first row group.
            (
                format!("BEGIN; INSERT INTO t {new}; DELETE FROM t WHERE k >= 25000; COMMIT"),
                25_000,
            ),
            (
                format!("BEGIN; INSERT INTO t {new}; UPDATE t SET k = -k WHERE k % 5 = 0; COMMIT"),
                all,
            ),
        ] {
            make(&client, table).await;
            client.execute(&script).await;
            assert_whole(&client, rows, &format!("{script} {table}")).await;
        }
    }
    client
        .execute("BEGIN; INSERT INTO g FROM range(30000); DELETE FROM g WHERE i = 7; COMMIT")
        .await;
    assert_eq!(client.rows("SELECT count(s.i) FROM g").await, ["29999"]);
    server.shutdown().await;
}

/// Which of its rows are new cannot be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_column_called_rowid_takes_no_large_transaction_with_keys() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (i BIGINT PRIMARY KEY, \"RowID\" BIGINT)")
        .await;
    let put = options(r#"{"table": "t", "mode": "upsert"}"#);
    let refused = client.put(&put, &[ints(0..30_000)]).await;
    assert_refused(refused, Code::Unimplemented, &["rowid", "18432"]);
    let script = "BEGIN; INSERT INTO t (i) FROM range(30000); DELETE FROM t WHERE i = 7; COMMIT";
    let refused = client.try_execute(script).await;
    assert_refused(refused, Code::Unimplemented, &["rowid", "18432"]);
    assert_eq!(client.rows("SELECT count(*) FROM t").await, ["0"]);
    client.put(&put, &[ints(0..18_000)]).await.unwrap();
    client.execute("DELETE FROM t WHERE i >= 10").await;
    assert_eq!(client.rows("SELECT count(*) FROM t").await, ["10"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_called_rowid_is_in_the_way_of_no_other_table() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT PRIMARY KEY); INSERT INTO t FROM range(30000);
             CREATE TABLE other (rowid BIGINT, s STRUCT(a INTEGER)); INSERT INTO other VALUES (1, {a: 1})",
        )
        .await;
    client.execute("DELETE FROM t WHERE i >= 10").await;
    // Nor where it only gets some rows.
    client
        .execute(
            "BEGIN; INSERT INTO t SELECT range + 50000 FROM range(30000); INSERT INTO other VALUES (2, {a: 2});
             DELETE FROM t WHERE i < 50100; COMMIT",
        )
        .await;
    assert_eq!(client.count("t").await, 29_900);
    // Nor where it is not certain which tables have indexes: this may make one beside the transaction.
    client
        .execute("CREATE TABLE indexed (i BIGINT); CREATE INDEX by_i ON indexed (i)")
        .await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let insert = "INSERT INTO t SELECT range + 100000 FROM range(30000)";
    sql.update(insert, Some(&transaction)).await.unwrap();
    client
        .execute("CREATE INDEX IF NOT EXISTS by_i ON indexed (i)")
        .await;
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 59_900);
    assert_eq!(
        client.rows("SELECT rowid, s.a FROM other ORDER BY 1").await,
        ["1|1", "2|2"]
    );
    server.shutdown().await;
}

/// A macro may have the name of an operator.
#[tokio::test(flavor = "multi_thread")]
async fn structs_stay_as_they_were_sent_whatever_macros_there_are() {
    let (server, client) = start().await;
    client.execute("CREATE MACRO \"%\"(one, other) AS 1").await;
    make(&client, TABLES[2]).await;
    let put = options(r#"{"table": "t", "mode": "upsert", "key": ["k"]}"#);
    client.put(&put, &[batch()]).await.unwrap();
    assert_whole(&client, ROWS_BEFORE + ROWS, "with a macro").await;
    server.shutdown().await;
}

/// To rewrite them is to delete them.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_with_unions_are_committed_before_rows_that_refer_to_them() {
    const PARENTS: &str =
        "INSERT INTO p SELECT range, 7::UNION(x INTEGER, y VARCHAR) FROM range(30000)";
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE p (k BIGINT PRIMARY KEY, u UNION(x INTEGER, y VARCHAR)); CREATE TABLE c (k BIGINT REFERENCES p (k))",
        )
        .await;
    let script = format!("BEGIN; {PARENTS}; INSERT INTO c SELECT k FROM p WHERE k < 10; COMMIT");
    let refused = client.try_execute(script).await;
    assert_refused(refused, Code::Unimplemented, &["commit them before"]);
    let script = format!("BEGIN; {PARENTS}; COMMIT; INSERT INTO c SELECT k FROM p WHERE k < 10");
    client.execute(&script).await;
    assert_eq!(
        client.rows("SELECT count(*) FROM p JOIN c USING (k)").await,
        ["10"]
    );
    server.shutdown().await;
}

/// Of what it reads from a table DuckDB writes batches to the file that are no whole row group, from nine tenths of one on.
#[tokio::test(flavor = "multi_thread")]
async fn structs_stay_as_they_are_where_nearly_a_row_group_is_inserted() {
    let (server, client) = start().await;
    let source = format!("CREATE TABLE source AS {}", select(0, 200_000));
    client.execute(&source).await;
    client
        .execute("CREATE TABLE other AS FROM source LIMIT 0")
        .await;
    for table in TABLES {
        for rows in [18_431, 18_432, 19_000, 20_479, 20_480] {
            let insert = format!(
                "INSERT INTO t SELECT k + {ROWS_BEFORE}, s, u FROM source WHERE k < {rows}"
            );
            for script in [
                insert.clone(),
                format!("{insert} ORDER BY k"),
                format!("SELECT 1; {insert}"),
                format!("BEGIN; INSERT INTO other FROM source LIMIT 60000; {insert}; COMMIT"),
            ] {
                make(&client, table).await;
                client.execute(&script).await;
                assert_whole(&client, ROWS_BEFORE + rows, &format!("{script} {table}")).await;
            }
        }
    }
    server.shutdown().await;
}
