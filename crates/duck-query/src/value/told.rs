//! Text columns that the server declares to be JSON or BIGNUM.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::Field;
use serde::de::IgnoredAny;

use super::scalar::Strings;
use super::{Values, bare, write_json_string};
use crate::type_name::told_name;

/// The writer of an array whose text is JSON already; nothing for other types.
pub(super) fn values(field: &Field, array: &ArrayRef) -> Option<Box<dyn Values>> {
    // A dictionary's field describes the dictionary, but its values come here too.
    if !array.data_type().is_string() {
        return None;
    }
    match told_name(field)? {
        "JSON" => Some(Box::new(Json(Strings::new(array)))),
        "BIGNUM" => {
            let digits = Strings::new(array);
            Some(bare(move |row, out| out.push_str(digits.get(row))))
        }
        _ => None,
    }
}

/// Values that are JSON themselves.
struct Json(Strings);

impl Values for Json {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push_str(self.0.get(row));
    }

    /// The value as it is, so that no number loses digits, but on one line.
    fn write_json(&self, row: usize, out: &mut String) {
        let text = self.0.get(row);
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            return write_json_string(text, out);
        }
        // A line break in valid JSON is white space between its tokens.
        out.extend(text.trim().chars().map(|character| match character {
            '\n' | '\r' => ' ',
            other => other,
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};

    use super::super::testing::{jsons, texts};
    use super::*;
    use crate::type_name::TYPE_NAME_KEY;

    fn told(array: &ArrayRef, name: &str) -> Field {
        let metadata = [(TYPE_NAME_KEY.to_owned(), name.to_owned())];
        Field::new("x", array.data_type().clone(), true).with_metadata(metadata.into())
    }

    #[test]
    fn json_is_embedded_as_it_is_on_one_line() {
        let values = vec![
            "{\"a\": 12345678901234567890123,\n \"b\":\"\\n\"}",
            "broken",
        ];
        let array: ArrayRef = Arc::new(StringArray::from(values.clone()));
        let expected = [
            "{\"a\": 12345678901234567890123,  \"b\":\"\\n\"}",
            "\"broken\"",
        ];
        let field = told(&array, "JSON");
        assert_eq!(jsons(&field, &array), expected);
        assert_eq!(texts(&field, &array), values);
    }

    #[test]
    fn big_numbers_are_numbers_with_every_digit() {
        let digits = "123456789012345678901234567890123456789012345";
        let array: ArrayRef = Arc::new(StringArray::from(vec![digits]));
        assert_eq!(jsons(&told(&array, "BIGNUM"), &array), [digits]);
    }

    #[test]
    fn a_type_that_is_not_told_by_text_is_shown_as_it_is() {
        let array: ArrayRef = Arc::new(StringArray::from(vec!["u"]));
        assert_eq!(jsons(&told(&array, "UUID"), &array), ["\"u\""]);
        let array: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert_eq!(jsons(&told(&array, "JSON"), &array), ["1"]);
    }
}
