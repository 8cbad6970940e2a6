//! Real registries for tests: Debian's `docker-registry` (CNCF distribution) on a free loopback
//! port, with users, stopped when dropped; and a proxy of ours that cuts connections.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use migrate_plugin_api::Secret;
use migrate_plugin_api::testing::RecordingHost;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::auth::Credentials;
use super::cursor::Cursor;
use super::digest::Digest;
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::registry::{Limits, Registry};

/// Debian package `docker-registry`.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// The registries' only user.
pub(crate) const USER: &str = "AWS";
/// The user's password.
pub(crate) const PASSWORD: &str = "s3cret";
/// bcrypt of the password.
const HTPASSWD: &str = "AWS:$2b$04$l7Ne.tvLDsBHkxrJbV5Lu.D0oNO0iqC3d15sFaMNn4wFNaHBlhf/.\n";

/// How long a registry may take to answer on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running registry.
pub(crate) struct Stand {
    pub host: String,
    folder: tempfile::TempDir,
    child: Child,
    http: reqwest::Client,
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stand {
    /// Starts one and waits until it answers.
    pub(crate) async fn start() -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: apt-get install docker-registry");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
        let (host, child) = serve(folder.path(), "open", "");
        let stand = Self { host, folder, child, http: reqwest::Client::new() };
        let start = Instant::now();
        while stand.http.get(stand.url("")).send().await.is_err() {
            assert!(start.elapsed() < START_TIMEOUT, "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stand
    }

    /// Serves the same images with TLS too, by a certificate and its key in files.
    pub(crate) async fn serve_tls(&self, certificate: &Path, key: &Path) -> TlsStand {
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        let (host, child) = serve(self.folder.path(), "tls", &tls);
        let stand = TlsStand { host, log: self.folder.path().join("tls.log"), child };
        let start = Instant::now();
        while tokio::net::TcpStream::connect(&stand.host).await.is_err() {
            assert!(start.elapsed() < START_TIMEOUT, "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stand
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.host)
    }

    /// A `RegistryRef` as in `migration.toml`, with the password under `env:STAND`.
    pub(crate) fn reference(&self) -> Value {
        json!({
            "host": self.host, "endpoint": format!("http://{}", self.host),
            "username": USER, "password": "env:STAND"
        })
    }

    /// Our client of it.
    pub(crate) fn client(&self) -> Arc<Registry> {
        client(&self.host, &self.host)
    }

    /// Requests that the registry has answered: `PUT manifests`, `POST uploads`, `HEAD blobs`, …
    /// Counted from its own access log, after a request of ours has shown that it is whole.
    pub(crate) async fn requests(&self) -> BTreeMap<String, u64> {
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let mark = format!("mark-{}", MARKS.fetch_add(1, Ordering::Relaxed));
        let _ = self.http.get(self.url(&format!("{mark}/tags/list"))).send().await.unwrap();
        let start = Instant::now();
        let log = loop {
            let log = std::fs::read_to_string(self.folder.path().join("open.log")).unwrap();
            if log.contains(&mark) {
                break log;
            }
            assert!(start.elapsed() < START_TIMEOUT, "the access log stays silent");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut counts = BTreeMap::new();
        for line in log.lines().filter(|line| !line.contains("mark-")) {
            let Some(request) = line.split('"').nth(1) else { continue };
            let mut words = request.split(' ');
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let kinds = ["uploads", "blobs", "manifests", "tags", "referrers"];
            let kind = kinds.into_iter().find(|kind| path.contains(&format!("/{kind}/"))).unwrap_or("ping");
            *counts.entry(format!("{method} {kind}")).or_insert(0) += 1;
        }
        counts
    }

    /// Requests that carry blobs: `PUT` and `PATCH` of uploads.
    pub(crate) async fn blob_writes(&self) -> u64 {
        let requests = self.requests().await;
        ["PUT uploads", "PATCH uploads"].iter().filter_map(|kind| requests.get(*kind)).sum()
    }

    async fn call(&self, method: reqwest::Method, path: &str, kind: &str, body: Bytes) -> reqwest::Response {
        let request = self.http.request(method, self.url(path)).basic_auth(USER, Some(PASSWORD));
        request.header("content-type", kind).body(body).send().await.unwrap()
    }

    /// Stores a blob, without our client.
    pub(crate) async fn put_blob(&self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        let open = self
            .call(reqwest::Method::POST, &format!("{repository}/blobs/uploads/"), "text/plain", Bytes::new())
            .await;
        let mut url = Url::parse(open.headers()["location"].to_str().unwrap()).unwrap();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let put = self.http.put(url).basic_auth(USER, Some(PASSWORD)).body(bytes).send().await.unwrap();
        assert_eq!(put.status(), 201);
        digest
    }

    /// Stores a manifest, without our client.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        kind: &str,
        value: &Value,
    ) -> Value {
        let bytes = Bytes::from(serde_json::to_vec(value).unwrap());
        let descriptor =
            json!({ "mediaType": kind, "digest": Digest::of(&bytes).to_string(), "size": bytes.len() });
        let path = format!("{repository}/manifests/{reference}");
        let put = self.call(reqwest::Method::PUT, &path, kind, bytes).await;
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        descriptor
    }

    /// The digest of a tag or digest, without our client.
    pub(crate) async fn digest(&self, repository: &str, reference: &str) -> Option<String> {
        let request = self
            .http
            .head(self.url(&format!("{repository}/manifests/{reference}")))
            .basic_auth(USER, Some(PASSWORD))
            .header("accept", super::manifest::ACCEPT);
        let head = request.send().await.unwrap();
        head.status()
            .is_success()
            .then(|| head.headers()["docker-content-digest"].to_str().unwrap().to_owned())
    }

    /// Deletes a manifest by digest.
    pub(crate) async fn delete_manifest(&self, repository: &str, digest: &str) {
        let path = format!("{repository}/manifests/{digest}");
        let answer = self.call(reqwest::Method::DELETE, &path, "text/plain", Bytes::new()).await;
        assert_eq!(answer.status(), 202);
    }

    /// Takes everything away, as a registry that was made anew.
    pub(crate) fn empty(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Where the registry keeps the bytes of a blob.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// One image of one platform, with layers of the given bytes. Returns its descriptor.
    pub(crate) async fn image(&self, repository: &str, reference: &str, layers: &[Bytes]) -> Value {
        let manifest = self.image_manifest(repository, OCI_MANIFEST, "amd64", layers).await;
        self.put_manifest(repository, reference, OCI_MANIFEST, &manifest).await
    }

    async fn image_manifest(
        &self,
        repository: &str,
        kind: &str,
        architecture: &str,
        layers: &[Bytes],
    ) -> Value {
        let (config_type, layer_type) = if kind == OCI_MANIFEST {
            ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
        } else {
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        };
        let config = json!({ "os": "linux", "architecture": architecture, "of": repository });
        let config = Bytes::from(serde_json::to_vec(&config).unwrap());
        let size = config.len();
        let config = self.put_blob(repository, config).await;
        let mut descriptors = Vec::new();
        for layer in layers {
            let digest = self.put_blob(repository, layer.clone()).await;
            descriptors
                .push(json!({ "mediaType": layer_type, "digest": digest.to_string(), "size": layer.len() }));
        }
        json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": { "mediaType": config_type, "digest": config.to_string(), "size": size },
            "layers": descriptors,
        })
    }

    /// An index of two platforms under `tag`, Docker's or OCI's, sharing `base`.
    pub(crate) async fn index(&self, repository: &str, tag: &str, docker: bool, base: &Bytes) -> Value {
        let (list, manifest) =
            if docker { (DOCKER_LIST, DOCKER_MANIFEST) } else { (OCI_INDEX, OCI_MANIFEST) };
        let mut children = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let own = Bytes::from(format!("{repository} {tag} {architecture}"));
            let value = self.image_manifest(repository, manifest, architecture, &[base.clone(), own]).await;
            let digest = Digest::of(&serde_json::to_vec(&value).unwrap()).to_string();
            let mut child = self.put_manifest(repository, &digest, manifest, &value).await;
            child["platform"] = json!({ "os": "linux", "architecture": architecture });
            children.push(child);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": list, "manifests": children });
        self.put_manifest(repository, tag, list, &index).await
    }

    /// A cosign signature under its tag, and a referrer in the list that clients keep. Returns the
    /// digests of both.
    pub(crate) async fn sign(&self, repository: &str, subject: &Value) -> [String; 2] {
        let stem = subject["digest"].as_str().unwrap().replace(':', "-");
        let signature = self.image(repository, &format!("{stem}.sig"), &[Bytes::from("signature")]).await;
        let mut sbom = self.image_manifest(repository, OCI_MANIFEST, "amd64", &[Bytes::from("sbom")]).await;
        sbom["subject"] = subject.clone();
        sbom["artifactType"] = json!("application/spdx+json");
        let digest = Digest::of(&serde_json::to_vec(&sbom).unwrap()).to_string();
        let mut referrer = self.put_manifest(repository, &digest, OCI_MANIFEST, &sbom).await;
        referrer["artifactType"] = json!("application/spdx+json");
        let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [referrer] });
        self.put_manifest(repository, &stem, OCI_INDEX, &list).await;
        [signature["digest"].as_str().unwrap().to_owned(), digest]
    }
}

