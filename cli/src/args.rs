//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit;
use crate::scaffold::Language;

/// Moves workloads from Amazon EKS to Azure AKS, and remembers every step durably.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, after_help = exit::HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// Folder of migration.toml; runs are remembered in its `.migrate` folder
    #[arg(
        short = 'C',
        long,
        global = true,
        value_name = "DIR",
        default_value = ".",
        env = "MIGRATE_PROJECT"
    )]
    pub project: PathBuf,

    /// Print data as JSON on stdout (versioned; progress stays on stderr)
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find every mistake in a workflow and in migration.toml, without touching anything
    Validate(WorkflowArgs),
    /// Show what a run would do, or what resuming one would do and why; reads only
    Plan(PlanArgs),
    /// Run a workflow
    Run(WorkflowArgs),
    /// Go on with a run that failed or was stopped; nothing that is done is done again
    Resume(ResumeArgs),
    /// Decide about a gate that waits: the run goes on within a second, or with `migrate resume`
    Approve(ApproveArgs),
    /// Take a run back: undo what its steps can undo, in reverse order; tells what is left as it is
    Undo(UndoArgs),
    /// Show how far a run is
    Status(RunArgs),
    /// List all runs of this project, newest first
    Runs,
    /// Show what happened to a run, or to one of its nodes, and what its steps said
    Logs(LogsArgs),
    /// Compare what a finished run made with the world again
    Verify(VerifyArgs),
    /// List the kinds of steps, or show one with its fields
    Steps(StepsArgs),
    /// Make a step plugin of your own
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Print the JSON Schema of workflow files, or of migration.toml, for editors
    Schema(SchemaArgs),
}

#[derive(Debug, Args)]
pub struct WorkflowArgs {
    /// A workflow file, or the name of a shipped workflow: stateful, stateless
    #[arg(value_name = "WORKFLOW")]
    pub workflow: String,

    #[command(flatten)]
    pub params: ParamArgs,
}

#[derive(Debug, Args)]
pub struct ParamArgs {
    /// Set a parameter of the workflow; a list is written a,b,c
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,

    /// Set parameters from a TOML file, a key each; `--param` goes before it
    #[arg(long = "param-file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A workflow file, or the name of a shipped workflow, to plan a new run of; without it, what
    /// resuming a run would do
    #[arg(value_name = "WORKFLOW", conflicts_with_all = ["run", "rerun", "from"])]
    pub workflow: Option<String>,

    /// The run to plan the resumption of; default: the latest
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,

    #[command(flatten)]
    pub params: ParamArgs,

    #[command(flatten)]
    pub again: AgainArgs,
}

/// What is done again although it is done.
#[derive(Debug, Args)]
pub struct AgainArgs {
    /// Make a node's effect again, whatever is known of it: the way on when only a person can tell
    /// what an attempt has done. What an earlier attempt has made or begun outside is left as it is
    #[arg(long, value_name = "NODE")]
    pub rerun: Vec<String>,

    /// Make the effects of a node and of everything downstream of it again; the rest is verified
    /// and reused
    #[arg(long, value_name = "NODE")]
    pub from: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Only this node
    #[arg(value_name = "NODE")]
    pub node: Option<String>,

    /// The run; default: the latest
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,

    /// Least important lines to show; failures and states are always shown
    #[arg(long, value_enum, default_value = "info")]
    pub level: Level,

    /// Go on until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Level {
    /// Everything
    Debug,
    /// What was done
    Info,
    /// What a person should read
    Warn,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The run; default: the latest
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub run: RunArgs,

    /// Accept that files changed since the run began, and rerun what depends on the changes
    #[arg(long)]
    pub accept_changes: bool,

    #[command(flatten)]
    pub again: AgainArgs,

    #[command(flatten)]
    pub params: ParamArgs,
}

#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The gate
    #[arg(value_name = "NODE")]
    pub node: String,

    /// The run; default: the latest
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,

    /// Why; kept with who decided, where and when
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,

    /// Say no: the gate fails, with the note as the reason
    #[arg(long)]
    pub reject: bool,
}

#[derive(Debug, Args)]
pub struct UndoArgs {
    #[command(flatten)]
    pub run: RunArgs,

    /// Do it; without, only what would be undone is shown
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub run: RunArgs,

    /// Read the data itself again on both sides; takes about as long as copying it
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Args)]
pub struct StepsArgs {
    /// A step to show with its fields and outputs
    #[arg(value_name = "STEP")]
    pub step: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a plugin that works, with its own test, in the new folder plugins/NAME
    New(PluginNewArgs),
}

#[derive(Debug, Args)]
pub struct PluginNewArgs {
    /// In what it shall be written
    #[arg(long, value_enum)]
    pub lang: Language,

    /// The step that it shall be: `word` or `family.verb`
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The schema of migration.toml, as far as these workflows refer to it; default: those that
    /// are shipped
    #[arg(long, value_name = "WORKFLOW", num_args = 0..)]
    pub environment: Option<Vec<String>>,
}
