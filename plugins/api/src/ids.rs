//! Identifiers. Every one is a newtype, so that one cannot be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a string is no valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} `{value}`: {reason}")]
pub struct InvalidId {
    kind: &'static str,
    value: String,
    reason: &'static str,
}

impl InvalidId {
    pub(crate) fn new(kind: &'static str, value: &str, reason: &'static str) -> Self {
        Self { kind, value: value.chars().take(80).collect(), reason }
    }
}

/// Longest accepted identifier. Node names become parts of Kubernetes names (63 characters).
pub(crate) const MAX_ID_CHARS: usize = 63;

pub(crate) fn check(kind: &'static str, value: &str) -> Result<(), InvalidId> {
    let refuse = |reason| Err(InvalidId::new(kind, value, reason));
    if value.is_empty() {
        return refuse("it is empty");
    }
    if value.len() > MAX_ID_CHARS {
        return refuse("it is longer than 63 characters");
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return refuse("only lowercase letters, digits and `-` are allowed");
    }
    if value.starts_with('-') || value.ends_with('-') {
        return refuse("it must start and end with a letter or digit");
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps `value`.
            ///
            /// # Errors
            /// When it is empty, longer than 63 characters, or holds anything but lowercase
            /// letters, digits and inner `-`.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                check($kind, &value)?;
                Ok(Self(value))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// One run of a workflow.
    RunId,
    "run ID"
);
id!(
    /// Deterministic in (run, node, config digest, generation); a generation ends when the effect is to
    /// be made again: by `--rerun`, after a change, or because it no longer holds. Steps use it as the name of the outside thing
    /// they make (a Velero Backup, a Job), so that a repeated attempt finds what the first made.
    /// A valid DNS label: lowercase letters, digits, `-`, at most 63 characters.
    IdempotencyKey,
    "idempotency key"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_dns_labels_only() {
        assert!(RunId::new("copy-backup-2").is_ok());
        for bad in ["", "Copy", "a_b", "-a", "a-", "a b", "ä", &"x".repeat(64)] {
            assert!(RunId::new(bad).is_err(), "{bad:?}");
        }
    }
}
