//! What comes in from outside: nothing that is inside the network, or behind something, becomes public.

use super::tests::{found, rewritten};
use super::*;

pub(super) fn inputs(ingress: &str) -> Inputs {
    let text = format!(
        "ingress = \"{ingress}\"\napplication-load-balancer = \"alb-infra/alb\"\ncertificates = {{ arn = \"tls\" }}"
    );
    toml::from_str(&text).unwrap()
}

/// `text` rewritten, twice, which must be the same.
pub(super) fn done(text: &str, inputs: &Inputs) -> String {
    let set = RuleSet::shipped();
    let once = rewritten(&set, text, inputs).unwrap();
    assert_eq!(rewritten(&set, &once, inputs).unwrap(), once, "twice is another than once");
    once
}

pub(super) fn rules(text: &str, inputs: &Inputs) -> Vec<String> {
    let mut all: Vec<String> = found(text, inputs).into_iter().map(|f| f.rule).collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn finding(text: &str, inputs: &Inputs, rule: &str) -> Finding {
    let all = found(text, inputs);
    let of = all.iter().find(|f| f.rule == rule);
    of.unwrap_or_else(|| panic!("no {rule} in {all:#?}")).clone()
}

pub(super) fn service(annotations: &[(&str, &str)], spec: &str) -> String {
    let annotations: String = annotations
        .iter()
        .map(|(name, value)| format!("    service.beta.kubernetes.io/{name}: \"{value}\"\n"))
        .collect();
    let map = if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n{map}spec:\n  {spec}\n  ports: [{{port: 80}}]\n"
    )
}

/// An Ingress of namespace `shop` before Service `web`.
pub(super) fn ingress(name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
    let annotations: String =
        annotations.iter().map(|(name, value)| format!("    {name}: '{value}'\n")).collect();
    let map = if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: shop\n{map}spec:\n  {spec}\n  \
         defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}\n"
    )
}

/// One that answers a host of its own, and no other.
fn of_its_host(name: &str, annotations: &[(&str, &str)]) -> String {
    let backend = "{service: {name: web, port: {number: 80}}}";
    let paths = format!("[{{path: /, pathType: Prefix, backend: {backend}}}]");
    let rules = format!("{ALB}\n  rules: [{{host: {name}.example.com, http: {{paths: {paths}}}}}]");
    ingress(name, annotations, &rules).split_once("  defaultBackend").unwrap().0.to_owned()
}

pub(super) const ALB: &str = "ingressClassName: alb";
pub(super) const PUBLIC: (&str, &str) = ("alb.ingress.kubernetes.io/scheme", "internet-facing");
const AZURE_INTERNAL: &str = "service.beta.kubernetes.io/azure-load-balancer-internal: \"true\"";

#[test]
fn a_service_inside_the_network_stays_inside() {
    let internal = [
        service(&[], "type: LoadBalancer\n  loadBalancerClass: service.k8s.aws/nlb"),
        service(&[], "type: LoadBalancer\n  loadBalancerClass: eks.amazonaws.com/nlb"),
        service(&[("aws-load-balancer-type", "external")], "type: LoadBalancer"),
        service(&[("aws-load-balancer-type", "nlb-ip")], "type: LoadBalancer"),
        service(&[("aws-load-balancer-internal", "10.0.0.0/8")], "type: LoadBalancer"),
        service(&[("aws-load-balancer-internal", "True")], "type: LoadBalancer"),
        service(
            &[("aws-load-balancer-internal", "")],
            "type: LoadBalancer\n  loadBalancerClass: service.k8s.aws/nlb",
        ),
        service(&[("aws-load-balancer-scheme", "Internal")], "type: LoadBalancer"),
        service(
            &[("aws-load-balancer-internal", "true"), ("aws-load-balancer-scheme", "internet-facing")],
            "type: LoadBalancer",
        ),
        service(
            &[("aws-load-balancer-internal", "true"), ("aws-load-balancer-scheme", "internal")],
            "type: LoadBalancer",
        ),
        service(
            &[("azure-load-balancer-internal", "true"), ("aws-load-balancer-scheme", "internal")],
            "type: LoadBalancer",
        ),
        service(
            &[("aws-load-balancer-scheme", "internet-facing"), ("aws-load-balancer-security-groups", "sg-1")],
            "type: LoadBalancer",
        ),
    ];
    for text in internal {
        let done = done(&text, &Inputs::default());
        assert_eq!(done.matches(AZURE_INTERNAL).count(), 1, "{text}\n{done}");
        assert!(!done.contains("loadBalancerClass"), "{done}");
    }
    let public = [
        service(
            &[("aws-load-balancer-type", "external"), ("aws-load-balancer-scheme", "internet-facing")],
            "type: LoadBalancer",
        ),
        service(
            &[("aws-load-balancer-internal", "false")],
            "type: LoadBalancer\n  loadBalancerClass: service.k8s.aws/nlb",
        ),
        service(&[("aws-load-balancer-type", "nlb")], "type: LoadBalancer"),
        service(&[("aws-load-balancer-internal", "")], "type: LoadBalancer"),
        service(&[("aws-load-balancer-type", "external")], "type: NodePort"),
    ];
    for text in public {
        let done = done(&text, &Inputs::default());
        assert!(!done.contains("load-balancer-internal"), "{text}\n{done}");
    }
}

