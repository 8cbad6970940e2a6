//! The cluster that `manifest.apply` changes: how an object is sent, and what its API server has against it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use migrate_plugin_api::{Problem, Severity, StepContext, StepError};
use serde_json::Value;

use super::apply::Config;
use super::apply_set::Prune;
use super::order::Manifest;
use super::tree;
use crate::inventory::Served;
use crate::kubernetes::{connect, kube_error, one_cluster};
use crate::rollout::{POLL_INTERVAL, pause};
use crate::site::ClusterRef;

/// Under this name the API server keeps who set which field.
pub(super) const FIELD_MANAGER: &str = "migrate";

/// Definitions are established within a second or two; a cluster that takes longer has another fault.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nothing may be applied to `cluster`: it is what is migrated from; a warning where that can't be told.
pub(super) async fn source_problem(
    ctx: &StepContext,
    source: &ClusterRef,
    cluster: (&ClusterRef, &Client),
) -> Option<Problem> {
    match connect(ctx, source).await {
        Ok(client) => one_cluster(ctx, (source, &client), cluster, "cluster").await,
        Err(e) => Some(tree::problem_of(&e, "source")),
    }
}

/// As [`source_problem`], before it is applied; what can't be told is a warning of the log.
///
/// # Errors
/// That problem.
pub(super) async fn refuse_source(
    ctx: &StepContext,
    source: &ClusterRef,
    cluster: (&ClusterRef, &Client),
) -> Result<(), StepError> {
    let Some(problem) = source_problem(ctx, source, cluster).await else { return Ok(()) };
    if problem.severity == Severity::Error {
        return Err(problem.into());
    }
    ctx.warn(problem.message);
    Ok(())
}

/// The cluster, and how it is changed.
pub(super) struct Target<'a> {
    /// Asked with.
    pub client: &'a Client,
    /// Takes fields over from other managers.
    pub force: bool,
    /// The set that everything becomes a member of.
    pub prune: Option<&'a Prune>,
}

impl<'a> Target<'a> {
    pub(super) fn of(client: &'a Client, config: &'a Config) -> Self {
        Self { client, force: config.force_conflicts, prune: config.prune.as_ref() }
    }

    fn api(&self, kind: &Served, manifest: &Manifest) -> Result<Api<DynamicObject>, StepError> {
        Self::api_of(self.client, kind, manifest)
    }

    fn api_of(client: &Client, kind: &Served, manifest: &Manifest) -> Result<Api<DynamicObject>, StepError> {
        match (kind.namespaced, manifest.namespace.as_str()) {
            (true, "") => Err(StepError::permanent(format!(
                "{manifest} in {} names no namespace",
                manifest.file
            ))
            .with_hint(
                "add metadata.namespace, or give `namespace`: what is applied must not depend on a default",
            )),
            (_, namespace) => Ok(kind.api(client, namespace)),
        }
    }

    /// The object as it is there.
    pub(super) async fn live(
        &self,
        kind: &Served,
        manifest: &Manifest,
    ) -> Result<Option<DynamicObject>, StepError> {
        let live = self.api(kind, manifest)?.get_opt(&manifest.name).await;
        live.map_err(|e| kube_error(format!("failed to read {manifest}"), e))
    }

    /// Its metadata, where it is there.
    pub(super) async fn metadata(
        &self,
        kind: &Served,
        manifest: &Manifest,
    ) -> Result<Option<PartialObjectMeta<DynamicObject>>, StepError> {
        let live = self.api(kind, manifest)?.get_metadata_opt(&manifest.name).await;
        live.map_err(|e| kube_error(format!("failed to read {manifest}"), e))
    }

    /// Applies it, or asks what it would be.
    ///
    /// # Errors
    /// What the API server has against it; `Transient` where it is being deleted, and would go with all that is
    /// applied.
    pub(super) async fn apply(
        &self,
        kind: &Served,
        manifest: &Manifest,
        dry_run: bool,
    ) -> Result<DynamicObject, StepError> {
        let sent = self.send(self.client, kind, manifest, dry_run).await?;
        let sent = sent.map_err(|e| refused(manifest, e))?;
        if !dry_run && sent.metadata.deletion_timestamp.is_some() {
            return Err(doomed(manifest));
        }
        Ok(sent)
    }

