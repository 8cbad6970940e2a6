//! Ingresses whose routes keep somebody out (a log-in, conditions, actions), and the hosts that they answer: another of their load
//! balancer that answers one of these would let everybody in until that is solved. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ingress::{hosts_of, is_for_any_host, own_settings};
use super::ingress_groups::rule_of;
use crate::rules::document::Node;
use crate::rules::facts::Name;

/// Hosts that an Ingress answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hosts {
    /// Whether it answers others, too.
    any: bool,
    named: BTreeSet<String>,
}

impl Hosts {
    pub(super) fn of(ingress: &Node) -> Self {
        // The controller adds hosts of a condition to those of the rule.
        let is_more =
            |(name, value): &(&str, &str)| name.starts_with("conditions.") && value.contains("host-header");
        let any = is_for_any_host(ingress)
            || ingress.at(&["spec", "defaultBackend"]).is_some()
            || own_settings(ingress).iter().any(is_more);
        Self { any, named: hosts_of(ingress).into_iter().map(str::to_owned).collect() }
    }

    /// Whether there is a host of both.
    fn meet(&self, other: &Self) -> bool {
        let pairs = || self.named.iter().flat_map(|one| other.named.iter().map(move |other| (one, other)));
        self.any || other.any || pairs().any(|(one, other)| covers(one, other) || covers(other, one))
    }
}

/// Whether `*.example.com` or the host itself is for the host. With AWS and with a Gateway a wildcard is for any number of
/// labels.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#hostname>
fn covers(of: &str, host: &str) -> bool {
    of == host || of.strip_prefix('*').is_some_and(|end| host.ends_with(end))
}

/// What keeps somebody out of the routes of an Ingress.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub by: Name,
    pub what: Keeps,
    hosts: Hosts,
}

/// Where it is said.
#[derive(Debug, Clone)]
pub(super) enum Keeps {
    Setting(String),
    Action(String),
    Service,
}

impl Guard {
    pub(super) fn new(by: &Name, what: Keeps, hosts: &Hosts) -> Self {
        Self { by: by.clone(), what, hosts: hosts.clone() }
    }

    pub(super) fn is_for(&self, hosts: &Hosts) -> bool {
        self.hosts.meet(hosts)
    }
}

