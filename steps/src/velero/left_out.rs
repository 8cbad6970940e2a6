//! Claims whose data a backup lacks. It may have been made hours ago: what counts is what it holds, also of claims that
//! the source has no more.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use migrate_plugin_api::{StepContext, StepError};

use super::api::Velero;
use super::backup::{another, named};
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
    /// The paths of the claims that were bound when it was asked for.
    pub noted: &'a [String],
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
}

/// Those of `namespaces` that the list of a backup's `objects` lacks: Velero lists each that it takes along.
pub(super) fn unlisted(namespaces: &[String], objects: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let listed = objects.get("v1/Namespace").map_or(&[][..], Vec::as_slice);
    namespaces.iter().filter(|namespace| !listed.contains(namespace)).cloned().collect()
}

impl Made<'_> {
    /// The paths of the claims that were bound and have no data in it, of which the source still has `claims`.
    pub(super) async fn left_out(
        &self,
        velero: &Velero,
        claims: &[BoundClaim],
    ) -> Result<Vec<String>, StepError> {
        // Where nothing tells, what came before Velero had listed the source may be in it.
        let is_told = self.contents.is_some() || !self.objects.is_empty();
        let until = if is_told { self.began } else { self.listed };
        let mut left_out: BTreeSet<String> = left_out_of(claims, self.volumes, until).into_iter().collect();
        left_out.extend(self.noted.iter().filter(|path| !has_data_of(self.volumes, path)).cloned());
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

    /// Refuses it where claims are `left_out`, and where nothing tells which claims it had: neither itself, as seen from
    /// here, nor the source, which still has `claims`.
    pub(super) async fn refuse(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        left_out: &[String],
        claims: &[BoundClaim],
    ) -> Result<(), StepError> {
        if left_out.is_empty() && (self.contents.is_some() || !self.objects.is_empty()) {
            return Ok(());
        }
        if left_out.is_empty() {
            return self.refuse_untold(ctx, velero).await;
        }
        let absent = absent_namespaces(velero, self.namespaces).await?;
        let are_there = left_out.iter().all(|path| claims.iter().any(|claim| claim.path() == *path));
        let hint = if absent.is_empty() && are_there {
            format!("{UNMOUNTED_HINT}; then {}", another(ctx))
        } else {
            self.ways(ctx, absent.is_empty())
        };
        let message = format!("backup `{}` has no data of these claims: {}", self.name, left_out.join(", "));
        Err(StepError::permanent(message).with_hint(hint))
    }

    /// Refuses it where it has nothing of namespaces, which its list lacks.
    pub(super) async fn refuse_unlisted(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        unlisted: &[String],
    ) -> Result<(), StepError> {
        if unlisted.is_empty() {
            return Ok(());
        }
        let is_whole = absent_namespaces(velero, self.namespaces).await?.is_empty();
        let hint = if is_whole { another(ctx) } else { self.as_it_stands() };
        let message =
            format!("backup `{}` doesn't hold {}: being deleted at its turn", self.name, named(unlisted));
        Err(StepError::permanent(message).with_hint(hint))
    }

    /// The ways on where it must not be restored as it stands, of which `hint` needs another backup.
    pub(super) async fn otherwise(
        &self,
        ctx: &StepContext,
        velero: &Velero,
        hint: &str,
    ) -> Result<String, StepError> {
        let absent = absent_namespaces(velero, self.namespaces).await?;
        let reach = if self.contents.is_some() { String::new() } else { format!("{REACH_HINT}; or ") };
        if absent.is_empty() {
            return Ok(format!("{reach}{hint}; then {}", another(ctx)));
        }
        Ok(format!(
            "{reach}the source no longer has {}, so that no other backup can be made: before this one expires, copy it (see \
             docs/velero.md) and restore it by hand without that, or with that changed: `velero restore create \
             --from-backup {}` with `--exclude-resources` or `--resource-modifier-configmap`",
            named(&absent),
            self.name
        ))
    }

    /// Refuses it where a namespace is not there any more as it was, and nothing else tells which claims it had.
    async fn refuse_untold(&self, ctx: &StepContext, velero: &Velero) -> Result<(), StepError> {
        let lost = lost_namespaces(velero, self.namespaces, self.began).await?;
        if lost.is_empty() {
            return Ok(());
        }
        let is_whole = absent_namespaces(velero, self.namespaces).await?.is_empty();
        Err(StepError::permanent(format!(
            "backup `{}` may lack data of claims: what it holds can't be read from here, and the source no longer has {}",
            self.name,
            named(&lost)
        ))
        .with_hint(format!("{REACH_HINT}; {}", self.ways(ctx, is_whole))))
    }

    /// The ways on with it where the source has lost something: `is_whole`, if not a namespace, which another backup
    /// would need.
    fn ways(&self, ctx: &StepContext, is_whole: bool) -> String {
        if is_whole {
            return format!("{}; {}, of what the source has now", self.as_it_stands(), another(ctx));
        }
        self.as_it_stands()
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
