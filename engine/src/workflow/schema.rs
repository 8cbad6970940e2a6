//! JSON Schemas of steps: what they say about a value, and where.
//!
//! Two halves. The walker answers "what may stand at this path", for references to outputs. The
//! validator finds what is wrong with a config in which some inputs are still unknown: a complaint
//! that an unknown value is the reason of is none.

use std::collections::BTreeSet;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use migrate_plugin_api::{InvalidSecretRef, SECRET_FORMAT, SecretRef, UNKNOWN_KEY};
use serde_json::Value;

use super::diagnostic::nearest;
use super::template::json_type;

/// Deepest chain of `$ref` and `anyOf` that is followed. Schemas can be recursive.
const MAX_DEPTH: usize = 24;

/// The pattern by which plugins marked fields for secrets before there was the format.
const OLD_SECRET_PATTERN: &str = "^(env|file):.+";

/// What is known of a child.
pub(crate) enum Child<'a> {
    /// It may be there, and is one of these.
    Schemas(Vec<&'a Value>),
    /// It may be there, and nothing is known of it.
    Open,
    /// It can't be there; these can.
    Absent(Vec<String>),
}

/// The plain schemas that `schema` comes down to, with references and choices followed.
fn plain<'a>(root: &'a Value, schema: &'a Value, depth: usize, found: &mut Vec<&'a Value>) {
    if depth > MAX_DEPTH {
        return;
    }
    let before = found.len();
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'))
        && let Some(target) = root.pointer(pointer)
    {
        plain(root, target, depth + 1, found);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for choice in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            plain(root, choice, depth + 1, found);
        }
    }
    if found.len() == before || schema.get("properties").is_some() {
        found.push(schema);
    }
}

