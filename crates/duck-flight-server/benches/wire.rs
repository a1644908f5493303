//! The two hot paths by themselves: a put from its messages to the commit (decode and append), and a get from its
//! statement to the messages (fetch and encode).
//!
//! The server is in this process, and the client over loopback has as little to do as a client can: what it sends was
//! encoded beforehand, and what it receives it only counts.

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightData, Ticket};
use clap::Parser;
use criterion::{BatchSize, Criterion, Throughput};
use duck_flight_protocol::{ACTION_QUERY, Commit, ConnectOptions, PutOptions, TableName};
use duck_flight_server::{Args, Config, Engine, serve};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// The server's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const READ_ROWS: usize = 1_000_000;

/// Puts, each with its batches and their rows: a unit of one row, of an ordinary batch, and of a full row group, which
/// is compressed beside the log; and a put that commits each of its batches.
const PUTS: [(&str, Commit, usize, usize); 4] = [
    ("stream/1", Commit::Stream, 1, 1),
    ("stream/1000", Commit::Stream, 1, 1_000),
    ("stream/122880", Commit::Stream, 1, 122_880),
    ("batch/128x1000", Commit::Batch, 128, 1_000),
];

fn main() {
    let runtime = Runtime::new().expect("start the runtime");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
    let server = runtime.block_on(Server::start(&directory.path().join("bench.db")));
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    puts(&mut criterion, &runtime, &server);
    gets(&mut criterion, &runtime, &server);
    criterion.final_summary();
    runtime.block_on(server.stop());
}

fn puts(criterion: &mut Criterion, runtime: &Runtime, server: &Server) {
    let mut group = criterion.benchmark_group("put");
    for (name, commit, batches, rows) in PUTS {
        // A table of its own, for what another has put into it would be in its way.
        let options = PutOptions {
            commit,
            ..PutOptions::new(TableName::from(name))
        };
        let messages = runtime.block_on(messages(&options, batches, rows));
        group.throughput(Throughput::Elements((batches * rows) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || messages.clone(),
                |messages| runtime.block_on(server.put(messages)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn gets(criterion: &mut Criterion, runtime: &Runtime, server: &Server) {
    let make = format!(
        "CREATE TABLE readings AS SELECT range // 1000 AS batch_id,
            TIMESTAMP '2026-01-01' + to_microseconds(range) AS timestamp,
            hash(range) % 100000 / 1000 AS value, chr((65 + range % 4)::INTEGER) AS category FROM range({READ_ROWS})"
    );
    runtime.block_on(server.execute(make));
    let mut group = criterion.benchmark_group("get");
    for (name, sql, rows) in [
        ("small", "SELECT 42", 1),
        ("numbers", "SELECT batch_id, value FROM readings", READ_ROWS),
        ("all", "SELECT * FROM readings", READ_ROWS),
    ] {
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(runtime.block_on(server.get(sql))));
        });
    }
    group.finish();
}

/// A server in this process, and a connection to it.
struct Server {
    client: FlightServiceClient<Channel>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(database: &Path) -> Self {
        let args = [
            "duck-flight-server",
            "--listen",
            "127.0.0.1:0",
            "--database",
        ]
        .map(OsStr::new);
        let args = Args::parse_from(args.into_iter().chain([database.as_os_str()]));
        let config = Config::try_from(args).expect("the flags make a configuration");
        let listener = TcpListener::bind(config.listen).await.expect("listen");
        let listen = listener.local_addr().expect("an address");
        let engine = Engine::open(&config.engine).expect("open the database");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(listener, engine, &config, shutdown)
                .await
                .expect("serve");
        });
        let server = ConnectOptions {
            server: listen.to_string(),
        };
        let client = server.connect().await.expect("connect").into_inner();
        Self {
            client,
            stop,
            serving,
        }
    }

    async fn execute(&self, sql: String) {
        let action = Action::new(ACTION_QUERY, sql);
        let answer = self.client.clone().do_action(action).await;
        let answer = answer.expect("run").into_inner();
        answer
            .try_collect::<Vec<_>>()
            .await
            .expect("run to the end");
    }

    /// Sends a put and waits for all acks; answers with how many came.
    async fn put(&self, messages: Vec<FlightData>) -> usize {
        let messages = futures::stream::iter(messages);
        let acks = self.client.clone().do_put(messages).await;
        let acks = acks.expect("put").into_inner();
        acks.try_collect::<Vec<_>>().await.expect("ack").len()
    }

    /// Asks, and answers with how many bytes came.
    async fn get(&self, sql: &'static str) -> usize {
        let result = self.client.clone().do_get(Ticket::new(sql)).await;
        let result = result.expect("get").into_inner();
        result
            .try_fold(
                0,
                async |bytes, message| Ok(bytes + message.data_body.len()),
            )
            .await
            .expect("read to the end")
    }

    async fn stop(self) {
        // The server waits for its connections.
        drop(self.client);
        let _ = self.stop.send(());
        self.serving.await.expect("stop");
    }
}

/// The messages of a put, the schema first.
async fn messages(options: &PutOptions, batches: usize, rows: usize) -> Vec<FlightData> {
    let batches = (0..batches).map(|number| Ok(batch(number as i64, rows)));
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(options.descriptor()))
        // A unit is a message.
        .with_max_flight_data_size(usize::MAX)
        .build(futures::stream::iter(batches.collect::<Vec<_>>()))
        .try_collect()
        .await
        .expect("encode")
}

/// The loaders' columns.
fn batch(id: i64, rows: usize) -> RecordBatch {
    let values = (0..rows).map(|row| (row * 7919 % 100_003) as f64 / 1e3);
    let categories = (0..rows).map(|row| ["A", "B", "C", "D"][row * 31 % 7 % 4]);
    let times = TimestampMicrosecondArray::from(vec![1_767_225_600_000_000 + id; rows]);
    RecordBatch::try_from_iter([
        ("batch_id", Arc::new(Int64Array::from(vec![id; rows])) as _),
        ("timestamp", Arc::new(times) as _),
        ("value", Arc::new(values.collect::<Float64Array>()) as _),
        (
            "category",
            Arc::new(StringArray::from_iter_values(categories)) as _,
        ),
    ])
    .expect("columns of one length")
}
