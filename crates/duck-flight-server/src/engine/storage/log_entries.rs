//! The entries of DuckDB's write-ahead log, as far as they can be told apart from outside.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::checksum;

/// How many bytes of a log's beginning are compared: its header and more, none of which ever change.
const START_BYTES: usize = 96;

/// An entry begins with its size and its checksum, eight bytes each (`WriteAheadLogSerializer` in DuckDB's
/// `storage/write_ahead_log.cpp`).
const ENTRY_HEAD_BYTES: u64 = 16;

/// How many bytes of an entry are read to know its kind as well.
const ENTRY_START_BYTES: usize = 19;

/// The number of the field that tells an entry's kind, its first.
const KIND_FIELD: u16 = 100;

/// Of the fields of a header, the one that is a list, and the one that counts checkpoints.
const IDENTIFIER_FIELD: u16 = 102;
const CHECKPOINTS_FIELD: u16 = 103;

/// How a header begins: it is one, and of a log whose entries have checksums and are not encrypted.
const HEADER_START: [u8; 6] = [100, 0, 98, 101, 0, 2];

/// How the identifier of the database begins in a header.
const IDENTIFIER_START: [u8; 3] = [102, 0, 16];

/// The identifier of a database.
pub(super) const IDENTIFIER_BYTES: usize = 16;

/// In the place of a field's number, the end of an object of DuckDB's serializer.
const END: u16 = 0xffff;

/// How many bytes of a log are read at once where entries are looked for: all of a small commit, and of a large one the
/// beginnings of some entries.
const READ_BYTES: usize = 4096;

/// The beginning of a log.
pub(in crate::engine) fn start(file: &File) -> Vec<u8> {
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

/// What a log begins with (`WriteAheadLog::WriteHeader` in DuckDB's `storage/write_ahead_log.cpp`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Header {
    /// Where it ends; 0 where there is none.
    pub(in crate::engine) end: u64,
    /// How many checkpoints the database had seen that the log belongs to, where it tells.
    pub(super) checkpoints: Option<u64>,
}

impl Header {
    /// Reads the beginning of a log.
    pub(in crate::engine) fn read(start: &[u8]) -> Self {
        Self::fields(start).unwrap_or_default()
    }

    /// The header of a log that begins, byte by byte, as DuckDB begins one for the database of this identifier. It has no checksum.
    pub(super) fn of(start: &[u8], identifier: &[u8; IDENTIFIER_BYTES]) -> Option<Self> {
        let mut rest = start.strip_prefix(&HEADER_START)?;
        let mut checkpoints = None;
        if let Some(told) = rest.strip_prefix(&IDENTIFIER_START) {
            rest = told;
            for &byte in identifier {
                if number(&mut rest)? != u64::from(byte) {
                    return None;
                }
            }
            if field(&mut rest)? != CHECKPOINTS_FIELD {
                return None;
            }
            checkpoints = Some(number(&mut rest)?);
        }
        let ends = field(&mut rest)? == END;
        let end = (start.len() - rest.len()) as u64;
        ends.then_some(Self { end, checkpoints })
    }

    /// Field by field, for in the bytes of a count may be those that end the header.
    fn fields(start: &[u8]) -> Option<Self> {
        let mut rest = start;
        let mut checkpoints = None;
        loop {
            match field(&mut rest)? {
                END => {
                    let end = (start.len() - rest.len()) as u64;
                    return Some(Self { end, checkpoints });
                }
                IDENTIFIER_FIELD => {
                    for _ in 0..number(&mut rest)? {
                        number(&mut rest)?;
                    }
                }
                CHECKPOINTS_FIELD => checkpoints = Some(number(&mut rest)?),
                _ => {
                    number(&mut rest)?;
                }
            }
        }
    }
}

/// Takes the number of a field off.
fn field(rest: &mut &[u8]) -> Option<u16> {
    let (field, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u16::from_le_bytes(*field))
}

