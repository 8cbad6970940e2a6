//! `manifest.apply` with `prune` on a real API server: what is no longer in the manifests is planned, deleted once
//! though the run is killed, and told; the rest stays; and kubectl knows the set for ours.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use migrate_tests::{Running, Sandbox, checks, expect_success, report_of, tool};
use serde_json::{Value, json};

const NAMESPACE: &str = "prune-e2e";

const WORKFLOW: &str = r#"
schema = 1
name = "prune"
[nodes.apply]
step = "manifest.apply"
with = { cluster = "${env.target.cluster}", directory = "in", prune = { set = "web", namespace = "prune-e2e" } }
"#;

const WIDGETS: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: gears.prune.example.com}\n\
spec:\n  group: prune.example.com\n  scope: Namespaced\n  names: {plural: gears, singular: gear, kind: Gear}\n  versions:\n    - \
{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}\n";

/// A project of its own, so that runs of other tests are in nobody's way.
struct Project {
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Project {
    fn new() -> Self {
        let sandbox = Sandbox::as_it_is();
        let folder = std::env::temp_dir().join(format!("migrate-prune-{}", std::process::id()));
        fs::create_dir_all(folder.join("in")).unwrap();
        let kubeconfig = sandbox.project().join("kubeconfig");
        let site = format!("schema = 1\n[target.cluster]\nkubeconfig = {kubeconfig:?}\ncontext = \"aks\"\n");
        fs::write(folder.join("migration.toml"), site).unwrap();
        fs::write(folder.join("prune.toml"), WORKFLOW).unwrap();
        let project = Self { sandbox, folder };
        project.clean();
        project
    }

    fn clean(&self) {
        let delete = ["delete", "--ignore-not-found", "--timeout=300s"];
        // One that was held when a test ended would hold its namespace.
        let held = ["-n", NAMESPACE, "get", "configmap", "held", "--ignore-not-found", "-o", "name"];
        if !self.sandbox.kubectl("aks", &held).is_empty() {
            let free =
                ["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
            self.kubectl(&free);
        }
        self.sandbox.kubectl("aks", &[&delete[..], &["namespace", NAMESPACE]].concat());
        self.sandbox.kubectl("aks", &[&delete[..], &["crd", "gears.prune.example.com"]].concat());
    }

    fn migrate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool("migrate"));
        command.args(args).arg("--json").current_dir(&self.folder).env_remove("MIGRATE_PROJECT");
        command
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.sandbox.kubectl("aks", &[&["-n", NAMESPACE], args].concat())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join("in").join(name), text).unwrap();
    }

    fn object(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "json"]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn config_map(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\ndata: {{a: b}}\n---\n"
    )
}

