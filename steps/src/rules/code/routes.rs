//! The routes of an Ingress as HTTPRoutes, its health checks as HealthCheckPolicies.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::gateway::{self, is_for_any, is_only_for_gateway, metadata};
use super::ingress::{Ingress, Listener, Settings, host_of, is_for_any_host, own_settings};
use super::ingress_actions::{self, field, https_port, named_by, target_groups};
use crate::rules::document::Node;
use crate::rules::engine::Look;
use crate::rules::facts::Name;

/// Rules, and host names, of one HTTPRoute.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httproutespec>
const OF_ROUTE: usize = 16;

/// Where routes belong, and what they carry.
struct Parents<'a> {
    gateway: &'a Name,
    /// Whether this Ingress makes the Gateway, which then has the annotations that are read there only.
    makes_it: bool,
}

/// The routes, or why there can be none.
pub(super) fn routes(
    look: &Look<'_>,
    ingress: &Ingress<'_>,
    gateway: &Name,
    makes_it: bool,
) -> Result<Vec<Value>, String> {
    let parents = Parents { gateway, makes_it };
    let settings = &ingress.settings;
    // A listener that sends to HTTPS has no rules beside.
    // <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/ingress/model_build_listener_rules.go>
    let has_rules = !settings.only_redirects() || settings.ssl_redirect().is_none();
    let by_host = if has_rules { by_host(look, ingress)? } else { Vec::new() };
    if settings.only_redirects() && !by_host.is_empty() {
        return Err("its action sends plain requests to HTTPS, where it doesn't listen, and it answers others; say HTTPS in \
                    `listen-ports`, or take the action out"
            .to_owned());
    }
    let redirect = settings.redirect();
    let mut sections: Vec<Listener> = settings.listeners().into_iter().collect();
    let plain: Vec<Listener> = sections.iter().copied().filter(|l| !l.is_https).collect();
    if redirect.is_some() {
        sections.retain(|listener| listener.is_https);
    }
    let object = ingress.object;
    let mut all = Vec::new();
    let parts = by_host.iter().flat_map(|(host, rules)| rules.chunks(OF_ROUTE).map(move |part| (host, part)));
    for (at, (host, rules)) in parts.enumerate() {
        let name = numbered(&object.name, at);
        all.push(route(ingress, &name, &parents, &sections, host.as_slice(), rules));
    }
    if let (Some(port), false) = (redirect, plain.is_empty()) {
        let rule = json!({ "filters": [{ "type": "RequestRedirect",
            "requestRedirect": { "scheme": "https", "port": port, "statusCode": 301 } }] });
        // Where any host is answered, requests for any are sent to HTTPS.
        let answers_any =
            is_for_any_host(object.node) || object.node.at(&["spec", "defaultBackend"]).is_some();
        let mut seen = BTreeSet::new();
        let hosts = ingress.hosts().into_iter().filter(|host| !answers_any && seen.insert(*host));
        let hosts: Vec<&str> = hosts.collect();
        let parts: Vec<&[&str]> = if hosts.is_empty() { vec![&[]] } else { hosts.chunks(OF_ROUTE).collect() };
        for (at, hosts) in parts.into_iter().enumerate() {
            let name = numbered(&format!("{}-redirect", object.name), at);
            all.push(route(ingress, &name, &parents, &plain, hosts, std::slice::from_ref(&rule)));
        }
    }
    Ok(all)
}

/// Rules by host.
type ByHost<'a> = Vec<(Option<&'a str>, Vec<Value>)>;

/// What is answered, or why it can't be said.
fn by_host<'a>(look: &Look<'_>, ingress: &Ingress<'a>) -> Result<ByHost<'a>, String> {
    let mut by_host: ByHost<'a> = Vec::new();
    let rules = ingress.object.node.at(&["spec", "rules"]).map_or(&[][..], Node::items);
    for rule in rules {
        let host = host_of(rule);
        let paths = rule.at(&["http", "paths"]).map_or(&[][..], Node::items);
        for path in paths {
            if is_redirect(ingress, path) {
                continue;
            }
            let backend = path.get("backend").ok_or("a path without a backend")?;
            let rule = json!({ "matches": [{ "path": path_match(ingress, path)? }],
                "backendRefs": backends(look, ingress, backend)? });
            match by_host.iter_mut().find(|(known, _)| *known == host) {
                Some((_, rules)) => rules.push(rule),
                None => by_host.push((host, vec![rule])),
            }
        }
    }
    if let Some(backend) = ingress.object.node.at(&["spec", "defaultBackend"]) {
        let rule = json!({ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }],
            "backendRefs": backends(look, ingress, backend)? });
        by_host.push((None, vec![rule]));
    }
    Ok(by_host)
}

