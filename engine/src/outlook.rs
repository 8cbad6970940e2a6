//! What `resume` would do with a run, as data: node by node, with the reason. No secrets in it.

use migrate_plugin_api::{ErrorRecord, Evidence, NodeId, RunId, Severity, StepPlan};
use serde::{Deserialize, Serialize};

use crate::report::{Changes, FieldChange, RunState};
use crate::store::holder::Holder;

/// What would become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Finished, unchanged, and verified just now: its result is used again.
    Reuse,
    /// Finished and unchanged so far, but it takes outputs of a node that runs before it: reused
    /// if they come out the same, run again if not.
    ReuseOrRerun,
    /// Its effect is there and unchanged, but something that it is built on is made again: it is verified
    /// from the data itself, reused if that holds; if not, a person is asked.
    Inspect,
    /// Its effect is there; only its verification is missing.
    Verify,
    /// An attempt has no known end: it is looked for before anything is done.
    Observe,
    /// It has run and runs again.
    Rerun,
    /// A gate that a person is to decide about.
    Wait,
    /// It has not begun.
    Start,
    /// It is not run, on purpose.
    Skip,
    /// Only a person can decide: `resume` would stop here.
    Ask,
}

/// One node of a [`ResumePlan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeOutlook {
    /// Its name.
    pub node: NodeId,
    /// Its step.
    pub step: String,
    /// What would become of it.
    pub action: Action,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What differs from its last attempt, field by field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// What was compared just now, of a finished node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What the step would do, where it would run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<StepPlan>,
    /// Why the step couldn't say, or couldn't look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorRecord>,
}

/// What `resume` would do with a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ResumePlan {
    /// [`REPORT_VERSION`](crate::REPORT_VERSION).
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// How it stands.
    pub state: RunState,
    /// It is done and its files lead to nothing more: `resume` would do nothing.
    pub complete: bool,
    /// The process that works on it now; `resume` would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// What `resume` refuses without `accept_changes`.
    pub changes: Changes,
    /// Every node, in an order in which they may run.
    pub nodes: Vec<NodeOutlook>,
}

impl ResumePlan {
    /// Whether something other than changes keeps the run from going on.
    pub fn has_problems(&self) -> bool {
        let refuses =
            |plan: &StepPlan| plan.problems.iter().any(|problem| problem.severity == Severity::Error);
        self.nodes.iter().any(|node| {
            node.action == Action::Ask || node.error.is_some() || node.plan.as_ref().is_some_and(refuses)
        })
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeOutlook> {
        self.nodes.iter().find(|node| node.node.as_str() == name)
    }
}
