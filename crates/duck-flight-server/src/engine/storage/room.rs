//! Room on the disk: loaders are slowed down, and then refused, before it is full.
//!
//! DuckDB survives a full disk when it writes its log, but not in a checkpoint. So puts end while there is
//! still room for one: what is waiting in the log, and a margin.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use parking_lot::Mutex;

use crate::engine::IN_MEMORY;
use crate::error::{Error, Result};

/// How old a look at the disk may be.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// From this size of the log on loaders are slowed down: something holds up the checkpoints. At
/// [`MAX_LOG_BYTES`] they are refused.
const LONG_LOG_BYTES: u64 = 1 << 30;
const MAX_LOG_BYTES: u64 = 3 << 30;

/// How long a unit waits at most where room is scarce.
const LONGEST_DELAY: Duration = Duration::from_millis(200);

/// What is left for more rows.
#[derive(Debug, Clone)]
pub(super) struct Room {
    directory: PathBuf,
    log: PathBuf,
    min_free_bytes: u64,
    held_up: HeldUp,
}

/// Why the server itself can make no checkpoint, where it is not what somebody runs. Clones tell of the same.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct HeldUp(Arc<Mutex<Option<String>>>);

impl HeldUp {
    /// Takes note of what has become of a checkpoint.
    pub(super) fn note<T>(&self, outcome: &Result<T>) {
        *self.0.lock() = match outcome {
            Err(error @ Error::Io { .. }) => Some(error.to_string()),
            _ => None,
        };
    }

    /// What is in the way, and who is to do what.
    fn advice(&self) -> String {
        match &*self.0.lock() {
            Some(error) => format!(
                "the server cannot make one: {error}; whoever runs it must mend that, then try again"
            ),
            None => {
                "end the transaction, or the statement that writes, that is open for so long, and try again".to_owned()
            }
        }
    }
}

/// Looks at the disk now and then.
pub(in crate::engine) struct RoomWatch {
    /// `None` for a database in memory.
    room: Option<Room>,
    last: Mutex<Last>,
}

/// What was seen last.
struct Last {
    /// `None` for the look at the start, which only the log needs: the first put looks again.
    at: Option<Instant>,
    level: Level,
}

/// How much room there is.
#[derive(Debug, Clone, PartialEq)]
enum Level {
    Plenty,
    /// The part of the way from plenty to none.
    Scarce(f64),
    None(String),
}

impl RoomWatch {
    /// Watches the disk of the database at `path`, of which `min_free_bytes` are to stay free. `held_up` is noted by whoever makes its
    /// checkpoints.
    pub(in crate::engine) fn new(path: &Path, min_free_bytes: u64, held_up: &HeldUp) -> Self {
        let in_memory = path.as_os_str() == IN_MEMORY;
        let room = (!in_memory).then(|| Room {
            directory: directory_of(path),
            log: log_path(path),
            min_free_bytes,
            held_up: held_up.clone(),
        });
        let level = room.as_ref().map_or(Level::Plenty, Room::look);
        tell_change(&Level::Plenty, &level);
        Self {
            room,
            last: Mutex::new(Last { at: None, level }),
        }
    }

    /// Waits a little where room is scarce.
    ///
    /// # Errors
    /// When there is none left; the message says how much is missing.
    pub(in crate::engine) async fn wait(&self) -> Result<()> {
        match self.level() {
            Level::Plenty => {}
            Level::Scarce(part) => tokio::time::sleep(LONGEST_DELAY.mul_f64(part)).await,
            Level::None(reason) => return Err(Error::NoRoom(reason)),
        }
        Ok(())
    }

    /// Sees that there is room, for rows that others would wait for if they waited.
    ///
    /// # Errors
    /// When there is none left; the message says how much is missing.
    pub(in crate::engine) fn check(&self) -> Result<()> {
        match self.level() {
            Level::Plenty | Level::Scarce(_) => Ok(()),
            Level::None(reason) => Err(Error::NoRoom(reason)),
        }
    }

    fn level(&self) -> Level {
        let Some(room) = &self.room else {
            return Level::Plenty;
        };
        let mut last = self.last.lock();
        if last.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return last.level.clone();
        }
        let level = room.look();
        last.at = Some(Instant::now());
        let before = std::mem::replace(&mut last.level, level.clone());
        // Nobody waits for whoever reads the log.
        drop(last);
        tell_change(&before, &level);
        level
    }
}

