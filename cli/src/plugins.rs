//! Step plugins on the command line: found for the commands that need steps, tested for their authors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use migrate_engine::{Source, nearest};
use migrate_plugin_api::Step;
use migrate_plugin_host::conformance::{self, CaseReport, Outcome, Suite};
use migrate_plugin_host::{Guard, Launch, Listed, find, settings};

use crate::args::{Command, PluginTestArgs};
use crate::commands::MIGRATION_FILE;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::say::say;

/// The arguments by which this program is the guard of a plugin. Nobody types them.
pub const GUARD: [&str; 2] = ["plugin", "guard"];

/// Most data of a plugin under test, in bytes: as in a run.
const TEST_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Whether a command asks steps anything. The others start no program.
pub fn are_needed(command: &Command) -> bool {
    match command {
        Command::Validate(_) | Command::Plan(_) | Command::Run(_) | Command::Resume(_) => true,
        Command::Undo(_) | Command::Verify(_) | Command::Steps(_) | Command::Schema(_) => true,
        Command::Approve(_) | Command::Status(_) | Command::Runs | Command::Logs(_) => false,
        Command::Assess(_) | Command::Rewrite(_) | Command::Rules(_) | Command::Plugin(_) => false,
    }
}

fn guard() -> Result<Guard, Failure> {
    let program = std::env::current_exe().map_err(Failure::NoSelf)?;
    Ok(Guard { program, args: GUARD.iter().map(Into::into).collect() })
}

/// The plugins of a project, asked what they are.
pub async fn load(project: &Path) -> Result<Vec<(Listed, Arc<dyn Step>)>, Failure> {
    let file = project.join(MIGRATION_FILE);
    let settings = if file.exists() { settings(Source::read(file)?.text())? } else { BTreeMap::default() };
    let built_in: BTreeSet<String> = migrate_steps::all().iter().map(|step| step.describe().name).collect();
    let found = find(project, std::env::var_os("PATH"), &settings, &built_in)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(migrate_plugin_host::load(found, &guard()?, project).await)
}

/// Where a plugin comes from and which file it is.
pub fn provenance(plugin: &Listed) -> String {
    let digest = plugin.sha256.as_ref().map_or_else(|| "can't be read".to_owned(), ToString::to_string);
    let unusable = plugin.unusable.iter().map(|why| format!("\ncan't be used: {why}"));
    let lines = format!("plugin: {} (by {})\nsha256: {digest}", plugin.path.display(), plugin.origin);
    std::iter::once(lines).chain(unusable).collect()
}

/// Serves a built-in step over the plugin protocol, on stdin and stdout.
pub async fn serve(name: &str) -> Result<Exit, Failure> {
    let step = migrate_steps::all().into_iter().find(|step| step.describe().name == name);
    let step = step.ok_or_else(|| Failure::UnknownStep { name: name.to_owned(), near: None })?;
    migrate_plugin_sdk::serve(step).await?;
    // A thread may still wait for stdin; nothing is left to do.
    std::process::exit(0);
}

/// Runs the conformance suite.
pub async fn test(project: &Path, args: &PluginTestArgs, json: bool) -> Result<Exit, Failure> {
    let program = std::fs::canonicalize(&args.program)
        .map_err(|error| Failure::Usage(format!("{}: {error}", args.program.display())))?;
    let sample = match &args.with {
        None => None,
        Some(text) => Some(
            serde_json::from_str(text)
                .map_err(|error| Failure::Usage(format!("--with is no JSON: {error}")))?,
        ),
    };
    let dir = std::path::absolute(project).map_err(Failure::NoSelf)?;
    let launch = Launch {
        program,
        args: args.args.iter().map(Into::into).collect(),
        env: args.env.iter().cloned().collect(),
        memory_bytes: TEST_MEMORY_BYTES,
    };
    let known = conformance::names();
    if let Some(unknown) = args.case.iter().find(|case| !known.contains(&case.as_str())) {
        let near =
            nearest(unknown, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(Failure::Usage(format!("there is no case `{unknown}`{near}")));
    }
    let only = args.case.iter().cloned().collect();
    let suite = Suite { guard: guard()?, launch, dir, sample, effects: !args.without_effects, only };
    let mut unread = None;
    let report = conformance::run(suite, |case| {
        if !json && unread.is_none() {
            unread = print(&told(case)).err();
        }
    })
    .await;
    if let Some(failure) = unread {
        return Err(failure);
    }
    let (passed, failed, skipped) = report.counts();
    if json {
        print_json("plugin-test", &report)?;
    }
    say!("{passed} passed, {failed} failed, {skipped} skipped");
    if report.passed() { Ok(Exit::Done) } else { Ok(Exit::Failed) }
}

/// One case, in lines.
fn told(report: &CaseReport) -> String {
    let CaseReport { case, rule, outcome } = report;
    match outcome {
        Outcome::Passed => format!("  ok      {case}: {rule}\n"),
        Outcome::Skipped { why } => format!("  skipped {case}: {why}\n"),
        Outcome::Failed { what, mend } => {
            format!("  FAILED  {case}: {rule}\n            seen: {what}\n            mend: {mend}\n")
        }
    }
}
