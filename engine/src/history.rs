//! What happened to a run, told to a reader: its facts and what its steps said, in the order of
//! time. Pure: the facts and lines are given.
//!
//! Safe to follow while the run is alive: [`HistoryMark`] says up to where a reader has read, and
//! what is appended later comes after it.

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, LogLevel, NodeId};
use serde::{Deserialize, Serialize};

use crate::report::RunState;
use crate::run::GateDecision;
use crate::store::fact::{Fact, LogLine, Stamped};

/// Version of the JSON form of [`HistoryEntry`].
pub const HISTORY_VERSION: u32 = 1;

/// What to tell of a run.
#[derive(Debug, Clone, Default)]
pub struct HistoryRequest {
    /// The run; default: the newest.
    pub run: Option<migrate_plugin_api::RunId>,
    /// Only this node.
    pub node: Option<NodeId>,
    /// Only lines that matter at least this much; facts always count.
    pub level: Option<LogLevel>,
    /// Only what comes after.
    pub after: HistoryMark,
}

/// Up to where a reader has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryMark {
    pub(crate) facts: usize,
    pub(crate) line: i64,
}

/// A part of a run's history.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The run.
    pub run: migrate_plugin_api::RunId,
    /// Oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Where to go on reading.
    pub mark: HistoryMark,
    /// Whether a process works on the run, and more may come.
    pub alive: bool,
}

/// One thing that happened or was said. As JSON one flat object, as [`Event`](crate::Event) is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// [`HISTORY_VERSION`].
    pub version: u32,
    /// When.
    pub at: Timestamp,
    /// Which node, unless it is about the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// What.
    #[serde(flatten)]
    pub kind: HistoryKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum HistoryKind {
    /// A step, or the engine on its behalf, said something.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// The line.
        message: String,
    },
    /// The list of a node with `for_each` became known.
    Expanded {
        /// How many items it has.
        items: usize,
    },
    /// An attempt began.
    Started {
        /// From 1.
        attempt: u32,
        /// The step.
        step: String,
    },
    /// Its effect is there.
    Applied {
        /// Whether it was found there instead of made by this attempt.
        observed: bool,
    },
    /// Verified.
    Finished {
        /// Time of the last attempt.
        duration_ms: u64,
    },
    /// An attempt failed and another followed.
    Retrying {
        /// Why.
        error: ErrorRecord,
    },
    /// The node failed.
    Failed {
        /// Why.
        error: ErrorRecord,
    },
    /// Stopped on request.
    Interrupted,
    /// Not run.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Verified again by a later process.
    Reused,
    /// What was known of the node no longer counts.
    Reset {
        /// Why.
        reason: String,
    },
    /// A person asked for the node to be made again when its turn comes.
    Asked,
    /// A person keeps the node as it is when its turn comes, although what it is built on was made again.
    Kept,
    /// A person decided about a gate.
    Decided {
        /// What, who, when.
        decision: GateDecision,
    },
    /// From here on the run was taken back.
    UndoBegun {
        /// Why.
        reason: String,
    },
    /// The undo of the node began.
    UndoStarted {
        /// From 1.
        attempt: u32,
    },
    /// Its effect is taken back.
    Undone {
        /// Time of the undo.
        duration_ms: u64,
    },
    /// Its undo failed.
    UndoFailed {
        /// Why.
        error: ErrorRecord,
    },
    /// Nothing of it was there, or a gate was not asked any more: there was nothing to undo.
    Absent,
    /// The undo left it as it is.
    Left {
        /// Why.
        reason: String,
    },
    /// A process took the run up again.
    Resumed,
    /// A process ended with the run.
    Ended {
        /// How.
        state: RunState,
    },
}

/// `facts` and `lines` as one story. What is not asked for is left out.
pub(crate) fn story(
    request: &HistoryRequest,
    facts: Vec<Stamped>,
    lines: Vec<(i64, LogLine)>,
) -> (Vec<HistoryEntry>, HistoryMark) {
    let mark = HistoryMark {
        facts: facts.len().max(request.after.facts),
        line: lines.last().map_or(request.after.line, |(id, _)| *id),
    };
    let facts = facts.into_iter().skip(request.after.facts).filter_map(|stamped| told(&stamped));
    let wanted = |node: &Option<NodeId>| request.node.is_none() || *node == request.node;
    let mut entries: Vec<HistoryEntry> = facts.filter(|entry| wanted(&entry.node)).collect();
    let lines = lines.into_iter().map(|(_, line)| line).filter(|line| {
        request.level.is_none_or(|level| line.level >= level) && wanted(&Some(line.node.clone()))
    });
    entries.extend(lines.map(|line| HistoryEntry {
        version: HISTORY_VERSION,
        at: line.at,
        node: Some(line.node),
        kind: HistoryKind::Log { level: line.level, message: line.message },
    }));
    // Stable: of equal times, the fact comes before what was said.
    entries.sort_by_key(|entry| entry.at);
    (entries, mark)
}

#[allow(clippy::too_many_lines, reason = "one arm for each fact")]
fn told(stamped: &Stamped) -> Option<HistoryEntry> {
    let (node, kind) = match &stamped.fact {
        Fact::Resumed { .. } => (None, HistoryKind::Resumed),
        Fact::Ended { state } => (None, HistoryKind::Ended { state: *state }),
        Fact::Expanded { node, items, .. } => (Some(node), HistoryKind::Expanded { items: items.len() }),
        Fact::Decided { node, decision } => (Some(node), HistoryKind::Decided { decision: decision.clone() }),
        Fact::UndoBegun { reason } => (None, HistoryKind::UndoBegun { reason: reason.clone() }),
        Fact::UndoStarted { node, attempt } => (Some(node), HistoryKind::UndoStarted { attempt: *attempt }),
        Fact::Undone { node, duration_ms } => (Some(node), HistoryKind::Undone { duration_ms: *duration_ms }),
        Fact::UndoFailed { node, error, .. } => {
            (Some(node), HistoryKind::UndoFailed { error: error.clone() })
        }
        Fact::Left { node, reason } => (Some(node), HistoryKind::Left { reason: reason.clone() }),
        Fact::Started { node, attempt, step, .. } => {
            (Some(node), HistoryKind::Started { attempt: *attempt, step: step.clone() })
        }
        Fact::Applied { node, observed, .. } => (Some(node), HistoryKind::Applied { observed: *observed }),
        Fact::Finished { node, duration_ms, .. } => {
            (Some(node), HistoryKind::Finished { duration_ms: *duration_ms })
        }
        Fact::Retrying { node, error, .. } => (Some(node), HistoryKind::Retrying { error: error.clone() }),
        Fact::Failed { node, error, .. } => (Some(node), HistoryKind::Failed { error: error.clone() }),
        Fact::Interrupted { node, .. } => (Some(node), HistoryKind::Interrupted),
        Fact::Skipped { node, reason, .. } => (Some(node), HistoryKind::Skipped { reason: reason.clone() }),
        Fact::Reused { node, .. } => (Some(node), HistoryKind::Reused),
        // It stands as it did.
        Fact::Reworded { .. } => return None,
        Fact::Asked { node, .. } => (Some(node), HistoryKind::Asked),
        Fact::Kept { node } => (Some(node), HistoryKind::Kept),
        Fact::Absent { node } => (Some(node), HistoryKind::Absent),
        Fact::Reset { node, reason, .. } => (Some(node), HistoryKind::Reset { reason: reason.clone() }),
    };
    Some(HistoryEntry { version: HISTORY_VERSION, at: stamped.at, node: node.cloned(), kind })
}
