//! `manifest.export`: the objects of namespaces as files, without what is the cluster's own, and what they need of what
//! is in no namespace ([`needs`](super::needs)). Reads the cluster only; natural to repeat.
//!
//! Invariant: Secrets are written readable by their owner alone, and never logged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::batch::v1::CronJob;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::needs::{Needs, is_for_classes, kept_back};
use super::sharing;
use super::strip::{
    CLASS_PARAMS, data_source, is_derived, is_scheduled, is_selecting, is_told, left_out, strip,
};
use super::tree::{self, Draft};
use super::yaml::to_yaml;
use crate::inventory::{Served, each_object, missing_namespaces, served};
use crate::kubernetes::{connect, kube_error, reach};
use crate::rules::code::ingress_elsewhere::Others;
use crate::rules::code::ingress_groups::Ingresses;
use crate::site::ClusterRef;
use crate::workload::text;

/// Folder of what is in no namespace. No namespace can be called so.
const CLUSTER_FOLDER: &str = "_cluster";

/// What Ingresses are rewritten by.
const INGRESS_CLASS: &str = "networking.k8s.io/v1/IngressClass";

/// What a CronJob does that is on two clusters.
const FIRES: &str = "it fires on both clusters from when it is applied: suspend it on one (`spec.suspend`)";

/// Longer names are cut and told apart by a digest: file systems take 255 bytes.
const NAME_BYTES: usize = 200;

/// `manifest.export`.
pub(crate) struct ManifestExport;

/// `with` of `manifest.export`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The cluster to read.
    pub cluster: ClusterRef,
    /// The namespaces to read.
    #[schemars(length(min = 1))]
    pub namespaces: Vec<String>,
    /// Folder to write; replaced as a whole, where it was written by `migrate`.
    pub directory: PathBuf,
    /// Kinds to leave out: `["StatefulSet", "PersistentVolumeClaim"]`. Of what is in no namespace, ClusterRoleBindings of
    /// the namespaces' service accounts and the ClusterRoles, PriorityClasses and ClusterSecretStores that are named
    /// are exported too, and AWS's IngressClasses with their IngressClassParams, unless they are left out here.
    #[serde(default)]
    pub exclude_kinds: Vec<String>,
}

/// What a person should know of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Warned {
    /// `Kind namespace/name`.
    pub object: String,
    /// What it is.
    pub note: String,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// The folder, as in `directory`.
    pub directory: PathBuf,
    /// Files written, one an object.
    pub files: u64,
    /// Objects written by `apiVersion/Kind`.
    pub objects: BTreeMap<String, u64>,
    /// Objects not written, by kind and reason.
    pub left_out: BTreeMap<String, u64>,
    /// What exported objects need and what was not exported, and what was taken from those that were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warned>,
    /// Kinds that these credentials may not list, and API groups that did not answer.
    pub unreadable: Vec<String>,
    /// Digest over names and contents of all written files.
    pub digest: String,
}

type Write<'a> = &'a mut (dyn FnMut(&str, &[u8], bool) -> Result<(), StepError> + Send);

struct Export<'a> {
    ctx: &'a StepContext,
    client: Client,
    config: &'a Config,
    outputs: Outputs,
    custom: BTreeSet<(String, String)>,
    needs: Needs,
    /// What is exported of these, with their classes.
    ingresses: Ingresses,
}

impl<'a> Export<'a> {
    fn new(ctx: &'a StepContext, client: Client, config: &'a Config) -> Self {
        let (outputs, needs, ingresses) = (Outputs::default(), Needs::default(), Ingresses::default());
        Self { ctx, client, config, outputs, custom: BTreeSet::new(), needs, ingresses }
    }

