//! A folder of manifests as the objects that it makes, in the order in which a cluster takes them. Reads only.
//!
//! Invariant: what Helm makes for another occasion than an installation or upgrade is not among them, nor what AKS has of
//! its own.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use migrate_plugin_api::StepError;
use serde_json::Value;

use super::apply::Skipped;
use super::apply_set::group_kind;
use super::order::{self, Manifest};
use super::{render, tree};
use crate::inventory::Catalog;
use crate::workload::text;

/// Why something is not in a folder where it belongs.
pub(super) const MISSING: &str = "what wrote it could not read that";

/// What a folder makes.
#[derive(Debug)]
pub(super) struct Folder {
    /// Objects, in order.
    pub manifests: Vec<Manifest>,
    /// Objects that are not applied.
    pub left_out: Vec<Skipped>,
    /// What belongs into the folder, and whoever wrote it could not read.
    pub missing: Vec<String>,
    /// What a person should know of the rest.
    pub notes: Vec<String>,
}

/// Reads and orders all manifests of a folder; charts and an overlay are what they make. `namespace` is that of a chart's
/// release.
///
/// # Errors
/// `Permanent`: the folder or a file of it can't be read, is beyond a limit or no manifest, or a link to what may be one;
/// `helm` or `kubectl` is missing or refuses; a chart makes something else each time; an object is there twice; there is
/// none at all.
pub(super) fn manifests(root: &Path, namespace: Option<&str>) -> Result<Folder, StepError> {
    let (mut folder, mut unread, charts) = read(root, namespace)?;
    unread.retain(|path| !is_known_without(root, path, &charts));
    refuse_unread(
        root,
        &unread,
        "what is not read would not be applied: put a copy in place of each link, or take away what leads nowhere",
    )?;
    folder.missing = tree::missing(root)?;
    Ok(folder)
}

/// As [`manifests`], where an object that is not in the folder is to be deleted: so nothing in it may be unread.
///
/// # Errors
/// As [`manifests`]; `Permanent` where something in the folder is neither file nor folder, or the step that wrote it
/// could not read all that belongs into it.
pub(super) fn whole(root: &Path, namespace: Option<&str>) -> Result<Folder, StepError> {
    let missing = tree::missing(root)?;
    if !missing.is_empty() {
        return Err(StepError::permanent(format!(
            "{} is not whole: what wrote it could not read {}",
            root.display(),
            tree::listed(&missing)
        ))
        .with_hint(
            "with `prune`, what is missing would be deleted: see that it can be read (or name its kind in \
             `exclude-kinds`), and write the folder again",
        ));
    }
    let (folder, unread, _) = read(root, namespace)?;
    refuse_unread(
        root,
        &unread,
        "with `prune`, what is not read would be deleted: put a copy in place of each link",
    )?;
    Ok(folder)
}

fn refuse_unread(root: &Path, unread: &[String], hint: &str) -> Result<(), StepError> {
    if unread.is_empty() {
        return Ok(());
    }
    Err(StepError::permanent(format!(
        "{} holds what is neither file nor folder and is not read: {}",
        root.display(),
        tree::listed(unread)
    ))
    .with_hint(hint))
}

/// Whether nothing is lost where `path` of `root`, neither file nor folder, is not followed: it is no manifest, or leads to
/// what is read in `root` itself, of which `charts` are rendered. Of what leads nowhere nobody knows what it should be.
fn is_known_without(root: &Path, path: &str, charts: &[PathBuf]) -> bool {
    let is_manifest = |path: &Path| {
        let path = path.to_string_lossy().into_owned();
        tree::Entry { absolute: PathBuf::from(&path), path }.is_manifest()
    };
    let link = root.join(path);
    let Ok(target) = fs::canonicalize(&link) else { return false };
    let is_folder = target.is_dir();
    if !is_folder && !is_manifest(&link) {
        return true;
    }
    let Ok(root) = fs::canonicalize(root) else { return false };
    let Ok(inside) = target.strip_prefix(&root) else { return false };
    // Of a chart there is what its templates make, and not each of its files.
    let is_of_chart = inside
        .to_str()
        .is_none_or(|inside| render::belongs_to_chart(inside, charts.iter().map(PathBuf::as_path)));
    match is_folder {
        true => !is_of_chart || charts.iter().any(|chart| chart == inside),
        false => !is_of_chart && is_manifest(&target),
    }
}

