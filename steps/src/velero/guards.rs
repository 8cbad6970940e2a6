//! What must hold before a restore may start: the target's Velero sees the whole backup, reads its
//! repositories with the source's password, and nothing stands where the data would go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, ResourceExt};
use migrate_plugin_api::{ErrorClass, Progress, StepContext, StepError};
use tokio::time::Instant;

use super::api::{BACKUP_NAME_LABEL, Backup, Restore, Velero, list_all};
use super::follow::{Pace, Patience};
use super::restore::{ImageRename, RestoreConfig};
use super::volumes::{VolumeBackup, backed_up};
use crate::kubernetes::kube_error;

/// Times that a backup which Velero discovered half copied is discovered afresh. The copy is
/// complete by now, so once is enough; twice says that something else is wrong.
const MAX_REPAIRS: u32 = 2;
/// Holds the password of all kopia repositories; made by Velero where it is absent (a constant of its release:
/// pkg/repository/keys/keys.go).
const PASSWORD_SECRET: &str = "velero-repo-credentials";

/// Waits until the target's Velero has discovered the backup with all its volumes, and returns these.
///
/// Velero creates the Backup before it reads the list of its volumes, and never looks again: one
/// that was discovered half copied has no volumes for ever. Deleting the Backup *object* makes it
/// look again; the data stays.
pub(super) async fn wait_for_backup(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    config: &RestoreConfig,
) -> Result<Vec<VolumeBackup>, StepError> {
    let name = &config.backup;
    let mut patience = Patience::new(pace.outage);
    let (mut start, mut seen, mut repairs) = (Instant::now(), None, 0);
    loop {
        let look = async {
            let backup = velero.backup(name).await?;
            Ok((backup, velero.volumes_of_backup(name).await?))
        };
        match patience.bear(pace.in_time(look).await, Instant::now())? {
            None => {}
            Some((None, _)) => {
                seen = None;
                let waited = start.elapsed().as_secs();
                let message = format!("waiting for Velero to discover backup {name}, for {waited} s now");
                ctx.progress(Progress::message(message));
                if start.elapsed() >= pace.sync {
                    return Err(not_discovered(name, pace));
                }
            }
            Some((Some(backup), found)) => {
                let phase = backup.status.clone().unwrap_or_default().phase;
                if phase != "Completed" {
                    return Err(StepError::permanent(format!(
                        "backup `{name}` is {phase} on the target, not Completed"
                    )));
                }
                let found = backed_up(&found);
                let missing = missing_volumes(config.volumes.as_deref().unwrap_or_default(), &found);
                // Where nobody says which volumes there must be, those that Velero is about to create are waited for.
                if missing.is_empty() && (config.volumes.is_some() || !is_new(&backup, pace)) {
                    return Ok(found);
                }
                if missing.is_empty() {
                    ctx.progress(Progress::message(format!("waiting for the volumes of backup {name}")));
                    pace.pause(ctx).await?;
                    continue;
                }
                let since = *seen.get_or_insert_with(Instant::now);
                if since.elapsed() >= pace.volumes {
                    if repairs == MAX_REPAIRS {
                        return Err(half_discovered(name, &missing));
                    }
                    repairs += 1;
                    ctx.warn(format!(
                        "Velero discovered backup `{name}` before it was whole ({} volumes are missing); \
                         deleting its object, not its data, so that it is discovered again",
                        missing.len()
                    ));
                    forget(velero, name).await?;
                    (start, seen) = (Instant::now(), None);
                }
            }
        }
        pace.pause(ctx).await?;
    }
}

/// Whether Velero discovered `backup` so lately that it may be at its volumes still.
fn is_new(backup: &Backup, pace: Pace) -> bool {
    let created = backup.metadata.creation_timestamp.as_ref();
    let until = created.and_then(|created| created.0.checked_add(pace.volumes).ok());
    until.is_some_and(|until| Timestamp::now() < until)
}

/// The volumes of the source that the target doesn't know with the same snapshot.
fn missing_volumes(wanted: &[VolumeBackup], found: &[VolumeBackup]) -> Vec<String> {
    let key = |v: &VolumeBackup| (v.path(), v.snapshot_id.clone());
    let found: BTreeSet<(String, String)> = found.iter().map(key).collect();
    wanted.iter().filter(|v| !found.contains(&key(v))).map(VolumeBackup::path).collect()
}

fn not_discovered(name: &str, pace: Pace) -> StepError {
    let minutes = pace.sync.as_secs() / 60;
    StepError::permanent(format!(
        "the target's Velero hasn't discovered backup `{name}` in {minutes} minutes"
    ))
    .with_hint(
        "is its storage location at the container and prefix to which the backup was copied, and is \
             `velero-backup.json` there?",
    )
}

