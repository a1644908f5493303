//! Lists, structs, maps and unions on their way in. What is inside is cast by the rules of columns, so that it loses
//! nothing and is spelled out; DuckDB then matches the fields by their names.
//!
//! DuckDB's import must not see dictionaries in there: it reads wrong values where a list starts at an offset. Nor must it see
//! lists below a NULL: in a fixed-size list of lists DuckDB 1.5.5 then gives elements of theirs to the rows behind, and of a map
//! it checks keys that no row shows.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBufferBuilder, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, StructArray, UnionArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, UnionFields, UnionMode};
use arrow::error::ArrowError;

use super::{ColumnShape, Conversion, Failure, cannot_become, keys, same_name};

/// How nested values become a column's, and as what DuckDB imports them; or why they cannot.
pub(super) fn conversion(
    from: &DataType,
    column: &ColumnShape,
) -> Result<(Conversion, DataType), String> {
    use DataType::{
        Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, RunEndEncoded,
        Struct, Union,
    };
    match from {
        Dictionary(_, values) => return unpacked(from, values, column),
        RunEndEncoded(_, values) => return unpacked(from, values.data_type(), column),
        ListView(element) => return unpacked(from, &List(element.clone()), column),
        LargeListView(element) => return unpacked(from, &LargeList(element.clone()), column),
        _ => {}
    }
    let inside = column.children();
    let (conversion, target) = match (from, column.field.data_type(), inside.as_slice()) {
        (List(element), List(_) | FixedSizeList(..), [column]) => {
            let (conversion, element) = elements(element, column)?;
            (conversion, List(element))
        }
        (LargeList(element), List(_) | FixedSizeList(..), [column]) => {
            let (conversion, element) = elements(element, column)?;
            (conversion, LargeList(element))
        }
        (FixedSizeList(element, size), List(_) | FixedSizeList(..), [column]) => {
            let (inner, element) = part(element, column)?;
            let (inner, element) = match is_list(element.data_type()) {
                true => (inner.hiding(), nullable(&element)),
                false => (inner, element),
            };
            (
                Conversion::Elements(element.clone(), Box::new(inner)),
                FixedSizeList(element, *size),
            )
        }
        (Map(entries, sorted), Map(..), [key, value]) => {
            let (conversion, entries) = map_entries(entries, [key, value])?;
            (conversion, Map(entries, *sorted))
        }
        (Struct(fields), Struct(_), columns) if !fields.is_empty() => {
            let (conversions, fields) = fields_by_name(fields, columns)?;
            (
                Conversion::Fields(fields.clone(), conversions),
                Struct(fields),
            )
        }
        // The fields' names are the keys.
        (Struct(fields), Map(..), [_, value]) if !fields.is_empty() => {
            let names = fields.iter().map(|field| field.name().as_str());
            if let Some(name) = first_repeated(names) {
                return Err(format!(
                    "it has two fields `{name}`, and a map no key twice"
                ));
            }
            let pairs = fields.iter().map(|field| (field, value));
            let (conversions, fields) = each(pairs)?;
            (
                Conversion::Fields(fields.clone(), conversions),
                Struct(fields),
            )
        }
        (Union(members, UnionMode::Sparse), Union(..), columns) => {
            let (conversions, target) = union_members(members, columns)?;
            (
                Conversion::Members(target.clone(), conversions),
                Union(target, UnionMode::Sparse),
            )
        }
        // One member of the union may be of this very type.
        (_, Union(..), columns) if !matches!(from, Union(..)) => {
            let same = columns.iter().find_map(|column| {
                let (found, target) = conversion(from, column).ok()?;
                let is_same = with_nulls(&target) == with_nulls(from);
                (is_same && found.is_check()).then_some((found, target))
            });
            same.ok_or_else(|| cannot_become(from, column))?
        }
        _ => return Err(cannot_become(from, column)),
    };
    match target == *from && conversion.changes_nothing() {
        true => Ok((Conversion::Keep, target)),
        false => Ok((conversion, target)),
    }
}

