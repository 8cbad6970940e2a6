//! Images as OCI layouts on disk: one platform or an index of several, with referrers.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::{Value, json};

use super::{Key, Rootfs, sha256};

/// Part of every cache key: raise it when the same spec shall give another image.
const BUILDER: &[u8] = b"1";
/// All images are of one moment, so that their digests don't depend on when they were made.
const CREATED: &str = "2025-01-01T00:00:00Z";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// An image to build.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Name with its tag and without a registry: `shop/web:1.0`.
    pub name: String,
    /// One makes a plain manifest, several make an index.
    pub platforms: Vec<Platform>,
    /// What refers to the image through `subject`.
    pub referrers: Vec<Artifact>,
}

/// The image for one platform.
#[derive(Debug, Clone)]
pub struct Platform {
    /// `amd64`, `arm64`; the system is always Linux.
    pub architecture: String,
    /// Its files, one layer.
    pub rootfs: Rootfs,
    /// How it runs.
    pub run: RunConfig,
}

/// How a container of the image runs by default.
#[derive(Debug, Clone, Default)]
pub struct RunConfig {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
}

/// An artifact that refers to the image: an SBOM, a signature.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// `artifactType`, also the type of the content.
    pub kind: String,
    /// The content.
    pub content: Vec<u8>,
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// As in the spec.
    pub name: String,
    /// Its OCI layout. `index.json` names the image first, then its referrers.
    pub layout: PathBuf,
    /// The layout as a tar, for `ctr images import`.
    pub archive: PathBuf,
    /// Digest of the manifest or index.
    pub digest: String,
}

impl ImageSpec {
    /// An image for this machine's platform only.
    pub fn single(name: &str, rootfs: Rootfs, run: RunConfig) -> Self {
        let platform = Platform { architecture: "amd64".to_owned(), rootfs, run };
        Self { name: name.to_owned(), platforms: vec![platform], referrers: Vec::new() }
    }

    fn key(&self) -> Result<String> {
        let mut key = Key::new();
        key.part(BUILDER);
        key.part(self.name.as_bytes());
        for platform in &self.platforms {
            key.part(platform.config(&[]).to_string().as_bytes());
            platform.rootfs.add_to(&mut key)?;
        }
        for artifact in &self.referrers {
            key.part(artifact.kind.as_bytes());
            key.part(&artifact.content);
        }
        Ok(key.finish())
    }
}

impl Platform {
    fn config(&self, diff_ids: &[&str]) -> Value {
        json!({
            "created": CREATED,
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Env": self.run.env,
                "Entrypoint": self.run.entrypoint,
                "Cmd": self.run.cmd,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": [{ "created": CREATED, "created_by": "sandbox" }],
        })
    }
}

/// Builds `spec` into `images`, or finds it there. Blocks.
///
/// `registry` is the name under which `ctr images import` makes the image known (`docker.io`,
/// `registry.k8s.io`); it has no part in the digest.
///
/// # Errors
/// When an input can't be read or the folder can't be written.
pub fn build(images: &Path, registry: &str, spec: &ImageSpec) -> Result<Built> {
    let key = spec.key().wrap_err_with(|| format!("failed to build image {}", spec.name))?;
    let stem = spec.name.replace(['/', ':'], "_");
    let layout = images.join(format!("{stem}-{}", &key[..16]));
    let archive = images.join(format!("{stem}-{}.tar", &key[..16]));
    if !archive.exists() {
        make(images, registry, spec, &layout, &archive)
            .wrap_err_with(|| format!("failed to build image {}", spec.name))?;
    }
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).into_diagnostic()?).into_diagnostic()?;
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .ok_or_else(|| miette!("{} has no image in it", layout.display()))?
        .to_owned();
    Ok(Built { name: spec.name.clone(), layout, archive, digest })
}

