//! `velero.backup`: one file-system backup of whole namespaces on the source.
//!
//! The Backup is named by the idempotency key, so that a repeated attempt joins the first one's
//! and there is never a second. A stop leaves it running in the cluster; the next attempt goes on
//! following it. It is only handed on when it is complete: a claim without data fails the step.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use migrate_plugin_api::{
    Check, CheckStatus, ErrorClass, Evidence, Idempotency, PlanConfig, Problem, StepContext, StepError,
    StepPlan, TypedObservation, TypedStep, VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::{Backup, BackupSpec, BackupStatus, PodVolumeBackup, Velero, go_duration_seconds};
use super::backup_checks::{inventory_check, recorded};
use super::compare::some;
use super::contents::Contents;
use super::default_velero_namespace;
use super::failure::failure_reasons;
use super::files::{Texts, VeleroFile, fetch, fetch_as};
use super::follow::{Pace, Patience, Stage, Stall, stage};
use super::hazards::{self, Hazard};
use super::install::{Role, preflight, to_problem};
use super::inventory::{omitted, wait_for_kinds};
use super::known::{Known, listed};
use super::left_out::{Made, unlisted};
use super::noted::{note, noted};
use super::volumes::{
    BoundClaim, UNMOUNTED_HINT, VolumeBackup, VolumeStates, absent_namespaces, backed_up, bound,
    claims_and_pods, left_out, missed, prefixes,
};
use crate::inventory::misnamed_namespaces;
use crate::kubernetes::kube_error;
use crate::site::ClusterRef;

/// `with` of `velero.backup`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackupConfig {
    /// The source cluster.
    pub cluster: ClusterRef,
    /// Namespaces to back up, with everything in them. Each is named.
    #[schemars(length(min = 1))]
    pub namespaces: Vec<String>,
    /// Where Velero runs.
    #[serde(default = "default_velero_namespace")]
    pub velero_namespace: String,
    /// Storage location; default: Velero's default one.
    #[serde(default)]
    pub storage_location: Option<String>,
    /// How long Velero keeps the backup, as `720h`; default: Velero's, usually 30 days.
    #[serde(default)]
    pub ttl: Option<String>,
    /// Accept that claims which no running pod mounts are left behind without their data.
    #[serde(default)]
    pub allow_unmounted: bool,
    /// Accept that Jobs which have not completed, and other pods that come to an end, run again on the target from the
    /// beginning.
    #[serde(default)]
    pub allow_unfinished_jobs: bool,
    /// Kinds, as `Widget.example.com`, whose objects needn't be in the backup.
    #[serde(default)]
    pub ignore_kinds: Vec<String>,
}

/// Outputs of `velero.backup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BackupOutputs {
    /// Name of the Backup.
    pub backup: String,
    /// What to copy, relative to the storage location's prefix, in the order in which it must
    /// arrive.
    pub prefixes: Vec<String>,
    /// Its volumes.
    pub volumes: Vec<VolumeBackup>,
    /// `NAMESPACE/NAME` (`NAME` where cluster-scoped) of all its objects by `VERSION/Kind`.
    pub objects: BTreeMap<String, Vec<String>>,
    /// Bound claims without data in the backup; only ever filled with `allow-unmounted`.
    pub left_out: Vec<String>,
    /// What follows from it, one line each: folders of nodes that stay behind, CronJobs that will run on both sides,
    /// Jobs that will run again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Velero's warnings.
    pub warnings: Vec<String>,
    /// Velero's errors.
    pub errors: Vec<String>,
    /// Bytes of all volumes.
    pub bytes: u64,
}

/// The step.
#[derive(Debug, Default)]
pub struct VeleroBackup {
    pace: Pace,
}

impl VeleroBackup {
    #[cfg(test)]
    pub(super) fn at(pace: Pace) -> Self {
        Self { pace }
    }

