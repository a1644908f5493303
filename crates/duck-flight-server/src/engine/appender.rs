//! Batches into a table: in chunks that DuckDB takes safely, and with the row that it refuses named.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use duck_flight_protocol::TableName;

use super::ffi::append::MAX_CHUNK_ROWS;
use super::ffi::{Appender, ArrowImporter, Connection};
use super::sql_error::SqlError;
use super::types::Plan;
use crate::error::{Error, Result};

/// Appends batches of one plan to one table.
pub(super) struct TableWriter<'a> {
    connection: &'a Connection,
    table: &'a TableName,
    pub(super) plan: Arc<Plan>,
    appender: Appender<'a>,
    importer: ArrowImporter<'a>,
}

impl<'a> TableWriter<'a> {
    pub(super) fn open(
        connection: &'a Connection,
        table: &'a TableName,
        plan: &Arc<Plan>,
    ) -> Result<Self> {
        Ok(Self {
            connection,
            table,
            plan: plan.clone(),
            appender: connection.appender(table, &plan.given())?,
            importer: connection.importer(plan.schema())?,
        })
    }

    /// Appends the batches of a unit.
    pub(super) fn append_unit<'b>(
        &mut self,
        batches: impl IntoIterator<Item = &'b RecordBatch>,
    ) -> Result<()> {
        let mut rows = 0;
        for batch in batches {
            self.append(batch, rows)?;
            rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Appends a batch in chunks. `rows_before` are the rows of the unit before it, for errors.
    pub(super) fn append(&mut self, batch: &RecordBatch, rows_before: u64) -> Result<()> {
        let rows = batch.num_rows();
        for start in (0..rows).step_by(MAX_CHUNK_ROWS) {
            let slice = batch.slice(start, MAX_CHUNK_ROWS.min(rows - start));
            let chunk = self.importer.import(&slice)?;
            if let Err(error) = self.appender.append(&chunk) {
                return Err(self.find_row(&slice, rows_before + start as u64, error));
            }
        }
        Ok(())
    }

    /// Writes what was appended into the transaction.
    pub(super) fn finish(mut self) -> Result<()> {
        Ok(self.appender.flush()?)
    }

    /// Names the row and the value that DuckDB could not cast; it tells only the column.
    fn find_row(&mut self, slice: &RecordBatch, rows_before: u64, error: SqlError) -> Error {
        let Some(index) = column_in(&error.message).filter(|index| *index < slice.num_columns())
        else {
            return error.into();
        };
        // An appender of its own, never flushed: one row after another until one fails.
        let Ok(mut scratch) = self.connection.appender(self.table, &self.plan.given()) else {
            return error.into();
        };
        let bad = (0..slice.num_rows()).find(|&row| {
            let chunk = self.importer.import(&slice.slice(row, 1));
            chunk.is_ok_and(|chunk| scratch.append(&chunk).is_err())
        });
        let Some(row) = bad else { return error.into() };
        let column = slice.schema_ref().field(index);
        let value = array_value_to_string(slice.column(index), row).unwrap_or_default();
        let types = error
            .message
            .split_once("expected ")
            .and_then(|(_, rest)| rest.split_once(", got "));
        let (expected, got) = types.map_or(("the table's type", ""), |(expected, rest)| {
            (
                expected,
                rest.split(" for column").next().unwrap_or_default(),
            )
        });
        Error::Value {
            row: rows_before + row as u64 + 1,
            column: column.name().clone(),
            reason: format!("`{value}` of type {got} does not fit {expected} of the table"),
        }
    }
}

/// The column that DuckDB's cast error names by number.
fn column_in(message: &str) -> Option<usize> {
    let (_, number) = message
        .split_once("type mismatch in AppendDataChunk")?
        .1
        .rsplit_once("for column ")?;
    number.trim().parse().ok()
}
