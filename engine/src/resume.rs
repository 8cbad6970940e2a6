//! Taking up a run again: what `resume` begins with, and the same told without touching anything.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use migrate_plugin_api::{CancellationToken, NodeId, VerifyDepth};

use crate::ambient;
use crate::engine::{Engine, ResumeRequest, definition, find};
use crate::error::RunError;
use crate::event::EventSink;
use crate::outlook::{Action, NodeOutlook, ResumePlan};
use crate::report::{Changes, REPORT_VERSION, RunState};
use crate::run::basis::outdated;
use crate::run::change::{changes, downstream};
use crate::run::outlook::Outlook;
use crate::run::state::{Phase, RunFacts};
use crate::run::verify::Verifier;
use crate::store::Store;
use crate::store::fact::{Batch, Fact, Place, RunRecord, Stamped};
use crate::workflow::{Catalog, Checked, Expansion, is_natural, is_repeatable, nearest};

/// Said of every node that is done again because a person asked for it.
pub(crate) const AGAIN: &str = "runs again, as asked for";

/// A run, ready to go on.
pub(crate) struct TakenUp {
    pub checked: Checked,
    /// With `batch` already applied.
    pub facts: RunFacts,
    pub places: BTreeMap<NodeId, Place>,
    /// What is to be stored before the first node starts.
    pub batch: Batch,
    pub changed: Changes,
    /// What runs again because it was asked for.
    pub again: Vec<NodeId>,
}

impl RunError {
    pub(crate) fn unknown_node<'a>(node: &NodeId, known: impl Iterator<Item = &'a NodeId>) -> Self {
        let known: Vec<&NodeId> = known.collect();
        let names: Vec<&str> = known.iter().map(|id| id.as_str()).collect();
        let near = nearest(node.as_str(), &names).and_then(|name| NodeId::new(name).ok());
        Self::UnknownNode { node: node.clone(), near }
    }
}

impl Engine {
    /// What `resume` with this request would do, node by node, and why. Reads only: finished nodes
    /// are verified quickly, the others are asked for their plan. Needs no lock.
    ///
    /// # Errors
    /// When there is no such run, or its files can't be read or have mistakes.
    pub async fn plan_resume(
        &self,
        request: &ResumeRequest,
        cancel: &CancellationToken,
    ) -> Result<ResumePlan, RunError> {
        let Some(store) = self.existing_store().await? else { return Err(RunError::NoRuns) };
        let run = find(&*store, request.run.as_ref()).await?;
        let holder = self.holder_of(&*store, &run.id).await?;
        let mut facts = RunFacts::fold(store.facts(&run.id).await?);
        if facts.undo.is_some() {
            return Err(RunError::Undoing(run.id));
        }
        let state = facts.report(&run, holder.is_some()).state;
        take_decisions(&*store, &run, &mut facts).await?;
        let taken = self.ready(&*store, &run, facts, request).await?;
        let mut verified = BTreeMap::new();
        let outlook = |verified: &BTreeMap<_, _>| {
            let (facts, checked, catalog) = (&taken.facts, &taken.checked, &*self.catalog);
            Outlook { facts, checked, catalog, verified }.nodes()
        };
        let complete = state == RunState::Done && !request.repeats() && self.is_complete(&taken);
        let looked = self.look(&run, &taken.facts, &outlook(&verified), cancel).await;
        let mut unseen = BTreeMap::new();
        for (node, result) in looked {
            match result {
                Ok(evidence) => drop(verified.insert(node, evidence)),
                Err(error) => drop(unseen.insert(node, error)),
            }
        }
        let mut nodes = outlook(&verified);
        let mut preview = without(&taken, &self.catalog).into_owned();
        nodes
            .iter()
            .filter(|node| node.action == Action::Rerun)
            .for_each(|node| clear(&mut preview, &node.node));
        let plans = self.preflight(&run.id, &taken.checked, &preview, cancel).await;
        let mut plans: BTreeMap<NodeId, _> =
            plans.nodes.into_iter().map(|plan| (plan.node.clone(), plan)).collect();
        for node in &mut nodes {
            let plan = plans.remove(&node.node);
            let (plan, error) = plan.map_or((None, None), |plan| (plan.plan, plan.error));
            node.plan = plan;
            node.error = error.or_else(|| unseen.remove(&node.node));
        }
        let (version, changes) = (REPORT_VERSION, taken.changed);
        let workflow = run.workflow;
        Ok(ResumePlan { version, run: run.id, workflow, state, complete, holder, changes, nodes })
    }

