//! Where measurements happen: the source with its objects, the targets, and the movers between them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aws_lc_rs::hmac;
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::floor::Job;
use crate::process::{Cost, Service, measured};
use crate::series::Table;
use crate::tools::Tools;
use crate::{Result, ours};

const ACCESS_KEY: &str = "benchaccess";
const SECRET_KEY: &str = "benchsecret";
pub const REGION: &str = "us-east-1";
const ACCOUNT: &str = "bench";
/// Any 64 bytes.
const ACCOUNT_KEY: [u8; 64] = [7; 64];
const MIB: usize = 1 << 20;
/// Of the disk: the bucket once, and what two Azurites keep of all sets, with a quarter to spare.
const HUGE_NEEDS: u64 = 20 << 30;
/// Parts of the large objects, so that their ETag is no MD5.
const PART: usize = 32 * MIB;
/// One in this many of the small objects is changed.
const CHANGED: usize = 100;
/// Keys of the listings: the cost of one in the long is held against that in the short.
pub const LISTED: [usize; 2] = [10_000, 1_000_000];

/// A set of objects, in a bucket of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Small,
    Middle,
    Large,
    /// Only where the disk has [`HUGE_NEEDS`].
    Huge,
}

impl Set {
    pub const ALL: [Set; 4] = [Set::Small, Set::Middle, Set::Large, Set::Huge];

    pub fn name(self) -> &'static str {
        match self {
            Set::Small => "small",
            Set::Middle => "middle",
            Set::Large => "large",
            Set::Huge => "huge",
        }
    }

    /// How many, of how many bytes.
    fn shape(self, tenth: bool) -> (usize, usize) {
        match (self, tenth) {
            (Set::Small, false) => (5_000, 4 << 10),
            (Set::Small, true) => (500, 4 << 10),
            (Set::Middle, false) => (100, 8 * MIB),
            (Set::Middle, true) => (10, 8 * MIB),
            (Set::Large, false) => (1, 1024 * MIB),
            (Set::Large, true) => (1, 100 * MIB),
            (Set::Huge, _) => (1, 4096 * MIB),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Sink,
    Azurite,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Target::Sink => "sink",
            Target::Azurite => "azurite",
        }
    }
}

