//! Many loaders at once: they share commits, and nobody pays for another one's mistake.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use duck_flight_protocol::{Commit, ConnectOptions, PutOptions};
use duck_load::{Plan, Progress, Report, Stop, load};
use duck_tests::{TRIES, TestServer, empty_message, ints, numbered, start};
use futures::future::join_all;
use tokio::sync::Barrier;
use tonic::Code;

const ROWS: u64 = 500;

fn plan(table: &str, writers: usize, batches: u64, commit: Commit) -> Plan {
    Plan {
        rows: NonZeroU32::new(500).unwrap(),
        batches: NonZeroU64::new(batches),
        writers: NonZeroUsize::new(writers).unwrap(),
        commit,
        // What needs a retry is an error here.
        retries: 0,
        ..Plan::new(table)
    }
}

async fn run(server: &TestServer, plan: Plan) -> Report {
    let server = server.address().to_owned();
    let report = load(
        &ConnectOptions { server },
        &plan,
        Progress::silent(),
        Stop::never(),
    )
    .await;
    report.expect("a connection")
}

fn assert_clean(report: &Report, rows: u64) {
    assert_eq!((report.errors, report.unknown), (0, 0), "{report:?}");
    assert_eq!(report.rows, rows, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_fails_fails_alone() {
    let (server, client) = start().await;
    for round in 0..5_i64 {
        client
            .execute("CREATE OR REPLACE TABLE t (i BIGINT PRIMARY KEY); INSERT INTO t VALUES (-1)")
            .await;
        let bad = (round * 13) % 64;
        let barrier = Arc::new(Barrier::new(64));
        let puts = (0..64_i64).map(|index| {
            let (client, barrier) = (client.clone(), barrier.clone());
            async move {
                let start = index * 1000;
                let mut values: Vec<_> = (start..start + 100).collect();
                if index == bad {
                    values[50] = -1;
                }
                barrier.wait().await;
                client.append("t", &[ints(values)]).await
            }
        });
        for (index, outcome) in join_all(puts).await.into_iter().enumerate() {
            match outcome {
                Ok(rows) => assert!(rows == 100 && index as i64 != bad),
                Err(error) => {
                    assert_eq!(index as i64, bad, "{error:?}");
                    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
                    assert!(error.message().contains("-1"), "{error:?}");
                }
            }
        }
        assert_eq!(client.count("t").await, 63 * 100 + 1);
    }
    server.shutdown().await;
}

/// The server commits the batches of a put in their order and none behind one that it refused, so that a loader may send those
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_a_refused_batch_of_a_put_is_loaded_all_the_same() {
    let (server, client) = start().await;
    for round in 0..5 {
        client
            .execute(
                "CREATE OR REPLACE TABLE t (batch_id BIGINT CHECK (batch_id <> 105), timestamp TIMESTAMP, value DOUBLE, \
                 category VARCHAR)",
            )
            .await;
        let plan = Plan {
            first_batch_id: Some(100),
            verify: true,
            ..plan("t", 1, 12, Commit::Batch)
        };
        let report = run(&server, plan).await;
        assert_eq!((report.batches, report.errors), (11, 1), "{round} {report}");
        assert_eq!(report.unknown, 0, "{report}");
        assert!(report.verification.unwrap().verified);
        assert_eq!(client.count("t").await, 11 * ROWS);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_units_of_one_group_with_the_same_key_do_not_both_succeed() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (i BIGINT PRIMARY KEY)")
        .await;
    let puts = (0..32_i64).map(|index| {
        let client = client.clone();
        async move { client.append("t", &[ints([index / 2])]).await }
    });
    let outcomes = join_all(puts).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        16
    );
    assert_eq!(client.count("t").await, 16);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_without_rows_take_none_of_those_that_share_their_commit() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let schema = ints([]).schema();
    for round in 1..=10 {
        let puts = (0..32).map(|index| {
            let (client, schema) = (client.clone(), schema.clone());
            async move {
                let put = client.open_put(&PutOptions::new("t"), &schema).await;
                match index % 2 {
                    0 => put.send(empty_message(&schema)).await,
                    _ => put.send_batch(&ints(0..2000)).await,
                }
                put.finish().await.unwrap()[0].rows
            }
        });
        let acknowledged: u64 = join_all(puts).await.into_iter().sum();
        assert_eq!(acknowledged, 16 * 2000);
        assert_eq!(client.count("t").await, round * acknowledged);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_loaders_and_four_readers_work_at_the_same_time() {
    for commit in [Commit::Stream, Commit::Batch] {
        let server = TestServer::start().await;
        server
            .client()
            .await
            .execute("CREATE TABLE t (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR)")
            .await;
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        for _ in 0..4 {
            let (client, over) = (server.client().await, over.clone());
            readers.push(tokio::spawn(async move {
                let mut last = 0;
                let mut counts = 0;
                while !over.load(Ordering::Acquire) {
                    let count = client.count("t").await;
                    assert!(count >= last, "{count} after {last}");
                    assert_eq!(count % ROWS, 0, "part of a batch was seen");
                    let halves = "SELECT batch_id FROM t GROUP BY batch_id HAVING count(*) <> 500";
                    assert!(client.rows(halves).await.is_empty());
                    last = count;
                    counts += 1;
                }
                counts
            }));
        }
        let report = run(&server, plan("t", 8, 150, commit)).await;
        over.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
        assert_clean(&report, 8 * 150 * ROWS);
        assert_eq!(server.client().await.count("t").await, 8 * 150 * ROWS);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_planned_and_run_on_the_same_moment_of_a_table() {
    let (server, client) = start().await;
    // Small tables are planned by the exact range of their values, so each round begins with a new one.
    for round in 0..10 {
        let table = format!("t{round}");
        client.append(&table, &[numbered(0, 10)]).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        for _ in 0..4 {
            let (client, over) = (server.client().await, over.clone());
            let groups = format!("SELECT batch FROM {table} GROUP BY batch HAVING count(*) <> 10");
            readers.push(tokio::spawn(async move {
                while !over.load(Ordering::Acquire) {
                    assert!(client.rows(&groups).await.is_empty());
                }
            }));
        }
        for batch in 1..200 {
            client
                .append(&table, &[numbered(batch * 7, 10)])
                .await
                .unwrap();
        }
        over.store(true, Ordering::Release);
        for reader in readers {
            reader.await.unwrap();
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_that_race_to_create_a_table_all_succeed() {
    let (server, client) = start().await;
    for round in 0..10 {
        let table = format!("t{round}");
        let barrier = Arc::new(Barrier::new(16));
        let mut loaders = Vec::new();
        for index in 0..16_i64 {
            let (client, barrier, table) = (server.client().await, barrier.clone(), table.clone());
            loaders.push(tokio::spawn(async move {
                barrier.wait().await;
                // Some units are large enough for a transaction of their own.
                let rows = if index == 3 { 1_100_000 } else { 100 };
                (client.append(&table, &[numbered(index, rows)]).await, rows)
            }));
        }
        let mut total = 0;
        for loader in loaders {
            let (outcome, rows) = loader.await.unwrap();
            assert_eq!(outcome.unwrap(), rows.unsigned_abs());
            total += rows.unsigned_abs();
        }
        assert_eq!(client.count(&table).await, total);
        client.execute(&format!("DROP TABLE {table}")).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_loaders_that_race_to_create_always_one_succeeds() {
    let (server, client) = start().await;
    let options: PutOptions = serde_json::from_str(r#"{"table":"t","create":"always"}"#).unwrap();
    let puts = (0..16).map(|_| {
        let (client, options) = (client.clone(), options.clone());
        async move { client.put(&options, &[ints(0..10)]).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(puts).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        assert_eq!(error.unwrap_err().code(), Code::AlreadyExists);
    }
    assert_eq!(client.count("t").await, 10);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_beside_loaders_neither_fails_them_nor_spoils_their_rows() {
    for commit in [Commit::Stream, Commit::Batch] {
        let (server, client) = start().await;
        client
            .execute("CREATE TABLE t (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR)")
            .await;
        let over = Arc::new(AtomicBool::new(false));
        let added = Arc::new(AtomicU32::new(0));
        let churn = tokio::spawn({
            let (client, over, columns) = (client.clone(), over.clone(), added.clone());
            async move {
                while !over.load(Ordering::Acquire) {
                    client
                        .execute("CREATE OR REPLACE TABLE other AS FROM range(100)")
                        .await;
                    let added = columns.load(Ordering::Acquire);
                    let add =
                        format!("ALTER TABLE t ADD COLUMN extra{added} INTEGER DEFAULT {added}");
                    // Rows that were just committed are a conflict, which a client of SQL tries again.
                    match client.try_execute(add).await {
                        Ok(_) => columns.store(added + 1, Ordering::Release),
                        Err(error) => assert_eq!(error.code(), Code::Aborted, "{error:?}"),
                    }
                    client.execute("DROP TABLE other").await;
                }
            }
        });
        let mut rows = 0;
        for _ in 0..TRIES {
            let report = run(&server, plan("t", 4, 50, commit)).await;
            assert_clean(&report, 4 * 50 * ROWS);
            rows += report.rows;
            if added.load(Ordering::Acquire) > 0 {
                break;
            }
        }
        over.store(true, Ordering::Release);
        churn.await.unwrap();
        assert!(added.load(Ordering::Acquire) > 0);
        assert_eq!(client.count("t").await, rows);
        let wrong = "SELECT count(*) FROM t WHERE value NOT BETWEEN 0 AND 100 OR category NOT IN ('A', 'B', 'C', 'D') \
             OR value IS NULL OR category IS NULL OR timestamp IS NULL OR extra0 IS DISTINCT FROM 0";
        assert_eq!(client.rows(wrong).await, ["0"]);
        let halves = "SELECT batch_id FROM t GROUP BY batch_id HAVING count(*) <> 500";
        assert!(client.rows(halves).await.is_empty());
        server.shutdown().await;
    }
}

/// DuckDB shows full row groups to older snapshots where it may append in any order.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_as_it_is_while_full_groups_are_committed() {
    let (server, client) = start().await;
    client.append("t", &[ints([0])]).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let readers = (0..3).map(|_| {
        let (sql, over) = (client.sql(), over.clone());
        tokio::spawn(async move { sql.watch_snapshots("t", "i", over).await })
    });
    let readers: Vec<_> = readers.collect();
    for _ in 0..40 {
        for rows in [130_000, 25_000] {
            client.append("t", &[ints(0..rows)]).await.unwrap();
        }
    }
    over.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaders_proof_fails_for_rows_that_have_changed() {
    let (server, client) = start().await;
    let plan = Plan {
        producer: Some("p".into()),
        resume: true,
        verify: true,
        seed: Some(1),
        ..plan("t", 1, 3, Commit::Batch)
    };
    let sound = run(&server, plan.clone()).await;
    assert!(sound.is_success(), "{sound}");
    client.execute("CREATE TABLE kept AS FROM t").await;
    let first = "WHERE rowid = (SELECT min(rowid) FROM t)";
    // Two values that a double can hold as exactly after they have changed.
    let two = "(SELECT min(rowid) AS low, max(rowid) AS high FROM t WHERE \"value\" BETWEEN 66 AND 98 AND category = 'A' \
               AND batch_id = (SELECT min(batch_id) FROM t)) WHERE t.rowid IN (low, high)";
    let opposite = |by: &str| {
        format!("\"value\" = \"value\" + CASE t.rowid WHEN low THEN {by} ELSE -{by} END FROM {two}")
    };
    for damage in [
        format!("timestamp = NULL {first}"),
        format!("category = category || 'X' {first}"),
        format!("\"value\" = 'nan' {first}"),
        format!("\"value\" = NULL {first}"),
        opposite("1"),
        opposite("pow(2, -46)"),
        opposite("(pow(2, 31) - 1) / pow(2, 46)"),
    ] {
        client.execute(&format!("UPDATE t SET {damage}")).await;
        let report = run(&server, plan.clone()).await;
        assert_eq!(report.batches, 0, "{report}");
        let proof = report.verification.unwrap();
        assert!(proof.to_string().contains("1 damaged"), "{damage}: {proof}");
        client
            .execute("DELETE FROM t; INSERT INTO t FROM kept")
            .await;
    }
    let sound = run(&server, plan).await;
    assert!(sound.is_success(), "{sound}");
    server.shutdown().await;
}
