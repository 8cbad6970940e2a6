//! Put Block From URL and Put Blob From URL.
//!
//! Rules: learn.microsoft.com/rest/api/storageservices/put-block-from-url and …/put-blob-from-url.
//! The order is the service's own: what can be seen from the request is refused before the source
//! is asked. Checksums are handed to Azurite, which compares them with what it stored before the
//! block or blob becomes visible.

use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::form_urlencoded;

use super::source::{self, Source, SourceRange};
use super::{Front, Refusal, returned};

/// A block's limit from version 2019-12-12 on: 4,000 MiB.
const BLOCK_BYTES_MAX: u64 = 4_000 * 1024 * 1024;
/// A blob's limit in one put: 5,000 MiB.
const BLOB_BYTES_MAX: u64 = 5_000 * 1024 * 1024;
/// A block ID's limit before it is encoded.
const BLOCK_ID_BYTES_MAX: usize = 64;
/// Versions from which the operations exist.
const BLOCK_SINCE: &str = "2018-03-28";
const BLOB_SINCE: &str = "2020-04-08";

const COPY_SOURCE: &str = "x-ms-copy-source";
const SOURCE_MD5: &str = "x-ms-source-content-md5";
const SOURCE_CRC64: &str = "x-ms-source-content-crc64";
const COPY_PROPERTIES: &str = "x-ms-copy-source-blob-properties";

/// Headers of the source that become the blob's, unless the request says otherwise.
const PROPERTIES: [(&str, &str); 5] = [
    ("content-type", "x-ms-blob-content-type"),
    ("content-encoding", "x-ms-blob-content-encoding"),
    ("content-language", "x-ms-blob-content-language"),
    ("content-disposition", "x-ms-blob-content-disposition"),
    ("cache-control", "x-ms-blob-cache-control"),
];

/// Headers that mean something only for the From-URL form.
const OF_FROM_URL: [&str; 12] = [
    COPY_SOURCE,
    "x-ms-copy-source-authorization",
    COPY_PROPERTIES,
    "x-ms-copy-source-tag-option",
    "x-ms-source-range",
    SOURCE_MD5,
    SOURCE_CRC64,
    "x-ms-source-if-match",
    "x-ms-source-if-none-match",
    "x-ms-source-if-modified-since",
    "x-ms-source-if-unmodified-since",
    "x-ms-requires-sync",
];

/// Which of the two operations a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `PUT ?comp=block` with a copy source.
    Block,
    /// `PUT` of a block blob with a copy source.
    Blob,
}

impl Call {
    /// The operation that `request` is, if it is one of the two. Copy Blob and Copy Blob From URL
    /// have a source too, but no blob type: those are Azurite's.
    pub fn of(request: &Request) -> Option<Self> {
        if request.method() != Method::PUT || !request.headers().contains_key(COPY_SOURCE) {
            return None;
        }
        match query(request.uri(), "comp").as_deref() {
            Some("block") => Some(Self::Block),
            None if request.headers().contains_key("x-ms-blob-type") => Some(Self::Blob),
            _ => None,
        }
    }

    fn limit_bytes(self) -> u64 {
        match self {
            Self::Block => BLOCK_BYTES_MAX,
            Self::Blob => BLOB_BYTES_MAX,
        }
    }

    fn since(self) -> &'static str {
        match self {
            Self::Block => BLOCK_SINCE,
            Self::Blob => BLOB_SINCE,
        }
    }

    /// Refuses what can be refused without the source, and returns the range to read.
    fn check(self, parts: &Parts) -> Result<Option<SourceRange>, Refusal> {
        let headers = &parts.headers;
        if headers.contains_key(AUTHORIZATION) && text(headers, "authorization").starts_with("SharedKey") {
            return Err(Refusal::shared_key());
        }
        // A SAS carries the version that it was signed for; a header wins over it.
        let version = match headers.get("x-ms-version") {
            Some(version) => version.to_str().unwrap_or_default().to_owned(),
            None => query(&parts.uri, "sv").ok_or(Refusal::missing_header("x-ms-version"))?,
        };
        if version.as_str() < self.since() {
            return Err(Refusal::invalid_header("x-ms-version", &version));
        }
        match headers.get(CONTENT_LENGTH).map(|v| v.to_str().unwrap_or_default()) {
            Some("0") => {}
            Some(length) => return Err(Refusal::invalid_header("Content-Length", length)),
            None if headers.contains_key(TRANSFER_ENCODING) => {
                return Err(Refusal::invalid_header("Transfer-Encoding", text(headers, "transfer-encoding")));
            }
            None => return Err(Refusal::missing_header("Content-Length")),
        }
        checksums(headers)?;
        match self {
            Self::Block => {
                block_id(query(&parts.uri, "blockid"))?;
                let range = headers.get("x-ms-source-range");
                let range = range.map(|r| SourceRange::parse(r.to_str().unwrap_or_default())).transpose()?;
                match range.and_then(SourceRange::length) {
                    Some(length) if length > BLOCK_BYTES_MAX => Err(Refusal::too_large(BLOCK_BYTES_MAX)),
                    _ => Ok(range),
                }
            }
            Self::Blob => {
                let kind = text(headers, "x-ms-blob-type");
                if kind != "BlockBlob" {
                    return Err(Refusal::invalid_header("x-ms-blob-type", kind));
                }
                // A partial source is Put Block From URL's business.
                if headers.contains_key("x-ms-source-range") {
                    let range = text(headers, "x-ms-source-range");
                    return Err(Refusal::invalid_header("x-ms-source-range", range));
                }
                copies_properties(headers).map(|_| None)
            }
        }
    }
}

