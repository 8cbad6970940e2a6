//! An Ingress of the AWS Load Balancer Controller as routes of a Gateway, which the first Ingress of its load
//! balancer makes with the listeners of all.
//!
//! Invariant: until there is a Gateway, or the first one makes it, the others stay: what they ask for would be missing
//! in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::ingress::{CLASS_ANNOTATION, Ingress, Listener, PREFIX, also};
use super::ingress_groups::Group;
use super::routes;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::facts::Name;
use crate::rules::inputs::IngressTarget;
use crate::rules::object::{Object, objects};
use crate::rules::path::{key, with};

/// That of Application Gateway for Containers.
pub(super) const GATEWAY_CLASS: &str = "azure-alb-external";
/// What one ReferenceGrant may let somebody read.
/// <https://gateway-api.sigs.k8s.io/api-types/referencegrant/>
const OF_GRANT: usize = 16;

/// The conversion.
pub(super) fn convert(look: &Look<'_>, ingress: &Ingress<'_>, mut found: Match) -> Match {
    let mut new = match routed(look, ingress, &mut found) {
        Ok(new) => new,
        Err(reason) => return found.saying(reason),
    };
    if ingress.settings.only_redirects() {
        found =
            also(found, "it listens on no HTTPS, where plain requests are sent: only that becomes a route");
    }
    new.extend(routes::health_checks(look, ingress));
    found.effects.drop = true;
    found.effects.add = new;
    found
}

/// What it becomes without policies, or why it stays.
fn routed(look: &Look<'_>, ingress: &Ingress<'_>, found: &mut Match) -> Result<Vec<Value>, String> {
    let (name, group) = (ingress.name(), ingress.group(look.facts));
    let owner = group.first.clone().unwrap_or_else(|| name.clone());
    let called = gateway_name(ingress.setting("group.name").unwrap_or(&owner.1));
    let there = match ingress.setting("group.name") {
        Some(_) => look.facts.ingresses.gateway(&called).cloned(),
        None => {
            Some((owner.0.clone(), called.clone())).filter(|own| look.facts.ingresses.has("Gateway", own))
        }
    };
    if let Some(gateway) = there {
        return made(look, ingress, group, (&gateway, false), found);
    }
    if group.first.is_none() {
        return Err("it stays: only a chart could make its Gateway, and templates are not rewritten; render the chart \
                    (`helm template`) and give what was rendered"
            .to_owned());
    }
    let gateway = (owner.0.clone(), called);
    if owner != name {
        await_owner(look, &owner, group, &gateway, found)?;
    }
    made(look, ingress, group, (&gateway, owner == name), found)
}

/// Whether an Ingress of the name becomes routes, with the inputs that there are.
pub(super) fn is_converted(look: &Look<'_>, name: &Name) -> bool {
    look.facts.ingresses.named(name).flat_map(objects).any(|object| {
        let look = Look { object: &object, facts: look.facts, inputs: look.inputs };
        let Some(ingress) = Ingress::of(&object, look.facts) else { return false };
        let (ingress, mut found) = (ingress.redirected(look.facts), Match::at(Vec::new()));
        ingress.kept(look.facts, look.inputs.ingress).is_none()
            && routed(&look, &ingress, &mut found).is_ok()
            && found.needs.is_empty()
    })
}

/// The routes, with the Gateway where the Ingress makes it, or why there can be none.
fn made(
    look: &Look<'_>,
    ingress: &Ingress<'_>,
    group: &Group,
    (gateway, makes_it): (&Name, bool),
    found: &mut Match,
) -> Result<Vec<Value>, String> {
    let mut new = Vec::new();
    if makes_it {
        let object = gateway_object(look, ingress, group, gateway, found);
        new.extend(
            object.map_err(|reason| format!("it can't be turned into a Gateway by itself: {reason}"))?,
        );
    }
    let routes = routes::routes(look, ingress, gateway, makes_it);
    new.extend(routes.map_err(|reason| format!("it can't be turned into routes by itself: {reason}"))?);
    Ok(new)
}

/// Notes what the Ingress needs that makes the Gateway, or says why it stays.
fn await_owner(
    look: &Look<'_>,
    owner: &Name,
    group: &Group,
    gateway: &Name,
    found: &mut Match,
) -> Result<(), String> {
    for object in look.facts.ingresses.named(owner).flat_map(objects) {
        let look = Look { object: &object, facts: look.facts, inputs: look.inputs };
        let Some(ingress) = Ingress::of(&object, look.facts) else { continue };
        let made = made(&look, &ingress.redirected(look.facts), group, (gateway, true), found);
        made.map_err(|reason| {
            let (namespace, name) = owner;
            let of = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            format!("it stays with Ingress {of}{name}, which makes the Gateway of both: {reason}")
        })?;
    }
    Ok(())
}