    /// What was written, and what is known of Ingresses that are not and share a load balancer with one that is.
    async fn run(mut self, write: Write<'_>) -> Result<(Outputs, Others), StepError> {
        let (all, broken) = served(&self.client).await?;
        self.outputs.unreadable = broken;
        let qualified = qualified(&all);
        let services = all.iter().find(|k| k.id() == "v1/Service");
        let excluded = &self.config.exclude_kinds;
        let wanted = all.iter().filter(|k| !excluded.contains(&k.resource.kind));
        let (kinds, global): (Vec<&Served>, Vec<&Served>) = wanted.partition(|k| k.namespaced);
        let kinds: Vec<&Served> =
            kinds.into_iter().filter(|k| k.listable && !is_derived(&k.resource.kind)).collect();
        let total = (kinds.len() * self.config.namespaces.len()) as u64;
        let mut done = 0;
        for namespace in &self.config.namespaces {
            self.cluster_object("v1", "Namespace", "namespaces", namespace, write).await?;
            let services = self.services(services, namespace).await?;
            for kind in &kinds {
                let what = Progress::message(format!("{namespace}: {}", kind.resource.kind));
                self.ctx.progress(what.items(done, total));
                let prefix = match qualified.contains(&kind.id()) {
                    true => format!("{}.{}", kind.resource.kind, kind.resource.group),
                    false => kind.resource.kind.clone(),
                };
                self.kind(kind, namespace, &prefix, &services, write).await?;
                done += 1;
            }
        }
        self.needed(&global, write).await?;
        let others = sharing::others(self.ctx, &self.client, &all, &self.ingresses).await?;
        if others == Others::Unread {
            let note = "they could not be read: an Ingress with `group.name` stays when it is rewritten, since one of them \
                        may say who may come in at the same load balancer";
            self.outputs.warn("Ingresses of other namespaces".to_owned(), note.to_owned());
        }
        for (plural, group) in std::mem::take(&mut self.custom) {
            let name = format!("{plural}.{group}");
            let kind = "CustomResourceDefinition";
            self.cluster_object("apiextensions.k8s.io/v1", kind, "customresourcedefinitions", &name, write)
                .await?;
        }
        self.outputs.directory.clone_from(&self.config.directory);
        Ok((self.outputs, others))
    }

    /// The Services of a namespace, and whether each finds its pods by itself: those that can be read.
    async fn services(
        &self,
        kind: Option<&Served>,
        namespace: &str,
    ) -> Result<BTreeMap<String, bool>, StepError> {
        let mut services = BTreeMap::new();
        let Some(kind) = kind else { return Ok(services) };
        each_object(self.ctx, &self.client, kind, namespace, |service| {
            let name = text(&service, &["metadata", "name"]).unwrap_or_default();
            services.insert(name.to_owned(), is_selecting(&service));
            Ok(())
        })
        .await?;
        Ok(services)
    }

    async fn kind(
        &mut self,
        kind: &Served,
        namespace: &str,
        prefix: &str,
        services: &BTreeMap<String, bool>,
        write: Write<'_>,
    ) -> Result<(), StepError> {
        let id = kind.id();
        let (outputs, needs, ingresses) = (&mut self.outputs, &mut self.needs, &mut self.ingresses);
        let mut written = 0;
        let listed = each_object(self.ctx, &self.client, kind, namespace, |mut object| {
            if let Some(reason) = left_out(&object, services) {
                *outputs.left_out.entry(format!("{id}: {reason}")).or_default() += 1;
                if is_told(reason) {
                    let name = text(&object, &["metadata", "name"]).unwrap_or_default();
                    let shown = format!("{} {namespace}/{name}", kind.resource.kind);
                    outputs.warn(shown, format!("not exported: {reason}"));
                }
                return Ok(());
            }
            let name = text(&object, &["metadata", "name"]).unwrap_or_default().to_owned();
            needs.take(&object);
            if kind.resource.kind == "Ingress" {
                sharing::take(ingresses, &object);
            }
            if let Some(from) = data_source(&object) {
                let note = format!("it was filled from {from} once: exported without that, for a new volume");
                outputs.warn(format!("{} {namespace}/{name}", kind.resource.kind), note);
            }
            if is_scheduled(&object) {
                outputs.warn(format!("{} {namespace}/{name}", kind.resource.kind), FIRES.to_owned());
            }
            strip(&mut object);
            let is_private = id == "v1/Secret";
            write(&file_name(namespace, prefix, &name), to_yaml(&object).as_bytes(), is_private)?;
            written += 1;
            Ok(())
        })
        .await?;
        if !listed {
            outputs.unreadable.push(id.clone());
        }
        if written > 0 {
            outputs.files += written;
            *outputs.objects.entry(id).or_default() += written;
            if is_custom(&kind.resource.group) {
                self.custom.insert((kind.resource.plural.clone(), kind.resource.group.clone()));
            }
        }
        Ok(())
    }

