//! What a batch holds, as a few whole numbers that come out the same here and in SQL.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};

use crate::Batch;

/// Values are counted in steps of 2^-46, the smallest by which values from 64 to 100 differ. The product is exact.
const VALUE_STEPS: f64 = (1_u64 << 46) as f64;

/// Sums are taken modulo the prime 2^61 - 1, so that they fit into BIGINT.
const MODULUS: i128 = (1 << 61) - 1;

/// What is left of a value's steps before they are multiplied by their row's category, so that nothing overflows.
const PAIR_MODULUS: i64 = (1 << 31) - 1;

/// What a batch holds, whatever the order of its rows. Nothing in it is rounded: a row lost, repeated or
/// changed, or a category moved to another value, makes another digest (but for chances of one in billions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: i64,
    /// The sum of all values; `None` when SQL finds none that is a number.
    pub(crate) values: Option<i64>,
    /// The sum of each row's value times its category's letter. SQL leaves out a row that has no time, or no single letter.
    pub(crate) pairs: Option<i64>,
    /// The earliest and the latest time, in microseconds.
    pub(crate) times: [Option<i64>; 2],
}

impl Digest {
    /// The digest of a batch as it was made.
    pub(crate) fn of(batch: &Batch) -> Self {
        let rows: &RecordBatch = &batch.rows;
        let times = rows.column(1).as_primitive::<TimestampMicrosecondType>();
        let values = rows.column(2).as_primitive::<Float64Type>();
        let categories = rows.column(3).as_string::<i32>();
        let (mut sum, mut pairs) = (0_i128, 0_i128);
        for (value, category) in values.values().iter().zip(categories) {
            let steps = value_steps(*value);
            let letter = category.and_then(|text| text.chars().next());
            sum += i128::from(steps);
            pairs += i128::from(steps % PAIR_MODULUS * i64::from(letter.map_or(0, u32::from)));
        }
        let of_times = |time: Option<&i64>| time.copied();
        Self {
            rows: i64::try_from(rows.num_rows()).unwrap_or(i64::MAX),
            values: i64::try_from(sum % MODULUS).ok(),
            pairs: i64::try_from(pairs % MODULUS).ok(),
            times: [
                of_times(times.values().iter().min()),
                of_times(times.values().iter().max()),
            ],
        }
    }

    /// The query that answers with the digest of each batch in `table`: `batch_id`, and the fields in their order,
    /// all of them BIGINT.
    pub(crate) fn query(table: &str, condition: &str) -> String {
        let steps = VALUE_STEPS;
        format!(
            "SELECT CAST(batch_id AS BIGINT) AS batch_id, count(*) AS row_count, \
             CAST(sum(steps) % {MODULUS} AS BIGINT) AS value_sum, \
             CAST(sum(steps % {PAIR_MODULUS} * letter) % {MODULUS} AS BIGINT) AS pair_sum, \
             min(micros) AS first_micros, max(micros) AS last_micros \
             FROM (SELECT batch_id, TRY_CAST(floor(\"value\" * {steps}::DOUBLE) AS BIGINT) AS steps, \
             CASE WHEN length(category) = 1 AND \"timestamp\" IS NOT NULL THEN ascii(category) END AS letter, \
             epoch_us(\"timestamp\") AS micros \
             FROM {table} WHERE {condition}) GROUP BY batch_id"
        )
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "values are below 100, and their steps below 2^53"
)]
fn value_steps(value: f64) -> i64 {
    (value * VALUE_STEPS).floor() as i64
}

#[cfg(test)]
mod tests {
    use arrow::compute::{concat_batches, take_record_batch};

    use super::*;
    use crate::{BatchSource, Plan, schema};

    fn batch() -> Batch {
        BatchSource::for_writers(&Plan::new("t"), 1)[0].next_batch()
    }

    fn with(rows: RecordBatch) -> Batch {
        Batch {
            id: 1,
            sequence: 1,
            rows,
        }
    }

    #[test]
    fn the_order_of_rows_makes_no_difference() {
        let batch = batch();
        let backwards = arrow::array::UInt32Array::from_iter_values((0..1000).rev());
        let reversed = take_record_batch(&batch.rows, &backwards).unwrap();
        assert_eq!(Digest::of(&with(reversed)), Digest::of(&batch));
    }

    #[test]
    fn a_row_lost_repeated_or_exchanged_makes_another_digest() {
        let batch = batch();
        let digest = Digest::of(&batch);
        let lost = batch.rows.slice(0, 999);
        let first = batch.rows.slice(0, 1);
        let exchanged = concat_batches(&schema(), [&lost, &first]).unwrap();
        let repeated = concat_batches(&schema(), [&batch.rows, &first]).unwrap();
        for other in [lost, exchanged, repeated] {
            assert_ne!(Digest::of(&with(other)), digest);
        }
    }

    #[test]
    fn a_category_moved_to_another_value_makes_another_digest() {
        let batch = batch();
        let mut columns = batch.rows.columns().to_vec();
        let rotation = arrow::array::UInt32Array::from_iter_values((1..1000).chain([0]));
        columns[3] = arrow::compute::take(&columns[3], &rotation, None).unwrap();
        let moved = Digest::of(&with(RecordBatch::try_new(schema(), columns).unwrap()));
        let digest = Digest::of(&batch);
        assert_eq!(moved.values, digest.values);
        assert_ne!(moved.pairs, digest.pairs);
    }

    #[test]
    fn two_values_swapped_make_another_digest_unless_their_rows_are_the_same_otherwise() {
        let batch = batch();
        let categories = batch.rows.column(3).as_string::<i32>();
        let digest = Digest::of(&batch);
        for other in 1..100_usize {
            let mut order: Vec<_> = (0..1000).collect();
            order.swap(0, other);
            let mut columns = batch.rows.columns().to_vec();
            let order = arrow::array::UInt64Array::from_iter_values(order);
            columns[2] = arrow::compute::take(&columns[2], &order, None).unwrap();
            let swapped = Digest::of(&with(RecordBatch::try_new(schema(), columns).unwrap()));
            let same_rows = categories.value(0) == categories.value(other);
            assert_eq!(swapped == digest, same_rows, "row {other}");
        }
    }
}
