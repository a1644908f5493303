//! The batches a writer sends: random rows under an id that no other batch has.

use std::sync::{Arc, LazyLock};

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::Utc;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use crate::Plan;
use crate::ids::{BLOCK_BITS, Ids, mixed, stable_hash};

const CATEGORIES: [u8; 4] = *b"ABCD";

/// The largest value, not reached.
pub(crate) const VALUE_LIMIT: f64 = 100.0;

/// The timestamp of a producer's sequence 0, in microseconds: the start of 2024, UTC.
const PRODUCER_EPOCH_MICROS: i64 = 1_704_067_200_000_000;

/// The time from one batch of a producer to its next.
const PRODUCER_STEP_MICROS: i64 = 1_000_000;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("batch_id", DataType::Int64, true),
        Field::new("timestamp", timestamp, true),
        Field::new("value", DataType::Float64, true),
        Field::new("category", DataType::Utf8, true),
    ]))
});

/// The columns of every batch: `batch_id`, `timestamp`, `value` and `category`.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Rows that are sent, committed and acknowledged together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The value of `batch_id` in all its rows.
    pub id: i64,
    /// Its number among its writer's batches, from 1.
    pub sequence: u64,
    /// The rows.
    pub rows: RecordBatch,
}

/// Makes the batches of one writer.
///
/// **Ids.** A run counts its ids up from a place that it draws at random: one of 2^39 blocks of 2^24 ids, in
/// steps of its number of writers, so that its writers never meet. Two runs meet only when they draw the same
/// block: for 8 loaders started together the chance is 8·7/2 in 2^39, or one in 20 billion, and for 10,000
/// runs into one table one in 11,000. (A run of more than 16,777,216 batches goes on into the next block,
/// and takes as many chances as it fills blocks.) A producer draws nothing: its block is 39 bits of a hash of its
/// name, and the lower 24 bits of an id are the batch's sequence, so that every process of that name makes the
/// same ids; that two of a thousand producers share a block has a chance of one in a million.
/// [`Plan::first_batch_id`] takes the place of the draw, and of the hash.
///
/// **Rows.** Values are spread evenly over 0 to 100 (exclusive), categories over `A` to `D`, and both depend
/// on nothing but the plan's seed, the writer (a producer: its name) and the batch's sequence. All rows of a batch
/// carry the same time: that at which it was made, in UTC; of a producer, whose batches must come out the same
/// whenever they are made again, as many seconds after the start of 2024 as its sequence says.
#[derive(Debug, Clone)]
pub struct BatchSource {
    ids: Ids,
    /// The seed of this writer, which differs from that of every other.
    seed: u64,
    /// Whether the batches are a producer's.
    produced: bool,
    /// The sequence of the last batch made.
    last: u64,
    rows: usize,
    /// Every category is one byte long, so that all batches share the same offsets.
    category_offsets: OffsetBuffer<i32>,
}

