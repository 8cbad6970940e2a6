//! Daemons: processes that outlive `sandbox up`.
//!
//! Owns the records in `state/run/`: pid, start time and a digest of the command, so that a daemon is known again
//! without ever trusting a reused pid. Each has a session of its own, one log file, and carries two variables in its
//! environment ([`MARK_ROOT`], [`MARK_PART`]) by which `down` finds even those whose record was lost. Never kills a
//! process by name.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// Set for every daemon: the sandbox's root.
pub const MARK_ROOT: &str = "MIGRATE_SANDBOX_ROOT";
/// Set for every daemon: its name.
pub const MARK_PART: &str = "MIGRATE_SANDBOX_PART";

/// How long a daemon has to end after SIGTERM; etcd and the API server need a few seconds to drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a condition is looked at: short, since most come true within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// A single look at a port may take this long before it counts as "not yet".
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A single look of [`wait_for`], which may be several requests.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// An `exec` takes microseconds; this is for a machine that is very busy.
const EXEC_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the daemons that serve are looked at while others are waited for.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often one may die until that is an error: on a machine whose disk or processors are very busy a part of
/// Kubernetes gives up where it could wait, and counts on whoever started it to do so again.
const MOST_DEATHS: u32 = 5;
/// Lines of a log that an error shows.
const LOG_TAIL_LINES: usize = 15;
/// Bytes read from the end of a log to find them.
const LOG_TAIL_BYTES: u64 = 16 * 1024;
/// Longest log line shown.
const LOG_LINE_CHARS: usize = 400;

/// How a daemon shows that it serves.
#[derive(Clone, Debug)]
pub enum Probe {
    /// It is enough that it runs.
    Alive,
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// Plain HTTP answers with any status below 500.
    Http(String),
    /// A Unix socket accepts a connection.
    Socket(PathBuf),
}

/// A process that goes on after the command that started it. It works in the root folder, so that it holds no other.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Unique; names its log and record.
    pub name: String,
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments. Never a secret: those go by file or `env`.
    pub args: Vec<String>,
    /// Added to the environment of `sandbox` itself.
    pub env: Vec<(String, String)>,
    /// The network namespace it runs in, or the host's.
    pub netns: Option<String>,
    /// When it counts as healthy.
    pub probe: Probe,
}

/// What `state/run/NAME.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks since boot (`/proc/PID/stat`, field 22): a pid alone may be another process by now.
    start_ticks: u64,
    /// Ticks count from a boot, so they mean nothing after another one.
    boot_id: String,
    command_digest: String,
}

