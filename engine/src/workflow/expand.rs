//! `step = "workflow"`: another file's nodes in the place of one.
//!
//! A sub-workflow is read when its parent is, and its nodes become nodes of the parent, under names
//! that begin with its own: `images/pull`. What it was given and what it gives back are put where
//! they are used, so that nothing after this file knows of sub-workflows: references make edges,
//! configs are checked and digested as if all stood in one file. Mistakes keep the file they are in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use migrate_plugin_api::NodeId;
use serde_json::Value;

use super::check::{IN_A_TEXT, misplaced_secret};
use super::condition::{Binding, Condition};
use super::diagnostic::{Mistakes, ReadError, SHIPPED, Source};
use super::model::{Node, OnFailure, Output, Part, Retry, Workflow};
use super::parse::Reader;
use super::template::{Part as Piece, Reference, Root, Template, TemplateKind, json_type};
use super::tree::Span;

/// The step that stands for another file.
pub(crate) const STEP: &str = "workflow";

/// Deepest nesting of files.
const MAX_DEPTH: usize = 8;

/// Longest chain of values that are passed on from file to file: more goes round in a circle.
const MAX_PASSED: usize = 64;

/// Between a sub-workflow and the name of its parameter, in names that only this file sees.
const OF: char = '\n';

/// Values of parameters, with their names and where those are.
type Given = Vec<(String, Span, Template)>;

/// Where sub-workflows come from, beside the folder of the workflow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Library {
    /// Texts by the name under which they are shipped.
    pub shipped: BTreeMap<String, String>,
    /// Texts that a run was started with, by path, for files that are gone.
    pub stored: BTreeMap<PathBuf, String>,
}

struct Expander<'a> {
    library: &'a Library,
    mistakes: &'a mut Mistakes,
    /// The folder that files must be in.
    folder: PathBuf,
    /// The files that are being read, each in the one before.
    chain: Vec<Source>,
    nodes: Vec<Node>,
    parts: Vec<Part>,
    /// Values of parameters of sub-workflows.
    given: BTreeMap<String, Template>,
    pools: BTreeMap<String, usize>,
}

/// Puts the nodes of all sub-workflows of `workflow` in their places.
pub(crate) fn expand(workflow: &mut Workflow, library: &Library, mistakes: &mut Mistakes) {
    if !workflow.nodes.iter().any(|node| node.step == STEP) {
        return;
    }
    let folder = workflow.file.path().parent().map(Path::to_owned).unwrap_or_default();
    let mut expander = Expander {
        library,
        mistakes,
        folder,
        chain: vec![workflow.file.clone()],
        nodes: Vec::new(),
        parts: Vec::new(),
        given: BTreeMap::new(),
        pools: std::mem::take(&mut workflow.pools),
    };
    expander.level(std::mem::take(&mut workflow.nodes), None, &Inherited::default());
    expander.settle(&mut workflow.outputs, &workflow.file);
    let Expander { nodes, parts, pools, .. } = expander;
    workflow.index = nodes.iter().enumerate().map(|(at, node)| (node.id.clone(), at)).collect();
    (workflow.nodes, workflow.parts, workflow.pools) = (nodes, parts, pools);
}

/// What the nodes of a sub-workflow take over from the node that stands for it.
#[derive(Clone, Default)]
struct Inherited {
    guards: Vec<Condition>,
    needs: Vec<NodeId>,
}

