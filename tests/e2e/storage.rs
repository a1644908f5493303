//! The database file: its format and its row groups.

use duck_tests::{Client, ServerProcess, ints};
use tempfile::TempDir;

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

/// The most rows that a row group of the table `t` has.
async fn largest_row_group(client: &Client, table: &str) -> u64 {
    let sql = format!(
        "SELECT max(rows) FROM (
        SELECT sum(count)::BIGINT AS rows FROM pragma_storage_info('{table}') WHERE column_path = '[0]' GROUP BY row_group_id
    )"
    );
    client.value(&sql).await
}

/// A database with a table of `rows` numbers from 0 on, made by a DuckDB of its own.
fn made_by_duckdb(rows: i64, attach_options: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("test.db");
    let database = duckdb::Connection::open_in_memory().expect("DuckDB");
    let sql = format!(
        "ATTACH '{}' AS made {attach_options}; CREATE TABLE made.t AS SELECT range AS i FROM range({rows}); DETACH made",
        file.display()
    );
    database.execute_batch(&sql).expect("a database file");
    directory
}

/// Appends rows behind those that are there, after the table was altered, and finds all in their order; also after a
/// restart.
async fn assert_all_rows_are_kept(server: ServerProcess, before: i64) {
    let client = server.client().await;
    client
        .execute("ALTER TABLE t ADD COLUMN added INTEGER")
        .await;
    client.execute("ALTER TABLE t DROP COLUMN added").await;
    let mut rows = before;
    for more in [1, 5_000, 20_480, 50_000, 3] {
        client
            .append("t", &[ints(rows..rows + more)])
            .await
            .unwrap();
        rows += more;
        assert_eq!(client.count("t").await, u64::try_from(rows).unwrap());
    }
    let out_of_order = "SELECT count(*) FROM t WHERE i <> rowid";
    assert_eq!(client.rows(out_of_order).await, ["0"]);
    let sum = rows * (rows - 1) / 2;
    assert_eq!(
        client.value::<i64>("SELECT sum(i)::BIGINT FROM t").await,
        sum
    );
    client.checkpoint().await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(
        client.value::<i64>("SELECT sum(i)::BIGINT FROM t").await,
        sum
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_has_small_row_groups_unless_others_are_asked_for() {
    for (flags, largest) in [
        (&[][..], 20_480),
        (&["--row-group-size", "40960"], 40_960),
        // Files that a DuckDB of one block size can open are as that one makes them.
        (&["--storage-version", "v1.0.0"], 100_000),
    ] {
        let server = ServerProcess::start(flags);
        let client = server.client().await;
        client.append("t", &[ints(0..100_000)]).await.unwrap();
        assert_eq!(largest_row_group(&client, "t").await, largest);
        let server = ServerProcess::start_in(server.kill(), flags);
        let client = server.client().await;
        client.append("t", &[ints(100_000..200_000)]).await.unwrap();
        assert_eq!(largest_row_group(&client, "t").await, largest);
        assert_all_rows_are_kept(server, 200_000).await;
    }
}

/// To replay an index DuckDB writes to the file, which it cannot where it only reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_an_index_in_its_log_keeps_small_row_groups() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i BIGINT); INSERT INTO t SELECT range FROM range(1000)")
        .await;
    // Of several row groups, which may not be merged.
    client.append("other", &[ints(0..100_000)]).await.unwrap();
    client.checkpoint().await;
    client.execute("CREATE INDEX by_i ON t (i)").await;
    client.execute("INSERT INTO t VALUES (1000)").await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert!(!server.stderr().contains("WARN"), "{}", server.stderr());
    let client = server.client().await;
    client.append("t", &[ints(1001..100_000)]).await.unwrap();
    client.checkpoint().await;
    assert_eq!(largest_row_group(&client, "t").await, 20_480);
    assert_eq!(largest_row_group(&client, "other").await, 20_480);
    assert_eq!(client.rows("FROM t WHERE i = 1000").await, ["1000"]);
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(server.client().await.count("t").await, 100_000);
    server.stop();
}

/// DuckDB loses rows where a file has larger row groups than it is attached with.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_larger_row_groups_keeps_all_rows() {
    let rows = 100_000;
    for attach_options in [
        "",
        "(BLOCK_SIZE 131072)",
        "(BLOCK_SIZE 131072, ROW_GROUP_SIZE 40960)",
        "(BLOCK_SIZE 131072, ROW_GROUP_SIZE 2048)",
    ] {
        let server = ServerProcess::start_in(made_by_duckdb(rows, attach_options), &[]);
        assert_all_rows_are_kept(server, rows).await;
    }
    let server = ServerProcess::start(&["--row-group-size", "122880"]);
    server
        .client()
        .await
        .append("t", &[ints(0..rows)])
        .await
        .unwrap();
    let server = ServerProcess::start_in(server.stop(), &[]);
    assert_all_rows_are_kept(server, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_there_belongs_to_one_server() {
    let server = ServerProcess::start(&[]);
    server
        .client()
        .await
        .append("t", &[ints(0..3)])
        .await
        .unwrap();
    let server = ServerProcess::start_in(server.stop(), &[]);
    let file = server.directory().join("test.db");
    let file = file.to_str().expect("a path in UTF-8");
    let flags = ["--listen", "127.0.0.1:0", "--database", file];
    let exit = ServerProcess::try_start(&flags).expect_err("a second server on the file");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stderr.contains("in use") && exit.stderr.contains(file),
        "{exit:?}"
    );
    let client = server.client().await;
    client.append("t", &[ints(3..6)]).await.unwrap();
    assert_eq!(client.count("t").await, 6);
    assert_eq!(client.rows("SELECT current_database()").await, ["test"]);
}

/// What the server says of a database file that it does not start on, and what it leaves beside it.
fn refused(directory: TempDir) -> (String, Vec<String>) {
    let Err((directory, exit)) = ServerProcess::try_start_in(directory, &[], &[]) else {
        panic!("the server started");
    };
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let files = std::fs::read_dir(directory.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    (exit.stderr, names.collect())
}

#[test]
fn a_file_that_is_no_database_is_told_once_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("test.db"), "hello ".repeat(2000)).unwrap();
    let (said, files) = refused(directory);
    assert_eq!(
        said.matches("not a valid DuckDB database").count(),
        1,
        "{said}"
    );
    assert_eq!(files, ["test.db"]);
}

