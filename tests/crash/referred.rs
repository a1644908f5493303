//! A table of a foreign key stays: DuckDB forgets that another one refers to it once that was altered, and could not replay what
//! takes it away then.

use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions};
use duck_tests::{
    Answer, ServerProcess, SqlClient, assert_refused, ingest_into, ints, options, status,
};
use futures::stream;
use tonic::Code;

/// What would take one of the tables away. None of them is done.
const TAKING: &[&str] = &[
    "CREATE OR REPLACE TABLE p AS SELECT 1 AS i",
    "CREATE OR REPLACE TABLE test.main.\"P\" (i BIGINT PRIMARY KEY)",
    "EXPLAIN ANALYZE CREATE OR REPLACE TABLE main.p AS SELECT 1 AS i",
    "ALTER TABLE p RENAME TO q",
    "ALTER TABLE c RENAME TO d",
    "DROP TABLE p",
    "DROP TABLE p CASCADE",
    "DROP SCHEMA s CASCADE",
    // The same, written otherwise.
    ";CREATE OR REPLACE TABLE p AS SELECT 1 AS i",
    "CREATE OR REPLACE UNLOGGED TABLE p AS SELECT 1 AS i",
    "\u{feff}CREATE OR REPLACE TABLE p AS SELECT 1 AS i",
    "CREATE\u{a0}OR REPLACE TABLE p AS SELECT 1 AS i",
    ";DROP SCHEMA s CASCADE",
    "DROP\u{a0}SCHEMA s CASCADE",
];

async fn replace(sql: &mut SqlClient, transaction: Option<&bytes::Bytes>) -> Answer<i64> {
    let command = CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: 1,
            if_exists: 3,
        }),
        ..ingest_into("p", transaction)
    };
    let rows = stream::iter([Ok(ints([1]))]);
    let ingested = sql.raw().execute_ingest(command, rows).await;
    ingested.map_err(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_foreign_key_refers_to_is_not_taken_away() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE p (i BIGINT PRIMARY KEY); CREATE TABLE c (i BIGINT REFERENCES p (i), j BIGINT);
             CREATE SCHEMA s; CREATE TABLE s.p (i BIGINT PRIMARY KEY); CREATE TABLE s.c (i BIGINT REFERENCES s.p (i), j BIGINT);
             INSERT INTO p VALUES (7); INSERT INTO c VALUES (7, 1)",
        )
        .await;
    client.execute("ALTER TABLE c RENAME COLUMN j TO k").await;
    client.execute("ALTER TABLE s.c RENAME COLUMN j TO k").await;
    for sql in TAKING {
        let refused = client.try_execute(*sql).await;
        assert_refused(refused, Code::InvalidArgument, &[" table"]);
        let script = format!("SELECT 1; {sql}");
        let refused = client.try_execute(script).await;
        assert_refused(refused, Code::InvalidArgument, &[" table"]);
    }
    let swap = "BEGIN; ALTER TABLE p RENAME TO q; DROP TABLE q; COMMIT";
    let refused = client.try_execute(swap).await;
    assert_refused(refused, Code::InvalidArgument, &["foreign key"]);
    let put = options(r#"{"table": "p", "create": "replace"}"#);
    let refused = client.put(&put, &[ints([1])]).await;
    assert_refused(refused, Code::InvalidArgument, &["depend on it"]);
    let mut sql = client.sql();
    let refused = replace(&mut sql, None).await;
    assert_refused(refused, Code::InvalidArgument, &["depend on it"]);
    let transaction = sql.begin().await.unwrap();
    let refused = sql.update(TAKING[0], Some(&transaction)).await;
    assert_refused(refused, Code::InvalidArgument, &["depend on it"]);
    sql.roll_back(&transaction).await.unwrap();
    let transaction = sql.begin().await.unwrap();
    let refused = replace(&mut sql, Some(&transaction)).await;
    assert_refused(refused, Code::InvalidArgument, &["depend on it"]);
    sql.roll_back(&transaction).await.unwrap();
    let mut session = client.session().await;
    // The keys are in another database than the one where the session looks.
    for elsewhere in ["system", "temp"] {
        let set = format!("SET search_path = '{elsewhere}'");
        session.update(&set, None).await.unwrap();
        let refused = session.update(TAKING[1], None).await;
        assert_refused(refused, Code::InvalidArgument, &["depend on it"]);
        session.update("RESET search_path", None).await.unwrap();
    }
    // Temporary ones are others.
    session
        .update("CREATE OR REPLACE TEMP TABLE p (i BIGINT)", None)
        .await
        .unwrap();

    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows("FROM p JOIN c USING (i)").await, ["7|1"]);
    // What the errors say to do.
    client.execute("DROP TABLE c").await;
    // Without its schema it may be the other one.
    client
        .execute("CREATE OR REPLACE TABLE main.p AS SELECT 1 AS i")
        .await;
    client
        .execute("DROP TABLE s.c; DROP SCHEMA s CASCADE")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(server.client().await.rows("FROM p").await, ["1"]);
    server.stop();
}

