//! The few fields of Velero's objects that we read and write, and where they are served.
//!
//! From `pkg/apis/velero/v1` of Velero 1.18; fields we don't know are ignored. Nothing here
//! decides anything.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, GroupVersionKind, ListParams, Object};
use kube::{Api, Client, Resource};
use migrate_plugin_api::{StepContext, StepError};
use serde::{Deserialize, Serialize};

use crate::kubernetes::{connect, kube_error};
use crate::site::ClusterRef;

/// On objects that belong to a backup, and on everything a restore of it created.
pub(super) const BACKUP_NAME_LABEL: &str = "velero.io/backup-name";
/// On objects that belong to a restore, and on everything it created.
pub(super) const RESTORE_NAME_LABEL: &str = "velero.io/restore-name";
/// On a PodVolumeBackup of a claim.
pub(super) const CLAIM_NAME_ANNOTATION: &str = "velero.io/pvc-name";
/// Our mark on what we make, with the run and the node that made it.
pub(super) const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub(super) const MANAGED_BY: &str = "migrate";
/// The run that made it.
pub(super) const RUN_LABEL: &str = "migrate-run";
/// The node that made it.
pub(super) const NODE_LABEL: &str = "migrate-node";
/// Objects a list call returns at once: the API server's own recommendation for chunking.
pub(super) const PAGE_ITEMS: u32 = 500;