    /// Whether nothing is left to do of a run that is done, as its files are now. Looks at no effect.
    pub(crate) fn is_complete(&self, taken: &TakenUp) -> bool {
        let TakenUp { facts, checked, changed, .. } = taken;
        let verified = BTreeMap::new();
        let nodes = || Outlook { facts, checked, catalog: &self.catalog, verified: &verified }.nodes();
        changed.is_empty() && nodes().iter().all(|node| matches!(node.action, Action::Reuse | Action::Skip))
    }

    /// Verifies quickly what would be reused.
    async fn look(
        &self,
        run: &RunRecord,
        facts: &RunFacts,
        nodes: &[NodeOutlook],
        cancel: &CancellationToken,
    ) -> BTreeMap<NodeId, Result<migrate_plugin_api::Evidence, migrate_plugin_api::ErrorRecord>> {
        let reused = |action| matches!(action, Action::Reuse | Action::ReuseOrRerun | Action::Inspect);
        let reused = nodes.iter().filter(|node| reused(node.action)).map(|node| node.node.clone()).collect();
        let verifier = Verifier {
            run,
            steps: &self.steps,
            project_dir: &self.project_dir,
            secrets: &self.secrets,
            events: EventSink::discard(),
            depth: VerifyDepth::Quick,
            cancel,
        };
        verifier.these(facts, reused).await
    }

    /// Reads a run and its files and notes what was asked for. Stores nothing.
    pub(crate) async fn ready(
        &self,
        store: &dyn Store,
        run: &RunRecord,
        mut facts: RunFacts,
        request: &ResumeRequest,
    ) -> Result<TakenUp, RunError> {
        let checked = self.current(run, &facts, &request.params)?;
        let again = self.again(&checked, &facts, request)?;
        let places = store.places(&run.id).await?;
        let known = facts.definition.as_ref().unwrap_or(&run.definition).nodes.clone();
        let definition = definition(&self.project_dir, &checked);
        let mut batch = begin(&again, definition, &mut facts);
        let kept = wholes_with_items(&request.keep, &checked, &facts)?;
        keep(&kept, &mut facts, &mut batch)?;
        let mut changed = changes(&facts, &checked, &self.catalog, &known);
        self.leave_skipped(&mut changed, &mut facts, &checked);
        let is_changed = |node: &NodeId| changed.nodes.iter().any(|change| change.node == *node);
        if let Some(node) = kept.into_iter().find(is_changed) {
            return Err(RunError::KeptChanged(node));
        }
        for change in &changed.nodes {
            if let Some(record) = facts.nodes.get_mut(&change.node) {
                record.accepted = true;
            }
        }
        let again = again.into_keys().collect();
        Ok(TakenUp { checked, facts, places, batch, changed, again })
    }

    /// What would be made of a list that is skipped, and should stay so, is nothing to accept.
    fn leave_skipped(&self, changed: &mut Changes, facts: &mut RunFacts, checked: &Checked) {
        let is_skipped = |id: &NodeId| {
            facts.lists.contains_key(id) && facts.own(id).is_some_and(|own| own.phase == Phase::Skipped)
        };
        if !changed.nodes.iter().any(|change| is_skipped(&change.node.whole())) {
            return;
        }
        let verified = BTreeMap::new();
        let ahead = Outlook { facts, checked, catalog: &self.catalog, verified: &verified }.nodes();
        let stays = ahead.into_iter().filter(|ahead| ahead.action == Action::Skip).map(|ahead| ahead.node);
        let stays: BTreeSet<NodeId> =
            stays.filter(|id| is_skipped(id) && skips_list(checked, facts, id)).collect();
        changed.nodes.retain(|change| {
            let whole = change.node.whole();
            let is_left = stays.contains(&whole);
            if is_left && let Some(own) = facts.nodes.get_mut(&whole) {
                own.untold = true;
            }
            !is_left
        });
    }

