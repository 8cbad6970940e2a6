//! Settings of load balancers that need some arithmetic.

use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::{key, with};

/// Azure's idle time-outs, in minutes.
/// <https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset>
const IDLE_MINUTES: std::ops::RangeInclusive<u64> = 4..=100;

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

/// Azure probes each port by itself; where AWS names one port for all, each says so.
pub(super) fn health_port(look: &Look<'_>) -> Vec<Match> {
    let path = annotation("aws-load-balancer-healthcheck-port");
    let Some(text) = look.object.node.follow(&path).and_then(Node::text) else { return Vec::new() };
    let mut found = Match::at(path.clone()).found(text).edit(Edit::Delete { path });
    if text.parse::<u16>().is_ok() {
        let annotations = vec![key("metadata"), key("annotations")];
        for port in look.object.node.at(&["spec", "ports"]).map_or(&[][..], Node::items) {
            let Some(number) = port.text_at(&["port"]) else { continue };
            let name = format!("service.beta.kubernetes.io/port_{number}_health-probe_port");
            if look.object.node.follow(&with(&annotations, &name)).is_none() {
                found = found.edit(Edit::Insert { path: annotations.clone(), key: name, value: text.into() });
            }
        }
    }
    vec![found]
}
