//! Rules: what of an object is AWS's own. Pure.
//!
//! Invariants: a Secret is never looked into. Of any other value only the reference itself (an ARN,
//! a host name) is repeated, never the text around it: a ConfigMap may hold passwords.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workload::{self, Segment, text};

/// The longest reference that is repeated in a finding.
const REFERENCE_CHARS: usize = 160;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FindingSeverity {
    /// A step of the migration takes care of it, given its input.
    Info,
    /// A person must change something, or it will not work on AKS.
    Warning,
}

/// Something of AWS's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Finding {
    /// Kind of the object.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where in the object: `spec.template.spec.containers[0].env[1].value`.
    pub path: String,
    /// Which rule: `irsa`, `alb-ingress`, …
    pub rule: String,
    /// Who has to act.
    pub severity: FindingSeverity,
    /// What it is and what it becomes.
    pub message: String,
}

/// Keys of node selectors, affinities and tolerations that only AWS nodes have, and what they become.
const NODE_KEYS: [(&str, &str); 6] = [
    ("eks.amazonaws.com/capacityType", "`kubernetes.azure.com/scalesetpriority`"),
    ("eks.amazonaws.com/nodegroup", "`kubernetes.azure.com/agentpool`"),
    ("eks.amazonaws.com/", "a label of the AKS node pools"),
    ("alpha.eksctl.io/", "`kubernetes.azure.com/agentpool`"),
    ("karpenter.k8s.aws/", "`karpenter.azure.com/…`"),
    ("node.kubernetes.io/instance-type", "an Azure VM size"),
];

/// API groups of AWS controllers.
const AWS_GROUP_SUFFIXES: [&str; 2] = [".k8s.aws", ".k8s.amazonaws.com"];

/// The findings of one object.
pub(crate) fn of_object(object: &Value) -> Vec<Finding> {
    let mut found = Found { object, findings: Vec::new() };
    let kind = text(object, &["kind"]).unwrap_or_default();
    match kind {
        "ServiceAccount" => found.service_account(),
        "Ingress" => found.ingress(),
        "Service" => found.service(),
        _ => {}
    }
    found.api_group();
    if kind != "Secret" {
        found.strings();
        found.node_keys();
    }
    found.findings.sort();
    found.findings.dedup();
    found.findings
}

/// The finding of a storage class that claims use.
pub(crate) fn of_class(name: &str, provisioner: Option<&str>) -> Option<Finding> {
    let becomes = match provisioner? {
        "kubernetes.io/aws-ebs" | "ebs.csi.aws.com" => "a class of `disk.csi.azure.com`",
        "efs.csi.aws.com" => "a class of `file.csi.azure.com` with `protocol: nfs`",
        "fsx.csi.aws.com" | "fsx.openzfs.csi.aws.com" => "Managed Lustre or Azure NetApp Files",
        "s3.csi.aws.com" => "a class of `blob.csi.azure.com`",
        _ => return None,
    };
    let by_hand = provisioner.is_some_and(|p| p.starts_with("fsx") || p.starts_with("s3"));
    Some(Finding {
        kind: "StorageClass".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
        path: "provisioner".to_owned(),
        rule: "aws-storage".to_owned(),
        severity: if by_hand { FindingSeverity::Warning } else { FindingSeverity::Info },
        message: format!(
            "`{}` becomes {becomes}; map it in [storage-classes]",
            provisioner.unwrap_or_default()
        ),
    })
}