/// In an encoding that DuckDB's import takes, and then as that.
fn unpacked(
    from: &DataType,
    plain: &DataType,
    column: &ColumnShape,
) -> Result<(Conversion, DataType), String> {
    if !can_cast_types(from, plain) {
        return Err(cannot_become(from, column));
    }
    let (inner, target) = conversion(plain, column)?;
    Ok((Conversion::Unpack(plain.clone(), Box::new(inner)), target))
}

/// The conversion of a field, and the field that it makes: without an extension type, which DuckDB would convert.
fn part(field: &FieldRef, column: &ColumnShape) -> Result<(Conversion, FieldRef), String> {
    let (conversion, data_type) = super::conversion_inside(field, column)?;
    let is_nullable = field.is_nullable() || !conversion.is_keep();
    let field = Field::new(field.name(), data_type, is_nullable);
    Ok((conversion, Arc::new(field)))
}

fn elements(element: &FieldRef, column: &ColumnShape) -> Result<(Conversion, FieldRef), String> {
    let (conversion, element) = part(element, column)?;
    let conversion = Conversion::Elements(element.clone(), Box::new(conversion));
    Ok((conversion, element))
}

fn map_entries(
    entries: &FieldRef,
    columns: [&ColumnShape; 2],
) -> Result<(Conversion, FieldRef), String> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err("a map's entries are a key and a value".into());
    };
    let (conversions, pair) = each(pair.iter().zip(columns))?;
    // A key that is NULL is found where it counts; where no row shows it, it is nobody's.
    let pair: Fields = pair.iter().map(nullable).collect();
    let name = entries.name();
    let entries = Arc::new(Field::new(name, DataType::Struct(pair.clone()), false));
    let inner = Conversion::Fields(pair, conversions);
    let conversion = Conversion::Entries(entries.clone(), Box::new(inner));
    Ok((conversion, entries))
}

fn nullable(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(true))
}

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_))
}

/// The type with room for NULLs all over the inside.
fn with_nulls(data_type: &DataType) -> DataType {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct, Union};
    let inside = |field: &FieldRef| {
        let data_type = with_nulls(field.data_type());
        Arc::new(Field::new(field.name(), data_type, true))
    };
    match data_type {
        List(element) => List(inside(element)),
        LargeList(element) => LargeList(inside(element)),
        FixedSizeList(element, size) => FixedSizeList(inside(element), *size),
        Map(entries, sorted) => Map(inside(entries), *sorted),
        Struct(fields) => Struct(fields.iter().map(inside).collect()),
        Union(members, mode) => {
            let members = members.iter().map(|(id, member)| (id, inside(member)));
            Union(members.collect(), *mode)
        }
        other => other.clone(),
    }
}

fn each<'a>(
    pairs: impl Iterator<Item = (&'a FieldRef, &'a ColumnShape)>,
) -> Result<(Vec<Conversion>, Fields), String> {
    let parts = pairs.map(|(field, column)| {
        let part = part(field, column);
        part.map_err(|reason| format!("its field `{}`: {reason}", field.name()))
    });
    let parts = parts.collect::<Result<Vec<_>, String>>()?;
    let (conversions, fields): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    Ok((conversions, fields.into()))
}

fn fields_by_name(
    fields: &Fields,
    columns: &[ColumnShape],
) -> Result<(Vec<Conversion>, Fields), String> {
    each(by_name(fields.iter(), columns)?.into_iter())
}

/// The fields with those of the table that have their names, each at most once.
fn by_name<'a>(
    fields: impl Iterator<Item = &'a FieldRef>,
    columns: &'a [ColumnShape],
) -> Result<Vec<(&'a FieldRef, &'a ColumnShape)>, String> {
    let named = fields.map(|field| Ok((field, find(field, columns)?)));
    let named = named.collect::<Result<Vec<_>, String>>()?;
    let names = named.iter().map(|(_, column)| column.field.name().as_str());
    match first_repeated(names) {
        None => Ok(named),
        Some(name) => Err(format!(
            "it has two fields `{name}`; DuckDB does not tell names apart by their case"
        )),
    }
}

fn first_repeated<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.find(|name| !seen.insert(*name))
}

