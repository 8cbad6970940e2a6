//! What a node comes down to at some moment of a run: run it with this config, or skip it.
//!
//! Pure: the same workflow, environment, parameters and outputs always give the same [`Digest`].

use std::fmt;

use aws_lc_rs::digest;
use migrate_plugin_api::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::check::{condition_is_false, lookup, refers_to_skipped, scope};
use super::model::Node;
use super::schema::{self, Fault};
use super::template::{Lookup, node_of};
use super::{Catalog, Checked, dotted};

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
}

/// What to do with a node whose dependencies have all ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    Run(Resolved),
    Skip(String),
    /// An input is not what the step can take: only known now.
    Refuse(String),
}

/// What is known of another node's end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended<'a> {
    Outputs(&'a Value),
    Skipped,
    /// Not yet.
    Open,
}

impl Checked {
    /// Decides about `node` with the outputs of the nodes that have ended.
    pub(crate) fn decide<'a>(
        &'a self,
        catalog: &Catalog,
        node: &Node,
        ended: &dyn Fn(&NodeId) -> Ended<'a>,
    ) -> Decision {
        let condition = node.when.iter().flat_map(|when| &when.references);
        for reference in node.with.references().into_iter().chain(condition) {
            if let Some(id) = node_of(reference).filter(|id| matches!(ended(id), Ended::Skipped)) {
                return Decision::Skip(refers_to_skipped(&id));
            }
        }
        if let Some(when) = &node.when {
            let outputs = when.references.iter().filter_map(|reference| {
                let id = node_of(reference)?;
                match ended(&id) {
                    Ended::Outputs(value) => Some((id.to_string(), value.clone())),
                    _ => None,
                }
            });
            let scope = scope(&self.params, Some(&self.environment.value), outputs.collect::<Map<_, _>>());
            match when.evaluate(&scope) {
                Ok(true) => {}
                Ok(false) => return Decision::Skip(condition_is_false(&when.text)),
                Err(why) => return Decision::Refuse(format!("`when` can't be decided: {why}")),
            }
        }
        let Some(described) = catalog.get(&node.step) else {
            return Decision::Refuse(format!("there is no step `{}`", node.step));
        };
        let config = match self.config(node, ended) {
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
                Fault::Other(text) => format!("{owner} {text}"),
            });
        }
        Decision::Run(resolved(config, &node.step, &described.info.version))
    }

    /// The config of `node` with marks where an output is not known yet.
    pub(crate) fn config<'a>(
        &'a self,
        node: &Node,
        ended: &dyn Fn(&NodeId) -> Ended<'a>,
    ) -> Result<Value, String> {
        let outputs = |id: &NodeId| match ended(id) {
            Ended::Outputs(value) => Some(value),
            _ => None,
        };
        node.with
            .resolve(&|reference| -> Lookup<'a> {
                lookup(reference, &self.params, Some(&self.environment.value), &outputs)
            })
            .map_err(|error| error.to_string())
    }
}

/// A config with what its digest stands for.
pub(crate) fn resolved(config: Value, step: &str, version: &str) -> Resolved {
    let digest = Digest::of(&json!({ "step": step, "version": version, "with": config }));
    Resolved { config, step_version: version.to_owned(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_keys_does_not_count_and_everything_else_does() {
        let a = resolved(json!({ "x": 1, "y": [1, 2] }), "s", "1").digest;
        assert_eq!(a, resolved(json!({ "y": [1, 2], "x": 1 }), "s", "1").digest);
        for other in [
            resolved(json!({ "x": 1, "y": [2, 1] }), "s", "1"),
            resolved(json!({ "x": "1", "y": [1, 2] }), "s", "1"),
            resolved(json!({ "x": 1, "y": [1, 2] }), "s", "2"),
            resolved(json!({ "x": 1, "y": [1, 2] }), "t", "1"),
        ] {
            assert_ne!(a, other.digest);
        }
    }
}
