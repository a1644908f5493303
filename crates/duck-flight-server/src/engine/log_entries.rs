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
    while let Ok(more @ 1..) = file.read_at(&mut start[read..], read as u64) {
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

/// Where the entry at `offset` ends, if all of it is there: as many bytes as its size says.
pub(super) fn next_entry(file: &File, offset: u64) -> Option<u64> {
    let mut size = [0; 8];
    file.read_exact_at(&mut size, offset).ok()?;
    let end = offset
        .checked_add(ENTRY_HEAD_BYTES)?
        .checked_add(u64::from_le_bytes(size))?;
    (end <= file.metadata().ok()?.len()).then_some(end)
}

/// What kind of entry the one at `offset` is (`WALType` in DuckDB's `common/enums/wal_type.hpp`).
pub(super) fn kind(file: &File, offset: u64) -> Option<u8> {
    let mut field = [0; 3];
    file.read_exact_at(&mut field, offset + ENTRY_HEAD_BYTES)
        .ok()?;
    let [low, high, kind] = field;
    (u16::from_le_bytes([low, high]) == KIND_FIELD).then_some(kind)
}
