//! What of ours is measured: the step by itself, in a process of its own.

use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::{
    IdempotencyKey, LogLevel, NodeId, PlanConfig, Progress, RunId, Secret, SecretRef, StepContext, StepError,
    StepHost, TypedStep as _, async_trait,
};
use migrate_steps::blobs::{BlobCopy, CopyConfig};
use serde_json::Value;

use crate::Result;

/// Where the SAS is found.
pub const SAS: &str = "BENCH_SAS";

/// Remembers nothing: what a store costs is another bench's.
struct Host;

#[async_trait]
impl StepHost for Host {
    fn progress(&self, _progress: Progress) {}

    fn log(&self, level: LogLevel, message: String) {
        if level == LogLevel::Warn {
            eprintln!("{message}");
        }
    }

    async fn checkpoint(&self, _cursor: Value) -> std::result::Result<(), StepError> {
        Ok(())
    }

    async fn set_handle(&self, _handle: String) -> std::result::Result<(), StepError> {
        Ok(())
    }

    async fn secret(&self, _reference: &SecretRef) -> std::result::Result<Secret, StepError> {
        std::env::var(SAS).map(Secret::new).map_err(|_| StepError::auth("no SAS"))
    }
}

/// `copy` or `plan`, by the config in a file.
pub fn measure(what: &str, config: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (what, config) = (what.to_owned(), config.to_path_buf());
    // A task, as the engine has one for each step.
    runtime
        .block_on(runtime.spawn(async move { task(&what, &config).await.map_err(|e| e.to_string()) }))??;
    Ok(())
}

async fn task(what: &str, config: &Path) -> Result<()> {
    let json: Value = serde_json::from_slice(&std::fs::read(config)?)?;
    let project = config.parent().ok_or("no folder")?.to_path_buf();
    let (run, node) = (RunId::new("bench")?, NodeId::new("copy")?);
    let key = IdempotencyKey::new("copy-bench")?;
    let ctx = StepContext::new(run, node, 1, key, project, Arc::new(Host));
    match what {
        "copy" => {
            let config: CopyConfig = serde_json::from_value(json)?;
            let outputs = BlobCopy.apply(&ctx, &config).await.map_err(told)?;
            println!("{}", serde_json::to_string(&outputs)?);
        }
        "plan" => {
            let config = PlanConfig::new(&json)?;
            let plan = BlobCopy.plan(&ctx, &config).await.map_err(told)?;
            let problems: Vec<&str> = plan.problems.iter().map(|p| p.message.as_str()).collect();
            if plan.items.is_none() || !problems.is_empty() {
                return Err(format!("not planned whole: {} {problems:?}", plan.summary).into());
            }
            println!("{}", plan.summary);
        }
        _ => return Err(format!("nothing to measure: {what}").into()),
    }
    Ok(())
}

fn told(error: StepError) -> String {
    format!("{:?}", error.to_record())
}