impl Expander<'_> {
    fn level(&mut self, nodes: Vec<Node>, at: Option<&NodeId>, inherited: &Inherited) {
        for mut node in nodes {
            if let Some(at) = at {
                match at.inner(&node.id) {
                    Ok(id) => node.id = id,
                    Err(error) => {
                        let (file, span) = (node.file.clone(), node.span.clone());
                        self.mistakes.add(&file, span, "invalid-name", error.to_string());
                        continue;
                    }
                }
                let inner = |id: &NodeId| at.inner(id).unwrap_or_else(|_| id.clone());
                node.needs.iter_mut().for_each(|(id, _)| *id = inner(id));
                rename(&mut node.with, at);
                if let Some(each) = &mut node.for_each {
                    rename(&mut each.list, at);
                }
                if let Some(when) = &mut node.when {
                    when.references.iter_mut().for_each(|reference| rename_reference(reference, at));
                    when.at = Some(at.clone());
                }
            }
            node.guards.clone_from(&inherited.guards);
            node.inherited.extend(inherited.needs.iter().cloned());
            if node.step == STEP { self.part(node) } else { self.nodes.push(node) }
        }
    }

    /// One sub-workflow: reads its file and takes in its nodes.
    fn part(&mut self, node: Node) {
        let refused = [
            ("for_each", node.for_each.is_some(), "give `for_each` to the nodes inside"),
            ("timeout", node.timeout.is_some(), "give the nodes inside a `timeout`"),
            ("pool", node.pool.is_some(), "give the nodes inside a `pool`"),
            ("heartbeat", node.heartbeat.is_some(), "give the nodes inside a `heartbeat`"),
            ("retry", node.retry != Retry::default(), "give the nodes inside a `retry`"),
            ("on_failure", node.on_failure != OnFailure::default(), "give the nodes inside an `on_failure`"),
        ];
        for (field, is_there, help) in refused {
            if is_there {
                let message = format!("a sub-workflow can't have `{field}`");
                self.mistakes.add(&node.file, node.span.clone(), "unknown-field", message).help(help);
            }
        }
        let Some((file, given)) = self.fields(&node) else { return };
        let Some(child) = self.read(&node, &file) else { return };
        for (name, size) in &child.pools {
            self.pools.entry(name.clone()).or_insert(*size);
        }
        let mut part = Part {
            id: node.id.clone(),
            file: node.file.clone(),
            source: child.file.clone(),
            needs: node.needs.clone(),
            when: node.when.clone(),
            given: Vec::new(),
            outputs: child.outputs,
        };
        self.params(&node, &child.params, given, &mut part);
        part.outputs.iter_mut().for_each(|output| rename(&mut output.value, &node.id));
        let mut inherited = Inherited { guards: node.guards.clone(), needs: node.inherited.clone() };
        inherited.guards.extend(node.when.clone());
        inherited.needs.extend(node.needs.iter().map(|(id, _)| id.clone()));
        let passed = part.given.iter().flat_map(|(_, value)| value.references());
        inherited.needs.extend(passed.filter_map(super::template::node_of));
        self.parts.push(part);
        self.chain.push(child.file.clone());
        self.level(child.nodes, Some(&node.id), &inherited);
        self.chain.pop();
    }

    /// `with` of a sub-workflow: its file and the values of its parameters.
    fn fields(&mut self, node: &Node) -> Option<((String, Span), Given)> {
        let TemplateKind::Map(entries) = &node.with.kind else { return None };
        let (mut file, mut given, mut whole) = (None, Vec::new(), true);
        for (key, key_span, value) in entries {
            match (key.as_str(), &value.kind) {
                ("file", TemplateKind::Literal(Value::String(name))) => {
                    file = Some((name.clone(), value.span.clone()));
                }
                ("params", TemplateKind::Map(entries)) => given.clone_from(entries),
                ("file", _) => {
                    whole = false;
                    let message = "`file` must be a plain text: which file it is can't depend on a run";
                    self.mistakes.add(&node.file, value.span.clone(), "wrong-type", message);
                }
                ("params", _) => {
                    whole = false;
                    let message = "`params` must be a table of parameters and their values";
                    self.mistakes.add(&node.file, value.span.clone(), "wrong-type", message);
                }
                _ => {
                    let message = format!("a sub-workflow has no field `{key}`");
                    self.mistakes
                        .add(&node.file, key_span.clone(), "unknown-field", message)
                        .suggest(key, ["file", "params"]);
                }
            }
        }
        if file.is_none() && whole {
            let message = "a sub-workflow needs the field `file`";
            self.mistakes
                .add(&node.file, node.span.clone(), "missing-field", message)
                .help("as in `with = { file = \"images.toml\", params = { namespaces = \"${params.namespaces}\" } }`");
        }
        file.filter(|_| whole).map(|file| (file, given))
    }

    /// Reads the file of a sub-workflow.
    fn read(&mut self, node: &Node, (name, span): &(String, Span)) -> Option<Workflow> {
        let source = match self.open(node, name) {
            Ok(source) => source,
            Err(why) => {
                let known = self.library.shipped.keys().map(String::as_str);
                let mistake = self.mistakes.add(&node.file, span.clone(), "unknown-workflow", why);
                mistake.suggest(name, known);
                return None;
            }
        };
        let mut names: Vec<String> = self.chain.iter().map(|file| self.shown(file)).collect();
        names.push(self.shown(&source));
        if self.chain.iter().any(|file| file.path() == source.path()) {
            let message = format!("workflows hold each other: {}", names.join(" → "));
            self.mistakes
                .add(&node.file, span.clone(), "cycle", message)
                .label("this closes the cycle")
                .help("an arrow reads \"holds\"; take one of them away");
            return None;
        }
        if self.chain.len() > MAX_DEPTH {
            let message = format!("workflows are nested deeper than {MAX_DEPTH}: {}", names.join(" → "));
            self.mistakes.add(&node.file, span.clone(), "too-large", message);
            return None;
        }
        Reader::of(&source, self.mistakes).workflow()
    }

    fn open(&self, node: &Node, name: &str) -> Result<Source, String> {
        if let Some(shipped) = self.library.shipped.get(name) {
            // No file stands there. A run goes on with the text that it was started with, after an upgrade
            // too.
            let path = self.folder.join(format!("{SHIPPED}{name}"));
            let text = self.library.stored.get(&path).unwrap_or(shipped).as_str();
            return Ok(Source::new(path, text));
        }
        let relative = Path::new(name);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() {
            return Err(format!("`{name}` leads out of the folder of the workflow"));
        }
        let path = node.file.path().parent().unwrap_or(Path::new("")).join(relative);
        if let (Ok(path), Ok(folder)) = (path.canonicalize(), self.root().canonicalize())
            && !path.starts_with(&folder)
        {
            return Err(format!("`{name}` leads out of the folder of the workflow"));
        }
        match Source::read(&path) {
            Ok(source) => Ok(source),
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let stored = self.library.stored.get(&path);
                let stored = stored.map(|text| Source::new(&path, text.as_str()));
                stored
                    .ok_or_else(|| format!("there is no workflow `{name}`: neither a file nor a shipped one"))
            }
            Err(ReadError::Io { source, .. }) => Err(format!("failed to read `{name}`: {source}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The folder of the workflow, as a path that exists.
    fn root(&self) -> &Path {
        if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder }
    }

    fn shown(&self, file: &Source) -> String {
        let path = file.path().strip_prefix(&self.folder).unwrap_or(file.path());
        path.display().to_string()
    }

    /// Values of the parameters that the file declares.
    fn params(
        &mut self,
        node: &Node,
        declared: &[super::model::Param],
        given: Vec<(String, Span, Template)>,
        part: &mut Part,
    ) {
        let source = self.shown(&part.source);
        for (name, span, _) in &given {
            if !declared.iter().any(|param| param.name == *name) {
                let message = format!("`{source}` has no parameter `{name}`");
                self.mistakes
                    .add(&node.file, span.clone(), "unknown-param", message)
                    .suggest(name, declared.iter().map(|param| param.name.as_str()));
            }
        }
        for param in declared {
            let value = given.iter().find(|(name, _, _)| *name == param.name);
            let mut value: Template = match (value, &param.default) {
                (Some((_, _, value)), _) => {
                    part.given.push((param.clone(), value.clone()));
                    value.clone()
                }
                (None, Some(default)) => {
                    (node.with.span.clone(), TemplateKind::Literal(default.clone())).into()
                }
                (None, None) => {
                    if param.required {
                        let message = format!("parameter `{}` of `{source}` has no value", param.name);
                        let mistake =
                            self.mistakes.add(&node.file, node.with.span.clone(), "missing-param", message);
                        mistake.help(format!("give it: `params = {{ {} = … }}`", param.name));
                        if let Some(help) = &param.help {
                            mistake.label(help.clone());
                        }
                    }
                    (node.with.span.clone(), TemplateKind::Broken).into()
                }
            };
            if param.sensitive {
                value.secret = Some(format!("params.{}", param.name));
            }
            self.given.insert(param_name(&node.id, &param.name), value);
        }
    }

    /// Puts values where they are used.
    fn settle(&mut self, outputs: &mut [Output], file: &Source) {
        let mut nodes = std::mem::take(&mut self.nodes);
        for node in &mut nodes {
            let mut used = BTreeSet::new();
            let file = node.file.clone();
            node.with = self.settled(&node.with, &file, &mut used, 0);
            if let Some(each) = &mut node.for_each {
                each.list = self.settled(&each.list, &file, &mut used, 0);
            }
            for condition in node.guards.iter_mut().chain(&mut node.when) {
                self.bind(condition, &mut used);
            }
            node.inherited.extend(used);
        }
        self.nodes = nodes;
        let mut parts = std::mem::take(&mut self.parts);
        // Outputs of one are found in the others while they are settled.
        self.parts.clone_from(&parts);
        let mut used = BTreeSet::new();
        for part in &mut parts {
            let file = part.file.clone();
            for (_, value) in &mut part.given {
                *value = self.settled(value, &file, &mut used, 0);
            }
            if let Some(when) = &mut part.when {
                self.bind(when, &mut used);
            }
            let source = part.source.clone();
            for output in &mut part.outputs {
                output.value = self.settled(&output.value, &source, &mut used, 0);
            }
        }
        self.parts = parts;
        for output in outputs {
            output.value = self.settled(&output.value, file, &mut used, 0);
        }
    }

    fn bind(&mut self, condition: &mut Condition, used: &mut BTreeSet<NodeId>) {
        let file = condition.file.clone();
        let mut names = BTreeSet::new();
        let mut bound = Vec::new();
        let mut references = Vec::new();
        let mut asked = Vec::new();
        for reference in std::mem::take(&mut condition.references) {
            if matches!(reference.root, Root::Env | Root::Each) {
                references.push(reference);
                continue;
            }
            let local = local_name(&reference, condition.at.as_ref());
            if names.insert((reference.root == Root::Nodes, local.clone())) {
                let whole = Reference { path: vec![reference.path[0].clone()], ..reference.clone() };
                let value = self.referred(&whole, &file, used, 0);
                bound.push(Binding { root: reference.root, name: local, value });
            }
            let exact = self.referred(&reference, &file, used, 0);
            references.extend(exact.references().into_iter().cloned());
            let rest = reference.path.iter().skip(1).cloned();
            let path = std::iter::once(local_name(&reference, condition.at.as_ref())).chain(rest).collect();
            asked.push((Reference { path, ..reference }.text(), exact));
        }
        condition.references = references;
        condition.bound = Some(bound);
        condition.asked = asked;
    }

    /// The template with values in the place of what only a sub-workflow knows.
    fn settled(
        &mut self,
        template: &Template,
        file: &Source,
        used: &mut BTreeSet<NodeId>,
        depth: usize,
    ) -> Template {
        let kind = match &template.kind {
            TemplateKind::Reference(reference) => {
                let value = self.referred(reference, file, used, depth);
                return Template { secret: template.secret.clone().or(value.secret), ..value };
            }
            TemplateKind::Text(pieces) => self.text(pieces, file, used, depth),
            TemplateKind::List(items) => {
                TemplateKind::List(items.iter().map(|item| self.settled(item, file, used, depth)).collect())
            }
            TemplateKind::Map(entries) => {
                let entry = |(key, span, value): &(String, Span, Template)| {
                    (key.clone(), span.clone(), self.settled(value, file, used, depth))
                };
                TemplateKind::Map(entries.iter().map(entry).collect())
            }
            other => other.clone(),
        };
        Template { span: template.span.clone(), kind, secret: template.secret.clone() }
    }

    fn text(
        &mut self,
        pieces: &[Piece],
        file: &Source,
        used: &mut BTreeSet<NodeId>,
        depth: usize,
    ) -> TemplateKind {
        let mut whole = Vec::new();
        for piece in pieces {
            let Piece::Reference(reference) = piece else {
                whole.push(piece.clone());
                continue;
            };
            let value = self.referred(reference, file, used, depth);
            if value.secret.is_some() && !matches!(value.kind, TemplateKind::Broken) {
                misplaced_secret(self.mistakes, file, &reference.span, &shown(reference), IN_A_TEXT);
                return TemplateKind::Broken;
            }
            match value.kind {
                TemplateKind::Reference(reference) => whole.push(Piece::Reference(reference)),
                TemplateKind::Text(inner) => whole.extend(inner),
                TemplateKind::Literal(Value::String(text)) => whole.push(Piece::Text(text)),
                TemplateKind::Literal(value @ (Value::Bool(_) | Value::Number(_))) => {
                    whole.push(Piece::Text(value.to_string()));
                }
                TemplateKind::Broken => return TemplateKind::Broken,
                other => {
                    let is = match &other {
                        TemplateKind::Literal(value) => json_type(value),
                        TemplateKind::List(_) => "a list",
                        _ => "a table",
                    };
                    let message =
                        format!("`${{{}}}` is {is} and can't be written into a text", shown(reference));
                    self.mistakes.add(file, reference.span.clone(), "wrong-type", message);
                    return TemplateKind::Broken;
                }
            }
        }
        TemplateKind::Text(whole)
    }

    /// What `reference` comes down to; everything in it stands where the reference does.
    fn referred(
        &mut self,
        reference: &Reference,
        file: &Source,
        used: &mut BTreeSet<NodeId>,
        depth: usize,
    ) -> Template {
        let (span, path) = (reference.span.clone(), &reference.path);
        let broken: Template = (span.clone(), TemplateKind::Broken).into();
        if depth > MAX_PASSED {
            let message = format!("`${{{}}}` is made of itself", shown(reference));
            self.mistakes.add(file, span, "cycle", message);
            return broken;
        }
        let part = path.first().filter(|_| reference.root == Root::Nodes);
        let part = part.and_then(|name| self.parts.iter().find(|part| part.id.as_str() == name)).cloned();
        let (value, rest, at) = match (reference.root, part) {
            (Root::Params, _) if path[0].contains(OF) => match self.given.get(&path[0]) {
                Some(value) => (value.clone(), &path[1..], file.clone()),
                None => {
                    let name = path[0].rsplit(OF).next().unwrap_or_default();
                    let message = format!("there is no parameter `{name}`");
                    self.mistakes
                        .add(file, span, "unknown-param", message)
                        .help(format!("declare it: `[params.{name}]`"));
                    return broken;
                }
            },
            (Root::Nodes, Some(part)) => {
                used.insert(part.id.clone());
                let Some(name) = path.get(1) else {
                    let entries = part.outputs.iter().map(|output| {
                        let value = self.settled(&output.value, file, used, depth + 1);
                        (output.name.clone(), span.clone(), value)
                    });
                    let kind = TemplateKind::Map(entries.collect());
                    return moved((span.clone(), kind).into(), &span);
                };
                match part.outputs.iter().find(|output| output.name == *name) {
                    Some(output) => (output.value.clone(), &path[2..], part.source.clone()),
                    None => {
                        let source = self.shown(&part.source);
                        let message = format!("`{source}` has no output `{name}`");
                        let known = part.outputs.iter().map(|output| output.name.as_str());
                        self.mistakes
                            .add(file, span, "unknown-output", message)
                            .help(format!(
                                "declare it there: `[outputs]` and `{name} = \"${{nodes.NODE.OUTPUT}}\"`"
                            ))
                            .suggest(name, known);
                        return broken;
                    }
                }
            }
            _ => return (span, TemplateKind::Reference(reference.clone())).into(),
        };
        let value = moved(self.settled(&value, &at, used, depth + 1), &span);
        match value.follow(rest) {
            Some(value) => value,
            None => {
                let message = format!("`${{{}}}` stands for nothing", shown(reference));
                self.mistakes.add(file, span, "unknown-field", message);
                broken
            }
        }
    }
}

fn param_name(part: &NodeId, name: &str) -> String {
    format!("{part}{OF}{name}")
}

/// As it is written in its file.
fn shown(reference: &Reference) -> String {
    let mut local = reference.clone();
    local.path[0] = local.path[0].rsplit([OF, '/']).next().unwrap_or_default().to_owned();
    local.text()
}

fn local_name(reference: &Reference, at: Option<&NodeId>) -> String {
    let name = &reference.path[0];
    let inner = at.and_then(|at| name.strip_prefix(at.as_str()));
    inner.and_then(|rest| rest.strip_prefix([OF, '/'])).unwrap_or(name).to_owned()
}

fn rename(template: &mut Template, at: &NodeId) {
    match &mut template.kind {
        TemplateKind::Literal(_) | TemplateKind::Broken => {}
        TemplateKind::Reference(reference) => rename_reference(reference, at),
        TemplateKind::Text(pieces) => {
            for piece in pieces {
                if let Piece::Reference(reference) = piece {
                    rename_reference(reference, at);
                }
            }
        }
        TemplateKind::List(items) => items.iter_mut().for_each(|item| rename(item, at)),
        TemplateKind::Map(entries) => entries.iter_mut().for_each(|(_, _, value)| rename(value, at)),
    }
}

fn rename_reference(reference: &mut Reference, at: &NodeId) {
    let name = &mut reference.path[0];
    match reference.root {
        Root::Nodes => *name = format!("{at}/{name}"),
        Root::Params => *name = param_name(at, name),
        Root::Env | Root::Each => {}
    }
}

/// The template as if it were written at `span`. What it refers to is checked where it was written.
fn moved(mut template: Template, span: &Span) -> Template {
    shift(&mut template, span);
    template
}

fn shift(template: &mut Template, span: &Span) {
    template.span = span.clone();
    match &mut template.kind {
        TemplateKind::Literal(_) | TemplateKind::Broken => {}
        TemplateKind::Reference(reference) => (reference.span, reference.is_passed) = (span.clone(), true),
        TemplateKind::Text(pieces) => {
            for piece in pieces {
                if let Piece::Reference(reference) = piece {
                    (reference.span, reference.is_passed) = (span.clone(), true);
                }
            }
        }
        TemplateKind::List(items) => items.iter_mut().for_each(|item| shift(item, span)),
        TemplateKind::Map(entries) => {
            for (_, key_span, value) in entries {
                *key_span = span.clone();
                shift(value, span);
            }
        }
    }
}