impl Front {
    /// Does `call` with an ordinary put to Azurite.
    pub(super) async fn fetch_and_put(&self, call: Call, request: Request) -> Result<Response, Refusal> {
        let (parts, _) = request.into_parts();
        let range = call.check(&parts)?;
        let source = source::url(text(&parts.headers, COPY_SOURCE))?;
        let source = source::open(&self.http, source, range, &parts.headers, call.limit_bytes()).await?;
        let headers = put_headers(call, &parts.headers, &source)?;
        let put = self
            .http
            .put(self.target(&parts.uri)?)
            .headers(headers)
            .body(reqwest::Body::wrap_stream(source.response.bytes_stream()));
        // A body that ends early, because the source broke off, fails the put as a whole.
        let answer = put.send().await.map_err(|e| {
            if e.is_body() || e.is_request() {
                let message = "The copy source broke off.";
                Refusal::source(http::StatusCode::INTERNAL_SERVER_ERROR, message)
            } else {
                Refusal::unreachable(&e)
            }
        })?;
        Ok(returned(answer))
    }
}

/// The headers of the put: the caller's, without those of the From-URL form, with the source's
/// length and properties.
fn put_headers(call: Call, request: &HeaderMap, source: &Source) -> Result<HeaderMap, Refusal> {
    let mut headers = super::end_to_end(request);
    for name in OF_FROM_URL {
        headers.remove(name);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(source.length));
    for (theirs, ours) in [(SOURCE_MD5, "content-md5"), (SOURCE_CRC64, "x-ms-content-crc64")] {
        if let Some(value) = request.get(theirs) {
            headers.insert(HeaderName::from_static(ours), value.clone());
        }
    }
    if call == Call::Blob && copies_properties(request)? {
        for (theirs, ours) in PROPERTIES {
            let ours = HeaderName::from_static(ours);
            if let (Some(value), false) = (source.response.headers().get(theirs), headers.contains_key(&ours))
            {
                headers.insert(ours, value.clone());
            }
        }
    }
    Ok(headers)
}

fn checksums(headers: &HeaderMap) -> Result<(), Refusal> {
    for (name, bytes) in [(SOURCE_MD5, 16), (SOURCE_CRC64, 8)] {
        if let Some(value) = headers.get(name).map(|v| v.to_str().unwrap_or_default())
            && STANDARD.decode(value).ok().map(|v| v.len()) != Some(bytes)
        {
            return Err(Refusal::invalid_header(name, value));
        }
    }
    if headers.contains_key(SOURCE_MD5) && headers.contains_key(SOURCE_CRC64) {
        return Err(Refusal::both_checksums());
    }
    Ok(())
}

/// A block ID's own rules; that all IDs of a blob are of one length is Azurite's to check.
fn block_id(id: Option<String>) -> Result<(), Refusal> {
    let id = id.filter(|id| !id.is_empty()).ok_or(Refusal::missing_query("blockid"))?;
    match STANDARD.decode(&id) {
        Ok(bytes) if bytes.len() <= BLOCK_ID_BYTES_MAX => Ok(()),
        Ok(_) => Err(Refusal::invalid_query("blockid", &id, "Block ID length cannot exceed 64.")),
        Err(_) => Err(Refusal::invalid_query("blockid", &id, "Not a valid base64 string.")),
    }
}

/// `x-ms-copy-source-blob-properties`, true unless said otherwise.
fn copies_properties(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(COPY_PROPERTIES).map(|v| v.to_str().unwrap_or_default()) {
        None => Ok(true),
        Some(value) => {
            value.to_ascii_lowercase().parse().map_err(|_| Refusal::invalid_header(COPY_PROPERTIES, value))
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn query(uri: &http::Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
}
