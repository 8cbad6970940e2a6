//! An Ingress of the AWS Load Balancer Controller as one of the managed NGINX, edited in place.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::certificates;
use super::ingress::{Ingress, Listener, PREFIX, also, is_for_any_host};
use super::ingress_actions::{https_port, named_by, of_paths, setting};
use super::routes::{PathKind, path_of};
use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Effects, Look, Match};
use crate::rules::path::{Pattern, key, with};

const CLASS: &str = "webapprouting.kubernetes.azure.com";

/// Annotations that have a name with NGINX, and the same values.
const RENAMED: [(&str, &str); 2] = [
    ("inbound-cidrs", "nginx.ingress.kubernetes.io/whitelist-source-range"),
    ("backend-protocol", "nginx.ingress.kubernetes.io/backend-protocol"),
];

/// The conversion.
pub(super) fn convert(look: &Look<'_>, ingress: &Ingress<'_>, mut found: Match) -> Match {
    let node = look.object.node;
    let by_annotation = Pattern::parse("**.port.name").map(|p| p.find(node)).unwrap_or_default();
    if by_annotation.iter().any(|(_, name)| name.text() == Some("use-annotation")) {
        return stays(found, &by_actions(ingress));
    }
    // NGINX would answer its hosts over HTTPS, where its load balancer answers nothing of it.
    if ingress.settings.only_redirects() {
        let way = match ingress.settings.ssl_redirect() {
            Some(_) => "merge it into the one of its load balancer that does, or delete it",
            None => "say HTTPS in `listen-ports`, or take the action out",
        };
        let reason = format!("it listens on no HTTPS, where its plain requests are sent; {way}");
        return stays(found, &reason);
    }
    let annotations = vec![key("metadata"), key("annotations")];
    if node.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some() {
        found = found.edit(Edit::Delete { path: with(&annotations, "kubernetes.io/ingress.class") });
    }
    let spec = vec![key("spec")];
    found = found.edit(Edit::Insert {
        path: spec.clone(),
        key: "ingressClassName".to_owned(),
        value: CLASS.into(),
    });
    match paths(ingress) {
        Ok(edits) => found.effects.edits.extend(edits),
        Err(reason) => return stays(Match { effects: Effects::default(), ..found }, &reason),
    }
    let tls = certificates::tls(look, ingress, &mut found);
    let said = node.at(&["spec", "tls"]).map_or_else(|| json!([]), Node::to_value);
    if tls.is_empty() && said != json!([]) {
        found = found.edit(Edit::Delete { path: with(&spec, "tls") });
    } else if said != Value::from(tls.as_slice()) {
        found = found.edit(Edit::Insert { path: spec, key: "tls".to_owned(), value: tls.into() });
    }
    if ingress.settings.is_https() && is_for_any_host(node) {
        found = also(
            found,
            "requests for any host are answered with the default certificate of NGINX: say which \
             (`defaultSSLCertificate` of its NginxIngressController)",
        );
    }
    let lost: Vec<String> = ingress.settings.listeners().into_iter().filter_map(not_served).collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        found = also(
            found,
            &format!("NGINX serves HTTP on port 80 and HTTPS on 443, not, as its load balancer, {lost}"),
        );
    }
    // What was not answered plainly stays so.
    if ingress.settings.redirect().is_some() || !ingress.settings.is_plain() {
        found = found.edit(Edit::Insert {
            path: annotations.clone(),
            key: "nginx.ingress.kubernetes.io/force-ssl-redirect".to_owned(),
            value: "true".into(),
        });
    }
    let entries = node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    for full in entries.iter().filter_map(|entry| entry.key.text()) {
        let Some(name) = full.strip_prefix(PREFIX) else { continue };
        let path = with(&annotations, full);
        found = match RENAMED.iter().find(|(old, _)| *old == name) {
            Some((_, new)) => found.edit(Edit::Rename { path, to: (*new).to_owned() }),
            None => found.edit(Edit::Delete { path }),
        };
    }
    found
}

/// What the managed NGINX has no listener for.
/// <https://learn.microsoft.com/azure/aks/app-routing>
fn not_served(listener: Listener) -> Option<String> {
    let (protocol, served) = if listener.is_https { ("HTTPS", 443) } else { ("HTTP", 80) };
    (listener.port != served).then(|| format!("{protocol} on port {}", listener.port))
}

/// That actions say its routes, and what to say instead where all that they do is to send to HTTPS.
fn by_actions(ingress: &Ingress<'_>) -> String {
    let node = ingress.object.node;
    let reason = "its routes are in `actions` annotations".to_owned();
    let port = |name: &str| ingress.setting(&setting(name)).and_then(https_port);
    let ports: BTreeSet<Option<u16>> = of_paths(node).filter_map(named_by).map(port).collect();
    let is_by_default = node.at(&["spec", "defaultBackend"]).and_then(named_by).is_some();
    let Some(port) = ports.first().copied().flatten().filter(|_| ports.len() == 1 && !is_by_default) else {
        return reason;
    };
    let all = if ingress.shares() { ", which then counts for all of `group.name`" } else { "" };
    format!("{reason}; say `ssl-redirect: \"{port}\"` in place of the action and its paths{all}")
}

fn stays(found: Match, reason: &str) -> Match {
    found.saying(format!("it can't be turned into an Ingress of NGINX by itself: {reason}"))
}

/// Each path as the controller meant it. NGINX takes one that is neither Exact nor Prefix for a prefix.
/// <https://kubernetes.github.io/ingress-nginx/user-guide/ingress-path-matching/>
fn paths(ingress: &Ingress<'_>) -> Result<Vec<Edit>, String> {
    let mut edits = Vec::new();
    let all = Pattern::parse("spec.rules[].http.paths[]").map(|p| p.find(ingress.object.node));
    for (at, path) in all.unwrap_or_default() {
        let (kind, value) = path_of(ingress, path)?;
        let kind = match kind {
            PathKind::Exact => "Exact",
            PathKind::Prefix => "Prefix",
        };
        for (name, value) in [("path", value), ("pathType", kind)] {
            if path.text_at(&[name]) != Some(value) {
                let (path, key) = (at.clone(), name.to_owned());
                edits.push(Edit::Insert { path, key, value: value.into() });
            }
        }
    }
    Ok(edits)
}
