//! Arrow's cast, made exact: a value that would become another one is found and refused.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type, IntervalMonthDayNanoType, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::bounds::{first_out_of_range, first_too_long, has_range};
use super::json::is_json;
use super::{Failure, is_text, plain};

/// A cast to a type, and what it may lose silently.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) target: DataType,
    pub(super) check: Check,
}

/// What tells the values that a cast changes. Those that it cannot cast at all become NULL, and are found anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    /// Cast back they must be what they were.
    Back,
    /// Dates outgrow a fine timestamp unseen; a coarse one that holds each of them goes before it.
    By(TimeUnit),
    /// A number must not become infinite.
    Finite,
    /// A text must have digits, and not more of them behind its point.
    Places(i64),
    /// The same of a time of day, which must be told as one: Arrow takes a number for what it counts times in.
    Clock(i64),
    /// A text must tell a day alone: no time of day but 0, and no zone in which it might be another day.
    Midnight,
    /// An interval must not have parts of a microsecond, which DuckDB has no place for.
    Micros,
    /// A text must be JSON.
    Json,
    /// It must not be empty.
    Filled,
}

impl Check {
    pub(super) fn of(from: &DataType, to: &DataType) -> Self {
        use DataType::{Date32, Date64, Float32, Float64, Interval, Timestamp};
        let from = plain(from);
        match (from, to) {
            (_, Interval(_)) => Self::Micros,
            (text, _) if is_text(text) => Self::of_text(to),
            (Date32, Timestamp(..)) => Self::By(TimeUnit::Second),
            (Date64, Timestamp(..)) => Self::By(TimeUnit::Millisecond),
            (Timestamp(..) | Date64, Date32) => Self::Back,
            (Float64, Float32) => Self::Finite,
            (integer, float) if integer.is_integer() && float.is_floating() => Self::Back,
            (decimal, Float32 | Float64) if decimal.is_decimal() => Self::Back,
            _ if may_round(from, to) => Self::Back,
            _ => Self::Nothing,
        }
    }

    fn of_text(to: &DataType) -> Self {
        use DataType::{Date32, Date64, Decimal128, Decimal256, Time32, Time64};
        match to {
            Date32 | Date64 => Self::Midnight,
            Time32(unit) | Time64(unit) => Self::Clock(places_of(*unit)),
            Decimal128(_, scale) | Decimal256(_, scale) => Self::Places(i64::from(*scale)),
            float if float.is_floating() => Self::Finite,
            other => unit(other).map_or(Self::Nothing, |unit| Self::Places(places_of(unit))),
        }
    }
}

impl Cast {
    /// From a type that Arrow casts to this one.
    pub(super) fn new(from: &DataType, target: &DataType) -> Self {
        Self {
            target: target.clone(),
            check: Check::of(from, target),
        }
    }

    /// Casts all values, or names the first that does not fit.
    pub(super) fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, Failure> {
        let plain_type = plain(array.data_type());
        let is_checked = self.check != Check::Nothing || plain_type.is_decimal();
        let unpacked;
        let is_encoded = plain_type != array.data_type();
        let array = if is_encoded && (is_checked || may_have_more_values(array)) {
            unpacked = cast(array, plain_type)?;
            &unpacked
        } else {
            array
        };
        // What a cast makes of a decimal with too many digits is anything.
        let too_long = first_too_long(array);
        let valid = too_long.map_or_else(|| array.clone(), |index| array.slice(0, index));
        let (cast, lost) = self.cast(&valid)?;
        if let Some(index) = lost {
            let reason = self.reason(array, index);
            return Err(Failure::Misfit { index, reason });
        }
        too_long.map_or(Ok(cast), |index| {
            let (value, data_type) = (shown(array, index), array.data_type());
            let reason = format!("`{value}` has more digits than its type {data_type}");
            Err(Failure::Misfit { index, reason })
        })
    }

