//! Transactions in which something has failed: what is committed is all that was said to have succeeded, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, Time64MicrosecondArray};
use arrow_flight::sql::CommandGetTables;
use bytes::Bytes;
use duck_tests::{Answer, Client, SqlClient, assert_refused, ints, options, soon, start};
use tonic::Code;

use super::transaction::{begin_update, prepare};

/// DuckDB reads the format when it plans the query.
const NOT_TO_PLAN: &str = "SELECT strptime(i::VARCHAR, '%Q') FROM t";

/// The PRAGMA becomes a query when it is parsed.
const NOT_TO_PARSE: &str = "PRAGMA table_info(strptime('now', '%Q')::VARCHAR)";

/// It takes DuckDB most of a second to plan this, for it does most of the work beforehand.
const SLOW_TO_PLAN: &str = "SELECT levenshtein(repeat('a', 40000), repeat('b', 5000))";

/// Begins a transaction in which a row is inserted.
async fn begin_with_a_row(sql: &mut SqlClient) -> Bytes {
    let transaction = sql.begin().await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    sql.update(insert, Some(&transaction)).await.unwrap();
    transaction
}

/// Sees that a transaction cannot be committed, and that nothing of it is.
async fn assert_not_committed(client: &Client, transaction: &Bytes) {
    let commit = client.sql().commit(transaction).await;
    // ADBC's driver drops its transaction with the commit, and its connection is of no use any more.
    let words = ["rolled back instead", "connect again"];
    assert_refused(commit, Code::FailedPrecondition, &words);
    assert_eq!(client.count("t").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_only_asked_about_can_fail_its_transaction_and_a_commit_says_so() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut sql = client.sql();
    let transaction = begin_with_a_row(&mut sql).await;
    sql.info(NOT_TO_PLAN, Some(&transaction)).await.unwrap_err();
    assert_not_committed(&client, &transaction).await;
    let transaction = begin_with_a_row(&mut sql).await;
    let prepared = sql
        .raw()
        .prepare(NOT_TO_PLAN.into(), Some(transaction.clone()));
    assert!(prepared.await.is_err());
    assert_not_committed(&client, &transaction).await;
    let transaction = begin_with_a_row(&mut sql).await;
    let parsed = sql.update(NOT_TO_PARSE, Some(&transaction)).await;
    parsed.unwrap_err();
    assert_not_committed(&client, &transaction).await;
    // What does DuckDB no harm leaves the transaction whole.
    let transaction = begin_with_a_row(&mut sql).await;
    let unknown = sql.info("FROM no_such", Some(&transaction)).await;
    assert_refused(unknown, Code::NotFound, &["no_such"]);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_question_that_was_given_up_says_what_has_become_of_the_transaction() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut sql = client.sql();
    for (patience, is_about_tables) in [(200, false), (1, true), (0, true), (0, false)] {
        let transaction = begin_with_a_row(&mut sql).await;
        let mut asking = sql.clone();
        let asked = async {
            if is_about_tables {
                let tables = CommandGetTables::default();
                let info = asking.raw().get_tables(tables).await.unwrap();
                asking.fetch(&info).await.map(|_| ())
            } else {
                let info = asking.info(SLOW_TO_PLAN, Some(&transaction)).await;
                info.map(|_| ())
            }
        };
        let patience = Duration::from_millis(patience);
        tokio::time::timeout(patience, asked).await.ok();
        let commit = soon("the end", sql.commit(&transaction)).await;
        let committed = u64::from(commit.is_ok());
        if let Err(error) = commit {
            assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
        }
        assert_eq!(client.count("t").await, committed);
        client.execute("DELETE FROM t").await;
    }
    server.shutdown().await;
}

/// All tables and views, with their columns.
async fn list(sql: &mut SqlClient) -> Answer<Vec<String>> {
    let tables = CommandGetTables {
        include_schema: true,
        ..CommandGetTables::default()
    };
    let info = sql.raw().get_tables(tables).await.unwrap();
    sql.fetch(&info).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_fails_a_transaction_when_it_is_listed_fails_its_commit_too() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT); CREATE TABLE gone (i BIGINT); CREATE VIEW lost AS FROM gone; DROP TABLE gone",
        )
        .await;
    let mut sql = client.sql();
    // What does DuckDB no harm is listed without its columns.
    let transaction = begin_with_a_row(&mut sql).await;
    assert_eq!(list(&mut sql).await.unwrap().len(), 2);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.execute("DELETE FROM t").await, 1);
    client
        .execute(
            "CREATE MACRO shape() AS '%Y'; CREATE VIEW v AS SELECT strptime('2020', shape()) AS d;
             CREATE OR REPLACE MACRO shape() AS '%Q'",
        )
        .await;
    let transaction = begin_with_a_row(&mut sql).await;
    let words = ["`test.main.v`", "rolled back", "%Q"];
    assert_refused(list(&mut sql).await, Code::InvalidArgument, &words);
    assert_not_committed(&client, &transaction).await;
    let mut session = client.session().await;
    for statement in ["BEGIN", "INSERT INTO t VALUES (1)"] {
        session.update(statement, None).await.unwrap();
    }
    assert_refused(list(&mut session).await, Code::InvalidArgument, &words);
    let commit = session.update("COMMIT", None).await;
    assert_refused(commit, Code::FailedPrecondition, &["rolled back instead"]);
    assert_eq!(client.count("t").await, 0);
    // Outside of transactions it does no harm either.
    for client in [&mut sql, &mut session] {
        assert_eq!(list(client).await.unwrap().len(), 3);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_listing_that_was_given_up_says_what_has_become_of_the_transaction() {
    const HUNDREDS: usize = 15;
    const TRIES: u64 = 20;
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for hundred in 0..HUNDREDS {
        let tables: String = (0..100)
            .map(|number| format!("CREATE TABLE t{hundred}_{number} (i BIGINT DEFAULT 7);"))
            .collect();
        client.execute(&format!("BEGIN; {tables} COMMIT")).await;
    }
    let mut sql = client.sql();
    for number in 0..TRIES {
        let transaction = begin_with_a_row(&mut sql).await;
        let mut asking = sql.clone();
        // It is interrupted some time after that.
        let patience = Duration::from_millis(1 + 5 * number);
        tokio::time::timeout(patience, list(&mut asking)).await.ok();
        let commit = soon("the end", sql.commit(&transaction)).await;
        let committed = u64::from(commit.is_ok());
        if let Err(error) = commit {
            assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
        }
        assert_eq!(client.count("t").await, committed, "try {number}");
        client.execute("DELETE FROM t").await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_cannot_be_told_is_not_committed() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut sql = client.sql();
    for (returned, code) in [
        ("repeat('x', 1000000)", Code::ResourceExhausted),
        ("to_hours(3000000)", Code::InvalidArgument),
    ] {
        let transaction = sql.begin().await.unwrap();
        let insert = format!("INSERT INTO t FROM range(100) RETURNING {returned}");
        let refused = sql.try_rows(&insert, Some(&transaction)).await;
        assert_refused(refused, code, &[]);
        let next = sql.try_rows("FROM t", Some(&transaction)).await;
        assert_refused(next, Code::FailedPrecondition, &["aborted"]);
        assert_not_committed(&client, &transaction).await;
    }
    // A query has changed nothing.
    let transaction = begin_with_a_row(&mut sql).await;
    let query = sql.try_rows("SELECT to_hours(3000000)", Some(&transaction));
    assert_refused(query.await, Code::InvalidArgument, &["INTERVAL"]);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_change_is_committed_for_all_its_rows_of_values_or_for_none() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (v TIME)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let handle = prepare(&mut sql, "INSERT INTO t VALUES (?)", Some(&transaction)).await;
    // The last one is 25 o'clock.
    let times: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![0, 1, 90_000_000_000]));
    let times = RecordBatch::try_from_iter([("v", times)]).unwrap();
    let mut update = begin_update(&sql, handle, &times.schema(), &[times]).await;
    update.end().await;
    let answer = soon("an answer", update.result()).await.unwrap();
    assert_refused(answer, Code::InvalidArgument, &["row 3"]);
    assert_not_committed(&client, &transaction).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_names_a_failed_commit_ends_no_transaction() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut session = client.session().await;
    session.update("BEGIN", None).await.unwrap();
    session.ingest("t", None, vec![ints([1])]).await.unwrap();
    let typo = "SELECT typo FROM t WHERE 'TransactionContext Error: Failed to commit: ' <> ''";
    session.update(typo, None).await.unwrap_err();
    session
        .update("INSERT INTO t VALUES (2)", None)
        .await
        .unwrap();
    assert_eq!(client.count("t").await, 0);
    session.update("COMMIT", None).await.unwrap();
    assert_eq!(client.rows("FROM t ORDER BY i").await, ["1", "2"]);
    server.shutdown().await;
}

