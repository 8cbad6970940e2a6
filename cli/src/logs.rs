//! `migrate logs`: what happened and what was said, read from the store while the run is alive or
//! later.

use std::time::Duration;

use migrate_engine::{Engine, HistoryEntry, HistoryKind, HistoryRequest};
use migrate_plugin_api::{LogLevel, NodeId};

use crate::args::{Level, LogsArgs};
use crate::commands::run_id;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Reader, print, print_json};
use crate::render;

/// How often a followed run is looked at: often enough to read along, seldom enough to cost nothing.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Shows the history of a run.
pub async fn logs(engine: &Engine, args: &LogsArgs, json: bool) -> Result<Exit, Failure> {
    let mut request = HistoryRequest {
        run: run_id(args.named_run())?,
        node: args.node().map(NodeId::new).transpose()?,
        level: Some(match args.level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
        }),
        ..HistoryRequest::default()
    };
    loop {
        let history = engine.history(&request).await?;
        for entry in &history.entries {
            let reader = if json { print_json("", entry)? } else { print(&line(entry))? };
            if reader == Reader::Gone {
                return Ok(Exit::Done);
            }
        }
        if !args.follow || !history.alive {
            return Ok(Exit::Done);
        }
        (request.run, request.after) = (Some(history.run), history.mark);
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn line(entry: &HistoryEntry) -> String {
    let at = entry.at.strftime("%Y-%m-%d %H:%M:%SZ");
    let node = entry.node.as_ref().map_or("run", NodeId::as_str);
    let what = match &entry.kind {
        HistoryKind::Log { level: LogLevel::Warn, message } => format!("warning: {message}"),
        HistoryKind::Log { level: LogLevel::Debug, message } => format!("debug: {message}"),
        HistoryKind::Log { level: LogLevel::Info, message } => message.clone(),
        HistoryKind::Started { attempt, step } => format!("attempt {attempt} of {step} begins"),
        HistoryKind::Expanded { items: 1 } => "1 item".to_owned(),
        HistoryKind::Expanded { items } => format!("{items} items"),
        HistoryKind::Applied { observed: false } => "applied".to_owned(),
        HistoryKind::Applied { observed: true } => "found applied by an earlier attempt".to_owned(),
        HistoryKind::Finished { duration_ms } => format!("finished in {}", render::duration(*duration_ms)),
        HistoryKind::Retrying { error } => {
            format!("attempt failed, another follows: {}", render::error(error))
        }
        HistoryKind::Failed { error } => format!("FAILED: {}", render::error(error)),
        HistoryKind::Asked => "is to be made again when its turn comes, as asked for".to_owned(),
        HistoryKind::Kept => "is kept as it is, as asked for".to_owned(),
        HistoryKind::Absent => "nothing of it is there".to_owned(),
        HistoryKind::Decided { decision } => decision.sentence(),
        HistoryKind::UndoBegun { reason } => format!("is taken back: {reason}"),
        HistoryKind::UndoStarted { attempt } => format!("attempt {attempt} of its undo begins"),
        HistoryKind::Undone { duration_ms } => format!("undone in {}", render::duration(*duration_ms)),
        HistoryKind::UndoFailed { error } => format!("FAILED to undo: {}", render::error(error)),
        HistoryKind::Left { reason } => format!("left as it is: {reason}"),
        HistoryKind::Interrupted => "stopped".to_owned(),
        HistoryKind::Skipped { reason } => format!("skipped: {reason}"),
        HistoryKind::Reused => "verified again and reused".to_owned(),
        HistoryKind::Reset { reason } => format!("starts over: {reason}"),
        HistoryKind::Resumed => "resumed".to_owned(),
        HistoryKind::Ended { state } => format!("ended: {}", render::run_state(*state)),
    };
    format!("{at} {node}: {what}\n")
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::{ErrorClass, ErrorRecord};

    use super::*;

    #[test]
    fn every_kind_of_entry_reads_well() {
        let error = ErrorRecord {
            class: ErrorClass::Transient { retry_after_ms: None },
            message: "failed to reach the registry".to_owned(),
            causes: vec!["connection refused".to_owned()],
            hint: Some("look at the network".to_owned()),
        };
        let state = migrate_engine::RunState::Failed;
        let log = |level, message: &str| HistoryKind::Log { level, message: message.to_owned() };
        let run = [HistoryKind::Resumed, HistoryKind::Ended { state }].map(|kind| (None, kind));
        let node = [
            log(LogLevel::Info, "12 images"),
            log(LogLevel::Warn, "the tag is old"),
            log(LogLevel::Debug, "HEAD 200"),
            HistoryKind::Started { attempt: 2, step: "ecr.pull".to_owned() },
            HistoryKind::Expanded { items: 3 },
            HistoryKind::Applied { observed: false },
            HistoryKind::Applied { observed: true },
            HistoryKind::Finished { duration_ms: 61_000 },
            HistoryKind::Retrying { error: error.clone() },
            HistoryKind::Failed { error },
            HistoryKind::Interrupted,
            HistoryKind::Skipped { reason: "`when` is false: params.images".to_owned() },
            HistoryKind::Reused,
            HistoryKind::Reset { reason: "asked for".to_owned() },
            HistoryKind::Asked,
            HistoryKind::Kept,
            HistoryKind::Absent,
        ]
        .map(|kind| (NodeId::new("pull").ok(), kind));
        let at = "2026-01-31T23:59:59.5Z".parse().unwrap();
        let entry = |(node, kind)| line(&HistoryEntry { version: 1, at, node, kind });
        insta::assert_snapshot!(run.into_iter().chain(node).map(entry).collect::<String>());
    }
}
