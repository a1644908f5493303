//! Dates, times, timestamps, intervals and durations, as DuckDB writes them.

use std::str::FromStr;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, IntervalDayTimeType, IntervalMonthDayNanoType,
    IntervalUnit, IntervalYearMonthType, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use chrono::{DateTime, Offset, TimeZone};

use super::scalar::write_integer;
use super::{Values, quoted};

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// The writer of an array about time; nothing for other types.
pub(super) fn values(array: &ArrayRef) -> Option<Box<dyn Values>> {
    Some(match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().values().clone();
            quoted(move |row, out| write_date32(days[row], out))
        }
        DataType::Date64 => {
            let millis = array.as_primitive::<Date64Type>().values().clone();
            let per_day = SECONDS_PER_DAY * 1000;
            quoted(move |row, out| write_date(millis[row].div_euclid(per_day), out))
        }
        DataType::Time32(TimeUnit::Second) => times::<Time32SecondType>(array, 0),
        DataType::Time32(_) => times::<Time32MillisecondType>(array, 3),
        DataType::Time64(TimeUnit::Microsecond) => times::<Time64MicrosecondType>(array, 6),
        DataType::Time64(_) => times::<Time64NanosecondType>(array, 9),
        DataType::Timestamp(unit, zone) => timestamps(array, *unit, zone.as_deref()),
        DataType::Duration(unit) => durations(array, *unit),
        DataType::Interval(unit) => intervals(array, *unit),
        _ => return None,
    })
}

/// How many digits a fraction of a second has in this unit.
fn fraction_digits(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn times<T: ArrowPrimitiveType<Native: Into<i64>>>(
    array: &ArrayRef,
    digits: u32,
) -> Box<dyn Values> {
    let values = array.as_primitive::<T>().values().clone();
    quoted(move |row, out| write_time(values[row].into(), digits, out))
}

fn timestamps(array: &ArrayRef, unit: TimeUnit, zone: Option<&str>) -> Box<dyn Values> {
    let values = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    };
    let values = values.clone();
    let digits = fraction_digits(unit);
    let zone = zone.map(Zone::new);
    quoted(move |row, out| write_timestamp(values[row], digits, zone.as_ref(), out))
}

fn durations(array: &ArrayRef, unit: TimeUnit) -> Box<dyn Values> {
    let values = match unit {
        TimeUnit::Second => array.as_primitive::<DurationSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<DurationMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<DurationMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<DurationNanosecondType>().values(),
    };
    let values = values.clone();
    let digits = fraction_digits(unit);
    quoted(move |row, out| write_clock(values[row], digits, out))
}

fn intervals(array: &ArrayRef, unit: IntervalUnit) -> Box<dyn Values> {
    match unit {
        IntervalUnit::YearMonth => {
            let values = array
                .as_primitive::<IntervalYearMonthType>()
                .values()
                .clone();
            quoted(move |row, out| write_interval(values[row], 0, 0, out))
        }
        IntervalUnit::DayTime => {
            let values = array.as_primitive::<IntervalDayTimeType>().values().clone();
            quoted(move |row, out| {
                let nanos = i64::from(values[row].milliseconds) * 1_000_000;
                write_interval(0, values[row].days, nanos, out);
            })
        }
        IntervalUnit::MonthDayNano => {
            let values = array
                .as_primitive::<IntervalMonthDayNanoType>()
                .values()
                .clone();
            quoted(move |row, out| {
                let value = values[row];
                write_interval(value.months, value.days, value.nanoseconds, out);
            })
        }
    }
}

/// Appends a date; the two outermost values are DuckDB's infinities.
fn write_date32(days: i32, out: &mut String) {
    match days {
        i32::MAX => out.push_str("infinity"),
        days if days == -i32::MAX => out.push_str("-infinity"),
        days => write_date(days.into(), out),
    }
}

/// Appends the date that many days after 1970-01-01. Own arithmetic, because DuckDB's dates reach far
/// beyond those of the usual libraries.
fn write_date(days: i64, out: &mut String) {
    // Eras of 400 years that start on the first of March, so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);

    write_padded(if year > 0 { year } else { 1 - year }, 4, out);
    out.push('-');
    write_padded(month, 2, out);
    out.push('-');
    write_padded(day, 2, out);
    if year <= 0 {
        out.push_str(" (BC)");
    }
}

/// Appends a time of day, counted in units of which a second has ten to the power of `digits`.
fn write_time(ticks: i64, digits: u32, out: &mut String) {
    write_clock(ticks, digits, out);
}