#[test]
fn what_is_no_longer_there_is_deleted_once_and_nothing_else() {
    let project = Project::new();
    let others = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: old, namespace: {NAMESPACE}}}\nspec: {{ports: [{{port: 80}}], selector: {{app: old}}}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: old, namespace: {NAMESPACE}}}\nspec:\n  replicas: 0\n  selector: \
         {{matchLabels: {{app: old}}}}\n  template: {{metadata: {{labels: {{app: old}}}}, spec: {{containers: [{{name: a, image: a}}]}}}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data, namespace: {NAMESPACE}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         storageClassName: none\n  resources: {{requests: {{storage: 1Gi}}}}\n---\n\
         apiVersion: prune.example.com/v1\nkind: Gear\nmetadata: {{name: old, namespace: {NAMESPACE}}}\n---\n"
    );
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n");
    project.write("kept.yaml", &(namespace + &config_map("kept")));
    project.write("gone.yaml", &(others + &config_map("held")));
    project.write("crd.yaml", WIDGETS);
    let report = report_of(&expect_success(&mut project.migrate(&["run", "prune.toml"])));
    assert_eq!(report["state"], "done", "{report:#}");
    let record = project.object("configmap", "web").unwrap();
    let annotation = |record: &Value, name: &str| record["metadata"]["annotations"][name].clone();
    let kinds = "applyset.kubernetes.io/contains-group-kinds";
    assert_eq!(
        annotation(&record, kinds),
        "ConfigMap,CustomResourceDefinition.apiextensions.k8s.io,Deployment.apps,Gear.prune.example.com,Namespace,\
         PersistentVolumeClaim,Service"
    );
    let id = record["metadata"]["labels"]["applyset.kubernetes.io/id"].as_str().unwrap().to_owned();

    // kubectl knows the record for one, and for another tool's.
    let mut kubectl = Command::new(tool("kubectl"));
    kubectl.arg("--kubeconfig").arg(project.sandbox.project().join("kubeconfig")).args(["--context", "aks"]);
    kubectl.args([
        "apply",
        "-n",
        NAMESPACE,
        "--server-side",
        "--prune",
        "--applyset=configmaps/web",
        "-f",
        "in/kept.yaml",
    ]);
    let refused = kubectl.current_dir(&project.folder).env("KUBECTL_APPLYSET", "true").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains(r#"managed by tooling "migrate" instead of "kubectl""#),
        "{said}"
    );

    // Somebody's own object, to which somebody gave the label; and one that nobody labelled.
    project.kubectl(&["create", "configmap", "labelled"]);
    project.kubectl(&["label", "configmap", "labelled", &format!("applyset.kubernetes.io/part-of={id}")]);
    project.kubectl(&["create", "configmap", "own"]);
    // Its deletion takes until we say so.
    project.kubectl(&[
        "patch",
        "configmap",
        "held",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold"]}}"#,
    ]);
    fs::remove_file(project.folder.join("in/gone.yaml")).unwrap();
    fs::remove_file(project.folder.join("in/crd.yaml")).unwrap();

    let planned = expect_success(&mut project.migrate(&["plan", "prune.toml"]));
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let plan = &planned["nodes"][0]["plan"];
    let line = |object: &str| {
        format!("{object} {NAMESPACE}/old: in set {NAMESPACE}/web, and no longer in the manifests")
    };
    let held = line("ConfigMap").replace("/old:", "/held:");
    assert_eq!(
        plan["destroys"],
        json!([line("Gear"), line("Deployment"), line("Service"), held]),
        "{plan:#}"
    );
    let problems = plan["problems"].to_string();
    for stays in [
        format!("PersistentVolumeClaim {NAMESPACE}/data is no longer in the manifests and is left in place"),
        "CustomResourceDefinition gears.prune.example.com is no longer in the manifests and is left in place"
            .to_owned(),
        format!(
            "ConfigMap {NAMESPACE}/labelled is no longer in the manifests and is left in place: migrate did not label it"
        ),
    ] {
        assert!(problems.contains(&stays), "{stays}: {problems}");
    }
    assert!(project.object("deployment", "old").is_some() && project.object("gear", "old").is_some());

    // Killed while the API server holds the deletion.
    let mut running = Running::of(&mut project.migrate(&["run", "prune.toml"]));
    let waits = format!("waits until ConfigMap {NAMESPACE}/held is gone");
    let waiting =
        running.wait_for(|event| event["type"] == "node-progress" && event.to_string().contains(&waits));
    assert!(waiting.is_some(), "it did not wait");
    assert!(running.kill());
    let held = project.object("configmap", "held").unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held:#}");
    let remove = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
    project.kubectl(&["patch", "configmap", "held", "--type=json", "-p", remove]);
    // Made anew by somebody under the same name: not what was asked to go.
    project.kubectl(&["create", "configmap", "held"]);

    let report = report_of(&expect_success(&mut project.migrate(&["resume"])));
    assert_eq!(report["state"], "done", "{report:#}");
    let outputs = &report["nodes"][0]["outputs"];
    let pruned: Vec<String> = outputs["pruned"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pruned| format!("{} {}", pruned["kind"].as_str().unwrap(), pruned["name"].as_str().unwrap()))
        .collect();
    assert_eq!(pruned, ["Gear old", "Deployment old", "Service old", "ConfigMap held"]);
    let deleted: Vec<_> = checks(&report).into_iter().filter(|check| check[2] == "deleted").collect();
    assert_eq!(
        deleted.iter().filter(|check| check[4] == "gone" && check[5] == "passed").count(),
        4,
        "{deleted:#?}"
    );
    assert_eq!(deleted.iter().filter(|check| check[5] == "warning").count(), 3, "{deleted:#?}");

    for (kind, name) in [("deployment", "old"), ("service", "old"), ("gear", "old")] {
        assert!(project.object(kind, name).is_none(), "{kind} {name}");
    }
    for (kind, name) in [
        ("configmap", "kept"),
        ("configmap", "own"),
        ("configmap", "labelled"),
        ("configmap", "held"),
        ("persistentvolumeclaim", "data"),
        ("crd", "gears.prune.example.com"),
    ] {
        assert!(project.object(kind, name).is_some(), "{kind} {name}");
    }
    assert_eq!(
        annotation(&project.object("configmap", "web").unwrap(), kinds),
        "ConfigMap,CustomResourceDefinition.apiextensions.k8s.io,Namespace,PersistentVolumeClaim"
    );

    // An empty folder is no reason to delete.
    fs::remove_file(project.folder.join("in/kept.yaml")).unwrap();
    let refused = project.migrate(&["run", "prune.toml"]).output().unwrap();
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!refused.status.success() && said.contains("holds no manifest"), "{said}");
    assert!(project.object("configmap", "kept").is_some());
    project.clean();
}