/// What may stand at `segment` of a value of any of `schemas`.
pub(crate) fn child<'a>(root: &'a Value, schemas: &[&'a Value], segment: &str) -> Child<'a> {
    let mut all = Vec::new();
    schemas.iter().for_each(|schema| plain(root, schema, 0, &mut all));
    let (mut found, mut known, mut open) = (Vec::new(), Vec::new(), false);
    for schema in all {
        let properties = schema.get("properties").and_then(Value::as_object);
        if let Some(property) = properties.and_then(|p| p.get(segment)) {
            found.push(property);
            continue;
        }
        known.extend(properties.into_iter().flat_map(|p| p.keys().cloned()));
        match schema.get("additionalProperties") {
            Some(more @ Value::Object(_)) => found.push(more),
            Some(Value::Bool(true)) => open = true,
            _ => {}
        }
        match schema.get("items") {
            Some(items @ Value::Object(_)) if segment.parse::<usize>().is_ok() => found.push(items),
            _ => {}
        }
        // Nothing is said about its shape at all.
        open |= properties.is_none() && schema.get("type").is_none() && schema.get("enum").is_none();
    }
    match (found.is_empty(), open) {
        (false, _) => Child::Schemas(found),
        (true, true) => Child::Open,
        (true, false) => Child::Absent(known),
    }
}

/// The JSON types that a value of `schemas` can have; `None` when that isn't said.
pub(crate) fn types<'a>(root: &'a Value, schemas: &[&'a Value]) -> Option<BTreeSet<&'a str>> {
    let mut all = Vec::new();
    schemas.iter().for_each(|schema| plain(root, schema, 0, &mut all));
    let mut types = BTreeSet::new();
    for schema in all {
        match (schema.get("type"), schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
            (Some(Value::String(name)), _, _) => {
                types.insert(name.as_str());
            }
            (Some(Value::Array(names)), _, _) => types.extend(names.iter().filter_map(Value::as_str)),
            (None, Some(value), _) => {
                types.insert(schema_type(value));
            }
            (None, None, Some(values)) => {
                types.extend(values.iter().map(|value| -> &'a str { schema_type(value) }))
            }
            _ => return None,
        }
    }
    Some(types)
}

/// Whether a reference to a secret may stand where `schemas` are asked for: one of them says so, or
/// nothing is said at all.
pub(crate) fn takes_secrets<'a>(root: &'a Value, schemas: &[&'a Value]) -> bool {
    let mut all = Vec::new();
    schemas.iter().for_each(|schema| plain(root, schema, 0, &mut all));
    let says = |schema: &Value, what: &[&str]| what.iter().any(|keyword| schema.get(keyword).is_some());
    all.iter()
        .any(|schema| is_marked(schema) || !says(schema, &["type", "const", "enum", "properties", "pattern"]))
}

/// Whether nothing but a reference to a secret may stand where `schemas` are asked for.
fn takes_only_secrets<'a>(root: &'a Value, schemas: &[&'a Value]) -> bool {
    let mut all = Vec::new();
    schemas.iter().for_each(|schema| plain(root, schema, 0, &mut all));
    let takes_no_text =
        |schema: &Value| schema.get("type").and_then(Value::as_str).is_some_and(|name| name != "string");
    all.iter().any(|schema| is_marked(schema))
        && all.iter().all(|schema| is_marked(schema) || takes_no_text(schema))
}

fn schema_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value of type set `from` can ever be accepted where `to` is asked for.
pub(crate) fn compatible(from: &BTreeSet<&str>, to: &BTreeSet<&str>) -> bool {
    from.iter().any(|name| to.contains(name) || (*name == "integer" && to.contains("number")))
        || (from.contains("number") && to.contains("integer"))
}

/// Types as a person calls them.
pub(crate) fn spell(types: &BTreeSet<&str>) -> String {
    let names = types.iter().filter(|name| **name != "null" || types.len() == 1).map(|name| match *name {
        "array" => "a list",
        "object" => "a table",
        "integer" => "an integer",
        "null" => "nothing",
        "boolean" => "a boolean",
        "number" => "a number",
        _ => "a string",
    });
    names.collect::<Vec<_>>().join(" or ")
}

/// One thing that is wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Where.
    pub path: Vec<String>,
    pub fault: Fault,
}

/// What is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    UnknownField {
        name: String,
        known: Vec<String>,
        /// What was meant may be a field for a secret.
        is_secret: bool,
    },
    MissingField {
        name: String,
    },
    /// What stands there is no reference to a secret: it may be the secret itself.
    Secret,
    /// The end of a sentence about the value.
    Other(String),
}

/// Whether `schema` itself says that it asks for a reference to a secret.
fn is_marked(schema: &Value) -> bool {
    let says = |keyword: &str| schema.get(keyword).and_then(Value::as_str);
    says("format") == Some(SECRET_FORMAT) || says("pattern") == Some(OLD_SECRET_PATTERN)
}

/// Whether `schema` asks for a reference to a secret.
fn is_secret(root: &Value, schema: &Value) -> bool {
    is_marked(schema) || root.pointer("/$defs/SecretRef").is_some_and(|reference| reference == schema)
}

/// Everything that is wrong with `config`, whatever its unknown inputs will be.
pub(crate) fn complaints(validator: &Validator, root: &Value, config: &Value) -> Vec<Complaint> {
    let mut found = Vec::new();
    for error in validator.iter_errors(config) {
        collect(root, config, &error, &mut found);
    }
    pasted(root, &[root], config, &mut Vec::new(), &mut found);
    found.dedup();
    let misspelled: Vec<(Vec<String>, String)> = found.iter().filter_map(meant).collect();
    found.retain(|complaint| match &complaint.fault {
        Fault::MissingField { name } => !misspelled.contains(&(complaint.path.clone(), name.clone())),
        _ => true,
    });
    found
}

/// Whether the unknown field `name` of `schema` was probably meant to be one for a secret.
fn meant_secret(root: &Value, schema: &Value, name: &str, known: &[String]) -> bool {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let takes = |field: &str| match child(root, &[schema], field) {
        Child::Schemas(inner) => takes_only_secrets(root, &inner),
        Child::Open | Child::Absent(_) => false,
    };
    nearest(name, &known).map_or_else(|| known.iter().any(|field| takes(field)), takes)
}

/// The field that an unknown one was probably meant to be, and where: it is not missing too.
fn meant(complaint: &Complaint) -> Option<(Vec<String>, String)> {
    let Fault::UnknownField { name, known, .. } = &complaint.fault else { return None };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Some((complaint.path.clone(), nearest(name, &known)?.to_owned()))
}

/// Whether `value` may be a secret itself. A command that can't be run is a reference still: its step tells
/// what is wrong with it.
fn is_pasted(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    SecretRef::try_from(text.to_owned()) == Err(InvalidSecretRef::Unknown)
}

/// Texts that stand where only a reference to a secret may. The validator takes any: it knows no such format.
fn pasted<'a>(
    root: &'a Value,
    schemas: &[&'a Value],
    value: &Value,
    path: &mut Vec<String>,
    found: &mut Vec<Complaint>,
) {
    let inside: Vec<(String, &Value)> = match value {
        Value::String(_) if takes_only_secrets(root, schemas) && is_pasted(value) => {
            let complaint = Complaint { path: path.clone(), fault: Fault::Secret };
            if !found.contains(&complaint) {
                found.push(complaint);
            }
            return;
        }
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => return,
    };
    for (segment, value) in inside {
        if let Child::Schemas(inner) = child(root, schemas, &segment) {
            path.push(segment);
            pasted(root, &inner, value, path, found);
            path.pop();
        }
    }
}

fn collect(root: &Value, config: &Value, error: &ValidationError<'_>, found: &mut Vec<Complaint>) {
    let path = segments(error.instance_path().as_str());
    if is_unknown_on(config, &path) {
        return;
    }
    let instance = at(config, &path);
    let other = |text: String| Complaint { path: path.clone(), fault: Fault::Other(text) };
    if instance.is_none_or(is_pasted)
        && parent_schema(root, error.schema_path().as_str()).is_some_and(|schema| is_secret(root, schema))
    {
        return found.push(Complaint { path, fault: Fault::Secret });
    }
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let schema = parent_schema(root, error.schema_path().as_str());
            for name in unexpected {
                let known = match schema.map(|schema| child(root, &[schema], name)) {
                    Some(Child::Absent(known)) => known,
                    _ => Vec::new(),
                };
                let is_secret = schema.is_some_and(|schema| meant_secret(root, schema, name, &known));
                let fault = Fault::UnknownField { name: name.clone(), known, is_secret };
                found.push(Complaint { path: path.clone(), fault });
            }
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default().to_owned();
            found.push(Complaint { path, fault: Fault::MissingField { name } });
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            choose(root, config, &path, context, found);
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => BTreeSet::from([one.as_str()]),
                TypeKind::Multiple(many) => many.iter().map(|one| one.as_str()).collect(),
            };
            let is = instance.map_or("nothing", json_type);
            found.push(other(format!("is {is}, but must be {}", spell(&expected))));
        }
        // What is said about the inside of a value waits until the inside is known.
        _ if instance.is_some_and(has_unknown) => {}
        ValidationErrorKind::Enum { options } => {
            let options: Vec<String> = options
                .as_array()
                .into_iter()
                .flatten()
                .map(|option| format!("`{}`", show(option)))
                .collect();
            let is = instance.map(show).unwrap_or_default();
            found.push(other(format!("can't be `{is}`: it is one of {}", options.join(", "))));
        }
        ValidationErrorKind::MinItems { limit: 1 } | ValidationErrorKind::MinLength { limit: 1 } => {
            found.push(other("must not be empty".to_owned()));
        }
        ValidationErrorKind::Pattern { pattern } => found.push(other(format!("must match `{pattern}`"))),
        ValidationErrorKind::Format { format } => found.push(other(format!("is no valid {format}"))),
        _ => found.push(other(format!("is not valid: {}", error.masked()))),
    }
}

