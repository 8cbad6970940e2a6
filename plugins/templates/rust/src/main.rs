//! `team.example`: writes a file for each item, and goes on where it was stopped.

use std::process::ExitCode;

use migrate_plugin_sdk::{
    Check, Evidence, Idempotency, PlanConfig, Progress, StepContext, StepError, StepPlan, Typed,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Example;

/// `with`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// Folder to write to
    to: String,
    /// Names
    items: Vec<String>,
}

/// What later nodes may refer to.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Outputs {
    /// How many files there are
    written: usize,
}

#[async_trait]
impl TypedStep for Example {
    const NAME: &'static str = "team.example";
    const SUMMARY: &'static str = "Writes a file for each item";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, _: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        // Inputs that come from other nodes may not be known yet.
        let count = config.field::<Vec<String>>("items")?.map(|items| items.len());
        Ok(StepPlan::new(count.map_or("write files".to_owned(), |count| format!("write {count} files"))))
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        // Writing the same file twice is harmless.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let failed = |e| StepError::permanent(format!("failed to write to {}", config.to)).with_source(e);
        let folder = ctx.path(&config.to);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let total = config.items.len();
        for done in ctx.cursor::<usize>()?.unwrap_or(0)..total {
            ctx.check_cancelled()?;
            std::fs::write(folder.join(&config.items[done]), "hello\n").map_err(failed)?;
            ctx.progress(Progress::default().items(done as u64 + 1, total as u64));
            // After its work is done; durable when it returns.
            ctx.checkpoint(&(done + 1)).await?;
        }
        Ok(Outputs { written: total })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let found = config.items.iter().filter(|item| ctx.path(&config.to).join(item).exists()).count();
        let subject = format!("folder {}", config.to);
        let check = Check::equal(subject, "files", outputs.written.to_string(), found.to_string());
        Ok(Evidence { checks: vec![check] })
    }
}

fn main() -> ExitCode {
    migrate_plugin_sdk::main(Typed(Example))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use migrate_plugin_sdk::testing::RecordingHost;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn it_goes_on_where_it_was_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let host = Arc::new(RecordingHost::default());
        let ctx = host.context("node", folder.path()).with_state(None, Some(json!(2)));
        let config = Config { to: "out".into(), items: ["a", "b", "c"].map(String::from).into() };
        let outputs = Example.apply(&ctx, &config).await.unwrap();
        assert_eq!(outputs, Outputs { written: 3 });
        assert_eq!(host.recorded().cursors, [json!(3)]);
        let evidence = Example.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
        assert!(!evidence.passed(), "lost files are found");
    }
}
