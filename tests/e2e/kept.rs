//! What a client's messages leave behind weighs as much as it takes, whatever they are made of. The real binary, and Linux,
//! which says how much it has.
#![cfg(target_os = "linux")]

use std::slice::from_ref;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int8Array, Int32Array, RecordBatch};
use arrow::datatypes::{Int8Type, Schema};
use arrow_flight::sql::{CommandPreparedStatementQuery, ProstMessageExt};
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{
    Answer, Client, OpenPut, ServerProcess, assert_refused, empty_message, ints, messages, soon,
    start, status,
};
use futures::stream;
use prost::Message;
use tonic::Code;

use super::ticket::prepare;

const MIB: usize = 1 << 20;

/// What the process may have: DuckDB's limit, and what is beside it. Less than a gigabyte.
const LIMIT: &str = "256MiB";
const BOUND: u64 = (256 + 300) << 20;

fn server() -> ServerProcess {
    ServerProcess::start(&["--memory-limit", LIMIT, "--ingest-buffer", "16MiB"])
}

fn one_byte() -> RecordBatch {
    let value: ArrayRef = Arc::new(Int8Array::from(vec![7]));
    RecordBatch::try_from_iter([("a", value)]).unwrap()
}

/// The messages of a put of one batch: first what comes before it, then its own.
fn put_of(descriptor: FlightDescriptor, batch: &RecordBatch) -> (Vec<FlightData>, FlightData) {
    let mut put = messages(descriptor, &batch.schema(), from_ref(batch), None);
    let last = put.pop().expect("the batch");
    (put, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_weigh_as_much_as_the_messages_that_they_keep() {
    const ROWS: usize = 128;
    let server = server();
    let client = server.client().await;
    let descriptor = PutOptions::new("t").descriptor();
    let (mut put, row) = put_of(descriptor, &one_byte());
    let row = row.with_app_metadata(vec![0; 8 * MIB]);
    put.extend(std::iter::repeat_n(row, ROWS));
    let acks = soon("the ack", client.put_messages(put)).await.unwrap();
    assert_eq!(acks[0].rows, 128);
    server.assert_peak_below(BOUND);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_without_rows_weigh_as_much_as_their_columns() {
    const COLUMNS: usize = 1000;
    const BATCHES: usize = 3000;
    let server = server();
    let client = server.client().await;
    let value: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let columns = (0..COLUMNS).map(|column| (format!("c{column}"), value.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    client.append("t", from_ref(&batch)).await.unwrap();
    let (mut put, row) = put_of(PutOptions::new("t").descriptor(), &batch);
    put.extend(std::iter::repeat_n(empty_message(&batch.schema()), BATCHES));
    put.push(row);
    let acks = soon("the ack", client.put_messages(put)).await.unwrap();
    assert_eq!(acks[0].rows, 1);
    server.assert_peak_below(BOUND);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_keep_nothing_of_their_messages_but_their_values() {
    const COLUMNS: usize = 40;
    let server = server();
    let client = server.client().await;
    let values = ["one", "two"].into_iter();
    let column: ArrayRef = Arc::new(values.collect::<DictionaryArray<Int8Type>>());
    let columns = (0..COLUMNS).map(|number| (format!("c{number}"), column.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let (mut put, rows) = put_of(PutOptions::new("t").descriptor(), &batch);
    assert_eq!(put.len(), 1 + COLUMNS, "the schema and the dictionaries");
    let beside = Bytes::from(vec![0; 24 * MIB]);
    for dictionary in &mut put[1..] {
        dictionary.app_metadata = beside.clone();
    }
    put.push(rows);
    let acks = soon("the ack", client.put_messages(put)).await.unwrap();
    assert_eq!(acks[0].rows, 2);
    server.assert_peak_below(BOUND);
    let values = client
        .rows("SELECT DISTINCT c0 || c39 FROM t ORDER BY 1")
        .await;
    assert_eq!(values, ["oneone", "twotwo"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_waits_for_its_client_keeps_nothing_of_its_first_message_but_what_it_says() {
    const PUTS: usize = 40;
    let server = server();
    let descriptor = FlightDescriptor::new_cmd(r#"{"table":"t"}"#);
    let (mut first, _) = put_of(descriptor, &one_byte());
    let first = first.swap_remove(0).with_app_metadata(vec![0; 24 * MIB]);
    let mut open = Vec::new();
    for _ in 0..PUTS {
        let put = server.client().await.open_raw_put().await;
        soon("a first message that is read", opened(&put, first.clone())).await;
        open.push(put);
    }
    server.assert_peak_below(BOUND);
    for put in open {
        let acks = put.finish().await.unwrap();
        assert_eq!(acks[0].rows, 0);
    }
    server.stop();
}

/// Sends the first message, and three that say nothing. The last is taken once nearly all of the first is sent, and the
/// server has room for few that are not read.
async fn opened(put: &OpenPut, first: FlightData) {
    put.send(first).await;
    for _ in 0..3 {
        put.send(FlightData::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_schemas_of_open_puts_are_bounded_for_all_of_them() {
    let (server, client) = start().await;
    let row = ints([1]);
    let note = [("note".to_owned(), "x".repeat(30 * MIB))].into();
    let schema = Schema::clone(&row.schema()).with_metadata(note);
    let large = row.clone().with_schema(Arc::new(schema)).unwrap();
    let options = PutOptions {
        commit: Commit::Batch,
        ..PutOptions::new("t")
    };
    let (mut put, batch) = put_of(options.descriptor(), &large);
    put.push(batch);
    let mut open = Vec::new();
    let refused = soon("the limit", async {
        loop {
            let mut next = server.client().await.open_raw_put().await;
            for message in put.clone() {
                next.send(message).await;
            }
            if let Err(error) = next.ack().await.expect("an answer") {
                break error;
            }
            open.push(next);
            assert!(open.len() < 20, "600 MB are held");
        }
    });
    assert_refused::<()>(
        Err(refused.await),
        Code::ResourceExhausted,
        &["large schemas"],
    );
    assert_eq!(open.len(), 8);
    // An ordinary one has room.
    assert_eq!(client.append("t", &[row]).await.unwrap(), 1);
    for put in open {
        put.finish().await.unwrap();
    }
    soon("room", async {
        while client.put_messages(put.clone()).await.is_err() {}
    })
    .await;
    server.shutdown().await;
}

/// Sends values for a prepared statement.
async fn bind(client: &Client, put: Vec<FlightData>) -> Answer<()> {
    let mut client = client.clone();
    let answers = client.raw().do_put(stream::iter(put)).await?;
    answers.into_inner().message().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_values_without_rows_are_not_kept() {
    const BATCHES: usize = 30_000;
    let server = server();
    let client = server.client().await;
    let command = CommandPreparedStatementQuery {
        prepared_statement_handle: prepare(&client, "SELECT ? + 1").await,
    };
    let command = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let value = one_byte();
    let (mut put, row) = put_of(command.clone(), &value);
    let empty = empty_message(&value.schema()).with_app_metadata(vec![0; 30 << 10]);
    put.extend(std::iter::repeat_n(empty, BATCHES));
    put.push(row);
    soon("an answer", bind(&client, put)).await.unwrap();
    server.assert_peak_below(BOUND);
    let info = client.flight().get_flight_info(command).await;
    let ticket = info.map_err(status).unwrap().endpoint[0].ticket.clone();
    let rows = client
        .query(ticket.expect("a ticket").ticket)
        .await
        .unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_weigh_as_much_as_the_messages_that_they_keep() {
    let server = server();
    let client = server.client().await;
    let command = CommandPreparedStatementQuery {
        prepared_statement_handle: prepare(&client, "SELECT ?").await,
    };
    let command = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let (mut put, row) = put_of(command, &one_byte());
    let row = row.with_app_metadata(vec![0; MIB]);
    put.extend(std::iter::repeat_n(row, 1000));
    assert_refused(
        soon("a refusal", bind(&client, put)).await,
        Code::ResourceExhausted,
        &["parameters take more than"],
    );
    server.assert_peak_below(BOUND);
    server.stop();
}
