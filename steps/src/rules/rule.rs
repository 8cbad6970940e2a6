//! Rules as data: their form in TOML, and what of it can be wrong.

use std::collections::BTreeSet;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::code::{self, Code};
use super::inputs::Inputs;
use super::path::Pattern;
use super::subscription::Subscription;
use super::target::Target;

/// Who can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleKind {
    /// Rewritten as it is.
    Automatic,
    /// Rewritten with an input of `migration.toml`.
    Input,
    /// For a person.
    Manual,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleSeverity {
    /// Good to know.
    Info,
    /// It works otherwise on AKS.
    Warning,
    /// It does not work on AKS.
    Error,
}

/// A condition on the object: a path at which something is, or is not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Where to look.
    pub path: String,
    /// What must be there; default: anything.
    #[serde(default)]
    pub value: Option<String>,
}

/// An effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// The value becomes another.
    Set {
        /// To what; strings may hold `${value}`, `${key}`, `${1}`, `${lookup}`, `${input}`.
        to: Value,
    },
    /// The key becomes another.
    Rename {
        /// The new key.
        to: String,
    },
    /// The part of the value that matched becomes another.
    Replace {
        /// To what.
        to: String,
    },
    /// The entry goes.
    Delete {
        /// Which, where it is not the match itself: `^` is what is around it.
        #[serde(default)]
        at: Option<String>,
    },
    /// The object goes.
    Drop {},
    /// An entry is added.
    Insert {
        /// To which map.
        at: String,
        /// Under which key.
        key: String,
        /// What.
        value: Value,
    },
    /// An item is added.
    Append {
        /// To which list.
        at: String,
        /// What.
        value: Value,
    },
}

/// A rule's test, and its illustration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What is found.
    pub before: String,
    /// What it becomes; the same as before where a person must act.
    #[serde(default)]
    pub after: Option<String>,
    /// With these inputs.
    #[serde(default)]
    pub inputs: Inputs,
    /// On the way to this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// With what this subscription has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Subscription>,
}

/// A rule as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// `EKS-NOD-001`.
    pub id: String,
    /// What is found, in a few words.
    pub title: String,
    /// Why it can't stay.
    pub why: String,
    /// What it is on Azure.
    pub azure: String,
    /// Who can do it.
    pub kind: RuleKind,
    /// How much it matters.
    pub severity: RuleSeverity,
    /// A person's work for one finding, roughly.
    #[serde(default)]
    pub hours: f32,
    /// The vendors' words.
    pub links: Vec<String>,
    /// Kinds that are looked at: `Service`, `apps/Deployment`; default: all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// API groups that are looked at: `karpenter.k8s.aws`, `*.services.k8s.aws`; default: all.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Namespaces that are looked at; default: all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Names that are looked at, as a regular expression; default: all.
    #[serde(default)]
    pub name: Option<String>,
    /// Where to look; the object as such where it is empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// What the value must be, as a regular expression.
    #[serde(default)]
    pub value: Option<String>,
    /// What must be elsewhere in the object.
    #[serde(default)]
    pub all: Vec<Condition>,
    /// What must not be elsewhere in the object.
    #[serde(default)]
    pub none: Vec<Condition>,
    /// A table of inputs in which the value is looked up.
    #[serde(default)]
    pub lookup: Option<String>,
    /// What is looked up instead of the value: `${1}`.
    #[serde(default)]
    pub lookup_key: Option<String>,
    /// A single input that it needs.
    #[serde(default)]
    pub input: Option<String>,
    /// What is done.
    #[serde(default, rename = "do")]
    pub effects: Vec<Effect>,
    /// The rule whose effects leave nothing of it: it counts as rewritten where that one rewrites the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_with: Option<String>,
    /// A function that finds and edits instead.
    #[serde(default)]
    pub code: Option<String>,
    /// Inputs that `code` asks for.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Tests and illustrations.
    #[serde(default, rename = "example")]
    pub examples: Vec<Example>,
}

/// A file of rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<Rule>,
}

/// Why a file of rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// It is no such TOML.
    #[error("{file} is no file of rules: {reason}")]
    Form {
        /// The file.
        file: String,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A rule is wrong.
    #[error("rule {id} of {file}: {reason}")]
    Rule {
        /// The file.
        file: String,
        /// The rule.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

/// A rule that is ready to look.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    /// As written.
    pub rule: Rule,
    pub(super) paths: Vec<Pattern>,
    pub(super) value: Option<Regex>,
    pub(super) name: Option<Regex>,
    pub(super) all: Vec<(Pattern, Option<Regex>)>,
    pub(super) none: Vec<(Pattern, Option<Regex>)>,
    pub(super) code: Option<Code>,
}

impl Compiled {
    fn new(rule: Rule) -> Result<Self, String> {
        let regex =
            |text: &String| Regex::new(text).map_err(|e| format!("`{text}` is no regular expression: {e}"));
        let conditions = |list: &[Condition]| {
            list.iter()
                .map(|c| Ok((Pattern::parse(&c.path)?, c.value.as_ref().map(regex).transpose()?)))
                .collect::<Result<Vec<_>, String>>()
        };
        let code = match &rule.code {
            Some(name) => Some(code::find(name).ok_or_else(|| format!("there is no code `{name}`"))?),
            None => None,
        };
        let inputs = rule.lookup.iter().chain(&rule.input).chain(&rule.inputs);
        if let Some(unknown) = inputs.into_iter().find(|name| !Inputs::is_known(name)) {
            return Err(format!("there is no input `{unknown}`"));
        }
        let needs = rule.lookup.is_some() || rule.input.is_some() || !rule.inputs.is_empty();
        if (rule.kind == RuleKind::Input) != needs {
            return Err(
                "`kind = \"input\"` goes with `lookup`, `input` or `inputs`, and they with it".to_owned()
            );
        }
        if rule.kind == RuleKind::Manual && !rule.effects.is_empty() {
            return Err("what is for a person has no effects".to_owned());
        }
        Ok(Self {
            paths: rule.paths.iter().map(|path| Pattern::parse(path)).collect::<Result<_, _>>()?,
            value: rule.value.as_ref().map(regex).transpose()?,
            name: rule.name.as_ref().map(regex).transpose()?,
            all: conditions(&rule.all)?,
            none: conditions(&rule.none)?,
            code,
            rule,
        })
    }
}

/// The rules in `text`, the content of `file`.
///
/// # Errors
/// When it is no file of rules, or one of them is wrong.
pub(crate) fn read(file: &str, text: &str) -> Result<Vec<Compiled>, RuleError> {
    let parsed: RuleFile = toml::from_str(text).map_err(|e| RuleError::Form {
        file: file.to_owned(),
        reason: e.to_string().trim_end().to_owned(),
    })?;
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    for rule in parsed.rule {
        let id = rule.id.clone();
        let wrong = |reason: String| RuleError::Rule { file: file.to_owned(), id: id.clone(), reason };
        if !seen.insert(id.clone()) {
            return Err(wrong("its ID is there twice".to_owned()));
        }
        rules.push(Compiled::new(rule).map_err(wrong)?);
    }
    Ok(rules)
}
