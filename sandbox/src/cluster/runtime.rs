//! containerd: its configuration, its images, and what it leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr};

use crate::layout::{Cluster, Layout};
use crate::oci::Built;
use crate::process::{Daemon, Probe, run, write_atomically};

/// The image of every pod's first container; made by the sandbox.
const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10";
/// Debian's folder of CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// Where the CNI library keeps its results, whatever containerd's configuration says.
const CNI_CACHE: &str = "/var/lib/cni";
/// containerd's namespace of the kubelet's images.
const NAMESPACE: &str = "k8s.io";

fn config_path(layout: &Layout, cluster: Cluster) -> PathBuf {
    layout.cluster(cluster).join("containerd.toml")
}

fn state_dir(layout: &Layout, cluster: Cluster) -> PathBuf {
    layout.cluster_run(cluster).join("containerd")
}

/// Writes the configurations of containerd and of the pods' network.
pub fn configure(layout: &Layout, cluster: Cluster) -> Result<()> {
    let dir = layout.cluster(cluster);
    let run_dir = layout.cluster_run(cluster);
    for folder in [&layout.registry_hosts(cluster), &run_dir] {
        fs::create_dir_all(folder).into_diagnostic()?;
    }
    let text = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE no process may lower its score, and every pod would die at birth.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{runc}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{hosts}"
"#,
        root = dir.join("containerd").display(),
        state = state_dir(layout, cluster).display(),
        socket = layout.containerd_socket(cluster).display(),
        opt = dir.join("containerd/opt").display(),
        runc = run_dir.join("runc").display(),
        cni = dir.join("cni").display(),
        hosts = layout.registry_hosts(cluster).display(),
    );
    write_atomically(&config_path(layout, cluster), text.as_bytes())?;
    let network = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": cluster.netns(),
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": run_dir.join("addresses"),
                    "ranges": [[{"subnet": cluster.pod_subnet()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    let network = serde_json::to_vec_pretty(&network).into_diagnostic()?;
    write_atomically(&dir.join("cni/10-sandbox.conflist"), &network)
}

/// containerd, in the cluster's namespace, so that the pods' network is made there.
pub fn containerd(layout: &Layout, cluster: Cluster) -> Daemon {
    Daemon::new(format!("{cluster}-containerd"), "/usr/bin/containerd")
        .netns(cluster.netns())
        .args([format!("--config={}", config_path(layout, cluster).display())])
        .probe(Probe::Socket(layout.containerd_socket(cluster)))
}

/// Imports the images that a cluster needs before it can pull any: pause and Velero's. What is there stays.
pub fn import_images(layout: &Layout, cluster: Cluster, images: &[Built]) -> Result<()> {
    let socket = layout.containerd_socket(cluster).to_string_lossy().into_owned();
    let ctr = ["--address", &socket, "--namespace", NAMESPACE, "images"];
    let present = run("ctr", &[&ctr[..], &["list"]].concat())?;
    for image in images {
        let known = |line: &str| {
            let mut fields = line.split_whitespace();
            fields.next().is_some_and(|name| name.ends_with(&image.name)) && line.contains(&image.digest)
        };
        if !present.lines().any(known) {
            let archive = image.archive.to_string_lossy().into_owned();
            let imported = run("ctr", &[&ctr[..], &["import", &archive]].concat());
            imported.wrap_err_with(|| format!("can't import {} into {cluster}", image.name))?;
        }
    }
    Ok(())
}

/// Removes what containerd and the CNI plugins keep outside the sandbox's folders. Their processes have ended.
pub fn clean(layout: &Layout, cluster: Cluster) -> std::io::Result<()> {
    // Each shim's socket is in /run/containerd/s, named in the folder of its container.
    let tasks = state_dir(layout, cluster).join("io.containerd.runtime.v2.task").join(NAMESPACE);
    for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
        let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(socket);
        }
    }
    for folder in ["/run/containerd/s", "/run/containerd"] {
        // Only when empty.
        let _ = fs::remove_dir(folder);
    }
    // Each result names the pod's namespace, which is in this cluster's folder.
    let owner = format!("{}/", layout.cluster_run(cluster).display());
    let results = Path::new(CNI_CACHE).join("results");
    for entry in fs::read_dir(&results).into_iter().flatten().flatten() {
        if fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&owner)) {
            fs::remove_file(entry.path())?;
        }
    }
    // Only when empty.
    let _ = fs::remove_dir(&results);
    let _ = fs::remove_dir(CNI_CACHE);
    Ok(())
}
