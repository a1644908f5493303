//! Schemas that are dropped.
//!
//! DuckDB 1.5.5 forgets that a table depends on its schema once the table was altered. Then it drops the schema with the table in
//! it, also without a CASCADE, and its log says nothing of the table; where a checkpoint has noted the table since, the replay finds that
//! it depends on the schema, and the database cannot be opened any more.
//!
//! So what is in a schema is dropped first, in the same transaction, where that was asked for, and it is refused otherwise.

use duck_flight_protocol::quote;

use crate::engine::catalog::{is_name, texts};
use crate::engine::ffi::Connection;
use crate::engine::sql::deed::{Asked, Deed, What};
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::Result;

/// The tables and views that others also see, but for those in `main`, which cannot be dropped.
const HELD_SQL: &str = "
    FROM (
        SELECT 'TABLE' AS kind, database_name, schema_name, table_name FROM system.main.duckdb_tables() WHERE NOT internal
        UNION ALL
        SELECT 'VIEW', database_name, schema_name, view_name FROM system.main.duckdb_views() WHERE NOT internal
    ) WHERE database_name <> 'temp' AND schema_name <> 'main'";

const UNREADABLE: &str = "it cannot be told which schema is dropped, and there are schemas with tables or views: write the statement without \
     white space beyond ASCII, and the name in double quotes where it is not ASCII";

/// Drops what is in a schema that a statement drops with all of it. To be called in its transaction, right before it runs. Answers
/// whether anything was dropped: then the transaction must not be committed without the statement.
///
/// # Errors
/// Where it drops one that is not empty without saying CASCADE, and where it cannot be told which one it drops.
pub(in crate::engine) fn clear(connection: &Connection, asked: Asked<'_>) -> Result<bool> {
    let (name, cascades) = match asked.deed {
        Deed::Drops {
            what: What::Schema,
            name,
            cascades,
        } => (name.as_deref(), *cascades),
        Deed::Creates {
            what: What::Schema,
            name,
            replaces: true,
            ..
        } => (name.as_deref(), false),
        Deed::Doubt if asked.may_define() && asked.says("schema") => {
            if !asked.says("drop") && !asked.says("replace") {
                return Ok(false);
            }
            (None, false)
        }
        _ => return Ok(false),
    };
    let is_in_it = match name {
        Some([schema]) => format!(" AND {}", is_name("schema_name", schema)),
        Some([database, schema]) => format!(
            " AND {} AND {}",
            is_name("database_name", database),
            is_name("schema_name", schema)
        ),
        _ => String::new(),
    };
    let held = texts::<4>(
        connection,
        &format!("{HELD_SQL}{is_in_it} ORDER BY kind DESC, database_name, schema_name, table_name"),
    )?;
    if name.is_none() && !held.is_empty() {
        return Err(SqlError::new(SqlErrorKind::Invalid, UNREADABLE).into());
    }
    for [kind, database, schema, table] in &held {
        if !cascades {
            let kind = kind.to_ascii_lowercase();
            // As DuckDB says it where it has not forgotten.
            let message = format!(
                "Dependency Error: Cannot drop entry \"{schema}\" because there are entries that depend on it.\n\
                 {kind} \"{table}\" depends on schema \"{schema}\".\n\
                 Use DROP...CASCADE to drop all dependents."
            );
            return Err(SqlError::new(SqlErrorKind::Invalid, message).into());
        }
        let path = [database, schema, table].map(|part| quote(part)).join(".");
        // One may have gone with another.
        connection.execute(&format!("DROP {kind} IF EXISTS {path} CASCADE"))?;
    }
    Ok(!held.is_empty())
}
