//! Where everything in the sandbox is: folders, addresses, ports and pinned versions.
//!
//! Pure: nothing here touches the machine except [`Layout::create`]. Every other module asks this one, so that a
//! folder, an address or a version is written down once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

/// Versions of all that is not a Debian package. The Go ones are repeated in `tools/*/go.mod`; a test holds them equal.
pub mod versions {
    /// kube-apiserver, kubelet and the others.
    pub const KUBERNETES: &str = "v1.36.3";
    /// Velero's server, node agent and restore helper.
    pub const VELERO: &str = "v1.18.3";
    /// Velero's object store plugin for S3.
    pub const VELERO_PLUGIN_FOR_AWS: &str = "v1.14.3";
    /// The S3 server, and the S3 face of Azurite.
    pub const VERSITYGW: &str = "v1.8.0";
    /// Renders charts in the tests.
    pub const HELM: &str = "v3.19.4";
    /// npm `azurite`.
    pub const AZURITE: &str = "3.37.0";
    /// PyPI `moto[server]`.
    pub const MOTO: &str = "5.2.5";
}

/// The bridge on the host that joins the host and both clusters.
pub const BRIDGE: &str = "migrate0";
/// The host's address on [`BRIDGE`]; the only address that host services bind.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 1);
/// Prefix length of the network on [`BRIDGE`].
pub const HOST_PREFIX: u8 = 24;

/// Ports of the services on [`HOST_ADDRESS`].
pub mod ports {
    /// versitygw over a folder: S3.
    pub const S3: u16 = 7070;
    /// Azurite's Blob service.
    pub const AZURITE: u16 = 7071;
    /// Our strict front of Azurite: the From-URL calls. What clients use as Azure Blob.
    pub const FRONT: u16 = 7072;
    /// versitygw over Azurite: how the AKS side's Velero reads Blob.
    pub const VERSITYGW_AZURE: u16 = 7073;
    /// moto: ECR, EKS, IAM, STS and Secrets Manager control planes.
    pub const MOTO: u16 = 7074;
    /// The registry that stands for ECR's data plane.
    pub const ECR: u16 = 7075;
    /// The registry that stands for ACR's data plane.
    pub const ACR: u16 = 7076;
    /// Our strict stand-in for Entra and for Azure Resource Manager's view of ACR.
    pub const AZURE: u16 = 7077;
}

/// Port of the API server in each cluster's namespace.
pub const API_PORT: u16 = 6443;

/// Where sockets and the runtime state of containers live: socket paths may have 107 bytes at most, so not under the
/// workspace.
pub const RUN_DIR: &str = "/run/migrate-sandbox";

/// One of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cluster {
    /// Stands for the EKS cluster, the source.
    Eks,
    /// Stands for the AKS cluster, the target.
    Aks,
}

impl Cluster {
    /// Both, source first.
    pub const ALL: [Cluster; 2] = [Cluster::Eks, Cluster::Aks];

    /// The short name: also its kubeconfig context.
    pub fn name(self) -> &'static str {
        match self {
            Cluster::Eks => "eks",
            Cluster::Aks => "aks",
        }
    }

    /// Its network namespace.
    pub fn netns(self) -> &'static str {
        match self {
            Cluster::Eks => "migrate-eks",
            Cluster::Aks => "migrate-aks",
        }
    }

    /// Name of its node.
    pub fn node(self) -> &'static str {
        match self {
            Cluster::Eks => "eks-node",
            Cluster::Aks => "aks-node",
        }
    }

    /// Its address on the bridge, the API server's and the node's.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Cluster::Eks => Ipv4Addr::new(10, 203, 0, 11),
            Cluster::Aks => Ipv4Addr::new(10, 203, 0, 12),
        }
    }

    /// Network of its pods.
    pub fn pod_subnet(self) -> &'static str {
        match self {
            Cluster::Eks => "10.204.0.0/16",
            Cluster::Aks => "10.205.0.0/16",
        }
    }

    /// Network of its services.
    pub fn service_subnet(self) -> &'static str {
        match self {
            Cluster::Eks => "10.206.0.0/16",
            Cluster::Aks => "10.207.0.0/16",
        }
    }

    /// The API server's own service address, the first of [`Cluster::service_subnet`].
    pub fn service_address(self) -> Ipv4Addr {
        match self {
            Cluster::Eks => Ipv4Addr::new(10, 206, 0, 1),
            Cluster::Aks => Ipv4Addr::new(10, 207, 0, 1),
        }
    }

    /// The cgroup that holds its pods, under every controller.
    pub fn cgroup(self) -> &'static str {
        self.netns()
    }

    /// The API server, reachable from the host.
    pub fn server(self) -> String {
        format!("https://{}:{API_PORT}", self.address())
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a folder under `bin/` holds; its name carries the version, so a new version is a new folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The Kubernetes binaries and kubectl.
    Kubernetes,
    /// `velero`, `velero-restore-helper`.
    Velero,
    /// `velero-plugin-for-aws`.
    VeleroPluginForAws,
    /// `versitygw`.
    Versitygw,
    /// `helm`.
    Helm,
}

