//! Takes a run back: pure, as the core is. One node after the other in reverse order of what happened,
//! so that nothing is undone before what was built on it.
//!
//! Works from stored facts alone (steps, configs, keys, outputs), never from files as they are now.
//! The intent of every undo is durable before it begins; one without a known end is done again, which
//! a step's `undo` must bear. It ends at the first undo that fails, and goes on there next time.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{ErrorClass, ErrorRecord, Idempotency, NodeId, Observation, RunId, VerifyDepth};
use serde_json::Value;

use super::command::{Call, CallKind, Command, Input};
use super::core::{error, millis};
use super::executor::Limit;
use super::gate::GATE;
use super::retry;
#[cfg(test)]
use super::simulation::{Flaw, flawed};
use super::state::{NodeRecord, Phase, RunFacts};
use crate::event::EventKind;
use crate::report::RunState;
use crate::store::fact::Fact;
use crate::workflow::model::Retry;
use crate::workflow::{Catalog, Digest, is_natural};

/// Longest undo of one node: deleting takes no longer than making, and a person waits for it.
const UNDO_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What undoing a run means for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing of it is there, or it is undone.
    Nothing,
    /// Something is there that stays, and why.
    Leave(String),
    /// Something is there, or may be, and its step can't be asked, and why. It is not left unless a person
    /// says so: the step may be there again tomorrow.
    Blocked(String),
    /// Its last attempt has no known end.
    Look,
    Undo,
}

/// Most keys that are named in a line.
const MAX_NAMED: usize = 3;

/// What is to be done about a node of which `record` is known.
pub(crate) fn action(record: &NodeRecord, catalog: &Catalog) -> Action {
    let Some(step) = &record.step else { return Action::Nothing };
    if record.left || step == GATE {
        return Action::Nothing;
    }
    let rest = rest(record, catalog);
    if !record.begun || record.phase == Phase::Undone {
        return rest.map_or(Action::Nothing, Action::Leave);
    }
    let Some(described) = catalog.get(step) else {
        return Action::Blocked(format!("there is no step `{step}` any more"));
    };
    if let Some(why) = &described.unusable {
        return Action::Blocked(format!("step `{step}` can't be used: {why}"));
    }
    match described.info.supports_undo {
        true if matches!(record.phase, Phase::Open | Phase::Skipped) => Action::Look,
        true => Action::Undo,
        false => Action::Leave(with_rest(format!("step `{step}` has no undo"), rest)),
    }
}

/// What stands in the way of an undo: nodes whose steps can't be asked, and why.
pub(crate) fn blocked(facts: &RunFacts, catalog: &Catalog) -> Vec<(NodeId, String)> {
    let blocked = facts.nodes.iter().filter_map(|(node, record)| match action(record, catalog) {
        Action::Blocked(why) => Some((node.clone(), why)),
        _ => None,
    });
    blocked.collect()
}

/// What is left of earlier effects of a node, which were made again; its step undoes only the last.
pub(crate) fn rest(record: &NodeRecord, catalog: &Catalog) -> Option<String> {
    let is_natural = record.step.as_ref().is_some_and(|step| is_natural(catalog, step));
    // Where the place of an effect is its config, the same config made it again in the same place.
    let replaced = |digest: &Option<Digest>| is_natural && record.begun && *digest == record.digest;
    let keys: Vec<String> = record
        .remains
        .iter()
        .filter(|remains| !replaced(&remains.digest))
        .map(|remains| format!("`{}`", remains.key))
        .collect();
    let more = keys.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = keys[..keys.len().min(MAX_NAMED)].join(", ");
    (!keys.is_empty()).then(|| format!("what it had made before it was made again is left: {shown}{more}"))
}

fn with_rest(why: String, rest: Option<String>) -> String {
    match rest {
        Some(rest) => format!("{why}; {rest}"),
        None => why,
    }
}

