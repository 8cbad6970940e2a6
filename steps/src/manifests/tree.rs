//! Folders of manifests: read with limits, replaced as a whole or not at all.
//!
//! Owns the marker file by which a folder is known to be ours, and which says what should be in the folder and is
//! not. Invariant: a folder without it is never replaced. Symbolic links are never followed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use migrate_plugin_api::{IdempotencyKey, Problem, StepError, StepPlan};

/// Says that a folder was written by `migrate` and may be replaced.
const MARKER: &str = ".migrate-manifests";

/// Its first line.
const WRITTEN: &str = "Written by migrate, which replaces this folder as a whole.\n";

/// Before each thing that was not read and so is missing, a line each.
const MISSING: &str = "Not in it, since it could not be read: ";

/// What a folder that was read from a cluster says of its IngressClasses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exported {
    /// Those that its Ingresses need are in it, where the cluster had them.
    Whole,
    /// They could not be read, or were not to be.
    WithoutClasses,
}

impl Exported {
    const fn line(self) -> &'static str {
        match self {
            Self::Whole => "Read from a cluster, with the IngressClasses that are needed.\n",
            Self::WithoutClasses => "Read from a cluster, without IngressClasses.\n",
        }
    }
}

/// That a folder that was read from a cluster says of Ingresses elsewhere that share a load balancer with one in it: each
/// has a line.
const ELSEWHERE: &str = "Read with Ingresses elsewhere that share a load balancer.\n";

/// Before each of them.
const SHARES: &str = "Shares a load balancer with one in it: ";

/// etcd takes 1.5 MiB an object; a file may hold many, but not without end.
pub(crate) const FILE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// Files a folder: far above any real estate, below what exhausts memory.
const FILES_LIMIT: usize = 200_000;

/// Names that are shown at once.
const NAMED: usize = 20;

/// Folders in folders.
const DEPTH_LIMIT: usize = 64;

/// One file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// Where it is.
    pub absolute: PathBuf,
}

impl Entry {
    /// Whether it is a manifest by its name.
    pub(crate) fn is_manifest(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
    }
}

/// A folder's files and what of it is no file (links, sockets).
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted by path, without the marker.
    pub files: Vec<Entry>,
    /// Sorted paths of what is neither file nor folder.
    pub others: Vec<String>,
}

/// Lists `root` and all below it.
///
/// # Errors
/// `Permanent` where it can't be read or is beyond a limit.
pub(crate) fn list(root: &Path) -> Result<Listing, StepError> {
    let mut listing = Listing::default();
    walk(root, root, 0, &mut listing)?;
    listing.files.sort_by(|a, b| a.path.cmp(&b.path));
    listing.others.sort();
    Ok(listing)
}

/// As [`list`], or the one file that `root` is, or that it is a link to.
///
/// # Errors
/// As [`list`].
pub(crate) fn list_any(root: &Path) -> Result<Listing, StepError> {
    let failed =
        |e: io::Error| StepError::permanent(format!("failed to read {}", root.display())).with_source(e);
    if !fs::metadata(root).map_err(failed)?.is_file() {
        return list(root);
    }
    let name = root.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        return Err(StepError::permanent(format!("{} has no UTF-8 name", root.display())));
    };
    let entry = Entry { path: name.to_owned(), absolute: fs::canonicalize(root).map_err(failed)? };
    Ok(Listing { files: vec![entry], others: Vec::new() })
}

