//! A TOML tree → [`Workflow`]: the shape of the file, with nothing known yet of steps,
//! environment or parameter values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use migrate_plugin_api::NodeId;

use super::condition::{Condition, Parsed};
use super::diagnostic::{Mistakes, Source};
use super::duration;
use super::each::ForEach;
use super::environment::check_schema;
use super::model::{Node, OnFailure, Output, Param, ParamType, Retry, Workflow};
use super::params;
use super::template::{Root, Template, TemplateKind};
use super::tree::{Entry, Kind, Span, Tree};
use crate::run::gate::GATE;

/// Most nodes of a workflow: twice the widest that is known to work.
const MAX_NODES: usize = 20_000;

/// Most attempts that can be asked for; with backoff this is hours.
pub(crate) const MAX_ATTEMPTS: i64 = 100;

/// Most places in a pool.
pub(crate) const MAX_POOL: i64 = 10_000;

pub(crate) const WORKFLOW_FIELDS: [&str; 7] =
    ["schema", "name", "description", "params", "pools", "nodes", "outputs"];

pub(crate) const PARAM_FIELDS: [&str; 5] = ["type", "default", "help", "enum", "sensitive"];

pub(crate) const RETRY_FIELDS: [&str; 4] = ["attempts", "backoff", "max_backoff", "attempt_timeout"];

pub(crate) const PARAM_TYPES: [(&str, ParamType); 6] = [
    ("string", ParamType::String),
    ("integer", ParamType::Integer),
    ("boolean", ParamType::Boolean),
    ("duration", ParamType::Duration),
    ("list", ParamType::List),
    ("map", ParamType::Map),
];

pub(crate) const NODE_FIELDS: [&str; 12] = [
    "step",
    "with",
    "needs",
    "when",
    "for_each",
    "key",
    "max_parallel",
    "timeout",
    "retry",
    "heartbeat",
    "pool",
    "on_failure",
];

/// Reads one file.
pub(crate) struct Reader<'a> {
    file: &'a Source,
    mistakes: &'a mut Mistakes,
    parsed: Parsed,
}

impl<'a> Reader<'a> {
    /// Of `file`.
    pub(crate) fn of(file: &'a Source, mistakes: &'a mut Mistakes) -> Self {
        Self { file, mistakes, parsed: Parsed::new() }
    }

    /// The whole workflow; `None` when the file is no TOML.
    pub(crate) fn workflow(&mut self) -> Option<Workflow> {
        let tree = Tree::parse(self.file, self.mistakes)?;
        check_schema(&tree, self.file, self.mistakes);
        self.known_keys(&tree, "a workflow", &WORKFLOW_FIELDS);
        let name = match tree.get("name") {
            Some(entry) => self.string(entry).unwrap_or_default(),
            None => {
                self.mistakes.add(self.file, 0..0, "missing-field", "the workflow has no `name`");
                String::new()
            }
        };
        let description = tree.get("description").and_then(|entry| self.string(entry));
        let params = self.each(&tree, "params", Self::param);
        let pools = self.each(&tree, "pools", Self::pool).into_iter().collect();
        let nodes = self.each(&tree, "nodes", Self::node);
        let outputs = self.each(&tree, "outputs", Self::output);
        if nodes.is_empty() && self.mistakes.is_empty() {
            self.mistakes.add(self.file, 0..0, "missing-field", "the workflow has no nodes");
        }
        if nodes.len() > MAX_NODES {
            let message = format!("{} nodes are more than the {MAX_NODES} that are allowed", nodes.len());
            self.mistakes.add(self.file, 0..0, "too-large", message);
            return None;
        }
        let index = nodes.iter().enumerate().map(|(at, node)| (node.id.clone(), at)).collect();
        let file = self.file.clone();
        let (parts, dependencies) = (Vec::new(), BTreeMap::new());
        Some(Workflow { file, name, description, params, pools, outputs, parts, nodes, index, dependencies })
    }

    fn each<T>(&mut self, tree: &Tree, key: &str, read: fn(&mut Self, &Entry) -> Option<T>) -> Vec<T> {
        let Some(entry) = tree.get(key) else { return Vec::new() };
        match entry.value.entries() {
            Some(entries) => entries.iter().filter_map(|entry| read(self, entry)).collect(),
            None => {
                self.wrong_type(entry, "a table");
                Vec::new()
            }
        }
    }