/// A target that runs.
pub enum Running {
    /// Ours, with what it listens at.
    Sink(#[allow(dead_code, reason = "ends when dropped")] Own, String),
    /// The other, with its log, and how much of that was read.
    Azurite(#[allow(dead_code, reason = "ends when dropped")] (Service, Scratch), String, Log),
}

/// A folder that goes with its owner.
pub struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in the way of nobody: names are of ports.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of this program that serves until its stdin ends.
pub struct Own(Child);

impl Own {
    /// The process and what it says of its addresses: the target's and the source's.
    pub fn start(command: &mut Command) -> Result<(Self, String, String)> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let own = Self(child);
        BufReader::new(stdout).read_line(&mut line)?;
        let (target, source) = line.trim().split_once(' ').ok_or("a service said no address")?;
        Ok((own, target.to_owned(), source.to_owned()))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An access log, of which each measurement takes what is new.
pub struct Log {
    path: PathBuf,
    read: usize,
}

impl Log {
    fn requests(&mut self, side: &str) -> BTreeMap<String, u64> {
        let text = std::fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut requests = BTreeMap::new();
        for line in text.get(self.read..).unwrap_or_default().lines() {
            if let Some(kind) = kind(line) {
                *requests.entry(format!("{side} {kind}")).or_default() += 1;
            }
        }
        self.read = text.len();
        requests
    }
}

/// What kind of request a line tells of: by versitygw's name for it, or by method and `comp`.
fn kind(line: &str) -> Option<String> {
    if let Some(operation) = line.split(' ').find_map(|word| word.strip_prefix("s3_")) {
        return Some(operation.to_owned());
    }
    let (method, rest) = line.split('"').find_map(|part| {
        let (method, rest) = part.split_once(' ')?;
        matches!(method, "GET" | "PUT" | "HEAD" | "POST" | "DELETE").then_some((method, rest))
    })?;
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let comp = query.split(['&', ' ']).find_map(|pair| pair.strip_prefix("comp="));
    let method = method.to_lowercase();
    Some(comp.map_or(method.clone(), |comp| format!("{method} {comp}")))
}

pub struct Room {
    pub folder: PathBuf,
    pub tools: Tools,
    pub tenth: bool,
    pub sets: Vec<Set>,
    peers: bool,
    runtime: Runtime,
    s3: Client,
    endpoint: String,
    log: Log,
    _versitygw: Service,
}

impl Room {
    /// Installs what is missing, starts the source and fills it.
    pub fn new(tenth: bool, only: Option<Set>, peers: bool) -> Result<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
        let bench = target.join("bench/blobs");
        let folder = bench.join("work");
        let objects = bench.join(if tenth { "objects-small" } else { "objects" });
        std::fs::create_dir_all(&folder)?;
        std::fs::create_dir_all(&objects)?;
        std::fs::write(
            folder.join("credentials"),
            format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
        )?;
        let tools = Tools::install(&bench, peers)?;
        let disk = rustix::fs::statvfs(&bench)?;
        let huge = !tenth && disk.f_bavail * disk.f_frsize >= HUGE_NEEDS;
        let mut sets = Set::ALL.to_vec();
        sets.retain(|set| only.is_none_or(|only| only == *set) && (huge || *set != Set::Huge));
        if sets.is_empty() {
            return Err("the set of 4 GiB needs 20 GiB of free disk, and no --small".into());
        }
        let (address, log) = (free_address()?, folder.join("s3-access.log"));
        let _ = std::fs::remove_file(&log);
        let mut versitygw = Command::new(&tools.versitygw);
        versitygw.args(["--port", &address, "--region", REGION, "--quiet", "--keep-alive", "--access-log"]);
        versitygw.arg(&log).arg("posix").arg(&objects);
        versitygw.env("ROOT_ACCESS_KEY_ID", ACCESS_KEY).env("ROOT_SECRET_ACCESS_KEY", SECRET_KEY);
        let versitygw = Service::start(&mut versitygw, &address, &folder.join("s3.log"))?;
        let runtime = Runtime::new()?;
        let endpoint = format!("http://{address}");
        let s3 = runtime.block_on(client(&endpoint));
        let log = Log { path: log, read: 0 };
        let room =
            Self { folder, tools, tenth, sets, peers, runtime, s3, endpoint, log, _versitygw: versitygw };
        room.runtime.block_on(room.fill(&objects))?;
        // Or whoever comes first would read them from the disk, and the others from memory.
        read_once(&objects)?;
        Ok(room)
    }

    pub fn has_peers(&self) -> bool {
        self.peers
    }

    pub fn versions(&self) -> Value {
        if self.peers { Tools::versions() } else { Value::Null }
    }

    /// Puts what is not there yet.
    async fn fill(&self, objects: &Path) -> Result<()> {
        for set in &self.sets {
            let (bucket, marker) = (set.name(), objects.join(format!(".filled-{}", set.name())));
            if marker.exists() {
                continue;
            }
            eprintln!("bench: filling bucket {bucket}, once");
            // It may be there, half filled.
            let _ = self.s3.create_bucket().bucket(bucket).send().await;
            let (count, size) = set.shape(self.tenth);
            for number in 0..count {
                if size > PART {
                    self.put_parts(bucket, &key(number), size).await?;
                } else {
                    self.put(bucket, &key(number), noise(size, number as u64 + 1)).await?;
                }
            }
            std::fs::write(marker, "")?;
        }
        Ok(())
    }

    async fn put(&self, bucket: &str, key: &str, bytes: Vec<u8>) -> Result<()> {
        let put = self.s3.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes));
        put.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await?;
        Ok(())
    }

