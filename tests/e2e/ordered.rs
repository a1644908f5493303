//! `ORDER BY ... LIMIT` where rows were deleted or updated: DuckDB's `row_group_pruner` counts on those that were there before.

use duck_tests::start;

/// Two row groups that overlap: the smallest id is alone in the first one.
const QUEUE: &str = "
    CREATE OR REPLACE TABLE q (id BIGINT);
    INSERT INTO q SELECT 0 UNION ALL SELECT 100001 + range FROM range(20479);
    INSERT INTO q SELECT 1 + range FROM range(20480)";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_the_last_row_are_found_after_others_are_gone() {
    let (_server, client) = start().await;
    for (change, oldest) in [
        ("DELETE FROM q WHERE id = 0", "1"),
        ("UPDATE q SET id = 200000 WHERE id = 0", "1"),
        ("DELETE FROM q; INSERT INTO q VALUES (4), (5), (6)", "4"),
        (
            "BEGIN; DELETE FROM q; INSERT INTO q VALUES (4), (5); COMMIT",
            "4",
        ),
        ("TRUNCATE q; INSERT INTO q VALUES (300000)", "300000"),
    ] {
        client.execute(QUEUE).await;
        client.execute(change).await;
        for (order, extreme) in [("", "min"), ("DESC", "max")] {
            let sql = format!("SELECT id FROM q ORDER BY id {order} LIMIT 1");
            let found = client.rows(&sql).await;
            let expected = client.rows(&format!("SELECT {extreme}(id) FROM q")).await;
            assert_eq!(found, expected, "{change}, {sql}");
        }
        let found = client.rows("SELECT id FROM q ORDER BY id LIMIT 1").await;
        assert_eq!(found, [oldest], "{change}");
    }
    let setting = "SELECT current_setting('disabled_optimizers')";
    for sql in [
        "SET disabled_optimizers = ''",
        "SET SESSION disabled_optimizers = ''",
        "RESET disabled_optimizers",
    ] {
        assert!(client.try_execute(sql).await.is_err(), "{sql}");
        assert_eq!(client.rows(setting).await, ["row_group_pruner"], "{sql}");
    }
}
