//! `manifest.rewrite`: copies a folder of manifests with everything done that the rules can do.
//! Works on files alone; natural to repeat.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chart;
use super::overlay::{self, Overlay};
use super::source::{self, Base, Source};
use super::tree::{self, Draft, Entry};
use crate::rules::facts::Facts;
use crate::rules::{Change, Finding, Inputs, RuleSet, RuleSeverity};

/// Changes and findings that are listed; all are counted. Outputs are stored with the run.
const LISTED: usize = 5_000;

/// Why something of the folder is not in what is written.
const LEFT_OUT: &str = "links are not followed: put a copy in place of it";

/// `manifest.rewrite`.
pub(crate) struct ManifestRewrite;

/// A registry, or a repository in it, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Rename {
    /// `123456789012.dkr.ecr.us-east-1.amazonaws.com`, or with a path.
    pub from: String,
    /// `example.azurecr.io`, or with a path.
    pub to: String,
}

/// `with` of `manifest.rewrite`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder to read.
    pub from: PathBuf,
    /// Folder to write; replaced as a whole, where it was written by `migrate`.
    pub to: PathBuf,
    /// Registries to rename in image fields, besides `inputs.registries`.
    #[serde(default)]
    pub rename_images: Vec<Rename>,
    /// Storage classes to rename in claims and claim templates, besides `inputs.storage-classes`.
    #[serde(default)]
    pub storage_classes: BTreeMap<String, String>,
    /// What the rules need: `${env.rewrite}`. A rule that misses its input changes nothing.
    #[serde(default)]
    pub inputs: Inputs,
    /// Files with rules of your own; default: `rules` of migration.toml.
    #[serde(default)]
    #[schemars(extend("x-env" = "rules"))]
    pub rules: Vec<PathBuf>,
}

/// Something that was rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FileChange {
    /// The file, relative to the folder.
    pub file: String,
    /// By which rule.
    pub rule: String,
    /// `Deployment shop/web`.
    pub object: String,
    /// Where in the object.
    pub path: String,
    /// Before; empty where nothing was.
    pub old: String,
    /// After; empty where nothing is.
    pub new: String,
}

impl FileChange {
    pub(super) fn all(file: &str, changes: Vec<Change>) -> Vec<Self> {
        let of = |Change { rule, object, path, old, new }| Self {
            file: file.to_owned(),
            rule,
            object,
            path,
            old,
            new,
        };
        changes.into_iter().map(of).collect()
    }
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
    /// Edits made.
    pub values_changed: u64,
    /// The first 5,000 of them.
    pub changes: Vec<FileChange>,
    /// What the rules found and did not rewrite, at most 5,000: for a person, or for want of an input.
    pub findings: Vec<Finding>,
    /// What is neither file nor folder (links) and was left out.
    pub left_out: Vec<String>,
    /// Files of which every object went, and that were left out therefore.
    #[serde(default)]
    pub emptied: Vec<String>,
    /// Digest over names and contents of all written files.
    pub digest: String,
    /// Digest over names and contents of the manifests and charts that were rewritten, or over what the overlay made, and
    /// of the rules' files.
    #[serde(default)]
    pub source_digest: Option<String>,
}

impl Config {
    fn inputs(&self) -> Inputs {
        let registries: Vec<(String, String)> =
            self.rename_images.iter().map(|rename| (rename.from.clone(), rename.to.clone())).collect();
        self.inputs.clone().or(&registries, &self.storage_classes)
    }

    fn rule_set(&self, ctx: &StepContext) -> Result<RuleSet, StepError> {
        let files: Vec<PathBuf> = self.rules.iter().map(|file| ctx.path(file)).collect();
        RuleSet::with_files(&files).map_err(|e| StepError::permanent(e.to_string()))
    }

    fn source_digest(&self, ctx: &StepContext) -> Result<String, StepError> {
        let rules: Vec<PathBuf> = self.rules.iter().map(|path| ctx.path(path)).collect();
        source::digest(&ctx.path(&self.from), &ctx.path(&self.to), &rules)
    }

    fn problem(&self) -> Option<Problem> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "./:_-".contains(c))
                && !text.ends_with('/')
        };
        let inputs = self.inputs();
        let mut names = inputs.registries.iter().flat_map(|(from, to)| [from, to]);
        if let Some(wrong) = names.find(|text| !is_name(text)) {
            let problem = Problem::error(format!("`{wrong}` is no registry")).in_field("rename-images");
            return Some(problem.with_hint("write a host, or a host and a path, as in image references"));
        }
        if self.from.starts_with(&self.to) || self.to.starts_with(&self.from) {
            let message = "`from` and `to` must be folders apart: one is inside the other";
            return Some(Problem::error(message).in_field("to"));
        }
        None
    }
}

