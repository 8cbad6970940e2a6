//! Tests that need the whole, and what they share: a running sandbox, and `migrate` run in it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// Set by `cargo xtask test`: the sandbox's project folder.
const PROJECT: &str = "MIGRATE_SANDBOX_PROJECT";

/// A running sandbox with a seeded estate.
pub struct Sandbox {
    project: PathBuf,
    /// Bytes of each access log at the reset.
    logs: BTreeMap<&'static str, usize>,
}

/// Daemons whose access logs tell what was written to the target, and by whom it was asked for.
const LOGS: [&str; 3] = ["acr", "azure", "front"];

impl Sandbox {
    /// The running sandbox, its target emptied and every run forgotten.
    ///
    /// # Panics
    /// When there is none: these tests never skip.
    pub fn reset() -> Self {
        expect_success(Command::new(built("sandbox")).args(["seed", "--reset"]));
        let sandbox = Self::as_it_is();
        match std::fs::remove_dir_all(sandbox.project.join(".migrate")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("failed to forget runs: {e}"),
            _ => sandbox,
        }
    }

    /// The running sandbox as it is, for tests that leave the estate and the target's namespace alone.
    ///
    /// # Panics
    /// When there is none: these tests never skip.
    pub fn as_it_is() -> Self {
        let project = std::env::var_os(PROJECT)
            .unwrap_or_else(|| panic!("{PROJECT} is not set: run `cargo xtask test`"))
            .into();
        Self { project, logs: LOGS.into_iter().map(|name| (name, log(name).len())).collect() }
    }

    /// What was written to the target more than once since the reset, by the access logs of the
    /// registry and of the Blob service: blobs and manifests of images, and committed objects.
    ///
    /// # Panics
    /// When a log holds no write at all: then nothing was counted.
    pub fn written_twice(&self) -> Vec<String> {
        self.written_twice_to(&["acr", "front"])
    }

    /// As [`written_twice`](Self::written_twice), of some of the services.
    ///
    /// # Panics
    /// When a log holds no write at all.
    pub fn written_twice_to(&self, daemons: &[&str]) -> Vec<String> {
        let mut writes: BTreeMap<String, u32> = BTreeMap::new();
        for daemon in daemons {
            let found = self.written_to(daemon);
            assert!(!found.is_empty(), "no write in the log of {daemon}");
            for what in found {
                *writes.entry(what).or_default() += 1;
            }
        }
        writes
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .map(|(what, times)| format!("{times} × {what}"))
            .collect()
    }

    /// What was wholly written to a service since the reset, by its access log, in order.
    pub fn written_to(&self, daemon: &str) -> Vec<String> {
        self.log_since(daemon).lines().filter_map(write).collect()
    }

    /// Images that Azure was asked to import since the reset, and that it took, in order.
    pub fn imports(&self) -> Vec<String> {
        let log = self.log_since("azure");
        let taken = log.lines().filter(|line| line.contains(" 202 POST "));
        taken.filter_map(|line| Some(line.split_once("/importImage image=")?.1.to_owned())).collect()
    }

    /// What a daemon has logged since the reset.
    pub fn log_since(&self, daemon: &str) -> String {
        log(daemon)[self.logs[daemon]..].to_owned()
    }

    /// The project folder.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// Does `work` with `migration.toml` as `edit` makes it, and puts it back.
    ///
    /// # Panics
    /// When the file can't be read or written.
    pub fn with_site<T>(&self, edit: impl Fn(String) -> String, work: impl FnOnce() -> T) -> T {
        let file = self.project.join("migration.toml");
        let original = std::fs::read_to_string(&file).expect("the site's file can be read");
        std::fs::write(&file, edit(original.clone())).expect("the site's file can be written");
        let result = work();
        std::fs::write(&file, original).expect("the site's file can be written");
        result
    }

