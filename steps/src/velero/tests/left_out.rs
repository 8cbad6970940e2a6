//! Claims without data in a backup that an earlier attempt has begun, of which the source has nothing any more.

use migrate_plugin_api::{CheckStatus, ErrorClass, Step, VerifyDepth};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::hazards::{list, meanwhile, unmounted};
use super::source::{backup_config, source};
use super::target::target;
use super::*;

/// A source that had the claims `data-db-0`, which is in the backup, and `other`, which no pod mounted any more at
/// Velero's turn. The namespace is deleted before the backup is handed on.
async fn deleted_source(is_readable: bool) -> Cluster {
    let cluster = source().await;
    let disk = || ("csi", json!({ "driver": "ebs.csi.aws.com", "volumeHandle": "h" }));
    meanwhile(&cluster, move |state| unmounted(state, "other", "Delete", disk()));
    // An archive that lacks what the list names is not taken for the backup.
    let volume = if is_readable { "pv-other" } else { "pv-unread" };
    let claims = ["shop/data-db-0", "shop/other"];
    let volumes = [volume];
    let sets = ["shop/db"];
    list(
        &cluster,
        json!({ "v1/PersistentVolumeClaim": claims, "v1/PersistentVolume": volumes, "apps/v1/StatefulSet": sets }),
    );
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/backups/") {
            state.objects.retain(|path, _| !path.starts_with("/api/v1/namespaces/shop"));
        }
    }));
    cluster
}

/// Its backup holds a Job that had not completed.
fn meanwhile_a_job(cluster: &Cluster) {
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        if path.contains("/backups/") {
            let job = json!({ "spec": { "template": {} }, "status": { "active": 1 } });
            state.put("/apis/batch/v1/namespaces/shop/jobs/bill", job);
        }
        made(state, path);
        state.objects.retain(|path, _| !path.starts_with("/apis/batch/v1/namespaces/shop"));
    }));
}

fn allowing(cluster: &Cluster) -> Value {
    let mut config = backup_config(cluster);
    config["allow-unmounted"] = json!(true);
    config
}

/// A run has `allow-unmounted` from its beginning: with another config the node would make another backup.
#[tokio::test]
async fn a_claim_without_data_is_named_also_when_its_namespace_is_gone() {
    for is_readable in [true, false] {
        let cluster = deleted_source(is_readable).await;
        let (_, ctx) = context();
        let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent);
        assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: shop/other"));
        cluster.finish();
        let cluster = deleted_source(is_readable).await;
        let config = allowing(&cluster);
        let outputs = backup_step().apply(&ctx, &config).await.unwrap();
        assert_eq!(outputs["left-out"], json!(["shop/other"]));
        for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
            let evidence = backup_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
            let told = evidence.checks.iter().find(|check| check.subject == "claim shop/other");
            assert_eq!(told.unwrap().status, CheckStatus::Warning, "{depth:?}");
        }
        cluster.finish();
    }
}

/// Velero lists the source some time after it begins, and makes the volumes then.
#[tokio::test]
async fn a_claim_that_came_just_after_a_backup_began_is_named_where_nothing_tells() {
    for (created, is_told) in [("2026-01-02T00:00:01Z", true), ("2026-01-02T00:05:01Z", false)] {
        let cluster = source().await;
        meanwhile(&cluster, move |state| {
            let mut late = claim("Bound", "gp3");
            late["metadata"]["creationTimestamp"] = json!(created);
            state.put("/api/v1/namespaces/shop/persistentvolumeclaims/late", late);
            let volume = state.objects.get_mut(&format!("{VELERO}/podvolumebackups/p1")).unwrap();
            volume["metadata"]["creationTimestamp"] = json!("2026-01-02T00:05:00Z");
        });
        cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
        let outcome = backup_step().apply(&context().1, &backup_config(&cluster)).await;
        let said = outcome.err().map(|error| error.message);
        let lacks = format!("backup `{KEY}` has no data of these claims: shop/late");
        assert_eq!(said, is_told.then_some(lacks), "{created}");
        cluster.finish();
    }
}

