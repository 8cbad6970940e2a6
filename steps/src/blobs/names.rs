//! Names: which keys a pass takes and in what order, what Azure can't hold, and metadata names.
//! Pure.
//!
//! Keys here are relative: without the bucket's prefix, and the same on both sides.

use std::collections::{BTreeMap, HashMap};

use super::config::{CopyConfig, Order};
use super::filter::Filter;
use super::repository::{self, REPOSITORIES};
use super::source::Object;

/// Azure's limits of a blob's name.
const MAX_NAME_CHARS: usize = 1024;
const MAX_NAME_SEGMENTS: usize = 254;

/// Velero reads a backup the moment this file is there, and never again: it must come last.
const BACKUP_FILE: &str = "/velero-backup.json";
const BACKUPS: &str = "backups/";

/// A part of a pass. A phase starts only when the one before it has succeeded wholly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    /// For people.
    pub(super) name: &'static str,
    /// Prefixes to list, in order, none inside another.
    pub(super) scopes: Vec<String>,
    pub(super) part: Part,
    filter: Filter,
}

/// What a phase takes of its scopes; in the order in which extra blobs may go: what names others first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    All,
    BackupFiles,
    Files,
    /// Of Velero's repositories: see [`repository`].
    Indexes,
    Packs,
    Formats,
}

impl Part {
    /// Whether it is what names the rest of a repository.
    pub(super) fn names_others(self) -> bool {
        matches!(self, Self::Formats | Self::Indexes)
    }

    /// Whether a repository in use gets more of it, so that it is gone through again.
    pub(super) fn may_change(self) -> bool {
        matches!(self, Self::Indexes | Self::Packs)
    }
}

impl Phase {
    /// Whether `key`, which is in one of the scopes, belongs to this phase.
    pub(super) fn takes(&self, key: &str) -> bool {
        let part = || {
            let backup_file = key.starts_with(BACKUPS) && key.ends_with(BACKUP_FILE);
            let file = if backup_file { Part::BackupFiles } else { Part::Files };
            repository::part(key).unwrap_or(file)
        };
        self.filter.takes(key) && (self.part == Part::All || self.part == part())
    }

    /// Whether `object` is of a backup that ended after the pass began: of its volumes not all need be there.
    pub(super) fn leaves(&self, object: &Object, as_of_seconds: i64) -> bool {
        self.part == Part::BackupFiles && object.modified > as_of_seconds
    }
}

/// The phases of a pass.
pub(super) fn phases(config: &CopyConfig) -> Vec<Phase> {
    phases_of(config.order, config.prefixes.as_deref(), &filter(config))
}

/// All that a pass takes at once, for who only looks.
pub(super) fn everything(config: &CopyConfig) -> Phase {
    let scopes = scopes(config.prefixes.as_deref());
    Phase { name: "objects", scopes, part: Part::All, filter: filter(config) }
}

fn filter(config: &CopyConfig) -> Filter {
    Filter::new(config.include.as_deref(), &config.exclude)
}

/// The phases of a pass over `prefixes` (none: everything).
fn phases_of(order: Order, prefixes: Option<&[String]>, filter: &Filter) -> Vec<Phase> {
    let scopes = scopes(prefixes);
    let phase = |name, scopes, part| Phase { name, scopes, part, filter: filter.clone() };
    match order {
        Order::Listing => vec![phase("objects", scopes, Part::All)],
        Order::Velero => {
            let repositories: Vec<String> = REPOSITORIES.iter().flat_map(|r| within(&scopes, r)).collect();
            let files =
                scopes.iter().filter(|s| !REPOSITORIES.iter().any(|r| s.starts_with(r))).cloned().collect();
            let backups = within(&scopes, BACKUPS);
            vec![
                phase("repositories' formats", repositories.clone(), Part::Formats),
                phase("repositories' indexes", repositories.clone(), Part::Indexes),
                phase("repositories", repositories, Part::Packs),
                phase("files", files, Part::Files),
                phase("velero-backup.json", backups, Part::BackupFiles),
            ]
        }
    }
}

