//! The entries of DuckDB's write-ahead log, as far as they can be told apart from outside.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many bytes of a log's beginning are compared: its header and more, none of which ever change.
const START_BYTES: usize = 96;

/// An entry begins with its size and its checksum, eight bytes each (`WriteAheadLogSerializer` in DuckDB's
/// `storage/write_ahead_log.cpp`).
const ENTRY_HEAD_BYTES: u64 = 16;

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

/// The entries of a log as long as it is now. Each access to a file costs a system call, and a commit is looked at
/// before it is acknowledged.
pub(super) struct Entries<'f> {
    file: &'f File,
    bytes: u64,
}

impl<'f> Entries<'f> {
    pub(super) fn of(file: &'f File) -> Self {
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        Self { file, bytes }
    }

    /// Where the entry at `offset` ends, if all of it is there: as many bytes as its size says.
    pub(super) fn end(&self, offset: u64) -> Option<u64> {
        let head_end = offset.checked_add(ENTRY_HEAD_BYTES)?;
        if head_end > self.bytes {
            return None;
        }
        let mut size = [0; 8];
        self.file.read_exact_at(&mut size, offset).ok()?;
        let end = head_end.checked_add(u64::from_le_bytes(size))?;
        (end <= self.bytes).then_some(end)
    }

    /// What kind of entry the one at `offset` is (`WALType` in DuckDB's `common/enums/wal_type.hpp`).
    pub(super) fn kind(&self, offset: u64) -> Option<u8> {
        let mut field = [0; 3];
        self.file
            .read_exact_at(&mut field, offset + ENTRY_HEAD_BYTES)
            .ok()?;
        let [low, high, kind] = field;
        (u16::from_le_bytes([low, high]) == KIND_FIELD).then_some(kind)
    }
}
