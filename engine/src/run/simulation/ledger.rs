//! What the store has promised, kept outside of the simulated world to compare with.

use std::collections::BTreeMap;

use migrate_plugin_api::{NodeId, RunId};

use crate::run::state::RunFacts;
use crate::store::fact::{Batch, Fact, Place, Stamped};

/// All batches of one run in order. Those after `acknowledged` may be lost, from the end, each whole.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub run: Option<RunId>,
    pub run_acknowledged: bool,
    batches: Vec<Batch>,
    acknowledged: usize,
}

/// What stands in a store after some batches.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    pub facts: Vec<Stamped>,
    pub places: BTreeMap<NodeId, Place>,
}

impl Contents {
    fn add(&mut self, batch: &Batch) {
        self.facts.extend(batch.facts.iter().cloned());
        batch.cleared.iter().for_each(|node| drop(self.places.remove(node)));
        for (node, cursor) in &batch.cursors {
            self.places.entry(node.clone()).or_default().cursor = Some(cursor.clone());
        }
        for (node, handle) in &batch.handles {
            self.places.entry(node.clone()).or_default().handle = Some(handle.clone());
        }
    }
}

impl Ledger {
    /// The store was asked to create `run`.
    pub(super) fn created(&mut self, run: RunId) {
        *self = Self { run: Some(run), ..Self::default() };
    }

    /// The store was asked to take `batch`.
    pub(super) fn asked(&mut self, batch: Batch) {
        self.batches.push(batch);
    }

    /// The store has said that all of it is durable.
    pub(super) fn acknowledge(&mut self) {
        self.acknowledged = self.batches.len();
    }

    /// As the process sees it.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        self.batches.iter().for_each(|batch| contents.add(batch));
        contents
    }

    /// The state of the run in these facts.
    pub(super) fn state(&self) -> RunFacts {
        RunFacts::fold(self.contents().facts)
    }

    /// Whether the run has ended, and was not taken up since.
    pub(super) fn is_ended(&self) -> bool {
        let last = self.batches.iter().flat_map(|batch| &batch.facts).next_back();
        last.is_some_and(|stamped| matches!(stamped.fact, Fact::Ended { .. }))
    }

    /// How often the effect of `node` was to be made again.
    pub(super) fn generations(&self, node: &str) -> usize {
        let facts = self.batches.iter().flat_map(|batch| &batch.facts);
        let again =
            |fact: &Fact| matches!(fact, Fact::Reset { node: of, again: true, .. } if of.as_str() == node);
        facts.filter(|stamped| again(&stamped.fact)).count()
    }

    /// Compares with what a new process finds, and goes on from there.
    pub(super) fn found(&mut self, run: Option<&RunId>, found: &Contents) -> Result<(), String> {
        let Some(run) = run else {
            if self.run_acknowledged {
                return Err(format!("run {:?} was acknowledged and is lost", self.run));
            }
            *self = Self::default();
            return Ok(());
        };
        if self.run.as_ref() != Some(run) {
            return Err(format!("the newest run is {run} and should be {:?}", self.run));
        }
        let mut contents = Contents::default();
        for (count, batch) in self.batches.iter().enumerate() {
            if count >= self.acknowledged && contents == *found {
                self.batches.truncate(count);
                return Ok(());
            }
            contents.add(batch);
        }
        if contents == *found {
            return Ok(());
        }
        let mut acknowledged = Contents::default();
        self.batches[..self.acknowledged].iter().for_each(|batch| acknowledged.add(batch));
        let same = acknowledged.facts.iter().zip(&found.facts).take_while(|(a, b)| a == b).count();
        Err(format!(
            "of {} acknowledged facts {} are there as they were (of {} found); first other one: {:?}; \
             places acknowledged {:?}, found {:?}",
            acknowledged.facts.len(),
            same,
            found.facts.len(),
            acknowledged.facts.get(same),
            acknowledged.places,
            found.places,
        ))
    }
}
