//! `duck-bench`: what the benchmark needs in Rust. Each command prints one JSON object on stdout.
//!
//! - `limits`: what DuckDB does in this process, with no network: its appender, and a streaming read;
//! - `read`: one result through the wire, decoded and dropped;
//! - `small`: small queries on warm connections.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow_flight::Ticket;
use clap::Parser;
use duck_flight_protocol::{ConnectArgs, ConnectOptions};
use duck_load::{BatchSource, Plan};
use duckdb::Connection;
use futures::TryStreamExt;
use serde_json::json;

/// Rows of one batch, as the loaders send them.
const BATCH_ROWS: usize = 1000;

#[derive(Parser)]
enum Command {
    /// DuckDB in this process: its appender at several transaction sizes, and a streaming read.
    Limits {
        /// Where to make the database file.
        #[arg(long)]
        dir: PathBuf,
        /// Rows to append for each setting.
        #[arg(long, default_value_t = 4_000_000)]
        rows: usize,
        /// Rows to read.
        #[arg(long, default_value_t = 5_000_000)]
        read_rows: usize,
    },
    /// One result through the wire.
    Read {
        #[command(flatten)]
        connect: ConnectArgs,
        /// The statement.
        #[arg(long)]
        sql: String,
    },
    /// Small queries, one after another on each connection.
    Small {
        #[command(flatten)]
        connect: ConnectArgs,
        /// The statement.
        #[arg(long, default_value = "SELECT 42")]
        sql: String,
        /// Queries on each connection.
        #[arg(long, default_value_t = 2000)]
        queries: usize,
        /// Connections at the same time.
        #[arg(long, default_value_t = 1)]
        connections: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Command::parse() {
        Command::Limits {
            dir,
            rows,
            read_rows,
        } => limits(&dir, rows, read_rows)?,
        Command::Read { connect, sql } => read(connect.into(), sql).await?,
        Command::Small {
            connect,
            sql,
            queries,
            connections,
        } => small(connect.into(), sql, queries, connections).await?,
    };
    println!("{report}");
    Ok(())
}

/// The best of the settings a user of the appender might choose, and each of them.
fn limits(
    dir: &std::path::Path,
    rows: usize,
    read_rows: usize,
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
    Ok(json!({
        "appender_rows_per_s": best.round(),
        "appender": settings,
        "stream_rows_per_s": read.round(),
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

fn open(path: &std::path::Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "SET checkpoint_threshold = '4GB'; SET auto_checkpoint_skip_wal_threshold = 1152921504606846976",
    )?;
    Ok(connection)
}

fn append(
    path: &std::path::Path,
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

async fn read(connect: ConnectOptions, sql: String) -> anyhow::Result<serde_json::Value> {
    let mut client = connect.connect().await?;
    let started = Instant::now();
    let mut batches = client.do_get(Ticket::new(sql)).await?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows();
    }
    let elapsed = started.elapsed();
    Ok(json!({
        "rows": rows,
        "seconds": elapsed.as_secs_f64(),
        "rows_per_s": per_second(rows, elapsed).round(),
    }))
}

async fn small(
    connect: ConnectOptions,
    sql: String,
    queries: usize,
    connections: usize,
) -> anyhow::Result<serde_json::Value> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = connect.connect().await?;
        one(&mut client, &sql).await.context("warm up")?;
        clients.push(client);
    }
    let started = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let sql = sql.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(queries);
                for _ in 0..queries {
                    latencies.push(one(&mut client, &sql).await?);
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_secs_f64() * 1e3;
    Ok(json!({
        "queries_per_s": per_second(latencies.len(), elapsed).round(),
        "latency_ms_p50": at(50),
        "latency_ms_p99": at(99),
    }))
}

async fn one(client: &mut arrow_flight::FlightClient, sql: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let batches: Vec<_> = client
        .do_get(Ticket::new(sql.to_owned()))
        .await?
        .try_collect()
        .await?;
    anyhow::ensure!(
        batches.iter().any(|batch| batch.num_rows() > 0),
        "the result is empty"
    );
    Ok(started.elapsed())
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
