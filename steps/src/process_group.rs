//! Process groups of this machine, as `/proc` shows them: one is known again after its leader, or `migrate`
//! itself, has ended.
//!
//! Invariants: a number that was given anew is not taken for the group that had it before; that a process may
//! have been started is recorded before it is. Where there is no `/proc`, nothing is recorded.

use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// What is known of the processes of an earlier attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    Ended,
    Alive,
    /// `migrate` was killed in the moment in which it started them.
    Unclear,
}

/// Where it is recorded which process group is an attempt's.
pub(crate) struct Record(PathBuf);

/// Its content.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// Which start of the machine it was.
    boot: String,
    /// `None` until it is started.
    leader: Option<Leader>,
}

/// Numbers are given anew, so that when it began is part of who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Leader {
    id: i32,
    /// In ticks since the machine was started.
    began: u64,
}

impl Record {
    /// Beside `input`, the standard input of the attempt.
    pub(crate) fn beside(input: &Path) -> Self {
        Self(input.with_extension("group"))
    }

    /// A process is about to be started.
    pub(crate) fn announce(&self) -> std::io::Result<()> {
        self.write(None)
    }

    /// `leader`, which is not waited for yet, was started, and leads a group.
    pub(crate) fn started(&self, leader: Pid) -> std::io::Result<()> {
        match Process::read(leader.as_raw_nonzero().get()) {
            Some(Process { id, began, .. }) => self.write(Some(Leader { id, began })),
            None => Ok(()),
        }
    }

    /// Nothing was started, or nothing of it is left.
    pub(crate) fn withdraw(&self) {
        // What stays is found to be no more.
        let _ = std::fs::remove_file(&self.0);
    }

    pub(crate) fn earlier(&self) -> Earlier {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Earlier::Ended,
            Err(_) => return Earlier::Unclear,
        };
        // A machine that loses its power loses its processes too: only a killed `migrate` leaves a part.
        let Ok(Recorded { boot, leader }) = serde_json::from_slice(&text) else { return Earlier::Unclear };
        match leader {
            _ if self::boot().is_some_and(|now| now != boot) => Earlier::Ended,
            None => Earlier::Unclear,
            Some(leader) if leader.has_group(&processes()) => Earlier::Alive,
            Some(_) => Earlier::Ended,
        }
    }

    fn write(&self, leader: Option<Leader>) -> std::io::Result<()> {
        let Some(boot) = boot() else { return Ok(()) };
        std::fs::write(&self.0, serde_json::to_vec(&Recorded { boot, leader })?)
    }
}

impl Leader {
    fn has_group(self, processes: &[Process]) -> bool {
        // While a group is there, its number is given to nobody.
        let is_given_anew = |process: &Process| process.id == self.id && process.began != self.began;
        let is_in = |process: &Process| process.lives_in(self.id) && process.began >= self.began;
        !processes.iter().any(is_given_anew) && processes.iter().any(is_in)
    }
}

/// Whether somebody of `group` is at work.
pub(crate) fn is_alive(group: Pid) -> bool {
    let number = group.as_raw_nonzero().get();
    let processes = processes();
    match processes.is_empty() {
        true => rustix::process::test_kill_process_group(group).is_ok(),
        false => processes.iter().any(|process| process.lives_in(number)),
    }
}

/// A process of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    id: i32,
    group: i32,
    began: u64,
    /// It has ended, and is not waited for yet.
    is_over: bool,
}

impl Process {
    fn read(id: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// From `/proc/PID/stat`: `PID (NAME) STATE PARENT GROUP …`, where NAME may hold anything; the 22nd is when
    /// it began (`man 5 proc_pid_stat`).
    fn parse(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(' ')?;
        let fields: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            id: id.parse().ok()?,
            is_over: matches!(*fields.first()?, "Z" | "X"),
            group: fields.get(2)?.parse().ok()?,
            began: fields.get(19)?.parse().ok()?,
        })
    }

    fn lives_in(&self, group: i32) -> bool {
        self.group == group && !self.is_over
    }
}

/// All that can be seen; none where there is no `/proc`.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(Process::read).collect()
}

fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_anew_is_no_group_of_ours() {
        let stat = |id: i32, state: char, group: i32, began: u64| {
            let line =
                format!("{id} (a) b ({state}) {state} 1 {group} 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {began} 0");
            Process::parse(&line).unwrap()
        };
        let leader = Leader { id: 50, began: 1_000 };
        assert!(leader.has_group(&[stat(50, 'S', 50, 1_000)]));
        // Its leader has ended, and is waited for or not.
        assert!(leader.has_group(&[stat(51, 'R', 50, 1_000)]));
        assert!(leader.has_group(&[stat(50, 'Z', 50, 1_000), stat(51, 'S', 50, 1_234)]));
        assert!(!leader.has_group(&[stat(50, 'Z', 50, 1_000), stat(51, 'Z', 50, 1_234)]));
        assert!(!leader.has_group(&[stat(51, 'S', 51, 1_234)]));
        // Somebody else has its number by now.
        assert!(!leader.has_group(&[stat(50, 'S', 50, 9_000), stat(52, 'S', 50, 9_001)]));
        assert!(!leader.has_group(&[stat(52, 'S', 50, 900)]));
    }

    #[test]
    fn what_was_about_to_start_is_not_called_ended() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::beside(&folder.path().join("node"));
        assert_eq!(record.earlier(), Earlier::Ended);
        record.announce().unwrap();
        assert_eq!(record.earlier(), Earlier::Unclear);
        std::fs::write(&record.0, "").unwrap();
        assert_eq!(record.earlier(), Earlier::Unclear, "killed in the middle of writing");
        std::fs::write(&record.0, r#"{"boot":"another","leader":null}"#).unwrap();
        assert_eq!(record.earlier(), Earlier::Ended, "the machine was started since");
        record.withdraw();
        assert_eq!(record.earlier(), Earlier::Ended);
    }
}