/// Appends `hours:minutes:seconds`, with as many hours as there are, and a fraction where there is one.
fn write_clock(ticks: i64, digits: u32, out: &mut String) {
    if ticks < 0 {
        out.push('-');
    }
    let ticks = ticks.unsigned_abs();
    let per_second = 10_u64.pow(digits);
    let (seconds, fraction) = (ticks / per_second, ticks % per_second);
    write_padded(seconds / 3600, 2, out);
    out.push(':');
    write_padded(seconds / 60 % 60, 2, out);
    out.push(':');
    write_padded(seconds % 60, 2, out);
    if fraction > 0 {
        out.push('.');
        write_padded(fraction, digits as usize, out);
        out.truncate(out.trim_end_matches('0').len());
    }
}

/// Appends a timestamp, in the time of its zone and with the zone's offset where it has one; the two
/// outermost values are DuckDB's infinities.
fn write_timestamp(ticks: i64, digits: u32, zone: Option<&Zone>, out: &mut String) {
    if ticks == i64::MAX {
        return out.push_str("infinity");
    }
    if ticks == -i64::MAX {
        return out.push_str("-infinity");
    }
    let per_second = 10_i64.pow(digits);
    let seconds = ticks.div_euclid(per_second);
    let offset = zone.map(|zone| zone.offset_at(seconds));
    let local = seconds + i64::from(offset.unwrap_or(0));
    let second_of_day = local.rem_euclid(SECONDS_PER_DAY);

    write_date(local.div_euclid(SECONDS_PER_DAY), out);
    out.push(' ');
    write_clock(
        second_of_day * per_second + ticks.rem_euclid(per_second),
        digits,
        out,
    );
    if let Some(offset) = offset {
        write_offset(offset, out);
    }
}

/// Appends an offset from UTC in seconds as `+01`, `+05:30` or `+00:53:28`.
fn write_offset(offset: i32, out: &mut String) {
    out.push(if offset < 0 { '-' } else { '+' });
    let offset = offset.unsigned_abs();
    let (minutes, seconds) = (offset / 60 % 60, offset % 60);
    write_padded(offset / 3600, 2, out);
    if minutes > 0 || seconds > 0 {
        out.push(':');
        write_padded(minutes, 2, out);
    }
    if seconds > 0 {
        out.push(':');
        write_padded(seconds, 2, out);
    }
}

/// Appends an interval as `1 year 2 months 3 days 04:05:06.7`, leaving out what is zero.
fn write_interval(months: i32, days: i32, nanos: i64, out: &mut String) {
    let start = out.len();
    let mut part = |count: i32, unit: &str| {
        if count == 0 {
            return;
        }
        write_integer(count, out);
        out.push_str(unit);
        out.push_str(if count.abs() == 1 { " " } else { "s " });
    };
    part(months / 12, " year");
    part(months % 12, " month");
    part(days, " day");
    if nanos != 0 || out.len() == start {
        write_clock(nanos, NANOS_PER_SECOND.ilog10(), out);
    } else {
        out.pop();
    }
}

/// Appends a number with zeros in front up to `width` digits.
fn write_padded(number: impl itoa::Integer, width: usize, out: &mut String) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    out.extend(std::iter::repeat_n('0', width.saturating_sub(digits.len())));
    out.push_str(digits);
}

/// A time zone as Arrow names it: an offset such as `+01:00`, or a name such as `Europe/Berlin`.
enum Zone {
    Fixed(i32),
    Named(chrono_tz::Tz),
}

impl Zone {
    /// The zone of that name; UTC when nobody knows it, which its offset then says.
    fn new(name: &str) -> Self {
        match chrono_tz::Tz::from_str(name) {
            Ok(zone) => Self::Named(zone),
            Err(_) => Self::Fixed(parse_offset(name).unwrap_or(0)),
        }
    }

    /// The offset from UTC in seconds at that second since 1970.
    fn offset_at(&self, second: i64) -> i32 {
        match self {
            Self::Fixed(offset) => *offset,
            Self::Named(zone) => DateTime::from_timestamp(second, 0).map_or(0, |time| {
                let offset = zone.offset_from_utc_datetime(&time.naive_utc());
                offset.fix().local_minus_utc()
            }),
        }
    }
}

