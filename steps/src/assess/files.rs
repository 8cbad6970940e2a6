//! A folder of manifests, assessed.

use std::path::Path;

use migrate_plugin_api::StepError;

use super::estate::Estate;
use super::report::Assessment;
use crate::manifests::source::{self, Source};
use crate::rules::document::read;
use crate::rules::object::objects;
use crate::rules::{Finding, Inputs, RuleSet};

/// Assesses a folder, or one file.
///
/// # Errors
/// `Permanent`, naming the file that can't be read.
pub fn assess_files(root: &Path, rules: &RuleSet, inputs: &Inputs) -> Result<Assessment, StepError> {
    let Source { manifests, facts, .. } = source::open(root)?;
    let (mut findings, mut estate, mut count) = (Vec::new(), Estate::default(), 0);
    for manifest in &manifests {
        let documents = read(&manifest.text).map_err(|e| source::unreadable(&manifest.entry, e))?;
        for document in &documents {
            for object in objects(&document.root) {
                estate.take(&object);
                count += 1;
            }
            let found = rules.findings(&document.root, Some(&manifest.text), &facts, inputs);
            findings.extend(found.into_iter().map(|f| Finding { file: manifest.entry.path.clone(), ..f }));
        }
    }
    Ok(Assessment::new(findings, &estate, rules, count, manifests.len() as u64))
}
