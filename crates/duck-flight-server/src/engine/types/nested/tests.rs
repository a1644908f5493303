use std::collections::HashMap;

use arrow::array::*;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::Int32Type;

use super::super::ColumnCast;
use super::*;
use crate::engine::ffi::Database;
use crate::error::Error;
use duck_flight_protocol::TableName;

/// A column of this type.
fn column(sql_type: &str) -> ColumnShape {
    let database = Database::open(":memory:", &[]).unwrap();
    let connection = database.connect().unwrap();
    connection
        .execute(&format!("CREATE TABLE t (v {sql_type})"))
        .unwrap();
    let table = TableName {
        catalog: None,
        schema: None,
        table: "t".into(),
    };
    let columns = connection.table_columns(&table).unwrap().unwrap();
    columns.into_iter().next().unwrap()
}

fn convert(array: impl Array + 'static, sql_type: &str) -> Result<ArrayRef, Error> {
    let field = Field::new("v", array.data_type().clone(), true);
    let cast = ColumnCast::new(&field, &column(sql_type))?;
    let converted = cast.apply(&(Arc::new(array) as ArrayRef), 0)?;
    assert_eq!(converted.data_type(), cast.target().data_type());
    Ok(converted)
}

/// The number of the first row that does not fit; 0 where all do.
fn misfit(array: impl Array + 'static, sql_type: &str) -> u64 {
    match convert(array, sql_type) {
        Ok(_) => 0,
        Err(Error::Value { row, column, .. }) => {
            assert_eq!(column, "v");
            row
        }
        Err(error) => panic!("{error}"),
    }
}

fn item(array: &dyn Array) -> FieldRef {
    Arc::new(Field::new("item", array.data_type().clone(), true))
}

fn list_of(lengths: &[usize], values: impl Array + 'static) -> ListArray {
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    ListArray::new(item(&values), offsets, Arc::new(values), None)
}

fn words() -> DictionaryArray<Int32Type> {
    ["a", "b", "a", "c", "b", "c"].into_iter().collect()
}

fn union_of_words() -> UnionArray {
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let words: ArrayRef = Arc::new(words());
    let fields = [
        Field::new("n", DataType::Int64, true),
        Field::new("w", words.data_type().clone(), true),
    ];
    let fields = UnionFields::try_new([0, 1], fields).unwrap();
    let kinds = ScalarBuffer::from(vec![1, 0, 1, 1, 0, 1]);
    UnionArray::try_new(fields, kinds, None, vec![number, words]).unwrap()
}

