//! An Ingress of the AWS Load Balancer Controller, read, and what it becomes.
//!
//! Ingresses of one `group.name` share a load balancer there and a Gateway here; the first of them by
//! name makes it, with the listeners of all. What keeps somebody out (a log-in, a WAF, addresses, a load
//! balancer without a public address) has no like that could be made by itself: such an Ingress stays as
//! it is until a person has taken that out of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::ingress_actions::{closing, https_port};
use super::ingress_groups::{
    CLASS, Class, Group, Lacking, annotation, is_controller, rule_of, settings_of_params,
};
use super::ingress_guards::{Hosts, Keeps};
use super::{gateway, ingress_nginx, routes};
use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::facts::{Facts, Name};
use crate::rules::inputs::IngressTarget;
use crate::rules::object::Object;
use crate::rules::path::{Path, key};

pub(super) const PREFIX: &str = "alb.ingress.kubernetes.io/";
pub(super) const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

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

/// Whether it is one at all.
pub(super) fn is_ingress(object: &Object<'_>) -> bool {
    object.kind == "Ingress" && object.group == "networking.k8s.io"
}

/// The annotation goes before the field, as with the controller.
pub(super) fn class_of(node: &Node) -> Class<'_> {
    let old = node.text_at(&["metadata", "annotations", CLASS_ANNOTATION]).map(Class::Annotation);
    let named = || node.text_at(&["spec", "ingressClassName"]).map(Class::Named);
    old.or_else(named).unwrap_or(Class::Default)
}

/// The controller's annotations.
pub(super) fn own_settings(node: &Node) -> Vec<(&str, &str)> {
    let annotations = node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    annotations
        .iter()
        .filter_map(|entry| Some((entry.key.text()?.strip_prefix(PREFIX)?, entry.value.text()?)))
        .collect()
}

/// The host of a rule. An empty one is none.
pub(super) fn host_of(rule: &Node) -> Option<&str> {
    rule.text_at(&["host"]).filter(|host| !host.is_empty())
}

pub(super) fn hosts_of(node: &Node) -> Vec<&str> {
    let rules = node.at(&["spec", "rules"]).map_or(&[][..], Node::items);
    rules.iter().filter_map(host_of).collect()
}

/// Whether a rule, or no rule, is for whatever host.
pub(super) fn is_for_any_host(node: &Node) -> bool {
    let rules = node.at(&["spec", "rules"]).map_or(&[][..], Node::items);
    rules.is_empty() || rules.iter().any(|rule| host_of(rule).is_none())
}

/// What an Ingress asks for, itself or by its class.
#[derive(Debug, Clone)]
pub(super) struct Settings<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Settings<'a> {
    /// What the class says goes before.
    pub(super) fn of(own: impl Iterator<Item = (&'a str, &'a str)>, given: &'a [(String, String)]) -> Self {
        let mut all: Vec<(&str, &str)> =
            own.filter(|(name, _)| !given.iter().any(|(given, _)| given == name)).collect();
        all.extend(given.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Self(all)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().copied()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The load balancer: the group, or the Ingress itself.
    pub(super) fn group(&self, (namespace, name): &Name) -> String {
        self.get("group.name").map_or_else(|| format!("{namespace}/{name}"), str::to_owned)
    }

    /// Whether they say how targets are probed.
    pub(super) fn probes(&self) -> bool {
        self.iter().any(|(name, _)| name.starts_with("healthcheck-") || name == "success-codes")
    }

    /// `[{"HTTP": 80}, {"HTTPS": 443}]`; without: HTTPS where there is a certificate, else HTTP.
    fn said_listeners(&self) -> BTreeSet<Listener> {
        let mut found = BTreeSet::new();
        let given: Option<Vec<Map<String, Value>>> =
            self.get("listen-ports").and_then(|text| serde_json::from_str(text).ok());
        for (protocol, port) in given.into_iter().flatten().flatten() {
            let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
            found.extend(port.map(|port| Listener { is_https: protocol == "HTTPS", port }));
        }
        if found.is_empty() {
            let is_https = self.get("certificate-arn").is_some();
            found.insert(Listener { is_https, port: if is_https { 443 } else { 80 } });
        }
        found
    }

    /// Those that are said, and the one that plain requests are sent to.
    pub(super) fn listeners(&self) -> BTreeSet<Listener> {
        let mut found = self.said_listeners();
        if let Some(port) = self.redirect() {
            found.insert(Listener { is_https: true, port });
        }
        found
    }

    /// Whether any listener takes TLS.
    pub(super) fn is_https(&self) -> bool {
        self.listeners().iter().any(|listener| listener.is_https)
    }

    /// Whether any listener that is said takes TLS. That plain requests are sent to one makes none.
    pub(super) fn listens_on_https(&self) -> bool {
        self.said_listeners().iter().any(|listener| listener.is_https)
    }

    /// Whether all that it does with plain requests, and with no others, is to send them to HTTPS.
    pub(super) fn only_redirects(&self) -> bool {
        self.redirect().is_some() && !self.listens_on_https()
    }

    /// Whether AWS finds certificates by the host names.
    /// <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/ingress/model_builder.go>
    pub(super) fn finds_certificates(&self) -> bool {
        self.certificates().is_empty() && self.listens_on_https()
    }

    /// Whether any listener takes plain requests.
    pub(super) fn is_plain(&self) -> bool {
        self.listeners().iter().any(|listener| !listener.is_https)
    }

    /// The port that plain requests to the load balancer are sent to.
    pub(super) fn ssl_redirect(&self) -> Option<u16> {
        self.get("ssl-redirect").and_then(|port| port.parse().ok())
    }

    /// The port that plain requests are sent to.
    pub(super) fn redirect(&self) -> Option<u16> {
        // The older way: an action that redirects everything.
        let is_redirect = |name: &str| name.starts_with("actions.") && name.contains("redirect");
        let mut actions = self.iter().filter(|(name, _)| is_redirect(name));
        self.ssl_redirect().or_else(|| actions.find_map(|(_, action)| https_port(action)))
    }

    pub(super) fn certificates(&self) -> Vec<&'a str> {
        let arns = self.get("certificate-arn").unwrap_or_default();
        arns.split(',').map(str::trim).filter(|arn| !arn.is_empty()).collect()
    }
}

