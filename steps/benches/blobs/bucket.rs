//! A bucket of ours, in memory: the S3 calls that a mover makes, as strict as S3 about ranges and
//! conditions. Or a listing of any number of objects that nobody wrote.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use http::{Method, StatusCode};

use super::gate::Gate;
use super::nobody::{first_key, nobodys_etag, nobodys_key};
use super::sink::{Fault, Faults};

/// When objects were written.
const MODIFIED: &str = "2026-01-01T00:00:00Z";
/// S3's page of a listing.
const MAX_PAGE: usize = 1_000;

/// An object.
#[derive(Debug, Clone, Default)]
pub struct Object {
    pub bytes: Bytes,
    pub etag: String,
    /// Whether S3 knows its CRC64NVME.
    pub with_crc64: bool,
    /// `x-amz-meta-…`, tags, storage class and the like, by header.
    pub headers: BTreeMap<String, String>,
    pub storage_class: Option<String>,
    /// As a listing says it; else the start of 2026.
    pub modified: Option<&'static str>,
    pub tags: BTreeMap<String, String>,
}

/// The service.
#[derive(Default)]
pub struct Bucket {
    objects: Mutex<BTreeMap<String, Object>>,
    counts: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<Option<Faults>>,
    /// The key whose next read breaks off in the middle.
    breaks: Mutex<Option<String>>,
    listed: Option<usize>,
    /// As directory buckets do: each page runs backwards.
    disordered: AtomicBool,
    /// By the tokens of sessions, as directory buckets have them.
    pub gate: Gate,
}

