//! `velero.restore` and `storage-class.map`.

use migrate_plugin_api::{CheckStatus, ErrorClass, Severity, Step, Typed, VerifyDepth};
use serde_json::{Value, json};

use super::cluster::{Cluster, State};
use super::*;
use crate::velero::storage_class::StorageClassMap;

/// A target whose Velero has discovered the backup, and will complete a restore of it.
pub(super) async fn target() -> Cluster {
    let cluster = cluster("ReadOnly").await;
    let mut state = cluster.lock();
    discover(&mut state, true);
    state.put("/apis/storage.k8s.io/v1/storageclasses/premium", json!({ "provisioner": "p" }));
    let list = json!({ "v1/Pod": ["shop/db-0(created)"], "v1/ConfigMap": ["shop/settings(created)"] });
    state.put_file("RestoreResourceList", KEY, &list);
    state.on_create = Some(Box::new(|state, path| {
        if path == format!("{VELERO}/restores/{KEY}") {
            let mut bound = claim("Bound", "premium");
            bound["metadata"]["labels"] = labels();
            state.put("/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0", bound);
            state.put(
                "/api/v1/namespaces/shop/configmaps/settings",
                json!({ "metadata": { "labels": labels() } }),
            );
            let mut restored = pod();
            restored["metadata"] = json!({ "labels": labels() });
            state.put("/api/v1/namespaces/shop/pods/db-0", restored);
            state.put(
                &format!("{VELERO}/podvolumerestores/r1"),
                json!({ "metadata": { "labels": labels() }, "spec": { "pod": { "namespace": "shop", "name": "db-0" },
                    "volume": "data", "snapshotID": "k1" },
                    "status": { "phase": "Completed", "progress": { "totalBytes": 20, "bytesDone": 20 } } }),
            );
            let script = vec![
                json!({}),
                json!({ "phase": "InProgress", "progress": { "totalItems": 3, "itemsRestored": 1 } }),
                json!({ "phase": "Completed", "progress": { "totalItems": 3, "itemsRestored": 3 } }),
            ];
            state.scripts.insert(path.to_owned(), script);
        }
    }));
    drop(state);
    cluster
}

fn labels() -> Value {
    json!({ "velero.io/restore-name": KEY, "velero.io/backup-name": "b1" })
}

fn discover(state: &mut State, whole: bool) {
    let completed = json!({ "spec": {}, "status": { "phase": "Completed" } });
    state.put(&format!("{VELERO}/backups/b1"), completed);
    if whole {
        let mut volume = pod_volume_backup("Completed", 20);
        volume["metadata"]["labels"]["velero.io/backup-name"] = json!("b1");
        state.put(&format!("{VELERO}/podvolumebackups/p1"), volume);
    }
}

pub(super) fn restore_config(cluster: &Cluster) -> Value {
    json!({
        "cluster": cluster.reference(), "backup": "b1",
        "objects": { "v1/ConfigMap": ["shop/settings"], "v1/Pod": ["shop/db-0"], "v1/Endpoints": ["shop/db"] },
        "volumes": [{ "namespace": "shop", "pod": "db-0", "volume": "data", "claim": "data-db-0", "bytes": 20,
            "snapshot-id": "k1" }],
        "rename-images": [{ "from": "1.ecr.example", "to": "x.azurecr.example" }],
    })
}

#[tokio::test]
async fn a_restore_is_created_once_followed_and_compared() {
    let cluster = target().await;
    let (host, ctx) = context();
    let config = restore_config(&cluster);
    assert_eq!(restore_step().plan(&ctx, &config).await.unwrap().problems, []);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(
        outputs,
        json!({
            "restore": KEY, "warnings": [], "errors": [], "missing": [], "lone-pods": { "shop/db-0": "stays" }, "not-compared": ["v1/Endpoints 1 (made again from its Service)"], "outcomes":
                { "v1/Endpoints": { "untouched": ["shop/db"] } },
            "objects": { "v1/ConfigMap": 1, "v1/Pod": 1 },
            "volumes": [{ "namespace": "shop", "pod": "db-0", "volume": "data", "bytes": 20 }],
        })
    );
    assert_eq!(host.recorded().handles, [KEY]);
    assert_eq!(restore_step().apply(&ctx, &config).await.unwrap(), outputs);
    let config_map = "/api/v1/namespaces/velero/configmaps/migrate-change-image-name";
    assert_eq!(cluster.writes(), [format!("PATCH {config_map}"), format!("POST {VELERO}/restores")]);
    let written = cluster.lock().objects[config_map].clone();
    assert_eq!(written["data"], json!({ "rule-0": "1.ecr.example,x.azurecr.example" }));
    assert_eq!(written["metadata"]["labels"]["velero.io/plugin-config"], "");
    assert_eq!(written["metadata"]["labels"]["velero.io/change-image-name"], "RestoreItemAction");
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:?}");
        assert!(evidence.checks.iter().all(|c| c.status == CheckStatus::Passed));
    }
    // A restored object and a claim that are gone are named.
    cluster.lock().objects.remove("/api/v1/namespaces/shop/configmaps/settings");
    cluster.lock().objects.remove("/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0");
    let evidence = restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap();
    let failed: Vec<&str> = evidence.failures().map(|c| c.subject.as_str()).collect();
    assert_eq!(failed, ["claim shop/data-db-0", "v1/ConfigMap"]);
    cluster.finish();
}

