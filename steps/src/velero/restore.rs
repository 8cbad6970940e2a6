//! `velero.restore`: brings a copied backup to life on the target.
//!
//! The Restore is named by the idempotency key, so there is never a second for the same work: a
//! repeated attempt joins the one that is there. Nothing is restored over what already stands on
//! the target. It counts as done only when every volume has moved its bytes and every object of
//! the backup is there, or has its reason not to be.

use std::collections::BTreeMap;

use async_trait::async_trait;
use kube::ResourceExt;
use kube::api::PostParams;
use migrate_plugin_api::{
    Check, CheckStatus, ErrorClass, Evidence, Idempotency, PlanConfig, Problem, Severity, StepContext,
    StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::{
    NODE_LABEL, PodVolumeRestore, RUN_LABEL, Restore, RestoreSpec, RestoreStatus, Velero, list_all,
};
use super::backup_checks::warning;
use super::compare::{Depth, KindOutcome, compare, outcomes, restored_counts};
use super::config_map::{Plugin, ensure, find, refuse_changed, remove, replaced, warn_of_another};
use super::default_velero_namespace;
use super::diagnose;
use super::failure::failure_reasons;
use super::files::{Texts, VeleroFile, fetch};
use super::follow::{Pace, Patience, Stage, Stall, stage};
use super::guards::{
    image_rules, occupants, occupied_error, refuse_occupied, refuse_other_password, wait_for_backup,
    withdraw_if_occupied,
};
use super::install::{Preflight, Role, preflight, to_problem};
use super::lone::{Lone, lone_pods};
use super::volume_checks::{claim_checks, claims, refuse_others, volume_checks};
use super::volumes::{CLAIMS, VolumeBackup, VolumeRestore, VolumeStates, backed_up, restored};
use crate::kubernetes::{kube_error, one_cluster};
use crate::site::ClusterRef;

/// Looks between two that list all claims and pods.
const LOOK_CLOSELY_EVERY: u32 = 5;

/// A change of image names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImageRename {
    /// Part of an image name, usually the source registry's host.
    pub from: String,
    /// What stands in its place.
    pub to: String,
}

/// What becomes of objects that are on the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExistingResourcePolicy {
    /// They are left as they are.
    None,
    /// They are patched to what the backup holds. Never touches data of volumes.
    Update,
}

/// `with` of `velero.restore`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RestoreConfig {
    /// The target cluster.
    pub cluster: ClusterRef,
    /// The source cluster, if it is to be compared before anything starts: version of Kubernetes,
    /// password of Velero's repositories.
    #[serde(default)]
    pub source: Option<ClusterRef>,
    /// Name of the Backup.
    pub backup: String,
    /// Its objects, as `velero.backup` gives them; the target is compared with these.
    #[serde(default)]
    pub objects: BTreeMap<String, Vec<String>>,
    /// Its volumes, as `velero.backup` gives them; default: those that the target's Velero knows of. Only with them it is
    /// seen that the backup was discovered half copied.
    #[serde(default)]
    pub volumes: Option<Vec<VolumeBackup>>,
    /// Namespaces that will be restored, if they are to be looked at before anything starts.
    #[serde(default)]
    #[expect(dead_code, reason = "only the plan reads it, while the rest of the config is unknown")]
    pub namespaces: Vec<String>,
    /// Storage classes, source = target, as `storage-class.map` gives them: nothing is restored where Velero maps
    /// otherwise by then. Without them a map of another run is only told.
    #[serde(default)]
    pub storage_classes: Option<BTreeMap<String, String>>,
    /// Changes of image names.
    #[serde(default)]
    pub rename_images: Vec<ImageRename>,
    /// What becomes of objects that are on the target already; default: they are left.
    #[serde(default)]
    pub existing_resource_policy: Option<ExistingResourcePolicy>,
    /// Where Velero runs, in both clusters.
    #[serde(default = "default_velero_namespace")]
    pub velero_namespace: String,
}