    /// Creates the backup, or joins the one that an earlier attempt has made.
    async fn start(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
        velero: &Velero,
    ) -> Result<(), StepError> {
        let name = ctx.key.as_str();
        // To Velero, no list and `*` are the whole cluster.
        if let Some(problem) = misnamed_namespaces(&config.namespaces, "namespaces") {
            return Err(problem.into());
        }
        let spec = spec(config);
        if velero.backup(name).await?.is_none() {
            let absent = absent_namespaces(velero, &config.namespaces).await?;
            if !absent.is_empty() {
                let context = &config.cluster.context;
                let message = format!("cluster `{context}` has no {}", named(&absent));
                return Err(StepError::permanent(message));
            }
            refuse_harm(config, velero).await?;
            wait_for_kinds(ctx, velero, self.pace, &config.namespaces).await?;
            // Minutes may have passed, in which work began.
            let claims = refuse_harm(config, velero).await?;
            let mut backup = Velero::new_backup(ctx, name, spec.clone());
            note(&mut backup, &claims)?;
            match velero.backups().create(&PostParams::default(), &backup).await {
                Ok(_) => ctx.info(format!("created backup `{name}`")),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(kube_error(format!("failed to create backup `{name}`"), e)),
            }
        }
        let found = velero.backup(name).await?.ok_or_else(|| gone(name))?;
        if !is_same(&spec, &found.spec) {
            return Err(StepError::conflict(format!("backup `{name}` exists with another content"))
                .with_hint("nothing of this run made it; look at it, and delete it if it isn't needed"));
        }
        ctx.set_handle(name).await
    }

    /// Follows the backup to its end. With it comes what the source had when Velero was first seen at work, should the
    /// backup itself be out of reach.
    async fn follow(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
        velero: &Velero,
    ) -> Result<(Backup, Contents), StepError> {
        let name = ctx.key.as_str();
        let mut patience = Patience::new(self.pace.outage);
        let mut stall = Stall::new(self.pace.stall);
        let mut seen = None;
        loop {
            ctx.check_cancelled()?;
            let look = async {
                let backup = velero.backup(name).await?.ok_or_else(|| gone(name))?;
                Ok((backup, velero.volumes_of_backup(name).await?))
            };
            if let Some((backup, volumes)) = patience.bear(self.pace.in_time(look).await, Instant::now())? {
                let status = backup.status.clone().unwrap_or_default();
                if seen.is_none() && stage(&status.phase) == Stage::Working {
                    seen = patience.bear(self.look(ctx, config, velero).await, Instant::now())?;
                }
                let states = VolumeStates::of_backup(&volumes);
                let items = status.progress.as_ref().map_or((0, 0), |p| (p.items_backed_up, p.total_items));
                ctx.progress(states.progress(&status.phase, items));
                match stage(&status.phase) {
                    Stage::Completed => return Ok((backup, seen.unwrap_or_default())),
                    Stage::Failed => return Err(self.failure(ctx, velero, &status, &volumes).await?),
                    // Velero makes one backup after the other: its turn may be hours away.
                    Stage::Queued => stall.reset(),
                    Stage::Working => {
                        let fingerprint = format!("{}|{items:?}|{}", status.phase, states.fingerprint());
                        if stall.is_stalled(fingerprint, Instant::now()) {
                            return Err(stuck(name, &states, self.pace));
                        }
                    }
                }
            }
            self.pace.pause(ctx).await?;
        }
    }

    /// What the source has while Velero is at the backup. Each namespace has its own time to answer, since there may be
    /// very many.
    async fn look(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
        velero: &Velero,
    ) -> Result<Contents, StepError> {
        let mut found = Contents::default();
        for namespace in config.namespaces.chunks(1) {
            ctx.check_cancelled()?;
            let look = async {
                // Which claims have no data shows at the end.
                let listed = (Vec::new(), velero.list_in(namespace, "the pods").await?);
                Contents::of_cluster(velero, namespace, listed).await
            };
            found = found.and(self.pace.in_time(look).await?);
        }
        Ok(found)
    }

    /// Why the backup failed, as the error to return.
    async fn failure(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        status: &BackupStatus,
        volumes: &[PodVolumeBackup],
    ) -> Result<StepError, StepError> {
        let name = ctx.key.as_str();
        let counts = (status.warnings, status.errors);
        let texts = Texts::fetch(ctx, velero, self.pace, VeleroFile::BackupResults, name, counts).await?;
        let reasons = failure_reasons(
            status.validation_errors.as_deref(),
            &status.failure_reason,
            volumes.iter().map(|v| (v.spec.pod.clone(), v.spec.volume.clone(), v.status.clone())),
            texts.errors,
        );
        let message = format!("backup `{name}` ended as {}: {reasons}", status.phase);
        Ok(StepError::permanent(message).with_hint(format!(
            "see `velero backup logs {name}`; when the cause is gone, `velero backup delete {name}` and resume"
        )))
    }

