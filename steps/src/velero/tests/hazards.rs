//! What `velero.backup` refuses or tells, since a restore of it would do harm.

use migrate_plugin_api::{CheckStatus, ErrorClass, Problem, Severity, Step, VerifyDepth};
use serde_json::{Value, json};

use super::cluster::{Cluster, State};
use super::source::{backup_config, source};
use super::*;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";
const EXCLUDED: &str = "velero.io/exclude-from-backup";

async fn planned(config: &Value) -> Vec<Problem> {
    backup_step().plan(&context().1, config).await.unwrap().problems
}

/// That it is refused before anything is made, and as what.
async fn refused(cluster: &Cluster, config: &Value) -> String {
    let problems = planned(config).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].severity, Severity::Error);
    let error = backup_step().apply(&context().1, config).await.unwrap_err();
    assert_eq!(error.message, problems[0].message);
    assert_eq!(error.hint, problems[0].hint);
    assert!(cluster.writes().is_empty(), "nothing is made");
    error.message
}

/// What is told, in the plan as well as in the evidence.
async fn told(config: &Value) -> Vec<String> {
    let problems = planned(config).await;
    assert!(problems.iter().all(|p| p.severity == Severity::Warning), "{problems:?}");
    let told: Vec<String> = problems.into_iter().map(|p| p.message).collect();
    let (_, ctx) = context();
    let outputs = backup_step().apply(&ctx, config).await.unwrap();
    let evidence = backup_step().verify(&ctx, config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    let warned = evidence.checks.into_iter().filter(|c| c.status == CheckStatus::Warning);
    assert_eq!(warned.map(|c| c.note.unwrap()).collect::<Vec<_>>(), told);
    told
}

/// That the backup holds `objects` too.
pub(super) fn list(cluster: &Cluster, objects: Value) {
    let mut all = json!({ "v1/Namespace": ["shop"], "v1/Pod": ["shop/db-0"],
        "v1/PersistentVolumeClaim": ["shop/data-db-0"] });
    for (kind, names) in objects.as_object().unwrap() {
        all[kind] = names.clone();
    }
    let mut state = cluster.lock();
    state.put_file("BackupResourceList", KEY, &all);
    state.put_contents(KEY);
}

/// What becomes of the source right after the backup was made, while Velero is at another one.
pub(super) fn meanwhile(cluster: &Cluster, then: impl Fn(&mut State) + Send + Sync + 'static) {
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/backups/") {
            then(state);
            state.put_contents(KEY);
        }
    }));
}

