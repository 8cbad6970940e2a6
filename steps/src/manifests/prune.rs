//! Members of a set of applied objects that are no longer in the manifests: found by their label, judged, deleted.
//!
//! Never deleted: what holds data or other objects ([`KEPT_KINDS`]), what another object owns, what did not get the
//! label from this tool (controllers copy labels). What is deleted is durably noted before the first of it is, and a
//! deletion names the object's version, so that one that somebody changed meanwhile is not lost unseen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Preconditions};
use kube::{Client, ResourceExt};
use migrate_plugin_api::{ErrorClass, Problem, Progress, StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apply_set::{PART_OF, Prune, Record, group_kind};
use super::folder;
use super::once::Once;
use super::order::{self, Manifest};
use super::outlook::differing;
use super::target::FIELD_MANAGER;
use super::tree;
use crate::inventory::{Catalog, PAGE_OBJECTS, Served, unavailable};
use crate::kubernetes::kube_error;
use crate::rollout::{POLL_INTERVAL, pause};

/// Kinds that hold data or other objects, which would go with them.
const KEPT_KINDS: [&str; 6] = [
    "CustomResourceDefinition.apiextensions.k8s.io",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "VolumeSnapshot.snapshot.storage.k8s.io",
    "VolumeSnapshotContent.snapshot.storage.k8s.io",
];

/// A load balancer that Azure takes down needs minutes; pods end within their grace.
const GONE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Times that an object is looked at anew because its status changed as it was to be deleted.
const MAX_RACES: u32 = 10;

/// An object that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Pruned {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from a later one of the same name.
    pub uid: String,
}

impl std::fmt::Display for Pruned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        order::write_place(f, &self.kind, &self.namespace, &self.name)
    }
}

/// A member that is no longer in the manifests and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LeftInPlace {
    /// `Kind namespace/name`.
    pub object: String,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for LeftInPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is no longer in the manifests and is left in place: {}", self.object, self.reason)
    }
}

/// A member that is to be deleted.
struct Member {
    kind: Served,
    object: DynamicObject,
}

impl Member {
    fn turn(&self) -> Reverse<usize> {
        turn(&self.kind.resource.kind)
    }

    fn note(&self) -> Pruned {
        Pruned {
            api_version: self.kind.resource.api_version.clone(),
            kind: self.kind.resource.kind.clone(),
            namespace: self.object.namespace().unwrap_or_default(),
            name: self.object.name_any(),
            uid: self.object.uid().unwrap_or_default(),
        }
    }
}

/// What is in the manifests: never to be deleted.
#[derive(Default)]
pub(super) struct Wanted {
    /// As the API server names them: the same object may be served under two groups.
    pub uids: BTreeSet<String>,
    places: BTreeSet<(String, String, String)>,
    record: Record,
}

impl Wanted {
    pub(super) fn of(manifests: &[Manifest]) -> Self {
        let mut wanted = Self::default();
        for m in manifests {
            wanted.record.add(&m.api_version, &m.kind, &m.namespace);
            let kind = group_kind(&m.api_version, &m.kind);
            wanted.places.insert((kind, m.namespace.clone(), m.name.clone()));
        }
        wanted
    }

    /// Where they are.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    fn has(&self, kind: &str, object: &DynamicObject) -> bool {
        let place = (kind.to_owned(), object.namespace().unwrap_or_default(), object.name_any());
        self.places.contains(&place) || object.uid().is_some_and(|uid| self.uids.contains(&uid))
    }
}

/// Members that are no longer in the manifests.
#[derive(Default)]
struct Survey {
    /// In the order in which they are deleted: what came last goes first.
    extra: Vec<Member>,
    left: Vec<LeftInPlace>,
    /// Where those are that stay.
    record: Record,
}

