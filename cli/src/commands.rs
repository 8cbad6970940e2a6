//! The commands.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use migrate_engine::{
    Checked, Engine, EventStream, Params, ResumeRequest, RunError, RunReport, RunState, Shutdown, Source,
    VerifyRequest, event_channel,
};
use migrate_plugin_api::{CancellationToken, RunId, VerifyDepth};
use serde::Serialize;

use crate::args::{Cli, Command, ResumeArgs, RunArgs, StepsArgs, VerifyArgs, WorkflowArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{evidence, render, shipped, signals, table::Table, watch};

/// What describes a site; see the README.
const MIGRATION_FILE: &str = "migration.toml";

/// Runs the command that was asked for.
pub async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let session = Session { cli, engine: Engine::open(&cli.project, migrate_steps::all())? };
    match &cli.command {
        Command::Validate(args) => session.validate(args),
        Command::Plan(args) => session.plan(args).await,
        Command::Run(args) => session.run(args).await,
        Command::Resume(args) => session.resume(args).await,
        Command::Status(args) => session.status(args).await,
        Command::Verify(args) => session.verify(args).await,
        Command::Steps(args) => session.steps(args),
    }
}

struct Session<'a> {
    cli: &'a Cli,
    engine: Engine,
}

impl Session<'_> {
    fn validate(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let path = self.migration_path();
        let environment = if path.exists() { Some(Source::read(&path)?) } else { None };
        self.engine.validate(&self.workflow(args)?, environment.as_ref(), &params(args)?)?;
        match environment {
            Some(_) => eprintln!("{} and {} are valid", args.workflow, path.display()),
            None => eprintln!("{} is valid; there is no {} to check it with", args.workflow, path.display()),
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
            eprintln!("{line}");
        }
        Ok(if report.refuses() { Exit::Invalid } else { Exit::Done })
    }

    async fn run(&self, args: &WorkflowArgs) -> Result<Exit, Failure> {
        let checked = self.check(args)?;
        self.keep_shipped(args)?;
        self.watched(async |events, shutdown| self.engine.run(&checked, events, shutdown).await).await
    }

    async fn resume(&self, args: &ResumeArgs) -> Result<Exit, Failure> {
        let request = ResumeRequest {
            run: run_id(&args.run)?,
            accept_changes: args.accept_changes,
            ..ResumeRequest::default()
        };
        self.watched(async |events, shutdown| self.engine.resume(request, events, shutdown).await).await
    }

    async fn verify(&self, args: &VerifyArgs) -> Result<Exit, Failure> {
        let depth = if args.deep { VerifyDepth::Deep } else { VerifyDepth::Quick };
        let request = VerifyRequest { run: run_id(&args.run)?, depth };
        self.watched(async |events, shutdown| self.engine.verify(request, events, shutdown).await).await
    }

    async fn status(&self, args: &RunArgs) -> Result<Exit, Failure> {
        let status = self.engine.status(run_id(args)?.as_ref()).await?;
        if self.cli.json {
            print_json(&status)?;
        } else {
            print(&format!("{}\n{}", render::report(&status.report), evidence::table(&status.report)))?;
            if let Some(holder) = &status.holder {
                eprintln!("held by {holder}");
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

    /// Runs `work` under signal handling, shows its events and its result.
    async fn watched(
        &self,
        work: impl AsyncFnOnce(migrate_engine::EventSink, &Shutdown) -> Result<RunReport, RunError>,
    ) -> Result<Exit, Failure> {
        let shutdown = Shutdown::new();
        if let Err(e) = signals::listen(shutdown.clone()) {
            eprintln!("warning: signals can't be handled: {e}");
        }
        let (sink, stream): (_, EventStream) = event_channel();
        let json = self.cli.json;
        let shown = tokio::spawn(watch::watch(stream, json));
        let result = work(sink, &shutdown).await;
        if shown.await.is_err() {
            eprintln!("warning: the display failed; the run did not");
        }
        self.finish(&result?)
    }

    fn finish(&self, report: &RunReport) -> Result<Exit, Failure> {
        if self.cli.json {
            print_json(&serde_json::json!({ "type": "report", "report": report }))?;
        } else {
            print(&format!("\n{}\n{}", render::report(report), evidence::table(report)))?;
        }
        let resume = format!("migrate{} resume {}", self.project_option(), report.run);
        Ok(match report.state {
            RunState::Done => Exit::Done,
            RunState::Interrupted | RunState::Running => {
                eprintln!("stopped; go on with: {resume}");
                Exit::Interrupted
            }
            RunState::Failed => {
                eprintln!("failed; when the cause is mended, go on with: {resume}");
                Exit::Failed
            }
        })
    }

    fn project_option(&self) -> String {
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
            Some(text) => Source::new(self.kept(&args.workflow), text),
            None => Source::read(shipped::file(&args.workflow)?)?,
        })
    }

    /// Where a shipped workflow is kept, so that `resume` finds what was run after an upgrade too.
    fn kept(&self, name: &str) -> PathBuf {
        self.cli.project.join(".migrate").join("workflows").join(format!("{name}.toml"))
    }

    fn keep_shipped(&self, args: &WorkflowArgs) -> Result<(), Failure> {
        let Some(text) = shipped::find(&args.workflow) else { return Ok(()) };
        let path = self.kept(&args.workflow);
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text)
        };
        write().map_err(|source| Failure::Write { path: path.clone(), source })
    }
}

fn run_id(args: &RunArgs) -> Result<Option<RunId>, Failure> {
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

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::Stdout)
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Stdout(e.into()))?;
    print(&format!("{text}\n"))
}
