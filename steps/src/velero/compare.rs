//! What a backup holds against what the target has: the proof that a restore left nothing out.
//!
//! Velero leaves out kinds that the target's API doesn't serve without a word, and its phase
//! doesn't tell. So every object of the backup is looked for on the target. Every kind and every
//! name that may be missing is in one of the tables here, with its reason.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::discovery::{Discovery, Scope};
use kube::{Api, Client, ResourceExt};
use migrate_plugin_api::{Check, CheckStatus, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{PAGE_ITEMS, RESTORE_NAME_LABEL};
use super::lone::Lone;
use super::volumes::CLAIMS;
use crate::inventory::aggregated;
use crate::kubernetes::kube_error;

/// Names that a note quotes before it only counts.
const MAX_NAMES: usize = 5;

/// Kinds that aren't compared, by group and kind, with the reason.
const LEFT_TO_THE_TARGET: &[(&str, &str, &str)] = &[
    // `nonRestorableResources` of Velero's restore controller.
    ("", "Node", "Velero never restores it"),
    ("", "Event", "Velero never restores it"),
    ("events.k8s.io", "Event", "Velero never restores it"),
    ("storage.k8s.io", "CSINode", "Velero never restores it"),
    ("storage.k8s.io", "VolumeAttachment", "Velero never restores it"),
    ("velero.io", "Backup", "Velero never restores it"),
    ("velero.io", "Restore", "Velero never restores it"),
    ("velero.io", "BackupRepository", "Velero never restores it"),
    // Made by the target's controllers from objects that are compared.
    ("", "Endpoints", "made again from its Service"),
    ("discovery.k8s.io", "EndpointSlice", "made again from its Service"),
    ("apps", "ControllerRevision", "made again from its StatefulSet or DaemonSet"),
    (
        "",
        "PersistentVolume",
        "provisioned again under another name, if its claim has data in the backup or it is to be deleted with it; \
         its claim is compared",
    ),
    ("coordination.k8s.io", "Lease", "state of a running process"),
];

/// Kinds whose objects Velero restores and the target's controllers may then replace or remove, so
/// that their absence is no fault if Velero did its part.
const MAY_VANISH: &[(&str, &str)] = &[("", "Pod"), ("batch", "Job"), ("apps", "ReplicaSet")];

/// Kinds of which Velero doesn't restore what had ended (`isCompleted`).
const MAY_BE_COMPLETE: &[(&str, &str)] = &[("", "Pod"), ("batch", "Job")];

/// Objects that each cluster makes by itself in every namespace, with its own content.
const MADE_BY_EACH_CLUSTER: &[(&str, &str, &str)] =
    &[("", "ConfigMap", "kube-root-ca.crt"), ("", "ServiceAccount", "default")];

/// What Velero says it did, of one kind; what is in none of these was created, or updated if it is no claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct KindOutcome {
    /// It could not be restored, or another one was there already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// The same was there already, or a plugin of Velero's discards such an object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// Claims that were there already, and were patched to what the backup holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub updated: Vec<String>,
    /// Velero didn't look at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untouched: Vec<String>,
    /// Those of `skipped` that were not on the target when the restore ended: a plugin had discarded them. Absent
    /// where nothing was skipped, and in what earlier versions have stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded: Option<Vec<String>>,
}

impl KindOutcome {
    /// Whether Velero did something else with it than to create or update it.
    pub(super) fn has(&self, name: &String) -> bool {
        [&self.failed, &self.skipped, &self.untouched].iter().any(|names| names.contains(name))
    }

    /// Whether Velero tried to restore it and didn't make it: it found another one, or could not. It may have put its
    /// label on the one that it found (`updateBackupRestoreLabels` of pkg/restore/restore.go).
    pub(super) fn was_found(&self, name: &String) -> bool {
        [&self.failed, &self.skipped, &self.updated].iter().any(|names| names.contains(name))
    }
}

