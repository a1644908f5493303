//! Rows with random keys, for upserts and changes by primary key.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};

use super::{Random, TABLE};

/// One change of so many deletes its row; the others replace it, or add it again.
const CHANGES_PER_DELETE: u64 = 10;

/// The table with a row for each key.
pub(crate) fn create_table_sql(keys: u64) -> String {
    format!(
        "CREATE TABLE {TABLE} (id BIGINT PRIMARY KEY, timestamp TIMESTAMP, value DOUBLE, category VARCHAR);
         INSERT INTO {TABLE} SELECT range, TIMESTAMP '2026-01-01', 0, 'A' FROM range({keys})"
    )
}

/// Batches of rows with random keys.
pub(crate) struct Keyed {
    rows: usize,
    keys: u64,
    random: Random,
    /// Whether each row says what it does.
    has_op: bool,
}

impl Keyed {
    /// Rows that replace those with their keys.
    pub(crate) fn upserts(rows: usize, keys: u64, seed: u64) -> Self {
        Self {
            rows,
            keys,
            random: Random::new(seed),
            has_op: false,
        }
    }

    /// Rows that replace or delete those with their keys.
    pub(crate) fn changes(rows: usize, keys: u64, seed: u64) -> Self {
        Self {
            has_op: true,
            ..Self::upserts(rows, keys, seed)
        }
    }

    pub(crate) fn next_batch(&mut self) -> anyhow::Result<RecordBatch> {
        let random: Vec<u64> = (0..self.rows).map(|_| self.random.next()).collect();
        let ids = random.iter().map(|random| (random % self.keys) as i64);
        let values = random.iter().map(|random| (random >> 40) as f64 / 1e3);
        let categories = random
            .iter()
            .map(|random| ["A", "B", "C", "D"][(random >> 62) as usize]);
        let timestamps = vec![1_767_225_600_000_000 + (random[0] >> 32) as i64; self.rows];
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(ids.collect::<Int64Array>())),
            (
                "timestamp",
                Arc::new(TimestampMicrosecondArray::from(timestamps)),
            ),
            ("value", Arc::new(values.collect::<Float64Array>())),
            (
                "category",
                Arc::new(StringArray::from_iter_values(categories)),
            ),
        ];
        if self.has_op {
            let deletes = |random: &u64| (random >> 32).is_multiple_of(CHANGES_PER_DELETE);
            let ops = random
                .iter()
                .map(|random| if deletes(random) { "d" } else { "u" });
            columns.push(("op", Arc::new(StringArray::from_iter_values(ops))));
        }
        Ok(RecordBatch::try_from_iter(columns)?)
    }
}
