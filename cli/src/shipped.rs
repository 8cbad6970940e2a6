//! The workflows that come with the program, and how a workflow is named on the command line.

use std::io;
use std::path::{Path, PathBuf};

/// Shipped workflows by name.
const SHIPPED: &[(&str, &str)] = &[
    ("stateful", include_str!("../../workflows/stateful.toml")),
    ("stateless", include_str!("../../workflows/stateless.toml")),
];

/// A workflow's text and the name that messages give it.
#[derive(Debug)]
pub struct WorkflowText {
    /// File as given, or `stateful.toml (shipped)`.
    pub name: String,
    /// The TOML.
    pub text: String,
}

/// Why a workflow could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadWorkflowError {
    /// Neither a file nor a shipped name.
    #[error("there is no workflow `{0}`: neither a file nor one of {known}", known = names().join(", "))]
    Unknown(String),
    /// The file can't be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// Reads `workflow`: a file where there is one, else a shipped workflow of that name.
pub fn read(workflow: &str) -> Result<WorkflowText, ReadWorkflowError> {
    let path = Path::new(workflow);
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(WorkflowText { name: workflow.to_owned(), text }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => SHIPPED
            .iter()
            .find(|(name, _)| *name == workflow)
            .map(|(name, text)| WorkflowText { name: format!("{name}.toml (shipped)"), text: (*text).to_owned() })
            .ok_or_else(|| ReadWorkflowError::Unknown(workflow.to_owned())),
        Err(source) => Err(ReadWorkflowError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipped_name_is_found_and_an_unknown_one_is_told() {
        assert!(read("stateful").unwrap().text.contains("velero.backup"));
        let message = read("statefull").unwrap_err().to_string();
        assert!(message.contains("stateful, stateless"), "{message}");
    }
}
