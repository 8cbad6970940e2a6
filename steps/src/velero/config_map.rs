//! The ConfigMaps that configure Velero's restore plugins. Velero takes one of each kind and fails
//! every restore when it finds two, so somebody else's is never overwritten and never joined by
//! a second one of ours. Ours is shared by all who migrate into the cluster: what another node has
//! written is replaced only while there is no restore that may read it, and a restore begins only
//! where they say what it relies on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use migrate_plugin_api::{StepContext, StepError};

use super::api::{
    MANAGED_BY, MANAGED_BY_LABEL, NODE_LABEL, RUN_LABEL, Restore, Velero, list_all, our_labels,
};
use super::compare::some;
use super::follow::{Stage, stage};
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

/// Ours among the ConfigMaps of `plugin`.
fn ours(plugin: Plugin, found: &[ConfigMap]) -> Option<&ConfigMap> {
    let is_ours = |c: &&ConfigMap| {
        c.name_any() == plugin.name() && c.labels().get(MANAGED_BY_LABEL).is_some_and(|v| v == MANAGED_BY)
    };
    found.iter().find(is_ours)
}

/// Who has written it: `node `classes` of run `2026-…``.
fn writer(config_map: &ConfigMap) -> String {
    let label = |key| config_map.labels().get(key).map_or("?", String::as_str);
    format!("node `{}` of run `{}`", label(NODE_LABEL), label(RUN_LABEL))
}

fn is_of_this_run(ctx: &StepContext, object: &impl ResourceExt) -> bool {
    object.labels().get(RUN_LABEL).is_some_and(|run| run == ctx.run.as_str())
}

fn is_of_this_node(ctx: &StepContext, config_map: &ConfigMap) -> bool {
    our_labels(ctx).iter().all(|(key, value)| config_map.labels().get(key) == Some(value))
}

/// What `plugin` reads now and would not any more with `data`, for a plan.
pub(super) fn replaced(
    plugin: Plugin,
    found: &[ConfigMap],
    data: &BTreeMap<String, String>,
    namespace: &str,
) -> Option<String> {
    let old = ours(plugin, found)?;
    let is_kept = old.data.clone().unwrap_or_default() == *data;
    (!is_kept).then(|| {
        let pairs = old.data.iter().flatten().map(|(key, value)| format!("{key} = {value}"));
        format!(
            "ConfigMap `{}` in namespace `{namespace}`, as {} wrote it: {}",
            plugin.name(),
            writer(old),
            some(&pairs.collect::<Vec<_>>())
        )
    })
}

/// Refuses to change a map while a restore may read it, this run's own as well: the claims that it is yet to create
/// would get other classes. `then` is the command that goes on.
async fn refuse_while_read(
    velero: &Velero,
    plugin: Plugin,
    old: &ConfigMap,
    then: &str,
) -> Result<(), StepError> {
    let restores = list_all(&velero.restores(), "").await;
    let restores = restores.map_err(|e| kube_error("failed to list the target's restores", e))?;
    let is_at_work = |restore: &&Restore| {
        let phase = restore.status.clone().unwrap_or_default().phase;
        matches!(stage(&phase), Stage::Queued | Stage::Working)
    };
    let Some(restore) = restores.iter().find(is_at_work) else { return Ok(()) };
    Err(StepError::conflict(format!(
        "ConfigMap `{}` in namespace `{}` is as {} wrote it, and restore `{}`, which may read it, has not ended",
        plugin.name(),
        velero.namespace,
        writer(old),
        restore.name_any()
    ))
    .with_hint(format!("when that restore has ended, `{then}`")))
}

fn resume(ctx: &StepContext) -> String {
    format!("migrate resume {}", ctx.run)
}

