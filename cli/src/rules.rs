//! `migrate rules`.

use std::fmt::Write as _;

use migrate_steps::rules::{Rule, RuleKind, RuleSet};

use crate::args::{Cli, RulesArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::site::knowledge;
use crate::table::Table;

/// The command.
///
/// # Errors
/// When there is no such rule, or a file of rules is wrong.
pub fn rules(cli: &Cli, args: &RulesArgs) -> Result<Exit, Failure> {
    let rules = knowledge(cli, &args.rules)?.rules;
    if let Some(id) = &args.id {
        let rule = rules.find(id).ok_or_else(|| Failure::UnknownRule(id.clone()))?;
        match cli.json {
            true => print_json("rule", &serde_json::json!({ "rule": rule }))?,
            false => print(&explained(rule))?,
        };
        return Ok(Exit::Done);
    }
    if args.counts {
        let of = |kind| rules.count(kind);
        let counts = serde_json::json!({ "automatic": of(RuleKind::Automatic), "input": of(RuleKind::Input),
            "manual": of(RuleKind::Manual) });
        match cli.json {
            true => print_json("rule-counts", &counts)?,
            false => print(&format!("{}\n", counted(&rules)))?,
        };
        return Ok(Exit::Done);
    }
    if cli.json {
        let all: Vec<&Rule> = rules.rules().collect();
        print_json("rules", &serde_json::json!({ "rules": all }))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["RULE", "WHO", "SEVERITY", "WHAT IT FINDS"]);
    for rule in rules.rules() {
        let severity = format!("{:?}", rule.severity).to_lowercase();
        table.row([rule.id.clone(), who(rule.kind).to_owned(), severity, rule.title.clone()]);
    }
    print(&format!("{table}\n{}\n", counted(&rules)))?;
    Ok(Exit::Done)
}

/// Who can do it, in a word.
pub fn who(kind: RuleKind) -> &'static str {
    match kind {
        RuleKind::Automatic => "automatic",
        RuleKind::Input => "input",
        RuleKind::Manual => "manual",
    }
}

fn counted(rules: &RuleSet) -> String {
    format!(
        "{} rules: {} rewrite by themselves, {} with an input of migration.toml, {} are for a person",
        rules.rules().count(),
        rules.count(RuleKind::Automatic),
        rules.count(RuleKind::Input),
        rules.count(RuleKind::Manual)
    )
}

fn explained(rule: &Rule) -> String {
    let mut text = format!("{}: {}\n\n", rule.id, rule.title);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("why", &rule.why);
    line("on Azure", &rule.azure);
    line("who", who(rule.kind));
    line("severity", &format!("{:?}", rule.severity).to_lowercase());
    if rule.hours > 0.0 {
        line("work", &format!("{} h, roughly", rule.hours));
    }
    let needs: Vec<&str> =
        rule.lookup.iter().chain(&rule.input).chain(&rule.inputs).map(String::as_str).collect();
    if !needs.is_empty() {
        line("needs", &format!("of [rewrite] in migration.toml: {}", needs.join(", ")));
    }
    for link in &rule.links {
        line("see", link);
    }
    if let Some(example) = rule.examples.first() {
        let _ = write!(text, "\nbefore\n{}", indented(&example.before));
        match example.after.as_deref().map(str::trim) {
            Some("") => text.push_str("\nafter\n    (dropped)\n"),
            Some(after) => {
                let _ = write!(text, "\nafter\n{}", indented(after));
            }
            None => {}
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.trim().lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect()
}
