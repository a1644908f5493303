//! Units that add rows.

use arrow::array::RecordBatch;
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::numbered;
use rand::RngExt;

use super::{batches, dice, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::{Check, Part};

/// Appends small units.
#[derive(Clone)]
pub(crate) struct Append {
    part: Part,
    commit: Commit,
    seed: u64,
}

/// How many rows there are, and their sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    units: u64,
    rows: u64,
    sum: u64,
}

impl Append {
    pub(crate) fn new(part: Part, commit: Commit, seed: u64) -> Self {
        Self { part, commit, seed }
    }

    fn rows(&self, sequence: u64) -> u64 {
        dice(self.seed, sequence).random_range(1..1000)
    }
}

impl Source for Append {
    type Model = Sums;

    fn options(&self) -> PutOptions {
        PutOptions {
            commit: self.commit,
            ..PutOptions::new(self.part.table)
        }
    }

    fn name(&self) -> String {
        self.part.loader.into()
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let number = self.part.first + signed(sequence);
        batches(self.commit, numbered(number, signed(self.rows(sequence))))
    }

    fn apply(&self, model: &mut Sums, sequence: u64) {
        let rows = self.rows(sequence);
        model.units += 1;
        model.rows += rows;
        model.sum += rows * (rows - 1) / 2;
    }

    fn checks(&self, model: &Sums, thorough: bool) -> Vec<Check> {
        let Sums { units, rows, sum } = model;
        let (first, part) = (self.part.first, self.part.rows());
        let mut checks = vec![Check::new(
            format!(
                "SELECT count(*), coalesce(max(batch) - {first}, 0), coalesce(sum(\"row\"), 0) FROM {part}"
            ),
            vec![format!("{rows}|{units}|{sum}")],
        )];
        if thorough {
            let expected = (1..=*units).map(|unit| {
                let rows = self.rows(unit);
                format!("{}|{rows}|{rows}|0|{}", first + signed(unit), rows - 1)
            });
            checks.push(Check::new(
                format!(
                    "SELECT batch, count(*), count(DISTINCT \"row\"), min(\"row\"), max(\"row\") FROM {part} \
                     GROUP BY batch ORDER BY batch"
                ),
                expected.collect(),
            ));
        }
        checks
    }

    fn effect(&self, sequence: u64) -> Option<Effect> {
        Some(Effect {
            rows: self.rows(sequence),
            rejected: 0,
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            in_flight: 8,
            each_life: 300,
        }
    }
}
