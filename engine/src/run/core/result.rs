//! What follows from the result of a call.

use migrate_plugin_api::{ErrorClass, ErrorRecord, Evidence, LogLevel, Observation, VerifyDepth};
use serde_json::Value;

use super::{Core, Live, Sought, error, millis};
use crate::event::EventKind;
use crate::run::command::{CallKind, Command};
use crate::run::retry;
#[cfg(test)]
use crate::run::simulation::{Flaw, flawed};
use crate::run::state::Phase;
use crate::store::fact::Fact;
use crate::workflow::model::OnFailure;

impl Core {
    pub(super) fn observed(&mut self, at: usize, result: Result<Observation, ErrorRecord>) {
        if self.cells[at].live != Live::Busy(CallKind::Observe) {
            return;
        }
        match result {
            Err(error) => self.failed_call(at, CallKind::Observe, error),
            Ok(observation) if self.cells[at].sought != Sought::ToGoOn => {
                self.observed_earlier(at, observation)
            }
            Ok(Observation::Done { outputs }) => self.effect_is_there(at, outputs, true),
            // Its intent stands; nothing more is begun.
            Ok(_) if self.draining => self.interrupted(at),
            Ok(Observation::Absent) => {
                // Nothing of before is left to be looked at closely.
                if self.cells[at].depth == VerifyDepth::Deep {
                    let renewed = self.record_of(at).renewed;
                    self.reset(
                        at,
                        "nothing of it is there, and what it is built on was made again",
                        false,
                        renewed,
                    );
                }
                self.apply(at);
            }
            Ok(Observation::Running { handle }) => {
                self.out.push(Command::SetHandle(self.id(at), handle));
                self.apply(at);
            }
            Ok(Observation::Unknown { reason }) => {
                if self.is_idempotent(at) {
                    return self.apply(at);
                }
                let message = format!("can't tell whether an earlier attempt took effect: {reason}");
                self.ask_person(at, &message, None);
            }
        }
    }

    /// What has been begun must not go unnoticed beside something else that is begun now.
    fn observed_earlier(&mut self, at: usize, observation: Observation) {
        let sought = self.cells[at].sought;
        match observation {
            Observation::Running { handle } => {
                let why = sought.why();
                let message = format!("{why} while an earlier attempt is at work outside: `{handle}`");
                self.ask_about_earlier(at, &message);
            }
            Observation::Done { .. } if sought == Sought::Changed => {
                let message = format!("{}, and an earlier attempt has had its effect since", sought.why());
                self.ask_about_earlier(at, &message);
            }
            Observation::Unknown { reason } if sought == Sought::Changed || !self.was_natural(at) => {
                self.unclear(at, &reason);
            }
            // Its intent stands; nothing more is begun.
            _ if self.draining => self.interrupted(at),
            Observation::Absent if sought == Sought::Changed => {
                // That it may be repeated does not say that nothing of it is there.
                let (again, renewed) = (self.was_natural(at), self.record_of(at).renewed);
                self.cells[at].sought = Sought::ToGoOn;
                self.reset(at, sought.why(), again, renewed);
                self.apply(at);
            }
            Observation::Absent | Observation::Done { .. } | Observation::Unknown { .. } => {
                self.cells[at].sought = Sought::ToGoOn;
                if sought == Sought::Outdated {
                    return self.renew(at, sought.why());
                }
                self.reset(at, "asked for", true, false);
                self.apply(at);
            }
        }
    }

    pub(super) fn applied(&mut self, at: usize, result: Result<Value, ErrorRecord>) {
        if self.cells[at].live != Live::Busy(CallKind::Apply) {
            return;
        }
        match result {
            Ok(outputs) => self.effect_is_there(at, outputs, false),
            Err(error) => self.failed_call(at, CallKind::Apply, error),
        }
    }

    pub(super) fn effect_is_there(&mut self, at: usize, mut outputs: Value, observed: bool) {
        if let Some(described) = self.catalog.get(&self.node(at).step) {
            described.info.mask(&mut outputs);
        }
        self.record(Fact::Applied { node: self.id(at), outputs, observed });
        self.cells[at].tries = 0;
        if self.draining {
            self.interrupted(at);
        } else {
            self.call(at, CallKind::Verify);
        }
    }

    pub(super) fn verified(&mut self, at: usize, result: Result<Evidence, ErrorRecord>) {
        if self.cells[at].live != Live::Busy(CallKind::Verify) {
            return;
        }
        let reuse = self.record_of(at).phase == Phase::Finished;
        let evidence = match result {
            Ok(evidence) => evidence,
            Err(error) => return self.failed_call(at, CallKind::Verify, error),
        };
        let passed = evidence.passed();
        #[cfg(test)]
        let passed = passed || flawed(Flaw::VerificationIgnored);
        match (passed, reuse) {
            (true, true) => {
                let node = self.id(at);
                self.record(Fact::Reused { node: node.clone(), evidence: evidence.clone() });
                self.emit(EventKind::NodeReused { node, evidence });
                self.release(at);
                self.done(at);
            }
            (true, false) => self.finish(at, evidence),
            // Nor is what is built on something new made again by itself where that is not harmless, nor what
            // a person keeps.
            (false, _) if self.cells[at].depth == VerifyDepth::Deep || self.record_of(at).kept => {
                let remade = self.remade(at).map(|node| format!("`{node}` was made again since: "));
                let message = remade.unwrap_or_default() + &disproof(&evidence);
                self.ask_person(at, &message, Some(evidence));
            }
            (false, true) if !self.is_idempotent(at) => {
                self.ask_person(at, &disproof(&evidence), Some(evidence));
            }
            (false, true) => {
                let message = format!("{}; the node runs again", disproof(&evidence));
                self.emit(EventKind::NodeLog {
                    node: self.id(at),
                    level: LogLevel::Warn,
                    message: message.clone(),
                });
                if self.draining {
                    return self.interrupted(at);
                }
                self.reset(at, &message, true, true);
                self.apply(at);
            }
            (false, false) => {
                let error = error(ErrorClass::Corrupt, disproof(&evidence), None);
                self.fail(at, error, Some(evidence), true);
            }
        }
    }

