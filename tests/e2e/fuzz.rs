//! Puts with spoiled bytes: whatever arrives, the server answers, lives, and what it accepted can be read.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
    Int64Array, Int64Builder, LargeStringArray, ListArray, ListBuilder, MapBuilder, NullArray,
    RecordBatch, RunArray, StringArray, StringBuilder, StringViewArray, StructArray,
    TimestampMicrosecondArray, UnionArray,
};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, UnionFields};
use arrow_flight::FlightData;
use arrow_ipc::CompressionType;
use bytes::Bytes;
use duck_flight_protocol::PutOptions;
use duck_tests::{Client, Compression, ServerProcess, messages, soon};
use futures::future::join_all;
use tonic::Code;

/// How many spoiled puts are made of each valid one.
const SPOILED: usize = 250;

const ROWS: usize = 40;

/// SplitMix64: the same numbers for good.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

fn spoil_bytes(random: &mut Random, bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if bytes.is_empty() {
        return vec![0; 8].into();
    }
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            3 => {
                // Lengths, offsets and counts stand at multiples of their size.
                let at = at / 8 * 8;
                let value = [i64::MAX, -1, i64::MIN, 1 << 31, 1 << 40, 0, 1][random.below(7)];
                for (to, from) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            4 => {
                let at = at / 4 * 4;
                let value = [i32::MAX, -1, i32::MIN, 1 << 20, 0, 1, 2][random.below(7)];
                for (to, from) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            5 => bytes.truncate(at.max(1)),
            _ => bytes.extend_from_slice(&[0xAB; 16]),
        }
    }
    bytes.into()
}

fn spoil(random: &mut Random, messages: &mut Vec<FlightData>) {
    let at = random.below(messages.len());
    match random.below(20) {
        0 if messages.len() > 1 => drop(messages.remove(at)),
        1 => messages.insert(at, messages[at].clone()),
        2 => {
            let other = random.below(messages.len());
            messages.swap(at, other);
        }
        3 => messages[at].data_body = Bytes::new(),
        4 => {
            let other = random.below(messages.len());
            messages[at].data_body = messages[other].data_body.clone();
        }
        5..12 => messages[at].data_header = spoil_bytes(random, &messages[at].data_header.clone()),
        _ => messages[at].data_body = spoil_bytes(random, &messages[at].data_body.clone()),
    }
}

fn texts() -> Vec<Option<String>> {
    let text =
        |row| (row % 7 != 3).then(|| "é long enough to lie outside of its view ".repeat(row % 4));
    (0..ROWS).map(text).collect()
}

fn int_lists() -> ListArray {
    let lists = (0..ROWS).map(|row| {
        (row % 5 != 1).then(|| (0..row % 4).map(|i| (i != 2).then_some(i64::try_from(i).unwrap())))
    });
    let mut builder = ListBuilder::new(Int64Builder::new());
    for list in lists {
        match list {
            Some(values) => {
                for value in values {
                    builder.values().append_option(value);
                }
                builder.append(true);
            }
            None => builder.append(false),
        }
    }
    builder.finish()
}

fn text_lists() -> ListArray {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in 0..ROWS {
        for text in texts().into_iter().take(row % 3) {
            builder.values().append_option(text);
        }
        builder.append(row % 6 != 2);
    }
    builder.finish()
}

fn maps() -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..ROWS {
        for key in 0..row % 3 {
            builder.keys().append_value(format!("key {key}"));
            builder.values().append_option((key != 1).then_some(7));
        }
        builder.append(row % 5 != 0).unwrap();
    }
    Arc::new(builder.finish())
}

fn structs() -> ArrayRef {
    let fields = vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", int_lists_type(), true),
    ];
    let children: Vec<ArrayRef> = vec![
        ints(),
        Arc::new(StringArray::from(texts())),
        Arc::new(int_lists()),
    ];
    let nulls = (0..ROWS).map(|row| row % 8 != 5).collect::<Vec<_>>();
    Arc::new(StructArray::new(
        fields.into(),
        children,
        Some(nulls.into()),
    ))
}

fn int_lists_type() -> DataType {
    use arrow::array::Array;
    int_lists().data_type().clone()
}

fn ints() -> ArrayRef {
    let value = |row: usize| (row % 9 != 4).then(|| i64::try_from(row).unwrap() * 1_000_003);
    Arc::new((0..ROWS).map(value).collect::<Int64Array>())
}

fn unions() -> ArrayRef {
    let fields = UnionFields::try_new(
        [0, 1],
        [
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
        ],
    );
    let ids: Vec<i8> = (0..ROWS).map(|row| i8::from(row % 3 == 0)).collect();
    let children: Vec<ArrayRef> = vec![ints(), Arc::new(StringArray::from(texts()))];
    Arc::new(UnionArray::try_new(fields.unwrap(), ids.into(), None, children).unwrap())
}

fn dictionary() -> DictionaryArray<Int8Type> {
    (0..ROWS)
        .map(|row| (row % 6 != 5).then(|| ["red", "green", "", "blue"][row % 4]))
        .collect()
}

fn runs() -> ArrayRef {
    let texts: Vec<_> = (0..ROWS).map(|row| ["a", "b", "c"][row / 5 % 3]).collect();
    Arc::new(texts.into_iter().collect::<RunArray<Int32Type>>())
}

