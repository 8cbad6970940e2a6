//! What `resume` would do with each node, by the rules of the core: pure. The same decisions as
//! [`Core`](super::core::Core) takes when it takes up a node, told before instead of taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use migrate_plugin_api::{Evidence, Idempotency, NodeId};

use super::change::fields;
use super::core::disproof;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::outlook::{Action, NodeOutlook};
use crate::workflow::model::Node;
use crate::workflow::{Catalog, Checked, Decision, Each, Expansion, Item, Outcomes, node_of};

/// What is looked at.
pub(crate) struct Outlook<'a> {
    /// With what was asked for already reset.
    pub facts: &'a RunFacts,
    pub checked: &'a Checked,
    pub catalog: &'a Catalog,
    /// What a person asked to run again.
    pub asked: &'a BTreeSet<NodeId>,
    /// Finished nodes that have been looked at just now.
    pub verified: &'a BTreeMap<NodeId, Evidence>,
}

impl Outlook<'_> {
    /// Every node, in an order in which they may run; of a node with a list, every item.
    pub(crate) fn nodes(&self) -> Vec<NodeOutlook> {
        // What is known at the moment when a node's turn comes: less than now, where a node that it
        // waits for may come out differently.
        let mut world = self.facts.clone();
        let mut open = BTreeSet::new();
        let mut nodes: Vec<NodeOutlook> = Vec::new();
        for node in &self.checked.workflow.nodes {
            let first = nodes.len();
            match node.for_each {
                None => nodes.push(self.unit(node, &node.id, None, &world, &open)),
                Some(_) => self.items(node, &mut world, &open, &mut nodes),
            }
            for outlook in &nodes[first..] {
                let record = world.nodes.entry(outlook.node.clone()).or_default();
                match outlook.action {
                    Action::Reuse | Action::Verify => {}
                    Action::Skip => (record.phase, record.outputs) = (Phase::Skipped, None),
                    _ => {
                        record.outputs = None;
                        if record.phase == Phase::Skipped {
                            record.phase = Phase::New;
                        }
                        open.insert(node.id.clone());
                    }
                }
            }
        }
        nodes
    }

    fn items(
        &self,
        node: &Node,
        world: &mut RunFacts,
        open: &BTreeSet<NodeId>,
        nodes: &mut Vec<NodeOutlook>,
    ) {
        let whole = |action, reason| self.outlook(node, &node.id, action, Some(reason));
        if let Some(reason) = self.checked.skipped.get(&node.id) {
            return nodes.push(whole(Action::Skip, reason.clone()));
        }
        match self.checked.expand(node, world) {
            Expansion::Skip(reason) => nodes.push(whole(Action::Skip, reason)),
            Expansion::Refuse(why) => nodes.push(whole(Action::Ask, why)),
            Expansion::Items(items) if items.is_empty() => {
                nodes.push(whole(Action::Skip, "its list is empty: nothing to do".to_owned()));
            }
            Expansion::Items(items) => {
                let items: Arc<[Item]> = items.into();
                for (at, item) in items.iter().enumerate() {
                    let Ok(id) = node.id.item(&item.key) else { continue };
                    nodes.push(self.unit(node, &id, Each::new(&items, at), world, open));
                }
                world.nodes.remove(&node.id);
                world.lists.insert(node.id.clone(), items);
            }
            Expansion::Unknown => {
                let ran = self.facts.items_of(&node.id).any(|(_, record)| record.attempts > 0);
                let action = if ran { Action::ReuseOrRerun } else { Action::Start };
                nodes.push(whole(action, "its list is only known during the run".to_owned()));
            }
        }
    }

    fn unit(
        &self,
        node: &Node,
        id: &NodeId,
        each: Option<Each<'_>>,
        world: &RunFacts,
        open: &BTreeSet<NodeId>,
    ) -> NodeOutlook {
        let empty = NodeRecord::default();
        let record = self.facts.nodes.get(id).unwrap_or(&empty);
        let differs = || fields(record, node, self.checked, self.catalog, world, each);
        let (action, reason) = self.action(node, id, record, each, world, open);
        let shown = matches!(action, Action::Rerun | Action::Ask | Action::Observe);
        NodeOutlook {
            fields: if shown { differs() } else { Vec::new() },
            ..self.outlook(node, id, action, reason)
        }
    }

    fn outlook(&self, node: &Node, id: &NodeId, action: Action, reason: Option<String>) -> NodeOutlook {
        NodeOutlook {
            node: id.clone(),
            step: node.step.clone(),
            action,
            reason,
            fields: Vec::new(),
            evidence: self.verified.get(id).cloned(),
            plan: None,
            error: None,
        }
    }

    fn action(
        &self,
        node: &Node,
        id: &NodeId,
        record: &NodeRecord,
        each: Option<Each<'_>>,
        world: &RunFacts,
        open: &BTreeSet<NodeId>,
    ) -> (Action, Option<String>) {
        if let Some(reason) = self.checked.skipped.get(&node.id) {
            return (Action::Skip, Some(reason.clone()));
        }
        if let Some(gone) = node.references().find(|reference| world.is_skipped(reference)) {
            return (Action::Skip, node_of(gone).map(|id| crate::workflow::refers_to_skipped(&id)));
        }
        let waits = node.references().filter_map(node_of).find(|id| open.contains(id));
        let same = match waits {
            // With inputs still open, only what is already known to differ counts as changed.
            Some(_) => fields(record, node, self.checked, self.catalog, world, each).is_empty(),
            None => match self.checked.decide(self.catalog, node, world, each) {
                Decision::Skip(reason) => return (Action::Skip, Some(reason)),
                Decision::Refuse(why) => return (Action::Ask, Some(why)),
                Decision::Run(resolved) => record.digest.as_ref() == Some(&resolved.digest),
            },
        };
        self.begun(node, id, record, same, waits.as_ref())
    }

    /// By the same rules as the core takes up a node.
    fn begun(
        &self,
        node: &Node,
        id: &NodeId,
        record: &NodeRecord,
        same: bool,
        waits: Option<&NodeId>,
    ) -> (Action, Option<String>) {
        let repeatable = self.is_idempotent(node);
        let told = |action, text: &str| (action, Some(text.to_owned()));
        let ran = record.attempts > 0;
        match record.phase {
            Phase::New if record.failed && ran && !repeatable => {
                told(Action::Ask, "an earlier attempt was disproved")
            }
            Phase::Skipped if ran && !repeatable => told(Action::Ask, "it ran before it was skipped"),
            Phase::Skipped if ran => told(Action::Rerun, "it ran before it was skipped"),
            Phase::New if self.asked.contains(id) && ran => told(Action::Rerun, "asked for"),
            Phase::New if ran => told(Action::Rerun, "its earlier result doesn't hold"),
            // A run that is undone never goes forward again.
            Phase::Undone => told(Action::Skip, "its effect was taken back"),
            Phase::New | Phase::Skipped => (Action::Start, None),
            // Whatever it began may be at work outside, under its own config.
            Phase::Open if !same => told(
                Action::Observe,
                "its last attempt was begun with another config or step, and has no known end",
            ),
            _ if !same && !repeatable => told(
                Action::Ask,
                "its config or its step has changed since an earlier attempt, and doing it twice is not the same as once",
            ),
            Phase::Open => told(Action::Observe, open_reason(record)),
            _ if !same => told(Action::Rerun, "its config or its step has changed"),
            Phase::Applied => told(Action::Verify, "done, and not verified yet"),
            Phase::Finished => self.finished(id, repeatable, waits),
        }
    }

    fn finished(&self, id: &NodeId, repeatable: bool, waits: Option<&NodeId>) -> (Action, Option<String>) {
        match self.verified.get(id).filter(|evidence| !evidence.passed()) {
            Some(evidence) if repeatable => return (Action::Rerun, Some(disproof(evidence))),
            Some(evidence) => return (Action::Ask, Some(disproof(evidence))),
            None => {}
        }
        match waits {
            Some(id) => (Action::ReuseOrRerun, Some(format!("it takes outputs of `{id}`"))),
            None => (Action::Reuse, None),
        }
    }

    fn is_idempotent(&self, node: &Node) -> bool {
        let described = self.catalog.get(&node.step);
        described.is_some_and(|described| described.info.idempotency != Idempotency::None)
    }
}

fn open_reason(record: &NodeRecord) -> &'static str {
    match (record.failed, record.stopped) {
        (true, _) => "its last attempt failed",
        (false, true) => "its last attempt was stopped",
        (false, false) => "its last attempt has no known end",
    }
}
