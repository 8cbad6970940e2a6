//! The node: kubelet and kube-proxy.
//!
//! Two kubelets share one machine, so each has its own root dir, pod logs and cgroup: otherwise each removes what the
//! other made.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result};
use serde_json::json;

use super::kubeconfig;
use crate::layout::{Cluster, Layout, Tool};
use crate::pki::{Client, Pki};
use crate::process::{Daemon, write_atomically};

/// The one path that a kubelet does not take from its configuration.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

fn config_path(layout: &Layout, cluster: Cluster) -> PathBuf {
    layout.cluster(cluster).join("kubelet.yaml")
}

/// Writes the kubelet's configuration and makes its folders.
pub fn configure(layout: &Layout, cluster: Cluster, pki: &Pki) -> Result<()> {
    let dir = layout.cluster(cluster);
    let resolv = dir.join("resolv.conf");
    // No cluster DNS, and no server of the host's either: pods use addresses.
    write_atomically(&resolv, b"# The sandbox has no DNS.\n")?;
    for folder in ["kubelet", "pod-logs", "volume-plugins"] {
        fs::create_dir_all(dir.join(folder)).into_diagnostic()?;
    }
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": cluster.address(),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.path("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.path("kubelet.crt"),
        "tlsPrivateKeyFile": pki.path("kubelet.key"),
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket(cluster).display()),
        "podLogsDir": dir.join("pod-logs"),
        "volumePluginDir": dir.join("volume-plugins"),
        "resolvConf": resolv,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cluster.cgroup()),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        // Images can't be pulled again: never remove one, never evict a pod for disk space before it is truly short.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "256Mi",
            "imagefs.available": "256Mi",
            "nodefs.inodesFree": "1%",
        },
    });
    write_atomically(
        &config_path(layout, cluster),
        serde_yaml_ng::to_string(&config).into_diagnostic()?.as_bytes(),
    )
}

/// The kubelet.
pub fn kubelet(layout: &Layout, cluster: Cluster) -> Daemon {
    let dir = layout.cluster(cluster);
    Daemon::new(format!("{cluster}-kubelet"), layout.bin(Tool::Kubernetes, "kubelet"))
        .netns(cluster.netns())
        .args([
            format!("--config={}", config_path(layout, cluster).display()),
            format!("--kubeconfig={}", kubeconfig::path(layout, cluster, Client::Kubelet)),
            format!("--root-dir={}", layout.kubelet_root(cluster).display()),
            format!("--cert-dir={}", dir.join("kubelet-certs").display()),
            format!("--hostname-override={}", cluster.node()),
            format!("--node-ip={}", cluster.address()),
        ])
}

/// kube-proxy. `--conntrack-max-per-core=0`: that setting is the machine's, and not writable from a namespace.
pub fn proxy(layout: &Layout, cluster: Cluster) -> Daemon {
    Daemon::new(format!("{cluster}-proxy"), layout.bin(Tool::Kubernetes, "kube-proxy"))
        .netns(cluster.netns())
        .args([
            format!("--kubeconfig={}", kubeconfig::path(layout, cluster, Client::Proxy)),
            format!("--hostname-override={}", cluster.node()),
            format!("--cluster-cidr={}", cluster.pod_subnet()),
            "--proxy-mode=iptables".to_owned(),
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ])
}

/// Removes what the kubelets, which have ended, left outside the sandbox.
pub fn clean() {
    let folder = Path::new(DEVICE_PLUGINS);
    // Somebody answers: a kubelet of the machine's own.
    if UnixStream::connect(folder.join("kubelet.sock")).is_ok() {
        return;
    }
    for file in ["kubelet.sock", "DEPRECATION"] {
        let _ = fs::remove_file(folder.join(file));
    }
    if fs::remove_dir(folder).is_ok()
        && let Some(parent) = folder.parent()
    {
        let _ = fs::remove_dir(parent);
    }
}