    /// Writes what is in no namespace and needed, and tells the rest of it.
    async fn needed(&mut self, kinds: &[&Served], write: Write<'_>) -> Result<(), StepError> {
        let namespaces = &self.config.namespaces;
        let mut found = Vec::new();
        let unreadable = self.needs.read(self.ctx, &self.client, kinds, namespaces, |kind, object| {
            found.push((kind.clone(), object));
            Ok(())
        });
        self.outputs.unreadable.extend(unreadable.await?);
        for (kind, mut object) in found {
            if is_for_classes(&kind) {
                sharing::take(&mut self.ingresses, &object);
            }
            let name = text(&object, &["metadata", "name"]).unwrap_or_default().to_owned();
            let shown = format!("{} {name}", kind.resource.kind);
            if let Some(reason) = left_out(&object, &BTreeMap::new()) {
                *self.outputs.left_out.entry(format!("{}: {reason}", kind.id())).or_default() += 1;
                continue;
            }
            if let Some(reason) = kept_back(&object, namespaces) {
                let by = self.needs.of(&kind, &name);
                let by =
                    if by.is_empty() { "accounts of the namespaces".to_owned() } else { tree::listed(&by) };
                self.outputs.warn(shown, format!("not exported, and needed by {by}: {reason}"));
                continue;
            }
            strip(&mut object);
            write(
                &file_name(CLUSTER_FOLDER, &kind.resource.kind, &name),
                to_yaml(&object).as_bytes(),
                false,
            )?;
            self.outputs.files += 1;
            *self.outputs.objects.entry(kind.id()).or_default() += 1;
            // What is for the rewrite alone needs no definition on AKS.
            if is_custom(&kind.resource.group) && kind.resource.kind != CLASS_PARAMS {
                self.custom.insert((kind.resource.plural.clone(), kind.resource.group.clone()));
            }
        }
        let excluded = &self.config.exclude_kinds;
        let untaken = self.needs.iter().filter(|(need, _)| !need.is_taken());
        for (need, by) in untaken.filter(|(need, _)| !excluded.iter().any(|kind| kind == need.kind)) {
            let by: Vec<String> = by.iter().cloned().collect();
            let note = format!("not exported, and needed by {}", tree::listed(&by));
            self.outputs.warn(need.to_string(), note);
        }
        Ok(())
    }

    /// Writes one object that is in no namespace. One that isn't there (an aggregated API has no
    /// definition) is left out.
    async fn cluster_object(
        &mut self,
        api_version: &str,
        kind: &str,
        plural: &str,
        name: &str,
        write: Write<'_>,
    ) -> Result<(), StepError> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let api: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural));
        let found = api.get_opt(name).await;
        let found = found.map_err(|e| kube_error(format!("failed to read {kind} {name}"), e))?;
        let id = format!("{api_version}/{kind}");
        let Some(object) = found else {
            *self.outputs.left_out.entry(format!("{id}: there is none")).or_default() += 1;
            return Ok(());
        };
        let mut object = serde_json::to_value(object)
            .map_err(|e| StepError::permanent("failed to read an object as JSON").with_source(e))?;
        strip(&mut object);
        write(&file_name(CLUSTER_FOLDER, kind, name), to_yaml(&object).as_bytes(), false)?;
        self.outputs.files += 1;
        *self.outputs.objects.entry(id).or_default() += 1;
        Ok(())
    }
}

impl Outputs {
    fn warn(&mut self, object: String, note: String) {
        self.warnings.push(Warned { object, note });
    }
}

