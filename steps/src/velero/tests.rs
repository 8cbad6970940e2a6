//! The steps against a stand-in API server: create, join, conflict, and every way to fail.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CancellationToken, CheckStatus, ErrorClass, Observation, Severity, Step, StepContext, Typed, VerifyDepth,
};
use serde_json::{Value, json};

use self::cluster::Cluster;
use super::backup::VeleroBackup;
use super::follow::Pace;
use super::restore::VeleroRestore;
use super::storage_class::StorageClassMap;

const KEY: &str = "node-0000000000";
const VELERO: &str = "/apis/velero.io/v1/namespaces/velero";

/// Fast, and with a stall and an outage that a test can wait for.
fn pace() -> Pace {
    Pace {
        poll: Duration::from_millis(2),
        stall: Duration::from_millis(50),
        sync: Duration::from_millis(200),
        volumes: Duration::from_millis(20),
        download: Duration::from_secs(5),
        outage: Duration::from_millis(50),
    }
}

fn context() -> (Arc<RecordingHost>, StepContext) {
    let host = Arc::new(RecordingHost::default());
    let ctx = host.context("node", ".");
    (host, ctx)
}

fn backup_step() -> Typed<VeleroBackup> {
    Typed(VeleroBackup::at(pace()))
}

fn restore_step() -> Typed<VeleroRestore> {
    Typed(VeleroRestore::at(pace()))
}

fn location(access_mode: &str) -> Value {
    json!({ "spec": { "default": true, "accessMode": access_mode }, "status": { "phase": "Available" } })
}

/// A cluster with Velero 1.18 in it.
async fn cluster(access_mode: &str) -> Cluster {
    let cluster = Cluster::start().await;
    let mut state = cluster.lock();
    state.put(&format!("{VELERO}/backupstoragelocations/default"), location(access_mode));
    let containers = json!([{ "name": "velero", "image": "velero/velero:v1.18.3", "command": ["/velero"] }]);
    state.put(
        "/apis/apps/v1/namespaces/velero/deployments/velero",
        json!({ "spec": { "selector": {}, "template": { "spec": { "containers": containers } } },
            "status": { "readyReplicas": 1 } }),
    );
    state.put(
        "/apis/apps/v1/namespaces/velero/daemonsets/node-agent",
        json!({ "status": { "numberReady": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
            "numberMisscheduled": 0 } }),
    );
    drop(state);
    cluster
}

fn claim(phase: &str, class: &str) -> Value {
    json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "storageClassName": class }, "status": { "phase": phase } })
}

fn pod() -> Value {
    json!({ "spec": { "containers": [{ "name": "db", "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data-db-0" } }] },
        "status": { "phase": "Running" } })
}

fn pod_volume_backup(phase: &str, done: u64) -> Value {
    json!({ "metadata": { "labels": { "velero.io/backup-name": KEY },
            "annotations": { "velero.io/pvc-name": "data-db-0" } },
        "spec": { "pod": { "namespace": "shop", "name": "db-0" }, "volume": "data", "uploaderType": "kopia" },
        "status": { "phase": phase, "snapshotID": "k1", "progress": { "totalBytes": 20, "bytesDone": done } } })
}

/// A source whose Velero will complete what is asked of it.
async fn source() -> Cluster {
    let cluster = cluster("ReadWrite").await;
    let mut state = cluster.lock();
    state.put("/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0", claim("Bound", "gp3"));
    state.put("/api/v1/namespaces/shop/pods/db-0", pod());
    let objects = json!({ "v1/Pod": ["shop/db-0"], "v1/ConfigMap": ["shop/settings"] });
    state.put_file("BackupResourceList", KEY, &objects);
    state.on_create = Some(Box::new(|state, path| {
        if path == format!("{VELERO}/backups/{KEY}") {
            state.put(&format!("{VELERO}/podvolumebackups/p1"), pod_volume_backup("Completed", 20));
            let progress = |done: u64| json!({ "totalItems": 2, "itemsBackedUp": done });
            let script = vec![
                json!({}),
                json!({ "phase": "InProgress", "progress": progress(1) }),
                json!({ "phase": "Finalizing", "progress": progress(2) }),
                json!({ "phase": "Completed", "progress": progress(2), "startTimestamp": "2026-01-02T00:00:00Z" }),
            ];
            state.scripts.insert(path.to_owned(), script);
        }
    }));
    drop(state);
    cluster
}

fn backup_config(cluster: &Cluster) -> Value {
    json!({ "cluster": cluster.reference(), "namespaces": ["shop"] })
}

