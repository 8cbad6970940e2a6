//! Buckets that list in an order of their own, as S3 directory buckets do.

use migrate_plugin_api::ErrorClass;

use super::Overwrite;
use super::stand::World;
use super::stand::sink::Fault;

/// Objects of a bucket whose listing runs backwards.
const OBJECTS: u64 = 40;

async fn world() -> World {
    let world = World::new(None).await;
    world.bucket.disorder(true);
    for number in 0..OBJECTS {
        world.bucket.put(&format!("{number:03}"), format!("{number}"));
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_replaced_and_is_there_is_proven_again() {
    let mut world = world().await;
    world.config.overwrite = Overwrite::Refuse;
    for _ in 0..2 {
        let outputs = world.apply().await.unwrap();
        assert_eq!(outputs.objects, OBJECTS, "{outputs:?}");
        world.assert_equal();
        world.assert_proven(&outputs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_counts_once_though_the_listing_has_no_place_to_go_on_at() {
    let mut world = world().await;
    world.config.concurrency = std::num::NonZero::new(2);
    let fault = Fault { status: 403, code: "AccessDenied", retry_after: None };
    world.bucket.set_faults(Some(Box::new(move |kind, key, _| {
        (kind == "get" && key == "010").then(|| fault.clone())
    })));
    assert_eq!(world.apply().await.unwrap_err().class, ErrorClass::Auth);
    assert!(!world.sink.blobs().is_empty());
    world.bucket.set_faults(None);
    let outputs = world.resume().await.unwrap();
    assert_eq!(outputs.objects, OBJECTS, "{outputs:?}");
    world.assert_equal();
    world.assert_proven(&outputs).await;
}
