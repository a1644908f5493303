//! What clients may not do: overload the server, reach the machine behind it, or change it for others.

use std::path::Path;
use std::time::{Duration, Instant};

use duck_flight_protocol::PutOptions;
use duck_tests::{
    Answer, Client, ENDLESS_ROWS, ServerProcess, TestServer, assert_refused, numbered, soon,
};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use tonic::Code;

use super::statement::{poll, query};

/// Statements that wait for each connection, as the flag `--max-queries` says.
const WAITING_PER_QUERY: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn more_statements_than_may_wait_are_refused_with_the_limit() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let mut blocking = client
        .stream("SELECT * FROM range(100000000000)")
        .await
        .unwrap();
    assert!(blocking.next().await.unwrap().is_ok());
    let mut asked: FuturesUnordered<_> = (0..WAITING_PER_QUERY + 36)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.try_rows("SELECT 1").await })
        })
        .collect();
    for _ in 0..36 {
        let outcome = asked.next().await.expect("an answer");
        let error = outcome.unwrap().expect_err("refused");
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert!(
            error.message().contains("64") && error.message().contains("--max-queries"),
            "{error:?}"
        );
    }
    drop(blocking);
    while let Some(outcome) = soon("an answer", asked.next()).await {
        assert_eq!(outcome.unwrap().unwrap(), ["1"]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_statements_that_wait_have_a_limit_together() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let mut blocking = client.stream("FROM range(100000000000)").await.unwrap();
    assert!(blocking.next().await.unwrap().is_ok());
    let long = format!("SELECT 1 -- {}", "x".repeat(30_000_000));
    let mut asked: FuturesUnordered<_> = (0..8)
        .map(|number| {
            let (client, sql) = (client.clone(), long.clone());
            tokio::spawn(async move {
                match number % 2 {
                    0 => client.try_rows(&sql).await,
                    _ => client.try_execute(sql).await.map(|_| vec!["1".into()]),
                }
            })
        })
        .collect();
    // There is room for four, as they came and as they are to run.
    for _ in 0..4 {
        let outcome = soon("a refusal", asked.next()).await.expect("an answer");
        let names = ["texts of statements", "268435456 bytes"];
        assert_refused(outcome.unwrap(), Code::ResourceExhausted, &names);
    }
    let short = tokio::spawn({
        let client = client.clone();
        async move { client.try_rows("SELECT 2").await }
    });
    drop(blocking);
    assert_eq!(soon("an answer", short).await.unwrap().unwrap(), ["2"]);
    while let Some(outcome) = soon("an answer", asked.next()).await {
        assert_eq!(outcome.unwrap().unwrap(), ["1"]);
    }
    let values: Vec<_> = (0..300_000).map(|number| format!("({number})")).collect();
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let script = format!("INSERT INTO t VALUES {}", values.join(","));
    assert_eq!(client.execute(&script).await, 300_000);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_statements_whose_results_are_read_have_a_limit_together() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let long = format!("{ENDLESS_ROWS} -- {}", "x".repeat(30_000_000));
    let mut results = Vec::new();
    for _ in 0..4 {
        let mut rows = server.client().await.stream(long.clone()).await.unwrap();
        assert!(soon("a row", rows.next()).await.unwrap().is_ok());
        results.push(rows);
    }
    let fifth = client.stream(long.clone()).await.map(drop);
    let words = ["texts of statements", "268435456 bytes"];
    assert_refused(fifth, Code::ResourceExhausted, &words);
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    drop(results);
    // Once a statement has ended, for which its client does not wait.
    let room = async { while client.stream(long.clone()).await.is_err() {} };
    soon("room", room).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_polled_statements_have_a_limit_together() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let long = query(&format!("SELECT 1 -- {}", "x".repeat(40_000_000)));
    let mut polled = Vec::new();
    let refused = loop {
        assert!(polled.len() < 8, "300 MB are kept");
        let mut blocking = client.stream(ENDLESS_ROWS).await.unwrap();
        assert!(blocking.next().await.unwrap().is_ok());
        // It has no place yet, so there is an answer before its rows are there.
        let answer = client.clone().raw().poll_flight_info(long.clone()).await;
        drop(blocking);
        match answer {
            Ok(answer) => polled.push(answer.into_inner().flight_descriptor),
            Err(refused) => break refused,
        }
        client.until_kept("results", polled.len() as u64).await;
    };
    let words = ["texts of statements", "268435456 bytes"];
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &words);
    assert!(polled.len() > 2);
    // What has been told is kept no longer.
    let first = poll(&client, polled.swap_remove(0).unwrap()).await;
    assert_eq!(first.progress, Some(1.0));
    let mut next = poll(&client, long).await;
    while let Some(descriptor) = next.flight_descriptor {
        next = poll(&client, descriptor).await;
    }
    assert_eq!(next.progress, Some(1.0));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_do_not_wait_behind_queries() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    let mut blocking = client
        .stream("SELECT * FROM range(100000000000)")
        .await
        .unwrap();
    assert!(blocking.next().await.unwrap().is_ok());
    let rows = [duck_tests::ints(0..10)];
    assert_eq!(soon("an ack", client.append("t", &rows)).await.unwrap(), 10);
    drop(blocking);
    server.shutdown().await;
}

