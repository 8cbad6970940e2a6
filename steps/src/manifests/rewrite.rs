//! `manifest.rewrite`: copies a folder of manifests with image references (and storage classes)
//! renamed. Works on files alone; natural to repeat.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext, StepError,
    StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::edit::{Edited, Rename, Rules, edit};
use super::tree::{self, Draft, Entry};

/// Changes and findings that are listed; all are counted. Outputs are stored with the run.
const LISTED: usize = 5_000;

/// `manifest.rewrite`.
pub(crate) struct ManifestRewrite;

/// `with` of `manifest.rewrite`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder to read.
    pub from: PathBuf,
    /// Folder to write; replaced as a whole, where it was written by `migrate`.
    pub to: PathBuf,
    /// Registries to rename in image fields.
    #[serde(default)]
    pub rename_images: Vec<Rename>,
    /// Storage classes to rename in claims and claim templates.
    #[serde(default)]
    pub storage_classes: BTreeMap<String, String>,
}

/// A rewritten value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FileChange {
    /// The file, relative to the folder.
    pub file: String,
    /// Where in it.
    pub path: String,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
}

/// Something that looks concerned and was not rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FileFinding {
    /// The file, relative to the folder.
    pub file: String,
    /// Where in it; empty for the file as such.
    pub path: String,
    /// Why.
    pub message: String,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// The folder, as in `to`.
    pub directory: PathBuf,
    /// Files copied.
    pub files: u64,
    /// Files that differ from the original.
    pub files_changed: u64,
    /// Values rewritten.
    pub values_changed: u64,
    /// The first 5,000 of them.
    pub changes: Vec<FileChange>,
    /// What was not rewritten, at most 5,000.
    pub findings: Vec<FileFinding>,
    /// Digest over names and contents of all written files.
    pub digest: String,
}

impl Config {
    fn rules(&self) -> Rules {
        Rules { images: self.rename_images.clone(), classes: self.storage_classes.clone() }
    }

    fn problem(&self) -> Option<Problem> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "./:_-".contains(c))
                && !text.ends_with('/')
        };
        for rename in &self.rename_images {
            if let Some(wrong) = [&rename.from, &rename.to].into_iter().find(|text| !is_name(text)) {
                let problem = Problem::error(format!("`{wrong}` is no registry")).in_field("rename-images");
                return Some(problem.with_hint("write a host, or a host and a path, as in image references"));
            }
        }
        if self.from.starts_with(&self.to) || self.to.starts_with(&self.from) {
            let message = "`from` and `to` must be folders apart: one is inside the other";
            return Some(Problem::error(message).in_field("to"));
        }
        None
    }
}

/// What becomes of one file. What is no manifest by its name, or no text, is copied as it is.
fn rewritten(entry: &Entry, bytes: Vec<u8>, rules: &Rules) -> Result<(Vec<u8>, Option<Edited>), StepError> {
    if !entry.is_manifest() {
        return Ok((bytes, None));
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok((bytes, None)) };
    let edited = edit(text, rules).map_err(|e| {
        StepError::permanent(format!("failed to rewrite {}", entry.path))
            .with_source(e)
            .with_hint("templates can't be rewritten: render them first, or rewrite their values")
    })?;
    Ok((edited.text.clone().into_bytes(), Some(edited)))
}

impl Outputs {
    fn count(&mut self, entry: &Entry, original: usize, edited: Option<Edited>) {
        self.files += 1;
        let file = entry.path.clone();
        let Some(edited) = edited else {
            if entry.is_manifest() {
                let message = "is not UTF-8: copied as it is".to_owned();
                self.find(FileFinding { file, path: String::new(), message });
            }
            return;
        };
        debug_assert!(!edited.changes.is_empty() || edited.text.len() == original);
        self.files_changed += u64::from(!edited.changes.is_empty());
        self.values_changed += edited.changes.len() as u64;
        for change in edited.changes {
            if self.changes.len() < LISTED {
                let (path, old, new) = (change.path, change.old, change.new);
                self.changes.push(FileChange { file: file.clone(), path, old, new });
            }
        }
        for left in edited.left {
            self.find(FileFinding { file: file.clone(), path: left.path, message: left.message });
        }
    }

