//! Structs in the new rows of a large transaction.
//!
//! Where a transaction has deleted one of its own new rows, DuckDB 1.5.5 appends the rest to their table vector by vector
//! (`LocalStorage::Flush`), and so it does where they are fewer than a row group, of which some are in the file already
//! ([`Connection::fewest_filed_rows`]). It cuts a vector in two where a row group of the table ends, but to append the first part it has flattened
//! the fields of its structs, to the length of that part (`StructColumnData::Append`, by the column of NULLs). So what a row group in
//! the file keeps as a constant, such as a NULL, or as a dictionary, is whatever was in memory in the second part. That goes for unions
//! too, whose tags are fields.
//!
//! So the structs of every second new row are updated to what they are, for a vector of one row is never cut in two, and row groups may
//! end anywhere where several threads have inserted. Where DuckDB updates them in place, it reads the column flat from then on; where it
//! puts the rows elsewhere, it copies the vectors that they are missing from, and those that they are in stay in memory, flat.

use duck_flight_protocol::TableName;

use super::{FIRST_NEW_ROW, check_row_numbers, hides_row_numbers, tables, unchanged};
use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// The tables with columns that DuckDB keeps as structs: STRUCT, UNION and VARIANT, by the numbers of its `LogicalTypeId`.
const WITH_STRUCTS_SQL: &str = "
    SELECT DISTINCT database_name, schema_name, table_name FROM system.main.duckdb_columns()
    WHERE data_type_id IN (100, 107, 109) AND database_name <> 'temp'
        AND table_oid IN (SELECT table_oid FROM system.main.duckdb_tables() WHERE NOT internal)";

/// How many new rows are looked through in one statement: DuckDB remembers those that it updates.
const REWRITTEN_AT_ONCE: u64 = 1 << 20;

const OTHERS_REFER: &str = "of which DuckDB 1.5.5 would not keep all values in this transaction, are referred to by foreign keys already";

/// Makes sure that the structs stay as they are in the rows that a client's transaction has written, so many or fewer. To be called
/// right before its commit.
pub(in crate::engine) fn secure(connection: &Connection, rows: u64) -> Result<()> {
    if rows < connection.fewest_filed_rows() {
        return Ok(());
    }
    let is_part = is_part_of_row_group(connection, rows);
    for table in tables(connection, WITH_STRUCTS_SQL)? {
        let is_by_vector = is_part && connection.changes().may_have_written(&table.table);
        rewrite(connection, &table, is_by_vector)?;
    }
    Ok(())
}

/// As [`secure`], of so many rows that the server has inserted from another table, all of them at once.
pub(in crate::engine) fn secure_inserted(
    connection: &Connection,
    table: &TableName,
    rows: u64,
) -> Result<()> {
    match is_part_of_row_group(connection, rows) {
        true => rewrite(connection, table, true),
        false => Ok(()),
    }
}

/// Whether so many rows may be in the file, though they are not a whole row group.
fn is_part_of_row_group(connection: &Connection, rows: u64) -> bool {
    (connection.fewest_filed_rows()..connection.row_group_rows()).contains(&rows)
}

/// Updates the structs in new rows of a table to what they are. `is_by_vector` where DuckDB will append them to it vector by vector for
/// certain; otherwise it is found out.
pub(super) fn rewrite(
    connection: &Connection,
    table: &TableName,
    is_by_vector: bool,
) -> Result<()> {
    let Some(mut columns) = connection.table_columns(table)? else {
        return Ok(());
    };
    connection.mark_generated(table, &mut columns);
    let structs = columns.iter().filter(|column| column.is_kept_as_struct());
    let values = unchanged(structs.filter(|column| !column.is_generated));
    if values.is_empty() {
        return Ok(());
    }
    let may_have_deleted =
        connection.may_have_deleted() && connection.changes().may_have_changed(Some(&table.table));
    if !is_by_vector && !may_have_deleted && hides_row_numbers(&columns) {
        // The server itself deletes no row of such a table, so there is no gap to look for. That its rows are a part of a row group, and
        // those of other tables the rest, cannot be told.
        return Ok(());
    }
    check_row_numbers(connection, table, &columns)?;
    let name = table.to_sql();
    let Some((rows, last)) = new_rows(connection, &name)? else {
        return Ok(());
    };
    let all = last - FIRST_NEW_ROW + 1;
    // Where some are deleted those behind the last one leave no gap.
    let are_all_there = !may_have_deleted && rows == all;
    if !is_by_vector && are_all_there && !is_part_of_row_group(connection, all) {
        return Ok(());
    }
    let mut from = FIRST_NEW_ROW;
    while from <= last {
        let to = last.min(from + REWRITTEN_AT_ONCE - 1);
        // A client's macro may be called as an operator is.
        let update = format!(
            "UPDATE {name} SET {values} WHERE rowid BETWEEN {from} AND {to} AND system.main.\"%\"(rowid, 2) = 0"
        );
        connection
            .execute(&update)
            .map_err(|error| untold(error, &name))?;
        from = to + 1;
    }
    Ok(())
}

/// How many new rows of a table the open transaction sees, and the number of the last one. `None` where there is none.
fn new_rows(connection: &Connection, table: &str) -> Result<Option<(u64, u64)>> {
    let sql = format!(
        "SELECT CAST(system.main.count(*) AS VARCHAR), CAST(system.main.max(rowid) AS VARCHAR)
         FROM {table} WHERE rowid >= {FIRST_NEW_ROW} HAVING system.main.count(*) > 0"
    );
    let found = texts::<2>(connection, &sql)?.pop();
    Ok(found.and_then(|[rows, last]| Some((rows.parse().ok()?, last.parse().ok()?))))
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