/// What others see of the server: settings, catalogs, and answers to a few questions.
async fn as_others_see_it(client: &Client) -> Answer<Vec<String>> {
    let mut seen = Vec::new();
    for sql in [
        "SELECT name, value FROM duckdb_settings() ORDER BY name",
        "SELECT database_name, path FROM duckdb_databases() WHERE NOT internal ORDER BY ALL",
        "SELECT name FROM duckdb_secrets() ORDER BY ALL",
        "SELECT 1 / 2, 'a' < 'B', [1, NULL] AS l, 1 = 1.0",
        "SELECT i FROM (VALUES (2), (NULL), (1)) AS v (i) ORDER BY i",
        "SELECT count(*) FROM t",
    ] {
        seen.extend(client.try_rows(sql).await?);
    }
    client.query("EXPLAIN ANALYZE SELECT 1").await?;
    Ok(seen)
}

/// Statements that reach for the machine, with `{dir}` for a directory they may try to write to.
const REACHING_OUT: &[&str] = &[
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "FROM '/etc/passwd'",
    "FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM query('FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('/etc/passwd')",
    "COPY (SELECT 1) TO '{dir}/out.csv'",
    "COPY (SELECT 1) TO '/tmp/duck_flight_breakout.csv'",
    "COPY (SELECT 1) TO '{dir}/test.db.tmp/out.csv'",
    "PREPARE p AS COPY (SELECT 1) TO '{dir}/test.db.tmp/out.csv'; EXECUTE p",
    "COPY (SELECT 1) TO '{dir}/.tmp/out.csv'",
    "COPY (SELECT 1) TO 'test.db.tmp/out.csv'",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY (SELECT 1) TO '{dir}/test.db.wal'",
    "CREATE TABLE x AS SELECT 1; COPY x FROM '/etc/passwd'",
    "EXPORT DATABASE '{dir}/export'",
    "IMPORT DATABASE '/tmp'",
    "ATTACH '{dir}/other.db'",
    "ATTACH '{dir}/test.db' AS again",
    "ALTER DATABASE test SET ALIAS TO other",
    "EXPLAIN ANALYZE ALTER DATABASE test SET ALIAS TO other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/x.duckdb_extension'",
    "FORCE INSTALL icu FROM community",
    "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "CREATE SECRET s (TYPE http)",
    "CREATE PERSISTENT SECRET s (TYPE http)",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {'path': '{dir}/log'})",
    "CALL enable_logging(storage = 'file', storage_config = {'path': '{dir}/log'})",
    "CALL enable_logging('QueryLog', storage = 'stdout')",
    "SELECT * FROM enable_logging('QueryLog', storage = 'stdout')",
    "SELECT * FROM query('SELECT * FROM enable_logging(storage = ''stdout'')')",
    "CALL enable_logging()",
    "CALL disable_logging()",
    "CALL truncate_duckdb_logs()",
    "PRAGMA enable_logging",
    "PRAGMA enable_profiling",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profiling_output = '{dir}/profile.json'",
    "SET profiling_output = '{dir}/profile.json'",
    "SET enable_profiling = 'query_tree'",
    "SET custom_profiling_settings = '{}'",
    "PRAGMA enable_progress_bar",
    "SET enable_progress_bar = true",
    "PRAGMA enable_print_progress_bar",
    "SET log_query_path = '{dir}/queries.log'",
    "SET temp_directory = '{dir}/t'",
    "SET home_directory = '{dir}'",
    "SET secret_directory = '{dir}'",
    "SET extension_directory = '{dir}'",
    "SET allowed_directories = ['/']",
    "SET allowed_configs = []",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET enable_external_access = true",
    "RESET enable_external_access",
];