/// An Ingress of AWS's.
pub(super) struct Ingress<'a> {
    pub object: &'a Object<'a>,
    pub settings: Settings<'a>,
}

impl<'a> Ingress<'a> {
    /// `None` where it is not AWS's.
    pub(super) fn of(object: &'a Object<'a>, facts: &'a Facts) -> Option<Self> {
        if !is_ingress(object) {
            return None;
        }
        let (class, own) = (class_of(object.node), own_settings(object.node));
        let is_aws = facts.ingresses.is_aws(class, !own.is_empty());
        is_aws.then(|| Self { object, settings: Settings::of(own.into_iter(), facts.ingresses.given(class)) })
    }

    /// With what another Ingress says of plain requests to the load balancer, as EKS-NET-051 writes it.
    pub(super) fn redirected(mut self, facts: &'a Facts) -> Self {
        let port = self.redirect_of_group(facts);
        self.settings.0.extend(port.map(|port| ("ssl-redirect", port)));
        self
    }

    /// The port that plain requests are sent to since another Ingress of the load balancer says so.
    fn redirect_of_group<'f>(&self, facts: &'f Facts) -> Option<&'f str> {
        let is_silent = self.shares() && self.setting("ssl-redirect").is_none();
        self.group(facts).redirect.as_deref().filter(|_| is_silent)
    }

    pub(super) fn setting(&self, name: &str) -> Option<&'a str> {
        self.settings.get(name)
    }

    pub(super) fn name(&self) -> Name {
        (self.object.namespace.clone(), self.object.name.clone())
    }

    pub(super) fn hosts(&self) -> Vec<&'a str> {
        hosts_of(self.object.node)
    }

    pub(super) fn group<'f>(&self, facts: &'f Facts) -> &'f Group {
        facts.ingresses.group(&self.settings.group(&self.name()))
    }

    /// Whether others may have the same load balancer.
    pub(super) fn shares(&self) -> bool {
        self.setting("group.name").is_some()
    }

    /// Whether its load balancer has no public address. One that it doesn't share is its own affair,
    /// whatever an Ingress of the same name in another folder says.
    fn is_internal(&self, group: &Group) -> bool {
        if self.shares() { group.is_internal() } else { self.setting("scheme") != Some("internet-facing") }
    }

    /// Where the class stands, or would.
    pub(super) fn class_path(&self) -> Path {
        match class_of(self.object.node) {
            Class::Annotation(_) => vec![key("metadata"), key("annotations"), key(CLASS_ANNOTATION)],
            Class::Named(_) | Class::Default => vec![key("spec"), key("ingressClassName")],
        }
    }

    /// Why it stays: what would be lost by a conversion, and keeps somebody out.
    pub(super) fn kept(&self, facts: &Facts, target: Option<IngressTarget>) -> Option<String> {
        let class = class_of(self.object.node);
        if let Some(lacking) =
            facts.ingresses.lacking(class).or_else(|| facts.ingresses.lacks_others(&self.settings))
        {
            return Some(lacking.to_string());
        }
        let group = self.group(facts);
        if self.is_internal(group) {
            return Some("its load balancer is inside the network (EKS-NET-002)".to_owned());
        }
        // NGINX has the like of this one, for each Ingress by itself.
        let is_like = |name: &str| {
            target == Some(IngressTarget::Nginx)
                && name == "inbound-cidrs"
                && (!self.shares() || group.all_say(name))
        };
        let own = self
            .settings
            .iter()
            .find_map(|(name, _)| Some((name, rule_of(name)?)).filter(|_| !is_like(name)));
        if let Some((name, rule)) = own {
            return Some(format!("`{name}` ({rule}) must be solved and taken out first"));
        }
        if facts.ingresses.has_login(&self.object.namespace, &routes::services_of(self.object.node)) {
            return Some(
                "the log-in that its Service asks for (EKS-NET-007) must be solved and taken out first"
                    .to_owned(),
            );
        }
        if let Some(action) = closing(self.object.node, &self.settings).pop_first() {
            return Some(format!("{} must be solved and taken out first", Keeps::Action(action)));
        }
        let closing = group.closing().find(|(name, _)| !is_like(name));
        let closing = closing.map(|(name, by)| (format!("`{name}`"), by, "the same load balancer"));
        let guard = || {
            let guard = group.guard(&Hosts::of(self.object.node))?;
            Some((guard.what.to_string(), &guard.by, "the same load balancer and a host of this one"))
        };
        let (what, by, shared) = closing.or_else(guard).filter(|_| self.shares())?;
        if !facts.ingresses.is_among(by) {
            return Some(format!(
                "{what} of Ingress {}/{}, with {shared}, must be solved; then export again, or take `group.name` out",
                by.0, by.1
            ));
        }
        Some(format!("{what} of Ingress {}, with {shared}, must be solved and taken out first", by.1))
    }
}