#[tokio::test]
async fn a_backup_is_not_handed_on_where_nothing_tells_which_claims_it_had() {
    let cluster = deleted_source(false).await;
    let (_, ctx) = context();
    cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert_eq!(
        error.message,
        format!(
            "backup `{KEY}` may lack data of claims: what it holds can't be read from here, and the source no longer \
             has namespace shop"
        )
    );
    let hint = error.hint.unwrap();
    assert!(
        hint.starts_with("resume where the URLs that Velero gives for its files can be reached; "),
        "{hint}"
    );
    assert!(hint.ends_with(&as_it_stands()), "{hint}");
    // What has its name by now, as where it was made again from a repository, is another one.
    for (created, is_told) in [("2026-01-02T00:00:01Z", true), ("2026-01-01T00:00:00Z", false)] {
        let namespace = json!({ "metadata": { "creationTimestamp": created } });
        cluster.lock().put("/api/v1/namespaces/shop", namespace);
        let outcome = backup_step().apply(&ctx, &backup_config(&cluster)).await;
        assert_eq!(outcome.is_err(), is_told, "{created}");
        if let Err(error) = outcome {
            assert!(error.message.ends_with("no longer has namespace shop (made again since)"), "{error}");
            let another =
                "`migrate resume test-run --rerun node` makes another backup, of what the source has now";
            assert!(error.hint.unwrap().ends_with(another));
        }
    }
    cluster.finish();
    let cluster = deleted_source(false).await;
    cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
    backup_step().apply(&ctx, &allowing(&cluster)).await.unwrap();
    cluster.finish();
}

const ANOTHER: &str = "`migrate resume test-run --rerun node` makes another backup";

fn as_it_stands() -> String {
    format!(
        "no other backup can hold what the source no longer has: before this one expires, restore it as it stands in a \
         workflow of its own, by `blob.copy` with `order = \"velero\"` and `prefixes = [\"kopia/shop/\", \
         \"backups/{KEY}/\"]`, then `velero.restore` with `backup = \"{KEY}\"` (docs/velero.md)"
    )
}

/// Another backup needs the namespace, and another config makes another backup.
#[tokio::test]
async fn what_is_advised_where_the_source_is_gone_can_be_done() {
    let cluster = deleted_source(true).await;
    let (_, ctx) = context();
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(error.hint.unwrap(), as_it_stands());
    cluster.finish();
    // Once its claim alone is gone, another backup can be made too.
    let namespace = "/api/v1/namespaces/shop";
    cluster.lock().put(namespace, json!({}));
    let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
    let another = "`migrate resume test-run --rerun node` makes another backup, of what the source has now";
    assert_eq!(error.hint.unwrap(), format!("{}; {another}", as_it_stands()));
    cluster.finish();
    // A backup that no node of the workflow has made, on the target.
    let cluster = target().await;
    {
        let mut state = cluster.lock();
        state.put(
            &format!("{VELERO}/backups/{KEY}"),
            json!({ "spec": {}, "status": { "phase": "Completed" } }),
        );
        state.put(&format!("{VELERO}/podvolumebackups/p1"), pod_volume_backup("Completed", 20));
    }
    let config = json!({ "cluster": cluster.reference(), "source": cluster.reference(), "backup": KEY });
    let outputs = restore_step().apply(&ctx, &config).await.unwrap();
    assert_eq!(
        outputs["volumes"],
        json!([{ "namespace": "shop", "pod": "db-0", "volume": "data", "bytes": 20 }])
    );
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = restore_step().verify(&ctx, &config, &outputs, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:?}");
        let told = evidence.checks.iter().find(|check| check.status == CheckStatus::Warning);
        assert_eq!(told.unwrap().target, "unknown: nothing was compared", "{depth:?}");
    }
    cluster.finish();
}

