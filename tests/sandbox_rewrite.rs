//! What the rules write, judged by the target: every rewritten example is accepted by the API server,
//! and the estate, rewritten from its files, runs and answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use migrate_steps::manifests::rewrite_files;
use migrate_steps::rules::{Inputs, RuleSet};
use migrate_tests::{Sandbox, checks, expect_success};
use serde::Deserialize;
use serde_json::Value;

/// Objects of the examples that stay what they are on EKS: for a person, by a finding. No cluster of
/// AKS serves their kinds.
const FOR_A_PERSON: [&str; 6] = [
    "appmesh.k8s.aws/v1beta2/Mesh",
    "application-networking.k8s.aws/v1alpha1/TargetGroupPolicy",
    "karpenter.k8s.aws/v1/EC2NodeClass",
    "policy/v1beta1/PodSecurityPolicy",
    "s3.services.k8s.aws/v1alpha1/Bucket",
    "vpcresources.k8s.aws/v1beta1/SecurityGroupPolicy",
];

/// Kinds that the rules make of others, which must be among what is accepted.
const MADE: [&str; 4] = [
    "alb.networking.azure.io/v1/HealthCheckPolicy",
    "gateway.networking.k8s.io/v1/Gateway",
    "gateway.networking.k8s.io/v1/HTTPRoute",
    "karpenter.azure.com/v1beta1/AKSNodeClass",
];

/// For what takes seconds, on a machine that is busy.
const TIMEOUT: &str = "--timeout=300s";

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn kind(object: &Value) -> String {
    format!("{}/{}", text(object, "/apiVersion"), text(object, "/kind"))
}

fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    let objects =
        documents.map(|d| serde_json::to_value(serde_yaml_ng::Value::deserialize(d).unwrap()).unwrap());
    objects.filter(|object| !object.is_null()).collect()
}

/// `kubectl apply` of `objects` on the target: exit and all that it said.
fn apply(sandbox: &Sandbox, objects: &[&Value], options: &[&str]) -> (bool, String) {
    let file = sandbox.project().join("objects.json");
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(&file, list.to_string()).unwrap();
    let file_name = file.to_str().unwrap();
    let output = sandbox.kubectl_output("aks", &[&["apply", "-f", file_name], options].concat());
    fs::remove_file(&file).unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), said(&output.stdout) + &said(&output.stderr))
}

#[test]
fn the_target_accepts_every_rewritten_example() {
    let sandbox = Sandbox::reset();
    let fixtures = workspace().join("steps/tests/fixtures");
    let inputs: Inputs = toml::from_str(&fs::read_to_string(fixtures.join("inputs.toml")).unwrap()).unwrap();
    let done = rewrite_files(&fixtures.join("eks"), &RuleSet::shipped(), &inputs).unwrap();
    let all: Vec<Value> = done.files.iter().flat_map(|file| objects(&file.after)).collect();
    let (for_a_person, ready): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|object| FOR_A_PERSON.contains(&kind(object).as_str()));
    let found: BTreeSet<String> = for_a_person.iter().map(|object| kind(object)).collect();
    assert_eq!(found, BTreeSet::from(FOR_A_PERSON.map(str::to_owned)));
    for object in &for_a_person {
        let is_told = |f: &migrate_steps::rules::Finding| f.kind == text(object, "/kind");
        assert!(done.findings.iter().any(is_told), "no finding on {}", kind(object));
    }
    let kinds: BTreeSet<String> = ready.iter().map(|object| kind(object)).collect();
    for made in MADE {
        assert!(kinds.contains(made), "no {made} in {kinds:?}");
    }

    let definitions = Definitions::install(&sandbox);
    // A dry run needs the namespaces themselves.
    let namespaces: BTreeSet<&str> =
        ready.iter().map(|object| text(object, "/metadata/namespace")).filter(|n| !n.is_empty()).collect();
    let made: Vec<Value> = namespaces
        .iter()
        .filter(|name| **name != "kube-system")
        .map(|name| serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
        .collect();
    // A pod's account, which the EKS API alone ties to its role, so that no example has it.
    let accounts = ready.iter().filter(|object| text(object, "/kind") == "Pod").filter_map(|pod| {
        let name = pod.pointer("/spec/serviceAccountName")?;
        let metadata = serde_json::json!({ "name": name, "namespace": text(pod, "/metadata/namespace") });
        Some(serde_json::json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }))
    });
    let accounts: Vec<Value> = accounts.collect();
    let (is_made, said) = apply(&sandbox, &made.iter().chain(&accounts).collect::<Vec<_>>(), &[]);
    assert!(is_made, "{said}");

    let dry_run = ["--dry-run=server", "--validate=strict"];
    let (accepted, said) = apply(&sandbox, &ready, &dry_run);
    let count = said.lines().filter(|line| line.ends_with("(server dry run)")).count();
    eprintln!("{count} of {} objects of {} kinds accepted", ready.len(), kinds.len());
    // What is for a person is refused, and so is a field that is not the kind's: the dry run looks.
    for object in &for_a_person {
        let (accepted, said) = apply(&sandbox, &[object], &dry_run);
        assert!(!accepted && said.contains("no matches for kind"), "{said}");
    }
    let mut wrong =
        ready.iter().find(|object| text(object, "/kind") == "HealthCheckPolicy").unwrap().to_owned().clone();
    wrong["spec"]["default"]["intervall"] = "5s".into();
    let (is_taken, refusal) = apply(&sandbox, &[&wrong], &dry_run);
    assert!(!is_taken && refusal.contains("intervall"), "{refusal}");

    definitions.remove(&sandbox);
    for name in made.iter().map(|object| text(object, "/metadata/name")) {
        sandbox.kubectl("aks", &["delete", "namespace", name, TIMEOUT]);
    }
    assert!(accepted, "{said}");
    assert_eq!(count, ready.len(), "{said}");
}

