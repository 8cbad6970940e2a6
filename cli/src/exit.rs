//! Exit codes: part of the interface, for scripts to decide by.

use std::process::ExitCode;

/// How a command ended. The numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, and verified where there was something to verify.
    Done = 0,
    /// Something failed; the message names it. A failed run is resumable.
    Failed = 1,
    /// The command line is wrong (also clap's code).
    Usage = 2,
    /// A workflow file or `migration.toml` is wrong, or the preflight found problems. Nothing was
    /// touched.
    Invalid = 3,
    /// A gate waits for a person.
    Waiting = 4,
    /// Stopped on request; the run is resumable.
    Interrupted = 5,
    /// Another run holds the project.
    Locked = 6,
    /// The store is damaged or was written by a newer version.
    Store = 7,
    /// `run` was stopped on request before it began: there is no run of it, and nothing was touched.
    NotBegun = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The end of `--help`.
pub const HELP: &str = "\
Exit codes:
  0  done (and verified)       4  waiting at a gate
  1  failed                    5  interrupted; `migrate resume` goes on
  2  usage                     6  another run holds this project
  3  invalid file or preflight 7  the store can't be used
                               8  stopped before the run began; there is nothing to resume

Environment:
  MIGRATE_PROJECT  the folder, where --project doesn't name it
  MIGRATE_LOG      what the libraries inside say: error (default), warn, info, debug";
