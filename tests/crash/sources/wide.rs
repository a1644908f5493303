//! Units of some MiB that do more than to add rows. To a server with a small buffer for what is ingested they are large,
//! to any other they are small.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use duck_flight_protocol::{Mode, OnError, PutOptions, SchemaMode};

use super::{longs, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::Check;
use crate::world::Counts;

/// A unit has more than 4 MiB: rows of a KiB.
const ROWS: i64 = 4352;
const BATCH_ROWS: usize = 256;
const TEXT_BYTES: usize = 1024;

/// Each unit begins so many keys behind the one before it, and so has half of its keys.
const STEP: i64 = ROWS / 2;

/// The first units add a column each.
const COLUMNS: u64 = 40;

/// Of so many keys one is refused by the table, and the next one's value is no INTEGER.
const BAD_EVERY: i64 = 100;
const TOO_LARGE: i64 = 1 << 40;

/// What the units do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wide {
    /// They upsert.
    Upsert,
    /// They upsert, and delete what is left of the unit before them.
    Changes,
    /// They add rows, some of which are bad.
    Rejects,
    /// They add rows, and columns.
    Evolve,
}

impl Wide {
    fn table(self) -> &'static str {
        match self {
            Self::Upsert => "wide_upserted",
            Self::Changes => "wide_changed",
            Self::Rejects => "wide_picky",
            Self::Evolve => "wide_evolved",
        }
    }

    /// The key with which a unit begins.
    fn first_key(unit: i64) -> i64 {
        (unit - 1) * STEP
    }

    /// What a unit does to which keys.
    fn changes(self, unit: i64) -> Vec<(&'static str, i64)> {
        let first = Self::first_key(unit);
        let before = Self::first_key(unit - 1).max(0)..first;
        let deleted = before.filter(|_| self == Self::Changes);
        let deleted = deleted.map(|key| ("D", key));
        let put = (first..first + ROWS).map(|key| ("U", key));
        deleted.chain(put).collect()
    }

    fn value(self, unit: i64, key: i64) -> i64 {
        match self {
            Self::Rejects if key % BAD_EVERY == 1 => TOO_LARGE,
            _ => unit,
        }
    }

    fn is_bad(self, key: i64) -> bool {
        self == Self::Rejects && key % BAD_EVERY <= 1
    }

    fn bad_rows(self, unit: i64) -> u64 {
        let changes = self.changes(unit);
        changes.iter().filter(|(_, key)| self.is_bad(*key)).count() as u64
    }

    /// The keys that are there once `units` are, with the value `unit`.
    fn keys_of(self, unit: i64, units: i64) -> Vec<i64> {
        let first = Self::first_key(unit);
        let end = match self {
            Self::Changes if unit < units => first,
            Self::Upsert if unit < units => first + STEP,
            _ => first + ROWS,
        };
        (first..end).filter(|key| !self.is_bad(*key)).collect()
    }
}

impl Source for Wide {
    /// How many units there are.
    type Model = u64;

    fn options(&self) -> PutOptions {
        let mut options = PutOptions::new(self.table());
        let key = Some(vec!["k".into()]);
        match self {
            Self::Upsert => (options.mode, options.key) = (Mode::Upsert, key),
            Self::Changes => (options.mode, options.key) = (Mode::Changes, key),
            Self::Rejects => options.on_error = OnError::Reject,
            Self::Evolve => options.schema = SchemaMode::Evolve,
        }
        options
    }

    fn set_up(&self) -> Option<String> {
        let sql = format!(
            "CREATE TABLE {} (k BIGINT CHECK (k % {BAD_EVERY} <> 0), v INTEGER, text VARCHAR)",
            self.table()
        );
        (*self == Self::Rejects).then_some(sql)
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let unit = signed(sequence);
        let changes = self.changes(unit);
        let texts = changes.iter().map(|(op, key)| match *op {
            "D" => String::new(),
            _ => format!("{key:>TEXT_BYTES$}"),
        });
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let values = changes.iter().map(|(_, key)| self.value(unit, *key));
        let mut columns = vec![
            ("k".to_owned(), longs(changes.iter().map(|(_, key)| *key))),
            ("v".to_owned(), longs(values)),
            ("text".to_owned(), text),
        ];
        if *self == Self::Changes {
            let ops = changes.iter().map(|(op, _)| *op);
            columns.push((
                "op".to_owned(),
                Arc::new(StringArray::from_iter_values(ops)),
            ));
        }
        if *self == Self::Evolve && sequence <= COLUMNS {
            columns.push((format!("c{unit}"), longs(changes.iter().map(|_| unit))));
        }
        let whole = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let starts = (0..whole.num_rows()).step_by(BATCH_ROWS);
        let batch = |start| whole.slice(start, BATCH_ROWS.min(whole.num_rows() - start));
        starts.map(batch).collect()
    }

    fn apply(&self, model: &mut u64, _sequence: u64) {
        *model += 1;
    }

    fn checks(&self, model: &u64, thorough: bool) -> Vec<Check> {
        let (table, units) = (self.table(), signed(*model));
        let bad_texts = match thorough {
            true => "count(*) FILTER (text <> lpad(k::VARCHAR, 1024, ' '))",
            false => "0",
        };
        let rows = (1..=units).filter_map(|unit| {
            let keys = self.keys_of(unit, units);
            let (first, last) = (keys.first()?, keys.last()?);
            Some(format!("{unit}|{n}|{n}|{first}|{last}|0", n = keys.len()))
        });
        let mut checks = vec![Check::new(
            format!(
                "SELECT v, count(*), count(DISTINCT k), min(k), max(k), {bad_texts} FROM {table} \
                 GROUP BY v ORDER BY v"
            ),
            rows.collect(),
        )];
        if *self == Self::Rejects {
            let rejects = (1..=units).map(|unit| {
                let bad = self.bad_rows(unit);
                format!("{unit}|{bad}|{bad}")
            });
            checks.push(Check::new(
                format!(
                    "SELECT \"sequence\", count(*), count(DISTINCT \"row\") FROM duck_flight.rejects \
                     WHERE producer = '{table}' GROUP BY ALL ORDER BY ALL"
                ),
                rejects.collect(),
            ));
        }
        if *self == Self::Evolve {
            // The table may have a column more already, but never one less.
            let (mut sql, mut sums) = ("count(*)".to_owned(), (ROWS * units).to_string());
            for column in 1..=units.min(signed(COLUMNS)) {
                sql += &format!(", sum(c{column})");
                sums += &format!("|{}", ROWS * column);
            }
            checks.push(Check::new(format!("SELECT {sql} FROM {table}"), vec![sums]));
        }
        checks
    }

    fn effect(&self, sequence: u64) -> Option<Effect> {
        let unit = signed(sequence);
        let rejected = self.bad_rows(unit);
        Some(Effect {
            rows: self.changes(unit).len() as u64 - rejected,
            rejected,
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            in_flight: 1,
            each_life: 2,
        }
    }

    fn is_large(&self) -> bool {
        true
    }

    fn count(&self, sequence: u64, counts: &mut Counts) {
        counts.large_units += 1;
        if *self == Self::Evolve && sequence <= COLUMNS {
            counts.evolutions += 1;
        }
    }
}