#[tokio::test]
async fn what_is_lost_after_a_restore_is_missing_also_if_velero_had_skipped_it_or_it_is_a_pod() {
    let cluster = target().await;
    let (_, ctx) = context();
    let mut config = restore_config(&cluster);
    config["objects"]["v1/ConfigMap"] = json!(["shop/settings", "shop/same", "shop/discarded"]);
    config["objects"]["apps/v1/StatefulSet"] = json!(["shop/web"]);
    config["objects"]["v1/Pod"] = json!(["shop/db-0", "shop/web-0"]);
    let same = "/api/v1/namespaces/shop/configmaps/same";
    {
        let mut state = cluster.lock();
        state.put(same, json!({}));
        state.put("/apis/apps/v1/namespaces/shop/statefulsets/web", json!({}));
        let list = json!({ "v1/Pod": ["shop/db-0(created)", "shop/web-0(created)"],
            "apps/v1/StatefulSet": ["shop/web(created)"],
            "v1/ConfigMap": ["shop/settings(created)", "shop/same(skipped)", "shop/discarded(skipped)"] });
        state.put_file("RestoreResourceList", KEY, &list);
    }
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(
        outputs["outcomes"]["v1/ConfigMap"],
        json!({ "skipped": ["shop/same", "shop/discarded"], "discarded": ["shop/discarded"] })
    );
    assert_eq!(outputs["lone-pods"], json!({ "shop/db-0": "stays" }));
    let verified_at =
        async |outputs: &Value, depth| restore_step().verify(&ctx, &config, outputs, depth).await.unwrap();
    let verified = async |outputs: &Value| verified_at(outputs, VerifyDepth::Deep).await;
    assert!(verified(&outputs).await.passed());
    cluster.lock().objects.remove(same);
    cluster.lock().objects.remove("/api/v1/namespaces/shop/pods/db-0");
    let evidence = verified(&outputs).await;
    let failed: Vec<_> =
        evidence.failures().map(|c| (c.subject.as_str(), c.note.as_deref().unwrap())).collect();
    assert_eq!(
        failed,
        [
            ("v1/ConfigMap", "missing: shop/same; discarded by a plugin of Velero's: shop/discarded"),
            ("v1/Pod", "missing: shop/db-0; replaced since by its controller: shop/web-0"),
        ]
    );
    // A quick look has nothing restored again for it.
    let quick = verified_at(&outputs, VerifyDepth::Quick).await;
    assert!(quick.passed(), "{quick:?}");
    let note = "there when the restore ended, and gone now: shop/same; discarded by a plugin of Velero's: shop/discarded";
    assert!(quick.checks.iter().any(|check| check.note.as_deref() == Some(note)), "{quick:?}");
    // What an earlier version has stored is read, and doesn't tell.
    let mut old = outputs.clone();
    old.as_object_mut().unwrap().remove("lone-pods");
    old["outcomes"]["v1/ConfigMap"].as_object_mut().unwrap().remove("discarded");
    assert!(verified(&old).await.passed());
    cluster.finish();
}

