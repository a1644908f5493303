//! How large a batch becomes once every value stands for itself.

use arrow::array::{Array, ArrayData, AsArray, make_array};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType};

/// The length of the longest array in a column, its children included.
pub(super) fn longest(data: &ArrayData) -> usize {
    data.child_data()
        .iter()
        .map(longest)
        .max()
        .unwrap_or(0)
        .max(data.len())
}

/// The bytes that a column's views, dictionary keys, runs and list views refer to, each as often as it does. Zero
/// for what is spelled out already: the message bounds it.
pub(super) fn spelled_out_bytes(data: &ArrayData) -> usize {
    let array = make_array(data.clone());
    let children = || {
        data.child_data()
            .iter()
            .map(spelled_out_bytes)
            .fold(0, usize::saturating_add)
    };
    match data.data_type() {
        DataType::Utf8View => sum(array.as_string_view().lengths()),
        DataType::BinaryView => sum(array.as_binary_view().lengths()),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                return 0;
            }
            let sizes = value_sizes(&dictionary.values().to_data());
            let keys = dictionary.normalized_keys();
            let size =
                |(row, key): (usize, usize)| if array.is_null(row) { 0 } else { sizes.of(key) };
            keys.into_iter()
                .enumerate()
                .map(size)
                .fold(0, usize::saturating_add)
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_bytes::<Int16Type>(&array),
            DataType::Int32 => run_bytes::<Int32Type>(&array),
            _ => run_bytes::<Int64Type>(&array),
        },
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let values = sum(list.sizes().iter().map(|size| size.unsigned_abs()));
            values.saturating_mul(value_sizes(&list.values().to_data()).largest())
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let sizes = list
                .sizes()
                .iter()
                .map(|size| usize::try_from(*size).unwrap_or(usize::MAX));
            let values = sizes.fold(0, usize::saturating_add);
            values.saturating_mul(value_sizes(&list.values().to_data()).largest())
        }
        _ => children(),
    }
}

fn run_bytes<R: RunEndIndexType>(array: &dyn Array) -> usize {
    let Some(runs) = array.as_run_opt::<R>() else {
        return 0;
    };
    let sizes = value_sizes(&runs.values().to_data());
    let mut start = 0;
    let mut bytes = 0_usize;
    for (index, end) in runs.run_ends().values().iter().enumerate() {
        let end = num_end(*end);
        bytes = bytes.saturating_add((end - start.min(end)).saturating_mul(sizes.of(index)));
        start = end;
    }
    bytes
}

fn num_end(end: impl arrow::datatypes::ArrowNativeType) -> usize {
    end.as_usize()
}

/// The bytes of each value of an array.
enum Sizes {
    Each(Vec<usize>),
    /// An upper bound for every one.
    AtMost(usize),
}

impl Sizes {
    fn of(&self, index: usize) -> usize {
        match self {
            Self::Each(sizes) => sizes.get(index).copied().unwrap_or(0),
            Self::AtMost(size) => *size,
        }
    }

    fn largest(&self) -> usize {
        match self {
            Self::Each(sizes) => sizes.iter().copied().max().unwrap_or(0),
            Self::AtMost(size) => *size,
        }
    }
}

fn value_sizes(data: &ArrayData) -> Sizes {
    let array = make_array(data.clone());
    let each = |lengths: Vec<usize>| Sizes::Each(lengths);
    match data.data_type() {
        DataType::Utf8 => each(array.as_string::<i32>().offsets().lengths().collect()),
        DataType::LargeUtf8 => each(array.as_string::<i64>().offsets().lengths().collect()),
        DataType::Binary => each(array.as_binary::<i32>().offsets().lengths().collect()),
        DataType::LargeBinary => each(array.as_binary::<i64>().offsets().lengths().collect()),
        DataType::Utf8View => each(
            array
                .as_string_view()
                .lengths()
                .map(|n| n as usize)
                .collect(),
        ),
        DataType::BinaryView => each(
            array
                .as_binary_view()
                .lengths()
                .map(|n| n as usize)
                .collect(),
        ),
        other => match other.primitive_width() {
            Some(width) => Sizes::AtMost(width),
            // Nested values: no one is larger than all together.
            None => Sizes::AtMost(
                array
                    .get_array_memory_size()
                    .saturating_add(spelled_out_bytes(data)),
            ),
        },
    }
}

fn sum(lengths: impl Iterator<Item = u32>) -> usize {
    lengths
        .map(|length| length as usize)
        .fold(0, usize::saturating_add)
}
