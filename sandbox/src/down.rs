//! `sandbox down`: leaves no process, mount, namespace, link, cgroup or firewall rule behind.
//!
//! Built tools and caches stay. Works on whatever is there: a half-made sandbox, one whose daemons have died, none.

use std::fs;
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::{Cluster, Layout, RUN_DIR};
use crate::{cluster, lock, mounts, network, process};

/// Takes the sandbox down.
pub fn down(layout: &Layout) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the sandbox runs as root; take it down as root");
    }
    let lock = lock::take(layout, "down")?;
    if let Some(owner) = lock::owner().filter(|owner| owner != layout.root()) {
        bail!(
            help = "run `cargo xtask sandbox down` in that workspace",
            "the sandbox on this machine is another one, in {}",
            owner.display()
        );
    }
    stop_all(layout)?;
    for cluster in Cluster::ALL {
        cluster::clean(layout, cluster)?;
    }
    network::down()?;
    for dir in [&layout.state(), &layout.project(), &layout.logs(), Path::new(RUN_DIR)] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .into_diagnostic()
                    .wrap_err_with(|| format!("can't remove {}", dir.display()));
            }
            _ => {}
        }
    }
    let left = remains(layout);
    if !left.is_empty() {
        bail!("left behind: {}", left.join("; "));
    }
    lock.remove();
    Ok(())
}

/// Kubelets and containerds first, so that nothing starts a pod again; then the pods; then all that carries the
/// sandbox's marks, containerd's shims included. By KILL: their data goes too, so there is nothing to save.
fn stop_all(layout: &Layout) -> Result<()> {
    let runtime: Vec<i32> = Cluster::ALL
        .into_iter()
        .flat_map(|cluster| [format!("{cluster}-kubelet"), format!("{cluster}-containerd")])
        .filter_map(|name| process::running(layout, &name))
        .collect();
    process::kill_all(&runtime)?;
    let pods: Vec<i32> = Cluster::ALL.into_iter().flat_map(mounts::cgroup_processes).collect();
    process::kill_all(&pods)?;
    process::kill_all(&process::strays(layout.root(), None))
}

/// What of a sandbox is on the machine, apart from files.
pub fn remains(layout: &Layout) -> Vec<String> {
    let mut left: Vec<String> =
        process::strays(layout.root(), None).into_iter().map(|pid| format!("process {pid}")).collect();
    for cluster in Cluster::ALL {
        left.extend(mounts::cgroups(cluster).iter().map(|dir| format!("cgroup {}", dir.display())));
    }
    for dir in [layout.state().as_path(), Path::new(RUN_DIR)] {
        left.extend(mounts::under(dir).iter().map(|point| format!("mount {}", point.display())));
    }
    left.extend(network::remains());
    left
}
