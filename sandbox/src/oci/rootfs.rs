//! The file tree of an image, and the layer made of it.
//!
//! Owns path normalisation: the tree is always usr-merged (`/bin` → `usr/bin`, …), however a
//! Debian package spells its paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};
use tar::{EntryType, Header};

use super::{Key, sha256};

/// Top-level folders that a usr-merged system has as links.
const MERGED: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

/// What no image here needs of a Debian package.
const SKIPPED: [&str; 7] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/lib/postgresql/15/lib/bitcode/",
];

#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    /// A file of this machine, read when the layer is made.
    Host(PathBuf),
}

#[derive(Debug, Clone)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: String },
}

/// A file tree in the making. Everything belongs to root.
#[derive(Debug, Clone)]
pub struct Rootfs {
    nodes: BTreeMap<String, Node>,
    debs: Vec<PathBuf>,
}

/// A finished layer.
pub(super) struct Layer {
    /// The gzip-compressed tar.
    pub blob: Vec<u8>,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
}

impl Rootfs {
    /// An empty usr-merged tree with `/tmp` and the users root, postgres and nobody.
    pub fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), debs: Vec::new() };
        for name in MERGED {
            tree.nodes.insert(name.to_owned(), Node::Link { target: format!("usr/{name}") });
            tree.nodes.insert(format!("usr/{name}"), Node::Directory { mode: 0o755 });
        }
        tree.directory("tmp", 0o1777)
            .directory("root", 0o700)
            .directory("run", 0o755)
            .link("var/run", "/run")
            .file(
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
            )
            .file("etc/group", 0o644, "root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n")
            .file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
    }

    /// Adds a folder; its parents come by themselves.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.nodes.insert(normal(path), Node::Directory { mode });
        self
    }

    /// Adds a file with `content`.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.nodes.insert(normal(path), Node::File { mode, content: Content::Bytes(content.into()) });
        self
    }

    /// Adds the file `host` of this machine as the program `path`.
    #[must_use]
    pub fn program(mut self, path: &str, host: &Path) -> Self {
        self.nodes.insert(normal(path), Node::File { mode: 0o755, content: Content::Host(host.to_owned()) });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.nodes.insert(normal(path), Node::Link { target: target.to_owned() });
        self
    }

    /// Adds a static busybox with the given applets as links.
    #[must_use]
    pub fn busybox(mut self, host: &Path, applets: &[String]) -> Self {
        self = self.program("bin/busybox", host);
        for applet in applets {
            self = self.link(&format!("bin/{applet}"), "busybox");
        }
        self
    }

    /// Adds the files of Debian packages. What was added by hand wins over them.
    #[must_use]
    pub fn packages(mut self, debs: Vec<PathBuf>) -> Self {
        self.debs.extend(debs);
        self
    }

    /// Adds what decides about the layer to `key`.
    pub(super) fn add_to(&self, key: &mut Key) -> Result<()> {
        for (path, node) in &self.nodes {
            key.part(path.as_bytes());
            match node {
                Node::Directory { mode } => key.part(format!("directory {mode:o}").as_bytes()),
                Node::Link { target } => key.part(format!("link {target}").as_bytes()),
                Node::File { mode, content } => {
                    key.part(format!("file {mode:o}").as_bytes());
                    key.part(sha256(&content.read()?).as_bytes());
                }
            }
        }
        for deb in &self.debs {
            key.part(sha256(&read(deb)?).as_bytes());
        }
        Ok(())
    }

    /// Makes the layer.
    pub(super) fn layer(&self) -> Result<Layer> {
        let mut nodes = BTreeMap::new();
        for deb in &self.debs {
            unpack(deb, &mut nodes).wrap_err_with(|| format!("failed to unpack {}", deb.display()))?;
        }
        nodes.extend(self.nodes.clone());
        add_parents(&mut nodes);
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in &nodes {
            append(&mut tar, path, node)?;
        }
        let tar = tar.into_inner().into_diagnostic()?;
        let diff_id = sha256(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).into_diagnostic()?;
        Ok(Layer { blob: gzip.finish().into_diagnostic()?, diff_id })
    }
}

