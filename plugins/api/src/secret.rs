//! Secrets are passed as references and resolved at the moment of use. A reference may be
//! stored and shown; a resolved [`Secret`] may not, and its type makes that hard.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Where a secret is: `env:NAME` or `file:PATH` (relative to the project folder).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// An environment variable of the `migrate` process.
    Env(String),
    /// A file; one trailing line break is not part of the secret.
    File(String),
}

/// Why a string is no secret reference. Never repeats the string: it may be the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a secret reference: write `env:NAME` or `file:PATH`, never the secret itself")]
pub struct InvalidSecretRef;

impl TryFrom<String> for SecretRef {
    type Error = InvalidSecretRef;

    fn try_from(value: String) -> Result<Self, InvalidSecretRef> {
        match value.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            _ => Err(InvalidSecretRef),
        }
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(env|file):.+",
            "description": "A secret's place: `env:NAME` or `file:PATH`."
        })
    }
}

/// A resolved secret. `Debug` shows no part of it, and it cannot be serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, to hand to the service that needs it and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reference_is_not_shown() {
        let error = serde_json::from_str::<SecretRef>("\"hunter2\"").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