/// Takes a number off, of which each byte holds seven bits and whether another one follows.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Kinds of entries (`WALType` in DuckDB's `common/enums/wal_type.hpp`): a new schema, row groups in the database file, the
/// begin of a checkpoint, and the end of a commit.
pub(in crate::engine) const CREATE_SCHEMA: u8 = 3;
pub(super) const ROW_GROUP_DATA: u8 = 29;
pub(super) const CHECKPOINT: u8 = 99;
pub(super) const FLUSH: u8 = 100;

/// The entries of a log as long as it is now. Each access to a file costs a system call, and a commit is looked at
/// before it is acknowledged.
pub(in crate::engine) struct Entries<'f> {
    file: &'f File,
    bytes: u64,
    part: RefCell<Part>,
}

/// The part of a log that was read last.
struct Part {
    offset: u64,
    bytes: [u8; READ_BYTES],
    /// How many of them there are.
    len: usize,
}

/// A whole entry.
pub(in crate::engine) struct Entry {
    /// Where it begins.
    pub(super) begin: u64,
    /// Where it ends.
    pub(super) end: u64,
    /// Its kind, where it can be told.
    pub(in crate::engine) kind: Option<u8>,
    checksum: u64,
}

/// What there is of a log before the first entry that is cut off or not as it was written.
pub(super) struct Whole {
    /// Where its last whole commit ends.
    pub(super) committed: u64,
    /// Where it ends, in the middle of a commit or not.
    pub(super) end: u64,
    /// Whether one of its commits says that a checkpoint has begun.
    pub(super) begins_checkpoint: bool,
}

impl<'f> Entries<'f> {
    pub(in crate::engine) fn of(file: &'f File) -> Self {
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let part = RefCell::new(Part {
            offset: 0,
            bytes: [0; READ_BYTES],
            len: 0,
        });
        Self { file, bytes, part }
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
        let mut part = self.part.borrow_mut();
        let start = part.entry_start(self.file, offset)?;
        let (size, rest) = start.split_first_chunk()?;
        let (checksum, _) = rest.split_first_chunk()?;
        let end = head_end.checked_add(u64::from_le_bytes(*size))?;
        let kind = match start.get(16..) {
            Some(&[low, high, kind]) if u16::from_le_bytes([low, high]) == KIND_FIELD => Some(kind),
            _ => None,
        };
        (end <= self.bytes).then_some(Entry {
            begin: offset,
            end,
            kind,
            checksum: u64::from_le_bytes(*checksum),
        })
    }

    /// Whether an entry has the checksum that was written before it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn is_as_written(&self, entry: &Entry) -> io::Result<bool> {
        let payload = entry.begin + ENTRY_HEAD_BYTES..entry.end;
        Ok(checksum::of_file(self.file, payload)? == entry.checksum)
    }

    /// Looks how far the entries are as they were written, from `begin` on, where a commit begins.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn whole(&self, begin: u64) -> io::Result<Whole> {
        let mut whole = Whole {
            committed: begin,
            end: begin,
            begins_checkpoint: false,
        };
        let mut begins_checkpoint = false;
        for entry in self.from(begin) {
            if !self.is_as_written(&entry)? {
                break;
            }
            whole.end = entry.end;
            match entry.kind {
                Some(CHECKPOINT) => begins_checkpoint = true,
                Some(FLUSH) => {
                    (whole.committed, whole.begins_checkpoint) = (entry.end, begins_checkpoint);
                }
                _ => {}
            }
        }
        Ok(whole)
    }

    /// The whole entries from `offset` on, one after another.
    pub(in crate::engine) fn from(&self, offset: u64) -> impl Iterator<Item = Entry> {
        std::iter::successors(self.at(offset), |entry| self.at(entry.end))
    }
}

