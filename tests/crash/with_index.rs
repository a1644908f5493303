//! Indexes that are made, dropped and commented on in transactions with more, and beside others: what DuckDB 1.5.5 gets wrong when
//! that is rolled back, or replayed after a kill, or when the others end, is refused, and the rest survives.

use duck_tests::{Client, ServerProcess, assert_refused, ints, options, soon};
use futures::TryStreamExt;
use tonic::Code;

async fn assert_unique(client: &Client, id: i64) {
    let again = format!("INSERT INTO t (id) VALUES ({id})");
    let refused = client.try_execute(again).await;
    assert_refused(refused, Code::InvalidArgument, &["Duplicate key"]);
}

/// DuckDB takes the index away where the comment is rolled back, and does not open the database again after the next checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn no_comment_takes_an_index_away() {
    const COMMENT: &str = "COMMENT ON INDEX u IS 'x'";
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
        .await;
    client.execute("CREATE UNIQUE INDEX u ON t (id)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let refusals = [
        client.try_execute(COMMENT).await,
        client
            .try_execute(format!("BEGIN; {COMMENT}; ROLLBACK"))
            .await,
        sql.update(COMMENT, Some(&transaction))
            .await
            .map(i64::cast_unsigned),
    ];
    sql.roll_back(&transaction).await.unwrap();
    assert_unique(&client, 1).await;
    let server = ServerProcess::start_in(server.stop(), &[]);
    let client = server.client().await;
    assert_unique(&client, 1).await;
    for refused in refusals {
        assert_refused(refused, Code::Unimplemented, &["comment on its table"]);
    }
    client
        .execute("BEGIN; COMMENT ON TABLE t IS 'comment on index'; COMMENT ON COLUMN t.id IS 'x'; ROLLBACK")
        .await;
    assert_unique(&client, 1).await;
    server.stop();
}

/// Asserts that rows are found by both of their columns.
async fn assert_found(client: &Client) {
    assert_eq!(client.rows("SELECT b FROM t WHERE a = 7").await, ["100007"]);
    assert_eq!(client.rows("SELECT a FROM t WHERE b = 100007").await, ["7"]);
}

/// DuckDB logs the old index for the new one, takes the wrong one of the two away in a roll back, and crashes where
/// the old one was not used since the start.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_not_taken_for_another_one_of_its_name() {
    for is_restarted in [false, true] {
        for commit in [true, false] {
            let mut server = ServerProcess::start(&[]);
            let mut client = server.client().await;
            client
                .execute(
                    "CREATE TABLE t AS SELECT range AS a, 100000 + range AS b FROM range(5000)",
                )
                .await;
            client.execute("CREATE INDEX i ON t (a)").await;
            if is_restarted {
                server = ServerProcess::start_in(server.stop(), &[]);
                client = server.client().await;
            }
            let mut sql = client.sql();
            let transaction = sql.begin().await.unwrap();
            let mut run = async |statement| sql.update(statement, Some(&transaction)).await;
            run("DROP INDEX i").await.unwrap();
            let refused = run("CREATE INDEX I ON t (b)").await;
            let other = run("CREATE INDEX j ON t (b)").await;
            match commit {
                true => sql.commit(&transaction).await.unwrap(),
                false => sql.roll_back(&transaction).await.unwrap(),
            }
            assert_found(&client).await;
            if commit {
                client.execute("CREATE INDEX i ON t (a)").await;
            }
            let server = ServerProcess::start_in(server.kill(), &[]);
            assert_found(&server.client().await).await;
            let server = ServerProcess::start_in(server.stop(), &[]);
            assert_found(&server.client().await).await;
            let words = ["another one of its name", "commit in between"];
            assert_refused(refused, Code::FailedPrecondition, &words);
            other.unwrap();
            server.stop();
        }
    }
}

/// Rows whose list has no place of its own, so that an UPDATE of it deletes them.
const MAKE: &str =
    "CREATE OR REPLACE TABLE t AS SELECT range AS id, 0 AS n, [range] AS l FROM range(100)";
const UNIQUE: &str = "CREATE UNIQUE INDEX u ON t (id)";
const KEY: &str = "ALTER TABLE t ADD PRIMARY KEY (id)";
const DELETE: &str = "DELETE FROM t WHERE id = 1";