/// Of several alternatives that all fail, reports the one that was meant.
fn choose(
    root: &Value,
    config: &Value,
    path: &[String],
    context: &[Vec<ValidationError<'static>>],
    found: &mut Vec<Complaint>,
) {
    let mut meant: Option<Vec<Complaint>> = None;
    let mut expected = Vec::new();
    for branch in context {
        let mut complaints = Vec::new();
        branch.iter().for_each(|error| collect(root, config, error, &mut complaints));
        if complaints.is_empty() {
            return;
        }
        let own = complaints.iter().find(|c| c.path == path);
        if let Some(secret) = own.filter(|own| own.fault == Fault::Secret) {
            return found.push(secret.clone());
        }
        let wrong_kind = complaints.iter().any(|c| c.path == path && matches!(c.fault, Fault::Other(_)));
        if wrong_kind {
            expected.extend(complaints);
        } else if meant.as_ref().is_none_or(|best| complaints.len() < best.len()) {
            meant = Some(complaints);
        }
    }
    found.extend(meant.unwrap_or_else(|| merge(path, expected)));
}

/// Several "is X, but must be Y" of one value as one.
fn merge(path: &[String], complaints: Vec<Complaint>) -> Vec<Complaint> {
    const MUST: &str = ", but must be ";
    let mut wants: Vec<String> = Vec::new();
    let mut is = String::new();
    for complaint in &complaints {
        if let Fault::Other(text) = &complaint.fault
            && let Some((start, want)) = text.split_once(MUST)
        {
            is = start.to_owned();
            if want != "nothing" && !wants.iter().any(|w| w == want) {
                wants.push(want.to_owned());
            }
        }
    }
    if wants.is_empty() {
        return complaints.into_iter().take(1).collect();
    }
    let text = format!("{is}{MUST}{}", wants.join(" or "));
    vec![Complaint { path: path.to_vec(), fault: Fault::Other(text) }]
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn segments(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect()
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    super::template::descend(value, path)
}

/// The schema that holds the failed keyword. `schema_path` can lead through `$ref`.
fn parent_schema<'a>(root: &'a Value, schema_path: &str) -> Option<&'a Value> {
    let mut schema = root;
    let path = segments(schema_path);
    for segment in &path[..path.len().saturating_sub(1)] {
        if segment == "$ref" {
            let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
            schema = root.pointer(pointer)?;
            continue;
        }
        schema = match schema {
            Value::Array(items) => items.get(segment.parse::<usize>().ok()?)?,
            other => other.get(segment)?,
        };
    }
    Some(schema)
}

/// Whether `value`, or something in it, is unknown.
pub(crate) fn has_unknown(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key(UNKNOWN_KEY) || map.values().any(has_unknown),
        Value::Array(items) => items.iter().any(has_unknown),
        _ => false,
    }
}

/// Whether `path` leads to or into an unknown value.
fn is_unknown_on(config: &Value, path: &[String]) -> bool {
    let mut value = config;
    for segment in path {
        if value.get(UNKNOWN_KEY).is_some() {
            return true;
        }
        match at(value, std::slice::from_ref(segment)) {
            Some(next) => value = next,
            None => return false,
        }
    }
    value.get(UNKNOWN_KEY).is_some()
}
