//! What `velero.restore` says of a target that people have gone on with, and of one whose volumes nobody has named.

use migrate_plugin_api::{CheckStatus, ErrorClass, Evidence, Step, VerifyDepth};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::target::{restore_config, target};
use super::*;

const CONFIG_MAP: &str = "/api/v1/namespaces/shop/configmaps/settings";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0";
const SPARE: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/spare";
const POD: &str = "/api/v1/namespaces/shop/pods/db-0";
const ANOTHER: &str =
    "another one has its name: the restored one is gone, and with it the data that Velero moved";

fn failed(evidence: &Evidence) -> Vec<&str> {
    evidence.failures().map(|check| check.subject.as_str()).collect()
}

fn warned(evidence: &Evidence) -> Vec<(&str, &str)> {
    let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
    warned.map(|check| (check.subject.as_str(), check.note.as_deref().unwrap())).collect()
}

/// A config with a second claim `spare`, which the restore makes too.
fn with_a_spare(cluster: &Cluster) -> Value {
    let mut config = restore_config(cluster);
    let empty = json!({ "namespace": "shop", "pod": "db-0", "volume": "spare", "claim": "spare", "bytes": 0,
        "snapshot-id": "" });
    config["volumes"].as_array_mut().unwrap().push(empty);
    let mut volume = cluster.lock().objects[&format!("{VELERO}/podvolumebackups/p1")].clone();
    volume["spec"]["volume"] = json!("spare");
    volume["status"]["snapshotID"] = json!("");
    cluster.lock().put(&format!("{VELERO}/podvolumebackups/p2"), volume);
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/restores/") {
            let spare = state.objects[CLAIM].clone();
            state.put(SPARE, spare);
        }
    }));
    config
}

#[tokio::test]
async fn what_was_deleted_after_a_restore_is_told_and_not_restored_again() {
    let cluster = target().await;
    let (_, ctx) = context();
    let config = with_a_spare(&cluster);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    let verified = async |depth| restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
    cluster.lock().objects.remove(CONFIG_MAP);
    cluster.lock().objects.remove(CLAIM);
    cluster.lock().objects.remove(&format!("{VELERO}/restores/{KEY}"));
    let quick = verified(VerifyDepth::Quick).await;
    assert_eq!(failed(&quick), [] as [&str; 0]);
    assert_eq!(
        warned(&quick),
        [
            (
                format!("restore {KEY}").as_str(),
                "it was deleted; what it did is recorded. `migrate resume test-run --rerun node` restores again"
            ),
            ("claim shop/data-db-0", "bound when the restore ended"),
            ("v1/ConfigMap", "there when the restore ended, and gone now: shop/settings"),
        ]
    );
    let deep = verified(VerifyDepth::Deep).await;
    assert_eq!(failed(&deep), [format!("restore {KEY}").as_str(), "claim shop/data-db-0", "v1/ConfigMap"]);
    // With the last claim all data is gone.
    cluster.lock().objects.remove(SPARE);
    let quick = verified(VerifyDepth::Quick).await;
    assert_eq!(failed(&quick), ["claim shop/data-db-0", "claim shop/spare"]);
    // A target that was emptied is to be filled again.
    cluster.lock().objects.remove(POD);
    let quick = verified(VerifyDepth::Quick).await;
    assert_eq!(failed(&quick), ["claim shop/data-db-0", "claim shop/spare", "v1/ConfigMap"]);
    cluster.finish();
}

#[tokio::test]
async fn what_others_have_made_in_its_place_is_no_restored_data() {
    let cluster = target().await;
    let (_, ctx) = context();
    let config = restore_config(&cluster);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    let verified = async |depth| restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
    // The namespace was deleted, and an operator has made the claim and its pod anew, for empty disks.
    cluster.lock().put(CLAIM, claim("Bound", "premium"));
    cluster.lock().put(POD, pod());
    let evidence = verified(VerifyDepth::Deep).await;
    assert_eq!(failed(&evidence), ["claim shop/data-db-0"]);
    assert_eq!(evidence.failures().next().unwrap().note.as_deref(), Some(ANOTHER));
    // The engine would restore again, which would be refused with the advice to delete them.
    let refused =
        async || restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap_err();
    let error = refused().await;
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(
        error.message,
        format!(
            "none of the claims of restore `{KEY}` is left, and others have the names of shop/data-db-0: the data that \
             Velero moved is gone"
        )
    );
    assert!(error.hint.unwrap().starts_with("they may hold what was written since: look before you delete"));
    cluster.lock().put(CLAIM, claim("Pending", "premium"));
    cluster.lock().objects.remove(CONFIG_MAP);
    cluster.lock().objects.remove(&format!("{VELERO}/restores/{KEY}"));
    assert_eq!(refused().await.class, ErrorClass::Conflict);
    cluster.finish();
}

