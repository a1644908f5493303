//! What a checkpoint needs so that a kill in the middle of it loses nothing.
//!
//! **Images of metadata blocks.** A metadata block of DuckDB 1.5.5 has 64 parts. A checkpoint writes into free ones only, but writes the
//! whole block over (`MetadataManager::Flush`), also where the database needs its other parts. Where that is cut short, by a power loss or
//! by a kill, which Linux heeds in the middle of a write, the block has the checksum of one moment and the content of another, and the
//! database cannot be opened any more. So before each checkpoint all blocks with free parts are written to a file of their own beside the
//! database, and synced; the next start puts back what is not whole.
//!
//! A header of the database tells where its content is and counts its checkpoints. It is written once all blocks are synced. So as long as
//! the headers are those of the images, what the database needs of these blocks is as it was then.
//!
//! **No rows go into the file meanwhile.** A checkpoint gives away the blocks that it has replaced before it writes the header
//! (`SingleFileBlockManager::WriteHeader`), and a transaction that fills a row group takes them. The header that is there after a kill
//! still has their old content in its tables: it would be wrong, or the database could not be opened. So whatever may write a row group
//! waits while a checkpoint runs, and a checkpoint for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::mark::HEADER_OFFSETS;
use super::{checksum, torn};
use crate::engine::IN_MEMORY;
use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// A checksum comes first in each block, in each header, and in the file of images: of the rest of it.
const WORD_BYTES: u64 = size_of::<u64>() as u64;

/// The words of the file before those of each image: the checksum, [`KIND`], and the numbers of [`Contents`].
const HEAD_WORDS: u64 = 5;

/// What tells the file from others.
const KIND: u64 = u64::from_le_bytes(*b"duckmeta");

/// Where the blocks begin in a database file, behind its three headers.
const BLOCKS_BEGIN: u64 = 3 * 4096;

/// Where a header tells how many bytes a block has: behind its checksum, the count of checkpoints, two places and the number of blocks
/// (`DatabaseHeader` in DuckDB's `storage/storage_info.hpp`).
const BLOCK_BYTES_AT: u64 = HEADER_OFFSETS[0] + 40;

/// The sizes that blocks have, and the one where the header does not tell it.
const BLOCK_SIZES: RangeInclusive<u64> = 16_384..=262_144;
const OLD_BLOCK_BYTES: u64 = 262_144;

/// The blocks that a checkpoint may write over.
const BLOCKS_SQL: &str =
    "SELECT block_id::VARCHAR FROM system.main.pragma_metadata_info() WHERE free_blocks > 0";

/// How long a checkpoint waits for what writes rows: others that would write some wait as long.
pub(in crate::engine) const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps the images of one database, which is open, and its checkpoints apart from what writes rows.
pub(in crate::engine) struct Images {
    /// Not to be closed before DuckDB has closed the file: that would give up its lock.
    database: File,
    path: PathBuf,
    /// Whoever makes a checkpoint holds it.
    written: Mutex<Option<Written>>,
    /// Shared by whatever may write row groups; a checkpoint has it alone.
    row_groups: RwLock<()>,
}

/// The file of images, and the headers of the database for which it was written last.
struct Written {
    images: File,
    headers: u64,
}

/// Everything is ready for a checkpoint, as long as this lives.
pub(in crate::engine) struct Kept<'a> {
    _row_groups: RwLockWriteGuard<'a, ()>,
    _written: MutexGuard<'a, Option<Written>>,
}

/// What the file of images begins with; the images come behind it.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    /// The checksum of the three headers of the database, the first of which also tells databases apart, but for old formats.
    headers: u64,
    block_bytes: u64,
    blocks: Vec<Image>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Image {
    block: u64,
    checksum: u64,
}

