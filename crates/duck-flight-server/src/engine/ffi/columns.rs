//! Columns of a result that DuckDB keeps as Arrow does, or nearly: gathered from chunk after chunk.
//!
//! DuckDB's own export makes arrays of each chunk, which then have to be put together again, and takes longer than its scan:
//! here each value is copied once. It is left to DuckDB where a result has a column of another type.

use std::ffi::c_char;
use std::slice;

use arrow::array::{
    ArrayData, ArrayRef, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer};
use arrow::datatypes::{DataType, FieldRef, SchemaRef, ToByteSlice};
use duckdb::ffi;

use super::nulls::append_present;
use super::result::{Column, ResultChunk, arrow_error};
use super::{LogicalType, Result, SqlError, SqlErrorKind};

/// The bytes of a short text stand in the vector itself.
const INLINED_BYTES: usize = 12;

/// Room for texts is made for as many bytes as those before had, but for no more than this: they may have been far longer.
const MOST_ROOM_BYTES: usize = 1 << 20;

/// Types whose values are the same in Arrow.
const ALIKE: &[ffi::duckdb_type] = &[
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TINYINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTEGER,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_FLOAT,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_DOUBLE,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_DATE,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_NS,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_S,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_MS,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_NS,
    ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_TZ,
];

/// Rows of a result, gathered column by column.
pub(crate) struct PlainColumns {
    schema: SchemaRef,
    columns: Vec<PlainColumn>,
    rows: usize,
}

struct PlainColumn {
    data_type: DataType,
    values: Values,
    /// Which values are there, from the first chunk on that lacks one.
    validity: Option<BooleanBufferBuilder>,
}

enum Values {
    /// Values of `width` bytes each.
    Fixed {
        width: usize,
        bytes: MutableBuffer,
    },
    Bits(BooleanBufferBuilder),
    /// Values of `width` bytes each, which become sixteen.
    Decimals {
        width: usize,
        wide: Vec<i128>,
    },
    /// Texts or bytes: where each ends, behind a zero, and all of them in a row.
    Texts {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
}

impl PlainColumns {
    /// Room for a result's rows; `None` where it has a column of another type than these.
    pub(super) fn new(schema: &SchemaRef, columns: &[Column]) -> Option<Self> {
        let column = |(field, column): (&FieldRef, &Column)| {
            PlainColumn::new(field.data_type(), &column.logical)
        };
        let columns = schema.fields().iter().zip(columns).map(column);
        Some(Self {
            schema: schema.clone(),
            columns: columns.collect::<Option<_>>()?,
            rows: 0,
        })
    }

    /// How many rows are gathered.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.columns.iter().map(PlainColumn::bytes).sum()
    }

    /// Adds the rows of a chunk of the result.
    ///
    /// # Errors
    /// When the texts of a column come to more than an array of Arrow's holds.
    pub(crate) fn append(&mut self, chunk: &ResultChunk) -> Result<()> {
        let rows = chunk.rows();
        for (index, column) in self.columns.iter_mut().enumerate() {
            // SAFETY: the chunk is live and has the result's columns. Those of a chunk that was fetched are flat
            // (`QueryResult::Fetch`): each has as many values of its type in a row, and, where any is missing, a bit for each.
            unsafe {
                let vector = ffi::duckdb_data_chunk_get_vector(chunk.raw(), index as u64);
                let values = ffi::duckdb_vector_get_data(vector)
                    .cast_const()
                    .cast::<u8>();
                let mask = ffi::duckdb_vector_get_validity(vector);
                let mask = (!mask.is_null())
                    .then(|| slice::from_raw_parts(mask.cast_const(), rows.div_ceil(64)));
                column.note_validity(mask, self.rows, rows);
                column.values.append(values, mask, rows)?;
            }
        }
        self.rows += rows;
        Ok(())
    }