    fn param(&mut self, entry: &Entry) -> Option<Param> {
        let table = self.table(entry)?;
        let what = format!("parameter `{}`", entry.key);
        self.known_keys(table, &what, &PARAM_FIELDS);
        let Some(kind) = table.get("type") else {
            self.missing(entry, &what, "type");
            return None;
        };
        let kind = self.one_of(kind, &PARAM_TYPES)?;
        let choices = table.get("enum").and_then(|list| self.choices(list, kind));
        let sensitive = table.get("sensitive").and_then(|flag| self.boolean(flag)).unwrap_or(false);
        if sensitive && kind != ParamType::String {
            self.mistakes
                .add(
                    self.file,
                    entry.key_span.clone(),
                    "sensitive",
                    format!("{what} is sensitive but no string"),
                )
                .help("a sensitive parameter holds a reference to a secret, as in `env:NAME`");
        }
        let help = table.get("help").and_then(|text| self.string(text));
        let (name, span) = (entry.key.clone(), entry.key_span.clone());
        let required = table.get("default").is_none();
        let mut param = Param { name, span, kind, default: None, required, help, choices, sensitive };
        if let Some(default) = table.get("default") {
            let value = default.value.to_json();
            match params::accept(&param, value) {
                Ok(value) => param.default = Some(value),
                Err(why) => {
                    let message = format!("the default of {what} {why}");
                    let span = default.value.span.clone();
                    // What was written may be the secret itself.
                    if sensitive {
                        self.mistakes.hide(self.file, &span);
                    }
                    self.mistakes.add(self.file, span, "wrong-type", message);
                }
            }
        }
        Some(param)
    }

    fn choices(&mut self, list: &Entry, kind: ParamType) -> Option<Vec<serde_json::Value>> {
        let Kind::List(items) = &list.value.kind else {
            self.wrong_type(list, "a list");
            return None;
        };
        for item in items {
            if let Err(why) = params::of_type(kind, &item.to_json()) {
                self.mistakes.add(self.file, item.span.clone(), "wrong-type", format!("this choice {why}"));
            }
        }
        Some(items.iter().map(Tree::to_json).collect())
    }

    fn output(&mut self, entry: &Entry) -> Option<Output> {
        let value = Template::new(&entry.value, self.file, self.mistakes);
        Some(Output { name: entry.key.clone(), value })
    }

    fn pool(&mut self, entry: &Entry) -> Option<(String, usize)> {
        match entry.value.kind {
            Kind::Integer(size @ 1..=MAX_POOL) => Some((entry.key.clone(), usize::try_from(size).ok()?)),
            _ => {
                let message = format!("pool `{}` needs a size from 1 to {MAX_POOL}", entry.key);
                self.mistakes.add(self.file, entry.value.span.clone(), "wrong-type", message);
                None
            }
        }
    }

    fn node(&mut self, entry: &Entry) -> Option<Node> {
        let id = match NodeId::plain(entry.key.clone()) {
            Ok(id) => id,
            Err(error) => {
                self.mistakes.add(self.file, entry.key_span.clone(), "invalid-name", error.to_string());
                return None;
            }
        };
        let table = self.table(entry)?;
        let what = format!("node `{id}`");
        self.known_keys(table, &what, &NODE_FIELDS);
        let step = match table.get("step") {
            Some(step) => (self.string(step).unwrap_or_default(), step.value.span.clone()),
            None => {
                self.missing(entry, &what, "step");
                (String::new(), entry.key_span.clone())
            }
        };
        let with = match table.get("with") {
            Some(with) if with.value.entries().is_some() => {
                Template::new(&with.value, self.file, self.mistakes)
            }
            Some(with) => {
                self.wrong_type(with, "a table");
                Template::empty(with.value.span.clone())
            }
            None => Template::empty(entry.key_span.clone()),
        };
        if step.0 == GATE {
            self.only_of_steps(table);
        }
        let (pool, weight, pool_span) = self.share(table).unwrap_or((None, 1, entry.key_span.clone()));
        let timeout = table.get("timeout").and_then(|timeout| self.duration(timeout));
        Some(Node {
            id,
            file: self.file.clone(),
            guards: Vec::new(),
            inherited: Vec::new(),
            span: entry.key_span.clone(),
            step: step.0,
            step_span: step.1,
            with,
            for_each: self.for_each(table),
            needs: self.needs(table),
            when: table.get("when").and_then(|when| self.when(when)),
            timeout,
            retry: table.get("retry").and_then(|retry| self.retry(retry, timeout)).unwrap_or_default(),
            heartbeat: table.get("heartbeat").and_then(|heartbeat| self.within(heartbeat, timeout)),
            pool,
            weight,
            pool_span,
            on_failure: table
                .get("on_failure")
                .and_then(|choice| self.on_failure(choice))
                .unwrap_or_default(),
        })
    }