impl Content {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::Host(path) => read(path),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).into_diagnostic().wrap_err_with(|| format!("failed to read {}", path.display()))
}

/// `/lib/x` → `usr/lib/x`; no leading `./` or `/`, no trailing `/`.
fn normal(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) { format!("usr/{path}") } else { path.to_owned() }
}

fn add_parents(nodes: &mut BTreeMap<String, Node>) {
    let paths: Vec<String> = nodes.keys().cloned().collect();
    for path in paths {
        let mut parent = Path::new(&path).parent();
        while let Some(folder) = parent.and_then(Path::to_str).filter(|p| !p.is_empty()) {
            nodes.entry(folder.to_owned()).or_insert(Node::Directory { mode: 0o755 });
            parent = Path::new(folder).parent();
        }
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, node: &Node) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let content = match node {
        Node::Directory { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            Vec::new()
        }
        Node::File { mode, content } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            content.read()?
        }
        Node::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            return tar.append_link(&mut header, path, target).into_diagnostic();
        }
    };
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content.as_slice()).into_diagnostic()
}

/// Reads the files of a Debian package into `nodes`.
fn unpack(deb: &Path, nodes: &mut BTreeMap<String, Node>) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .into_diagnostic()
        .wrap_err("failed to start dpkg-deb")?;
    let stdout = dpkg.stdout.take().ok_or_else(|| miette!("dpkg-deb has no output"))?;
    let mut archive = tar::Archive::new(stdout);
    for entry in archive.entries().into_diagnostic()? {
        let mut entry = entry.into_diagnostic()?;
        let path = normal(&entry.path().into_diagnostic()?.to_string_lossy());
        if path.is_empty() || SKIPPED.iter().any(|s| path.starts_with(s)) {
            continue;
        }
        let mode = entry.header().mode().into_diagnostic()?;
        let target = entry.link_name().into_diagnostic()?.map(|p| p.to_string_lossy().into_owned());
        let node = match (entry.header().entry_type(), target) {
            (EntryType::Directory, _) => Node::Directory { mode },
            (EntryType::Symlink, Some(target)) => Node::Link { target },
            (EntryType::Link, Some(target)) => {
                nodes.get(&normal(&target)).cloned().ok_or_else(|| miette!("{path} links to nothing"))?
            }
            (EntryType::Regular, _) => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).into_diagnostic()?;
                Node::File { mode, content: Content::Bytes(bytes) }
            }
            (kind, _) => bail!("{path} is a {kind:?}, which no image here can hold"),
        };
        nodes.insert(path, node);
    }
    let status = dpkg.wait().into_diagnostic()?;
    if status.success() { Ok(()) } else { bail!("dpkg-deb ended with {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_usr_merged() {
        assert_eq!(normal("./lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(normal("/bin/sh"), "usr/bin/sh");
        assert_eq!(normal("usr/bin/psql"), "usr/bin/psql");
        assert_eq!(normal("library/x/"), "library/x");
        assert_eq!(normal("./"), "");
    }

    #[test]
    fn layers_are_reproducible_and_follow_their_content() {
        let tree = || Rootfs::new().file("b/c", 0o644, "x").link("a", "b/c");
        let first = tree().layer().unwrap();
        assert_eq!(first.diff_id, tree().layer().unwrap().diff_id);
        assert_eq!(sha256(&first.blob), sha256(&tree().layer().unwrap().blob));
        assert_ne!(first.diff_id, tree().file("b/c", 0o644, "y").layer().unwrap().diff_id);
        assert_ne!(first.diff_id, tree().file("b/c", 0o600, "x").layer().unwrap().diff_id);
    }

    #[test]
    fn parents_come_before_children() {
        let layer = Rootfs::new().file("deep/er/file", 0o600, "x").layer().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.blob.as_slice()));
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        let deep: Vec<&String> = paths.iter().filter(|p| p.starts_with("deep")).collect();
        assert_eq!(deep, ["deep", "deep/er", "deep/er/file"]);
    }
}
