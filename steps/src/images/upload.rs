//! Uploads: one PUT for small blobs, PATCH by PATCH for large ones, and mounts.
//!
//! A broken chunk costs that chunk: the registry is asked how far it got, and the source is read
//! again from there. A blob is only called sent once the registry has checked its digest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use migrate_plugin_api::{ErrorClass, StepError};
use tokio::sync::Mutex;
use url::Url;

use super::auth::Scope;
use super::content::Content;
use super::digest::{Digest, Hasher};
use super::manifest::Descriptor;
use super::meter::Sent;
use super::reference::ImageRef;
use super::registry::{MAX_TRIES, Registry, label, text};

const OCTET_STREAM: &str = "application/octet-stream";

/// A registry may ask for larger chunks than ours.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// Where a blob comes from.
#[derive(Clone)]
pub(crate) struct BlobSource {
    pub content: Arc<dyn Content>,
    pub image: ImageRef,
    pub blob: Descriptor,
}

/// What a mount came to.
pub(crate) enum Mounted {
    /// The blob is there now.
    Yes,
    /// The registry would not; it opened an upload instead.
    No,
}

/// One blob being read, hashed on the way.
struct Reader {
    stream: BoxStream<'static, Result<Bytes, StepError>>,
    /// What a chunk's end left over.
    rest: Bytes,
    /// Next byte to hand out.
    position: u64,
    failure: Option<StepError>,
}

/// How far the blob's own hash is; survives a reader that has to start again further back.
struct Proof {
    hasher: Option<Hasher>,
    hashed: u64,
}