    /// What was gathered, as one batch; `None` where that is nothing. Makes room for `rows` more, or for as many as there were
    /// where these are fewer: a message's memory counts as it is, and wide rows make short ones.
    pub(crate) fn take(&mut self, rows: usize) -> Result<Option<RecordBatch>> {
        let taken = std::mem::take(&mut self.rows);
        if taken == 0 {
            return Ok(None);
        }
        let rows = rows.min(taken);
        let columns = self.columns.iter_mut();
        let arrays = columns.map(|column| column.take(taken, rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(taken));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map(Some)
            .map_err(arrow_error)
    }
}

impl PlainColumn {
    fn new(data_type: &DataType, logical: &LogicalType) -> Option<Self> {
        Some(Self {
            data_type: data_type.clone(),
            values: Values::new(data_type, logical)?,
            validity: None,
        })
    }

    fn bytes(&self) -> usize {
        match &self.values {
            Values::Fixed { bytes, .. } => bytes.len(),
            Values::Bits(bits) => bits.len().div_ceil(8),
            Values::Decimals { wide, .. } => size_of_val(&wide[..]),
            Values::Texts { ends, bytes } => size_of_val(&ends[..]) + bytes.len(),
        }
    }

    /// Notes which of `rows` values behind `before` others are there: all, or those of the mask.
    fn note_validity(&mut self, mask: Option<&[u64]>, before: usize, rows: usize) {
        match (mask, &mut self.validity) {
            (None, None) => {}
            (None, Some(validity)) => validity.append_n(rows, true),
            (Some(mask), validity) => validity
                .get_or_insert_with(|| {
                    let mut all = BooleanBufferBuilder::new(before + rows);
                    all.append_n(before, true);
                    all
                })
                .append_packed_range(0..rows, mask.to_byte_slice()),
        }
    }

    /// The `taken` values that were gathered. Makes room for `rows` more.
    fn take(&mut self, taken: usize, rows: usize) -> ArrayRef {
        let validity = self.validity.take();
        let array = ArrayData::builder(self.data_type.clone())
            .len(taken)
            .buffers(self.values.take(rows))
            .nulls(validity.map(|mut bits| NullBuffer::new(bits.finish())));
        // SAFETY: the buffers have as many values, and an end for each text, in order; what DuckDB has as text is UTF-8.
        make_array(unsafe { array.build_unchecked() })
    }
}

impl Values {
    /// Where values of a type go that DuckDB exports as this one; `None` where that is more than to copy them.
    fn new(data_type: &DataType, logical: &LogicalType) -> Option<Self> {
        let fixed = |width| Self::Fixed {
            width,
            bytes: MutableBuffer::default(),
        };
        Some(match (logical.id(), data_type) {
            (ffi::DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN, DataType::Boolean) => {
                Self::Bits(BooleanBufferBuilder::new(0))
            }
            (ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR, DataType::Utf8)
            | (ffi::DUCKDB_TYPE_DUCKDB_TYPE_BLOB, DataType::Binary) => Self::Texts {
                ends: vec![0],
                bytes: Vec::new(),
            },
            (ffi::DUCKDB_TYPE_DUCKDB_TYPE_DECIMAL, DataType::Decimal128(digits, _)) => match digits
            {
                0..=4 => Self::decimals(2),
                5..=9 => Self::decimals(4),
                10..=18 => Self::decimals(8),
                _ => fixed(16),
            },
            (id, data_type) if ALIKE.contains(&id) => fixed(data_type.primitive_width()?),
            _ => return None,
        })
    }

    fn decimals(width: usize) -> Self {
        Self::Decimals {
            width,
            wide: Vec::new(),
        }
    }

    /// The buffers of an array. Makes room for `rows` more values.
    fn take(&mut self, rows: usize) -> Vec<Buffer> {
        match self {
            Self::Fixed { width, bytes } => {
                let room = MutableBuffer::new(*width * rows);
                vec![std::mem::replace(bytes, room).into()]
            }
            Self::Bits(bits) => vec![bits.finish().into_inner()],
            Self::Decimals { wide, .. } => {
                let room = Vec::with_capacity(rows);
                vec![std::mem::replace(wide, room).into()]
            }
            Self::Texts { ends, bytes } => {
                let mut first = Vec::with_capacity(rows + 1);
                first.push(0);
                let room = if rows == 0 { 0 } else { bytes.len() };
                let room = Vec::with_capacity(room.min(MOST_ROOM_BYTES));
                vec![
                    std::mem::replace(ends, first).into(),
                    std::mem::replace(bytes, room).into(),
                ]
            }
        }
    }