/// DuckDB stops the other threads of a query that fails, and now and then tells of that instead of the failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_in_a_transaction_was_not_cancelled() {
    const TRIES: usize = 60;
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(1000000)")
        .await;
    let failing = "
        SELECT CASE WHEN a.i + b.i = 250000 THEN error('told') ELSE 'x' END
        FROM t a JOIN t b ON a.i = b.i";
    let mut sql = client.sql();
    for _ in 0..TRIES {
        let transaction = sql.begin().await.unwrap();
        let failed = sql.try_rows(failing, Some(&transaction)).await;
        let failed = failed.expect_err("an error");
        let codes = [Code::InvalidArgument, Code::Unknown];
        assert!(codes.contains(&failed.code()), "{failed:?}");
        sql.roll_back(&transaction).await.unwrap();
    }
    server.shutdown().await;
}

/// The server ends where DuckDB says that the database cannot be used any more, not where a client does.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_calls_fatal_does_not_end_the_server() {
    let (server, client) = start().await;
    let says = "error('FATAL Error: the database has been invalidated')";
    client
        .execute(&format!(
            "CREATE TABLE t (i BIGINT PRIMARY KEY, v VARCHAR DEFAULT {says})"
        ))
        .await;
    for sql in [
        format!("SELECT {says}"),
        r#"SELECT error('{"exception_type":"FATAL","exception_message":"x"}')"#.to_owned(),
        "SELECT 'FATAL Error: x'::INTEGER".to_owned(),
        "FROM \"FATAL Error: x\"".to_owned(),
        "INSERT INTO t (i) VALUES (1)".to_owned(),
    ] {
        client.try_rows(&sql).await.expect_err(&sql);
        assert_eq!(client.rows("SELECT 1").await, ["1"]);
    }
    for mode in ["append", "upsert"] {
        let options = options(&format!(r#"{{"table":"t","mode":"{mode}"}}"#));
        client.put(&options, &[ints([1])]).await.expect_err(mode);
        assert_eq!(client.rows("SELECT 1").await, ["1"]);
    }
    server.shutdown().await;
}
