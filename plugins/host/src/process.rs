//! One process of a plugin, behind its guard. Owns the process group; nothing of it outlives this value.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::limits::{GUARD_GRACE, SILENCE};
use crate::pulse;

/// What a plugin gets of the environment without being asked. No credentials are among them.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The beginning of locale variables, which are passed on too.
const LOCALE: &[u8] = b"LC_";

/// Time between two looks at a process that is about to end.
const LOOK: Duration = Duration::from_millis(1);

/// The program that guards: see [`guard`](crate::guard). `migrate plugin guard`, in the product.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The program.
    pub program: PathBuf,
    /// What comes before the guard's own arguments.
    pub args: Vec<OsString>,
}

/// What is started for a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables of this process that it gets beyond those that all get.
    pub env: BTreeSet<String>,
    /// Most data that one of its processes may have.
    pub memory_bytes: u64,
}

/// A running plugin.
pub(crate) struct Process {
    child: Child,
    group: Option<Pid>,
}

/// Its streams.
pub(crate) struct Streams {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

impl Process {
    /// Starts `command` in `dir`.
    ///
    /// # Errors
    /// When the guard can't be started. That the plugin can't is told by its end.
    pub(crate) fn start(guard: &Guard, command: &Launch, dir: &Path) -> std::io::Result<(Self, Streams)> {
        let mut child = Command::new(&guard.program)
            .args(&guard.args)
            .arg(pulse::path()?)
            .arg(SILENCE.as_secs().to_string())
            .arg(command.memory_bytes.to_string())
            .arg(&command.program)
            .args(&command.args)
            .current_dir(dir)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_allowed(name, &command.env)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = Self { child, group };
        match streams {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((process, Streams { stdin, stdout, stderr })),
            _ => Err(std::io::Error::other("the process has no streams")),
        }
    }

    /// Asks everything in the group to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end, at most for `grace`.
    pub(crate) async fn wait(&mut self, grace: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(grace, self.child.wait()).await.ok()?.ok()
    }

    /// Ends everything and returns when it has ended. Nobody may read the plugin's stderr any more: by
    /// that the guard knows that it is to end all, also what the group doesn't hold any more.
    pub(crate) fn end(&mut self) {
        let deadline = Instant::now() + GUARD_GRACE;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        if !self.has_ended() {
            // The guard itself is stopped or gone.
            self.signal(Signal::KILL);
            let deadline = Instant::now() + GUARD_GRACE;
            while !self.has_ended() && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // Until its leader is reaped, the group's number is nobody else's.
        if self.child.id().is_some()
            && let Some(group) = self.group
        {
            let _ = kill_process_group(group, signal);
        }
    }
}

fn is_allowed(name: &OsStr, more: &BTreeSet<String>) -> bool {
    name.as_encoded_bytes().starts_with(LOCALE)
        || name.to_str().is_some_and(|name| ENVIRONMENT.contains(&name) || more.contains(name))
}

/// How it ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    // What the guard can't die of itself, because Rust or it handles the signal, it says as a shell does.
    let said = status.code().map(|code| code - 128);
    let said = said.filter(|signal| HANDLED.iter().any(|handled| handled.as_raw() == *signal));
    let signal = status.signal().or(said);
    match (signal, status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}{}", named(signal)),
        (None, Some(0)) => "ended".to_owned(),
        (None, code) => format!("ended with exit code {}", code.unwrap_or_default()),
    }
}

/// Signals that the guard does not die of.
const HANDLED: &[Signal] = &[Signal::BUS, Signal::SEGV, Signal::PIPE, Signal::TERM];

/// Names of the signals that a process dies of, as they are known.
const SIGNALS: &[(Signal, &str)] = &[
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::TERM, "SIGTERM"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
    (Signal::SYS, "SIGSYS"),
];

fn named(signal: i32) -> String {
    let known = SIGNALS.iter().find(|(known, _)| known.as_raw() == signal);
    known.map(|(_, name)| format!(" ({name})")).unwrap_or_default()
}
