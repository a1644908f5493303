//! A way out for a damaged log: what is whole of it goes on, and all of it is kept beside.
//!
//! DuckDB refuses a log with an entry that is not as it was written, and `mark.rs` one that has lost its end. Where it is
//! asked for, a log is copied and then cut behind its last whole commit before the damage. So the database is as it was at some
//! moment: what was committed up to then is there, and nothing behind it.
//!
//! While a checkpoint runs there is a second log, of what is committed meanwhile. That counts only behind all of the first
//! one; or, once the checkpoint is in the database file, in its place, and then nothing of the first one may be read
//! again. The headers' counts of checkpoints tell which. Those of formats before that of DuckDB 1.4 have none: there the mark may tell.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::log_entries::{Entries, Header, IDENTIFIER_BYTES, start};
use super::mark::checkpoints;
use super::torn;
use crate::error::{Error, Result};

/// Where a database file has its identifier (`MainHeader` in the `storage/storage_info.hpp` of DuckDB 1.5.5): zeros in older
/// formats, whose logs do not have it.
const IDENTIFIER_OFFSET: u64 = 124;

/// Why a log is cut or set aside, as the server's log tells it.
const DAMAGED: &str =
    "the write-ahead log was damaged: cut behind its last whole commit before that";
const BEHIND_DAMAGE: &str = "the log of what was committed during a checkpoint is set aside, for the log before it is damaged";
const IN_DATABASE: &str = "the write-ahead log was damaged and is set aside: a checkpoint has put all of it into the database";
const UNKNOWN: &str = "a write-ahead log was damaged and is set aside, for its format does not tell whether a \
                       checkpoint has put it into the database";

/// What the mark tells of the first log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// The log has less in it than was acknowledged.
    pub(super) is_short: bool,
    /// What was acknowledged last is in the log, and so not in the database file yet.
    pub(super) is_needed: bool,
}

/// Cuts the logs of a database that is not open, each behind its last whole commit before what is damaged. What is cut
/// is copied before, into a file beside.
///
/// # Errors
/// When a log cannot be read, copied or cut.
pub(super) fn salvage(database: &Path, logs: &[PathBuf; 2], told: Told) -> Result<()> {
    let Some(database) = torn::lock(database) else {
        return Ok(());
    };
    salvage_logs(&database, logs, told).map_err(|source| Error::Io {
        doing: "salvage the write-ahead log",
        source,
    })
}

fn salvage_logs(database: &File, [log, next]: &[PathBuf; 2], told: Told) -> io::Result<()> {
    let mut identifier = [0; IDENTIFIER_BYTES];
    let identified = database.read_exact_at(&mut identifier, IDENTIFIER_OFFSET);
    let (Ok(()), Some(count)) = (identified, checkpoints(database)) else {
        // DuckDB will say what is wrong with the file.
        return Ok(());
    };
    let first = Found::look(log, &identifier)?;
    let second = Found::look(next, &identifier)?;
    let is_in_database = match (first.checkpoints, second.checkpoints) {
        // It goes with another moment of the database file, as DuckDB will say.
        (Some(seen), _) if seen > count || seen + 1 < count => return Ok(()),
        (Some(seen), _) => Some(seen < count),
        (None, Some(seen)) => Some(seen == count),
        // A log whose header is damaged is set aside in any case.
        (None, None) => (told.is_needed || first.committed == 0).then_some(false),
    };
    let is_lost = told.is_short || first.bytes == 0 || !first.is_whole();
    match is_in_database {
        Some(true) => {
            second.cut(second.committed, DAMAGED)?;
            // Where it says that a checkpoint has begun, DuckDB leaves it out by itself.
            if !first.is_whole() || !first.begins_checkpoint {
                first.cut(0, IN_DATABASE)?;
                if second.committed > 0 {
                    std::fs::rename(next, log)?;
                }
            }
        }
        Some(false) if is_lost => {
            second.cut(0, BEHIND_DAMAGE)?;
            first.cut(first.committed, DAMAGED)?;
        }
        None if is_lost => {
            second.cut(0, UNKNOWN)?;
            first.cut(0, UNKNOWN)?;
        }
        _ => second.cut(second.committed, DAMAGED)?,
    }
    Ok(())
}

/// A log as it was found.
struct Found<'p> {
    path: &'p Path,
    /// How long it is; 0 where there is none.
    bytes: u64,
    /// Where its last whole commit before any damage ends; 0 where its header is damaged.
    committed: u64,
    /// What its header tells of checkpoints.
    checkpoints: Option<u64>,
    /// Whether one of the whole commits says that a checkpoint has begun.
    begins_checkpoint: bool,
}

