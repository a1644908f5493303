//! Schemas that are dropped with what is in them: DuckDB 1.5.5 forgets that a table depends on its schema once the table was altered,
//! and could not replay that the schema was dropped.

use duck_tests::{ServerProcess, assert_refused};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_dropped_with_its_altered_tables_and_the_database_opens_again() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for schema in ["s", "\"S 2\"", "kept"] {
        client
            .execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (k BIGINT, w VARCHAR); CREATE INDEX i ON {schema}.t (k);
                 CREATE VIEW {schema}.v AS FROM {schema}.t; CREATE SEQUENCE {schema}.q; INSERT INTO {schema}.t VALUES (7, 'a');
                 ALTER TABLE {schema}.t ALTER w SET DEFAULT 'x'; ALTER TABLE {schema}.t ADD COLUMN n BIGINT"
            ))
            .await;
    }
    // A checkpoint notes the tables.
    let server = ServerProcess::start_in(server.stop(), &[]);
    let client = server.client().await;
    client
        .execute("ALTER TABLE kept.t ALTER w SET DEFAULT 'y'")
        .await;
    client.execute("CHECKPOINT").await;
    for sql in [
        "DROP SCHEMA kept",
        ";DROP SCHEMA IF EXISTS kept RESTRICT",
        "CREATE OR REPLACE SCHEMA kept",
        "BEGIN; DROP SCHEMA kept; COMMIT",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(
            refused,
            Code::InvalidArgument,
            &["depends on schema", "CASCADE"],
        );
    }
    let refused = client.try_execute("DROP\u{a0}SCHEMA kept CASCADE").await;
    assert_refused(
        refused,
        Code::InvalidArgument,
        &["cannot be told", "double quotes"],
    );
    client.execute("DROP SCHEMA s CASCADE").await;
    client
        .execute("BEGIN; INSERT INTO kept.t VALUES (8, 'b', 1); DROP SCHEMA IF EXISTS \"s 2\" CASCADE; COMMIT")
        .await;
    client
        .execute("CREATE SCHEMA s; CREATE TABLE s.t (i BIGINT); INSERT INTO s.t VALUES (1)")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows("FROM s.t").await, ["1"]);
    assert_eq!(
        client
            .rows("SELECT k, w FROM kept.t ORDER BY k")
            .await
            .len(),
        2
    );
    let schemas = "SELECT schema_name FROM duckdb_schemas() WHERE NOT internal AND schema_name ILIKE 's%' ORDER BY ALL";
    assert_eq!(client.rows(schemas).await, ["s"]);
    server.stop();
}

/// What was in it has been dropped by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_dropped_keeps_what_is_in_it() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 7 AS i")
        .await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let drop_it = "DROP SCHEMA s CASCADE".to_owned();
    let prepared = sql.raw().prepare(drop_it, Some(transaction.clone())).await;
    prepared.unwrap();
    sql.commit(&transaction).await.unwrap();
    client.execute("EXPLAIN DROP SCHEMA s CASCADE").await;
    let script = "BEGIN; DROP SCHEMA s CASCADE; SELECT error('no'); COMMIT";
    client.try_execute(script).await.unwrap_err();
    assert_eq!(client.rows("FROM s.t").await, ["7"]);
    server.stop();
}
