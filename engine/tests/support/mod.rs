//! A project in a folder of its own, and a step that does as it is told and remembers every call.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use migrate_engine::{
    Changes, Checked, DecideRequest, Engine, Event, EventSink, NodeChange, Params, ResumeRequest, RunError,
    RunReport, Shutdown, Source, event_channel,
};
use migrate_plugin_api::{
    Check, Evidence, Idempotency, LogLevel, NodeId, Observation, Problem, Progress, Step, StepContext,
    StepError, StepInfo, StepPlan, VerifyDepth, async_trait,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

/// What one call of `apply` does.
#[derive(Debug, Clone)]
pub enum Apply {
    Succeed,
    Transient,
    Permanent,
    Panic,
    /// Stores a cursor and a handle, tells the test, and waits to be stopped.
    CheckpointAndWait,
    /// Tells the test and ignores every request to stop.
    Hang,
    /// Names what it makes with what is no line of text.
    OddHandle,
    /// Fails in passing, and leaves something running that stores a cursor when it is told to.
    LeaveRunning,
    /// Tells it to, waits until it has, and fails for good.
    WaitForLeft,
}

/// What the step does, by node; anything not said is the plain good case.
#[derive(Default)]
pub struct Script {
    pub apply: BTreeMap<String, VecDeque<Apply>>,
    pub observe: BTreeMap<String, VecDeque<Observation>>,
    /// `false`: a failed check.
    pub verify: BTreeMap<String, VecDeque<bool>>,
    pub undo: BTreeMap<String, VecDeque<Apply>>,
    /// Nodes that can't be looked at: credentials are refused.
    pub blind: Vec<String>,
    pub refuse: BTreeMap<String, String>,
    pub calls: Vec<String>,
}

/// The scripted step `test`; `test.once` is the same without idempotency, `test.natural` with a natural
/// one.
#[derive(Clone)]
pub struct Scripted {
    name: &'static str,
    version: String,
    pub script: Arc<Mutex<Script>>,
    pub reached: Arc<Notify>,
    /// To and from what `LeaveRunning` leaves.
    pub left: Arc<(Notify, Notify)>,
}

impl Scripted {
    fn called(&self, kind: &str, ctx: &StepContext) -> String {
        let node = ctx.node.to_string();
        self.script.lock().unwrap().calls.push(format!("{kind} {node}"));
        node
    }
}

#[async_trait]
impl Step for Scripted {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: self.name.to_owned(),
            version: self.version.clone(),
            summary: "Does as it is told".to_owned(),
            config_schema: json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "value": {},
                    "text": { "type": "string" },
                    "items": { "type": "array", "items": { "type": "string" } }
                }
            }),
            output_schema: json!({
                "type": "object",
                "required": ["value", "attempt"],
                "properties": {
                    "value": {},
                    "attempt": { "type": "integer" },
                    "token": { "type": "string" },
                    "list": { "type": "array", "items": { "type": "string" } }
                }
            }),
            sensitive: vec!["/token".to_owned()],
            idempotency: match self.name {
                "test" => Idempotency::Keyed,
                "test.natural" => Idempotency::Natural,
                _ => Idempotency::None,
            },
            supports_undo: self.name != "test.once",
        }
    }

    async fn plan(&self, ctx: &StepContext, config: &Value) -> Result<StepPlan, StepError> {
        let node = self.called("plan", ctx);
        let mut plan = StepPlan::new(format!("would use {config}"));
        if let Some(problem) = self.script.lock().unwrap().refuse.get(&node) {
            plan.problems.push(Problem::error(problem.clone()));
        }
        Ok(plan)
    }

    async fn observe(&self, ctx: &StepContext, _: &Value) -> Result<Observation, StepError> {
        let node = self.called("observe", ctx);
        let mut script = self.script.lock().unwrap();
        let next = script.observe.get_mut(&node).and_then(VecDeque::pop_front);
        Ok(next.unwrap_or(Observation::Absent))
    }

    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        let node = self.called("apply", ctx);
        let act = self.script.lock().unwrap().apply.get_mut(&node).and_then(VecDeque::pop_front);
        match act.unwrap_or(Apply::Succeed) {
            Apply::Succeed => {}
            Apply::Transient => return Err(StepError::transient("failed to reach the service")),
            Apply::Permanent => {
                return Err(StepError::permanent("failed to do the thing").with_hint("do another"));
            }
            Apply::Panic => panic!("this step is broken"),
            Apply::CheckpointAndWait => {
                ctx.progress(Progress::message("half way").items(5, 10));
                ctx.info("reached the middle");
                ctx.checkpoint(&json!({ "place": 5 })).await?;
                ctx.set_handle("job-1").await?;
                self.reached.notify_one();
                ctx.cancel.cancelled().await;
                return Err(StepError::cancelled());
            }
            Apply::Hang => {
                self.reached.notify_one();
                std::future::pending::<()>().await;
            }
            Apply::OddHandle => ctx.set_handle("job\u{0}1").await?,
            Apply::LeaveRunning => {
                let (ctx, step) = (ctx.clone(), self.clone());
                tokio::spawn(async move {
                    step.left.0.notified().await;
                    let stored = ctx.checkpoint(&json!({ "place": "of another" })).await.is_ok();
                    step.called(&format!("stored {stored} by what was left of"), &ctx);
                    step.left.1.notify_one();
                });
                return Err(StepError::transient("failed to reach the service"));
            }
            Apply::WaitForLeft => {
                self.left.0.notify_one();
                self.left.1.notified().await;
                return Err(StepError::permanent("failed to do the thing"));
            }
        }
        let cursor: Option<Value> = ctx.cursor()?;
        if cursor.is_some() || ctx.handle().is_some() {
            let place = json!([cursor, ctx.handle()]);
            self.script.lock().unwrap().calls.push(format!("apply {node} at {place}"));
        }
        let effect = format!("{node} {}\n", ctx.key);
        let mut all = std::fs::read_to_string(ctx.path("effects")).unwrap_or_default();
        all.push_str(&effect);
        std::fs::write(ctx.path("effects"), all).unwrap();
        Ok(
            json!({ "value": config.get("value"), "attempt": ctx.attempt, "token": "hunter2", "list": ["a", "b"] }),
        )
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        _: &Value,
        _: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let kind = if depth == VerifyDepth::Deep { "verify deep" } else { "verify" };
        let node = self.called(kind, ctx);
        if self.script.lock().unwrap().blind.contains(&node) {
            return Err(StepError::auth("failed to look"));
        }
        let good = self.script.lock().unwrap().verify.get_mut(&node).and_then(VecDeque::pop_front);
        let found = if good.unwrap_or(true) { "3" } else { "2" };
        Ok(Evidence::from_iter([Check::equal("table shop.orders", "rows", "3", found)]))
    }

    async fn undo(&self, ctx: &StepContext, config: &Value, outputs: &Value) -> Result<(), StepError> {
        let node = self.called("undo", ctx);
        let act = self.script.lock().unwrap().undo.get_mut(&node).and_then(VecDeque::pop_front);
        // As `apply` had and returned them, but for what is sensitive.
        assert_eq!(config.get("value").unwrap_or(&Value::Null), &outputs["value"]);
        match act.unwrap_or(Apply::Succeed) {
            Apply::Permanent => Err(StepError::permanent("failed to take it back")),
            Apply::Hang => {
                self.reached.notify_one();
                std::future::pending::<()>().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A project folder with its files, and the step's script.
pub struct Project {
    pub dir: TempDir,
    pub step: Scripted,
    version: String,
}

impl Project {
    pub fn new(workflow: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let step = Scripted {
            name: "test",
            version: "1".to_owned(),
            script: Arc::default(),
            reached: Arc::default(),
            left: Arc::default(),
        };
        let project = Self { dir, step, version: "1".to_owned() };
        project.write_workflow(workflow);
        project.write_environment("[site]\nname = \"here\"\n");
        project
    }

    pub fn write_workflow(&self, body: &str) {
        std::fs::write(self.path("w.toml"), format!("schema = 1\nname = \"w\"\n{body}")).unwrap();
    }

    pub fn write_environment(&self, body: &str) {
        std::fs::write(self.path("migration.toml"), format!("schema = 1\n{body}")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A later version of the step is installed.
    pub fn upgrade(&mut self) {
        self.version = "2".to_owned();
    }

    /// A new engine, as a new process would have it.
    pub fn engine(&self) -> Engine {
        let step = |name| {
            let step = Scripted { name, version: self.version.clone(), ..self.step.clone() };
            Arc::new(step) as Arc<dyn Step>
        };
        Engine::open(self.dir.path(), vec![step("test"), step("test.natural"), step("test.once")]).unwrap()
    }

    pub fn checked(&self, engine: &Engine) -> Checked {
        let workflow = Source::read(self.path("w.toml")).unwrap();
        let environment = Source::read(self.path("migration.toml")).unwrap();
        match engine.check(&workflow, &environment, &Params::new()) {
            Ok(checked) => checked,
            Err(diagnostics) => panic!("{:?}", diagnostics.mistakes()),
        }
    }

    pub async fn run(&self) -> RunReport {
        let engine = self.engine();
        let checked = self.checked(&engine);
        engine.run(&checked, EventSink::discard(), &Shutdown::new()).await.unwrap()
    }

    /// Runs until a step tells the test, and is killed there.
    pub async fn run_and_kill(&self) -> RunReport {
        let (engine, shutdown) = (self.engine(), Shutdown::new());
        let checked = self.checked(&engine);
        let (report, ()) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
            self.step.reached.notified().await;
            shutdown.kill();
        });
        report.unwrap()
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.step.script.lock().unwrap());
    }

    /// Every call so far but `plan`s, and forgets them.
    pub fn calls(&self) -> Vec<String> {
        let mut script = self.step.script.lock().unwrap();
        let calls = std::mem::take(&mut script.calls);
        calls.into_iter().filter(|call| !call.starts_with("plan ")).collect()
    }

    /// Nodes whose effect happened, in order, with the key it was made under.
    pub fn effects(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.path("effects")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(n, k)| (n.to_owned(), k.to_owned()))
            .collect()
    }
}

/// All events of a finished run.
pub fn collector() -> (EventSink, tokio::task::JoinHandle<Vec<Event>>) {
    let (sink, mut stream) = event_channel();
    let task = tokio::spawn(async move {
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        events
    });
    (sink, task)
}

pub fn states(report: &RunReport) -> Vec<(String, String)> {
    let name = |state| serde_json::to_value(state).unwrap().as_str().unwrap().to_owned();
    report.nodes.iter().map(|node| (node.node.to_string(), name(node.state))).collect()
}

pub fn pairs<'a>(items: &'a [(&'a str, &'a str)]) -> Vec<(String, String)> {
    items.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Takes the project's run up again, with nobody watching.
pub async fn resume(project: &Project, request: ResumeRequest) -> Result<RunReport, RunError> {
    project.engine().resume(request, EventSink::discard(), &Shutdown::new()).await
}

pub fn level_name(level: LogLevel) -> String {
    format!("{level:?}")
}

/// Says yes to the gate `go`.
pub async fn approve(project: &Project) {
    let (by, host) = ("ana".to_owned(), "laptop".to_owned());
    let node = NodeId::new("go").unwrap();
    let request = DecideRequest { run: None, node, approved: true, by, host, note: None };
    project.engine().decide(request).await.unwrap();
}

pub fn plain() -> ResumeRequest {
    ResumeRequest::default()
}

pub fn accept() -> ResumeRequest {
    ResumeRequest { accept_changes: true, ..plain() }
}

pub fn rerun(name: &str) -> ResumeRequest {
    ResumeRequest { rerun: vec![NodeId::new(name).unwrap()], ..plain() }
}

/// What a plain `resume` is refused with.
pub async fn refused(project: &Project) -> Changes {
    match resume(project, plain()).await {
        Err(RunError::Changed(_, changes)) => *changes,
        other => panic!("not told: {other:?}"),
    }
}

/// By node, in the words of the command line.
pub fn sentences(changes: &Changes) -> Vec<String> {
    let node = |change: &NodeChange| {
        change.sentences().into_iter().map(|text| format!("{}: {text}", change.node)).collect::<Vec<_>>()
    };
    changes.nodes.iter().flat_map(node).collect()
}

pub fn applied(project: &Project) -> Vec<String> {
    project.calls().into_iter().filter(|call| call.starts_with("apply")).collect()
}

pub fn fails(project: &Project, node: &str) {
    project.script(|s| drop(s.apply.insert(node.into(), [Apply::Permanent].into())));
}
