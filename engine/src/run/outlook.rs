//! What `resume` would do with each node, by the rules of the core: pure. The same decisions as
//! [`Core`](super::core::Core) takes when it takes up a node, told before instead of taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use migrate_plugin_api::{Evidence, NodeId};

use super::basis::{Making, TO_COME, made};
use super::change::{Compare, fields};
use super::core::{KEPT_CHANGED, disproof};
use super::gate::{GATE, GateDecision};
use super::state::{Again, NodeRecord, Phase, RunFacts};
use crate::outlook::{Action, NodeOutlook};
use crate::workflow::model::Node;
use crate::workflow::{
    Catalog, Checked, Decision, Each, Expansion, Item, Outcomes, is_natural, is_repeatable, node_of,
};

/// What is made again at or upstream of a node.
#[derive(Debug, Clone, Copy, Default)]
struct Basis {
    /// The newest that is there or is sure to come.
    newest: Making,
    /// The place of a node that may be made again.
    perhaps: Option<usize>,
}

impl Basis {
    fn and(self, other: Self) -> Self {
        Self { newest: self.newest.max(other.newest), perhaps: self.perhaps.or(other.perhaps) }
    }
}

/// What is known when the turn of a node comes.
struct Turn<'a> {
    world: &'a RunFacts,
    /// Nodes whose outputs are not known yet.
    open: &'a BTreeSet<NodeId>,
    upstream: Basis,
}

/// What is looked at.
pub(crate) struct Outlook<'a> {
    /// With what was asked for already noted.
    pub facts: &'a RunFacts,
    pub checked: &'a Checked,
    pub catalog: &'a Catalog,
    /// Finished nodes that have been looked at just now.
    pub verified: &'a BTreeMap<NodeId, Evidence>,
}

