//! A real registry (CNCF distribution, Debian's `docker-registry`) without users, on a free port.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LOCATION};

use crate::Result;
use crate::estate::MANIFEST;

const PROGRAM: &str = "/usr/bin/docker-registry";

/// How long it may take to answer on a busy machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running registry.
pub struct Server {
    pub address: String,
    log: PathBuf,
    child: Child,
    http: reqwest::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts one over `folder` and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}/data\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: bench\n",
            folder.display()
        );
        let (file, log) = (folder.join("config.yml"), folder.join("access.log"));
        std::fs::write(&file, config)?;
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&file)
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .map_err(|e| format!("{PROGRAM}: {e} (Debian package docker-registry)"))?;
        let server = Self { address: format!("127.0.0.1:{port}"), log, child, http: reqwest::Client::new() };
        let start = Instant::now();
        while server.http.get(server.url("")).send().await.is_err() {
            if start.elapsed() > START_TIMEOUT {
                return Err("docker-registry does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Requests so far, by kind: `PUT manifests`, `POST uploads`, `HEAD blobs`, …
    pub async fn requests(&self) -> Result<BTreeMap<String, u64>> {
        let seen = std::fs::read_to_string(&self.log)?.matches("/mark/tags/list").count();
        self.http.get(self.url("mark/tags/list")).send().await?;
        let start = Instant::now();
        let log = loop {
            let log = std::fs::read_to_string(&self.log)?;
            if log.matches("/mark/tags/list").count() > seen {
                break log;
            }
            if start.elapsed() > START_TIMEOUT {
                return Err("the access log stays silent".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut counts = BTreeMap::new();
        // The first is ours: it asked whether the registry is there.
        for line in log.lines().filter(|line| !line.contains("/mark/")).skip(1) {
            let Some(request) = line.split('"').nth(1) else { continue };
            let mut words = request.split(' ');
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let kinds = ["uploads", "blobs", "manifests", "tags", "referrers"];
            let kind = kinds.into_iter().find(|kind| path.contains(&format!("/{kind}/"))).unwrap_or("ping");
            *counts.entry(format!("{method} {kind}")).or_insert(0) += 1;
        }
        Ok(counts)
    }

    /// Stores a blob, unless it is there.
    pub async fn put_blob(&self, repository: &str, digest: &str, bytes: Bytes) -> Result<()> {
        let head = self.http.head(self.url(&format!("{repository}/blobs/{digest}"))).send().await?;
        if head.status().is_success() {
            return Ok(());
        }
        let open = self.http.post(self.url(&format!("{repository}/blobs/uploads/"))).send().await?;
        let location = open.headers().get(LOCATION).ok_or("no upload was opened")?.to_str()?.to_owned();
        let put = self.http.put(format!("{location}&digest={digest}")).body(bytes).send().await?;
        put.error_for_status()?;
        Ok(())
    }

    /// Stores a manifest under a tag.
    pub async fn put_manifest(&self, repository: &str, tag: &str, bytes: Bytes) -> Result<()> {
        let put = self.http.put(self.url(&format!("{repository}/manifests/{tag}")));
        put.header(CONTENT_TYPE, MANIFEST).body(bytes).send().await?.error_for_status()?;
        Ok(())
    }

    /// The digest under a tag.
    pub async fn digest(&self, repository: &str, tag: &str) -> Result<Option<String>> {
        digest_at(&self.http, &self.address, repository, tag).await
    }
}

/// The digest under a tag in the registry at `address`.
pub async fn digest_at(
    http: &reqwest::Client,
    address: &str,
    repository: &str,
    tag: &str,
) -> Result<Option<String>> {
    let get = http.get(format!("http://{address}/v2/{repository}/manifests/{tag}"));
    let get = get.header("accept", MANIFEST).send().await?;
    if !get.status().is_success() {
        return Ok(None);
    }
    Ok(Some(crate::estate::digest_of(&get.bytes().await?)))
}
