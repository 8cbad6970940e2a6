//! Everything that can be known of a workflow without asking any service: steps, references,
//! types, conditions, and the config of every node against its step's schema.

use std::collections::BTreeMap;

use migrate_plugin_api::{NodeId, SecretRef};
use serde_json::{Map, Value};

use super::condition::Condition;
use super::diagnostic::{Mistakes, Source};
use super::each::Each;
use super::environment::Environment;
use super::model::{Node, Workflow};
use super::resolve::{NothingYet, Outcomes};
use super::schema::{self, Child, Fault};
use super::template::{Lookup, Part, Reference, ResolveError, Root, Template, TemplateKind, node_of};
use super::tree::Span;
use super::{Catalog, Described, secrets};

/// One pass over a workflow and what surrounds it.
pub(crate) struct Checker<'a> {
    pub catalog: &'a Catalog,
    pub workflow: &'a Workflow,
    /// `None`: unknown, not empty.
    pub environment: Option<&'a Environment>,
    pub params: &'a BTreeMap<String, Option<Value>>,
    pub mistakes: &'a mut Mistakes,
    /// Where what is checked is written.
    pub file: Source,
}

/// Lists of checks in `migration.toml`.
const CHECKS: [&str; 2] = ["smoke", "data"];

/// Where something is written.
struct Written<'n> {
    file: Source,
    span: Span,
    /// The reference that led there.
    reference: Option<&'n Reference>,
    /// Its path in the environment, if it is there.
    within: Option<Vec<String>>,
    /// The places of all values in it.
    values: Vec<Span>,
}

/// The end of a sentence about what stands where a reference to a secret belongs.
pub(crate) fn no_reference() -> String {
    SecretRef::try_from(String::new()).map_or_else(|error| error.to_string(), |_| String::new())
}

/// Why a reference to a secret can't stand where it does.
pub(crate) const IN_A_TEXT: &str = "can't be written into a text";
const IN_A_FIELD: &str = "this field takes none";

/// A reference to a secret, `what`, stands at `span` where it would be taken for the value itself.
pub(crate) fn misplaced_secret(mistakes: &mut Mistakes, file: &Source, span: &Span, what: &str, why: &str) {
    mistakes
        .add(file, span.clone(), "sensitive", format!("`{what}` is a reference to a secret, and {why}"))
        .help("put it alone in a field that takes such a reference: the step then resolves it");
}

/// What is already known to be skipped, and why.
pub(crate) type Skipped = BTreeMap<NodeId, String>;

