//! `image.copy` from ECR to ACR, under names of its own; a pod on AKS starts from what it wrote.

use std::fs;

use migrate_tests::Sandbox;

const IMAGE: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop/web:1.0";

const WORKFLOW: &str = r#"
schema = 1
name = "copy-images"

[nodes.copy]
step = "image.copy"
with = { from = "${env.source.registry}", aws = "${env.source.aws}", images = ["IMAGE"], to = "${env.target.registry}", names = { prefix = "moved" } }
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: copied, namespace: default }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: migratesandbox.azurecr.io/moved/shop/web:1.0
      imagePullPolicy: Always
      ports: [{ name: http, containerPort: 8080 }]
      readinessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 2 }
"#;

/// For what takes seconds, on a machine that is busy.
const TIMEOUT: &str = "--timeout=300s";

#[test]
fn a_pod_starts_from_a_copied_image() {
    let sandbox = Sandbox::reset();
    let (workflow, pod) = (sandbox.project().join("copy-images.toml"), sandbox.project().join("copied.yaml"));
    fs::write(&workflow, WORKFLOW.replace("IMAGE", IMAGE)).unwrap();
    fs::write(&pod, POD).unwrap();

    let report = sandbox.report(&["run", "copy-images.toml"]);
    assert_eq!(report["state"], "done", "{report:#}");
    let outputs = &report["nodes"][0]["outputs"];
    let image = &outputs["images"][0];
    assert_eq!(image["source"], IMAGE);
    assert_eq!(image["target"], "migratesandbox.azurecr.io/moved/shop/web:1.0");
    assert!(outputs["traffic"]["blobs-sent"].as_u64().unwrap() > 0, "{outputs:#}");

    sandbox.kubectl("aks", &["apply", "-f", pod.to_str().unwrap()]);
    sandbox.kubectl("aks", &["wait", "--for=condition=Ready", "pod/copied", TIMEOUT]);
    let id = sandbox
        .kubectl("aks", &["get", "pod", "copied", "-o", "jsonpath={.status.containerStatuses[0].imageID}"]);
    let digest = image["digest"].as_str().unwrap();
    assert!(id.ends_with(digest), "the pod runs {id}, not {digest}");

    sandbox.kubectl("aks", &["delete", "pod", "copied", TIMEOUT]);
    for file in [workflow, pod] {
        fs::remove_file(file).unwrap();
    }
}