    fn find(&mut self, finding: FileFinding) {
        if self.findings.len() < LISTED {
            self.findings.push(finding);
        }
    }
}

/// Rewrites every file of `from` and hands it to `write`.
fn rewrite(
    ctx: &StepContext,
    from: &Path,
    rules: &Rules,
    mut write: impl FnMut(&Entry, &[u8], bool) -> Result<(), StepError>,
) -> Result<Outputs, StepError> {
    let listing = tree::list(from)?;
    let total = listing.files.len() as u64;
    let mut outputs = Outputs::default();
    for other in listing.others {
        let message = "is no file (a link?): left out".to_owned();
        outputs.find(FileFinding { file: other, path: String::new(), message });
    }
    for entry in &listing.files {
        ctx.check_cancelled()?;
        let original = tree::read(entry)?;
        let length = original.len();
        let (bytes, edited) = rewritten(entry, original, rules)?;
        write(entry, &bytes, is_private(&entry.absolute))?;
        outputs.count(entry, length, edited);
        ctx.progress(Progress::message("rewriting").items(outputs.files, total));
    }
    Ok(outputs)
}

fn is_private(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 == 0)
}

#[async_trait]
impl TypedStep for ManifestRewrite {
    const NAME: &'static str = "manifest.rewrite";
    const SUMMARY: &'static str =
        "Renames registries and storage classes in manifests, keeping their formatting";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("rewrite the manifests");
        if let Some(to) = config.field::<PathBuf>("to")? {
            plan.summary = format!("rewrite the manifests into {}", to.display());
            match tree::replaceable(&ctx.path(&to)) {
                Ok(Some(count)) if count > 0 => {
                    plan.destroys.push(format!("{count} files of {}", to.display()));
                }
                Ok(_) => {}
                Err(e) => plan.problems.push(problem_of(&e, "to")),
            }
        }
        let Some(config) = config.known() else { return Ok(plan) };
        plan.problems.extend(config.problem());
        let from = ctx.path(&config.from);
        if plan.problems.is_empty() && from.is_dir() {
            match rewrite(ctx, &from, &config.rules(), |_, _, _| Ok(())) {
                Ok(outputs) => {
                    plan.items = Some(outputs.files);
                    plan.summary = format!(
                        "rewrite {} values in {} of {} files into {}",
                        outputs.values_changed,
                        outputs.files_changed,
                        outputs.files,
                        config.to.display()
                    );
                }
                Err(e) => plan.problems.push(problem_of(&e, "from")),
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        if let Some(problem) = config.problem() {
            return Err(StepError::permanent(problem.message));
        }
        let to = ctx.path(&config.to);
        let draft = Draft::new(&to, &ctx.key)?;
        let mut outputs =
            rewrite(ctx, &ctx.path(&config.from), &config.rules(), |entry, bytes, is_private| {
                draft.write(&entry.path, bytes, is_private)
            })?;
        draft.commit()?;
        outputs.directory.clone_from(&config.to);
        outputs.digest = tree::digest(&to)?;
        ctx.info(format!(
            "{} values rewritten in {} of {} files",
            outputs.values_changed, outputs.files_changed, outputs.files
        ));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let to = ctx.path(&config.to);
        let digest = if to.is_dir() { tree::digest(&to)? } else { "not there".to_owned() };
        let folder = format!("folder {}", config.to.display());
        let mut checks = vec![Check::equal(folder.clone(), "sha256", &outputs.digest, digest)];
        if depth == VerifyDepth::Deep {
            let mut different = Vec::new();
            rewrite(ctx, &ctx.path(&config.from), &config.rules(), |entry, bytes, _| {
                if std::fs::read(to.join(&entry.path)).ok().as_deref() != Some(bytes) {
                    different.push(entry.path.clone());
                }
                Ok(())
            })?;
            checks.push(Check::equal(
                folder,
                "files that differ from the rewritten originals",
                "none",
                tree::listed(&different),
            ));
        }
        checks.extend(outputs.findings.iter().map(|finding| Check {
            subject: format!("file {}", finding.file),
            what: "rewritten".to_owned(),
            source: finding.path.clone(),
            target: String::new(),
            status: CheckStatus::Warning,
            note: Some(finding.message.clone()),
        }));
        Ok(Evidence { checks })
    }
}

fn problem_of(error: &StepError, field: &str) -> Problem {
    let record = error.to_record();
    let text = [vec![record.message], record.causes].concat().join(": ");
    let mut problem = Problem::error(text).in_field(field);
    problem.hint = record.hint;
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{Step, Typed};
    use std::fs;
    use std::sync::Arc;

    fn project() -> (tempfile::TempDir, StepContext) {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("in/shop");
        fs::create_dir_all(&shop).unwrap();
        fs::write(shop.join("Pod-a.yaml"), "spec: {containers: [{image: old.io/a:1}]} # a\n").unwrap();
        fs::write(shop.join("ConfigMap-c.yaml"), "data: {x: old.io/b}\n").unwrap();
        fs::write(shop.join("Secret-s.yaml"), "data: {}\n").unwrap();
        fs::set_permissions(shop.join("Secret-s.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.path().join("in/README.md"), "old.io/readme: {{").unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("rewrite", dir.path());
        (dir, ctx)
    }

    fn config() -> serde_json::Value {
        serde_json::json!({ "from": "in", "to": "out", "rename-images": [{ "from": "old.io", "to": "new.io" }] })
    }

    #[tokio::test]
    async fn a_folder_is_rewritten_planned_and_proven() {
        let (dir, ctx) = project();
        let step = Typed(ManifestRewrite);
        let plan = step.plan(&ctx, &config()).await.unwrap();
        assert_eq!(plan.summary, "rewrite 1 values in 1 of 4 files into out");
        let outputs = step.apply(&ctx, &config()).await.unwrap();
        let out = dir.path().join("out/shop");
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(read("Pod-a.yaml"), "spec: {containers: [{image: new.io/a:1}]} # a\n");
        assert!(is_private(&out.join("Secret-s.yaml")));
        assert_eq!(outputs["findings"][0]["file"], "shop/ConfigMap-c.yaml");
        for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
            assert!(step.verify(&ctx, &config(), &outputs, depth).await.unwrap().passed());
        }
        assert_eq!(step.apply(&ctx, &config()).await.unwrap(), outputs);
        fs::write(out.join("Pod-a.yaml"), "tampered").unwrap();
        for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
            assert!(!step.verify(&ctx, &config(), &outputs, depth).await.unwrap().passed());
        }
    }

    #[tokio::test]
    async fn a_template_fails_the_step_and_leaves_nothing() {
        let (dir, ctx) = project();
        fs::write(dir.path().join("in/web.yaml"), "image: {{ .Values.image }}:{{ x }}\n- [").unwrap();
        let error = Typed(ManifestRewrite).apply(&ctx, &config()).await.unwrap_err();
        assert_eq!(error.message, "failed to rewrite web.yaml");
        assert!(!dir.path().join("out").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn folders_inside_each_other_and_odd_names_are_refused() {
        let (_dir, ctx) = project();
        let step = Typed(ManifestRewrite);
        for wrong in [
            serde_json::json!({ "from": "in", "to": "in/out" }),
            serde_json::json!({ "from": "in", "to": "out", "rename-images": [{ "from": "old.io", "to": "new io" }] }),
        ] {
            assert_eq!(step.plan(&ctx, &wrong).await.unwrap().problems.len(), 1, "{wrong}");
            assert!(step.apply(&ctx, &wrong).await.is_err());
        }
    }
}
