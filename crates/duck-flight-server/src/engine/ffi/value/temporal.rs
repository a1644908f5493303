//! Dates, times, timestamps and intervals.

use arrow::array::{Array, AsArray};
use arrow::datatypes::*;
use duckdb::ffi;

use super::super::Result;
use super::{Value, no_value, refused};
use crate::engine::rows::ranges::Range;

/// A date, a time, a timestamp or an interval.
pub(super) fn temporal(array: &dyn Array, row: usize) -> Result<Value> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    Ok(match array.data_type() {
        DataType::Date32 => Value::date(array.as_primitive::<Date32Type>().value(row).into())?,
        DataType::Date64 => {
            let millis = array.as_primitive::<Date64Type>().value(row);
            let days = whole(millis, 24 * 60 * 60 * 1000);
            Value::date(days.ok_or_else(|| {
                refused(format!(
                    "a date has no time of day, and {millis} ms from 1970 has one: bind a timestamp"
                ))
            })?)?
        }
        DataType::Time32(Second) => {
            let seconds = array.as_primitive::<Time32SecondType>().value(row);
            Value::time(i64::from(seconds) * 1_000_000)?
        }
        DataType::Time32(_) => {
            let millis = array.as_primitive::<Time32MillisecondType>().value(row);
            Value::time(i64::from(millis) * 1000)?
        }
        DataType::Time64(Microsecond) => {
            Value::time(array.as_primitive::<Time64MicrosecondType>().value(row))?
        }
        DataType::Time64(_) => {
            Value::time_ns(array.as_primitive::<Time64NanosecondType>().value(row))?
        }
        DataType::Timestamp(unit, zone) => {
            let value = match unit {
                Second => array.as_primitive::<TimestampSecondType>().value(row),
                Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row),
                Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
                Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
            };
            Value::timestamp(value, *unit, zone.is_some())?
        }
        DataType::Duration(unit) => {
            let micros = match unit {
                Second => array
                    .as_primitive::<DurationSecondType>()
                    .value(row)
                    .checked_mul(1_000_000),
                Millisecond => array
                    .as_primitive::<DurationMillisecondType>()
                    .value(row)
                    .checked_mul(1000),
                Microsecond => Some(array.as_primitive::<DurationMicrosecondType>().value(row)),
                Nanosecond => {
                    let nanos = array.as_primitive::<DurationNanosecondType>().value(row);
                    Some(whole_micros(nanos)?)
                }
            };
            let micros = micros.ok_or_else(|| refused("the duration is out of range".into()))?;
            Value::interval(0, 0, micros)
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            let months = array.as_primitive::<IntervalYearMonthType>().value(row);
            Value::interval(months, 0, 0)
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            Value::interval(0, value.days, i64::from(value.milliseconds) * 1000)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            let micros = whole_micros(value.nanoseconds)?;
            Value::interval(value.months, value.days, micros)
        }
        other => return Err(no_value(other)),
    })
}

/// A number in a unit that is larger by this factor, where nothing of it is left over.
fn whole(number: i64, factor: i64) -> Option<i64> {
    (number.rem_euclid(factor) == 0).then(|| number.div_euclid(factor))
}

fn whole_micros(nanos: i64) -> Result<i64> {
    whole(nanos, 1000).ok_or_else(|| {
        refused(format!(
            "{nanos} ns has parts of a microsecond, which DuckDB's type has no place for: round it"
        ))
    })
}

impl Value {
    fn date(days: i64) -> Result<Self> {
        let out_of_range = || refused(format!("the date {days} days from 1970 is out of range"));
        let days = Some(days).filter(|&days| Range::of_dates().holds(days));
        let days = days.and_then(|days| i32::try_from(days).ok());
        let days = days.ok_or_else(out_of_range)?;
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            ffi::duckdb_create_date(ffi::duckdb_date { days })
        }))
    }

    fn time(micros: i64) -> Result<Self> {
        if !Range::of_times(TimeUnit::Microsecond).holds(micros) {
            return Err(refused(format!("{micros} µs is no time of a day")));
        }
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            ffi::duckdb_create_time(ffi::duckdb_time { micros })
        }))
    }

    fn time_ns(nanos: i64) -> Result<Self> {
        if !Range::of_times(TimeUnit::Nanosecond).holds(nanos) {
            return Err(refused(format!("{nanos} ns is no time of a day")));
        }
        // SAFETY: takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            ffi::duckdb_create_time_ns(ffi::duckdb_time_ns { nanos })
        }))
    }

    fn interval(months: i32, days: i32, micros: i64) -> Self {
        let interval = ffi::duckdb_interval {
            months,
            days,
            micros,
        };
        // SAFETY: takes numbers and gives a value, freed by `drop`.
        Self(unsafe { ffi::duckdb_create_interval(interval) })
    }

    fn timestamp(value: i64, unit: TimeUnit, has_zone: bool) -> Result<Self> {
        let out_of_range = || refused(format!("the timestamp {value} is out of range"));
        if !Range::of_timestamps(unit).holds(value) {
            return Err(out_of_range());
        }
        let micros = |factor: i64| value.checked_mul(factor).ok_or_else(out_of_range);
        // SAFETY: each takes a number and gives a value, freed by `drop`.
        Ok(Self(unsafe {
            match (unit, has_zone) {
                (TimeUnit::Second, false) => {
                    ffi::duckdb_create_timestamp_s(ffi::duckdb_timestamp_s { seconds: value })
                }
                (TimeUnit::Millisecond, false) => {
                    ffi::duckdb_create_timestamp_ms(ffi::duckdb_timestamp_ms { millis: value })
                }
                (TimeUnit::Microsecond, false) => {
                    ffi::duckdb_create_timestamp(ffi::duckdb_timestamp { micros: value })
                }
                (TimeUnit::Nanosecond, false) => {
                    ffi::duckdb_create_timestamp_ns(ffi::duckdb_timestamp_ns { nanos: value })
                }
                (unit, true) => {
                    let micros = match unit {
                        TimeUnit::Second => micros(1_000_000)?,
                        TimeUnit::Millisecond => micros(1000)?,
                        TimeUnit::Microsecond => value,
                        TimeUnit::Nanosecond => whole_micros(value)?,
                    };
                    ffi::duckdb_create_timestamp_tz(ffi::duckdb_timestamp { micros })
                }
            }
        }))
    }
}
