//! The sandbox's network: a bridge on the host, and a namespace for each cluster joined to it by a veth pair.
//!
//! Owns the bridge, the namespaces and all in them: removing a namespace removes its addresses, routes and firewall
//! rules too. The host's own routes, forwarding and firewall are never touched, so no packet of the sandbox leaves
//! the machine.

use std::path::Path;

use miette::Result;

use crate::layout::{BRIDGE, Cluster, HOST_ADDRESS, HOST_PREFIX};
use crate::process::run;

/// Where `ip netns` keeps the namespaces.
const NETNS_DIR: &str = "/run/netns";

/// The host's end of a cluster's veth pair.
fn veth(cluster: Cluster) -> &'static str {
    match cluster {
        Cluster::Eks => "migrate-v-eks",
        Cluster::Aks => "migrate-v-aks",
    }
}

/// Makes what is missing.
pub fn up() -> Result<()> {
    if !link_exists(BRIDGE) {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    }
    run("ip", &["address", "replace", &format!("{HOST_ADDRESS}/{HOST_PREFIX}"), "dev", BRIDGE])?;
    run("ip", &["link", "set", BRIDGE, "up"])?;
    for cluster in Cluster::ALL {
        join(cluster)?;
    }
    Ok(())
}

fn join(cluster: Cluster) -> Result<()> {
    let (netns, veth) = (cluster.netns(), veth(cluster));
    if !exists(cluster) {
        run("ip", &["netns", "add", netns])?;
    }
    if !link_exists(veth) {
        run("ip", &["link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", netns])?;
    }
    run("ip", &["link", "set", veth, "master", BRIDGE, "up"])?;
    let inside = |args: &[&str]| run("ip", &[&["-n", netns], args].concat());
    inside(&["link", "set", "lo", "up"])?;
    inside(&["address", "replace", &format!("{}/{HOST_PREFIX}", cluster.address()), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    // A process on the node can only reach a service if its address has some route: kube-proxy rewrites it after that.
    inside(&["route", "replace", cluster.service_subnet(), "dev", "eth0"])?;
    // A pod that calls its own node's service through the bridge must pass the rules too.
    let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
        if [ -e /proc/sys/net/bridge ]; then echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; fi";
    run("nsenter", &[&format!("--net={NETNS_DIR}/{netns}"), "--", "sh", "-c", settings])?;
    Ok(())
}

/// Removes the namespaces and the bridge. The processes in them must have ended.
pub fn down() -> Result<()> {
    for cluster in Cluster::ALL {
        // The link first: one whose namespace is deleted goes too, but some time later.
        if link_exists(veth(cluster)) {
            run("ip", &["link", "delete", veth(cluster)])?;
        }
        if exists(cluster) {
            run("ip", &["netns", "delete", cluster.netns()])?;
        }
    }
    if link_exists(BRIDGE) {
        run("ip", &["link", "delete", BRIDGE])?;
    }
    // `ip netns add` mounts its folder on itself; with the last namespace gone, so can that be.
    let empty = std::fs::read_dir(NETNS_DIR).is_ok_and(|mut entries| entries.next().is_none());
    if empty && crate::mounts::under(Path::new(NETNS_DIR)).iter().any(|mount| mount == Path::new(NETNS_DIR)) {
        crate::mounts::unmount_under(Path::new(NETNS_DIR))?;
        let _ = std::fs::remove_dir(NETNS_DIR);
    }
    Ok(())
}

/// Whether the cluster's namespace is there.
pub fn exists(cluster: Cluster) -> bool {
    Path::new(NETNS_DIR).join(cluster.netns()).exists()
}

/// What is left of the network, by name; for `status` and the check after `down`.
pub fn remains() -> Vec<String> {
    let netns =
        Cluster::ALL.into_iter().filter(|c| exists(*c)).map(|c| format!("network namespace {}", c.netns()));
    let links = [BRIDGE, veth(Cluster::Eks), veth(Cluster::Aks)];
    let links = links.into_iter().filter(|name| link_exists(name)).map(|name| format!("link {name}"));
    netns.chain(links).collect()
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}
