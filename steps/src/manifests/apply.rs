//! `manifest.apply`: applies a folder of manifests, server side, and waits until workloads run; then deletes what is
//! no longer in the folder, where that is asked for ([`prune`](super::prune)).
//! Natural to repeat: the API server merges fields by manager, and what is deleted is gone. What runs because it is
//! created is not created twice ([`once`](super::once)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kube::Client;
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, Progress, Severity, StepContext,
    StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::apply_set::{Prune, Record, group_kind};
use super::exposed;
use super::folder::{self, Folder};
use super::once::{self, Once};
use super::order::{self, Manifest};
use super::outlook::{Outlook, differing};
use super::prune::{LeftInPlace, Pruned, Set, Wanted, is_there};
use super::target::{Target, established, namespace_exists, refuse_source, source_problem};
use super::tree;
use crate::duration::Span;
use crate::inventory::{Catalog, is_label};
use crate::kubernetes::{connect, kube_error, reach};
use crate::rollout::{Workload, is_workload, readiness};
use crate::site::ClusterRef;

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
    /// The cluster that is migrated from: where it is the same one, nothing is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ClusterRef>,
    /// Folder of manifests.
    pub directory: PathBuf,
    /// Namespace of the release that a chart of Helm in the folder becomes (`default` where none is given), and of objects
    /// that name none (which are refused otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Takes fields over from other managers instead of failing with a conflict.
    #[serde(default)]
    pub force_conflicts: bool,
    /// How long to wait for workloads to be ready: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_timeout: Option<Span>,
    /// Deletes what earlier runs applied under the same name and is no longer in the folder, when everything in it
    /// runs: `{ set = "web", namespace = "shop" }`. Never PersistentVolumes and their claims, Namespaces and
    /// CustomResourceDefinitions. What was applied without `prune` is in no set, and stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
}

impl Config {
    /// What is in the folder, as it is applied.
    async fn folder(&self, client: &Client, root: &Path) -> Result<Folder, StepError> {
        let namespace = self.namespace.as_deref();
        if let Some(name) = namespace.filter(|name| !is_label(name)) {
            return Err(StepError::permanent(format!("`{}` is no name of a namespace", name.escape_debug())));
        }
        let mut folder = match &self.prune {
            Some(prune) => {
                prune.check()?;
                folder::whole(root, namespace)?
            }
            None => folder::manifests(root, namespace)?,
        };
        if let Some(namespace) = namespace {
            folder.place(&Catalog::of(client).await?, namespace)?;
        }
        if let Some(prune) = &self.prune {
            prune.mark(&mut folder.manifests)?;
        }
        Ok(folder)
    }
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
    /// Of a Job, or a Pod that comes to an end: its UID. Nothing of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl Applied {
    /// Whether it may have ended and been removed. An earlier version kept no UIDs.
    fn runs_once(&self) -> bool {
        self.uid.is_some() || group_kind(&self.api_version, &self.kind) == "Job.batch"
    }
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        order::write_place(f, &self.kind, &self.namespace, &self.name)
    }
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
    /// Objects that Helm makes for a deletion, a rollback or a test.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Skipped>,
    /// What belongs into the folder, and whoever wrote it could not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Objects that were deleted: `prune`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pruned: Vec<Pruned>,
    /// Objects that are no longer in the folder, and were not deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_in_place: Vec<LeftInPlace>,
}

impl Outputs {
    fn workloads(&self) -> Vec<Workload> {
        let workloads = self.applied.iter().filter(|a| a.api_version == "apps/v1" && is_workload(&a.kind));
        workloads
            .map(|a| Workload { kind: a.kind.clone(), namespace: a.namespace.clone(), name: a.name.clone() })
            .collect()
    }
}

