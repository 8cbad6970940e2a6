//! What runs because it is created: Jobs, and bare Pods that come to an end. The cluster removes them when they have
//! ended (`ttlSecondsAfterFinished`, garbage collection), so one that isn't there may have run.
//!
//! Owns the cursor of `manifest.apply`. Invariant: none is created before it is durably noted that it is about to be,
//! and one that was created, or may have been, is not created again. `--rerun` clears the cursor and so asks for it.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::{DynamicObject, PartialObjectMeta};
use migrate_plugin_api::{ErrorClass, Evidence, StepContext, StepError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::apply_set::group_kind;
use super::order::Manifest;
use super::prune::Pruned;
use super::target::{FIELD_MANAGER, Target, doomed, refused};
use super::tree;
use crate::inventory::{Catalog, Served};
use crate::kubernetes::connect_to_probe;
use crate::site::ClusterRef;

/// Objects that are noted with one checkpoint. After a kill all of them that aren't there are asked about, so few.
const PART_OBJECTS: usize = 16;

/// Failed checks that an error quotes.
const SHOWN: usize = 3;

/// What `manifest.apply` notes before it does what can't be told afterwards.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Cursor {
    /// What is to be deleted, or was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleting: Vec<Pruned>,
    /// By `Job.batch shop/db-migrate`: its UID; none where it was about to be created.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub once: BTreeMap<String, Option<String>>,
}

/// Whether creating the object runs something that would be run again by creating it again. A Pod that is always
/// restarted is meant to be, and what a controller owns is the controller's to make again.
pub(super) fn runs_once(manifest: &Manifest) -> bool {
    let spec = &manifest.object["spec"];
    let owners = manifest.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    match group_kind(&manifest.api_version, &manifest.kind).as_str() {
        "Job.batch" => true,
        "Pod" => {
            matches!(spec["restartPolicy"].as_str(), Some("Never" | "OnFailure"))
                && !owners.into_iter().any(|owner| owner["controller"] == true)
        }
        _ => false,
    }
}

/// The manifests in order, in parts of which all run once, few at a time, or none.
pub(super) fn parts<'m, 'a>(manifests: &'m [&'a Manifest]) -> Vec<&'m [&'a Manifest]> {
    let alike = manifests.chunk_by(|a, b| runs_once(a) == runs_once(b));
    let size = |part: &[&Manifest]| if runs_once(part[0]) { PART_OBJECTS } else { part.len() };
    alike.flat_map(|part| part.chunks(size(part))).collect()
}

/// What becomes of an object that runs once.
#[derive(Debug, Clone)]
enum Due {
    /// It is not there, and never was.
    Create,
    /// It is there, under this UID.
    Keep(String),
    /// It was there under this UID, and has ended.
    Ended(String),
}

/// What one attempt knows of the objects that run once.
pub(super) struct Once<'a> {
    pub cursor: Cursor,
    /// The cursor as it is durable.
    stored: Cursor,
    cluster: &'a ClusterRef,
    due: BTreeMap<String, Due>,
    /// Noted as about to be created, and not sent.
    unsent: BTreeSet<String>,
}

fn note_of(manifest: &Manifest) -> String {
    let kind = group_kind(&manifest.api_version, &manifest.kind);
    format!("{kind} {}/{}", manifest.namespace, manifest.name)
}

impl<'a> Once<'a> {
    /// What an earlier attempt left.
    ///
    /// # Errors
    /// `Corrupt` where that can't be read.
    pub(super) fn of(ctx: &StepContext, cluster: &'a ClusterRef) -> Result<Self, StepError> {
        let cursor = ctx.cursor::<Cursor>()?.unwrap_or_default();
        Ok(Self { stored: cursor.clone(), cursor, cluster, due: BTreeMap::new(), unsent: BTreeSet::new() })
    }

    /// Decides about a part of [`parts`]. That they are about to be created is durable when it returns.
    ///
    /// # Errors
    /// `Conflict` where it can't be told whether one has run; `Transient` where one is being deleted that this node
    /// didn't make; what the API server says.
    pub(super) async fn begin(
        &mut self,
        ctx: &StepContext,
        target: &Target<'_>,
        catalog: &Catalog,
        part: &[&Manifest],
    ) -> Result<(), StepError> {
        let mut unclear = Vec::new();
        for manifest in part.iter().filter(|manifest| runs_once(manifest)) {
            let Some(kind) = catalog.get(&manifest.api_version, &manifest.kind) else { continue };
            let note = note_of(manifest);
            let live = target.metadata(kind, manifest).await?;
            match due(live.as_ref(), self.cursor.once.get(&note)) {
                Known::Due(due) => {
                    let uid = match &due {
                        Due::Create => None,
                        Due::Keep(uid) | Due::Ended(uid) => Some(uid.clone()),
                    };
                    if uid.is_none() {
                        self.unsent.insert(note.clone());
                    }
                    self.cursor.once.insert(note.clone(), uid);
                    self.due.insert(note, due);
                }
                Known::Doomed => return Err(doomed(manifest)),
                Known::Unclear => unclear.push(manifest.to_string()),
            }
        }
        if !unclear.is_empty() {
            return Err(can_not_be_told(ctx, &unclear));
        }
        self.store(ctx).await
    }

