//! Settings of load balancers that need some arithmetic.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::{key, with};
use crate::rules::set::RuleSet;

/// Azure's idle time-outs, in minutes.
/// <https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset>
const IDLE_MINUTES: std::ops::RangeInclusive<u64> = 4..=100;

/// A probe's interval in seconds and the failures it takes, each at least, and where none is said. Both
/// multiplied must be less than [`PROBE_SECONDS`], or the Service gets no load balancer.
/// <https://github.com/kubernetes-sigs/cloud-provider-azure/blob/master/pkg/provider/azure_loadbalancer_healthprobe.go>
const INTERVAL: (u64, u64) = (5, 5);
const FAILURES: (u64, u64) = (2, 2);
const PROBE_SECONDS: u64 = 120;

/// The default: the port that traffic goes to.
const TRAFFIC_PORT: &str = "traffic-port";

const PREFIX: &str = "service.beta.kubernetes.io/";
const AZURE_INTERNAL: &str = "azure-load-balancer-internal";
/// The older is the in-tree provider's, too, which takes everything but `false` and nothing for internal.
/// <https://github.com/kubernetes/cloud-provider-aws/blob/master/pkg/providers/v1/aws.go>
const SCHEMES: [&str; 2] = ["aws-load-balancer-scheme", "aws-load-balancer-internal"];
/// Classes, and values of `aws-load-balancer-type`, of the AWS Load Balancer Controller.
/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/nlb/>
const CLASSES: [&str; 2] = ["service.k8s.aws/nlb", "eks.amazonaws.com/nlb"];
const TYPES: [&str; 2] = ["external", "nlb-ip"];

/// Annotations of load balancers that other rules look at, as their paths name them.
static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
    let set = RuleSet::shipped();
    let name =
        |path: &String| Some(path.split_once(BALANCER)?.1.trim_end_matches(|c| "\"]".contains(c)).to_owned());
    set.rules().filter(|rule| rule.id != LEFT_OVER).flat_map(|rule| &rule.paths).filter_map(name).collect()
});
const BALANCER: &str = "service.beta.kubernetes.io/aws-load-balancer-";
const LEFT_OVER: &str = "EKS-NET-047";

fn annotation(name: &str) -> crate::rules::path::Path {
    vec![key("metadata"), key("annotations"), key(format!("service.beta.kubernetes.io/{name}"))]
}

/// Seconds become whole minutes, at least four.
pub(super) fn idle_timeout(look: &Look<'_>) -> Vec<Match> {
    let path = annotation("aws-load-balancer-connection-idle-timeout");
    let Some(text) = look.object.node.follow(&path).and_then(Node::text) else { return Vec::new() };
    let mut found = Match::at(path.clone()).found(text);
    if let Ok(seconds) = text.parse::<u64>() {
        let minutes = seconds.div_ceil(60).clamp(*IDLE_MINUTES.start(), *IDLE_MINUTES.end());
        found = found.edit(Edit::Set { path: path.clone(), value: minutes.to_string().into() });
        found = found.edit(Edit::Rename {
            path,
            to: "service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout".to_owned(),
        });
    }
    vec![found]
}

/// Azure probes each port by itself, and nodes: of a port of the Service it takes the node port, and any other
/// number as it is, where nothing listens on a node.
/// <https://github.com/kubernetes-sigs/cloud-provider-azure/blob/master/pkg/provider/azure_loadbalancer_healthprobe.go>
pub(super) fn health_port(look: &Look<'_>) -> Vec<Match> {
    let path = annotation("aws-load-balancer-healthcheck-port");
    let Some(text) = look.object.node.follow(&path).and_then(Node::text) else { return Vec::new() };
    let mut found = Match::at(path.clone()).found(text);
    let annotations = vec![key("metadata"), key("annotations")];
    let ports = look.object.node.at(&["spec", "ports"]).map_or(&[][..], Node::items);
    let of_azure = ports
        .iter()
        .filter_map(|port| Some(format!("{PREFIX}port_{}_health-probe_port", port.text_at(&["port"])?)));
    let unsaid: Vec<String> =
        of_azure.filter(|name| look.object.node.follow(&with(&annotations, name)).is_none()).collect();
    if text != TRAFFIC_PORT && !unsaid.is_empty() {
        let Some(probed) = ports.iter().find(|port| leads_to(port, text)).and_then(|p| p.text_at(&["port"]))
        else {
            return vec![found.saying(unprobed(ports, text))];
        };
        for key in unsaid {
            found = found.edit(Edit::Insert { path: annotations.clone(), key, value: probed.into() });
        }
    }
    vec![found.edit(Edit::Delete { path })]
}