/// Outputs of `velero.restore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RestoreOutputs {
    /// Name of the Restore.
    pub restore: String,
    /// Velero's warnings.
    pub warnings: Vec<String>,
    /// Velero's errors.
    pub errors: Vec<String>,
    /// Objects created or updated, by `VERSION/Kind`.
    pub objects: BTreeMap<String, u64>,
    /// What Velero says of the others, by `VERSION/Kind`.
    pub outcomes: BTreeMap<String, KindOutcome>,
    /// Pods, by `NAMESPACE/NAME`, that no controller is known to make again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lone_pods: BTreeMap<String, Lone>,
    /// Volumes that were filled.
    pub volumes: Vec<VolumeRestore>,
    /// Volumes of the backup as the target's Velero knows them, where `volumes` wasn't given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_volumes: Option<Vec<VolumeBackup>>,
    /// `NAMESPACE/NAME` of the backup's claims that were not bound when the restore ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<String>,
    /// `VERSION/Kind NAMESPACE/NAME` of all that should be on the target and isn't.
    pub missing: Vec<String>,
    /// `VERSION/Kind COUNT (reason)` of the kinds that aren't compared.
    pub not_compared: Vec<String>,
}

/// The step.
#[derive(Debug, Default)]
pub struct VeleroRestore {
    pace: Pace,
}

impl VeleroRestore {
    #[cfg(test)]
    pub(super) fn at(pace: Pace) -> Self {
        Self { pace }
    }

    /// Creates the restore, or joins the one that an earlier attempt has made.
    async fn start(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
        velero: &Velero,
    ) -> Result<Restore, StepError> {
        let name = ctx.key.as_str();
        let spec = spec(config);
        let mut found = velero.restore(name).await?;
        if found.is_none() {
            self.prepare(ctx, config, velero).await?;
            let restore = Velero::new_restore(ctx, name, spec.clone());
            match velero.restores().create(&PostParams::default(), &restore).await {
                Ok(_) => ctx.info(format!("created restore `{name}` of backup `{}`", config.backup)),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(kube_error(format!("failed to create restore `{name}`"), e)),
            }
            found = velero.restore(name).await?;
        }
        let found = found.ok_or_else(|| gone(name, false))?;
        if found.spec != spec {
            return Err(StepError::conflict(format!("restore `{name}` exists with another content"))
                .with_hint("nothing of this run made it; look at it, and delete it if it isn't needed"));
        }
        ctx.set_handle(name).await?;
        Ok(found)
    }

    /// All that must hold before a restore starts.
    async fn prepare(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
        velero: &Velero,
    ) -> Result<(), StepError> {
        let rules = image_rules(&config.rename_images).map_err(StepError::permanent)?;
        if let Some(source) = &config.source {
            let source = Velero::connect(ctx, source, &config.velero_namespace).await?;
            refuse_other_password(&source, velero).await?;
        }
        let found = wait_for_backup(ctx, velero, self.pace, config).await?;
        refuse_occupied(velero, config.volumes.as_deref().unwrap_or(&found)).await?;
        if rules.is_empty() {
            // Those of an earlier run would rename images still.
            remove(ctx, velero, Plugin::ImageName).await?;
        } else {
            ensure(ctx, velero, Plugin::ImageName, &rules).await?;
        }
        // Last: hours may have passed since the classes were mapped, and others write there too.
        match &config.storage_classes {
            Some(map) => refuse_changed(ctx, velero, Plugin::StorageClass, map).await?,
            None => warn_of_another(ctx, velero, Plugin::StorageClass).await?,
        }
        refuse_changed(ctx, velero, Plugin::ImageName, &rules).await
    }

