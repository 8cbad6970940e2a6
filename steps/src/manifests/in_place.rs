//! A folder rewritten in memory, for who shows the difference or writes it back.

use std::path::{Path, PathBuf};

use migrate_plugin_api::StepError;

use super::rewrite::FileChange;
use super::source::{self, Source};
use crate::rules::{Finding, Inputs, RuleSet};

/// A file before and after.
#[derive(Debug, Clone)]
pub struct RewrittenFile {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// Where it is.
    pub absolute: PathBuf,
    /// Its text.
    pub before: String,
    /// Its text with everything done.
    pub after: String,
    /// What was done.
    pub changes: Vec<FileChange>,
}

/// A folder before and after.
#[derive(Debug, Clone, Default)]
pub struct RewrittenFiles {
    /// Every manifest, changed or not, sorted by path.
    pub files: Vec<RewrittenFile>,
    /// What is left: for a person, or for want of an input.
    pub findings: Vec<Finding>,
}

/// Rewrites a folder, or one file; writes nothing.
///
/// # Errors
/// `Permanent`, naming the file that can't be read or edited.
pub fn rewrite_files(root: &Path, rules: &RuleSet, inputs: &Inputs) -> Result<RewrittenFiles, StepError> {
    let Source { manifests, facts, .. } = source::open(root)?;
    let mut all = RewrittenFiles::default();
    for manifest in manifests {
        let path = manifest.entry.path.clone();
        let found = rules
            .findings_of_text(&manifest.text, &facts, inputs)
            .map_err(|e| source::unreadable(&manifest.entry, e))?;
        let open = found.into_iter().filter(|finding| !finding.rewritten);
        all.findings.extend(open.map(|finding| Finding { file: path.clone(), ..finding }));
        let done = rules
            .rewrite(&manifest.text, &facts, inputs)
            .map_err(|e| StepError::permanent(format!("failed to rewrite {path}")).with_source(e))?;
        all.files.push(RewrittenFile {
            changes: done.changes.into_iter().map(|change| FileChange::of(&path, change)).collect(),
            path,
            absolute: manifest.entry.absolute,
            before: manifest.text,
            after: done.text,
        });
    }
    Ok(all)
}
