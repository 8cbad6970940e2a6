//! What nodes had given up to some fact of a run: pure. It tells what only comes out differently since something
//! was made again from what somebody has changed in the files.
//!
//! A node only begins when all that it refers to has ended, and needs all of it. So a reference to what had not
//! ended by then is new in the file, and so is one to what the node did not need.

use std::collections::BTreeSet;

use migrate_plugin_api::NodeId;

use super::state::{NodeRecord, Phase, RunFacts};
use crate::store::fact::Fact;
use crate::workflow::model::Node;
use crate::workflow::{Lookup, Outcomes, Reference, node_of};

/// The nodes as they were at a fact. Where it is not known any more what was there then, or in a list, nothing
/// counts as known.
pub(super) struct Then<'a> {
    pub facts: &'a RunFacts,
    pub fact: u64,
    /// What the node that is compared needed when the run was last taken up, if it was there.
    pub needs: Option<&'a BTreeSet<&'a NodeId>>,
}

impl Then<'_> {
    /// Whether a reference to this node must have been written since.
    fn is_new_to_it(&self, node: &NodeId) -> bool {
        !self.facts.had_ended(node, self.fact) || self.needs.is_some_and(|needs| !needs.contains(node))
    }

    /// When what the list of `node` comes of last came out anew by then; 0 if that is nothing, or comes of no node.
    pub(super) fn list_made_at(&self, node: &Node) -> u64 {
        let list = node.for_each.iter().flat_map(|each| each.list.references());
        let nodes: BTreeSet<NodeId> = list.filter_map(node_of).collect();
        let newest = |id: &NodeId| {
            let items = self.facts.items_of(id).map(|(_, record)| record);
            let records = self.facts.own(id).into_iter().chain(items);
            let stored = self.facts.listed_at.get(id).copied();
            records.flat_map(comings).chain(stored).filter(|made| *made <= self.fact).max()
        };
        nodes.iter().filter_map(newest).max().unwrap_or(0)
    }
}

impl Outcomes for Then<'_> {
    fn is_skipped(&self, reference: &Reference) -> bool {
        let skipped = self.facts.skipped(reference);
        skipped.is_some_and(|record| record.skipped_at <= self.fact || self.is_new(reference))
    }

    fn is_new(&self, reference: &Reference) -> bool {
        node_of(reference).is_some_and(|node| self.is_new_to_it(&node))
    }

    fn output(&self, path: &[String]) -> Lookup<'_> {
        let Some((name, rest)) = path.split_first() else { return Lookup::Unknown };
        let Ok(node) = NodeId::new(name.clone()) else { return Lookup::Unknown };
        // What is new in the file stands for what it gives now.
        if self.is_new_to_it(&node) {
            return self.facts.output(path);
        }
        let is_later = |record: &NodeRecord| record.made_at().is_some_and(|made| made > self.fact);
        // What is skipped since is no longer among what a list gives.
        let is_gone = |record: &NodeRecord| record.phase == Phase::Skipped && record.skipped_at > self.fact;
        let is_another = self.facts.listed_at.get(&node).is_some_and(|stored| *stored > self.fact);
        if is_another || self.facts.items_of(&node).any(|(_, record)| is_later(record) || is_gone(record)) {
            return Lookup::Unknown;
        }
        match self.facts.own(&node).filter(|record| is_later(record)) {
            None => self.facts.output(path),
            Some(record) => {
                let mut remains = record.remains.iter().rev();
                let then = remains.find(|made| made.began_at <= self.fact);
                let outputs = then.and_then(|made| made.outputs.as_ref());
                outputs.map_or(Lookup::Unknown, |outputs| Lookup::at(outputs, rest))
            }
        }
    }
}

impl RunFacts {
    /// Takes in what has ended by the `count`th fact.
    pub(super) fn note_end(&mut self, fact: &Fact, count: u64) {
        let node = match fact {
            Fact::Finished { node, .. } => node.whole(),
            Fact::Skipped { node, .. } if node.key().is_some() => node.whole(),
            Fact::Expanded { node, items } if items.is_empty() => node.clone(),
            _ => return,
        };
        self.first_ended.entry(node).or_insert(count);
    }

    /// Whether a node of this name, or an item of it, had ended with something for others by this fact.
    fn had_ended(&self, node: &NodeId, fact: u64) -> bool {
        self.first_ended.get(node).is_some_and(|ended| *ended <= fact)
    }

    /// What `reference` is about, if that is skipped.
    pub(super) fn skipped(&self, reference: &Reference) -> Option<&NodeRecord> {
        let id = node_of(reference)?;
        let key = reference.path.get(1).filter(|_| self.lists.contains_key(&id));
        let is_skipped = |record: &&NodeRecord| record.phase == Phase::Skipped;
        let own = self.own(&id).filter(is_skipped);
        own.or_else(|| self.item(&id, key?).filter(is_skipped))
    }
}

/// At which facts it was made, skipped since or not, and when it was.
fn comings(record: &NodeRecord) -> impl Iterator<Item = u64> {
    record.remains.iter().map(|made| made.began_at).chain([record.began_at, record.skipped_at])
}
