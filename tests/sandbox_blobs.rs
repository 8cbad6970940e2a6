//! `blob.copy` between the sandbox's real S3 and Blob services.
//!
//! Needs a running sandbox: `MIGRATE_SANDBOX_PROJECT=… cargo test -p migrate-tests --features sandbox --test sandbox_blobs`.

#[path = "blobs/rig.rs"]
mod rig;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use azure_storage_blob::models::{BlobClientGetPropertiesResultHeaders, BlockBlobClientUploadOptions};
use bytes::Bytes;
use migrate_plugin_api::{CancellationToken, Check, ErrorClass, Severity, TypedStep as _, VerifyDepth};
use migrate_steps::blobs::{BlobCopy, Engine, Order, Overwrite};
use rig::{Line, Rig, noise};

const MIB: usize = 1 << 20;
/// The mover's block.
const BLOCK: usize = 8 * MIB;
/// Requests of the child that is killed.
const IN_FLIGHT: usize = 4;

fn failures(evidence: &migrate_plugin_api::Evidence) -> Vec<&Check> {
    evidence.failures().collect()
}

/// For what takes seconds, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(300);
/// How soon "soon" is: what is under way is given up, not waited for.
const SOON: Duration = Duration::from_secs(10);

/// Until `happened`; a test that would wait for ever fails instead.
async fn until<F: Future<Output = bool>>(what: &str, mut happened: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !happened().await {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_proven_and_a_rerun_sends_nothing() {
    let mut rig = Rig::new("arrives").await;
    let large = noise(3 * BLOCK + 5, 1);
    rig.put_parts("large.bin", &large, 5 * MIB).await;
    for number in 0..30_u64 {
        rig.put(&format!("small/{number:02}"), noise(4096, number + 2)).await;
    }
    for key in ["empty", "a b/+%25/ü/😀", "x-y", "x/y", "double//slash"] {
        rig.put(key, key.to_owned().replace("empty", "")).await;
    }
    let dressed =
        rig.s3.put_object().bucket(&rig.config.from.bucket).key("dressed").body(b"{}".to_vec().into());
    let dressed = dressed.content_type("application/json").cache_control("no-cache").metadata("a-b", "1");
    dressed.send().await.unwrap();

    let plan = rig.plan().await;
    assert_eq!((plan.items, plan.problems.len()), (Some(37), 0), "{plan:?}");
    assert_eq!(rig.names().await, [] as [String; 0], "plan wrote something");

    let outputs = rig.apply().await;
    assert_eq!((outputs.objects, outputs.copied, outputs.streamed), (37, 37, 37), "{outputs:?}");
    assert_eq!(outputs.reasons, [("as configured".to_owned(), 37)].into());
    assert_eq!(outputs.renamed_metadata, [("a-b → a_b".to_owned(), 1)].into());
    assert!(outputs.checksums["crc64nvme"] >= 36, "{outputs:?}");
    assert!(rig.read("large.bin").await == large, "other bytes arrived");
    let dressed = rig.blob("dressed").get_properties(None).await.unwrap();
    assert_eq!(dressed.content_type().unwrap().as_deref(), Some("application/json"));
    assert_eq!(dressed.cache_control().unwrap().as_deref(), Some("no-cache"));
    assert_eq!(dressed.metadata().unwrap()["a_b"], "1");

    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = rig.verify(&outputs, depth).await;
        assert!(evidence.passed(), "{:?}", failures(&evidence));
        let check = &evidence.checks[0];
        assert_eq!(
            (check.what.as_str(), check.source.as_str(), check.target.as_str()),
            ("objects", "37", "37")
        );
    }

    let line = Line::to(&rig.config.to.account_url).await;
    rig.config.to.account_url = line.url.clone();
    let again = rig.apply().await;
    assert_eq!((again.copied, again.skipped, again.objects), (0, 37, 37), "{again:?}");
    assert!(line.sent() < 10_000, "a rerun sent {} bytes", line.sent());

    rig.put("small/07", noise(4096, 99)).await;
    let plan = rig.plan().await;
    assert_eq!((plan.items, plan.destroys.len()), (Some(1), 1), "{plan:?}");
    let delta = rig.apply().await;
    assert_eq!((delta.copied, delta.replaced, delta.skipped), (1, 1, 36), "{delta:?}");
    assert_eq!(rig.read("small/07").await, noise(4096, 99));

    rig.put("small/08", noise(4096, 98)).await;
    rig.config.overwrite = Overwrite::Refuse;
    let refused = BlobCopy.apply(&rig.context(), &rig.config).await.unwrap_err();
    assert!(refused.message.contains("blob `small/08` is there and differs"), "{refused}");
    assert_eq!(rig.read("small/08").await, noise(4096, 10));
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_is_found_and_named() {
    let rig = Rig::new("changed").await;
    for key in ["kopia/shop/p01", "kopia/shop/p02", "kopia/shop/p03"] {
        rig.put(key, noise(20_000, 7)).await;
    }
    let outputs = rig.apply().await;
    let mut bytes = noise(20_000, 7).to_vec();
    bytes[12_345] ^= 1;
    let bytes = Bytes::from(bytes);

    // As anything that writes a blob does it: our marks are gone.
    rig.overwrite("kopia/shop/p02", bytes.clone(), BlockBlobClientUploadOptions::default()).await;
    let evidence = rig.verify(&outputs, VerifyDepth::Quick).await;
    assert_eq!(failures(&evidence).len(), 1, "{evidence:?}");
    assert_eq!(failures(&evidence)[0].subject, "blob kopia/shop/p02");

    // With the marks kept the listing still shows another MD5.
    let metadata = rig.blob("kopia/shop/p01").get_properties(None).await.unwrap().metadata().unwrap();
    let kept = BlockBlobClientUploadOptions { metadata: Some(metadata.clone()), ..Default::default() };
    rig.overwrite("kopia/shop/p02", bytes.clone(), kept).await;
    let evidence = rig.verify(&outputs, VerifyDepth::Quick).await;
    assert_eq!((failures(&evidence).len(), failures(&evidence)[0].what.as_str()), (1, "md5"), "{evidence:?}");

    // With every mark forged only the bytes tell.
    let mut forged: HashMap<String, String> = metadata;
    forged.remove("migrate_md5");
    let kept = BlockBlobClientUploadOptions { metadata: Some(forged), ..Default::default() };
    rig.overwrite("kopia/shop/p02", bytes, kept).await;
    assert!(rig.verify(&outputs, VerifyDepth::Quick).await.passed());
    let evidence = rig.verify(&outputs, VerifyDepth::Deep).await;
    let failed = failures(&evidence);
    assert_eq!((failed[0].subject.as_str(), failed[0].what.as_str()), ("blob kopia/shop/p02", "crc64"));
    assert_ne!(failed[0].source, failed[0].target);

    rig.blob("kopia/shop/p03").delete(None).await.unwrap();
    let evidence = rig.verify(&outputs, VerifyDepth::Quick).await;
    let checks: Vec<_> = failures(&evidence).iter().map(|c| (c.subject.as_str(), c.what.as_str())).collect();
    assert!(checks.contains(&("blob kopia/shop/p03", "existence")), "{checks:?}");
    assert!(checks.contains(&("container", "objects")), "{checks:?}");

    // A finished place is no reason to leave it so.
    let repaired = BlobCopy.apply(&rig.resumed(), &rig.config).await.unwrap();
    assert_eq!((repaired.copied, repaired.skipped), (1, 2), "{repaired:?}");
    assert_eq!(rig.read("kopia/shop/p03").await, noise(20_000, 7));
    rig.remove().await;
}

/// The child of the next test: copies until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_kill_loses_no_finished_block"]
async fn child_that_is_killed() {
    let name = std::env::var("BLOBS_TEST_RIG").expect("the name of the parent's rig");
    let mut rig = Rig::named(&name).await;
    rig.config.concurrency = std::num::NonZero::new(IN_FLIGHT);
    rig.apply().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_finished_block() {
    let name = format!("blobs-kill-{}", std::process::id());
    let mut rig = Rig::named(&name).await;
    let large = noise(300 * MIB, 3);
    rig.put_parts("large.bin", &large, 32 * MIB).await;

    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_is_killed"])
        .env("BLOBS_TEST_RIG", &name)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("staging of 5 blocks", || async { rig.staged("large.bin").await >= 5 }).await;
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    let staged = rig.staged("large.bin").await;
    let blocks = (300 * MIB).div_ceil(BLOCK);
    assert!(staged < blocks, "the child was not killed in the middle");
    assert_eq!(rig.names().await, [] as [String; 0], "half a blob is visible");

    // Not even the cursor is left, which a kill in the first seconds may take.
    let line = Line::to(&rig.config.to.account_url).await;
    rig.config.to.account_url = line.url.clone();
    let outputs = rig.apply().await;
    // What was on its way when the child died may have arrived after it.
    let found = outputs.blocks_reused as usize;
    assert!((staged..=staged + IN_FLIGHT).contains(&found), "{found} of {staged} blocks found: {outputs:?}");
    let missing = (300 * MIB - found * BLOCK) as u64;
    let sent = line.sent();
    assert!((missing..missing + MIB as u64).contains(&sent), "sent {sent} bytes for {missing} missing");
    println!("{found} of {blocks} blocks were there; {sent} bytes sent for {missing} missing");
    assert_eq!(outputs.checksums, [("crc64nvme".to_owned(), 1)].into());
    assert!(rig.read("large.bin").await == large, "other bytes arrived");
    assert!(rig.verify(&outputs, VerifyDepth::Deep).await.passed());
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_request_ends_soon_and_goes_on() {
    let mut rig = Rig::new("stop").await;
    rig.config.concurrency = std::num::NonZero::new(2);
    for number in 0..20_u64 {
        rig.put(&format!("{number:02}"), noise(4096, number)).await;
    }
    rig.put_parts("large.bin", &noise(200 * MIB, 3), 32 * MIB).await;
    let cancel = CancellationToken::new();
    let (ctx, config) = (rig.context().with_cancel(cancel.clone()), rig.config.clone());
    let copy = tokio::spawn(async move { BlobCopy.apply(&ctx, &config).await });
    until("staging", || async { rig.staged("large.bin").await >= 2 }).await;
    let asked = Instant::now();
    cancel.cancel();
    let error = copy.await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled);
    let took = asked.elapsed();
    assert!(took < SOON, "it took {took:?}");
    println!("stopped {took:?} after it was asked to");
    let cursor = rig.host.recorded().cursors.last().cloned().unwrap();
    assert_eq!(
        (cursor["ranges"][0]["after"].as_str(), cursor["counts"]["copied"].as_u64()),
        (Some("19"), Some(20))
    );

    let outputs = BlobCopy.apply(&rig.resumed(), &rig.config).await.unwrap();
    assert_eq!((outputs.objects, outputs.copied, outputs.skipped), (21, 21, 0), "{outputs:?}");
    assert!(outputs.blocks_reused >= 2, "{outputs:?}");
    assert!(rig.verify(&outputs, VerifyDepth::Quick).await.passed());
    let last = rig.host.recorded().progress.last().cloned().unwrap();
    assert_eq!(last.items.map(|i| i.done), Some(21));
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_is_never_mixed() {
    let mut rig = Rig::new("mixed").await;
    rig.config.concurrency = std::num::NonZero::new(2);
    rig.put_parts("large.bin", &noise(300 * MIB, 3), 32 * MIB).await;
    let (ctx, config) = (rig.context(), rig.config.clone());
    let copy = tokio::spawn(async move { BlobCopy.apply(&ctx, &config).await });
    until("staging", || async { rig.staged("large.bin").await >= 2 }).await;
    assert_eq!(rig.names().await, [] as [String; 0], "the copy was faster than the test");
    let second = noise(20 * MIB, 4);
    rig.put("large.bin", second.clone()).await;
    let outputs = copy.await.unwrap().unwrap();
    assert!(rig.read("large.bin").await == second, "not the second version");
    assert_eq!((outputs.copied, outputs.bytes), (1, second.len() as u64), "{outputs:?}");
    assert!(rig.verify(&outputs, VerifyDepth::Deep).await.passed());
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn velero_sees_no_backup_before_its_data() {
    let mut rig = Rig::new("velero").await;
    rig.config.order = Order::Velero;
    rig.config.prefixes = Some(vec!["backups/b1/".to_owned(), "kopia/shop/".to_owned()]);
    for key in ["backups/b1/b1.tar.gz", "backups/b1/velero-backup.json", "backups/b2/x", "kopia/shop/p01"] {
        rig.put(key, key.to_owned()).await;
    }
    let bad = rig.s3.put_object().bucket(&rig.config.from.bucket).key("kopia/shop/p02");
    bad.metadata("a-b", "1").metadata("a_b", "2").body(b"x".to_vec().into()).send().await.unwrap();

    let error = BlobCopy.apply(&rig.context(), &rig.config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(error.message.contains("kopia/shop/p02") && error.message.contains("`a-b` and `a_b`"), "{error}");
    assert_eq!(rig.names().await, ["kopia/shop/p01"]);

    rig.put("kopia/shop/p02", "good").await;
    let outputs = BlobCopy.apply(&rig.resumed(), &rig.config).await.unwrap();
    assert_eq!((outputs.objects, outputs.copied), (4, 4), "{outputs:?}");
    let names = rig.names().await;
    let expected =
        ["backups/b1/b1.tar.gz", "backups/b1/velero-backup.json", "kopia/shop/p01", "kopia/shop/p02"];
    assert_eq!(names, expected);
    assert!(rig.verify(&outputs, VerifyDepth::Quick).await.passed());
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_said_before_the_start() {
    let mut rig = Rig::new("problems").await;
    rig.put("ends-with-dot.", "x").await;
    let plan = rig.plan().await;
    assert!(
        plan.problems[0].message.contains("`ends-with-dot.` (a path segment ends with a dot)"),
        "{plan:?}"
    );

    let good = rig.config.clone();
    rig.config.from.bucket = "no-such-bucket".to_owned();
    let plan = rig.plan().await;
    assert_eq!(
        (plan.problems[0].severity, plan.problems[0].field.as_deref()),
        (Severity::Error, Some("from"))
    );
    let endpoint = good.from.endpoint.as_ref().unwrap().as_str().trim_end_matches('/').to_owned();
    assert_eq!(plan.problems[0].message, format!("bucket `no-such-bucket` at {endpoint} doesn't exist"));

    rig.config = good.clone();
    rig.config.to.container = "no-such-container".to_owned();
    let plan = rig.plan().await;
    assert_eq!((plan.problems.len(), plan.problems[0].field.as_deref()), (1, Some("to")), "{plan:?}");
    assert!(plan.problems[0].message.contains("no-such-container"), "{plan:?}");

    rig.config = good.clone();
    rig.host.put_secret(
        &rig.config.to.sas.as_ref().unwrap().to_string(),
        "sv=2022-11-02&sp=rl&se=2020-01-01T00:00:00Z&sig=SECRET",
    );
    let plan = rig.plan().await;
    let said: Vec<&str> = plan.problems.iter().map(|p| p.message.as_str()).collect();
    assert!(said.iter().any(|m| m.contains("lacks the permission to write")), "{said:?}");
    assert!(said.iter().any(|m| m.contains("expired at 2020-01-01")), "{said:?}");
    let everything = format!("{plan:?}{:?}", rig.host.recorded().log);
    assert!(!everything.contains("SECRET"), "{everything}");

    // A target that nobody answers for: the SAS is in the URL that failed.
    rig.config.to.account_url = "http://127.0.0.1:9/account".parse().unwrap();
    let error = BlobCopy.apply(&rig.context(), &rig.config).await.unwrap_err();
    assert!(error.class.is_retryable(), "{error:?}");
    assert!(!format!("{error:?}{:?}", error.to_record()).contains("SECRET"));

    rig.config = good;
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_fetches_what_it_can() {
    let mut rig = Rig::new("fetch").await;
    rig.config.engine = Engine::Auto;
    let large = noise(70 * MIB, 5);
    rig.put_parts("large.bin", &large, 32 * MIB).await;
    for number in 0..5_u64 {
        rig.put(&format!("small/{number}"), noise(4096, number)).await;
    }
    // Percent-encoded this passes the 2 KiB of a source URL.
    let long = format!("{0}/{0}/{0}", "ü".repeat(120));
    rig.put(&long, "long").await;
    let sent = Line::to(&rig.config.to.account_url).await;
    rig.config.to.account_url = sent.url.clone();
    let outputs = rig.apply().await;
    assert_eq!((outputs.server_side, outputs.streamed), (6, 1), "{outputs:?}");
    assert_eq!(outputs.reasons, [("the presigned URL is longer than 2 KiB".to_owned(), 1)].into());
    assert!(sent.sent() < 100_000, "{} bytes went through this machine", sent.sent());
    assert!(rig.read("large.bin").await == large, "other bytes arrived");
    let evidence = rig.verify(&outputs, VerifyDepth::Deep).await;
    assert!(evidence.passed(), "{:?}", failures(&evidence));
    println!("checksums: {:?}", outputs.checksums);

    rig.config.engine = Engine::ServerSide;
    rig.put(&format!("{long}2"), "longer").await;
    let error = BlobCopy.apply(&rig.context(), &rig.config).await.unwrap_err();
    assert!(error.message.contains("can't go server-side"), "{error}");
    rig.remove().await;
}
