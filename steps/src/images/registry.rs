//! A client of one registry (OCI distribution v2): manifests, tags and referrers. Blobs are read in
//! `download` and sent in `upload`.
//!
//! Every small request is tried again here, by class and with the waits that the registry asks
//! for. Nothing is kept on disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK};
use http::{Method, StatusCode};
use migrate_plugin_api::{ErrorClass, StepError};
use reqwest::redirect::Policy;
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::auth::{Authenticator, Credentials, Scope, authorize};
use super::digest::Digest;
use super::ecr;
use super::errors;
use super::manifest::{self, Descriptor, Index, MAX_MANIFEST_BYTES, Manifest};
use super::pace::{self, Pace};
use super::rate::Rate;
use crate::tls::{self, Speaks};

/// Long enough for a far registry, short enough to say within a breath that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries of one request before the step sees the error; the engine retries the step itself.
pub(crate) const MAX_TRIES: u32 = 5;

/// Logins of one request: one where the first answer has said how, one where a token has ended.
const MAX_LOGINS: u32 = 2;

/// Tags a page; what registries serve at most.
const TAGS_A_PAGE: u32 = 1000;

/// Pages of tags or referrers that are read before a repository is called unreasonable.
const MAX_PAGES: u32 = 1000;

/// Where `docker.io` answers.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// Digest of a manifest, as the registry says it.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// The registry will list what was pushed among its subject's referrers.
const OCI_SUBJECT: &str = "oci-subject";

/// Times and sizes that tests make small.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// No byte for so long means the connection is dead (go-containerregistry #1766).
    pub stall: Duration,
    /// First wait between tries; doubled each time, with jitter.
    pub backoff: Duration,
    /// Longest wait between tries that nobody asked for.
    pub max_backoff: Duration,
    /// Blobs up to this size go up in one PUT, larger ones in chunks of this size. ACR has
    /// refused large single PUTs (Azure/acr #866).
    pub chunk_bytes: u64,
    /// Most bytes of blobs a second, up and down, all connections together.
    pub bytes_per_second: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(20),
            // A registry syncs each chunk to its disk before it answers: too small ones cost time,
            // too large ones cost more when they break.
            chunk_bytes: 64 * 1024 * 1024,
            bytes_per_second: None,
        }
    }
}

/// Tags of a repository, asked for once.
type Tags = Arc<OnceCell<Arc<Vec<String>>>>;

/// One registry.
pub(crate) struct Registry {
    pub(super) host: String,
    pub(super) endpoint: Url,
    pub(super) http: reqwest::Client,
    pub(super) auth: Authenticator,
    pub(super) limits: Limits,
    pub(super) rate: Option<Arc<Rate>>,
    reads: Pace,
    writes: Pace,
    tags: Mutex<HashMap<String, Tags>>,
    /// Answers to what was asked ahead: repository and tag.
    ahead: Mutex<HashMap<(String, String), Option<Descriptor>>>,
    referrers: Mutex<Referrers>,
}