/// All objects, what was left unread, and the charts.
fn read(root: &Path, namespace: Option<&str>) -> Result<(Folder, Vec<String>, Vec<PathBuf>), StepError> {
    let mut all = Vec::new();
    let mut take = |path: &str, text: &str| {
        let parsed = order::parse(path, text);
        all.extend(parsed.map_err(|e| StepError::permanent("failed to read the manifests").with_source(e))?);
        Ok::<(), StepError>(())
    };
    let tree::Listing { mut files, others: mut unread } = tree::list(root)?;
    let mut charts = Vec::new();
    match render::overlay_file(root) {
        Some(name) => {
            take(name, &render::overlay(root)?)?;
            // What an overlay is made of is its own business.
            files.clear();
            unread.clear();
        }
        None => charts = render::charts(files.iter().map(|entry| entry.path.as_str())),
    }
    let rendered = render::steady(root, &charts, namespace.unwrap_or(render::NAMESPACE))?;
    for (chart, rendered) in charts.iter().zip(rendered) {
        for one in rendered {
            take(&format!("{}{}", chart.display(), one.template), &one.text)?;
        }
    }
    let folders = || charts.iter().map(PathBuf::as_path);
    unread.retain(|path| !render::belongs_to_chart(path, folders()));
    files.retain(|entry| entry.is_manifest() && !render::belongs_to_chart(&entry.path, folders()));
    for entry in &files {
        let bytes = tree::read(entry)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| StepError::permanent(format!("{} is not UTF-8", entry.path)).with_source(e))?;
        take(&entry.path, text)?;
    }
    if all.is_empty() {
        return Err(StepError::permanent(format!("{} holds no manifest", root.display())));
    }
    let left_out = leave_out(&mut all);
    let mut manifests = all;
    first_definitions(&mut manifests, &charts);
    first_of_equals(&mut manifests);
    once_each(&manifests)?;
    order::sort(&mut manifests);
    let mut notes: Vec<String> = manifests.iter().filter_map(hook_note).collect();
    if namespace.is_none() {
        let is_charts = |manifest: &&Manifest| render::belongs_to_chart(&manifest.file, folders());
        notes.extend(default_note(manifests.iter().filter(is_charts)));
    }
    Ok((Folder { manifests, left_out, missing: Vec::new(), notes }, unread, charts))
}

/// Takes out definitions that charts which others depend on bring along, where they are there already: Helm takes the
/// first.
fn first_definitions(manifests: &mut Vec<Manifest>, charts: &[PathBuf]) {
    let is_definition = |manifest: &Manifest| manifest.kind == "CustomResourceDefinition";
    let is_along = |manifest: &Manifest| {
        let file = manifest.file.as_str();
        is_definition(manifest)
            && file.contains("/crds/")
            && !file.contains("/templates/")
            && render::belongs_to_chart(file, charts.iter().map(PathBuf::as_path))
    };
    let own = manifests.iter().filter(|manifest| is_definition(manifest) && !is_along(manifest));
    let mut seen: BTreeSet<String> = own.map(|manifest| manifest.name.clone()).collect();
    manifests.retain(|manifest| !is_along(manifest) || seen.insert(manifest.name.clone()));
}

