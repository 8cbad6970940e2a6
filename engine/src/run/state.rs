//! The state of a run as the fold over its facts: pure, and the same for the dispatcher, `resume`
//! and every reader.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, Evidence, IdempotencyKey, NodeId};
use serde_json::{Map, Value};

use super::gate::{GATE, GateDecision, question};
use crate::report::{ItemCounts, NodeReport, NodeState, REPORT_VERSION, RunReport, RunState};
use crate::store::fact::{Definition, Fact, RunRecord, Stamped};
use crate::workflow::{ALL, Digest, Item, Lookup, NodeOutline, Outcomes, Reference, Wording, node_of};

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
    /// Its effect was taken back.
    Undone,
}

/// How a node is to be made again when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// A person has looked, and named it.
    Blind,
    /// What an attempt without a known end has begun is looked for first.
    Look,
}

/// What a node had made, or may have, before it was made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remains {
    pub key: IdempotencyKey,
    pub digest: Option<Digest>,
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
    /// An undo has an intent and no end.
    pub undoing: bool,
    /// The undo of the run leaves it as it is.
    pub left: bool,
    pub attempts: u32,
    /// Undos begun.
    pub undos: u32,
    /// What was decided about the gate.
    pub decision: Option<GateDecision>,
    /// Something has been begun that counts, and may be there even if the node is skipped by now.
    pub begun: bool,
    /// At which fact of the run the last attempt began.
    pub began_at: u64,
    /// At which fact it was last begun from nothing, finished or reused: up to there it holds beside what it is
    /// built on.
    pub settled_at: u64,
    /// It is to be made again, and until then stands as it is.
    pub again: Option<Again>,
    /// It is made again though nobody asked for it: what it is built on was, or it no longer held.
    pub renewed: bool,
    /// A person keeps it as it is when its turn comes, whatever was made again.
    pub kept: bool,
    /// A person has accepted what has changed of it in the files; said of this life only.
    pub accepted: bool,
    /// Something has changed of it in the files that nobody was told of, since it is skipped and should stay so;
    /// said of this life only.
    pub untold: bool,
    /// It has a list now; this is what it did before it had one.
    pub former: bool,
    /// What it had made before it was made again, oldest first.
    pub remains: Vec<Remains>,
    /// How often its effect was to be made again. A retry and a resume stay in theirs.
    pub generation: u32,
    pub key: Option<IdempotencyKey>,
    pub digest: Option<Digest>,
    pub step: Option<String>,
    pub step_version: Option<String>,
    pub config: Option<Value>,
    /// What the config was written as; not known of what an older version has begun.
    pub wording: Option<Wording>,
    pub outputs: Option<Value>,
    pub evidence: Option<Evidence>,
    pub error: Option<ErrorRecord>,
    /// Why its undo failed, if that is how it stands.
    pub undo_error: Option<ErrorRecord>,
    pub reason: Option<String>,
    pub duration_ms: u64,
}

impl NodeRecord {
    /// Whether nodes that wait for it may go on.
    pub(crate) fn is_done(&self) -> bool {
        let is_finished = self.phase == Phase::Finished && self.again.is_none();
        (is_finished || self.phase == Phase::Skipped) && !self.failed
    }

