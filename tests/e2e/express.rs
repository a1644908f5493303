//! Small queries that are asked again and again, and so run on the network's own threads: nobody can tell but by the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use duck_tests::{Client, ServerProcess, TestServer, eventually, soon, start};
use tokio::task::JoinHandle;
use tonic::Status;

/// How long a query is waited for that may be drawn to be a long one.
const MOMENT: Duration = Duration::from_millis(200);

/// So often a query is found running, a moment apart, that is a long one: once alone, it may be a brief one that is late.
const LOOKS: usize = 3;

/// How often a query is asked before it must have been drawn to be of either kind.
const DRAWS: usize = 10_000;

/// Brief most times, and some seconds in a single task otherwise.
const HEAVY_TASK: &str = "SELECT levenshtein(repeat('a',
    CASE WHEN random() < 0.02 THEN 200000 ELSE 1 END), repeat('b', 5000))";

/// Brief every other time, and without an end otherwise.
const MANY_TASKS: &str = "SELECT count(*) FROM (SELECT unnest(range(n)) FROM (SELECT n, unnest(range(n))
    FROM (SELECT n, unnest(range(n)) FROM (SELECT CASE WHEN random() < 0.5 THEN 5000 ELSE 1 END AS n))))";

/// Asks until the answer does not come at once, for the query runs long; answers with the asking.
async fn until_long(client: &Client, sql: &'static str) -> JoinHandle<Vec<String>> {
    for _ in 0..DRAWS {
        let mut asking = tokio::spawn({
            let client = client.clone();
            async move { client.rows(sql).await }
        });
        let mut looks = 0;
        let answer = loop {
            match tokio::time::timeout(MOMENT, &mut asking).await {
                Ok(answer) => break answer,
                Err(_) => looks += usize::from(client.kept("running").await == 1),
            }
            if looks == LOOKS {
                return asking;
            }
        };
        drop(answer.unwrap());
    }
    panic!("never long: {sql}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_asked_again_and_again_sees_each_commit_in_between() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for i in 1..=200_i64 {
        client.execute(&format!("INSERT INTO t VALUES ({i})")).await;
        for _ in 0..3 {
            let rows = client.rows("SELECT max(i), count(*), sum(i) FROM t").await;
            assert_eq!(rows, [format!("{i}|{i}|{}", i * (i + 1) / 2)]);
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_the_same_see_whatever_was_committed_before_they_ask() {
    const COMMITS: u64 = 300;
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    client.execute("INSERT INTO t VALUES (0)").await;
    let committed = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for _ in 0..6 {
        let (client, committed) = (server.client().await, committed.clone());
        readers.push(tokio::spawn(async move {
            loop {
                let before = committed.load(Ordering::SeqCst);
                let seen: u64 = client.value("SELECT max(i) FROM t").await;
                assert!(seen >= before, "{seen} after {before}");
                if seen == COMMITS {
                    return;
                }
            }
        }));
    }
    for i in 1..=COMMITS {
        client.execute(&format!("INSERT INTO t VALUES ({i})")).await;
        committed.store(i, Ordering::SeqCst);
    }
    for reader in readers {
        soon("a reader's end", reader).await.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_query_that_takes_long_once_holds_nobody_up() {
    let server = TestServer::start().await;
    let (client, other) = (server.client().await, server.client().await);
    assert_eq!(other.rows("SELECT 42").await, ["42"]);
    for _ in 0..3 {
        let asking = until_long(&client, HEAVY_TASK).await;
        soon("an answer", other.ping()).await;
        assert_eq!(soon("an answer", other.rows("SELECT 42")).await, ["42"]);
        assert!(!asking.is_finished());
        asking.abort();
        // It cannot be interrupted; and the next one must be the only one that runs.
        let end = async { while other.kept("running").await > 0 {} };
        eventually("the end of the long one", end).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_query_that_is_long_once_ends_with_its_client() {
    let server = TestServer::with_max_queries(1).await;
    let (client, other) = (server.client().await, server.client().await);
    for _ in 0..10 {
        until_long(&client, MANY_TASKS).await.abort();
        // With one place, the other one is answered only once the first is gone.
        assert_eq!(soon("an answer", other.rows("SELECT 42")).await, ["42"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_query_that_fails_now_and_then_says_why() {
    const FAILS: &str = "SELECT CASE WHEN random() < 0.3 THEN error('drawn') ELSE 'fine' END";
    let (server, client) = start().await;
    let told = |error: Status| (error.code(), error.message().to_owned());
    let expected = told(client.try_rows("SELECT error('drawn')").await.unwrap_err());
    let (mut fine, mut failed) = (0, 0);
    for _ in 0..DRAWS {
        match client.try_rows(FAILS).await {
            Ok(rows) => {
                assert_eq!(rows, ["fine"]);
                fine += 1;
            }
            Err(error) => {
                assert_eq!(told(error), expected);
                failed += 1;
            }
        }
        if fine >= 100 && failed >= 100 {
            return drop(server.shutdown().await);
        }
    }
    panic!("{fine} fine and {failed} failed")
}

/// Asks until the answer is another one than before.
async fn until_changed(client: &Client, sql: &str) {
    let first = client.rows(sql).await;
    let changed = async { while client.rows(sql).await == first {} };
    soon(sql, changed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_time_goes_on_while_nothing_is_committed() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let plain = [
        "SELECT localtimestamp",
        "SELECT localtime",
        "SELECT current_localtimestamp()",
        "SELECT \"current_localtime\"()",
        "SELECT now()",
    ];
    for sql in plain {
        until_changed(&client, sql).await;
    }
    client
        .execute("CREATE VIEW clock AS SELECT localtimestamp; CREATE MACRO clock() AS localtime")
        .await;
    for sql in ["FROM clock", "SELECT clock()"] {
        until_changed(&client, sql).await;
    }
    // The next server finds them.
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    for sql in ["FROM clock", "SELECT clock()"] {
        until_changed(&client, sql).await;
    }
    server.stop();
}