/// What applying the folder would do, found without changing anything.
async fn preflight(
    ctx: &StepContext,
    target: &Target<'_>,
    manifests: &[Manifest],
) -> Result<Outlook, StepError> {
    let catalog = Catalog::of(target.client).await?;
    let defined = defined(manifests);
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
            if defined.contains(&(manifest.api_version.clone(), manifest.kind.as_str())) {
                outlook.new += 1;
            } else {
                outlook.problems.push(match target.prune {
                    None => Problem::warning(format!("{manifest} will be skipped: {}", unserved(manifest))),
                    Some(_) => tree::problem_of(&not_whole(&[manifest.to_string()]), "prune"),
                });
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

/// `GROUP/VERSION` and kind of what the folder itself defines.
fn defined(manifests: &[Manifest]) -> BTreeSet<(String, &str)> {
    let mut defined = BTreeSet::new();
    for definition in manifests.iter().filter(|m| m.kind == "CustomResourceDefinition") {
        let spec = &definition.object["spec"];
        let (Some(group), Some(kind)) = (spec["group"].as_str(), spec["names"]["kind"].as_str()) else {
            continue;
        };
        let versions = spec["versions"].as_array().into_iter().flatten();
        let names = versions.filter(|version| version["served"] == true).filter_map(|v| v["name"].as_str());
        defined.extend(names.map(|version| (format!("{group}/{version}"), kind)));
    }
    defined
}

fn unserved(manifest: &Manifest) -> String {
    format!("the target serves no {} {}", manifest.api_version, manifest.kind)
}

/// What could not be applied may be what takes the place of what would be deleted.
fn not_whole(skipped: &[String]) -> StepError {
    StepError::permanent(format!(
        "nothing is deleted, since the target does not serve what else is in the folder: {}",
        tree::listed(skipped)
    ))
    .with_hint("install what defines it, or take it out of the folder")
}

/// Applies everything, in order; `uids` takes what the API server calls it.
async fn apply_all(
    ctx: &StepContext,
    target: &Target<'_>,
    manifests: &[Manifest],
    once: &mut Once<'_>,
    uids: &mut BTreeSet<String>,
) -> Result<Outputs, StepError> {
    let mut outputs = Outputs::default();
    let total = manifests.len() as u64;
    let defined = defined(manifests);
    let (definitions, rest): (Vec<&Manifest>, Vec<&Manifest>) =
        manifests.iter().partition(|m| m.kind == "CustomResourceDefinition");
    for batch in [definitions, rest] {
        // Asked anew for the second batch: the definitions of the first add kinds.
        let catalog = Catalog::of(target.client).await?;
        for part in once::parts(&batch) {
            let applied = async {
                once.begin(ctx, target, &catalog, part).await?;
                for manifest in part {
                    ctx.check_cancelled()?;
                    ctx.progress(Progress::message(manifest.to_string()).items(outputs.done(), total));
                    let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else {
                        if defined.contains(&(manifest.api_version.clone(), manifest.kind.as_str())) {
                            return Err(StepError::transient(format!("{} yet", unserved(manifest))));
                        }
                        outputs.skip(manifest, unserved(manifest));
                        ctx.warn(format!("{manifest} is skipped: {}", unserved(manifest)));
                        continue;
                    };
                    let uid = once.apply(ctx, target, kind, manifest).await?;
                    uids.extend(uid.clone());
                    outputs.add(manifest, uid.filter(|_| once::runs_once(manifest)));
                }
                Ok::<_, StepError>(())
            };
            let applied = applied.await;
            // Also after a failure: what was not sent has not run.
            once.settle(ctx).await?;
            applied?;
        }
        let names = batch.iter().filter(|m| m.kind == "CustomResourceDefinition").map(|m| m.name.clone());
        established(ctx, target, &names.collect::<Vec<_>>()).await?;
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

    fn add(&mut self, manifest: &Manifest, uid: Option<String>) {
        *self.objects.entry(format!("{}/{}", manifest.api_version, manifest.kind)).or_default() += 1;
        self.applied.push(Applied {
            api_version: manifest.api_version.clone(),
            kind: manifest.kind.clone(),
            namespace: manifest.namespace.clone(),
            name: manifest.name.clone(),
            uid,
        });
    }
}

/// Makes the record of a set say where its members will be, before any of them is applied.
async fn widen(
    ctx: &StepContext,
    target: &Target<'_>,
    prune: &Prune,
    manifests: &[Manifest],
    wanted: &Wanted,
) -> Result<Record, StepError> {
    if !namespace_exists(target.client, &prune.namespace).await? {
        let catalog = Catalog::of(target.client).await?;
        let own = manifests.iter().find(|m| m.kind == "Namespace" && m.name == prune.namespace);
        let own = own.and_then(|m| Some((m, catalog.get(&m.api_version, &m.kind)?)));
        let Some((manifest, kind)) = own else { return Err(homeless(prune)) };
        target.apply(kind, manifest, false).await?;
    }
    let mut record = Record::read(target.client, prune).await?.joined(wanted.record());
    record.claim(ctx, prune)?;
    record.write(target.client, prune, false).await?;
    Ok(record)
}

fn homeless(prune: &Prune) -> StepError {
    StepError::permanent(format!(
        "the target has no namespace `{}` for the record of {prune}",
        prune.namespace
    ))
    .with_hint("name one that is there, or put it among the manifests")
}

/// What pruning would do, in the plan.
async fn foresee(
    ctx: &StepContext,
    target: &Target<'_>,
    prune: &Prune,
    manifests: &[Manifest],
    uids: BTreeSet<String>,
    plan: &mut StepPlan,
) -> Result<(), StepError> {
    let is_made = manifests.iter().any(|m| m.kind == "Namespace" && m.name == prune.namespace);
    let is_there = namespace_exists(target.client, &prune.namespace).await?;
    if !is_made && !is_there {
        plan.problems.push(tree::problem_of(&homeless(prune), "prune"));
        return Ok(());
    }
    let mut wanted = Wanted::of(manifests);
    wanted.uids = uids;
    let seen = async { Set::of(target.client, prune).await?.foresee(ctx, &wanted, is_there).await };
    match seen.await {
        Ok((lines, problems)) => {
            plan.summary.push_str(&format!(", {} to delete", lines.len()));
            plan.destroys.extend(lines);
            plan.problems.extend(problems);
        }
        Err(e) => plan.problems.push(tree::problem_of(&e, "prune")),
    }
    Ok(())
}

/// What became of the applied objects.
#[derive(Default)]
struct Standing {
    /// Which are gone.
    gone: Vec<String>,
    /// Which have ended and were removed: they are not created again.
    ended: Vec<String>,
}

async fn standing(client: &Client, outputs: &Outputs) -> Result<Standing, StepError> {
    let catalog = Catalog::of(client).await?;
    let mut standing = Standing::default();
    for applied in &outputs.applied {
        let place = applied.to_string();
        let is_once = applied.runs_once();
        let Some(kind) = catalog.get(&applied.api_version, &applied.kind) else {
            standing.gone.push(place);
            continue;
        };
        let failed = |e| kube_error(format!("failed to read {place}"), e);
        let api = kind.api(client, &applied.namespace);
        let found = api.get_metadata_opt(&applied.name).await.map_err(failed)?;
        if found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()) {
            if is_once { standing.ended.push(place) } else { standing.gone.push(place) }
        }
    }
    Ok(standing)
}

/// Objects whose fields are no longer what the files say: applying them again would change them.
async fn drifted(
    ctx: &StepContext,
    target: &Target<'_>,
    manifests: Vec<Manifest>,
    ended: &[String],
) -> Result<Vec<String>, StepError> {
    let catalog = Catalog::of(target.client).await?;
    let mut drifted = Vec::new();
    for manifest in manifests {
        ctx.check_cancelled()?;
        let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else { continue };
        if once::runs_once(&manifest) && ended.contains(&manifest.to_string()) {
            continue;
        }
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
    const KEEPS_CURSOR: bool = true;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("apply manifests");
        let prune = config.field::<Prune>("prune")?;
        if let Some(Err(e)) = prune.as_ref().map(Prune::check) {
            plan.problems.push(tree::problem_of(&e, "prune"));
            return Ok(plan);
        }
        let Some(cluster) = config.field::<ClusterRef>("cluster")? else { return Ok(plan) };
        plan.summary = format!("apply manifests to cluster `{}`", cluster.context);
        if prune.is_some() {
            plan.summary.push_str(", and delete what is no longer among them");
        }
        let client = match reach(ctx, &cluster, "cluster").await {
            Ok((client, _)) => client,
            Err(problem) => {
                plan.problems.push(*problem);
                return Ok(plan);
            }
        };
        if let Some(source) = config.field::<ClusterRef>("source")?
            && let Some(problem) = source_problem(ctx, &source, (&cluster, &client)).await
        {
            let is_error = problem.severity == Severity::Error;
            plan.problems.push(problem);
            if is_error {
                return Ok(plan);
            }
        }
        let Some(config) = config.known() else { return Ok(plan) };
        let root = ctx.path(&config.directory);
        if !root.is_dir() {
            if let Some(prune) = &config.prune {
                let folder = config.directory.display();
                plan.destroys.push(format!("what is in {prune} and not in {folder}, once that is written"));
            }
            return Ok(plan);
        }
        match config.folder(&client, &root).await {
            Ok(folder) => {
                plan.problems.extend(folder.told().map(Problem::warning));
                let manifests = folder.manifests;
                plan.problems
                    .extend(exposed::refuse(&manifests).err().map(|e| tree::problem_of(&e, "directory")));
                plan.items = Some(manifests.len() as u64);
                let target = Target::of(&client, config);
                let Outlook { problems, new, same, changed, uids } =
                    preflight(ctx, &target, &manifests).await?;
                plan.summary = format!(
                    "apply {} objects to cluster `{}`: {new} new, {} to change, {same} as they are",
                    manifests.len(),
                    cluster.context,
                    changed.len()
                );
                plan.destroys.extend(changed.into_iter().map(|what| format!("fields of {what}")));
                plan.problems.extend(problems);
                if let Some(prune) = &config.prune {
                    foresee(ctx, &target, prune, &manifests, uids, &mut plan).await?;
                }
            }
            Err(e) => plan.problems.push(tree::problem_of(&e, "directory")),
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let client = connect(ctx, &config.cluster).await?;
        if let Some(source) = &config.source {
            refuse_source(ctx, source, (&config.cluster, &client)).await?;
        }
        let folder = config.folder(&client, &ctx.path(&config.directory)).await?;
        folder.told().for_each(|note| ctx.warn(note));
        let manifests = folder.manifests;
        exposed::refuse(&manifests)?;
        let target = Target::of(&client, config);
        let mut wanted = Wanted::of(&manifests);
        let mut record = match &config.prune {
            Some(prune) => Some((prune, widen(ctx, &target, prune, &manifests, &wanted).await?)),
            None => None,
        };
        let mut once = Once::of(ctx, &config.cluster)?;
        let mut outputs = apply_all(ctx, &target, &manifests, &mut once, &mut wanted.uids).await?;
        (outputs.left_out, outputs.missing) = (folder.left_out, folder.missing);
        let deadline = Instant::now() + config.rollout_timeout.map_or(ROLLOUT_TIMEOUT, |span| span.0);
        for workload in outputs.workloads() {
            workload.wait(ctx, &client, deadline).await?;
        }
        // Last: nothing is taken away before what takes its place runs.
        if let Some((prune, record)) = &mut record {
            if !outputs.skipped.is_empty() {
                let skipped: Vec<String> = outputs.skipped.iter().map(|s| s.object.clone()).collect();
                return Err(not_whole(&skipped));
            }
            let set = Set::of(&client, prune).await?;
            (outputs.pruned, outputs.left_in_place) = set.prune(ctx, record, &wanted, &mut once).await?;
            ctx.info(format!(
                "{} objects deleted, {} left in place",
                outputs.pruned.len(),
                outputs.left_in_place.len()
            ));
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
        let Standing { gone, ended } = standing(&client, outputs).await?;
        let expected = outputs.applied.len() - ended.len();
        let mut present = Check::equal(
            cluster.clone(),
            "applied objects",
            expected.to_string(),
            (expected - gone.len()).to_string(),
        );
        if !gone.is_empty() {
            present = present.with_note(format!("gone: {}", tree::listed(&gone)));
        }
        let mut checks = vec![present];
        checks.extend(ended.iter().map(|object| Check {
            subject: object.clone(),
            what: "present".to_owned(),
            source: "yes".to_owned(),
            target: "no".to_owned(),
            status: CheckStatus::Warning,
            note: Some("it has ended and was removed".to_owned()),
        }));
        if depth == VerifyDepth::Deep {
            let target = Target { force: true, ..Target::of(&client, config) };
            let manifests = config.folder(&client, &ctx.path(&config.directory)).await?.manifests;
            let drifted = drifted(ctx, &target, manifests, &ended).await?;
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
        checks.extend(outputs.skipped.iter().chain(&outputs.left_out).map(|skipped| Check {
            source: skipped.file.clone(),
            ..Check::told(&skipped.object, "applied", &skipped.reason)
        }));
        checks.extend(outputs.missing.iter().map(|what| Check {
            source: config.directory.display().to_string(),
            ..Check::told(what, "applied", folder::MISSING)
        }));
        if !outputs.pruned.is_empty() {
            let catalog = Catalog::of(&client).await?;
            for pruned in &outputs.pruned {
                let now = if is_there(&client, &catalog, pruned).await? { "there" } else { "gone" };
                checks.push(Check::equal(pruned.to_string(), "deleted", "gone", now));
            }
        }
        checks.extend(outputs.left_in_place.iter().map(|left| Check {
            subject: left.object.clone(),
            what: "deleted".to_owned(),
            source: "gone".to_owned(),
            target: "left in place".to_owned(),
            status: CheckStatus::Warning,
            note: Some(left.reason.clone()),
        }));
        let evidence = Evidence { checks };
        // The engine answers a quick look that finds something wrong by applying everything again, without what
        // this step has noted. By then one that is still there may have ended and be gone.
        let runs_again: Vec<String> =
            outputs.applied.iter().filter(|a| a.runs_once()).map(ToString::to_string).collect();
        if depth == VerifyDepth::Quick && !evidence.passed() && !runs_again.is_empty() {
            return Err(once::would_run_again(ctx, &evidence, &runs_again));
        }
        Ok(evidence)
    }
}