/// What became of the backup's `objects`, from a restore's resource list, whose entries read
/// `NAMESPACE/NAME(created)`. Kinds of which everything was created, or updated if it is no
/// claim, are left out.
pub(super) fn outcomes(
    objects: &BTreeMap<String, Vec<String>>,
    list: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, KindOutcome> {
    let mut outcomes = BTreeMap::new();
    for (kind, names) in objects {
        let entries = list.get(kind).map_or(&[][..], Vec::as_slice);
        let actions: BTreeMap<&str, &str> =
            entries.iter().filter_map(|entry| entry.strip_suffix(')')?.rsplit_once('(')).collect();
        let mut outcome = KindOutcome::default();
        for name in names {
            match actions.get(name.as_str()) {
                Some(&"updated") if kind == CLAIMS => outcome.updated.push(name.clone()),
                Some(&("created" | "updated")) => {}
                Some(&"skipped") => outcome.skipped.push(name.clone()),
                Some(_) => outcome.failed.push(name.clone()),
                None => outcome.untouched.push(name.clone()),
            }
        }
        if outcome != KindOutcome::default() {
            outcomes.insert(kind.clone(), outcome);
        }
    }
    outcomes
}

/// Objects created or updated, by kind, from a restore's resource list.
pub(super) fn restored_counts(list: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, u64> {
    let done = |entry: &&String| entry.ends_with("(created)") || entry.ends_with("(updated)");
    list.iter()
        .map(|(kind, entries)| (kind.clone(), entries.iter().filter(done).count() as u64))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Group, version and kind of `apps/v1/Deployment`, `v1/Pod`.
pub(super) fn parse_kind(kind: &str) -> Option<GroupVersionKind> {
    let (version, kind) = kind.rsplit_once('/')?;
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    Some(GroupVersionKind::gvk(group, version, kind))
}

pub(super) fn left_to_the_target(gvk: &GroupVersionKind) -> Option<&'static str> {
    LEFT_TO_THE_TARGET.iter().find(|(group, kind, _)| *group == gvk.group && *kind == gvk.kind).map(|x| x.2)
}

fn is_in(table: &[(&str, &str)], gvk: &GroupVersionKind) -> bool {
    table.iter().any(|(group, kind)| *group == gvk.group && *kind == gvk.kind)
}

/// What the target has of one kind.
#[derive(Debug, Default)]
struct Found {
    /// The target's API serves the kind.
    is_served: bool,
    /// With the label of our restore.
    labelled: BTreeSet<String>,
    /// With it or without.
    present: BTreeSet<String>,
}

/// How one kind came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// On the target.
    there: usize,
    /// Those of them that the restore has made, in a namespace that hasn't got such by itself.
    standing: usize,
    /// On the target before the restore, and left as it was.
    left_as_is: Vec<String>,
    /// Not on the target, for a good reason.
    explained: BTreeMap<&'static str, Vec<String>>,
    /// Not on the target, perhaps for a good reason.
    doubtful: BTreeMap<&'static str, Vec<String>>,
    /// Those of these that Velero skipped.
    skipped: Vec<String>,
    /// Not on the target, where it was when the restore ended.
    lost: Vec<String>,
    /// Not on the target.
    missing: Vec<String>,
}

fn judge(
    gvk: &GroupVersionKind,
    source: &[String],
    outcome: Option<&KindOutcome>,
    lone: &BTreeMap<String, Lone>,
    found: &Found,
) -> Verdict {
    let mut verdict = Verdict::default();
    let is = |list: fn(&KindOutcome) -> &Vec<String>, name: &String| {
        outcome.is_some_and(|o| list(o).contains(name))
    };
    for name in source {
        let own = MADE_BY_EACH_CLUSTER.iter().any(|(group, kind, n)| {
            *group == gvk.group && *kind == gvk.kind && name.ends_with(&format!("/{n}"))
        });
        let failed = is(|o| &o.failed, name);
        let untouched = is(|o| &o.untouched, name);
        let present = found.present.contains(name);
        // On what it found and could not patch, Velero patches the label alone (`processUpdateResourcePolicy`).
        let labelled = found.labelled.contains(name) && !failed;
        let is_made = labelled && !is(|o| &o.skipped, name);
        verdict.standing += usize::from(is_made && !own && name.contains('/'));
        let discarded = outcome.and_then(|outcome| outcome.discarded.as_ref());
        let lone = lone.get(name).filter(|_| gvk.group.is_empty() && gvk.kind == "Pod");
        let mut explain = |reason| verdict.explained.entry(reason).or_default().push(name.clone());
        let mut doubt = |reason| verdict.doubtful.entry(reason).or_default().push(name.clone());
        if labelled || present && (own || !failed && !untouched) {
            verdict.there += 1;
        } else if present {
            verdict.there += 1;
            verdict.left_as_is.push(name.clone());
        } else if is(|o| &o.skipped, name) {
            match discarded {
                Some(discarded) if discarded.contains(name) => explain("discarded by a plugin of Velero's"),
                // It stood there before the restore.
                Some(_) => verdict.lost.push(name.clone()),
                None => {
                    doubt("skipped by Velero: discarded by a plugin of its, or there before and lost since");
                    verdict.skipped.push(name.clone());
                }
            }
        } else if is_in(MAY_BE_COMPLETE, gvk) && untouched {
            explain("had ended already");
        } else if is_in(MAY_VANISH, gvk) && !failed && !untouched && found.is_served {
            match lone {
                None => explain("replaced since by its controller"),
                Some(Lone::MayGo) => doubt("has no controller, and may have ended"),
                Some(Lone::Stays) => verdict.lost.push(name.clone()),
            }
        } else {
            verdict.missing.push(name.clone());
        }
    }
    verdict
}

impl Verdict {
    /// What of the missing of `kind` was not `known` to be missing when the restore ended was there then.
    fn lose(&mut self, kind: &str, known: &[String]) {
        let (missing, lost): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.missing).into_iter().partition(|name| known.contains(&line(kind, name)));
        self.missing = missing;
        self.lost.extend(lost);
    }

    /// What was lost later is missing to a deep look. To a quick one it is a warning: the engine answers its
    /// failure by restoring again, over what the target has been given since.
    fn at(mut self, is_deep: bool) -> Self {
        let lost = std::mem::take(&mut self.lost);
        if is_deep {
            self.missing.extend(lost);
        } else if !lost.is_empty() {
            self.doubtful.entry("there when the restore ended, and gone now").or_default().extend(lost);
        }
        self
    }

    fn check(self, kind: &str, source: usize, is_served: bool) -> Check {
        let mut notes = Vec::new();
        if !self.missing.is_empty() {
            let why = if is_served { "" } else { " (the target's API doesn't serve this kind)" };
            notes.push(format!("missing: {}{why}", some(&self.missing)));
        }
        if !self.left_as_is.is_empty() {
            notes.push(format!("there before and left as it was: {}", some(&self.left_as_is)));
        }
        let reasons = self.doubtful.iter().chain(&self.explained);
        notes.extend(reasons.map(|(reason, names)| format!("{reason}: {}", some(names))));
        let status = match (self.missing.is_empty(), self.left_as_is.is_empty() && self.doubtful.is_empty()) {
            (false, _) => CheckStatus::Failed,
            (true, false) => CheckStatus::Warning,
            (true, true) => CheckStatus::Passed,
        };
        Check {
            subject: kind.to_owned(),
            what: "objects".to_owned(),
            source: source.to_string(),
            target: self.there.to_string(),
            status,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        }
    }
}