    /// Whether its effect is there as far as is known, verified or not.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.phase, Phase::Applied | Phase::Finished)
    }

    /// At which fact it was last made. What is skipped makes nothing.
    pub(crate) fn made_at(&self) -> Option<u64> {
        (self.phase != Phase::Skipped).then_some(self.began_at)
    }

    /// Whether something that it made is there, or may be.
    pub(crate) fn may_have_made(&self) -> bool {
        self.begun || !self.remains.is_empty()
    }

    /// Whether a person is to decide.
    pub(crate) fn is_waiting(&self) -> bool {
        self.phase == Phase::Open
            && !self.failed
            && self.again.is_none()
            && self.step.as_deref() == Some(GATE)
    }

    fn begin(&mut self) {
        self.failed = false;
        self.undoing = false;
        self.kept = false;
        self.reused = false;
        self.stopped = false;
        self.error = None;
        self.undo_error = None;
        self.reason = None;
    }

    /// What there was no longer counts, and may be left somewhere.
    fn reset(&mut self, again: bool) {
        self.begin();
        if let Some(key) = self.key.clone().filter(|_| again && self.begun) {
            self.remains.push(Remains { key, digest: self.digest.clone() });
        }
        self.generation += u32::from(again);
        self.again = None;
        self.nothing_there();
    }

    fn nothing_there(&mut self) {
        self.begun = false;
        self.phase = Phase::New;
        self.outputs = None;
        self.evidence = None;
    }

    /// What it did before it became a list, if it did anything.
    fn into_former(mut self) -> Option<Self> {
        let is_gate = self.step.as_deref() == Some(GATE);
        (self.may_have_made() && !is_gate).then(|| {
            self.begin();
            self.again = None;
            self.former = true;
            self
        })
    }
}

/// What is durably known of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunFacts {
    /// Nodes, and items of nodes with `for_each`, of which something is known.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The lists of nodes with `for_each`, as last known.
    pub lists: BTreeMap<NodeId, Arc<[Item]>>,
    /// What each of them was written as.
    pub list_wordings: BTreeMap<NodeId, Wording>,
    pub ended: Option<(RunState, Timestamp)>,
    pub definition: Option<Definition>,
    /// Why the run is being undone, or is undone.
    pub undo: Option<String>,
    /// How many facts.
    count: u64,
}

impl RunFacts {
    /// The fold over `facts`.
    pub(crate) fn fold(facts: impl IntoIterator<Item: Borrow<Stamped>>) -> Self {
        let mut state = Self::default();
        for stamped in facts {
            let stamped = stamped.borrow();
            state.apply(&stamped.fact, stamped.at);
        }
        state
    }

    /// Takes in one more fact.
    pub(crate) fn apply(&mut self, fact: &Fact, at: Timestamp) {
        self.count += 1;
        match fact {
            Fact::Resumed { definition } => {
                self.definition = Some(definition.as_ref().clone());
                self.nodes.values_mut().for_each(|record| record.reused = false);
                self.ended = None;
            }
            Fact::Ended { state } => self.ended = Some((*state, at)),
            Fact::UndoBegun { reason } => self.undo = Some(reason.clone()),
            Fact::Expanded { node, items, wording } => {
                // It failed to be expanded before, was skipped, or was a node without a list.
                let former = self.nodes.remove(node).and_then(NodeRecord::into_former);
                self.nodes.extend(former.map(|record| (node.clone(), record)));
                self.lists.insert(node.clone(), items.as_slice().into());
                match wording {
                    Some(wording) => drop(self.list_wordings.insert(node.clone(), wording.clone())),
                    None => drop(self.list_wordings.remove(node)),
                }
            }
            Fact::Started { node, .. }
            | Fact::Reworded { node, .. }
            | Fact::Applied { node, .. }
            | Fact::Finished { node, .. }
            | Fact::Retrying { node, .. }
            | Fact::Failed { node, .. }
            | Fact::Interrupted { node, .. }
            | Fact::Skipped { node, .. }
            | Fact::Reused { node, .. }
            | Fact::Decided { node, .. }
            | Fact::UndoStarted { node, .. }
            | Fact::Undone { node, .. }
            | Fact::UndoFailed { node, .. }
            | Fact::Left { node, .. }
            | Fact::Absent { node }
            | Fact::Asked { node, .. }
            | Fact::Kept { node }
            | Fact::Reset { node, .. } => {
                let record = self.nodes.entry(node.clone()).or_default();
                // An undo is about what it was; everything else is about what it is now.
                record.former &= self.undo.is_some();
                match fact {
                    // Another attempt may go on with what the one before has begun, on what there was then.
                    Fact::Started { .. } if record.begun => record.began_at = self.count,
                    Fact::Started { .. } => {
                        (record.began_at, record.settled_at) = (self.count, self.count);
                    }
                    Fact::Finished { .. } | Fact::Reused { .. } => record.settled_at = self.count,
                    _ => {}
                }
                apply_to(record, fact);
                if let Fact::Skipped { node, wording: Some(wording), .. } = fact {
                    self.list_wordings.insert(node.clone(), wording.clone());
                }
            }
        }
    }

