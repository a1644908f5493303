//! The kinds of units, each with its model.

mod append;
mod bulk;
mod evolve;
mod keyed;
mod rejects;
mod wide;

pub(crate) use append::Append;
pub(crate) use bulk::Bulk;
pub(crate) use evolve::Evolve;
pub(crate) use keyed::{Changes, Delete, Upsert};
pub(crate) use rejects::Rejects;
pub(crate) use wide::Wide;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duck_flight_protocol::Commit;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The dice of a unit: the same unit always throws the same.
fn dice(seed: u64, sequence: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A column of 64-bit integers.
fn longs(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// A batch of these columns.
fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// The batches of a unit: several where a put is one.
fn batches(commit: Commit, unit: RecordBatch) -> Vec<RecordBatch> {
    let half = unit.num_rows() / 2;
    if commit == Commit::Batch || half == 0 {
        return vec![unit];
    }
    vec![
        unit.slice(0, half),
        unit.slice(half, unit.num_rows() - half),
    ]
}

/// The name of a table that is loaded in one of the ways to commit.
fn named(kind: &str, commit: Commit) -> String {
    match commit {
        Commit::Stream => format!("{kind}_stream"),
        Commit::Batch => format!("{kind}_batch"),
    }
}

/// A count as SQL has it.
fn signed(count: u64) -> i64 {
    i64::try_from(count).expect("small")
}
