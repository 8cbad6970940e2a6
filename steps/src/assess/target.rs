//! What the target cluster has, read from it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{LimitRange, Node, ResourceQuota};
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use migrate_plugin_api::{StepContext, StepError};

use crate::inventory::Catalog;
use crate::kubernetes::{connect, kube_error};
use crate::rules::{NodeSize, Quota, Target};
use crate::site::ClusterRef;

/// Marks the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// DaemonSets that carry out NetworkPolicies on AKS, and what they are called there.
/// <https://learn.microsoft.com/azure/aks/use-network-policies>
const POLICY_ENGINES: [(&str, &str); 4] =
    [("azure-npm", "azure"), ("azure-npm-win", "azure"), ("calico-node", "calico"), ("cilium", "cilium")];

/// Looks at the target.
///
/// # Errors
/// When it can't be reached or these credentials may not list what is needed.
pub(crate) async fn target(ctx: &StepContext, cluster: &ClusterRef) -> Result<Target, StepError> {
    let client = connect(ctx, cluster).await?;
    let version = client
        .apiserver_version()
        .await
        .map_err(|e| kube_error(format!("cluster `{}` can't be reached", cluster.context), e))?;
    let classes: Vec<StorageClass> = list(&client, "storage classes").await?;
    let ingress_classes: Vec<IngressClass> = list(&client, "ingress classes").await?;
    let nodes: Vec<Node> = list(&client, "nodes").await?;
    let daemons: Vec<DaemonSet> = list(&client, "daemon sets").await?;
    let quotas: Vec<ResourceQuota> = list(&client, "resource quotas").await?;
    let limits: Vec<LimitRange> = list(&client, "limit ranges").await?;
    let is_default =
        |class: &&StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|v| v == "true");
    let engine = |daemon: &DaemonSet| {
        let name = daemon.name_any();
        POLICY_ENGINES.iter().find(|(known, _)| *known == name).map(|(_, engine)| (*engine).to_owned())
    };
    Ok(Target {
        version: version.git_version,
        default_storage_class: classes.iter().find(is_default).map(ResourceExt::name_any),
        storage_classes: names(&classes),
        ingress_classes: names(&ingress_classes),
        kinds: Catalog::of(&client).await?.ids(),
        nodes: nodes.iter().map(|node| node.labels().clone()).collect::<Vec<BTreeMap<_, _>>>(),
        sizes: nodes.iter().filter_map(size).collect(),
        policy_engine: daemons.iter().find_map(engine),
        quotas: quotas.iter().filter_map(quota).collect(),
        limit_ranges: limits.iter().filter_map(ResourceExt::namespace).collect(),
    })
}

/// What a node has for pods.
fn size(node: &Node) -> Option<NodeSize> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    let quantity = |name: &str| allocatable.get(name).map(|quantity| quantity.0.clone());
    Some(NodeSize { cpu: quantity("cpu")?, memory: quantity("memory")? })
}

/// `None` for one that counts some pods only.
fn quota(quota: &ResourceQuota) -> Option<Quota> {
    let spec = quota.spec.as_ref()?;
    if spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || spec.scope_selector.is_some() {
        return None;
    }
    let amounts = |amounts: Option<&BTreeMap<String, Quantity>>| {
        amounts.into_iter().flatten().map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect()
    };
    Some(Quota {
        namespace: quota.namespace()?,
        name: quota.name_any(),
        hard: amounts(spec.hard.as_ref()),
        used: amounts(quota.status.as_ref().and_then(|status| status.used.as_ref())),
    })
}

fn names<K: ResourceExt>(objects: &[K]) -> BTreeSet<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

async fn list<K>(client: &Client, what: &str) -> Result<Vec<K>, StepError>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.list(&ListParams::default()).await;
    Ok(found.map_err(|e| kube_error(format!("failed to list the target's {what}"), e))?.items)
}
