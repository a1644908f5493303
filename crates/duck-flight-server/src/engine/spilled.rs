//! What is spilled: files in a directory beside the database, for what does not fit into memory.
//!
//! DuckDB removes them when they are read again, or when it is closed. Those of a process that was killed stay, and take
//! the room that the log and checkpoints need.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::torn;

/// How DuckDB begins the names of the files.
const PREFIX: &str = "duckdb_temp_";

/// Where the files of a database are: as if DuckDB had been opened with it.
pub(super) fn spill_directory(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.tmp", database.display()))
}

/// Removes what a process that was killed has spilled. What cannot be removed is told in the log.
///
/// To be called before DuckDB is opened: it may spill while it replays its log, under the same names.
pub(super) fn remove_left_behind(database: &Path) {
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

