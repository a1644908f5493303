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
use duck_flight_protocol::{Create, PutOptions};
use duck_tests::{Client, Compression, ServerProcess, messages, soon};
use futures::future::join_all;
use tonic::Code;

/// How many spoiled puts are made of each valid one.
const SPOILED: usize = 250;

const ROWS: usize = 40;

/// SplitMix64: the same numbers for good.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

pub(super) fn spoil_bytes(random: &mut Random, bytes: &Bytes) -> Bytes {
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

pub(super) fn spoil(random: &mut Random, messages: &mut Vec<FlightData>) {
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
pub(super) fn corpus() -> Vec<(&'static str, Vec<(&'static str, ArrayRef)>)> {
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

/// Sends a spoiled put. An error says what went wrong: the put may fail, but only as a put of its kind does.
async fn try_spoiled(client: &Client, table: &str, put: Vec<FlightData>) -> Result<bool, String> {
    let acks = match soon("an answer to a spoiled put", client.put_messages(put)).await {
        Ok(acks) => acks,
        Err(error) => {
            let broken = [Code::Internal, Code::Unknown, Code::Unavailable];
            return if broken.contains(&error.code()) {
                Err(format!("{error:?}"))
            } else {
                Ok(false)
            };
        }
    };
    let rows: u64 = acks.iter().map(|ack| ack.rows).sum();
    let read = client.query(format!("SELECT * FROM {table}")).await;
    let read = read.map_err(|error| format!("accepted and unreadable: {error:?}"))?;
    let read: usize = read.iter().map(RecordBatch::num_rows).sum();
    if read as u64 != rows {
        return Err(format!("{rows} rows acknowledged and {read} read"));
    }
    let hash = client
        .query(format!("SELECT hash({table}) FROM {table}"))
        .await;
    hash.map(|_| true)
        .map_err(|error| format!("accepted and unreadable: {error:?}"))
}

/// Spoils one valid put in many ways; answers with all that went wrong. After each harm the server is a new one.
async fn harm_of(
    name: &str,
    columns: Vec<(&'static str, ArrayRef)>,
    compression: Compression,
) -> Vec<String> {
    let codec = compression.map_or("plain", |codec| codec.variant_name().unwrap());
    let start = || {
        ServerProcess::try_start(&["--database", ":memory:", "--listen", "127.0.0.1:0"]).unwrap()
    };
    let mut server = start();
    let mut client = server.client().await;
    let mut options = PutOptions::new("t");
    options.create = Create::Replace;
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let batches = [batch.clone(), batch.slice(3, ROWS - 10)];
    let valid = messages(options.descriptor(), &batch.schema(), &batches, compression);
    assert_eq!(
        client.put_messages(valid.clone()).await.unwrap()[0].rows,
        2 * ROWS as u64 - 10,
        "{name}"
    );

    let seed = format!("{name} {codec}")
        .bytes()
        .fold(0, |seed, byte| seed * 31 + u64::from(byte));
    let mut random = Random(seed);
    let (mut refused, mut accepted, mut harm) = (0, 0, Vec::new());
    for round in 0..SPOILED {
        let mut put = valid.clone();
        spoil(&mut random, &mut put);
        let mut outcome = try_spoiled(&client, "t", put).await;
        let said = server.stderr();
        // The decoder catches what makes Arrow's reader panic; no thread of the engine may.
        let engine = said
            .lines()
            .find(|line| line.contains("panicked") && !line.contains("tokio-rt-worker"));
        if let Some(line) = engine {
            outcome = Err(format!("{line} {outcome:?}"));
        }
        match outcome {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(what) => {
                let alive = client.try_rows("SELECT 1").await.is_ok();
                harm.push(format!(
                    "{name} {codec}, round {round}, server alive {alive}: {what}"
                ));
                server = start();
                client = server.client().await;
            }
        }
    }
    assert!(
        refused > 0 && accepted > 0,
        "{name}: {refused} refused, {accepted} accepted"
    );
    assert!(server.is_alive());
    harm
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_puts_are_refused_or_readable_and_the_server_lives() {
    let mut harm = Vec::new();
    for codec in [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ] {
        let runs = corpus().into_iter().map(|(name, columns)| {
            tokio::spawn(async move { harm_of(name, columns, codec).await })
        });
        for harms in join_all(runs).await {
            harm.extend(harms.unwrap());
        }
    }
    assert!(harm.is_empty(), "{} times: {harm:#?}", harm.len());
}
