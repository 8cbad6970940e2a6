//! A Blob service of ours, in memory: fast, and as strict as the real one where a mover could err.
//!
//! It checks what Azure checks: block IDs and their equal length, the block list, Content-MD5 and
//! CRC64 on arrival, metadata names, conditions. It keeps sizes and checksums, and bytes only of the
//! smallest blobs. It reads copy sources itself. A test may make it refuse: see [`Fault`].

use std::collections::{BTreeMap, HashMap};
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
use crc_fast::CrcAlgorithm::Crc64Nvme;
use http::{HeaderMap, Method, StatusCode};

use super::bucket::{escape, percent_decoded};
use super::gate::Gate;
use super::nobody::{first_key, nobodys_etag, nobodys_key};
use super::sum::Sum;

/// Azure's limits: a block ID before base64, blocks of a blob, a page of a listing.
const MAX_ID_BYTES: usize = 64;
const MAX_BLOCKS: usize = 50_000;
const MAX_PAGE: usize = 5_000;
/// `x-ms-copy-source`.
const MAX_SOURCE_BYTES: usize = 2_048;

/// What a test has the service say instead of doing it.
#[derive(Debug, Clone)]
pub struct Fault {
    pub status: u16,
    pub code: &'static str,
    pub retry_after: Option<u64>,
}

/// Asked before every request: its kind, the blob's name, and how many of the kind came before.
pub type Faults = Box<dyn Fn(&str, &str, u64) -> Option<Fault> + Send + Sync>;

/// A committed blob.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub size: u64,
    /// Of all bytes.
    pub crc64: u64,
    pub md5: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// Content type, tier, tags and the like, by header.
    pub headers: BTreeMap<String, String>,
    /// Its bytes, if they are few.
    bytes: Option<bytes::Bytes>,
    /// What it was committed of.
    blocks: BTreeMap<String, Block>,
    etag: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    size: u64,
    crc64: u64,
}

#[derive(Default)]
struct Inner {
    blobs: BTreeMap<String, Stored>,
    staged: BTreeMap<String, BTreeMap<String, Block>>,
    counts: BTreeMap<String, u64>,
    /// Of blocks and blobs that arrived: how often each (name, block ID) came.
    arrivals: HashMap<(String, String), u32>,
    etags: u64,
}

/// The service.
pub struct Sink {
    inner: Mutex<Inner>,
    faults: Mutex<Option<Faults>>,
    late_faults: Mutex<Option<Faults>>,
    /// As services before version 2026-02-06, and Azurite.
    ignores_start: AtomicBool,
    /// As the real one does.
    keeps_md5: AtomicBool,
    /// Instead of blobs: a listing of this many that nobody wrote.
    listed: Option<usize>,
    http: reqwest::Client,
    /// By Entra tokens.
    pub gate: Gate,
}

type Answer = Result<Response, Refusal>;

struct Refusal(StatusCode, String, Option<u64>);

fn fault(faults: &Mutex<Option<Faults>>, kind: &str, name: &str, before: u64) -> Result<(), Refusal> {
    let faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    match faults.as_ref().and_then(|faults| faults(kind, name, before)) {
        Some(fault) => Err(Refusal(refuse(fault.status, "").0, fault.code.to_owned(), fault.retry_after)),
        None => Ok(()),
    }
}

fn refuse(status: u16, code: &str) -> Refusal {
    Refusal(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), code.to_owned(), None)
}

