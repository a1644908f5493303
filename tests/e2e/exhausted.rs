//! Puts that find no memory, while others commit.

use std::sync::atomic::{AtomicBool, Ordering};

use duck_tests::{Client, ServerProcess, assert_refused, ints, soon};
use tonic::Code;

/// A commit whose part of the log is between these sizes has half of it in the file for as long as it waits for the disk:
/// DuckDB writes the log through a buffer of 4 KiB, past which it sends no less than another such buffer.
const HALF_WRITTEN: std::ops::Range<u64> = 5000..8000;

/// Makes a table `wide` with so many columns that a commit of two row groups is written to the log by halves, and answers
/// with the statement that inserts them.
async fn table_of_commits_by_halves(server: &ServerProcess, client: &Client) -> String {
    let log = server.directory().join("test.db.wal");
    let log_bytes = || log.metadata().map_or(0, |log| log.len());
    for columns in (4..200).step_by(2) {
        let columns: Vec<_> = (0..columns)
            .map(|column| format!("range + {column} AS c{column}"))
            .collect();
        let rows = |count| format!("SELECT {} FROM range({count})", columns.join(", "));
        let table = format!("CREATE OR REPLACE TABLE wide AS {}", rows(0));
        client.execute(&table).await;
        let insert = format!("INSERT INTO wide {}", rows(40_960));
        let before = log_bytes();
        client.execute(&insert).await;
        if HALF_WRITTEN.contains(&log_bytes().saturating_sub(before)) {
            return insert;
        }
    }
    panic!("no commit was written by halves");
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_find_no_memory_do_not_end_a_server_on_which_others_commit() {
    const REFUSALS: usize = 60;
    let mut server = ServerProcess::start(&["--memory-limit", "64MiB"]);
    let (client, loader) = (server.client().await, server.client().await);
    client
        .execute("CREATE TABLE long (i BIGINT, text VARCHAR DEFAULT repeat('x', 100_000_000))")
        .await;
    let insert = table_of_commits_by_halves(&server, &client).await;
    let is_over = AtomicBool::new(false);
    let before = client.count("wide").await;
    let commits = async {
        let mut rows = before;
        while !is_over.load(Ordering::Relaxed) {
            // It may find no memory either, and then has inserted nothing.
            rows += client.try_execute(insert.clone()).await.unwrap_or(0);
        }
        rows
    };
    let refusals = async {
        for _ in 0..REFUSALS {
            let refused = loader.append("long", &[ints([1])]).await;
            assert_refused(refused, Code::ResourceExhausted, &[]);
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (rows, ()) = soon("all refusals", async { tokio::join!(commits, refusals) }).await;
    assert!(server.is_alive() && rows > before);
    assert_eq!(client.count("wide").await, rows);
    assert_eq!(client.count("long").await, 0);
    server.stop();
}
