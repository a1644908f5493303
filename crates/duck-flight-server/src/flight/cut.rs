//! Large batches are cut into messages that stock clients take.

use arrow::array::RecordBatch;

use crate::engine::row_bytes;

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
    let bytes: usize = batch.columns().iter().map(row_bytes).sum();
    if bytes <= MESSAGE_BYTES || rows < 2 {
        return pieces.push(batch);
    }
    let middle = rows / 2;
    halve(batch.slice(0, middle), pieces);
    halve(batch.slice(middle, rows - middle), pieces);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, Int64Array, ListArray, StringArray,
        StructArray,
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
            let bytes: usize = piece.columns().iter().map(row_bytes).sum();
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