    /// A gate takes no time and no place of anything.
    fn only_of_steps(&mut self, table: &Tree) {
        for field in ["timeout", "retry", "heartbeat", "pool"] {
            if let Some(entry) = table.get(field) {
                let message = format!("a gate waits for a person: it has no `{field}`");
                self.mistakes.add(self.file, entry.key_span.clone(), "unknown-field", message);
            }
        }
    }

    /// `pool = "NAME"` or `pool = { name = "NAME", weight = 3 }`.
    fn share(&mut self, table: &Tree) -> Option<(Option<String>, usize, Span)> {
        let entry = table.get("pool")?;
        let span = entry.value.span.clone();
        if entry.value.entries().is_none() {
            return Some((self.string(entry), 1, span));
        }
        self.known_keys(&entry.value, "`pool`", &["name", "weight"]);
        let name = match entry.value.get("name") {
            Some(name) => self.string(name),
            None => {
                self.missing(entry, "`pool`", "name");
                None
            }
        };
        let weight = match entry.value.get("weight").map(|weight| (&weight.value.kind, weight)) {
            None => 1,
            Some((Kind::Integer(weight @ 1..=MAX_POOL), _)) => usize::try_from(*weight).unwrap_or(1),
            Some((_, weight)) => {
                let message = format!("`weight` is a number from 1 to {MAX_POOL}");
                self.mistakes.add(self.file, weight.value.span.clone(), "wrong-type", message);
                1
            }
        };
        Some((name, weight, span))
    }

    /// A duration that only means something within the node's time.
    fn within(&mut self, entry: &Entry, timeout: Option<Duration>) -> Option<Duration> {
        let written = self.duration(entry)?;
        if let Some(timeout) = timeout.filter(|timeout| written >= *timeout) {
            let (written, timeout) = (duration::format(written), duration::format(timeout));
            let message =
                format!("`{}` of {written} never comes before the node's `timeout` of {timeout}", entry.key);
            self.mistakes.add(self.file, entry.value.span.clone(), "useless-limit", message);
        }
        Some(written)
    }

    fn on_failure(&mut self, entry: &Entry) -> Option<OnFailure> {
        let choices =
            [("stop", OnFailure::Stop), ("continue", OnFailure::Continue), ("undo", OnFailure::Undo)];
        self.one_of(entry, &choices)
    }

    fn for_each(&mut self, table: &Tree) -> Option<ForEach> {
        let Some(list) = table.get("for_each") else {
            for field in ["key", "max_parallel"] {
                if let Some(entry) = table.get(field) {
                    let message = format!("`{field}` belongs to `for_each`, which the node doesn't have");
                    self.mistakes.add(self.file, entry.key_span.clone(), "unknown-field", message);
                }
            }
            return None;
        };
        let is_text = matches!(list.value.kind, Kind::String(_));
        let list = Template::new(&list.value, self.file, self.mistakes);
        if is_text && matches!(list.kind, TemplateKind::Literal(_) | TemplateKind::Text(_)) {
            self.mistakes
                .add(
                    self.file,
                    list.span.clone(),
                    "wrong-type",
                    "`for_each` is a text, but must be a list or a table",
                )
                .help("write a list, or refer to one: `for_each = \"${params.namespaces}\"`");
        }
        let key = table.get("key").and_then(|entry| self.key(entry));
        let max_parallel = table.get("max_parallel").and_then(|entry| match entry.value.kind {
            Kind::Integer(count @ 1..=MAX_POOL) => usize::try_from(count).ok(),
            _ => {
                let message = format!("`max_parallel` is a number from 1 to {MAX_POOL}");
                self.mistakes.add(self.file, entry.value.span.clone(), "wrong-type", message);
                None
            }
        });
        Some(ForEach { list, key, max_parallel })
    }

    /// What names an item: made of the item alone, and not of its place.
    fn key(&mut self, entry: &Entry) -> Option<Template> {
        self.string(entry)?;
        let key = Template::new(&entry.value, self.file, self.mistakes);
        for reference in key.references() {
            if reference.root != Root::Each {
                self.mistakes
                    .add(self.file, reference.span.clone(), "invalid-key", "a key is made of the item alone")
                    .help("use `${each.value}` or a field of it, as in `key = \"${each.value.name}\"`");
            } else if reference.path[0] == "index" {
                self.mistakes
                    .add(self.file, reference.span.clone(), "invalid-key", "the place in the list is no key")
                    .help("it changes when the list is reordered, and what is done would be done again");
            }
        }
        Some(key)
    }