    /// What runs again because it was asked for, and whether it is looked for first. Who names a node
    /// with `rerun` has looked.
    fn again(
        &self,
        checked: &Checked,
        facts: &RunFacts,
        request: &ResumeRequest,
    ) -> Result<BTreeMap<NodeId, bool>, RunError> {
        let workflow = &checked.workflow;
        let named = wholes_with_items(&request.rerun, checked, facts)?;
        let mut again: BTreeMap<NodeId, bool> = named.into_iter().map(|id| (id, false)).collect();
        let from = wholes_with_items(&request.from, checked, facts)?;
        for id in &from {
            again.entry(id.clone()).or_insert(true);
        }
        let tried = |id: &NodeId| facts.nodes.get(id).is_some_and(|record| record.attempts > 0);
        let mut unrepeatable = Vec::new();
        for after in from.iter().flat_map(|from| downstream(&from.whole(), workflow)) {
            let repeatable =
                workflow.node(&after).is_some_and(|node| is_repeatable(&self.catalog, &node.step));
            let items = wholes_with_items(std::slice::from_ref(&after), checked, facts)?;
            for id in items.into_iter().filter(tried).filter(|id| !from.contains(id)) {
                if let Entry::Vacant(place) = again.entry(id.clone()) {
                    place.insert(true);
                    unrepeatable.extend((!repeatable).then_some(id));
                }
            }
        }
        if !unrepeatable.is_empty() {
            return Err(RunError::NotRepeatable { nodes: unrepeatable });
        }
        Ok(again)
    }
}

/// Takes in what people have decided since the last process ended, as the next one will.
async fn take_decisions(store: &dyn Store, run: &RunRecord, facts: &mut RunFacts) -> Result<(), RunError> {
    let waiting = facts.nodes.iter().filter(|(_, record)| record.is_waiting());
    let asked: Vec<_> =
        waiting.filter_map(|(node, record)| Some((node.clone(), record.key.clone()?))).collect();
    for (node, key) in asked {
        if let Some(decision) = store.decision(&run.id, &key).await? {
            facts.apply(&Fact::Decided { node, decision }, ambient::now());
        }
    }
    Ok(())
}

/// What to run again, with all items of a node where the node as a whole was named.
fn wholes_with_items(nodes: &[NodeId], checked: &Checked, facts: &RunFacts) -> Result<Vec<NodeId>, RunError> {
    let mut all = Vec::new();
    for id in nodes {
        let node = checked.workflow.node(&id.whole());
        let has_items = node.is_some_and(|node| node.for_each.is_some());
        // What is gone from the list is not run again, and what it did stays in sight.
        let listed: BTreeSet<&str> = facts
            .lists
            .get(&id.whole())
            .iter()
            .flat_map(|items| items.iter())
            .map(|item| item.key.as_str())
            .collect();
        let is_listed = |item: &NodeId| item.key().is_some_and(|key| listed.contains(key));
        let items: Vec<NodeId> =
            facts.items_of(id).map(|(item, _)| item).filter(|item| is_listed(item)).cloned().collect();
        match (node, id.key()) {
            (Some(_), Some(_)) if has_items && is_listed(id) && facts.nodes.contains_key(id) => {
                all.push(id.clone());
            }
            (Some(_), None) if has_items && !items.is_empty() => all.extend(items),
            // Nothing of what it did before it had a list is made again.
            (Some(_), None) if facts.nodes.get(id).is_some_and(|record| record.former && has_items) => {}
            (Some(_), None) => all.push(id.clone()),
            (None, None) => {
                let inside = checked.workflow.inside(id);
                let inside = inside.ok_or_else(|| unknown(id, checked, facts))?;
                let inside: Vec<NodeId> = inside.map(|at| checked.workflow.nodes[at].id.clone()).collect();
                all.extend(wholes_with_items(&inside, checked, facts)?);
            }
            _ => return Err(unknown(id, checked, facts)),
        }
    }
    Ok(all)
}

fn unknown(id: &NodeId, checked: &Checked, facts: &RunFacts) -> RunError {
    let nodes = checked.workflow.nodes.iter().map(|node| &node.id);
    RunError::unknown_node(id, nodes.chain(facts.nodes.keys().filter(|id| id.key().is_some())))
}

