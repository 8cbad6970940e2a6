//! JSON Schemas (draft 2020-12) of the files that people write, for their editors.
//!
//! Made from what the checker uses: the lists of fields, the limits and the steps' own schemas. A
//! schema says less than the checker (nothing of references that lead nowhere), and never more:
//! what the checker accepts is valid here. Where a typed value is asked for, a reference may stand.

use serde_json::{Map, Value, json};

use super::Catalog;
use super::model::Workflow;
use super::parse::{
    MAX_ATTEMPTS, MAX_POOL, NODE_FIELDS, PARAM_FIELDS, PARAM_TYPES, RETRY_FIELDS, WORKFLOW_FIELDS,
};
use super::schema::{Child, child};
use super::template::{Root, Template, TemplateKind};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Names of nodes: see `NodeId`.
const NODE_NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// See [`duration`](super::duration).
const DURATION: &str = "^\\s*([0-9]+(ms|s|m|h|d))+\\s*$";

/// Exactly one reference: takes the type of what it refers to.
const REFERENCE: &str = "^\\$\\{[^{}]+\\}$";

/// A text with a reference in it.
const TEXT: &str = "\\$\\{[^{}]+\\}";

/// The schema of workflow files for these steps.
pub(crate) fn workflow(catalog: &Catalog) -> Value {
    let mut defs = Map::from_iter([
        (
            "reference".to_owned(),
            json!({ "type": "string", "pattern": REFERENCE, "description": "A reference: `${params.NAME}`, `${env.PATH}` or `${nodes.NODE.OUTPUT}`." }),
        ),
        (
            "text".to_owned(),
            json!({ "type": "string", "pattern": TEXT, "description": "A text with a reference in it." }),
        ),
    ]);
    let mut choices = Vec::new();
    for (name, described) in catalog {
        let schema = &described.info.config_schema;
        defs.insert(name.clone(), Embed { step: name, references: true }.schema(schema));
        let needs_with = schema["required"].as_array().is_some_and(|fields| !fields.is_empty());
        let required = if needs_with { json!(["with"]) } else { json!([]) };
        choices.push(json!({
            "if": { "properties": { "step": { "const": name } }, "required": ["step"] },
            "then": {
                "properties": { "with": { "$ref": pointer(name) } },
                "required": required,
            },
        }));
    }
    let mut node = table(&NODE_FIELDS, &["step"], |field| node_field(field, catalog));
    node["allOf"] = Value::Array(choices);
    let mut whole = table(&WORKFLOW_FIELDS, &["schema", "name", "nodes"], |field| match field {
        "schema" => json!({ "const": 1, "description": "The form of this file." }),
        "name" => json!({ "type": "string", "description": "What runs of it are called." }),
        "description" => json!({ "type": "string" }),
        "params" => json!({
            "type": "object",
            "description": "What is given for a run, with `--param NAME=VALUE` or from a file.",
            "additionalProperties": table(&PARAM_FIELDS, &["type"], param_field),
        }),
        "pools" => json!({
            "type": "object",
            "description": "How many nodes of each pool may be at work at once.",
            "additionalProperties": { "type": "integer", "minimum": 1, "maximum": MAX_POOL },
        }),
        "nodes" => json!({
            "type": "object",
            "description": "What is done. A reference to another node's outputs waits for it.",
            "propertyNames": { "pattern": NODE_NAME },
            "additionalProperties": node,
            "minProperties": 1,
        }),
        "outputs" => {
            json!({ "type": "object", "description": "What a workflow that this one is part of may refer to." })
        }
        _ => json!(true),
    });
    whole["$schema"] = DIALECT.into();
    whole["title"] = "A workflow of migrate".into();
    whole["$defs"] = Value::Object(defs);
    whole
}

