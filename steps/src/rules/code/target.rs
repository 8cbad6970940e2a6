//! What objects ask of the target and it does not have. Without a target these find nothing.

use std::sync::LazyLock;

use super::quota::of_pod;
use super::{expressions, pods, storage};
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::IngressTarget;
use crate::rules::path::{Pattern, key, with};
use crate::rules::quantity::thousandths;
use crate::rules::target::Target;
use crate::workload::Segment;

/// The class of managed NGINX.
const NGINX: &str = "webapprouting.kubernetes.azure.com";
const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io/v1", "Gateway");

/// Versions that rules of their own rewrite or report.
const OLD_VERSIONS: [&str; 14] = [
    "apiextensions.k8s.io/v1beta1",
    "admissionregistration.k8s.io/v1beta1",
    "apps/v1beta1",
    "apps/v1beta2",
    "autoscaling/v2beta1",
    "autoscaling/v2beta2",
    "batch/v1beta1",
    "certificates.k8s.io/v1beta1",
    "extensions/v1beta1",
    "networking.k8s.io/v1beta1",
    "policy/v1beta1",
    "rbac.authorization.k8s.io/v1beta1",
    "snapshot.storage.k8s.io/v1beta1",
    "storage.k8s.io/v1beta1",
];

/// Labels of nodes that AKS sets too, and that must therefore be somewhere.
const NODE_LABELS: [&str; 5] = [
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.azure.com/agentpool",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
];

static SELECTORS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::parse("{pod}.nodeSelector.*").expect("a constant"));

fn target<'a>(look: &Look<'a>) -> Option<&'a Target> {
    look.facts.target.as_deref()
}

/// Classes of claims, as they are called once rewritten.
pub(super) fn storage_class(look: &Look<'_>) -> Vec<Match> {
    let Some(target) = target(look) else { return Vec::new() };
    let mut all = Vec::new();
    for (path, spec, _) in storage::claims(look.object) {
        let Some(name) = spec.text_at(&["storageClassName"]) else {
            let is_given = look.inputs.default_storage_class.is_some();
            if spec.get("storageClassName").is_none() && !is_given && target.default_storage_class.is_none() {
                all.push(
                    Match::at(path).saying("the claim names no class, and the target has no default one"),
                );
            }
            continue;
        };
        let new = look.inputs.storage_classes.get(name).map_or(name, String::as_str);
        let is_there = target.storage_classes.contains(new) || look.facts.has_made("StorageClass", new);
        // What is AWS's own and has no class yet is another rule's.
        let is_open = new == name && storage::is_of_aws(look, name);
        if !is_there && !is_open && !name.is_empty() {
            all.push(Match::at(with(&path, "storageClassName")).found(new));
        }
    }
    all
}

/// The class of an Ingress, or the Gateway API, as it will be.
pub(super) fn ingress_class(look: &Look<'_>) -> Vec<Match> {
    let Some(target) = target(look) else { return Vec::new() };
    let path = vec![key("spec"), key("ingressClassName")];
    let is_aws = super::ingress::Ingress::of(look.object, look.facts).is_some();
    let wanted = match (is_aws, look.inputs.ingress) {
        (true, None) => return Vec::new(),
        (true, Some(IngressTarget::Gateway)) => {
            let found = Match::at(path).saying("the target does not serve the Gateway API");
            return if target.serves(GATEWAY.0, GATEWAY.1) { Vec::new() } else { vec![found] };
        }
        (true, Some(IngressTarget::Nginx)) => NGINX,
        (false, _) => match look.object.node.text_at(&["spec", "ingressClassName"]) {
            Some(class) => class,
            None => return Vec::new(),
        },
    };
    let is_there = target.ingress_classes.contains(wanted) || look.facts.has_made("IngressClass", wanted);
    if is_there { Vec::new() } else { vec![Match::at(path).found(wanted)] }
}

