//! One command of this machine: started in a process group of its own, listened to, ended with all
//! that it has started.
//!
//! Invariants: no shell; nothing of this process' environment goes along unless it is named; when
//! [`Process::run`] returns or is dropped, nothing is left of the group.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use migrate_plugin_api::{StepContext, StepError};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::mask::Mask;
use crate::process_group::{Record, is_alive};

/// After a stop was asked for, a command and all that it has started may take this long to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// Time between two looks at a group that is about to end.
const LOOK: Duration = Duration::from_millis(20);

/// What a command has written is read within this once it has ended; whoever holds its pipes longer
/// is a process that it left behind.
const DRAIN: Duration = Duration::from_secs(1);

/// Longest line of stderr that is logged in one piece.
const LINE_BYTES: usize = 4096;

/// Most lines of stderr that are logged, so that a command in a loop doesn't drown the log.
const MAX_LINES: usize = 2000;

/// Variables that every command gets, where they are set. None of them holds a secret.
const INHERITED: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"];

/// A command that is ready to be started.
pub(super) struct Process<'a> {
    /// As its author wrote it.
    pub name: &'a str,
    pub program: PathBuf,
    pub arguments: &'a [String],
    pub directory: PathBuf,
    /// Beside what is inherited.
    pub environment: Vec<(String, String)>,
    /// Variables of this process that go along.
    pub inherited: &'a [String],
    pub stdin: Option<File>,
    /// Where its process group is recorded, if it is.
    pub record: Option<&'a Record>,
    pub mask: &'a Mask,
    /// So much of stdout is kept.
    pub kept_bytes: usize,
}

/// How a command ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub status: ExitStatus,
    /// The first of what it printed, without secrets; one trailing line break less.
    pub stdout: String,
    /// Whether it printed more.
    pub is_cut: bool,
    /// The last line of its stderr, without secrets and control characters.
    pub last_words: Option<String>,
}

/// Why a command didn't end by itself.
#[derive(Debug)]
pub(super) enum Failure {
    /// It never ran.
    NotStarted(StepError),
    /// It ran, and was stopped or lost.
    Stopped(StepError),
}

/// `exit code 3`, `signal 9`.
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

impl Process<'_> {
    /// Runs it to its end, and logs what it writes to stderr.
    pub(super) async fn run(self, ctx: &StepContext) -> Result<Ended, Failure> {
        let (name, record) = (self.name, self.record);
        let (mut child, mut group) = self.start()?;
        let lost = |e: std::io::Error| {
            Failure::Stopped(StepError::transient(format!("lost sight of `{name}`")).with_source(e))
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let limit = self.kept_bytes + self.mask.margin_bytes();
        let reading = async { tokio::join!(kept(stdout, ctx, limit), logged(stderr, ctx, self.mask)) };
        tokio::pin!(reading);
        let mut read = None;
        let status = loop {
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => {
                    group.stop(&mut child).await;
                    return Err(Failure::Stopped(StepError::cancelled()));
                }
                status = child.wait() => break status.map_err(lost)?,
                done = &mut reading, if read.is_none() => read = Some(done),
            }
        };
        // What it has left behind in its group is not part of the node any more.
        if read.is_none() {
            read = tokio::time::timeout(DRAIN, &mut reading).await.ok();
        }
        let is_left = group.is_alive();
        group.kill();
        if let Some(record) = record.filter(|_| !is_left) {
            record.withdraw();
        }
        if read.is_none() {
            read = tokio::time::timeout(DRAIN, &mut reading).await.ok();
        }
        let Some(((printed, is_more), last_words)) = read else {
            let message = format!("a process that `{name}` left behind still holds its output");
            let hint = "let it write to a file or to /dev/null";
            return Err(Failure::Stopped(StepError::permanent(message).with_hint(hint)));
        };
        let (mut stdout, is_cut) = self.mask.cut(&String::from_utf8_lossy(&printed), self.kept_bytes);
        let is_cut = is_cut || is_more;
        if !is_cut && stdout.ends_with('\n') {
            stdout.pop();
        }
        Ok(Ended { status, stdout, is_cut, last_words })
    }

    /// Starts it, so that it is known again also where this process is killed.
    fn start(&self) -> Result<(Child, Group), Failure> {
        let name = self.name;
        let failed = |e| StepError::permanent(format!("failed to start `{name}`")).with_source(e);
        self.record.map_or(Ok(()), Record::announce).map_err(|e| Failure::NotStarted(failed(e)))?;
        let child = self.spawn().map_err(|e| {
            if let Some(record) = self.record {
                record.withdraw();
            }
            Failure::NotStarted(failed(e))
        })?;
        let group = Group::of(&child);
        if let (Some(record), Some(leader)) = (self.record, group.0) {
            // Where that fails, it is ended again; it may have done something by then.
            record.started(leader).map_err(|e| Failure::Stopped(failed(e)))?;
        }
        Ok((child, group))
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let is_inherited = |name: &str| {
            INHERITED.contains(&name) || name.starts_with("LC_") || self.inherited.iter().any(|n| n == name)
        };
        let stdin = match &self.stdin {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        Command::new(&self.program)
            .args(self.arguments)
            .current_dir(&self.directory)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_inherited)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// A process group that does not outlive this value.
struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads.
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Asks, waits, and then ends it.
    async fn stop(&mut self, child: &mut Child) {
        if let Some(group) = self.0 {
            // Failures say that nobody is left.
            let _ = kill_process_group(group, Signal::TERM);
            let all_end = async {
                let _ = child.wait().await;
                // What it has started was asked to end too, and may still be about it.
                while is_alive(group) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(GRACE, all_end).await;
        }
        self.kill();
        let _ = child.wait().await;
    }

    fn is_alive(&self) -> bool {
        self.0.is_some_and(is_alive)
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first `limit` bytes of `stream` and whether there were more, read to its end.
async fn kept(stream: Option<impl AsyncRead + Unpin>, ctx: &StepContext, limit: usize) -> (Vec<u8>, bool) {
    let (mut bytes, mut is_more) = (Vec::new(), false);
    let Some(mut stream) = stream else { return (bytes, is_more) };
    let mut buffer = vec![0; 16 * 1024];
    // A pipe that breaks is one that ends; the exit code says what it means.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        ctx.heartbeat();
        let room = (limit - bytes.len()).min(count);
        bytes.extend_from_slice(&buffer[..room]);
        is_more |= room < count;
    }
    (bytes, is_more)
}

/// Logs `stream` line by line and returns the last one.
async fn logged(stream: Option<impl AsyncRead + Unpin>, ctx: &StepContext, mask: &Mask) -> Option<String> {
    let mut stream = stream?;
    let mut log = Log { ctx, mask, line: Vec::new(), lines: 0, last: None };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        // Also of what is no whole line, or is not kept.
        ctx.heartbeat();
        log.take(&buffer[..count]);
    }
    log.end_line();
    log.last
}

struct Log<'a> {
    ctx: &'a StepContext,
    mask: &'a Mask,
    line: Vec<u8>,
    lines: usize,
    last: Option<String>,
}

