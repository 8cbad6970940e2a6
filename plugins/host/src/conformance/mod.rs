//! The conformance suite: what every plugin must do, a case each, with what to mend where it doesn't.
//!
//! It talks to the plugin by itself, line by line, so that it also sees what the host would forgive.
//! Cases are run in order, each with a process of its own. Those that have effects are run only with a
//! config that may be applied: the first of `examples` in the plugin's `config_schema`, or a given one.

mod calls;
mod talk;
mod wire;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_plugin_api::StepInfo;
use migrate_plugin_api::protocol::Description;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::process::{Guard, Launch};
use wire::Wire;

/// How long the suite waits for one answer that needs no work.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits for an answer of a call with the sample.
const WORK_PATIENCE: Duration = Duration::from_secs(60);

/// What to test, and with what.
#[derive(Debug, Clone)]
pub struct Suite {
    /// How processes are guarded.
    pub guard: Guard,
    /// The plugin.
    pub launch: Launch,
    /// Its working directory, and the project's folder of its calls.
    pub dir: PathBuf,
    /// A config that may be applied. Without, the plugin's own example.
    pub sample: Option<Value>,
    /// Whether cases with effects are run.
    pub effects: bool,
    /// Only these cases; none: all.
    pub only: BTreeSet<String>,
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed {
        /// What was seen.
        what: String,
        /// What to mend.
        mend: &'static str,
    },
    /// Doesn't apply to this plugin.
    Skipped {
        /// Why.
        why: String,
    },
}

/// One case and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Stable name.
    pub case: &'static str,
    /// What must hold.
    pub rule: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All cases, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuiteReport {
    /// The step, where it could say so.
    pub step: Option<String>,
    /// The cases.
    pub cases: Vec<CaseReport>,
}

impl SuiteReport {
    /// Whether no case failed.
    pub fn passed(&self) -> bool {
        !self.cases.iter().any(|case| matches!(case.outcome, Outcome::Failed { .. }))
    }

    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Outcome) -> bool| self.cases.iter().filter(|case| is(&case.outcome)).count();
        (
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
        )
    }
}

/// Why a case did not pass.
pub(crate) enum Miss {
    /// It failed: what was seen.
    Fail(String),
    /// It doesn't apply.
    Skip(String),
}

impl From<String> for Miss {
    fn from(what: String) -> Self {
        Self::Fail(what)
    }
}

pub(crate) type Verdict = Result<(), Miss>;
type Check = for<'a> fn(&'a Rig) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// A case as it is listed.
pub(crate) struct Case {
    name: &'static str,
    rule: &'static str,
    mend: &'static str,
    /// Whether it needs a config that may be applied.
    needs_sample: bool,
    check: Check,
}

/// What cases share: what was learnt so far.
#[derive(Default)]
pub(crate) struct Learnt {
    info: Option<StepInfo>,
    outputs: Option<Value>,
    cursor: Option<Value>,
    handle: Option<String>,
}

/// What a case is run with.
pub(crate) struct Rig {
    suite: Suite,
    learnt: Mutex<Learnt>,
}

impl Rig {
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the plugin says that it is.
    fn info(&self) -> Result<StepInfo, Miss> {
        self.learnt().info.clone().ok_or_else(|| Miss::Skip("`describe` gave nothing to go by".to_owned()))
    }

    fn sample(&self) -> Result<Value, Miss> {
        let info = self.info()?;
        let own = || info.config_schema["examples"].get(0).cloned();
        self.suite.sample.clone().or_else(own).ok_or_else(|| {
            Miss::Skip("no config to apply: give one, or put `examples` into the config_schema".to_owned())
        })
    }

    fn params(&self, config: &Value) -> Value {
        let mut context = json!({
            "run": "conformance-1",
            "node": "conformance",
            "attempt": 1,
            "key": "conformance-0123456789",
            "project_dir": self.suite.dir.to_string_lossy(),
        });
        let learnt = self.learnt();
        if let Some(cursor) = &learnt.cursor {
            context["cursor"] = cursor.clone();
        }
        if let Some(handle) = &learnt.handle {
            context["handle"] = json!(handle);
        }
        json!({ "context": context, "config": config })
    }

    async fn start(&self) -> Result<Wire, Miss> {
        Ok(Wire::start(&self.suite)?)
    }

    /// A process that has agreed about the protocol.
    async fn open(&self) -> Result<Wire, Miss> {
        let mut wire = self.start().await?;
        wire.result("initialize", initialize(&[1])).await?;
        Ok(wire)
    }
}

/// Params of `initialize`.
fn initialize(versions: &[u32]) -> Value {
    json!({
        "protocol_versions": versions,
        "host": { "name": "conformance", "version": env!("CARGO_PKG_VERSION") },
        "limits": { "message_bytes": 4_194_304, "output_bytes": 268_435_456, "cancel_grace_seconds": 8 },
    })
}

/// Every case, in order.
fn cases() -> Vec<Case> {
    [talk::cases(), calls::cases()].into_iter().flatten().collect()
}

/// The names of all cases, in order.
pub fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

/// Runs the suite, and tells `seen` of each case as it is done.
pub async fn run(suite: Suite, mut seen: impl FnMut(&CaseReport)) -> SuiteReport {
    let rig = Rig { suite, learnt: Mutex::default() };
    if let Ok(mut wire) = rig.open().await
        && let Ok(answer) = wire.result("describe", json!({})).await
    {
        let described = serde_json::from_value::<Description>(answer).ok();
        rig.learnt().info = described.map(StepInfo::from);
    }
    let mut reports = Vec::new();
    let chosen = |case: &Case| rig.suite.only.is_empty() || rig.suite.only.contains(case.name);
    for case in cases().into_iter().filter(chosen) {
        let outcome = if case.needs_sample && !rig.suite.effects {
            Outcome::Skipped { why: "it has effects, which were not asked for".to_owned() }
        } else {
            match (case.check)(&rig).await {
                Ok(()) => Outcome::Passed,
                Err(Miss::Fail(what)) => Outcome::Failed { what, mend: case.mend },
                Err(Miss::Skip(why)) => Outcome::Skipped { why },
            }
        };
        let report = CaseReport { case: case.name, rule: case.rule, outcome };
        seen(&report);
        reports.push(report);
    }
    let step = rig.learnt().info.as_ref().map(|info| info.name.clone());
    SuiteReport { step, cases: reports }
}

/// `config` with every field of `schema` that isn't known yet.
fn all_unknown(schema: &Value) -> Value {
    let fields = schema["properties"].as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    let unknown = |name: String| (name, json!({ "$unknown": "nodes.earlier.output" }));
    Value::Object(fields.unwrap_or_default().into_iter().map(unknown).collect::<Map<_, _>>())
}