struct Found<'a> {
    object: &'a Value,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, rule: &str, severity: FindingSeverity, path: String, message: String) {
        let of = |path: &[&str]| text(self.object, path).unwrap_or_default().to_owned();
        let finding = Finding {
            kind: of(&["kind"]),
            namespace: of(&["metadata", "namespace"]),
            name: of(&["metadata", "name"]),
            path,
            rule: rule.to_owned(),
            severity,
            message,
        };
        self.findings.push(finding);
    }

    fn warn(&mut self, rule: &str, path: impl Into<String>, message: impl Into<String>) {
        self.add(rule, FindingSeverity::Warning, path.into(), message.into());
    }

    fn annotations(&self) -> Vec<&str> {
        let annotations = self.object.pointer("/metadata/annotations").and_then(Value::as_object);
        annotations.into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
    }

    fn service_account(&mut self) {
        let key = "eks.amazonaws.com/role-arn";
        if let Some(role) = text(self.object, &["metadata", "annotations", key]) {
            let message = format!(
                "IAM role `{}` becomes a managed identity with a federated credential for this account",
                shorten(role)
            );
            self.warn("irsa", format!("metadata.annotations[{key:?}]"), message);
        }
    }

    fn ingress(&mut self) {
        let class = text(self.object, &["spec", "ingressClassName"])
            .or_else(|| text(self.object, &["metadata", "annotations", "kubernetes.io/ingress.class"]));
        let settings =
            self.annotations().iter().filter(|key| key.starts_with("alb.ingress.kubernetes.io/")).count();
        if class == Some("alb") || settings > 0 {
            let message = format!(
                "AWS load balancer Ingress with {settings} `alb.ingress.kubernetes.io/…` annotations: nothing \
                 on AKS serves it; it becomes a Gateway (Application Gateway for Containers) or another class"
            );
            self.warn("alb-ingress", "spec.ingressClassName", message);
        }
    }

    fn service(&mut self) {
        let prefix = "service.beta.kubernetes.io/aws-load-balancer-";
        let keys: Vec<String> = self
            .annotations()
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(|key| (*key).to_owned())
            .collect();
        for key in keys {
            let becomes = match key.trim_start_matches(prefix) {
                "internal" | "scheme" => "`service.beta.kubernetes.io/azure-load-balancer-internal`",
                "eip-allocations" => "`service.beta.kubernetes.io/azure-pip-name`",
                setting if setting.starts_with("healthcheck-") => {
                    "`service.beta.kubernetes.io/azure-load-balancer-health-probe-…`"
                }
                "ssl-cert" | "proxy-protocol" => "nothing: Azure's load balancer has no such thing",
                _ => "nothing, or a setting of Azure's load balancer",
            };
            self.warn(
                "aws-load-balancer",
                format!("metadata.annotations[{key:?}]"),
                format!("becomes {becomes}"),
            );
        }
        if let Some(class) =
            text(self.object, &["spec", "loadBalancerClass"]).filter(|c| c.contains("k8s.aws"))
        {
            let message = format!("`{class}` is not served on AKS and can't be changed later: remove it");
            self.warn("aws-load-balancer", "spec.loadBalancerClass", message);
        }
    }

    fn api_group(&mut self) {
        let version = text(self.object, &["apiVersion"]).unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        if AWS_GROUP_SUFFIXES.iter().any(|suffix| group.ends_with(suffix)) {
            self.warn("aws-resource", "apiVersion", format!("`{version}` belongs to an AWS controller"));
        }
    }

    /// References to AWS in any text: environment, arguments, ConfigMaps, custom resources.
    fn strings(&mut self) {
        let mut hits = Vec::new();
        workload::strings(self.object, &mut |path, value| {
            if is_described_elsewhere(path) || workload::is_image(path) {
                return;
            }
            for (rule, reference) in references(value) {
                hits.push((rule, workload::display(path), reference.to_owned()));
            }
            if workload::ends_with(path, &["env", "name"])
                && matches!(value, "AWS_REGION" | "AWS_DEFAULT_REGION")
            {
                hits.push(("aws-reference", workload::display(path), value.to_owned()));
            }
        });
        for (rule, path, reference) in hits {
            let message = match rule {
                "ecr-reference" => format!(
                    "image reference to `{}` outside a pod template is not rewritten",
                    shorten(&reference)
                ),
                _ => format!("refers to AWS: `{}`", shorten(&reference)),
            };
            self.warn(rule, path, message);
        }
    }

    fn node_keys(&mut self) {
        let mut hits: Vec<(String, &str, &str)> = Vec::new();
        let mut check = |path: &[Segment<'_>], key: &str| {
            if let Some((known, becomes)) = NODE_KEYS.iter().find(|(known, _)| key.starts_with(known)) {
                hits.push((workload::display(path), known, becomes));
            }
        };
        workload::strings(self.object, &mut |path, value| {
            if let [.., Segment::Key(selector), Segment::Key(key)] = path
                && selector == "nodeSelector"
            {
                check(path, key);
            }
            let affinity = workload::ends_with(path, &["matchExpressions", "key"])
                && path.iter().any(|s| matches!(s, Segment::Key(key) if key == "nodeAffinity"));
            if affinity || workload::ends_with(path, &["tolerations", "key"]) {
                check(path, value);
            }
        });
        for (path, key, becomes) in hits {
            self.warn("aws-node", path, format!("`{key}…` exists on EKS nodes only; becomes {becomes}"));
        }
    }
}