#[tokio::test]
async fn an_object_is_found_in_whichever_version_its_kind_is_served() {
    let cluster = target().await;
    let (_, ctx) = context();
    let restored = json!({ "metadata": { "labels": labels() } });
    cluster.lock().put("/apis/shop.example/v1beta1/namespaces/shop/gadgets/g", restored);
    let mut config = restore_config(&cluster);
    config["objects"]["shop.example/v1alpha1/Gadget"] = json!(["shop/g"]);
    let list = json!({ "v1/Pod": ["shop/db-0(created)"], "v1/ConfigMap": ["shop/settings(created)"],
        "shop.example/v1alpha1/Gadget": ["shop/g(created)"] });
    cluster.lock().put_file("RestoreResourceList", KEY, &list);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["missing"], json!([]));
    cluster.finish();
}

#[tokio::test]
async fn a_backup_discovered_half_copied_is_discovered_again() {
    let cluster = target().await;
    let (host, ctx) = context();
    {
        let mut state = cluster.lock();
        state.objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
        state.on_delete = Some(Box::new(|state, path| {
            if path.ends_with("/backups/b1") {
                discover(state, true);
            }
        }));
    }
    restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap();
    let writes = cluster.writes();
    assert_eq!(
        writes[..2],
        [format!("DELETE {VELERO}/podvolumebackups"), format!("DELETE {VELERO}/backups/b1")]
    );
    assert!(host.recorded().log.iter().any(|(_, line)| line.contains("before it was whole")));
    // And when that doesn't help, the volume is named and nothing is restored.
    let cluster = target().await;
    let (_, ctx) = context();
    {
        let mut state = cluster.lock();
        state.objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
        state.on_delete = Some(Box::new(|state, _| discover(state, false)));
    }
    let error = restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt);
    assert!(error.message.ends_with("of backup `b1`: shop/db-0/data"), "{}", error.message);
    assert!(!cluster.writes().contains(&format!("POST {VELERO}/restores")));
    cluster.finish();
}

#[tokio::test]
async fn a_backup_that_never_shows_up_is_an_error() {
    let cluster = target().await;
    let (_, ctx) = context();
    cluster.lock().objects.remove(&format!("{VELERO}/backups/b1"));
    let error = restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap_err();
    assert!(error.message.contains("hasn't discovered backup `b1`"), "{}", error.message);
    assert!(error.hint.unwrap().contains("velero-backup.json"));
}

#[tokio::test]
async fn nothing_is_restored_over_what_is_there() {
    let cluster = target().await;
    let (_, ctx) = context();
    cluster.lock().put("/api/v1/namespaces/shop/pods/db-0", pod());
    let mut config = restore_config(&cluster);
    let error = restore_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(
        error.message,
        "the target already has pod shop/db-0: Velero would skip them and move no data"
    );
    assert!(cluster.writes().is_empty());
    // The plan says so before hours are spent on a backup, from the parameters alone.
    config["namespaces"] = json!(["shop"]);
    for field in ["backup", "objects", "volumes"] {
        config[field] = migrate_plugin_api::unknown("nodes.backup.x");
    }
    let plan = restore_step().plan(&ctx, &config).await.unwrap();
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(plan.problems[0].field.as_deref(), Some("namespaces"));
    assert_eq!(plan.problems[0].severity, Severity::Error);
    cluster.finish();
}

#[tokio::test]
async fn image_names_of_an_earlier_run_are_not_changed_again() {
    let cluster = target().await;
    let (_, ctx) = context();
    let left = "/api/v1/namespaces/velero/configmaps/migrate-change-image-name";
    let labels = json!({ "velero.io/plugin-config": "", "velero.io/change-image-name": "RestoreItemAction",
        "app.kubernetes.io/managed-by": "migrate" });
    let stale =
        json!({ "metadata": { "labels": labels }, "data": { "rule-0": "1.ecr.example,y.azurecr.example" } });
    cluster.lock().put(left, stale);
    let mut config = restore_config(&cluster);
    config["rename-images"] = json!([]);
    restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(cluster.writes(), [format!("DELETE {left}"), format!("POST {VELERO}/restores")]);
    cluster.finish();
}

#[tokio::test]
async fn what_was_not_compared_is_never_shown_as_equal() {
    let cluster = target().await;
    let (_, ctx) = context();
    cluster.lock().put_file("RestoreResourceList", KEY, &json!("unreadable"));
    let config = restore_config(&cluster);
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    let warned = async |config: &Value| -> Vec<String> {
        let evidence = restore_step().verify(&ctx, config, &outputs, VerifyDepth::Quick).await.unwrap();
        let warnings = evidence.checks.into_iter().filter(|c| c.status == CheckStatus::Warning);
        warnings.map(|c| format!("{} {}", c.subject, c.what)).collect()
    };
    assert_eq!(warned(&config).await, [format!("restore {KEY} list of objects")]);
    let mut blind = config.clone();
    (blind["objects"], blind["volumes"]) = (json!({}), json!([]));
    assert_eq!(warned(&blind).await, ["objects list of the source", "volumes list of the source"]);
    cluster.finish();
}

