//! What Azure does out of sight: pulls an image with all its manifests by digest, and pushes it.
//!
//! Its own manifests only: what refers to the image (signatures, SBOMs) is no part of it. Nothing is
//! tagged before all of it is there.

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, RANGE};
use serde_json::Value;
use url::Url;

use super::arm::SourceCredentials;
use crate::oci::{ANY_MANIFEST, Registry, Repository, sha256};
use crate::process::with_causes;

/// "The maximum number of manifests for an imported image is 50":
/// <https://learn.microsoft.com/en-us/azure/container-registry/container-registry-import-images>.
const MAX_MANIFESTS: usize = 50;

/// A manifest is a list of names; registries take no larger ones.
const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// An import that was taken. No `Debug`: holds a password.
pub(super) struct Order {
    pub endpoint: Url,
    pub repository: String,
    /// A tag or a digest.
    pub reference: String,
    pub credentials: Option<SourceCredentials>,
    /// Repositories and tags that the image gets.
    pub tags: Vec<(String, String)>,
    /// Repositories that get it without a tag.
    pub untagged: Vec<String>,
}

struct Manifest {
    digest: String,
    media_type: String,
    bytes: Vec<u8>,
    /// Digest and size of what it names beside manifests.
    blobs: Vec<(String, u64)>,
}

struct Source<'a> {
    http: reqwest::Client,
    order: &'a Order,
}

/// Fetches and pushes. An error is the reason in words.
pub(super) async fn run(order: &Order, target: &Registry) -> Result<(), String> {
    let source = Source { http: reqwest::Client::new(), order };
    // Children before those that name them.
    let mut manifests = Vec::new();
    source.tree(&order.reference, &mut manifests).await?;
    let tagged = order.tags.iter().map(|(name, tag)| (name, Some(tag)));
    let all = tagged.chain(order.untagged.iter().map(|name| (name, None)));
    for (name, tag) in all {
        let repository = Repository { http: source.http.clone(), registry: target, name };
        for manifest in &manifests {
            for (digest, size) in &manifest.blobs {
                if !repository.has_blob(digest).await.map_err(chain)? {
                    let bytes = source.blob(digest, *size).await?;
                    repository.put_blob(digest, bytes).await.map_err(chain)?;
                }
            }
            let bytes = manifest.bytes.clone();
            repository.put_manifest(&manifest.digest, &manifest.media_type, bytes).await.map_err(chain)?;
        }
        if let (Some(tag), Some(root)) = (tag, manifests.last()) {
            repository.put_manifest(tag, &root.media_type, root.bytes.clone()).await.map_err(chain)?;
        }
    }
    Ok(())
}

fn chain(error: miette::Report) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Source<'_> {
    async fn get(
        &self,
        rest: &str,
        header: http::HeaderName,
        value: &str,
    ) -> Result<reqwest::Response, String> {
        let path = format!("/v2/{}/{rest}", self.order.repository);
        let url = self.order.endpoint.join(&path).map_err(|e| e.to_string())?;
        let mut request = self.http.get(url).header(header, value);
        if let Some(credentials) = &self.order.credentials {
            let user = credentials.username.as_deref().unwrap_or_default();
            request = request.basic_auth(user, Some(&credentials.password));
        }
        let response = request.send().await.map_err(|e| with_causes(&e.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // `Invalid message Unauthorized Unauthorized {"errors":[…]}`, as in Azure/acr#181.
        let reason = status.canonical_reason().unwrap_or("Unknown").replace(' ', "");
        let body = response.text().await.unwrap_or_default();
        Err(format!("Invalid message {reason} {reason} {}", body.trim()))
    }

    /// Reads a manifest and all below it into `found`.
    async fn tree(&self, reference: &str, found: &mut Vec<Manifest>) -> Result<(), String> {
        if found.iter().any(|known| known.digest == reference) {
            return Ok(());
        }
        let response = self.get(&format!("manifests/{reference}"), ACCEPT, ANY_MANIFEST).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let bytes = response.bytes().await.map_err(|e| with_causes(&e.without_url()))?.to_vec();
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(format!("The manifest {reference} is too large"));
        }
        let digest = sha256(&bytes);
        if reference.contains(':') && reference != digest {
            return Err(format!("The manifest {reference} has the digest {digest}"));
        }
        let document: Value = serde_json::from_slice(&bytes).map_err(|_| format!("No manifest: {digest}"))?;
        let text = |value: &Value| value["digest"].as_str().map(str::to_owned);
        for child in document["manifests"].as_array().into_iter().flatten() {
            let child = text(child).ok_or_else(|| format!("The index {digest} names no digest"))?;
            Box::pin(self.tree(&child, found)).await?;
        }
        let layers = document["layers"].as_array().into_iter().flatten();
        let named = document.get("config").into_iter().chain(layers);
        let blobs: Option<Vec<_>> = named.map(|blob| Some((text(blob)?, blob["size"].as_u64()?))).collect();
        let blobs = blobs.ok_or_else(|| format!("The manifest {digest} names no digest"))?;
        found.push(Manifest { digest, media_type, bytes, blobs });
        if found.len() > MAX_MANIFESTS {
            return Err(format!("The image has more than {MAX_MANIFESTS} manifests"));
        }
        Ok(())
    }

    /// A blob, by range: "importing images requires the external registry to support RFC 7233".
    async fn blob(&self, digest: &str, size: u64) -> Result<Vec<u8>, String> {
        let response = self.get(&format!("blobs/{digest}"), RANGE, "bytes=0-").await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err("The source registry does not support ranges (RFC 7233)".to_owned());
        }
        let bytes = response.bytes().await.map_err(|e| with_causes(&e.without_url()))?.to_vec();
        if sha256(&bytes) != digest || bytes.len() as u64 != size {
            return Err(format!("Error copying blobs: {digest} has other bytes"));
        }
        Ok(bytes)
    }
}
