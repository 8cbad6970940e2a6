//! What `manifest.apply` refuses or tells before and after it applies, against a stand-in of ours (`stand_in.rs`).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{CheckStatus, Severity, Step as _, StepContext, Typed, VerifyDepth};
use serde_json::{Value, json};

use super::apply::ManifestApply;
use super::stand_in::StandIn;

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\n";

fn project(server: &StandIn) -> (tempfile::TempDir, StepContext) {
    let project = tempfile::tempdir().unwrap();
    server.kubeconfig(&project.path().join("kubeconfig"));
    fs::create_dir(project.path().join("in")).unwrap();
    fs::write(project.path().join("in/all.yaml"), CONFIG_MAP).unwrap();
    let ctx = Arc::new(RecordingHost::default()).context("apply", project.path());
    (project, ctx)
}

fn config(source: Option<&Path>) -> Value {
    let mut config =
        json!({ "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "directory": "in" });
    if let Some(kubeconfig) = source {
        config["source"] = json!({ "kubeconfig": kubeconfig, "context": "aks" });
    }
    config
}

#[tokio::test]
async fn nothing_is_applied_to_the_source() {
    let (server, other) = (StandIn::start().await, StandIn::start().await);
    for (server, uid) in [(&server, "one"), (&other, "other")] {
        server.with(|held| {
            held.put("namespaces//kube-system", json!({ "metadata": { "name": "kube-system" } }));
            held.objects.get_mut("namespaces//kube-system").unwrap()["metadata"]["uid"] = json!(uid);
        });
    }
    let (project, ctx) = project(&server);
    let step = Typed(ManifestApply);
    // Under another name.
    let same = project.path().join("same");
    server.kubeconfig(&same);
    let refused = "the source (context `aks`) and the target (context `aks`) are the same cluster";
    let plan = step.plan(&ctx, &config(Some(&same))).await.unwrap();
    assert_eq!(plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [refused]);
    assert_eq!(plan.problems[0].severity, Severity::Error);
    let error = step.apply(&ctx, &config(Some(&same))).await.unwrap_err();
    assert_eq!(error.message, refused);
    assert_eq!(server.writes(), [] as [String; 0]);

    let different = project.path().join("different");
    other.kubeconfig(&different);
    assert_eq!(step.plan(&ctx, &config(Some(&different))).await.unwrap().problems, []);
    step.apply(&ctx, &config(Some(&different))).await.unwrap();
    assert_eq!(server.writes(), ["PATCH configmaps/shop/web"]);
    assert_eq!(other.writes(), [] as [String; 0]);

    // Where nobody may look, the address tells; another may lead to the same cluster.
    for server in [&server, &other] {
        let forbidden = |request: &str, _: &mut _| request.ends_with("/kube-system").then_some(403);
        server.with(|held| held.hook = Some(Box::new(forbidden)));
    }
    let error = step.apply(&ctx, &config(Some(&same))).await.unwrap_err();
    assert!(error.message.contains("have one address of the API server"), "{}", error.message);
    assert_eq!(server.writes(), [] as [String; 0]);
    let plan = step.plan(&ctx, &config(Some(&different))).await.unwrap();
    assert!(plan.problems[0].message.starts_with("it can't be told whether"), "{:?}", plan.problems);
    assert_eq!(plan.problems[0].severity, Severity::Warning);
    assert!(plan.items.is_some(), "the plan goes on");
    step.apply(&ctx, &config(Some(&different))).await.unwrap();
}

#[tokio::test]
async fn what_a_folder_lacks_is_told() {
    let server = StandIn::start().await;
    let (project, ctx) = project(&server);
    let step = Typed(ManifestApply);
    let marker = "Not in it, since it could not be read: v1/Secret\n";
    fs::write(project.path().join("in/.migrate-manifests"), marker).unwrap();
    let plan = step.plan(&ctx, &config(None)).await.unwrap();
    let told = "v1/Secret is not in the folder: what wrote it could not read that";
    assert_eq!(plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [told]);
    let outputs = step.apply(&ctx, &config(None)).await.unwrap();
    let evidence = step.verify(&ctx, &config(None), &outputs, VerifyDepth::Quick).await.unwrap();
    let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
    assert_eq!(warned.map(|check| check.subject.as_str()).collect::<Vec<_>>(), ["v1/Secret"]);

    fs::create_dir(project.path().join("common")).unwrap();
    std::os::unix::fs::symlink("../common", project.path().join("in/common")).unwrap();
    server.writes();
    let error = step.apply(&ctx, &config(None)).await.unwrap_err();
    assert!(error.message.ends_with("is not read: common"), "{}", error.message);
    assert_eq!(server.writes(), [] as [String; 0]);
}
