//! `migrate assess`, `rewrite` and `rules` on files: what others read of it, and what is written.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The schema that OASIS publishes with SARIF 2.1.0.
const SARIF: &str = include_str!("fixtures/sarif-2.1.0.json");

const OWN_RULE: &str = r#"
[[rule]]
id = "SHOP-001"
title = "Old price service"
why = "it stays behind"
azure = "the new one"
kind = "automatic"
severity = "error"
links = []
paths = ["{pod}.containers[].env[].value"]
value = '^http://prices\.old\.example\.com'
do = [{ op = "replace", to = "http://prices.shop.svc" }]
"#;

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  template:
    spec:
      nodeSelector: { topology.kubernetes.io/zone: us-east-1a }
      containers:
        - name: web
          image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/shop/web:1.0
          env:
            - { name: PRICES, value: 'http://prices.old.example.com/v1' } # by hand
            - { name: TOPIC, value: 'arn:aws:sns:us-east-1:123456789012:orders' }
";

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

fn migrate(project: &Path, args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .args(args)
        .current_dir(project)
        .env_remove("MIGRATE_PROJECT")
        .env("NO_COLOR", "1")
        .output()
        .expect("migrate starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Output {
        code: output.status.code().expect("an exit code"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A project with manifests under names that a URI must escape.
fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("in/a folder/größe%20");
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join("web #1.yaml"), WEB).expect("written");
    fs::write(dir.path().join("in/plain.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
        .expect("written");
    dir
}

#[test]
fn sarif_is_what_its_schema_says_and_names_what_the_json_names() {
    let project = project();
    let mut schema: Value = serde_json::from_str(SARIF).expect("JSON");
    // Its pattern of languages has a bracket too many, which not every validator reads.
    for of in ["run", "toolComponent"] {
        let place = format!("/definitions/{of}/properties/language");
        let language = schema.pointer_mut(&place).and_then(Value::as_object_mut).expect("a property");
        assert!(language.remove("pattern").is_some());
    }
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let eks = concat!(env!("CARGO_MANIFEST_DIR"), "/../steps/tests/fixtures/eks");
    for folder in ["in", eks, "in/plain.yaml"] {
        let sarif = migrate(project.path(), &["assess", folder, "--sarif"]);
        assert_eq!(sarif.code, 0, "{}", sarif.stderr);
        let sarif: Value = serde_json::from_str(&sarif.stdout).expect("JSON");
        let wrong: Vec<_> =
            schema.iter_errors(&sarif).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");

        let json = migrate(project.path(), &["assess", folder, "--json"]).stdout;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let found = json["findings"].as_array().expect("findings");
        let run = &sarif["runs"][0];
        let results = run["results"].as_array().expect("results");
        assert_eq!(results.len(), found.len());
        for (result, finding) in results.iter().zip(found) {
            assert_eq!(result["ruleId"], finding["rule"]);
            let rule =
                result["ruleIndex"].as_u64().and_then(|at| usize::try_from(at).ok()).expect("an index");
            assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], finding["rule"]);
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["region"]["startLine"], finding["line"]);
        }
    }
    // The schema is no formality: it refuses what is wrong.
    let wrong = serde_json::json!({ "version": "2.1.0", "runs": [{ "tool": {}, "results": [{ "level": "fatal" }] }] });
    assert!(!schema.is_valid(&wrong));
}

#[test]
fn a_name_that_is_no_uri_is_escaped() {
    let project = project();
    let sarif: Value =
        serde_json::from_str(&migrate(project.path(), &["assess", "in", "--sarif"]).stdout).expect("JSON");
    let uri = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!(uri, "a%20folder/gr%C3%B6%C3%9Fe%2520/web%20%231.yaml");
}

#[test]
fn rules_of_a_team_come_from_the_site_and_the_command_line() {
    let project = project();
    let file = |name: &str, text: &str| fs::write(project.path().join(name), text).expect("written");
    file("ours.toml", OWN_RULE);
    let known = |args: &[&str]| migrate(project.path(), &[&["rules", "SHOP-001"], args].concat());
    assert_eq!(known(&[]).code, 2);
    assert!(known(&["--rules", "ours.toml"]).stdout.starts_with("SHOP-001: Old price service"));
    file("migration.toml", "rules = [\"ours.toml\"]\n");
    assert_eq!(known(&[]).code, 0);
    // The same file twice is the same rule twice.
    let twice = known(&["--rules", "ours.toml"]);
    assert_eq!(twice.code, 3);
    assert!(twice.stderr.contains("another rule has this ID"), "{}", twice.stderr);

    let diff = migrate(project.path(), &["rewrite", "in"]);
    assert!(
        diff.stdout.contains("+            - { name: PRICES, value: 'http://prices.shop.svc/v1' } # by hand"),
        "{}",
        diff.stdout
    );
    file("ours.toml", &OWN_RULE.replace("kind = ", "kin = "));
    let wrong = migrate(project.path(), &["rewrite", "in", "--write"]);
    assert_eq!(wrong.code, 3);
    assert!(wrong.stderr.contains("ours.toml is no file of rules"), "{}", wrong.stderr);
}

