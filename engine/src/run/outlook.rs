//! What `resume` would do with each node, by the rules of the core: pure. The same decisions as
//! [`Core`](super::core::Core) takes when it takes up a node, told before instead of taken.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::{Evidence, Idempotency, NodeId};

use super::change::fields;
use super::core::disproof;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::outlook::{Action, NodeOutlook};
use crate::workflow::model::Node;
use crate::workflow::{Catalog, Checked, Decision, Ended, node_of};

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
    /// Every node, in an order in which they may run.
    pub(crate) fn nodes(&self) -> Vec<NodeOutlook> {
        let mut open = BTreeSet::new();
        let mut nodes: Vec<NodeOutlook> = Vec::new();
        for node in &self.checked.workflow.nodes {
            let outlook = self.node(node, &open, &nodes);
            // What may come out differently from what is stored.
            if !matches!(outlook.action, Action::Reuse | Action::Verify | Action::Skip) {
                open.insert(node.id.clone());
            }
            nodes.push(outlook);
        }
        nodes
    }

    fn node(&self, node: &Node, open: &BTreeSet<NodeId>, before: &[NodeOutlook]) -> NodeOutlook {
        let empty = NodeRecord::default();
        let record = self.facts.nodes.get(&node.id).unwrap_or(&empty);
        let (action, reason) = self.action(node, record, open, before);
        let changed =
            matches!(action, Action::Rerun | Action::Ask | Action::Observe) && record.config.is_some();
        NodeOutlook {
            node: node.id.clone(),
            step: node.step.clone(),
            action,
            reason,
            fields: if changed { self.fields(node, record, open) } else { Vec::new() },
            evidence: self.verified.get(&node.id).cloned(),
            plan: None,
            error: None,
        }
    }

    fn fields(&self, node: &Node, record: &NodeRecord, open: &BTreeSet<NodeId>) -> Vec<crate::FieldChange> {
        fields(record, node, self.checked, self.catalog, &|id| self.ended(id, open))
    }

    fn ended<'a>(&'a self, id: &NodeId, open: &BTreeSet<NodeId>) -> Ended<'a> {
        match self.facts.nodes.get(id) {
            _ if open.contains(id) => Ended::Open,
            Some(record) if record.phase == Phase::Skipped => Ended::Skipped,
            Some(NodeRecord { outputs: Some(outputs), .. }) => Ended::Outputs(outputs),
            _ => Ended::Open,
        }
    }

    fn action(
        &self,
        node: &Node,
        record: &NodeRecord,
        open: &BTreeSet<NodeId>,
        before: &[NodeOutlook],
    ) -> (Action, Option<String>) {
        let because = |text: &str| Some(text.to_owned());
        if let Some(reason) = self.checked.skipped.get(&node.id) {
            return (Action::Skip, Some(reason.clone()));
        }
        let references = node.with.references().into_iter();
        let references = references.chain(node.when.iter().flat_map(|when| &when.references));
        let inputs: Vec<NodeId> = references.filter_map(node_of).collect();
        let skipped = |id: &&NodeId| before.iter().any(|n| n.node == **id && n.action == Action::Skip);
        if let Some(id) = inputs.iter().find(skipped) {
            return (Action::Skip, Some(crate::workflow::refers_to_skipped(id)));
        }
        let waits = inputs.iter().find(|id| open.contains(id));
        let same = match waits {
            Some(_) => None,
            None => match self.checked.decide(self.catalog, node, &|id| self.ended(id, open)) {
                Decision::Skip(reason) => return (Action::Skip, Some(reason)),
                Decision::Refuse(why) => return (Action::Ask, Some(why)),
                Decision::Run(resolved) => Some(record.digest.as_ref() == Some(&resolved.digest)),
            },
        };
        // With inputs still open, only what is already known to differ counts as changed.
        let same = same.unwrap_or_else(|| self.fields(node, record, open).is_empty());
        let repeatable = self.is_idempotent(node);
        match record.phase {
            Phase::New if record.failed && record.attempts > 0 && !repeatable => {
                (Action::Ask, because("an earlier attempt was disproved"))
            }
            Phase::New if self.asked.contains(&node.id) && record.attempts > 0 => {
                (Action::Rerun, because("asked for"))
            }
            Phase::New if record.attempts > 0 => (Action::Rerun, because("its earlier result doesn't hold")),
            Phase::New | Phase::Skipped => (Action::Start, None),
            // Whatever it began may be at work outside, under its own config.
            Phase::Open if !same => (
                Action::Observe,
                because("its last attempt was begun with another config or step, and has no known end"),
            ),
            _ if !same && !repeatable => (
                Action::Ask,
                because(
                    "its config or its step has changed since an earlier attempt, and doing it twice is not the same as once",
                ),
            ),
            _ if !same => (Action::Rerun, because("its config or its step has changed")),
            Phase::Open => (Action::Observe, because(open_reason(record))),
            Phase::Applied => (Action::Verify, because("done, and not verified yet")),
            Phase::Finished => self.finished(node, repeatable, waits),
        }
    }

    fn finished(&self, node: &Node, repeatable: bool, waits: Option<&NodeId>) -> (Action, Option<String>) {
        match self.verified.get(&node.id).filter(|evidence| !evidence.passed()) {
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