    /// Follows the restore, which was `found` so, to its end.
    async fn follow(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
        velero: &Velero,
        found: &Restore,
    ) -> Result<Restore, StepError> {
        let name = ctx.key.as_str();
        let mut has_begun = is_begun(found);
        let mut patience = Patience::new(self.pace.outage);
        let mut stall = Stall::new(self.pace.stall);
        let mut looks = 0_u32;
        loop {
            ctx.check_cancelled()?;
            let look = async {
                let restore = velero.restore(name).await?.ok_or_else(|| gone(name, has_begun))?;
                Ok((restore, velero.volumes_of_restore(name).await?))
            };
            if let Some((restore, volumes)) = patience.bear(self.pace.in_time(look).await, Instant::now())? {
                has_begun |= is_begun(&restore);
                let status = restore.status.clone().unwrap_or_default();
                let states = VolumeStates::of_restore(&volumes);
                let items = status.progress.as_ref().map_or((0, 0), |p| (p.items_restored, p.total_items));
                let mut progress = states.progress(&status.phase, items);
                match stage(&status.phase) {
                    Stage::Completed => return Ok(restore),
                    Stage::Failed => return Err(self.failure(ctx, velero, &status, &volumes).await?),
                    Stage::Queued => {
                        stall.reset();
                        // Its turn may be hours away, in which others work on the target.
                        if looks.is_multiple_of(LOOK_CLOSELY_EVERY) {
                            let free = withdraw_if_occupied(ctx, velero, config, &restore);
                            let free = self.pace.in_time(free).await;
                            patience.bear(free, Instant::now())?;
                        }
                        let other = self.pace.in_time(blocking(velero, name)).await;
                        if let Ok(Some(other)) = other {
                            progress.message = Some(format!("waiting for restore {other} to end"));
                        }
                    }
                    Stage::Working if looks.is_multiple_of(LOOK_CLOSELY_EVERY) => {
                        let looked = self.pace.in_time(diagnose::look(velero, name)).await;
                        if let Some(made) = patience.bear(looked, Instant::now())? {
                            let checked = self.pace.in_time(made.refuse_missing_class(velero)).await;
                            patience.bear(checked, Instant::now())?;
                            let fingerprint = format!(
                                "{}|{items:?}|{}|{}",
                                status.phase,
                                states.fingerprint(),
                                made.fingerprint()
                            );
                            if stall.is_stalled(fingerprint, Instant::now()) {
                                return Err(stuck(velero, name, &states, &made, self.pace).await);
                            }
                        }
                    }
                    Stage::Working => {}
                }
                ctx.progress(progress);
                looks += 1;
            }
            self.pace.pause(ctx).await?;
        }
    }

    /// Why the restore failed, as the error to return.
    async fn failure(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        status: &RestoreStatus,
        volumes: &[PodVolumeRestore],
    ) -> Result<StepError, StepError> {
        let name = ctx.key.as_str();
        let counts = (status.warnings, status.errors);
        let texts = Texts::fetch(ctx, velero, self.pace, VeleroFile::RestoreResults, name, counts).await?;
        let reasons = failure_reasons(
            status.validation_errors.as_deref(),
            &status.failure_reason,
            volumes.iter().map(|v| (v.spec.pod.clone(), v.spec.volume.clone(), v.status.clone())),
            texts.errors,
        );
        let hint =
            if reasons.contains("message authentication failed") || reasons.contains("repository password") {
                "the target's `velero-repo-credentials` must be the source's; copy it, delete the target's \
             backuprepositories, restart its Velero, then "
            } else {
                "when the cause is gone, "
            };
        Ok(StepError::permanent(format!("restore `{name}` ended as {}: {reasons}", status.phase)).with_hint(format!(
            "{hint}delete what it made on the target, delete the restore (`velero restore delete {name}`) and resume"
        )))
    }

    async fn outputs(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
        velero: &Velero,
        restore: &Restore,
    ) -> Result<RestoreOutputs, StepError> {
        let name = ctx.key.as_str();
        let status = restore.status.clone().unwrap_or_default();
        let counts = (status.warnings, status.errors);
        let texts = Texts::fetch(ctx, velero, self.pace, VeleroFile::RestoreResults, name, counts).await?;
        let list: Result<BTreeMap<String, Vec<String>>, StepError> =
            fetch(ctx, velero, self.pace, VeleroFile::RestoreResourceList, name).await;
        let (objects, mut outcomes) = match list {
            Ok(list) => (restored_counts(&list), outcomes(&config.objects, &list)),
            // The next attempt finds the same restore, and reads its list.
            Err(e) if e.class == ErrorClass::Cancelled || e.class.is_retryable() => return Err(e),
            Err(e) => {
                ctx.warn(format!("the list of objects of restore `{name}` can't be read: {e}"));
                (BTreeMap::new(), BTreeMap::new())
            }
        };
        let lone_pods = lone_pods(velero, name, &config.objects, outcomes.get("v1/Pod")).await?;
        let mut compared =
            compare(&velero.client, name, &config.objects, &outcomes, &lone_pods, Depth::Deep).await?;
        for (kind, outcome) in outcomes.iter_mut().filter(|(_, outcome)| !outcome.skipped.is_empty()) {
            outcome.discarded = Some(compared.skipped.remove(kind).unwrap_or_default());
        }
        let (missing, not_compared) = (compared.missing, compared.not_compared);
        let volumes = restored(&velero.volumes_of_restore(name).await?);
        let backup_volumes = match &config.volumes {
            Some(_) => None,
            None => volumes_known(velero, &config.backup).await?,
        };
        let of_backup = config.volumes.as_ref().or(backup_volumes.as_ref());
        let of_backup = of_backup.map_or(&[][..], Vec::as_slice);
        let claims = claims(velero, of_backup, name, outcomes.get(CLAIMS)).await?;
        let unbound = claims.into_iter().filter(|claim| !claim.is_bound).map(|claim| claim.path).collect();
        let (warnings, errors) = (texts.warnings, texts.errors);
        Ok(RestoreOutputs {
            restore: name.to_owned(),
            warnings,
            errors,
            objects,
            outcomes,
            lone_pods,
            volumes,
            backup_volumes,
            unbound,
            missing,
            not_compared,
        })
    }
}

