//! Services that would be public on the target, and are not on AWS: refused until somebody says which it is to be. Pure.

use migrate_plugin_api::StepError;

use super::order::Manifest;
use super::tree;
use crate::rules::exposure::{AZURE_INTERNAL, becomes_public};

/// Refuses what AKS would give a public address and AWS keeps inside the network, or guards.
///
/// # Errors
/// `Permanent`, naming each Service with what says so.
pub(super) fn refuse(manifests: &[Manifest]) -> Result<(), StepError> {
    let services = manifests.iter().filter(|m| m.api_version == "v1" && m.kind == "Service");
    let open: Vec<String> = services
        .filter_map(|m| Some(format!("{m} of {} (`{}`)", m.file, becomes_public(&m.object)?)))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let all = tree::listed(&open);
    Err(StepError::permanent(format!(
        "AWS keeps these inside the network, or guards them, and AKS would give them a public address: {all}"
    ))
    .with_hint(format!(
        "annotate each (in a chart's values, where one makes it) with `{AZURE_INTERNAL}: \"true\"`, or with \"false\" where \
         it is to be public"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{ErrorClass, Severity, Step as _, Typed};
    use serde_json::json;

    use crate::manifests::apply::ManifestApply;
    use crate::manifests::stand_in::StandIn;

    #[tokio::test]
    async fn what_aws_keeps_inside_is_not_applied_until_it_is_said_for_azure() {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        fs::create_dir(project.path().join("in")).unwrap();
        let config =
            json!({ "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "directory": "in" });
        let ctx = Arc::new(RecordingHost::default()).context("apply", project.path());
        let write = |more: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: db\n  namespace: shop\n  annotations:\n    \
                 service.beta.kubernetes.io/aws-load-balancer-internal: \"true\"\n{more}\
                 spec: {{type: LoadBalancer, ports: [{{port: 5432}}]}}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, namespace: shop}}\n"
            );
            fs::write(project.path().join("in/all.yaml"), text).unwrap();
        };
        let step = Typed(ManifestApply);
        write("");
        let error = step.apply(&ctx, &config).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent);
        assert_eq!(
            error.message,
            "AWS keeps these inside the network, or guards them, and AKS would give them a public address: Service \
             shop/db of all.yaml (`service.beta.kubernetes.io/aws-load-balancer-internal: true`)"
        );
        assert!(
            error.hint.as_ref().unwrap().contains("azure-load-balancer-internal: \"true\"`"),
            "{error:?}"
        );
        let problems = step.plan(&ctx, &config).await.unwrap().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((&problems[0].message, &problems[0].hint), (&error.message, &error.hint));
        assert_eq!(problems[0].severity, Severity::Error);
        assert_eq!(server.writes(), [] as [String; 0]);
        // Whichever it is to be, once somebody has said so.
        for word in ["true", "false"] {
            write(&format!("    service.beta.kubernetes.io/azure-load-balancer-internal: \"{word}\"\n"));
            assert_eq!(step.plan(&ctx, &config).await.unwrap().problems, [], "{word}");
            step.apply(&ctx, &config).await.unwrap();
            assert!(server.with(|held| held.objects.contains_key("services/shop/db")), "{word}");
        }
    }
}
