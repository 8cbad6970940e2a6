//! The guard: a small process between the host and a plugin, that lets nothing of the plugin outlive it.
//!
//! Started by the host as the leader of a new process group, it limits itself (and so the plugin), starts
//! the plugin with its own stdin, stdout and stderr, and ends as the plugin ends. Invariants:
//!
//! - When nobody reads the plugin's stderr any more, which is so at the very moment of the host's death,
//!   every process that came of the plugin is killed. So a killed host leaves no plugin that goes on
//!   with work which the next `migrate resume` begins again.
//! - When the host gives no sign of life for some seconds, because it is stopped (Ctrl-Z, SIGSTOP) and can't
//!   renew its lease, the same is done, before another host may take the lease.
//! - When the plugin ends, whatever it left behind is killed first. On Linux that includes processes that
//!   left the group or made themselves daemons: the guard is their reaper. Where the host has asked the group to
//!   end, those in it have [`TERM_GRACE`] to do so by themselves.
//!
//! It keeps none of the other two streams, so that their ends are the plugin's alone, and reads and writes
//! none.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getrlimit, kill_process, setrlimit, wait,
};

use crate::limits::TERM_GRACE;

/// Largest core dump, in bytes. Not 0: a kernel that pipes core dumps into a program ignores every limit
/// but 1, which means "none" (Linux, `fs/coredump.c`). A file of one byte is none either.
const CORE_BYTES: u64 = 1;

/// Rounds of killing: each ends everything that is found, so that only what forks faster than it is
/// killed survives one.
const MAX_ROUNDS: u32 = 200;

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(2);

/// Time between two looks at a group that is about to end.
const LOOK: Duration = Duration::from_millis(20);

/// Tries to start a file that is busy, and the time between two of them: a second in all.
const MAX_BUSY: u32 = 50;

/// See [`MAX_BUSY`].
const BUSY: Duration = Duration::from_millis(20);

/// Exit code for "could not start the plugin", as a shell has it.
const NOT_STARTED: u8 = 127;

/// Exit code for "killed, because nobody reads any more, or nobody is known to live".
const DESERTED: i32 = 137;

/// Instead of a pulse's path: there is none.
pub(crate) const NO_PULSE: &str = "-";

/// How often the pulse is felt in the time that the host may be silent.
const LOOKS: u32 = 10;

/// Whether the plugin was killed because the host was silent.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Runs `PULSE SECONDS MEMORY_BYTES PROGRAM ARGS…`: PULSE is a file whose content changes as long as the host
/// works, or `-`; SECONDS is how long it may stay the same. To be called first of all in a process: no other
/// thread may be there.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match guard(args) {
        Ok(status) => leave(status),
        Err(message) => {
            complain(&message);
            ExitCode::from(NOT_STARTED)
        }
    }
}

// The host reads it as the plugin's stderr, if it is still there.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

fn guard(mut args: impl Iterator<Item = OsString>) -> Result<WaitStatus, String> {
    let pulse = args.next();
    let mut number = || args.next().and_then(|text| text.to_str()?.parse::<u64>().ok());
    let (Some(pulse), Some(seconds), Some(memory), Some(program)) = (pulse, number(), number(), args.next())
    else {
        return Err("usage: guard PULSE SECONDS MEMORY_BYTES PROGRAM ARGS…".to_owned());
    };
    let silence = Duration::from_secs(seconds);
    let pulse = (pulse != NO_PULSE).then(|| Pulse::of(&pulse, silence)).transpose()?;
    limit(Resource::Core, CORE_BYTES)?;
    limit(Resource::Data, memory)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(getpid()))
        .map_err(|error| format!("failed to become the reaper: {error}"))?;
    let mut sigterm = Sigterm::survive()?;
    let args: Vec<OsString> = args.collect();
    let child = start(Command::new(&program).args(args));
    let child = child.map_err(|error| format!("failed to start {}: {error}", program.display()))?;
    let plugin = Pid::from_child(&child);
    let_go().map_err(|error| format!("failed to let go of stdin and stdout: {error}"))?;
    std::thread::spawn(move || {
        until_deserted(pulse);
        end_all();
        if SILENT.load(Ordering::SeqCst) {
            // Only now: a pipe that is full waits for who does not read.
            complain(&format!("migrate gave no sign of life for {seconds} s: the plugin was killed"));
        }
        std::process::exit(DESERTED);
    });
    let status = wait_for(plugin);
    while SILENT.load(Ordering::SeqCst) {
        // The other thread says so, and ends this process.
        std::thread::park();
    }
    let status = status?;
    if sigterm.has_come() {
        wait_for_group();
    }
    end_all();
    Ok(status)
}

/// Starts the plugin. A file that was just written may still be open for writing in a process that another
/// thread is about to start (<https://github.com/golang/go/issues/22315>): that passes.
fn start(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..MAX_BUSY {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY),
            started => return started,
        }
    }
    command.spawn()
}

/// Lowers a limit, never raises one.
fn limit(resource: Resource, bytes: u64) -> Result<(), String> {
    let hard = getrlimit(resource).maximum.map_or(bytes, |hard| hard.min(bytes));
    let limit = Rlimit { current: Some(hard), maximum: Some(hard) };
    setrlimit(resource, limit).map_err(|error| format!("failed to set {resource:?}: {error}"))
}

