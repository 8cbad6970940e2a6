//! Asks every node that remains what it would do, before anything is touched: reads only, several
//! at once, and with all problems instead of the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use migrate_plugin_api::{
    CancellationToken, ErrorClass, ErrorRecord, NodeId, RunId, Step, StepContext, StepPlan,
};

use super::core::error;
use super::executor::{Limit, PLAN_LIMIT, bounded};
use super::host::Host;
use super::key::idempotency_key;
use super::secrets::Secrets;
use super::state::{NodeRecord, RunFacts};
use crate::event::EventSink;
use crate::report::{ListPlan, NodePlan, PlanReport, REPORT_VERSION};
use crate::workflow::model::Node;
use crate::workflow::{Catalog, Checked, Each, Expansion, Item, resolved};

/// Plans that run at once: enough to hide latency, few enough not to be throttled.
const MAX_PLANNING: usize = 16;

/// What planning needs.
pub(crate) struct Preflight<'a> {
    pub run: &'a RunId,
    pub checked: &'a Checked,
    pub catalog: &'a Catalog,
    pub steps: &'a BTreeMap<String, Arc<dyn Step>>,
    pub project_dir: &'a Path,
    pub secrets: &'a Secrets,
    pub facts: &'a RunFacts,
    pub cancel: &'a CancellationToken,
}

/// One thing to ask about: a node, or one item of it.
struct Unit<'a> {
    node: &'a Node,
    item: Option<(Arc<[Item]>, usize)>,
}

impl Preflight<'_> {
    /// The plans of all nodes, in order, each followed by its items. Finished ones have none.
    pub(crate) async fn plan(&self) -> PlanReport {
        let mut nodes = Vec::new();
        let mut units = Vec::new();
        for node in &self.checked.workflow.nodes {
            self.list(node, &mut nodes, &mut units);
        }
        let plans = units.into_iter().map(|(at, unit)| async move { (at, self.ask(&unit).await) });
        let mut plans = futures::stream::iter(plans).buffer_unordered(MAX_PLANNING);
        while let Some((at, plan)) = plans.next().await {
            match plan {
                Ok(plan) => nodes[at].plan = Some(plan),
                Err(error) => nodes[at].error = Some(error),
            }
        }
        PlanReport { version: REPORT_VERSION, workflow: self.checked.name().to_owned(), nodes }
    }

    /// Adds the plan of `node` and of its items, and what is to be asked for them.
    fn list<'n>(&self, node: &'n Node, nodes: &mut Vec<NodePlan>, units: &mut Vec<(usize, Unit<'n>)>) {
        let mut report = NodePlan {
            node: node.id.clone(),
            step: node.step.clone(),
            needs: self.checked.workflow.dependencies[&node.id].iter().cloned().collect(),
            skipped: self.checked.skipped.get(&node.id).cloned(),
            when: node.when.as_ref().map(|when| when.text.clone()),
            for_each: None,
            plan: None,
            error: None,
        };
        let finished = |id: &NodeId| self.facts.nodes.get(id).is_some_and(NodeRecord::is_done);
        let Some(for_each) = node.for_each.as_ref().filter(|_| report.skipped.is_none()) else {
            if report.skipped.is_none() && !finished(&node.id) {
                units.push((nodes.len(), Unit { node, item: None }));
            }
            return nodes.push(report);
        };
        let from = for_each.list.references().iter().map(|reference| reference.text()).collect();
        match self.checked.expand(node, self.facts) {
            Expansion::Skip(reason) => report.skipped = Some(reason),
            // Where the list is made during the run, that may still be done anew.
            Expansion::Refuse(why) if !for_each.is_made_by_nodes() => report.error = Some(refusal(why)),
            Expansion::Unknown | Expansion::Refuse(_) => {
                report.for_each = Some(ListPlan { items: None, from });
                units.push((nodes.len(), Unit { node, item: None }));
            }
            Expansion::Items(items) => {
                report.for_each = Some(ListPlan { items: Some(items.len()), from });
                nodes.push(report.clone());
                let items: Arc<[Item]> = items.into();
                for (at, item) in items.iter().enumerate() {
                    let Ok(id) = node.id.item(&item.key) else { continue };
                    if !finished(&id) {
                        units.push((nodes.len(), Unit { node, item: Some((Arc::clone(&items), at)) }));
                    }
                    nodes.push(NodePlan { node: id, for_each: None, ..report.clone() });
                }
                return;
            }
        }
        nodes.push(report);
    }

    async fn ask(&self, unit: &Unit<'_>) -> Result<StepPlan, ErrorRecord> {
        let node = unit.node;
        let each = unit.item.as_ref().and_then(|(items, at)| Each::new(items, *at));
        let id = match each {
            Some(each) => node.id.item(each.key).map_err(|error| refusal(error.to_string()))?,
            None => node.id.clone(),
        };
        let (Some(step), Some(described)) = (self.steps.get(&node.step), self.catalog.get(&node.step)) else {
            return Err(refusal(format!("there is no step `{}`", node.step)));
        };
        let config = self.checked.config(node, self.facts, each).map_err(refusal)?;
        let wording = self.checked.wording(node, each);
        let resolved = resolved(config, &node.step, &described.info.version, wording);
        let project_dir = self.project_dir.to_owned();
        let host = Host::new(self.run.clone(), id.clone(), self.secrets.clone(), EventSink::discard(), None);
        let generation = self.facts.nodes.get(&id).map_or(0, |record| record.generation);
        let key = idempotency_key(self.run, &id, &resolved.digest, generation);
        let ctx = StepContext::new(self.run.clone(), id, 1, key, project_dir, Arc::new(host))
            .with_cancel(self.cancel.child_token());
        bounded("plan", &ctx.cancel.clone(), Limit::call(PLAN_LIMIT), step.plan(&ctx, &resolved.config)).await
    }
}

fn refusal(message: String) -> ErrorRecord {
    error(ErrorClass::Permanent, message, None)
}
