//! A cluster, assessed outside of any run.

use std::path::PathBuf;
use std::sync::Arc;

use migrate_plugin_api::{
    IdempotencyKey, InvalidId, LogLevel, NodeId, Progress, RunId, Secret, SecretRef, StepContext, StepError,
    StepHost, async_trait,
};
use serde_json::Value;

use super::cluster::{AssessCluster, Config};
use super::report::Assessment;
use super::target::target;
use crate::inventory::missing_namespaces;
use crate::kubernetes::connect;
use crate::rules::{Inputs, RuleSet, Target};
use crate::site::{AwsAccess, ClusterRef, RegistryRef};

/// Nobody to report to and nothing to store: looking needs neither.
struct Alone;

#[async_trait]
impl StepHost for Alone {
    fn progress(&self, _: Progress) {}

    fn log(&self, _: LogLevel, _: String) {}

    async fn checkpoint(&self, _: Value) -> Result<(), StepError> {
        Ok(())
    }

    async fn set_handle(&self, _: String) -> Result<(), StepError> {
        Ok(())
    }

    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        Err(StepError::auth(format!(
            "no secret is needed to look at a cluster, and `{reference}` is not read"
        )))
    }
}

/// An EKS cluster that the EKS API is asked about.
#[derive(Debug, Clone)]
pub struct EksCluster {
    /// Its name.
    pub name: String,
    /// How AWS is reached.
    pub aws: AwsAccess,
    /// The folder that relative paths in `aws` start in.
    pub project: PathBuf,
}

fn context(project: PathBuf) -> Result<StepContext, InvalidId> {
    let (run, node, key) = (RunId::new("assess")?, NodeId::new("assess")?, IdempotencyKey::new("assess")?);
    Ok(StepContext::new(run, node, 1, key, project, Arc::new(Alone)))
}

/// What the cluster that `context_name` of the default kubeconfig names has, as a target.
///
/// # Errors
/// When the cluster can't be reached, or does not let its classes, nodes or kinds be listed.
pub async fn look_at_target(context_name: &str) -> Result<Target, StepError> {
    let ctx =
        context(PathBuf::from(".")).map_err(|e| StepError::permanent("failed to begin").with_source(e))?;
    target(&ctx, &ClusterRef { kubeconfig: None, context: context_name.to_owned() }).await
}

/// Assesses namespaces of the cluster that `context` of the default kubeconfig names.
///
/// # Errors
/// When the cluster can't be reached or lacks a namespace.
pub async fn assess_cluster(
    context_name: &str,
    namespaces: &[String],
    rules: &RuleSet,
    inputs: &Inputs,
    target_facts: Option<Target>,
    eks: Option<EksCluster>,
) -> Result<Assessment, StepError> {
    let project = eks.as_ref().map_or_else(|| PathBuf::from("."), |eks| eks.project.clone());
    let (eks, aws) = eks.map(|eks| (eks.name, eks.aws)).unzip();
    let ctx = context(project).map_err(|e| StepError::permanent("failed to begin").with_source(e))?;
    let config = Config {
        cluster: ClusterRef { kubeconfig: None, context: context_name.to_owned() },
        registry: RegistryRef { host: String::new(), endpoint: None, username: None, password: None },
        namespaces: namespaces.to_vec(),
        inputs: inputs.clone(),
        rules: Vec::new(),
        target: None,
        eks,
        aws,
        azure: None,
    };
    let client = connect(&ctx, &config.cluster).await?;
    if let Some(problem) = missing_namespaces(&client, namespaces, "namespaces").await?.into_iter().next() {
        return Err(problem.into());
    }
    let (outputs, assessment) = AssessCluster.gather(&ctx, &config, rules, &client, target_facts).await?;
    Ok(Assessment { unreadable: outputs.unreadable, ..assessment })
}