    fn reason(&self, array: &ArrayRef, index: usize) -> String {
        let value = shown(array, index);
        if self.check == Check::Json {
            return format!("`{value}` is not JSON, as the table wants it");
        }
        if self.check == Check::Filled {
            return "the table's type has no value that is empty".into();
        }
        let (from, target) = (array.data_type(), &self.target);
        if from == target && has_range(target) {
            return format!("`{value}` of type {from} is outside of what DuckDB's type holds");
        }
        format!("`{value}` of type {from} does not fit {target} of the table")
    }

    /// The values as the target's, and the first that is another one there.
    fn cast(&self, array: &ArrayRef) -> Result<(ArrayRef, Option<usize>), ArrowError> {
        if let Check::By(unit) = self.check {
            let between = DataType::Timestamp(unit, None);
            let moments = cast(array, &between)?;
            return Self::new(&between, &self.target).cast(&moments);
        }
        let cast_values = cast(array, &self.target)?;
        let made_null = first_made_null(array, &cast_values);
        let lost = match self.check {
            Check::Nothing | Check::By(_) => None,
            Check::Back => {
                let back = cast(&cast_values, array.data_type())?;
                let same = not_distinct(array, &back)?;
                (0..same.len()).find(|&row| !same.value(row))
            }
            Check::Finite => first_infinite(array, &cast_values)?,
            Check::Micros => first_finer_than_micros(&cast_values),
            Check::Places(most) => first_text(array, |text| !has_places(text, most))?,
            Check::Clock(most) => {
                first_text(array, |text| !text.contains(':') || !has_places(text, most))?
            }
            Check::Midnight => first_text(array, has_time)?,
            Check::Json => first_text(&cast_values, |text| !is_json(text.as_bytes()))?,
            Check::Filled => first_empty(&cast_values),
        };
        let outside = match has_range(&self.target) {
            true => first_out_of_range(&cast_values),
            false => None,
        };
        // Counted in finer units, a time that is none may overflow and become one.
        let no_time = match array.data_type() {
            DataType::Time32(_) | DataType::Time64(_) => first_out_of_range(array),
            _ => None,
        };
        // The first of all.
        let all = [made_null, lost, outside, no_time];
        let lost = all.into_iter().flatten().min();
        Ok((cast_values, lost))
    }
}

/// Whether there may be more values than rows, as in a slice: Arrow casts all those of a dictionary.
fn may_have_more_values(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Dictionary(_, values) => {
            let count = array.as_any_dictionary().values().len();
            count > array.len() || plain(values) != &**values
        }
        DataType::RunEndEncoded(_, values) => plain(values.data_type()) != values.data_type(),
        _ => false,
    }
}

/// A value as text; the number that it is where Arrow has no text for it, as of a time that is none.
pub(super) fn shown(array: &ArrayRef, index: usize) -> String {
    let number = || formatted(&cast(&array.slice(index, 1), &DataType::Int64).ok()?, 0);
    formatted(array, index).or_else(number).unwrap_or_default()
}

/// A value as text, where Arrow has one.
pub(super) fn formatted(array: &ArrayRef, index: usize) -> Option<String> {
    let options = FormatOptions::new().with_display_error(false);
    let formatter = ArrayFormatter::try_new(array, &options).ok()?;
    formatter.value(index).try_to_string().ok()
}

pub(super) fn cast(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    cast_with_options(array, target, &options)
}

fn first_made_null(array: &ArrayRef, cast: &ArrayRef) -> Option<usize> {
    if cast.logical_null_count() <= array.logical_null_count() {
        return None;
    }
    let (before, after) = (array.logical_nulls(), cast.logical_nulls()?);
    (0..array.len())
        .find(|&row| after.is_null(row) && before.as_ref().is_none_or(|nulls| nulls.is_valid(row)))
}

fn first_empty(array: &ArrayRef) -> Option<usize> {
    let is_empty = |value: Option<&[u8]>| value.is_some_and(<[u8]>::is_empty);
    match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().iter().position(is_empty),
        DataType::Utf8 => {
            let mut texts = array.as_string::<i32>().iter();
            texts.position(|text| is_empty(text.map(str::as_bytes)))
        }
        _ => None,
    }
}