fn union_members(
    members: &UnionFields,
    columns: &[ColumnShape],
) -> Result<(Vec<Conversion>, UnionFields), String> {
    let named = by_name(members.iter().map(|(_, member)| member), columns)?;
    let (conversions, fields) = each(named.into_iter())?;
    // DuckDB takes a member's code for its place.
    let places = (0..=i8::MAX).take(fields.len());
    let target = UnionFields::try_new(places, fields.iter().cloned());
    Ok((conversions, target.map_err(|error| error.to_string())?))
}

fn find<'a>(field: &Field, columns: &'a [ColumnShape]) -> Result<&'a ColumnShape, String> {
    let name = field.name();
    let found = columns
        .iter()
        .find(|column| same_name(column.field.name(), name));
    found.ok_or_else(|| {
        let names: Vec<_> = columns
            .iter()
            .map(|column| column.field.name().as_str())
            .collect();
        format!(
            "the table has no field `{name}` in it; its fields are {}",
            names.join(", ")
        )
    })
}

/// The values with those inside them cast. Ones that no row shows are not looked at.
pub(super) fn elements_of(
    array: &ArrayRef,
    element: &FieldRef,
    inner: &Conversion,
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    match array.data_type() {
        DataType::List(_) => list(array.as_list::<i32>(), element, inner, visible),
        DataType::LargeList(_) => list(array.as_list::<i64>(), element, inner, visible),
        _ => fixed_size_list(array.as_fixed_size_list(), element, inner, visible),
    }
}

fn list<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    element: &FieldRef,
    inner: &Conversion,
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let shown = NullBuffer::union(visible, list.nulls());
    let (offsets, values) = window(list.offsets(), list.values());
    let inside = shown
        .as_ref()
        .map(|shown| spread(shown, list.offsets().lengths()));
    let values = inner.apply(&values, inside.as_ref());
    let values = values.map_err(|failure| failure.moved(|index| row_of(&offsets, index)))?;
    let list = GenericListArray::try_new(element.clone(), offsets, values, shown)?;
    Ok(Arc::new(list))
}

/// A map with its entries cast. Its keys must be ones that DuckDB takes: none NULL, and none twice.
pub(super) fn map(
    map: &MapArray,
    entries: &FieldRef,
    inner: &Conversion,
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let shown = NullBuffer::union(visible, map.nulls());
    let all: ArrayRef = Arc::new(map.entries().clone());
    let (offsets, pairs) = window(map.offsets(), &all);
    let inside = shown
        .as_ref()
        .map(|shown| spread(shown, map.offsets().lengths()));
    let pairs = inner.apply(&pairs, inside.as_ref());
    let pairs = pairs.map_err(|failure| failure.moved(|index| row_of(&offsets, index)))?;
    keys::check(pairs.as_struct().column(0), &offsets, shown.as_ref())?;
    let is_sorted = matches!(map.data_type(), DataType::Map(_, true));
    let pairs = pairs.as_struct().clone();
    let map = MapArray::try_new(entries.clone(), offsets, pairs, shown, is_sorted)?;
    Ok(Arc::new(map))
}

fn fixed_size_list(
    list: &FixedSizeListArray,
    element: &FieldRef,
    inner: &Conversion,
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let size = usize::try_from(list.value_length()).unwrap_or(0).max(1);
    let shown = NullBuffer::union(visible, list.nulls());
    let inside = shown
        .as_ref()
        .map(|shown| spread(shown, std::iter::repeat_n(size, list.len())));
    let values = inner.apply(list.values(), inside.as_ref());
    let values = values.map_err(|failure| failure.moved(|index| index / size))?;
    let length = list.value_length();
    let list = FixedSizeListArray::try_new(element.clone(), length, values, shown)?;
    Ok(Arc::new(list))
}

/// A struct with its fields cast.
pub(super) fn fields_of(
    values: &StructArray,
    fields: &Fields,
    inner: &[Conversion],
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let shown = NullBuffer::union(visible, values.nulls());
    let columns = values.columns().iter().zip(inner);
    let columns = columns.map(|(column, inner)| inner.apply(column, shown.as_ref()));
    let columns = columns.collect::<Result<Vec<_>, Failure>>()?;
    let values = StructArray::try_new(fields.clone(), columns, values.nulls().cloned())?;
    Ok(Arc::new(values))
}

