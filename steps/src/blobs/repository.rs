//! Velero's repositories of volume data, as they lie in a bucket: what in them names the rest, and whose
//! one is. Nothing in here is decrypted.
//!
//! A repository that is copied while its Velero is at work must not get an index without the packs that
//! it names, or nothing in it can be opened. Kopia writes packs before the index that names them, and
//! deletes a pack an hour after no index names it at the earliest (`SafetyFull` in Kopia's
//! `maintenance_safety.go`). So indexes are copied first, then all the rest, and both again until the
//! bucket has no index that the container lacks.

use migrate_plugin_api::StepError;
use serde::Deserialize;

use super::names::{Part, Phase};
use super::source::{Object, Source};
use super::target::{Blob, Target};

/// Where they lie, each in a folder of its namespace's name.
pub(super) const REPOSITORIES: [&str; 2] = [KOPIA, RESTIC];
const KOPIA: &str = "kopia/";
const RESTIC: &str = "restic/";

/// First characters of the names of Kopia's indexes and of what it notes of their compaction, of both
/// formats (`epoch_manager.go`, `index_blob_manager_v0.go`).
const KOPIA_INDEXES: [char; 4] = ['l', 'm', 'n', 'x'];
const RESTIC_INDEXES: &str = "index/";

/// What a repository is made with: its keys, its ID.
const KOPIA_FORMAT: &str = "kopia.repository";
const RESTIC_FORMAT: &str = "config";
/// Some hundred bytes of JSON, really.
const MAX_FORMAT_BYTES: u64 = 64 << 10;

/// Times the repositories are gone through in one attempt.
pub(super) const MAX_ROUNDS: u32 = 8;

/// Which part of a repository `key` is; `None` if it is in none.
pub(super) fn part(key: &str) -> Option<Part> {
    let kind = REPOSITORIES.into_iter().find(|kind| key.starts_with(kind))?;
    let name = key[kind.len()..].split_once('/').map(|(_, name)| name);
    Some(match (kind, name) {
        (KOPIA, Some(KOPIA_FORMAT)) | (RESTIC, Some(RESTIC_FORMAT)) => Part::Formats,
        (KOPIA, Some(name)) if name.starts_with(KOPIA_INDEXES) => Part::Indexes,
        (RESTIC, Some(name)) if name.starts_with(RESTIC_INDEXES) => Part::Indexes,
        _ => Part::Packs,
    })
}

/// Prefixes that hold all of the phase's part and little else: packs are many.
///
/// # Errors
/// When the bucket can't be asked which repositories it has.
pub(super) async fn scopes(source: &Source, phase: &Phase) -> Result<Vec<String>, StepError> {
    if !phase.part.names_others() {
        return Ok(phase.scopes.clone());
    }
    let mut narrow = Vec::new();
    for scope in &phase.scopes {
        let Some(kind) = REPOSITORIES.into_iter().find(|kind| scope.starts_with(kind)) else {
            narrow.push(scope.clone());
            continue;
        };
        match scope[kind.len()..].split_once('/') {
            Some((_, "")) => narrow.extend(within(kind, scope, phase.part)),
            Some(_) => narrow.push(scope.clone()),
            None => match folders(source, kind, scope).await? {
                Some(folders) => folders.iter().for_each(|f| narrow.extend(within(kind, f, phase.part))),
                None => narrow.push(scope.clone()),
            },
        }
    }
    Ok(narrow)
}

/// The repositories whose folder starts with `scope`: a question each. `None` of a bucket that can't be
/// asked for what comes behind a key (S3 directory buckets).
async fn folders(source: &Source, kind: &str, scope: &str) -> Result<Option<Vec<String>>, StepError> {
    let (mut folders, mut after) = (Vec::new(), String::new());
    while let Some(key) = source.next_key(scope, &after).await? {
        if key <= after {
            return Ok(None);
        }
        after = match key[kind.len()..].find('/') {
            Some(at) => {
                let end = kind.len() + at;
                folders.push(key[..=end].to_owned());
                // Right behind all keys of the folder.
                format!("{}0", &key[..end])
            }
            None => key,
        };
    }
    Ok(Some(folders))
}

