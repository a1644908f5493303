//! The ways of printing a result.
//!
//! A [`Printer`] gets a result batch by batch and writes into a [`Sink`]. None of them holds a whole
//! result: most hold nothing, and a table holds the rows it needs to know how wide its columns are.

mod csv;
mod json;
mod markdown;
mod plan;
mod table;

use std::io::{self, Write};

pub(crate) use csv::has_special;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::value::Column;

/// How many bytes of text gather before they are written.
const SPILL_BYTES: usize = 64 << 10;

/// How rows are printed. The plan that EXPLAIN answers is printed as it is drawn, in all formats but CSV and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table in boxes, with DuckDB's types under the names
    Table,
    /// The same table without boxes: columns separated by two spaces
    Plain,
    /// Comma-separated values with a header (RFC 4180, lines end with LF); NULL is empty, '' is "". A row of one NULL would
    /// be an empty line and is "" too: --null TEXT tells them apart
    Csv,
    /// One JSON array of objects; numbers keep every digit
    Json,
    /// One JSON object per line
    Ndjson,
    /// A Markdown table
    Markdown,
}

/// How a result is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputOptions {
    /// How rows are printed.
    pub format: Format,
    /// The text of NULL; each format's own when absent. JSON always has `null`.
    pub null: Option<String>,
    /// How many rows are printed at most; all of them when absent.
    pub max_rows: Option<usize>,
    /// The width in characters to which tables are fitted; as wide as they are when absent.
    pub width: Option<usize>,
    /// Whether the output may be styled.
    pub color: bool,
}

/// Writes one result. Called in order: [`Printer::start`], any number of batches, [`Printer::finish`];
/// the last is left out when the result was cut short by an error.
pub(crate) trait Printer {
    /// Writes what stands before the first row.
    fn start(&mut self, _sink: &mut Sink) -> io::Result<()> {
        Ok(())
    }

    /// Writes the rows of a batch.
    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()>;

    /// Writes what stands after the last row.
    fn finish(&mut self, _sink: &mut Sink) -> io::Result<()> {
        Ok(())
    }
}

/// The printer of a result with that schema.
pub(crate) fn printer(options: &OutputOptions, schema: &Schema) -> Box<dyn Printer> {
    let null = |own: &str| options.null.clone().unwrap_or_else(|| own.to_owned());
    let limit = options.max_rows;
    if let Some(printer) = plan::PlanPrinter::of(options.format, schema) {
        return limited(printer, limit);
    }
    match options.format {
        Format::Table | Format::Plain => Box::new(table::TablePrinter::new(options, schema)),
        Format::Csv => limited(csv::CsvPrinter::new(schema, null("")), limit),
        Format::Json => limited(json::JsonPrinter::array(schema), limit),
        Format::Ndjson => limited(json::JsonPrinter::lines(schema), limit),
        Format::Markdown => limited(markdown::MarkdownPrinter::new(schema, null("NULL")), limit),
    }
}

/// Prints the first rows only.
struct Limited<P> {
    printer: P,
    left: usize,
}

fn limited(printer: impl Printer + 'static, max_rows: Option<usize>) -> Box<dyn Printer> {
    match max_rows {
        None => Box::new(printer),
        Some(left) => Box::new(Limited { printer, left }),
    }
}

impl<P: Printer> Printer for Limited<P> {
    fn start(&mut self, sink: &mut Sink) -> io::Result<()> {
        self.printer.start(sink)
    }

    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let rows = batch.num_rows().min(self.left);
        self.left -= rows;
        self.printer.print(&batch.slice(0, rows), sink)
    }

    fn finish(&mut self, sink: &mut Sink) -> io::Result<()> {
        self.printer.finish(sink)
    }
}

/// Text on its way out, written in large pieces.
pub(crate) struct Sink {
    writer: Box<dyn Write + Send>,
    text: String,
}

impl Sink {
    pub(crate) fn new(writer: Box<dyn Write + Send>) -> Self {
        let text = String::with_capacity(SPILL_BYTES * 2);
        Self { writer, text }
    }

    /// Where to append. Call [`Sink::spill`] after every row.
    fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Writes what has gathered once it is much.
    fn spill(&mut self) -> io::Result<()> {
        if self.text.len() < SPILL_BYTES {
            return Ok(());
        }
        self.writer.write_all(self.text.as_bytes())?;
        self.text.clear();
        // One huge row shall not cost its memory until the end.
        self.text.shrink_to(SPILL_BYTES * 2);
        Ok(())
    }

    /// Writes all that has gathered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(self.text.as_bytes())?;
        self.text.clear();
        self.writer.flush()
    }
}

/// The columns of a batch, ready to be written.
fn columns(batch: &RecordBatch) -> Vec<Column> {
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(batch.columns());
    fields
        .map(|(field, array)| Column::new(field, array))
        .collect()
}

/// What the tests of the formats share.
#[cfg(test)]
mod testing {
    use std::sync::{Arc, Mutex, PoisonError};

    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::{DataType, Field, Int32Type};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// All that is printed for these batches.
    pub(super) fn printed(options: &OutputOptions, batches: &[RecordBatch]) -> String {
        let output = Shared::default();
        let mut sink = Sink::new(Box::new(output.clone()));
        let mut printer = printer(options, &batches[0].schema());
        printer.start(&mut sink).unwrap();
        for batch in batches {
            printer.print(batch, &mut sink).unwrap();
        }
        printer.finish(&mut sink).unwrap();
        sink.flush().unwrap();
        let bytes = output.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).unwrap()
    }

    /// Options without limits and without styling.
    pub(super) fn unlimited(format: Format) -> OutputOptions {
        OutputOptions {
            format,
            null: None,
            max_rows: None,
            width: None,
            color: false,
        }
    }

    /// Three rows of a number, a measure, a word and a list, with NULLs and awkward words.
    pub(super) fn sample() -> RecordBatch {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
        ]);
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from(vec![1, -20, i64::MAX]))),
            (
                "value",
                Arc::new(Float64Array::from(vec![Some(1.0), None, Some(2.5)])),
            ),
            (
                "word",
                Arc::new(StringArray::from(vec![
                    Some("a,\"b\" | c\n"),
                    Some(""),
                    None,
                ])),
            ),
            ("list", Arc::new(lists)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// A batch of one column that counts from `from` for `rows` rows.
    pub(super) fn counting(from: i64, rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + rows));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    /// A batch of one row of words under these names.
    pub(super) fn words(columns: &[(&str, &str)]) -> RecordBatch {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, _)| Field::new(*name, DataType::Utf8, true))
            .collect();
        let arrays = columns
            .iter()
            .map(|(_, word)| Arc::new(StringArray::from(vec![*word])) as ArrayRef);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{counting, printed, unlimited};
    use super::*;

    #[test]
    fn a_limit_prints_the_first_rows_of_any_format() {
        let batches = [counting(0, 2), counting(2, 2), counting(4, 2)];
        let mut options = unlimited(Format::Ndjson);
        options.max_rows = Some(3);
        assert_eq!(
            printed(&options, &batches),
            "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n"
        );
        options.format = Format::Json;
        assert_eq!(
            printed(&options, &batches),
            "[{\"n\":0},\n{\"n\":1},\n{\"n\":2}]\n"
        );
        options.format = Format::Csv;
        assert_eq!(printed(&options, &batches), "n\n0\n1\n2\n");
        options.format = Format::Markdown;
        assert_eq!(
            printed(&options, &batches),
            "| n |\n| ---: |\n| 0 |\n| 1 |\n| 2 |\n"
        );
    }
}
