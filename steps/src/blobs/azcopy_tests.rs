//! The engine `azcopy` with a script in the program's place.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, StepError, TypedStep as _};

use super::BlobCopy;
use super::config::{Engine, Overwrite};
use super::stand::{MIB, World, multipart, noise};

async fn world(script: &str) -> World {
    let mut world = World::new(None).await;
    world.bucket.put("small", "x");
    let program = world.project.path().join("azcopy");
    std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}", world.project.path().display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (world.config.engine, world.config.azcopy) = (Engine::Azcopy, Some(program));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_not_handed_to_azcopy_where_nothing_may_be_replaced() {
    let mut world = world("echo \"$@\" > args; cat .migrate/azcopy/*/list >> seen; exit 1\n").await;
    world.config.engine = Engine::Stream;
    world.apply().await.unwrap();
    world.bucket.put("small", "changed");
    world.bucket.put("new", "n");
    let before = world.sink.blobs()["small"].crc64;
    (world.config.engine, world.config.overwrite) = (Engine::Azcopy, Overwrite::Refuse);
    let error = world.apply().await.unwrap_err();
    let read = |name| std::fs::read_to_string(world.project.path().join(name)).unwrap();
    assert_eq!(read("seen"), "new\n");
    assert!(read("args").contains("--overwrite=false"), "{}", read("args"));
    let log = format!("{error:?} {:?}", world.host.recorded().log);
    assert!(log.contains("blob `small` is there and differs"), "{log}");
    assert_eq!(world.sink.blobs()["small"].crc64, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_begun_beside_one_that_outlived_its_migrate() {
    // What is in the background keeps the standard input, as AzCopy does after a SIGKILL of `migrate`.
    let world =
        world("echo run >> runs; exec 3<&0; sleep 300 <&3 >/dev/null 2>&1 & echo $! > pid; exit 1\n").await;
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None }, "{error:?}");
    let error = world.apply().await.unwrap_err();
    assert!(error.message.contains("of an earlier attempt still runs"), "{error:?}");
    let runs = || std::fs::read_to_string(world.project.path().join("runs")).unwrap();
    assert_eq!(runs(), "run\n");

    let pid = std::fs::read_to_string(world.project.path().join("pid")).unwrap();
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while runs() == "run\n" {
            let _ = world.apply().await;
        }
    })
    .await
    .unwrap();
    let pid = std::fs::read_to_string(world.project.path().join("pid")).unwrap();
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_were_half_written_when_it_was_killed_are_no_orders() {
    let world = world("echo run >> runs; exit 1\n").await;
    world.apply().await.unwrap_err();
    let folder =
        world.project.path().join(".migrate/azcopy").read_dir().unwrap().next().unwrap().unwrap().path();
    let (orders, before) = (folder.join("orders.json"), folder.join("before"));
    std::fs::hard_link(&orders, &before).unwrap();
    let written = std::fs::read(&orders).unwrap();
    std::fs::write(folder.join("orders.draft"), &written[..written.len() / 2]).unwrap();

    world.bucket.put("second", "x");
    let ctx = world.context().with_state(Some("job-1".to_owned()), None);
    let error = BlobCopy.apply(&ctx, &world.config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None }, "{error:?}");
    // The job was looked after, and another begun: its orders took the place of the old ones, which are whole.
    assert_eq!(std::fs::read_to_string(world.project.path().join("runs")).unwrap(), "run\nrun\nrun\n");
    assert!(std::fs::read_to_string(&orders).unwrap().contains("second"));
    assert_eq!(std::fs::read(&before).unwrap(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_azcopy_left_are_named_with_the_way_out() {
    for engine in [Engine::Stream, Engine::ServerSide] {
        let mut world = world("exit 1\n").await;
        world.config.engine = engine;
        world.bucket.put_object("large", multipart(noise(20 * MIB, 1), 1));
        let url = format!("{}/c/large", world.config.to.account_url.as_str().trim_end_matches('/'));
        let http = reqwest::Client::new();
        // AzCopy's IDs have 36 bytes.
        let id = [("comp", "block".to_owned()), ("blockid", "QUJD".repeat(12))];
        let staged = http.put(&url).query(&id).body("x").send().await.unwrap();
        assert_eq!(staged.status(), 201);
        let named = |error: &StepError| {
            let way_out = "another program's blocks wait at its name, as a stopped AzCopy leaves them: write an empty \
                           blob there and delete it, or wait the week";
            assert!(error.message.contains("`large`") && error.message.contains(way_out), "{error:?}");
        };
        named(&world.apply().await.unwrap_err());
        assert!(world.sink.counts().keys().all(|kind| !kind.starts_with("put-block-")), "it was tried");

        // As it says.
        let empty = http
            .put(&url)
            .header("x-ms-blob-type", "BlockBlob")
            .header("content-length", 0)
            .body("")
            .send()
            .await
            .unwrap();
        assert_eq!(empty.status(), 201);
        world.sink.forget("large");
        // They may come after the look.
        world.refuse(400, "InvalidBlobOrBlock", |kind, _, _| kind.starts_with("put-block"));
        named(&world.resume().await.unwrap_err());
        world.sink.set_faults(None);
        world.resume().await.unwrap();
        world.assert_equal();
    }
}