#[test]
fn what_is_written_removed_and_left_out_is_told() {
    let project = project();
    let folder = project.path().join("in");
    fs::write(project.path().join("outside.yaml"), WEB).expect("written");
    std::os::unix::fs::symlink("../outside.yaml", folder.join("link.yaml")).expect("a link");
    let agent =
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: fluent-bit, namespace: amazon-cloudwatch}\n";
    fs::write(folder.join("agent.yaml"), agent).expect("written");
    fs::write(project.path().join("migration.toml"), "[rewrite.zones]\nus-east-1a = \"eastus-1\"\n")
        .expect("written");

    let told = migrate(project.path(), &["rewrite", "in"]);
    assert!(told.stdout.contains("--- a/agent.yaml\n+++ /dev/null\n"), "{}", told.stdout);
    assert!(told.stderr.contains("agent.yaml would be removed"), "{}", told.stderr);
    assert!(folder.join("agent.yaml").exists());

    let written = migrate(project.path(), &["rewrite", "in", "--write"]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    assert!(
        written.stderr.contains("agent.yaml was removed: nothing in it is for AKS"),
        "{}",
        written.stderr
    );
    assert!(written.stderr.contains("link.yaml was left out: links are not followed"), "{}", written.stderr);
    assert!(!folder.join("agent.yaml").exists());
    assert_eq!(fs::read_to_string(project.path().join("outside.yaml")).expect("read"), WEB);
    let again = migrate(project.path(), &["rewrite", "in", "--json"]);
    let again: Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!(again["files"], serde_json::json!([]));
    assert_eq!(again["left-out"], serde_json::json!(["link.yaml"]));
}

#[test]
fn no_work_is_no_hours() {
    let project = tempfile::tempdir().expect("a folder");
    let folder = project.path().join("in");
    fs::create_dir(&folder).expect("made");
    let assess = |option: &[&str]| migrate(project.path(), &[&["assess", "in"], option].concat()).stdout;
    let of_none = |what: &str| {
        let (text, json) = (assess(&[]), assess(&["--json"]));
        assert!(text.ends_with("readiness 100 %, about 0.0 h of work\n"), "{what}: {text}");
        assert!(json.contains(r#""hours":0.0"#) && !json.contains("-0.0"), "{what}: {json}");
    };
    of_none("an empty folder");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    fs::write(folder.join("map.yaml"), map).expect("written");
    of_none("what belongs to no workload");
    let web = WEB.split("      nodeSelector").next().expect("a beginning");
    let web = format!("{web}      containers: [{{ name: web, image: registry.k8s.io/pause:3.10 }}]\n");
    fs::write(folder.join("web.yaml"), web).expect("written");
    of_none("a workload");
}

#[test]
fn a_tool_that_is_missing_is_told_with_the_way_out_and_nothing_is_skipped() {
    for (file, text, tool) in [
        ("shop/Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n", "helm"),
        ("kustomization.yaml", "resources: [web.yaml]\n", "kubectl"),
    ] {
        let project = tempfile::tempdir().unwrap();
        let path = project.path().join("in").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::write(project.path().join("in/web.yaml"), WEB).unwrap();
        for command in [&["assess", "in"][..], &["rewrite", "in", "--write"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
                .args(command)
                .current_dir(project.path())
                .env_remove("MIGRATE_PROJECT")
                .env("PATH", project.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
            assert!(
                said.contains(&format!("`{tool}` is not on PATH")) && said.contains("install it"),
                "{said}"
            );
        }
        assert_eq!(fs::read_to_string(project.path().join("in/web.yaml")).unwrap(), WEB);
    }
}

/// The same rules hold in a run, and a resume tells that they are others by now.
#[test]
fn rules_of_the_site_hold_in_a_run() {
    let project = project();
    let write = |name: &str, text: &str| fs::write(project.path().join(name), text).expect("written");
    write("ours.toml", OWN_RULE);
    write("migration.toml", "schema = 1\nrules = [\"ours.toml\"]\n");
    write(
        "w.toml",
        "schema = 1\nname = \"w\"\n[nodes.rewrite]\nstep = \"manifest.rewrite\"\nwith = { from = \"in\", to = \"out\" }\n\
         [nodes.look]\nstep = \"assess.manifests\"\nwith = { from = \"in\" }\n\
         [nodes.plain]\nstep = \"manifest.rewrite\"\nwith = { from = \"in\", to = \"plain\", rules = [] }\n",
    );
    let done = migrate(project.path(), &["run", "w.toml"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let read = |folder: &str| {
        fs::read_to_string(project.path().join(folder).join("a folder/größe%20/web #1.yaml")).expect("read")
    };
    assert!(read("out").contains("value: 'http://prices.shop.svc/v1'"), "{}", read("out"));
    assert!(read("plain").contains("http://prices.old.example.com/v1"));
    let status = migrate(project.path(), &["status", "--json"]).stdout;
    assert!(status.contains("SHOP-001"), "{status}");

    write("migration.toml", "schema = 1\n");
    let resumed = migrate(project.path(), &["resume"]);
    assert_ne!(resumed.code, 0, "{}", resumed.stderr);
    assert!(resumed.stderr.contains("rules"), "{}", resumed.stderr);
}
