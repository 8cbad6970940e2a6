//! Verifies what a run has finished, outside of the run: changes nothing, and needs no lock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use migrate_plugin_api::{
    CancellationToken, ErrorClass, ErrorRecord, Evidence, NodeId, Step, StepContext, VerifyDepth,
};
use serde_json::Value;

use super::core::{disproof, error, millis};
use super::executor::{Limit, bounded};
use super::host::Host;
use super::secrets::Secrets;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::report::{NodeState, RunReport, RunState};
use crate::store::fact::RunRecord;

/// Nodes verified at once.
const MAX_VERIFYING: usize = 8;

/// Longest verification of one node: a deep one reads all its data again.
const VERIFY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// One pass over the finished nodes of a run.
pub(crate) struct Verifier<'a> {
    pub run: &'a RunRecord,
    pub steps: &'a BTreeMap<String, Arc<dyn Step>>,
    pub project_dir: &'a Path,
    pub secrets: &'a Secrets,
    pub events: EventSink,
    pub depth: VerifyDepth,
    pub cancel: &'a CancellationToken,
}

impl Verifier<'_> {
    /// The report of the run with the evidence of now. `alive`: whether a process works on it.
    pub(crate) async fn verify(&self, facts: RunFacts, alive: bool) -> RunReport {
        let began = Instant::now();
        let mut report = facts.report(self.run, alive);
        let places: BTreeMap<NodeId, usize> =
            report.nodes.iter().enumerate().map(|(at, entry)| (entry.node.clone(), at)).collect();
        // What was removed is nobody's claim any more.
        let claimed =
            |node: &NodeId| places.get(node).is_some_and(|at| report.nodes[*at].state != NodeState::Removed);
        // Nor what is to be made again, or what a node did before it had a list.
        let finished =
            |record: &NodeRecord| record.phase == Phase::Finished && record.again.is_none() && !record.former;
        let work: Vec<_> =
            facts.nodes.iter().filter(|(node, record)| finished(record) && claimed(node)).collect();
        let work = work
            .into_iter()
            .map(|(node, record)| async move { (node.clone(), self.node(node, record).await) });
        let mut results = futures::stream::iter(work).buffer_unordered(MAX_VERIFYING);
        let mut failed = false;
        while let Some((node, result)) = results.next().await {
            let Some(entry) = places.get(&node).map(|at| &mut report.nodes[*at]) else { continue };
            let was_done = matches!(entry.state, NodeState::Finished | NodeState::Reused);
            (entry.evidence, entry.error) = match result {
                Ok(evidence) => (Some(evidence.clone()), disproved(&evidence)),
                Err(error) => (entry.evidence.take(), Some(error)),
            };
            entry.state = if entry.error.is_some() { NodeState::Failed } else { NodeState::Finished };
            let is_failed = entry.error.is_some();
            failed |= is_failed;
            if let Some(whole) = places.get(&node.whole()).filter(|_| is_failed && node.key().is_some()) {
                let whole = &mut report.nodes[*whole];
                whole.state = NodeState::Failed;
                if let Some(items) = whole.items.as_mut().filter(|_| was_done) {
                    (items.done, items.failed) = (items.done - 1, items.failed + 1);
                }
            }
        }
        if failed {
            report.state = RunState::Failed;
        }
        self.emit(EventKind::RunFinished { state: report.state, duration_ms: millis(began.elapsed()) });
        report
    }

    /// What is to be said of these nodes now. Reports nothing else.
    pub(crate) async fn these(
        &self,
        facts: &RunFacts,
        nodes: Vec<NodeId>,
    ) -> BTreeMap<NodeId, Result<Evidence, ErrorRecord>> {
        let work = nodes.into_iter().filter_map(|node| {
            let record = facts.nodes.get(&node)?;
            Some(async move { (node.clone(), self.node(&node, record).await) })
        });
        futures::stream::iter(work).buffer_unordered(MAX_VERIFYING).collect().await
    }

    async fn node(&self, node: &NodeId, record: &NodeRecord) -> Result<Evidence, ErrorRecord> {
        let began = Instant::now();
        let name = record.step.clone().unwrap_or_default();
        let (Some(step), Some(key)) = (self.steps.get(&name), &record.key) else {
            return Err(error(ErrorClass::Permanent, format!("there is no step `{name}`"), None));
        };
        self.emit(EventKind::NodeVerifying { node: node.clone() });
        let project = self.project_dir.to_owned();
        let host =
            Host::new(self.run.id.clone(), node.clone(), self.secrets.clone(), self.events.clone(), None);
        let ctx = StepContext::new(
            self.run.id.clone(),
            node.clone(),
            record.attempts,
            key.clone(),
            project,
            Arc::new(host),
        )
        .with_cancel(self.cancel.child_token());
        let (config, outputs) = (record.config.clone(), record.outputs.clone());
        let (config, outputs) = (config.unwrap_or(Value::Null), outputs.unwrap_or(Value::Null));
        let work = step.verify(&ctx, &config, &outputs, self.depth);
        let result = bounded("verify", &ctx.cancel.clone(), Limit::call(VERIFY_LIMIT), work).await;
        let failure = match &result {
            Ok(evidence) => disproved(evidence).map(|error| (error, Some(evidence.clone()))),
            Err(error) => Some((error.clone(), None)),
        };
        let (attempts, duration_ms) = (record.attempts, millis(began.elapsed()));
        self.emit(match (&result, failure) {
            (_, Some((error, evidence))) => {
                EventKind::NodeFailed { node: node.clone(), attempts, duration_ms, error, evidence }
            }
            (Ok(evidence), None) => EventKind::NodeFinished {
                node: node.clone(),
                attempts,
                duration_ms,
                outputs,
                evidence: evidence.clone(),
            },
            (Err(_), None) => return result,
        });
        result
    }

    fn emit(&self, kind: EventKind) {
        let run = self.run.id.clone();
        self.events.send(Event { version: EVENT_VERSION, at: Timestamp::now(), run, kind });
    }
}

fn disproved(evidence: &Evidence) -> Option<ErrorRecord> {
    (!evidence.passed()).then(|| error(ErrorClass::Corrupt, disproof(evidence), None))
}
