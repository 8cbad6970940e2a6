//! What is no longer as it was when nodes of a run began: exactly which field, from what to what.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::NodeId;
use serde_json::Value;

use super::state::{NodeRecord, Phase, RunFacts};
use crate::report::{Changes, FieldChange, NodeChange};
use crate::workflow::each::difference;
use crate::workflow::model::{Node, Workflow};
use crate::workflow::{
    Catalog, Checked, Decision, Each, Expansion, Item, Lookup, NodeOutline, Outcomes, Reference, dotted,
    has_unknown,
};

/// What nodes gave up to some fact: what was made later comes of what is made again, and is no change of the files.
/// Where it is not known any more what was there then, or in a list, nothing counts as known.
struct Then<'a> {
    facts: &'a RunFacts,
    fact: u64,
}

impl Outcomes for Then<'_> {
    fn is_skipped(&self, reference: &Reference) -> bool {
        self.facts.is_skipped(reference)
    }

    fn output(&self, path: &[String]) -> Lookup<'_> {
        let Some((name, rest)) = path.split_first() else { return Lookup::Unknown };
        let Ok(node) = NodeId::new(name.clone()) else { return Lookup::Unknown };
        let is_later = |record: &NodeRecord| record.made_at().is_some_and(|made| made > self.fact);
        if self.facts.items_of(&node).any(|(_, record)| is_later(record)) {
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

/// Compares what has run with what `checked` would run. Nodes that have not begun, or have failed,
/// may change freely. `known`: the nodes with which the run was last taken up.
pub(crate) fn changes(
    facts: &RunFacts,
    checked: &Checked,
    catalog: &Catalog,
    known: &[NodeOutline],
) -> Changes {
    let known: BTreeMap<&NodeId, bool> =
        known.iter().map(|outline| (&outline.node, outline.for_each)).collect();
    let mut found = Changes::default();
    let ran: BTreeSet<NodeId> =
        facts.nodes.iter().filter(|(_, record)| counts(record)).map(|(id, _)| id.whole()).collect();
    let affects = |id: &NodeId| affected(&id.whole(), &checked.workflow, &ran);
    let mut lists: BTreeMap<NodeId, (Vec<Item>, BTreeMap<String, usize>)> = BTreeMap::new();
    let accepted: BTreeMap<&NodeId, BTreeSet<&str>> = facts
        .lists
        .iter()
        .map(|(id, items)| (id, items.iter().map(|item| item.key.as_str()).collect()))
        .collect();
    for node in checked.workflow.nodes.iter().filter(|node| node.for_each.is_some()) {
        let fact = facts.items_of(&node.id).map(|(_, record)| record.settled_at).max();
        let then = Then { facts, fact: fact.unwrap_or(u64::MAX) };
        let Expansion::Items(items) = checked.expand(node, &then) else { continue };
        let fields = facts.lists.get(&node.id).map(|was| list_fields(was, &items)).unwrap_or_default();
        if !fields.is_empty() && ran.contains(&node.id) {
            let (node, affects) = (node.id.clone(), affects(&node.id));
            found.nodes.push(NodeChange { node, removed: false, fields, skipped: None, affects });
        }
        let places = items.iter().enumerate().map(|(at, item)| (item.key.clone(), at)).collect();
        lists.insert(node.id.clone(), (items, places));
    }
    for (id, record) in &facts.nodes {
        // That it has a list now was accepted when the list was stored.
        if !counts(record) || record.config.is_none() || record.former {
            continue;
        }
        let whole = id.whole();
        let node = checked.workflow.node(&whole);
        // A list that is not known yet says nothing about its items.
        let (items, places) = lists.get(&whole).map(|(items, places)| (items, places)).unzip();
        let at = id.key().and_then(|key| places?.get(key).copied());
        // That it is gone was accepted when the list was stored without it.
        let is_listed = |key: &str| accepted.get(&whole).is_some_and(|keys| keys.contains(key));
        if at.is_none() && items.is_some() && id.key().is_some_and(|key| !is_listed(key)) {
            continue;
        }
        let is_there = |node: &&Node| match (id.key(), node.for_each.is_some()) {
            (None, has_list) => !has_list,
            (Some(_), has_list) => has_list && (items.is_none() || at.is_some()),
        };
        let Some(node) = node.filter(is_there) else {
            // That it is gone was accepted when the run was taken up without it.
            if known.get(&whole) != Some(&id.key().is_some()) {
                continue;
            }
            let (fields, affects) = (Vec::new(), Vec::new());
            found.nodes.push(NodeChange { node: id.clone(), removed: true, fields, skipped: None, affects });
            continue;
        };
        let each = items.zip(at).and_then(|(items, at)| Each::new(items, at));
        let then = Then { facts, fact: record.settled_at };
        let fields = fields(record, node, checked, catalog, &then, each);
        let skipped = checked.skipped.get(&node.id).cloned();
        let skipped = skipped.or_else(|| skip_reason(node, checked, catalog, &then, each));
        // That its node is skipped as a whole was accepted when it was; until it no longer is, nothing is made of it.
        let is_whole_skipped = || facts.own(&whole).is_some_and(|own| own.phase == Phase::Skipped);
        if skipped.is_some() && id.key().is_some() && is_whole_skipped() {
            continue;
        }
        if !fields.is_empty() || skipped.is_some() {
            let (node, affects) = (id.clone(), affects(id));
            found.nodes.push(NodeChange { node, removed: false, fields, skipped, affects });
        }
    }
    found
}

/// Why a node that has run would be skipped now, where everything is known that it depends on.
fn skip_reason(
    node: &Node,
    checked: &Checked,
    catalog: &Catalog,
    outcomes: &dyn Outcomes,
    each: Option<Each<'_>>,
) -> Option<String> {
    match checked.decide(catalog, node, outcomes, each) {
        Decision::Skip(reason) => Some(reason),
        Decision::Run(_) | Decision::Refuse(_) => None,
    }
}

/// What differs between the last attempt of a node and what it would be run with now.
pub(crate) fn fields(
    record: &NodeRecord,
    node: &Node,
    checked: &Checked,
    catalog: &Catalog,
    outcomes: &dyn Outcomes,
    each: Option<Each<'_>>,
) -> Vec<FieldChange> {
    let Some(was) = &record.config else { return Vec::new() };
    let mut fields = Vec::new();
    let version = catalog.get(&node.step).map(|described| described.info.version.as_str());
    word("step", record.step.as_deref(), Some(&node.step), &mut fields);
    if fields.is_empty() {
        word("step version", record.step_version.as_deref(), version, &mut fields);
    }
    if let Ok(now) = checked.config(node, outcomes, each) {
        compare(&mut vec!["with".to_owned()], Some(was), Some(&now), &mut fields);
    }
    fields
}

/// Items that are gone from a list or new in it.
fn list_fields(was: &[Item], now: &[Item]) -> Vec<FieldChange> {
    let (gone, new) = difference(was, now);
    let value = |items: &[Item], key: &String| {
        items.iter().find(|item| item.key == *key).map(|item| item.value.clone())
    };
    let field = |key: &String| format!("for_each[\"{key}\"]");
    let gone = gone.iter().map(|key| FieldChange { field: field(key), was: value(was, key), now: None });
    let new = new.iter().map(|key| FieldChange { field: field(key), was: None, now: value(now, key) });
    gone.chain(new).collect()
}

/// Whether the node has or may have had an effect that counts. One that is there stays there when
/// only its verification failed.
fn counts(record: &NodeRecord) -> bool {
    match record.phase {
        // It is made again with whatever config it has then.
        _ if record.again.is_some() => false,
        Phase::Applied | Phase::Finished => true,
        Phase::Open => !record.failed,
        Phase::New | Phase::Skipped | Phase::Undone => false,
    }
}

fn word(field: &str, was: Option<&str>, now: Option<&str>, fields: &mut Vec<FieldChange>) {
    if was != now {
        let value = |text: Option<&str>| text.map(Value::from);
        fields.push(FieldChange { field: field.to_owned(), was: value(was), now: value(now) });
    }
}

fn compare(path: &mut Vec<String>, was: Option<&Value>, now: Option<&Value>, fields: &mut Vec<FieldChange>) {
    match (was, now) {
        (was, now) if was == now => {}
        // Only known when the node that it comes from has run again.
        (_, Some(now)) if has_unknown(now) && !now.is_object() && !now.is_array() => {}
        (Some(Value::Object(was)), Some(Value::Object(now))) if !now.contains_key("$unknown") => {
            let keys: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
            for key in keys {
                path.push(key.clone());
                compare(path, was.get(key), now.get(key), fields);
                path.pop();
            }
        }
        (Some(Value::Array(was)), Some(Value::Array(now))) => {
            for at in 0..was.len().max(now.len()) {
                path.push(at.to_string());
                compare(path, was.get(at), now.get(at), fields);
                path.pop();
            }
        }
        (_, Some(Value::Object(now))) if now.contains_key("$unknown") => {}
        (was, now) => fields.push(FieldChange { field: dotted(path), was: was.cloned(), now: now.cloned() }),
    }
}

/// Everything downstream of `changed` that has run.
fn affected(changed: &NodeId, workflow: &Workflow, ran: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let seen = downstream(changed, workflow);
    let both = |id: &&NodeId| seen.contains(*id) && ran.contains(*id);
    workflow.nodes.iter().map(|node| &node.id).filter(both).cloned().collect()
}

/// Everything that waits for `node`, directly or not.
pub(crate) fn downstream(node: &NodeId, workflow: &Workflow) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::new();
    // In an order in which they may run, so that one pass finds all.
    for other in &workflow.nodes {
        let needs = &workflow.dependencies[&other.id];
        if needs.contains(node) || needs.iter().any(|id| seen.contains(id)) {
            seen.insert(other.id.clone());
        }
    }
    seen
}
