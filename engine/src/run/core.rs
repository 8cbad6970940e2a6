//! The pure core: (facts, input) → commands.
//!
//! Owns the state of a run while a process works on it. Does no I/O and knows no clock, so that
//! it can be simulated: time comes with each input, randomness from a given source. Commands are
//! carried out in this order: every `Record` and `Place` of one step is durable before any `Call`.
//!
//! A node: waiting → (decided) → observing → applying → verifying → ended, with a wait before
//! anything is tried again. An attempt whose end is not known is observed before `apply` is called.
//! `take_up` goes on with a node from what is known of it, `result` holds what follows from the results of
//! calls, `gates` what waits for a person, `fanout` the items of nodes with `for_each`.

mod fanout;
mod gates;
mod result;
mod take_up;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{ErrorClass, ErrorRecord, IdempotencyKey, NodeId, RunId, VerifyDepth};

use super::basis::{Making, made};
use super::command::{Call, CallKind, Command, Input};
use super::executor::Limit;
use super::gate::GateDecision;
use super::key::idempotency_key;
#[cfg(test)]
use super::simulation::{Flaw, flawed};
use super::state::{NodeRecord, RunFacts};
use super::undo::Undo;
use crate::event::EventKind;
use crate::report::RunState;
use crate::store::fact::Fact;
use crate::workflow::model::Node;
use crate::workflow::{Catalog, Checked, Decision, Digest, Resolved, Wording};

/// Most nodes at work at once where no pool says less. Steps bring their own concurrency.
pub(crate) const MAX_RUNNING: usize = 16;

/// How long a node may take where its `timeout` says nothing: a migration is watched daily.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    Waiting,
    Busy(CallKind),
    Backoff(CallKind),
    /// Waits for a person.
    Gate,
    /// Nothing of it is at work any more, and it is not done.
    Stopped,
    /// It is done.
    Ended,
}

struct Cell {
    id: NodeId,
    /// The item that it is for; `None` for a node as a whole.
    seat: Option<Seat>,
    live: Live,
    resolved: Option<Resolved>,
    /// Why what is observed is looked for.
    sought: Sought,
    /// How hard its effect is looked at.
    depth: VerifyDepth,
    /// Tries of any call of this node in this process.
    tries: u32,
    began: Duration,
    /// Up to when time has been recorded.
    accounted: Duration,
    missing: usize,
}

impl Cell {
    fn new(id: NodeId, missing: usize) -> Self {
        let zero = Duration::ZERO;
        let live = Live::Waiting;
        Self {
            id,
            seat: None,
            live,
            resolved: None,
            sought: Sought::ToGoOn,
            depth: VerifyDepth::Quick,
            tries: 0,
            began: zero,
            accounted: zero,
            missing,
        }
    }
}

use fanout::{Fanout, Seat};
pub(crate) use result::disproof;
pub(crate) use take_up::KEPT_CHANGED;
use take_up::Sought;

/// The state machine of one run.
pub(crate) struct Core {
    run: RunId,
    checked: Arc<Checked>,
    catalog: Arc<Catalog>,
    random: Box<dyn FnMut() -> f64 + Send>,
    facts: RunFacts,
    /// The nodes of the workflow, then items as they begin.
    cells: Vec<Cell>,
    fanout: Fanout,
    dependents: Vec<Vec<usize>>,
    /// The newest making upstream of each node of the workflow, as far as that is done.
    upstream: Vec<Making>,
    /// What may begin, by pool: looking for the next one must not pass all those whose pool is full.
    ready: BTreeMap<Option<String>, BTreeSet<usize>>,
    running: usize,
    pools: BTreeMap<String, usize>,
    /// Gates that wait.
    gates: BTreeSet<usize>,
    /// Decisions that no gate has asked for yet.
    decisions: BTreeMap<IdempotencyKey, GateDecision>,
    /// Failed nodes that ask for the run to be undone.
    undo_due: BTreeSet<usize>,
    begun: bool,
    stopping: bool,
    draining: bool,
    ended: bool,
    now: Duration,
    at: Timestamp,
    out: Vec<Command>,
}