/// Says in the log that loaders are refused from now on, or that they no longer are.
fn tell_change(before: &Level, now: &Level) {
    let were_refused = matches!(before, Level::None(_));
    match now {
        Level::None(reason) if !were_refused => tracing::warn!("puts are refused: {reason}"),
        Level::Plenty | Level::Scarce(_) if were_refused => {
            tracing::info!("puts are no longer refused: there is room again");
        }
        _ => {}
    }
}

impl Room {
    fn look(&self) -> Level {
        let log_bytes = self.log.metadata().map_or(0, |metadata| metadata.len());
        // A disk that cannot be asked is no reason to refuse.
        let free_bytes = free_bytes(&self.directory).unwrap_or(u64::MAX);
        level(free_bytes, log_bytes, self.min_free_bytes, &self.held_up)
    }
}

fn level(free_bytes: u64, log_bytes: u64, min_free_bytes: u64, held_up: &HeldUp) -> Level {
    // A checkpoint writes the rows of the log once more.
    let needed = min_free_bytes.saturating_add(log_bytes);
    if free_bytes < needed {
        return Level::None(format!(
            "the server's disk is nearly full: {} are free, and --min-free-disk {} and a log of {} need to be; make room there and try again",
            ByteSize(free_bytes),
            ByteSize(min_free_bytes),
            ByteSize(log_bytes)
        ));
    }
    if log_bytes >= MAX_LOG_BYTES {
        return Level::None(format!(
            "the log has grown to {} because no checkpoint was possible: {}",
            ByteSize(log_bytes),
            held_up.advice()
        ));
    }
    let scarcity = |have: u64, plenty: u64, none: u64| {
        let range = plenty.saturating_sub(none).max(1);
        1.0 - (have.saturating_sub(none) as f64 / range as f64).min(1.0)
    };
    let disk = scarcity(free_bytes, needed.saturating_mul(2), needed);
    let log = 1.0 - scarcity(log_bytes, MAX_LOG_BYTES, LONG_LOG_BYTES);
    let part = disk.max(log);
    if part > 0.0 {
        Level::Scarce(part)
    } else {
        Level::Plenty
    }
}

/// The directory of a database file.
pub(super) fn directory_of(database: &Path) -> PathBuf {
    match database.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// How much of the disk that a directory is on is free, where the disk can be asked.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The write-ahead log of a database file.
pub(super) fn log_path(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.wal", database.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn level(free_bytes: u64, log_bytes: u64, min_free_bytes: u64) -> Level {
        super::level(free_bytes, log_bytes, min_free_bytes, &HeldUp::default())
    }

    #[test]
    fn loaders_are_slowed_before_they_are_refused() {
        assert_eq!(level(1000 * MIB, 0, 100 * MIB), Level::Plenty);
        assert_eq!(level(150 * MIB, 0, 100 * MIB), Level::Scarce(0.5));
        assert!(matches!(level(99 * MIB, 0, 100 * MIB), Level::None(_)));
    }

    #[test]
    fn a_long_log_counts_as_room_that_a_checkpoint_needs() {
        assert!(matches!(
            level(150 * MIB, 60 * MIB, 100 * MIB),
            Level::None(_)
        ));
        assert_eq!(level(u64::MAX, 2 << 30, MIB), Level::Scarce(0.5));
        assert!(matches!(level(u64::MAX, 3 << 30, MIB), Level::None(_)));
    }

    #[test]
    fn a_log_that_is_too_long_is_blamed_on_what_is_in_the_way_last() {
        let held_up = HeldUp::default();
        let is_blamed_on = |word: &str| match super::level(u64::MAX, 3 << 30, MIB, &held_up) {
            Level::None(reason) => reason.contains(word),
            _ => false,
        };
        assert!(is_blamed_on("end the transaction"));
        held_up.note(&Err::<(), _>(Error::Io {
            doing: "keep images",
            source: std::io::Error::other("test.db.metadata: Is a directory"),
        }));
        assert!(is_blamed_on("test.db.metadata"));
        assert!(!is_blamed_on("transaction"));
        for other in [Err(Error::CheckpointBesideRows), Ok(())] {
            held_up.note(&other);
            assert!(is_blamed_on("end the transaction"));
        }
    }
}
