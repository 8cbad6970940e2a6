//! Who may write: the process that holds a project, as others see it.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use migrate_plugin_api::RunId;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Where the system tells of processes.
const PROC: &str = "/proc";

/// The process that holds the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// Process ID; 0 when the holder could not be told.
    pub pid: u32,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Since when.
    pub since: Timestamp,
    /// Its machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whose process it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// When it last said that it works, if that is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// When the process was started, in clock ticks since boot: tells it from a later one with
    /// the same ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process_start: Option<u64>,
    /// The boot of its machine and its space of process IDs: where `pid` means this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
}

/// What can be told of a holder's process from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It is there, and can run.
    Alive,
    /// It is there, and was stopped (SIGSTOP, a debugger): it does nothing until it is continued.
    Stopped,
    /// It is no more.
    Dead,
    /// It runs on another machine, or the system doesn't say.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("a process that has not said who it is");
        }
        write!(f, "process {}", self.pid)?;
        if let Some(user) = &self.user {
            write!(f, " of {user}")?;
        }
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        if let Some(run) = &self.run {
            write!(f, ", run {run}")?;
        }
        write!(f, ", since {}", self.since)?;
        match (self.pulse(), self.silent_since) {
            (Pulse::Stopped, _) => f.write_str("; it is stopped (SIGSTOP) and goes on when it is continued"),
            (Pulse::Dead, _) => f.write_str("; it is dead"),
            (Pulse::Alive, Some(at)) => {
                write!(f, "; it is alive and stuck: it last renewed its lease at {at}")
            }
            (Pulse::Unknown, Some(at)) => {
                write!(f, "; it is dead, stuck or cut off: it last renewed its lease at {at}")
            }
            (Pulse::Alive | Pulse::Unknown, None) => Ok(()),
        }
    }
}

impl Holder {
    /// This process, for `run`.
    pub(crate) fn here(run: &RunId) -> Self {
        let pid = std::process::id();
        Self {
            pid,
            run: Some(run.clone()),
            since: Timestamp::now(),
            host: host_name(),
            user: ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()),
            silent_since: None,
            process_start: stat(Path::new(PROC), pid).map(|(_, start)| start),
            place: place(),
        }
    }

    /// A process that holds the lock and has not said who it is.
    pub(crate) fn unknown() -> Self {
        Self {
            pid: 0,
            run: None,
            since: Timestamp::now(),
            host: None,
            user: None,
            silent_since: None,
            process_start: None,
            place: None,
        }
    }

    /// How its process is.
    pub fn pulse(&self) -> Pulse {
        self.pulse_in(Path::new(PROC))
    }

    fn pulse_in(&self, proc: &Path) -> Pulse {
        let here = place();
        if self.pid == 0 || here.is_none() || self.place != here {
            return Pulse::Unknown;
        }
        match stat(proc, self.pid) {
            Some((_, start)) if self.process_start.is_some_and(|known| known != start) => Pulse::Dead,
            Some(('Z' | 'X', _)) => Pulse::Dead,
            Some(('T' | 't', _)) => Pulse::Stopped,
            Some(_) => Pulse::Alive,
            // Of others' processes nothing may be seen there (proc(5), `hidepid`).
            None if is_gone(self.pid) => Pulse::Dead,
            None => Pulse::Unknown,
        }
    }
}

/// State and start of a process: fields 3 and 22 of `/proc/PID/stat`; the second, in brackets, can
/// hold anything.
fn stat(proc: &Path, pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.nth(18)?.parse().ok()?))
}

/// Whether no process has this ID. One that belongs to somebody else, whom nothing may be sent, is there.
fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let ids = std::fs::read_link(Path::new("/proc/self/ns/pid")).ok()?;
    Some(format!("{} {}", boot.trim(), ids.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder::here(&RunId::new("r").unwrap())
    }

    #[test]
    fn a_dead_a_later_and_a_foreign_process_are_told_apart() {
        let here = holder();
        assert_eq!(here.pulse(), Pulse::Alive);
        let later = Holder { process_start: here.process_start.map(|ticks| ticks + 1), ..here.clone() };
        assert_eq!(later.pulse(), Pulse::Dead);
        let foreign = Holder { place: Some("another boot".to_owned()), ..later };
        assert_eq!(foreign.pulse(), Pulse::Unknown);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_stopped_process_is_told_from_a_dead_one() {
        use rustix::process::{Pid, Signal, kill_process};
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let start = stat(Path::new(PROC), child.id()).map(|(_, start)| start);
        let other = Holder { pid: child.id(), process_start: start, ..holder() };
        assert_eq!(other.pulse(), Pulse::Alive);
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
        while other.pulse() == Pulse::Alive {
            std::thread::yield_now();
        }
        assert_eq!(other.pulse(), Pulse::Stopped);
        assert!(other.to_string().ends_with("; it is stopped (SIGSTOP) and goes on when it is continued"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.pulse(), Pulse::Dead);
    }

    /// As on a machine where `/proc` shows others' processes to nobody.
    #[test]
    fn a_process_that_cant_be_seen_is_not_taken_for_dead() {
        let nothing = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let start = stat(Path::new(PROC), child.id()).map(|(_, start)| start);
        let other = Holder { pid: child.id(), process_start: start, ..holder() };
        assert_eq!(other.pulse_in(nothing.path()), Pulse::Unknown);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.pulse_in(nothing.path()), Pulse::Dead);
    }

    #[test]
    fn what_is_known_of_a_holder_is_said() {
        let at: Timestamp = "2026-01-31T23:59:59Z".parse().unwrap();
        let known = Holder {
            pid: 7,
            since: at,
            host: Some("bastion".to_owned()),
            user: Some("ada".to_owned()),
            place: Some("another boot".to_owned()),
            ..holder()
        };
        let silent = Holder { silent_since: Some(at), ..known.clone() };
        let dead = Holder { place: place(), process_start: Some(0), ..known.clone() };
        let stuck = Holder { silent_since: Some(at), since: at, pid: std::process::id(), ..holder() };
        let stuck = stuck.to_string().replace(&std::process::id().to_string(), "PID");
        let stuck = &stuck[stuck.find(", run").unwrap()..];
        let said = [known.to_string(), silent.to_string(), dead.to_string(), stuck.to_owned()];
        insta::assert_snapshot!(said.join("\n"), @r"
        process 7 of ada on bastion, run r, since 2026-01-31T23:59:59Z
        process 7 of ada on bastion, run r, since 2026-01-31T23:59:59Z; it is dead, stuck or cut off: it last renewed its lease at 2026-01-31T23:59:59Z
        process 7 of ada on bastion, run r, since 2026-01-31T23:59:59Z; it is dead
        , run r, since 2026-01-31T23:59:59Z; it is alive and stuck: it last renewed its lease at 2026-01-31T23:59:59Z
        ");
        assert_eq!(Holder::unknown().to_string(), "a process that has not said who it is");
    }
}
