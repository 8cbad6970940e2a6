//! What the evidence of `velero.backup` says beside its phase: what was known when it was made, and whether all that the
//! source has is in it.

use migrate_plugin_api::{Check, CheckStatus, StepError};

use super::api::{BackupStatus, Velero};
use super::backup::{BackupConfig, BackupOutputs};
use super::compare::some;
use super::inventory::omitted;

/// What is known of the backup without looking at it.
pub(super) fn recorded(config: &BackupConfig, outputs: &BackupOutputs, left_out: &[String]) -> Vec<Check> {
    let subject = format!("backup {}", outputs.backup);
    let of_claim = |claim: &String| {
        let status = if config.allow_unmounted { CheckStatus::Warning } else { CheckStatus::Failed };
        Check { status, ..Check::equal(format!("claim {claim}"), "data", "bound", "not in the backup") }
    };
    let mut checks: Vec<Check> = left_out.iter().map(of_claim).collect();
    if outputs.objects.is_empty() {
        checks.push(Check {
            status: CheckStatus::Warning,
            ..Check::equal(&subject, "list of objects", "read", "can't be read from here")
        });
    }
    checks.extend(outputs.remarks.iter().chain(&outputs.warnings).map(|text| warning(&subject, text)));
    checks
}

/// Everything the source has had since before the backup is in it.
pub(super) async fn inventory_check(
    config: &BackupConfig,
    velero: &Velero,
    outputs: &BackupOutputs,
    status: &BackupStatus,
) -> Result<Check, StepError> {
    let started = status.start_timestamp.as_ref();
    let ignore = &config.ignore_kinds;
    let omitted = omitted(&velero.client, &config.namespaces, &outputs.objects, ignore, started).await?;
    let check = Check::equal("source", "objects not in the backup", "0", omitted.len().to_string());
    Ok(if omitted.is_empty() { check } else { check.with_note(some(&omitted)) })
}

/// A warning of Velero's as a line of evidence.
pub(super) fn warning(subject: &str, text: &str) -> Check {
    Check { status: CheckStatus::Warning, ..Check::equal(subject, "warning", "none", "one").with_note(text) }
}
