//! Durable facts.

use std::path::PathBuf;

/// Why a fact could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be made or opened.
    #[error("failed to open the state in {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is damaged. Nothing was guessed and nothing was changed.
    #[error("the state in {path} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a newer version.
    #[error("the state in {path} was written by a newer version of migrate")]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// An operation failed: disk full, I/O error.
    #[error("failed to {operation}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
