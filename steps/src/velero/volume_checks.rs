//! What a restore's volumes must show: as many as were backed up, with their bytes, and the claims that Velero has made
//! for them bound.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use migrate_plugin_api::{Check, CheckStatus, StepContext, StepError};

use super::api::{RESTORE_NAME_LABEL, Velero};
use super::compare::{KindOutcome, some};
use super::volumes::{VolumeBackup, VolumeRestore};

/// Bytes that a backup may count more than its restore. kopia counts a symbolic link that it finds
/// unchanged by the length of its target, a restore none. More than a hundredth of the volume is no link.
const MOST_LINK_BYTES: u64 = 1 << 20;

/// Volumes on both sides: as many, and as many bytes in each.
pub(super) fn volume_checks(source: &[VolumeBackup], target: &[VolumeRestore]) -> Vec<Check> {
    let filled: Vec<&VolumeBackup> = source.iter().filter(|v| !v.snapshot_id.is_empty()).collect();
    let mut checks =
        vec![Check::equal("volumes", "count", filled.len().to_string(), target.len().to_string())];
    checks.extend(filled.into_iter().map(|v| {
        let is_same =
            |t: &&VolumeRestore| t.namespace == v.namespace && t.pod == v.pod && t.volume == v.volume;
        let bytes = target.iter().find(is_same).map(|t| t.bytes);
        let found = bytes.map_or("absent".to_owned(), |bytes| bytes.to_string());
        let mut check = Check::equal(format!("volume {}", v.path()), "bytes", v.bytes.to_string(), found);
        let fewer = bytes.and_then(|bytes| v.bytes.checked_sub(bytes)).unwrap_or(0);
        if (1..=MOST_LINK_BYTES.min(v.bytes / 100)).contains(&fewer) {
            check.status = CheckStatus::Warning;
            check.note = Some("a backup that builds on another also counts its links".to_owned());
        }
        check
    }));
    checks
}

/// A claim of the backup, on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// `NAMESPACE/NAME`.
    pub path: String,
    /// Volume and claim have found each other.
    pub is_bound: bool,
    /// The restore has made it: Velero labels all that it makes, and may label what it finds.
    pub is_restored: bool,
    /// The restore has made such a claim, and another one has its name now.
    is_another: bool,
    /// Velero found it there, which it then leaves as it is; and restores into it all the same, through the pods that it
    /// makes.
    is_foreign: bool,
}

impl Claim {
    fn judge(
        volume: &VolumeBackup,
        path: String,
        found: Option<&PersistentVolumeClaim>,
        restore: &str,
        outcome: Option<&KindOutcome>,
    ) -> Self {
        let phase = found.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
        let is_labelled = found
            .is_some_and(|claim| claim.labels().get(RESTORE_NAME_LABEL).is_some_and(|made| made == restore));
        let was_found = outcome.is_some_and(|outcome| outcome.was_found(&path));
        let was_made = !was_found && !outcome.is_some_and(|outcome| outcome.has(&path));
        let is_restored = is_labelled && !was_found;
        let is_others = found.is_some() && !is_restored;
        let has_files = !volume.snapshot_id.is_empty();
        Self {
            path,
            is_bound: phase == Some("Bound"),
            is_restored,
            is_another: is_others && was_made,
            is_foreign: is_others && !was_made && has_files,
        }
    }
}

/// The claims of the backup's `volumes`, of whose kind Velero says that the `restore` came out so.
pub(super) async fn claims(
    velero: &Velero,
    volumes: &[VolumeBackup],
    restore: &str,
    outcome: Option<&KindOutcome>,
) -> Result<Vec<Claim>, StepError> {
    let namespaces: BTreeSet<&str> = volumes.iter().map(|v| v.namespace.as_str()).collect();
    let mut found = BTreeMap::new();
    for namespace in namespaces {
        let listed: Vec<PersistentVolumeClaim> = velero.list_in([namespace], "the claims").await?;
        found.extend(listed.into_iter().map(|claim| (format!("{namespace}/{}", claim.name_any()), claim)));
    }
    let wanted = volumes.iter().filter_map(|v| Some((v, format!("{}/{}", v.namespace, v.claim.as_ref()?))));
    let judged = wanted.map(|(volume, path)| {
        let claim = found.get(&path);
        Claim::judge(volume, path, claim, restore, outcome)
    });
    Ok(judged.collect())
}

/// Refuses to judge a target on which none of the restored claims is left and others have their names, or where Velero
/// has restored into claims of others: restoring again would not go over these, and that they go is for a person to say.
/// Where a restored one is left, others that came since are only told.
pub(super) fn refuse_others(ctx: &StepContext, restore: &str, claims: &[Claim]) -> Result<(), StepError> {
    let that = |is: fn(&Claim) -> bool| -> Vec<String> {
        claims.iter().filter(|claim| is(claim)).map(|claim| claim.path.clone()).collect()
    };
    let again = format!(
        "look before you delete anything; once they and their pods are gone, `migrate resume {} --rerun {}` restores \
         again",
        ctx.run,
        ctx.node.quoted()
    );
    let foreign = that(|claim| claim.is_foreign);
    if !foreign.is_empty() {
        let message =
            format!("restore `{restore}` has restored into claims that others had made: {}", some(&foreign));
        let hint = format!("they may hold what others have written, and the backup's files over it: {again}");
        return Err(StepError::conflict(message).with_hint(hint));
    }
    let others = that(|claim| claim.is_another);
    if others.is_empty() || claims.iter().any(|claim| claim.is_restored) {
        return Ok(());
    }
    let message = format!(
        "none of the claims of restore `{restore}` is left, and others have the names of {}: the data that Velero moved \
         is gone",
        some(&others)
    );
    Err(StepError::conflict(message).with_hint(format!("they may hold what was written since: {again}")))
}

