//! Findings as SARIF 2.1.0, which code review tools read.
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::collections::BTreeSet;

use migrate_steps::assess::Assessment;
use migrate_steps::rules::{Finding, Rule, RuleSet, RuleSeverity};
use serde_json::{Value, json};

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
            "results": results,
        }],
    })
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