/// Puts back what a kill has left half written in a database that is not open.
///
/// # Errors
/// When the database file cannot be read or written.
pub(in crate::engine) fn mend(database: &Path) -> Result<()> {
    let (Ok(images), Some(locked)) = (File::open(images_path(database)), torn::lock(database))
    else {
        return Ok(());
    };
    let blocks = put_back(&locked, &images).map_err(|source| Error::Io {
        doing: "put back metadata that was half written",
        source,
    })?;
    if blocks > 0 {
        tracing::info!(database = %database.display(), blocks, "metadata that a checkpoint had left half written is put back");
    }
    Ok(())
}

/// Takes the images away: the database was closed.
pub(super) fn remove(database: &Path) {
    std::fs::remove_file(images_path(database)).ok();
}

impl Images {
    /// For the database at `path`, which DuckDB has open; `None` for one in memory.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(in crate::engine) fn of(path: &Path) -> Result<Option<Self>> {
        if path.as_os_str() == IN_MEMORY {
            return Ok(None);
        }
        let database = File::open(path).map_err(|source| Error::Io {
            doing: "open the database file to keep images of its metadata",
            source,
        })?;
        Ok(Some(Self {
            database,
            path: images_path(path),
            written: Mutex::new(None),
            row_groups: RwLock::new(()),
        }))
    }

    /// Keeps checkpoints from running until the guard is dropped. Waits for the one that runs. Not to be asked for by a thread that has
    /// it, nor by one that makes a checkpoint.
    pub(in crate::engine) fn filling(&self) -> RwLockReadGuard<'_, ()> {
        self.row_groups.read()
    }

    /// As [`filling`](Self::filling), but waits so long at most. `None` where a checkpoint runs for longer, or waits.
    pub(in crate::engine) fn try_filling(
        &self,
        patience: Duration,
    ) -> Option<RwLockReadGuard<'_, ()>> {
        self.row_groups.try_read_for(patience)
    }

    /// Keeps images of all blocks that a checkpoint may write over, and whatever may write row groups waiting. The connection is one to
    /// this database, in no transaction. Waits so long for what writes any.
    ///
    /// # Errors
    /// When somebody else makes a checkpoint, or writes rows for longer than that, and when the images cannot be written.
    pub(in crate::engine) fn keep(
        &self,
        connection: &Connection,
        patience: Duration,
    ) -> Result<Kept<'_>> {
        let written = self.written.try_lock();
        let mut written = written.ok_or(Error::CheckpointBesideRows)?;
        self.write(&mut written, connection)?;
        let row_groups = self.row_groups.try_write_for(patience);
        Ok(Kept {
            _row_groups: row_groups.ok_or(Error::CheckpointBesideRows)?,
            _written: written,
        })
    }

    fn write(&self, written: &mut Option<Written>, connection: &Connection) -> Result<()> {
        let of_file = |source: io::Error| Error::Io {
            doing: "keep images of the metadata that a checkpoint writes over",
            source: io::Error::new(source.kind(), format!("{}: {source}", self.path.display())),
        };
        let headers = headers(&self.database).map_err(of_file)?;
        // After a checkpoint that has failed halfway they are still right.
        if written
            .as_ref()
            .is_some_and(|written| written.headers == headers)
        {
            return Ok(());
        }
        let blocks = texts::<1>(connection, BLOCKS_SQL)?;
        let blocks = blocks.iter().map(|[block]| block.parse());
        let blocks = blocks.collect::<std::result::Result<Vec<u64>, _>>();
        let blocks = blocks.map_err(|_| SqlError::internal("a block has no number"))?;
        let images = match written.take() {
            Some(Written { images, .. }) => images,
            None => {
                let mut options = OpenOptions::new();
                let options = options.write(true).create(true).truncate(false);
                options.open(&self.path).map_err(of_file)?
            }
        };
        self.write_blocks(&images, headers, &blocks)
            .map_err(of_file)?;
        *written = Some(Written { images, headers });
        Ok(())
    }

    fn write_blocks(&self, images: &File, headers: u64, blocks: &[u64]) -> io::Result<()> {
        let mut contents = Contents {
            headers,
            block_bytes: block_bytes(&self.database)?,
            blocks: Vec::new(),
        };
        // A block behind the end of the file was never written, and is not needed.
        let end = self.database.metadata()?.len();
        let blocks = blocks.iter().copied();
        let blocks: Vec<u64> = blocks
            .filter(|block| contents.place(block + 1) <= end)
            .collect();
        let mut bytes = contents.buffer();
        let mut at = Contents::head_bytes(blocks.len());
        for block in blocks {
            let place = contents.place(block);
            self.database.read_exact_at(&mut bytes, place)?;
            images.write_all_at(&bytes, at)?;
            at += contents.block_bytes;
            // A block that is damaged already tells another checksum than it has, and is not put back.
            let checksum = checksum_within(&bytes);
            contents.blocks.push(Image { block, checksum });
        }
        images.write_all_at(&contents.to_bytes(), 0)?;
        images.set_len(at)?;
        images.sync_data()
    }
}

