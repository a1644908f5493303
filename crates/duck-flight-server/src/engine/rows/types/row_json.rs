//! A row as JSON, for people to read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder,
};

use super::exact::{formatted, shown};
use super::json::is_json;
use crate::engine::ffi::value::Value;

/// A batch of one row as a JSON object. What JSON has no value for is told as text.
pub(crate) fn row_json(row: &RecordBatch) -> String {
    if let Some(json) = write(row) {
        return json;
    }
    let members = row.schema_ref().fields().iter().enumerate();
    let members = members.map(|(index, field)| {
        let single = row.project(&[index]).ok();
        let json = single.and_then(|single| write(&single));
        match json {
            Some(json) => json[1..json.len() - 1].to_owned(),
            None => format!(
                "{}:{}",
                serde_json::Value::from(field.name().as_str()),
                serde_json::Value::from(text(row.column(index), 0))
            ),
        }
    });
    let members: Vec<_> = members.filter(|member| !member.is_empty()).collect();
    format!("{{{}}}", members.join(","))
}

/// The row by Arrow's writer; `None` where that has nothing for a type.
fn write(row: &RecordBatch) -> Option<String> {
    let mut json = Vec::new();
    let builder = WriterBuilder::new().with_encoder_factory(Arc::new(Texts));
    let mut writer = builder.build::<_, LineDelimited>(&mut json);
    writer.write(row).ok()?;
    let json = String::from_utf8(json).ok()?;
    let json = json.trim_end();
    is_json(json.as_bytes()).then(|| json.to_owned())
}

/// Writes floats, dates, times and the like, wherever they are. Arrow would write `null` for a number that is none, and the text of
/// an error for infinity and for other times that it has no text for.
#[derive(Debug)]
struct Texts;

impl EncoderFactory for Texts {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let data_type = array.data_type();
        if !data_type.is_temporal() && !data_type.is_floating() {
            return Ok(None);
        }
        let encoder = TextEncoder(array.slice(0, array.len()));
        let nulls = array.nulls().cloned();
        Ok(Some(NullableEncoder::new(Box::new(encoder), nulls)))
    }
}

struct TextEncoder(ArrayRef);

impl Encoder for TextEncoder {
    fn encode(&mut self, index: usize, json: &mut Vec<u8>) {
        let text = text(&self.0, index);
        // A number that is none is spelled without digits.
        let is_number =
            self.0.data_type().is_floating() && text.contains(|c: char| c.is_ascii_digit());
        let text = match is_number {
            true => text,
            false => serde_json::Value::from(text).to_string(),
        };
        json.extend_from_slice(text.as_bytes());
    }
}

/// A value as text: DuckDB's where Arrow has none, as for infinity.
fn text(array: &ArrayRef, index: usize) -> String {
    let single = || array.slice(index, 1);
    formatted(array, index)
        .or_else(|| formatted(&in_greenwich(&single())?, 0))
        .or_else(|| Value::text_of(array, index))
        .unwrap_or_else(|| shown(array, index))
}

/// An instant in a zone that nobody knows, which is the same in that of Greenwich.
fn in_greenwich(instant: &ArrayRef) -> Option<ArrayRef> {
    let DataType::Timestamp(unit, Some(_)) = instant.data_type() else {
        return None;
    };
    let zoned = DataType::Timestamp(*unit, Some("+00:00".into()));
    cast(instant, &zoned).ok()
}

#[cfg(test)]
mod tests {
    use arrow::array::*;
    use arrow::buffer::{OffsetBuffer, ScalarBuffer};
    use arrow::datatypes::{Field, Float64Type, UnionFields};

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
        assert_eq!(json(vec![("l", Arc::new(list))]), r#"{"l":[1.0,"NaN"]}"#);
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

    #[test]
    fn moments_that_arrow_has_no_text_for_are_told_as_duckdb_does() {
        const INFINITY: i64 = i64::MAX;
        let micros = |value: i64| TimestampMicrosecondArray::from(vec![value]);
        let millis = |value: i64| TimestampMillisecondArray::from(vec![value]);
        let moments: [(ArrayRef, &str); 11] = [
            (Arc::new(micros(INFINITY)), "infinity"),
            (
                Arc::new(micros(-INFINITY).with_timezone("UTC")),
                "-infinity",
            ),
            (
                Arc::new(micros(INFINITY).with_timezone("Atlantis/Port")),
                "infinity",
            ),
            (
                Arc::new(micros(INFINITY - 1)),
                "294247-01-10 04:00:54.775806",
            ),
            (
                Arc::new(millis(-9_223_372_022_400_000).with_timezone("UTC")),
                "290309-12-22 (BC) 00:00:00+00",
            ),
            (
                Arc::new(TimestampSecondArray::from(vec![INFINITY])),
                "infinity",
            ),
            (
                Arc::new(Time64MicrosecondArray::from(vec![86_400_000_000])),
                "24:00:00",
            ),
            (Arc::new(Time32SecondArray::from(vec![86_400])), "24:00:00"),
            (Arc::new(Date32Array::from(vec![i32::MAX])), "infinity"),
            (
                Arc::new(Date32Array::from(vec![i32::MAX - 1])),
                "5881580-07-10",
            ),
            // DuckDB has none for it either.
            (Arc::new(micros(i64::MIN)), "-9223372036854775808"),
        ];
        for (moment, text) in moments {
            let item = || Arc::new(Field::new("item", moment.data_type().clone(), true));
            let known: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
            let single = json(vec![("t", moment.clone()), ("f", known.clone())]);
            assert_eq!(single, format!(r#"{{"t":"{text}","f":0.5}}"#));
            let offsets = OffsetBuffer::from_lengths([1]);
            let list = ListArray::new(item(), offsets, moment.clone(), None);
            let nested = json(vec![("l", Arc::new(list)), ("f", known)]);
            assert_eq!(nested, format!(r#"{{"l":["{text}"],"f":0.5}}"#));
            let keys = Int8Array::from(vec![0]);
            let dictionary = DictionaryArray::new(keys, moment.clone());
            assert_eq!(
                json(vec![("d", Arc::new(dictionary))]),
                format!(r#"{{"d":"{text}"}}"#)
            );
        }
    }

    #[test]
    fn what_json_has_no_type_for_is_told_as_duckdb_does_where_arrow_has_no_text_for_it() {
        let moment: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX]));
        let fields = [Field::new("d", DataType::Date32, true)];
        let fields = UnionFields::try_new([0], fields).unwrap();
        let kinds = ScalarBuffer::from(vec![0_i8]);
        let union = UnionArray::try_new(fields, kinds, None, vec![moment]).unwrap();
        let number: ArrayRef = Arc::new(Int32Array::from(vec![300]));
        assert_eq!(
            json(vec![("u", Arc::new(union)), ("i", number)]),
            r#"{"u":"infinity","i":300}"#
        );
    }
}
