//! Kubeconfigs: one for each component, and one with both clusters for people and `migrate`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use miette::{IntoDiagnostic, Result, WrapErr};
use serde_json::{Value, json};

use crate::layout::{Cluster, Layout};
use crate::pki;
use crate::pki::Pki;
use crate::process::write_atomically;

/// Components with a kubeconfig of their own.
const COMPONENTS: [pki::Client; 5] = [
    pki::Client::Admin,
    pki::Client::ControllerManager,
    pki::Client::Scheduler,
    pki::Client::Proxy,
    pki::Client::Kubelet,
];

/// The path of a component's kubeconfig as an argument.
pub fn path(layout: &Layout, cluster: Cluster, client: pki::Client) -> String {
    let file = layout.cluster(cluster).join(format!("{}.kubeconfig", client.name()));
    file.to_string_lossy().into_owned()
}

/// Writes the components' kubeconfigs.
pub fn write(layout: &Layout, cluster: Cluster, pki: &Pki) -> Result<()> {
    for client in COMPONENTS {
        let mut config = Merged::default();
        config.add(cluster, client, pki)?;
        config.write(path(layout, cluster, client).as_ref(), cluster)?;
    }
    Ok(())
}

/// Writes the kubeconfig with both clusters: contexts `eks` and `aks`, the first current.
pub fn write_merged(layout: &Layout) -> Result<()> {
    let mut config = Merged::default();
    for cluster in Cluster::ALL {
        config.add(cluster, pki::Client::Admin, &Pki::ensure(layout, cluster)?)?;
    }
    config.write(&layout.kubeconfig(), Cluster::Eks)
}

/// A client with all rights on a cluster.
pub async fn client(layout: &Layout, cluster: Cluster) -> Result<Client> {
    let file = path(layout, cluster, pki::Client::Admin);
    let read = Kubeconfig::read_from(&file).into_diagnostic();
    let config = read.wrap_err_with(|| format!("{cluster} is not up: can't read {file}"))?;
    let config =
        Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.into_diagnostic()?;
    Client::try_from(config).into_diagnostic()
}

#[derive(Default)]
struct Merged {
    clusters: Vec<Value>,
    users: Vec<Value>,
    contexts: Vec<Value>,
}

impl Merged {
    fn add(&mut self, cluster: Cluster, client: pki::Client, pki: &Pki) -> Result<()> {
        let encoded = |file: String| pki.read(&file).map(|bytes| STANDARD.encode(bytes));
        let name = cluster.name();
        let user = format!("{name}-{}", client.name());
        self.clusters.push(json!({"name": name, "cluster": {
            "server": cluster.server(),
            "certificate-authority-data": encoded("ca.crt".to_owned())?,
        }}));
        self.users.push(json!({"name": user, "user": {
            "client-certificate-data": encoded(format!("{}.crt", client.name()))?,
            "client-key-data": encoded(format!("{}.key", client.name()))?,
        }}));
        self.contexts.push(json!({"name": name, "context": {"cluster": name, "user": user}}));
        Ok(())
    }

    fn write(self, path: &std::path::Path, current: Cluster) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": current.name(),
            "clusters": self.clusters, "users": self.users, "contexts": self.contexts,
        });
        let text = serde_yaml_ng::to_string(&config).into_diagnostic()?;
        // Unchanged files stay untouched: some components watch theirs.
        if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        write_atomically(path, text.as_bytes())
    }
}
