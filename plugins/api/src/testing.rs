//! A host that only remembers, for tests of steps.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    IdempotencyKey, LogLevel, NodeId, Progress, RunId, Secret, SecretRef, StepContext, StepError, StepHost,
};

/// What a step told its host, in order.
#[derive(Debug, Default)]
pub struct RecordingHost {
    state: Mutex<Recorded>,
}

/// The record itself.
#[derive(Debug, Default, Clone)]
pub struct Recorded {
    /// Every progress report.
    pub progress: Vec<Progress>,
    /// Every log line.
    pub log: Vec<(LogLevel, String)>,
    /// How many signs of life there were beside all that.
    pub beats: usize,
    /// Every cursor.
    pub cursors: Vec<Value>,
    /// Every handle.
    pub handles: Vec<String>,
    /// Secrets that can be resolved, by reference.
    pub secrets: HashMap<String, String>,
}

impl RecordingHost {
    /// What was recorded so far.
    pub fn recorded(&self) -> Recorded {
        self.with(|state| state.clone())
    }

    /// Makes `reference` resolve to `value`.
    pub fn put_secret(&self, reference: &str, value: &str) {
        self.with(|state| state.secrets.insert(reference.to_owned(), value.to_owned()));
    }

    /// A context over this host, for run `test-run` and node `node`, attempt 1.
    ///
    /// # Panics
    /// When `node` is no valid name.
    pub fn context(self: &Arc<Self>, node: &str, project_dir: impl Into<PathBuf>) -> StepContext {
        let valid = "test identifiers are valid names";
        StepContext::new(
            RunId::new("test-run").expect(valid),
            NodeId::new(node).expect(valid),
            1,
            IdempotencyKey::new(format!("{node}-0000000000")).expect(valid),
            project_dir.into(),
            Arc::clone(self) as Arc<dyn StepHost>,
        )
    }

    fn with<T>(&self, f: impl FnOnce(&mut Recorded) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl StepHost for RecordingHost {
    fn progress(&self, progress: Progress) {
        self.with(|state| state.progress.push(progress));
    }

    fn log(&self, level: LogLevel, message: String) {
        self.with(|state| state.log.push((level, message)));
    }

    fn heartbeat(&self) {
        self.with(|state| state.beats += 1);
    }

    async fn checkpoint(&self, cursor: Value) -> Result<(), StepError> {
        self.with(|state| state.cursors.push(cursor));
        Ok(())
    }

    async fn set_handle(&self, handle: String) -> Result<(), StepError> {
        self.with(|state| state.handles.push(handle));
        Ok(())
    }

    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        self.with(|state| state.secrets.get(&reference.to_string()).map(Secret::new))
            .ok_or_else(|| StepError::auth(format!("no secret at `{reference}`")))
    }
}
