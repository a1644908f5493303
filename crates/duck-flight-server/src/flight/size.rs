//! How large a batch becomes once every value stands for itself.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, make_array};
use arrow::datatypes::{
    ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType,
};

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
            list_view_bytes(list.offsets(), list.sizes(), list.values())
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            list_view_bytes(list.offsets(), list.sizes(), list.values())
        }
        _ => children(),
    }
}

/// The bytes of the values that views show: no view has more than its size of the largest value, and all of them no
/// more than all values as often as views share one.
fn list_view_bytes<O: ArrowNativeType>(offsets: &[O], sizes: &[O], values: &ArrayRef) -> usize {
    let count = sizes
        .iter()
        .fold(0_usize, |count, size| count.saturating_add(size.as_usize()));
    let value_sizes = value_sizes(&values.to_data());
    let by_largest = count.saturating_mul(value_sizes.largest());
    let by_sharing = most_views_of_one(offsets, sizes).saturating_mul(value_sizes.all());
    by_largest.min(by_sharing)
}

/// How many views show the value that most of them show.
fn most_views_of_one<O: ArrowNativeType>(offsets: &[O], sizes: &[O]) -> usize {
    let views = offsets.iter().zip(sizes);
    let spans = views
        .map(|(offset, size)| (offset.as_usize(), size.as_usize()))
        .filter(|(_, size)| *size > 0)
        .map(|(offset, size)| (offset, offset.saturating_add(size)));
    let (mut starts, mut ends): (Vec<_>, Vec<_>) = spans.unzip();
    starts.sort_unstable();
    ends.sort_unstable();
    let mut ended = 0;
    let mut most = 0;
    for (begun, start) in starts.iter().enumerate() {
        while ends.get(ended).is_some_and(|end| end <= start) {
            ended += 1;
        }
        most = most.max(begun + 1 - ended);
    }
    most
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

fn num_end(end: impl ArrowNativeType) -> usize {
    end.as_usize()
}

/// The bytes of each value of an array.
enum Sizes {
    Each(Vec<usize>),
    /// Each of `count` values has `size` bytes.
    Same {
        size: usize,
        count: usize,
    },
    /// Upper bound for all together, and so for every one.
    Together(usize),
}

impl Sizes {
    fn of(&self, index: usize) -> usize {
        match self {
            Self::Each(sizes) => sizes.get(index).copied().unwrap_or(0),
            Self::Same { size, .. } | Self::Together(size) => *size,
        }
    }

    fn largest(&self) -> usize {
        match self {
            Self::Each(sizes) => sizes.iter().copied().max().unwrap_or(0),
            Self::Same { size, .. } | Self::Together(size) => *size,
        }
    }

    fn all(&self) -> usize {
        match self {
            Self::Each(sizes) => sizes.iter().copied().fold(0, usize::saturating_add),
            Self::Same { size, count } => size.saturating_mul(*count),
            Self::Together(size) => *size,
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
            Some(size) => Sizes::Same {
                size,
                count: data.len(),
            },
            None => {
                // Arrays that were read from one message share its buffer, which each would count as its own.
                let held = data.get_slice_memory_size();
                let held = held.unwrap_or_else(|_| array.get_array_memory_size());
                Sizes::Together(held.saturating_add(spelled_out_bytes(data)))
            }
        },
    }
}

fn sum(lengths: impl Iterator<Item = u32>) -> usize {
    lengths
        .map(|length| length as usize)
        .fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListViewArray, StringArray, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    /// List views of the members of structs that hold a text each.
    fn list_views(texts: &[&str], offsets: Vec<i32>, sizes: Vec<i32>) -> ArrayData {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let field = Arc::new(Field::new("s", DataType::Utf8, true));
        let structs = StructArray::from(vec![(field, texts)]);
        let element = Arc::new(Field::new("item", structs.data_type().clone(), true));
        let (offsets, sizes) = (offsets.into(), sizes.into());
        ListViewArray::new(element, offsets, sizes, Arc::new(structs), None).to_data()
    }

    #[test]
    fn views_that_share_nothing_count_their_values_once() {
        let texts = ["some text"; 1000];
        let each = (0..500).map(|view| view * 2);
        let data = list_views(&texts, each.clone().collect(), vec![2; 500]);
        let bytes = spelled_out_bytes(&data);
        assert!((9000..20_000).contains(&bytes), "{bytes}");
        // In any order.
        let data = list_views(&texts, each.rev().collect(), vec![2; 500]);
        assert_eq!(spelled_out_bytes(&data), bytes);
    }

    #[test]
    fn a_value_that_many_views_show_counts_for_each() {
        let large = "x".repeat(1000);
        let mut texts = vec!["a"; 999];
        texts.push(&large);
        let data = list_views(&texts, vec![999; 1000], vec![1; 1000]);
        assert!(spelled_out_bytes(&data) >= 1_000_000);
    }
}