#[test]
fn a_file_that_another_process_has_is_told_once_and_left_alone() {
    let server = ServerProcess::start(&[]);
    let database = server.directory().join("test.db");
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(database, other.path().join("test.db")).unwrap();
    let (said, files) = refused(other);
    assert_eq!(said.matches("duck-flight-server (PID").count(), 1, "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    assert_eq!(files, ["test.db"]);
}

#[test]
fn a_file_with_a_schema_like_the_servers_own_is_refused_by_its_name() {
    for table in [
        "producers (i INTEGER)",
        "sequences (i INTEGER)",
        "rejects (i INTEGER)",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let database = duckdb::Connection::open(directory.path().join("test.db")).unwrap();
        let sql = format!("CREATE SCHEMA duck_flight; CREATE TABLE duck_flight.{table}");
        database.execute_batch(&sql).unwrap();
        drop(database);
        let (said, _) = refused(directory);
        assert!(
            said.contains("the schema duck_flight of a database is the server's own"),
            "{said}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_grow_is_an_error_and_not_the_end_of_all_that_was_acknowledged() {
    let mut server = ServerProcess::start(&["--min-free-disk", "0B"]);
    let client = server.client().await;
    client.append("t", &[ints(0..10)]).await.unwrap();
    // Of files above this size no byte more is written; only the soft limit, for the hard one never rises again.
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &server.id().to_string(), "--fsize=2097152:"])
        .status();
    assert!(limited.expect("prlimit runs").success());
    let mut rows = 10;
    for _ in 0..20 {
        match client.append("t", &[ints(rows..rows + 100_000)]).await {
            Ok(_) => rows += 100_000,
            Err(_) => break,
        }
    }
    assert!(rows < 2_000_000, "the limit was never met");
    server.signal("TERM");
    let exit = server.wait();
    assert!(exit.code.is_some(), "a signal ended it: {exit:?}");
    let server = ServerProcess::start_in(server.kill(), &[]);
    let found = server.client().await.count("t").await;
    assert_eq!(found, u64::try_from(rows).unwrap());
}

/// DuckDB replays rows that are deleted and written anew in whole row groups so that their keys lead nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_script_has_written_anew_are_found_after_kill() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE audit (i INTEGER); CREATE TABLE t (i BIGINT PRIMARY KEY, j INTEGER);
             INSERT INTO t SELECT range, 0 FROM range(50000)",
        )
        .await;
    client.checkpoint().await;
    client
        .execute("INSERT INTO audit VALUES (1); UPDATE t SET i = i, j = 1")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    for key in [0, 20_479, 49_999] {
        let found = client.rows(&format!("FROM t WHERE i = {key}")).await;
        assert_eq!(found, [format!("{key}|1")]);
        let twice = client
            .try_execute(format!("INSERT INTO t VALUES ({key}, 2)"))
            .await;
        assert!(twice.is_err(), "{key}");
    }
}
