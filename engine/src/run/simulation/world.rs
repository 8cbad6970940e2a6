//! One simulated world: its clock, what is outside, what the store has promised, whether the
//! process lives, and every rule that was found broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_plugin_api::{NodeId, StepContext, VerifyDepth};
use serde_json::Value;
use tokio::sync::Notify;

use super::dice::Dice;
use super::disk::Trouble;
use super::ledger::Ledger;
use super::outside::{Outside, fnv};
use super::scenario::Scenario;
use crate::ambient::simulated::Simulated;
use crate::report::RunState;
use crate::run::state::{Phase, RunFacts};
use crate::store::fact::{Batch, Fact, Stamped};

/// Everything that changes in a world.
pub(super) struct State {
    pub dice: Dice,
    /// What people decide by.
    pub people: Dice,
    pub ledger: Ledger,
    pub outside: Outside,
    /// Rules that were broken, in the order in which it was noticed.
    pub broken: Vec<String>,
    /// Whether things go wrong now.
    pub troubled: bool,
    pub alive: bool,
    /// How the process died.
    pub death: Option<Trouble>,
    /// The store has refused something, and so nothing may be begun any more.
    pub refused: bool,
    /// Moments in steps so far, and at which one the process dies.
    pub moments: u64,
    pub die_at: Option<(u64, Trouble)>,
    /// What the last verification of each node in this life said.
    pub verified: BTreeMap<String, bool>,
    /// How hard that looked.
    pub looked: BTreeMap<String, VerifyDepth>,
    /// Nodes in `apply` now.
    pub applying: BTreeSet<String>,
    /// Calls of steps that may change something.
    pub calls: u64,
    digest: u64,
    lines: Option<Vec<String>>,
}

/// A world.
pub(super) struct World {
    pub clock: Arc<Simulated>,
    pub scenario: Scenario,
    pub died: Notify,
    /// Nothing moves any more, and nothing ever will.
    pub stalled: Notify,
    state: Mutex<State>,
}

