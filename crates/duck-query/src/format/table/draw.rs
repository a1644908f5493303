//! Drawing rows that are laid out, in boxes or without.

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentLineStyle, LineStyle, Table,
    TableStyle, Width,
};

use super::cell::{ELLIPSIS, cut, width};
use super::layout::Shown;
use super::{Header, Row};

/// What stands in the cells of the row that stands for those left out.
const LEFT_OUT: &str = "·";

const BOXES: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// What is the same for all rows of a table.
pub(super) struct Drawing<'a> {
    pub(super) headers: &'a [Header],
    pub(super) columns: &'a [Shown],
    /// The text of NULL.
    pub(super) null: &'a str,
    /// Whether text that is too wide is cut.
    pub(super) is_fitted: bool,
    /// Whether NULL may be dimmed.
    pub(super) color: bool,
}

/// Some rows of a table on their way out.
pub(super) struct Part<'a> {
    /// The rows; one that is absent stands for those left out.
    pub(super) rows: Vec<Option<&'a Row>>,
    /// Whether the header comes before them.
    pub(super) is_first: bool,
    /// Whether nothing comes after them.
    pub(super) is_last: bool,
}

impl Drawing<'_> {
    /// Appends rows in boxes. Where the table is not fitted, a long value goes on in the next line.
    pub(super) fn draw_boxes(&self, part: &Part<'_>, out: &mut String) {
        let mut table = Table::new();
        // Its own look at the terminal would be another decision than the caller's.
        table.force_no_tty();
        if self.color {
            table.enforce_styling();
        }
        table.load_style(BOXES);
        if part.is_first {
            table.set_header(
                self.columns
                    .iter()
                    .map(|column| Cell::new(self.header(*column))),
            );
        } else {
            table.style_mut().top_border = LineStyle::none();
        }
        if !part.is_last {
            table.style_mut().bottom_border = LineStyle::none();
        }
        for row in &part.rows {
            table.add_row(
                self.columns
                    .iter()
                    .map(|column| self.box_cell(*row, *column)),
            );
        }
        for (column, shown) in table.column_iter_mut().zip(self.columns) {
            let padded = u16::try_from(shown.width + 2).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(padded)));
            if self.is_numeric(*shown) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            out.push_str(&line);
            out.push('\n');
        }
    }

    fn box_cell(&self, row: Option<&Row>, column: Shown) -> Cell {
        let cell = Cell::new(self.text(row, column));
        match self.is_null(row, column) {
            true if self.color => cell.add_attribute(Attribute::Dim),
            _ => cell,
        }
    }

    /// Appends rows without boxes. Where the table is not fitted, a long value makes its row longer.
    pub(super) fn draw_plain(&self, part: &Part<'_>, out: &mut String) {
        if part.is_first {
            let name = |column: &Shown| self.name_and_type(*column).0;
            let type_name = |column: &Shown| self.name_and_type(*column).1;
            self.plain_line(name, out);
            self.plain_line(type_name, out);
            self.plain_line(|column| "-".repeat(column.width), out);
        }
        for row in &part.rows {
            self.plain_line(|column| self.text(*row, *column), out);
        }
    }

    fn plain_line(&self, text: impl Fn(&Shown) -> String, out: &mut String) {
        let start = out.len();
        for (position, column) in self.columns.iter().enumerate() {
            if position > 0 {
                out.push_str("  ");
            }
            let text = text(column);
            let padding = std::iter::repeat_n(' ', column.width.saturating_sub(width(&text)));
            if self.is_numeric(*column) {
                out.extend(padding);
                out.push_str(&text);
            } else {
                out.push_str(&text);
                out.extend(padding);
            }
        }
        let end = out[start..].trim_end_matches(' ').len();
        out.truncate(start + end);
        out.push('\n');
    }

    fn header(&self, column: Shown) -> String {
        let (name, type_name) = self.name_and_type(column);
        format!("{name}\n{type_name}")
    }

    fn name_and_type(&self, column: Shown) -> (String, String) {
        let Some(source) = column.source else {
            return (ELLIPSIS.to_owned(), String::new());
        };
        let header = &self.headers[source];
        (
            self.cut(&header.name, column),
            self.cut(&header.type_name, column),
        )
    }

    fn text(&self, row: Option<&Row>, column: Shown) -> String {
        let Some(row) = row else {
            return LEFT_OUT.to_owned();
        };
        let Some(source) = column.source else {
            return ELLIPSIS.to_owned();
        };
        self.cut(row[source].as_deref().unwrap_or(self.null), column)
    }

    fn cut(&self, text: &str, column: Shown) -> String {
        if self.is_fitted {
            cut(text, column.width).into_owned()
        } else {
            text.to_owned()
        }
    }

    fn is_null(&self, row: Option<&Row>, column: Shown) -> bool {
        let cell = row.zip(column.source).map(|(row, source)| &row[source]);
        cell.is_some_and(Option::is_none)
    }

    fn is_numeric(&self, column: Shown) -> bool {
        column
            .source
            .is_some_and(|source| self.headers[source].is_numeric)
    }
}
