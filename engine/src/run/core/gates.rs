//! Gates in the core: they wait, take no place among what runs, and are settled by a decision.

use migrate_plugin_api::{ErrorClass, IdempotencyKey};

use super::{Core, Live, error};
use crate::event::EventKind;
use crate::run::command::CallKind;
use crate::run::gate::{GATE, GateDecision, question};
use crate::run::state::{NodeRecord, Phase};
use crate::store::fact::Fact;
use crate::workflow::Resolved;

impl Core {
    /// The questions that are open. While there are any, somebody must look for decisions.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &IdempotencyKey> {
        let record = |at: &usize| self.facts.nodes.get(&self.cells[*at].id);
        self.gates.iter().filter_map(record).filter_map(|record| record.key.as_ref())
    }

    pub(super) fn is_gate(&self, at: usize) -> bool {
        self.node(at).step == GATE
    }

    /// Goes on with a gate from what is durably known of it.
    pub(super) fn take_up_gate(&mut self, at: usize, resolved: Resolved) {
        const AGAIN: &str = "it is asked again";
        let record = self.record_of(at);
        let same = record.digest.as_ref() == Some(&resolved.digest);
        let &NodeRecord { phase, again, failed, attempts, .. } = record;
        let is_outdated = self.remade(at).is_some();
        self.cells[at].resolved = Some(resolved);
        if same && again.is_none() {
            self.note_wording(at);
        }
        match phase {
            _ if again.is_some() && attempts > 0 => self.reset(at, AGAIN, true, false),
            Phase::Applied | Phase::Finished if same && !is_outdated => {
                self.occupy(at);
                return self.call(at, CallKind::Verify);
            }
            Phase::Open if same && !failed && !is_outdated => return self.ask(at),
            Phase::Open if !same && !is_outdated => self.reset(at, AGAIN, false, false),
            // Rejected, or about something that has changed or was made again since: a new question.
            _ if attempts > 0 => self.reset(at, AGAIN, true, false),
            _ => {}
        }
        self.intend(at);
        self.ask(at);
    }

    fn ask(&mut self, at: usize) {
        let (node, record) = (self.id(at), self.record_of(at).clone());
        self.cells[at].live = Live::Gate;
        self.gates.insert(at);
        let dropped = record.key.and_then(|key| self.decisions.remove(&key));
        if let Some(decision) = record.decision.or(dropped) {
            return self.settle(at, decision);
        }
        let message = question(&record.config.unwrap_or_default());
        self.emit(EventKind::NodeWaiting { node, message });
    }

    /// Somebody has decided.
    pub(super) fn decided(&mut self, decision: GateDecision) {
        let asks = |at: &usize| self.record_of(*at).key.as_ref() == Some(&decision.key);
        match self.gates.iter().copied().find(asks) {
            Some(at) => self.settle(at, decision),
            None => drop(self.decisions.insert(decision.key.clone(), decision)),
        }
    }

    fn settle(&mut self, at: usize, decision: GateDecision) {
        self.gates.remove(&at);
        self.occupy(at);
        // The time that a person took is none of the node's.
        (self.cells[at].began, self.cells[at].accounted) = (self.now, self.now);
        let outputs = decision.outputs();
        self.record(Fact::Decided { node: self.id(at), decision: decision.clone() });
        if decision.approved {
            self.effect_is_there(at, outputs, false);
        } else {
            let error = error(ErrorClass::Permanent, decision.sentence(), None);
            self.fail(at, error, None, false);
        }
    }
}
