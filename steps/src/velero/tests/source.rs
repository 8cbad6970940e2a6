//! `velero.backup`, and what the plan says of a source.

use std::time::Duration;

use migrate_plugin_api::{
    CancellationToken, CheckStatus, ErrorClass, Observation, Severity, Step, Typed, VerifyDepth,
};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::*;

/// A source whose Velero will complete what is asked of it.
pub(super) async fn source() -> Cluster {
    let cluster = cluster("ReadWrite").await;
    let mut state = cluster.lock();
    state.put("/api/v1/namespaces/shop", json!({}));
    state.put("/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0", claim("Bound", "gp3"));
    state.put("/api/v1/namespaces/shop/pods/db-0", pod());
    let objects = json!({ "v1/Namespace": ["shop"], "v1/Pod": ["shop/db-0"],
        "v1/PersistentVolumeClaim": ["shop/data-db-0"] });
    state.put_file("BackupResourceList", KEY, &objects);
    state.put_contents(KEY);
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

pub(super) fn backup_config(cluster: &Cluster) -> Value {
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
            "objects": { "v1/Namespace": ["shop"], "v1/PersistentVolumeClaim": ["shop/data-db-0"],
                "v1/Pod": ["shop/db-0"] },
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
async fn a_list_that_can_not_be_read_is_a_warning_and_no_loss() {
    let cluster = source().await;
    let (_, ctx) = context();
    let config = backup_config(&cluster);
    cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    let evidence = backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    assert!(evidence.checks.iter().any(|c| c.what == "list of objects" && c.status == CheckStatus::Warning));
    cluster.finish();
}

#[tokio::test]
async fn a_store_that_fails_for_a_moment_loses_no_list() {
    let cluster = source().await;
    let (host, ctx) = context();
    cluster.lock().failing_once.push(format!("BackupResourceList/{KEY}"));
    let outputs = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap();
    assert_eq!(outputs["objects"]["v1/Pod"], json!(["shop/db-0"]));
    assert!(host.recorded().log.iter().all(|(_, line)| !line.contains("can't be read")));
    // One that fails on is told to the engine, whose next attempt finds the same backup.
    cluster.lock().failing_once = vec![format!("BackupResourceList/{KEY}"); 10_000];
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None });
    cluster.lock().failing_once.clear();
    assert_eq!(backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap(), outputs);
    assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")]);
    cluster.finish();
}

#[tokio::test]
async fn a_backup_that_lacks_something_names_how_another_is_made() {
    let cluster = source().await;
    let (_, ctx) = context();
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        state.objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
    }));
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: shop/data-db-0"));
    let hint = error.hint.unwrap();
    assert!(hint.ends_with("; then `migrate resume test-run --rerun node` makes another backup"), "{hint}");
    cluster.finish();
}

#[tokio::test]
async fn a_backup_that_has_expired_is_told_and_not_made_again() {
    let cluster = source().await;
    let (_, ctx) = context();
    let config = backup_config(&cluster);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    cluster.lock().objects.remove(&format!("{VELERO}/backups/{KEY}"));
    cluster.lock().objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
    let quick = backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    let told = quick.checks.iter().map(|c| (c.status, c.target.as_str(), c.note.as_deref().unwrap()));
    let note = "it has expired or was deleted; what it held is recorded. `migrate resume test-run --rerun node` makes \
                another backup";
    assert_eq!(told.collect::<Vec<_>>(), [(CheckStatus::Warning, "absent", note)]);
    assert!(!backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap().passed());
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
    // Whoever has scaled down to stop the writes is told so before the way that loses data.
    for hint in [plan.problems[0].hint.as_deref().unwrap(), error.hint.as_deref().unwrap()] {
        assert!(hint.contains("stop the writes and not the pods, or start a pod"), "{hint}");
    }
    assert!(cluster.writes().is_empty());
    config["allow-unmounted"] = json!(true);
    let objects = json!({ "v1/Namespace": ["shop"], "v1/Pod": ["shop/db-0"],
        "v1/PersistentVolumeClaim": ["shop/data-db-0", "shop/idle"] });
    cluster.lock().put_file("BackupResourceList", KEY, &objects);
    assert_eq!(backup_step().plan(&ctx, &config).await.unwrap().problems[0].severity, Severity::Warning);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["left-out"], json!(["shop/idle"]));
    let evidence = backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed());
    let warned = evidence.checks.iter().find(|c| c.status == CheckStatus::Warning).unwrap();
    assert_eq!(warned.subject, "claim shop/idle");
    cluster.finish();
}

