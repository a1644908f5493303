//! What a put sends, made beforehand.

use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use bytes::{BufMut, Bytes, BytesMut};
use duck_flight_protocol::PutOptions;
use futures::TryStreamExt;
use prost::Message;

/// The messages of a put, the schema first.
pub(crate) async fn messages(options: &PutOptions, batches: usize, rows: usize) -> Vec<FlightData> {
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

/// The bytes of a request that sends these messages: each behind its length, as gRPC has them.
pub(crate) fn request(messages: &[FlightData]) -> Bytes {
    let mut bytes = BytesMut::new();
    for message in messages {
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(message.encoded_len()).expect("a message's length"));
        message.encode(&mut bytes).expect("room for it");
    }
    bytes.freeze()
}
