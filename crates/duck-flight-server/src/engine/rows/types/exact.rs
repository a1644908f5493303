//! Arrow's cast, made exact: a value that would become another one is found and refused.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Float32Type, Float64Type, IntervalMonthDayNanoType,
    TimeUnit,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::bounds::{first_out_of_range, first_too_long, has_range};
use super::json::is_json;
use super::{Failure, is_text, plain};
use crate::engine::ffi::ColumnShape;

/// A cast to a type, and what it may lose silently.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) target: DataType,
    pub(super) check: Check,
    /// What the type is called in messages: as SQL writes that of the column.
    pub(super) told: String,
}

/// What tells the values that a cast changes. Those that it cannot cast at all become NULL, and are found anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    /// Cast back they must be what they were.
    Back,
    /// A date is cast to a timestamp of this coarse unit first, which holds every date: Arrow's cast to a fine unit overflows
    /// unseen.
    By(TimeUnit),
    /// A number must not become infinite.
    Finite,
    /// A text must have digits, and not more than this many of them behind its point.
    Places(i64),
    /// A text of a decimal must have digits, not more than this many of them behind its point, and not more before it than a type
    /// can have: Arrow's product overflows unseen.
    Digits(i64),
    /// A text of a time of day must have digits, not more than this many of them behind its point, and be written as a time: Arrow
    /// takes a number for a count of its unit.
    Clock(i64),
    /// A text must tell a day alone: no time of day but 0, and no zone in which it might be another day.
    Midnight,
    /// An interval must not have parts of a microsecond, which DuckDB has no place for.
    Micros,
    /// A text must be JSON.
    Json,
    /// A value must not be empty.
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
            Decimal128(_, scale) | Decimal256(_, scale) => Self::Digits(i64::from(*scale)),
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
            told: target.to_string(),
        }
    }

    /// The same, for values of a column.
    pub(super) fn of_column(self, column: &ColumnShape) -> Self {
        let told = column.sql_type();
        Self { told, ..self }
    }

    /// Casts all values, or names the first that does not fit.
    pub(super) fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, Failure> {
        let plain_type = plain(array.data_type());
        let is_encoded = plain_type != array.data_type();
        let is_checked = self.check != Check::Nothing || plain_type.is_decimal();
        if is_encoded && (is_checked || may_have_more_values(array)) {
            return self.apply_to(&cast(array, plain_type)?);
        }
        match self.apply_to(array) {
            // The value that Arrow refuses may be one that no row refers to.
            Err(Failure::Arrow(_)) if is_encoded => self.apply_to(&cast(array, plain_type)?),
            outcome => outcome,
        }
    }

    /// Casts all values of an array as it is encoded, or names the first that does not fit.
    fn apply_to(&self, array: &ArrayRef) -> Result<ArrayRef, Failure> {
        // What a cast makes of a decimal with too many digits is anything.
        let too_long = first_too_long(array);
        let valid = too_long.map_or_else(|| array.clone(), |index| array.slice(0, index));
        let cast = match self.cast(&valid) {
            Ok((cast, None)) => cast,
            Ok((_, Some(index))) => return Err(self.misfit(array, index)),
            Err(error) => {
                let index = self.first_refused(&valid).ok_or(error)?;
                return Err(self.misfit(array, index));
            }
        };
        too_long.map_or(Ok(cast), |index| {
            let (value, data_type) = (shown(array, index), array.data_type());
            let reason = format!("`{value}` has more digits than its type {data_type}");
            Err(Failure::Misfit { index, reason })
        })
    }

    /// The first value that does not fit, where Arrow refuses all for it and does not say which one it is. `None` where it
    /// is no value's fault.
    fn first_refused(&self, array: &ArrayRef) -> Option<usize> {
        let is_encoded = plain(array.data_type()) != array.data_type();
        if is_encoded || self.cast(&array.slice(0, 0)).is_err() {
            return None;
        }
        let (mut start, mut end) = (0, array.len());
        while start < end {
            let length = (end - start).div_ceil(2);
            match self.cast(&array.slice(start, length)) {
                Ok((_, None)) => start += length,
                Ok((_, Some(index))) => return Some(start + index),
                Err(_) if length == 1 => return Some(start),
                Err(_) => end = start + length,
            }
        }
        None
    }

    fn misfit(&self, array: &ArrayRef, index: usize) -> Failure {
        let reason = self.reason(array, index);
        Failure::Misfit { index, reason }
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
        if from == target && self.check == Check::Micros {
            return format!(
                "`{value}` is finer than a microsecond, for which an INTERVAL has no place"
            );
        }
        format!(
            "`{value}` of type {from} does not fit {} of the table",
            self.told
        )
    }

    fn cast_values(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let is_float = matches!(self.target, DataType::Float32 | DataType::Float64);
        if is_float && is_beyond_doubles(array.data_type()) {
            return cast(&cast(array, &DataType::LargeUtf8)?, &self.target);
        }
        cast(array, &self.target)
    }

    /// The values as the target's, and the first that is another one there.
    fn cast(&self, array: &ArrayRef) -> Result<(ArrayRef, Option<usize>), ArrowError> {
        if let Check::By(unit) = self.check {
            let between = DataType::Timestamp(unit, None);
            let moments = cast(array, &between)?;
            return Self::new(&between, &self.target).cast(&moments);
        }
        let cast_values = self.cast_values(array)?;
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
            Check::Digits(most) => {
                first_text(array, |text| !has_places(text, most) || is_too_long(text))?
            }
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

/// Whether the power of ten by which Arrow divides a decimal, or multiplies it, is none that a double holds: what comes of it
/// need not be the nearest one.
fn is_beyond_doubles(decimal: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    match decimal {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => {
            !(0..=22).contains(scale)
        }
        _ => false,
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

/// Whether a text has digits, and not more than `most` behind its point. Arrow takes one without any for 0.
fn has_places(text: &str, most: i64) -> bool {
    let number = text.split(['e', 'E']).next().unwrap_or(text);
    number.bytes().any(|byte| byte.is_ascii_digit()) && places(text) <= most
}

/// Whether a number has more digits before its point than any decimal.
fn is_too_long(number: &str) -> bool {
    let most = usize::from(DECIMAL128_MAX_PRECISION);
    if number.len() <= most {
        return false;
    }
    let significant = number.trim().trim_start_matches(['+', '-', '0']).bytes();
    significant.take_while(u8::is_ascii_digit).count() > most
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
mod tests;
