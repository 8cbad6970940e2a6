//! One run at a time: an OS lock on `.migrate/lock`, freed by the death of its holder.

use std::fmt;

use jiff::Timestamp;
use migrate_plugin_api::RunId;
use serde::{Deserialize, Serialize};

/// The process that holds the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// Process ID.
    pub pid: u32,
    /// Its run; absent in the moment before it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if let Some(run) = &self.run {
            write!(f, ", run {run}")?;
        }
        write!(f, ", since {}", self.since)
    }
}
