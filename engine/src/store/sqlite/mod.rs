//! SQLite: one file a project folder, WAL, `synchronous=FULL`, readable by its owner only.
//!
//! A handle either writes (`open`: migrates, checks the whole file, and is the only one that may
//! write once it has acquired) or reads (`read`: changes nothing, not even a side file, and needs no
//! lock). `rows` reads and checks, `write` writes; what makes damage visible is in `sum` and `seen`.
//! SQLite works on the thread that asks, which waits for the disk.

mod migrations;
mod open;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId};
use rusqlite::{Connection, Error, ffi};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::decisions::DecisionBox;
use super::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use super::holder::Holder;
use super::{AcquireError, Store, StoreError};
use open::Fingerprint;
use rows::Rows;
use write::Writer;

use crate::run::GateDecision;

/// A write that takes less keeps other tasks of its thread waiting; to let them go on elsewhere would
/// take as long.
const QUICK: Duration = Duration::from_millis(1);

/// The store of one project.
pub(crate) struct SqliteStore {
    path: PathBuf,
    state: Mutex<State>,
    /// Whether the last write was; so the next one probably is too.
    is_quick: AtomicBool,
}

struct State {
    /// `None` once closed.
    connection: Option<Connection>,
    access: Access,
    /// Whether there are heads: not in a store of the first version that is only read.
    headed: bool,
}

enum Access {
    Write(Box<Writer>),
    /// `Some`: opened as a file that nobody writes to, and what it looked like then.
    Read(Option<Fingerprint>),
}

impl State {
    fn rows<'a>(&'a mut self, path: &'a Path) -> Result<Rows<'a>, StoreError> {
        let headed = self.headed;
        let connection = self.connection.as_mut().ok_or_else(|| closed("read the state"))?;
        Ok(Rows { path, connection, headed })
    }

    /// Whether a writer came while the file was read as one that nobody writes to, so that what was
    /// read counts for nothing. Then it is read as a living one from now on.
    fn overtaken(&mut self, path: &Path) -> Result<bool, StoreError> {
        let Access::Read(Some(before)) = &self.access else { return Ok(false) };
        if Fingerprint::of(path).is_ok_and(|now| now == *before) {
            return Ok(false);
        }
        self.connection = Some(open::connect(path, open::Mode::ReadLive)?);
        self.access = Access::Read(None);
        Ok(true)
    }

    fn writer(&mut self) -> Result<(&mut Connection, &mut Writer), StoreError> {
        match (&mut self.connection, &mut self.access) {
            (Some(connection), Access::Write(writer)) => Ok((connection, writer)),
            _ => Err(closed("write to the state")),
        }
    }
}

fn closed(operation: &'static str) -> StoreError {
    StoreError::Failed { operation, source: "it is not open for that".into() }
}

/// Does `work`, which may wait for the disk; other tasks of the runtime go on meanwhile.
fn apart<T>(work: impl FnOnce() -> T) -> T {
    let others = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if others { tokio::task::block_in_place(work) } else { work() }
}

impl SqliteStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic in the middle of a write the writer has lost its right, and writes no more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_rows<T>(&self, read: impl Fn(&mut Rows<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        apart(|| {
            let mut state = self.lock();
            let result = read(&mut state.rows(&self.path)?);
            if state.overtaken(&self.path)? { read(&mut state.rows(&self.path)?) } else { result }
        })
    }

    fn write_rows<T>(
        &self,
        write: impl FnOnce(&mut Writer, &mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let work = || {
            let mut state = self.lock();
            let (connection, writer) = state.writer()?;
            write(writer, connection)
        };
        let began = Instant::now();
        let result = if self.is_quick.load(Ordering::Relaxed) { work() } else { apart(work) };
        self.is_quick.store(began.elapsed() < QUICK, Ordering::Relaxed);
        result
    }

    /// See [`Store::close`].
    pub(crate) fn close_now(&self) {
        let mut state = self.lock();
        let Some(connection) = state.connection.take() else { return };
        if let Access::Write(writer) = &state.access {
            writer.settle(&connection);
        }
        // Everything is committed; a close that fails loses nothing.
        let _ = connection.close();
    }

    /// Beside the file: whoever decides must not wait for the one writer that it has.
    fn decisions(&self, run: &RunId) -> DecisionBox {
        DecisionBox::new(self.path.parent().unwrap_or(Path::new("")), run)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn acquire(&self, _holder: &Holder) -> Result<(), AcquireError> {
        // Who holds it is said by the lock file; the epoch shuts out whoever wrote before.
        Ok(self.write_rows(|writer, connection| writer.acquire(&self.path, connection))?)
    }

    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.write_rows(|writer, connection| writer.create_run(&self.path, connection, run))
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write_rows(|writer, connection| writer.append(&self.path, connection, run, batch))
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        self.read_rows(|rows| rows.run(id))
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.read_rows(|rows| rows.runs())
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        self.read_rows(|rows| rows.facts(run))
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        self.read_rows(|rows| rows.places(run))
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        self.read_rows(|rows| rows.logs(run, node, after, limit))
    }

    async fn decide(&self, run: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError> {
        let put = self.decisions(run).put(decision);
        put.map_err(|error| StoreError::Failed { operation: "store the decision", source: error.into() })
    }

    async fn decision(&self, run: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError> {
        let got = self.decisions(run).get(key);
        got.map_err(|error| StoreError::Failed { operation: "read the decision", source: error.into() })
    }

    async fn close(&self) {
        apart(|| self.close_now());
    }
}

/// An error of SQLite in the store's words.
fn failed(path: &Path, operation: &'static str, error: Error) -> StoreError {
    match damage(&error) {
        Some(reason) => corrupt(path, reason),
        None => StoreError::Failed { operation, source: Box::new(error) },
    }
}

fn corrupt(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), reason: reason.into() }
}

/// What SQLite says when the file itself is wrong. Our statements are fixed, so one that does not fit
/// the file (no such column) is the file's fault too, and so is a value of another type.
fn damage(error: &Error) -> Option<String> {
    let (code, message) = match error {
        Error::SqliteFailure(error, message) => (error.extended_code, message.as_deref()),
        Error::SqlInputError { error, msg, .. } => (error.extended_code, Some(msg.as_str())),
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnIndex(_)
        | Error::InvalidColumnName(_)
        | Error::InvalidColumnType(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => return Some(error.to_string()),
        _ => return None,
    };
    let of_the_file = [
        ffi::SQLITE_ERROR,
        ffi::SQLITE_CORRUPT,
        ffi::SQLITE_CONSTRAINT,
        ffi::SQLITE_MISMATCH,
        ffi::SQLITE_FORMAT,
        ffi::SQLITE_NOTADB,
    ];
    let damaged = of_the_file.contains(&(code & 0xff))
        || matches!(code, ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS);
    damaged.then(|| message.map_or_else(|| ffi::code_to_str(code).to_owned(), ToOwned::to_owned))
}
