//! Units that change rows by their key. Their tables stay small, so that every check compares all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use duck_flight_protocol::{Commit, Mode, PutOptions};
use rand::RngExt;

use super::{batch, batches, dice, longs, named, signed};
use crate::producer::{Effect, Pace, Source};
use crate::table::Check;

/// The keys that are in use.
const KEYS: i64 = 400;

/// The table as the model has it: key and value.
type Rows = BTreeMap<i64, i64>;

const PACE: Pace = Pace {
    in_flight: 6,
    each_life: 150,
};

fn by_key(kind: &str, mode: Mode, commit: Commit) -> PutOptions {
    PutOptions {
        mode,
        commit,
        key: Some(vec!["k".into()]),
        ..PutOptions::new(named(kind, commit))
    }
}

fn all_rows(source: &impl Source, rows: &Rows) -> Vec<Check> {
    let expected = rows.iter().map(|(key, value)| format!("{key}|{value}"));
    vec![Check::new(
        format!("SELECT k, v FROM {} ORDER BY k, v", source.name()),
        expected.collect(),
    )]
}

/// Upserts by key.
#[derive(Clone)]
pub(crate) struct Upsert {
    commit: Commit,
    seed: u64,
}

impl Upsert {
    pub(crate) fn new(commit: Commit, seed: u64) -> Self {
        Self { commit, seed }
    }

    /// Keys of a unit, each once, and their new values.
    fn pairs(&self, sequence: u64) -> Rows {
        let mut dice = dice(self.seed, sequence);
        let count = dice.random_range(1..100);
        let value = |at: i64| signed(sequence) * 1000 + at;
        (0..count)
            .map(|at| (dice.random_range(0..KEYS), value(at)))
            .collect()
    }
}

impl Source for Upsert {
    type Model = Rows;

    fn options(&self) -> PutOptions {
        by_key("upserted", Mode::Upsert, self.commit)
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let pairs = self.pairs(sequence);
        let unit = batch([
            ("k", longs(pairs.keys().copied())),
            ("v", longs(pairs.values().copied())),
        ]);
        batches(self.commit, unit)
    }

    fn apply(&self, model: &mut Rows, sequence: u64) {
        model.extend(self.pairs(sequence));
    }

    fn checks(&self, model: &Rows, _thorough: bool) -> Vec<Check> {
        all_rows(self, model)
    }

    fn effect(&self, sequence: u64) -> Option<Effect> {
        Some(Effect {
            rows: self.pairs(sequence).len() as u64,
            rejected: 0,
        })
    }

    fn pace(&self) -> Pace {
        PACE
    }
}

/// Inserts, updates and deletes, as each row says; a key may come several times in a unit.
#[derive(Clone)]
pub(crate) struct Changes {
    commit: Commit,
    seed: u64,
}

impl Changes {
    pub(crate) fn new(commit: Commit, seed: u64) -> Self {
        Self { commit, seed }
    }

    /// The changes of a unit. Its first one always shows.
    fn changes(&self, sequence: u64) -> Vec<(&'static str, i64, i64)> {
        let mut dice = dice(self.seed, sequence);
        let count = dice.random_range(1..100);
        let mut change = |at: i64| {
            let op = ["I", "U", "D", "i", "u", "d", "c", "r"][dice.random_range(0..8)];
            (op, dice.random_range(0..KEYS), signed(sequence) * 1000 + at)
        };
        let mut changes: Vec<_> = (1..count).map(&mut change).collect();
        changes.push(("I", -1, signed(sequence)));
        changes
    }
}

impl Source for Changes {
    type Model = Rows;

    fn options(&self) -> PutOptions {
        by_key("changed", Mode::Changes, self.commit)
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let changes = self.changes(sequence);
        let ops = changes.iter().map(|(op, ..)| *op);
        let ops: ArrayRef = Arc::new(StringArray::from_iter_values(ops));
        let unit = batch([
            ("op", ops),
            ("k", longs(changes.iter().map(|(_, key, _)| *key))),
            ("v", longs(changes.iter().map(|(.., value)| *value))),
        ]);
        batches(self.commit, unit)
    }

    fn apply(&self, model: &mut Rows, sequence: u64) {
        for (op, key, value) in self.changes(sequence) {
            if op.eq_ignore_ascii_case("d") {
                model.remove(&key);
            } else {
                model.insert(key, value);
            }
        }
    }

    fn checks(&self, model: &Rows, _thorough: bool) -> Vec<Check> {
        all_rows(self, model)
    }

    fn effect(&self, _sequence: u64) -> Option<Effect> {
        None
    }

    fn pace(&self) -> Pace {
        PACE
    }
}

/// Deletes keys of a table that had all of them.
#[derive(Clone)]
pub(crate) struct Delete(pub(crate) Commit);

/// How many keys the table has at first, and how many a unit deletes.
const DELETABLE: i64 = 2_000_000;
const DELETED_EACH: i64 = 97;

impl Source for Delete {
    /// How many keys are deleted.
    type Model = i64;

    fn options(&self) -> PutOptions {
        by_key("deleted", Mode::Delete, self.0)
    }

    fn set_up(&self) -> Option<String> {
        Some(format!(
            "CREATE TABLE {} AS SELECT range AS k, 'v' AS v FROM range({DELETABLE})",
            self.name()
        ))
    }

    fn unit(&self, sequence: u64) -> Vec<RecordBatch> {
        let end = signed(sequence) * DELETED_EACH;
        batches(self.0, batch([("k", longs(end - DELETED_EACH..end))]))
    }

    fn apply(&self, model: &mut i64, _sequence: u64) {
        *model += DELETED_EACH;
    }

    fn checks(&self, model: &i64, thorough: bool) -> Vec<Check> {
        let left = DELETABLE - model;
        let distinct = if thorough { "DISTINCT " } else { "" };
        vec![Check::new(
            format!(
                "SELECT count(*), count({distinct}k), min(k), max(k) FROM {}",
                self.name()
            ),
            vec![format!("{left}|{left}|{model}|{}", DELETABLE - 1)],
        )]
    }

    fn effect(&self, _sequence: u64) -> Option<Effect> {
        Some(Effect {
            rows: DELETED_EACH.unsigned_abs(),
            rejected: 0,
        })
    }

    fn pace(&self) -> Pace {
        PACE
    }
}
