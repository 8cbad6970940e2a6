//! What a node is built on, and whether that was made again since: pure.
//!
//! A node was built on everything upstream of it as that was when the node was begun, or last seen to hold.
//! The order of facts says what came first; no clock does.

use std::collections::BTreeSet;

use migrate_plugin_api::NodeId;

use super::gate::GATE;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::workflow::NodeOutline;
use crate::workflow::model::{Node, Workflow};

/// At which fact something was made, and the place of its node in the workflow.
pub(crate) type Making = Option<(u64, usize)>;

/// What is to be made again comes after everything that is there.
pub(crate) const TO_COME: u64 = u64::MAX;

/// When the node at `at` was last made; where it has items, the newest of them. A gate makes nothing.
pub(crate) fn made(facts: &RunFacts, workflow: &Workflow, at: usize) -> Making {
    let node = &workflow.nodes[at];
    if node.step == GATE {
        return None;
    }
    let newest = match items(facts, node) {
        Some(items) => items.filter_map(|id| facts.node(&id).made_at()).max(),
        None => facts.own(&node.id).and_then(NodeRecord::made_at),
    };
    newest.map(|began| (began, at))
}

/// The items of a node as last known; `None` where it has no list.
fn items<'a>(facts: &'a RunFacts, node: &'a Node) -> Option<impl Iterator<Item = NodeId> + 'a> {
    let items = facts.lists.get(&node.id).filter(|_| node.for_each.is_some())?;
    Some(items.iter().filter_map(|item| node.id.item(&item.key).ok()))
}

/// Nodes and items that have had their effect before something that they are built on was made again, or
/// will be when `again` is.
pub(crate) fn outdated(facts: &RunFacts, workflow: &Workflow, again: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let mut newest: Vec<Making> = Vec::with_capacity(workflow.nodes.len());
    let mut outdated = Vec::new();
    // In an order in which they may run, so that one pass finds all.
    for (at, node) in workflow.nodes.iter().enumerate() {
        let upstream =
            workflow.dependencies[&node.id].iter().filter_map(|id| newest[workflow.index[id]]).max();
        let units: Vec<NodeId> = match items(facts, node) {
            Some(items) => items.collect(),
            None => vec![node.id.clone()],
        };
        let is_again = node.step != GATE && units.iter().any(|id| again.contains(id));
        let own = if is_again { Some((TO_COME, at)) } else { made(facts, workflow, at) };
        newest.push(upstream.max(own));
        let holds = |record: &NodeRecord| record.phase == Phase::Skipped || !record.is_outdated(upstream);
        outdated.extend(units.into_iter().filter(|id| !holds(facts.node(id))));
    }
    outdated
}

/// The newest making upstream of `node` as far as `facts` tell. `outlines` are in an order in which they may run.
pub(crate) fn upstream_of(facts: &RunFacts, outlines: &[NodeOutline], node: &NodeId) -> Making {
    let (mut needed, mut newest) = (BTreeSet::from([node]), None);
    for (at, outline) in outlines.iter().enumerate().rev() {
        if !needed.contains(&outline.node) {
            continue;
        }
        needed.extend(&outline.needs);
        if outline.node == *node || outline.step == GATE {
            continue;
        }
        let records = facts.own(&outline.node).into_iter();
        let records = records.chain(facts.items_of(&outline.node).map(|(_, record)| record));
        let made = |record: &NodeRecord| {
            record.made_at().map(|made| if record.again.is_some() { TO_COME } else { made })
        };
        let made = records.filter_map(made).max();
        newest = newest.max(made.map(|made| (made, at)));
    }
    newest
}

impl NodeRecord {
    /// Whether something that it is built on was made since.
    pub(crate) fn is_outdated(&self, upstream: Making) -> bool {
        self.begun && !self.kept && upstream.is_some_and(|(made, _)| made > self.settled_at)
    }
}
