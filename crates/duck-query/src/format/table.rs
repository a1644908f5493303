//! Tables for people: columns as wide as their values, types under the names, and the number of rows.
//!
//! Rows are kept until the widths are known, but never more than [`CHUNK_ROWS`] or [`CHUNK_BYTES`] of
//! them: a longer table is drawn piece by piece, and later rows may widen its columns. A table with a
//! limit keeps the first and the last rows it will show, of the last no more than as many bytes again, and
//! only counts those between.

mod cell;
mod draw;
mod layout;

use std::collections::VecDeque;
use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use duck_flight_protocol::escape_controls;

use super::{Format, OutputOptions, Printer, Sink, columns};
use crate::type_name::{has_fixed_form, is_numeric, type_name};
use crate::value::Column;
use cell::{cut, width};
use draw::{Drawing, Part};
use layout::{Need, Room, Shorten, Shown, lay_out, widen};

/// How many rows are kept before they are drawn.
const CHUNK_ROWS: usize = 10_000;

/// How many bytes of cells are kept before they are drawn.
const CHUNK_BYTES: usize = 16 << 20;

/// The bytes a cell takes besides its text.
const CELL_BYTES: usize = size_of::<Option<Box<str>>>();

/// A row of cells; NULL is absent.
type Row = Vec<Option<Box<str>>>;

/// What stands above a column.
struct Header {
    name: String,
    type_name: String,
    is_numeric: bool,
    shorten: Shorten,
}

/// Prints a table.
pub(super) struct TablePrinter {
    headers: Vec<Header>,
    null: String,
    room: Room,
    has_boxes: bool,
    color: bool,
    /// How many rows are shown from the start, and how many from the end.
    head_rows: usize,
    tail_rows: usize,
    /// Rows from the start that are not drawn yet.
    head: Vec<Row>,
    head_bytes: usize,
    /// The last rows so far.
    tail: VecDeque<Row>,
    tail_bytes: usize,
    /// How many rows have joined the head.
    in_head: usize,
    total: usize,
    /// The layout, once something is drawn.
    shown: Option<Vec<Shown>>,
}

impl TablePrinter {
    pub(super) fn new(options: &OutputOptions, schema: &Schema) -> Self {
        let headers = schema.fields().iter().map(|field| Header {
            name: escape_controls(field.name()).into_owned(),
            type_name: escape_controls(&type_name(field)).into_owned(),
            is_numeric: is_numeric(field),
            shorten: shorten(field),
        });
        let has_boxes = options.format == Format::Table;
        let (per_column, around) = if has_boxes { (3, 1) } else { (2, 0) };
        let (head_rows, tail_rows) = match options.max_rows {
            None => (usize::MAX, 0),
            Some(rows) if rows > CHUNK_ROWS => (rows, 0),
            Some(rows) => (rows - rows / 2, rows / 2),
        };
        Self {
            headers: headers.collect(),
            null: options.null.clone().unwrap_or_else(|| "NULL".to_owned()),
            room: Room {
                width: options.width,
                per_column,
                around,
            },
            has_boxes,
            color: options.color,
            head_rows,
            tail_rows,
            head: Vec::new(),
            head_bytes: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            in_head: 0,
            total: 0,
            shown: None,
        }
    }

    fn push_head(&mut self, row: Row, sink: &mut Sink) -> io::Result<()> {
        // Drawn only when another row follows, so that the last piece is never empty.
        if self.head.len() >= CHUNK_ROWS || self.head_bytes >= CHUNK_BYTES {
            self.draw(false, sink)?;
        }
        self.head_bytes += bytes(&row);
        self.head.push(row);
        self.in_head += 1;
        Ok(())
    }

    fn push_tail(&mut self, row: Row) {
        self.tail_bytes += bytes(&row);
        self.tail.push_back(row);
        // The last row is kept whatever it takes.
        while self.tail.len() > self.tail_rows
            || self.tail.len() > 1 && self.tail_bytes > CHUNK_BYTES
        {
            let left_out = self.tail.pop_front();
            self.tail_bytes -= left_out.as_deref().map_or(0, bytes);
        }
    }