/// Reads `+HH`, `+HHMM` or `+HH:MM`, in seconds.
fn parse_offset(text: &str) -> Option<i32> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = digits[..2].parse().ok()?;
    let minutes: i32 = digits.get(2..4).unwrap_or("").parse().unwrap_or(0);
    Some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, Date64Array, DurationMicrosecondArray, IntervalDayTimeArray,
        IntervalMonthDayNanoArray, IntervalYearMonthArray, Time32SecondArray,
        Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };
    use arrow::datatypes::{IntervalDayTime, IntervalMonthDayNano};

    use super::super::testing::{jsons, plain_field, texts};

    fn text(array: ArrayRef) -> Vec<String> {
        texts(&plain_field(&array), &array)
    }

    #[test]
    fn dates_reach_as_far_as_duckdbs() {
        let days = vec![
            0,
            19_723,
            -1,
            11_016,
            -735_160,
            5_000_000,
            i32::MAX,
            -i32::MAX,
        ];
        let expected = [
            "1970-01-01",
            "2024-01-01",
            "1969-12-31",
            "2000-02-29",
            "0044-03-15 (BC)",
            "15659-07-15",
            "infinity",
            "-infinity",
        ];
        assert_eq!(text(Arc::new(Date32Array::from(days))), expected);
        let millis = Date64Array::from(vec![1_704_067_200_000, -1]);
        assert_eq!(text(Arc::new(millis)), ["2024-01-01", "1969-12-31"]);
    }

    #[test]
    fn times_leave_out_what_their_fraction_does_not_need() {
        let micros =
            Time64MicrosecondArray::from(vec![43_200_000_001, 43_200_120_000, 86_400_000_000]);
        let expected = ["12:00:00.000001", "12:00:00.12", "24:00:00"];
        assert_eq!(text(Arc::new(micros)), expected);
        let nanos = Time64NanosecondArray::from(vec![1]);
        assert_eq!(text(Arc::new(nanos)), ["00:00:00.000000001"]);
        assert_eq!(
            text(Arc::new(Time32SecondArray::from(vec![3661]))),
            ["01:01:01"]
        );
    }

    #[test]
    fn timestamps_of_every_unit_read_the_same() {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1_704_110_400]));
        assert_eq!(text(Arc::clone(&seconds)), ["2024-01-01 12:00:00"]);
        assert_eq!(
            jsons(&plain_field(&seconds), &seconds),
            ["\"2024-01-01 12:00:00\""]
        );
        let millis = TimestampMillisecondArray::from(vec![-1, 1_704_110_400_500]);
        let expected = ["1969-12-31 23:59:59.999", "2024-01-01 12:00:00.5"];
        assert_eq!(text(Arc::new(millis)), expected);
        let micros =
            TimestampMicrosecondArray::from(vec![1_704_110_400_123_000, i64::MAX, -i64::MAX]);
        let expected = ["2024-01-01 12:00:00.123", "infinity", "-infinity"];
        assert_eq!(text(Arc::new(micros)), expected);
        let nanos = TimestampNanosecondArray::from(vec![1_704_110_400_000_000_001]);
        assert_eq!(text(Arc::new(nanos)), ["2024-01-01 12:00:00.000000001"]);
    }

    #[test]
    fn a_timestamp_with_a_zone_is_shown_in_its_time_with_its_offset() {
        let at = |zone: &str, seconds: i64| {
            let array = TimestampSecondArray::from(vec![seconds]).with_timezone(zone);
            text(Arc::new(array)).remove(0)
        };
        let (winter, summer) = (1_704_067_200, 1_719_835_200);
        assert_eq!(at("UTC", winter), "2024-01-01 00:00:00+00");
        assert_eq!(at("Europe/Berlin", winter), "2024-01-01 01:00:00+01");
        assert_eq!(at("Europe/Berlin", summer), "2024-07-01 14:00:00+02");
        assert_eq!(
            at("Europe/Berlin", -5_364_662_400),
            "1800-01-01 00:53:28+00:53:28"
        );
        assert_eq!(at("+05:30", winter), "2024-01-01 05:30:00+05:30");
        assert_eq!(at("-0330", winter), "2023-12-31 20:30:00-03:30");
        assert_eq!(at("Nowhere/Land", winter), "2024-01-01 00:00:00+00");
    }

    #[test]
    fn intervals_name_their_parts() {
        let of = IntervalMonthDayNano::new;
        let hours = 3_600_000_000_000;
        let array = IntervalMonthDayNanoArray::from(vec![
            of(14, 3, 14_706_500_000_000),
            of(0, 0, 0),
            of(-13, -1, 0),
            of(24, 2, 0),
            of(0, 1, -hours),
            of(0, 0, 100 * hours + 1_000),
        ]);
        let expected = [
            "1 year 2 months 3 days 04:05:06.5",
            "00:00:00",
            "-1 year -1 month -1 day",
            "2 years 2 days",
            "1 day -01:00:00",
            "100:00:00.000001",
        ];
        assert_eq!(text(Arc::new(array)), expected);
        let array = IntervalYearMonthArray::from(vec![12]);
        assert_eq!(text(Arc::new(array)), ["1 year"]);
        let array = IntervalDayTimeArray::from(vec![IntervalDayTime::new(1, 500)]);
        assert_eq!(text(Arc::new(array)), ["1 day 00:00:00.5"]);
        let array = DurationMicrosecondArray::from(vec![-90_000_000]);
        assert_eq!(text(Arc::new(array)), ["-00:01:30"]);
    }
}
