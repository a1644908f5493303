//! The database file: its format.

use duck_tests::ServerProcess;

/// The format of the server's database, as DuckDB calls it.
async fn format(server: &ServerProcess) -> String {
    let client = server.client().await;
    let sql = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE path IS NOT NULL";
    client.rows(sql).await.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_has_the_format_that_is_asked_for_and_keeps_it() {
    for (flags, expected) in [
        (&["--storage-version", "v1.0.0"][..], "v1.0.0+"),
        (&[], "v1.4.0+"),
    ] {
        let mut server = ServerProcess::start(flags);
        for other_flags in [&[][..], &["--storage-version", "v1.5.0"]] {
            assert_eq!(format(&server).await, expected);
            let client = server.client().await;
            client
                .execute("CREATE OR REPLACE TABLE t AS FROM range(3)")
                .await;
            server = ServerProcess::start_in(server.kill(), other_flags);
            assert_eq!(server.client().await.rows("FROM t").await, ["0", "1", "2"]);
        }
        assert_eq!(format(&server).await, expected);
    }
}
