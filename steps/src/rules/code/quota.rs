//! What objects ask for, against the quotas of their namespace on the target.
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>

use std::collections::BTreeMap;

use super::{pods, storage};
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::Path;
use crate::rules::quantity::thousandths;
use crate::rules::target::{Quota, Target};

/// A resource that quotas know, what stands for it in a container, and its older name.
const COMPUTE: [(&str, &str, &str, Option<&str>); 4] = [
    ("requests.cpu", "requests", "cpu", Some("cpu")),
    ("requests.memory", "requests", "memory", Some("memory")),
    ("limits.cpu", "limits", "cpu", None),
    ("limits.memory", "limits", "memory", None),
];

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What an object asks for, in thousandths, by what quotas call it.
struct Asked {
    path: Path,
    amounts: BTreeMap<&'static str, u128>,
    /// What its containers don't all state.
    unstated: Vec<&'static str>,
}

/// What a container asks for; a limit stands for a request that is not there.
/// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
pub(super) fn of_container(container: &Node, part: &str, resource: &str) -> Option<u128> {
    let text = |part: &str| container.text_at(&["resources", part, resource]);
    let stated = if part == "requests" { text("requests").or_else(|| text("limits")) } else { text(part) };
    stated.and_then(thousandths)
}

fn containers<'a>(spec: &'a Node, list: &str) -> &'a [Node] {
    spec.get(list).map_or(&[][..], Node::items)
}

/// What a pod asks for: its containers together, or what one that comes before them needs alone.
pub(super) fn of_pod(spec: &Node, part: &str, resource: &str) -> u128 {
    let of = |container: &Node| of_container(container, part, resource).unwrap_or(0);
    let together: u128 = containers(spec, "containers").iter().map(of).sum();
    containers(spec, "initContainers").iter().map(of).max().unwrap_or(0).max(together)
}

/// How many pods of it there are at once.
fn copies(look: &Look<'_>, target: &Target) -> u128 {
    let object = look.object;
    let count = |path: &[&str]| object.node.text_at(path).and_then(|text| text.parse().ok());
    match object.kind.as_str() {
        "DaemonSet" => target.nodes.len() as u128,
        "Job" => count(&["spec", "parallelism"]).unwrap_or(1),
        "CronJob" => count(&["spec", "jobTemplate", "spec", "parallelism"]).unwrap_or(1),
        _ => count(&["spec", "replicas"]).unwrap_or(1),
    }
}

fn of_pods(look: &Look<'_>, target: &Target) -> Option<Asked> {
    let (path, spec) = pods(look.object).into_iter().next()?;
    let copies = copies(look, target);
    let mut amounts = BTreeMap::from([("pods", copies * 1_000)]);
    let mut unstated = Vec::new();
    for (name, part, resource, _) in COMPUTE {
        amounts.insert(name, of_pod(spec, part, resource).saturating_mul(copies));
        let is_stated = |container: &Node| of_container(container, part, resource).is_some();
        if !["containers", "initContainers"].iter().all(|list| containers(spec, list).iter().all(is_stated)) {
            unstated.push(name);
        }
    }
    Some(Asked { path, amounts, unstated })
}

fn of_claims(look: &Look<'_>, target: &Target) -> Option<Asked> {
    let claims = storage::claims(look.object);
    let path = claims.first()?.0.clone();
    // Each pod of a StatefulSet has its own.
    let copies = if look.object.kind == "PersistentVolumeClaim" { 1 } else { copies(look, target) };
    let size = |spec: &Node| spec.text_at(&["resources", "requests", "storage"]).and_then(thousandths);
    let bytes: u128 = claims.iter().filter_map(|(_, spec, _)| size(spec)).sum();
    let count = claims.len() as u128 * copies * 1_000;
    let amounts = BTreeMap::from([
        ("requests.storage", bytes.saturating_mul(copies)),
        ("persistentvolumeclaims", count),
    ]);
    Some(Asked { path, amounts, unstated: Vec::new() })
}

/// Objects that a quota of their namespace does not let in.
pub(super) fn exceeded(look: &Look<'_>) -> Vec<Match> {
    let Some(target) = look.facts.target.as_deref() else { return Vec::new() };
    let namespace = match look.object.namespace.as_str() {
        "" => DEFAULT_NAMESPACE,
        namespace => namespace,
    };
    let quotas: Vec<&Quota> = target.quotas.iter().filter(|quota| quota.namespace == namespace).collect();
    if quotas.is_empty() {
        return Vec::new();
    }
    let asked = [of_pods(look, target), of_claims(look, target)];
    let has_defaults = target.limit_ranges.contains(namespace);
    let mut all = Vec::new();
    for Asked { path, amounts, unstated } in asked.into_iter().flatten() {
        for quota in &quotas {
            let bounded = |name: &str| {
                let older = COMPUTE.iter().find(|(known, ..)| *known == name).and_then(|(.., older)| *older);
                std::iter::once(name)
                    .chain(older)
                    .find(|name| quota.hard.contains_key(*name))
                    .map(str::to_owned)
            };
            for (name, amount) in &amounts {
                let Some(bound) = bounded(name) else { continue };
                let of = |amounts: &BTreeMap<String, String>| {
                    amounts.get(&bound).and_then(|text| thousandths(text))
                };
                let (hard, used) = (of(&quota.hard), of(&quota.used).unwrap_or(0));
                let Some(hard) = hard.filter(|hard| *amount > hard.saturating_sub(used)) else { continue };
                let said = format!(
                    "it asks for {} ({bound}), and quota `{}` of namespace {namespace} has {}, of which {} used",
                    written(name, *amount),
                    quota.name,
                    written(name, hard),
                    written(name, used)
                );
                all.push(Match::at(path.clone()).saying(said));
            }
            let demanded = unstated.iter().filter_map(|name| bounded(name)).filter(|_| !has_defaults);
            for bound in demanded {
                let said = format!(
                    "not every container states {bound}, which quota `{}` of namespace {namespace} demands of each",
                    quota.name
                );
                all.push(Match::at(path.clone()).saying(said));
            }
        }
    }
    all
}

/// An amount as a person reads it.
fn written(resource: &str, thousandths: u128) -> String {
    match resource {
        _ if resource.ends_with("cpu") => format!("{}.{:03} CPUs", thousandths / 1_000, thousandths % 1_000),
        _ if resource.ends_with("memory") || resource.ends_with("storage") => {
            format!("{} MiB", thousandths.div_ceil(1_000).div_ceil(1 << 20))
        }
        _ => (thousandths / 1_000).to_string(),
    }
}
