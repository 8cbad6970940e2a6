//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit;

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
    /// Show what a run would do, and what stands in its way; reads only
    Plan(WorkflowArgs),
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
    /// Compare what a finished run made with the world again
    Verify(VerifyArgs),
    /// List the kinds of steps, or show one with its fields
    Steps(StepsArgs),
}

#[derive(Debug, Args)]
pub struct WorkflowArgs {
    /// A workflow file, or the name of a shipped workflow: stateful, stateless
    #[arg(value_name = "WORKFLOW")]
    pub workflow: String,

    /// Set a parameter of the workflow; a list is written a,b,c
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
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

    /// Make a node's effect again, whatever is known of it: the way on when only a person can tell
    /// what an attempt has done. What an earlier attempt has made or begun outside is left as it is
    #[arg(long, value_name = "NODE")]
    pub rerun: Vec<String>,
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
