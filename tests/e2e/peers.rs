//! Network connections: which client is which, what is left of those that are gone, and who makes room for whom.

use std::net::SocketAddr;
use std::time::Duration;

use arrow_flight::Action;
use bytes::Bytes;
use duck_flight_protocol::ACTION_SET_SESSION_OPTIONS;
use duck_flight_server::Expiry;
use duck_tests::{Client, Setup, SqlClient, TestServer, Wire, assert_refused, ints, start};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;
use tonic::Code;

/// How many sessions, and how many transactions, there may be.
const LIMIT: usize = 10_000;

const INSERT: &str = "INSERT INTO t VALUES (1)";

/// How many calls a flood makes at a time.
const AT_ONCE: usize = 32;

/// An address that is free. Where a machine has more than one of its own, connections to the first have the first, too, and
/// none of them takes this one.
async fn free_address() -> SocketAddr {
    let host = if cfg!(target_os = "linux") {
        "127.0.0.2:0"
    } else {
        "127.0.0.1:0"
    };
    let listener = TcpListener::bind(host).await.unwrap();
    listener.local_addr().unwrap()
}

async fn client_from(from: SocketAddr, server: &TestServer) -> (Wire, Client) {
    let wire = Wire::from(from, server.address()).await;
    let client = Client::connect(&wire.address()).await;
    (wire, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_not_taken_for_the_one_before_it_at_its_address() {
    let server = TestServer::start().await;
    let watcher = server.client().await;
    watcher.execute("CREATE TABLE t (i BIGINT)").await;
    let from = free_address().await;
    let (wire, gone) = client_from(from, &server).await;
    // It is offered a cookie, too.
    gone.sql().begin().await.unwrap();
    wire.cut().await;
    let (wire, next) = client_from(from, &server).await;
    let set = Action::new(ACTION_SET_SESSION_OPTIONS, "");
    let set = next.sql().raw().do_action(tonic::Request::new(set)).await;
    set.unwrap().message().await.unwrap();
    let mut sql = next.sql();
    assert_eq!(sql.ingest("t", None, vec![ints([1])]).await.unwrap(), 1);
    assert_eq!(watcher.count("t").await, 1);
    // With a transaction of its own, that is the one that it means.
    let transaction = sql.begin().await.unwrap();
    sql.ingest("t", None, vec![ints([2])]).await.unwrap();
    assert_eq!(watcher.count("t").await, 1);
    sql.roll_back(&transaction).await.unwrap();
    assert_eq!(watcher.count("t").await, 1);
    wire.cut().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_never_used_lasts_as_long_as_its_connection() {
    let patience = Duration::from_millis(200);
    let setup = Setup {
        expiry: Expiry {
            session: Duration::from_secs(3600),
            transaction: patience,
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let watcher = server.client().await;
    let mut staying = server.client().await.sql();
    let transaction = staying.begin().await.unwrap();
    let mut leaving = server.client().await.sql();
    leaving.begin().await.unwrap();
    // One that was begun later and used: once it has expired, the others would have, too.
    let mut using = server.client().await.sql();
    let used = using.begin().await.unwrap();
    // In one call each: between two the transaction may expire.
    using.update("SELECT 42", Some(&used)).await.unwrap();
    watcher.until_kept("transactions", 2).await;
    assert_refused(
        using.try_rows("SELECT 42", Some(&used)).await,
        Code::FailedPrecondition,
        &["expired"],
    );
    drop(leaving);
    watcher.until_kept("transactions", 1).await;
    staying
        .update("SELECT 42", Some(&transaction))
        .await
        .unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_lost_its_connection_goes_on_with_its_transaction_over_another() {
    let server = TestServer::start().await;
    let watcher = server.client().await;
    for loss in ["cut", "without a word"] {
        watcher
            .execute("CREATE OR REPLACE TABLE t (i BIGINT)")
            .await;
        let wire = Wire::to(server.address()).await;
        let mut sql = Client::connect(&wire.address()).await.sql();
        let transaction = sql.begin().await.unwrap();
        sql.update(INSERT, Some(&transaction)).await.unwrap();
        let lost = match loss {
            "cut" => {
                wire.cut().await;
                None
            }
            _ => {
                // The server takes it for open still.
                wire.freeze();
                Some(wire)
            }
        };
        let mut again = server.client().await.sql();
        again.update(INSERT, Some(&transaction)).await.unwrap();
        again.ingest("t", None, vec![ints([2])]).await.unwrap();
        assert_eq!(watcher.count("t").await, 0, "{loss}");
        again.commit(&transaction).await.unwrap();
        assert_eq!(watcher.count("t").await, 3, "{loss}");
        if let Some(wire) = lost {
            wire.cut().await;
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_an_expired_transaction_is_so_over_another_connection_too() {
    let setup = Setup {
        expiry: Expiry {
            session: Duration::from_secs(3600),
            transaction: Duration::from_millis(200),
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let watcher = server.client().await;
    watcher.execute("CREATE TABLE t (i BIGINT)").await;
    let mut first = server.client().await.sql();
    for names_it_in in ["a statement", "a commit"] {
        let transaction = first.begin().await.unwrap();
        first.update(INSERT, Some(&transaction)).await.unwrap();
        watcher.until_kept("transactions", 0).await;
        let mut again = server.client().await.sql();
        let named = match names_it_in {
            "a statement" => again.update(INSERT, Some(&transaction)).await.map(|_| ()),
            _ => again.commit(&transaction).await,
        };
        assert_refused(named, Code::FailedPrecondition, &["expired"]);
        let ingest = again.ingest("t", None, vec![ints([2])]).await;
        assert_refused(ingest, Code::FailedPrecondition, &["expired"]);
        assert_eq!(watcher.count("t").await, 0, "{names_it_in}");
        again.roll_back(&transaction).await.unwrap();
    }
    let ingested = first.ingest("t", None, vec![ints([2])]).await;
    assert_eq!(ingested.unwrap(), 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_hold_nothing_make_room_for_others() {
    let (server, client) = start().await;
    let mut holding = client.session().await;
    holding
        .update("CREATE TEMP TABLE own AS SELECT 1 AS i", None)
        .await
        .unwrap();
    let mut in_transaction = client.session().await;
    let transaction = in_transaction.begin().await.unwrap();
    let mut used = client.session().await;
    assert_eq!(used.rows("SELECT 1", None).await, ["1"]);
    let sessions = stream::iter(0..LIMIT).map(|_| client.session());
    let mut sessions: Vec<SqlClient> = sessions.buffered(AT_ONCE).collect().await;
    assert_eq!(client.kept("sessions").await, LIMIT as u64);
    // The ones that were never used go first, and of them the oldest.
    let mut displaced = 0;
    for session in &mut sessions[..2 * AT_ONCE] {
        if let Err(error) = session.try_rows("SELECT 1", None).await {
            assert_refused::<()>(Err(error), Code::Unauthenticated, &["connect again"]);
            displaced += 1;
        }
    }
    assert_eq!(displaced, 3);
    let newest = sessions.last_mut().unwrap();
    assert_eq!(newest.rows("SELECT 1", None).await, ["1"]);
    assert_eq!(used.rows("SELECT 1", None).await, ["1"]);
    assert_eq!(holding.rows("FROM own", None).await, ["1"]);
    in_transaction.commit(&transaction).await.unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_were_never_used_make_room_for_others() {
    let server = TestServer::start().await;
    let watcher = server.client().await;
    watcher.execute("CREATE TABLE t (i BIGINT)").await;
    let (mut used, mut idle) = (server.client().await.sql(), server.client().await.sql());
    let in_use = used.begin().await.unwrap();
    used.update(INSERT, Some(&in_use)).await.unwrap();
    let not_yet = idle.begin().await.unwrap();
    let flooding = server.client().await.sql();
    let begun = stream::iter(0..LIMIT).map(|_| {
        let mut sql = flooding.clone();
        async move { sql.begin().await }
    });
    let begun: Vec<Bytes> = begun.buffered(AT_ONCE).try_collect().await.unwrap();
    assert_eq!(watcher.kept("transactions").await, LIMIT as u64);
    // A client with too many makes room with its own.
    idle.update(INSERT, Some(&not_yet)).await.unwrap();
    idle.commit(&not_yet).await.unwrap();
    used.commit(&in_use).await.unwrap();
    assert_eq!(watcher.count("t").await, 2);
    let mut flooding = flooding;
    let mut displaced = 0;
    for transaction in &begun[..2 * AT_ONCE] {
        let commit = flooding.commit(transaction).await;
        if commit.is_err() {
            assert_refused(commit, Code::FailedPrecondition, &["expired"]);
            flooding.roll_back(transaction).await.unwrap();
            displaced += 1;
        }
    }
    assert_eq!(displaced, 2);
    let newest = begun.last().unwrap();
    flooding.update(INSERT, Some(newest)).await.unwrap();
    flooding.commit(newest).await.unwrap();
    assert_eq!(watcher.count("t").await, 3);
    server.shutdown().await;
}