/// Writes the layout, then the archive; the archive's last rename says that both are complete.
fn make(images: &Path, registry: &str, spec: &ImageSpec, layout: &Path, archive: &Path) -> Result<()> {
    if layout.exists() {
        fs::remove_dir_all(layout).into_diagnostic()?;
    }
    fs::create_dir_all(layout.join("blobs/sha256")).into_diagnostic()?;
    let store = Store { folder: layout };
    let mut manifests = Vec::new();
    for platform in &spec.platforms {
        manifests.push(store.platform(platform)?);
    }
    let mut root = match manifests.as_slice() {
        [only] => only.clone(),
        _ => {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            store.json(INDEX, &index)?
        }
    };
    let subject = json!({ "mediaType": root["mediaType"], "digest": root["digest"], "size": root["size"] });
    root["annotations"] = json!({ "io.containerd.image.name": format!("{registry}/{}", spec.name) });
    let mut entries = vec![root];
    for artifact in &spec.referrers {
        entries.push(store.artifact(artifact, &subject)?);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    fs::write(layout.join("index.json"), index.to_string()).into_diagnostic()?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).into_diagnostic()?;

    let unfinished = tempfile::NamedTempFile::new_in(images).into_diagnostic()?;
    let mut tar = tar::Builder::new(unfinished);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_path_with_name(layout.join("oci-layout"), "oci-layout").into_diagnostic()?;
    // containerd would import a referrer as an image without a name: only the image goes in.
    let only = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [index["manifests"][0]] });
    let only = only.to_string().into_bytes();
    let mut header = tar::Header::new_gnu();
    header.set_size(only.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "index.json", only.as_slice()).into_diagnostic()?;
    tar.append_dir_all("blobs", layout.join("blobs")).into_diagnostic()?;
    tar.into_inner().into_diagnostic()?.persist(archive).into_diagnostic()?;
    Ok(())
}

struct Store<'a> {
    folder: &'a Path,
}

impl Store<'_> {
    /// Stores a blob and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = sha256(bytes);
        let path = self.folder.join("blobs").join(digest.replace(':', "/"));
        fs::write(&path, bytes)
            .into_diagnostic()
            .wrap_err_with(|| format!("can't write {}", path.display()))?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    fn json(&self, media_type: &str, value: &Value) -> Result<Value> {
        self.blob(media_type, value.to_string().as_bytes())
    }

    fn platform(&self, platform: &Platform) -> Result<Value> {
        let layer = platform.rootfs.layer()?;
        let config = self.json(CONFIG, &platform.config(&[&layer.diff_id]))?;
        let layer = self.blob(LAYER, &layer.blob)?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let mut descriptor = self.json(MANIFEST, &manifest)?;
        descriptor["platform"] = json!({ "architecture": platform.architecture, "os": "linux" });
        Ok(descriptor)
    }

    fn artifact(&self, artifact: &Artifact, subject: &Value) -> Result<Value> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact.kind,
            "config": self.blob(EMPTY, b"{}")?,
            "layers": [self.blob(&artifact.kind, &artifact.content)?],
            "subject": subject,
        });
        let mut descriptor = self.json(MANIFEST, &manifest)?;
        descriptor["artifactType"] = json!(artifact.kind);
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ImageSpec {
        let platform = |architecture: &str| Platform {
            architecture: architecture.to_owned(),
            rootfs: Rootfs::new().file("program", 0o755, architecture),
            run: RunConfig { entrypoint: vec!["/program".to_owned()], ..RunConfig::default() },
        };
        ImageSpec {
            name: "team/app:1".to_owned(),
            platforms: vec![platform("amd64"), platform("arm64")],
            referrers: vec![Artifact { kind: "application/spdx+json".to_owned(), content: b"{}".to_vec() }],
        }
    }

    #[test]
    fn an_image_is_built_once_and_the_same_everywhere() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = build(here.path(), "docker.io", &spec()).unwrap();
        let made = fs::metadata(&first.archive).unwrap().modified().unwrap();
        assert_eq!(build(here.path(), "docker.io", &spec()).unwrap(), first);
        assert_eq!(fs::metadata(&first.archive).unwrap().modified().unwrap(), made);
        assert_eq!(build(there.path(), "docker.io", &spec()).unwrap().digest, first.digest);
        let mut other = spec();
        other.platforms[0].run.cmd.push("--fast".to_owned());
        assert_ne!(build(here.path(), "docker.io", &other).unwrap().digest, first.digest);
    }

    #[test]
    fn a_referrer_names_the_index_as_its_subject() {
        let folder = tempfile::tempdir().unwrap();
        let built = build(folder.path(), "docker.io", &spec()).unwrap();
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let index = read(built.layout.join("index.json"));
        assert_eq!(index["manifests"][0]["mediaType"], INDEX);
        let referrer = index["manifests"][1]["digest"].as_str().unwrap();
        let manifest = read(built.layout.join("blobs").join(referrer.replace(':', "/")));
        assert_eq!(manifest["subject"]["digest"], built.digest);
    }
}
