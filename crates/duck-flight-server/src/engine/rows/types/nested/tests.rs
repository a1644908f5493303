use std::collections::HashMap;

use arrow::array::*;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Int32Type, IntervalMonthDayNano};

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

/// Whether no list is there below a NULL.
fn hides_lists(array: &ArrayRef, visible: Option<&NullBuffer>) -> bool {
    let shown = NullBuffer::union(visible, array.nulls());
    match array.data_type() {
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => {
            shown.as_ref() == array.nulls()
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap();
            let repeated = std::iter::repeat_n(size, array.len());
            let inside = shown.map(|shown| spread(&shown, repeated));
            hides_lists(array.as_fixed_size_list().values(), inside.as_ref())
        }
        DataType::Struct(_) => hides_lists(array.as_struct().column(0), shown.as_ref()),
        other => panic!("{other}"),
    }
}

#[test]
fn lists_below_a_null_of_fixed_size_lists_are_null() {
    let second_is_null = || Some(NullBuffer::from(vec![true, false, true]));
    let numbers = || -> ArrayRef { Arc::new(Int64Array::from(vec![9, 5, 6])) };
    let offsets = || OffsetBuffer::<i32>::from_lengths([1; 3]);
    let fixed = |values: ArrayRef, nulls| FixedSizeListArray::new(item(&values), 1, values, nulls);
    let list = || ListArray::new(item(&numbers()), offsets(), numbers(), None);
    let large = OffsetBuffer::from_lengths([1; 3]);
    let large = LargeListArray::new(item(&numbers()), large, numbers(), None);
    let starts = ScalarBuffer::from(vec![2, 0, 1]);
    let sizes = ScalarBuffer::from(vec![1; 3]);
    let view = ListViewArray::new(item(&numbers()), starts, sizes, numbers(), None);
    let keys: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let strict = Arc::new(Field::new("item", list().data_type().clone(), false));
    let strict = FixedSizeListArray::new(strict, 1, Arc::new(list()), second_is_null());
    let inner: ArrayRef = Arc::new(fixed(Arc::new(list()), None));
    let parts: Fields = vec![Field::new("a", inner.data_type().clone(), true)].into();
    let arrays: [(ArrayRef, &str); 7] = [
        (
            Arc::new(fixed(Arc::new(list()), second_is_null())),
            "BIGINT[][1]",
        ),
        (
            Arc::new(fixed(Arc::new(large), second_is_null())),
            "BIGINT[][1]",
        ),
        (
            Arc::new(fixed(Arc::new(view), second_is_null())),
            "BIGINT[][]",
        ),
        (
            Arc::new(fixed(Arc::new(maps(&[1; 3], keys)), second_is_null())),
            "MAP(INTEGER, BIGINT)[1]",
        ),
        (Arc::new(strict), "BIGINT[][1]"),
        (
            Arc::new(fixed(inner.clone(), second_is_null())),
            "BIGINT[][1][1]",
        ),
        (
            Arc::new(StructArray::new(parts, vec![inner], second_is_null())),
            "STRUCT(a BIGINT[][1])",
        ),
    ];
    for (array, sql_type) in arrays {
        for rows in [0..3, 1..3] {
            let slice = array.slice(rows.start, rows.len());
            let converted = convert(make_array(slice.to_data()), sql_type).unwrap();
            assert!(hides_lists(&converted, None), "{sql_type}");
            assert_eq!(converted.nulls(), slice.nulls(), "{sql_type}");
        }
    }
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
    let error = convert(one_row(&["a", "A"]), "STRUCT(a INTEGER, b INTEGER)").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `v`: it has two fields `a`; DuckDB does not tell names apart by their case"
    );
    let error = convert(one_row(&["k", "k"]), "MAP(VARCHAR, INTEGER)").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `v`: it has two fields `k`, and a map no key twice"
    );
    assert_eq!(misfit(one_row(&["k", "K"]), "MAP(VARCHAR, INTEGER)"), 0);
    let error = convert(list_of(&[1], one_row(&["a"])), "STRUCT(a DATE)[]").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `v`: its field `a`: Int64 cannot become DATE of the table"
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
    let values = Float32Array::from(vec![1.0, 2.0]);
    let vector = FixedSizeListArray::new(item(&values), 2, Arc::new(values), None);
    let field = Field::new("v", vector.data_type().clone(), true);
    let cast = ColumnCast::new(&field, &column("FLOAT[2]")).unwrap();
    assert!(cast.conversion.is_keep());
}