/// What is known of the referrers API of a registry.
#[derive(Default)]
struct Referrers {
    /// It has answered once.
    answers: bool,
    /// Repositories that said before that there is none. A proxy has some with it and some without.
    lacking: HashSet<String>,
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// Sends nothing yet. `endpoint` defaults to `https://HOST`.
    pub(crate) fn new(
        host: &str,
        endpoint: Option<&Url>,
        credentials: Credentials,
        limits: Limits,
    ) -> Result<Arc<Self>, StepError> {
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.clone(),
            None if host == "docker.io" => Url::parse(DOCKER_HUB)
                .map_err(|e| StepError::permanent("Docker Hub has no address").with_source(e))?,
            None => Url::parse(&format!("https://{host}"))
                .map_err(|e| StepError::permanent(format!("`{host}` is no registry host")).with_source(e))?,
        };
        let client = || {
            tls::client(Speaks::Http2)
                .connect_timeout(CONNECT_TIMEOUT)
                .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
        };
        let failed = |e| StepError::permanent("failed to set up the registry client").with_source(e);
        let http = client().build().map_err(failed)?;
        let tokens = client().redirect(Policy::none()).build().map_err(failed)?;
        let auth = Authenticator::new(tokens, host.to_owned(), endpoint.clone(), credentials);
        Ok(Arc::new(Self {
            host: host.to_owned(),
            endpoint,
            http,
            auth,
            rate: limits.bytes_per_second.map(|most| Arc::new(Rate::new(most))),
            reads: Pace::new(pace::READS),
            writes: Pace::new(pace::WRITES),
            limits,
            tags: Mutex::default(),
            ahead: Mutex::default(),
            referrers: Mutex::default(),
        }))
    }

    /// Whether it answers and knows us.
    pub(crate) async fn ping(&self) -> Result<(), StepError> {
        let what = "log in";
        let url = self.url("")?;
        let response = self.send(what, &Scope::Ping, || self.http.get(url.clone())).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.refusal(what, response).await),
        }
    }

    /// What `reference` (a tag or a digest) is; `None` where there is none.
    pub(crate) async fn head_manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Descriptor>, StepError> {
        let place = (repository.to_owned(), reference.to_owned());
        if let Some(found) = self.ahead.lock().await.remove(&place) {
            return Ok(found);
        }
        let what = format!("look for {}", label(repository, reference));
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let request = || self.http.head(url.clone()).header(ACCEPT, manifest::ACCEPT);
        let response = self.send(&what, &Scope::Pull(repository.to_owned()), request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refusal(&what, response).await),
        }
        let headers = response.headers();
        let digest = text(headers, DOCKER_CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
        let size = text(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        match (digest, size) {
            (Some(digest), Some(size)) => {
                let media_type = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
                Ok(Some(Descriptor::new(media_type, digest, size)))
            }
            // HEAD without them is allowed: then the manifest itself has to say.
            _ => Ok(self.get_manifest(repository, reference).await?.map(|m| m.descriptor())),
        }
    }

    /// Asks for tags (of repositories) that are soon asked for, while something else is waited for: the
    /// next question for each is answered from here, once. What fails is asked again then.
    pub(crate) async fn look_ahead(&self, tags: Vec<(String, String)>) {
        let asks = tags.into_iter().map(|place| async move {
            if let Ok(found) = self.head_manifest(&place.0, &place.1).await {
                self.ahead.lock().await.insert(place, found);
            }
        });
        let asks: Vec<_> = asks.collect();
        futures::future::join_all(asks).await;
    }

    /// The manifest of `reference`, its digest checked; `None` where there is none.
    pub(crate) async fn get_manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Manifest>, StepError> {
        let name = label(repository, reference);
        let what = format!("read manifest {name}");
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let request = || self.http.get(url.clone()).header(ACCEPT, manifest::ACCEPT);
        let scope = Scope::Pull(repository.to_owned());
        let Some((headers, bytes)) = self.read(&what, &scope, request, MAX_MANIFEST_BYTES).await? else {
            return Ok(None);
        };
        let expected = Digest::parse(reference)
            .ok()
            .or_else(|| text(&headers, DOCKER_CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok()));
        let media_type = text(&headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        Manifest::read(&name, media_type, bytes, expected.as_ref()).map(Some)
    }

    /// Stores `manifest` under `reference`. `true` when the registry has taken notice of its
    /// subject, so that no list of referrers must be kept for it.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        manifest: &Manifest,
    ) -> Result<bool, StepError> {
        let what = format!("write manifest {}", label(repository, reference));
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let request = || {
            self.http.put(url.clone()).header(CONTENT_TYPE, &manifest.media_type).body(manifest.bytes.clone())
        };
        let response = self.send(&what, &Scope::Push(repository.to_owned()), request).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
            return Err(self.refusal(&what, response).await);
        }
        match text(response.headers(), DOCKER_CONTENT_DIGEST) {
            Some(found) if found != manifest.digest.to_string() => Err(StepError::corrupt(format!(
                "registry {} stored {} as {found} instead of {}",
                self.host,
                label(repository, reference),
                manifest.digest
            ))),
            _ => Ok(response.headers().contains_key(OCI_SUBJECT)),
        }
    }

    /// The size of a blob, where it is there.
    pub(crate) async fn head_blob(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, StepError> {
        let what = format!("look for blob {}", label(repository, &digest.to_string()));
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let response =
            self.send(&what, &Scope::Pull(repository.to_owned()), || self.http.head(url.clone())).await?;
        match response.status() {
            // Some registries leave the size out of a HEAD: then only presence is known.
            StatusCode::OK => Ok(text(response.headers(), CONTENT_LENGTH.as_str())
                .and_then(|text| text.parse().ok())
                .or(Some(u64::MAX))),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal(&what, response).await),
        }
    }

    /// Whether a blob is there, in its full size where the registry says it.
    pub(crate) async fn has_blob(&self, repository: &str, blob: &Descriptor) -> Result<bool, StepError> {
        let size = self.head_blob(repository, &blob.digest).await?;
        Ok(size == Some(blob.size) || size == Some(u64::MAX))
    }

    /// Every tag of a repository. Asked once.
    pub(crate) async fn tags(&self, repository: &str) -> Result<Arc<Vec<String>>, StepError> {
        let known = Arc::clone(self.tags.lock().await.entry(repository.to_owned()).or_default());
        known.get_or_try_init(|| self.list_tags(repository)).await.map(Arc::clone)
    }

    async fn list_tags(&self, repository: &str) -> Result<Arc<Vec<String>>, StepError> {
        let what = format!("list the tags of {repository}");
        let mut next = Some(self.url(&format!("{repository}/tags/list?n={TAGS_A_PAGE}"))?);
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let scope = Scope::Pull(repository.to_owned());
            let request = || self.http.get(url.clone());
            let Some((headers, bytes)) = self.read(&what, &scope, request, MAX_MANIFEST_BYTES).await? else {
                break;
            };
            let page: TagPage = self.json(&what, &bytes)?;
            tags.extend(page.tags.unwrap_or_default());
            next = next_page(&headers, &url);
        }
        Ok(Arc::new(tags))
    }

    /// What names `digest` as its subject, by the referrers API; empty where the registry has none.
    ///
    /// # Errors
    /// Every refusal that doesn't say so: ECR gives them where it can't ask the upstream of a
    /// pull-through cache, and what is not listed would be left behind without a word.
    pub(crate) async fn referrers(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, StepError> {
        if self.referrers.lock().await.lacking.contains(repository) {
            return Ok(Vec::new());
        }
        let what = format!("list the referrers of {}", label(repository, &digest.to_string()));
        let has_api = ecr::account(&self.host).is_some() || self.referrers.lock().await.answers;
        let mut next = Some(self.url(&format!("{repository}/referrers/{digest}"))?);
        let mut found = Vec::new();
        for turn in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let request = || self.http.get(url.clone()).header(ACCEPT, manifest::OCI_INDEX);
            let response = self.send(&what, &Scope::Pull(repository.to_owned()), request).await?;
            match response.status() {
                StatusCode::OK => self.referrers.lock().await.answers = true,
                status if turn == 0 && says_no_referrers(status, has_api) => {
                    let mut known = self.referrers.lock().await;
                    if !known.answers {
                        known.lacking.insert(repository.to_owned());
                    }
                    return Ok(Vec::new());
                }
                _ => return Err(self.refusal(&what, response).await),
            }
            let headers = response.headers().clone();
            let bytes = self.body(&what, response, MAX_MANIFEST_BYTES).await?;
            let page: Index = self.json(&what, &bytes)?;
            found.extend(page.manifests);
            next = next_page(&headers, &url);
        }
        Ok(found)
    }

    /// Sends a request that can be repeated, until it gets an answer that means something: neither
    /// 401, 429 nor 5xx.
    pub(super) async fn send(
        &self,
        what: &str,
        scope: &Scope,
        build: impl Fn() -> reqwest::RequestBuilder + Send + Sync,
    ) -> Result<reqwest::Response, StepError> {
        let mut logins = 0;
        let mut tries = 1;
        loop {
            let error = match self.send_once(what, scope, build(), errors::ANSWER_TIMEOUT).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && logins < MAX_LOGINS => {
                    logins += 1;
                    self.auth.refused(response.headers(), scope).await;
                    continue;
                }
                Ok(response) if is_final(response.status()) => return Ok(response),
                Ok(response) => self.refusal(what, response).await,
                Err(error) => error,
            };
            if !error.class.is_retryable() || tries >= MAX_TRIES {
                return Err(error);
            }
            self.wait(tries, &error).await;
            tries += 1;
        }
    }

    /// Sends once, with our credentials where the URL is the registry's own.
    pub(super) async fn send_once(
        &self,
        what: &str,
        scope: &Scope,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<reqwest::Response, StepError> {
        let message = || format!("failed to {what} at {}", self.host);
        let mut request = request.build().map_err(|e| errors::network(message(), e))?;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let turn = if is_read { self.reads.turn() } else { self.writes.turn() }.await;
        // The first request of all goes without a login, and finds out which one is wanted.
        let first = self.auth.first().await;
        if first.is_none() {
            let header = self.auth.header(scope).await?;
            authorize(&mut request, &self.endpoint, header);
        }
        let answer = match tokio::time::timeout(timeout, self.http.execute(request)).await {
            Ok(answer) => answer.map_err(|e| {
                let known = first.is_none();
                errors::network(if known { message() } else { self.unreachable() }, e)
            }),
            Err(_) => {
                Err(StepError::transient(format!("{}: no answer in {} s", message(), timeout.as_secs())))
            }
        };
        let answer = answer?;
        if let Some(mut first) = first {
            first.learn(&answer)?;
        }
        match answer.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                turn.refused(errors::retry_after(answer.headers()));
            }
            _ => turn.succeeded(),
        }
        Ok(answer)
    }

    fn unreachable(&self) -> String {
        format!("registry {} can't be reached at {}", self.host, self.endpoint)
    }

    /// Waits before the next try: as long as the registry asked, or ever longer, with jitter.
    pub(super) async fn wait(&self, tries: u32, error: &StepError) {
        let doubled = self.limits.backoff.saturating_mul(1 << tries.min(16)).min(self.limits.max_backoff);
        let wait = error.class.retry_after().unwrap_or_else(|| jitter(doubled));
        tokio::time::sleep(wait).await;
    }

    /// A refused request as an error. A refusal by whom a redirect led to (S3 behind ECR) may be an
    /// expired link: asking the registry again gives a new one.
    pub(super) async fn refusal(&self, what: &str, response: reqwest::Response) -> StepError {
        let foreign = response.url().origin() != self.endpoint.origin();
        let mut error = errors::status(format!("failed to {what} at {}", self.host), response).await;
        if foreign && matches!(error.class, ErrorClass::Auth | ErrorClass::Permanent) {
            error.class = ErrorClass::Transient { retry_after_ms: None };
        }
        error
    }

    async fn read(
        &self,
        what: &str,
        scope: &Scope,
        build: impl Fn() -> reqwest::RequestBuilder + Send + Sync,
        max_bytes: u64,
    ) -> Result<Option<(HeaderMap, Bytes)>, StepError> {
        let mut tries = 1;
        loop {
            let response = self.send(what, scope, &build).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(self.refusal(what, response).await),
            }
            let headers = response.headers().clone();
            match self.body(what, response, max_bytes).await {
                Ok(bytes) => return Ok(Some((headers, bytes))),
                Err(error) if error.class.is_retryable() && tries < MAX_TRIES => {
                    self.wait(tries, &error).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn body(&self, what: &str, mut response: reqwest::Response, max: u64) -> Result<Bytes, StepError> {
        let message = || format!("failed to {what} at {}", self.host);
        let mut bytes = BytesMut::new();
        loop {
            match tokio::time::timeout(self.limits.stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(bytes.freeze()),
                Ok(Err(e)) => return Err(errors::network(message(), e)),
                Err(_) => return Err(StepError::transient(format!("{}: the answer stalled", message()))),
            }
            if bytes.len() as u64 > max {
                return Err(StepError::permanent(format!("{}: the answer is over {max} bytes", message())));
            }
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, StepError> {
        serde_json::from_slice(bytes).map_err(|e| {
            StepError::permanent(format!("failed to {what} at {}: the answer can't be read", self.host))
                .with_source(e)
        })
    }

    /// `ENDPOINT/v2/PATH`.
    pub(super) fn url(&self, path: &str) -> Result<Url, StepError> {
        self.endpoint.join(&format!("/v2/{path}")).map_err(|e| {
            StepError::permanent(format!("`{}` is no registry endpoint", self.endpoint)).with_source(e)
        })
    }
}

/// "MUST be 404 when the API is not supported"; Artifactory has said 406 (go-containerregistry #1962), others say
/// 400 (its `pkg/v1/remote/referrers.go`). ECR has the API, and says 400 of an upstream that it can't ask.
fn says_no_referrers(status: StatusCode, has_api: bool) -> bool {
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_ACCEPTABLE => true,
        StatusCode::BAD_REQUEST => !has_api,
        _ => false,
    }
}

fn is_final(status: StatusCode) -> bool {
    !status.is_server_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// Half to all of `wait`.
fn jitter(wait: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    // Without randomness the wait is only less spread.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    wait / 2 + (wait / 2) * u32::from(byte[0]) / 255
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `Link: <…>; rel="next"`.
fn next_page(headers: &HeaderMap, of: &Url) -> Option<Url> {
    let link = text(headers, LINK.as_str())?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    of.join(target).ok()
}

/// `shop/web:1.0` or `shop/web@sha256:…`.
pub(super) fn label(repository: &str, reference: &str) -> String {
    let separator = if reference.contains(':') { '@' } else { ':' };
    format!("{repository}{separator}{reference}")
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