    /// Applies one: creates it, or applies to the one that is there and to no other. Returns its UID.
    ///
    /// # Errors
    /// As [`Target::apply`].
    pub(super) async fn apply(
        &mut self,
        ctx: &StepContext,
        target: &Target<'_>,
        kind: &Served,
        manifest: &Manifest,
    ) -> Result<Option<String>, StepError> {
        let note = note_of(manifest);
        let uid = match self.due.get(&note).cloned() {
            None => return Ok(target.apply(kind, manifest, false).await?.metadata.uid),
            Some(Due::Create) => Some(self.create(ctx, target, kind, manifest, &note).await?),
            Some(Due::Keep(uid)) => keep(target, kind, manifest, &uid).await?.then_some(uid),
            Some(Due::Ended(_)) => None,
        };
        let Some(uid) = uid else {
            ctx.warn(format!("{manifest} has ended and was removed: it is not created again"));
            return Ok(self.cursor.once.get(&note).cloned().flatten());
        };
        self.cursor.once.insert(note, Some(uid.clone()));
        Ok(Some(uid))
    }

    async fn create(
        &mut self,
        ctx: &StepContext,
        target: &Target<'_>,
        kind: &Served,
        manifest: &Manifest,
        note: &str,
    ) -> Result<String, StepError> {
        // kube sends a request again after a 503 or 504: by then the first one may have run, and be gone.
        let once = connect_to_probe(ctx, self.cluster).await?;
        // Where it fails otherwise, nothing was sent.
        let answer = target.send(&once, kind, manifest, false).await?;
        self.unsent.remove(note);
        let refusal = match answer {
            Ok(made) => {
                return made
                    .metadata
                    .uid
                    .ok_or_else(|| StepError::transient(format!("the API server gave {manifest} no UID")));
            }
            Err(refusal) => refusal,
        };
        let was_refused = matches!(&refusal, kube::Error::Api(status) if is_refusal(status.code));
        if was_refused && target.metadata(kind, manifest).await.is_ok_and(|live| live.is_none()) {
            self.unsent.insert(note.to_owned());
        }
        Err(refused(manifest, refusal))
    }

    /// Notes what became of a part, also of one that could not be applied whole. Durable when it returns.
    ///
    /// # Errors
    /// When the store can't take it.
    pub(super) async fn settle(&mut self, ctx: &StepContext) -> Result<(), StepError> {
        for note in std::mem::take(&mut self.unsent) {
            self.cursor.once.remove(&note);
        }
        self.store(ctx).await
    }

    /// Makes the cursor durable.
    ///
    /// # Errors
    /// When the store can't take it.
    pub(super) async fn store(&mut self, ctx: &StepContext) -> Result<(), StepError> {
        if self.cursor != self.stored {
            ctx.checkpoint(&self.cursor).await?;
            self.stored = self.cursor.clone();
        }
        Ok(())
    }
}

/// Whether a status says that nothing was created: the API server's own word against the request. What stands
/// between (502, 503, 504) doesn't know, nor does a time-out (408).
fn is_refusal(code: u16) -> bool {
    matches!(code, 400..=500) && code != 408
}

/// Applies to the object of this UID. `false` where it is gone: with a UID, the API server creates none (`patch.go`
/// of k8s.io/apiserver: "uid mismatch: … no existing object was found").
async fn keep(target: &Target<'_>, kind: &Served, manifest: &Manifest, uid: &str) -> Result<bool, StepError> {
    let mut manifest = manifest.clone();
    manifest.object["metadata"]["uid"] = json!(uid);
    match target.apply(kind, &manifest, false).await {
        Ok(_) => Ok(true),
        Err(e) if e.class == ErrorClass::Conflict && target.metadata(kind, &manifest).await?.is_none() => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// What is known of an object that runs once.
enum Known {
    Due(Due),
    /// It is being deleted, and is not known to be this node's.
    Doomed,
    /// It was about to be created.
    Unclear,
}

/// From what is there, and from what an earlier attempt has noted.
fn due(live: Option<&PartialObjectMeta<DynamicObject>>, noted: Option<&Option<String>>) -> Known {
    match (live, noted) {
        (None, None) => Known::Due(Due::Create),
        (None, Some(Some(uid))) => Known::Due(Due::Ended(uid.clone())),
        (None, Some(None)) => Known::Unclear,
        (Some(live), noted) => {
            let uid = live.uid().unwrap_or_default();
            let is_noted = match noted {
                Some(Some(noted)) => *noted == uid,
                Some(None) => is_ours(live),
                None => false,
            };
            match live.metadata.deletion_timestamp {
                None => Known::Due(Due::Keep(uid)),
                Some(_) if is_noted => Known::Due(Due::Ended(uid)),
                Some(_) => Known::Doomed,
            }
        }
    }
}

/// Whether this tool has applied it.
fn is_ours(live: &PartialObjectMeta<DynamicObject>) -> bool {
    let mut entries = live.metadata.managed_fields.iter().flatten();
    entries.any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    })
}