    /// Adds `rows` values.
    ///
    /// # Safety
    /// There are `rows` values at `source`, as a flat vector of the column's type has them, and the mask says which are there.
    unsafe fn append(
        &mut self,
        source: *const u8,
        mask: Option<&[u64]>,
        rows: usize,
    ) -> Result<()> {
        match self {
            Self::Fixed { width, bytes } => {
                // SAFETY: the vector has so many values of this width.
                unsafe { append_present(bytes, source, *width, rows, words(mask)) }
            }
            Self::Bits(bits) => {
                let mut cleared = MutableBuffer::default();
                // SAFETY: the vector has `rows` values of a byte each.
                let flags = unsafe { present(source, mask, 1, rows, &mut cleared) };
                let packed: Vec<u8> = flags.chunks(8).map(packed).collect();
                bits.append_packed_range(0..rows, &packed);
            }
            Self::Decimals { width, wide } => {
                let mut cleared = MutableBuffer::default();
                // SAFETY: the vector has so many values of this width.
                let narrow = unsafe { present(source, mask, *width, rows, &mut cleared) };
                match *width {
                    2 => wide.extend(widened(narrow, i16::from_ne_bytes)),
                    4 => wide.extend(widened(narrow, i32::from_ne_bytes)),
                    _ => wide.extend(widened(narrow, i64::from_ne_bytes)),
                }
            }
            Self::Texts { ends, bytes } => {
                // SAFETY: the vector has `rows` texts, aligned as it is; a union may have any bytes.
                let texts = unsafe { slice::from_raw_parts(source.cast(), rows) };
                // SAFETY: those that the mask does not rule out are live for as long as the chunk.
                unsafe { append_texts(ends, bytes, texts, mask)? }
            }
        }
        Ok(())
    }
}

/// The words of a mask; none where all values are there.
fn words(mask: Option<&[u64]>) -> impl Iterator<Item = u64> {
    mask.unwrap_or_default().iter().copied()
}

/// `rows` values of `width` bytes each: where they are, or, where some are missing, as a copy with zeros for these.
///
/// # Safety
/// There are `rows` values at `source`, initialised where the mask does not rule them out.
unsafe fn present<'a>(
    source: *const u8,
    mask: Option<&[u64]>,
    width: usize,
    rows: usize,
    copy: &'a mut MutableBuffer,
) -> &'a [u8] {
    if mask.is_none() {
        // SAFETY: all of them are initialised.
        return unsafe { slice::from_raw_parts(source, rows * width) };
    }
    // SAFETY: as the caller says.
    unsafe { append_present(copy, source, width, rows, words(mask)) };
    copy.as_slice()
}

/// Eight booleans, or fewer, as bits.
fn packed(flags: &[u8]) -> u8 {
    let flags = flags.iter().rev();
    flags.fold(0, |bits, &flag| bits << 1 | u8::from(flag != 0))
}

fn widened<const N: usize, T: Into<i128>>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> T,
) -> impl Iterator<Item = i128> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(move |&bytes| value(bytes).into())
}

/// Adds texts, and where each ends.
///
/// # Safety
/// The texts that the mask does not rule out are live.
unsafe fn append_texts(
    ends: &mut Vec<i32>,
    bytes: &mut Vec<u8>,
    texts: &[ffi::duckdb_string_t],
    mask: Option<&[u64]>,
) -> Result<()> {
    let is_there = |row: usize| mask.is_none_or(|mask| mask[row / 64] >> (row % 64) & 1 == 1);
    // SAFETY: both kinds of text begin with their length.
    let length = |text: &ffi::duckdb_string_t| unsafe { text.value.inlined.length };
    let there = || texts.iter().enumerate().filter(|(row, _)| is_there(*row));
    let all: usize = there().map(|(_, text)| length(text) as usize).sum();
    let mut end = bytes.len();
    let last = i32::try_from(end + all).map_err(|_| too_much_text())?;
    // A short text is copied with all the bytes of its place.
    bytes.reserve(all + INLINED_BYTES);
    ends.reserve(texts.len());
    for (row, text) in texts.iter().enumerate() {
        if is_there(row) {
            let length = length(text) as usize;
            // SAFETY: the length tells which kind of text it is, and all of it is live; there is room for all of them.
            unsafe {
                let target = bytes.as_mut_ptr().add(end).cast::<c_char>();
                if length <= INLINED_BYTES {
                    let source = text.value.inlined.inlined.as_ptr();
                    target.copy_from_nonoverlapping(source, INLINED_BYTES);
                } else {
                    target.copy_from_nonoverlapping(text.value.pointer.ptr, length);
                }
            }
            end += length;
        }
        ends.push(i32::try_from(end).unwrap_or(last));
    }
    // SAFETY: so many were written.
    unsafe { bytes.set_len(end) };
    Ok(())
}