/// What it would lead to is told first, since nothing keeps a restore by hand from it.
#[tokio::test]
async fn a_backup_that_would_do_harm_is_not_advised_to_be_restored_as_it_stands() {
    let cluster = deleted_source(true).await;
    meanwhile_a_job(&cluster);
    let error = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap_err();
    let said = "Job shop/bill (not completed) would run again on the target, from the beginning";
    assert_eq!(error.message, format!("backup `{KEY}` is not to be restored: {said}"));
    let hint = error.hint.unwrap();
    assert!(hint.starts_with("the source no longer has namespace shop, which no other backup can hold: "));
    assert!(hint.contains(&format!(
        "`velero restore create --from-backup {KEY} --resource-modifier-configmap NAME`"
    )));
    cluster.finish();
}

/// A source with a second namespace, of which all goes before Velero's turn but what `stays` of it.
async fn leaving(stays: Option<&'static str>) -> (Cluster, Value) {
    let cluster = source().await;
    let crm = "/api/v1/namespaces/crm";
    {
        let mut state = cluster.lock();
        state.put(crm, json!({}));
        state.put(&format!("{crm}/persistentvolumeclaims/files"), claim("Bound", "gp3"));
        let mut ephemeral = claim("Bound", "gp3");
        let owner =
            json!({ "apiVersion": "v1", "kind": "Pod", "name": "crm-0", "uid": "u", "controller": true });
        ephemeral["metadata"]["ownerReferences"] = json!([owner]);
        state.put(&format!("{crm}/persistentvolumeclaims/crm-0-scratch"), ephemeral);
        let mut pod = pod();
        pod["spec"]["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "files" } },
            { "name": "scratch", "ephemeral": {} }]);
        let mount = json!({ "name": "scratch", "mountPath": "/s" });
        pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
        state.put(&format!("{crm}/pods/crm-0"), pod);
    }
    meanwhile(&cluster, move |state| {
        state.objects.retain(|path, _| !path.starts_with(crm) || stays == Some(path.as_str()));
    });
    let mut config = backup_config(&cluster);
    config["namespaces"] = json!(["shop", "crm"]);
    (cluster, config)
}

#[tokio::test]
async fn a_namespace_that_goes_before_veleros_turn_is_named() {
    for is_back in [false, true] {
        let (cluster, mut config) = leaving(None).await;
        if is_back {
            let made = cluster.lock().on_create.take().unwrap();
            cluster.lock().on_create = Some(Box::new(move |state, path| {
                made(state, path);
                state.put("/api/v1/namespaces/crm", json!({}));
            }));
        }
        // However much may be left behind.
        for allowed in [false, true] {
            config["allow-unmounted"] = json!(allowed);
            let error = backup_step().apply(&context().1, &config).await.unwrap_err();
            assert_eq!(error.class, ErrorClass::Permanent);
            assert_eq!(
                error.message,
                format!("backup `{KEY}` doesn't hold namespace crm: being deleted at its turn")
            );
            let of_rest = "a run of its own with `namespaces = [\"shop\"]` makes another backup";
            assert_eq!(error.hint.unwrap(), if is_back { ANOTHER } else { of_rest });
        }
        cluster.finish();
    }
    // The only one, of which nothing is left but itself.
    let cluster = source().await;
    meanwhile(&cluster, |state| {
        state.objects.retain(|path, _| !path.starts_with("/api/v1/namespaces/shop/"));
        state.objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
        state.put_file("BackupResourceList", KEY, &json!({}));
    });
    let error = backup_step().apply(&context().1, &allowing(&cluster)).await.unwrap_err();
    assert!(error.message.contains("doesn't hold namespace shop"), "{error}");
    cluster.finish();
}

