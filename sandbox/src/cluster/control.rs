//! The control plane: etcd, API server, controller manager, scheduler.

use std::net::{IpAddr, SocketAddr};

use super::kubeconfig;
use crate::layout::{API_PORT, Cluster, Layout, Tool};
use crate::pki::{Client, Pki};
use crate::process::{Daemon, Probe};

/// etcd listens in the cluster's own namespace, where nobody but the cluster is.
const ETCD: &str = "http://127.0.0.1:2379";

fn part(layout: &Layout, cluster: Cluster, binary: &str) -> Daemon {
    let name = format!("{cluster}-{}", binary.trim_start_matches("kube-"));
    Daemon::new(name, layout.bin(Tool::Kubernetes, binary)).netns(cluster.netns())
}

/// The store, by Debian's etcd. It doesn't wait for the disk: the sandbox is made anew after a power cut, and where a
/// commit takes long, controllers give up.
pub fn etcd(layout: &Layout, cluster: Cluster) -> Daemon {
    let data = layout.cluster(cluster).join("etcd");
    Daemon::new(format!("{cluster}-etcd"), "/usr/bin/etcd").netns(cluster.netns()).args([
        format!("--name={cluster}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        format!("--initial-cluster={cluster}=http://127.0.0.1:2380"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        "--logger=zap".to_owned(),
    ])
}

/// The API server. `--kubelet-preferred-address-types`: the node's name resolves nowhere, so logs and exec need its
/// address.
pub fn api_server(layout: &Layout, cluster: Cluster, pki: &Pki) -> Daemon {
    let address = cluster.address();
    let args = [
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={}", cluster.service_subnet()),
        format!("--client-ca-file={}", pki.path("ca.crt")),
        format!("--tls-cert-file={}", pki.path("apiserver.crt")),
        format!("--tls-private-key-file={}", pki.path("apiserver.key")),
        format!("--kubelet-certificate-authority={}", pki.path("ca.crt")),
        format!("--kubelet-client-certificate={}", pki.path("apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki.path("apiserver-kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki.path("service-account.pub")),
        format!("--service-account-signing-key-file={}", pki.path("service-account.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // node-agent needs it.
        "--allow-privileged=true".to_owned(),
    ];
    let port = SocketAddr::new(IpAddr::V4(address), API_PORT);
    part(layout, cluster, "kube-apiserver").args(args).probe(Probe::Tcp(port))
}

/// The controllers.
pub fn controller_manager(layout: &Layout, cluster: Cluster, pki: &Pki) -> Daemon {
    part(layout, cluster, "kube-controller-manager").args([
        format!("--kubeconfig={}", kubeconfig::path(layout, cluster, Client::ControllerManager)),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--root-ca-file={}", pki.path("ca.crt")),
        format!("--service-account-private-key-file={}", pki.path("service-account.key")),
        format!("--cluster-signing-cert-file={}", pki.path("ca.crt")),
        format!("--cluster-signing-key-file={}", pki.path("ca.key")),
    ])
}

/// The scheduler.
pub fn scheduler(layout: &Layout, cluster: Cluster) -> Daemon {
    part(layout, cluster, "kube-scheduler").args([
        format!("--kubeconfig={}", kubeconfig::path(layout, cluster, Client::Scheduler)),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
    ])
}
