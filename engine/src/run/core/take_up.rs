//! Goes on with a node from what is durably known of it.

use migrate_plugin_api::{ErrorClass, Evidence, LogLevel, NodeId, VerifyDepth};

use super::{Core, error};
use crate::event::EventKind;
use crate::run::command::{CallKind, Command};
#[cfg(test)]
use crate::run::simulation::{Flaw, flawed};
use crate::run::state::{Again, NodeRecord, Phase};
use crate::store::fact::Fact;
use crate::workflow::{Resolved, is_natural, is_repeatable};

/// Of what a person keeps as it is, when its turn has come.
pub(crate) const KEPT_CHANGED: &str = "it is to be kept as it is, and its config or its step has changed";

/// Why what an earlier attempt began is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    /// To go on with it.
    ToGoOn,
    /// The node has another config or step now, which is to begin.
    Changed,
    /// A person wants the node to be made again.
    Again,
    /// What it is built on was made again since.
    Outdated,
}

impl Sought {
    /// What a person is told of it, as the beginning of a sentence.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::ToGoOn | Self::Changed => "its config or its step has changed",
            Self::Again => "it is to be made again",
            Self::Outdated => "what it is built on was made again",
        }
    }

    /// Whether a person is asked where it can't be found out. What may be repeated is just tried again.
    pub(super) fn must_be_told(self) -> bool {
        matches!(self, Self::Changed | Self::Again)
    }
}

impl Core {
    /// Goes on with a node from what is durably known of it.
    pub(super) fn take_up(&mut self, at: usize, resolved: Resolved) {
        let record = self.record_of(at);
        let same = record.digest.as_ref() == Some(&resolved.digest);
        let &NodeRecord { phase, begun, again, failed, attempts, renewed, kept, accepted, .. } = record;
        let remade = self.remade(at);
        self.cells[at].resolved = Some(resolved);
        if same && again.is_none() {
            self.note_wording(at);
        }
        // What is not made again where that changes nothing must hold beside what is new.
        self.cells[at].depth = if remade.is_some() { VerifyDepth::Deep } else { VerifyDepth::Quick };
        let remade = remade.filter(|_| same);
        let seek = |same| if same { Sought::ToGoOn } else { Sought::Changed };
        match phase {
            Phase::Open | Phase::Skipped if begun && again == Some(Again::Look) => {
                self.observe(at, Sought::Again);
            }
            _ if again.is_some() => self.make_again(at),
            Phase::New if failed && attempts > 0 && !self.is_idempotent(at) => {
                self.ask_person(at, "an earlier attempt was disproved", None);
            }
            Phase::New if failed && attempts > 0 => {
                self.reset(at, "an earlier attempt was disproved", true, renewed);
                self.apply(at);
            }
            #[cfg(test)]
            Phase::Open if flawed(Flaw::ObserveSkipped) => self.apply(at),
            Phase::Open | Phase::Skipped if remade.is_some() && self.was_natural(at) => {
                self.observe(at, Sought::Outdated);
            }
            // Whatever it began may be at work outside, under its own key and config; also where it
            // was skipped since.
            Phase::Open => self.observe(at, seek(same)),
            Phase::Skipped if begun => self.observe(at, seek(same)),
            Phase::New | Phase::Skipped => self.apply(at),
            _ if !same && kept => self.ask_person(at, KEPT_CHANGED, None),
            _ if !same && !self.is_idempotent(at) => {
                self.ask_person(at, "its config or its step has changed since an earlier attempt", None);
            }
            _ if !same => {
                // What nobody has changed in the files comes of what was made again.
                self.reset(at, "its config or its step has changed", true, !accepted);
                self.apply(at);
            }
            Phase::Finished | Phase::Applied => self.see_again(at, remade),
            // A run that is undone is not taken up; if it were, its effects would be made again.
            Phase::Undone => {
                self.reset(at, "it was undone", true, false);
                self.apply(at);
            }
        }
    }

    /// Notes what it is written as now, where that comes to the same.
    pub(super) fn note_wording(&mut self, at: usize) {
        let Some(resolved) = &self.cells[at].resolved else { return };
        let record = self.record_of(at);
        let stands = matches!(record.phase, Phase::Open | Phase::Applied | Phase::Finished);
        if stands && record.wording.as_ref() != Some(&resolved.wording) {
            let wording = resolved.wording.clone();
            self.record(Fact::Reworded { node: self.id(at), wording });
        }
    }

    /// Its effect is there. `remade`: what it is built on and was made again since.
    fn see_again(&mut self, at: usize, remade: Option<NodeId>) {
        let Some(remade) = remade else { return self.call(at, CallKind::Verify) };
        let is_natural = self.was_natural(at);
        let what = if is_natural { "runs again" } else { "is looked at closely" };
        let message = format!("`{remade}` was made again since; the node {what}");
        let (run, id) = (&self.run, self.cells[at].id.quoted());
        let besides = format!("; `migrate resume {run} --keep {id}` would have kept it as it was");
        let besides = if is_natural { besides.as_str() } else { "" };
        let (node, level) = (self.id(at), LogLevel::Info);
        self.emit(EventKind::NodeLog { node, level, message: format!("{message}{besides}") });
        if !is_natural {
            return self.call(at, CallKind::Verify);
        }
        self.renew(at, &message);
    }