    /// What is known of the node or item; nothing, if it is not known.
    pub(crate) fn node(&self, id: &NodeId) -> &NodeRecord {
        static NOTHING: LazyLock<NodeRecord> = LazyLock::new(NodeRecord::default);
        self.nodes.get(id).unwrap_or(&NOTHING)
    }

    /// What is known of the node as it is now, by itself: not of its items, nor of what it did before
    /// it had a list.
    pub(crate) fn own(&self, node: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node).filter(|record| !record.former)
    }

    /// The report of `run` as it stands. `alive`: whether a process works on it now.
    pub(crate) fn report(&self, run: &RunRecord, alive: bool) -> RunReport {
        let definition = self.definition.as_ref().unwrap_or(&run.definition);
        let state = match self.ended {
            Some((state, _)) => state,
            None if alive => RunState::Running,
            None => RunState::Interrupted,
        };
        let mut stuck: BTreeSet<&NodeId> = BTreeSet::new();
        let mut nodes: Vec<NodeReport> = Vec::with_capacity(definition.nodes.len());
        for outline in &definition.nodes {
            let cause = outline.needs.iter().find(|needed| stuck.contains(needed));
            let cause = cause.filter(|_| state != RunState::Running);
            let first = nodes.len();
            self.report_node(outline, alive, cause, &mut nodes);
            if matches!(nodes[first].state, NodeState::Failed | NodeState::Blocked) {
                stuck.insert(&outline.node);
            }
        }
        self.report_removed(&mut nodes);
        RunReport {
            version: REPORT_VERSION,
            run: run.id.clone(),
            workflow: run.workflow.clone(),
            state,
            started_at: run.started_at,
            ended_at: self.ended.map(|(_, at)| at),
            undo: self.undo.clone(),
            nodes,
        }
    }

    /// The node; where it has items, all of them together and then each.
    fn report_node(
        &self,
        outline: &NodeOutline,
        alive: bool,
        cause: Option<&NodeId>,
        nodes: &mut Vec<NodeReport>,
    ) {
        let own = self.own(&outline.node);
        let is_skipped = own.is_some_and(|own| own.phase == Phase::Skipped);
        let items = self.lists.get(&outline.node).filter(|_| outline.for_each && !is_skipped);
        let Some(items) = items else {
            let mut report = node_report(&outline.node, own, alive, cause);
            report.step.clone_from(&outline.step);
            return nodes.push(report);
        };
        let at = nodes.len();
        nodes.push(node_report(&outline.node, None, alive, None));
        for item in &**items {
            let Ok(id) = outline.node.item(&item.key) else { continue };
            let mut report = node_report(&id, self.nodes.get(&id), alive, cause);
            report.step.clone_from(&outline.step);
            nodes.push(report);
        }
        let counts = ItemCounts::of(&nodes[at + 1..]);
        let duration_ms = nodes[at + 1..].iter().map(|report| report.duration_ms).sum();
        let mut states: Vec<NodeState> = nodes[at + 1..].iter().map(|report| report.state).collect();
        let former = self.nodes.get(&outline.node).filter(|record| record.former);
        states.extend(former.filter(|_| self.undo.is_some()).map(|record| node_state(record, alive, false)));
        let whole = &mut nodes[at];
        whole.step.clone_from(&outline.step);
        whole.state = counts.state(cause.is_some(), alive);
        whole.duration_ms = duration_ms;
        if let Some(state) = together(&states) {
            whole.state = state;
        }
        // Its list as it is now was refused, whatever the items of the last one have done; or what it did
        // before it had one can't be taken back.
        let refused = own.filter(|own| own.failed).and_then(|own| own.error.clone());
        whole.error = refused.or_else(|| former.and_then(|record| record.undo_error.clone()));
        if whole.error.is_some() {
            whole.state = NodeState::Failed;
        }
        whole.reason = match (whole.state, cause) {
            (NodeState::Blocked, Some(id)) => Some(waits_for(id)),
            _ if former.is_some() => former.and_then(former_reason),
            _ if counts.total == 0 => Some("its list is empty: there was nothing to do".to_owned()),
            _ => None,
        };
        whole.items = Some(counts);
    }

    /// What is no longer in the workflow or in a list, but has had its effect, or may have.
    fn report_removed(&self, nodes: &mut Vec<NodeReport>) {
        let listed: BTreeSet<NodeId> = nodes.iter().map(|report| report.node.clone()).collect();
        let counts = |record: &NodeRecord| record.may_have_made() || record.phase == Phase::Undone;
        for (id, record) in self.nodes.iter().filter(|(id, record)| !listed.contains(id) && counts(record)) {
            let mut report = node_report(id, Some(record), false, None);
            report.step = record.step.clone().unwrap_or_default();
            if !matches!(report.state, NodeState::Undone | NodeState::Left) && record.undo_error.is_none() {
                report.state = NodeState::Removed;
                let is_skipped = self.own(&id.whole()).is_some_and(|own| own.phase == Phase::Skipped);
                let why = match id.key() {
                    Some(_) if is_skipped => "its node is skipped now",
                    Some(_) => "it is no longer in the list",
                    None => "it is no longer in the workflow",
                };
                report.reason = Some(format!("{why}; what it did is left as it is"));
            }
            nodes.push(report);
        }
    }

    /// Every item of `node` of which something is known, in its list or not.
    pub(crate) fn items_of<'a>(
        &'a self,
        node: &'a NodeId,
    ) -> impl Iterator<Item = (&'a NodeId, &'a NodeRecord)> {
        // Between a name and its items there can be longer names, as in `a`, `a-b`, `a[x]`.
        let after = self.nodes.range(node.clone()..);
        let begins = |id: &NodeId| id.as_str().starts_with(node.as_str());
        after
            .take_while(move |(id, _)| begins(id))
            .filter(move |(id, _)| id.key().is_some() && id.as_str()[node.as_str().len()..].starts_with('['))
    }

    /// What is known of one item.
    pub(super) fn item(&self, node: &NodeId, key: &str) -> Option<&NodeRecord> {
        self.nodes.get(&node.item(key).ok()?)
    }

    /// What `reference` is about, if that is skipped.
    fn skipped(&self, reference: &Reference) -> Option<&NodeRecord> {
        let id = node_of(reference)?;
        let key = reference.path.get(1).filter(|_| self.lists.contains_key(&id));
        let is_skipped = |record: &&NodeRecord| record.phase == Phase::Skipped;
        let own = self.own(&id).filter(is_skipped);
        own.or_else(|| self.item(&id, key?).filter(is_skipped))
    }

    /// The outputs of all items of `node`, in the order of its list, without skipped ones; `None`
    /// while one is missing.
    fn all_outputs(&self, node: &NodeId, items: &[Item]) -> Option<Vec<(String, &Value)>> {
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let record = self.item(node, &item.key)?;
            match &record.outputs {
                Some(outputs) => all.push((item.key.clone(), outputs)),
                None if record.phase == Phase::Skipped => {}
                None => return None,
            }
        }
        Some(all)
    }
}