/// That the backup, which is made, is not handed on; why, and the way out.
async fn not_handed_on(cluster: &Cluster) -> (String, String) {
    let error = backup_step().apply(&context().1, &backup_config(cluster)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")]);
    let message = error.message.strip_prefix(&format!("backup `{KEY}` is not to be restored: ")).unwrap();
    (message.to_owned(), error.hint.unwrap())
}

/// A pod that mounts `volume` beside its claim.
fn pod_with(volume: Value) -> Value {
    let mut pod = pod();
    let mut volume = volume;
    volume["name"] = json!("more");
    pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
    let mount = json!({ "name": "more", "mountPath": "/more" });
    pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
    pod
}

#[tokio::test]
async fn a_share_that_both_sides_mount_is_never_restored_over() {
    let cluster = source().await;
    let config = backup_config(&cluster);
    let mut pod = pod_with(json!({ "nfs": { "server": "nfs.example", "path": "/shop" } }));
    cluster.lock().put(&format!("{PODS}/db-0"), pod.clone());
    assert_eq!(
        refused(&cluster, &config).await,
        "volume shop/db-0/more (nfs nfs.example:/shop) would be the same storage on the target, where the restore \
         would write the backup over what is in it by then"
    );
    let nfs = json!({ "server": "nfs.example", "path": "/shop", "readOnly": true });
    cluster.lock().put(&format!("{PODS}/db-0"), pod_with(json!({ "nfs": nfs })));
    assert_eq!(
        refused(&cluster, &config).await,
        "volume shop/db-0/more (nfs nfs.example:/shop) would be read-only on the target, where the restore could not \
         write it"
    );
    pod["metadata"] = json!({ "annotations": { "backup.velero.io/backup-volumes-excludes": "more" } });
    cluster.lock().put(&format!("{PODS}/db-0"), pod);
    cluster.lock().put_contents(KEY);
    // The restored pod mounts it all the same.
    assert_eq!(
        told(&config).await,
        [
            "volume shop/db-0/more (nfs nfs.example:/shop) would be the same storage on the target, into which the \
          restored pods would write"
        ]
    );
    cluster.finish();
}

/// A claim of `shop` on a volume of `source` with the reclaim `policy`, that no pod mounts.
pub(super) fn unmounted(state: &mut State, name: &str, policy: &str, source: (&str, Value)) {
    let mut claim = claim("Bound", "static");
    claim["spec"]["volumeName"] = json!(format!("pv-{name}"));
    state.put(&format!("{CLAIMS}/{name}"), claim);
    let mut spec = json!({ "persistentVolumeReclaimPolicy": policy });
    spec[source.0] = source.1;
    state.put(&format!("/api/v1/persistentvolumes/pv-{name}"), json!({ "spec": spec }));
}

fn filer() -> (&'static str, Value) {
    ("nfs", json!({ "server": "nfs.example", "path": "/docs" }))
}

/// Velero restores a volume whose data isn't in the backup as it is, unless it is to be deleted with its claim.
#[tokio::test]
async fn a_claim_without_data_never_takes_a_live_share_along() {
    let said = "claim shop/docs (volume pv-docs, nfs nfs.example:/docs, Retain) would be the same storage on the \
                target, into which the restored pods would write";
    let cluster = source().await;
    let mut config = backup_config(&cluster);
    config["allow-unmounted"] = json!(true);
    unmounted(&mut cluster.lock(), "docs", "Retain", filer());
    let errors = async || {
        let problems = planned(&config).await.into_iter();
        let errors = problems.filter(|problem| problem.severity == Severity::Error);
        errors.map(|problem| problem.message).collect::<Vec<_>>()
    };
    assert_eq!(errors().await, [said]);
    let error = backup_step().apply(&context().1, &config).await.unwrap_err();
    assert_eq!(error.message, said);
    assert!(cluster.writes().is_empty(), "nothing is made");
    // The ways out: it is left out of the backup, or read through a pod.
    let (claim, volume) = (format!("{CLAIMS}/docs"), "/api/v1/persistentvolumes/pv-docs");
    for path in [&*claim, volume] {
        cluster.lock().objects.get_mut(path).unwrap()["metadata"]["labels"] = json!({ EXCLUDED: "true" });
        assert_eq!(errors().await, [] as [String; 0], "{path}");
        cluster.lock().objects.get_mut(path).unwrap()["metadata"]["labels"] = json!({});
    }
    let mounting = pod_with(json!({ "persistentVolumeClaim": { "claimName": "docs" } }));
    cluster.lock().put(&format!("{PODS}/reader"), mounting);
    assert_eq!(planned(&config).await, []);
    cluster.finish();
}

/// It came, or its pod went, before Velero's turn.
#[tokio::test]
async fn a_backup_that_would_take_a_live_share_along_is_not_handed_on() {
    for is_readable in [true, false] {
        let cluster = source().await;
        meanwhile(&cluster, |state| unmounted(state, "docs", "Retain", filer()));
        let objects = json!({ "v1/PersistentVolumeClaim": ["shop/data-db-0", "shop/docs"],
            "v1/PersistentVolume": [if is_readable { "pv-docs" } else { "pv-other" }] });
        list(&cluster, objects);
        let mut config = backup_config(&cluster);
        config["allow-unmounted"] = json!(true);
        let error = backup_step().apply(&context().1, &config).await.unwrap_err();
        assert!(error.message.contains("claim shop/docs (volume pv-docs, nfs nfs.example:/docs"), "{error}");
        assert_eq!(cluster.writes(), [format!("POST {VELERO}/backups")]);
        cluster.finish();
    }
}

#[tokio::test]
async fn a_claim_that_keeps_its_volume_is_told_and_one_made_anew_is_not() {
    let cluster = source().await;
    let mut config = backup_config(&cluster);
    config["allow-unmounted"] = json!(true);
    let driver = |name: &str| ("csi", json!({ "driver": name, "volumeHandle": "h" }));
    unmounted(&mut cluster.lock(), "anew", "Delete", driver("efs.csi.aws.com"));
    unmounted(&mut cluster.lock(), "disk", "Retain", driver("ebs.csi.aws.com"));
    let read_only = json!({ "server": "nfs.example", "path": "/docs", "readOnly": true });
    unmounted(&mut cluster.lock(), "papers", "Retain", ("nfs", read_only));
    let problems = planned(&config).await;
    assert!(problems.iter().all(|problem| problem.severity == Severity::Warning), "{problems:?}");
    let kept = problems.iter().filter(|problem| problem.message.contains("keep its volume"));
    assert_eq!(
        kept.map(|problem| problem.message.split(" would").next().unwrap()).collect::<Vec<_>>(),
        [
            "claim shop/disk (volume pv-disk, csi ebs.csi.aws.com, Retain)",
            "claim shop/papers (volume pv-papers, nfs nfs.example:/docs, Retain)",
        ]
    );
    cluster.finish();
}

#[tokio::test]
async fn work_that_is_not_done_is_not_done_twice_unasked() {
    let cluster = source().await;
    let mut config = backup_config(&cluster);
    let path = "/apis/batch/v1/namespaces/shop/jobs/bill";
    let mut job = json!({ "spec": { "template": {} }, "status": { "active": 1 } });
    cluster.lock().put(path, job.clone());
    let said = "Job shop/bill (not completed) would run again on the target, from the beginning";
    assert_eq!(refused(&cluster, &config).await, said);
    let mut alone = pod();
    alone["spec"]["restartPolicy"] = json!("Never");
    cluster.lock().objects.remove(path);
    cluster.lock().put(&format!("{PODS}/import"), alone);
    let alone = "pod shop/import (restartPolicy Never) would run again on the target, from the beginning";
    assert_eq!(refused(&cluster, &config).await, alone);
    cluster.lock().objects.remove(&format!("{PODS}/import"));
    job["metadata"] = json!({ "labels": { EXCLUDED: "true" } });
    cluster.lock().put(path, job.clone());
    assert_eq!(planned(&config).await, []);
    job["metadata"] = json!({});
    cluster.lock().put(path, job);
    config["allow-unfinished-jobs"] = json!(true);
    list(&cluster, json!({ "batch/v1/Job": ["shop/bill"] }));
    assert_eq!(told(&config).await, [said]);
    // A backup that is made is not asked about any more.
    config["allow-unfinished-jobs"] = json!(false);
    assert_eq!(planned(&config).await, []);
    cluster.finish();
}

#[tokio::test]
async fn work_that_begins_while_velero_learns_of_kinds_is_seen() {
    let cluster = source().await;
    cluster.lock().on_list = Some(Box::new(|state, path| {
        if path.ends_with("/customresourcedefinitions") {
            let job = json!({ "spec": { "template": {} }, "status": { "active": 1 } });
            state.put("/apis/batch/v1/namespaces/shop/jobs/bill", job);
        }
    }));
    let error = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap_err();
    assert_eq!(
        error.message,
        "Job shop/bill (not completed) would run again on the target, from the beginning"
    );
    assert!(cluster.writes().is_empty(), "nothing is made");
    cluster.finish();
}

/// Velero makes one backup after the other: what has begun by the time of ours is in it.
#[tokio::test]
async fn work_that_begins_before_velero_does_is_not_done_twice_unasked() {
    let cluster = source().await;
    let path = "/apis/batch/v1/namespaces/shop/jobs/bill";
    meanwhile(&cluster, move |state| {
        // After Velero began, and before it listed the jobs.
        let metadata = json!({ "creationTimestamp": "2026-01-02T00:00:01Z" });
        state.put(
            path,
            json!({ "metadata": metadata, "spec": { "template": {} }, "status": { "active": 1 } }),
        );
    });
    list(&cluster, json!({ "batch/v1/Job": ["shop/bill"] }));
    let said = "Job shop/bill (not completed) would run again on the target, from the beginning";
    let (message, hint) = not_handed_on(&cluster).await;
    assert_eq!(message, said);
    assert!(hint.ends_with("; then `migrate resume test-run --rerun node` makes another backup"), "{hint}");
    // Done by now, and not when Velero listed it.
    cluster.lock().objects.get_mut(path).unwrap()["status"] =
        json!({ "completionTime": "2026-01-02T01:00:00Z" });
    assert_eq!(not_handed_on(&cluster).await.0, said);
    let mut config = backup_config(&cluster);
    config["allow-unfinished-jobs"] = json!(true);
    let outputs = backup_step().apply(&context().1, &config).await.unwrap();
    assert_eq!(outputs["remarks"], json!([said]));
    // What the backup doesn't hold is no matter of it.
    list(&cluster, json!({}));
    let outputs = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap();
    assert_eq!(outputs.get("remarks"), None);
    cluster.finish();
}

/// A pod of a CronJob, with a share, that comes while Velero is at another backup, and is gone when ours is done.
#[tokio::test]
async fn what_is_gone_again_when_the_backup_is_done_is_not_restored_over_either() {
    let share = "volume shop/report-1/more (nfs nfs.example:/shop) would be the same storage on the target, where the \
                 restore would write the backup over what is in it by then";
    for phase in ["Running", "Succeeded"] {
        let cluster = source().await;
        let mut passing = pod_with(json!({ "nfs": { "server": "nfs.example", "path": "/shop" } }));
        passing["status"]["phase"] = json!(phase);
        meanwhile(&cluster, move |state| {
            state.put(&format!("{PODS}/report-1"), passing.clone());
            let mut volume = pod_volume_backup("Completed", 20);
            volume["metadata"]["annotations"] = json!({});
            (volume["spec"]["pod"]["name"], volume["spec"]["volume"]) = (json!("report-1"), json!("more"));
            state.put(&format!("{VELERO}/podvolumebackups/p2"), volume);
        });
        list(&cluster, json!({ "v1/Pod": ["shop/db-0", "shop/report-1"] }));
        if phase == "Running" {
            cluster.lock().on_list = Some(Box::new(|state, path| {
                if path.ends_with("/jobs") {
                    state.objects.remove(&format!("{PODS}/report-1"));
                }
            }));
        }
        assert_eq!(not_handed_on(&cluster).await.0, share, "{phase}");
        cluster.finish();
    }
}

#[tokio::test]
async fn a_door_that_opens_before_velero_begins_is_seen() {
    let cluster = source().await;
    meanwhile(&cluster, |state| {
        let annotations = json!({ "service.beta.kubernetes.io/aws-load-balancer-internal": "true" });
        let service = json!({ "metadata": { "annotations": annotations },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 5432 }] } });
        state.put("/api/v1/namespaces/shop/services/db", service);
    });
    list(&cluster, json!({ "v1/Service": ["shop/db"] }));
    let (message, _) = not_handed_on(&cluster).await;
    assert!(message.starts_with("Service shop/db ("), "{message}");
    // What is mended at the source by now is not mended in the backup.
    let path = "/api/v1/namespaces/shop/services/db";
    cluster.lock().objects.get_mut(path).unwrap()["metadata"]["annotations"]["service.beta.kubernetes.io/azure-load-balancer-internal"] =
        json!("true");
    assert_eq!(not_handed_on(&cluster).await.0, message);
    cluster.lock().objects.remove(path);
    assert_eq!(not_handed_on(&cluster).await.0, message);
    cluster.finish();
}

