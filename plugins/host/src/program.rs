//! The file of a plugin, and that it stays what it was.

use std::fmt;
use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::limits::MAX_PROGRAM_BYTES;

/// SHA-256 of a file, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProgramDigest(String);

impl ProgramDigest {
    /// The digest of the file at `path`.
    ///
    /// # Errors
    /// When it can't be read, or is larger than any program.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut file = std::fs::File::open(path)?.take(MAX_PROGRAM_BYTES + 1);
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        let mut read = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self(hex::encode(context.finish())));
            }
            read += count as u64;
            if read > MAX_PROGRAM_BYTES {
                return Err(std::io::Error::other(format!("larger than {MAX_PROGRAM_BYTES} bytes")));
            }
            context.update(&buffer[..count]);
        }
    }

    /// As much of it as people compare.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProgramDigest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.to_ascii_lowercase();
        let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest { Ok(Self(text)) } else { Err("a SHA-256 has 64 hexadecimal digits") }
    }
}

impl From<ProgramDigest> for String {
    fn from(digest: ProgramDigest) -> String {
        digest.0
    }
}

impl fmt::Display for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plugin's file with its digest. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    digest: ProgramDigest,
    /// As it was when it had that digest.
    seen: Arc<Mutex<Option<Stamp>>>,
}

/// What changes with a file's content, as far as can be told without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Program {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn read(path: PathBuf) -> std::io::Result<Self> {
        // Looked at first: a change in between is seen as one.
        let stamp = Stamp::of(&std::fs::metadata(&path)?);
        let digest = ProgramDigest::of_file(&path)?;
        Ok(Self { path, digest, seen: Arc::new(Mutex::new(Some(stamp))) })
    }

    pub(crate) fn digest(&self) -> &ProgramDigest {
        &self.digest
    }

    /// Makes sure that it is still the same file.
    ///
    /// # Errors
    /// What is wrong, completing "plugin `x` …".
    pub(crate) fn unchanged(&self) -> Result<(), String> {
        let shown = self.path.display();
        let gone = |error| format!("can't be read any more: {shown}: {error}");
        let stamp = Stamp::of(&std::fs::metadata(&self.path).map_err(gone)?);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == Some(stamp) {
            return Ok(());
        }
        let now = ProgramDigest::of_file(&self.path).map_err(gone)?;
        if now != self.digest {
            let (was, now) = (self.digest.short(), now.short());
            return Err(format!("has changed since this command began: {shown} was {was} and is {now}"));
        }
        *seen = Some(stamp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_told_and_a_touched_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, "one").unwrap();
        let program = Program::read(path.clone()).unwrap();
        assert_eq!(program.digest().short(), "7692c3ad3540");
        program.unchanged().unwrap();
        std::fs::write(&path, "one").unwrap();
        program.unchanged().unwrap();
        std::fs::write(&path, "two").unwrap();
        let told = program.unchanged().unwrap_err();
        assert!(told.ends_with("was 7692c3ad3540 and is 3fc4ccfe7458"), "{told}");
    }
}