    /// Sends it with `client`; the answer is the API server's.
    ///
    /// # Errors
    /// Why it was not sent.
    pub(super) async fn send(
        &self,
        client: &Client,
        kind: &Served,
        manifest: &Manifest,
        dry_run: bool,
    ) -> Result<kube::Result<DynamicObject>, StepError> {
        let api = Self::api_of(client, kind, manifest)?;
        if let Some(prune) = self.prune {
            let live = self.metadata(kind, manifest).await?;
            live.map_or(Ok(()), |live| prune.refuse_foreign(manifest, live.labels()))?;
        }
        let mut params = PatchParams::apply(FIELD_MANAGER);
        params.force = self.force;
        params.dry_run = dry_run;
        Ok(api.patch(&manifest.name, &params, &Patch::Apply(&manifest.object)).await)
    }
}

/// The error about an object that is being deleted.
pub(super) fn doomed(manifest: &Manifest) -> StepError {
    StepError::transient(format!("{manifest} is being deleted, so what is applied to it will be gone"))
        .with_hint("it is tried again until it is gone; see which finalizers hold it")
}

/// What the API server has against an object, in its words.
pub(super) fn refused(manifest: &Manifest, error: kube::Error) -> StepError {
    let message = format!("failed to apply {manifest} of {}", manifest.file);
    let kube::Error::Api(status) = &error else { return kube_error(message, error) };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let fields: Vec<String> = causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| format!("{} ({})", cause.field, cause.message))
        .collect();
    if !fields.is_empty() {
        return StepError::conflict(format!("{message}: others manage its fields {}", fields.join(", ")))
            .with_hint("set `force-conflicts = true` to take them over, or leave them out of the file");
    }
    let words = format!("{message}: {}", status.message);
    let class = kube_error(message, error).class;
    StepError::new(class, words)
}

/// Whether there is a namespace.
pub(super) async fn namespace_exists(client: &Client, name: &str) -> Result<bool, StepError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let found = api.get_metadata_opt(name).await;
    Ok(found.map_err(|e| kube_error(format!("failed to read namespace {name}"), e))?.is_some())
}

/// Waits until every applied definition is served.
pub(super) async fn established(
    ctx: &StepContext,
    target: &Target<'_>,
    names: &[String],
) -> Result<(), StepError> {
    let gvk = kube::core::GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> =
        Api::all_with(target.client.clone(), &kube::api::ApiResource::from_gvk(&gvk));
    let deadline = Instant::now() + ESTABLISH_TIMEOUT;
    for name in names {
        loop {
            let crd = api
                .get(name)
                .await
                .map_err(|e| kube_error(format!("failed to read definition {name}"), e))?;
            if is_established(&crd.data) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(StepError::transient(format!("definition {name} is not established")));
            }
            pause(ctx, POLL_INTERVAL).await?;
        }
    }
    Ok(())
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::order;
    use migrate_plugin_api::ErrorClass;

    fn manifest() -> Manifest {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n";
        order::parse("shop/Deployment-web.yaml", text).unwrap().remove(0)
    }

    #[test]
    fn a_conflict_names_fields_and_managers() {
        let status = serde_json::from_value(serde_json::json!({ "status": "Failure", "code": 409, "reason": "Conflict",
            "message": "Apply failed with 1 conflict: …", "details": { "causes": [{ "reason": "FieldManagerConflict",
            "field": ".spec.replicas", "message": "conflict with \"kubectl\" using apps/v1" }] } }))
        .unwrap();
        let error = refused(&manifest(), kube::Error::Api(Box::new(status)));
        assert_eq!(error.class, ErrorClass::Conflict);
        insta::assert_snapshot!(error.message);
    }

    #[test]
    fn what_the_api_server_says_is_said() {
        let status = serde_json::from_value(
            serde_json::json!({ "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "Deployment.apps \"web\" is invalid: spec.selector: Required value" }),
        )
        .unwrap();
        let error = refused(&manifest(), kube::Error::Api(Box::new(status)));
        assert_eq!(error.class, ErrorClass::Permanent);
        assert!(error.message.ends_with("spec.selector: Required value"), "{}", error.message);
    }
}