impl Registry {
    /// Asks for `digest` to be linked into `repository` from `from`, without moving bytes.
    pub(crate) async fn mount(
        &self,
        repository: &str,
        from: &str,
        digest: &Digest,
    ) -> Result<Mounted, StepError> {
        let what = format!("mount blob {digest} of {from} into {repository}");
        let mut url = self.url(&format!("{repository}/blobs/uploads/"))?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        let scope = Scope::Mount(repository.to_owned(), from.to_owned());
        let response =
            self.send(&what, &scope, || self.http.post(url.clone()).header(CONTENT_LENGTH, 0)).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mounted::Yes),
            // 202 opens an upload; some registries refuse mounts outright. Either way it is sent.
            StatusCode::ACCEPTED => Ok(Mounted::No),
            status if status.is_client_error() && status != StatusCode::FORBIDDEN => Ok(Mounted::No),
            _ => Err(self.refusal(&what, response).await),
        }
    }

    /// Sends one blob. `sent` counts bytes as they leave.
    pub(crate) async fn upload(
        &self,
        repository: &str,
        source: &BlobSource,
        sent: &Arc<Sent>,
    ) -> Result<(), StepError> {
        let mut tries = 1;
        loop {
            let error = match self.upload_session(repository, source, sent).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // The session is lost: what it had sent does not count.
            sent.rewind(0);
            if !error.class.is_retryable() || tries >= MAX_TRIES {
                return Err(error);
            }
            self.wait(tries, &error).await;
            tries += 1;
        }
    }

    async fn upload_session(
        &self,
        repository: &str,
        source: &BlobSource,
        sent: &Arc<Sent>,
    ) -> Result<(), StepError> {
        let digest = &source.blob.digest;
        let size = source.blob.size;
        let (mut location, min_chunk) = self.open_upload(repository, digest).await?;
        let proof = Arc::new(std::sync::Mutex::new(Proof { hasher: Some(digest.hasher()), hashed: 0 }));
        let chunk_bytes = self.limits.chunk_bytes.max(min_chunk);
        let mut tail = None;
        if size > chunk_bytes {
            location = self.send_chunks(repository, source, location, chunk_bytes, &proof, sent).await?;
        } else {
            tail = Some(Reader::open(source, 0));
        }
        self.finish(repository, source, location, tail, &proof, sent).await
    }

    async fn open_upload(&self, repository: &str, digest: &Digest) -> Result<(Url, u64), StepError> {
        let what = format!("open an upload for blob {}", label(repository, &digest.to_string()));
        let url = self.url(&format!("{repository}/blobs/uploads/"))?;
        let scope = Scope::Push(repository.to_owned());
        let response =
            self.send(&what, &scope, || self.http.post(url.clone()).header(CONTENT_LENGTH, 0)).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(&what, response).await);
        }
        let min = text(response.headers(), CHUNK_MIN_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok((self.location(&what, &response)?, min))
    }

    async fn send_chunks(
        &self,
        repository: &str,
        source: &BlobSource,
        mut location: Url,
        chunk_bytes: u64,
        proof: &Arc<std::sync::Mutex<Proof>>,
        sent: &Arc<Sent>,
    ) -> Result<Url, StepError> {
        let size = source.blob.size;
        let mut offset = 0;
        let mut failures = 0;
        let mut reader = Reader::open(source, 0);
        while offset < size {
            let length = chunk_bytes.min(size - offset);
            match self.send_chunk(repository, source, &location, (offset, length), &reader, proof, sent).await
            {
                Ok(next) => {
                    location = next;
                    offset += length;
                    failures = 0;
                    continue;
                }
                Err(error) if error.class.is_retryable() && failures < MAX_TRIES => {
                    failures += 1;
                    self.wait(failures, &error).await;
                }
                Err(error) => return Err(error),
            }
            // Half a chunk may have arrived: the registry knows.
            (location, offset) = self.upload_status(repository, source, &location).await?;
            sent.rewind(offset);
            reader = Reader::open(source, offset);
        }
        Ok(location)
    }

    #[allow(clippy::too_many_arguments)]
    async fn send_chunk(
        &self,
        repository: &str,
        source: &BlobSource,
        location: &Url,
        (offset, length): (u64, u64),
        reader: &Arc<Mutex<Reader>>,
        proof: &Arc<std::sync::Mutex<Proof>>,
        sent: &Arc<Sent>,
    ) -> Result<Url, StepError> {
        let what = format!("send blob {}", label(repository, &source.blob.digest.to_string()));
        let body = body(Arc::clone(reader), length, Arc::clone(proof), Arc::clone(sent));
        let request = self
            .http
            .patch(location.clone())
            .header(CONTENT_TYPE, OCTET_STREAM)
            .header(CONTENT_LENGTH, length)
            .header(CONTENT_RANGE, format!("{offset}-{}", offset + length - 1))
            .body(body);
        let response = self.send_body(&what, repository, request, reader, sent).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                self.location(&what, &response)
            }
            _ => Err(self.broken(&what, repository, response).await),
        }
    }

    /// The last request of an upload, with the whole blob where it is small.
    async fn finish(
        &self,
        repository: &str,
        source: &BlobSource,
        mut location: Url,
        tail: Option<Arc<Mutex<Reader>>>,
        proof: &Arc<std::sync::Mutex<Proof>>,
        sent: &Arc<Sent>,
    ) -> Result<(), StepError> {
        let digest = &source.blob.digest;
        let what = format!("finish blob {}", label(repository, &digest.to_string()));
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = self.http.put(location).header(CONTENT_TYPE, OCTET_STREAM);
        let response = match &tail {
            Some(reader) => {
                let size = source.blob.size;
                let body = body(Arc::clone(reader), size, Arc::clone(proof), Arc::clone(sent));
                let request = request.header(CONTENT_LENGTH, size).body(body);
                self.send_body(&what, repository, request, reader, sent).await?
            }
            None => {
                // Our own proof first: a source that lies is named, not the registry that notices.
                proven(proof, source)?;
                let request = request.header(CONTENT_LENGTH, 0);
                self.send_once(&what, &Scope::Push(repository.to_owned()), request, FINISH_TIMEOUT).await?
            }
        };
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => proven(proof, source),
            _ => {
                proven(proof, source)?;
                Err(self.broken(&what, repository, response).await)
            }
        }
    }

    /// Sends a request with a body, for as long as bytes move.
    async fn send_body(
        &self,
        what: &str,
        repository: &str,
        request: reqwest::RequestBuilder,
        reader: &Arc<Mutex<Reader>>,
        sent: &Arc<Sent>,
    ) -> Result<reqwest::Response, StepError> {
        let scope = Scope::Push(repository.to_owned());
        let mut request = std::pin::pin!(self.send_once(what, &scope, request, LONGEST_CHUNK));
        let mut last = sent.bytes();
        let answer = loop {
            match tokio::time::timeout(self.limits.stall, &mut request).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let now = sent.bytes();
                    if now == last {
                        break Err(StepError::transient(format!(
                            "failed to {what} at {}: the upload stalled",
                            self.host
                        )));
                    }
                    last = now;
                }
            }
        };
        // Where the source failed, its own error says more than the broken request. A stalled
        // body still holds the reader; then the source is not what failed.
        if answer.is_err()
            && let Ok(mut reader) = reader.try_lock()
            && let Some(failure) = reader.failure.take()
        {
            return Err(failure);
        }
        answer
    }

    /// How much of an upload has arrived, and where it goes on.
    async fn upload_status(
        &self,
        repository: &str,
        source: &BlobSource,
        location: &Url,
    ) -> Result<(Url, u64), StepError> {
        let what = format!("ask how far the upload of blob {} is", source.blob.digest);
        let scope = Scope::Push(repository.to_owned());
        let response = self.send(&what, &scope, || self.http.get(location.clone())).await?;
        if !response.status().is_success() {
            return Err(self.broken(&what, repository, response).await);
        }
        let end = text(response.headers(), RANGE.as_str())
            .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
            .and_then(|(_, end)| end.parse::<u64>().ok());
        // `0-0` is said for nothing as well as for one byte: nothing is the safe reading, since a
        // wrong one is refused and the blob starts again.
        let arrived = match end {
            None | Some(0) => 0,
            Some(end) => (end + 1).min(source.blob.size),
        };
        Ok((self.location(&what, &response)?, arrived))
    }

    /// A refused part of an upload: a lost session (404, 416) or an ended token starts it again.
    async fn broken(&self, what: &str, repository: &str, response: reqwest::Response) -> StepError {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            self.auth.refused(response.headers(), &Scope::Push(repository.to_owned())).await;
        }
        let mut error = self.refusal(what, response).await;
        if matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE
        ) {
            error.class = ErrorClass::Transient { retry_after_ms: None };
        }
        error
    }

    fn location(&self, what: &str, response: &reqwest::Response) -> Result<Url, StepError> {
        text(response.headers(), LOCATION.as_str())
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(|| {
                StepError::transient(format!("failed to {what} at {}: no location in the answer", self.host))
            })
    }
}