#[tokio::test]
async fn a_backup_is_created_once_followed_and_proven() {
    let cluster = source().await;
    let (host, ctx) = context();
    let config = backup_config(&cluster);
    assert_eq!(backup_step().observe(&ctx, &config).await.unwrap(), Observation::Absent);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(
        outputs,
        json!({
            "backup": KEY,
            "prefixes": ["kopia/shop/", format!("backups/{KEY}/")],
            "volumes": [{ "namespace": "shop", "pod": "db-0", "volume": "data", "claim": "data-db-0",
                "bytes": 20, "snapshot-id": "k1" }],
            "objects": { "v1/ConfigMap": ["shop/settings"], "v1/Pod": ["shop/db-0"] },
            "left-out": [], "warnings": [], "errors": [], "bytes": 20,
        })
    );
    let made = cluster.lock().objects[&format!("{VELERO}/backups/{KEY}")].clone();
    assert_eq!(made["metadata"]["labels"]["migrate-run"], "test-run");
    assert_eq!(
        made["spec"],
        json!({ "includedNamespaces": ["shop"], "defaultVolumesToFsBackup": true, "snapshotVolumes": false })
    );
    let recorded = host.recorded();
    assert_eq!(recorded.handles, [KEY]);
    let last = recorded.progress.last().unwrap();
    assert_eq!(last.bytes.map(|b| (b.done, b.total)), Some((20, Some(20))));
    assert_eq!(last.items.map(|i| (i.done, i.total)), Some((2, Some(2))));
    // Again, as after a crash between creating and recording: it is found, and no second is made.
    let handle = KEY.to_owned();
    assert_eq!(backup_step().observe(&ctx, &config).await.unwrap(), Observation::Running { handle });
    assert_eq!(backup_step().apply(&ctx, &config).await.unwrap(), outputs);
    assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")]);
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = backup_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:?}");
    }
    let left = cluster.lock().objects.keys().filter(|p| p.contains("downloadrequests")).count();
    assert_eq!(left, 0, "download requests are cleaned up");
    assert!(host.recorded().log.iter().all(|(_, line)| !line.contains("topsecret")));
    cluster.lock().objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
    let evidence = backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap();
    let failed: Vec<String> = evidence.failures().map(|c| format!("{} {}", c.subject, c.what)).collect();
    assert_eq!(failed, [format!("backup {KEY} volumes"), "claim shop/data-db-0 data".to_owned()]);
    cluster.finish();
}

#[tokio::test]
async fn a_backup_made_in_between_is_joined_and_a_foreign_one_refused() {
    let cluster = source().await;
    let (_, ctx) = context();
    let path = format!("{VELERO}/backups/{KEY}");
    let spec = json!({ "includedNamespaces": ["shop"], "defaultVolumesToFsBackup": true, "snapshotVolumes": false,
        "ttl": "720h0m0s", "storageLocation": "default" });
    let completed = json!({ "phase": "Completed" });
    cluster.lock().put(&path, json!({ "spec": spec, "status": completed }));
    cluster.lock().put(&format!("{VELERO}/podvolumebackups/p1"), pod_volume_backup("Completed", 20));
    cluster.lock().hidden_once.push(path.clone());
    backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap();
    let mut other = backup_config(&cluster);
    other["namespaces"] = json!(["shop", "web"]);
    let error = backup_step().apply(&ctx, &other).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(error.message, format!("backup `{KEY}` exists with another content"));
    cluster.finish();
}

#[tokio::test]
async fn a_stop_leaves_the_backup_running() {
    let cluster = source().await;
    cluster.lock().on_create = Some(Box::new(|state, path| {
        state.scripts.insert(path.to_owned(), vec![json!({ "phase": "InProgress" })]);
    }));
    let cancel = CancellationToken::new();
    let (host, ctx) = context();
    let ctx = ctx.with_cancel(cancel.clone());
    let config = backup_config(&cluster);
    let stopper = async {
        while host.recorded().progress.is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let step = Typed(VeleroBackup::at(Pace { stall: Duration::from_secs(60), ..pace() }));
    let (result, ()) = tokio::join!(step.apply(&ctx, &config), stopper);
    assert_eq!(result.unwrap_err().class, ErrorClass::Cancelled);
    assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")], "nothing is deleted");
    let (_, ctx) = context();
    let handle = KEY.to_owned();
    assert_eq!(step.observe(&ctx, &config).await.unwrap(), Observation::Running { handle });
    cluster.finish();
}

#[tokio::test]
async fn a_claim_that_no_running_pod_mounts_is_never_left_behind_silently() {
    let cluster = source().await;
    let (_, ctx) = context();
    cluster.lock().put("/api/v1/namespaces/shop/persistentvolumeclaims/idle", claim("Bound", "gp3"));
    let mut config = backup_config(&cluster);
    let plan = backup_step().plan(&ctx, &config).await.unwrap();
    assert_eq!(plan.items, Some(2));
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(plan.problems[0].severity, Severity::Error);
    assert_eq!(
        plan.problems[0].message,
        "the data of claim shop/idle would be left behind: no running pod mounts it"
    );
    let error = backup_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(
        error.message,
        "the data of these claims would be left behind: shop/idle (no running pod mounts it)"
    );
    assert!(cluster.writes().is_empty());
    config["allow-unmounted"] = json!(true);
    assert_eq!(backup_step().plan(&ctx, &config).await.unwrap().problems[0].severity, Severity::Warning);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["left-out"], json!(["shop/idle"]));
    let evidence = backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed());
    let warned = evidence.checks.iter().find(|c| c.status == CheckStatus::Warning).unwrap();
    assert_eq!(warned.subject, "claim shop/idle");
    cluster.finish();
}

