//! Uploads: one PUT for small blobs, PATCH by PATCH for large ones, and mounts.
//!
//! A broken chunk costs that chunk: the registry is asked how far it got, and the source is read
//! again from there. So it is after the death of this process, since the cursor names every open
//! upload. A blob is only called sent once the registry has checked its digest.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
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
use super::cursor::{Cursor, OpenUpload};
use super::digest::{Digest, Hasher};
use super::manifest::Descriptor;
use super::meter::Sent;
use super::rate::Rate;
use super::reference::ImageRef;
use super::registry::{MAX_TRIES, Registry, label, text};

const OCTET_STREAM: &str = "application/octet-stream";

/// A registry may ask for larger chunks than ours.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// The registry hashes and moves the whole blob before it answers.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A bound for what the stall time-out does not see: a body that trickles for ever.
const LONGEST_CHUNK: Duration = Duration::from_secs(60 * 60);

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
    /// The registry would not; most open an upload instead.
    No(Option<Session>),
}

/// An upload that the registry has opened.
pub(crate) struct Session {
    location: Url,
    /// What is there already.
    offset: u64,
    /// Chunks must not be smaller.
    min_chunk: u64,
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
            StatusCode::ACCEPTED => Ok(Mounted::No(self.session(&what, &response, 0).ok())),
            // Some registries refuse mounts outright, some by a 403 for the other repository: then
            // the blob is sent, and if that may not be done either, it says so.
            status if status.is_client_error() => Ok(Mounted::No(None)),
            _ => Err(self.refusal(&what, response).await),
        }
    }

    /// Sends one blob, in `session` if one is open already. `sent` counts bytes as they leave.
    pub(crate) async fn upload(
        &self,
        repository: &str,
        source: &BlobSource,
        session: Option<Session>,
        sent: &Arc<Sent>,
        cursor: &Cursor,
    ) -> Result<(), StepError> {
        let proof = Arc::new(StdMutex::new(Proof::new(&source.blob.digest)));
        let upload = Upload { registry: self, repository, source, sent, cursor, proof };
        upload.run(session).await?;
        cursor.forget_upload(&source.blob.digest).await;
        Ok(())
    }

    fn session(&self, what: &str, response: &reqwest::Response, offset: u64) -> Result<Session, StepError> {
        let min = text(response.headers(), CHUNK_MIN_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
        let location = text(response.headers(), LOCATION.as_str())
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(|| {
                StepError::transient(format!("failed to {what} at {}: no location in the answer", self.host))
            })?;
        Ok(Session { location, offset, min_chunk: min })
    }
}

/// One blob on its way to one repository.
struct Upload<'a> {
    registry: &'a Registry,
    repository: &'a str,
    source: &'a BlobSource,
    sent: &'a Arc<Sent>,
    cursor: &'a Cursor,
    proof: Arc<StdMutex<Proof>>,
}