impl Checker<'_> {
    /// Checks every node, in order.
    pub(crate) fn nodes(&mut self) -> Skipped {
        let mut skipped = Skipped::new();
        self.parts();
        for node in &self.workflow.nodes {
            self.file = node.file.clone();
            self.pool(node);
            let reason = self.skip_reason(node, &skipped);
            let is_skipped = reason.is_some();
            skipped.extend(reason.map(|reason| (node.id.clone(), reason)));
            for reference in node.own_references() {
                self.reference(node, reference, is_skipped);
            }
            let items = self.items(node, is_skipped);
            let described = self.catalog.get(&node.step);
            match described {
                Some(described) => {
                    if described.unusable.is_some() {
                        self.conceal(node);
                    }
                    self.configs(node, described, is_skipped, items.as_deref());
                }
                None if node.step.is_empty() => self.conceal(node),
                None => {
                    self.conceal(node);
                    let message = format!("there is no step `{}`", node.step);
                    self.mistakes
                        .add(&self.file, node.step_span.clone(), "unknown-step", message)
                        .help("`migrate steps` lists them all")
                        .suggest(&node.step, self.catalog.keys().map(String::as_str));
                }
            }
        }
        skipped
    }

    fn pool(&mut self, node: &Node) {
        let Some(pool) = &node.pool else { return };
        let (file, span) = (&node.file, node.pool_span.clone());
        match self.workflow.pools.get(pool) {
            None => {
                self.mistakes
                    .add(file, span, "unknown-pool", format!("there is no pool `{pool}`"))
                    .suggest(pool, self.workflow.pools.keys().map(String::as_str))
                    .help(format!("declare it: `[pools]` and `{pool} = {}`", node.weight.max(8)));
            }
            Some(size) if node.weight > *size => {
                let weight = node.weight;
                let message = format!(
                    "node `{}` could never start: it takes {weight} of the {size} places of pool `{pool}`",
                    node.id
                );
                self.mistakes.add(file, span, "too-heavy", message);
            }
            Some(_) => {}
        }
    }

    /// Why the node will certainly not run.
    fn skip_reason(&mut self, node: &Node, skipped: &Skipped) -> Option<String> {
        if let Some(gone) = node.references().find_map(|r| node_of(r).filter(|id| skipped.contains_key(id))) {
            return Some(refers_to_skipped(&gone));
        }
        node.conditions().find_map(|when| self.condition(when))
    }

    /// Why a condition is certainly false.
    fn condition(&mut self, when: &Condition) -> Option<String> {
        let known = |r: &Reference| match r.root {
            Root::Nodes | Root::Each => false,
            Root::Params => self.params.get(&r.path[0]).is_some_and(Option::is_some),
            Root::Env => self.environment.is_some(),
        };
        if !when.references.iter().all(known) {
            return None;
        }
        let mut scope = scope(when, self.params, self.environment.map(|e| &e.value), Map::new());
        when.bind(&mut scope, &|reference| self.lookup(reference));
        match when.evaluate(&scope) {
            Ok(true) => None,
            Ok(false) => Some(condition_is_false(&when.text)),
            Err(why) => {
                let exists = |r: &Reference| !matches!(self.lookup(r), Lookup::Missing);
                // A missing name is reported where the reference is.
                if when.references.iter().all(exists) {
                    let message = format!("the condition can't be decided: {why}");
                    self.mistakes.add(&when.file, when.span.clone(), "invalid-condition", message);
                }
                None
            }
        }
    }

    pub(super) fn lookup(&self, reference: &Reference) -> Lookup<'_> {
        lookup(reference, self.params, self.environment.map(|e| &e.value), &NothingYet)
    }

    pub(super) fn reference(&mut self, node: &Node, reference: &Reference, is_skipped: bool) {
        if reference.is_passed {
            return;
        }
        let file = &self.file.clone();
        let name = &reference.path[0];
        match reference.root {
            Root::Params => {
                if !self.params.contains_key(name) {
                    self.mistakes
                        .add(
                            file,
                            reference.span.clone(),
                            "unknown-param",
                            format!("there is no parameter `{name}`"),
                        )
                        .suggest(name, self.params.keys().map(String::as_str))
                        .help(format!("declare it: `[params.{name}]`"));
                } else if matches!(self.lookup(reference), Lookup::Missing) {
                    let message =
                        format!("`{}` stands for nothing: the parameter has no such field", reference.text());
                    self.mistakes.add(file, reference.span.clone(), "unknown-param", message);
                }
            }
            Root::Env if is_skipped => {}
            Root::Env => self.env_reference(reference),
            Root::Nodes => self.output_reference(node, reference),
            Root::Each => self.each_reference(node, reference),
        }
    }

    fn env_reference(&mut self, reference: &Reference) {
        let Some(environment) = self.environment else { return };
        let (tree, _, depth) = environment.tree.descend(&reference.path);
        if depth == reference.path.len() {
            return;
        }
        let (missing, place) = (&reference.path[depth], reference.path[..depth].join("."));
        let shown = environment.file.path().display();
        let message = match place.as_str() {
            "" => format!("{shown} has no `{missing}`"),
            place => format!("{shown} has no `{missing}` in `{place}`"),
        };
        let known = tree.entries().unwrap_or_default().iter().map(|entry| entry.key.as_str());
        let mistake = self.mistakes.add(&self.file, reference.span.clone(), "unknown-env", message);
        mistake.suggest(missing, known);
        if place.is_empty() && CHECKS.contains(&missing.as_str()) {
            mistake.help(format!(
                "write a table `[[{missing}]]` for each check: without any, nothing would be shown to have arrived"
            ));
        }
    }

    fn output_reference(&mut self, node: &Node, reference: &Reference) {
        let file = &self.file.clone();
        let name = &reference.path[0];
        let target = NodeId::new(name.clone()).ok().and_then(|id| self.workflow.node(&id));
        let Some(target) = target else {
            let message = format!("node `{}` refers to `{name}`, which is no node", node.id);
            self.mistakes
                .add(file, reference.span.clone(), "unknown-node", message)
                .suggest(name, self.workflow.nodes.iter().map(|n| n.id.as_str()));
            return;
        };
        let Some(described) = self.catalog.get(&target.step) else { return };
        let Some(inner) = self.item_of(target, reference) else { return };
        let root = &described.info.output_schema;
        let mut schemas = vec![root];
        for (depth, segment) in inner.iter().enumerate() {
            match schema::child(root, &schemas, segment) {
                Child::Schemas(found) => schemas = found,
                Child::Open => return,
                Child::Absent(known) => {
                    let of = match depth {
                        0 => format!("step `{}`", target.step),
                        _ => format!("`{}` of step `{}`", inner[..depth].join("."), target.step),
                    };
                    let message = format!("{of} has no output `{segment}`");
                    self.mistakes
                        .add(&self.file, reference.span.clone(), "unknown-output", message)
                        .suggest(segment, known.iter().map(String::as_str));
                    return;
                }
            }
        }
        let pointer = format!("/{}", inner.join("/"));
        let sensitive = |s: &String| pointer.starts_with(s.as_str()) || s.starts_with(&pointer);
        if described.info.sensitive.iter().any(sensitive) {
            let message = format!("`{}` is sensitive and is not kept", reference.text());
            self.mistakes
                .add(&self.file, reference.span.clone(), "sensitive", message)
                .help("pass a reference to the secret (as in `env:NAME`) instead");
        }
    }

    /// The config of one node, or of one item of it, against its step's schema.
    pub(super) fn config(
        &mut self,
        node: &Node,
        described: &Described,
        is_skipped: bool,
        each: Option<Each<'_>>,
    ) {
        let mut errors = Vec::new();
        let absent = std::cell::RefCell::new(Vec::new());
        let lookup = |reference: &Reference| match (reference.root, each) {
            // What an item lacks is a mistake of the list, and told as such.
            (Root::Each, Some(each)) => match each.lookup(reference) {
                Lookup::Known(value) => Lookup::Known(value),
                Lookup::Unknown | Lookup::Missing => {
                    absent.borrow_mut().push(reference.clone());
                    Lookup::Unknown
                }
            },
            (Root::Each, None) => Lookup::Unknown,
            _ => match self.lookup(reference) {
                Lookup::Missing => Lookup::Unknown,
                Lookup::Known(_) if is_skipped && reference.root == Root::Env => Lookup::Unknown,
                other => other,
            },
        };
        let config = node.with.resolve_all(&lookup, &mut errors);
        for error in errors {
            let span = match &error {
                ResolveError::NotScalar(_, _, span) => span.clone(),
                ResolveError::Missing(_) => node.with.span.clone(),
            };
            self.mistakes.add(&self.file, span, "wrong-type", error.to_string());
        }
        for reference in absent.into_inner() {
            let message = format!("`{}` stands for nothing: the item has no such field", reference.text());
            self.mistakes.add(&self.file, reference.span, "unknown-field", message);
        }
        for complaint in schema::complaints(&described.validator, &described.info.config_schema, &config) {
            self.complain(node, &complaint.path, complaint.fault);
        }
        self.output_types(&node.with, described, &mut vec![&described.info.config_schema], node);
        self.pasted_secrets(&node.with, node);
    }

    /// Of a step whose fields aren't known, each value may be a secret that was pasted.
    fn conceal(&mut self, node: &Node) {
        let mut written = Vec::new();
        secrets::written(&node.with, &mut written);
        written.iter().for_each(|span| self.mistakes.hide(&node.file, span));
        for reference in node.with.references() {
            let Written { file, values, .. } = self.referred(reference, &[], false);
            values.iter().for_each(|span| self.mistakes.hide(&file, span));
        }
    }

    fn is_sensitive(&self, reference: &Reference) -> bool {
        let named = |name: &String| self.workflow.params.iter().any(|p| p.sensitive && p.name == *name);
        reference.root == Root::Params && reference.path.first().is_some_and(named)
    }

    /// A field that takes no reference to a secret would take the reference for the value.
    fn misplaced_secret(&mut self, reference: &Reference, node: &Node, why: &str) {
        let (file, span) = match reference.is_passed {
            true => (node.file.clone(), node.span.clone()),
            false => (self.file.clone(), reference.span.clone()),
        };
        misplaced_secret(self.mistakes, &file, &span, &reference.text(), why);
    }

    /// A text in which a secret's reference stands holds no secret.
    fn pasted_secrets(&mut self, template: &Template, node: &Node) {
        match &template.kind {
            TemplateKind::Text(parts) => {
                for part in parts {
                    if let Part::Reference(reference) = part
                        && self.is_sensitive(reference)
                    {
                        self.misplaced_secret(reference, node, IN_A_TEXT);
                    }
                }
            }
            TemplateKind::Map(entries) => {
                entries.iter().for_each(|(_, _, value)| self.pasted_secrets(value, node));
            }
            TemplateKind::List(items) => items.iter().for_each(|item| self.pasted_secrets(item, node)),
            _ => {}
        }
    }

    fn complain(&mut self, node: &Node, path: &[String], fault: Fault) {
        let field = dotted(path);
        let (full, known): (Vec<String>, Vec<String>) = match &fault {
            Fault::UnknownField { name, known, .. } => {
                (path.iter().cloned().chain([name.clone()]).collect(), known.clone())
            }
            _ => (path.to_vec(), Vec::new()),
        };
        let is_key = matches!(fault, Fault::UnknownField { .. });
        let Written { file, span, reference, within, values } = self.place(node, &full, is_key);
        // In `migration.toml` a mistake is one of the place, whichever nodes and steps use it.
        let owner = match (within, field.is_empty()) {
            (Some(within), _) => {
                let owner =
                    if is_key { within.split_last().map_or(&[][..], |(_, owner)| owner) } else { &within };
                format!("`{}`", dotted(owner))
            }
            (None, true) => format!("step `{}`", node.step),
            (None, false) => format!("`{field}` of step `{}`", node.step),
        };
        if matches!(fault, Fault::Secret | Fault::UnknownField { is_secret: true, .. }) {
            values.iter().for_each(|value| self.mistakes.hide(&file, value));
        }
        let mistake = match fault {
            Fault::UnknownField { name, .. } => self
                .mistakes
                .add(&file, span, "unknown-field", format!("{owner} has no field `{name}`"))
                .suggest(&name, known.iter().map(String::as_str)),
            Fault::MissingField { name } => {
                self.mistakes.add(&file, span, "missing-field", format!("{owner} needs the field `{name}`"))
            }
            Fault::Secret => {
                self.mistakes.add(&file, span, "secret", format!("{owner} is {}", no_reference()))
            }
            Fault::Other(text) => self.mistakes.add(&file, span, "wrong-type", format!("{owner} {text}")),
        };
        if let Some(reference) = reference {
            mistake.used_by(&node.id, reference.text());
        }
    }

    /// Where the value at `path` of a node's config, or its key, is written: in the workflow, or in
    /// the environment that it refers to.
    fn place<'n>(&self, node: &'n Node, path: &[String], is_key: bool) -> Written<'n> {
        let mut template = &node.with;
        let mut span = if path.is_empty() { node.span.clone() } else { template.span.clone() };
        for (depth, segment) in path.iter().enumerate() {
            match &template.kind {
                TemplateKind::Map(entries) => match entries.iter().find(|(key, _, _)| key == segment) {
                    Some((_, key_span, value)) => {
                        let last = depth + 1 == path.len();
                        let shown = last
                            && !is_key
                            && !matches!(value.kind, TemplateKind::Map(_) | TemplateKind::List(_));
                        span = if shown { value.span.clone() } else { key_span.clone() };
                        template = value;
                    }
                    None => break,
                },
                TemplateKind::List(items) => match segment.parse().ok().and_then(|at: usize| items.get(at)) {
                    Some(item) => (template, span) = (item, item.span.clone()),
                    None => break,
                },
                TemplateKind::Reference(reference) => {
                    return self.referred(reference, &path[depth..], is_key);
                }
                _ => break,
            }
        }
        match &template.kind {
            TemplateKind::Reference(reference) if !is_key => self.referred(reference, &[], is_key),
            _ => {
                let values = vec![template.span.clone()];
                Written { file: self.file.clone(), span, reference: None, within: None, values }
            }
        }
    }

    fn referred<'n>(&self, reference: &'n Reference, rest: &[String], is_key: bool) -> Written<'n> {
        match self.environment {
            Some(environment) if reference.root == Root::Env => {
                let full: Vec<String> = reference.path.iter().chain(rest).cloned().collect();
                let (tree, key, depth) = environment.tree.descend(&full);
                let whole = depth == full.len() && tree.entries().is_none() && !is_key;
                let span = key.filter(|_| !whole).cloned().unwrap_or_else(|| tree.span.clone());
                let mut values = Vec::new();
                secrets::values(tree, &mut values);
                let file = environment.file.clone();
                Written { file, span, reference: Some(reference), within: Some(full), values }
            }
            _ => {
                let (file, span) = (self.file.clone(), reference.span.clone());
                Written { file, span, reference: Some(reference), within: None, values: Vec::new() }
            }
        }
    }

    /// Types of referenced outputs against the types that the config asks for.
    fn output_types<'s>(
        &mut self,
        template: &Template,
        described: &'s Described,
        schemas: &mut Vec<&'s Value>,
        node: &Node,
    ) {
        let root = &described.info.config_schema;
        if let Some(secret) = &template.secret
            && !schema::takes_secrets(root, schemas)
        {
            return misplaced_secret(self.mistakes, &self.file, &template.span, secret, IN_A_FIELD);
        }
        match &template.kind {
            TemplateKind::Reference(reference) if matches!(reference.root, Root::Nodes | Root::Each) => {
                let (Some(from), Some(to)) =
                    (self.reference_type(node, reference), schema::types(root, schemas))
                else {
                    return;
                };
                if !schema::compatible(&from, &to) {
                    let (is, must) = (schema::spell(&from), schema::spell(&to));
                    let message = format!("`{}` is {is}, but must be {must} here", reference.text());
                    self.mistakes.add(&self.file, reference.span.clone(), "wrong-type", message);
                }
            }
            TemplateKind::Reference(reference)
                if self.is_sensitive(reference) && !schema::takes_secrets(root, schemas) =>
            {
                self.misplaced_secret(reference, node, IN_A_FIELD);
            }
            TemplateKind::Text(parts) => self.text_types(parts, node),
            TemplateKind::Map(entries) => {
                for (key, _, value) in entries {
                    if let Child::Schemas(mut found) = schema::child(root, schemas, key) {
                        self.output_types(value, described, &mut found, node);
                    }
                }
            }
            TemplateKind::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    if let Child::Schemas(mut found) = schema::child(root, schemas, &at.to_string()) {
                        self.output_types(item, described, &mut found, node);
                    }
                }
            }
            _ => {}
        }
    }

    /// Only scalars can be written into a text.
    fn text_types(&mut self, parts: &[Part], node: &Node) {
        for part in parts {
            let Part::Reference(reference) = part else { continue };
            let Some(types) = self.reference_type(node, reference) else { continue };
            if types.iter().all(|name| matches!(*name, "array" | "object")) {
                let is = schema::spell(&types);
                let message = format!("`${{{}}}` is {is} and can't be written into a text", reference.text());
                self.mistakes.add(&self.file, reference.span.clone(), "wrong-type", message);
            }
        }
    }
}

