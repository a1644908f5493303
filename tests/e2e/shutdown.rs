//! The way down: what is in flight is finished, what was acknowledged is kept.

use std::path::Path;
use std::time::Duration;

use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{Client, ServerProcess, ints, numbered, rows_at_rest, soon};
use futures::{StreamExt, TryStreamExt};

/// A query whose result comes in many messages, and its number of rows.
const LONG: (&str, usize) = (
    "SELECT range AS i, repeat('x', 100) AS s FROM range(2000000)",
    2_000_000,
);

fn has_log(directory: &Path) -> bool {
    directory.join("test.db.wal").exists()
}

/// Waits until the server takes no new connections.
async fn closed_to_newcomers(server: &ServerProcess) {
    soon("the closing of the door", async {
        while tokio::net::TcpStream::connect(server.address())
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_a_query_and_a_put_and_leaves_no_log() {
    for signal in ["TERM", "INT"] {
        let mut server = ServerProcess::start(&[]);
        let client = server.client().await;
        client
            .execute("CREATE TABLE t (batch BIGINT, \"row\" BIGINT)")
            .await;
        let result = client.stream(LONG.0).await.unwrap();
        let put = client
            .open_put(&PutOptions::new("t"), &numbered(0, 0).schema())
            .await;
        put.send_batch(&numbered(0, 1000)).await;
        assert_eq!(client.rows("SELECT 1").await, ["1"]);

        server.signal(signal);
        closed_to_newcomers(&server).await;
        put.send_batch(&numbered(1, 1000)).await;
        let acks = put.finish().await.unwrap();
        assert_eq!(acks.iter().map(|ack| ack.rows).sum::<u64>(), 2000);
        let rows = result.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) });
        assert_eq!(soon("the result", rows).await.unwrap(), LONG.1);

        drop(client);
        let exit = server.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(!has_log(server.directory()));
        assert_eq!(rows_at_rest(server.directory(), "t"), 2000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_server_with_idle_connections_at_once() {
    let server = ServerProcess::start(&[]);
    let idle: Vec<Client> = futures::future::join_all((0..8).map(|_| server.client())).await;
    for client in &idle {
        client.append("t", &[ints(0..10)]).await.unwrap();
    }
    let directory = server.stop();
    assert!(!has_log(directory.path()));
    assert_eq!(rows_at_rest(directory.path(), "t"), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_server_at_once() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let mut result = client
        .stream("SELECT * FROM range(100000000000)")
        .await
        .unwrap();
    assert!(result.next().await.unwrap().is_ok());
    server.signal("TERM");
    closed_to_newcomers(&server).await;
    assert!(server.is_alive(), "{}", server.stderr());
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(130), "{exit:?}");
    assert_eq!(rows_at_rest(server.directory(), "t"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill() {
    for commit in [Commit::Stream, Commit::Batch] {
        let server = ServerProcess::start(&[]);
        let options = PutOptions {
            commit,
            ..PutOptions::new("t")
        };
        let loaders: Vec<_> = (0..4_i64)
            .map(|loader| {
                let (options, address) = (options.clone(), server.address().to_owned());
                tokio::spawn(async move { load_until_the_end(&address, &options, loader).await })
            })
            .collect();
        let reader = server.client().await;
        soon("rows", async {
            while reader.try_rows("SELECT count(*) FROM t").await.is_err()
                || reader.count("t").await < 50_000
            {}
        })
        .await;
        let directory = server.kill();
        let mut acknowledged = Vec::new();
        for loader in loaders {
            acknowledged.extend(loader.await.unwrap());
        }
        let server = ServerProcess::start_in(directory, &[]);
        let client = server.client().await;
        let kept = client
            .rows("SELECT batch FROM t GROUP BY batch HAVING count(*) = 100")
            .await;
        let halves = client
            .rows("SELECT batch FROM t GROUP BY batch HAVING count(*) <> 100")
            .await;
        assert!(halves.is_empty(), "{halves:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|batch| !kept.contains(&batch.to_string()))
            .collect();
        assert!(
            lost.is_empty() && acknowledged.len() >= 400,
            "{lost:?} of {}",
            acknowledged.len()
        );
        server.stop();
    }
}

/// Loads batches of 100 rows until the server is gone; answers with the batches it acknowledged.
async fn load_until_the_end(address: &str, options: &PutOptions, loader: i64) -> Vec<i64> {
    let client = Client::connect(address).await;
    let mut acknowledged = Vec::new();
    let batches = loader * 1_000_000..;
    if options.commit == Commit::Stream {
        for batch in batches {
            if client.put(options, &[numbered(batch, 100)]).await.is_err() {
                return acknowledged;
            }
            acknowledged.push(batch);
        }
    }
    let mut put = client.open_put(options, &numbered(0, 0).schema()).await;
    for batch in loader * 1_000_000.. {
        put.send_batch(&numbered(batch, 100)).await;
        match put.ack().await {
            Some(Ok(_)) => acknowledged.push(batch),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_file_names_the_file_and_the_process() {
    let server = ServerProcess::start(&[]);
    let database = server.directory().join("test.db");
    let database = database.to_str().unwrap();
    let exit =
        ServerProcess::try_start(&["--database", database, "--listen", "127.0.0.1:0"]).unwrap_err();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(exit.stdout, "");
    assert!(exit.stderr.contains(database), "{}", exit.stderr);
    assert!(
        exit.stderr.contains(&server.id().to_string()),
        "{}",
        exit.stderr
    );
    assert_eq!(server.client().await.rows("SELECT 1").await, ["1"]);
    server.stop();
}

#[test]
fn an_address_that_others_can_reach_needs_insecure() {
    let flags = ["--database", ":memory:", "--listen", "0.0.0.0:0"];
    let exit = ServerProcess::try_start(&flags).unwrap_err();
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""), "{exit:?}");
    assert!(exit.stderr.contains("--insecure"), "{}", exit.stderr);
    let flags = [flags.as_slice(), &["--insecure"]].concat();
    assert!(ServerProcess::try_start(&flags).is_ok());
}