#[test]
fn what_a_rewrite_wrote_to_keep_a_service_inside_is_a_persons_to_take_away() {
    let guards = ("aws-load-balancer-security-groups", "sg-1");
    let text = service(&[("aws-load-balancer-scheme", "internet-facing"), guards], "type: LoadBalancer");
    for rule in ["EKS-NET-045", "EKS-NET-046"] {
        let fix = finding(&text, &Inputs::default(), rule).fix;
        assert!(fix.contains("azure-load-balancer-internal") && fix.contains("away"), "{fix}");
    }
}

#[test]
fn what_a_service_says_of_who_may_reach_it_is_left_for_a_person() {
    for name in [
        "aws-load-balancer-security-groups",
        "aws-load-balancer-extra-security-groups",
        "aws-load-balancer-security-group-prefix-lists",
    ] {
        let text = service(&[(name, "sg-1")], "type: LoadBalancer");
        let done = done(&text, &Inputs::default());
        assert!(done.contains(name), "{done}");
        let left = finding(&done, &Inputs::default(), "EKS-NET-045");
        assert_eq!((left.action, left.severity), (RuleKind::Manual, RuleSeverity::Error));
    }
    let ranges = "type: LoadBalancer\n  loadBalancerSourceRanges: [192.0.2.0/24]";
    let said = done(&service(&[("aws-load-balancer-security-groups", "sg-1")], ranges), &Inputs::default());
    assert!(!said.contains("azure-load-balancer-internal"), "{said}");
}

#[test]
fn a_guarded_service_that_is_inside_anyway_is_told_as_such() {
    let guard = ("aws-load-balancer-security-groups", "sg-1");
    let class = "type: LoadBalancer\n  loadBalancerClass: service.k8s.aws/nlb";
    let by_default = rules(&service(&[guard], class), &Inputs::default());
    assert_eq!(by_default, ["EKS-NET-032", "EKS-NET-043", "EKS-NET-045"]);
    let said = service(&[guard, ("aws-load-balancer-scheme", "internal")], class);
    assert_eq!(rules(&said, &Inputs::default()), ["EKS-NET-017", "EKS-NET-032", "EKS-NET-045"]);
}

#[test]
fn an_unknown_setting_of_a_load_balancer_is_told_once() {
    let text = service(&[("aws-load-balancer-quic-enabled-ports", "443")], "type: LoadBalancer");
    assert_eq!(rules(&text, &Inputs::default()), ["EKS-NET-047"]);
    // Whatever another rule names is not unknown.
    for rule in RuleSet::shipped().rules().filter(|rule| rule.id != "EKS-NET-047") {
        for example in rule.examples.iter().filter(|example| example.before.contains("aws-load-balancer-")) {
            let found = rules(example.before.trim_start(), &Inputs::default());
            assert!(!found.contains(&"EKS-NET-047".to_owned()), "{}: {found:?}", rule.id);
        }
    }
}

