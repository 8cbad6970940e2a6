//! What went wrong, said once: the message, its causes, and the way out.

use std::error::Error;
use std::path::PathBuf;

use miette::{Diagnostic as _, GraphicalReportHandler};
use migrate_engine::{
    Changes, DecideError, Diagnostics, Holder, Mistake, NodePlan, OpenError, PlanReport, Pulse, ReadError,
    RunError, StoreError,
};
use migrate_plugin_api::{ErrorClass, InvalidId, NodeId, RunId, Severity, StepError};
use migrate_plugin_host::{DiscoveryError, SettingsError};
use migrate_plugin_sdk::ServeError;
use migrate_steps::rules::RuleError;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::render;
use crate::say::{say, styled};
use crate::scaffold::ScaffoldError;
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
    /// There is no such folder.
    #[error("there is no folder {}", .0.display())]
    NoProject(PathBuf),
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
    /// The files of a run have changed, and nobody has accepted it.
    #[error("{}", RunError::Changed(.run.clone(), Box::default()))]
    Changed {
        /// The run.
        run: RunId,
        /// What has changed.
        changes: Box<Changes>,
        /// The command that accepts it.
        accept: String,
    },
    /// A decision was not taken.
    #[error(transparent)]
    Decide(DecideError),
    /// A new plugin was not made.
    #[error(transparent)]
    Scaffold(#[from] ScaffoldError),
    /// The plugins that are there can't be used together.
    #[error(transparent)]
    Plugins(#[from] DiscoveryError),
    /// `migration.toml` is no TOML, or a part of it that steps don't read is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// This program doesn't know where it is, and so can't guard a plugin.
    #[error("failed to find this program's own file")]
    NoSelf(#[source] std::io::Error),
    /// A step can't be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// stdout can't take the result.
    #[error("failed to write to stdout")]
    Stdout(#[source] std::io::Error),
    /// A step's code said no, outside of a run.
    #[error("{}", .0.message)]
    Step(Box<StepError>),
    /// Rules of one's own are wrong.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// No such rule.
    #[error("there is no rule `{0}`; `migrate rules` lists them")]
    UnknownRule(String),
    /// A file can't be written.
    #[error("failed to write {file}")]
    Write {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No such step.
    #[error("there is no step `{name}`{}; `migrate steps` lists them", meant(.near))]
    UnknownStep {
        /// As asked for.
        name: String,
        /// The one that was probably meant.
        near: Option<String>,
    },
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

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Step(Box::new(error))
    }
}

impl Failure {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Id(_) | Self::UnknownStep { .. } | Self::Workflow(_) => Exit::Usage,
            Self::UnknownRule(_) => Exit::Usage,
            Self::Read(_) | Self::NoMigrationFile(_) | Self::NoProject(_) | Self::Invalid(_) => Exit::Invalid,
            Self::Rules(_) | Self::Changed { .. } => Exit::Invalid,
            Self::Step(error) if error.class == ErrorClass::Permanent => Exit::Invalid,
            Self::Step(_) | Self::Write { .. } => Exit::Failed,
            Self::Plugins(_) | Self::Settings(_) => Exit::Invalid,
            Self::Run(error) => match error {
                RunError::Locked(_) => Exit::Locked,
                RunError::Refused(_) | RunError::Changed(..) => Exit::Invalid,
                RunError::UnknownRun(_)
                | RunError::NoRuns
                | RunError::UnknownNode { .. }
                | RunError::NotRepeatable { .. }
                | RunError::NotKept(_)
                | RunError::KeptChanged(_)
                | RunError::NotBlocked(_) => Exit::Usage,
                RunError::AlreadyDone(_) => Exit::Done,
                RunError::Undoing(_) => Exit::Usage,
                RunError::Cancelled => Exit::Interrupted,
                RunError::NotBegun => Exit::NotBegun,
                RunError::Store(StoreError::Failed { .. }) => Exit::Failed,
                RunError::Store(_) => Exit::Store,
                _ => Exit::Failed,
            },
            Self::Decide(
                DecideError::NotAGate(_)
                | DecideError::List { .. }
                | DecideError::SeveralRuns { .. }
                | DecideError::LongNote,
            ) => Exit::Usage,
            Self::Scaffold(ScaffoldError::Name(_) | ScaffoldError::Taken(_)) => Exit::Usage,
            Self::Decide(_) | Self::Scaffold(_) | Self::Steps(_) | Self::NoSelf(_) => Exit::Failed,
            Self::Serve(_) | Self::Stdout(_) => Exit::Failed,
        }
    }

    /// What it is, in a word that scripts can decide by. Never changes its meaning.
    fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Id(_) => "invalid-name",
            Self::Workflow(_) => "unknown-workflow",
            Self::UnknownStep { .. } => "unknown-step",
            Self::Read(_) => "unreadable-file",
            Self::NoMigrationFile(_) => "no-migration-file",
            Self::NoProject(_) => "no-project",
            Self::Invalid(_) => "invalid",
            Self::Steps(_) | Self::NoSelf(_) => "internal",
            Self::Scaffold(_) => "plugin-not-made",
            Self::Plugins(_) => "plugins",
            Self::Settings(_) => "invalid",
            Self::Serve(_) => "not-served",
            Self::Stdout(_) => "stdout",
            Self::Step(_) => "unreadable",
            Self::Rules(_) => "invalid-rules",
            Self::UnknownRule(_) => "unknown-rule",
            Self::Write { .. } => "unwritable-file",
            Self::Decide(_) => "not-decided",
            Self::Changed { .. } => "changed",
            Self::Run(error) => match error {
                RunError::Locked(_) => "locked",
                RunError::Lock { .. } => "lock",
                RunError::Refused(_) => "refused",
                RunError::Invalid(_) => "invalid",
                RunError::Read(_) => "unreadable-file",
                RunError::Changed(..) => "changed",
                RunError::UnknownRun(_) => "unknown-run",
                RunError::NoRuns => "no-runs",
                RunError::AlreadyDone(_) => "already-done",
                RunError::UnknownNode { .. } => "unknown-node",
                RunError::AlreadyUndone(_) => "already-undone",
                RunError::Undoing(_) => "undoing",
                RunError::StoreUrl(_) => "store",
                RunError::NotRepeatable { .. } => "not-repeatable",
                RunError::NotKept(_) | RunError::KeptChanged(_) => "not-kept",
                RunError::UndoBlocked { .. } => "undo-blocked",
                RunError::NotBlocked(_) => "not-blocked",
                RunError::Cancelled => "cancelled",
                RunError::NotBegun => "not-begun",
                RunError::Store(_) => "store",
            },
        }
    }

    /// It as data, for `--json`.
    pub fn document(&self) -> ErrorDocument {
        let causes = self.causes();
        let mistakes = match self {
            Self::Invalid(diagnostics) => diagnostics.mistakes().iter().map(MistakeDocument::from).collect(),
            _ => Vec::new(),
        };
        let problems = match self {
            Self::Run(RunError::Refused(plan)) => plan.nodes.iter().flat_map(ProblemDocument::of).collect(),
            _ => Vec::new(),
        };
        let changes = match self {
            Self::Run(RunError::Changed(_, changes)) | Self::Changed { changes, .. } => {
                Some(changes.as_ref().clone())
            }
            _ => None,
        };
        ErrorDocument {
            exit: self.exit() as u8,
            code: self.code().to_owned(),
            message: self.to_string(),
            causes,
            hint: self.hint(),
            mistakes,
            problems,
            changes,
        }
    }

    /// Prints it to stderr.
    pub fn print(&self) {
        match self {
            Self::Invalid(diagnostics) => print_mistakes(diagnostics),
            Self::Run(RunError::Refused(plan)) => print_refusal(plan),
            Self::Run(RunError::Changed(_, changes)) | Self::Changed { changes, .. } => {
                for line in render::changes(changes) {
                    say!("{line}");
                }
                say!("error: {self}; nothing was touched");
                self.say_hint();
            }
            _ => {
                say!("error: {self}");
                for cause in self.causes() {
                    say!("  because {cause}");
                }
                self.say_hint();
            }
        }
    }

    fn say_hint(&self) {
        if let Some(hint) = self.hint() {
            say!("  help: {hint}");
        }
    }

    fn causes(&self) -> Vec<String> {
        if let Self::Step(error) = self {
            return error.to_record().causes;
        }
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        causes
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoMigrationFile(_) | Self::NoProject(_) => {
                Some("run in the folder of migration.toml, or name it: migrate -C DIR …".to_owned())
            }
            Self::Plugins(error) => Some(error.hint()),
            Self::Run(RunError::Locked(holder)) => Some(way_past(holder)),
            Self::Step(error) => error.hint.clone(),
            Self::Run(RunError::NoRuns) => Some("start one: migrate run WORKFLOW".to_owned()),
            Self::Run(RunError::UnknownRun(_)) => Some("`migrate runs` lists them".to_owned()),
            Self::Changed { accept, .. } => {
                Some(format!("undo the changes, or accept that these nodes run again: {accept}"))
            }
            Self::Run(RunError::NotRepeatable { nodes }) => {
                let named: Vec<String> =
                    nodes.iter().map(|node| format!("--rerun {}", node.quoted())).collect();
                Some(format!("look for yourself; to do it again all the same, add: {}", named.join(" ")))
            }
            Self::Run(RunError::UndoBlocked { run, nodes }) => {
                let named: Vec<String> =
                    nodes.iter().map(|(node, _)| format!("--leave {}", node.quoted())).collect();
                Some(format!(
                    "when the steps can be used again (`migrate steps` lists them), undo it then; to leave what \
                     they made for good: migrate undo {run} --yes {}",
                    named.join(" ")
                ))
            }
            Self::Decide(DecideError::List { run, waiting, .. }) => waiting
                .first()
                .map(|item| format!("name one of them: migrate approve {} --run {run}", item.quoted())),
            Self::Decide(DecideError::SeveralRuns { node, runs }) => runs
                .first()
                .map(|run| format!("say which is meant: migrate approve {} --run {run}", node.quoted())),
            _ => None,
        }
    }
}

