//! Certificates of an Ingress: those that it names, and those that AWS finds by its host names.
//!
//! Invariant: a host that was answered with a certificate of its own is never left to another's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ingress::{Ingress, hosts_of, is_for_any_host};
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};

fn entries(node: &Node) -> &[Node] {
    node.at(&["spec", "tls"]).map_or(&[][..], Node::items)
}

fn secret_of(entry: &Node) -> Option<&str> {
    entry.text_at(&["secretName"]).filter(|name| !name.is_empty())
}

fn hosts_in(entry: &Node) -> impl Iterator<Item = &str> {
    entry.get("hosts").map_or(&[][..], Node::items).iter().filter_map(Node::text)
}

/// Secrets that the Ingress names itself.
pub(super) fn tls_secrets_of(node: &Node) -> Vec<&str> {
    entries(node).iter().filter_map(secret_of).collect()
}

/// Whether `*.example.com` or the host itself is for the host. A wildcard is one label.
fn covers(of: &str, host: &str) -> bool {
    let rest = host.split_once('.').map(|(_, rest)| rest);
    of == host || of.strip_prefix("*.").is_some_and(|of| rest == Some(of))
}

/// Hosts, each once, that are answered and for which the Ingress names no Secret itself. Where no ARN is said, the
/// controller finds a certificate for each.
/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/cert_discovery/>
pub(super) fn hosts_without_secret(node: &Node) -> Vec<&str> {
    let (named, open): (Vec<&Node>, Vec<&Node>) =
        entries(node).iter().partition(|entry| secret_of(entry).is_some());
    // A Secret without hosts is for all of them.
    if named.iter().any(|entry| hosts_in(entry).next().is_none()) {
        return Vec::new();
    }
    let has = |host: &str| named.iter().any(|entry| hosts_in(entry).any(|of| covers(of, host)));
    let answered = hosts_of(node);
    let is_for_any = is_for_any_host(node) || node.at(&["spec", "defaultBackend"]).is_some();
    let is_answered = |host: &&str| is_for_any || answered.iter().any(|of| covers(of, host));
    let open = open.iter().flat_map(|entry| hosts_in(entry)).filter(is_answered);
    let mut all: Vec<&str> = Vec::new();
    for host in answered.iter().copied().chain(open) {
        if !host.is_empty() && !has(host) && !all.contains(&host) {
            all.push(host);
        }
    }
    all
}

/// `spec.tls` for NGINX, which takes the first entry that names the host, and else the first whose
/// certificate is for it; without a Secret it answers with a certificate of its own.
/// <https://github.com/kubernetes/ingress-nginx/blob/main/internal/ingress/controller/controller.go>
pub(super) fn tls(look: &Look<'_>, ingress: &Ingress<'_>, found: &mut Match) -> Vec<Value> {
    let node = ingress.object.node;
    let named = entries(node).iter().filter(|entry| secret_of(entry).is_some());
    let mut all: Vec<Value> = named.map(Node::to_value).collect();
    let hosts = hosts_without_secret(node);
    let mut secrets: Vec<String> = Vec::new();
    for arn in ingress.settings.certificates() {
        secrets.extend(found.need(look.inputs.entry("certificates", arn)));
    }
    let is_for_all = hosts.is_empty() && all.is_empty();
    let (settings, group) = (&ingress.settings, ingress.group(look.facts));
    match secrets.as_slice() {
        [] if settings.certificates().is_empty() && settings.is_https() => {
            let mut by_secret: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for host in hosts {
                if let Some(secret) = found.need(look.inputs.entry("certificates", host)) {
                    by_secret.entry(secret).or_default().push(host);
                }
            }
            let entry = |(secret, hosts)| json!({ "hosts": hosts, "secretName": secret });
            all.extend(by_secret.into_iter().map(entry));
        }
        [secret] if !hosts.is_empty() => {
            // Whether it is for a host that another of the load balancer has one for, it says itself.
            let has_other = |host: &str| ingress.shares() && group.certifies(host);
            let hosts: Vec<&str> = hosts.into_iter().filter(|host| !has_other(host)).collect();
            let whole = json!({ "hosts": hosts, "secretName": secret });
            all.push(if hosts.is_empty() { json!({ "secretName": secret }) } else { whole });
        }
        // Which of several is a host's, their certificates say.
        several if is_for_all || !hosts.is_empty() => {
            all.extend(several.iter().map(|secret| json!({ "secretName": secret })));
        }
        _ => {}
    }
    all
}