/// `web`, `web-2`, `web-3`.
pub(super) fn numbered(name: &str, at: usize) -> String {
    if at == 0 { name.to_owned() } else { format!("{name}-{}", at + 1) }
}

fn route(
    ingress: &Ingress<'_>,
    name: &str,
    parents: &Parents<'_>,
    sections: &[Listener],
    hosts: &[&str],
    rules: &[Value],
) -> Value {
    let object = ingress.object;
    let (namespace, gateway) = parents.gateway;
    let parent = |section: &Listener| {
        let mut parent = json!({ "name": gateway });
        if *namespace != object.namespace && !namespace.is_empty() {
            parent["namespace"] = namespace.as_str().into();
        }
        parent["sectionName"] = section.name().into();
        parent
    };
    let refs: Vec<Value> = sections.iter().map(parent).collect();
    let mut spec = Map::from_iter([("parentRefs".to_owned(), Value::from(refs))]);
    if !hosts.is_empty() {
        spec.insert("hostnames".to_owned(), json!(hosts));
    }
    spec.insert("rules".to_owned(), rules.into());
    let passes = |annotation: &str| !parents.makes_it || !is_only_for_gateway(annotation);
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": metadata(name, &object.namespace, object, &passes), "spec": spec })
}

/// Whether the path only sends plain requests to HTTPS, which the listener does here.
fn is_redirect(ingress: &Ingress<'_>, path: &Node) -> bool {
    let action = path.get("backend").and_then(named_by).map(ingress_actions::setting);
    let port = action.and_then(|action| ingress.setting(&action)).and_then(https_port);
    port.is_some() && port == ingress.settings.redirect()
}

/// How much of the path of a request must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    Exact,
    Prefix,
}

/// `/api/*` of an ALB is the prefix `/api`; without a wildcard it is the whole path, unless the Ingress says
/// Prefix. No path is every path.
/// <https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/pkg/ingress/model_build_listener_rules.go>
pub(super) fn path_of<'a>(ingress: &Ingress<'_>, path: &'a Node) -> Result<(PathKind, &'a str), String> {
    let text = path.text_at(&["path"]).unwrap_or_default();
    let kind = path.text_at(&["pathType"]);
    if !matches!(kind, Some("Exact" | "Prefix")) && ingress.setting("use-regex-path-match") == Some("true") {
        return Err(format!("path `{text}` is a regular expression"));
    }
    let (kind, value) = match (kind, text.strip_suffix("/*")) {
        (_, Some("")) => (PathKind::Prefix, "/"),
        (_, Some(prefix)) => (PathKind::Prefix, prefix),
        (_, None) if matches!(text, "" | "*") => (PathKind::Prefix, "/"),
        (Some("Prefix"), None) => (PathKind::Prefix, text),
        _ => (PathKind::Exact, text),
    };
    if value.contains(['*', '?']) {
        return Err(format!("path `{text}` has a wildcard that is no `/*` at its end"));
    }
    Ok((kind, value))
}

fn path_match(ingress: &Ingress<'_>, path: &Node) -> Result<Value, String> {
    let (kind, value) = path_of(ingress, path)?;
    let kind = match kind {
        PathKind::Exact => "Exact",
        PathKind::Prefix => "PathPrefix",
    };
    Ok(json!({ "type": kind, "value": value }))
}

fn backends(look: &Look<'_>, ingress: &Ingress<'_>, backend: &Node) -> Result<Value, String> {
    let service = backend.get("service").ok_or("a backend that is no Service")?;
    let name = service.text_at(&["name"]).ok_or("a backend without a name")?;
    if named_by(backend).is_some() {
        return weighted(look, ingress, name);
    }
    let port = match (service.text_at(&["port", "number"]), service.text_at(&["port", "name"])) {
        (Some(number), _) => number.parse().map_err(|_| format!("`{number}` is no port"))?,
        (None, Some(port)) => port_of(look, name, port)?,
        (None, None) => return Err(format!("no port of Service `{name}` is named")),
    };
    Ok(json!([{ "name": name, "port": port }]))
}

/// Routes name ports by number.
fn port_of(look: &Look<'_>, service: &str, port: &str) -> Result<u16, String> {
    let known = look.facts.ports.get(&look.object.namespace, service);
    let found = known.and_then(|ports| ports.iter().find(|p| p.name.as_deref() == Some(port)));
    found.map(|port| port.number).ok_or_else(|| {
        format!("the number of port `{port}` of Service `{service}` isn't known; assess them together")
    })
}

