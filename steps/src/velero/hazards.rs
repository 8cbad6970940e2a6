//! What a backup of the source would lead to on the target though nobody wants it: data written over, work done
//! twice, a door opened, files left behind. Velero says nothing of any of it, so it is looked for before a backup is
//! made, and in the backup itself when it is. The judgement is pure.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Service, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Api, ResourceExt};
use migrate_plugin_api::{Problem, StepError};
use serde::Serialize;
use serde_json::Value;

use super::api::Velero;
use super::compare::some;
use super::contents::{Contents, place};
use super::inventory::is_excluded;
use super::known::Known;
use super::volumes::{BoundClaim, VolumeBackup, has_data_of, missed, read_through};
use crate::kubernetes::kube_error;
use crate::rules::exposure::becomes_public;

/// Volumes, in a pod's own words or a PersistentVolume's, that lead to the same bytes from wherever they are mounted. Of
/// a pod's own, file-system backup reads them, and the restore writes them in the restored pod. A claim is provisioned
/// anew where the backup has its data; of one without see [`of_claim`].
const SHARED: [&str; 9] =
    ["nfs", "cephfs", "glusterfs", "rbd", "iscsi", "fc", "azureFile", "quobyte", "flexVolume"];
/// Drivers of `csi` volumes that do.
const SHARED_DRIVERS: [&str; 4] =
    ["nfs.csi.k8s.io", "smb.csi.k8s.io", "file.csi.azure.com", "blob.csi.azure.com"];
/// Folders of a node that hold its state and no data.
const STATE_OF_A_NODE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/run"];

/// One thing that the backup would lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hazard {
    kind: Kind,
    /// The object.
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SharedVolume,
    ReadOnlyVolume,
    SharedClaim,
    UnfinishedWork,
    InsideService,
    UnseenVolume,
    UnseenWork,
    UnseenService,
    KeptVolume,
    SharedUnread,
    HostPath,
    CronJob,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::SharedVolume,
        Self::ReadOnlyVolume,
        Self::SharedClaim,
        Self::UnfinishedWork,
        Self::InsideService,
        Self::UnseenVolume,
        Self::UnseenWork,
        Self::UnseenService,
        Self::KeptVolume,
        Self::SharedUnread,
        Self::HostPath,
        Self::CronJob,
    ];

    /// What follows its objects' names.
    fn outcome(self) -> &'static str {
        match self {
            Self::SharedVolume => {
                "would be the same storage on the target, where the restore would write the backup over what is in it \
                 by then"
            }
            Self::ReadOnlyVolume => "would be read-only on the target, where the restore could not write it",
            Self::SharedClaim | Self::SharedUnread => {
                "would be the same storage on the target, into which the restored pods would write"
            }
            Self::KeptVolume => {
                "would keep its volume on the target, which Velero restores as it is: the same storage, or what can't \
                 be mounted there"
            }
            Self::UnfinishedWork => "would run again on the target, from the beginning",
            Self::InsideService => {
                "would be public on AKS, which doesn't read what keeps it inside, or guards it, on AWS"
            }
            Self::UnseenVolume => {
                "can't be read from here, and its pod is gone from the source: if it is a share, the restore would write \
                 the backup over what is in it by then"
            }
            Self::UnseenWork => {
                "can't be read from here, and is gone from the source: if it had not ended, it would run again on the \
                 target, from the beginning"
            }
            Self::UnseenService => {
                "can't be read from here, and is gone from the source: if AWS kept it inside, it would be public on AKS"
            }
            Self::HostPath => "would be left behind: Velero doesn't read folders of nodes",
            Self::CronJob => "would run on the target as well, at the same times",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::SharedVolume | Self::ReadOnlyVolume => {
                "annotate its pods, in their workload, with `backup.velero.io/backup-volumes-excludes: VOLUME`; or \
                 mount it through a claim"
            }
            Self::SharedClaim | Self::KeptVolume => {
                "label the claim and its volume `velero.io/exclude-from-backup=true`, and give its pods another on the \
                 target; or start a pod that mounts it, so that its files go along into a new one"
            }
            Self::SharedUnread => {
                "keep the target's nodes from that storage, or label its pods and their workload \
                 `velero.io/exclude-from-backup=true`, unless it is meant"
            }
            Self::UnfinishedWork => {
                "suspend the CronJob that it is of, if any, and wait for its end; or delete it, or label it and its \
                 pods `velero.io/exclude-from-backup=true`; or set `allow-unfinished-jobs = true`"
            }
            Self::InsideService => {
                "on EKS annotate it with `service.beta.kubernetes.io/azure-load-balancer-internal: \"true\"`, which \
                 AWS doesn't read (`\"false\"` says that public is meant); or label it \
                 `velero.io/exclude-from-backup=true`"
            }
            Self::UnseenVolume | Self::UnseenWork | Self::UnseenService => {
                "back up fewer namespaces at once, and delete nothing from them meanwhile"
            }
            Self::HostPath => "what is needed of it must be moved by other means",
            Self::CronJob => "suspend it before the backup, and on one side until traffic has moved",
        }
    }

    fn is_refused(self, allow_unfinished: bool) -> bool {
        match self {
            Self::SharedVolume | Self::ReadOnlyVolume | Self::SharedClaim | Self::InsideService => true,
            Self::UnseenVolume | Self::UnseenService => true,
            Self::UnfinishedWork | Self::UnseenWork => !allow_unfinished,
            Self::KeptVolume | Self::SharedUnread | Self::HostPath | Self::CronJob => false,
        }
    }
}

