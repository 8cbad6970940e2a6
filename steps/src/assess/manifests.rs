//! `assess.manifests`: what of a folder of manifests will not be the same on AKS. Reads only; natural
//! to repeat.

use std::path::PathBuf;

use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, StepContext, StepError, StepPlan, TypedObservation,
    TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::assess_files;
use super::report::Assessment;
use crate::manifests::tree::problem_of;
use crate::rules::{Finding, Inputs, RuleSet, RuleSeverity};

/// Findings that are kept; all are counted. Outputs are stored with the run.
const LISTED: usize = 5_000;

/// `assess.manifests`.
pub(crate) struct AssessManifests;

/// `with` of `assess.manifests`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder, or file, to read.
    pub from: PathBuf,
    /// What the rules need: `${env.rewrite}`.
    #[serde(default)]
    pub inputs: Inputs,
    /// Files with rules of your own; default: `rules` of migration.toml.
    #[serde(default)]
    #[schemars(extend("x-env" = "rules"))]
    pub rules: Vec<PathBuf>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// All findings; more than are listed, perhaps.
    pub count: u64,
    /// The assessment, with at most 5,000 findings.
    pub assessment: Assessment,
}

fn assess(ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
    let files: Vec<PathBuf> = config.rules.iter().map(|file| ctx.path(file)).collect();
    let rules = RuleSet::with_files(&files).map_err(|e| StepError::permanent(e.to_string()))?;
    let mut assessment = assess_files(&ctx.path(&config.from), &rules, &config.inputs)?;
    let count = assessment.findings.len() as u64;
    assessment.findings.truncate(LISTED);
    Ok(Outputs { count, assessment })
}

/// What was not looked at, and why.
fn unseen(assessment: &Assessment) -> impl Iterator<Item = (&String, &'static str)> {
    let left_out = assessment.left_out.iter().map(|path| (path, "left out: links are not followed"));
    let unreadable = assessment
        .unreadable
        .iter()
        .map(|what| (what, "not in the folder: what wrote it could not read that"));
    left_out.chain(unreadable)
}

/// The findings that a person should read, as warnings.
pub(super) fn warnings(findings: &[Finding]) -> impl Iterator<Item = Check> {
    findings.iter().filter(|f| !f.rewritten && f.severity > RuleSeverity::Info).map(Finding::to_check)
}

#[async_trait]
impl TypedStep for AssessManifests {
    const NAME: &'static str = "assess.manifests";
    const SUMMARY: &'static str = "Lists what of a folder of manifests will not be the same on AKS";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("assess manifests");
        let Some(config) = config.known() else { return Ok(plan) };
        plan.summary = format!("assess the manifests of {}", config.from.display());
        if ctx.path(&config.from).exists() {
            match assess(ctx, config) {
                Ok(outputs) => {
                    plan.items = Some(outputs.assessment.objects);
                    let unseen = unseen(&outputs.assessment);
                    plan.problems
                        .extend(unseen.map(|(what, why)| {
                            Problem::warning(format!("{what} is {why}")).in_field("from")
                        }));
                }
                Err(e) => plan.problems.push(problem_of(&e, "from")),
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let outputs = assess(ctx, config)?;
        let assessment = &outputs.assessment;
        unseen(assessment).for_each(|(what, why)| ctx.warn(format!("{what} is {why}")));
        ctx.info(format!(
            "{} findings in {} objects of {} files, readiness {} of 100",
            outputs.count, assessment.objects, assessment.files, assessment.readiness
        ));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let now = assess(ctx, config)?;
        let subject = format!("manifests of {}", config.from.display());
        let count = |outputs: &Outputs| outputs.count.to_string();
        let mut checks = vec![Check::equal(subject, "findings", count(outputs), count(&now))];
        checks.extend(unseen(&outputs.assessment).map(|(what, why)| Check::told(what, "assessed", why)));
        checks.extend(warnings(&outputs.assessment.findings));
        Ok(Evidence { checks })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{CheckStatus, Step as _, Typed};

    use super::*;

    #[tokio::test]
    async fn what_was_not_looked_at_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("in");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n").unwrap();
        fs::write(root.join(".migrate-manifests"), "Not in it, since it could not be read: v1/Secret\n")
            .unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("b.yaml")).unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("assess", dir.path());
        let (step, config) = (Typed(AssessManifests), serde_json::json!({ "from": "in" }));
        let plan = step.plan(&ctx, &config).await.unwrap();
        assert_eq!(
            plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(),
            [
                "b.yaml is left out: links are not followed",
                "v1/Secret is not in the folder: what wrote it could not read that"
            ]
        );
        let outputs = step.apply(&ctx, &config).await.unwrap();
        let evidence = step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
        let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
        assert_eq!(warned.map(|check| check.subject.as_str()).collect::<Vec<_>>(), ["b.yaml", "v1/Secret"]);
    }
}