impl Outputs {
    /// Counts a file that was written, with what was done in it.
    fn count(&mut self, changes: Vec<FileChange>) {
        self.files += 1;
        self.files_changed += u64::from(!changes.is_empty());
        self.values_changed += changes.len() as u64;
        let room = LISTED.saturating_sub(self.changes.len());
        self.changes.extend(changes.into_iter().take(room));
    }

    /// Lists what is left.
    fn find(&mut self, findings: impl IntoIterator<Item = Finding>) {
        let room = LISTED.saturating_sub(self.findings.len());
        self.findings.extend(findings.into_iter().filter(|finding| !finding.rewritten).take(room));
    }
}

/// Rewrites every file of `from` and hands it to `write`. All files are read before any is handed on. Of an
/// overlay, also what is to be checked once it is written.
fn rewrite(
    ctx: &StepContext,
    from: &Path,
    config: &Config,
    mut write: impl FnMut(&Entry, &[u8], bool) -> Result<(), StepError>,
) -> Result<(Outputs, Option<Overlay>), StepError> {
    let (rules, inputs) = (config.rule_set(ctx)?, config.inputs());
    let Source { manifests, charts, base, others, skipped, facts } = source::open(from)?;
    if let Some(base) = base {
        let (outputs, made) = rewrite_overlay(ctx, from, config, &base, &facts, write)?;
        return Ok((outputs, Some(made)));
    }
    let total = (manifests.len() + others.len()) as u64;
    let mut outputs = Outputs { left_out: skipped, ..Outputs::default() };
    for manifest in &manifests {
        ctx.check_cancelled()?;
        let entry = &manifest.entry;
        let findings = rules.findings_of_text(&manifest.text, &manifest.documents, &facts, &inputs);
        let rewritten = rules
            .rewrite(&manifest.text, &manifest.documents, &facts, &inputs)
            .map_err(|e| StepError::permanent(format!("failed to rewrite {}", entry.path)).with_source(e))?;
        if rewritten.is_emptied {
            outputs.emptied.push(entry.path.clone());
        } else {
            write(entry, rewritten.text.as_bytes(), is_private(&entry.absolute))?;
        }
        outputs.count(FileChange::all(&entry.path, rewritten.changes));
        outputs.find(findings.into_iter().map(|finding| Finding { file: entry.path.clone(), ..finding }));
        ctx.progress(Progress::message("rewriting").items(outputs.files, total));
    }
    let mut values = BTreeMap::new();
    for chart in &charts {
        ctx.check_cancelled()?;
        let done = chart::solve(chart, &rules, &facts, &inputs)?;
        outputs.find(done.findings);
        values.extend(done.values.map(|values| (values.path.clone(), values)));
    }
    for entry in &others {
        ctx.check_cancelled()?;
        let (bytes, changes) = match values.remove(&entry.path) {
            Some(values) => (values.after.into_bytes(), values.changes),
            None => (tree::read(entry)?, Vec::new()),
        };
        write(entry, &bytes, is_private(&entry.absolute))?;
        outputs.count(changes);
    }
    Ok((outputs, None))
}

/// An overlay on top of `from`, as it is seen from `to`.
fn rewrite_overlay(
    ctx: &StepContext,
    from: &Path,
    config: &Config,
    base: &Base,
    facts: &Facts,
    mut write: impl FnMut(&Entry, &[u8], bool) -> Result<(), StepError>,
) -> Result<(Outputs, Overlay), StepError> {
    let (rules, inputs) = (config.rule_set(ctx)?, config.inputs());
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| StepError::permanent(format!("failed to find {}", path.display())).with_source(e))
    };
    let there = overlay::relative(&absolute(&ctx.path(&config.to))?, &absolute(from)?);
    let mut made =
        overlay::overlay((&base.text, &base.documents), &there.to_string_lossy(), &rules, facts, &inputs)?;
    let mut outputs = Outputs::default();
    let found =
        base.documents.iter().flat_map(|document| rules.findings(&document.root, None, facts, &inputs));
    outputs.find(found.map(|finding| Finding { file: base.entry.path.clone(), ..finding }));
    let mut changes = std::mem::take(&mut made.changes);
    let nothing = format!("resources:\n- {}\n", there.display());
    let files = match made.files.is_empty() {
        true => vec![("kustomization.yaml".to_owned(), nothing)],
        false => std::mem::take(&mut made.files),
    };
    for (name, text) in files {
        let entry = Entry { path: name, absolute: PathBuf::new() };
        write(&entry, text.as_bytes(), false)?;
        outputs.count(FileChange::all(&entry.path, std::mem::take(&mut changes)));
    }
    Ok((outputs, made))
}

