//! Pushes a built image to a registry, by the OCI distribution API.
//!
//! Referrers go by the specification's fallback, an index under the tag `sha256-HEX`, since
//! Debian's registry (CNCF distribution 2.8) has no referrers API.

use std::fs;

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use url::Url;

use super::{Built, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Every kind of manifest.
pub const ANY_MANIFEST: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A registry with basic authentication.
#[derive(Clone)]
pub struct Registry {
    /// Where it answers.
    pub endpoint: Url,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// One repository of a registry, to write to.
pub struct Repository<'a> {
    /// The client of all its requests.
    pub http: Client,
    /// The registry.
    pub registry: &'a Registry,
    /// Its name.
    pub name: &'a str,
}

impl Repository<'_> {
    fn url(&self, rest: &str) -> Result<Url> {
        self.registry.endpoint.join(&format!("/v2/{}/{rest}", self.name)).into_diagnostic()
    }

    async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response> {
        let request = request.basic_auth(&self.registry.username, Some(&self.registry.password));
        request.send().await.into_diagnostic().wrap_err_with(|| format!("{what} failed"))
    }

    /// As [`Self::send`], and refuses an answer that isn't a success.
    async fn done(&self, request: RequestBuilder, what: &str) -> Result<Response> {
        let response = self.send(request, what).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        bail!("{what} answered {status}: {}", response.text().await.unwrap_or_default().trim());
    }

    /// Whether the blob is there.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn has_blob(&self, digest: &str) -> Result<bool> {
        let head = self.http.head(self.url(&format!("blobs/{digest}"))?);
        Ok(self.send(head, "asking for a blob").await?.status() == StatusCode::OK)
    }

    /// Whether a manifest is there, by tag or digest.
    ///
    /// # Errors
    /// When the registry does not answer, or refuses for another reason than that it isn't there.
    pub async fn has_manifest(&self, reference: &str) -> Result<bool> {
        let head = self.http.head(self.url(&format!("manifests/{reference}"))?);
        let head = head.header(ACCEPT, ANY_MANIFEST);
        match self.send(head, "asking for a manifest").await?.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => bail!("asking for a manifest answered {status}"),
        }
    }

    /// Sends a blob; the registry checks its digest.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn put_blob(&self, digest: &str, bytes: impl Into<reqwest::Body>) -> Result<()> {
        let started = self.done(self.http.post(self.url("blobs/uploads/")?), "starting an upload").await?;
        let location = started.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut url = self.registry.endpoint.join(location).into_diagnostic()?;
        url.query_pairs_mut().append_pair("digest", digest);
        let upload = self.http.put(url).header(CONTENT_TYPE, "application/octet-stream").body(bytes);
        self.done(upload, "uploading a blob").await.map(drop)
    }

    /// Puts a manifest by tag or digest, and makes sure that it was stored as it is.
    ///
    /// # Errors
    /// When the registry refuses it, or stores something else.
    pub async fn put_manifest(&self, reference: &str, media_type: &str, bytes: Vec<u8>) -> Result<()> {
        let digest = sha256(&bytes);
        let url = self.url(&format!("manifests/{reference}"))?;
        let put = self.http.put(url).header(CONTENT_TYPE, media_type).body(bytes);
        let response = self.done(put, "putting a manifest").await?;
        match response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()) {
            Some(stored) if stored == digest => Ok(()),
            stored => bail!("the registry stored {reference} as {stored:?}, not as {digest}"),
        }
    }
}

/// Pushes `image` with everything it holds under its own name and tag. What is there is not sent again.
///
/// # Errors
/// When the registry refuses something.
pub async fn push(registry: &Registry, image: &Built) -> Result<()> {
    let (repository, tag) =
        image.name.split_once(':').ok_or_else(|| miette!("image {} has no tag", image.name))?;
    let pusher = Pusher { image, target: Repository { http: Client::new(), registry, name: repository } };
    pusher.push(tag).await.wrap_err_with(|| format!("failed to push {} to {}", image.name, registry.endpoint))
}

struct Pusher<'a> {
    image: &'a Built,
    target: Repository<'a>,
}

impl Pusher<'_> {
    async fn push(&self, tag: &str) -> Result<()> {
        let index: Value =
            serde_json::from_slice(&fs::read(self.image.layout.join("index.json")).into_diagnostic()?)
                .into_diagnostic()?;
        let entries = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [root, referrers @ ..] = entries else { bail!("the layout is empty") };
        self.tree(root, tag).await?;
        if referrers.is_empty() {
            return Ok(());
        }
        for referrer in referrers {
            self.tree(referrer, text(referrer, "digest")?).await?;
        }
        let fallback = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": referrers });
        let tag = self.image.digest.replace(':', "-");
        self.target.put_manifest(&tag, INDEX, fallback.to_string().into_bytes()).await
    }

    /// Sends a manifest or an index after everything that it names.
    async fn tree(&self, descriptor: &Value, reference: &str) -> Result<()> {
        let media_type = text(descriptor, "mediaType")?;
        let bytes = self.read(text(descriptor, "digest")?)?;
        let document: Value = serde_json::from_slice(&bytes).into_diagnostic()?;
        for child in document["manifests"].as_array().into_iter().flatten() {
            Box::pin(self.tree(child, text(child, "digest")?)).await?;
        }
        let layers = document["layers"].as_array().into_iter().flatten();
        for blob in document.get("config").into_iter().chain(layers) {
            self.blob(text(blob, "digest")?).await?;
        }
        self.target.put_manifest(reference, media_type, bytes).await
    }

    fn read(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.image.layout.join("blobs").join(digest.replace(':', "/"));
        fs::read(&path).into_diagnostic().wrap_err_with(|| format!("failed to read {}", path.display()))
    }

    async fn blob(&self, digest: &str) -> Result<()> {
        match self.target.has_blob(digest).await? {
            true => Ok(()),
            false => self.target.put_blob(digest, self.read(digest)?).await,
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().ok_or_else(|| miette!("a descriptor has no {field}"))
}
