//! One single-node Kubernetes cluster in a network namespace of its own, out of the real binaries.
//!
//! [`runtime`] is what runs pods (containerd, its images), [`control`] the API server and what belongs to it, [`node`]
//! the kubelet and kube-proxy, [`kubeconfig`] how clients reach it, [`storage`] its storage classes. [`up`] starts them
//! in order and returns when the node is Ready; a second call finds everything running.

mod control;
pub mod kubeconfig;
mod node;
pub mod runtime;
pub mod storage;

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use miette::{IntoDiagnostic, Result, WrapErr};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::layout::{Cluster, Layout};
use crate::mounts;
use crate::oci::Built;
use crate::pki::Pki;
use crate::process::{Daemon, start_in_stages, wait_for, while_kept, with_causes};

/// Each takes seconds; a machine with a busy disk takes minutes, and what has died is told long before.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The API server takes an object at once, unless it is just being started again.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Who owns the fields that the sandbox sets.
const FIELD_MANAGER: &str = "sandbox";

/// A cluster's daemons, stage by stage: those of a stage need those before it, and no others.
fn stages(layout: &Layout, cluster: Cluster, pki: &Pki) -> [Vec<Daemon>; 3] {
    [
        vec![control::etcd(layout, cluster), runtime::containerd(layout, cluster)],
        vec![control::api_server(layout, cluster, pki)],
        vec![
            control::controller_manager(layout, cluster, pki),
            control::scheduler(layout, cluster),
            node::kubelet(layout, cluster),
            node::proxy(layout, cluster),
        ],
    ]
}

/// A cluster's daemons in the order of their start.
pub fn daemons(layout: &Layout, cluster: Cluster, pki: &Pki) -> Vec<Daemon> {
    stages(layout, cluster, pki).into_iter().flatten().collect()
}

/// Brings a cluster up, until its node is Ready and its storage classes are there.
pub async fn up(layout: &Layout, cluster: Cluster, images: &[Built]) -> Result<Client> {
    start(layout, cluster, images).await.wrap_err_with(|| format!("the cluster {cluster} does not come up"))
}

async fn start(layout: &Layout, cluster: Cluster, images: &[Built]) -> Result<Client> {
    let pki = Pki::ensure(layout, cluster)?;
    mounts::make_cgroups(cluster)?;
    mounts::share(&layout.cluster(cluster))?;
    kubeconfig::write(layout, cluster, &pki)?;
    runtime::configure(layout, cluster)?;
    node::configure(layout, cluster, &pki)?;

    let [base, api, rest] = stages(layout, cluster, &pki);
    let client = kubeconfig::client(layout, cluster).await?;
    start_in_stages(layout, &[base.clone(), api.clone()], TIMEOUT).await?;
    // The controller manager gives a server that listens ten seconds to be ready, and exits.
    let api_is_ready = wait_for("the API server is ready", TIMEOUT, || api_ready(&client));
    while_kept(layout, &[base.clone(), api.clone()].concat(), api_is_ready).await?;
    start_in_stages(layout, std::slice::from_ref(&rest), TIMEOUT).await?;
    let (own, own_images) = (layout.clone(), images.to_vec());
    let finish = async {
        let import = tokio::task::spawn_blocking(move || runtime::import_images(&own, cluster, &own_images));
        import.await.into_diagnostic()??;
        wait_for("the node is Ready", TIMEOUT, || node_ready(&client, cluster)).await?;
        storage::apply(&client, cluster).await
    };
    while_kept(layout, &[base, api, rest].concat(), finish).await?;
    Ok(client)
}

/// Applies an object of `kind`, as often as it takes while the API server is just being started again.
pub async fn apply<K>(api: &Api<K>, kind: &str, name: &str, object: &Value) -> Result<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(FIELD_MANAGER).force();
    wait_for(&format!("{kind} {name} is applied"), APPLY_TIMEOUT, || async {
        let applied = api.patch(name, &params, &Patch::Apply(object)).await;
        applied.map(drop).map_err(|error| with_causes(&error))
    })
    .await
}

/// Whether the API server says that it is ready.
pub async fn api_ready(client: &Client) -> Result<(), String> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map(|_| ()).map_err(|error| with_causes(&error))
}

/// Whether the node is Ready.
pub async fn node_ready(client: &Client, cluster: Cluster) -> Result<(), String> {
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.get(cluster.node()).await.map_err(|error| with_causes(&error))?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => Err(ready.message.clone().unwrap_or_else(|| "not Ready".to_owned())),
        None => Err("the node has not reported yet".to_owned()),
    }
}

/// Removes what a cluster leaves outside its folders, once its processes have ended.
pub fn clean(layout: &Layout, cluster: Cluster) -> Result<()> {
    mounts::unmount_under(&layout.cluster(cluster))?;
    mounts::unmount_under(&layout.cluster_run(cluster))?;
    mounts::remove_cgroups(cluster)?;
    runtime::clean(layout, cluster).into_diagnostic()?;
    node::clean();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_started_after_its_runtime_and_its_api_server() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path(), dir.path());
        let pki = Pki::ensure(&layout, Cluster::Eks).unwrap();
        let stages = stages(&layout, Cluster::Eks, &pki);
        let stage = |name: &str| {
            let has = |stage: &Vec<Daemon>| stage.iter().any(|daemon| daemon.name == name);
            stages.iter().position(has).unwrap()
        };
        assert!(stage("eks-containerd") < stage("eks-kubelet"));
        assert!(stage("eks-etcd") < stage("eks-apiserver"));
        assert!(stage("eks-apiserver") < stage("eks-kubelet"));
    }
}