#[tokio::test]
async fn a_failed_backup_says_why() {
    let cluster = source().await;
    let (_, ctx) = context();
    cluster.lock().put_file(
        "BackupResults",
        KEY,
        &json!({ "errors": { "namespaces": { "shop": ["no token"] } } }),
    );
    cluster.lock().on_create = Some(Box::new(|state, path| {
        if path.contains("/backups/") {
            let mut volume = pod_volume_backup("Failed", 3);
            volume["status"]["message"] = json!("disk is gone");
            state.put(&format!("{VELERO}/podvolumebackups/p1"), volume);
            let failed = json!({ "phase": "PartiallyFailed", "errors": 1, "warnings": 0 });
            state.scripts.insert(path.to_owned(), vec![failed]);
        }
    }));
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert_eq!(
        error.message,
        format!(
            "backup `{KEY}` ended as PartiallyFailed: volume shop/db-0/data failed: disk is gone; shop: no token"
        )
    );
    cluster.finish();
}

#[tokio::test]
async fn a_backup_without_progress_names_the_volume() {
    let cluster = source().await;
    let (_, ctx) = context();
    cluster.lock().on_create = Some(Box::new(|state, path| {
        state.put(&format!("{VELERO}/podvolumebackups/p1"), pod_volume_backup("Prepared", 0));
        state.scripts.insert(path.to_owned(), vec![json!({ "phase": "InProgress" })]);
    }));
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert!(error.message.contains("at shop/db-0/data (Prepared)"), "{}", error.message);
    cluster.finish();
}

/// A target whose Velero has discovered the backup, and will complete a restore of it.
async fn target() -> Cluster {
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

fn discover(state: &mut cluster::State, whole: bool) {
    let completed = json!({ "spec": {}, "status": { "phase": "Completed" } });
    state.put(&format!("{VELERO}/backups/b1"), completed);
    if whole {
        let mut volume = pod_volume_backup("Completed", 20);
        volume["metadata"]["labels"]["velero.io/backup-name"] = json!("b1");
        state.put(&format!("{VELERO}/podvolumebackups/p1"), volume);
    }
}

fn restore_config(cluster: &Cluster) -> Value {
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
            "restore": KEY, "warnings": [], "errors": [], "missing": [], "outcomes":
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
    let evidence = restore_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    let failed: Vec<&str> = evidence.failures().map(|c| c.subject.as_str()).collect();
    assert_eq!(failed, ["claim shop/data-db-0", "v1/ConfigMap"]);
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
    let (source, target) = (source().await, target().await);
    let (_, ctx) = context();
    let secret = |value: &str| json!({ "data": { "repository-password": value } });
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

#[tokio::test]
async fn a_cluster_without_velero_or_without_an_answer_is_a_problem_of_the_plan() {
    let (_, ctx) = context();
    let bare = Cluster::start().await;
    let mut config = backup_config(&bare);
    let plan = backup_step().plan(&ctx, &config).await.unwrap();
    let messages: Vec<&str> = plan.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "Velero in cluster `test` has no default storage location",
            "namespace `velero` of cluster `test` has no Velero server",
            "Velero of cluster `test` has no node-agent, so no volume can be read or written"
        ]
    );
    config["cluster"]["context"] = json!("nowhere");
    let plan = backup_step().plan(&ctx, &config).await.unwrap();
    assert_eq!(plan.problems[0].message, "the kubeconfig has no context `nowhere`");
    assert_eq!(plan.problems[0].field.as_deref(), Some("cluster"));
    let unknown =
        json!({ "cluster": bare.reference(), "namespaces": migrate_plugin_api::unknown("params.x") });
    assert!(backup_step().plan(&ctx, &unknown).await.is_ok());
}
