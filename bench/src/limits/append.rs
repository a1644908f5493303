//! DuckDB's appender, and INSERTs of a few rows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use duck_load::{BatchSource, Plan};
use duckdb::types::{TimeUnit, Value as Cell};
use duckdb::{Connection, params, params_from_iter};
use serde_json::{Value, json};

use super::{File, open};
use crate::load::Shape;
use crate::measure::{RUNS, median, per_second, threads_at_once};

/// Rows of a row group as DuckDB makes them, and of several: such commits are compressed and go past the log.
const ROW_GROUP: usize = 122_880;
const ROW_GROUPS: usize = 4 * ROW_GROUP;

/// How long a setting is tried, and how many of the best are then measured, for how long at most. A commit that has
/// begun is ended.
const TRIAL: Duration = Duration::from_millis(100);
const FINALISTS: usize = 2;
const AT_MOST: Duration = Duration::from_secs(1);

/// Commits of so many rows are tried by INSERT, too: the appender plans one for each commit.
const MOST_INSERTED_ROWS: usize = 8;

/// Batches are made beforehand, so that only the appender is measured; more than so many, or of more rows in all, are
/// appended again.
const MOST_BATCHES: usize = 4096;
const MOST_ROWS: usize = 1_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the database files.
    #[arg(long)]
    dir: PathBuf,
    /// Rows to append for each figure, where there is time for so many.
    #[arg(long, default_value_t = 4_000_000)]
    rows: usize,
    /// Rows of each batch.
    #[arg(long, default_value_t = 1000)]
    batch_rows: usize,
    /// Batches of a commit at most, however few rows they have.
    #[arg(long, default_value_t = 10_000)]
    max_commit_batches: usize,
    /// What the rows look like; as those of duck-load when absent.
    #[arg(long, value_enum)]
    shape: Option<Shape>,
}

/// The best setting's rate and, of batches that duck-load sends exactly once, that of the best one that is exactly once.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let load = Load::new(args)?;
    let mut measured = Vec::new();
    let mut best_of = |exactly_once| {
        let settings = settings(args, exactly_once);
        let figures = measure(&settings, |setting, time| load.rate(setting, time))?;
        let rate = best(&figures);
        measured.extend(figures);
        anyhow::Ok(rate)
    };
    let rate = best_of(false)?;
    let is_sent_once = args.shape.is_none() && args.batch_rows > 1;
    let rate_once = is_sent_once.then(|| best_of(true)).transpose()?;
    let settings: Vec<_> = measured.iter().map(Measured::report).collect();
    Ok(json!({
        "rows_per_second": rate,
        "rows_per_second_once": rate_once,
        "settings": settings,
    }))
}

/// How rows come to the table.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Appender,
    /// A prepared INSERT of all rows of a commit.
    Insert,
}

/// A way to load.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Setting {
    way: Way,
    file: File,
    threads: usize,
    batches_per_commit: usize,
    /// Each commit writes how far its thread has come, too, as one must that is to be known when it is sent again.
    exactly_once: bool,
}

/// The ways that are worth a try.
fn settings(args: &Args, exactly_once: bool) -> Vec<Setting> {
    let row_groups = [ROW_GROUP, ROW_GROUPS].map(|rows| rows.div_ceil(args.batch_rows));
    let mut commits = [1, 4, 8, row_groups[0], row_groups[1]]
        .map(|batches| batches.min(args.max_commit_batches))
        .to_vec();
    commits.sort_unstable();
    commits.dedup();
    let mut settings = Vec::new();
    for (file, threads) in [(File::Server, 1), (File::Server, 2), (File::DuckDb, 2)] {
        for &batches_per_commit in &commits {
            let commit_rows = batches_per_commit * args.batch_rows;
            // Fewer rows than a commit would not show its rate.
            let is_too_large = batches_per_commit > 1 && commit_rows * threads > args.rows;
            // In DuckDB's own file small commits are never the best, nor is one thread.
            let is_too_small = file == File::DuckDb && commit_rows < ROW_GROUP;
            if is_too_large || is_too_small {
                continue;
            }
            let setting = Setting {
                way: Way::Appender,
                file,
                threads,
                batches_per_commit,
                exactly_once,
            };
            settings.push(setting);
            if commit_rows <= MOST_INSERTED_ROWS && !exactly_once && args.shape.is_none() {
                let way = Way::Insert;
                settings.push(Setting { way, ..setting });
            }
        }
    }
    settings
}

