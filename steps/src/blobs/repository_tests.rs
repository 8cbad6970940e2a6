//! Velero's repositories between two services of our own: whose they are, and that they arrive whole
//! though their Velero is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use migrate_plugin_api::{ErrorClass, TypedStep as _, VerifyDepth};

use super::BlobCopy;
use super::config::Order;
use super::stand::World;
use super::stand::bucket::{Bucket, Object};
use super::stand::sink::Fault;

fn format(id: &str, rest: &str) -> String {
    format!("{{\"tool\":\"https://github.com/kopia/kopia\",\"uniqueID\":\"{id}\",\"x\":\"{rest}\"}}")
}

/// A repository of one pack and one index, and a backup.
async fn world() -> World {
    let mut world = World::new(None).await;
    world.config.order = Order::Velero;
    world.bucket.put("kopia/shop/kopia.repository", format("ours", "1"));
    for key in ["kopia/shop/p1", "kopia/shop/q1", "kopia/shop/x1", "backups/b/velero-backup.json"] {
        world.bucket.put(key, key.to_owned());
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_is_never_copied_over() {
    let mut world = world().await;
    for prefixes in [None, Some(vec!["kopia/shop/".to_owned(), "backups/b/".to_owned()])] {
        world.config.prefixes = prefixes;
        world.bucket.put("kopia/shop/kopia.repository", format("theirs", "1"));
        world.apply().await.unwrap();
        let before = world.sink.blobs();
        world.bucket.put("kopia/shop/kopia.repository", format("ours", "1"));
        world.bucket.put("kopia/shop/x2", "x2");

        let plan = world.plan().await;
        assert!(plan.problems.iter().any(|p| p.message.contains("at `kopia/shop/`")), "{plan:?}");
        let error = world.apply().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent);
        assert!(error.message.contains("another repository of volume data at `kopia/shop/`"), "{error:?}");
        // Nor by an attempt that finds it among the failed.
        assert_eq!(world.resume().await.unwrap_err().class, ErrorClass::Permanent);
        let marks = |blobs: std::collections::BTreeMap<_, super::stand::sink::Stored>| {
            blobs.into_iter().map(|(name, blob)| (name, blob.crc64)).collect::<Vec<_>>()
        };
        assert_eq!(marks(world.sink.blobs()), marks(before));
        world.bucket.delete("kopia/shop/x2");
    }

    // The same one, written anew.
    world.bucket.put("kopia/shop/kopia.repository", format("theirs", "2"));
    assert_eq!(world.apply().await.unwrap().replaced, 1);
    world.assert_equal();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_repository_is_copied_comes_whole() {
    let world = world().await;
    world.bucket.put("kopia/bank/kopia.repository", format("bank", "1"));
    let bucket = Arc::clone(&world.bucket);
    world.sink.set_faults(Some(Box::new(move |kind, name, _| {
        match (kind, name) {
            // A backup ends: packs, then the index that names them.
            ("put-blob", "kopia/shop/x1") => {
                bucket.put("kopia/shop/q2", "q2");
                bucket.put("kopia/shop/x2", "x2");
            }
            ("put-blob", "kopia/shop/x2") => {
                bucket.put("kopia/shop/a-late-pack", "late");
                bucket.put("kopia/bank/x1", "bank");
            }
            _ => {}
        }
        None
    })));
    let outputs = world.apply().await.unwrap();
    world.assert_equal();
    let all = world.bucket.sums().len() as u64;
    assert_eq!((outputs.objects, outputs.copied, outputs.skipped), (all, all, 0), "{outputs:?}");
    let evidence =
        BlobCopy.verify(&world.context(), &world.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_ends_later_is_left_to_the_next_pass() {
    let world = world().await;
    world.refuse(400, "InvalidInput", |kind, name, _| kind == "put-blob" && name == "backups/b/log");
    world.bucket.put("backups/b/log", "log");
    assert!(world.apply().await.is_err());
    world.sink.set_faults(None);
    // A day later there is another one, of whose volumes nothing is here.
    for key in ["kopia/shop/p2", "kopia/shop/x2", "backups/b2/velero-backup.json"] {
        let later = Some("2099-01-01T00:00:00Z");
        let bytes = key.as_bytes().into();
        let etag = format!("{key}-1");
        world.bucket.put_object(key, Object { bytes, etag, modified: later, ..Object::default() });
    }
    let outputs = world.resume().await.unwrap();
    let blobs = world.sink.blobs();
    assert!(blobs.contains_key("backups/b/velero-backup.json"));
    assert!(!blobs.contains_key("backups/b2/velero-backup.json"), "its volumes are not here");
    let verify =
        BlobCopy.verify(&world.context(), &world.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(verify.passed(), "{verify:?}");
    assert!(verify.checks.iter().any(|check| check.what == "objects changed since the copy"), "{verify:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_never_arrives_without_what_it_names() {
    let world = world().await;
    let (bucket, sink) = (Arc::clone(&world.bucket), Arc::clone(&world.sink));
    let count = Arc::new(AtomicU64::new(1));
    world.bucket.set_faults(Some(Box::new(move |kind, _, _| {
        // Something is written while every page is listed, always as Kopia does.
        if kind == "list" && sink.blobs().contains_key("kopia/shop/p1") {
            let number = count.fetch_add(1, Ordering::Relaxed);
            bucket.put(&format!("kopia/shop/p0-{number}"), "p");
            bucket.put(&format!("kopia/shop/x0-{number}"), "x");
        }
        None
    })));
    let error = world.apply().await.unwrap_err();
    assert!(error.class.is_retryable() && error.message.contains("volume data changed"), "{error:?}");
    assert!(!world.sink.blobs().contains_key("backups/b/velero-backup.json"), "Velero would read it");

    world.bucket.set_faults(None);
    world.resume().await.unwrap();
    world.assert_equal();
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_were_compacted_between_two_attempts_are_listed_anew() {
    let world = world().await;
    world.bucket.put("kopia/shop/x2", "x2");
    world.refuse(400, "InvalidInput", |kind, name, _| kind == "put-blob" && name.ends_with("/x2"));
    assert_eq!(world.apply().await.unwrap_err().class, ErrorClass::Permanent);
    world.sink.set_faults(None);
    world.bucket.delete("kopia/shop/x2");
    world.bucket.put("kopia/shop/x0-both", "x0");
    let outputs = world.resume().await.unwrap();
    world.assert_equal();
    assert_eq!(outputs.objects, world.bucket.sums().len() as u64, "{outputs:?}");
}

/// What a backup and a compaction of the indexes leave at the source, as Kopia and restic order it.
fn moves_on(bucket: &Bucket) {
    for key in ["kopia/shop/p2", "kopia/shop/x0-both"] {
        let (bytes, etag) = (key.as_bytes().into(), format!("{key}-1"));
        let modified = Some("2099-01-01T00:00:00Z");
        bucket.put_object(key, Object { bytes, etag, modified, ..Object::default() });
    }
    bucket.delete("kopia/shop/x1");
    bucket.delete("kopia/shop/p1");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_index_is_deleted_before_the_one_in_its_place_is_there_with_its_packs() {
    // When the source moves on: after an attempt that failed in a later phase, after one that failed while it
    // deleted, and while a later phase is copied.
    for (refused, fails) in [(Some("put-blob"), true), (Some("delete"), true), (None, false)] {
        let mut world = world().await;
        world.bucket.put("backups/b/log", "log");
        world.bucket.put("backups/a/velero-backup.json", "a");
        world.apply().await.unwrap();
        world.bucket.delete("backups/a/velero-backup.json");
        world.bucket.put("backups/b/log", "another");
        world.config.delete_extra = true;
        let (bucket, sink) = (Arc::clone(&world.bucket), Arc::clone(&world.sink));
        match refused {
            Some(refused) => world.refuse(400, "InvalidInput", move |kind, _, _| kind == refused),
            None => world.sink.set_faults(Some(Box::new(move |kind, name, _| {
                if kind == "put-blob" && name == "backups/b/log" {
                    moves_on(&bucket);
                }
                assert!(
                    kind != "delete"
                        || !name.starts_with("kopia")
                        || sink.blobs().contains_key("kopia/shop/p2"),
                    "{name} went too early"
                );
                None
            }))),
        }
        let mut outputs = world.apply().await;
        assert_eq!(outputs.is_err(), fails, "{refused:?}: {outputs:?}");
        if fails {
            world.sink.set_faults(None);
            moves_on(&world.bucket);
            outputs = world.resume().await;
        }
        world.assert_equal();
        let outputs = outputs.unwrap();
        // Five, the log, and the two that came.
        assert_eq!((outputs.objects, outputs.deleted), (8, 3), "{refused:?}: {outputs:?}");
        world.assert_proven(&outputs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_volume_data_that_never_holds_still_nothing_is_deleted() {
    let mut world = world().await;
    world.bucket.put("backups/a/velero-backup.json", "a");
    world.apply().await.unwrap();
    world.bucket.delete("backups/a/velero-backup.json");
    world.bucket.delete("kopia/shop/p1");
    world.config.delete_extra = true;
    let (bucket, count) = (Arc::clone(&world.bucket), AtomicU64::new(0));
    let another = Fault { status: 412, code: "ConditionNotMet", retry_after: None };
    world.sink.set_faults(Some(Box::new(move |kind, name, _| {
        let hit = kind == "delete" && name.starts_with("backups/");
        if hit {
            bucket.put(&format!("kopia/shop/x-{}", count.fetch_add(1, Ordering::Relaxed)), "x");
        }
        hit.then(|| another.clone())
    })));
    let error = world.apply().await.unwrap_err();
    assert!(error.class.is_retryable() && error.message.contains("volume data changed"), "{error:?}");
    assert!(world.sink.blobs().contains_key("kopia/shop/p1"));
    world.sink.set_faults(None);
    assert_eq!(world.resume().await.unwrap().deleted, 2);
    world.assert_equal();
}