/// The first few of `names`.
pub(super) fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let shown = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// An object, as one line.
fn line(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// How to look.
#[derive(Debug, Clone, Copy)]
pub(super) enum Depth<'a> {
    /// What isn't there is missing.
    Deep,
    /// What isn't there and was not among these when the restore ended has gone since, which is only told: unless
    /// nothing that it has made stands any more, so that it can only be restored again.
    Quick(&'a [String]),
}

/// The comparison of all kinds.
#[derive(Default)]
pub(super) struct Comparison {
    /// One check a kind.
    pub checks: Vec<Check>,
    /// `VERSION/Kind NAMESPACE/NAME` of all that should be there and isn't.
    pub missing: Vec<String>,
    /// `VERSION/Kind COUNT (reason)` of the kinds that the target makes by itself.
    pub not_compared: Vec<String>,
    /// By `VERSION/Kind`, what Velero skipped, is not on the target, and has no reason yet.
    pub skipped: BTreeMap<String, Vec<String>>,
    /// Something that the restore has made is on the target.
    pub stands: bool,
}

/// Looks for the backup's `objects` on the target, where `restore` put them, as `depth` wants it.
pub(super) async fn compare(
    client: &Client,
    restore: &str,
    objects: &BTreeMap<String, Vec<String>>,
    outcomes: &BTreeMap<String, KindOutcome>,
    lone: &BTreeMap<String, Lone>,
    depth: Depth<'_>,
) -> Result<Comparison, StepError> {
    let discovery = discover(client).await?;
    let mut comparison = Comparison::default();
    let mut verdicts = Vec::new();
    for (kind, names) in objects {
        let Some(gvk) = parse_kind(kind) else {
            comparison.not_compared.push(format!("{kind} {} (no kind that we understand)", names.len()));
            continue;
        };
        if let Some(reason) = left_to_the_target(&gvk) {
            comparison.not_compared.push(format!("{kind} {} ({reason})", names.len()));
            continue;
        }
        let found = look(client, &discovery, &gvk, restore, names).await?;
        let verdict = judge(&gvk, names, outcomes.get(kind), lone, &found);
        comparison.stands |= verdict.standing > 0;
        verdicts.push((kind, names.len(), found.is_served, verdict));
    }
    for (kind, count, is_served, mut verdict) in verdicts {
        if let (Depth::Quick(known), true) = (depth, comparison.stands) {
            verdict.lose(kind, known);
        }
        let mut verdict = verdict.at(matches!(depth, Depth::Deep));
        comparison.skipped.insert(kind.clone(), std::mem::take(&mut verdict.skipped));
        comparison.missing.extend(verdict.missing.iter().map(|name| line(kind, name)));
        comparison.checks.push(verdict.check(kind, count, is_served));
    }
    Ok(comparison)
}

/// The kinds that a cluster serves.
pub(super) async fn discover(client: &Client) -> Result<Discovery, StepError> {
    // Two requests where the API server offers it; else one for each group.
    match aggregated(client).await {
        Some(discovery) => Ok(discovery),
        None => Discovery::new(client.clone())
            .run()
            .await
            .map_err(|e| kube_error("failed to ask the cluster which kinds it serves", e)),
    }
}

async fn look(
    client: &Client,
    discovery: &Discovery,
    gvk: &GroupVersionKind,
    restore: &str,
    names: &[String],
) -> Result<Found, StepError> {
    // Another version of the same kind is as good: the API server converts.
    let other_version = || {
        let kinds = discovery.get(&gvk.group)?.resources_by_stability();
        kinds.into_iter().find(|(resource, _)| resource.kind == gvk.kind)
    };
    let Some((resource, capabilities)) = discovery.resolve_gvk(gvk).or_else(other_version) else {
        return Ok(Found::default());
    };
    let failed = |e| kube_error(format!("failed to list the target's {}", resource.plural), e);
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let labels = format!("{RESTORE_NAME_LABEL}={restore}");
    let labelled = names_in(&all, Some(&labels)).await.map_err(failed)?;
    let mut present = labelled.clone();
    let rest: Vec<&String> = names.iter().filter(|name| !labelled.contains(*name)).collect();
    let namespaces: BTreeSet<&str> =
        rest.iter().map(|name| name.split_once('/').map_or("", |(namespace, _)| namespace)).collect();
    for namespace in namespaces {
        let api = api_in(client, &resource, &capabilities.scope, namespace);
        present.extend(names_in(&api, None).await.map_err(failed)?);
    }
    Ok(Found { is_served: true, labelled, present })
}

fn api_in(client: &Client, resource: &ApiResource, scope: &Scope, namespace: &str) -> Api<DynamicObject> {
    match scope {
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, resource),
        Scope::Cluster => Api::all_with(client.clone(), resource),
    }
}

