//! Takes a run back: pure, as the core is. One node after the other in reverse order, so that nothing
//! is undone before what was built on it.
//!
//! Works from stored facts alone (steps, configs, keys, outputs), never from files as they are now.
//! The intent of every undo is durable before it begins; one without a known end is done again, which
//! a step's `undo` must bear. It ends at the first undo that fails, and goes on there next time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{ErrorClass, ErrorRecord, Idempotency, NodeId, Observation, RunId};
use serde_json::Value;

use super::command::{Call, CallKind, Command, Input};
use super::core::{error, mask, millis};
use super::gate::GATE;
use super::retry;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::event::EventKind;
use crate::report::RunState;
use crate::store::fact::Fact;
use crate::workflow::Catalog;
use crate::workflow::model::Retry;

/// Longest undo of one node: deleting takes no longer than making, and a person waits for it.
const UNDO_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What undoing a run means for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing of it is there, or it is undone.
    Nothing,
    /// Something is there that stays, and why.
    Leave(String),
    /// Its last attempt has no known end.
    Look,
    Undo,
}

/// What is to be done about a node of which `record` is known.
pub(crate) fn action(record: &NodeRecord, catalog: &Catalog) -> Action {
    let Some(step) = &record.step else { return Action::Nothing };
    if record.left || step == GATE {
        return Action::Nothing;
    }
    let can = catalog.get(step).map(|described| described.info.supports_undo);
    let cannot = || {
        Action::Leave(match can {
            None => format!("there is no step `{step}` any more"),
            Some(_) => format!("step `{step}` has no undo"),
        })
    };
    match record.phase {
        Phase::Undone => Action::Nothing,
        Phase::New if record.attempts == 0 => Action::Nothing,
        // Disproved: something is there, and it is wrong.
        Phase::New if record.outputs.is_none() => {
            Action::Leave("it was to be made again; what it had made before is left".to_owned())
        }
        Phase::Skipped if record.attempts == 0 => Action::Nothing,
        Phase::Skipped => Action::Leave("it was skipped after it had run; what it made is left".to_owned()),
        _ if can != Some(true) => cannot(),
        Phase::Open => Action::Look,
        Phase::New | Phase::Applied | Phase::Finished => Action::Undo,
    }
}

/// All nodes of which something is known, what was built last first.
pub(crate) fn order(facts: &RunFacts, nodes: impl DoubleEndedIterator<Item = NodeId>) -> Vec<NodeId> {
    let ranks: BTreeMap<NodeId, usize> = nodes.rev().zip(0..).collect();
    let rank = |id: &NodeId| ranks.get(&id.whole()).copied();
    let mut ranked: Vec<(Option<usize>, &NodeId)> = facts.nodes.keys().map(|id| (rank(id), id)).collect();
    // What is no longer in the workflow comes first: nothing that is in it can be built on it.
    ranked.sort();
    ranked.into_iter().map(|(_, id)| id.clone()).collect()
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
    /// An undo of what `facts` say is there. `nodes`: in an order in which they could run.
    pub(crate) fn new(
        run: RunId,
        catalog: Arc<Catalog>,
        facts: RunFacts,
        nodes: impl DoubleEndedIterator<Item = NodeId>,
        random: Box<dyn FnMut() -> f64 + Send>,
    ) -> Self {
        let order = order(&facts, nodes);
        Self {
            run,
            catalog,
            random,
            facts,
            order,
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

    /// What is known, for the report.
    pub(crate) fn facts(&self) -> &RunFacts {
        &self.facts
    }

    /// The undo was aborted from outside.
    pub(crate) fn abort(&mut self, at: Timestamp) -> Fact {
        let fact = Fact::Ended { state: RunState::Interrupted };
        self.facts.apply(&fact, at);
        fact
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
        match action(&self.record_of(id), &self.catalog) {
            Action::Nothing => self.next += 1,
            Action::Leave(reason) => self.leave(id, reason),
            Action::Look => self.call(id, CallKind::Observe),
            Action::Undo => self.undo(id),
        }
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
        let limit = UNDO_LIMIT.saturating_sub(self.now.saturating_sub(self.began));
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
            attempt_limit: None,
            heartbeat: None,
        })));
    }

    fn observed(&mut self, id: &NodeId, result: Result<Observation, ErrorRecord>) {
        const UNCLEAR: &str = "can't tell whether its last attempt had an effect";
        self.live = Live::Idle;
        match result {
            // It may also mean that doing it again is harmless: no proof that nothing was made.
            Ok(Observation::Absent) if !self.tells_absence(id) => {
                self.leave(id, format!("{UNCLEAR}: its step looks only whether it may be repeated"));
            }
            Ok(Observation::Absent) => {
                let failed = self.record_of(id).failed;
                // A failed node goes on telling why it failed.
                if !failed {
                    let reason = "nothing of it is there".to_owned();
                    self.record(Fact::Reset { node: id.clone(), reason, again: false });
                }
                self.pass();
            }
            Ok(Observation::Done { mut outputs }) => {
                let step = self.record_of(id).step.unwrap_or_default();
                if let Some(described) = self.catalog.get(&step) {
                    mask(&mut outputs, &described.info.sensitive);
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
            Ok(Observation::Unknown { reason }) => self.leave(id, format!("{UNCLEAR}: {reason}")),
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
                self.pass();
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
