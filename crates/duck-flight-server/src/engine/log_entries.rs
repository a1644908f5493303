//! The entries of DuckDB's write-ahead log, as far as they can be told apart from outside.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many bytes of a log's beginning are compared: its header and more, none of which ever change.
const START_BYTES: usize = 96;

/// An entry begins with its size and its checksum, eight bytes each (`WriteAheadLogSerializer` in DuckDB's
/// `storage/write_ahead_log.cpp`).
const ENTRY_HEAD_BYTES: u64 = 16;

/// As many bytes of an entry tell its kind, too.
const ENTRY_START_BYTES: usize = 19;

/// The number of the field that tells an entry's kind, its first.
const KIND_FIELD: u16 = 100;

/// The beginning of a log.
pub(super) fn start(file: &File) -> Vec<u8> {
    let mut start = vec![0; START_BYTES];
    let mut read = 0;
    while read < START_BYTES
        && let Ok(more @ 1..) = file.read_at(&mut start[read..], read as u64)
    {
        read += more;
    }
    start.truncate(read);
    start
}

/// Where a log's header ends: with the two bytes that end an object of DuckDB's serializer.
pub(super) fn header_end(start: &[u8]) -> u64 {
    let end = start.windows(2).position(|bytes| bytes == [0xff, 0xff]);
    end.map_or(0, |end| end as u64 + 2)
}

/// Kinds of entries (`WALType` in DuckDB's `common/enums/wal_type.hpp`): a new schema, row groups in the database file, and the
/// end of a commit.
pub(super) const CREATE_SCHEMA: u8 = 3;
pub(super) const ROW_GROUP_DATA: u8 = 29;
pub(super) const FLUSH: u8 = 100;

/// The entries of a log as long as it is now. Each access to a file costs a system call, and a commit is looked at
/// before it is acknowledged.
pub(super) struct Entries<'f> {
    file: &'f File,
    bytes: u64,
}

/// A whole entry.
pub(super) struct Entry {
    /// Where it ends.
    pub(super) end: u64,
    /// Its kind, where it can be told.
    pub(super) kind: Option<u8>,
}

impl<'f> Entries<'f> {
    pub(super) fn of(file: &'f File) -> Self {
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        Self { file, bytes }
    }

    /// How long the log is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry at `offset`, if all of it is there: as many bytes as its size says.
    pub(super) fn at(&self, offset: u64) -> Option<Entry> {
        let head_end = offset.checked_add(ENTRY_HEAD_BYTES)?;
        if head_end > self.bytes {
            return None;
        }
        let mut start = [0; ENTRY_START_BYTES];
        let read = self.file.read_at(&mut start, offset).ok()?;
        let (size, _) = start[..read].split_first_chunk()?;
        let end = head_end.checked_add(u64::from_le_bytes(*size))?;
        let kind = match start[16..] {
            [low, high, kind] if u16::from_le_bytes([low, high]) == KIND_FIELD => Some(kind),
            _ => None,
        };
        (end <= self.bytes).then_some(Entry { end, kind })
    }

    /// The whole entries from `offset` on, one after another.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = Entry> {
        std::iter::successors(self.at(offset), |entry| self.at(entry.end))
    }
}

/// Logs for tests.
#[cfg(test)]
pub(super) mod samples {
    pub(in super::super) const INSERT: u8 = 26;

    pub(in super::super) const HEADER: &[u8] = &[100, 0, 98, 101, 0, 2, 0xff, 0xff];

    /// An entry of this kind.
    pub(in super::super) fn entry(kind: u8) -> Vec<u8> {
        let payload = [100, 0, kind, 7, 7, 7, 0xff, 0xff];
        let size = payload.len() as u64;
        [&size.to_le_bytes()[..], &[9; 8], &payload].concat()
    }
}
