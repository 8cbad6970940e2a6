//! What a rule says about a place.

use migrate_plugin_api::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::document::{Lines, Node};
use super::engine::Match;
use super::object::Object;
use super::rule::{Rule, RuleKind, RuleSeverity};
use crate::workload::{Segment, display};

/// Something of AWS's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The file it is in; empty for live objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// The line in it, from 1; 0 for live objects.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub line: usize,
    /// Kind of the object.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where in the object: `spec.template.spec.containers[0].env[1].value`.
    pub path: String,
    /// Which rule; `migrate rules ID` explains it.
    pub rule: String,
    /// Who can do it.
    pub action: RuleKind,
    /// How much it matters.
    pub severity: RuleSeverity,
    /// What stands there; never from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What it is.
    pub message: String,
    /// What it becomes.
    pub fix: String,
    /// Keys of `migration.toml` that are missing before it can be rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Whether it is rewritten with the inputs given; otherwise it is for a person.
    #[serde(default)]
    pub rewritten: bool,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Finding {
    /// Of a match.
    pub(crate) fn of(rule: &Rule, object: &Object<'_>, found: &Match, lines: Option<&Lines>) -> Self {
        Self {
            file: String::new(),
            line: lines.map_or(0, |lines| lines.line(place(object.node, &found.path))),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            path: display(&found.path),
            rule: rule.id.clone(),
            action: rule.kind,
            severity: rule.severity,
            found: found.found.clone(),
            message: found.message.clone().unwrap_or_else(|| rule.title.clone()),
            fix: rule.azure.clone(),
            needs: found.needs.clone(),
            rewritten: !found.effects.is_empty(),
        }
    }

    /// What it is, what it becomes, and what is missing for that.
    pub fn note(&self) -> String {
        let mut note = self.message.clone();
        if let Some(found) = &self.found {
            note.push_str(&format!(" (`{found}`)"));
        }
        note.push_str(&format!("; becomes {}", self.fix));
        if !self.needs.is_empty() {
            note.push_str(&format!("; needs {} in migration.toml", self.needs.join(", ")));
        }
        note
    }

    /// As a line of evidence: a warning, since it is for a person.
    pub(crate) fn to_check(&self) -> Check {
        Check { source: self.path.clone(), ..Check::told(self.object(), &self.rule, self.note()) }
    }

    /// `Deployment shop/web`.
    pub fn object(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Where the deepest part of `path` that is there begins: its key, or the item.
fn place(root: &Node, path: &[Segment<'static>]) -> usize {
    let there = (0..=path.len()).rev().find(|depth| root.follow(&path[..*depth]).is_some()).unwrap_or(0);
    let key = match path[..there].split_last() {
        Some((Segment::Key(name), parent)) => {
            let entries = root.follow(parent).map_or(&[][..], Node::entries);
            entries.iter().find(|entry| entry.key.text() == Some(name.as_ref())).map(|entry| &entry.key)
        }
        _ => None,
    };
    key.or_else(|| root.follow(&path[..there])).map_or(0, |node| node.span.start)
}
