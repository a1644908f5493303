//! Units some rows of which are bad: they go to the rejects, each once.

use arrow::array::RecordBatch;
use duck_flight_protocol::{Commit, OnError, PutOptions};
use rand::RngExt;

use super::{batch, batches, dice, longs, named, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::Check;

/// Every so many rows one does not cast, and one breaks a constraint.
const BAD_CAST: u64 = 7;
const BAD_CHECK: u64 = 11;

/// A value that is no INTEGER, and one that the table refuses.
const TOO_LARGE: i64 = 1 << 40;
const FORBIDDEN: i64 = -1;

/// Appends rows some of which are bad.
#[derive(Clone)]
pub(crate) struct Rejects {
    name: String,
    commit: Commit,
    seed: u64,
}

/// Good and bad rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    units: u64,
    good: u64,
    bad: u64,
}

impl Rejects {
    pub(crate) fn new(commit: Commit, seed: u64) -> Self {
        let name = named("picky", commit);
        Self { name, commit, seed }
    }

    fn rows(&self, sequence: u64) -> u64 {
        dice(self.seed, sequence).random_range(1..200)
    }

    /// The value of a row, counted from 1.
    fn value(row: u64) -> i64 {
        match row {
            row if row.is_multiple_of(BAD_CAST) => TOO_LARGE,
            row if row.is_multiple_of(BAD_CHECK) => FORBIDDEN,
            row => signed(row),
        }
    }

    fn is_bad(row: u64) -> bool {
        row.is_multiple_of(BAD_CAST) || row.is_multiple_of(BAD_CHECK)
    }
}

impl Source for Rejects {
    type Model = Counted;

    fn options(&self) -> PutOptions {
        PutOptions {
            commit: self.commit,
            on_error: OnError::Reject,
            ..PutOptions::new(self.name.as_str())
        }
    }

    fn set_up(&self) -> Option<String> {
        Some(format!(
            "CREATE TABLE {} (unit BIGINT, \"row\" BIGINT, value INTEGER CHECK (value > 0))",
            self.name
        ))
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let rows = self.rows(sequence);
        let unit = batch([
            ("unit", longs((1..=rows).map(|_| signed(sequence)))),
            ("row", longs((1..=rows).map(signed))),
            ("value", longs((1..=rows).map(Self::value))),
        ]);
        batches(self.commit, unit)
    }

    fn apply(&self, model: &mut Counted, sequence: u64) {
        let rows = self.rows(sequence);
        let bad = (1..=rows).filter(|row| Self::is_bad(*row)).count() as u64;
        model.units += 1;
        model.good += rows - bad;
        model.bad += bad;
    }

    fn checks(&self, model: &Counted, thorough: bool) -> Vec<Check> {
        let Counted { units, good, bad } = model;
        let name = &self.name;
        let rejects = format!("duck_flight.rejects WHERE producer = '{name}'");
        let mut checks = vec![
            Check::new(
                format!("SELECT count(*) FROM {name}"),
                vec![good.to_string()],
            ),
            Check::new(
                format!("SELECT count(*) FROM {rejects}"),
                vec![bad.to_string()],
            ),
        ];
        if thorough {
            let rows = |bad: bool| {
                let of_unit = move |unit| (1..=self.rows(unit)).map(move |row| (unit, row));
                (1..=*units)
                    .flat_map(of_unit)
                    .filter(move |(_, row)| Self::is_bad(*row) == bad)
            };
            let good_rows = rows(false).map(|(unit, row)| format!("{unit}|{row}|{row}"));
            let bad_rows = rows(true).map(|(unit, row)| format!("{unit}|{row}"));
            checks.push(Check::new(
                format!("SELECT unit, \"row\", value FROM {name} ORDER BY ALL"),
                good_rows.collect(),
            ));
            checks.push(Check::new(
                format!("SELECT \"sequence\", \"row\" FROM {rejects} ORDER BY ALL"),
                bad_rows.collect(),
            ));
        }
        checks
    }

    fn effect(&self, sequence: u64) -> Option<Effect> {
        let rows = self.rows(sequence);
        let rejected = (1..=rows).filter(|row| Self::is_bad(*row)).count() as u64;
        Some(Effect {
            rows: rows - rejected,
            rejected,
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            in_flight: 6,
            each_life: 100,
        }
    }
}
