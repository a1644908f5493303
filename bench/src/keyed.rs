//! Loaders that upsert, or apply changes, by primary key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_flight::FlightClient;
use arrow_flight::encode::FlightDataEncoderBuilder;
use clap::ValueEnum;
use duck_flight_protocol::{
    ACTION_QUERY, Ack, ConnectArgs, ConnectOptions, Create, Mode, PutOptions,
};
use futures::{TryStreamExt, stream};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::load_report;

/// The table that is written to.
const TABLE: &str = "keyed";

/// One change of so many deletes its row; the others replace it, or add it again.
const CHANGES_PER_DELETE: u64 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    /// What the rows are.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Loaders, each with a connection of its own.
    #[arg(long, default_value_t = 8)]
    writers: usize,
    /// Rows of each batch, which is a put of its own.
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// How many keys there are.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// How long to load.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// What a row does.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Replaces the row of its key.
    Upsert,
    /// Replaces the row of its key, or deletes it.
    Changes,
}

/// The table with a row for each key.
pub(crate) fn create_table_sql(keys: u64) -> String {
    format!(
        "CREATE TABLE {TABLE} (id BIGINT PRIMARY KEY, timestamp TIMESTAMP, value DOUBLE, category VARCHAR);
         INSERT INTO {TABLE} SELECT range, TIMESTAMP '2026-01-01', 0, 'A' FROM range({keys})"
    )
}

/// Makes the table, loads it, and tells how fast that was.
pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let server = ConnectOptions::from(args.connect);
    let create = create_table_sql(args.keys);
    let action = arrow_flight::Action::new(ACTION_QUERY, create);
    let done = server.connect().await?.do_action(action).await?;
    done.try_collect::<Vec<_>>().await.context("make table")?;

    let start = Arc::new(Barrier::new(args.writers + 1));
    let time = Duration::from_secs(args.seconds);
    let mut tasks = Vec::new();
    for seed in 1..=args.writers {
        let client = server.connect().await?;
        let rows = Rows::new(args.kind, args.rows, args.keys, seed as u64);
        let start = start.clone();
        tasks.push(tokio::spawn(async move {
            start.wait().await;
            load(client, rows, time).await
        }));
    }
    start.wait().await;
    let started = Instant::now();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let rows = latencies.len() * args.rows;
    Ok(load_report(rows, started.elapsed(), latencies))
}

/// Sends batches, each as a put of its own, and answers with how long each waited for its ack.
async fn load(
    mut client: FlightClient,
    mut rows: Rows,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let options = PutOptions {
        mode: match rows.kind {
            Kind::Upsert => Mode::Upsert,
            Kind::Changes => Mode::Changes,
        },
        create: Create::Never,
        ..PutOptions::new(duck_flight_protocol::TableName::from(TABLE))
    };
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let batch = rows.next_batch()?;
        let sent = Instant::now();
        let messages = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(options.descriptor()))
            .build(stream::iter([Ok(batch)]));
        let results: Vec<_> = client.do_put(messages).await?.try_collect().await?;
        let [result] = results.as_slice() else {
            anyhow::bail!("{} acks instead of one", results.len());
        };
        Ack::from_json(&result.app_metadata)?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

/// Batches of rows with random keys.
pub(crate) struct Rows {
    kind: Kind,
    rows: usize,
    keys: u64,
    state: u64,
}

impl Rows {
    pub(crate) fn new(kind: Kind, rows: usize, keys: u64, seed: u64) -> Self {
        Self {
            kind,
            rows,
            keys,
            state: seed << 32,
        }
    }

    pub(crate) fn next_batch(&mut self) -> anyhow::Result<RecordBatch> {
        let random: Vec<u64> = (0..self.rows).map(|_| self.random()).collect();
        let ids = random.iter().map(|random| (random % self.keys) as i64);
        let values = random.iter().map(|random| (random >> 40) as f64 / 1e3);
        let categories = random
            .iter()
            .map(|random| ["A", "B", "C", "D"][(random >> 62) as usize]);
        let timestamps = vec![1_767_225_600_000_000 + (random[0] >> 32) as i64; self.rows];
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(ids.collect::<Int64Array>())),
            (
                "timestamp",
                Arc::new(TimestampMicrosecondArray::from(timestamps)),
            ),
            ("value", Arc::new(values.collect::<Float64Array>())),
            (
                "category",
                Arc::new(StringArray::from_iter_values(categories)),
            ),
        ];
        if self.kind == Kind::Changes {
            let deletes = |random: &u64| (random >> 32).is_multiple_of(CHANGES_PER_DELETE);
            let ops = random
                .iter()
                .map(|random| if deletes(random) { "d" } else { "u" });
            columns.push(("op", Arc::new(StringArray::from_iter_values(ops))));
        }
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    /// SplitMix64: all that random keys need.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
