//! A folder of manifests, assessed.

use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::StepError;

use super::estate::Estate;
use super::report::Assessment;
use crate::manifests::source::{self, Source};
use crate::rules::object::objects;
use crate::rules::{Finding, Inputs, RuleSet, Target};

/// Assesses a folder, or one file.
///
/// # Errors
/// `Permanent`, naming the file that can't be read.
pub fn assess_files(root: &Path, rules: &RuleSet, inputs: &Inputs) -> Result<Assessment, StepError> {
    assess_files_for(root, rules, inputs, None)
}

/// As [`assess_files`], on the way to `target`.
///
/// # Errors
/// As [`assess_files`].
pub fn assess_files_for(
    root: &Path,
    rules: &RuleSet,
    inputs: &Inputs,
    target: Option<Target>,
) -> Result<Assessment, StepError> {
    let Source { manifests, mut facts, skipped, .. } = source::open(root)?;
    facts.target = target.map(Arc::new);
    let (mut findings, mut estate, mut count) = (Vec::new(), Estate::default(), 0);
    for manifest in &manifests {
        for document in &manifest.documents {
            for object in objects(&document.root) {
                estate.take(&object);
                count += 1;
            }
        }
        let found = rules.findings_of_text(&manifest.text, &manifest.documents, &facts, inputs);
        findings.extend(found.into_iter().map(|f| Finding { file: manifest.entry.path.clone(), ..f }));
    }
    let assessment = Assessment::new(findings, &estate, rules, count, manifests.len() as u64);
    Ok(Assessment { left_out: skipped, ..assessment })
}