fn half_discovered(name: &str, missing: &[String]) -> StepError {
    let message =
        format!("the target's Velero doesn't see these volumes of backup `{name}`: {}", missing.join(", "));
    StepError::corrupt(message).with_hint(format!(
        "compare `{name}-podvolumebackups.json.gz` on both sides; verify the copy with `migrate verify --deep`"
    ))
}

/// Deletes the objects of backup `name`, volumes first: while the Backup is there, Velero doesn't
/// look; and volumes that outlive it would be kept from being made again.
async fn forget(velero: &Velero, name: &str) -> Result<(), StepError> {
    let failed = |e| kube_error(format!("failed to delete the objects of backup `{name}`"), e);
    let of_backup = ListParams::default().labels(&format!("{BACKUP_NAME_LABEL}={name}"));
    let volumes = velero.pod_volume_backups();
    volumes.delete_collection(&DeleteParams::default(), &of_backup).await.map_err(failed)?;
    match velero.backups().delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Refuses to restore over what is there: Velero skips existing claims and pods, and moves no data
/// into a pod that already runs.
pub(super) async fn refuse_occupied(velero: &Velero, volumes: &[VolumeBackup]) -> Result<(), StepError> {
    let namespaces: BTreeSet<String> = volumes.iter().map(|v| v.namespace.clone()).collect();
    let mut occupied = Vec::new();
    for (namespace, claims, pods) in inhabitants(velero, namespaces).await? {
        let here = || volumes.iter().filter(|v| v.namespace == namespace);
        let wanted: BTreeSet<&String> = here().filter_map(|v| v.claim.as_ref()).collect();
        occupied
            .extend(claims.iter().filter(|c| wanted.contains(c)).map(|c| format!("claim {namespace}/{c}")));
        let wanted: BTreeSet<&String> = here().map(|v| &v.pod).collect();
        occupied.extend(pods.iter().filter(|p| wanted.contains(p)).map(|p| format!("pod {namespace}/{p}")));
    }
    if occupied.is_empty() { Ok(()) } else { Err(occupied_error(&occupied)) }
}

/// Takes back `restore`, whose turn has not come, where something has come to stand in its way since it was made: Velero
/// would restore into a claim that it finds there.
pub(super) async fn withdraw_if_occupied(
    ctx: &StepContext,
    velero: &Velero,
    config: &RestoreConfig,
    restore: &Restore,
) -> Result<(), StepError> {
    let volumes = match &config.volumes {
        Some(volumes) => volumes.clone(),
        None => backed_up(&velero.volumes_of_backup(&config.backup).await?),
    };
    let occupied = match refuse_occupied(velero, &volumes).await {
        // None of it was there when the restore was made.
        Err(e) if e.class == ErrorClass::Conflict => e.with_hint(
            "others have made them since the restore was, and may have written to them: look before you delete anything; \
             once they are gone, resume makes it again",
        ),
        other => return other,
    };
    let name = restore.name_any();
    let unchanged = Preconditions { resource_version: restore.resource_version(), uid: None };
    match velero.restores().delete(&name, &DeleteParams::default().preconditions(unchanged)).await {
        // A finalizer of Velero's keeps it: the next look tells.
        Ok(answer) if answer.is_left() => Ok(()),
        Ok(_) => {
            ctx.warn(format!("deleted restore `{name}` before its turn: something stands in its way by now"));
            Err(occupied)
        }
        // Gone already, as where the answer to a first deletion was lost.
        Err(kube::Error::Api(status)) if status.code == 404 => Err(occupied),
        // Velero has begun it in between: the next look tells.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(e) => Err(kube_error(format!("failed to delete restore `{name}`"), e)),
    }
}

/// All claims and pods in `namespaces` of the target.
pub(super) async fn occupants(velero: &Velero, namespaces: &[String]) -> Result<Vec<String>, StepError> {
    let mut found = Vec::new();
    for (namespace, claims, pods) in inhabitants(velero, namespaces.iter().cloned().collect()).await? {
        found.extend(claims.iter().map(|c| format!("claim {namespace}/{c}")));
        found.extend(pods.iter().map(|p| format!("pod {namespace}/{p}")));
    }
    Ok(found)
}

/// The error about what stands in the way.
pub(super) fn occupied_error(occupied: &[String]) -> StepError {
    StepError::conflict(format!(
        "the target already has {}: Velero would skip them and move no data",
        occupied.join(", ")
    ))
    .with_hint(
        "they may hold what others have written: look before you delete them, or their namespace, on the target; and the \
         restore that made them, if one did",
    )
}

async fn inhabitants(
    velero: &Velero,
    namespaces: BTreeSet<String>,
) -> Result<Vec<(String, Vec<String>, Vec<String>)>, StepError> {
    let mut found = Vec::new();
    for namespace in namespaces {
        let failed =
            |what: &str, e| kube_error(format!("failed to list the target's {what} in `{namespace}`"), e);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(velero.client.clone(), &namespace);
        let claims = list_all(&claims, "").await.map_err(|e| failed("claims", e))?;
        let pods: Api<Pod> = Api::namespaced(velero.client.clone(), &namespace);
        let pods = list_all(&pods, "").await.map_err(|e| failed("pods", e))?;
        let claims = claims.iter().map(ResourceExt::name_any).collect();
        let pods = pods.iter().map(ResourceExt::name_any).collect();
        found.push((namespace, claims, pods));
    }
    Ok(found)
}

/// Refuses to start when the two Veleros have different repository passwords: every volume would
/// fail with "cipher: message authentication failed" (velero#7613). The values are compared here
/// and go nowhere.
pub(super) async fn refuse_other_password(source: &Velero, target: &Velero) -> Result<(), StepError> {
    let (ours, theirs) = (password(source).await?, password(target).await?);
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => Err(StepError::conflict(format!(
            "secret `{PASSWORD_SECRET}` differs between the clusters, so the target can't read the source's volumes"
        ))
        .with_hint(format!(
            "copy `{PASSWORD_SECRET}` from the source's namespace `{}` to the target's namespace `{}`, delete the \
             target's backuprepositories, and restart its Velero",
            source.namespace, target.namespace
        ))),
        // Where it is absent Velero makes one when it starts; that is for the preflight to see.
        _ => Ok(()),
    }
}

