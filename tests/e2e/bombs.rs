//! Small messages that stand for huge values: refused, and memory stays bounded.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, FixedSizeListArray, Int8Array, Int32Array, Int64Array,
    ListArray, ListViewArray, NullArray, RecordBatch, RecordBatchOptions, RunArray, StringArray,
    StringViewArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema};
use arrow_flight::FlightData;
use arrow_ipc::CompressionType;
use duck_flight_protocol::PutOptions;
use duck_tests::{ServerProcess, messages, soon};
use tonic::Code;

const HUGE: usize = 1_000_000_000;

fn one_column(column: ArrayRef) -> RecordBatch {
    let field = Field::new("c", column.data_type().clone(), true);
    let rows = RecordBatchOptions::new().with_row_count(Some(column.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(vec![field])), vec![column], &rows)
        .unwrap()
}

fn put_of(column: ArrayRef, compression: Option<CompressionType>) -> Vec<FlightData> {
    let batch = one_column(column);
    messages(
        PutOptions::new("t").descriptor(),
        &batch.schema(),
        &[batch],
        compression,
    )
}

/// Puts of few bytes that claim, or stand for, very many.
fn bombs() -> Vec<(&'static str, Vec<FlightData>)> {
    let item = |data_type| Arc::new(Field::new_list_field(data_type, true));
    let nulls = || -> ArrayRef { Arc::new(NullArray::new(HUGE)) };
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, i32::try_from(HUGE).unwrap()]));
    let list = ListArray::new(item(DataType::Null), offsets, nulls(), None);
    let fixed = FixedSizeListArray::new(
        item(DataType::Null),
        i32::try_from(HUGE / 10).unwrap(),
        nulls(),
        None,
    );
    let ends = Int32Array::from(vec![i32::try_from(HUGE).unwrap()]);
    let text = StringArray::from_iter_values(["x".repeat(100)]);
    let runs = RunArray::<Int32Type>::try_new(&ends, &text).unwrap();
    let megabyte = StringArray::from_iter_values(["x".repeat(1 << 20)]);
    let keys = Int8Array::from_iter_values(std::iter::repeat_n(0, 100_000));
    let dictionary = DictionaryArray::<Int8Type>::new(keys, Arc::new(megabyte.clone()));
    let ends = Int32Array::from(vec![100_000]);
    let long_runs = RunArray::<Int32Type>::try_new(&ends, &megabyte).unwrap();
    let view = StringViewArray::from_iter_values(["x".repeat(1 << 20)]);
    let views = ScalarBuffer::from(vec![view.views()[0]; 100_000]);
    let views = StringViewArray::new(views, view.data_buffers().to_vec(), None);
    let child: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
    let (starts, sizes) = (vec![0; 100_000], vec![100_000; 100_000]);
    let list_views = ListViewArray::new(
        item(DataType::Int64),
        starts.into(),
        sizes.into(),
        child,
        None,
    );
    vec![
        ("a billion rows of nothing", put_of(nulls(), None)),
        ("a list of a billion nulls", put_of(Arc::new(list), None)),
        ("a fixed list of many nulls", put_of(Arc::new(fixed), None)),
        ("a run of a billion", put_of(Arc::new(runs), None)),
        (
            "a dictionary of one megabyte 100,000 times",
            put_of(Arc::new(dictionary), None),
        ),
        (
            "a run of one megabyte 100,000 times",
            put_of(Arc::new(long_runs), None),
        ),
        (
            "a view of one megabyte 100,000 times",
            put_of(Arc::new(views), None),
        ),
        (
            "a list view of 100,000 numbers 100,000 times",
            put_of(Arc::new(list_views), None),
        ),
    ]
}

/// A put of 600 columns that share the buffers of the first.
fn shared(first: ArrayRef, others: ArrayRef) -> Vec<FlightData> {
    const COLUMNS: usize = 600;
    const BUFFER_BYTES: usize = 16;
    let columns = std::iter::once(first).chain(std::iter::repeat_n(others, COLUMNS - 1));
    let columns = columns.enumerate().map(|(i, c)| (format!("c{i}"), c));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let descriptor = PutOptions::new("t").descriptor();
    let mut put = messages(descriptor, &batch.schema(), &[batch], None);
    let mut header = put[1].data_header.to_vec();
    let message = arrow_ipc::root_as_message(&header).unwrap();
    let buffers = message.header_as_record_batch().unwrap().buffers().unwrap();
    let at = buffers.bytes().as_ptr().addr() - header.as_ptr().addr();
    let (bytes, each) = (buffers.bytes().len(), buffers.len() / COLUMNS);
    let last = buffers.get(each - 1);
    let end = usize::try_from(last.offset() + last.length()).unwrap();
    let first = header[at..at + each * BUFFER_BYTES].to_vec();
    header[at..at + bytes].copy_from_slice(&first.repeat(COLUMNS));
    put[1].data_header = header.into();
    put[1].data_body = put[1].data_body.slice(..end.next_multiple_of(64));
    put
}

