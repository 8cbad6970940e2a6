//! `secrets.copy` between two strict stand-ins of ours.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use azure_core::time::Duration as Span;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{ErrorClass, Step, Typed};
use serde_json::{Value, json};

use super::super::stand::{ManagerStand, VaultStand, arn};
use super::*;
use crate::tokens::testing::{TOKEN, Us};

const CANARY: &str = "canary-5f1e";

struct Stage {
    manager: ManagerStand,
    vault: VaultStand,
    host: Arc<RecordingHost>,
    ctx: StepContext,
    step: Typed<SecretsCopy>,
    config: Value,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (manager, vault) = (ManagerStand::default(), VaultStand::default());
        let folder = tempfile::tempdir().unwrap();
        let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(folder.path().join("credentials"), file).unwrap();
        let host = Arc::new(RecordingHost::default());
        let ctx = host.context("secrets", folder.path());
        let config = json!({
            "aws": { "region": "us-east-1", "credentials-file": "credentials", "secrets-manager-endpoint": manager.start().await },
            "vault": { "name": "shop", "endpoint": vault.start().await },
            "secrets": ["shop/*"],
        });
        let step = Typed(SecretsCopy { identity: Some(Arc::new(Us(Span::hours(1)))) });
        Self { manager, vault, host, ctx, step, config, _folder: folder }
    }

    fn with(&self, field: &str, value: Value) -> Value {
        let mut config = self.config.clone();
        config[field] = value;
        config
    }

    fn text(&self, name: &str, value: &str) {
        self.manager.put(name, json!({ "SecretString": value }));
    }

    async fn apply(&self, config: &Value) -> Result<Value, StepError> {
        self.step.apply(&self.ctx, config).await
    }

    async fn verify(&self, config: &Value, outputs: &Value) -> Evidence {
        self.step.verify(&self.ctx, config, outputs, VerifyDepth::Quick).await.unwrap()
    }
}

fn statuses(evidence: &Evidence) -> Vec<(String, CheckStatus)> {
    evidence.checks.iter().map(|check| (format!("{} {}", check.subject, check.what), check.status)).collect()
}