/// A hook of a release, say, whose Job had completed, and is made anew under its name while Velero copies volumes.
#[tokio::test]
async fn what_has_the_name_of_something_in_the_backup_is_not_taken_for_it() {
    let cluster = source().await;
    let path = "/apis/batch/v1/namespaces/shop/jobs/bill";
    let completed =
        json!({ "spec": { "template": {} }, "status": { "completionTime": "2026-01-01T00:00:00Z" } });
    cluster.lock().put(path, completed);
    list(&cluster, json!({ "batch/v1/Job": ["shop/bill"] }));
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, created| {
        made(state, created);
        state.put(path, json!({ "spec": { "template": {} }, "status": { "active": 1 } }));
    }));
    let outputs = backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap();
    assert_eq!(outputs.get("remarks"), None);
    cluster.finish();
}

/// The store may be out of reach from here, or a later Velero may pack otherwise.
#[tokio::test]
async fn a_backup_that_can_not_be_read_is_judged_by_what_the_source_has() {
    for (name, is_gone) in [("shop/bill", false), ("shop/other", false), ("shop/bill", true)] {
        let cluster = source().await;
        if is_gone {
            cluster.lock().on_list = Some(Box::new(|state, path| {
                if path.ends_with("/jobs") {
                    state.objects.remove("/apis/batch/v1/namespaces/shop/jobs/bill");
                }
            }));
        }
        meanwhile(&cluster, |state| {
            let metadata = json!({ "creationTimestamp": "2026-01-01T00:00:00Z" });
            let job = json!({ "metadata": metadata, "spec": { "template": {} }, "status": { "active": 1 } });
            state.put("/apis/batch/v1/namespaces/shop/jobs/bill", job);
        });
        list(&cluster, json!({ "batch/v1/Job": [name] }));
        if name == "shop/bill" {
            unreadable(&cluster);
        }
        let (host, ctx) = context();
        let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
        // Its list is believed before the source is.
        let said = match name {
            "shop/bill" => "Job shop/bill (not completed) would run again",
            _ => "Job shop/other can't be read from here, and is gone from the source",
        };
        assert!(error.message.contains(said), "{error}");
        let told = format!("what backup `{KEY}` holds can't be read");
        let log = host.recorded().log;
        assert!(log.iter().any(|(_, line)| line.contains(&told)), "{log:?}");
        cluster.finish();
    }
}

