//! Labels of nodes that only AWS has.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::{expressions, items, pods};
use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::Lookup;
use crate::rules::object::Object;
use crate::rules::path::{Path, Pattern, key, with, with_index};
use crate::rules::quantity::thousandths;

const GROUP_KEYS: [&str; 2] = ["eks.amazonaws.com/nodegroup", "alpha.eksctl.io/nodegroup-name"];
const POOL: &str = "kubernetes.azure.com/agentpool";
const CAPACITY: &str = "eks.amazonaws.com/capacityType";
const PRIORITY: &str = "kubernetes.azure.com/scalesetpriority";

/// What `osDiskSizeGB` may be.
/// <https://github.com/Azure/karpenter-provider-azure/blob/main/pkg/apis/v1beta1/aksnodeclass.go>
const OS_DISK_GIB: std::ops::RangeInclusive<u64> = 30..=2048;
const THOUSANDTHS_OF_GIB: u128 = 1_000 << 30;

static SELECTORS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::parse("{pod}.nodeSelector.*").expect("a constant"));

/// What of a class of EC2 nodes is for a person.
static OF_A_PERSON: LazyLock<[Pattern; 5]> = LazyLock::new(|| {
    [
        "spec.userData",
        "spec.kubelet",
        "spec.amiSelectorTerms[].id",
        "spec.amiSelectorTerms[].name",
        "spec.amiSelectorTerms[].tags",
    ]
    .map(|pattern| Pattern::parse(pattern).expect("a constant"))
});

/// Renames the keys that pass, and looks up the values: in node selectors, expressions, tolerations.
fn relabel(
    look: &Look<'_>,
    passes: &dyn Fn(&str) -> bool,
    new_key: &dyn Fn(&str) -> Option<&'static str>,
    new_value: &dyn Fn(&str, &str) -> Lookup,
) -> Vec<Match> {
    let mut all = Vec::new();
    for (path, node) in look.object.find(&SELECTORS) {
        let Some(crate::workload::Segment::Key(name)) = path.last().cloned() else { continue };
        let (true, Some(value)) = (passes(&name), node.text()) else { continue };
        let mut found = Match::at(path.clone()).found(format!("{name}: {value}"));
        if let Some(to) = new_key(&name)
            && let Some(new) = found.need(new_value(&name, value))
        {
            found = found.edit(Edit::Set { path: path.clone(), value: new.into() });
            found = found.edit(Edit::Rename { path, to: to.to_owned() });
        }
        all.push(found);
    }
    for (path, expression) in expressions(look.object, passes) {
        all.push(relabel_values(&path, expression, new_key, new_value));
    }
    for (path, spec) in pods(look.object) {
        for (path, toleration) in items(spec, &path, "tolerations") {
            let name = toleration.text_at(&["key"]).unwrap_or_default();
            if !passes(name) {
                continue;
            }
            let mut found = Match::at(with(&path, "key")).found(name);
            let value = toleration.text_at(&["value"]);
            let new = value.map(|value| new_value(name, value)).transpose();
            match (new_key(name), new) {
                (Some(to), Ok(new)) => {
                    found = found.edit(Edit::Set { path: with(&path, "key"), value: to.into() });
                    if let Some(new) = new {
                        found = found.edit(Edit::Set { path: with(&path, "value"), value: new.into() });
                    }
                }
                (_, Err(missing)) => found.needs.push(missing),
                (None, _) => {}
            }
            all.push(found);
        }
    }
    all
}

fn relabel_values(
    path: &Path,
    expression: &Node,
    new_key: &dyn Fn(&str) -> Option<&'static str>,
    new_value: &dyn Fn(&str, &str) -> Lookup,
) -> Match {
    let name = expression.text_at(&["key"]).unwrap_or_default();
    let mut found = Match::at(with(path, "key")).found(name);
    let Some(to) = new_key(name) else { return found };
    found = found.edit(Edit::Set { path: with(path, "key"), value: to.into() });
    for (at, value) in expression.get("values").map_or(&[][..], Node::items).iter().enumerate() {
        let Some(old) = value.text() else { continue };
        if let Some(new) = found.need(new_value(name, old)) {
            found = found.edit(Edit::Set { path: with_index(&with(path, "values"), at), value: new.into() });
        }
    }
    found
}

/// Node groups.
pub(super) fn group(look: &Look<'_>) -> Vec<Match> {
    let pool = |_: &str, value: &str| look.inputs.entry("node-pools", value);
    relabel(look, &|name| GROUP_KEYS.contains(&name), &|_| Some(POOL), &pool)
}