/// What a setting came to: the median of its runs.
#[derive(Debug, PartialEq)]
struct Measured {
    setting: Setting,
    rows_per_second: f64,
    runs: usize,
}

impl Measured {
    fn report(&self) -> Value {
        json!({
            "way": match self.setting.way {
                Way::Appender => "appender",
                Way::Insert => "insert",
            },
            "file": self.setting.file.name(),
            "threads": self.setting.threads,
            "batches_per_commit": self.setting.batches_per_commit,
            "exactly_once": self.setting.exactly_once,
            "rows_per_second": self.rows_per_second.round(),
            "runs": self.runs,
        })
    }
}

/// Tries each setting for a moment, and measures the best again, at length; the best come first.
fn measure(
    settings: &[Setting],
    rate: impl Fn(Setting, Duration) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Measured>> {
    let tried = settings.iter().map(|&setting| {
        Ok(Measured {
            setting,
            rows_per_second: rate(setting, TRIAL)?,
            runs: 1,
        })
    });
    let mut measured: Vec<_> = tried.collect::<anyhow::Result<_>>()?;
    measured.sort_by(|one, other| other.rows_per_second.total_cmp(&one.rows_per_second));
    for finalist in measured.iter_mut().take(FINALISTS) {
        finalist.rows_per_second = median(|| rate(finalist.setting, AT_MOST))?;
        finalist.runs = RUNS;
    }
    Ok(measured)
}

/// The best median. What was only tried does not count.
fn best(measured: &[Measured]) -> f64 {
    let finalists = measured.iter().filter(|figure| figure.runs == RUNS);
    finalists
        .map(|figure| figure.rows_per_second)
        .fold(0.0, f64::max)
}

/// What is appended, and where.
struct Load<'a> {
    args: &'a Args,
    columns_sql: String,
    batches: Vec<RecordBatch>,
}

impl<'a> Load<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let (columns_sql, batches) = match args.shape {
            Some(shape) => (shape.columns_sql(), shape.batches(args.batch_rows, 1)?),
            None => (
                "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR".to_owned(),
                batches(args)?,
            ),
        };
        Ok(Self {
            args,
            columns_sql,
            batches,
        })
    }

    /// Rows a second in a new database file, by as many rows as there is time for.
    fn rate(&self, setting: Setting, time: Duration) -> anyhow::Result<f64> {
        let directory = tempfile::Builder::new()
            .prefix("limit")
            .tempdir_in(&self.args.dir)?;
        let connection = open(&directory.path().join("limit.db"), setting.file)?;
        connection.execute_batch(&format!(
            "CREATE TABLE t ({}); CREATE TABLE sequences (name VARCHAR PRIMARY KEY, last UBIGINT)",
            self.columns_sql
        ))?;
        let (elapsed, rows) = threads_at_once(setting.threads, |thread| {
            let connection = connection.try_clone()?;
            Ok(move || match setting.way {
                Way::Appender => self.append(&connection, setting, thread, time),
                Way::Insert => self.insert(&connection, setting, time),
            })
        })?;
        Ok(per_second(rows.iter().sum(), elapsed))
    }

    /// Appends a thread's share of the rows, or what there is time for; answers with how many rows that were.
    fn append(
        &self,
        connection: &Connection,
        setting: Setting,
        thread: usize,
        time: Duration,
    ) -> anyhow::Result<usize> {
        let name = format!("loader {thread}");
        let mut sequence = connection.prepare("INSERT OR REPLACE INTO sequences VALUES (?, ?)")?;
        let mut appender = connection.appender("t")?;
        let mut batches = self.batches.iter().cycle();
        let mut rows = 0;
        let started = Instant::now();
        while rows < self.args.rows / setting.threads && started.elapsed() < time {
            connection.execute_batch("BEGIN")?;
            for batch in batches.by_ref().take(setting.batches_per_commit) {
                appender.append_record_batch(batch.clone())?;
                rows += batch.num_rows();
            }
            appender.flush()?;
            if setting.exactly_once {
                sequence.execute(params![name, rows])?;
            }
            connection.execute_batch("COMMIT")?;
        }
        Ok(rows)
    }

    /// Inserts a thread's share of the rows, or what there is time for; answers with how many rows that were.
    fn insert(
        &self,
        connection: &Connection,
        setting: Setting,
        time: Duration,
    ) -> anyhow::Result<usize> {
        let commit_rows = setting.batches_per_commit * self.args.batch_rows;
        let places = vec!["(?, ?, ?, ?)"; commit_rows].join(", ");
        let mut insert = connection.prepare(&format!("INSERT INTO t VALUES {places}"))?;
        let mut batches = self.batches.iter().cycle();
        let mut rows = 0;
        let started = Instant::now();
        while rows < self.args.rows / setting.threads && started.elapsed() < time {
            let commit = batches.by_ref().take(setting.batches_per_commit);
            rows += insert.execute(params_from_iter(commit.flat_map(cells)))?;
        }
        Ok(rows)
    }
}

