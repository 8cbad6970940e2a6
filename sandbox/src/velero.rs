//! Velero in both clusters: what `velero install` itself would apply, with the sandbox's storage locations.
//!
//! The target's location is read-only, as a migration needs it: otherwise its Velero would maintain, and so change, the
//! copied kopia repositories. The repository password is the same on both sides and there before Velero starts, since
//! Velero makes one of its own where it finds none.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::{Value, json};

use crate::cluster;
use crate::layout::{Cluster, Layout, Tool, host_url, ports, versions};
use crate::process::{run, wait_for, with_causes};
use crate::services;

/// Velero's namespace.
pub const NAMESPACE: &str = "velero";
/// Name of the storage location.
const LOCATION: &str = "default";
/// The node agent's settings.
const NODE_AGENT_CONFIG: &str = "node-agent-config";
/// Volumes that a node moves at once. Each has a pod of its own that takes seconds to start, so Velero's default of one
/// would make the rehearsal wait; more than the machine's cores help nobody.
const VOLUMES_AT_ONCE: usize = 2;
/// The secret with the location's credentials.
const CREDENTIALS: &str = "cloud-credentials";
/// The API server serves a new kind about a second after its definition.
const CRD_TIMEOUT: Duration = Duration::from_secs(60);
/// Velero's pod starts within 10 s; one that starts before its node's rules are there waits for minutes until it is
/// tried again.
const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// Installs Velero and waits until it serves and its storage location is available. Changes nothing when it is there.
pub async fn install(layout: &Layout, cluster: Cluster, client: &Client) -> Result<()> {
    apply_all(layout, cluster, client)
        .await
        .wrap_err_with(|| format!("can't install Velero on {cluster}"))?;
    wait_ready(cluster, client).await
}

/// Waits until the server, the node agent and the storage location are ready.
pub async fn wait_ready(cluster: Cluster, client: &Client) -> Result<()> {
    wait_for(&format!("Velero on {cluster} is ready"), READY_TIMEOUT, || ready(client)).await
}

/// Whether the server, the node agent and the storage location are ready.
pub async fn ready(client: &Client) -> Result<(), String> {
    let text = |error: kube::Error| with_causes(&error);
    // A rollout must be over: a server that is about to be replaced takes a backup and fails it when it ends.
    let server =
        Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get("velero").await.map_err(text)?;
    let (generation, status) = (server.metadata.generation, server.status.unwrap_or_default());
    let replicas = [status.replicas, status.updated_replicas, status.available_replicas];
    if status.observed_generation != generation || replicas != [Some(1); 3] {
        return Err("its server is not available".to_owned());
    }
    let agent =
        Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).get("node-agent").await.map_err(text)?;
    let (generation, status) = (agent.metadata.generation, agent.status.unwrap_or_default());
    let ready = status.number_ready == 1 && status.updated_number_scheduled == Some(1);
    if status.observed_generation != generation || !ready {
        return Err("its node agent is not ready".to_owned());
    }
    let location = api_of(client, "velero.io/v1", "BackupStorageLocation", Some(NAMESPACE))
        .map_err(|error| error.to_string())?
        .get(LOCATION)
        .await
        .map_err(text)?;
    match location.data.pointer("/status/phase").and_then(Value::as_str) {
        Some("Available") => Ok(()),
        _ => {
            let message =
                location.data.pointer("/status/message").and_then(Value::as_str).unwrap_or_default();
            Err(format!("its storage location is not available: {message}"))
        }
    }
}

async fn apply_all(layout: &Layout, cluster: Cluster, client: &Client) -> Result<()> {
    let objects = manifests(layout, cluster)?;
    let is = |object: &Value, kind: &str| object["kind"] == kind;
    // Definitions and the namespace first, then what pods read, then the pods.
    for object in objects.iter().filter(|o| is(o, "Namespace") || is(o, "CustomResourceDefinition")) {
        apply(client, object).await?;
    }
    for object in secrets(layout, cluster)? {
        apply(client, &object).await?;
    }
    apply(client, &node_agent_config()).await?;
    wait_for("Velero's kinds are served", CRD_TIMEOUT, || async {
        let api = api_of(client, "velero.io/v1", "BackupStorageLocation", Some(NAMESPACE));
        let list = api.map_err(|error| error.to_string())?.list(&Default::default()).await;
        list.map(|_| ()).map_err(|error| with_causes(&error))
    })
    .await?;
    apply(client, &location(cluster)).await?;
    let others = |o: &&Value| {
        !is(o, "Namespace") && !is(o, "CustomResourceDefinition") && !is(o, "BackupStorageLocation")
    };
    for object in objects.iter().filter(others) {
        apply(client, object).await?;
    }
    Ok(())
}