    /// What the backup holds, whose own list is `objects`; `None` where that can't be read from here, which is told.
    async fn contents(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        objects: &BTreeMap<String, Vec<String>>,
    ) -> Result<Option<Contents>, StepError> {
        let name = ctx.key.as_str();
        // Its list can't be read either, which was told.
        if objects.is_empty() {
            return Ok(None);
        }
        let file = VeleroFile::BackupContents;
        let why = match fetch_as(ctx, velero, self.pace, file, name, Contents::of_backup).await {
            Ok(contents) => match contents.lacks(objects) {
                None => return Ok(Some(contents)),
                Some(lacking) => format!("it lacks {lacking}"),
            },
            Err(e) if e.class == ErrorClass::Cancelled || e.class.is_retryable() => return Err(e),
            Err(e) => e.to_string(),
        };
        ctx.warn(format!(
            "what backup `{name}` holds can't be read, so it is judged by what the cluster has now: {why}"
        ));
        Ok(None)
    }

    async fn outputs(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
        velero: &Velero,
        (backup, seen): (&Backup, Contents),
    ) -> Result<BackupOutputs, StepError> {
        let name = ctx.key.as_str();
        let status = backup.status.clone().unwrap_or_default();
        let pod_volume_backups = velero.volumes_of_backup(name).await?;
        refuse_restic(ctx, &pod_volume_backups)?;
        let volumes = backed_up(&pod_volume_backups);
        let (began, listed) = (status.start_timestamp.as_ref(), listed(&pod_volume_backups, &status));
        let (claims, pods) = claims_and_pods(velero, &config.namespaces).await?;
        let counts = (status.warnings, status.errors);
        let texts = Texts::fetch(ctx, velero, self.pace, VeleroFile::BackupResults, name, counts).await?;
        let list: Result<BTreeMap<String, Vec<String>>, StepError> =
            fetch(ctx, velero, self.pace, VeleroFile::BackupResourceList, name).await;
        let unlisted = list.as_ref().map(|objects| unlisted(&config.namespaces, objects)).unwrap_or_default();
        let objects = match list {
            Ok(objects) => {
                refuse_omitted(ctx, config, velero, &objects, &status).await?;
                objects
            }
            // The next attempt finds the same backup, and reads its list.
            Err(e) if e.class == ErrorClass::Cancelled || e.class.is_retryable() => return Err(e),
            Err(e) => {
                ctx.warn(format!("the list of objects in backup `{name}` can't be read: {e}"));
                BTreeMap::new()
            }
        };
        let contents = self.contents(ctx, velero, &objects).await?;
        let made = Made {
            name,
            namespaces: &config.namespaces,
            unlisted: &unlisted,
            noted: &noted(backup)?,
            asked: backup.metadata.creation_timestamp.as_ref(),
            volumes: &volumes,
            began,
            listed: listed.as_ref(),
            objects: &objects,
            contents: contents.as_ref(),
            claims: &claims,
        };
        let left_out = made.left_out(velero).await?;
        let hazards = match contents.as_ref() {
            Some(contents) => hazards::judge(contents, Some(&volumes), None),
            None => {
                let now = Contents::of_cluster(velero, &config.namespaces, (claims.clone(), pods)).await?;
                let known = Known { began, listed: listed.as_ref(), objects: &objects };
                hazards::guess(velero, (now, seen), &volumes, &known).await?
            }
        };
        if let Err(error) = hazards::refuse(&hazards, config.allow_unfinished_jobs) {
            let work = hazards::stopped(&hazards, config.allow_unfinished_jobs, contents.as_ref());
            let hint = error.hint.unwrap_or_default();
            let hint = made.otherwise(ctx, velero, &left_out, (&hint, work)).await?;
            let message = format!("backup `{name}` is not to be restored: {}", error.message);
            return Err(StepError::permanent(message).with_hint(hint));
        }
        // Last: the way on with such a backup is to restore it as it stands.
        made.refuse(ctx, velero, &left_out, config.allow_unmounted).await?;
        let remarks = hazards.iter().map(Hazard::message).collect();
        let bytes = volumes.iter().map(|v| v.bytes).sum();
        let prefixes = prefixes(name, &volumes);
        let (warnings, errors) = (texts.warnings, texts.errors);
        Ok(BackupOutputs {
            backup: name.to_owned(),
            prefixes,
            volumes,
            objects,
            left_out,
            remarks,
            warnings,
            errors,
            bytes,
        })
    }
}