/// What `status` shows of a daemon.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartStatus {
    /// The daemon's name.
    pub name: String,
    /// Its pid while it runs.
    pub pid: Option<i32>,
    /// It runs and its probe agrees.
    pub healthy: bool,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Daemon {
    /// A daemon on the host, alive when it runs.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Daemon {
        Daemon {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            netns: None,
            probe: Probe::Alive,
        }
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Daemon {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to its environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Daemon {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts it into a network namespace.
    pub fn netns(mut self, name: &str) -> Daemon {
        self.netns = Some(name.to_owned());
        self
    }

    /// Sets how it shows that it serves.
    pub fn probe(mut self, probe: Probe) -> Daemon {
        self.probe = probe;
        self
    }

    /// Starts it unless the same command already runs; a changed command replaces the old process.
    /// Returns whether a process was started. Does not wait until it serves: see [`Daemon::wait_ready`].
    pub fn start(&self, layout: &Layout) -> Result<bool> {
        let digest = self.digest()?;
        if let Some(record) = read_record(layout, &self.name) {
            if record.runs() && record.command_digest == digest {
                return Ok(false);
            }
            stop(layout, &self.name)?;
        }
        // One that was started just before its starter died has no record. Its children may carry its marks too, and
        // containerd's, the shims of running pods, have to live on.
        for stray in strays(layout.root(), Some(&self.name)).into_iter().filter(|pid| leads_session(*pid)) {
            end(stray)?;
        }
        let log = open_log(&layout.log(&self.name))?;
        let mut command = self.command();
        command
            .env(MARK_ROOT, layout.root())
            .env(MARK_PART, &self.name)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().into_diagnostic()?)
            .stderr(log);
        let child = command
            .spawn()
            .into_diagnostic()
            .wrap_err_with(|| format!("can't start {} ({})", self.name, self.program.display()))?;
        // A pid fits: the kernel's limit is 2^22.
        let pid = child.id() as i32;
        // One that has ended already has no ticks, and so does not run.
        let start_ticks = start_ticks(pid).unwrap_or_default();
        let record = Record { pid, start_ticks, boot_id: boot_id(), command_digest: digest };
        let path = record_path(layout, &self.name);
        write_atomically(&path, &serde_json::to_vec_pretty(&record).into_diagnostic()?)?;
        Ok(true)
    }

    /// Waits until its probe agrees. One that dies is started again, [`MOST_DEATHS`] times at most.
    ///
    /// # Errors
    /// With the end of its log, when it does not serve in time or dies too often.
    pub async fn wait_ready(&self, layout: &Layout, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        let mut deaths = 0;
        loop {
            self.revive(layout, &mut deaths)?;
            let problem = match self.check(layout).await {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if started.elapsed() > timeout {
                let seconds = started.elapsed().as_secs();
                bail!("{}: {problem} after {seconds} s{}", self.name, log_tail(&layout.log(&self.name)));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts it again if it has died, and says so; an error when it has died too often.
    fn revive(&self, layout: &Layout, deaths: &mut u32) -> Result<()> {
        if running(layout, &self.name).is_some() {
            return Ok(());
        }
        *deaths += 1;
        let tail = log_tail(&layout.log(&self.name));
        if *deaths >= MOST_DEATHS {
            bail!("{} has died {deaths} times{tail}", self.name);
        }
        eprintln!("{} has died and is started again{tail}", self.name);
        self.start(layout).map(drop)
    }

    /// Starts it and waits until it serves.
    pub async fn ensure(&self, layout: &Layout, timeout: Duration) -> Result<bool> {
        let started = self.start(layout)?;
        self.wait_ready(layout, timeout).await?;
        Ok(started)
    }

    /// What `status` shows; of one that has died also the end of its log.
    pub async fn status(&self, layout: &Layout) -> PartStatus {
        let mut problem = self.check(layout).await.err();
        let pid = running(layout, &self.name);
        if let (None, Some(problem)) = (pid, &mut problem) {
            problem.push_str(&log_tail(&layout.log(&self.name)));
        }
        PartStatus { name: self.name.clone(), pid, healthy: problem.is_none(), problem }
    }

    /// One look: does it run, and does it serve?
    async fn check(&self, layout: &Layout) -> Result<(), String> {
        if running(layout, &self.name).is_none() {
            return Err("not running".to_owned());
        }
        let look = probe(&self.probe);
        match tokio::time::timeout(PROBE_TIMEOUT, look).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
        }
    }

    /// `setsid nsenter --net=… PROGRAM ARGS`: both replace themselves, so the pid is the program's. `ip netns exec`
    /// would remount /sys, and the kubelet would find no cgroups.
    fn command(&self) -> Command {
        let mut command = Command::new("setsid");
        if let Some(netns) = &self.netns {
            command.arg("nsenter").arg(format!("--net=/run/netns/{netns}")).arg("--");
        }
        command.arg(&self.program).args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Tells commands apart without keeping what their environment says. The program's size and time are in it, so a
    /// rebuilt binary restarts its daemon.
    fn digest(&self) -> Result<String> {
        let program = fs::metadata(&self.program).into_diagnostic().wrap_err_with(|| {
            format!("the program of {} is missing: {}", self.name, self.program.display())
        })?;
        let changed = (program.len(), program.modified().ok());
        let text = format!("{:?}", (&self.program, changed, &self.args, &self.env, &self.netns));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        Ok(hex::encode(digest))
    }
}

/// Starts the daemons of each stage, and those of the next only when these serve: what a daemon needs is ready before
/// it starts, since not every one tries again (a kubelet without its containerd gives up).
pub async fn start_in_stages(layout: &Layout, stages: &[Vec<Daemon>], timeout: Duration) -> Result<()> {
    let mut earlier = Vec::new();
    for stage in stages {
        for daemon in stage {
            daemon.start(layout)?;
        }
        let ready = async {
            for daemon in stage {
                daemon.wait_ready(layout, timeout).await?;
            }
            Ok(())
        };
        while_kept(layout, &earlier, ready).await?;
        earlier.extend_from_slice(stage);
    }
    Ok(())
}

/// Does `work`, and meanwhile starts those of `daemons` again that die; see [`Daemon::wait_ready`].
///
/// # Errors
/// That of `work`, or the end of the log of a daemon that dies too often.
pub async fn while_kept<T>(
    layout: &Layout,
    daemons: &[Daemon],
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let keep = async {
        let mut deaths = vec![0; daemons.len()];
        loop {
            for (daemon, deaths) in daemons.iter().zip(&mut deaths) {
                if let Err(error) = daemon.revive(layout, deaths) {
                    return error;
                }
            }
            tokio::time::sleep(KEEP_INTERVAL).await;
        }
    };
    tokio::select! {
        done = work => done,
        error = keep => Err(error),
    }
}

impl Record {
    fn runs(&self) -> bool {
        self.boot_id == boot_id() && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// The pid of a daemon that runs.
pub fn running(layout: &Layout, name: &str) -> Option<i32> {
    read_record(layout, name).filter(Record::runs).map(|record| record.pid)
}

/// Stops a daemon by its record: TERM, wait, KILL of its group. Nothing to stop is fine.
pub fn stop(layout: &Layout, name: &str) -> Result<()> {
    if let Some(record) = read_record(layout, name)
        && record.runs()
    {
        end(record.pid).wrap_err_with(|| format!("can't stop {name}"))?;
    }
    match fs::remove_file(record_path(layout, name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).into_diagnostic(),
        _ => Ok(()),
    }
}

/// Ends one process by pid: TERM, wait, then KILL of the group it leads.
pub fn end(pid: i32) -> Result<()> {
    end_all(&[pid])
}

/// Ends processes together: TERM to all, wait, then KILL of what is left and of the groups they lead.
pub fn end_all(pids: &[i32]) -> Result<()> {
    signal_all(pids, Signal::TERM, STOP_TIMEOUT).or_else(|_| kill_all(pids))
}

/// Ends processes at once, by KILL.
pub fn kill_all(pids: &[i32]) -> Result<()> {
    signal_all(pids, Signal::KILL, STOP_TIMEOUT)
}

fn signal_all(pids: &[i32], signal: Signal, timeout: Duration) -> Result<()> {
    // With the start time: a pid that is free again may be another process's a moment later.
    let targets: Vec<(i32, u64)> = pids.iter().filter_map(|pid| Some((*pid, start_ticks(*pid)?))).collect();
    for id in targets.iter().filter_map(|(pid, _)| Pid::from_raw(*pid)) {
        // An error here means that it is gone already, or that it leads no group.
        if signal == Signal::KILL {
            let _ = kill_process_group(id, signal);
        }
        let _ = kill_process(id, signal);
    }
    let alive = || targets.iter().find(|(pid, ticks)| start_ticks(*pid) == Some(*ticks));
    if wait_blocking(timeout, || alive().is_none()) {
        return Ok(());
    }
    bail!("process {} does not end", alive().map_or(0, |(pid, _)| *pid))
}

/// Pids of all processes that carry this sandbox's marks (or those of one part), whatever the records say.
pub fn strays(root: &Path, part: Option<&str>) -> Vec<i32> {
    let root = format!("{MARK_ROOT}={}", root.display());
    let part = part.map(|name| format!("{MARK_PART}={name}"));
    let own = std::process::id() as i32;
    pids()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let environ = environ(*pid);
            let has = |mark: &str| environ.split(|byte| *byte == 0).any(|var| var == mark.as_bytes());
            has(&root) && part.as_deref().is_none_or(has)
        })
        .collect()
}

/// The environment of a process. In the middle of an `exec` it has none for a moment, though `spawn` has returned
/// (proc(5): the kernel sets `env_end`, as `arg_end`, last); that moment is waited for.
fn environ(pid: i32) -> Vec<u8> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    // Kernel threads and zombies have no program.
    let in_exec = || read("cmdline").is_empty() && fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    let mut environ = read("environ");
    if environ.is_empty() && in_exec() {
        wait_blocking(EXEC_TIMEOUT, || !in_exec());
        environ = read("environ");
    }
    environ
}

/// Waits until `condition` is true; its error says what is still missing.
pub async fn wait_for<F, Fut>(what: &str, timeout: Duration, condition: F) -> Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let started = Instant::now();
    loop {
        // One look must not use up the whole time: an API server whose etcd restarts keeps a request for a minute.
        let problem = match tokio::time::timeout(LOOK_TIMEOUT, condition()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => problem,
            Err(_) => format!("no answer within {} s", LOOK_TIMEOUT.as_secs()),
        };
        if started.elapsed() > timeout {
            bail!("{what}: not within {} s: {problem}", timeout.as_secs());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// An error with what has caused it: a client's own words are often no more than "can't connect".
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// This program, for daemons that are parts of it. Right even when it was rebuilt while it runs: the kernel then marks
/// the old file's path.
pub fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().into_diagnostic()?;
    let stripped = path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(stripped.unwrap_or(path))
}

/// Runs a command to its end and returns its stdout; its stderr is in the error.
pub fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let shown = || format!("`{} {}`", program.to_string_lossy(), args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .into_diagnostic()
        .wrap_err_with(|| format!("can't run {}", shown()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", shown(), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a file so that a reader sees the old or the new one, never a part. Only its owner may read it.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let dir = path.parent().ok_or_else(|| miette!("{} has no folder", path.display()))?;
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    };
    write().into_diagnostic().wrap_err_with(|| format!("can't write {}", path.display()))
}

/// The end of a log, to be appended to an error; empty when there is none.
pub fn log_tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        file.take(LOG_TAIL_BYTES).read_to_end(&mut text)
    });
    if read.is_err() || text.is_empty() {
        return format!(" (its log {} is empty)", path.display());
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    let tail: Vec<String> = tail
        .iter()
        .map(|line| format!("  | {}", line.chars().take(LOG_LINE_CHARS).collect::<String>()))
        .collect();
    format!("\nthe end of {}:\n{}", path.display(), tail.join("\n"))
}

async fn probe(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Alive => Ok(()),
        Probe::Tcp(address) => match tokio::net::TcpStream::connect(address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("no connection to {address} ({error})")),
        },
        Probe::Socket(path) => match tokio::net::UnixStream::connect(path).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("no connection to {} ({error})", path.display())),
        },
        Probe::Http(url) => match reqwest::get(url).await {
            Ok(response) if !response.status().is_server_error() => Ok(()),
            Ok(response) => Err(format!("{url} answers {}", response.status())),
            Err(error) => Err(format!("{url} does not answer ({})", with_causes(&error.without_url()))),
        },
    }
}