    /// `migrate ARGS…` in the project folder.
    pub fn migrate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(built("migrate"));
        command.args(args).current_dir(&self.project).stdin(Stdio::null());
        command
    }

    /// `migrate ARGS… --json`, which must succeed: its report.
    ///
    /// # Panics
    /// When it fails.
    pub fn report(&self, args: &[&str]) -> Value {
        let output = expect_success(self.migrate(args).arg("--json"));
        report_of(&output)
    }

    /// Starts the stateful workflow and reads its events.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(&self) -> Running {
        Running::of(&mut self.migrate(&["run", "stateful", "--param", "namespaces=shop", "--json"]))
    }

    /// `kubectl --context CONTEXT ARGS…`: its stdout.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, context: &str, args: &[&str]) -> String {
        let output = expect_success(&mut self.kubectl_command(context, args));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    /// As [`kubectl`](Self::kubectl), however it ends.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn kubectl_output(&self, context: &str, args: &[&str]) -> Output {
        self.kubectl_command(context, args).output().expect("kubectl starts")
    }

    fn kubectl_command(&self, context: &str, args: &[&str]) -> Command {
        let mut command = Command::new(tool("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.project.join("kubeconfig"))
            .args(["--context", context])
            .args(args);
        command
    }
}

impl Sandbox {
    /// Changes one byte in the middle of a copied kopia pack blob, leaving its size and its metadata
    /// as they were. Returns the blob's name.
    ///
    /// # Panics
    /// When there is no such blob, or the service refuses.
    pub fn flip_a_byte_of_a_kopia_blob(&self) -> String {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let container = self.container();
            let listing = format!(
                "{}?restype=container&comp=list&prefix=kopia/shop/p&{}",
                container.url, container.sas
            );
            let http = reqwest::Client::new();
            let ok = "the Blob service answers";
            let xml = http.get(listing).send().await.expect(ok).text().await.expect(ok);
            let name = xml
                .split_once("<Name>")
                .and_then(|(_, rest)| rest.split_once("</Name>"))
                .map(|(name, _)| name.to_owned())
                .unwrap_or_else(|| panic!("a pack blob in {xml}"));
            let url = format!("{}/{name}?{}", container.url, container.sas);
            let read = http
                .get(&url)
                .send()
                .await
                .expect(ok)
                .error_for_status()
                .map_err(reqwest::Error::without_url)
                .expect(ok);
            let mut write = http.put(&url).header("x-ms-blob-type", "BlockBlob");
            for (header, value) in read.headers() {
                match header.as_str() {
                    "content-type" => write = write.header("x-ms-blob-content-type", value),
                    name if name.starts_with("x-ms-meta-") => write = write.header(header, value),
                    _ => {}
                }
            }
            let mut content = read.bytes().await.expect(ok).to_vec();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            write
                .body(content)
                .send()
                .await
                .expect(ok)
                .error_for_status()
                .map_err(reqwest::Error::without_url)
                .expect("the blob is written");
            name
        })
    }

    fn container(&self) -> Container {
        let read = |name: &str| std::fs::read_to_string(self.project.join(name)).expect("a project file");
        let site: toml::Table = read("migration.toml").parse().expect("TOML");
        let objects = &site["target"]["objects"];
        let text = |key: &str| objects[key].as_str().expect("a string").to_owned();
        let sas = read(text("sas").strip_prefix("file:").expect("a file"));
        Container {
            url: format!("{}/{}", text("account-url"), text("container")),
            sas: sas.trim().to_owned(),
        }
    }
}

struct Container {
    url: String,
    sas: String,
}

/// A `migrate run` that goes on, and its events.
pub struct Running {
    child: Child,
    events: BufReader<ChildStdout>,
}