impl std::fmt::Display for Keeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setting(setting) => write!(f, "`{setting}` ({})", rule_of(setting).unwrap_or_default()),
            Self::Action(action) => write!(f, "action `{action}`, which forwards nothing (EKS-NET-008),"),
            Self::Service => f.write_str("the log-in that a Service asks for (EKS-NET-007)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ingress_elsewhere::Others;
    use super::super::ingress_groups::Ingresses;
    use super::*;
    use crate::rules::RuleSet;
    use crate::rules::document::read;
    use crate::rules::facts::Facts;
    use crate::rules::network_tests::{ALB, PUBLIC, done, finding, ingress, inputs};
    use crate::rules::object::objects;

    const GROUP: (&str, &str) = ("alb.ingress.kubernetes.io/group.name", "g");
    const ORDER: (&str, &str) = ("alb.ingress.kubernetes.io/group.order", "-1");
    const LOGIN: (&str, &str) = ("alb.ingress.kubernetes.io/auth-type", "oidc");
    const SENT: (&str, &str) = ("alb.ingress.kubernetes.io/ssl-redirect", "443");
    const HTTPS: (&str, &str) = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTPS":443}]"#);
    const HTTP: (&str, &str) = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80}]"#);
    const ARN: (&str, &str) = ("alb.ingress.kubernetes.io/certificate-arn", "arn");

    /// An Ingress of the group that answers the path of the host.
    fn of_group(name: &str, settings: &[(&str, &str)], host: &str, path: &str) -> String {
        let all: Vec<_> = [PUBLIC, GROUP].into_iter().chain(settings.iter().copied()).collect();
        let host = if host.is_empty() { String::new() } else { format!("host: \"{host}\", ") };
        let backend = "{service: {name: web, port: {number: 80}}}";
        let paths = format!("[{{path: {path}, pathType: ImplementationSpecific, backend: {backend}}}]");
        let text = ingress(name, &all, &format!("{ALB}\n  rules: [{{{host}http: {{paths: {paths}}}}}]"));
        text.split_once("  defaultBackend").unwrap().0.to_owned()
    }

    #[test]
    fn a_log_in_is_not_passed_by_another_of_the_load_balancer() {
        let a = of_group("a", &[LOGIN, ORDER], "shop.example.com", "/admin/*");
        for target in ["gateway", "nginx"] {
            let inputs = inputs(target);
            for host in ["shop.example.com", "*.example.com", ""] {
                let text = format!("{a}---\n{}", of_group("b", &[], host, "/*"));
                assert_eq!(done(&text, &inputs), text, "{host}");
                let text = format!("{}---\n{a}", of_group("b", &[], host, "/*"));
                let told = finding(&text, &inputs, "EKS-NET-001").message;
                assert!(told.contains("`auth-type` (EKS-NET-007) of Ingress a"), "{told}");
                // Once it is solved, both go.
                let solved = text.replace("    alb.ingress.kubernetes.io/auth-type: 'oidc'\n", "");
                assert!(!done(&solved, &inputs).contains("alb.ingress"), "{host}");
            }
            // Another host is another's affair, as is another load balancer.
            let other = of_group("b", &[], "www.example.com", "/*");
            let alone = of_group("b", &[], "shop.example.com", "/*")
                .replace("    alb.ingress.kubernetes.io/group.name: 'g'\n", "");
            for other in [other, alone] {
                let converted = done(&format!("{a}---\n{other}"), &inputs);
                assert!(converted.starts_with(&a) && converted.matches(ALB).count() == 1, "{converted}");
            }
            // A condition may name more hosts.
            let host = r#"[{"field":"host-header","hostHeaderConfig":{"values":["www.example.com"]}}]"#;
            let more = ("alb.ingress.kubernetes.io/conditions.web", host);
            let a = of_group("a", &[more], "shop.example.com", "/admin/*");
            let text = format!("{a}---\n{}", of_group("b", &[], "www.example.com", "/*"));
            assert_eq!(done(&text, &inputs), text);
            // A Service asks for it.
            let service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: admin\n  namespace: shop\n  annotations:\n    \
                           alb.ingress.kubernetes.io/auth-type: oidc\nspec: {ports: [{port: 80}]}\n";
            let a = of_group("a", &[], "shop.example.com", "/admin/*").replace("name: web", "name: admin");
            let text = format!("{}---\n{a}{service}", of_group("b", &[], "shop.example.com", "/*"));
            assert_eq!(done(&text, &inputs), text);
            let told = finding(&text, &inputs, "EKS-NET-001").message;
            assert!(told.contains("(EKS-NET-007) of Ingress a"), "{told}");
        }
    }

    /// The Ingress, whose path names an action.
    fn by_action(text: &str, action: &str) -> String {
        let by = format!("name: {action}, port: {{name: use-annotation}}");
        text.replace("name: web, port: {number: 80}", &by)
    }

    const DENY: &str = "alb.ingress.kubernetes.io/actions.deny";
    const FORBIDDEN: &str = r#"{"type":"fixed-response","fixedResponseConfig":{"statusCode":"403"}}"#;
    const FORWARD: &str =
        r#"{"type":"forward","forwardConfig":{"targetGroups":[{"serviceName":"api","servicePort":"80"}]}}"#;
    const TO_HTTPS: &str = r#"{"type":"redirect","redirectConfig":{"protocol":"HTTPS","port":"443"}}"#;

    #[test]
    fn a_path_that_an_action_closes_is_not_opened_by_another_of_the_load_balancer() {
        let sso =
            r#"{"type":"redirect","redirectConfig":{"host":"sso.example.com","statusCode":"HTTP_302"}}"#;
        for (target, (block, web)) in
            ["gateway", "nginx"].into_iter().flat_map(|t| [(t, ("zz-block", "a-web")), (t, ("a", "zz-web"))])
        {
            let inputs = inputs(target);
            let open = of_group(web, &[], "shop.example.com", "/*");
            let closed = |settings: &[(&str, &str)]| {
                let all = [&[ORDER], settings].concat();
                by_action(&of_group(block, &all, "shop.example.com", "/admin/*"), "deny")
            };
            // What doesn't exist is answered by 503.
            for settings in [&[(DENY, FORBIDDEN)][..], &[(DENY, sso)], &[(DENY, "no JSON")], &[]] {
                let text = format!("{open}---\n{}", closed(settings));
                assert_eq!(done(&text, &inputs), text);
                let told = finding(&text, &inputs, "EKS-NET-001").message;
                let said = format!("action `deny`, which forwards nothing (EKS-NET-008), of Ingress {block}");
                assert!(told.contains(&said), "{told}");
                let own = finding(&closed(settings), &inputs, "EKS-NET-001").message;
                assert!(own.contains("(EKS-NET-008), must be solved and taken out first"), "{own}");
            }
            // One that forwards, or only sends to HTTPS, closes nothing. Nor does one of another host.
            let other = closed(&[(DENY, FORBIDDEN)]).replace("shop.example.com", "www.example.com");
            for beside in [closed(&[(DENY, FORWARD)]), other] {
                let converted = done(&format!("{open}---\n{beside}"), &inputs);
                assert!(!converted.contains(&open), "{converted}");
            }
            let text = format!("{open}---\n{}", closed(&[(DENY, TO_HTTPS)]));
            let told = finding(&text, &inputs, "EKS-NET-001").message;
            assert!(!told.contains("EKS-NET-008"), "{told}");
        }
    }

    #[test]
    fn an_action_for_what_nobody_else_answers_closes_nothing() {
        let open = of_group("web", &[], "shop.example.com", "/*");
        let settings = [PUBLIC, GROUP, (DENY, FORBIDDEN)];
        let rest = by_action(&ingress("zz-rest", &settings, ALB), "deny");
        for target in ["gateway", "nginx"] {
            let converted = done(&format!("{open}---\n{rest}"), &inputs(target));
            assert!(converted.ends_with(&rest) && converted.matches(ALB).count() == 1, "{converted}");
        }
    }

    #[test]
    fn one_that_only_sends_to_https_does_not_answer_there_with_nginx() {
        let a = of_group("a", &[LOGIN, HTTPS, SENT, ARN], "shop.example.com", "/*");
        let r = of_group("r", &[HTTP, SENT], "shop.example.com", "/");
        let text = format!("{a}---\n{r}");
        assert_eq!(done(&text, &inputs("nginx")), text);
        // Nor where nobody else is asked for a log-in, or is there.
        for text in [r.clone(), format!("{r}---\n{}", a.replace("auth-type", "tags"))] {
            let converted = done(&text, &inputs("nginx"));
            assert!(converted.contains(&r), "{converted}");
            let told = finding(&text, &inputs("nginx"), "EKS-NET-001").message;
            assert!(told.contains("merge it into the one"), "{told}");
        }
    }

    #[test]
    fn the_gateway_is_made_by_the_first_that_no_log_in_keeps() {
        let text = [
            of_group("a", &[], "shop.example.com", "/*"),
            of_group("b", &[LOGIN], "shop.example.com", "/admin/*"),
            of_group("c", &[], "www.example.com", "/*"),
        ];
        let converted = done(&text.join("---\n"), &inputs("gateway"));
        assert!(converted.starts_with(&text[..2].join("---\n")), "{converted}");
        assert_eq!(converted.matches("kind: Gateway\n").count(), 1, "{converted}");
        assert!(converted.contains("  - www.example.com\n"), "{converted}");
    }

    #[test]
    fn what_keeps_somebody_out_elsewhere_is_known_with_its_hosts() {
        let gathered = |name: &str, settings: Value, host: &str| {
            let by = json!({ "service": { "name": "deny", "port": { "name": "use-annotation" } } });
            let paths =
                if name == "deny" { json!([{ "path": "/admin/*", "backend": by }]) } else { json!([]) };
            let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": { "namespace": name, "name": name, "annotations": settings },
                "spec": { "ingressClassName": "alb", "rules": [{ "host": host, "http": { "paths": paths } }] } });
            let (mut all, node) = (Ingresses::default(), Node::of_value(&ingress));
            objects(&node).iter().for_each(|object| all.take(object));
            all
        };
        let hosts = |name: &str| Hosts { any: false, named: BTreeSet::from([name.to_owned()]) };
        let first = |by: &str, settings: Value, host: &str| {
            let elsewhere = gathered(by, settings, "shop.example.com");
            let groups = BTreeSet::from(["g".to_owned()]);
            let others = Others::Read { all: elsewhere.of_groups(&groups), groups };
            let mut own = gathered("b", json!({ GROUP.0: "g", PUBLIC.0: PUBLIC.1 }), host);
            own.others = Others::of_lines(&others.to_lines().unwrap());
            let group = own.group("g");
            (group.guard(&hosts(host)).map(|guard| guard.by.1.clone()), group.first.is_some())
        };
        for (by, settings) in [
            ("a", json!({ GROUP.0: "g", LOGIN.0: LOGIN.1 })),
            ("deny", json!({ GROUP.0: "g", DENY: FORBIDDEN })),
            ("deny", json!({ GROUP.0: "g" })),
        ] {
            assert_eq!(first(by, settings.clone(), "shop.example.com"), (Some(by.to_owned()), false));
            assert_eq!(first(by, settings, "www.example.com"), (None, true));
        }
        let forward = json!({ GROUP.0: "g", DENY: FORWARD });
        assert_eq!(first("deny", forward, "shop.example.com"), (None, true));
        // Of another group nothing is known: to name one would help nobody.
        let (text, groups) = (of_group("b", &[], "shop.example.com", "/*"), BTreeSet::from(["g".to_owned()]));
        let (documents, mut facts) = (read(&text).unwrap(), Facts::default());
        objects(&documents[0].root).iter().for_each(|object| facts.take(object));
        let elsewhere = gathered("deny", json!({ GROUP.0: "g" }), "shop.example.com");
        facts.ingresses.others = Others::Read { all: elsewhere.of_groups(&groups), groups };
        let told = RuleSet::shipped().findings_of_text(&text, &documents, &facts, &inputs("gateway"));
        let told = &told.iter().find(|finding| finding.rule == "EKS-NET-001").unwrap().message;
        assert!(told.contains("of Ingress deny/deny,"), "{told}");
        assert!(told.ends_with("must be solved; then export again, or take `group.name` out"), "{told}");
    }

    #[test]
    fn a_wildcard_is_for_every_host_below_it() {
        let hosts = |name: &str| Hosts { any: false, named: BTreeSet::from([name.to_owned()]) };
        let meet = |one: &str, other: &str| {
            assert_eq!(hosts(one).meet(&hosts(other)), hosts(other).meet(&hosts(one)));
            hosts(one).meet(&hosts(other))
        };
        assert!(meet("*.example.com", "a.b.example.com") && meet("*.example.com", "*.b.example.com"));
        assert!(!meet("*.example.com", "example.com") && !meet("a.example.com", "b.example.com"));
    }
}
