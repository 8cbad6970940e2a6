//! What an Ingress of AWS answers, and how: the same afterwards, or it stays.

use super::document::read;
use super::facts::Facts;
use super::network_tests::{ALB, PUBLIC, done, finding, ingress, inputs};
use super::object::objects;
use super::tests::found;
use super::*;

/// Paths of one host as an Ingress has them.
fn paths(paths: &[&str]) -> String {
    let path = |path: &&str| format!("{{{path}, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}");
    let paths: Vec<String> = paths.iter().map(path).collect();
    format!("{ALB}\n  rules: [{{host: a.example.com, http: {{paths: [{}]}}}}]", paths.join(", "))
}

#[test]
fn nginx_answers_the_paths_that_the_load_balancer_answered() {
    let becomes = |before: &str, after: &str| {
        let text = done(&ingress("web", &[PUBLIC], &paths(&[before])), &inputs("nginx"));
        assert!(text.contains("webapprouting.kubernetes.azure.com"), "{before}\n{text}");
        let said = |name: &str| {
            let rest = text.split_once(&format!("{name}: "))?.1;
            rest.split([',', '}']).next().map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        assert_eq!(format!("{} {}", said("pathType").unwrap(), said("path").unwrap()), after, "{text}");
    };
    becomes("path: /webhook, pathType: ImplementationSpecific", "Exact /webhook");
    becomes("path: /webhook", "Exact /webhook");
    becomes("path: /, pathType: ImplementationSpecific", "Exact /");
    becomes("path: /webhook, pathType: Exact", "Exact /webhook");
    becomes("path: /webhook, pathType: Prefix", "Prefix /webhook");
    becomes("path: /, pathType: Prefix", "Prefix /");
    becomes("path: /api/*, pathType: ImplementationSpecific", "Prefix /api");
    becomes("path: /*, pathType: ImplementationSpecific", "Prefix /");
    becomes("path: '*', pathType: ImplementationSpecific", "Prefix /");
    becomes("pathType: ImplementationSpecific", "Prefix /");
}

#[test]
fn a_path_that_can_not_be_said_keeps_the_ingress() {
    let regex = ("alb.ingress.kubernetes.io/use-regex-path-match", "true");
    for target in ["nginx", "gateway"] {
        let inputs = inputs(target);
        for path in ["/a/*/b", "/a?", "/a*", "/*/b/*"] {
            let said = format!("path: \"{path}\", pathType: ImplementationSpecific");
            let text =
                ingress("web", &[PUBLIC], &paths(&["path: /x, pathType: ImplementationSpecific", &said]));
            assert_eq!(done(&text, &inputs), text);
            let message = finding(&text, &inputs, "EKS-NET-001").message;
            assert!(message.contains(&format!("path `{path}` has a wildcard")), "{message}");
        }
        let text = ingress("web", &[PUBLIC, regex], &paths(&["path: /v1, pathType: ImplementationSpecific"]));
        assert_eq!(done(&text, &inputs), text);
        let message = finding(&text, &inputs, "EKS-NET-001").message;
        assert!(message.contains("regular expression"), "{message}");
    }
}

const HTTPS: (&str, &str) = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTPS":443}]"#);
const BOTH: (&str, &str) = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80},{"HTTPS":443}]"#);
const GROUP: (&str, &str) = ("alb.ingress.kubernetes.io/group.name", "g");

fn arns(arns: &str) -> (&str, &str) {
    ("alb.ingress.kubernetes.io/certificate-arn", arns)
}

/// Routes of the hosts, and what else the Ingress says.
fn hosts(hosts: &[&str], more: &str) -> String {
    let backend = "{service: {name: web, port: {number: 80}}}";
    let host = |host: &&str| {
        format!("{{host: \"{host}\", http: {{paths: [{{path: /, pathType: Prefix, backend: {backend}}}]}}}}")
    };
    let rules: Vec<String> = hosts.iter().map(host).collect();
    format!("{ALB}\n  rules: [{}]{more}", rules.join(", "))
}

fn with_certificates(target: &str, certificates: &[(&str, &str)]) -> Inputs {
    let mut inputs = inputs(target);
    inputs.certificates = certificates.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    inputs
}

