//! The claims that were bound when a backup was asked for, noted on the Backup: Velero may come to it hours later, and
//! of a claim that goes before, neither the backup nor the source tells anything.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kube::ResourceExt;
use migrate_plugin_api::StepError;

use super::api::Backup;
use super::files::MAX_FILE_BYTES;
use super::volumes::BoundClaim;

/// On a Backup: the paths of the claims, a line each, packed by gzip, in base64.
const CLAIMS_ANNOTATION: &str = "migrate-claims";
/// An API server takes 256 KiB of annotations in all, of which Velero's own need few. Thousands of claims fit.
const MAX_NOTED_BYTES: usize = 192 << 10;

/// Notes `claims` on `backup`. Those that come and go with a pod, or are being deleted, are not missed once they are gone.
///
/// # Errors
/// Where they are too many: a claim that can't be noted could go unseen.
pub(super) fn note(backup: &mut Backup, claims: &[BoundClaim]) -> Result<(), StepError> {
    let stays = |claim: &&BoundClaim| !claim.is_of_pod && !claim.is_going;
    let paths: Vec<String> = claims.iter().filter(stays).map(BoundClaim::path).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    let packed = packer.write_all(paths.join("\n").as_bytes()).and_then(|()| packer.finish());
    let packed = packed.map_err(|e| StepError::permanent(format!("failed to pack names of claims: {e}")))?;
    let text = BASE64.encode(packed);
    if text.len() > MAX_NOTED_BYTES {
        let message = format!("{} claims are more than can be noted on one backup", paths.len());
        return Err(StepError::permanent(message).with_hint("back up fewer namespaces at once"));
    }
    backup.annotations_mut().insert(CLAIMS_ANNOTATION.to_owned(), text);
    Ok(())
}

/// The paths of the claims that are noted on `backup`; none where an earlier version has made it.
///
/// # Errors
/// Where it isn't what was written.
pub(super) fn noted(backup: &Backup) -> Result<Vec<String>, StepError> {
    let Some(text) = backup.annotations().get(CLAIMS_ANNOTATION) else { return Ok(Vec::new()) };
    let failed = |why: String| {
        let name = backup.name_any();
        StepError::corrupt(format!(
            "annotation `{CLAIMS_ANNOTATION}` of backup `{name}` can't be read: {why}"
        ))
    };
    let packed = BASE64.decode(text).map_err(|e| failed(e.to_string()))?;
    let mut paths = String::new();
    let read = GzDecoder::new(&packed[..]).take(MAX_FILE_BYTES).read_to_string(&mut paths);
    read.map_err(|e| failed(e.to_string()))?;
    Ok(paths.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    fn claim(name: &str, is_of_pod: bool) -> BoundClaim {
        BoundClaim {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            volume: String::new(),
            is_block: false,
            goes_along: true,
            is_of_pod,
            is_going: false,
            created: None,
        }
    }

    fn backup() -> Backup {
        let object = json!({ "apiVersion": "velero.io/v1", "kind": "Backup", "metadata": { "name": "b1" }, "spec": {} });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn claims_are_read_as_they_were_noted_unless_they_come_and_go_with_a_pod_or_are_being_deleted() {
        let mut made = backup();
        let going = BoundClaim { is_going: true, ..claim("old", false) };
        note(&mut made, &[claim("data", false), claim("web-1-scratch", true), going, claim("logs", false)])
            .unwrap();
        assert_eq!(noted(&made).unwrap(), ["shop/data", "shop/logs"]);
        assert_eq!(noted(&backup()).unwrap(), [] as [String; 0]);
        made.annotations_mut().insert(CLAIMS_ANNOTATION.to_owned(), "none of ours".to_owned());
        let error = noted(&made).unwrap_err();
        assert!(
            error.message.starts_with("annotation `migrate-claims` of backup `b1` can't be read"),
            "{error}"
        );
    }

    #[test]
    fn more_claims_than_can_be_noted_are_refused() {
        // Names as bad to pack as those of provisioners.
        let mut digits = String::new();
        let mut state = 1_u64;
        let mut name = || {
            digits.clear();
            for _ in 0..2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                write!(digits, "{state:016x}").unwrap();
            }
            claim(&format!("pvc-{digits}"), false)
        };
        let claims: Vec<BoundClaim> = (0..5000).map(|_| name()).collect();
        let mut made = backup();
        note(&mut made, &claims).unwrap();
        assert_eq!(noted(&made).unwrap().len(), 5000);
        let claims: Vec<BoundClaim> = (0..20_000).map(|_| name()).collect();
        let error = note(&mut made, &claims).unwrap_err();
        assert_eq!(error.message, "20000 claims are more than can be noted on one backup");
    }
}
