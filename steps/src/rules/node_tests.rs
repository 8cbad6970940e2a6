//! Where pods run: what is about nodes is rewritten, and nothing else.

use super::tests::{found, rewritten};
use super::*;

#[test]
fn only_what_is_about_nodes_gets_their_zones_regions_and_sizes() {
    let inputs: Inputs = toml::from_str(
        r#"
        zones = { us-east-1a = "eastus-1" }
        regions = { us-east-1 = "eastus" }
        vm-sizes = { "m5.large" = "Standard_D2s_v5" }
        "#,
    )
    .unwrap();
    let of = |key: &str| format!("[{{key: {key}, operator: In, values: [us-east-1a, us-east-1, m5.large]}}]");
    let own = of("zone");
    let pods = [
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, labels: {{zone: us-east-1a}}}}\n\
             spec:\n  podSelector: {{matchExpressions: {own}}}\n  \
             ingress: [{{from: [{{podSelector: {{matchExpressions: {own}}}}}]}}]\n"
        ),
        format!(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: a}}\n\
             spec: {{maxUnavailable: 1, selector: {{matchExpressions: {own}}}}}\n"
        ),
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n  selector: {{matchExpressions: {own}}}\n  \
             template:\n    metadata: {{labels: {{zone: us-east-1a}}}}\n    spec:\n      containers: [{{name: a}}]\n      \
             affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: \
             kubernetes.io/hostname, labelSelector: {{matchExpressions: {own}}}}}]}}}}\n"
        ),
    ];
    for text in pods {
        assert_eq!(found(&text, &inputs), Vec::new(), "{text}");
        assert_eq!(rewritten(&RuleSet::shipped(), &text, &inputs).unwrap(), text);
    }
    let pod = |affinity: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers: [{{name: a}}]\n  \
             affinity: {{nodeAffinity: {affinity}}}\n"
        )
    };
    let nodes = [
        pod(&format!(
            "{{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchExpressions: {own}}}]}}}}"
        )),
        pod(&format!(
            "{{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 1, preference: {{matchExpressions: {own}}}}}]}}"
        )),
        format!(
            "apiVersion: karpenter.sh/v1\nkind: NodePool\nmetadata: {{name: a}}\nspec: {{template: {{spec: {{requirements: {own}}}}}}}\n"
        ),
    ];
    for text in nodes {
        let done = rewritten(&RuleSet::shipped(), &text, &inputs).unwrap();
        assert!(done.contains("values: [eastus-1, eastus, Standard_D2s_v5]"), "{done}");
    }
    // Elsewhere the key says whose label it is.
    for (key, values) in [
        ("topology.kubernetes.io/zone", "[eastus-1, eastus, m5.large]"),
        ("failure-domain.beta.kubernetes.io/region", "[eastus-1, eastus, m5.large]"),
        ("topology.k8s.aws/zone-id", "[eastus-1, us-east-1, m5.large]"),
        ("node.kubernetes.io/instance-type", "[us-east-1a, us-east-1, Standard_D2s_v5]"),
    ] {
        let text = format!(
            "apiVersion: example.com/v1\nkind: Agent\nmetadata: {{name: a}}\nspec: {{nodeSelector: {{matchExpressions: {}}}}}\n",
            of(key)
        );
        let done = rewritten(&RuleSet::shipped(), &text, &inputs).unwrap();
        assert!(done.contains(&format!("values: {values}")), "{key}: {done}");
    }
}
