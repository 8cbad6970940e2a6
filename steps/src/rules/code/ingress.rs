//! An Ingress of the AWS Load Balancer Controller, read, and what it becomes.
//!
//! Ingresses of one `group.name` share a load balancer there and a Gateway here; the first of them by
//! name makes it, with the listeners of all.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{ingress_nginx, routes};
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::facts::{Facts, Name};
use crate::rules::inputs::IngressTarget;
use crate::rules::object::Object;
use crate::rules::path::key;

pub(super) const PREFIX: &str = "alb.ingress.kubernetes.io/";

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    pub is_https: bool,
    pub port: u16,
}

impl Listener {
    pub(super) fn name(self) -> String {
        format!("{}-{}", if self.is_https { "https" } else { "http" }, self.port)
    }
}

/// What an Ingress asks for.
pub(super) struct Ingress<'a> {
    pub object: &'a Object<'a>,
}

impl<'a> Ingress<'a> {
    /// `None` where it is not AWS's.
    pub(super) fn of(object: &'a Object<'a>) -> Option<Self> {
        if object.kind != "Ingress" || object.group != "networking.k8s.io" {
            return None;
        }
        let class = object.node.text_at(&["spec", "ingressClassName"]);
        let class = class
            .or_else(|| object.node.text_at(&["metadata", "annotations", "kubernetes.io/ingress.class"]));
        let ingress = Self { object };
        let is_aws = match class {
            Some(class) => class == "alb",
            None => ingress.settings().next().is_some(),
        };
        is_aws.then_some(ingress)
    }

    /// The controller's annotations.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.object.node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
        annotations
            .iter()
            .filter_map(|entry| Some((entry.key.text()?.strip_prefix(PREFIX)?, entry.value.text()?)))
    }

    pub(super) fn setting(&self, name: &str) -> Option<&'a str> {
        self.settings().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The load balancer: the group, or the Ingress itself.
    pub(super) fn group(&self) -> String {
        match self.setting("group.name") {
            Some(group) => group.to_owned(),
            None => format!("{}/{}", self.object.namespace, self.object.name),
        }
    }

    /// `[{"HTTP": 80}, {"HTTPS": 443}]`; without: HTTPS where there is a certificate, else HTTP.
    pub(super) fn listeners(&self) -> BTreeSet<Listener> {
        let mut found = BTreeSet::new();
        let given: Option<Vec<Map<String, Value>>> =
            self.setting("listen-ports").and_then(|text| serde_json::from_str(text).ok());
        for (protocol, port) in given.into_iter().flatten().flatten() {
            let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
            found.extend(port.map(|port| Listener { is_https: protocol == "HTTPS", port }));
        }
        if found.is_empty() {
            let is_https = self.setting("certificate-arn").is_some();
            found.insert(Listener { is_https, port: if is_https { 443 } else { 80 } });
        }
        if let Some(port) = self.redirect() {
            found.insert(Listener { is_https: true, port });
        }
        found
    }

    /// The port that plain requests are sent to.
    pub(super) fn redirect(&self) -> Option<u16> {
        let set = self.setting("ssl-redirect").and_then(|port| port.parse().ok());
        set.or_else(|| {
            // The older way: an action that redirects everything.
            let action = self
                .settings()
                .find(|(name, _)| name.starts_with("actions.") && name.contains("redirect"))?;
            let action: Value = serde_json::from_str(action.1).ok()?;
            let redirect = action.get("redirectConfig").or_else(|| action.get("RedirectConfig"))?;
            let text = |name: &str, other: &str| {
                redirect.get(name).or_else(|| redirect.get(other)).and_then(Value::as_str)
            };
            let is_https = text("protocol", "Protocol") == Some("HTTPS");
            let whole = text("host", "Host").is_none() && text("path", "Path").is_none();
            (is_https && whole).then(|| text("port", "Port").and_then(|p| p.parse().ok()).unwrap_or(443))
        })
    }

    pub(super) fn certificates(&self) -> Vec<&'a str> {
        let arns = self.setting("certificate-arn").unwrap_or_default();
        arns.split(',').map(str::trim).filter(|arn| !arn.is_empty()).collect()
    }

    /// Secrets that the Ingress names itself.
    pub(super) fn tls_secrets(&self) -> Vec<&'a str> {
        let tls = self.object.node.at(&["spec", "tls"]).map_or(&[][..], Node::items);
        tls.iter().filter_map(|tls| tls.text_at(&["secretName"])).collect()
    }

    pub(super) fn hosts(&self) -> Vec<&'a str> {
        let rules = self.object.node.at(&["spec", "rules"]).map_or(&[][..], Node::items);
        rules.iter().filter_map(|rule| rule.text_at(&["host"])).collect()
    }
}