/// A group's name as the name of an object.
fn gateway_name(group: &str) -> String {
    group.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "-")
}

/// The Gateway with what it may read elsewhere, where its inputs are there, or why there can be none.
fn gateway_object(
    look: &Look<'_>,
    ingress: &Ingress<'_>,
    group: &Group,
    gateway: &Name,
    found: &mut Match,
) -> Result<Vec<Value>, String> {
    let (namespace, name) = gateway;
    let ports = |word: &str| -> Vec<u16> {
        let lines = group.asked.iter().filter_map(|line| line.strip_prefix(word));
        lines.filter_map(|line| line.split(' ').next_back()?.parse().ok()).collect()
    };
    let (plain, https) = (ports("http-"), ports("https-"));
    let secrets = if https.is_empty() { BTreeSet::new() } else { secrets_of(look, group, namespace, found)? };
    let mut listeners = Vec::new();
    let from = if ingress.setting("group.name").is_some() { "All" } else { "Same" };
    for (is_https, ports) in [(false, plain), (true, https)] {
        for port in ports {
            let listener = Listener { is_https, port };
            let mut object = json!({ "name": listener.name(), "port": port,
                "protocol": if is_https { "HTTPS" } else { "HTTP" },
                "allowedRoutes": { "namespaces": { "from": from } } });
            if is_https {
                let reference = |(of, secret): &Name| {
                    let mut reference = json!({ "group": "", "kind": "Secret", "name": secret });
                    if of != namespace {
                        reference["namespace"] = of.as_str().into();
                    }
                    reference
                };
                let refs: Vec<Value> = secrets.iter().map(reference).collect();
                object["tls"] = json!({ "mode": "Terminate", "certificateRefs": refs });
            }
            listeners.push(object);
        }
    }
    let Some(balancer) = found.need(look.inputs.single("application-load-balancer")) else {
        return Ok(Vec::new());
    };
    let (balancer_namespace, balancer_name) = balancer.split_once('/').unwrap_or((namespace, &balancer));
    let mut metadata = metadata(name, namespace, look.object, &is_for_gateway);
    metadata["annotations"]["alb.networking.azure.io/alb-namespace"] = balancer_namespace.into();
    metadata["annotations"]["alb.networking.azure.io/alb-name"] = balancer_name.into();
    let mut new =
        vec![json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": metadata,
        "spec": { "gatewayClassName": GATEWAY_CLASS, "listeners": listeners } })];
    new.extend(grants(gateway, &secrets));
    Ok(new)
}

/// The Secrets of all listeners with TLS, or why they can't be said.
fn secrets_of(
    look: &Look<'_>,
    group: &Group,
    namespace: &str,
    found: &mut Match,
) -> Result<BTreeSet<Name>, String> {
    let of = |word: &'static str| group.asked.iter().filter_map(move |line| line.strip_prefix(word));
    let mut secrets = BTreeSet::new();
    for (of, secret) in of("secret ").filter_map(|secret| secret.split_once('/')) {
        if of.is_empty() != namespace.is_empty() {
            let way = if look.facts.ingresses.is_of_chart_without_namespace(group, secret) {
                "a chart names it and no namespace: render the chart (`helm template -n`), say its namespace in what was \
                 rendered, and give that"
            } else {
                "say the namespace in each Ingress of the load balancer"
            };
            return Err(format!(
                "nobody knows whether Secret `{secret}` is in the namespace of the Gateway; {way}"
            ));
        }
        secrets.insert((of.to_owned(), secret.to_owned()));
    }
    // Where no certificate is said, AWS finds one by the host; here it must be named.
    for key in of("certificate ").chain(of("host ")) {
        let secret = found.need(look.inputs.entry("certificates", key));
        secrets.extend(secret.map(|secret| (namespace.to_owned(), secret)));
    }
    // The API server takes no listener with TLS and without a certificate.
    if secrets.is_empty() && found.needs.is_empty() {
        return Err("no Ingress of its load balancer that is among the objects says which certificate it has on HTTPS; \
                    give the one that does too, or name a Secret in `tls`"
            .to_owned());
    }
    Ok(secrets)
}

