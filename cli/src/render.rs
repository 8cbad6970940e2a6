//! Plans, states and steps as text for people.

use std::time::Duration;

use indicatif::HumanBytes;
use migrate_engine::{
    Changes, FieldChange, ItemCounts, ListPlan, NodePlan, NodeReport, NodeState, PlanReport, RunReport,
    RunState, RunSummary,
};
use migrate_plugin_api::{CheckStatus, ErrorRecord, Evidence, NodeId, Severity, StepPlan};

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

/// Most names, and most items of a node, that are listed for a person; `--json` has them all.
const MAX_LISTED: usize = 20;

/// Some of `names`, and how many more there are.
pub fn some(names: &[String]) -> String {
    let mut text = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MAX_LISTED {
        text.push_str(&format!(" and {} more", names.len() - MAX_LISTED));
    }
    text
}

/// What a run would do.
pub fn plan(report: &PlanReport) -> String {
    let mut table = Table::new(["NODE", "STEP", "ITEMS", "BYTES", "WHAT"]);
    let mut shown_items = 0;
    for node in &report.nodes {
        shown_items = if node.node.key().is_some() { shown_items + 1 } else { 0 };
        if shown_items > MAX_LISTED {
            continue;
        }
        let plan = node.plan.as_ref();
        let what = match (&node.skipped, &node.for_each, plan) {
            (Some(reason), _, _) => format!("skipped: {reason}"),
            (None, Some(list), plan) => list_plan(list, plan.map(|plan| plan.summary.as_str())),
            (None, None, Some(plan)) => plan.summary.clone(),
            (None, None, None) => "can't be planned".to_owned(),
        };
        let sum = |of: fn(&StepPlan) -> Option<u64>| match node.for_each.as_ref().and_then(|list| list.items)
        {
            Some(_) => {
                let items = report.nodes.iter().filter(|item| item.node.key().is_some());
                let own = items.filter(|item| item.node.whole() == node.node);
                own.filter_map(|item| item.plan.as_ref().and_then(of)).reduce(|a, b| a + b)
            }
            None => plan.and_then(of),
        };
        table.row([
            node.node.to_string(),
            node.step.clone(),
            sum(|p| p.items).map_or_else(String::new, |n| n.to_string()),
            sum(|p| p.bytes).map_or_else(String::new, |n| HumanBytes(n).to_string()),
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

fn list_plan(list: &ListPlan, about_one: Option<&str>) -> String {
    match list.items {
        Some(0) => "its list is empty: nothing to do".to_owned(),
        Some(1) => "1 item".to_owned(),
        Some(count) if count > MAX_LISTED => format!("{count} items, {MAX_LISTED} of them shown"),
        Some(count) => format!("{count} items"),
        None => {
            let about_one = about_one.map_or_else(String::new, |text| format!("; each: {text}"));
            format!("once for each of {}, known during the run{about_one}", list.from.join(", "))
        }
    }
}

/// How long its attempts took, or those of its items; nothing for a node that has not had any end yet.
fn took(node: &NodeReport) -> String {
    let tried = matches!(node.state, NodeState::Finished | NodeState::Reused | NodeState::Failed)
        && node.attempts > 0;
    let has_ended = tried || node.items.is_some_and(|items| items.done + items.failed > 0);
    if node.duration_ms == 0 && !has_ended { String::new() } else { duration(node.duration_ms) }
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
        lines.extend(change.sentences().iter().map(|sentence| format!("{}: {sentence}", change.node)));
        if !change.affects.is_empty() {
            let names: Vec<&str> = change.affects.iter().map(|node| node.as_str()).collect();
            lines.push(format!("  and after it: {}", names.join(", ")));
        }
    }
    lines
}

/// From what to what a field changed.
pub fn field_change(node: &NodeId, change: &FieldChange) -> String {
    format!("{node}: {change}")
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
        NodeState::Waiting => "WAITING",
        NodeState::Undone => "undone",
        NodeState::Left => "left",
        NodeState::Removed => "removed",
    }
}

/// The state of a run in a word.
pub fn run_state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done => "done",
        RunState::Waiting => "waiting at a gate",
        RunState::Undone => "undone",
        RunState::Failed => "failed",
        RunState::Interrupted => "interrupted",
    }
}

/// A run, node by node. Of the items of a node only those are listed that failed or are at work.
pub fn report(report: &RunReport) -> String {
    let mut table = Table::new(["NODE", "STEP", "STATE", "TRIES", "TIME", ""]);
    let mut listed = 0;
    let mut left_out = 0;
    for node in &report.nodes {
        if node.node.key().is_none() {
            listed = 0;
        } else if quiet(node.state) {
            continue;
        } else if listed == MAX_LISTED {
            left_out += 1;
            continue;
        } else {
            listed += 1;
        }
        let why = node.error.as_ref().map(|record| record.message.clone()).or_else(|| node.reason.clone());
        table.row([
            node.node.to_string(),
            node.step.clone(),
            node.items.map_or_else(|| state(node).to_owned(), |items| counts(items, node.state)),
            if node.attempts == 0 { String::new() } else { node.attempts.to_string() },
            took(node),
            why.unwrap_or_default(),
        ]);
    }
    let mut text =
        format!("run {} of {}: {}\n\n{table}", report.run, report.workflow, run_state(report.state));
    if left_out > 0 {
        text.push_str(&format!("{left_out} more items: `migrate status --json` has them all\n"));
    }
    text
}