#[tokio::test]
async fn a_foreign_image_map_is_refused() {
    let cluster = target().await;
    let (_, ctx) = context();
    let labels = json!({ "velero.io/plugin-config": "", "velero.io/change-image-name": "RestoreItemAction" });
    cluster.lock().put(
        "/api/v1/namespaces/velero/configmaps/theirs",
        json!({ "metadata": { "labels": labels }, "data": { "x": "a,b" } }),
    );
    let error = restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert!(error.message.starts_with("ConfigMap `theirs` in namespace `velero`"), "{}", error.message);
    assert!(cluster.writes().is_empty());
}

#[tokio::test]
async fn a_claim_whose_class_is_missing_ends_the_wait_at_once() {
    let cluster = target().await;
    let (_, ctx) = context();
    cluster.lock().on_create = Some(Box::new(|state, path| {
        let mut pending = claim("Pending", "gp3");
        pending["metadata"]["labels"] = labels();
        state.put("/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0", pending);
        state.scripts.insert(path.to_owned(), vec![json!({ "phase": "InProgress" })]);
    }));
    let error = restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap_err();
    assert_eq!(
        error.message,
        "claim shop/data-db-0 waits for storage class `gp3`, which the target doesn't have"
    );
    cluster.finish();
}

#[tokio::test]
async fn a_restore_without_progress_names_what_it_waits_for() {
    let cluster = target().await;
    let (_, ctx) = context();
    cluster.lock().on_create = Some(Box::new(|state, path| {
        let mut waiting = pod();
        waiting["metadata"] = json!({ "labels": labels() });
        waiting["status"] = json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] });
        state.put("/api/v1/namespaces/shop/pods/db-0", waiting);
        state.scripts.insert(path.to_owned(), vec![json!({ "phase": "InProgress" })]);
    }));
    let error = restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap_err();
    assert!(
        error.message.ends_with("pod shop/db-0 is not running: 0/1 nodes are available"),
        "{}",
        error.message
    );
    assert!(error.hint.unwrap().contains("resume"));
    cluster.finish();
}

#[tokio::test]
async fn other_repository_passwords_are_refused_before_anything_starts() {
    let (source, target) = (super::source::source().await, target().await);
    let (_, ctx) = context();
    let secret = |value: &str| json!({ "data": { "repository-password": value } });
    for (cluster, uid) in [(&source, "one"), (&target, "other")] {
        let system = json!({ "metadata": { "name": "kube-system", "uid": uid } });
        cluster.lock().put("/api/v1/namespaces/kube-system", system);
    }
    let path = "/api/v1/namespaces/velero/secrets/velero-repo-credentials";
    source.lock().put(path, secret("c3RhdGlj"));
    target.lock().put(path, secret("b3RoZXI="));
    let mut config = restore_config(&target);
    config["source"] = json!(source.reference());
    let plan = restore_step().plan(&ctx, &config).await.unwrap();
    assert!(plan.problems[0].message.starts_with("secret `velero-repo-credentials` differs"));
    let error = restore_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    let shown = format!("{error:?} {plan:?}");
    assert!(!shown.contains("static") && !shown.contains("c3RhdGlj"), "no password is ever shown");
    target.lock().put(path, secret("c3RhdGlj"));
    assert_eq!(restore_step().plan(&ctx, &config).await.unwrap().problems, []);
}

const CLASSES: &str = "/api/v1/namespaces/velero/configmaps/migrate-change-storage-class";
const IMAGES: &str = "/api/v1/namespaces/velero/configmaps/migrate-change-image-name";

/// What another run has written.
fn of_another_run(plugin: &str, data: Value) -> Value {
    json!({ "data": data, "metadata": { "labels": { "velero.io/plugin-config": "", (plugin): "RestoreItemAction",
        "app.kubernetes.io/managed-by": "migrate", "migrate-run": "other-run", "migrate-node": "classes" } } })
}

