//! `sandbox seed --reset`: back to before a migration, without a new sandbox.
//!
//! Removes what a migration leaves: the namespace and Velero's objects on both sides, the bucket's
//! and the container's content, ACR's repositories, images that the target's node has pulled, and
//! the project's run. The estate on the EKS side stays. Order matters: Velero's objects go after the
//! stores are empty, or its sync makes them again.

use std::fs;
use std::time::Duration;

use miette::{IntoDiagnostic, Result, WrapErr};

use crate::cluster::kubeconfig;
use crate::estate::NAMESPACE;
use crate::kubectl::Kubectl;
use crate::layout::{Cluster, Layout};
use crate::{lock, process, services, up, velero};

/// What Velero keeps in the cluster about backups, restores and their repositories.
const VELERO_KINDS: [&str; 9] = [
    "backups",
    "restores",
    "podvolumebackups",
    "podvolumerestores",
    "deletebackuprequests",
    "backuprepositories",
    "datauploads",
    "datadownloads",
    "downloadrequests",
];
/// Pods that end, and volumes that are folders on this machine: seconds, unless the machine is very busy.
const DELETE_TIMEOUT: &str = "--timeout=600s";
/// Two pods that end and start again.
const VELERO_TIMEOUT: &str = "--timeout=600s";
/// Phases of backups and restores on which Velero no longer works.
const ENDED: [&str; 4] = ["Completed", "PartiallyFailed", "Failed", "FailedValidation"];
/// They start within a second.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(300);

/// Removes everything that a migration leaves.
///
/// # Errors
/// When something can't be removed.
pub async fn reset(layout: &Layout) -> Result<()> {
    let _lock = lock::take(layout, "reset")?;
    up::revive(layout).await?;
    let aks = Kubectl::new(layout, Cluster::Aks);
    let mut busy = Vec::new();
    for cluster in Cluster::ALL {
        if is_busy(&Kubectl::new(layout, cluster))? {
            busy.push(cluster);
        }
    }
    // A restore that still waits would fill the namespace again.
    delete_velero_objects(&aks, &["restores", "podvolumerestores"])?;
    aks.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", DELETE_TIMEOUT])?;
    aks.run(&["delete", "crd", "coupons.shop.example.com", "--ignore-not-found", DELETE_TIMEOUT])?;
    aks.run(&["delete", "ingressclass", "alb", "--ignore-not-found"])?;
    let maps = ["-n", velero::NAMESPACE, "-l", "velero.io/plugin-config", "--ignore-not-found"];
    aks.run(&[&["delete", "configmaps"], &maps[..]].concat())?;
    for cluster in busy {
        restart_velero(&Kubectl::new(layout, cluster))?;
    }

    let secrets = services::credentials(layout)?;
    services::aws::empty_bucket(&secrets).await?;
    services::empty_container(&secrets).await?;
    for cluster in Cluster::ALL {
        delete_velero_objects(&Kubectl::new(layout, cluster), &VELERO_KINDS)?;
    }
    // Velero looks at its store every 10 s; if it came while the store was made anew, it takes no
    // backup and no restore until it looks again.
    for cluster in Cluster::ALL {
        velero::wait_ready(cluster, &kubeconfig::client(layout, cluster).await?).await?;
    }
    empty_azure(layout).await?;
    forget_images(layout)?;
    forget_run(layout)
}

/// Whether Velero works on a backup or a restore. A run that died leaves it at that.
fn is_busy(kubectl: &Kubectl) -> Result<bool> {
    for kind in ["backups.velero.io", "restores.velero.io"] {
        let phases = r#"jsonpath={range .items[*]}{"phase:"}{.status.phase}{"\n"}{end}"#;
        let found = kubectl.run(&["get", kind, "-n", velero::NAMESPACE, "-o", phases])?;
        if found.lines().any(|line| !ENDED.contains(&line.trim_start_matches("phase:"))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes Velero forget what it works on: without its objects a restore waits for its volumes for
/// hours, and every later one waits for that; a backup goes on writing into the emptied bucket.
fn restart_velero(kubectl: &Kubectl) -> Result<()> {
    for kind in ["backups", "restores", "podvolumebackups", "podvolumerestores"] {
        delete_velero_objects(kubectl, &[kind])?;
    }
    let in_velero = ["-n", velero::NAMESPACE];
    for workload in ["deployment/velero", "daemonset/node-agent"] {
        kubectl.run(&[&["rollout", "restart", workload], &in_velero[..]].concat())?;
    }
    for workload in ["deployment/velero", "daemonset/node-agent"] {
        kubectl.run(&[&["rollout", "status", workload, VELERO_TIMEOUT], &in_velero[..]].concat())?;
    }
    Ok(())
}

/// Deletes Velero's objects at once: their finalizers would look for what is gone from the stores.
fn delete_velero_objects(kubectl: &Kubectl, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        let kind = format!("{kind}.velero.io");
        let names = kubectl.run(&["get", &kind, "-n", velero::NAMESPACE, "-o", "name"])?;
        let names: Vec<&str> = names.lines().collect();
        if names.is_empty() {
            continue;
        }
        let in_velero = ["-n", velero::NAMESPACE];
        kubectl.run(&[&["delete", "--wait=false"], &in_velero[..], &names].concat())?;
        for name in names {
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            let patched =
                kubectl.run(&[&["patch", name, "--type=merge", "-p", patch], &in_velero[..]].concat());
            // It has no finalizer, and so is gone already.
            if let Err(e) = patched
                && !e.to_string().contains("NotFound")
            {
                return Err(e);
            }
        }
    }
    Ok(())
}

/// An empty registry, whose own deletion would leave the layers, and an Azure that knows of no identity: that keeps all
/// in memory.
async fn empty_azure(layout: &Layout) -> Result<()> {
    let mut emptied = services::daemons(layout)?;
    emptied.retain(|daemon| ["acr", "azure"].contains(&daemon.name.as_str()));
    for daemon in &emptied {
        process::stop(layout, &daemon.name)?;
    }
    remove(&layout.state_of("acr").join("blobs"))?;
    for daemon in &emptied {
        daemon.ensure(layout, SERVICE_TIMEOUT).await?;
    }
    Ok(())
}

/// What the target's node has pulled from ACR: a second migration must pull it anew.
fn forget_images(layout: &Layout) -> Result<()> {
    let socket = layout.containerd_socket(Cluster::Aks);
    let socket = socket.to_string_lossy();
    let ctr = ["--address", &socket, "--namespace", "k8s.io", "images"];
    let images = process::run("ctr", &[&ctr[..], &["ls", "-q"]].concat())?;
    let pulled: Vec<&str> = images.lines().filter(|name| name.starts_with(services::ACR_HOST)).collect();
    if pulled.is_empty() {
        return Ok(());
    }
    process::run("ctr", &[&ctr[..], &["rm", "--sync"], &pulled].concat()).map(drop)
}

/// The project's last run: its facts and what it had on disk.
fn forget_run(layout: &Layout) -> Result<()> {
    remove(&layout.project().join(".migrate"))
}

fn remove(folder: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).into_diagnostic().wrap_err_with(|| format!("can't remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
