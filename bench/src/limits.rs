//! What DuckDB and the disk do in this process, with no network: what the servers are measured against.

mod append;
mod checkpoint;
mod disk;
mod small;
mod stream;
mod upsert;

use std::path::Path;

use duck_flight_server::{
    BLOCK_BYTES, DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION, DISABLE_COMPRESSION_SQL,
};
use duckdb::{Config, Connection};
use serde_json::Value;

#[derive(clap::Subcommand)]
pub(crate) enum Limit {
    /// The appender in order, with the settings a user of it might choose and in files of the server's kind and of
    /// DuckDB's own, and for commits of a few rows a prepared INSERT. Each is tried for a moment, and the best are
    /// measured three times: the best median counts.
    Append(append::Args),
    /// A checkpoint with next to nothing to write, of a table of many row groups; the median of three.
    Checkpoint(checkpoint::Args),
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
        Limit::Checkpoint(args) => checkpoint::run(args),
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
    match file {
        File::Server => open_with_row_groups(path, DEFAULT_ROW_GROUP_ROWS),
        File::DuckDb => {
            let connection = Connection::open_with_flags(path, config()?)?;
            never_checkpoint(&connection)?;
            Ok(connection)
        }
    }
}

/// As [`open`] a file of the server's kind, but with row groups of so many rows.
fn open_with_row_groups(path: &Path, rows: u64) -> anyhow::Result<Connection> {
    let connection = Connection::open_in_memory_with_flags(config()?)?;
    let path = path.display();
    connection.execute_batch(&format!(
        "{DISABLE_COMPRESSION_SQL}; SET write_buffer_row_group_count = 1;
         ALTER DATABASE memory SET ALIAS TO limits;
         ATTACH OR REPLACE '{path}' AS limits (ROW_GROUP_SIZE {rows}, BLOCK_SIZE {BLOCK_BYTES})"
    ))?;
    never_checkpoint(&connection)?;
    Ok(connection)
}

fn config() -> anyhow::Result<Config> {
    Ok(Config::default().with("storage_compatibility_version", DEFAULT_STORAGE_VERSION)?)
}

fn never_checkpoint(connection: &Connection) -> anyhow::Result<()> {
    connection.execute_batch(
        "SET checkpoint_threshold = '4GB'; SET auto_checkpoint_skip_wal_threshold = 1152921504606846976;
         PRAGMA disable_checkpoint_on_shutdown",
    )?;
    Ok(())
}
