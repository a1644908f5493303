//! What the engine needs to know.

use std::path::PathBuf;
use std::time::Duration;

/// The format of new database files: DuckDB's release with long-term support can open them, and text is compressed in
/// one pass where the older formats take two (1.06 to 1.17 times the rows a second for loaders of four columns).
pub const DEFAULT_STORAGE_VERSION: &str = "v1.4.0";

/// The rows of a row group in new database files: several of them fill up in the commits of a few busy loaders.
pub const DEFAULT_ROW_GROUP_ROWS: u64 = 20_480;

/// The database without a file, as DuckDB calls it.
pub(crate) const IN_MEMORY: &str = ":memory:";

/// What the engine needs to know.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The database file, or `:memory:`.
    pub database: PathBuf,
    /// DuckDB's threads; as many as there are cores when absent.
    pub threads: Option<usize>,
    /// DuckDB's memory limit, such as `4GB` or `70%`.
    pub memory_limit: Option<String>,
    /// The oldest DuckDB that is to open a database file which is made now, such as `v1.4.0`.
    pub storage_version: String,
    /// Whether a damaged log is cut behind its last whole commit before the damage, and copied before.
    pub salvage_log: bool,
    /// The most rows of a row group, where the database file allows it: a multiple of 2,048, up to 122,880.
    pub row_group_rows: u64,
    /// How many statements run at the same time.
    pub max_queries: usize,
    /// How long a client may stand still in the middle of a statement that others wait for.
    pub stall_timeout: Duration,
    /// How many bytes of rows may wait for their commit.
    pub ingest_buffer_bytes: usize,
    /// How many bytes of the disk stay free: puts are slowed down and refused before.
    pub min_free_disk_bytes: u64,
    /// How many bytes of the disk may be taken by what does not fit into memory; half of what is free beyond those that stay
    /// free when absent.
    pub spill_limit_bytes: Option<u64>,
}

#[cfg(test)]
impl EngineOptions {
    /// For a small database in memory.
    pub(crate) fn in_memory() -> Self {
        Self {
            database: IN_MEMORY.into(),
            threads: Some(1),
            memory_limit: None,
            storage_version: DEFAULT_STORAGE_VERSION.to_owned(),
            salvage_log: false,
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            max_queries: 2,
            stall_timeout: Duration::from_secs(30),
            ingest_buffer_bytes: 1 << 20,
            min_free_disk_bytes: 0,
            spill_limit_bytes: None,
        }
    }
}
