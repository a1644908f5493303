//! Tables that nobody else alters until the end of a transaction.
//!
//! Where an ALTER finds that another transaction has altered the table since, DuckDB 1.5.5 has already put a new storage in the place of
//! the table's (`CatalogSet::AlterEntry`, and the constructors of `DataTable` that say ALTERED), and does not take that back. What
//! the other one commits may keep that storage, as a comment, a default or another name of a column does: then nobody can
//! write to the table any more until the next start.
//!
//! So a table is claimed before it is altered, by the comment that it has: that fails before anything is touched, and DuckDB
//! allows it whatever depends on the table. One that is given another name is claimed by a [rename](super::rename) to the name
//! that it has.

use duck_flight_protocol::{TableName, quote};

use super::named::tables_sql;
use super::rename::renamed;
use crate::engine::catalog::{literal, texts};
use crate::engine::ffi::Connection;
use crate::engine::ingest::target::TEMPORARY;
use crate::error::{Error, Result};

const UNREADABLE: &str = "a table is renamed by ALTER TABLE name RENAME TO name alone, without white space beyond ASCII, and with a new name in double quotes whose last letter is beyond ASCII: the \
     server must know which one";

/// What a table is claimed by.
const CLAIMED_COLUMNS: &str = "database_name, schema_name, table_name, coalesce(comment, ''), CAST(comment IS NULL AS VARCHAR)";

/// Claims a table in the open transaction.
///
/// # Errors
/// Where another transaction has altered it.
pub(in crate::engine) fn claim(connection: &Connection, table: &TableName) -> Result<()> {
    claim_name(connection, &table.path())
}

/// Claims the table that a statement renames.
///
/// # Errors
/// Where another transaction has altered it, or it is not certain which table it is.
pub(in crate::engine) fn claim_renamed(
    connection: &Connection,
    statement: Option<&str>,
) -> Result<()> {
    let parts = statement.and_then(renamed);
    let parts = parts.ok_or(Error::Forbidden(UNREADABLE))?;
    let own = parts.last().map_or("", String::as_str);
    let name = parts.join(".");
    let claim = format!("ALTER TABLE IF EXISTS {name} RENAME TO {own}");
    Ok(connection.execute(&claim)?)
}

/// Claims the table that DuckDB finds by a name with its qualifiers. Nobody else has a temporary one.
///
/// # Errors
/// Where another transaction has altered it.
pub(in crate::engine) fn claim_name(connection: &Connection, name: &[String]) -> Result<()> {
    let Some(sql) = tables_sql(CLAIMED_COLUMNS, name) else {
        return Ok(());
    };
    let found = texts(connection, &sql)?.into_iter().next();
    let Some([database, schema, table, comment, has_none]) = found else {
        return Ok(());
    };
    if database == TEMPORARY {
        return Ok(());
    }
    let comment = match &*has_none {
        "true" => "NULL".to_owned(),
        _ => literal(&comment),
    };
    let name = [database, schema, table].map(|part| quote(&part)).join(".");
    Ok(connection.execute(&format!("COMMENT ON TABLE {name} IS {comment}"))?)
}