/// An action that forwards to several Services.
fn weighted(look: &Look<'_>, ingress: &Ingress<'_>, name: &str) -> Result<Value, String> {
    let action = ingress
        .setting(&ingress_actions::setting(name))
        .ok_or_else(|| format!("there is no action `{name}`"))?;
    let action: Value = serde_json::from_str(action).map_err(|_| format!("action `{name}` is no JSON"))?;
    let groups = target_groups(&action)
        .ok_or_else(|| format!("action `{name}` does something else than forwarding"))?;
    let mut refs = Vec::new();
    for group in groups {
        let service = field(group, "serviceName").and_then(Value::as_str);
        let service = service.ok_or_else(|| format!("action `{name}` forwards to a target group of AWS"))?;
        let port = match field(group, "servicePort") {
            Some(Value::Number(port)) => port.as_u64().and_then(|port| u16::try_from(port).ok()),
            Some(Value::String(port)) => Some(match port.parse() {
                Ok(number) => number,
                Err(_) => port_of(look, service, port)?,
            }),
            _ => None,
        };
        let port = port.ok_or_else(|| format!("action `{name}` names no port"))?;
        let weight = field(group, "weight").and_then(Value::as_u64).unwrap_or(1);
        refs.push(json!({ "name": service, "port": port, "weight": weight }));
    }
    Ok(refs.into())
}

/// How targets are probed.
fn probe(settings: &Settings<'_>) -> Map<String, Value> {
    let setting = |name: &str| settings.get(&format!("healthcheck-{name}"));
    let number = |name: &str| settings.get(name).and_then(|text| text.parse::<u64>().ok());
    let mut default = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            default.insert(name.to_owned(), value);
        }
    };
    let seconds = |name: &str| {
        setting(name).and_then(|text| text.parse::<u64>().ok()).map(|s| Value::from(format!("{s}s")))
    };
    put("interval", seconds("interval-seconds"));
    put("timeout", seconds("timeout-seconds"));
    put("healthyThreshold", number("healthy-threshold-count").map(Value::from));
    put("unhealthyThreshold", number("unhealthy-threshold-count").map(Value::from));
    put("port", setting("port").and_then(|port| port.parse::<u16>().ok()).map(Value::from));
    let mut http = json!({ "path": setting("path").unwrap_or("/") });
    if let Some(codes) = settings.get("success-codes") {
        let ranges: Vec<Value> = codes
            .split(',')
            .filter_map(|part| {
                let (start, end) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
                Some(json!({ "start": start.parse::<u16>().ok()?, "end": end.parse::<u16>().ok()? }))
            })
            .collect();
        http["match"] = json!({ "statusCodes": ranges });
    }
    put("http", Some(http));
    // Without, it is that of other requests.
    if setting("protocol").or_else(|| settings.get("backend-protocol")) == Some("HTTPS") {
        put("useTLS", Some(true.into()));
    }
    default
}

/// One policy a Service, where it or the Ingress says how its targets are probed, and no other made it.
pub(super) fn health_checks(look: &Look<'_>, ingress: &Ingress<'_>) -> Vec<Value> {
    let namespace = &ingress.object.namespace;
    let is_mine = |service: &String| {
        let of = (namespace.clone(), service.clone());
        let mut earlier = look.facts.ingresses.probed_by(&of).take_while(|by| **by != ingress.name());
        let policy = (namespace.clone(), policy_name(service));
        !look.facts.ingresses.has("HealthCheckPolicy", &policy)
            && !earlier.any(|by| gateway::is_converted(look, by))
    };
    services_of(ingress.object.node)
        .into_iter()
        .filter(is_mine)
        .filter_map(|service| {
            let name = (namespace.clone(), service.clone());
            let settings = look.facts.ingresses.of_service(&ingress.settings, &name);
            if !settings.probes() {
                return None;
            }
            let mut target = json!({ "group": "", "kind": "Service", "name": service });
            if !namespace.is_empty() {
                target["namespace"] = namespace.as_str().into();
            }
            Some(json!({ "apiVersion": "alb.networking.azure.io/v1", "kind": "HealthCheckPolicy",
                "metadata": metadata(&policy_name(&service), namespace, ingress.object, &is_for_any),
                "spec": { "targetRef": target, "default": probe(&settings) } }))
        })
        .collect()
}

fn policy_name(service: &str) -> String {
    format!("{service}-health")
}

