//! What a step may ask of the engine while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{IdempotencyKey, NodeId, Progress, RunId, Secret, SecretRef, StepError};

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For whoever debugs the step.
    Debug,
    /// What was done.
    Info,
    /// What a person should read.
    Warn,
}

/// The engine's side of a running step.
#[async_trait]
pub trait StepHost: Send + Sync {
    /// Shows how far the step is. May be dropped under load; the newest one is not.
    fn progress(&self, progress: Progress);

    /// Logs a line. Never a secret.
    fn log(&self, level: LogLevel, message: String);

    /// Says that the step is alive and has nothing to tell.
    fn heartbeat(&self) {}

    /// Stores the step's own place. Durable when it returns.
    ///
    /// # Errors
    /// When the store can't take it; the step must then stop.
    async fn checkpoint(&self, cursor: Value) -> Result<(), StepError>;

    /// Stores the ID of the outside thing this attempt has made or joined. Durable when it returns.
    ///
    /// # Errors
    /// When the store can't take it; the step must then stop.
    async fn set_handle(&self, handle: String) -> Result<(), StepError>;

    /// Resolves a secret. The value is never stored or logged by the engine.
    ///
    /// # Errors
    /// `Auth`, naming the reference (never the value), when it is not there.
    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError>;
}

/// Everything one call of a step knows about its surroundings. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The run.
    pub run: RunId,
    /// The node.
    pub node: NodeId,
    /// From 1.
    pub attempt: u32,
    /// Deterministic name for the outside thing.
    pub key: IdempotencyKey,
    /// The folder of `migration.toml`. Relative paths in a step's config start here.
    pub project_dir: PathBuf,
    /// Cancelled when the run is asked to stop: reach a checkpoint and return `Cancelled`.
    pub cancel: CancellationToken,
    handle: Option<String>,
    cursor: Option<Value>,
    host: Arc<dyn StepHost>,
}

impl StepContext {
    /// Assembled by the engine, and by tests.
    pub fn new(
        run: RunId,
        node: NodeId,
        attempt: u32,
        key: IdempotencyKey,
        project_dir: PathBuf,
        host: Arc<dyn StepHost>,
    ) -> Self {
        let cancel = CancellationToken::new();
        Self { run, node, attempt, key, project_dir, cancel, handle: None, cursor: None, host }
    }

    /// With the handle and the cursor that an earlier attempt left.
    #[must_use]
    pub fn with_state(mut self, handle: Option<String>, cursor: Option<Value>) -> Self {
        self.handle = handle;
        self.cursor = cursor;
        self
    }

    /// With the token that stops this call.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The last handle that was durably set for this node, at the start of this call.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The last durable cursor of this node at the start of this call, as a `T`.
    ///
    /// # Errors
    /// `Corrupt` when there is one that isn't a `T`.
    pub fn cursor<T: DeserializeOwned>(&self) -> Result<Option<T>, StepError> {
        match &self.cursor {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|e| StepError::corrupt("the node's stored cursor can't be read").with_source(e)),
        }
    }

    /// A path of the config, made absolute.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.project_dir.join(path)
    }

    /// `Err(Cancelled)` once the run was asked to stop.
    ///
    /// # Errors
    /// Only `Cancelled`.
    pub fn check_cancelled(&self) -> Result<(), StepError> {
        if self.cancel.is_cancelled() { Err(StepError::cancelled()) } else { Ok(()) }
    }

    /// See [`StepHost::progress`].
    pub fn progress(&self, progress: Progress) {
        self.host.progress(progress);
    }

    /// See [`StepHost::heartbeat`].
    pub fn heartbeat(&self) {
        self.host.heartbeat();
    }

    /// Logs a line of `level`.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.host.log(level, message.into());
    }

    /// Logs what was done.
    pub fn info(&self, message: impl Into<String>) {
        self.host.log(LogLevel::Info, message.into());
    }

    /// Logs what a person should read.
    pub fn warn(&self, message: impl Into<String>) {
        self.host.log(LogLevel::Warn, message.into());
    }

    /// Logs for whoever debugs the step.
    pub fn debug(&self, message: impl Into<String>) {
        self.host.log(LogLevel::Debug, message.into());
    }

    /// See [`StepHost::checkpoint`].
    ///
    /// # Errors
    /// When the store can't take it.
    pub async fn checkpoint<T: Serialize + Sync>(&self, cursor: &T) -> Result<(), StepError> {
        let value = serde_json::to_value(cursor)
            .map_err(|e| StepError::permanent("failed to write the cursor as JSON").with_source(e))?;
        self.host.checkpoint(value).await
    }

    /// See [`StepHost::set_handle`].
    ///
    /// # Errors
    /// When the store can't take it.
    pub async fn set_handle(&self, handle: impl Into<String> + Send) -> Result<(), StepError> {
        self.host.set_handle(handle.into()).await
    }

    /// See [`StepHost::secret`].
    ///
    /// # Errors
    /// `Auth` when it is not there.
    pub async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        self.host.secret(reference).await
    }
}