/// The registry hashes and moves the whole blob before it answers.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A bound for what the stall time-out does not see: a body that trickles for ever.
const LONGEST_CHUNK: Duration = Duration::from_secs(60 * 60);

impl Reader {
    fn open(source: &BlobSource, offset: u64) -> Arc<Mutex<Self>> {
        let stream = source.content.read_blob(&source.image, &source.blob, offset);
        Arc::new(Mutex::new(Self { stream, rest: Bytes::new(), position: offset, failure: None }))
    }

    async fn next(&mut self, most: u64) -> Option<Result<Bytes, StepError>> {
        if self.rest.is_empty() {
            match self.stream.next().await? {
                Ok(bytes) => self.rest = bytes,
                Err(error) => return Some(Err(error)),
            }
        }
        let cut = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        let bytes = self.rest.split_to(cut);
        self.position += bytes.len() as u64;
        Some(Ok(bytes))
    }
}

/// The next `length` bytes of `reader` as a request body.
fn body(
    reader: Arc<Mutex<Reader>>,
    length: u64,
    proof: Arc<std::sync::Mutex<Proof>>,
    sent: Arc<Sent>,
) -> reqwest::Body {
    let stream = futures::stream::unfold(length, move |left| {
        let (reader, proof, sent) = (Arc::clone(&reader), Arc::clone(&proof), Arc::clone(&sent));
        async move {
            if left == 0 {
                return None;
            }
            let mut reader = reader.lock().await;
            let start = reader.position;
            match reader.next(left).await? {
                Ok(bytes) => {
                    prove(&proof, start, &bytes);
                    sent.add(bytes.len() as u64);
                    let left = left - bytes.len() as u64;
                    Some((Ok(bytes), left))
                }
                Err(error) => {
                    let io = std::io::Error::other(error.message.clone());
                    reader.failure = Some(error);
                    Some((Err(io), 0))
                }
            }
        }
    });
    reqwest::Body::wrap_stream(stream)
}

/// Hashes what was not hashed yet of `bytes`, which stand at `start` of the blob.
fn prove(proof: &std::sync::Mutex<Proof>, start: u64, bytes: &[u8]) {
    let mut proof = proof.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = usize::try_from(proof.hashed.saturating_sub(start)).unwrap_or(usize::MAX);
    if let Some(fresh) = bytes.get(known..) {
        if let Some(hasher) = &mut proof.hasher {
            hasher.update(fresh);
        }
        proof.hashed += fresh.len() as u64;
    }
}

/// Compares what was read with what it should be, once everything was read.
fn proven(proof: &std::sync::Mutex<Proof>, source: &BlobSource) -> Result<(), StepError> {
    let mut proof = proof.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if proof.hashed != source.blob.size {
        return Ok(());
    }
    match proof.hasher.take().map(Hasher::finish) {
        Some(found) if found != source.blob.digest => Err(StepError::corrupt(format!(
            "blob {} of {} has digest {found} at its source",
            source.blob.digest,
            source.image.short()
        ))),
        _ => Ok(()),
    }
}
