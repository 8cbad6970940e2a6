//! What goes wrong on the way: between two real registries with faults of ours between, and against
//! a strict stand-in of ours for a registry that keeps uploads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use migrate_plugin_api::{ErrorClass, StepContext, StepError};
use serde_json::Value;
use wiremock::matchers::{path, path_regex};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::content::{Content, RegistryContent};
use super::cursor::Cursor;
use super::deliver::{Delivery, Traffic};
use super::digest::Digest;
use super::graph::{self, Depth};
use super::meter::Meter;
use super::names::NameRule;
use super::reference::ImageRef;
use super::registry::Registry;
use super::stand::{self, Fault, Proxy, Stand, client, limits, noise};

/// Times that the engine would try again.
const ATTEMPTS: usize = 10;

const IMAGES: [&str; 3] = ["a:1", "b:1", "c:1"];

/// Three images that share a base of several chunks; each has a layer of its own.
async fn estate(source: &Stand) {
    let base = noise(1, 900_000);
    for (seed, image) in IMAGES.iter().enumerate() {
        let repository = image.trim_end_matches(":1");
        source.image(repository, "1", &[base.clone(), noise(seed as u64 + 2, 300_000)]).await;
    }
}

/// One attempt, as `image.copy` makes it, into repositories below `prefix`.
async fn attempt(
    source: &Arc<Registry>,
    target: &Arc<Registry>,
    prefix: &str,
    ctx: &StepContext,
) -> Result<Traffic, StepError> {
    let content: Arc<dyn Content> = Arc::new(RegistryContent(Arc::clone(source)));
    let references: Vec<_> =
        IMAGES.iter().map(|image| ImageRef::parse(&format!("{}/{image}", source.host)).unwrap()).collect();
    let mut images = graph::read_all(&*content, &references, Depth::WithAttached).await?;
    NameRule { prefix: Some(prefix.to_owned()), ..NameRule::default() }.apply(&mut images)?;
    let delivery = Delivery {
        source: content,
        target: Arc::clone(target),
        images: &images,
        overwrite: false,
        meter: &Meter::default(),
        cursor: &Cursor::load(ctx),
    };
    delivery.run().await
}

/// A generator for the places of faults.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    /// Connections are cut in either direction, refused, or told to log in again.
    fn fault(&mut self) -> Fault {
        match self.roll(8) {
            0 | 1 => Fault::Answer(429),
            2 => Fault::Answer(503),
            3..=5 => Fault::CutUp(self.roll(1_200_000)),
            _ => Fault::CutDown(self.roll(1_200_000)),
        }
    }
}

/// A hundred jobs, each with a few faults at places that only its seed knows.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_and_storms_at_a_hundred_random_points_change_nothing() {
    let (source, target) = tokio::join!(Stand::start(), Stand::start());
    estate(&source).await;
    let mut happened = 0;
    for seed in 1..=100_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut faults = |most: u64| -> Vec<Fault> {
            let count = dice.roll(most + 1);
            let mut faults: Vec<Fault> = (0..count).map(|_| dice.fault()).collect();
            // At most one: who is told so again and again is not logged in.
            if dice.roll(3) == 0 {
                faults.push(Fault::Answer(401));
                let last = faults.len() - 1;
                faults.swap(dice.roll(count + 1) as usize, last);
            }
            faults
        };
        let (of_source, of_target) = (faults(2), faults(4));
        let planned = of_source.len() + of_target.len();
        let (from, to) = (
            Proxy::start(&source.host, of_source.clone()).await,
            Proxy::start(&target.host, of_target.clone()).await,
        );
        let (from_client, to_client) =
            (client("source.example", &from.address), client("target.example", &to.address));
        let prefix = format!("run{seed}");
        let ctx = stand::host().context("faults", ".");
        let mut result = attempt(&from_client, &to_client, &prefix, &ctx).await;
        for _ in 1..ATTEMPTS {
            match &result {
                Err(error) if error.class.is_retryable() => {
                    result = attempt(&from_client, &to_client, &prefix, &ctx).await;
                }
                _ => break,
            }
        }
        let told = format!("seed {seed}: {of_source:?} {of_target:?}");
        assert!(result.is_ok(), "{told}: {result:?}");
        for image in IMAGES {
            let repository = image.trim_end_matches(":1");
            let digest = source.digest(repository, "1").await;
            assert!(digest.is_some());
            assert_eq!(target.digest(&format!("{prefix}/{repository}"), "1").await, digest, "{told}");
        }
        happened += planned - from.left() - to.left();
    }
    assert!(happened >= 100, "only {happened} faults happened");
}

