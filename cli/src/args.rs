//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

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
    /// Say what of a folder of manifests, or of a cluster, will not be the same on AKS; reads only
    Assess(AssessArgs),
    /// Rewrite manifests for AKS: a diff, or in place with --write
    Rewrite(RewriteArgs),
    /// List the rules by which `assess` and `rewrite` go, or explain one
    Rules(RulesArgs),
    /// List the kinds of steps, or show one with its fields
    Steps(StepsArgs),
    /// Make a step plugin of your own, or test one
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
    /// Set a parameter of the workflow, each once; a list is written a,b,c
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,

    /// Set parameters from a TOML file, a key each; `--param` goes before it
    #[arg(long = "param-file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A workflow file, or the name of a shipped workflow, to plan a new run of; or a run, or nothing
    /// for the latest: what resuming it would do
    #[arg(value_name = "WORKFLOW|RUN", conflicts_with = "run")]
    workflow: Option<String>,

    /// The run to plan the resumption of; default: the latest
    #[arg(long, value_name = "RUN")]
    run: Option<String>,

    #[command(flatten)]
    pub params: ParamArgs,

    #[command(flatten)]
    pub again: AgainArgs,
}

impl PlanArgs {
    /// The workflow to plan a new run of.
    pub fn workflow(&self) -> Option<&str> {
        self.workflow.as_deref().filter(|name| !is_run(name))
    }

    /// The run to plan the resumption of, if one was named.
    pub fn named_run(&self) -> Option<&str> {
        self.run.as_deref().or(self.workflow.as_deref().filter(|name| is_run(name)))
    }
}

/// Whether `text` is written as runs are: `20260131-235959-3f9a`. So one can be told from a node and
/// from a workflow, and every command takes it with and without `--run`.
fn is_run(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    let [day, time, tag] = parts.as_slice() else { return false };
    digits(day, 8) && digits(time, 6) && tag.len() == 4 && tag.bytes().all(|b| b.is_ascii_hexdigit())
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

    /// Keep a finished node as it is, although something that it is built on was made again
    #[arg(long, value_name = "NODE")]
    pub keep: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Only this node, or the run
    #[arg(value_name = "NODE|RUN")]
    node: Option<String>,

    /// The run; default: the latest
    #[arg(long, value_name = "RUN")]
    run: Option<String>,

    /// Least important lines to show; failures and states are always shown
    #[arg(long, value_enum, default_value = "info")]
    pub level: Level,

    /// Go on until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

impl LogsArgs {
    /// The node, if only one is asked for.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref().filter(|name| self.run.is_some() || !is_run(name))
    }

    /// The run, if one was named.
    pub fn named_run(&self) -> Option<&str> {
        self.run.as_deref().or(self.node.as_deref().filter(|name| is_run(name)))
    }
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
    run: Option<String>,

    /// The same, as an option
    #[arg(long = "run", value_name = "RUN", conflicts_with = "run")]
    run_option: Option<String>,
}

impl RunArgs {
    /// The run that was named, in whichever way.
    pub fn named(&self) -> Option<&str> {
        self.run.as_deref().or(self.run_option.as_deref())
    }
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

    #[command(flatten)]
    pub run: RunArgs,

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

    /// Leave as it is what this node made, where its step can't be used any more
    #[arg(long, value_name = "NODE", requires = "yes")]
    pub leave: Vec<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub run: RunArgs,

    /// Read the data itself again on both sides; takes about as long as copying it. Without, what a step only
    /// remembers is a warning that says of when it is
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").args(["path", "context"]).required(true))]
pub struct AssessArgs {
    /// A folder of manifests, or one file
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,

    /// A context of your kubeconfig: what the namespaces of that cluster hold
    #[arg(long, value_name = "CONTEXT", requires = "namespaces")]
    pub context: Option<String>,

    /// Namespaces of the cluster to look at
    #[arg(short, long = "namespace", value_name = "NAMESPACE", conflicts_with = "path")]
    pub namespaces: Vec<String>,

    /// A context of your kubeconfig: the target, so that what it lacks is found too
    #[arg(long, value_name = "CONTEXT")]
    pub target: Option<String>,

    /// Name of the EKS cluster: what only the EKS API knows of it, by `[source.aws]` of migration.toml
    #[arg(long, value_name = "NAME", conflicts_with = "path")]
    pub eks: Option<String>,

    /// Also write it as one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Print SARIF 2.1.0 on stdout, for code review
    #[arg(long, conflicts_with = "json")]
    pub sarif: bool,

    /// End with code 1 when something is left that needs a person or an input
    #[arg(long)]
    pub check: bool,

    #[command(flatten)]
    pub rules: RuleFileArgs,
}

/// Rules of your own.
#[derive(Debug, Args)]
pub struct RuleFileArgs {
    /// A file with rules of your own, besides those that migration.toml names
    #[arg(long = "rules", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RewriteArgs {
    /// A folder of manifests, or one file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Write the files; without, only the difference is shown
    #[arg(long, conflicts_with = "diff")]
    pub write: bool,

    /// Show the difference and touch nothing: the default
    #[arg(long)]
    pub diff: bool,

    #[command(flatten)]
    pub rules: RuleFileArgs,
}

#[derive(Debug, Args)]
pub struct RulesArgs {
    /// A rule to explain
    #[arg(value_name = "ID")]
    pub id: Option<String>,

    /// Only count them, by who can do it
    #[arg(long, conflicts_with = "id")]
    pub counts: bool,

    #[command(flatten)]
    pub rules: RuleFileArgs,
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
    /// Run the conformance suite against a plugin, and say what to mend
    Test(PluginTestArgs),
    /// Serve a built-in step over the plugin protocol: a plugin as every other
    #[command(hide = true)]
    Serve(PluginServeArgs),
}

#[derive(Debug, Args)]
pub struct PluginServeArgs {
    /// The step
    #[arg(value_name = "STEP")]
    pub step: String,
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
pub struct PluginTestArgs {
    /// The plugin's program
    #[arg(value_name = "PROGRAM")]
    pub program: PathBuf,

    /// Arguments for it, where it takes any
    #[arg(value_name = "ARG", last = true)]
    pub args: Vec<String>,

    /// A config that may be applied for the test, as JSON; default: the first of `examples` in the
    /// plugin's config_schema
    #[arg(long, value_name = "JSON")]
    pub with: Option<String>,

    /// Only what has no effect: nothing is applied
    #[arg(long, conflicts_with = "with")]
    pub without_effects: bool,

    /// Only this case
    #[arg(long, value_name = "CASE")]
    pub case: Vec<String>,

    /// A variable of the environment that the plugin needs beyond the usual ones
    #[arg(long, value_name = "NAME")]
    pub env: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The schema of migration.toml, as far as these workflows refer to it; default: those that
    /// are shipped
    #[arg(long, value_name = "WORKFLOW", num_args = 0..)]
    pub environment: Option<Vec<String>>,
}
