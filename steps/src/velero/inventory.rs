//! What the source has, against what a backup holds: the proof that a backup left nothing out.
//!
//! Velero asks the API server only every 5 minutes which kinds there are. Objects of a kind that is
//! newer than that are left out of a backup without a word. So we wait until Velero knows every
//! kind that has objects, and compare afterwards all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use kube::{Api, Client, ResourceExt};
use migrate_plugin_api::{Progress, StepContext, StepError};

use super::api::{PAGE_ITEMS, Velero, list_all};
use super::compare::{discover, left_to_the_target, parse_kind};
use super::follow::Pace;
use crate::kubernetes::kube_error;

/// After this long Velero knows a new kind: it refreshes every 5 minutes (`server.go`), and the
/// refresh itself takes seconds.
const KINDS_KNOWN_AFTER: Duration = Duration::from_secs(5 * 60 + 15);
/// Lists at once: enough to hide the latency, far below what an API server limits one client to.
const LISTS_AT_ONCE: usize = 8;
/// What Velero must be able to do with a kind to back it up (`discovery/helper.go`).
const NEEDED_VERBS: &[&str] = &["list", "create", "get", "delete"];
/// Objects with this label set to `true` are left out because somebody asked for it.
const EXCLUDE_LABEL: &str = "velero.io/exclude-from-backup";

/// Whether somebody asked to leave `object` out.
pub(super) fn is_excluded(object: &impl ResourceExt) -> bool {
    object.labels().get(EXCLUDE_LABEL).is_some_and(|value| value == "true")
}

/// The namespaced kinds that a backup covers.
fn kinds(discovery: &Discovery) -> Vec<ApiResource> {
    let is_covered = |(resource, capabilities): &(ApiResource, ApiCapabilities)| {
        let gvk = kube::api::GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
        capabilities.scope == Scope::Namespaced
            && NEEDED_VERBS.iter().all(|verb| capabilities.supports_operation(verb))
            && left_to_the_target(&gvk).is_none()
    };
    // Not only those of a group's preferred version: Velero backs up what another version alone serves, too.
    let all = discovery.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability);
    all.filter(is_covered).map(|(resource, _)| resource).collect()
}

