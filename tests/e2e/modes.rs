//! Upserts, deletes and changes of many loaders at once: nobody pays for another one, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duck_tests::{assert_refused, eventually, ints, options, rows_at_rest, soon, start};
use futures::future::join_all;
use tokio::sync::Barrier;
use tonic::Code;

/// A batch of operations on keys, with a value for each.
fn changes(rows: &[(i64, i64, &str)]) -> RecordBatch {
    let keys = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let columns: [(_, ArrayRef); 2] = [("k", Arc::new(keys)), ("v", Arc::new(values))];
    let ops: Vec<_> = rows.iter().map(|row| row.2).collect();
    with_ops(&RecordBatch::try_from_iter(columns).unwrap(), &ops)
}

/// A batch of keys `k`, all with the value `v`.
fn keyed(keys: impl IntoIterator<Item = i64>, value: i64) -> RecordBatch {
    let keys = Int64Array::from_iter_values(keys);
    let values = Int64Array::from_iter_values(std::iter::repeat_n(value, keys.values().len()));
    let columns: [(_, ArrayRef); 2] = [("k", Arc::new(keys)), ("v", Arc::new(values))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The batch with its operations.
fn with_ops(batch: &RecordBatch, ops: &[&str]) -> RecordBatch {
    let ops: ArrayRef = Arc::new(StringArray::from_iter_values(ops));
    let columns = [
        ("k", batch.column(0).clone()),
        ("v", batch.column(1).clone()),
        ("op", ops),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A batch of UUIDs as text, which DuckDB casts, with values and the operation; the row `bad` is no UUID.
fn uuids(index: usize, bad: Option<usize>) -> RecordBatch {
    let keys = (0..50).map(|row| match bad {
        Some(bad) if bad == row => "no uuid".to_owned(),
        _ => format!("00000000-0000-0000-{index:04}-{row:012}"),
    });
    let columns: [(_, ArrayRef); 3] = [
        ("k", Arc::new(StringArray::from_iter_values(keys))),
        ("v", Arc::new(Int64Array::from(vec![1; 50]))),
        ("op", Arc::new(StringArray::from(vec!["u"; 50]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_fails_fails_alone_in_every_mode() {
    let (server, client) = start().await;
    for (round, mode) in ["append", "upsert", "changes", "delete"]
        .into_iter()
        .enumerate()
    {
        // Deleted is what the changes left.
        if mode != "delete" {
            client
                .execute("CREATE OR REPLACE TABLE t (k UUID PRIMARY KEY, v BIGINT)")
                .await;
        }
        let bad = 7 + 13 * round;
        let barrier = Arc::new(Barrier::new(64));
        let puts = (0..64).map(|index| {
            let (client, barrier) = (client.clone(), barrier.clone());
            async move {
                let batch = uuids(index, (index == bad).then_some(30));
                let batch = match mode {
                    "changes" => batch,
                    _ => batch.project(&[0, 1]).unwrap(),
                };
                let put_options = options(&format!(r#"{{"table":"t","mode":"{mode}"}}"#));
                barrier.wait().await;
                client.put(&put_options, &[batch]).await
            }
        });
        for (index, outcome) in join_all(puts).await.into_iter().enumerate() {
            match outcome {
                Ok(acks) => assert!(acks[0].rows == 50 && index != bad, "{mode}"),
                Err(error) => {
                    assert_eq!(index, bad, "{mode}: {error:?}");
                    assert_eq!(error.code(), Code::InvalidArgument, "{mode}: {error:?}");
                    assert!(error.message().contains("row 31"), "{mode}: {error:?}");
                }
            }
        }
        // The bad put of changes left its keys out, and the bad one of deletes left them in.
        let left = if mode == "delete" { 50 } else { 63 * 50 };
        assert_eq!(client.count("t").await, left, "{mode}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_that_upsert_the_same_keys_all_succeed() {
    const ROUNDS: i64 = 50;
    for commit in ["stream", "batch"] {
        let (server, client) = start().await;
        let json = format!(r#"{{"table":"t","mode":"upsert","key":["k"],"commit":"{commit}"}}"#);
        let put_options = options(&json);
        let barrier = Arc::new(Barrier::new(8));
        let mut loaders = Vec::new();
        for loader in 0..8 {
            let (client, barrier) = (server.client().await, barrier.clone());
            let put_options = put_options.clone();
            loaders.push(tokio::spawn(async move {
                let units: Vec<_> = (0..ROUNDS)
                    .map(|round| keyed(0..100, loader * 1000 + round))
                    .collect();
                barrier.wait().await;
                if put_options.commit == duck_flight_protocol::Commit::Batch {
                    return client
                        .put(&put_options, &units)
                        .await
                        .map(|acks| acks.len());
                }
                for unit in units {
                    client.put(&put_options, &[unit]).await?;
                }
                Ok(50)
            }));
        }
        for loader in join_all(loaders).await {
            assert_eq!(loader.unwrap().unwrap(), 50);
        }
        // Units are applied one after the other: all keys have the value of the last unit of one loader.
        let state = format!(
            "SELECT count(*), count(DISTINCT k), count(DISTINCT v), any_value(v % 1000) = {} FROM t",
            ROUNDS - 1
        );
        assert_eq!(client.rows(&state).await, ["100|100|1|true"], "{commit}");
        server.shutdown().await;
    }
}

/// Does something over and over until told to stop; answers with how often.
fn again_and_again<F: Future<Output = ()> + Send + 'static>(
    over: &Arc<AtomicBool>,
    what: impl Fn() -> F + Send + 'static,
) -> tokio::task::JoinHandle<u64> {
    let over = over.clone();
    tokio::spawn(async move {
        let mut times = 0;
        while !over.load(Ordering::Acquire) {
            what().await;
            times += 1;
        }
        times
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_deletes_and_appends_succeed_beside_the_sql_of_clients() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT, n BIGINT DEFAULT 0)")
        .await;
    let over = Arc::new(AtomicBool::new(false));
    let sql = server.client().await;
    let updates = again_and_again(&over, move || {
        let sql = sql.clone();
        async move {
            sql.execute("UPDATE t SET n = n + 1 WHERE k < 150 OR k BETWEEN 1000 AND 1100")
                .await;
        }
    });
    let upsert = options(r#"{"table":"t","mode":"upsert"}"#);
    let delete = options(r#"{"table":"t","mode":"delete"}"#);
    let mut loaders = Vec::new();
    for loader in 0..4_i64 {
        let (client, upsert, delete) = (server.client().await, upsert.clone(), delete.clone());
        loaders.push(tokio::spawn(async move {
            for round in 0..60 {
                client.put(&upsert, &[keyed(0..100, round)]).await?;
                let own = 10_000 * (loader + 1) + 100 * round;
                client.append("t", &[keyed(own..own + 100, round)]).await?;
                client.put(&delete, &[keyed(1000..1050, 0)]).await?;
                client.put(&upsert, &[keyed(1000..1100, round)]).await?;
                client.put(&delete, &[keyed(own..own + 50, 0)]).await?;
            }
            Ok::<_, tonic::Status>(())
        }));
    }
    for loader in join_all(loaders).await {
        loader.unwrap().unwrap();
    }
    over.store(true, Ordering::Release);
    assert!(updates.await.unwrap() > 0);
    let state = "SELECT count(*) FILTER (k < 100 AND v = 59), count(*) FILTER (k BETWEEN 1000 AND 1099), \
                 count(*) FILTER (k >= 10000), count(*) FROM t";
    assert_eq!(client.rows(state).await, ["100|100|12000|12200"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_upserts_go_on_beside_a_large_one() {
    const LARGE: i64 = 1_200_000;
    let (server, client) = start().await;
    let (t, u) = (
        options(r#"{"table":"t","mode":"upsert","key":["k"]}"#),
        options(r#"{"table":"u","mode":"upsert","key":["k"]}"#),
    );
    client.put(&t, &[keyed(0..100, 0)]).await.unwrap();
    let mut large = client.open_put(&t, &keyed([], 0).schema()).await;
    for start in (0..LARGE).step_by(100_000) {
        large.send_batch(&keyed(start..start + 100_000, 1)).await;
        // Before its end a large unit keeps nobody waiting.
        for put_options in [&t, &u] {
            let batch = [keyed(0..50, 2)];
            let put = client.put(put_options, &batch);
            soon("a small upsert", put).await.unwrap();
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut small = Vec::new();
    for put_options in [&t, &u] {
        let (client, put_options) = (server.client().await, put_options.clone());
        small.push(again_and_again(&over, move || {
            let (client, put_options) = (client.clone(), put_options.clone());
            async move {
                let batch = [keyed(50..100, 3)];
                let put = client.put(&put_options, &batch);
                soon("a small upsert", put).await.unwrap();
            }
        }));
    }
    large.end().await;
    let ack = eventually("the large unit's ack", large.ack())
        .await
        .unwrap();
    assert_eq!(ack.unwrap().rows, LARGE.unsigned_abs());
    over.store(true, Ordering::Release);
    for small in join_all(small).await {
        assert!(small.unwrap() > 0);
    }
    client.put(&t, &[keyed(50..100, 4)]).await.unwrap();
    let state = "SELECT count(*), count(*) FILTER (k < 50 AND v = 1), count(*) FILTER (v = 4), sum(v) FROM t";
    let sum = LARGE + 3 * 50;
    assert_eq!(client.rows(state).await, [format!("{LARGE}|50|50|{sum}")]);
    server.shutdown().await;
}

/// DuckDB shows the row groups that a MERGE inserts before their commit is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_as_it_is_while_many_keys_are_merged() {
    const STEP: i64 = 30_000;
    const LAST: i64 = 40 * STEP;
    let (server, client) = start().await;
    let changes = options(r#"{"table":"t","mode":"changes","key":["k"],"op":"op"}"#);
    let upsert = options(r#"{"table":"t","mode":"upsert","key":["k"]}"#);
    client.put(&upsert, &[keyed(0..STEP, 0)]).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let readers = (0..3).map(|_| {
        let (sql, over) = (client.sql(), over.clone());
        tokio::spawn(async move { sql.watch_snapshots("t", "k", over).await })
    });
    let readers: Vec<_> = readers.collect();
    // Half of the keys are there, and half are new.
    for start in (0..LAST / STEP - 1).map(|step| step * STEP) {
        let batch = keyed(start..start + 2 * STEP, start);
        if start % (2 * STEP) == 0 {
            client.put(&upsert, &[batch]).await.unwrap();
        } else {
            // The first key is deleted in the end, and the last one comes back.
            let ops = vec!["u"; batch.num_rows()];
            let mut puts = vec![with_ops(&batch, &ops)];
            let keys = [start, start + 2 * STEP - 1];
            puts.push(with_ops(&keyed(keys, start), &["d", "d"]));
            puts.push(with_ops(&keyed([keys[1]], start), &["c"]));
            client.put(&changes, &puts).await.unwrap();
        }
    }
    // So many are gathered in a table first.
    let large: Vec<_> = (0..LAST)
        .step_by(200_000)
        .map(|start| keyed(start..start + 200_000, -1))
        .collect();
    client.put(&upsert, &large).await.unwrap();
    over.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
    let state = "SELECT count(*), count(DISTINCT k), min(v), max(v) FROM t";
    assert_eq!(client.rows(state).await, [format!("{LAST}|{LAST}|-1|-1")]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_merged_as_few_are() {
    let (server, client) = start().await;
    let changes = options(r#"{"table":"t","mode":"changes","key":["k"],"op":"op"}"#);
    client.append("t", &[keyed(0..20_000, 0)]).await.unwrap();
    // Every third key is deleted, every fifth comes twice, and the last one of both counts.
    let ops: Vec<_> = (0..60_000)
        .map(|key| if key % 3 == 0 { "d" } else { "u" })
        .collect();
    let again: Vec<_> = (0..60_000).step_by(5).collect();
    let batches = [
        with_ops(&keyed(0..60_000, 1), &ops),
        with_ops(&keyed(again.clone(), 2), &vec!["c"; again.len()]),
    ];
    client.put(&changes, &batches).await.unwrap();
    let state = "SELECT count(*), count(*) FILTER (v = 0), count(*) FILTER (v = 1 AND k % 3 > 0 AND k % 5 > 0), \
                 count(*) FILTER (v = 2 AND k % 5 = 0) FROM t";
    assert_eq!(client.rows(state).await, ["44000|0|32000|12000"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_that_replaces_a_keyed_table_is_all_or_nothing() {
    let (server, client) = start().await;
    client.append("t", &[keyed(0..10, 0)]).await.unwrap();
    let replace = options(r#"{"table":"t","mode":"upsert","key":["k"],"create":"replace"}"#);
    let large = client.open_put(&replace, &keyed([], 0).schema()).await;
    for start in (0..4_000_000).step_by(100_000) {
        large.send_batch(&keyed(start..start + 100_000, 1)).await;
    }
    large.cancel().await;
    assert_eq!(client.count("t").await, 10);
    // Its end has come by then, and none of its rows.
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_unit_deletes_is_gone_for_the_next_one_however_they_share_commits() {
    const KEYS: i64 = 200;
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT, kept BIGINT DEFAULT 7)")
        .await;
    client
        .execute(&format!(
            "INSERT INTO t SELECT range, 0, 5 FROM range({KEYS})"
        ))
        .await;
    let options = options(r#"{"table":"t","mode":"changes","op":"op","commit":"batch"}"#);
    let units = (0..KEYS).flat_map(|key| [changes(&[(key, 0, "D")]), changes(&[(key, 2, "I")])]);
    let units: Vec<_> = units.collect();
    let acks = client.put(&options, &units).await.unwrap();
    assert_eq!(acks.len(), units.len());
    let found = client
        .rows("SELECT count(*), sum(v), min(kept), max(kept) FROM t")
        .await;
    assert_eq!(found, [format!("{KEYS}|{}|7|7", 2 * KEYS)]);
    server.shutdown().await;
}

/// DuckDB's appender runs its statement in between once it has gathered 204,800 rows.
#[tokio::test(flavor = "multi_thread")]
async fn of_the_rows_with_one_key_the_last_one_counts_in_a_unit_of_any_size() {
    const KEYS: i64 = 150_000;
    let (server, client) = start().await;
    client
        .execute(&format!(
            "CREATE TABLE t AS SELECT range AS k, 0::BIGINT AS v, 5::BIGINT AS kept FROM range({KEYS})"
        ))
        .await;
    let options = options(r#"{"table":"t","mode":"changes","key":["k"],"op":"op"}"#);
    let rows = |value, op| (0..KEYS).map(move |key| (key, value, op));
    let unit: Vec<_> = rows(1, "D").chain(rows(2, "U")).collect();
    let acks = client.put(&options, &[changes(&unit)]).await.unwrap();
    assert_eq!(acks[0].rows, 2 * KEYS.cast_unsigned());
    let found = client
        .rows("SELECT count(*), min(v), max(v), count(kept), min(kept) FROM t")
        .await;
    assert_eq!(found, [format!("{KEYS}|2|2|{KEYS}|5")]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_empties_no_table_and_makes_none() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (i BIGINT PRIMARY KEY); INSERT INTO t FROM range(3)")
        .await;
    let row = ints([1]);
    for (option, word) in [
        (r#""create":"replace""#, "`create`"),
        (r#""create":"always""#, "`create`"),
        (r#""schema":"evolve""#, "`schema`"),
    ] {
        let json = format!(r#"{{"table":"t","mode":"delete",{option}}}"#);
        assert_refused(
            client
                .put(&options(&json), std::slice::from_ref(&row))
                .await,
            Code::InvalidArgument,
            &["`mode: delete`", word],
        );
    }
    assert_eq!(client.count("t").await, 3);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_column_that_says_what_a_row_is_is_none_of_the_key() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (op VARCHAR PRIMARY KEY, k BIGINT, v BIGINT)")
        .await;
    for put in [
        r#"{"table":"t","mode":"changes"}"#,
        r#"{"table":"t","mode":"changes","key":["OP"]}"#,
        r#"{"table":"new","mode":"changes","key":["k","op"]}"#,
        r#"{"table":"new","mode":"changes","key":["k","v"],"op":"V"}"#,
    ] {
        assert_refused(
            client.put(&options(put), &[changes(&[(1, 1, "I")])]).await,
            Code::InvalidArgument,
            &["says what each row is", "none of the key"],
        );
    }
    // Named otherwise, it is.
    let put = r#"{"table":"t","mode":"changes","key":["op"],"op":"what"}"#;
    let columns: [(_, ArrayRef); 2] = [
        ("op", Arc::new(StringArray::from(vec!["a"]))),
        ("what", Arc::new(StringArray::from(vec!["I"]))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    client.put(&options(put), &[rows]).await.unwrap();
    assert_eq!(client.rows("SELECT op FROM t").await, ["a"]);
    server.shutdown().await;
}