/// Of what the source still has another backup can be made, which this one would otherwise be taken for.
#[tokio::test]
async fn a_claim_without_data_is_named_also_beside_a_namespace_that_is_gone() {
    let (cluster, mut config) = leaving(None).await;
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        state.objects.remove(&format!("{VELERO}/podvolumebackups/p1"));
    }));
    for allowed in [false, true] {
        config["allow-unmounted"] = json!(allowed);
        let error = backup_step().apply(&context().1, &config).await.unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "backup `{KEY}` doesn't hold namespace crm: being deleted at its turn; it has no data of these \
                 claims: shop/data-db-0"
            )
        );
        let hint = error.hint.unwrap();
        assert!(hint.starts_with("Velero reads a volume through a running pod: "), "{hint}");
        let of_rest = "; then a run of its own with `namespaces = [\"shop\"]` makes another backup";
        assert!(hint.ends_with(of_rest), "{hint}");
    }
    // With its claim also what it might be restored for is gone.
    cluster.lock().objects.remove(CLAIM);
    let hint = backup_step().apply(&context().1, &config).await.unwrap_err().hint.unwrap();
    assert!(hint.starts_with("no other backup can hold what the source no longer has"), "{hint}");
    assert!(hint.ends_with("makes another backup, of what the source has now"), "{hint}");
    cluster.finish();
}

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0";

/// What becomes of a claim with data in the backup, and of its namespace, by the time that a run goes on.
fn losses() -> [(&'static str, &'static str, Option<Value>); 4] {
    let created = |time: &str| json!({ "metadata": { "creationTimestamp": time } });
    let mut again = claim("Bound", "gp3");
    again["metadata"]["creationTimestamp"] = json!("2026-01-02T01:00:00Z");
    let mut going = claim("Bound", "gp3");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-02T01:00:00Z");
    let namespace = "namespace shop (made again since)";
    [
        ("claim shop/data-db-0", CLAIM, None),
        ("claim shop/data-db-0", CLAIM, Some(again)),
        ("claim shop/data-db-0", CLAIM, Some(going)),
        (namespace, "/api/v1/namespaces/shop", Some(created("2026-01-02T01:00:00Z"))),
    ]
}

/// Another backup would lack it, and nothing would say so.
#[tokio::test]
async fn a_backup_that_has_the_last_of_a_claim_is_named_beside_another_one() {
    for (lost, path, left) in losses() {
        let cluster = source().await;
        // Its pod was not running at Velero's turn.
        meanwhile(&cluster, |state| {
            unmounted(state, "cache", "Delete", ("csi", json!({ "driver": "ebs.csi.aws.com" })));
        });
        list(
            &cluster,
            json!({ "v1/PersistentVolumeClaim": ["shop/data-db-0", "shop/cache"],
            "v1/PersistentVolume": ["pv-cache"] }),
        );
        let config = backup_config(&cluster);
        let error = backup_step().apply(&context().1, &config).await.unwrap_err();
        assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: shop/cache"));
        let hint = error.hint.unwrap();
        assert!(hint.ends_with(&format!("; then {ANOTHER}")) && !hint.contains(KEY), "{hint}");
        change(&cluster, path, left.clone());
        let error = backup_step().apply(&context().1, &config).await.unwrap_err();
        assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: shop/cache"));
        assert_eq!(
            error.hint.unwrap(),
            format!("{}; {ANOTHER}, of what the source has now", as_it_stands()),
            "{lost}"
        );
        cluster.finish();
        // One that would do harm.
        let cluster = source().await;
        meanwhile(&cluster, |state| {
            let job = json!({ "spec": { "template": {} }, "status": { "active": 1 } });
            state.put("/apis/batch/v1/namespaces/shop/jobs/bill", job);
            let owner = json!({ "apiVersion": "batch/v1", "kind": "Job", "name": "bill", "uid": "u", "controller": true });
            let metadata = json!({ "ownerReferences": [owner] });
            let spec = json!({ "containers": [], "restartPolicy": "Never" });
            let pod = json!({ "metadata": metadata, "spec": spec, "status": { "phase": "Running" } });
            state.put("/api/v1/namespaces/shop/pods/bill-x7", pod);
        });
        list(&cluster, json!({ "batch/v1/Job": ["shop/bill"], "v1/Pod": ["shop/db-0", "shop/bill-x7"] }));
        let hint = async || {
            let error = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap_err();
            error.hint.unwrap()
        };
        let only = hint().await;
        assert!(only.ends_with(&format!("; then {ANOTHER}")) && !only.contains(KEY), "{only}");
        change(&cluster, path, left);
        let hint = hint().await;
        assert!(
            hint.starts_with(&format!(
                "the source no longer has {lost}, which no other backup can hold: before"
            )),
            "{hint}"
        );
        // The pods, which Velero restores without their Job, would do its work.
        let by_hand = format!(
            "`velero restore create --from-backup {KEY} --resource-modifier-configmap NAME`, which suspends a Job and \
             has the pods of all that work (shop/bill-x7) do nothing but sleep; exclude no pods"
        );
        assert!(hint.contains(&by_hand) && !hint.contains("--exclude-resources"), "{hint}");
        assert!(hint.ends_with(&format!("; then {ANOTHER}, of what the source has now")), "{hint}");
        cluster.finish();
    }
}