impl Log<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let longest = LINE_BYTES + self.mask.margin_bytes();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = longest.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(&part[..room]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let (text, _) = self.mask.cut(&String::from_utf8_lossy(&self.line), LINE_BYTES);
        self.line.clear();
        // It goes to a terminal, which it must not steer.
        let text = text.trim_end().replace(char::is_control, " ");
        if text.is_empty() {
            return;
        }
        match self.lines {
            0..MAX_LINES => self.ctx.info(&text),
            MAX_LINES => {
                self.ctx.warn(format!("more than {MAX_LINES} lines on stderr; the rest is not kept"))
            }
            _ => {}
        }
        self.lines += 1;
        self.last = Some(text);
    }
}

/// Where `program` is: below `project_dir` if it is written with a `/`, else on PATH.
///
/// # Errors
/// `Permanent` when nothing there can be run.
pub(super) fn find(program: &str, project_dir: &Path) -> Result<PathBuf, StepError> {
    find_on(program, project_dir, std::env::var_os("PATH"))
}

fn find_on(program: &str, project_dir: &Path, path: Option<OsString>) -> Result<PathBuf, StepError> {
    if program.contains('/') {
        let file = project_dir.join(program);
        // A program is started in a folder of its own: the name must hold there too.
        let file = std::path::absolute(&file).unwrap_or(file);
        return match file.metadata() {
            Ok(_) if is_runnable(&file) => Ok(file),
            Ok(_) => Err(StepError::permanent(format!("`{program}` can't be run"))
                .with_hint(format!("chmod +x {}", file.display()))),
            Err(e) => {
                Err(StepError::permanent(format!("there is no `{program}` in the project folder"))
                    .with_source(e))
            }
        };
    }
    let folders = path.iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
    folders
        .map(|folder| folder.join(program))
        .find(|file| is_runnable(file))
        .ok_or_else(|| StepError::permanent(format!("there is no program `{program}` on PATH")))
}

fn is_runnable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_project_and_on_path_only() {
        let project = tempfile::tempdir().unwrap();
        std::fs::write(project.path().join("plain"), "").unwrap();
        let find = |program: &str| find_on(program, project.path(), Some("/usr/bin:/bin:relative:".into()));
        assert!(find("sh").unwrap().ends_with("sh"));
        let refused = |program: &str| find(program).unwrap_err().message;
        assert_eq!(refused("./plain"), "`./plain` can't be run");
        assert_eq!(refused("./none"), "there is no `./none` in the project folder");
        assert_eq!(refused("plain"), "there is no program `plain` on PATH");
        assert_eq!(refused(""), "there is no program `` on PATH");
    }
}
