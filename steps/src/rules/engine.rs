//! Looks with rules: where one fits, what it needs and what it does there. Pure.
//!
//! Invariants: nothing below `data` and `stringData` of a Secret is looked at; a match that misses an
//! input has no effects.

use regex::{Captures, Regex};
use serde_json::Value;

use super::document::Node;
use super::facts::Facts;
use super::inputs::{Inputs, Lookup};
use super::object::{EKS_API_GROUP, Object};
use super::path::{Path, Pattern};
use super::rule::{Compiled, Effect};
use crate::manifests::edit::Edit;
use crate::workload::Segment;

/// The longest value that is repeated in a finding.
const FOUND_CHARS: usize = 160;

/// What is done where a rule fits. Paths are those of the object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Effects {
    /// Edits of the object, in order.
    pub edits: Vec<Edit>,
    /// Whether the object goes.
    pub drop: bool,
    /// New objects.
    pub add: Vec<Value>,
}

impl Effects {
    /// Whether nothing is done.
    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty() && !self.drop && self.add.is_empty()
    }
}

/// A place where a rule fits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Match {
    /// Where in the object.
    pub path: Path,
    /// What stands there, where it may be repeated.
    pub found: Option<String>,
    /// What is to be said instead of the rule's title.
    pub message: Option<String>,
    /// Keys of `migration.toml` that are missing.
    pub needs: Vec<String>,
    /// Whether it is left for a person also where the rule that it goes with rewrites the object.
    pub is_left: bool,
    /// What is done.
    pub effects: Effects,
}

impl Match {
    /// At `path`, with nothing to do yet.
    pub(crate) fn at(path: Path) -> Self {
        Self { path, ..Self::default() }
    }

    /// With what stands there.
    pub(crate) fn found(mut self, found: impl AsRef<str>) -> Self {
        self.found = Some(shorten(found.as_ref()));
        self
    }

    /// With something to say.
    pub(crate) fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// With an edit.
    pub(crate) fn edit(mut self, edit: Edit) -> Self {
        self.effects.edits.push(edit);
        self
    }

    /// Takes the value of `lookup`, or notes what is missing.
    pub(crate) fn need(&mut self, lookup: Lookup) -> Option<String> {
        match lookup {
            Ok(value) => Some(value),
            Err(missing) => {
                if !self.needs.contains(&missing) {
                    self.needs.push(missing);
                }
                None
            }
        }
    }
}

/// What a rule may look at.
pub(crate) struct Look<'a> {
    /// The object.
    pub object: &'a Object<'a>,
    /// All others.
    pub facts: &'a Facts,
    /// What the site gives.
    pub inputs: &'a Inputs,
}

/// `text`, not longer than what is repeated.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= FOUND_CHARS && line.len() == text.trim_end().len() {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(FOUND_CHARS).collect();
    short.push('…');
    short
}

impl Compiled {
    /// Every place of the object where the rule fits.
    pub(crate) fn matches(&self, look: &Look<'_>) -> Vec<Match> {
        if !self.concerns(look.object) {
            return Vec::new();
        }
        let mut found = match self.code {
            Some(code) => code(look),
            None => self.declared(look),
        };
        if look.object.kind == "Secret" {
            found.retain(|m| !matches!(m.path.first(), Some(Segment::Key(key)) if key == "data" || key == "stringData"));
        }
        for m in &mut found {
            if !m.needs.is_empty() {
                m.effects = Effects::default();
            }
        }
        found
    }