/// How `migrate resume` is told to make this node again.
fn rerun(ctx: &StepContext) -> String {
    format!("`migrate resume {} --rerun {}`", ctx.run, ctx.node.quoted())
}

fn can_not_be_told(ctx: &StepContext, names: &[String]) -> StepError {
    StepError::conflict(format!(
        "can't tell whether what is not there has run: an earlier attempt was about to create {}",
        tree::listed(names)
    ))
    .with_hint(format!(
        "look for yourself. What has run: take it out of the folder; what hasn't: create it by hand; then \
         `migrate resume {}`. To run again what isn't there, whether it has run or not: {}",
        ctx.run,
        rerun(ctx)
    ))
}

/// A verification that failed, where applying everything again would run again what has ended: the engine would.
pub(super) fn would_run_again(ctx: &StepContext, evidence: &Evidence, names: &[String]) -> StepError {
    let said = |check: &migrate_plugin_api::Check| {
        let note = check.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        format!("{}: {} is {}, expected {}{note}", check.subject, check.what, check.target, check.source)
    };
    let failures: Vec<String> = evidence.failures().map(said).collect();
    let more = failures.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let shown = failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    StepError::conflict(format!(
        "verification failed: {shown}{more}; it is not applied again, since that could run {} once more",
        tree::listed(names)
    ))
    .with_hint(format!(
        "mend it by hand and `migrate resume {}`; to apply everything again, and run again what isn't there: {}; what \
         must not run again, take out of the folder before",
        ctx.run,
        rerun(ctx)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::order;

    fn manifest(text: &str) -> Manifest {
        order::parse("a.yaml", text).unwrap().remove(0)
    }

    fn job(name: &str) -> Manifest {
        manifest(&format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: shop}}\n"))
    }

    #[test]
    fn what_comes_to_an_end_runs_once() {
        let pod = |policy: &str, metadata: &str| {
            runs_once(&manifest(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: a{metadata}}}\nspec: {{{policy}}}\n"
            )))
        };
        assert!(runs_once(&job("a")));
        assert!(pod("restartPolicy: Never", "") && pod("restartPolicy: OnFailure", ""));
        assert!(!pod("restartPolicy: Always", "") && !pod("", ""));
        let owned = ", ownerReferences: [{kind: ReplicaSet, name: r, controller: true}]";
        assert!(!pod("restartPolicy: Never", owned));
        for other in ["batch/v1\nkind: CronJob", "example.com/v1\nkind: Job", "apps/v1\nkind: Deployment"] {
            let other = manifest(&format!("apiVersion: {other}\nmetadata: {{name: a}}\n"));
            assert!(!runs_once(&other), "{other}");
        }
    }

    #[test]
    fn only_what_runs_once_is_taken_in_small_parts() {
        let service = manifest("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n");
        let jobs: Vec<Manifest> = (0..PART_OBJECTS + 1).map(|at| job(&format!("j{at}"))).collect();
        let all: Vec<&Manifest> = std::iter::repeat_n(&service, 40).chain(&jobs).chain([&service]).collect();
        let sizes: Vec<usize> = parts(&all).into_iter().map(<[_]>::len).collect();
        assert_eq!(sizes, [40, PART_OBJECTS, 1, 1]);
    }

    #[test]
    fn only_the_api_servers_own_word_says_that_nothing_was_created() {
        let refusals = [400, 403, 409, 422, 429, 500];
        assert!(refusals.into_iter().all(is_refusal));
        assert!(![408, 502, 503, 504].into_iter().any(is_refusal));
    }

    #[test]
    fn a_cursor_of_an_earlier_version_is_read() {
        let cursor: Cursor = serde_json::from_value(json!({ "deleting": [] })).unwrap();
        assert_eq!(cursor, Cursor::default());
    }
}