    async fn put_parts(&self, bucket: &str, key: &str, size: usize) -> Result<()> {
        let upload = self.s3.create_multipart_upload().bucket(bucket).key(key);
        let upload = upload.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await?;
        let id = upload.upload_id().ok_or("no upload ID")?;
        let mut parts = Vec::new();
        for (number, from) in (1..).zip((0..size).step_by(PART)) {
            let body = ByteStream::from(noise(PART.min(size - from), number as u64));
            let sent = self.s3.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
            let sent = sent.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).body(body).send().await?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            parts.push(part.set_checksum_crc64_nvme(sent.checksum_crc64_nvme).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let done = self.s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
        done.multipart_upload(parts).send().await?;
        Ok(())
    }

    /// Writes one in a hundred of the small objects anew.
    pub fn change(&mut self, round: usize) -> Result<()> {
        let (count, size) = Set::Small.shape(self.tenth);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
        self.runtime.block_on(async {
            for number in (0..count).step_by(CHANGED) {
                let bytes = noise(size, now.wrapping_add(number as u64) ^ round as u64);
                self.put(Set::Small.name(), &key(number), bytes).await?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        self.log.requests("s3");
        Ok(())
    }

    /// A target with an empty container for every mover and set.
    pub fn target(&mut self, target: Target) -> Result<Running> {
        if target == Target::Sink {
            let (own, address, _) =
                Own::start(Command::new(std::env::current_exe()?).args(["serve", "sink"]))?;
            return Ok(Running::Sink(own, address));
        }
        let address = free_address()?;
        let (host, port) = address.split_once(':').ok_or("no port")?;
        let blobs = Scratch(self.fresh(&format!("azurite-{port}"))?);
        let log = self.folder.join(format!("azurite-{port}.log"));
        let mut azurite = Command::new("node");
        azurite.arg(&self.tools.azurite).args(["--blobHost", host, "--blobPort", port, "--location"]);
        azurite.arg(&blobs.0).args(["--skipApiVersionCheck", "--loose", "--disableTelemetry"]);
        azurite.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", BASE64.encode(ACCOUNT_KEY)));
        let service = Service::start(&mut azurite, &address, &log)?;
        self.runtime.block_on(async {
            for set in &self.sets {
                for mover in ["ours", "rclone"] {
                    let url = format!("http://{address}/{ACCOUNT}/{mover}-{}", set.name());
                    let put = reqwest::Client::new().put(format!("{url}?restype=container&{}", sas()));
                    put.header("content-length", "0").send().await?.error_for_status()?;
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        let mut log = Log { path: log, read: 0 };
        log.requests("blob");
        Ok(Running::Azurite((service, blobs), address, log))
    }

    /// One mover, once, from a set's bucket to its container.
    pub fn stream(
        &mut self,
        mover: &str,
        set: Set,
        target: &mut Running,
    ) -> Result<(Cost, BTreeMap<String, u64>)> {
        let address = match target {
            Running::Sink(_, address) | Running::Azurite(_, address, _) => address.clone(),
        };
        let container = format!("{mover}-{}", set.name());
        let before = self.sink_counts(target)?;
        self.log.requests("s3");
        let mut command = match mover {
            "rclone" => self.rclone(set, &format!("http://{address}/{ACCOUNT}"), &container),
            "floor" => self.floor(set, &address, &container)?,
            _ => {
                self.ours("copy", &self.config(&self.endpoint, set.name(), &address, &container, "stream"))?
            }
        };
        let cost = measured(&mut command, &self.folder.join(format!("{mover}.log")))?;
        let mut requests = self.log.requests("s3");
        match target {
            Running::Azurite(_, _, log) => requests.extend(log.requests("blob")),
            Running::Sink(..) => {
                for (kind, count) in self.sink_counts(target)? {
                    let new = count - before.get(&kind).copied().unwrap_or(0);
                    if new > 0 {
                        requests.insert(format!("blob {kind}"), new);
                    }
                }
            }
        }
        Ok((cost, requests))
    }

    /// Empties a sink, which knows no containers: what one set has left there, a mover that makes both
    /// sides equal would delete with the next.
    pub fn empty(&self, target: &Running) -> Result<()> {
        let Running::Sink(_, address) = target else { return Ok(()) };
        self.runtime.block_on(async { reqwest::get(format!("http://{address}/_reset")).await })?;
        Ok(())
    }

    /// What the sink was asked so far.
    pub fn sink_counts(&self, target: &Running) -> Result<BTreeMap<String, u64>> {
        let Running::Sink(_, address) = target else { return Ok(BTreeMap::new()) };
        let counts = self
            .runtime
            .block_on(async { reqwest::get(format!("http://{address}/_counts")).await?.json().await })?;
        Ok(counts)
    }

    /// The config of `blob.copy`.
    pub fn config(&self, endpoint: &str, bucket: &str, to: &str, container: &str, engine: &str) -> Value {
        json!({
            "from": { "bucket": bucket, "endpoint": endpoint },
            "aws": { "region": REGION, "profile": "default", "credentials-file": "credentials" },
            "to": {
                "account-url": format!("http://{to}/{ACCOUNT}"),
                "container": container,
                "sas": format!("env:{}", ours::SAS),
            },
            "engine": engine,
        })
    }

    /// This program again, for one measurement.
    pub fn ours(&self, what: &str, config: &Value) -> Result<Command> {
        let file = self.folder.join("config.json");
        std::fs::write(&file, config.to_string())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["measure", what]).arg(file).env(ours::SAS, sas());
        Ok(command)
    }

    /// The bytes of a set and nothing else, by URLs that are signed before the clock runs.
    fn floor(&self, set: Set, address: &str, container: &str) -> Result<Command> {
        let (count, _) = set.shape(self.tenth);
        let path = |url: &str| url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        let objects = self.runtime.block_on(async {
            let mut objects = Vec::with_capacity(count);
            for number in 0..count {
                let signed = PresigningConfig::expires_in(std::time::Duration::from_secs(900))?;
                let get = self.s3.get_object().bucket(set.name()).key(key(number)).presigned(signed).await?;
                let put = format!("/{ACCOUNT}/{container}/{}?{}", key(number), sas());
                objects.push((path(get.uri()), put));
            }
            Ok::<_, Box<dyn std::error::Error>>(objects)
        })?;
        let from = self.endpoint.trim_start_matches("http://").to_owned();
        let file = self.folder.join("floor.json");
        std::fs::write(&file, serde_json::to_string(&Job { from, to: address.to_owned(), objects })?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["measure", "floor"]).arg(file);
        Ok(command)
    }

    /// With the settings that were the fastest of those tried here; `--checksum` spares it a HEAD for
    /// every object.
    fn rclone(&self, set: Set, account: &str, container: &str) -> Command {
        let mut command = Command::new(&self.tools.rclone);
        command.args([
            "sync",
            &format!("src:{}", set.name()),
            &format!("dst:{container}"),
            "--checksum",
            "--fast-list",
        ]);
        command.args([
            "--transfers",
            "32",
            "--checkers",
            "32",
            "--stats",
            "0",
            "--azureblob-chunk-size",
            "8Mi",
        ]);
        command.args(["--azureblob-upload-concurrency", "16", "--multi-thread-streams", "16"]);
        command.env("RCLONE_CONFIG", "");
        for (name, value) in [
            ("SRC_TYPE", "s3"),
            ("SRC_PROVIDER", "Other"),
            ("SRC_ENDPOINT", &self.endpoint),
            ("SRC_REGION", REGION),
            ("SRC_ACCESS_KEY_ID", ACCESS_KEY),
            ("SRC_SECRET_ACCESS_KEY", SECRET_KEY),
            ("SRC_NO_CHECK_BUCKET", "true"),
            ("SRC_NO_HEAD", "true"),
            ("DST_TYPE", "azureblob"),
            ("DST_SAS_URL", &format!("{account}/{container}?{}", sas())),
            ("DST_NO_CHECK_CONTAINER", "true"),
        ] {
            command.env(format!("RCLONE_CONFIG_{name}"), value);
        }
        command
    }

    /// A plan over listings of ours that nobody wrote, both sides equal.
    pub fn listings(&self, table: &mut Table) -> Result<()> {
        for count in LISTED {
            let mut command = Command::new(std::env::current_exe()?);
            let (_own, to, from) = Own::start(command.args(["serve", "listing", &count.to_string()]))?;
            let config = self.config(&format!("http://{from}"), "b", &to, "c", "stream");
            let cost = measured(&mut self.ours("plan", &config)?, &self.folder.join("plan.log"))?;
            table.add(&format!("ours plan {count}"), cost, &BTreeMap::new());
        }
        Ok(())
    }

    /// An empty folder.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Reads every file below a folder.
fn read_once(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_once(&entry.path())?;
        } else {
            std::io::copy(&mut std::fs::File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

async fn client(endpoint: &str) -> Client {
    let keys = aws_credential_types::Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "bench");
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(REGION))
        .credentials_provider(keys)
        .endpoint_url(endpoint)
        .load()
        .await;
    Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build())
}

/// An address of this machine that was free a moment ago.
pub fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The access keys of the source.
pub fn keys() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
}

/// The account's name.
pub fn account() -> &'static str {
    ACCOUNT
}

fn key(number: usize) -> String {
    format!("kopia/shop/{:02x}/p{number:08}", number % 16)
}

/// An account SAS (learn.microsoft.com/rest/api/storageservices/create-account-sas); the sink takes any.
pub fn sas() -> String {
    let (version, permissions, expiry) = ("2022-11-02", "rwdlac", "2099-01-01T00:00:00Z");
    let text = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n{expiry}\n\nhttps,http\n{version}\n\n");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &ACCOUNT_KEY), text.as_bytes());
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("sv", version), ("ss", "b"), ("srt", "sco"), ("sp", permissions), ("se", expiry)])
        .append_pair("spr", "https,http")
        .append_pair("sig", &BASE64.encode(signature))
        .finish()
}

/// Bytes that compress badly and are the same for the same seed.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