fn walk(root: &Path, folder: &Path, depth: usize, listing: &mut Listing) -> Result<(), StepError> {
    if depth > DEPTH_LIMIT {
        return Err(StepError::permanent(format!("{} is nested too deeply", folder.display())));
    }
    let failed =
        |e: io::Error| StepError::permanent(format!("failed to read {}", folder.display())).with_source(e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let absolute = entry.path();
        let relative = absolute.strip_prefix(root).map(Path::to_path_buf).unwrap_or_default();
        let Some(path) = relative.to_str().map(str::to_owned) else {
            return Err(StepError::permanent(format!("{} has no UTF-8 name", absolute.display())));
        };
        if kind.is_dir() {
            walk(root, &absolute, depth + 1, listing)?;
        } else if !kind.is_file() {
            listing.others.push(path);
        } else if path != MARKER {
            listing.files.push(Entry { path, absolute });
        }
        if listing.files.len() > FILES_LIMIT {
            return Err(StepError::permanent(format!(
                "{} has more than {FILES_LIMIT} files",
                root.display()
            )));
        }
    }
    Ok(())
}

/// The markers of `root` and of the folders in it: where each is, and what it says.
fn markers(root: &Path, listing: &Listing) -> Result<Vec<(String, String)>, StepError> {
    let own = Entry { path: MARKER.to_owned(), absolute: root.join(MARKER) };
    let below = listing.files.iter().filter(|entry| entry.path.ends_with(&format!("/{MARKER}")));
    let all = Some(&own).filter(|own| own.absolute.is_file()).into_iter().chain(below);
    all.map(|entry| {
        let folder = entry.path.strip_suffix(MARKER).unwrap_or_default().trim_end_matches('/');
        Ok((folder.to_owned(), String::from_utf8_lossy(&read(entry)?).into_owned()))
    })
    .collect()
}

/// What whoever wrote `root`, or a folder in it (which is named then), could not read, so that it is not in it; nothing
/// where `migrate` did not write it.
///
/// # Errors
/// As [`list_any`]; `Permanent` where a marker can't be read.
pub(crate) fn missing(root: &Path) -> Result<Vec<String>, StepError> {
    let mut missing = Vec::new();
    for (folder, text) in markers(root, &list_any(root)?)? {
        for what in text.lines().filter_map(|line| line.strip_prefix(MISSING)) {
            let what = if folder.is_empty() { what.to_owned() } else { format!("{what} ({folder})") };
            // A rewritten folder says it itself, and has the markers below it too.
            if !missing.contains(&what) {
                missing.push(what);
            }
        }
    }
    Ok(missing)
}

/// Whether `listing` of `root` is what `manifest.export` wrote, or was rewritten from that, or holds such folders; of
/// several the least. Of a part of one, a folder or a file, the classes are elsewhere.
///
/// # Errors
/// `Permanent` where a marker can't be read.
pub(crate) fn exported(root: &Path, listing: &Listing) -> Result<Option<Exported>, StepError> {
    let mut found = None;
    for (_, text) in markers(root, listing)? {
        if text.contains(Exported::WithoutClasses.line()) {
            return Ok(Some(Exported::WithoutClasses));
        }
        if text.contains(Exported::Whole.line()) {
            found = Some(Exported::Whole);
        }
    }
    if found.is_none() && is_part(root)? {
        found = Some(Exported::WithoutClasses);
    }
    Ok(found)
}

/// What `listing` of `root`, which [was read from a cluster](exported), says of Ingresses elsewhere that share a load
/// balancer with one in it, a line each; `None` where it does not say whether there are any.
///
/// # Errors
/// `Permanent` where a marker can't be read.
pub(crate) fn elsewhere(root: &Path, listing: &Listing) -> Result<Option<BTreeSet<String>>, StepError> {
    let mut found = None;
    for (_, text) in markers(root, listing)? {
        if text.contains(ELSEWHERE) {
            let lines = text.lines().filter_map(|line| line.strip_prefix(SHARES)).map(str::to_owned);
            found.get_or_insert_with(BTreeSet::new).extend(lines);
        } else if is_exported(&text) {
            return Ok(None);
        }
    }
    Ok(found)
}

fn is_exported(marker: &str) -> bool {
    [Exported::Whole, Exported::WithoutClasses].iter().any(|exported| marker.contains(exported.line()))
}

