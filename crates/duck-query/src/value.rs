//! The values of one column as text and as JSON.
//!
//! A [`Column`] is made once per batch and column; the types are told apart there, so that writing a
//! value is one indirect call. Text is what DuckDB's cast to VARCHAR gives. JSON is a string of that text
//! except where JSON has something closer: numbers (always exact), booleans, arrays, objects, and values
//! of DuckDB's own type JSON, where the server tells it.

mod nested;
mod scalar;
mod time;
mod told;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Field;

/// The text of a NULL inside a nested value.
const NESTED_NULL: &str = "NULL";

/// Writes the values of an array. A row that is NULL is never asked for.
trait Values {
    fn write_text(&self, row: usize, out: &mut String);

    fn write_json(&self, row: usize, out: &mut String) {
        out.push('"');
        let start = out.len();
        self.write_text(row, out);
        escape_json(out, start);
        out.push('"');
    }

    /// Whether the text stands inside another nested value without quotes.
    fn is_nested(&self) -> bool {
        false
    }
}

/// Values whose JSON is a string.
struct Quoted<F>(F);

impl<F: Fn(usize, &mut String)> Values for Quoted<F> {
    fn write_text(&self, row: usize, out: &mut String) {
        self.0(row, out);
    }
}

/// Values whose text is already JSON.
struct Bare<F>(F);

impl<F: Fn(usize, &mut String)> Values for Bare<F> {
    fn write_text(&self, row: usize, out: &mut String) {
        self.0(row, out);
    }

    fn write_json(&self, row: usize, out: &mut String) {
        self.0(row, out);
    }
}

fn quoted(write: impl Fn(usize, &mut String) + 'static) -> Box<dyn Values> {
    Box::new(Quoted(write))
}

fn bare(write: impl Fn(usize, &mut String) + 'static) -> Box<dyn Values> {
    Box::new(Bare(write))
}

/// The text of every value of a batch, row by row; `None` for NULL. Text is what DuckDB's cast to VARCHAR gives.
pub fn texts(batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(batch.columns());
    let columns: Vec<_> = fields
        .map(|(field, array)| Column::new(field, array))
        .collect();
    let text = |column: &Column, row| {
        (!column.is_null(row)).then(|| {
            let mut text = String::new();
            column.write_text(row, &mut text);
            text
        })
    };
    let row = |row| columns.iter().map(|column| text(column, row)).collect();
    (0..batch.num_rows()).map(row).collect()
}

/// One column of a batch, ready to be written row by row.
pub(crate) struct Column {
    nulls: Option<NullBuffer>,
    values: Box<dyn Values>,
}

impl Column {
    /// The column `array` as its `field` describes it: what its text means is told by the field's metadata.
    pub(crate) fn new(field: &Field, array: &ArrayRef) -> Self {
        let values = told::values(field, array).unwrap_or_else(|| {
            nested::values(array)
                .or_else(|| time::values(array))
                .unwrap_or_else(|| scalar::values(array))
        });
        Self {
            nulls: array.logical_nulls(),
            values,
        }
    }

    /// Whether the value in `row` is NULL.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the text of a value that is not NULL.
    pub(crate) fn write_text(&self, row: usize, out: &mut String) {
        self.values.write_text(row, out);
    }

    /// Appends the value as JSON, NULL as `null`.
    pub(crate) fn write_json(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str("null");
        } else {
            self.values.write_json(row, out);
        }
    }

    /// Appends the value as text that stands inside a list, struct or map.
    fn write_nested_text(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str(NESTED_NULL);
            return;
        }
        let start = out.len();
        self.values.write_text(row, out);
        if !self.values.is_nested() && needs_quotes(&out[start..]) {
            let text = out.split_off(start);
            quote_nested(&text, out);
        }
    }
}

/// Whether DuckDB quotes this text inside a nested value.
fn needs_quotes(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return true;
    };
    first.is_ascii_whitespace()
        || last.is_ascii_whitespace()
        || text.eq_ignore_ascii_case(NESTED_NULL)
        || bytes.iter().any(|byte| b"()[]{}\"',:=".contains(byte))
}

fn quote_nested(text: &str, out: &mut String) {
    out.push('\'');
    for character in text.chars() {
        if matches!(character, '\'' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('\'');
}

/// Appends `text` as a JSON string.
pub(crate) fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    let start = out.len();
    out.push_str(text);
    escape_json(out, start);
    out.push('"');
}

/// Escapes what was written from `start` on for the inside of a JSON string.
fn escape_json(out: &mut String, start: usize) {
    let must_escape = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    if !out.as_bytes()[start..].iter().any(must_escape) {
        return;
    }
    let text = out.split_off(start);
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                out.push_str("\\u00");
                push_hex(control as u8, out);
            }
            other => out.push(other),
        }
    }
}

/// Appends a byte as two hexadecimal digits.
fn push_hex(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// What the tests of this module's parts share.
#[cfg(test)]
mod testing {
    use super::*;

    /// The text of every value, `NULL` where there is none.
    pub(super) fn texts(field: &Field, array: &ArrayRef) -> Vec<String> {
        let column = Column::new(field, array);
        let text = |row| {
            let mut out = String::new();
            if column.is_null(row) {
                return "NULL".to_owned();
            }
            column.write_text(row, &mut out);
            out
        };
        (0..array.len()).map(text).collect()
    }

    /// The JSON of every value.
    pub(super) fn jsons(field: &Field, array: &ArrayRef) -> Vec<String> {
        let column = Column::new(field, array);
        let json = |row| {
            let mut out = String::new();
            column.write_json(row, &mut out);
            out
        };
        (0..array.len()).map(json).collect()
    }

    /// A field that holds `array` and has no metadata.
    pub(super) fn plain_field(array: &ArrayRef) -> Field {
        Field::new("x", array.data_type().clone(), true)
    }
}
