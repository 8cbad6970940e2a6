//! `sandbox provision CLUSTER`: stands for the CSI drivers of EBS, EFS, Azure Disk and Azure Files.
//!
//! Ours, and no CSI driver: it watches claims of those provisioners and makes `local` volumes, folders on this machine
//! with affinity to the cluster's one node. It honours what the drivers honour: a class that waits for its first
//! consumer gets no volume before the scheduler has chosen a node, and a released volume of reclaim policy Delete goes
//! with its data. Idempotent: a volume's name is a function of its claim's UID.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use miette::Result;
use serde_json::json;
use tracing::{info, warn};

use crate::cluster::{kubeconfig, storage};
use crate::layout::{Cluster, Layout};
use crate::process::{Daemon, own_program};

/// Set by the scheduler on claims whose class waits for a consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Which provisioner made a volume; Kubernetes leaves those to it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// A claim may come before its class, and no event of the claim tells when the class comes.
const CLASS_RETRY: Duration = Duration::from_secs(5);
/// After a refused or failed request.
const ERROR_RETRY: Duration = Duration::from_secs(1);

/// Why a claim got no volume, or a volume is still there.
#[derive(Debug, thiserror::Error)]
enum ProvisionError {
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("can't change the folder {path}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the volume could not be described")]
    Describe(#[from] serde_json::Error),
}

struct Context {
    client: Client,
    cluster: Cluster,
    volumes: PathBuf,
}

/// The provisioner of a cluster as a daemon: this program again.
pub fn daemon(cluster: Cluster) -> Result<Daemon> {
    Ok(Daemon::new(format!("{cluster}-provisioner"), own_program()?).args(["provision", cluster.name()]))
}

/// Serves until the process is ended.
pub async fn serve(layout: &Layout, cluster: Cluster) -> Result<()> {
    let client = kubeconfig::client(layout, cluster).await?;
    let context = Arc::new(Context { client: client.clone(), cluster, volumes: layout.volumes(cluster) });
    let claims =
        Controller::new(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default())
            .run(provision, |_, error, _| retry(error), context.clone())
            .for_each(async |_| {});
    let volumes = Controller::new(Api::<PersistentVolume>::all(client), watcher::Config::default())
        .run(reclaim, |_, error, _| retry(error), context)
        .for_each(async |_| {});
    info!(%cluster, "serving");
    futures::join!(claims, volumes);
    Ok(())
}

fn retry(error: &ProvisionError) -> Action {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    warn!("{error}: {cause}");
    Action::requeue(ERROR_RETRY)
}

/// Gives a claim its volume, once it is time.
async fn provision(
    claim: Arc<PersistentVolumeClaim>,
    context: Arc<Context>,
) -> Result<Action, ProvisionError> {
    let Some(spec) = &claim.spec else { return Ok(Action::await_change()) };
    let (Some(class), Some(uid)) = (&spec.storage_class_name, claim.uid()) else {
        return Ok(Action::await_change());
    };
    if spec.volume_name.as_ref().is_some_and(|name| !name.is_empty())
        || claim.metadata.deletion_timestamp.is_some()
    {
        return Ok(Action::await_change());
    }
    let Some(class) = Api::<StorageClass>::all(context.client.clone()).get_opt(class).await? else {
        return Ok(Action::requeue(CLASS_RETRY));
    };
    if !storage::provisioners(context.cluster).contains(&class.provisioner.as_str()) {
        return Ok(Action::await_change());
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if waits && claim.annotations().get(SELECTED_NODE).map(String::as_str) != Some(context.cluster.node()) {
        return Ok(Action::await_change());
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        warn!(claim = %claim.name_any(), "raw block volumes are beyond the sandbox");
        return Ok(Action::await_change());
    }
    let name = format!("pvc-{uid}");
    let path = context.volumes.join(&name);
    // A disk's root belongs to root; a file share's is open to all that mount it.
    make_folder(&path, if waits { 0o755 } else { 0o777 })?;
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: class.provisioner}},
        "spec": {
            "capacity": {"storage": requested(&claim)},
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "volumeMode": "Filesystem",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [context.cluster.node()],
            }]}]}},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": uid,
            },
        },
    }))?;
    let made =
        Api::<PersistentVolume>::all(context.client.clone()).create(&PostParams::default(), &volume).await;
    match made {
        Ok(_) => info!(volume = name, claim = %claim.name_any(), "provisioned"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::await_change())
}

/// Removes a released volume and its data.
async fn reclaim(volume: Arc<PersistentVolume>, context: Arc<Context>) -> Result<Action, ProvisionError> {
    let provisioner = volume.annotations().get(PROVISIONED_BY).map(String::as_str).unwrap_or_default();
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let ours = storage::provisioners(context.cluster).contains(&provisioner);
    if !(ours && released && policy == Some("Delete")) || volume.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
    // Only what it made itself: a volume object can be written by anyone.
    if let Some(path) = local.map(|local| PathBuf::from(&local.path))
        && path == context.volumes.join(volume.name_any())
    {
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ProvisionError::Folder { path, source });
            }
            _ => {}
        }
    }
    let api = Api::<PersistentVolume>::all(context.client.clone());
    match api.delete(&volume.name_any(), &DeleteParams::default()).await {
        Ok(_) => info!(volume = %volume.name_any(), "reclaimed"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::await_change())
}

fn requested(claim: &PersistentVolumeClaim) -> serde_json::Value {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    json!(requests.and_then(|requests| requests.get("storage")))
}

fn make_folder(path: &PathBuf, mode: u32) -> Result<(), ProvisionError> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|source| ProvisionError::Folder { path: path.clone(), source })
}
