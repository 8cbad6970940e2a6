//! An OCI image layout on disk: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.
//!
//! Owns its folder while it is open for writing (a lock that dies with the process). A blob is
//! there whole and proven, or not at all: it grows in `ingest/`, is hashed on the way, synced,
//! and renamed. `index.json` is replaced in one piece, after what it names. Paths are made of
//! validated digests only, so nothing an image says can lead out of the folder.

use std::fs::File;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use migrate_plugin_api::StepError;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use super::content::{Attached, Content};
use super::digest::{Digest, Hasher};
use super::graph::Image;
use super::manifest::{Descriptor, Index, MAX_MANIFEST_BYTES, Manifest, REF_NAME};
use super::reference::ImageRef;

/// One read or write of a file; large enough that the calls don't count.
const BUFFER_BYTES: usize = 512 * 1024;

/// Version of the layout, as the specification fixes it.
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout.
pub(crate) struct Layout {
    root: PathBuf,
    /// As the person wrote it.
    shown: String,
    index: Mutex<Index>,
    /// Held while open for writing.
    _lock: Option<File>,
}

/// What storing a blob took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It was there already.
    Present,
    /// So many bytes were read from the source; fewer than its size after an interruption.
    Fetched(u64),
}

impl Layout {
    /// Opens a layout to read.
    ///
    /// # Errors
    /// `Permanent` when there is none.
    pub(crate) async fn open(root: PathBuf, shown: &str) -> Result<Self, StepError> {
        let index = read_index(&root).await?.ok_or_else(|| {
            StepError::permanent(format!("there is no image layout at {shown}"))
                .with_hint("`ecr.pull` writes it; run that node first")
        })?;
        Ok(Self { root, shown: shown.to_owned(), index: Mutex::new(index), _lock: None })
    }

    /// Opens a layout to write, making it where there is none.
    ///
    /// # Errors
    /// `Conflict` when another process writes to it.
    pub(crate) async fn open_for_writing(root: PathBuf, shown: &str) -> Result<Self, StepError> {
        let failed = |e: std::io::Error| io(format!("failed to prepare the image layout {shown}"), e);
        for folder in ["blobs/sha256", "blobs/sha512", "ingest"] {
            tokio::fs::create_dir_all(root.join(folder)).await.map_err(failed)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("ingest/.lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StepError::conflict(format!(
                    "the image layout {shown} is written by another process"
                ))
                .with_hint("wait for it, or give this node a `layout` of its own"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
        write_atomically(&root, "oci-layout", OCI_LAYOUT).await.map_err(failed)?;
        let index = match read_index(&root).await? {
            Some(index) => index,
            None => Index::new(Vec::new()),
        };
        Ok(Self { root, shown: shown.to_owned(), index: Mutex::new(index), _lock: Some(lock) })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// The size of a blob, where it is there.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Option<u64> {
        tokio::fs::metadata(self.blob_path(digest)).await.ok().filter(|m| m.is_file()).map(|m| m.len())
    }

    /// The digest that the bytes of a blob really have.
    pub(crate) async fn rehash(&self, digest: &Digest) -> Result<Digest, StepError> {
        let failed = |e| io(format!("failed to read blob {digest} of {}", self.shown), e);
        let mut file = tokio::fs::File::open(self.blob_path(digest)).await.map_err(failed)?;
        let mut hasher = digest.hasher();
        hash_file(&mut file, &mut hasher).await.map_err(failed)?;
        Ok(hasher.finish())
    }

    /// A small blob, whole.
    pub(crate) async fn read_small(&self, digest: &Digest) -> Result<Bytes, StepError> {
        let failed = |e| io(format!("failed to read blob {digest} of {}", self.shown), e);
        let file = tokio::fs::File::open(self.blob_path(digest)).await.map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).await.map_err(failed)?;
        Ok(bytes.into())
    }

    /// Stores a manifest.
    pub(crate) async fn put_manifest(&self, manifest: &Manifest) -> Result<(), StepError> {
        if self.blob_size(&manifest.digest).await == Some(manifest.bytes.len() as u64) {
            return Ok(());
        }
        let folder = self.root.join("blobs").join(manifest.digest.algorithm());
        write_atomically(&folder, manifest.digest.hex(), &manifest.bytes)
            .await
            .map_err(|e| io(format!("failed to write manifest {}", manifest.digest), e))
    }