fn node_field(field: &str, catalog: &Catalog) -> Value {
    match field {
        "step" => json!({
            "type": "string",
            "description": "The kind of work; `migrate steps` lists them.",
            "enum": catalog.keys().map(String::as_str).chain([super::expand::STEP]).collect::<Vec<_>>(),
        }),
        "with" => json!({ "type": "object", "description": "The step's config; see `migrate steps STEP`." }),
        "needs" => json!({
            "type": "array",
            "description": "Nodes to wait for, beside those that are referred to.",
            "items": { "type": "string", "pattern": NODE_NAME },
            "uniqueItems": true,
        }),
        "when" => {
            json!({ "type": "string", "description": "A condition in CEL; the node is skipped when it is false." })
        }
        "for_each" => {
            json!({ "description": "A list or a table, or a reference to one: the node is run for each item." })
        }
        "key" => json!({ "type": "string", "description": "What names an item of `for_each`." }),
        "max_parallel" => json!({
            "type": "integer", "minimum": 1, "maximum": MAX_POOL,
            "description": "Most items of `for_each` at work at once.",
        }),
        "timeout" => json!({
            "type": "string", "pattern": DURATION,
            "description": "The longest that the node may take: `90s`, `6h`, `1h30m`.",
        }),
        "retry" => table(&RETRY_FIELDS, &[], |field| match field {
            "attempts" => json!({ "type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS }),
            _ => json!({ "type": "string", "pattern": DURATION }),
        }),
        "heartbeat" => json!({
            "type": "string", "pattern": DURATION,
            "description": "The longest silence of an attempt.",
        }),
        "pool" => json!({
            "description": "The pool whose size bounds it, and how many of its places it takes.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "name": { "type": "string" },
                        "weight": { "type": "integer", "minimum": 1, "maximum": MAX_POOL },
                    },
                    "required": ["name"],
                    "additionalProperties": false,
                },
            ],
        }),
        "on_failure" => json!({
            "enum": ["stop", "continue", "undo"],
            "description": "What its failure means for the rest.",
        }),
        _ => json!(true),
    }
}

fn param_field(field: &str) -> Value {
    match field {
        "type" => json!({ "enum": PARAM_TYPES.map(|(name, _)| name) }),
        "help" => json!({ "type": "string", "description": "Shown where a value is missing." }),
        "enum" => json!({ "type": "array", "description": "The values that are allowed." }),
        "sensitive" => json!({
            "type": "boolean",
            "description": "The value is a reference to a secret (`env:NAME`, `file:PATH`, `exec:COMMAND`, `keyvault:VAULT/NAME`), never the secret itself.",
        }),
        "default" => json!({ "description": "The value where none is given." }),
        _ => json!(true),
    }
}

fn table(fields: &[&str], required: &[&str], mut schema: impl FnMut(&str) -> Value) -> Value {
    let properties: Map<_, _> = fields.iter().map(|field| ((*field).to_owned(), schema(field))).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of `migration.toml`, as far as these workflows refer to it.
pub(crate) fn environment<'a>(catalog: &Catalog, workflows: impl IntoIterator<Item = &'a Workflow>) -> Value {
    let mut tree = Place::default();
    let mut defs = Map::new();
    for node in workflows.into_iter().flat_map(|workflow| &workflow.nodes) {
        let Some(described) = catalog.get(&node.step) else { continue };
        let root = &described.info.config_schema;
        let mut found = Vec::new();
        uses(root, &node.with, &[root], &mut found);
        let embed = Embed { step: &node.step, references: false };
        for (path, schemas) in found {
            let schemas = schemas.into_iter().map(|schema| embed.schema(schema));
            tree.at(&path).add(schemas);
            defs.insert(node.step.clone(), embed.schema(root));
        }
    }
    let mut whole = tree.schema();
    whole["$schema"] = DIALECT.into();
    whole["title"] = "A migration.toml of migrate".into();
    whole["properties"]["schema"] = json!({ "const": 1, "description": "The form of this file." });
    for (name, schema) in own_tables() {
        whole["properties"][name] = schema;
    }
    whole["required"] = json!(["schema"]);
    whole["$defs"] = Value::Object(defs);
    whole
}