impl Upload<'_> {
    /// Session after session, as long as one gets further than those before.
    async fn run(&self, session: Option<Session>) -> Result<(), StepError> {
        let mut session = match self.left_open().await {
            Some(left) => Some(left),
            None => session,
        };
        let (mut tries, mut furthest) = (1, 0);
        loop {
            let error = match self.session(session.take()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let reached = self.sent.bytes();
            // The session is lost: what it had sent does not count.
            self.sent.rewind(0);
            if reached > furthest {
                (tries, furthest) = (1, reached);
            }
            if !error.class.is_retryable() || tries >= MAX_TRIES {
                return Err(error);
            }
            self.registry.wait(tries, &error).await;
            tries += 1;
            // Its last answer may be all that was lost.
            if self.registry.has_blob(self.repository, &self.source.blob).await? {
                self.sent.rewind(0);
                self.sent.add(self.source.blob.size);
                return Ok(());
            }
            *self.proof() = Proof::new(&self.source.blob.digest);
        }
    }

    /// What an earlier process has left open, if the registry still has it.
    async fn left_open(&self) -> Option<Session> {
        let left = self.cursor.upload(&self.source.blob.digest, self.repository).await?;
        // An upload is only ever continued where it was opened.
        if left.location.origin() != self.registry.endpoint.origin() {
            return None;
        }
        let session = self.status(&left.location).await.ok()?;
        self.sent.add(session.offset);
        Some(session)
    }

    async fn session(&self, session: Option<Session>) -> Result<(), StepError> {
        let session = match session {
            Some(session) => session,
            None => self.open().await?,
        };
        let chunk_bytes = self.registry.limits.chunk_bytes.max(session.min_chunk);
        if session.offset == 0 && self.source.blob.size <= chunk_bytes {
            let reader = Reader::open(self.source, 0);
            return self.finish(session.location, Some(reader)).await;
        }
        let location = self.send_chunks(session, chunk_bytes).await?;
        self.finish(location, None).await
    }

    async fn open(&self) -> Result<Session, StepError> {
        let what = format!("open an upload for blob {}", self.name());
        let url = self.registry.url(&format!("{}/blobs/uploads/", self.repository))?;
        let request = || self.registry.http.post(url.clone()).header(CONTENT_LENGTH, 0);
        let response = self.registry.send(&what, &self.scope(), request).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.registry.refusal(&what, response).await);
        }
        self.registry.session(&what, &response, 0)
    }

    async fn send_chunks(&self, session: Session, chunk_bytes: u64) -> Result<Url, StepError> {
        let size = self.source.blob.size;
        let Session { mut location, mut offset, .. } = session;
        let mut failures = 0;
        let mut reader = Reader::open(self.source, offset);
        while offset < size {
            self.keep(&location).await?;
            let length = chunk_bytes.min(size - offset);
            match self.send_chunk(&location, (offset, length), &reader).await {
                Ok(next) => {
                    location = next;
                    offset += length;
                    failures = 0;
                    continue;
                }
                Err(error) if error.class.is_retryable() && failures < MAX_TRIES => {
                    failures += 1;
                    self.registry.wait(failures, &error).await;
                }
                Err(error) => return Err(error),
            }
            // Half a chunk may have arrived: the registry knows.
            let arrived = self.status(&location).await?;
            if arrived.offset > offset {
                failures = 0;
            }
            (location, offset) = (arrived.location, arrived.offset);
            self.sent.rewind(offset);
            reader = Reader::open(self.source, offset);
        }
        Ok(location)
    }

    async fn send_chunk(
        &self,
        location: &Url,
        (offset, length): (u64, u64),
        reader: &Arc<Mutex<Reader>>,
    ) -> Result<Url, StepError> {
        let what = format!("send blob {}", self.name());
        let request = self
            .registry
            .http
            .patch(location.clone())
            .header(CONTENT_TYPE, OCTET_STREAM)
            .header(CONTENT_LENGTH, length)
            .header(CONTENT_RANGE, format!("{offset}-{}", offset + length - 1))
            .body(self.body(reader, length));
        let response = self.send_body(&what, request, reader).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                Ok(self.registry.session(&what, &response, 0)?.location)
            }
            _ => Err(self.broken(&what, response).await),
        }
    }

    /// The last request of an upload, with the whole blob where it is small.
    async fn finish(&self, mut location: Url, tail: Option<Arc<Mutex<Reader>>>) -> Result<(), StepError> {
        let what = format!("finish blob {}", self.name());
        location.query_pairs_mut().append_pair("digest", &self.source.blob.digest.to_string());
        let request = self.registry.http.put(location).header(CONTENT_TYPE, OCTET_STREAM);
        let response = match &tail {
            Some(reader) => {
                let size = self.source.blob.size;
                let request = request.header(CONTENT_LENGTH, size).body(self.body(reader, size));
                self.send_body(&what, request, reader).await?
            }
            None => {
                // Our own proof first: a source that lies is named, not the registry that notices.
                self.proven()?;
                let request = request.header(CONTENT_LENGTH, 0);
                self.registry.send_once(&what, &self.scope(), request, FINISH_TIMEOUT).await?
            }
        };
        self.proven()?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            _ => Err(self.broken(&what, response).await),
        }
    }

    /// Sends a request with a body, for as long as bytes move.
    async fn send_body(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
        reader: &Arc<Mutex<Reader>>,
    ) -> Result<reqwest::Response, StepError> {
        let scope = self.scope();
        let mut request = std::pin::pin!(self.registry.send_once(what, &scope, request, LONGEST_CHUNK));
        let mut last = self.sent.bytes();
        let answer = loop {
            match tokio::time::timeout(self.registry.limits.stall, &mut request).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let now = self.sent.bytes();
                    if now == last {
                        break Err(StepError::transient(format!(
                            "failed to {what} at {}: the upload stalled",
                            self.registry.host
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
    async fn status(&self, location: &Url) -> Result<Session, StepError> {
        let what = format!("ask how far the upload of blob {} is", self.source.blob.digest);
        let request = || self.registry.http.get(location.clone());
        let response = self.registry.send(&what, &self.scope(), request).await?;
        if !response.status().is_success() {
            return Err(self.broken(&what, response).await);
        }
        let end = text(response.headers(), RANGE.as_str())
            .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
            .and_then(|(_, end)| end.parse::<u64>().ok());
        // `0-0` is said for nothing as well as for one byte: nothing is the safe reading, since a
        // wrong one is refused and the blob starts again.
        let arrived = match end {
            None | Some(0) => 0,
            Some(end) => end.saturating_add(1).min(self.source.blob.size),
        };
        self.registry.session(&what, &response, arrived)
    }

    /// A refused part of an upload starts it again: the session is lost (404, 416), was damaged on
    /// the way (400), or the token has ended (401). The source's own bytes are proven before.
    async fn broken(&self, what: &str, response: reqwest::Response) -> StepError {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            self.registry.auth.refused(response.headers(), &self.scope()).await;
        }
        let mut error = self.registry.refusal(what, response).await;
        if matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::UNAUTHORIZED
                | StatusCode::NOT_FOUND
                | StatusCode::RANGE_NOT_SATISFIABLE
        ) {
            error.class = ErrorClass::Transient { retry_after_ms: None };
        }
        error
    }

    /// The next process goes on at `location`.
    async fn keep(&self, location: &Url) -> Result<(), StepError> {
        if location.origin() != self.registry.endpoint.origin() {
            return Ok(());
        }
        let upload = OpenUpload { repository: self.repository.to_owned(), location: location.clone() };
        self.cursor.keep_upload(&self.source.blob.digest, upload).await
    }

    fn scope(&self) -> Scope {
        Scope::Push(self.repository.to_owned())
    }

    fn name(&self) -> String {
        label(self.repository, &self.source.blob.digest.to_string())
    }

    fn proof(&self) -> std::sync::MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what was read with what it should be, once everything was read.
    fn proven(&self) -> Result<(), StepError> {
        let found = self.proof().found(self.source.blob.size);
        match found {
            Some(found) if found != self.source.blob.digest => Err(StepError::corrupt(format!(
                "blob {} of {} has digest {found} at its source",
                self.source.blob.digest,
                self.source.image.short()
            ))),
            _ => Ok(()),
        }
    }

    /// The next `length` bytes of `reader` as a request body.
    fn body(&self, reader: &Arc<Mutex<Reader>>, length: u64) -> reqwest::Body {
        let body = Body {
            reader: Arc::clone(reader),
            proof: Arc::clone(&self.proof),
            sent: Arc::clone(self.sent),
            rate: self.registry.rate.clone(),
            left: length,
        };
        reqwest::Body::wrap_stream(futures::stream::unfold(body, Body::next))
    }
}

/// Bytes on their way out: read, hashed, counted, and held to the rate.
struct Body {
    reader: Arc<Mutex<Reader>>,
    proof: Arc<StdMutex<Proof>>,
    sent: Arc<Sent>,
    rate: Option<Arc<Rate>>,
    left: u64,
}

impl Body {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        if self.left == 0 {
            return None;
        }
        let next = {
            let mut reader = self.reader.lock().await;
            let start = reader.position;
            match reader.next(self.left).await? {
                Ok(bytes) => {
                    self.proof.lock().unwrap_or_else(PoisonError::into_inner).add(start, &bytes);
                    Ok(bytes)
                }
                Err(error) => {
                    let io = std::io::Error::other(error.message.clone());
                    reader.failure = Some(error);
                    Err(io)
                }
            }
        };
        match &next {
            Ok(bytes) => {
                if let Some(rate) = &self.rate {
                    rate.pass(bytes.len()).await;
                }
                self.sent.add(bytes.len() as u64);
                self.left -= bytes.len() as u64;
            }
            Err(_) => self.left = 0,
        }
        Some((next, self))
    }
}

/// One blob being read.
struct Reader {
    stream: BoxStream<'static, Result<Bytes, StepError>>,
    /// What a chunk's end left over.
    rest: Bytes,
    /// Next byte to hand out.
    position: u64,
    failure: Option<StepError>,
}

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

/// How far the blob's own hash is; survives a reader that has to start again further back.
struct Proof {
    /// None where the beginning was sent by an earlier process: then the registry alone proves it,
    /// which hashes the whole before it takes it.
    hasher: Option<Hasher>,
    hashed: u64,
}

impl Proof {
    fn new(digest: &Digest) -> Self {
        Self { hasher: Some(digest.hasher()), hashed: 0 }
    }

    /// Hashes what was not hashed yet of `bytes`, which stand at `start` of the blob.
    fn add(&mut self, start: u64, bytes: &[u8]) {
        if start > self.hashed {
            self.hasher = None;
        }
        let known = usize::try_from(self.hashed.saturating_sub(start)).unwrap_or(usize::MAX);
        if let Some(fresh) = bytes.get(known..) {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(fresh);
            }
            self.hashed = self.hashed.max(start + bytes.len() as u64);
        }
    }

    /// The digest of the whole, once.
    fn found(&mut self, size: u64) -> Option<Digest> {
        if self.hashed == size { self.hasher.take().map(Hasher::finish) } else { None }
    }
}
