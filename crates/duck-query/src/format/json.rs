//! JSON: one array of objects, or one object per line.

use std::collections::HashSet;
use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::{Printer, Sink, columns};
use crate::value::write_json_string;

/// Prints every row as an object on a line of its own.
pub(super) struct JsonPrinter {
    /// The members' names as JSON with their colons.
    names: Vec<String>,
    is_array: bool,
    is_first_row: bool,
}

impl JsonPrinter {
    /// One array of all rows. A result that is cut short by an error leaves it open, so that no reader
    /// takes it for the whole.
    pub(super) fn array(schema: &Schema) -> Self {
        Self {
            names: member_names(schema),
            is_array: true,
            is_first_row: true,
        }
    }

    /// One object per line.
    pub(super) fn lines(schema: &Schema) -> Self {
        Self {
            is_array: false,
            ..Self::array(schema)
        }
    }
}

impl Printer for JsonPrinter {
    fn start(&mut self, sink: &mut Sink) -> io::Result<()> {
        if self.is_array {
            sink.text().push('[');
        }
        Ok(())
    }

    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let columns = columns(batch);
        for row in 0..batch.num_rows() {
            let out = sink.text();
            if self.is_array && !self.is_first_row {
                out.push_str(",\n");
            }
            self.is_first_row = false;
            out.push('{');
            for (position, (name, column)) in self.names.iter().zip(&columns).enumerate() {
                if position > 0 {
                    out.push(',');
                }
                out.push_str(name);
                column.write_json(row, out);
            }
            out.push('}');
            if !self.is_array {
                out.push('\n');
            }
            sink.spill()?;
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) -> io::Result<()> {
        if self.is_array {
            sink.text().push_str("]\n");
        }
        Ok(())
    }
}

/// The names of the members: a name that stands twice gets a number, because readers keep only the last
/// of two members with the same name.
fn member_names(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    let given: HashSet<&str> = fields.clone().map(|field| field.name().as_str()).collect();
    let mut used = HashSet::new();
    let mut member_name = |name: &str| {
        let mut unique = name.to_owned();
        let mut number = 0;
        while (number > 0 && given.contains(unique.as_str())) || !used.insert(unique.clone()) {
            number += 1;
            unique = format!("{name}_{number}");
        }
        let mut json = String::new();
        write_json_string(&unique, &mut json);
        json.push(':');
        json
    };
    fields.map(|field| member_name(field.name())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::testing::{counting, printed, sample, unlimited, words};

    const ROWS: [&str; 3] = [
        r#"{"id":1,"value":1.0,"word":"a,\"b\" | c\n","list":[1,null]}"#,
        r#"{"id":-20,"value":null,"word":"","list":[]}"#,
        r#"{"id":9223372036854775807,"value":2.5,"word":null,"list":null}"#,
    ];

    #[test]
    fn ndjson_is_one_object_per_line() {
        let expected = format!("{}\n", ROWS.join("\n"));
        assert_eq!(printed(&unlimited(Format::Ndjson), &[sample()]), expected);
    }

    #[test]
    fn json_is_one_array_over_all_batches() {
        let options = unlimited(Format::Json);
        let row = ROWS.join(",\n");
        let expected = format!("[{row},\n{row}]\n");
        assert_eq!(printed(&options, &[sample(), sample()]), expected);
        serde_json::from_str::<serde_json::Value>(&expected).unwrap();
        assert_eq!(printed(&options, &[counting(0, 0)]), "[]\n");
    }

    #[test]
    fn columns_of_the_same_name_are_all_kept() {
        let batch = words(&[("a", "1"), ("a", "2"), ("a_1", "3"), ("a", "4")]);
        let expected = "{\"a\":\"1\",\"a_2\":\"2\",\"a_1\":\"3\",\"a_3\":\"4\"}\n";
        assert_eq!(printed(&unlimited(Format::Ndjson), &[batch]), expected);
    }
}
