//! How far a running step is. Rates and time left are the reader's business.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// So much of so much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// Done so far.
    pub done: u64,
    /// The whole, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A snapshot; each replaces the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is being done right now, a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Amount>,
    /// Items (objects, images, volumes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Amount>,
}

impl Progress {
    /// Only words.
    pub fn message(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..Self::default() }
    }

    /// Adds bytes done of `total`.
    #[must_use]
    pub fn bytes(mut self, done: u64, total: impl Into<Option<u64>>) -> Self {
        self.bytes = Some(Amount { done, total: total.into() });
        self
    }

    /// Adds items done of `total`.
    #[must_use]
    pub fn items(mut self, done: u64, total: impl Into<Option<u64>>) -> Self {
        self.items = Some(Amount { done, total: total.into() });
        self
    }
}
