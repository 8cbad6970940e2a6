//! `manifest.apply`: applies a folder of manifests, server side, and waits until workloads run.
//! Natural to repeat: the API server merges fields by manager.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext, StepError,
    StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::order::{self, Manifest};
use super::outlook::{Outlook, differing};
use super::{render, tree};
use crate::duration::Span;
use crate::inventory::{Catalog, Served};
use crate::kubernetes::{connect, kube_error, reach};
use crate::rollout::{POLL_INTERVAL, Workload, is_workload, pause, readiness};
use crate::site::ClusterRef;

/// Under this name the API server keeps who set which field.
const FIELD_MANAGER: &str = "migrate";

/// Definitions are established within a second or two; a cluster that takes longer has another fault.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);

/// Large images on new nodes take minutes to arrive.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Problems shown before a run; a wholly refused folder needs no more to be understood.
const PROBLEMS_SHOWN: usize = 20;

/// `manifest.apply`.
pub(crate) struct ManifestApply;

/// `with` of `manifest.apply`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The cluster to change.
    pub cluster: ClusterRef,
    /// Folder of manifests.
    pub directory: PathBuf,
    /// Takes fields over from other managers instead of failing with a conflict.
    #[serde(default)]
    pub force_conflicts: bool,
    /// How long to wait for workloads to be ready: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_timeout: Option<Span>,
}

/// An object that the target takes no part in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Skipped {
    /// The file.
    pub file: String,
    /// `Kind namespace/name`.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// An object that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Applied {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// Counts by `apiVersion/Kind`.
    pub objects: BTreeMap<String, u64>,
    /// Every object.
    pub applied: Vec<Applied>,
    /// Objects of kinds that the target doesn't serve.
    pub skipped: Vec<Skipped>,
}

impl Outputs {
    fn workloads(&self) -> Vec<Workload> {
        let workloads = self.applied.iter().filter(|a| a.api_version == "apps/v1" && is_workload(&a.kind));
        workloads
            .map(|a| Workload { kind: a.kind.clone(), namespace: a.namespace.clone(), name: a.name.clone() })
            .collect()
    }
}

/// Reads and orders all manifests of a folder; charts and an overlay are what they make.
fn manifests(root: &Path) -> Result<Vec<Manifest>, StepError> {
    let mut all = Vec::new();
    let mut take = |path: &str, text: &str| {
        let parsed = order::parse(path, text);
        all.extend(parsed.map_err(|e| StepError::permanent("failed to read the manifests").with_source(e))?);
        Ok::<(), StepError>(())
    };
    let mut files = tree::list(root)?.files;
    let mut charts = Vec::new();
    match render::overlay_file(root) {
        Some(name) => {
            take(name, &render::overlay(root)?)?;
            files.clear();
        }
        None => charts = render::charts(files.iter().map(|entry| entry.path.as_str())),
    }
    for chart in &charts {
        for rendered in render::chart(&root.join(chart), None)? {
            take(&format!("{}{}", chart.display(), rendered.template), &rendered.text)?;
        }
    }
    let folders = || charts.iter().map(PathBuf::as_path);
    files.retain(|entry| entry.is_manifest() && !render::belongs_to_chart(&entry.path, folders()));
    for entry in &files {
        let bytes = tree::read(entry)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| StepError::permanent(format!("{} is not UTF-8", entry.path)).with_source(e))?;
        take(&entry.path, text)?;
    }
    if all.is_empty() {
        return Err(StepError::permanent(format!("{} holds no manifest", root.display())));
    }
    if let Some((first, second)) = order::duplicate(&all) {
        return Err(StepError::permanent(format!("{first} is in {} and in {}", first.file, second.file)));
    }
    order::sort(&mut all);
    Ok(all)
}

struct Target<'a> {
    client: &'a Client,
    force: bool,
}

