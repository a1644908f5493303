//! DuckDB's checksum, as it stands before each entry of a log.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What the checksum of nothing is.
const NOTHING: u64 = 5381;

/// By this each word is multiplied.
const WORD_FACTOR: u64 = 0xbf58_476d_1ce4_e5b9;

/// The numbers of `MurmurHash2`, as bytes that make no whole word are mixed by it.
const REST_SEED: u64 = 0xe17a_1465;
const REST_FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
const REST_SHIFT: u32 = 47;

/// How many bytes are read at once: whole words.
const READ_BYTES: usize = 8192;

/// The checksum of these bytes (`Checksum` in the `common/checksum.cpp` of DuckDB 1.5.5).
pub(super) fn of_bytes(bytes: &[u8]) -> u64 {
    NOTHING ^ of_part(bytes)
}

/// The checksum of a part of a file.
///
/// # Errors
/// When the file cannot be read, or is shorter.
pub(super) fn of_file(file: &File, part: Range<u64>) -> io::Result<u64> {
    let mut buffer = [0; READ_BYTES];
    let mut sum = NOTHING;
    let Range { mut start, end } = part;
    while start < end {
        let bytes = usize::try_from(end - start).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let read = &mut buffer[..bytes];
        file.read_exact_at(read, start)?;
        sum ^= of_part(read);
        start += bytes as u64;
    }
    Ok(sum)
}

/// What a part adds that begins with a whole word.
fn of_part(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole = words.iter().fold(0, |sum, word| {
        sum ^ u64::from_le_bytes(*word).wrapping_mul(WORD_FACTOR)
    });
    match rest.is_empty() {
        true => whole,
        false => whole ^ of_rest(rest),
    }
}

/// What the last bytes add, which are fewer than a word has.
fn of_rest(rest: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    let seed = REST_SEED ^ (rest.len() as u64).wrapping_mul(REST_FACTOR);
    let mut hash = (seed ^ u64::from_le_bytes(word)).wrapping_mul(REST_FACTOR);
    hash ^= hash >> REST_SHIFT;
    hash = hash.wrapping_mul(REST_FACTOR);
    hash ^ (hash >> REST_SHIFT)
}