impl Running {
    /// Starts `migrate … --json`.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("migrate starts");
        let events = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, events }
    }

    /// Reads events until `wanted` says yes; `None` when the run ended before.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.events.read_line(&mut line).expect("stdout can be read") == 0 {
                return None;
            }
            let event: Value = serde_json::from_str(&line).expect("every line is JSON");
            if wanted(&event) {
                return Some(event);
            }
        }
    }

    /// Kills it at once; whether the signal ended it, and not its own end.
    ///
    /// # Panics
    /// When it can't be waited for.
    pub fn kill(mut self) -> bool {
        // By the system call itself: some nodes take milliseconds.
        self.child.kill().expect("it can be signalled");
        let status = self.child.wait().expect("migrate ends");
        status.signal().is_some()
    }

    /// As Ctrl-C does.
    ///
    /// # Panics
    /// When there is no `kill`.
    pub fn interrupt(&self) {
        expect_success(Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]));
    }

    /// Waits for the end.
    pub fn end(self) -> Output {
        drop(self.events);
        self.child.wait_with_output().expect("migrate ends")
    }
}

/// The report in the last line of `output`.
///
/// # Panics
/// When there is none.
pub fn report_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().expect("migrate prints its report");
    let mut value: Value = serde_json::from_str(last).expect("the report is JSON");
    assert_eq!(value["type"], "report", "{last}");
    value["report"].take()
}

/// The events in `output`, which was made with `--json`.
///
/// # Panics
/// When a line is no JSON.
pub fn events_of(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

/// All checks of a report as (node, subject, what, source, target, status).
pub fn checks(report: &Value) -> Vec<[String; 6]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = report["nodes"].as_array().expect("nodes");
    nodes
        .iter()
        .flat_map(|node| {
            let checks = node["evidence"]["checks"].as_array().cloned().unwrap_or_default();
            checks.into_iter().map(move |check| {
                [
                    text(&node["node"]),
                    text(&check["subject"]),
                    text(&check["what"]),
                    text(&check["source"]),
                    text(&check["target"]),
                    text(&check["status"]),
                ]
            })
        })
        .collect()
}

/// Runs `command`, which must succeed.
///
/// # Panics
/// With its stderr when it fails.
pub fn expect_success(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("failed to start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The folder with the state of a daemon of the sandbox.
pub fn state(daemon: &str) -> PathBuf {
    target().join("sandbox/state").join(daemon)
}

/// The folder with the definitions of the kinds that AKS and its add-ons serve.
pub fn definitions() -> PathBuf {
    target().join("sandbox/cache/definitions")
}

/// The log of a daemon of the sandbox.
fn log(daemon: &str) -> String {
    let path = target().join("sandbox/logs").join(format!("{daemon}.log"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("failed to read {}: {e}", path.display()))
}

/// What a line of an access log says was wholly written, if anything.
fn write(line: &str) -> Option<String> {
    // The registry: `… "PUT /v2/shop/web/blobs/uploads/ID?…digest=sha256%3A… HTTP/1.1" 201 …`
    if let Some((_, request)) = line.split_once("\"PUT ") {
        let (address, rest) = request.split_once(' ')?;
        if !rest.contains("\" 201 ") {
            return None;
        }
        return match address.split_once("digest=") {
            Some((_, digest)) => Some(format!("layer {}", digest.split('&').next()?)),
            None => Some(format!("manifest {address}")),
        };
    }
    // The front: `… 201 PUT /ACCOUNT/CONTAINER/NAME comp=blocklist`
    let (_, request) = line.split_once(" 201 PUT ")?;
    let (path, comp) = request.rsplit_once(" comp=")?;
    matches!(comp, "" | "blocklist").then(|| format!("blob {path}"))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// A program of the sandbox's, or one that cargo has built.
///
/// # Panics
/// When there is none.
pub fn tool(program: &str) -> PathBuf {
    let made = std::fs::read_dir(target().join("sandbox/bin")).into_iter().flatten();
    let mut paths = made.filter_map(Result::ok).map(|entry| entry.path().join(program));
    let found = paths.find(|path| path.exists()).unwrap_or_else(|| built(program));
    assert!(found.exists(), "there is no {program}: run `cargo xtask test`");
    // Tests of other folders run it too.
    std::path::absolute(found).expect("a path")
}

/// A program that cargo has built.
fn built(program: &str) -> PathBuf {
    target().join("debug").join(program)
}
