//! Lists, structs, maps, unions, and the layouts that point at their values.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, UnionArray};
use arrow::datatypes::{
    ArrowNativeType, DataType, Field, FieldRef, Fields, Int16Type, Int32Type, Int64Type,
    RunEndIndexType, UnionFields,
};

use super::{Column, Values, quote_nested, write_json_string};

/// The writer of a nested array; nothing for other types.
pub(super) fn values(array: &ArrayRef) -> Option<Box<dyn Values>> {
    Some(match array.data_type() {
        DataType::List(item) => list::<i32>(array, item),
        DataType::LargeList(item) => list::<i64>(array, item),
        DataType::ListView(item) => list_view::<i32>(array, item),
        DataType::LargeListView(item) => list_view::<i64>(array, item),
        DataType::FixedSizeList(item, length) => fixed_size_list(array, item, *length),
        DataType::Struct(fields) => structure(fields, array.as_struct().columns()),
        DataType::Map(entries, _) => map(array, entries),
        DataType::Union(fields, _) => union(array, fields),
        DataType::Dictionary(_, value_type) => dictionary(array, value_type),
        DataType::RunEndEncoded(ends, item) => runs(array, ends.data_type(), item),
        _ => return None,
    })
}

/// Where the items of a row lie in the array of all items.
type Items = Box<dyn Fn(usize) -> Range<usize>>;

struct Lists {
    items: Items,
    item: Column,
}

impl Values for Lists {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push('[');
        separated((self.items)(row), ", ", out, |item, out| {
            self.item.write_nested_text(item, out);
        });
        out.push(']');
    }

    fn write_json(&self, row: usize, out: &mut String) {
        out.push('[');
        separated((self.items)(row), ",", out, |item, out| {
            self.item.write_json(item, out);
        });
        out.push(']');
    }

    fn is_nested(&self) -> bool {
        true
    }
}

/// Writes each item, with the separator between them.
fn separated<T>(
    items: impl IntoIterator<Item = T>,
    separator: &str,
    out: &mut String,
    mut write: impl FnMut(T, &mut String),
) {
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push_str(separator);
        }
        write(item, out);
    }
}

fn list<O: OffsetSizeTrait>(array: &ArrayRef, item: &Field) -> Box<dyn Values> {
    let array = array.as_list::<O>();
    let offsets = array.offsets().clone();
    Box::new(Lists {
        items: Box::new(move |row| offsets[row].as_usize()..offsets[row + 1].as_usize()),
        item: Column::new(item, array.values()),
    })
}

fn list_view<O: OffsetSizeTrait>(array: &ArrayRef, item: &Field) -> Box<dyn Values> {
    let array = array.as_list_view::<O>();
    let (offsets, sizes) = (array.offsets().clone(), array.sizes().clone());
    Box::new(Lists {
        items: Box::new(move |row| {
            let start = offsets[row].as_usize();
            start..start + sizes[row].as_usize()
        }),
        item: Column::new(item, array.values()),
    })
}

fn fixed_size_list(array: &ArrayRef, item: &Field, length: i32) -> Box<dyn Values> {
    let array = array.as_fixed_size_list();
    let length = length.as_usize();
    Box::new(Lists {
        items: Box::new(move |row| row * length..(row + 1) * length),
        item: Column::new(item, array.values()),
    })
}

struct Structs {
    /// Each field's name, as text with its quotes and as JSON, and its values.
    fields: Vec<(String, String, Column)>,
}

fn structure(fields: &Fields, columns: &[ArrayRef]) -> Box<dyn Values> {
    let columns = fields.iter().zip(columns);
    // DuckDB's row(1, 2) is a struct whose fields have no names.
    if !fields.is_empty() && fields.iter().all(|field| field.name().is_empty()) {
        let items = columns.map(|(field, array)| Column::new(field, array));
        return Box::new(Tuples(items.collect()));
    }
    let named = |(field, array): (&FieldRef, &ArrayRef)| {
        let (mut text, mut json) = (String::new(), String::new());
        quote_nested(field.name(), &mut text);
        write_json_string(field.name(), &mut json);
        (text, json, Column::new(field, array))
    };
    Box::new(Structs {
        fields: columns.map(named).collect(),
    })
}

impl Values for Structs {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push('{');
        separated(&self.fields, ", ", out, |(name, _, column), out| {
            out.push_str(name);
            out.push_str(": ");
            column.write_nested_text(row, out);
        });
        out.push('}');
    }

    fn write_json(&self, row: usize, out: &mut String) {
        out.push('{');
        separated(&self.fields, ",", out, |(_, name, column), out| {
            out.push_str(name);
            out.push(':');
            column.write_json(row, out);
        });
        out.push('}');
    }

    fn is_nested(&self) -> bool {
        true
    }
}

struct Tuples(Vec<Column>);

