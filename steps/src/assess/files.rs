//! A folder of manifests, assessed.

use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::StepError;

use super::estate::Estate;
use super::report::Assessment;
use crate::manifests::render::belongs_to_chart;
use crate::manifests::source::{self, Source};
use crate::manifests::{chart, tree};
use crate::rules::document::read;
use crate::rules::object::objects;
use crate::rules::{Finding, Inputs, RuleSet, Target};

/// Assesses a folder, or one file. A chart of Helm is rendered, and its findings are those of its templates; a folder
/// that is an overlay of Kustomize is built.
///
/// # Errors
/// `Permanent`, naming the file that can't be read, or the tool that is missing.
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
    let Source { manifests, charts, base, mut facts, mut skipped, .. } = source::open(root)?;
    facts.target = target.map(Arc::new);
    let mut files = manifests.len() as u64;
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
    if let Some(base) = base {
        files += 1;
        for document in &base.documents {
            for object in objects(&document.root) {
                estate.take(&object);
                count += 1;
            }
            let found = rules.findings(&document.root, None, &facts, inputs);
            findings.extend(found.into_iter().map(|f| Finding {
                file: base.entry.path.clone(),
                line: 1,
                ..f
            }));
        }
    }
    for chart in &charts {
        for made in &chart.rendered {
            files += 1;
            for document in read(&made.text).unwrap_or_default() {
                for object in objects(&document.root) {
                    estate.take(&object);
                    count += 1;
                }
            }
        }
        findings.extend(chart::solve(chart, rules, &facts, inputs)?.findings);
    }
    // What a chart is made of, Helm has read.
    skipped.retain(|path| !belongs_to_chart(path, charts.iter().map(|chart| Path::new(&chart.path))));
    let assessment = Assessment::new(findings, &estate, rules, count, files);
    Ok(Assessment { left_out: skipped, unreadable: tree::missing(root)?, ..assessment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_lacks_was_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("shop");
        std::fs::create_dir(&shop).unwrap();
        std::fs::write(shop.join("a.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
            .unwrap();
        let marker = "Not in it, since it could not be read: networking.k8s.io/v1/Ingress\n";
        std::fs::write(shop.join(".migrate-manifests"), marker).unwrap();
        std::os::unix::fs::symlink("/nowhere", shop.join("b.yaml")).unwrap();
        let rules = RuleSet::shipped();
        let found = assess_files(dir.path(), &rules, &Inputs::default()).unwrap();
        assert_eq!(found.unreadable, ["networking.k8s.io/v1/Ingress (shop)"]);
        assert_eq!(found.left_out, ["shop/b.yaml"]);
        let one = assess_files(&shop.join("a.yaml"), &rules, &Inputs::default()).unwrap();
        assert_eq!((one.unreadable.len(), one.left_out.len()), (0, 0));
    }
}
