//! Events → spans: run → node → attempt. Pure. No outputs, no configs and no log lines are in them.
//!
//! The trace ID is made of the run's, so that all processes of a run are one trace; each process is
//! one span below it.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use migrate_engine::{Event, EventKind, RunState, Timestamp};
use migrate_plugin_api::{ErrorRecord, NodeId, Progress};

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace: [u8; 16],
    pub id: [u8; 8],
    /// `None`: the process's.
    pub parent: Option<[u8; 8]>,
    pub name: String,
    pub start: Timestamp,
    pub end: Timestamp,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// What is open.
#[derive(Default)]
pub struct Tracer {
    trace: [u8; 16],
    root: Option<Span>,
    nodes: BTreeMap<NodeId, Open>,
    last: Timestamp,
}

struct Open {
    node: Span,
    attempt: Option<Span>,
    retries: i64,
    progress: Progress,
}

impl Tracer {
    /// Takes one event; what ends with it is added to `ended`.
    pub fn take(&mut self, event: &Event, ended: &mut Vec<Span>) {
        self.last = event.at;
        let at = event.at;
        match &event.kind {
            EventKind::RunStarted { workflow, resumed, nodes } => {
                self.trace = id(&["run", event.run.as_str()]);
                let mut root = self.span("run", &["process", &at.to_string()], None, at);
                root.name = format!("run {workflow}");
                root.attributes = vec![
                    ("migrate.run", Attribute::Text(event.run.to_string())),
                    ("migrate.workflow", Attribute::Text(workflow.clone())),
                    ("migrate.resumed", Attribute::Flag(*resumed)),
                    ("migrate.nodes", Attribute::Number(nodes.len() as i64)),
                ];
                self.root = Some(root);
            }
            EventKind::NodeStarted { node, step, attempt } => {
                self.open(node, at);
                let number = attempt.to_string();
                let Some(parent) = self.nodes.get(node).map(|open| open.node.id) else { return };
                let seed = ["attempt", node.as_str(), &number, &at.to_string()];
                let mut span = self.span(&format!("attempt {attempt}"), &seed, Some(parent), at);
                span.attributes.push(("migrate.attempt", Attribute::Number(i64::from(*attempt))));
                if let Some(open) = self.nodes.get_mut(node) {
                    open.node.attributes.retain(|(name, _)| *name != "migrate.step");
                    open.node.attributes.push(("migrate.step", Attribute::Text(step.clone())));
                    open.attempt = Some(span);
                }
            }
            EventKind::NodeVerifying { node } => self.open(node, at),
            EventKind::NodeProgress { node, progress } => {
                if let Some(open) = self.nodes.get_mut(node) {
                    open.progress = progress.clone();
                }
            }
            EventKind::NodeRetrying { node, error, .. } => {
                self.open(node, at);
                if let Some(open) = self.nodes.get_mut(node) {
                    open.retries += 1;
                    ended.extend(open.attempt.take().map(|span| failed(span, error, at)));
                }
            }
            EventKind::NodeFinished { node, .. } => self.close(node, "finished", None, at, ended),
            EventKind::NodeFailed { node, error, .. } => self.close(node, "failed", Some(error), at, ended),
            EventKind::NodeReused { node, .. } => self.close(node, "reused", None, at, ended),
            EventKind::NodeSkipped { node, .. } => self.close(node, "skipped", None, at, ended),
            EventKind::NodeUndone { node, .. } => self.close(node, "undone", None, at, ended),
            EventKind::NodeUndoing { node, .. } => self.open(node, at),
            EventKind::NodeWaiting { node, .. } => self.close(node, "waiting", None, at, ended),
            EventKind::NodeInterrupted { node } => self.close(node, "interrupted", None, at, ended),
            EventKind::RunFinished { state, .. } => {
                if let Some(root) = &mut self.root {
                    let word = serde_json::to_value(state).ok().and_then(|v| v.as_str().map(str::to_owned));
                    root.attributes.push(("migrate.state", Attribute::Text(word.unwrap_or_default())));
                    root.failure = (*state == RunState::Failed).then(|| "a node failed".to_owned());
                }
                self.end(ended);
            }
            _ => {}
        }
    }

    /// Ends everything that is open, at the time of the last event.
    pub fn end(&mut self, ended: &mut Vec<Span>) {
        let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
        nodes.iter().for_each(|node| self.close(node, "interrupted", None, self.last, ended));
        ended.extend(self.root.take().map(|root| Span { end: self.last, ..root }));
    }

    fn span(&self, name: &str, seed: &[&str], parent: Option<[u8; 8]>, at: Timestamp) -> Span {
        let mut seed = seed.to_vec();
        let trace = self.trace.map(|byte| byte.to_string()).join(".");
        seed.push(&trace);
        let id = id(&seed);
        let (trace, name) = (self.trace, name.to_owned());
        Span { trace, id, parent, name, start: at, end: at, attributes: Vec::new(), failure: None }
    }

    fn open(&mut self, node: &NodeId, at: Timestamp) {
        if self.nodes.contains_key(node) {
            return;
        }
        let parent = self.root.as_ref().map(|root| root.id);
        let mut span = self.span(node.as_str(), &["node", node.as_str(), &at.to_string()], parent, at);
        span.attributes.push(("migrate.node", Attribute::Text(node.to_string())));
        let open = Open { node: span, attempt: None, retries: 0, progress: Progress::default() };
        self.nodes.insert(node.clone(), open);
    }

    fn close(
        &mut self,
        node: &NodeId,
        state: &str,
        error: Option<&ErrorRecord>,
        at: Timestamp,
        ended: &mut Vec<Span>,
    ) {
        self.open(node, at);
        let Some(open) = self.nodes.remove(node) else { return };
        let end = |span: Span| match error {
            Some(error) => failed(span, error, at),
            None => Span { end: at, ..span },
        };
        ended.extend(open.attempt.map(end));
        let mut span = end(open.node);
        span.attributes.push(("migrate.state", Attribute::Text(state.to_owned())));
        span.attributes.push(("migrate.retries", Attribute::Number(open.retries)));
        for (name, amount) in [("migrate.bytes", open.progress.bytes), ("migrate.items", open.progress.items)]
        {
            let done = amount.and_then(|amount| i64::try_from(amount.done).ok());
            span.attributes.extend(done.map(|done| (name, Attribute::Number(done))));
        }
        ended.push(span);
    }
}

/// Its class and message. What a step says in an error never holds a secret.
fn failed(mut span: Span, error: &ErrorRecord, at: Timestamp) -> Span {
    span.attributes.push(("error.type", Attribute::Text(class(error))));
    Span { end: at, failure: Some(error.message.clone()), ..span }
}

/// The name of its class, as in JSON: a word, or a table that names it.
fn class(error: &ErrorRecord) -> String {
    let value = serde_json::to_value(error.class).unwrap_or_default();
    let word = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let named =
        value.as_object().and_then(|map| map.values().find_map(word).or_else(|| map.keys().next().cloned()));
    word(&value).or(named).unwrap_or_default()
}

fn id<const N: usize>(parts: &[&str]) -> [u8; N] {
    let sum = digest::digest(&digest::SHA256, parts.join("\0").as_bytes());
    let mut id = [0; N];
    id.copy_from_slice(&sum.as_ref()[..N]);
    id
}
