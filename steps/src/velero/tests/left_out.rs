//! Claims without data in a backup that an earlier attempt has begun, of which the source has nothing any more.

use migrate_plugin_api::{CheckStatus, ErrorClass, Step, VerifyDepth};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::hazards::{list, meanwhile, unmounted};
use super::source::{backup_config, source};
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
    list(&cluster, json!({ "v1/PersistentVolumeClaim": claims, "v1/PersistentVolume": [volume] }));
    let made = cluster.lock().on_create.take().unwrap();
    cluster.lock().on_create = Some(Box::new(move |state, path| {
        made(state, path);
        if path.contains("/backups/") {
            state.objects.retain(|path, _| !path.starts_with("/api/v1/namespaces/shop"));
        }
    }));
    cluster
}

fn allowing(cluster: &Cluster) -> Value {
    let mut config = backup_config(cluster);
    config["allow-unmounted"] = json!(true);
    config
}

#[tokio::test]
async fn a_claim_without_data_is_named_also_when_its_namespace_is_gone() {
    for is_readable in [true, false] {
        let cluster = deleted_source(is_readable).await;
        let (_, ctx) = context();
        let error = backup_step().apply(&ctx, &backup_config(&cluster)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent);
        assert_eq!(error.message, format!("backup `{KEY}` has no data of these claims: shop/other"));
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
    backup_step().apply(&ctx, &allowing(&cluster)).await.unwrap();
    cluster.finish();
}