#[test]
fn an_ingress_inside_the_network_is_not_converted() {
    let scheme = |value| [("alb.ingress.kubernetes.io/scheme", value)];
    for target in ["gateway", "nginx"] {
        for text in [
            ingress("web", &[], ALB),
            ingress("web", &scheme("internal"), ALB),
            ingress("web", &[("alb.ingress.kubernetes.io/target-type", "ip")], ALB),
            ingress("web", &[("kubernetes.io/ingress.class", "alb")], ""),
        ] {
            let inputs = inputs(target);
            assert_eq!(done(&text, &inputs), text);
            assert!(!finding(&text, &inputs, "EKS-NET-001").rewritten);
            finding(&text, &inputs, "EKS-NET-002");
        }
        let public = ingress("web", &[PUBLIC], ALB);
        assert!(!done(&public, &inputs(target)).contains("ingressClassName: alb"));
        assert!(!rules(&public, &inputs(target)).contains(&"EKS-NET-002".to_owned()));
    }
}

#[test]
fn what_one_ingress_says_of_the_load_balancer_is_true_of_all_that_share_it() {
    let group = ("alb.ingress.kubernetes.io/group.name", "g");
    let two = |first: &[(&str, &str)], second: &[(&str, &str)]| {
        let first: Vec<_> = first.iter().copied().chain([group]).collect();
        let second: Vec<_> = second.iter().copied().chain([group]).collect();
        format!("{}---\n{}", ingress("a", &first, ALB), ingress("b", &second, ALB))
    };
    let gateway = inputs("gateway");
    // One says that it is public, the other nothing.
    let converted = done(&two(&[PUBLIC], &[]), &gateway);
    assert!(!converted.contains("kind: Ingress"), "{converted}");
    assert_eq!(converted.matches("kind: Gateway\n").count(), 1, "{converted}");
    // One that is internal, or guarded, keeps both.
    for other in [
        ("alb.ingress.kubernetes.io/scheme", "internal"),
        ("alb.ingress.kubernetes.io/wafv2-acl-arn", "arn"),
        ("alb.ingress.kubernetes.io/security-groups", "sg-1"),
        ("alb.ingress.kubernetes.io/mutual-authentication", "[]"),
    ] {
        let text = two(&[PUBLIC], &[other]);
        assert_eq!(done(&text, &gateway), text);
    }
    // Addresses that only the other one says would not hold for this one in NGINX.
    let addresses = ("alb.ingress.kubernetes.io/inbound-cidrs", "10.0.0.0/8");
    let text = two(&[PUBLIC], &[PUBLIC, addresses]);
    assert_eq!(done(&text, &inputs("nginx")), text);
    let both = done(&two(&[PUBLIC, addresses], &[PUBLIC, addresses]), &inputs("nginx"));
    assert_eq!(both.matches("whitelist-source-range: '10.0.0.0/8'").count(), 2, "{both}");
    // A log-in is that of its own hosts: the other one makes the Gateway, and has its listener.
    let login = ("alb.ingress.kubernetes.io/auth-type", "oidc");
    let text =
        format!("{}---\n{}", of_its_host("a", &[PUBLIC, group, login]), of_its_host("b", &[PUBLIC, group]));
    let converted = done(&text, &gateway);
    assert!(converted.contains("auth-type: 'oidc'") && converted.contains("kind: Gateway\n"), "{converted}");
    // Once it is solved, the Gateway that is there is used, and not made again.
    let solved = converted.replace("    alb.ingress.kubernetes.io/auth-type: 'oidc'\n", "");
    let converted = done(&solved, &gateway);
    assert_eq!(converted.matches("kind: Gateway\n").count(), 1, "{converted}");
    assert!(!converted.contains("kind: Ingress"), "{converted}");
}

