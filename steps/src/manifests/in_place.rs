//! A folder rewritten in memory, for who shows the difference or writes it back.
//!
//! Invariant: nothing is written outside the folder, through a link, or over what somebody else has
//! written in the meantime.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_plugin_api::StepError;

use super::chart::{self, Solved};
use super::overlay::{Overlay, overlay};
use super::rewrite::FileChange;
use super::source::{self, Base, Chart, Source};
use crate::rules::facts::Facts;
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
    /// Whether every object in it went, so that the file goes.
    pub is_emptied: bool,
    /// Whether it is not there yet: of an overlay on top of the one that was rewritten.
    pub is_new: bool,
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
    /// Links and the like, which were not read.
    pub left_out: Vec<String>,
    /// The folder, or that of the one file.
    root: PathBuf,
    /// The overlay that is written beside the one that was rewritten, and where.
    overlay: Option<(PathBuf, Arc<Overlay>)>,
}

/// Rewrites a folder, or one file; writes nothing.
///
/// # Errors
/// `Permanent`, naming the file that can't be read or edited.
pub fn rewrite_files(root: &Path, rules: &RuleSet, inputs: &Inputs) -> Result<RewrittenFiles, StepError> {
    let Source { manifests, charts, base, facts, skipped, .. } = source::open(root)?;
    let mut real = fs::canonicalize(root).map_err(|e| failed("read", &root.display().to_string(), e))?;
    if real.is_file() {
        real.pop();
    }
    let mut all = RewrittenFiles { left_out: skipped, root: real, ..RewrittenFiles::default() };
    for manifest in manifests {
        let path = manifest.entry.path.clone();
        let found = rules.findings_of_text(&manifest.text, &manifest.documents, &facts, inputs);
        let open = found.into_iter().filter(|finding| !finding.rewritten);
        all.findings.extend(open.map(|finding| Finding { file: path.clone(), ..finding }));
        let done = rules
            .rewrite(&manifest.text, &manifest.documents, &facts, inputs)
            .map_err(|e| StepError::permanent(format!("failed to rewrite {path}")).with_source(e))?;
        all.files.push(RewrittenFile {
            changes: FileChange::all(&path, done.changes),
            path,
            absolute: manifest.entry.absolute,
            before: manifest.text,
            after: done.text,
            is_emptied: done.is_emptied,
            is_new: false,
        });
    }
    for chart in &charts {
        all.chart(chart, rules, &facts, inputs)?;
    }
    if let Some(base) = base {
        all.beside(&base, rules, &facts, inputs)?;
    }
    Ok(all)
}

impl RewrittenFiles {
    /// The values of a chart, and what they don't solve.
    fn chart(
        &mut self,
        chart: &Chart,
        rules: &RuleSet,
        facts: &Facts,
        inputs: &Inputs,
    ) -> Result<(), StepError> {
        let Solved { findings, values } = chart::solve(chart, rules, facts, inputs)?;
        self.findings.extend(findings.into_iter().filter(|finding| !finding.rewritten));
        self.files.extend(values.map(|values| RewrittenFile {
            absolute: chart.absolute.join(chart::VALUES),
            path: values.path,
            before: values.before,
            after: values.after,
            is_emptied: false,
            is_new: false,
            changes: values.changes,
        }));
        Ok(())
    }

    /// An overlay on top of the one that the root is: `NAME-aks` beside it.
    fn beside(
        &mut self,
        base: &Base,
        rules: &RuleSet,
        facts: &Facts,
        inputs: &Inputs,
    ) -> Result<(), StepError> {
        for document in &base.documents {
            let found = rules.findings(&document.root, None, facts, inputs);
            let open = found.into_iter().filter(|finding| !finding.rewritten);
            self.findings.extend(open.map(|f| Finding { file: base.entry.path.clone(), line: 1, ..f }));
        }
        let name = self.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = self.root.with_file_name(format!("{name}-aks"));
        let made = overlay((&base.text, &base.documents), &format!("../{name}"), rules, facts, inputs)?;
        if made.files.is_empty() {
            return Ok(());
        }
        if fs::symlink_metadata(&folder).is_ok() {
            return Err(StepError::conflict(format!("{} is there already", folder.display()))
                .with_hint("move it away, or rewrite it instead: it is an overlay too"));
        }
        for (at, (file, text)) in made.files.iter().enumerate() {
            let path = format!("../{name}-aks/{file}");
            // Everything is done by the overlay as a whole, which its first file stands for.
            let changes = if at == 0 { made.changes.clone() } else { Vec::new() };
            self.files.push(RewrittenFile {
                changes: FileChange::all(&path, changes),
                path,
                absolute: folder.join(file),
                before: String::new(),
                after: text.clone(),
                is_emptied: false,
                is_new: true,
            });
        }
        self.overlay = Some((folder, Arc::new(made)));
        Ok(())
    }

    /// Files that are another than before.
    pub fn changed(&self) -> impl Iterator<Item = &RewrittenFile> {
        self.files.iter().filter(|file| file.before != file.after)
    }

    /// Writes every changed file back, each as a whole or not at all, and removes those of which
    /// nothing is left. All are looked at before the first is touched.
    ///
    /// # Errors
    /// `Conflict` where a file is not the one that was read any more, `Permanent` where it can't be
    /// written.
    pub fn write_back(&self) -> Result<(), StepError> {
        for file in self.changed() {
            self.check(file)?;
        }
        for file in self.changed() {
            self.check(file)?;
            let written = if file.is_emptied {
                fs::remove_file(&file.absolute)
            } else if file.is_new {
                create(&file.absolute, &file.after)
            } else {
                replace(&file.absolute, &file.after)
            };
            written.map_err(|e| failed("write", &file.path, e))?;
        }
        match &self.overlay {
            Some((folder, made)) => made.check(folder),
            None => Ok(()),
        }
    }

