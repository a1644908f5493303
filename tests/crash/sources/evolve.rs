//! Units whose schema grows: every few units a column is added, and some units later it is widened.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, RecordBatch};
use duck_flight_protocol::{Commit, PutOptions, SchemaMode};

use super::{batches, longs, named, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::Check;
use crate::world::Counts;

/// After so many units there is a new column, and after so many more it is wider.
const NEW_COLUMN: u64 = 6;
const WIDER: u64 = 3;

/// There is an end to a table's columns.
const COLUMNS: u64 = 125;

const ROWS_EACH: usize = 10;
const ROWS: u64 = ROWS_EACH as u64;

/// Appends to a table that evolves.
#[derive(Clone)]
pub(crate) struct Evolve(pub(crate) Commit);

fn columns(sequence: u64) -> u64 {
    (sequence / NEW_COLUMN).min(COLUMNS)
}

/// The unit from which on a column is there.
fn born(column: u64) -> u64 {
    column * NEW_COLUMN
}

/// The values of a column are its unit, so that sums show where they are.
fn values(column: u64, sequence: u64) -> ArrayRef {
    let value = u32::try_from(sequence).expect("small");
    let values = std::iter::repeat_n(value, ROWS_EACH);
    let is_wide = sequence >= born(column) + WIDER;
    match (column.is_multiple_of(2), is_wide) {
        (true, false) => Arc::new(Int32Array::from_iter_values(
            values.map(|value| i32::try_from(value).expect("small")),
        )),
        (true, true) => longs(values.map(i64::from)),
        (false, false) => Arc::new(Float32Array::from_iter_values(
            values.map(|value| f32::from(u16::try_from(value).expect("small"))),
        )),
        (false, true) => Arc::new(Float64Array::from_iter_values(values.map(f64::from))),
    }
}

impl Source for Evolve {
    /// How many units there are.
    type Model = u64;

    fn options(&self) -> PutOptions {
        PutOptions {
            commit: self.0,
            schema: SchemaMode::Evolve,
            ..PutOptions::new(named("evolved", self.0))
        }
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let unit = std::iter::repeat_n(signed(sequence), ROWS_EACH);
        let mut all = vec![("unit".to_owned(), longs(unit))];
        for column in 1..=columns(sequence) {
            all.push((format!("c{column}"), values(column, sequence)));
        }
        let unit = RecordBatch::try_from_iter(all).expect("columns of one length");
        batches(self.0, unit)
    }

    fn apply(&self, model: &mut u64, _sequence: u64) {
        *model += 1;
    }

    fn checks(&self, model: &u64, thorough: bool) -> Vec<Check> {
        let units = *model;
        let sum = |from: u64| ROWS * (from..=units).sum::<u64>();
        let mut sql = "SELECT count(*), count(DISTINCT unit), coalesce(sum(unit), 0)".to_owned();
        let mut row = format!("{}|{units}|{}", ROWS * units, sum(1));
        // The table may have a column more already, but never one less.
        for column in (1..=columns(units)).filter(|column| thorough || column + 3 > columns(units))
        {
            let from = born(column);
            sql += &format!(
                ", count(c{column}), sum(c{column})::BIGINT, min(unit) FILTER (c{column} IS NOT NULL)"
            );
            row += &format!("|{}|{}|{from}", ROWS * (units + 1 - from), sum(from));
        }
        vec![Check::new(format!("{sql} FROM {}", self.name()), vec![row])]
    }

    fn effect(&self, _sequence: u64) -> Option<Effect> {
        Some(Effect {
            rows: ROWS,
            rejected: 0,
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            in_flight: 3,
            each_life: 30,
        }
    }

    fn count(&self, sequence: u64, counts: &mut Counts) {
        let is_new = columns(sequence) != columns(sequence - 1);
        if is_new || sequence % NEW_COLUMN == WIDER {
            counts.evolutions += 1;
        }
    }
}
