//! Volumes: what a backup holds of them, and which claims it would miss.
//!
//! File-system backup reads a volume through a running pod that mounts it. A claim that no such
//! pod mounts is left out by Velero without a word; here is where that is noticed.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use migrate_plugin_api::{Progress, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{CLAIM_NAME_ANNOTATION, PodVolumeBackup, PodVolumeRestore, Velero};
use super::inventory::is_excluded;
use crate::kubernetes::kube_error;

/// Volumes of a pod that are not to be backed up, by name, separated by commas.
const EXCLUDES_ANNOTATION: &str = "backup.velero.io/backup-volumes-excludes";

/// Claims, as a list of objects calls their kind.
pub(super) const CLAIMS: &str = "v1/PersistentVolumeClaim";

/// The way out where a claim would be missed. Stopping the pods, which stops the writes too, leads here.
pub(super) const UNMOUNTED_HINT: &str = "Velero reads a volume through a running pod: stop the writes and not the pods, or start a pod that mounts each of \
     them and sleeps; `allow-unmounted = true` gives up their data, which is all that is left for a block volume or a \
     folder of a node";

/// One volume in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VolumeBackup {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod it was read through.
    pub pod: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// The claim behind it; none for an `emptyDir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its kopia snapshot; empty when the volume was empty, and then nothing is restored.
    #[serde(default)]
    pub snapshot_id: String,
}

impl VolumeBackup {
    /// `NAMESPACE/POD/VOLUME`.
    pub(super) fn path(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.volume)
    }
}

/// One volume that a restore filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VolumeRestore {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The volumes of a backup, from its PodVolumeBackups.
pub(super) fn backed_up(volumes: &[PodVolumeBackup]) -> Vec<VolumeBackup> {
    let one = |v: &PodVolumeBackup| {
        let status = v.status.clone().unwrap_or_default();
        VolumeBackup {
            namespace: v.spec.pod.namespace.clone(),
            pod: v.spec.pod.name.clone(),
            volume: v.spec.volume.clone(),
            claim: v.annotations().get(CLAIM_NAME_ANNOTATION).cloned(),
            bytes: status.progress.total_bytes,
            snapshot_id: status.snapshot_id,
        }
    };
    volumes.iter().map(one).collect()
}

/// The volumes of a restore, from its PodVolumeRestores.
pub(super) fn restored(volumes: &[PodVolumeRestore]) -> Vec<VolumeRestore> {
    let one = |v: &PodVolumeRestore| VolumeRestore {
        namespace: v.spec.pod.namespace.clone(),
        pod: v.spec.pod.name.clone(),
        volume: v.spec.volume.clone(),
        bytes: v.status.as_ref().map_or(0, |s| s.progress.bytes_done),
    };
    volumes.iter().map(one).collect()
}

/// What must be copied for `backup` to be whole elsewhere, relative to the location's prefix:
/// one kopia repository for each namespace with volumes, and the backup's own folder. A kopia
/// PodVolumeBackup carries no repository identifier; its place is fixed by Velero's layout.
pub(super) fn prefixes(backup: &str, volumes: &[VolumeBackup]) -> Vec<String> {
    let namespaces: BTreeSet<&str> = volumes.iter().map(|v| v.namespace.as_str()).collect();
    let mut prefixes: Vec<String> = namespaces.into_iter().map(|ns| format!("kopia/{ns}/")).collect();
    prefixes.push(format!("backups/{backup}/"));
    prefixes
}

/// Progress over items and volumes.
pub(super) struct VolumeStates {
    /// Path, phase, bytes done, bytes in all.
    states: Vec<(String, String, u64, u64)>,
}

impl VolumeStates {
    pub(super) fn of_backup(volumes: &[PodVolumeBackup]) -> Self {
        let states = volumes.iter().map(|v| state(&v.spec.pod, &v.spec.volume, v.status.as_ref())).collect();
        Self { states }
    }

    pub(super) fn of_restore(volumes: &[PodVolumeRestore]) -> Self {
        let states = volumes.iter().map(|v| state(&v.spec.pod, &v.spec.volume, v.status.as_ref())).collect();
        Self { states }
    }

