//! What went wrong, said once: the message, its causes, and the way out.

use std::error::Error;
use std::path::PathBuf;

use miette::{Diagnostic as _, GraphicalReportHandler};
use migrate_engine::{
    Changes, DecideError, Diagnostics, Holder, OpenError, PlanReport, Pulse, ReadError, RunError, StoreError,
};
use migrate_plugin_api::InvalidId;

use crate::exit::Exit;
use crate::render;
use crate::say::say;
use crate::shipped::UnknownWorkflow;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong in a way that clap can't know.
    #[error("{0}")]
    Usage(String),
    /// The workflow isn't there.
    #[error(transparent)]
    Workflow(#[from] UnknownWorkflow),
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no `migration.toml`.
    #[error("there is no {}", .0.display())]
    NoMigrationFile(PathBuf),
    /// A file has mistakes.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
    /// The built-in steps are wrong: a bug.
    #[error(transparent)]
    Steps(#[from] OpenError),
    /// No identifier.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The run did not begin or could not go on.
    #[error(transparent)]
    Run(RunError),
    /// A decision was not taken.
    #[error(transparent)]
    Decide(DecideError),
    /// stdout can't take the result.
    #[error("failed to write to stdout")]
    Stdout(#[source] std::io::Error),
    /// No such step.
    #[error("there is no step `{0}`; `migrate steps` lists them")]
    UnknownStep(String),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Invalid(diagnostics) => Self::Invalid(diagnostics),
            RunError::Read(error) => Self::Read(error),
            error => Self::Run(error),
        }
    }
}

impl From<DecideError> for Failure {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Run(error) => error.into(),
            error => Self::Decide(error),
        }
    }
}

impl Failure {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Id(_) | Self::UnknownStep(_) | Self::Workflow(_) => Exit::Usage,
            Self::Read(_) | Self::NoMigrationFile(_) | Self::Invalid(_) => Exit::Invalid,
            Self::Run(error) => match error {
                RunError::Locked(_) => Exit::Locked,
                RunError::Refused(_) | RunError::Changed(_) => Exit::Invalid,
                RunError::UnknownRun(_) | RunError::NoRuns | RunError::UnknownNode(_) => Exit::Usage,
                RunError::AlreadyDone(_) => Exit::Done,
                RunError::Undoing(_) => Exit::Usage,
                RunError::Cancelled => Exit::Interrupted,
                RunError::Store(StoreError::Failed { .. }) => Exit::Failed,
                RunError::Store(_) => Exit::Store,
                _ => Exit::Failed,
            },
            Self::Decide(DecideError::NotAGate(_) | DecideError::LongNote) => Exit::Usage,
            Self::Decide(_) | Self::Steps(_) | Self::Stdout(_) => Exit::Failed,
        }
    }

    /// Prints it to stderr.
    pub fn print(&self) {
        match self {
            Self::Invalid(diagnostics) => print_mistakes(diagnostics),
            Self::Run(RunError::Refused(plan)) => print_refusal(plan),
            Self::Run(RunError::Changed(changes)) => print_changes(changes),
            _ => {
                say!("error: {self}");
                let mut cause = self.source();
                while let Some(error) = cause {
                    say!("  because {error}");
                    cause = error.source();
                }
                if let Some(hint) = self.hint() {
                    say!("  help: {hint}");
                }
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoMigrationFile(_) => {
                Some("run in the folder of migration.toml, or name it: migrate -C DIR …".to_owned())
            }
            Self::Run(RunError::Locked(holder)) => Some(way_past(holder)),
            Self::Run(RunError::NoRuns) => Some("start one: migrate run WORKFLOW".to_owned()),
            Self::Run(RunError::UnknownRun(_)) => Some("`migrate status` shows the latest".to_owned()),
            _ => None,
        }
    }
}

/// How to get past the holder of a project.
fn way_past(holder: &Holder) -> String {
    const READERS: &str = "readers such as `migrate status` work meanwhile";
    match holder.pulse() {
        _ if holder.pid == 0 => format!("wait for it; {READERS}"),
        Pulse::Stopped => format!("let it go on: kill -CONT {}; {READERS}", holder.pid),
        Pulse::Unknown => {
            format!(
                "wait for it, or stop it on its machine; if it is dead, its lease ends by itself; {READERS}"
            )
        }
        Pulse::Alive | Pulse::Dead => format!("wait for it, or stop it: kill -INT {}; {READERS}", holder.pid),
    }
}

fn print_mistakes(diagnostics: &Diagnostics) {
    let handler = GraphicalReportHandler::new();
    for mistake in diagnostics.mistakes() {
        let mut text = String::new();
        if handler.render_report(&mut text, mistake).is_err() {
            // The handler writes to a string, which can't fail; the message is what matters.
            text = mistake.to_string();
        }
        say!("{text}");
    }
    say!("error: {diagnostics}; nothing was touched");
    if let Some(help) = diagnostics.help() {
        say!("  help: {help}");
    }
}

fn print_refusal(plan: &PlanReport) {
    for line in render::problems(plan) {
        say!("{line}");
    }
    say!("error: the preflight found problems; nothing was touched");
}

fn print_changes(changes: &Changes) {
    for line in render::changes(changes) {
        say!("{line}");
    }
    say!("error: the run's files have changed since these nodes ran; nothing was touched");
    say!("  help: undo the changes, or accept that these nodes run again: migrate resume --accept-changes");
}
