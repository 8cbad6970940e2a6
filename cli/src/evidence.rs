//! The evidence table: what was compared, on both sides, and whether it is equal.

use migrate_engine::RunReport;
use migrate_plugin_api::CheckStatus;

use crate::table::Table;

/// Widest value shown; digests and hashes are told apart by far less.
const MAX_VALUE_CHARS: usize = 24;

fn short(value: &str) -> String {
    if value.chars().count() <= MAX_VALUE_CHARS {
        return value.to_owned();
    }
    let start: String = value.chars().take(MAX_VALUE_CHARS - 1).collect();
    format!("{start}…")
}

/// The table of all evidence in `report`, and a line that sums it up.
pub fn table(report: &RunReport) -> String {
    let mut table = Table::new(["NODE", "SUBJECT", "WHAT", "SOURCE", "TARGET", "RESULT"]);
    let mut notes = Vec::new();
    let (mut passed, mut warnings, mut failed) = (0_usize, 0_usize, 0_usize);
    for node in &report.nodes {
        for check in node.evidence.iter().flat_map(|evidence| &evidence.checks) {
            let result = match check.status {
                CheckStatus::Passed => {
                    passed += 1;
                    "equal"
                }
                CheckStatus::Warning => {
                    warnings += 1;
                    "warning"
                }
                CheckStatus::Failed => {
                    failed += 1;
                    "FAILED"
                }
            };
            if let Some(note) = &check.note
                && check.status != CheckStatus::Passed
            {
                notes.push(format!("{result}: {}: {note}", check.subject));
            }
            table.row([
                node.node.to_string(),
                check.subject.clone(),
                check.what.clone(),
                short(&check.source),
                short(&check.target),
                result.to_owned(),
            ]);
        }
    }
    let mut text = table.to_string();
    for note in notes {
        text.push_str(&note);
        text.push('\n');
    }
    text.push_str(&format!("{passed} equal, {warnings} warnings, {failed} failed\n"));
    text
}