impl Tool {
    /// All that Go builds.
    pub const ALL: [Tool; 5] =
        [Tool::Kubernetes, Tool::Velero, Tool::VeleroPluginForAws, Tool::Versitygw, Tool::Helm];

    /// The folder under `sandbox/tools/` with its `go.mod`.
    pub fn module(self) -> &'static str {
        match self {
            Tool::Kubernetes => "kubernetes",
            Tool::Velero => "velero",
            Tool::VeleroPluginForAws => "velero-plugin-for-aws",
            Tool::Versitygw => "versitygw",
            Tool::Helm => "helm",
        }
    }

    /// The pinned version.
    pub fn version(self) -> &'static str {
        match self {
            Tool::Kubernetes => versions::KUBERNETES,
            Tool::Velero => versions::VELERO,
            Tool::VeleroPluginForAws => versions::VELERO_PLUGIN_FOR_AWS,
            Tool::Versitygw => versions::VERSITYGW,
            Tool::Helm => versions::HELM,
        }
    }

    /// The binaries its folder holds when it is complete.
    pub fn binaries(self) -> &'static [&'static str] {
        match self {
            Tool::Kubernetes => &[
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            ],
            Tool::Velero => &["velero", "velero-restore-helper"],
            Tool::VeleroPluginForAws => &["velero-plugin-for-aws"],
            Tool::Versitygw => &["versitygw"],
            Tool::Helm => &["helm"],
        }
    }
}

/// The sandbox's folders, all under `TARGET/sandbox`.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    workspace: PathBuf,
}

impl Layout {
    /// The layout of this workspace: under `CARGO_TARGET_DIR`, or `target/` of the workspace.
    pub fn discover() -> Result<Layout> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .map(Path::to_path_buf)
            .ok_or_else(|| miette::miette!("the sandbox crate has no parent folder"))?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => workspace.join("target"),
        };
        let target = std::path::absolute(&target).into_diagnostic()?;
        Ok(Layout { root: target.join("sandbox"), workspace })
    }

    /// A layout over folders of a test's choosing.
    #[cfg(test)]
    pub fn at(root: &Path, workspace: &Path) -> Layout {
        Layout { root: root.to_path_buf(), workspace: workspace.to_path_buf() }
    }

    /// Makes the folders. The root is readable by its owner alone: keys and passwords live in it.
    pub fn create(&self) -> Result<()> {
        for dir in [
            self.root.clone(),
            self.bin_root(),
            self.cache(),
            self.state(),
            self.logs(),
            self.project(),
            self.run(),
        ] {
            std::fs::create_dir_all(&dir)
                .into_diagnostic()
                .wrap_err_with(|| format!("can't create the folder {}", dir.display()))?;
        }
        private(&self.state())?;
        private(&self.project())
    }

    /// `TARGET/sandbox`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The project's own folder: the workspace's root.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The folder with the `go.mod` of a tool.
    pub fn tool_module(&self, tool: Tool) -> PathBuf {
        self.workspace.join("sandbox/tools").join(tool.module())
    }

    fn bin_root(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The folder of a tool's binaries, keyed by version. Kept by `down`.
    pub fn bin_dir(&self, tool: Tool) -> PathBuf {
        self.bin_root().join(format!("{}-{}", tool.module(), tool.version()))
    }

    /// Definitions of the kinds that AKS and its add-ons serve. Kept by `down`.
    pub fn definitions(&self) -> PathBuf {
        self.cache().join("definitions")
    }

    /// A binary of a tool, for instance `bin(Tool::Kubernetes, "kubelet")`.
    pub fn bin(&self, tool: Tool, binary: &str) -> PathBuf {
        self.bin_dir(tool).join(binary)
    }

    /// What is downloaded or made once and kept by `down`: npm and pip folders, images.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// npm's folder with Azurite, keyed by version.
    pub fn azurite_dir(&self) -> PathBuf {
        self.cache().join(format!("azurite-{}", versions::AZURITE))
    }

    /// Azurite's Blob server, a script for `node`.
    pub fn azurite_blob(&self) -> PathBuf {
        self.azurite_dir().join("node_modules/azurite/dist/src/blob/main.js")
    }

    /// The Python environment with moto, keyed by version.
    pub fn moto_dir(&self) -> PathBuf {
        self.cache().join(format!("moto-{}", versions::MOTO))
    }

    /// `moto_server`.
    pub fn moto_server(&self) -> PathBuf {
        self.moto_dir().join("bin/moto_server")
    }

    /// Images made by the sandbox, kept by `down`.
    pub fn images(&self) -> PathBuf {
        self.cache().join("images")
    }

    /// What lives as long as the sandbox is up: keys, databases, objects, volumes. Removed by `down`.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The state of a host service, `state/NAME`.
    pub fn state_of(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    /// One log file for each daemon.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one daemon.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.logs().join(format!("{daemon}.log"))
    }

    /// The project folder for `migrate`: its `migration.toml` and the run's facts. Removed by `down`.
    pub fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// Records of the running daemons.
    pub fn run(&self) -> PathBuf {
        self.state().join("run")
    }

    /// The lock that `up`, `down` and `seed` hold: on the machine, since the bridge and its addresses are too.
    pub fn lock(&self) -> PathBuf {
        PathBuf::from(format!("{RUN_DIR}.lock"))
    }

    /// The kubeconfig of both clusters: contexts `eks` and `aks`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// User names and keys of the object stores (`services::credentials` makes it).
    pub fn credentials(&self) -> PathBuf {
        self.state().join("credentials.json")
    }

    /// A cluster's keys, databases, kubelet root and so on.
    pub fn cluster(&self, cluster: Cluster) -> PathBuf {
        self.state().join(cluster.name())
    }

    /// A cluster's sockets and runtime state, short and gone after a reboot.
    pub fn cluster_run(&self, cluster: Cluster) -> PathBuf {
        Path::new(RUN_DIR).join(cluster.name())
    }

    /// The kubelet's root dir: also where `node-agent` finds the pods' volumes.
    pub fn kubelet_root(&self, cluster: Cluster) -> PathBuf {
        self.cluster(cluster).join("kubelet")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self, cluster: Cluster) -> PathBuf {
        self.cluster_run(cluster).join("containerd.sock")
    }

    /// containerd's `certs.d`: how registry names are resolved (trap 8). `NAME/hosts.toml` each.
    pub fn registry_hosts(&self, cluster: Cluster) -> PathBuf {
        self.cluster(cluster).join("certs.d")
    }

    /// Where the provisioner puts volumes.
    pub fn volumes(&self, cluster: Cluster) -> PathBuf {
        self.cluster(cluster).join("volumes")
    }
}