fn restore_of_another_run(cluster: &Cluster, phase: &str) {
    let restore = json!({ "spec": { "backupName": "b0" }, "status": { "phase": phase } });
    cluster.lock().put(&format!("{VELERO}/restores/theirs"), restore);
}

#[tokio::test]
async fn what_another_run_has_written_is_not_changed_under_a_restore() {
    let cluster = target().await;
    let (host, ctx) = context();
    let step = Typed(StorageClassMap);
    let theirs = of_another_run("velero.io/change-storage-class", json!({ "gp3": "standard" }));
    cluster.lock().put(CLASSES, theirs.clone());
    restore_of_another_run(&cluster, "InProgress");
    let config = json!({ "cluster": cluster.reference(), "map": { "gp3": "premium" } });
    let error = step.apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(
        error.message,
        "ConfigMap `migrate-change-storage-class` in namespace `velero` is as node `classes` of run `other-run` wrote \
         it, and restore `theirs`, which may read it, has not ended"
    );
    assert_eq!(error.hint.as_deref(), Some("when that restore has ended, `migrate resume test-run`"));
    let plan = step.plan(&ctx, &config).await.unwrap();
    let told = "ConfigMap `migrate-change-storage-class` in namespace `velero`, as node `classes` of run `other-run` \
                wrote it: gp3 = standard";
    assert_eq!(plan.destroys, [told]);
    // The same content is no change.
    let same = json!({ "cluster": cluster.reference(), "map": { "gp3": "standard" } });
    cluster.lock().put("/apis/storage.k8s.io/v1/storageclasses/standard", json!({ "provisioner": "p" }));
    step.apply(&ctx, &same).await.unwrap();
    assert_eq!(step.plan(&ctx, &same).await.unwrap().destroys, [] as [String; 0]);
    assert!(cluster.writes().is_empty());
    // What another has written is not ours to take back.
    let outputs = json!({ "config-map": "migrate-change-storage-class", "map": { "gp3": "premium" } });
    step.undo(&ctx, &config, &outputs).await.unwrap();
    assert!(cluster.lock().objects.contains_key(CLASSES));
    assert!(
        host.recorded()
            .log
            .iter()
            .any(|(_, line)| line.ends_with("node `classes` of run `other-run` wrote it"))
    );
    // When it has ended it may be.
    restore_of_another_run(&cluster, "PartiallyFailed");
    step.apply(&ctx, &config).await.unwrap();
    assert_eq!(cluster.writes(), [format!("PATCH {CLASSES}")]);
    // Another may rely on what this node has written.
    restore_of_another_run(&cluster, "InProgress");
    assert_eq!(step.apply(&ctx, &same).await.unwrap_err().class, ErrorClass::Conflict);
    assert_eq!(step.undo(&ctx, &config, &outputs).await.unwrap_err().class, ErrorClass::Conflict);
    assert_eq!(cluster.writes(), [format!("PATCH {CLASSES}")], "nothing was changed since");
    restore_of_another_run(&cluster, "Completed");
    step.apply(&ctx, &same).await.unwrap();
    cluster.finish();
}

#[tokio::test]
async fn classes_are_not_taken_from_under_the_runs_own_restore() {
    let cluster = target().await;
    let (_, ctx) = context();
    let step = Typed(StorageClassMap);
    let config = json!({ "cluster": cluster.reference(), "map": { "gp3": "premium" } });
    let outputs = step.apply(&ctx, &config).await.unwrap();
    let own = json!({ "spec": { "backupName": "b1" }, "status": { "phase": "InProgress" },
        "metadata": { "labels": { "migrate-run": "test-run", "migrate-node": "restore" } } });
    cluster.lock().put(&format!("{VELERO}/restores/restore-1"), own);
    let error = step.undo(&ctx, &config, &outputs).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(error.hint.as_deref(), Some("when that restore has ended, `migrate undo test-run --yes`"));
    // Nor changed, as by an edit of `[storage-classes]`.
    cluster.lock().put("/apis/storage.k8s.io/v1/storageclasses/standard", json!({ "provisioner": "p" }));
    let other = json!({ "cluster": cluster.reference(), "map": { "gp3": "standard" } });
    let error = step.apply(&ctx, &other).await.unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("when that restore has ended, `migrate resume test-run`"));
    assert_eq!(cluster.lock().objects[CLASSES]["data"], json!({ "gp3": "premium" }));
    cluster.lock().objects.get_mut(&format!("{VELERO}/restores/restore-1")).unwrap()["status"]["phase"] =
        json!("Completed");
    step.undo(&ctx, &config, &outputs).await.unwrap();
    assert!(!cluster.lock().objects.contains_key(CLASSES));
    cluster.finish();
}

