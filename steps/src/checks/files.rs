//! Files of a volume: listed and hashed inside the container, compared name by name as they come.
//!
//! Invariants: any file name is taken as it is (line breaks, leading dashes, bytes that are no
//! UTF-8); both sides stream, and only what has no counterpart yet is held in memory, up to a limit.
//! Works with GNU and BusyBox tools alike: needs `sh`, `find`, `stat`, `sha256sum`, `readlink`.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256, digest};
use migrate_plugin_api::{StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exec::Container;

/// Entries that wait for their counterpart: about 200 bytes each. Both sides list in directory
/// order, so that few wait unless the trees differ wholly.
const WAITING_LIMIT: usize = 2_000_000;

/// Differing files that are named; all are counted.
const NAMED: usize = 50;

/// A batch is bounded by the kernel's limit for arguments (2 MiB); with their hashes less than this.
const BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// Enters the folder, so that every path starts with `./`, never with a dash.
const SCRIPT: &str = r#"cd "$1" || exit 3; shift; exec find . "$@""#;

/// For a batch of anything but regular files: count, names, facts, link targets.
const OTHERS: &str = r#"printf '%s\0' "$#" "$@" && stat -c '%f %u %g %s' "$@" || exit 1
for p do if [ -L "$p" ]; then readlink -n "$p" || exit 1; fi; printf '\0'; done"#;

/// For a batch of regular files: count, names, facts, hashes.
const FILES: &str = r#"printf '%s\0' "$#" "$@" && stat -c '%f %u %g %s' "$@" && sha256sum "$@" || exit 1"#;

/// Bits of the file type and of a regular file, in `st_mode`.
const TYPE_BITS: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const FOLDER: u32 = 0o040_000;

/// Which files to compare.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Files {
    /// The pod's namespace, the same on both sides.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; the pod's only one where not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Absolute path of the folder.
    pub directory: String,
    /// Paths in it to leave out, with `*` and `?` as in `find -path`: `cache/*`. `lost+found`, which
    /// a file system makes for itself, always is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// The two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

/// A listing as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Totals {
    /// Regular files.
    pub files: u64,
    /// Folders, links and others.
    pub others: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Sum of the hashes of all entries (path, type, mode, size, content or link target), as
    /// hexadecimal text: no reader of JSON may round it.
    #[serde(with = "hexadecimal")]
    #[schemars(with = "String")]
    pub sum: [u64; 4],
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn text(words: &[u64; 4]) -> String {
        words.iter().map(|word| format!("{word:016x}")).collect()
    }

    pub(super) fn serialize<S: Serializer>(words: &[u64; 4], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(words))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u64; 4], D::Error> {
        let text = String::deserialize(from)?;
        let words: Option<Vec<u64>> =
            (0..4).map(|at| u64::from_str_radix(text.get(at * 16..at * 16 + 16)?, 16).ok()).collect();
        let words = words.and_then(|words| words.try_into().ok());
        words.ok_or_else(|| de::Error::custom("a sum has 64 hexadecimal digits"))
    }
}

impl Totals {
    /// The sum in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        hexadecimal::text(&self.sum)
    }
}

/// A file that isn't the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Difference {
    /// Its path, unusual characters escaped.
    pub path: String,
    /// What differs: `sha256`, `size`, `mode`, `type`, `link`, `present`, `owner`.
    pub what: String,
    /// On the source.
    pub source: String,
    /// On the target.
    pub target: String,
}

/// What the comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FilesResult {
    /// The check's name.
    pub check: String,
    /// The folder.
    pub directory: String,
    /// The source's listing.
    pub source: Totals,
    /// The target's listing.
    pub target: Totals,
    /// Files that differ, are missing or are too many on the target.
    pub differences: u64,
    /// The first 50 of them.
    pub named: Vec<Difference>,
    /// Entries that are the same but for their owner: harmless on some volumes, fatal to a database.
    pub owner_differences: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_named: Option<Difference>,
}

/// What is known of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// SHA-256 of a file's content or a link's target, nothing for others.
    content: [u8; 32],
}

impl Files {
    /// Whether the config makes sense.
    ///
    /// # Errors
    /// `Permanent`, naming what doesn't.
    pub(crate) fn check(&self) -> Result<(), StepError> {
        if !self.directory.starts_with('/') {
            return Err(StepError::permanent(format!("`{}` is no absolute path", self.directory)));
        }
        match self.exclude.iter().find(|path| path.starts_with('/') || path.is_empty()) {
            Some(path) => Err(StepError::permanent(format!("`{path}` is no path inside {}", self.directory))),
            None => Ok(()),
        }
    }