/// The Services behind an Ingress, each once, also those that its actions forward to.
pub(super) fn services_of(node: &Node) -> Vec<String> {
    let mut names = BTreeSet::new();
    for backend in ingress_actions::of_paths(node).chain(node.at(&["spec", "defaultBackend"])) {
        if let Some(action) = named_by(backend) {
            names.extend(forwarded_to(node, action));
        } else {
            names.extend(backend.text_at(&["service", "name"]).map(str::to_owned));
        }
    }
    names.into_iter().collect()
}

/// The Services that an action of the Ingress forwards to.
fn forwarded_to(node: &Node, action: &str) -> Vec<String> {
    let own = own_settings(node);
    let action = own.iter().find(|(name, _)| name.strip_prefix("actions.") == Some(action));
    let action: Option<Value> = action.and_then(|(_, text)| serde_json::from_str(text).ok());
    let groups = action.as_ref().and_then(target_groups).into_iter().flatten();
    groups.filter_map(|group| Some(field(group, "serviceName")?.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use crate::rules::network_tests::{ALB, PUBLIC, done, finding, ingress, inputs};

    const TO_HTTPS: (&str, &str) = (
        "alb.ingress.kubernetes.io/actions.ssl-redirect",
        r##"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"443","host":"#{host}","path":"/#{path}","query":"#{query}"}}"##,
    );
    const LISTENERS: [(&str, &str); 2] = [
        ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80},{"HTTPS":443}]"#),
        ("alb.ingress.kubernetes.io/certificate-arn", "arn"),
    ];

    /// An Ingress that answers `path` by the action, and all else by Service `web`.
    fn by_action(action: &str, settings: &[(&str, &str)]) -> String {
        let rule = format!(
            "{{path: /admin/*, backend: {{service: {{name: {action}, port: {{name: use-annotation}}}}}}}}"
        );
        let all: Vec<_> = [PUBLIC].into_iter().chain(LISTENERS).chain(settings.iter().copied()).collect();
        ingress("web", &all, &format!("{ALB}\n  rules: [{{host: a.example.com, http: {{paths: [{rule}]}}}}]"))
    }

    #[test]
    fn an_action_that_does_not_only_send_to_https_keeps_the_ingress() {
        let sent = ("alb.ingress.kubernetes.io/ssl-redirect", "443");
        let admin = "alb.ingress.kubernetes.io/actions.redirect-admin";
        let gateway = inputs("gateway");
        for action in [
            r#"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"443","host":"admin.example.com"}}"#,
            r#"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"443","path":"/"}}"#,
            r#"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"443","query":"a=b"}}"#,
            r#"{"type":"fixed-response","fixedResponseConfig":{"statusCode":"403"}}"#,
        ] {
            for settings in [
                &[sent, (admin, action)][..],
                &[sent, TO_HTTPS, (admin, action)],
                &[TO_HTTPS, (admin, action)],
                &[(admin, action), TO_HTTPS],
            ] {
                let text = by_action("redirect-admin", settings);
                assert_eq!(done(&text, &gateway), text);
                let told = finding(&text, &gateway, "EKS-NET-001");
                assert!(!told.rewritten && told.message.contains("`redirect-admin`"), "{told:?}");
            }
        }
        // Nor one to another port, or one that nobody wrote down.
        let other = r#"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"8443"}}"#;
        for settings in [&[sent, (admin, other)][..], &[sent]] {
            let text = by_action("redirect-admin", settings);
            assert_eq!(done(&text, &gateway), text);
        }
        // One that does goes, whatever it is called.
        for (name, settings) in [
            ("ssl-redirect", &[TO_HTTPS][..]),
            ("plain", &[sent, ("alb.ingress.kubernetes.io/actions.plain", TO_HTTPS.1)]),
        ] {
            let converted = done(&by_action(name, settings), &gateway);
            assert!(!converted.contains("kind: Ingress") && !converted.contains("/admin"), "{converted}");
        }
    }

    #[test]
    fn nginx_says_what_to_say_in_place_of_an_action_that_only_sends_to_https() {
        let nginx = inputs("nginx");
        let told = |text: &str| {
            assert_eq!(done(text, &nginx), text);
            finding(text, &nginx, "EKS-NET-001").message
        };
        let way = "; say `ssl-redirect: \"443\"` in place of the action and its paths";
        let text = by_action("ssl-redirect", &[TO_HTTPS]);
        assert!(told(&text).ends_with(way), "{}", told(&text));
        let of_group = by_action("ssl-redirect", &[TO_HTTPS, ("alb.ingress.kubernetes.io/group.name", "g")]);
        assert!(
            told(&of_group)
                .ends_with("in place of the action and its paths, which then counts for all of `group.name`")
        );
        // It is enough.
        let said = text.replace(
            &format!("{}: '{}'", TO_HTTPS.0, TO_HTTPS.1),
            "alb.ingress.kubernetes.io/ssl-redirect: '443'",
        );
        let (before, rule) = said.split_once("{path: /admin").unwrap();
        let said = format!("{before}{}", rule.split_once("}}}}").unwrap().1);
        assert!(!done(&said, &nginx).contains("alb.ingress"), "{said}");
        // Not where an action does something else.
        assert!(!told(&forwarding(&["blue"])).contains("ssl-redirect"));
    }

    /// An action that forwards to the Services, and how they are probed.
    fn forwarding(services: &[&str]) -> String {
        let group = |name: &&str| format!(r#"{{"serviceName":"{name}","servicePort":"80","weight":50}}"#);
        let groups: Vec<String> = services.iter().map(group).collect();
        let action =
            format!(r#"{{"type":"forward","forwardConfig":{{"targetGroups":[{}]}}}}"#, groups.join(","));
        let settings = [
            ("alb.ingress.kubernetes.io/actions.fwd", action.as_str()),
            ("alb.ingress.kubernetes.io/healthcheck-path", "/healthz"),
        ];
        by_action("fwd", &settings).split_once("  defaultBackend").unwrap().0.to_owned()
    }

    #[test]
    fn a_log_in_of_a_service_that_an_action_forwards_to_keeps_the_ingress() {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: admin\n  namespace: shop\n  annotations:\n    \
                       alb.ingress.kubernetes.io/auth-type: oidc\nspec: {ports: [{port: 80}]}\n";
        let text = forwarding(&["admin"]) + service;
        assert_eq!(done(&text, &inputs("gateway")), text);
        assert!(finding(&text, &inputs("gateway"), "EKS-NET-001").message.contains("EKS-NET-007"));
        let converted = done(&(forwarding(&["open"]) + service), &inputs("gateway"));
        assert!(!converted.contains("kind: Ingress"), "{converted}");
    }

    /// The controller lets Go read it, to which capitals are nothing.
    #[test]
    fn an_action_is_read_with_capitals_too() {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: admin\n  namespace: shop\n  annotations:\n    \
                       alb.ingress.kubernetes.io/auth-type: oidc\nspec: {ports: [{port: 80}]}\n";
        let group = "  annotations:\n    alb.ingress.kubernetes.io/group.name: g\n";
        let capitals = |service: &str| {
            let text = forwarding(&[service]).replace("  annotations:\n", group);
            [
                ("type", "Type"),
                ("forwardConfig", "ForwardConfig"),
                ("targetGroups", "TargetGroups"),
                ("serviceName", "ServiceName"),
                ("servicePort", "ServicePort"),
                ("weight", "Weight"),
            ]
            .iter()
            .fold(text, |text, (old, new)| text.replace(&format!("\"{old}\""), &format!("\"{new}\"")))
        };
        let backend = "{service: {name: web, port: {number: 80}}}";
        let rule = format!(
            "{ALB}\n  rules: [{{host: a.example.com, http: {{paths: [{{path: /*, backend: {backend}}}]}}}}]"
        );
        let sibling =
            ingress("a", &[&[PUBLIC], &LISTENERS[..]].concat(), &rule).replace("  annotations:\n", group);
        let (sibling, _) = sibling.split_once("  defaultBackend").unwrap();
        for target in ["gateway", "nginx"] {
            let text = format!("{sibling}---\n{}{service}", capitals("admin"));
            assert_eq!(done(&text, &inputs(target)), text);
            let told = finding(&text, &inputs(target), "EKS-NET-001").message;
            assert!(
                told.contains("the log-in that a Service asks for (EKS-NET-007) of Ingress web"),
                "{told}"
            );
        }
        let converted = done(&format!("{sibling}---\n{}{service}", capitals("open")), &inputs("gateway"));
        assert!(!converted.contains("kind: Ingress"), "{converted}");
        assert!(converted.contains("name: open\n") && converted.contains("weight: 50\n"), "{converted}");
    }

    #[test]
    fn each_service_that_an_action_forwards_to_is_probed() {
        let converted = done(&forwarding(&["blue", "green"]), &inputs("gateway"));
        assert_eq!(converted.matches("kind: HealthCheckPolicy\n").count(), 2, "{converted}");
        for name in ["name: blue-health\n", "name: green-health\n"] {
            assert!(converted.contains(name), "{converted}");
        }
    }
}
