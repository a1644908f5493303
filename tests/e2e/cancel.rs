//! Clients that cancel, or go away: their queries end, and their puts leave nothing half done.

use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{
    Client, ENDLESS_COUNT, ENDLESS_ROWS, OpenPut, Setup, TestServer, Wire, ints, numbered,
    rows_at_rest, soon, start,
};
use futures::StreamExt;
#[cfg(target_os = "linux")]
use {
    duck_tests::{PATIENCE, ServerProcess},
    std::time::{Duration, Instant},
};

fn batch_commit(table: &str) -> PutOptions {
    PutOptions {
        commit: Commit::Batch,
        ..PutOptions::new(table)
    }
}

/// Asserts that a statement finds a free connection soon.
async fn answers(client: &Client) {
    assert_eq!(soon("an answer", client.rows("SELECT 1")).await, ["1"]);
}

/// Opens a put into `table` and sends five batches of 1,000 rows.
async fn begin(client: &Client, options: &PutOptions) -> OpenPut {
    let put = client.open_put(options, &numbered(0, 0).schema()).await;
    for batch in 0..5 {
        put.send_batch(&numbered(batch, 1000)).await;
    }
    answers(client).await;
    put
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_result_frees_its_connection() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let mut result = client.stream(ENDLESS_ROWS).await.unwrap();
    assert!(result.next().await.unwrap().is_ok());
    drop(result);
    answers(&client).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_query_before_its_first_row_frees_its_connection() {
    let server = TestServer::with_max_queries(1).await;
    for sql in [
        ENDLESS_COUNT.to_owned(),
        format!("SELECT 1; {ENDLESS_COUNT}; SELECT 2"),
    ] {
        let client = server.client().await;
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.query(sql).await }
        });
        client.until_kept("running", 1).await;
        // With one connection, a second query is answered only once the first is gone.
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.rows("SELECT 1").await }
        });
        client.until_kept("running", 2).await;
        asking.abort();
        assert_eq!(soon("an answer", waiting).await.unwrap(), ["1"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_frees_what_it_held() {
    let server = TestServer::with_max_queries(1).await;
    let wire = Wire::to(server.address()).await;
    let client = Client::connect(&wire.address()).await;
    let mut result = client.stream(ENDLESS_ROWS).await.unwrap();
    assert!(result.next().await.unwrap().is_ok());
    wire.cut().await;
    answers(&server.client().await).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_is_dropped_frees_its_connection_and_changes_nothing() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let running = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .try_execute("INSERT INTO t SELECT range FROM range(100000000000)")
                .await
        }
    });
    client.until_kept("running", 1).await;
    running.abort();
    answers(&client).await;
    assert_eq!(client.count("t").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_dropped_queries_leaves_a_server_that_answers() {
    let server = TestServer::with_max_queries(2).await;
    let client = server.client().await;
    for round in 0..200 {
        let mut result = soon("a result", client.stream(ENDLESS_ROWS)).await.unwrap();
        if round % 2 == 0 {
            assert!(soon("a batch", result.next()).await.unwrap().is_ok());
        }
    }
    answers(&client).await;
    server.shutdown().await;
}

/// The interrupt of a query that is dropped while its rows wait to be sent must not reach the roll back that
/// follows: the connection would stay in a transaction that is aborted.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_as_new_after_a_query_dropped_in_the_middle_of_its_rows() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    for _ in 0..1_000 {
        let mut result = soon("a result", client.stream(ENDLESS_ROWS)).await.unwrap();
        assert!(soon("a batch", result.next()).await.unwrap().is_ok());
        drop(result);
        answers(&client).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_put_commits_nothing() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (batch BIGINT, \"row\" BIGINT)")
        .await;
    let put = begin(&client, &PutOptions::new("t")).await;
    put.cancel().await;
    answers(&client).await;
    assert_eq!(client.count("t").await, 0);
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_put_of_a_large_unit_commits_nothing() {
    let setup = Setup {
        // A unit larger than this has a transaction of its own.
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let put = client
        .open_put(&PutOptions::new("t"), &ints([]).schema())
        .await;
    for batch in 0..4_i64 {
        put.send_batch(&ints(batch * 100_000..(batch + 1) * 100_000))
            .await;
    }
    for _ in 0..50 {
        answers(&client).await;
    }
    put.cancel().await;
    assert_eq!(client.append("t", &[ints([1])]).await.unwrap(), 1);
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_connection_is_cut_commits_nothing() {
    let server = TestServer::start().await;
    server
        .client()
        .await
        .execute("CREATE TABLE t (batch BIGINT, \"row\" BIGINT)")
        .await;
    let wire = Wire::to(server.address()).await;
    let client = Client::connect(&wire.address()).await;
    let _put = begin(&client, &PutOptions::new("t")).await;
    wire.cut().await;
    assert_eq!(server.client().await.count("t").await, 0);
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_cancelled_before_its_first_batch_creates_no_rows_and_hinders_nobody() {
    let (server, client) = start().await;
    for _ in 0..50 {
        let put = client
            .open_put(&PutOptions::new("t"), &ints([]).schema())
            .await;
        put.cancel().await;
    }
    assert_eq!(client.append("t", &[ints(0..7)]).await.unwrap(), 7);
    let directory = server.shutdown().await;
    assert_eq!(rows_at_rest(directory.path(), "t"), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_commit_batch_that_is_cut_keeps_whole_batches_and_all_acknowledged_ones() {
    let server = TestServer::start().await;
    let wire = Wire::to(server.address()).await;
    let client = Client::connect(&wire.address()).await;
    let mut put = begin(&client, &batch_commit("t")).await;
    for _ in 0..2 {
        assert_eq!(soon("an ack", put.ack()).await.unwrap().unwrap().rows, 1000);
    }
    wire.cut().await;
    let reader = server.client().await;
    let halves = "SELECT batch FROM t GROUP BY batch HAVING count(*) <> 1000";
    assert!(reader.rows(halves).await.is_empty());
    assert!(reader.count("t").await >= 2000);
    let directory = server.shutdown().await;
    let rows = rows_at_rest(directory.path(), "t");
    assert!(
        (2000..=5000).contains(&rows) && rows.is_multiple_of(1000),
        "{rows}"
    );
}

#[cfg(target_os = "linux")]
async fn cpu_comes_to_rest(server: &ServerProcess) {
    const WINDOW: Duration = Duration::from_millis(100);
    let start = Instant::now();
    loop {
        // Rest is a rate, so it is measured over a time.
        let before = server.cpu_ticks();
        tokio::time::sleep(WINDOW).await;
        if server.cpu_ticks() - before <= 1 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the server goes on working");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_the_work_done_for_it() {
    let server = ServerProcess::start(&["--max-queries", "2"]);
    for sql in [ENDLESS_ROWS, ENDLESS_COUNT] {
        let wire = Wire::to(server.address()).await;
        let client = Client::connect(&wire.address()).await;
        let before = server.cpu_ticks();
        let asking = tokio::spawn(async move {
            let mut result = client.stream(sql).await.unwrap();
            while result.next().await.is_some() {}
        });
        soon("work", async {
            while server.cpu_ticks() < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        wire.cut().await;
        asking.abort();
        cpu_comes_to_rest(&server).await;
    }
    server.stop();
}
