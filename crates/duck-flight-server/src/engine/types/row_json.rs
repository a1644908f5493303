//! A row as JSON, for people to read.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::json::LineDelimitedWriter;

use super::bounds::first_out_of_range;
use super::exact::{formatted, shown};
use super::plain;

/// A batch of one row as a JSON object. What JSON has no value for is told as text.
pub(crate) fn row_json(row: &RecordBatch) -> String {
    let are_told = |row: &RecordBatch| row.columns().iter().all(is_told);
    if are_told(row)
        && let Some(json) = write(row)
    {
        return json;
    }
    let members = row.schema_ref().fields().iter().enumerate();
    let members = members.map(|(index, field)| {
        let single = row.project(&[index]).ok();
        let json = single.filter(are_told).and_then(|single| write(&single));
        match json {
            Some(json) => json[1..json.len() - 1].to_owned(),
            None => format!(
                "{}:{}",
                serde_json::Value::from(field.name().as_str()),
                serde_json::Value::from(text(row.column(index)))
            ),
        }
    });
    let members: Vec<_> = members.filter(|member| !member.is_empty()).collect();
    format!("{{{}}}", members.join(","))
}

fn write(row: &RecordBatch) -> Option<String> {
    let mut json = Vec::new();
    LineDelimitedWriter::new(&mut json).write(row).ok()?;
    let json = String::from_utf8(json).ok()?;
    Some(json.trim_end().to_owned())
}

/// Whether JSON has a value for the first one: for numbers and times that are none it has not.
fn is_told(column: &ArrayRef) -> bool {
    let has_others = || {
        let text = text(column);
        text.contains("NaN") || text.contains("inf")
    };
    first_out_of_range(column).is_none() && (!holds_floats(column.data_type()) || !has_others())
}

fn holds_floats(data_type: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct, Union};
    match plain(data_type) {
        List(inside)
        | LargeList(inside)
        | ListView(inside)
        | LargeListView(inside)
        | FixedSizeList(inside, _)
        | Map(inside, _) => holds_floats(inside.data_type()),
        Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        Union(members, _) => members
            .iter()
            .any(|(_, member)| holds_floats(member.data_type())),
        other => other.is_floating(),
    }
}

/// The first value as text.
fn text(column: &ArrayRef) -> String {
    formatted(column, 0).unwrap_or_else(|| match column.data_type() {
        // An instant in a zone that nobody knows is the same in that of Greenwich.
        DataType::Timestamp(unit, Some(_)) => {
            let instant = cast_to_greenwich(column, *unit);
            instant.unwrap_or_else(|| shown(column, 0))
        }
        _ => shown(column, 0),
    })
}

fn cast_to_greenwich(column: &ArrayRef, unit: arrow::datatypes::TimeUnit) -> Option<String> {
    let zoned = DataType::Timestamp(unit, Some("+00:00".into()));
    let texts = cast(&cast(column, &zoned).ok()?, &DataType::Utf8).ok()?;
    Some(texts.as_string::<i32>().value(0).to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::Float64Type;

    use super::*;

    fn json(columns: Vec<(&str, ArrayRef)>) -> String {
        let columns = columns
            .into_iter()
            .map(|(name, column)| (name, column, true));
        row_json(&RecordBatch::try_from_iter_with_nullable(columns).unwrap())
    }

    #[test]
    fn what_json_has_no_value_for_is_told_as_text() {
        let float = |value| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        let text = || Arc::new(StringArray::from(vec!["{a}"])) as ArrayRef;
        let null = || Arc::new(Int32Array::from(vec![None])) as ArrayRef;
        assert_eq!(
            json(vec![("f", float(1.5)), ("s", text())]),
            r#"{"f":1.5,"s":"{a}"}"#
        );
        assert_eq!(
            json(vec![
                ("s", text()),
                ("n", null()),
                ("f", float(f64::NAN)),
                ("\"g", float(f64::INFINITY))
            ]),
            r#"{"s":"{a}","f":"NaN","\"g":"inf"}"#
        );
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some([
            Some(1.0),
            Some(f64::NAN),
        ])]);
        assert_eq!(json(vec![("l", Arc::new(list))]), r#"{"l":"[1.0, NaN]"}"#);
        let instant = TimestampSecondArray::from(vec![0]).with_timezone("Atlantis/Port");
        assert_eq!(
            json(vec![("t", Arc::new(instant)), ("f", float(1.0))]),
            r#"{"t":"1970-01-01T00:00:00Z","f":1.0}"#
        );
        let time = Time32SecondArray::from(vec![-1]);
        assert_eq!(
            json(vec![("t", Arc::new(time)), ("s", text())]),
            r#"{"t":"-1","s":"{a}"}"#
        );
    }
}
