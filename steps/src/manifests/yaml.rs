//! Writes JSON values as YAML that every reader understands alike. Pure.
//!
//! Invariant: what is plain here is a string to YAML 1.1 readers (kubectl's: `yes`, `on`, `0777`,
//! `1_000` are no strings there) and to YAML 1.2 ones. In doubt a string is quoted.

use serde_json::Value;

/// Plain words that some reader takes for something else.
const RESERVED: [&str; 13] =
    ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity", "none"];

/// Longer texts are quoted rather than plain.
const PLAIN_BYTES: usize = 200;

/// `value` as one YAML document.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        _ => {
            scalar(value, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                out.push_str(&" ".repeat(indent));
                entry(key, field, indent, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push_str("- ");
                match item {
                    Value::Object(fields) if !fields.is_empty() => {
                        for (at, (key, field)) in fields.iter().enumerate() {
                            if at > 0 {
                                out.push_str(&" ".repeat(indent + 2));
                            }
                            entry(key, field, indent + 2, out);
                        }
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        // A list in a list is rare enough to be written as JSON, which is YAML.
                        out.push_str(&item.to_string());
                        out.push('\n');
                    }
                    _ => {
                        scalar(item, indent, out);
                        out.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

/// `key: value`, the cursor standing where the key goes.
fn entry(key: &str, value: &Value, indent: usize, out: &mut String) {
    text(key, out);
    out.push(':');
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        _ => {
            out.push(' ');
            scalar(value, indent, out);
            out.push('\n');
        }
    }
}

fn scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(string) if is_literal(string) => literal(string, indent + 2, out),
        Value::String(string) => text(string, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

/// `string` as a scalar on one line: plain where every reader takes it for that string, else quoted.
pub(crate) fn scalar_text(string: &str) -> String {
    let mut out = String::new();
    text(string, &mut out);
    out
}

fn text(string: &str, out: &mut String) {
    if is_plain(string) {
        out.push_str(string);
    } else {
        // A JSON string is a YAML double-quoted scalar, but for the line separators that YAML breaks at.
        let json = Value::from(string).to_string();
        for c in json.chars() {
            match c {
                '\u{7f}'..='\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => out.push(c),
            }
        }
    }
}

fn is_plain(string: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
    let inner = |c: char| c.is_ascii_alphanumeric() || "/_.-+@".contains(c);
    let lower = string.to_ascii_lowercase();
    // `:` is plain between two other characters, as in an image reference.
    let colons = string.split(':').all(|part| !part.is_empty() && part.chars().all(inner));
    string.len() <= PLAIN_BYTES && string.starts_with(first) && colons && !RESERVED.contains(&lower.as_str())
}

/// Whether `string` reads the same as a literal block: several lines, nothing that editors or
/// readers change (tabs at the start, blanks at ends of lines, control characters).
fn is_literal(string: &str) -> bool {
    string.contains('\n')
        && !string.starts_with([' ', '\n', '\t'])
        && string.chars().all(|c| c == '\n' || c == '\t' || (!c.is_control() && !is_break(c)))
        && string.lines().all(|line| !line.ends_with([' ', '\t']) && !line.starts_with('\t'))
        && !string.trim_end_matches('\n').is_empty()
}

fn is_break(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn literal(string: &str, indent: usize, out: &mut String) {
    let body = string.trim_end_matches('\n');
    out.push_str(match string.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tricky() -> Value {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "a", "annotations": {}, "labels": { "on": "yes", "a.b/c": "true" } },
            "data": { "script": "#!/bin/sh\nset -e\n\n  echo hi\n", "keep": "a\nb\n\n\n", "strip": "a\nb",
                "trailing": "a \nb\n", "tab": "\tx\ny\n", "empty": "", "blank": "\n\n", "number": "0777", "float": "1e3",
                "under": "1_000", "null": "~", "time": "12:30:45", "image": "old.io:5000/a:1@sha256:0f", "colon": "a: b",
                "hash": "a #b", "star": "*a", "dash": "- a", "bell": "\u{7}", "nel": "a\u{85}b", "nelml": "a\u{85}\nb", "bom": "\u{feff}a",
                "quote": "it's \"so\"", "unicode": "größe", "lead": " a\nb", "crlf": "a\r\nb\r\n", "y": "n" },
            "list": [[1, [2]], [], {}, null, true, -1.5, { "a": [1, { "b": "c" }], "d": "x\ny\n" }, "x\ny"] })
    }

    #[test]
    fn what_is_written_is_read_back() {
        let yaml = to_yaml(&tricky());
        let read: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        assert_eq!(serde_json::to_value(read).unwrap(), tricky(), "{yaml}");
    }

    #[test]
    fn what_is_written_is_readable() {
        insta::assert_snapshot!(to_yaml(&json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "labels": {} }, "spec": { "replicas": 2, "template": { "spec": {
            "containers": [{ "name": "web", "image": "old.io:5000/web:1", "args": ["--on", "yes"], "env": [] }] } } },
            "script": "set -e\necho\n" })));
    }
}