impl Values for Tuples {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push('(');
        separated(&self.0, ", ", out, |column, out| {
            column.write_nested_text(row, out);
        });
        out.push(')');
    }

    fn write_json(&self, row: usize, out: &mut String) {
        out.push('[');
        separated(&self.0, ",", out, |column, out| column.write_json(row, out));
        out.push(']');
    }

    fn is_nested(&self) -> bool {
        true
    }
}

struct Maps {
    items: Items,
    key: Column,
    value: Column,
}

fn map(array: &ArrayRef, entries: &Field) -> Box<dyn Values> {
    let array = array.as_map();
    let DataType::Struct(fields) = entries.data_type() else {
        unreachable!("Arrow's maps are lists of structs");
    };
    let offsets = array.offsets().clone();
    Box::new(Maps {
        items: Box::new(move |row| offsets[row].as_usize()..offsets[row + 1].as_usize()),
        key: Column::new(&fields[0], array.keys()),
        value: Column::new(&fields[1], array.values()),
    })
}

impl Values for Maps {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push('{');
        separated((self.items)(row), ", ", out, |entry, out| {
            self.key.write_nested_text(entry, out);
            out.push('=');
            self.value.write_nested_text(entry, out);
        });
        out.push('}');
    }

    /// An object: the names of its members are the keys as text, as DuckDB's to_json has it.
    fn write_json(&self, row: usize, out: &mut String) {
        out.push('{');
        separated((self.items)(row), ",", out, |entry, out| {
            let mut key = String::new();
            self.key.write_text(entry, &mut key);
            write_json_string(&key, out);
            out.push(':');
            self.value.write_json(entry, out);
        });
        out.push('}');
    }

    fn is_nested(&self) -> bool {
        true
    }
}

struct Unions {
    array: UnionArray,
    /// The type id of each member, its name as JSON, and its values.
    members: Vec<(i8, String, Column)>,
}

fn union(array: &ArrayRef, fields: &UnionFields) -> Box<dyn Values> {
    let array = array.as_union().clone();
    let member = |(id, field): (i8, &FieldRef)| {
        let mut name = String::new();
        write_json_string(field.name(), &mut name);
        (id, name, Column::new(field, array.child(id)))
    };
    let members = fields.iter().map(member).collect();
    Box::new(Unions { array, members })
}

impl Unions {
    /// The member that holds the value of a row, and its row there.
    fn member(&self, row: usize) -> (&str, &Column, usize) {
        let id = self.array.type_id(row);
        let (_, name, column) = self
            .members
            .iter()
            .find(|member| member.0 == id)
            .expect("Arrow checks the type ids of a union");
        (name, column, self.array.value_offset(row))
    }
}

impl Values for Unions {
    fn write_text(&self, row: usize, out: &mut String) {
        let (_, column, row) = self.member(row);
        column.write_text(row, out);
    }

    /// An object that names the member, as DuckDB's to_json has it.
    fn write_json(&self, row: usize, out: &mut String) {
        let (name, column, row) = self.member(row);
        out.push('{');
        out.push_str(name);
        out.push(':');
        column.write_json(row, out);
        out.push('}');
    }

    fn is_nested(&self) -> bool {
        true
    }
}

/// Values that stand once and are pointed at.
struct Indexed {
    indices: Vec<usize>,
    column: Column,
}

impl Values for Indexed {
    fn write_text(&self, row: usize, out: &mut String) {
        self.column.write_text(self.indices[row], out);
    }

    fn write_json(&self, row: usize, out: &mut String) {
        self.column.write_json(self.indices[row], out);
    }

    fn is_nested(&self) -> bool {
        self.column.values.is_nested()
    }
}

fn dictionary(array: &ArrayRef, value_type: &DataType) -> Box<dyn Values> {
    let array = array.as_any_dictionary();
    let indices = if array.values().is_empty() {
        // Every row is NULL then, and never asked for.
        Vec::new()
    } else {
        array.normalized_keys()
    };
    let item = Field::new("", value_type.clone(), true);
    Box::new(Indexed {
        indices,
        column: Column::new(&item, array.values()),
    })
}

fn runs(array: &ArrayRef, ends: &DataType, item: &Field) -> Box<dyn Values> {
    match ends {
        DataType::Int16 => runs_of::<Int16Type>(array, item),
        DataType::Int32 => runs_of::<Int32Type>(array, item),
        _ => runs_of::<Int64Type>(array, item),
    }
}