impl Hazard {
    /// One line.
    pub(super) fn message(&self) -> String {
        format!("{} {}", self.what, self.kind.outcome())
    }

    /// As a problem of the plan.
    pub(super) fn to_problem(&self, allow_unfinished: bool) -> Problem {
        let problem = if self.kind.is_refused(allow_unfinished) {
            Problem::error(self.message())
        } else {
            Problem::warning(self.message())
        };
        problem.in_field("namespaces").with_hint(self.kind.hint())
    }
}

/// Refuses to make a backup, or to hand it on, while there is one that a person must do something about.
pub(super) fn refuse(hazards: &[Hazard], allow_unfinished: bool) -> Result<(), StepError> {
    let (mut messages, mut hints) = (Vec::new(), Vec::new());
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_refused(allow_unfinished)) {
        let what: Vec<String> =
            hazards.iter().filter(|hazard| hazard.kind == kind).map(|hazard| hazard.what.clone()).collect();
        if !what.is_empty() {
            messages.push(format!("{} {}", some(&what), kind.outcome()));
            hints.push(kind.hint());
        }
    }
    if messages.is_empty() {
        return Ok(());
    }
    Err(StepError::permanent(messages.join("; ")).with_hint(hints.join("; ")))
}

/// How a resource modifier keeps from running what must not run again: a Job, and its pods, which Velero restores without
/// it and of which only the contents of the backup tell.
pub(super) fn stopped(
    hazards: &[Hazard],
    allow_unfinished: bool,
    contents: Option<&Contents>,
) -> Option<String> {
    let is_work = |hazard: &Hazard| matches!(hazard.kind, Kind::UnfinishedWork | Kind::UnseenWork);
    if allow_unfinished || !hazards.iter().any(is_work) {
        return None;
    }
    let pods: Vec<String> = contents.map(of_jobs).unwrap_or_default();
    let pods = if pods.is_empty() { String::new() } else { format!(" ({})", some(&pods)) };
    Some(format!("which suspends a Job and has the pods of all that work{pods} do nothing but sleep"))
}