/// The host asks the whole group to end; the guard has to see to it that the others do. What is
/// started later has the default again.
struct Sigterm {
    runtime: tokio::runtime::Runtime,
    listener: tokio::signal::unix::Signal,
}

impl Sigterm {
    fn survive() -> Result<Self, String> {
        let failed = |error| format!("failed to handle SIGTERM: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let listener = {
            let _in = runtime.enter();
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?
        };
        Ok(Self { runtime, listener })
    }

    /// Whether one has come by now. A group gets its signal as a whole, before any of it can be seen to end by it.
    fn has_come(&mut self) -> bool {
        let listener = &mut self.listener;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                come = listener.recv() => come.is_some(),
                // Once the runtime has looked.
                () = tokio::task::yield_now() => false,
            }
        })
    }
}

/// Leaves stdin and stdout to the plugin.
fn let_go() -> std::io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// The host's sign of life, as it is felt.
struct Pulse {
    file: File,
    silence: Duration,
    last: [u8; 8],
    since: Instant,
    looked: Instant,
}

impl Pulse {
    fn of(path: &OsString, silence: Duration) -> Result<Self, String> {
        let file = File::open(path)
            .map_err(|error| format!("failed to open migrate's pulse {}: {error}", path.display()))?;
        Ok(Self { file, silence, last: [0; 8], since: Instant::now(), looked: Instant::now() })
    }

    /// Whether there was none for too long. Time in which the whole machine sleeps doesn't count, nor does time
    /// in which this process was frozen: the host slept as well, and sees to its lease when it wakes.
    fn is_gone(&mut self) -> bool {
        let mut now = self.last;
        // What can't be read doesn't change.
        let _ = self.file.read_exact_at(&mut now, 0);
        let overslept = self.looked.elapsed() >= self.silence / 2;
        self.looked = Instant::now();
        if now != self.last || overslept {
            (self.last, self.since) = (now, self.looked);
        }
        self.since.elapsed() >= self.silence
    }
}

/// Returns when nobody reads stderr, or the host is silent.
fn until_deserted(mut pulse: Option<Pulse>) {
    let stderr = rustix::stdio::stderr();
    let between = pulse.as_ref().and_then(|pulse| Timespec::try_from(pulse.silence / LOOKS).ok());
    loop {
        if pulse.as_mut().is_some_and(Pulse::is_gone) {
            SILENT.store(true, Ordering::SeqCst);
            return;
        }
        let mut fds = [PollFd::new(&stderr, PollFlags::empty())];
        match poll(&mut fds, between.as_ref()) {
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) => return,
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            // Without being able to look, nothing may run.
            Err(_) => return,
        }
    }
}

/// Waits for the end of `plugin`, and for that of others that come by.
fn wait_for(plugin: Pid) -> Result<WaitStatus, String> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == plugin => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("failed to wait for the plugin: {error}")),
        }
    }
}

/// Those in the group were asked to end, as the plugin was, and may still be about it.
fn wait_for_group() {
    let deadline = Instant::now() + TERM_GRACE;
    while Instant::now() < deadline && has_group() {
        std::thread::sleep(LOOK);
    }
}

/// Kills and reaps everything that is left.
fn end_all() {
    for _ in 0..MAX_ROUNDS {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // Nobody is left.
                Err(_) => return,
            }
        }
        for pid in descendants() {
            // It may just have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(ROUND);
    }
}

/// Everybody below this process: orphans are its own children.
#[cfg(target_os = "linux")]
fn descendants() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let family: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![getpid().as_raw_nonzero().get()];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(family.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

#[cfg(target_os = "linux")]
fn parent_of(pid: i32) -> Option<i32> {
    stat(pid, 1)?.parse().ok()
}

/// Whether somebody else is at work in the group that the host asks to end.
#[cfg(target_os = "linux")]
fn has_group() -> bool {
    let own = rustix::process::getpgrp().as_raw_nonzero().get().to_string();
    let is_in = |pid: i32| {
        stat(pid, 2).as_ref() == Some(&own) && stat(pid, 0).is_some_and(|state| !matches!(&*state, "Z" | "X"))
    };
    descendants().into_iter().any(|pid| is_in(pid.as_raw_nonzero().get()))
}

/// `/proc/PID/stat`: `PID (NAME) STATE PARENT GROUP …`, where NAME may hold anything; `at` counts from STATE.
#[cfg(target_os = "linux")]
fn stat(pid: i32, at: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(at).map(str::to_owned)
}

/// Where nobody can be found, the host kills the group.
#[cfg(not(target_os = "linux"))]
fn descendants() -> Vec<Pid> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn has_group() -> bool {
    false
}

/// Ends as the plugin did.
fn leave(status: WaitStatus) -> ExitCode {
    if let Some(signal) = status.terminating_signal() {
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = kill_process(getpid(), signal);
        }
        // A signal that Rust ignores or handles (SIGPIPE, SIGSEGV, SIGBUS) or that is handled here (SIGTERM):
        // as a shell says it.
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
