//! The two hot paths by themselves: a put from its messages to the commit, and a get from its statement to the messages.
//!
//! `put` and `get` are the whole way. The server is in this process, and the client over loopback has as little to do as a
//! client can: what it sends was encoded beforehand, and what it receives it only counts. `decode` and `append` are what a put
//! is made of, `fetch` and `encode` what a get is, without client and network.

mod loopback;
mod messages;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use duck_flight_protocol::{Commit, PutOptions, TableName};
use duck_flight_server::Stages;
use http_body_util::Full;
use tokio::runtime::Runtime;
use tonic::body::Body;

use loopback::Server;
use messages::{messages, request};

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

/// Puts of one unit, each with its batches and their rows.
const UNITS: [(&str, usize, usize); 4] = [
    ("1", 1, 1),
    ("1000", 1, 1_000),
    ("122880", 1, 122_880),
    ("128x1000", 128, 1_000),
];

/// Results, each with its statement and its rows.
const GETS: [(&str, &str, usize); 3] = [
    ("small", "SELECT 42", 1),
    ("numbers", "SELECT batch_id, value FROM readings", READ_ROWS),
    ("all", "SELECT * FROM readings", READ_ROWS),
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
    put_stages(&mut criterion, &runtime, &server.stages);
    make_readings(&runtime, &server);
    gets(&mut criterion, &runtime, &server);
    get_stages(&mut criterion, &runtime, &server.stages);
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

fn put_stages(criterion: &mut Criterion, runtime: &Runtime, stages: &Stages) {
    for (name, batches, rows) in UNITS {
        let options = PutOptions::new(TableName::from(name));
        let request = request(&runtime.block_on(messages(&options, batches, rows)));
        let request = || Body::new(Full::new(request.clone()));
        let decode = |request| runtime.block_on(stages.decode(request)).expect("decode");
        let throughput = Throughput::Elements((batches * rows) as u64);
        let mut group = criterion.benchmark_group("decode");
        group.throughput(throughput.clone());
        group.bench_function(name, |bencher| {
            bencher.iter_batched(request, decode, BatchSize::LargeInput);
        });
        group.finish();
        let mut group = criterion.benchmark_group("append");
        group.throughput(throughput);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || decode(request()),
                |decoded| runtime.block_on(stages.append(decoded)).expect("append"),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

fn make_readings(runtime: &Runtime, server: &Server) {
    let make = format!(
        "CREATE TABLE readings AS SELECT range // 1000 AS batch_id,
            TIMESTAMP '2026-01-01' + to_microseconds(range) AS timestamp,
            hash(range) % 100000 / 1000 AS value, chr((65 + range % 4)::INTEGER) AS category FROM range({READ_ROWS})"
    );
    runtime.block_on(server.execute(make));
}

fn gets(criterion: &mut Criterion, runtime: &Runtime, server: &Server) {
    let mut group = criterion.benchmark_group("get");
    for (name, sql, rows) in GETS {
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(runtime.block_on(server.get(sql))));
        });
    }
    group.finish();
}

fn get_stages(criterion: &mut Criterion, runtime: &Runtime, stages: &Stages) {
    for (name, sql, rows) in GETS {
        let fetch = || runtime.block_on(stages.fetch(sql)).expect("fetch");
        let fetched = fetch();
        let throughput = Throughput::Elements(rows as u64);
        let mut group = criterion.benchmark_group("fetch");
        group.throughput(throughput.clone());
        group.bench_function(name, |bencher| bencher.iter_with_large_drop(fetch));
        group.finish();
        let mut group = criterion.benchmark_group("encode");
        group.throughput(throughput);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || fetched.clone(),
                |fetched| runtime.block_on(Stages::encode(fetched)).expect("encode"),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}