fn first_finer_than_micros(array: &ArrayRef) -> Option<usize> {
    let intervals = array.as_primitive_opt::<IntervalMonthDayNanoType>()?;
    intervals
        .iter()
        .position(|value| value.is_some_and(|value| value.nanoseconds % 1000 != 0))
}

/// The first number, or text of one, that became infinite.
fn first_infinite(array: &ArrayRef, cast: &ArrayRef) -> Result<Option<usize>, ArrowError> {
    let is_infinite = |row: usize| {
        let single = cast.as_primitive_opt::<Float32Type>();
        let double = cast.as_primitive_opt::<Float64Type>();
        cast.is_valid(row)
            && (single.is_some_and(|values| values.value(row).is_infinite())
                || double.is_some_and(|values| values.value(row).is_infinite()))
    };
    let Some(first) = (0..cast.len()).find(|&row| is_infinite(row)) else {
        return Ok(None);
    };
    let rows = first..cast.len();
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        let mut rows = rows;
        return Ok(rows.find(|&row| is_infinite(row) && numbers.value(row).is_finite()));
    }
    let texts = self::cast(array, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    // Infinity itself is spelled without digits.
    let is_number = |row: usize| texts.value(row).bytes().any(|byte| byte.is_ascii_digit());
    let mut rows = rows;
    Ok(rows.find(|&row| is_infinite(row) && is_number(row)))
}

fn first_text(
    array: &ArrayRef,
    is_lost: impl Fn(&str) -> bool,
) -> Result<Option<usize>, ArrowError> {
    let texts = cast(array, &DataType::Utf8)?;
    let mut texts = texts.as_string::<i32>().iter();
    Ok(texts.position(|text| text.is_some_and(&is_lost)))
}

/// Whether a text has digits, and not more than so many behind its point. Arrow takes one without any for 0.
fn has_places(text: &str, most: i64) -> bool {
    let number = text.split(['e', 'E']).next().unwrap_or(text);
    number.bytes().any(|byte| byte.is_ascii_digit()) && places(text) <= most
}

/// How many digits behind the point a number, or a moment, needs: `-12.50`, `1.5e3`, `12:34:56.5+02`.
fn places(text: &str) -> i64 {
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.trim_end().parse().unwrap_or(0)),
        None => (text, 0_i64),
    };
    let (whole, behind) = match digits.split_once('.') {
        Some(parts) => parts,
        None if exponent == 0 => return 0,
        None => (digits, ""),
    };
    let end = behind.find(|c: char| !c.is_ascii_digit());
    let behind = behind[..end.unwrap_or(behind.len())].trim_end_matches('0');
    let needed = if behind.is_empty() {
        let significant = whole.trim_end_matches('0');
        match significant.ends_with(|c: char| c.is_ascii_digit()) {
            true => length(significant) - length(whole),
            // It is 0.
            false => return 0,
        }
    } else {
        length(behind)
    };
    needed.saturating_sub(exponent)
}

/// Whether a date's text tells a time of day other than midnight, or names a zone: midnight there may be another day's
/// evening in UTC, which Arrow takes the day from.
fn has_time(text: &str) -> bool {
    let Some((_, time)) = text.trim().split_once([' ', 'T', 't']) else {
        return false;
    };
    let time = time.strip_suffix(['Z', 'z']).unwrap_or(time);
    time.contains(|c: char| matches!(c, '1'..='9') || c.is_alphabetic())
}

