//! Comma-separated values, as RFC 4180 has them but for the line ends, which are those of Unix.

use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::{Printer, Sink, columns};

/// Prints a header and a line per row. NULL is `null`; a string that reads the same is quoted.
pub(super) struct CsvPrinter {
    names: Vec<String>,
    null: String,
}

impl CsvPrinter {
    pub(super) fn new(schema: &Schema, null: String) -> Self {
        let names = schema.fields().iter().map(|field| field.name().clone());
        Self {
            names: names.collect(),
            null,
        }
    }
}

impl Printer for CsvPrinter {
    fn start(&mut self, sink: &mut Sink) -> io::Result<()> {
        for (position, name) in self.names.iter().enumerate() {
            let out = sink.text();
            if position > 0 {
                out.push(',');
            }
            let start = out.len();
            out.push_str(name);
            quote(out, start, "");
        }
        sink.text().push('\n');
        sink.spill()
    }

    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let columns = columns(batch);
        for row in 0..batch.num_rows() {
            let out = sink.text();
            for (position, column) in columns.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                if column.is_null(row) {
                    out.push_str(&self.null);
                } else {
                    let start = out.len();
                    column.write_text(row, out);
                    quote(out, start, &self.null);
                }
            }
            // Many readers skip an empty line, and would lose the row. Which of '' and NULL it is only a text for NULL tells.
            if columns.len() == 1 && (out.is_empty() || out.ends_with('\n')) {
                out.push_str("\"\"");
            }
            out.push('\n');
            sink.spill()?;
        }
        Ok(())
    }
}

/// Whether a text must be quoted to be one field.
pub(crate) fn has_special(text: &str) -> bool {
    text.contains([',', '"', '\n', '\r'])
}

/// Quotes what was written from `start` on, where it must be.
fn quote(out: &mut String, start: usize, null: &str) {
    let field = &out[start..];
    if field != null && !has_special(field) {
        return;
    }
    let field = field.replace('"', "\"\"");
    out.truncate(start);
    out.push('"');
    out.push_str(&field);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::super::Format;
    use super::super::testing::{printed, sample, unlimited};
    use super::*;

    #[test]
    fn fields_are_quoted_only_where_they_must_be() {
        let expected = "\
            id,value,word,list\n\
            1,1.0,\"a,\"\"b\"\" | c\n\",\"[1, NULL]\"\n\
            -20,,\"\",[]\n\
            9223372036854775807,2.5,,\n";
        assert_eq!(printed(&unlimited(Format::Csv), &[sample()]), expected);
    }

    #[test]
    fn a_text_for_null_is_told_from_a_string_that_reads_the_same() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("-"), None, Some("")]));
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&words)), ("b", words)]).unwrap();
        let mut options = unlimited(Format::Csv);
        options.null = Some("-".to_owned());
        assert_eq!(printed(&options, &[batch]), "a,b\n\"-\",\"-\"\n-,-\n,\n");
    }

    #[test]
    fn a_row_of_one_null_is_not_an_empty_line() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None]));
        let batch = RecordBatch::try_from_iter([("a", words)]).unwrap();
        assert_eq!(printed(&unlimited(Format::Csv), &[batch]), "a\nx\n\"\"\n");
    }

    #[test]
    fn in_one_column_a_text_for_null_tells_it_from_the_empty_string() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None]));
        let batch = RecordBatch::try_from_iter([("a", words)]).unwrap();
        for (null, expected) in [(None, "a\n\"\"\n\"\"\n"), (Some("NULL"), "a\n\"\"\nNULL\n")] {
            let mut options = unlimited(Format::Csv);
            options.null = null.map(str::to_owned);
            assert_eq!(printed(&options, std::slice::from_ref(&batch)), expected);
        }
    }
}
