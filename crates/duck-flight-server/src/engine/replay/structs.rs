//! Structs in the new rows of a large transaction.
//!
//! Where a transaction has deleted one of its own new rows, DuckDB 1.5.5 appends the rest to their table vector by vector
//! (`LocalStorage::Flush`). It cuts a vector in two where a row group of the table ends, but has flattened the fields of its structs for the
//! first part only (`StructColumnData::Append`): what a row group in the file keeps as a constant, such as a NULL, is whatever was in
//! memory in the second part. That goes for unions too, whose tags are fields.
//!
//! So the structs of some new rows are updated to what they are, in each vector. Where DuckDB does that in place, it reads the column flat
//! from then on; where it puts the row elsewhere, it copies the vector that the row is missing from.

use duck_flight_protocol::TableName;

use super::{FIRST_NEW_ROW, check_row_numbers, last_new_row, tables, unchanged};
use crate::engine::ffi::Connection;
use crate::engine::sql_error::SqlError;
use crate::engine::storage::attach::VECTOR_ROWS;
use crate::error::{Error, Result};

/// The tables with columns that DuckDB keeps as structs: STRUCT, UNION and VARIANT, by the numbers of its `LogicalTypeId`.
const WITH_STRUCTS_SQL: &str = "
    SELECT DISTINCT database_name, schema_name, table_name FROM system.main.duckdb_columns()
    WHERE data_type_id IN (100, 107, 109) AND database_name <> 'temp'
        AND table_oid IN (SELECT table_oid FROM system.main.duckdb_tables() WHERE NOT internal)";

/// From one to the next of the new rows that are rewritten where a put has appended them: each vector of a row group has one.
pub(super) const STRIDE_OF_APPEND: u64 = VECTOR_ROWS / 2;

/// The same for rows that DuckDB has inserted with several threads, whose row groups may end anywhere: a vector of a single row is never
/// cut in two.
pub(super) const STRIDE: u64 = 2;

/// How many new rows are looked through in one statement: DuckDB remembers those that it updates.
const REWRITTEN_AT_ONCE: u64 = 1 << 20;

const OTHERS_REFER: &str = "of which DuckDB 1.5.5 would not keep all values in this transaction, are referred to by foreign keys already";

/// Makes sure that the structs stay as they are in the rows that a client's transaction has written, so many or fewer. To be called
/// right before its commit.
pub(in crate::engine) fn secure(connection: &Connection, rows: u64) -> Result<()> {
    if rows < connection.row_group_rows() || !connection.may_have_deleted() {
        return Ok(());
    }
    for table in tables(connection, WITH_STRUCTS_SQL)? {
        rewrite(connection, &table, STRIDE)?;
    }
    Ok(())
}

/// Updates the structs in new rows of a table to what they are, one row in so many (`stride`), where the open transaction may have written
/// a row group of them and is logged row by row.
pub(super) fn rewrite(connection: &Connection, table: &TableName, mut stride: u64) -> Result<()> {
    let Some(mut columns) = connection.table_columns(table)? else {
        return Ok(());
    };
    connection.mark_generated(table, &mut columns);
    let structs = columns.iter().filter(|column| column.is_kept_as_struct());
    let values = unchanged(structs.filter(|column| !column.is_generated));
    if values.is_empty() {
        return Ok(());
    }
    check_row_numbers(connection, table, &columns)?;
    let name = table.to_sql();
    let mut first = FIRST_NEW_ROW;
    // Those that are put elsewhere are new rows, too, behind all others.
    while let Some(last) = last_new_row(connection, &name)?
        && first <= last
    {
        let mut from = first;
        while from <= last {
            let to = last.min(from + REWRITTEN_AT_ONCE - 1);
            let update = format!(
                "UPDATE {name} SET {values} WHERE rowid BETWEEN {from} AND {to} AND rowid % {stride} = 0"
            );
            connection
                .execute(&update)
                .map_err(|error| untold(error, &name))?;
            from = to + 1;
        }
        if (last - first) / stride < STRIDE_OF_APPEND {
            // So few fill no vector.
            break;
        }
        (first, stride) = (last + 1, STRIDE_OF_APPEND);
    }
    Ok(())
}

/// What a client is to know of an update that it has not asked for.
fn untold(error: SqlError, table: &str) -> Error {
    match error.message.contains("foreign key") {
        true => Error::Unimplemented(format!(
            "rows of {table} with structs that hold a union or a list, {OTHERS_REFER}: commit them before rows that refer to them"
        )),
        false => error.into(),
    }
}