impl Outcomes for RunFacts {
    fn is_skipped(&self, reference: &Reference) -> bool {
        self.skipped(reference).is_some()
    }

    fn output(&self, path: &[String]) -> Lookup<'_> {
        let Some((name, rest)) = path.split_first() else { return Lookup::Unknown };
        let Ok(id) = NodeId::new(name.clone()) else { return Lookup::Unknown };
        let items = self.lists.get(&id).filter(|_| self.own(&id).is_none());
        let Some(items) = items else {
            let outputs = self.own(&id).and_then(|record| record.outputs.as_ref());
            return outputs.map_or(Lookup::Unknown, |outputs| Lookup::at(outputs, rest));
        };
        match rest.split_first() {
            None => match self.all_outputs(&id, items) {
                Some(all) => {
                    let map = all.into_iter().map(|(key, outputs)| (key, outputs.clone()));
                    Lookup::Known(Cow::Owned(Value::Object(map.collect::<Map<_, _>>())))
                }
                None => Lookup::Unknown,
            },
            Some((key, rest)) if key == ALL => match self.all_outputs(&id, items) {
                Some(all) => {
                    let found = all.into_iter().map(|(_, outputs)| match Lookup::at(outputs, rest) {
                        Lookup::Known(value) => Some(value.into_owned()),
                        _ => None,
                    });
                    match found.collect::<Option<Value>>() {
                        Some(list) => Lookup::Known(Cow::Owned(list)),
                        None => Lookup::Missing,
                    }
                }
                None => Lookup::Unknown,
            },
            Some((key, rest)) => match self.item(&id, key).map(|record| &record.outputs) {
                _ if !items.iter().any(|item| item.key == *key) => Lookup::Missing,
                Some(Some(outputs)) => Lookup::at(outputs, rest),
                _ => Lookup::Unknown,
            },
        }
    }
}

