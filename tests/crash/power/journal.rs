//! What a server did to its files, and what of it a power cut may leave.
//!
//! The shim writes the journal. The model is ext4 as it is mounted by default, with its data ordered:
//! - What was written before a sync of its file that has ended is there. Of what was written later each part may be there or
//!   not, and a write may be torn at a sector; in a file that a later write made longer, what is missing before is zeros.
//! - Names and lengths are metadata, of which the file system has one journal: what was made, cut, renamed and removed is
//!   there in the order in which it was done, up to some moment. A sync of any file commits that journal up to the last
//!   change of the file itself. No sync of the directory is needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use tempfile::TempDir;

use crate::shim::shim;

/// A disk writes all of a sector or nothing.
const SECTOR: usize = 512;

/// The fields of an operation in the journal, before its payload: five numbers of eight bytes.
const HEAD_BYTES: usize = 40;

/// The journal of one server.
pub(super) struct Journal {
    /// What was there when the server started.
    before: Files,
    place: TempDir,
}

/// What is in a directory, but for what is below it: names of files, and what is in these by their number.
#[derive(Clone, Default)]
struct Files {
    names: BTreeMap<String, u64>,
    contents: HashMap<u64, Vec<u8>>,
}

struct Operation {
    file: u64,
    what: What,
}

enum What {
    Make(String),
    Truncate(usize),
    Rename(String, String),
    Unlink(String),
    Write { at: usize, bytes: Vec<u8> },
    SyncBegins(u64),
    SyncEnds(u64),
}

/// What is surely on the disk.
#[derive(Default)]
struct Synced {
    /// Of names and lengths, what was done before this operation.
    names: usize,
    /// Of each file, what was written before this operation.
    writes: HashMap<u64, usize>,
}

/// What becomes of the writes to a file that are not synced.
enum Fate {
    /// So many are there, and a part of the next one.
    First(usize),
    /// None is there, or none any more.
    Lost,
    /// Each for itself is there, or torn, or not there.
    Any,
}

impl Journal {
    /// The journal of a server that is about to be started in a directory.
    pub(super) fn of(directory: &Path) -> Self {
        Self {
            before: Files::of(directory),
            place: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("journal")
    }

    /// The environment of that server.
    pub(super) fn environment(&self, directory: &Path) -> [(&'static str, OsString); 3] {
        [
            ("LD_PRELOAD", shim().into()),
            ("DUCK_JOURNAL", self.path().into()),
            ("DUCK_JOURNALED", directory.into()),
        ]
    }

    fn operations(&self) -> Vec<Operation> {
        let journal = std::fs::read(self.path()).expect("a journal");
        let mut rest = &journal[..];
        // A kill may have come in the middle of the last one.
        let operations = std::iter::from_fn(|| {
            let (operation, after) = Operation::take(rest)?;
            rest = after;
            Some(operation)
        });
        operations.collect()
    }

    /// A directory as a power cut may leave it at the moment of the last operation.
    pub(super) fn cut(&self, dice: &mut Xoshiro256PlusPlus) -> TempDir {
        let operations = self.operations();
        let synced = Synced::after(&operations);
        let late_names = operations.iter().skip(synced.names);
        let late_names = late_names.filter(|late| late.is_of_names()).count();
        let mut names_left = dice.random_range(0..=late_names);
        let mut fates = synced.fates(&operations, dice);
        let mut lost = HashSet::new();
        let mut files = self.before.clone();
        for (index, operation) in operations.iter().enumerate() {
            let file = operation.file;
            if operation.is_of_names() {
                if index >= synced.names {
                    if names_left == 0 {
                        lost.insert(file);
                        continue;
                    }
                    names_left -= 1;
                }
                files.apply(operation);
            } else if let What::Write { at, bytes } = &operation.what
                // Where a file begins or ends elsewhere than it seemed to, its blocks are others.
                && !lost.contains(&file)
            {
                let fate = fates.get_mut(&file);
                let fate = fate.filter(|_| !synced.has_write(index, file));
                let (from, to) = fate.map_or((0, bytes.len()), |fate| fate.of(*at, bytes, dice));
                files.write(file, at + from, &bytes[from..to]);
            }
        }
        files.put_down()
    }

    /// Asserts that it has all that was done to the files of the directory.
    pub(super) fn assert_complete(&self, directory: &Path) {
        let mut files = self.before.clone();
        for operation in self.operations() {
            files.apply(&operation);
        }
        let (journaled, there) = (files.by_name(), Files::of(directory));
        let there = there.by_name();
        let names = |files: &BTreeMap<&str, &[u8]>| {
            let sizes = files.iter().map(|(name, bytes)| (*name, bytes.len()));
            format!("{:?}", sizes.collect::<Vec<_>>())
        };
        let (left, right) = (names(&journaled), names(&there));
        assert!(journaled == there, "{left} by the journal, but {right}");
    }
}

impl Files {
    fn of(directory: &Path) -> Self {
        let mut files = Self::default();
        for entry in directory.read_dir().expect("it is there") {
            let entry = entry.expect("a file");
            let metadata = entry.metadata().expect("a file");
            if metadata.is_file() {
                let name = entry.file_name().into_string().expect("a plain name");
                let bytes = std::fs::read(entry.path()).expect("a good disk");
                files.names.insert(name, metadata.ino());
                files.contents.insert(metadata.ino(), bytes);
            }
        }
        files
    }

    fn by_name(&self) -> BTreeMap<&str, &[u8]> {
        let files = self.names.iter();
        let files = files.map(|(name, file)| (name.as_str(), self.contents[file].as_slice()));
        files.collect()
    }

    fn put_down(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, bytes) in self.by_name() {
            std::fs::write(directory.path().join(name), bytes).expect("a good disk");
        }
        directory
    }

    fn apply(&mut self, operation: &Operation) {
        let file = operation.file;
        match &operation.what {
            What::Make(name) => {
                self.names.insert(name.clone(), file);
                self.contents.insert(file, Vec::new());
            }
            What::Truncate(bytes) => self.contents.entry(file).or_default().resize(*bytes, 0),
            What::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            What::Unlink(name) => {
                self.names.remove(name);
            }
            What::Write { at, bytes } => self.write(file, *at, bytes),
            What::SyncBegins(_) | What::SyncEnds(_) => {}
        }
    }

    fn write(&mut self, file: u64, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let content = self.contents.entry(file).or_default();
        let end = at + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at..end].copy_from_slice(bytes);
    }
}