/// Who stops the writers may scale down, or delete the namespace, before an interrupted run goes on.
#[tokio::test]
async fn what_an_earlier_attempt_has_begun_is_joined_whatever_became_of_the_source() {
    let cluster = source().await;
    let (_, ctx) = context();
    let config = backup_config(&cluster);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    for path in ["/api/v1/namespaces/shop/pods/db-0", "/api/v1/namespaces/shop"] {
        cluster.lock().objects.remove(path);
        assert_eq!(backup_step().plan(&ctx, &config).await.unwrap().problems, [], "{path}");
        assert_eq!(backup_step().apply(&ctx, &config).await.unwrap(), outputs);
    }
    assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")]);
    cluster.finish();
}

#[tokio::test]
async fn a_misspelt_namespace_is_named_before_anything_starts() {
    let cluster = source().await;
    let (_, ctx) = context();
    let mut config = backup_config(&cluster);
    config["namespaces"] = json!(["shop", "shpo"]);
    let problems = backup_step().plan(&ctx, &config).await.unwrap().problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].message, "cluster `test` has no namespace shpo");
    assert_eq!(problems[0].field.as_deref(), Some("namespaces"));
    let error = backup_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.message, "cluster `test` has no namespace shpo");
    // Velero would leave it out without a word.
    let deleted = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    cluster.lock().put("/api/v1/namespaces/shpo", deleted);
    let error = backup_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.message, "cluster `test` has no namespace shpo (being deleted)");
    assert!(cluster.writes().is_empty());
    cluster.finish();
}

/// To Velero, no list is the whole cluster, and so is `*`.
#[tokio::test]
async fn a_list_that_would_be_the_whole_cluster_is_refused() {
    let cluster = source().await;
    let (_, ctx) = context();
    let mut config = backup_config(&cluster);
    for (namespaces, message) in [
        (json!([]), "no namespace is named"),
        (json!([""]), "`` can't name a namespace"),
        (json!(["shop", "*"]), "`*` can't name a namespace"),
    ] {
        config["namespaces"] = namespaces;
        let problems = backup_step().plan(&ctx, &config).await.unwrap().problems;
        let told: Vec<_> =
            problems.iter().map(|p| (p.severity, p.message.as_str(), p.field.as_deref())).collect();
        assert_eq!(told, [(Severity::Error, message, Some("namespaces"))]);
        // Also where a list came from an output, which no plan knew.
        let error = backup_step().apply(&ctx, &config).await.unwrap_err();
        assert_eq!((error.class, error.message.as_str()), (ErrorClass::Permanent, message));
    }
    let unknown =
        json!({ "cluster": cluster.reference(), "namespaces": migrate_plugin_api::unknown("nodes.a.b") });
    assert!(backup_step().plan(&ctx, &unknown).await.unwrap().problems.is_empty());
    assert!(cluster.writes().is_empty());
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

/// Of a connection that was lost in between, as by a laptop's sleep, no answer ever comes.
#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for_for_ever() {
    let cluster = source().await;
    // The first that is asked for when the backup is followed.
    cluster.lock().silent_once.push(format!("{VELERO}/podvolumebackups"));
    let pace = Pace { answer: Duration::from_millis(200), outage: Duration::from_secs(60), ..pace() };
    let step = Typed(VeleroBackup::at(pace));
    let config = backup_config(&cluster);
    let (_, ctx) = context();
    let applied = tokio::time::timeout(Duration::from_secs(30), step.apply(&ctx, &config)).await;
    applied.expect("it ends").unwrap();
    cluster.finish();
}

