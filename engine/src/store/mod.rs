//! Durable facts: a small trait, and SQLite or PostgreSQL behind it.
//!
//! The store owns `.migrate/state.db`, `state.seen` and `decisions` beside it, or the schema `migrate` of a database. A [`Batch`](fact::Batch) is
//! durable, whole, when [`Store::append`] returns. Facts are append-only; everything is covered by
//! checksums, and a damaged store is told and never guessed at (`docs/design/store.md`). The store
//! knows nothing of what facts mean.

mod chain;
#[cfg(test)]
mod conformance;
mod decisions;
pub(crate) mod fact;
pub(crate) mod holder;
mod postgres;
mod seen;
pub(crate) mod settings;
mod sqlite;
mod sum;
mod version;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId};
use serde::Serialize;

use fact::{Batch, LogLine, Place, RunRecord, Stamped};
use holder::Holder;

use crate::run::GateDecision;

pub(crate) use postgres::PostgresStore;
pub(crate) use sqlite::SqliteStore;

/// Why a fact could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be made or opened.
    #[error("failed to open the state in {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is damaged. Nothing was guessed and nothing was changed.
    #[error("the state in {} is damaged: {reason}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a newer version.
    #[error("the state in {} was written by a newer version of migrate", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// Another process has taken over the right to write. Nothing was written.
    #[error(
        "another process has taken over from this one{}; this one stopped, and wrote nothing more",
        .holder.as_ref().map(|holder| format!(": {holder}")).unwrap_or_default()
    )]
    Fenced {
        /// Who has it now.
        holder: Option<Box<Holder>>,
    },
    /// An operation failed: disk full, I/O error.
    #[error("failed to {operation}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// `value` as it is stored. `operation`: what it is for, should it fail.
fn json(operation: &'static str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Failed { operation, source: Box::new(source) })
}

/// A stored time, or what is wrong with it.
fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is no time"))
}

/// Why the right to write was not given.
#[derive(Debug)]
pub(crate) enum AcquireError {
    Held(Box<Holder>),
    Store(StoreError),
}

impl From<StoreError> for AcquireError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where facts are kept.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Takes the right to write, which every write then proves in its own transaction: once another
    /// has taken it, nothing of this one is stored any more, however long it slept.
    async fn acquire(&self, _holder: &Holder) -> Result<(), AcquireError> {
        Ok(())
    }

    /// How often the right to write must be renewed; `None`: it lasts as long as the process.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    /// Says that this process still works.
    async fn renew(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Who has the right to write, where the store itself knows.
    async fn holder(&self) -> Result<Option<Holder>, StoreError> {
        Ok(None)
    }

    /// Adds a run. Durable when it returns.
    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError>;

    /// Adds facts and places of a run, all or none. Durable when it returns.
    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError>;

    /// One run; the one that was created last when `id` is `None`.
    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError>;

    /// All runs, newest first: in the order in which they were created, whatever the clock said.
    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError>;

    /// All facts of a run, oldest first.
    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError>;

    /// All places of a run.
    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError>;

    /// Log lines of a run, or of one of its nodes, oldest first: at most `limit` of those after the
    /// one numbered `after` (0: from the first).
    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError>;

    /// Keeps a decision about a gate of a run, unless one is there for its key: the first one stands.
    /// Needs no right to write, and a handle that reads will do. Durable when it returns; `Some`: the
    /// one that stands instead.
    async fn decide(&self, run: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError>;

    /// What was decided about the question `key`.
    async fn decision(&self, run: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError>;

    /// Gives the files back, whole: nothing is left in a side file that only this process knows.
    async fn close(&self);
}