#[tokio::test]
async fn secrets_arrive_once_and_nothing_of_their_values_is_told() {
    let stage = Stage::new().await;
    let json = format!(r#"{{"user":"shop","password":"{CANARY}-json"}}"#);
    stage.text("shop/db", &json);
    stage.text("shop/token", &format!("{CANARY}-token"));
    let bytes = [0xff, 0x00, 0x17];
    stage.manager.put("shop/key", json!({ "SecretBinary": BASE64.encode(bytes) }));
    stage.text("other", "not asked for");
    stage.manager.state().get_mut("shop/db").unwrap().about["Description"] = "the database".into();
    stage.manager.state().get_mut("shop/db").unwrap().about["Tags"] =
        json!([{ "Key": "team", "Value": "shop" }]);
    let plan = stage.step.plan(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!((plan.items, plan.problems.as_slice(), stage.vault.state().sets), (Some(3), &[][..], 0));

    let outputs = stage.apply(&stage.config).await.unwrap();
    assert_eq!(stage.vault.state().sets, 3);
    assert_eq!(stage.vault.values("shop-db"), std::slice::from_ref(&json));
    assert_eq!(stage.vault.values("shop-key"), [BASE64.encode(bytes)]);
    let db = stage.vault.state().secrets["shop-db"][0].body.clone();
    assert_eq!(db["contentType"], "application/json");
    assert_eq!(
        db["tags"],
        json!({ "description": "the database", "migrate-source": arn("shop/db"),
                "migrate-version": "00000000-0000-4000-8000-000000000001", "team": "shop" })
    );
    assert_eq!(
        stage.vault.state().secrets["shop-key"][0].body["contentType"],
        "application/octet-stream;base64"
    );
    assert_eq!(stage.vault.state().secrets["shop-token"][0].body["contentType"], "text/plain");

    let evidence = stage.verify(&stage.config, &outputs).await;
    assert!(evidence.passed() && evidence.checks.len() == 3, "{evidence:?}");
    // Again: nothing is set, and the outputs are the same.
    assert_eq!(stage.apply(&stage.config).await.unwrap(), outputs);
    assert_eq!(stage.vault.state().sets, 3);

    let told = format!("{outputs} {plan:?} {evidence:?} {:?}", stage.host.recorded());
    for value in [json, format!("{CANARY}-token"), BASE64.encode(bytes), "shop\",\"password".to_owned()] {
        let hash = digest(&SHA256, value.as_bytes());
        for trace in [value, hex::encode(hash), BASE64.encode(hash)] {
            assert!(!told.contains(&trace), "{trace}");
        }
    }
    assert!(!told.contains(CANARY) && !told.contains(TOKEN));
}

#[tokio::test]
async fn fields_are_secrets_of_their_own_under_the_names_that_readers_are_rewritten_to() {
    let stage = Stage::new().await;
    stage.text("shop/db", r#"{"username":"shop","password":"secret"}"#);
    let mut config = stage.with("split", json!({ "shop/db": ["username", "password"] }));
    config["names"] = json!({ "shop/db.password": "db-login" });
    // A class of AWS mounts the whole secret too.
    config["keep-whole"] = true.into();
    let outputs = stage.apply(&config).await.unwrap();
    let names: Vec<&str> =
        outputs["secrets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db-login", "shop-db", "shop-db-username"]);
    assert_eq!(stage.vault.values("db-login"), ["secret"]);
    assert!(stage.verify(&config, &outputs).await.passed());

    // What the rules make of a reader, with the same table.
    let table = [("shop/db.password".to_owned(), "db-login".to_owned())].into();
    let inputs = crate::rules::Inputs {
        key_vault: Some("shop".to_owned()),
        tenant_id: Some("t".to_owned()),
        identities: [("shop/db".to_owned(), "c".to_owned())].into(),
        secrets: table,
        ..Default::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let reader = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: db, namespace: shop}\nspec:\n  provider: aws\n  parameters:\n    objects: |\n      - objectName: shop/db\n        objectType: secretsmanager\n        jmesPath: [{path: username, objectAlias: u}, {path: password, objectAlias: p}]\n";
    std::fs::write(folder.path().join("reader.yaml"), reader).unwrap();
    let rules = crate::rules::RuleSet::shipped();
    let rewritten =
        crate::manifests::rewrite_files(folder.path(), &rules, &inputs).unwrap().files.remove(0).after;
    for name in &names {
        assert!(rewritten.contains(&format!("objectName: {name}\n")), "{name}: {rewritten}");
    }
    assert_eq!(rewritten.matches("objectName: ").count(), names.len(), "{rewritten}");
}

#[tokio::test]
async fn another_value_is_refused_before_anything_is_written_unless_it_may_be_replaced() {
    let stage = Stage::new().await;
    stage.text("shop/a", "new");
    stage.text("shop/b", "b");
    stage.vault.put("Shop-A", "old");
    let problems = stage.step.plan(&stage.ctx, &stage.config).await.unwrap().problems;
    assert_eq!(
        problems[0].message,
        "secret shop-a is in shop.vault.azure.net with another value than shop/a"
    );
    let error = stage.apply(&stage.config).await.unwrap_err();
    assert_eq!((error.class, stage.vault.state().sets), (ErrorClass::Conflict, 0));

    let config = stage.with("overwrite", true.into());
    let plan = stage.step.plan(&stage.ctx, &config).await.unwrap();
    assert_eq!(
        plan.destroys,
        ["the current value of secret shop-a in shop, which stays as an older version"]
    );
    assert!(plan.problems.is_empty());
    let outputs = stage.apply(&config).await.unwrap();
    assert_eq!(stage.vault.values("shop-a"), ["old", "new"]);
    assert!(stage.verify(&config, &outputs).await.passed());
}

#[tokio::test]
async fn names_that_can_not_be_used_are_refused_with_the_way_out() {
    let stage = Stage::new().await;
    for (name, value) in [("shop/gone", "1"), ("shop/certificate", "2"), ("shop/fine", "3")] {
        stage.text(name, value);
    }
    stage.vault.put("shop-certificate", "pem");
    stage.vault.state().managed.push("shop-certificate".to_owned());
    stage.vault.state().deleted.push("shop-gone".to_owned());
    let problems = stage.step.plan(&stage.ctx, &stage.config).await.unwrap().problems;
    let told: Vec<String> = problems
        .iter()
        .map(|p| format!("{}\n  {}", p.message, p.hint.as_deref().unwrap_or_default()))
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    secret shop-certificate in shop.vault.azure.net belongs to a certificate
      give it another name in `[rewrite.secrets]`
    secret shop-gone in shop.vault.azure.net is deleted and not purged, so that its name can't be used
      `az keyvault secret recover --vault-name shop --name shop-gone`, or `az keyvault secret purge` with the same arguments, or give it another name in `[rewrite.secrets]`
    "#);
    let error = stage.apply(&stage.with("overwrite", true.into())).await.unwrap_err();
    assert_eq!((error.class, stage.vault.state().sets), (ErrorClass::Conflict, 0));

    stage.vault.state().managed.clear();
    stage.vault.state().deleted.clear();
    stage.vault.state().disabled.push("shop-fine".to_owned());
    let error = stage.apply(&stage.with("overwrite", true.into())).await.unwrap_err();
    assert!(error.message.contains("disabled") && error.hint.unwrap().contains("--enabled true"));
    assert_eq!(stage.vault.state().sets, 0);
}

#[tokio::test]
async fn the_previous_value_becomes_an_older_version_whenever_the_copy_is_broken_off() {
    let stage = Stage::new().await;
    stage.text("shop/a", "old");
    stage.text("shop/a", "new");
    let config = stage.with("previous", true.into());
    // The answer to the first set is lost, and its version is the current one until the second.
    stage.vault.state().trouble = vec![(500, true)];
    assert!(stage.apply(&config).await.unwrap_err().class.is_retryable());
    let again = stage.ctx.clone().with_state(None, stage.host.recorded().cursors.pop());
    let plan = stage.step.plan(&again, &config).await.unwrap();
    assert!(plan.problems.is_empty() && plan.destroys.is_empty(), "{plan:?}");
    let outputs = stage.step.apply(&again, &config).await.unwrap();
    assert_eq!(stage.vault.values("shop-a"), ["old", "new"]);
    let evidence = stage.verify(&config, &outputs).await;
    assert!(evidence.passed() && evidence.checks.len() == 2, "{evidence:?}");

    let stage = Stage::new().await;
    stage.text("shop/a", "older");
    stage.text("shop/a", "old");
    stage.text("shop/a", "new");
    let config = stage.with("previous", true.into());
    let outputs = stage.apply(&config).await.unwrap();
    assert_eq!(stage.apply(&config).await.unwrap(), outputs);
    assert_eq!(stage.vault.values("shop-a"), ["old", "new"]);
    // Where the value is there already, the older one is left out rather than made current for a moment.
    let stage = Stage::new().await;
    stage.text("shop/a", "old");
    stage.text("shop/a", "new");
    stage.vault.put("shop-a", "new");
    let outputs = stage.apply(&stage.with("previous", true.into())).await.unwrap();
    assert_eq!((outputs["secrets"][0].get("previous"), stage.vault.state().sets), (None, 0));
}

#[tokio::test]
async fn a_value_in_use_gives_way_to_the_current_one_alone_and_only_where_that_is_asked_for() {
    // Two rotations after the first copy: nobody takes the second one's value any more.
    let stage = Stage::new().await;
    stage.text("shop/a", "old");
    stage.text("shop/a", "new");
    stage.vault.put("shop-a", "old0");
    let mut config = stage.with("previous", true.into());
    config["overwrite"] = true.into();
    let outputs = stage.apply(&config).await.unwrap();
    assert_eq!(stage.vault.values("shop-a"), ["old0", "new"]);
    assert_eq!(outputs["secrets"][0].get("previous"), None);
    let log = stage.host.recorded().log;
    let told = "the previous version of shop/a is left out: secret shop-a is in use already";
    assert!(log.iter().any(|(_, line)| line == told), "{log:?}");
    assert!(stage.verify(&config, &outputs).await.passed());

    // One rotation: the vault's value is the previous one.
    let stage = Stage::new().await;
    stage.text("shop/a", "old");
    stage.text("shop/a", "new");
    stage.vault.put("shop-a", "old");
    let config = stage.with("previous", true.into());
    let problems = stage.step.plan(&stage.ctx, &config).await.unwrap().problems;
    let told = "secret shop-a is in shop.vault.azure.net with the previous value of shop/a";
    assert_eq!((problems.len(), problems[0].message.as_str()), (1, told));
    let error = stage.apply(&config).await.unwrap_err();
    assert_eq!((error.class, stage.vault.state().sets), (ErrorClass::Conflict, 0));
    let mut config = config;
    config["overwrite"] = true.into();
    let plan = stage.step.plan(&stage.ctx, &config).await.unwrap();
    assert_eq!(plan.destroys.len(), 1);
    let outputs = stage.apply(&config).await.unwrap();
    assert_eq!(stage.vault.values("shop-a"), ["old", "new"]);
    assert!(outputs["secrets"][0]["previous"]["version"].is_string());
    assert!(stage.verify(&config, &outputs).await.passed());
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_version_and_a_busy_vault_is_asked_again() {
    let stage = Stage::new().await;
    stage.text("shop/a", "a");
    stage.text("shop/b", "b");
    stage.vault.state().trouble = vec![(429, false), (500, true)];
    let error = stage.apply(&stage.config).await.unwrap_err();
    assert!(error.class.is_retryable(), "{error:?}");
    stage.apply(&stage.config).await.unwrap();
    assert_eq!(stage.vault.state().sets, 2);
    assert_eq!((stage.vault.values("shop-a").len(), stage.vault.values("shop-b").len()), (1, 1));
}

#[tokio::test]
async fn what_changed_since_is_told_on_either_side() {
    let stage = Stage::new().await;
    for name in ["shop/a", "shop/b", "shop/c"] {
        stage.text(name, "value");
    }
    let outputs = stage.apply(&stage.config).await.unwrap();
    stage.vault.put("shop-a", "changed");
    stage.text("shop/b", "rotated");
    stage.vault.state().deleted.push("shop-c".to_owned());
    let evidence = stage.verify(&stage.config, &outputs).await;
    let seen = statuses(&evidence);
    assert_eq!(
        seen,
        [
            ("secret shop/a value".to_owned(), CheckStatus::Failed),
            ("secret shop/b value".to_owned(), CheckStatus::Passed),
            ("secret shop/b value".to_owned(), CheckStatus::Warning),
            ("secret shop/c value".to_owned(), CheckStatus::Failed),
        ]
    );
}

#[tokio::test]
async fn a_list_that_an_earlier_version_has_written_anew_is_still_the_same() {
    let stage = Stage::new().await;
    stage.text("shop/cfg", r#"{"hosts": ["old", "b"]}"#);
    stage.text("shop/cfg", r#"{"hosts": ["a", "b"]}"#);
    stage.vault.put("shop-cfg-hosts", r#"["a","b"]"#);
    let config = stage.with("split", json!({ "shop/cfg": ["hosts"] }));
    let plan = stage.step.plan(&stage.ctx, &config).await.unwrap();
    assert!(plan.problems.is_empty(), "{plan:?}");
    let outputs = stage.apply(&config).await.unwrap();
    assert_eq!(stage.vault.state().sets, 0);
    let evidence = stage.verify(&config, &outputs).await;
    assert!(evidence.passed(), "{evidence:?}");
    stage.vault.put("shop-cfg-hosts", r#"["a","c"]"#);
    assert!(!stage.verify(&config, &outputs).await.passed());

    let stage = Stage::new().await;
    stage.text("shop/cfg", r#"{"hosts": ["old", "b"]}"#);
    stage.text("shop/cfg", r#"{"hosts": ["a", "b"]}"#);
    let mut config = stage.with("split", json!({ "shop/cfg": ["hosts"] }));
    config["previous"] = true.into();
    let mut outputs = stage.apply(&config).await.unwrap();
    stage.vault.put("shop-cfg-hosts", r#"["old","b"]"#);
    stage.vault.put("shop-cfg-hosts", r#"["a","b"]"#);
    let versions = stage.vault.state().secrets["shop-cfg-hosts"].len();
    let older = stage.vault.state().secrets["shop-cfg-hosts"][versions - 2].version.clone();
    outputs["secrets"][0]["previous"]["version"] = older.into();
    let evidence = stage.verify(&config, &outputs).await;
    assert!(evidence.passed() && evidence.checks.len() == 2, "{evidence:?}");
}

#[tokio::test]
async fn no_error_quotes_a_value() {
    let stage = Stage::new().await;
    stage.text("shop/a", CANARY);
    // The vault answers with something that is nearly a secret.
    stage.vault.state().garbage = Some(format!("{{\"value\": \"{CANARY}\", "));
    let error = stage.apply(&stage.config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(!format!("{error:?}{:?}", error.to_record()).contains(CANARY));
    // So does AWS.
    stage.manager.put("shop/a", json!({ "SecretString": { "value": CANARY } }));
    let error = stage.apply(&stage.config).await.unwrap_err();
    assert!(!format!("{error:?}{:?}", error.to_record()).contains(CANARY));
    let plan = stage.step.plan(&stage.ctx, &stage.config).await.unwrap();
    assert!(!plan.problems.is_empty() && !format!("{plan:?}").contains(CANARY));
}

#[tokio::test]
async fn what_can_not_be_read_is_named_in_the_plan() {
    let stage = Stage::new().await;
    stage.text("shop/a", "a");
    stage.manager.state().get_mut("shop/a").unwrap().about["DeletedDate"] = json!(1_700_000_000);
    let mut told = Vec::new();
    for secrets in [json!([]), json!(["shop/a"]), json!(["missing"]), json!(["missing/*"])] {
        let plan = stage.step.plan(&stage.ctx, &stage.with("secrets", secrets)).await.unwrap();
        told.extend(plan.problems.into_iter().map(|problem| problem.message));
    }
    let mut config = stage.with("vault", json!({ "name": "shop.evil.example" }));
    stage.text("shop/b", "b");
    config["secrets"] = json!(["shop/b"]);
    told.extend(stage.step.plan(&stage.ctx, &config).await.unwrap().problems.into_iter().map(|p| p.message));
    insta::assert_snapshot!(told.join("\n"), @r#"
    no secret is named
    secret shop/a is deleted, and waits for its end
    failed to look at secret missing: ResourceNotFoundException: Secrets Manager can't find the specified secret.
    no secret in Secrets Manager begins with `missing/`
    `shop.evil.example.vault.azure.net` is no vault of vault.azure.net, vault.azure.cn, vault.usgovcloudapi.net
    "#);
}