/// Two statements that must not be in one transaction.
const APART: &[[&str; 2]] = &[
    [DELETE, UNIQUE],
    [UNIQUE, DELETE],
    [DELETE, KEY],
    [KEY, DELETE],
    ["EXPLAIN ANALYZE DELETE FROM main.t WHERE id = 1", UNIQUE],
    ["UPDATE t SET l = [0] WHERE id = 1", UNIQUE],
    [UNIQUE, "UPDATE t SET id = 1000 WHERE id = 1"],
    [UNIQUE, "INSERT OR REPLACE INTO t VALUES (1, 1, [])"],
    [
        UNIQUE,
        "INSERT INTO t VALUES (1, 1, []) ON CONFLICT (id) DO UPDATE SET l = []",
    ],
    [
        UNIQUE,
        "MERGE INTO t USING (SELECT 1 AS id) USING (id) WHEN MATCHED THEN DELETE",
    ],
    [UNIQUE, "TRUNCATE t"],
    [DELETE, "; CREATE UNIQUE INDEX u ON t (id)"],
];

/// Scripts of which DuckDB replays everything.
const TOGETHER: &[&str] = &[
    "DELETE FROM other WHERE id = 1; CREATE UNIQUE INDEX u ON t (id)",
    "CREATE UNIQUE INDEX u ON t (id); UPDATE other SET id = 1000 WHERE id = 1",
    "INSERT INTO t VALUES (500, 0, []); CREATE UNIQUE INDEX u ON t (id); INSERT INTO t VALUES (501, 0, [])",
    "CREATE UNIQUE INDEX u ON t (id); INSERT INTO t VALUES (1, 0, []) ON CONFLICT DO NOTHING",
    "UPDATE t SET n = n + 1 WHERE id < 50; CREATE UNIQUE INDEX u ON t (id)",
    "CREATE OR REPLACE TABLE t AS FROM t; DELETE FROM t WHERE id = 1; UPDATE t SET l = [5] WHERE id = 2;
     CREATE UNIQUE INDEX u ON t (id); DELETE FROM t WHERE id = 3; UPDATE t SET id = 1000 WHERE id = 4",
    "CREATE OR REPLACE TABLE t AS SELECT range AS id, 0 AS n, [range] AS l FROM range(50_000);
     DELETE FROM t WHERE id % 2 = 1; CREATE UNIQUE INDEX u ON t (id)",
];

/// Asserts that each key can be given up and taken again, and no key twice.
async fn assert_keys_are_free(client: &Client, script: &str) {
    for id in 0..5 {
        for sql in [
            format!("DELETE FROM t WHERE id = {id}"),
            format!("INSERT INTO t (id) VALUES ({id})"),
        ] {
            if let Err(error) = client.try_execute(sql).await {
                panic!("{script}: {error:?}");
            }
        }
        assert_unique(client, id).await;
    }
}

async fn until_killed(server: ServerProcess, script: &str) -> ServerProcess {
    let before = server
        .client()
        .await
        .rows("SELECT id, n, l FROM t ORDER BY ALL")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let after = client.rows("SELECT id, n, l FROM t ORDER BY ALL").await;
    assert_eq!(after, before, "{script}");
    assert_keys_are_free(&client, script).await;
    server
}