/// Why nobody knows which of the Service's ports the health check asks, and the way out.
fn unprobed(ports: &[Node], asked: &str) -> String {
    let is_name = |target: &&str| target.parse::<u16>().is_err();
    let named: BTreeSet<&str> = ports
        .iter()
        .filter(|port| is_tcp(port))
        .filter_map(|port| port.text_at(&["targetPort"]).filter(is_name))
        .collect();
    if asked.parse::<u16>().is_ok() && !named.is_empty() {
        let named: Vec<String> = named.into_iter().map(|name| format!("`{name}`")).collect();
        return format!(
            "the health check asks port {asked}, which may be that of a named port ({}), and Azure asks nodes: if so write \
             the `name` of the Service's port that leads to it into the annotation, and rewrite again; else add a port \
             that does, or take the annotation away to have each port asked",
            named.join(", ")
        );
    }
    format!(
        "the health check asks port {asked}, to which no port of the Service leads, and Azure asks nodes: add one that does, \
         or take the annotation away to have each port asked"
    )
}

fn is_tcp(port: &Node) -> bool {
    matches!(port.text_at(&["protocol"]), None | Some("TCP"))
}

/// Whether a health check of `asked` is one of the Service's `port`: its target's number, its node port, or
/// its name, as with the AWS Load Balancer Controller.
/// <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/service/model_build_target_group.go>
fn leads_to(port: &Node, asked: &str) -> bool {
    let target = port.text_at(&["targetPort"]).or_else(|| port.text_at(&["port"]));
    let is_asked = match asked.parse::<u16>() {
        Ok(_) => [target, port.text_at(&["nodePort"])].contains(&Some(asked)),
        Err(_) => port.text_at(&["name"]) == Some(asked),
    };
    is_tcp(port) && is_asked
}

fn text<'a>(look: &Look<'a>, name: &str) -> Option<&'a str> {
    look.object.node.follow(&annotation(name)).and_then(Node::text)
}

/// A load balancer of the AWS Load Balancer Controller of which nobody says where it is: inside the network.
pub(super) fn internal_by_default(look: &Look<'_>) -> Vec<Match> {
    let node = look.object.node;
    let is_said = SCHEMES.iter().any(|name| text(look, name).is_some_and(|value| !value.is_empty()));
    let is_said = is_said || text(look, AZURE_INTERNAL).is_some();
    if is_said || node.text_at(&["spec", "type"]) != Some("LoadBalancer") {
        return Vec::new();
    }
    let class = vec![key("spec"), key("loadBalancerClass")];
    let of_class = node.follow(&class).and_then(Node::text);
    let found = match (of_class, text(look, "aws-load-balancer-type")) {
        (Some(name), _) if CLASSES.contains(&name) => Match::at(class).found(name),
        (None, Some(name)) if TYPES.contains(&name) => {
            Match::at(annotation("aws-load-balancer-type")).found(name)
        }
        _ => return Vec::new(),
    };
    vec![found.edit(set_internal())]
}

fn set_internal() -> Edit {
    let annotations = vec![key("metadata"), key("annotations")];
    Edit::Insert { path: annotations, key: format!("{PREFIX}{AZURE_INTERNAL}"), value: "true".into() }
}