fn runs_of<R: RunEndIndexType>(array: &ArrayRef, item: &Field) -> Box<dyn Values> {
    let array = array.as_run::<R>();
    Box::new(Indexed {
        indices: (0..array.len())
            .map(|row| array.get_physical_index(row))
            .collect(),
        column: Column::new(item, array.values()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, DictionaryArray, FixedSizeListArray, Int32Array, Int32Builder, ListArray,
        ListViewArray, MapBuilder, RunArray, StringArray, StringBuilder, StructArray, UnionArray,
    };
    use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int32Type, UnionFields};

    use super::super::testing::{jsons, plain_field, texts};

    fn both(array: ArrayRef) -> (Vec<String>, Vec<String>) {
        let field = plain_field(&array);
        (texts(&field, &array), jsons(&field, &array))
    }

    fn integers() -> ListArray {
        ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None, Some(3)]),
            None,
            Some(vec![]),
            Some(vec![Some(4)]),
        ])
    }

    #[test]
    fn lists_of_every_layout_read_the_same() {
        let (text, json) = both(Arc::new(integers()));
        assert_eq!(text, ["[1, NULL, 3]", "NULL", "[]", "[4]"]);
        assert_eq!(json, ["[1,null,3]", "null", "[]", "[4]"]);
        assert_eq!(both(Arc::new(integers().slice(2, 2))).0, ["[]", "[4]"]);
        assert_eq!(both(Arc::new(ListViewArray::from(integers()))).0, text);
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let values = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
        let fixed = FixedSizeListArray::new(item, 2, values, None);
        assert_eq!(both(Arc::new(fixed.slice(1, 1))).0, ["[3, 4]"]);
    }

    #[test]
    fn strings_inside_nested_values_are_quoted_only_where_they_must_be() {
        let cases = [
            ("a b", "[a b]"),
            ("a\\b", "[a\\b]"),
            ("", "['']"),
            (" a", "[' a']"),
            ("null", "['null']"),
            ("a,b", "['a,b']"),
            ("a'b", "['a\\'b']"),
        ];
        for (value, expected) in cases {
            let values = Arc::new(StringArray::from(vec![value]));
            let item = Arc::new(Field::new("item", DataType::Utf8, true));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([1]);
            let list = ListArray::new(item, offsets, values, None);
            assert_eq!(both(Arc::new(list)).0, [expected]);
        }
    }

    fn structs(names: [&str; 2]) -> ArrayRef {
        let fields = Fields::from(vec![
            Field::new(names[0], DataType::Int32, true),
            Field::new(names[1], DataType::Utf8, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(1), None])),
            Arc::new(StringArray::from(vec!["x", "y: z"])),
        ];
        Arc::new(StructArray::new(fields, columns, None))
    }

    #[test]
    fn structs_name_their_fields_and_tuples_have_no_names() {
        let (text, json) = both(structs(["a", "b'"]));
        assert_eq!(text, ["{'a': 1, 'b\\'': x}", "{'a': NULL, 'b\\'': 'y: z'}"]);
        assert_eq!(
            json,
            ["{\"a\":1,\"b'\":\"x\"}", "{\"a\":null,\"b'\":\"y: z\"}"]
        );
        let (text, json) = both(structs(["", ""]));
        assert_eq!(text, ["(1, x)", "(NULL, 'y: z')"]);
        assert_eq!(json, ["[1,\"x\"]", "[null,\"y: z\"]"]);
    }

    #[test]
    fn maps_pair_their_keys_with_values() {
        let mut builder = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        builder.keys().append_value(7);
        builder.values().append_value("v");
        builder.keys().append_value(8);
        builder.values().append_null();
        builder.append(true).unwrap();
        builder.append(true).unwrap();
        let (text, json) = both(Arc::new(builder.finish()));
        assert_eq!(text, ["{7=v, 8=NULL}", "{}"]);
        assert_eq!(json, ["{\"7\":\"v\",\"8\":null}", "{}"]);
    }

    #[test]
    fn unions_show_the_member_that_holds_the_value() {
        let fields = UnionFields::from_fields(vec![
            Field::new("number", DataType::Int32, true),
            Field::new("word", DataType::Utf8, true),
        ]);
        let children: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(5), None])),
            Arc::new(StringArray::from(vec!["w"])),
        ];
        let (ids, offsets) = (vec![0_i8, 1, 0], vec![0, 0, 1]);
        let array = UnionArray::try_new(fields, ids.into(), Some(offsets.into()), children);
        let (text, json) = both(Arc::new(array.unwrap()));
        assert_eq!(text, ["5", "w", "NULL"]);
        assert_eq!(json, ["{\"number\":5}", "{\"word\":\"w\"}", "null"]);
    }

    #[test]
    fn dictionaries_and_runs_show_the_values_they_point_at() {
        let words: DictionaryArray<Int8Type> = [Some("a"), None, Some("a")].into_iter().collect();
        assert_eq!(both(Arc::new(words)).0, ["a", "NULL", "a"]);
        let nothing: DictionaryArray<Int8Type> = [None::<&str>].into_iter().collect();
        assert_eq!(both(Arc::new(nothing)).0, ["NULL"]);
        let values = Int32Array::from(vec![Some(9), None]);
        let runs = RunArray::try_new(&Int32Array::from(vec![2, 3]), &values).unwrap();
        assert_eq!(both(Arc::new(runs.slice(1, 2))).1, ["9", "null"]);
    }
}
