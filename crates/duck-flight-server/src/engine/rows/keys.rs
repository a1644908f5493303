//! The keys of rows that one statement applies: of those with one key it sees only the last, whichever unit has sent them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use super::plan::Plan;

/// The keys of units.
pub(in crate::engine) struct Keys {
    /// `None` where values that differ may be the same to DuckDB.
    converter: Option<RowConverter>,
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl Keys {
    /// None yet.
    pub(in crate::engine) fn new(plan: &Plan) -> Self {
        let types = plan.key_types();
        let converter = match types.iter().all(is_told_by_value) {
            true => RowConverter::new(types.into_iter().map(SortField::new).collect()).ok(),
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

/// Whether values of a type are the same to DuckDB only where they are the same. A zero may have a sign, an interval days or months.
fn is_told_by_value(data_type: &DataType) -> bool {
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

    use arrow::array::{ArrayRef, Float64Array, Int64Array};
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
        let mut keys = Keys::new(&by_integer);
        assert!(keys.add(&by_integer, &[unit(&[1, 2, 1]), unit(&[2])]));
        assert!(keys.add(&by_integer, &[unit(&[3])]));
        assert!(!keys.add(&by_integer, &[unit(&[4, 2])]));
        // Where a zero may have a sign each unit counts as one that has the keys of others.
        let by_both = plan(&["i", "d"]);
        assert!(!Keys::new(&by_both).add(&by_both, &[unit(&[1])]));
    }
}
