//! What proves an effect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The result of one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckStatus {
    /// As it should be.
    Passed,
    /// Not as it was, but it doesn't make the result wrong; a person should read it.
    Warning,
    /// Not as it should be: the node fails.
    Failed,
}

/// One comparison between what should be and what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was looked at: `image shop/web:1.0`, `table shop.orders`, `file /data/a.bin`.
    pub subject: String,
    /// What was compared: `digest`, `rows`, `sha256`, `objects`.
    pub what: String,
    /// The expected value, usually the source's.
    pub source: String,
    /// The value found, usually the target's.
    pub target: String,
    /// The result.
    pub status: CheckStatus,
    /// Why, where it isn't plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Check {
    /// A check that passes exactly when both values are equal.
    pub fn equal(
        subject: impl Into<String>,
        what: impl Into<String>,
        source: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        let (source, target) = (source.into(), target.into());
        let status = if source == target { CheckStatus::Passed } else { CheckStatus::Failed };
        Self { subject: subject.into(), what: what.into(), source, target, status, note: None }
    }

    /// A warning that compares nothing: what a person should read of `subject`.
    pub fn told(subject: impl Into<String>, what: impl Into<String>, note: impl Into<String>) -> Self {
        let check = Self::equal(subject, what, "", "").with_note(note);
        Self { status: CheckStatus::Warning, ..check }
    }

    /// The same check with `note`.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// All comparisons of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// In the order in which a person should read them.
    pub checks: Vec<Check>,
}

impl Evidence {
    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The failed checks.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == CheckStatus::Failed)
    }
}

impl FromIterator<Check> for Evidence {
    fn from_iter<I: IntoIterator<Item = Check>>(checks: I) -> Self {
        Self { checks: checks.into_iter().collect() }
    }
}
