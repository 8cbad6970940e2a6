//! What a Service says to the AWS Load Balancer Controller of the way to its pods: it counts more than what an Ingress says.

use super::network_tests::{ALB, PUBLIC, done, finding, ingress, inputs, rules};
use super::*;

const PATH: (&str, &str) = ("alb.ingress.kubernetes.io/healthcheck-path", "/ingress");
const SECONDS: (&str, &str) = ("alb.ingress.kubernetes.io/healthcheck-interval-seconds", "10");

/// Service `web` of the namespace.
fn service(namespace: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(name, value)| format!("alb.ingress.kubernetes.io/{name}: '{value}'"))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}, annotations: {{{}}}}}\n\
         spec: {{ports: [{{port: 80}}]}}\n",
        annotations.join(", ")
    )
}

/// The policies that are made of Ingresses and a Service.
fn policies(of: &[&[(&str, &str)]], service: &str) -> Vec<String> {
    let ingresses = of.iter().enumerate().map(|(at, of)| {
        let all: Vec<_> = of.iter().copied().chain([PUBLIC]).collect();
        ingress(&format!("web-{at}"), &all, ALB)
    });
    let text: Vec<String> = ingresses.chain([service.to_owned()]).collect();
    let done = done(&text.join("---\n"), &inputs("gateway"));
    done.split("---\n").filter(|text| text.contains("HealthCheckPolicy")).map(str::to_owned).collect()
}

#[test]
fn a_service_is_probed_as_it_says_itself() {
    let own = service("shop", &[("healthcheck-path", "/healthz")]);
    // Before what the Ingress says, and where that says nothing.
    for of in [&[PATH, SECONDS][..], &[]] {
        let [policy] = policies(&[of], &own).try_into().unwrap();
        assert!(policy.contains("path: /healthz\n"), "{policy}");
        assert_eq!(policy.contains("interval: \"10s\""), !of.is_empty(), "{policy}");
    }
    // What a Service leaves open, its Ingress says.
    let [policy] = policies(&[&[PATH]], &service("shop", &[("success-codes", "204")])).try_into().unwrap();
    assert!(policy.contains("path: /ingress\n") && policy.contains("start: 204\n"), "{policy}");
    // One policy, however many Ingresses it is behind.
    assert_eq!(policies(&[&[], &[]], &own).len(), 1);
    // Files leave the namespace to who applies them.
    assert_eq!(policies(&[&[]], &service("''", &[("healthcheck-path", "/healthz")])).len(), 1);
    for other in [service("bank", &[("healthcheck-path", "/healthz")]), service("shop", &[("tags", "a=b")])] {
        assert_eq!(policies(&[&[]], &other), [] as [&str; 0]);
    }
}

#[test]
fn pods_that_take_tls_are_probed_with_it() {
    let path = ("healthcheck-path", "/healthz");
    let is_tls = |settings: &[(&str, &str)]| {
        let [policy] = policies(&[&[]], &service("shop", settings)).try_into().unwrap();
        policy.contains("useTLS: true")
    };
    assert!(is_tls(&[path, ("backend-protocol", "HTTPS")]));
    assert!(is_tls(&[path, ("healthcheck-protocol", "HTTPS")]));
    assert!(!is_tls(&[path, ("backend-protocol", "HTTPS"), ("healthcheck-protocol", "HTTP")]));
    assert!(!is_tls(&[path]));
}

#[test]
fn the_protocol_that_a_service_asks_for_is_told() {
    for (name, value) in [
        ("backend-protocol", "HTTPS"),
        ("backend-protocol-version", "GRPC"),
        ("backend-protocol-version", "HTTP2"),
    ] {
        let text = service("shop", &[(name, value)]);
        let found = finding(&text, &Inputs::default(), "EKS-NET-011");
        assert_eq!((found.kind.as_str(), found.severity), ("Service", RuleSeverity::Warning));
        assert_eq!(done(&text, &inputs("nginx")), text);
    }
    assert_eq!(rules(&service("shop", &[("backend-protocol", "HTTP")]), &Inputs::default()), [] as [&str; 0]);
}