fn is_private(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 == 0)
}

#[async_trait]
impl TypedStep for ManifestRewrite {
    const NAME: &'static str = "manifest.rewrite";
    const SUMMARY: &'static str =
        "Rewrites manifests for AKS by rules, keeping their comments, order and formatting";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("rewrite the manifests");
        if let Some(to) = config.field::<PathBuf>("to")? {
            plan.summary = format!("rewrite the manifests into {}", to.display());
            tree::plan_replacing(&mut plan, &ctx.path(&to), &to, "to");
        }
        let Some(config) = config.known() else { return Ok(plan) };
        plan.problems.extend(config.problem());
        let from = ctx.path(&config.from);
        if plan.problems.is_empty() && from.is_dir() {
            match rewrite(ctx, &from, config, |_, _, _| Ok(())) {
                Ok((outputs, _)) => {
                    plan.items = Some(outputs.files);
                    plan.summary = format!(
                        "make {} edits in {} of {} files into {}",
                        outputs.values_changed,
                        outputs.files_changed,
                        outputs.files,
                        config.to.display()
                    );
                    let left_out = outputs.left_out.iter();
                    plan.problems.extend(left_out.map(|path| {
                        Problem::warning(format!("{path} is left out: {LEFT_OUT}")).in_field("from")
                    }));
                }
                Err(e) => plan.problems.push(tree::problem_of(&e, "from")),
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
        // Before anything is read: what changes meanwhile is another.
        let source_digest = config.source_digest(ctx)?;
        let draft = Draft::new(&to, &ctx.key)?;
        let (mut outputs, overlay) =
            rewrite(ctx, &ctx.path(&config.from), config, |entry, bytes, is_private| {
                draft.write(&entry.path, bytes, is_private)
            })?;
        if let Some(overlay) = overlay {
            overlay.check(draft.folder())?;
        }
        let from = ctx.path(&config.from);
        draft.lacks(&[tree::missing(&from)?, outputs.left_out.clone()].concat())?;
        // An Ingress that stays is judged again by its class, which may not be in the folder any more, and by those that
        // never were.
        let listing = tree::list_any(&from)?;
        if let Some(exported) = tree::exported(&from, &listing)? {
            draft.says(exported)?;
            tree::elsewhere(&from, &listing)?.iter().try_for_each(|others| draft.shares(others))?;
        }
        draft.commit()?;
        outputs.directory.clone_from(&config.to);
        (outputs.digest, outputs.source_digest) = (tree::digest(&to)?, Some(source_digest));
        outputs.left_out.iter().for_each(|path| ctx.warn(format!("{path} is left out: {LEFT_OUT}")));
        ctx.info(format!(
            "{} edits in {} of {} files, {} findings left",
            outputs.values_changed,
            outputs.files_changed,
            outputs.files,
            outputs.findings.len()
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
        // What is gone says nothing of what was written.
        if let Some(was) = outputs.source_digest.as_ref().filter(|_| ctx.path(&config.from).exists()) {
            let now = config.source_digest(ctx)?;
            let subject = format!("manifests of {} and rules", config.from.display());
            checks.push(Check::equal(subject, "sha256", was, now));
        }
        if depth == VerifyDepth::Deep {
            let mut different = Vec::new();
            rewrite(ctx, &ctx.path(&config.from), config, |entry, bytes, _| {
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
        let serious = outputs.findings.iter().filter(|finding| finding.severity > RuleSeverity::Info);
        checks.extend(serious.map(Finding::to_check));
        checks.extend(outputs.left_out.iter().map(|path| Check {
            source: config.from.display().to_string(),
            ..Check::told(path, "rewritten", LEFT_OUT)
        }));
        Ok(Evidence { checks })
    }
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
        fs::write(
            shop.join("Pod-a.yaml"),
            "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: old.io/a:1}]} # a\n",
        )
        .unwrap();
        fs::write(
            shop.join("ConfigMap-c.yaml"),
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {x: 'arn:aws:sns:us-east-1:1:a'}\n",
        )
        .unwrap();
        fs::write(
            shop.join("agent.yaml"),
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: amazon-cloudwatch}\n",
        )
        .unwrap();
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
        assert_eq!(plan.summary, "make 2 edits in 2 of 5 files into out");
        let outputs = step.apply(&ctx, &config()).await.unwrap();
        let out = dir.path().join("out/shop");
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(
            read("Pod-a.yaml"),
            "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: new.io/a:1}]} # a\n"
        );
        assert!(is_private(&out.join("Secret-s.yaml")));
        assert_eq!(outputs["emptied"], serde_json::json!(["shop/agent.yaml"]));
        assert!(!out.join("agent.yaml").exists());
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

    /// Who mends a manifest or a rule and resumes means what is there now.
    #[tokio::test]
    async fn what_was_rewritten_of_other_manifests_or_rules_does_not_hold() {
        let (dir, ctx) = project();
        let rules = dir.path().join("ours.toml");
        fs::write(&rules, "rule = []\n").unwrap();
        let mut config = config();
        config["rules"] = serde_json::json!(["ours.toml"]);
        let step = Typed(ManifestRewrite);
        let outputs = step.apply(&ctx, &config).await.unwrap();
        let holds = async |outputs: &serde_json::Value| {
            step.verify(&ctx, &config, outputs, VerifyDepth::Quick).await.unwrap().passed()
        };
        assert!(holds(&outputs).await);
        // No manifests of it, or not its own.
        for other in ["README.md", ".git/index.yaml", ".migrate/state.yaml"] {
            let file = dir.path().join("in").join(other);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "kind: Other").unwrap();
        }
        assert!(holds(&outputs).await);
        let pod = dir.path().join("in/shop/Pod-a.yaml");
        let was = fs::read_to_string(&pod).unwrap();
        fs::write(&pod, was.replace("a:1", "a:2")).unwrap();
        assert!(!holds(&outputs).await);
        let mut older = outputs.clone();
        older.as_object_mut().unwrap().remove("source-digest");
        assert!(holds(&older).await, "nobody knows what it was made of");
        fs::write(&pod, was).unwrap();
        assert!(holds(&outputs).await);
        fs::write(&rules, "# another\nrule = []\n").unwrap();
        assert!(!holds(&outputs).await);
        // What can't be looked at now is no other: it says nothing.
        fs::remove_file(&rules).unwrap();
        let look = step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await;
        assert!(look.unwrap_err().to_string().contains("ours.toml"));
        fs::remove_dir_all(dir.path().join("in")).unwrap();
        assert!(holds(&outputs).await, "what was written is there");
    }

    #[tokio::test]
    async fn what_is_written_into_the_folder_itself_is_no_other_manifest() {
        let (_dir, ctx) = project();
        let config = serde_json::json!({ "from": "./in", "to": "in/../in/out" });
        let step = Typed(ManifestRewrite);
        let outputs = step.apply(&ctx, &config).await.unwrap();
        assert!(step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap().passed());
    }

    #[tokio::test]
    async fn what_is_left_out_of_the_folder_and_of_its_source_is_said_in_it() {
        let (dir, ctx) = project();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("in/link.yaml")).unwrap();
        let key = migrate_plugin_api::IdempotencyKey::new("k").unwrap();
        let source = Draft::new(&dir.path().join("exported"), &key).unwrap();
        source.lacks(&["v1/Secret\nand: more".to_owned()]).unwrap();
        source.commit().unwrap();
        let marker = ".migrate-manifests";
        fs::copy(dir.path().join("exported").join(marker), dir.path().join("in").join(marker)).unwrap();
        let step = Typed(ManifestRewrite);
        let told = "link.yaml is left out: links are not followed: put a copy in place of it";
        let plan = step.plan(&ctx, &config()).await.unwrap();
        assert_eq!(plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [told]);
        let outputs = step.apply(&ctx, &config()).await.unwrap();
        let evidence = step.verify(&ctx, &config(), &outputs, VerifyDepth::Quick).await.unwrap();
        assert!(evidence.passed() && evidence.checks.iter().any(|check| check.subject == "link.yaml"));
        assert_eq!(tree::missing(&dir.path().join("out")).unwrap(), ["v1/Secret and: more", "link.yaml"]);
        assert_eq!(tree::missing(&dir.path().join("in/shop")).unwrap(), [] as [String; 0]);
    }

    #[tokio::test]
    async fn a_template_fails_the_step_and_leaves_nothing() {
        let (dir, ctx) = project();
        fs::write(dir.path().join("in/web.yaml"), "image: {{ .Values.image }}:{{ x }}\n- [").unwrap();
        let error = Typed(ManifestRewrite).apply(&ctx, &config()).await.unwrap_err();
        assert_eq!(error.message, "failed to read web.yaml");
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
