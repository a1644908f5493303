//! What a batch holds, as a few whole numbers that come out the same here and in SQL.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};

use crate::Batch;
use crate::batch::VALUE_LIMIT;

/// Values are counted in steps of 2^-46, the smallest by which values from 64 to 100 differ. The product is exact.
const VALUE_STEPS: f64 = (1_u64 << 46) as f64;

/// Sums are taken modulo the prime 2^61 - 1, so that they fit into BIGINT.
const MODULUS: i128 = (1 << 61) - 1;

/// The primes by which a row's steps are divided: the remainders tell all steps below 2^62 apart, and neither their squares
/// nor the product of these, once they are divided themselves, overflows BIGINT.
const PAIR_PRIMES: [i64; 2] = [(1 << 31) - 1, (1 << 31) - 19];

/// What a batch holds, whatever the order of its rows. Nothing in it is rounded: a row lost, repeated or
/// changed, several changed so that their sum stays the same, or a category moved to another value, makes another digest (but
/// for chances of one in billions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: i64,
    /// The sum of all values; `None` when SQL finds none that is a number.
    pub(crate) values: Option<i64>,
    /// The sum of what [`pair`] makes of each row's value and its category's letter. SQL leaves out a row that has no time, no
    /// single letter, or a value that is never sent.
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
            pairs += i128::from(pair(steps, letter.map_or(0, u32::from)));
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
        let [one, other] = PAIR_PRIMES;
        // Only steps that are never negative, and letters, come into the pairs: there `%` is the same everywhere.
        format!(
            "SELECT CAST(batch_id AS BIGINT) AS batch_id, count(*) AS row_count, \
             CAST(sum(steps) % {MODULUS} AS BIGINT) AS value_sum, \
             CAST(sum(((steps % {one} + letter) * (steps % {one} + letter) % {one}) \
             * ((steps % {other}) * (steps % {other}) % {other})) % {MODULUS} AS BIGINT) AS pair_sum, \
             min(micros) AS first_micros, max(micros) AS last_micros \
             FROM (SELECT batch_id, TRY_CAST(floor(\"value\" * {steps}::DOUBLE) AS BIGINT) AS steps, \
             CASE WHEN length(category) = 1 AND \"timestamp\" IS NOT NULL \
             AND \"value\" >= 0 AND \"value\" < {VALUE_LIMIT} THEN ascii(category) END AS letter, \
             epoch_us(\"timestamp\") AS micros \
             FROM {table} WHERE {condition}) GROUP BY batch_id"
        )
    }
}

/// A number of one value and its letter that is not in proportion to them: where one value gains what another one loses, the
/// sum of their numbers changes.
fn pair(steps: i64, letter: u32) -> i64 {
    let square_modulo = |number: i64, prime: i64| number * number % prime;
    let [one, other] = PAIR_PRIMES;
    // The letter is in one factor only: in both, a step more would make up for a letter less.
    square_modulo(steps % one + i64::from(letter), one) * square_modulo(steps % other, other)
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
    use std::sync::Arc;

    use arrow::array::Float64Array;
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

    /// The digest of a batch in which one value is some steps greater, and another one as many less.
    fn compensated(batch: &Batch, greater: usize, less: usize, steps: i64) -> Digest {
        let mut columns = batch.rows.columns().to_vec();
        let values = columns[2].as_primitive::<Float64Type>().values();
        let mut changed = values.to_vec();
        let by = steps as f64 / VALUE_STEPS;
        changed[greater] += by;
        changed[less] -= by;
        columns[2] = Arc::new(Float64Array::from(changed));
        Digest::of(&with(RecordBatch::try_new(schema(), columns).unwrap()))
    }

    #[test]
    fn two_values_that_change_by_the_opposite_make_another_digest() {
        let batch = batch();
        let digest = Digest::of(&batch);
        let values = batch.rows.column(2).as_primitive::<Float64Type>();
        let categories = batch.rows.column(3).as_string::<i32>();
        // Where all steps are exact, and stay so.
        let rows: Vec<_> = (0..1000)
            .filter(|row| (70.0..90.0).contains(&values.value(*row)))
            .collect();
        let first = rows[0];
        let is_alike = |row: &usize| categories.value(*row) == categories.value(first);
        let (alike, others): (Vec<usize>, Vec<usize>) =
            rows[1..].iter().copied().partition(is_alike);
        let [one, other] = PAIR_PRIMES;
        let any_steps = [1, 1000, 1 << 46, one, other];
        let multiples = [one, 7 * one, 1000 * one, other, 7 * other];
        for (rows, all_steps) in [(alike, any_steps), (others, multiples)] {
            for row in rows {
                for steps in all_steps {
                    let changed = compensated(&batch, first, row, steps);
                    assert_eq!(changed.values, digest.values);
                    assert_ne!(changed.pairs, digest.pairs, "row {row}, {steps} steps");
                }
            }
        }
    }

    #[test]
    fn a_pair_fits_into_64_bits_whatever_a_table_holds() {
        let [one, other] = PAIR_PRIMES;
        // The greatest numbers that are squared, and the greatest that are multiplied.
        let greatest = one - 1 + i64::from(u32::from(char::MAX));
        assert!(greatest.checked_mul(greatest).is_some());
        assert!(one.checked_mul(other).is_some());
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
