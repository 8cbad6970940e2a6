//! Where images come from: a registry or a layout on disk, told apart by nobody else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use migrate_plugin_api::{ErrorClass, StepError};

use super::digest::Digest;
use super::manifest::{Descriptor, Manifest};
use super::reference::ImageRef;
use super::registry::Registry;

/// Something that goes with an image: a signature, an SBOM, an attestation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attached {
    pub digest: Digest,
    pub tag: Option<String>,
}

/// Manifests whose referrers are asked for side by side.
const REFERRERS_AT_ONCE: usize = 8;

/// What cosign appends to `sha256-<hex>`, and the referrers tag schema itself.
const ATTACHED_SUFFIXES: [&str; 4] = ["", ".sig", ".att", ".sbom"];

/// A place that has images. `image` says whose content is meant; its tag and digest don't count
/// where a manifest or blob is named.
#[async_trait]
pub(crate) trait Content: Send + Sync {
    /// What the tag of `image` points at.
    async fn resolve(&self, image: &ImageRef) -> Result<Option<Digest>, StepError>;

    /// The manifest that the tag of `image` points at.
    async fn tagged(&self, image: &ImageRef) -> Result<Option<Manifest>, StepError>;

    /// A manifest by digest.
    async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<Option<Manifest>, StepError>;

    /// What goes with the manifests `digests` of `image`.
    async fn attached(&self, image: &ImageRef, digests: &[Digest]) -> Result<Vec<Attached>, StepError>;

    /// Asks ahead for what [`attached`](Self::attached) needs and that no digest is needed for. What fails
    /// is asked again there.
    async fn expect_attached(&self, _image: &ImageRef) {}

    /// A blob from `offset` on, to its end.
    fn read_blob(
        &self,
        image: &ImageRef,
        blob: &Descriptor,
        offset: u64,
    ) -> BoxStream<'static, Result<Bytes, StepError>>;

    /// For messages: `registry example.azurecr.io`, `layout .migrate/images`.
    fn place(&self) -> String;
}

/// A registry to read from.
pub(crate) struct RegistryContent(pub Arc<Registry>);

#[async_trait]
impl Content for RegistryContent {
    async fn resolve(&self, image: &ImageRef) -> Result<Option<Digest>, StepError> {
        let Some(tag) = &image.tag else { return Ok(None) };
        Ok(self.0.head_manifest(&image.repository, tag).await?.map(|found| found.digest))
    }

    async fn tagged(&self, image: &ImageRef) -> Result<Option<Manifest>, StepError> {
        let Some(tag) = &image.tag else { return Ok(None) };
        self.0.get_manifest(&image.repository, tag).await
    }

    async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<Option<Manifest>, StepError> {
        self.0.get_manifest(&image.repository, &digest.to_string()).await
    }

    async fn attached(&self, image: &ImageRef, digests: &[Digest]) -> Result<Vec<Attached>, StepError> {
        let asks: Vec<_> = digests.iter().map(|digest| self.0.referrers(&image.repository, digest)).collect();
        let asks = futures::stream::iter(asks).buffered(REFERRERS_AT_ONCE).try_collect::<Vec<_>>();
        let (referrers, tags) = futures::join!(asks, self.0.tags(&image.repository));
        let mut found: Vec<Attached> =
            referrers?.into_iter().flatten().map(|r| Attached { digest: r.digest, tag: None }).collect();
        let candidates: Vec<String> = digests
            .iter()
            .flat_map(|digest| ATTACHED_SUFFIXES.map(|suffix| format!("{}{suffix}", digest.as_tag())))
            .collect();
        let there = match tags {
            Ok(tags) => candidates.into_iter().filter(|tag| tags.contains(tag)).collect(),
            // Who may pull may not always list: then each is asked for.
            Err(error) if error.class == ErrorClass::Auth => candidates,
            Err(error) => return Err(error),
        };
        for tag in there {
            if let Some(head) = self.0.head_manifest(&image.repository, &tag).await? {
                found.push(Attached { digest: head.digest, tag: Some(tag) });
            }
        }
        Ok(found)
    }

    async fn expect_attached(&self, image: &ImageRef) {
        let _ = self.0.tags(&image.repository).await;
    }

    fn read_blob(
        &self,
        image: &ImageRef,
        blob: &Descriptor,
        offset: u64,
    ) -> BoxStream<'static, Result<Bytes, StepError>> {
        self.0.read_blob(&image.repository, blob, offset)
    }

    fn place(&self) -> String {
        format!("registry {}", self.0.host)
    }
}
