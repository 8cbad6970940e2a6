//! Ingresses of all objects together: whose class is AWS's, which share a load balancer, and which of
//! them makes what they share. Pure.
//!
//! Invariants: nothing is decided before everything was gathered; what a class says of all its Ingresses
//! counts more than what an Ingress says, as with the controller; a load balancer is public only where
//! every Ingress that says something says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::certificates::{hosts_without_secret, tls_secrets_of};
use super::ingress::{PREFIX, Settings, class_of, hosts_of, is_ingress, own_settings};
use super::ingress_actions;
use super::ingress_elsewhere::{Other, Others};
use super::ingress_guards::{Guard, Hosts, Keeps};
use super::routes::services_of;
use crate::rules::document::Node;
use crate::rules::facts::{Name, Named};
use crate::rules::object::Object;

/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/ingress_class/>
/// and <https://docs.aws.amazon.com/eks/latest/userguide/auto-configure-alb.html>
const CONTROLLERS: [&str; 2] = ["ingress.k8s.aws/alb", "eks.amazonaws.com/alb"];
/// The class of the controller where no object says more.
pub(super) const CLASS: &str = "alb";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Settings of a load balancer, whichever of its Ingresses says them, that keep somebody out, and the
/// rule that tells a person. The merge behaviour is "exclusive":
/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/>
const OF_BALANCER: [(&str, &str); 9] = [
    ("inbound-cidrs", "EKS-NET-004"),
    ("security-groups", "EKS-NET-004"),
    ("security-group-prefix-lists", "EKS-NET-004"),
    ("prefix-list-ids", "EKS-NET-004"),
    ("wafv2-acl-arn", "EKS-NET-006"),
    ("wafv2-acl-name", "EKS-NET-006"),
    ("waf-acl-id", "EKS-NET-006"),
    ("shield-advanced-protection", "EKS-NET-006"),
    ("mutual-authentication", "EKS-NET-007"),
];
/// The same of the routes of one Ingress, by how they begin.
const OF_ROUTES: [(&str, &str); 4] = [
    ("auth-", "EKS-NET-007"),
    ("jwt-validation", "EKS-NET-007"),
    ("conditions.", "EKS-NET-009"),
    ("transforms.", "EKS-NET-009"),
];

/// What else is said of a load balancer by one of its Ingresses for all of them.
const FOR_ALL: [&str; 3] = ["scheme", "group.name", "ssl-redirect"];

/// Whether a class with the controller is one of AWS.
pub(crate) fn is_controller(name: &str) -> bool {
    CONTROLLERS.contains(&name)
}

fn is_of_balancer(setting: &str) -> bool {
    OF_BALANCER.iter().any(|(name, _)| *name == setting)
}

fn is_of_routes(setting: &str) -> bool {
    OF_ROUTES.iter().any(|(start, _)| setting.starts_with(start))
}

/// The rule that tells a person of a setting which no conversion may lose.
pub(super) fn rule_of(setting: &str) -> Option<&'static str> {
    let of_balancer = OF_BALANCER.iter().find(|(name, _)| *name == setting);
    of_balancer
        .or_else(|| OF_ROUTES.iter().find(|(start, _)| setting.starts_with(start)))
        .map(|(_, rule)| *rule)
}

/// The class that an Ingress names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class<'a> {
    /// By the older annotation, which names no object.
    Annotation(&'a str),
    /// By name.
    Named(&'a str),
    /// None.
    Default,
}

/// What is known of a class without an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Classes {
    /// People wrote the objects down: the chart of the controller makes its class, which says nothing more.
    #[default]
    Written,
    /// The objects were read from a cluster, with the classes that they name and the default one.
    Read,
    /// They were read from a cluster, without classes.
    Unread,
}

