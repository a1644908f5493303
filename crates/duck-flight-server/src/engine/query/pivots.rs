//! What a PIVOT without an IN leaves behind: DuckDB makes a temporary type of the values that it finds, under a name that it
//! draws at each parse, and never drops it (`CreatePivotStatement`).

use duck_flight_protocol::quote;

use crate::engine::catalog::texts;
use crate::engine::connections::lease::Traces;
use crate::engine::connections::pool::{ClientTransaction, Session};
use crate::engine::ffi::Connection;
use crate::engine::sql::tokens::contains_any_word;
use crate::error::{Result, in_a_line};

/// The words that make a script a PIVOT, or may do so.
pub(super) const PIVOTS: &[&str] = &["pivot", "pivot_longer", "pivot_wider"];

/// How DuckDB calls such types.
const TYPES_SQL: &str = "
    SELECT type_name FROM system.main.duckdb_types()
    WHERE database_name = 'temp' AND system.main.starts_with(type_name, '__pivot_enum_')";

/// Takes note of a script that has run on a connection, and drops what it and those before it have left there. Not in a
/// transaction, where they may be needed still. A connection that no client keeps takes them with it.
pub(super) fn forget(session: &mut Session, traces: Traces, sql: &str) {
    if matches!(traces, Traces::Wiped | Traces::Refused) {
        return;
    }
    session.has_pivoted |= contains_any_word(sql, PIVOTS);
    if session.has_pivoted && session.transaction == ClientTransaction::None {
        let dropped = drop_types(&session.connection);
        session.has_pivoted = dropped.is_err();
        if let Err(error) = dropped {
            tracing::debug!(error = %in_a_line(&error), "the types of a PIVOT are left behind");
        }
    }
}

fn drop_types(connection: &Connection) -> Result<()> {
    let types = texts(connection, TYPES_SQL)?;
    let drop_type =
        |[name]: &[String; 1]| format!("DROP TYPE IF EXISTS temp.main.{};", quote(name));
    let drops: Vec<_> = types.iter().map(drop_type).collect();
    match drops.is_empty() {
        true => Ok(()),
        false => Ok(connection.execute(&drops.concat())?),
    }
}