/// How items stand together where a person decided, or is to decide.
fn together(items: &[NodeState]) -> Option<NodeState> {
    use NodeState::{Failed, Interrupted, Left, Pending, Running, Skipped, Undone, Waiting};
    let any = |state| items.contains(&state);
    if any(Failed) || any(Running) || any(Interrupted) {
        return None;
    }
    let taken_back = items.iter().all(|state| matches!(state, Undone | Left | Pending | Skipped));
    match () {
        () if any(Waiting) => Some(Waiting),
        () if taken_back && any(Undone) => Some(Undone),
        () if taken_back && any(Left) => Some(Left),
        () => None,
    }
}

/// What is to be said of what a node did before it had a list.
fn former_reason(record: &NodeRecord) -> Option<String> {
    match record.phase {
        _ if record.left => record.reason.clone(),
        Phase::New | Phase::Undone if record.remains.is_empty() => None,
        _ => Some("what it did before it had a list is left as it is".to_owned()),
    }
}

fn waits_for(id: &NodeId) -> String {
    format!("it waits for `{id}`")
}

/// The report of one node or item. `cause`: what it needs that can't be done.
fn node_report(id: &NodeId, record: Option<&NodeRecord>, alive: bool, cause: Option<&NodeId>) -> NodeReport {
    let empty = NodeRecord::default();
    let record = record.unwrap_or(&empty);
    let state = node_state(record, alive, cause.is_some());
    let blocked = cause.filter(|_| state == NodeState::Blocked);
    NodeReport {
        node: id.clone(),
        step: String::new(),
        state,
        items: None,
        attempts: record.attempts,
        duration_ms: record.duration_ms,
        outputs: record.outputs.clone(),
        evidence: record.evidence.clone(),
        error: record.undo_error.clone().or_else(|| record.error.clone()),
        reason: record.reason.clone().or_else(|| blocked.map(waits_for)).or_else(|| still_to_be_done(record)),
    }
}

/// What is asked, or asked for.
fn still_to_be_done(record: &NodeRecord) -> Option<String> {
    if record.is_waiting() {
        return record.config.as_ref().map(question);
    }
    let is_there = record.again.is_some() && record.is_there();
    is_there.then(|| "it is to be made again, as asked for; until then, what it made stays".to_owned())
}