/// What is not among the objects and may keep somebody out of an Ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking<'a> {
    Class(&'a str),
    DefaultClass,
    /// Of the class.
    Params(&'a str),
    /// Others of the group.
    Others(&'a str),
}

impl std::fmt::Display for Lacking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Class(name) => write!(f, "what its IngressClass `{name}` says isn't known; give it too"),
            Self::DefaultClass => f.write_str("what the default IngressClass says isn't known; give it too"),
            Self::Params(name) => {
                write!(f, "what IngressClassParams `{name}` of its class say isn't known; give them too")
            }
            Self::Others(name) => write!(
                f,
                "what Ingresses elsewhere with the same load balancer (`group.name: {name}`) say isn't known; let \
                 Ingresses of all namespaces and IngressClasses be read and give the whole export with this one in it, or \
                 take `group.name` out"
            ),
        }
    }
}

#[derive(Debug, Clone)]
struct IngressClass {
    is_aws: bool,
    /// Group and name of its IngressClassParams.
    params: Option<Name>,
}

/// An Ingress, as it was gathered.
#[derive(Debug, Clone)]
struct Asked {
    name: Name,
    node: Arc<Node>,
    /// Whether a chart makes it, whose templates are not rewritten: nothing is made of it.
    is_of_chart: bool,
    annotation: Option<String>,
    class: Option<String>,
    own: Vec<(String, String)>,
    /// Those that it names no Secret for.
    hosts: Vec<String>,
    /// Those of its rules.
    routed: Vec<String>,
    tls_secrets: Vec<String>,
    services: Vec<String>,
}

/// What shares a load balancer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// The first Ingress by name that can be converted, of those that no chart makes: it makes the Gateway.
    pub first: Option<Name>,
    /// Ports, redirect and certificates that its Ingresses ask for together.
    pub asked: BTreeSet<String>,
    /// The port of HTTPS to which all of it sends plain requests, whichever of its Ingresses says so.
    pub redirect: Option<String>,
    /// Hosts for which one of its Ingresses names a Secret. Which hosts an ARN is for nobody says.
    certified: BTreeSet<String>,
    schemes: BTreeSet<String>,
    members: BTreeSet<Name>,
    /// What keeps somebody out of all of it, and which Ingresses say so.
    closing: BTreeMap<String, BTreeSet<Name>>,
    /// What keeps somebody out of the hosts of one of its Ingresses.
    guards: Vec<Guard>,
}

/// A group that nobody was gathered for: inside the network.
static NOBODY: Group = Group {
    first: None,
    asked: BTreeSet::new(),
    redirect: None,
    certified: BTreeSet::new(),
    schemes: BTreeSet::new(),
    members: BTreeSet::new(),
    closing: BTreeMap::new(),
    guards: Vec::new(),
};

impl Group {
    /// Whether its load balancer has no public address: the default.
    pub(super) fn is_internal(&self) -> bool {
        self.schemes.len() != 1 || !self.schemes.contains("internet-facing")
    }

    /// Whether any of its Ingresses says where it is to be reached from.
    pub(super) fn has_scheme(&self) -> bool {
        !self.schemes.is_empty()
    }

    /// Whether one of its Ingresses names a Secret for the host, or has AWS find a certificate for it.
    pub(super) fn certifies(&self, host: &str) -> bool {
        self.certified.contains(host) || self.asked.contains(&format!("host {host}"))
    }

    /// Whether each of its Ingresses says `setting`.
    pub(super) fn all_say(&self, setting: &str) -> bool {
        self.closing.get(setting).is_some_and(|by| *by == self.members)
    }

    /// Takes what one of its Ingresses says for all of them, and for its hosts.
    fn take(&mut self, name: &Name, settings: &Settings<'_>, closing: &BTreeSet<String>, hosts: &Hosts) {
        if self.redirect.is_none() {
            self.redirect = settings.ssl_redirect().map(|port| port.to_string());
        }
        self.members.insert(name.clone());
        self.schemes.extend(settings.get("scheme").map(str::to_owned));
        for (setting, _) in settings.iter().filter(|(setting, _)| is_of_balancer(setting)) {
            self.closing.entry(setting.to_owned()).or_default().insert(name.clone());
        }
        let of_routes = settings.iter().find(|(setting, _)| is_of_routes(setting));
        let setting = of_routes.map(|(setting, _)| Keeps::Setting(setting.to_owned()));
        let action = closing.first().cloned().map(Keeps::Action);
        self.guards.extend(setting.into_iter().chain(action).map(|what| Guard::new(name, what, hosts)));
    }