/// Statements that would change the server for others.
const REACHING_OVER: &[&str] = &[
    "SET GLOBAL TimeZone = 'Asia/Tokyo'",
    "set /* */ global TimeZone = 'Asia/Tokyo'",
    "SET \"global\".x = 1",
    "SET GLOBAL search_path = 'x'",
    "RESET GLOBAL TimeZone",
    "SET memory_limit = '1MB'",
    "SET max_memory = '1MB'",
    "SET threads = 1",
    "SET worker_threads = 1",
    "SET default_order = 'DESC'",
    "SET default_null_order = 'NULLS_FIRST'",
    "PRAGMA default_null_order = 'NULLS_FIRST'",
    "SET integer_division = true",
    "SET preserve_insertion_order = false",
    "SET GLOBAL integer_division = true",
    "SET checkpoint_threshold = '1KB'",
    "SET arrow_large_buffer_size = true",
    "SET disabled_optimizers = 'filter_pushdown'",
    "PRAGMA disable_optimizer",
    "PRAGMA enable_verification",
    "PRAGMA force_checkpoint",
    "PRAGMA memory_limit = '1MB'",
    "PRAGMA threads = 1",
    "PRAGMA disable_checkpoint_on_shutdown",
    "PREPARE s AS SET GLOBAL TimeZone = 'Asia/Tokyo'; EXECUTE s",
    "PREPARE s AS SET threads = 1; EXECUTE s",
    "EXECUTE IMMEDIATE 'SET GLOBAL TimeZone = ''Asia/Tokyo'''",
    "EXPLAIN ANALYZE SET threads = 1",
    "DETACH test",
    "USE memory; DETACH test",
    "ATTACH ':memory:' AS shared",
];

/// The file that one of these statements would make outside of the test's directory.
const BREAKOUT: &str = "/tmp/duck_flight_breakout.csv";

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reaches_the_machine_or_changes_the_server_for_others() {
    // An earlier run may have left it.
    std::fs::remove_file(BREAKOUT).ok();
    let mut victim = Victim::start().await;
    let mut ways = Vec::new();
    for sql in REACHING_OUT.iter().chain(REACHING_OVER) {
        let harm = victim.harm_by(sql).await;
        if !harm.is_empty() {
            ways.push(format!("{sql}: {}", harm.join("; ")));
            victim = Victim::start().await;
        }
    }
    assert!(!Path::new(BREAKOUT).exists());
    assert!(ways.is_empty(), "{} ways: {ways:#?}", ways.len());
}

/// A server, and what others see of it before anything happens.
struct Victim {
    server: ServerProcess,
    client: Client,
    seen: Vec<String>,
    files: Vec<String>,
}

impl Victim {
    async fn start() -> Self {
        let server = ServerProcess::start(&["--max-queries", "2"]);
        let client = server.client().await;
        client.execute("CREATE TABLE t AS FROM range(10)").await;
        let seen = as_others_see_it(&client).await.unwrap();
        // DuckDB makes it when it has more than its memory holds.
        std::fs::create_dir(server.directory().join("test.db.tmp")).unwrap();
        let files = files(server.directory());
        Self {
            server,
            client,
            seen,
            files,
        }
    }

