//! A streaming read of the table that the servers' reads are measured with.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{File, open};
use crate::measure::{median, rows_per_second};

/// As the benchmark fills the servers' table.
const FILL: &str = "
    CREATE TABLE readings (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR);
    INSERT INTO readings SELECT range // 1000, TIMESTAMP '2026-01-01' + to_microseconds(range * 1000),
        hash(range) % 100000 / 1000, chr(65 + (hash(range + 1) % 4)::INTEGER) FROM range({rows})";

const READ: &str = "SELECT * FROM readings";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the database file.
    #[arg(long)]
    dir: PathBuf,
    /// Rows of the table.
    #[arg(long, default_value_t = 5_000_000)]
    rows: usize,
}

/// How fast the table is read, once it has been read before.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let connection = open(&args.dir.join("limit.db"), File::Server)?;
    connection.execute_batch(&FILL.replace("{rows}", &args.rows.to_string()))?;
    let read = || rows_per_second(&connection, READ);
    read()?;
    Ok(json!({ "rows_per_second": median(read)? }))
}
