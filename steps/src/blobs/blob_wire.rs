//! Writes of blobs' bytes, Put Blob and Put Block, without the client's machinery: one request costs a
//! fraction of the processor time that the client's costs, and its body may come while it is sent.
//!
//! Authenticates as the client does: by the SAS, which is part of every URL, or by Entra, with the same
//! token. Errors cut URLs off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use migrate_plugin_api::StepError;
use reqwest::Body;
use url::Url;

use super::checksum::{Crc64, md5_of};
use super::dress::Dress;
use super::errors::{BlobAnswer, Said, line_error, no_token};
use super::http1::{Broken, Lines};
use super::names::encoded;
use super::room::Held;
use crate::tokens::Tokens;

/// The version of the service that the client speaks too.
const VERSION: &str = "2026-04-06";

/// The one checksum that goes along: the service refuses two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    Crc64(Crc64),
    /// Of 16 bytes.
    Md5(Vec<u8>),
}

/// Bytes that are at hand, in the pieces in which they came.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    pub(super) pieces: Vec<Bytes>,
    pub(super) bytes: u64,
    pub(super) crc64: Crc64,
}

impl Pieces {
    fn body(&self) -> Body {
        match self.pieces.as_slice() {
            [] => Body::from(Bytes::new()),
            [one] => Body::from(one.clone()),
            many => {
                let many: Vec<_> = many.iter().cloned().map(Ok::<_, std::convert::Infallible>).collect();
                Body::wrap_stream(futures::stream::iter(many))
            }
        }
    }

    /// Of all of them.
    pub(super) fn md5(&self) -> Vec<u8> {
        md5_of(&self.pieces)
    }
}

/// What the service says of a blob that it took.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// As the service computed it. It says it of every block blob put whole, also unasked (Put Blob,
    /// learn.microsoft.com).
    pub(super) md5: Option<Vec<u8>>,
    /// With quotes.
    pub(super) etag: String,
}

/// Whether the target is Azurite, as its answers tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Azurite(Arc<AtomicBool>);

impl Azurite {
    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// From a `Server` header.
    pub(super) fn learn(&self, server: Option<&str>) {
        if server.is_some_and(|server| server.starts_with("Azurite")) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Writes to one container with one SAS or identity.
pub(super) struct Wire {
    http: Lines,
    /// The container's URL and a slash.
    base: String,
    sas: Option<String>,
    tokens: Option<Arc<Tokens>>,
    azurite: Azurite,
}

impl Wire {
    /// `container` is its URL, with the SAS as its query where there is one. Sends nothing yet.
    pub(super) fn new(container: &Url, tokens: Option<Arc<Tokens>>, http: Lines, azurite: Azurite) -> Self {
        let mut base = container.clone();
        base.set_query(None);
        Self {
            http,
            base: format!("{}/", base.as_str().trim_end_matches('/')),
            sas: container.query().map(str::to_owned),
            tokens,
            azurite,
        }
    }

    /// How the service is to check what arrives: by the CRC, or, at Azurite, by the MD5. Azurite computes
    /// CRCs in JavaScript, at some 35 MiB a second, unless it is given an MD5.
    pub(super) fn check(&self, crc64: Crc64, md5: impl FnOnce() -> Vec<u8>) -> Check {
        if self.azurite.is() { Check::Md5(md5()) } else { Check::Crc64(crc64) }
    }

    /// Writes a whole blob of `bytes` bytes.
    ///
    /// # Errors
    /// What the service or the line to it says; [`damaged`](super::errors::damaged) where what arrived is
    /// not what `check` says.
    pub(super) async fn put_blob(
        &self,
        name: &str,
        body: Body,
        bytes: u64,
        check: &Check,
        dress: &Dress,
    ) -> Result<Taken, StepError> {
        let failed = || format!("failed to write blob `{name}`");
        let mut headers = dress
            .headers()
            .map_err(|what| StepError::permanent(format!("{}: its {what} can't be a header", failed())))?;
        headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
        let answer = self.put(name, None, headers, body, bytes, check, failed).await?;
        let text = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
        let md5 = text("content-md5").and_then(|md5| BASE64.decode(md5).ok());
        Ok(Taken { md5, etag: text("etag").unwrap_or_default().to_owned() })
    }

    /// Stages a block, and gives its room back as it is sent. `id` is not in base64 yet.
    ///
    /// # Errors
    /// As [`put_blob`](Self::put_blob).
    pub(super) async fn put_block(&self, name: &str, id: &[u8], block: Held) -> Result<(), StepError> {
        let id = encoded(&BASE64.encode(id)).replace('/', "%2F");
        let query = format!("comp=block&blockid={id}");
        let bytes = block.pieces.bytes;
        let check = self.check(block.pieces.crc64, || block.pieces.md5());
        let failed = || format!("failed to write a block of blob `{name}`");
        let put = self.put(name, Some(query.as_str()), HeaderMap::new(), block.sent(), bytes, &check, failed);
        put.await.map(drop)
    }

    /// The body of a blob whose bytes are at hand.
    pub(super) fn body(pieces: &Pieces) -> Body {
        pieces.body()
    }

    #[allow(clippy::too_many_arguments, reason = "one request's parts")]
    async fn put(
        &self,
        name: &str,
        query: Option<&str>,
        mut headers: HeaderMap,
        body: Body,
        bytes: u64,
        check: &Check,
        failed: impl Fn() -> String,
    ) -> Result<HeaderMap, StepError> {
        let mut url = format!("{}{}", self.base, encoded(name));
        for (query, mark) in query.into_iter().chain(self.sas.as_deref()).zip(['?', '&']) {
            url.push(mark);
            url.push_str(query);
        }
        let (header, value) = match check {
            Check::Crc64(crc64) => ("x-ms-content-crc64", BASE64.encode(crc64.to_azure())),
            Check::Md5(md5) => ("content-md5", BASE64.encode(md5)),
        };
        // Base64 is always a header.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(header), value);
        }
        headers.insert("x-ms-version", HeaderValue::from_static(VERSION));
        headers.insert("content-length", HeaderValue::from(bytes));
        headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
        if let Some(tokens) = &self.tokens {
            let token = tokens.get().await.map_err(|e| no_token(failed(), e))?;
            let no_header =
                |_| StepError::auth(failed()).with_source(Said("the token is no header".to_owned()));
            let mut bearer =
                HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(no_header)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
            headers.insert("x-ms-date", HeaderValue::try_from(http_date()).map_err(no_header)?);
        }
        let broken = |e| line_error(failed(), &e);
        let mut put = Request::put(url).body(body).map_err(|_| broken(Broken::Url))?;
        *put.headers_mut() = headers;
        let answer = self.http.send(put).await.map_err(broken)?;
        let server = answer.headers().get("server").and_then(|server| server.to_str().ok());
        self.azurite.learn(server);
        if answer.status() == StatusCode::CREATED {
            let headers = answer.headers().clone();
            // It is empty, but may say so only at its end.
            answer.rest().await;
            return Ok(headers);
        }
        Err(BlobAnswer::of(answer).await.into_error(failed()))
    }
}

/// Now, as HTTP writes it.
fn http_date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
