//! What DuckDB does in this process, with no network: what loading, upserting and reading are measured against.

mod small;
mod stream;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use duck_flight_server::{BLOCK_BYTES, DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION};
use duck_load::{BatchSource, Plan};
use duckdb::{Config, Connection};
use serde_json::{Value, json};

use crate::load::{Keyed, Shape, TABLE};
use crate::measure::{per_second, threads_at_once};

/// Rows of a row group as DuckDB makes them, and of several: such commits are compressed and go past the log.
const ROW_GROUP: usize = 122_880;
const ROW_GROUPS: usize = 4 * ROW_GROUP;

/// Rows of one batch of upserts.
const UPSERT_ROWS: usize = 1000;

#[derive(clap::Subcommand)]
pub(crate) enum Limit {
    /// The appender in order, with the settings a user of it might choose and in files of the server's kind and of
    /// DuckDB's own; the best counts.
    Append {
        /// Where to make the database file.
        #[arg(long)]
        dir: PathBuf,
        /// Rows to append for each setting.
        #[arg(long, default_value_t = 4_000_000)]
        rows: usize,
        /// Rows of each batch.
        #[arg(long, default_value_t = 1000)]
        batch_rows: usize,
        /// What the rows look like; as those of duck-load when absent.
        #[arg(long, value_enum)]
        shape: Option<Shape>,
    },
    /// INSERT OR REPLACE from a temporary table, with several batches in a commit; the best counts.
    Upsert {
        /// Where to make the database file.
        #[arg(long)]
        dir: PathBuf,
        /// Rows of the table.
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
        /// How long each setting runs.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// A streaming read that only counts its rows; the median of three counts, after a warm-up.
    Stream(stream::Args),
    /// Small queries, on a thread and a connection for each client: prepared anew each time, and prepared once. The
    /// better counts.
    Small(small::Args),
}

/// Measures one limit.
pub(crate) fn run(limit: &Limit) -> anyhow::Result<Value> {
    match limit {
        Limit::Append {
            dir,
            rows,
            batch_rows,
            shape,
        } => best_append(dir, *rows, *batch_rows, *shape),
        Limit::Upsert { dir, keys, seconds } => {
            best_upsert(dir, *keys, Duration::from_secs_f64(*seconds))
        }
        Limit::Stream(args) => stream::run(args),
        Limit::Small(args) => small::run(args),
    }
}

/// What kind of database file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum File {
    /// As the server makes it.
    Server,
    /// As DuckDB makes it, but in the server's format, for another one compresses otherwise.
    DuckDb,
}

impl File {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "duck-flight",
            Self::DuckDb => "duckdb",
        }
    }
}

fn open(path: &Path, file: File) -> anyhow::Result<Connection> {
    let config =
        Config::default().with("storage_compatibility_version", DEFAULT_STORAGE_VERSION)?;
    let connection = match file {
        File::DuckDb => Connection::open_with_flags(path, config)?,
        File::Server => {
            let connection = Connection::open_in_memory_with_flags(config)?;
            let path = path.display();
            connection.execute_batch(&format!(
                "SET write_buffer_row_group_count = 1;
                 ALTER DATABASE memory SET ALIAS TO limits;
                 ATTACH OR REPLACE '{path}' AS limits (ROW_GROUP_SIZE {DEFAULT_ROW_GROUP_ROWS}, BLOCK_SIZE {BLOCK_BYTES})"
            ))?;
            connection
        }
    };
    connection.execute_batch(
        "SET checkpoint_threshold = '4GB'; SET auto_checkpoint_skip_wal_threshold = 1152921504606846976",
    )?;
    Ok(connection)
}

