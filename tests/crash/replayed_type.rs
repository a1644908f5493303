//! Types of schemas: DuckDB makes them before it replays what made their schemas.

use duck_tests::{ServerProcess, assert_refused};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_made_in_a_schema_only_once_that_is_in_the_file() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute("CREATE SCHEMA s").await;
    for sql in [
        "CREATE TYPE s.mood AS ENUM ('a')",
        ";CREATE UNLOGGED TYPE s.mood AS ENUM ('a')",
        "CREATE\u{a0}TYPE s.mood AS ENUM ('a')",
        "CREATE OR REPLACE TYPE test.s.mood AS INTEGER",
        "EXPLAIN ANALYZE CREATE TYPE s.mood AS ENUM ('a')",
        "USE s; CREATE TYPE mood AS ENUM ('a')",
        "CREATE SCHEMA u; CREATE TYPE IF NOT EXISTS u.mood AS ENUM ('a')",
        "SELECT 1 AS größe; CREATE TYPE s.mood AS ENUM ('a')",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::Unimplemented, &["CHECKPOINT", "main"]);
    }
    client.execute("CREATE TYPE feeling AS ENUM ('b')").await;
    client.checkpoint().await;
    let mut session = client.session().await;
    for sql in ["BEGIN", "CREATE SCHEMA v"] {
        session.update(sql, None).await.unwrap();
    }
    let refused = session.update("CREATE TYPE v.mood AS ENUM ('a')", None);
    assert_refused(refused.await, Code::Unimplemented, &["transaction"]);
    for sql in [
        "ROLLBACK",
        "BEGIN",
        "CREATE TYPE s.mood AS ENUM ('a')",
        "CREATE TABLE s.t (m s.mood, n feeling)",
        "INSERT INTO s.t VALUES ('a', 'b')",
        "COMMIT",
        "ALTER TABLE s.t ADD COLUMN o s.mood",
    ] {
        session.update(sql, None).await.expect(sql);
    }
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    client
        .execute("INSERT INTO s.t VALUES ('a', 'b', 'a')")
        .await;
    let found = client.rows("FROM s.t ORDER BY ALL").await;
    assert_eq!(found, ["a|b|a", "a|b|NULL"]);
    server.stop();
}
