//! Clients of DuckDB's own remote protocol, each a DuckDB and a connection of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use duckdb::Connection;
use serde_json::{Value, json};

use crate::measure::{
    again_and_again, load_report, median, query_report, rows_per_second, threads_at_once,
};

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
    /// A whole table, streamed and dropped; the median of three reads counts.
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
            let (elapsed, latencies) = calls(server, &batch_sql(*rows), insert)?;
            Ok(load_report(latencies.len() * rows, elapsed, latencies))
        }
        Command::Small { server } => {
            let (elapsed, latencies) = calls(server, "", SMALL)?;
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

/// Clients that call a statement again and again, each after a first call that warms it up. Answers with how long that
/// took, and how long each call.
fn calls(
    server: &ServerArgs,
    set_up: &str,
    sql: &str,
) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let time = Duration::from_secs_f64(server.seconds);
    let (elapsed, latencies) = threads_at_once(server.clients, |_| {
        let connection = connect(server)?;
        connection.execute_batch(set_up)?;
        connection.execute_batch(sql).context("warm up")?;
        Ok(move || again_and_again(time, || Ok(connection.execute_batch(sql)?)))
    })?;
    Ok((elapsed, latencies.concat()))
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
    // Without the cache, which is off unless asked for, a client connects anew for each call. The server's queue of
    // connections is five long: with eight clients it is full now and then, and who finds it so tries again after a
    // whole second.
    connection.execute_batch(&format!(
        "SET httpfs_connection_caching = true; CREATE SECRET (TYPE quack, TOKEN '{token}'); ATTACH 'quack:{server}' AS remote"
    ))?;
    Ok(connection)
}

/// Reads a table three times; the median counts, as of our own reads.
fn read(server: &ServerArgs, table: &str) -> anyhow::Result<Value> {
    let connection = connect(server)?;
    let read = || rows_per_second(&connection, &format!("FROM remote.{table}"));
    // Every client warms up.
    read()?;
    Ok(json!({ "rows_per_second": median(read)? }))
}