fn places_of(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn unit(data_type: &DataType) -> Option<TimeUnit> {
    use DataType::{Duration, Time32, Time64, Timestamp};
    match data_type {
        Timestamp(unit, _) | Time32(unit) | Time64(unit) | Duration(unit) => Some(*unit),
        _ => None,
    }
}

/// Whether Arrow's cast to fewer places, or to a coarser unit, would round silently.
fn may_round(from: &DataType, to: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    if let (Some(from), Some(to)) = (unit(from), unit(to)) {
        return to < from;
    }
    let scale = |data_type: &DataType| match data_type {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => {
            Some(i16::from(*scale))
        }
        other if other.is_integer() => Some(0),
        other if other.is_floating() => Some(i16::MAX),
        _ => None,
    };
    match (scale(from), scale(to)) {
        (Some(i16::MAX), Some(to)) => to < i16::MAX,
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::*;

    use super::*;

    /// The place of the first value that does not fit.
    fn misfit(array: impl Array + 'static, target: &DataType) -> Option<usize> {
        let array: ArrayRef = Arc::new(array);
        match Cast::new(array.data_type(), target).apply(&array) {
            Ok(cast) => {
                assert_eq!(cast.data_type(), target);
                None
            }
            Err(Failure::Misfit { index, .. }) => Some(index),
            Err(Failure::Arrow(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn decimals_of_every_width_keep_their_digits() {
        let target = DataType::Decimal128(10, 2);
        for scale in [10_050, 10_000] {
            let expected = (scale == 10_050).then_some(1);
            let values = Decimal32Array::from(vec![10_000, scale]);
            let values = values.with_precision_and_scale(9, 4).unwrap();
            assert_eq!(misfit(values.clone(), &target), expected);
            assert_eq!(misfit(values, &DataType::Int32), expected);
            let values = Decimal64Array::from(vec![10_000, i64::from(scale)]);
            let values = values.with_precision_and_scale(18, 4).unwrap();
            assert_eq!(misfit(values, &target), expected);
            let values = Decimal128Array::from(vec![10_000, i128::from(scale)]);
            let values = values.with_precision_and_scale(20, 4).unwrap();
            assert_eq!(misfit(values, &target), expected);
        }
    }

    #[test]
    fn dictionaries_and_runs_are_looked_through() {
        let keys = Int8Array::from(vec![Some(1), None, Some(0)]);
        let of = |values: ArrayRef| DictionaryArray::new(keys.clone(), values);
        let floats = of(Arc::new(Float64Array::from(vec![1.5, 2.0])));
        assert_eq!(misfit(floats, &DataType::Int32), Some(2));
        let nanos = of(Arc::new(TimestampNanosecondArray::from(vec![1, 1000])));
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(misfit(nanos, &micros), Some(2));
        let runs = RunArray::try_new(
            &Int32Array::from(vec![2, 4]),
            &Float64Array::from(vec![1.0, 1.5]),
        );
        assert_eq!(misfit(runs.unwrap(), &DataType::Int32), Some(2));
    }

    #[test]
    fn numbers_do_not_become_infinite_and_decimals_stay_what_they_are() {
        let infinite = Float64Array::from(vec![0.1, f64::INFINITY, f64::NAN, 1e300]);
        assert_eq!(misfit(infinite, &DataType::Float32), Some(3));
        let texts = StringArray::from(vec!["inf", "-infinity", "NaN", "1e39"]);
        assert_eq!(misfit(texts.clone(), &DataType::Float32), Some(3));
        assert_eq!(misfit(texts, &DataType::Float64), None);
        let decimals = |value| {
            let values = Decimal128Array::from(vec![1, value]);
            values.with_precision_and_scale(38, 1).unwrap()
        };
        assert_eq!(
            misfit(decimals(9_007_199_254_740_993), &DataType::Float64),
            Some(1)
        );
        assert_eq!(misfit(decimals(123), &DataType::Float32), None);
        assert_eq!(misfit(decimals(167_772_170), &DataType::Float32), Some(1));
    }

    #[test]
    fn dates_do_not_outgrow_a_timestamp() {
        let days = Date32Array::from(vec![0, 2_932_532]);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(misfit(days.clone(), &nanos), Some(1));
        assert_eq!(misfit(days, &micros), None);
        assert_eq!(
            misfit(Date32Array::from(vec![0, 150_000_000]), &micros),
            Some(1)
        );
        let millis = Date64Array::from(vec![0, 2_932_532 * 86_400_000, 1]);
        assert_eq!(misfit(millis.clone(), &nanos), Some(1));
        assert_eq!(misfit(millis.clone(), &micros), None);
        assert_eq!(misfit(millis, &DataType::Date32), Some(2));
    }

    #[test]
    fn text_keeps_its_digits() {
        let cases = [
            ("12", 0),
            ("-12.50", 1),
            ("1.5e3", -2),
            ("1.5e1", 0),
            ("15e-1", 1),
            ("1500e-2", 0),
            ("0e-9", 0),
            ("0.000", 0),
            ("100", 0),
            ("2020-01-01 12:34:56.120+05:30", 2),
            ("12:34:56.123456789", 9),
        ];
        for (text, expected) in cases {
            assert_eq!(places(text), expected, "{text}");
        }
        let texts = |values: [&str; 2]| StringArray::from(values.to_vec());
        let decimal = DataType::Decimal128(10, 2);
        assert_eq!(misfit(texts(["1.50", "1.005"]), &decimal), Some(1));
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let moments = texts([
            "2020-01-01 12:34:56.123456000",
            "2020-01-01T12:34:56.1234567Z",
        ]);
        assert_eq!(misfit(moments, &micros), Some(1));
        let days = texts(["2020-01-01 00:00:00", "2020-01-01 12:34:56"]);
        assert_eq!(misfit(days, &DataType::Date32), Some(1));
    }

    #[test]
    fn a_text_without_digits_is_no_decimal() {
        for text in ["", " ", "-", "+", ".", "-.", "e5", ".e5"] {
            for scale in [0, 2] {
                let texts = StringArray::from(vec!["0", text]);
                let decimal = DataType::Decimal128(10, scale);
                assert_eq!(misfit(texts, &decimal), Some(1), "{text:?}, {scale}");
            }
        }
        let texts = StringArray::from(vec!["0", ".5", "-1."]);
        assert_eq!(misfit(texts, &DataType::Decimal128(10, 2)), None);
    }

    #[test]
    fn a_text_is_a_time_only_where_it_tells_hours_and_minutes() {
        let micros = DataType::Time64(TimeUnit::Microsecond);
        let nanos = DataType::Time64(TimeUnit::Nanosecond);
        let millis = DataType::Time32(TimeUnit::Millisecond);
        for target in [&micros, &nanos, &millis] {
            for text in ["093000", "0", "1", "86399"] {
                let texts = StringArray::from(vec!["9:30:00", "09:30", text]);
                assert_eq!(misfit(texts, target), Some(2), "{text}");
            }
        }
        let texts = StringArray::from(vec!["09:30:00.123456", "09:30:00.1234567"]);
        assert_eq!(misfit(texts, &micros), Some(1));
    }

    #[test]
    fn a_text_tells_a_day_only_where_no_zone_can_shift_it() {
        for text in [
            "2020-01-01 00:00:00 Europe/Berlin",
            "2020-01-01 00:00:00 UTC",
            "2020-01-01T00:00:00+05:30",
        ] {
            let texts = StringArray::from(vec!["2020-01-01", text]);
            assert_eq!(misfit(texts, &DataType::Date32), Some(1), "{text}");
        }
        let texts = StringArray::from(vec![
            "2020-01-01T00:00:00Z",
            "2020-01-01 00:00:00.000",
            "20200101",
        ]);
        assert_eq!(misfit(texts, &DataType::Date32), None);
    }

    #[test]
    fn times_that_are_none_do_not_become_some_in_finer_units() {
        // In nanoseconds it is 2^64 and a bit.
        let wraps = (1_i64 << 61) / 125 + 1;
        let times = Time64MicrosecondArray::from(vec![0, wraps]);
        let nanos = DataType::Time64(TimeUnit::Nanosecond);
        assert_eq!(misfit(times, &nanos), Some(1));
    }
}
