//! Connections: how many there may be.

use duck_tests::{ServerProcess, numbered, soon};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

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
    assert!(server.stderr().contains("ulimit -n"), "{}", server.stderr());
    assert!(server.stderr().contains("limit=64"), "{}", server.stderr());
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
    let _silent = silent(&server, 200).await;
    assert_eq!(server.client().await.rows("SELECT 1").await, ["1"]);
    assert!(!server.stderr().contains("ulimit"), "{}", server.stderr());
    server.stop();
}
