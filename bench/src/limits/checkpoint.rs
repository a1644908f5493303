//! What a checkpoint takes that has next to nothing to write: it goes over all row groups of a table.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::open_with_row_groups;
use crate::measure::median;

/// The fewest rows that a row group can have. How many it has makes no difference here.
const ROW_GROUP_ROWS: u64 = 2048;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the database file.
    #[arg(long)]
    dir: PathBuf,
    /// Row groups of the table.
    #[arg(long, default_value_t = 15_000)]
    row_groups: u64,
}

/// The milliseconds of a checkpoint with one new row.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let connection = open_with_row_groups(&args.dir.join("limit.db"), ROW_GROUP_ROWS)?;
    let rows = args.row_groups * ROW_GROUP_ROWS;
    connection.execute_batch(&format!(
        "CREATE TABLE t (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR);
         INSERT INTO t SELECT range, TIMESTAMP '2026-01-01', range / 1000, 'A' FROM range({rows}); CHECKPOINT"
    ))?;
    let reader = connection.try_clone()?;
    let millis = median(|| {
        // Where a transaction needs old data nothing is vacuumed, which takes longer: so it is beside loaders of the server.
        reader.execute_batch("BEGIN; FROM t LIMIT 0")?;
        connection.execute_batch("INSERT INTO t VALUES (1, now()::TIMESTAMP, 1, 'A')")?;
        let started = Instant::now();
        connection.execute_batch("CHECKPOINT")?;
        let took = started.elapsed();
        reader.execute_batch("ROLLBACK")?;
        Ok(took.as_secs_f64() * 1e3)
    })?;
    Ok(json!({ "checkpoint_ms": millis }))
}
