//! What the EKS API says of a cluster, in words.

use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::key;

/// Principals of nodes: AKS gives its nodes their rights itself.
const NODES: [&str; 6] =
    ["EC2", "EC2_LINUX", "EC2_WINDOWS", "FARGATE_LINUX", "HYBRID_LINUX", "HYPERPOD_LINUX"];

fn texts<'a>(node: &'a Node, path: &[&str]) -> Vec<&'a str> {
    let items = node.at(path).map_or(&[][..], Node::items);
    items.iter().filter_map(Node::text).collect()
}

/// The version, and how long EKS supports it.
pub(super) fn version(look: &Look<'_>) -> Vec<Match> {
    let node = look.object.node;
    let Some(version) = node.text_at(&["spec", "version"]) else { return Vec::new() };
    let date = |field: &str| node.text_at(&["spec", "support", field]);
    let mut said = format!("version {version} of Kubernetes");
    for (field, words) in
        [("endOfStandardSupportDate", "standard support"), ("endOfExtendedSupportDate", "extended support")]
    {
        if let Some(date) = date(field) {
            said.push_str(&format!(", {words} until {date}"));
        }
    }
    vec![Match::at(vec![key("spec"), key("version")]).found(version).saying(said)]
}

/// A node group: how many of what.
pub(super) fn node_group(look: &Look<'_>) -> Vec<Match> {
    let node = look.object.node;
    let number = |field: &str| node.text_at(&["spec", "scalingConfig", field]).unwrap_or("?");
    let types = texts(node, &["spec", "instanceTypes"]);
    let size = |name: &&str| match look.inputs.vm_sizes.get(*name) {
        Some(size) => format!("{name} (becomes {size})"),
        None => (*name).to_owned(),
    };
    let named = match types.as_slice() {
        [] => "the launch template's type".to_owned(),
        types => types.iter().map(size).collect::<Vec<_>>().join(", "),
    };
    let mut said = format!(
        "{} nodes ({} to {}) of {named}",
        number("desiredSize"),
        number("minSize"),
        number("maxSize")
    );
    if let Some(image) = node.text_at(&["spec", "amiType"]) {
        said.push_str(&format!(", image {image}"));
    }
    if let Some(size) = node.text_at(&["spec", "diskSize"]) {
        said.push_str(&format!(", disks of {size} GiB"));
    }
    vec![Match::at(vec![key("spec"), key("instanceTypes")]).saying(said)]
}

/// Who may do what in the cluster.
pub(super) fn access_entry(look: &Look<'_>) -> Vec<Match> {
    let node = look.object.node;
    let kind = node.text_at(&["spec", "type"]).unwrap_or_default();
    if NODES.contains(&kind) {
        return Vec::new();
    }
    let mut rights: Vec<String> = Vec::new();
    let groups = texts(node, &["spec", "kubernetesGroups"]);
    if !groups.is_empty() {
        rights.push(format!("groups {}", groups.join(", ")));
    }
    for policy in node.at(&["spec", "accessPolicies"]).map_or(&[][..], Node::items) {
        let name = policy.text_at(&["policyArn"]).and_then(|arn| arn.rsplit('/').next()).unwrap_or_default();
        let namespaces = texts(policy, &["accessScope", "namespaces"]);
        let scope = if namespaces.is_empty() { "everywhere".to_owned() } else { namespaces.join(", ") };
        rights.push(format!("{name} in {scope}"));
    }
    let rights = if rights.is_empty() { "nothing yet".to_owned() } else { rights.join("; ") };
    vec![Match::at(vec![key("spec"), key("principalArn")]).saying(format!("an IAM principal may: {rights}"))]
}