/// A CASCADE takes a table with what its expressions use.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_foreign_key_is_not_dropped_with_what_it_uses() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE SEQUENCE s; CREATE SEQUENCE owned; CREATE SEQUENCE other; CREATE SEQUENCE of_view;
             CREATE TYPE e AS ENUM ('a'); CREATE TYPE plain AS ENUM ('a');
             CREATE MACRO f() AS 7; CREATE MACRO g() AS f(); CREATE MACRO unused() AS 7; CREATE MACRO \"row\"(one, other) AS NULL;
             CREATE SCHEMA u; CREATE SEQUENCE u.s; CREATE SCHEMA m; CREATE MACRO m.f() AS 1;
             CREATE TABLE p (
                 i BIGINT PRIMARY KEY DEFAULT nextval('s'), n BIGINT DEFAULT nextval('u.s'), o BIGINT DEFAULT nextval('owned'),
                 t VARCHAR DEFAULT 'a'::e, m plain, x BIGINT DEFAULT m.f(), y BIGINT CHECK (y <> g() + 1),
                 z BIGINT DEFAULT nextval('of_view'));
             CREATE TABLE c (i BIGINT REFERENCES p (i), j BIGINT);
             INSERT INTO p (i, m, y) VALUES (7, 'a', 1); INSERT INTO c VALUES (7, 1);
             CREATE TABLE owner (i BIGINT); ALTER SEQUENCE owned OWNED BY owner;
             CREATE VIEW v AS SELECT 1; ALTER SEQUENCE of_view OWNED BY v;
             CREATE TABLE t (i BIGINT); CREATE VIEW w AS SELECT 1;
             CREATE SCHEMA unrelated; CREATE TABLE unrelated.t (i BIGINT); CREATE SEQUENCE unrelated.s;
             CREATE MACRO unrelated.f() AS 7",
        )
        .await;
    client.execute("ALTER TABLE c RENAME COLUMN j TO k").await;
    for sql in [
        "DROP SEQUENCE s CASCADE",
        ";DROP SEQUENCE IF EXISTS main.s CASCADE",
        "DROP SEQUENCE owned CASCADE",
        "DROP TYPE e CASCADE",
        "EXPLAIN ANALYZE DROP TYPE e CASCADE",
        "DROP MACRO f CASCADE",
        "DROP FUNCTION g CASCADE",
        "DROP FUNCTION IF EXISTS main.\"F\" CASCADE",
        "DROP MACRO m.f CASCADE",
        "DROP\u{a0}MACRO f CASCADE",
        "DROP SCHEMA u CASCADE",
        "DROP SCHEMA m CASCADE",
        "DROP TABLE owner CASCADE",
        "DROP VIEW v CASCADE",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::InvalidArgument, &["CASCADE", "depends on"]);
    }
    let mut session = client.session().await;
    // What depends on what is not told there, and DuckDB does not find what the check calls.
    session
        .update("SET search_path = 'temp'", None)
        .await
        .unwrap();
    let refused = session.update("DROP MACRO test.m.f CASCADE", None).await;
    refused.unwrap_err();
    // Nothing that tables of foreign keys need is in these, and the type of a column is only copied.
    for sql in [
        "DROP TYPE plain CASCADE",
        "DROP SEQUENCE other CASCADE",
        "DROP MACRO unused CASCADE",
        "DROP TABLE t CASCADE",
        "DROP VIEW w CASCADE",
        "DROP SCHEMA unrelated CASCADE",
    ] {
        client.execute(sql).await;
    }

    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let found = "SELECT p.i, n, o, t, m, x, y, z, k FROM p JOIN c USING (i)";
    assert_eq!(client.rows(found).await, ["7|1|1|a|a|1|1|1|1"]);
    // What the errors say to do.
    client
        .execute(
            "DROP TABLE c; DROP TABLE p; DROP SEQUENCE s; DROP TYPE e; DROP MACRO g; DROP MACRO f; DROP SEQUENCE u.s; DROP SCHEMA u;
             DROP SCHEMA m CASCADE; DROP TABLE owner; DROP VIEW v CASCADE",
        )
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let types = "SELECT count(*) FROM duckdb_types() WHERE type_name = 'e'";
    assert_eq!(server.client().await.rows(types).await, ["0"]);
    server.stop();
}

/// Once the table that refers is taken, DuckDB deletes nothing from the other one any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refers_is_not_dropped_with_what_it_uses() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE SEQUENCE s; CREATE TABLE p (i BIGINT PRIMARY KEY);
             CREATE TABLE c (i BIGINT REFERENCES p (i), j BIGINT DEFAULT nextval('s')); INSERT INTO p VALUES (7);
             CREATE SEQUENCE own; ALTER SEQUENCE own OWNED BY c",
        )
        .await;
    for sql in ["DROP SEQUENCE s CASCADE", "DROP SEQUENCE own CASCADE"] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::InvalidArgument, &["CASCADE", "depends on"]);
    }
    // Its own drop frees the other one.
    client
        .execute("DROP TABLE c CASCADE; DROP SEQUENCE s CASCADE; DELETE FROM p; DROP TABLE p")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let tables = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'main'";
    assert_eq!(server.client().await.rows(tables).await, ["0"]);
    server.stop();
}