/// A replica that was made anew fills itself from those that were restored: all data is there, and nothing of it must go
/// for another restore.
#[tokio::test]
async fn a_claim_that_was_replaced_beside_restored_ones_is_told() {
    let cluster = target().await;
    let (_, ctx) = context();
    let config = with_a_spare(&cluster);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    let verified = async |depth| restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
    for phase in ["Bound", "Pending"] {
        cluster.lock().put(SPARE, claim(phase, "premium"));
        let quick = verified(VerifyDepth::Quick).await;
        assert_eq!((failed(&quick), warned(&quick)), (vec![], vec![("claim shop/spare", ANOTHER)]));
        assert_eq!(failed(&verified(VerifyDepth::Deep).await), ["claim shop/spare"]);
    }
    cluster.finish();
}

/// Velero was at another restore for hours, in which somebody has made the claim and filled it.
#[tokio::test]
async fn a_claim_that_velero_had_not_made_is_no_restored_data_either() {
    // Under `existing-resource-policy = "update"` Velero puts its label also on what it finds.
    for (outcome, is_labelled) in
        [("failed", false), ("skipped", false), ("failed", true), ("skipped", true), ("updated", true)]
    {
        let cluster = target().await;
        let (_, ctx) = context();
        let mut config = restore_config(&cluster);
        config["objects"]["v1/PersistentVolumeClaim"] = json!(["shop/data-db-0"]);
        let list = json!({ "v1/Pod": ["shop/db-0(created)"], "v1/ConfigMap": ["shop/settings(created)"],
            "v1/PersistentVolumeClaim": [format!("shop/data-db-0({outcome})")] });
        cluster.lock().put_file("RestoreResourceList", KEY, &list);
        let mut theirs = claim("Bound", "premium");
        if is_labelled {
            config["existing-resource-policy"] = json!("update");
            theirs["metadata"]["labels"] = json!({ "velero.io/restore-name": KEY });
        }
        let made = cluster.lock().on_create.take().unwrap();
        cluster.lock().on_create = Some(Box::new(move |state, path| {
            made(state, path);
            if path.contains("/restores/") {
                state.put(CLAIM, theirs.clone());
                state.scripts.insert(path.to_owned(), vec![json!({ "phase": "Completed" })]);
            }
        }));
        let outputs = restore_step().apply(&ctx, &config).await.unwrap();
        let deep = restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap();
        assert_eq!(failed(&deep), ["claim shop/data-db-0"], "{outcome}");
        let note = "Velero found it there, made by others, and restored into it";
        assert_eq!(deep.failures().next().unwrap().note.as_deref(), Some(note));
        // The engine would restore again, which would be refused with the advice to delete it.
        let error = restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Conflict);
        assert_eq!(
            error.message,
            format!("restore `{KEY}` has restored into claims that others had made: shop/data-db-0")
        );
        assert!(error.hint.unwrap().starts_with("they may hold what others have written"));
        cluster.finish();
    }
}

/// A target on which somebody makes the claim while the restore, which is made, waits for its turn.
async fn taken_before_its_turn() -> Cluster {
    let cluster = target().await;
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/restores/") {
            state.objects.get_mut(path).unwrap()["metadata"]["resourceVersion"] = json!("1");
            state.put(CLAIM, claim("Bound", "premium"));
            let phase = |phase: &str| json!({ "phase": phase });
            state.scripts.insert(path.to_owned(), vec![json!({}), phase("New"), phase("Completed")]);
        }
    }));
    cluster
}

#[tokio::test]
async fn a_restore_whose_way_is_taken_before_its_turn_is_taken_back_unless_velero_has_begun_it() {
    for has_begun in [false, true] {
        let cluster = taken_before_its_turn().await;
        let (_, ctx) = context();
        let config = restore_config(&cluster);
        let restore = format!("{VELERO}/restores/{KEY}");
        let begun = restore.clone();
        cluster.lock().on_list = Some(Box::new(move |state, path| {
            if path.ends_with("/shop/pods")
                && has_begun
                && let Some(restore) = state.objects.get_mut(&begun)
            {
                restore["metadata"]["resourceVersion"] = json!("2");
            }
        }));
        let result = restore_step().apply(&ctx, &config).await;
        assert_eq!(cluster.lock().objects.contains_key(&restore), has_begun);
        if has_begun {
            result.unwrap();
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.class, ErrorClass::Conflict);
            assert!(error.message.starts_with("the target already has claim shop/data-db-0"), "{error}");
            let hint = error.hint.unwrap();
            assert!(hint.starts_with("others have made them since the restore was, and may have"), "{hint}");
            assert!(hint.contains("look before you delete anything"), "{hint}");
        }
        cluster.finish();
    }
}