/// Sorted, without any that lies inside another.
pub(super) fn scopes(prefixes: Option<&[String]>) -> Vec<String> {
    let mut sorted: Vec<String> = match prefixes {
        None => vec![String::new()],
        Some(prefixes) => prefixes.iter().map(|p| p.trim_start_matches('/').to_owned()).collect(),
    };
    sorted.sort();
    let mut scopes: Vec<String> = Vec::new();
    for prefix in sorted {
        if !scopes.iter().any(|s| prefix.starts_with(s.as_str())) {
            scopes.push(prefix);
        }
    }
    scopes
}

/// What of `folder` lies in `scopes`.
fn within(scopes: &[String], folder: &str) -> Vec<String> {
    scopes
        .iter()
        .filter_map(|scope| {
            if scope.starts_with(folder) {
                Some(scope.clone())
            } else if folder.starts_with(scope.as_str()) {
                Some(folder.to_owned())
            } else {
                None
            }
        })
        .collect()
}

/// A `prefix` of a site's file, ready to be put before relative keys.
pub(super) fn folder(prefix: Option<&str>) -> String {
    match prefix.map(|p| p.trim_matches('/')) {
        None | Some("") => String::new(),
        Some(prefix) => format!("{prefix}/"),
    }
}

/// Why Azure can't hold a blob of this name so that every client finds it again, if so.
/// (Naming and referencing containers, blobs and metadata, learn.microsoft.com.)
pub(super) fn invalid_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("the name is empty");
    }
    if name.chars().count() > MAX_NAME_CHARS {
        return Some("the name is longer than 1,024 characters");
    }
    if name.split('/').count() > MAX_NAME_SEGMENTS {
        return Some("the name has more than 254 path segments");
    }
    if name.ends_with('/') {
        return Some("the name ends with a slash");
    }
    // Also where it is sent as `%5C` (azure-sdk-for-js #5405): another blob would be written.
    if name.contains('\\') {
        return Some("Azure makes a slash of a backslash");
    }
    if name.split('/').any(|segment| segment.ends_with('.')) {
        return Some("a path segment ends with a dot");
    }
    // XML 1.0, in which Azure lists, has no way to write these.
    if name.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        return Some("the name holds a control character");
    }
    None
}

/// A name as the path of a URL has it: all but slashes and what never needs it is encoded, as S3 wants
/// it for signing.
pub(super) fn encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                path.push(byte.into())
            }
            // Writing into a string can't fail.
            byte => drop(write!(path, "%{byte:02X}")),
        }
    }
    path
}

/// The metadata of the blob and the names that had to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// As the blob gets it.
    pub(super) entries: HashMap<String, String>,
    /// Source name → name on the blob.
    pub(super) renamed: BTreeMap<String, String>,
}

/// Azure's metadata names are C# identifiers, S3's may hold anything a header may.
///
/// # Errors
/// The two names that would fall together.
pub(super) fn metadata(source: &HashMap<String, String>) -> Result<Metadata, (String, String)> {
    let mut result = Metadata::default();
    let mut from: BTreeMap<String, &str> = BTreeMap::new();
    let mut names: Vec<&String> = source.keys().collect();
    names.sort();
    for name in names {
        let mut valid: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if valid.starts_with(|c: char| c.is_ascii_digit()) || valid.is_empty() {
            valid.insert(0, '_');
        }
        // Names differ on Azure by more than case only.
        if let Some(other) = from.insert(valid.to_ascii_lowercase(), name) {
            return Err((other.to_owned(), name.clone()));
        }
        if valid != *name {
            result.renamed.insert(name.clone(), valid.clone());
        }
        result.entries.insert(valid, source[name].clone());
    }
    Ok(result)
}

