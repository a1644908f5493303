//! `duck-bench`: what the benchmark needs in Rust. Each command prints one JSON object on stdout.
//!
//! - `limit`: what DuckDB does in this process, with no network: appending, upserting, a streaming read, small queries;
//! - `read`: one result through the wire, decoded and dropped, by a client that may be slow;
//! - `small`: small queries on warm connections, by plain Flight or by Flight SQL;
//! - `load`: loaders whose rows `duck-load` does not make: wide, long texts, nested, by primary key;
//! - `idle`: connections that stand and do nothing;
//! - `quack`: clients of DuckDB's own remote protocol;
//! - `floor`: a Flight server with nothing behind its transport. It prints its address, and serves until it is
//!   interrupted.

mod connections;
mod floor;
mod limits;
mod load;
mod quack;
mod reads;

use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
enum Command {
    /// DuckDB in this process.
    #[command(subcommand)]
    Limit(limits::Limit),
    /// One result through the wire.
    Read(reads::ReadArgs),
    /// Small queries, one after another on each connection.
    Small(reads::SmallArgs),
    /// Loaders, each batch a put of its own.
    Load(load::Args),
    /// Connections that do nothing until standard input ends.
    Idle(connections::IdleArgs),
    /// Clients of a server of DuckDB's Quack protocol.
    #[command(subcommand)]
    Quack(quack::Command),
    /// A server that does nothing.
    Floor(floor::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Command::parse() {
        Command::Limit(limit) => limits::run(&limit)?,
        Command::Read(args) => reads::read(args).await?,
        Command::Small(args) => reads::small(args).await?,
        Command::Load(args) => load::run(args).await?,
        Command::Idle(args) => connections::idle(args).await?,
        Command::Quack(command) => quack::run(&command)?,
        Command::Floor(args) => return floor::serve(&args).await,
    };
    println!("{report}");
    Ok(())
}

/// What loaders came to, as `duck-load` reports it.
fn load_report(rows: usize, elapsed: Duration, latencies: Vec<Duration>) -> Value {
    let mut report = latency_report(latencies);
    report["rows"] = rows.into();
    report["rows_per_second"] = per_second(rows, elapsed).into();
    report
}

/// What clients of small queries came to.
fn query_report(elapsed: Duration, latencies: Vec<Duration>) -> Value {
    let rate = per_second(latencies.len(), elapsed);
    let mut report = latency_report(latencies);
    report["queries_per_second"] = rate.into();
    report
}

fn latency_report(mut latencies: Vec<Duration>) -> Value {
    latencies.sort_unstable();
    json!({
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
