//! A folder of manifests as the objects that it makes, in the order in which a cluster takes them. Reads only.

use std::path::{Path, PathBuf};

use migrate_plugin_api::StepError;

use super::order::{self, Manifest};
use super::{render, tree};

/// Reads and orders all manifests of a folder; charts and an overlay are what they make.
///
/// # Errors
/// `Permanent`: the folder or a file of it can't be read, is beyond a limit or no manifest; `helm` or `kubectl`
/// is missing or refuses; an object is there twice; there is none at all.
pub(super) fn manifests(root: &Path) -> Result<Vec<Manifest>, StepError> {
    Ok(read(root)?.0)
}

/// As [`manifests`], where an object that is not in the folder is to be deleted: so nothing in it may be unread.
///
/// # Errors
/// As [`manifests`]; `Permanent` where something in the folder is neither file nor folder, or the step that wrote it
/// could not read all that belongs into it.
pub(super) fn whole(root: &Path) -> Result<Vec<Manifest>, StepError> {
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
    let (manifests, unread) = read(root)?;
    match unread.as_slice() {
        [] => Ok(manifests),
        unread => Err(StepError::permanent(format!(
            "{} holds what is neither file nor folder and is not read: {}",
            root.display(),
            tree::listed(unread)
        ))
        .with_hint("with `prune`, what is not read would be deleted: put a copy in place of each link")),
    }
}

/// All objects, and what was left unread.
fn read(root: &Path) -> Result<(Vec<Manifest>, Vec<String>), StepError> {
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
    for chart in &charts {
        for rendered in render::chart(&root.join(chart), None)? {
            take(&format!("{}{}", chart.display(), rendered.template), &rendered.text)?;
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
    if let Some((first, second)) = order::duplicate(&all) {
        return Err(StepError::permanent(format!("{first} is in {} and in {}", first.file, second.file)));
    }
    order::sort(&mut all);
    Ok((all, unread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_without_doubles() {
        let dir = tempfile::tempdir().unwrap();
        assert!(manifests(dir.path()).is_err());
        let write = |name: &str, kind: &str| {
            let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n");
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        write("a.yaml", "Pod");
        write("b.yml", "Secret");
        std::fs::write(dir.path().join("notes.txt"), "not a manifest").unwrap();
        let kinds: Vec<_> = manifests(dir.path()).unwrap().into_iter().map(|m| m.kind).collect();
        assert_eq!(kinds, ["Secret", "Pod"]);
        write("c.yaml", "Pod");
        let error = manifests(dir.path()).unwrap_err();
        assert_eq!(error.message, "Pod shop/a is in a.yaml and in c.yaml");
    }

    #[test]
    fn what_is_not_read_is_no_reason_to_delete() {
        let dir = tempfile::tempdir().unwrap();
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        assert_eq!(whole(dir.path()).unwrap().len(), 1);
        std::os::unix::fs::symlink("a.yaml", dir.path().join("b.yaml")).unwrap();
        assert_eq!(manifests(dir.path()).unwrap().len(), 1);
        let error = whole(dir.path()).unwrap_err();
        assert!(
            error.message.ends_with("is neither file nor folder and is not read: b.yaml"),
            "{}",
            error.message
        );
    }
}
