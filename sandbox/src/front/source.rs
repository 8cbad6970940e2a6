//! The copy source: its URL, its range, and the GET that reads it.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderName, StatusCode};
use reqwest::{Client, Response};
use url::{Host, Url};

use super::Refusal;

/// `x-ms-copy-source`: "a URL of up to 2 KiB".
const URL_BYTES_MAX: usize = 2 * 1024;

/// A source's condition and the header that asks the source for it.
const CONDITIONS: [(&str, HeaderName); 4] = [
    ("x-ms-source-if-match", http::header::IF_MATCH),
    ("x-ms-source-if-none-match", http::header::IF_NONE_MATCH),
    ("x-ms-source-if-modified-since", http::header::IF_MODIFIED_SINCE),
    ("x-ms-source-if-unmodified-since", http::header::IF_UNMODIFIED_SINCE),
];

/// A range of bytes, both ends included; the second may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRange {
    first: u64,
    last: Option<u64>,
}

impl SourceRange {
    /// Reads `bytes=FIRST-[LAST]`, the only form that the service takes.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = || Refusal::invalid_header("x-ms-source-range", text);
        let (first, last) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or_else(bad)?;
        let number = |t: &str| if t.bytes().all(|b| b.is_ascii_digit()) { t.parse().ok() } else { None };
        let first: u64 = number(first).ok_or_else(bad)?;
        let last = if last.is_empty() { None } else { Some(number(last).ok_or_else(bad)?) };
        if last.is_some_and(|last: u64| last < first) {
            return Err(bad());
        }
        Ok(Self { first, last })
    }

    /// Its length, if both ends are known.
    pub fn length(self) -> Option<u64> {
        self.last.map(|last| last - self.first + 1)
    }

    fn header(self) -> String {
        match self.last {
            Some(last) => format!("bytes={}-{last}", self.first),
            None => format!("bytes={}-", self.first),
        }
    }
}

/// A source that answered.
pub struct Source {
    /// The answer; its body is not read yet.
    pub response: Response,
    /// Bytes in the body.
    pub length: u64,
}

/// Checks the URL of `x-ms-copy-source`. The sandbox's sources are plain HTTP on this machine:
/// loopback or the sandbox's own network, since its traffic never leaves the machine.
pub fn url(text: &str) -> Result<Url, Refusal> {
    let bad = || Refusal::invalid_header("x-ms-copy-source", text);
    if text.len() > URL_BYTES_MAX {
        return Err(bad());
    }
    let url = Url::parse(text).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad());
    }
    let here = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.octets()[..3] == [10, 203, 0],
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    if !here || url.scheme() != "http" {
        let message = "The sandbox reads copy sources only by plain HTTP from its own addresses.";
        return Err(Refusal::source(StatusCode::BAD_REQUEST, message));
    }
    Ok(url)
}

/// Asks for the source, with the request's conditions and its range.
pub async fn open(
    http: &Client,
    url: Url,
    range: Option<SourceRange>,
    request: &HeaderMap,
    limit_bytes: u64,
) -> Result<Source, Refusal> {
    let mut get = http.get(url);
    for (ours, theirs) in CONDITIONS {
        if let Some(value) = request.get(ours) {
            get = get.header(theirs, value);
        }
    }
    if let Some(range) = range {
        get = get.header(RANGE, range.header());
    }
    if let Some(authorization) = request.get("x-ms-copy-source-authorization") {
        get = get.header(http::header::AUTHORIZATION, authorization);
    }
    let response = get.send().await.map_err(|e| {
        let why = if e.is_timeout() { "timed out" } else { "can't be reached" };
        Refusal::source(StatusCode::INTERNAL_SERVER_ERROR, format!("The copy source {why}."))
    })?;
    check(&response, range, request)?;
    let length =
        response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()).ok_or_else(
            || Refusal::source(StatusCode::BAD_REQUEST, "The copy source has no Content-Length."),
        )?;
    if range.and_then(SourceRange::length).is_some_and(|wanted| wanted != length) {
        return Err(Refusal::invalid_range());
    }
    if length > limit_bytes {
        return Err(Refusal::too_large(limit_bytes));
    }
    Ok(Source { response, length })
}

fn check(response: &Response, range: Option<SourceRange>, request: &HeaderMap) -> Result<(), Refusal> {
    let ranged = range.is_some();
    match response.status() {
        StatusCode::OK if !ranged => {}
        StatusCode::PARTIAL_CONTENT if ranged && response.headers().contains_key(CONTENT_RANGE) => {}
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            let message = "The copy source does not answer range requests.";
            return Err(Refusal::source(StatusCode::BAD_REQUEST, message));
        }
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => return Err(Refusal::source_condition()),
        StatusCode::RANGE_NOT_SATISFIABLE => return Err(Refusal::invalid_range()),
        status => {
            let message = format!("The copy source answered {status}.");
            return Err(Refusal::source(status, message));
        }
    }
    // A source that ignores conditions must not slip through.
    let wanted = request.get("x-ms-source-if-match").and_then(|v| v.to_str().ok());
    let etag = response.headers().get(ETAG).and_then(|v| v.to_str().ok());
    match wanted {
        Some(wanted) if wanted != "*" && etag.map(bare) != Some(bare(wanted)) => {
            Err(Refusal::source_condition())
        }
        _ => Ok(()),
    }
}

/// An ETag without its quotes: clients of both services send it either way.
fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_documented() {
        assert_eq!(SourceRange::parse("bytes=0-0").unwrap().length(), Some(1));
        assert_eq!(SourceRange::parse("bytes=5-").unwrap().header(), "bytes=5-");
        for bad in ["", "bytes", "bytes=", "bytes=-5", "bytes=5-4", "bytes=1-2,4-5", "bytes=+1-2", "0-5"] {
            assert_eq!(SourceRange::parse(bad).unwrap_err().code, "InvalidHeaderValue", "{bad}");
        }
    }

    #[test]
    fn sources_are_of_this_machine_and_short_enough() {
        assert!(url("http://10.203.0.1:7070/velero/a%20b?X-Amz-Signature=1").is_ok());
        assert!(url("http://127.0.0.1:1/x").is_ok());
        let long = format!("http://127.0.0.1/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(url(&long).unwrap_err().code, "InvalidHeaderValue");
        assert_eq!(url("not a url").unwrap_err().code, "InvalidHeaderValue");
        assert_eq!(url("ftp://127.0.0.1/x").unwrap_err().code, "InvalidHeaderValue");
        assert_eq!(url("http://example.com/x").unwrap_err().code, "CannotVerifyCopySource");
        assert_eq!(url("http://10.203.1.1/x").unwrap_err().code, "CannotVerifyCopySource");
    }
}
