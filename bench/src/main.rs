//! `duck-bench`: what the benchmark needs in Rust. Each command prints one JSON object on stdout.
//!
//! - `limits`: what DuckDB does in this process, with no network: its appender, upserts, and a streaming read;
//! - `read`: one result through the wire, decoded and dropped;
//! - `small`: small queries on warm connections;
//! - `keyed`: loaders that upsert, or apply changes, by primary key;
//! - `quack`: clients of DuckDB's own remote protocol, each inserting one row at a time.

mod keyed;
mod limits;
mod quack;
mod reads;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use duck_flight_protocol::ConnectArgs;
use serde_json::{Value, json};

#[derive(Parser)]
enum Command {
    /// DuckDB in this process: its appender and upserts at several transaction sizes, and a streaming read.
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
        /// Rows of the table that is upserted to.
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
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
    /// Loaders that upsert, or apply changes, by primary key: random rows of a table that holds all keys.
    Keyed(keyed::Args),
    /// Clients of a server of DuckDB's Quack protocol, each inserting one row at a time.
    Quack(quack::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Command::parse() {
        Command::Limits {
            dir,
            rows,
            read_rows,
            keys,
        } => limits::limits(&dir, rows, read_rows, keys)?,
        Command::Read { connect, sql } => reads::read(connect.into(), sql).await?,
        Command::Small {
            connect,
            sql,
            queries,
            connections,
        } => reads::small(connect.into(), sql, queries, connections).await?,
        Command::Keyed(args) => keyed::run(args).await?,
        Command::Quack(args) => quack::run(&args)?,
    };
    println!("{report}");
    Ok(())
}

/// What loaders came to, as `duck-load` reports it.
fn load_report(rows: usize, elapsed: Duration, mut latencies: Vec<Duration>) -> Value {
    latencies.sort_unstable();
    json!({
        "rows": rows,
        "rows_per_second": per_second(rows, elapsed),
        "latency_ms_p50": at_percent(&latencies, 50),
        "latency_ms_p99": at_percent(&latencies, 99),
        "latency_ms_max": at_percent(&latencies, 100),
    })
}

/// The latency in milliseconds that so many percent do not exceed; they are sorted. Absent where there are none.
fn at_percent(latencies: &[Duration], percent: usize) -> Option<f64> {
    let last = latencies.len().checked_sub(1)?;
    Some(latencies[last * percent / 100].as_secs_f64() * 1e3)
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