fn fixed_lists() -> ArrayRef {
    let values = Int64Array::from_iter_values(0..i64::try_from(ROWS * 3).unwrap());
    let field = Arc::new(Field::new_list_field(DataType::Int64, true));
    Arc::new(FixedSizeListArray::new(field, 3, Arc::new(values), None))
}

/// Valid batches of all layouts, by name.
fn corpus() -> Vec<(&'static str, Vec<(&'static str, ArrayRef)>)> {
    let strings = || -> ArrayRef { Arc::new(StringArray::from(texts())) };
    let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts()));
    let blobs: ArrayRef = Arc::new(BinaryViewArray::from_iter(texts()));
    let bools: ArrayRef = Arc::new(
        (0..ROWS)
            .map(|row| (row % 4 != 0).then_some(row % 2 == 0))
            .collect::<BooleanArray>(),
    );
    let numbers = (0..ROWS).map(|row| i128::try_from(row).unwrap() << 60);
    let decimals = Decimal128Array::from_iter_values(numbers)
        .with_precision_and_scale(38, 4)
        .unwrap();
    let times: TimestampMicrosecondArray = (0..ROWS).map(|row| i64::try_from(row).ok()).collect();
    let large: ArrayRef = Arc::new(LargeStringArray::from(texts()));
    vec![
        ("plain", vec![("i", ints()), ("s", strings()), ("b", bools)]),
        (
            "numbers",
            vec![
                ("d", Arc::new(decimals)),
                ("t", Arc::new(times)),
                ("l", large),
                ("n", Arc::new(NullArray::new(ROWS))),
            ],
        ),
        (
            "lists",
            vec![
                ("l", Arc::new(int_lists())),
                ("s", Arc::new(text_lists())),
                ("f", fixed_lists()),
            ],
        ),
        (
            "dictionary",
            vec![("d", Arc::new(dictionary())), ("i", ints())],
        ),
        ("nested", vec![("s", structs()), ("m", maps())]),
        ("union", vec![("u", unions()), ("i", ints())]),
        ("runs", vec![("r", runs()), ("i", ints())]),
        ("views", vec![("v", views), ("b", blobs)]),
    ]
}

async fn try_spoiled(
    client: &Client,
    name: &str,
    valid: &[FlightData],
    random: &mut Random,
    seen: &mut [usize; 2],
) {
    for round in 0..SPOILED {
        let mut messages = valid.to_vec();
        spoil(random, &mut messages);
        match soon("an answer to a spoiled put", client.put_messages(messages)).await {
            Err(error) => {
                seen[0] += 1;
                let broken = matches!(
                    error.code(),
                    Code::Internal | Code::Unknown | Code::Unavailable
                );
                assert!(!broken, "{name}, round {round}: {error:?}");
            }
            Ok(acks) => {
                seen[1] += 1;
                let rows: u64 = acks.iter().map(|ack| ack.rows).sum();
                let read = client.query(format!("SELECT * FROM {name}")).await;
                let read = read.unwrap_or_else(|error| panic!("{name}, round {round}: {error:?}"));
                let read: usize = read.iter().map(RecordBatch::num_rows).sum();
                assert_eq!(rows, read as u64, "{name}, round {round}");
                client
                    .rows(&format!("SELECT sum(hash({name})) FROM {name}"))
                    .await;
            }
        }
    }
}

async fn run(
    address: &str,
    name: &str,
    columns: Vec<(&'static str, ArrayRef)>,
    compression: Compression,
) {
    let suffix = compression.map_or("plain", |codec| codec.variant_name().unwrap());
    let name = format!("{name}_{suffix}");
    let client = Client::connect(address).await;
    let mut options = PutOptions::new(name.as_str());
    options.create = duck_flight_protocol::Create::Replace;
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    );
    let batch = batch.unwrap();
    let batches = [batch.clone(), batch.slice(3, ROWS - 10)];
    let valid = messages(options.descriptor(), &batch.schema(), &batches, compression);
    let acks = client
        .put_messages(valid.clone())
        .await
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    assert_eq!(acks[0].rows, 2 * ROWS as u64 - 10);
    let seed = name
        .bytes()
        .fold(0, |seed, byte| seed * 31 + u64::from(byte));
    let mut seen = [0, 0];
    try_spoiled(&client, &name, &valid, &mut Random(seed), &mut seen).await;
    assert!(
        seen.iter().all(|count| *count > 0),
        "{name}: refused and accepted {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_puts_are_refused_or_readable_and_the_server_lives() {
    let mut server =
        ServerProcess::try_start(&["--database", ":memory:", "--listen", "127.0.0.1:0"]).unwrap();
    let address = server.address().to_owned();
    let codecs = [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ];
    for codec in codecs {
        let runs = corpus().into_iter().map(|(name, columns)| {
            let address = address.clone();
            tokio::spawn(async move { run(&address, name, columns, codec).await })
        });
        for outcome in join_all(runs).await {
            if let Err(error) = outcome {
                panic!(
                    "{error}; the server is alive: {}; it says: {}",
                    server.is_alive(),
                    server.stderr()
                );
            }
        }
    }
    assert!(server.is_alive());
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    assert_eq!(server.client().await.rows("SELECT 1").await, ["1"]);
}
