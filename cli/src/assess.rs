//! `migrate assess`: what will not be the same on AKS, as a table, JSON, SARIF and HTML.

use std::fmt::Write as _;
use std::path::Path;

use migrate_steps::assess::{Assessment, EksCluster, assess_cluster, assess_files_for, look_at_target};
use migrate_steps::rules::{Finding, RuleKind};

use crate::args::{AssessArgs, Cli};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_document, print_json};
use crate::say::say;
use crate::site::{Knowledge, knowledge};
use crate::table::Table;
use crate::{html, sarif};

/// Findings that the table shows; all are in the other forms.
const SHOWN: usize = 200;

/// The command.
///
/// # Errors
/// When something can't be read or written.
pub async fn assess(cli: &Cli, args: &AssessArgs) -> Result<Exit, Failure> {
    let known = knowledge(cli, &args.rules)?;
    let target = match &args.target {
        Some(context) => Some(look_at_target(context).await?),
        None => None,
    };
    let (rules, inputs) = (&known.rules, &known.inputs);
    let assessment = match (&args.path, &args.context) {
        (Some(path), _) => assess_files_for(path, rules, inputs, target)?,
        (None, Some(context)) => {
            let eks = eks(cli, args, &known)?;
            assess_cluster(context, &args.namespaces, rules, inputs, target, eks).await?
        }
        (None, None) => return Err(Failure::Usage("name a folder, or a cluster with --context".to_owned())),
    };
    for path in &assessment.left_out {
        say!("{}", left_out(path));
    }
    for what in &assessment.unreadable {
        say!("{}", unread(what));
    }
    if let Some(file) = &args.html {
        write(file, &html::page(&assessment, &known.rules))?;
        say!("written to {}", file.display());
    }
    if args.sarif {
        print_document(&format!("{:#}\n", sarif::document(&assessment, &known.rules)))?;
    } else if cli.json {
        print_json("assessment", &assessment)?;
    } else {
        print(&shown(&assessment, &known))?;
    }
    Ok(if args.check && is_open(&assessment) { Exit::Failed } else { Exit::Done })
}

/// That a link in a folder was not looked at.
pub fn left_out(path: &str) -> String {
    format!("{path} was left out: links are not followed")
}

/// That something was not looked at for want of a right.
pub fn unread(what: &str) -> String {
    format!("{what} could not be read: what it holds is not in here")
}

/// Whether something is left, or was not seen: of that it can't be said that nothing is.
fn is_open(assessment: &Assessment) -> bool {
    !assessment.unreadable.is_empty()
        || !assessment.left_out.is_empty()
        || assessment.findings.iter().any(|finding| !finding.rewritten)
}

/// The EKS cluster to ask about, where one is named.
fn eks(cli: &Cli, args: &AssessArgs, known: &Knowledge) -> Result<Option<EksCluster>, Failure> {
    let Some(name) = &args.eks else { return Ok(None) };
    let Some(aws) = known.aws.clone() else {
        return Err(Failure::Usage(format!(
            "--eks {name} needs `[source.aws]` in migration.toml: the region at least"
        )));
    };
    Ok(Some(EksCluster { name: name.clone(), aws, project: cli.project.clone() }))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|source| Failure::Write { file: file.display().to_string(), source })
}

/// Where a finding is: the line of the file, or the object.
pub fn place(finding: &Finding) -> String {
    match finding.file.as_str() {
        "" => finding.object(),
        file => format!("{file}:{}", finding.line),
    }
}

/// What is to be done about a finding, in a word.
pub fn state(finding: &Finding) -> &'static str {
    match (finding.rewritten, finding.action) {
        (true, _) => "rewritten",
        (false, RuleKind::Manual) => "manual",
        (false, _) if finding.needs.is_empty() => "by hand",
        (false, _) => "input",
    }
}

fn shown(assessment: &Assessment, known: &Knowledge) -> String {
    let mut text = String::new();
    let mut workloads = Table::new(["WORKLOAD", "READY", "WAVE", "REWRITTEN", "INPUT", "MANUAL", "HOURS"]);
    for workload in &assessment.workloads {
        let number = |count: usize| if count == 0 { "-".to_owned() } else { count.to_string() };
        workloads.row([
            workload.name.clone(),
            format!("{} %", workload.readiness),
            number(workload.wave),
            number(workload.rewritten),
            number(workload.waiting),
            number(workload.manual),
            if workload.hours == 0.0 { "-".to_owned() } else { format!("{:.1}", workload.hours) },
        ]);
    }
    if !assessment.workloads.is_empty() {
        let _ = writeln!(text, "{workloads}");
    }
    if !assessment.findings.is_empty() {
        let mut findings = Table::new(["SEVERITY", "RULE", "WHERE", "OBJECT", "WHAT", "TO DO"]);
        for finding in assessment.findings.iter().take(SHOWN) {
            let what = match &finding.found {
                Some(found) => format!("{}: {found}", finding.message),
                None => finding.message.clone(),
            };
            findings.row([
                format!("{:?}", finding.severity).to_lowercase(),
                finding.rule.clone(),
                place(finding),
                finding.object(),
                what,
                state(finding).to_owned(),
            ]);
        }
        let _ = writeln!(text, "{findings}");
    }
    if assessment.findings.len() > SHOWN {
        let _ = writeln!(text, "and {} more; --json or --html has all\n", assessment.findings.len() - SHOWN);
    }
    if !assessment.needs.is_empty() {
        let _ = writeln!(text, "missing in migration.toml:");
        for (need, count) in &assessment.needs {
            let _ = writeln!(text, "  {need}  ({count} findings)");
        }
        text.push('\n');
    }
    for (at, wave) in assessment.waves.iter().enumerate() {
        let _ = writeln!(text, "wave {}: {}", at + 1, wave.join(", "));
    }
    let rewritten = assessment.findings.iter().filter(|finding| finding.rewritten).count();
    let _ = writeln!(
        text,
        "{} findings of {} rules in {} objects: {rewritten} rewritten, {} left; readiness {} %, about {:.1} h of work",
        assessment.findings.len(),
        known.rules.rules().count(),
        assessment.objects,
        assessment.findings.len() - rewritten,
        assessment.readiness,
        assessment.hours
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_not_done() {
        assert!(!is_open(&Assessment::default()));
        assert!(is_open(&Assessment { unreadable: vec!["ingresses".to_owned()], ..Assessment::default() }));
        assert!(is_open(&Assessment { left_out: vec!["link.yaml".to_owned()], ..Assessment::default() }));
    }
}
