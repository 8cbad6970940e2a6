//! Opening: for writing (migrations, the check of the whole file) and for reading (neither).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, ffi};

use super::migrations::{applied, migrate};
use super::rows::Rows;
use super::write::{self, Writer};
use super::{Access, SqliteStore, State, apart, corrupt, failed};
use crate::store::StoreError;
use crate::store::seen::{Seen, SeenFile};
use crate::store::sum::Whole;

/// How long a writer waits for a reader: only the checkpoint at its end can be held up by one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements that are kept prepared: more than there are.
const PREPARED: usize = 32;

/// Migrations before there were heads.
const HEADLESS: usize = 1;

/// The first generation: a store that is empty, or was taken over from the first version.
pub(super) const FIRST_GENERATION: u64 = 1;

/// What stands for itself in the path of a URI.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Write,
    /// Beside a writer, or after one that was killed: through the WAL.
    ReadLive,
    /// Everything is in the one file: no side file is made, so a read-only folder will do.
    ReadWhole,
}

/// What a file looks like from outside, to see that nobody wrote to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    bytes: u64,
    changed: SystemTime,
    /// A writer leaves the file itself alone until a checkpoint.
    wal_bytes: u64,
}

impl Fingerprint {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let data = std::fs::metadata(path)?;
        Ok(Self { bytes: data.len(), changed: data.modified()?, wal_bytes: wal_bytes(path) })
    }
}

impl SqliteStore {
    /// Opens the store to write to it, or makes it. Only for the holder of the lock.
    ///
    /// # Errors
    /// When it can't be made, is damaged, or is newer than this program.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let seen = seen(path)?;
        if seen.is_some() && !path.try_exists().map_err(|e| open_error(path, e))? {
            return Err(gone(path));
        }
        make_private(path).map_err(|source| open_error(path, source))?;
        apart(|| {
            let mut connection = connect(path, Mode::Write)?;
            let whole = prepare(path, &mut connection, seen.is_some())?;
            check_seen(path, seen.as_ref(), &whole)?;
            let seen = SeenFile::open(path, &whole).map_err(|source| open_error(path, source))?;
            Ok(Self::with(path, connection, Access::Write(Box::new(Writer::new(Some(seen)))), true))
        })
    }

    /// Opens the store on the simulated disk of the VFS `vfs`, or makes it there, and takes the right
    /// to write. That disk has no shared memory: the one connection keeps the index of the WAL on its
    /// heap.
    #[cfg(test)]
    pub(crate) fn open_simulated(path: &Path, vfs: &str) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs);
        let mut connection = connection.map_err(|error| connect_error(path, error))?;
        let alone = connection.pragma_update(None, "locking_mode", "exclusive");
        alone.and_then(|()| set_up(&connection, Mode::Write)).map_err(|error| connect_error(path, error))?;
        prepare(path, &mut connection, false)?;
        let mut writer = Writer::new(None);
        writer.acquire(path, &mut connection)?;
        Ok(Self::with(path, connection, Access::Write(Box::new(writer)), true))
    }

    fn with(path: &Path, connection: Connection, access: Access, headed: bool) -> Self {
        let state = State { connection: Some(connection), access, headed };
        Self { path: path.to_owned(), state: Mutex::new(state), is_quick: AtomicBool::new(false) }
    }

    /// Opens the store to read it, if there is one. Changes nothing and needs no lock.
    ///
    /// # Errors
    /// When it is damaged or newer than this program.
    pub(crate) async fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let before = match path.try_exists() {
            Ok(true) if wal_bytes(path) == 0 => Fingerprint::of(path).ok(),
            Ok(true) => None,
            Ok(false) if seen(path)?.is_some() => return Err(gone(path)),
            Ok(false) => return Ok(None),
            Err(source) => return Err(open_error(path, source)),
        };
        let result = apart(|| Self::read_as(path, before.clone()));
        // A writer that came meanwhile may have changed the file under the reader's hands.
        let overtaken = before.is_some() && Fingerprint::of(path).ok() != before;
        if overtaken { apart(|| Self::read_as(path, None)) } else { result }
    }

    fn read_as(path: &Path, before: Option<Fingerprint>) -> Result<Option<Self>, StoreError> {
        // First: a writer says what it has committed after it has.
        let seen = seen(path)?;
        let mode = if before.is_some() { Mode::ReadWhole } else { Mode::ReadLive };
        let mut connection = connect(path, mode)?;
        let applied = applied(path, &connection)?;
        let mut rows = Rows { path, connection: &mut connection, headed: applied > HEADLESS };
        let whole = if rows.headed { rows.whole()? } else { None };
        match &whole {
            Some(whole) => check_seen(path, seen.as_ref(), whole)?,
            None if seen.is_some() => return Err(corrupt(path, "its own row is lost")),
            // Killed while it was made.
            None if applied == 0 => return Ok(None),
            None => {}
        }
        Ok(Some(Self::with(path, connection, Access::Read(before), whole.is_some())))
    }
}

