//! What somebody has changed in the files since nodes of a run began: exactly which field, from what to what. What
//! only comes out differently since something was made again is no change: where outputs are taken, the text counts,
//! and elsewhere the value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use migrate_plugin_api::{NodeId, UNKNOWN_KEY, unknown};
use serde_json::Value;

use super::state::{NodeRecord, Phase, RunFacts};
use crate::report::{Changes, FieldChange, NodeChange};
use crate::workflow::each::difference;
use crate::workflow::model::{Node, Workflow};
use crate::workflow::{
    Catalog, Checked, Decision, Each, Expansion, Item, NodeOutline, Outcomes, Wording, dotted, node_of, place,
};

/// The list of a node, and what has changed of it.
#[derive(Default)]
struct Listed {
    /// As it is to be gone through, where that is known.
    items: Option<Arc<[Item]>>,
    /// Where each key is.
    places: BTreeMap<String, usize>,
    /// It comes of outputs, and is written otherwise than it was.
    is_edited: bool,
    /// Why its node as a whole would not run now, where it has changed.
    skipped: Option<String>,
    fields: Vec<FieldChange>,
}

/// Compares what has run with what `checked` would run. Nodes that have not begun, or have failed,
/// may change freely. `known`: the nodes with which the run was last taken up.
pub(crate) fn changes(
    facts: &RunFacts,
    checked: &Checked,
    catalog: &Catalog,
    known: &[NodeOutline],
) -> Changes {
    let known: BTreeMap<&NodeId, &NodeOutline> =
        known.iter().map(|outline| (&outline.node, outline)).collect();
    let needs = |node: &Node| known.get(&node.id).and_then(|known| needs(known, &checked.workflow));
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
        let mut listed = list(node, facts, checked);
        let mut fields = std::mem::take(&mut listed.fields);
        if fields.is_empty() {
            fields.extend(needs(node));
        }
        if !fields.is_empty() && ran.contains(&node.id) {
            let (node, affects) = (node.id.clone(), affects(&node.id));
            found.nodes.push(NodeChange { node, removed: false, fields, skipped: None, affects });
        }
        lists.insert(node.id.clone(), listed);
    }
    for (id, record) in &facts.nodes {
        // That it has a list now was accepted when the list was stored.
        if !counts(record) || record.config.is_none() || record.former {
            continue;
        }
        let whole = id.whole();
        let node = checked.workflow.node(&whole);
        // A list that is not known yet says nothing about its items.
        let list = lists.get(&whole);
        let items = list.and_then(|list| list.items.as_deref());
        let at = id.key().and_then(|key| list?.places.get(key).copied());
        // That it is gone was accepted when the list was stored without it.
        let is_listed = |key: &str| accepted.get(&whole).is_some_and(|keys| keys.contains(key));
        if at.is_none() && id.key().is_some_and(|key| !is_listed(key)) {
            continue;
        }
        let is_there = |node: &&Node| match (id.key(), node.for_each.is_some()) {
            (None, has_list) => !has_list,
            (Some(_), has_list) => has_list && (items.is_none() || at.is_some()),
        };
        let Some(node) = node.filter(is_there) else {
            // That it is gone was accepted when the run was taken up without it.
            if known.get(&whole).map(|known| known.for_each) != Some(id.key().is_some()) {
                continue;
            }
            let (fields, affects) = (Vec::new(), Vec::new());
            found.nodes.push(NodeChange { node: id.clone(), removed: true, fields, skipped: None, affects });
            continue;
        };
        let each = items.zip(at).and_then(|(items, at)| Each::new(items, at));
        // An item of another list is another, however its node is written.
        let is_another = list.is_some_and(|list| list.is_edited);
        let compare = if is_another { Compare::Values } else { Compare::Texts };
        let mut fields = fields(record, node, checked, catalog, facts, each, compare);
        let now = checked.wording(node, each);
        let was = record.wording.as_ref();
        fields.extend(was.and_then(|was| when(was, &now)));
        if fields.is_empty() && id.key().is_none() {
            fields.extend(needs(node));
        }
        let skipped = checked.skipped.get(&node.id).or(list.and_then(|list| list.skipped.as_ref())).cloned();
        let skipped = skipped.or_else(|| {
            let is_edited = was.is_none_or(|was| *was != now);
            let decision = is_edited.then(|| checked.decide(catalog, node, facts, each));
            if let Some(Decision::Skip(reason)) = decision { Some(reason) } else { None }
        });
        // That its node is skipped as a whole was accepted when it was.
        let is_whole_skipped = || facts.own(&whole).is_some_and(|own| own.phase == Phase::Skipped);
        let skipped = skipped.filter(|_| id.key().is_none() || !is_whole_skipped());
        if !fields.is_empty() || skipped.is_some() {
            let (node, affects) = (id.clone(), affects(id));
            found.nodes.push(NodeChange { node, removed: false, fields, skipped, affects });
        }
    }
    found
}

