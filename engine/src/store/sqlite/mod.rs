//! SQLite: one file a project folder, WAL, `synchronous=FULL`, readable by its owner only.
//!
//! A handle either writes (`open`: migrates, checks the whole file, and is the only one that may
//! write once it has acquired) or reads (`read`: changes nothing, not even a side file, and needs no
//! lock). `rows` reads and checks, `write` writes; what makes damage visible is in `sum` and `seen`.

mod open;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Error};
use tokio::sync::Mutex;

use super::decisions::DecisionBox;
use super::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use super::holder::Holder;
use super::{AcquireError, Store, StoreError};
use open::Fingerprint;
use rows::Rows;
use write::Writer;

use crate::run::GateDecision;

/// The store of one project.
pub(crate) struct SqliteStore {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// `None` once closed.
    connection: Option<SqliteConnection>,
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
    async fn overtaken(&mut self, path: &Path) -> Result<bool, StoreError> {
        let Access::Read(Some(before)) = &self.access else { return Ok(false) };
        if Fingerprint::of(path).is_ok_and(|now| now == *before) {
            return Ok(false);
        }
        self.connection = Some(open::connect(path, open::options(path, open::Mode::ReadLive)).await?);
        self.access = Access::Read(None);
        Ok(true)
    }

    fn writer(&mut self) -> Result<(&mut SqliteConnection, &mut Writer), StoreError> {
        match (&mut self.connection, &mut self.access) {
            (Some(connection), Access::Write(writer)) => Ok((connection, writer)),
            _ => Err(closed("write to the state")),
        }
    }
}

fn closed(operation: &'static str) -> StoreError {
    StoreError::Failed { operation, source: "it is not open for that".into() }
}

#[async_trait]
impl Store for SqliteStore {
    async fn acquire(&self, _holder: &Holder) -> Result<(), AcquireError> {
        // Who holds it is said by the lock file; the epoch shuts out whoever wrote before.
        let mut state = self.state.lock().await;
        let (connection, writer) = state.writer()?;
        Ok(writer.acquire(&self.path, connection).await?)
    }

    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let (connection, writer) = state.writer()?;
        writer.create_run(&self.path, connection, run).await
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        let (connection, writer) = state.writer()?;
        writer.append(&self.path, connection, run, batch).await
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let mut state = self.state.lock().await;
        let result = state.rows(&self.path)?.run(id).await;
        if state.overtaken(&self.path).await? { state.rows(&self.path)?.run(id).await } else { result }
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let mut state = self.state.lock().await;
        let result = state.rows(&self.path)?.runs().await;
        if state.overtaken(&self.path).await? { state.rows(&self.path)?.runs().await } else { result }
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let mut state = self.state.lock().await;
        let result = state.rows(&self.path)?.facts(run).await;
        if state.overtaken(&self.path).await? { state.rows(&self.path)?.facts(run).await } else { result }
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let mut state = self.state.lock().await;
        let result = state.rows(&self.path)?.places(run).await;
        if state.overtaken(&self.path).await? { state.rows(&self.path)?.places(run).await } else { result }
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let mut state = self.state.lock().await;
        let result = state.rows(&self.path)?.logs(run, node, after, limit).await;
        if state.overtaken(&self.path).await? {
            state.rows(&self.path)?.logs(run, node, after, limit).await
        } else {
            result
        }
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
        let mut state = self.state.lock().await;
        let Some(mut connection) = state.connection.take() else { return };
        if let Access::Write(writer) = &state.access {
            writer.settle(&mut connection).await;
        }
        // Everything is committed; a close that fails loses nothing.
        let _ = connection.close().await;
    }
}

impl SqliteStore {
    /// Beside the file: whoever decides must not wait for the one writer that it has.
    fn decisions(&self, run: &RunId) -> DecisionBox {
        DecisionBox::new(self.path.parent().unwrap_or(Path::new("")), run)
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
/// the file (1: no such column) is the file's fault too.
fn damage(error: &Error) -> Option<String> {
    const ERROR: u32 = 1;
    const CORRUPT: u32 = 11;
    const CONSTRAINT: u32 = 19;
    const MISMATCH: u32 = 20;
    const FORMAT: u32 = 24;
    const NOT_A_DATABASE: u32 = 26;
    const IO_SHORT_READ: u32 = 522;
    const IO_CORRUPT: u32 = 8458;
    match error {
        Error::Decode(_)
        | Error::ColumnDecode { .. }
        | Error::ColumnNotFound(_)
        | Error::ColumnIndexOutOfBounds { .. }
        | Error::RowNotFound => Some(error.to_string()),
        Error::Database(database) => {
            let code: u32 = database.code()?.parse().ok()?;
            let damaged =
                matches!(code & 0xff, ERROR | CORRUPT | CONSTRAINT | MISMATCH | FORMAT | NOT_A_DATABASE)
                    || matches!(code, IO_SHORT_READ | IO_CORRUPT);
            damaged.then(|| database.message().to_owned())
        }
        _ => None,
    }
}
