//! `assess.cluster`: Ingresses that share a load balancer with some that are not looked at.

use std::sync::Arc;

use migrate_plugin_api::TypedStep as _;
use migrate_plugin_api::testing::RecordingHost;
use serde_json::{Value, json};

use super::cluster::{AssessCluster, Config};
use crate::manifests::stand_in::StandIn;

#[tokio::test]
async fn an_ingress_is_judged_with_those_elsewhere_that_share_its_load_balancer() {
    let server = StandIn::start().await;
    let project = tempfile::tempdir().unwrap();
    server.kubeconfig(&project.path().join("kubeconfig"));
    let put = |namespace: &str, name: &str, more: Value| {
        let mut annotations = json!({ "alb.ingress.kubernetes.io/scheme": "internet-facing",
            "alb.ingress.kubernetes.io/group.name": "public" });
        for (setting, value) in more.as_object().unwrap() {
            annotations[setting] = value.clone();
        }
        let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
        let object = json!({ "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
            "spec": { "ingressClassName": "alb", "defaultBackend": backend } });
        server.with(|held| held.put(&format!("ingresses/{namespace}/{name}"), object));
    };
    let class = json!({ "metadata": { "name": "alb" }, "spec": { "controller": "ingress.k8s.aws/alb" } });
    server.with(|held| held.put("ingressclasses//alb", class));
    put("shop", "web", json!({}));
    let config: Config = serde_json::from_value(json!({
        "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "registry": { "host": "old.io" },
        "namespaces": ["shop"], "inputs": { "ingress": "gateway", "application-load-balancer": "alb-infra/alb" },
    }))
    .unwrap();
    let ctx = Arc::new(RecordingHost::default()).context("assess", project.path());
    // What is left of EKS-NET-001, what was not read, and of how many Ingresses something was found.
    let seen = async || {
        let outputs = AssessCluster.apply(&ctx, &config).await.unwrap();
        let of = |rule: &str| outputs.findings.iter().filter(|found| found.rule == rule).collect::<Vec<_>>();
        let left: Vec<String> = of("EKS-NET-001").iter().map(|found| found.message.clone()).collect();
        let is_done = of("EKS-NET-001").iter().all(|found| found.rewritten);
        assert_eq!((of("EKS-NET-006").len(), of("EKS-NET-054").len()), (0, 0));
        assert_eq!(outputs.objects["networking.k8s.io/v1/Ingress"], 1);
        (is_done, left.concat(), outputs.unreadable)
    };
    assert!(seen().await.0);
    put("platform", "base", json!({ "alb.ingress.kubernetes.io/wafv2-acl-arn": "arn" }));
    let (is_done, left, unread) = seen().await;
    assert!(!is_done && left.contains("`wafv2-acl-arn` of Ingress platform/base"), "{left}");
    assert_eq!(unread, [] as [&str; 0]);
    // What is not known is not taken for nothing.
    server.with(|held| {
        held.hook = Some(Box::new(|request, _| (request == "GET ingresses//").then_some(403)));
    });
    let (is_done, left, unread) = seen().await;
    assert!(!is_done && left.contains("`group.name: public`"), "{left}");
    assert_eq!(unread, ["networking.k8s.io/v1/Ingress (of other namespaces)"]);
}
