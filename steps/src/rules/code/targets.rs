//! Attributes of the targets of a Network Load Balancer. Those that the pods or their clients would miss stay
//! until the Service says the like; the rest goes.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html>

use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::key;

const PREFIX: &str = "service.beta.kubernetes.io/aws-load-balancer-";
/// Also of one port: `target-group-attributes.80`.
const ATTRIBUTES: &str = "target-group-attributes";

/// The annotations whose name without the prefix passes, as matches, with their values.
fn settings<'a>(look: &Look<'a>, passes: impl Fn(&str) -> bool) -> Vec<(Match, &'a str)> {
    let annotations = look.object.node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    let all = annotations.iter().filter_map(|entry| Some((entry.key.text()?, entry.value.text()?)));
    let of = all.filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(&passes));
    of.map(|(name, value)| {
        (Match::at(vec![key("metadata"), key("annotations"), key(name)]).found(value), value)
    })
    .collect()
}

fn attributes<'a>(look: &Look<'a>) -> Vec<(Match, &'a str)> {
    settings(look, |name| name.starts_with(ATTRIBUTES))
}

/// Whether `a=b, c=d` says that `name` is true.
fn is_on(attributes: &str, name: &str) -> bool {
    let mut pairs = attributes.split(',').filter_map(|pair| pair.split_once('='));
    pairs.any(|(key, value)| key.trim() == name && value.trim().eq_ignore_ascii_case("true"))
}

fn is_proxied(attributes: &str) -> bool {
    is_on(attributes, "proxy_protocol_v2.enabled")
}

/// What the attributes say of clients and the Service doesn't.
fn unsaid(look: &Look<'_>, attributes: &str) -> Vec<&'static str> {
    let is_said = |field, value| look.object.node.text_at(&["spec", field]) == Some(value);
    let mut all = Vec::new();
    if is_on(attributes, "stickiness.enabled") && !is_said("sessionAffinity", "ClientIP") {
        all.push("a client keeps its pod (`sessionAffinity: ClientIP`)");
    }
    if is_on(attributes, "preserve_client_ip.enabled") && !is_said("externalTrafficPolicy", "Local") {
        all.push("pods see the client's address (`externalTrafficPolicy: Local`)");
    }
    all
}

/// PROXY protocol, however it is asked for.
pub(super) fn proxy_protocol(look: &Look<'_>) -> Vec<Match> {
    let own = settings(look, |name| matches!(name, "proxy-protocol" | "proxy-protocol-per-target-group"));
    let among = attributes(look).into_iter().filter(|(_, value)| is_proxied(value));
    own.into_iter().chain(among).map(|(found, _)| found).collect()
}

/// What clients would miss.
pub(super) fn clients(look: &Look<'_>) -> Vec<Match> {
    let told = attributes(look).into_iter().filter_map(|(found, value)| {
        let unsaid = unsaid(look, value);
        let message = format!("attribute of the load balancer's targets: {}", unsaid.join("; "));
        (!unsaid.is_empty()).then(|| found.saying(message))
    });
    told.collect()
}

/// Attributes that nobody misses.
pub(super) fn rest(look: &Look<'_>) -> Vec<Match> {
    let rest = attributes(look).into_iter().filter(|(_, v)| !is_proxied(v) && unsaid(look, v).is_empty());
    rest.map(|(found, _)| {
        let path = found.path.clone();
        found.edit(Edit::Delete { path })
    })
    .collect()
}
