//! DuckDB's names of types: as the server tells them, or as far as Arrow's types tell them apart.

use arrow::datatypes::{DataType, Field, TimeUnit};

/// The field metadata in which Flight SQL servers name the type themselves.
pub(crate) const TYPE_NAME_KEY: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";

/// The type's name as the server declares it in the field's metadata.
pub(crate) fn told_name(field: &Field) -> Option<&str> {
    field.metadata().get(TYPE_NAME_KEY).map(String::as_str)
}

/// DuckDB's name of a field's type, such as `DECIMAL(10,2)` or `STRUCT(a INTEGER, b VARCHAR[])`.
pub(crate) fn type_name(field: &Field) -> String {
    match told_name(field) {
        // The server declares DECIMAL without its digits, which Arrow's type has.
        None | Some("DECIMAL") => {}
        Some(name) => return name.to_owned(),
    }
    match field.data_type() {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => format!("{}[]", type_name(item)),
        DataType::FixedSizeList(item, length) => format!("{}[{length}]", type_name(item)),
        DataType::Struct(fields) => {
            format!("STRUCT({})", members(fields.iter().map(AsRef::as_ref)))
        }
        DataType::Union(fields, _) => {
            format!(
                "UNION({})",
                members(fields.iter().map(|(_, field)| field.as_ref()))
            )
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) => {
                let types: Vec<_> = entry.iter().map(|field| type_name(field)).collect();
                format!("MAP({})", types.join(", "))
            }
            _ => "MAP".to_owned(),
        },
        // DuckDB sends its enumerations so; their members are in the values, which differ by batch.
        DataType::Dictionary(_, value) if value.is_string() => "ENUM".to_owned(),
        DataType::Dictionary(_, value) => type_name(&Field::new("", *value.clone(), true)),
        DataType::RunEndEncoded(_, values) => type_name(values),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision},{scale})"),
        simple => simple_name(simple).to_owned(),
    }
}

/// Whether a field's values are numbers, which are aligned to the right.
pub(crate) fn is_numeric(field: &Field) -> bool {
    field.data_type().is_numeric() || told_name(field) == Some("BIGNUM")
}

/// Whether all values of a field look alike and say little when they are cut, as timestamps do.
pub(crate) fn has_fixed_form(field: &Field) -> bool {
    field.data_type().is_temporal()
        || matches!(told_name(field), Some("UUID" | "TIME WITH TIME ZONE"))
}

fn members<'a>(fields: impl Iterator<Item = &'a Field>) -> String {
    let member = |field: &'a Field| match field.name().as_str() {
        "" => type_name(field),
        name => format!("{} {}", identifier(name), type_name(field)),
    };
    fields.map(member).collect::<Vec<_>>().join(", ")
}

/// A name as SQL writes it: quoted where it must be.
fn identifier(name: &str) -> String {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    if name.chars().all(is_word) && !name.starts_with(|first: char| first.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn simple_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "UTINYINT",
        DataType::UInt16 => "USMALLINT",
        DataType::UInt32 => "UINTEGER",
        DataType::UInt64 => "UBIGINT",
        DataType::Float16 | DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time64(TimeUnit::Nanosecond) => "TIME_NS",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Timestamp(TimeUnit::Second, None) => "TIMESTAMP_S",
        DataType::Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP_MS",
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP",
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP_NS",
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "BLOB",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn name(data_type: DataType) -> String {
        type_name(&Field::new("x", data_type, true))
    }

    #[test]
    fn nested_types_name_their_parts() {
        let integers = Field::new("item", DataType::Int32, true);
        let list = DataType::List(Arc::new(integers.clone()));
        assert_eq!(name(list.clone()), "INTEGER[]");
        assert_eq!(
            name(DataType::FixedSizeList(Arc::new(integers), 3)),
            "INTEGER[3]"
        );
        let fields = vec![
            Field::new("a", list, true),
            Field::new("b c", DataType::Decimal128(10, 2), true),
        ];
        let structure = DataType::Struct(fields.into());
        assert_eq!(
            name(structure.clone()),
            "STRUCT(a INTEGER[], \"b c\" DECIMAL(10,2))"
        );
        let entry = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", structure, true),
        ];
        let entries = Field::new("entries", DataType::Struct(entry.into()), false);
        let expected = "MAP(VARCHAR, STRUCT(a INTEGER[], \"b c\" DECIMAL(10,2)))";
        assert_eq!(name(DataType::Map(Arc::new(entries), false)), expected);
    }

    #[test]
    fn times_and_enumerations_have_duckdbs_names() {
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(name(zoned), "TIMESTAMP WITH TIME ZONE");
        assert_eq!(
            name(DataType::Timestamp(TimeUnit::Microsecond, None)),
            "TIMESTAMP"
        );
        let words = DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8));
        assert_eq!(name(words), "ENUM");
    }

    #[test]
    fn a_name_in_the_metadata_wins() {
        let told = |name: &str, data_type| {
            let metadata = [(TYPE_NAME_KEY.to_owned(), name.to_owned())];
            Field::new("x", data_type, true).with_metadata(metadata.into())
        };
        let huge = told("HUGEINT", DataType::Decimal128(38, 0));
        assert_eq!(type_name(&huge), "HUGEINT");
        let decimal = told("DECIMAL", DataType::Decimal128(18, 3));
        assert_eq!(type_name(&decimal), "DECIMAL(18,3)");
        let big = told("BIGNUM", DataType::Utf8);
        assert!(is_numeric(&big) && !has_fixed_form(&big));
        let uuid = told("UUID", DataType::Utf8);
        assert!(has_fixed_form(&uuid) && !is_numeric(&uuid));
    }
}
