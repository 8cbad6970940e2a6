//! A step with its fields and outputs, from its JSON Schemas, as text for people.

use migrate_plugin_api::StepInfo;
use serde_json::Value;

use crate::table::Table;

/// Deepest field that is shown: deeper ones are in `--json`, and schemas can hold themselves.
const MAX_DEPTH: usize = 4;

/// A step with its fields and outputs.
pub fn step(info: &StepInfo) -> String {
    let mut text = format!("{}: {}\n\nwith:\n", info.name, info.summary);
    text.push_str(&fields(&info.config_schema));
    text.push_str("\noutputs:\n");
    text.push_str(&fields(&info.output_schema));
    text
}

/// Where the steps of the engine itself are told about: they are part of the form of workflows.
pub fn more(name: &str) -> Option<&'static str> {
    match name {
        "workflow" => Some("workflow: another file's nodes in the place of one; see docs/workflow.md"),
        "gate" => Some("see docs/workflow.md for gates, and `migrate approve --help` for deciding about one"),
        _ => None,
    }
}

fn fields(schema: &Value) -> String {
    let mut table = Table::new(["  FIELD", "TYPE", "", "WHAT"]);
    rows(schema, schema, 0, &mut table);
    table.to_string()
}

fn rows(root: &Value, schema: &Value, depth: usize, table: &mut Table) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let plain = followed(root, field);
        let own = field["description"].as_str().or_else(|| plain["description"].as_str());
        table.row([
            format!("{}{name}", "  ".repeat(depth + 1)),
            type_of(root, field),
            if required.contains(&name.as_str()) { "required".to_owned() } else { String::new() },
            paragraph(own.unwrap_or_default()),
        ]);
        if depth + 1 < MAX_DEPTH {
            let items = followed(root, &plain["items"]);
            let inner = if plain["type"] == "array" { items } else { plain };
            rows(root, inner, depth + 1, table);
        }
    }
}

/// The first paragraph, on one line.
fn paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// The schema that `schema` comes down to: references followed, `null` left out.
fn followed<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let choice = schema["anyOf"].as_array().into_iter().flatten().find(|choice| choice["type"] != "null");
        let target = schema["$ref"].as_str().and_then(|r| root.pointer(r.strip_prefix('#')?));
        match target.or(choice) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The type of a field in a word or two.
fn type_of(root: &Value, field: &Value) -> String {
    let plain = followed(root, field);
    if let Some(values) = choices(plain) {
        return values.join(" | ");
    }
    match &plain["type"] {
        Value::String(name) => spelled(root, name, plain),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(|name| spelled(root, name, plain)).collect::<Vec<_>>().join(" or ")
        }
        _ if plain["oneOf"].is_array() => "table".to_owned(),
        _ => "any".to_owned(),
    }
}

fn spelled(root: &Value, name: &str, schema: &Value) -> String {
    match name {
        "array" if schema["items"].is_object() => format!("list of {}", type_of(root, &schema["items"])),
        "array" => "list".to_owned(),
        "object" => "table".to_owned(),
        other => other.to_owned(),
    }
}

/// The values that are allowed, where they are few and known.
fn choices(schema: &Value) -> Option<Vec<String>> {
    let quoted = |value: &Value| value.to_string();
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().filter(|value| !value.is_null()).map(quoted).collect());
    }
    let values: Option<Vec<&Value>> =
        schema["oneOf"].as_array()?.iter().map(|choice| choice.get("const")).collect();
    Some(values?.into_iter().map(quoted).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_shown_whole_with_what_they_may_be_and_what_is_in_them() {
        let schema = json!({
            "required": ["cluster", "order"],
            "properties": {
                "cluster": { "$ref": "#/$defs/Cluster", "description": "Where to,\nin so many words.\n\nMore." },
                "order": { "description": "How.", "enum": ["plain", "velero"] },
                "mode": { "anyOf": [{ "$ref": "#/$defs/Mode" }, { "type": "null" }] },
                "names": { "type": "array", "items": { "type": "string" }, "description": "Names." },
                "rules": { "type": ["array", "null"], "items": { "$ref": "#/$defs/Cluster" } },
                "count": { "type": ["integer", "null"], "description": "How many." },
            },
            "$defs": {
                "Cluster": {
                    "type": "object", "description": "A cluster.", "required": ["context"],
                    "properties": { "context": { "type": "string", "description": "Its context." } },
                },
                "Mode": { "description": "A mode.", "oneOf": [{ "const": "a" }, { "const": "b" }] },
            },
        });
        insta::assert_snapshot!(fields(&schema), @r#"
          FIELD      TYPE                          WHAT
          cluster    table               required  Where to, in so many words.
            context  string              required  Its context.
          order      "plain" | "velero"  required  How.
          mode       "a" | "b"                     A mode.
          names      list of string                Names.
          rules      list of table
          count      integer                       How many.
        "#);
    }
}
