//! The workflows that come with the program, and how a workflow is named on the command line.

use std::path::Path;

use migrate_engine::nearest;

/// Shipped workflows by name.
const SHIPPED: &[(&str, &str)] = &[
    ("stateful", include_str!("../../workflows/stateful.toml")),
    ("stateless", include_str!("../../workflows/stateless.toml")),
];

/// Why there is no such workflow.
#[derive(Debug, thiserror::Error)]
#[error("there is no workflow `{name}`{}: neither a file nor one of {}", meant(.name), names().join(", "))]
pub struct UnknownWorkflow {
    name: String,
}

fn meant(name: &str) -> String {
    nearest(name, &names()).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

/// Their names.
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// All of them, as name and text.
pub fn all() -> impl Iterator<Item = (String, String)> {
    SHIPPED.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
}

/// The text of the shipped workflow `name`. A name is never a path, so a file is never hidden by it.
pub fn find(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// `workflow` as the path of a file that exists.
pub fn file(workflow: &str) -> Result<&Path, UnknownWorkflow> {
    let path = Path::new(workflow);
    if path.exists() { Ok(path) } else { Err(UnknownWorkflow { name: workflow.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipped_name_is_found_and_an_unknown_one_is_told() {
        assert!(find("stateful").unwrap().contains("velero.backup"));
        let message = file("statefull").unwrap_err().to_string();
        assert!(message.contains("stateful, stateless"), "{message}");
    }

    #[test]
    fn every_shipped_workflow_that_applies_names_the_source() {
        let nodes =
            all().flat_map(|(_, text)| text.split("\n[nodes.").map(str::to_owned).collect::<Vec<_>>());
        let applying: Vec<String> = nodes.filter(|node| node.contains("step = \"manifest.apply\"")).collect();
        assert_eq!(applying.len(), 1);
        assert!(applying.iter().all(|node| node.contains("source = \"${env.source.cluster}\"")));
    }
}
