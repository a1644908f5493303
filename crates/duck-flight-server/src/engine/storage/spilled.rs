//! What is spilled: files in a directory beside the database, for what does not fit into memory.
//!
//! DuckDB removes them when they are read again, or when it is closed. Those of a process that was killed stay, and take
//! the room that the log and checkpoints need.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::room::{directory_of, free_bytes};
use super::torn;
use crate::engine::ffi::Connection;
use crate::engine::{EngineOptions, IN_MEMORY};
use crate::error::Result;

/// The least that spilling is limited to: a few blocks.
pub(crate) const MIN_SPILL_BYTES: u64 = 1 << 20;

/// How DuckDB begins the names of the files.
const PREFIX: &str = "duckdb_temp_";

/// Where the files of a database are: as if DuckDB had been opened with it.
pub(super) fn spill_directory(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.tmp", database.display()))
}

/// Removes what a process that was killed has spilled. What cannot be removed is told in the log.
///
/// To be called before DuckDB is opened: it may spill while it replays its log, under the same names.
pub(in crate::engine) fn remove_left_behind(database: &Path) {
    let directory = spill_directory(database);
    let Ok(entries) = fs::read_dir(&directory) else {
        return;
    };
    // Where another process has the database, the files are its own, and DuckDB will say that it has.
    let Some(locked) = torn::lock(database) else {
        return;
    };
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for entry in entries.flatten().filter(is_spilled) {
        let path = entry.path();
        let file_bytes = entry.metadata().map_or(0, |metadata| metadata.len());
        match fs::remove_file(&path) {
            Ok(()) => {
                files += 1;
                bytes += file_bytes;
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a file of a process that was killed is not removed");
            }
        }
    }
    if files > 0 {
        tracing::info!(
            files,
            bytes,
            "removed what a process that was killed had spilled"
        );
    }
    // It stays where something else is in it, or where it is a link to another disk.
    fs::remove_dir(directory).ok();
    drop(locked);
}

fn is_spilled(entry: &DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(PREFIX)
        && entry.file_type().is_ok_and(|kind| kind.is_file())
}

/// Limits what is spilled from now on; a database in memory keeps DuckDB's own limit.
///
/// DuckDB 1.5.5 takes no notice of this setting before it is open, and refuses it where more is spilled already. So it is set
/// once the log is settled, whose rows may be spilled until then.
pub(in crate::engine) fn limit_spilling(
    connection: &Connection,
    options: &EngineOptions,
) -> Result<()> {
    let database = &options.database;
    if database.as_os_str() == IN_MEMORY {
        return Ok(());
    }
    let bytes = options.spill_limit_bytes.unwrap_or_else(|| {
        // There may be a link to another disk.
        let free = free_bytes(&spill_directory(database));
        // A disk that cannot be asked is no reason to spill nothing.
        let free = free.or_else(|| free_bytes(&directory_of(database)));
        default_limit(free.unwrap_or(u64::MAX), options.min_free_disk_bytes)
    });
    connection.execute(&format!("SET max_temp_directory_size = '{bytes}B'"))?;
    Ok(())
}

/// Half of what is free beyond what is to stay free.
fn default_limit(free_bytes: u64, min_free_bytes: u64) -> u64 {
    (free_bytes.saturating_sub(min_free_bytes) / 2).max(MIN_SPILL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_stay_free_and_half_of_the_rest_are_not_for_what_is_spilled() {
        const MIB: u64 = 1 << 20;
        assert_eq!(default_limit(1000 * MIB, 200 * MIB), 400 * MIB);
        assert_eq!(default_limit(100 * MIB, 200 * MIB), MIN_SPILL_BYTES);
    }
}
