//! What a node comes down to at some moment of a run: run it with this config, or skip it.
//!
//! Pure: the same workflow, environment, parameters and outputs always give the same [`Digest`].

use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::check::{condition_is_false, lookup, no_reference, refers_to_skipped, scope};
use super::condition::Condition;
use super::each::{self, Each, ForEach, Item};
use super::model::Node;
use super::schema::{self, Fault};
use super::template::{Lookup, Reference, Root, node_of};
use super::{Catalog, Checked, Wording, dotted};

/// SHA-256 over a node's step, its version and its resolved config, in hexadecimal. The order of
/// keys does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Digest(pub String);

impl Digest {
    /// Of any JSON value.
    pub(crate) fn of(value: &Value) -> Self {
        let mut text = String::new();
        canonical(value, &mut text);
        Self(hex::encode(digest::digest(&digest::SHA256, text.as_bytes())))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(&map[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// A node that can run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolved {
    pub config: Value,
    pub step_version: String,
    pub digest: Digest,
    pub wording: Wording,
}

/// What to do with a node whose dependencies have all ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    Run(Resolved),
    Skip(String),
    /// An input is not what the step can take: only known now.
    Refuse(String),
}

/// What a node with `for_each` comes down to at some moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expansion {
    Items(Vec<Item>),
    /// Its list comes from a node that has not ended.
    Unknown,
    Skip(String),
    Refuse(String),
}

/// What is known of the ends of nodes.
pub(crate) trait Outcomes {
    /// Whether what `reference` is about was skipped.
    fn is_skipped(&self, reference: &Reference) -> bool;

    /// The output at `path`, of which the first segment is a node.
    fn output(&self, path: &[String]) -> Lookup<'_>;
}

/// Nothing has ended yet.
pub(crate) struct NothingYet;

impl Outcomes for NothingYet {
    fn is_skipped(&self, _: &Reference) -> bool {
        false
    }

    fn output(&self, _: &[String]) -> Lookup<'_> {
        Lookup::Unknown
    }
}

impl Checked {
    /// The items of a node with `for_each`, as far as they are known.
    pub(crate) fn expand(&self, node: &Node, outcomes: &dyn Outcomes) -> Expansion {
        let Some(for_each) = &node.for_each else { return Expansion::Items(Vec::new()) };
        if let Some(reason) = skip_reason(node, outcomes) {
            return Expansion::Skip(reason);
        }
        // A condition that looks at `each` is asked for each item; those of the sub-workflows that the node
        // is in never do, and are asked before there are any items.
        let own = node.when.iter().filter(|_| !node.asks_each());
        let asked: Vec<&Condition> = node.guards.iter().chain(own).collect();
        match self.condition(&asked, outcomes, None) {
            Ok(None) => {}
            Ok(Some(reason)) => return Expansion::Skip(reason),
            Err(_) if waits(&asked, outcomes) => return Expansion::Unknown,
            Err(why) => return Expansion::Refuse(why),
        }
        self.items(for_each, outcomes)
    }

    /// The items of a list, whether its node is skipped or not.
    pub(crate) fn items(&self, for_each: &ForEach, outcomes: &dyn Outcomes) -> Expansion {
        let list = for_each.list.resolve(&|reference| self.lookup(reference, outcomes, None));
        let list = match list {
            Ok(list) if schema::has_unknown(&list) => return Expansion::Unknown,
            Ok(list) => list,
            Err(error) => return Expansion::Refuse(error.to_string()),
        };
        match each::items(&list, for_each.key.as_ref()) {
            Ok(items) => Expansion::Items(items),
            Err(error) => Expansion::Refuse(error.to_string()),
        }
    }

    /// Decides about `node`, or one item of it, with the outputs of the nodes that have ended.
    pub(crate) fn decide(
        &self,
        catalog: &Catalog,
        node: &Node,
        outcomes: &dyn Outcomes,
        each: Option<Each<'_>>,
    ) -> Decision {
        if let Some(reason) = skip_reason(node, outcomes) {
            return Decision::Skip(reason);
        }
        let asked: Vec<&Condition> = match each {
            None => node.conditions().collect(),
            Some(_) => node.when.iter().filter(|_| node.asks_each()).collect(),
        };
        match self.condition(&asked, outcomes, each) {
            Ok(None) => {}
            Ok(Some(reason)) => return Decision::Skip(reason),
            Err(why) => return Decision::Refuse(why),
        }
        let Some(described) = catalog.get(&node.step) else {
            return Decision::Refuse(format!("there is no step `{}`", node.step));
        };
        let config = match self.config(node, outcomes, each) {
            Ok(config) => config,
            Err(why) => return Decision::Refuse(why),
        };
        if let Some(complaint) =
            schema::complaints(&described.validator, &described.info.config_schema, &config)
                .into_iter()
                .next()
        {
            let field = dotted(&complaint.path);
            let owner = if field.is_empty() { "`with`".to_owned() } else { format!("`with.{field}`") };
            return Decision::Refuse(match complaint.fault {
                Fault::UnknownField { name, .. } => format!("{owner} has the unknown field `{name}`"),
                Fault::MissingField { name } => format!("{owner} needs the field `{name}`"),
                Fault::Secret => format!("{owner} is {}", no_reference()),
                Fault::Other(text) => format!("{owner} {text}"),
            });
        }
        Decision::Run(resolved(config, &node.step, &described.info.version, self.wording(node, each)))
    }

