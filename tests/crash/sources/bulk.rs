//! Units of many rows: groups that are full, and units too large for the buffer.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::numbered;

use super::{batch, longs, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::Check;
use crate::world::Counts;

/// Rows of a batch, three of which fill a group.
const GROUP_THIRD: i64 = 44_000;

/// A unit of more than 1,048,576 rows.
const LARGE_BATCHES: i64 = 16;
const LARGE_BATCH_ROWS: i64 = 66_000;

/// A unit of more than 32 MiB: rows of a KiB.
const WIDE_BATCHES: i64 = 17;
const WIDE_BATCH_ROWS: i64 = 2048;
const WIDE_BYTES: usize = 1024;

/// Appends units of the same number of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bulk {
    /// Several batches fill a group.
    Groups,
    /// Too many rows for the buffer.
    Large,
    /// Too many bytes for the buffer.
    Wide,
}

impl Bulk {
    fn table(self) -> &'static str {
        match self {
            Self::Groups => "full_groups",
            Self::Large => "large_units",
            Self::Wide => "wide_units",
        }
    }

    fn rows(self) -> i64 {
        match self {
            Self::Groups => GROUP_THIRD,
            Self::Large => LARGE_BATCHES * LARGE_BATCH_ROWS,
            Self::Wide => WIDE_BATCHES * WIDE_BATCH_ROWS,
        }
    }
}

fn part(sequence: i64, first: i64, rows: i64) -> RecordBatch {
    let units = std::iter::repeat_n(sequence, usize::try_from(rows).expect("positive"));
    batch([("batch", longs(units)), ("row", longs(first..first + rows))])
}

fn wide_part(sequence: i64, first: i64) -> RecordBatch {
    let rows = first..first + WIDE_BATCH_ROWS;
    let texts = rows.clone().map(|row| format!("{row:>WIDE_BYTES$}"));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let units = rows.clone().map(|_| sequence);
    batch([
        ("batch", longs(units)),
        ("row", longs(rows)),
        ("text", texts),
    ])
}

impl Source for Bulk {
    /// How many units there are.
    type Model = u64;

    fn options(&self) -> PutOptions {
        PutOptions {
            commit: match self {
                Self::Groups => Commit::Batch,
                Self::Large | Self::Wide => Commit::Stream,
            },
            ..PutOptions::new(self.table())
        }
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let unit = signed(sequence);
        match self {
            Self::Groups => vec![numbered(unit, GROUP_THIRD)],
            Self::Large => (0..LARGE_BATCHES)
                .map(|index| part(unit, index * LARGE_BATCH_ROWS, LARGE_BATCH_ROWS))
                .collect(),
            Self::Wide => (0..WIDE_BATCHES)
                .map(|index| wide_part(unit, index * WIDE_BATCH_ROWS))
                .collect(),
        }
    }

    fn schema(&self, sequence: u64) -> arrow::datatypes::SchemaRef {
        match self {
            Self::Groups | Self::Large => numbered(0, 0).schema(),
            Self::Wide => wide_part(signed(sequence), 0).schema(),
        }
    }

    fn apply(&self, model: &mut u64, _sequence: u64) {
        *model += 1;
    }

    fn checks(&self, model: &u64, thorough: bool) -> Vec<Check> {
        let (name, rows, units) = (self.table(), self.rows(), signed(*model));
        let mut checks = vec![Check::new(
            format!("SELECT count(*), coalesce(max(batch), 0) FROM {name}"),
            vec![format!("{}|{units}", rows * units)],
        )];
        if thorough {
            // Each row is there once if their number, their sum and the sum of their squares say so.
            let sum = rows * (rows - 1) / 2;
            let squares = i128::from(rows - 1) * i128::from(rows) * i128::from(2 * rows - 1) / 6;
            let bad_texts = match self {
                Self::Wide => "count(*) FILTER (text <> lpad(\"row\"::VARCHAR, 1024, ' '))",
                Self::Groups | Self::Large => "0",
            };
            let expected =
                (1..=units).map(|unit| format!("{unit}|{rows}|0|{}|{sum}|{squares}|0", rows - 1));
            checks.push(Check::new(
                format!(
                    "SELECT batch, count(*), min(\"row\"), max(\"row\"), sum(\"row\"), \
                     sum(\"row\" * \"row\"), {bad_texts} FROM {name} GROUP BY batch ORDER BY batch"
                ),
                expected.collect(),
            ));
        }
        checks
    }

    fn effect(&self, _sequence: u64) -> Option<Effect> {
        Some(Effect {
            rows: self.rows().unsigned_abs(),
            rejected: 0,
        })
    }

    fn pace(&self) -> Pace {
        match self {
            Self::Groups => Pace {
                in_flight: 8,
                each_life: 24,
            },
            Self::Large | Self::Wide => Pace {
                in_flight: 1,
                each_life: 1,
            },
        }
    }

    fn is_large(&self) -> bool {
        matches!(self, Self::Large | Self::Wide)
    }

    fn count(&self, _sequence: u64, counts: &mut Counts) {
        match self {
            Self::Groups => {}
            Self::Large | Self::Wide => counts.large_units += 1,
        }
    }
}
