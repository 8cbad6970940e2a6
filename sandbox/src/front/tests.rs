//! The front between a recording upstream and a source that can misbehave. What Azurite itself does
//! with the front's puts is tested in the running sandbox (`tests/sandbox_front.rs`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

/// A request that reached the upstream.
#[derive(Clone)]
struct Seen {
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Seen>>>;

struct Stage {
    front: String,
    source: String,
    log: Log,
}

async fn start(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn stage() -> Stage {
    let log = Log::default();
    let upstream = start(Router::new().fallback(record).with_state(log.clone())).await;
    let source = start(Router::new().fallback(give)).await;
    let azurite: Url = format!("http://{upstream}").parse().unwrap();
    let front = start(super::router(azurite).unwrap()).await;
    Stage { front: format!("http://{front}"), source: format!("http://{source}"), log }
}

/// Stands for Azurite: says yes, and remembers what came. HEAD has a length and no body.
async fn record(State(log): State<Log>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if parts.method == Method::HEAD {
        return (StatusCode::OK, [("content-length", "12345")]).into_response();
    }
    let seen = Seen { method: parts.method, uri: parts.uri.to_string(), headers: parts.headers, body };
    log.lock().unwrap().push(seen);
    (StatusCode::CREATED, [("x-ms-request-id", "upstream")]).into_response()
}

/// Stands for S3: ten bytes at any path, unless the path asks for trouble.
async fn give(request: Request) -> Response {
    let range = request.headers().get("range").and_then(|v| v.to_str().ok()).map(str::to_owned);
    match (request.uri().path(), range.as_deref()) {
        ("/missing", _) => StatusCode::NOT_FOUND.into_response(),
        ("/forbidden", _) => StatusCode::FORBIDDEN.into_response(),
        ("/slow-down", _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        ("/truncated", _) => {
            let pieces = [Ok(Bytes::from_static(b"0123")), Err(std::io::Error::other("broken"))];
            let body = Body::from_stream(futures::stream::iter(pieces));
            ([("content-length", "10")], body).into_response()
        }
        ("/no-ranges", _) | (_, None) => {
            let headers =
                [("content-type", "text/plain"), ("cache-control", "no-cache"), ("etag", "\"abc\"")];
            (headers, "0123456789").into_response()
        }
        (_, Some("bytes=2-5")) => {
            let headers = [("content-range", "bytes 2-5/10"), ("etag", "\"abc\"")];
            (StatusCode::PARTIAL_CONTENT, headers, "2345").into_response()
        }
        (_, Some("bytes=8-20")) => {
            (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 8-9/10")], "89").into_response()
        }
        _ => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}

impl Stage {
    /// Put Block From URL with a good block ID; `headers` are added to the required ones.
    async fn block(&self, source: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        self.call("/acc/c/b?comp=block&blockid=QUFB&sv=2022-11-02&sig=x", source, headers).await
    }

    async fn blob(&self, source: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let headers = [&[("x-ms-blob-type", "BlockBlob")], headers].concat();
        self.call("/acc/c/b?sv=2022-11-02&sig=x", source, &headers).await
    }

    async fn call(&self, path: &str, source: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut put = reqwest::Client::new()
            .put(format!("{}{path}", self.front))
            .header("content-length", "0")
            .header("x-ms-copy-source", format!("{}{source}", self.source));
        for (name, value) in headers {
            put = put.header(*name, *value);
        }
        let answer = put.send().await.unwrap();
        let code = answer.headers().get("x-ms-error-code").map(|v| v.to_str().unwrap().to_owned());
        let status = answer.status();
        let body = answer.text().await.unwrap();
        if let Some(code) = &code {
            assert!(body.contains(&format!("<Code>{code}</Code>")), "{body}");
        }
        (status, code.unwrap_or_default())
    }

    fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_block_is_put_with_the_sources_range_and_checksum() {
    let stage = stage().await;
    let crc = [("x-ms-source-range", "bytes=2-5"), ("x-ms-source-content-crc64", "AAAAAAAAAAA=")];
    assert_eq!(stage.block("/object?X-Amz-Signature=1", &crc).await, (StatusCode::CREATED, String::new()));
    let seen = stage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].method, Method::PUT);
    assert_eq!(seen[0].uri, "/acc/c/b?comp=block&blockid=QUFB&sv=2022-11-02&sig=x");
    assert_eq!(seen[0].body, "2345");
    assert_eq!(seen[0].headers["content-length"], "4");
    assert_eq!(seen[0].headers["x-ms-content-crc64"], "AAAAAAAAAAA=");
    let left: Vec<&str> =
        seen[0].headers.keys().map(|k| k.as_str()).filter(|k| k.contains("source")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_blob_gets_the_sources_properties_unless_told_otherwise() {
    let stage = stage().await;
    let own = [("x-ms-blob-content-type", "application/json"), ("x-ms-meta-Team", "shop")];
    assert_eq!(stage.blob("/object", &own).await.0, StatusCode::CREATED);
    let without = [("x-ms-copy-source-blob-properties", "false")];
    assert_eq!(stage.blob("/object", &without).await.0, StatusCode::CREATED);
    let seen = stage.seen();
    assert_eq!(seen[0].body, "0123456789");
    assert_eq!(seen[0].headers["x-ms-blob-content-type"], "application/json");
    assert_eq!(seen[0].headers["x-ms-blob-cache-control"], "no-cache");
    assert_eq!(seen[0].headers["x-ms-meta-team"], "shop");
    assert!(!seen[1].headers.contains_key("x-ms-blob-cache-control"));
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_before_anything_is_put() {
    let stage = stage().await;
    let bad = StatusCode::BAD_REQUEST;
    let header = (bad, "InvalidHeaderValue".to_owned());
    let md5 = ("x-ms-source-content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    let crc = ("x-ms-source-content-crc64", "AAAAAAAAAAA=");
    assert_eq!(stage.block("/object", &[("x-ms-source-range", "bytes=5-2")]).await, header);
    assert_eq!(stage.block("/object", &[("x-ms-source-content-crc64", "AAAA")]).await, header);
    assert_eq!(stage.block("/object", &[md5, crc]).await, (bad, "BothCrc64AndMd5HeaderPresent".to_owned()));
    assert_eq!(stage.block("/object", &[("x-ms-version", "2017-11-09")]).await, header);
    assert_eq!(
        stage.block("/object", &[("x-ms-source-range", "bytes=0-4194304000")]).await,
        (StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge".to_owned())
    );
    assert_eq!(stage.blob("/object", &[("x-ms-source-range", "bytes=2-5")]).await, header);
    assert_eq!(
        stage.call("/a/c/b?sv=2022-11-02", "/object", &[("x-ms-blob-type", "PageBlob")]).await,
        header
    );
    assert_eq!(stage.blob(&format!("/{}", "x".repeat(2048)), &[]).await, header);
    let query = (bad, "InvalidQueryParameterValue".to_owned());
    assert_eq!(stage.call("/a/c/b?comp=block&blockid=*&sv=2022-11-02", "/object", &[]).await, query);
    let long = format!("/a/c/b?comp=block&blockid={}&sv=2022-11-02", "QUFB".repeat(22));
    assert_eq!(stage.call(&long, "/object", &[]).await, query);
    assert_eq!(
        stage.call("/a/c/b?comp=block&sv=2022-11-02", "/object", &[]).await,
        (bad, "MissingRequiredQueryParameter".to_owned())
    );
    assert!(stage.seen().is_empty());
}

#[tokio::test]
async fn a_source_that_cannot_be_verified_puts_nothing() {
    let stage = stage().await;
    let verify = |status| (status, "CannotVerifyCopySource".to_owned());
    assert_eq!(stage.blob("/missing", &[]).await, verify(StatusCode::NOT_FOUND));
    assert_eq!(stage.blob("/forbidden", &[]).await, verify(StatusCode::FORBIDDEN));
    assert_eq!(stage.blob("/slow-down", &[]).await, verify(StatusCode::INTERNAL_SERVER_ERROR));
    let range = [("x-ms-source-range", "bytes=2-5")];
    assert_eq!(stage.block("/no-ranges", &range).await, verify(StatusCode::BAD_REQUEST));
    let outside = (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange".to_owned());
    assert_eq!(stage.block("/object", &[("x-ms-source-range", "bytes=8-20")]).await, outside);
    assert_eq!(stage.block("/object", &[("x-ms-source-range", "bytes=90-99")]).await, outside);
    let unmet = (StatusCode::PRECONDITION_FAILED, "SourceConditionNotMet".to_owned());
    assert_eq!(stage.blob("/object", &[("x-ms-source-if-match", "\"other\"")]).await, unmet);
    assert!(stage.seen().is_empty());
    assert_eq!(stage.blob("/object", &[("x-ms-source-if-match", "\"abc\"")]).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_source_that_breaks_off_fails_the_put() {
    let stage = stage().await;
    let (status, _) = stage.blob("/truncated", &[]).await;
    assert!(!status.is_success(), "{status}");
    assert!(stage.seen().is_empty(), "the upstream never had the whole body");
}

#[tokio::test]
async fn everything_else_passes_through_unchanged() {
    let stage = stage().await;
    let http = reqwest::Client::new();
    let head = http.head(format!("{}/acc/c/b", stage.front)).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "12345", "HEAD keeps its length");
    // Path and query reach Azurite byte for byte: a signature covers them.
    let uri = "/acc/c/a%20b%2Fc+d?comp=block&blockid=QUFB&sig=a%2Bb%3D";
    let put = http.put(format!("{}{uri}", stage.front)).header("x-ms-meta-a", "1").body("payload");
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["x-ms-request-id"], "upstream");
    // Copy Blob has a source as well, and is Azurite's own.
    let copy = http.put(format!("{}/acc/c/copy", stage.front)).header("content-length", "0");
    copy.header("x-ms-copy-source", "http://127.0.0.1:1/x").send().await.unwrap();
    let seen = stage.seen();
    assert_eq!(seen[0].uri, uri);
    assert_eq!(seen[0].body, "payload");
    assert_eq!(seen[0].headers["content-length"], "7");
    assert_eq!(seen[0].headers["host"], stage.front.trim_start_matches("http://"));
    assert_eq!(seen[1].headers["x-ms-copy-source"], "http://127.0.0.1:1/x");
}
