//! Files of the server: no client reads one, and nothing that is tried gives up the lock on the database.

use std::path::Path;

use duck_tests::{Client, ServerProcess, assert_refused, start};
use tonic::Code;

/// Ways to a file that go by no function's name, or that the name of a function is no part of.
fn ways_to(file: &str) -> Vec<String> {
    let elsewhere = format!("/usr/[.csv?]*/../..{file}");
    let by_pattern = [
        "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "db", "ddb", "duckdb",
    ]
    .map(|kind| format!("FROM '/usr/[.{kind}?]*/../..{file}'"));
    let mut ways = vec![
        format!("FROM '{file}'"),
        format!("FROM \"{file}\""),
        format!("FROM '{file}.csv', '{file}.parquet', '{file}.json', '{file}.db'"),
        format!("SUMMARIZE '{elsewhere}'"),
        format!("DESCRIBE '{elsewhere}'"),
        format!("FROM query_table('{elsewhere}')"),
        format!("FROM query_table('/usr/[.csv' || '?]*/../..{file}')"),
        format!("FROM histogram('{elsewhere}', a)"),
        format!("CREATE VIEW v AS FROM '{elsewhere}'"),
        format!("CREATE TABLE made AS FROM '{elsewhere}'"),
        format!("INSERT INTO t SELECT 1 FROM '{elsewhere}'"),
        format!("CREATE MACRO m(path) AS TABLE FROM query_table(path); FROM m('{elsewhere}')"),
        format!("PREPARE p AS FROM query_table($1); EXECUTE p('{elsewhere}')"),
        format!("SET VARIABLE f = '{elsewhere}'; FROM query_table(getvariable('f'))"),
        format!("DROP MACRO TABLE read_csv_auto; FROM '{elsewhere}'"),
        format!(
            "CREATE OR REPLACE TEMP MACRO read_csv_auto(p) AS TABLE SELECT 1; FROM '{elsewhere}'"
        ),
        format!("COPY t FROM '{file}'"),
        format!("COPY t TO '{file}'"),
        format!("EXPLAIN VERBOSE COPY t FROM '{file}'"),
        format!("ATTACH '{file}' AS again"),
        format!("ATTACH '{file}' AS again (READ_ONLY)"),
        format!("IMPORT DATABASE '{file}'"),
        format!("EXPORT DATABASE '{file}'"),
        format!("LOAD '{file}'"),
        format!("INSTALL '{file}'"),
        format!("PRAGMA import_database('{file}')"),
        format!(
            "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{file}'')'))"
        ),
        format!("SELECT content FROM read_text('{file}')"),
        format!("SELECT size FROM read_blob('{file}')"),
    ];
    ways.extend(by_pattern);
    ways
}

async fn assert_locked(client: &Client, database: &Path, after: &str) {
    let opened = duckdb::Connection::open(database);
    let told = opened.err().map(|error| error.to_string());
    let is_locked = told.is_some_and(|told| told.contains("Could not set lock"));
    assert!(is_locked, "not locked any more after {after}");
    assert_eq!(
        client.rows("SELECT count(*) FROM t").await,
        ["1"],
        "{after}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_opens_the_database_or_its_log_or_gives_up_their_lock() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut session = client.session().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS a").await;
    let database = server.directory().join("test.db");
    assert_locked(&client, &database, "the start").await;
    let spilled = format!("{}.tmp/**/../test.d[b.csv?]", database.display());
    for file in [
        database.display().to_string(),
        format!("{}.wal", database.display()),
        format!("{}.tmp/x", database.display()),
        spilled,
    ] {
        for sql in ways_to(&file) {
            let refused = session.try_rows(&sql, None).await;
            let error = refused.expect_err(&sql);
            assert_ne!(error.code(), Code::Internal, "{sql}: {error:?}");
            let refused = client.try_rows(&sql).await;
            assert!(refused.is_err(), "{sql}");
            assert_locked(&client, &database, &sql).await;
        }
    }
    assert!(server.is_alive());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_file_is_refused_as_such_and_that_of_a_table_is_not() {
    let (server, client) = start().await;
    for sql in [
        "FROM 'x.csv'",
        "SELECT count(*) FROM '/data/*.parquet'",
        "FROM \"a.json\"",
        "FROM x.db",
    ] {
        let refused = client.try_rows(sql).await;
        assert_refused(refused, Code::PermissionDenied, &["not for reading", "put"]);
    }
    client
        .execute("CREATE TABLE \"x.csv\" AS SELECT 42 AS i")
        .await;
    assert_eq!(client.rows("FROM 'x.csv'").await, ["42"]);
    assert_eq!(client.rows("FROM query_table('\"x.csv\"')").await, ["42"]);
    client.execute("DROP TABLE \"x.csv\"").await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_and_macros_that_are_in_the_file_read_no_files_either() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("test.db");
    let secret = directory.path().join("secret.csv");
    std::fs::write(&secret, "a\n1\n").unwrap();
    let path = secret.display();
    let elsewhere = duckdb::Connection::open(&database).unwrap();
    elsewhere
        .execute_batch(&format!(
            "CREATE VIEW v AS FROM '{path}';
            CREATE VIEW w AS FROM read_text('{path}');
            CREATE MACRO m(path) AS TABLE FROM read_blob(path);
            CREATE TABLE t AS SELECT 1 AS a"
        ))
        .unwrap();
    drop(elsewhere);
    let server = ServerProcess::start_in(directory, &[]);
    let client = server.client().await;
    let database = server.directory().join("test.db");
    let own = format!("FROM m('{}')", database.display());
    for sql in ["FROM v", "FROM w", &own] {
        let refused = client.try_rows(sql).await;
        assert_refused(refused, Code::PermissionDenied, &["not for reading"]);
        assert_locked(&client, &database, sql).await;
    }
    server.stop();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_database_stays_locked_where_its_process_closes_the_file() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS a").await;
    let path = "SELECT path FROM duckdb_databases() WHERE NOT internal";
    let database = client.rows(path).await.remove(0);
    // Under another name it has another mark.
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.db");
    std::os::unix::fs::symlink(&database, &link).unwrap();
    // With it go DuckDB's own locks.
    drop(std::fs::File::open(&database).unwrap());
    for name in [database.as_str(), link.to_str().unwrap()] {
        let flags = ["--database", name, "--listen", "127.0.0.1:0"];
        let exit = ServerProcess::try_start(&flags).unwrap_err();
        assert_eq!(exit.code, Some(1));
        let is_told = exit.stderr.contains("is in use by another process");
        assert!(is_told, "{name}: {exit:?}");
    }
    assert_eq!(client.rows("FROM t").await, ["1"]);
    server.shutdown().await;
}