/// Starts a registry over what is in `folder`, with a config and a log of this name. Its address.
fn serve(folder: &Path, name: &str, tls: &str) -> (String, Child) {
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\n  delete:\n    enabled: true\n\
         http:\n  addr: {host}\n{tls}auth:\n  htpasswd:\n    realm: test\n    path: {0}/htpasswd\n",
        folder.display()
    );
    let file = folder.join(format!("{name}.yml"));
    std::fs::write(&file, config).unwrap();
    let child = Command::new(PROGRAM)
        .args(["serve".as_ref(), file.as_os_str()])
        .stdout(File::create(folder.join(format!("{name}.log"))).unwrap())
        .stderr(Stdio::null())
        .env("OTEL_TRACES_EXPORTER", "none")
        .spawn()
        .unwrap();
    (host, child)
}

/// A registry that serves the images of a [`Stand`] with TLS.
pub(crate) struct TlsStand {
    pub host: String,
    log: PathBuf,
    child: Child,
}

impl Drop for TlsStand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl TlsStand {
    /// Ends it, so that its log is whole, and gives each request with its protocol, as it logged it:
    /// `GET /v2/ HTTP/2.0`.
    pub(crate) fn requests(mut self) -> Vec<String> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        self.child.wait().unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
    }
}

/// Our client of the registry `host`, reached at `address`, with times that suit tests.
pub(crate) fn client(host: &str, address: &str) -> Arc<Registry> {
    let credentials = Credentials::Password { username: USER.to_owned(), password: Secret::new(PASSWORD) };
    let endpoint = Url::parse(&format!("http://{address}")).unwrap();
    Registry::new(host, Some(&endpoint), credentials, limits()).unwrap()
}