    /// Stores a blob of `image` from `content`, going on where an interrupted attempt stopped.
    /// `done` counts its bytes as they are there.
    ///
    /// # Errors
    /// `Corrupt` when the source's bytes have another digest.
    pub(crate) async fn put_blob(
        &self,
        content: &dyn Content,
        image: &ImageRef,
        blob: &Descriptor,
        done: &AtomicU64,
    ) -> Result<Stored, StepError> {
        if self.blob_size(&blob.digest).await == Some(blob.size) {
            done.fetch_add(blob.size, Ordering::Relaxed);
            return Ok(Stored::Present);
        }
        let (found, kept) = self.fetch(content, image, blob, done).await?;
        if found == blob.digest {
            return Ok(Stored::Fetched(blob.size - kept));
        }
        // The half that an earlier attempt left may be what is wrong: once more from nothing.
        if kept > 0 {
            done.fetch_sub(blob.size, Ordering::Relaxed);
            let (again, _) = self.fetch(content, image, blob, done).await?;
            if again == blob.digest {
                return Ok(Stored::Fetched(blob.size));
            }
        }
        Err(StepError::corrupt(format!(
            "blob {} of {} has digest {found} in {}",
            blob.digest,
            image.short(),
            content.place()
        )))
    }

    /// Reads the rest of a blob. It is in place only if the digest that is returned is the right
    /// one; otherwise nothing of it is left. Also says how many bytes were there before.
    async fn fetch(
        &self,
        content: &dyn Content,
        image: &ImageRef,
        blob: &Descriptor,
        done: &AtomicU64,
    ) -> Result<(Digest, u64), StepError> {
        let failed = |e| io(format!("failed to write blob {} to {}", blob.digest, self.shown), e);
        let partial = self.root.join("ingest").join(blob.digest.as_tag());
        let mut file = tokio::fs::File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&partial)
            .await
            .map_err(failed)?;
        let mut hasher = blob.digest.hasher();
        let mut kept = file.metadata().await.map_err(failed)?.len();
        if kept > blob.size {
            file.set_len(0).await.map_err(failed)?;
            kept = 0;
        }
        hash_file(&mut file, &mut hasher).await.map_err(failed)?;
        file.seek(SeekFrom::Start(kept)).await.map_err(failed)?;
        done.fetch_add(kept, Ordering::Relaxed);

        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut stream = content.read_blob(image, blob, kept);
        while let Some(bytes) = stream.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    // What did arrive is where the next attempt goes on.
                    writer.flush().await.map_err(failed)?;
                    return Err(error);
                }
            };
            hasher.update(&bytes);
            writer.write_all(&bytes).await.map_err(failed)?;
            done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        writer.flush().await.map_err(failed)?;
        let file = writer.into_inner();
        let found = hasher.finish();
        if found != blob.digest {
            tokio::fs::remove_file(&partial).await.map_err(failed)?;
            return Ok((found, kept));
        }
        file.sync_all().await.map_err(failed)?;
        drop(file);
        let path = self.blob_path(&blob.digest);
        tokio::fs::rename(&partial, &path).await.map_err(failed)?;
        sync_folder(path.parent().unwrap_or(&self.root)).await.map_err(failed)?;
        Ok((found, kept))
    }

    /// Names `images` and what goes with them in `index.json`. Durable when it returns; everything
    /// they consist of must be there.
    pub(crate) async fn record(&self, images: &[Image]) -> Result<(), StepError> {
        let mut index = self.index.lock().await;
        for image in images {
            let mut names =
                vec![(entry_name(image, image.tag.as_deref(), &image.digest), image.digest.clone())];
            names.extend(
                image
                    .attached
                    .iter()
                    .map(|a| (entry_name(image, a.tag.as_deref(), &a.digest), a.digest.clone())),
            );
            for (name, digest) in names {
                let Some(manifest) = image.manifests.iter().find(|m| m.digest == digest) else { continue };
                let mut descriptor = manifest.descriptor();
                descriptor.annotations.insert(REF_NAME.to_owned(), name.clone());
                index.manifests.retain(|entry| entry.annotations.get(REF_NAME) != Some(&name));
                index.manifests.push(descriptor);
            }
        }
        let failed = |e| io(format!("failed to write the index of {}", self.shown), e);
        let bytes = serde_json::to_vec_pretty(&*index).map_err(|e| failed(e.into()))?;
        write_atomically(&self.root, "index.json", &bytes).await.map_err(failed)
    }

    /// The digest that `index.json` gives for a name.
    async fn entry(&self, name: &str) -> Option<Digest> {
        let index = self.index.lock().await;
        let found = index.manifests.iter().find(|e| e.annotations.get(REF_NAME).is_some_and(|n| n == name));
        found.map(|entry| entry.digest.clone())
    }
}