/// Why a member that is no longer in the manifests is not deleted.
fn reason_to_keep(group_kind: &str, object: &DynamicObject) -> Option<String> {
    if KEPT_KINDS.contains(&group_kind) {
        return Some("what it holds would be lost with it".to_owned());
    }
    let (namespace, name) = (object.metadata.namespace.as_deref(), object.metadata.name.as_deref());
    if folder::is_of_aks(group_kind, namespace.unwrap_or_default(), name.unwrap_or_default()) {
        return Some("AKS has its own".to_owned());
    }
    if let Some(owner) = object.owner_references().first() {
        return Some(format!("{} {} owns it", owner.kind, owner.name));
    }
    let labelled = |fields: &Value| {
        fields
            .pointer("/f:metadata/f:labels")
            .is_some_and(|labels| labels.get(format!("f:{PART_OF}")).is_some())
    };
    let is_ours = object.managed_fields().iter().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.fields_v1.as_ref().is_some_and(|fields| labelled(&fields.0))
    });
    if !is_ours {
        return Some("migrate did not label it".to_owned());
    }
    let policy = object.data.pointer("/spec/persistentVolumeClaimRetentionPolicy/whenDeleted");
    if group_kind == "StatefulSet.apps" && policy.and_then(Value::as_str) == Some("Delete") {
        return Some("its claims would be deleted with it (persistentVolumeClaimRetentionPolicy)".to_owned());
    }
    let active = object.data.pointer("/status/active").and_then(Value::as_u64);
    if group_kind == "Job.batch" && active.is_some_and(|active| active > 0) {
        return Some("it is at work".to_owned());
    }
    None
}

/// Where an object comes as things are deleted: what came last goes first, and an API after all that it serves.
fn turn(kind: &str) -> Reverse<usize> {
    Reverse(if kind == "APIService" { 0 } else { order::rank(kind) + 1 })
}

/// Everything that one look at a set needs.
pub(super) struct Set<'a> {
    client: &'a Client,
    prune: &'a Prune,
    /// What the cluster serves now.
    catalog: Catalog,
}

impl<'a> Set<'a> {
    /// # Errors
    /// When the cluster can't be asked what it serves.
    pub(super) async fn of(client: &'a Client, prune: &'a Prune) -> Result<Self, StepError> {
        Ok(Self { client, prune, catalog: Catalog::of(client).await? })
    }

    /// Finds the members that `record` can have and `wanted` has not.
    async fn survey(&self, ctx: &StepContext, record: &Record, wanted: &Wanted) -> Result<Survey, StepError> {
        let mut down = None;
        let mut found: BTreeMap<String, Member> = BTreeMap::new();
        for name in &record.kinds {
            let (kind, group) = name.split_once('.').unwrap_or((name, ""));
            let Some(served) = self.catalog.of_group(group, kind) else {
                if down.is_none() {
                    down = Some(unavailable(self.client).await?);
                }
                // Whose API is down may have members; without its definition, a kind has none.
                let version = down.iter().flatten().find(|v| v.split('/').next() == Some(group));
                match version {
                    Some(version) => {
                        return Err(StepError::transient(format!(
                            "members of {} can't be found: {version} does not answer",
                            self.prune
                        )));
                    }
                    None => continue,
                }
            };
            let places: Vec<Option<&String>> = match served.namespaced {
                true => record.namespaces.iter().map(Some).collect(),
                false => vec![None],
            };
            for namespace in places {
                for object in self.members(ctx, served, namespace).await? {
                    if !wanted.has(name, &object) {
                        let uid = object.uid().unwrap_or_default();
                        found.insert(uid, Member { kind: served.clone(), object });
                    }
                }
            }
        }
        let mut survey = Survey::default();
        for member in found.into_values() {
            let resource = &member.kind.resource;
            let note = member.note();
            match reason_to_keep(&group_kind(&resource.api_version, &resource.kind), &member.object) {
                Some(reason) => {
                    survey.record.add(&note.api_version, &note.kind, &note.namespace);
                    survey.left.push(LeftInPlace { object: note.to_string(), reason });
                }
                None => survey.extra.push(member),
            }
        }
        survey.extra.sort_by_cached_key(|member| (member.turn(), member.note().to_string()));
        survey.left.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(survey)
    }

