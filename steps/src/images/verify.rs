//! Evidence that images are in a registry: by digest, as the registry itself answers.

use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{Check, CheckStatus, Evidence, StepError, VerifyDepth};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::content::RegistryContent;
use super::digest::Digest;
use super::graph::{self, Depth, Image};
use super::moved::MovedTag;
use super::reference::ImageRef;
use super::registry::Registry;

/// Images that are looked at side by side.
const IMAGES_AT_ONCE: usize = 8;

/// Blobs of one image that are asked for side by side.
const BLOBS_AT_ONCE: usize = 8;

/// An image that is at the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Delivered {
    /// The reference it had.
    pub source: String,
    /// The reference it has.
    pub target: String,
    /// Its digest, the same on both sides.
    pub digest: Digest,
    /// Every manifest that came with it, its own included: platforms, signatures, SBOMs.
    pub manifests: Vec<Digest>,
    /// The tag that it was asked for with and that it did not get, since it points elsewhere by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<MovedTag>,
    /// How it got there, where there is more than one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// Why it went this way, where it isn't the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How an image got to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// It was there.
    Present,
    /// Azure fetched it.
    Import,
    /// Through this machine.
    Stream,
}

impl Delivered {
    /// `image`, once known as `source`, as it is in the registry `host`.
    pub(crate) fn new(image: &Image, source: &str, host: &str) -> Self {
        let digest = image.tag.is_none().then(|| image.digest.clone());
        let target = ImageRef {
            host: host.to_owned(),
            repository: image.target.clone(),
            tag: image.tag.clone(),
            digest,
        };
        Self {
            source: source.to_owned(),
            target: target.to_string(),
            digest: image.digest.clone(),
            manifests: image.manifests.iter().map(|manifest| manifest.digest.clone()).collect(),
            moved: image.moved.clone(),
            way: None,
            reason: None,
        }
    }
}

/// Asks the registry for every image of `images`.
pub(crate) async fn registry(
    target: &Arc<Registry>,
    images: &[Delivered],
    depth: VerifyDepth,
) -> Result<Evidence, StepError> {
    let looks: Vec<_> = images.iter().map(|image| look(target, image, depth)).collect();
    let checks: Vec<Vec<Check>> = futures::stream::iter(looks).buffered(IMAGES_AT_ONCE).try_collect().await?;
    Ok(checks.into_iter().flatten().collect())
}

async fn look(
    target: &Arc<Registry>,
    image: &Delivered,
    depth: VerifyDepth,
) -> Result<Vec<Check>, StepError> {
    let reference = ImageRef::parse(&image.target)?;
    let subject = format!("image {}", reference.short());
    let repository = &reference.repository;
    let name = reference.tag.clone().unwrap_or_else(|| image.digest.to_string());
    let found = target.head_manifest(repository, &name).await?;
    let there = found.map_or_else(|| "missing".to_owned(), |found| found.digest.to_string());
    let mut checks = vec![Check::equal(&subject, "digest", image.digest.to_string(), there)];
    for digest in image.manifests.iter().filter(|digest| **digest != image.digest) {
        if target.head_manifest(repository, &digest.to_string()).await?.is_none() {
            checks.push(Check::equal(&subject, "manifest", digest.to_string(), "missing"));
        }
    }
    if let Some(moved) = &image.moved {
        let there = target.head_manifest(repository, &moved.tag).await?;
        checks.push(moved.check(&subject, &image.digest, there.as_ref().map(|found| &found.digest)));
    }
    let whole = checks.iter().all(|check| check.status != CheckStatus::Failed);
    if depth == VerifyDepth::Deep && whole {
        checks.extend(blobs(target, image, &reference, &subject).await?);
    }
    Ok(checks)
}

/// Reads every manifest at the target and asks for every blob that they name.
async fn blobs(
    target: &Arc<Registry>,
    image: &Delivered,
    reference: &ImageRef,
    subject: &str,
) -> Result<Vec<Check>, StepError> {
    let content = RegistryContent(Arc::clone(target));
    let mut all = std::collections::BTreeMap::new();
    for digest in &image.manifests {
        let one = ImageRef { tag: None, digest: Some(digest.clone()), ..reference.clone() };
        all.extend(graph::read(&content, &one, Depth::Own).await?.blobs());
    }
    let heads: Vec<_> = all
        .values()
        .map(|blob| async move {
            let size = target.head_blob(&reference.repository, &blob.digest).await?;
            Ok::<_, StepError>((blob, size))
        })
        .collect();
    let found: Vec<_> = futures::stream::iter(heads).buffered(BLOBS_AT_ONCE).try_collect().await?;
    let is_right = |size: Option<u64>, wanted: u64| size == Some(wanted) || size == Some(u64::MAX);
    let right = found.iter().filter(|(blob, size)| is_right(*size, blob.size)).count();
    let mut checks = vec![Check::equal(subject, "blobs", found.len().to_string(), right.to_string())];
    for (blob, size) in found {
        if !is_right(size, blob.size) {
            let there = size.map_or_else(|| "missing".to_owned(), |size| format!("{size} bytes"));
            let what = format!("blob {}", blob.digest);
            checks.push(Check::equal(subject, what, format!("{} bytes", blob.size), there));
        }
    }
    Ok(checks)
}