fn best_append(
    dir: &Path,
    rows: usize,
    batch_rows: usize,
    shape: Option<Shape>,
) -> anyhow::Result<Value> {
    let mut settings = Vec::new();
    let mut best = 0.0_f64;
    let commits = [
        1,
        8,
        ROW_GROUP.div_ceil(batch_rows),
        ROW_GROUPS.div_ceil(batch_rows),
    ];
    // In DuckDB's own file one thread is never the best, nor are small commits.
    for (file, threads, commits) in [
        (File::Server, 1, &commits[..]),
        (File::Server, 2, &commits),
        (File::DuckDb, 2, &commits[2..]),
    ] {
        for &batches_per_commit in commits {
            // A commit for each batch is slow, and its rate shows soon.
            let rows = if batches_per_commit == 1 {
                rows / 4
            } else {
                rows
            };
            // Fewer rows than a commit would not show its rate.
            if batches_per_commit > 1 && batch_rows * batches_per_commit * threads > rows {
                continue;
            }
            let load = Load {
                shape,
                batch_rows,
                batches_per_commit,
            };
            let directory = tempfile::Builder::new().prefix("limit").tempdir_in(dir)?;
            let connection = open(&directory.path().join("limit.db"), file)?;
            let rate = append(&connection, threads, load, rows)?;
            best = best.max(rate);
            settings.push(json!({
                "file": file.name(),
                "threads": threads,
                "batches_per_commit": batches_per_commit,
                "rows_per_second": rate.round(),
            }));
        }
    }
    Ok(json!({ "rows_per_second": best, "settings": settings }))
}

/// What is appended, and how much of it in a commit.
#[derive(Clone, Copy)]
struct Load {
    shape: Option<Shape>,
    batch_rows: usize,
    batches_per_commit: usize,
}

impl Load {
    fn columns_sql(self) -> String {
        match self.shape {
            Some(shape) => shape.columns_sql(),
            None => "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR".into(),
        }
    }

    /// Batches as the loaders make them, made beforehand so that only the appender is measured.
    fn batches(self, count: usize) -> anyhow::Result<Vec<RecordBatch>> {
        match self.shape {
            Some(shape) => {
                let batches = shape.batches(self.batch_rows, 1)?;
                Ok(batches.into_iter().cycle().take(count).collect())
            }
            None => batches(count, self.batch_rows),
        }
    }
}

fn append(connection: &Connection, threads: usize, load: Load, rows: usize) -> anyhow::Result<f64> {
    connection.execute_batch(&format!("CREATE TABLE t ({})", load.columns_sql()))?;
    let commit_rows = load.batch_rows * load.batches_per_commit;
    let commits = rows.div_ceil(commit_rows * threads);
    let (elapsed, _) = threads_at_once(threads, |_| {
        let connection = connection.try_clone()?;
        let batches = load.batches(commits * load.batches_per_commit)?;
        Ok(move || append_commits(&connection, &batches, load.batches_per_commit))
    })?;
    Ok(per_second(commits * commit_rows * threads, elapsed))
}

fn append_commits(
    connection: &Connection,
    batches: &[RecordBatch],
    batches_per_commit: usize,
) -> anyhow::Result<()> {
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

/// Batches of `duck-load`.
fn batches(count: usize, rows: usize) -> anyhow::Result<Vec<RecordBatch>> {
    let defaults = Plan::new("t");
    let plan = Plan {
        seed: Some(1),
        rows: u32::try_from(rows)?.try_into()?,
        ..defaults
    };
    let mut sources = BatchSource::for_writers(&plan, 1);
    let source = &mut sources[0];
    Ok((0..count).map(|_| source.next_batch().rows).collect())
}

fn best_upsert(dir: &Path, keys: u64, time: Duration) -> anyhow::Result<Value> {
    let mut best = 0.0_f64;
    for batches_per_commit in [1, 8, 32] {
        let path = dir.join(format!("upsert-{batches_per_commit}.db"));
        best = best.max(upserts(&path, keys, batches_per_commit, time)?);
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
    connection.execute_batch(&crate::load::create_keyed_table_sql(keys))?;
    connection.execute_batch(&format!(
        "CREATE TEMP TABLE incoming AS FROM {TABLE} LIMIT 0"
    ))?;
    // A statement cannot touch a row twice.
    let replace = format!(
        "INSERT OR REPLACE INTO {TABLE} SELECT DISTINCT ON (id) * FROM incoming; TRUNCATE incoming; COMMIT"
    );
    let mut source = Keyed::upserts(UPSERT_ROWS, keys, 1);
    let started = Instant::now();
    let mut rows = 0;
    while started.elapsed() < time {
        connection.execute_batch("BEGIN")?;
        let mut appender = connection.appender("incoming")?;
        for _ in 0..batches_per_commit {
            appender.append_record_batch(source.next_batch()?)?;
            rows += UPSERT_ROWS;
        }
        drop(appender);
        connection.execute_batch(&replace)?;
    }
    Ok(per_second(rows, started.elapsed()))
}
