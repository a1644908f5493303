//! What all measuring has in common: clients that start together, calls that are repeated, and what they come to.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use duckdb::Connection;
use serde_json::{Value, json};

/// How often a figure is measured that is a median.
pub(crate) const RUNS: usize = 3;

/// What a client found, and when it ran.
struct Run<T> {
    started: Instant,
    ended: Instant,
    found: T,
}

impl<T> Run<T> {
    /// One that has just ended.
    fn since(started: Instant, found: T) -> Self {
        let ended = Instant::now();
        Self {
            started,
            ended,
            found,
        }
    }
}

/// Prepares so many jobs, and runs each on a thread of its own, all from the same moment on. Answers with the time from
/// the first start to the last end, and with what they found.
pub(crate) fn threads_at_once<J, T>(
    count: usize,
    prepare: impl FnMut(usize) -> anyhow::Result<J>,
) -> anyhow::Result<(Duration, Vec<T>)>
where
    J: FnOnce() -> anyhow::Result<T> + Send,
    T: Send,
{
    let jobs: Vec<J> = (0..count).map(prepare).collect::<anyhow::Result<_>>()?;
    let start = &Barrier::new(count);
    let runs: Vec<Run<T>> = thread::scope(|scope| {
        let spawn = |job: J| {
            scope.spawn(move || {
                start.wait();
                let started = Instant::now();
                anyhow::Ok(Run::since(started, job()?))
            })
        };
        let threads: Vec<_> = jobs.into_iter().map(spawn).collect();
        let ended = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.map_err(|_| anyhow::anyhow!("a thread of the benchmark panicked"))?
        });
        ended.collect::<anyhow::Result<_>>()
    })?;
    Ok(together(runs))
}

/// Runs each job as a task of its own, as [`threads_at_once`] does with threads.
pub(crate) async fn tasks_at_once<J, T>(jobs: Vec<J>) -> anyhow::Result<(Duration, Vec<T>)>
where
    J: Future<Output = anyhow::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(jobs.len()));
    let spawn = |job: J| {
        let start = start.clone();
        tokio::spawn(async move {
            start.wait().await;
            let started = Instant::now();
            anyhow::Ok(Run::since(started, job.await?))
        })
    };
    let tasks: Vec<_> = jobs.into_iter().map(spawn).collect();
    let mut runs = Vec::with_capacity(tasks.len());
    for task in tasks {
        runs.push(task.await??);
    }
    Ok(together(runs))
}

fn together<T>(runs: Vec<Run<T>>) -> (Duration, Vec<T>) {
    let started = runs.iter().map(|run| run.started).min();
    let ended = runs.iter().map(|run| run.ended).max();
    let elapsed = started.zip(ended).map(|(started, ended)| ended - started);
    let found = runs.into_iter().map(|run| run.found).collect();
    (elapsed.unwrap_or_default(), found)
}

/// Calls again and again for so long, and answers with how long each call took.
pub(crate) fn again_and_again(
    time: Duration,
    mut call: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let called = Instant::now();
        call()?;
        latencies.push(called.elapsed());
    }
    Ok(latencies)
}

/// Measures a figure [`RUNS`] times; the median counts.
pub(crate) fn median(measure: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let mut figures: Vec<f64> = std::iter::repeat_with(measure)
        .take(RUNS)
        .collect::<anyhow::Result<_>>()?;
    figures.sort_unstable_by(f64::total_cmp);
    Ok(figures[RUNS / 2])
}

/// Streams the result of a statement, and drops it.
pub(crate) fn rows_per_second(connection: &Connection, sql: &str) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut statement = connection.prepare(sql)?;
    let batches = statement.stream_arrow([])?;
    let rows = batches.map(|batch| batch.num_rows()).sum();
    Ok(per_second(rows, started.elapsed()))
}

/// What loaders came to, as `duck-load` reports it.
pub(crate) fn load_report(rows: usize, elapsed: Duration, latencies: Vec<Duration>) -> Value {
    let mut report = latency_report(latencies);
    report["rows"] = rows.into();
    report["rows_per_second"] = per_second(rows, elapsed).into();
    report
}

/// What clients of small queries came to.
pub(crate) fn query_report(elapsed: Duration, latencies: Vec<Duration>) -> Value {
    let rate = per_second(latencies.len(), elapsed);
    let mut report = latency_report(latencies);
    report["queries_per_second"] = rate.into();
    report
}

pub(crate) fn latency_report(mut latencies: Vec<Duration>) -> Value {
    latencies.sort_unstable();
    json!({
        "latency_ms_p50": at_percent(&latencies, 50),
        "latency_ms_p99": at_percent(&latencies, 99),
        "latency_ms_max": at_percent(&latencies, 100),
    })
}

/// The least latency in milliseconds that so many percent do not exceed (nearest rank); they are sorted. Absent where there are none.
fn at_percent(latencies: &[Duration], percent: usize) -> Option<f64> {
    let rank = (latencies.len() * percent).div_ceil(100);
    let latency = latencies.get(rank.checked_sub(1)?)?;
    Some(latency.as_secs_f64() * 1e3)
}

pub(crate) fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_clients_is_from_the_first_start_to_the_last_end() {
        let zero = Instant::now();
        let at = |started, ended, found| Run {
            started: zero + Duration::from_secs(started),
            ended: zero + Duration::from_secs(ended),
            found,
        };
        let runs = vec![at(2, 5, 'a'), at(1, 3, 'b')];
        assert_eq!(together(runs), (Duration::from_secs(4), vec!['a', 'b']));
    }

    #[test]
    fn each_thread_answers_in_its_place_and_an_error_is_everyones() {
        let run = |fails: usize| {
            threads_at_once(4, |number| {
                Ok(move || {
                    anyhow::ensure!(number != fails, "the third");
                    Ok(number * 10)
                })
            })
        };
        assert_eq!(run(4).unwrap().1, [0, 10, 20, 30]);
        let error = run(2).unwrap_err();
        assert_eq!(error.to_string(), "the third");
    }

    #[test]
    fn the_median_is_the_middle_one_of_the_runs() {
        let mut figures = [3.0, 1.0, 2.0].into_iter();
        let median = median(|| Ok(figures.next().unwrap()));
        assert_eq!(median.unwrap(), 2.0);
    }

    #[test]
    fn a_percentile_is_a_latency_that_was_seen() {
        let latencies: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        let percents = [50, 99, 100].map(|percent| at_percent(&latencies, percent).unwrap());
        assert_eq!(percents, [51.0, 100.0, 101.0]);
        let highest = at_percent(&latencies[..16], 99);
        assert_eq!(highest, Some(16.0));
        assert_eq!(at_percent(&[], 50), None);
    }
}