#[test]
fn plain_requests_go_to_https_for_all_that_share_the_load_balancer() {
    let group = ("alb.ingress.kubernetes.io/group.name", "g");
    let redirect = ("alb.ingress.kubernetes.io/ssl-redirect", "443");
    let ports = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP": 80}, {"HTTPS": 443}]"#);
    let arn = ("alb.ingress.kubernetes.io/certificate-arn", "arn");
    let login = ("alb.ingress.kubernetes.io/auth-type", "oidc");
    let first = ingress("a", &[PUBLIC, group, redirect, ports, arn], ALB);
    let (gateway, nginx) = (inputs("gateway"), inputs("nginx"));
    let answers_plainly = |text: &str| {
        let routes = text.split("---\n").filter(|text| text.contains("kind: HTTPRoute\n"));
        routes
            .filter(|route| route.contains("backendRefs"))
            .any(|route| route.contains("sectionName: http-80"))
    };
    // One that doesn't listen on HTTPS answers nothing on its load balancer.
    for (second, answers) in [(&[PUBLIC, group, ports][..], true), (&[PUBLIC, group][..], false)] {
        for text in [
            format!("{first}---\n{}", ingress("b", second, ALB)),
            format!("{}---\n{first}", ingress("b", second, ALB)),
        ] {
            let converted = done(&text, &gateway);
            assert_eq!(converted.contains("  name: b\n"), answers, "{converted}");
            assert!(!converted.contains("kind: Ingress"), "{converted}");
            assert!(!answers_plainly(&converted), "{converted}");
            assert!(converted.contains("name: b-redirect\n"), "{converted}");
            let sent = done(&text, &nginx).matches("force-ssl-redirect: \"true\"").count();
            assert_eq!(sent, 1 + usize::from(answers));
        }
    }
    // Also where it is converted later, and nobody else says so any more.
    let later = [PUBLIC, group, ports, arn, login];
    let both = [of_its_host("a", &[PUBLIC, group, redirect, ports, arn]), of_its_host("b", &later)];
    let once = done(&both.join("---\n"), &gateway);
    assert_eq!(once.matches("kind: Ingress\n").count(), 1, "{once}");
    let converted = done(&once.replace("    alb.ingress.kubernetes.io/auth-type: 'oidc'\n", ""), &gateway);
    assert!(!converted.contains("kind: Ingress") && !answers_plainly(&converted), "{converted}");
    // One that shares nothing with it answers as before.
    let alone = done(&format!("{first}---\n{}", ingress("b", &[PUBLIC, ports, arn], ALB)), &gateway);
    assert!(answers_plainly(&alone), "{alone}");
}

#[test]
fn what_keeps_somebody_out_is_never_lost_in_a_conversion() {
    let open = [
        ("alb.ingress.kubernetes.io/auth-type", "EKS-NET-007"),
        ("alb.ingress.kubernetes.io/auth-idp-oidc", "EKS-NET-007"),
        ("alb.ingress.kubernetes.io/jwt-validation", "EKS-NET-007"),
        ("alb.ingress.kubernetes.io/mutual-authentication", "EKS-NET-007"),
        ("alb.ingress.kubernetes.io/wafv2-acl-arn", "EKS-NET-006"),
        ("alb.ingress.kubernetes.io/wafv2-acl-name", "EKS-NET-006"),
        ("alb.ingress.kubernetes.io/waf-acl-id", "EKS-NET-006"),
        ("alb.ingress.kubernetes.io/shield-advanced-protection", "EKS-NET-006"),
        ("alb.ingress.kubernetes.io/security-groups", "EKS-NET-004"),
        ("alb.ingress.kubernetes.io/security-group-prefix-lists", "EKS-NET-004"),
        ("alb.ingress.kubernetes.io/prefix-list-ids", "EKS-NET-004"),
        ("alb.ingress.kubernetes.io/conditions.web", "EKS-NET-009"),
        ("alb.ingress.kubernetes.io/transforms.web", "EKS-NET-009"),
        ("alb.ingress.kubernetes.io/inbound-cidrs", "EKS-NET-004"),
    ];
    for target in ["gateway", "nginx"] {
        for (name, rule) in open {
            let text = ingress("web", &[PUBLIC, (name, "x")], ALB);
            let inputs = inputs(target);
            if target == "nginx" && name.ends_with("inbound-cidrs") {
                assert!(done(&text, &inputs).contains("whitelist-source-range: 'x'"));
                continue;
            }
            assert_eq!(done(&text, &inputs), text);
            finding(&text, &inputs, rule);
            assert!(finding(&text, &inputs, "EKS-NET-001").message.contains(rule), "{name}");
        }
    }
    // The Service of an Ingress may ask for the log-in, too.
    let login = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations:\n    \
                 alb.ingress.kubernetes.io/auth-type: oidc\nspec: {ports: [{port: 80}]}\n";
    let text = ingress("web", &[PUBLIC], ALB) + login;
    assert_eq!(done(&text, &inputs("gateway")), text);
    finding(&text, &inputs("gateway"), "EKS-NET-007");
}