/// How another backup is made: this one has ended, and a resume alone would join it again.
pub(super) fn another(ctx: &StepContext) -> String {
    format!("`migrate resume {} --rerun {}` makes another backup", ctx.run, ctx.node.quoted())
}

fn gone(name: &str) -> StepError {
    StepError::permanent(format!("backup `{name}` was deleted while it ran"))
        .with_hint("resume makes it again")
}

fn stuck(name: &str, states: &VolumeStates, pace: Pace) -> StepError {
    let open = states.unfinished_paths();
    let what = if open.is_empty() { "objects".to_owned() } else { open.join(", ") };
    let minutes = pace.stall.as_secs() / 60;
    StepError::permanent(format!("backup `{name}` has made no progress for {minutes} minutes, at {what}"))
        .with_hint("look at the velero and node-agent pods' logs; resume goes on waiting for the same backup")
}

fn spec(config: &BackupConfig) -> BackupSpec {
    BackupSpec {
        included_namespaces: config.namespaces.clone(),
        storage_location: config.storage_location.clone(),
        ttl: config.ttl.clone(),
        default_volumes_to_fs_backup: Some(true),
        snapshot_volumes: Some(false),
    }
}

/// Whether `found` is what `ours` asks for; Velero fills in what we leave open.
fn is_same(ours: &BackupSpec, found: &BackupSpec) -> bool {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let seconds = |ttl: &Option<String>| ttl.as_deref().and_then(go_duration_seconds);
    sorted(&ours.included_namespaces) == sorted(&found.included_namespaces)
        && (ours.storage_location.is_none() || ours.storage_location == found.storage_location)
        && (ours.ttl.is_none() || seconds(&ours.ttl) == seconds(&found.ttl))
        && ours.default_volumes_to_fs_backup == found.default_volumes_to_fs_backup
        && ours.snapshot_volumes == found.snapshot_volumes
}

/// Refuses a backup that lacks data of claims, or whose restore would do harm, as the source is now; else its bound
/// claims.
async fn refuse_harm(config: &BackupConfig, velero: &Velero) -> Result<Vec<BoundClaim>, StepError> {
    let (claims, pods) = claims_and_pods(velero, &config.namespaces).await?;
    refuse_missed_claims(config, &claims, &pods)?;
    let known = (claims.clone(), pods);
    let hazards = hazards::look(velero, &config.namespaces, known).await?;
    hazards::refuse(&hazards, config.allow_unfinished_jobs)?;
    Ok(claims)
}

fn refuse_missed_claims(config: &BackupConfig, claims: &[BoundClaim], pods: &[Pod]) -> Result<(), StepError> {
    let missed: Vec<String> =
        missed(claims, pods).iter().map(|(claim, why)| format!("{} ({why})", claim.path())).collect();
    if config.allow_unmounted || missed.is_empty() {
        return Ok(());
    }
    let message = format!("the data of these claims would be left behind: {}", missed.join(", "));
    Err(StepError::permanent(message).with_hint(UNMOUNTED_HINT))
}

async fn refuse_omitted(
    ctx: &StepContext,
    config: &BackupConfig,
    velero: &Velero,
    objects: &BTreeMap<String, Vec<String>>,
    status: &BackupStatus,
) -> Result<(), StepError> {
    let started = status.start_timestamp.as_ref();
    let omitted = omitted(&velero.client, &config.namespaces, objects, &config.ignore_kinds, started).await?;
    if omitted.is_empty() {
        return Ok(());
    }
    Err(StepError::permanent(format!("the backup doesn't hold {}", some(&omitted))).with_hint(format!(
        "restart the source's Velero so that it knows all kinds, or name the kinds in `ignore-kinds`; then {}",
        another(ctx)
    )))
}