impl Outlook<'_> {
    /// Every node, in an order in which they may run; of a node with a list, every item.
    pub(crate) fn nodes(&self) -> Vec<NodeOutlook> {
        // What is known at the moment when a node's turn comes: less than now, where a node that it
        // waits for may come out differently.
        let mut world = self.facts.clone();
        let mut open = BTreeSet::new();
        let mut nodes: Vec<NodeOutlook> = Vec::new();
        let workflow = &self.checked.workflow;
        let mut bases: Vec<Basis> = Vec::with_capacity(workflow.nodes.len());
        for (at, node) in workflow.nodes.iter().enumerate() {
            let first = nodes.len();
            let needs = workflow.dependencies[&node.id].iter().filter_map(|id| bases.get(workflow.index[id]));
            let upstream = needs.fold(Basis::default(), |all, basis| all.and(*basis));
            match node.for_each {
                None => {
                    let turn = Turn { world: &world, open: &open, upstream };
                    nodes.push(self.unit(node, &node.id, None, &turn));
                }
                Some(_) => self.items(node, &mut world, &open, upstream, &mut nodes),
            }
            bases.push(upstream.and(self.basis(at, &nodes[first..])));
            for outlook in &nodes[first..] {
                let record = world.nodes.entry(outlook.node.clone()).or_default();
                match outlook.action {
                    Action::Reuse => {}
                    Action::Verify => {
                        let decided = record.decision.as_ref().map(GateDecision::outputs);
                        record.outputs = record.outputs.take().or(decided);
                    }
                    Action::Skip => (record.phase, record.outputs) = (Phase::Skipped, None),
                    _ => {
                        record.outputs = None;
                        if record.phase == Phase::Skipped {
                            record.phase = Phase::New;
                        }
                        open.insert(node.id.clone());
                    }
                }
            }
        }
        nodes
    }

    /// What the node at `at` itself makes.
    fn basis(&self, at: usize, outlook: &[NodeOutlook]) -> Basis {
        let workflow = &self.checked.workflow;
        if workflow.nodes[at].step == GATE {
            return Basis::default();
        }
        let makes =
            |node: &NodeOutlook| matches!(node.action, Action::Rerun | Action::Start | Action::Observe);
        let newest = match outlook.iter().any(makes) {
            true => Some((TO_COME, at)),
            false => made(self.facts, workflow, at),
        };
        let perhaps = outlook.iter().any(|node| node.action == Action::ReuseOrRerun).then_some(at);
        Basis { newest, perhaps }
    }

    fn items(
        &self,
        node: &Node,
        world: &mut RunFacts,
        open: &BTreeSet<NodeId>,
        upstream: Basis,
        nodes: &mut Vec<NodeOutlook>,
    ) {
        let whole = |action, reason| self.outlook(node, &node.id, action, Some(reason));
        if let Some(reason) = self.checked.skipped.get(&node.id) {
            return nodes.push(whole(Action::Skip, reason.clone()));
        }
        match self.checked.expand(node, world) {
            Expansion::Skip(reason) => nodes.push(whole(Action::Skip, reason)),
            Expansion::Refuse(why) => nodes.push(whole(Action::Ask, why)),
            Expansion::Items(items) if items.is_empty() => {
                nodes.push(whole(Action::Skip, "its list is empty: nothing to do".to_owned()));
            }
            Expansion::Items(items) => {
                let items: Arc<[Item]> = items.into();
                for (at, item) in items.iter().enumerate() {
                    let Ok(id) = node.id.item(&item.key) else { continue };
                    let turn = Turn { world: &*world, open, upstream };
                    nodes.push(self.unit(node, &id, Each::new(&items, at), &turn));
                }
                world.nodes.remove(&node.id);
                world.lists.insert(node.id.clone(), items);
            }
            Expansion::Unknown => {
                let ran = self.facts.items_of(&node.id).any(|(_, record)| record.attempts > 0);
                let action = if ran { Action::ReuseOrRerun } else { Action::Start };
                nodes.push(whole(action, "its list is only known during the run".to_owned()));
            }
        }
    }

    fn unit(&self, node: &Node, id: &NodeId, each: Option<Each<'_>>, turn: &Turn<'_>) -> NodeOutlook {
        let empty = NodeRecord::default();
        let record = self.facts.nodes.get(id).unwrap_or(&empty);
        let differs = || fields(record, node, self.checked, self.catalog, turn.world, each, Compare::Values);
        let (action, reason) = self.action(node, id, record, each, turn);
        let shown = matches!(action, Action::Rerun | Action::Ask | Action::Observe | Action::Wait);
        let fields = if shown { differs() } else { Vec::new() };
        let mut outlook = NodeOutlook { fields, ..self.outlook(node, id, action, reason) };
        // That it holds now says nothing of what it is replaced by.
        outlook.evidence = outlook.evidence.filter(|found| action != Action::Rerun || !found.passed());
        outlook
    }

    fn outlook(&self, node: &Node, id: &NodeId, action: Action, reason: Option<String>) -> NodeOutlook {
        NodeOutlook {
            node: id.clone(),
            step: node.step.clone(),
            action,
            reason,
            fields: Vec::new(),
            evidence: self.verified.get(id).cloned(),
            plan: None,
            error: None,
        }
    }

    fn action(
        &self,
        node: &Node,
        id: &NodeId,
        record: &NodeRecord,
        each: Option<Each<'_>>,
        turn: &Turn<'_>,
    ) -> (Action, Option<String>) {
        let world = turn.world;
        if let Some(reason) = self.checked.skipped.get(&node.id) {
            return (Action::Skip, Some(reason.clone()));
        }
        if let Some(gone) = node.references().find(|reference| world.is_skipped(reference)) {
            return (Action::Skip, node_of(gone).map(|id| crate::workflow::refers_to_skipped(&id)));
        }
        let waits = node.references().filter_map(node_of).find(|id| turn.open.contains(id));
        let same = match waits {
            // With inputs still open, only what is already known to differ counts as changed.
            Some(_) => {
                fields(record, node, self.checked, self.catalog, world, each, Compare::Values).is_empty()
            }
            None => match self.checked.decide(self.catalog, node, world, each) {
                Decision::Skip(reason) => return (Action::Skip, Some(reason)),
                Decision::Refuse(why) => return (Action::Ask, Some(why)),
                Decision::Run(resolved) => record.digest.as_ref() == Some(&resolved.digest),
            },
        };
        self.begun(node, id, record, same, waits.as_ref(), turn.upstream)
    }

    /// By the same rules as the core takes up a node.
    fn begun(
        &self,
        node: &Node,
        id: &NodeId,
        record: &NodeRecord,
        same: bool,
        waits: Option<&NodeId>,
        upstream: Basis,
    ) -> (Action, Option<String>) {
        let id_at = |at: usize| &self.checked.workflow.nodes[at].id;
        let remade = upstream.newest.filter(|_| record.is_outdated(upstream.newest));
        let remade = remade.map(|(_, by)| id_at(by));
        let perhaps = upstream.perhaps.filter(|_| !record.kept).map(id_at);
        let repeatable = is_repeatable(self.catalog, &node.step);
        let told = |action, text: &str| (action, Some(text.to_owned()));
        let ran = record.attempts > 0;
        let begun = record.begun && matches!(record.phase, Phase::Open | Phase::Skipped);
        match record.phase {
            _ if node.step == GATE => {
                gate(id, record, same, waits.map(takes_outputs).or(perhaps.map(may_be_remade)), remade)
            }
            _ if record.again == Some(Again::Look) && begun => {
                told(Action::Observe, "asked for; what its last attempt has begun is looked for first")
            }
            _ if record.again.is_some() && ran => told(Action::Rerun, "asked for"),
            Phase::New if record.failed && ran && !repeatable => {
                told(Action::Ask, "an earlier attempt was disproved")
            }
            Phase::Skipped if record.begun => told(Action::Observe, "it ran before it was skipped"),
            Phase::New if ran => told(Action::Rerun, "its earlier result doesn't hold"),
            // A run that is undone never goes forward again.
            Phase::Undone => told(Action::Skip, "its effect was taken back"),
            Phase::New | Phase::Skipped => (Action::Start, None),
            // Whatever it began may be at work outside, under its own config.
            Phase::Open if !same => told(
                Action::Observe,
                "its last attempt was begun with another config or step, and has no known end",
            ),
            _ if !same && record.kept => told(Action::Ask, KEPT_CHANGED),
            _ if !same && !repeatable => told(
                Action::Ask,
                "its config or its step has changed since an earlier attempt, and doing it twice is not the same as once",
            ),
            Phase::Open => told(Action::Observe, open_reason(record)),
            _ if !same => told(Action::Rerun, "its config or its step has changed"),
            Phase::Applied | Phase::Finished if remade.is_some() && is_natural(self.catalog, &node.step) => {
                (Action::Rerun, remade.map(|by| is_remade_or_kept(by, id)))
            }
            Phase::Applied if remade.is_some() => {
                (Action::Inspect, remade.map(|by| is_remade_or_kept(by, id)))
            }
            Phase::Applied => told(Action::Verify, "done, and not verified yet"),
            Phase::Finished if record.kept => self.kept(id, waits),
            Phase::Finished => self.finished(id, repeatable, waits, remade, perhaps),
        }
    }

    /// A person keeps it as it is.
    fn kept(&self, id: &NodeId, waits: Option<&NodeId>) -> (Action, Option<String>) {
        let disproved = self.verified.get(id).filter(|evidence| !evidence.passed());
        match (disproved, waits) {
            (Some(evidence), _) => (Action::Ask, Some(disproof(evidence))),
            (None, Some(of)) => {
                let reason = format!(
                    "kept; if outputs of `{of}` that it takes come out differently, a person is asked"
                );
                (Action::Reuse, Some(reason))
            }
            (None, None) => (Action::Reuse, None),
        }
    }

    fn finished(
        &self,
        id: &NodeId,
        repeatable: bool,
        waits: Option<&NodeId>,
        remade: Option<&NodeId>,
        perhaps: Option<&NodeId>,
    ) -> (Action, Option<String>) {
        match self.verified.get(id).filter(|evidence| !evidence.passed()) {
            Some(evidence) if repeatable && remade.is_none() => {
                return (Action::Rerun, Some(disproof(evidence)));
            }
            Some(evidence) => return (Action::Ask, Some(disproof(evidence))),
            None => {}
        }
        match (waits, remade, perhaps) {
            (Some(id), ..) => (Action::ReuseOrRerun, Some(takes_outputs(id))),
            (None, Some(by), _) => (Action::Inspect, Some(is_remade_or_kept(by, id))),
            (None, None, Some(id)) => (Action::ReuseOrRerun, Some(may_be_remade(id))),
            (None, None, None) => (Action::Reuse, None),
        }
    }
}