impl Target<'_> {
    fn api(&self, kind: &Served, manifest: &Manifest) -> Result<Api<DynamicObject>, StepError> {
        match (kind.namespaced, manifest.namespace.as_str()) {
            (true, "") => {
                Err(StepError::permanent(format!("{manifest} in {} names no namespace", manifest.file))
                    .with_hint("add metadata.namespace: what is applied must not depend on a default"))
            }
            (true, namespace) => Ok(Api::namespaced_with(self.client.clone(), namespace, &kind.resource)),
            (false, _) => Ok(Api::all_with(self.client.clone(), &kind.resource)),
        }
    }

    async fn live(&self, kind: &Served, manifest: &Manifest) -> Result<Option<DynamicObject>, StepError> {
        let live = self.api(kind, manifest)?.get_opt(&manifest.name).await;
        live.map_err(|e| kube_error(format!("failed to read {manifest}"), e))
    }

    async fn apply(
        &self,
        kind: &Served,
        manifest: &Manifest,
        dry_run: bool,
    ) -> Result<DynamicObject, StepError> {
        let api = self.api(kind, manifest)?;
        let mut params = PatchParams::apply(FIELD_MANAGER);
        params.force = self.force;
        params.dry_run = dry_run;
        let sent = api.patch(&manifest.name, &params, &Patch::Apply(&manifest.object)).await;
        sent.map_err(|e| refused(manifest, e))
    }
}

/// What the API server has against an object, in its words.
fn refused(manifest: &Manifest, error: kube::Error) -> StepError {
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

/// What applying the folder would do, found without changing anything.
async fn preflight(
    ctx: &StepContext,
    target: &Target<'_>,
    manifests: &[Manifest],
) -> Result<Outlook, StepError> {
    let catalog = Catalog::of(target.client).await?;
    let defined: BTreeSet<(&str, &str)> = manifests
        .iter()
        .filter(|m| m.kind == "CustomResourceDefinition")
        .filter_map(|m| {
            let field = |at: &str| m.object.pointer(at).and_then(Value::as_str);
            Some((field("/spec/group")?, field("/spec/names/kind")?))
        })
        .collect();
    let created: BTreeSet<&str> =
        manifests.iter().filter(|m| m.kind == "Namespace").map(|m| m.name.as_str()).collect();
    let mut outlook = Outlook::default();
    let mut namespaces: BTreeMap<&str, bool> = BTreeMap::new();
    for manifest in manifests {
        ctx.check_cancelled()?;
        if outlook.problems.len() >= PROBLEMS_SHOWN {
            break;
        }
        let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else {
            let group = manifest.api_version.split_once('/').map_or("", |(group, _)| group);
            if defined.contains(&(group, manifest.kind.as_str())) {
                outlook.new += 1;
            } else {
                let message = format!("{manifest} will be skipped: {}", unserved(manifest));
                outlook.problems.push(Problem::warning(message));
            }
            continue;
        };
        let namespace = manifest.namespace.as_str();
        if kind.namespaced && !namespace.is_empty() {
            let exists = match namespaces.get(namespace) {
                Some(exists) => *exists,
                None => namespace_exists(target.client, namespace).await?,
            };
            namespaces.insert(namespace, exists);
            if !exists {
                if created.contains(namespace) {
                    outlook.new += 1;
                } else {
                    let message = format!("{manifest}: the target has no namespace `{namespace}`");
                    outlook.problems.push(Problem::error(message).in_field("directory"));
                }
                continue;
            }
        }
        match target.apply(kind, manifest, true).await {
            Ok(would_be) => outlook.take(manifest, target.live(kind, manifest).await?, would_be),
            Err(e) => {
                let mut problem = Problem::error(e.message).in_field("directory");
                problem.hint = e.hint;
                outlook.problems.push(problem);
            }
        }
    }
    Ok(outlook)
}

async fn namespace_exists(client: &Client, name: &str) -> Result<bool, StepError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let found = api.get_metadata_opt(name).await;
    Ok(found.map_err(|e| kube_error(format!("failed to read namespace {name}"), e))?.is_some())
}

fn unserved(manifest: &Manifest) -> String {
    format!("the target serves no {} {}", manifest.api_version, manifest.kind)
}

