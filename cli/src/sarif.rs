//! Findings as SARIF 2.1.0, which code review tools read.
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::collections::BTreeSet;

use migrate_steps::assess::Assessment;
use migrate_steps::rules::{Finding, Rule, RuleSet, RuleSeverity};
use serde_json::{Value, json};

use crate::assess::{left_out, unread};

/// The document.
pub fn document(assessment: &Assessment, rules: &RuleSet) -> Value {
    let used: BTreeSet<&str> = assessment.findings.iter().map(|finding| finding.rule.as_str()).collect();
    let used: Vec<&Rule> = used.into_iter().filter_map(|id| rules.find(id)).collect();
    let results: Vec<Value> = assessment.findings.iter().map(|finding| result(finding, &used)).collect();
    let described: Vec<Value> = used.iter().map(|rule| descriptor(rule)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "migrate", "version": env!("CARGO_PKG_VERSION"), "rules": described } },
            "columnKind": "unicodeCodePoints",
            "invocations": [invocation(assessment)],
            "results": results,
        }],
    })
}

/// How the look went: what could not be read or was left out is nothing without findings.
fn invocation(assessment: &Assessment) -> Value {
    let notification = |level: &str, text: String| json!({ "level": level, "message": { "text": text } });
    let unreadable = assessment.unreadable.iter().map(|what| notification("error", unread(what)));
    let left_out = assessment.left_out.iter().map(|path| notification("warning", left_out(path)));
    json!({ "executionSuccessful": assessment.unreadable.is_empty(),
        "toolExecutionNotifications": unreadable.chain(left_out).collect::<Vec<_>>() })
}

fn level(severity: RuleSeverity) -> &'static str {
    match severity {
        RuleSeverity::Error => "error",
        RuleSeverity::Warning => "warning",
        RuleSeverity::Info => "note",
    }
}

fn descriptor(rule: &Rule) -> Value {
    json!({ "id": rule.id, "shortDescription": { "text": rule.title }, "fullDescription": { "text": rule.why },
        "help": { "text": format!("on Azure: {}", rule.azure) }, "helpUri": rule.links.first(),
        "defaultConfiguration": { "level": level(rule.severity) } })
}

fn result(finding: &Finding, rules: &[&Rule]) -> Value {
    let mut location = json!({ "logicalLocations": [{ "fullyQualifiedName": format!("{}: {}", finding.object(), finding.path) }] });
    if !finding.file.is_empty() {
        location["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(&finding.file) },
            "region": { "startLine": finding.line.max(1) } });
    }
    json!({ "ruleId": finding.rule, "ruleIndex": rules.iter().position(|rule| rule.id == finding.rule),
        "level": level(finding.severity), "message": { "text": finding.note() }, "locations": [location] })
}

/// A relative path as a URI.
fn uri(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_told() {
        let told = |unreadable: &[&str], left_out: &[&str]| {
            let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let assessment = Assessment {
                unreadable: named(unreadable),
                left_out: named(left_out),
                ..Assessment::default()
            };
            document(&assessment, &RuleSet::shipped())["runs"][0]["invocations"][0].clone()
        };
        assert_eq!(told(&[], &[]), json!({ "executionSuccessful": true, "toolExecutionNotifications": [] }));
        let unseen = told(&["ingresses"], &["link.yaml"]);
        assert_eq!(unseen["executionSuccessful"], false);
        let levels: Vec<_> =
            (0..2).map(|at| unseen["toolExecutionNotifications"][at]["level"].clone()).collect();
        assert_eq!(levels, ["error", "warning"]);
    }
}
