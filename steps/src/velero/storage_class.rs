//! `storage-class.map`: tells the target's Velero which storage class stands for which.
//!
//! A claim whose class the target doesn't have stays Pending and blocks its restore, and every
//! later one; so a missing class is found before anything starts.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, StepContext, StepError, StepPlan, TypedObservation,
    TypedStep, VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Velero, list_all};
use super::config_map::{Decision, Plugin, conflict, decide, ensure, find, replaced, take_back};
use super::default_velero_namespace;
use super::install::{Role, preflight, to_problem};
use crate::kubernetes::kube_error;
use crate::site::ClusterRef;

/// `with` of `storage-class.map`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StorageClassConfig {
    /// The target cluster.
    pub cluster: ClusterRef,
    /// Class on the source = class on the target.
    pub map: BTreeMap<String, String>,
    /// Classes that the source's claims use; each must be mapped or exist on the target.
    #[serde(default)]
    pub used: Vec<String>,
    /// Where Velero runs.
    #[serde(default = "default_velero_namespace")]
    pub velero_namespace: String,
}

/// Outputs of `storage-class.map`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StorageClassOutputs {
    /// The ConfigMap that Velero reads.
    pub config_map: String,
    /// Class on the source = class on the target.
    pub map: BTreeMap<String, String>,
}

/// The step.
#[derive(Debug, Default)]
pub struct StorageClassMap;

/// What stands in the way of `map`, given the classes that are `there`.
fn class_problems(
    map: &BTreeMap<String, String>,
    used: &[String],
    there: &BTreeSet<String>,
    context: &str,
) -> Vec<Problem> {
    let names: Vec<&str> = there.iter().map(String::as_str).collect();
    let hint = if names.is_empty() {
        "it has no storage class at all".to_owned()
    } else {
        format!("it has: {}", names.join(", "))
    };
    let absent = map.iter().filter(|(_, to)| !there.contains(*to)).map(|(from, to)| {
        Problem::error(format!(
            "cluster `{context}` has no storage class `{to}`, to which `{from}` is mapped"
        ))
        .in_field("map")
        .with_hint(hint.clone())
    });
    let used: BTreeSet<&String> = used.iter().filter(|class| !class.is_empty()).collect();
    let unmapped = used.into_iter().filter(|c| !map.contains_key(*c) && !there.contains(*c)).map(|class| {
        Problem::error(format!(
            "storage class `{class}` is used, but is not mapped and doesn't exist in cluster `{context}`"
        ))
        .in_field("map")
        .with_hint(format!("add `{class} = \"…\"`; {hint}"))
    });
    absent.chain(unmapped).collect()
}

async fn classes(velero: &Velero) -> Result<BTreeSet<String>, StepError> {
    let api: Api<StorageClass> = Api::all(velero.client.clone());
    let found = list_all(&api, "").await;
    let found = found.map_err(|e| kube_error("failed to list the target's storage classes", e))?;
    Ok(found.iter().map(ResourceExt::name_any).collect())
}

#[async_trait]
impl TypedStep for StorageClassMap {
    const NAME: &'static str = "storage-class.map";
    const SUMMARY: &'static str = "Maps storage classes for the restore on the target";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    const SUPPORTS_UNDO: bool = true;

    type Config = StorageClassConfig;
    type Outputs = StorageClassOutputs;

    async fn plan(
        &self,
        ctx: &StepContext,
        config: &PlanConfig<StorageClassConfig>,
    ) -> Result<StepPlan, StepError> {
        let map = config.field::<BTreeMap<String, String>>("map")?;
        let used = config.field::<Vec<String>>("used")?.unwrap_or_default();
        let count = map.as_ref().map_or(0, BTreeMap::len);
        let mut plan = StepPlan::new(format!("map {count} storage classes for Velero's restore"));
        plan.items = map.as_ref().map(|m| m.len() as u64);
        let Some(cluster) = config.field::<ClusterRef>("cluster")? else { return Ok(plan) };
        let namespace = config.field("velero-namespace")?.unwrap_or_else(default_velero_namespace);
        let found = preflight(ctx, &cluster, &namespace, None, Role::Target).await;
        plan.problems.extend(found.problems);
        let (Some(velero), Some(map)) = (found.velero, map) else { return Ok(plan) };
        match classes(&velero).await {
            Ok(there) => plan.problems.extend(class_problems(&map, &used, &there, &cluster.context)),
            Err(e) => plan.problems.push(to_problem(&e)),
        }
        match find(&velero, Plugin::StorageClass).await {
            Ok(found) => {
                if let Decision::Refuse(name) = decide(Plugin::StorageClass, &found, &map) {
                    plan.problems.push(to_problem(&conflict(Plugin::StorageClass, &name, &namespace)));
                }
                plan.destroys.extend(replaced(Plugin::StorageClass, &found, &map, &namespace));
            }
            Err(e) => plan.problems.push(to_problem(&e)),
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &StorageClassConfig,
    ) -> Result<TypedObservation<StorageClassOutputs>, StepError> {
        // Writing the same ConfigMap again is harmless.
        Ok(TypedObservation::Absent)
    }

    async fn apply(
        &self,
        ctx: &StepContext,
        config: &StorageClassConfig,
    ) -> Result<StorageClassOutputs, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        let there = classes(&velero).await?;
        let problems = class_problems(&config.map, &config.used, &there, &config.cluster.context);
        if let Some(first) = problems.first() {
            let all: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
            let hint = first.hint.clone().unwrap_or_default();
            return Err(StepError::permanent(all.join("; ")).with_hint(hint));
        }
        let config_map = ensure(ctx, &velero, Plugin::StorageClass, &config.map).await?;
        Ok(StorageClassOutputs { config_map, map: config.map.clone() })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &StorageClassConfig,
        outputs: &StorageClassOutputs,
        _depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        let there = classes(&velero).await?;
        let found = find(&velero, Plugin::StorageClass).await?;
        let held = match decide(Plugin::StorageClass, &found, &outputs.map) {
            Decision::Keep(name) => name,
            Decision::Write => "absent or changed".to_owned(),
            Decision::Refuse(other) => format!("another one: {other}"),
        };
        let ours = Check::equal("storage class map", "config map", &outputs.config_map, held);
        let classes = outputs.map.iter().map(|(from, to)| {
            let found = if there.contains(to) { to.as_str() } else { "absent" };
            Check::equal(format!("storage class {from}"), "class on the target", to, found)
        });
        Ok(std::iter::once(ours).chain(classes).collect())
    }

    async fn undo(
        &self,
        ctx: &StepContext,
        config: &StorageClassConfig,
        _outputs: &StorageClassOutputs,
    ) -> Result<(), StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        take_back(ctx, &velero, Plugin::StorageClass).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_must_be_mapped_to_one_that_exists() {
        let map = BTreeMap::from([
            ("gp3".to_owned(), "premium".to_owned()),
            ("io2".to_owned(), "ultra".to_owned()),
        ]);
        let there = BTreeSet::from(["premium".to_owned(), "shared".to_owned()]);
        let used = ["gp3", "shared", "efs-sc", ""].map(str::to_owned);
        let problems = class_problems(&map, &used, &there, "aks");
        let texts: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(
            texts,
            [
                "cluster `aks` has no storage class `ultra`, to which `io2` is mapped",
                "storage class `efs-sc` is used, but is not mapped and doesn't exist in cluster `aks`",
            ]
        );
        assert!(problems.iter().all(|p| p.field.as_deref() == Some("map")));
        assert_eq!(problems[0].hint.as_deref(), Some("it has: premium, shared"));
    }
}
