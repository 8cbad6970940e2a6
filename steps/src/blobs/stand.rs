//! What tests of the step stand between: a bucket and a container of our own (`benches/blobs`), which
//! are as strict as the real ones and can be made to fail at any request.

use std::collections::BTreeMap;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{PlanConfig, StepContext, StepError, StepPlan, TypedStep as _, VerifyDepth};
use serde_json::json;

use super::{BlobCopy, CopyConfig, CopyOutputs};
use bucket::{Bucket, Object};
use sink::{Fault, Sink};

#[path = "../../benches/blobs/bucket.rs"]
#[allow(dead_code, reason = "the bench uses more of it")]
pub(super) mod bucket;
#[path = "../../benches/blobs/gate.rs"]
pub(super) mod gate;
#[path = "../../benches/blobs/nobody.rs"]
pub(super) mod nobody;
#[path = "../../benches/blobs/sink.rs"]
pub(super) mod sink;
#[path = "../../benches/blobs/sum.rs"]
pub(super) mod sum;

pub(super) const MIB: usize = 1 << 20;
pub(super) const SAS: &str = "sv=2022-11-02&sp=rwldt&sig=SECRET";

/// Both, empty, and a config between them.
pub(super) struct World {
    pub(super) bucket: Arc<Bucket>,
    pub(super) sink: Arc<Sink>,
    pub(super) host: Arc<RecordingHost>,
    pub(super) config: CopyConfig,
    pub(super) project: tempfile::TempDir,
}

impl World {
    /// An empty bucket and an empty container; or both with the same `listed` objects that nobody wrote.
    pub(super) async fn new(listed: Option<usize>) -> Self {
        let (bucket, from) = Bucket::start(listed).await.unwrap();
        let (sink, to) = Sink::start(listed).await.unwrap();
        let project = tempfile::tempdir().unwrap();
        let keys = "[default]\naws_access_key_id = a\naws_secret_access_key = s\n";
        std::fs::write(project.path().join("credentials"), keys).unwrap();
        let host = Arc::new(RecordingHost::default());
        host.put_secret("env:SAS", SAS);
        let config = json!({
            "from": { "bucket": "b", "endpoint": format!("http://{from}") },
            "aws": { "region": "us-east-1", "profile": "default", "credentials-file": "credentials" },
            "to": { "account-url": format!("http://{to}/account"), "container": "c", "sas": "env:SAS" },
            "engine": "stream",
        });
        Self { bucket, sink, host, config: serde_json::from_value(config).unwrap(), project }
    }

    pub(super) fn context(&self) -> StepContext {
        self.host.context("copy", self.project.path())
    }

    pub(super) async fn apply(&self) -> Result<CopyOutputs, StepError> {
        BlobCopy.apply(&self.context(), &self.config).await
    }

    /// With the last cursor, as after a kill.
    pub(super) async fn resume(&self) -> Result<CopyOutputs, StepError> {
        let ctx = self.context().with_state(None, self.host.recorded().cursors.last().cloned());
        BlobCopy.apply(&ctx, &self.config).await
    }

    pub(super) async fn plan(&self) -> StepPlan {
        let config = PlanConfig::new(&serde_json::to_value(&self.config).unwrap()).unwrap();
        BlobCopy.plan(&self.context(), &config).await.unwrap()
    }

    /// Whether the container holds the bucket's objects and nothing else, by size and checksum.
    pub(super) fn assert_equal(&self) {
        let blobs = self.sink.blobs();
        let blobs: BTreeMap<_, _> = blobs.into_iter().map(|(name, b)| (name, (b.size, b.crc64))).collect();
        let names = |of: &BTreeMap<String, (u64, u64)>| of.keys().cloned().collect::<Vec<_>>();
        let sums = self.bucket.sums();
        assert_eq!(names(&blobs), names(&sums));
        assert!(blobs == sums, "other bytes arrived");
    }

    /// Whether nothing speaks against what `outputs` say.
    pub(super) async fn assert_proven(&self, outputs: &CopyOutputs) {
        let (ctx, quick) = (self.context(), VerifyDepth::Quick);
        let evidence = BlobCopy.verify(&ctx, &self.config, outputs, quick).await.unwrap();
        assert!(evidence.passed(), "{evidence:?}");
    }

    pub(super) fn refuse(
        &self,
        status: u16,
        code: &'static str,
        when: impl Fn(&str, &str, u64) -> bool + Send + Sync + 'static,
    ) {
        let fault = Fault { status, code, retry_after: None };
        self.sink.set_faults(Some(Box::new(move |kind, name, before| {
            when(kind, name, before).then(|| fault.clone())
        })));
    }
}

/// Bytes that are the same for the same seed.
pub(super) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub(super) fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// As large objects come to be: with an ETag that is no MD5.
pub(super) fn multipart(bytes: Vec<u8>, number: u64) -> Object {
    let etag = format!("{number:032x}-3");
    Object { bytes: bytes.into(), etag, with_crc64: true, ..Object::default() }
}
