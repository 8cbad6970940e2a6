//! Actions of the AWS Load Balancer Controller: an Ingress has them in annotations, and its backends name them. Pure.
//! <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/#actions>

use std::collections::BTreeSet;

use serde_json::Value;

use super::ingress::Settings;
use crate::rules::document::Node;

/// Name of the port that stands for an action in an annotation.
const BY_ANNOTATION: &str = "use-annotation";

/// Backends of the paths of an Ingress.
pub(super) fn of_paths(ingress: &Node) -> impl Iterator<Item = &Node> {
    let rules = ingress.at(&["spec", "rules"]).map_or(&[][..], Node::items);
    let paths = rules.iter().flat_map(|rule| rule.at(&["http", "paths"]).map_or(&[][..], Node::items));
    paths.filter_map(|path| path.get("backend"))
}

/// The action that a backend names.
pub(super) fn named_by(backend: &Node) -> Option<&str> {
    let service = backend.get("service")?;
    let is_action = service.text_at(&["port", "name"]) == Some(BY_ANNOTATION);
    is_action.then(|| service.text_at(&["name"]).unwrap_or_default())
}

/// The setting of an action.
pub(super) fn setting(action: &str) -> String {
    format!("actions.{action}")
}

/// A field of an action, or of a part of one. The controller lets Go read them, to which capitals are nothing.
/// <https://pkg.go.dev/encoding/json#Unmarshal>
pub(super) fn field<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    let mut fields = of.as_object()?.iter();
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What an action forwards to.
pub(super) fn target_groups(action: &Value) -> Option<&Vec<Value>> {
    field(field(action, "forwardConfig")?, "targetGroups")?.as_array()
}

/// The port of HTTPS to which an action sends whatever it gets, with host, path and query as they came.
pub(super) fn https_port(action: &str) -> Option<u16> {
    let action: Value = serde_json::from_str(action).ok()?;
    let redirect = field(&action, "redirectConfig")?;
    let text = |name: &str| field(redirect, name).and_then(Value::as_str);
    let is_kept = |name: &str, same: &str| text(name).is_none_or(|said| said == same);
    let whole = is_kept("host", "#{host}") && is_kept("path", "/#{path}") && is_kept("query", "#{query}");
    (text("protocol") == Some("HTTPS") && whole)
        .then(|| text("port").and_then(|p| p.parse().ok()).unwrap_or(443))
}

/// Actions of the paths of an Ingress that neither forward nor only send to HTTPS: what is behind them is closed. The
/// controller answers 503 for one that nobody wrote down. A default backend closes nothing: it answers what no Ingress of
/// the load balancer does.
/// <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/ingress/model_build_listener.go>
pub(super) fn closing(ingress: &Node, settings: &Settings<'_>) -> BTreeSet<String> {
    let is_closing = |name: &&str| settings.get(&setting(name)).is_none_or(|action| !passes(action));
    of_paths(ingress).filter_map(named_by).filter(is_closing).map(str::to_owned).collect()
}

fn passes(action: &str) -> bool {
    let read: Value = serde_json::from_str(action).unwrap_or_default();
    match field(&read, "type").and_then(Value::as_str) {
        Some("forward") => true,
        Some("redirect") => https_port(action).is_some(),
        _ => false,
    }
}