/// Takes an Ingress into the facts of its group.
pub(crate) fn gather(object: &Object<'_>, facts: &mut Facts) {
    let Some(ingress) = Ingress::of(object) else { return };
    let name: Name = (object.namespace.clone(), object.name.clone());
    let group = ingress.group();
    let first = facts.gateways.entry(group.clone()).or_insert_with(|| name.clone());
    if name < *first {
        *first = name;
    }
    let asked = facts.listeners.entry(group).or_default();
    asked.extend(ingress.listeners().into_iter().map(|l| format!("{} {}", l.name(), l.port)));
    asked.extend(ingress.certificates().into_iter().map(|arn| format!("certificate {arn}")));
    asked.extend(ingress.tls_secrets().into_iter().map(|secret| format!("secret {secret}")));
    if ingress.certificates().is_empty() && ingress.tls_secrets().is_empty() {
        asked.extend(ingress.hosts().into_iter().map(|host| format!("host {host}")));
    }
}

/// The rule.
pub(super) fn convert(look: &Look<'_>) -> Vec<Match> {
    let Some(ingress) = Ingress::of(look.object) else { return Vec::new() };
    let count = ingress.settings().count();
    let found = Match::at(vec![key("spec"), key("ingressClassName")])
        .saying(format!("Ingress of the AWS Load Balancer Controller with {count} of its annotations"));
    let converted = match look.inputs.ingress {
        None => {
            let mut found = found;
            found.needs.push("rewrite.ingress".to_owned());
            found
        }
        Some(IngressTarget::Gateway) => gateway(look, &ingress, found),
        Some(IngressTarget::Nginx) => ingress_nginx::convert(look, &ingress, found),
    };
    vec![converted]
}

fn gateway(look: &Look<'_>, ingress: &Ingress<'_>, mut found: Match) -> Match {
    let object = look.object;
    let group = ingress.group();
    let name = (object.namespace.clone(), object.name.clone());
    let owner = look.facts.gateways.get(&group).cloned().unwrap_or_else(|| name.clone());
    let gateway = (owner.0.clone(), gateway_name(ingress.setting("group.name").unwrap_or(&owner.1)));
    let mut new = Vec::new();
    if owner == name {
        new.extend(gateway_object(look, ingress, &gateway, &mut found));
    }
    match routes::routes(look, ingress, &gateway) {
        Ok(routes) => new.extend(routes),
        Err(reason) => return found.saying(format!("it can't be turned into routes by itself: {reason}")),
    }
    new.extend(routes::health_checks(ingress));
    found.effects.drop = true;
    found.effects.add = new;
    found
}

/// A group's name as the name of an object.
fn gateway_name(group: &str) -> String {
    group.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "-")
}

fn gateway_object(
    look: &Look<'_>,
    ingress: &Ingress<'_>,
    (namespace, name): &Name,
    found: &mut Match,
) -> Option<Value> {
    let group = ingress.group();
    let asked = look.facts.listeners.get(&group).cloned().unwrap_or_default();
    let of = |word: &str| -> Vec<String> {
        asked.iter().filter_map(|a| a.strip_prefix(word)).map(str::to_owned).collect()
    };
    let mut secrets: BTreeSet<String> = of("secret ").into_iter().collect();
    for arn in of("certificate ") {
        secrets.extend(found.need(look.inputs.entry("certificates", &arn)));
    }
    let mut listeners = Vec::new();
    let from = if ingress.setting("group.name").is_some() { "All" } else { "Same" };
    for (is_https, lines) in [(false, of("http-")), (true, of("https-"))] {
        for line in lines {
            let port: u16 = line.split(' ').next_back()?.parse().ok()?;
            let listener = Listener { is_https, port };
            let mut object = json!({ "name": listener.name(), "port": port,
                "protocol": if is_https { "HTTPS" } else { "HTTP" },
                "allowedRoutes": { "namespaces": { "from": from } } });
            if is_https {
                if secrets.is_empty() {
                    // AWS finds a certificate by the hosts; here it must be named.
                    for host in of("host ") {
                        secrets.extend(found.need(look.inputs.entry("certificates", &host)));
                    }
                }
                let refs: Vec<Value> = secrets
                    .iter()
                    .map(|secret| json!({ "group": "", "kind": "Secret", "name": secret }))
                    .collect();
                object["tls"] = json!({ "mode": "Terminate", "certificateRefs": refs });
            }
            listeners.push(object);
        }
    }
    let balancer = found.need(look.inputs.single("application-load-balancer"))?;
    let (balancer_namespace, balancer_name) = balancer.split_once('/').unwrap_or((namespace, &balancer));
    let mut metadata = metadata(name, namespace, look.object);
    metadata["annotations"] = json!({ "alb.networking.azure.io/alb-namespace": balancer_namespace,
        "alb.networking.azure.io/alb-name": balancer_name });
    Some(json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": metadata,
        "spec": { "gatewayClassName": "azure-alb-external", "listeners": listeners } }))
}

/// Name, namespace (where the Ingress has one) and the Ingress' labels.
pub(super) fn metadata(name: &str, namespace: &str, of: &Object<'_>) -> Value {
    let mut metadata = json!({ "name": name });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    if let Some(labels) = of.node.at(&["metadata", "labels"]).map(Node::to_value)
        && labels.as_object().is_some_and(|labels| !labels.is_empty())
    {
        metadata["labels"] = labels;
    }
    metadata
}
