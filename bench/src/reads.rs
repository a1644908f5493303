//! Reading through the wire.

use std::time::{Duration, Instant};

use anyhow::Context;
use arrow_flight::{FlightClient, Ticket};
use duck_flight_protocol::ConnectOptions;
use futures::TryStreamExt;
use serde_json::json;

use crate::{at_percent, per_second};

pub(crate) async fn read(
    connect: ConnectOptions,
    sql: String,
) -> anyhow::Result<serde_json::Value> {
    let mut client = connect.connect().await?;
    let started = Instant::now();
    let mut batches = client.do_get(Ticket::new(sql)).await?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows();
    }
    let elapsed = started.elapsed();
    Ok(json!({
        "rows": rows,
        "seconds": elapsed.as_secs_f64(),
        "rows_per_s": per_second(rows, elapsed).round(),
    }))
}

pub(crate) async fn small(
    connect: ConnectOptions,
    sql: String,
    queries: usize,
    connections: usize,
) -> anyhow::Result<serde_json::Value> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = connect.connect().await?;
        one(&mut client, &sql).await.context("warm up")?;
        clients.push(client);
    }
    let started = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let sql = sql.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(queries);
                for _ in 0..queries {
                    latencies.push(one(&mut client, &sql).await?);
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    Ok(json!({
        "queries_per_s": per_second(latencies.len(), elapsed).round(),
        "latency_ms_p50": at_percent(&latencies, 50),
        "latency_ms_p99": at_percent(&latencies, 99),
    }))
}

async fn one(client: &mut FlightClient, sql: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let batches: Vec<_> = client
        .do_get(Ticket::new(sql.to_owned()))
        .await?
        .try_collect()
        .await?;
    anyhow::ensure!(
        batches.iter().any(|batch| batch.num_rows() > 0),
        "the result is empty"
    );
    Ok(started.elapsed())
}
