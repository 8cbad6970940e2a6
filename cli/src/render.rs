//! Plans, states and steps as text for people.

use std::time::Duration;

use indicatif::HumanBytes;
use migrate_engine::{
    Changes, FieldChange, NodePlan, NodeReport, NodeState, PlanReport, RunReport, RunState, RunSummary,
};
use migrate_plugin_api::{ErrorRecord, NodeId, Severity, StepInfo, StepPlan};
use serde_json::Value;

use crate::table::Table;

/// `1.2 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(milliseconds: u64) -> String {
    let duration = Duration::from_millis(milliseconds);
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A failure on one line, with the way out on a second.
pub fn error(record: &ErrorRecord) -> String {
    let mut text = record.message.clone();
    for cause in &record.causes {
        text.push_str(": ");
        text.push_str(cause);
    }
    if let Some(hint) = &record.hint {
        text.push_str("\n  help: ");
        text.push_str(hint);
    }
    text
}

/// What a run would do.
pub fn plan(report: &PlanReport) -> String {
    let mut table = Table::new(["NODE", "STEP", "ITEMS", "BYTES", "WHAT"]);
    for node in &report.nodes {
        let plan = node.plan.as_ref();
        let what = match (&node.skipped, plan) {
            (Some(reason), _) => format!("skipped: {reason}"),
            (None, Some(plan)) => plan.summary.clone(),
            (None, None) => "can't be planned".to_owned(),
        };
        table.row([
            node.node.to_string(),
            node.step.clone(),
            plan.and_then(|p| p.items).map_or_else(String::new, |n| n.to_string()),
            plan.and_then(|p| p.bytes).map_or_else(String::new, |n| HumanBytes(n).to_string()),
            what,
        ]);
    }
    let mut text = table.to_string();
    for node in &report.nodes {
        for line in node.plan.iter().flat_map(|plan| &plan.destroys) {
            text.push_str(&format!("{}: destroys {line}\n", node.node));
        }
    }
    text
}

/// Everything that stands in the way, and what a person should read.
pub fn problems(report: &PlanReport) -> Vec<String> {
    let of = |node: &NodePlan| node_problems(&node.node, node.plan.as_ref(), node.error.as_ref());
    report.nodes.iter().flat_map(of).collect()
}

/// What stands in the way of one node.
pub fn node_problems(node: &NodeId, plan: Option<&StepPlan>, record: Option<&ErrorRecord>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(record) = record {
        lines.push(format!("{node}: error: {}", error(record)));
    }
    for problem in plan.iter().flat_map(|plan| &plan.problems) {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let field = problem.field.as_ref().map_or_else(String::new, |field| format!(" (with.{field})"));
        lines.push(format!("{node}: {severity}: {}{field}", problem.message));
        if let Some(hint) = &problem.hint {
            lines.push(format!("  help: {hint}"));
        }
    }
    lines
}

/// What changed since a run's nodes ran.
pub fn changes(changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    for change in &changes.nodes {
        if change.removed {
            lines.push(format!("{}: is no longer in the workflow", change.node));
        }
        lines.extend(change.fields.iter().map(|field| field_change(&change.node, field)));
        if !change.affects.is_empty() {
            let names: Vec<&str> = change.affects.iter().map(|node| node.as_str()).collect();
            lines.push(format!("  and after it: {}", names.join(", ")));
        }
    }
    lines
}

/// From what to what a field changed.
pub fn field_change(node: &NodeId, change: &FieldChange) -> String {
    let show = |value: &Option<Value>| value.as_ref().map_or("absent".to_owned(), ToString::to_string);
    format!("{node}: {} was {}, is {}", change.field, show(&change.was), show(&change.now))
}

/// All runs.
pub fn runs(runs: &[RunSummary]) -> String {
    let mut table = Table::new(["RUN", "WORKFLOW", "STATE", "STARTED", "ENDED"]);
    for run in runs {
        let time = |at: migrate_engine::Timestamp| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        table.row([
            run.run.to_string(),
            run.workflow.clone(),
            run_state(run.state).to_owned(),
            time(run.started_at),
            run.ended_at.map_or_else(String::new, time),
        ]);
    }
    table.to_string()
}

/// The state of a node in a word.
fn state(node: &NodeReport) -> &'static str {
    match node.state {
        NodeState::Pending => "pending",
        NodeState::Running => "running",
        NodeState::Interrupted => "interrupted",
        NodeState::Finished => "finished",
        NodeState::Reused => "reused",
        NodeState::Skipped => "skipped",
        NodeState::Failed => "FAILED",
        NodeState::Blocked => "blocked",
    }
}

/// The state of a run in a word.
pub fn run_state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done => "done",
        RunState::Failed => "failed",
        RunState::Interrupted => "interrupted",
    }
}

/// A run, node by node.
pub fn report(report: &RunReport) -> String {
    let mut table = Table::new(["NODE", "STEP", "STATE", "TRIES", "TIME", ""]);
    for node in &report.nodes {
        let why = node.error.as_ref().map(|record| record.message.clone()).or_else(|| node.reason.clone());
        table.row([
            node.node.to_string(),
            node.step.clone(),
            state(node).to_owned(),
            if node.attempts == 0 { String::new() } else { node.attempts.to_string() },
            if node.duration_ms == 0 { String::new() } else { duration(node.duration_ms) },
            why.unwrap_or_default(),
        ]);
    }
    format!("run {} of {}: {}\n\n{table}", report.run, report.workflow, run_state(report.state))
}

/// A step with its fields and outputs.
pub fn step(info: &StepInfo) -> String {
    let mut text = format!("{}: {}\n\nwith:\n", info.name, info.summary);
    text.push_str(&fields(&info.config_schema));
    text.push_str("\noutputs:\n");
    text.push_str(&fields(&info.output_schema));
    text
}

fn fields(schema: &Value) -> String {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut table = Table::new(["  FIELD", "TYPE", "", "WHAT"]);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        table.row([
            format!("  {name}"),
            type_of(field),
            if required.contains(&name.as_str()) { "required".to_owned() } else { String::new() },
            field["description"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    table.to_string()
}

/// The type of a field in a word or two, from its JSON Schema.
fn type_of(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    match &field["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|n| *n != "null").collect(),
        _ => {
            field["anyOf"][0]["$ref"].as_str().map_or("any", |r| r.rsplit('/').next().unwrap_or(r)).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_at_every_size() {
        let shown: Vec<String> = [900, 61_000, 7_500_000].into_iter().map(duration).collect();
        assert_eq!(shown, ["0.9 s", "1 min 01 s", "2 h 05 min"]);
    }
}