#[tokio::test]
async fn image_rules_of_another_run_are_not_changed_under_a_restore() {
    for renames in [json!([]), json!([{ "from": "1.ecr.example", "to": "x.azurecr.example" }])] {
        let cluster = target().await;
        let (_, ctx) = context();
        cluster.lock().put(IMAGES, of_another_run("velero.io/change-image-name", json!({ "rule-0": "a,b" })));
        restore_of_another_run(&cluster, "");
        let mut config = restore_config(&cluster);
        config["rename-images"] = renames;
        let plan = restore_step().plan(&ctx, &config).await.unwrap();
        assert!(plan.destroys[0].ends_with("as node `classes` of run `other-run` wrote it: rule-0 = a,b"));
        assert_eq!(restore_step().apply(&ctx, &config).await.unwrap_err().class, ErrorClass::Conflict);
        assert!(cluster.writes().is_empty());
        cluster.finish();
    }
}

#[tokio::test]
async fn a_restore_begins_only_while_classes_are_mapped_as_it_relies_on() {
    let cluster = target().await;
    let (host, ctx) = context();
    let mut config = restore_config(&cluster);
    config["storage-classes"] = json!({ "gp3": "premium" });
    let error = restore_step().apply(&ctx, &config).await.unwrap_err();
    assert!(error.message.ends_with("it is gone, or somebody else's is in its place"), "{}", error.message);
    let theirs = of_another_run("velero.io/change-storage-class", json!({ "gp3": "standard" }));
    cluster.lock().put(CLASSES, theirs.clone());
    let error = restore_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(
        error.message,
        "ConfigMap `migrate-change-storage-class` in namespace `velero` doesn't say what this restore relies on: \
         node `classes` of run `other-run` has written it since"
    );
    assert!(!cluster.writes().contains(&format!("POST {VELERO}/restores")));
    // Whoever wrote it, if it says the same.
    cluster.lock().objects.get_mut(CLASSES).unwrap()["data"] = json!({ "gp3": "premium" });
    restore_step().apply(&ctx, &config).await.unwrap();
    assert!(cluster.writes().contains(&format!("POST {VELERO}/restores")));
    cluster.finish();

    // Where it doesn't know, another's is told.
    let cluster = target().await;
    cluster.lock().put(CLASSES, theirs);
    restore_step().apply(&ctx, &restore_config(&cluster)).await.unwrap();
    let told =
        "Velero maps as node `classes` of run `other-run` wrote it: ConfigMap `migrate-change-storage-class`";
    assert!(host.recorded().log.iter().any(|(_, line)| line == told));
}

#[tokio::test]
async fn storage_classes_are_mapped_idempotently() {
    let cluster = target().await;
    let (_, ctx) = context();
    let step = Typed(StorageClassMap);
    let config =
        json!({ "cluster": cluster.reference(), "map": { "gp3": "premium" }, "used": ["gp3", "premium"] });
    assert_eq!(step.plan(&ctx, &config).await.unwrap().problems, []);
    let outputs = step.apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs, json!({ "config-map": "migrate-change-storage-class", "map": { "gp3": "premium" } }));
    assert_eq!(step.apply(&ctx, &config).await.unwrap(), outputs);
    let path = "/api/v1/namespaces/velero/configmaps/migrate-change-storage-class";
    assert_eq!(cluster.writes(), [format!("PATCH {path}")]);
    let evidence = step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed());
    step.undo(&ctx, &config, &outputs).await.unwrap();
    step.undo(&ctx, &config, &outputs).await.unwrap();
    assert!(!cluster.lock().objects.contains_key(path));
    let evidence = step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(!evidence.passed());
    let wrong = json!({ "cluster": cluster.reference(), "map": { "gp3": "nowhere" } });
    let problems = step.plan(&ctx, &wrong).await.unwrap().problems;
    assert_eq!(problems[0].field.as_deref(), Some("map"));
    assert_eq!(problems[0].hint.as_deref(), Some("it has: premium"));
    assert_eq!(step.apply(&ctx, &wrong).await.unwrap_err().class, ErrorClass::Permanent);
    cluster.finish();
}