/// The source's bytes are wrong on its disk: no tag, and not even the blob.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_become_a_tag() {
    let (source, target) = tokio::join!(Stand::start(), Stand::start());
    estate(&source).await;
    let digest = Digest::of(&noise(1, 900_000));
    let mut wrong = noise(1, 900_000).to_vec();
    wrong[500_000] ^= 1;
    std::fs::write(source.blob_file(&digest.to_string()), &wrong).unwrap();
    let ctx = stand::host().context("faults", ".");
    let error = attempt(&source.client(), &target.client(), "x", &ctx).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt, "{error}");
    for image in IMAGES {
        assert_eq!(target.digest(&format!("x/{}", image.trim_end_matches(":1")), "1").await, None);
    }
    assert!(!target.blob_file(&digest.to_string()).exists());
}

/// Nothing that we remember is trusted above what the target says.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_target_and_a_stale_or_broken_cursor_are_noticed() {
    let (source, target) = tokio::join!(Stand::start(), Stand::start());
    estate(&source).await;
    let (from, to) = (source.client(), target.client());
    let host = stand::host();
    let ctx = host.context("faults", ".");
    let first = attempt(&from, &to, "x", &ctx).await.unwrap();
    assert_eq!((first.blobs_sent, first.blobs_mounted), (4 + 3, 2));
    let cursor = host.recorded().cursors.last().cloned().expect("the base has chunks");
    assert_eq!(attempt(&from, &to, "x", &ctx).await.unwrap(), Traffic::default());

    target.empty();
    let stale = host.context("faults", ".").with_state(None, Some(cursor));
    assert_eq!(attempt(&from, &to, "x", &stale).await.unwrap(), first);

    target.empty();
    let broken = host.context("faults", ".").with_state(None, Some(serde_json::json!({ "uploads": 7 })));
    assert_eq!(attempt(&from, &to, "x", &broken).await.unwrap(), first);
    assert_eq!(target.digest("x/a", "1").await, source.digest("a", "1").await);
}

/// A registry that keeps an upload over the death of its client. It counts every byte that it takes.
#[derive(Clone, Default)]
struct Keeps {
    taken: Arc<std::sync::Mutex<Vec<u8>>>,
    received: Arc<AtomicU64>,
    chunks: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
}

impl Respond for Keeps {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut taken = self.taken.lock().unwrap();
        let here = |code: u16, len: usize| {
            ResponseTemplate::new(code)
                .insert_header("location", format!("/v2/b/blobs/uploads/1?_state={len}").as_str())
                .insert_header("range", format!("0-{}", len.saturating_sub(1)).as_str())
        };
        match request.method.as_str() {
            "HEAD" => ResponseTemplate::new(404),
            "POST" => {
                taken.clear();
                here(202, 0)
            }
            "GET" => here(204, taken.len()),
            "PATCH" => {
                let start = format!("{}-", taken.len());
                if !request.headers["content-range"].to_str().unwrap().starts_with(&start) {
                    return ResponseTemplate::new(416);
                }
                self.received.fetch_add(request.body.len() as u64, Ordering::Relaxed);
                self.chunks.fetch_add(1, Ordering::Relaxed);
                taken.extend_from_slice(&request.body);
                here(202, taken.len())
            }
            _ => {
                let digest = Digest::of(&taken).to_string();
                let asked = request.url.query_pairs().find(|(name, _)| name == "digest").unwrap().1;
                let right = asked == digest.as_str();
                self.done.fetch_add(u64::from(right), Ordering::Relaxed);
                ResponseTemplate::new(if right { 201 } else { 400 })
            }
        }
    }
}

const CHILD: &str = "MIGRATE_TEST_UPLOAD";