impl Core {
    /// A core that goes on from `facts`.
    pub(crate) fn new(
        run: RunId,
        checked: Arc<Checked>,
        catalog: Arc<Catalog>,
        facts: RunFacts,
        random: Box<dyn FnMut() -> f64 + Send>,
    ) -> Self {
        let workflow = &checked.workflow;
        let mut dependents = vec![Vec::new(); workflow.nodes.len()];
        let mut cells = Vec::with_capacity(workflow.nodes.len());
        for (at, node) in workflow.nodes.iter().enumerate() {
            let needed = &workflow.dependencies[&node.id];
            needed.iter().for_each(|id| dependents[workflow.index[id]].push(at));
            cells.push(Cell::new(node.id.clone(), needed.len()));
        }
        let mut ready: BTreeMap<Option<String>, BTreeSet<usize>> = BTreeMap::new();
        for at in (0..cells.len()).filter(|at| cells[*at].missing == 0) {
            ready.entry(workflow.nodes[at].pool.clone()).or_default().insert(at);
        }
        Self {
            run,
            checked,
            catalog,
            random,
            facts,
            cells,
            fanout: Fanout::default(),
            upstream: vec![None; dependents.len()],
            dependents,
            ready,
            running: 0,
            pools: BTreeMap::new(),
            gates: BTreeSet::new(),
            decisions: BTreeMap::new(),
            undo_due: BTreeSet::new(),
            begun: false,
            stopping: false,
            draining: false,
            ended: false,
            now: Duration::ZERO,
            at: Timestamp::UNIX_EPOCH,
            out: Vec::new(),
        }
    }

    /// Takes one input at time `now` (since the process began with the run; `at` on the wall).
    pub(crate) fn step(&mut self, input: Input, now: Duration, at: Timestamp) -> Vec<Command> {
        (self.now, self.at) = (now, at);
        match input {
            Input::Begin => self.begun = true,
            Input::Drain => self.drain(),
            Input::Wake(id) => self.on(&id, Self::woken),
            Input::Observed(id, result) => self.on(&id, |core, at| core.observed(at, result)),
            Input::Applied(id, result) => self.on(&id, |core, at| core.applied(at, result)),
            Input::Verified(id, result) => self.on(&id, |core, at| core.verified(at, result)),
            Input::Decided(decision) => self.decided(*decision),
            // Only an undo asks for it.
            Input::Undone(..) => {}
        }
        let begun = self.begun;
        #[cfg(test)]
        let begun = begun || flawed(Flaw::DecisionAlone);
        // What was decided before it begins is all known first: one answer alone could end the run.
        if begun {
            self.start_ready();
            self.end_if_idle();
        }
        std::mem::take(&mut self.out)
    }

    /// What is known, for the report.
    pub(crate) fn facts(&self) -> &RunFacts {
        &self.facts
    }

    /// What the dispatcher itself adds to it.
    pub(crate) fn facts_mut(&mut self) -> &mut RunFacts {
        &mut self.facts
    }

    /// The undo of the run from where it stands.
    pub(crate) fn into_undo(self) -> Undo {
        let needs = &self.checked.workflow.dependencies;
        Undo::new(self.run, self.catalog, self.facts, needs, self.random)
    }

    fn on(&mut self, id: &NodeId, act: impl FnOnce(&mut Self, usize)) {
        if let Some(at) = self.cell_of(id) {
            act(self, at);
        }
    }

    fn node(&self, at: usize) -> &Node {
        &self.checked.workflow.nodes[self.node_at(at)]
    }

    fn id(&self, at: usize) -> NodeId {
        self.cells[at].id.clone()
    }

    fn record_of(&self, at: usize) -> &NodeRecord {
        self.facts.node(&self.cells[at].id)
    }

    fn record(&mut self, fact: Fact) {
        self.facts.apply(&fact, self.at);
        self.out.push(Command::Record(fact));
    }

    fn emit(&mut self, kind: EventKind) {
        self.out.push(Command::Emit(kind));
    }

    // Starting.

    fn start_ready(&mut self) {
        // Skipped nodes make others ready at once, so this goes on until nothing changes.
        while !self.stopping && !self.draining {
            if self.running >= MAX_RUNNING {
                return;
            }
            let Some(at) = self.next_ready() else { return };
            self.begin(at);
        }
    }

    fn make_ready(&mut self, at: usize) {
        let pool = self.node(at).pool.clone();
        self.ready.entry(pool).or_default().insert(at);
    }

