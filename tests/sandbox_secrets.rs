//! `secrets.copy` from moto's Secrets Manager into the sandbox's stand-in for a Key Vault, by `migrate`.

use std::fs;
use std::path::Path;

use migrate_tests::{Sandbox, checks, report_of};
use serde_json::{Value, json};

const CANARY: &str = "canary-91d4";

/// The site's secrets: moto speaks JSON over HTTP and checks no signature.
struct Manager {
    endpoint: String,
}

impl Manager {
    async fn call(&self, action: &str, body: Value) -> Value {
        let answer = reqwest::Client::new()
            .post(&self.endpoint)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("secretsmanager.{action}"))
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/secretsmanager/aws4_request",
            )
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{action}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Also where an earlier run of this test has left it.
    async fn make(&self, name: &str, fields: Value) {
        let gone = json!({ "SecretId": name, "ForceDeleteWithoutRecovery": true });
        self.call("DeleteSecret", gone).await;
        let mut body = json!({ "Name": name });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.call("CreateSecret", body).await;
    }
}

/// The vault as anybody uses it who has the application's secret.
struct Vault {
    endpoint: String,
    token: String,
}

impl Vault {
    async fn of(site: &toml::Table, project: &Path) -> Self {
        let text = |value: &toml::Value| value.as_str().unwrap().trim_end_matches('/').to_owned();
        let principal = &site["target"]["azure"]["service-principal"];
        let secret = fs::read_to_string(project.join("azure-secret")).unwrap();
        let url =
            format!("{}/{}/oauth2/v2.0/token", text(&principal["authority"]), text(&principal["tenant"]));
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&scope=https%3A%2F%2Fvault.azure.net%2F.default",
            text(&principal["client-id"]),
            secret.trim()
        );
        let request = reqwest::Client::new().post(url).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let body: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        let endpoint = text(&site["target"]["vault"]["endpoint"]);
        Self { endpoint, token: body["access_token"].as_str().unwrap().to_owned() }
    }

    async fn ask(&self, method: reqwest::Method, path: &str) -> (u16, Value) {
        let url = format!("{}/{path}?api-version=7.4", self.endpoint);
        let answer =
            reqwest::Client::new().request(method, url).bearer_auth(&self.token).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(reqwest::Method::GET, path).await.1
    }

    async fn versions(&self, name: &str) -> usize {
        self.get(&format!("secrets/{name}/versions")).await["value"].as_array().map_or(0, Vec::len)
    }

    /// Deletes for good what an earlier run has left.
    async fn purge(&self, name: &str) {
        for path in ["secrets", "deletedsecrets"] {
            self.ask(reqwest::Method::DELETE, &format!("{path}/{name}")).await;
        }
    }
}

const WORKFLOW: &str = r#"
schema = 1
name = "secrets"

[nodes.secrets]
step = "secrets.copy"

[nodes.secrets.with]
aws = "${env.source.aws}"
azure = "${env.target.azure}"
vault = "${env.target.vault}"
secrets = ["e2e/*"]
split = { "e2e/db" = ["user", "password"] }
previous = true
"#;

#[tokio::test]
async fn secrets_arrive_in_the_vault_once_and_nowhere_else() {
    let sandbox = Sandbox::reset();
    let site: toml::Table =
        fs::read_to_string(sandbox.project().join("migration.toml")).unwrap().parse().unwrap();
    let manager =
        Manager { endpoint: site["source"]["aws"]["secrets-manager-endpoint"].as_str().unwrap().to_owned() };
    let vault = Vault::of(&site, sandbox.project()).await;
    let names = ["e2e-db-user", "e2e-db-password", "e2e-token", "e2e-key"];
    for name in names {
        vault.purge(name).await;
    }
    let db = |password: &str| format!(r#"{{"user":"shop","password":"{CANARY}-{password}"}}"#);
    manager.make("e2e/db", json!({ "SecretString": db("old"), "Description": "the database" })).await;
    manager.call("PutSecretValue", json!({ "SecretId": "e2e/db", "SecretString": db("new") })).await;
    manager.make("e2e/token", json!({ "SecretString": format!("{CANARY}-token") })).await;
    manager.make("e2e/key", json!({ "SecretBinary": "/wAX" })).await;
    let workflow = sandbox.project().join("secrets.toml");
    fs::write(&workflow, WORKFLOW).unwrap();

    let report = sandbox.report(&["run", "secrets.toml"]);
    assert_eq!(report["state"], "done", "{report:#}");
    let values = checks(&report);
    // Four secrets, and the password's previous value: the user's is the same.
    assert_eq!(values.len(), 5, "{values:?}");
    assert!(values.iter().all(|check| check[5] == "passed"), "{values:?}");
    assert_eq!(vault.get("secrets/e2e-db-password").await["value"], format!("{CANARY}-new"));
    assert_eq!(vault.get("secrets/e2e-db-user").await["value"], "shop");
    assert_eq!(vault.get("secrets/e2e-db-user").await["tags"]["description"], "the database");
    assert_eq!(vault.get("secrets/e2e-key").await["value"], "/wAX");
    assert_eq!((vault.versions("e2e-db-password").await, vault.versions("e2e-db-user").await), (2, 1));

    // Made again, it sets nothing: each set would be one more version.
    let again =
        migrate_tests::expect_success(&mut sandbox.migrate(&["resume", "--rerun", "secrets", "--json"]));
    assert_eq!(report_of(&again)["state"], "done");
    assert_eq!((vault.versions("e2e-db-password").await, vault.versions("e2e-token").await), (2, 1));

    // A soft-deleted name is told before anything is touched.
    vault.ask(reqwest::Method::DELETE, "secrets/e2e-token").await;
    let refused = sandbox.migrate(&["run", "secrets.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(
        said.contains("az keyvault secret recover --vault-name migratesandbox --name e2e-token"),
        "{said}"
    );

    // No value is in the store, the logs of the services, or what was said.
    let mut files = vec![sandbox.project().join(".migrate")];
    let mut looked = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "{}", path.display());
            looked += 1;
        }
    }
    assert!(looked > 0, "the store is there");
    assert!(!said.contains(CANARY) && !report.to_string().contains(CANARY));
    assert!(!sandbox.log_since("azure").contains(CANARY));
    for name in names {
        vault.purge(name).await;
    }
    fs::remove_file(workflow).unwrap();
}
