//! What a put promises: all of it or nothing, into the columns it names.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use duck_flight_protocol::TableName;
use duck_tests::{
    Setup, assert_refused, empty_message, ints, numbered, options, pairs, rows_at_rest, soon, start,
};
use tonic::Code;

fn columns(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().map(|(name, column)| (*name, column.clone())))
        .unwrap()
}

fn integers(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn create_says_when_a_table_is_made() {
    let (server, client) = start().await;
    let never = options(r#"{"table":"t","create":"never"}"#);
    assert_refused(
        client.put(&never, &[ints(0..3)]).await,
        Code::NotFound,
        &["t"],
    );
    let always = options(r#"{"table":"t","create":"always"}"#);
    assert_eq!(client.put(&always, &[ints(0..3)]).await.unwrap()[0].rows, 3);
    assert_refused(
        client.put(&always, &[ints(0..3)]).await,
        Code::AlreadyExists,
        &["t"],
    );
    assert_eq!(client.put(&never, &[ints(0..3)]).await.unwrap()[0].rows, 3);
    assert_eq!(client.append("t", &[ints(0..3)]).await.unwrap(), 3);
    assert_eq!(client.count("t").await, 9);
    let replace = options(r#"{"table":"t","create":"replace"}"#);
    assert_eq!(
        client.put(&replace, &[pairs(&[(1, "x")])]).await.unwrap()[0].rows,
        1
    );
    assert_eq!(client.rows("SELECT * FROM t").await, ["1|x"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_put_leaves_what_was_there() {
    let (server, client) = start().await;
    client.append("t", &[ints(0..3)]).await.unwrap();
    for (table, create) in [
        ("t", "replace"),
        ("fresh", "replace"),
        ("fresh", "if_missing"),
        ("fresh", "always"),
    ] {
        let put_options = options(&format!(r#"{{"table":"{table}","create":"{create}"}}"#));
        let mut put = client.open_put(&put_options, &pairs(&[]).schema()).await;
        put.send_batch(&pairs(&[(1, "x")])).await;
        put.send_batch(&ints(0..3)).await;
        assert_refused(
            soon("a refusal", put.ack()).await.unwrap(),
            Code::InvalidArgument,
            &[],
        );
    }
    assert_eq!(
        client.rows("SELECT * FROM t ORDER BY i").await,
        ["0", "1", "2"]
    );
    let fresh = client.try_rows("SELECT * FROM fresh").await;
    assert!(fresh.is_err() || fresh.is_ok_and(|rows| rows.is_empty()));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_match_by_name() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (a BIGINT DEFAULT 7, \"B b\" VARCHAR DEFAULT 'none', c BIGINT)")
        .await;
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let one = || integers(&[Some(1)]);
    client
        .append(
            "t",
            &[columns(&[
                ("C", one()),
                ("b b", texts.clone()),
                ("A", integers(&[Some(2)])),
            ])],
        )
        .await
        .unwrap();
    client
        .append("t", &[columns(&[("c", one())])])
        .await
        .unwrap();
    client
        .append("t", &[columns(&[("a", integers(&[None]))])])
        .await
        .unwrap();
    assert_eq!(
        client.rows("FROM t ORDER BY ALL").await,
        ["2|x|1", "7|none|1", "NULL|none|NULL"]
    );
    let unknown = columns(&[("a", one()), ("zebra", one())]);
    assert_refused(
        client.append("t", &[unknown]).await,
        Code::InvalidArgument,
        &["zebra"],
    );
    let twice = columns(&[("a", one()), ("A", one())]);
    assert_refused(
        client.append("t", std::slice::from_ref(&twice)).await,
        Code::InvalidArgument,
        &["A"],
    );
    assert_refused(
        client.append("new", &[twice]).await,
        Code::InvalidArgument,
        &["A"],
    );
    assert_eq!(client.count("t").await, 3);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_acknowledged_in_order_while_the_stream_goes_on() {
    let (server, client) = start().await;
    let batch_commit = options(r#"{"table":"t","commit":"batch"}"#);
    let mut put = client.open_put(&batch_commit, &ints([]).schema()).await;
    for rows in [3_i64, 2048, 1, 5000] {
        put.send_batch(&ints(0..rows)).await;
        let ack = soon("an ack", put.ack()).await.unwrap().unwrap();
        assert_eq!(ack.rows, rows.unsigned_abs());
    }
    assert_eq!(client.count("t").await, 7052);
    for rows in 1..=200 {
        put.send_batch(&ints(0..rows)).await;
    }
    let acks = put.finish().await.unwrap();
    assert_eq!(
        acks.iter().map(|ack| ack.rows).collect::<Vec<_>>(),
        (1..=200).collect::<Vec<_>>()
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_before_and_behind_batches_without_rows_are_inserted() {
    let (server, client) = start().await;
    let schema = ints([]).schema();
    let (mut start, mut acknowledged) = (0, 0);
    // The table is made by the first unit, and has a prepared INSERT for those that follow.
    for sizes in [
        &[10][..],
        &[0],
        &[0, 5000],
        &[5000, 0, 0, 3000],
        &[1, 0, 2047, 0, 1025, 0],
        &[3000; 40],
        &[0, 30_000, 0, 1],
    ] {
        for commit in ["stream", "batch"] {
            let put_options = options(&format!(r#"{{"table":"t","commit":"{commit}"}}"#));
            let put = client.open_put(&put_options, &schema).await;
            for rows in sizes {
                match rows {
                    0 => put.send(empty_message(&schema)).await,
                    rows => put.send_batch(&ints(start..start + rows)).await,
                }
                start += rows;
            }
            let acks = put.finish().await.unwrap();
            acknowledged += acks.iter().map(|ack| ack.rows).sum::<u64>();
            assert_eq!(acknowledged, start.unsigned_abs(), "{sizes:?}");
            let rows = client
                .rows("SELECT count(*), count(DISTINCT i) FROM t")
                .await;
            assert_eq!(rows, [format!("{start}|{start}")], "{sizes:?}, {commit}");
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_batch_ends_a_batch_commit_stream_and_those_before_it_stay() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (i BIGINT CHECK (i < 100))")
        .await;
    let batch_commit = options(r#"{"table":"t","commit":"batch"}"#);
    let mut put = client.open_put(&batch_commit, &ints([]).schema()).await;
    for values in [0..3, 3..6, 99..102, 6..9] {
        put.send_batch(&ints(values)).await;
    }
    put.end().await;
    assert_eq!(put.ack().await.unwrap().unwrap().rows, 3);
    assert_eq!(put.ack().await.unwrap().unwrap().rows, 3);
    assert_refused(put.ack().await.unwrap(), Code::InvalidArgument, &["CHECK"]);
    // What was sent after the refused batch may be in the table or not, but only whole.
    let rows = client.count("t").await;
    assert!(rows == 6 || rows == 9, "{rows}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_name_is_just_a_name() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE y (i BIGINT); CREATE SCHEMA s")
        .await;
    for name in [
        r#"x"; DROP TABLE y; --"#,
        "select",
        "a.b",
        "ü 🦆",
        "'",
        "\\",
        "new\nline",
        "%s",
        "$1",
    ] {
        assert_eq!(
            client.append(name, &[ints(0..3)]).await.unwrap(),
            3,
            "{name}"
        );
        assert_eq!(
            client.append(name, &[ints(0..3)]).await.unwrap(),
            3,
            "{name}"
        );
        assert_eq!(client.count(&TableName::from(name).to_sql()).await, 6);
        let column = columns(&[(name, integers(&[Some(1)]))]);
        assert_eq!(
            client
                .append(&format!("c {name}"), &[column])
                .await
                .unwrap(),
            1
        );
    }
    assert_eq!(client.count("y").await, 0);
    let qualified = options(r#"{"table":{"schema":"s","table":"t"}}"#);
    assert_eq!(
        client.put(&qualified, &[ints(0..5)]).await.unwrap()[0].rows,
        5
    );
    assert_eq!(client.count("s.t").await, 5);
    let missing = options(r#"{"table":{"schema":"nowhere","table":"t"}}"#);
    assert_refused(
        client.put(&missing, &[ints(0..5)]).await,
        Code::NotFound,
        &["nowhere"],
    );
    let catalog = options(r#"{"table":{"catalog":"test","schema":"s","table":"t"}}"#);
    assert_eq!(
        client.put(&catalog, &[ints(0..5)]).await.unwrap()[0].rows,
        5
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_nul_is_refused_and_harms_nobody() {
    let (server, client) = start().await;
    let batch = columns(&[("a\0b", integers(&[Some(1)]))]);
    for _ in 0..4 {
        assert_refused(
            client.append("t", std::slice::from_ref(&batch)).await,
            Code::InvalidArgument,
            &["NUL"],
        );
    }
    let child = Arc::new(Field::new("a\0b", DataType::Int64, true));
    let in_struct: ArrayRef = Arc::new(StructArray::from(vec![(
        child.clone(),
        integers(&[Some(1)]),
    )]));
    let offsets = OffsetBuffer::from_lengths([1]);
    let in_list: ArrayRef = Arc::new(ListArray::new(child, offsets, integers(&[Some(1)]), None));
    for nested in [in_struct, in_list] {
        for _ in 0..4 {
            let nested = columns(&[("s", nested.clone())]);
            assert_refused(
                client.append("t", &[nested]).await,
                Code::InvalidArgument,
                &["NUL"],
            );
        }
    }
    assert_eq!(client.append("t", &[ints(0..3)]).await.unwrap(), 3);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_altered_under_an_open_stream_matches_by_name_or_refuses() {
    // What is done to the table, and what the second batch of (batch, row) then comes to.
    let cases: [(&str, Option<&str>); 7] = [
        (
            "ALTER TABLE t ADD COLUMN extra BIGINT DEFAULT 5",
            Some("1|0|5"),
        ),
        ("ALTER TABLE t DROP COLUMN batch", None),
        ("ALTER TABLE t RENAME COLUMN batch TO other", None),
        ("ALTER TABLE t ALTER COLUMN batch TYPE VARCHAR", Some("1|0")),
        (
            "CREATE OR REPLACE TABLE t (\"row\" BIGINT, batch BIGINT)",
            Some("0|1"),
        ),
        (
            "CREATE OR REPLACE TABLE t (batch DATE, \"row\" BIGINT)",
            None,
        ),
        ("DROP TABLE t", Some("1|0")),
    ];
    let batch_commit = options(r#"{"table":"t","commit":"batch"}"#);
    for (ddl, expected) in cases {
        let (_server, client) = start().await;
        let mut put = client
            .open_put(&batch_commit, &numbered(0, 0).schema())
            .await;
        put.send_batch(&numbered(0, 1)).await;
        assert_eq!(soon("an ack", put.ack()).await.unwrap().unwrap().rows, 1);
        client.execute(ddl).await;
        put.send_batch(&numbered(1, 1)).await;
        let outcome = soon("an answer", put.ack()).await.unwrap();
        match expected {
            Some(row) => {
                outcome.unwrap_or_else(|error| panic!("{ddl}: {error:?}"));
                let rows = client.rows("FROM t").await;
                assert!(rows.contains(&row.to_owned()), "{ddl}: {rows:?}");
            }
            None => {
                let rows = client.rows("FROM t").await;
                assert!(
                    outcome.is_err(),
                    "{ddl}: it was accepted, and the table holds {rows:?}"
                );
                assert_refused(outcome, Code::InvalidArgument, &["batch"]);
            }
        }
        drop((put, client));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tables_take_rows() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (i BIGINT); CREATE VIEW v AS FROM t")
        .await;
    for create in ["if_missing", "never", "always", "replace"] {
        let put = client
            .put(
                &options(&format!(r#"{{"table":"v","create":"{create}"}}"#)),
                &[ints(0..3)],
            )
            .await;
        let error = put.expect_err("a view takes no rows");
        let codes = [
            Code::InvalidArgument,
            Code::AlreadyExists,
            Code::NotFound,
            Code::FailedPrecondition,
        ];
        assert!(codes.contains(&error.code()), "{create}: {error:?}");
        assert!(error.message().contains('v'), "{error:?}");
    }
    assert_eq!(client.count("v").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_break_a_constraint_are_refused_with_its_name_and_nothing_is_inserted() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE parent (id BIGINT PRIMARY KEY);
             CREATE TABLE n (i BIGINT NOT NULL); CREATE TABLE p (i BIGINT PRIMARY KEY);
             CREATE TABLE u (i BIGINT UNIQUE); CREATE TABLE c (i BIGINT CHECK (i <> 4));
             CREATE TABLE f (i BIGINT REFERENCES parent (id))",
        )
        .await;
    let values: Vec<_> = (0..5000).map(Some).collect();
    let changed = |at: usize, to: Option<i64>| {
        let mut values = values.clone();
        values[at] = to;
        columns(&[("i", integers(&values))])
    };
    let cases = [
        ("n", changed(4000, None), "NOT NULL"),
        ("p", changed(4000, Some(17)), "17"),
        ("p", changed(4000, None), "NOT NULL"),
        ("u", changed(4000, Some(17)), "17"),
        ("c", changed(4000, Some(4)), "CHECK"),
        ("f", changed(0, Some(1)), "foreign key"),
    ];
    for (table, batch, word) in cases {
        assert_refused(
            client.append(table, &[batch]).await,
            Code::InvalidArgument,
            &[word],
        );
        assert_eq!(client.count(table).await, 0, "{table}");
    }
    client.append("p", &[ints([17])]).await.unwrap();
    assert_refused(
        client.append("p", &[ints([16, 17])]).await,
        Code::InvalidArgument,
        &["17"],
    );
    assert_eq!(client.count("p").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_generated_columns_takes_the_others() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE g (i BIGINT, twice BIGINT AS (i * 2), s VARCHAR DEFAULT 'd')")
        .await;
    client
        .append("g", &[columns(&[("i", integers(&[Some(4)]))])])
        .await
        .unwrap();
    client.append("g", &[pairs(&[(5, "five")])]).await.unwrap();
    assert_eq!(
        client.rows("SELECT i, twice, s FROM g ORDER BY i").await,
        ["4|8|d", "5|10|five"]
    );
    let generated = columns(&[("i", integers(&[Some(1)])), ("twice", integers(&[Some(3)]))]);
    assert_refused(
        client.append("g", &[generated]).await,
        Code::InvalidArgument,
        &["twice"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_larger_than_the_buffer_goes_in_whole() {
    let setup = Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    let batches: Vec<_> = (0..30).map(|batch| numbered(batch, 100_000)).collect();
    assert_eq!(client.append("t", &batches).await.unwrap(), 3_000_000);
    let sums = "SELECT count(*), count(DISTINCT batch), sum(\"row\") FROM t";
    assert_eq!(client.rows(sums).await, ["3000000|30|149998500000"]);
    let mut bad = batches;
    bad.push(numbered(30, 1));
    client
        .execute("CREATE TABLE k (batch BIGINT, \"row\" BIGINT CHECK (batch < 30))")
        .await;
    assert_refused(
        client.append("k", &bad).await,
        Code::InvalidArgument,
        &["CHECK"],
    );
    assert_eq!(client.count("k").await, 0);
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_behind_the_one_that_replaces_their_table_go_into_the_new_one() {
    let (server, client) = start().await;
    let put = options(r#"{"table":"t","create":"replace","commit":"batch"}"#);
    for old in ["s VARCHAR", "i DATE", "i VARCHAR, j BIGINT"] {
        client
            .execute(&format!("CREATE OR REPLACE TABLE t ({old})"))
            .await;
        let batches: Vec<_> = (0..20).map(|number| ints([number])).collect();
        let acks = client.put(&put, &batches).await.unwrap();
        assert_eq!(acks.len(), 20);
        let stored = client.rows("SELECT count(*), sum(i) FROM t").await;
        assert_eq!(stored, ["20|190"], "{old}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_behind_the_one_that_makes_their_table_go_into_it() {
    let setup = Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    // The first one takes so long that the next one comes while it is being written.
    let batches = [
        numbered(0, 400_000),
        numbered(1, 100_000),
        numbered(2, 100_000),
    ];
    for (create, before) in [
        ("always", "DROP TABLE IF EXISTS t"),
        ("replace", "CREATE OR REPLACE TABLE t (s VARCHAR)"),
    ] {
        client.execute(before).await;
        let put = options(&format!(
            r#"{{"table":"t","create":"{create}","commit":"batch"}}"#
        ));
        let acks = client.put(&put, &batches).await.expect(create);
        let rows: Vec<_> = acks.iter().map(|ack| ack.rows).collect();
        assert_eq!(rows, [400_000, 100_000, 100_000], "{create}");
        let stored = client
            .rows("SELECT count(*), count(DISTINCT batch) FROM t")
            .await;
        assert_eq!(stored, ["600000|3"], "{create}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_that_makes_its_table_holds_up_no_checkpoint() {
    for create in ["always", "replace"] {
        let (server, client) = start().await;
        let put = options(&format!(r#"{{"table":"t","create":"{create}"}}"#));
        if create == "replace" {
            client.execute("CREATE TABLE t AS SELECT 'old' AS s").await;
        }
        let batch = ints(0..300_000);
        let put = client.open_put(&put, &batch.schema()).await;
        for _ in 0..12 {
            soon("a batch taken", put.send_batch(&batch)).await;
        }
        assert_eq!(client.append("other", &[ints([1])]).await.unwrap(), 1);
        client.execute("CHECKPOINT").await;
        // Until the commit nobody sees anything of it.
        match create {
            "replace" => assert_eq!(client.rows("FROM t").await, ["old"]),
            _ => assert_eq!(
                client.try_rows("FROM t").await.unwrap_err().code(),
                Code::NotFound
            ),
        }
        assert_eq!(put.finish().await.unwrap()[0].rows, 12 * 300_000);
        let in_order = "SELECT count(*), bool_and(i = rowid % 300000) FROM t";
        assert_eq!(client.rows(in_order).await, ["3600000|true"]);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_that_makes_its_table_is_refused_where_another_one_was_faster() {
    let (server, client) = start().await;
    let put = options(r#"{"table":"t","create":"always"}"#);
    let batch = ints(0..300_000);
    let put = client.open_put(&put, &batch.schema()).await;
    for _ in 0..12 {
        soon("a batch taken", put.send_batch(&batch)).await;
    }
    assert_eq!(client.append("t", &[ints([1])]).await.unwrap(), 1);
    assert_refused(put.finish().await, Code::AlreadyExists, &["t"]);
    assert_eq!(client.rows("FROM t").await, ["1"]);
    server.shutdown().await;
}
