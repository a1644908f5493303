//! The keys of maps: DuckDB wants none that is NULL and none twice, and its import does not tell in which row.

use std::collections::HashSet;
use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use super::Failure;
use super::exact::formatted;

/// Up to this many keys are compared with each other; more are hashed.
const FEW: usize = 8;

/// Fails with the first row whose keys are none of a map's. Rows that are not shown do not count.
pub(super) fn check(
    keys: &ArrayRef,
    offsets: &OffsetBuffer<i32>,
    shown: Option<&NullBuffer>,
) -> Result<(), Failure> {
    let nulls = keys.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    let encoded = encoded(keys)?;
    for (row, place) in offsets.windows(2).enumerate() {
        if shown.is_some_and(|shown| shown.is_null(row)) {
            continue;
        }
        let place = usize::try_from(place[0]).unwrap_or(0)..usize::try_from(place[1]).unwrap_or(0);
        let misfit = |reason| Err(Failure::Misfit { index: row, reason });
        let is_null = |nulls: &NullBuffer| place.clone().any(|key| nulls.is_null(key));
        if nulls.as_ref().is_some_and(is_null) {
            return misfit("a map's key is NULL".to_owned());
        }
        if let Some(encoded) = &encoded
            && let Some(key) = repeated(encoded, place)
        {
            let key = formatted(keys, key).unwrap_or_default();
            return misfit(format!("the map has the key `{key}` twice"));
        }
    }
    Ok(())
}

/// The keys in a form that tells which are the same; `None` for types that have none, which are left to DuckDB.
fn encoded(keys: &ArrayRef) -> Result<Option<Rows>, ArrowError> {
    let field = SortField::new(keys.data_type().clone());
    if !RowConverter::supports_fields(std::slice::from_ref(&field)) {
        return Ok(None);
    }
    let rows = RowConverter::new(vec![field])?.convert_columns(std::slice::from_ref(keys))?;
    Ok(Some(rows))
}

/// The first key in a place that stands there before.
fn repeated(keys: &Rows, mut place: Range<usize>) -> Option<usize> {
    if place.len() <= FEW {
        let first = place.start;
        return place.find(|&key| (first..key).any(|other| keys.row(other) == keys.row(key)));
    }
    let mut seen = HashSet::with_capacity(place.len());
    place.find(|&key| !seen.insert(keys.row(key)))
}
