//! Values of parameters: as given by a person, and checked against their declarations.

use std::collections::BTreeMap;

use migrate_plugin_api::{InvalidSecretRef, SecretRef};
use serde_json::{Map, Value};

use super::diagnostic::{Diagnostics, Mistakes, Source};
use super::duration;
use super::model::{Param, ParamType, Workflow};
use super::template::json_type;
use super::tree::{Span, Tree};

/// Values of parameters, not yet checked against their declarations.
#[derive(Debug, Clone, Default)]
pub struct Params {
    given: BTreeMap<String, Given>,
}

#[derive(Debug, Clone)]
enum Given {
    /// From a command line; read by its type.
    Text(String),
    /// From a file.
    Value { value: Value, file: Source, span: Span },
}

impl Params {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name` as written on a command line; read by its declared type. A list is
    /// `a,b` or `["a", "b"]`, a map `{ a = 1 }`. Replaces an earlier one.
    pub fn set(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.given.insert(name.into(), Given::Text(text.into()));
    }

    /// Adds every top-level key of a TOML file.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn read(&mut self, file: &Source) -> Result<(), Diagnostics> {
        let mut mistakes = Mistakes::default();
        let tree = Tree::parse(file, &mut mistakes);
        mistakes.into_result()?;
        for entry in tree.iter().filter_map(Tree::entries).flatten() {
            let given = Given::Value {
                value: entry.value.to_json(),
                file: file.clone(),
                span: entry.value.span.clone(),
            };
            self.given.insert(entry.key.clone(), given);
        }
        Ok(())
    }

    /// Values that were stored with a run, with these on top.
    pub(crate) fn over(&self, stored: &Map<String, Value>) -> Self {
        let mut merged = self.clone();
        for (name, value) in stored {
            merged.given.entry(name.clone()).or_insert_with(|| Given::Value {
                value: value.clone(),
                file: Source::new("stored parameters", value.to_string()),
                span: 0..0,
            });
        }
        merged
    }
}

/// The values of all parameters of `workflow`. A parameter without a value is `None`, and a
/// mistake unless `partial`.
pub(crate) fn resolve(
    workflow: &Workflow,
    params: &Params,
    partial: bool,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, Option<Value>> {
    // A name that is not known may be that of a secret, misspelled.
    let secrets = workflow.params.iter().any(|param| param.sensitive);
    for (name, given) in &params.given {
        if !workflow.params.iter().any(|param| param.name == *name) {
            let (file, span) = given.place(name, true, secrets);
            given.hide(secrets, mistakes);
            mistakes
                .add(&file, span, "unknown-param", format!("the workflow has no parameter `{name}`"))
                .suggest(name, workflow.params.iter().map(|param| param.name.as_str()));
        }
    }
    let mut values = BTreeMap::new();
    for param in &workflow.params {
        let value = match params.given.get(&param.name) {
            Some(given) => match given.read(param).and_then(|value| accept(param, value)) {
                Ok(value) => Some(value),
                Err(why) => {
                    let (file, span) = given.place(&param.name, false, param.sensitive);
                    given.hide(param.sensitive, mistakes);
                    mistakes.add(&file, span, "wrong-type", format!("parameter `{}` {why}", param.name));
                    None
                }
            },
            None => param.default.clone(),
        };
        if value.is_none() && param.required && !partial && !params.given.contains_key(&param.name) {
            let mistake = mistakes.add(
                &workflow.file,
                param.span.clone(),
                "missing-param",
                format!("parameter `{}` has no value", param.name),
            );
            mistake.help(format!("give it with `--param {}=…`", param.name));
            if let Some(help) = &param.help {
                mistake.label(help.clone());
            }
        }
        values.insert(param.name.clone(), value);
    }
    values
}

impl Given {
    /// Where the value, or the name, was given. What may be a secret is not shown.
    fn place(&self, name: &str, at_name: bool, sensitive: bool) -> (Source, Span) {
        match self {
            Self::Value { file, span, .. } if sensitive => {
                (file.masked(std::slice::from_ref(span)), span.clone())
            }
            Self::Value { file, span, .. } => (file.clone(), span.clone()),
            Self::Text(text) => {
                let text = if sensitive { "********" } else { text.as_str() };
                let written = format!("--param {name}={text}");
                let start = "--param ".len() + if at_name { 0 } else { name.len() + 1 };
                let end = if at_name { start + name.len() } else { written.len() };
                (Source::new("command line", written), start..end)
            }
        }
    }

    fn hide(&self, sensitive: bool, mistakes: &mut Mistakes) {
        if let Self::Value { file, span, .. } = self
            && sensitive
        {
            mistakes.hide(file, span);
        }
    }

    fn read(&self, param: &Param) -> Result<Value, String> {
        let text = match self {
            Self::Value { value, .. } => return Ok(value.clone()),
            Self::Text(text) => text,
        };
        Ok(match param.kind {
            ParamType::String | ParamType::Duration => Value::from(text.as_str()),
            ParamType::Integer => match text.trim().parse::<i64>() {
                Ok(number) => Value::from(number),
                Err(_) => return Err("must be an integer".to_owned()),
            },
            ParamType::Boolean => match text.trim() {
                "true" => Value::from(true),
                "false" => Value::from(false),
                _ => return Err("must be `true` or `false`".to_owned()),
            },
            ParamType::List if text.trim_start().starts_with('[') => toml_value(text)?,
            ParamType::List => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect()
            }
            ParamType::Map => toml_value(text)?,
        })
    }
}

fn toml_value(text: &str) -> Result<Value, String> {
    let document = Source::new("", format!("v = {text}"));
    let mut mistakes = Mistakes::default();
    let tree = Tree::parse(&document, &mut mistakes).filter(|_| mistakes.is_empty());
    tree.as_ref()
        .and_then(|tree| tree.get("v"))
        .map(|entry| entry.value.to_json())
        .ok_or_else(|| "must be a TOML value, as in `[\"a\", \"b\"]` or `{ a = 1 }`".to_owned())
}