/// Keys of Karpenter's AWS provider, where Azure's has the like.
pub(super) fn karpenter(look: &Look<'_>) -> Vec<Match> {
    let new_key = |name: &str| match name {
        "karpenter.k8s.aws/instance-category" | "karpenter.k8s.aws/instance-family" => {
            Some("karpenter.azure.com/sku-family")
        }
        "karpenter.k8s.aws/instance-cpu" => Some("karpenter.azure.com/sku-cpu"),
        "karpenter.k8s.aws/instance-memory" => Some("karpenter.azure.com/sku-memory"),
        "karpenter.k8s.aws/instance-gpu-count" => Some("karpenter.azure.com/sku-gpu-count"),
        "karpenter.k8s.aws/instance-gpu-manufacturer" => Some("karpenter.azure.com/sku-gpu-manufacturer"),
        _ => None,
    };
    let new_value = |name: &str, value: &str| match name {
        "karpenter.k8s.aws/instance-category" | "karpenter.k8s.aws/instance-family" => {
            look.inputs.entry("vm-families", value)
        }
        _ => Ok(value.to_owned()),
    };
    relabel(look, &|name| name.starts_with("karpenter.k8s.aws/"), &new_key, &new_value)
}

/// Spot and on-demand capacity.
pub(super) fn capacity(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    let pods = pods(look.object);
    for (pod, spec) in &pods {
        let selector = with(&with(pod, "nodeSelector"), CAPACITY);
        match look.object.node.follow(&selector).and_then(Node::text) {
            Some("SPOT") => {
                let found = Match::at(selector.clone()).found("SPOT");
                let found = found.edit(Edit::Set { path: selector.clone(), value: "spot".into() });
                let found = found.edit(Edit::Rename { path: selector, to: PRIORITY.to_owned() });
                all.push(tolerating(found, pod, spec));
            }
            Some(other) => {
                let found =
                    Match::at(selector.clone()).found(other).edit(Edit::Delete { path: selector.clone() });
                all.push(if tolerates_spot(spec) { off_spot(found, pod, spec) } else { found });
            }
            None => {}
        }
        for (path, toleration) in items(spec, pod, "tolerations") {
            if toleration.text_at(&["key"]) != Some(CAPACITY) {
                continue;
            }
            let found = Match::at(with(&path, "key")).found(CAPACITY);
            let to_priority = Edit::Set { path: with(&path, "key"), value: PRIORITY.into() };
            all.push(match toleration.text_at(&["value"]) {
                _ if toleration.text_at(&["operator"]) == Some("Exists") => found.edit(to_priority),
                Some("SPOT") => found
                    .edit(to_priority)
                    .edit(Edit::Set { path: with(&path, "value"), value: "spot".into() }),
                // Only spot nodes have the taint on AKS.
                _ => found.edit(Edit::Delete { path }),
            });
        }
    }
    for (path, expression) in expressions(look.object, &|name| name == CAPACITY) {
        let values: Vec<&str> =
            expression.get("values").map_or(&[][..], Node::items).iter().filter_map(Node::text).collect();
        let mut found = Match::at(with(&path, "key")).found(format!("{CAPACITY}: {}", values.join(", ")));
        let wants_spot = match (expression.text_at(&["operator"]), values.as_slice()) {
            (Some("In"), ["SPOT"]) | (Some("NotIn"), ["ON_DEMAND"]) => true,
            (Some("In"), ["ON_DEMAND"]) | (Some("NotIn"), ["SPOT"]) => false,
            // Both, or neither: no restriction at all.
            _ => {
                all.push(found.edit(Edit::Delete { path }));
                continue;
            }
        };
        found = found.edit(Edit::Set { path: with(&path, "key"), value: PRIORITY.into() });
        if wants_spot {
            found = found.edit(Edit::Set { path: with(&path, "operator"), value: "In".into() });
            found =
                found.edit(Edit::Set { path: with_index(&with(&path, "values"), 0), value: "spot".into() });
            if let Some((pod, spec)) = pods.iter().find(|(pod, _)| path.starts_with(pod)) {
                found = tolerating(found, pod, spec);
            }
        } else {
            // Ordinary nodes of AKS don't carry the label.
            found = found.edit(Edit::Set { path: with(&path, "operator"), value: "DoesNotExist".into() });
            found = found.edit(Edit::Delete { path: with(&path, "values") });
        }
        all.push(found);
    }
    all
}

/// AKS taints its spot nodes.
fn tolerating(found: Match, pod: &Path, spec: &Node) -> Match {
    if tolerates_spot(spec) {
        return found;
    }
    let toleration = json!({ "key": PRIORITY, "operator": "Equal", "value": "spot", "effect": "NoSchedule" });
    found.edit(Edit::Append { path: with(pod, "tolerations"), value: toleration })
}

