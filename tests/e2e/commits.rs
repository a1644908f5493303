//! Statements during which nobody commits, and those that only look like them.

use duck_tests::{assert_refused, ints, soon, start};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_statement_that_only_has_the_word_index_holds_up_no_commit() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    for (number, statement) in [
        "BEGIN; EXPLAIN ANALYZE SELECT sum(\"index\"), sum(n) FROM (SELECT a AS \"index\", n ENDLESS); COMMIT",
        // Each a table of its own, for the one before may not be rolled back yet.
        "CREATE TABLE one AS SELECT a AS \"index\", n ENDLESS",
        "CREATE TABLE two AS SELECT a AS é, n, 'create index' AS c ENDLESS",
        "CREATE TABLE three AS SELECT a AS i, n ENDLESS; CREATE INDEX x ON three (i)",
    ]
    .into_iter()
    .enumerate()
    {
        client.execute(&format!("CREATE SEQUENCE s{number}")).await;
        let endless = format!(
            "FROM (SELECT nextval('s{number}') AS n), range(1000000) AS r(a), range(1000000) AS q(b)
             WHERE a + b < 3"
        );
        let statement = statement.replace("ENDLESS", &endless);
        let running = tokio::spawn({
            let client = client.clone();
            async move { client.try_execute(statement).await }
        });
        let drawn = format!(
            "SELECT count(last_value) FROM duckdb_sequences() WHERE sequence_name = 's{number}'"
        );
        soon("a number drawn", async { while client.rows(&drawn).await != ["1"] {} }).await;
        soon("a commit", client.append("t", &[ints(0..10)])).await.unwrap();
        assert!(!running.is_finished());
        running.abort();
    }
    assert_eq!(client.count("t").await, 40);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_renamed_outside_of_transactions_or_by_a_script_that_does_no_more() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t AS SELECT 1 AS i; CREATE TABLE next AS SELECT 2 AS i; CREATE VIEW v AS SELECT 3 AS i",
        )
        .await;
    client.execute("ALTER TABLE t RENAME TO \"T x\"").await;
    client
        .execute("alter table if exists main.\"t X\" rename to t; SELECT 1")
        .await;
    assert_eq!(client.rows("FROM t").await, ["1"]);
    client.execute("; ALTER TABLE t RENAME TO u").await;
    client.execute(";;ALTER TABLE u RENAME TO t;").await;
    assert_eq!(client.rows("FROM t").await, ["1"]);
    client
        .execute(
            "BEGIN TRANSACTION; ALTER TABLE t RENAME TO old; ALTER TABLE next RENAME TO t; DROP TABLE old; COMMIT;",
        )
        .await;
    assert_eq!(client.rows("FROM t").await, ["2"]);
    // As a whole or not at all.
    let failed = client
        .try_execute("BEGIN; ALTER TABLE t RENAME TO u; ALTER TABLE missing RENAME TO t; COMMIT")
        .await;
    assert_refused(failed, Code::NotFound, &["missing"]);
    assert_eq!(client.rows("FROM t").await, ["2"]);

    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let insert = "INSERT INTO t VALUES (4)";
    sql.update(insert, Some(&transaction)).await.unwrap();
    let rename = "ALTER TABLE t RENAME TO u";
    let renamed = sql.update(rename, Some(&transaction)).await;
    assert_refused(renamed, Code::FailedPrecondition, &["BEGIN", "COMMIT"]);
    // It goes on as it was, and a view has no rows.
    let view = "ALTER VIEW v RENAME TO w";
    sql.update(view, Some(&transaction)).await.unwrap();
    sql.commit(&transaction).await.unwrap();
    assert_eq!(
        client.rows("FROM t UNION ALL FROM w ORDER BY i").await,
        ["2", "3", "4"]
    );

    let explained = client.try_rows(&format!("EXPLAIN ANALYZE {rename}")).await;
    assert_refused(explained, Code::PermissionDenied, &["EXPLAIN"]);
    // That one renames nothing.
    client.rows(&format!("EXPLAIN {rename}")).await;
    client.execute("CREATE TABLE größe (i INTEGER)").await;
    let doubtful = client
        .try_execute("ALTER TABLE größe\u{a0}RENAME TO u")
        .await;
    assert_refused(doubtful, Code::PermissionDenied, &["white space"]);
    client.execute("ALTER TABLE größe RENAME TO u").await;
    client
        .execute("ALTER TABLE t RENAME COLUMN i TO größe; ALTER TABLE t RENAME größe TO i")
        .await;
    server.shutdown().await;
}

/// Which table it alters cannot be told.
#[tokio::test(flavor = "multi_thread")]
async fn an_alter_in_a_script_that_is_in_doubt_does_no_more_than_one_in_another_script() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE x AS SELECT 1 AS \"größe\"; CREATE TABLE t AS SELECT 1 AS i, {'a': 1, 'z': 1} AS s",
        )
        .await;
    let in_doubt = |alter: &str| format!("SELECT größe\u{a0}FROM x; {alter}");
    let rename = in_doubt("ALTER TABLE t RENAME TO u");
    let refused = client.try_execute(rename).await;
    assert_refused(refused, Code::PermissionDenied, &["alone", "quotes"]);

    let mut sql = client.sql();
    let drop_field = in_doubt("ALTER TABLE t DROP COLUMN s.z");
    // Of a table of which it has changed rows.
    let transaction = sql.begin().await.unwrap();
    sql.update("UPDATE t SET i = 3", Some(&transaction))
        .await
        .unwrap();
    let refused = sql.update(&drop_field, Some(&transaction)).await;
    assert_refused(refused, Code::FailedPrecondition, &["commit in between"]);
    sql.roll_back(&transaction).await.unwrap();
    // Older than changed rows.
    let transaction = sql.begin().await.unwrap();
    sql.rows("FROM x", Some(&transaction)).await;
    client.execute("UPDATE t SET i = 4").await;
    let refused = sql.update(&drop_field, Some(&transaction)).await;
    assert_refused(refused, Code::Aborted, &["older than rows"]);
    sql.roll_back(&transaction).await.unwrap();

    assert_eq!(client.rows("SELECT i, s.z FROM t").await, ["4|1"]);
    // Nobody is in its way.
    client.execute(&drop_field).await;
    assert_eq!(
        client.rows("SELECT i, typeof(s) FROM t").await,
        ["4|STRUCT(a INTEGER)"]
    );
    server.shutdown().await;
}