    fn needs(&mut self, table: &Tree) -> Vec<(NodeId, super::tree::Span)> {
        let Some(entry) = table.get("needs") else { return Vec::new() };
        let Kind::List(items) = &entry.value.kind else {
            self.wrong_type(entry, "a list of node names");
            return Vec::new();
        };
        let mut needs = Vec::new();
        let mut seen = BTreeSet::new();
        for item in items {
            let Kind::String(name) = &item.kind else {
                let message = format!("`needs` holds node names, not {}", item.type_name());
                self.mistakes.add(self.file, item.span.clone(), "wrong-type", message);
                continue;
            };
            if !seen.insert(name) {
                let message = format!("`{name}` is in `needs` twice");
                self.mistakes.add(self.file, item.span.clone(), "duplicate", message);
                continue;
            }
            match NodeId::plain(name.clone()) {
                Ok(id) => needs.push((id, item.span.clone())),
                Err(error) => {
                    self.mistakes.add(self.file, item.span.clone(), "invalid-name", error.to_string());
                }
            }
        }
        needs
    }

    fn when(&mut self, entry: &Entry) -> Option<Condition> {
        let text = self.string(entry)?;
        Condition::parse(&text, &entry.value.span, self.file, &mut self.parsed, self.mistakes)
    }

    fn retry(&mut self, entry: &Entry, timeout: Option<Duration>) -> Option<Retry> {
        let table = self.table(entry)?;
        self.known_keys(table, "`retry`", &RETRY_FIELDS);
        let mut retry = Retry::default();
        if let Some(attempts) = table.get("attempts") {
            match attempts.value.kind {
                Kind::Integer(count @ 1..=MAX_ATTEMPTS) => retry.attempts = u32::try_from(count).unwrap_or(1),
                _ => {
                    let message = format!("`attempts` is a number from 1 to {MAX_ATTEMPTS}");
                    self.mistakes.add(self.file, attempts.value.span.clone(), "wrong-type", message);
                }
            }
        }
        if let Some(backoff) = table.get("backoff").and_then(|backoff| self.duration(backoff)) {
            retry.backoff = backoff;
        }
        if let Some(max) = table.get("max_backoff").and_then(|max| self.duration(max)) {
            retry.max_backoff = max;
        }
        retry.attempt_timeout = table.get("attempt_timeout").and_then(|limit| self.within(limit, timeout));
        Some(retry)
    }

    fn duration(&mut self, entry: &Entry) -> Option<Duration> {
        let text = self.string(entry)?;
        let duration = duration::parse(&text);
        if duration.is_none() {
            let message = format!("`{text}` is no duration");
            self.mistakes
                .add(self.file, entry.value.span.clone(), "invalid-duration", message)
                .help(duration::HELP);
        }
        duration
    }

    fn one_of<T: Copy>(&mut self, entry: &Entry, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(entry)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let message = format!("`{}` can't be `{text}`", entry.key);
            self.mistakes
                .add(self.file, entry.value.span.clone(), "unknown-choice", message)
                .suggest(&text, choices.iter().map(|(name, _)| *name));
        }
        found.map(|(_, value)| *value)
    }

    fn string(&mut self, entry: &Entry) -> Option<String> {
        match &entry.value.kind {
            Kind::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type(entry, "a string");
                None
            }
        }
    }

    fn boolean(&mut self, entry: &Entry) -> Option<bool> {
        match entry.value.kind {
            Kind::Boolean(yes) => Some(yes),
            _ => {
                self.wrong_type(entry, "a boolean");
                None
            }
        }
    }

    fn table<'t>(&mut self, entry: &'t Entry) -> Option<&'t Tree> {
        if entry.value.entries().is_none() {
            self.wrong_type(entry, "a table");
            return None;
        }
        Some(&entry.value)
    }

    fn known_keys(&mut self, table: &Tree, what: &str, known: &[&str]) {
        for entry in table.entries().unwrap_or_default() {
            if !known.contains(&entry.key.as_str()) {
                self.mistakes
                    .add(
                        self.file,
                        entry.key_span.clone(),
                        "unknown-field",
                        format!("{what} has no field `{}`", entry.key),
                    )
                    .suggest(&entry.key, known.iter().copied());
            }
        }
    }

    fn missing(&mut self, entry: &Entry, what: &str, field: &str) {
        let message = format!("{what} has no `{field}`");
        self.mistakes.add(self.file, entry.key_span.clone(), "missing-field", message);
    }

    fn wrong_type(&mut self, entry: &Entry, expected: &str) {
        let message = format!("`{}` is {}, but must be {expected}", entry.key, entry.value.type_name());
        self.mistakes.add(self.file, entry.value.span.clone(), "wrong-type", message);
    }
}