    fn concerns(&self, object: &Object<'_>) -> bool {
        let rule = &self.rule;
        let kind = |wanted: &String| match wanted.split_once('/') {
            Some((group, kind)) => group == object.group && kind == object.kind,
            None => *wanted == object.kind,
        };
        let group = |wanted: &String| match wanted.strip_prefix('*') {
            Some(end) => object.group.ends_with(end),
            None => *wanted == object.group,
        };
        let is_for_all = rule.kinds.is_empty() && rule.groups.is_empty();
        !(is_for_all && object.group == EKS_API_GROUP)
            && (rule.kinds.is_empty() || rule.kinds.iter().any(kind))
            && (rule.groups.is_empty() || rule.groups.iter().any(group))
            && (rule.namespaces.is_empty() || rule.namespaces.contains(&object.namespace))
            && self.name.as_ref().is_none_or(|name| name.is_match(&object.name))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.may_fit(&object.keys)))
            && self.all.iter().all(|condition| holds(condition, object))
            && !self.none.iter().any(|condition| holds(condition, object))
    }

    fn declared(&self, look: &Look<'_>) -> Vec<Match> {
        let object = look.object;
        if self.paths.is_empty() {
            let hit = Hit { path: Vec::new(), node: object.node, captures: None };
            return vec![self.at(look, &hit)];
        }
        let mut found: Vec<Match> = Vec::new();
        for pattern in &self.paths {
            for (path, node) in object.find(pattern) {
                let captures = match (&self.value, node.text()) {
                    (None, _) => None,
                    (Some(_), None) => continue,
                    (Some(value), Some(text)) => match value.captures(text) {
                        Some(captures) => Some(captures),
                        None => continue,
                    },
                };
                if !found.iter().any(|m| m.path == path) {
                    found.push(self.at(look, &Hit { path, node, captures }));
                }
            }
        }
        found
    }

    fn at(&self, look: &Look<'_>, hit: &Hit<'_>) -> Match {
        let mut found = Match::at(hit.path.clone());
        found.found = match hit.node.text() {
            // Of a whole file in a ConfigMap nothing is repeated.
            Some(text) if !hit.path.is_empty() && !text.contains('\n') => Some(shorten(text)),
            _ => None,
        };
        let mut words = Words { hit, lookup: String::new(), input: String::new() };
        if let Some(table) = &self.rule.lookup {
            let key = words.fill(self.rule.lookup_key.as_deref().unwrap_or("${value}"));
            words.lookup = found.need(look.inputs.entry(table, &key)).unwrap_or_default();
        }
        if let Some(name) = &self.rule.input {
            words.input = found.need(look.inputs.single(name)).unwrap_or_default();
        }
        for effect in &self.rule.effects {
            words.act(effect, self.value.as_ref(), &mut found.effects);
        }
        found
    }
}

fn holds((pattern, value): &(Pattern, Option<Regex>), object: &Object<'_>) -> bool {
    let passes = |node: &Node| match value {
        Some(value) => node.text().is_some_and(|text| value.is_match(text)),
        None => true,
    };
    pattern.may_fit(&object.keys) && pattern.any(object.node, &passes)
}

struct Hit<'a> {
    path: Path,
    node: &'a Node,
    captures: Option<Captures<'a>>,
}

struct Words<'a> {
    hit: &'a Hit<'a>,
    lookup: String,
    input: String,
}

impl Words<'_> {
    /// `text` with its `${…}` filled in.
    fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else { break };
            out.push_str(before);
            match name {
                "value" => out.push_str(self.hit.node.text().unwrap_or_default()),
                "key" => {
                    if let Some(Segment::Key(key)) = self.hit.path.last() {
                        out.push_str(key);
                    }
                }
                "lookup" => out.push_str(&self.lookup),
                "input" => out.push_str(&self.input),
                number => {
                    let group = number.parse().ok().and_then(|n: usize| self.hit.captures.as_ref()?.get(n));
                    out.push_str(group.map_or("", |group| group.as_str()));
                }
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::from(self.fill(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(map) => {
                map.iter().map(|(key, value)| (self.fill(key), self.value(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// A path of the object, or `^` (what is around the match) and what is below it.
    fn place(&self, at: &str) -> Path {
        let below = at.trim_start_matches('^');
        let up = at.len() - below.len();
        let mut path = match up {
            0 => Vec::new(),
            up => self.hit.path[..self.hit.path.len().saturating_sub(up)].to_vec(),
        };
        path.extend(super::path::plain(below.trim_start_matches('.')));
        path
    }

    fn act(&self, effect: &Effect, value: Option<&Regex>, effects: &mut Effects) {
        let path = self.hit.path.clone();
        match effect {
            Effect::Set { to } => effects.edits.push(Edit::Set { path, value: self.value(to) }),
            Effect::Rename { to } => effects.edits.push(Edit::Rename { path, to: self.fill(to) }),
            Effect::Replace { to } => {
                let Some(matched) = value.zip(self.hit.node.text()).and_then(|(v, text)| v.find(text)) else {
                    return;
                };
                effects.edits.push(Edit::Replace {
                    path,
                    from: matched.as_str().to_owned(),
                    to: self.fill(to),
                });
            }
            Effect::Delete { at: None } => effects.edits.push(Edit::Delete { path }),
            Effect::Delete { at: Some(at) } => effects.edits.push(Edit::Delete { path: self.place(at) }),
            Effect::Drop {} => effects.drop = true,
            Effect::Insert { at, key, value } => effects.edits.push(Edit::Insert {
                path: self.place(at),
                key: self.fill(key),
                value: self.value(value),
            }),
            Effect::Append { at, value } => {
                effects.edits.push(Edit::Append { path: self.place(at), value: self.value(value) });
            }
        }
    }
}