fn needs(text: &str, inputs: &Inputs) -> Vec<String> {
    assert_eq!(done(text, inputs), text, "it stays");
    finding(text, inputs, "EKS-NET-001").needs
}

const REDIRECT: &str = "nginx.ingress.kubernetes.io/force-ssl-redirect: \"true\"";

#[test]
fn a_host_whose_certificate_aws_finds_needs_one_that_is_named() {
    let text = ingress("web", &[PUBLIC, HTTPS], &hosts(&["a.example.com", "b.example.com"], ""));
    for target in ["nginx", "gateway"] {
        assert_eq!(
            needs(&text, &inputs(target)),
            [r#"rewrite.certificates."a.example.com""#, r#"rewrite.certificates."b.example.com""#]
        );
    }
    let named = [("a.example.com", "a-tls"), ("b.example.com", "b-tls")];
    let converted = done(&text, &with_certificates("nginx", &named));
    for entry in [
        "- hosts:\n    - a.example.com\n    secretName: a-tls",
        "- hosts:\n    - b.example.com\n    secretName: b-tls",
    ] {
        assert!(converted.contains(entry), "{converted}");
    }
    assert!(converted.contains(REDIRECT), "{converted}");
    let converted = done(&text, &with_certificates("gateway", &named));
    assert!(converted.contains("name: a-tls") && converted.contains("name: b-tls"), "{converted}");
    // One certificate of both.
    let both = [("a.example.com", "tls"), ("b.example.com", "tls")];
    let converted = done(&text, &with_certificates("nginx", &both));
    assert_eq!(converted.matches("secretName: tls").count(), 1, "{converted}");
    // No TLS, no certificate.
    let text = ingress("web", &[PUBLIC], &hosts(&["a.example.com"], ""));
    let converted = done(&text, &inputs("nginx"));
    assert!(!converted.contains("tls:") && !converted.contains(REDIRECT), "{converted}");
}

#[test]
fn a_host_without_a_secret_in_tls_needs_one() {
    let both = ["a.example.com", "b.example.com"];
    let named = with_certificates("nginx", &[("b.example.com", "b-tls"), ("arn", "arn-tls")]);
    let some = "\n  tls: [{hosts: [a.example.com], secretName: own}, {hosts: [b.example.com]}]";
    let text = ingress("web", &[PUBLIC, BOTH], &hosts(&both, some));
    assert_eq!(needs(&text, &inputs("nginx")), [r#"rewrite.certificates."b.example.com""#]);
    let secrets = |text: &str| {
        let converted = done(text, &named);
        let tls = converted.split_once("tls:").unwrap().1.replace(['"', '\''], "");
        ["own", "b-tls", "arn-tls"].map(|name| tls.contains(&format!("secretName: {name}")))
    };
    assert_eq!(secrets(&text), [true, true, false]);
    let text = ingress("web", &[PUBLIC, BOTH, arns("arn")], &hosts(&both, some));
    assert_eq!(secrets(&text), [true, false, true]);
    // A Secret for all is for all, and one for nobody says nothing on a load balancer without TLS.
    let all = "\n  tls: [{secretName: own}]";
    let text = ingress("web", &[PUBLIC, BOTH], &hosts(&both, all));
    assert_eq!(secrets(&text), [true, false, false]);
    let open = "\n  tls: [{hosts: [a.example.com]}]";
    let converted = done(&ingress("web", &[PUBLIC], &hosts(&both, open)), &named);
    assert!(!converted.contains("tls"), "{converted}");
}

#[test]
fn each_of_several_certificates_is_for_its_hosts() {
    let text =
        ingress("web", &[PUBLIC, HTTPS, arns("one,two")], &hosts(&["a.example.com", "b.example.com"], ""));
    let converted = done(&text, &with_certificates("nginx", &[("one", "one-tls"), ("two", "two-tls")]));
    // NGINX looks into the certificates where no entry names the host.
    let tls = converted.split_once("  tls:\n").unwrap().1;
    assert!(tls.contains("secretName: one-tls") && tls.contains("secretName: two-tls"), "{converted}");
    assert!(!tls.contains("hosts"), "{converted}");
}

#[test]
fn a_certificate_of_one_ingress_is_not_taken_for_anothers_host() {
    let first = ingress("a", &[PUBLIC, GROUP, HTTPS, arns("arn")], &hosts(&["a.example.com"], ""));
    let second = ingress("b", &[PUBLIC, GROUP, HTTPS], &hosts(&["b.example.com"], ""));
    let text = format!("{first}---\n{second}");
    let found = finding(&text, &inputs("gateway"), "EKS-NET-001");
    assert_eq!(found.needs, [r#"rewrite.certificates."b.example.com""#]);
    let named = with_certificates("gateway", &[("arn", "a-tls"), ("b.example.com", "b-tls")]);
    let converted = done(&text, &named);
    assert!(converted.contains("name: a-tls") && converted.contains("name: b-tls"), "{converted}");
}

#[test]
fn a_certificate_of_one_ingress_is_that_of_the_same_host_of_another() {
    let shop = |more: &str| hosts(&["shop.example.com"], more);
    let secret = shop("\n  tls: [{hosts: [shop.example.com], secretName: a-tls}]");
    let second = ingress("b", &[PUBLIC, GROUP, HTTPS], &shop(""));
    let named = with_certificates("gateway", &[("arn", "a-tls")]);
    let first = ingress("a", &[PUBLIC, GROUP, HTTPS], &secret);
    for text in [format!("{first}---\n{second}"), format!("{second}---\n{first}")] {
        let converted = done(&text, &named);
        assert!(!converted.contains("kind: Ingress") && converted.contains("name: a-tls"), "{converted}");
    }
    // One that listens on no HTTPS has none.
    let plain = [PUBLIC, GROUP, ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80}]"#), arns("arn")];
    let text = format!("{}---\n{second}", ingress("a", &plain, &shop("")));
    let found = finding(&text, &named, "EKS-NET-001");
    assert_eq!(found.needs, [r#"rewrite.certificates."shop.example.com""#]);
}

#[test]
fn one_that_only_sends_to_https_needs_no_certificate_of_its_own() {
    let shop = hosts(&["shop.example.com"], "");
    let http = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80}]"#);
    let action = (
        "alb.ingress.kubernetes.io/actions.ssl-redirect",
        r#"{"Type":"redirect","RedirectConfig":{"Protocol":"HTTPS","Port":"443","StatusCode":"HTTP_301"}}"#,
    );
    let by_action = shop
        .replace("path: /, pathType: Prefix", "path: /*, pathType: ImplementationSpecific")
        .replace("name: web, port: {number: 80}", "name: ssl-redirect, port: {name: use-annotation}");
    let first = ingress("a", &[PUBLIC, GROUP, HTTPS, arns("arn")], &shop);
    let named = with_certificates("gateway", &[("arn", "a-tls")]);
    for second in [
        ingress("r", &[PUBLIC, GROUP, http, ("alb.ingress.kubernetes.io/ssl-redirect", "443")], &shop),
        ingress("r", &[PUBLIC, GROUP, http, action], &by_action),
    ] {
        let (second, _) = second.split_once("  defaultBackend").unwrap();
        let converted = done(&format!("{first}---\n{second}"), &named);
        assert!(!converted.contains("kind: Ingress"), "{converted}");
        assert!(converted.contains("name: a-tls") && converted.contains("name: r-redirect"), "{converted}");
    }
}

#[test]
fn a_wildcard_in_tls_is_for_its_hosts() {
    let both = ["a.example.com", "b.example.com"];
    let wild = "\n  tls: [{hosts: [\"*.example.com\"], secretName: wild}]";
    let converted = done(&ingress("web", &[PUBLIC, HTTPS], &hosts(&both, wild)), &inputs("nginx"));
    assert!(converted.contains(wild) && !converted.contains("alb.ingress"), "{converted}");
    // It is for one label.
    for host in ["example.com", "x.a.example.com"] {
        let text = ingress("web", &[PUBLIC, HTTPS], &hosts(&[host], wild));
        assert_eq!(needs(&text, &inputs("nginx")), [format!("rewrite.certificates.\"{host}\"")]);
    }
    // Without a Secret it is not a host that is answered, unless any is.
    let for_these = |spec: &str| {
        let text = ingress("web", &[PUBLIC, HTTPS], spec);
        let (text, _) = text.split_once("  defaultBackend").unwrap();
        text.to_owned()
    };
    let of = |hosts: &[&str]| -> Vec<String> {
        hosts.iter().map(|host| format!("rewrite.certificates.\"{host}\"")).collect()
    };
    let open = "\n  tls: [{hosts: [\"*.example.com\"]}]";
    let text = for_these(&hosts(&both, open));
    assert_eq!(needs(&text, &inputs("nginx")), of(&both));
    let text = ingress("web", &[PUBLIC, HTTPS], &format!("{ALB}{open}"));
    assert_eq!(needs(&text, &inputs("nginx")), of(&["*.example.com"]));
    // One of a wildcard's hosts may have a certificate of its own.
    let text = for_these(&hosts(&["*.example.com"], "\n  tls: [{hosts: [a.example.com]}]"));
    assert_eq!(needs(&text, &inputs("nginx")), of(&["*.example.com", "a.example.com"]));
}

#[test]
fn what_was_not_answered_plainly_is_not_with_nginx() {
    let plainly = |settings: &[(&str, &str)], spec: &str| {
        let settings: Vec<_> = settings.iter().copied().chain([PUBLIC]).collect();
        !done(&ingress("web", &settings, spec), &inputs("nginx")).contains(REDIRECT)
    };
    assert!(!plainly(&[HTTPS, arns("arn")], ALB));
    assert!(!plainly(&[arns("arn")], ALB));
    assert!(plainly(&[BOTH, arns("arn")], ALB));
    assert!(plainly(&[], ALB));
    // Without a host there is nobody to name a certificate for.
    let text = ingress("web", &[PUBLIC, HTTPS], ALB);
    let found = finding(&text, &inputs("nginx"), "EKS-NET-001");
    assert!(found.rewritten && found.message.contains("defaultSSLCertificate"), "{found:?}");
}

const HTTP: (&str, &str) = ("alb.ingress.kubernetes.io/listen-ports", r#"[{"HTTP":80}]"#);
const SENT: (&str, &str) = ("alb.ingress.kubernetes.io/ssl-redirect", "443");

/// What is said of each Ingress as such.
fn said(text: &str, inputs: &Inputs) -> Vec<Finding> {
    found(text, inputs).into_iter().filter(|f| f.rule == "EKS-NET-001").collect()
}

#[test]
fn no_gateway_is_made_with_https_and_without_a_certificate() {
    let shop = hosts(&["shop.example.com"], "");
    let action = (
        "alb.ingress.kubernetes.io/actions.ssl-redirect",
        r#"{"Type":"redirect","RedirectConfig":{"Protocol":"HTTPS","Port":"443","StatusCode":"HTTP_301"}}"#,
    );
    let by_action =
        shop.replace("name: web, port: {number: 80}", "name: ssl-redirect, port: {name: use-annotation}");
    let gateway = inputs("gateway");
    for text in [
        ingress("r", &[PUBLIC, HTTP, SENT], &shop),
        ingress("r", &[PUBLIC, GROUP, HTTP, SENT], &shop),
        ingress("r", &[PUBLIC, HTTP, action], &by_action),
        // Nor where there is no host to find one by.
        ingress("web", &[PUBLIC, HTTPS], ALB),
    ] {
        assert_eq!(done(&text, &gateway), text);
        let told = finding(&text, &gateway, "EKS-NET-001");
        assert!(!told.rewritten && told.message.contains("certificate"), "{told:?}");
    }
    let secret = hosts(&["shop.example.com"], "\n  tls: [{secretName: own}]");
    let converted = done(&ingress("r", &[PUBLIC, HTTP, SENT], &secret), &gateway);
    assert!(converted.contains("name: own") && !converted.contains("kind: Ingress"), "{converted}");
}

#[test]
fn one_that_only_sends_to_https_takes_no_host_from_another() {
    let r = |host: &str| ingress("r", &[PUBLIC, GROUP, HTTP, SENT], &hosts(&[host], ""));
    let nginx = inputs("nginx");
    for a in [hosts(&["*.example.com"], ""), ALB.to_owned()] {
        let a = ingress("a", &[PUBLIC, GROUP, HTTPS, SENT, arns("arn")], &a);
        let text = format!("{a}---\n{}", r("shop.example.com"));
        // With NGINX it would be one that answers there.
        let converted = done(&text, &nginx);
        assert!(converted.ends_with(&r("shop.example.com")), "{converted}");
        assert!(said(&text, &nginx)[1].message.contains("merge it"), "{converted}");
        // With a Gateway it has no route but that to HTTPS.
        let converted = done(&text, &inputs("gateway"));
        assert!(converted.contains("name: r-redirect\n") && !converted.contains("name: r\n"), "{converted}");
        assert!(!converted.contains("kind: Ingress"), "{converted}");
        assert!(said(&text, &inputs("gateway"))[1].message.contains("only"), "{converted}");
    }
    let a = ingress("a", &[PUBLIC, GROUP, HTTPS, arns("arn")], &hosts(&["shop.example.com"], ""));
    // Its action sends some requests to HTTPS, and it answers others.
    let action = (
        "alb.ingress.kubernetes.io/actions.ssl-redirect",
        r#"{"Type":"redirect","RedirectConfig":{"Protocol":"HTTPS","Port":"443","StatusCode":"HTTP_301"}}"#,
    );
    let text =
        format!("{a}---\n{}", ingress("r", &[PUBLIC, GROUP, HTTP, action], &hosts(&["r.example.com"], "")));
    let converted = done(&text, &inputs("gateway"));
    assert!(converted.contains("kind: Ingress\nmetadata:\n  name: r\n"), "{converted}");
}

#[test]
fn an_ingress_waits_for_the_one_that_makes_its_gateway() {
    let a = |spec: &str| ingress("a", &[PUBLIC, GROUP, HTTPS, arns("arn")], spec);
    let b = ingress("b", &[PUBLIC, GROUP, HTTPS], &hosts(&["b.example.com"], ""));
    let first = a(&hosts(&["a.example.com"], ""));
    let text = format!("{first}---\n{b}");
    let named = with_certificates("gateway", &[("arn", "a-tls"), ("b.example.com", "b-tls")]);
    let lacking = inputs("gateway");
    // The input of one is missing, or that of the Gateway: both stay, and are converted together.
    let mut nowhere = named.clone();
    nowhere.application_load_balancer = None;
    for (lacking, need) in [
        (&lacking, r#"rewrite.certificates."b.example.com""#),
        (&nowhere, "rewrite.application-load-balancer"),
    ] {
        assert_eq!(done(&text, lacking), text);
        for told in said(&text, lacking) {
            assert!(!told.rewritten && told.needs == [need], "{told:?}");
        }
        let converted = done(&done(&text, lacking), &named);
        assert!(converted.contains("name: a-tls") && converted.contains("name: b-tls"), "{converted}");
        assert!(!converted.contains("kind: Ingress"), "{converted}");
    }
    // So too where the first one's routes can't be said, or it has no certificate.
    let wild = hosts(&["a.example.com"], "").replace("path: /, pathType: Prefix", "path: /*/x");
    let open = ingress("a", &[PUBLIC, GROUP, HTTPS], ALB);
    let plain = ingress("b", &[PUBLIC, GROUP], &hosts(&["b.example.com"], ""));
    for (text, inputs) in
        [(format!("{}---\n{b}", a(&wild)), &named), (format!("{open}---\n{plain}"), &lacking)]
    {
        assert_eq!(done(&text, inputs), text);
        let told = said(&text, inputs);
        assert!(told[1].message.contains("shop/a") && !told[1].rewritten, "{told:?}");
    }
    // Once there is a Gateway, nobody waits.
    let there = done(&first, &named);
    let converted = done(&format!("{there}---\n{}---\n{plain}", a(&wild)), &named);
    assert_eq!(converted.matches("kind: Ingress\n").count(), 1, "{converted}");
    // The first one is judged by what its load balancer says of it.
    let sent = ingress("a", &[PUBLIC, GROUP], &wild);
    let other = ingress("b", &[PUBLIC, GROUP, BOTH, SENT, arns("arn")], &hosts(&["b.example.com"], ""));
    let converted = done(&format!("{sent}---\n{other}"), &named);
    assert!(!converted.contains("kind: Ingress\n"), "{converted}");
}

/// The templates of a chart are not rewritten.
#[test]
fn an_ingress_of_a_chart_makes_nothing_for_others() {
    let probed = ("alb.ingress.kubernetes.io/healthcheck-path", "/");
    let [chart, file] = ["a", "b"].map(|name| ingress(name, &[PUBLIC, GROUP, probed], ALB));
    let inputs = inputs("gateway");
    let mut facts = Facts::default();
    let take = |facts: &mut Facts, text: &str| {
        for document in read(text).unwrap() {
            objects(&document.root).iter().for_each(|object| facts.take(object));
        }
    };
    take(&mut facts, &chart);
    facts.ingresses.are_of_charts();
    let rules = RuleSet::shipped();
    let documents = read(&chart).unwrap();
    let alone = rules.findings_of_text(&chart, &documents, &facts, &inputs);
    let told = alone.iter().find(|finding| finding.rule == "EKS-NET-001").unwrap();
    assert!(told.message.ends_with("and give what was rendered") && !told.rewritten, "{told:?}");
    take(&mut facts, &file);
    let converted = rules.rewrite(&file, &read(&file).unwrap(), &facts, &inputs).unwrap().text;
    assert!(converted.contains("kind: Gateway\n") && converted.contains("kind: HTTPRoute\n"), "{converted}");
    assert!(converted.contains("kind: HealthCheckPolicy\n"), "{converted}");
    // It waits for the one that makes its Gateway as others do.
    let told = rules.findings_of_text(&chart, &documents, &facts, &inputs);
    assert!(!told.iter().any(|finding| finding.message.contains("chart")), "{told:?}");
    // Where it says no namespace, nobody knows that of its Secret: a template that says it is rendered with another.
    let tls = hosts(&["a.example.com"], "\n  tls: [{hosts: [a.example.com], secretName: s}]");
    let chart = ingress("a", &[PUBLIC, GROUP, HTTPS], &tls).replace("  namespace: shop\n", "");
    let mut facts = Facts::default();
    take(&mut facts, &chart);
    facts.ingresses.are_of_charts();
    take(&mut facts, &file);
    for text in [&chart, &file] {
        let told = rules.findings_of_text(text, &read(text).unwrap(), &facts, &inputs);
        let told = told.iter().find(|finding| finding.rule == "EKS-NET-001").unwrap();
        assert!(
            told.message.contains("render the chart (`helm template -n`)") && !told.rewritten,
            "{told:?}"
        );
    }
}

#[test]
fn an_ingress_that_stays_makes_no_policy_for_others() {
    let probed = |name: &str, more: &[(&str, &str)], spec: &str| {
        let path = format!("/{name}");
        let probe = ("alb.ingress.kubernetes.io/healthcheck-path", path.as_str());
        ingress(name, &[&[probe], more].concat(), spec)
    };
    let wild = hosts(&["a.example.com"], "").replace("path: /, pathType: Prefix", "path: /*/x");
    for (why, a) in [
        ("its path", probed("a", &[PUBLIC], &wild)),
        ("its certificate", probed("a", &[PUBLIC, HTTPS], &hosts(&["a.example.com"], ""))),
        ("inside the network", probed("a", &[], ALB)),
    ] {
        let text = format!("{a}---\n{}---\n{}", probed("b", &[PUBLIC], ALB), probed("c", &[PUBLIC], ALB));
        let converted = done(&text, &inputs("gateway"));
        assert_eq!(converted.matches("kind: Ingress\n").count(), 1, "{why}: {converted}");
        assert_eq!(converted.matches("  name: web-health\n").count(), 1, "{why}: {converted}");
        assert!(converted.contains("path: /b\n"), "{why}: {converted}");
    }
}

#[test]
fn a_secret_of_another_namespace_is_that_of_its_namespace() {
    let own = |host: &str| hosts(&[host], &format!("\n  tls: [{{hosts: [{host}], secretName: tls}}]"));
    let a =
        ingress("a", &[PUBLIC, GROUP, HTTPS], &own("a.example.com")).replace("space: shop", "space: account");
    let b = ingress("b", &[PUBLIC, GROUP, HTTPS], &own("b.example.com"));
    let text = format!("{a}---\n{b}");
    let converted = done(&text, &inputs("gateway"));
    let (_, refs) = converted.split_once("certificateRefs:").unwrap();
    let (refs, _) = refs.split_once("---\n").unwrap();
    assert_eq!(refs.matches("name: tls").count(), 2, "{converted}");
    assert_eq!(refs.matches("namespace: shop").count(), 1, "{converted}");
    let grant = converted.split("---\n").find(|text| text.contains("kind: ReferenceGrant\n")).unwrap();
    assert_eq!(
        grant,
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata:\n  name: g\n  namespace: shop\nspec:\n  \
         from:\n  - group: gateway.networking.k8s.io\n    kind: Gateway\n    namespace: account\n  to:\n  - group: \"\"\n    \
         kind: Secret\n    name: tls\n"
    );
    assert_eq!(converted.matches("kind: ReferenceGrant\n").count(), 1, "{converted}");
    // Where one of them isn't said, nobody knows whether it is the same.
    let text = text.replace("  namespace: account\n", "");
    assert_eq!(done(&text, &inputs("gateway")), text);
    assert!(said(&text, &inputs("gateway"))[0].message.contains("say the namespace in each Ingress"));
}

#[test]
fn an_arn_is_for_no_host_that_has_a_certificate_of_its_own() {
    let a = ingress(
        "a",
        &[PUBLIC, GROUP, HTTPS, arns("arn")],
        &hosts(&["shop.example.com", "www.example.com"], ""),
    );
    let b = ingress("b", &[PUBLIC, GROUP, HTTPS], &hosts(&["shop.example.com"], ""));
    let text = format!("{a}---\n{b}");
    for told in said(&text, &inputs("gateway")) {
        assert_eq!(told.needs, [r#"rewrite.certificates."shop.example.com""#]);
    }
    let named = [("arn", "www-tls"), ("shop.example.com", "shop-tls")];
    let converted = done(&text, &with_certificates("gateway", &named));
    assert!(converted.contains("name: www-tls") && converted.contains("name: shop-tls"), "{converted}");
    // NGINX is told no other for it.
    let converted = done(&text, &with_certificates("nginx", &named));
    for entry in [
        "- hosts:\n    - www.example.com\n    secretName: www-tls",
        "- hosts:\n    - shop.example.com\n    secretName: shop-tls",
    ] {
        assert!(converted.contains(entry), "{converted}");
    }
}

#[test]
fn requests_for_hosts_that_nobody_names_are_sent_to_https_too() {
    let of = |spec: &str| {
        let converted = done(&ingress("web", &[PUBLIC, BOTH, SENT, arns("arn")], spec), &inputs("gateway"));
        assert!(!converted.contains("hostnames:\n  - \"\""), "{converted}");
        let redirect = converted.split("---\n").find(|text| text.contains("name: web-redirect\n")).unwrap();
        redirect.contains("hostnames")
    };
    let named = hosts(&["a.example.com"], "");
    // The Ingress of the tests has a default backend.
    assert!(!of(&named));
    let empty = hosts(&["a.example.com", ""], "");
    assert!(!of(&empty));
    let strip = |spec: &str| {
        let text = ingress("web", &[PUBLIC, BOTH, SENT, arns("arn")], spec);
        let (text, _) = text.split_once("  defaultBackend").unwrap();
        done(text, &inputs("gateway"))
    };
    let converted = strip(&named);
    assert_eq!(converted.matches("hostnames:\n  - a.example.com\n").count(), 2, "{converted}");
    let converted = strip(&empty);
    assert_eq!(converted.matches("hostnames:").count(), 1, "{converted}");
}

#[test]
fn ports_that_nginx_does_not_serve_are_told() {
    let told = |ports: &str, more: &[(&str, &str)]| {
        let ports = ("alb.ingress.kubernetes.io/listen-ports", ports);
        let settings: Vec<_> = more.iter().copied().chain([PUBLIC, ports, arns("arn")]).collect();
        let text = ingress("web", &settings, ALB);
        assert!(done(&text, &inputs("nginx")).contains("webapprouting"));
        finding(&text, &inputs("nginx"), "EKS-NET-001").message
    };
    assert!(told(r#"[{"HTTPS":8443}]"#, &[]).contains("HTTPS on port 8443"));
    assert!(
        told(r#"[{"HTTP":80},{"HTTPS":443},{"HTTP":8080}]"#, &[]).contains("balancer, HTTP on port 8080")
    );
    assert!(!told(r#"[{"HTTP":80},{"HTTPS":443}]"#, &[SENT]).contains("port"));
}
