//! Claims whose data a backup lacks. It may have been made hours ago: what counts is what it holds, also of claims that
//! the source has no more.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use migrate_plugin_api::{StepContext, StepError};

use super::api::Velero;
use super::backup::{another, named};
use super::compare::some;
use super::contents::{Contents, place};
use super::volumes::{
    BoundClaim, CLAIMS, UNMOUNTED_HINT, VolumeBackup, absent_namespaces, has_data_of,
    left_out as left_out_of, lost_namespaces, prefixes, was_there,
};

/// The way out where what a backup holds can't be read.
const REACH_HINT: &str = "resume where the URLs that Velero gives for its files can be reached";

/// What is known of a backup that was made.
pub(super) struct Made<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespaces.
    pub namespaces: &'a [String],
    /// Those of them that its list lacks.
    pub unlisted: &'a [String],
    /// The paths of the claims that were bound when it was asked for.
    pub noted: &'a [String],
    /// When it was asked for.
    pub asked: Option<&'a Time>,
    /// What it has of volumes.
    pub volumes: &'a [VolumeBackup],
    /// When it began.
    pub began: Option<&'a Time>,
    /// When Velero had listed the source, at the latest.
    pub listed: Option<&'a Time>,
    /// Its own list; empty where that can't be read.
    pub objects: &'a BTreeMap<String, Vec<String>>,
    /// What it holds; `None` where that can't be read.
    pub contents: Option<&'a Contents>,
    /// The bound claims that the source still has.
    pub claims: &'a [BoundClaim],
}

/// Those of `namespaces` that the list of a backup's `objects` lacks: Velero lists each that it takes along.
pub(super) fn unlisted(namespaces: &[String], objects: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let listed = objects.get("v1/Namespace").map_or(&[][..], Vec::as_slice);
    namespaces.iter().filter(|namespace| !listed.contains(namespace)).cloned().collect()
}

