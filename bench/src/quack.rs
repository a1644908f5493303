//! Clients of DuckDB's own remote protocol.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;
use duckdb::Connection;
use serde_json::Value;

use crate::load_report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the server is: `host:port`.
    #[arg(long)]
    server: String,
    /// What the server was told to ask for.
    #[arg(long)]
    token: String,
    /// The files of the extensions that the protocol needs, in the order to load them.
    #[arg(long = "load", required = true)]
    extensions: Vec<PathBuf>,
    /// Clients, each with a DuckDB and a connection of its own.
    #[arg(long, default_value_t = 8)]
    writers: usize,
    /// How long to insert.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// The loaders' columns; the server runs it as it is, which is faster than an INSERT into the attached table.
const INSERT: &str = "CALL remote.query('
    INSERT INTO concurrent_test VALUES (1, TIMESTAMP ''2026-01-01 12:34:56.789'', 43.21, ''A'')')";

/// Inserts one row at a time on each connection, and tells how fast that was.
pub(crate) fn run(args: &Args) -> anyhow::Result<Value> {
    let start = Arc::new(Barrier::new(args.writers + 1));
    let time = Duration::from_secs(args.seconds);
    let clients: Vec<_> = (0..args.writers)
        .map(|_| {
            let (connection, start) = (connect(args)?, start.clone());
            Ok(std::thread::spawn(move || {
                start.wait();
                insert(&connection, time)
            }))
        })
        .collect::<anyhow::Result<_>>()?;
    start.wait();
    let started = Instant::now();
    let mut latencies = Vec::new();
    for client in clients {
        let waited = client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        latencies.extend(waited);
    }
    Ok(load_report(latencies.len(), started.elapsed(), latencies))
}

fn connect(args: &Args) -> anyhow::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    for extension in &args.extensions {
        let load = format!("LOAD '{}'", extension.display());
        connection
            .execute_batch(&load)
            .with_context(|| format!("load {}", extension.display()))?;
    }
    let (server, token) = (&args.server, &args.token);
    connection.execute_batch(&format!(
        "CREATE SECRET (TYPE quack, TOKEN '{token}'); ATTACH 'quack:{server}' AS remote"
    ))?;
    Ok(connection)
}

fn insert(connection: &Connection, time: Duration) -> duckdb::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let sent = Instant::now();
        connection.execute_batch(INSERT)?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}
