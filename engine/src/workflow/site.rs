//! Fields that `migration.toml` fills where a node leaves them out, because its step says so: the rules of a team, which
//! hold for every node that names none. What is filled in is a reference, as if it stood in the node: it is checked and
//! digested as any other, and a change of it is told.

use migrate_plugin_api::SITE_KEYWORD;
use serde_json::Value;

use super::Catalog;
use super::environment::Environment;
use super::model::Workflow;
use super::template::{Reference, Root, TemplateKind};

/// Refers to what `environment` has for fields that nodes leave out.
pub(super) fn fill(workflow: &mut Workflow, catalog: &Catalog, environment: &Environment) {
    for node in &mut workflow.nodes {
        let Some(described) = catalog.get(&node.step) else { continue };
        let span = node.with.span.clone();
        let TemplateKind::Map(fields) = &mut node.with.kind else { continue };
        for (field, entry) in filled(&described.info.config_schema) {
            let is_given = fields.iter().any(|(name, _, _)| name == field);
            if is_given || environment.value.get(entry).is_none() {
                continue;
            }
            let path = vec![entry.to_owned()];
            let reference = Reference { root: Root::Env, path, span: span.clone(), is_passed: false };
            let value = (span.clone(), TemplateKind::Reference(reference)).into();
            fields.push((field.to_owned(), span.clone(), value));
        }
    }
}

/// Fields with what stands for them in `migration.toml`.
fn filled(schema: &Value) -> impl Iterator<Item = (&str, &str)> {
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(field, schema)| Some((field.as_str(), schema.get(SITE_KEYWORD)?.as_str()?)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use migrate_plugin_api::{Idempotency, StepInfo};
    use serde_json::json;

    use super::super::resolve::NothingYet;
    use super::super::{Described, Diagnostics, Library, Params, Source, check};
    use super::*;

    fn catalog() -> Catalog {
        let info = StepInfo {
            name: "s".to_owned(),
            version: "1".to_owned(),
            summary: String::new(),
            config_schema: json!({ "properties": {
                "from": { "type": "string" },
                "rules": { "type": "array", "items": { "type": "string" }, SITE_KEYWORD: "rules" },
            }, "additionalProperties": false }),
            output_schema: json!({}),
            sensitive: Vec::new(),
            idempotency: Idempotency::Natural,
            supports_undo: false,
        };
        let validator = jsonschema::validator_for(&info.config_schema).unwrap();
        BTreeMap::from([("s".to_owned(), Described { info, validator, keeps_cursor: false, unusable: None })])
    }

    /// The config of a node with `with`, beside a `migration.toml` with `site`.
    fn config(with: &str, site: &str) -> Result<Value, Diagnostics> {
        let workflow = format!("schema = 1\nname = \"w\"\n[nodes.n]\nstep = \"s\"\n{with}\n");
        let (workflow, site) = (Source::new("w.toml", workflow), format!("schema = 1\n{site}\n"));
        let site = Source::new("migration.toml", site);
        let checked = check(&catalog(), &Library::default(), &workflow, &site, &Params::new())?;
        Ok(checked.config(&checked.workflow.nodes[0], &NothingYet, None).unwrap())
    }

    #[test]
    fn what_a_node_leaves_out_comes_from_the_site_where_its_step_says_so() {
        let rules = "rules = [\"ours.toml\"]";
        assert_eq!(config("", rules).unwrap(), json!({ "rules": ["ours.toml"] }));
        let with = "with = { from = \"a\" }";
        assert_eq!(config(with, rules).unwrap(), json!({ "from": "a", "rules": ["ours.toml"] }));
        assert_eq!(config(with, "from = \"b\"").unwrap(), json!({ "from": "a" }));
        assert_eq!(config("", "from = \"b\"").unwrap(), json!({}));
        for own in ["[]", "[\"mine.toml\"]"] {
            let with = format!("with = {{ rules = {own} }}");
            assert_eq!(config(&with, rules).unwrap().to_string(), format!("{{\"rules\":{own}}}"));
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_told_where_it_stands() {
        let wrong = config("", "rules = [3]").unwrap_err();
        let told: Vec<String> = wrong.mistakes().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["`rules[0]` is an integer, but must be a string"]);
    }
}
