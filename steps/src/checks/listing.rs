//! The format in which a container lists files: batches of names, facts and hashes, whatever bytes
//! a name is made of. Pure; never holds more than a batch.

use aws_lc_rs::digest::{SHA256, digest};
use migrate_plugin_api::StepError;

/// A batch is bounded by the kernel's limit for arguments (2 MiB); with their hashes less than this.
const BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// Bits of the file type and of a regular file, in `st_mode`.
pub(super) const TYPE_BITS: u32 = 0o170_000;
pub(super) const REGULAR: u32 = 0o100_000;
pub(super) const LINK: u32 = 0o120_000;
pub(super) const FOLDER: u32 = 0o040_000;

/// What is known of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// Type and permissions, `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of a file's content or a link's target, nothing for others.
    pub content: [u8; 32],
}

/// Understands what the batches print, in whatever pieces it comes.
pub(super) struct Listing {
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
    /// For batches of regular files, or of anything else.
    pub(super) fn new(is_files: bool) -> Self {
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

    /// Takes what has come and hands on every entry that is whole, by its path in the folder.
    ///
    /// # Errors
    /// `Permanent` where it makes no sense; errors of `emit`.
    pub(super) fn push(
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

    /// Makes sure that nothing was cut off.
    ///
    /// # Errors
    /// `Transient` where something was.
    pub(super) fn finish(&self, place: &str) -> Result<(), StepError> {
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
}