    /// Takes the first node that may begin now.
    fn next_ready(&mut self) -> Option<usize> {
        // The first of a pool waits until it fits: were it overtaken, it might never start.
        let first = self.ready.values().filter_map(|nodes| nodes.first().copied());
        let at = first.filter(|at| self.has_room(*at)).min()?;
        let pool = self.node(at).pool.clone();
        self.ready.get_mut(&pool)?.remove(&at);
        Some(at)
    }

    fn has_room(&self, at: usize) -> bool {
        let node = self.node(at);
        let Some(pool) = &node.pool else { return true };
        let size = self.checked.workflow.pools.get(pool).copied().unwrap_or(1);
        self.pools.get(pool).copied().unwrap_or(0) + node.weight <= size
    }

    fn begin(&mut self, at: usize) {
        if self.is_list(at) {
            return self.expand(at);
        }
        let item = self.each(at);
        let decision = self.checked.decide(&self.catalog, self.node(at), &self.facts, Self::each_of(&item));
        (self.cells[at].began, self.cells[at].accounted) = (self.now, self.now);
        match decision {
            Decision::Skip(reason) => self.skip(at, reason),
            Decision::Refuse(why) => self.refuse(at, why),
            Decision::Run(resolved) if self.is_gate(at) => self.take_up_gate(at, resolved),
            Decision::Run(resolved) => {
                self.occupy(at);
                self.take_up(at, resolved);
            }
        }
    }

    /// Fails a node, or a list, that can't be begun as the files say.
    fn refuse(&mut self, at: usize, why: String) {
        let id = &self.cells[at].id;
        let has_items = self.is_list(at) && self.facts.items_of(id).any(|(_, record)| record.is_there());
        let is_there = has_items || self.record_of(at).is_there();
        self.occupy(at);
        self.fail(at, error(ErrorClass::Permanent, why, None), None, false);
        // That something else is made now is no reason to take back what was.
        if is_there {
            self.undo_due.remove(&at);
        }
    }

    fn skip(&mut self, at: usize, reason: String) {
        let node = self.id(at);
        // That it is skipped is accepted with its conditions; what it would do has not been done.
        let was =
            self.facts.list_wordings.get(&node).filter(|_| self.is_list(at) && !self.record_of(at).untold);
        let wording = was.map(|was| {
            let now = self.checked.list_wording(self.node(at));
            Wording { fields: was.fields.clone(), when: now.when }
        });
        self.record(Fact::Skipped { node: node.clone(), reason: reason.clone(), wording });
        self.emit(EventKind::NodeSkipped { node, reason });
        self.done(at);
    }

    fn occupy(&mut self, at: usize) {
        self.running += 1;
        if let Some(pool) = self.node(at).pool.clone() {
            *self.pools.entry(pool).or_default() += self.node(at).weight;
        }
    }

    fn release(&mut self, at: usize) {
        self.cells[at].live = Live::Stopped;
        self.running -= 1;
        if let Some(pool) = self.node(at).pool.clone() {
            let weight = self.node(at).weight;
            *self.pools.entry(pool).or_insert(weight) -= weight;
        }
        self.unseat(at);
    }

    fn apply(&mut self, at: usize) {
        self.intend(at);
        self.call(at, CallKind::Apply);
    }

    /// Records the intent of an attempt.
    fn intend(&mut self, at: usize) {
        let Some(resolved) = self.cells[at].resolved.clone() else { return };
        let (node, step) = (self.id(at), self.node(at).step.clone());
        let &NodeRecord { attempts, generation, .. } = self.record_of(at);
        let attempt = attempts + 1;
        let key = self.key(&node, &resolved.digest, generation, attempt);
        self.record(Fact::Started {
            node: node.clone(),
            attempt,
            key,
            digest: resolved.digest,
            step: step.clone(),
            step_version: resolved.step_version,
            config: resolved.config,
            wording: Some(resolved.wording),
            generation,
        });
        if !self.is_gate(at) {
            self.emit(EventKind::NodeStarted { node, step, attempt });
        }
    }