/// `value` if it is allowed for `param`; otherwise the end of a sentence about it.
pub(crate) fn accept(param: &Param, value: Value) -> Result<Value, String> {
    if param.sensitive {
        return match value.as_str().map(|text| SecretRef::try_from(text.to_owned())) {
            Some(Ok(_)) => Ok(value),
            Some(Err(error @ InvalidSecretRef::Command)) => Err(format!("is {error}")),
            _ => {
                Err("is sensitive: give a reference to the secret (`env:NAME`, `file:PATH`, `exec:COMMAND`, \
                      `keyvault:VAULT/NAME`), never the secret itself"
                    .to_owned())
            }
        };
    }
    of_type(param.kind, &value)?;
    if let Some(choices) = &param.choices {
        let refused = match &value {
            Value::Array(items) => items.iter().find(|item| !choices.contains(item)),
            other => Some(other).filter(|value| !choices.contains(value)),
        };
        if let Some(refused) = refused {
            let listed: Vec<String> = choices.iter().map(|choice| format!("`{}`", plain(choice))).collect();
            return Err(format!("can't be `{}`: it is one of {}", plain(refused), listed.join(", ")));
        }
    }
    Ok(value)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether `value` is of the type; otherwise the end of a sentence about it.
pub(crate) fn of_type(kind: ParamType, value: &Value) -> Result<(), String> {
    let (right, expected) = match kind {
        ParamType::String => (value.is_string(), "a string"),
        ParamType::Integer => (value.is_i64(), "an integer"),
        ParamType::Boolean => (value.is_boolean(), "a boolean"),
        ParamType::List => (value.is_array(), "a list"),
        ParamType::Map => (value.is_object(), "a map"),
        ParamType::Duration => {
            let text = value.as_str().unwrap_or_default();
            (duration::parse(text).is_some(), "a duration, as in \"90s\", \"6h\" or \"1h30m\"")
        }
    };
    if right { Ok(()) } else { Err(format!("is {}, but must be {expected}", json_type(value))) }
}
