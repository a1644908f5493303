//! Dictionaries of puts: what they take counts, however they come to be so large, and whoever keeps them.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, DictionaryArray, Int32Array, Int32Builder, IntervalMonthDayNanoBuilder, MapBuilder,
    RecordBatch, StringArray,
};
use arrow::datatypes::IntervalMonthDayNano;
use arrow_flight::FlightData;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{
    CompressionContext, DictionaryHandling, DictionaryTracker, IpcDataGenerator, IpcWriteOptions,
};
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{ServerProcess, Setup, assert_refused, messages, soon, start};
use futures::FutureExt;
use futures::future::select_all;
use tonic::Code;

const MIB: usize = 1 << 20;

/// How long an answer is waited for that may not come.
const MOMENT: Duration = Duration::from_millis(300);

/// A row whose value is the last one of these.
fn last_of(values: &[&str]) -> RecordBatch {
    let last = i32::try_from(values.len() - 1).unwrap();
    let values = StringArray::from(values.to_vec());
    let keys = Int32Array::from(vec![last]);
    let column: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(values)));
    RecordBatch::try_from_iter([("s", column)]).unwrap()
}

/// A row whose value is the last one of maps to intervals: of none, one, two months and so on.
fn last_of_maps(count: i32) -> RecordBatch {
    let (keys, values) = (Int32Builder::new(), IntervalMonthDayNanoBuilder::new());
    let mut maps = MapBuilder::new(None, keys, values);
    for months in 0..count {
        maps.keys().append_value(months);
        let interval = IntervalMonthDayNano::new(months, 5, 7000);
        maps.values().append_value(interval);
        maps.append(true).unwrap();
    }
    let last = Int32Array::from(vec![count - 1]);
    let column: ArrayRef = Arc::new(DictionaryArray::new(last, Arc::new(maps.finish())));
    RecordBatch::try_from_iter([("m", column)]).unwrap()
}

/// The messages of a put of these batches, each of which makes the dictionary of the one before longer.
fn growing(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<FlightData> {
    let options = IpcWriteOptions::default()
        .with_dictionary_handling(DictionaryHandling::Delta)
        .try_with_compression(compression)
        .unwrap();
    let generator = IpcDataGenerator::default();
    let mut tracker = DictionaryTracker::new(false);
    let schema = batches[0].schema();
    let schema = generator.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
    let mut messages =
        vec![FlightData::from(schema).with_descriptor(PutOptions::new("t").descriptor())];
    for batch in batches {
        let mut context = CompressionContext::default();
        let encoded = generator.encode(batch, &mut tracker, &options, &mut context);
        let (dictionaries, rows) = encoded.unwrap();
        messages.extend(dictionaries.into_iter().chain([rows]).map(FlightData::from));
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_that_grows_and_grows_is_refused() {
    let setup = Setup {
        max_message_bytes: MIB,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    let large = "x".repeat(3 * MIB);
    let batches = [last_of(&["a"]), last_of(&["a", &large])];
    let mut put = growing(&batches, Some(CompressionType::LZ4_FRAME));
    let [_, _, _, delta, _] = put.as_slice() else {
        panic!("a dictionary and a delta expected: {}", put.len())
    };
    let delta = delta.clone();
    assert_eq!(client.put_messages(put.clone()).await.unwrap()[0].rows, 2);
    // Each of them is small.
    put.splice(4..4, vec![delta; 20]);
    assert_refused(
        soon("a refusal", client.put_messages(put)).await,
        Code::InvalidArgument,
        &["dictionaries", "limit 8388608"],
    );
    assert_eq!(client.count("t").await, 2);
    server.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_that_waiting_rows_keep_weigh_as_much_as_they_are() {
    const ROUNDS: usize = 100;
    let flags = ["--memory-limit", "256MiB", "--ingest-buffer", "16MiB"];
    let server = ServerProcess::start(&flags);
    let client = server.client().await;
    let batch = last_of(&[&"x".repeat(10 * MIB), "b"]);
    let descriptor = PutOptions::new("t").descriptor();
    let mut put = messages(descriptor, &batch.schema(), from_ref(&batch), None);
    // The dictionary, and the row that keeps it.
    let round = put.split_off(1);
    assert_eq!(round.len(), 2);
    put.extend(std::iter::repeat_n(round, ROUNDS).flatten());
    let acks = client.put_messages(put).await.unwrap();
    assert_eq!(acks[0].rows, 100);
    server.assert_peak_below((256 + 300) << 20);
    assert_eq!(client.rows("SELECT DISTINCT s FROM t").await, ["b"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_of_puts_that_stay_open_are_bounded_for_all_of_them() {
    let (server, client) = start().await;
    let batch = last_of(&[&"x".repeat(30 * MIB), "b"]);
    let options = PutOptions {
        commit: Commit::Batch,
        ..PutOptions::new("t")
    };
    let put = messages(
        options.descriptor(),
        &batch.schema(),
        from_ref(&batch),
        None,
    );
    let mut open = Vec::new();
    let refused = soon("the limit", async {
        loop {
            let next = server.client().await.open_raw_put().await;
            for message in put.clone() {
                next.send(message).await;
            }
            open.push(next);
            assert!(open.len() < 20, "600 MB are held");
            let last = open.last_mut().expect("the one that was opened");
            if let Err(error) = last.ack().await.expect("an answer") {
                break error;
            }
        }
    });
    assert_refused::<()>(
        Err(refused.await),
        Code::ResourceExhausted,
        &["dictionaries of puts"],
    );
    assert!((6..=9).contains(&open.len()), "{}", open.len());
    // The others go on, and what one of them gives back is another's.
    open.pop();
    let ends = open.iter_mut().map(|put| put.ack().boxed());
    assert!(
        tokio::time::timeout(MOMENT, select_all(ends))
            .await
            .is_err()
    );
    open.pop().expect("one more").finish().await.unwrap();
    soon("room", async {
        while client.put_messages(put.clone()).await.is_err() {}
    })
    .await;
    for put in open {
        put.cancel().await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_in_dictionaries_may_stand_anywhere_in_memory() {
    let (server, client) = start().await;
    let put = growing(&[last_of_maps(1), last_of_maps(3)], None);
    assert_eq!(put.len(), 5, "schema, dictionary, batch, delta, batch");
    for message in 0..put.len() {
        // What stands before the values in a message moves them.
        for bytes in 0..16 {
            let mut put = put.clone();
            put[message].app_metadata = vec![b'x'; bytes].into();
            assert_eq!(client.put_messages(put).await.unwrap()[0].rows, 2);
        }
    }
    let values = "SELECT count(*) FROM t WHERE map_values(m) = [INTERVAL ";
    for value in ["'5 days 7 us'", "'2 months 5 days 7 us'"] {
        assert_eq!(client.rows(&format!("{values}{value}]")).await, ["80"]);
    }
    server.shutdown().await;
}