    /// What a person sees.
    pub(super) fn progress(&self, phase: &str, items: (u64, u64)) -> Progress {
        let finished = self.states.iter().filter(|s| s.1 == "Completed").count();
        let message = match self.states.iter().find(|s| s.1 == "InProgress").or_else(|| self.unfinished()) {
            Some((path, state, ..)) => {
                let state = if state == "InProgress" { String::new() } else { format!(" ({state})") };
                format!("volume {path}{state}, {finished} of {} done", self.states.len())
            }
            None if phase.is_empty() => "waiting for Velero".to_owned(),
            None => format!("Velero: {phase}"),
        };
        let progress = Progress::message(message).items(items.0, (items.1 > 0).then_some(items.1));
        if self.states.is_empty() {
            return progress;
        }
        let done = self.states.iter().map(|s| s.2).sum();
        let total = self.states.iter().map(|s| s.3).sum();
        progress.bytes(done, Some(total).filter(|t| *t > 0))
    }

    fn unfinished(&self) -> Option<&(String, String, u64, u64)> {
        self.states.iter().find(|s| s.1 != "Completed")
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.states.len()
    }

    /// The paths of volumes that aren't finished, with their phase.
    pub(super) fn unfinished_paths(&self) -> Vec<String> {
        let open = self.states.iter().filter(|s| s.1 != "Completed");
        open.map(|s| format!("{} ({})", s.0, if s.1.is_empty() { "New" } else { &s.1 })).collect()
    }

    /// The same as long as nothing moves.
    pub(super) fn fingerprint(&self) -> String {
        self.states.iter().map(|s| format!("{}:{}:{};", s.0, s.1, s.2)).collect()
    }
}

fn state(
    pod: &super::api::PodRef,
    volume: &str,
    status: Option<&super::api::PodVolumeStatus>,
) -> (String, String, u64, u64) {
    let status = status.cloned().unwrap_or_default();
    let path = format!("{}/{}/{volume}", pod.namespace, pod.name);
    let phase = if status.phase.is_empty() { "New".to_owned() } else { status.phase };
    (path, phase, status.progress.bytes_done, status.progress.total_bytes)
}

/// A bound claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundClaim {
    pub namespace: String,
    pub name: String,
    /// The PersistentVolume that it is bound to.
    pub volume: String,
    pub is_block: bool,
    /// Velero takes it along, and its PersistentVolume with it.
    pub goes_along: bool,
    /// It comes and goes with a pod, as that of a generic ephemeral volume.
    pub is_of_pod: bool,
    /// It is being deleted.
    pub is_going: bool,
    pub created: Option<Time>,
}

impl BoundClaim {
    /// `NAMESPACE/NAME`.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The bound claims among `claims`.
pub(super) fn bound(claims: &[PersistentVolumeClaim]) -> Vec<BoundClaim> {
    let is_bound =
        |c: &&PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let one = |c: &PersistentVolumeClaim| BoundClaim {
        namespace: c.namespace().unwrap_or_default(),
        name: c.name_any(),
        volume: c.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default(),
        is_block: c.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block"),
        goes_along: !is_excluded(c) && c.metadata.deletion_timestamp.is_none(),
        is_of_pod: c.owner_references().iter().any(|owner| owner.kind == "Pod"),
        is_going: c.metadata.deletion_timestamp.is_some(),
        created: c.metadata.creation_timestamp.clone(),
    };
    claims.iter().filter(is_bound).map(one).collect()
}

/// The claims among `claims` that a file-system backup made now would miss, each with the reason.
pub(super) fn missed<'a>(claims: &'a [BoundClaim], pods: &[Pod]) -> Vec<(&'a BoundClaim, &'static str)> {
    let covered: BTreeSet<(String, String)> = pods.iter().flat_map(claims_read_through).collect();
    let reason = |claim: &'a BoundClaim| {
        if claim.is_block {
            Some((claim, "it is a block volume, which file-system backup can't read"))
        } else if covered.contains(&(claim.namespace.clone(), claim.name.clone())) {
            None
        } else {
            Some((claim, "no running pod mounts it"))
        }
    };
    claims.iter().filter_map(reason).collect()
}