    /// Makes it again for the sake of what it is built on.
    pub(super) fn renew(&mut self, at: usize, reason: &str) {
        let described = self.catalog.get(&self.node(at).step);
        if !described.is_some_and(|described| described.keeps_cursor) {
            self.out.push(Command::Clear(self.id(at)));
        }
        self.forget(at, reason, true, true);
        self.apply(at);
    }

    /// What was made again since the node was built on it; the newest.
    pub(super) fn remade(&self, at: usize) -> Option<NodeId> {
        #[cfg(test)]
        if flawed(Flaw::OutdatedReused) {
            return None;
        }
        let upstream = self.upstream[self.node_at(at)];
        let (_, by) = upstream.filter(|_| self.record_of(at).is_outdated(upstream))?;
        Some(self.cells[by].id.clone())
    }

    /// As a person has asked.
    fn make_again(&mut self, at: usize) {
        let record = self.record_of(at);
        let left = record.key.as_ref().filter(|_| record.phase == Phase::Open);
        let left = left.map(|key| format!("; what `{key}` has begun is left as it is")).unwrap_or_default();
        self.reset(at, &format!("asked for{left}"), true, false);
        self.apply(at);
    }

    fn observe(&mut self, at: usize, sought: Sought) {
        self.cells[at].sought = sought;
        let step = self.record_of(at).step.as_deref().unwrap_or_default();
        if self.catalog.contains_key(step) {
            return self.call(at, CallKind::Observe);
        }
        let why = format!("there is no step `{step}` any more");
        self.unclear(at, &why);
    }

    /// What is known of it no longer counts, nor what its step has noted. `renewed`: nobody asked for it.
    pub(super) fn reset(&mut self, at: usize, reason: &str, again: bool, renewed: bool) {
        self.out.push(Command::Clear(self.id(at)));
        self.forget(at, reason, again, renewed);
    }

    fn forget(&mut self, at: usize, reason: &str, again: bool, renewed: bool) {
        // What is made now is made from what is new.
        self.cells[at].depth = VerifyDepth::Quick;
        self.record(Fact::Reset { node: self.id(at), reason: reason.to_owned(), again, renewed });
    }

    /// Whether `apply` may be called again after an attempt that has or may have had its effect.
    pub(super) fn is_idempotent(&self, at: usize) -> bool {
        is_repeatable(&self.catalog, &self.node(at).step)
    }

    /// Whether what an earlier attempt of the node has begun is by its nature the same as what it would
    /// do again, so that its step's "absent" may only mean "may be repeated".
    pub(super) fn was_natural(&self, at: usize) -> bool {
        is_natural(&self.catalog, self.record_of(at).step.as_deref().unwrap_or_default())
    }

    /// Fails the node because only a person may decide to do it again.
    pub(super) fn ask_person(&mut self, at: usize, message: &str, evidence: Option<Evidence>) {
        let (run, node) = (&self.run, self.cells[at].id.quoted());
        let mut hint = format!("look for yourself; to do it again: `migrate resume {run} --rerun {node}`");
        if self.can_be_kept(at) {
            hint.push_str(&format!("; to keep it as it is: `migrate resume {run} --keep {node}`"));
        }
        self.fail(at, error(ErrorClass::Conflict, message.to_owned(), Some(hint)), evidence, false);
        self.undo_due.remove(&at);
    }

    /// Whether it fails, or may, because of what was made again, and `--keep` would have it stay as it is.
    fn can_be_kept(&self, at: usize) -> bool {
        let record = self.record_of(at);
        let now = self.cells[at].resolved.as_ref().map(|resolved| &resolved.digest);
        record.is_there() && record.digest.as_ref() == now && self.cells[at].depth == VerifyDepth::Deep
    }

    /// Fails the node because something else is to be begun while something that it began is there, or
    /// may be.
    pub(super) fn ask_about_earlier(&mut self, at: usize, message: &str) {
        let (run, node) = (&self.run, self.cells[at].id.quoted());
        let hint = match self.cells[at].sought {
            Sought::Again | Sought::Outdated => format!(
                "when it has ended, `migrate resume {run}`; to make it again whatever there is, end it yourself \
                 and `migrate resume {run} --rerun {node}`"
            ),
            Sought::ToGoOn | Sought::Changed => format!(
                "to go on with it, take the change back and `migrate resume {run}`; to do it anew as the files \
                 say now, end it yourself and `migrate resume {run} --rerun {node}`"
            ),
        };
        self.fail(at, error(ErrorClass::Conflict, message.to_owned(), Some(hint)), None, false);
        self.undo_due.remove(&at);
    }

    /// What became of an earlier attempt with another config can't be told.
    pub(super) fn unclear(&mut self, at: usize, why: &str) {
        let reason = self.cells[at].sought.why();
        let message = format!("{reason}, and what became of an earlier attempt can't be told: {why}");
        self.ask_about_earlier(at, &message);
    }
}
