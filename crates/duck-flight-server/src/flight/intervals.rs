//! Intervals of months, days and nanoseconds, and where they stand in memory.
//!
//! Arrow's reader is content with a multiple of 8 bytes. But what copies lists, maps and unions reads them as numbers of 16 bytes,
//! and panics where these would not stand at a multiple of 16.

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, IntervalUnit};
use arrow::error::ArrowError;

const ALIGNMENT: usize = 16;

/// The batch, which has these columns, with its intervals where all can read them.
pub(super) fn aligned_batch(
    batch: RecordBatch,
    columns: Vec<ArrayData>,
) -> Result<RecordBatch, ArrowError> {
    if !columns.iter().any(is_astray) {
        return Ok(batch);
    }
    let columns = columns
        .into_iter()
        .map(|column| Ok(make_array(aligned(column)?)));
    let columns = columns.collect::<Result<_, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

/// The array, with its intervals where all can read them.
pub(super) fn aligned_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(make_array(aligned(array.to_data())?))
}

fn aligned(data: ArrayData) -> Result<ArrayData, ArrowError> {
    if !is_astray(&data) {
        return Ok(data);
    }
    let buffers = data.buffers().iter();
    let buffers: Vec<_> = match is_interval(&data) {
        true => buffers
            .map(|buffer| Buffer::from(buffer.as_slice()))
            .collect(),
        false => buffers.cloned().collect(),
    };
    let children = data.child_data().iter().cloned().map(aligned);
    let children = children.collect::<Result<_, ArrowError>>()?;
    let data = data.into_builder().buffers(buffers).child_data(children);
    data.build()
}

/// Whether there are intervals in the array that do not stand where all can read them.
fn is_astray(data: &ArrayData) -> bool {
    let is_off = |buffer: &Buffer| !buffer.as_ptr().addr().is_multiple_of(ALIGNMENT);
    is_interval(data) && data.buffers().iter().any(is_off)
        || data.child_data().iter().any(is_astray)
}

fn is_interval(data: &ArrayData) -> bool {
    *data.data_type() == DataType::Interval(IntervalUnit::MonthDayNano)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, IntervalMonthDayNanoArray, ListArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, IntervalMonthDayNano};

    use super::*;

    /// Intervals that stand at a multiple of 8, but not of 16.
    fn astray() -> ArrayData {
        let values = [1, 2, 3].map(|months| IntervalMonthDayNano::new(months, 5, 7000));
        let data = IntervalMonthDayNanoArray::from(values.to_vec()).to_data();
        let bytes = [&[0; 8][..], data.buffers()[0].as_slice()].concat();
        let buffer = Buffer::from(bytes.as_slice()).slice(8);
        data.into_builder().buffers(vec![buffer]).build().unwrap()
    }

    fn list_of(data: ArrayData) -> ListArray {
        let item = Field::new_list_field(data.data_type().clone(), true);
        let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
        ListArray::new(Arc::new(item), offsets, make_array(data), None)
    }

    #[test]
    fn intervals_at_any_depth_are_moved_to_where_all_can_read_them() {
        let list = list_of(astray());
        let field = Field::new("list", list.data_type().clone(), true);
        let holder = StructArray::from(vec![(Arc::new(field), Arc::new(list) as ArrayRef)]);
        let columns: [(&str, ArrayRef); 3] = [
            ("numbers", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("intervals", make_array(astray())),
            ("inside", Arc::new(holder)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let data = |batch: &RecordBatch| -> Vec<_> {
            batch
                .columns()
                .iter()
                .map(|column| column.to_data())
                .collect()
        };
        let sent = data(&batch);
        assert_eq!(
            [0, 1, 2].map(|column| is_astray(&sent[column])),
            [false, true, true]
        );
        let moved = aligned_batch(batch.clone(), sent.clone()).unwrap();
        assert_eq!(moved, batch);
        let moved = data(&moved);
        assert!(!moved.iter().any(is_astray));
        // What is fine stays where it is.
        let address = |data: &[ArrayData]| data[0].buffers()[0].as_ptr();
        assert_eq!(address(&moved), address(&sent));
    }
}
