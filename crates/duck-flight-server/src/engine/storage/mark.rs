//! The mark: how much of the write-ahead log is acknowledged.
//!
//! DuckDB takes a log that was cut, emptied or removed for one that was never longer, and opens the database
//! with fewer rows and without an error. So beside the database stands a small file that says how long the log
//! was when rows were last acknowledged. It is written before the acknowledgement and not waited for: it is
//! there after the process was killed, and after a power loss it is at most too old. For that it tells of no commit that is
//! written and not synced yet, as the one of a client's statement may be.
//!
//! A checkpoint makes the log void. The database's header counts them, and a mark holds for one count only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::log_entries::{Entries, Entry, FLUSH, Header, start};
use super::open::held_by_another;
use super::room::log_path;
use super::salvage::{Told, salvage};
use super::{images, torn};
use crate::engine::IN_MEMORY;
use crate::engine::ffi::lock::keep_locked;
use crate::error::{Error, Result};

/// Where DuckDB keeps the two headers of a database, after the main one; the one with the larger count is valid.
/// Each begins with a checksum and the count, eight bytes each (`DatabaseHeader` in DuckDB's
/// `storage/storage_info.hpp`).
pub(super) const HEADER_OFFSETS: [u64; 2] = [4096, 8192];

/// A mark is always as long as this, so that a shorter one leaves nothing of a longer one behind.
const MARK_BYTES: usize = 2048;

/// Writes the marks of one database.
pub(in crate::engine) struct Mark {
    /// `None` for a database in memory.
    files: Option<Files>,
}

struct Files {
    database: PathBuf,
    /// The database file, opened once and never closed: to close it would give up DuckDB's lock on it, which as
    /// POSIX has it belongs to the process and goes with the first of its handles.
    headers: OnceLock<Option<File>>,
    logs: [PathBuf; 2],
    path: PathBuf,
    mark: File,
    /// Whether there was none before.
    is_new: bool,
    last: Mutex<Option<State>>,
}

/// The number of checkpoints before a commit; `None` where it could not be read, and for a database in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Before(Option<u64>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    checkpoints: u64,
    log: Log,
    /// The log that takes over once the checkpoint that is running has finished.
    next_log: Log,
}

/// A log: where its last whole commit ends, and how it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    bytes: u64,
    start: Vec<u8>,
}

impl Mark {
    /// Checks the log of the database at `path` against its mark, before the database is opened, and takes the mark
    /// for this process. From here on it is void until the next acknowledgement: opening changes the log. A log that is to be
    /// salvaged is cut where it is damaged, and may have less in it than was acknowledged.
    ///
    /// # Errors
    /// When another server has it, when the log has less in it than was acknowledged and is not to be salvaged, or cannot
    /// be, or when the mark cannot be used although the database can.
    pub(in crate::engine) fn open(path: &Path, is_to_salvage: bool) -> Result<Self> {
        let mark_path = mark_path(path);
        if path.as_os_str() == IN_MEMORY {
            return Ok(Self { files: None });
        }
        let is_new = !mark_path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mark = match options.open(&mark_path) {
            Ok(mark) => mark,
            // DuckDB says why.
            Err(_) if !may_be_written(path, is_new) => return Ok(Self { files: None }),
            Err(error) => return Err(of_mark("open the mark of the log", &mark_path, &error)),
        };
        if let Err(TryLockError::WouldBlock) = mark.try_lock() {
            return Err(held_by_another(path));
        }
        let last = read(&mark);
        let last = last.map_err(|error| of_mark("read the mark of the log", &mark_path, &error))?;
        let valid = last.as_ref().filter(|state| state.is_of(path));
        let checked = valid.map_or(Ok(()), |state| check(path, state));
        if is_to_salvage {
            salvage(path, &logs(path), told(path, valid, checked.is_err()))?;
            if let (Some(state), Err(_)) = (valid, checked) {
                let acknowledged_bytes = state.log.bytes + state.next_log.bytes;
                tracing::warn!(
                    log = %log_path(path).display(),
                    acknowledged_bytes,
                    "the write-ahead log had less in it than was acknowledged: what it has lost is missing from now on"
                );
            }
        } else {
            checked?;
        }
        let acknowledged = |log: &Path| valid.map_or(0, |state| state.bytes_in(log));
        torn::cut(path, &logs(path), acknowledged)?;
        mark.set_len(0).map_err(|source| Error::Io {
            doing: "clear the mark of the log",
            source,
        })?;
        Ok(Self {
            files: Some(Files {
                database: path.to_owned(),
                headers: OnceLock::new(),
                logs: logs(path),
                path: mark_path,
                mark,
                is_new,
                last: Mutex::new(last),
            }),
        })
    }