    async fn members(
        &self,
        ctx: &StepContext,
        kind: &Served,
        namespace: Option<&String>,
    ) -> Result<Vec<DynamicObject>, StepError> {
        let api = kind.api(self.client, namespace.map_or("", String::as_str));
        let id = self.prune.id();
        let mut params = ListParams::default().limit(PAGE_OBJECTS).labels(&format!("{PART_OF}={id}"));
        let mut all = Vec::new();
        loop {
            ctx.check_cancelled()?;
            let page = api.list(&params).await.map_err(|e| {
                let place = namespace.map_or_else(String::new, |name| format!(" in {name}"));
                kube_error(format!("failed to list the {} of {}{place}", kind.id(), self.prune), e)
            })?;
            // Asked for already; but nothing is deleted on another's word.
            all.extend(page.items.into_iter().filter(|object| object.labels().get(PART_OF) == Some(&id)));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(all),
            }
        }
    }

    /// What would be deleted, one line each, and what stands in the way. Changes nothing. Whether the record
    /// `can_be_written` is asked where its namespace is there.
    ///
    /// # Errors
    /// When the cluster can't be asked.
    pub(super) async fn foresee(
        &self,
        ctx: &StepContext,
        wanted: &Wanted,
        can_be_written: bool,
    ) -> Result<(Vec<String>, Vec<Problem>), StepError> {
        let mut record = Record::read(self.client, self.prune).await?.joined(wanted.record());
        let survey = self.survey(ctx, &record, wanted).await?;
        let mut problems: Vec<Problem> =
            survey.left.iter().map(|left| Problem::warning(left.to_string()).in_field("prune")).collect();
        if let Some(other) = record.other_node(&ctx.node) {
            let message = format!("{} was applied by node `{other}` before", self.prune);
            let hint = "if that is another folder's node, give this one a set of its own: each would delete what the \
                        other applied";
            problems.push(Problem::warning(message).in_field("prune").with_hint(hint));
        }
        if can_be_written && let Err(e) = record.write(self.client, self.prune, true).await {
            problems.push(tree::problem_of(&e, "prune"));
        }
        let mut lines = Vec::new();
        for member in &survey.extra {
            let note = member.note();
            lines.push(format!("{note}: in {}, and no longer in the manifests", self.prune));
            match self.delete(member, true).await {
                Err(e) if e.class != ErrorClass::Conflict => problems.push(tree::problem_of(&e, "prune")),
                _ => {}
            }
        }
        Ok((lines, problems))
    }

    /// Deletes what is no longer in the manifests, waits until it is gone, and makes the record say what is left.
    /// Returns everything that this node has deleted, in this attempt or an earlier one.
    ///
    /// # Errors
    /// `Conflict` where an object was changed meanwhile, or the record (nothing is deleted then); `Transient` where one
    /// does not go; what the API server says.
    pub(super) async fn prune(
        &self,
        ctx: &StepContext,
        record: &mut Record,
        wanted: &Wanted,
        once: &mut Once<'_>,
    ) -> Result<(Vec<Pruned>, Vec<LeftInPlace>), StepError> {
        let survey = self.survey(ctx, record, wanted).await?;
        let noted = &mut once.cursor.deleting;
        let new: Vec<Pruned> =
            survey.extra.iter().map(Member::note).filter(|note| !noted.contains(note)).collect();
        noted.extend(new);
        let noted = noted.clone();
        once.store(ctx).await?;
        if !survey.extra.is_empty() {
            // Refused where another run has taken the set up since: what it applied would look like what is left over.
            record.write(self.client, self.prune, false).await?;
        }
        for member in &survey.extra {
            ctx.info(format!(
                "{} is to be deleted: in {}, and no longer in the manifests",
                member.note(),
                self.prune
            ));
        }
        let (mut done, total) = (0, survey.extra.len() as u64);
        let deadline = Instant::now() + GONE_TIMEOUT;
        // One kind of thing after the other: what takes an object down may itself be among the next.
        for members in survey.extra.chunk_by(|a, b| a.turn() == b.turn()) {
            for member in members {
                ctx.check_cancelled()?;
                ctx.progress(Progress::message(format!("deleting {}", member.note())).items(done, total));
                if member.object.metadata.deletion_timestamp.is_none() {
                    self.delete(member, false).await?;
                }
                done += 1;
            }
            for member in members {
                let note = member.note();
                self.gone(ctx, &note, &member.kind.api(self.client, &note.namespace), deadline).await?;
            }
        }
        let mut pruned = Vec::new();
        for note in noted {
            if !is_there(self.client, &self.catalog, &note).await? {
                ctx.info(format!("{note} is deleted"));
                pruned.push(note);
            }
        }
        survey.left.iter().for_each(|left| ctx.warn(left.to_string()));
        record.narrow(self.prune, [wanted.record(), &survey.record]);
        record.write(self.client, self.prune, false).await?;
        Ok((pruned, survey.left))
    }

    /// Deletes one, if it still is as it was seen.
    async fn delete(&self, member: &Member, dry_run: bool) -> Result<(), StepError> {
        let note = member.note();
        let api = member.kind.api(self.client, &note.namespace);
        let mut version = member.object.resource_version();
        for _ in 0..MAX_RACES {
            let only = Preconditions { uid: Some(note.uid.clone()), resource_version: version };
            let mut params = DeleteParams::background().preconditions(only);
            params.dry_run = dry_run;
            let failed = |e| kube_error(format!("failed to delete {note}"), e);
            match api.delete(&note.name, &params).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(failed(e)),
            }
            // It was changed since it was seen: by a controller that writes its status, or by somebody.
            let Some(now) = api.get_opt(&note.name).await.map_err(failed)? else { return Ok(()) };
            if now.uid().as_deref() != Some(&note.uid) || now.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
            let fields = differing(member.object.clone(), now.clone());
            if !fields.is_empty() || now.owner_references() != member.object.owner_references() {
                let message =
                    format!("{note} was changed as it was to be deleted: {}", tree::listed(&fields));
                return Err(
                    StepError::conflict(message).with_hint("look at it, and go on if it may be deleted")
                );
            }
            version = now.resource_version();
        }
        Err(StepError::transient(format!("{note} changes too often to be deleted")))
    }

    async fn gone(
        &self,
        ctx: &StepContext,
        note: &Pruned,
        api: &Api<DynamicObject>,
        deadline: Instant,
    ) -> Result<(), StepError> {
        loop {
            let found = api.get_metadata_opt(&note.name).await;
            let found = found.map_err(|e| kube_error(format!("failed to read {note}"), e))?;
            let Some(found) = found.filter(|found| found.uid().as_deref() == Some(&note.uid)) else {
                return Ok(());
            };
            let finalizers = found.finalizers().join(", ");
            if Instant::now() >= deadline {
                let message =
                    format!("{note} is being deleted, and is not gone: its finalizers are `{finalizers}`");
                return Err(
                    StepError::transient(message).with_hint("see that the controllers that they name run")
                );
            }
            ctx.progress(Progress::message(format!("waits until {note} is gone ({finalizers})")));
            pause(ctx, POLL_INTERVAL).await?;
        }
    }
}

/// Whether it is there, and no other of its name.
pub(super) async fn is_there(client: &Client, catalog: &Catalog, note: &Pruned) -> Result<bool, StepError> {
    let group = note.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = catalog.of_group(group, &note.kind) else { return Ok(false) };
    let found = kind.api(client, &note.namespace).get_metadata_opt(&note.name).await;
    let found = found.map_err(|e| kube_error(format!("failed to read {note}"), e))?;
    Ok(found.is_some_and(|found| found.uid().as_deref() == Some(&note.uid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_corefile_of_aks_is_never_deleted() {
        let corefile = json!({ "metadata": { "name": "coredns", "namespace": "kube-system" } });
        let corefile: DynamicObject = serde_json::from_value(corefile).unwrap();
        assert_eq!(reason_to_keep("ConfigMap", &corefile).as_deref(), Some("AKS has its own"));
    }
}