fn takes_outputs(of: &NodeId) -> String {
    format!("it takes outputs of `{of}`")
}

fn is_remade(node: &NodeId) -> String {
    format!("it is built on `{node}`, which is made again")
}

fn is_remade_or_kept(by: &NodeId, node: &NodeId) -> String {
    format!("{}; `--keep {}` would keep it", is_remade(by), node.quoted())
}

fn may_be_remade(node: &NodeId) -> String {
    format!("it is built on `{node}`, which may be made again")
}

/// A gate is never looked for: it is passed, it waits, or it asks again. `waits`: why it may come out
/// differently; `remade`: what it is built on and is made again.
fn gate(
    id: &NodeId,
    record: &NodeRecord,
    same: bool,
    waits: Option<String>,
    remade: Option<&NodeId>,
) -> (Action, Option<String>) {
    let wait = |text: String| (Action::Wait, Some(text));
    let again = |why: &str| wait(format!("{why}: a person is asked again"));
    match (record.phase, &record.decision) {
        _ if record.attempts == 0 => (Action::Start, None),
        _ if record.again.is_some() => again("asked for"),
        _ if !same => again("what it asks has changed"),
        _ if remade.is_some() => again(&remade.map(is_remade).unwrap_or_default()),
        (Phase::Finished, _) if waits.is_some() => (Action::ReuseOrRerun, waits),
        (Phase::Finished, _) => (Action::Reuse, None),
        (Phase::Open, _) if record.failed => again("it was rejected"),
        (Phase::Open, None) => wait(format!("a person is to decide: `migrate approve {}`", id.quoted())),
        (Phase::Open, Some(decision)) if !decision.approved => {
            wait(format!("{}; `resume` fails with it, and the next one asks again", decision.sentence()))
        }
        (Phase::Open | Phase::Applied, decision) => {
            (Action::Verify, decision.as_ref().map(GateDecision::sentence))
        }
        (Phase::New | Phase::Skipped | Phase::Undone, _) => again("its answer doesn't count any more"),
    }
}

