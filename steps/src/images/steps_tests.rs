//! The steps against two real registries.

use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CancellationToken, Check, CheckStatus, ErrorClass, LogLevel, Step, StepContext, StepError, StepPlan,
    Typed, VerifyDepth, unknown,
};
use serde_json::{Value, json};

use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::auth::Credentials;
use super::content::RegistryContent;
use super::deliver::Delivery;
use super::digest::Digest;
use super::graph::Image;
use super::manifest::{Manifest, OCI_INDEX, OCI_MANIFEST};
use super::meter::Meter;
use super::reference::ImageRef;
use super::registry::Registry;
use super::stand::{Stand, cursor, host, limits, noise};

struct Pair {
    source: Stand,
    target: Stand,
    project: tempfile::TempDir,
    host: Arc<RecordingHost>,
}

impl Pair {
    async fn start() -> Self {
        let (source, target) = tokio::join!(Stand::start(), Stand::start());
        Self { source, target, project: tempfile::tempdir().unwrap(), host: host() }
    }

    fn context(&self) -> StepContext {
        self.host.context("images", self.project.path())
    }

    fn name(&self, short: &str) -> String {
        format!("{}/{short}", self.source.host)
    }

    fn pull_config(&self, images: &[&str]) -> Value {
        let images: Vec<String> = images.iter().map(|image| self.name(image)).collect();
        json!({ "from": self.source.reference(), "aws": { "region": "us-east-1" }, "images": images,
                "layout": ".migrate/images" })
    }

    fn push_config(&self, pulled: &Value) -> Value {
        json!({ "layout": pulled["layout"], "images": pulled["images"], "to": self.target.reference() })
    }

    fn copy_config(&self, images: &[&str]) -> Value {
        let mut config = self.pull_config(images);
        config.as_object_mut().unwrap().remove("layout");
        config["to"] = self.target.reference();
        config
    }

    async fn pull(&self, images: &[&str]) -> Result<Value, StepError> {
        pull().apply(&self.context(), &self.pull_config(images)).await
    }

    async fn push(&self, pulled: &Value) -> Result<Value, StepError> {
        push().apply(&self.context(), &self.push_config(pulled)).await
    }

    fn layout_blob(&self, digest: &str) -> std::path::PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.project.path().join(".migrate/images/blobs/sha256").join(hex)
    }
}

fn pull() -> Typed<super::pull::Pull> {
    Typed(super::pull::Pull)
}

fn push() -> Typed<super::push::Push> {
    Typed(super::push::Push)
}

fn copy() -> Typed<super::copy::Copy> {
    Typed(super::copy::Copy)
}

/// An estate: two indexes (OCI and Docker) and an image that share a base; the first is signed.
async fn estate(source: &Stand) -> [String; 2] {
    let base = noise(1, 700_000);
    let web = source.index("shop/web", "1.0", false, &base).await;
    source.index("shop/legacy", "2", true, &base).await;
    source.image("tools/job", "3", &[base, noise(2, 5_000)]).await;
    source.sign("shop/web", &web).await
}

const ESTATE: [&str; 3] = ["shop/web:1.0", "shop/legacy:2", "tools/job:3"];