/// Whether a folder around `root` was read from a cluster.
fn is_part(root: &Path) -> Result<bool, StepError> {
    let real = fs::canonicalize(root)
        .map_err(|e| StepError::permanent(format!("failed to find {}", root.display())).with_source(e))?;
    for folder in real.ancestors().skip(1).take(DEPTH_LIMIT) {
        let absolute = folder.join(MARKER);
        if !absolute.is_file() {
            continue;
        }
        let bytes = read(&Entry { path: absolute.display().to_string(), absolute })?;
        let text = String::from_utf8_lossy(&bytes);
        if text.starts_with(WRITTEN) && is_exported(&text) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of a file, at most [`FILE_LIMIT_BYTES`].
///
/// # Errors
/// `Permanent`, naming the file.
pub(crate) fn read(entry: &Entry) -> Result<Vec<u8>, StepError> {
    let failed = |e: io::Error| StepError::permanent(format!("failed to read {}", entry.path)).with_source(e);
    let bytes = fs::metadata(&entry.absolute).map_err(failed)?.len();
    if bytes > FILE_LIMIT_BYTES {
        return Err(StepError::permanent(format!(
            "{} is {bytes} bytes long: more than {FILE_LIMIT_BYTES} are not read as a manifest",
            entry.path
        )));
    }
    fs::read(&entry.absolute).map_err(failed)
}

/// A digest over names and contents of all files: equal exactly when nothing was touched.
///
/// # Errors
/// As [`list`] and [`read`].
pub(crate) fn digest(root: &Path) -> Result<String, StepError> {
    let mut digest = Digest::default();
    list(root)?.files.iter().try_for_each(|entry| digest.add_file(entry))?;
    Ok(digest.finish())
}

/// A digest over names and contents in the making, in the order in which they are added.
pub(crate) struct Digest(Context);

impl Default for Digest {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Digest {
    /// Something of this name.
    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    /// A file.
    ///
    /// # Errors
    /// As [`read`].
    pub(crate) fn add_file(&mut self, entry: &Entry) -> Result<(), StepError> {
        let bytes = fs::read(&entry.absolute)
            .map_err(|e| StepError::permanent(format!("failed to read {}", entry.path)).with_source(e))?;
        self.add(&entry.path, &bytes);
        Ok(())
    }

    /// `sha256:` and its digits.
    pub(crate) fn finish(self) -> String {
        format!("sha256:{}", hex::encode(self.0.finish()))
    }
}

/// Names for a person: none, all, or the first and how many more.
pub(crate) fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names if names.len() <= NAMED => names.join(", "),
        names => format!("{} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
    }
}

/// Puts into `plan` what a step destroys that writes its folder to `root`, which its config calls `shown` in
/// `field`; or why it can't.
pub(crate) fn plan_replacing(plan: &mut StepPlan, root: &Path, shown: &Path, field: &str) {
    match replaceable(root) {
        Ok(Some(count)) if count > 0 => plan.destroys.push(format!("{count} files of {}", shown.display())),
        Ok(_) => {}
        Err(e) => plan.problems.push(problem_of(&e, field)),
    }
}

/// An error as a problem of a plan, with its causes and its hint.
pub(crate) fn problem_of(error: &StepError, field: &str) -> Problem {
    let record = error.to_record();
    let text = [vec![record.message], record.causes].concat().join(": ");
    let mut problem = Problem::error(text).in_field(field);
    problem.hint = record.hint;
    problem
}

/// What would be replaced at `root`: the count of files, `None` where nothing is there.
///
/// # Errors
/// `Conflict` where something is there that `migrate` did not write.
pub(crate) fn replaceable(root: &Path) -> Result<Option<usize>, StepError> {
    match fs::symlink_metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(StepError::permanent(format!("failed to read {}", root.display())).with_source(e));
        }
        Ok(metadata) if !metadata.is_dir() => {
            return Err(StepError::conflict(format!("{} is no folder", root.display())));
        }
        Ok(_) => {}
    }
    let listing = list(root)?;
    let is_empty = listing.files.is_empty() && listing.others.is_empty();
    if !is_empty && !root.join(MARKER).is_file() {
        return Err(StepError::conflict(format!(
            "{} holds files that migrate did not write",
            root.display()
        ))
        .with_hint("name another folder, or move these files away"));
    }
    Ok(Some(listing.files.len()))
}

