//! What the engine tells about plans and runs, as data: serializable, with no secrets in it.

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, Evidence, NodeId, RunId, Severity, StepPlan, UNKNOWN_KEY};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::holder::Holder;

/// Version of the JSON forms in this file.
pub const REPORT_VERSION: u32 = 1;

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// A process works on it.
    Running,
    /// Every node is finished, reused or skipped.
    Done,
    /// Nothing more can be done until a person decides about a gate. Can be resumed.
    Waiting,
    /// Taken back, as far as that can be. What can't is told. The migration did not happen.
    Undone,
    /// A node failed, or its undo. Can be resumed.
    Failed,
    /// Stopped on request, or its process died. Can be resumed.
    Interrupted,
}

impl RunState {
    /// Whether `resume` has something to do.
    pub fn is_resumable(self) -> bool {
        matches!(self, Self::Waiting | Self::Failed | Self::Interrupted)
    }
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Not begun.
    Pending,
    /// An attempt runs, or is waited for.
    Running,
    /// Begun, and stopped before its end was known.
    Interrupted,
    /// Applied and verified.
    Finished,
    /// Finished by an earlier process and verified again by this one.
    Reused,
    /// Not run, on purpose.
    Skipped,
    /// A gate that waits for a person.
    Waiting,
    /// Its effect was taken back.
    Undone,
    /// The undo of the run left it as it is.
    Left,
    /// Failed.
    Failed,
    /// Can't run: something that it needs has failed.
    Blocked,
    /// No longer in the workflow, or in the list that it was an item of; what it did is left.
    Removed,
}

/// How the items of a node with `for_each` stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ItemCounts {
    /// All of them.
    pub total: usize,
    /// Finished, reused or skipped.
    pub done: usize,
    /// Failed.
    pub failed: usize,
    /// At work, or stopped in the middle.
    pub begun: usize,
}

impl ItemCounts {
    pub(crate) fn of(items: &[NodeReport]) -> Self {
        let count = |is: &dyn Fn(NodeState) -> bool| items.iter().filter(|item| is(item.state)).count();
        Self {
            total: items.len(),
            done: count(&NodeState::is_done),
            failed: count(&|state| state == NodeState::Failed),
            begun: count(&|state| matches!(state, NodeState::Running | NodeState::Interrupted)),
        }
    }

    /// How the node stands as a whole.
    pub(crate) fn state(self, blocked: bool, alive: bool) -> NodeState {
        match self {
            Self { failed: 1.., .. } => NodeState::Failed,
            Self { total, done, .. } if done == total => NodeState::Finished,
            _ if blocked => NodeState::Blocked,
            Self { begun: 0, done: 0, .. } => NodeState::Pending,
            _ if alive => NodeState::Running,
            _ => NodeState::Interrupted,
        }
    }
}

impl NodeState {
    /// Whether nodes that wait for it may go on.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Finished | Self::Reused | Self::Skipped)
    }
}

/// One node of a [`RunReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeReport {
    /// Its name.
    pub node: NodeId,
    /// Its step.
    pub step: String,
    /// How it stands; of a node with `for_each`, how its items stand together.
    pub state: NodeState,
    /// How many of its items are how far. They follow it in the report, each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Attempts over all processes of the run.
    pub attempts: u32,
    /// Time of all its attempts in milliseconds, verification included.
    pub duration_ms: u64,
    /// Outputs; sensitive ones are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Value>,
    /// What proves the effect, or what disproves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorRecord>,
    /// Why it was skipped or blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunReport {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Its ID.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// How it stands.
    pub state: RunState,
    /// When it was first started.
    pub started_at: Timestamp,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it is being undone, or is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// In an order in which they may run; items after their node, what was removed at the end.
    pub nodes: Vec<NodeReport>,
}

impl RunReport {
    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeReport> {
        self.nodes.iter().find(|report| report.node.as_str() == name)
    }
}