/// Tags as Azure takes them in a header, or why it can't hold them: 10 of up to 128 and 256
/// characters, of letters, digits, space and `+ - . / : = _` (Set Blob Tags, learn.microsoft.com).
pub(super) fn tags(tags: &[(String, String)]) -> Result<String, &'static str> {
    let valid = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '+' | '-' | '.' | '/' | ':' | '=' | '_'))
    };
    if tags.len() > 10 {
        return Err("more than 10 tags");
    }
    if tags.iter().any(|(key, value)| key.is_empty() || key.len() > 128 || value.len() > 256) {
        return Err("tags too long for Azure");
    }
    if !tags.iter().all(|(key, value)| valid(key) && valid(value)) {
        return Err("tags with characters that Azure doesn't take");
    }
    Ok(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_azure_would_refuse_are_found() {
        let one = |key: &str, value: &str| tags(&[(key.to_owned(), value.to_owned())]);
        assert_eq!(one("cost center", "a/b").as_deref(), Ok("cost+center=a%2Fb"));
        assert!(one("", "x").is_err() && one("k", &"v".repeat(257)).is_err() && one("k", "a@b").is_err());
        assert!(tags(&vec![("k".to_owned(), "v".to_owned()); 11]).is_err());
    }

    #[test]
    fn velero_order_is_data_first_and_the_backup_file_last() {
        let prefixes = ["kopia/shop/".to_owned(), "backups/b1/".to_owned(), "backups/b1/x".to_owned()];
        let phases = phases_of(Order::Velero, Some(&prefixes), &Filter::default());
        let scopes: Vec<_> = phases.iter().map(|p| p.scopes.join(" ")).collect();
        assert_eq!(scopes, ["kopia/shop/", "kopia/shop/", "kopia/shop/", "backups/b1/", "backups/b1/"]);
        let place = |key: &str| -> Vec<usize> {
            (0..5)
                .filter(|i| phases[*i].scopes.iter().any(|s| key.starts_with(s)) && phases[*i].takes(key))
                .collect()
        };
        assert_eq!(place("kopia/shop/kopia.repository"), [0]);
        assert_eq!(place("kopia/shop/xn0_01"), [1]);
        assert_eq!(place("kopia/shop/p01"), [2]);
        assert_eq!(place("kopia/shop/velero-backup.json"), [2]);
        assert_eq!(place("backups/b1/b1.tar.gz"), [3]);
        assert_eq!(place("backups/b1/velero-backup.json"), [4]);
    }

    #[test]
    fn every_key_of_a_whole_bucket_is_taken_once() {
        let phases = phases_of(Order::Velero, None, &Filter::default());
        for key in [
            "kopia/a",
            "kopia/a/kopia.repository",
            "kopia/a/x1",
            "kopia/a/p1",
            "restic/b",
            "backups/b/velero-backup.json",
            "backups/b/x",
            "root",
            "plugins/p",
        ] {
            let times = phases
                .iter()
                .flat_map(|p| p.scopes.iter().map(move |s| (p, s)))
                .filter(|(p, s)| key.starts_with(s.as_str()) && p.takes(key))
                .count();
            assert_eq!(times, 1, "{key}");
        }
    }

    #[test]
    fn scopes_never_overlap() {
        let prefixes: Vec<String> = ["/b/", "a/b", "a/", "b/c/"].map(str::to_owned).into();
        assert_eq!(scopes(Some(&prefixes)), ["a/", "b/"]);
        assert_eq!(scopes(None), [""]);
        assert_eq!(scopes(Some(&[])), [] as [String; 0]);
    }

    #[test]
    fn a_path_holds_nothing_that_a_url_would_read_otherwise() {
        assert_eq!(encoded("a//b-._~1/Z"), "a//b-._~1/Z");
        assert_eq!(encoded("ü ?#&+%=:"), "%C3%BC%20%3F%23%26%2B%25%3D%3A");
    }

    #[test]
    fn names_azure_would_lose_are_refused() {
        for good in ["a", "a//b", "ä/😀", "a-b/.hidden", &"ü".repeat(1024)] {
            assert_eq!(invalid_name(good), None, "{good}");
        }
        for bad in ["", "a/", "a.", "a./b", "a\\", "a\u{1}b", &"a".repeat(1025), &"a/".repeat(254)] {
            assert!(invalid_name(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn metadata_names_are_made_valid_and_collisions_found() {
        let map = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let made = metadata(&map(&[("a-b", "1"), ("plain", "2"), ("0x", "3")])).unwrap();
        assert_eq!(made.entries, map(&[("a_b", "1"), ("plain", "2"), ("_0x", "3")]));
        assert_eq!(made.renamed.len(), 2);
        let clash = metadata(&map(&[("a-b", "1"), ("a_b", "2")])).unwrap_err();
        assert_eq!(clash, ("a-b".to_owned(), "a_b".to_owned()));
    }
}
