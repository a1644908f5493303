//! The way down: what is in flight is finished, what was acknowledged is kept.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_flight::FlightDescriptor;
use arrow_flight::sql::ProstMessageExt;
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{
    Client, ENDLESS_COUNT, ENDLESS_ROWS, PATIENCE, ServerProcess, Wire, assert_refused,
    ingest_into, ints, messages, numbered, rows_at_rest, soon, status,
};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::Code;

use super::statement::{poll, query};

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

/// A server that ends what does not finish within this time.
const SHORT_GRACE: &[&str] = &["--shutdown-grace", "300ms"];

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_rolls_back_open_transactions_and_keeps_what_was_committed() {
    for signal in ["TERM", "KILL"] {
        let mut server = ServerProcess::start(&[]);
        let client = server.client().await;
        client.execute("CREATE TABLE t (i BIGINT)").await;
        for mut sql in [client.sql(), client.session().await] {
            for end in ["commit", "leave open"] {
                let transaction = sql.begin().await.unwrap();
                let inserted = sql.update("INSERT INTO t VALUES (1)", Some(&transaction));
                assert_eq!(inserted.await.unwrap(), 1);
                let ingested = sql.ingest("t", Some(&transaction), vec![ints(0..1000)]);
                assert_eq!(ingested.await.unwrap(), 1000);
                if end == "commit" {
                    sql.commit(&transaction).await.unwrap();
                }
            }
        }
        let mut session = client.session().await;
        for statement in ["BEGIN", "DELETE FROM t"] {
            session.update(statement, None).await.unwrap();
        }
        server.signal(signal);
        let exit = server.wait();
        assert_eq!(exit.code, (signal == "TERM").then_some(0), "{exit:?}");
        assert_eq!(has_log(server.directory()), signal == "KILL");
        let server = ServerProcess::start_in(server.kill(), &[]);
        assert_eq!(server.client().await.count("t").await, 2 * 1001);
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_does_not_wait_for_results_that_nobody_has_fetched() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let mut sql = client.sql();
    let info = sql.info("INSERT INTO t VALUES (1) RETURNING i", None);
    assert_eq!(info.await.unwrap().total_records, 1);
    let mut polled = poll(&client, query(ENDLESS_ROWS)).await;
    let rows_wait = async {
        while let Some(next) = polled.flight_descriptor.take() {
            polled = poll(&client, next).await;
        }
    };
    soon("rows that wait", rows_wait).await;
    assert_eq!(client.kept("results").await, 2);
    let polled = poll(&client, query(ENDLESS_COUNT)).await;
    assert!(polled.flight_descriptor.is_some(), "it runs");
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!exit.stderr.contains("grace is over"), "{exit:?}");
    assert_eq!(rows_at_rest(server.directory(), "t"), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_finish_within_the_grace_is_told_why() {
    let mut server = ServerProcess::start(SHORT_GRACE);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let (other, third) = (server.client().await, server.client().await);
    let mut stalled = other.stream(ENDLESS_ROWS).await.unwrap();
    assert!(stalled.next().await.unwrap().is_ok());
    let counting = tokio::spawn(async move { third.query(ENDLESS_COUNT).await });
    let mut reading = client.stream(ENDLESS_ROWS).await.unwrap();
    assert!(reading.next().await.unwrap().is_ok());
    client.until_kept("running", 3).await;
    server.signal("TERM");
    let end = soon("the end of the result", async {
        loop {
            match reading.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    let end = end.await.expect("an error, for it is not whole");
    assert_refused(end.map_err(status), Code::Unavailable, &["shutting down"]);
    let counted = soon("the end of the count", counting).await.unwrap();
    assert_refused(counted, Code::Unavailable, &["shutting down"]);
    // The other one takes nothing, so it cannot be told.
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(rows_at_rest(server.directory(), "t"), 10);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_more_do_not_keep_the_server_up() {
    let mut server = ServerProcess::start(SHORT_GRACE);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let mut wires = Vec::new();
    for _ in 0..4 {
        let wire = Wire::to(server.address()).await;
        let frozen = Client::connect(&wire.address()).await;
        let mut rows = frozen.stream(ENDLESS_ROWS).await.unwrap();
        let (sender, mut first) = tokio::sync::mpsc::channel(1);
        let reading = tokio::spawn(async move {
            while let Some(Ok(_)) = rows.next().await {
                sender.try_send(()).ok();
            }
        });
        for _ in 0..10 {
            soon("rows", first.recv()).await.unwrap();
        }
        wire.freeze();
        wires.push((wire, frozen, reading));
    }
    // The server is in the middle of a message by then, and can write no more of it.
    for _ in 0..100 {
        client.ping().await;
    }
    server.signal("TERM");
    let start = Instant::now();
    let exit = server.wait();
    // Later it finds out by itself that they do not answer.
    assert!(start.elapsed() < PATIENCE, "{exit:?}");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!has_log(server.directory()));
    assert_eq!(rows_at_rest(server.directory(), "t"), 10);
    wires.iter().for_each(|(_, _, reading)| reading.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_does_not_finish_within_the_grace_commits_nothing_and_is_told_why() {
    let mut server = ServerProcess::start(SHORT_GRACE);
    let client = server.client().await;
    let mut sql = client.sql();
    sql.update("CREATE TABLE t (batch BIGINT, \"row\" BIGINT)", None)
        .await
        .unwrap();
    let mut idle = client
        .open_put(&PutOptions::new("t"), &numbered(0, 0).schema())
        .await;
    idle.send_batch(&numbered(0, 1000)).await;
    let transaction = sql.begin().await.unwrap();
    let mut in_transaction = sql.open_raw_put().await;
    let command = ingest_into("t", Some(&transaction))
        .as_any()
        .encode_to_vec();
    let batch = numbered(1, 1000);
    let command = FlightDescriptor::new_cmd(command);
    for message in messages(command, &batch.schema(), &[batch], None) {
        in_transaction.send(message).await;
    }
    let mut unnamed = client.open_raw_put().await;
    client.ping().await;
    server.signal("TERM");
    for put in [&mut idle, &mut in_transaction, &mut unnamed] {
        let answer = soon("an answer", put.result()).await.unwrap();
        assert_refused(answer, Code::Unavailable, &["shutting down"]);
    }
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(rows_at_rest(server.directory(), "t"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_put_ends_at_once_after_the_ack_of_its_last_batch() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    let options = PutOptions {
        commit: Commit::Batch,
        ..PutOptions::new("t")
    };
    let mut idle = client.open_put(&options, &numbered(0, 0).schema()).await;
    idle.send_batch(&numbered(0, 1000)).await;
    assert_eq!(idle.ack().await.unwrap().unwrap().rows, 1000);
    let mut busy = server
        .client()
        .await
        .open_put(&options, &numbered(0, 0).schema())
        .await;
    busy.send_batch(&numbered(1, 1000)).await;
    assert_eq!(busy.ack().await.unwrap().unwrap().rows, 1000);
    server.signal("TERM");
    let mut acknowledged = 2;
    let end = soon("the end of the put", async {
        for batch in 2.. {
            busy.send_batch(&numbered(batch, 1000)).await;
            match busy.ack().await.unwrap() {
                Ok(_) => acknowledged += 1,
                Err(end) => return end,
            }
        }
        unreachable!()
    });
    let ends = [end.await, idle.ack().await.unwrap().unwrap_err()];
    for end in ends {
        assert_refused(Err::<(), _>(end), Code::Unavailable, &["shutting down"]);
    }
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!exit.stderr.contains("grace is over"), "{exit:?}");
    assert_eq!(rows_at_rest(server.directory(), "t"), acknowledged * 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_server_at_once() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let mut result = client.stream(ENDLESS_ROWS).await.unwrap();
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
async fn sigterm_ends_a_server_whose_writer_does_not_end_and_tells_that_the_log_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let database = duckdb::Connection::open(directory.path().join("test.db")).unwrap();
    // DuckDB tries for ever to bind the index again, for which it finds the macro. The server would refuse that one.
    let made = "
        CREATE TABLE t (i BIGINT); CREATE INDEX absolute ON t ((abs(i))); INSERT INTO t VALUES (-1); CHECKPOINT;
        CREATE MACRO abs(one, other) AS one; CHECKPOINT";
    database.execute_batch(made).unwrap();
    drop(database);
    let mut server = ServerProcess::start_in(directory, &["--shutdown-grace", "100ms"]);
    let client = server.client().await;
    let put = |table: &'static str| {
        let client = client.clone();
        async move { client.append(table, &[ints(0..10)]).await }
    };
    let stuck = tokio::spawn(put("t"));
    // Once the writer is at it, all others wait.
    soon("a put that waits for the writer", async {
        let moment = Duration::from_secs(1);
        while tokio::time::timeout(moment, put("other")).await.is_ok() {}
    })
    .await;
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(3), "{exit:?}");
    for word in ["a put", "does not end", ".wal", ".mark"] {
        assert!(exit.stderr.contains(word), "{exit:?}");
    }
    assert!(soon("the end of the put", stuck).await.unwrap().is_err());
    assert_eq!(rows_at_rest(server.directory(), "t"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_server_whose_statement_does_not_end_and_tells_that_the_log_is_left() {
    // DuckDB does not look whether it was interrupted before it has found an order for so many joins.
    let joins = (1..200).map(|number| format!(" JOIN (SELECT 1 AS x) t{number} USING (x)"));
    let stuck = format!(
        "SELECT x FROM (SELECT 1 AS x) t0{}",
        joins.collect::<String>()
    );
    let mut server = ServerProcess::start(&["--shutdown-grace", "100ms"]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let mut session = client.session().await;
    let own = "CREATE TEMP TABLE own (i INTEGER)";
    session.update(own, None).await.unwrap();
    let by_itself = tokio::spawn({
        let (client, sql) = (client.clone(), stuck.clone());
        async move { client.try_rows(&sql).await.err() }
    });
    let in_session = tokio::spawn(async move { session.update(&stuck, None).await.err() });
    client.until_kept("running", 2).await;
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(3), "{exit:?}");
    for word in ["does not end", ".wal", ".mark"] {
        assert!(exit.stderr.contains(word), "{exit:?}");
    }
    for task in [by_itself, in_session] {
        assert!(soon("the end of the call", task).await.unwrap().is_some());
    }
    assert!(has_log(server.directory()));
    let copy = tempfile::tempdir().unwrap();
    for ending in ["", ".wal", ".mark"] {
        let name = format!("test.db{ending}");
        std::fs::copy(server.directory().join(&name), copy.path().join(&name)).unwrap();
    }
    let server = ServerProcess::start_in(copy, &[]);
    assert_eq!(server.client().await.count("t").await, 10);
    assert!(!has_log(server.stop().path()));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_put_back_beside_a_later_log_is_refused_until_that_is_moved_away() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    let directory = server.stop();
    let file = directory.path().join("test.db");
    let copy = directory.path().join("copy");
    std::fs::copy(&file, &copy).unwrap();
    let server = ServerProcess::start_in(directory, &[]);
    let client = server.client().await;
    client.append("t", &[ints(10..20)]).await.unwrap();
    client.checkpoint().await;
    client.append("t", &[ints(20..30)]).await.unwrap();
    let directory = server.kill();
    std::fs::copy(&copy, &file).unwrap();
    let refused = ServerProcess::try_start_in(directory, &[], &[]);
    let (directory, exit) = refused.expect_err("the log goes with another file");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    for ending in ["wal", "mark"] {
        let beside = directory.path().join(format!("test.db.{ending}"));
        let named = beside.display().to_string();
        assert!(exit.stderr.contains(&named), "{named}: {exit:?}");
        std::fs::rename(&beside, directory.path().join(ending)).unwrap();
    }
    let server = ServerProcess::start_in(directory, &[]);
    assert_eq!(server.client().await.count("t").await, 10);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_at_debug_tells_of_requests_and_not_of_frames() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("RUST_LOG", OsStr::new("debug"))];
    let started = ServerProcess::try_start_in(directory, &[], &environment);
    let mut server = started.expect("it starts");
    let client = server.client().await;
    client.try_rows("FROM nowhere").await.unwrap_err();
    drop(client);
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.contains("request refused"), "{exit:?}");
    assert!(!exit.stderr.contains("h2::"), "{exit:?}");
}

#[test]
fn an_address_that_others_can_reach_needs_insecure() {
    let flags = ["--database", ":memory:", "--listen", "0.0.0.0:0"];
    let exit = ServerProcess::try_start(&flags).unwrap_err();
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""), "{exit:?}");
    assert!(exit.stderr.contains("--insecure"), "{}", exit.stderr);
    let flags = [flags.as_slice(), &["--insecure"]].concat();
    assert!(ServerProcess::try_start(&flags).is_ok());
}
