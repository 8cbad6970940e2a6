//! The shapes of what differs from site to site, as written in `migration.toml` and passed to
//! steps by reference (`cluster = "${env.source.cluster}"`).

use std::path::PathBuf;

use migrate_plugin_api::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// A Kubernetes cluster, as `kubectl` knows it: `[source.cluster]`, `[target.cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClusterRef {
    /// Kubeconfig file; default: `$KUBECONFIG`, then `~/.kube/config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in it. Always named, so that no run ever follows somebody's current context.
    pub context: String,
}

/// How AWS is reached: `[source.aws]`. A profile or a file that is named is the only place of credentials;
/// without both, the standard chain: environment, shared config, SSO, web identity, container and instance
/// metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AwsAccess {
    /// `us-east-1`.
    pub region: String,
    /// Profile of the shared config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Shared credentials file; default: `$AWS_SHARED_CREDENTIALS_FILE`, then `~/.aws/credentials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// Another endpoint for the ECR API, for private endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecr_endpoint: Option<Url>,
    /// Another endpoint for Secrets Manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_manager_endpoint: Option<Url>,
    /// Another endpoint for the EKS API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eks_endpoint: Option<Url>,
    /// Another endpoint for IAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_endpoint: Option<Url>,
}

/// How Azure's control plane is reached: `[target.azure]`. Without a token by Entra: workload
/// identity, the Azure CLIs, managed identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AzureAccess {
    /// Subscription ID.
    pub subscription: String,
    /// Resource group of what is named in the target's sections.
    pub resource_group: String,
    /// Another endpoint for Azure Resource Manager, for sovereign clouds and private links;
    /// default: `https://management.azure.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm_endpoint: Option<Url>,
    /// A bearer token for it, where no identity of the machine may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretRef>,
    /// An application to log in as, instead of an identity of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_principal: Option<ServicePrincipal>,
}

/// An application in Entra with a secret: `[target.azure.service-principal]`. ACR takes its client
/// ID and secret as `username` and `password` of `[target.registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServicePrincipal {
    /// Tenant (directory) ID.
    pub tenant: String,
    /// Client (application) ID.
    pub client_id: String,
    /// The value of its secret, not the secret's ID.
    pub client_secret: SecretRef,
    /// Another Entra, for sovereign clouds; default: `https://login.microsoftonline.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Url>,
}

/// A Key Vault: `[target.vault]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VaultRef {
    /// Its name, or its address where that is no public cloud's: `shop`, `https://shop.vault.azure.cn`.
    pub name: String,
    /// Where it really answers, if not at its address; for private links. It gets tokens for vaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
}

/// A container registry: `[source.registry]`, `[target.registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RegistryRef {
    /// Name in image references: `123456789012.dkr.ecr.us-east-1.amazonaws.com`, `example.azurecr.io`.
    pub host: String,
    /// Where its API really answers, if not at `https://HOST`; for private endpoints and mirrors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// User name, where it isn't ECR (always by AWS credentials) or Entra (the default for ACR).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password of `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
}

/// An S3 bucket: `[source.objects]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BucketRef {
    /// Bucket name.
    pub bucket: String,
    /// Folder in it, with no leading slash; Velero's `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// S3-compatible endpoint, addressed path-style; default: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
}

/// An Azure Blob container: `[target.objects]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ContainerRef {
    /// `https://ACCOUNT.blob.core.windows.net`.
    pub account_url: Url,
    /// Container name.
    pub container: String,
    /// Folder in it, with no leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A SAS query string; default: Entra (Azure CLI, managed or workload identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas: Option<SecretRef>,
    /// An application to log in as, instead of an identity of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_principal: Option<ServicePrincipal>,
}