/// Whether Velero is at `restore`, or has been.
fn is_begun(restore: &Restore) -> bool {
    restore.status.as_ref().is_some_and(|status| stage(&status.phase) != Stage::Queued)
}

fn gone(name: &str, has_begun: bool) -> StepError {
    if !has_begun {
        // What the target has by now may be of others. Whether it stands in the way is looked at by the next attempt.
        return StepError::permanent(format!("restore `{name}` was deleted before Velero was seen at it"))
            .with_hint("resume starts it again, unless something stands in its way by then");
    }
    StepError::permanent(format!("restore `{name}` was deleted while it ran"))
        .with_hint("delete what it made on the target; resume starts it again")
}

/// The volumes of `backup`, if the target's Velero still knows it.
async fn volumes_known(velero: &Velero, backup: &str) -> Result<Option<Vec<VolumeBackup>>, StepError> {
    Ok(match velero.backup(backup).await? {
        Some(_) => Some(backed_up(&velero.volumes_of_backup(backup).await?)),
        None => None,
    })
}

fn spec(config: &RestoreConfig) -> RestoreSpec {
    let policy = |p| match p {
        ExistingResourcePolicy::None => "none".to_owned(),
        ExistingResourcePolicy::Update => "update".to_owned(),
    };
    RestoreSpec {
        backup_name: config.backup.clone(),
        existing_resource_policy: config.existing_resource_policy.map(policy),
    }
}

/// Another restore that Velero is at: it makes one after the other.
async fn blocking(velero: &Velero, name: &str) -> Result<Option<String>, StepError> {
    let restores = list_all(&velero.restores(), "").await;
    let restores = restores.map_err(|e| kube_error("failed to list the target's restores", e))?;
    let at_work = |r: &&Restore| {
        r.name_any() != name && stage(&r.status.clone().unwrap_or_default().phase) == Stage::Working
    };
    Ok(restores.iter().find(at_work).map(ResourceExt::name_any))
}

async fn stuck(
    velero: &Velero,
    name: &str,
    states: &VolumeStates,
    made: &diagnose::Restored,
    pace: Pace,
) -> StepError {
    let mut waits = made.waits();
    if waits.is_empty() {
        waits = states.unfinished_paths().into_iter().map(|path| format!("volume {path}")).collect();
    }
    waits.extend(diagnose::newest_events(velero, made).await);
    let minutes = pace.stall.as_secs() / 60;
    if waits.is_empty() && states.count() > 0 {
        // Velero learns that a volume is restored from an event alone, and waits 4 hours for one
        // that it missed while the API server was away.
        let namespace = &velero.namespace;
        let message = format!(
            "all volumes of restore `{name}` are filled, but Velero hasn't noticed for {minutes} minutes"
        );
        return StepError::permanent(message).with_hint(format!(
            "restart Velero on the target (`kubectl -n {namespace} delete pod -l deploy=velero`), which ends the \
             restore; delete it and what it made, and resume"
        ));
    }
    let what = if waits.is_empty() { "objects".to_owned() } else { waits.join("; ") };
    StepError::permanent(format!("restore `{name}` has made no progress for {minutes} minutes: {what}")).with_hint(
        "remove the cause and resume: the same restore goes on. Until it ends it blocks every other restore of the \
         cluster",
    )
}

