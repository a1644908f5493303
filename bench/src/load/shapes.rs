//! Rows that are wide, long or deep. A few batches of each are made beforehand, so that the client's work is only
//! to send them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use clap::ValueEnum;

use super::Random;

/// How many different batches there are.
const BATCHES: usize = 16;

/// Columns of a wide row: half of them integers, half of them floats.
const WIDE_COLUMNS: usize = 100;

/// Columns of a row of texts, and the length of a text.
const TEXT_COLUMNS: usize = 4;
const TEXT_BYTES: std::ops::Range<u64> = 5..200;

/// Elements of a list.
const LIST_LENGTH: std::ops::Range<u64> = 0..8;

/// What a row looks like.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shape {
    /// A hundred numbers.
    Wide,
    /// Texts of 5 to 200 bytes.
    Strings,
    /// A list, a struct and a list of structs.
    Nested,
}

impl Shape {
    /// The columns of a table for such rows, as DuckDB writes them.
    pub(crate) fn columns_sql(self) -> String {
        const POINT: &str = "STRUCT(x DOUBLE, y DOUBLE, valid BOOLEAN)";
        let columns: Vec<String> = match self {
            Self::Wide => (0..WIDE_COLUMNS)
                .map(|column| format!("c{column} {}", ["BIGINT", "DOUBLE"][column % 2]))
                .collect(),
            Self::Strings => (0..TEXT_COLUMNS)
                .map(|column| format!("s{column} VARCHAR"))
                .collect(),
            Self::Nested => vec![format!(
                "id BIGINT, numbers DOUBLE[], point {POINT}, points {POINT}[]"
            )],
        };
        columns.join(", ")
    }

    pub(crate) fn batches(self, rows: usize, seed: u64) -> anyhow::Result<Vec<RecordBatch>> {
        let mut random = Random::new(seed);
        let make = match self {
            Self::Wide => wide,
            Self::Strings => strings,
            Self::Nested => nested,
        };
        let batches =
            (0..BATCHES).map(|_| Ok(RecordBatch::try_from_iter(make(rows, &mut random)?)?));
        batches.collect()
    }
}

type Columns = Vec<(String, ArrayRef)>;

fn wide(rows: usize, random: &mut Random) -> anyhow::Result<Columns> {
    let columns = (0..WIDE_COLUMNS).map(|column| {
        let array = if column % 2 == 0 {
            integers(rows, random)
        } else {
            floats(rows, random)
        };
        (format!("c{column}"), array)
    });
    Ok(columns.collect())
}

fn strings(rows: usize, random: &mut Random) -> anyhow::Result<Columns> {
    let columns = (0..TEXT_COLUMNS).map(|column| (format!("s{column}"), texts(rows, random)));
    Ok(columns.collect())
}

fn nested(rows: usize, random: &mut Random) -> anyhow::Result<Columns> {
    let values = list(rows, random, floats)?;
    let point = point(rows, random);
    let points = list(rows, random, point_array)?;
    Ok(vec![
        ("id".to_owned(), integers(rows, random)),
        ("numbers".to_owned(), values),
        ("point".to_owned(), Arc::new(point)),
        ("points".to_owned(), points),
    ])
}

fn integers(rows: usize, random: &mut Random) -> ArrayRef {
    let values = (0..rows).map(|_| (random.next() >> 32) as i64);
    Arc::new(values.collect::<Int64Array>())
}

fn floats(rows: usize, random: &mut Random) -> ArrayRef {
    let values = (0..rows).map(|_| (random.next() >> 40) as f64 / 1e3);
    Arc::new(values.collect::<Float64Array>())
}

fn texts(rows: usize, random: &mut Random) -> ArrayRef {
    let text = |random: &mut Random| -> String {
        let bytes = (0..within(TEXT_BYTES, random)).map(|_| b'a' + (random.next() % 26) as u8);
        bytes.map(char::from).collect()
    };
    let texts = (0..rows).map(|_| text(random)).collect::<Vec<_>>();
    Arc::new(StringArray::from(texts))
}

fn point(rows: usize, random: &mut Random) -> StructArray {
    let flags: BooleanArray = (0..rows)
        .map(|_| Some(random.next().is_multiple_of(2)))
        .collect();
    let fields = Fields::from(vec![
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float64, true),
        Field::new("valid", DataType::Boolean, true),
    ]);
    let columns = vec![floats(rows, random), floats(rows, random), Arc::new(flags)];
    StructArray::new(fields, columns, None)
}

fn point_array(rows: usize, random: &mut Random) -> ArrayRef {
    Arc::new(point(rows, random))
}

/// Lists of random lengths of what `elements` makes.
fn list(
    rows: usize,
    random: &mut Random,
    elements: fn(usize, &mut Random) -> ArrayRef,
) -> anyhow::Result<ArrayRef> {
    let lengths: Vec<usize> = (0..rows)
        .map(|_| usize::try_from(within(LIST_LENGTH, random)))
        .collect::<Result<_, _>>()?;
    let values = elements(lengths.iter().sum(), random);
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None)?))
}

fn within(range: std::ops::Range<u64>, random: &mut Random) -> u64 {
    range.start + random.next() % (range.end - range.start)
}
