//! What is no longer as it was when nodes of a run began: exactly which field, from what to what.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::{NodeId, UNKNOWN_KEY, unknown};
use serde_json::Value;

use super::state::{NodeRecord, Phase, RunFacts};
use super::then::Then;
use crate::report::{Changes, FieldChange, NodeChange};
use crate::workflow::each::difference;
use crate::workflow::model::{Node, Workflow};
use crate::workflow::{
    Catalog, Checked, Decision, Each, Expansion, Item, Lookup, NodeOutline, Outcomes, Reference, dotted,
};

/// The list of a node as it is gone through now.
struct Listed {
    items: Vec<Item>,
    /// Where each key is.
    places: BTreeMap<String, usize>,
    /// When what it comes of was last made.
    made_at: u64,
}

impl Listed {
    /// What `each` stands for at `at` for an item that stands as `record` says. Not known where what the list
    /// comes of was made again since: the item had its place in another list.
    fn each(&self, at: usize, record: &NodeRecord) -> Option<Each<'_>> {
        Each::new(&self.items, at).filter(|_| self.made_at <= record.settled_at)
    }
}

/// A node with which the run was last taken up.
struct Known<'a> {
    has_list: bool,
    /// What it waited for, written or referred to.
    needs: BTreeSet<&'a NodeId>,
}

