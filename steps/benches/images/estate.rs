//! The images: 20 that share a base, with five middles among them and a top each, and one large.
//! Every byte is random by a seed, so that nothing compresses and every machine has the same.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::Result;
use crate::registry::Server;

const MIB: usize = 1024 * 1024;
const BASE_MIB: usize = 60;
const MIDDLE_MIB: usize = 20;
const TOP_MIB: usize = 5;
const LARGE_MIB: usize = 1024;
const SHARING: u64 = 20;
const MIDDLES: u64 = 5;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The tag of every image.
pub const TAG: &str = "1";

/// A blob by what it is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Recipe {
    seed: u64,
    mib: usize,
}

/// One image and its layers.
pub struct Image {
    pub repository: String,
    layers: Vec<Recipe>,
}

/// All of it.
pub struct Estate {
    pub images: Vec<Image>,
    scale: usize,
    /// Every blob once with a repository that has it: digest and size.
    pub blobs: Vec<(String, String, usize)>,
}

impl Estate {
    pub fn new(small: bool) -> Self {
        let base = Recipe { seed: 1, mib: BASE_MIB };
        let sharing = (0..SHARING).map(|at| Image {
            repository: format!("bench/app{at:02}"),
            layers: vec![
                base,
                Recipe { seed: 10 + at % MIDDLES, mib: MIDDLE_MIB },
                Recipe { seed: 100 + at, mib: TOP_MIB },
            ],
        });
        let large =
            Image { repository: "bench/large".to_owned(), layers: vec![Recipe { seed: 2, mib: LARGE_MIB }] };
        let scale = if small { MIB / 100 } else { MIB };
        Self { images: sharing.chain([large]).collect(), scale, blobs: Vec::new() }
    }

    /// The repository of the largest image and the bytes of its layer.
    pub fn large(&self) -> Option<(String, u64)> {
        let image = self.images.last()?;
        let layer = image.layers.first()?;
        Some((image.repository.clone(), (layer.mib * self.scale) as u64))
    }

    pub fn to_json(&self) -> Value {
        let bytes: usize = self.blobs.iter().map(|(_, _, size)| size).sum();
        json!({ "images": self.images.len(), "blobs": self.blobs.len(), "unique-bytes": bytes })
    }

    /// Fills `server`, and remembers what is in it. What is there already stays.
    pub async fn store(&mut self, server: &Server) -> Result<()> {
        let mut known = Vec::new();
        for at in 0..self.images.len() {
            let (manifest, blobs) = self.manifest(at, None);
            for (bytes, digest) in blobs {
                let repository = &self.images[at].repository;
                if !known.contains(&digest) {
                    self.blobs.push((repository.clone(), digest.clone(), bytes.len()));
                    known.push(digest.clone());
                }
                server.put_blob(repository, &digest, bytes).await?;
            }
            server.put_manifest(&self.images[at].repository, TAG, manifest).await?;
        }
        Ok(())
    }

    /// Gives one image of 21 (5 %) another top, or all of them what they were made with.
    pub async fn change(&self, server: &Server, changed: bool) -> Result<()> {
        let (manifest, blobs) = self.manifest(0, changed.then_some(Recipe { seed: 999, mib: TOP_MIB }));
        for (bytes, digest) in blobs {
            server.put_blob(&self.images[0].repository, &digest, bytes).await?;
        }
        server.put_manifest(&self.images[0].repository, TAG, manifest).await
    }

    fn manifest(&self, at: usize, top: Option<Recipe>) -> (Bytes, Vec<(Bytes, String)>) {
        let image = &self.images[at];
        let mut layers = image.layers.clone();
        if let (Some(top), Some(last)) = (top, layers.last_mut()) {
            *last = top;
        }
        let config = json!({ "architecture": "amd64", "os": "linux", "config": {}, "bench": image.repository,
            "rootfs": { "type": "layers", "diff_ids": [] } });
        let mut blobs = vec![with_digest(Bytes::from(config.to_string()))];
        blobs.extend(layers.iter().map(|recipe| with_digest(noise(recipe.seed, recipe.mib * self.scale))));
        let descriptor = |kind: &str, (bytes, digest): &(Bytes, String)| json!({ "mediaType": kind, "digest": digest, "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &blobs[0]),
            "layers": blobs[1..].iter().map(|blob| descriptor(LAYER, blob)).collect::<Vec<_>>(),
        });
        (Bytes::from(manifest.to_string()), blobs)
    }
}

/// `sha256:…` of `bytes`.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}

fn with_digest(bytes: Bytes) -> (Bytes, String) {
    let digest = digest_of(&bytes);
    (bytes, digest)
}

/// `len` bytes that don't compress and differ by `seed`.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