/// Puts back the blocks of a database that are not whole, where there is a whole image; answers with how many.
fn put_back(database: &File, images: &File) -> io::Result<usize> {
    let Some(contents) = Contents::read(images)? else {
        return Ok(0);
    };
    if !contents.are_of(database)? {
        return Ok(0);
    }
    let mut blocks = 0;
    let (mut bytes, mut image) = (contents.buffer(), contents.buffer());
    let mut at = Contents::head_bytes(contents.blocks.len());
    for &Image { block, checksum } in &contents.blocks {
        let place = contents.place(block);
        let is_there = database.read_exact_at(&mut bytes, place).is_ok();
        if is_there
            && !is_whole(&bytes)
            && images.read_exact_at(&mut image, at).is_ok()
            && is_whole(&image)
            && checksum_within(&image) == checksum
        {
            database.write_all_at(&image, place)?;
            blocks += 1;
        }
        at += contents.block_bytes;
    }
    if blocks > 0 {
        database.sync_data()?;
    }
    Ok(blocks)
}

impl Contents {
    /// How many bytes the contents of a file with so many images take.
    fn head_bytes(blocks: usize) -> u64 {
        WORD_BYTES * (HEAD_WORDS + 2 * blocks as u64)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let count = self.blocks.len() as u64;
        let head = [KIND, self.headers, self.block_bytes, count];
        let blocks = self.blocks.iter();
        let blocks = blocks.flat_map(|image| [image.block, image.checksum]);
        let words = head.into_iter().chain(blocks);
        let rest: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        [&checksum::of_bytes(&rest).to_le_bytes()[..], &rest].concat()
    }

    /// `None` where they are not whole.
    fn read(images: &File) -> io::Result<Option<Self>> {
        let file_bytes = images.metadata()?.len();
        let count = match Self::head_bytes(0) <= file_bytes {
            true => word_at(images, Self::head_bytes(0) - WORD_BYTES)?,
            false => return Ok(None),
        };
        // What is not ours may tell any number.
        let count = count.min(file_bytes);
        let end = usize::try_from(count).map_or(u64::MAX, Self::head_bytes);
        if end > file_bytes || checksum::of_file(images, WORD_BYTES..end)? != word_at(images, 0)? {
            return Ok(None);
        }
        let word = |index: u64| word_at(images, WORD_BYTES * index);
        let image = |index| {
            Ok(Image {
                block: word(HEAD_WORDS + 2 * index)?,
                checksum: word(HEAD_WORDS + 2 * index + 1)?,
            })
        };
        let contents = Self {
            headers: word(2)?,
            block_bytes: word(3)?,
            blocks: (0..count).map(image).collect::<io::Result<_>>()?,
        };
        Ok((word(1)? == KIND).then_some(contents))
    }

    /// Whether they are of a database as it is.
    fn are_of(&self, database: &File) -> io::Result<bool> {
        Ok(headers(database)? == self.headers && block_bytes(database)? == self.block_bytes)
    }

    /// Where a block is in the database file.
    fn place(&self, block: u64) -> u64 {
        BLOCKS_BEGIN + block * self.block_bytes
    }

    /// Room for a block.
    fn buffer(&self) -> Vec<u8> {
        vec![0; usize::try_from(self.block_bytes).expect("64 bits")]
    }
}