/// What stands in `migration.toml` for the program and not for a workflow.
pub(crate) fn own_tables() -> [(&'static str, Value); 3] {
    [("store", store()), ("plugins", plugins()), ("rules", rules())]
}

/// `[plugins.NAME]`, which the host of the plugins reads.
fn plugins() -> Value {
    let plugin = table(&["path", "sha256", "env", "memory_mib"], &["path"], |field| match field {
        "path" => {
            json!({ "type": "string", "description": "The program; starts in the folder of this file." })
        }
        "sha256" => json!({
            "type": "string", "pattern": "^[0-9A-Fa-f]{64}$",
            "description": "The digest that the program must have.",
        }),
        "env" => json!({
            "type": "array", "items": { "type": "string" },
            "description": "Variables of the environment that it gets beyond the usual ones.",
        }),
        _ => json!({
            "type": "integer", "minimum": 0,
            "description": "Most data that one of its processes may have, in MiB.",
        }),
    });
    json!({
        "type": "object",
        "description": "Step plugins, by the name of their step.",
        "additionalProperties": plugin,
    })
}

/// `rules`, which `assess` and `rewrite` read.
fn rules() -> Value {
    json!({
        "type": "array", "items": { "type": "string" },
        "description": "Files with rules of one's own; they start in the folder of this file.",
    })
}

/// `[store]`, which the engine reads itself; see `store/settings.rs`.
fn store() -> Value {
    let mut schema = table(&["url", "project"], &["url", "project"], |field| match field {
        "url" => json!({
            "type": "string",
            "description": "A reference to the URL of a PostgreSQL database, `env:NAME`: it holds a password.",
            "pattern": "^[a-z]+:.+",
        }),
        _ => json!({
            "type": "string",
            "description": "Keeps projects in one database apart.",
            "minLength": 1,
        }),
    });
    schema["description"] = "Where facts are kept, if not in the project folder.".into();
    schema
}

/// Where a template refers to the environment, and what is asked for there.
fn uses<'s>(
    root: &'s Value,
    template: &Template,
    schemas: &[&'s Value],
    found: &mut Vec<(Vec<String>, Vec<&'s Value>)>,
) {
    let mut into = |key: &str, value: &Template| {
        if let Child::Schemas(inner) = child(root, schemas, key) {
            uses(root, value, &inner, found);
        }
    };
    match &template.kind {
        TemplateKind::Map(entries) => entries.iter().for_each(|(key, _, value)| into(key, value)),
        TemplateKind::List(items) => {
            items.iter().enumerate().for_each(|(at, item)| into(&at.to_string(), item));
        }
        TemplateKind::Reference(reference) if reference.root == Root::Env => {
            found.push((reference.path.clone(), schemas.to_vec()));
        }
        _ => {}
    }
}

/// A place in the environment: what is asked for there, and what is known below it.
#[derive(Default)]
struct Place {
    asked: Vec<Value>,
    below: Vec<(String, Place)>,
}

impl Place {
    fn at(&mut self, path: &[String]) -> &mut Self {
        path.iter().fold(self, |place, segment| {
            let at = place.below.iter().position(|(name, _)| name == segment);
            let at = at.unwrap_or_else(|| {
                place.below.push((segment.clone(), Place::default()));
                place.below.len() - 1
            });
            &mut place.below[at].1
        })
    }

    fn add(&mut self, schemas: impl Iterator<Item = Value>) {
        let mut choices: Vec<Value> = schemas.collect();
        let asked = if choices.len() == 1 { choices.remove(0) } else { json!({ "anyOf": choices }) };
        if !self.asked.contains(&asked) {
            self.asked.push(asked);
        }
    }

    fn schema(self) -> Value {
        let mut schema = json!({ "type": "object" });
        let below: Map<_, _> = self.below.into_iter().map(|(name, place)| (name, place.schema())).collect();
        if below.is_empty() && !self.asked.is_empty() {
            schema = json!({});
        }
        schema["properties"] = Value::Object(below);
        if !self.asked.is_empty() {
            schema["allOf"] = Value::Array(self.asked);
        }
        schema
    }
}

fn pointer(step: &str) -> String {
    format!("#/$defs/{}", step.replace('~', "~0").replace('/', "~1"))
}

/// Copies a step's schema into a larger one.
struct Embed<'a> {
    step: &'a str,
    /// Whether references may stand for values.
    references: bool,
}

impl Embed<'_> {
    fn schema(&self, schema: &Value) -> Value {
        let Value::Object(keywords) = schema else { return schema.clone() };
        let mut copy = Map::new();
        for (keyword, value) in keywords {
            let (keyword, value) = match (keyword.as_str(), value) {
                ("$schema", _) => continue,
                ("$ref", Value::String(to)) => {
                    let inner = to.strip_prefix('#').map(|inner| format!("{}{inner}", pointer(self.step)));
                    (keyword.as_str(), Value::from(inner.unwrap_or_else(|| to.clone())))
                }
                ("properties" | "patternProperties", Value::Object(all)) => {
                    let all = all.iter().map(|(name, inner)| (name.clone(), self.value(inner)));
                    (keyword.as_str(), Value::Object(all.collect()))
                }
                ("$defs" | "definitions", Value::Object(all)) => {
                    let all = all.iter().map(|(name, inner)| (name.clone(), self.schema(inner)));
                    (keyword.as_str(), Value::Object(all.collect()))
                }
                ("items" | "additionalProperties", inner @ Value::Object(_)) => {
                    (keyword.as_str(), self.value(inner))
                }
                // With references, more than one choice can fit.
                ("oneOf", Value::Array(all)) if self.references => {
                    ("anyOf", all.iter().map(|inner| self.schema(inner)).collect())
                }
                ("oneOf" | "anyOf" | "allOf" | "prefixItems", Value::Array(all)) => {
                    (keyword.as_str(), all.iter().map(|inner| self.schema(inner)).collect())
                }
                (_, value) => (keyword.as_str(), value.clone()),
            };
            copy.insert(keyword.to_owned(), value);
        }
        Value::Object(copy)
    }

    /// A place where a reference may stand instead.
    fn value(&self, schema: &Value) -> Value {
        let plain = self.schema(schema);
        let is_text = plain["type"] == "string";
        let restricted = ["pattern", "format", "enum", "const", "minLength", "maxLength"]
            .iter()
            .any(|keyword| plain.get(keyword).is_some());
        if !self.references || plain == json!(true) || (is_text && !restricted) {
            return plain;
        }
        let description = plain.get("description").cloned();
        // A string behind `$ref` or a choice may be restricted in a way that is not seen here.
        let mut choice =
            json!({ "anyOf": [plain, { "$ref": "#/$defs/reference" }, { "$ref": "#/$defs/text" }] });
        if ["integer", "number", "boolean", "array", "object"]
            .iter()
            .any(|kind| choice["anyOf"][0]["type"] == *kind)
        {
            choice["anyOf"].as_array_mut().into_iter().for_each(|all| all.truncate(2));
        }
        if let Some(description) = description {
            choice["description"] = description;
        }
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_the_checker_knows_is_described() {
        let catalog = Catalog::new();
        for field in NODE_FIELDS {
            assert_ne!(node_field(field, &catalog), json!(true), "{field}");
        }
        for field in PARAM_FIELDS {
            assert_ne!(param_field(field), json!(true), "{field}");
        }
        let whole = workflow(&catalog);
        for field in WORKFLOW_FIELDS {
            assert_ne!(whole["properties"][field], json!(true), "{field}");
        }
    }
}