impl World {
    pub(super) fn new(seed: u64, scenario: Scenario, traced: bool) -> Arc<Self> {
        let state = State {
            dice: Dice::new(seed, 2),
            people: Dice::new(seed, 4),
            ledger: Ledger::default(),
            outside: Outside::default(),
            broken: Vec::new(),
            troubled: true,
            alive: false,
            death: None,
            refused: false,
            moments: 0,
            die_at: None,
            verified: BTreeMap::new(),
            looked: BTreeMap::new(),
            applying: BTreeSet::new(),
            calls: 0,
            digest: seed,
            lines: traced.then(Vec::new),
        };
        Arc::new(Self {
            clock: Simulated::new(seed),
            scenario,
            died: Notify::new(),
            stalled: Notify::new(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the trace.
    pub(super) fn say(&self, line: impl AsRef<str>) {
        let now = self.clock.elapsed();
        self.lock().say(&format!("{:>10.3} {}", now.as_secs_f64(), line.as_ref()));
    }

    /// Says that a rule is broken.
    pub(super) fn broken(&self, what: String) {
        self.say(format!("BROKEN {what}"));
        self.lock().broken.push(what);
    }

    /// What is the same whenever the same seed runs, and the trace if it is kept.
    pub(super) fn trace(&self) -> (u64, Vec<String>) {
        let state = self.lock();
        (state.digest, state.lines.clone().unwrap_or_default())
    }

    /// A process begins.
    pub(super) fn birth(&self, die_at: Option<(u64, Trouble)>) {
        let mut state = self.lock();
        (state.alive, state.death, state.refused) = (true, None, false);
        (state.moments, state.die_at) = (0, die_at);
        state.verified.clear();
        state.looked.clear();
        state.applying.clear();
    }

    /// The process ends, from outside or inside.
    pub(super) fn death(&self, how: Trouble) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.alive, false) {
            state.death = Some(how);
            drop(state);
            self.say(format!("the process ends: {how:?}"));
            self.died.notify_one();
        }
    }

    /// A moment in a step at which the process may die. Never returns if it has.
    pub(super) async fn moment(&self) {
        let die = {
            let mut state = self.lock();
            state.moments += 1;
            state.die_at.filter(|(at, _)| *at == state.moments)
        };
        if let Some((_, how)) = die {
            self.death(how);
        }
        self.only_alive().await;
    }

    /// Never returns in a process that is dead.
    pub(super) async fn only_alive(&self) {
        let alive = self.lock().alive;
        if !alive {
            std::future::pending::<()>().await;
        }
    }

    /// Whether something of this chance happens now.
    pub(super) fn chance(&self, per_mille: u64) -> bool {
        let mut state = self.lock();
        state.troubled && state.dice.chance(per_mille)
    }

    /// Holds an `apply` that begins to every rule about it.
    pub(super) fn applying(&self, ctx: &StepContext, config: &Value) {
        let name = ctx.node.as_str();
        let mut broken = Vec::new();
        {
            let mut state = self.lock();
            state.calls += 1;
            if state.refused {
                broken.push(format!("{name} is begun after the store has failed"));
            }
            if !state.applying.insert(name.to_owned()) {
                broken.push(format!("{name} is applied twice at once"));
            }
            state.verified.remove(name);
            state.outside.node(name).config = Some(config.clone());
            self.stored_before(&state, ctx, config, &mut broken);
            self.done_before(&state, name, &mut broken);
            if state.ledger.state().undo.is_some() {
                broken.push(format!("{name} goes forward, and the run is being undone"));
            }
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }

    /// The intent is stored, and the place is the one that is.
    fn stored_before(&self, state: &State, ctx: &StepContext, config: &Value, broken: &mut Vec<String>) {
        let contents = state.ledger.contents();
        let intent = contents.facts.iter().rev().find_map(|stamped| match &stamped.fact {
            Fact::Started { node, attempt, config, key, .. } if *node == ctx.node => {
                Some((*attempt, config.clone(), key.clone()))
            }
            _ => None,
        });
        let name = &ctx.node;
        if intent != Some((ctx.attempt, config.clone(), ctx.key.clone())) {
            broken.push(format!("{name} is applied (attempt {}) without a stored intent", ctx.attempt));
        }
        let place = contents.places.get(name).cloned().unwrap_or_default();
        let cursor = ctx.cursor::<Value>().unwrap_or_default();
        if place.cursor != cursor || place.handle.as_deref() != ctx.handle() {
            let given = (&cursor, ctx.handle());
            broken.push(format!("{name} has its place at {place:?} and is given {given:?}"));
        }
    }

    /// Everything that the node needs is there, and its pool has room.
    fn done_before(&self, state: &State, name: &str, broken: &mut Vec<String>) {
        let Some(node) = self.scenario.node(name) else { return };
        let (now, run) = (self.clock.elapsed(), state.ledger.state());
        for need in &node.needs {
            let id = NodeId::new(need.as_str()).unwrap();
            let items = run.lists.get(&id).filter(|_| !run.nodes.contains_key(&id));
            let needed: Vec<NodeId> = match items {
                Some(items) => items.iter().map(|item| id.item(&item.key).unwrap()).collect(),
                None => vec![id],
            };
            for id in needed {
                let record = run.nodes.get(&id).cloned().unwrap_or_default();
                let holds = match (record.phase, &record.config, self.scenario.node(need)) {
                    (Phase::Skipped, ..) => true,
                    (_, _, Some(node)) if node.gate => self.is_passed(state, &run, &id),
                    (_, Some(config), Some(node)) => state.outside.holds(id.as_str(), node.kind, config, now),
                    _ => false,
                };
                if !record.is_done() || !holds {
                    broken.push(format!("{name} is begun before {id}, which it needs, is done"));
                }
            }
        }
        let pooled = |node: &&String| self.scenario.node(node).is_some_and(|node| node.pooled);
        if node.pooled && state.applying.iter().filter(pooled).count() > self.scenario.pool {
            broken.push(format!("the pool holds more than {}", self.scenario.pool));
        }
    }

    /// Holds what is to be stored to every rule about it.
    pub(super) fn storing(&self, batch: &Batch) {
        let mut broken = Vec::new();
        {
            let mut state = self.lock();
            let mut is_ended = state.ledger.is_ended();
            for Stamped { fact, .. } in &batch.facts {
                if is_ended && !matches!(fact, Fact::Resumed { .. }) {
                    broken.push(format!("the run has ended, and then stores {}", short(fact)));
                }
                is_ended = matches!(fact, Fact::Ended { .. });
            }
            for stamped in &batch.facts {
                let (node, evidence) = match &stamped.fact {
                    Fact::Finished { node, evidence, .. } | Fact::Reused { node, evidence } => {
                        (node, evidence)
                    }
                    _ => continue,
                };
                let is_gate = self.scenario.node(node.as_str()).is_some_and(|node| node.gate);
                let verified = is_gate || state.verified.get(node.as_str()) == Some(&true);
                if !verified || !evidence.passed() {
                    broken.push(format!("{node} is finished without a passed verification"));
                }
            }
            self.passing(&state, batch, &mut broken);
            seen_again(&state, batch, &mut broken);
            self.outdated(&state, batch, &mut broken);
            if state.refused {
                broken.push("something is stored after the store has failed".to_owned());
            }
            state.ledger.asked(batch.clone());
        }
        for stamped in &batch.facts {
            self.say(format!("store {}", short(&stamped.fact)));
        }
        for (node, cursor) in &batch.cursors {
            self.say(format!("store cursor of {node}: {cursor}"));
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }
}

/// A run that is stored as done has had every node finished or looked at again since it was taken up.
fn seen_again(state: &State, batch: &Batch, broken: &mut Vec<String>) {
    let is_done = |stamped: &Stamped| matches!(stamped.fact, Fact::Ended { state: RunState::Done });
    if !batch.facts.iter().any(is_done) {
        return;
    }
    let mut seen = BTreeSet::new();
    let stored = state.ledger.contents().facts;
    let mut run = RunFacts::default();
    for Stamped { at, fact } in stored.iter().chain(&batch.facts) {
        run.apply(fact, *at);
        match fact {
            Fact::Resumed { .. } => seen.clear(),
            Fact::Finished { node, .. } | Fact::Reused { node, .. } => {
                seen.insert(node);
            }
            _ => {}
        }
    }
    let is_listed = |id: &NodeId| {
        let Some(key) = id.key() else { return true };
        let is_skipped = run.own(&id.whole()).is_some_and(|whole| whole.phase == Phase::Skipped);
        let items = run.lists.get(&id.whole()).filter(|_| !is_skipped);
        items.is_some_and(|items| items.iter().any(|item| item.key == *key))
    };
    for (node, record) in run.nodes.iter().filter(|(node, record)| !record.former && is_listed(node)) {
        if record.phase == Phase::Finished && !seen.contains(node) {
            broken.push(format!("the run is done, and {node} was not looked at again"));
        }
    }
}

impl State {
    fn say(&mut self, line: &str) {
        self.digest = fnv(self.digest, line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_owned());
        }
    }
}

/// A fact in a line.
fn short(fact: &Fact) -> String {
    match fact {
        Fact::Resumed { .. } => "resumed".to_owned(),
        Fact::Started { node, attempt, key, .. } => format!("started {node} #{attempt} {key}"),
        other => {
            let text = serde_json::to_string(other).unwrap_or_default();
            text.chars().take(160).collect()
        }
    }
}