/// DuckDB logs an index with the keys of rows that the same transaction has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_deleted_beside_a_new_index_are_free_after_a_kill() {
    let mut server = ServerProcess::start(&[]);
    for [first, second] in APART {
        let script = format!("{first}; {second}");
        let client = server.client().await;
        client.execute(MAKE).await;
        let mut sql = client.sql();
        let transaction = sql.begin().await.unwrap();
        sql.update(first, Some(&transaction)).await.unwrap();
        let refused = sql.update(second, Some(&transaction)).await;
        sql.commit(&transaction).await.unwrap();
        let as_script = client
            .try_execute(format!("{MAKE}; BEGIN; {first}; {second}; COMMIT"))
            .await;
        client.execute(&format!("{MAKE}; {first}")).await;
        client.execute(second).await;
        server = until_killed(server, &script).await;
        for refused in [refused.map(i64::cast_unsigned), as_script] {
            assert_refused(refused, Code::FailedPrecondition, &["commit in between"]);
        }
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_replayed_beside_a_new_index_is_not_refused() {
    let mut server = ServerProcess::start(&[]);
    for script in TOGETHER {
        let client = server.client().await;
        client.execute(MAKE).await;
        client
            .execute("CREATE OR REPLACE TABLE other AS FROM t")
            .await;
        client.execute(&format!("BEGIN; {script}; COMMIT")).await;
        server = until_killed(server, script).await;
    }
    let client = server.client().await;
    let mut session = client.session().await;
    for statement in [
        "CREATE TEMP TABLE own AS SELECT range AS id FROM range(10)",
        "BEGIN",
        "DELETE FROM own WHERE id = 1",
        "CREATE UNIQUE INDEX of_own ON own (id)",
        "COMMIT",
    ] {
        session.update(statement, None).await.unwrap();
    }
    server.stop();
}

/// Makes an index on a server that is quick to refuse it: something of the server's own may be in its way for a moment.
pub(crate) async fn make_index(client: &Client, sql: &str) {
    soon(sql, async {
        while let Err(refused) = client.try_execute(sql.to_owned()).await {
            assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
        }
    })
    .await;
}

/// DuckDB makes the index, and cannot go on once what is older has ended; and the unique one refuses the deleted keys for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_made_once_nothing_is_open_that_is_older_than_deleted_rows() {
    const PLAIN: &str = "CREATE INDEX p ON t (n)";
    const UNIQUE: &str = "CREATE UNIQUE INDEX u ON t (n)";
    const READ: &str = "FROM t, range(100)";
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT PRIMARY KEY, n BIGINT);
             INSERT INTO t SELECT range, range FROM range(100000);
             CREATE TABLE indexed (i BIGINT); CREATE INDEX there ON indexed (i)",
        )
        .await;
    let delete = options(r#"{"table":"t","mode":"delete"}"#);
    let words = ["older than rows", "try again"];
    let reader = server.client().await;
    let mut older = reader.stream(READ).await.unwrap();
    older.try_next().await.unwrap();
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let seen = sql.rows("SELECT count(*) FROM t", Some(&transaction));
    assert_eq!(seen.await, ["100000"]);
    client.put(&delete, &[ints(0..10)]).await.unwrap();
    assert_refused(client.try_execute(PLAIN).await, Code::Aborted, &words);
    let own = sql.update(PLAIN, Some(&transaction)).await;
    assert_refused(own, Code::Aborted, &words);
    for of_its_own in [
        "CREATE TABLE made AS FROM range(10) AS r(i)",
        "CREATE INDEX of_made ON made (i)",
    ] {
        sql.update(of_its_own, Some(&transaction)).await.unwrap();
    }
    sql.commit(&transaction).await.unwrap();
    assert_refused(client.try_execute(UNIQUE).await, Code::Aborted, &words);
    // None is made where it is there.
    client
        .execute("CREATE INDEX IF NOT EXISTS there ON indexed (i)")
        .await;
    client.put(&delete, &[ints(10..20)]).await.unwrap();
    drop(older);
    make_index(&client, UNIQUE).await;
    let mut younger = reader.stream(READ).await.unwrap();
    younger.try_next().await.unwrap();
    make_index(&client, PLAIN).await;
    client.put(&delete, &[ints(20..30)]).await.unwrap();
    drop(younger);
    client
        .execute("INSERT INTO t SELECT range, range FROM range(5, 25)")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.count("t").await, 100_000 - 30 + 20);
    for n in [5, 24, 30, 99_999] {
        let by_index = format!("SELECT i FROM t WHERE n = {n}");
        assert_eq!(client.rows(&by_index).await, [n.to_string()]);
    }
    let again = client.try_execute("INSERT INTO t VALUES (0, 5)").await;
    assert_refused(again, Code::InvalidArgument, &["Duplicate key"]);
    assert_eq!(client.execute("INSERT INTO t VALUES (0, 0)").await, 1);
    server.stop();
}

/// Two schemas with a table each, of one name. The first one has indexes that the second one has not.
const TWINS: &str = "
    CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE TABLE s1.t (k BIGINT, n BIGINT);
    CREATE INDEX i ON s1.t (k); CREATE INDEX j ON s1.t (n);
    CREATE TABLE s2.t (k BIGINT PRIMARY KEY, n BIGINT); INSERT INTO s2.t SELECT range, range FROM range(100)";