/// What lets the Gateway read Secrets of other namespaces.
fn grants((namespace, name): &Name, secrets: &BTreeSet<Name>) -> Vec<Value> {
    let mut by_namespace: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (of, secret) in secrets.iter().filter(|(of, _)| of != namespace) {
        let to = json!({ "group": "", "kind": "Secret", "name": secret });
        by_namespace.entry(of).or_default().push(to);
    }
    let parts = by_namespace
        .iter()
        .flat_map(|(of, all)| all.chunks(OF_GRANT).enumerate().map(move |(at, to)| (of, at, to)));
    let from = json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace }]);
    parts
        .map(|(of, at, to)| {
            json!({ "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
                "metadata": { "name": routes::numbered(name, at), "namespace": of },
                "spec": { "from": from, "to": to } })
        })
        .collect()
}

/// Annotations that are read at one kind of object only.
/// <https://cert-manager.io/docs/usage/gateway/>
const CERTIFICATES: [&str; 2] = ["cert-manager.io/", "acme.cert-manager.io/"];
/// <https://kubernetes-sigs.github.io/external-dns/latest/docs/sources/gateway-api/>: `target` is read at
/// the Gateway, all others at its routes.
const RECORDS: [&str; 2] = ["external-dns.alpha.kubernetes.io/", "external-dns.kubernetes.io/"];
/// What is said of the Ingress itself.
const OF_INGRESS: [&str; 2] = [CLASS_ANNOTATION, "kubectl.kubernetes.io/last-applied-configuration"];

fn is_of_certificates(annotation: &str) -> bool {
    CERTIFICATES.iter().any(|prefix| annotation.starts_with(prefix))
}

fn of_records(annotation: &str) -> Option<&str> {
    RECORDS.iter().find_map(|prefix| annotation.strip_prefix(prefix))
}

/// Whether only a Gateway is looked at for the annotation.
pub(super) fn is_only_for_gateway(annotation: &str) -> bool {
    is_of_certificates(annotation) || of_records(annotation) == Some("target")
}

fn is_for_gateway(annotation: &str) -> bool {
    is_only_for_gateway(annotation) || of_records(annotation).is_none()
}

/// Whether neither concerns a policy.
pub(super) fn is_for_any(annotation: &str) -> bool {
    !is_of_certificates(annotation) && of_records(annotation).is_none()
}

/// Name, namespace (where the Ingress has one), the Ingress' labels, and those of its annotations that are
/// others' and pass.
pub(super) fn metadata(name: &str, namespace: &str, of: &Object<'_>, passes: &dyn Fn(&str) -> bool) -> Value {
    let mut metadata = json!({ "name": name });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    if let Some(labels) = of.node.at(&["metadata", "labels"]).map(Node::to_value)
        && labels.as_object().is_some_and(|labels| !labels.is_empty())
    {
        metadata["labels"] = labels;
    }
    let annotations = of.node.at(&["metadata", "annotations"]).map(Node::to_value);
    let mut annotations = annotations.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    annotations
        .retain(|name, _| !name.starts_with(PREFIX) && !OF_INGRESS.contains(&name.as_str()) && passes(name));
    if !annotations.is_empty() {
        metadata["annotations"] = annotations.into();
    }
    metadata
}

/// What cert-manager needs and no Ingress says: it makes certificates only for listeners with a host name.
/// <https://cert-manager.io/docs/usage/gateway/>
pub(super) fn certificates(look: &Look<'_>) -> Vec<Match> {
    let (object, node) = (look.object, look.object.node);
    let is_open = match object.kind.as_str() {
        "Ingress" => {
            look.inputs.ingress == Some(IngressTarget::Gateway) && Ingress::of(object, look.facts).is_some()
        }
        "Gateway" => {
            let listeners = node.at(&["spec", "listeners"]).map_or(&[][..], Node::items);
            node.text_at(&["spec", "gatewayClassName"]) == Some(GATEWAY_CLASS)
                && listeners.iter().any(|l| l.get("tls").is_some() && l.get("hostname").is_none())
        }
        _ => true,
    };
    let annotations = node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    let of = annotations.iter().filter_map(|entry| entry.key.text()).find(|name| is_of_certificates(name));
    let path = vec![key("metadata"), key("annotations")];
    of.filter(|_| is_open).map(|name| Match::at(with(&path, name))).into_iter().collect()
}
