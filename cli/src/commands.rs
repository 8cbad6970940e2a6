//! The commands.

use std::io::Write as _;
use std::path::PathBuf;

use migrate_engine::{
    Checked, Engine, EventSink, EventStream, Params, ResumeRequest, RunError, RunReport, RunState, Shutdown,
    Source, StoreSettings, VerifyRequest, event_channel,
};
use migrate_plugin_api::{CancellationToken, NodeId, RunId, VerifyDepth};
use serde::Serialize;

use crate::args::{Cli, Command, ResumeArgs, RunArgs, StepsArgs, VerifyArgs, WorkflowArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::say;
use crate::{evidence, render, shipped, signals, table::Table, watch};

/// What describes a site; see the README.
const MIGRATION_FILE: &str = "migration.toml";

/// Runs the command that was asked for.
pub async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let engine = Engine::open(&cli.project, migrate_steps::all())?.with_store(store(cli)?);
    let session = Session { cli, engine };
    match &cli.command {
        Command::Validate(args) => session.validate(args),
        Command::Plan(args) => session.plan(args).await,
        Command::Run(args) => session.run(args).await,
        Command::Resume(args) => session.resume(args).await,
        Command::Approve(args) => session.approve(args).await,
        Command::Undo(args) => session.undo(args).await,
        Command::Status(args) => session.status(args).await,
        Command::Verify(args) => session.verify(args).await,
        Command::Steps(args) => session.steps(args),
    }
}

/// Where facts are kept, for the commands that ask.
fn store(cli: &Cli) -> Result<Option<StoreSettings>, Failure> {
    let path = cli.project.join(MIGRATION_FILE);
    let needed = !matches!(cli.command, Command::Validate(_) | Command::Plan(_) | Command::Steps(_));
    Ok(if needed && path.exists() { StoreSettings::of(&Source::read(path)?)? } else { None })
}

pub(crate) struct Session<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) engine: Engine,
}

impl Session<'_> {
    fn validate(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let path = self.migration_path();
        let environment = if path.exists() { Some(Source::read(&path)?) } else { None };
        self.engine.validate(&self.workflow(args)?, environment.as_ref(), &params(args)?)?;
        match environment {
            Some(_) => say!("{} and {} are valid", args.workflow, path.display()),
            None => say!("{} is valid; there is no {} to check it with", args.workflow, path.display()),
        }
        Ok(Exit::Done)
    }

    async fn plan(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let checked = self.check(args)?;
        let report = self.engine.plan(&checked, &CancellationToken::new()).await;
        if self.cli.json {
            print_json(&report)?;
        } else {
            print(&render::plan(&report))?;
        }
        for line in render::problems(&report) {
            say!("{line}");
        }
        Ok(if report.refuses() { Exit::Invalid } else { Exit::Done })
    }

    async fn run(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let checked = self.check(args)?;
        self.advance(async |events, shutdown| self.engine.run(&checked, events, shutdown).await).await
    }

    async fn resume(&self, args: &ResumeArgs) -> Result<Exit, Failure> {
        let request = ResumeRequest {
            run: run_id(&args.run)?,
            accept_changes: args.accept_changes,
            rerun: args.rerun.iter().map(NodeId::new).collect::<Result<_, _>>()?,
            ..ResumeRequest::default()
        };
        let work = async |events: EventSink, shutdown: &Shutdown| {
            self.engine.resume(request, events, shutdown).await
        };
        match self.advance(work).await {
            Err(Failure::Run(RunError::AlreadyDone(run))) => self.already_done(run).await,
            result => result,
        }
    }

    /// There is nothing to do, which is no error.
    async fn already_done(&self, run: RunId) -> Result<Exit, Failure> {
        say!("run {run} is done; there is nothing to resume");
        let status = self.engine.status(Some(&run)).await?;
        if self.cli.json {
            print_json(&serde_json::json!({ "type": "report", "report": status.report }))?;
        }
        Ok(Exit::Done)
    }

    async fn verify(&self, args: &VerifyArgs) -> Result<Exit, Failure> {
        let depth = if args.deep { VerifyDepth::Deep } else { VerifyDepth::Quick };
        let request = VerifyRequest { run: run_id(&args.run)?, depth };
        let report = self
            .watched(async |events, shutdown| self.engine.verify(request, events, shutdown).await)
            .await?;
        self.show(&report);
        if report.state == RunState::Failed {
            say!("to do a node again: {} --rerun NODE", self.resume_command(&report));
        }
        Ok(exit_of(report.state))
    }

    async fn status(&self, args: &RunArgs) -> Result<Exit, Failure> {
        let status = self.engine.status(run_id(args)?.as_ref()).await?;
        if self.cli.json {
            print_json(&status)?;
        } else {
            print(&format!("{}\n{}", render::report(&status.report), evidence::table(&status.report)))?;
            if let Some(holder) = &status.holder {
                say!("held by {holder}");
            }
        }
        Ok(Exit::Done)
    }

    fn steps(&self, args: &StepsArgs) -> Result<Exit, Failure> {
        let Some(name) = &args.step else {
            if self.cli.json {
                print_json(&self.engine.steps().collect::<Vec<_>>())?;
                return Ok(Exit::Done);
            }
            let mut table = Table::new(["STEP", "WHAT IT DOES"]);
            for info in self.engine.steps() {
                table.row([info.name.clone(), info.summary.clone()]);
            }
            print(&table.to_string())?;
            return Ok(Exit::Done);
        };
        let info = self
            .engine
            .steps()
            .find(|info| info.name == *name)
            .ok_or_else(|| Failure::UnknownStep(name.clone()))?;
        if self.cli.json {
            print_json(info)?;
        } else {
            print(&render::step(info))?;
        }
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
        let resume = self.resume_command(&report);
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
        let exit = exit_of(report.state);
        Ok((report, exit))
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
            print_json(&serde_json::json!({ "type": "report", "report": report }))
        } else {
            print(&format!("\n{}\n{}", render::report(report), evidence::table(report)))
        };
        if let Err(failure) = shown {
            failure.print();
        }
    }

    pub(crate) fn resume_command(&self, report: &RunReport) -> String {
        format!("migrate{} resume {}", self.project_option(), report.run)
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

    fn check(&self, args: &WorkflowArgs) -> Result<Checked, Failure> {
        let path = self.migration_path();
        if !path.exists() {
            return Err(Failure::NoMigrationFile(path));
        }
        Ok(self.engine.check(&self.workflow(args)?, &Source::read(path)?, &params(args)?)?)
    }

    fn workflow(&self, args: &WorkflowArgs) -> Result<Source, Failure> {
        Ok(match shipped::find(&args.workflow) {
            // No file stands there: the engine keeps the text with the run, so that `resume` goes on
            // with what was run, after an upgrade too.
            Some(text) => {
                Source::new(self.cli.project.join(format!("shipped workflow {}", args.workflow)), text)
            }
            None => Source::read(shipped::file(&args.workflow)?)?,
        })
    }
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

pub(crate) fn run_id(args: &RunArgs) -> Result<Option<RunId>, Failure> {
    Ok(args.run.clone().map(RunId::new).transpose()?)
}

fn params(args: &WorkflowArgs) -> Result<Params, Failure> {
    let mut params = Params::new();
    for given in &args.params {
        let (name, value) = given
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--param {given}: write NAME=VALUE")))?;
        params.set(name, value);
    }
    Ok(params)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::Stdout)
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Stdout(e.into()))?;
    print(&format!("{text}\n"))
}