/// The process that is killed: sends one blob, slowly, keeping its cursor in a file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other process of `a_killed_upload_goes_on_inside_the_blob`"]
async fn the_process_that_is_killed() {
    let Ok(given) = std::env::var(CHILD) else { return };
    let given: Value = serde_json::from_str(&given).unwrap();
    let text = |name: &str| given[name].as_str().unwrap();
    let file = std::path::PathBuf::from(text("cursor"));
    let cursor = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let host = stand::host();
    let keeper = Arc::clone(&host);
    // As the engine's store: what was checkpointed is in the file.
    tokio::spawn(async move {
        loop {
            if let Some(cursor) = keeper.recorded().cursors.last() {
                let fresh = file.with_extension("new");
                std::fs::write(&fresh, cursor.to_string()).unwrap();
                std::fs::rename(&fresh, &file).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let ctx = host.context("upload", ".").with_state(None, cursor);
    let endpoint = url::Url::parse(text("target")).unwrap();
    let slow = super::registry::Limits {
        bytes_per_second: given["bytes-per-second"].as_u64(),
        stall: Duration::from_secs(30),
        ..limits()
    };
    let anonymous = super::auth::Credentials::Anonymous;
    let target = Registry::new("target.example", Some(&endpoint), anonymous, slow).unwrap();
    let bytes = noise(7, 4_000_000);
    let source = super::upload::BlobSource {
        content: Arc::new(RegistryContent(client("source.example", text("source")))),
        image: ImageRef::parse("source.example/a:1").unwrap(),
        blob: super::manifest::Descriptor::new("", Digest::of(&bytes), bytes.len() as u64),
    };
    let sent = super::meter::Sent::new(&Arc::default());
    target.upload("b", &source, None, &sent, &Cursor::load(&ctx)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upload_goes_on_inside_the_blob() {
    let (source, server) = tokio::join!(Stand::start(), MockServer::start());
    let bytes: Bytes = noise(7, 4_000_000);
    source.put_blob("a", bytes.clone()).await;
    let keeps = Keeps::default();
    Mock::given(path("/v2/")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    Mock::given(path_regex("^/v2/b/blobs/")).respond_with(keeps.clone()).mount(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let start = |bytes_per_second: Option<u64>| {
        let given = serde_json::json!({
            "source": source.host, "target": server.uri(), "cursor": folder.path().join("cursor"),
            "bytes-per-second": bytes_per_second,
        });
        let name = "images::fault_tests::the_process_that_is_killed";
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--ignored", "--quiet"])
            .env(CHILD, given.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    // About a second for all of it, so that it is killed in the middle, whatever the machine does.
    let mut child = start(Some(4_000_000));
    while keeps.chunks.load(Ordering::Relaxed) < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(keeps.done.load(Ordering::Relaxed), 0);

    assert!(start(None).wait().unwrap().success());
    assert_eq!(keeps.done.load(Ordering::Relaxed), 1);
    assert!(*keeps.taken.lock().unwrap() == bytes);
    let twice = keeps.received.load(Ordering::Relaxed) - bytes.len() as u64;
    assert!(twice <= limits().chunk_bytes, "{twice} bytes were sent twice");
}

/// What an independent client sees and takes back is what we wrote, digest for digest.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_inspects_and_copies_back_every_image() {
    const SKOPEO: &str = "/usr/bin/skopeo";
    assert!(std::path::Path::new(SKOPEO).exists(), "{SKOPEO} is missing: apt-get install skopeo");
    let (source, target, third) = tokio::join!(Stand::start(), Stand::start(), Stand::start());
    estate(&source).await;
    let base = noise(1, 900_000);
    source.index("b", "1", false, &base).await;
    source.index("c", "1", true, &base).await;
    let ctx = stand::host().context("faults", ".");
    attempt(&source.client(), &target.client(), "x", &ctx).await.unwrap();
    for image in IMAGES {
        let repository = image.trim_end_matches(":1");
        let wanted = source.digest(repository, "1").await;
        let credentials = format!("{}:{}", stand::USER, stand::PASSWORD);
        let ours = format!("docker://{}/x/{repository}:1", target.host);
        let raw = tokio::process::Command::new(SKOPEO)
            .args(["inspect", "--raw", "--tls-verify=false", "--creds", &credentials, &ours])
            .output()
            .await
            .unwrap();
        assert_eq!(wanted.as_deref(), Some(Digest::of(&raw.stdout).to_string().as_str()), "{image}");
        let back = format!("docker://{}/{repository}:1", third.host);
        let copied = tokio::process::Command::new(SKOPEO)
            .args(["copy", "--all", "--preserve-digests", "--quiet"])
            .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--src-creds", &credentials, "--dest-creds", &credentials, &ours, &back])
            .output()
            .await
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        assert_eq!(third.digest(repository, "1").await, wanted);
    }
}