    /// Locks the database file against every other DuckDB, for as long as the mark lives. DuckDB has just opened it, and its
    /// own lock goes with any handle on the file that is closed.
    pub(in crate::engine) fn keep_locked(&self) {
        let Some(files) = &self.files else {
            return;
        };
        let locked = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&files.database)?;
            let locked = keep_locked(&file);
            // Open for good, whether or not it is locked.
            files.headers.set(Some(file)).ok();
            locked
        };
        if let Err(error) = locked() {
            tracing::debug!(%error, "no lock on the database file but DuckDB's own");
        }
    }

    /// To be called right before a commit, for [`Mark::write`] after it, which notes nothing where a checkpoint has finished in between.
    pub(in crate::engine) fn before(&self) -> Before {
        Before(self.files.as_ref().and_then(Files::checkpoints))
    }

    /// Notes the log as it is, with a commit in it that is about to be acknowledged, and answers with its size in bytes,
    /// which is 0 for a database in memory. Where a checkpoint has finished since `before`, the commit may be in either
    /// log, and nothing is noted or known; nor is it where the log cannot be synced.
    pub(in crate::engine) fn write(&self, before: Before) -> Option<u64> {
        let Some(files) = &self.files else {
            return Some(0);
        };
        let Before(Some(count)) = before else {
            return None;
        };
        let mut last = files.last.lock();
        let known = last.take().filter(|last| last.checkpoints == count);
        let known = known.map_or_else(Default::default, |last| [last.log, last.next_log]);
        let [log, next_log] = &files.logs;
        let state = State {
            checkpoints: count,
            log: Log::look(log, &known, count)?,
            next_log: Log::look(next_log, &known, count)?,
        };
        if files.checkpoints() != Some(count) {
            return None;
        }
        files.note(&state);
        let bytes = state.log.bytes + state.next_log.bytes;
        *last = Some(state);
        Some(bytes)
    }

    /// Notes again what was known before: the database could not be opened. Where its log is another one all the same, for DuckDB
    /// puts the two of a checkpoint that was cut off together before it reads them, the mark stays void. Where there was no mark,
    /// there is none again.
    pub(in crate::engine) fn restore(&self) {
        let Some(files) = &self.files else {
            return;
        };
        let path = &files.database;
        if files.is_new {
            std::fs::remove_file(&files.path).ok();
        } else if let Some(state) = &*files.last.lock()
            && (check(path, state).is_ok() || !state.is_of(path))
        {
            files.note(state);
        }
    }

    /// Whether a log ends with a part of an entry.
    pub(in crate::engine) fn is_torn(&self) -> bool {
        self.files.as_ref().is_some_and(|files| {
            files.logs.iter().any(|log| {
                let Ok(file) = File::open(log) else {
                    return false;
                };
                let entries = Entries::of(&file);
                let begin = Header::read(&start(&file)).end;
                let last = entries.from(begin).last();
                last.map_or(begin, |entry| entry.end) < entries.bytes()
            })
        })
    }

    /// Whether there is anything in a log.
    pub(in crate::engine) fn has_log(&self) -> bool {
        let is_filled = |log: &PathBuf| log.metadata().is_ok_and(|log| log.len() > 0);
        let files = self.files.as_ref();
        files.is_some_and(|files| files.logs.iter().any(is_filled))
    }

    /// Takes the mark away, and what else was kept beside the database: it was closed, with nothing left in its log.
    pub(in crate::engine) fn remove(&self) {
        if let Some(files) = &self.files {
            images::remove(&files.database);
            std::fs::remove_file(&files.path).ok();
        }
    }
}

