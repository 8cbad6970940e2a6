//! A folder (or one file) of manifests, read whole before any of it is judged: what one file says
//! matters in another.

use std::path::Path;

use migrate_plugin_api::StepError;

use super::tree::{self, Entry};
use crate::rules::document::{Document, read};
use crate::rules::facts::Facts;
use crate::rules::object::objects;

/// Names of files that Helm fills in; they are YAML only by their name.
const TEMPLATES: &str = "/templates/";

/// A manifest as text.
pub(crate) struct Manifest {
    /// Its file.
    pub entry: Entry,
    /// Its text.
    pub text: String,
    /// What it says.
    pub documents: Vec<Document>,
}

/// Everything that was read.
pub(crate) struct Source {
    /// Manifests, sorted by path.
    pub manifests: Vec<Manifest>,
    /// Other files, sorted by path.
    pub others: Vec<Entry>,
    /// What is neither file nor folder.
    pub skipped: Vec<String>,
    /// What all manifests say together.
    pub facts: Facts,
}

/// Reads `root`, a folder or a file.
///
/// # Errors
/// `Permanent`, naming the file that is no YAML, no UTF-8, too large or a bomb.
pub(crate) fn open(root: &Path) -> Result<Source, StepError> {
    let listing = tree::list_any(root)?;
    let mut source = Source {
        manifests: Vec::new(),
        others: Vec::new(),
        skipped: listing.others,
        facts: Facts::default(),
    };
    for entry in listing.files {
        if !entry.is_manifest() {
            source.others.push(entry);
            continue;
        }
        let text = String::from_utf8(tree::read(&entry)?)
            .map_err(|e| StepError::permanent(format!("{} is not UTF-8", entry.path)).with_source(e))?;
        let documents = read(&text).map_err(|e| unreadable(&entry, e))?;
        for document in &documents {
            objects(&document.root).iter().for_each(|object| source.facts.take(object));
        }
        source.manifests.push(Manifest { entry, text, documents });
    }
    Ok(source)
}

/// A file that can't be read or edited, with the way out.
pub(crate) fn unreadable(entry: &Entry, error: impl std::error::Error + Send + Sync + 'static) -> StepError {
    let failed = StepError::permanent(format!("failed to read {}", entry.path)).with_source(error);
    let is_template = format!("/{}", entry.path).contains(TEMPLATES) || entry.path.ends_with(".tpl");
    failed.with_hint(match is_template {
        true => {
            "a template of Helm is no YAML: render it first (`helm template`), or rewrite the chart's values"
        }
        false => "templates can't be read: render them first, or rewrite their values",
    })
}
