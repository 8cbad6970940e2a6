//! What is no longer as it was when nodes of a run began: exactly which field, from what to what.

use std::collections::BTreeSet;

use migrate_plugin_api::NodeId;
use serde_json::Value;

use super::state::{NodeRecord, Phase, RunFacts};
use crate::report::{Changes, FieldChange, NodeChange};
use crate::workflow::model::{Node, Workflow};
use crate::workflow::{Catalog, Checked, Ended, dotted, has_unknown};

/// Compares what has run with what `checked` would run. Nodes that have not begun, or have failed,
/// may change freely.
pub(crate) fn changes(facts: &RunFacts, checked: &Checked, catalog: &Catalog) -> Changes {
    let mut found = Changes::default();
    let ended = |id: &NodeId| match facts.nodes.get(id) {
        Some(NodeRecord { outputs: Some(outputs), .. }) => Ended::Outputs(outputs),
        _ => Ended::Open,
    };
    for (id, record) in &facts.nodes {
        if !counts(record) || record.config.is_none() {
            continue;
        }
        let Some(node) = checked.workflow.node(id) else {
            found.nodes.push(NodeChange {
                node: id.clone(),
                removed: true,
                fields: Vec::new(),
                affects: Vec::new(),
            });
            continue;
        };
        let fields = fields(record, node, checked, catalog, &ended);
        if !fields.is_empty() {
            let affects = affected(id, &checked.workflow, facts);
            found.nodes.push(NodeChange { node: id.clone(), removed: false, fields, affects });
        }
    }
    found
}

/// What differs between the last attempt of a node and what it would be run with now.
pub(crate) fn fields<'a>(
    record: &NodeRecord,
    node: &Node,
    checked: &'a Checked,
    catalog: &Catalog,
    ended: &dyn Fn(&NodeId) -> Ended<'a>,
) -> Vec<FieldChange> {
    let Some(was) = &record.config else { return Vec::new() };
    let mut fields = Vec::new();
    let version = catalog.get(&node.step).map(|described| described.info.version.as_str());
    word("step", record.step.as_deref(), Some(&node.step), &mut fields);
    if fields.is_empty() {
        word("step version", record.step_version.as_deref(), version, &mut fields);
    }
    if let Ok(now) = checked.config(node, ended) {
        compare(&mut vec!["with".to_owned()], Some(was), Some(&now), &mut fields);
    }
    fields
}

fn counts(record: &NodeRecord) -> bool {
    !record.failed && matches!(record.phase, Phase::Open | Phase::Applied | Phase::Finished)
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
fn affected(changed: &NodeId, workflow: &Workflow, facts: &RunFacts) -> Vec<NodeId> {
    let seen = downstream(changed, workflow);
    let ran = |id: &&NodeId| facts.nodes.get(*id).is_some_and(counts);
    workflow.nodes.iter().map(|node| &node.id).filter(|id| seen.contains(*id)).filter(ran).cloned().collect()
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