/// All nodes of which something is known in the order in which they are undone: of those on which
/// nothing is built any more, always the one that began last. `needs`: what each node of the workflow
/// waits for.
pub(crate) fn order(facts: &RunFacts, needs: &BTreeMap<NodeId, BTreeSet<NodeId>>) -> Vec<NodeId> {
    let mut members: BTreeMap<NodeId, Vec<(u64, &NodeId)>> =
        needs.keys().map(|node| (node.clone(), Vec::new())).collect();
    for (id, record) in &facts.nodes {
        members.entry(id.whole()).or_default().push((record.began_at, id));
    }
    // How many nodes wait for each that are not undone yet. Nobody waits for one that is gone.
    let mut waiting: BTreeMap<&NodeId, usize> = members.keys().map(|node| (node, 0)).collect();
    for needed in needs.values().flatten() {
        waiting.entry(needed).and_modify(|count| *count += 1);
    }
    let mut free: Vec<&NodeId> = members.keys().filter(|node| waiting[node] == 0).collect();
    let mut left: BTreeMap<&NodeId, usize> = members.iter().map(|(node, all)| (node, all.len())).collect();
    let (mut next, mut order) = (BinaryHeap::new(), Vec::with_capacity(facts.nodes.len()));
    loop {
        while let Some(node) = free.pop() {
            next.extend(members[node].iter().copied());
            if left[node] == 0 {
                settle(node, needs, &mut waiting, &mut free);
            }
        }
        let Some((_, id)) = next.pop() else { return order };
        order.push(id.clone());
        let whole = id.whole();
        let Some((node, count)) = left.get_key_value(&whole) else { continue };
        let (node, count) = (*node, count - 1);
        left.insert(node, count);
        if count == 0 {
            settle(node, needs, &mut waiting, &mut free);
        }
    }
}

