//! An assessment as one HTML file: no script, nothing fetched, every text escaped.

use std::fmt::Write as _;

use migrate_steps::assess::Assessment;
use migrate_steps::rules::{Finding, RuleSet};

use crate::assess::{place, state};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #d8dee4}\
th{font-weight:600}code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}.error{color:#b3261e}.warning{color:#8a5a00}.info{color:#57606a}\
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,td{border-color:#30363d}.error{color:#ff7b72}.warning{color:#e3b341}.info{color:#8b949e}a{color:#58a6ff}}";

/// `text` where HTML would read something else.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The page.
pub fn page(assessment: &Assessment, rules: &RuleSet) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>EKS to AKS: assessment</title><style>{STYLE}</style>\n<h1>EKS to AKS: assessment</h1>\n\
         <p>{} findings in {} objects. Readiness {} %, about {:.1} hours of work.</p>\n",
        assessment.findings.len(),
        assessment.objects,
        assessment.readiness,
        assessment.hours
    );
    list(&mut out, "Could not be read: what it holds is not in here", &assessment.unreadable);
    list(&mut out, "Left out: links are not followed", &assessment.left_out);
    out.push_str("<h2>Workloads</h2>\n<table><tr><th>Workload<th>Ready<th>Wave<th>Rewritten<th>Input<th>Manual<th>Hours<th>Needs</tr>\n");
    for w in &assessment.workloads {
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{} %<td>{}<td>{}<td>{}<td>{}<td>{:.1}<td>{}</tr>",
            escaped(&w.name),
            w.readiness,
            w.wave,
            w.rewritten,
            w.waiting,
            w.manual,
            w.hours,
            escaped(&w.needs.join(", "))
        );
    }
    out.push_str("</table>\n");
    if !assessment.needs.is_empty() {
        out.push_str("<h2>Missing in migration.toml</h2>\n<ul>\n");
        for (need, count) in &assessment.needs {
            let _ = writeln!(out, "<li><code>{}</code> ({count} findings)", escaped(need));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<h2>Findings</h2>\n<table><tr><th>Rule<th>Where<th>What<th>On Azure<th>To do</tr>\n");
    for finding in &assessment.findings {
        row(&mut out, finding, rules);
    }
    out.push_str("</table>\n</html>\n");
    out
}

/// A section with what the rest of the page doesn't tell of, if there is any.
fn list(out: &mut String, title: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h2 class=\"error\">{title}</h2>\n<ul>");
    for entry in entries {
        let _ = writeln!(out, "<li>{}", escaped(entry));
    }
    out.push_str("</ul>\n");
}

fn row(out: &mut String, finding: &Finding, rules: &RuleSet) {
    let severity = format!("{:?}", finding.severity).to_lowercase();
    let link = rules
        .find(&finding.rule)
        .and_then(|rule| rule.links.iter().find(|link| link.starts_with("https://")));
    let id = match link {
        Some(link) => format!("<a href=\"{}\">{}</a>", escaped(link), escaped(&finding.rule)),
        None => escaped(&finding.rule),
    };
    let found =
        finding.found.as_ref().map(|f| format!("<br><code>{}</code>", escaped(f))).unwrap_or_default();
    let _ = writeln!(
        out,
        "<tr><td class=\"{severity}\">{id}<br>{severity}<td>{}<br>{}<br><code>{}</code><td>{}{found}<td>{}<td>{} {}</tr>",
        escaped(&place(finding)),
        escaped(&finding.object()),
        escaped(&finding.path),
        escaped(&finding.message),
        escaped(&finding.fix),
        state(finding),
        escaped(&finding.needs.join(", "))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_told() {
        let rules = RuleSet::shipped();
        let missing = ["Could not be read", "Left out"];
        let seen = page(&Assessment::default(), &rules);
        assert!(missing.iter().all(|title| !seen.contains(title)), "{seen}");
        let unseen = Assessment {
            unreadable: vec!["ingresses.networking.k8s.io".to_owned()],
            left_out: vec!["a<b>".to_owned()],
            ..Assessment::default()
        };
        let page = page(&unseen, &rules);
        assert!(missing.iter().all(|title| page.contains(title)), "{page}");
        assert!(
            page.contains("<li>ingresses.networking.k8s.io\n") && page.contains("<li>a&lt;b&gt;\n"),
            "{page}"
        );
    }

    #[test]
    fn what_is_no_html_becomes_none() {
        assert_eq!(escaped("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }
}
