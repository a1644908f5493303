//! How long sessions last, and what is left of a statement on a connection that others use after it.

use std::time::Duration;

use arrow_flight::FlightDescriptor;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use duck_flight_server::Expiry;
use duck_tests::{
    Answer, Client, ENDLESS_COUNT, ENDLESS_ROWS, Setup, SqlClient, TestServer, assert_refused,
    soon, start, status,
};
use futures::StreamExt;
use prost::Message;
use tokio::task::JoinHandle;
use tonic::{Code, Request};

use super::statement::query;
use super::transaction::occupy;

/// A query of which the first rows have been read.
async fn begin_to_read(session: &mut SqlClient) -> FlightRecordBatchStream {
    let info = session.info(ENDLESS_ROWS, None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = session.raw().do_get(ticket).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    rows
}

/// Occupies the only place, in a session; answers, once that is done, with what comes of it.
async fn busy(client: &Client, session: &SqlClient, with: &str) -> JoinHandle<Answer<()>> {
    let (client, mut session) = (client.clone(), session.clone());
    match with {
        "a count" => {
            let count = async move { session.try_rows(ENDLESS_COUNT, None).await.map(|_| ()) };
            let count = tokio::spawn(count);
            client.until_kept("running", 1).await;
            count
        }
        "a stalled reader" => {
            let mut rows = begin_to_read(&mut session).await;
            tokio::spawn(async move {
                client.until_kept("sessions", 0).await;
                loop {
                    match rows.next().await {
                        Some(Ok(_)) => {}
                        end => return end.expect("an error").map(|_| ()).map_err(status),
                    }
                }
            })
        }
        _ => {
            let (mut put, _) = occupy(&session).await;
            tokio::spawn(async move { put.result().await.expect("an answer").map(|_| ()) })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_session_ends_what_runs_in_it() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for (busy_with, running) in [("a count", 2), ("a stalled reader", 2), ("an ingest", 1)] {
        let mut session = client.session().await;
        session.update("BEGIN", None).await.unwrap();
        session
            .update("INSERT INTO t VALUES (1)", None)
            .await
            .unwrap();
        let ended = busy(&client, &session, busy_with).await;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.rows("SELECT 1").await }
        });
        client.until_kept("running", running).await;
        session.close().await;
        assert_eq!(soon("a free place", waiting).await.unwrap(), ["1"]);
        let ended = soon("the end of what ran", ended).await.unwrap();
        let is_told_of_its_session = match busy_with {
            "an ingest" => true,
            "a stalled reader" => false,
            // It may still have been on its way to its thread.
            _ => ended
                .as_ref()
                .is_err_and(|error| error.code() == Code::Unauthenticated),
        };
        match is_told_of_its_session {
            true => assert_refused(ended, Code::Unauthenticated, &["ended"]),
            false => assert_refused(ended, Code::Cancelled, &["cancelled"]),
        }
        assert_eq!(client.count("t").await, 0, "{busy_with}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_as_long_as_its_query() {
    let setup = Setup {
        expiry: Expiry {
            // Long enough for a handshake and the first rows of a query.
            session: Duration::from_secs(2),
            transaction: Duration::from_secs(300),
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    let mut session = client.session().await;
    let rows = begin_to_read(&mut session).await;
    let mut counting = client.session().await;
    let count = tokio::spawn({
        let mut counting = counting.clone();
        async move { counting.update(ENDLESS_COUNT, None).await }
    });
    client.until_kept("running", 2).await;
    // One that came later and is not used goes.
    client.session().await;
    client.until_kept("sessions", 2).await;
    assert_eq!(session.rows("SELECT 1", None).await, ["1"]);
    assert_eq!(counting.rows("SELECT 2", None).await, ["2"]);
    drop(rows);
    count.abort();
    client.until_kept("sessions", 0).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_its_clients_own() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let mut session = client.session().await;
    let (mut of_session, mut of_others, mut of_script) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        session.rows("SELECT setseed(0.5)", None).await;
        client.rows("SELECT setseed(0.5)").await;
        of_others.push(client.rows("SELECT random()").await);
        of_session.push(session.rows("SELECT random()", None).await);
        of_script.push(client.rows("SELECT setseed(0.5); SELECT random()").await);
    }
    assert_eq!(of_session[0], of_session[1]);
    assert_eq!(of_script[0], of_script[1]);
    assert_ne!(of_others[0], of_others[1]);
    let hidden = client.try_execute("CREATE MACRO m(x) AS setseed(x)").await;
    assert_refused(hidden, Code::PermissionDenied, &["setseed"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_leaves_no_setting_behind() {
    const SETTINGS: &str = "SELECT current_setting('enable_progress_bar'), current_setting('enable_progress_bar_print')";
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let fresh = client.rows(SETTINGS).await;
    let mut session = client.session().await;
    session
        .update("CREATE TEMP TABLE own AS SELECT 1", None)
        .await
        .unwrap();
    for mut sql in [client.sql(), session] {
        let query = CommandStatementQuery {
            query: "SELECT 42".into(),
            transaction_id: None,
        };
        let query = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
        let mut query = Request::new(query);
        if let Some(token) = sql.raw().token() {
            let token = format!("Bearer {token}").parse().unwrap();
            query.metadata_mut().insert("authorization", token);
        }
        let polled = sql.raw().inner_mut().poll_flight_info(query).await.unwrap();
        let info = polled.into_inner().info.unwrap();
        assert_eq!(sql.fetch(&info).await.unwrap(), ["42"]);
        assert_eq!(sql.rows(SETTINGS, None).await, fresh);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_has_failed_is_rolled_back_by_a_poll() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut session = client.session().await;
    for sql in ["BEGIN", "INSERT INTO t VALUES (1)"] {
        session.update(sql, None).await.unwrap();
    }
    let failing = session.update("SELECT 'x'::INTEGER", None).await;
    assert_refused(failing, Code::InvalidArgument, &[]);
    let mut next = Some(query("ROLLBACK"));
    while let Some(descriptor) = next {
        let mut request = Request::new(descriptor);
        let token = format!("Bearer {}", session.raw().token().unwrap());
        let metadata = request.metadata_mut();
        metadata.insert("authorization", token.parse().unwrap());
        let polled = session.raw().inner_mut().poll_flight_info(request).await;
        next = polled.unwrap().into_inner().flight_descriptor;
    }
    session
        .update("INSERT INTO t VALUES (2)", None)
        .await
        .unwrap();
    assert_eq!(client.rows("FROM t").await, ["2"]);
    server.shutdown().await;
}