#[test]
fn booleans_are_taken_in_every_encoding() {
    let flags = BooleanArray::from(vec![Some(true), Some(false), None]);
    let keys = Int8Array::from(vec![Some(1), Some(0), Some(2), None]);
    let dictionary = DictionaryArray::new(keys, Arc::new(flags.clone()));
    let converted = convert(dictionary, "BOOLEAN").unwrap();
    let expected = BooleanArray::from(vec![Some(false), Some(true), None, None]);
    assert_eq!(converted.as_boolean(), &expected);
    let runs = RunArray::try_new(&Int32Array::from(vec![1, 3, 4]), &flags).unwrap();
    let converted = convert(runs, "BOOLEAN").unwrap();
    let expected = BooleanArray::from(vec![Some(true), Some(false), Some(false), None]);
    assert_eq!(converted.as_boolean(), &expected);
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

/// The same numbers as times: Arrow does not look whether they are.
fn times(nanos: &[Option<i64>]) -> Time64NanosecondArray {
    nanos.iter().copied().collect()
}

#[test]
fn what_is_outside_of_duckdbs_type_is_found_wherever_it_stands() {
    const DAY: i64 = 86_400_000_000_000;
    let fine = [Some(0), None, Some(DAY)];
    assert_eq!(misfit(times(&fine), "TIME_NS"), 0);
    for bad in [-1, DAY + 1, i64::MAX, i64::MIN] {
        let values = [Some(0), None, Some(bad)];
        assert_eq!(misfit(times(&values), "TIME_NS"), 3, "{bad}");
        let list = list_of(&[1, 2], times(&values));
        assert_eq!(misfit(list, "TIME_NS[]"), 2, "{bad}");
        let keys = Int8Array::from(vec![2, 0, 0]);
        let dictionary = DictionaryArray::new(keys, Arc::new(times(&values)));
        assert_eq!(misfit(dictionary, "TIME_NS"), 1, "{bad}");
        let ends = Int32Array::from(vec![1, 2, 5]);
        let runs = RunArray::try_new(&ends, &times(&values)).unwrap();
        assert_eq!(misfit(runs, "TIME_NS"), 3, "{bad}");
    }
    // What is hidden is nobody's.
    let list = ListArray::new(
        item(&times(&[])),
        OffsetBuffer::from_lengths([1, 1]),
        Arc::new(times(&[Some(-1), Some(1)])),
        Some(NullBuffer::from(vec![false, true])),
    );
    assert_eq!(misfit(list, "TIME_NS[]"), 0);
    let error = convert(times(&[Some(-1)]), "TIME_NS").unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 1, column `v`: `-1` of type Time64(ns) is outside of what DuckDB's type holds"
    );
}

#[test]
fn moments_that_duckdb_does_not_tell_are_refused() {
    let seconds = |value| TimestampSecondArray::from(vec![0, value]);
    assert_eq!(misfit(seconds(i64::MAX), "TIMESTAMP_S"), 0);
    assert_eq!(misfit(seconds(-i64::MAX), "TIMESTAMP_S"), 0);
    for value in [
        i64::MIN,
        i64::MAX - 1,
        9_223_372_036_855,
        -9_223_372_022_401,
    ] {
        assert_eq!(misfit(seconds(value), "TIMESTAMP_S"), 2, "{value}");
    }
    let zoned = TimestampMicrosecondArray::from(vec![i64::MIN]).with_timezone("+00:00");
    assert_eq!(misfit(zoned, "TIMESTAMPTZ"), 1);
    assert_eq!(misfit(Date32Array::from(vec![i32::MIN]), "DATE"), 1);
    let seconds = Time32SecondArray::from(vec![86_400, 86_401]);
    assert_eq!(misfit(seconds, "TIME"), 2);
}

#[test]
fn a_decimal_has_no_more_digits_than_it_says() {
    let decimals = |value: i128| {
        let values = Decimal128Array::from(vec![Some(9999), None, Some(value)]);
        values.with_data_type(DataType::Decimal128(4, 1))
    };
    for target in [
        "DECIMAL(4,1)",
        "DECIMAL(18,1)",
        "VARCHAR",
        "DOUBLE",
        "HUGEINT",
    ] {
        for value in [10_000, -10_000, 10_i128.pow(20)] {
            let expected = if target == "HUGEINT" { 1 } else { 3 };
            assert_eq!(
                misfit(decimals(value), target),
                expected,
                "{value}, {target}"
            );
        }
    }
    assert_eq!(misfit(decimals(-9999), "DECIMAL(18,1)"), 0);
    let list = list_of(&[1, 0, 2], decimals(10_000));
    assert_eq!(misfit(list, "DECIMAL(4,1)[]"), 3);
    // Of 38 digits that say 39, as a HUGEINT leaves.
    let huge = Decimal128Array::from(vec![i128::MAX]).with_data_type(DataType::Decimal128(38, 0));
    assert_eq!(misfit(huge.clone(), "HUGEINT"), 0);
    assert_eq!(misfit(huge, "DECIMAL(38,0)"), 1);
}