/// Makes `plugin` read exactly `data`. Returns the name of the ConfigMap that holds it.
///
/// # Errors
/// `Conflict`, naming the other ConfigMap, when somebody else's says something else; or naming the
/// node that has written ours, while a restore may read it.
pub(super) async fn ensure(
    ctx: &StepContext,
    velero: &Velero,
    plugin: Plugin,
    data: &BTreeMap<String, String>,
) -> Result<String, StepError> {
    let namespace = &velero.namespace;
    let found = find(velero, plugin).await?;
    match decide(plugin, &found, data) {
        Decision::Keep(name) => Ok(name),
        Decision::Refuse(name) => Err(conflict(plugin, &name, namespace)),
        Decision::Write => {
            let old = ours(plugin, &found);
            if let Some(old) = old {
                refuse_while_read(velero, plugin, old, &resume(ctx)).await?;
            }
            let mut labels = our_labels(ctx);
            labels.insert("velero.io/plugin-config".to_owned(), String::new());
            labels.insert(plugin.label().to_owned(), "RestoreItemAction".to_owned());
            let mut config_map = ConfigMap { data: Some(data.clone()), ..Default::default() };
            config_map.metadata.name = Some(plugin.name().to_owned());
            config_map.metadata.labels = Some(labels);
            // Refused where it was changed since it was looked at.
            config_map.metadata.resource_version = old.and_then(ResourceExt::resource_version);
            let params = PatchParams::apply(MANAGED_BY).force();
            let written = api(velero).patch(plugin.name(), &params, &Patch::Apply(&config_map)).await;
            written.map_err(|e| kube_error(format!("failed to write ConfigMap `{}`", plugin.name()), e))?;
            Ok(plugin.name().to_owned())
        }
    }
}

/// Refuses to begin a restore that relies on `data` where `plugin` reads something else of ours by now.
///
/// # Errors
/// `Conflict`, naming the node that has written it.
pub(super) async fn refuse_changed(
    ctx: &StepContext,
    velero: &Velero,
    plugin: Plugin,
    data: &BTreeMap<String, String>,
) -> Result<(), StepError> {
    let found = find(velero, plugin).await?;
    let by = match (decide(plugin, &found, data), ours(plugin, &found)) {
        (Decision::Keep(_), _) => return Ok(()),
        (_, None) if data.is_empty() => return Ok(()),
        (_, Some(old)) => format!("{} has written it since", writer(old)),
        (_, None) => "it is gone, or somebody else's is in its place".to_owned(),
    };
    Err(StepError::conflict(format!(
        "ConfigMap `{}` in namespace `{}` doesn't say what this restore relies on: {by}",
        plugin.name(),
        velero.namespace
    ))
    .with_hint(format!(
        "let one run after the other restore into the cluster; `migrate resume {}` writes it again, once no restore \
         is at work",
        ctx.run
    )))
}

/// Says whose storage classes are mapped, where the restore doesn't know which it relies on.
pub(super) async fn warn_of_another(
    ctx: &StepContext,
    velero: &Velero,
    plugin: Plugin,
) -> Result<(), StepError> {
    let found = find(velero, plugin).await?;
    if let Some(old) = ours(plugin, &found).filter(|old| !is_of_this_run(ctx, *old)) {
        ctx.warn(format!("Velero maps as {} wrote it: ConfigMap `{}`", writer(old), plugin.name()));
    }
    Ok(())
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
///
/// # Errors
/// `Conflict`, naming the node that has written it, while a restore may read it.
pub(super) async fn remove(ctx: &StepContext, velero: &Velero, plugin: Plugin) -> Result<(), StepError> {
    let found = find(velero, plugin).await?;
    match ours(plugin, &found) {
        None => Ok(()),
        Some(old) => remove_ours(velero, plugin, old, &resume(ctx)).await,
    }
}

async fn remove_ours(velero: &Velero, plugin: Plugin, old: &ConfigMap, then: &str) -> Result<(), StepError> {
    refuse_while_read(velero, plugin, old, then).await?;
    // Refused where it was changed since it was looked at.
    let only = Preconditions { uid: old.uid(), resource_version: old.resource_version() };
    match api(velero).delete(plugin.name(), &DeleteParams::default().preconditions(only)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(e) => Err(kube_error(format!("failed to delete ConfigMap `{}`", plugin.name()), e)),
    }
}

/// Deletes what this node has written; what another has written since is left.
pub(super) async fn take_back(ctx: &StepContext, velero: &Velero, plugin: Plugin) -> Result<(), StepError> {
    let found = find(velero, plugin).await?;
    match ours(plugin, &found) {
        Some(old) if !is_of_this_node(ctx, old) => {
            ctx.warn(format!("ConfigMap `{}` is left: {} wrote it", plugin.name(), writer(old)));
            Ok(())
        }
        None => Ok(()),
        Some(old) => remove_ours(velero, plugin, old, &format!("migrate undo {} --yes", ctx.run)).await,
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