/// That the archive of the backup can't be read from here.
fn unreadable(cluster: &Cluster) {
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, created| {
        made(state, created);
        state.put_file("BackupContents", KEY, &json!("no archive"));
    }));
}

/// A source with a Service that AWS keeps inside, `created` after the backup was asked for, of which the archive can't be
/// read. Velero began it at 00:00:00, and had listed the source by 00:05:00.
async fn opened_late(created: &'static str) -> Cluster {
    let cluster = source().await;
    meanwhile(&cluster, move |state| {
        let annotations = json!({ "service.beta.kubernetes.io/aws-load-balancer-internal": "true" });
        let service = json!({ "metadata": { "annotations": annotations, "creationTimestamp": created },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 5432 }] } });
        state.put("/api/v1/namespaces/shop/services/db", service);
        let volume = state.objects.get_mut(&format!("{VELERO}/podvolumebackups/p1")).unwrap();
        volume["metadata"]["creationTimestamp"] = json!("2026-01-02T00:05:00Z");
    });
    unreadable(&cluster);
    cluster
}

/// Velero lists the source some time after it begins.
#[tokio::test]
async fn what_came_just_after_an_unreadable_backup_began_is_judged_by_its_list() {
    let unlisted = json!("unreadable");
    let cluster = opened_late("2026-01-02T00:00:01Z").await;
    list(&cluster, json!({ "v1/Service": ["shop/db"] }));
    let (message, hint) = not_handed_on(&cluster).await;
    assert!(message.starts_with("Service shop/db (service.beta"), "{message}");
    assert!(
        hint.starts_with("resume where the URLs that Velero gives for its files can be reached; or"),
        "{hint}"
    );
    // Without a list it may be in it.
    cluster.lock().put_file("BackupResourceList", KEY, &unlisted);
    assert_eq!(not_handed_on(&cluster).await.0, message);
    list(&cluster, json!({}));
    cluster.lock().put_file("BackupContents", KEY, &json!("no archive"));
    backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap();
    cluster.finish();
    // What came after the first volume was made is not.
    let cluster = opened_late("2026-01-02T00:05:01Z").await;
    cluster.lock().put_file("BackupResourceList", KEY, &unlisted);
    backup_step().apply(&context().1, &backup_config(&cluster)).await.unwrap();
    cluster.finish();
}

