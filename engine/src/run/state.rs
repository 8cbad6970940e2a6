//! The state of a run as the fold over its facts: pure, and the same for the dispatcher, `resume`
//! and every reader.

use std::collections::BTreeMap;

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, Evidence, IdempotencyKey, NodeId};
use serde_json::Value;

use crate::report::{NodeReport, NodeState, REPORT_VERSION, RunReport, RunState};
use crate::store::fact::{Definition, Fact, RunRecord, Stamped};
use crate::workflow::Digest;

/// How far a node has durably come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing that counts has happened.
    #[default]
    New,
    /// An attempt has an intent, and its effect may or may not be there.
    Open,
    /// The effect is there and not verified.
    Applied,
    /// Verified.
    Finished,
    Skipped,
}

/// What is durably known of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeRecord {
    pub phase: Phase,
    /// It failed where it stands. Cleared by the next attempt.
    pub failed: bool,
    /// Verified again since the run was last taken up.
    pub reused: bool,
    /// Stopped on request where it stands.
    pub stopped: bool,
    pub attempts: u32,
    /// How often its effect was to be made again. A retry and a resume stay in theirs.
    pub generation: u32,
    pub key: Option<IdempotencyKey>,
    pub digest: Option<Digest>,
    pub step: Option<String>,
    pub step_version: Option<String>,
    pub config: Option<Value>,
    pub outputs: Option<Value>,
    pub evidence: Option<Evidence>,
    pub error: Option<ErrorRecord>,
    pub reason: Option<String>,
    pub duration_ms: u64,
}

impl NodeRecord {
    /// Whether nodes that wait for it may go on.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Skipped) && !self.failed
    }

    fn begin(&mut self) {
        self.failed = false;
        self.reused = false;
        self.stopped = false;
        self.error = None;
        self.reason = None;
    }
}

/// What is durably known of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunFacts {
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    pub ended: Option<(RunState, Timestamp)>,
    pub definition: Option<Definition>,
}

impl RunFacts {
    /// The fold over `facts`.
    pub(crate) fn fold(facts: impl IntoIterator<Item = Stamped>) -> Self {
        let mut state = Self::default();
        for stamped in facts {
            state.apply(&stamped.fact, stamped.at);
        }
        state
    }

    /// Takes in one more fact.
    pub(crate) fn apply(&mut self, fact: &Fact, at: Timestamp) {
        match fact {
            Fact::Resumed { definition } => {
                self.definition = Some(definition.as_ref().clone());
                self.nodes.values_mut().for_each(|record| record.reused = false);
                self.ended = None;
            }
            Fact::Ended { state } => self.ended = Some((*state, at)),
            Fact::Started { node, .. }
            | Fact::Applied { node, .. }
            | Fact::Finished { node, .. }
            | Fact::Retrying { node, .. }
            | Fact::Failed { node, .. }
            | Fact::Interrupted { node, .. }
            | Fact::Skipped { node, .. }
            | Fact::Reused { node, .. }
            | Fact::Reset { node, .. } => apply_to(self.nodes.entry(node.clone()).or_default(), fact),
        }
    }

    /// The report of `run` as it stands. `alive`: whether a process works on it now.
    pub(crate) fn report(&self, run: &RunRecord, alive: bool) -> RunReport {
        let definition = self.definition.as_ref().unwrap_or(&run.definition);
        let state = match self.ended {
            Some((state, _)) => state,
            None if alive => RunState::Running,
            None => RunState::Interrupted,
        };
        let mut stuck: Vec<&NodeId> = Vec::new();
        let mut nodes = Vec::with_capacity(definition.nodes.len());
        let empty = NodeRecord::default();
        for outline in &definition.nodes {
            let record = self.nodes.get(&outline.node).unwrap_or(&empty);
            let cause = outline.needs.iter().find(|needed| stuck.contains(needed));
            let node_state = node_state(record, alive, state != RunState::Running && cause.is_some());
            if matches!(node_state, NodeState::Failed | NodeState::Blocked) {
                stuck.push(&outline.node);
            }
            let blocked = cause.filter(|_| node_state == NodeState::Blocked);
            nodes.push(NodeReport {
                node: outline.node.clone(),
                step: outline.step.clone(),
                state: node_state,
                attempts: record.attempts,
                duration_ms: record.duration_ms,
                outputs: record.outputs.clone(),
                evidence: record.evidence.clone(),
                error: record.error.clone(),
                reason: record.reason.clone().or_else(|| blocked.map(|id| format!("it waits for `{id}`"))),
            });
        }
        RunReport {
            version: REPORT_VERSION,
            run: run.id.clone(),
            workflow: run.workflow.clone(),
            state,
            started_at: run.started_at,
            ended_at: self.ended.map(|(_, at)| at),
            nodes,
        }
    }
}

fn node_state(record: &NodeRecord, alive: bool, blocked: bool) -> NodeState {
    if record.failed {
        return NodeState::Failed;
    }
    match record.phase {
        Phase::New if blocked => NodeState::Blocked,
        Phase::New => NodeState::Pending,
        Phase::Finished if record.reused => NodeState::Reused,
        Phase::Finished => NodeState::Finished,
        Phase::Skipped => NodeState::Skipped,
        Phase::Open | Phase::Applied if alive && !record.stopped => NodeState::Running,
        Phase::Open | Phase::Applied => NodeState::Interrupted,
    }
}

fn apply_to(record: &mut NodeRecord, fact: &Fact) {
    match fact {
        Fact::Started { attempt, key, digest, step, step_version, config, generation, .. } => {
            record.begin();
            record.phase = Phase::Open;
            record.attempts = *attempt;
            record.generation = *generation;
            record.key = Some(key.clone());
            record.digest = Some(digest.clone());
            record.step = Some(step.clone());
            record.step_version = Some(step_version.clone());
            record.config = Some(config.clone());
            record.outputs = None;
            record.evidence = None;
        }
        Fact::Applied { outputs, .. } => {
            record.begin();
            record.phase = Phase::Applied;
            record.outputs = Some(outputs.clone());
        }
        Fact::Finished { evidence, duration_ms, .. } => {
            record.begin();
            record.phase = Phase::Finished;
            record.evidence = Some(evidence.clone());
            record.duration_ms += duration_ms;
        }
        Fact::Reused { evidence, .. } => {
            record.begin();
            record.reused = true;
            record.evidence = Some(evidence.clone());
        }
        Fact::Retrying { error, duration_ms, .. } => {
            record.error = Some(error.clone());
            record.duration_ms += duration_ms;
        }
        Fact::Failed { error, evidence, disproved, duration_ms, .. } => {
            record.failed = true;
            record.error = Some(error.clone());
            record.evidence = evidence.clone().or_else(|| record.evidence.take());
            record.duration_ms += duration_ms;
            if *disproved {
                record.phase = Phase::New;
            }
        }
        Fact::Interrupted { duration_ms, .. } => {
            record.stopped = true;
            record.duration_ms += duration_ms;
        }
        Fact::Skipped { reason, .. } => {
            record.begin();
            record.phase = Phase::Skipped;
            record.outputs = None;
            record.evidence = None;
            record.reason = Some(reason.clone());
        }
        Fact::Reset { again, .. } => {
            record.begin();
            record.generation += u32::from(*again);
            record.phase = Phase::New;
            record.outputs = None;
            record.evidence = None;
        }
        Fact::Resumed { .. } | Fact::Ended { .. } => {}
    }
}
