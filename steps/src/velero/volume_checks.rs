//! What a restore's volumes must show: as many as were backed up, with their bytes, and their claims bound.

use migrate_plugin_api::{Check, CheckStatus, StepError};

use super::api::Velero;
use super::volumes::{BoundClaim, VolumeBackup, VolumeRestore, claims_and_pods};

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

/// `NAMESPACE/NAME` of the claims of the backup's `volumes`, with whether each is bound on the target.
pub(super) async fn claims(
    velero: &Velero,
    volumes: &[VolumeBackup],
) -> Result<Vec<(String, bool)>, StepError> {
    let mut namespaces: Vec<String> = volumes.iter().map(|v| v.namespace.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    let (bound, _) = claims_and_pods(velero, &namespaces).await?;
    let bound: Vec<String> = bound.iter().map(BoundClaim::path).collect();
    let wanted = volumes.iter().filter_map(|v| Some(format!("{}/{}", v.namespace, v.claim.as_ref()?)));
    Ok(wanted.map(|claim| (claim.clone(), bound.contains(&claim))).collect())
}

/// Every one of the backup's `claims` is bound on the target. `unbound` are those that were not when the restore ended,
/// if one that has gone since is only to be told.
pub(super) fn claim_checks(claims: &[(String, bool)], unbound: Option<&[String]>) -> Vec<Check> {
    let one = |(claim, is_bound): &(String, bool)| {
        let found = if *is_bound { "Bound" } else { "not bound" };
        let check = Check::equal(format!("claim {claim}"), "phase", "Bound", found);
        if *is_bound || unbound.is_none_or(|unbound| unbound.contains(claim)) {
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
}
