//! Structs in the new rows of a large transaction.
//!
//! Where a transaction has deleted one of its own new rows, DuckDB 1.5.5 appends the rest to their table vector by vector
//! (`LocalStorage::Flush`). It cuts a vector in two where a row group of the table ends, but to append the first part it has flattened
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
    if rows < connection.row_group_rows() || !connection.may_have_deleted() {
        return Ok(());
    }
    for table in tables(connection, WITH_STRUCTS_SQL)? {
        rewrite(connection, &table, false)?;
    }
    Ok(())
}

/// Updates the structs in new rows of a table to what they are. `has_deleted` where the transaction has deleted some of them for certain;
/// otherwise it is found out.
pub(super) fn rewrite(connection: &Connection, table: &TableName, has_deleted: bool) -> Result<()> {
    let Some(mut columns) = connection.table_columns(table)? else {
        return Ok(());
    };
    connection.mark_generated(table, &mut columns);
    let structs = columns.iter().filter(|column| column.is_kept_as_struct());
    let values = unchanged(structs.filter(|column| !column.is_generated));
    if values.is_empty() {
        return Ok(());
    }
    let changes = connection.changes();
    let may_have_deleted = has_deleted || changes.may_have_changed(Some(&table.table));
    if !may_have_deleted && hides_row_numbers(&columns) {
        // The server itself deletes no row of such a table, so there is no gap to look for.
        return Ok(());
    }
    check_row_numbers(connection, table, &columns)?;
    let name = table.to_sql();
    let Some((rows, last)) = new_rows(connection, &name)? else {
        return Ok(());
    };
    // Those behind the last one leave no gap.
    if !may_have_deleted && rows == last - FIRST_NEW_ROW + 1 {
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