impl Operation {
    /// Takes one off a journal; `None` where it is not whole.
    fn take(journal: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = journal.split_at_checked(HEAD_BYTES)?;
        let field = |index: usize| {
            let bytes = &head[8 * index..8 * (index + 1)];
            u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
        };
        let size = |index| usize::try_from(field(index)).expect("64 bits");
        let (payload, rest) = rest.split_at_checked(size(4))?;
        let text = || String::from_utf8(payload.to_vec()).expect("a plain name");
        let what = match u8::try_from(field(0)).map(char::from) {
            Ok('m') => What::Make(text()),
            Ok('t') => What::Truncate(size(2)),
            Ok('r') => {
                let names = text();
                let (from, to) = names.split_once('/').expect("two names");
                What::Rename(from.to_owned(), to.to_owned())
            }
            Ok('u') => What::Unlink(text()),
            Ok('w') => What::Write {
                at: size(2),
                bytes: payload.to_vec(),
            },
            // A hole reads as zeros.
            Ok('p') => What::Write {
                at: size(2),
                bytes: vec![0; size(3)],
            },
            Ok('b') => What::SyncBegins(field(2)),
            Ok('e') => What::SyncEnds(field(2)),
            other => panic!("no kind of operation: {other:?}"),
        };
        let file = field(1);
        Some((Self { file, what }, rest))
    }

    fn is_of_names(&self) -> bool {
        match self.what {
            What::Make(_) | What::Truncate(_) | What::Rename(..) | What::Unlink(_) => true,
            What::Write { .. } | What::SyncBegins(_) | What::SyncEnds(_) => false,
        }
    }
}

impl Synced {
    fn after(operations: &[Operation]) -> Self {
        let mut synced = Self::default();
        // Of each file the operation behind its last change, and of each sync that has begun its place and that operation.
        let mut changed = HashMap::<u64, usize>::new();
        let mut begun = HashMap::<u64, (usize, usize)>::new();
        for (index, operation) in operations.iter().enumerate() {
            let file = operation.file;
            match operation.what {
                What::SyncBegins(sync) => {
                    let names = changed.get(&file).copied().unwrap_or(0);
                    begun.insert(sync, (index, names));
                }
                What::SyncEnds(sync) => {
                    let (index, names) = begun[&sync];
                    let writes = synced.writes.entry(file).or_default();
                    *writes = index.max(*writes);
                    synced.names = names.max(synced.names);
                }
                _ => {
                    changed.insert(file, index + 1);
                }
            }
        }
        synced
    }

    /// Whether a write to a file is synced.
    fn has_write(&self, index: usize, file: u64) -> bool {
        self.writes.get(&file).is_some_and(|end| index < *end)
    }

    /// Throws dice for each file of which writes are not synced.
    fn fates(
        &self,
        operations: &[Operation],
        dice: &mut Xoshiro256PlusPlus,
    ) -> BTreeMap<u64, Fate> {
        let mut late = BTreeMap::<_, usize>::new();
        for (index, operation) in operations.iter().enumerate() {
            if matches!(operation.what, What::Write { .. })
                && !self.has_write(index, operation.file)
            {
                *late.entry(operation.file).or_default() += 1;
            }
        }
        let fates = late.into_iter().map(|(file, writes)| {
            let fate = match dice.random_range(0..4) {
                0 => Fate::First(writes),
                1 => Fate::First(dice.random_range(0..writes)),
                _ => Fate::Any,
            };
            (file, fate)
        });
        fates.collect()
    }
}

impl Fate {
    /// From where and to where the next write is there.
    fn of(&mut self, at: usize, bytes: &[u8], dice: &mut Xoshiro256PlusPlus) -> (usize, usize) {
        let torn = |dice: &mut Xoshiro256PlusPlus| {
            let sectors = bytes.len().div_ceil(SECTOR);
            let end = (at / SECTOR + dice.random_range(0..=sectors)) * SECTOR;
            end.clamp(at, at + bytes.len()) - at
        };
        match self {
            Self::Lost => (0, 0),
            Self::First(0) => {
                *self = Self::Lost;
                (0, torn(dice))
            }
            Self::First(writes) => {
                *writes -= 1;
                (0, bytes.len())
            }
            Self::Any => match dice.random_range(0..4) {
                0 => (0, bytes.len()),
                1 => (0, 0),
                2 => (0, torn(dice)),
                _ => (torn(dice), bytes.len()),
            },
        }
    }
}
