//! The commands.

use std::collections::BTreeSet;
use std::path::PathBuf;

use migrate_engine::{
    Checked, Engine, EventSink, EventStream, NodeReport, NodeState, Params, ResumeRequest, RunError,
    RunReport, RunState, RunSummary, Shutdown, Source, StoreSettings, VerifyRequest, event_channel, nearest,
};
use migrate_plugin_api::{CancellationToken, Idempotency, NodeId, RunId, StepInfo, VerifyDepth};
use migrate_plugin_host::{Listed, part};
use serde::de::IgnoredAny;

use crate::args::{
    AgainArgs, Cli, Command, ParamArgs, PlanArgs, PluginCommand, PluginNewArgs, ResumeArgs, RunArgs,
    SchemaArgs, StepsArgs, VerifyArgs, WorkflowArgs,
};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::say::say;
use crate::{
    assess, describe, evidence, logs, outlook, plugins, render, rewrite, rules, scaffold, shipped, signals,
    site, table::Table, watch,
};

/// What describes a site; see the README.
pub(crate) const MIGRATION_FILE: &str = "migration.toml";

/// Runs the command that was asked for.
pub async fn run(cli: &Cli) -> Result<Exit, Failure> {
    if needs_project(&cli.command) && !cli.project.is_dir() {
        return Err(Failure::NoProject(cli.project.clone()));
    }
    let plugins =
        if plugins::are_needed(&cli.command) { plugins::load(&cli.project).await? } else { Vec::new() };
    let (listed, own): (Vec<_>, Vec<_>) = plugins.into_iter().unzip();
    let steps = migrate_steps::all().into_iter().chain(own).collect();
    let engine = Engine::open(&cli.project, steps)?
        .with_unusable(
            listed.iter().filter_map(|plugin| Some((plugin.name.clone(), plugin.unusable.clone()?))),
        )
        .with_workflows(shipped::all())
        .with_secrets(migrate_steps::secret_providers());
    let engine = engine.with_store(store(cli)?);
    let session = Session { cli, engine, plugins: listed };
    match dispatch(cli, &session).await {
        // Who has runs looks for them in the wrong folder more often than in a new one.
        Err(Failure::Run(RunError::NoRuns)) => {
            session.need_migration_file()?;
            Err(Failure::Run(RunError::NoRuns))
        }
        result => result,
    }
}

/// Whether a command is about a project.
fn needs_project(command: &Command) -> bool {
    use Command::{Assess, Plugin, Rewrite, Rules, Schema, Steps};
    !matches!(command, Steps(_) | Schema(_) | Rules(_) | Plugin(_) | Assess(_) | Rewrite(_))
}

async fn dispatch(cli: &Cli, session: &Session<'_>) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Validate(args) => session.validate(args),
        Command::Plan(args) => session.plan(args).await,
        Command::Run(args) => session.run(args).await,
        Command::Resume(args) => session.resume(args).await,
        Command::Approve(args) => session.approve(args).await,
        Command::Undo(args) => session.undo(args).await,
        Command::Status(args) => session.status(args).await,
        Command::Runs => session.runs().await,
        Command::Logs(args) => logs::logs(&session.engine, args, cli.json).await,
        Command::Verify(args) => session.verify(args).await,
        Command::Assess(args) => assess::assess(cli, args).await,
        Command::Rewrite(args) => rewrite::rewrite(cli, args),
        Command::Rules(args) => rules::rules(cli, args),
        Command::Steps(args) => session.steps(args),
        Command::Plugin(PluginCommand::New(args)) => session.new_plugin(args),
        Command::Plugin(PluginCommand::Test(args)) => plugins::test(&cli.project, args, cli.json).await,
        Command::Plugin(PluginCommand::Serve(args)) => plugins::serve(&args.step).await,
        Command::Schema(args) => session.schema(args),
    }
}

/// Where facts are kept, for the commands about a project. Not all of them ask, but all tell a mistake in it.
fn store(cli: &Cli) -> Result<Option<StoreSettings>, Failure> {
    let path = cli.project.join(MIGRATION_FILE);
    if !needs_project(&cli.command) || !path.exists() {
        return Ok(None);
    }
    let file = Source::read(path)?;
    // A file that is no TOML is told without its lines: what is a secret in it, nobody knows.
    part::<IgnoredAny>(file.text())?;
    Ok(StoreSettings::of(&file)?)
}

pub(crate) struct Session<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) engine: Engine,
    plugins: Vec<Listed>,
}

