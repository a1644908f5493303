//! What a kill or a power loss leaves at the end of a log: a part of a commit.
//!
//! DuckDB reads a log entry by entry, and takes back what comes after the last whole commit. But row groups that
//! were written to the database file are in their table as soon as their entry is read, and are not taken back
//! (`ReplayRowGroupData` in the `storage/wal_replay.cpp` of DuckDB 1.5.5): rows of a commit that never was, without what
//! else belongs to it, such as their producer's sequence. A full group's commit has that entry in the log while it
//! waits for the disk. So such an end is cut off before DuckDB sees it.
//!
//! A power loss also leaves a commit that was being synced as long as it is and with a part of it missing: zeros, where the file
//! system has noted the length before it has the bytes. DuckDB reads an end that is cut off, and refuses one with a wrong
//! checksum. So that is cut off, too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::log_entries::{Entries, FLUSH, Header, ROW_GROUP_DATA, flush, start};
use crate::error::{Error, Result};

/// Cuts off a part of a commit at the end of each log of a database that is not open, where row groups are in it or it is
/// damaged. Of what was acknowledged nothing is cut: DuckDB will say what is wrong with that.
///
/// # Errors
/// When a log cannot be cut.
pub(super) fn cut(
    database: &Path,
    logs: &[PathBuf],
    acknowledged: impl Fn(&Path) -> u64,
) -> Result<()> {
    let Some(_locked) = lock(database) else {
        return Ok(());
    };
    for log in logs {
        cut_log(log, &acknowledged).map_err(|source| Error::Io {
            doing: "cut a part of a commit off the write-ahead log",
            source,
        })?;
    }
    Ok(())
}

