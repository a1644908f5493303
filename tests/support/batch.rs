//! Rows to send, how they are put, and the messages they are sent in.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::IpcWriteOptions;
use duck_flight_protocol::PutOptions;
use futures::executor::block_on;
use futures::{TryStreamExt, stream};

/// How the bodies of messages are compressed.
pub type Compression = Option<CompressionType>;

/// The options of a put, as they are sent.
///
/// # Panics
/// When a put has no such options.
pub fn options(json: &str) -> PutOptions {
    serde_json::from_str(json).expect("options of a put")
}

/// A batch of one column `i` of 64-bit integers.
///
/// # Panics
/// Never.
pub fn ints(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    RecordBatch::try_from_iter([("i", values)]).expect("one column")
}

/// A batch of `rows` rows that say which batch they are of: columns `batch` and `row`.
///
/// # Panics
/// Never.
pub fn numbered(batch: i64, rows: i64) -> RecordBatch {
    let batches = std::iter::repeat_n(batch, usize::try_from(rows).unwrap_or_default());
    let batches: ArrayRef = Arc::new(Int64Array::from_iter_values(batches));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    RecordBatch::try_from_iter([("batch", batches), ("row", numbers)]).expect("two columns")
}

/// A batch of columns `i`, an integer, and `s`, text.
///
/// # Panics
/// Never.
pub fn pairs(rows: &[(i64, &str)]) -> RecordBatch {
    let ints: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("i", ints), ("s", texts)]).expect("two columns")
}

/// The messages of a put: the schema with the descriptor, then dictionaries and batches, nothing split.
///
/// # Panics
/// When the batches do not have this schema.
pub fn messages(
    descriptor: FlightDescriptor,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    compression: Compression,
) -> Vec<FlightData> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .expect("the codec is built in");
    let batches = batches.iter().cloned().map(Ok::<_, FlightError>);
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(schema.clone())
        .with_flight_descriptor(Some(descriptor))
        .with_options(options)
        .with_dictionary_handling(DictionaryHandling::Resend)
        .with_max_flight_data_size(usize::MAX)
        .build(stream::iter(batches.collect::<Vec<_>>()));
    block_on(encoder.try_collect()).expect("batches of the schema")
}

/// The message of a batch without rows: [`messages`] leaves such out, and other clients do not.
///
/// # Panics
/// When the schema has dictionaries.
pub fn empty_message(schema: &SchemaRef) -> FlightData {
    let empty = RecordBatch::new_empty(schema.clone());
    let mut messages = batches_to_flight_data(schema, vec![empty]).expect("a batch of the schema");
    assert_eq!(messages.len(), 2, "schema and batch");
    messages.swap_remove(1)
}
