//! What rules can't say as data: functions that look at an object and return the same matches.

mod api;
mod identity;
mod images;
pub(crate) mod ingress;
mod ingress_nginx;
mod keda;
mod nodes;
mod references;
mod routes;
mod secrets;
mod services;
mod storage;

use super::document::Node;
use super::engine::{Look, Match};
use super::path::{Path, Pattern, key, with_index};

/// A function of a rule.
pub(crate) type Code = fn(&Look<'_>) -> Vec<Match>;

/// The function that rules call `name`.
pub(crate) fn find(name: &str) -> Option<Code> {
    Some(match name {
        "addon-image" => images::addon,
        "ecr-image" => images::ecr,
        "ecr-text" => images::ecr_text,
        "public-image" => images::public,
        "irsa" => identity::role,
        "irsa-pods" => identity::pods,
        "pod-identity" => identity::association,
        "aws-auth-groups" => identity::groups,
        "claim-class" => storage::class,
        "claim-default-class" => storage::default_class,
        "claim-size" => storage::size,
        "claim-volume" => storage::volume,
        "node-group" => nodes::group,
        "capacity" => nodes::capacity,
        "karpenter-keys" => nodes::karpenter,
        "node-class" => nodes::class,
        "idle-timeout" => services::idle_timeout,
        "health-port" => services::health_port,
        "ingress" => ingress::convert,
        "ingress-v1beta1" => api::ingress,
        "secret-provider-class" => secrets::provider_class,
        "secret-store" => secrets::store,
        "external-secret" => secrets::external,
        "sqs" => keda::sqs,
        "trigger-authentication" => keda::authentication,
        "arns" => references::arns,
        "hosts" => references::hosts,
        "load-balancer-hosts" => references::load_balancers,
        "metadata-service" => references::metadata_service,
        _ => return None,
    })
}

/// Every text of the object with its path.
fn strings<'a>(node: &'a Node, visit: &mut dyn FnMut(&Path, &'a str)) {
    fn walk<'a>(node: &'a Node, path: &mut Path, visit: &mut dyn FnMut(&Path, &'a str)) {
        if let Some(text) = node.text() {
            visit(path, text);
        }
        for (at, item) in node.items().iter().enumerate() {
            path.push(crate::workload::Segment::Index(at));
            walk(item, path, visit);
            path.pop();
        }
        for entry in node.entries() {
            if let Some(name) = entry.key.text() {
                path.push(key(name));
                walk(&entry.value, path, visit);
                path.pop();
            }
        }
    }
    walk(node, &mut Vec::new(), visit);
}

/// The specs of pods in the object, whatever its kind.
fn pods<'a>(node: &'a Node) -> Vec<(Path, &'a Node)> {
    Pattern::parse("{pod}").map(|pattern| pattern.find(node)).unwrap_or_default()
}

/// Expressions `{ key, operator, values }` of affinities and requirements whose key passes.
fn expressions<'a>(node: &'a Node, passes: &dyn Fn(&str) -> bool) -> Vec<(Path, &'a Node)> {
    let lists =
        ["**.matchExpressions[]", "**.matchLabelExpressions[]", "**.requirements[]", "**.preferences[]"];
    let mut found = Vec::new();
    for list in lists {
        let all = Pattern::parse(list).map(|pattern| pattern.find(node)).unwrap_or_default();
        found.extend(all.into_iter().filter(|(_, e)| e.text_at(&["key"]).is_some_and(passes)));
    }
    found
}

/// The items of the list `name` in `node` at `path`, with their paths.
fn items<'a>(node: &'a Node, path: &Path, name: &str) -> Vec<(Path, &'a Node)> {
    let list = super::path::with(path, name);
    let items = node.get(name).map_or(&[][..], Node::items);
    items.iter().enumerate().map(|(at, item)| (with_index(&list, at), item)).collect()
}