    /// Runs a statement and answers with all the harm it does. A statement may succeed that does none.
    async fn harm_by(&mut self, sql: &str) -> Vec<String> {
        let directory = self.server.directory().to_owned();
        let sql = sql.replace("{dir}", directory.to_str().unwrap());
        let outcome = soon(&sql, self.client.query(sql.clone())).await.map(drop);
        let mut harm = Vec::new();
        if let Err(error) = &outcome
            && [Code::Internal, Code::Unknown, Code::Unavailable].contains(&error.code())
        {
            harm.push(format!("{:?}: {}", error.code(), error.message()));
        }
        match as_others_see_it(&self.client).await {
            Ok(seen) => {
                let changed = self.seen.iter().zip(&seen).filter(|(was, is)| was != is);
                harm.extend(changed.map(|(was, is)| format!("others see {is} instead of {was}")));
            }
            Err(error) => harm.push(format!(
                "others get {:?}: {}",
                error.code(),
                error.message()
            )),
        }
        let new = files(&directory)
            .into_iter()
            .filter(|file| !self.files.contains(file));
        harm.extend(new.map(|file| format!("there is a file {file}")));
        if self.server.stdout().lines().count() > 1 {
            harm.push(format!("stdout says {}", self.server.stdout()));
        }
        if !self.server.is_alive() {
            harm.push(format!("the server ended: {}", self.server.stderr()));
        }
        if !harm.is_empty() {
            harm.push(format!("the statement itself: {outcome:?}"));
        }
        harm
    }
}