/// Maps of as many entries, with keys and values.
fn maps(lengths: &[usize], keys: ArrayRef) -> MapArray {
    let values = Int64Array::from_iter_values(0..i64::try_from(keys.len()).unwrap());
    let pair = Fields::from(vec![
        Field::new("key", keys.data_type().clone(), true),
        Field::new("value", DataType::Int64, true),
    ]);
    let entries = StructArray::new(pair.clone(), vec![keys, Arc::new(values)], None);
    let field = Field::new("entries", DataType::Struct(pair), false);
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    MapArray::new(Arc::new(field), offsets, entries, None, false)
}

#[test]
fn a_map_has_no_key_twice_and_none_that_is_null() {
    let texts = |keys: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(keys.to_vec())) };
    let keys = texts(&[Some("a"), Some("a"), Some("b"), Some("c"), Some("b")]);
    assert_eq!(
        misfit(maps(&[1, 2, 2], keys.clone()), "MAP(VARCHAR, BIGINT)"),
        0
    );
    assert_eq!(
        misfit(maps(&[1, 1, 3], keys.clone()), "MAP(VARCHAR, BIGINT)"),
        3
    );
    let nested = list_of(&[2, 1], maps(&[1, 1, 3], keys));
    assert_eq!(misfit(nested, "MAP(VARCHAR, BIGINT)[]"), 2);
    let keys = texts(&[Some("a"), None]);
    assert_eq!(misfit(maps(&[1, 1], keys), "MAP(VARCHAR, BIGINT)"), 2);
    // Keys that no row shows are NULL once they are cast, so their map is, too.
    let keys: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
    let map = maps(&[1, 1], keys);
    let nulls = NullBuffer::from(vec![false, true]);
    let offsets = OffsetBuffer::from_lengths([1, 1]);
    let hidden = ListArray::new(item(&map), offsets, Arc::new(map), Some(nulls));
    let converted = convert(hidden, "MAP(VARCHAR, BIGINT)[]").unwrap();
    let maps_inside = converted.as_list::<i32>().values();
    assert!(maps_inside.is_null(0) && maps_inside.is_valid(1));
    let many: ArrayRef = Arc::new(Int32Array::from_iter_values((0..100).chain([50])));
    assert_eq!(
        misfit(maps(&[100, 1], many.clone()), "MAP(INTEGER, BIGINT)"),
        0
    );
    let error = convert(maps(&[0, 101], many), "MAP(INTEGER, BIGINT)").unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 2, column `v`: the map has the key `50` twice"
    );
}

#[test]
fn a_map_becomes_the_member_of_a_union_that_it_is() {
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "a"]));
    let union = "UNION(m MAP(VARCHAR, BIGINT), i INTEGER)";
    assert_eq!(misfit(maps(&[1, 1], keys.clone()), union), 0);
    assert_eq!(misfit(maps(&[2], keys), union), 1);
}

#[test]
fn the_members_of_a_union_are_numbered_by_their_places() {
    let values = |values: [i64; 2]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, true));
    let fields = UnionFields::try_new([9, 4], fields).unwrap();
    let members = vec![values([1, 2]), values([3, 4])];
    let kinds = ScalarBuffer::from(vec![4, 9]);
    let union = UnionArray::try_new(fields, kinds, None, members).unwrap();
    let converted = convert(union, "UNION(a BIGINT, b BIGINT)").unwrap();
    let converted = converted.as_union();
    assert_eq!(**converted.type_ids(), [1, 0]);
    let number = |row| {
        converted
            .value(row)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0)
    };
    assert_eq!([number(0), number(1)], [3, 2]);
}

#[test]
fn a_value_that_does_not_fit_is_told_with_the_type_of_its_column() {
    let text = || StringArray::from(vec!["abc"]);
    for sql_type in [
        "HUGEINT",
        "UHUGEINT",
        "TIME WITH TIME ZONE",
        "DATE",
        "DECIMAL(4,2)",
    ] {
        let error = convert(text(), sql_type).unwrap_err().to_string();
        let expected =
            format!("row 1, column `v`: `abc` of type Utf8 does not fit {sql_type} of the table");
        assert_eq!(error, expected);
    }
    let list = list_of(&[1], Int64Array::from(vec![1 << 40]));
    let error = convert(list, "INTEGER[]").unwrap_err().to_string();
    assert!(
        error.contains("of type Int64 does not fit INTEGER of"),
        "{error}"
    );
    let fine = IntervalMonthDayNano::new(0, 0, 1);
    let fine = IntervalMonthDayNanoArray::from(vec![fine]);
    let error = convert(fine, "INTERVAL").unwrap_err().to_string();
    assert!(error.contains("finer than a microsecond"), "{error}");
}