/// Waits until every applied definition is served.
async fn established(ctx: &StepContext, target: &Target<'_>, names: &[String]) -> Result<(), StepError> {
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

async fn apply_all(
    ctx: &StepContext,
    target: &Target<'_>,
    manifests: &[Manifest],
) -> Result<Outputs, StepError> {
    let mut outputs = Outputs::default();
    let total = manifests.len() as u64;
    let (definitions, rest): (Vec<&Manifest>, Vec<&Manifest>) =
        manifests.iter().partition(|m| m.kind == "CustomResourceDefinition");
    for batch in [definitions, rest] {
        // Asked anew for the second batch: the definitions of the first add kinds.
        let catalog = Catalog::of(target.client).await?;
        let mut names = Vec::new();
        for manifest in batch {
            ctx.check_cancelled()?;
            ctx.progress(Progress::message(manifest.to_string()).items(outputs.done(), total));
            let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else {
                outputs.skip(manifest, unserved(manifest));
                ctx.warn(format!("{manifest} is skipped: {}", unserved(manifest)));
                continue;
            };
            target.apply(kind, manifest, false).await?;
            if manifest.kind == "CustomResourceDefinition" {
                names.push(manifest.name.clone());
            }
            outputs.add(manifest);
        }
        established(ctx, target, &names).await?;
    }
    Ok(outputs)
}

impl Outputs {
    fn done(&self) -> u64 {
        (self.applied.len() + self.skipped.len()) as u64
    }

    fn skip(&mut self, manifest: &Manifest, reason: String) {
        self.skipped.push(Skipped { file: manifest.file.clone(), object: manifest.to_string(), reason });
    }

    fn add(&mut self, manifest: &Manifest) {
        *self.objects.entry(format!("{}/{}", manifest.api_version, manifest.kind)).or_default() += 1;
        self.applied.push(Applied {
            api_version: manifest.api_version.clone(),
            kind: manifest.kind.clone(),
            namespace: manifest.namespace.clone(),
            name: manifest.name.clone(),
        });
    }
}

/// Which applied objects are gone.
async fn absent(client: &Client, outputs: &Outputs) -> Result<Vec<String>, StepError> {
    let catalog = Catalog::of(client).await?;
    let mut absent = Vec::new();
    for applied in &outputs.applied {
        let place = format!("{} {}/{}", applied.kind, applied.namespace, applied.name);
        let Some(kind) = catalog.get(&applied.api_version, &applied.kind) else {
            absent.push(place);
            continue;
        };
        let api: Api<DynamicObject> = match kind.namespaced {
            true => Api::namespaced_with(client.clone(), &applied.namespace, &kind.resource),
            false => Api::all_with(client.clone(), &kind.resource),
        };
        let found = api.get_metadata_opt(&applied.name).await;
        if found.map_err(|e| kube_error(format!("failed to read {place}"), e))?.is_none() {
            absent.push(place);
        }
    }
    Ok(absent)
}

/// Objects whose fields are no longer what the files say: applying them again would change them.
async fn drifted(ctx: &StepContext, target: &Target<'_>, root: &Path) -> Result<Vec<String>, StepError> {
    let catalog = Catalog::of(target.client).await?;
    let mut drifted = Vec::new();
    for manifest in manifests(root)? {
        ctx.check_cancelled()?;
        let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else { continue };
        let would_be = target.apply(kind, &manifest, true).await?;
        match target.live(kind, &manifest).await? {
            None => drifted.push(format!("{manifest}: gone")),
            Some(live) => {
                let fields = differing(live, would_be);
                if !fields.is_empty() {
                    drifted.push(format!("{manifest}: {}", tree::listed(&fields)));
                }
            }
        }
    }
    Ok(drifted)
}

#[async_trait]
impl TypedStep for ManifestApply {
    const NAME: &'static str = "manifest.apply";
    const SUMMARY: &'static str = "Applies manifests server side and waits until their workloads run";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("apply manifests");
        let Some(cluster) = config.field::<ClusterRef>("cluster")? else { return Ok(plan) };
        plan.summary = format!("apply manifests to cluster `{}`", cluster.context);
        let client = match reach(ctx, &cluster, "cluster").await {
            Ok((client, _)) => client,
            Err(problem) => {
                plan.problems.push(*problem);
                return Ok(plan);
            }
        };
        let Some(config) = config.known() else { return Ok(plan) };
        let root = ctx.path(&config.directory);
        if !root.is_dir() {
            return Ok(plan);
        }
        match manifests(&root) {
            Ok(manifests) => {
                plan.items = Some(manifests.len() as u64);
                let target = Target { client: &client, force: config.force_conflicts };
                let Outlook { problems, new, same, changed } = preflight(ctx, &target, &manifests).await?;
                plan.summary = format!(
                    "apply {} objects to cluster `{}`: {new} new, {} to change, {same} as they are",
                    manifests.len(),
                    cluster.context,
                    changed.len()
                );
                plan.destroys.extend(changed.into_iter().map(|what| format!("fields of {what}")));
                plan.problems.extend(problems);
            }
            Err(e) => plan.problems.push(tree::problem_of(&e, "directory")),
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let manifests = manifests(&ctx.path(&config.directory))?;
        let client = connect(ctx, &config.cluster).await?;
        let target = Target { client: &client, force: config.force_conflicts };
        let outputs = apply_all(ctx, &target, &manifests).await?;
        let deadline = Instant::now() + config.rollout_timeout.map_or(ROLLOUT_TIMEOUT, |span| span.0);
        for workload in outputs.workloads() {
            workload.wait(ctx, &client, deadline).await?;
        }
        ctx.info(format!("{} objects applied, {} skipped", outputs.applied.len(), outputs.skipped.len()));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let client = connect(ctx, &config.cluster).await?;
        let cluster = format!("cluster {}", config.cluster.context);
        let absent = absent(&client, outputs).await?;
        let expected = outputs.applied.len();
        let mut present = Check::equal(
            cluster.clone(),
            "applied objects",
            expected.to_string(),
            (expected - absent.len()).to_string(),
        );
        if !absent.is_empty() {
            present = present.with_note(format!("gone: {}", tree::listed(&absent)));
        }
        let mut checks = vec![present];
        if depth == VerifyDepth::Deep {
            let target = Target { client: &client, force: true };
            let drifted = drifted(ctx, &target, &ctx.path(&config.directory)).await?;
            let what = "objects that are no longer as applied";
            checks.push(Check::equal(cluster, what, "none", tree::listed(&drifted)));
        }
        for workload in outputs.workloads() {
            checks.push(match workload.read(&client).await? {
                Some(object) => {
                    let now = readiness(&object);
                    let status = if now.is_ready { CheckStatus::Passed } else { CheckStatus::Failed };
                    let note = if now.is_ready { None } else { workload.why(&client, &object).await.ok() };
                    let (source, target) = (now.wanted.to_string(), now.available.to_string());
                    let (subject, what) = (workload.to_string(), "available pods".to_owned());
                    Check { subject, what, source, target, status, note: note.filter(|n| !n.is_empty()) }
                }
                None => Check::equal(workload.to_string(), "present", "yes", "no"),
            });
        }
        checks.extend(outputs.skipped.iter().map(|skipped| Check {
            subject: skipped.object.clone(),
            what: "applied".to_owned(),
            source: skipped.file.clone(),
            target: String::new(),
            status: CheckStatus::Warning,
            note: Some(skipped.reason.clone()),
        }));
        Ok(Evidence { checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_folder_is_read_in_order_and_without_doubles() {
        let dir = tempfile::tempdir().unwrap();
        assert!(manifests(dir.path()).is_err());
        let write = |name: &str, kind: &str| {
            let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n");
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        write("a.yaml", "Pod");
        write("b.yml", "Secret");
        std::fs::write(dir.path().join("notes.txt"), "not a manifest").unwrap();
        let kinds: Vec<_> = manifests(dir.path()).unwrap().into_iter().map(|m| m.kind).collect();
        assert_eq!(kinds, ["Secret", "Pod"]);
        write("c.yaml", "Pod");
        let error = manifests(dir.path()).unwrap_err();
        assert_eq!(error.message, "Pod shop/a is in a.yaml and in c.yaml");
    }
}
