//! Scripts that end a transaction and begin another one.

use duck_tests::ServerProcess;

/// More than a row group.
const MANY: &str = "INSERT INTO t SELECT range, 's' || range FROM range(100000)";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_a_script_makes_behind_a_roll_back_survives_a_kill() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute("CREATE TABLE t (a BIGINT, b VARCHAR)").await;
    let mut session = client.session().await;
    session.update("BEGIN", None).await.unwrap();
    session
        .update("INSERT INTO t VALUES (-1, 'lost')", None)
        .await
        .unwrap();
    let script = format!("ROLLBACK; BEGIN; {MANY}; CREATE INDEX i ON t (b); COMMIT");
    session.update(&script, None).await.unwrap();
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let by_index = "SELECT a FROM t WHERE b = 's70000'";
    for sql in [by_index, "SELECT a FROM t WHERE a + 0 = 70000"] {
        assert_eq!(client.rows(sql).await, ["70000"]);
    }
    assert_eq!(client.count("t").await, 100_000);
    client.execute("DELETE FROM t WHERE b = 's70000'").await;
    client.execute("INSERT INTO t VALUES (7, 's70000')").await;
    let server = ServerProcess::start_in(server.stop(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows(by_index).await, ["7"]);
    server.stop();
}