/// The pods of Jobs that would run again.
fn of_jobs(contents: &Contents) -> Vec<String> {
    let jobs = contents.jobs.iter().filter(|job| of_job(job, None).is_some());
    let jobs: BTreeSet<String> = jobs.map(place).collect();
    let is_of_one = |pod: &&Pod| {
        let owner = controller(*pod).filter(|owner| owner.kind == "Job");
        let namespace = pod.namespace().unwrap_or_default();
        owner.is_some_and(|owner| jobs.contains(&format!("{namespace}/{}", owner.name)))
    };
    contents.pods.iter().filter(is_of_one).map(place).collect()
}

/// Looks at `namespaces`, of which claims and pods are `listed`, as they are.
pub(super) async fn look(
    velero: &Velero,
    namespaces: &[String],
    listed: (Vec<BoundClaim>, Vec<Pod>),
) -> Result<Vec<Hazard>, StepError> {
    let now = Contents::of_cluster(velero, namespaces, listed).await?;
    Ok(judge(&with_volumes(velero, now, None, None).await?, None, None))
}

/// As [`judge`], of a backup whose contents can't be read: by what the source has `now`, and had when it was `seen` while
/// Velero was at work. What is gone by now counts where a person must do something about it.
pub(super) async fn guess(
    velero: &Velero,
    (now, seen): (Contents, Contents),
    volumes: &[VolumeBackup],
    known: &Known<'_>,
) -> Result<Vec<Hazard>, StepError> {
    let now = with_volumes(velero, now, Some(volumes), Some(known)).await?;
    let mut hazards = judge(&now, Some(volumes), Some(known));
    let before = judge(&seen, Some(volumes), Some(known)).into_iter();
    let gone: Vec<Hazard> =
        before.filter(|hazard| hazard.kind.is_refused(false) && !hazards.contains(hazard)).collect();
    hazards.extend(gone);
    let unjudged = known.unjudged(&now, &seen, volumes);
    for (kind, names) in [
        (Kind::UnseenVolume, unjudged.volumes),
        (Kind::UnseenWork, unjudged.work),
        (Kind::UnseenService, unjudged.services),
    ] {
        hazards.extend(names.into_iter().map(|what| Hazard { kind, what }));
    }
    Ok(hazards)
}

/// With the PersistentVolumes of the claims that go along without their data.
async fn with_volumes(
    velero: &Velero,
    mut now: Contents,
    volumes: Option<&[VolumeBackup]>,
    known: Option<&Known<'_>>,
) -> Result<Contents, StepError> {
    let api: Api<PersistentVolume> = Api::all(velero.client.clone());
    let mut found = Vec::new();
    for claim in unread(&now, volumes, known) {
        let volume = api.get_opt(&claim.volume).await;
        found.extend(volume.map_err(|e| {
            kube_error(format!("failed to read volume `{}` of claim {}", claim.volume, claim.path()), e)
        })?);
    }
    now.volumes = found;
    Ok(now)
}

/// What `contents` would lead to. Of a backup that is made, `volumes` are what it has of volumes, and where its contents
/// are only what the source has, this is `known` of them.
pub(super) fn judge(
    contents: &Contents,
    volumes: Option<&[VolumeBackup]>,
    known: Option<&Known<'_>>,
) -> Vec<Hazard> {
    let mut hazards: Vec<Hazard> =
        contents.pods.iter().flat_map(|pod| of_volumes(pod, volumes, known)).collect();
    let unread = unread(contents, volumes, known);
    hazards.extend(unread.into_iter().filter_map(|claim| of_claim(claim, &contents.volumes)));
    let mut told = BTreeSet::new();
    for job in &contents.jobs {
        if let Some(hazard) = of_job(job, known) {
            told.insert(place(job));
            hazards.push(hazard);
        }
    }
    hazards.extend(contents.services.iter().filter_map(|service| of_service(service, known)));
    hazards.extend(contents.cron_jobs.iter().filter_map(|cron_job| of_cron_job(cron_job, known)));
    hazards.extend(contents.pods.iter().filter_map(|pod| of_lone_pod(pod, &told, known)));
    hazards
}

