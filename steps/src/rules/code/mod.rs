//! What rules can't say as data: functions that look at an object and return the same matches.

mod acm;
mod api;
mod certificates;
mod cluster;
mod gateway;
mod identity;
mod images;
mod ingress;
mod ingress_actions;
pub(crate) mod ingress_elsewhere;
pub(crate) mod ingress_groups;
mod ingress_guards;
mod ingress_nginx;
mod keda;
pub(crate) mod nodes;
mod quota;
mod references;
mod routes;
pub(crate) mod secrets;
mod services;
mod shell;
pub(crate) mod storage;
mod subscription;
mod target;
mod targets;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use super::document::Node;
use super::engine::{Look, Match};
use super::object::Object;
use super::path::{Path, Pattern, with_index};
use crate::workload::Segment;

/// A function of a rule.
pub(crate) type Code = fn(&Look<'_>) -> Vec<Match>;

/// The function that rules call `name`.
pub(crate) fn find(name: &str) -> Option<Code> {
    Some(match name {
        "addon-image" => images::addon,
        "agent-image" => images::agent,
        "agent-beside" => images::agent_beside,
        "ecr-refresh" => images::refresh,
        "ecr-login" => images::login,
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
        "claim-without-class" => storage::classless,
        "ebs-class" => storage::ebs_class,
        "efs-class" => storage::efs_class,
        "node-group" => nodes::group,
        "capacity" => nodes::capacity,
        "karpenter-keys" => nodes::karpenter,
        "node-class" => nodes::class,
        "node-pool" => nodes::pool,
        "idle-timeout" => services::idle_timeout,
        "health-port" => services::health_port,
        "health-interval" => services::health_interval,
        "health-failures" => services::health_failures,
        "guarded-load-balancer" => services::guarded,
        "internal-by-default" => services::internal_by_default,
        "internal-load-balancer" => services::internal,
        "load-balancer-settings" => services::left_over,
        "proxy-protocol" => targets::proxy_protocol,
        "target-clients" => targets::clients,
        "target-attributes" => targets::rest,
        "ingress" => ingress::convert,
        "internal-ingress" => ingress::internal,
        "ingress-class" => ingress::class,
        "ingress-class-params" => ingress::class_params,
        "ingress-class-settings" => ingress::class_settings,
        "ingress-group-redirect" => ingress::group_redirect,
        "ingress-group-elsewhere" => ingress_elsewhere::unknown,
        "ingress-foreign-class" => ingress::foreign_class,
        "gateway-certificates" => gateway::certificates,
        "eks-access-entry" => cluster::access_entry,
        "eks-node-group" => cluster::node_group,
        "eks-version" => cluster::version,
        "acm-certificate" => acm::certificate,
        "ingress-v1beta1" => api::ingress,
        "secret-provider-class" => secrets::provider_class,
        "secret-store" => secrets::store,
        "external-secret" => secrets::external,
        "sqs" => keda::sqs,
        "target-storage-class" => target::storage_class,
        "target-ingress-class" => target::ingress_class,
        "target-kind" => target::kind,
        "target-network-policy" => target::network_policy,
        "target-nodes" => target::nodes,
        "target-sizes" => target::sizes,
        "target-quotas" => quota::exceeded,
        "subscription-vcpus" => subscription::vcpus,
        "trigger-authentication" => keda::authentication,
        "arns" => references::arns,
        "hosts" => references::hosts,
        "load-balancer-hosts" => references::load_balancers,
        "metadata-service" => references::metadata_service,
        _ => return None,
    })
}

/// Every text of the object with its path.
fn strings<'a>(node: &'a Node, visit: &mut dyn FnMut(&[Segment<'a>], &'a str)) {
    EVERYWHERE.visit(node, &mut |path, node| {
        if let Some(text) = node.text() {
            visit(path, text);
        }
        ControlFlow::Continue(())
    });
}

static EVERYWHERE: LazyLock<Pattern> = LazyLock::new(|| Pattern::parse("**").expect("a constant"));
static POD: LazyLock<Pattern> = LazyLock::new(|| Pattern::parse("{pod}").expect("a constant"));
static EXPRESSIONS: LazyLock<[Pattern; 4]> = LazyLock::new(|| {
    ["**.matchExpressions[]", "**.matchLabelExpressions[]", "**.requirements[]", "**.preferences[]"]
        .map(|list| Pattern::parse(list).expect("a constant"))
});

/// The specs of pods in the object, whatever its kind.
fn pods<'a>(object: &Object<'a>) -> Vec<(Path, &'a Node)> {
    object.find(&POD)
}

/// Expressions `{ key, operator, values }` of affinities and requirements whose key passes.
fn expressions<'a>(object: &Object<'a>, passes: &dyn Fn(&str) -> bool) -> Vec<(Path, &'a Node)> {
    let all = EXPRESSIONS.iter().flat_map(|list| object.find(list));
    all.filter(|(_, e)| e.text_at(&["key"]).is_some_and(passes)).collect()
}

/// The items of the list `name` in `node` at `path`, with their paths.
fn items<'a>(node: &'a Node, path: &Path, name: &str) -> Vec<(Path, &'a Node)> {
    let list = super::path::with(path, name);
    let items = node.get(name).map_or(&[][..], Node::items);
    items.iter().enumerate().map(|(at, item)| (with_index(&list, at), item)).collect()
}