#[test]
fn ingresses_of_one_name_in_several_folders_are_not_one() {
    let addresses = ("alb.ingress.kubernetes.io/inbound-cidrs", "10.0.0.0/8");
    let internal = ("alb.ingress.kubernetes.io/scheme", "internal");
    let guarded = ingress("web", &[PUBLIC, addresses], ALB);
    let text =
        format!("{}---\n{}---\n{guarded}", ingress("web", &[PUBLIC], ALB), ingress("web", &[internal], ALB));
    let done = done(&text, &inputs("nginx"));
    assert_eq!(done.matches("ingressClassName: alb").count(), 1, "{done}");
    assert_eq!(done.matches("scheme: 'internal'").count(), 1, "{done}");
}

/// The annotations that rules for a person name are those that keep an Ingress as it is.
#[test]
fn every_setting_of_those_rules_keeps_an_ingress() {
    let set = RuleSet::shipped();
    let named = ["EKS-NET-004", "EKS-NET-006", "EKS-NET-007", "EKS-NET-009"];
    let paths = set.rules().filter(|rule| named.contains(&rule.id.as_str())).flat_map(|rule| &rule.paths);
    let settings: Vec<String> =
        paths.filter_map(|path| Some(path.split('"').nth(1)?.replace('*', "x"))).collect();
    assert!(settings.len() > 10, "{settings:?}");
    for name in settings {
        let text = ingress("web", &[PUBLIC, (&name, "x")], ALB);
        assert_eq!(done(&text, &inputs("gateway")), text, "{name}");
    }
}

fn class(name: &str, controller: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}{more}}}\nspec:\n  controller: {controller}\n"
    )
}

#[test]
fn an_ingress_is_known_by_the_controller_of_its_class() {
    let gateway = inputs("gateway");
    for controller in ["ingress.k8s.aws/alb", "eks.amazonaws.com/alb"] {
        // The class may come after its Ingress.
        let text = format!(
            "{}---\n{}",
            ingress("web", &[], "ingressClassName: office"),
            class("office", controller, "")
        );
        assert!(!finding(&text, &gateway, "EKS-NET-001").rewritten);
        finding(&text, &gateway, "EKS-NET-002");
        // The class goes, and is not missed.
        let rewritten = done(&text, &gateway);
        assert!(!rewritten.contains("IngressClass\n"), "{rewritten}");
        finding(&rewritten, &gateway, "EKS-NET-001");
        finding(&rewritten, &gateway, "EKS-NET-002");
        let public = done(
            &text.replace(
                "spec:\n  ingress",
                "  annotations: {alb.ingress.kubernetes.io/scheme: internet-facing}\nspec:\n  ingress",
            ),
            &gateway,
        );
        assert!(public.contains("kind: Gateway\n") && !public.contains("kind: Ingress"), "{public}");
    }
    // The default class.
    let default = ", annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}";
    let text =
        format!("{}---\n{}", class("eks-auto", "eks.amazonaws.com/alb", default), ingress("web", &[], ""));
    finding(&text, &gateway, "EKS-NET-001");
    finding(&done(&text, &gateway), &gateway, "EKS-NET-001");
    // A class called `alb` of somebody else.
    let text = format!("{}---\n{}", class("alb", "example.com/alb", ""), ingress("web", &[PUBLIC], ALB));
    assert_eq!(rules(&text, &gateway), [] as [String; 0]);
    // No class in reach.
    let text = ingress("web", &[PUBLIC], "ingressClassName: office");
    assert_eq!(rules(&text, &gateway), ["EKS-NET-049"]);
    assert_eq!(done(&text, &gateway), text);
}