    fn key(&self, node: &NodeId, digest: &Digest, generation: u32, _attempt: u32) -> IdempotencyKey {
        #[cfg(test)]
        if flawed(Flaw::KeyOfAttempt) {
            return idempotency_key(&self.run, node, digest, _attempt);
        }
        #[cfg(test)]
        if flawed(Flaw::AnswerToAnotherQuestion) && self.cell_of(node).is_some_and(|at| self.is_gate(at)) {
            return idempotency_key(&self.run, node, &Digest(String::new()), 0);
        }
        idempotency_key(&self.run, node, digest, generation)
    }

    fn call(&mut self, at: usize, kind: CallKind) {
        // Always with what the attempt was begun with; for all but a superseded one, that is what the
        // node has now.
        let record = self.record_of(at);
        let (Some(key), Some(config), Some(step)) = (&record.key, &record.config, &record.step) else {
            return;
        };
        let node = self.node(at);
        let call = Call {
            node: self.id(at),
            step: step.clone(),
            kind,
            attempt: record.attempts,
            key: key.clone(),
            config: config.clone(),
            outputs: record.outputs.clone().filter(|_| kind == CallKind::Verify),
            depth: self.cells[at].depth,
            limit: Limit::Node { whole: self.time(at), left: self.time_left(at) },
            attempt_limit: node.retry.attempt_timeout,
            heartbeat: node.heartbeat,
        };
        if kind == CallKind::Verify {
            self.emit(EventKind::NodeVerifying { node: call.node.clone() });
        }
        self.cells[at].live = Live::Busy(kind);
        self.out.push(Command::Call(Box::new(call)));
    }

    // Ending.

    fn done(&mut self, at: usize) {
        self.cells[at].live = Live::Ended;
        self.unseat(at);
        self.item_done(at);
        let dependents = std::mem::take(&mut self.dependents[at]);
        if dependents.is_empty() {
            return;
        }
        let made = self.upstream[at].max(made(&self.facts, &self.checked.workflow, at));
        for dependent in dependents {
            self.upstream[dependent] = self.upstream[dependent].max(made);
            self.cells[dependent].missing -= 1;
            if self.cells[dependent].missing == 0 {
                self.make_ready(dependent);
            }
        }
    }

    fn end_if_idle(&mut self) {
        if self.running > 0 || self.ended {
            return;
        }
        self.ended = true;
        if let Some(reason) = self.undo_reason() {
            self.record(Fact::UndoBegun { reason: reason.clone() });
            self.emit(EventKind::RunUndoing { reason });
            return self.out.push(Command::Undo);
        }
        let record = |at: usize| self.facts.own(&self.cells[at].id);
        // A finished node that was not looked at again by this process, to the end, does not count.
        let is_done = |at: usize| {
            self.cells[at].live == Live::Ended
                && (self.is_known_list(at) || record(at).is_some_and(NodeRecord::is_done))
        };
        let all_done = (0..self.cells.len()).all(is_done);
        let any_failed = (0..self.cells.len()).any(|at| record(at).is_some_and(|record| record.failed));
        let state = match () {
            () if all_done => RunState::Done,
            // A person can let more be done, whatever else has failed.
            () if !self.gates.is_empty() && !self.stopping && !self.draining => RunState::Waiting,
            () if any_failed && !self.draining => RunState::Failed,
            () => RunState::Interrupted,
        };
        self.record(Fact::Ended { state });
        self.out.push(Command::End(state));
    }

    /// Why the run is to be undone, if it is.
    fn undo_reason(&self) -> Option<String> {
        let at = self.undo_due.first().filter(|_| !self.draining)?;
        let record = self.record_of(*at);
        let message = record.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
        Some(format!("`{}` failed: {message}", self.cells[*at].id))
    }

    fn account(&mut self, at: usize) -> u64 {
        let cell = &mut self.cells[at];
        let part = self.now.saturating_sub(cell.accounted);
        cell.accounted = self.now;
        millis(part)
    }

    /// How long the node may take in this process.
    fn time(&self, at: usize) -> Duration {
        self.node(at).timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// What is left of it.
    fn time_left(&self, at: usize) -> Duration {
        self.time(at).saturating_sub(self.now.saturating_sub(self.cells[at].began))
    }

    fn spent_ms(&self, at: usize) -> u64 {
        millis(self.now.saturating_sub(self.cells[at].began))
    }
}

/// Milliseconds, as far as they fit.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn error(class: ErrorClass, message: String, hint: Option<String>) -> ErrorRecord {
    ErrorRecord { class, message, causes: Vec::new(), hint }
}