/// The definitions of the kinds on AKS, on the target.
struct Definitions(PathBuf);

impl Definitions {
    fn install(sandbox: &Sandbox) -> Self {
        let folder = migrate_tests::definitions();
        let name = folder.to_str().unwrap();
        // By the server's side: some are longer than an annotation may be.
        sandbox.kubectl("aks", &["apply", "--server-side", "-f", name]);
        sandbox.kubectl("aks", &["wait", "--for=condition=Established", "-f", name, TIMEOUT]);
        Self(folder)
    }

    fn remove(self, sandbox: &Sandbox) {
        sandbox.kubectl("aks", &["delete", "-f", self.0.to_str().unwrap(), TIMEOUT]);
    }
}

/// From files to a running shop: images first, then what was rewritten in place.
const WORKFLOW: &str = r#"
schema = 1
name = "from-files"

[nodes.inventory]
step = "assess.cluster"
with = { cluster = "${env.source.cluster}", registry = "${env.source.registry}", namespaces = ["shop"] }

[nodes.pull-images]
step = "ecr.pull"
with = { from = "${env.source.registry}", aws = "${env.source.aws}", images = "${nodes.inventory.images}", layout = ".migrate/images" }

[nodes.push-images]
step = "acr.push"
with = { layout = "${nodes.pull-images.layout}", images = "${nodes.pull-images.images}", to = "${env.target.registry}" }

[nodes.apply]
step = "manifest.apply"
needs = ["push-images"]
with = { cluster = "${env.target.cluster}", directory = "estate" }

[nodes.smoke-test]
step = "smoke.test"
needs = ["apply"]
with = { cluster = "${env.target.cluster}", checks = [
  { name = "web is rolled out", rollout = { namespace = "shop", kind = "deployment", name = "web" } },
  { name = "the database is", rollout = { namespace = "shop", kind = "stateful-set", name = "postgres" } },
  { name = "the files are", rollout = { namespace = "shop", kind = "stateful-set", name = "files" } },
  { name = "web answers", http = { namespace = "shop", service = "web", port = 80, path = "/healthz", status = 200 } },
] }
"#;

/// What of the estate is AWS's own: file, rule, and whether it is rewritten. By hand, from its files.
const EXPECTED: [(&str, &str, usize, bool); 16] = [
    ("10-cluster.yaml", "EKS-NET-013", 1, true),
    ("20-shop.yaml", "EKS-IMG-002", 1, true),
    ("20-shop.yaml", "EKS-REF-001", 1, false),
    ("20-shop.yaml", "EKS-ID-001", 1, true),
    ("20-shop.yaml", "EKS-ID-002", 1, true),
    ("30-postgres.yaml", "EKS-IMG-001", 1, true),
    ("30-postgres.yaml", "EKS-STO-016", 1, true),
    ("40-files.yaml", "EKS-IMG-001", 1, true),
    ("40-files.yaml", "EKS-STO-015", 1, true),
    ("40-files.yaml", "EKS-STO-016", 1, true),
    ("50-web.yaml", "EKS-IMG-001", 2, true),
    ("50-web.yaml", "EKS-ID-007", 1, true),
    ("50-web.yaml", "EKS-NET-001", 1, true),
    ("50-web.yaml", "EKS-NET-005", 1, true),
    ("50-web.yaml", "EKS-NET-012", 1, true),
    ("50-web.yaml", "EKS-NET-054", 1, false),
];

