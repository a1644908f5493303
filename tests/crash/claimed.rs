//! Alterations of one table in two transactions: the second one is refused, and everybody goes on to write to the table.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duck_flight_protocol::{PutOptions, SchemaMode};
use duck_tests::{Answer, Client, ServerProcess, assert_refused};
use tonic::Code;

const MAKE: &str = "CREATE OR REPLACE TABLE t AS
     SELECT range AS id, 's' || range AS c, 0 AS n, 0 AS spare FROM range(10)";

/// What keeps the storage of the table, for which DuckDB did not take back what another one has begun.
const FIRST: &[&str] = &[
    "COMMENT ON TABLE t IS 'it''s \"so\"'",
    "COMMENT ON COLUMN t.n IS 'x'",
    "ALTER TABLE t ALTER n SET DEFAULT 5",
    "ALTER TABLE t RENAME COLUMN spare TO other",
];

/// What puts another storage in its place.
const SECOND: &[&str] = &[
    "ALTER TABLE t ADD COLUMN y INTEGER",
    "ALTER TABLE IF EXISTS main.t ADD COLUMN y DOUBLE DEFAULT random()",
    "ALTER TABLE t DROP COLUMN spare",
    "ALTER TABLE \"T\" ALTER n TYPE BIGINT",
    "ALTER TABLE test.t ALTER c SET NOT NULL",
    "ALTER TABLE test.main.t ADD PRIMARY KEY (id)",
    "EXPLAIN ANALYZE ALTER TABLE t ADD COLUMN y INTEGER",
];

fn row(columns: &[&str]) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values([100]));
    let columns = columns.iter().map(|name| (*name, values.clone()));
    RecordBatch::try_from_iter(columns).expect("columns")
}

/// Adds a column to the table by a put.
async fn evolve(client: &Client) -> Answer<u64> {
    let options = PutOptions {
        schema: SchemaMode::Evolve,
        ..PutOptions::new("t")
    };
    let acks = client.put(&options, &[row(&["id", "y"])]).await?;
    Ok(acks.iter().map(|ack| ack.rows).sum())
}

