//! Connections: how many there may be, and what their streams share.

use duck_flight_protocol::PutOptions;
use duck_tests::{OpenPut, ServerProcess, numbered, soon, start};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Rows of a batch of 8 MB.
const ROWS: i64 = 500_000;

/// Connections whose clients say nothing.
async fn silent(server: &ServerProcess, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    silent
}

/// Waits until the server has closed a connection.
async fn closed(connection: &mut TcpStream) {
    let mut greeting = Vec::new();
    // It may have been reset.
    let end = connection.read_to_end(&mut greeting);
    soon("the end of the connection", end).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_of_open_files_are_refused_and_silent_ones_end() {
    let server = ServerProcess::start_under("-n 128");
    let client = server.client().await;
    let mut silent = silent(&server, 200).await;
    closed(silent.last_mut().unwrap()).await;
    for word in ["ulimit -n", "limit=64"] {
        server.until_told(word).await;
    }
    let batch = [numbered(0, 100_000)];
    assert_eq!(client.append("t", &batch).await.unwrap(), 100_000);
    let busy = server.cpu_ticks();
    closed(&mut silent[0]).await;
    assert!(server.cpu_ticks() - busy < 100, "it waits at full speed");
    let newcomer = server.client().await;
    assert_eq!(newcomer.count("t").await, 100_000);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let server = ServerProcess::start_under("-S -n 128");
    let silent = silent(&server, 200).await;
    assert_eq!(server.client().await.rows("SELECT 1").await, ["1"]);
    assert!(!server.stderr().contains("ulimit"), "{}", server.stderr());
    // The end would wait for them.
    drop(silent);
    server.stop();
}

/// Sends so many batches.
async fn send(put: &OpenPut, count: usize) {
    let batch = numbered(0, ROWS);
    for _ in 0..count {
        put.send_batch(&batch).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_wait_for_a_transaction_do_not_hold_up_others_on_their_connection() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (batch BIGINT, \"row\" BIGINT)")
        .await;
    let schema = numbered(0, 0).schema();
    let mut working = Vec::new();
    for _ in 0..4 {
        let put = client.open_put(&PutOptions::new("t"), &schema).await;
        // Enough for a transaction of its own.
        soon("five batches", send(&put, 5)).await;
        working.push(put);
    }
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let put = client.open_put(&PutOptions::new("t"), &schema).await;
        // From then on it sends as much as it may.
        let sent = put.fill(&numbered(0, ROWS)).await;
        waiting.push(tokio::spawn(async move {
            send(&put, 8 - sent).await;
            put.finish().await
        }));
    }
    for put in working {
        soon("the rest of a put", send(&put, 3)).await;
        let acks = soon("its ack", put.finish()).await.unwrap();
        assert_eq!(acks[0].rows, 8 * ROWS.cast_unsigned());
    }
    for put in waiting {
        let acks = soon("a put that waited", put).await.unwrap().unwrap();
        assert_eq!(acks[0].rows, 8 * ROWS.cast_unsigned());
    }
    assert_eq!(client.count("t").await, 10 * 8 * ROWS.cast_unsigned());
    server.shutdown().await;
}