#[test]
fn dictionaries_are_spelled_out_wherever_they_are() {
    let union = union_of_words();
    let entries = |values: ArrayRef| {
        let keys: ArrayRef = Arc::new(Int32Array::from_iter_values(0..6));
        let key = Arc::new(Field::new("key", DataType::Int32, false));
        let value = Arc::new(Field::new("value", values.data_type().clone(), true));
        StructArray::from(vec![(key, keys), (value, values)])
    };
    let pairs = entries(Arc::new(union.clone()));
    let map_field = Arc::new(Field::new("entries", pairs.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths([1; 6]);
    let map = MapArray::new(map_field, offsets, pairs, None, false);
    let fixed = FixedSizeListArray::new(item(&union), 2, Arc::new(union.clone()), None);
    let arrays: [(ArrayRef, &str); 5] = [
        (
            Arc::new(list_of(&[2, 0, 4], union.clone())),
            "UNION(n BIGINT, w VARCHAR)[]",
        ),
        (Arc::new(fixed), "UNION(n BIGINT, w VARCHAR)[2]"),
        (Arc::new(map), "MAP(INTEGER, UNION(n BIGINT, w VARCHAR))"),
        (Arc::new(list_of(&[3, 3], words())), "VARCHAR[]"),
        (Arc::new(union), "UNION(w VARCHAR, n BIGINT)"),
    ];
    for (array, sql_type) in arrays {
        for rows in [0..array.len(), 1..array.len()] {
            let slice = array.slice(rows.start, rows.len());
            let converted = convert(make_array(slice.to_data()), sql_type).unwrap();
            let name = converted.data_type().to_string();
            assert!(!name.contains("Dictionary"), "{name}");
            let text = |array: &ArrayRef| {
                let options = arrow::util::display::FormatOptions::default();
                let formatter = arrow::util::display::ArrayFormatter::try_new(array, &options);
                let formatter = formatter.unwrap();
                (0..array.len())
                    .map(|row| formatter.value(row).to_string())
                    .collect::<Vec<_>>()
            };
            assert_eq!(text(&converted), text(&slice), "{sql_type}");
        }
    }
}

#[test]
fn the_row_of_a_value_inside_that_does_not_fit_is_named() {
    let floats = || Float64Array::from(vec![1.0, 2.0, 3.0, 1.5, 4.0]);
    assert_eq!(misfit(list_of(&[1, 0, 2, 2], floats()), "INTEGER[]"), 4);
    assert_eq!(misfit(list_of(&[1, 0, 2, 2], floats()), "DOUBLE[]"), 0);
    let sliced = list_of(&[1, 0, 2, 2], floats()).slice(2, 2);
    assert_eq!(misfit(sliced, "INTEGER[]"), 2);
    let nested = list_of(&[0, 3, 1], list_of(&[1, 0, 2, 2], floats()));
    assert_eq!(misfit(nested, "INTEGER[][]"), 3);
    let fixed = FixedSizeListArray::new(item(&floats()), 1, Arc::new(floats()), None);
    assert_eq!(misfit(fixed, "INTEGER[1]"), 4);
    let nanos = TimestampNanosecondArray::from(vec![1000, 1001]);
    assert_eq!(misfit(list_of(&[1, 1], nanos), "TIMESTAMP[]"), 2);
    let large = Int64Array::from(vec![1 << 53, (1 << 53) + 1]);
    assert_eq!(misfit(list_of(&[1, 1], large), "DOUBLE[]"), 2);
    let json = StringArray::from(vec!["{}", "{bad"]);
    assert_eq!(misfit(list_of(&[1, 1], json), "JSON[]"), 2);
}

#[test]
fn what_no_row_shows_need_not_fit() {
    let floats = || Arc::new(Float64Array::from(vec![1.0, 1.5, 2.0])) as ArrayRef;
    let second_is_null = || Some(NullBuffer::from(vec![true, false, true]));
    let element = item(&floats());
    let offsets = OffsetBuffer::from_lengths([1; 3]);
    let list = ListArray::new(element.clone(), offsets, floats(), second_is_null());
    assert_eq!(misfit(list, "INTEGER[]"), 0);
    let fixed = FixedSizeListArray::new(element, 1, floats(), second_is_null());
    assert_eq!(misfit(fixed, "INTEGER[1]"), 0);
    let strict: Fields = vec![Field::new("a", DataType::Float64, false)].into();
    let values = StructArray::new(strict, vec![floats()], second_is_null());
    assert_eq!(misfit(list_of(&[2, 1], values), "STRUCT(a INTEGER)[]"), 0);
    let fields = [
        Field::new("a", DataType::Float64, true),
        Field::new("b", DataType::Float64, true),
    ];
    let fields = UnionFields::try_new([3, 5], fields).unwrap();
    let kinds = |kinds: [i8; 3]| ScalarBuffer::from(kinds.to_vec());
    let members = || vec![floats(), floats()];
    let union = UnionArray::try_new(fields.clone(), kinds([3, 5, 3]), None, members()).unwrap();
    assert_eq!(misfit(union, "UNION(a INTEGER, b DOUBLE)"), 0);
    let union = UnionArray::try_new(fields, kinds([3, 3, 5]), None, members()).unwrap();
    assert_eq!(misfit(union, "UNION(a INTEGER, b DOUBLE)"), 2);
}

fn one_row(names: &[&str]) -> StructArray {
    let value = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let field = |name: &&str| Arc::new(Field::new(*name, DataType::Int64, true));
    StructArray::from(
        names
            .iter()
            .map(|name| (field(name), value()))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn fields_are_matched_by_name_and_none_is_dropped() {
    assert_eq!(
        misfit(one_row(&["b", "A"]), "STRUCT(a INTEGER, b INTEGER)"),
        0
    );
    assert_eq!(misfit(one_row(&["b"]), "STRUCT(a INTEGER, b INTEGER)"), 0);
    assert_eq!(misfit(one_row(&["b", "c"]), "MAP(VARCHAR, INTEGER)"), 0);
    let error = convert(one_row(&["a", "b"]), "STRUCT(a INTEGER)").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `v`: the table has no field `b` in it; its fields are a"
    );
    let error = convert(list_of(&[1], one_row(&["a"])), "STRUCT(a DATE)[]").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `v`: its field `a`: Int64 cannot become Date32 of the table"
    );
}

#[test]
fn values_that_fit_as_they_are_stay_untouched() {
    let list = list_of(&[1], Int32Array::from(vec![1]));
    let field = Field::new("v", list.data_type().clone(), true);
    let cast = ColumnCast::new(&field, &column("INTEGER[]")).unwrap();
    assert!(cast.conversion.is_keep());
    let field = Field::new("v", one_row(&["b", "a"]).data_type().clone(), true);
    let cast = ColumnCast::new(&field, &column("STRUCT(a BIGINT, b BIGINT)")).unwrap();
    assert!(cast.conversion.is_keep());
}

#[test]
fn extension_types_inside_are_not_left_to_duckdb() {
    let bits = BinaryArray::from(vec![b"ab".as_slice()]);
    let metadata = [
        ("ARROW:extension:name", "arrow.opaque"),
        (
            "ARROW:extension:metadata",
            r#"{"type_name":"bit","vendor_name":"DuckDB"}"#,
        ),
    ];
    let metadata: HashMap<_, _> = metadata
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let element = Field::new("item", DataType::Binary, true).with_metadata(metadata);
    let offsets = OffsetBuffer::from_lengths([1]);
    let list = ListArray::new(Arc::new(element), offsets, Arc::new(bits), None);
    let converted = convert(list, "BLOB[]").unwrap();
    let DataType::List(element) = converted.data_type() else {
        panic!("{}", converted.data_type());
    };
    assert!(element.metadata().is_empty());
}