fn images_path(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.metadata", database.display()))
}

/// The checksum of all headers.
fn headers(database: &File) -> io::Result<u64> {
    checksum::of_file(database, 0..BLOCKS_BEGIN)
}

fn block_bytes(database: &File) -> io::Result<u64> {
    let bytes = word_at(database, BLOCK_BYTES_AT)?;
    Ok(match BLOCK_SIZES.contains(&bytes) {
        true => bytes,
        false => OLD_BLOCK_BYTES,
    })
}

fn word_at(file: &File, at: u64) -> io::Result<u64> {
    let mut word = [0; size_of::<u64>()];
    file.read_exact_at(&mut word, at)?;
    Ok(u64::from_le_bytes(word))
}

/// The checksum that a block tells.
fn checksum_within(block: &[u8]) -> u64 {
    let word = block.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(word)
}

/// Whether the checksum that a block tells is its own.
fn is_whole(block: &[u8]) -> bool {
    let rest = block.get(size_of::<u64>()..);
    rest.is_some_and(|rest| checksum::of_bytes(rest) == checksum_within(block))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::engine::DEFAULT_STORAGE_VERSION;
    use crate::engine::ffi::Database;

    /// A database that is not open, with images of its metadata, and what its file is like.
    fn closed() -> (TempDir, PathBuf, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        // Older formats do not number their databases.
        let version = DEFAULT_STORAGE_VERSION.to_owned();
        let settings = [("storage_compatibility_version", version)];
        let database = Database::open(path.to_str().unwrap(), &settings).unwrap();
        let connection = database.connect().unwrap();
        let made = "CREATE TABLE t AS FROM range(9); CHECKPOINT";
        connection.execute(made).unwrap();
        let images = Images::of(&path).unwrap().unwrap();
        drop(images.keep(&connection, PATIENCE).unwrap());
        drop((connection, database, images));
        let bytes = std::fs::read(&path).unwrap();
        (directory, path, bytes)
    }

    fn contents_of(path: &Path) -> Contents {
        let images = File::open(images_path(path)).unwrap();
        Contents::read(&images).unwrap().unwrap()
    }

    /// Damages the last page of the first block of which there is an image.
    fn damage(path: &Path) -> Vec<u8> {
        let contents = contents_of(path);
        let end = contents.place(contents.blocks[0].block + 1);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        // One word, for equal ones cancel each other out in a checksum.
        file.write_all_at(&[7; 8], end - 4096).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_block_that_is_not_whole_is_put_back() {
        let (_directory, path, before) = closed();
        assert!(damage(&path) != before);
        mend(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == before);
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let count = texts::<1>(
            &database.connect().unwrap(),
            "SELECT count(*)::VARCHAR FROM t",
        );
        assert_eq!(count.unwrap(), [["9"]]);
    }

    #[test]
    fn nothing_is_put_back_once_there_was_another_checkpoint() {
        let (_directory, path, _) = closed();
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute("INSERT INTO t VALUES (1); CHECKPOINT")
            .unwrap();
        drop((connection, database));
        let damaged = damage(&path);
        mend(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == damaged);
    }

    #[test]
    fn nothing_is_put_back_from_images_that_are_another_databases_or_not_whole() {
        let (_directory, path, _) = closed();
        let (_other_directory, other, _) = closed();
        let damaged = damage(&path);
        let own = std::fs::read(images_path(&path)).unwrap();
        let mut changed = own.clone();
        *changed.last_mut().unwrap() ^= 1;
        let others = std::fs::read(images_path(&other)).unwrap();
        for images in [
            others,
            own[..own.len() - 1].to_vec(),
            own[..20].to_vec(),
            Vec::new(),
            changed,
        ] {
            std::fs::write(images_path(&path), images).unwrap();
            mend(&path).unwrap();
            assert!(std::fs::read(&path).unwrap() == damaged);
        }
        std::fs::write(images_path(&path), own).unwrap();
        mend(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() != damaged);
    }
}