/// That `path` is gone, or what `left` is in its place.
fn change(cluster: &Cluster, path: &str, left: Option<Value>) {
    let mut state = cluster.lock();
    match left {
        Some(left) => state.put(path, left),
        None => drop(state.objects.remove(path)),
    }
}

/// As where a release is uninstalled and its claims are deleted.
#[tokio::test]
async fn a_claim_that_goes_before_veleros_turn_is_named() {
    let (cluster, config) = leaving(Some("/api/v1/namespaces/crm")).await;
    list(&cluster, json!({ "v1/Namespace": ["crm", "shop"] }));
    let error = backup_step().apply(&context().1, &config).await.unwrap_err();
    // What came and went with a pod is not missed.
    assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: crm/files"));
    assert!(error.hint.unwrap().starts_with(&as_it_stands()));
    // Also where neither its list nor its contents can be read.
    cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
    let error = backup_step().apply(&context().1, &config).await.unwrap_err();
    assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: crm/files"));
    cluster.finish();
}

/// As where its controller, or a repository, has made it again, empty.
#[tokio::test]
async fn a_claim_that_goes_and_comes_back_before_veleros_turn_is_named() {
    for (created, is_readable, is_told) in [
        ("2026-01-01T00:00:00Z", true, false),
        ("2026-01-01T13:00:00Z", true, true),
        ("2026-01-01T13:00:00Z", false, true),
        // After Velero's turn: what is in the backup is of the one before.
        ("2026-01-02T01:00:00Z", false, false),
    ] {
        let (cluster, config) = leaving(Some("/api/v1/namespaces/crm")).await;
        let made = cluster.lock().on_create.take().unwrap();
        cluster.lock().on_create = Some(Box::new(move |state, path| {
            made(state, path);
            if let Some(backup) = state.objects.get_mut(path)
                && path.contains("/backups/")
            {
                backup["metadata"]["creationTimestamp"] = json!("2026-01-01T12:00:00Z");
                let mut again = claim("Bound", "gp3");
                again["metadata"]["creationTimestamp"] = json!(created);
                state.put("/api/v1/namespaces/crm/persistentvolumeclaims/files", again);
                let mut volume = pod_volume_backup("Completed", 20);
                volume["metadata"]["creationTimestamp"] = json!("2026-01-02T00:05:00Z");
                volume["metadata"]["annotations"] = json!({ "velero.io/pvc-name": "files" });
                volume["spec"]["pod"] = json!({ "namespace": "crm", "name": "crm-0" });
                state.put(&format!("{VELERO}/podvolumebackups/p2"), volume);
                state.put_contents(KEY);
            }
        }));
        list(
            &cluster,
            json!({ "v1/Namespace": ["crm", "shop"],
            "v1/PersistentVolumeClaim": ["crm/files", "shop/data-db-0"] }),
        );
        if !is_readable {
            cluster.lock().put_file("BackupResourceList", KEY, &json!("unreadable"));
        }
        let outcome = backup_step().apply(&context().1, &config).await;
        assert_eq!(outcome.is_err(), is_told, "{created}");
        if let Err(error) = outcome {
            let lacks = "has no data of these claims: crm/files (made again before its turn)";
            assert_eq!(error.message, format!("backup `{KEY}` {lacks}"));
            let hint = error.hint.unwrap();
            assert!(hint.starts_with("no other backup can hold what the source no longer has"), "{hint}");
        }
        cluster.finish();
    }
}