    /// What keeps somebody out of all of it, and the first Ingress that says so.
    pub(super) fn closing(&self) -> impl Iterator<Item = (&str, &Name)> {
        self.closing.iter().filter_map(|(setting, by)| Some((setting.as_str(), by.first()?)))
    }

    /// What keeps somebody out of one of the hosts.
    pub(super) fn guard(&self, hosts: &Hosts) -> Option<&Guard> {
        self.guards.iter().find(|guard| guard.is_for(hosts))
    }
}

#[derive(Debug, Clone, Default)]
struct Shared {
    groups: BTreeMap<String, Group>,
    /// The Ingresses of a Service of which each or the Service says how it is probed: the first that is converted makes the
    /// policy.
    probes: BTreeMap<Name, BTreeSet<Name>>,
}

impl Shared {
    /// Takes an Ingress that is not among the objects: it makes nothing of what is shared.
    fn take(&mut self, other: &Other) {
        let own = other.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (settings, name) = (Settings::of(own, &[]), other.full_name());
        let group = self.groups.entry(settings.group(&name)).or_default();
        group.take(&name, &settings, &other.closing, &other.hosts);
    }
}

/// Every Ingress, with what is around it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ingresses {
    /// Set before anything is asked.
    pub known: Classes,
    /// Those that are not among the objects. Set before anything is asked.
    pub others: Others,
    classes: BTreeMap<String, IngressClass>,
    default: Option<String>,
    /// What IngressClassParams say, as annotations would, by group and name.
    params: BTreeMap<Name, Vec<(String, String)>>,
    asked: Vec<Asked>,
    /// Services that ask for a log-in themselves.
    logins: BTreeSet<Name>,
    /// What Services say.
    services: Named<Vec<(String, String)>>,
    /// Gateways and policies that are there already.
    made: BTreeSet<(&'static str, Name)>,
    shared: OnceLock<Shared>,
}

impl Ingresses {
    /// Takes an object.
    pub(crate) fn take(&mut self, object: &Object<'_>) {
        let node = object.node;
        let name: Name = (object.namespace.clone(), object.name.clone());
        match object.kind.as_str() {
            "Ingress" if is_ingress(object) => self.asked.push(asked(object, name)),
            "IngressClass" => {
                let controller = node.text_at(&["spec", "controller"]).unwrap_or_default();
                let params = node.at(&["spec", "parameters"]).map(|params| {
                    let text = |key: &str| params.text_at(&[key]).unwrap_or_default().to_owned();
                    (text("apiGroup"), text("name"))
                });
                if node.text_at(&["metadata", "annotations", DEFAULT]) == Some("true") {
                    self.default = Some(object.name.clone());
                }
                let class = IngressClass { is_aws: is_controller(controller), params };
                self.classes.insert(object.name.clone(), class);
            }
            "IngressClassParams" => {
                let settings = node.get("spec").map(settings_of_params).unwrap_or_default();
                self.params.insert((object.group.clone(), object.name.clone()), settings);
            }
            "Service" => {
                let own = own_settings(node);
                if own.iter().any(|(setting, _)| setting.starts_with("auth-")) {
                    self.logins.insert(name);
                }
                let own = own.into_iter().map(|(setting, value)| (setting.to_owned(), value.to_owned()));
                self.services.insert(&object.namespace, &object.name, own.collect());
            }
            "Gateway"
                if node.text_at(&["spec", "gatewayClassName"]) == Some(super::gateway::GATEWAY_CLASS) =>
            {
                self.made.insert(("Gateway", name));
            }
            "HealthCheckPolicy" => {
                self.made.insert(("HealthCheckPolicy", name));
            }
            _ => return,
        }
        self.shared = OnceLock::new();
    }

    /// Says of those that were taken so far that charts make them.
    pub(crate) fn are_of_charts(&mut self) {
        self.asked.iter_mut().for_each(|asked| asked.is_of_chart = true);
        self.shared = OnceLock::new();
    }

