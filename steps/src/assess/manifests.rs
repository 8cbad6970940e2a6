//! `assess.manifests`: what of a folder of manifests will not be the same on AKS. Reads only; natural
//! to repeat.

use std::path::PathBuf;

use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
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
    /// Files with rules of your own.
    #[serde(default)]
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

/// The findings that a person should read, as warnings.
pub(super) fn warnings(findings: &[Finding]) -> impl Iterator<Item = Check> {
    findings.iter().filter(|f| !f.rewritten && f.severity > RuleSeverity::Info).map(|finding| Check {
        subject: finding.object(),
        what: finding.rule.clone(),
        source: finding.path.clone(),
        target: String::new(),
        status: CheckStatus::Warning,
        note: Some(finding.note()),
    })
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
                Ok(outputs) => plan.items = Some(outputs.assessment.objects),
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
        checks.extend(warnings(&outputs.assessment.findings));
        Ok(Evidence { checks })
    }
}