impl Part {
    /// The start of the entry at `offset`, or what there is of it, which is read where it was not.
    fn entry_start(&mut self, file: &File, offset: u64) -> Option<&[u8]> {
        let from = offset.checked_sub(self.offset);
        let from = from.and_then(|from| usize::try_from(from).ok());
        let is_read = |from: &usize| from.saturating_add(ENTRY_START_BYTES) <= self.len;
        let from = match from.filter(is_read) {
            Some(from) => from,
            None => {
                self.len = file.read_at(&mut self.bytes, offset).unwrap_or(0);
                self.offset = offset;
                0
            }
        };
        self.bytes.get(from..self.len.min(from + ENTRY_START_BYTES))
    }
}

/// An entry with this payload.
fn entry_with(payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u64).to_le_bytes();
    let checksum = checksum::of_bytes(payload).to_le_bytes();
    [&size[..], &checksum, payload].concat()
}

/// The end of a commit, which is the same at each.
pub(super) fn flush() -> Vec<u8> {
    let [low, high] = KIND_FIELD.to_le_bytes();
    entry_with(&[low, high, FLUSH, 0xff, 0xff])
}

/// Logs for tests.
#[cfg(test)]
pub(super) mod samples {
    pub(in crate::engine) const INSERT: u8 = 26;

    pub(in crate::engine) const HEADER: &[u8] = &[100, 0, 98, 101, 0, 2, 0xff, 0xff];

    /// The beginning of a log for a database that has seen this many checkpoints, and whose identifier has only this byte.
    pub(in crate::engine) fn header(checkpoints: u64, identifier: u8) -> Vec<u8> {
        let mut header = vec![100, 0, 98, 101, 0, 2, 102, 0, 16];
        for _ in 0..16 {
            push(&mut header, identifier.into());
        }
        header.extend([103, 0]);
        push(&mut header, checkpoints);
        header.extend([0xff, 0xff]);
        header
    }

    fn push(header: &mut Vec<u8>, mut number: u64) {
        while number > 0x7f {
            let [low, ..] = number.to_le_bytes();
            header.push(low | 0x80);
            number >>= 7;
        }
        let [low, ..] = number.to_le_bytes();
        header.push(low);
    }

    /// An entry of this kind.
    pub(in crate::engine) fn entry(kind: u8) -> Vec<u8> {
        entry_of(kind, 3)
    }