#[tokio::test(flavor = "multi_thread")]
async fn images_arrive_with_equal_digests_and_everything_attached() {
    let pair = Pair::start().await;
    let attached = estate(&pair.source).await;
    let pulled = pair.pull(&ESTATE).await.unwrap();
    assert_eq!(pulled["images"][0]["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(pulled["images"][2]["platforms"], json!(["linux/amd64"]));
    let before = pair.source.requests().await;
    let pushed = pair.push(&pulled).await.unwrap();
    assert_eq!(pair.source.requests().await, before, "a push from disk asks the source nothing");

    for image in ESTATE {
        let (repository, tag) = image.split_once(':').unwrap();
        let digest = pair.source.digest(repository, tag).await;
        assert!(digest.is_some());
        assert_eq!(pair.target.digest(repository, tag).await, digest, "{image}");
    }
    for digest in attached {
        assert_eq!(pair.target.digest("shop/web", &digest).await, Some(digest));
    }
    let stem = pushed["images"][0]["digest"].as_str().unwrap().replace(':', "-");
    for tag in [format!("{stem}.sig"), stem] {
        let digest = pair.source.digest("shop/web", &tag).await;
        assert!(digest.is_some());
        assert_eq!(pair.target.digest("shop/web", &tag).await, digest);
    }
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let config = pair.pull_config(&ESTATE);
        let evidence = pull().verify(&pair.context(), &config, &pulled, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:#?}");
        let config = pair.push_config(&pulled);
        let evidence = push().verify(&pair.context(), &config, &pushed, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:#?}");
        assert_eq!(evidence.checks[0].subject, "image shop/web:1.0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_blob_crosses_once_and_a_second_run_sends_nothing() {
    let pair = Pair::start().await;
    estate(&pair.source).await;
    let pulled = pair.pull(&ESTATE).await.unwrap();
    let base = Digest::of(&noise(1, 700_000)).to_string();
    let reads = pair.source.requests().await["GET blobs"];
    let blobs = std::fs::read_dir(pair.layout_blob(&base).parent().unwrap()).unwrap().count() as u64;
    let manifests = pulled["images"].as_array().unwrap().len() as u64 + 4 + 3;
    assert_eq!(reads, blobs - manifests, "each blob is read once");

    let pushed = pair.push(&pulled).await.unwrap();
    assert_eq!(pushed["traffic"]["blobs-mounted"], 2, "the base goes to two further repositories by mount");
    let writes = pair.target.blob_writes().await;
    assert_eq!(writes, pushed["traffic"]["blobs-sent"].as_u64().unwrap());

    let requests = pair.target.requests().await;
    // Four platforms, three images, a signature, an SBOM and the list that names it: once each.
    assert_eq!(requests["PUT manifests"], 10);

    let again = pair.pull(&ESTATE).await.unwrap();
    assert_eq!(again["bytes-fetched"], 0);
    assert_eq!(pair.source.requests().await["GET blobs"], reads);
    let again = pair.push(&again).await.unwrap();
    assert_eq!(
        again["traffic"],
        json!({ "blobs-sent": 0, "blobs-mounted": 0, "blobs-present": 0,
        "bytes-sent": 0, "manifests-written": 0, "blobs-proved": 0 })
    );
    assert_eq!(pair.target.blob_writes().await, writes);
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_copies_the_same_without_a_disk() {
    let pair = Pair::start().await;
    estate(&pair.source).await;
    let config = pair.copy_config(&ESTATE);
    let copied = copy().apply(&pair.context(), &config).await.unwrap();
    assert_eq!(pair.source.digest("shop/web", "1.0").await, pair.target.digest("shop/web", "1.0").await);
    let evidence = copy().verify(&pair.context(), &config, &copied, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:#?}");
    assert!(!pair.project.path().join(".migrate").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_transfer_goes_on_where_it_was() {
    let pair = Pair::start().await;
    let layers: Vec<_> = (0..12).map(|seed| noise(seed + 10, 200_000)).collect();
    pair.source.image("shop/big", "1", &layers).await;

    // Stopped at the first sign of progress, again and again, until a run gets through: between
    // them no finished blob may be read or sent twice.
    let mut pulled = None;
    for _ in 0..100 {
        if let Some(outputs) = interrupted(&pair, &pull(), &pair.pull_config(&["shop/big:1"])).await {
            pulled = Some(outputs);
            break;
        }
    }
    let pulled = pulled.expect("every attempt makes progress");
    let evidence = pull()
        .verify(&pair.context(), &pair.pull_config(&["shop/big:1"]), &pulled, VerifyDepth::Deep)
        .await
        .unwrap();
    assert!(evidence.passed(), "{evidence:#?}");

    // Half of the blobs are at the target already.
    for layer in &layers[..6] {
        pair.target.put_blob("shop/big", layer.clone()).await;
    }
    let before = pair.target.blob_writes().await;
    let pushed = pair.push(&pulled).await.unwrap();
    assert_eq!(pushed["traffic"]["blobs-present"], 6);
    assert_eq!(pushed["traffic"]["blobs-sent"], 7);
    assert_eq!(pair.target.blob_writes().await - before, 7, "no finished blob is sent again");
}

/// Runs `step` and stops it as soon as it has reported bytes.
async fn interrupted(pair: &Pair, step: &dyn Step, config: &Value) -> Option<Value> {
    let cancel = CancellationToken::new();
    let host = host();
    let ctx = host.context("images", pair.project.path()).with_cancel(cancel.clone());
    let apply = step.apply(&ctx, config);
    let watch = async {
        loop {
            let moved = host.recorded().progress.iter().any(|p| p.bytes.is_some_and(|bytes| bytes.done > 0));
            if moved {
                cancel.cancel();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = apply => match result {
            Ok(outputs) => Some(outputs),
            Err(error) => {
                assert_eq!(error.class, ErrorClass::Cancelled, "{error}");
                None
            }
        },
        () = watch => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_blob_in_the_layout_is_not_read_again() {
    let pair = Pair::start().await;
    let layer = noise(3, 400_000);
    pair.source.image("shop/big", "1", std::slice::from_ref(&layer)).await;
    let ingest = pair.project.path().join(".migrate/images/ingest");
    std::fs::create_dir_all(&ingest).unwrap();
    let digest = Digest::of(&layer);
    std::fs::write(ingest.join(digest.as_tag()), &layer[..300_000]).unwrap();
    let pulled = pair.pull(&["shop/big:1"]).await.unwrap();
    let config_bytes = 60;
    assert!(pulled["bytes-fetched"].as_u64().unwrap() < 100_000 + config_bytes);
    assert_eq!(std::fs::read(pair.layout_blob(&digest.to_string())).unwrap(), layer);

    // A wrong half is noticed and read again from the start.
    std::fs::remove_file(pair.layout_blob(&digest.to_string())).unwrap();
    std::fs::write(ingest.join(digest.as_tag()), vec![0; 300_000]).unwrap();
    let pulled = pair.pull(&["shop/big:1"]).await.unwrap();
    assert_eq!(pulled["bytes-fetched"], 400_000);
    assert_eq!(std::fs::read(pair.layout_blob(&digest.to_string())).unwrap(), layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_different_tag_at_the_target_stays_unless_told() {
    let pair = Pair::start().await;
    pair.source.image("shop/web", "1.0", &[noise(4, 1_000)]).await;
    pair.target.image("shop/web", "1.0", &[noise(5, 1_000)]).await;
    let theirs = pair.target.digest("shop/web", "1.0").await.unwrap();
    let pulled = pair.pull(&["shop/web:1.0"]).await.unwrap();
    let writes = pair.target.blob_writes().await;
    let error = pair.push(&pulled).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    let ours = pulled["images"][0]["digest"].as_str().unwrap();
    let text = error
        .to_string()
        .replace(&pair.target.host, "TARGET")
        .replace(&theirs, "THEIRS")
        .replace(ours, "OURS");
    insta::assert_snapshot!(text, @"image shop/web:1.0 exists in TARGET with digest THEIRS instead of OURS");
    assert_eq!(pair.target.blob_writes().await, writes, "nothing was sent");
    assert_eq!(pair.target.digest("shop/web", "1.0").await.unwrap(), theirs);

    let mut config = pair.push_config(&pulled);
    config["overwrite"] = json!(true);
    push().apply(&pair.context(), &config).await.unwrap();
    assert_eq!(pair.target.digest("shop/web", "1.0").await.unwrap(), ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_changed_is_named() {
    let pair = Pair::start().await;
    let layer = noise(6, 2_000);
    pair.source.image("shop/web", "1.0", std::slice::from_ref(&layer)).await;
    let error = pair.pull(&["shop/gone:1"]).await.unwrap_err();
    let text = error.to_string().replace(&pair.source.host, "SOURCE");
    insta::assert_snapshot!(text, @"image SOURCE/shop/gone:1 is not in registry SOURCE");

    let pulled = pair.pull(&["shop/web:1.0"]).await.unwrap();
    let pushed = pair.push(&pulled).await.unwrap();
    let config = pair.push_config(&pulled);
    let digest = pushed["images"][0]["digest"].as_str().unwrap();

    // A byte of a layer, in the layout.
    let path = pair.layout_blob(&Digest::of(&layer).to_string());
    let mut bytes = layer.to_vec();
    bytes[1_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let pull_config = pair.pull_config(&["shop/web:1.0"]);
    let verify = |depth| {
        let (ctx, config, pulled) = (pair.context(), pull_config.clone(), pulled.clone());
        async move { pull().verify(&ctx, &config, &pulled, depth).await.unwrap() }
    };
    assert!(verify(VerifyDepth::Quick).await.passed());
    let evidence = verify(VerifyDepth::Deep).await;
    let failure = evidence.failures().next().unwrap();
    assert_eq!((failure.subject.as_str(), failure.what.as_str()), ("image shop/web:1.0", "blob"));

    // A layer, at the target.
    std::fs::remove_file(pair.target.blob_file(&Digest::of(&layer).to_string())).unwrap();
    let evidence = push().verify(&pair.context(), &config, &pushed, VerifyDepth::Deep).await.unwrap();
    assert_eq!(evidence.failures().count(), 2);

    // The image, at the target.
    pair.target.delete_manifest("shop/web", digest).await;
    let evidence = push().verify(&pair.context(), &config, &pushed, VerifyDepth::Quick).await.unwrap();
    let failure = evidence.failures().next().unwrap();
    assert_eq!((failure.what.as_str(), failure.target.as_str()), ("digest", "missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_stands_in_the_way() {
    let pair = Pair::start().await;
    let digest = pair.source.image("shop/web", "1.0", &[noise(7, 1_000)]).await;
    let plan = pull().plan(&pair.context(), &pair.pull_config(&["shop/web:1.0"])).await.unwrap();
    assert_eq!(plan.items, Some(1));
    assert!(plan.bytes.unwrap() > 1_000, "{digest}");
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);

    let plan = pull().plan(&pair.context(), &pair.pull_config(&["shop/gone:1"])).await.unwrap();
    assert_eq!(plan.problems[0].field.as_deref(), Some("images"));

    // Before anything has run, the images are unknown; the registries can be asked all the same.
    let mut config = pair.pull_config(&[]);
    config["images"] = unknown("nodes.inventory.images");
    assert!(pull().plan(&pair.context(), &config).await.unwrap().problems.is_empty());
    config["from"]["username"] = json!("nobody");
    let plan = pull().plan(&pair.context(), &config).await.unwrap();
    assert_eq!(plan.problems[0].field.as_deref(), Some("from"));
    let text = plan.problems[0].message.replace(&pair.source.host, "SOURCE");
    insta::assert_snapshot!(text, @"failed to log in at SOURCE: 401 UNAUTHORIZED authentication required");

    let mut to = pair.target.reference();
    to["endpoint"] = json!("http://127.0.0.1:1");
    let config = json!({ "layout": unknown("nodes.pull-images.layout"),
        "images": unknown("nodes.pull-images.images"), "to": to });
    let plan = push().plan(&pair.context(), &config).await.unwrap();
    assert_eq!(plan.problems[0].field.as_deref(), Some("to"));
    assert!(!Path::new(".migrate").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_don_t_write_one_layout() {
    let pair = Pair::start().await;
    let root = pair.project.path().join("l");
    let _first = super::layout::Layout::open_for_writing(root.clone(), "l").await.unwrap();
    let error = super::layout::Layout::open_for_writing(root, "l").await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Conflict);
}

/// The source told of a referrer by its API; the target has none, so the list that clients keep
/// there grows by it, and what was in it stays.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_listed_where_the_target_has_no_api_for_them() {
    let pair = Pair::start().await;
    let layer = [noise(8, 1_000)];
    let image = pair.source.image("shop/web", "1.0", &layer).await;
    let [_, sbom] = pair.source.sign("shop/web", &image).await;
    let pulled = pair.pull(&["shop/web:1.0"]).await.unwrap();
    let stem = image["digest"].as_str().unwrap().replace(':', "-");

    // As a pull from a registry with the API leaves the layout: the referrer, and no list.
    let path = pair.project.path().join(".migrate/images/index.json");
    let index = std::fs::read_to_string(&path).unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    let name = "org.opencontainers.image.ref.name";
    let entries = index["manifests"].as_array_mut().unwrap();
    let list = pair.name(&format!("shop/web:{stem}"));
    let entry = entries.iter_mut().find(|entry| entry["annotations"][name] == list.as_str()).unwrap();
    entry["digest"] = json!(sbom);
    entry["annotations"][name] = json!(pair.name(&format!("shop/web@{sbom}")));
    std::fs::write(&path, index.to_string()).unwrap();

    // The target has the image already, with a referrer of its own.
    pair.target.image("shop/web", "1.0", &layer).await;
    let theirs = pair.target.image("shop/web", "theirs", &[noise(9, 10)]).await;
    let list = json!({ "schemaVersion": 2, "mediaType": super::manifest::OCI_INDEX, "manifests": [theirs] });
    pair.target.put_manifest("shop/web", &stem, super::manifest::OCI_INDEX, &list).await;

    for _ in 0..2 {
        pair.push(&pulled).await.unwrap();
        let list = pair.target.client().get_manifest("shop/web", &stem).await.unwrap().unwrap();
        let listed: Vec<String> = list.parts.manifests.iter().map(|m| m.digest.to_string()).collect();
        assert_eq!(listed, [theirs["digest"].as_str().unwrap(), &sbom]);
        assert_eq!(list.parts.manifests[1].artifact_type.as_deref(), Some("application/spdx+json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_would_move_and_what_is_in_the_way() {
    let pair = Pair::start().await;
    estate(&pair.source).await;
    let mut config = pair.copy_config(&ESTATE);
    config["names"] = json!({ "prefix": "moved", "repositories": { "tools/job": "jobs" } });
    let said = |plan: &StepPlan| {
        let hosts = [(&pair.source.host, "SOURCE"), (&pair.target.host, "TARGET")];
        hosts.iter().fold(plan.summary.clone(), |text, (host, name)| text.replace(host.as_str(), name))
    };
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    insta::assert_snapshot!(said(&plan), @"copy 3 images from SOURCE to TARGET: 0 images are there; 13 blobs (705359 bytes) to send, 2 to mount, 0 there");
    assert!(plan.problems.is_empty() && plan.destroys.is_empty(), "{plan:?}");

    let copied = copy().apply(&pair.context(), &config).await.unwrap();
    assert_eq!(copied["traffic"]["bytes-sent"], plan.bytes.unwrap());
    assert_eq!(copied["images"][0]["target"], format!("{}/moved/shop/web:1.0", pair.target.host));
    assert_eq!(pair.target.digest("jobs", "3").await, pair.source.digest("tools/job", "3").await);
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    insta::assert_snapshot!(said(&plan), @"copy 3 images from SOURCE to TARGET: 3 images are there; 0 blobs (0 bytes) to send, 0 to mount, 0 there");
    assert_eq!(plan.bytes, Some(0));

    // Two would be one; then, a tag that is somebody else's.
    config["names"] = json!({ "repositories": { "shop/web": "one", "shop/legacy": "one" } });
    pair.source.image("shop/legacy", "1.0", &[noise(6, 10)]).await;
    config["images"] = json!([pair.name("shop/web:1.0"), pair.name("shop/legacy:1.0")]);
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    assert_eq!(plan.problems[0].field.as_deref(), Some("names"));
    insta::assert_snapshot!(plan.problems[0].message, @"images shop/web:1.0 and shop/legacy:1.0 would both be one:1.0 at the target");
    let error = copy().apply(&pair.context(), &config).await.unwrap_err();
    assert_eq!(error.message, plan.problems[0].message);

    config["names"] = json!({});
    config["images"] = json!([pair.name("shop/legacy:1.0")]);
    pair.target.image("shop/legacy", "1.0", &[noise(7, 10)]).await;
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    assert!(plan.problems[0].message.contains("shop/legacy:1.0 exists in"), "{plan:?}");
    config["overwrite"] = json!(true);
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    assert!(plan.problems.is_empty() && plan.destroys.len() == 1, "{plan:?}");
}

/// Asked for by tag and digest, and the tag has moved on at the source: the image goes along, its tag
/// does not, and everybody is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_has_moved_on_is_told_in_plan_log_and_evidence() {
    let pair = Pair::start().await;
    let old = pair.source.image("shop/web", "latest", &[noise(40, 1_000)]).await;
    let old = old["digest"].as_str().unwrap().to_owned();
    let new = pair.source.image("shop/web", "latest", &[noise(41, 1_000)]).await;
    let new = new["digest"].as_str().unwrap().to_owned();
    let asked = format!("shop/web:latest@{old}");
    let said = |text: &str| {
        let hosts = [(&pair.source.host, "SOURCE"), (&old, "OLD"), (&new, "NEW")];
        hosts.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from.as_str(), to))
    };
    let warned = || {
        let log = pair.host.recorded().log;
        log.into_iter().filter(|(level, _)| *level == LogLevel::Warn).map(|(_, line)| said(&line)).collect()
    };
    let told = |checks: &[Check]| {
        let told: Vec<Check> = checks.iter().filter(|c| c.status == CheckStatus::Warning).cloned().collect();
        assert_eq!(told.len(), 1, "{checks:?}");
        assert_eq!((told[0].what.as_str(), told[0].target.as_str()), ("tag latest", "missing"));
        said(told[0].note.as_deref().unwrap())
    };
    let warning = "image SOURCE/shop/web:latest@OLD goes along without its tag, which points at NEW at the source by now";
    let note = "it was not set: it points at NEW at the source by now";

    let config = pair.copy_config(&[&asked]);
    let plan = copy().plan(&pair.context(), &config).await.unwrap();
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(said(&plan.problems[0].message), warning);
    let copied = copy().apply(&pair.context(), &config).await.unwrap();
    let lines: Vec<String> = warned();
    assert_eq!(lines, [warning]);
    assert_eq!(pair.target.digest("shop/web", "latest").await, None);
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let evidence = copy().verify(&pair.context(), &config, &copied, depth).await.unwrap();
        assert!(evidence.passed(), "{evidence:#?}");
        assert_eq!(told(&evidence.checks), note);
    }

    // The same through a layout on disk.
    let pulled = pair.pull(&[&asked]).await.unwrap();
    let config = pair.pull_config(&[&asked]);
    let evidence = pull().verify(&pair.context(), &config, &pulled, VerifyDepth::Quick).await.unwrap();
    assert_eq!(told(&evidence.checks), note);
    let config = pair.push_config(&pulled);
    let plan = push().plan(&pair.context(), &config).await.unwrap();
    assert_eq!(said(&plan.problems[0].message), warning);
    let pushed = push().apply(&pair.context(), &config).await.unwrap();
    let lines: Vec<String> = warned();
    assert_eq!(lines, [warning; 3]);
    let evidence = push().verify(&pair.context(), &config, &pushed, VerifyDepth::Quick).await.unwrap();
    assert_eq!(told(&evidence.checks), note);

    // Somebody has set it since, to what it is at the source.
    pair.target.image("shop/web", "latest", &[noise(41, 1_000)]).await;
    let evidence = push().verify(&pair.context(), &config, &pushed, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.checks.iter().all(|check| check.status == CheckStatus::Passed), "{evidence:#?}");
}

/// Somebody else pushes the tag to the target while the copy is under way.
#[tokio::test]
async fn a_tag_that_somebody_sets_during_the_copy_stays() {
    let server = MockServer::start().await;
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [
        { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(b"layer"), "size": 5 }] });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let manifest = Manifest::read("shop/web", OCI_MANIFEST, bytes.into(), None).unwrap();
    let theirs = Digest::of(b"theirs").to_string();
    let there = ResponseTemplate::new(200)
        .insert_header("docker-content-digest", theirs.as_str())
        .insert_header("content-length", "7");
    let tag = || Mock::given(method("HEAD")).and(path("/v2/shop/web/manifests/1"));
    tag().respond_with(ResponseTemplate::new(404)).up_to_n_times(1).mount(&server).await;
    tag().respond_with(there).mount(&server).await;
    Mock::given(method("HEAD"))
        .and(path_regex("^/v2/shop/web/blobs/"))
        .respond_with(ResponseTemplate::new(200).insert_header("content-length", "5"))
        .mount(&server)
        .await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(201)).expect(0).mount(&server).await;
    let endpoint = server.uri().parse().unwrap();
    let registry =
        Registry::new("registry.example", Some(&endpoint), Credentials::Anonymous, limits()).unwrap();
    let images = [Image {
        reference: ImageRef::parse("registry.example/shop/web:1").unwrap(),
        target: "shop/web".to_owned(),
        tag: Some("1".to_owned()),
        moved: None,
        digest: manifest.digest.clone(),
        manifests: vec![manifest],
        own: 1,
        attached: Vec::new(),
    }];
    let delivery = Delivery {
        source: Arc::new(RegistryContent(Arc::clone(&registry))),
        target: registry,
        images: &images,
        overwrite: false,
        meter: &Meter::default(),
        cursor: &cursor(),
    };
    let error = delivery.run().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict, "{error}");
    let text = error.to_string().replace(&theirs, "THEIRS").replace(&images[0].digest.to_string(), "OURS");
    insta::assert_snapshot!(text, @"image shop/web:1 exists in registry.example with digest THEIRS instead of OURS");
}

/// Two repositories become one, and each has a list of what refers to the same image. The image between
/// them shares a blob with either, so that the second is written when the first is done.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_referrers_of_two_repositories_become_one() {
    let pair = Pair::start().await;
    let mut sboms = Vec::new();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    for (team, seed) in [("a", 51), ("b", 52)] {
        let repository = format!("team-{team}/base");
        let layer = pair.source.put_blob(&repository, noise(50, 100)).await;
        let own = pair.source.put_blob(&repository, noise(seed, 100)).await;
        let image = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": { "mediaType": kind, "digest": layer, "size": 100 }, "layers": [] });
        let subject = pair.source.put_manifest(&repository, "1", OCI_MANIFEST, &image).await;
        let mut sbom = image.clone();
        sbom["subject"] = subject.clone();
        sbom["layers"] = json!([{ "mediaType": kind, "digest": own, "size": 100 }]);
        let digest = Digest::of(&serde_json::to_vec(&sbom).unwrap()).to_string();
        let referrer = pair.source.put_manifest(&repository, &digest, OCI_MANIFEST, &sbom).await;
        let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [referrer] });
        let stem = subject["digest"].as_str().unwrap().replace(':', "-");
        pair.source.put_manifest(&repository, &stem, OCI_INDEX, &list).await;
        sboms.push((stem, digest));
    }
    pair.source.image("tools/job", "1", &[noise(50, 100), noise(52, 100)]).await;
    let (stem, _) = sboms[0].clone();
    sboms.sort();
    for overwrite in [false, true] {
        let mut config = pair.copy_config(&["team-a/base:1", "tools/job:1", "team-b/base:1"]);
        let name = format!("base-{overwrite}");
        let between = format!("job-{overwrite}");
        let names = json!({ "team-a/base": name, "team-b/base": name, "tools/job": between });
        config["names"] = json!({ "repositories": names });
        config["overwrite"] = json!(overwrite);
        copy().apply(&pair.context(), &config).await.unwrap();
        let list = pair.target.client().get_manifest(&name, &stem).await.unwrap().unwrap();
        let mut listed: Vec<String> = list.parts.manifests.iter().map(|m| m.digest.to_string()).collect();
        listed.sort();
        assert_eq!(listed, sboms.iter().map(|(_, digest)| digest.clone()).collect::<Vec<_>>());
    }
}
