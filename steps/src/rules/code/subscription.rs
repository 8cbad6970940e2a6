//! What the node groups of EKS become, against what an Azure subscription has room for. Without a subscription
//! these find nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::engine::{Look, Match};
use crate::rules::facts::NodeGroup;
use crate::rules::path::key;
use crate::rules::subscription::Subscription;
use crate::rules::target::Target;

/// All vCPUs of ordinary VMs in a location; spot VMs have one quota for all families.
/// <https://learn.microsoft.com/azure/quotas/per-vm-quota-requests>,
/// <https://learn.microsoft.com/azure/quotas/spot-quota>
const ALL: &str = "cores";
const SPOT: &str = "lowPriorityCores";

/// Nodes of one size that are to be made.
#[derive(Default)]
struct Nodes<'a> {
    groups: BTreeSet<&'a str>,
    now: u64,
    most: u64,
}

/// Nodes of a size that the target has already.
fn there(target: &Target, size: &str, is_spot: bool) -> u64 {
    let fits = |labels: &&BTreeMap<String, String>| {
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        label("node.kubernetes.io/instance-type").eq_ignore_ascii_case(size)
            && (label("kubernetes.azure.com/scalesetpriority") == "spot") == is_spot
    };
    target.nodes.iter().filter(fits).count() as u64
}

/// Quotas that the pools don't fit in, and groups that can't be held to them.
pub(super) fn vcpus(look: &Look<'_>) -> Vec<Match> {
    let Some(subscription) = look.facts.subscription.as_deref() else { return Vec::new() };
    let place = || Match::at(vec![key("spec")]);
    let mut all = Vec::new();
    let mut sizes: BTreeMap<(&str, bool), Nodes<'_>> = BTreeMap::new();
    for group in &look.facts.node_groups {
        let Some(size) = group.types.iter().find_map(|name| look.inputs.vm_sizes.get(name)) else {
            all.push(uncounted(look, group));
            continue;
        };
        let nodes = sizes.entry((size, group.is_spot)).or_default();
        nodes.groups.insert(&group.name);
        nodes.now += group.desired;
        nodes.most += group.most.max(group.desired);
    }
    let mut quotas: BTreeMap<&str, Nodes<'_>> = BTreeMap::new();
    for ((name, is_spot), nodes) in &sizes {
        let Some(size) = subscription.size(name) else {
            let groups = listed(&nodes.groups);
            let said = format!(
                "{groups} become {name}, which the subscription can't have in {}",
                subscription.location
            );
            all.push(place().found(*name).saying(said));
            continue;
        };
        let there = look.facts.target.as_deref().map_or(0, |target| there(target, name, *is_spot));
        for quota in if *is_spot { vec![SPOT] } else { vec![size.family.as_str(), ALL] } {
            let need = quotas.entry(quota).or_default();
            need.groups.extend(&nodes.groups);
            need.now += nodes.now.saturating_sub(there).saturating_mul(size.vcpus);
            need.most += nodes.most.saturating_sub(there).saturating_mul(size.vcpus);
        }
    }
    all.extend(
        quotas.iter().filter_map(|(name, need)| {
            Some(place().found(*name).saying(exceeded(subscription, name, need)?))
        }),
    );
    all
}

/// What is said where `need` does not fit.
fn exceeded(subscription: &Subscription, name: &str, need: &Nodes<'_>) -> Option<String> {
    let quota = subscription.quota(name)?;
    let room = quota.limit.saturating_sub(quota.used);
    let (when, count) = match () {
        () if need.now > room => ("", need.now),
        () if need.most > room => (" once grown to their most", need.most),
        () => return None,
    };
    Some(format!(
        "{} need {count} vCPUs of {name} more{when}, and the subscription has {} in {}, of which {} used",
        listed(&need.groups),
        quota.limit,
        subscription.location,
        quota.used
    ))
}

fn listed(groups: &BTreeSet<&str>) -> String {
    let names: Vec<&str> = groups.iter().copied().collect();
    format!("node groups {}", names.join(", "))
}

/// A group of which no size is known.
fn uncounted(look: &Look<'_>, group: &NodeGroup) -> Match {
    let mut found = Match::at(vec![key("spec")]).found(group.name.as_str());
    if let Some(name) = group.types.first() {
        found.need(look.inputs.entry("vm-sizes", name));
    }
    found.saying(format!("node group {} is not counted: what it becomes has no size yet", group.name))
}