/// Takes out what is in no namespace and there already, word for word: each export of another namespace brings along what
/// that needs.
fn first_of_equals(manifests: &mut Vec<Manifest>) {
    let mut first: HashMap<(String, String, String), Value> = HashMap::new();
    manifests.retain(|manifest| {
        if !manifest.namespace.is_empty() {
            return true;
        }
        let of = |text: &String| text.clone();
        match first.entry((of(&manifest.api_version), of(&manifest.kind), of(&manifest.name))) {
            Entry::Occupied(there) => *there.get() != manifest.object,
            Entry::Vacant(place) => {
                place.insert(manifest.object.clone());
                true
            }
        }
    });
}

fn once_each(manifests: &[Manifest]) -> Result<(), StepError> {
    match order::duplicate(manifests) {
        Some((first, second)) => {
            Err(StepError::permanent(format!("{first} is in {} and in {}", first.file, second.file)))
        }
        None => Ok(()),
    }
}

/// Why an object is not applied.
fn why_left_out(manifest: &Manifest) -> Option<String> {
    let kind = group_kind(&manifest.api_version, &manifest.kind);
    if is_of_aks(&kind, &manifest.namespace, &manifest.name) {
        let reason =
            "AKS has its own, and would lose it: names of yours belong into `coredns-custom` (EKS-ADD-012)";
        return Some(reason.to_owned());
    }
    let hook = manifest.hook().unwrap_or_default();
    (!manifest.is_installed()).then(|| format!("Helm makes it for `{hook}`, which this is not"))
}

/// The Corefile, which AKS keeps: another would take its names from every pod.
/// <https://learn.microsoft.com/azure/aks/coredns-custom>
pub(super) fn is_of_aks(group_kind: &str, namespace: &str, name: &str) -> bool {
    (group_kind, namespace, name) == ("ConfigMap", "kube-system", "coredns")
}

/// Takes out what is not applied.
fn leave_out(manifests: &mut Vec<Manifest>) -> Vec<Skipped> {
    let mut left_out = Vec::new();
    manifests.retain(|manifest| {
        let Some(reason) = why_left_out(manifest) else { return true };
        left_out.push(Skipped { file: manifest.file.clone(), object: manifest.to_string(), reason });
        false
    });
    left_out
}

fn hook_note(manifest: &Manifest) -> Option<String> {
    let hook = manifest.hook()?;
    Some(format!(
        "{manifest} is a hook of Helm's (`{hook}`): it is applied with the rest, by its kind, and stays"
    ))
}

/// Of what is there only because nobody said where.
fn default_note<'a>(manifests: impl Iterator<Item = &'a Manifest>) -> Option<String> {
    let there = manifests.filter(|manifest| manifest.namespace == render::NAMESPACE);
    let there: Vec<String> = there.map(ToString::to_string).collect();
    let what = (!there.is_empty()).then(|| tree::listed(&there))?;
    Some(format!(
        "charts are rendered for namespace `{}`, as `namespace` is not given: {what}",
        render::NAMESPACE
    ))
}

impl Folder {
    /// What a person should know before all of it is applied.
    pub(super) fn told(&self) -> impl Iterator<Item = String> {
        let left_out =
            self.left_out.iter().map(|left| format!("{} is left out: {}", left.object, left.reason));
        let missing = self.missing.iter().map(|what| format!("{what} is not in the folder: {MISSING}"));
        left_out.chain(missing).chain(self.notes.iter().cloned())
    }

    /// Puts what names no namespace and is of a kind that needs one into `namespace`.
    ///
    /// # Errors
    /// `Permanent`: an object is there twice then.
    pub(super) fn place(&mut self, catalog: &Catalog, namespace: &str) -> Result<(), StepError> {
        let defined: Vec<(String, String)> = self.manifests.iter().filter_map(defines).collect();
        for manifest in self.manifests.iter_mut().filter(|manifest| manifest.namespace.is_empty()) {
            let group = manifest.api_version.split_once('/').map_or("", |(group, _)| group);
            let is_placed = match catalog.get(&manifest.api_version, &manifest.kind) {
                Some(kind) => kind.namespaced,
                None => defined.iter().any(|(of, kind)| of == group && *kind == manifest.kind),
            };
            if is_placed {
                manifest.namespace = namespace.to_owned();
                manifest.object["metadata"]["namespace"] = namespace.into();
            }
        }
        self.left_out.extend(leave_out(&mut self.manifests));
        once_each(&self.manifests)
    }
}

