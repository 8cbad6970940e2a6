//! The rule about what is finished or reused after something that it is built on was made again.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::{Idempotency, NodeId, VerifyDepth};

use super::world::{State, World};
use crate::run::state::{Phase, RunFacts};
use crate::store::fact::{Batch, Fact, Stamped};

impl World {
    /// Holds what is to be stored as finished to what everything upstream of it is by then: what is natural,
    /// or a gate, was begun after all that; anything else was at least looked at from the data itself.
    pub(super) fn outdated(&self, state: &State, batch: &Batch, broken: &mut Vec<String>) {
        let ends = |fact: &Fact| matches!(fact, Fact::Finished { .. } | Fact::Reused { .. });
        if !batch.facts.iter().any(|stamped| ends(&stamped.fact)) {
            return;
        }
        let stored = state.ledger.contents().facts;
        let mut run = RunFacts::default();
        let (mut began, mut settled) = (BTreeMap::new(), BTreeMap::new());
        for (at, Stamped { at: time, fact }) in stored.iter().chain(&batch.facts).enumerate() {
            let was_begun = matches!(fact, Fact::Started { node, .. } if run.node(node).begun);
            run.apply(fact, *time);
            match fact {
                Fact::Started { node, .. } => {
                    began.insert(node.clone(), at);
                    if !was_begun {
                        settled.insert(node.clone(), at);
                    }
                }
                Fact::Finished { node, .. } | Fact::Reused { node, .. } => {
                    let before = settled.insert(node.clone(), at);
                    if at >= stored.len() {
                        broken.extend(self.older(state, &run, &began, node, before.unwrap_or_default()));
                    }
                }
                _ => {}
            }
        }
    }

    fn older(
        &self,
        state: &State,
        run: &RunFacts,
        began: &BTreeMap<NodeId, usize>,
        node: &NodeId,
        settled: usize,
    ) -> Option<String> {
        let is_new = |id: &&NodeId| {
            let is_skipped = run.node(id).phase == Phase::Skipped;
            !is_skipped && began.get(*id).is_some_and(|began| *began > settled)
        };
        let upstream = self.upstream(node, run);
        let newer = upstream.iter().find(is_new)?;
        let this = self.scenario.node(node.as_str())?;
        let is_closely = state.looked.get(node.as_str()) == Some(&VerifyDepth::Deep);
        let holds = !this.gate && this.kind != Idempotency::Natural && is_closely;
        (!holds).then(|| format!("{node} is finished or reused as it was, and {newer} was made again since"))
    }

    /// Everything that a node is built on, but for gates, which make nothing.
    fn upstream(&self, node: &NodeId, run: &RunFacts) -> BTreeSet<NodeId> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut next = vec![node.whole()];
        while let Some(id) = next.pop() {
            let needs = self.scenario.node(id.as_str()).map(|node| node.needs.clone()).unwrap_or_default();
            for need in needs.into_iter().filter(|need| seen.insert(need.clone())) {
                let Ok(id) = NodeId::new(need.as_str()) else { continue };
                next.push(id.clone());
                if self.scenario.node(&need).is_some_and(|node| node.gate) {
                    continue;
                }
                let items = run.lists.get(&id).filter(|_| run.own(&id).is_none());
                match items {
                    Some(items) => found.extend(items.iter().filter_map(|item| id.item(&item.key).ok())),
                    None => found.extend([id]),
                }
            }
        }
        found
    }
}