    /// Whether a controller of AWS serves an Ingress of the class.
    pub(super) fn is_aws(&self, class: Class<'_>, has_settings: bool) -> bool {
        let known = |name: &str| self.classes.get(name).map(|class| class.is_aws);
        match class {
            Class::Annotation(name) => name == CLASS || known(name) == Some(true),
            Class::Named(name) => known(name).unwrap_or(name == CLASS),
            Class::Default => has_settings || self.default.as_deref().and_then(known) == Some(true),
        }
    }

    /// Whether the object of the class is there.
    pub(super) fn has_class(&self, name: &str) -> bool {
        self.classes.contains_key(name)
    }

    fn params_of(&self, class: Class<'_>) -> Option<&Name> {
        let name = match class {
            Class::Annotation(_) => return None,
            Class::Named(name) => name,
            Class::Default => self.default.as_deref()?,
        };
        self.classes.get(name).filter(|class| class.is_aws)?.params.as_ref()
    }

    /// What the class says of all its Ingresses.
    pub(super) fn given(&self, class: Class<'_>) -> &[(String, String)] {
        self.params_of(class).and_then(|params| self.params.get(params)).map_or(&[], Vec::as_slice)
    }

    /// The class, or the IngressClassParams that it names, where they are not among the objects: nobody
    /// knows whether they keep somebody out.
    pub(super) fn lacking<'a>(&'a self, class: Class<'a>) -> Option<Lacking<'a>> {
        let lacking = match class {
            // The controller looks at no object then.
            Class::Annotation(_) => return None,
            Class::Named(name) => (!self.has_class(name)).then_some(Lacking::Class(name)),
            Class::Default => (self.known == Classes::Unread).then_some(Lacking::DefaultClass),
        };
        if lacking.is_some() {
            return lacking.filter(|_| self.known != Classes::Written);
        }
        let params = self.params_of(class)?;
        (!self.params.contains_key(params)).then_some(Lacking::Params(&params.1))
    }