fn refuse_restic(ctx: &StepContext, volumes: &[PodVolumeBackup]) -> Result<(), StepError> {
    match volumes.iter().find(|v| v.spec.uploader_type != "kopia") {
        None => Ok(()),
        Some(v) => {
            let uploader = if v.spec.uploader_type.is_empty() { "restic" } else { &v.spec.uploader_type };
            let path = format!("{}/{}/{}", v.spec.pod.namespace, v.spec.pod.name, v.spec.volume);
            Err(StepError::permanent(format!("volume {path} was backed up by {uploader}, not kopia"))
                .with_hint(format!(
                    "start Velero's server with `--uploader-type=kopia`; then {}",
                    another(ctx)
                )))
        }
    }
}

#[async_trait]
impl TypedStep for VeleroBackup {
    const NAME: &'static str = "velero.backup";
    const SUMMARY: &'static str = "Backs up namespaces with their volumes through Velero";
    const IDEMPOTENCY: Idempotency = Idempotency::Keyed;

    type Config = BackupConfig;
    type Outputs = BackupOutputs;

    async fn plan(
        &self,
        ctx: &StepContext,
        config: &PlanConfig<BackupConfig>,
    ) -> Result<StepPlan, StepError> {
        let given = config.field::<Vec<String>>("namespaces")?;
        let misnamed = given.as_deref().and_then(|names| misnamed_namespaces(names, "namespaces"));
        let (namespaces, is_misnamed) = (given.unwrap_or_default(), misnamed.is_some());
        let mut plan = StepPlan::new(format!("back up {} with Velero", named(&namespaces)));
        plan.problems.extend(misnamed);
        if let Some(ttl) = config.field::<String>("ttl")?.filter(|t| go_duration_seconds(t).is_none()) {
            let problem = Problem::error(format!("`{ttl}` is no duration that Velero reads")).in_field("ttl");
            plan.problems.push(problem.with_hint("write hours, minutes and seconds: `720h`"));
        }
        let Some(cluster) = config.field::<ClusterRef>("cluster")? else { return Ok(plan) };
        let velero_namespace = config.field("velero-namespace")?.unwrap_or_else(default_velero_namespace);
        let location = config.field::<String>("storage-location")?;
        let found = preflight(ctx, &cluster, &velero_namespace, location.as_deref(), Role::Source).await;
        plan.problems.extend(found.problems);
        let Some(velero) = found.velero.filter(|_| !is_misnamed) else { return Ok(plan) };
        // Once an earlier attempt has begun it, what the source has by now is no matter of it: it is joined.
        match velero.backup(ctx.key.as_str()).await {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(plan),
            Err(e) => {
                plan.problems.push(to_problem(&e));
                return Ok(plan);
            }
        }
        match absent_namespaces(&velero, &namespaces).await {
            Ok(absent) if absent.is_empty() => {}
            Ok(absent) => {
                let message = format!("cluster `{}` has no {}", cluster.context, named(&absent));
                plan.problems.push(Problem::error(message).in_field("namespaces"));
            }
            Err(e) => plan.problems.push(to_problem(&e)),
        }
        let (claims, pods) = match claims_and_pods(&velero, &namespaces).await {
            Ok(found) => found,
            Err(e) => {
                plan.problems.push(to_problem(&e));
                return Ok(plan);
            }
        };
        plan.items = Some(claims.len() as u64);
        plan.summary = format!("back up {} with {} claims with Velero", named(&namespaces), claims.len());
        let allowed = config.field::<bool>("allow-unmounted")?.unwrap_or(false);
        for (claim, why) in missed(&claims, &pods) {
            let message = format!("the data of claim {} would be left behind: {why}", claim.path());
            let problem = if allowed {
                Problem::warning(message)
            } else {
                Problem::error(message).with_hint(UNMOUNTED_HINT)
            };
            plan.problems.push(problem.in_field("namespaces"));
        }
        let allowed = config.field::<bool>("allow-unfinished-jobs")?.unwrap_or(false);
        match hazards::look(&velero, &namespaces, (claims, pods)).await {
            Ok(hazards) => plan.problems.extend(hazards.iter().map(|hazard| hazard.to_problem(allowed))),
            Err(e) => plan.problems.push(to_problem(&e)),
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
    ) -> Result<TypedObservation<BackupOutputs>, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        // Also when it is over: `apply` joins it and returns at once, with outputs or its failure.
        Ok(match velero.backup(ctx.key.as_str()).await? {
            None => TypedObservation::Absent,
            Some(_) => TypedObservation::Running { handle: ctx.key.to_string() },
        })
    }

