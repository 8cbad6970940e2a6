//! What an Ingress of AWS answers, and how: the same afterwards, or it stays.

use super::network_tests::{ALB, PUBLIC, done, finding, ingress, inputs};
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