impl Session<'_> {
    fn validate(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let path = self.migration_path();
        let environment = if path.exists() { Some(Source::read(&path)?) } else { None };
        let params = params(&args.params)?;
        let workflow = self.workflow(&args.workflow)?;
        self.engine.validate(&workflow, environment.as_ref(), &params)?;
        if let Some(environment) = &environment {
            site::check(self.cli, environment)?;
        }
        let shipped = shipped::names().into_iter().map(|name| self.workflow(name));
        let shipped = shipped.collect::<Result<Vec<_>, _>>()?;
        let notes = self.engine.remarks(&workflow, environment.as_ref(), &params, &shipped);
        if self.cli.json {
            let checked = environment.is_some();
            print_json("valid", &serde_json::json!({ "checked-with-environment": checked, "notes": notes }))?;
        }
        notes.iter().for_each(|note| say!("note: {note}"));
        match environment {
            Some(_) => say!("{} and {} are valid", args.workflow, path.display()),
            None => say!("{} is valid; there is no {} to check it with", args.workflow, path.display()),
        }
        Ok(Exit::Done)
    }

    async fn plan(&self, args: &PlanArgs) -> Result<Exit, Failure> {
        let Some(workflow) = args.workflow() else { return self.plan_resume(args).await };
        let AgainArgs { rerun, from, keep } = &args.again;
        if [rerun, from, keep].into_iter().any(|nodes| !nodes.is_empty()) {
            let message = format!(
                "--rerun, --from and --keep are about a run that is there, not about a new one of {workflow}"
            );
            return Err(Failure::Usage(message));
        }
        let checked = self.check(workflow, &args.params)?;
        let report = self.engine.plan(&checked, &CancellationToken::new()).await;
        if self.cli.json {
            print_json("plan", &report)?;
        } else {
            print(&render::plan(&report))?;
        }
        for line in render::problems(&report) {
            say!("{line}");
        }
        Ok(if report.refuses() { Exit::Invalid } else { Exit::Done })
    }

    async fn plan_resume(&self, args: &PlanArgs) -> Result<Exit, Failure> {
        let request = ResumeRequest {
            run: run_id(args.named_run())?,
            params: params(&args.params)?,
            ..again(&args.again)?
        };
        let plan = self.engine.plan_resume(&request, &CancellationToken::new()).await?;
        if self.cli.json {
            print_json("resume-plan", &plan)?;
        } else {
            print(&outlook::table(&plan))?;
        }
        let resume = self.resume_command(&plan.run) + &asked_for(&args.again, &args.params);
        for line in outlook::verdict(&plan, &resume, |step| self.is_unrepeatable(step)) {
            say!("{line}");
        }
        let refused = !plan.changes.is_empty() || plan.has_problems();
        Ok(if refused { Exit::Invalid } else { Exit::Done })
    }

    async fn run(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let checked = self.check(&args.workflow, &args.params)?;
        let count = checked.nodes().count();
        let nodes = if count == 1 { "node" } else { "nodes" };
        say!("checking {}: {count} {nodes}, reading only", checked.name());
        self.say_begun_before(checked.name()).await?;
        self.advance(async |events, shutdown| self.engine.run(&checked, events, shutdown).await).await
    }

    /// That an earlier run of the workflow is not at its end: a person may have wanted to go on with it.
    async fn say_begun_before(&self, workflow: &str) -> Result<(), Failure> {
        let runs = self.engine.runs().await?;
        let last = runs.iter().find(|run| run.workflow == workflow);
        if let Some(run) = last.filter(|run| is_resumable(run.state)) {
            say!("note: this begins another; run {} of {workflow} is not finished", run.run);
            say!("  to go on with that one: {}", self.resume_command(&run.run));
        }
        Ok(())
    }

    async fn resume(&self, args: &ResumeArgs) -> Result<Exit, Failure> {
        let named = run_id(args.run.named())?;
        let is_named = named.is_some();
        let request = ResumeRequest {
            run: named,
            accept_changes: args.accept_changes,
            params: params(&args.params)?,
            ..again(&args.again)?
        };
        let work = async |events: EventSink, shutdown: &Shutdown| {
            self.engine.resume(request, events, shutdown).await
        };
        match self.advance(work).await {
            Err(Failure::Run(RunError::AlreadyDone(run))) => {
                if !is_named {
                    self.none_is_left(&run).await?;
                }
                self.already_done(run).await
            }
            Err(Failure::Run(error @ RunError::Changed(..))) => Err(self.changed(error, args)),
            result => result,
        }
    }

    /// The way to accept what has changed is what was asked for, and that.
    fn changed(&self, error: RunError, args: &ResumeArgs) -> Failure {
        let RunError::Changed(run, changes) = error else { return Failure::Run(error) };
        let asked = asked_for(&args.again, &args.params);
        let accept = format!("{}{asked} --accept-changes", self.resume_command(&run));
        Failure::Changed { run, changes, accept }
    }

    /// That the newest run is done says nothing of another that is not, unless its workflow was begun anew.
    async fn none_is_left(&self, done: &RunId) -> Result<(), Failure> {
        let runs = self.engine.runs().await?;
        let newest = |run: &RunSummary| runs.iter().find(|other| other.workflow == run.workflow) == Some(run);
        let open: Vec<&str> = runs
            .iter()
            .filter(|run| is_resumable(run.state) && newest(run))
            .map(|run| run.run.as_str())
            .collect();
        let Some(first) = open.first() else { return Ok(()) };
        Err(Failure::Usage(format!(
            "run {done}, the newest, is done, but not {}; say which is meant: migrate{} resume {first}",
            open.join(", "),
            self.project_option()
        )))
    }

    /// There is nothing to do, which is no error.
    async fn already_done(&self, run: RunId) -> Result<Exit, Failure> {
        say!("run {run} is done; there is nothing to resume");
        let status = self.engine.status(Some(&run)).await?;
        if self.cli.json {
            print_json("report", &serde_json::json!({ "report": status.report }))?;
        }
        Ok(Exit::Done)
    }

    async fn verify(&self, args: &VerifyArgs) -> Result<Exit, Failure> {
        let depth = if args.deep { VerifyDepth::Deep } else { VerifyDepth::Quick };
        let request = VerifyRequest { run: run_id(args.run.named())?, depth };
        let report = self
            .watched(async |events, shutdown| self.engine.verify(request, events, shutdown).await)
            .await?;
        self.show(&report);
        if report.state == RunState::Failed {
            say!("to do a node again: {} --rerun NODE", self.resume_command(&report.run));
        }
        Ok(match report.state {
            // It is still worked on; what it has finished holds.
            RunState::Running => Exit::Done,
            state => exit_of(state),
        })
    }

    async fn status(&self, args: &RunArgs) -> Result<Exit, Failure> {
        let status = self.engine.status(run_id(args.named())?.as_ref()).await?;
        if self.cli.json {
            print_json("status", &status)?;
        } else {
            print(&format!("{}\n{}", render::report(&status.report), evidence::table(&status.report)))?;
            if let Some(holder) = &status.holder {
                say!("held by {holder}");
            }
        }
        Ok(Exit::Done)
    }

    async fn runs(&self) -> Result<Exit, Failure> {
        let runs = self.engine.runs().await?;
        if runs.is_empty() {
            self.need_migration_file()?;
        }
        if self.cli.json {
            print_json("runs", &serde_json::json!({ "runs": runs }))?;
        } else {
            print(&render::runs(&runs))?;
        }
        Ok(Exit::Done)
    }

    fn unknown_step(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.engine.steps().map(|info| info.name.as_str()).collect();
        Failure::UnknownStep { name: name.to_owned(), near: nearest(name, &known).map(str::to_owned) }
    }

    fn steps(&self, args: &StepsArgs) -> Result<Exit, Failure> {
        let Some(name) = &args.step else {
            if self.cli.json {
                let steps: Vec<_> = self.engine.steps().collect();
                print_json("steps", &serde_json::json!({ "steps": steps, "plugins": self.plugins }))?;
                return Ok(Exit::Done);
            }
            let mut table = Table::new(["STEP", "SOURCE", "DIGEST", "WHAT IT DOES"]);
            for info in self.engine.steps() {
                let (source, digest) = self.source(&info.name);
                table.row([info.name.clone(), source, digest, info.summary.clone()]);
            }
            print(&table.to_string())?;
            return Ok(Exit::Done);
        };
        let info = self.engine.steps().find(|info| info.name == *name);
        let (None, Some(more)) = (info, describe::more(name).filter(|_| !self.cli.json)) else {
            return self.step(info.ok_or_else(|| self.unknown_step(name))?);
        };
        print(&format!("{more}\n"))?;
        Ok(Exit::Done)
    }

    fn step(&self, info: &StepInfo) -> Result<Exit, Failure> {
        let plugin = self.plugin(&info.name);
        if self.cli.json {
            print_json("step", &serde_json::json!({ "step": info, "plugin": plugin }))?;
        } else {
            print(&describe::step(info))?;
            if let Some(more) = describe::more(&info.name) {
                print(&format!("\n{more}\n"))?;
            }
            if let Some(plugin) = plugin {
                print(&format!("\n{}\n", plugins::provenance(plugin)))?;
            }
        }
        Ok(Exit::Done)
    }

    fn new_plugin(&self, args: &PluginNewArgs) -> Result<Exit, Failure> {
        let PluginNewArgs { lang, name } = args;
        let plugins = self.cli.project.join("plugins");
        let taken = |name: &str| self.engine.steps().any(|info| info.name == name);
        let files = scaffold::make(*lang, name, &plugins, taken)?;
        let folder = plugins.join(name);
        let shown = folder.strip_prefix(".").unwrap_or(&folder).display().to_string();
        if self.cli.json {
            print_json("plugin", &serde_json::json!({ "name": name, "folder": shown, "files": files }))?;
        }
        say!("the step `{name}` is in {shown}; next:");
        for command in lang.next(name, &shown, &self.project_option()) {
            say!("  {command}");
        }
        Ok(Exit::Done)
    }

    fn plugin(&self, step: &str) -> Option<&Listed> {
        self.plugins.iter().find(|plugin| plugin.name == step)
    }

    /// Where a step comes from, and which file it is.
    fn source(&self, step: &str) -> (String, String) {
        match self.plugin(step) {
            None => ("built-in".to_owned(), String::new()),
            Some(plugin) => (
                plugin.origin.to_string(),
                plugin.sha256.as_ref().map(|digest| digest.short().to_owned()).unwrap_or_default(),
            ),
        }
    }

    fn schema(&self, args: &SchemaArgs) -> Result<Exit, Failure> {
        let schema = match &args.environment {
            None => self.engine.workflow_schema(),
            Some(named) => {
                let shipped = shipped::names();
                let named = named.iter().map(String::as_str);
                let named: Vec<&str> = if named.len() == 0 { shipped } else { named.collect() };
                let read =
                    named.into_iter().map(|name| self.workflow(name)).collect::<Result<Vec<_>, _>>()?;
                self.engine.environment_schema(&read)?
            }
        };
        let text = serde_json::to_string_pretty(&schema).map_err(|e| Failure::Stdout(e.into()))?;
        print(&format!("{text}\n"))?;
        Ok(Exit::Done)
    }

    /// Works on a run, shows its result and says how to go on.
    async fn advance(
        &self,
        work: impl AsyncFnOnce(EventSink, &Shutdown) -> Result<RunReport, RunError>,
    ) -> Result<Exit, Failure> {
        Ok(self.advance_to(work).await?.1)
    }

    /// The same, with the report.
    pub(crate) async fn advance_to(
        &self,
        work: impl AsyncFnOnce(EventSink, &Shutdown) -> Result<RunReport, RunError>,
    ) -> Result<(RunReport, Exit), Failure> {
        let report = self.watched(work).await?;
        self.show(&report);
        let resume = self.resume_command(&report.run);
        match report.state {
            RunState::Done => {}
            RunState::Waiting => self.say_waiting(&report),
            RunState::Undone => crate::decide::say_undone(&report),
            RunState::Interrupted | RunState::Running if report.undo.is_some() => {
                say!("stopped while undoing; go on with: {resume}");
            }
            RunState::Failed if report.undo.is_some() => {
                say!("the undo failed; when the cause is mended, go on with: {resume}");
            }
            RunState::Interrupted | RunState::Running => say!("stopped; go on with: {resume}"),
            RunState::Failed => say!("failed; when the cause is mended, go on with: {resume}"),
        }
        if matches!(report.state, RunState::Interrupted | RunState::Failed) && report.undo.is_none() {
            self.say_untold(&report);
        }
        let exit = exit_of(report.state);
        Ok((report, exit))
    }

    /// How what is not done again unasked is done again.
    fn say_untold(&self, report: &RunReport) {
        let has_no_end = |node: &&NodeReport| {
            node.items.is_none()
                && node.attempts > 0
                && matches!(node.state, NodeState::Failed | NodeState::Interrupted)
        };
        let nodes = report.nodes.iter().filter(has_no_end);
        let nodes = nodes.filter(|node| self.is_unrepeatable(&node.step)).map(|node| &node.node);
        outlook::untold(&self.resume_command(&report.run), nodes).into_iter().for_each(|line| say!("{line}"));
    }

    /// Whether doing the step again may double its effect, as far as the step itself says.
    fn is_unrepeatable(&self, step: &str) -> bool {
        let mut steps = self.engine.steps();
        steps.any(|info| info.name == step && info.idempotency == Idempotency::None)
    }

    /// Runs `work` under signal handling and shows its events.
    async fn watched(
        &self,
        work: impl AsyncFnOnce(EventSink, &Shutdown) -> Result<RunReport, RunError>,
    ) -> Result<RunReport, Failure> {
        let shutdown = Shutdown::new();
        if let Err(e) = signals::listen(shutdown.clone()) {
            say!("warning: signals can't be handled: {e}");
        }
        let (sink, stream): (_, EventStream) = event_channel();
        let json = self.cli.json;
        let shown = tokio::spawn(watch::watch(stream, json));
        let result = work(sink, &shutdown).await;
        if shown.await.is_err() {
            say!("warning: the display failed; the run did not");
        }
        Ok(result?)
    }

    /// Shows how a run ended. That nobody reads it changes nothing about the run or its exit code.
    fn show(&self, report: &RunReport) {
        let shown = if self.cli.json {
            print_json("report", &serde_json::json!({ "report": report }))
        } else {
            print(&format!("\n{}\n{}", render::report(report), evidence::table(report)))
        };
        if let Err(failure) = shown {
            failure.print();
        }
    }

    pub(crate) fn resume_command(&self, run: &RunId) -> String {
        format!("migrate{} resume {run}", self.project_option())
    }

    pub(crate) fn project_option(&self) -> String {
        if self.cli.project.as_os_str() == "." {
            String::new()
        } else {
            format!(" -C {}", self.cli.project.display())
        }
    }

    fn migration_path(&self) -> PathBuf {
        self.cli.project.join(MIGRATION_FILE)
    }

    /// Its path.
    fn need_migration_file(&self) -> Result<PathBuf, Failure> {
        let path = self.migration_path();
        if path.exists() { Ok(path) } else { Err(Failure::NoMigrationFile(path)) }
    }

    fn check(&self, workflow: &str, given: &ParamArgs) -> Result<Checked, Failure> {
        let environment = Source::read(self.need_migration_file()?)?;
        let checked = self.engine.check(&self.workflow(workflow)?, &environment, &params(given)?)?;
        site::check(self.cli, &environment)?;
        Ok(checked)
    }

    fn workflow(&self, workflow: &str) -> Result<Source, Failure> {
        Ok(match shipped::find(workflow) {
            // No file stands there: the engine keeps the text with the run, so that `resume` goes on
            // with what was run, after an upgrade too.
            Some(text) => Source::new(self.cli.project.join(format!("shipped workflow {workflow}")), text),
            None => Source::read(shipped::file(workflow)?)?,
        })
    }
}

