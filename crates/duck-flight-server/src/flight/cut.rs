//! Large batches are cut into messages that stock clients take.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch, UnionArray};
use arrow::datatypes::DataType;

/// What a message has at most, unless a single row has more: clients of gRPC take 4 MiB where nobody tells them otherwise.
const MESSAGE_BYTES: usize = 3 << 20;

/// The batch, or pieces of it that are small enough, in their order.
pub(super) fn cut(batch: RecordBatch) -> Vec<RecordBatch> {
    // What its buffers take is quickly told, and mostly little.
    if batch.get_array_memory_size() <= MESSAGE_BYTES {
        return vec![batch];
    }
    let mut pieces = Vec::new();
    halve(batch, &mut pieces);
    pieces
}

fn halve(batch: RecordBatch, pieces: &mut Vec<RecordBatch>) {
    let rows = batch.num_rows();
    let bytes: usize = batch.columns().iter().map(bytes_of).sum();
    if bytes <= MESSAGE_BYTES || rows < 2 {
        return pieces.push(batch);
    }
    let middle = rows / 2;
    halve(batch.slice(0, middle), pieces);
    halve(batch.slice(middle, rows - middle), pieces);
}

/// The bytes of an array's own rows, more or less, whatever its buffers hold besides.
fn bytes_of(array: &ArrayRef) -> usize {
    let rows = array.len();
    let validity = rows.div_ceil(8);
    let values = match array.data_type() {
        DataType::Utf8 => lengths(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => lengths(array.as_string::<i64>().value_offsets()),
        DataType::Binary => lengths(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => lengths(array.as_binary::<i64>().value_offsets()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            list_bytes(list.value_offsets(), list.values())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            list_bytes(list.value_offsets(), list.values())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            list_bytes(map.value_offsets(), &entries)
        }
        DataType::FixedSizeList(..) => bytes_of(array.as_fixed_size_list().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(bytes_of).sum(),
        DataType::Union(..) => union_bytes(array.as_any().downcast_ref::<UnionArray>()),
        DataType::Boolean => validity,
        DataType::FixedSizeBinary(width) => rows * usize::try_from(*width).unwrap_or(0),
        // The engine makes no arrays of other types than these.
        other => rows * other.primitive_width().unwrap_or(0),
    };
    validity + values
}

fn lengths<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    range(offsets).len() + std::mem::size_of_val(offsets)
}

fn list_bytes<O: OffsetSizeTrait>(offsets: &[O], values: &ArrayRef) -> usize {
    let range = range(offsets);
    std::mem::size_of_val(offsets) + bytes_of(&values.slice(range.start, range.len()))
}

/// What the offsets of an array refer to.
fn range<O: OffsetSizeTrait>(offsets: &[O]) -> Range<usize> {
    let end = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    end(offsets.first())..end(offsets.last())
}

fn union_bytes(array: Option<&UnionArray>) -> usize {
    let Some(union) = array else { return 0 };
    let children = union.type_ids().iter().collect::<BTreeSet<_>>();
    let children = children.into_iter().map(|id| bytes_of(union.child(*id)));
    union.len() + children.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, FixedSizeBinaryArray, Int64Array, ListArray, StringArray, StructArray,
    };
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Int64Type};

    use super::*;

    fn batch(array: impl Array + 'static) -> RecordBatch {
        let array: ArrayRef = Arc::new(array);
        RecordBatch::try_from_iter([("column", array)]).unwrap()
    }

    /// The rows of the pieces of a batch, which must be all of it.
    fn cut_rows(batch: &RecordBatch) -> Vec<usize> {
        let pieces = cut(batch.clone());
        for piece in &pieces {
            let bytes: usize = piece.columns().iter().map(bytes_of).sum();
            assert!(bytes <= MESSAGE_BYTES || piece.num_rows() == 1, "{bytes}");
        }
        assert_eq!(&concat_batches(batch.schema_ref(), &pieces).unwrap(), batch);
        pieces.iter().map(RecordBatch::num_rows).collect()
    }

    fn texts(lengths: impl IntoIterator<Item = usize>) -> StringArray {
        let texts = lengths.into_iter().map(|length| Some("x".repeat(length)));
        texts.collect()
    }

    #[test]
    fn a_small_batch_stays_whole() {
        assert_eq!(
            cut_rows(&batch(texts(std::iter::repeat_n(5, 1000)))),
            [1000]
        );
        assert_eq!(cut_rows(&batch(texts([]))), [0]);
    }

    #[test]
    fn rows_are_cut_by_what_they_take_not_by_their_number() {
        let long = MESSAGE_BYTES / 2;
        let rows = cut_rows(&batch(texts([long, long, 1, 1, 1, 1, 1, 1])));
        assert_eq!(rows, [1, 1, 2, 4]);
        let huge = cut_rows(&batch(texts([2 * MESSAGE_BYTES, 1])));
        assert_eq!(huge, [1, 1]);
    }

    #[test]
    fn a_part_of_a_large_array_counts_by_itself() {
        let whole = batch(texts(std::iter::repeat_n(1000, 100_000)));
        assert_eq!(cut_rows(&whole.slice(50_000, 100)), [100]);
        assert_eq!(cut_rows(&whole.slice(10, 4000)), [2000, 2000]);
    }

    #[test]
    fn nested_values_count_with_what_they_hold() {
        let long = Some(vec![Some(7); 300_000]);
        let short = || std::iter::repeat_n(Some(vec![Some(7)]), 98);
        let lists = [long.clone()].into_iter().chain(short()).chain([long]);
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        assert_eq!(cut_rows(&batch(list.clone())), [50, 50]);
        let field =
            |name, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let lists: ArrayRef = Arc::new(list);
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true; 100]));
        let fields = vec![
            (field("lists", &lists), lists),
            (field("flags", &flags), flags),
        ];
        assert_eq!(cut_rows(&batch(StructArray::from(fields))), [50, 50]);
    }

    #[test]
    fn values_of_a_fixed_width_are_cut_evenly() {
        let numbers = Int64Array::from_iter_values(0..1_000_000);
        assert_eq!(cut_rows(&batch(numbers)), [250_000; 4]);
        let values = vec![[7_u8; 16]; 300_000];
        let bytes = FixedSizeBinaryArray::try_from_iter(values.into_iter()).unwrap();
        assert_eq!(cut_rows(&batch(bytes)), [150_000; 2]);
    }
}
