//! How long sessions last, and what is left of a statement on a connection that others use after it.

use std::time::Duration;

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightDescriptor};
use duck_flight_server::Expiry;
use duck_tests::{
    Setup, SqlClient, TestServer, assert_refused, ingest_into, ints, messages, soon, status,
};
use futures::StreamExt;
use prost::Message;
use tonic::{Code, Request};

use super::statement::{ENDLESS_COUNT, ENDLESS_ROWS, kept, query};

async fn close(session: &mut SqlClient) {
    let close = session
        .raw()
        .do_action(Request::new(Action::new("CloseSession", "")));
    let mut closed = close.await.unwrap();
    closed.message().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_session_ends_what_runs_in_it() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for busy_with in ["a count", "a stalled reader", "an ingest"] {
        let mut session = client.session().await;
        session.update("BEGIN", None).await.unwrap();
        session
            .update("INSERT INTO t VALUES (1)", None)
            .await
            .unwrap();
        let (mut other, watcher) = (session.clone(), client.clone());
        let ended = tokio::spawn(async move {
            match busy_with {
                "a count" => other.try_rows(ENDLESS_COUNT, None).await.map(|_| ()),
                "a stalled reader" => {
                    let info = other.info(ENDLESS_ROWS, None).await.unwrap();
                    let ticket = info.endpoint[0].ticket.clone().unwrap();
                    let mut rows = other.raw().do_get(ticket).await.unwrap();
                    assert!(rows.next().await.unwrap().is_ok());
                    while kept(&watcher, "sessions").await > 0 {
                        tokio::task::yield_now().await;
                    }
                    loop {
                        match rows.next().await {
                            Some(Ok(_)) => {}
                            end => return end.expect("an error").map(|_| ()).map_err(status),
                        }
                    }
                }
                _ => {
                    let mut put = other.open_raw_put();
                    let command = ingest_into("t", None).as_any().encode_to_vec();
                    let batch = ints([2]);
                    let command = FlightDescriptor::new_cmd(command);
                    for message in messages(command, &batch.schema(), &[batch], None) {
                        put.send(message).await;
                    }
                    put.result().await.expect("an answer").map(|_| ())
                }
            }
        });
        // It has the only place once another statement does not get it any more.
        let waiting = loop {
            let client = client.clone();
            let mut asked = tokio::spawn(async move { client.rows("SELECT 1").await });
            if tokio::time::timeout(BUSY, &mut asked).await.is_err() {
                break asked;
            }
        };
        close(&mut session).await;
        assert_eq!(soon("a free place", waiting).await.unwrap(), ["1"]);
        let ended = soon("the end of what ran", ended).await.unwrap();
        let (code, word) = match busy_with {
            "an ingest" => (Code::Unauthenticated, "ended"),
            _ => (Code::Cancelled, "cancelled"),
        };
        assert_refused(ended, code, &[word]);
        assert_eq!(client.count("t").await, 0, "{busy_with}");
    }
    server.shutdown().await;
}

/// A statement that is not answered within this time waits for a place.
const BUSY: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_as_long_as_its_query() {
    let setup = Setup {
        expiry: Expiry {
            session: Duration::from_millis(200),
            transaction: Duration::from_secs(300),
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    let mut session = client.session().await;
    let info = session.info(ENDLESS_ROWS, None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = session.raw().do_get(ticket).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    let mut counting = client.session().await;
    let count = tokio::spawn({
        let mut counting = counting.clone();
        async move { counting.update(ENDLESS_COUNT, None).await }
    });
    while kept(&client, "sessions").await < 2 {
        tokio::task::yield_now().await;
    }
    // One that came later and is not used goes.
    client.session().await;
    let gone = async {
        while kept(&client, "sessions").await > 2 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the idle session", gone).await;
    assert_eq!(session.rows("SELECT 1", None).await, ["1"]);
    assert_eq!(counting.rows("SELECT 2", None).await, ["2"]);
    drop(rows);
    count.abort();
    let gone = async {
        while kept(&client, "sessions").await > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the sessions", gone).await;
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
    let server = TestServer::start().await;
    let client = server.client().await;
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