fn is_resumable(state: RunState) -> bool {
    matches!(state, RunState::Failed | RunState::Interrupted | RunState::Waiting)
}

fn exit_of(state: RunState) -> Exit {
    match state {
        RunState::Done => Exit::Done,
        RunState::Interrupted | RunState::Running => Exit::Interrupted,
        RunState::Waiting => Exit::Waiting,
        // The migration did not happen.
        RunState::Failed | RunState::Undone => Exit::Failed,
    }
}

/// The run that was named, if one was.
pub(crate) fn run_id(named: Option<&str>) -> Result<Option<RunId>, Failure> {
    Ok(named.map(RunId::new).transpose()?)
}

/// What shall be done again, without the rest of a request.
fn again(args: &AgainArgs) -> Result<ResumeRequest, Failure> {
    let nodes = |names: &[String]| names.iter().map(NodeId::new).collect::<Result<Vec<_>, _>>();
    let (rerun, from, keep) = (nodes(&args.rerun)?, nodes(&args.from)?, nodes(&args.keep)?);
    Ok(ResumeRequest { rerun, from, keep, ..ResumeRequest::default() })
}

/// The options of a command line that say what shall be done again, and with which parameters; each with a
/// blank before it. Sensitive parameters are references.
fn asked_for(again: &AgainArgs, given: &ParamArgs) -> String {
    let files: Vec<String> = given.files.iter().map(|file| file.display().to_string()).collect();
    let options = [
        ("--rerun", &again.rerun),
        ("--from", &again.from),
        ("--keep", &again.keep),
        ("--param", &given.params),
        ("--param-file", &files),
    ];
    let options =
        options.into_iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    options.map(|(name, value)| format!(" {name} {}", for_a_shell(value))).collect()
}

/// As it is written on a command line.
fn for_a_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn params(args: &ParamArgs) -> Result<Params, Failure> {
    let mut params = Params::new();
    for file in &args.files {
        params.read(&Source::read(file)?)?;
    }
    let mut names = BTreeSet::new();
    for given in &args.params {
        let (name, value) = given
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--param {given}: write NAME=VALUE")))?;
        if !names.insert(name) {
            return Err(Failure::Usage(format!(
                "--param {name} is given twice; write a list as --param {name}=a,b,c, or leave one of them out"
            )));
        }
        params.set(name, value);
    }
    Ok(params)
}