/// The kind itself.
pub(super) fn kind(look: &Look<'_>) -> Vec<Match> {
    let (Some(target), object) = (target(look), look.object) else { return Vec::new() };
    let is_aws = ["k8s.aws", "amazonaws.com", "eksctl.io"].iter().any(|end| object.group.ends_with(end));
    let is_made =
        look.facts.has_made("CustomResourceDefinition", &format!("{}/{}", object.group, object.kind));
    if is_aws
        || is_made
        || OLD_VERSIONS.contains(&object.api_version.as_str())
        || target.serves(&object.api_version, &object.kind)
    {
        return Vec::new();
    }
    vec![Match::at(vec![key("apiVersion")]).found(format!("{} {}", object.api_version, object.kind))]
}

/// A policy that nothing carries out.
pub(super) fn network_policy(look: &Look<'_>) -> Vec<Match> {
    match target(look) {
        Some(target) if target.policy_engine.is_none() => vec![Match::at(vec![key("spec")])],
        _ => Vec::new(),
    }
}

/// A label and value, as they will be, that no node has.
fn missing(look: &Look<'_>, target: &Target, label: &str, value: &str) -> Option<String> {
    let inputs = look.inputs;
    let mapped = match label {
        "kubernetes.azure.com/agentpool" => Some(value),
        "eks.amazonaws.com/nodegroup" | "alpha.eksctl.io/nodegroup-name" => {
            Some(inputs.node_pools.get(value)?.as_str())
        }
        "node.kubernetes.io/instance-type" => Some(inputs.vm_sizes.get(value).map_or(value, String::as_str)),
        "topology.kubernetes.io/zone" => Some(inputs.zones.get(value).map_or(value, String::as_str)),
        label if NODE_LABELS.contains(&label) => Some(value),
        _ => None,
    }?;
    let label = if label.ends_with("nodegroup") || label.ends_with("nodegroup-name") {
        "kubernetes.azure.com/agentpool"
    } else {
        label
    };
    // An instance type or zone of AWS without an input is another rule's.
    let is_open = mapped == value
        && matches!(label, "node.kubernetes.io/instance-type" | "topology.kubernetes.io/zone");
    (!is_open && !target.has_node(label, mapped)).then(|| format!("{label}: {mapped}"))
}

/// Pods that no node of the target takes.
pub(super) fn nodes(look: &Look<'_>) -> Vec<Match> {
    let Some(target) = target(look) else { return Vec::new() };
    let mut all = Vec::new();
    for (path, node) in look.object.find(&SELECTORS) {
        let (Some(Segment::Key(label)), Some(value)) = (path.last(), node.text()) else { continue };
        if let Some(found) = missing(look, target, label, value) {
            all.push(Match::at(path).found(found));
        }
    }
    for (path, expression) in expressions(look.object, &|_| true) {
        let is_required = path.iter().any(|segment| matches!(segment, Segment::Key(key) if key == "requiredDuringSchedulingIgnoredDuringExecution"));
        if !is_required || expression.text_at(&["operator"]) != Some("In") {
            continue;
        }
        let label = expression.text_at(&["key"]).unwrap_or_default();
        let values = expression.get("values").map_or(&[][..], Node::items).iter().filter_map(Node::text);
        let lacking: Vec<Option<String>> = values.map(|value| missing(look, target, label, value)).collect();
        // One of them is enough.
        if let Some(Some(found)) = lacking.first()
            && lacking.iter().all(Option::is_some)
        {
            all.push(Match::at(with(&path, "values")).found(found));
        }
    }
    all
}

/// Pods that ask for more than any node of the target has.
pub(super) fn sizes(look: &Look<'_>) -> Vec<Match> {
    let Some(target) = target(look) else { return Vec::new() };
    let sizes: Vec<(u128, u128)> = target
        .sizes
        .iter()
        .filter_map(|size| Some((thousandths(&size.cpu)?, thousandths(&size.memory)?)))
        .collect();
    if sizes.is_empty() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (path, spec) in pods(look.object) {
        let (cpu, memory) = (of_pod(spec, "requests", "cpu"), of_pod(spec, "requests", "memory"));
        if sizes.iter().any(|(has_cpu, has_memory)| cpu <= *has_cpu && memory <= *has_memory) {
            continue;
        }
        let said = format!(
            "the pod asks for {}.{:03} CPUs and {} MiB, and no node of the target has as much",
            cpu / 1_000,
            cpu % 1_000,
            memory / 1_000 / 1_024 / 1_024
        );
        all.push(Match::at(with(&path, "containers")).saying(said));
    }
    all
}
