//! Blobs as streams: a broken or stalled connection is opened again where it ended.
//!
//! Never hashes: who takes the bytes proves them.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap, RANGE};
use migrate_plugin_api::StepError;

use super::auth::Scope;
use super::errors;
use super::manifest::Descriptor;
use super::registry::{MAX_TRIES, Registry, label, text};

impl Registry {
    /// The bytes of a blob from `offset` on. A broken or stalled connection is opened again where
    /// it ended; the bytes are not hashed here.
    pub(crate) fn read_blob(
        self: &Arc<Self>,
        repository: &str,
        blob: &Descriptor,
        offset: u64,
    ) -> BoxStream<'static, Result<Bytes, StepError>> {
        let reader = BlobReader {
            registry: Arc::clone(self),
            repository: repository.to_owned(),
            blob: blob.clone(),
            position: offset,
            body: None,
            failures: 0,
        };
        futures::stream::try_unfold(reader, BlobReader::next).boxed()
    }
}

struct BlobReader {
    registry: Arc<Registry>,
    repository: String,
    blob: Descriptor,
    position: u64,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    /// In a row, without one byte between them.
    failures: u32,
}

impl BlobReader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StepError> {
        loop {
            if self.position == self.blob.size {
                return Ok(None);
            }
            let error = match self.step().await {
                Ok(bytes) if bytes.is_empty() => continue,
                Ok(bytes) => {
                    self.position += bytes.len() as u64;
                    self.failures = 0;
                    if self.position > self.blob.size {
                        return Err(StepError::corrupt(format!(
                            "registry {} sends more than the {} bytes of blob {}",
                            self.registry.host, self.blob.size, self.blob.digest
                        )));
                    }
                    return Ok(Some((bytes, self)));
                }
                Err(error) => error,
            };
            self.body = None;
            self.failures += 1;
            if !error.class.is_retryable() || self.failures >= MAX_TRIES {
                return Err(error);
            }
            self.registry.wait(self.failures, &error).await;
        }
    }

    fn what(&self) -> String {
        format!("read blob {}", label(&self.repository, &self.blob.digest.to_string()))
    }

    async fn step(&mut self) -> Result<Bytes, StepError> {
        if self.body.is_none() {
            self.body = Some(self.open().await?);
        }
        let (what, host, position) = (self.what(), self.registry.host.clone(), self.position);
        let message = |tail: &str| format!("failed to {what} at {host}: {tail} after {position} bytes");
        let Some(body) = self.body.as_mut() else { return Ok(Bytes::new()) };
        match tokio::time::timeout(self.registry.limits.stall, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                if let Some(rate) = &self.registry.rate {
                    rate.pass(bytes.len()).await;
                }
                Ok(bytes)
            }
            Ok(Some(Err(e))) => Err(errors::network(message("the connection broke"), e)),
            Ok(None) => Err(StepError::transient(message("the answer ended"))),
            Err(_) => Err(StepError::transient(message("the answer stalled"))),
        }
    }

    /// `&mut` only because the body in `self` is no `Sync`.
    async fn open(&mut self) -> Result<BoxStream<'static, reqwest::Result<Bytes>>, StepError> {
        let registry = Arc::clone(&self.registry);
        let what = self.what();
        let url = registry.url(&format!("{}/blobs/{}", self.repository, self.blob.digest))?;
        let position = self.position;
        let request = || {
            let request = registry.http.get(url.clone());
            if position > 0 { request.header(RANGE, format!("bytes={position}-")) } else { request }
        };
        let response = registry.send(&what, &Scope::Pull(self.repository.clone()), request).await?;
        match response.status() {
            // The registry ignored the range: what is already there is dropped on the way.
            StatusCode::OK => Ok(skip(response.bytes_stream().boxed(), position)),
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), position) => {
                Ok(response.bytes_stream().boxed())
            }
            StatusCode::PARTIAL_CONTENT => Err(StepError::corrupt(format!(
                "registry {} answers blob {} with another range than asked for",
                registry.host, self.blob.digest
            ))),
            StatusCode::NOT_FOUND => Err(StepError::permanent(format!(
                "blob {} of {}/{} is missing",
                self.blob.digest, registry.host, self.repository
            ))
            .with_hint("the image is broken in that registry: push it again")),
            _ => Err(registry.refusal(&what, response).await),
        }
    }
}

fn skip(
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    mut bytes_left: u64,
) -> BoxStream<'static, reqwest::Result<Bytes>> {
    body.map(move |chunk| {
        chunk.map(|mut chunk| {
            let cut = usize::try_from(bytes_left).unwrap_or(usize::MAX).min(chunk.len());
            bytes_left -= cut as u64;
            chunk.split_off(cut)
        })
    })
    .boxed()
}

fn starts_at(headers: &HeaderMap, position: u64) -> bool {
    text(headers, CONTENT_RANGE.as_str()).is_some_and(|range| {
        range.trim_start_matches("bytes").trim_start().starts_with(&format!("{position}-"))
    })
}