    async fn apply(&self, ctx: &StepContext, config: &BackupConfig) -> Result<BackupOutputs, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        self.start(ctx, config, &velero).await?;
        let (backup, seen) = self.follow(ctx, config, &velero).await?;
        self.outputs(ctx, config, &velero, (&backup, seen)).await
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &BackupConfig,
        outputs: &BackupOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        let subject = format!("backup {}", outputs.backup);
        let backup = velero.backup(&outputs.backup).await?;
        let status = backup.and_then(|b| b.status).unwrap_or_default();
        let phase = if status.phase.is_empty() { "absent" } else { &status.phase };
        let mut checks = vec![Check::equal(&subject, "phase", "Completed", phase)];
        let is_gone = matches!(phase, "absent" | "Deleting");
        if depth == VerifyDepth::Quick && is_gone {
            let note = format!("it has expired or was deleted; what it held is recorded. {}", another(ctx));
            checks = vec![Check { status: CheckStatus::Warning, ..checks.remove(0).with_note(note) }];
            return Ok(checks.into_iter().chain(recorded(config, outputs, &outputs.left_out)).collect());
        }
        if let Some(progress) = &status.progress {
            let (all, done) = (progress.total_items, progress.items_backed_up);
            checks.push(Check::equal(&subject, "objects", all.to_string(), done.to_string()));
        }
        let found = backed_up(&velero.volumes_of_backup(&outputs.backup).await?);
        let (known, there) = (outputs.volumes.len().to_string(), found.len().to_string());
        checks.push(Check::equal(&subject, "volumes", known, there));
        let left_out = match depth {
            VerifyDepth::Quick => outputs.left_out.clone(),
            VerifyDepth::Deep => {
                // Without the list there is nothing to compare with, which a warning says below.
                if !outputs.objects.is_empty() {
                    checks.push(inventory_check(config, &velero, outputs, &status).await?);
                }
                let claims = bound(&velero.list_in(&config.namespaces, "the claims").await?);
                // What it lacked when it was made it lacks, whatever the source has by now.
                let now = left_out(&claims, &found, status.start_timestamp.as_ref());
                let all: BTreeSet<String> = outputs.left_out.iter().cloned().chain(now).collect();
                all.into_iter().collect()
            }
        };
        checks.extend(recorded(config, outputs, &left_out));
        Ok(checks.into_iter().collect())
    }
}

/// `namespace a`, `namespaces a, b`.
pub(super) fn named(namespaces: &[String]) -> String {
    match namespaces {
        [] => "namespaces".to_owned(),
        [one] => format!("namespace {one}"),
        more => format!("namespaces {}", more.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_the_same_if_velero_only_filled_in_its_defaults() {
        let ours = BackupSpec {
            included_namespaces: vec!["b".to_owned(), "a".to_owned()],
            ttl: Some("48h".to_owned()),
            default_volumes_to_fs_backup: Some(true),
            snapshot_volumes: Some(false),
            ..Default::default()
        };
        let mut found = ours.clone();
        found.included_namespaces.reverse();
        found.storage_location = Some("default".to_owned());
        found.ttl = Some("48h0m0s".to_owned());
        assert!(is_same(&ours, &found));
        found.included_namespaces.push("c".to_owned());
        assert!(!is_same(&ours, &found));
        assert!(!is_same(&ours, &BackupSpec { ttl: Some("1h".to_owned()), ..ours.clone() }));
        assert!(!is_same(&ours, &BackupSpec { default_volumes_to_fs_backup: None, ..ours.clone() }));
    }
}
