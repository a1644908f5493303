//! What DuckDB and the disk do in this process, with no network: what the servers are measured against.

mod append;
mod disk;
mod small;
mod stream;
mod upsert;

use std::path::Path;

use duck_flight_server::{BLOCK_BYTES, DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION};
use duckdb::{Config, Connection};
use serde_json::Value;

#[derive(clap::Subcommand)]
pub(crate) enum Limit {
    /// The appender in order, with the settings a user of it might choose and in files of the server's kind and of
    /// DuckDB's own. Each is tried for a moment, and the best are measured three times: the best median counts.
    Append(append::Args),
    /// INSERT OR REPLACE from a temporary table, with several batches in a commit; the best counts.
    Upsert(upsert::Args),
    /// A streaming read that only counts its rows; the median of three counts, after a warm-up.
    Stream(stream::Args),
    /// Small queries, on a thread and a connection for each client: prepared anew each time, and prepared once. The
    /// better counts.
    Small(small::Args),
    /// Blocks of 4 KiB, each appended to a file and brought to the disk before the next: no commit is quicker.
    Disk(disk::Args),
}

/// Measures one limit.
pub(crate) fn run(limit: &Limit) -> anyhow::Result<Value> {
    match limit {
        Limit::Append(args) => append::run(args),
        Limit::Upsert(args) => upsert::run(args),
        Limit::Stream(args) => stream::run(args),
        Limit::Small(args) => small::run(args),
        Limit::Disk(args) => disk::run(args),
    }
}

/// What kind of database file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum File {
    /// As the server makes it.
    Server,
    /// As DuckDB makes it, but in the server's format, for another one compresses otherwise.
    DuckDb,
}

impl File {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "duck-flight",
            Self::DuckDb => "duckdb",
        }
    }
}

/// A new database, which is not checkpointed: what is measured is over before that would be due, and the file is then
/// deleted.
fn open(path: &Path, file: File) -> anyhow::Result<Connection> {
    let config =
        Config::default().with("storage_compatibility_version", DEFAULT_STORAGE_VERSION)?;
    let connection = match file {
        File::DuckDb => Connection::open_with_flags(path, config)?,
        File::Server => {
            let connection = Connection::open_in_memory_with_flags(config)?;
            let path = path.display();
            connection.execute_batch(&format!(
                "SET write_buffer_row_group_count = 1;
                 ALTER DATABASE memory SET ALIAS TO limits;
                 ATTACH OR REPLACE '{path}' AS limits (ROW_GROUP_SIZE {DEFAULT_ROW_GROUP_ROWS}, BLOCK_SIZE {BLOCK_BYTES})"
            ))?;
            connection
        }
    };
    connection.execute_batch(
        "SET checkpoint_threshold = '4GB'; SET auto_checkpoint_skip_wal_threshold = 1152921504606846976;
         PRAGMA disable_checkpoint_on_shutdown",
    )?;
    Ok(connection)
}