fn within(kind: &str, folder: &str, part: Part) -> Vec<String> {
    match (kind, part) {
        (KOPIA, Part::Formats) => vec![format!("{folder}{KOPIA_FORMAT}")],
        (KOPIA, _) => KOPIA_INDEXES.iter().map(|first| format!("{folder}{first}")).collect(),
        (_, Part::Formats) => vec![format!("{folder}{RESTIC_FORMAT}")],
        (..) => vec![format!("{folder}{RESTIC_INDEXES}")],
    }
}

/// Which phase follows the one at `at`. `again`: the repositories were gone through once. `copied`: how
/// much was copied in the phase; `None` if an earlier process may have copied some of it.
pub(super) fn next(phases: &[Phase], at: usize, again: &mut bool, copied: Option<u64>) -> usize {
    match phases[at].part {
        Part::Indexes if *again && copied == Some(0) => at + 2,
        Part::Packs => {
            *again = true;
            at - 1
        }
        _ => at + 1,
    }
}

/// Said when that does not end.
pub(super) fn restless() -> StepError {
    StepError::transient(format!(
        "the volume data changed each of the {MAX_ROUNDS} times that it was copied, so no copy of it is whole"
    ))
    .with_hint(
        "pause the source's Velero schedules (`velero schedule pause`) and let its repository maintenance end, \
         then `migrate resume`",
    )
}

/// The blob of an object's name, as the two listings have it; of a format, which must not be put over
/// another, by its name where they have none, since the two sides may list in other orders.
pub(super) async fn beside(
    target: &Target,
    phase: &Phase,
    object: &Object,
    listed: Option<Blob>,
) -> Result<Option<Blob>, StepError> {
    if listed.is_none() && phase.part == Part::Formats { target.head(&object.key).await } else { Ok(listed) }
}

/// Kopia's format file, of which this much is not encrypted.
#[derive(Deserialize)]
struct Format {
    #[serde(rename = "uniqueID")]
    unique_id: String,
}

/// Refuses to put the format of one repository over that of another: neither could be opened then.
///
/// # Errors
/// When the blob is of another repository, or can't be told to be of the same; and when one can't be read.
pub(super) async fn check_same(
    source: &Source,
    target: &Target,
    object: &Object,
    blob: &Blob,
) -> Result<(), StepError> {
    let ours = async {
        if object.size > MAX_FORMAT_BYTES || blob.size > MAX_FORMAT_BYTES {
            return Ok::<_, StepError>(false);
        }
        let here = source.range(object, 0, object.size).await?.pieces.concat();
        let there = target.range(blob, 0, blob.size).await?;
        let id = |bytes: &[u8]| serde_json::from_slice::<Format>(bytes).ok().map(|f| f.unique_id);
        Ok(here == there[..] || id(&here).is_some_and(|id_here| id(&there) == Some(id_here)))
    };
    if ours.await? {
        return Ok(());
    }
    let folder = &object.key[..=object.key.rfind('/').unwrap_or(0)];
    Err(StepError::permanent(format!(
        "the container holds another repository of volume data at `{folder}`; with this one copied over it, \
         neither could be opened"
    ))
    .with_hint(format!(
        "give the target's backup location another `prefix`, or delete what is below `{folder}` there if nobody \
         needs its backups"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_rest_is_told_from_it() {
        for (key, is) in [
            ("kopia/shop/kopia.repository", Some(Part::Formats)),
            ("restic/shop/config", Some(Part::Formats)),
            ("kopia/shop/xn0_1f-s1-c1", Some(Part::Indexes)),
            ("kopia/shop/n1f", Some(Part::Indexes)),
            ("restic/shop/index/1f", Some(Part::Indexes)),
            ("kopia/shop/p1f", Some(Part::Packs)),
            ("kopia/xy/q1f", Some(Part::Packs)),
            ("kopia/shop/kopia.blobcfg", Some(Part::Packs)),
            ("restic/shop/data/1f/x", Some(Part::Packs)),
            ("kopia/x", Some(Part::Packs)),
            ("backups/b/kopia.repository", None),
        ] {
            assert_eq!(part(key), is, "{key}");
        }
    }
}