async fn password(velero: &Velero) -> Result<Option<Vec<u8>>, StepError> {
    let api: Api<Secret> = Api::namespaced(velero.client.clone(), &velero.namespace);
    let secret = api.get_opt(PASSWORD_SECRET).await;
    let secret = secret.map_err(|e| kube_error(format!("failed to read secret `{PASSWORD_SECRET}`"), e))?;
    Ok(secret.and_then(|s| s.data).and_then(|mut d| d.remove("repository-password")).map(|v| v.0))
}

/// The rules for Velero's image plugin, or why they can't work. It replaces a substring by the
/// first rule that matches, in random order, so no rule may match where another does.
pub(super) fn image_rules(renames: &[ImageRename]) -> Result<BTreeMap<String, String>, String> {
    for (i, rename) in renames.iter().enumerate() {
        for part in [&rename.from, &rename.to] {
            if part.trim().is_empty() || part.contains(',') {
                return Err(format!("`{part}` is no part of an image name"));
            }
        }
        if let Some(other) =
            renames.iter().enumerate().find(|(j, o)| *j != i && o.from.contains(&rename.from))
        {
            return Err(format!("`{}` and `{}` match the same images", rename.from, other.1.from));
        }
    }
    Ok(renames
        .iter()
        .enumerate()
        .map(|(i, r)| (format!("rule-{i}"), format!("{},{}", r.from, r.to)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(pod: &str, snapshot_id: &str) -> VolumeBackup {
        VolumeBackup {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            volume: "data".to_owned(),
            claim: None,
            bytes: 1,
            snapshot_id: snapshot_id.to_owned(),
        }
    }

    #[test]
    fn a_volume_counts_only_with_its_snapshot() {
        let wanted = [volume("a", "1"), volume("b", "2"), volume("c", "3")];
        let found = [volume("c", "3"), volume("b", "9")];
        assert_eq!(missing_volumes(&wanted, &found), ["shop/a/data", "shop/b/data"]);
        assert!(missing_volumes(&wanted, &wanted).is_empty());
    }

    #[test]
    fn image_rules_must_not_overlap() {
        let rename = |from: &str, to: &str| ImageRename { from: from.to_owned(), to: to.to_owned() };
        let rules = image_rules(&[rename("1.ecr", "x.azurecr.io"), rename("2.ecr", "y")]).unwrap();
        assert_eq!(rules["rule-0"], "1.ecr,x.azurecr.io");
        assert_eq!(rules["rule-1"], "2.ecr,y");
        for bad in [
            &[rename("ecr", "x"), rename("1.ecr", "y")][..],
            &[rename("a", "x"), rename("a", "y")],
            &[rename("a,b", "x")],
            &[rename("a", " ")],
        ] {
            assert!(image_rules(bad).is_err(), "{bad:?}");
        }
    }
}