/// Whether Velero takes the object of `kind` along, or has.
fn goes_along(kind: &str, object: &impl ResourceExt, known: Option<&Known<'_>>) -> bool {
    match known {
        Some(known) => known.holds(kind, object),
        None => !is_excluded(object) && object.meta().deletion_timestamp.is_none(),
    }
}

/// The claims that go along without their data; `volumes` and `known` as [`judge`] has them.
fn unread<'a>(
    contents: &'a Contents,
    volumes: Option<&[VolumeBackup]>,
    known: Option<&Known<'_>>,
) -> Vec<&'a BoundClaim> {
    let mut claims: Vec<&BoundClaim> = match volumes {
        Some(volumes) => {
            contents.claims.iter().filter(|claim| !has_data_of(volumes, &claim.path())).collect()
        }
        None => missed(&contents.claims, &contents.pods).into_iter().map(|(claim, _)| claim).collect(),
    };
    let goes_along = |claim: &BoundClaim| known.map_or(claim.goes_along, |known| known.holds_claim(claim));
    claims.retain(|claim| goes_along(claim) && !claim.volume.is_empty());
    claims
}

/// A claim without data whose PersistentVolume goes along: Velero restores it as it is, and the claim bound to it, unless
/// its reclaim policy is Delete (`restorePersistentVolume` of pkg/restore/restore.go).
fn of_claim(claim: &BoundClaim, volumes: &[PersistentVolume]) -> Option<Hazard> {
    let volume = volumes.iter().find(|volume| volume.name_any() == claim.volume && !is_excluded(*volume))?;
    let spec = volume.spec.as_ref()?;
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain");
    if policy == "Delete" {
        return None;
    }
    let (kind, storage) = match (shared(spec), &spec.csi) {
        (Some((false, storage)), _) => (Kind::SharedClaim, format!(", {storage}")),
        (Some((true, storage)), _) => (Kind::KeptVolume, format!(", {storage}")),
        (None, Some(csi)) => (Kind::KeptVolume, format!(", csi {}", csi.driver)),
        (None, None) => (Kind::KeptVolume, String::new()),
    };
    Some(Hazard {
        kind,
        what: format!("claim {} (volume {}{storage}, {policy})", claim.path(), claim.volume),
    })
}

fn of_volumes(pod: &Pod, volumes: Option<&[VolumeBackup]>, known: Option<&Known<'_>>) -> Vec<Hazard> {
    let place = place(pod);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_restored = goes_along("v1/Pod", pod, known) && !matches!(phase, Some("Succeeded" | "Failed"));
    let read: BTreeSet<&str> = read_through(pod).into_iter().map(|volume| volume.name.as_str()).collect();
    let one = |volume: &Volume| {
        let path = format!("{place}/{}", volume.name);
        let is_read = read.contains(&*volume.name);
        if let Some((is_read_only, storage)) = shared(volume) {
            let kind = if is_read_only { Kind::ReadOnlyVolume } else { Kind::SharedVolume };
            // A pod that has ended since was read through all the same.
            let is_held = volumes.map_or(is_read, |held| held.iter().any(|volume| volume.path() == path));
            let is_unread = !is_held && !is_read_only && is_restored && is_written(pod, &volume.name);
            let kind = if is_unread { Kind::SharedUnread } else { kind };
            return (is_held || is_unread)
                .then(|| Hazard { kind, what: format!("volume {path} ({storage})") });
        }
        let folder = volume.host_path.as_ref().map(|host| host.path.as_str())?;
        let is_state = STATE_OF_A_NODE.into_iter().any(|of_node| Path::new(folder).starts_with(of_node));
        if !is_read || is_state || !is_written(pod, &volume.name) {
            return None;
        }
        Some(Hazard { kind: Kind::HostPath, what: format!("volume {path} (hostPath {folder})") })
    };
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(one).collect()
}