/// Group and kind of a definition whose objects are in namespaces.
fn defines(manifest: &Manifest) -> Option<(String, String)> {
    let spec = manifest.object.get("spec").filter(|_| manifest.kind == "CustomResourceDefinition")?;
    let text = |path: &[&str]| text(spec, path).map(str::to_owned);
    (text(&["scope"])? == "Namespaced").then_some(())?;
    Some((text(&["group"])?, text(&["names", "kind"])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_without_doubles() {
        let dir = tempfile::tempdir().unwrap();
        assert!(manifests(dir.path(), None).is_err());
        let write = |name: &str, kind: &str| {
            let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n");
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        write("a.yaml", "Pod");
        write("b.yml", "Secret");
        std::fs::write(dir.path().join("notes.txt"), "not a manifest").unwrap();
        let kinds: Vec<_> =
            manifests(dir.path(), None).unwrap().manifests.into_iter().map(|m| m.kind).collect();
        assert_eq!(kinds, ["Secret", "Pod"]);
        write("c.yaml", "Pod");
        let error = manifests(dir.path(), None).unwrap_err();
        assert_eq!(error.message, "Pod shop/a is in a.yaml and in c.yaml");
    }

    #[test]
    fn what_several_exports_brought_along_is_taken_once_where_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let role = |folder: &str, verb: &str| {
            let folder = dir.path().join(folder).join("_cluster");
            std::fs::create_dir_all(&folder).unwrap();
            let text = format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: reader}}\n\
                 rules: [{{apiGroups: [''], resources: [pods], verbs: [{verb}]}}]\n"
            );
            std::fs::write(folder.join("ClusterRole-reader.yaml"), text).unwrap();
        };
        role("bank", "get");
        role("shop", "get");
        let folder = manifests(dir.path(), None).unwrap();
        let files: Vec<_> = folder.manifests.iter().map(|m| m.file.as_str()).collect();
        assert_eq!(files, ["bank/_cluster/ClusterRole-reader.yaml"]);
        role("shop", "list");
        let error = manifests(dir.path(), None).unwrap_err();
        assert_eq!(
            error.message,
            "ClusterRole reader is in bank/_cluster/ClusterRole-reader.yaml and in shop/_cluster/ClusterRole-reader.yaml"
        );
    }

    #[test]
    fn what_helm_makes_for_a_deletion_is_left_out_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let job = |name: &str, hook: &str| {
            format!(
                "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: shop, annotations: {{helm.sh/hook: \"{hook}\"}}}}\n---\n"
            )
        };
        let jobs = [
            job("clean", "pre-delete"),
            job("back", "Post-Rollback, post-delete"),
            job("test", "test"),
            job("schema", "pre-upgrade,post-delete"),
        ];
        std::fs::write(dir.path().join("a.yaml"), jobs.concat()).unwrap();
        let folder = manifests(dir.path(), None).unwrap();
        let names: Vec<_> = folder.manifests.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["schema"]);
        let left: Vec<_> =
            folder.left_out.iter().map(|left| format!("{}: {}", left.object, left.reason)).collect();
        assert_eq!(
            left,
            [
                "Job shop/clean: Helm makes it for `pre-delete`, which this is not",
                "Job shop/back: Helm makes it for `Post-Rollback, post-delete`, which this is not",
                "Job shop/test: Helm makes it for `test`, which this is not",
            ]
        );
        assert_eq!(
            folder.notes,
            [
                "Job shop/schema is a hook of Helm's (`pre-upgrade,post-delete`): it is applied with the rest, by its kind, and stays"
            ]
        );
    }

    #[test]
    fn of_a_definition_that_several_charts_bring_along_there_is_one() {
        let files = ["web/charts/a/crds/x.yaml", "web/charts/b/crds/x.yaml", "other/crds/x.yaml", "x.yaml"];
        let read = |file: &&str| {
            let text =
                "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a}\n";
            order::parse(file, text).unwrap().remove(0)
        };
        let charts = [PathBuf::from("web/"), PathBuf::from("other/")];
        let left = |files: &[&str]| {
            let mut manifests: Vec<Manifest> = files.iter().map(read).collect();
            first_definitions(&mut manifests, &charts);
            manifests.into_iter().map(|manifest| manifest.file).collect::<Vec<_>>()
        };
        assert_eq!(left(&files[..2]), files[..1]);
        // What people put there twice is for them to see.
        assert_eq!(left(&files), files[2..]);
    }

    #[test]
    fn what_is_in_the_default_namespace_because_nobody_said_where_is_told() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: default}\n---\n\
                    apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: shop}\n";
        let manifests = order::parse("a.yaml", text).unwrap();
        assert_eq!(
            default_note(manifests.iter()).as_deref(),
            Some("charts are rendered for namespace `default`, as `namespace` is not given: Pod default/a")
        );
        assert_eq!(default_note(manifests[1..].iter()), None);
    }

    #[test]
    fn what_is_not_read_is_no_reason_to_delete_and_not_forgotten() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("in");
        std::fs::create_dir(&root).unwrap();
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";
        std::fs::write(root.join("a.yaml"), text).unwrap();
        assert_eq!(whole(&root, None).unwrap().manifests.len(), 1);
        // What is read under its own name, and what is no manifest.
        symlink("a.yaml", root.join("b.yaml")).unwrap();
        symlink(".", root.join("..data")).unwrap();
        symlink("/etc/hostname", root.join("README.md")).unwrap();
        assert_eq!(manifests(&root, None).unwrap().manifests.len(), 1);
        let refused = |read: Result<Folder, StepError>| read.unwrap_err().message;
        let all = refused(whole(&root, None));
        let said = "is neither file nor folder and is not read";
        assert!(all.ends_with(&format!("{said}: ..data, README.md, b.yaml")), "{all}");
        // A policy that several folders share.
        std::fs::create_dir(dir.path().join("common")).unwrap();
        std::fs::write(dir.path().join("common/deny.yaml"), text).unwrap();
        for (target, link) in [("../common/deny.yaml", "deny.yaml"), ("../common", "common")] {
            symlink(target, root.join(link)).unwrap();
            let one = refused(manifests(&root, None));
            assert!(one.ends_with(&format!("{said}: {link}")), "{one}");
            std::fs::remove_file(root.join(link)).unwrap();
        }
        // A folder that is not checked out.
        symlink("../elsewhere", root.join("elsewhere")).unwrap();
        let one = refused(manifests(&root, None));
        assert!(one.ends_with(&format!("{said}: elsewhere")), "{one}");
    }

    #[test]
    fn what_leads_into_a_chart_is_not_read() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["shop/files", "shop/crds", "plain"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
            std::fs::write(root.join(folder).join("deny.yaml"), "").unwrap();
        }
        for (target, is_known) in [
            ("shop/files/deny.yaml", false),
            ("shop/files", false),
            ("shop", true),
            ("shop/crds", true),
            ("shop/crds/deny.yaml", true),
            ("plain", true),
            ("plain/deny.yaml", true),
            (".", true),
            ("nowhere", false),
        ] {
            symlink(target, root.join("link.yaml")).unwrap();
            assert_eq!(is_known_without(root, "link.yaml", &[PathBuf::from("shop/")]), is_known, "{target}");
            std::fs::remove_file(root.join("link.yaml")).unwrap();
        }
    }
}