/// `HOST/repository:tag`, or `HOST/repository@digest` for what has no tag.
fn entry_name(image: &Image, tag: Option<&str>, digest: &Digest) -> String {
    let name = image.reference.name();
    tag.map_or_else(|| format!("{name}@{digest}"), |tag| format!("{name}:{tag}"))
}

#[async_trait]
impl Content for Layout {
    async fn resolve(&self, image: &ImageRef) -> Result<Option<Digest>, StepError> {
        let Some(tag) = &image.tag else { return Ok(None) };
        Ok(self.entry(&format!("{}:{tag}", image.name())).await)
    }

    async fn tagged(&self, image: &ImageRef) -> Result<Option<Manifest>, StepError> {
        match self.resolve(image).await? {
            Some(digest) => self.manifest(image, &digest).await,
            None => Ok(None),
        }
    }

    async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<Option<Manifest>, StepError> {
        if self.blob_size(digest).await.is_none() {
            return Ok(None);
        }
        let bytes = self.read_small(digest).await?;
        let name = format!("{}@{digest} in layout {}", image.repository, self.shown);
        Manifest::read(&name, "", bytes, Some(digest)).map(Some)
    }

    async fn attached(&self, image: &ImageRef, digests: &[Digest]) -> Result<Vec<Attached>, StepError> {
        let name = image.name();
        let entries: Vec<(String, Digest)> = {
            let index = self.index.lock().await;
            let named = index.manifests.iter().filter_map(|entry| {
                let rest = entry.annotations.get(REF_NAME)?.strip_prefix(&name)?;
                Some((rest.to_owned(), entry.digest.clone()))
            });
            named.collect()
        };
        let mut found = Vec::new();
        for (rest, digest) in entries {
            if let Some(tag) = rest.strip_prefix(':') {
                let stem = tag.split('.').next().unwrap_or(tag);
                if digests.iter().any(|digest| digest.as_tag() == stem) {
                    found.push(Attached { digest, tag: Some(tag.to_owned()) });
                }
            } else if rest.starts_with('@')
                && let Some(manifest) = self.manifest(image, &digest).await?
                && manifest.parts.subject.is_some_and(|subject| digests.contains(&subject.digest))
            {
                found.push(Attached { digest, tag: None });
            }
        }
        Ok(found)
    }

    fn read_blob(
        &self,
        image: &ImageRef,
        blob: &Descriptor,
        offset: u64,
    ) -> BoxStream<'static, Result<Bytes, StepError>> {
        let path = self.blob_path(&blob.digest);
        let message = format!("failed to read blob {} of {} from {}", blob.digest, image.short(), self.shown);
        let size = blob.size;
        let open = async move {
            let failed = |e| io(message.clone(), e);
            let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
            if file.metadata().await.map_err(failed)?.len() != size {
                return Err(StepError::corrupt(format!("{message}: it is not {size} bytes long"))
                    .with_hint("run the node that pulls it again"));
            }
            file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
            let stream = ReaderStream::with_capacity(file, BUFFER_BYTES);
            Ok(stream.map(move |chunk| chunk.map_err(|e| io(message.clone(), e))))
        };
        futures::stream::once(open).try_flatten().boxed()
    }

    fn place(&self) -> String {
        format!("layout {}", self.shown)
    }
}

async fn read_index(root: &Path) -> Result<Option<Index>, StepError> {
    let path = root.join("index.json");
    match tokio::fs::read(&path).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            StepError::corrupt(format!("{} can't be read", path.display()))
                .with_source(e)
                .with_hint("remove it, and the images are pulled again")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(format!("failed to read {}", path.display()), e)),
    }
}

async fn hash_file(file: &mut tokio::fs::File, hasher: &mut Hasher) -> std::io::Result<()> {
    file.set_max_buf_size(BUFFER_BYTES);
    file.rewind().await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok(()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Writes `folder/name` so that a reader sees the old or the new, and a crash leaves one of them.
async fn write_atomically(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = folder.join(format!(".{name}.new"));
    let mut file = tokio::fs::File::create(&temporary).await?;
    file.write_all(bytes).await?;
    file.sync_all().await?;
    drop(file);
    tokio::fs::rename(&temporary, folder.join(name)).await?;
    sync_folder(folder).await
}

/// Makes a rename in `folder` survive a power cut.
async fn sync_folder(folder: &Path) -> std::io::Result<()> {
    tokio::fs::File::open(folder).await?.sync_all().await
}

fn io(message: String, error: std::io::Error) -> StepError {
    let step_error = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StepError::permanent(message).with_hint("make room on that disk, then resume")
        }
        _ => StepError::permanent(message),
    };
    step_error.with_source(error)
}