impl Made<'_> {
    /// The paths of the claims that were bound and have no data in it.
    pub(super) async fn left_out(&self, velero: &Velero) -> Result<Vec<String>, StepError> {
        // Where nothing tells, what came before Velero had listed the source may be in it.
        let until = if self.is_told() { self.began } else { self.listed };
        let mut left_out: BTreeSet<String> =
            left_out_of(self.claims, self.volumes, until).into_iter().collect();
        let is_without = |path: &&String| !has_data_of(self.volumes, path) || self.is_of_another(path);
        left_out.extend(self.noted.iter().filter(is_without).cloned());
        match self.contents {
            // What it holds is restored, whenever it came.
            Some(contents) => {
                let taken: Vec<BoundClaim> =
                    contents.claims.iter().filter(|claim| claim.goes_along).cloned().collect();
                left_out.extend(left_out_of(&taken, self.volumes, None));
            }
            None => left_out.extend(self.gone(velero).await?),
        }
        Ok(left_out.into_iter().collect())
    }

    /// Whether the claim at `path`, which was noted, went before Velero's turn, so that what it has is of another one by
    /// its name. What came after Velero had listed the source says nothing of it.
    fn is_of_another(&self, path: &String) -> bool {
        let held = self.contents.and_then(|contents| find(&contents.claims, path));
        let until = if held.is_some() { None } else { self.listed };
        let came_since = |claim: &BoundClaim| {
            let created = claim.created.as_ref();
            !was_there(created, self.asked) && was_there(created, until)
        };
        self.noted.contains(path) && held.or_else(|| find(self.claims, path)).is_some_and(came_since)
    }

    /// Whether it tells itself what it holds.
    fn is_told(&self) -> bool {
        self.contents.is_some() || !self.objects.is_empty()
    }

    /// Claims of its list without data that the source has no more: nobody can say that they were not bound.
    async fn gone(&self, velero: &Velero) -> Result<Vec<String>, StepError> {
        let Some(listed) = self.objects.get(CLAIMS) else { return Ok(Vec::new()) };
        let claims: Vec<PersistentVolumeClaim> = velero.list_in(self.namespaces, "the claims").await?;
        let is_old = |claim: &&PersistentVolumeClaim| {
            was_there(claim.metadata.creation_timestamp.as_ref(), self.began)
        };
        let there: BTreeSet<String> = claims.iter().filter(is_old).map(place).collect();
        let is_gone = |path: &&String| !there.contains(path.as_str()) && !has_data_of(self.volumes, path);
        Ok(listed.iter().filter(is_gone).cloned().collect())
    }

    /// Refuses it where it has nothing of namespaces, which its list lacks, and unless data may be left behind
    /// (`allow_unmounted`), where claims are `left_out` or nothing tells which claims it had: neither itself, as seen
    /// from here, nor the source.
    pub(super) async fn refuse(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        left_out: &[String],
        allow_unmounted: bool,
    ) -> Result<(), StepError> {
        // Those of its other namespaces: a restore would make them empty.
        let of_others = left_out.iter().filter(|path| self.holds_namespace_of(path));
        let without: Vec<String> = of_others
            .map(|path| {
                let is_of_another = has_data_of(self.volumes, path) && self.is_of_another(path);
                if is_of_another { format!("{path} (made again before its turn)") } else { path.clone() }
            })
            .collect();
        if self.unlisted.is_empty() {
            if allow_unmounted || without.is_empty() && self.is_told() {
                return Ok(());
            }
            if without.is_empty() {
                return self.refuse_untold(ctx, velero).await;
            }
        }
        let mut lacks = Vec::new();
        if !self.unlisted.is_empty() {
            lacks.push(format!("doesn't hold {}: being deleted at its turn", named(self.unlisted)));
        }
        if !without.is_empty() {
            lacks.push(format!("has no data of these claims: {}", without.join(", ")));
        }
        let is_whole = self.lost(velero, left_out).await?.is_empty();
        let ways = self.ways(ctx, velero, is_whole).await?;
        let hint =
            if is_whole && !without.is_empty() { format!("{UNMOUNTED_HINT}; then {ways}") } else { ways };
        let message = format!("backup `{}` {}", self.name, lacks.join("; it "));
        Err(StepError::permanent(message).with_hint(hint))
    }

    fn holds_namespace_of(&self, path: &str) -> bool {
        let is_of =
            |namespace: &String| path.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('/'));
        !self.unlisted.iter().any(is_of)
    }

    /// What of it the source no longer has as it was, so that no other backup can hold it: namespaces, else claims with
    /// data in it or `left_out`.
    async fn lost(&self, velero: &Velero, left_out: &[String]) -> Result<Vec<String>, StepError> {
        let held = self.namespaces.iter().filter(|namespace| !self.unlisted.contains(namespace));
        let namespaces = lost_namespaces(velero, &held.cloned().collect::<Vec<_>>(), self.began).await?;
        if !namespaces.is_empty() {
            return Ok(namespaces.iter().map(|namespace| format!("namespace {namespace}")).collect());
        }
        let with_data = self
            .volumes
            .iter()
            .filter_map(|volume| volume.claim.as_ref().map(|claim| format!("{}/{claim}", volume.namespace)));
        let mut claims: BTreeSet<String> = with_data.chain(left_out.iter().cloned()).collect();
        claims.retain(|path| self.holds_namespace_of(path) && !self.is_of_pod(path) && !self.is_there(path));
        Ok(claims.iter().map(|path| format!("claim {path}")).collect())
    }

    /// Whether the claim at `path` comes and goes with a pod.
    fn is_of_pod(&self, path: &str) -> bool {
        self.contents.and_then(|contents| find(&contents.claims, path)).is_some_and(|claim| claim.is_of_pod)
    }

    /// Whether the source has the claim at `path` as it was.
    fn is_there(&self, path: &String) -> bool {
        if self.is_of_another(path) {
            return false;
        }
        let held = self.contents.and_then(|contents| find(&contents.claims, path));
        let is_same = |claim: &BoundClaim| match held {
            Some(held) => claim.created == held.created,
            None => was_there(claim.created.as_ref(), self.began),
        };
        find(self.claims, path).is_some_and(|claim| !claim.is_going && is_same(claim))
    }

    /// The ways on where it must not be restored as it stands, of which `hint` needs another backup; by hand, `work` is
    /// to be kept from running.
    pub(super) async fn otherwise(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        left_out: &[String],
        (hint, work): (&str, Option<String>),
    ) -> Result<String, StepError> {
        let lost = self.lost(velero, left_out).await?;
        let reach = if self.contents.is_some() { String::new() } else { format!("{REACH_HINT}; or ") };
        let again = self.again(ctx, velero).await?.map(|again| format!("{hint}; then {again}"));
        if lost.is_empty() {
            return Ok(format!("{reach}{}", again.as_deref().unwrap_or(hint)));
        }
        let again = again.map(|again| format!("; or {again}, of what the source has now"));
        Ok(format!(
            "{reach}the source no longer has {}, which no other backup can hold: before this one expires, copy it (by \
             `copy-backup` of docs/velero.md, without its `restore`) and restore it by hand with that changed: `velero \
             restore create --from-backup {} --resource-modifier-configmap NAME`{}; exclude no pods, through which \
             volumes are restored{}",
            some(&lost),
            self.name,
            work.map(|work| format!(", {work}")).unwrap_or_default(),
            again.unwrap_or_default()
        ))
    }

    /// Refuses it where a namespace is not there any more as it was, and nothing else tells which claims it had.
    async fn refuse_untold(&self, ctx: &StepContext, velero: &Velero) -> Result<(), StepError> {
        let lost = lost_namespaces(velero, self.namespaces, self.began).await?;
        if lost.is_empty() {
            return Ok(());
        }
        Err(StepError::permanent(format!(
            "backup `{}` may lack data of claims: what it holds can't be read from here, and the source no longer has {}",
            self.name,
            named(&lost)
        ))
        .with_hint(format!("{REACH_HINT}; {}", self.ways(ctx, velero, false).await?)))
    }

    /// The ways on: another backup, and where the source has not all that this one has (`is_whole`), this one first.
    async fn ways(&self, ctx: &StepContext, velero: &Velero, is_whole: bool) -> Result<String, StepError> {
        Ok(match self.again(ctx, velero).await? {
            Some(again) if is_whole => again,
            Some(again) => format!("{}; {again}, of what the source has now", self.as_it_stands()),
            None => self.as_it_stands(),
        })
    }

    /// How another backup is made of what the source still has; `None` where it has none of the namespaces.
    async fn again(&self, ctx: &StepContext, velero: &Velero) -> Result<Option<String>, StepError> {
        let mut left = Vec::new();
        for namespace in self.namespaces {
            if absent_namespaces(velero, slice::from_ref(namespace)).await?.is_empty() {
                left.push(namespace);
            }
        }
        Ok(if left.len() == self.namespaces.len() {
            Some(another(ctx))
        } else {
            // Another one of all would be refused.
            (!left.is_empty())
                .then(|| format!("a run of its own with `namespaces = {left:?}` makes another backup"))
        })
    }

    /// The way on with it where the source has lost what another one would have to hold. This node can't take it: with
    /// another config it makes another backup.
    fn as_it_stands(&self) -> String {
        format!(
            "no other backup can hold what the source no longer has: before this one expires, restore it as it stands \
             in a workflow of its own, by `blob.copy` with `order = \"velero\"` and `prefixes = {:?}`, then \
             `velero.restore` with `backup = \"{}\"` (docs/velero.md)",
            prefixes(self.name, self.volumes),
            self.name
        )
    }
}

/// The one at `path`, `NAMESPACE/NAME`.
fn find<'a>(claims: &'a [BoundClaim], path: &str) -> Option<&'a BoundClaim> {
    let place = path.split_once('/')?;
    claims.iter().find(|claim| (&*claim.namespace, &*claim.name) == place)
}