/// The rule.
pub(super) fn convert(look: &Look<'_>) -> Vec<Match> {
    let Some(ingress) = Ingress::of(look.object, look.facts) else { return Vec::new() };
    let count = ingress.settings.iter().count();
    let ingress = ingress.redirected(look.facts);
    let said = format!("Ingress of the AWS Load Balancer Controller with {count} of its annotations");
    let mut found = Match::at(ingress.class_path()).saying(said.clone());
    let target = look.inputs.ingress;
    if target.is_none() {
        found.needs.push("rewrite.ingress".to_owned());
    }
    if let Some(reason) = ingress.kept(look.facts, target) {
        return vec![found.saying(format!("{said}; it stays: {reason}"))];
    }
    vec![match target {
        None => found,
        Some(IngressTarget::Gateway) => gateway::convert(look, &ingress, found),
        Some(IngressTarget::Nginx) => ingress_nginx::convert(look, &ingress, found),
    }]
}

/// `found`, with more to say.
pub(super) fn also(mut found: Match, more: &str) -> Match {
    let said = found.message.take().unwrap_or_default();
    found.saying(format!("{said}; {more}"))
}

/// A load balancer inside the network, whether the Ingress says so or leaves it to the default.
pub(super) fn internal(look: &Look<'_>) -> Vec<Match> {
    let scheme = vec![key("metadata"), key("annotations"), key(annotation("scheme"))];
    let said = look.object.node.follow(&scheme).and_then(Node::text);
    let Some(ingress) = Ingress::of(look.object, look.facts) else {
        let is_said = said == Some("internal");
        return if is_said { vec![Match::at(scheme).found("internal")] } else { Vec::new() };
    };
    match ingress.setting("scheme") {
        Some("internet-facing") => Vec::new(),
        Some(other) if said == Some(other) => vec![Match::at(scheme).found(other)],
        Some(other) => vec![Match::at(ingress.class_path()).found(format!("scheme: {other}"))],
        // The class may say it. EKS-NET-001 tells what is not known.
        None if look.facts.ingresses.lacking(class_of(look.object.node)).is_some() => Vec::new(),
        None if look.facts.ingresses.lacks_others(&ingress.settings).is_some() => Vec::new(),
        None if !ingress.is_internal(ingress.group(look.facts)) => Vec::new(),
        None if ingress.shares() && ingress.group(look.facts).has_scheme() => vec![
            Match::at(ingress.class_path())
                .saying("another Ingress with the same load balancer says that it is inside the network"),
        ],
        None => vec![
            Match::at(ingress.class_path())
                .saying("no scheme is said, and the default is a load balancer inside the network"),
        ],
    }
}