/// The index is made for the other table all the same: the server ended, and a unique one refused deleted keys for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_table_in_another_schema_is_another_one() {
    const MAKE: &str = "CREATE INDEX i ON s2.t (n)";
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    client.execute(TWINS).await;
    let mut sql = client.sql();
    let older = sql.begin().await.unwrap();
    let seen = sql.rows("SELECT count(*) FROM s2.t", Some(&older)).await;
    assert_eq!(seen, ["100"]);
    client.execute("DELETE FROM s2.t WHERE k < 11").await;
    let younger = sql.begin().await.unwrap();
    let seen = sql.rows("SELECT count(*) FROM s2.t", Some(&younger)).await;
    assert_eq!(seen, ["89"]);
    let mut session = client.session().await;
    session
        .update("SET search_path = 's2,s1'", None)
        .await
        .unwrap();
    let of_session = "CREATE UNIQUE INDEX IF NOT EXISTS i ON t (n)";
    for refused in [
        client.try_execute(MAKE).await.map(u64::cast_signed),
        sql.update(MAKE, Some(&older)).await,
        sql.update(MAKE, Some(&younger)).await,
        session.update(of_session, None).await,
    ] {
        assert_refused(refused, Code::Aborted, &["older than rows", "try again"]);
    }
    // What can never be allowed is not waited for.
    for transaction in [&older, &younger] {
        let beside = sql.update("CREATE INDEX third ON s1.t (n)", Some(transaction));
        assert_refused(beside.await, Code::FailedPrecondition, &["on its own"]);
    }
    // None is made where it is there.
    session
        .update("SET search_path = 's1,s2'", None)
        .await
        .unwrap();
    for there in [
        "CREATE INDEX IF NOT EXISTS i ON t (k)",
        "CREATE INDEX IF NOT EXISTS j ON test.s1.t (n)",
    ] {
        session.update(there, None).await.unwrap();
        sql.update(&there.replace(" t ", " s1.t "), Some(&younger))
            .await
            .unwrap();
    }
    // Nor is it waited where the table is the transaction's own.
    for of_its_own in [
        "CREATE SCHEMA s3",
        "CREATE TABLE s3.t AS SELECT range AS k FROM range(10)",
        "CREATE INDEX i ON s3.t (k)",
    ] {
        sql.update(of_its_own, Some(&younger)).await.unwrap();
    }
    sql.commit(&younger).await.unwrap();
    sql.roll_back(&older).await.unwrap();
    client.execute(MAKE).await;
    client.execute("DELETE FROM s2.t WHERE k = 20").await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows("SELECT k FROM s2.t WHERE n = 30").await, ["30"]);
    assert_eq!(client.rows("SELECT k FROM s3.t WHERE k = 3").await, ["3"]);
    client
        .execute("INSERT INTO s2.t VALUES (5, 5), (20, 20)")
        .await;
    assert_eq!(client.rows("SELECT count(*) FROM s2.t").await, ["90"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_refused_for_an_index_of_the_same_table_and_for_no_other() {
    const MAKE: &str = "CREATE INDEX i ON s2.t (n)";
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    client.execute(TWINS).await;
    let mut sql = client.sql();
    let overtaken = sql.begin().await.unwrap();
    sql.update(MAKE, Some(&overtaken)).await.unwrap();
    client.execute("CREATE INDEX j ON s2.t (n)").await;
    let commit = sql.commit(&overtaken).await;
    assert_refused(commit, Code::Aborted, &["run it again"]);
    client.execute("DROP INDEX s2.j").await;
    let alone = sql.begin().await.unwrap();
    sql.update(MAKE, Some(&alone)).await.unwrap();
    sql.commit(&alone).await.unwrap();
    // What drops none leaves the index there.
    client
        .execute("CREATE TABLE s2.u (k BIGINT, n BIGINT); CREATE INDEX of_u ON s2.u (k)")
        .await;
    let transaction = sql.begin().await.unwrap();
    sql.update("DROP INDEX IF EXISTS main.of_u", Some(&transaction))
        .await
        .unwrap();
    let beside = sql.update("CREATE INDEX third ON s2.u (n)", Some(&transaction));
    assert_refused(beside.await, Code::FailedPrecondition, &["on its own"]);
    sql.roll_back(&transaction).await.unwrap();
    client.execute("DELETE FROM s2.t WHERE k = 1").await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows("SELECT k FROM s2.t WHERE n = 30").await, ["30"]);
    assert_eq!(client.rows("SELECT count(*) FROM s2.t").await, ["99"]);
    server.stop();
}