/// What Velero's own installer would apply to this cluster.
fn manifests(layout: &Layout, cluster: Cluster) -> Result<Vec<Value>> {
    let text = run(
        layout.bin(Tool::Velero, "velero"),
        &[
            "install",
            "--dry-run",
            "--output=json",
            &format!("--kubeconfig={}", layout.kubeconfig().display()),
            &format!("--kubecontext={}", cluster.name()),
            &format!("--image=velero/velero:{}", versions::VELERO),
            &format!("--plugins=velero/velero-plugin-for-aws:{}", versions::VELERO_PLUGIN_FOR_AWS),
            // The storage location that it would make is replaced by one of ours.
            "--provider=aws",
            &format!("--bucket={}", services::BUCKET),
            "--no-secret",
            "--use-volume-snapshots=false",
            "--use-node-agent",
            "--default-volumes-to-fs-backup",
            // Otherwise the server waits for one pod's volumes before it begins with the next pod's.
            &format!("--item-block-worker-count={VOLUMES_AT_ONCE}"),
            // Its host paths must be the real folders of this cluster's kubelet.
            &format!("--kubelet-root-dir={}", layout.kubelet_root(cluster).display()),
            // One machine carries both clusters: nothing is reserved.
            "--velero-pod-cpu-request=0",
            "--velero-pod-cpu-limit=0",
            "--velero-pod-mem-request=0",
            "--velero-pod-mem-limit=0",
        ],
    )?;
    let list: Value =
        serde_json::from_str(&text).into_diagnostic().wrap_err("velero install printed no JSON")?;
    let mut items =
        list["items"].as_array().cloned().ok_or_else(|| miette!("velero install printed no list"))?;
    // The installer takes this option only when the ConfigMap is on the cluster already, and so is the namespace.
    let agent = items.iter_mut().find(|item| item["kind"] == "DaemonSet");
    let args = agent.and_then(|agent| agent.pointer_mut("/spec/template/spec/containers/0/args"));
    let args =
        args.and_then(Value::as_array_mut).ok_or_else(|| miette!("velero install printed no node agent"))?;
    args.push(json!(format!("--node-agent-configmap={NODE_AGENT_CONFIG}")));
    Ok(items)
}

/// The storage location of a cluster. Short periods: the sandbox is about seconds.
fn location(cluster: Cluster) -> Value {
    let (port, bucket, mode) = match cluster {
        Cluster::Eks => (ports::S3, services::BUCKET, "ReadWrite"),
        Cluster::Aks => (ports::VERSITYGW_AZURE, services::CONTAINER, "ReadOnly"),
    };
    json!({
        "apiVersion": "velero.io/v1",
        "kind": "BackupStorageLocation",
        "metadata": {"name": LOCATION, "namespace": NAMESPACE},
        "spec": {
            "provider": "aws",
            "default": true,
            "accessMode": mode,
            "objectStorage": {"bucket": bucket},
            "credential": {"name": CREDENTIALS, "key": "cloud"},
            "backupSyncPeriod": "5s",
            "validationFrequency": "10s",
            "config": {
                "region": services::REGION,
                "s3ForcePathStyle": "true",
                "s3Url": host_url(port),
                // versitygw over Azure keeps no checksums.
                "checksumAlgorithm": "",
            },
        },
    })
}

fn node_agent_config() -> Value {
    let config = json!({"loadConcurrency": {"globalConfig": VOLUMES_AT_ONCE}});
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NODE_AGENT_CONFIG, "namespace": NAMESPACE},
        "data": {"node-agent-config.json": config.to_string()},
    })
}

fn secrets(layout: &Layout, cluster: Cluster) -> Result<[Value; 2]> {
    let credentials = services::credentials(layout)?;
    let (access_key, secret_key) = match cluster {
        Cluster::Eks => (&credentials.aws_access_key, &credentials.aws_secret_key),
        Cluster::Aks => (&credentials.gateway_access_key, &credentials.gateway_secret_key),
    };
    let file = format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n");
    let secret = |name: &str, key: &str, value: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": {key: value},
        })
    };
    Ok([
        secret(CREDENTIALS, "cloud", &file),
        secret("velero-repo-credentials", "repository-password", &credentials.velero_repository_password),
    ])
}

async fn apply(client: &Client, object: &Value) -> Result<()> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").ok_or_else(|| miette!("an object without a name"))?;
    let kind = text("/kind").unwrap_or_default();
    let api = api_of(client, text("/apiVersion").unwrap_or_default(), kind, text("/metadata/namespace"))?;
    cluster::apply(&api, kind, name, object).await
}

fn api_of(client: &Client, version: &str, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}
