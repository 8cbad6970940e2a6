//! Services that AWS keeps inside the network, or guards, and that AKS would make public as they are. Pure.

use std::sync::LazyLock;

use serde_json::Value;

use super::document::Node;
use super::engine::Look;
use super::facts::Facts;
use super::inputs::Inputs;
use super::object::objects;
use super::rule::Compiled;
use super::set::RuleSet;
use crate::workload::{Segment, text};

/// Says for Azure where a load balancer is. Whatever is not `true` is public.
/// <https://github.com/kubernetes-sigs/cloud-provider-azure/blob/master/pkg/provider/azure_loadbalancer.go>
pub(crate) const AZURE_INTERNAL: &str = "service.beta.kubernetes.io/azure-load-balancer-internal";

/// The rules that keep a load balancer inside where something can be rewritten.
const RULES: [&str; 3] = ["EKS-NET-017", "EKS-NET-043", "EKS-NET-046"];

static INSIDE: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    let is_one = |compiled: &Compiled| RULES.contains(&compiled.rule.id.as_str());
    RuleSet::shipped().rules.into_iter().filter(is_one).collect()
});

/// What keeps a Service inside on AWS, as it is written (`…/aws-load-balancer-internal: true`), where AKS would give it
/// a public address.
///
/// Nothing where AKS gives it none (another type, or a class, which AKS leaves to others), nor where [`AZURE_INTERNAL`]
/// is `true`, or `false`: public is meant then.
pub(crate) fn becomes_public(service: &Value) -> Option<String> {
    let of_spec = |field: &str| text(service, &["spec", field]).filter(|text| !text.is_empty());
    if of_spec("type") != Some("LoadBalancer") || of_spec("loadBalancerClass").is_some() {
        return None;
    }
    if let Some("true" | "false") = text(service, &["metadata", "annotations", AZURE_INTERNAL]) {
        return None;
    }
    let mut service = service.clone();
    // Another word there counts for nothing. What a list of Services holds doesn't say what it is.
    service.pointer_mut("/metadata/annotations")?.as_object_mut()?.remove(AZURE_INTERNAL);
    service["apiVersion"] = "v1".into();
    service["kind"] = "Service".into();
    let node = Node::of_value(&service);
    let (facts, inputs) = (Facts::default(), Inputs::default());
    let object = objects(&node).pop()?;
    let look = Look { object: &object, facts: &facts, inputs: &inputs };
    let found = INSIDE.iter().flat_map(|rule| rule.matches(&look)).next()?;
    let name = match found.path.last() {
        Some(Segment::Key(name)) => name.as_ref(),
        _ => "spec",
    };
    Some(format!("{name}: {}", found.found.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    const INTERNAL: (&str, &str) = ("aws-load-balancer-internal", "true");
    const GUARD: (&str, &str) = ("aws-load-balancer-security-groups", "sg-1");

    fn asked(annotations: &[(&str, &str)], spec: Value) -> Option<String> {
        let names =
            annotations.iter().map(|(name, value)| (format!("service.beta.kubernetes.io/{name}"), *value));
        let annotations: Map<String, Value> = names.map(|(name, value)| (name, value.into())).collect();
        becomes_public(&json!({ "metadata": { "name": "db", "annotations": annotations }, "spec": spec }))
    }

    fn balancer() -> Value {
        json!({ "type": "LoadBalancer", "ports": [{ "port": 5432 }] })
    }

    #[test]
    fn what_aws_keeps_inside_and_aks_does_not_is_told_by_what_says_so() {
        for said in [
            INTERNAL,
            ("aws-load-balancer-internal", "0.0.0.0/0"),
            ("aws-load-balancer-scheme", "internal"),
            ("aws-load-balancer-type", "external"),
            ("aws-load-balancer-type", "nlb-ip"),
            GUARD,
        ] {
            let words = format!("service.beta.kubernetes.io/{}: {}", said.0, said.1);
            assert_eq!(asked(&[said], balancer()), Some(words.clone()));
            // Azure reads any word but `true` as public.
            assert_eq!(asked(&[said, ("azure-load-balancer-internal", "True")], balancer()), Some(words));
        }
    }

    #[test]
    fn what_is_public_anyway_or_said_for_azure_or_not_served_by_aks_is_not() {
        for word in ["true", "false"] {
            for said in [INTERNAL, GUARD] {
                assert_eq!(asked(&[said, ("azure-load-balancer-internal", word)], balancer()), None);
            }
        }
        assert_eq!(becomes_public(&json!({ "spec": balancer() })), None);
        for said in [
            ("aws-load-balancer-scheme", "internet-facing"),
            ("aws-load-balancer-internal", "false"),
            ("aws-load-balancer-type", "nlb"),
        ] {
            assert_eq!(asked(&[said], balancer()), None, "{said:?}");
        }
        assert_eq!(asked(&[INTERNAL], json!({ "type": "ClusterIP" })), None);
        let of_class = json!({ "type": "LoadBalancer", "loadBalancerClass": "service.k8s.aws/nlb" });
        assert_eq!(asked(&[INTERNAL], of_class), None);
        let limited = json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"] });
        assert_eq!(asked(&[GUARD], limited), None);
    }
}
