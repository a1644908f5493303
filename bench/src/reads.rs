//! Reading through the wire.

use std::time::{Duration, Instant};

use anyhow::Context;
use duck_flight_protocol::ConnectArgs;
use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::connections::{Asker, Statement, Via, askers};
use crate::load::Random;
use crate::measure::{per_second, query_report, tasks_at_once};

#[derive(clap::Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The statement.
    #[arg(long)]
    sql: String,
    /// How long the client rests after each message.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

#[derive(clap::Args)]
pub(crate) struct SmallArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The statement. A `?` in it stands for a random key.
    #[arg(long, default_value = "SELECT 42")]
    sql: String,
    /// How the statement reaches the server.
    #[arg(long, value_enum, default_value_t = Via::Plain)]
    via: Via,
    /// Keys are below this.
    #[arg(long, default_value_t = 1)]
    keys: u64,
    /// How long to ask.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections at the same time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

/// Reads one result and tells how fast that was.
pub(crate) async fn read(args: ReadArgs) -> anyhow::Result<Value> {
    let statement = Statement {
        sql: args.sql,
        via: Via::Plain,
    };
    let mut asker = Asker::connect(&args.connect.into(), statement).await?;
    let rest = Duration::from_millis(args.pause_ms);
    let started = Instant::now();
    let mut batches = asker.ask(0).await?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows();
        pause(rest).await;
    }
    let elapsed = started.elapsed();
    Ok(json!({
        "rows": rows,
        "seconds": elapsed.as_secs_f64(),
        "rows_per_second": per_second(rows, elapsed),
    }))
}

/// A little rest between two messages of a result.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Asks on each connection, one query after another, and tells how fast that was.
pub(crate) async fn small(args: SmallArgs) -> anyhow::Result<Value> {
    let statement = Statement {
        sql: args.sql,
        via: args.via,
    };
    let mut askers = askers(&args.connect.into(), &statement, args.connections).await?;
    for asker in &mut askers {
        asker.rows(0).await.context("warm up")?;
    }
    let time = Duration::from_secs_f64(args.seconds);
    let jobs = askers
        .into_iter()
        .zip(1..)
        .map(|(asker, seed)| ask_again_and_again(asker, Random::new(seed), args.keys, time));
    let (elapsed, latencies) = tasks_at_once(jobs.collect()).await?;
    Ok(query_report(elapsed, latencies.concat()))
}

async fn ask_again_and_again(
    mut asker: Asker,
    mut random: Random,
    keys: u64,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let key = i64::try_from(random.next() % keys)?;
        let sent = Instant::now();
        let rows = asker.rows(key).await?;
        anyhow::ensure!(rows > 0, "the result is empty");
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}
