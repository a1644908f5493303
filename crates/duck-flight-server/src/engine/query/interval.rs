//! Intervals on their way out. Arrow's time part has 64 bits of nanoseconds, DuckDB's 64 bits of microseconds, and its
//! export multiplies them without a look.

use arrow::array::{Array, ArrayData, AsArray, RecordBatch, make_array};
use arrow::datatypes::{DataType, IntervalMonthDayNanoType, IntervalUnit, Schema};

use crate::engine::sql_error::{SqlError, SqlErrorKind};

/// Whether a result holds intervals anywhere.
pub(super) fn has_intervals(schema: &Schema) -> bool {
    schema
        .flattened_fields()
        .iter()
        .any(|field| is_interval(field.data_type()))
}

/// Fails where the time part of an interval did not fit.
///
/// What fits is a number of whole microseconds. What did not has wrapped around, and 2^64 nanoseconds are none; only 125
/// times that are, so one that is longer than 73,000 years can pass.
pub(super) fn check_intervals(batch: &RecordBatch) -> Result<(), SqlError> {
    let fit = |column: &dyn Array| do_fit(&column.to_data());
    if batch.columns().iter().all(|column| fit(column)) {
        return Ok(());
    }
    Err(SqlError::new(
        SqlErrorKind::Invalid,
        "an INTERVAL has more than 292 years in hours, minutes and seconds, which Arrow's nanoseconds cannot tell: cast \
         it to VARCHAR",
    ))
}

fn is_interval(data_type: &DataType) -> bool {
    *data_type == DataType::Interval(IntervalUnit::MonthDayNano)
}

fn do_fit(data: &ArrayData) -> bool {
    if is_interval(data.data_type()) {
        let array = make_array(data.clone());
        let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
        return intervals
            .iter()
            .flatten()
            .all(|interval| interval.nanoseconds % 1000 == 0);
    }
    data.child_data().iter().all(do_fit)
}
