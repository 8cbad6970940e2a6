//! `[rewrite]` of `migration.toml`: what rules need that no manifest says.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an Ingress of the AWS Load Balancer Controller becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IngressTarget {
    /// Gateway API, served by Application Gateway for Containers.
    Gateway,
    /// An Ingress of the application routing add-on's managed NGINX.
    Nginx,
}

/// What KEDA reads instead of SQS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueueTarget {
    /// Service Bus queues.
    Servicebus,
    /// Queues of a storage account.
    Storage,
}

/// `[rewrite]` of `migration.toml`. All of it is optional: a rule that misses its input changes nothing
/// and names the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Inputs {
    /// What an Ingress of class `alb` becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressTarget>,
    /// `NAMESPACE/NAME` of the ApplicationLoadBalancer object that serves the Gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_load_balancer: Option<String>,
    /// Registries, or repositories in them, and what they become.
    pub registries: BTreeMap<String, String>,
    /// Storage classes of claims: EKS class = AKS class.
    pub storage_classes: BTreeMap<String, String>,
    /// Class of claims that name none where the cluster's default is one of AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_storage_class: Option<String>,
    /// SKU of disks that were io1 or io2: `PremiumV2_LRS` or `UltraSSD_LRS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioned_iops_sku: Option<String>,
    /// Disk encryption sets by KMS key ARN.
    pub disk_encryption_sets: BTreeMap<String, String>,
    /// Sizes of claims on shares, `NAMESPACE/NAME` or `NAME` = `100Gi` or more.
    pub claim_sizes: BTreeMap<String, String>,
    /// Client IDs of managed identities, by `NAMESPACE/SERVICEACCOUNT` or by role ARN.
    pub identities: BTreeMap<String, String>,
    /// Tenant (directory) ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Name of the Key Vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_vault: Option<String>,
    /// Names in the Key Vault, by name or ARN in Secrets Manager; default: the same with hyphens for
    /// what Key Vault does not allow.
    pub secrets: BTreeMap<String, String>,
    /// Zones: `us-east-1a` = `eastus-1`.
    pub zones: BTreeMap<String, String>,
    /// Regions: `us-east-1` = `eastus`.
    pub regions: BTreeMap<String, String>,
    /// Node groups and the node pools that replace them.
    pub node_pools: BTreeMap<String, String>,
    /// Instance types and VM sizes.
    pub vm_sizes: BTreeMap<String, String>,
    /// Instance families and categories (`m5`, `c`) and VM families (`D`, `F`).
    pub vm_families: BTreeMap<String, String>,
    /// Public IPs by allocation ID of the elastic IP.
    pub public_ips: BTreeMap<String, String>,
    /// TLS Secrets by certificate ARN, or by host where AWS finds the certificate itself.
    pub certificates: BTreeMap<String, String>,
    /// What KEDA reads instead of SQS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_target: Option<QueueTarget>,
    /// Service Bus namespace or storage account of the queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_account: Option<String>,
    /// Queues by URL in SQS.
    pub queues: BTreeMap<String, String>,
    /// Provider of external-dns: `azure` or `azure-private-dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_provider: Option<String>,
    /// For rules of your own.
    pub custom: BTreeMap<String, BTreeMap<String, String>>,
}

/// A value, or the key of `migration.toml` that is missing.
pub(crate) type Lookup = Result<String, String>;

impl Inputs {
    /// The single value `name`.
    pub(crate) fn single(&self, name: &str) -> Lookup {
        let value = serde_json::to_value(self).ok();
        match value.as_ref().and_then(|all| all.get(name)) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(format!("rewrite.{name}")),
        }
    }

    /// The entry `key` of `table`, `a.b` for a table of `custom`.
    pub(crate) fn entry(&self, table: &str, key: &str) -> Lookup {
        let found = match table {
            "registries" => self.registries.get(key),
            "storage-classes" => self.storage_classes.get(key),
            "disk-encryption-sets" => self.disk_encryption_sets.get(key),
            "claim-sizes" => self.claim_sizes.get(key),
            "identities" => self.identities.get(key),
            "secrets" => self.secrets.get(key),
            "zones" => self.zones.get(key),
            "regions" => self.regions.get(key),
            "node-pools" => self.node_pools.get(key),
            "vm-sizes" => self.vm_sizes.get(key),
            "vm-families" => self.vm_families.get(key),
            "public-ips" => self.public_ips.get(key),
            "certificates" => self.certificates.get(key),
            "queues" => self.queues.get(key),
            custom => custom.strip_prefix("custom.").and_then(|name| self.custom.get(name)?.get(key)),
        };
        found.cloned().ok_or_else(|| format!("rewrite.{table}.{}", toml_key(key)))
    }

    /// The same inputs with those of `other` where they are not given.
    #[must_use]
    pub fn or(mut self, registries: &[(String, String)], classes: &BTreeMap<String, String>) -> Self {
        for (from, to) in registries {
            self.registries.entry(from.clone()).or_insert_with(|| to.clone());
        }
        for (from, to) in classes {
            self.storage_classes.entry(from.clone()).or_insert_with(|| to.clone());
        }
        self
    }

    /// Tables and single values that a rule can name.
    pub(crate) fn is_known(name: &str) -> bool {
        const TABLES: [&str; 14] = [
            "registries",
            "storage-classes",
            "disk-encryption-sets",
            "claim-sizes",
            "identities",
            "secrets",
            "zones",
            "regions",
            "node-pools",
            "vm-sizes",
            "vm-families",
            "public-ips",
            "certificates",
            "queues",
        ];
        const SINGLE: [&str; 9] = [
            "ingress",
            "application-load-balancer",
            "default-storage-class",
            "provisioned-iops-sku",
            "tenant-id",
            "key-vault",
            "queue-target",
            "queue-account",
            "dns-provider",
        ];
        TABLES.contains(&name) || SINGLE.contains(&name) || name.starts_with("custom.")
    }
}

/// A key as TOML wants it.
fn toml_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if is_bare { key.to_owned() } else { Value::from(key).to_string() }
}