#[test]
fn the_estate_is_assessed_rewritten_applied_and_answers() {
    let sandbox = Sandbox::reset();
    let estate = sandbox.project().join("estate");
    fs::create_dir_all(&estate).unwrap();
    for (name, ..) in EXPECTED {
        fs::copy(workspace().join("sandbox/estate").join(name), estate.join(name)).unwrap();
    }
    let original = fs::read_to_string(estate.join("50-web.yaml")).unwrap();
    fs::write(sandbox.project().join("from-files.toml"), WORKFLOW).unwrap();
    let site = |site: String| format!("{site}\n[rewrite.claim-sizes]\n\"shop/uploads\" = \"100Gi\"\n");
    let report = sandbox.with_site(site, || {
        let assessed = json(&sandbox, &["assess", "estate", "--json"]);
        let mut left: Vec<(&str, &str, usize, bool)> = EXPECTED.to_vec();
        for finding in assessed["findings"].as_array().unwrap() {
            let (file, rule) = (text(finding, "/file"), text(finding, "/rule"));
            let place = left.iter().position(|(f, r, ..)| (*f, *r) == (file, rule));
            let place = place.unwrap_or_else(|| panic!("not expected: {finding:#}"));
            assert_eq!(finding["rewritten"], left[place].3, "{finding:#}");
            left[place].2 -= 1;
            left.retain(|(_, _, count, _)| *count > 0);
        }
        assert_eq!(left, [], "expected and not found");

        let written = json(&sandbox, &["rewrite", "estate", "--write", "--json"]);
        assert_eq!(written["written"], true);
        let again = json(&sandbox, &["rewrite", "estate", "--json"]);
        assert_eq!(again["files"], serde_json::json!([]));
        sandbox.report(&["run", "from-files.toml"])
    });
    assert_eq!(report["state"], "done", "{report:#}");
    let smoke: Vec<_> = checks(&report).into_iter().filter(|check| check[0] == "smoke-test").collect();
    assert!(smoke.len() >= 4 && smoke.iter().all(|check| check[5] == "passed"), "{smoke:?}");

    // The page itself, through its Service.
    let page = ["get", "--raw", "/api/v1/namespaces/shop/services/web:http/proxy/"];
    assert!(sandbox.kubectl("aks", &page).contains("Welcome to the shop"));
    let get = |what: &[&str]| sandbox.kubectl("aks", &[&["get", "-n", "shop"], what].concat());
    assert_eq!(
        get(&["ingress", "web", "-o", "jsonpath={.spec.ingressClassName}"]),
        "webapprouting.kubernetes.azure.com"
    );
    let classes = get(&["pvc", "-o", "jsonpath={.items[*].spec.storageClassName}"]);
    assert_eq!(
        classes.split(' ').collect::<BTreeSet<_>>(),
        BTreeSet::from(["managed-csi-premium", "azurefile-csi-nfs"])
    );
    let label = r"jsonpath={.spec.template.metadata.labels.azure\.workload\.identity/use}";
    assert_eq!(get(&["deployment", "web", "-o", label]), "true");

    // Comments that have nothing to do with AWS are where they were.
    let rewritten = fs::read_to_string(estate.join("50-web.yaml")).unwrap();
    for comment in original.lines().filter(|line| line.trim_start().starts_with('#')) {
        assert!(rewritten.contains(comment), "{comment}");
    }
    fs::remove_dir_all(estate).unwrap();
    fs::remove_file(sandbox.project().join("from-files.toml")).unwrap();
}

fn json(sandbox: &Sandbox, args: &[&str]) -> Value {
    let output = expect_success(&mut sandbox.migrate(args));
    serde_json::from_slice(&output.stdout).unwrap()
}