/// `a.b[2].c`.
pub(crate) fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment.parse::<usize>() {
            Ok(at) if !text.is_empty() => text.push_str(&format!("[{at}]")),
            _ if text.is_empty() => text.push_str(segment),
            _ => text.push_str(&format!(".{segment}")),
        }
    }
    text
}

/// The reason of a skipped node whose condition says so.
pub(crate) fn condition_is_false(text: &str) -> String {
    format!("`when` is false: {text}")
}

/// The reason of a skipped node that refers to another.
pub(crate) fn refers_to_skipped(node: &NodeId) -> String {
    format!("it refers to outputs of `{node}`, which is skipped")
}

/// What a condition sees, as far as it looks: an environment can be large, and conditions can be many.
pub(crate) fn scope(
    when: &Condition,
    params: &BTreeMap<String, Option<Value>>,
    environment: Option<&Value>,
    nodes: Map<String, Value>,
) -> Map<String, Value> {
    let known = params.iter().filter(|_| when.looks_at(Root::Params));
    let params: Map<String, Value> =
        known.filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    let environment = environment.filter(|_| when.looks_at(Root::Env));
    let environment = environment.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    Map::from_iter([
        ("params".to_owned(), Value::Object(params)),
        ("env".to_owned(), environment),
        ("nodes".to_owned(), Value::Object(nodes)),
    ])
}

/// What a reference stands for.
pub(crate) fn lookup<'a>(
    reference: &Reference,
    params: &'a BTreeMap<String, Option<Value>>,
    environment: Option<&'a Value>,
    outcomes: &'a dyn Outcomes,
) -> Lookup<'a> {
    let (value, path) = match reference.root {
        Root::Params => match params.get(&reference.path[0]) {
            Some(Some(value)) => (value, &reference.path[1..]),
            Some(None) => return Lookup::Unknown,
            None => return Lookup::Missing,
        },
        Root::Env => match environment {
            Some(value) => (value, &reference.path[..]),
            None => return Lookup::Unknown,
        },
        Root::Nodes => return outcomes.output(&reference.path),
        // Only known item by item.
        Root::Each => return Lookup::Unknown,
    };
    Lookup::at(value, path)
}