/// Short waits and small chunks.
pub(crate) fn limits() -> Limits {
    Limits {
        stall: Duration::from_millis(500),
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
        chunk_bytes: 256 * 1024,
        bytes_per_second: None,
    }
}

/// A host for contexts, which knows the registries' password.
pub(crate) fn host() -> Arc<RecordingHost> {
    let host = Arc::new(RecordingHost::default());
    host.put_secret("env:STAND", PASSWORD);
    host
}

/// The cursor of a first attempt.
pub(crate) fn cursor() -> Cursor {
    Cursor::load(&host().context("images", "."))
}

/// `len` bytes that don't compress and differ by `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// What the proxy does to its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Cut after so many bytes from the registry.
    CutDown(u64),
    /// Cut after so many bytes to the registry.
    CutUp(u64),
    /// Say nothing more after so many bytes from the registry.
    StallDown(u64),
    /// Take nothing more after so many bytes to the registry.
    StallUp(u64),
    /// Answer the first request of a connection with this status, instead of the registry.
    Answer(u16),
}

/// A proxy of ours in front of a registry: one fault a connection, in turn, then none.
pub(crate) struct Proxy {
    pub address: String,
    faults: Arc<Mutex<Vec<Fault>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Faults are used from the end of the list.
    pub(crate) async fn start(upstream: &str, faults: Vec<Fault>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let faults = Arc::new(Mutex::new(faults));
        let (upstream, shared) = (upstream.to_owned(), Arc::clone(&faults));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let answer = {
                    let mut faults = shared.lock().unwrap();
                    faults.pop_if(|fault| matches!(fault, Fault::Answer(_)))
                };
                if let Some(Fault::Answer(status)) = answer {
                    tokio::spawn(refuse(client, status));
                    continue;
                }
                let Ok(server) = tokio::net::TcpStream::connect(&upstream).await else { continue };
                tokio::spawn(relay(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, faults, task }
    }

    /// Faults that have not happened yet.
    pub(crate) fn left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

/// As a registry that has too much to do, or has forgotten our login.
async fn refuse(mut client: tokio::net::TcpStream, status: u16) {
    let mut request = vec![0; 16 * 1024];
    if client.read(&mut request).await.is_err() {
        return;
    }
    let answer = format!(
        "HTTP/1.1 {status} No\r\nretry-after: 0\r\nwww-authenticate: Basic realm=\"test\"\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let _ = client.write_all(answer.as_bytes()).await;
    // Until the client has seen it: closing at once would reset what it still sends.
    while client.read(&mut request).await.is_ok_and(|count| count > 0) {}
}

async fn relay(client: tokio::net::TcpStream, server: tokio::net::TcpStream, faults: Arc<Mutex<Vec<Fault>>>) {
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pump(client_read, server_write, Arc::clone(&faults), true);
    let down = pump(server_read, client_write, faults, false);
    // Either end ends both.
    tokio::select! { () = up => {}, () = down => {} }
}

/// Counts the bytes of one direction of one connection; the fault strikes when it is next in the
/// list, is of this direction, and the connection has carried enough.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    faults: Arc<Mutex<Vec<Fault>>>,
    up: bool,
) {
    let mut carried = 0_u64;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        carried += count as u64;
        let fault = {
            let mut faults = faults.lock().unwrap();
            let strikes = match faults.last() {
                Some(Fault::CutDown(after) | Fault::StallDown(after)) => !up && carried >= *after,
                Some(Fault::CutUp(after) | Fault::StallUp(after)) => up && carried >= *after,
                Some(Fault::Answer(_)) | None => false,
            };
            if strikes { faults.pop() } else { None }
        };
        match fault {
            None | Some(Fault::Answer(_)) => {}
            Some(Fault::CutDown(_) | Fault::CutUp(_)) => return,
            Some(Fault::StallDown(_) | Fault::StallUp(_)) => std::future::pending::<()>().await,
        }
    }
}