/// The values of a batch of `duck-load`, row by row.
fn cells(batch: &RecordBatch) -> Vec<Cell> {
    let ids = batch.column(0).as_primitive::<Int64Type>();
    let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    let values = batch.column(2).as_primitive::<Float64Type>();
    let categories = batch.column(3).as_string::<i32>();
    let row = |row| {
        [
            Cell::BigInt(ids.value(row)),
            Cell::Timestamp(TimeUnit::Microsecond, times.value(row)),
            Cell::Double(values.value(row)),
            Cell::Text(categories.value(row).to_owned()),
        ]
    };
    (0..batch.num_rows()).flat_map(row).collect()
}

/// Batches of `duck-load`.
fn batches(args: &Args) -> anyhow::Result<Vec<RecordBatch>> {
    let plan = Plan {
        seed: Some(1),
        rows: u32::try_from(args.batch_rows)?.try_into()?,
        ..Plan::new("t")
    };
    let count = args.rows.min(MOST_ROWS).div_ceil(args.batch_rows);
    let mut sources = BatchSource::for_writers(&plan, 1);
    let next = std::iter::repeat_with(|| sources[0].next_batch().rows);
    Ok(next.take(count.clamp(1, MOST_BATCHES)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(batch_rows: usize) -> Args {
        Args {
            dir: PathBuf::new(),
            rows: 4_000_000,
            batch_rows,
            max_commit_batches: 10_000,
            shape: None,
        }
    }

    fn commits(batch_rows: usize, file: File, threads: usize) -> Vec<usize> {
        let settings = settings(&args(batch_rows), false).into_iter();
        settings
            .filter(|setting| setting.file == file && setting.threads == threads)
            .filter(|setting| setting.way == Way::Appender)
            .map(|setting| setting.batches_per_commit)
            .collect()
    }

    #[test]
    fn commits_are_of_a_few_batches_and_of_row_groups() {
        assert_eq!(commits(1000, File::Server, 1), [1, 4, 8, 123, 492]);
        assert_eq!(commits(1000, File::DuckDb, 2), [123, 492]);
        assert_eq!(commits(1, File::Server, 2), [1, 4, 8, 10_000]);
        assert_eq!(commits(1, File::DuckDb, 2), [0; 0]);
        assert_eq!(commits(1_000_000, File::Server, 2), [1]);
    }

    #[test]
    fn commits_of_a_few_rows_are_tried_by_insert_too() {
        let inserted = |batch_rows| {
            let settings = settings(&args(batch_rows), false).into_iter();
            let inserts = settings.filter(|setting| setting.way == Way::Insert);
            let commits: Vec<_> = inserts.map(|setting| setting.batches_per_commit).collect();
            commits
        };
        assert_eq!(inserted(1), [1, 4, 8, 1, 4, 8]);
        assert_eq!(inserted(1000), [0; 0]);
    }

    #[test]
    fn what_is_best_when_tried_is_measured_again_and_its_median_counts() {
        let settings = settings(&args(1000), false);
        let rate = |setting: Setting, time| {
            let tried = (setting.batches_per_commit * setting.threads) as f64;
            Ok(if time == TRIAL { tried } else { tried / 10.0 })
        };
        let measured = measure(&settings, rate).unwrap();
        assert_eq!(measured.len(), settings.len());
        let runs: Vec<_> = measured.iter().map(|figure| figure.runs).collect();
        assert_eq!(runs[..3], [RUNS, RUNS, 1]);
        assert_eq!(best(&measured), 98.4);
    }
}