    /// The group of an Ingress, where others may be in it that nobody knows.
    pub(super) fn lacks_others<'a>(&self, settings: &Settings<'a>) -> Option<Lacking<'a>> {
        settings.get("group.name").filter(|group| !self.others.knows(group)).map(Lacking::Others)
    }

    /// Whether an Ingress of that name is among the objects.
    pub(crate) fn is_among(&self, name: &Name) -> bool {
        self.asked.iter().any(|asked| asked.name == *name)
    }

    /// Names of the groups that Ingresses of AWS name, themselves or by their class.
    pub(crate) fn groups(&self) -> BTreeSet<String> {
        let settings = self.asked.iter().filter_map(|asked| self.settings(asked));
        settings.filter_map(|(_, settings)| settings.get("group.name").map(str::to_owned)).collect()
    }

    /// Ingresses of these groups, with what each says for all of its group, and of who may come to its hosts.
    pub(crate) fn of_groups(&self, groups: &BTreeSet<String>) -> BTreeSet<Other> {
        let all = self.asked.iter().filter_map(|asked| Some((asked, self.settings(asked)?.1)));
        let of = all.filter(|(_, settings)| settings.get("group.name").is_some_and(|of| groups.contains(of)));
        of.map(|(asked, settings)| {
            let closing = ingress_actions::closing(&asked.node, &settings);
            let said = settings.iter().filter(|(name, _)| FOR_ALL.contains(name) || rule_of(name).is_some());
            let settings = said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let (namespace, name) = asked.name.clone();
            Other { namespace, name, settings, closing, hosts: Hosts::of(&asked.node) }
        })
        .collect()
    }

    /// Whether one of the Services asks for a log-in.
    pub(super) fn has_login(&self, namespace: &str, services: &[String]) -> bool {
        self.logins.iter().any(|(of, name)| {
            services.contains(name) && (of == namespace || of.is_empty() || namespace.is_empty())
        })
    }

    /// What an Ingress asks for on the way to the pods of a Service: what that says goes before.
    /// <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/ingress/model_build_target_group.go>
    pub(super) fn of_service<'a>(
        &'a self,
        settings: &Settings<'a>,
        (namespace, name): &Name,
    ) -> Settings<'a> {
        let own = self.services.get(namespace, name).map_or(&[][..], Vec::as_slice);
        Settings::of(settings.iter(), own)
    }

    /// The group `key`.
    pub(super) fn group(&self, key: &str) -> &Group {
        self.shared().groups.get(key).unwrap_or(&NOBODY)
    }

    /// Each Ingress of the name that no chart makes: those of several folders may have one.
    pub(super) fn named(&self, name: &Name) -> impl Iterator<Item = &Node> {
        self.asked
            .iter()
            .filter(move |asked| asked.name == *name && !asked.is_of_chart)
            .map(|asked| &*asked.node)
    }

    /// Whether an Ingress of the group that names the Secret, and no namespace, is one that a chart makes.
    pub(super) fn is_of_chart_without_namespace(&self, group: &Group, secret: &str) -> bool {
        let mut of_group = self.asked.iter().filter(|asked| group.members.contains(&asked.name));
        of_group.any(|asked| {
            asked.is_of_chart && asked.name.0.is_empty() && asked.tls_secrets.iter().any(|of| of == secret)
        })
    }

    /// The Ingresses of which the first that is converted makes the policy of a Service.
    pub(super) fn probed_by(&self, service: &Name) -> impl Iterator<Item = &Name> {
        self.shared().probes.get(service).into_iter().flatten()
    }

    /// Whether `kind` of that name is there already.
    pub(super) fn has(&self, kind: &'static str, name: &Name) -> bool {
        self.made.contains(&(kind, name.clone()))
    }

    /// The Gateway called `name` that is there already, wherever it is.
    pub(super) fn gateway(&self, name: &str) -> Option<&Name> {
        self.made.iter().find(|(kind, there)| *kind == "Gateway" && there.1 == name).map(|(_, there)| there)
    }

    fn shared(&self) -> &Shared {
        self.shared.get_or_init(|| {
            let mut shared = Shared::default();
            for asked in &self.asked {
                self.share(asked, &mut shared);
            }
            if let Others::Read { all, .. } = &self.others {
                let elsewhere = all.iter().filter(|other| !self.is_among(&other.full_name()));
                elsewhere.for_each(|other| shared.take(other));
            }
            for asked in &self.asked {
                self.lead(asked, &mut shared);
            }
            for group in shared.groups.values_mut() {
                let Group { asked, certified, .. } = group;
                asked.retain(|line| line.strip_prefix("host ").is_none_or(|host| !certified.contains(host)));
            }
            shared
        })
    }

    /// The class of one of AWS's, and what both say.
    fn settings<'a>(&'a self, asked: &'a Asked) -> Option<(Class<'a>, Settings<'a>)> {
        let class = match (&asked.annotation, &asked.class) {
            (Some(name), _) => Class::Annotation(name),
            (None, Some(name)) => Class::Named(name),
            (None, None) => Class::Default,
        };
        let own = asked.own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let is_aws = self.is_aws(class, !asked.own.is_empty());
        is_aws.then(|| (class, Settings::of(own, self.given(class))))
    }

    fn share(&self, asked: &Asked, shared: &mut Shared) {
        let Some((_, settings)) = self.settings(asked) else { return };
        let group = shared.groups.entry(settings.group(&asked.name)).or_default();
        group.asked.extend(settings.listeners().into_iter().map(|l| format!("{} {}", l.name(), l.port)));
        let certificates = settings.certificates();
        group.asked.extend(certificates.iter().map(|arn| format!("certificate {arn}")));
        let namespace = &asked.name.0;
        group.asked.extend(asked.tls_secrets.iter().map(|secret| format!("secret {namespace}/{secret}")));
        if settings.finds_certificates() {
            group.asked.extend(asked.hosts.iter().map(|host| format!("host {host}")));
        }
        if settings.listens_on_https() {
            let has = |host: &&String| !asked.hosts.contains(host);
            group.certified.extend(asked.routed.iter().filter(has).cloned());
        }
        let hosts = Hosts::of(&asked.node);
        group.take(&asked.name, &settings, &ingress_actions::closing(&asked.node, &settings), &hosts);
        if self.has_login(&asked.name.0, &asked.services) {
            group.guards.push(Guard::new(&asked.name, Keeps::Service, &hosts));
        }
    }

    /// Notes the Ingress where it is the first that can be converted.
    fn lead(&self, asked: &Asked, shared: &mut Shared) {
        let Some((class, settings)) = self.settings(asked) else { return };
        let group = shared.groups.entry(settings.group(&asked.name)).or_default();
        let is_guarded = || group.guard(&Hosts::of(&asked.node)).is_some();
        // It stays an Ingress.
        let is_kept = settings.iter().any(|(name, _)| rule_of(name).is_some())
            || self.has_login(&asked.name.0, &asked.services)
            || self.lacking(class).is_some()
            || self.lacks_others(&settings).is_some()
            || settings.get("group.name").is_some() && is_guarded();
        if is_kept || asked.is_of_chart {
            return;
        }
        let earlier = |first: &Name| asked.name < *first;
        if group.first.as_ref().is_none_or(earlier) {
            group.first = Some(asked.name.clone());
        }
        for service in &asked.services {
            let service = (asked.name.0.clone(), service.clone());
            if self.of_service(&settings, &service).probes() {
                shared.probes.entry(service).or_default().insert(asked.name.clone());
            }
        }
    }
}

