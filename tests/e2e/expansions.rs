//! What DuckDB makes several statements of: an ADD COLUMN with a default that is no literal, and a PIVOT.

use duck_tests::{SqlClient, assert_refused, start};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_which_it_is_in_doubt_what_it_is_made_of_leaves_no_transaction_open() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(30000)")
        .await;
    let mut session = client.session().await;
    for sql in [
        "ALTER TABLE t ADD COLUMN größe\u{a0}BOOLEAN DEFAULT false; SELECT 1",
        "ALTER TABLE t ADD COLUMN größe\u{a0}VARCHAR DEFAULT concat('a;', 'b')",
        "ALTER TABLE t ADD COLUMN größe\u{a0}INTEGER DEFAULT ('x'::INTEGER) /* ; */",
        "SELECT 1 AS größe\u{a0}; CREATE TABLE wide AS PIVOT t ON i USING count(*)",
        // A letter that DuckDB may drop.
        "SELECT 1 AS é; CREATE TABLE wide AS PIVOT t ON i USING count(*)",
    ] {
        let refused = session.update(sql, None).await;
        assert_refused(refused, Code::Unimplemented, &["alone", "quotes"]);
        session
            .update("INSERT INTO t VALUES (-1)", None)
            .await
            .unwrap();
        assert_eq!(
            client.execute("DELETE FROM t WHERE i = -1").await,
            1,
            "{sql}"
        );
    }
    for sql in [
        "ALTER TABLE t ADD COLUMN größe BOOLEAN DEFAULT false; SELECT 1",
        "ALTER TABLE t ADD COLUMN länge VARCHAR DEFAULT concat('a;', 'b')",
        "ALTER TABLE t ADD COLUMN höhe VARCHAR DEFAULT concat('a', 'b')",
        "SELECT größe FROM t LIMIT 1; ALTER TABLE t RENAME höhe TO tiefe",
    ] {
        session.update(sql, None).await.expect(sql);
    }
    let found = client.rows("SELECT DISTINCT * EXCLUDE (i) FROM t").await;
    assert_eq!(found, ["false|a;b|ab"]);
    server.shutdown().await;
}

/// DuckDB gives the database up where it is to do both at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_nested_column_with_a_default_is_refused_whatever_its_name() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(50000)")
        .await;
    for sql in [
        "ALTER TABLE t ADD COLUMN größe INTEGER[] DEFAULT [1]",
        "ALTER TABLE t ADD COLUMN größe STRUCT(a INTEGER) DEFAULT {'a': 1}",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS größe INTEGER[] DEFAULT [1] -- ;",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::Unimplemented, &[]);
    }
    assert_eq!(client.count("t").await, 50_000);
    server.shutdown().await;
}

/// An error ends such a statement's transaction, be it one of the server's own questions about another table.
#[tokio::test(flavor = "multi_thread")]
async fn tables_with_structs_beside_generated_columns_are_in_the_way_of_none() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t AS SELECT range AS k, range % 3 AS m FROM range(30000);
             CREATE TABLE x (k INTEGER, s STRUCT(a INTEGER), g INTEGER GENERATED ALWAYS AS (k + 1));
             CREATE TABLE \"a \"\"name\"\"\" (k INTEGER, s STRUCT(a INTEGER), g INTEGER GENERATED ALWAYS AS (k + 1));
             INSERT INTO x (k, s) SELECT range, {a: range} FROM range(30000)",
        )
        .await;
    let mut session = client.session().await;
    for sql in [
        "ALTER TABLE t ADD COLUMN a DOUBLE DEFAULT random()",
        "ALTER TABLE x ADD COLUMN a DOUBLE DEFAULT random()",
        "CREATE TABLE p AS PIVOT (SELECT k % 5 AS k, m FROM t) ON m USING count(*)",
        "CREATE TABLE q AS SELECT * FROM (PIVOT t ON m USING count(*) GROUP BY k)",
    ] {
        session.update(sql, None).await.expect(sql);
    }
    let found = "SELECT (SELECT count(a) FROM t), (SELECT count(a) FROM x), (SELECT count(*) FROM p), (SELECT count(*) FROM q)";
    assert_eq!(client.rows(found).await, ["30000|30000|5|30000"]);
    server.shutdown().await;
}

async fn pivot_types(session: &mut SqlClient) -> Vec<String> {
    let types = "SELECT count(*) FROM duckdb_types() WHERE type_name LIKE '%pivot%'";
    session.rows(types, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_leaves_nothing_in_its_session() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range % 3 AS i FROM range(30)")
        .await;
    let mut session = client.session().await;
    session
        .update("CREATE TEMP TYPE my_pivot AS ENUM ('a')", None)
        .await
        .unwrap();
    let pivot = "PIVOT t ON i USING count(*)";
    for _ in 0..3 {
        assert_eq!(session.rows(pivot, None).await, ["10|10|10"]);
    }
    assert_eq!(pivot_types(&mut session).await, ["1"]);
    session.update("BEGIN", None).await.unwrap();
    for _ in 0..3 {
        assert_eq!(session.rows(pivot, None).await, ["10|10|10"]);
    }
    session.update("COMMIT", None).await.unwrap();
    assert_eq!(pivot_types(&mut session).await, ["1"]);
    let transaction = session.begin().await.unwrap();
    let found = session.rows(pivot, Some(&transaction)).await;
    assert_eq!(found, ["10|10|10"]);
    session.roll_back(&transaction).await.unwrap();
    session
        .update("PIVOT t ON i USING error('no')", None)
        .await
        .unwrap_err();
    assert_eq!(pivot_types(&mut session).await, ["1"]);
    server.shutdown().await;
}