/// A load balancer that is said to be inside the network.
pub(super) fn internal(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    for name in SCHEMES {
        let Some(value) = text(look, name) else { continue };
        if matches!(value, "" | "false" | "internet-facing") {
            continue;
        }
        let path = annotation(name);
        let mut found = Match::at(path.clone()).found(value);
        // Two annotations may say it, and what is said for Azure already counts.
        if text(look, AZURE_INTERNAL).is_some() {
            found = found.edit(Edit::Delete { path });
        } else {
            found = found.edit(Edit::Set { path: path.clone(), value: "true".into() });
            found = found.edit(Edit::Rename { path, to: format!("{PREFIX}{AZURE_INTERNAL}") });
        }
        all.push(found);
    }
    all
}

/// A load balancer that security groups or prefix lists guard, open to all without them.
pub(super) fn guarded(look: &Look<'_>) -> Vec<Match> {
    let is_inside = !internal(look).is_empty() || !internal_by_default(look).is_empty();
    let guards = ["aws-load-balancer-security-groups", "aws-load-balancer-security-group-prefix-lists"];
    match guards.into_iter().find_map(|name| Some((name, text(look, name)?))) {
        Some((name, value)) if !is_inside => {
            vec![Match::at(annotation(name)).found(value).edit(set_internal())]
        }
        _ => Vec::new(),
    }
}

/// What the probe will be: interval and failures. The interval gives way first.
fn probe(look: &Look<'_>) -> (u64, u64) {
    let number = |names: [&str; 2], (least, default): (u64, u64)| {
        let said = names.iter().find_map(|name| text(look, name)?.trim().parse::<u64>().ok());
        said.unwrap_or(default).max(least)
    };
    let most = PROBE_SECONDS - 1;
    let failures = number(
        [
            "azure-load-balancer-health-probe-num-of-probe",
            "aws-load-balancer-healthcheck-unhealthy-threshold",
        ],
        FAILURES,
    );
    let failures = failures.min(most / INTERVAL.0);
    let interval = number(
        ["azure-load-balancer-health-probe-interval", "aws-load-balancer-healthcheck-interval"],
        INTERVAL,
    );
    (interval.min(most / failures), failures)
}

/// A number of the probe under its name of Azure's, as Azure takes it.
fn probe_number(look: &Look<'_>, name: &str, to: &str, what: &str, number: u64) -> Vec<Match> {
    let path = annotation(name);
    let Some(old) = text(look, name) else { return Vec::new() };
    let mut found = Match::at(path.clone()).found(old);
    let Ok(said) = old.trim().parse::<u64>() else { return vec![found] };
    if text(look, to).is_some() {
        return vec![found.edit(Edit::Delete { path })];
    }
    if said != number {
        found = found.saying(format!(
            "{what} of the health check becomes {number}: Azure wants the interval times the failures to be less than \
             {PROBE_SECONDS} seconds, and at least {} seconds and {} failures",
            INTERVAL.0, FAILURES.0
        ));
        found = found.edit(Edit::Set { path: path.clone(), value: number.to_string().into() });
    }
    vec![found.edit(Edit::Rename { path, to: format!("{PREFIX}{to}") })]
}

/// Interval of the probe.
pub(super) fn health_interval(look: &Look<'_>) -> Vec<Match> {
    let to = "azure-load-balancer-health-probe-interval";
    probe_number(look, "aws-load-balancer-healthcheck-interval", to, "the interval", probe(look).0)
}

/// Failures of the probe.
pub(super) fn health_failures(look: &Look<'_>) -> Vec<Match> {
    let to = "azure-load-balancer-health-probe-num-of-probe";
    let name = "aws-load-balancer-healthcheck-unhealthy-threshold";
    probe_number(look, name, to, "the number of failures", probe(look).1)
}

/// Annotations of a load balancer of AWS that no other rule knows.
pub(super) fn left_over(look: &Look<'_>) -> Vec<Match> {
    let annotations = look.object.node.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    let is_left = |name: &&str| {
        let is_called = |setting: &str, known: &str| match known.strip_suffix('*') {
            Some(start) => setting.starts_with(start),
            None => setting == known,
        };
        name.strip_prefix(BALANCER).is_some_and(|s| !KNOWN.iter().any(|known| is_called(s, known)))
    };
    let names = annotations.iter().filter_map(|entry| entry.key.text()).filter(is_left);
    names.map(|name| Match::at(vec![key("metadata"), key("annotations"), key(name)])).collect()
}
