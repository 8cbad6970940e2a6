//! The data of the estate: what the seeded shop holds beside its rows.
//!
//! Pure. Everything is a function of constants, so that a test can know each hash beforehand.

use aws_lc_rs::digest::{Context, SHA256};
use miette::{IntoDiagnostic, Result};
use tar::{EntryType, Header};

/// The estate's manifests in the order in which they are applied.
pub const MANIFESTS: [&str; 5] = [
    include_str!("../estate/10-cluster.yaml"),
    include_str!("../estate/20-shop.yaml"),
    include_str!("../estate/30-postgres.yaml"),
    include_str!("../estate/40-files.yaml"),
    include_str!("../estate/50-web.yaml"),
];
/// Makes and fills the shop's tables.
pub const ORDERS_SQL: &str = include_str!("../estate/orders.sql");
/// The namespace of all of it.
pub const NAMESPACE: &str = "shop";

/// Size of the archive beside the database: 256 MiB.
pub const ARCHIVE_BYTES: u64 = 256 * 1024 * 1024;
/// Where the archive is in the database's pod.
pub const ARCHIVE: &str = "/var/lib/postgresql/data/archive/orders-2023.bin";

/// Ordinary small files of the uploads.
const UPLOADS: u64 = 300;
/// The largest of them has fewer bytes than this.
const UPLOAD_BYTES_MAX: u64 = 48 * 1024;
/// When all uploads were changed last: 2025-01-01.
const UPLOADED: u64 = 1_735_689_600;
/// Owner of the uploads: no user of the image, so that only numbers can carry it over.
const OWNER: (u64, u64) = (1000, 2000);

/// An endless stream of bytes from a seed (SplitMix64). Doesn't compress, needs no key, and is the
/// same on every machine.
pub struct Noise {
    state: u64,
}

impl Noise {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next `length` bytes; a multiple of eight keeps the stream gapless.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// The archive in pieces of 1 MiB.
pub fn archive() -> impl Iterator<Item = Vec<u8>> {
    const PIECE: u64 = 1024 * 1024;
    let mut noise = Noise::new(2023);
    (0..ARCHIVE_BYTES / PIECE).map(move |_| noise.bytes(PIECE as usize))
}

/// SHA-256 of the archive, hex.
pub fn archive_sha256() -> String {
    let mut context = Context::new(&SHA256);
    for piece in archive() {
        context.update(&piece);
    }
    hex::encode(context.finish())
}

/// Files whose names, modes or kinds have broken copiers before: path, mode, content.
fn odd_files() -> Vec<(String, u32, &'static [u8])> {
    vec![
        ("odd/with space.txt".to_owned(), 0o644, b"space"),
        ("odd/ünïcödé-☂.txt".to_owned(), 0o644, "☂".as_bytes()),
        ("odd/quote's \"double\".txt".to_owned(), 0o640, b"quotes"),
        ("odd/back\\slash".to_owned(), 0o644, b"backslash"),
        ("odd/-starts-with-dash".to_owned(), 0o600, b"dash"),
        ("odd/.hidden".to_owned(), 0o644, b"hidden"),
        ("odd/percent%20encoded".to_owned(), 0o644, b"percent"),
        ("odd/dollar$HOME;semi&and".to_owned(), 0o644, b"shell"),
        ("odd/ends-with-dot.".to_owned(), 0o644, b"dot"),
        (format!("odd/{}", "long".repeat(50)), 0o444, b"long"),
        ("odd/empty".to_owned(), 0o644, b""),
        ("odd/program.sh".to_owned(), 0o755, b"#!/bin/sh\necho shop\n"),
    ]
}

/// The uploads as a tar: a few hundred small files, odd names and modes, links and an empty folder.
///
/// # Errors
/// Never in practice: it is written to memory.
pub fn uploads() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut noise = Noise::new(7);
    for folder in ["odd", "empty-folder", "2024", "2025"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), format!("{folder}/"), &b""[..])
            .into_diagnostic()?;
    }
    for n in 0..UPLOADS {
        let length = (n * 2_654_435_761 % UPLOAD_BYTES_MAX) as usize;
        let content = noise.bytes(length);
        let path = format!("{}/upload-{n:04}.bin", 2024 + n % 2);
        tar.append_data(&mut header(EntryType::Regular, 0o644, length), path, content.as_slice())
            .into_diagnostic()?;
    }
    for (path, mode, content) in odd_files() {
        tar.append_data(&mut header(EntryType::Regular, mode, content.len()), path, content)
            .into_diagnostic()?;
    }
    for (path, target) in [("odd/link", "../2024/upload-0000.bin"), ("odd/dangling-link", "nowhere")] {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target).into_diagnostic()?;
    }
    tar.into_inner().into_diagnostic()
}

fn header(kind: EntryType, mode: u32, length: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length as u64);
    header.set_mtime(UPLOADED);
    header.set_uid(OWNER.0);
    header.set_gid(OWNER.1);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_gapless_and_of_its_seed() {
        let mut pieces = Noise::new(1);
        let mut joined = pieces.bytes(16);
        joined.extend(pieces.bytes(16));
        assert_eq!(joined, Noise::new(1).bytes(32));
        assert_ne!(Noise::new(1).bytes(32), Noise::new(2).bytes(32));
        // SplitMix64's published first value for seed 0.
        assert_eq!(Noise::new(0).next(), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn uploads_are_the_same_every_time() {
        assert_eq!(uploads().unwrap(), uploads().unwrap());
        let tar = uploads().unwrap();
        let count = tar::Archive::new(tar.as_slice()).entries().unwrap().count();
        assert_eq!(count as u64, UPLOADS + 4 + odd_files().len() as u64 + 2);
    }

    #[test]
    fn manifests_are_yaml_and_pull_only_from_ecr() {
        for manifest in MANIFESTS {
            for document in serde_yaml_ng::Deserializer::from_str(manifest) {
                let value: serde_json::Value = serde::Deserialize::deserialize(document).unwrap();
                assert!(value["kind"].is_string(), "{value}");
            }
            for line in manifest.lines().filter(|l| l.trim().starts_with("image:")) {
                assert!(line.contains(crate::services::ECR_HOST), "{line}");
            }
        }
    }
}