/// `HOST_ADDRESS:port`.
pub fn host(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(HOST_ADDRESS), port)
}

/// `http://HOST_ADDRESS:port`.
pub fn host_url(port: u16) -> String {
    format!("http://{}", host(port))
}

/// Makes a folder its owner's alone.
fn private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .into_diagnostic()
        .wrap_err_with(|| format!("can't make {} private", dir.display()))
}

/// Longest root that still leaves room for the kubelet's sockets under it (`…/kubelet/device-plugins/kubelet.sock`).
const ROOT_BYTES_MAX: usize = 58;

/// Refuses a root so long that sockets under it could not be made.
pub fn check_root(layout: &Layout) -> Result<()> {
    let length = layout.root().as_os_str().len();
    if length > ROOT_BYTES_MAX {
        bail!(
            help = "set CARGO_TARGET_DIR to a shorter folder",
            "the folder {} has {length} bytes; Unix sockets under it allow {ROOT_BYTES_MAX}",
            layout.root().display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pinned versions and the modules that Go builds must not drift apart.
    #[test]
    fn versions_are_those_of_the_go_modules() {
        let layout = Layout::discover().unwrap();
        for (tool, module) in [
            (Tool::Kubernetes, "k8s.io/kubernetes"),
            (Tool::Velero, "github.com/vmware-tanzu/velero"),
            (Tool::VeleroPluginForAws, "github.com/vmware-tanzu/velero-plugin-for-aws"),
            (Tool::Versitygw, "github.com/versity/versitygw"),
        ] {
            let text = std::fs::read_to_string(layout.tool_module(tool).join("go.mod")).unwrap();
            let wanted = format!("{module} {}", tool.version());
            assert!(
                text.lines().any(|line| line.trim().trim_end_matches("// indirect").trim() == wanted),
                "{module} is not at {} in tools/{}/go.mod",
                tool.version(),
                tool.module()
            );
        }
    }

    #[test]
    fn networks_do_not_overlap() {
        let mut all: Vec<&str> =
            Cluster::ALL.iter().flat_map(|c| [c.pod_subnet(), c.service_subnet()]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
}
