//! Plans, as EXPLAIN answers: drawings of many lines, which a cell of a table cannot show.

use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use duck_flight_protocol::escape_controls;

use super::{Format, Printer, Sink, columns};

/// How Markdown marks lines that are to be shown as they are.
const FENCE: &str = "```\n";

/// Prints plans line by line.
pub(super) struct PlanPrinter {
    is_fenced: bool,
}

impl PlanPrinter {
    /// The printer of a result that is a plan, in a format for people; nothing for others.
    pub(super) fn of(format: Format, schema: &Schema) -> Option<Self> {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let is_plan = names.eq(["explain_key", "explain_value"]);
        let is_for_people = matches!(format, Format::Table | Format::Plain | Format::Markdown);
        (is_plan && is_for_people).then_some(Self {
            is_fenced: format == Format::Markdown,
        })
    }

    fn fence(&self, sink: &mut Sink) {
        if self.is_fenced {
            sink.text().push_str(FENCE);
        }
    }
}

impl Printer for PlanPrinter {
    fn start(&mut self, sink: &mut Sink) -> io::Result<()> {
        self.fence(sink);
        Ok(())
    }

    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let columns = columns(batch);
        let plans = &columns[1];
        let mut plan = String::new();
        for row in (0..batch.num_rows()).filter(|row| !plans.is_null(*row)) {
            plan.clear();
            plans.write_text(row, &mut plan);
            for line in plan.lines() {
                let out = sink.text();
                out.push_str(&escape_controls(line));
                out.push('\n');
                sink.spill()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) -> io::Result<()> {
        self.fence(sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{printed, unlimited, words};
    use super::*;

    #[test]
    fn a_plan_is_printed_as_it_was_drawn() {
        let plan = "┌────┐\n│ \u{1b}x │\n└────┘\n";
        let batch = words(&[("explain_key", "physical_plan"), ("explain_value", plan)]);
        let drawn = "┌────┐\n│ \\x1Bx │\n└────┘\n";
        for format in [Format::Table, Format::Plain] {
            let found = printed(&unlimited(format), std::slice::from_ref(&batch));
            assert_eq!(found, drawn);
        }
        let found = printed(&unlimited(Format::Markdown), std::slice::from_ref(&batch));
        assert_eq!(found, format!("```\n{drawn}```\n"));
        let csv = printed(&unlimited(Format::Csv), &[batch]);
        assert!(csv.starts_with("explain_key,explain_value\n"), "{csv}");
    }
}
