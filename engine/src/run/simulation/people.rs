//! What people decide in a simulated world, and the rules about it: gates, and the undo.

use migrate_plugin_api::{NodeId, StepContext};

use super::world::{State, World};
use crate::run::gate::{GATE, GateDecision, question};
use crate::run::state::{NodeRecord, Phase, RunFacts};
use crate::store::fact::{Batch, Fact};

/// What a person saw when they decided: which question, and how often it was asked before.
fn seen(record: &NodeRecord) -> String {
    let config = record.config.clone().unwrap_or_default();
    format!("{} #{}", question(&config), record.attempts)
}

impl World {
    /// People look at the gates that wait and decide about some of them: about all, and yes, once nothing
    /// goes wrong any more.
    pub(super) fn people_decide(&self) {
        let mut said = Vec::new();
        {
            let mut state = self.lock();
            let run = state.ledger.state();
            for (node, record) in run.nodes.iter().filter(|(_, record)| record.is_waiting()) {
                let Some(key) = record.key.clone() else { continue };
                let troubled = state.troubled;
                if troubled && state.people.chance(300) {
                    continue;
                }
                let approved = !troubled || !state.people.chance(200);
                let at = crate::ambient::now();
                let (by, host) = ("ana".to_owned(), "laptop".to_owned());
                let decision = GateDecision { key, approved, by, host, at, note: Some(seen(record)) };
                if state.outside.decide(decision).is_none() {
                    said.push(format!("a person decides about {node}: {approved}"));
                }
            }
        }
        said.into_iter().for_each(|line| self.say(line));
    }

    /// Holds an undo that begins to every rule about it.
    pub(super) fn undoing(&self, ctx: &StepContext) {
        self.say(format!("{} is undone, {}", ctx.node, ctx.key));
        let mut broken = Vec::new();
        {
            let state = self.lock();
            let run = state.ledger.state();
            let record = run.nodes.get(&ctx.node).cloned().unwrap_or_default();
            if state.refused {
                broken.push(format!("{} is undone after the store has failed", ctx.node));
            }
            if !record.undoing || record.undos != ctx.attempt || run.undo.is_none() {
                broken.push(format!("{} is undone without a stored intent", ctx.node));
            }
            if record.phase == Phase::Undone {
                broken.push(format!("{} is undone, and was before", ctx.node));
            }
            for (id, other) in self.built_on(&ctx.node, &run) {
                let is_there = other.begun && !other.left && other.phase != Phase::Undone;
                if is_there && other.step.as_deref() != Some(GATE) {
                    broken.push(format!("{} is undone before {id}, which is built on it", ctx.node));
                }
            }
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }

    /// What waits for `node`, directly.
    fn built_on<'r>(
        &'r self,
        node: &NodeId,
        run: &'r RunFacts,
    ) -> impl Iterator<Item = (&'r NodeId, &'r NodeRecord)> {
        let whole = node.whole();
        let needs = move |id: &NodeId| {
            let other = self.scenario.node(id.as_str());
            other.is_some_and(|other| other.needs.iter().any(|need| *need == *whole.as_str()))
        };
        run.nodes.iter().filter(move |(id, _)| needs(id))
    }

    /// Holds what is to be stored about gates to every rule about it.
    pub(super) fn passing(&self, state: &State, batch: &Batch, broken: &mut Vec<String>) {
        let is_gate = |node: &NodeId| self.scenario.node(node.as_str()).is_some_and(|node| node.gate);
        let about_gate = |fact: &Fact| match fact {
            Fact::Decided { .. } => true,
            Fact::Applied { node, .. } | Fact::Finished { node, .. } | Fact::Reused { node, .. } => {
                is_gate(node)
            }
            _ => false,
        };
        if !batch.facts.iter().any(|stamped| about_gate(&stamped.fact)) {
            return;
        }
        let mut run = state.ledger.state();
        for stamped in &batch.facts {
            run.apply(&stamped.fact, stamped.at);
            match &stamped.fact {
                Fact::Decided { node, decision } => {
                    let record = run.nodes.get(node).cloned().unwrap_or_default();
                    if state.outside.decisions.get(&decision.key) != Some(decision) {
                        broken.push(format!("{node} is decided, and nobody did"));
                    }
                    if decision.note != Some(seen(&record)) {
                        broken.push(format!("{node} is decided by an answer to another question"));
                    }
                }
                fact if about_gate(fact) => {
                    let node = match fact {
                        Fact::Applied { node, .. }
                        | Fact::Finished { node, .. }
                        | Fact::Reused { node, .. } => node,
                        _ => continue,
                    };
                    if !self.is_passed(state, &run, node) {
                        broken.push(format!("{node} is passed without a decision"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether somebody has said yes to what the gate asks now.
    pub(super) fn is_passed(&self, state: &State, run: &RunFacts, gate: &NodeId) -> bool {
        let record = run.nodes.get(gate);
        let key = record.and_then(|record| record.key.as_ref());
        key.and_then(|key| state.outside.decisions.get(key)).is_some_and(|decision| decision.approved)
    }

    /// The run says that it is undone: nothing is there any more but what it has named.
    pub(super) fn undone(&self) {
        let mut broken = Vec::new();
        {
            let state = self.lock();
            let run = state.ledger.state();
            for (name, made) in &state.outside.nodes {
                let there = made.content.is_some() || !made.jobs.is_empty() || !made.effects.is_empty();
                let record = NodeId::new(name.as_str()).ok().and_then(|id| run.nodes.get(&id));
                let is_told = record.is_some_and(|record| record.left && record.reason.is_some());
                if there && !made.damaged && !is_told {
                    broken.push(format!("the run is undone, {name} is there and not named: {made:?}"));
                }
            }
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }
}