/// An Ingress whose class of AWS has another name or says something of all its Ingresses: it says that
/// itself, since the class goes.
pub(super) fn class_settings(look: &Look<'_>) -> Vec<Match> {
    let Some(ingress) = Ingress::of(look.object, look.facts) else { return Vec::new() };
    let class = class_of(look.object.node);
    let own = own_settings(look.object.node);
    let given = look.facts.ingresses.given(class);
    let new: Vec<_> = given.iter().filter(|(n, v)| !own.contains(&(n.as_str(), v.as_str()))).collect();
    let is_called_so = match class {
        Class::Annotation(name) | Class::Named(name) => name == CLASS,
        Class::Default => !own.is_empty(),
    };
    if is_called_so && new.is_empty() {
        return Vec::new();
    }
    let mut found = Match::at(ingress.class_path());
    if let Class::Annotation(name) | Class::Named(name) = class {
        found = found.found(name);
    }
    if look.facts.ingresses.lacking(class).is_some() {
        return vec![found];
    }
    // A class by its annotation has no IngressClassParams that could say something else.
    let annotations = vec![key("metadata"), key("annotations")];
    if matches!(class, Class::Named(_)) {
        found = found.edit(Edit::Delete { path: vec![key("spec"), key("ingressClassName")] });
    }
    let class = (CLASS_ANNOTATION.to_owned(), CLASS.to_owned());
    let settings = new.into_iter().map(|(name, value)| (annotation(name), value.clone()));
    for (name, value) in std::iter::once(class).chain(settings) {
        found = found.edit(Edit::Insert { path: annotations.clone(), key: name, value: value.into() });
    }
    vec![found]
}

/// An Ingress that says nothing of plain requests, and whose load balancer sends them to HTTPS since another Ingress of
/// it says so: it says that itself, also where it stays and the other one goes.
pub(super) fn group_redirect(look: &Look<'_>) -> Vec<Match> {
    let Some(ingress) = Ingress::of(look.object, look.facts) else { return Vec::new() };
    let Some(port) = ingress.redirect_of_group(look.facts) else { return Vec::new() };
    let path = vec![key("metadata"), key("annotations")];
    vec![Match::at(ingress.class_path()).edit(Edit::Insert {
        path,
        key: annotation("ssl-redirect"),
        value: port.into(),
    })]
}

/// Annotations of the controller beside a class that is not among the objects.
pub(super) fn foreign_class(look: &Look<'_>) -> Vec<Match> {
    let (node, ingresses) = (look.object.node, &look.facts.ingresses);
    let (path, name) = match class_of(node) {
        Class::Annotation(name) => (vec![key("metadata"), key("annotations"), key(CLASS_ANNOTATION)], name),
        Class::Named(name) => (vec![key("spec"), key("ingressClassName")], name),
        Class::Default => return Vec::new(),
    };
    let is_known = ingresses.has_class(name) || name == CLASS || name.contains("azure");
    if is_known || own_settings(node).is_empty() {
        return Vec::new();
    }
    vec![Match::at(path).found(name)]
}

/// IngressClassParams that keep somebody out.
pub(super) fn class_params(look: &Look<'_>) -> Vec<Match> {
    let Some(spec) = look.object.node.get("spec") else { return Vec::new() };
    let keeps_out = |setting: &(String, String)| match setting.0.as_str() {
        "scheme" => setting.1 != "internet-facing",
        name => rule_of(name).is_some(),
    };
    let found =
        |(name, value): (String, String)| Match::at(vec![key("spec")]).found(format!("{name}: {value}"));
    settings_of_params(spec).into_iter().filter(keeps_out).map(found).collect()
}

/// The class itself. It stays where it names IngressClassParams that nobody has seen.
pub(super) fn class(look: &Look<'_>) -> Vec<Match> {
    let path = vec![key("spec"), key("controller")];
    let controller = look.object.node.follow(&path).and_then(Node::text).filter(|name| is_controller(name));
    let Some(controller) = controller else { return Vec::new() };
    let mut found = Match::at(path).found(controller);
    match look.facts.ingresses.lacking(Class::Named(&look.object.name)) {
        Some(Lacking::Params(params)) => {
            found = found.saying(format!(
                "Ingress class of the AWS Load Balancer Controller whose IngressClassParams `{params}` are not among the objects; give them too"
            ));
        }
        _ => found.effects.drop = true,
    }
    vec![found]
}