impl Sink {
    /// Serves at a free port of this machine until the runtime ends.
    pub async fn start(listed: Option<usize>) -> std::io::Result<(Arc<Self>, SocketAddr)> {
        use axum::serve::ListenerExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|line| drop(line.set_nodelay(true)));
        let sink = Arc::new(Self {
            inner: Mutex::default(),
            faults: Mutex::default(),
            late_faults: Mutex::default(),
            ignores_start: AtomicBool::new(false),
            keeps_md5: AtomicBool::new(false),
            listed,
            http: reqwest::Client::new(),
            gate: Gate::default(),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&sink));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((sink, address))
    }

    /// From now on.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// The same for requests that are done, and whose answer is lost.
    pub fn set_late_faults(&self, faults: Option<Faults>) {
        *self.late_faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Whether a listing can't begin in the middle.
    pub fn ignore_start(&self, ignores: bool) {
        self.ignores_start.store(ignores, Ordering::Relaxed);
    }

    /// Whether it computes the MD5 of every blob, or, to be fast, only where one is sent along.
    pub fn keep_md5(&self, keeps: bool) {
        self.keeps_md5.store(keeps, Ordering::Relaxed);
    }

    /// Takes a blob away, without a request.
    pub fn forget(&self, name: &str) {
        self.inner().blobs.remove(name);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed blobs by name, without the container.
    pub fn blobs(&self) -> BTreeMap<String, Stored> {
        self.inner().blobs.clone()
    }

    /// Requests by kind.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.inner().counts.clone()
    }

    /// Blocks of `name` that are staged and not committed.
    pub fn staged(&self, name: &str) -> usize {
        self.inner().staged.get(name).map_or(0, BTreeMap::len)
    }

    /// How often each block (or whole blob, under an empty ID) arrived.
    pub fn arrivals(&self) -> HashMap<(String, String), u32> {
        self.inner().arrivals.clone()
    }

    async fn answer(&self, request: Request) -> Answer {
        let (parts, body) = request.into_parts();
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let path = parts.uri.path().trim_start_matches('/');
        if path == "_counts" {
            let counts = serde_json::to_string(&self.counts()).unwrap_or_default();
            return Ok(Response::new(Body::from(counts)));
        }
        if path == "_reset" {
            *self.inner() = Inner::default();
            return Ok(Response::new(Body::empty()));
        }
        // account/container/name
        let mut path = path.splitn(3, '/');
        let (_, _, name) = (path.next(), path.next(), path.next().unwrap_or_default());
        // As Azure has it, however it came.
        let name = percent_decoded(name).replace('\\', "/");
        let comp = query.get("comp").map_or("", String::as_str);
        let copies = parts.headers.contains_key("x-ms-copy-source");
        let kind = match (&parts.method, comp, copies) {
            (_, "list", _) if query.contains_key("startFrom") => "list from",
            (_, "list", _) => "list",
            (&Method::GET, "blocklist", _) => "get-block-list",
            (&Method::PUT, "block", false) => "put-block",
            (&Method::PUT, "block", true) => "put-block-from-url",
            (&Method::PUT, "blocklist", _) => "put-block-list",
            (&Method::PUT, "metadata", _) => "set-metadata",
            (&Method::PUT, "", false) if query.contains_key("restype") => "create-container",
            (&Method::PUT, "", false) => "put-blob",
            (&Method::PUT, "", true) => "put-blob-from-url",
            (&Method::HEAD, "", _) if name.is_empty() || query.contains_key("restype") => "head-container",
            (&Method::HEAD, "", _) => "head",
            (&Method::DELETE, "", _) => "delete",
            (&Method::GET, "", _) if !query.contains_key("restype") => "get",
            (&Method::GET, _, _) if query.contains_key("restype") => "get-container",
            _ => "other",
        };
        let before = self.count(kind);
        fault(&self.faults, kind, &name, before)?;
        let call = Call { name, query, headers: parts.headers };
        if !self.gate.passes(kind, call.token()) {
            return Err(refuse(401, "InvalidAuthenticationInfo"));
        }
        let answer = match kind {
            "list" | "list from" => Ok(self.list(&call)),
            "get-block-list" => self.block_list(&call),
            "put-block" | "put-block-from-url" => self.put_block(&call, body).await,
            "put-block-list" => self.commit(&call, body).await,
            "put-blob" | "put-blob-from-url" => self.put_blob(&call, body).await,
            "set-metadata" => self.mark(&call),
            "create-container" => created(None, 1),
            "head-container" | "get-container" => Ok(Response::new(Body::empty())),
            "head" => self.head(&call),
            "get" => self.get(&call),
            "delete" => self.delete(&call),
            _ => Err(refuse(501, "NotImplemented")),
        }?;
        fault(&self.late_faults, kind, &call.name, before)?;
        Ok(answer)
    }

    /// How many of the kind came before.
    fn count(&self, kind: &str) -> u64 {
        let mut inner = self.inner();
        let count = inner.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// The bytes of a put: what was sent, or what the copy source gives.
    async fn bytes(&self, call: &Call, body: Body) -> Result<Sum, Refusal> {
        let Some(source) = call.header("x-ms-copy-source") else {
            let length = call.header("content-length").and_then(|l| l.parse::<u64>().ok());
            let length = length.ok_or_else(|| refuse(411, "MissingContentLengthHeader"))?;
            let with_md5 = self.keeps_md5.load(Ordering::Relaxed) || call.header("content-md5").is_some();
            let sum = Sum::of(body.into_data_stream(), with_md5).await;
            return sum.filter(|sum| sum.size == length).ok_or_else(|| refuse(400, "InvalidInput"));
        };
        if source.len() > MAX_SOURCE_BYTES || call.header("content-length") != Some("0") {
            return Err(refuse(400, "InvalidHeaderValue"));
        }
        let mut get = self.http.get(source);
        if let Some(range) = call.header("x-ms-source-range") {
            get = get.header("range", range);
        }
        let answer = get.send().await.map_err(|_| refuse(500, "CannotVerifyCopySource"))?;
        if !answer.status().is_success() {
            return Err(refuse(answer.status().as_u16(), "CannotVerifyCopySource"));
        }
        let length = answer.content_length();
        let sum = Sum::of(answer.bytes_stream(), true).await;
        sum.filter(|sum| length == Some(sum.size)).ok_or_else(|| refuse(500, "CannotVerifyCopySource"))
    }

    async fn put_block(&self, call: &Call, body: Body) -> Answer {
        let id = call.query.get("blockid").cloned().unwrap_or_default();
        let decoded = BASE64.decode(&id).map_err(|_| refuse(400, "InvalidQueryParameterValue"))?;
        if decoded.is_empty() || decoded.len() > MAX_ID_BYTES {
            return Err(refuse(400, "InvalidQueryParameterValue"));
        }
        let sum = self.bytes(call, body).await?;
        call.check(&sum)?;
        let mut inner = self.inner();
        *inner.arrivals.entry((call.name.clone(), id.clone())).or_default() += 1;
        let staged = inner.staged.entry(call.name.clone()).or_default();
        if staged.keys().any(|other| other.len() != id.len()) {
            return Err(refuse(400, "InvalidBlobOrBlock"));
        }
        staged.insert(id, Block { size: sum.size, crc64: sum.crc64 });
        created(Some(&sum), 1)
    }

    async fn put_blob(&self, call: &Call, body: Body) -> Answer {
        if call.header("x-ms-blob-type") != Some("BlockBlob") {
            return Err(refuse(400, "InvalidHeaderValue"));
        }
        let sum = self.bytes(call, body).await?;
        call.check(&sum)?;
        let mut stored = call.stored()?;
        (stored.size, stored.crc64) = (sum.size, sum.crc64);
        stored.md5 = stored.md5.or(sum.md5.clone());
        stored.bytes = sum.bytes.clone();
        let mut inner = self.inner();
        *inner.arrivals.entry((call.name.clone(), String::new())).or_default() += 1;
        let etag = inner.store(call, stored)?;
        created(Some(&sum), etag)
    }

    async fn commit(&self, call: &Call, body: Body) -> Answer {
        let body =
            axum::body::to_bytes(body, 16 << 20).await.map_err(|_| refuse(413, "RequestBodyTooLarge"))?;
        let text = String::from_utf8_lossy(&body);
        let ids: Vec<(bool, &str)> = text
            .split('<')
            .filter_map(|tag| Some((tag.starts_with("Latest>"), tag.split_once('>')?)))
            .filter_map(|(latest, (kind, id))| {
                matches!(kind, "Uncommitted" | "Latest").then_some((latest, id))
            })
            .collect();
        if ids.len() > MAX_BLOCKS {
            return Err(refuse(400, "BlockListTooLong"));
        }
        let mut stored = call.stored()?;
        let mut inner = self.inner();
        let (staged, committed) = (inner.staged.get(&call.name), inner.blobs.get(&call.name));
        stored.crc64 = crc_fast::checksum(Crc64Nvme, b"");
        for (latest, id) in ids {
            let committed = committed.filter(|_| latest).and_then(|blob| blob.blocks.get(id));
            let block = staged.and_then(|staged| staged.get(id)).or(committed);
            let block = *block.ok_or_else(|| refuse(400, "InvalidBlockList"))?;
            stored.size += block.size;
            stored.crc64 = crc_fast::checksum_combine(Crc64Nvme, stored.crc64, block.crc64, block.size);
            stored.blocks.insert(id.to_owned(), block);
        }
        let etag = inner.store(call, stored)?;
        created(None, etag)
    }

    fn block_list(&self, call: &Call) -> Answer {
        let inner = self.inner();
        let Some(staged) = inner.staged.get(&call.name) else {
            return if inner.blobs.contains_key(&call.name) {
                Ok(xml("<BlockList><UncommittedBlocks/></BlockList>".to_owned()))
            } else {
                Err(refuse(404, "BlobNotFound"))
            };
        };
        let blocks: String = staged
            .iter()
            .map(|(id, block)| format!("<Block><Name>{id}</Name><Size>{}</Size></Block>", block.size))
            .collect();
        Ok(xml(format!("<BlockList><UncommittedBlocks>{blocks}</UncommittedBlocks></BlockList>")))
    }

    fn head(&self, call: &Call) -> Answer {
        let inner = self.inner();
        let blob = inner.blobs.get(&call.name).ok_or_else(|| refuse(404, "BlobNotFound"))?;
        let mut answer = Response::builder()
            .header("content-length", blob.size)
            .header("etag", format!("\"0x{:X}\"", blob.etag))
            .header("last-modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            .header("x-ms-blob-type", "BlockBlob");
        if let Some(md5) = &blob.md5 {
            answer = answer.header("content-md5", md5);
        }
        for (name, value) in &blob.metadata {
            answer = answer.header(format!("x-ms-meta-{name}"), value);
        }
        answer.body(Body::empty()).map_err(|_| refuse(500, "InternalError"))
    }

    /// All bytes of a blob, as the answer to a range.
    fn get(&self, call: &Call) -> Answer {
        let inner = self.inner();
        inner.matched(call)?;
        let blob = inner.blobs.get(&call.name).ok_or_else(|| refuse(404, "BlobNotFound"))?;
        let bytes = blob.bytes.clone().ok_or_else(|| refuse(501, "NotImplemented"))?;
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes 0-{}/{}", bytes.len().saturating_sub(1), bytes.len()))
            .header("etag", format!("\"0x{:X}\"", blob.etag))
            .header("last-modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            .header("x-ms-blob-type", "BlockBlob")
            .body(Body::from(bytes))
            .map_err(|_| refuse(500, "InternalError"))
    }

    fn mark(&self, call: &Call) -> Answer {
        let metadata = call.stored()?.metadata;
        let mut inner = self.inner();
        inner.matched(call)?;
        inner.etags += 1;
        let etag = inner.etags;
        if let Some(blob) = inner.blobs.get_mut(&call.name) {
            (blob.metadata, blob.etag) = (metadata, etag);
        }
        Ok(Response::new(Body::empty()))
    }

    fn delete(&self, call: &Call) -> Answer {
        let mut inner = self.inner();
        inner.matched(call)?;
        inner.blobs.remove(&call.name);
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::ACCEPTED;
        Ok(answer)
    }

    /// A page in the order of the names' bytes.
    fn list(&self, call: &Call) -> Response {
        let get = |name: &str| call.query.get(name).map_or("", String::as_str);
        let page = get("maxresults").parse().unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
        let start = if self.ignores_start.load(Ordering::Relaxed) { "" } else { get("startFrom") };
        let (prefix, from) = (get("prefix"), start.max(get("marker")).max(get("prefix")));
        let metadata = get("include").contains("metadata");
        let mut text = String::with_capacity(page * 700);
        text.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>");
        let mut next = String::new();
        let mut write = |at: usize, name: &str, blob: &Stored| {
            if !name.starts_with(prefix) {
                return false;
            }
            if at == page {
                name.clone_into(&mut next);
                return false;
            }
            listed(&mut text, name, blob, metadata);
            true
        };
        if let Some(count) = self.listed {
            let first = first_key(count, from);
            for (at, number) in (first..count).enumerate() {
                let (name, blob) = nobodys(number);
                if !write(at, &name, &blob) {
                    break;
                }
            }
        } else {
            let inner = self.inner();
            let range = (Bound::Included(from.to_owned()), Bound::Unbounded);
            for (at, (name, blob)) in inner.blobs.range(range).enumerate() {
                if !write(at, name, blob) {
                    break;
                }
            }
        }
        text.push_str("</Blobs><NextMarker>");
        escape(&mut text, &next);
        text.push_str("</NextMarker></EnumerationResults>");
        xml(text)
    }
}

fn nobodys(number: usize) -> (String, Stored) {
    let metadata = BTreeMap::from([("migrate_source_etag".to_owned(), nobodys_etag(number))]);
    (nobodys_key(number), Stored { size: 4096, metadata, ..Stored::default() })
}

impl Inner {
    /// There must be such a blob, of the version that is asked for.
    fn matched(&self, call: &Call) -> Result<(), Refusal> {
        let blob = self.blobs.get(&call.name).ok_or_else(|| refuse(404, "BlobNotFound"))?;
        let etag = format!("\"0x{:X}\"", blob.etag);
        match call.header("if-match") {
            Some(wanted) if wanted != etag => Err(refuse(412, "ConditionNotMet")),
            _ => Ok(()),
        }
    }

    /// The ETag that the blob gets.
    fn store(&mut self, call: &Call, mut stored: Stored) -> Result<u64, Refusal> {
        if call.header("if-none-match") == Some("*") && self.blobs.contains_key(&call.name) {
            return Err(refuse(409, "BlobAlreadyExists"));
        }
        if call.name.is_empty() || call.name.chars().count() > 1024 {
            return Err(refuse(400, "InvalidUri"));
        }
        self.etags += 1;
        stored.etag = self.etags;
        // A commit and a whole blob both end what was staged.
        self.staged.remove(&call.name);
        self.blobs.insert(call.name.clone(), stored);
        Ok(self.etags)
    }
}

struct Call {
    name: String,
    query: HashMap<String, String>,
    headers: HeaderMap,
}

impl Call {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Of Entra. The service takes one only from version 2017-11-09 on, and only one credential.
    fn token(&self) -> Option<&str> {
        let knows = self.header("x-ms-version").is_some_and(|version| version >= "2017-11-09");
        let token = self.header("authorization")?.strip_prefix("Bearer ")?;
        (knows && !self.query.contains_key("sig")).then_some(token)
    }

    /// Every checksum that was sent, against what arrived.
    fn check(&self, sum: &Sum) -> Result<(), Refusal> {
        let md5 =
            |name| self.header(name).is_none_or(|sent| sum.md5.as_deref().is_none_or(|md5| md5 == sent));
        let crc = |name| self.header(name).is_none_or(|sent| sent == BASE64.encode(sum.crc64.to_le_bytes()));
        if self.header("content-md5").is_some() && self.header("x-ms-content-crc64").is_some() {
            return Err(refuse(400, "BothCrc64AndMd5HeaderPresent"));
        }
        if !md5("content-md5") || !md5("x-ms-source-content-md5") {
            return Err(refuse(400, "Md5Mismatch"));
        }
        if !crc("x-ms-content-crc64") || !crc("x-ms-source-content-crc64") {
            return Err(refuse(400, "Crc64Mismatch"));
        }
        Ok(())
    }

    /// What the headers say of a new blob.
    fn stored(&self) -> Result<Stored, Refusal> {
        let mut stored = Stored::default();
        for (name, value) in &self.headers {
            let (name, value) = (name.as_str(), value.to_str().map_err(|_| refuse(400, "InvalidMetadata"))?);
            if let Some(name) = name.strip_prefix("x-ms-meta-") {
                let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(valid) {
                    return Err(refuse(400, "InvalidMetadata"));
                }
                stored.metadata.insert(name.to_owned(), value.to_owned());
            } else if name == "x-ms-blob-content-md5" {
                stored.md5 = Some(value.to_owned());
            } else if name.starts_with("x-ms-blob-") || matches!(name, "x-ms-access-tier" | "x-ms-tags") {
                stored.headers.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(stored)
    }
}

async fn handle(State(sink): State<Arc<Sink>>, request: Request) -> Response {
    let Refusal(status, code, retry_after) = match sink.answer(request).await {
        Ok(response) => return response,
        Err(refusal) => refusal,
    };
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>refused</Message></Error>");
    let mut response = Response::builder().status(status).header("x-ms-error-code", code);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.header("content-type", "application/xml").body(Body::from(text)).unwrap_or_default()
}

fn created(sum: Option<&Sum>, etag: u64) -> Answer {
    let mut response = Response::builder()
        .status(StatusCode::CREATED)
        .header("etag", format!("\"0x{etag:X}\""))
        .header("last-modified", "Wed, 25 Nov 2026 00:00:00 GMT")
        .header("x-ms-version", "2022-11-02");
    if let Some(sum) = sum {
        response = response.header("x-ms-content-crc64", BASE64.encode(sum.crc64.to_le_bytes()));
        if let Some(md5) = &sum.md5 {
            response = response.header("content-md5", md5);
        }
    }
    response.body(Body::empty()).map_err(|_| refuse(500, "InternalError"))
}

fn xml(text: String) -> Response {
    Response::builder().header("content-type", "application/xml").body(Body::from(text)).unwrap_or_default()
}

/// One blob of a listing, with what Azure says of each, so that it costs its readers the same.
fn listed(text: &mut String, name: &str, blob: &Stored, metadata: bool) {
    use std::fmt::Write as _;
    text.push_str("<Blob><Name>");
    escape(text, name);
    let md5 = blob.md5.as_deref().unwrap_or_default();
    // Writing into a string can't fail.
    let _ = write!(
        text,
        "</Name><Properties><Creation-Time>Wed, 25 Nov 2026 00:00:00 GMT</Creation-Time><Last-Modified>Wed, 25 Nov \
         2026 00:00:00 GMT</Last-Modified><Etag>0x{:X}</Etag><Content-Length>{}</Content-Length><Content-Type>\
         application/octet-stream</Content-Type><Content-Encoding/><Content-Language/><Content-CRC64/><Content-MD5>\
         {md5}</Content-MD5><Cache-Control/><Content-Disposition/><BlobType>BlockBlob</BlobType><AccessTier>Hot\
         </AccessTier><AccessTierInferred>true</AccessTierInferred><LeaseStatus>unlocked</LeaseStatus><LeaseState>\
         available</LeaseState><ServerEncrypted>true</ServerEncrypted></Properties>",
        blob.etag, blob.size
    );
    if metadata {
        text.push_str("<Metadata>");
        for (name, value) in &blob.metadata {
            let _ = write!(text, "<{name}>");
            escape(text, value);
            let _ = write!(text, "</{name}>");
        }
        text.push_str("</Metadata>");
    }
    text.push_str("<OrMetadata/></Blob>");
}