/// What the plan can see of the target's namespaces.
async fn plan_occupants(
    ctx: &StepContext,
    velero: &Velero,
    namespaces: &[String],
) -> Result<Option<Problem>, StepError> {
    // What an earlier attempt of this very node has restored is no obstacle to it.
    let ours = format!("{RUN_LABEL}={},{NODE_LABEL}={}", ctx.run, ctx.node.label());
    let restores = list_all(&velero.restores(), &ours).await;
    let restores = restores.map_err(|e| kube_error("failed to list the target's restores", e))?;
    if !restores.is_empty() {
        return Ok(None);
    }
    let found = occupants(velero, namespaces).await?;
    Ok((!found.is_empty()).then(|| {
        let mut problem = to_problem(&occupied_error(&found));
        problem.field = Some("namespaces".to_owned());
        problem
    }))
}

/// What can be said by comparing with the source.
async fn plan_source(
    ctx: &StepContext,
    source: &ClusterRef,
    namespace: &str,
    (cluster, target): (&ClusterRef, &Preflight),
) -> Result<Vec<Problem>, StepError> {
    let (client, version) = match crate::kubernetes::reach(ctx, source, "source").await {
        Ok(reached) => reached,
        Err(problem) => return Ok(vec![*problem]),
    };
    let mut problems = Vec::new();
    let source_version = super::install::version_in(&format!("{}.{}", version.major, version.minor));
    if let (Some(source), Some(target)) = (source_version, target.kubernetes)
        && target < source
    {
        problems.push(
            Problem::error(format!(
                "the target's Kubernetes {}.{} is older than the source's {}.{}",
                target.0, target.1, source.0, source.1
            ))
            .in_field("cluster")
            .with_hint("Velero restores to the same version or a later one: upgrade the target first"),
        );
    }
    if let Some(target) = &target.velero {
        let one = one_cluster(ctx, (source, &client), (cluster, &target.client), "cluster").await;
        if let Some(problem) = one {
            let is_error = problem.severity == Severity::Error;
            problems.push(problem);
            if is_error {
                return Ok(problems);
            }
        }
        let source = Velero { client, namespace: namespace.to_owned() };
        if let Err(e) = refuse_other_password(&source, target).await {
            problems.push(to_problem(&e));
        }
    }
    Ok(problems)
}

#[async_trait]
impl TypedStep for VeleroRestore {
    const NAME: &'static str = "velero.restore";
    const SUMMARY: &'static str = "Restores a copied backup with its volumes through Velero";
    const IDEMPOTENCY: Idempotency = Idempotency::Keyed;

    type Config = RestoreConfig;
    type Outputs = RestoreOutputs;

    async fn plan(
        &self,
        ctx: &StepContext,
        config: &PlanConfig<RestoreConfig>,
    ) -> Result<StepPlan, StepError> {
        let backup = config.field::<String>("backup")?;
        let what = backup.map_or("the backup".to_owned(), |name| format!("backup {name}"));
        let mut plan = StepPlan::new(format!("restore {what} with Velero"));
        let renames = config.field::<Vec<ImageRename>>("rename-images")?.unwrap_or_default();
        let rules = image_rules(&renames).unwrap_or_else(|message| {
            plan.problems.push(Problem::error(message).in_field("rename-images"));
            BTreeMap::new()
        });
        if let Some(volumes) = config.field::<Vec<VolumeBackup>>("volumes")? {
            plan.items = Some(volumes.len() as u64);
            plan.bytes = Some(volumes.iter().map(|v| v.bytes).sum());
        }
        let Some(cluster) = config.field::<ClusterRef>("cluster")? else { return Ok(plan) };
        let namespace = config.field("velero-namespace")?.unwrap_or_else(default_velero_namespace);
        let mut found = preflight(ctx, &cluster, &namespace, None, Role::Target).await;
        plan.problems.append(&mut found.problems);
        if let Some(source) = config.field::<ClusterRef>("source")? {
            plan.problems.extend(plan_source(ctx, &source, &namespace, (&cluster, &found)).await?);
        }
        let namespaces = config.field::<Vec<String>>("namespaces")?.unwrap_or_default();
        if let Some(velero) = &found.velero {
            match plan_occupants(ctx, velero, &namespaces).await {
                Ok(problem) => plan.problems.extend(problem),
                Err(e) => plan.problems.push(to_problem(&e)),
            }
            match find(velero, Plugin::ImageName).await {
                Ok(maps) => plan.destroys.extend(replaced(Plugin::ImageName, &maps, &rules, &namespace)),
                Err(e) => plan.problems.push(to_problem(&e)),
            }
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
    ) -> Result<TypedObservation<RestoreOutputs>, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        // Also when it is over: `apply` joins it and returns at once, with outputs or its failure.
        Ok(match velero.restore(ctx.key.as_str()).await? {
            None => TypedObservation::Absent,
            Some(_) => TypedObservation::Running { handle: ctx.key.to_string() },
        })
    }