/// Status is the cluster's own, annotations and roles have rules of their own, and
/// last-applied only repeats the object.
fn is_described_elsewhere(path: &[Segment<'_>]) -> bool {
    let Some(Segment::Key(first)) = path.first() else { return true };
    match first.as_ref() {
        "status" | "apiVersion" | "kind" => true,
        "metadata" => !matches!(path, [_, Segment::Key(field), Segment::Key(key)]
            if field == "annotations"
                && !key.starts_with("kubectl.kubernetes.io/")
                && !key.contains("aws-load-balancer")
                && !key.starts_with("eks.amazonaws.com/")),
        _ => false,
    }
}

/// ARNs, AWS host names and the metadata address in `text`, without what surrounds them.
fn references(text: &str) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for token in text.split(|c: char| !(c.is_ascii_alphanumeric() || ":/_.*-".contains(c))) {
        if let Some(at) = token.find("arn:aws") {
            found.push(("aws-reference", &token[at..]));
            continue;
        }
        for host in token.split(['/', ':']) {
            if host.contains(".dkr.ecr") && host.contains(".amazonaws.com") {
                let at = token.find(host).unwrap_or_default();
                found.push(("ecr-reference", &token[at..]));
            } else if host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") {
                found.push(("aws-reference", host));
            } else if host == "169.254.169.254" {
                found.push(("aws-reference", host));
            }
        }
    }
    found
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= REFERENCE_CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(REFERENCE_CHARS).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(object: Value) -> Vec<String> {
        of_object(&object).into_iter().map(|f| format!("{} {}: {}", f.rule, f.path, f.message)).collect()
    }

    #[test]
    fn what_is_aws_is_found_and_said() {
        let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "namespace": "shop", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "arn:aws:s3:::twice" } },
            "spec": { "template": { "spec": {
                "nodeSelector": { "eks.amazonaws.com/nodegroup": "blue" },
                "tolerations": [{ "key": "karpenter.k8s.aws/disruption" }],
                "containers": [{ "name": "web", "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/web:1",
                    "args": ["--queue=https://user:hunter2@sqs.us-east-1.amazonaws.com/1/orders"],
                    "env": [{ "name": "AWS_REGION", "value": "us-east-1" },
                        { "name": "TOPIC", "value": "arn:aws:sns:us-east-1:123456789012:orders" }] }],
            } } } });
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "web",
            "annotations": { "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/web" } } });
        let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "web",
            "annotations": { "alb.ingress.kubernetes.io/scheme": "internet-facing" } },
            "spec": { "ingressClassName": "alb" } });
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "annotations": {
            "service.beta.kubernetes.io/aws-load-balancer-scheme": "internal" } },
            "spec": { "loadBalancerClass": "service.k8s.aws/nlb" } });
        let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" }, "data": {
            "worker": "image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/worker:2\npassword: hunter2" } });
        let group = json!({ "apiVersion": "elbv2.k8s.aws/v1beta1", "kind": "TargetGroupBinding",
            "metadata": { "name": "web" } });
        let all: Vec<_> =
            [deployment, account, ingress, service, config, group].into_iter().flat_map(lines).collect();
        insta::assert_snapshot!(all.join("\n"));
        assert!(!all.join("\n").contains("hunter2"));
    }

    #[test]
    fn a_secret_is_never_looked_into() {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web" },
            "stringData": { "key": "arn:aws:iam::1:role/a" } });
        assert_eq!(lines(secret), Vec::<String>::new());
    }

    #[test]
    fn classes_of_aws_are_told_from_others() {
        assert_eq!(of_class("gp3", Some("ebs.csi.aws.com")).unwrap().severity, FindingSeverity::Info);
        assert_eq!(of_class("fast", Some("fsx.csi.aws.com")).unwrap().severity, FindingSeverity::Warning);
        assert!(of_class("local", Some("rancher.io/local-path")).is_none());
        assert!(of_class("gone", None).is_none());
    }
}