/// As where a run goes on when the backup is done.
#[tokio::test]
async fn what_an_unreadable_backup_holds_and_nobody_has_seen_is_not_restored_unasked() {
    let cluster = source().await;
    meanwhile(&cluster, |state| {
        let completed = json!({ "phase": "Completed", "startTimestamp": "2026-01-02T00:00:00Z" });
        state.scripts.insert(format!("{VELERO}/backups/{KEY}"), vec![completed]);
    });
    unreadable(&cluster);
    list(&cluster, json!({ "v1/Service": ["shop/db"] }));
    let said = "Service shop/db can't be read from here, and is gone from the source: if AWS kept it inside, it would be \
                public on AKS";
    assert_eq!(not_handed_on(&cluster).await.0, said);
    list(&cluster, json!({ "batch/v1/Job": ["shop/bill"] }));
    cluster.lock().put_file("BackupContents", KEY, &json!("no archive"));
    let said = "Job shop/bill can't be read from here, and is gone from the source: if it had not ended, it would run \
                again on the target, from the beginning";
    assert_eq!(not_handed_on(&cluster).await.0, said);
    let mut config = backup_config(&cluster);
    config["allow-unfinished-jobs"] = json!(true);
    let outputs = backup_step().apply(&context().1, &config).await.unwrap();
    assert_eq!(outputs["remarks"], json!([said]));
    cluster.finish();
}

