//! Mounts and cgroups that the clusters leave on the machine, and how they are made and removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::Cluster;
use crate::process::{run, wait_blocking};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// How long the last threads of killed pods may take to end.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Rounds of unmounting: a mount that was made on top of another shows the lower one only when it is gone.
const UNMOUNT_ROUNDS: usize = 5;

/// Makes a folder a shared mount of its own, so that node-agent sees the pods' mounts under it, without changing how the
/// machine's root propagates.
pub fn share(dir: &Path) -> Result<()> {
    let name = dir.to_string_lossy().into_owned();
    if !under(dir).iter().any(|mount| mount == dir) {
        run("mount", &["--bind", &name, &name])?;
    }
    run("mount", &["--make-rshared", &name])?;
    Ok(())
}

/// All mount points at or under a folder.
pub fn under(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points =
        text.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Unmounts everything at or under a folder, deepest first.
pub fn unmount_under(dir: &Path) -> Result<()> {
    for _ in 0..UNMOUNT_ROUNDS {
        let mut points = under(dir);
        if points.is_empty() {
            return Ok(());
        }
        points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
        for point in points {
            let name = point.to_string_lossy().into_owned();
            if run("umount", &[&name]).is_err() {
                // Lazily: some process of the machine may look into it right now.
                let _ = run("umount", &["-l", &name]);
            }
        }
    }
    let left: Vec<String> = under(dir).iter().map(|point| point.display().to_string()).collect();
    if left.is_empty() { Ok(()) } else { bail!("can't unmount {}", left.join(", ")) }
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The folders in which a cluster's cgroup has to exist: one for each controller, or one in all with cgroup v2.
fn cgroup_parents() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = text.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| (PathBuf::from(point), kind == "cgroup2"))
    });
    let mounts: Vec<(PathBuf, bool)> = mounts.collect();
    // With v1, the unified tree beside it has no controllers; containers still get a folder in it.
    mounts.into_iter().map(|(point, _)| point).filter(|point| point.starts_with(CGROUP_ROOT)).collect()
}

/// Makes a cluster's cgroup under every controller.
pub fn make_cgroups(cluster: Cluster) -> Result<()> {
    let parents = cgroup_parents();
    if parents.is_empty() {
        bail!("no cgroups are mounted under {CGROUP_ROOT}");
    }
    for parent in parents {
        let dir = parent.join(cluster.cgroup());
        let make = || -> std::io::Result<()> {
            // v2 gives a child only the controllers that its parent passes on.
            if parent == Path::new(CGROUP_ROOT) && parent.join("cgroup.controllers").exists() {
                let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
                let wanted: Vec<String> =
                    controllers.split_whitespace().map(|name| format!("+{name}")).collect();
                fs::write(parent.join("cgroup.subtree_control"), wanted.join(" "))?;
            }
            fs::create_dir_all(&dir)?;
            // v1's cpuset starts empty, and nothing can run in an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let child = dir.join(file);
                if !parent.join("cgroup.controllers").exists() && child.exists() {
                    fs::write(&child, fs::read_to_string(parent.join(file))?.trim())?;
                }
            }
            Ok(())
        };
        make().into_diagnostic().wrap_err_with(|| format!("can't make the cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Processes in a cluster's cgroups: its pods'.
pub fn cgroup_processes(cluster: Cluster) -> Vec<i32> {
    let mut pids = Vec::new();
    for parent in cgroup_parents() {
        walk(&parent.join(cluster.cgroup()), &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        });
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes a cluster's cgroups; no process may be in them any more.
pub fn remove_cgroups(cluster: Cluster) -> Result<()> {
    for parent in cgroup_parents() {
        let dir = parent.join(cluster.cgroup());
        // A thread of a killed process may still wait for the disk.
        let removed = wait_blocking(CGROUP_TIMEOUT, || {
            // Children come first; files of a cgroup can't and need not be removed.
            walk(&dir, &mut |child| {
                let _ = fs::remove_dir(child);
            });
            !dir.exists()
        });
        if !removed {
            bail!("the cgroup {} can't be removed: something still runs in it", dir.display());
        }
    }
    Ok(())
}

/// The cgroups of a cluster that exist.
pub fn cgroups(cluster: Cluster) -> Vec<PathBuf> {
    cgroup_parents()
        .into_iter()
        .map(|parent| parent.join(cluster.cgroup()))
        .filter(|dir| dir.exists())
        .collect()
}

/// Visits a folder's subfolders, then the folder.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(dir);
}
