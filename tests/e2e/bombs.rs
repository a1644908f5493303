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
use arrow_ipc::{CompressionType, KeyValue, KeyValueArgs, MessageHeader};
use bytes::Bytes;
use duck_flight_protocol::PutOptions;
use duck_tests::{ServerProcess, messages, soon, start};
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, UnionWIPOffset, Vector, WIPOffset};
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
    let views = ScalarBuffer::from(vec![view.views()[0]; 1_000_000]);
    let views = StringViewArray::new(views, view.data_buffers().to_vec(), None);
    let unseen = ListViewArray::new(
        item(DataType::Utf8View),
        vec![0; 1].into(),
        vec![0; 1].into(),
        Arc::new(views.clone()),
        None,
    );
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
            "a view of one megabyte a million times",
            put_of(Arc::new(views), None),
        ),
        (
            "a million views of one megabyte that no row shows",
            put_of(Arc::new(unseen), None),
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

/// Sees that a put is refused, and answers with why it was; or with the harm it has done.
async fn refuses(name: &str, put: Vec<FlightData>) -> Result<String, String> {
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
            Ok(error.message().to_owned())
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

type Builder<'a> = FlatBufferBuilder<'a>;
type Entries<'a> = WIPOffset<Vector<'a, ForwardsUOffset<KeyValue<'a>>>>;

/// Metadata of 2,000 entries, which share a value of a megabyte.
fn shared_entries<'a>(builder: &mut Builder<'a>) -> Entries<'a> {
    let value = builder.create_string(&"x".repeat(1_000_000));
    let entry = |number: i32| {
        let key = Some(builder.create_string(&number.to_string()));
        let value = Some(value);
        KeyValue::create(builder, &KeyValueArgs { key, value })
    };
    let entries: Vec<_> = (0..2000).map(entry).collect();
    builder.create_vector(&entries)
}

/// A column of numbers, or one of structs of these fields.
fn column<'a>(
    builder: &mut Builder<'a>,
    children: &[WIPOffset<arrow_ipc::Field<'a>>],
    custom_metadata: Option<Entries<'a>>,
) -> WIPOffset<arrow_ipc::Field<'a>> {
    let int = arrow_ipc::IntArgs {
        bitWidth: 64,
        is_signed: true,
    };
    let (kind, of) = match children {
        [] => (
            arrow_ipc::Type::Int,
            arrow_ipc::Int::create(builder, &int).as_union_value(),
        ),
        _ => (
            arrow_ipc::Type::Struct_,
            arrow_ipc::Struct_::create(builder, &arrow_ipc::Struct_Args {}).as_union_value(),
        ),
    };
    let name = builder.create_string("c");
    let children = builder.create_vector(children);
    let field = arrow_ipc::FieldArgs {
        name: Some(name),
        nullable: true,
        type_type: kind,
        type_: Some(of),
        dictionary: None,
        children: Some(children),
        custom_metadata,
    };
    arrow_ipc::Field::create(builder, &field)
}

fn header_of<'a>(
    mut builder: Builder<'a>,
    header_type: MessageHeader,
    header: WIPOffset<UnionWIPOffset>,
    custom_metadata: Option<Entries<'a>>,
) -> Bytes {
    let message = arrow_ipc::MessageArgs {
        version: arrow_ipc::MetadataVersion::V5,
        header_type,
        header: Some(header),
        bodyLength: 64,
        custom_metadata,
    };
    let message = arrow_ipc::Message::create(&mut builder, &message);
    builder.finish(message, None);
    Bytes::copy_from_slice(builder.finished_data())
}

fn schema_of<'a>(
    mut builder: Builder<'a>,
    column: WIPOffset<arrow_ipc::Field<'a>>,
    custom_metadata: Option<Entries<'a>>,
) -> Bytes {
    let fields = builder.create_vector(&[column]);
    let schema = arrow_ipc::SchemaArgs {
        fields: Some(fields),
        custom_metadata,
        ..Default::default()
    };
    let schema = arrow_ipc::Schema::create(&mut builder, &schema).as_union_value();
    header_of(builder, MessageHeader::Schema, schema, None)
}

/// Schemas of a megabyte, or less, that stand for far more.
fn schema_bombs() -> Vec<(&'static str, Bytes)> {
    let mut builder = Builder::new();
    let entries = shared_entries(&mut builder);
    let numbers = column(&mut builder, &[], None);
    let of_schema = schema_of(builder, numbers, Some(entries));
    let mut builder = Builder::new();
    let entries = shared_entries(&mut builder);
    let numbers = column(&mut builder, &[], Some(entries));
    let of_column = schema_of(builder, numbers, None);
    let mut builder = Builder::new();
    let mut nested = column(&mut builder, &[], None);
    for _ in 0..17 {
        nested = column(&mut builder, &[nested, nested], None);
    }
    let of_structs = schema_of(builder, nested, None);
    vec![
        ("metadata of a schema that shares a megabyte", of_schema),
        ("metadata of a column that shares a megabyte", of_column),
        ("structs of two of the same structs", of_structs),
    ]
}

/// The header of a row of one number, with metadata that stands for two gigabytes.
fn batch_bomb() -> Bytes {
    let mut builder = Builder::new();
    let entries = shared_entries(&mut builder);
    let nodes = builder.create_vector(&[arrow_ipc::FieldNode::new(1, 0)]);
    let buffers = [(0, 0), (0, 8)].map(|(offset, length)| arrow_ipc::Buffer::new(offset, length));
    let buffers = builder.create_vector(&buffers);
    let batch = arrow_ipc::RecordBatchArgs {
        length: 1,
        nodes: Some(nodes),
        buffers: Some(buffers),
        ..Default::default()
    };
    let batch = arrow_ipc::RecordBatch::create(&mut builder, &batch).as_union_value();
    header_of(builder, MessageHeader::RecordBatch, batch, Some(entries))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_refers_to_the_same_bytes_again_and_again_is_refused() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let valid = put_of(numbers, None);
    let mut bombs = Vec::new();
    for (name, schema) in schema_bombs() {
        let mut put = valid.clone();
        put[0].data_header = schema;
        bombs.push((name, put));
    }
    let mut put = valid;
    put[1].data_header = batch_bomb();
    put[1].data_body = Bytes::from_static(&[7; 64]);
    bombs.push(("metadata of a batch that shares a megabyte", put));
    for (name, put) in bombs {
        let why = refuses(name, put).await;
        let is_for_it = |why: &String| why.contains("the message's header is not valid");
        assert!(why.as_ref().is_ok_and(is_for_it), "{name}: {why:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_columns_with_metadata_are_no_bomb() {
    const COLUMNS: usize = 4000;
    let (server, client) = start().await;
    let described = |column: usize| {
        format!(r#"{{"name": "column_{column}", "pandas_type": "int64", "metadata": null}}"#)
    };
    let field = |column: usize| {
        let metadata = [
            ("PARQUET:field_id", column.to_string()),
            ("note", described(column)),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let field = Field::new(format!("column_{column}"), DataType::Int64, true);
        field.with_metadata(metadata.into())
    };
    let all: Vec<_> = (0..COLUMNS).map(described).collect();
    let metadata = [("pandas".to_owned(), all.join(", "))].into();
    let fields: Vec<_> = (0..COLUMNS).map(field).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = RecordBatch::try_new(schema, vec![values; COLUMNS]).unwrap();
    assert_eq!(client.append("t", &[rows]).await.unwrap(), 2);
    let sums = client
        .rows("SELECT sum(column_0), sum(column_3999) FROM t")
        .await;
    assert_eq!(sums, ["3|3"]);
    server.shutdown().await;
}