/// CronJobs that will run on both clusters. Where they may not be listed, the export says so.
async fn scheduled(client: &Client, namespaces: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for namespace in namespaces {
        let api: Api<CronJob> = Api::namespaced(client.clone(), namespace);
        let listed = api.list(&ListParams::default()).await;
        let firing = listed.into_iter().flatten().filter(|job| job.spec.suspend != Some(true));
        problems.extend(
            firing.map(|job| Problem::warning(format!("CronJob {namespace}/{}: {FIRES}", job.name_any()))),
        );
    }
    problems
}

/// Whether kinds of this API group come from a CustomResourceDefinition, judged by its name:
/// Kubernetes keeps `*.k8s.io` and names without a dot for itself.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

/// Kinds whose file names need their group, because another group has a kind of the same name.
fn qualified(kinds: &[Served]) -> BTreeSet<String> {
    let mut groups: BTreeMap<&str, Vec<&Served>> = BTreeMap::new();
    for kind in kinds.iter().filter(|k| k.namespaced && k.listable) {
        groups.entry(&kind.resource.kind).or_default().push(kind);
    }
    let mut qualified = BTreeSet::new();
    for mut same in groups.into_values() {
        same.sort_by_key(|k| (is_custom(&k.resource.group), k.resource.group.clone()));
        qualified.extend(same.into_iter().skip(1).map(Served::id));
    }
    qualified
}

/// `NAMESPACE/KIND-NAME.yaml`, of characters that are harmless in any path.
fn file_name(folder: &str, prefix: &str, name: &str) -> String {
    format!("{}/{}.yaml", sanitized(folder), sanitized(&format!("{prefix}-{name}")))
}

fn sanitized(name: &str) -> String {
    let mut safe = String::new();
    for (at, byte) in name.bytes().enumerate() {
        let is_safe = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && at > 0);
        if is_safe {
            safe.push(char::from(byte));
        } else {
            safe.push_str(&format!("%{byte:02X}"));
        }
    }
    if safe.len() > NAME_BYTES {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        safe.truncate(NAME_BYTES - 17);
        safe = format!("{safe}-{}", hex::encode(&digest.as_ref()[..8]));
    }
    safe
}

fn unlisted(kind: &str, note: &str) -> Check {
    Check::told(kind, "listed", note)
}

fn evidence(outputs: &Outputs, digest: String) -> Evidence {
    let folder = format!("folder {}", outputs.directory.display());
    let mut checks = vec![
        Check::equal(folder, "sha256", &outputs.digest, digest)
            .with_note(format!("{} objects", outputs.files)),
    ];
    checks.extend(outputs.unreadable.iter().map(|kind| unlisted(kind, "could not be listed: not exported")));
    checks
        .extend(outputs.warnings.iter().map(|warned| Check::told(&warned.object, "exported", &warned.note)));
    Evidence { checks }
}

