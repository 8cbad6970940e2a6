//! The facts of a run. What is not a fact here did not happen.

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, Evidence, IdempotencyKey, LogLevel, NodeId, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::report::RunState;
use crate::run::gate::GateDecision;
use crate::workflow::{Digest, Item, NodeOutline, Wording};

/// The file of a sub-workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct DefinitionPart {
    /// Where it was, seen from the project folder.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What a run was started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Definition {
    /// Where the workflow file was, seen from the project folder.
    pub workflow_path: String,
    /// Its text.
    pub workflow_text: String,
    /// The files of its sub-workflows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<DefinitionPart>,
    /// Where the environment file was, seen from the project folder.
    pub environment_path: String,
    /// Digest of its values.
    pub environment_digest: Digest,
    /// Values of all parameters. Sensitive ones are references.
    pub params: Map<String, Value>,
    /// The nodes, in an order in which they may run.
    pub nodes: Vec<NodeOutline>,
}

/// A run as stored.
#[derive(Debug, Clone)]
pub(crate) struct RunRecord {
    pub id: RunId,
    pub workflow: String,
    pub definition: Definition,
    pub started_at: Timestamp,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Fact {
    /// A process took the run up again, with this definition.
    Resumed { definition: Box<Definition> },
    /// The list of a node with `for_each` is known, or is another one now.
    Expanded {
        node: NodeId,
        items: Vec<Item>,
        /// What the list was written as.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wording: Option<Wording>,
    },
    /// The intent of an attempt. Durable before the step is called.
    Started {
        node: NodeId,
        attempt: u32,
        key: IdempotencyKey,
        digest: Digest,
        step: String,
        step_version: String,
        config: Value,
        /// What the config was written as.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wording: Option<Wording>,
        /// How often the node was begun anew before, because its effect was to be made again.
        #[serde(default, skip_serializing_if = "is_zero")]
        generation: u32,
    },
    /// The node stands as it is beside what is written now, which comes to the same.
    Reworded { node: NodeId, wording: Wording },
    /// The effect is there, and not yet verified. `observed`: found, not made by this attempt.
    Applied { node: NodeId, outputs: Value, observed: bool },
    /// Verified. The node is finished.
    Finished { node: NodeId, evidence: Evidence, duration_ms: u64 },
    /// An attempt failed, and another follows.
    Retrying { node: NodeId, error: ErrorRecord, duration_ms: u64 },
    /// The node failed. `disproved`: by its verification, so nothing it claims can be trusted.
    Failed { node: NodeId, error: ErrorRecord, evidence: Option<Evidence>, disproved: bool, duration_ms: u64 },
    /// The step stopped on request, at a place it knows.
    Interrupted { node: NodeId, duration_ms: u64 },
    /// Not run.
    Skipped {
        node: NodeId,
        reason: String,
        /// What the list was written as; its conditions as they are now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wording: Option<Wording>,
    },
    /// Verified again by a later process.
    Reused { node: NodeId, evidence: Evidence },
    /// What is known of the node no longer counts. `again`: its effect, or what may be left of it, is
    /// to be made again, so a new generation begins and with it a new key.
    Reset {
        node: NodeId,
        reason: String,
        #[serde(default)]
        again: bool,
        /// Nobody asked for it: what it is built on was made again, or it no longer held.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        renewed: bool,
    },
    /// A person wants the node to be made again when its turn comes; until then it stands as it is.
    /// `look`: what an attempt without a known end has begun is looked for first.
    Asked { node: NodeId, look: bool },
    /// A person keeps the node as it is when its turn comes, whatever it is built on was made again.
    Kept { node: NodeId },
    /// A person has decided about a gate.
    Decided { node: NodeId, decision: GateDecision },
    /// From here on the run is taken back, and never goes forward again.
    UndoBegun { reason: String },
    /// The intent of an undo. Durable before the step is called.
    UndoStarted { node: NodeId, attempt: u32 },
    /// The effect is taken back.
    Undone { node: NodeId, duration_ms: u64 },
    /// The undo failed; the next process goes on with it.
    UndoFailed { node: NodeId, error: ErrorRecord, duration_ms: u64 },
    /// The undo has looked, and nothing of the node's last attempt is there; or it was a question that
    /// nobody is asked any more.
    Absent { node: NodeId },
    /// The undo leaves the node as it is.
    Left { node: NodeId, reason: String },
    /// The process ended with the run.
    Ended { state: RunState },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A fact and when it happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stamped {
    pub at: Timestamp,
    pub fact: Fact,
}

/// The place of a node: what its step stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Place {
    pub cursor: Option<Value>,
    pub handle: Option<String>,
}

/// One line that a step said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogLine {
    pub at: Timestamp,
    pub node: NodeId,
    pub level: LogLevel,
    pub message: String,
}

/// Everything that is stored together: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub facts: Vec<Stamped>,
    pub cursors: Vec<(NodeId, Value)>,
    pub handles: Vec<(NodeId, String)>,
    /// Nodes whose place no longer counts.
    pub cleared: Vec<NodeId>,
    pub logs: Vec<LogLine>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.facts.is_empty()
            && self.cursors.is_empty()
            && self.handles.is_empty()
            && self.cleared.is_empty()
            && self.logs.is_empty()
    }
}

/// The name of a level as stored.
pub(crate) fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
    }
}

/// The level of that name.
pub(crate) fn level_named(name: &str) -> Option<LogLevel> {
    [LogLevel::Debug, LogLevel::Info, LogLevel::Warn].into_iter().find(|level| level_name(*level) == name)
}