    /// An entry of this kind with this many bytes of something.
    pub(in crate::engine) fn entry_of(kind: u8, bytes: usize) -> Vec<u8> {
        let payload = [&[100, 0, kind][..], &vec![7; bytes], &[0xff, 0xff]].concat();
        super::entry_with(&payload)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::samples::{HEADER, INSERT, entry_of, header};
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn a_header_ends_behind_its_last_field_whatever_that_counts() {
        let plain = Header {
            end: HEADER.len() as u64,
            checkpoints: None,
        };
        assert_eq!(Header::read(HEADER), plain);
        // The low bits of these are all ones.
        for checkpoints in [0, 1, 255, 16_383, 32_767, 49_151, u64::MAX] {
            for identifier in [0, 127, 255] {
                let header = header(checkpoints, identifier);
                let read = Header {
                    end: header.len() as u64,
                    checkpoints: Some(checkpoints),
                };
                assert_eq!(Header::read(&header), read);
                let log = [&header[..], &entry_of(FLUSH, 0)].concat();
                assert_eq!(Header::read(&log), read);
                for part in 0..header.len() {
                    assert_eq!(Header::read(&header[..part]), Header::default());
                }
            }
        }
        assert_eq!(Header::read(&[0; START_BYTES]), Header::default());
    }

    /// The log of a database whose file has such a version, which has seen a checkpoint.
    fn log_of_duckdb(version: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let version = ("storage_compatibility_version", version.to_owned());
        let database = Database::open(path.to_str().unwrap(), &[version]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute("CREATE TABLE t (i BIGINT); CHECKPOINT; INSERT INTO t FROM range(5000)")
            .unwrap();
        // Entries of any length.
        for letters in 1..=8 {
            let schema = "s".repeat(letters);
            connection
                .execute(&format!("CREATE SCHEMA {schema}"))
                .unwrap();
        }
        std::fs::read(directory.path().join("test.db.wal")).unwrap()
    }

    #[test]
    fn the_logs_that_duckdb_writes_are_read_from_beginning_to_end() {
        for (version, tells) in [("v1.0.0", false), ("v1.4.0", true)] {
            let log = log_of_duckdb(version);
            let header = Header::read(&log);
            assert_eq!(header.checkpoints.is_some(), tells);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&log, 0).unwrap();
            let entries = Entries::of(&file);
            let last = entries.from(header.end).last().unwrap();
            assert_eq!((last.end, last.kind), (log.len() as u64, Some(FLUSH)));
            assert!(log.ends_with(&flush()));
        }
        // As it would begin after as many checkpoints more.
        let log = log_of_duckdb("v1.4.0");
        let end = usize::try_from(Header::read(&log).end).unwrap();
        let later = [&log[..end - 3], &[0xff, 0xff, 0x01, 0xff, 0xff]].concat();
        let header = Header::read(&later);
        assert_eq!(header.end, later.len() as u64);
        assert_eq!(header.checkpoints, Some(32_767));
    }

    #[test]
    fn an_entry_is_as_duckdb_has_written_it_or_has_another_checksum() {
        let log = log_of_duckdb("v1.4.0");
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&log, 0).unwrap();
        let entries = Entries::of(&file);
        let mut rests = BTreeSet::new();
        for entry in entries.from(Header::read(&log).end) {
            assert!(entries.is_as_written(&entry).unwrap());
            let end = usize::try_from(entry.end).unwrap();
            let begin = usize::try_from(entry.begin).unwrap() + 16;
            rests.insert((end - begin) % 8);
            // One bit of the checksum, of the first byte and of the last one.
            for at in [begin - 1, begin, end - 1] {
                file.write_all_at(&[log[at] ^ 0x10], at as u64).unwrap();
                let changed = Entries::of(&file).at(entry.begin).unwrap();
                assert!(!entries.is_as_written(&changed).unwrap());
                file.write_all_at(&[log[at]], at as u64).unwrap();
            }
        }
        assert_eq!(rests, (0..8).collect());
    }

    #[test]
    fn a_header_is_that_of_its_database_or_damaged() {
        let of = |start: &[u8], byte| Header::of(start, &[byte; IDENTIFIER_BYTES]);
        for byte in [0, 9, 255] {
            let header = header(7, byte);
            assert_eq!(of(&header, byte), Some(Header::read(&header)));
            assert_eq!(of(&header, 1), None);
            let count_at = header.len() - 3;
            for at in 0..header.len() {
                let mut damaged = header.clone();
                damaged[at] ^= 0x02;
                assert_eq!(of(&damaged, byte).is_some(), at == count_at, "byte {at}");
                assert_eq!(of(&header[..at], byte), None);
            }
        }
        assert_eq!(of(HEADER, 9), Some(Header::read(HEADER)));
    }

    #[test]
    fn entries_of_any_size_are_found_one_after_another() {
        let sizes = [0, 1, 50, 4000, 30, 4096, 0, 0, 20_000, 3, 8192 - 21];
        let mut log = HEADER.to_vec();
        let mut ends = Vec::new();
        for (kind, bytes) in (1..).zip(sizes.repeat(20)) {
            log.extend(entry_of(kind, bytes));
            ends.push((log.len() as u64, Some(kind)));
        }
        let begin = HEADER.len() as u64;
        for cut in [0, 1, 15, 100] {
            let file = tempfile::tempfile().unwrap();
            let half = entry_of(INSERT, 100);
            let half = &half[..half.len() - 1 - cut];
            file.write_all_at(&[&log[..], half].concat(), 0).unwrap();
            let entries = Entries::of(&file);
            let found = |from| {
                let entries = entries.from(from).map(|entry| (entry.end, entry.kind));
                entries.collect::<Vec<_>>()
            };
            assert_eq!(found(begin), ends);
            // From anywhere, back and forth.
            for from in [200, 3, 150, 219] {
                assert_eq!(found(ends[from - 1].0), ends[from..]);
            }
        }
    }
}