/// The volumes of `pod` that a file-system backup would read through it, if their kind can be read: it runs, mounts
/// them, and nobody has excluded it or them.
pub(super) fn read_through(pod: &Pod) -> Vec<&Volume> {
    let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let Some(spec) = pod.spec.as_ref().filter(|_| running && !is_excluded(pod)) else { return Vec::new() };
    let mounts = spec.containers.iter().flat_map(|c| c.volume_mounts.iter().flatten());
    let mounted: BTreeSet<&str> = mounts.map(|m| m.name.as_str()).collect();
    let excludes = pod.annotations().get(EXCLUDES_ANNOTATION).map_or("", String::as_str);
    let excluded: BTreeSet<&str> = excludes.split(',').map(str::trim).collect();
    let volumes = spec.volumes.iter().flatten();
    volumes.filter(|v| mounted.contains(&*v.name) && !excluded.contains(&*v.name)).collect()
}

/// Namespace and name of every claim that `pod`, being run, lets a backup read.
fn claims_read_through(pod: &Pod) -> Vec<(String, String)> {
    let namespace = pod.namespace().unwrap_or_default();
    let claim_of = |v: &Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        // The claim of a generic ephemeral volume is named by its pod and volume.
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), v.name)),
        (None, None) => None,
    };
    read_through(pod).into_iter().filter_map(claim_of).map(|claim| (namespace.clone(), claim)).collect()
}

/// The paths of the claims among `claims` that were there when the backup `started` and have no data in it.
pub(super) fn left_out(
    claims: &[BoundClaim],
    volumes: &[VolumeBackup],
    started: Option<&Time>,
) -> Vec<String> {
    without_data(claims, volumes, started).into_iter().map(BoundClaim::path).collect()
}

/// The claims among `claims` that were there when the backup `started` and have no data in it.
pub(super) fn without_data<'a>(
    claims: &'a [BoundClaim],
    volumes: &[VolumeBackup],
    started: Option<&Time>,
) -> Vec<&'a BoundClaim> {
    let is_without =
        |c: &&BoundClaim| was_there(c.created.as_ref(), started) && !has_data_of(volumes, &c.path());
    claims.iter().filter(is_without).collect()
}

/// Whether one of `volumes` is of the claim at `path`, `NAMESPACE/NAME`.
pub(super) fn has_data_of(volumes: &[VolumeBackup], path: &str) -> bool {
    volumes.iter().any(|v| {
        let name = v.claim.clone().unwrap_or_else(|| format!("{}-{}", v.pod, v.volume));
        format!("{}/{name}", v.namespace) == path
    })
}

/// Whether what was `created` then was there when the backup `started`.
pub(super) fn was_there(created: Option<&Time>, started: Option<&Time>) -> bool {
    created.zip(started).is_none_or(|(created, started)| created <= started)
}

/// Those of `namespaces` that the cluster doesn't have or is deleting. Of the former Velero makes a failed backup, and the
/// latter it leaves out without a word (`nsTracker` of pkg/backup/item_collector.go).
pub(super) async fn absent_namespaces(
    velero: &Velero,
    namespaces: &[String],
) -> Result<Vec<String>, StepError> {
    lost_namespaces(velero, namespaces, None).await
}

/// As [`absent_namespaces`], and those that were made again since `began`.
pub(super) async fn lost_namespaces(
    velero: &Velero,
    namespaces: &[String],
    began: Option<&Time>,
) -> Result<Vec<String>, StepError> {
    let api: Api<Namespace> = Api::all(velero.client.clone());
    let mut lost = Vec::new();
    for namespace in namespaces {
        let found = api.get_metadata_opt(namespace).await;
        let found = found.map_err(|e| kube_error(format!("failed to read namespace `{namespace}`"), e))?;
        match found {
            None => lost.push(namespace.clone()),
            Some(found) if found.metadata.deletion_timestamp.is_some() => {
                lost.push(format!("{namespace} (being deleted)"));
            }
            Some(found) if !was_there(found.metadata.creation_timestamp.as_ref(), began) => {
                lost.push(format!("{namespace} (made again since)"));
            }
            Some(_) => {}
        }
    }
    Ok(lost)
}

