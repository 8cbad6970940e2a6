//! The ConfigMaps that configure Velero's restore plugins. Velero takes one of each kind and fails
//! every restore when it finds two, so somebody else's is never overwritten and never joined by
//! a second one of ours.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use migrate_plugin_api::{StepContext, StepError};

use super::api::{MANAGED_BY, MANAGED_BY_LABEL, Velero, list_all, our_labels};
use crate::kubernetes::kube_error;

/// A restore plugin that reads a ConfigMap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugin {
    /// Storage classes of claims, volumes and StatefulSets.
    StorageClass,
    /// Images of pods and workloads.
    ImageName,
}

impl Plugin {
    /// The label by which Velero finds it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::StorageClass => "velero.io/change-storage-class",
            Self::ImageName => "velero.io/change-image-name",
        }
    }

    /// The name of ours: a fixed one, since there can be only one.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::StorageClass => "migrate-change-storage-class",
            Self::ImageName => "migrate-change-image-name",
        }
    }
}

/// What has to be done for a plugin to read `data`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Write ours.
    Write,
    /// One with the same content is there, whoever made it.
    Keep(String),
    /// Another one, with other content, is in the way.
    Refuse(String),
}

/// Decides between the ConfigMaps of `plugin` that are there.
pub(super) fn decide(plugin: Plugin, found: &[ConfigMap], data: &BTreeMap<String, String>) -> Decision {
    let content = |c: &ConfigMap| c.data.clone().unwrap_or_default();
    let others = || found.iter().filter(|c| c.name_any() != plugin.name());
    let ours = found.iter().find(|c| c.name_any() == plugin.name());
    match (ours, others().next()) {
        (_, Some(other)) if ours.is_some() || others().count() > 1 => Decision::Refuse(other.name_any()),
        (_, Some(other)) if content(other) == *data => Decision::Keep(other.name_any()),
        (_, Some(other)) => Decision::Refuse(other.name_any()),
        (Some(ours), None) if content(ours) == *data => Decision::Keep(ours.name_any()),
        (_, None) => Decision::Write,
    }
}

fn api(velero: &Velero) -> Api<ConfigMap> {
    Api::namespaced(velero.client.clone(), &velero.namespace)
}

/// The ConfigMaps of `plugin` that Velero would read.
pub(super) async fn find(velero: &Velero, plugin: Plugin) -> Result<Vec<ConfigMap>, StepError> {
    let labels = format!("velero.io/plugin-config,{}=RestoreItemAction", plugin.label());
    let found = list_all(&api(velero), &labels).await;
    found.map_err(|e| kube_error(format!("failed to list ConfigMaps with label `{}`", plugin.label()), e))
}

/// Makes `plugin` read exactly `data`. Returns the name of the ConfigMap that holds it.
///
/// # Errors
/// `Conflict`, naming the other ConfigMap, when somebody else's says something else.
pub(super) async fn ensure(
    ctx: &StepContext,
    velero: &Velero,
    plugin: Plugin,
    data: &BTreeMap<String, String>,
) -> Result<String, StepError> {
    let namespace = &velero.namespace;
    match decide(plugin, &find(velero, plugin).await?, data) {
        Decision::Keep(name) => Ok(name),
        Decision::Refuse(name) => Err(conflict(plugin, &name, namespace)),
        Decision::Write => {
            let mut labels = our_labels(ctx);
            labels.insert("velero.io/plugin-config".to_owned(), String::new());
            labels.insert(plugin.label().to_owned(), "RestoreItemAction".to_owned());
            let mut config_map = ConfigMap { data: Some(data.clone()), ..Default::default() };
            config_map.metadata.name = Some(plugin.name().to_owned());
            config_map.metadata.labels = Some(labels);
            let params = PatchParams::apply(MANAGED_BY).force();
            let written = api(velero).patch(plugin.name(), &params, &Patch::Apply(&config_map)).await;
            written.map_err(|e| kube_error(format!("failed to write ConfigMap `{}`", plugin.name()), e))?;
            Ok(plugin.name().to_owned())
        }
    }
}

/// The error about somebody else's ConfigMap.
pub(super) fn conflict(plugin: Plugin, name: &str, namespace: &str) -> StepError {
    StepError::conflict(format!(
        "ConfigMap `{name}` in namespace `{namespace}` already configures `{}` differently",
        plugin.label()
    ))
    .with_hint("Velero allows one of a kind: put what it needs into it, or delete it")
}

/// Deletes ours, and only ours.
pub(super) async fn remove(velero: &Velero, plugin: Plugin) -> Result<(), StepError> {
    let found = find(velero, plugin).await?;
    let is_ours = |c: &&ConfigMap| {
        c.name_any() == plugin.name() && c.labels().get(MANAGED_BY_LABEL).is_some_and(|v| v == MANAGED_BY)
    };
    if found.iter().find(is_ours).is_none() {
        return Ok(());
    }
    match api(velero).delete(plugin.name(), &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(e) => Err(kube_error(format!("failed to delete ConfigMap `{}`", plugin.name()), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
        let mut found = ConfigMap { data: Some(pairs(data)), ..Default::default() };
        found.metadata.name = Some(name.to_owned());
        found
    }

    fn pairs(data: &[(&str, &str)]) -> BTreeMap<String, String> {
        data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_foreign_config_map_is_kept_or_refused_but_never_overwritten() {
        let plugin = Plugin::StorageClass;
        let ours = config_map(plugin.name(), &[("gp3", "old")]);
        let wanted = pairs(&[("gp3", "new")]);
        let same = config_map("theirs", &[("gp3", "new")]);
        let other = config_map("theirs", &[("gp3", "premium")]);
        let decide = |found: &[ConfigMap]| decide(plugin, found, &wanted);
        assert_eq!(decide(&[]), Decision::Write);
        assert_eq!(decide(std::slice::from_ref(&ours)), Decision::Write);
        assert_eq!(decide(std::slice::from_ref(&same)), Decision::Keep("theirs".to_owned()));
        assert_eq!(decide(std::slice::from_ref(&other)), Decision::Refuse("theirs".to_owned()));
        // Two of a kind break every restore, whatever they say.
        assert_eq!(decide(&[ours, same]), Decision::Refuse("theirs".to_owned()));
        let done = config_map(plugin.name(), &[("gp3", "new")]);
        assert_eq!(decide(&[done]), Decision::Keep(plugin.name().to_owned()));
    }
}