/// Nothing of `node` is left: what it needs may be free now.
fn settle<'a>(
    node: &NodeId,
    needs: &'a BTreeMap<NodeId, BTreeSet<NodeId>>,
    waiting: &mut BTreeMap<&NodeId, usize>,
    free: &mut Vec<&'a NodeId>,
) {
    for needed in needs.get(node).into_iter().flatten() {
        let Some(count) = waiting.get_mut(needed) else { continue };
        *count -= 1;
        if *count == 0 {
            free.push(needed);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    Idle,
    Busy(CallKind),
    Backoff(CallKind),
}

/// The state machine of one undo.
pub(crate) struct Undo {
    run: RunId,
    catalog: Arc<Catalog>,
    random: Box<dyn FnMut() -> f64 + Send>,
    facts: RunFacts,
    order: Vec<NodeId>,
    /// What a person wants left where its step can't be asked.
    leave: BTreeSet<NodeId>,
    next: usize,
    live: Live,
    tries: u32,
    began: Duration,
    failed: bool,
    draining: bool,
    ended: bool,
    now: Duration,
    at: Timestamp,
    out: Vec<Command>,
}

impl Undo {
    /// An undo of what `facts` say is there. `needs`: what each node of the workflow waits for.
    pub(crate) fn new(
        run: RunId,
        catalog: Arc<Catalog>,
        facts: RunFacts,
        needs: &BTreeMap<NodeId, BTreeSet<NodeId>>,
        random: Box<dyn FnMut() -> f64 + Send>,
    ) -> Self {
        let order = order(&facts, needs);
        #[cfg(test)]
        let order = if flawed(Flaw::UndoForwards) { order.into_iter().rev().collect() } else { order };
        Self {
            run,
            catalog,
            random,
            facts,
            order,
            leave: BTreeSet::new(),
            next: 0,
            live: Live::Idle,
            tries: 0,
            began: Duration::ZERO,
            failed: false,
            draining: false,
            ended: false,
            now: Duration::ZERO,
            at: Timestamp::UNIX_EPOCH,
            out: Vec::new(),
        }
    }

    /// Leaves what these nodes made where their steps can't be asked.
    pub(crate) fn leaving(self, leave: BTreeSet<NodeId>) -> Self {
        Self { leave, ..self }
    }

    /// What is known, for the report.
    pub(crate) fn facts(&self) -> &RunFacts {
        &self.facts
    }

    /// What the dispatcher itself adds to it.
    pub(crate) fn facts_mut(&mut self) -> &mut RunFacts {
        &mut self.facts
    }

    /// Takes one input at time `now` (since the process began; `at` on the wall).
    pub(crate) fn step(&mut self, input: Input, now: Duration, at: Timestamp) -> Vec<Command> {
        (self.now, self.at) = (now, at);
        let current = self.order.get(self.next).cloned();
        match input {
            Input::Drain => self.draining = true,
            Input::Wake(id) if Some(&id) == current.as_ref() => {
                if let Live::Backoff(kind) = self.live {
                    self.call(&id, kind);
                }
            }
            Input::Observed(id, result) if self.awaits(&id, CallKind::Observe) => self.observed(&id, result),
            Input::Undone(id, result) if self.awaits(&id, CallKind::Undo) => self.undone(&id, result),
            _ => {}
        }
        self.advance();
        std::mem::take(&mut self.out)
    }

    fn awaits(&self, id: &NodeId, kind: CallKind) -> bool {
        self.live == Live::Busy(kind) && self.order.get(self.next) == Some(id)
    }

    fn record(&mut self, fact: Fact) {
        self.facts.apply(&fact, self.at);
        self.out.push(Command::Record(fact));
    }

    fn emit(&mut self, kind: EventKind) {
        self.out.push(Command::Emit(kind));
    }

    fn record_of(&self, id: &NodeId) -> NodeRecord {
        self.facts.nodes.get(id).cloned().unwrap_or_default()
    }

    fn advance(&mut self) {
        if self.draining && matches!(self.live, Live::Backoff(_)) {
            self.live = Live::Idle;
        }
        while self.live == Live::Idle && !self.ended {
            let id = self.order.get(self.next).cloned();
            match id {
                _ if self.failed => self.end(RunState::Failed),
                None => self.end(RunState::Undone),
                _ if self.draining => self.end(RunState::Interrupted),
                Some(id) => self.begin(&id),
            }
        }
    }

    fn end(&mut self, state: RunState) {
        self.ended = true;
        self.record(Fact::Ended { state });
        self.out.push(Command::End(state));
    }

    fn begin(&mut self, id: &NodeId) {
        (self.tries, self.began) = (0, self.now);
        #[cfg(test)]
        if flawed(Flaw::UndoRepeated) && self.record_of(id).undos == 1 {
            return self.undo(id);
        }
        match action(&self.record_of(id), &self.catalog) {
            // Nobody is asked any more.
            Action::Nothing if self.record_of(id).is_waiting() => {
                self.record(Fact::Absent { node: id.clone() })
            }
            Action::Nothing => self.next += 1,
            Action::Leave(reason) => self.leave(id, reason),
            Action::Blocked(why) if self.leave.contains(id) => {
                let rest = rest(&self.record_of(id), &self.catalog);
                self.leave(id, with_rest(format!("as asked for: {why}"), rest));
            }
            // Only where the run began to undo itself: a person is told before it begins.
            Action::Blocked(why) => {
                let hint = format!("when it is back, go on: `migrate undo {} --yes`", self.run);
                self.fail(id, error(ErrorClass::Permanent, why, Some(hint)));
            }
            Action::Look => self.call(id, CallKind::Observe),
            Action::Undo => self.undo(id),
        }
    }

    fn leave_unclear(&mut self, id: &NodeId, why: &str) {
        let rest = rest(&self.record_of(id), &self.catalog);
        let why = format!("can't tell whether its last attempt had an effect: {why}");
        self.leave(id, with_rest(why, rest));
    }

    fn leave(&mut self, id: &NodeId, reason: String) {
        self.record(Fact::Left { node: id.clone(), reason: reason.clone() });
        self.emit(EventKind::NodeLeft { node: id.clone(), reason });
        self.pass();
    }

    fn pass(&mut self) {
        self.live = Live::Idle;
        self.next += 1;
    }

    fn undo(&mut self, id: &NodeId) {
        let record = self.record_of(id);
        self.record(Fact::UndoStarted { node: id.clone(), attempt: record.undos + 1 });
        self.emit(EventKind::NodeUndoing { node: id.clone(), step: record.step.unwrap_or_default() });
        self.call(id, CallKind::Undo);
    }

    fn call(&mut self, id: &NodeId, kind: CallKind) {
        let record = self.record_of(id);
        // Whatever has a step has been started with all of these.
        let (Some(step), Some(key), Some(config)) = (record.step, record.key, record.config) else {
            return self.pass();
        };
        let (attempt, outputs) = match kind {
            CallKind::Undo => (record.undos, Some(record.outputs.unwrap_or(Value::Null))),
            _ => (record.attempts, None),
        };
        self.live = Live::Busy(kind);
        let left = UNDO_LIMIT.saturating_sub(self.now.saturating_sub(self.began));
        let limit = Limit::Call { whole: UNDO_LIMIT, left };
        let node = id.clone();
        self.out.push(Command::Call(Box::new(Call {
            node,
            step,
            kind,
            attempt,
            key,
            config,
            outputs,
            limit,
            depth: VerifyDepth::Quick,
            attempt_limit: None,
            heartbeat: None,
        })));
    }

    fn observed(&mut self, id: &NodeId, result: Result<Observation, ErrorRecord>) {
        self.live = Live::Idle;
        match result {
            // It may also mean that doing it again is harmless: no proof that nothing was made.
            Ok(Observation::Absent) if !self.tells_absence(id) => {
                self.leave_unclear(id, "its step looks only whether it may be repeated");
            }
            // What it had made before that is told by the next look at it.
            Ok(Observation::Absent) => self.record(Fact::Absent { node: id.clone() }),
            Ok(Observation::Done { mut outputs }) => {
                let step = self.record_of(id).step.unwrap_or_default();
                if let Some(described) = self.catalog.get(&step) {
                    described.info.mask(&mut outputs);
                }
                self.record(Fact::Applied { node: id.clone(), outputs, observed: true });
            }
            Ok(Observation::Running { handle }) => {
                let hint = format!(
                    "wait for its end or end it yourself, then go on: `migrate undo {} --yes`",
                    self.run
                );
                let message = format!("it is still at work outside: `{handle}`");
                self.fail(id, error(ErrorClass::Conflict, message, Some(hint)));
            }
            Ok(Observation::Unknown { reason }) => self.leave_unclear(id, &reason),
            Err(error) => {
                if let Some(error) = self.again_later(id, CallKind::Observe, error) {
                    self.fail(id, error);
                }
            }
        }
    }

    /// Whether "absent" of this node's step says that nothing is there: only where the outside thing
    /// is looked for by its key.
    fn tells_absence(&self, id: &NodeId) -> bool {
        let step = self.record_of(id).step.unwrap_or_default();
        self.catalog.get(&step).is_some_and(|described| described.info.idempotency != Idempotency::Natural)
    }

    fn undone(&mut self, id: &NodeId, result: Result<(), ErrorRecord>) {
        self.live = Live::Idle;
        match result {
            Ok(()) => {
                let duration_ms = millis(self.now.saturating_sub(self.began));
                self.out.push(Command::Clear(id.clone()));
                self.record(Fact::Undone { node: id.clone(), duration_ms });
                self.emit(EventKind::NodeUndone { node: id.clone(), duration_ms });
                // What it had made before that is told by the next look at it.
            }
            Err(error) => {
                if let Some(error) = self.again_later(id, CallKind::Undo, error) {
                    self.fail(id, error);
                }
            }
        }
    }

    /// Waits for another try; gives the error back when there will be none.
    fn again_later(&mut self, id: &NodeId, kind: CallKind, error: ErrorRecord) -> Option<ErrorRecord> {
        // Its intent stands: the next process goes on with it.
        if self.draining && (error.class == ErrorClass::Cancelled || error.class.is_retryable()) {
            return None;
        }
        self.tries += 1;
        let random = (self.random)();
        let Some(delay) = retry::delay(&Retry::default(), error.class, self.tries, random) else {
            return Some(error);
        };
        let (node, attempt, delay_ms) = (id.clone(), self.tries, millis(delay));
        self.record(Fact::Retrying { node: id.clone(), error: error.clone(), duration_ms: 0 });
        self.emit(EventKind::NodeRetrying { node, attempt, error, delay_ms });
        self.live = Live::Backoff(kind);
        self.out.push(Command::Wake(id.clone(), delay));
        None
    }

    fn fail(&mut self, id: &NodeId, error: ErrorRecord) {
        let duration_ms = millis(self.now.saturating_sub(self.began));
        self.record(Fact::UndoFailed { node: id.clone(), error: error.clone(), duration_ms });
        let attempts = self.record_of(id).undos;
        let node = id.clone();
        self.emit(EventKind::NodeFailed { node, attempts, duration_ms, error, evidence: None });
        self.live = Live::Idle;
        self.failed = true;
    }
}
