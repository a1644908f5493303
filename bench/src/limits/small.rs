//! Small queries.

use std::path::PathBuf;
use std::time::Duration;

use duckdb::{Connection, Statement};
use serde_json::{Value, json};

use super::{File, open};
use crate::measure::{again_and_again, query_report, threads_at_once};

const SQL: &str = "SELECT 42";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the database file.
    #[arg(long)]
    dir: PathBuf,
    /// Connections at the same time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How long to ask in each way.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Asks in both ways. The report is that of the quicker one, with both as `settings`.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let connection = open(&args.dir.join("limit.db"), File::Server)?;
    let time = Duration::from_secs_f64(args.seconds);
    let mut settings = Vec::new();
    for prepared in [false, true] {
        let (elapsed, latencies) = threads_at_once(args.connections, |_| {
            let connection = connection.try_clone()?;
            Ok(move || ask_for(&connection, prepared, time))
        })?;
        let mut report = query_report(elapsed, latencies.concat());
        report["prepared"] = prepared.into();
        settings.push(report);
    }
    Ok(with_best(settings, "queries_per_second"))
}

/// The best of the settings by a rate, and all of them.
fn with_best(settings: Vec<Value>, rate: &str) -> Value {
    let of = |setting: &Value| setting[rate].as_f64().unwrap_or_default();
    let best = settings
        .iter()
        .max_by(|one, other| of(one).total_cmp(&of(other)));
    let mut report = best.cloned().unwrap_or_else(|| json!({}));
    report["settings"] = settings.into();
    report
}

/// Asks for so long, after a warm-up: a statement that is prepared once, or one that is parsed and planned each time.
fn ask_for(
    connection: &Connection,
    prepared: bool,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut statement = connection.prepare(SQL)?;
    ask(&mut statement)?;
    again_and_again(time, || {
        if prepared {
            ask(&mut statement)
        } else {
            ask(&mut connection.prepare(SQL)?)
        }
    })
}

fn ask(statement: &mut Statement<'_>) -> anyhow::Result<()> {
    let batches = statement.query_arrow([])?.count();
    anyhow::ensure!(batches == 1, "the result is empty");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_that_of_the_best_setting_and_has_all() {
        let settings = [(1.0, false), (2.0, true)]
            .map(|(rate, prepared)| json!({ "rate": rate, "prepared": prepared }));
        let report = with_best(settings.to_vec(), "rate");
        assert_eq!(report["prepared"], true);
        assert_eq!(report["settings"], json!(settings));
    }
}
