//! Values that hold others: lists, structs, maps, unions, and the encodings of Arrow that stand for one.

use arrow::array::{Array, AsArray, RunArray};
use arrow::datatypes::*;
use duckdb::ffi;

use super::super::Result;
use super::super::arrow_type::logical_type;
use super::{Value, no_value, refused, value};

/// How deep a nested value may be: far more than anyone needs, far less than the stack holds.
pub(in crate::engine) const MAX_DEPTH: usize = 64;

/// How many values those of one row may hold: DuckDB keeps each in some hundred bytes, whatever its type.
const MAX_ELEMENTS: usize = 1 << 20;

/// A value of a type that holds others.
pub(super) fn nested(
    field: &Field,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    extent.deeper()?;
    let made = holder(field, array, row, extent)?;
    extent.depth -= 1;
    Ok(made)
}

fn holder(field: &Field, array: &dyn Array, row: usize, extent: &mut Extent) -> Result<Value> {
    match array.data_type() {
        DataType::Dictionary(..) => {
            // Of the one row: the keys come all at once.
            let row = array.slice(row, 1);
            let dictionary = row.as_any_dictionary();
            let values = dictionary.values();
            let key = dictionary.normalized_keys()[0];
            let field = Field::new("", values.data_type().clone(), true);
            value(&field, values, key, extent)
        }
        DataType::RunEndEncoded(ends, values) => match ends.data_type() {
            DataType::Int16 => run::<Int16Type>(values, array, row, extent),
            DataType::Int32 => run::<Int32Type>(values, array, row, extent),
            _ => run::<Int64Type>(values, array, row, extent),
        },
        DataType::List(child) => list(child, &*array.as_list::<i32>().value(row), extent),
        DataType::LargeList(child) => list(child, &*array.as_list::<i64>().value(row), extent),
        DataType::ListView(child) => list(child, &*array.as_list_view::<i32>().value(row), extent),
        DataType::LargeListView(child) => {
            list(child, &*array.as_list_view::<i64>().value(row), extent)
        }
        DataType::FixedSizeList(child, _) => fixed_size_list(child, array, row, extent),
        DataType::Struct(children) => structure(field, children, array, row, extent),
        DataType::Map(entries, _) => map(field, entries, array, row, extent),
        DataType::Union(members, UnionMode::Sparse) => union(field, members, array, row, extent),
        other => Err(no_value(other)),
    }
}

fn run<R: RunEndIndexType>(
    values: &Field,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let runs: Option<&RunArray<R>> = array.as_run_opt();
    let runs = runs.ok_or_else(|| no_value(array.data_type()))?;
    value(values, runs.values(), runs.get_physical_index(row), extent)
}

fn list(child: &Field, elements: &dyn Array, extent: &mut Extent) -> Result<Value> {
    let mut values = Values::all(child, elements, extent)?;
    let logical = logical_type(child, extent.depth)?;
    let count = values.raw.len() as u64;
    // SAFETY: the type and the `count` values are live; DuckDB copies both.
    let raw = unsafe { ffi::duckdb_create_list_value(logical.0, values.raw.as_mut_ptr(), count) };
    Value::made(raw, child.data_type())
}

/// How deep the value is that is being made, and how much the row holds so far.
#[derive(Default)]
pub(super) struct Extent {
    depth: usize,
    elements: usize,
}

impl Extent {
    /// Goes into a value.
    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(refused(format!(
                "the value is nested deeper than {MAX_DEPTH}"
            )));
        }
        Ok(())
    }

    /// Counts values before they are made.
    fn count(&mut self, elements: usize) -> Result<()> {
        self.elements += elements;
        if self.elements > MAX_ELEMENTS {
            return Err(refused(format!(
                "the values hold more than {MAX_ELEMENTS} others; send them as rows"
            )));
        }
        Ok(())
    }
}

fn fixed_size_list(
    child: &Field,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let elements = array.as_fixed_size_list().value(row);
    let mut values = Values::all(child, &*elements, extent)?;
    let logical = logical_type(child, extent.depth)?;
    let count = values.raw.len() as u64;
    // SAFETY: the type and the `count` values are live; DuckDB copies both.
    let raw = unsafe { ffi::duckdb_create_array_value(logical.0, values.raw.as_mut_ptr(), count) };
    Value::made(raw, array.data_type())
}

fn structure(
    field: &Field,
    children: &Fields,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let columns = array.as_struct().columns();
    extent.count(columns.len())?;
    let values = children.iter().zip(columns);
    let values = values.map(|(child, column)| value(child, column, row, extent));
    let mut values = Values::new(values.collect::<Result<_>>()?);
    let logical = logical_type(field, extent.depth)?;
    // SAFETY: the type is a struct with as many fields as there are values; DuckDB copies both.
    let raw = unsafe { ffi::duckdb_create_struct_value(logical.0, values.raw.as_mut_ptr()) };
    Value::made(raw, array.data_type())
}

fn map(
    field: &Field,
    entries: &Field,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(no_value(array.data_type()));
    };
    let found = array.as_map().value(row);
    let mut keys = Values::all(&pair[0], found.column(0), extent)?;
    let mut values = Values::all(&pair[1], found.column(1), extent)?;
    let logical = logical_type(field, extent.depth)?;
    let count = keys.raw.len() as u64;
    let (keys, values) = (keys.raw.as_mut_ptr(), values.raw.as_mut_ptr());
    // SAFETY: the type is a map, and both arrays hold `count` live values; DuckDB copies all.
    let raw = unsafe { ffi::duckdb_create_map_value(logical.0, keys, values, count) };
    Value::made(raw, array.data_type())
}

fn union(
    field: &Field,
    members: &UnionFields,
    array: &dyn Array,
    row: usize,
    extent: &mut Extent,
) -> Result<Value> {
    let union = array.as_union();
    let id = union.type_id(row);
    let member = (0..).zip(members.iter()).find(|(_, (of, _))| *of == id);
    let (index, (_, member)) = member.ok_or_else(|| no_value(field.data_type()))?;
    extent.count(1)?;
    let held = union.child(id);
    // A member is of its type, also where it is NULL.
    let held = match held.is_null(row) {
        true => Value::null_of(member),
        false => value(member, held, row, extent)?,
    };
    let logical = logical_type(field, extent.depth)?;
    // SAFETY: the type is a union and the value live; DuckDB copies both, and checks that they fit.
    let raw = unsafe { ffi::duckdb_create_union_value(logical.0, index, held.0) };
    Value::made(raw, field.data_type())
}

/// Values, and the same as the C API takes them.
struct Values {
    raw: Vec<ffi::duckdb_value>,
    _owned: Vec<Value>,
}

impl Values {
    fn new(owned: Vec<Value>) -> Self {
        let raw = owned.iter().map(|value| value.0).collect();
        Self { raw, _owned: owned }
    }

    fn all(field: &Field, array: &dyn Array, extent: &mut Extent) -> Result<Self> {
        extent.count(array.len())?;
        let values = (0..array.len()).map(|row| value(field, array, row, extent));
        Ok(Self::new(values.collect::<Result<_>>()?))
    }
}
