//! How many bytes rows take.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, UnionArray};
use arrow::datatypes::DataType;

/// The bytes of an array's own rows, more or less, whatever its buffers hold besides. Where values are of a fixed width, or have
/// offsets, none is looked at.
pub(crate) fn row_bytes(array: &ArrayRef) -> usize {
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
        DataType::FixedSizeList(..) => row_bytes(array.as_fixed_size_list().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(row_bytes).sum(),
        DataType::Union(..) => union_bytes(array.as_any().downcast_ref::<UnionArray>()),
        DataType::Boolean => validity,
        DataType::FixedSizeBinary(width) => rows * usize::try_from(*width).unwrap_or(0),
        // Results and rows that are cast have no other types than these, but for the dictionary of an ENUM.
        other => rows * other.primitive_width().unwrap_or(0),
    };
    validity + values
}

fn lengths<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    range(offsets).len() + std::mem::size_of_val(offsets)
}

fn list_bytes<O: OffsetSizeTrait>(offsets: &[O], values: &ArrayRef) -> usize {
    let range = range(offsets);
    std::mem::size_of_val(offsets) + row_bytes(&values.slice(range.start, range.len()))
}

/// What the offsets of an array refer to.
fn range<O: OffsetSizeTrait>(offsets: &[O]) -> Range<usize> {
    let end = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    end(offsets.first())..end(offsets.last())
}

fn union_bytes(array: Option<&UnionArray>) -> usize {
    let Some(union) = array else { return 0 };
    let children = union.type_ids().iter().collect::<BTreeSet<_>>();
    let children = children.into_iter().map(|id| row_bytes(union.child(*id)));
    union.len() + children.sum::<usize>()
}

/// The bytes of a value, where all values of the type have as many.
pub(super) fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Null => Some(0),
        DataType::Boolean => Some(1),
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).ok(),
        other => other.primitive_width(),
    }
}
