//! Loaders whose rows `duck-load` does not make; each batch is a put of its own.

mod keyed;
mod shapes;

use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{Action, FlightClient, FlightDescriptor};
use clap::ValueEnum;
use duck_flight_protocol::{ACTION_QUERY, Ack, ConnectArgs, ConnectOptions, Mode, PutOptions};
use futures::{TryStreamExt, stream};
use serde_json::Value;

pub(crate) use keyed::{Keyed, create_table_sql as create_keyed_table_sql};
pub(crate) use shapes::Shape;

use crate::measure::{load_report, tasks_at_once};

/// The table that is written to.
pub(crate) const TABLE: &str = "loaded";

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
    /// Rows of each batch.
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// How many keys there are.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// How long to load.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A hundred numbers.
    Wide,
    /// Texts of 5 to 200 bytes.
    Strings,
    /// A list, a struct and a list of structs.
    Nested,
    /// A new version of the row with its key.
    Upsert,
    /// A new version of the row with its key, or its deletion.
    Changes,
}

impl Kind {
    /// What makes the table, where the first put does not.
    fn create_table_sql(self, keys: u64) -> Option<String> {
        match self {
            Self::Wide | Self::Strings | Self::Nested => None,
            Self::Upsert | Self::Changes => Some(keyed::create_table_sql(keys)),
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Wide | Self::Strings | Self::Nested => Mode::Append,
            Self::Upsert => Mode::Upsert,
            Self::Changes => Mode::Changes,
        }
    }

    fn batches(self, rows: usize, keys: u64, seed: u64) -> anyhow::Result<Batches> {
        let shape = match self {
            Self::Wide => Shape::Wide,
            Self::Strings => Shape::Strings,
            Self::Nested => Shape::Nested,
            Self::Upsert => return Ok(Batches::Keyed(Keyed::upserts(rows, keys, seed))),
            Self::Changes => return Ok(Batches::Keyed(Keyed::changes(rows, keys, seed))),
        };
        Ok(Batches::Cycle(shape.batches(rows, seed)?, 0))
    }
}

/// Where a loader's batches come from.
enum Batches {
    /// Made one by one.
    Keyed(Keyed),
    /// Made beforehand and sent again and again, and the next one's place.
    Cycle(Vec<RecordBatch>, usize),
}

impl Batches {
    fn next(&mut self) -> anyhow::Result<RecordBatch> {
        match self {
            Self::Keyed(source) => source.next_batch(),
            Self::Cycle(batches, next) => {
                *next = (*next + 1) % batches.len();
                Ok(batches[*next].clone())
            }
        }
    }
}

/// Makes the table, loads it, and tells how fast that was.
pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let server = ConnectOptions::from(args.connect.clone());
    let options = PutOptions {
        mode: args.kind.mode(),
        ..PutOptions::new(duck_flight_protocol::TableName::from(TABLE))
    };
    make_table(&server, &args, &options).await?;
    let time = Duration::from_secs_f64(args.seconds);
    let mut jobs = Vec::new();
    for seed in 1..=args.writers {
        let client = server.connect().await?;
        let batches = args.kind.batches(args.rows, args.keys, seed as u64)?;
        jobs.push(load(client, batches, options.clone(), time));
    }
    let (elapsed, latencies) = tasks_at_once(jobs).await?;
    let latencies = latencies.concat();
    Ok(load_report(latencies.len() * args.rows, elapsed, latencies))
}

/// Makes the table: with SQL, or with a first put, for not every server can make it in eight puts at once.
async fn make_table(
    server: &ConnectOptions,
    args: &Args,
    options: &PutOptions,
) -> anyhow::Result<()> {
    let mut client = server.connect().await?;
    let Some(create) = args.kind.create_table_sql(args.keys) else {
        let batch = args.kind.batches(args.rows, args.keys, 0)?.next()?;
        return put(&mut client, batch, descriptor(options)).await;
    };
    let action = Action::new(ACTION_QUERY, create);
    let done = client.do_action(action).await?;
    done.try_collect::<Vec<_>>().await.context("make table")?;
    Ok(())
}

/// The default options as a path, which every Flight server takes.
fn descriptor(options: &PutOptions) -> FlightDescriptor {
    match options.mode {
        Mode::Append => FlightDescriptor::new_path(options.table.path()),
        _ => options.descriptor(),
    }
}

/// Sends batches, and answers with how long each waited for its ack.
async fn load(
    mut client: FlightClient,
    mut batches: Batches,
    options: PutOptions,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let batch = batches.next()?;
        let sent = Instant::now();
        put(&mut client, batch, descriptor(&options)).await?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

/// Sends a batch as a put of its own, and waits for its ack.
async fn put(
    client: &mut FlightClient,
    batch: RecordBatch,
    descriptor: FlightDescriptor,
) -> anyhow::Result<()> {
    let messages = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor))
        .build(stream::iter([Ok(batch)]));
    let results: Vec<_> = client.do_put(messages).await?.try_collect().await?;
    let [result] = results.as_slice() else {
        anyhow::bail!("{} acks instead of one", results.len());
    };
    Ack::from_json(&result.app_metadata)?;
    Ok(())
}

/// SplitMix64: all that benchmark rows and keys need.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed << 32 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