/// A run as a reader sees it, while it runs or later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunStatus {
    /// Everything that is durable about it.
    pub report: RunReport,
    /// The process that works on it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// One line of the list of runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunSummary {
    /// Its ID.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// How it stands.
    pub state: RunState,
    /// When it was first started.
    pub started_at: Timestamp,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What one node would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodePlan {
    /// Its name.
    pub node: NodeId,
    /// Its step.
    pub step: String,
    /// What it waits for.
    pub needs: Vec<NodeId>,
    /// Why it will not run; then there is no plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Its condition, where that is only known during the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The list that it goes through; its items follow as plans of their own, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ListPlan>,
    /// What the step says; of a list that is not known yet, about an item of which nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<StepPlan>,
    /// Why the step couldn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorRecord>,
}

/// What is known of the list of a node with `for_each`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListPlan {
    /// Number of its items; absent where it is only known during the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
    /// The outputs that it is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

impl NodePlan {
    /// Whether it keeps the run from starting.
    pub fn refuses(&self) -> bool {
        self.error.is_some()
            || self.plan.iter().flat_map(|p| &p.problems).any(|p| p.severity == Severity::Error)
    }
}

/// What a run would do, node by node in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanReport {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The workflow's name.
    pub workflow: String,
    /// Every node.
    pub nodes: Vec<NodePlan>,
}

impl PlanReport {
    /// Whether something keeps the run from starting.
    pub fn refuses(&self) -> bool {
        self.nodes.iter().any(NodePlan::refuses)
    }
}

/// One field that is no longer what it was when the node ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FieldChange {
    /// `with.images[0].from`, or `step`, or `step version`, or `for_each["KEY"]`, or `for_each` or `key` as a whole, or
    /// `when`, where it asks for outputs, or `needs`, where it waits for more.
    pub field: String,
    /// As it was; absent if it is new. Of a condition its text, as of what comes to the same as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Value>,
    /// As it is; absent if it is gone. A mark (`$unknown`) where it is only known when another node has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Value>,
}

/// A node that ran with another config than it has now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeChange {
    /// The node.
    pub node: NodeId,
    /// Whether it is no longer in the workflow, or in the list that it was an item of.
    pub removed: bool,
    /// Exactly what differs.
    pub fields: Vec<FieldChange>,
    /// Why it would not run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Nodes that depend on it, have run, and will be looked at again: rerun if their inputs differ.
    pub affects: Vec<NodeId>,
}

/// What undoing a run means for one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndoAction {
    /// Its effect is taken back.
    Undo,
    /// Its last attempt has no known end: it is looked for, and taken back if it is there.
    Look,
    /// It stays as it is.
    Leave,
    /// Its step can't be used now, so the undo does not begin unless it is told to leave it.
    Blocked,
}

/// One node of an [`UndoPlan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeUndo {
    /// The node.
    pub node: NodeId,
    /// Its step.
    pub step: String,
    /// What happens to it.
    pub action: UndoAction,
    /// Why it is left or blocked; or what of it is left besides, where it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What undoing a run would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UndoPlan {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// In the order in which it happens. Nodes of which nothing is there are not among them.
    pub nodes: Vec<NodeUndo>,
}

/// Why a run isn't resumed without `accept_changes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changes {
    /// Every changed node that has begun or finished.
    pub nodes: Vec<NodeChange>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl NodeChange {
    /// What there is to say of it, about the node and without its name.
    pub fn sentences(&self) -> Vec<String> {
        let place = if self.node.key().is_some() { "the list" } else { "the workflow" };
        let gone = self.removed.then(|| format!("is no longer in {place}; what it did is left as it is"));
        let skipped = self.skipped.as_ref().map(|reason| {
            format!("has run and would be skipped now: {reason}; what it made is left as it is")
        });
        gone.into_iter().chain(skipped).chain(self.fields.iter().map(FieldChange::to_string)).collect()
    }
}

impl std::fmt::Display for FieldChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = |value: &Value| value.get(UNKNOWN_KEY).and_then(Value::as_str).map(str::to_owned);
        let show = |value: &Option<Value>| match value {
            None => "absent".to_owned(),
            Some(value) => {
                mark(value).map_or_else(|| value.to_string(), |of| format!("${{{of}}} (not known yet)"))
            }
        };
        write!(f, "{} was {}, is {}", self.field, show(&self.was), show(&self.now))
    }
}