/// The list of `node`. Where it comes of outputs and is written as it was, it is the one that is stored: if it comes
/// out differently, nobody has changed that.
fn list(node: &Node, facts: &RunFacts, checked: &Checked) -> Listed {
    let Some(for_each) = &node.for_each else { return Listed::default() };
    let (stored, was) = (facts.lists.get(&node.id), facts.list_wordings.get(&node.id));
    let now = checked.list_wording(node);
    let is_given = !now.fields.is_empty();
    let is_edited = is_given && was.is_none_or(|was| was.fields != now.fields);
    let mut listed = Listed { items: stored.cloned(), is_edited, ..Listed::default() };
    if is_edited || !is_given {
        listed.items = match checked.items(for_each, facts) {
            Expansion::Items(items) => Some(items.into()),
            _ => None,
        };
    }
    if let Some(stored) = stored {
        match &listed.items {
            Some(items) => listed.fields = list_fields(stored, items),
            None => {
                let references = for_each.list.references().into_iter();
                let taken = references.filter(|reference| node_of(reference).is_some());
                listed.fields.extend(taken.take(1).map(|open| FieldChange {
                    field: "for_each".to_owned(),
                    was: Some(stored.iter().map(|item| item.value.clone()).collect()),
                    now: Some(unknown(&open.text())),
                }));
            }
        }
    }
    if let Some(was) = was {
        // What comes of what is not known yet is told as that.
        if is_edited && listed.items.is_some() {
            let text =
                |wording: &Wording, field: &str| wording.fields.get(field).map(|text| text.as_str().into());
            let texts = ["for_each", "key"].into_iter().map(|field| FieldChange {
                field: field.to_owned(),
                was: text(was, field),
                now: text(&now, field),
            });
            listed.fields.extend(texts.filter(|change| change.was != change.now));
        }
        listed.fields.extend(when(was, &now));
    }
    if stored.is_some()
        && was.is_none_or(|was| *was != now)
        && let Expansion::Skip(reason) = checked.expand(node, facts)
    {
        listed.skipped = Some(reason);
    }
    let items = listed.items.iter().flat_map(|items| items.iter());
    listed.places = items.enumerate().map(|(at, item)| (item.key.clone(), at)).collect();
    listed
}

/// That it waits for more than when the run was last taken up: what is natural is made again after that, and a gate
/// asks again. That what it takes is new is told where it is taken.
fn needs(known: &NodeOutline, workflow: &Workflow) -> Option<FieldChange> {
    let now = workflow.dependencies.get(&known.node)?;
    let was: BTreeSet<&NodeId> = known.needs.iter().collect();
    let names =
        |ids: &mut dyn Iterator<Item = &NodeId>| Some(ids.map(|id| Value::from(id.as_str())).collect());
    now.iter().any(|id| !was.contains(id)).then(|| FieldChange {
        field: "needs".to_owned(),
        was: names(&mut was.into_iter()),
        now: names(&mut now.iter()),
    })
}

/// What has changed of conditions.
fn when(was: &Wording, now: &Wording) -> Option<FieldChange> {
    let text = |wording: &Wording| wording.when.as_deref().map(Value::from);
    let change = FieldChange { field: "when".to_owned(), was: text(was), now: text(now) };
    (change.was != change.now).then_some(change)
}

/// What counts where outputs are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// What is written.
    Texts,
    /// What is written, and what it comes to, as far as that is known.
    Values,
}

/// What differs between the last attempt of a node and what it would be run with now.
pub(crate) fn fields(
    record: &NodeRecord,
    node: &Node,
    checked: &Checked,
    catalog: &Catalog,
    outcomes: &dyn Outcomes,
    each: Option<Each<'_>>,
    compare: Compare,
) -> Vec<FieldChange> {
    let Some(was) = &record.config else { return Vec::new() };
    let mut fields = Vec::new();
    let version = catalog.get(&node.step).map(|described| described.info.version.as_str());
    word("step", record.step.as_deref(), Some(&node.step), &mut fields);
    if fields.is_empty() {
        word("step version", record.step_version.as_deref(), version, &mut fields);
    }
    let config = checked.marked_config(node, outcomes, each);
    let (texts, now) = (record.wording.as_ref(), &checked.wording(node, each));
    Comparison { was: texts, now, compare, fields: &mut fields }.compare(
        &mut vec!["with".to_owned()],
        Some(was),
        Some(&config),
    );
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
    /// Not known of what an older version has begun: there the value counts.
    was: Option<&'a Wording>,
    now: &'a Wording,
    compare: Compare,
    fields: &'a mut Vec<FieldChange>,
}

impl Comparison<'_> {
    fn compare(&mut self, path: &mut Vec<String>, was: Option<&Value>, now: Option<&Value>) {
        if self.now.fields.is_empty() && was == now {
            return;
        }
        if let Some(text) = self.now.fields.get(&place(path)) {
            return self.taken(path, text, was, now);
        }
        match (was, now) {
            (Some(Value::Object(was)), Some(Value::Object(now))) => {
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
            (was, now) if was == now => {}
            (was, now) => self.differs(path, was.cloned(), now.cloned()),
        }
    }

    /// A field in which outputs are taken.
    fn taken(&mut self, path: &[String], text: &str, was: Option<&Value>, now: Option<&Value>) {
        let is_unknown = now.is_some_and(|now| now.get(UNKNOWN_KEY).is_some());
        let text_before = self.was.map(|was| was.fields.get(&place(path)));
        let is_edited = match text_before {
            Some(before) => before.is_none_or(|before| before != text),
            None => was != now,
        };
        let is_another = self.compare == Compare::Values && !is_unknown && was != now;
        if is_edited && was == now {
            // It comes to the same as far as is known, and need not.
            let before = text_before.flatten().map(|before| before.as_str().into());
            self.differs(path, before.or_else(|| was.cloned()), Some(text.into()));
        } else if is_edited || is_another {
            self.differs(path, was.cloned(), now.cloned());
        }
    }

    fn differs(&mut self, path: &[String], was: Option<Value>, now: Option<Value>) {
        self.fields.push(FieldChange { field: dotted(path), was, now });
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