/// Whether it is read-only, and which storage it is. What a container may do says nothing of what Velero may: it writes
/// where the node has mounted it.
fn shared(volume: &impl Serialize) -> Option<(bool, String)> {
    let source = serde_json::to_value(volume).ok()?;
    let is_read_only = |kind: &str| source[kind]["readOnly"] == true;
    if let Some(kind) = SHARED.into_iter().find(|kind| source.get(kind).is_some_and(Value::is_object)) {
        let of = |field: &str| source[kind][field].as_str().unwrap_or_default();
        let storage =
            if kind == "nfs" { format!("nfs {}:{}", of("server"), of("path")) } else { kind.to_owned() };
        return Some((is_read_only(kind), storage));
    }
    let driver = source["csi"]["driver"].as_str().filter(|driver| SHARED_DRIVERS.contains(driver))?;
    Some((is_read_only("csi"), format!("csi {driver}")))
}

/// Whether a container of `pod` may write the volume.
fn is_written(pod: &Pod, volume: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.any(|mount| mount.name == volume && mount.read_only != Some(true))
}

/// A Job that Velero restores, without its status, so that it begins anew: it leaves out only what has a time of
/// completion, which one that failed has not (velero#8800).
fn of_job(job: &Job, known: Option<&Known<'_>>) -> Option<Hazard> {
    let is_suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    if is_suspended || !goes_along("batch/v1/Job", job, known) {
        return None;
    }
    let status = job.status.clone().unwrap_or_default();
    if status.completion_time.as_ref().is_some_and(|completed| had_come(completed, known)) {
        return None;
    }
    let mut conditions = status.conditions.iter().flatten();
    let has_failed = conditions.any(|condition| condition.type_ == "Failed" && condition.status == "True");
    let how = if has_failed { "failed" } else { "not completed" };
    let what = format!("Job {} ({how}{})", place(job), of_owner(controller(job)));
    Some(Hazard { kind: Kind::UnfinishedWork, what })
}

/// Whether the end of some work, at `time`, came before the backup, of which this is `known` if it is made, began.
fn had_come(time: &Time, known: Option<&Known<'_>>) -> bool {
    known.and_then(|known| known.began).is_none_or(|began| time <= began)
}

/// The owner that answers for the object.
fn controller(object: &impl ResourceExt) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

fn of_owner(owner: Option<&OwnerReference>) -> String {
    owner.map(|owner| format!(", of {} {}", owner.kind, owner.name)).unwrap_or_default()
}

/// A Pod that comes to an end and begins anew on the target: Velero restores it without its owner. That of a Job is told
/// as the Job; one of KubeVirt's is a machine, and no work of its own.
fn of_lone_pod(pod: &Pod, told: &BTreeSet<String>, known: Option<&Known<'_>>) -> Option<Hazard> {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let had_ended =
        matches!(phase, "Succeeded" | "Failed") && ended(pod).is_none_or(|end| had_come(end, known));
    if policy == "Always" || had_ended || !goes_along("v1/Pod", pod, known) {
        return None;
    }
    let namespace = pod.namespace().unwrap_or_default();
    let owner = controller(pod);
    let is_answered_for = |owner: &OwnerReference| match owner.api_version.split('/').next() {
        Some("kubevirt.io") => true,
        Some("batch") => told.contains(&format!("{namespace}/{}", owner.name)),
        _ => false,
    };
    if owner.is_some_and(is_answered_for) {
        return None;
    }
    let what = format!("pod {} (restartPolicy {policy}{})", place(pod), of_owner(owner));
    Some(Hazard { kind: Kind::UnfinishedWork, what })
}

/// When the last of its containers ended.
fn ended(pod: &Pod) -> Option<&Time> {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = containers
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    ends.max()
}

