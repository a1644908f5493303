//! Markdown tables.

use std::borrow::Cow;
use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use duck_flight_protocol::{escape_controls, escape_controls_in_lines};

use super::{Printer, Sink, columns};
use crate::type_name::is_numeric;

/// Prints a header, a line that aligns the columns, and a line per row.
pub(super) struct MarkdownPrinter {
    names: Vec<String>,
    are_numeric: Vec<bool>,
    null: String,
}

impl MarkdownPrinter {
    pub(super) fn new(schema: &Schema, null: String) -> Self {
        let fields = schema.fields().iter();
        Self {
            names: fields.clone().map(|field| field.name().clone()).collect(),
            are_numeric: fields.map(|field| is_numeric(field)).collect(),
            null,
        }
    }
}

impl Printer for MarkdownPrinter {
    fn start(&mut self, sink: &mut Sink) -> io::Result<()> {
        let out = sink.text();
        for name in &self.names {
            out.push_str("| ");
            let start = out.len();
            out.push_str(name);
            escape(out, start);
            out.push(' ');
        }
        out.push_str("|\n");
        for is_numeric in &self.are_numeric {
            out.push_str(if *is_numeric { "| ---: " } else { "| --- " });
        }
        out.push_str("|\n");
        sink.spill()
    }

    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let columns = columns(batch);
        for row in 0..batch.num_rows() {
            let out = sink.text();
            for column in &columns {
                out.push_str("| ");
                let start = out.len();
                if column.is_null(row) {
                    out.push_str(&self.null);
                } else {
                    column.write_text(row, out);
                }
                escape(out, start);
                out.push(' ');
            }
            out.push_str("|\n");
            sink.spill()?;
        }
        Ok(())
    }
}

/// Escapes what was written from `start` on for the inside of a table, and for a terminal, which shows it and does not obey it.
fn escape(out: &mut String, start: usize) {
    let written = &out[start..];
    if !written.contains('|') && matches!(escape_controls(written), Cow::Borrowed(_)) {
        return;
    }
    let lines = out.split_off(start).replace("\r\n", "\n");
    let harmless = escape_controls_in_lines(&lines.replace('\r', "\n"));
    for character in harmless.chars() {
        match character {
            '|' => out.push_str("\\|"),
            '\n' => out.push_str("<br>"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::testing::{printed, sample, unlimited, words};

    #[test]
    fn bars_and_line_breaks_are_escaped_and_numbers_aligned_to_the_right() {
        let expected = "\
            | id | value | word | list |\n\
            | ---: | ---: | --- | --- |\n\
            | 1 | 1.0 | a,\"b\" \\| c<br> | [1, NULL] |\n\
            | -20 | NULL |  | [] |\n\
            | 9223372036854775807 | 2.5 | NULL | NULL |\n";
        assert_eq!(printed(&unlimited(Format::Markdown), &[sample()]), expected);
    }

    #[test]
    fn neither_a_name_nor_a_value_moves_the_cursor() {
        let batch = words(&[("a\u{1b}[31m\u{202E}\n|b", "w\u{1b}[2J\u{202E}\r\n\r|\t")]);
        assert_eq!(
            printed(&unlimited(Format::Markdown), &[batch]),
            "| a\\x1B[31m\\u{202E}<br>\\|b |\n\
             | --- |\n\
             | w\\x1B[2J\\u{202E}<br><br>\\|\\t |\n"
        );
    }
}
