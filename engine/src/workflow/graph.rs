//! Edges between nodes, the order they allow, and the cycles that they must not have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use migrate_plugin_api::NodeId;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::diagnostic::{Mistakes, Source};
use super::model::Workflow;
use super::template::node_of;
use super::tree::Span;

/// Every edge as (waits, waited for, where it is written). Unknown names are mistakes.
fn edges(workflow: &Workflow, mistakes: &mut Mistakes) -> Vec<(usize, usize, Span)> {
    let mut edges = Vec::new();
    for part in &workflow.parts {
        for (needed, span) in &part.needs {
            if targets(workflow, needed).is_none() {
                unknown(workflow, (&part.id, needed), &part.file, span, mistakes);
            }
        }
    }
    for (at, node) in workflow.nodes.iter().enumerate() {
        for (needed, span) in &node.needs {
            match targets(workflow, needed) {
                Some(targets) => edges.extend(targets.into_iter().map(|to| (at, to, span.clone()))),
                None => unknown(workflow, (&node.id, needed), &node.file, span, mistakes),
            }
        }
        // Unknown names are reported where they are written.
        for to in node.inherited.iter().filter_map(|id| targets(workflow, id)).flatten() {
            edges.push((at, to, node.span.clone()));
        }
        for reference in node.references() {
            // Unknown names are reported with the reference itself.
            if let Some(to) = node_of(reference).and_then(|id| workflow.index.get(&id)) {
                edges.push((at, *to, reference.span.clone()));
            }
        }
    }
    edges
}

/// The node, or all nodes of the sub-workflow, of this name.
fn targets(workflow: &Workflow, id: &NodeId) -> Option<Vec<usize>> {
    match workflow.index.get(id) {
        Some(at) => Some(vec![*at]),
        None => workflow.inside(id).map(Iterator::collect),
    }
}

fn unknown(
    workflow: &Workflow,
    (node, needed): (&NodeId, &NodeId),
    file: &Source,
    span: &Span,
    mistakes: &mut Mistakes,
) {
    // In a sub-workflow, names are those of its file.
    let place = node.as_str().rfind('/').map_or("", |at| &node.as_str()[..=at]);
    let local = |id: &str| id.strip_prefix(place).filter(|rest| !rest.contains('/')).map(str::to_owned);
    let names = workflow.nodes.iter().map(|n| n.id.as_str());
    let names: Vec<String> =
        names.chain(workflow.parts.iter().map(|p| p.id.as_str())).filter_map(local).collect();
    let needed = needed.as_str().strip_prefix(place).unwrap_or(needed.as_str());
    let message = format!("node `{node}` needs `{needed}`, which is no node");
    mistakes
        .add(file, span.clone(), "unknown-node", message)
        .suggest(needed, names.iter().map(String::as_str));
}

/// Sets `dependencies` and puts the nodes into an order in which they may run, as near to the
/// file's as that allows. Every cycle is a mistake that names its path.
pub(crate) fn arrange(workflow: &mut Workflow, mistakes: &mut Mistakes) {
    let edges = edges(workflow, mistakes);
    let mut graph: DiGraph<(), Span> = DiGraph::with_capacity(workflow.nodes.len(), edges.len());
    let indexes: Vec<NodeIndex> = workflow.nodes.iter().map(|_| graph.add_node(())).collect();
    for (from, to, span) in &edges {
        graph.add_edge(indexes[*from], indexes[*to], span.clone());
    }
    let mut cyclic = false;
    for component in tarjan_scc(&graph) {
        if component.len() > 1 || graph.find_edge(component[0], component[0]).is_some() {
            cyclic = true;
            report_cycle(workflow, &graph, &component, mistakes);
        }
    }
    let mut dependencies: BTreeMap<NodeId, BTreeSet<NodeId>> =
        workflow.nodes.iter().map(|node| (node.id.clone(), BTreeSet::new())).collect();
    for (from, to, _) in &edges {
        if let Some(waits_for) = dependencies.get_mut(&workflow.nodes[*from].id) {
            waits_for.insert(workflow.nodes[*to].id.clone());
        }
    }
    workflow.dependencies = dependencies;
    if !cyclic {
        sort(workflow);
    }
}

/// Kahn's algorithm; of several nodes that may come next, the first in the file does.
fn sort(workflow: &mut Workflow) {
    let count = workflow.nodes.len();
    let mut missing: Vec<usize> = vec![0; count];
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (at, node) in workflow.nodes.iter().enumerate() {
        for needed in &workflow.dependencies[&node.id] {
            dependents[workflow.index[needed]].push(at);
            missing[at] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..count).filter(|at| missing[*at] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(at)) = ready.pop() {
        order.push(at);
        for dependent in &dependents[at] {
            missing[*dependent] -= 1;
            if missing[*dependent] == 0 {
                ready.push(Reverse(*dependent));
            }
        }
    }
    let mut nodes: Vec<_> = std::mem::take(&mut workflow.nodes).into_iter().map(Some).collect();
    workflow.nodes = order.iter().filter_map(|at| nodes[*at].take()).collect();
    workflow.index = workflow.nodes.iter().enumerate().map(|(at, node)| (node.id.clone(), at)).collect();
}

fn report_cycle(
    workflow: &Workflow,
    graph: &DiGraph<(), Span>,
    component: &[NodeIndex],
    mistakes: &mut Mistakes,
) {
    let members: BTreeSet<NodeIndex> = component.iter().copied().collect();
    let Some(start) = members.first().copied() else { return };
    // Within a strongly connected component, following any inner edge long enough closes a cycle.
    let mut path: Vec<NodeIndex> = vec![start];
    let (cycle, span, file) = loop {
        let here = path[path.len() - 1];
        let Some(edge) = graph.edges(here).find(|edge| members.contains(&edge.target())) else { return };
        if let Some(at) = path.iter().position(|index| *index == edge.target()) {
            break (path.split_off(at), edge.weight().clone(), &workflow.nodes[here.index()].file);
        }
        path.push(edge.target());
    };
    let name = |index: &NodeIndex| format!("`{}`", workflow.nodes[index.index()].id);
    let mut names: Vec<String> = cycle.iter().map(name).collect();
    names.push(names[0].clone());
    let message = match names.len() {
        2 => format!("node {} waits for itself", names[0]),
        _ => format!("nodes wait for each other: {}", names.join(" → ")),
    };
    mistakes
        .add(file, span, "cycle", message)
        .label("this closes the cycle")
        .help("an arrow reads \"waits for\"; take one of them away");
}