    fn command(&self, batch: &'static str) -> Vec<String> {
        let mut command: Vec<String> =
            ["sh", "-c", SCRIPT, "sh", &self.directory, "("].map(String::from).to_vec();
        for (at, path) in
            ["lost+found"].into_iter().chain(self.exclude.iter().map(String::as_str)).enumerate()
        {
            if at > 0 {
                command.push("-o".to_owned());
            }
            command.extend(["-path".to_owned(), format!("./{path}")]);
        }
        command.extend([")", "-prune", "-o"].map(str::to_owned));
        if batch == OTHERS {
            command.push("!".to_owned());
        }
        command.extend(["-type", "f", "-exec", "sh", "-c", batch, "sh", "{}", "+"].map(str::to_owned));
        command
    }

    /// Lists and hashes one side, handing every entry to `comparison`.
    ///
    /// # Errors
    /// `Permanent` where the folder or a tool is missing, with the command's words; `Transient` where
    /// files came and went meanwhile.
    pub(crate) async fn gather(
        &self,
        ctx: &StepContext,
        container: &Container,
        side: Side,
        comparison: &std::sync::Mutex<Comparison>,
    ) -> Result<(), StepError> {
        for batch in [OTHERS, FILES] {
            let command = self.command(batch);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let mut listing = Listing::new(batch == FILES);
            let ended = container
                .run(ctx, &command, None, |bytes| {
                    listing.push(bytes, |path, facts| {
                        let mut comparison =
                            comparison.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        comparison.take(side, path, facts)
                    })
                })
                .await?;
            let place = format!("{} in {}", self.directory, container.describe());
            match ended.code {
                0 => listing.finish(&place)?,
                3 => {
                    return Err(StepError::permanent(format!("failed to enter {place}: {}", ended.stderr)));
                }
                code => {
                    let message = format!("failed to list {place}: exit code {code}: {}", ended.stderr);
                    return Err(StepError::transient(message).with_hint(
                        "files that come and go during the comparison can be left out by `exclude`",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Both sides, paired by path.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    waiting: HashMap<Vec<u8>, (Side, Facts)>,
    result: FilesResult,
}

impl Comparison {
    /// Starts a comparison for the check of that name.
    pub(crate) fn new(check: &str, directory: &str) -> Self {
        let result = FilesResult {
            check: check.to_owned(),
            directory: directory.to_owned(),
            ..FilesResult::default()
        };
        Self { waiting: HashMap::new(), result }
    }

    /// Files and bytes seen so far on both sides.
    pub(crate) fn seen(&self) -> (u64, u64) {
        let (source, target) = (&self.result.source, &self.result.target);
        (source.files + target.files, source.bytes + target.bytes)
    }

    fn take(&mut self, side: Side, path: &[u8], facts: Facts) -> Result<(), StepError> {
        let totals = match side {
            Side::Source => &mut self.result.source,
            Side::Target => &mut self.result.target,
        };
        totals.add(path, &facts);
        match self.waiting.remove(path) {
            Some((Side::Source, source)) if side == Side::Target => self.compare(path, &source, &facts),
            Some((Side::Target, target)) if side == Side::Source => self.compare(path, &facts, &target),
            Some(_) => return Err(StepError::transient(format!("{} was listed twice", readable(path)))),
            None => {
                if self.waiting.len() >= WAITING_LIMIT {
                    return Err(StepError::permanent(format!(
                        "more than {WAITING_LIMIT} files of {} are on one side only",
                        self.result.directory
                    ))
                    .with_hint("compare its folders one by one"));
                }
                self.waiting.insert(path.to_vec(), (side, facts));
            }
        }
        Ok(())
    }

    fn compare(&mut self, path: &[u8], source: &Facts, target: &Facts) {
        let both = |what: &str, source: String, target: String| Difference {
            path: readable(path),
            what: what.to_owned(),
            source,
            target,
        };
        let is_link = source.mode & TYPE_BITS == LINK;
        let difference = if source.mode & TYPE_BITS != target.mode & TYPE_BITS {
            both("type", kind(source.mode), kind(target.mode))
        } else if source.size != target.size && source.mode & TYPE_BITS == REGULAR {
            both("size", source.size.to_string(), target.size.to_string())
        } else if source.content != target.content {
            let what = if is_link { "link" } else { "sha256" };
            both(what, hex::encode(source.content), hex::encode(target.content))
        } else if source.mode != target.mode && !is_link {
            both("mode", format!("{:o}", source.mode & !TYPE_BITS), format!("{:o}", target.mode & !TYPE_BITS))
        } else {
            if (source.uid, source.gid) != (target.uid, target.gid) {
                let owner = |facts: &Facts| format!("{}:{}", facts.uid, facts.gid);
                self.result.owner_differences += 1;
                let named = both("owner", owner(source), owner(target));
                self.result.owner_named.get_or_insert(named);
            }
            return;
        };
        self.differ(difference);
    }

    fn differ(&mut self, difference: Difference) {
        self.result.differences += 1;
        if self.result.named.len() < NAMED {
            self.result.named.push(difference);
        }
    }

    /// The result; what still waits is missing on the other side.
    pub(crate) fn finish(mut self) -> FilesResult {
        let mut waiting: Vec<(Vec<u8>, (Side, Facts))> = self.waiting.drain().collect();
        waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (path, (side, facts)) in waiting {
            let there = format!("{} of {} bytes", kind(facts.mode), facts.size);
            let (source, target) = match side {
                Side::Source => (there, "missing".to_owned()),
                Side::Target => ("missing".to_owned(), there),
            };
            self.differ(Difference { path: readable(&path), what: "present".to_owned(), source, target });
        }
        self.result.named.sort_by(|a, b| a.path.cmp(&b.path));
        self.result
    }
}

impl Totals {
    fn add(&mut self, path: &[u8], facts: &Facts) {
        let is_file = facts.mode & TYPE_BITS == REGULAR;
        self.files += u64::from(is_file);
        self.others += u64::from(!is_file);
        self.bytes += if is_file { facts.size } else { 0 };
        let mut context = Context::new(&SHA256);
        context.update(path);
        context.update(&[0]);
        context.update(&facts.mode.to_be_bytes());
        // Sizes of folders are the file system's own business.
        context.update(&if is_file { facts.size } else { 0 }.to_be_bytes());
        context.update(&facts.content);
        for (sum, word) in self.sum.iter_mut().zip(context.finish().as_ref().chunks_exact(8)) {
            let word = word.try_into().map(u64::from_be_bytes).unwrap_or_default();
            *sum = sum.wrapping_add(word);
        }
    }
}

fn kind(mode: u32) -> String {
    match mode & TYPE_BITS {
        REGULAR => "file".to_owned(),
        LINK => "link".to_owned(),
        FOLDER => "folder".to_owned(),
        other => format!("special file {other:o}"),
    }
}

fn readable(path: &[u8]) -> String {
    path.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.extend(chunk.valid().chars().flat_map(|c| {
            let escaped = if c.is_control() || c == '\\' { Some(c.escape_default()) } else { None };
            let plain = if escaped.is_none() { Some(c) } else { None };
            escaped.into_iter().flatten().chain(plain)
        }));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        text
    })
}

/// Understands what the batches print, in whatever pieces it comes.
struct Listing {
    is_files: bool,
    buffer: Vec<u8>,
    at: usize,
    stage: Stage,
    wanted: usize,
    names: Vec<Vec<u8>>,
    facts: Vec<Facts>,
    done: usize,
}

enum Stage {
    Count,
    Names,
    Facts,
    Contents,
}

impl Listing {
    fn new(is_files: bool) -> Self {
        Self {
            is_files,
            buffer: Vec::new(),
            at: 0,
            stage: Stage::Count,
            wanted: 0,
            names: Vec::new(),
            facts: Vec::new(),
            done: 0,
        }
    }

    fn push(
        &mut self,
        bytes: &[u8],
        mut emit: impl FnMut(&[u8], Facts) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > BUFFER_BYTES {
            return Err(garbled("a line without an end"));
        }
        while self.step(&mut emit)? {}
        Ok(())
    }

    /// Takes one token; whether there may be another.
    fn step(
        &mut self,
        emit: &mut impl FnMut(&[u8], Facts) -> Result<(), StepError>,
    ) -> Result<bool, StepError> {
        match self.stage {
            Stage::Count => {
                let Some(token) = self.until(0) else { return Ok(false) };
                let count = std::str::from_utf8(&token).ok().and_then(|text| text.parse::<usize>().ok());
                self.wanted = count.filter(|count| *count > 0).ok_or_else(|| garbled("no count"))?;
                self.stage = Stage::Names;
            }
            Stage::Names => {
                let Some(token) = self.until(0) else { return Ok(false) };
                self.names.push(token);
                if self.names.len() == self.wanted {
                    self.stage = Stage::Facts;
                }
            }
            Stage::Facts => {
                let Some(token) = self.until(b'\n') else { return Ok(false) };
                self.facts.push(facts(&token).ok_or_else(|| garbled("no facts of a file"))?);
                if self.facts.len() == self.wanted {
                    self.stage = Stage::Contents;
                }
            }
            Stage::Contents => {
                let content = if self.is_files { self.hash()? } else { self.link() };
                let Some(content) = content else { return Ok(false) };
                let facts = Facts { content, ..self.facts[self.done] };
                let name = &self.names[self.done];
                let path = name.strip_prefix(b"./").unwrap_or(name);
                // The folder itself is made by whoever provisions the volume.
                if path != b"." {
                    emit(path, facts)?;
                }
                self.done += 1;
                if self.done == self.wanted {
                    self.names.clear();
                    self.facts.clear();
                    self.done = 0;
                    self.stage = Stage::Count;
                }
            }
        }
        Ok(true)
    }

    fn until(&mut self, end: u8) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.at..];
        let length = rest.iter().position(|byte| *byte == end)?;
        let token = rest[..length].to_vec();
        self.at += length + 1;
        Some(token)
    }

    fn link(&mut self) -> Option<[u8; 32]> {
        let target = self.until(0)?;
        let is_link = self.facts[self.done].mode & TYPE_BITS == LINK;
        Some(if is_link { sha256(&target) } else { [0; 32] })
    }

    /// `HASH  NAME`, the name as it is (BusyBox), or `\HASH  NAME` with the name escaped (GNU).
    fn hash(&mut self) -> Result<Option<[u8; 32]>, StepError> {
        let rest = &self.buffer[self.at..];
        let name = &self.names[self.done];
        let Some(first) = rest.first() else { return Ok(None) };
        let is_escaped = *first == b'\\';
        let start = usize::from(is_escaped);
        let length = if is_escaped {
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
            length
        } else {
            64 + 2 + name.len()
        };
        if rest.len() <= length {
            return Ok(None);
        }
        let is_named = is_escaped || rest[66..length] == **name;
        let hash =
            rest.get(start..start + 64).and_then(|text| <[u8; 32]>::try_from(hex::decode(text).ok()?).ok());
        match hash {
            Some(hash) if is_named && rest[length] == b'\n' => {
                self.at += length + 1;
                Ok(Some(hash))
            }
            _ => Err(garbled("no hash of a file")),
        }
    }

    fn finish(&self, place: &str) -> Result<(), StepError> {
        if matches!(self.stage, Stage::Count) && self.buffer.len() == self.at {
            return Ok(());
        }
        Err(StepError::transient(format!("the listing of {place} ended too early")))
    }
}

fn facts(line: &[u8]) -> Option<Facts> {
    let mut fields = std::str::from_utf8(line).ok()?.split(' ');
    let mode = u32::from_str_radix(fields.next()?, 16).ok()?;
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let size = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some(Facts { mode, uid, gid, size, content: [0; 32] })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn garbled(what: &str) -> StepError {
    StepError::permanent(format!("failed to understand the listing: {what}"))
        .with_hint("the container's `stat` and `sha256sum` must behave like GNU's or BusyBox's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    fn config(directory: &Path) -> Files {
        serde_json::from_value(serde_json::json!({
            "namespace": "shop", "pod": "files-0", "directory": directory.to_str().unwrap(), "exclude": ["cache/*"],
        }))
        .unwrap()
    }

    /// Lists with this machine's own tools, the output cut into pieces of `piece` bytes.
    fn list(directory: &Path, side: Side, comparison: &mut Comparison, piece: usize) {
        for batch in [OTHERS, FILES] {
            let command = config(directory).command(batch);
            let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut listing = Listing::new(batch == FILES);
            for bytes in output.stdout.chunks(piece) {
                listing.push(bytes, |path, facts| comparison.take(side, path, facts)).unwrap();
            }
            listing.finish("here").unwrap();
        }
    }

    fn compare(source: &Path, target: &Path) -> FilesResult {
        let mut comparison = Comparison::new("uploads", "/data");
        list(source, Side::Source, &mut comparison, 7);
        list(target, Side::Target, &mut comparison, 100_000);
        comparison.finish()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        for name in [
            "a.bin",
            "-rf",
            "two\nlines",
            "with space",
            "back\\slash",
            "sub/ü",
            "cr\r",
            "cache/skipped",
            "lost+found/x",
        ] {
            write(name, name);
        }
        std::os::unix::fs::symlink("no where\n", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        dir
    }

    #[test]
    fn equal_trees_with_odd_names_are_equal() {
        let (source, target) = (tree(), tree());
        std::fs::write(target.path().join("cache/other"), "not compared").unwrap();
        std::fs::remove_dir_all(target.path().join("lost+found")).unwrap();
        let result = compare(source.path(), target.path());
        assert_eq!(result.named, []);
        assert_eq!((result.differences, result.owner_differences), (0, 0));
        assert_eq!((result.source.files, result.source.others), (7, 4));
        assert_eq!(result.source, result.target);
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(json["source"]["sum"].as_str().unwrap().len(), 64);
        assert_eq!(serde_json::from_value::<FilesResult>(json).unwrap(), result);
    }

    #[test]
    fn every_difference_is_named() {
        let (source, target) = (tree(), tree());
        std::fs::write(target.path().join("a.bin"), "b.bin").unwrap();
        std::fs::write(target.path().join("-rf"), "longer").unwrap();
        std::fs::remove_file(target.path().join("two\nlines")).unwrap();
        std::fs::write(target.path().join("extra"), "").unwrap();
        std::fs::remove_file(target.path().join("link")).unwrap();
        std::os::unix::fs::symlink("elsewhere", target.path().join("link")).unwrap();
        let path = target.path().join("with space");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let result = compare(source.path(), target.path());
        assert_ne!(result.source.digest(), result.target.digest());
        let lines: Vec<_> = result
            .named
            .iter()
            .map(|d| format!("{} {}: {:.12} {:.12}", d.path, d.what, d.source, d.target))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
        assert_eq!(result.differences, 6);
    }

    #[test]
    fn unescaped_names_are_understood_too() {
        let mut listing = Listing::new(true);
        let hash = "0".repeat(64);
        let text = format!("2\0./a\nb\0./c\x0081a4 0 0 3\n81a4 0 0 4\n{hash}  ./a\nb\n{hash}  ./c\n");
        let mut seen = Vec::new();
        listing
            .push(text.as_bytes(), |path, facts| {
                seen.push((path.to_vec(), facts.size));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(b"a\nb".to_vec(), 3), (b"c".to_vec(), 4)]);
        listing.finish("here").unwrap();
    }

    #[test]
    fn garbled_or_cut_listings_are_no_success() {
        let push = |text: &str| Listing::new(true).push(text.as_bytes(), |_, _| Ok(()));
        assert!(push("x\0").is_err() && push("0\0").is_err());
        assert!(push("1\0./a\0nonsense\n").is_err());
        assert!(push(&format!("1\0./a\x0081a4 0 0 1\n{}  ./a\n", "z".repeat(64))).is_err());
        assert!(push(&format!("1\0./a\x0081a4 0 0 1\n{}  ./b\n", "0".repeat(64))).is_err());
        let mut cut = Listing::new(true);
        cut.push(b"1\0./a\x0081a4 0 0 1\n", |_, _| Ok(())).unwrap();
        assert!(cut.finish("here").is_err());
    }

    #[test]
    fn owners_are_told_apart_from_contents() {
        let facts = Facts { mode: REGULAR | 0o644, uid: 0, gid: 0, size: 1, content: [1; 32] };
        let mut comparison = Comparison::new("a", "/data");
        comparison.take(Side::Target, b"a", Facts { uid: 999, ..facts }).unwrap();
        comparison.take(Side::Source, b"a", facts).unwrap();
        let result = comparison.finish();
        assert_eq!((result.differences, result.owner_differences), (0, 1));
        assert_eq!(result.owner_named.unwrap().target, "999:0");
        assert_eq!(result.source.sum, result.target.sum);
    }
}
