//! What stands where values are missing: zeros.
//!
//! DuckDB allocates its vectors and Arrow's buffers without clearing them, and where a value is NULL it mostly writes none: what
//! stands there is whatever that memory held before, such as rows of another client. It would go out with the result.

use arrow::array::{ArrayData, BooleanBufferBuilder};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer};
use arrow::datatypes::DataType;

/// The bytes of a view of a text.
const VIEW_BYTES: usize = 16;

/// Adds `rows` values of `width` bytes each, but zeros where they are missing: each word of `there` has a bit for 64 of them,
/// and what it has no bit for is there.
///
/// # Safety
/// From `source` on there is memory for `rows` values, initialised where they are not missing.
pub(super) unsafe fn append_present(
    bytes: &mut MutableBuffer,
    source: *const u8,
    width: usize,
    rows: usize,
    there: impl Iterator<Item = u64>,
) {
    let (before, added) = (bytes.len(), rows * width);
    bytes.reserve(added);
    // SAFETY: there is room for them. They are copied untyped, initialised or not; those that may not be are then written.
    unsafe {
        let target = bytes.as_mut_ptr().add(before);
        target.copy_from_nonoverlapping(source, added);
        match width {
            1 => clear_missing(target, 1, rows, there),
            2 => clear_missing(target, 2, rows, there),
            4 => clear_missing(target, 4, rows, there),
            8 => clear_missing(target, 8, rows, there),
            16 => clear_missing(target, 16, rows, there),
            _ => clear_missing(target, width, rows, there),
        }
        bytes.set_len(before + added);
    }
}

/// Writes zeros where values are missing. Inlined, so that a width that is known is one store.
///
/// # Safety
/// There is memory for `rows` values of this width.
#[inline(always)]
unsafe fn clear_missing(
    values: *mut u8,
    width: usize,
    rows: usize,
    there: impl Iterator<Item = u64>,
) {
    for (first, there) in (0..rows).step_by(64).zip(there) {
        let count = (rows - first).min(64);
        let mut missing = !there & u64::MAX >> (64 - count);
        if missing == u64::MAX {
            // SAFETY: there are 64 more.
            unsafe { values.add(first * width).write_bytes(0, 64 * width) };
            continue;
        }
        while missing != 0 {
            let row = first + missing.trailing_zeros() as usize;
            // SAFETY: it is one of them.
            unsafe { values.add(row * width).write_bytes(0, width) };
            missing &= missing - 1;
        }
    }
}

/// The array with zeros where values of a fixed width are missing, in all that it holds. The rest is shared.
pub(super) fn cleared(data: ArrayData) -> ArrayData {
    cleared_below(data, None)
}

/// As [`cleared`]; values whose parent is missing in `above` count as missing as well.
fn cleared_below(data: ArrayData, above: Option<&NullBuffer>) -> ArrayData {
    let there = NullBuffer::union(above, data.nulls()).filter(|there| there.null_count() > 0);
    if there.is_none() && data.child_data().is_empty() {
        return data;
    }
    let (data_type, len, nulls, offset, mut buffers, children) = data.into_parts();
    if let Some(there) = &there {
        if data_type == DataType::Boolean {
            buffers[0] = present_bits(&buffers[0], offset, there);
        } else if let Some(width) = width(&data_type) {
            buffers[0] = present_values(&buffers[0], offset, width, there);
        }
    }
    // What a list or a map that is missing may have is not exported; members of a union have their own nulls.
    let each = match &data_type {
        DataType::Struct(_) => Some(1),
        DataType::FixedSizeList(_, size) => usize::try_from(*size).ok(),
        _ => None,
    };
    let children = children.into_iter().map(|child| {
        let above = there.as_ref().zip(each);
        let above = above.map(|(there, each)| spread(there, offset, each, child.len()));
        cleared_below(child, above.as_ref())
    });
    let array = ArrayData::builder(data_type)
        .len(len)
        .offset(offset)
        .nulls(nulls)
        .buffers(buffers)
        .child_data(children.collect());
    // SAFETY: it was an array of this type; only values that are missing are others, and zeros are values of their types.
    unsafe { array.build_unchecked() }
}

/// How many bytes each value has in the first buffer, where that is a fixed number.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => Some(VIEW_BYTES),
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        DataType::Dictionary(keys, _) => keys.primitive_width(),
        other => other.primitive_width(),
    }
}

