//! What DuckDB does in this process, with no network: what loading, upserting and reading are measured against.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use duck_load::{BatchSource, Plan};
use duckdb::Connection;
use serde_json::json;

use crate::keyed::{Kind, Rows, create_table_sql};
use crate::per_second;

/// Rows of one batch, as the loaders send them.
const BATCH_ROWS: usize = 1000;

/// How long each setting of the upserts runs.
const UPSERT_TIME: Duration = Duration::from_secs(1);

/// The best of the settings a user of the appender might choose, and each of them.
pub(crate) fn limits(
    dir: &Path,
    rows: usize,
    read_rows: usize,
    keys: u64,
) -> anyhow::Result<serde_json::Value> {
    let mut settings = Vec::new();
    let mut best = 0.0_f64;
    for threads in [1, 2] {
        for batches_per_commit in [1, 8, 128, 512] {
            let file = tempfile::Builder::new().prefix("limit").tempdir_in(dir)?;
            let rows = if batches_per_commit == 1 {
                rows / 4
            } else {
                rows
            };
            let rate = append(
                &file.path().join("limit.db"),
                threads,
                batches_per_commit,
                rows,
            )?;
            best = best.max(rate);
            settings.push(json!({
                "threads": threads,
                "batches_per_commit": batches_per_commit,
                "rows_per_s": rate.round(),
            }));
        }
    }
    let file = tempfile::Builder::new().prefix("limit").tempdir_in(dir)?;
    let path = file.path().join("read.db");
    let connection = open(&path)?;
    connection.execute_batch(&read_table_sql(read_rows))?;
    let read = (0..3)
        .map(|_| stream(&connection))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .fold(0.0_f64, f64::max);
    let mut upsert = 0.0_f64;
    for batches_per_commit in [1, 8, 32] {
        let path = file.path().join(format!("upsert-{batches_per_commit}.db"));
        upsert = upsert.max(upserts(&path, keys, batches_per_commit)?);
    }
    Ok(json!({
        "appender_rows_per_s": best.round(),
        "appender": settings,
        "stream_rows_per_s": read.round(),
        "upsert_rows_per_s": upsert.round(),
    }))
}

/// The table that reads are measured on: the loaders' columns.
fn read_table_sql(rows: usize) -> String {
    format!(
        "CREATE OR REPLACE TABLE bench_read AS
         SELECT i // 1000 AS batch_id, TIMESTAMP '2026-01-01' + to_microseconds(i) AS timestamp,
                (hash(i) % 1000000) / 10000.0 AS value, chr((65 + i % 4)::INTEGER) AS category
         FROM range({rows}) t(i)"
    )
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "SET checkpoint_threshold = '4GB'; SET auto_checkpoint_skip_wal_threshold = 1152921504606846976",
    )?;
    Ok(connection)
}

fn append(
    path: &Path,
    threads: usize,
    batches_per_commit: usize,
    rows: usize,
) -> anyhow::Result<f64> {
    let connection = open(path)?;
    connection.execute_batch(
        "CREATE TABLE t (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR)",
    )?;
    let commits = rows.div_ceil(BATCH_ROWS * batches_per_commit * threads);
    let start = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (connection, start) = (connection.try_clone()?, start.clone());
            Ok(std::thread::spawn(move || {
                let batches = batches(commits * batches_per_commit * BATCH_ROWS);
                start.wait();
                append_commits(&connection, &batches, batches_per_commit)
            }))
        })
        .collect::<anyhow::Result<_>>()?;
    start.wait();
    let started = Instant::now();
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("an appender thread panicked"))??;
    }
    let appended = commits * batches_per_commit * BATCH_ROWS * threads;
    Ok(per_second(appended, started.elapsed()))
}

fn append_commits(
    connection: &Connection,
    batches: &[RecordBatch],
    batches_per_commit: usize,
) -> duckdb::Result<()> {
    connection.execute_batch("SET SESSION preserve_insertion_order = false")?;
    for commit in batches.chunks(batches_per_commit) {
        connection.execute_batch("BEGIN")?;
        let mut appender = connection.appender("t")?;
        for batch in commit {
            appender.append_record_batch(batch.clone())?;
        }
        appender.flush()?;
        drop(appender);
        connection.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// Batches as `duck-load` makes them, made beforehand so that only the appender is measured.
fn batches(rows: usize) -> Vec<RecordBatch> {
    let plan = Plan {
        seed: Some(1),
        ..Plan::new("t")
    };
    let mut sources = BatchSource::for_writers(&plan, 1);
    let source = &mut sources[0];
    (0..rows.div_ceil(BATCH_ROWS))
        .map(|_| source.next_batch().rows)
        .collect()
}

fn stream(connection: &Connection) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut statement = connection.prepare("SELECT * FROM bench_read")?;
    let rows: usize = statement
        .stream_arrow([])?
        .map(|batch| batch.num_rows())
        .sum();
    Ok(per_second(rows, started.elapsed()))
}

/// Upserts random keys by a statement for each commit, on one connection.
fn upserts(path: &Path, keys: u64, batches_per_commit: usize) -> anyhow::Result<f64> {
    let connection = open(path)?;
    connection.execute_batch(&create_table_sql(keys))?;
    connection.execute_batch("CREATE TEMP TABLE incoming AS FROM keyed LIMIT 0")?;
    let mut source = Rows::new(Kind::Upsert, BATCH_ROWS, keys, 1);
    let started = Instant::now();
    let mut rows = 0;
    while started.elapsed() < UPSERT_TIME {
        connection.execute_batch("BEGIN")?;
        let mut appender = connection.appender("incoming")?;
        for _ in 0..batches_per_commit {
            appender.append_record_batch(source.next_batch()?)?;
            rows += BATCH_ROWS;
        }
        drop(appender);
        // A statement cannot touch a row twice.
        connection.execute_batch(
            "INSERT OR REPLACE INTO keyed SELECT DISTINCT ON (id) * FROM incoming; TRUNCATE incoming; COMMIT",
        )?;
    }
    Ok(per_second(rows, started.elapsed()))
}
