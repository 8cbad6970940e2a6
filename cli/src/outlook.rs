//! What resuming a run would do, as text for people.

use migrate_engine::{Action, NodeOutlook, ResumePlan};
use migrate_plugin_api::NodeId;

use crate::render;
use crate::table::Table;

/// Every node with what would become of it.
pub fn table(plan: &ResumePlan) -> String {
    let mut table = Table::new(["NODE", "STEP", "WOULD", "WHY"]);
    for node in &plan.nodes {
        table.row([node.node.to_string(), node.step.clone(), word(node.action).to_owned(), why(node)]);
    }
    let state = render::run_state(plan.state);
    let mut text = format!("run {} of {}: {state}\n\n{table}", plan.run, plan.workflow);
    for node in &plan.nodes {
        for field in &node.fields {
            text.push_str(&format!("{}\n", render::field_change(&node.node, field)));
        }
        for line in node.plan.iter().flat_map(|plan| &plan.destroys) {
            text.push_str(&format!("{}: destroys {line}\n", node.node));
        }
    }
    text
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Reuse => "be reused",
        Action::ReuseOrRerun => "be reused or rerun",
        Action::Inspect => "be looked at closely",
        Action::Verify => "be verified",
        Action::Observe => "be looked for",
        Action::Rerun => "RERUN",
        Action::Wait => "WAIT",
        Action::Start => "run",
        Action::Skip => "be skipped",
        Action::Ask => "ASK YOU",
    }
}

fn why(node: &NodeOutlook) -> String {
    let found = node.evidence.as_ref().filter(|evidence| evidence.passed());
    let found = found.map(|evidence| match render::proof(evidence) {
        None => "verified just now".to_owned(),
        Some(proof) => format!("verified just now: {proof}"),
    });
    let planned = node.plan.as_ref().map(|plan| plan.summary.clone());
    [node.reason.clone(), found, planned].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The way on where nobody can tell what became of attempts of `nodes`, which are not repeated unasked.
pub fn untold<'a>(resume: &str, nodes: impl Iterator<Item = &'a NodeId>) -> Option<String> {
    let again = reruns(nodes);
    (!again.is_empty()).then(|| {
        format!("  help: if what was done can't be told, look for yourself; to do it again: {resume}{again}")
    })
}

/// What has `nodes` made again, behind `migrate resume RUN`.
fn reruns<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    nodes.map(|node| format!(" --rerun {}", node.quoted())).collect()
}

fn is_changed(plan: &ResumePlan, node: &NodeId) -> bool {
    plan.changes.nodes.iter().any(|change| change.node == *node)
}

/// What `resume` would say to it, and the way on: `resume`, with all that was asked for. `is_unrepeatable`: which
/// steps are not done again unasked.
pub fn verdict(plan: &ResumePlan, resume: &str, is_unrepeatable: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &plan.nodes {
        lines.extend(render::node_problems(&node.node, node.plan.as_ref(), node.error.as_ref()));
        if node.action == Action::Ask {
            lines.push(format!(
                "{}: a person must decide: {}",
                node.node,
                node.reason.as_deref().unwrap_or_default()
            ));
            lines.push(format!(
                "  help: look for yourself; to do it again: {resume} --rerun {}",
                node.node.quoted()
            ));
        }
    }
    if let Some(holder) = &plan.holder {
        lines.push(format!("it is being worked on by {holder}"));
    }
    if !plan.changes.is_empty() {
        lines.extend(render::changes(&plan.changes));
        lines
            .push("`resume` would be refused: the run's files have changed since these nodes ran".to_owned());
        // What is not done twice unasked isn't for a change that is accepted either.
        let asks =
            plan.nodes.iter().filter(|node| node.action == Action::Ask && is_changed(plan, &node.node));
        let again = reruns(asks.map(|node| &node.node));
        lines.push(format!(
            "  help: undo the changes, or accept that these nodes run again: {resume} --accept-changes{again}"
        ));
    } else if plan.complete {
        lines.push("the run is done; there is nothing to resume".to_owned());
    } else if plan.holder.is_none() && !plan.has_problems() {
        lines.push(format!("to go on: {resume}"));
        let looked_for = plan.nodes.iter().filter(|node| node.action == Action::Observe);
        let nodes = looked_for.filter(|node| is_unrepeatable(&node.step)).map(|node| &node.node);
        lines.extend(untold(resume, nodes));
    }
    lines
}