/// The bound claims and the pods of `namespaces`.
pub(super) async fn claims_and_pods(
    velero: &Velero,
    namespaces: &[String],
) -> Result<(Vec<BoundClaim>, Vec<Pod>), StepError> {
    let claims = bound(&velero.list_in(namespaces, "the claims").await?);
    Ok((claims, velero.list_in(namespaces, "the pods").await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(namespace: &str, pod: &str, volume: &str, claim: Option<&str>) -> VolumeBackup {
        VolumeBackup {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            volume: volume.to_owned(),
            claim: claim.map(str::to_owned),
            bytes: 1,
            snapshot_id: "k1".to_owned(),
        }
    }

    fn claim(name: &str, mode: &str, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": name, "creationTimestamp": "2026-01-01T10:00:00Z" },
            "spec": { "volumeMode": mode },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn pod(name: &str, phase: &str, excludes: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": name, "annotations": { EXCLUDES_ANNOTATION: excludes } },
            "spec": {
                "containers": [{ "name": "c", "volumeMounts": [
                    { "name": "data", "mountPath": "/data" }, { "name": "scratch", "mountPath": "/tmp" },
                ] }],
                "volumes": [
                    { "name": "data", "persistentVolumeClaim": { "claimName": format!("data-{name}") } },
                    { "name": "scratch", "ephemeral": { } },
                    { "name": "declared", "persistentVolumeClaim": { "claimName": format!("declared-{name}") } },
                ],
            },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn prefixes_are_one_repository_a_namespace_and_the_backup_last() {
        let volumes =
            [volume("web", "a", "x", None), volume("shop", "b", "x", None), volume("shop", "b", "y", None)];
        assert_eq!(prefixes("b1", &volumes), ["kopia/shop/", "kopia/web/", "backups/b1/"]);
        assert_eq!(prefixes("b1", &[]), ["backups/b1/"]);
    }

    #[test]
    fn a_claim_is_read_only_through_a_running_pod_that_mounts_it() {
        let claims = bound(&[
            claim("data-up", "Filesystem", "Bound"),
            claim("up-scratch", "Filesystem", "Bound"),
            claim("declared-up", "Filesystem", "Bound"),
            claim("data-down", "Filesystem", "Bound"),
            claim("data-kept-out", "Filesystem", "Bound"),
            claim("data-left-out", "Filesystem", "Bound"),
            claim("raw", "Block", "Bound"),
            claim("never-bound", "Filesystem", "Pending"),
        ]);
        let mut left_out = pod("left-out", "Running", "");
        left_out.labels_mut().insert("velero.io/exclude-from-backup".to_owned(), "true".to_owned());
        let kept_out = pod("kept-out", "Running", "data, x");
        let pods = [pod("up", "Running", ""), pod("down", "Pending", ""), kept_out, left_out];
        let missed: Vec<String> = missed(&claims, &pods).iter().map(|(c, _)| c.path()).collect();
        assert_eq!(
            missed,
            ["shop/declared-up", "shop/data-down", "shop/data-kept-out", "shop/data-left-out", "shop/raw"]
        );
    }

    #[test]
    fn claims_without_data_are_named_unless_they_are_newer_than_the_backup() {
        let claims = bound(&[claim("data", "Filesystem", "Bound"), claim("lost", "Filesystem", "Bound")]);
        let volumes = [volume("shop", "p", "v", Some("data")), volume("other", "p", "v", Some("lost"))];
        let at = |text: &str| serde_json::from_value::<Time>(json!(text)).unwrap();
        assert_eq!(left_out(&claims, &volumes, Some(&at("2026-01-01T10:00:01Z"))), ["shop/lost"]);
        assert!(left_out(&claims, &volumes, Some(&at("2026-01-01T09:00:00Z"))).is_empty());
    }

    #[test]
    fn progress_sums_volumes_and_names_the_one_at_work() {
        let pvb = |name: &str, phase: &str, done: u64, total: u64| -> PodVolumeBackup {
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "spec": { "pod": { "namespace": "shop", "name": name }, "volume": "data" },
                "status": { "phase": phase, "progress": { "bytesDone": done, "totalBytes": total } },
            }))
            .unwrap()
        };
        let states = VolumeStates::of_backup(&[
            pvb("a", "Completed", 5, 5),
            pvb("b", "", 0, 0),
            pvb("c", "InProgress", 2, 9),
        ]);
        let progress = states.progress("InProgress", (3, 8));
        assert_eq!(progress.message.as_deref(), Some("volume shop/c/data, 1 of 3 done"));
        assert_eq!(progress.bytes.map(|b| (b.done, b.total)), Some((7, Some(14))));
        assert_eq!(progress.items.map(|i| (i.done, i.total)), Some((3, Some(8))));
        assert_eq!(states.unfinished_paths(), ["shop/b/data (New)", "shop/c/data (InProgress)"]);
    }
}
