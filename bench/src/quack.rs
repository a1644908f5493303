//! Clients of DuckDB's own remote protocol, each a DuckDB and a connection of its own.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;
use duckdb::Connection;
use serde_json::{Value, json};

use crate::{load_report, per_second, query_report};

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// Where the server is: `host:port`.
    #[arg(long)]
    server: String,
    /// What the server was told to ask for.
    #[arg(long)]
    token: String,
    /// The files of the extensions that the protocol needs, in the order to load them.
    #[arg(long = "load", required = true)]
    extensions: Vec<PathBuf>,
    /// Clients at the same time.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// How long to insert or ask.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Inserts batches, each committed by itself.
    Insert {
        #[command(flatten)]
        server: ServerArgs,
        /// Rows of each batch.
        #[arg(long, default_value_t = 1)]
        rows: usize,
    },
    /// Small queries, one after another.
    Small {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// One result, streamed and dropped.
    Read {
        #[command(flatten)]
        server: ServerArgs,
        /// The table.
        #[arg(long)]
        table: String,
    },
}

/// One row: the server runs the text as it is, which is faster than an INSERT into the attached table.
const INSERT_ROW: &str = "CALL remote.query('
    INSERT INTO concurrent_test VALUES (1, TIMESTAMP ''2026-01-01 12:34:56.789'', 43.21, ''A'')')";

/// Many rows: from a table of the client's.
const INSERT_ROWS: &str = "INSERT INTO remote.concurrent_test FROM batch";

const SMALL: &str = "FROM remote.query('SELECT 42')";

/// Does what the command says, and tells how fast that was.
pub(crate) fn run(command: &Command) -> anyhow::Result<Value> {
    match command {
        Command::Insert { server, rows } => {
            let insert = if *rows == 1 { INSERT_ROW } else { INSERT_ROWS };
            let (elapsed, latencies) = again_and_again(server, &batch_sql(*rows), insert)?;
            Ok(load_report(latencies.len() * rows, elapsed, latencies))
        }
        Command::Small { server } => {
            let (elapsed, latencies) = again_and_again(server, "", SMALL)?;
            Ok(query_report(elapsed, latencies))
        }
        Command::Read { server, table } => read(server, table),
    }
}

fn batch_sql(rows: usize) -> String {
    format!(
        "CREATE TABLE batch AS SELECT 1::BIGINT AS batch_id, TIMESTAMP '2026-01-01 12:34:56.789' AS timestamp,
            random() * 100 AS value, chr(65 + (random() * 4)::INTEGER % 4) AS category FROM range({rows})"
    )
}

fn again_and_again(
    server: &ServerArgs,
    set_up: &str,
    sql: &'static str,
) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let start = Arc::new(Barrier::new(server.clients + 1));
    let time = Duration::from_secs_f64(server.seconds);
    let clients: Vec<_> = (0..server.clients)
        .map(|_| {
            let (connection, start) = (connect(server)?, start.clone());
            connection.execute_batch(set_up)?;
            Ok(std::thread::spawn(move || {
                start.wait();
                run_for(&connection, sql, time)
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
    Ok((started.elapsed(), latencies))
}

fn connect(args: &ServerArgs) -> anyhow::Result<Connection> {
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

fn run_for(connection: &Connection, sql: &str, time: Duration) -> duckdb::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let sent = Instant::now();
        connection.execute_batch(sql)?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

fn read(server: &ServerArgs, table: &str) -> anyhow::Result<Value> {
    let connection = connect(server)?;
    let mut statement = connection.prepare(&format!("FROM remote.{table}"))?;
    let started = Instant::now();
    let batches = statement.stream_arrow([])?;
    let rows: usize = batches.map(|batch| batch.num_rows()).sum();
    let elapsed = started.elapsed();
    Ok(json!({
        "rows": rows,
        "seconds": elapsed.as_secs_f64(),
        "rows_per_second": per_second(rows, elapsed),
    }))
}