/// Whether a pod tolerates what AKS taints its spot nodes with, `NoSchedule`, once it is rewritten.
fn tolerates_spot(spec: &Node) -> bool {
    let fits = |toleration: &Node| {
        let text = |field: &str| toleration.text_at(&[field]).unwrap_or_default();
        matches!(text("key"), PRIORITY | CAPACITY | "")
            && matches!(text("effect"), "NoSchedule" | "")
            && (text("operator") == "Exists" || matches!(text("value"), "spot" | "SPOT"))
    };
    spec.get("tolerations").map_or(&[][..], Node::items).iter().any(fits)
}

/// Ordinary nodes of AKS don't carry the label, which a selector can't say. Of several terms one is enough, so
/// that each says it; an empty one fits no node.
fn off_spot(mut found: Match, pod: &Path, spec: &Node) -> Match {
    const TERMS: [&str; 4] =
        ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let expression = json!({ "key": PRIORITY, "operator": "DoesNotExist" });
    let terms = TERMS.iter().fold(pod.clone(), |path, name| with(&path, name));
    let there = spec.at(&TERMS).map_or(&[][..], Node::items);
    if there.is_empty() {
        return found.edit(Edit::Append { path: terms, value: json!({ "matchExpressions": [expression] }) });
    }
    for (at, term) in there.iter().enumerate() {
        let has = |list: &str| term.get(list).is_some_and(|list| !list.items().is_empty());
        if has("matchExpressions") || has("matchFields") {
            let path = with(&with_index(&terms, at), "matchExpressions");
            found = found.edit(Edit::Append { path, value: expression.clone() });
        }
    }
    found
}

/// Whether a class of EC2 nodes has what only a person can bring to AKS (EKS-NOD-007), so that it stays.
pub(crate) fn is_kept(object: &Object<'_>) -> bool {
    OF_A_PERSON.iter().any(|pattern| !object.find(pattern).is_empty())
}

/// A pool of Karpenter's on EC2 nodes. It waits while its class stays: nobody would make that of AKS.
pub(super) fn pool(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    for reference in [&["spec", "template", "spec", "nodeClassRef"][..], &["spec", "nodeClassRef"][..]] {
        let Some(node) = look.object.node.at(reference) else { continue };
        if node.text_at(&["kind"]) != Some("EC2NodeClass") {
            continue;
        }
        let path: Path = reference.iter().copied().map(key).collect();
        let kind = with(&path, "kind");
        let found = Match::at(kind.clone()).found("EC2NodeClass");
        let class = node.text_at(&["name"]).unwrap_or_default();
        all.push(if look.facts.kept_node_classes.contains(class) {
            found.saying(format!(
                "Node pool of Karpenter on EC2 nodes, whose class {class} stays for a person (EKS-NOD-007)"
            ))
        } else {
            let group = "karpenter.azure.com".into();
            found.edit(Edit::Set { path: kind, value: "AKSNodeClass".into() }).edit(Edit::Insert {
                path,
                key: "group".to_owned(),
                value: group,
            })
        });
    }
    all
}

/// Karpenter's class of EC2 nodes: one of AKS nodes with the same name, and the same disk.
pub(super) fn class(look: &Look<'_>) -> Vec<Match> {
    if is_kept(look.object) {
        return Vec::new();
    }
    let node = look.object.node;
    let mut spec = Map::from_iter([("imageFamily".to_owned(), Value::from("Ubuntu"))]);
    let disks = node.at(&["spec", "blockDeviceMappings"]).map_or(&[][..], Node::items);
    // Bottlerocket has a small disk of its own before that of the images and logs.
    let sizes = disks.iter().filter_map(|disk| thousandths(disk.text_at(&["ebs", "volumeSize"])?));
    let mut found = Match::at(vec![key("spec")]);
    if let Some(largest) = sizes.max() {
        let gib = u64::try_from(largest.div_ceil(THOUSANDTHS_OF_GIB)).unwrap_or(u64::MAX);
        let taken = gib.clamp(*OS_DISK_GIB.start(), *OS_DISK_GIB.end());
        if taken != gib {
            found = found.saying(format!(
                "Karpenter's class of EC2 nodes; its disk of {gib} GiB becomes {taken} GiB, since AKS takes {} to {}",
                OS_DISK_GIB.start(),
                OS_DISK_GIB.end()
            ));
        }
        spec.insert("osDiskSizeGB".to_owned(), taken.into());
    }
    found.effects.drop = true;
    found.effects.add.push(json!({ "apiVersion": "karpenter.azure.com/v1beta1", "kind": "AKSNodeClass",
        "metadata": { "name": look.object.name }, "spec": spec }));
    vec![found]
}