#[tokio::test]
async fn work_that_a_cron_job_begins_names_it() {
    let cluster = source().await;
    let owner = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "name": "report", "uid": "u", "controller": true });
    let job = json!({ "metadata": { "ownerReferences": [owner] }, "spec": { "template": {} },
        "status": { "active": 1 } });
    cluster.lock().put("/apis/batch/v1/namespaces/shop/jobs/report-1", job);
    let config = backup_config(&cluster);
    assert_eq!(
        refused(&cluster, &config).await,
        "Job shop/report-1 (not completed, of CronJob report) would run again on the target, from the beginning"
    );
    let hint = planned(&config).await[0].hint.clone().unwrap();
    assert!(
        hint.starts_with("suspend the CronJob that it is of, if any, and wait for its end; or delete it"),
        "{hint}"
    );
    cluster.finish();
}

#[tokio::test]
async fn what_stays_behind_or_runs_on_both_sides_is_told() {
    let cluster = source().await;
    let cron_job = json!({ "spec": { "schedule": "0 3 * * *", "jobTemplate": {} } });
    let mut suspended = cron_job.clone();
    suspended["spec"]["suspend"] = json!(true);
    {
        let mut state = cluster.lock();
        state.put(&format!("{PODS}/db-0"), pod_with(json!({ "hostPath": { "path": "/mnt/data" } })));
        state.put("/apis/batch/v1/namespaces/shop/cronjobs/report", cron_job);
        state.put("/apis/batch/v1/namespaces/shop/cronjobs/off", suspended);
    }
    list(&cluster, json!({ "batch/v1/CronJob": ["shop/off", "shop/report"] }));
    assert_eq!(
        told(&backup_config(&cluster)).await,
        [
            "volume shop/db-0/more (hostPath /mnt/data) would be left behind: Velero doesn't read folders of nodes",
            "CronJob shop/report would run on the target as well, at the same times",
        ]
    );
    cluster.finish();
}

#[tokio::test]
async fn what_aws_keeps_inside_is_not_made_public() {
    let cluster = source().await;
    let config = backup_config(&cluster);
    let service = |annotations: Value, labels: Value| {
        let mut metadata = json!({ "annotations": annotations, "labels": labels });
        metadata["creationTimestamp"] = json!("2026-01-03T00:00:00Z");
        json!({ "metadata": metadata, "spec": { "type": "LoadBalancer", "ports": [{ "port": 5432 }] } })
    };
    let path = "/api/v1/namespaces/shop/services/db";
    let inside = json!({ "service.beta.kubernetes.io/aws-load-balancer-internal": "true" });
    cluster.lock().put(path, service(inside.clone(), json!({})));
    assert_eq!(
        refused(&cluster, &config).await,
        "Service shop/db (service.beta.kubernetes.io/aws-load-balancer-internal: true) would be public on AKS, which \
         doesn't read what keeps it inside, or guards it, on AWS"
    );
    cluster.lock().put(path, service(inside.clone(), json!({ EXCLUDED: "true" })));
    assert_eq!(planned(&config).await, []);
    let mut on_both = inside;
    on_both["service.beta.kubernetes.io/azure-load-balancer-internal"] = json!("true");
    cluster.lock().put(path, service(on_both, json!({})));
    assert_eq!(told(&config).await, [] as [String; 0]);
    cluster.finish();
}
