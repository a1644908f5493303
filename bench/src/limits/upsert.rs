//! Upserts by primary key.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{File, open};
use crate::load::{Keyed, TABLE, create_keyed_table_sql};
use crate::measure::per_second;

/// Rows of one batch.
const BATCH_ROWS: usize = 1000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the database file.
    #[arg(long)]
    dir: PathBuf,
    /// Rows of the table.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// How long each setting runs.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// The best of several settings.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let time = Duration::from_secs_f64(args.seconds);
    let mut best = 0.0_f64;
    for batches_per_commit in [1, 8, 32] {
        let path = args.dir.join(format!("upsert-{batches_per_commit}.db"));
        best = best.max(upserts(&path, args.keys, batches_per_commit, time)?);
    }
    Ok(json!({ "rows_per_second": best }))
}

/// Upserts random keys by a statement for each commit, on one connection.
fn upserts(
    path: &Path,
    keys: u64,
    batches_per_commit: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let connection = open(path, File::Server)?;
    connection.execute_batch(&create_keyed_table_sql(keys))?;
    connection.execute_batch(&format!(
        "CREATE TEMP TABLE incoming AS FROM {TABLE} LIMIT 0"
    ))?;
    // A statement cannot touch a row twice.
    let replace = format!(
        "INSERT OR REPLACE INTO {TABLE} SELECT DISTINCT ON (id) * FROM incoming; TRUNCATE incoming; COMMIT"
    );
    let mut source = Keyed::upserts(BATCH_ROWS, keys, 1);
    let started = Instant::now();
    let mut rows = 0;
    while started.elapsed() < time {
        connection.execute_batch("BEGIN")?;
        let mut appender = connection.appender("incoming")?;
        for _ in 0..batches_per_commit {
            appender.append_record_batch(source.next_batch()?)?;
            rows += BATCH_ROWS;
        }
        drop(appender);
        connection.execute_batch(&replace)?;
    }
    Ok(per_second(rows, started.elapsed()))
}