/// The files under a directory, but for the log, which comes and goes.
fn files(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_none_or(|extension| extension != "wal") {
            files.push(path.display().to_string());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_session_may_be_set() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for sql in [
        "SET TimeZone = 'Asia/Tokyo'; SELECT 1",
        "SET SESSION TimeZone = 'UTC'; SELECT 1",
        "SET VARIABLE x = 1; SELECT 1",
        "USE main; SELECT 1",
    ] {
        client
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for sql in [
        "PRAGMA table_info('duckdb_tables')",
        "PRAGMA version",
        "PRAGMA database_size",
        "SHOW TABLES",
    ] {
        client
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_are_refused_before_the_disk_is_full_and_queries_go_on() {
    let server = ServerProcess::start(&["--min-free-disk", "1000TB"]);
    // Before anybody puts.
    server.until_told(REFUSED).await;
    let client = server.client().await;
    for _ in 0..3 {
        let error = client.append("t", &[numbered(0, 1)]).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert!(error.message().contains("--min-free-disk"), "{error:?}");
    }
    assert_eq!(client.rows("SELECT 42").await, ["42"]);
    assert_eq!(server.stderr().matches(REFUSED).count(), 1);
    server.stop();
}

/// What the log says once of puts that are refused for want of room.
const REFUSED: &str = "puts are refused";

/// The name of a view that nobody can read any more goes into the log.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_writes_lines_of_its_own_into_the_log() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let name = "v\n1999-12-31T23:59:59Z  INFO duck_flight_server: fake \u{1b}[31m\u{202e}";
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    client
        .execute(&format!("CREATE VIEW \"{name}\" AS FROM t"))
        .await;
    client.execute("DROP TABLE t").await;
    let listed = client.flight().list_flights("").await.unwrap();
    assert!(listed.try_collect::<Vec<_>>().await.unwrap().is_empty());
    server.until_told("fake").await;
    let said = server.stderr();
    assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
    let forged = said.lines().find(|line| line.starts_with("1999"));
    assert_eq!(forged, None);
    server.stop();
}

/// Makes the log look longer than it is: from 3 GiB on longer than any may be.
fn lengthen_log(server: &ServerProcess, bytes: u64) {
    let log = server.directory().join("test.db.wal");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    log.set_len(bytes).unwrap();
}

/// Each batch waits for nearly as long as one waits at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_is_slowed_down_while_it_comes_in_where_room_is_scarce() {
    const BATCHES: u32 = 20;
    let wait = Duration::from_millis(150);
    // With so little memory for rows a unit is soon a large one.
    let server = ServerProcess::start(&["--ingest-buffer", "1MiB"]);
    let client = server.client().await;
    let batch = numbered(1, 60_000);
    client.append("t", &[numbered(0, 1)]).await.unwrap();
    client.execute("CREATE TABLE held AS SELECT 1 AS i").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    // Beside a transaction that has updated rows there is no checkpoint.
    let update = sql.update("UPDATE held SET i = 2", Some(&transaction));
    assert_eq!(update.await.unwrap(), 1);
    let put = client
        .open_put(&PutOptions::new("t"), &batch.schema())
        .await;
    put.fill(&batch).await;
    lengthen_log(&server, 2900 << 20);
    let start = Instant::now();
    let sent = async {
        for _ in 0..BATCHES {
            put.send_batch(&batch).await;
        }
    };
    soon("batches taken", sent).await;
    // The first ones may be taken before the server looks at its disk again, and the last ones wait for it to read them.
    assert!(start.elapsed() >= wait * (BATCHES / 4), "not slowed down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_refused_where_a_transaction_keeps_the_log_too_long_and_taken_once_it_has_ended() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute("CREATE TABLE held AS SELECT 1 AS i").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    // Beside a transaction that has updated rows there is no checkpoint.
    let update = sql.update("UPDATE held SET i = 2", Some(&transaction));
    assert_eq!(update.await.unwrap(), 1);
    lengthen_log(&server, 4 << 30);
    let put = async || client.append("t", &[numbered(0, 1)]).await;
    let words = ["the log has grown", "end the transaction"];
    assert_refused(put().await, Code::ResourceExhausted, &words);
    server.until_told(REFUSED).await;
    assert_eq!(client.rows("SELECT 42").await, ["42"]);
    sql.roll_back(&transaction).await.unwrap();
    let taken = async {
        while let Err(error) = put().await {
            assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        }
    };
    soon("a checkpoint, and a put taken", taken).await;
    server.until_told("puts are no longer refused").await;
    assert_eq!(client.count("t").await, 1);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_refused_by_what_keeps_the_server_itself_from_a_checkpoint() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    // Where the server keeps images of metadata before its first checkpoint.
    let images = server.directory().join("test.db.metadata");
    std::fs::create_dir(&images).unwrap();
    lengthen_log(&server, 4 << 30);
    let put = async || client.append("t", &[numbered(0, 1)]).await;
    let told = async {
        loop {
            let error = put().await.expect_err("no room");
            assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
            if error.message().contains("test.db.metadata") {
                break error;
            }
        }
    };
    let error = soon("the reason", told).await;
    assert!(!error.message().contains("transaction"), "{error:?}");
    std::fs::remove_dir(&images).unwrap();
    let taken = async {
        while let Err(error) = put().await {
            assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        }
    };
    soon("a checkpoint, and a put taken", taken).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_would_spill_more_than_may_be_fails_alone() {
    let flags = ["--memory-limit", "100MiB", "--spill-limit", "1MiB"];
    let server = ServerProcess::start(&flags);
    let client = server.client().await;
    client.append("t", &[numbered(0, 10)]).await.unwrap();
    let too_much =
        "SELECT count(*) FROM (SELECT DISTINCT range, hash(range) FROM range(5_000_000))";
    let refused = soon("a refusal", client.try_rows(too_much)).await;
    assert_refused(refused, Code::ResourceExhausted, &["--spill-limit"]);
    client.append("t", &[numbered(1, 10)]).await.unwrap();
    assert_eq!(client.count("t").await, 20);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_stay_free_of_the_disk_is_not_for_what_queries_spill() {
    let server = ServerProcess::start(&["--min-free-disk", "1000TB"]);
    let limit = "SELECT current_setting('max_temp_directory_size')";
    assert_eq!(server.client().await.rows(limit).await, ["1.0 MiB"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_is_refused_while_it_comes_in_where_no_room_is_left() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let batch = numbered(0, 300_000);
    let put = client
        .open_put(&PutOptions::new("t"), &batch.schema())
        .await;
    for _ in 0..10 {
        soon("a batch taken", put.send_batch(&batch)).await;
    }
    // It is written already.
    lengthen_log(&server, 4 << 30);
    for _ in 0..100 {
        soon("a batch taken", put.send_batch(&batch)).await;
    }
    assert_refused(
        put.finish().await,
        Code::ResourceExhausted,
        &["the log has grown"],
    );
    server.kill();
}