/// A Velero Backup.
pub(super) type Backup = Object<BackupSpec, BackupStatus>;
/// A Velero Restore.
pub(super) type Restore = Object<RestoreSpec, RestoreStatus>;
/// One volume of a Backup.
pub(super) type PodVolumeBackup = Object<PodVolumeBackupSpec, PodVolumeStatus>;
/// One volume of a Restore.
pub(super) type PodVolumeRestore = Object<PodVolumeRestoreSpec, PodVolumeStatus>;
/// Where backups are stored.
pub(super) type BackupStorageLocation = Object<LocationSpec, LocationStatus>;
/// Asks Velero for a signed URL of one of its files.
pub(super) type DownloadRequest = Object<DownloadRequestSpec, DownloadRequestStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackupSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub included_namespaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_location: Option<String>,
    /// A Go duration; Velero writes its default here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_volumes_to_fs_backup: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_volumes: Option<bool>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackupStatus {
    pub phase: String,
    pub validation_errors: Option<Vec<String>>,
    pub failure_reason: String,
    pub warnings: u64,
    pub errors: u64,
    pub start_timestamp: Option<Time>,
    pub completion_timestamp: Option<Time>,
    pub progress: Option<BackupProgress>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackupProgress {
    pub total_items: u64,
    pub items_backed_up: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RestoreSpec {
    #[serde(default)]
    pub backup_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_resource_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RestoreStatus {
    pub phase: String,
    pub validation_errors: Option<Vec<String>>,
    pub failure_reason: String,
    pub warnings: u64,
    pub errors: u64,
    pub progress: Option<RestoreProgress>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RestoreProgress {
    pub total_items: u64,
    pub items_restored: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PodRef {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodVolumeBackupSpec {
    pub pod: PodRef,
    pub volume: String,
    pub uploader_type: String,
    pub backup_storage_location: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodVolumeRestoreSpec {
    pub pod: PodRef,
    pub volume: String,
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
}

/// The status of a PodVolumeBackup or a PodVolumeRestore.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodVolumeStatus {
    pub phase: String,
    pub message: String,
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    pub progress: VolumeProgress,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VolumeProgress {
    pub total_bytes: u64,
    pub bytes_done: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LocationSpec {
    pub default: bool,
    pub access_mode: String,
    pub backup_sync_period: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LocationStatus {
    pub phase: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct DownloadRequestSpec {
    pub target: DownloadTarget,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct DownloadTarget {
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DownloadRequestStatus {
    pub phase: String,
    /// Signed, which makes it a secret.
    #[serde(rename = "downloadURL")]
    pub download_url: String,
}

impl fmt::Debug for DownloadRequestStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadRequestStatus").field("phase", &self.phase).finish_non_exhaustive()
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("velero.io", "v1", kind), plural)
}

/// Velero in one cluster.
#[derive(Clone)]
pub(super) struct Velero {
    pub client: Client,
    /// Where Velero's own objects are.
    pub namespace: String,
}

impl Velero {
    /// Connects to `cluster`; sends nothing yet.
    pub(super) async fn connect(
        ctx: &StepContext,
        cluster: &ClusterRef,
        namespace: &str,
    ) -> Result<Self, StepError> {
        Ok(Self { client: connect(ctx, cluster).await?, namespace: namespace.to_owned() })
    }

    fn api<K>(&self, kind: &str, plural: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind, plural))
    }

    pub(super) fn backups(&self) -> Api<Backup> {
        self.api("Backup", "backups")
    }

    pub(super) fn restores(&self) -> Api<Restore> {
        self.api("Restore", "restores")
    }

    pub(super) fn pod_volume_backups(&self) -> Api<PodVolumeBackup> {
        self.api("PodVolumeBackup", "podvolumebackups")
    }

    pub(super) fn locations(&self) -> Api<BackupStorageLocation> {
        self.api("BackupStorageLocation", "backupstoragelocations")
    }

    pub(super) fn download_requests(&self) -> Api<DownloadRequest> {
        self.api("DownloadRequest", "downloadrequests")
    }

    /// A Backup to create.
    pub(super) fn new_backup(ctx: &StepContext, name: &str, spec: BackupSpec) -> Backup {
        labelled(ctx, Backup::new(name, &resource("Backup", "backups"), spec))
    }

    /// A Restore to create.
    pub(super) fn new_restore(ctx: &StepContext, name: &str, spec: RestoreSpec) -> Restore {
        labelled(ctx, Restore::new(name, &resource("Restore", "restores"), spec))
    }

    /// A DownloadRequest to create; the API server completes its name.
    pub(super) fn new_download_request(ctx: &StepContext, target: DownloadTarget) -> DownloadRequest {
        let kind = resource("DownloadRequest", "downloadrequests");
        let mut request = labelled(ctx, DownloadRequest::new("", &kind, DownloadRequestSpec { target }));
        request.metadata.name = None;
        request.metadata.generate_name = Some("migrate-".to_owned());
        request
    }

    /// The backup called `name`.
    pub(super) async fn backup(&self, name: &str) -> Result<Option<Backup>, StepError> {
        let found = self.backups().get_opt(name).await;
        found.map_err(|e| kube_error(format!("failed to read backup `{name}`"), e))
    }

    /// The restore called `name`.
    pub(super) async fn restore(&self, name: &str) -> Result<Option<Restore>, StepError> {
        let found = self.restores().get_opt(name).await;
        found.map_err(|e| kube_error(format!("failed to read restore `{name}`"), e))
    }

    /// The volumes of backup `name`, by pod and volume.
    pub(super) async fn volumes_of_backup(&self, name: &str) -> Result<Vec<PodVolumeBackup>, StepError> {
        let labels = format!("{BACKUP_NAME_LABEL}={name}");
        let mut found = list_all(&self.pod_volume_backups(), &labels)
            .await
            .map_err(|e| kube_error(format!("failed to list the volumes of backup `{name}`"), e))?;
        found.sort_by_key(|v| (v.spec.pod.namespace.clone(), v.spec.pod.name.clone(), v.spec.volume.clone()));
        Ok(found)
    }

    /// The volumes of restore `name`, by pod and volume.
    pub(super) async fn volumes_of_restore(&self, name: &str) -> Result<Vec<PodVolumeRestore>, StepError> {
        let labels = format!("{RESTORE_NAME_LABEL}={name}");
        let api: Api<PodVolumeRestore> = self.api("PodVolumeRestore", "podvolumerestores");
        let mut found = list_all(&api, &labels)
            .await
            .map_err(|e| kube_error(format!("failed to list the volumes of restore `{name}`"), e))?;
        found.sort_by_key(|v| (v.spec.pod.namespace.clone(), v.spec.pod.name.clone(), v.spec.volume.clone()));
        Ok(found)
    }

    /// All objects of a kind in `namespaces`; an error calls them `what`, as `the claims`.
    pub(super) async fn list_in<K>(
        &self,
        namespaces: impl IntoIterator<Item = impl AsRef<str>>,
        what: &str,
    ) -> Result<Vec<K>, StepError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + serde::de::DeserializeOwned + fmt::Debug,
    {
        let mut all = Vec::new();
        for namespace in namespaces {
            let namespace = namespace.as_ref();
            let listed = list_all(&Api::namespaced(self.client.clone(), namespace), "").await;
            let failed = |e| kube_error(format!("failed to list {what} of namespace `{namespace}`"), e);
            all.extend(listed.map_err(failed)?);
        }
        Ok(all)
    }
}

/// Every object that carries `labels`, page by page; all of them where `labels` is empty.
pub(super) async fn list_all<K>(api: &Api<K>, labels: &str) -> kube::Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE_ITEMS);
    if !labels.is_empty() {
        params = params.labels(labels);
    }
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

fn labelled<P: Clone, U: Clone>(ctx: &StepContext, mut object: Object<P, U>) -> Object<P, U> {
    object.metadata.labels = Some(our_labels(ctx));
    object
}

/// The labels of everything that node makes.
pub(super) fn our_labels(ctx: &StepContext) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (RUN_LABEL.to_owned(), ctx.run.to_string()),
        (NODE_LABEL.to_owned(), ctx.node.label()),
    ])
}

/// The seconds of a Go duration such as `720h0m0s`; `None` when it is none.
pub(super) fn go_duration_seconds(text: &str) -> Option<u64> {
    let mut seconds = 0_u64;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit)?)?;
        digits.clear();
    }
    (digits.is_empty() && !text.is_empty()).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        assert_eq!(go_duration_seconds("720h"), go_duration_seconds("720h0m0s"));
        assert_eq!(go_duration_seconds("1h30m"), Some(5400));
        for bad in ["", "30", "30d", "h", "1h30"] {
            assert_eq!(go_duration_seconds(bad), None, "{bad:?}");
        }
    }
}