impl<'p> Found<'p> {
    fn look(path: &'p Path, identifier: &[u8; IDENTIFIER_BYTES]) -> io::Result<Self> {
        let mut found = Self {
            path,
            bytes: 0,
            committed: 0,
            checkpoints: None,
            begins_checkpoint: false,
        };
        let log = match File::open(path) {
            Ok(log) => log,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        let entries = Entries::of(&log);
        found.bytes = entries.bytes();
        let Some(header) = Header::of(&start(&log), identifier) else {
            return Ok(found);
        };
        found.checkpoints = header.checkpoints;
        let whole = entries.whole(header.end)?;
        (found.committed, found.begins_checkpoint) = (whole.committed, whole.begins_checkpoint);
        Ok(found)
    }

    /// Whether it ends with a whole commit, and nothing before is damaged.
    fn is_whole(&self) -> bool {
        self.committed == self.bytes
    }

    /// Copies the whole log and cuts it at `end`; at 0 the file is removed.
    fn cut(&self, end: u64, why: &str) -> io::Result<()> {
        if end == self.bytes {
            return Ok(());
        }
        let copy = copy(self.path)?;
        if end == 0 {
            std::fs::remove_file(self.path)?;
        } else {
            let log = OpenOptions::new().write(true).open(self.path)?;
            log.set_len(end)?;
            log.sync_all()?;
        }
        let (log, copy) = (self.path.display(), copy.display());
        tracing::warn!(%log, left_bytes = end, cut_bytes = self.bytes - end, %copy, "{why}");
        Ok(())
    }
}

/// Copies a log into a new file beside it, for good.
fn copy(log: &Path) -> io::Result<PathBuf> {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let now = now.to_string().replace(['-', ':'], "");
    let path = PathBuf::from(format!("{}.damaged-{now}", log.display()));
    let mut from = File::open(log)?;
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let mut fill = || {
        to.set_permissions(from.metadata()?.permissions())?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    if let Err(error) = fill() {
        // The log is there.
        std::fs::remove_file(&path).ok();
        return Err(error);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::log_entries::samples::{HEADER, INSERT, entry, header};
    use super::super::log_entries::{CHECKPOINT, FLUSH};
    use super::*;

    /// What the database has: this many checkpoints, and an identifier of this byte alone.
    const COUNT: u64 = 7;
    const IDENTIFIER: u8 = 9;

    /// No logs.
    const NOTHING: [Vec<u8>; 2] = [vec![], vec![]];

    const NOTHING_TOLD: Told = Told {
        is_short: false,
        is_needed: false,
    };

    /// A log of these entries.
    fn log(header: &[u8], kinds: &[u8]) -> Vec<u8> {
        let entries = kinds.iter().copied().flat_map(entry);
        header.iter().copied().chain(entries).collect()
    }

    fn ours(checkpoints: u64, kinds: &[u8]) -> Vec<u8> {
        log(&header(checkpoints, IDENTIFIER), kinds)
    }

    /// The log with a byte in its last entry changed.
    fn damaged(log: &[u8]) -> Vec<u8> {
        let mut log = log.to_vec();
        let at = log.len() - 3;
        log[at] ^= 1;
        log
    }

    /// What is left of the logs of a database, both of which may be nothing. Asserts that what was cut is kept.
    fn left_of(first: &[u8], second: &[u8], told: Told) -> [Vec<u8>; 2] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut database = vec![0; 8192 + 16];
        database[124..140].fill(IDENTIFIER);
        database[4096 + 8..4096 + 16].copy_from_slice(&COUNT.to_le_bytes());
        std::fs::write(path("db"), database).unwrap();
        let logs = ["db.wal", "db.wal.checkpoint"].map(path);
        let found = [first, second];
        for (path, bytes) in logs.iter().zip(found) {
            if !bytes.is_empty() {
                std::fs::write(path, bytes).unwrap();
            }
        }
        salvage(&path("db"), &logs, told).unwrap();
        let left = [0, 1].map(|log| std::fs::read(&logs[log]).unwrap_or_default());
        let names = std::fs::read_dir(directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = names.collect::<Vec<_>>();
        for (log, name) in ["db.wal.damaged-", "db.wal.checkpoint.damaged-"]
            .into_iter()
            .enumerate()
        {
            let copies = names.iter().filter(|copy| copy.starts_with(name));
            let copies = copies.map(|copy| std::fs::read(path(copy)).unwrap());
            let is_kept = left.iter().any(|left| left == found[log]);
            let wanted = if is_kept { vec![] } else { vec![found[log]] };
            assert_eq!(copies.collect::<Vec<_>>(), wanted, "{name}");
        }
        left
    }

    #[test]
    fn a_log_is_cut_behind_its_last_whole_commit_before_the_damage() {
        let good = ours(COUNT, &[INSERT, FLUSH]);
        let longer = ours(COUNT, &[INSERT, FLUSH, INSERT, INSERT]);
        let bare = ours(COUNT, &[]);
        let zeroed = [&good[..], &[0; 100]].concat();
        let cases = [
            (damaged(&longer), &good),
            (longer[..longer.len() - 1].to_vec(), &good),
            (longer, &good),
            (zeroed, &good),
            (damaged(&good), &bare),
        ];
        for (log, wanted) in cases {
            let left = left_of(&log, &[], NOTHING_TOLD);
            assert_eq!(left, [wanted.clone(), vec![]]);
        }
    }

    #[test]
    fn a_log_without_damage_stays_as_it_is() {
        let cases: [(u64, &[u8]); 4] = [
            (COUNT, &[]),
            (COUNT, &[INSERT, FLUSH]),
            (COUNT, &[INSERT, FLUSH, CHECKPOINT, FLUSH]),
            (COUNT - 1, &[INSERT, FLUSH, CHECKPOINT, FLUSH]),
        ];
        for (checkpoints, kinds) in cases {
            let first = ours(checkpoints, kinds);
            let second = ours(checkpoints + 1, &[INSERT, FLUSH]);
            let logs = [first.clone(), second.clone()];
            assert_eq!(left_of(&first, &second, NOTHING_TOLD), logs);
        }
    }

    #[test]
    fn a_log_whose_header_is_damaged_is_set_aside() {
        let mut first = ours(COUNT, &[INSERT, FLUSH]);
        first[12] ^= 1;
        assert_eq!(left_of(&first, &[], NOTHING_TOLD), NOTHING);
        let second = ours(COUNT + 1, &[INSERT, FLUSH]);
        assert_eq!(left_of(&first, &second, NOTHING_TOLD), NOTHING);
        assert_eq!(left_of(&first[..5], &[], NOTHING_TOLD), NOTHING);
    }

    #[test]
    fn a_second_log_counts_behind_all_of_the_first_one_only() {
        let first = ours(COUNT, &[INSERT, FLUSH, CHECKPOINT, FLUSH]);
        let second = ours(COUNT + 1, &[INSERT, FLUSH, INSERT, FLUSH]);
        let left = ours(COUNT, &[INSERT, FLUSH, CHECKPOINT]);
        let cut = ours(COUNT, &[INSERT, FLUSH]);
        let aside = [cut.clone(), vec![]];
        assert_eq!(left_of(&left, &second, NOTHING_TOLD), aside);
        // The mark alone tells of more.
        let short = Told {
            is_short: true,
            ..NOTHING_TOLD
        };
        assert_eq!(left_of(&cut, &second, short), aside);
        assert_eq!(left_of(&[], &second, NOTHING_TOLD), NOTHING);
        let kept = [first.clone(), ours(COUNT + 1, &[INSERT, FLUSH])];
        assert_eq!(left_of(&first, &damaged(&second), NOTHING_TOLD), kept);
    }

    #[test]
    fn what_a_checkpoint_has_put_into_the_database_is_not_read_again() {
        let first = ours(COUNT - 1, &[INSERT, FLUSH, CHECKPOINT, FLUSH]);
        let second = ours(COUNT, &[INSERT, FLUSH]);
        let taken_over = [second.clone(), vec![]];
        for first in [damaged(&first), ours(COUNT - 1, &[INSERT, FLUSH]), vec![]] {
            assert_eq!(left_of(&first, &second, NOTHING_TOLD), taken_over);
            assert_eq!(left_of(&first, &[], NOTHING_TOLD), NOTHING);
        }
        let cut = [first.clone(), ours(COUNT, &[])];
        assert_eq!(left_of(&first, &damaged(&second), NOTHING_TOLD), cut);
    }

    /// Logs of older formats do not count checkpoints.
    #[test]
    fn where_nothing_tells_what_is_in_the_database_damaged_logs_are_set_aside() {
        let first = log(HEADER, &[INSERT, FLUSH, INSERT, FLUSH]);
        let second = log(HEADER, &[INSERT, FLUSH]);
        assert_eq!(left_of(&damaged(&first), &second, NOTHING_TOLD), NOTHING);
        let needed = Told {
            is_needed: true,
            ..NOTHING_TOLD
        };
        let cut = [log(HEADER, &[INSERT, FLUSH]), vec![]];
        assert_eq!(left_of(&damaged(&first), &[], needed), cut);
        let both = [first.clone(), second.clone()];
        assert_eq!(left_of(&first, &second, NOTHING_TOLD), both);
    }

    #[test]
    fn a_log_of_another_moment_is_left_to_duckdb() {
        for checkpoints in [COUNT - 2, COUNT + 1] {
            let log = damaged(&ours(checkpoints, &[INSERT, FLUSH]));
            assert_eq!(left_of(&log, &[], NOTHING_TOLD), [log, vec![]]);
        }
    }
}