impl<'a> Known<'a> {
    fn of(outline: &'a NodeOutline) -> (&'a NodeId, Self) {
        (&outline.node, Self { has_list: outline.for_each, needs: outline.needs.iter().collect() })
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
    let known: BTreeMap<&NodeId, Known<'_>> = known.iter().map(Known::of).collect();
    let needs = |id: &NodeId| known.get(id).map(|known| &known.needs);
    let mut found = Changes::default();
    let ran: BTreeSet<NodeId> =
        facts.nodes.iter().filter(|(_, record)| counts(record)).map(|(id, _)| id.whole()).collect();
    let affects = |id: &NodeId| affected(&id.whole(), &checked.workflow, &ran);
    let mut lists: BTreeMap<NodeId, Listed> = BTreeMap::new();
    let accepted: BTreeMap<&NodeId, BTreeSet<&str>> = facts
        .lists
        .iter()
        .map(|(id, items)| (id, items.iter().map(|item| item.key.as_str()).collect()))
        .collect();
    for node in checked.workflow.nodes.iter().filter(|node| node.for_each.is_some()) {
        let (listed, fields) = list(node, facts, checked, needs(&node.id));
        if !fields.is_empty() && ran.contains(&node.id) {
            let (node, affects) = (node.id.clone(), affects(&node.id));
            found.nodes.push(NodeChange { node, removed: false, fields, skipped: None, affects });
        }
        lists.extend(listed.map(|listed| (node.id.clone(), listed)));
    }
    for (id, record) in &facts.nodes {
        // That it has a list now was accepted when the list was stored.
        if !counts(record) || record.config.is_none() || record.former {
            continue;
        }
        let whole = id.whole();
        let node = checked.workflow.node(&whole);
        // A list that is not known yet says nothing about its items.
        let listed = lists.get(&whole);
        let at = id.key().and_then(|key| listed?.places.get(key).copied());
        // That it is gone was accepted when the list was stored without it.
        let is_listed = |key: &str| accepted.get(&whole).is_some_and(|keys| keys.contains(key));
        if at.is_none() && listed.is_some() && id.key().is_some_and(|key| !is_listed(key)) {
            continue;
        }
        let is_there = |node: &&Node| match (id.key(), node.for_each.is_some()) {
            (None, has_list) => !has_list,
            (Some(_), has_list) => has_list && (listed.is_none() || at.is_some()),
        };
        let Some(node) = node.filter(is_there) else {
            // That it is gone was accepted when the run was taken up without it.
            if known.get(&whole).map(|known| known.has_list) != Some(id.key().is_some()) {
                continue;
            }
            let (fields, affects) = (Vec::new(), Vec::new());
            found.nodes.push(NodeChange { node: id.clone(), removed: true, fields, skipped: None, affects });
            continue;
        };
        let each = listed.zip(at).and_then(|(listed, at)| listed.each(at, record));
        let then = Then { facts, fact: record.settled_at, needs: needs(&whole) };
        let mut fields = fields(record, node, checked, catalog, &then, each);
        let decision = checked.skipped.get(&node.id).cloned().map(Decision::Skip);
        let decision = decision.unwrap_or_else(|| checked.decide(catalog, node, &then, each));
        if matches!(decision, Decision::Refuse(_)) {
            fields.extend(asked_anew(node, id.key().is_some(), &then));
        }
        let skipped = if let Decision::Skip(reason) = decision { Some(reason) } else { None };
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

/// The list of `node`, if it is known, and what is not as it was when it was last gone through: when it was stored,
/// or at the latest when one of its items was looked at.
fn list(
    node: &Node,
    facts: &RunFacts,
    checked: &Checked,
    needs: Option<&BTreeSet<&NodeId>>,
) -> (Option<Listed>, Vec<FieldChange>) {
    let settled = facts.items_of(&node.id).map(|(_, record)| record.settled_at);
    let fact = settled.chain(facts.listed_at.get(&node.id).copied()).max();
    let then = Then { facts, fact: fact.unwrap_or(u64::MAX), needs };
    let was = facts.lists.get(&node.id);
    match checked.expand(node, &then) {
        Expansion::Items(items) => {
            let fields = was.map(|was| list_fields(was, &items)).unwrap_or_default();
            let places = items.iter().enumerate().map(|(at, item)| (item.key.clone(), at)).collect();
            (Some(Listed { items, places, made_at: then.list_made_at(node) }), fields)
        }
        Expansion::Unknown => {
            let Some(was) = was else { return (None, Vec::new()) };
            let mut references = node.for_each.iter().flat_map(|each| each.list.references());
            let new = references.find(|reference| then.is_new(reference));
            let change = new.map(|new| FieldChange {
                field: "for_each".to_owned(),
                was: Some(was.iter().map(|item| item.value.clone()).collect()),
                now: Some(unknown(&new.text())),
            });
            (None, change.into_iter().chain(asked_anew(node, false, &then)).collect())
        }
        Expansion::Skip(_) | Expansion::Refuse(_) => (None, Vec::new()),
    }
}

/// What conditions of a node, or of an item of it, ask that is new in the file and not known yet.
fn asked_anew(node: &Node, is_item: bool, then: &Then<'_>) -> Vec<FieldChange> {
    // Those that don't look at the item are asked once for all.
    let asked = node.conditions().filter(|when| !is_item || when.looks_at_each());
    let asked = asked.flat_map(|when| &when.references);
    let is_open = |reference: &&Reference| matches!(then.output(&reference.path), Lookup::Unknown);
    let new: BTreeSet<String> =
        asked.filter(|reference| then.is_new(reference)).filter(is_open).map(Reference::text).collect();
    let change =
        |text: &String| FieldChange { field: "when".to_owned(), was: None, now: Some(unknown(text)) };
    new.iter().map(change).collect()
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
        let new = node.with.references().into_iter().filter(|reference| outcomes.is_new(reference));
        let new = new.map(|reference| unknown(&reference.text())).collect();
        Comparison { new, fields: &mut fields }.compare(&mut vec!["with".to_owned()], Some(was), Some(&now));
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

/// Collects what differs between two configs.
struct Comparison<'a> {
    /// The marks of what can only be new in the file.
    new: Vec<Value>,
    fields: &'a mut Vec<FieldChange>,
}

impl Comparison<'_> {
    fn compare(&mut self, path: &mut Vec<String>, was: Option<&Value>, now: Option<&Value>) {
        match (was, now) {
            (was, now) if was == now => {}
            // Only known when the node that it comes from has run again.
            (Some(_), Some(now)) if now.get(UNKNOWN_KEY).is_some() && !self.new.contains(now) => {}
            (Some(Value::Object(was)), Some(Value::Object(now))) if !now.contains_key(UNKNOWN_KEY) => {
                let keys: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
                for key in keys {
                    self.inside(path, key.clone(), was.get(key), now.get(key));
                }
            }
            (Some(Value::Array(was)), Some(Value::Array(now))) => {
                for at in 0..was.len().max(now.len()) {
                    self.inside(path, at.to_string(), was.get(at), now.get(at));
                }
            }
            (was, now) => {
                let field = dotted(path);
                self.fields.push(FieldChange { field, was: was.cloned(), now: now.cloned() });
            }
        }
    }

    fn inside(&mut self, path: &mut Vec<String>, segment: String, was: Option<&Value>, now: Option<&Value>) {
        path.push(segment);
        self.compare(path, was, now);
        path.pop();
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