fn open_reason(record: &NodeRecord) -> &'static str {
    match (record.failed, record.stopped) {
        (true, _) => "its last attempt failed",
        (false, true) => "its last attempt was stopped",
        (false, false) => "its last attempt has no known end",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use migrate_plugin_api::{Check, ErrorClass, Idempotency, IdempotencyKey, RunId, Step, StepInfo};
    use serde_json::{Value, json};

    use super::super::core::error;
    use super::super::gate::Gate;
    use super::super::key::idempotency_key;
    use super::*;
    use crate::store::fact::Fact;
    use crate::workflow::{Described, Library, Params, Source, Wording, check};

    const KINDS: [(&str, Idempotency); 2] = [("keyed", Idempotency::Keyed), ("none", Idempotency::None)];

    fn catalog() -> Catalog {
        let steps = KINDS.map(|(name, idempotency)| StepInfo {
            name: name.to_owned(),
            version: "1".to_owned(),
            summary: String::new(),
            config_schema: json!({}),
            output_schema: json!({}),
            sensitive: Vec::new(),
            idempotency,
            supports_undo: false,
        });
        let described = |info: StepInfo| {
            let validator = jsonschema::validator_for(&info.config_schema).unwrap();
            (info.name.clone(), Described { info, validator, keeps_cursor: false, unusable: None })
        };
        steps.into_iter().chain([Gate.describe()]).map(described).collect()
    }

    /// Node `n` of `step` as it would be taken up after `facts`, of which the first began it with
    /// `config`. `verified`: what was found just now.
    fn told(step: &str, config: Value, facts: &[Fact], verified: Option<bool>) -> String {
        let catalog = catalog();
        let nodes = format!("[nodes.n]\nstep = \"{step}\"\nwith = {{ message = \"?\" }}\n");
        let workflow = Source::new("w.toml", format!("schema = 1\nname = \"w\"\n{nodes}"));
        let environment = Source::new("m.toml", "schema = 1\n");
        let checked = check(&catalog, &Library::default(), &workflow, &environment, &Params::new()).unwrap();
        let (id, run) = (NodeId::new("n").unwrap(), RunId::new("r").unwrap());
        let resolved = crate::workflow::resolved(config, step, "1", Wording::default());
        let began = Fact::Started {
            node: id.clone(),
            attempt: 1,
            key: idempotency_key(&run, &id, &resolved.digest, 0),
            digest: resolved.digest,
            step: step.to_owned(),
            step_version: "1".to_owned(),
            config: resolved.config,
            wording: Some(resolved.wording),
            generation: 0,
        };
        let mut known = RunFacts::default();
        [began].iter().chain(facts).for_each(|fact| known.apply(fact, Timestamp::UNIX_EPOCH));
        let evidence = verified.map(|good| {
            let found = if good { "3" } else { "2" };
            (id, Evidence::from_iter([Check::equal("table orders", "rows", "3", found)]))
        });
        let verified: BTreeMap<_, _> = evidence.into_iter().collect();
        let outlook = Outlook { facts: &known, checked: &checked, catalog: &catalog, verified: &verified }
            .nodes()
            .remove(0);
        format!("{:?}: {}", outlook.action, outlook.reason.unwrap_or_default())
    }

    /// What a plan says of a node, however it stands: to be read as a whole.
    #[test]
    fn every_reason_reads_well() {
        let node = NodeId::new("n").unwrap();
        let id = || node.clone();
        let applied = || Fact::Applied { node: id(), outputs: json!({}), observed: false };
        let finished = || Fact::Finished { node: id(), evidence: Evidence::default(), duration_ms: 0 };
        let failed = |disproved| {
            let error = error(ErrorClass::Permanent, "no".to_owned(), None);
            Fact::Failed { node: id(), error, evidence: None, disproved, duration_ms: 0 }
        };
        let stopped = || Fact::Interrupted { node: id(), duration_ms: 0 };
        let skipped = || Fact::Skipped { node: id(), reason: "`when` is false".to_owned(), wording: None };
        let asked = |look| Fact::Asked { node: id(), look };
        let reset = || Fact::Reset { node: id(), reason: String::new(), again: true, renewed: false };
        let decided = |approved| {
            let key = IdempotencyKey::new("n-0123456789").unwrap();
            let (by, host, at) = ("ana".to_owned(), "laptop".to_owned(), Timestamp::UNIX_EPOCH);
            let decision = GateDecision { key, approved, by, host, at, note: None };
            Fact::Decided { node: id(), decision }
        };
        let (same, other) = (json!({ "message": "?" }), json!({ "message": "!" }));
        let mut lines = Vec::new();
        let cases: Vec<(&str, Value, Vec<Fact>, Option<bool>)> = vec![
            ("no end", same.clone(), vec![], None),
            ("stopped", same.clone(), vec![stopped()], None),
            ("failed", same.clone(), vec![failed(false)], None),
            ("no end, changed", other.clone(), vec![], None),
            ("applied", same.clone(), vec![applied()], None),
            ("applied, changed", other.clone(), vec![applied()], None),
            ("disproved", same.clone(), vec![applied(), failed(true)], None),
            ("finished", same.clone(), vec![applied(), finished()], Some(true)),
            ("finished, disproved now", same.clone(), vec![applied(), finished()], Some(false)),
            ("finished, changed", other.clone(), vec![applied(), finished()], None),
            ("finished, named", same.clone(), vec![applied(), finished(), asked(false)], None),
            ("no end, named", same.clone(), vec![asked(false)], None),
            ("no end, downstream", same.clone(), vec![asked(true)], None),
            ("skipped after it ran", same.clone(), vec![applied(), skipped()], None),
            ("reset", same.clone(), vec![applied(), reset()], None),
        ];
        for (step, _) in KINDS {
            for (when, config, facts, verified) in &cases {
                lines.push(format!("{step}, {when} -> {}", told(step, config.clone(), facts, *verified)));
            }
        }
        let gates: Vec<(&str, Value, Vec<Fact>)> = vec![
            ("waits", same.clone(), vec![]),
            ("approved", same.clone(), vec![decided(true)]),
            ("rejected", same.clone(), vec![decided(false)]),
            ("rejected, taken in", same.clone(), vec![decided(false), failed(false)]),
            ("waits, changed", other.clone(), vec![]),
            ("passed", same.clone(), vec![decided(true), applied(), finished()]),
            ("passed, changed", other, vec![decided(true), applied(), finished()]),
            ("passed, named", same.clone(), vec![decided(true), applied(), finished(), asked(false)]),
            ("passed, then skipped", same, vec![decided(true), applied(), skipped()]),
        ];
        for (when, config, facts) in gates {
            lines.push(format!("gate, {when} -> {}", told(GATE, config, &facts, None)));
        }
        insta::assert_snapshot!(lines.join("\n"));
    }
}