#[async_trait]
impl TypedStep for ManifestExport {
    const NAME: &'static str = "manifest.export";
    const SUMMARY: &'static str =
        "Writes the objects of namespaces as files, without what is the cluster's own";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let given: Option<Vec<String>> = config.field("namespaces")?;
        let namespaces = given.as_deref().unwrap_or_default();
        let mut plan = StepPlan::new("export manifests");
        if let Some(directory) = config.field::<PathBuf>("directory")? {
            plan.summary = format!("export {} to {}", namespaces.join(", "), directory.display());
            tree::plan_replacing(&mut plan, &ctx.path(&directory), &directory, "directory");
        }
        if let Some(cluster) = config.field::<ClusterRef>("cluster")? {
            match reach(ctx, &cluster, "cluster").await {
                Ok((client, _)) => {
                    if given.is_some() {
                        plan.problems.extend(missing_namespaces(&client, namespaces, "namespaces").await?);
                    }
                    let excluded: Vec<String> = config.field("exclude-kinds")?.unwrap_or_default();
                    if !excluded.iter().any(|kind| kind == "CronJob") {
                        plan.problems.extend(scheduled(&client, namespaces).await);
                    }
                }
                Err(problem) => plan.problems.push(*problem),
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let client = connect(ctx, &config.cluster).await?;
        let missing = missing_namespaces(&client, &config.namespaces, "namespaces").await?;
        if let Some(problem) = missing.into_iter().next() {
            return Err(problem.into());
        }
        let directory = ctx.path(&config.directory);
        let draft = Draft::new(&directory, &ctx.key)?;
        let export = Export::new(ctx, client, config);
        let (mut outputs, others) =
            export.run(&mut |path, bytes, is_private| draft.write(path, bytes, is_private)).await?;
        draft.lacks(&outputs.unreadable)?;
        let lacks_classes = outputs.unreadable.iter().any(|kind| kind == INGRESS_CLASS)
            || config.exclude_kinds.iter().any(|kind| INGRESS_CLASS.ends_with(&format!("/{kind}")));
        draft.says(if lacks_classes { tree::Exported::WithoutClasses } else { tree::Exported::Whole })?;
        others.to_lines().iter().try_for_each(|lines| draft.shares(lines))?;
        draft.commit()?;
        outputs.digest = tree::digest(&directory)?;
        for Warned { object, note } in &outputs.warnings {
            ctx.warn(format!("{object}: {note}"));
        }
        let left: u64 = outputs.left_out.values().sum();
        ctx.info(format!("{} objects exported, {left} left out", outputs.files));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let directory = ctx.path(&config.directory);
        let digest = if directory.is_dir() { tree::digest(&directory)? } else { "not there".to_owned() };
        let mut evidence = evidence(outputs, digest);
        if depth == VerifyDepth::Deep {
            let client = connect(ctx, &config.cluster).await?;
            let export = Export::new(ctx, client, config);
            let (mut changed, mut again) = (Vec::new(), BTreeSet::new());
            let (now, _) = export
                .run(&mut |path, bytes, _| {
                    again.insert(path.to_owned());
                    if std::fs::read(directory.join(path)).ok().as_deref() != Some(bytes) {
                        changed.push(path.to_owned());
                    }
                    Ok(())
                })
                .await?;
            let files = if directory.is_dir() { tree::list(&directory)?.files } else { Vec::new() };
            let gone = files.into_iter().map(|entry| entry.path).filter(|path| !again.contains(path));
            changed.extend(gone.map(|path| format!("{path} (gone, or not to be read)")));
            let unread = now.unreadable.iter().filter(|kind| !outputs.unreadable.contains(kind));
            let note = "can no longer be listed: not compared";
            evidence.checks.extend(unread.map(|kind| unlisted(kind, note)));
            let subject = format!("cluster {}", config.cluster.context);
            let what = "objects changed since the export";
            evidence.checks.push(Check::equal(subject, what, "none", tree::listed(&changed)));
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_harmless_paths() {
        assert_eq!(file_name("shop", "Deployment", "web"), "shop/Deployment-web.yaml");
        assert_eq!(file_name("..", "Role", "system:a/../../b"), "%2E./Role-system%3Aa%2F..%2F..%2Fb.yaml");
        let long = file_name("shop", "ConfigMap", &"a".repeat(253));
        assert!(long.len() < 230 && long != file_name("shop", "ConfigMap", &"a".repeat(252)));
    }

    #[test]
    fn kinds_of_the_same_name_are_told_apart() {
        let kind = |group: &str, kind: &str| Served {
            resource: ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)),
            namespaced: true,
            listable: true,
        };
        let kinds = [kind("", "Service"), kind("serving.knative.dev", "Service"), kind("apps", "Deployment")];
        assert_eq!(qualified(&kinds), BTreeSet::from(["serving.knative.dev/v1/Service".to_owned()]));
        assert!(is_custom("example.com") && !is_custom("networking.k8s.io") && !is_custom("apps"));
    }

    #[test]
    fn an_exported_deployment_reads_well() {
        let mut object = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "2", "labels": { "app": "web" },
                "annotations": { "deployment.kubernetes.io/revision": "1" } },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": {
                "metadata": { "creationTimestamp": null, "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": "old.io/web:1" }] } } },
            "status": { "replicas": 2 } });
        strip(&mut object);
        insta::assert_snapshot!(to_yaml(&object));
    }
}
