//! The batches a writer sends: random rows under an id that no other batch has.

use std::sync::{Arc, LazyLock};

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::Utc;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use crate::Plan;

/// How many batches a run may send before it enters the next block of ids, as a power of two.
const BLOCK_BITS: u32 = 24;

/// The ids of batches are whole numbers of 63 bits, which is what BIGINT holds from zero up.
const ID_BITS: u32 = 63;

const CATEGORIES: [u8; 4] = *b"ABCD";

/// The largest value, not reached.
const VALUE_LIMIT: f64 = 100.0;

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
    /// The rows.
    pub rows: RecordBatch,
}

/// Makes the batches of one writer.
///
/// **Ids.** A run counts its ids up from a place that it draws at random: one of 2^39 blocks of 2^24 ids, in
/// steps of its number of writers, so that its writers never meet. Two runs meet only when they draw the same
/// block: for 8 loaders started together the chance is 8·7/2 in 2^39, or one in 20 billion, and for 10,000
/// runs into one table one in 11,000. (A run of more than 16,777,216 batches goes on into the next block,
/// and takes as many chances as it fills blocks.) [`Plan::first_batch_id`] takes the place of the draw.
///
/// **Rows.** Values are spread evenly over 0 to 100 (exclusive), categories over `A` to `D`, and both depend
/// on nothing but the plan's seed, the writer and the batch's place in its sequence. All rows of a batch carry
/// the time at which it was made, in UTC.
#[derive(Debug)]
pub struct BatchSource {
    random: Xoshiro256PlusPlus,
    next_id: u64,
    id_step: u64,
    rows: usize,
    /// Every category is one byte long, so that all batches share the same offsets.
    category_offsets: OffsetBuffer<i32>,
}

impl BatchSource {
    /// The sources of a run's writers, whose batches all have different ids.
    pub fn for_writers(plan: &Plan, writers: usize) -> Vec<Self> {
        let first_id = plan
            .first_batch_id
            .unwrap_or_else(|| rand::random::<u64>() << BLOCK_BITS);
        let seed = plan.seed.unwrap_or_else(rand::random);
        let step = u64::try_from(writers).expect("a count of writers fits into 64 bits");
        let rows = usize::try_from(plan.rows.get()).expect("a batch's rows fit into memory");
        let category_offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(1, rows));
        (0..step)
            .map(|writer| Self {
                random: random_of(seed, writer),
                next_id: first_id.wrapping_add(writer),
                id_step: step,
                rows,
                category_offsets: category_offsets.clone(),
            })
            .collect()
    }

    /// Makes the next batch.
    pub fn next_batch(&mut self) -> Batch {
        let id = (self.next_id & (u64::MAX >> (u64::BITS - ID_BITS))).cast_signed();
        self.next_id = self.next_id.wrapping_add(self.id_step);
        let now = Utc::now().timestamp_micros();
        let ids = Int64Array::from(vec![id; self.rows]);
        let timestamps = TimestampMicrosecondArray::from(vec![now; self.rows]);
        let values = self.values();
        let categories = self.categories();
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
        Batch { id, rows }
    }

    fn values(&mut self) -> Float64Array {
        // The 53 high bits fill a double's mantissa: every step from 0 up to, but not including, 1.
        const SCALE: f64 = VALUE_LIMIT / (1_u64 << 53) as f64;
        let values: Vec<f64> = (0..self.rows)
            .map(|_| (self.random.next_u64() >> 11) as f64 * SCALE)
            .collect();
        Float64Array::new(ScalarBuffer::from(values), None)
    }

    fn categories(&mut self) -> StringArray {
        // Two bits choose a category, so that one random number serves 32 rows.
        let mut letters = vec![0_u8; self.rows];
        for chunk in letters.chunks_mut(32) {
            let mut bits = self.random.next_u64();
            for letter in chunk {
                *letter = CATEGORIES[(bits & 3) as usize];
                bits >>= 2;
            }
        }
        StringArray::new(self.category_offsets.clone(), Buffer::from(letters), None)
    }
}

/// The random numbers of one writer; those of other writers, and of other seeds, differ.
fn random_of(seed: u64, writer: u64) -> Xoshiro256PlusPlus {
    let mut state = [0; 32];
    let mut seeder = Xoshiro256PlusPlus::seed_from_u64(seed);
    for bytes in state.chunks_mut(8) {
        let mixed = seeder.next_u64() ^ writer.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bytes.copy_from_slice(&mixed.to_le_bytes());
    }
    Xoshiro256PlusPlus::from_seed(state)
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
}
