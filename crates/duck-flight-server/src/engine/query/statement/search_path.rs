//! Where a session looks up names: not among the server's own tables.

use super::Statement;
use crate::engine::catalog::{folded, literal, texts};
use crate::engine::ingest::producers::OWN_SCHEMA;
use crate::engine::sql::admission::OWN_TABLES;
use crate::error::{Error, Result};

const SEARCH_PATH_SQL: &str = "SELECT system.main.current_setting('search_path')";
const RESET_SCHEMA_SQL: &str = "RESET search_path";

impl Statement<'_> {
    /// Where names are looked up, as a SET takes it.
    pub(super) fn search_path(&self) -> Result<String> {
        let found = texts(self.connection, SEARCH_PATH_SQL)?.pop();
        Ok(found.map_or_else(String::new, |[path]| path))
    }

    /// Refuses a search path that leads to the server's own tables, and goes back to the one before.
    pub(super) fn check_search_path(&self, before: Option<String>) -> Result<()> {
        let found = || {
            let statement = self.connection.parse(&own_schema_sql())?.last_statement();
            let mut rows = statement.ok_or(Error::NoStatement)??.execute()?;
            Ok::<_, Error>(rows.next_chunk()?.is_some())
        };
        // The check must not fail by what it finds: in a transaction that has failed, no setting can be taken back.
        if let Ok(false) = found() {
            return Ok(());
        }
        let before = before.filter(|path| !path.is_empty());
        let back = before.map(|path| format!("SET search_path = {}", literal(&path)));
        let go_back = || {
            let outcome = back.as_deref().map(|sql| self.connection.execute(sql));
            match outcome {
                Some(Ok(())) => Ok(()),
                // What it named may be gone.
                _ => self.connection.execute(RESET_SCHEMA_SQL),
            }
        };
        if go_back().is_ok() {
            return Err(Error::Forbidden(OWN_TABLES));
        }
        self.connection.roll_back();
        go_back()?;
        Err(Error::TransactionFailed)
    }
}

/// A query with a row where names are looked up among the server's own tables, in whatever case the path writes their
/// schema: a statement that names one by its last part alone would not be recognised.
fn own_schema_sql() -> String {
    format!(
        "SELECT 1 WHERE system.main.list_contains(system.main.list_transform(\
         system.main.current_schemas(false), lambda name: {}), '{OWN_SCHEMA}')",
        folded("name")
    )
}