/// What is found on the target then is of others, and all that there is of it.
#[tokio::test]
async fn a_restore_that_is_gone_before_its_turn_is_not_said_to_have_made_anything() {
    // Done and repeated; the answer lost; a finalizer that keeps it for a moment.
    for answer in [404, 500, 200] {
        let cluster = taken_before_its_turn().await;
        let (_, ctx) = context();
        let config = restore_config(&cluster);
        cluster.lock().delete_answer = Some(answer);
        let error = restore_step().apply(&ctx, &config).await.unwrap_err();
        let in_the_way = "the target already has claim shop/data-db-0, pod shop/db-0";
        let said = if answer == 404 { in_the_way } else { "restore `node-0000000000` was deleted before" };
        assert!(error.message.starts_with(said), "{answer}: {error}");
        let hint = error.hint.unwrap().replace("look before you delete anything", "");
        assert!(!hint.contains("delete"), "{answer}: {hint}");
        // Going on restores over nothing.
        let error = restore_step().apply(&ctx, &config).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Conflict);
        assert!(error.message.starts_with(in_the_way), "{error}");
        let hint = error.hint.unwrap();
        assert!(
            hint.starts_with("they may hold what others have written: look before you delete them"),
            "{hint}"
        );
        cluster.finish();
    }
}

#[tokio::test]
async fn what_was_missing_when_the_restore_ended_stays_missing() {
    let cluster = target().await;
    let (_, ctx) = context();
    let mut config = restore_config(&cluster);
    config["objects"]["v1/ConfigMap"] = json!(["shop/settings", "shop/never"]);
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/restores/") {
            state.objects.get_mut(CLAIM).unwrap()["status"]["phase"] = json!("Pending");
        }
    }));
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["missing"], json!(["v1/ConfigMap shop/never"]));
    assert_eq!(outputs["unbound"], json!(["shop/data-db-0"]));
    let quick = restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert_eq!(failed(&quick), ["claim shop/data-db-0", "v1/ConfigMap"]);
    cluster.finish();
}

/// Without `volumes`.
fn unnamed(cluster: &Cluster) -> Value {
    let mut config = restore_config(cluster);
    config.as_object_mut().unwrap().remove("volumes");
    config
}

#[tokio::test]
async fn volumes_that_nobody_names_are_asked_of_the_targets_velero() {
    let cluster = target().await;
    let (_, ctx) = context();
    let config = unnamed(&cluster);
    cluster.lock().put(CLAIM, claim("Bound", "premium"));
    let error = restore_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert!(error.message.starts_with("the target already has claim shop/data-db-0:"), "{}", error.message);
    assert!(cluster.writes().is_empty(), "nothing is restored");

    cluster.lock().objects.remove(CLAIM);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["backup-volumes"][0]["claim"], "data-db-0");
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
        assert!(evidence.checks.iter().all(|check| check.status == CheckStatus::Passed), "{evidence:?}");
        let compared = evidence.checks.iter().find(|check| check.subject == "volume shop/db-0/data").unwrap();
        assert_eq!((&*compared.source, &*compared.target), ("20", "20"));
    }
    cluster.finish();
}

#[tokio::test]
async fn volumes_of_a_backup_just_discovered_are_waited_for() {
    let cluster = target().await;
    let (host, ctx) = context();
    let path = format!("{VELERO}/podvolumebackups/p1");
    let volume = cluster.lock().objects.remove(&path).unwrap();
    cluster.lock().objects.get_mut(&format!("{VELERO}/backups/b1")).unwrap()["metadata"]["creationTimestamp"] =
        json!(jiff::Timestamp::now().to_string());
    cluster.lock().put(CLAIM, claim("Bound", "premium"));
    let config = unnamed(&cluster);
    // Velero creates them a moment after the backup.
    let creates = async {
        while host.recorded().progress.is_empty() {
            tokio::task::yield_now().await;
        }
        cluster.lock().put(&path, volume);
    };
    let step = Typed(VeleroRestore::at(Pace { volumes: Duration::from_secs(2), ..pace() }));
    let (result, ()) = tokio::join!(step.apply(&ctx, &config), creates);
    assert_eq!(result.unwrap_err().class, ErrorClass::Conflict);
    cluster.finish();
}