    /// Why one of the conditions `asked` is not met.
    fn condition(
        &self,
        asked: &[&Condition],
        outcomes: &dyn Outcomes,
        each: Option<Each<'_>>,
    ) -> Result<Option<String>, String> {
        for when in asked {
            let mut outputs = Map::new();
            for reference in when.references.iter().filter(|reference| node_of(reference).is_some()) {
                let name = &reference.path[0];
                if let Lookup::Known(value) = outcomes.output(std::slice::from_ref(name)) {
                    outputs.insert(name.clone(), value.into_owned());
                }
            }
            let mut scope = scope(when, &self.params, Some(&self.environment.value), outputs);
            when.bind(&mut scope, &|reference| self.lookup(reference, outcomes, each));
            if let Some(each) = each {
                let each = json!({ "key": each.key, "value": each.value, "index": each.index });
                scope.insert("each".to_owned(), each);
            }
            match when.evaluate(&scope) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(condition_is_false(&when.text))),
                Err(why) => return Err(format!("`when` can't be decided: {why}")),
            }
        }
        Ok(None)
    }

    /// The config of `node`, or of one item of it, with marks where something is not known, or stands for nothing.
    pub(crate) fn marked_config(
        &self,
        node: &Node,
        outcomes: &dyn Outcomes,
        each: Option<Each<'_>>,
    ) -> Value {
        node.with.resolve_all(&|reference| self.lookup(reference, outcomes, each), &mut Vec::new())
    }

    /// The config of `node`, or of one item of it, with marks where something is not known yet.
    pub(crate) fn config(
        &self,
        node: &Node,
        outcomes: &dyn Outcomes,
        each: Option<Each<'_>>,
    ) -> Result<Value, String> {
        node.with
            .resolve(&|reference| self.lookup(reference, outcomes, each))
            .map_err(|error| error.to_string())
    }

    pub(super) fn lookup<'a>(
        &'a self,
        reference: &Reference,
        outcomes: &'a dyn Outcomes,
        each: Option<Each<'a>>,
    ) -> Lookup<'a> {
        match (reference.root, each) {
            (Root::Each, Some(each)) => each.lookup(reference),
            _ => lookup(reference, &self.params, Some(&self.environment.value), outcomes),
        }
    }
}

fn skip_reason(node: &Node, outcomes: &dyn Outcomes) -> Option<String> {
    let gone = node.references().find(|reference| outcomes.is_skipped(reference))?;
    node_of(gone).map(|id| refers_to_skipped(&id))
}

/// Whether one of the conditions looks at something that has not ended.
fn waits(asked: &[&Condition], outcomes: &dyn Outcomes) -> bool {
    let open = |reference: &Reference| {
        reference.root == Root::Nodes && matches!(outcomes.output(&reference.path), Lookup::Unknown)
    };
    asked.iter().flat_map(|when| &when.references).any(open)
}

/// A config with what its digest stands for.
pub(crate) fn resolved(config: Value, step: &str, version: &str, wording: Wording) -> Resolved {
    let digest = Digest::of(&json!({ "step": step, "version": version, "with": config }));
    Resolved { config, step_version: version.to_owned(), digest, wording }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_keys_does_not_count_and_everything_else_does() {
        let digest =
            |config: Value, step, version| resolved(config, step, version, Wording::default()).digest;
        let a = digest(json!({ "x": 1, "y": [1, 2] }), "s", "1");
        assert_eq!(a, digest(json!({ "y": [1, 2], "x": 1 }), "s", "1"));
        for other in [
            digest(json!({ "x": 1, "y": [2, 1] }), "s", "1"),
            digest(json!({ "x": "1", "y": [1, 2] }), "s", "1"),
            digest(json!({ "x": 1, "y": [1, 2] }), "s", "2"),
            digest(json!({ "x": 1, "y": [1, 2] }), "t", "1"),
        ] {
            assert_ne!(a, other);
        }
    }
}
