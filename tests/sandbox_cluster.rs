//! What only AWS's APIs know, and what is made in Azure of it: `assess.cluster` with moto's EKS, `identity.map` with moto's
//! IAM and the sandbox's stand-in for Resource Manager. moto has no add-ons, associations, access entries and
//! versions: those are told as not read, and tested on a stand-in of ours (`steps/src/assess/eks_tests.rs`).

use std::fs;

use migrate_tests::{Sandbox, checks, expect_success};
use serde_json::{Value, json};

struct Moto {
    endpoint: String,
}

impl Moto {
    async fn send(
        &self,
        method: reqwest::Method,
        service: &str,
        path: &str,
        kind: &str,
        body: String,
    ) -> (u16, String) {
        let scope = format!("AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/{service}/aws4_request");
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.endpoint));
        let request = request.header("authorization", scope).header("content-type", kind).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn eks(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, String) {
        self.send(method, "eks", path, "application/json", body.to_string()).await
    }

    /// Makes a thing of EKS, also where an earlier run of this test has left it.
    async fn make(&self, path: &str, name: &str, body: Value) {
        self.eks(reqwest::Method::DELETE, &format!("{path}/{name}"), json!({})).await;
        let (status, text) = self.eks(reqwest::Method::POST, path, body).await;
        assert_eq!(status, 200, "{path}: {text}");
    }

    async fn iam(&self, fields: &[(&str, &str)]) -> (u16, String) {
        let all = [&[("Version", "2010-05-08")], fields].concat();
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let form: Vec<String> = all.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        self.send(reqwest::Method::POST, "iam", "/", "application/x-www-form-urlencoded", form.join("&"))
            .await
    }
}

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":"arn:aws:s3:::shop/*"}]}"#;
const QUEUE: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sqs:SendMessage"],"Resource":"*"}]}"#;
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[]}"#;
const ROLE: &str = "arn:aws:iam::123456789012:role/e2e-web";

async fn prepare(moto: &Moto) {
    for path in ["/clusters/e2e/node-groups/spot", "/clusters/e2e/fargate-profiles/jobs"] {
        moto.eks(reqwest::Method::DELETE, path, json!({})).await;
    }
    let network = json!({ "subnetIds": ["subnet-1", "subnet-2"] });
    moto.make("/clusters", "e2e", json!({ "name": "e2e", "roleArn": "arn:aws:iam::123456789012:role/eks", "resourcesVpcConfig": network })).await;
    let group = json!({ "nodegroupName": "spot", "nodeRole": "arn:aws:iam::123456789012:role/nodes", "subnets": ["subnet-1"],
        "capacityType": "SPOT", "instanceTypes": ["m5.large"], "scalingConfig": { "minSize": 1, "desiredSize": 2, "maxSize": 4 } });
    moto.make("/clusters/e2e/node-groups", "spot", group).await;
    let profile = json!({ "fargateProfileName": "jobs", "podExecutionRoleArn": "arn:aws:iam::123456789012:role/jobs", "selectors": [{ "namespace": "jobs" }] });
    moto.make("/clusters/e2e/fargate-profiles", "jobs", profile).await;

    let attached = "arn:aws:iam::123456789012:policy/e2e-queue";
    moto.iam(&[("Action", "DetachRolePolicy"), ("RoleName", "e2e-web"), ("PolicyArn", attached)]).await;
    moto.iam(&[("Action", "DeleteRolePolicy"), ("RoleName", "e2e-web"), ("PolicyName", "own")]).await;
    moto.iam(&[("Action", "DeletePolicy"), ("PolicyArn", attached)]).await;
    moto.iam(&[("Action", "DeleteRole"), ("RoleName", "e2e-web")]).await;
    for fields in [
        &[("Action", "CreateRole"), ("RoleName", "e2e-web"), ("AssumeRolePolicyDocument", TRUST)][..],
        &[
            ("Action", "PutRolePolicy"),
            ("RoleName", "e2e-web"),
            ("PolicyName", "own"),
            ("PolicyDocument", POLICY),
        ],
        &[("Action", "CreatePolicy"), ("PolicyName", "e2e-queue"), ("PolicyDocument", QUEUE)],
        &[("Action", "AttachRolePolicy"), ("RoleName", "e2e-web"), ("PolicyArn", attached)],
    ] {
        let (status, text) = moto.iam(fields).await;
        assert_eq!(status, 200, "{fields:?}: {text}");
    }
}

const WORKFLOW: &str = r#"
schema = 1
name = "cluster"

[nodes.inventory]
step = "assess.cluster"
with = { cluster = "${env.source.cluster}", registry = "${env.source.registry}", namespaces = ["shop"], eks = "e2e", aws = "${env.source.aws}" }

[nodes.identities]
step = "identity.map"
needs = ["inventory"]
on_failure = "stop"

[nodes.identities.with]
from = "e2e-accounts"
to = "e2e-identities"
issuer = "https://issuer.example/"
resource-group = "sandbox"
location = "eastus"
aws = "${env.source.aws}"
associations = "${nodes.inventory.associations}"
apply = true
azure = "${env.target.azure}"
assignments = [{ role-arn = "arn:aws:iam::123456789012:role/e2e-web", role = "Storage Blob Data Reader", scope = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/sandbox" }]
"#;

fn node<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name).unwrap()
}

/// `migrate assess --eks` says of the same cluster what the step says, and of one that is not there that it isn't.
fn assess(sandbox: &Sandbox, inventory: &Value) {
    let command = |eks: &str| {
        let mut command =
            sandbox.migrate(&["assess", "--context", "eks", "-n", "shop", "--eks", eks, "--json"]);
        command.env("KUBECONFIG", sandbox.project().join("kubeconfig"));
        command
    };
    let output = expect_success(&mut command("e2e"));
    let assessed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_the_cluster = |findings: &Value| -> Vec<[String; 3]> {
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        let all = findings.as_array().unwrap().iter();
        let all = all.map(|f| [text(f, "rule"), text(f, "name"), text(f, "message")]);
        let mut all: Vec<_> = all.filter(|[rule, ..]| rule.starts_with("EKS-CLU")).collect();
        all.sort();
        all
    };
    let found = of_the_cluster(&assessed["findings"]);
    assert!(found.len() >= 4, "{found:?}");
    assert_eq!(found, of_the_cluster(&inventory["findings"]));
    assert_eq!(assessed["unreadable"], inventory["unreadable"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("eks: addons") && said.contains("could not be read"), "{said}");

    let refused = command("e2e-missing").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("there is no EKS cluster `e2e-missing` in us-east-1"),
        "{said}"
    );
    let refusal: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refusal["type"], "error", "{refusal}");
}

#[tokio::test]
async fn the_cluster_is_asked_and_identities_are_made_and_taken_back() {
    let sandbox = Sandbox::reset();
    let site: toml::Table =
        fs::read_to_string(sandbox.project().join("migration.toml")).unwrap().parse().unwrap();
    let moto = Moto {
        endpoint: site["source"]["aws"]["eks-endpoint"].as_str().unwrap().trim_end_matches('/').to_owned(),
    };
    prepare(&moto).await;
    let accounts = sandbox.project().join("e2e-accounts");
    fs::create_dir_all(&accounts).unwrap();
    let account = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: web\n  namespace: shop\n  annotations: {{eks.amazonaws.com/role-arn: '{ROLE}'}}\n"
    );
    fs::write(accounts.join("web.yaml"), account).unwrap();
    let workflow = sandbox.project().join("cluster.toml");
    fs::write(&workflow, WORKFLOW).unwrap();

    let report = sandbox.report(&["run", "cluster.toml"]);
    assert_eq!(report["state"], "done", "{report:#}");
    let inventory = &node(&report, "inventory")["outputs"];
    let findings = inventory["findings"].as_array().unwrap();
    for rule in ["EKS-CLU-001", "EKS-CLU-010", "EKS-CLU-014", "EKS-CLU-020"] {
        assert!(findings.iter().any(|finding| finding["rule"] == rule), "{rule} not found");
    }
    let group = findings.iter().find(|finding| finding["rule"] == "EKS-CLU-010").unwrap();
    assert!(group["message"].as_str().unwrap().contains("2 nodes (1 to 4) of m5.large"), "{group}");
    let unreadable = inventory["unreadable"].to_string();
    assert!(unreadable.contains("eks: addons"), "what moto lacks is told: {unreadable}");

    assess(&sandbox, inventory);

    let outputs = &node(&report, "identities")["outputs"];
    let proposed: Vec<&str> = outputs["identities"][0]["access"]["proposals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["role"].as_str().unwrap())
        .collect();
    assert_eq!(proposed, ["Azure Service Bus Data Sender", "Storage Blob Data Reader"]);
    let made = &outputs["made"][0];
    assert_eq!(outputs["client-ids"]["shop/web"], made["client-id"]);
    let compared: Vec<_> = checks(&report)
        .into_iter()
        .filter(|check| check[0] == "identities" && check[1] == "identity e2e-web")
        .collect();
    assert_eq!(compared.len(), 3, "{compared:?}");
    assert!(compared.iter().all(|check| check[5] == "passed"), "{compared:?}");
    let writes = || sandbox.log_since("azure").lines().filter(|line| line.contains(" 201 PUT ")).count();
    assert_eq!(writes(), 3);
    expect_success(&mut sandbox.migrate(&["resume", "--rerun", "identities", "--json"]));
    assert_eq!(writes(), 3, "nothing is made twice");

    expect_success(&mut sandbox.migrate(&["undo", "--yes"]));
    let log = sandbox.log_since("azure");
    assert_eq!(log.lines().filter(|line| line.contains(" 200 DELETE ")).count(), 3, "{log}");
    assert!(!sandbox.project().join("e2e-identities").exists());
    fs::remove_dir_all(accounts).unwrap();
    fs::remove_file(workflow).unwrap();
}
