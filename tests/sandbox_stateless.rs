//! The stateless workflow: images, export, rewrite, apply and smoke test of a namespace without data.

use std::fs;

use migrate_tests::{Sandbox, checks};

/// A namespace of this test's own, so that the estate stays as it is.
const FRONT_DOOR: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: front-door }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: front-door }
data: { GREETING: "hello" }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: front-door }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/shop/web:1.0
          imagePullPolicy: Always
          envFrom: [{ configMapRef: { name: settings } }]
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 2 }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: front-door }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
"#;

/// Its smoke test instead of the estate's checks.
const SMOKE: &str = r#"
[[smoke]]
name = "the door answers"
http = { namespace = "front-door", service = "web", port = 80, path = "/healthz", status = 200 }
"#;

/// For what takes seconds, on a machine that is busy.
const TIMEOUT: &str = "--timeout=300s";

#[test]
fn a_namespace_arrives_with_renamed_images_and_answers() {
    let sandbox = Sandbox::reset();
    let manifests = sandbox.project().join("front-door.yaml");
    fs::write(&manifests, FRONT_DOOR).unwrap();
    sandbox.kubectl("eks", &["apply", "-f", manifests.to_str().unwrap()]);
    let ready = ["rollout", "status", "-n", "front-door", "deployment/web", TIMEOUT];
    sandbox.kubectl("eks", &ready);

    let site = |original: String| {
        let (before, _) = original.split_once("[[smoke]]").expect("the estate's checks");
        format!("{before}{SMOKE}")
    };
    let report =
        sandbox.with_site(site, || sandbox.report(&["run", "stateless", "--param", "namespaces=front-door"]));
    assert_eq!(report["state"], "done", "{report:#}");
    assert!(checks(&report).iter().any(|check| check[0] == "smoke-test" && check[5] == "passed"));

    let image = [
        "get",
        "deployment",
        "web",
        "-n",
        "front-door",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ];
    assert_eq!(sandbox.kubectl("aks", &image), "migratesandbox.azurecr.io/shop/web:1.0");
    let greeting = ["get", "configmap", "settings", "-n", "front-door", "-o", "jsonpath={.data.GREETING}"];
    assert_eq!(sandbox.kubectl("aks", &greeting), "hello");

    for context in ["eks", "aks"] {
        sandbox.kubectl(context, &["delete", "namespace", "front-door", TIMEOUT]);
    }
    fs::remove_file(manifests).unwrap();
}
