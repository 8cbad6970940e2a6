//! `state.seen`: how far the store was, kept outside of it.
//!
//! SQLite drops the end of a truncated or missing `-wal` file in silence, and an old copy of
//! `state.db` is a whole database. Neither can be told from the file alone. So the store's
//! generation is also written here after each commit, and a store that is behind it is refused.
//!
//! It is written without waiting for the disk, so a commit costs nothing more: after a power cut this
//! file may be behind the store, which is harmless, and never before it. Two records are written in
//! turn, a disk block apart, so that one is always whole.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::sum::{Sum, Whole};

/// Distance of the two records: no disk tears two blocks at once.
const SLOT_BYTES: u64 = 4096;

/// How often a reader looks again when the writer is in the middle of both records: each takes it a
/// microsecond.
const READ_TRIES: u32 = 8;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub id: String,
    pub generation: u64,
    /// Checksum of the store's own row at that generation.
    sum: String,
}

/// Why a store is not the one that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Unreadable,
    Other,
    Behind { by: u64 },
    Different,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable => f.write_str("state.seen beside it can't be read"),
            Self::Other => f.write_str("state.seen beside it belongs to another store"),
            Self::Behind { by } => write!(
                f,
                "its last {by} writes are lost: state.db or state.db-wal is an older copy, or was cut off; if the \
                 folder was copied while a run was at work, copy it again: state.seen first, then state.db, \
                 then state.db-wal"
            ),
            Self::Different => f.write_str("its last write is not the one that was stored"),
        }
    }
}

impl Seen {
    fn of(whole: &Whole) -> Self {
        Self { id: whole.id.clone(), generation: whole.generation, sum: hex::encode(whole.sum().bytes()) }
    }

    /// What the file beside `store` says; `None` if there is none.
    pub(crate) fn read(store: &Path) -> std::io::Result<Option<Result<Self, Mismatch>>> {
        let mut file = match File::open(path(store)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Made, and its maker died or found the disk full before its first word.
        if file.metadata()?.len() == 0 {
            return Ok(None);
        }
        for _ in 0..READ_TRIES {
            let mut newest: Option<Self> = None;
            for slot in 0..2 {
                file.seek(SeekFrom::Start(slot * SLOT_BYTES))?;
                let mut bytes = Vec::new();
                (&mut file).take(SLOT_BYTES).read_to_end(&mut bytes)?;
                let found = Self::parse(&bytes);
                if found.as_ref().is_some_and(|f| newest.as_ref().is_none_or(|n| n.generation < f.generation))
                {
                    newest = found;
                }
            }
            if let Some(newest) = newest {
                return Ok(Some(Ok(newest)));
            }
        }
        Ok(Some(Err(Mismatch::Unreadable)))
    }

    /// Whether `whole` is at least as far as was seen.
    pub(crate) fn check(&self, whole: &Whole) -> Result<(), Mismatch> {
        let now = Self::of(whole);
        match () {
            () if self.id != now.id => Err(Mismatch::Other),
            () if self.generation > now.generation => {
                Err(Mismatch::Behind { by: self.generation - now.generation })
            }
            () if self.generation == now.generation && self.sum != now.sum => Err(Mismatch::Different),
            () => Ok(()),
        }
    }

    fn parse(slot: &[u8]) -> Option<Self> {
        let line = slot.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let (said, check) = line.rsplit_once(' ')?;
        if check_of(said) != check {
            return None;
        }
        let mut words = said.split(' ');
        let (id, generation, sum) = (words.next()?, words.next()?, words.next()?);
        Some(Self { id: id.to_owned(), generation: generation.parse().ok()?, sum: sum.to_owned() })
    }

    fn line(&self) -> String {
        // Fixed width: a shorter record never leaves the end of a longer one behind.
        let said = format!("{} {:020} {}", self.id, self.generation, self.sum);
        format!("{said} {}\n", check_of(&said))
    }
}

fn check_of(said: &str) -> String {
    hex::encode(Sum::over(&[b"seen", said.as_bytes()]).bytes())
}

fn path(store: &Path) -> PathBuf {
    store.with_extension("seen")
}

/// The file, open for writing.
#[derive(Debug)]
pub(crate) struct SeenFile {
    file: File,
}

impl SeenFile {
    /// Opens or makes the file beside `store`, says `whole` in it, and waits for the disk.
    pub(crate) fn open(store: &Path, whole: &Whole) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut opened = Self { file: options.open(path(store))? };
        opened.write(whole)?;
        opened.sync()?;
        if let Some(dir) = store.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(opened)
    }

    /// Says `whole`, which is committed.
    pub(crate) fn write(&mut self, whole: &Whole) -> std::io::Result<()> {
        let at = whole.generation % 2 * SLOT_BYTES;
        self.file.write_all_at(Seen::of(whole).line().as_bytes(), at)
    }

    /// Waits until it is on the disk.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(generation: u64) -> Whole {
        Whole { id: "0123456789abcdef".to_owned(), epoch: 1, generation, heads_sum: Sum::default() }
    }

    #[test]
    fn a_store_behind_or_beside_what_was_seen_is_told_and_one_before_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("state.db");
        assert_eq!(Seen::read(&store).unwrap(), None);
        let mut file = SeenFile::open(&store, &whole(1)).unwrap();
        (2..=7).for_each(|generation| file.write(&whole(generation)).unwrap());
        let seen = Seen::read(&store).unwrap().unwrap().unwrap();
        assert_eq!(seen.check(&whole(7)), Ok(()));
        assert_eq!(seen.check(&whole(8)), Ok(()), "killed between its commit and this file");
        assert_eq!(seen.check(&whole(4)), Err(Mismatch::Behind { by: 3 }));
        assert_eq!(seen.check(&Whole { epoch: 2, ..whole(7) }), Err(Mismatch::Different));
        assert_eq!(seen.check(&Whole { id: "f".repeat(16), ..whole(9) }), Err(Mismatch::Other));
    }

    #[test]
    fn a_torn_record_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("state.db");
        let mut file = SeenFile::open(&store, &whole(6)).unwrap();
        file.write(&whole(7)).unwrap();
        let whole_file = std::fs::read(path(&store)).unwrap();
        for at in (0..whole_file.len()).filter(|at| whole_file[*at] != 0) {
            let mut torn = whole_file.clone();
            torn[at] ^= 1;
            std::fs::write(path(&store), torn).unwrap();
            let seen = Seen::read(&store).unwrap().unwrap().unwrap();
            assert!(matches!(seen.generation, 6 | 7));
        }
        std::fs::write(path(&store), b"nothing").unwrap();
        assert_eq!(Seen::read(&store).unwrap(), Some(Err(Mismatch::Unreadable)));
    }
}