fn present_values(values: &Buffer, offset: usize, width: usize, there: &NullBuffer) -> Buffer {
    let rows = there.len();
    let values = values.slice_with_length(offset * width, rows * width);
    let mut present = MutableBuffer::with_capacity((offset + rows) * width);
    present.extend_zeros(offset * width);
    let there = there.inner().bit_chunks().iter_padded();
    // SAFETY: the buffer has `rows` values from `offset` on.
    unsafe { append_present(&mut present, values.as_ptr(), width, rows, there) };
    present.into()
}

fn present_bits(bits: &Buffer, offset: usize, there: &NullBuffer) -> Buffer {
    let bits = BooleanBuffer::new(bits.clone(), offset, there.len());
    let mut present = BooleanBufferBuilder::new(offset + there.len());
    present.append_n(offset, false);
    present.append_buffer(&(&bits & there.inner()));
    present.finish().into_inner()
}

/// Which children have a parent that is there, where each value from `offset` on has `each` of them. The others are nobody's.
fn spread(there: &NullBuffer, offset: usize, each: usize, children: usize) -> NullBuffer {
    let there = match each {
        1 => there.clone(),
        _ => there.expand(each),
    };
    if offset == 0 && there.len() == children {
        return there;
    }
    let mut all = BooleanBufferBuilder::new(children);
    all.append_n(offset * each, false);
    all.append_buffer(there.inner());
    all.append_n(children - all.len(), false);
    NullBuffer::new(all.finish())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray,
        FixedSizeBinaryArray, FixedSizeListArray, Int8Array, Int16Array, Int32Array, Int64Array,
        ListArray, MapArray, StringArray, StringViewArray, StructArray, UnionArray, make_array,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Fields, Int8Type, UnionFields};

    use super::*;

    /// Sees that there are zeros where values are missing, or those above them.
    pub(crate) fn assert_cleared(array: &dyn Array, above: &dyn Fn(usize) -> bool) {
        let there = |row: usize| above(row) && array.is_valid(row);
        let all = |_: usize| true;
        match array.data_type() {
            DataType::Struct(_) => {
                for column in array.as_struct().columns() {
                    assert_cleared(column, &there);
                }
            }
            DataType::FixedSizeList(_, size) => {
                let size = usize::try_from(*size).unwrap();
                let items = array.as_fixed_size_list().values();
                assert_cleared(items, &|item| there(item / size));
            }
            DataType::List(_) => assert_cleared(array.as_list::<i32>().values(), &all),
            DataType::Map(..) => assert_cleared(array.as_map().entries(), &all),
            DataType::Union(members, _) => {
                for (id, _) in members.iter() {
                    assert_cleared(array.as_union().child(id), &all);
                }
            }
            DataType::Dictionary(..) => {
                assert_cleared(array.as_any_dictionary().keys(), &there);
            }
            DataType::Boolean => {
                let is_set = |row: &usize| array.as_boolean().values().value(*row);
                let missing = (0..array.len()).filter(|row| !there(*row));
                assert_eq!(missing.filter(is_set).count(), 0);
            }
            data_type => {
                let Some(width) = width(data_type) else {
                    return;
                };
                let data = array.to_data();
                let values = &data.buffers()[0].as_slice()[data.offset() * width..];
                for row in (0..array.len()).filter(|row| !there(*row)) {
                    let value = &values[row * width..][..width];
                    assert!(value.iter().all(|byte| *byte == 0), "{data_type} {row}");
                }
            }
        }
    }

    const ROWS: usize = 300;

    /// Runs of values that are there, that are missing, and of both.
    fn some() -> Option<NullBuffer> {
        let is_there = |row: usize| row < 70 || row > 200 && !row.is_multiple_of(3);
        Some((0..ROWS).map(is_there).collect::<Vec<_>>().into())
    }

    fn numbers(rows: usize) -> Vec<i64> {
        (0..rows as i64).map(|row| -1 - row).collect()
    }

    /// Arrays of each width with other values than zero where they are missing.
    fn plain() -> Vec<ArrayRef> {
        let texts = StringViewArray::from(vec!["longer than what a view holds"; ROWS]);
        let (views, buffers, _) = texts.into_parts();
        let keys = Int8Array::new(vec![1; ROWS].into(), some());
        let words: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        vec![
            Arc::new(BooleanArray::new(vec![true; ROWS].into(), some())),
            Arc::new(Int8Array::new(vec![-1; ROWS].into(), some())),
            Arc::new(Int16Array::new(vec![-1; ROWS].into(), some())),
            Arc::new(Int32Array::new(vec![-1; ROWS].into(), some())),
            Arc::new(Int64Array::new(numbers(ROWS).into(), some())),
            Arc::new(Decimal128Array::new(vec![-1; ROWS].into(), some())),
            Arc::new(FixedSizeBinaryArray::new(
                3,
                vec![7_u8; 3 * ROWS].into(),
                some(),
            )),
            Arc::new(StringViewArray::new(views, buffers, some())),
            Arc::new(DictionaryArray::<Int8Type>::new(keys, words)),
        ]
    }

    fn field(name: &str, array: &dyn Array) -> Field {
        Field::new(name, array.data_type().clone(), true)
    }

    /// Arrays of arrays, with values where those that hold them are missing.
    fn nested() -> Vec<ArrayRef> {
        let all: ArrayRef = Arc::new(Int64Array::from(numbers(ROWS)));
        let part: ArrayRef = Arc::new(Int64Array::new(numbers(ROWS).into(), some()));
        let wide: ArrayRef = Arc::new(Int32Array::from(vec![-1; 3 * ROWS]));
        let item = Arc::new(field("item", &wide));
        let arrays: ArrayRef = Arc::new(FixedSizeListArray::new(item, 3, wide, some()));
        let inner = vec![all.clone(), part.clone(), arrays.clone()];
        let fields = ["all", "part", "arrays"].into_iter().zip(&inner);
        let fields: Fields = fields.map(|(name, array)| field(name, array)).collect();
        let structs: ArrayRef = Arc::new(StructArray::new(fields, inner, some()));
        let item = Arc::new(field("item", &structs));
        let ends = OffsetBuffer::from_lengths(vec![1; ROWS]);
        let lists: ArrayRef = Arc::new(ListArray::new(item, ends.clone(), structs.clone(), None));
        let entries = vec![
            (Arc::new(Field::new("keys", DataType::Int64, false)), all),
            (Arc::new(field("values", &structs)), structs.clone()),
        ];
        let entries = StructArray::from(entries);
        let item = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        let maps: ArrayRef = Arc::new(MapArray::new(item, ends, entries, some(), false));
        let members = [(0, Arc::new(field("part", &part)))];
        let members: UnionFields = members.into_iter().collect();
        let union = UnionArray::try_new(members, vec![0_i8; ROWS].into(), None, vec![part]);
        let unions: ArrayRef = Arc::new(union.unwrap());
        vec![arrays, structs, lists, maps, unions]
    }

    /// Clears an array, which must stay equal.
    fn check(data: ArrayData) {
        let before = make_array(data.clone());
        let after = make_array(cleared(data));
        after.to_data().validate_full().unwrap();
        assert_eq!(&after, &before);
        assert_cleared(&after, &|_| true);
    }

    const SLICES: &[(usize, usize)] = &[(0, ROWS), (0, 0), (1, 1), (69, 64), (3, 250), (299, 1)];

    #[test]
    fn what_is_missing_is_zero_whole_and_sliced() {
        for array in plain().into_iter().chain(nested()) {
            for &(offset, rows) in SLICES {
                check(array.slice(offset, rows).to_data());
            }
        }
    }

    #[test]
    fn an_offset_counts_for_values_and_for_what_they_hold() {
        let arrays = plain().into_iter().chain(nested());
        // Arrow's slices of these have offsets of their own.
        for array in arrays.filter(|array| !matches!(array.data_type(), DataType::Struct(_))) {
            for &(offset, rows) in SLICES {
                check(array.to_data().slice(offset, rows));
            }
        }
        let structs = nested()[1].to_data();
        let nulls = structs.nulls().unwrap().slice(65, 200);
        let part = ArrayData::builder(structs.data_type().clone())
            .len(200)
            .offset(65)
            .nulls(Some(nulls))
            .child_data(structs.child_data().to_vec());
        check(part.build().unwrap());
    }

    #[test]
    fn an_array_without_nulls_is_not_copied() {
        let array = Int64Array::from(numbers(ROWS)).to_data();
        let values = array.buffers()[0].as_ptr();
        assert_eq!(cleared(array).buffers()[0].as_ptr(), values);
    }
}