impl BatchSource {
    /// The sources of a run's writers, whose batches all have different ids.
    pub fn for_writers(plan: &Plan, writers: usize) -> Vec<Self> {
        let count = u64::try_from(writers).expect("a count of writers fits into 64 bits");
        let rows = usize::try_from(plan.rows.get()).expect("a batch's rows fit into memory");
        let category_offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(1, rows));
        let seed = match (plan.seed, &plan.producer) {
            (Some(seed), _) => seed,
            (None, Some(_)) => Plan::PRODUCER_SEED,
            (None, None) => rand::random(),
        };
        let drawn = rand::random::<u64>() << BLOCK_BITS;
        (0..count)
            .map(|writer| {
                let producer = plan.producer_of(writer, count);
                let ids = match (plan.first_batch_id, &producer) {
                    (None, Some(name)) => Ids::of_producer(name),
                    (first, _) => Ids::counted(first.unwrap_or(drawn), writer, count),
                };
                let key = producer.as_deref().map_or(writer, stable_hash);
                Self {
                    ids,
                    seed: mixed(seed ^ mixed(key)),
                    produced: producer.is_some(),
                    last: 0,
                    rows,
                    category_offsets: category_offsets.clone(),
                }
            })
            .collect()
    }

    /// Makes the next batch.
    pub fn next_batch(&mut self) -> Batch {
        self.last += 1;
        self.batch(self.last)
    }

    /// Makes the batch of this sequence: every time the same rows, but for the time of a batch that is not a
    /// producer's.
    pub fn batch(&self, sequence: u64) -> Batch {
        let mut random = self.random(sequence);
        let id = self.ids.id(sequence);
        let time = self
            .timestamp(sequence)
            .unwrap_or_else(|| Utc::now().timestamp_micros());
        let ids = Int64Array::from(vec![id; self.rows]);
        let timestamps = TimestampMicrosecondArray::from(vec![time; self.rows]);
        let values = self.values(&mut random);
        let categories = self.categories(&mut random);
        let rows = RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(ids),
                Arc::new(timestamps),
                Arc::new(values),
                Arc::new(categories),
            ],
        )
        .expect("the columns are those of the schema");
        Batch { id, sequence, rows }
    }

    /// Goes on as if the batches up to this sequence had been made.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        self.last = sequence;
    }

    /// The ids of the batches.
    pub(crate) fn ids(&self) -> Ids {
        self.ids
    }

    /// The time in a producer's batch, in microseconds; other batches carry that of their making.
    pub(crate) fn timestamp(&self, sequence: u64) -> Option<i64> {
        let after = sequence.cast_signed().wrapping_mul(PRODUCER_STEP_MICROS);
        self.produced
            .then(|| PRODUCER_EPOCH_MICROS.wrapping_add(after))
    }

    /// The random numbers of one batch; those of other sequences, writers and seeds differ.
    fn random(&self, sequence: u64) -> Xoshiro256PlusPlus {
        let spread = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Xoshiro256PlusPlus::seed_from_u64(mixed(self.seed.wrapping_add(spread)))
    }

    fn values(&self, random: &mut Xoshiro256PlusPlus) -> Float64Array {
        // The 53 high bits fill a double's mantissa: every step from 0 up to, but not including, 1.
        const SCALE: f64 = VALUE_LIMIT / (1_u64 << 53) as f64;
        let values: Vec<f64> = (0..self.rows)
            .map(|_| (random.next_u64() >> 11) as f64 * SCALE)
            .collect();
        Float64Array::new(ScalarBuffer::from(values), None)
    }

    fn categories(&self, random: &mut Xoshiro256PlusPlus) -> StringArray {
        // Two bits choose a category, so that one random number serves 32 rows.
        let mut letters = vec![0_u8; self.rows];
        for chunk in letters.chunks_mut(32) {
            let mut bits = random.next_u64();
            for letter in chunk {
                *letter = CATEGORIES[(bits & 3) as usize];
                bits >>= 2;
            }
        }
        StringArray::new(self.category_offsets.clone(), Buffer::from(letters), None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type};

    use super::*;

    fn plan(seed: Option<u64>) -> Plan {
        Plan {
            seed,
            ..Plan::new("t")
        }
    }

    fn ids(sources: &mut [BatchSource], count: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.extend(sources.iter_mut().map(|source| source.next_batch().id));
        }
        ids
    }

    #[test]
    fn every_row_carries_its_batchs_id_and_plausible_values() {
        let batch = BatchSource::for_writers(&plan(None), 1)[0].next_batch();
        assert_eq!(batch.rows.num_rows(), 1000);
        let ids = batch.rows.column(0).as_primitive::<Int64Type>();
        assert!(ids.values().iter().all(|id| *id == batch.id && *id >= 0));
        let values = batch.rows.column(2).as_primitive::<Float64Type>();
        assert!(values.values().iter().all(|v| (0.0..100.0).contains(v)));
        let mean = values.values().iter().sum::<f64>() / 1000.0;
        assert!((45.0..55.0).contains(&mean), "{mean}");
        let categories: HashSet<_> = batch.rows.column(3).as_string::<i32>().iter().collect();
        assert_eq!(
            categories,
            ["A", "B", "C", "D"].into_iter().map(Some).collect()
        );
    }

    #[test]
    fn writers_of_one_run_never_share_an_id() {
        let mut sources = BatchSource::for_writers(&plan(None), 7);
        let ids = ids(&mut sources, 1000);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 7000);
    }

    #[test]
    fn runs_with_the_same_seed_make_the_same_rows_under_different_ids() {
        let mut one = BatchSource::for_writers(&plan(Some(7)), 1).remove(0);
        let mut other = BatchSource::for_writers(&plan(Some(7)), 1).remove(0);
        for _ in 0..3 {
            let (one, other) = (one.next_batch(), other.next_batch());
            assert_eq!(one.rows.column(2), other.rows.column(2));
            assert_eq!(one.rows.column(3), other.rows.column(3));
            assert_ne!(one.id, other.id);
        }
    }

    #[test]
    fn writers_and_seeds_make_different_rows() {
        let mut sources = BatchSource::for_writers(&plan(Some(7)), 2);
        sources.append(&mut BatchSource::for_writers(&plan(Some(8)), 1));
        let values: Vec<_> = sources
            .iter_mut()
            .map(|source| source.next_batch().rows.column(2).clone())
            .collect();
        assert_ne!(&values[0], &values[1]);
        assert_ne!(&values[0], &values[2]);
    }

    #[test]
    fn ids_asked_for_count_up_from_the_first() {
        let plan = Plan {
            first_batch_id: Some(10),
            ..plan(None)
        };
        let mut sources = BatchSource::for_writers(&plan, 2);
        assert_eq!(ids(&mut sources, 3), [10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn ids_go_round_at_the_end_of_their_range() {
        let plan = Plan {
            first_batch_id: Some(i64::MAX.cast_unsigned()),
            ..plan(None)
        };
        let mut sources = BatchSource::for_writers(&plan, 1);
        assert_eq!(ids(&mut sources, 2), [i64::MAX, 0]);
    }

    fn produced(name: &str, seed: Option<u64>, writers: usize) -> Vec<BatchSource> {
        let plan = Plan {
            producer: Some(name.to_owned()),
            ..plan(seed)
        };
        BatchSource::for_writers(&plan, writers)
    }

    #[test]
    fn a_batch_of_a_producer_comes_out_the_same_in_every_process_and_order() {
        let mut one = produced("p", None, 1).remove(0);
        let other = produced("p", None, 1).remove(0);
        let batches: Vec<_> = (0..3).map(|_| one.next_batch()).collect();
        for batch in batches.iter().rev() {
            let again = other.batch(batch.sequence);
            assert_eq!((again.id, again.sequence), (batch.id, batch.sequence));
            assert_eq!(again.rows, batch.rows);
        }
        assert_ne!(batches[0].rows.column(2), batches[1].rows.column(2));
    }

    #[test]
    fn producers_differ_in_ids_and_rows_and_seeds_in_rows_alone() {
        let two = produced("p", None, 2);
        let (one, other) = (two[0].batch(1), two[1].batch(1));
        assert_eq!(one.id, produced("p-1", None, 1)[0].batch(1).id);
        assert_eq!(other.id, produced("p-2", None, 1)[0].batch(1).id);
        assert_ne!(one.id, other.id);
        assert_ne!(one.rows.column(2), other.rows.column(2));
        let reseeded = produced("p", Some(7), 2)[0].batch(1);
        assert_eq!(one.id, reseeded.id);
        assert_ne!(one.rows.column(2), reseeded.rows.column(2));
    }

    #[test]
    fn skipped_batches_leave_the_later_ones_as_they_are() {
        let mut source = produced("p", None, 1).remove(0);
        source.skip_to(40);
        let batch = source.next_batch();
        assert_eq!(batch.sequence, 41);
        assert_eq!(batch.rows, produced("p", None, 1)[0].batch(41).rows);
    }
}
