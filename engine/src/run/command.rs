//! The words between the core and the dispatcher: what happened, and what to do.

use std::time::Duration;

use migrate_plugin_api::{ErrorRecord, Evidence, IdempotencyKey, NodeId, Observation, VerifyDepth};
use serde_json::Value;

use super::executor::Limit;
use super::gate::GateDecision;
use crate::event::EventKind;
use crate::report::RunState;
use crate::store::fact::Fact;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    Begin,
    Observed(NodeId, Result<Observation, ErrorRecord>),
    Applied(NodeId, Result<Value, ErrorRecord>),
    Verified(NodeId, Result<Evidence, ErrorRecord>),
    Undone(NodeId, Result<(), ErrorRecord>),
    /// A person has decided about a gate.
    Decided(Box<GateDecision>),
    /// A wait is over.
    Wake(NodeId),
    /// Stop starting; what runs has been asked to stop.
    Drain,
}

/// Which call of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Observe,
    Apply,
    Verify,
    Undo,
}

/// A call to make.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub node: NodeId,
    pub step: String,
    pub kind: CallKind,
    pub attempt: u32,
    pub key: IdempotencyKey,
    pub config: Value,
    pub outputs: Option<Value>,
    /// How hard to look, for `verify`.
    pub depth: VerifyDepth,
    /// How long it may take.
    pub limit: Limit,
    /// The longest attempt, for `apply`.
    pub attempt_limit: Option<Duration>,
    /// The longest silence, for `apply`.
    pub heartbeat: Option<Duration>,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Record(Fact),
    /// Forget the node's cursor and handle.
    Clear(NodeId),
    SetHandle(NodeId, String),
    Emit(EventKind),
    Call(Box<Call>),
    Wake(NodeId, Duration),
    /// Go on with the undo of the run.
    Undo,
    End(RunState),
}