/// Items that say nothing beyond the counts of their node.
fn quiet(state: NodeState) -> bool {
    matches!(state, NodeState::Pending | NodeState::Blocked) || state.is_done()
}

/// `3/5 done, 1 FAILED`.
fn counts(items: ItemCounts, state: NodeState) -> String {
    let mut text = format!("{}/{} done", items.done, items.total);
    if items.failed > 0 {
        text.push_str(&format!(", {} FAILED", items.failed));
    } else if state == NodeState::Blocked {
        text.push_str(", blocked");
    }
    text
}

/// What passed checks say, in a few words; nothing where there are none.
pub fn proof(evidence: &Evidence) -> Option<String> {
    let count = |status| evidence.checks.iter().filter(|check| check.status == status).count();
    let counted = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let equal = counted(count(CheckStatus::Passed), "check equal", "checks equal");
    let warnings = counted(count(CheckStatus::Warning), "warning", "warnings");
    let said: Vec<String> = equal.into_iter().chain(warnings).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn durations_read_well_at_every_size() {
        let shown: Vec<String> = [900, 61_000, 7_500_000].into_iter().map(duration).collect();
        assert_eq!(shown, ["0.9 s", "1 min 01 s", "2 h 05 min"]);
    }

    /// A node `copy` of `count` items, of which those named in `failed` have failed.
    fn items(count: usize, failed: &[usize]) -> RunReport {
        let mut nodes = vec![serde_json::json!({
            "node": "copy", "step": "blob.copy", "state": if failed.is_empty() { "finished" } else { "failed" },
            "attempts": 0, "duration-ms": 61_000,
            "items": { "total": count, "done": count - failed.len(), "failed": failed.len(), "begun": 0 },
        })];
        for at in 0..count {
            let mut item = serde_json::json!({
                "node": format!("copy[n{at}]"), "step": "blob.copy", "state": "finished",
                "attempts": 1, "duration-ms": 900,
            });
            if failed.contains(&at) {
                item["state"] = "failed".into();
                item["error"] =
                    serde_json::json!({ "class": { "kind": "auth" }, "message": "no access", "causes": [] });
            }
            nodes.push(item);
        }
        nodes.push(serde_json::json!({
            "node": "copy[old]", "step": "blob.copy", "state": "removed", "attempts": 1, "duration-ms": 900,
            "reason": "it is no longer in the list; what it did is left as it is",
        }));
        serde_json::from_value(serde_json::json!({
            "version": 1, "run": "r", "workflow": "w", "state": "failed",
            "started-at": "2026-01-01T00:00:00Z", "nodes": nodes,
        }))
        .unwrap()
    }

    #[test]
    fn items_are_counted_and_only_those_named_that_need_a_person() {
        insta::assert_snapshot!(report(&items(5, &[1, 3])));
        let failed: Vec<usize> = (0..30).collect();
        assert!(
            report(&items(100, &failed)).ends_with("11 more items: `migrate status --json` has them all\n")
        );
    }

    #[test]
    fn items_are_planned_each_or_once() {
        let plan_of = |nodes: Value| {
            let report = serde_json::json!({ "version": 1, "workflow": "w", "nodes": nodes });
            plan(&serde_json::from_value(report).unwrap())
        };
        let item = |key: &str, bytes: u64| {
            serde_json::json!({
                "node": format!("copy[{key}]"), "step": "blob.copy", "needs": [],
                "plan": { "summary": format!("copy {key}"), "bytes": bytes },
            })
        };
        let known = serde_json::json!({ "node": "copy", "step": "blob.copy", "needs": [], "for-each": { "items": 2 } });
        let late = serde_json::json!({
            "node": "later", "step": "blob.copy", "needs": ["list"], "for-each": { "from": ["nodes.list.names"] },
            "plan": { "summary": "copy a bucket that is known later" },
        });
        let none = serde_json::json!({ "node": "none", "step": "blob.copy", "needs": [], "for-each": { "items": 0 } });
        let nodes = serde_json::json!([known, item("shop", 1024), item("files", 2048), late, none]);
        insta::assert_snapshot!(plan_of(nodes));
    }

    #[test]
    fn changes_of_a_list_name_what_is_gone_and_what_is_new() {
        let found: Changes = serde_json::from_value(serde_json::json!({ "nodes": [
            { "node": "copy", "removed": false, "affects": ["after"], "fields": [
                { "field": "for_each[\"mail\"]", "was": "mail" }, { "field": "for_each[\"web\"]", "now": "web" },
            ] },
            { "node": "copy[mail]", "removed": true, "affects": [], "fields": [] },
        ] }))
        .unwrap();
        insta::assert_snapshot!(changes(&found).join("\n"), @r#"
        copy: for_each["mail"] was "mail", is absent
        copy: for_each["web"] was absent, is "web"
          and after it: after
        copy[mail]: is no longer in the list; what it did is left as it is
        "#);
    }
}