/// Checks and migrates what a writer is about to build on. `seen`: there has been one before.
fn prepare(path: &Path, connection: &mut Connection, seen: bool) -> Result<Whole, StoreError> {
    check_file(path, connection)?;
    let applied = applied(path, connection)?;
    migrate(path, connection, applied)?;
    match (Rows { path, connection, headed: true }).whole()? {
        Some(whole) => Ok(whole),
        None if seen => Err(corrupt(path, "its own row is lost")),
        None => write::adopt(path, connection),
    }
}

pub(super) fn connect(path: &Path, mode: Mode) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
        | match mode {
            Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Mode::ReadLive => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Mode::ReadWhole => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        };
    let opened = match mode {
        Mode::Write | Mode::ReadLive => Connection::open_with_flags(path, flags),
        Mode::ReadWhole => Connection::open_with_flags(immutable(path)?, flags),
    };
    opened
        .and_then(|connection| set_up(&connection, mode).map(|()| connection))
        .map_err(|error| connect_error(path, error))
}

/// The file as one that nobody writes to, as SQLite wants to be told.
fn immutable(path: &Path) -> Result<String, StoreError> {
    let absolute = std::path::absolute(path).map_err(|error| open_error(path, error))?;
    Ok(format!("file://{}?immutable=1", percent_encode(absolute.as_os_str().as_bytes(), PATH)))
}

fn set_up(connection: &Connection, mode: Mode) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(PREPARED);
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A head says which runs there are. SQLite would read a run's whole definition for each fact.
    connection.pragma_update(None, "foreign_keys", false)?;
    if mode == Mode::Write {
        // The answer comes before what it says is written: an error of the disk is only told after it.
        let mut wal = connection.prepare("pragma journal_mode = wal")?;
        let modes = wal.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        // In any other mode the last commit may not survive a power loss.
        if modes != ["wal"] {
            let no_wal = Some("it can't be written through a WAL".to_owned());
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), no_wal));
        }
        connection.pragma_update(None, "synchronous", "full")?;
    }
    Ok(())
}

fn connect_error(path: &Path, error: rusqlite::Error) -> StoreError {
    match super::damage(&error) {
        Some(reason) => corrupt(path, reason),
        None => open_error(path, error),
    }
}

/// Reads the whole file: a writer must not build on a damaged one. Readers check what they read.
fn check_file(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let answer = connection.query_row("pragma quick_check(1)", [], |row| row.get::<_, String>(0));
    let answer = answer.map_err(|error| failed(path, "check the state", error))?;
    if answer == "ok" { Ok(()) } else { Err(corrupt(path, answer)) }
}

fn seen(path: &Path) -> Result<Option<Seen>, StoreError> {
    match Seen::read(path) {
        Ok(found) => found.transpose().map_err(|mismatch| corrupt(path, mismatch.to_string())),
        Err(source) => Err(open_error(path, source)),
    }
}

fn check_seen(path: &Path, seen: Option<&Seen>, whole: &Whole) -> Result<(), StoreError> {
    match seen {
        Some(seen) => seen.check(whole).map_err(|mismatch| corrupt(path, mismatch.to_string())),
        // Made, and killed before it was first seen.
        None if whole.generation <= FIRST_GENERATION => Ok(()),
        None => Err(corrupt(
            path,
            "state.seen is missing beside it, so nothing tells whether its last writes are there",
        )),
    }
}

fn gone(path: &Path) -> StoreError {
    corrupt(path, "it is gone, and state.seen beside it says that it was there")
}

/// Bytes in the WAL; 0 where there is none.
fn wal_bytes(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(PathBuf::from(wal)).map_or(0, |data| data.len())
}

fn open_error(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: Box::new(source) }
}

/// Makes the file with its final rights before SQLite writes the first byte; WAL files inherit them.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Gives a file back whole, as far as readers let it: see [`super::Store::close`].
pub(super) fn fold_wal(connection: &Connection) {
    // What stays in the WAL is committed all the same.
    let _ = connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()));
}
