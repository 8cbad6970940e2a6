//! A workflow as read from its file, before anything is known of its surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use migrate_plugin_api::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::Condition;
use super::diagnostic::Source;
use super::each::ForEach;
use super::template::{Reference, Template};
use super::tree::Span;

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParamType {
    String,
    Integer,
    Boolean,
    Duration,
    List,
    Map,
}

/// `[params.NAME]`.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    pub span: Span,
    pub kind: ParamType,
    pub default: Option<Value>,
    /// Whether there must be a value: no default was written, not even a wrong one.
    pub required: bool,
    pub help: Option<String>,
    pub choices: Option<Vec<Value>>,
    pub sensitive: bool,
}

/// `retry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retry {
    /// Attempts in one process of the run, the first included.
    pub attempts: u32,
    /// Wait before the second attempt; doubled each time, and a random share of it is taken.
    pub backoff: Duration,
    /// The longest wait, unless a service asks for more.
    pub max_backoff: Duration,
    /// The longest attempt; one that takes longer is stopped and tried again.
    pub attempt_timeout: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        let (backoff, max_backoff) = (Duration::from_secs(1), Duration::from_secs(60));
        Self { attempts: 3, backoff, max_backoff, attempt_timeout: None }
    }
}

/// What the failure of a node means for the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Nothing more is started; what runs goes on to its end.
    #[default]
    Stop,
    /// Only what needs it is not run.
    Continue,
    /// Nothing more is started; when what runs has ended, the run is undone.
    Undo,
}

/// `[nodes.NAME]`.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub id: NodeId,
    /// Where it is written.
    pub file: Source,
    pub span: Span,
    pub step: String,
    pub step_span: Span,
    pub with: Template,
    /// It runs once for each item of a list.
    pub for_each: Option<ForEach>,
    pub needs: Vec<(NodeId, Span)>,
    pub when: Option<Condition>,
    /// Conditions of the sub-workflows that it is in.
    pub guards: Vec<Condition>,
    /// Nodes and sub-workflows that it waits for because of a sub-workflow.
    pub inherited: Vec<NodeId>,
    pub timeout: Option<Duration>,
    pub retry: Retry,
    /// The longest silence of an attempt: without progress, a log line, a checkpoint or a handle.
    pub heartbeat: Option<Duration>,
    pub pool: Option<String>,
    /// Places that it takes in its pool.
    pub weight: usize,
    pub pool_span: Span,
    pub on_failure: OnFailure,
}

impl Node {
    /// Every reference that it waits for: in its list, its config and its condition.
    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        let list = self.for_each.iter().flat_map(|each| each.list.references());
        list.chain(self.with.references()).chain(self.conditions().flat_map(|when| &when.references))
    }

    /// The references that are written in it, and not in what it is part of.
    pub(crate) fn own_references(&self) -> impl Iterator<Item = &Reference> {
        let list = self.for_each.iter().flat_map(|each| each.list.references());
        list.chain(self.with.references()).chain(self.when.iter().flat_map(|when| &when.references))
    }

    /// Everything that must be true for it to run.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.guards.iter().chain(&self.when)
    }

    /// Whether its condition is asked for each item, and not once for all.
    pub(crate) fn asks_each(&self) -> bool {
        self.for_each.is_some() && self.when.as_ref().is_some_and(Condition::looks_at_each)
    }
}

/// A line of `[outputs]`.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub name: String,
    pub value: Template,
}

/// A node that stood for another file, whose nodes are now in its place.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub id: NodeId,
    /// Where the node is written.
    pub file: Source,
    /// What it stood for.
    pub source: Source,
    pub needs: Vec<(NodeId, Span)>,
    pub when: Option<Condition>,
    /// What was given for which of its parameters.
    pub given: Vec<(Param, Template)>,
    pub outputs: Vec<Output>,
}

/// A whole workflow file.
#[derive(Debug, Clone)]
pub(crate) struct Workflow {
    pub file: Source,
    pub name: String,
    pub description: Option<String>,
    pub params: Vec<Param>,
    pub pools: BTreeMap<String, usize>,
    pub outputs: Vec<Output>,
    /// Its sub-workflows, and theirs.
    pub parts: Vec<Part>,
    /// In the order of the file until the graph is known, then in an order in which they may run.
    pub nodes: Vec<Node>,
    /// Where each node is in `nodes`.
    pub index: BTreeMap<NodeId, usize>,
    /// What each node waits for.
    pub dependencies: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Workflow {
    pub(crate) fn node(&self, id: &NodeId) -> Option<&Node> {
        self.index.get(id).map(|at| &self.nodes[*at])
    }

    /// All nodes of the sub-workflow `id`, as places in `nodes`; `None` where there is none.
    pub(crate) fn inside<'a>(&'a self, id: &'a NodeId) -> Option<impl Iterator<Item = usize> + 'a> {
        self.parts.iter().any(|part| part.id == *id).then(|| {
            let is_inside = move |node: &Node| {
                node.id.as_str().strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('/'))
            };
            (0..self.nodes.len()).filter(move |at| is_inside(&self.nodes[*at]))
        })
    }
}

/// What a reader needs to know of a node when the workflow file is no longer at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeOutline {
    pub node: NodeId,
    pub step: String,
    pub needs: Vec<NodeId>,
    /// Whether it runs once for each item of a list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_each: bool,
}