/// `NAMESPACE/NAME` or `NAME` of all objects with `labels`.
async fn names_in(api: &Api<DynamicObject>, labels: Option<&str>) -> kube::Result<BTreeSet<String>> {
    let mut params = ListParams::default().limit(PAGE_ITEMS);
    if let Some(labels) = labels {
        params = params.labels(labels);
    }
    let mut names = BTreeSet::new();
    loop {
        let page = api.list_metadata(&params).await?;
        names.extend(page.items.iter().map(|o| match o.namespace() {
            Some(namespace) => format!("{namespace}/{}", o.name_any()),
            None => o.name_any(),
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(entries: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        entries.iter().map(|(kind, names)| ((*kind).to_owned(), owned(names))).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn velero_says_what_became_of_each_object() {
        let objects = list(&[
            ("apps/v1/Deployment", &["shop/web"]),
            ("v1/Secret", &["shop/a", "shop/b(x)", "shop/c", "shop/d"]),
            ("x.io/v1/Gone", &["shop/g"]),
            (CLAIMS, &["shop/data", "shop/logs"]),
        ]);
        let restored = list(&[
            ("apps/v1/Deployment", &["shop/web(created)", "shop/other(created)"]),
            ("v1/Secret", &["shop/a(updated)", "shop/b(x)(skipped)", "shop/c(failed)", "shop/d()"]),
            (CLAIMS, &["shop/data(updated)", "shop/logs(created)"]),
        ]);
        let outcomes = outcomes(&objects, &restored);
        assert!(!outcomes.contains_key("apps/v1/Deployment"));
        assert_eq!(outcomes["v1/Secret"].skipped, ["shop/b(x)"]);
        assert_eq!(outcomes["v1/Secret"].failed, ["shop/c", "shop/d"]);
        assert_eq!(outcomes["x.io/v1/Gone"].untouched, ["shop/g"]);
        assert_eq!(outcomes[CLAIMS].updated, ["shop/data"]);
        assert_eq!(restored_counts(&restored)["v1/Secret"], 1);
    }

    #[test]
    fn kinds_are_read() {
        let gvk = parse_kind("networking.k8s.io/v1/Ingress").unwrap();
        assert_eq!((&*gvk.group, &*gvk.version, &*gvk.kind), ("networking.k8s.io", "v1", "Ingress"));
        let gvk = parse_kind("v1/Pod").unwrap();
        assert_eq!((&*gvk.group, &*gvk.version, &*gvk.kind), ("", "v1", "Pod"));
        assert!(left_to_the_target(&parse_kind("v1/Endpoints").unwrap()).is_some());
        assert!(left_to_the_target(&parse_kind("apps/v1/Deployment").unwrap()).is_none());
    }

    #[test]
    fn an_absent_object_is_missing_unless_there_is_a_reason() {
        let source = ["shop/a", "shop/b", "shop/c", "shop/d"].map(str::to_owned);
        let outcome = KindOutcome {
            failed: vec!["shop/b".to_owned()],
            skipped: vec!["shop/d".to_owned()],
            untouched: vec!["shop/c".to_owned()],
            discarded: Some(vec!["shop/d".to_owned()]),
            updated: vec![],
        };
        let none = BTreeMap::new();
        let nothing = Found { is_served: true, ..Default::default() };
        let verdict = |kind: &str, found: &Found| {
            judge(&parse_kind(kind).unwrap(), &source, Some(&outcome), &none, found)
        };
        assert_eq!(verdict("v1/Secret", &nothing).missing, ["shop/a", "shop/b", "shop/c"]);
        // A pod that Velero created may be gone; one it failed to create is missing.
        let pods = verdict("v1/Pod", &nothing);
        assert_eq!(pods.missing, ["shop/b"]);
        assert_eq!(pods.explained["had ended already"], ["shop/c"]);
        assert_eq!(pods.explained["replaced since by its controller"], ["shop/a"]);
        assert_eq!(verdict("apps/v1/ReplicaSet", &nothing).missing, ["shop/b", "shop/c"]);
        // A kind that isn't served is missing, whatever Velero says.
        let unserved = Found::default();
        assert_eq!(judge(&parse_kind("x.io/v1/K").unwrap(), &source, None, &none, &unserved).missing, source);
    }

    #[test]
    fn what_was_skipped_because_it_was_there_is_missing_once_it_is_gone() {
        let source = ["shop/there".to_owned(), "shop/discarded".to_owned()];
        let nothing = Found { is_served: true, ..Default::default() };
        let verdict = |outcome: Value| {
            let outcome: KindOutcome = serde_json::from_value(outcome).unwrap();
            let gvk = parse_kind("v1/ConfigMap").unwrap();
            judge(&gvk, &source, Some(&outcome), &BTreeMap::new(), &nothing)
        };
        let known = verdict(json!({ "skipped": source, "discarded": ["shop/discarded"] }));
        assert_eq!((&known.lost[..], known.missing.len()), (&["shop/there".to_owned()][..], 0));
        assert_eq!(known.explained["discarded by a plugin of Velero's"], ["shop/discarded"]);
        // What an earlier version has stored doesn't tell.
        let check = verdict(json!({ "skipped": source })).check("v1/ConfigMap", 2, true);
        assert_eq!(check.status, CheckStatus::Warning);
        assert_eq!(
            check.note.as_deref(),
            Some(
                "skipped by Velero: discarded by a plugin of its, or there before and lost since: shop/there, \
                 shop/discarded"
            )
        );
    }

    #[test]
    fn a_pod_is_replaced_only_by_a_controller() {
        let source = ["shop/web-1", "shop/tool", "shop/bill"].map(str::to_owned);
        let lone =
            BTreeMap::from([("shop/tool".to_owned(), Lone::Stays), ("shop/bill".to_owned(), Lone::MayGo)]);
        let nothing = Found { is_served: true, ..Default::default() };
        let verdict = judge(&parse_kind("v1/Pod").unwrap(), &source, None, &lone, &nothing);
        assert_eq!((&verdict.lost[..], verdict.missing.len()), (&["shop/tool".to_owned()][..], 0));
        assert_eq!(verdict.explained["replaced since by its controller"], ["shop/web-1"]);
        assert_eq!(verdict.doubtful["has no controller, and may have ended"], ["shop/bill"]);
        // Only a Pod is.
        let sets = judge(&parse_kind("apps/v1/ReplicaSet").unwrap(), &source, None, &lone, &nothing);
        assert_eq!((sets.missing.len(), sets.doubtful.len()), (0, 0));
    }

    #[test]
    fn what_was_there_before_is_a_warning_and_what_every_cluster_makes_is_none() {
        let source = ["shop/kube-root-ca.crt", "shop/app"].map(str::to_owned);
        let failed = source.to_vec();
        let outcome = KindOutcome { failed, ..Default::default() };
        let present = set(&["shop/kube-root-ca.crt", "shop/app"]);
        let found = Found { is_served: true, labelled: BTreeSet::new(), present };
        let verdict =
            judge(&parse_kind("v1/ConfigMap").unwrap(), &source, Some(&outcome), &BTreeMap::new(), &found);
        assert_eq!((verdict.there, verdict.left_as_is.clone()), (2, vec!["shop/app".to_owned()]));
        let check = verdict.check("v1/ConfigMap", 2, true);
        assert_eq!(check.status, CheckStatus::Warning);
        assert_eq!(check.note.as_deref(), Some("there before and left as it was: shop/app"));
    }

    /// Under `existing-resource-policy = "update"`.
    #[test]
    fn a_label_on_what_was_found_does_not_say_that_it_was_made() {
        let source = ["shop/db".to_owned(), "shop/same".to_owned(), "shop/made".to_owned()];
        let outcome = KindOutcome {
            failed: vec!["shop/db".to_owned()],
            skipped: vec!["shop/same".to_owned()],
            ..Default::default()
        };
        let verdict = |labelled: &[&str]| {
            let found = Found { is_served: true, labelled: set(labelled), present: set(labelled) };
            let gvk = parse_kind("apps/v1/StatefulSet").unwrap();
            judge(&gvk, &source, Some(&outcome), &BTreeMap::new(), &found)
        };
        let all = verdict(&["shop/db", "shop/same", "shop/made"]);
        assert_eq!((all.there, all.standing, &all.left_as_is[..]), (3, 1, &["shop/db".to_owned()][..]));
        assert_eq!(all.check("apps/v1/StatefulSet", 3, true).status, CheckStatus::Warning);
        assert_eq!(verdict(&["shop/db", "shop/same"]).standing, 0);
    }

    #[test]
    fn a_missing_object_fails_the_check_and_is_named() {
        let verdict = Verdict { there: 1, missing: vec!["shop/web".to_owned()], ..Default::default() };
        let check = verdict.check("x.io/v1/K", 2, false);
        assert_eq!(check.status, CheckStatus::Failed);
        assert_eq!((&*check.source, &*check.target), ("2", "1"));
        assert_eq!(
            check.note.as_deref(),
            Some("missing: shop/web (the target's API doesn't serve this kind)")
        );
        let many: Vec<String> = (0..7).map(|i| i.to_string()).collect();
        assert_eq!(some(&many), "0, 1, 2, 3, 4 and 2 more");
    }
}