/// A sparse union with its members cast: in each row only one of them counts.
pub(super) fn members_of(
    union: &UnionArray,
    members: &UnionFields,
    inner: &[Conversion],
    visible: Option<&NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let DataType::Union(sent, _) = union.data_type() else {
        return Err(ArrowError::SchemaError("not a union".into()).into());
    };
    let kinds = union.type_ids();
    let mut columns = Vec::with_capacity(inner.len());
    for ((id, _), inner) in sent.iter().zip(inner) {
        let chosen = BooleanBuffer::collect_bool(kinds.len(), |row| kinds[row] == id);
        let shown = NullBuffer::union(visible, Some(&NullBuffer::new(chosen)));
        columns.push(inner.apply(union.child(id), shown.as_ref())?);
    }
    let kinds = renumbered(kinds, sent, members);
    let union = UnionArray::try_new(members.clone(), kinds, None, columns)?;
    Ok(Arc::new(union))
}

/// The members' codes, where the same members have others.
fn renumbered(kinds: &ScalarBuffer<i8>, from: &UnionFields, to: &UnionFields) -> ScalarBuffer<i8> {
    let pairs = from.iter().zip(to.iter());
    let codes: Vec<_> = pairs.map(|((from, _), (to, _))| (from, to)).collect();
    if codes.iter().all(|(from, to)| from == to) {
        return kinds.clone();
    }
    let code = |kind: &i8| {
        let known = codes.iter().find(|(from, _)| from == kind);
        known.map_or(*kind, |(_, to)| *to)
    };
    kinds.iter().map(code).collect()
}

/// The values that a list shows, and where each row's start among them.
fn window<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
) -> (OffsetBuffer<O>, ArrayRef) {
    let place = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    let (first, last) = (place(offsets.first()), place(offsets.last()));
    let values = values.slice(first, last - first);
    let offsets = match first {
        0 => offsets.clone(),
        _ => OffsetBuffer::from_lengths(offsets.lengths()),
    };
    (offsets, values)
}

fn row_of<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, index: usize) -> usize {
    let after = offsets.partition_point(|offset| offset.as_usize() <= index);
    after.saturating_sub(1)
}

/// Which values are shown: `lengths` tells how many belong to each row, and `rows` which rows show theirs.
fn spread(rows: &NullBuffer, lengths: impl Iterator<Item = usize>) -> NullBuffer {
    let mut shown = BooleanBufferBuilder::new(rows.len());
    for (row, length) in lengths.enumerate() {
        shown.append_n(length, rows.is_valid(row));
    }
    NullBuffer::new(shown.finish())
}

impl Conversion {
    pub(super) fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// This conversion, but lists that no row shows become NULL.
    fn hiding(self) -> Self {
        match self {
            Self::Keep => Self::Hide,
            Self::Unpack(plain, inner) => Self::Unpack(plain, Box::new(inner.hiding())),
            other => other,
        }
    }

    /// Whether values of the same type are what they were, or do not fit.
    fn is_check(&self) -> bool {
        match self {
            Self::Keep | Self::Hide | Self::Cast(_) => true,
            Self::Elements(_, inner) | Self::Entries(_, inner) => inner.is_check(),
            Self::Fields(_, inner) | Self::Members(_, inner) => inner.iter().all(Self::is_check),
            Self::UuidText | Self::GeometryText | Self::Unpack(..) => false,
        }
    }

    /// Whether what it makes of values is what they are, if the types are the same.
    fn changes_nothing(&self) -> bool {
        match self {
            Self::Keep => true,
            Self::Elements(_, inner) => inner.changes_nothing(),
            Self::Fields(_, inner) | Self::Members(_, inner) => {
                inner.iter().all(Self::changes_nothing)
            }
            // The keys of a map are looked at.
            Self::Hide
            | Self::Cast(_)
            | Self::Entries(..)
            | Self::UuidText
            | Self::GeometryText
            | Self::Unpack(..) => false,
        }
    }

    /// The values, plain, and then converted.
    pub(super) fn apply_unpacked(
        &self,
        array: &ArrayRef,
        plain: &DataType,
        visible: Option<&NullBuffer>,
    ) -> Result<ArrayRef, Failure> {
        self.apply(&cast(array, plain)?, visible)
    }
}

#[cfg(test)]
mod tests;