/// Opens a database file and keeps every DuckDB from it, until the answer is dropped. `None` where there is no file yet, where it
/// cannot be opened, or where another process has it open and is writing to its logs, both of which DuckDB will say.
pub(super) fn lock(database: &Path) -> Option<File> {
    let open = OpenOptions::new().read(true).write(true).open(database);
    let database = open.ok()?;
    fcntl_lock(&database, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(database)
}

fn cut_log(path: &Path, acknowledged: &impl Fn(&Path) -> u64) -> io::Result<()> {
    let log = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let acknowledged = acknowledged(path);
    let row_groups = last_commit_before_row_groups(&log);
    let end = match row_groups.filter(|end| *end >= acknowledged) {
        None => last_commit_before_damage(&log, acknowledged)?,
        end => end,
    };
    let Some(end) = end else {
        return Ok(());
    };
    tracing::info!(log = %path.display(), end, "a part of a commit is cut off");
    log.set_len(end)?;
    log.sync_all()
}

/// Where the last whole commit ends, if there are row groups behind it.
fn last_commit_before_row_groups(log: &File) -> Option<u64> {
    let mut committed = Header::read(&start(log)).end;
    let mut has_row_groups = false;
    for entry in Entries::of(log).from(committed) {
        match entry.kind {
            Some(FLUSH) => (committed, has_row_groups) = (entry.end, false),
            Some(ROW_GROUP_DATA) => has_row_groups = true,
            _ => {}
        }
    }
    has_row_groups.then_some(committed)
}

/// Where the last whole commit ends, if the one behind it is damaged and the last: one that was being synced when the power was
/// lost. DuckDB syncs each commit before it writes the next, so a commit behind it says that it was whole once.
fn last_commit_before_damage(log: &File, acknowledged: u64) -> io::Result<Option<u64>> {
    let begin = Header::read(&start(log)).end;
    if begin == 0 {
        return Ok(None);
    }
    let entries = Entries::of(log);
    let whole = entries.whole(acknowledged.max(begin))?;
    if entries.at(whole.end).is_none() {
        return Ok(None);
    }
    // Entry by entry nothing is found behind a damaged size.
    let mut rest = Vec::new();
    let mut log = log;
    log.seek(SeekFrom::Start(whole.end))?;
    log.read_to_end(&mut rest)?;
    let flush = flush();
    let commits = rest.windows(flush.len()).enumerate();
    let ends = commits.filter(|(_, bytes)| *bytes == flush);
    let is_last = ends
        .map(|(at, _)| at + flush.len())
        .all(|end| end == rest.len());
    Ok(is_last.then_some(whole.committed))
}

#[cfg(test)]
mod tests {
    use super::super::log_entries::samples::{HEADER, INSERT, entry, entry_of};
    use super::*;

    /// What is left of a log of these entries, and of a part of another one, as the number of whole entries.
    fn left_of(kinds: &[u8], acknowledged: usize) -> Option<usize> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let entry_bytes = entry(0).len();
        let mut log = HEADER.to_vec();
        log.extend(kinds.iter().copied().flat_map(entry));
        log.extend(&entry(INSERT)[..entry_bytes - 1]);
        std::fs::write(&path, &log).unwrap();
        let acknowledged = HEADER.len() + acknowledged * entry_bytes;
        cut_log(&path, &|_| acknowledged as u64).unwrap();
        let left = std::fs::read(&path).unwrap();
        assert!(log.starts_with(&left));
        let is_whole = left.len() == log.len();
        (!is_whole).then(|| (left.len() - HEADER.len()) / entry_bytes)
    }

    #[test]
    fn row_groups_without_the_end_of_their_commit_are_cut_off() {
        let log = [INSERT, FLUSH, INSERT, ROW_GROUP_DATA, INSERT];
        assert_eq!(left_of(&log, 0), Some(2));
        assert_eq!(left_of(&log, 2), Some(2));
        assert_eq!(left_of(&[ROW_GROUP_DATA], 0), Some(0));
    }

    #[test]
    fn nothing_else_is() {
        assert_eq!(left_of(&[], 0), None);
        assert_eq!(left_of(&[INSERT, FLUSH, INSERT], 0), None);
        assert_eq!(left_of(&[INSERT, ROW_GROUP_DATA, FLUSH], 0), None);
        assert_eq!(left_of(&[ROW_GROUP_DATA, FLUSH, INSERT], 0), None);
    }

    #[test]
    fn what_was_acknowledged_stays() {
        // The end of a commit that was damaged.
        let log = [INSERT, FLUSH, ROW_GROUP_DATA, INSERT];
        assert_eq!(left_of(&log, 4), None);
    }

    /// How much is left of a log of commits of a row each, with `lost` bytes from `from` on lost, counted from its end.
    fn left_of_commits(commits: usize, from: usize, lost: usize, acknowledged: u64) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let commit = [entry_of(INSERT, 600), entry_of(FLUSH, 0)].concat();
        let mut log = [HEADER, &commit.repeat(commits)].concat();
        let from = log.len() - from;
        log[from..from + lost].fill(0);
        std::fs::write(&path, &log).unwrap();
        cut_log(&path, &|_| acknowledged).unwrap();
        let left = std::fs::read(&path).unwrap();
        assert!(log.starts_with(&left));
        (left.len() - HEADER.len()) * commits / (log.len() - HEADER.len())
    }

    #[test]
    fn a_damaged_commit_is_cut_off_only_where_it_is_the_last() {
        let commit = entry_of(INSERT, 600).len() + entry_of(FLUSH, 0).len();
        // All of it, its beginning, its middle, its end.
        for (from, lost) in [(commit, commit), (commit, 20), (300, 100), (10, 10)] {
            assert_eq!(left_of_commits(3, from, lost, 0), 2);
            assert_eq!(left_of_commits(1, from, lost, 0), 0);
        }
        for (from, lost) in [(commit, 20), (300, 100)] {
            assert_eq!(left_of_commits(3, from + commit, lost, 0), 3);
        }
        assert_eq!(left_of_commits(3, commit, 0, 0), 3);
        // What was acknowledged and is damaged is DuckDB's to refuse.
        let all = (HEADER.len() + 3 * commit) as u64;
        assert_eq!(left_of_commits(3, 300, 100, all), 3);
    }

    #[test]
    fn a_log_that_is_not_there_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        cut_log(&directory.path().join("log"), &|_| 0).unwrap();
    }
}
