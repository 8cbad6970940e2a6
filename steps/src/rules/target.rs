//! What the target cluster has, so that a finding is about *this* target. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The target, as far as objects ask for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Target {
    /// `v1.36.3`.
    pub version: String,
    /// Storage classes.
    pub storage_classes: BTreeSet<String>,
    /// The class of claims that name none.
    pub default_storage_class: Option<String>,
    /// Ingress classes.
    pub ingress_classes: BTreeSet<String>,
    /// Served kinds at every version: `apps/v1/Deployment`.
    pub kinds: BTreeSet<String>,
    /// Labels of each node.
    pub nodes: Vec<BTreeMap<String, String>>,
    /// What each node has for pods.
    pub sizes: Vec<NodeSize>,
    /// What carries out NetworkPolicies, by its name.
    pub policy_engine: Option<String>,
    /// Quotas of namespaces. Those for some pods only (with scopes) are none of them.
    pub quotas: Vec<Quota>,
    /// Namespaces that give containers defaults for what they don't state.
    pub limit_ranges: BTreeSet<String>,
}

/// A ResourceQuota, with quantities as Kubernetes writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Quota {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What there may be, by resource: `requests.cpu`.
    pub hard: BTreeMap<String, String>,
    /// What there is of it.
    pub used: BTreeMap<String, String>,
}

/// What a node has for pods, as Kubernetes writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NodeSize {
    /// `3860m`.
    pub cpu: String,
    /// `12880720Ki`.
    pub memory: String,
}

impl Target {
    /// Whether objects of this kind are served at this version.
    pub(crate) fn serves(&self, api_version: &str, kind: &str) -> bool {
        self.kinds.contains(&format!("{api_version}/{kind}"))
    }

    /// Whether a node has a label with this value.
    pub(crate) fn has_node(&self, label: &str, value: &str) -> bool {
        self.nodes.iter().any(|labels| labels.get(label).is_some_and(|found| found == value))
    }
}
