//! Values that Arrow's types hold by their bits, and DuckDB's do not.

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, PrimitiveArray};
use arrow::datatypes::*;

use super::super::ranges::Range;

/// Whether a type has values that DuckDB's has not.
pub(super) fn has_range(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..)
    )
}

/// The first date, time or timestamp that is none of DuckDB's.
pub(super) fn first_out_of_range(array: &ArrayRef) -> Option<usize> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    match array.data_type() {
        DataType::Date32 => outside::<Date32Type>(array, Range::of_dates()),
        DataType::Time32(Second) => outside::<Time32SecondType>(array, Range::of_times(Second)),
        DataType::Time32(unit) => outside::<Time32MillisecondType>(array, Range::of_times(*unit)),
        DataType::Time64(Nanosecond) => {
            outside::<Time64NanosecondType>(array, Range::of_times(Nanosecond))
        }
        DataType::Time64(unit) => outside::<Time64MicrosecondType>(array, Range::of_times(*unit)),
        DataType::Timestamp(unit, _) => {
            let range = Range::of_timestamps(*unit);
            match unit {
                Second => outside::<TimestampSecondType>(array, range),
                Millisecond => outside::<TimestampMillisecondType>(array, range),
                Microsecond => outside::<TimestampMicrosecondType>(array, range),
                Nanosecond => outside::<TimestampNanosecondType>(array, range),
            }
        }
        _ => None,
    }
}

fn outside<T: ArrowPrimitiveType>(array: &ArrayRef, range: Range) -> Option<usize>
where
    T::Native: Into<i64>,
{
    first(array.as_primitive_opt::<T>()?, |value| {
        !range.holds(value.into())
    })
}

/// The first decimal with more digits than its type says.
pub(super) fn first_too_long(array: &ArrayRef) -> Option<usize> {
    match array.data_type() {
        DataType::Decimal32(digits, _) => too_long::<Decimal32Type>(array, *digits),
        DataType::Decimal64(digits, _) => too_long::<Decimal64Type>(array, *digits),
        DataType::Decimal128(digits, _) => too_long::<Decimal128Type>(array, *digits),
        DataType::Decimal256(digits, _) => too_long::<Decimal256Type>(array, *digits),
        _ => None,
    }
}

fn too_long<T: DecimalType>(array: &ArrayRef, digits: u8) -> Option<usize> {
    let limit = T::Native::usize_as(10).pow_wrapping(digits.into());
    let floor = limit.neg_wrapping();
    first(array.as_primitive_opt::<T>()?, |value| {
        value.is_ge(limit) | value.is_le(floor)
    })
}

/// The first value that is one of these.
fn first<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    is_one: impl Fn(T::Native) -> bool,
) -> Option<usize> {
    // Without a look at the nulls and without a branch, for mostly there is none.
    let values = array.values().iter();
    if !values.fold(false, |found, &value| found | is_one(value)) {
        return None;
    }
    array.iter().position(|value| value.is_some_and(&is_one))
}
