//! What DuckDB's dates, times and timestamps hold. Arrow's are as many numbers as their bits, and DuckDB takes all of them
//! in unseen; with a time that is none its next query fails, or the process ends.

use arrow::datatypes::TimeUnit;

const SECONDS_OF_DAY: i64 = 24 * 60 * 60;

/// The first moment that DuckDB can tell the date of, in microseconds: the beginning of a day in 290309 BC.
const FIRST_MICROS: i64 = -9_223_372_022_400_000_000;

/// The first moment that DuckDB can tell the date of, in nanoseconds: the beginning of a day in 1677.
const FIRST_NANOS: i64 = -9_223_286_400_000_000_000;

/// The numbers from the first to the last that are values, and, where there are some, those that stand for infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Range {
    first: i64,
    last: i64,
    is_endless: bool,
}

impl Range {
    /// Days since 1970.
    pub(in crate::engine) fn of_dates() -> Self {
        let last = i64::from(i32::MAX);
        Self {
            first: -last,
            last,
            is_endless: false,
        }
    }

    /// Units since midnight, midnight at the end of the day included.
    pub(in crate::engine) fn of_times(unit: TimeUnit) -> Self {
        Self {
            first: 0,
            last: SECONDS_OF_DAY * per_second(unit),
            is_endless: false,
        }
    }

    /// Units since 1970. A second or a millisecond must be one in microseconds, too, which DuckDB prints it by.
    pub(in crate::engine) fn of_timestamps(unit: TimeUnit) -> Self {
        let (first, last) = match unit {
            TimeUnit::Nanosecond => (FIRST_NANOS, i64::MAX),
            unit => {
                let micros = per_second(TimeUnit::Microsecond) / per_second(unit);
                (FIRST_MICROS / micros, i64::MAX / micros)
            }
        };
        Self {
            first,
            last,
            is_endless: true,
        }
    }

    /// Whether a number is a value.
    pub(in crate::engine) fn holds(self, number: i64) -> bool {
        let is_infinity = self.is_endless & ((number == i64::MAX) | (number == -i64::MAX));
        (self.first <= number) & (number <= self.last) | is_infinity
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    /// Whether DuckDB tells what the number is, in the type that makes a value of it.
    fn is_told(number: i64, make: &str) -> bool {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let sql = format!(
            "SELECT ({})::VARCHAR",
            make.replace('$', &number.to_string())
        );
        connection.execute(&sql).is_ok()
    }

    #[test]
    fn the_first_and_the_last_are_those_that_duckdb_tells() {
        use TimeUnit::{Microsecond, Nanosecond};
        for (unit, make) in [
            (Microsecond, "make_timestamp(($)::BIGINT)"),
            (Nanosecond, "make_timestamp_ns(($)::BIGINT)"),
        ] {
            let range = Range::of_timestamps(unit);
            for number in [range.first, range.first - 1, i64::MAX - 1] {
                assert_eq!(
                    range.holds(number),
                    is_told(number, make),
                    "{number} {unit:?}"
                );
            }
        }
    }

    #[test]
    fn coarse_timestamps_are_those_of_microseconds() {
        use TimeUnit::{Microsecond, Millisecond, Second};
        let micros = Range::of_timestamps(Microsecond);
        for (unit, factor) in [(Second, 1_000_000), (Millisecond, 1000)] {
            let range = Range::of_timestamps(unit);
            for number in [range.first, range.first - 1, range.last, range.last + 1] {
                let is_one = number
                    .checked_mul(factor)
                    .is_some_and(|number| micros.holds(number));
                assert_eq!(range.holds(number), is_one, "{number} {unit:?}");
            }
            assert!(range.holds(i64::MAX) && range.holds(-i64::MAX) && !range.holds(i64::MIN));
        }
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let range = Range::of_times(TimeUnit::Second);
        assert!(range.holds(0) && range.holds(86_400));
        assert!(!range.holds(-1) && !range.holds(86_401));
        assert!(!Range::of_dates().holds(i32::MIN.into()));
    }
}
