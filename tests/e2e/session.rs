//! Sessions and transactions: what a client keeps, who sees it, and when it ends.

use std::time::Duration;

use duck_flight_server::Expiry;
use duck_tests::{Setup, TestServer, assert_refused, ints, numbered, soon, status};
use futures::{StreamExt, TryStreamExt};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_tables_and_settings_that_no_other_sees() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (mut one, mut other) = (client.session().await, client.session().await);
    one.update("CREATE TEMP TABLE t AS SELECT 1 AS i", None)
        .await
        .unwrap();
    one.update("CREATE SCHEMA s; USE s", None).await.unwrap();
    one.update("SET TimeZone = 'Asia/Tokyo'", None)
        .await
        .unwrap();
    other
        .update("CREATE TEMP TABLE t AS SELECT 2 AS i", None)
        .await
        .unwrap();
    assert_eq!(one.rows("FROM t", None).await, ["1"]);
    assert_eq!(other.rows("FROM t", None).await, ["2"]);
    let state = "SELECT current_schema(), current_setting('TimeZone')";
    assert_eq!(one.rows(state, None).await, ["s|Asia/Tokyo"]);
    for stranger in [&mut other, &mut client.sql()] {
        let seen = stranger.rows(state, None).await;
        assert!(
            !seen[0].contains("Tokyo") && seen[0].starts_with("main|"),
            "{seen:?}"
        );
    }
    assert_refused(
        client.sql().try_rows("FROM t", None).await,
        Code::NotFound,
        &["t"],
    );
    for mut session in [one, other] {
        session.close().await;
        let gone = session.try_rows("SELECT 1", None).await;
        assert_refused(gone, Code::Unauthenticated, &["connect again"]);
    }
    assert_eq!(client.kept("sessions").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn begin_and_commit_as_statements_hold_in_a_session() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut session = client.session().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    session.update("BEGIN", None).await.unwrap();
    session
        .update("INSERT INTO t VALUES (1)", None)
        .await
        .unwrap();
    assert_eq!(session.rows("SELECT count(*) FROM t", None).await, ["1"]);
    assert_eq!(client.count("t").await, 0);
    session.update("ROLLBACK", None).await.unwrap();
    session.update("BEGIN", None).await.unwrap();
    session
        .update("INSERT INTO t VALUES (2)", None)
        .await
        .unwrap();
    assert_refused(
        session.update("INSERT INTO no_such VALUES (1)", None).await,
        Code::NotFound,
        &["no_such"],
    );
    session.update("COMMIT", None).await.unwrap();
    assert_eq!(client.rows("FROM t").await, ["2"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_has_failed_never_says_that_it_was_committed() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut session = client.session().await;
    for failing in ["BEGIN", "SELECT 'x'::INTEGER", "SELECT error('no')"] {
        session.update("BEGIN", None).await.unwrap();
        session
            .update("INSERT INTO t VALUES (1)", None)
            .await
            .unwrap();
        session.update(failing, None).await.unwrap_err();
        let commit = session.update("COMMIT", None).await;
        assert_refused(commit, Code::FailedPrecondition, &["rolled back instead"]);
        // It has ended, and the next statement is one of its own.
        session
            .update("INSERT INTO t VALUES (2)", None)
            .await
            .unwrap();
        assert_eq!(client.rows("FROM t").await, ["2"]);
        client.execute("DELETE FROM t").await;
    }
    session.update("BEGIN", None).await.unwrap();
    session
        .update("SELECT error('no')", None)
        .await
        .unwrap_err();
    session.update("ROLLBACK", None).await.unwrap();
    assert_eq!(session.rows("SELECT 1", None).await, ["1"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_begun_by_a_call_is_not_ended_by_a_statement() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
        .await
        .unwrap();
    for statement in ["COMMIT", "ROLLBACK", "BEGIN"] {
        let refused = sql.update(statement, Some(&transaction)).await;
        assert_refused(refused, Code::InvalidArgument, &["EndTransaction"]);
    }
    assert_eq!(client.count("t").await, 0);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_transaction_with_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let other = server.client().await;
    for mut sql in [other.sql(), other.session().await] {
        let transaction = sql.begin().await.unwrap();
        sql.update("UPDATE t SET i = 2", Some(&transaction))
            .await
            .unwrap();
        sql.close().await;
        assert_eq!(client.kept("transactions").await, 0);
        assert_eq!(client.execute("UPDATE t SET i = i").await, 1);
        assert_eq!(client.rows("FROM t").await, ["1"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_tables_cannot_be_changed_whatever_names_them() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut session = client.session().await;
    for statement in [
        "DELETE FROM duck_flight.sequences",
        "DROP SCHEMA duck_flight CASCADE",
        "USE duck_flight; DELETE FROM sequences",
        "USE DUCK_FLIGHT; DELETE FROM sequences",
        "SET search_path = 'main,Duck_Flight'",
        "SET schema = 'duck_' || 'flight'",
        "SET search_path = 'main,duck_flight'",
    ] {
        let refused = session.update(statement, None).await;
        assert_refused(refused, Code::PermissionDenied, &["duck_flight"]);
        let refused = client.try_execute(statement).await;
        assert_refused(refused, Code::PermissionDenied, &["duck_flight"]);
    }
    assert_eq!(
        session.rows("SELECT current_schema()", None).await,
        ["main"]
    );
    assert_eq!(client.execute("DELETE FROM duck_flight.rejects").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_that_is_refused_leaves_the_one_before() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE SCHEMA s1; CREATE SCHEMA \"s 2\"; CREATE TABLE s1.t (i INTEGER)")
        .await;
    let paths = [
        "USE s1",
        "SET search_path = 's1,main'",
        "SET search_path = '\"s 2\",s1'",
        "RESET search_path",
    ];
    let refused = [
        "SET schema = 'duck_flight'",
        "SET search_path = 'main,duck_flight'",
        "USE duck_flight",
        "USE Duck_Flight",
    ];
    let path = "SELECT current_schemas(false), current_schema()";
    for set in paths {
        for refused in refused {
            for (begin, end) in [("SELECT 1", "SELECT 1"), ("BEGIN", "COMMIT")] {
                let mut session = client.session().await;
                session.update(set, None).await.unwrap();
                let before = session.rows(path, None).await;
                session.update(begin, None).await.unwrap();
                let answer = session.update(refused, None).await;
                assert_refused(answer, Code::PermissionDenied, &["duck_flight"]);
                assert_eq!(session.rows(path, None).await, before, "{set} {refused}");
                session.update(end, None).await.unwrap();
                assert_eq!(session.rows(path, None).await, before, "{set} {refused}");
            }
        }
    }
    let mut session = client.session().await;
    session.update("USE s1", None).await.unwrap();
    session.update(refused[0], None).await.unwrap_err();
    session
        .update("INSERT INTO t VALUES (1)", None)
        .await
        .unwrap();
    assert_eq!(client.count("s1.t").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_without_a_session_would_lose_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut sql = client.sql();
    for statement in [
        "SET TimeZone = 'UTC'",
        "USE main",
        "CREATE TEMP TABLE t AS SELECT 1",
        "create or replace temporary view v AS SELECT 1",
        ";CREATE TEMP TABLE t AS SELECT 1",
        "\u{a0}CREATE TEMP TABLE t AS SELECT 1",
    ] {
        let words = ["user name", "cookies"];
        assert_refused(
            sql.update(statement, None).await,
            Code::FailedPrecondition,
            &words,
        );
        assert_refused(
            sql.info(statement, None).await,
            Code::FailedPrecondition,
            &words,
        );
        assert_refused(
            client.try_execute(statement).await,
            Code::FailedPrecondition,
            &words,
        );
    }
    let script = "CREATE TEMP TABLE t AS SELECT 1 AS i; FROM t";
    assert_eq!(sql.rows(script, None).await, ["1"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_many_clients_are_apart_and_each_counts_once() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (client INTEGER, n INTEGER)")
        .await;
    let tasks = (0..64).map(|number| {
        let mut sql = client.sql();
        tokio::spawn(async move {
            let transaction = sql.begin().await.unwrap();
            for n in 0..5 {
                let insert = format!("INSERT INTO t VALUES ({number}, {n})");
                assert_eq!(sql.update(&insert, Some(&transaction)).await.unwrap(), 1);
                let own = sql.rows(
                    "SELECT count(*) FROM t WHERE n = 0 AND client = -1",
                    Some(&transaction),
                );
                assert_eq!(own.await, ["0"]);
            }
            let seen = format!("SELECT count(*) FROM t WHERE client = {number}");
            assert_eq!(sql.rows(&seen, Some(&transaction)).await, ["5"]);
            match number % 2 {
                0 => sql.commit(&transaction).await.unwrap(),
                _ => sql.roll_back(&transaction).await.unwrap(),
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let found = "SELECT count(*), count(DISTINCT client), max(client % 2) FROM t";
    assert_eq!(client.rows(found).await, ["160|32|0"]);
    assert_eq!(client.kept("transactions").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_transactions_that_update_a_row_one_is_told_to_try_again() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let mut sql = client.sql();
    let (first, second) = (sql.begin().await.unwrap(), sql.begin().await.unwrap());
    sql.update("UPDATE t SET i = 2", Some(&first))
        .await
        .unwrap();
    let conflict = sql.update("UPDATE t SET i = 3", Some(&second)).await;
    assert_refused(conflict, Code::Aborted, &["onflict"]);
    sql.commit(&first).await.unwrap();
    sql.roll_back(&second).await.unwrap();
    assert_eq!(client.rows("FROM t").await, ["2"]);
    let ended = sql.commit(&first).await;
    assert_refused(ended, Code::NotFound, &["unknown transaction"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_given_up_leaves_its_transaction_whole() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
        .await
        .unwrap();
    for _ in 0..20 {
        let info = sql
            .info("SELECT range FROM range(100000000000)", Some(&transaction))
            .await
            .unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut rows = sql.raw().do_get(ticket).await.unwrap();
        assert!(rows.next().await.unwrap().is_ok());
        drop(rows);
        let next = sql.rows_behind("FROM t", Some(&transaction)).await;
        assert_eq!(next, ["1"]);
    }
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.rows("FROM t").await, ["1"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_a_transaction_does_not_wait_for_the_reader_of_the_one_before() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let info = sql
        .info("SELECT range FROM range(1000000)", Some(&transaction))
        .await
        .unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = sql.raw().do_get(ticket).await.unwrap();
    let first = rows.next().await.unwrap().unwrap().num_rows();
    let next = soon(
        "the next statement",
        sql.rows("SELECT 1", Some(&transaction)),
    );
    assert_eq!(next.await, ["1"]);
    let rest: Vec<_> = rows.try_collect().await.map_err(status).unwrap();
    let rest: usize = rest.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(first + rest, 1_000_000);
    sql.commit(&transaction).await.unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_a_session_does_not_wait_for_the_reader_of_wide_rows() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut sql = client.session().await;
    let own = "CREATE TEMP TABLE own (i BIGINT)";
    sql.update(own, None).await.unwrap();
    // 38 MiB, of which as much is read ahead as of narrow rows.
    let columns: Vec<_> = (0..100).map(|column| format!("i + {column}")).collect();
    let wide = format!("SELECT {} FROM range(50000) AS r(i)", columns.join(", "));
    let info = sql.info(&wide, None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = sql.raw().do_get(ticket).await.unwrap();
    let first = rows.next().await.unwrap().unwrap().num_rows();
    let next = soon("the next statement", sql.rows("SELECT 1", None));
    assert_eq!(next.await, ["1"]);
    let rest: Vec<_> = rows.try_collect().await.map_err(status).unwrap();
    let rest: usize = rest.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(first + rest, 50_000);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_ingested_in_a_transaction_are_its_own_until_it_commits() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (batch BIGINT, row BIGINT)")
        .await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let batches = vec![numbered(0, 1000), numbered(1, 300_000)];
    let rows = sql.ingest("t", Some(&transaction), batches).await.unwrap();
    assert_eq!(rows, 301_000);
    assert_eq!(
        sql.rows("SELECT count(*) FROM t", Some(&transaction)).await,
        ["301000"]
    );
    assert_eq!(client.count("t").await, 0);
    sql.roll_back(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 0);
    // One that names no transaction means the only one that was begun on its connection.
    let transaction = sql.begin().await.unwrap();
    assert_eq!(
        sql.ingest("t", None, vec![numbered(2, 10)]).await.unwrap(),
        10
    );
    assert_eq!(client.count("t").await, 0);
    let mut stranger = server.client().await.sql();
    assert_eq!(
        stranger
            .ingest("t", None, vec![numbered(3, 5)])
            .await
            .unwrap(),
        5
    );
    assert_eq!(client.count("t").await, 5);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 15);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_that_fails_in_a_transaction_can_only_be_rolled_back() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i BIGINT CHECK (i < 400000))")
        .await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
        .await
        .unwrap();
    // More than DuckDB gathers before it writes into the transaction.
    let failed = sql
        .ingest("t", Some(&transaction), vec![ints(0..500_000)])
        .await;
    assert_refused(failed, Code::InvalidArgument, &["CHECK"]);
    let next = sql.try_rows("FROM t", Some(&transaction)).await;
    assert_refused(next, Code::FailedPrecondition, &["aborted"]);
    let commit = sql.commit(&transaction).await;
    assert_refused(commit, Code::FailedPrecondition, &["rolled back instead"]);
    assert_eq!(client.count("t").await, 0);
    assert_eq!(client.kept("transactions").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_any_more_is_rolled_back_and_forgotten() {
    let setup = Setup {
        expiry: Expiry {
            // Long enough for a handshake and a statement, one after the other.
            session: Duration::from_secs(2),
            transaction: Duration::from_millis(200),
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("UPDATE t SET i = 2", Some(&transaction))
        .await
        .unwrap();
    let mut session = client.session().await;
    session
        .update("CREATE TEMP TABLE s AS SELECT 1", None)
        .await
        .unwrap();
    let statement = sql.raw().prepare("SELECT 1".into(), None).await.unwrap();
    for what in ["transactions", "sessions", "prepared_statements"] {
        client.until_kept(what, 0).await;
    }
    // Its client is told until it has understood.
    let words = ["transaction", "expired", "roll it back"];
    let gone = sql.update("UPDATE t SET i = 3", Some(&transaction)).await;
    assert_refused(gone, Code::FailedPrecondition, &words);
    let commit = sql.commit(&transaction).await;
    assert_refused(commit, Code::FailedPrecondition, &words);
    sql.roll_back(&transaction).await.unwrap();
    let again = sql.roll_back(&transaction).await;
    assert_refused(again, Code::NotFound, &["transaction"]);
    assert_refused(
        session.try_rows("FROM s", None).await,
        Code::Unauthenticated,
        &["connect again"],
    );
    assert_refused(
        statement.close().await.map_err(status),
        Code::NotFound,
        &["prepared statement"],
    );
    // Nothing of the transaction is left in the way.
    assert_eq!(client.execute("UPDATE t SET i = 4").await, 1);
    assert_eq!(client.rows("FROM t").await, ["4"]);
    server.shutdown().await;
}