async fn assert_goes_on(client: &Client, what: &str) {
    if let Err(error) = client.append("t", &[row(&["id"])]).await {
        panic!("{what}: {error:?}");
    }
    client.execute("UPDATE t SET n = 1 WHERE id = 2").await;
    client.execute("ALTER TABLE t ADD COLUMN z INTEGER").await;
    client.append("t", &[row(&["id", "z"])]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_can_be_written_to_after_an_alteration_was_refused() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = client.sql();
    for first in FIRST {
        for second in SECOND.iter().copied().map(Some).chain([None]) {
            client.execute(MAKE).await;
            let transaction = sql.begin().await.unwrap();
            sql.update(first, Some(&transaction)).await.unwrap();
            let refused = match second {
                Some(second) => client.try_execute(second).await,
                None => evolve(&client).await,
            };
            sql.commit(&transaction).await.unwrap();
            assert_goes_on(&client, &format!("{first}; {second:?}")).await;
            assert_refused(refused, Code::Aborted, &["t"]);
        }
    }
    let rows = client.rows("FROM t ORDER BY ALL").await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(
        server.client().await.rows("FROM t ORDER BY ALL").await,
        rows
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_can_be_written_to_after_an_older_transaction_was_refused_to_alter_it() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = client.sql();
    for second in SECOND {
        client.execute(MAKE).await;
        let transaction = sql.begin().await.unwrap();
        sql.rows("SELECT 1 FROM t LIMIT 1", Some(&transaction))
            .await;
        client.execute("COMMENT ON TABLE t IS 'x'").await;
        let refused = sql.update(second, Some(&transaction)).await;
        sql.roll_back(&transaction).await.unwrap();
        assert_goes_on(&client, second).await;
        assert_refused(refused, Code::Aborted, &["t"]);
    }
    server.stop();
}

/// Tables that differ in their schemas, their comments and what depends on them.
const TABLES: &[&str] = &[
    "CREATE SCHEMA s",
    "CREATE TABLE t (id BIGINT PRIMARY KEY, c VARCHAR CHECK (c <> 'x'), g BIGINT AS (id + 1))",
    "CREATE TABLE child (id BIGINT REFERENCES t (id))",
    "CREATE TABLE s.t (i INTEGER DEFAULT 7, j INTEGER)",
    "CREATE INDEX by_j ON s.t (j)",
    "CREATE TABLE s.\"it's \"\"T\"\"\" (i INTEGER)",
    "CREATE TABLE größe (i INTEGER)",
    "COMMENT ON TABLE main.t IS 'it''s \"so\"; -- \\ größer'",
    "COMMENT ON COLUMN main.t.c IS 'of ''c'''",
    "COMMENT ON TABLE s.t IS ''",
    "COMMENT ON TABLE größe IS 'wie groß'",
];

/// Alterations by a session that looks in the schema `s` first.
const ALTERATIONS: &[&str] = &[
    "ALTER TABLE t ADD COLUMN k INTEGER",
    "ALTER TABLE main.t ADD COLUMN k INTEGER",
    "ALTER TABLE test.main.t ADD COLUMN l INTEGER DEFAULT 3",
    "ALTER TABLE s.\"it's \"\"T\"\"\" ALTER i TYPE BIGINT",
    "ALTER TABLE größe ADD COLUMN länge INTEGER",
    "ALTER TABLE child ADD COLUMN k DOUBLE DEFAULT random()",
    "ALTER TABLE IF EXISTS nothing ADD COLUMN k INTEGER",
];

async fn described(client: &Client) -> [Vec<String>; 3] {
    let tables = "SELECT schema_name, table_name, comment FROM duckdb_tables()
         WHERE schema_name <> 'duck_flight' ORDER BY ALL";
    let columns =
        "SELECT schema_name, table_name, column_name, comment, column_default FROM duckdb_columns()
         WHERE NOT internal AND schema_name <> 'duck_flight' ORDER BY ALL";
    let constraints =
        "SELECT schema_name, table_name, constraint_text FROM duckdb_constraints() ORDER BY ALL";
    [
        client.rows(tables).await,
        client.rows(columns).await,
        client.rows(constraints).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_keeps_its_comment_when_it_is_altered() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for sql in TABLES {
        client.execute(sql).await;
    }
    let comments = "SELECT schema_name, table_name, comment FROM duckdb_tables()
         WHERE schema_name <> 'duck_flight' ORDER BY ALL";
    let before = client.rows(comments).await;
    let mut session = client.session().await;
    session.update("USE s", None).await.unwrap();
    for sql in ALTERATIONS {
        if let Err(error) = session.update(sql, None).await {
            panic!("{sql}: {error:?}");
        }
    }
    assert_eq!(client.rows(comments).await, before);
    let altered = described(&client).await;
    assert!(
        altered[1].contains(&"main|t|c|of 'c'|NULL".to_owned()),
        "{altered:?}"
    );
    assert!(
        altered[1].contains(&"s|t|k|NULL|NULL".to_owned()),
        "{altered:?}"
    );
    client
        .execute("INSERT INTO t (id, c) VALUES (1, 'y'); INSERT INTO child (id) VALUES (1)")
        .await;
    let refused = client.try_execute("DELETE FROM t").await;
    assert_refused(refused, Code::InvalidArgument, &["foreign key"]);
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(described(&server.client().await).await, altered);
    let server = ServerProcess::start_in(server.stop(), &[]);
    assert_eq!(described(&server.client().await).await, altered);
    server.stop();
}

/// Only the table that is altered is in the way of whoever alters it, not others of its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_same_name_is_altered_beside_another_transaction() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for sql in TABLES {
        client.execute(sql).await;
    }
    let mut session = client.session().await;
    let temporary = "CREATE TEMP TABLE t (i INTEGER)";
    session.update(temporary, None).await.unwrap();
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let comment = "COMMENT ON TABLE main.t IS 'x'";
    sql.update(comment, Some(&transaction)).await.unwrap();
    for alter in [
        "ALTER TABLE s.t ADD COLUMN k INTEGER",
        "ALTER TABLE t ADD COLUMN k INTEGER",
        "ALTER TABLE temp.t ADD COLUMN l INTEGER",
    ] {
        session.update(alter, None).await.unwrap();
    }
    let refused = session
        .update("ALTER TABLE test.t ADD COLUMN k INTEGER", None)
        .await;
    assert_refused(refused, Code::Aborted, &["t"]);
    sql.commit(&transaction).await.unwrap();
    server.stop();
}