/// Of very many namespaces, say: what is looked for beside a backup never keeps it from being followed.
#[tokio::test]
async fn a_backup_is_followed_also_where_its_namespaces_are_not_listed_in_time() {
    let cluster = source().await;
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        state.silent_once = vec!["/apis/batch/v1/namespaces/shop/jobs".to_owned(); 100];
    }));
    let pace = Pace { answer: Duration::from_millis(200), outage: Duration::from_secs(60), ..pace() };
    let (host, ctx) = context();
    Typed(VeleroBackup::at(pace)).apply(&ctx, &backup_config(&cluster)).await.unwrap();
    let done: Vec<u64> = host.recorded().progress.iter().filter_map(|p| Some(p.items?.done)).collect();
    assert!(done.contains(&1), "it was seen at work: {done:?}");
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

fn widget(cluster: &Cluster, crd_created: &str) {
    let mut state = cluster.lock();
    let created = json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" } });
    state.put("/apis/shop.example/v1/namespaces/shop/widgets/w", created);
    let crd = json!({ "metadata": { "creationTimestamp": crd_created } });
    state.put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.shop.example", crd);
}

#[tokio::test]
async fn an_object_that_the_backup_lacks_is_named() {
    let cluster = source().await;
    let (_, ctx) = context();
    widget(&cluster, "2026-01-01T00:00:00Z");
    let mut config = backup_config(&cluster);
    let error = backup_step().apply(&ctx, &config).await.unwrap_err();
    assert_eq!(error.message, "the backup doesn't hold shop.example/v1/Widget shop/w");
    config["ignore-kinds"] = json!(["Widget.shop.example"]);
    let outputs = backup_step().apply(&ctx, &config).await.unwrap();
    let deep = |config: Value| {
        let (ctx, outputs) = (context().1, outputs.clone());
        async move { backup_step().verify(&ctx, &config, &outputs, VerifyDepth::Deep).await.unwrap() }
    };
    assert!(deep(config.clone()).await.passed());
    config["ignore-kinds"] = json!([]);
    let evidence = deep(config).await;
    let failed: Vec<&str> = evidence.failures().map(|c| c.what.as_str()).collect();
    assert_eq!(failed, ["objects not in the backup"]);
    cluster.finish();
}

#[tokio::test]
async fn an_object_of_a_kind_that_only_another_version_serves_is_named_too() {
    let cluster = source().await;
    let created = json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" } });
    cluster.lock().put("/apis/shop.example/v1beta1/namespaces/shop/gadgets/g", created);
    let error = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.message, "the backup doesn't hold shop.example/v1beta1/Gadget shop/g");
    cluster.finish();
}

#[tokio::test]
async fn a_backup_waits_until_velero_knows_a_new_kind() {
    let cluster = source().await;
    widget(&cluster, &jiff::Timestamp::now().to_string());
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
    let step = backup_step();
    let (result, ()) = tokio::join!(step.apply(&ctx, &config), stopper);
    assert_eq!(result.unwrap_err().class, ErrorClass::Cancelled);
    assert!(cluster.writes().is_empty(), "no backup is made before Velero knows the kind");
    let said = host.recorded().progress[0].message.clone().unwrap();
    assert!(said.ends_with("for Velero to learn of widgets.shop.example"), "{said}");
    // A server that started since knows it.
    let running = json!({ "running": { "startedAt": (jiff::Timestamp::now() + jiff::Span::new().minutes(1)).to_string() } });
    let status = json!({ "name": "velero", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": running });
    let pod = json!({ "status": { "containerStatuses": [status] } });
    cluster.lock().put("/api/v1/namespaces/velero/pods/velero-0", pod);
    let config = json!({ "cluster": cluster.reference(), "namespaces": ["shop"], "ignore-kinds": ["Widget.shop.example"] });
    step.apply(&context().1, &config).await.unwrap();
    cluster.finish();
}