    fn check(&self, file: &RewrittenFile) -> Result<(), StepError> {
        if file.is_new {
            return match fs::symlink_metadata(&file.absolute) {
                Ok(_) => {
                    Err(StepError::conflict(format!("{} was made by somebody else meanwhile", file.path)))
                }
                Err(_) => Ok(()),
            };
        }
        let metadata = fs::symlink_metadata(&file.absolute).map_err(|e| failed("read", &file.path, e))?;
        let folder = file.absolute.parent().unwrap_or(&self.root);
        let folder = fs::canonicalize(folder).map_err(|e| failed("read", &file.path, e))?;
        if !metadata.is_file() || !folder.starts_with(&self.root) {
            return Err(StepError::conflict(format!("{} became a link: it is not followed", file.path)));
        }
        let now = fs::read(&file.absolute).map_err(|e| failed("read", &file.path, e))?;
        if now != file.before.as_bytes() {
            let error = StepError::conflict(format!("{} was changed by somebody else meanwhile", file.path));
            return Err(error.with_hint("run it again"));
        }
        Ok(())
    }
}

/// Writes a file that is not there.
fn create(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn failed(what: &str, path: &str, error: io::Error) -> StepError {
    StepError::permanent(format!("failed to {what} {path}")).with_source(error)
}

/// Replaces a file as a whole or not at all, with its permissions. The draft is new for certain: what
/// stands under its name, a link even, is not written to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}.migrate", std::process::id()));
    let mut file = fs::File::create_new(&draft)?;
    let written = (|| {
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {topology.kubernetes.io/zone: us-east-1a}}\n";
    const AGENT: &str =
        "# its config\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: amazon-cloudwatch}\n";

    fn rewrite(root: &Path) -> RewrittenFiles {
        let inputs =
            Inputs { zones: [("us-east-1a".to_owned(), "eastus-1".to_owned())].into(), ..Inputs::default() };
        rewrite_files(root, &RuleSet::shipped(), &inputs).unwrap()
    }

    #[test]
    fn a_link_that_is_named_is_followed_and_stays_and_those_in_a_folder_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, outside) = (dir.path().join("in"), dir.path().join("real.yaml"));
        fs::create_dir(&folder).unwrap();
        fs::write(&outside, POD).unwrap();
        symlink(&outside, folder.join("link.yaml")).unwrap();

        let all = rewrite(&folder);
        assert_eq!((all.files.len(), all.left_out.as_slice()), (0, &["link.yaml".to_owned()][..]));
        all.write_back().unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), POD);

        rewrite(&folder.join("link.yaml")).write_back().unwrap();
        assert!(fs::symlink_metadata(folder.join("link.yaml")).unwrap().is_symlink());
        assert!(fs::read_to_string(&outside).unwrap().contains("eastus-1"));
    }

    #[test]
    fn what_became_a_link_or_was_changed_meanwhile_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("in");
        fs::create_dir_all(folder.join("sub")).unwrap();
        for file in ["a.yaml", "sub/b.yaml"] {
            fs::write(folder.join(file), POD).unwrap();
        }
        let all = rewrite(&folder);

        // The folder below becomes a link to one outside, with the same file in it.
        fs::rename(folder.join("sub"), dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), folder.join("sub")).unwrap();
        assert!(all.write_back().unwrap_err().message.contains("sub/b.yaml became a link"));
        fs::remove_file(folder.join("sub")).unwrap();
        fs::rename(dir.path().join("elsewhere"), folder.join("sub")).unwrap();

        fs::write(folder.join("sub/b.yaml"), "# mine\n").unwrap();
        assert!(all.write_back().unwrap_err().message.contains("changed by somebody else"));
        assert_eq!(fs::read_to_string(folder.join("a.yaml")).unwrap(), POD);
        assert_eq!(fs::read_to_string(folder.join("sub/b.yaml")).unwrap(), "# mine\n");
    }

    #[test]
    fn a_link_under_the_name_of_the_draft_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, outside) = (dir.path().join("in"), dir.path().join("precious"));
        fs::create_dir(&folder).unwrap();
        fs::write(&outside, "precious").unwrap();
        fs::write(folder.join("a.yaml"), POD).unwrap();
        symlink(&outside, folder.join(format!(".a.yaml.{}.migrate", std::process::id()))).unwrap();
        assert!(rewrite(&folder).write_back().is_err());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        assert_eq!(fs::read_to_string(folder.join("a.yaml")).unwrap(), POD);
    }

    #[test]
    fn a_file_of_which_every_object_goes_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.yaml"), format!("{AGENT}---\n{AGENT}")).unwrap();
        fs::write(dir.path().join("both.yaml"), format!("{AGENT}---\n{POD}")).unwrap();
        fs::write(dir.path().join("comment.yaml"), "# nothing but this\n").unwrap();
        let all = rewrite(dir.path());
        let emptied: Vec<_> = all.files.iter().filter(|f| f.is_emptied).map(|f| f.path.as_str()).collect();
        assert_eq!(emptied, ["agent.yaml"]);
        all.write_back().unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["both.yaml", "comment.yaml"]);
        assert_eq!(rewrite(dir.path()).changed().count(), 0);
    }
}
