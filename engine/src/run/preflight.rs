//! Asks every node that remains what it would do, before anything is touched: reads only, several
//! at once, and with all problems instead of the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use migrate_plugin_api::{
    CancellationToken, ErrorClass, ErrorRecord, NodeId, RunId, Step, StepContext, StepPlan,
};

use super::executor::{PLAN_LIMIT, bounded};
use super::host::Host;
use super::key::idempotency_key;
use super::state::{NodeRecord, Phase, RunFacts};
use crate::event::EventSink;
use crate::report::{NodePlan, PlanReport, REPORT_VERSION};
use crate::workflow::model::Node;
use crate::workflow::{Catalog, Checked, Ended, resolved};

/// Plans that run at once: enough to hide latency, few enough not to be throttled.
const MAX_PLANNING: usize = 16;

/// What planning needs.
pub(crate) struct Preflight<'a> {
    pub run: &'a RunId,
    pub checked: &'a Checked,
    pub catalog: &'a Catalog,
    pub steps: &'a BTreeMap<String, Arc<dyn Step>>,
    pub project_dir: &'a Path,
    pub facts: &'a RunFacts,
    pub cancel: &'a CancellationToken,
}

impl Preflight<'_> {
    /// The plans of all nodes, in order. Finished nodes have none.
    pub(crate) async fn plan(&self) -> PlanReport {
        let nodes = self.checked.workflow.nodes.iter().map(|node| self.node(node));
        let nodes = futures::stream::iter(nodes).buffered(MAX_PLANNING).collect().await;
        PlanReport { version: REPORT_VERSION, workflow: self.checked.name().to_owned(), nodes }
    }

    async fn node(&self, node: &Node) -> NodePlan {
        let mut report = NodePlan {
            node: node.id.clone(),
            step: node.step.clone(),
            needs: self.checked.workflow.dependencies[&node.id].iter().cloned().collect(),
            skipped: self.checked.skipped.get(&node.id).cloned(),
            when: node.when.as_ref().map(|when| when.text.clone()),
            plan: None,
            error: None,
        };
        let finished = self.facts.nodes.get(&node.id).is_some_and(NodeRecord::is_done);
        if report.skipped.is_some() || finished {
            return report;
        }
        match self.ask(node).await {
            Ok(plan) => report.plan = Some(plan),
            Err(error) => report.error = Some(error),
        }
        report
    }

    async fn ask(&self, node: &Node) -> Result<StepPlan, ErrorRecord> {
        let ended = |id: &NodeId| match self.facts.nodes.get(id) {
            Some(record) if record.phase == Phase::Skipped => Ended::Skipped,
            Some(NodeRecord { outputs: Some(outputs), .. }) => Ended::Outputs(outputs),
            _ => Ended::Open,
        };
        let refuse = |message: String| ErrorRecord {
            class: ErrorClass::Permanent,
            message,
            causes: Vec::new(),
            hint: None,
        };
        let (Some(step), Some(described)) = (self.steps.get(&node.step), self.catalog.get(&node.step)) else {
            return Err(refuse(format!("there is no step `{}`", node.step)));
        };
        let config = self.checked.config(node, &ended).map_err(refuse)?;
        let resolved = resolved(config, &node.step, &described.info.version);
        let host = Host::new(
            self.run.clone(),
            node.id.clone(),
            self.project_dir.to_owned(),
            EventSink::discard(),
            None,
        );
        let generation = self.facts.nodes.get(&node.id).map_or(0, |record| record.generation);
        let key = idempotency_key(self.run, &node.id, &resolved.digest, generation);
        let ctx = StepContext::new(
            self.run.clone(),
            node.id.clone(),
            1,
            key,
            self.project_dir.to_owned(),
            Arc::new(host),
        )
        .with_cancel(self.cancel.child_token());
        bounded("plan", &ctx.cancel.clone(), PLAN_LIMIT, step.plan(&ctx, &resolved.config)).await
    }
}