/// Batches whose columns share what they hold.
fn shared_bombs() -> Vec<(&'static str, Vec<FlightData>)> {
    let numbers: ArrayRef = Arc::new(Int8Array::from(vec![7; 100_000]));
    let text = |bytes| -> ArrayRef { Arc::new(StringArray::from_iter_values(["x".repeat(bytes)])) };
    vec![
        (
            "100,000 numbers in 600 columns",
            shared(numbers.clone(), numbers),
        ),
        ("a megabyte in 600 columns", shared(text(1 << 20), text(1))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_hundreds_of_columns_share_count_for_each() {
    assert_refused(shared_bombs()).await;
}

/// Compressed buffers: their first eight bytes say how long they are once they are decompressed.
fn compressed_bombs() -> Vec<(&'static str, Vec<FlightData>)> {
    let zeros = |codec| put_of(Arc::new(Int64Array::from(vec![0; 8 << 20])), Some(codec));
    let claim = |mut put: Vec<FlightData>, claim: i64| {
        let mut body = put[1].data_body.to_vec();
        // The last buffer that has bytes holds the values; it starts where its claim, the true length, stands.
        let true_claim = (64_i64 << 20).to_le_bytes();
        let at = body
            .windows(8)
            .position(|bytes| bytes == true_claim)
            .expect("the claim of the values");
        body[at..at + 8].copy_from_slice(&claim.to_le_bytes());
        put[1].data_body = body.into();
        put
    };
    use CompressionType as Codec;
    vec![
        (
            "LZ4 claims more than any memory",
            claim(zeros(Codec::LZ4_FRAME), 1 << 50),
        ),
        (
            "LZ4 claims a negative length",
            claim(zeros(Codec::LZ4_FRAME), -2),
        ),
        (
            "LZ4 holds more than it claims",
            claim(zeros(Codec::LZ4_FRAME), 64),
        ),
        (
            "LZ4 holds less than it claims",
            claim(zeros(Codec::LZ4_FRAME), 400 << 20),
        ),
        (
            "ZSTD claims more than any memory",
            claim(zeros(Codec::ZSTD), 1 << 50),
        ),
        (
            "ZSTD claims a negative length",
            claim(zeros(Codec::ZSTD), -2),
        ),
        (
            "ZSTD holds more than it claims",
            claim(zeros(Codec::ZSTD), 64),
        ),
        (
            "ZSTD holds less than it claims",
            claim(zeros(Codec::ZSTD), 400 << 20),
        ),
    ]
}

/// Each bomb meets a server of its own; what goes wrong is told of all.
async fn assert_refused(bombs: Vec<(&'static str, Vec<FlightData>)>) {
    let mut harm = Vec::new();
    for (name, put) in bombs {
        if let Err(what) = refuses(name, put).await {
            harm.push(format!("{name}: {what}"));
        }
    }
    assert!(harm.is_empty(), "{harm:#?}");
}

async fn refuses(name: &str, put: Vec<FlightData>) -> Result<(), String> {
    let flags = ["--memory-limit", "256MiB", "--ingest-buffer", "16MiB"];
    let mut server = ServerProcess::start(&flags);
    let client = server.client().await;
    let outcome = soon(name, client.put_messages(put)).await;
    if client.try_rows("SELECT 1").await.is_err() {
        let exit = server.wait();
        let said: String = exit.stderr.chars().take(200).collect();
        return Err(format!("it ended the server with {:?}: {said}", exit.code));
    }
    let said = server.stderr();
    if said.contains("panicked") {
        return Err(format!("a panic: {said}"));
    }
    #[cfg(target_os = "linux")]
    if server.peak_memory_bytes() > (256 + 512) << 20 {
        return Err(format!("it took {} MiB", server.peak_memory_bytes() >> 20));
    }
    let rows = client.try_rows("SELECT count(*) FROM t").await;
    if rows.is_ok_and(|rows| rows != ["0"]) {
        return Err("rows were inserted".into());
    }
    match outcome {
        Err(error)
            if matches!(
                error.code(),
                Code::InvalidArgument | Code::ResourceExhausted
            ) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_bytes_that_stand_for_very_many_values_are_refused() {
    assert_refused(bombs()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_buffers_that_lie_about_their_length_are_refused() {
    assert_refused(compressed_bombs()).await;
}
