//! zot as the target: a registry that shares no code with the one that all else is measured with. No contest: it is
//! shown that every image arrives, and that an independent client sees it and takes it back, digest for digest.
//!
//! Built from the Go proxy the first time that it is asked for, in some two minutes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::estate::{TAG, digest_of};
use crate::peers;
use crate::registry::{START_TIMEOUT, Server, digest_at};

/// By its address at GitHub; it calls itself otherwise, so `go install` refuses it.
const MODULE: &str = "github.com/project-zot/zot";
const VERSION: &str = "v1.4.3";
/// Without what needs C libraries, and without its extensions.
const TAGS: &str = "containers_image_openpgp,minimal";

/// A running zot, without users.
pub struct Zot {
    pub address: String,
    child: Child,
    http: reqwest::Client,
}

impl Drop for Zot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Zot {
    /// Starts one over `folder`, which is emptied, and waits until it answers.
    pub async fn start(bench: &Path, folder: &Path) -> Result<Self> {
        let program = install(bench)?;
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = json!({
            "storage": { "rootDirectory": folder.join("data") },
            "http": { "address": "127.0.0.1", "port": port.to_string() },
            "log": { "level": "error" },
        });
        let file = folder.join("zot.json");
        std::fs::write(&file, config.to_string())?;
        let child = Command::new(program)
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let zot = Self { address: format!("127.0.0.1:{port}"), child, http: reqwest::Client::new() };
        let start = Instant::now();
        while zot.http.get(format!("http://{}/v2/", zot.address)).send().await.is_err() {
            if start.elapsed() > START_TIMEOUT {
                return Err("zot does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(zot)
    }

    /// Whether `repository` is there, is seen by skopeo, and comes back by it into `third`, always as `wanted`.
    pub async fn check(&self, repository: &str, wanted: &str, third: &Server) -> Result<()> {
        let fails = |what: &str| format!("zot: {repository} {what}");
        if digest_at(&self.http, &self.address, repository, TAG).await?.as_deref() != Some(wanted) {
            return Err(fails("did not arrive").into());
        }
        let ours = format!("docker://{}/{repository}:{TAG}", self.address);
        let raw = Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &ours]).output()?;
        if digest_of(&raw.stdout) != wanted {
            return Err(fails("is another for skopeo").into());
        }
        let back = format!("docker://{}/{repository}:{TAG}", third.address);
        let copied = Command::new("skopeo")
            .args(["copy", "--all", "--preserve-digests", "--quiet", "--src-tls-verify=false"])
            .args(["--dest-tls-verify=false", &ours, &back])
            .output()?;
        if !copied.status.success() {
            return Err(fails(&String::from_utf8_lossy(&copied.stderr)).into());
        }
        if third.digest(repository, TAG).await?.as_deref() != Some(wanted) {
            return Err(fails("came back as another").into());
        }
        Ok(())
    }
}

fn install(bench: &Path) -> Result<PathBuf> {
    peers::install("skopeo", bench)?;
    let program = bench.join(format!("zot-{VERSION}/zot"));
    if program.exists() {
        return Ok(program);
    }
    eprintln!("bench: building zot {VERSION}, once");
    let module =
        Command::new("go").args(["mod", "download", "-json", &format!("{MODULE}@{VERSION}")]).output()?;
    let module: Value = serde_json::from_slice(&module.stdout)?;
    let source = module["Dir"].as_str().ok_or("go did not get zot")?;
    let mut build = Command::new("go");
    build.args(["build", "-tags", TAGS, "-ldflags", "-s -w", "-o"]).arg(&program).arg("./cmd/zot");
    peers::succeed(build.current_dir(source).env("CGO_ENABLED", "0"))?;
    Ok(program)
}
