//! Reads the event stream of a run and shows it: lines on stderr, or JSON on stdout.

use std::io::Write as _;

use migrate_engine::{Event, EventKind, EventStream};
use migrate_plugin_api::{Evidence, LogLevel};

use crate::progress::Board;
use crate::render;
use crate::say::say;
use crate::telemetry::Telemetry;

/// Shows every event until the run ends.
pub async fn watch(mut events: EventStream, json: bool) {
    let mut board = Board::new(0);
    let mut telemetry = Telemetry::start();
    while let Some(event) = events.next().await {
        if let Some(telemetry) = &mut telemetry {
            telemetry.send(&event);
        }
        if json {
            print_json(&event);
        }
        show(&mut board, event);
    }
    board.clear();
    let dropped = events.dropped_logs();
    if dropped > 0 {
        board.say(&format!("{dropped} log lines came too fast to be shown"));
    }
    if let Some(telemetry) = telemetry {
        telemetry.finish().await;
    }
}

fn print_json(event: &Event) {
    match serde_json::to_string(event) {
        Ok(line) => {
            // A reader that went away is no reason to stop a migration.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        Err(e) => say!("failed to write an event as JSON: {e}"),
    }
}

fn show(board: &mut Board, event: Event) {
    match event.kind {
        EventKind::RunStarted { workflow, resumed, nodes } => {
            *board = Board::new(nodes.iter().map(|node| node.as_str().len()).max().unwrap_or(0));
            let verb = if resumed { "resuming" } else { "starting" };
            board.say(&format!("{verb} run {} of {workflow}: {} nodes", event.run, nodes.len()));
        }
        EventKind::NodePlanned { node, plan, .. } => board.say_of(&node, &format!("plan: {}", plan.summary)),
        EventKind::NodeExpanded { node, items, added, removed } => {
            board.say_of(&node, &expanded(items, &added, &removed));
        }
        EventKind::NodeItemsDone { items: 0, .. } => {}
        EventKind::NodeItemsDone { node, items } => board.say_of(&node, &format!("all {items} items done")),
        EventKind::NodeStarted { node, step, attempt } => {
            board.start(&node, &step);
            if attempt > 1 {
                board.say_of(&node, &format!("attempt {attempt}"));
            }
        }
        EventKind::NodeProgress { node, progress } => board.progress(&node, &progress),
        EventKind::NodeLog { node, level, message } => match level {
            LogLevel::Debug => {}
            LogLevel::Info => board.say_of(&node, &message),
            LogLevel::Warn => board.say_of(&node, &format!("warning: {message}")),
        },
        EventKind::NodeVerifying { .. } => {}
        EventKind::NodeRetrying { node, error, delay_ms, .. } => {
            let text = format!("{}; again in {}", render::error(&error), render::duration(delay_ms));
            board.finish(&node, &text);
        }
        EventKind::NodeFinished { node, duration_ms, evidence, .. } => {
            let text = format!("done in {}{}", render::duration(duration_ms), proof(&evidence));
            board.finish(&node, &text);
        }
        EventKind::NodeFailed { node, duration_ms, error, .. } => {
            let text = format!("FAILED after {}: {}", render::duration(duration_ms), render::error(&error));
            board.finish(&node, &text);
        }
        EventKind::NodeSkipped { node, reason } => board.finish(&node, &format!("skipped: {reason}")),
        EventKind::NodeReused { node, evidence } => {
            board.finish(&node, &format!("already done{}", proof(&evidence)));
        }
        EventKind::NodeWaiting { node, message } => {
            board.finish(&node, &format!("waits for a decision: {message}"));
        }
        EventKind::RunUndoing { reason } => board.say(&format!("undoing run {}: {reason}", event.run)),
        EventKind::NodeUndoing { node, step } => board.start(&node, &format!("undo of {step}")),
        EventKind::NodeUndone { node, duration_ms } => {
            board.finish(&node, &format!("undone in {}", render::duration(duration_ms)));
        }
        EventKind::NodeLeft { node, reason } => board.finish(&node, &format!("left as it is: {reason}")),
        EventKind::NodeInterrupted { node } => board.finish(&node, "stopped; can be resumed"),
        EventKind::RunFinished { state, duration_ms } => {
            board.clear();
            board.say(&format!(
                "run {}: {} in {}",
                event.run,
                render::run_state(state),
                render::duration(duration_ms)
            ));
        }
    }
}

fn expanded(items: usize, added: &[String], removed: &[String]) -> String {
    let mut text = match items {
        0 => "its list is empty: nothing to do".to_owned(),
        1 => "1 item".to_owned(),
        _ => format!("{items} items"),
    };
    if !added.is_empty() {
        text.push_str(&format!("; new: {}", render::some(added)));
    }
    if !removed.is_empty() {
        text.push_str(&format!(
            "; warning: no longer in the list, left as they are: {}",
            render::some(removed)
        ));
    }
    text
}

fn proof(evidence: &Evidence) -> String {
    render::proof(evidence).map(|proof| format!(", {proof}")).unwrap_or_default()
}
