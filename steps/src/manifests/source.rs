//! A folder (or one file) of manifests, read whole before any of it is judged: what one file says
//! matters in another. Charts of Helm in it, and a folder that is an overlay of Kustomize, are what they make.

use std::path::{Path, PathBuf};

use migrate_plugin_api::StepError;

use super::render::{self, Rendered};
use super::tree::{self, Entry};
use crate::rules::code::ingress_elsewhere::Others;
use crate::rules::code::ingress_groups::Classes;
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

/// A chart of Helm.
pub(crate) struct Chart {
    /// Its folder, relative to the root: empty, or with a `/` at its end.
    pub path: String,
    /// Where it is.
    pub absolute: PathBuf,
    /// What it makes with its own values.
    pub rendered: Vec<Rendered>,
}

/// An overlay of Kustomize, which the root itself is.
pub(crate) struct Base {
    /// The file that makes it one.
    pub entry: Entry,
    /// What it makes.
    pub text: String,
    /// What that says.
    pub documents: Vec<Document>,
}

/// Everything that was read.
pub(crate) struct Source {
    /// Manifests, sorted by path; none of an overlay.
    pub manifests: Vec<Manifest>,
    /// Charts, sorted by path.
    pub charts: Vec<Chart>,
    /// The overlay, where the root is one.
    pub base: Option<Base>,
    /// Other files, sorted by path; those of charts too.
    pub others: Vec<Entry>,
    /// What is neither file nor folder; nothing of an overlay.
    pub skipped: Vec<String>,
    /// What all manifests say together.
    pub facts: Facts,
}

/// Reads `root`, a folder or a file.
///
/// # Errors
/// `Permanent`, naming the file that is no YAML, no UTF-8, too large or a bomb; or the tool that a chart or an
/// overlay needs and that is missing or refuses.
pub(crate) fn open(root: &Path) -> Result<Source, StepError> {
    let listing = tree::list_any(root)?;
    let exported = tree::exported(root, &listing)?;
    let mut source = Source {
        manifests: Vec::new(),
        charts: Vec::new(),
        base: None,
        others: Vec::new(),
        skipped: listing.others.clone(),
        facts: Facts::default(),
    };
    source.facts.ingresses.known = match exported {
        None => Classes::Written,
        Some(tree::Exported::Whole) => Classes::Read,
        Some(tree::Exported::WithoutClasses) => Classes::Unread,
    };
    source.facts.ingresses.others = match tree::elsewhere(root, &listing)? {
        _ if exported.is_none() => Others::Written,
        None => Others::Unread,
        Some(lines) => Others::of_lines(&lines),
    };
    if let Some(name) = render::overlay_file(root) {
        source.base = Some(base(root, name, &mut source.facts)?);
        source.others = listing.files;
        // What an overlay is made of is its own business.
        source.skipped.clear();
        return Ok(source);
    }
    for folder in render::charts(listing.files.iter().map(|entry| entry.path.as_str())) {
        source.charts.push(chart(root, &folder, &mut source.facts)?);
    }
    // Before any of a manifest is taken.
    source.facts.ingresses.are_of_charts();
    for entry in listing.files {
        let charts = source.charts.iter().map(|chart| Path::new(&chart.path));
        if !entry.is_manifest() || render::belongs_to_chart(&entry.path, charts) {
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

/// A digest over what [`open`] reads of `root` and rewrites, and over the files `besides`: the manifests and all files of
/// charts, or what an overlay makes, of which most lies elsewhere. Not over what git and `migrate` itself keep there, nor
/// what lies in `to`.
///
/// # Errors
/// `Permanent`, naming what can't be read, or the tool that an overlay needs and that is missing or refuses.
pub(crate) fn digest(root: &Path, to: &Path, besides: &[PathBuf]) -> Result<String, StepError> {
    let failed =
        |e: std::io::Error| StepError::permanent(format!("failed to find {}", root.display())).with_source(e);
    let (root, to) = (std::fs::canonicalize(root).map_err(failed)?, std::fs::canonicalize(to).ok());
    let mut digest = tree::Digest::default();
    if let Some(name) = render::overlay_file(&root) {
        digest.add(name, render::overlay(&root)?.as_bytes());
    } else {
        let files = tree::list_any(&root)?.files;
        let charts = render::charts(files.iter().map(|entry| entry.path.as_str()));
        let is_read = |entry: &Entry| {
            entry.is_manifest() || render::belongs_to_chart(&entry.path, charts.iter().map(PathBuf::as_path))
        };
        let is_kept_there = |entry: &Entry| {
            Path::new(&entry.path).iter().any(|part| part == ".git" || part == ".migrate")
                || to.as_ref().is_some_and(|to| entry.absolute.starts_with(to))
        };
        files
            .iter()
            .filter(|entry| is_read(entry) && !is_kept_there(entry))
            .try_for_each(|entry| digest.add_file(entry))?;
    }
    for file in besides {
        tree::list_any(file)?.files.iter().try_for_each(|entry| digest.add_file(entry))?;
    }
    Ok(digest.finish())
}

fn chart(root: &Path, folder: &Path, facts: &mut Facts) -> Result<Chart, StepError> {
    let absolute = std::path::absolute(root.join(folder))
        .map_err(|e| StepError::permanent(format!("failed to find {}", folder.display())).with_source(e))?;
    let rendered = render::chart(&absolute, None, render::NAMESPACE)?;
    for one in &rendered {
        let documents = read(&one.text).map_err(|e| {
            StepError::permanent(format!("what {} makes is no YAML", one.template)).with_source(e)
        })?;
        documents
            .iter()
            .for_each(|document| objects(&document.root).iter().for_each(|object| facts.take(object)));
    }
    Ok(Chart { path: folder.to_string_lossy().into_owned(), absolute, rendered })
}

fn base(root: &Path, name: &str, facts: &mut Facts) -> Result<Base, StepError> {
    let absolute = std::path::absolute(root)
        .map_err(|e| StepError::permanent(format!("failed to find {}", root.display())).with_source(e))?;
    let text = render::overlay(&absolute)?;
    let documents = read(&text)
        .map_err(|e| StepError::permanent(format!("what {name} makes is no YAML")).with_source(e))?;
    for document in &documents {
        objects(&document.root).iter().for_each(|object| facts.take(object));
    }
    Ok(Base { entry: Entry { path: name.to_owned(), absolute: absolute.join(name) }, text, documents })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Helm makes something of files that are no manifests.
    #[test]
    fn another_file_of_a_chart_is_another_source() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = dir.path().join("in").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let now = || digest(&dir.path().join("in"), &dir.path().join("in/out"), &[]).unwrap();
        write("shop/Chart.yaml", "name: shop");
        write("shop/templates/_names.tpl", "a");
        write("shop/crds/a.yaml", "kind: CustomResourceDefinition");
        let was = now();
        write("README.md", "of nobody");
        write("out/Chart.yaml", "name: shop");
        write("out/templates/_names.tpl", "what was made of it");
        assert_eq!(now(), was);
        for (path, before) in
            [("shop/templates/_names.tpl", "a"), ("shop/crds/a.yaml", "kind: CustomResourceDefinition")]
        {
            write(path, "b");
            assert_ne!(now(), was, "{path}");
            write(path, before);
            assert_eq!(now(), was, "{path}");
        }
    }
}
