//! The model: what is sent, and the tables that it must come to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::Mode;

/// A row as it is sent: what to do, its key, its value, and the value of the column that comes later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) deletes: bool,
    pub(super) key: i64,
    pub(super) value: i64,
    /// Whether its value is one that the table cannot hold, where such rows are put aside.
    pub(super) is_bad: bool,
    pub(super) late: Option<i32>,
}

#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) sequence: u64,
    pub(super) mode: Mode,
    pub(super) rows: Vec<Row>,
    /// Whether bad rows are put aside; otherwise there are none.
    pub(super) rejects: bool,
    /// The type of the late column in this unit, where it has one.
    pub(super) late: Late,
}

/// The late column's default where a client adds it by SQL.
pub(super) const LATE_DEFAULT: i32 = 7;

/// What the late column of a table has become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    #[default]
    Missing,
    Int,
    BigInt,
}

/// A table as it must be: its rows in order, and how far each producer has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) exists: bool,
    rows: Vec<(i64, i64, Option<i32>)>,
    /// How many rows were put aside.
    pub(super) rejected: u64,
    late: Late,
    /// What the late column is in a row that is sent without it.
    default: Option<i32>,
    /// The schema the next units have.
    pub(super) next: Late,
    pub(super) sequences: [u64; 2],
    /// What each producer sent last.
    pub(super) sent: [Vec<Unit>; 2],
}

impl Unit {
    fn deletes(&self, row: &Row) -> bool {
        self.mode == Mode::Delete || (self.mode == Mode::Changes && row.deletes)
    }

    /// Whether a row is put aside. One that deletes has nothing but its key.
    fn puts_aside(&self, row: &Row) -> bool {
        self.rejects && row.is_bad && !self.deletes(row)
    }

    /// How many rows are put aside.
    pub(super) fn rejected(&self) -> u64 {
        let rejected = self.rows.iter().filter(|row| self.puts_aside(row));
        rejected.count() as u64
    }

    /// The values as they are sent: as text where one is no number.
    fn values(&self) -> ArrayRef {
        if !self.rejects {
            let values = self.rows.iter().map(|row| row.value);
            return Arc::new(Int64Array::from_iter_values(values));
        }
        let texts = self.rows.iter().map(|row| match self.puts_aside(row) {
            true => "no number".to_owned(),
            false => row.value.to_string(),
        });
        Arc::new(StringArray::from_iter_values(texts))
    }

    /// The unit as it is sent.
    pub(super) fn batch(&self) -> RecordBatch {
        let keys = self.rows.iter().map(|row| row.key);
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        let mut columns = vec![("k", keys)];
        if self.mode != Mode::Delete {
            columns.push(("v", self.values()));
            let late = self.rows.iter().map(|row| row.late);
            match self.late {
                Late::Missing => {}
                Late::Int => columns.push(("late", Arc::new(Int32Array::from_iter(late)))),
                Late::BigInt => {
                    let late = Int64Array::from_iter(late.map(|late| late.map(i64::from)));
                    columns.push(("late", Arc::new(late)));
                }
            }
        }
        if self.mode == Mode::Changes {
            let ops = self
                .rows
                .iter()
                .map(|row| if row.deletes { "D" } else { "I" });
            columns.push(("op", Arc::new(StringArray::from_iter_values(ops))));
        }
        // Nullable whether this batch has a NULL or not: all batches of a put have one schema.
        let columns = columns
            .into_iter()
            .map(|(name, column)| (name, column, true));
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    }
}

impl Table {
    pub(super) fn apply(&mut self, unit: &Unit) {
        self.exists = true;
        self.late = self.late.max(unit.late);
        self.rejected += unit.rejected();
        for row in unit.rows.iter().filter(|row| !unit.puts_aside(row)) {
            if unit.mode != Mode::Append {
                self.rows.retain(|(key, ..)| *key != row.key);
            }
            if !unit.deletes(row) {
                let late = match unit.late {
                    // No row that such a unit replaces has anything else, for none comes behind one with the column.
                    Late::Missing => self.default,
                    Late::Int | Late::BigInt => row.late,
                };
                self.rows.push((row.key, row.value, late));
            }
        }
    }

    /// Adds the late column, if it is not there yet, with its default in all rows.
    pub(super) fn add_late(&mut self) {
        if self.late == Late::Missing {
            self.late = Late::Int;
            self.default = Some(LATE_DEFAULT);
            for (.., late) in &mut self.rows {
                *late = self.default;
            }
        }
    }

    /// The rows as SQL shows them.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        // NULL comes last, as in DuckDB.
        rows.sort_by_key(|(key, value, late)| (*key, *value, late.is_none(), *late));
        let late = |late: Option<i32>| late.map_or("NULL".into(), |late| late.to_string());
        let shown = rows.into_iter().map(|(key, value, x)| match self.late {
            Late::Missing => format!("{key}|{value}"),
            Late::Int | Late::BigInt => format!("{key}|{value}|{}", late(x)),
        });
        shown.collect()
    }
}

/// The last row of each key.
pub(super) fn one_of_each_key(rows: &[Row]) -> Vec<Row> {
    let by_key: BTreeMap<_, _> = rows.iter().map(|row| (row.key, *row)).collect();
    by_key.into_values().collect()
}

/// All orders in which the units of two producers may be committed.
pub(super) fn orders<'u>(one: &'u [Unit], other: &'u [Unit]) -> Vec<Vec<&'u Unit>> {
    let (Some((first, rest)), Some((second, left))) = (one.split_first(), other.split_first())
    else {
        return vec![one.iter().chain(other).collect()];
    };
    let begin_with = |unit, orders: Vec<Vec<&'u Unit>>| {
        let begun = |order: Vec<&'u Unit>| [vec![unit], order].concat();
        orders.into_iter().map(begun).collect::<Vec<_>>()
    };
    let mut all = begin_with(first, orders(rest, other));
    all.extend(begin_with(second, orders(one, left)));
    all
}