fn node_state(record: &NodeRecord, alive: bool, blocked: bool) -> NodeState {
    if record.failed || record.undo_error.is_some() {
        return NodeState::Failed;
    }
    if record.left {
        return NodeState::Left;
    }
    if record.undoing {
        return if alive { NodeState::Running } else { NodeState::Interrupted };
    }
    if record.is_waiting() {
        return NodeState::Waiting;
    }
    match record.phase {
        Phase::Undone => NodeState::Undone,
        Phase::New if blocked => NodeState::Blocked,
        Phase::New => NodeState::Pending,
        Phase::Applied | Phase::Finished if record.again.is_some() && blocked => NodeState::Blocked,
        Phase::Applied | Phase::Finished if record.again.is_some() => NodeState::Pending,
        Phase::Finished if record.reused => NodeState::Reused,
        Phase::Finished => NodeState::Finished,
        Phase::Skipped => NodeState::Skipped,
        Phase::Open | Phase::Applied if alive && !record.stopped => NodeState::Running,
        Phase::Open | Phase::Applied => NodeState::Interrupted,
    }
}

fn apply_to(record: &mut NodeRecord, fact: &Fact) {
    match fact {
        Fact::Started { attempt, key, digest, step, step_version, config, wording, generation, .. } => {
            record.begin();
            record.phase = Phase::Open;
            record.attempts = *attempt;
            record.begun = true;
            record.again = None;
            record.generation = *generation;
            record.decision = None;
            record.key = Some(key.clone());
            record.digest = Some(digest.clone());
            record.step = Some(step.clone());
            record.step_version = Some(step_version.clone());
            record.config = Some(config.clone());
            record.wording.clone_from(wording);
            record.outputs = None;
            record.evidence = None;
        }
        Fact::Reworded { wording, .. } => record.wording = Some(wording.clone()),
        Fact::Applied { outputs, .. } => {
            record.begin();
            record.phase = Phase::Applied;
            record.outputs = Some(outputs.clone());
        }
        Fact::Finished { evidence, duration_ms, .. } => {
            record.begin();
            record.phase = Phase::Finished;
            record.renewed = false;
            record.evidence = Some(evidence.clone());
            record.duration_ms += duration_ms;
        }
        Fact::Reused { evidence, .. } => {
            record.begin();
            record.reused = true;
            record.evidence = Some(evidence.clone());
        }
        Fact::Retrying { error, duration_ms, .. } => {
            // A failed node goes on telling why it failed.
            if !record.failed {
                record.error = Some(error.clone());
            }
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
        Fact::Reset { again, renewed, .. } => {
            record.reset(*again);
            record.renewed = *renewed;
        }
        Fact::Asked { look, .. } => {
            record.again = Some(if *look { Again::Look } else { Again::Blind });
            record.kept = false;
        }
        Fact::Kept { .. } => record.kept = true,
        Fact::Absent { .. } => {
            record.undo_error = None;
            record.error = record.error.take().filter(|_| record.failed);
            record.nothing_there();
        }
        Fact::Decided { decision, .. } => record.decision = Some(decision.clone()),
        Fact::UndoStarted { attempt, .. } => {
            record.begin();
            record.undos = *attempt;
            record.undoing = true;
        }
        Fact::Undone { duration_ms, .. } => {
            record.begin();
            record.phase = Phase::Undone;
            record.duration_ms += duration_ms;
        }
        Fact::UndoFailed { error, duration_ms, .. } => {
            record.undoing = false;
            record.undo_error = Some(error.clone());
            record.duration_ms += duration_ms;
        }
        Fact::Left { reason, .. } => {
            record.failed = false;
            record.undo_error = None;
            record.left = true;
            record.reason = Some(reason.clone());
        }
        Fact::Resumed { .. } | Fact::Expanded { .. } | Fact::UndoBegun { .. } | Fact::Ended { .. } => {}
    }
}
