//! Memory stays bounded, whatever clients do. The real binary, and Linux, which says how much it has.
#![cfg(target_os = "linux")]

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Int8Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow_flight::FlightDescriptor;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::{CommandGetSqlInfo, CommandGetTables, ProstMessageExt};
use arrow_ipc::CompressionType;
use bytes::Bytes;
use duck_flight_protocol::{Commit, PutOptions, SchemaMode};
use duck_tests::{
    Client, OpenPut, ServerProcess, assert_refused, eventually, messages, numbered, options, soon,
    status,
};
use futures::StreamExt;
use futures::future::{join_all, select_all};
use prost::Message;
use tonic::codegen::{Body, Service, http};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;

/// DuckDB's own limit, and what the process may have beside it: code, threads, messages on their way.
const LIMIT: &str = "256MiB";
const LIMIT_BYTES: u64 = 256 * MIB;
const BESIDE_BYTES: u64 = 300 * MIB;

/// 50 million rows of four columns: some 2 GB.
const HUGE: &str = "SELECT range AS a, range * 2 AS b, range / 3.0 AS c, 'text ' || range AS d FROM range(50000000)";

/// Reads a batch, then gives the server all the time it wants to run ahead: ten round trips of others.
async fn read_slowly(result: &mut FlightRecordBatchStream, other: &Client) -> usize {
    let batch = soon("a batch", result.next())
        .await
        .expect("more")
        .expect("a batch");
    for _ in 0..10 {
        other.ping().await;
    }
    batch.num_rows()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_result_read_slowly_keeps_memory_bounded() {
    let server = ServerProcess::start(&["--memory-limit", LIMIT]);
    let (client, other) = (server.client().await, server.client().await);
    let mut result = client.stream(HUGE).await.unwrap();
    let mut rows = 0;
    for _ in 0..300 {
        rows += read_slowly(&mut result, &other).await;
        assert!(server.memory_bytes() < LIMIT_BYTES + BESIDE_BYTES);
    }
    assert!(rows >= 300 * 10_000, "{rows}");
    drop(result);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_result_read_to_its_end_keeps_memory_bounded() {
    // 40 bytes a row: a gigabyte.
    const ROWS: usize = 25_000_000;
    let server = ServerProcess::start(&["--memory-limit", LIMIT]);
    let client = server.client().await;
    let mut result = client
        .stream(format!(
            "SELECT range AS a, range * 2 AS b, range + 1 AS c, 1.5 AS d FROM range({ROWS})"
        ))
        .await
        .unwrap();
    let mut rows = 0;
    while let Some(batch) = result.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, ROWS);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_readers_keep_memory_bounded() {
    let server = ServerProcess::start(&["--memory-limit", LIMIT, "--max-queries", "32"]);
    let other = server.client().await;
    let mut results = Vec::new();
    for _ in 0..32 {
        results.push(server.client().await.stream(HUGE).await.unwrap());
    }
    for _ in 0..5 {
        for result in &mut results {
            read_slowly(result, &other).await;
        }
    }
    // What each reader is behind with is bounded: a few messages on either side of the transport.
    let readers = 32 * 24 * MIB;
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + readers);
    drop(results);
    assert_eq!(soon("an answer", other.rows("SELECT 1")).await, ["1"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_does_not_fit_memory_is_an_error_and_not_the_end() {
    let server = ServerProcess::start(&["--memory-limit", "64MiB", "--max-queries", "4"]);
    let client = server.client().await;
    let sql = "SELECT list(range) FROM range(100000000)";
    let error = soon("an error", client.query(sql)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error:?}");
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_puts_keeps_memory_bounded() {
    for commit in [Commit::Stream, Commit::Batch] {
        let flags = ["--memory-limit", LIMIT, "--ingest-buffer", "8MiB"];
        let server = ServerProcess::start(&flags);
        let floods = (0..16_i64).map(|loader| {
            let address = server.address().to_owned();
            async move {
                let client = Client::connect(&address).await;
                let options = PutOptions {
                    commit,
                    ..PutOptions::new("t")
                };
                let batches: Vec<_> = (0..40)
                    .map(|batch| numbered(loader * 100 + batch, 25_000))
                    .collect();
                let acks = client.put(&options, &batches).await.unwrap();
                assert_eq!(acks.iter().map(|ack| ack.rows).sum::<u64>(), 40 * 25_000);
            }
        });
        join_all(floods).await;
        assert_eq!(server.client().await.count("t").await, 16 * 40 * 25_000);
        // Each connection may have sent as much as its window holds.
        server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + 16 * 16 * MIB);
        server.stop();
    }
}

/// 60 million rows of two columns are 960 MB.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_of_sixty_million_rows_is_all_or_nothing_and_keeps_memory_bounded() {
    const BATCHES: u64 = 120;
    const ROWS: u64 = 500_000;
    let server = ServerProcess::start(&["--memory-limit", LIMIT]);
    let (client, reader) = (server.client().await, server.client().await);
    let batch = numbered(7, ROWS.cast_signed());
    client.append("t", &[batch.slice(0, 1)]).await.unwrap();
    for is_whole in [false, true] {
        let put = client
            .open_put(&PutOptions::new("t"), &batch.schema())
            .await;
        for number in 1..=if is_whole { BATCHES } else { BATCHES / 10 } {
            put.send_batch(&batch).await;
            if number % 12 == 0 {
                assert_eq!(reader.count("t").await, 1);
            }
        }
        if is_whole {
            let acks = eventually("the ack", put.finish()).await.unwrap();
            assert_eq!(acks[0].rows, BATCHES * ROWS);
        } else {
            put.cancel().await;
        }
    }
    assert_eq!(reader.count("t").await, 1 + BATCHES * ROWS);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_puts_that_never_end_keep_memory_bounded_and_hinder_nobody() {
    let server = ServerProcess::start(&["--memory-limit", LIMIT, "--ingest-buffer", "4MiB"]);
    let batch = numbered(0, 10_000);
    let mut open = Vec::new();
    for _ in 0..64 {
        let client = server.client().await;
        let put = client
            .open_put(&PutOptions::new("t"), &batch.schema())
            .await;
        let sending = async {
            for _ in 0..20 {
                put.send_batch(&batch).await;
            }
        };
        // A put that finds the budget spent is held back, which is what is wanted.
        tokio::time::timeout(std::time::Duration::from_millis(100), sending)
            .await
            .ok();
        open.push((client, put));
    }
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + 64 * 4 * MIB);
    let client = server.client().await;
    let rows = [numbered(1, 1000)];
    let put = client.append("t", &rows);
    assert_eq!(
        soon("a put of a client that does finish", put)
            .await
            .unwrap(),
        1000
    );
    for (_, put) in open {
        put.cancel().await;
    }
    assert_eq!(client.count("t").await, 1000);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_the_server_that_is_asked_millions_of_times_at_once_is_refused() {
    let server = ServerProcess::start(&["--memory-limit", LIMIT]);
    let client = server.client().await;
    let info = vec![0; 3_000_000];
    let command = CommandGetSqlInfo { info }.as_any().encode_to_vec();
    let answer = soon("an answer", client.query(command)).await;
    let words = ["CommandGetSqlInfo", "65536"];
    assert_refused(answer, Code::InvalidArgument, &words);
    let types = vec![String::new(); 3_000_000];
    let command = CommandGetTables {
        table_types: types,
        ..CommandGetTables::default()
    };
    let command = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let answer = client.flight().get_flight_info(command).await;
    let words = ["CommandGetTables", "65536"];
    assert_refused(answer.map_err(status), Code::InvalidArgument, &words);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}

/// A body that begins messages, and never ends.
struct Endless(VecDeque<Bytes>);

impl Endless {
    /// The beginning of a message.
    fn message(length: u32, sent: usize) -> Self {
        const PART: usize = 64 << 10;
        let header = [&[0][..], &length.to_be_bytes()].concat();
        let part = Bytes::from(vec![0; PART]);
        let parts = (0..sent / PART).map(|_| part.clone());
        Self(std::iter::once(Bytes::from(header)).chain(parts).collect())
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        match self.0.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

/// A call of `method` whose message of so many bytes never comes to its end, until the server does not bear it any more.
async fn half_a_call(address: String, method: &str, length: u32) -> Code {
    let sent = usize::try_from(length).unwrap() - (100 << 10);
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    let request = http::Request::post(format!(
        "http://{address}/arrow.flight.protocol.FlightService/{method}"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(tonic::body::Body::new(Endless::message(length, sent)))
    .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let response = channel.call(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).expect("an error");
    status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_that_never_end_keep_memory_bounded_and_hinder_nobody_for_long() {
    const CALLS: u64 = 32;
    let server = ServerProcess::start(&["--memory-limit", LIMIT, "--stall-timeout", "200ms"]);
    let calls = (0..CALLS).map(|call| {
        let method = if call % 2 == 0 { "DoPut" } else { "DoGet" };
        let address = server.address().to_owned();
        tokio::spawn(async move { half_a_call(address, method, 60 << 20).await })
    });
    let calls: Vec<_> = calls.collect();
    // Four have room, and lose it to those that wait.
    let (ended, _, calls) = soon("the end of one", select_all(calls)).await;
    assert_eq!(ended.unwrap(), Code::ResourceExhausted);
    let client = server.client().await;
    assert_eq!(
        client.append("t", &[numbered(0, 1000)]).await.unwrap(),
        1000
    );
    let large = [numbered(1, 500_000)];
    let put = client.append("t", &large);
    assert_eq!(eventually("a large put", put).await.unwrap(), 500_000);
    // What the messages of four may take, and what HTTP/2 holds of a stream that is not read.
    let room = 4 * 64 * MIB + CALLS * 9 * MIB;
    server.assert_peak_below(BESIDE_BYTES + room);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_messages_that_never_end_hinder_nobody_for_long() {
    const CALLS: usize = 192;
    let server = ServerProcess::start(&["--memory-limit", LIMIT, "--stall-timeout", "200ms"]);
    let calls = (0..CALLS).map(|_| {
        let address = server.address().to_owned();
        tokio::spawn(async move { half_a_call(address, "DoPut", (1 << 20) - 1).await })
    });
    let calls: Vec<_> = calls.collect();
    let (ended, _, calls) = soon("the end of one", select_all(calls)).await;
    assert_eq!(ended.unwrap(), Code::ResourceExhausted);
    let client = server.client().await;
    for rows in [1000, 50_000, 500_000] {
        let batch = [numbered(0, rows)];
        let put = client.append("t", &batch);
        let acknowledged = soon("a put", put).await.unwrap();
        assert_eq!(acknowledged, rows.cast_unsigned());
    }
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_puts_that_want_more_room_than_there_is_all_come_through() {
    const PUTS: i64 = 24;
    const ROWS: i64 = 400_000;
    let flags = [
        "--memory-limit",
        LIMIT,
        "--max-message-size",
        "8MiB",
        "--ingest-buffer",
        "16MiB",
    ];
    let server = ServerProcess::start(&flags);
    let puts = (0..PUTS).map(|number| {
        let address = server.address().to_owned();
        async move {
            let client = Client::connect(&address).await;
            let commit = if number % 3 == 0 {
                Commit::Batch
            } else {
                Commit::Stream
            };
            let options = PutOptions {
                commit,
                ..PutOptions::new("t")
            };
            // A small batch first: its memory is held while the others come in.
            let first = numbered(number * 10, 100);
            let others = (1..=3 + number % 5).map(|batch| numbered(number * 10 + batch, ROWS));
            let batches: Vec<_> = std::iter::once(first).chain(others).collect();
            let acks = client.put(&options, &batches).await.unwrap();
            let rows: u64 = acks.iter().map(|ack| ack.rows).sum();
            let sent: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!(rows, sent as u64);
            rows
        }
    });
    let rows: u64 = eventually("all acks", join_all(puts)).await.iter().sum();
    assert_eq!(server.client().await.count("t").await, rows);
    server.stop();
}

/// A row of so many columns.
fn wide(columns: Range<u32>) -> RecordBatch {
    let value: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    RecordBatch::try_from_iter(columns.map(|column| (format!("c{column}"), value.clone()))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_given_hundreds_of_columns_keeps_memory_bounded() {
    let server = ServerProcess::start(&["--memory-limit", LIMIT]);
    let client = server.client().await;
    client.append("t", &[wide(0..3000)]).await.unwrap();
    let options = PutOptions {
        schema: SchemaMode::Evolve,
        ..PutOptions::new("t")
    };
    client.put(&options, &[wide(2999..3400)]).await.unwrap();
    let sums = client
        .rows("SELECT sum(c0), sum(c2999), sum(c3399) FROM t")
        .await;
    assert_eq!(sums, ["1|2|1"]);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}

/// A row's text as JSON has the names of its columns: here some 40 KB for 41 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rows_that_are_put_aside_keeps_memory_bounded() {
    const ROWS: u64 = 400;
    const UNITS: u64 = 10;
    const LOADERS: u64 = 8;
    let flags = ["--memory-limit", LIMIT, "--ingest-buffer", "8MiB"];
    let server = ServerProcess::start(&flags);
    let name = |column: i32| format!("{column}{}", "n".repeat(1000));
    let columns: Vec<_> = (0..40)
        .map(|column| format!("\"{}\" TINYINT", name(column)))
        .collect();
    let table = format!("CREATE TABLE t (i BIGINT, {})", columns.join(", "));
    server.client().await.execute(&table).await;
    let rows = usize::try_from(ROWS).unwrap();
    let zeros: ArrayRef = Arc::new(Int8Array::from(vec![0; rows]));
    let bad: ArrayRef = Arc::new(StringArray::from(vec!["x"; rows]));
    let named = (0..40).map(|column| (name(column), zeros.clone()));
    let batch =
        RecordBatch::try_from_iter([("i".to_owned(), bad)].into_iter().chain(named)).unwrap();
    let floods = (0..LOADERS).map(|_| {
        let (address, batch) = (server.address().to_owned(), batch.clone());
        tokio::spawn(async move {
            let client = Client::connect(&address).await;
            let put = r#"{"table":"t","commit":"batch","on_error":"reject"}"#;
            let put: PutOptions = serde_json::from_str(put).unwrap();
            let batches = vec![batch; usize::try_from(UNITS).unwrap()];
            let acks = client.put(&put, &batches).await.unwrap();
            acks.iter().map(|ack| ack.rejected).sum::<u64>()
        })
    });
    let floods: Vec<_> = floods.collect();
    let mut rejected = 0;
    for flood in floods {
        rejected += flood.await.unwrap();
    }
    assert_eq!(rejected, LOADERS * UNITS * ROWS);
    // Four large units write theirs while two more are looked for: 64 MiB of each at most.
    let in_hand = 6 * 64 * MIB;
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + in_hand);
    server.stop();
}

/// So many rows of as many columns, and of another one where it has a name, with a bit for each value.
fn bits(rows: usize, columns: usize, added: Option<String>) -> RecordBatch {
    let bits: ArrayRef = Arc::new(BooleanArray::from(vec![true; rows]));
    let names = (0..columns).map(|column| format!("c{column}")).chain(added);
    RecordBatch::try_from_iter(names.map(|name| (name, bits.clone()))).unwrap()
}

/// A table `t` of so many BIGINT columns.
fn create_longs(columns: usize) -> String {
    let columns: Vec<_> = (0..columns)
        .map(|column| format!("c{column} BIGINT"))
        .collect();
    format!("CREATE TABLE t ({})", columns.join(", "))
}

/// A BIGINT takes as much as 64 of the bits that it may come from.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rows_that_grow_when_they_are_cast_keeps_memory_bounded() {
    const COLUMNS: usize = 64;
    let flags = ["--memory-limit", LIMIT, "--ingest-buffer", "64MiB"];
    let server = ServerProcess::start(&flags);
    let client = server.client().await;
    client.execute(&create_longs(COLUMNS)).await;
    // Many that wait for their commit, and one that is cast as it comes in.
    for (puts, rows) in [(32, 64_000), (1, 1_100_000)] {
        let puts = (0..puts).map(|_| {
            let address = server.address().to_owned();
            tokio::spawn(async move {
                let client = Client::connect(&address).await;
                client.append("t", &[bits(rows, COLUMNS, None)]).await
            })
        });
        let puts: Vec<_> = puts.collect();
        for put in puts {
            let acknowledged = eventually("an ack", put).await.unwrap().unwrap();
            assert_eq!(acknowledged, rows as u64);
        }
        server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    }
    assert_eq!(
        client.value::<u64>("SELECT sum(c63) FROM t").await,
        3_148_000
    );
    server.stop();
}

/// Nobody knows how they will be cast before their table has the column that each put adds.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_grow_once_their_table_is_altered_keep_memory_bounded() {
    const COLUMNS: usize = 64;
    let flags = ["--memory-limit", LIMIT, "--ingest-buffer", "64MiB"];
    let server = ServerProcess::start(&flags);
    let client = server.client().await;
    client.execute(&create_longs(COLUMNS)).await;
    let evolve = options(r#"{"table":"t","schema":"evolve"}"#);
    // Those that a writer casts within the buffer, and one that would become half a gigabyte.
    for (puts, rows) in [(8, 50_000), (1, 1_000_000)] {
        let puts = (0..puts).map(|number| {
            let (address, evolve) = (server.address().to_owned(), evolve.clone());
            tokio::spawn(async move {
                let client = Client::connect(&address).await;
                let batch = bits(rows, COLUMNS, Some(format!("added{rows}_{number}")));
                client.put(&evolve, &[batch]).await
            })
        });
        let puts: Vec<_> = puts.collect();
        for put in puts {
            let acks = eventually("an ack", put).await.unwrap().unwrap();
            assert_eq!(acks[0].rows, rows as u64);
        }
        server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    }
    let sums = "SELECT sum(c63), count(added50000_7), count(added1000000_0) FROM t";
    assert_eq!(client.rows(sums).await, ["1400000|50000|1000000"]);
    server.stop();
}

/// Rows with keys from `first` on and a text of 10 KB each: 16 MB.
fn wide_rows(first: i64) -> RecordBatch {
    let keys = first..first + 1600;
    // A width of 10,000 would be filled one character after the other.
    let zeros = "0".repeat(9992);
    let texts = keys.clone().map(|key| format!("{zeros}{key:08}"));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
    RecordBatch::try_from_iter([("k", keys), ("s", texts)]).unwrap()
}

/// What a few large batches take that are on their way, through the connection, the casts and the appender, and what the
/// allocators keep of them: it does not grow with their number.
const BATCHES_BYTES: u64 = 650 * MIB;

/// DuckDB's appenders look at how many rows they have gathered, not at how much that is.
#[tokio::test(flavor = "multi_thread")]
async fn large_puts_of_long_texts_keep_memory_bounded() {
    const BATCHES: i64 = 80;
    let flags = ["--memory-limit", LIMIT, "--ingest-buffer", "32MiB"];
    for (put, is_finished) in [
        (r#"{"table":"t"}"#, true),
        (r#"{"table":"t","mode":"upsert","key":["k"]}"#, false),
    ] {
        let server = ServerProcess::start(&flags);
        let client = server.client().await;
        let large = client.open_put(&options(put), &wide_rows(0).schema()).await;
        for number in 0..BATCHES {
            soon("a batch taken", large.send_batch(&wide_rows(number * 1600))).await;
        }
        if is_finished {
            large.finish().await.unwrap();
            let found = client.rows("SELECT count(*), min(length(s)) FROM t").await;
            assert_eq!(found, [format!("{}|10000", BATCHES * 1600)]);
        } else {
            large.cancel().await;
        }
        server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + BATCHES_BYTES);
        server.stop();
    }
}

/// A batch of 8 KB becomes one of 30 MB.
#[tokio::test(flavor = "multi_thread")]
async fn large_puts_of_a_dictionarys_long_text_keep_memory_bounded() {
    const BATCHES: usize = 60;
    let flags = ["--memory-limit", LIMIT, "--max-message-size", "8MiB"];
    let server = ServerProcess::start(&flags);
    let client = server.client().await;
    let texts = StringArray::from(vec!["x".repeat(15_000)]);
    let texts = DictionaryArray::new(Int32Array::from(vec![0; 2000]), Arc::new(texts));
    let texts: ArrayRef = Arc::new(texts);
    let batch = RecordBatch::try_from_iter([("s", texts)]).unwrap();
    let put = client.append("t", &vec![batch; BATCHES]).await;
    assert_eq!(put.unwrap(), 2000 * BATCHES as u64);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + BATCHES_BYTES);
    server.stop();
}

/// Sends batches until the server takes none for the time of some round trips of another client, or all are sent.
async fn send_while_taken(put: &OpenPut, batch: &RecordBatch, times: usize, other: &Client) {
    for _ in 0..times {
        let round_trips = async {
            for _ in 0..20 {
                other.ping().await;
            }
        };
        tokio::select! {
            biased;
            () = put.send_batch(batch) => {}
            () = round_trips => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_grow_large_while_none_can_be_written_keep_memory_bounded_and_hinder_nobody() {
    const PUTS: u64 = 60;
    let flags = [
        "--memory-limit",
        LIMIT,
        "--ingest-buffer",
        "32MiB",
        "--stall-timeout",
        "300s",
    ];
    let server = ServerProcess::start(&flags);
    let other = server.client().await;
    let appending = PutOptions::new("t");
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 375]));
    let columns = (0..20).map(|column| (format!("c{column}"), numbers.clone()));
    // 60 KB.
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut open = Vec::new();
    // As many as are written at a time: they have sent more than is gathered in memory, and stand still.
    for _ in 0..4 {
        let client = server.client().await;
        let put = client.open_put(&appending, &batch.schema()).await;
        for _ in 0..750 {
            soon("a batch taken", put.send_batch(&batch)).await;
        }
        open.push((client, put));
    }
    for _ in 0..PUTS {
        let client = server.client().await;
        let put = client.open_put(&appending, &batch.schema()).await;
        send_while_taken(&put, &batch, 750, &other).await;
        open.push((client, put));
    }
    // What HTTP/2 holds of a stream that is not read.
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES + (PUTS + 4) * 4 * MIB);
    let small = [numbered(1, 1000)];
    let put = other.append("u", &small);
    assert_eq!(soon("a small put", put).await.unwrap(), 1000);
    for (_, put) in open {
        put.cancel().await;
    }
    server.stop();
}

/// Some kilobytes become 40 MB.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_small_compressed_messages_that_become_large_keeps_memory_bounded() {
    const PUTS: u64 = 24;
    const ROWS: u64 = 100_000;
    let flags = [
        "--memory-limit",
        LIMIT,
        "--max-message-size",
        "8MiB",
        "--ingest-buffer",
        "8MiB",
    ];
    let server = ServerProcess::start(&flags);
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; usize::try_from(ROWS).unwrap()]));
    let columns = (0..50).map(|column| (format!("c{column}"), zeros.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let put = messages(
        PutOptions::new("t").descriptor(),
        &batch.schema(),
        &[batch],
        Some(CompressionType::ZSTD),
    );
    let puts = (0..PUTS).map(|_| {
        let (address, put) = (server.address().to_owned(), put.clone());
        tokio::spawn(async move { Client::connect(&address).await.put_messages(put).await })
    });
    let puts: Vec<_> = puts.collect();
    for put in puts {
        let acks = eventually("an ack", put).await.unwrap().unwrap();
        assert_eq!(acks[0].rows, ROWS);
    }
    assert_eq!(server.client().await.count("t").await, PUTS * ROWS);
    server.assert_peak_below(LIMIT_BYTES + BESIDE_BYTES);
    server.stop();
}
