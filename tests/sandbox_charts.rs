//! A chart and an overlay, rewritten with the real `helm` and the sandbox's `kubectl`, by the command and by steps,
//! and applied.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use migrate_tests::{Sandbox, expect_success, tool};

const IMAGE: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";

/// A project with both tools on its PATH.
struct Project {
    folder: PathBuf,
    path: String,
}

impl Project {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("migrate-charts-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let parent = |tool: PathBuf| tool.parent().unwrap().to_string_lossy().into_owned();
        let path = format!("{}:{}:/usr/bin:/bin", parent(tool("helm")), parent(tool("kubectl")));
        let site = "[rewrite]\n[rewrite.registries]\n\"123456789012.dkr.ecr.us-east-1.amazonaws.com\" = \"shop.azurecr.io\"\n[rewrite.zones]\nus-east-1a = \"eastus-1\"\n";
        fs::write(folder.join("migration.toml"), site).unwrap();
        Self { folder, path }
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.folder.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.join(path)).unwrap()
    }

    fn command(&self, program: impl AsRef<Path>, args: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(args).current_dir(&self.folder).env_remove("MIGRATE_PROJECT");
        command.env("PATH", &self.path).env("HOME", &self.folder);
        command
    }

    fn migrate(&self, args: &[&str]) -> Output {
        self.command(tool("migrate"), args).output().unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn what_a_charts_values_say_is_rewritten_there_and_the_rest_is_told() {
    let project = Project::new("helm");
    project.write("shop/Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n");
    let values = format!(
        "# of ours\nimage:\n  repository: {IMAGE}/shop/web # from ECR\n  tag: \"1.0\"\nzone: us-east-1a\nlabel: us-east-1a\n"
    );
    project.write("shop/values.yaml", &values);
    project.write(
        "shop/templates/web.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      nodeSelector:\n        topology.kubernetes.io/zone: {{ .Values.zone }}\n      containers:\n        - name: web\n          image: {{ .Values.image.repository }}:{{ .Values.image.tag }}\n",
    );
    project.write(
        "shop/templates/fixed.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: fixed, labels: {note: {{ .Values.label }}}}\nspec:\n  nodeSelector: {topology.kubernetes.io/zone: us-east-1b}\n  containers: [{name: a, image: nginx}]\n",
    );
    let assessed = json(&project.migrate(&["assess", "shop", "--json"]));
    let files: Vec<&str> = assessed["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["file"].as_str().unwrap())
        .collect();
    assert!(files.contains(&"templates/web.yaml") && files.contains(&"templates/fixed.yaml"), "{files:?}");

    expect_success(&mut project.command(tool("migrate"), &["rewrite", "shop", "--write"]));
    let after = project.read("shop/values.yaml");
    assert!(after.contains("repository: shop.azurecr.io/shop/web # from ECR\n"), "{after}");
    assert!(after.starts_with("# of ours\n"), "{after}");
    let made = project.command(tool("helm"), &["template", "shop", "shop"]).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    assert!(made.contains("image: shop.azurecr.io/shop/web:1.0"), "{made}");
    // Twice changes nothing, and a template is never touched.
    expect_success(&mut project.command(tool("migrate"), &["rewrite", "shop", "--write"]));
    assert_eq!(project.read("shop/values.yaml"), after);
    assert!(project.read("shop/templates/fixed.yaml").contains("us-east-1b"));
}

#[test]
fn what_is_another_in_an_overlay_becomes_an_overlay_on_top() {
    let project = Project::new("kustomize");
    project.write("base/kustomization.yaml", "resources: [web.yaml, agent.yaml]\n");
    project.write(
        "base/web.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      nodeSelector: {topology.kubernetes.io/zone: us-east-1a}\n      containers: [{name: web, image: web}]\n",
    );
    project.write(
        "base/agent.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: agent, namespace: amazon-cloudwatch}\n",
    );
    let overlay = format!(
        "namePrefix: prod-\nresources: [../base]\nimages: [{{name: web, newName: {IMAGE}/shop/web, newTag: \"1.0\"}}]\n"
    );
    project.write("production/kustomization.yaml", &overlay);
    let assessed = json(&project.migrate(&["assess", "production", "--json"]));
    assert!(assessed["findings"].as_array().unwrap().len() >= 3, "{assessed}");
    assert_eq!(assessed["findings"][0]["file"], "kustomization.yaml");

    let shown = project.migrate(&["rewrite", "production"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("+++ b/../production-aks/kustomization.yaml"));
    assert!(!project.folder.join("production-aks").exists());
    expect_success(&mut project.command(tool("migrate"), &["rewrite", "production", "--write"]));
    let made = expect_success(&mut project.command(tool("kubectl"), &["kustomize", "production-aks"]));
    let made = String::from_utf8(made.stdout).unwrap();
    for part in
        ["topology.kubernetes.io/zone: eastus-1", "image: shop.azurecr.io/shop/web:1.0", "name: prod-web"]
    {
        assert!(made.contains(part), "{part}: {made}");
    }
    assert!(!made.contains("amazon-cloudwatch"), "{made}");
    // What was there stays, and the new one is not written over.
    assert_eq!(project.read("production/kustomization.yaml"), overlay);
    let refused = project.migrate(&["rewrite", "production", "--write"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("production-aks is there already"), "{said}");
    // There is nothing left to do in the new one.
    let again = json(&project.migrate(&["rewrite", "production-aks", "--json"]));
    assert_eq!(again["files"].as_array().unwrap().len(), 0, "{again}");
}

/// Without pods, so that no image is needed.
const WORKFLOW: &str = r#"
schema = 1
name = "charts"
[nodes.chart]
step = "manifest.rewrite"
with = { from = "charts/shop", to = "charts/out/shop", inputs = "${env.rewrite}" }
[nodes.apply-chart]
step = "manifest.apply"
needs = ["chart"]
with = { cluster = "${env.target.cluster}", directory = "charts/out/shop", force-conflicts = true }
[nodes.overlay]
step = "manifest.rewrite"
with = { from = "charts/production", to = "charts/out/production", inputs = "${env.rewrite}" }
[nodes.apply-overlay]
step = "manifest.apply"
needs = ["apply-chart", "overlay"]
with = { cluster = "${env.target.cluster}", directory = "charts/out/production" }
"#;

/// What a chart makes up is another thing each time.
const MADE_UP: &str = r#"
schema = 1
name = "made-up"
[nodes.apply]
step = "manifest.apply"
with = { cluster = "${env.target.cluster}", directory = "charts/made-up", namespace = "charts" }
"#;

#[test]
fn steps_rewrite_a_chart_and_an_overlay_and_apply_what_they_make() {
    let sandbox = Sandbox::reset();
    let charts = sandbox.project().join("charts");
    let write = |path: &str, text: &str| {
        let file = charts.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let deployment = |name: &str, zone: &str, image: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: charts}}\nspec:\n  replicas: 0\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
             nodeSelector: {{topology.kubernetes.io/zone: {zone}}}\n      containers: [{{name: web, image: {image}}}]\n"
        )
    };
    write("charts.toml", WORKFLOW);
    write("shop/Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n");
    write("shop/values.yaml", &format!("image: {IMAGE}/shop/web\nzone: us-east-1a\n"));
    write("shop/templates/namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: charts}\n");
    let template = deployment("chart", "'{{ .Values.zone }}'", "'{{ .Values.image }}:1.0'");
    write("shop/templates/web.yaml", &template);
    let clean = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: clean, namespace: charts, annotations: {helm.sh/hook: pre-delete}}\n\
                 spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: nginx}]}}}\n";
    write("shop/templates/clean.yaml", clean);
    write("made-up.toml", MADE_UP);
    write("made-up/Chart.yaml", "apiVersion: v2\nname: made-up\nversion: 1.0.0\n");
    write(
        "made-up/templates/secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: made-up, namespace: '{{ .Release.Namespace }}'}\nstringData: {password: '{{ randAlphaNum 12 }}'}\n",
    );
    write("production/kustomization.yaml", "resources: [../base]\n");
    write("base/kustomization.yaml", "resources: [web.yaml]\n");
    write("base/web.yaml", &deployment("overlay", "us-east-1a", &format!("{IMAGE}/shop/web:1.0")));
    let site = |site: String| {
        format!(
            "{site}\n[rewrite.registries]\n\"{IMAGE}\" = \"shop.azurecr.io\"\n[rewrite.zones]\nus-east-1a = \"eastus-1\"\n"
        )
    };
    let folders = ["helm", "kubectl"].map(|name| tool(name).parent().unwrap().display().to_string());
    let path = [folders.join(":"), std::env::var("PATH").unwrap_or_default()].join(":");
    let spec = "jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.nodeSelector.*}";
    let plan = sandbox.with_site(site, || {
        expect_success(sandbox.migrate(&["run", "charts/charts.toml"]).env("PATH", &path));
        for name in ["chart", "overlay"] {
            let found = sandbox.kubectl("aks", &["-n", "charts", "get", "deployment", name, "-o", spec]);
            assert_eq!(found.trim(), "shop.azurecr.io/shop/web:1.0 eastus-1", "{name}");
        }
        let jobs = sandbox.kubectl("aks", &["-n", "charts", "get", "jobs", "-o", "name"]);
        assert_eq!(jobs.trim(), "", "what the chart has for its deletion has run");
        let refused = sandbox.migrate(&["plan", "charts/made-up.toml", "--json"]).env("PATH", &path).output();
        let refused = String::from_utf8(refused.unwrap().stdout).unwrap();
        assert!(refused.contains("Secret charts/made-up: /stringData/password"), "{refused}");
        // Somebody changes one of them by hand: the next plan says so.
        let zone =
            r#"{"spec":{"template":{"spec":{"nodeSelector":{"topology.kubernetes.io/zone":"eastus-2"}}}}}"#;
        sandbox.kubectl("aks", &["-n", "charts", "patch", "deployment", "chart", "-p", zone]);
        let plan =
            expect_success(sandbox.migrate(&["plan", "charts/charts.toml", "--json"]).env("PATH", &path));
        // Both sources are others since, the overlay's outside its folder: what was made of them holds no longer.
        write("shop/templates/web.yaml", &template.replace(":1.0", ":2.0"));
        write("base/web.yaml", &deployment("overlay", "us-east-1a", &format!("{IMAGE}/shop/web:2.0")));
        expect_success(sandbox.migrate(&["resume", "--rerun", "apply-overlay"]).env("PATH", &path));
        for name in ["chart", "overlay"] {
            let found = sandbox.kubectl("aks", &["-n", "charts", "get", "deployment", name, "-o", spec]);
            assert_eq!(found.trim(), "shop.azurecr.io/shop/web:2.0 eastus-1", "{name}");
        }
        json(&plan)
    });
    let plan_of = |name: &str| {
        let all = plan["nodes"].as_array().unwrap();
        all.iter().find(|node| node["node"] == name).unwrap()["plan"].clone()
    };
    let (chart, overlay) = (plan_of("apply-chart"), plan_of("apply-overlay"));
    let ends = |plan: &serde_json::Value, end: &str| plan["summary"].as_str().unwrap().ends_with(end);
    assert!(ends(&chart, ": 0 new, 1 to change, 1 as they are"), "{chart}");
    assert!(ends(&overlay, ": 0 new, 0 to change, 1 as they are"), "{overlay}");
    assert!(chart["problems"].to_string().contains("Job charts/clean is left out"), "{chart}");
    let field = "/spec/template/spec/nodeSelector/topology.kubernetes.io~1zone";
    assert_eq!(chart["destroys"], serde_json::json!([format!("fields of Deployment charts/chart: {field}")]));
    // What was there stays as it was.
    assert_eq!(
        fs::read_to_string(charts.join("production/kustomization.yaml")).unwrap(),
        "resources: [../base]\n"
    );
    assert!(fs::read_to_string(charts.join("shop/values.yaml")).unwrap().contains("us-east-1a"));
    fs::remove_dir_all(&charts).unwrap();
    sandbox.kubectl("aks", &["delete", "namespace", "charts", "--wait=false"]);
}