fn meant(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// Why a command could not do its work, as `--json` prints it: `{"version":1,"type":"error",…}`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ErrorDocument {
    /// What it is; stable.
    pub code: String,
    /// The exit code.
    pub exit: u8,
    /// What is wrong, naming the thing.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// `invalid`: every mistake in the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<MistakeDocument>,
    /// `refused`: everything that the preflight found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ProblemDocument>,
    /// `changed`: what changed since the run's nodes ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// A mistake in a file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MistakeDocument {
    /// What kind; stable.
    pub code: String,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is said at the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl From<&Mistake> for MistakeDocument {
    fn from(mistake: &Mistake) -> Self {
        let (line, column) = mistake.position();
        Self {
            code: mistake.code.to_owned(),
            message: mistake.message.clone(),
            file: mistake.file().name().to_owned(),
            line,
            column,
            label: mistake.label.clone(),
            help: mistake.help.clone(),
        }
    }
}

/// Something that stands in the way of a node, or that a person should read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProblemDocument {
    /// The node.
    pub node: NodeId,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, naming the thing.
    pub message: String,
    /// Field of `with` it comes from, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ProblemDocument {
    fn of(node: &NodePlan) -> Vec<Self> {
        let failed = node.error.iter().map(|error| Self {
            node: node.node.clone(),
            severity: Severity::Error,
            message: std::iter::once(&error.message)
                .chain(&error.causes)
                .cloned()
                .collect::<Vec<_>>()
                .join(": "),
            field: None,
            hint: error.hint.clone(),
        });
        let found = node.plan.iter().flat_map(|plan| &plan.problems).map(|problem| Self {
            node: node.node.clone(),
            severity: problem.severity,
            message: problem.message.clone(),
            field: problem.field.clone(),
            hint: problem.hint.clone(),
        });
        failed.chain(found).collect()
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
        styled(&text);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_as_json_reads_back() {
        let node = NodeId::new("pay").unwrap();
        let failures = [
            Failure::Run(RunError::NoRuns),
            Failure::Run(RunError::NotRepeatable { nodes: vec![node] }),
            Failure::Changed {
                run: RunId::new("20260131-2359-abcd").unwrap(),
                changes: Box::default(),
                accept: "migrate resume".to_owned(),
            },
            Failure::Stdout(std::io::Error::other("gone")),
        ];
        for failure in failures {
            let document = failure.document();
            let text = serde_json::to_string(&document).unwrap();
            assert_eq!(serde_json::from_str::<ErrorDocument>(&text).unwrap(), document);
        }
    }
}