/// Waits until Velero knows every kind that has objects in `namespaces`.
pub(super) async fn wait_for_kinds(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    namespaces: &[String],
) -> Result<(), StepError> {
    let crds: Api<CustomResourceDefinition> = Api::all(velero.client.clone());
    let params = ListParams::default();
    let crds = crds.list_metadata(&params).await;
    let crds = crds.map_err(|e| kube_error("failed to list the source's custom resource definitions", e))?;
    let started = server_start(velero).await?;
    let mut new = BTreeMap::new();
    for crd in crds.items {
        if let Some(created) = crd.metadata.creation_timestamp.clone()
            && let Some(known_at) = known_at(&created, started.as_ref(), Timestamp::now())
        {
            new.insert(crd.name_any(), known_at);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let discovery = discover(&velero.client).await?;
    let mut awaited: Option<(Timestamp, String)> = None;
    for resource in kinds(&discovery) {
        let name = format!("{}.{}", resource.plural, resource.group);
        let Some(known_at) = new.get(&name) else { continue };
        let used = objects_of(&velero.client, &resource, namespaces).await?;
        if !used.is_empty() && awaited.as_ref().is_none_or(|(until, _)| until < known_at) {
            awaited = Some((*known_at, name));
        }
    }
    let Some((until, name)) = awaited else { return Ok(()) };
    ctx.info(format!(
        "`{name}` is new: Velero learns of it by {until:.0}, and would leave its objects out before"
    ));
    while Timestamp::now() < until {
        ctx.progress(Progress::message(format!("waiting until {until:.0} for Velero to learn of {name}")));
        pace.pause(ctx).await?;
    }
    Ok(())
}

/// When Velero, whose server `started` then, surely knows a kind that was `created` then; `None`
/// when it does by `now`.
fn known_at(created: &Time, started: Option<&Time>, now: Timestamp) -> Option<Timestamp> {
    if started.is_some_and(|started| started > created) {
        return None;
    }
    let known_at = created.0.checked_add(KINDS_KNOWN_AFTER).ok()?;
    (known_at > now).then_some(known_at)
}

/// When the running Velero server last started.
async fn server_start(velero: &Velero) -> Result<Option<Time>, StepError> {
    let api: Api<Pod> = Api::namespaced(velero.client.clone(), &velero.namespace);
    let pods = list_all(&api, "").await.map_err(|e| kube_error("failed to list Velero's pods", e))?;
    let containers = pods.iter().filter_map(|p| p.status.as_ref()?.container_statuses.as_ref()).flatten();
    let server = containers.filter(|c| c.name == "velero");
    Ok(server.filter_map(|c| c.state.as_ref()?.running.as_ref()?.started_at.clone()).max())
}

/// Objects of `resource` in `namespaces`.
async fn objects_of(
    client: &Client,
    resource: &ApiResource,
    namespaces: &[String],
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, StepError> {
    let mut found = Vec::new();
    for namespace in namespaces {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
        let mut params = ListParams::default().limit(PAGE_ITEMS);
        loop {
            let page = api.list_metadata(&params).await;
            let page =
                page.map_err(|e| kube_error(format!("failed to list the source's {}", resource.plural), e))?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(found)
}

/// `VERSION/Kind NAMESPACE/NAME` of all that `namespaces` have had since before the backup
/// `started`, and that isn't among the backup's `objects`.
pub(super) async fn omitted(
    client: &Client,
    namespaces: &[String],
    objects: &BTreeMap<String, Vec<String>>,
    ignore: &[String],
    started: Option<&Time>,
) -> Result<Vec<String>, StepError> {
    let held = held(objects);
    let discovery = discover(client).await?;
    let is_wanted = |r: &ApiResource| !ignore.contains(&kind_name(&r.group, &r.kind));
    let wanted = kinds(&discovery).into_iter().filter(is_wanted);
    let lists = stream::iter(wanted).map(|resource| async move {
        let found = objects_of(client, &resource, namespaces).await?;
        Ok::<_, StepError>((resource, found))
    });
    let lists: Vec<_> = lists.buffered(LISTS_AT_ONCE).try_collect().await?;
    let mut omitted = Vec::new();
    for (resource, found) in lists {
        let there = found.iter().filter(|o| was_there(o, started));
        let names = there.map(|o| format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any()));
        let kind = kind_name(&resource.group, &resource.kind);
        let missing = names.filter(|name| !held.contains(&(kind.clone(), name.as_str())));
        omitted.extend(missing.map(|name| format!("{}/{} {name}", resource.api_version, resource.kind)));
    }
    Ok(omitted)
}

/// Kind and name of every object of a backup, whatever the version.
fn held(objects: &BTreeMap<String, Vec<String>>) -> BTreeSet<(String, &str)> {
    let mut held = BTreeSet::new();
    for (kind, names) in objects {
        if let Some(gvk) = parse_kind(kind) {
            let kind = kind_name(&gvk.group, &gvk.kind);
            held.extend(names.iter().map(|name| (kind.clone(), name.as_str())));
        }
    }
    held
}

/// `Deployment.apps`, `Pod`.
fn kind_name(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

/// Whether `object` was there when the backup `started`, and meant to be in it.
fn was_there(object: &PartialObjectMeta<DynamicObject>, started: Option<&Time>) -> bool {
    let metadata = &object.metadata;
    let is_newer = match (&metadata.creation_timestamp, started) {
        (Some(created), Some(started)) => created >= started,
        _ => false,
    };
    !is_excluded(object) && !is_newer && metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    #[test]
    fn velero_knows_a_kind_after_a_while_or_after_its_start() {
        let created = at("2026-01-01T10:00:00Z");
        let now = at("2026-01-01T10:01:00Z").0;
        assert_eq!(known_at(&created, None, now), Some(at("2026-01-01T10:05:15Z").0));
        assert_eq!(
            known_at(&created, Some(&at("2026-01-01T09:00:00Z")), now),
            Some(at("2026-01-01T10:05:15Z").0)
        );
        assert_eq!(known_at(&created, Some(&at("2026-01-01T10:00:30Z")), now), None);
        assert_eq!(known_at(&created, None, at("2026-01-01T10:06:00Z").0), None);
    }

    #[test]
    fn an_object_belongs_into_the_backup_if_it_was_there_and_nobody_asked_otherwise() {
        let object = |extra: Value| -> PartialObjectMeta<DynamicObject> {
            let mut metadata = json!({ "namespace": "shop", "name": "w",
                "creationTimestamp": "2026-01-01T10:00:00Z" });
            metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let started = at("2026-01-01T11:00:00Z");
        assert!(was_there(&object(json!({})), Some(&started)));
        assert!(!was_there(&object(json!({})), Some(&at("2026-01-01T09:00:00Z"))));
        assert!(!was_there(&object(json!({ "labels": { EXCLUDE_LABEL: "true" } })), Some(&started)));
        let deleted = json!({ "deletionTimestamp": "2026-01-01T10:30:00Z" });
        assert!(!was_there(&object(deleted), Some(&started)));
    }

    #[test]
    fn versions_of_a_kind_are_the_same_kind() {
        let objects =
            BTreeMap::from([("autoscaling/v1/HorizontalPodAutoscaler".to_owned(), vec!["a/b".to_owned()])]);
        assert!(held(&objects).contains(&("HorizontalPodAutoscaler.autoscaling".to_owned(), "a/b")));
    }
}
