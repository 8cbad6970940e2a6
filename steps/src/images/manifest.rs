//! Manifests and indexes, OCI and Docker. The bytes are kept as they came, so that digests stay
//! the same; parsing only looks.

use std::collections::BTreeMap;

use bytes::Bytes;
use migrate_plugin_api::StepError;
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// OCI image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
#[cfg(test)]
/// Docker's index.
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
#[cfg(test)]
/// Docker's image manifest, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Every type that we can read; a registry converts or refuses what is not accepted.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json";

/// The specification lets registries refuse larger ones; distribution does.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// Annotation of an index entry with the reference it stands for.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A platform, as in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The rest (`os.version`, …), kept when an index is written again.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

impl Platform {
    /// `linux/arm64/v8`.
    pub(crate) fn label(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
            None => format!("{}/{}", self.os, self.architecture),
        }
    }
}

/// A reference to content by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A bare descriptor.
    pub(crate) fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            artifact_type: None,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Layers that their licence keeps on the vendor's own servers (Windows base layers):
    /// registries accept manifests without them, and clients fetch them from `urls`.
    pub(crate) fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            && (self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign."))
    }
}

/// What a manifest refers to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// Manifests below, of an index.
    pub manifests: Vec<Descriptor>,
    /// Config and layers, without foreign layers.
    pub blobs: Vec<Descriptor>,
    /// The config alone, if it is an image's.
    pub config: Option<Descriptor>,
    /// The manifest that this one is about.
    pub subject: Option<Descriptor>,
    /// What kind of thing it is, for a list of referrers.
    pub artifact_type: Option<String>,
    /// Annotations, for a list of referrers.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index with its exact bytes.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Bytes,
    pub parts: Parts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of the artifact manifest that was dropped before OCI 1.1 came out.
    #[serde(default)]
    blobs: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads `bytes`. `name` is only for messages; `media_type` is what the registry or the parent
    /// said, which counts only where the bytes don't say.
    ///
    /// # Errors
    /// `Corrupt` when the bytes have not the digest `expected`, `Permanent` when it is no manifest
    /// that can be copied.
    pub(crate) fn read(
        name: &str,
        media_type: &str,
        bytes: Bytes,
        expected: Option<&Digest>,
    ) -> Result<Self, StepError> {
        let digest = match expected {
            Some(expected) => {
                let mut hasher = expected.hasher();
                hasher.update(&bytes);
                let found = hasher.finish();
                if found != *expected {
                    return Err(StepError::corrupt(format!(
                        "manifest {name} has digest {found} instead of {expected}"
                    )));
                }
                found
            }
            None => Digest::of(&bytes),
        };
        let raw: Raw = serde_json::from_slice(&bytes)
            .map_err(|e| StepError::permanent(format!("manifest {name} can't be read")).with_source(e))?;
        if raw.schema_version == 1 {
            return Err(StepError::permanent(format!("image {name} has a Docker schema 1 manifest"))
                .with_hint("that format is obsolete and ACR refuses it: build or push the image again with a current client"));
        }
        let media_type = match &raw.media_type {
            Some(media_type) => media_type.clone(),
            None if !media_type.is_empty() => media_type.to_owned(),
            // Only OCI's own may leave it out.
            None if raw.manifests.is_some() => OCI_INDEX.to_owned(),
            None => OCI_MANIFEST.to_owned(),
        };
        Ok(Self { media_type, digest, bytes, parts: Parts::of(raw) })
    }

    /// The descriptor of these bytes.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.bytes.len() as u64)
    }

    /// The descriptor under which a list of referrers shows it.
    pub(crate) fn as_referrer(&self) -> Descriptor {
        Descriptor {
            artifact_type: self.parts.artifact_type.clone(),
            annotations: self.parts.annotations.clone(),
            ..self.descriptor()
        }
    }
}

impl Parts {
    fn of(raw: Raw) -> Self {
        let image_config = raw
            .config
            .clone()
            .filter(|c| c.media_type.contains("image.config") || c.media_type.contains("container.image"));
        let artifact_type = raw.artifact_type.or_else(|| raw.config.as_ref().map(|c| c.media_type.clone()));
        let blobs = raw.config.into_iter().chain(raw.layers).chain(raw.blobs);
        Self {
            manifests: raw.manifests.unwrap_or_default(),
            blobs: blobs.filter(|blob| !blob.is_foreign()).collect(),
            config: image_config,
            subject: raw.subject,
            artifact_type,
            annotations: raw.annotations.unwrap_or_default(),
        }
    }
}

/// An index, as in `index.json` and the referrers tag schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// Of `manifests`.
    pub(crate) fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_image_leave_out_foreign_layers() {
        let digest = |c: char| format!("sha256:{}", String::from(c).repeat(64));
        let bytes = serde_json::json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest('a'), "size": 1 },
            "layers": [
                { "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest('b'), "size": 2,
                  "urls": ["https://vendor.example/layer"] },
                { "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": digest('c'), "size": 3 },
            ],
        });
        let bytes = Bytes::from(serde_json::to_vec(&bytes).unwrap());
        let manifest = Manifest::read("a:1", "text/plain", bytes.clone(), None).unwrap();
        assert_eq!(manifest.media_type, DOCKER_MANIFEST);
        assert_eq!(manifest.parts.blobs.iter().map(|b| b.size).collect::<Vec<_>>(), [1, 3]);
        assert!(manifest.parts.config.is_some());

        let wrong = Digest::of(b"other");
        let error = Manifest::read("a:1", "", bytes, Some(&wrong)).unwrap_err();
        assert_eq!(error.class, migrate_plugin_api::ErrorClass::Corrupt);
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        let bytes = Bytes::from_static(br#"{"schemaVersion":1,"name":"a"}"#);
        let error = Manifest::read("shop/old:1", "", bytes, None).unwrap_err();
        insta::assert_snapshot!(error, @"image shop/old:1 has a Docker schema 1 manifest");
    }
}
