//! Our mover, as the engine runs it: one node `image.copy` in a process of its own.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use migrate_plugin_api::{
    IdempotencyKey, LogLevel, NodeId, Progress, RunId, Secret, SecretRef, StepContext, StepError, StepHost,
    async_trait,
};
use serde_json::Value;

use crate::Result;

/// A host that keeps the cursor as the engine does: durable when it returns.
struct Host {
    folder: PathBuf,
    file: Mutex<()>,
}

#[async_trait]
impl StepHost for Host {
    fn progress(&self, _: Progress) {}

    fn log(&self, level: LogLevel, message: String) {
        if level != LogLevel::Debug {
            eprintln!("bench:     {message}");
        }
    }

    async fn checkpoint(&self, cursor: Value) -> std::result::Result<(), StepError> {
        let _one = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            let (new, kept) = (self.folder.join("cursor.new"), self.folder.join("cursor.json"));
            let mut file = File::create(&new)?;
            file.write_all(cursor.to_string().as_bytes())?;
            file.sync_data()?;
            std::fs::rename(new, kept)
        };
        write().map_err(|e: std::io::Error| StepError::permanent("failed to keep the cursor").with_source(e))
    }

    async fn set_handle(&self, _: String) -> std::result::Result<(), StepError> {
        Ok(())
    }

    async fn secret(&self, reference: &SecretRef) -> std::result::Result<Secret, StepError> {
        Err(StepError::auth(format!("no secret at `{reference}`")))
    }
}

/// Carries out the config in `project`; from the cursor that a killed process has left there, if it is to
/// `resume`.
pub fn copy(project: &Path, resume: bool) -> Result<()> {
    let config: Value = serde_json::from_slice(&std::fs::read(project.join("config.json"))?)?;
    let steps = migrate_steps::all();
    let step = steps.iter().find(|step| step.describe().name == "image.copy").ok_or("no image.copy")?;
    let host = Arc::new(Host { folder: project.to_owned(), file: Mutex::new(()) });
    let ctx = StepContext::new(
        RunId::new("bench")?,
        NodeId::new("copy")?,
        1,
        IdempotencyKey::new("copy-0000000000")?,
        project.to_owned(),
        host,
    );
    let cursor = std::fs::read(project.join("cursor.json")).ok().filter(|_| resume);
    // Cut by the kill, it is none.
    let cursor = cursor.and_then(|cursor| serde_json::from_slice(&cursor).ok());
    let ctx = ctx.with_state(None, cursor);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(step.apply(&ctx, &config)).map_err(|error| {
        let causes = error.to_record().causes.join(": ");
        format!("{error}: {causes}")
    })?;
    Ok(())
}
