//! Builds container images without Docker, and pushes them.
//!
//! An image is a function of its [`ImageSpec`]: paths are sorted, times and owners fixed, so the
//! same inputs give the same digests on every machine. What is built stays in the cache under a
//! key of those inputs. Never runs anything inside an image and never needs root.

mod debs;
mod image;
mod push;
mod rootfs;

pub use debs::debs;
pub use image::{Artifact, Built, ImageSpec, Platform, RunConfig, build};
pub use push::{ANY_MANIFEST, Registry, Repository, push};
pub use rootfs::Rootfs;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// `sha256:…` of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}

/// SHA-256 of parts, each with its length in front, so that no two lists of parts collide.
struct Key(Context);

impl Key {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> String {
        hex::encode(self.0.finish())
    }
}