fn of_service(service: &Service, known: Option<&Known<'_>>) -> Option<Hazard> {
    let said = becomes_public(&serde_json::to_value(service).ok()?)
        .filter(|_| goes_along("v1/Service", service, known))?;
    Some(Hazard { kind: Kind::InsideService, what: format!("Service {} ({said})", place(service)) })
}

fn of_cron_job(cron_job: &CronJob, known: Option<&Known<'_>>) -> Option<Hazard> {
    if cron_job.spec.suspend == Some(true) || !goes_along("batch/v1/CronJob", cron_job, known) {
        return None;
    }
    Some(Hazard { kind: Kind::CronJob, what: format!("CronJob {}", place(cron_job)) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use serde_json::json;

    fn messages(hazards: impl IntoIterator<Item = Hazard>) -> Vec<String> {
        hazards.into_iter().map(|hazard| hazard.what).collect()
    }

    fn pod(volume: Value, mount: Value) -> Pod {
        let mut mount = mount;
        (mount["name"], mount["mountPath"]) = (json!("d"), json!("/d"));
        let mut volume = volume;
        volume["name"] = json!("d");
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": { "containers": [{ "name": "c", "volumeMounts": [mount] }], "volumes": [volume] },
            "status": { "phase": "Running" },
        }))
        .unwrap()
    }

    #[test]
    fn storage_that_both_sides_reach_is_told_and_storage_of_a_node() {
        let kind = |volume: Value, mount: Value| {
            let found = of_volumes(&pod(volume, mount), None, None);
            found.into_iter().map(|hazard| hazard.kind).next()
        };
        let nfs = json!({ "nfs": { "server": "s", "path": "/p" } });
        assert_eq!(kind(nfs.clone(), json!({})), Some(Kind::SharedVolume));
        // Velero writes where the node has mounted it, whatever the container may do.
        assert_eq!(kind(nfs, json!({ "readOnly": true })), Some(Kind::SharedVolume));
        let read_only = json!({ "nfs": { "server": "s", "path": "/p", "readOnly": true } });
        assert_eq!(kind(read_only, json!({})), Some(Kind::ReadOnlyVolume));
        let csi = |driver: &str| json!({ "csi": { "driver": driver } });
        assert_eq!(kind(csi("smb.csi.k8s.io"), json!({})), Some(Kind::SharedVolume));
        assert_eq!(kind(csi("secrets-store.csi.k8s.io"), json!({})), None);
        assert_eq!(kind(json!({ "emptyDir": {} }), json!({})), None);
        let host = |path: &str| json!({ "hostPath": { "path": path } });
        assert_eq!(kind(host("/data"), json!({})), Some(Kind::HostPath));
        assert_eq!(kind(host("/data"), json!({ "readOnly": true })), None);
        assert_eq!(kind(host("/var/run/docker.sock"), json!({})), None);
        assert_eq!(kind(host("/running"), json!({})), Some(Kind::HostPath));
    }

    fn job(labels: Value, spec: Value, status: Value) -> Job {
        let metadata = json!({ "namespace": "shop", "name": "bill", "labels": labels,
            "creationTimestamp": "2026-01-01T10:00:00Z" });
        let mut spec = spec;
        spec["template"] = json!({});
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": status })).unwrap()
    }

    /// Of a backup without a list.
    fn began_at(began: &Time) -> Known<'_> {
        static NONE: BTreeMap<String, Vec<String>> = BTreeMap::new();
        Known { began: Some(began), listed: None, objects: &NONE }
    }

    #[test]
    fn only_a_job_that_velero_would_begin_anew_is_told() {
        let told = |job: &Job, began: Option<&Time>| {
            let known = began.map(began_at);
            messages(of_job(job, known.as_ref()))
        };
        let active = job(json!({}), json!({}), json!({ "active": 1 }));
        assert_eq!(told(&active, None), ["Job shop/bill (not completed)"]);
        let condition = json!({ "type": "Failed", "status": "True" });
        let failed = job(json!({}), json!({}), json!({ "conditions": [condition] }));
        assert_eq!(told(&failed, None), ["Job shop/bill (failed)"]);
        let done = job(json!({}), json!({}), json!({ "completionTime": "2026-01-01T12:00:00Z" }));
        let excluded = job(json!({ "velero.io/exclude-from-backup": "true" }), json!({}), json!({}));
        let suspended = job(json!({}), json!({ "suspend": true }), json!({}));
        for job in [&done, &excluded, &suspended] {
            assert_eq!(told(job, None), Vec::<String>::new());
        }
        // As it was when the backup began.
        let at = |text: &str| serde_json::from_value::<Time>(json!(text)).unwrap();
        assert_eq!(told(&done, Some(&at("2026-01-01T11:00:00Z"))), ["Job shop/bill (not completed)"]);
        assert!(told(&done, Some(&at("2026-01-01T13:00:00Z"))).is_empty());
        // It came after that, and may have been listed all the same.
        assert_eq!(told(&active, Some(&at("2026-01-01T09:00:00Z"))), ["Job shop/bill (not completed)"]);
    }

    #[test]
    fn a_pod_that_comes_to_an_end_is_told_unless_its_job_is() {
        let pod = |owner: &str, policy: &str, phase: &str| -> Pod {
            let (group, kind) = owner.rsplit_once('/').unwrap_or(("", owner));
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let owner = json!({ "apiVersion": version, "kind": kind, "name": "bill", "uid": "u", "controller": true });
            serde_json::from_value(json!({
                "metadata": { "namespace": "shop", "name": "p", "ownerReferences": [owner] },
                "spec": { "containers": [], "restartPolicy": policy }, "status": { "phase": phase },
            }))
            .unwrap()
        };
        let none = BTreeSet::new();
        let job = pod("batch/Job", "Never", "Running");
        assert_eq!(
            messages(of_lone_pod(&job, &none, None)),
            ["pod shop/p (restartPolicy Never, of Job bill)"]
        );
        let told = BTreeSet::from(["shop/bill".to_owned()]);
        assert_eq!(of_lone_pod(&job, &told, None), None);
        let mut succeeded = pod("batch/Job", "Never", "Succeeded");
        assert_eq!(of_lone_pod(&succeeded, &none, None), None);
        // It ran when the backup began, and is in it.
        let ended = json!({ "terminated": { "exitCode": 0, "finishedAt": "2026-01-01T12:00:00Z" } });
        let container = json!({ "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": ended });
        succeeded.status.as_mut().unwrap().container_statuses =
            Some(vec![serde_json::from_value(container).unwrap()]);
        assert_eq!(of_lone_pod(&succeeded, &none, None), None);
        for (began, is_told) in [("2026-01-01T11:00:00Z", true), ("2026-01-01T13:00:00Z", false)] {
            let began = serde_json::from_value::<Time>(json!(began)).unwrap();
            assert_eq!(of_lone_pod(&succeeded, &none, Some(&began_at(&began))).is_some(), is_told);
        }
        assert_eq!(of_lone_pod(&pod("apps/ReplicaSet", "Always", "Running"), &none, None), None);
        assert_eq!(
            of_lone_pod(&pod("kubevirt.io/VirtualMachineInstance", "Never", "Running"), &none, None),
            None
        );
        // No other controller takes a restored pod for its own.
        for owner in ["argoproj.io/Workflow", "tekton.dev/TaskRun", "sparkoperator.k8s.io/SparkApplication"] {
            assert!(of_lone_pod(&pod(owner, "Never", "Running"), &told, None).is_some(), "{owner}");
        }
        let mut alone = job;
        alone.metadata.owner_references = None;
        assert_eq!(messages(of_lone_pod(&alone, &none, None)), ["pod shop/p (restartPolicy Never)"]);
    }
}