impl Bucket {
    /// Serves at a free port of this machine until the runtime ends.
    pub async fn start(listed: Option<usize>) -> std::io::Result<(Arc<Self>, SocketAddr)> {
        use axum::serve::ListenerExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|line| drop(line.set_nodelay(true)));
        let bucket = Arc::new(Self { listed, ..Self::default() });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&bucket));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((bucket, address))
    }

    /// From now on.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// The next read of `key` breaks off in the middle.
    pub fn break_off(&self, key: &str) {
        *self.breaks.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.to_owned());
    }

    /// Whether its listing is in an order of its own.
    pub fn disorder(&self, disordered: bool) {
        self.disordered.store(disordered, Ordering::Relaxed);
    }

    /// Requests by kind.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object as a new version; its ETag is the MD5 of its bytes.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        use md5::Digest as _;
        let bytes = bytes.into();
        let etag = hex::encode(md5::Md5::digest(&bytes));
        self.put_object(key, Object { bytes, etag, with_crc64: true, ..Object::default() });
    }

    /// Puts an object as it is.
    pub fn put_object(&self, key: &str, object: Object) {
        self.objects().insert(key.to_owned(), object);
    }

    /// Takes an object away.
    pub fn delete(&self, key: &str) {
        self.objects().remove(key);
    }

    /// What is there: sizes and CRCs by key.
    pub fn sums(&self) -> BTreeMap<String, (u64, u64)> {
        let objects = self.objects();
        let sum = |o: &Object| (o.bytes.len() as u64, crc_fast::checksum(Crc64Nvme, &o.bytes));
        objects.iter().map(|(key, object)| (key.clone(), sum(object))).collect()
    }

    fn answer(&self, request: &Request) -> Response {
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let path = request.uri().path().trim_start_matches('/');
        let (_, key) = path.split_once('/').unwrap_or((path, ""));
        let key = percent_decoded(key);
        let kind = match (request.method(), query.contains_key("list-type")) {
            (&Method::GET, true) => "list",
            (&Method::GET, _) if query.contains_key("tagging") => "get-tags",
            (&Method::GET, _) if query.contains_key("session") => "create-session",
            (&Method::GET, _) => "get",
            (&Method::HEAD, _) if key.is_empty() => "head-bucket",
            (&Method::HEAD, _) => "head",
            _ => "other",
        };
        let before = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(kind.to_owned()).or_default();
            *count += 1;
            *count - 1
        };
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = fault.as_ref().and_then(|faults| faults(kind, &key, before)) {
            return error(&fault);
        }
        if kind == "create-session" {
            return self.create_session(before + 1);
        }
        let session = request.headers().get("x-amz-s3session-token").and_then(|token| token.to_str().ok());
        let session = session.or_else(|| query.get("X-Amz-S3session-Token").map(String::as_str));
        if !self.gate.passes(kind, session) {
            return error(&Fault { status: 403, code: "AccessDenied", retry_after: None });
        }
        match kind {
            "list" => self.list(&query),
            "get" | "head" | "get-tags" => self.read(kind, &key, request),
            "head-bucket" => Response::new(Body::empty()),
            _ => error(&Fault { status: 501, code: "NotImplemented", retry_after: None }),
        }
    }

    /// Of five minutes, as S3 gives them.
    fn create_session(&self, number: u64) -> Response {
        let token = format!("SESS10N-{number}");
        self.gate.open_to(&token);
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(5);
        let text = format!(
            "<CreateSessionResult><Credentials><AccessKeyId>K{number}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{}</Expiration></Credentials></CreateSessionResult>",
            ends.strftime("%Y-%m-%dT%H:%M:%SZ")
        );
        Response::builder()
            .header("content-type", "application/xml")
            .body(Body::from(text))
            .unwrap_or_default()
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response {
        let get = |name: &str| query.get(name).map_or("", String::as_str);
        let page = get("max-keys").parse().unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let (prefix, after) = (get("prefix"), get("continuation-token").max(get("start-after")));
        let mut text = String::with_capacity(page * 300);
        let (mut count, mut last, mut more) = (0, String::new(), false);
        let mut write = |key: &str, etag: &str, size: usize, class: &str, modified: &str| {
            if !key.starts_with(prefix) {
                return false;
            }
            if count == page {
                more = true;
                return false;
            }
            text.push_str("<Contents><Key>");
            escape(&mut text, key);
            text.push_str(&format!(
                "</Key><LastModified>{modified}</LastModified><ETag>&quot;{etag}&quot;</ETag><Size>{size}\
                 </Size><StorageClass>{class}</StorageClass></Contents>"
            ));
            key.clone_into(&mut last);
            count += 1;
            true
        };
        if let Some(all) = self.listed {
            for number in first_key(all, after.max(prefix))..all {
                let key = nobodys_key(number);
                if key != after && !write(&key, &nobodys_etag(number), 4096, "STANDARD", MODIFIED) {
                    break;
                }
            }
        } else {
            let objects = self.objects();
            let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
            for (key, object) in objects.range::<str, _>((from, Bound::Unbounded)) {
                let class = object.storage_class.as_deref().unwrap_or("STANDARD");
                if !write(key, &object.etag, object.bytes.len(), class, object.modified.unwrap_or(MODIFIED)) {
                    break;
                }
            }
        }
        if self.disordered.load(Ordering::Relaxed) {
            let entries: Vec<&str> = text.split_inclusive("</Contents>").collect();
            text = entries.into_iter().rev().collect();
        }
        let mut token = String::new();
        if more {
            token.push_str("<NextContinuationToken>");
            escape(&mut token, &last);
            token.push_str("</NextContinuationToken>");
        }
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{text}\
             </ListBucketResult>"
        );
        Response::builder()
            .header("content-type", "application/xml")
            .body(Body::from(text))
            .unwrap_or_default()
    }

    fn read(&self, kind: &str, key: &str, request: &Request) -> Response {
        let fault = |status, code| error(&Fault { status, code, retry_after: None });
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let object = self.objects().get(key).cloned();
        let Some(object) = object else { return fault(404, "NoSuchKey") };
        if kind == "get-tags" {
            let tag = |(key, value): (&String, &String)| {
                format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")
            };
            let tags: String = object.tags.iter().map(tag).collect();
            return Response::new(Body::from(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")));
        }
        if header("if-match").is_some_and(|wanted| wanted.trim_matches('"') != object.etag) {
            return fault(412, "PreconditionFailed");
        }
        let mut answer = Response::builder()
            .header("etag", format!("\"{}\"", object.etag))
            .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        for (name, value) in &object.headers {
            answer = answer.header(name, value);
        }
        if !object.tags.is_empty() {
            answer = answer.header("x-amz-tagging-count", object.tags.len());
        }
        let mut bytes = object.bytes.clone();
        if let Some(range) = header("range") {
            let range = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let Some((first, last)) =
                range.and_then(|(f, l)| Some((f.parse().ok()?, l.parse::<usize>().ok()?)))
            else {
                return fault(400, "InvalidArgument");
            };
            if first >= bytes.len() {
                return fault(416, "InvalidRange");
            }
            let last = last.min(bytes.len() - 1);
            let all = bytes.len();
            bytes = bytes.slice(first..=last);
            answer = answer.status(206).header("content-range", format!("bytes {first}-{last}/{all}"));
        } else if object.with_crc64 && header("x-amz-checksum-mode") == Some("ENABLED") {
            let crc64 = crc_fast::checksum(Crc64Nvme, &object.bytes);
            answer = answer.header("x-amz-checksum-crc64nvme", BASE64.encode(crc64.to_be_bytes()));
        }
        answer = answer.header("content-length", bytes.len());
        let breaks = kind == "get"
            && self.breaks.lock().unwrap_or_else(PoisonError::into_inner).take_if(|at| at == key).is_some();
        let body = match kind {
            "head" => Body::empty(),
            _ if breaks => {
                let half = bytes.slice(..bytes.len() / 2);
                Body::from_stream(futures::stream::iter([Ok(half), Err(std::io::Error::other("broken"))]))
            }
            _ => Body::from(bytes),
        };
        answer.body(body).unwrap_or_default()
    }
}

async fn handle(State(bucket): State<Arc<Bucket>>, request: Request) -> Response {
    bucket.answer(&request)
}

fn error(fault: &Fault) -> Response {
    let text = format!("<Error><Code>{}</Code><Message>refused</Message></Error>", fault.code);
    let mut response =
        Response::builder().status(StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST));
    if let Some(seconds) = fault.retry_after {
        response = response.header("retry-after", seconds);
    }
    response.header("content-type", "application/xml").body(Body::from(text)).unwrap_or_default()
}

pub fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            c => text.push(c),
        }
    }
}

pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