#[test]
fn what_a_class_says_of_its_ingresses_is_kept() {
    let gateway = inputs("gateway");
    let of = |params: &str, ingress: &str| {
        let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: alb}\nspec:\n  controller: ingress.k8s.aws/alb\n  \
                     parameters: {apiGroup: elbv2.k8s.aws, kind: IngressClassParams, name: p}\n";
        format!("{class}---\n{params}{ingress}")
    };
    let params = |spec: &str| {
        format!(
            "apiVersion: elbv2.k8s.aws/v1beta1\nkind: IngressClassParams\nmetadata: {{name: p}}\nspec:\n  {spec}\n---\n"
        )
    };
    // The class goes before the annotation.
    let text = of(&params("scheme: internal"), &ingress("web", &[PUBLIC], ALB));
    let rewritten = done(&text, &gateway);
    assert!(rewritten.contains("alb.ingress.kubernetes.io/scheme: 'internal'"), "{rewritten}");
    assert!(rewritten.contains("kind: Ingress\n") && !rewritten.contains("kind: Gateway\n"), "{rewritten}");
    finding(&rewritten, &gateway, "EKS-NET-002");

    let text = of(
        &params("scheme: internet-facing\n  inboundCIDRs: [192.0.2.0/24, 198.51.100.0/24]"),
        &ingress("web", &[], ALB),
    );
    let rewritten = done(&text, &gateway);
    assert!(rewritten.contains("inbound-cidrs: \"192.0.2.0/24,198.51.100.0/24\""), "{rewritten}");
    assert!(rewritten.contains("kind: Ingress\n") && rewritten.contains("IngressClassParams"), "{rewritten}");
    finding(&rewritten, &gateway, "EKS-NET-004");
    finding(&rewritten, &gateway, "EKS-NET-050");

    let text = of(&params("scheme: internet-facing\n  group: {name: g}"), &ingress("web", &[], ALB));
    let rewritten = done(&text, &gateway);
    assert!(rewritten.contains("kind: Gateway\nmetadata:\n  name: g\n"), "{rewritten}");
    assert!(!rewritten.contains("IngressClass"), "{rewritten}");

    // What nobody has seen may keep somebody out.
    let text = of("", &ingress("web", &[PUBLIC], ALB));
    assert_eq!(done(&text, &gateway), text);
    assert!(!finding(&text, &gateway, "EKS-NET-013").rewritten);
}