fn asked(object: &Object<'_>, name: Name) -> Asked {
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    let (annotation, class) = match class_of(object.node) {
        Class::Annotation(name) => (Some(name.to_owned()), None),
        Class::Named(name) => (None, Some(name.to_owned())),
        Class::Default => (None, None),
    };
    let own = own_settings(object.node).into_iter();
    Asked {
        name,
        is_of_chart: false,
        node: Arc::new(object.node.clone()),
        annotation,
        class,
        own: own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        hosts: owned(hosts_without_secret(object.node)),
        routed: owned(hosts_of(object.node)),
        tls_secrets: owned(tls_secrets_of(object.node)),
        services: services_of(object.node),
    }
}

/// What IngressClassParams say, under the names of annotations. The fields are those of
/// `elbv2.k8s.aws/v1beta1` and `eks.amazonaws.com/v1`.
/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/ingress_class/>
pub(super) fn settings_of_params(spec: &Node) -> Vec<(String, String)> {
    let list = |field: &str| {
        let items = spec.get(field)?.items();
        let texts: Vec<&str> = items.iter().filter_map(Node::text).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    };
    let text = |keys: &[&str]| spec.text_at(keys).map(str::to_owned);
    let attributes = spec.get("loadBalancerAttributes").map(|attributes| {
        let pair = |item: &Node| Some(format!("{}={}", item.text_at(&["key"])?, item.text_at(&["value"])?));
        attributes.items().iter().filter_map(pair).collect::<Vec<_>>().join(",")
    });
    let login = spec.get("authenticationConfiguration");
    let all = [
        ("scheme", text(&["scheme"])),
        ("group.name", text(&["group", "name"])),
        ("inbound-cidrs", list("inboundCIDRs")),
        ("security-group-prefix-lists", list("prefixListsIDs").or_else(|| list("PrefixListsIDs"))),
        ("wafv2-acl-arn", text(&["wafv2AclArn"])),
        ("wafv2-acl-name", text(&["wafv2AclName"])),
        ("auth-type", login.map(|login| login.text_at(&["type"]).unwrap_or("oidc").to_owned())),
        ("certificate-arn", list("certificateArn").or_else(|| list("certificateARNs"))),
        ("ssl-policy", text(&["sslPolicy"])),
        ("ssl-redirect", text(&["sslRedirectPort"])),
        ("load-balancer-attributes", attributes),
    ];
    let said = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    said.filter(|(_, value)| !value.is_empty()).collect()
}

/// The annotation of a setting.
pub(super) fn annotation(setting: &str) -> String {
    format!("{PREFIX}{setting}")
}