/// The facts as they are once what has changed, what was asked for and what is built on these runs again.
pub(crate) fn without<'a>(taken: &'a TakenUp, catalog: &Catalog) -> Cow<'a, RunFacts> {
    let TakenUp { facts, checked, changed, .. } = taken;
    let asked = facts.nodes.iter().filter(|(_, record)| record.again.is_some()).map(|(node, _)| node);
    let mut again: BTreeSet<NodeId> = asked.cloned().collect();
    let mut skipped: Vec<NodeId> = Vec::new();
    if !changed.is_empty() {
        let verified = BTreeMap::new();
        let ahead = Outlook { facts, checked, catalog, verified: &verified }.nodes();
        let action: BTreeMap<&NodeId, Action> =
            ahead.iter().map(|ahead| (&ahead.node, ahead.action)).collect();
        // What comes to the same, or is only skipped, is not made again, or not for the sake of what has changed.
        let is_made = |node: &&NodeId| match action.get(node) {
            Some(action) => makes(*action),
            None => action.get(&node.whole()) != Some(&Action::Skip),
        };
        again.extend(changed.nodes.iter().map(|change| &change.node).filter(is_made).cloned());
        again.extend(
            ahead.iter().filter(|ahead| ahead.action == Action::Rerun).map(|ahead| ahead.node.clone()),
        );
        let has_list = |id: &NodeId| checked.workflow.node(id).is_some_and(|node| node.for_each.is_some());
        let is_skipped = |id: &NodeId| !has_list(id) || skips_list(checked, facts, id);
        let ahead = ahead.into_iter().filter(|ahead| ahead.action == Action::Skip).map(|ahead| ahead.node);
        skipped.extend(ahead.filter(is_skipped));
    }
    let is_made_again =
        |id: &NodeId| checked.workflow.node(&id.whole()).is_some_and(|node| is_natural(catalog, &node.step));
    again.extend(outdated(facts, &checked.workflow, &again).into_iter().filter(is_made_again));
    let mut left = Cow::Borrowed(facts);
    again.iter().for_each(|node| clear(left.to_mut(), node));
    skipped.iter().for_each(|node| skip(left.to_mut(), node));
    left
}

/// Whether the list of a node is skipped as a whole. One that is empty does nothing either, and is another one.
fn skips_list(checked: &Checked, facts: &RunFacts, id: &NodeId) -> bool {
    let node = checked.workflow.node(id);
    node.is_some_and(|node| matches!(checked.expand(node, facts), Expansion::Skip(_)))
}

/// Whether a node that is taken up so may do something.
fn makes(action: Action) -> bool {
    match action {
        Action::Rerun | Action::Start | Action::Observe | Action::Wait | Action::Ask => true,
        Action::Reuse | Action::ReuseOrRerun | Action::Inspect | Action::Verify | Action::Skip => false,
    }
}

fn clear(facts: &mut RunFacts, node: &NodeId) {
    if facts.nodes.get(node).is_some_and(|record| record.phase != Phase::New) {
        facts.apply(
            &Fact::Reset { node: node.clone(), reason: String::new(), again: true, renewed: false },
            Timestamp::UNIX_EPOCH,
        );
    }
}

fn skip(facts: &mut RunFacts, node: &NodeId) {
    let (node, reason, wording) = (node.clone(), String::new(), None);
    facts.apply(&Fact::Skipped { node, reason, wording }, Timestamp::UNIX_EPOCH);
}

/// Notes that these stay as they are when their turn comes, in this life or in a later one.
fn keep(kept: &[NodeId], facts: &mut RunFacts, batch: &mut Batch) -> Result<(), RunError> {
    let at = ambient::now();
    for node in kept {
        let record = facts.nodes.get(node);
        if !record.is_some_and(|record| record.again.is_none() && record.is_there()) {
            return Err(RunError::NotKept(node.clone()));
        }
        let fact = Fact::Kept { node: node.clone() };
        facts.apply(&fact, at);
        batch.facts.push(Stamped { at, fact });
    }
    Ok(())
}

/// The facts with which a run is taken up again, already applied to `facts`.
fn begin(
    again: &BTreeMap<NodeId, bool>,
    definition: crate::store::fact::Definition,
    facts: &mut RunFacts,
) -> Batch {
    let at = ambient::now();
    let resumed = Fact::Resumed { definition: Box::new(definition) };
    let asked = again.iter().map(|(node, look)| Fact::Asked { node: node.clone(), look: *look });
    let mut batch = Batch::default();
    for fact in std::iter::once(resumed).chain(asked) {
        facts.apply(&fact, at);
        batch.facts.push(Stamped { at, fact });
    }
    batch
}
