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
use crate::engine::ingest::producers::OWN_SCHEMA;
use crate::engine::sql::deed::{Asked, Deed, What};
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::Result;

/// The tables and views that others also see, but for those in `main`, which cannot be dropped. Nor can clients drop the server's own schema.
const HELD_SQL: &str = "
    FROM (
        SELECT 'TABLE' AS kind, database_name, schema_name, table_name FROM system.main.duckdb_tables() WHERE NOT internal
        UNION ALL
        SELECT 'VIEW', database_name, schema_name, view_name FROM system.main.duckdb_views() WHERE NOT internal
    ) WHERE database_name <> 'temp' AND schema_name <> 'main'";

const UNREADABLE: &str = "it cannot be told which schema is dropped, and there are schemas with tables or views: write the statement without \
     white space beyond ASCII, and the name in double quotes where its last letter is beyond ASCII";

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
        // DuckDB looks for it where the session looks first, and nowhere else.
        Some([schema]) => format!(
            " AND database_name = system.main.current_database() AND {}",
            is_name("schema_name", schema)
        ),
        Some([database, schema]) => format!(
            " AND {} AND {}",
            is_name("database_name", database),
            is_name("schema_name", schema)
        ),
        // DuckDB refuses that.
        Some(_) => " AND false".to_owned(),
        None => String::new(),
    };
    let held = texts::<4>(
        connection,
        &format!(
            "{HELD_SQL} AND schema_name <> '{OWN_SCHEMA}'{is_in_it}
             ORDER BY kind DESC, database_name, schema_name, table_name"
        ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::{Database, StatementKind};

    fn connect(sql: &str) -> Connection {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection.execute(sql).unwrap();
        connection
    }

    /// What becomes of the tables in a schema that a statement drops.
    fn clear_for(connection: &Connection, deed: &Deed, script: &str) -> Result<bool> {
        let asked = Asked {
            kind: StatementKind::Definition,
            deed,
            script,
        };
        clear(connection, asked)
    }

    #[test]
    fn a_schema_of_another_database_than_the_current_one_is_left_alone() {
        let connection = connect("CREATE SCHEMA s; CREATE TABLE s.t (i INTEGER)");
        let sql = "DROP SCHEMA IF EXISTS s CASCADE";
        let deed = Deed::of(sql);
        for path in ["temp", "system"] {
            let set = format!("SET search_path = '{path}'");
            connection.execute(&set).unwrap();
            assert!(!clear_for(&connection, &deed, sql).unwrap(), "{path}");
        }
        connection.execute("RESET search_path").unwrap();
        let of_three = "DROP SCHEMA IF EXISTS memory.main.s CASCADE";
        assert!(!clear_for(&connection, &Deed::of(of_three), of_three).unwrap());
        assert!(clear_for(&connection, &deed, sql).unwrap());
    }

    #[test]
    fn the_servers_own_schema_is_in_no_ones_way_in_doubt() {
        let own = format!("CREATE SCHEMA {OWN_SCHEMA}; CREATE TABLE {OWN_SCHEMA}.t (i INTEGER)");
        let connection = connect(&own);
        let script = "SELECT é; CREATE SCHEMA s; DROP TABLE t";
        assert!(!clear_for(&connection, &Deed::Doubt, script).unwrap());
        let others = "CREATE SCHEMA s; CREATE TABLE s.t (i INTEGER)";
        connection.execute(others).unwrap();
        clear_for(&connection, &Deed::Doubt, script).unwrap_err();
    }
}
