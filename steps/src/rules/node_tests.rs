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

#[test]
fn a_pod_for_on_demand_nodes_does_not_come_onto_spot_ones() {
    let capacity = "eks.amazonaws.com/capacityType";
    let pod = |selector: &str, tolerations: &str, terms: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: db}}\nspec:\n  nodeSelector: {{{capacity}: {selector}}}\n  \
             tolerations: [{tolerations}]\n  containers: [{{name: db}}]\n  affinity: {{nodeAffinity: \
             {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{terms}]}}}}}}\n"
        )
    };
    let done = |selector: &str, tolerations: &str, terms: &str| {
        let text = pod(selector, tolerations, terms);
        let done = rewritten(&RuleSet::shipped(), &text, &Inputs::default()).unwrap();
        assert!(!done.contains(capacity), "{done}");
        serde_yaml_ng::from_str::<serde_json::Value>(&done).unwrap()["spec"].take()
    };
    let terms = "{matchExpressions: [{key: a, operator: Exists}]}, {matchFields: [{key: metadata.name, operator: In, values: [b]}]}, {}";
    let off =
        serde_json::json!({ "key": "kubernetes.azure.com/scalesetpriority", "operator": "DoesNotExist" });
    for tolerations in [
        format!("{{key: {capacity}, operator: Exists}}"),
        format!("{{key: {capacity}, operator: Equal, value: SPOT, effect: NoSchedule}}"),
        "{key: kubernetes.azure.com/scalesetpriority, value: spot}".to_owned(),
        "{operator: Exists}".to_owned(),
    ] {
        let spec = done("ON_DEMAND", &tolerations, terms);
        let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][1], off, "{tolerations}: {spec}");
        assert_eq!(terms[1]["matchExpressions"][0], off, "{tolerations}: {spec}");
        assert_eq!(terms[2], serde_json::json!({}), "{tolerations}: {spec}");
    }
    // Who does not tolerate spot nodes, or not what keeps pods off them, needs nothing more.
    for tolerations in [
        format!("{{key: {capacity}, value: ON_DEMAND}}"),
        format!("{{key: {capacity}, operator: Exists, effect: NoExecute}}"),
        "{key: example.com/db, operator: Exists}".to_owned(),
    ] {
        let spec = done("ON_DEMAND", &tolerations, terms);
        assert!(!spec["affinity"].to_string().contains("scalesetpriority"), "{tolerations}: {spec}");
        assert!(!spec["tolerations"].to_string().contains("spot"), "{tolerations}: {spec}");
    }
    // A toleration of on-demand nodes is none of spot ones.
    let spec = done("SPOT", &format!("{{key: {capacity}, value: ON_DEMAND}}"), terms);
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(1), "{spec}");
    assert_eq!(spec["tolerations"][0]["value"], "spot", "{spec}");
}