    fn left_out(&self) -> usize {
        self.total - self.in_head - self.tail.len()
    }

    /// Draws all rows that are kept.
    fn draw(&mut self, is_last: bool, sink: &mut Sink) -> io::Result<()> {
        let is_first = self.shown.is_none();
        let needs = self.needs();
        let shown = match self.shown.take() {
            None => lay_out(&needs, self.room),
            Some(mut shown) => {
                widen(&mut shown, &needs, self.room);
                shown
            }
        };
        let gap = is_last && self.left_out() > 0;
        let head = self.head.iter().map(Some);
        let rows = head
            .chain(gap.then_some(None))
            .chain(self.tail.iter().map(Some));
        let part = Part {
            rows: rows.collect(),
            is_first,
            is_last,
        };
        let drawing = Drawing {
            headers: &self.headers,
            columns: &shown,
            null: &self.null,
            is_fitted: self.room.width.is_some(),
            color: self.color,
        };
        if self.has_boxes {
            drawing.draw_boxes(&part, sink.text());
        } else {
            drawing.draw_plain(&part, sink.text());
        }
        self.head.clear();
        self.head_bytes = 0;
        self.shown = Some(shown);
        sink.spill()
    }

    /// The room that the kept rows ask for.
    fn needs(&self) -> Vec<Need> {
        let null = width(&self.null);
        let headers = self.headers.iter().enumerate();
        let need = |(index, header): (usize, &Header)| {
            let rows = self.head.iter().chain(&self.tail);
            let cells = rows.map(|row| row[index].as_deref().map_or(null, width));
            Need {
                header: width(&header.name).max(width(&header.type_name)),
                values: cells.max().unwrap_or(0),
                shorten: header.shorten,
            }
        };
        headers.map(need).collect()
    }

    /// The line under the table.
    fn count_line(&self) -> String {
        let rows = match self.left_out() {
            0 if self.total == 1 => "1 row".to_owned(),
            0 => format!("{} rows", self.total),
            left_out => format!("{} of {} rows", self.total - left_out, self.total),
        };
        let shown = self.shown.iter().flatten();
        let shown = shown.filter(|column| column.source.is_some()).count();
        if shown < self.headers.len() {
            format!("{rows}, {shown} of {} columns", self.headers.len())
        } else {
            rows
        }
    }

    fn row(&self, columns: &[Column], row: usize, text: &mut String) -> Row {
        let mut cell = |column: &Column| {
            if column.is_null(row) {
                return None;
            }
            text.clear();
            column.write_text(row, text);
            let harmless = escape_controls(text);
            // Nothing wider than the terminal is ever shown, so it need not be kept either.
            Some(match self.room.width {
                Some(width) => cut(&harmless, width).into(),
                None => harmless.into(),
            })
        };
        columns.iter().map(&mut cell).collect()
    }
}

/// What a row takes while it is kept.
fn bytes(row: &[Option<Box<str>>]) -> usize {
    let text: usize = row.iter().flatten().map(|cell| cell.len()).sum();
    text + row.len() * CELL_BYTES
}

/// When the values of a field are shortened.
fn shorten(field: &Field) -> Shorten {
    if is_numeric(field) {
        Shorten::Never
    } else if has_fixed_form(field) {
        Shorten::Last
    } else {
        Shorten::First
    }
}

impl Printer for TablePrinter {
    fn print(&mut self, batch: &RecordBatch, sink: &mut Sink) -> io::Result<()> {
        let columns = columns(batch);
        let mut text = String::new();
        let rows = batch.num_rows();
        self.total += rows;
        let for_head = rows.min(self.head_rows - self.in_head);
        for row in 0..for_head {
            let row = self.row(&columns, row, &mut text);
            self.push_head(row, sink)?;
        }
        // Of the others, only the last can be among the last of all.
        for row in for_head.max(rows.saturating_sub(self.tail_rows))..rows {
            let row = self.row(&columns, row, &mut text);
            self.push_tail(row);
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) -> io::Result<()> {
        self.draw(true, sink)?;
        let line = self.count_line();
        let out = sink.text();
        out.push_str(&line);
        out.push('\n');
        sink.spill()
    }
}

#[cfg(test)]
mod tests;