impl Files {
    /// How many checkpoints the database has seen, once DuckDB has opened it.
    fn checkpoints(&self) -> Option<u64> {
        let headers = self.headers.get_or_init(|| File::open(&self.database).ok());
        headers.as_ref().and_then(checkpoints)
    }

    fn note(&self, state: &State) {
        // It fits by far, and a failure leaves an older mark.
        if let Ok(mut json) = serde_json::to_vec(state) {
            json.resize(MARK_BYTES, b' ');
            self.mark.write_all_at(&json, 0).ok();
        }
    }
}

fn read(mark: &File) -> io::Result<Option<State>> {
    let mut json = vec![0; MARK_BYTES];
    match mark.read_exact_at(&mut json, 0) {
        Ok(()) => Ok(serde_json::from_slice(&json).ok()),
        // A new one, or one that is void.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether DuckDB can write to a database. Where there is none, what keeps its mark from being made keeps it from being made,
/// too.
fn may_be_written(database: &Path, has_no_mark: bool) -> bool {
    match OpenOptions::new().write(true).open(database) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::NotFound && !has_no_mark,
    }
}

/// The error of a mark, which it names.
fn of_mark(doing: &'static str, mark: &Path, error: &io::Error) -> Error {
    let source = io::Error::new(error.kind(), format!("{}: {error}", mark.display()));
    Error::Io { doing, source }
}

impl State {
    /// Whether it holds for a database as it is now: nothing has its file open, and so a lock that closing it would give
    /// up.
    fn is_of(&self, database: &Path) -> bool {
        File::open(database).ok().as_ref().and_then(checkpoints) == Some(self.checkpoints)
    }

    /// How much of this file was acknowledged.
    fn bytes_in(&self, log: &Path) -> u64 {
        let logs = [&self.log, &self.next_log].into_iter();
        let bytes = logs.filter(|known| known.is_in(log)).map(|log| log.bytes);
        bytes.max().unwrap_or(0)
    }
}

/// Refuses a database whose log has less in it than was acknowledged.
fn check(path: &Path, state: &State) -> Result<()> {
    let State { log, next_log, .. } = state;
    let [log_path, next_path] = logs(path);
    let is_whole = log.is_in(&log_path) && next_log.is_in(&next_path);
    // The checkpoint may have finished since, and the next log taken the place of the other one.
    let has_moved = next_log.bytes > 0 && !next_path.exists() && next_log.is_in(&log_path);
    if is_whole || has_moved {
        return Ok(());
    }
    Err(Error::LogDamaged {
        log: log_path,
        bytes: log.bytes,
    })
}

/// What the mark of a database tells of its first log, of which the check may have failed. Where what was acknowledged last is
/// in that log alone, no checkpoint had begun.
fn told(path: &Path, valid: Option<&State>, is_refused: bool) -> Told {
    let [first, _] = logs(path);
    Told {
        is_short: is_refused && valid.is_some_and(|state| !state.log.is_in(&first)),
        is_needed: valid.is_some_and(|state| state.log.bytes > 0 && state.next_log.bytes == 0),
    }
}

impl Log {
    /// The log as it is, up to the end of its last whole commit: what is behind that may be another's commit, which is
    /// not acknowledged and may be taken back. `known` are logs of the same count, one of which it may have been: they
    /// only grow, so what was walked once need not be walked again. One of fewer checkpoints than the database has seen is
    /// as good as none: all of it is in the database, and DuckDB is about to remove it.
    ///
    /// The commit to acknowledge is synced. Where another one has come to it, that is not certain of the last, and it is synced
    /// here. `None` where that fails.
    fn look(path: &Path, known: &[Self], checkpoints: u64) -> Option<Self> {
        let Ok(file) = File::open(path) else {
            return Some(Self::default());
        };
        let start = start(&file);
        let header = Header::read(&start);
        if header.checkpoints.is_some_and(|seen| seen < checkpoints) {
            return Some(Self::default());
        }
        let entries = Entries::of(&file);
        let leads_on =
            |bytes: u64| bytes > 0 && (bytes == entries.bytes() || entries.at(bytes).is_some());
        let known = known
            .iter()
            .find(|log| log.start == start && leads_on(log.bytes));
        let from = known.map_or(header.end, |log| log.bytes);
        // An entry whose kind cannot be told counts.
        let ends_commit = |entry: &Entry| entry.kind.is_none_or(|kind| kind == FLUSH);
        let (mut bytes, mut commits) = (from, 0);
        for commit in entries.from(from).filter(ends_commit) {
            bytes = commit.end;
            commits += 1;
        }
        if commits > 1 {
            file.sync_data().ok()?;
        }
        Some(Self { bytes, start })
    }

    /// Whether all of it is in this file: its entries lead from the beginning to where it ended.
    fn is_in(&self, path: &Path) -> bool {
        if self.bytes == 0 {
            return true;
        }
        let Ok(file) = File::open(path) else {
            return false;
        };
        if !start(&file).starts_with(&self.start) {
            return false;
        }
        let begin = Header::read(&self.start).end;
        let entries = Entries::of(&file);
        let mut ends = entries.from(begin).map(|entry| entry.end);
        self.bytes == begin || ends.find(|&end| end >= self.bytes) == Some(self.bytes)
    }
}

/// How many checkpoints a database has seen.
pub(super) fn checkpoints(database: &File) -> Option<u64> {
    let count = |offset| {
        let mut header = [0; 16];
        database.read_exact_at(&mut header, offset).ok()?;
        header[8..].try_into().ok().map(u64::from_le_bytes)
    };
    HEADER_OFFSETS.into_iter().filter_map(count).max()
}

/// The log, and the one that is written while a checkpoint runs.
pub(in crate::engine) fn logs(database: &Path) -> [PathBuf; 2] {
    let log = log_path(database);
    let next = PathBuf::from(format!("{}.checkpoint", log.display()));
    [log, next]
}

pub(super) fn mark_path(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.mark", database.display()))
}

#[cfg(test)]
mod tests {
    use super::super::log_entries::samples::{HEADER, INSERT, entry, header};
    use super::super::log_entries::{FLUSH, ROW_GROUP_DATA};
    use super::*;

    /// A log of these entries, with a part of another one behind them, and how many of them are marked.
    fn marked(kinds: &[u8], known: &[Log]) -> (Log, usize) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = HEADER.to_vec();
        log.extend(kinds.iter().copied().flat_map(entry));
        log.extend(&entry(FLUSH)[..17]);
        std::fs::write(&path, log).unwrap();
        let log = Log::look(&path, known, 0).unwrap();
        assert!(log.is_in(&path));
        let bytes = usize::try_from(log.bytes).unwrap() - HEADER.len();
        assert_eq!(bytes % entry(FLUSH).len(), 0);
        (log, bytes / entry(FLUSH).len())
    }

    #[test]
    fn a_commit_that_is_not_whole_is_not_marked() {
        let (known, entries) = marked(&[INSERT, FLUSH, ROW_GROUP_DATA, INSERT], &[]);
        assert_eq!(entries, 2);
        let more = [INSERT, FLUSH, ROW_GROUP_DATA, INSERT, FLUSH, INSERT];
        assert_eq!(marked(&more, &[known]).1, 5);
        assert_eq!(marked(&[INSERT], &[]).1, 0);
        assert_eq!(marked(&[], &[]).1, 0);
    }

    #[test]
    fn a_log_that_a_checkpoint_has_taken_over_is_not_marked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = [header(7, 9), entry(INSERT), entry(FLUSH)].concat();
        std::fs::write(&path, &log).unwrap();
        let known = Log::look(&path, &[], 7).unwrap();
        assert_eq!(known.bytes, log.len() as u64);
        assert_eq!(Log::look(&path, &[known], 8), Some(Log::default()));
        // The one that is written while a checkpoint runs.
        let next = Log::look(&path, &[], 6).unwrap();
        assert_eq!(next.bytes, log.len() as u64);
    }
}