/// Every one of the backup's `claims` is bound on the target, and is the one that was restored. `unbound` are those that
/// were not bound when the restore ended, if one that has gone since is only to be told.
pub(super) fn claim_checks(claims: &[Claim], unbound: Option<&[String]>) -> Vec<Check> {
    let one = |claim: &Claim| {
        let found = if claim.is_bound { "Bound" } else { "not bound" };
        let check = Check::equal(format!("claim {}", claim.path), "phase", "Bound", found);
        if claim.is_foreign {
            let note = "Velero found it there, made by others, and restored into it";
            return Check { status: CheckStatus::Failed, ..check.with_note(note) };
        }
        if claim.is_another {
            let note =
                "another one has its name: the restored one is gone, and with it the data that Velero moved";
            let status = if unbound.is_some() { CheckStatus::Warning } else { CheckStatus::Failed };
            return Check { status, ..check.with_note(note) };
        }
        if claim.is_bound || unbound.is_none_or(|unbound| unbound.contains(&claim.path)) {
            return check;
        }
        Check { status: CheckStatus::Warning, ..check.with_note("bound when the restore ended") }
    };
    claims.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pod: &str, bytes: u64, snapshot_id: &str) -> VolumeBackup {
        VolumeBackup {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            volume: "data".to_owned(),
            claim: None,
            bytes,
            snapshot_id: snapshot_id.to_owned(),
        }
    }

    fn target(pod: &str, bytes: u64) -> VolumeRestore {
        VolumeRestore { namespace: "shop".to_owned(), pod: pod.to_owned(), volume: "data".to_owned(), bytes }
    }

    #[test]
    fn every_volume_must_have_moved_its_bytes() {
        let sources = [source("a", 5, "1"), source("b", 7, "2"), source("c", 9, "3"), source("empty", 0, "")];
        let checks = volume_checks(&sources, &[target("a", 5), target("b", 6)]);
        let failed: Vec<&str> =
            checks.iter().filter(|c| c.status == CheckStatus::Failed).map(|c| c.subject.as_str()).collect();
        assert_eq!(failed, ["volumes", "volume shop/b/data", "volume shop/c/data"]);
        let all = volume_checks(&sources, &[target("a", 5), target("b", 7), target("c", 9)]);
        assert!(
            all.iter().all(|c| c.status == CheckStatus::Passed),
            "an empty volume has nothing to restore"
        );
    }

    #[test]
    fn what_links_may_count_is_a_warning_and_more_a_failure() {
        let status = |backup, restore| {
            let checks = volume_checks(&[source("a", backup, "1")], &[target("a", restore)]);
            checks.into_iter().find(|c| c.what == "bytes").unwrap().status
        };
        assert_eq!(status(7_291_960, 7_291_930), CheckStatus::Warning);
        assert_eq!(status(7_291_930, 7_291_960), CheckStatus::Failed);
        assert_eq!(status(100_000, 98_999), CheckStatus::Failed);
        assert_eq!(status(1 << 30, (1 << 30) - MOST_LINK_BYTES - 1), CheckStatus::Failed);
    }

    #[test]
    fn a_claim_that_the_restore_has_made_is_known_by_its_label() {
        let claim = |labels: serde_json::Value| -> PersistentVolumeClaim {
            let claim =
                serde_json::json!({ "metadata": { "labels": labels }, "status": { "phase": "Bound" } });
            serde_json::from_value(claim).unwrap()
        };
        let judge = |found: Option<&PersistentVolumeClaim>| {
            let claim = Claim::judge(&source("a", 5, "1"), "shop/data".to_owned(), found, "r", None);
            (claim.is_bound, claim.is_restored, claim.is_another)
        };
        let ours = claim(serde_json::json!({ "velero.io/restore-name": "r" }));
        let theirs = claim(serde_json::json!({ "velero.io/restore-name": "other" }));
        assert_eq!(judge(Some(&ours)), (true, true, false));
        assert_eq!(judge(Some(&theirs)), (true, false, true));
        assert_eq!(judge(None), (false, false, false));
        // One that Velero has not made is no other one: it was restored into, if there were files.
        let skipped = KindOutcome { skipped: vec!["shop/data".to_owned()], ..Default::default() };
        let is = |snapshot: &str, found: Option<&PersistentVolumeClaim>| {
            let volume = source("a", 5, snapshot);
            let claim = Claim::judge(&volume, "shop/data".to_owned(), found, "r", Some(&skipped));
            (claim.is_another, claim.is_foreign)
        };
        assert_eq!(is("1", Some(&theirs)), (false, true));
        assert_eq!(is("", Some(&theirs)), (false, false));
        assert_eq!(is("1", Some(&ours)), (false, true), "its label may be on what it found");
        assert_eq!(is("1", None), (false, false));
    }
}