/// A folder in the making; it takes its place only by [`commit`](Self::commit) and is removed otherwise.
pub(crate) struct Draft {
    root: PathBuf,
    draft: PathBuf,
    /// Where what is replaced stands meanwhile. This attempt's own name too: another's is not ours to remove.
    old: PathBuf,
    is_committed: bool,
}

impl Draft {
    /// Starts beside `root`, under a name of this attempt's own.
    ///
    /// # Errors
    /// `Conflict` as [`replaceable`]; `Permanent` where nothing can be written.
    pub(crate) fn new(root: &Path, key: &IdempotencyKey) -> Result<Self, StepError> {
        replaceable(root)?;
        let failed = |path: &Path, e: io::Error| {
            StepError::permanent(format!("failed to make {}", path.display())).with_source(e)
        };
        let parent = root.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        let draft = beside(root, &format!("{key}.draft"));
        remove(&draft)?;
        private_dir(&draft).map_err(|e| failed(&draft, e))?;
        let old = beside(root, &format!("{key}.old"));
        let draft = Self { root: root.to_owned(), draft, old, is_committed: false };
        draft.write(MARKER, WRITTEN.as_bytes(), false)?;
        Ok(draft)
    }

    /// Says in the folder itself what should be in it and could not be read.
    ///
    /// # Errors
    /// `Permanent` where it can't be written.
    pub(crate) fn lacks(&self, names: &[String]) -> Result<(), StepError> {
        let lines: String =
            names.iter().map(|name| format!("{MISSING}{}\n", name.replace(['\n', '\r'], " "))).collect();
        self.append(&lines)
    }

    /// Says in the folder itself that it was read from a cluster, or rewritten from what was.
    ///
    /// # Errors
    /// `Permanent` where it can't be written.
    pub(crate) fn says(&self, exported: Exported) -> Result<(), StepError> {
        self.append(exported.line())
    }

    /// Says in the folder itself that [Ingresses elsewhere](elsewhere) were read, and which there are.
    ///
    /// # Errors
    /// `Permanent` where it can't be written.
    pub(crate) fn shares(&self, others: &BTreeSet<String>) -> Result<(), StepError> {
        let lines: String = others.iter().map(|other| format!("{SHARES}{other}\n")).collect();
        self.append(&format!("{ELSEWHERE}{lines}"))
    }

    fn append(&self, lines: &str) -> Result<(), StepError> {
        let file = self.draft.join(MARKER);
        let failed = |e| StepError::permanent(format!("failed to write {}", file.display())).with_source(e);
        let mut handle = fs::OpenOptions::new().append(true).open(&file).map_err(failed)?;
        handle.write_all(lines.as_bytes()).map_err(failed)?;
        handle.sync_all().map_err(failed)
    }

