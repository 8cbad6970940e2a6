//! Opening: for writing (migrations, the check of the whole file) and for reading (neither).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::ConnectOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::Mutex;

use super::rows::Rows;
use super::write::{self, Writer};
use super::{Access, SqliteStore, State, corrupt, failed};
use crate::store::StoreError;
use crate::store::seen::{Seen, SeenFile};
use crate::store::sum::Whole;
use crate::store::version;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a writer waits for a reader: only the checkpoint at its end can be held up by one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows that SQLite's thread may be ahead of the reader's.
const ROWS_AHEAD: usize = 1_024;

/// Migrations before there were heads.
const HEADLESS: usize = 1;

/// The first generation: a store that is empty, or was taken over from the first version.
pub(super) const FIRST_GENERATION: u64 = 1;

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
        let mut connection = connect(path, options(path, Mode::Write)).await?;
        let whole = prepare(path, &mut connection, seen.is_some()).await?;
        check_seen(path, seen.as_ref(), &whole)?;
        let seen = SeenFile::open(path, &whole).map_err(|source| open_error(path, source))?;
        Ok(Self::with(path, connection, Access::Write(Box::new(Writer::new(Some(seen)))), true))
    }

    /// Opens the store on the simulated disk of the VFS `vfs`, or makes it there, and takes the right
    /// to write. That disk has no shared memory: the one connection keeps the index of the WAL on its
    /// heap.
    #[cfg(test)]
    pub(crate) async fn open_simulated(path: &Path, vfs: &'static str) -> Result<Self, StoreError> {
        let options = options(path, Mode::Write)
            .vfs(vfs)
            .create_if_missing(true)
            .locking_mode(sqlx::sqlite::SqliteLockingMode::Exclusive);
        let mut connection = connect(path, options).await?;
        prepare(path, &mut connection, false).await?;
        let mut writer = Writer::new(None);
        writer.acquire(path, &mut connection).await?;
        Ok(Self::with(path, connection, Access::Write(Box::new(writer)), true))
    }

    fn with(path: &Path, connection: SqliteConnection, access: Access, headed: bool) -> Self {
        let state = State { connection: Some(connection), access, headed };
        Self { path: path.to_owned(), state: Mutex::new(state) }
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
        let result = Self::read_as(path, before.clone()).await;
        // A writer that came meanwhile may have changed the file under the reader's hands.
        let overtaken = before.is_some() && Fingerprint::of(path).ok() != before;
        if overtaken { Self::read_as(path, None).await } else { result }
    }

    async fn read_as(path: &Path, before: Option<Fingerprint>) -> Result<Option<Self>, StoreError> {
        // First: a writer says what it has committed after it has.
        let seen = seen(path)?;
        let mode = if before.is_some() { Mode::ReadWhole } else { Mode::ReadLive };
        let mut connection = connect(path, options(path, mode)).await?;
        let applied = applied(path, &mut connection).await?;
        let mut rows = Rows { path, connection: &mut connection, headed: applied > HEADLESS };
        let whole = if rows.headed { rows.whole().await? } else { None };
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
async fn prepare(path: &Path, connection: &mut SqliteConnection, seen: bool) -> Result<Whole, StoreError> {
    check_file(path, connection).await?;
    applied(path, connection).await?;
    migrate(path, connection).await?;
    match (Rows { path, connection, headed: true }).whole().await? {
        Some(whole) => Ok(whole),
        None if seen => Err(corrupt(path, "its own row is lost")),
        None => write::adopt(path, connection).await,
    }
}

pub(super) fn options(path: &Path, mode: Mode) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROWS_AHEAD)
        // A head says which runs there are. SQLite would read a run's whole definition for each fact.
        .foreign_keys(false);
    match mode {
        Mode::Write => options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full),
        Mode::ReadLive => options.read_only(true),
        Mode::ReadWhole => options.read_only(true).immutable(true),
    }
}

pub(super) async fn connect(
    path: &Path,
    options: SqliteConnectOptions,
) -> Result<SqliteConnection, StoreError> {
    options.connect().await.map_err(|error| match super::damage(&error) {
        Some(reason) => corrupt(path, reason),
        None => open_error(path, error),
    })
}

/// Reads the whole file: a writer must not build on a damaged one. Readers check what they read.
async fn check_file(path: &Path, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let answer: String = sqlx::query_scalar("pragma quick_check(1)")
        .fetch_one(connection)
        .await
        .map_err(|error| failed(path, "check the state", error))?;
    if answer == "ok" { Ok(()) } else { Err(corrupt(path, answer)) }
}

/// How many migrations the file has had.
async fn applied(path: &Path, connection: &mut SqliteConnection) -> Result<usize, StoreError> {
    let read = |error| failed(path, "read the version of the state", error);
    let tables: Vec<String> = sqlx::query_scalar("select name from sqlite_schema where type = 'table'")
        .fetch_all(&mut *connection)
        .await
        .map_err(read)?;
    if tables.is_empty() {
        return Ok(0);
    }
    let rows: Vec<version::Row> = sqlx::query_as(version::READ).fetch_all(connection).await.map_err(read)?;
    version::applied(path, &MIGRATIONS, &rows)
}

async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            failed(path, "prepare the state", error)
        }
        error => open_error(path, error),
    })
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
pub(super) async fn fold_wal(connection: &mut SqliteConnection) {
    // What stays in the WAL is committed all the same.
    let _ = sqlx::query("pragma wal_checkpoint(truncate)").execute(connection).await;
}
