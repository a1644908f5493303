//! What DuckDB says of itself, for those who look into the log.

use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::error::Result;

/// A database may have macros of these names.
const SQL: &str = "SELECT system.main.version(), system.main.current_setting('threads')::VARCHAR, \
                   system.main.current_setting('memory_limit')";

/// What DuckDB says of itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its version, such as `v1.5.5`.
    pub version: String,
    /// How many threads it has.
    pub threads: String,
    /// How much memory it takes, such as `4.0 GiB`.
    pub memory_limit: String,
}

impl Facts {
    pub(in crate::engine) fn read(connection: &Connection) -> Result<Self> {
        let told = texts::<3>(connection, SQL)?.into_iter().next();
        let [version, threads, memory_limit] = told.unwrap_or_default();
        Ok(Self {
            version,
            threads,
            memory_limit,
        })
    }
}
