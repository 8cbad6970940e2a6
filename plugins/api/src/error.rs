//! Errors of steps. The engine decides by [`ErrorClass`] alone, never by text.

use std::error::Error as StdError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of failure it is, and so what the engine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ErrorClass {
    /// May pass by itself: broken connections, 5xx, time-outs. Retried with backoff.
    Transient {
        /// Wait at least this many milliseconds, where the service said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// The service asks for less. Retried with a longer backoff.
    Throttled {
        /// Wait at least this many milliseconds, where the service said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// Credentials are missing, expired or refused. Not retried without a person.
    Auth,
    /// Something else already stands where the effect should go. Not retried.
    Conflict,
    /// Will fail the same way again: wrong input, a refused request. Not retried.
    Permanent,
    /// Data is not what it was proven to be. Never retried silently.
    Corrupt,
    /// The run was asked to stop and the step did.
    Cancelled,
}

impl ErrorClass {
    /// Whether the engine may try again without a person.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Throttled { .. })
    }

    /// The wait that the service asked for.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after_ms } | Self::Throttled { retry_after_ms } => {
                retry_after_ms.map(Duration::from_millis)
            }
            _ => None,
        }
    }
}

/// A failed operation of a step.
///
/// `message` completes "failed to …" or names the fault: lowercase, no period, no secret. The
/// cause goes into `source` and is not repeated in the message.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// What failed, naming the thing (object, image, table).
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StepError {
    /// A failure of `class`.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, source: None }
    }

    /// May pass by itself.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient { retry_after_ms: None }, message)
    }

    /// The service asks for less.
    pub fn throttled(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        let retry_after_ms = retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self::new(ErrorClass::Throttled { retry_after_ms }, message)
    }

    /// Credentials are missing, expired or refused.
    pub fn auth(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Auth, message)
    }

    /// Something else already stands there.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Conflict, message)
    }

    /// Will fail the same way again.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Permanent, message)
    }

    /// Data is not what it was proven to be.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Corrupt, message)
    }

    /// The run was asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorClass::Cancelled, "stopped on request")
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The storable form: the chain of causes as text, each once.
    pub fn to_record(&self) -> ErrorRecord {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source.as_deref().map(|e| e as &(dyn StdError + 'static));
        while let Some(error) = next {
            let text = error.to_string();
            let said = self.message.contains(&text) || causes.iter().any(|c| c.contains(&text));
            if !said {
                causes.push(text);
            }
            next = error.source();
        }
        ErrorRecord { class: self.class, message: self.message.clone(), causes, hint: self.hint.clone() }
    }
}

/// A [`StepError`] as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// What failed.
    pub message: String,
    /// Causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_never_repeated() {
        let inner = std::io::Error::other("connection reset");
        let error = StepError::transient("failed to read layer").with_source(inner);
        let record = error.to_record();
        assert_eq!(record.causes, ["connection reset"]);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(serde_json::from_value::<ErrorRecord>(json).unwrap(), record);
    }
}
