//! Buckets that list in an order of their own, as S3 directory buckets do.

use super::Overwrite;
use super::stand::World;

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