    async fn apply(&self, ctx: &StepContext, config: &RestoreConfig) -> Result<RestoreOutputs, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        let found = self.start(ctx, config, &velero).await?;
        let restore = self.follow(ctx, config, &velero, &found).await?;
        self.outputs(ctx, config, &velero, &restore).await
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &RestoreConfig,
        outputs: &RestoreOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let velero = Velero::connect(ctx, &config.cluster, &config.velero_namespace).await?;
        let name = &outputs.restore;
        let subject = format!("restore {name}");
        let status = velero.restore(name).await?.and_then(|r| r.status).unwrap_or_default();
        let phase = if status.phase.is_empty() { "absent" } else { &status.phase };
        let is_quick = depth == VerifyDepth::Quick;
        let mut checks = vec![Check::equal(&subject, "phase", "Completed", phase)];
        if is_quick && phase == "absent" {
            let again = format!("`migrate resume {} --rerun {}`", ctx.run, ctx.node.quoted());
            let note = format!("it was deleted; what it did is recorded. {again} restores again");
            checks = vec![Check { status: CheckStatus::Warning, ..checks.remove(0).with_note(note) }];
        }
        // Quick trusts what was recorded when it ended; deep asks Velero again.
        let (volumes, look) = match depth {
            VerifyDepth::Quick => (outputs.volumes.clone(), Depth::Quick(&outputs.missing)),
            VerifyDepth::Deep => (restored(&velero.volumes_of_restore(name).await?), Depth::Deep),
        };
        let compared =
            compare(&velero.client, name, &config.objects, &outputs.outcomes, &outputs.lone_pods, look)
                .await?;
        let of_backup = config.volumes.as_ref().or(outputs.backup_volumes.as_ref());
        if let Some(of_backup) = of_backup {
            checks.extend(volume_checks(of_backup, &volumes));
            let claims = claims(&velero, of_backup, name, outputs.outcomes.get(CLAIMS)).await?;
            if is_quick {
                refuse_others(ctx, name, &claims)?;
            }
            // Where the Restore is gone as well, only a claim of its shows that its data is not.
            let stands = compared.stands && phase != "absent" || claims.iter().any(|claim| claim.is_restored);
            checks.extend(claim_checks(&claims, (is_quick && stands).then_some(&outputs.unbound[..])));
        }
        checks.extend(compared.checks);
        let unknown = |subject: &str, what: &str, found: &str| Check {
            status: CheckStatus::Warning,
            ..Check::equal(subject, what, "read", found)
        };
        if config.objects.is_empty() {
            checks.push(unknown("objects", "list of the source", "unknown: nothing was compared"));
        } else if outputs.objects.is_empty() {
            let found = "unknown: what was there before the restore counts as restored";
            checks.push(unknown(&subject, "list of objects", found));
        }
        if of_backup.is_none_or(Vec::is_empty) {
            let found = of_backup.map_or("unknown", |_| "empty");
            let found = format!("{found}: no volume's data was compared");
            checks.push(unknown("volumes", "list of the source", &found));
        }
        checks.extend(outputs.warnings.iter().map(|text| warning(&subject, text)));
        Ok(checks.into_iter().collect())
    }
}