/// Blocking, since `down` stops daemons one after another and nothing else waits.
pub fn wait_blocking(timeout: Duration, done: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > timeout {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// Start time of a live process; a zombie counts as gone.
fn start_ticks(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    if matches!(fields.first()?.as_str(), "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Whether a process leads its session, as every daemon does.
fn leads_session(pid: i32) -> bool {
    stat(pid).and_then(|fields| fields.get(3)?.parse().ok()) == Some(pid)
}

/// The fields of `/proc/PID/stat` from the third (state) on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything: count fields after the last one.
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn record_path(layout: &Layout, name: &str) -> PathBuf {
    layout.run().join(format!("{name}.json"))
}

fn read_record(layout: &Layout, name: &str) -> Option<Record> {
    let text = fs::read(record_path(layout, name)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't open the log {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        let layout = Layout::at(dir, dir);
        layout.create().unwrap();
        layout
    }

    #[tokio::test]
    async fn a_daemon_is_started_once_and_stopped_by_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let daemon = Daemon::new("sleeper", "/bin/sleep").args(["600"]);
        assert!(daemon.ensure(&layout, Duration::from_secs(5)).await.unwrap());
        let pid = running(&layout, "sleeper").unwrap();
        assert!(!daemon.start(&layout).unwrap(), "the same command runs");
        assert_eq!(running(&layout, "sleeper"), Some(pid));

        let changed = Daemon::new("sleeper", "/bin/sleep").args(["601"]);
        assert!(changed.start(&layout).unwrap(), "another command replaces it");
        assert!(start_ticks(pid).is_none());
        stop(&layout, "sleeper").unwrap();
        assert_eq!(running(&layout, "sleeper"), None);
        assert!(strays(layout.root(), None).is_empty());
    }

    #[tokio::test]
    async fn a_daemon_without_a_record_is_found_by_its_marks() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let daemon = Daemon::new("orphan", "/bin/sleep").args(["600"]);
        daemon.ensure(&layout, Duration::from_secs(5)).await.unwrap();
        let pid = running(&layout, "orphan").unwrap();
        fs::remove_file(record_path(&layout, "orphan")).unwrap();
        assert_eq!(strays(layout.root(), Some("orphan")), [pid]);
        end(pid).unwrap();
        assert!(strays(layout.root(), None).is_empty());
    }

    #[tokio::test]
    async fn a_daemon_is_only_started_when_those_of_the_stage_before_serve() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let socket = dir.path().join("first.sock");
        let sleep = |name: &str| Daemon::new(name, "/bin/sleep").args(["600"]);
        let stages = [vec![sleep("first").probe(Probe::Socket(socket.clone()))], vec![sleep("second")]];
        let started = start_in_stages(&layout, &stages, Duration::from_secs(30));
        let serve = async {
            let first = || async { running(&layout, "first").map(drop).ok_or_else(|| "not yet".to_owned()) };
            wait_for("the first runs", Duration::from_secs(30), first).await.unwrap();
            assert_eq!(running(&layout, "second"), None, "the first doesn't serve yet");
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        let (result, _listener) = tokio::join!(started, serve);
        result.unwrap();
        for name in ["first", "second"] {
            assert!(running(&layout, name).is_some());
            stop(&layout, name).unwrap();
        }
    }

    #[tokio::test]
    async fn a_daemon_that_dies_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let daemon = Daemon::new("failing", "/bin/sh")
            .args(["-c", "echo the disk is on fire; exit 3"])
            .probe(Probe::Socket(dir.path().join("never.sock")));
        let error = match daemon.ensure(&layout, Duration::from_secs(5)).await {
            Err(error) => format!("{error:?}"),
            Ok(_) => panic!("it can't be ready"),
        };
        assert!(error.contains("the disk is on fire"), "{error}");
        let tries = error.matches("the disk is on fire").count();
        assert_eq!(tries, MOST_DEATHS as usize, "a start for each death that is borne: {error}");
    }

    #[tokio::test]
    async fn what_dies_while_others_are_waited_for_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let daemon = Daemon::new("mortal", "/bin/sleep").args(["600"]);
        daemon.ensure(&layout, Duration::from_secs(5)).await.unwrap();
        let first = running(&layout, "mortal").unwrap();
        kill_all(&[first]).unwrap();
        let another = wait_for("another runs", Duration::from_secs(30), || async {
            running(&layout, "mortal").filter(|pid| *pid != first).map(drop).ok_or_else(|| "none".to_owned())
        });
        while_kept(&layout, std::slice::from_ref(&daemon), another).await.unwrap();
        stop(&layout, "mortal").unwrap();
    }
}