    /// Writes one file. A private one is readable by its owner only.
    ///
    /// # Errors
    /// `Permanent`: `path` leaves the folder, is there already, or can't be written.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], is_private: bool) -> Result<(), StepError> {
        let relative = Path::new(path);
        if !relative.components().all(|c| matches!(c, Component::Normal(_))) || path.is_empty() {
            return Err(StepError::permanent(format!("`{path}` is no path inside a folder")));
        }
        let file = self.draft.join(relative);
        let failed =
            |e: io::Error| StepError::permanent(format!("failed to write {}", file.display())).with_source(e);
        if let Some(folder) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let mode = if is_private { 0o600 } else { 0o644 };
        let mut open = fs::OpenOptions::new();
        let mut handle = open.write(true).create_new(true).mode(mode).open(&file).map_err(failed)?;
        handle.write_all(bytes).map_err(failed)?;
        handle.sync_all().map_err(failed)
    }

    /// Where it is made: beside its place, so that what it names relative to that is found from here too.
    pub(crate) fn folder(&self) -> &Path {
        &self.draft
    }

    /// Puts the folder in its place. Durable when it returns.
    ///
    /// # Errors
    /// `Conflict` as [`replaceable`]; `Permanent` where the folder can't be moved.
    pub(crate) fn commit(mut self) -> Result<(), StepError> {
        let failed = |e: io::Error| {
            StepError::permanent(format!("failed to put {} in its place", self.root.display())).with_source(e)
        };
        if replaceable(&self.root)?.is_some() {
            // Left by a kill in the middle of this very commit.
            remove(&self.old)?;
            fs::rename(&self.root, &self.old).map_err(failed)?;
        }
        fs::rename(&self.draft, &self.root).map_err(failed)?;
        if let Some(parent) = self.root.parent() {
            fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        self.is_committed = true;
        remove(&self.old)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_committed {
            let _ = remove(&self.draft);
        }
    }
}

/// `.NAME.SUFFIX` beside `root`: on the same file system, so that it can be renamed.
fn beside(root: &Path, suffix: &str) -> PathBuf {
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    root.with_file_name(format!(".{name}.{suffix}"))
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn remove(path: &Path) -> Result<(), StepError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(StepError::permanent(format!("failed to remove {}", path.display())).with_source(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key() -> IdempotencyKey {
        IdempotencyKey::new("export-0000000000".to_owned()).unwrap()
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let first = Draft::new(&root, &key()).unwrap();
        first.write("shop/Secret-a.yaml", b"a", true).unwrap();
        first.commit().unwrap();
        let mode = fs::metadata(root.join("shop/Secret-a.yaml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = digest(&root).unwrap();

        let dropped = Draft::new(&root, &key()).unwrap();
        dropped.write("b.yaml", b"b", false).unwrap();
        drop(dropped);
        assert_eq!(digest(&root).unwrap(), before);

        let second = Draft::new(&root, &key()).unwrap();
        second.write("b.yaml", b"b", false).unwrap();
        second.commit().unwrap();
        let paths: Vec<_> = list(&root).unwrap().files.into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["b.yaml"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_of_somebody_else_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine.txt"), "precious").unwrap();
        let error = Draft::new(dir.path(), &key()).err().unwrap();
        assert_eq!(error.class, migrate_plugin_api::ErrorClass::Conflict);
        assert!(dir.path().join("mine.txt").is_file());
    }

    #[test]
    fn a_folder_beside_it_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        for name in [".out.old", ".out.another-0000000000.old"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("mine.txt"), "precious").unwrap();
        }
        for _ in 0..2 {
            Draft::new(&root, &key()).unwrap().commit().unwrap();
        }
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".out.another-0000000000.old", ".out.old", "out"]);
        assert!(dir.path().join(".out.old/mine.txt").is_file());
    }

    #[test]
    fn what_a_kill_in_the_middle_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        Draft::new(&root, &key()).unwrap().commit().unwrap();
        fs::rename(&root, beside(&root, &format!("{}.old", key()))).unwrap();
        let draft = Draft::new(&root, &key()).unwrap();
        draft.write("b.yaml", b"b", false).unwrap();
        draft.commit().unwrap();
        assert_eq!(list(&root).unwrap().files[0].path, "b.yaml");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let draft = Draft::new(&dir.path().join("out"), &key()).unwrap();
        for path in ["../evil", "/etc/evil", "a/../../evil", "", "./a"] {
            assert!(draft.write(path, b"", false).is_err(), "{path}");
        }
    }

    #[test]
    fn links_are_reported_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a.yaml")).unwrap();
        let listing = list(dir.path()).unwrap();
        assert!(listing.files.is_empty());
        assert_eq!(listing.others, ["a.yaml"]);
    }
}