#[test]
fn annotations_of_others_go_where_they_are_read() {
    let text = ingress(
        "web",
        &[
            PUBLIC,
            ("alb.ingress.kubernetes.io/certificate-arn", "arn"),
            ("alb.ingress.kubernetes.io/healthcheck-path", "/"),
            ("cert-manager.io/cluster-issuer", "letsencrypt"),
            ("external-dns.alpha.kubernetes.io/hostname", "shop.example.com"),
            ("external-dns.alpha.kubernetes.io/target", "192.0.2.1"),
            ("argocd.argoproj.io/sync-wave", "5"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        ],
        ALB,
    );
    let inputs = inputs("gateway");
    let done = done(&text, &inputs);
    let of = |kind: &str| {
        let all = done.split("---\n").find(|text| text.contains(&format!("kind: {kind}\n"))).unwrap();
        all[..all.find("\nspec:").unwrap()].to_owned()
    };
    let has = |kind: &str, words: [bool; 5]| {
        let text = of(kind);
        let names = [
            "cluster-issuer: letsencrypt",
            "/hostname: shop",
            "/target: ",
            "sync-wave: \"5\"",
            "last-applied",
        ];
        for (name, expected) in names.iter().zip(words) {
            assert_eq!(text.contains(name), expected, "{kind}: {name}\n{text}");
        }
    };
    has("Gateway", [true, false, true, true, false]);
    has("HTTPRoute", [false, true, false, true, false]);
    has("HealthCheckPolicy", [false, false, false, true, false]);
    // What cert-manager needs besides is told, before and after.
    finding(&text, &inputs, "EKS-NET-048");
    finding(&done, &inputs, "EKS-NET-048");
}

#[test]
fn two_ingresses_of_one_service_make_one_policy() {
    let probed = |name: &str, path: &str| {
        ingress(name, &[PUBLIC, ("alb.ingress.kubernetes.io/healthcheck-path", path)], ALB)
    };
    let text = format!("{}---\n{}", probed("b", "/b"), probed("a", "/a"));
    let once = done(&text, &inputs("gateway"));
    assert_eq!(once.matches("kind: HealthCheckPolicy").count(), 1, "{once}");
    assert!(once.contains("path: /a"), "{once}");
    // One that was made before counts.
    let later = format!("{once}---\n{}", probed("c", "/c"));
    let later = done(&later, &inputs("gateway"));
    assert_eq!(later.matches("kind: HealthCheckPolicy").count(), 1, "{later}");
}

#[test]
fn routes_have_at_most_sixteen_rules_and_names() {
    let path = |at: usize| {
        format!(
            "{{path: /{at}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}"
        )
    };
    let paths: Vec<String> = (0..33).map(path).collect();
    let rules = |host: String| format!("{{host: {host}, http: {{paths: [{}]}}}}", paths.join(", "));
    let text = ingress("web", &[PUBLIC], &format!("{ALB}\n  rules: [{}]", rules("a.example.com".to_owned())));
    let once = done(&text, &inputs("gateway"));
    for name in ["web", "web-2", "web-3", "web-4"] {
        assert_eq!(
            once.matches(&format!("kind: HTTPRoute\nmetadata:\n  name: {name}\n")).count(),
            1,
            "{name}\n{once}"
        );
    }
    assert_eq!(once.matches("value: /").count(), 34, "{once}");

    let hosts: Vec<String> =
        (0..17).map(|at| format!("{{host: h{at}.example.com, http: {{paths: [{}]}}}}", path(0))).collect();
    let redirect = ("alb.ingress.kubernetes.io/ssl-redirect", "443");
    let ports = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP": 80}, {"HTTPS": 443}]"#);
    let arn = ("alb.ingress.kubernetes.io/certificate-arn", "arn");
    let text =
        ingress("web", &[PUBLIC, redirect, ports, arn], &format!("{ALB}\n  rules: [{}]", hosts.join(", ")));
    let (text, _) = text.split_once("  defaultBackend").unwrap();
    let once = done(text, &inputs("gateway"));
    assert!(once.contains("name: web-redirect\n") && once.contains("name: web-redirect-2\n"), "{once}");
}

#[test]
fn the_probe_of_a_load_balancer_is_one_that_azure_takes() {
    let probe = |interval: Option<&str>, failures: Option<&str>| -> (Option<u64>, Option<u64>) {
        let mut all = Vec::new();
        all.extend(interval.map(|value| ("aws-load-balancer-healthcheck-interval", value)));
        all.extend(failures.map(|value| ("aws-load-balancer-healthcheck-unhealthy-threshold", value)));
        let done = done(&service(&all, "type: LoadBalancer"), &Inputs::default());
        let number = |name: &str| {
            let rest = done.split_once(&format!("health-probe-{name}: \""))?.1;
            rest.split_once('"')?.0.parse::<u64>().ok()
        };
        (number("interval"), number("num-of-probe"))
    };
    assert_eq!(probe(Some("10"), Some("3")), (Some(10), Some(3)));
    assert_eq!(probe(Some("30"), Some("5")), (Some(23), Some(5)));
    assert_eq!(probe(Some("60"), None), (Some(59), None));
    assert_eq!(probe(Some("2"), Some("1")), (Some(5), Some(2)));
    assert_eq!(probe(None, Some("100")), (None, Some(23)));
    assert_eq!(probe(Some("300"), Some("100")), (Some(5), Some(23)));
    let text = service(&[("aws-load-balancer-healthcheck-interval", "60")], "type: LoadBalancer");
    let said = finding(&text, &Inputs::default(), "EKS-NET-021").message;
    assert!(said.contains("becomes 59") && said.contains("less than 120 seconds"), "{said}");
}

#[test]
fn the_disk_of_a_node_is_one_that_aks_takes() {
    let size = |sizes: &[&str]| {
        let disks: Vec<String> =
            sizes.iter().map(|size| format!("{{ebs: {{volumeSize: {size}}}}}")).collect();
        let text = format!(
            "apiVersion: karpenter.k8s.aws/v1\nkind: EC2NodeClass\nmetadata: {{name: n}}\nspec: {{blockDeviceMappings: [{}]}}\n",
            disks.join(", ")
        );
        let done = done(&text, &Inputs::default());
        done.split_once("osDiskSizeGB: ").map(|(_, number)| number.trim().to_owned())
    };
    assert_eq!(size(&["4Gi", "100Gi"]).as_deref(), Some("100"));
    assert_eq!(size(&["20Gi"]).as_deref(), Some("30"));
    assert_eq!(size(&["1Ti"]).as_deref(), Some("1024"));
    assert_eq!(size(&["3Ti"]).as_deref(), Some("2048"));
    assert_eq!(size(&["100G"]).as_deref(), Some("94"));
    assert_eq!(size(&[]), None);
}