fn too_much_text() -> SqlError {
    let message = "the texts of some thousand rows come to more than the 2 GiB that a message holds: select fewer columns, \
                   or parts of them";
    SqlError::new(SqlErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;

    use super::super::nulls::tests::assert_cleared;
    use super::*;
    use crate::engine::Lossless;
    use crate::engine::ffi::{Connection, Database};
    use crate::engine::storage::open::lossless;

    /// The columns of tests: each type that is gathered, with values near its ends.
    const TYPES: &[&str] = &[
        "(i % 3 = 0)",
        "(i % 255 - 127)::TINYINT",
        "(i * 7 - 32768)::SMALLINT",
        "(i * -300000)::INTEGER",
        "hash(i)::UBIGINT",
        "(i % 256)::UTINYINT",
        "(i * 9)::USMALLINT",
        "(i * 600001)::UINTEGER",
        "(i * -90071992547409)::BIGINT",
        "(i * i)::HUGEINT * -9007199254740993 * 1000",
        "(i / 3)::FLOAT",
        "CASE i % 3 WHEN 0 THEN 'nan'::DOUBLE WHEN 1 THEN -0.0 ELSE i / 7 END",
        "(i / 10)::DECIMAL(4, 1)",
        "(-i / 10)::DECIMAL(9, 1)",
        "(i * -1000003 / 7)::DECIMAL(18, 3)",
        "(i * -1000003)::DECIMAL(38, 9)",
        "DATE '1970-01-01' - i::INTEGER",
        "TIME '00:00:00' + to_seconds(i)",
        "make_timestamp(i * -999999937)",
        "make_timestamp(i * 999999937)::TIMESTAMP_S",
        "make_timestamp(i * 999999937)::TIMESTAMP_MS",
        "make_timestamp_ns(i * -999999937)",
        "make_timestamp(i * 999999937)::TIMESTAMPTZ",
        "repeat('x', (i % 40)::INTEGER)",
        "repeat('ü€', (i % 7)::INTEGER)",
        "repeat('x', (i % 40)::INTEGER)::BLOB",
        "('[' || i || ']')::JSON",
    ];

    fn connect() -> (Connection, Lossless) {
        let database = Database::open(":memory:", &[]).unwrap();
        let lossless = lossless(&database).unwrap();
        (database.connect().unwrap(), lossless)
    }

    /// The rows of a query, gathered to batches of `rows` and more, with room for `room` behind each.
    fn gathered(sql: &str, rows: usize, room: usize) -> Vec<RecordBatch> {
        let (connection, lossless) = connect();
        let statement = connection.parse(sql).unwrap().last_statement().unwrap();
        let result = statement.unwrap().execute().unwrap();
        let mut batches = result.into_batches(&lossless.options).unwrap();
        let mut columns = batches.plain_columns().expect("plain columns");
        let mut taken = Vec::new();
        while let Some(chunk) = batches.next_chunk().unwrap() {
            columns.append(&chunk).unwrap();
            if columns.rows() >= rows {
                taken.extend(columns.take(room).unwrap());
            }
        }
        taken.extend(columns.take(0).unwrap());
        taken
    }

    /// The rows of a query as DuckDB exports them, chunk by chunk.
    fn exported(sql: &str) -> Vec<RecordBatch> {
        let (connection, lossless) = connect();
        let statement = connection.parse(sql).unwrap().last_statement().unwrap();
        let result = statement.unwrap().execute().unwrap();
        let mut batches = result.into_batches(&lossless.options).unwrap();
        let mut all = Vec::new();
        while let Some(batch) = batches.next_batch().unwrap() {
            all.push(batch);
        }
        all
    }

    /// Sees that what is missing is zero.
    fn assert_all_cleared(batches: &[RecordBatch]) {
        for column in batches.iter().flat_map(RecordBatch::columns) {
            assert_cleared(column, &|_| true);
        }
    }

    #[test]
    fn gathered_rows_are_those_that_duckdb_exports() {
        let some = |column: &&str| format!("CASE WHEN i % 7 > 2 OR i > 5000 THEN {column} END");
        let none = |column: &&str| format!("CASE WHEN i < 0 THEN {column} END");
        let all: Vec<_> = TYPES
            .iter()
            .flat_map(|column| [column.to_string(), some(column), none(column)])
            .collect();
        let sql = format!("SELECT {} FROM range(7000) AS r(i)", all.join(", "));
        // Chunks of uneven lengths, too.
        for sql in [sql.clone(), format!("{sql} WHERE hash(i) % 5 > 1")] {
            let exported = exported(&sql);
            assert_all_cleared(&exported);
            let exported = concat_batches(&exported[0].schema(), &exported).unwrap();
            for rows in [1, 3000, 100_000] {
                let taken = gathered(&sql, rows, rows);
                for column in taken.iter().flat_map(RecordBatch::columns) {
                    column.to_data().validate_full().unwrap();
                }
                assert_all_cleared(&taken);
                let all = concat_batches(&taken[0].schema(), &taken).unwrap();
                assert_eq!(all, exported, "{rows} rows at a time");
            }
        }
    }

    #[test]
    fn values_that_duckdb_exports_are_zero_where_they_are_missing_in_others_too() {
        let nested = [
            "to_seconds(i)",
            "(i * 3)::UHUGEINT",
            "'12:34:56+02'::TIMETZ",
            "uuid()",
            "CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END::ENUM ('a', 'b')",
            "{'a': i, 'b': {'c': i * 1.5, 'd': [i]}}",
            "[i, CASE WHEN i % 3 > 0 THEN i END]",
            "MAP {i: CASE WHEN i % 3 > 0 THEN i END}",
            "union_value(a := CASE WHEN i % 3 > 0 THEN i END)::UNION(a BIGINT, b INTERVAL)",
        ];
        let arrays = [
            ("[i, CASE WHEN i % 3 > 0 THEN i END, i + 1]", "BIGINT[3]"),
            ("[{'a': i}, {'a': i + 1}]", "STRUCT(a BIGINT)[2]"),
        ];
        let some = |column: &str| format!("CASE WHEN i % 7 > 2 THEN {column} END");
        let arrays = arrays.map(|(lists, array)| format!("({})::{array}", some(lists)));
        let some = [&nested.map(some)[..], &arrays[..]].concat();
        // With a type that Arrow has no equal for, and without.
        for columns in [&some[..], &[&some[..1], &some[3..]].concat()] {
            let exported = exported(&format!(
                "SELECT {} FROM range(7000) AS r(i)",
                columns.join(", ")
            ));
            assert!(exported.len() > 1);
            assert_all_cleared(&exported);
        }
    }

    #[test]
    fn no_more_room_is_made_than_the_rows_before_took() {
        let columns: Vec<_> = (0..100).map(|column| format!("i + {column}")).collect();
        let sql = format!("SELECT {} FROM range(20480) AS r(i)", columns.join(", "));
        for batch in gathered(&sql, 2048, 16_384) {
            let bytes = batch.num_rows() * columns.len() * size_of::<i64>();
            assert_eq!(batch.get_array_memory_size() / bytes, 1);
        }
    }

    #[test]
    fn rows_without_a_plain_type_are_left_to_duckdb() {
        let (connection, lossless) = connect();
        for column in [
            "INTERVAL 1 DAY",
            "[1]",
            "uuid()",
            "'a'::ENUM('a')",
            "'1'::BIT",
        ] {
            let sql = format!("SELECT 1, {column}");
            let statement = connection.parse(&sql).unwrap().last_statement().unwrap();
            let result = statement.unwrap().execute().unwrap();
            let batches = result.into_batches(&lossless.options).unwrap();
            assert!(batches.plain_columns().is_none(), "{column}");
        }
    }

    #[test]
    fn no_rows_are_no_batch() {
        assert!(gathered("SELECT 42 WHERE false", 1, 1).is_empty());
    }
}
