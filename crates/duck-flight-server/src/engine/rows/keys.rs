//! The keys of rows that one statement applies: of those with one key it sees only the last, whichever unit has sent them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use duckdb::ffi;

use super::plan::Plan;
use super::types::ColumnCast;
use crate::engine::ffi::ColumnShape;

/// Whether a table may refuse one row with a key and take another one, and which keys are the same to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Refusals {
    /// It refuses none of them, or all.
    Never,
    /// It may, and texts that differ are different keys.
    OfKeys,
    /// It may, and texts that differ may be one key, by a collation.
    OfCollatedKeys,
}

/// The keys of units.
pub(in crate::engine) struct Keys {
    /// `None` where values that differ may be the same to DuckDB.
    converter: Option<RowConverter>,
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl Keys {
    /// None yet. A table that `collates` may take texts for one key that differ.
    pub(in crate::engine) fn new(plan: &Plan, collates: bool) -> Self {
        let is_told = plan
            .key_casts()
            .all(|(cast, column)| is_told_by_value(cast, column, collates));
        let types = plan
            .key_casts()
            .map(|(cast, _)| SortField::new(cast.target().data_type().clone()));
        let converter = match is_told {
            true => RowConverter::new(types.collect()).ok(),
            false => None,
        };
        Self {
            converter,
            hasher: RandomState::new(),
            hashes: HashSet::new(),
        }
    }

    /// Adds the keys of another unit of the plan; false where one of them may be there already.
    pub(in crate::engine) fn add(&mut self, plan: &Plan, batches: &[RecordBatch]) -> bool {
        let Some(converter) = &self.converter else {
            return false;
        };
        let mut hashes = Vec::new();
        for batch in batches {
            let Ok(rows) = converter.convert_columns(&plan.key_values(batch)) else {
                return false;
            };
            hashes.extend(rows.iter().map(|row| self.hasher.hash_one(row.data())));
        }
        let is_new = !hashes.iter().any(|hash| self.hashes.contains(hash));
        self.hashes.extend(hashes);
        is_new
    }
}

/// Whether values of a column are the same to DuckDB only where they are the same. A zero may have a sign, an interval days or months;
/// a text may be compared by a collation, or be one of several for a value of another type.
fn is_told_by_value(cast: &ColumnCast, column: &ColumnShape, collates: bool) -> bool {
    let is_text = column.type_id == ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR;
    if is_text && collates || cast.is_read_by_duckdb(column) {
        return false;
    }
    let data_type = cast.target().data_type();
    data_type.is_integer()
        || data_type.is_decimal()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_)
        )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use duck_flight_protocol::{SchemaMode, TableName};

    use super::super::effect::Effect;
    use super::*;
    use crate::engine::catalog::Columns;
    use crate::engine::ffi::Database;

    #[test]
    fn units_meet_in_a_key() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute("CREATE TABLE t (i BIGINT, d DOUBLE)")
            .unwrap();
        let table = connection.table_columns(&TableName::from("t"));
        let table: Columns = table.unwrap().unwrap().into();
        let unit = |keys: &[i64]| {
            let keys = keys.iter().copied();
            let doubles: ArrayRef =
                Arc::new(Float64Array::from_iter_values(keys.clone().map(|_| 0.0)));
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
            RecordBatch::try_from_iter([("i", keys), ("d", doubles)]).unwrap()
        };
        let plan = |key: &[&str]| {
            let key = key.iter().map(|&name| name.to_owned()).collect();
            let effect = Effect::Upsert { key };
            Plan::new(&unit(&[]).schema(), &table, &effect, SchemaMode::Match).unwrap()
        };
        let by_integer = plan(&["i"]);
        let mut keys = Keys::new(&by_integer, true);
        assert!(keys.add(&by_integer, &[unit(&[1, 2, 1]), unit(&[2])]));
        assert!(keys.add(&by_integer, &[unit(&[3])]));
        assert!(!keys.add(&by_integer, &[unit(&[4, 2])]));
        // Where a zero may have a sign each unit counts as one that has the keys of others.
        let by_both = plan(&["i", "d"]);
        assert!(!Keys::new(&by_both, false).add(&by_both, &[unit(&[1])]));
    }

    #[test]
    fn texts_that_differ_may_be_one_key() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute("CREATE TABLE t (v VARCHAR, u UUID, h HUGEINT)")
            .unwrap();
        let table = connection.table_columns(&TableName::from("t"));
        let table: Columns = table.unwrap().unwrap().into();
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        for (column, collates, is_told) in [
            ("v", false, true),
            ("v", true, false),
            ("u", false, false),
            ("h", false, false),
        ] {
            let unit = RecordBatch::try_from_iter([(column, texts.clone())]).unwrap();
            let key = vec![column.to_owned()];
            let effect = Effect::Upsert { key };
            let plan = Plan::new(&unit.schema(), &table, &effect, SchemaMode::Match).unwrap();
            let is_new = Keys::new(&plan, collates).add(&plan, &[unit]);
            assert_eq!(is_new, is_told, "{column}");
        }
    }
}