    fn finish(&mut self, at: usize, evidence: Evidence) {
        let node = self.id(at);
        let duration_ms = self.account(at);
        self.record(Fact::Finished { node: node.clone(), evidence: evidence.clone(), duration_ms });
        let record = self.record_of(at);
        self.emit(EventKind::NodeFinished {
            node,
            attempts: record.attempts,
            duration_ms: self.spent_ms(at),
            outputs: record.outputs.clone().unwrap_or_default(),
            evidence,
        });
        self.release(at);
        self.done(at);
    }

    /// A call failed: try again later, stop, or give up.
    fn failed_call(&mut self, at: usize, kind: CallKind, error: ErrorRecord) {
        if self.draining && (error.class == ErrorClass::Cancelled || error.class.is_retryable()) {
            return self.interrupted(at);
        }
        self.cells[at].tries += 1;
        let random = (self.random)();
        let delay = retry::delay(&self.node(at).retry, error.class, self.cells[at].tries, random);
        // A wait that outlasts the node's time only hides the failure.
        match delay.filter(|delay| *delay < self.time_left(at)) {
            None if kind == CallKind::Observe && self.cells[at].sought.must_be_told() => {
                let causes = error.causes.iter().map(|cause| format!(": {cause}"));
                let why = std::iter::once(error.message.clone()).chain(causes).collect::<String>();
                self.unclear(at, &why);
            }
            None => {
                let record = self.record_of(at);
                let is_left = record.phase == Phase::Finished || record.kept;
                self.fail(at, error, None, false);
                // That what is there can't be looked at is no reason to take it back.
                if is_left {
                    self.undo_due.remove(&at);
                }
            }
            Some(delay) => {
                let node = self.id(at);
                let duration_ms = self.account(at);
                self.record(Fact::Retrying { node: node.clone(), error: error.clone(), duration_ms });
                self.emit(EventKind::NodeRetrying {
                    node: node.clone(),
                    attempt: self.record_of(at).attempts,
                    error,
                    delay_ms: millis(delay),
                });
                // An attempt that failed may have had its effect all the same.
                let next = if kind == CallKind::Verify { CallKind::Verify } else { CallKind::Observe };
                self.cells[at].live = Live::Backoff(next);
                self.out.push(Command::Wake(node, delay));
            }
        }
    }

    pub(super) fn woken(&mut self, at: usize) {
        if let Live::Backoff(kind) = self.cells[at].live {
            self.call(at, kind);
        }
    }

    pub(super) fn fail(
        &mut self,
        at: usize,
        error: ErrorRecord,
        evidence: Option<Evidence>,
        disproved: bool,
    ) {
        let (node, class) = (self.id(at), error.class);
        let duration_ms = self.account(at);
        if disproved {
            // Its cursor claims what has just been found untrue.
            self.out.push(Command::Clear(node.clone()));
        }
        self.record(Fact::Failed {
            node: node.clone(),
            error: error.clone(),
            evidence: evidence.clone(),
            disproved,
            duration_ms,
        });
        self.emit(EventKind::NodeFailed {
            node,
            attempts: self.record_of(at).attempts,
            duration_ms: self.spent_ms(at),
            error,
            evidence,
        });
        self.release(at);
        let on_failure = self.node(at).on_failure;
        self.stopping |= on_failure != OnFailure::Continue;
        // That it was made again was nobody's wish, and may be long after all was done.
        if self.record_of(at).renewed {
            return;
        }
        // Credentials are mended by a person, and an undo would need them too.
        if on_failure == OnFailure::Undo && !matches!(class, ErrorClass::Auth | ErrorClass::Cancelled) {
            self.undo_due.insert(at);
        }
    }

    fn interrupted(&mut self, at: usize) {
        let node = self.id(at);
        let duration_ms = self.account(at);
        if self.record_of(at).phase != Phase::Finished {
            self.record(Fact::Interrupted { node: node.clone(), duration_ms });
            self.emit(EventKind::NodeInterrupted { node });
        }
        self.release(at);
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        for at in 0..self.cells.len() {
            if matches!(self.cells[at].live, Live::Backoff(_)) {
                self.interrupted(at);
            }
        }
    }
}

/// What failed checks say, in one line.
pub(crate) fn disproof(evidence: &Evidence) -> String {
    const SHOWN: usize = 3;
    let failures: Vec<_> = evidence.failures().collect();
    let shown: Vec<String> = failures
        .iter()
        .take(SHOWN)
        .map(|check| {
            format!("{}: {} is {}, expected {}", check.subject, check.what, check.target, check.source)
        })
        .collect();
    let more = failures.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    format!("verification failed: {}{more}", shown.join("; "))
}
