//! An image as what it consists of: every manifest below it, what goes with it, and the blobs.
//! Read-only; the order of manifests is the order in which they can be pushed.

use std::collections::{BTreeMap, HashSet};

use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::StepError;

use super::content::{Attached, Content};
use super::digest::Digest;
use super::manifest::{Descriptor, Manifest};
use super::moved::MovedTag;
use super::reference::ImageRef;

/// Images that are looked at side by side. Registries serve many small reads at once.
const IMAGES_AT_ONCE: usize = 16;

/// Manifests of one index that are read side by side.
const MANIFESTS_AT_ONCE: usize = 8;

/// An index in an index in an index … is no image.
const MAX_DEPTH: u32 = 8;

/// Signatures of SBOMs of images exist; deeper chains don't.
const MAX_ATTACHED_DEPTH: u32 = 4;

/// More manifests below one image are a mistake or an attack.
const MAX_MANIFESTS: usize = 10_000;

/// One image with everything that belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub reference: ImageRef,
    /// The repository that it gets at the target.
    pub target: String,
    /// The reference's tag, if it points at `digest`. Where a reference has both, the tag may have
    /// moved on since; then it must not be set to an older image at the target.
    pub tag: Option<String>,
    /// The reference's tag, if it does not.
    pub moved: Option<MovedTag>,
    pub digest: Digest,
    /// Children before parents, the image's own manifest last of its graph, then what goes with it.
    pub manifests: Vec<Manifest>,
    /// How many of `manifests` are the image itself; the rest goes with it.
    pub own: usize,
    pub attached: Vec<Attached>,
}

impl Image {
    /// The image's own top manifest.
    pub(crate) fn root(&self) -> &Manifest {
        &self.manifests[self.own - 1]
    }

    /// Every blob once.
    pub(crate) fn blobs(&self) -> BTreeMap<Digest, Descriptor> {
        let all = self.manifests.iter().flat_map(|manifest| &manifest.parts.blobs);
        all.map(|blob| (blob.digest.clone(), blob.clone())).collect()
    }

    /// Manifests and blobs, each once.
    pub(crate) fn bytes(&self) -> u64 {
        let manifests: u64 = self.manifests.iter().map(|m| m.bytes.len() as u64).sum();
        manifests + self.blobs().values().map(|blob| blob.size).sum::<u64>()
    }

    /// `linux/amd64`, … where an index says so.
    pub(crate) fn platforms(&self) -> Vec<String> {
        let children = self.root().parts.manifests.iter();
        children.filter_map(|child| child.platform.as_ref()).map(|platform| platform.label()).collect()
    }
}

/// Whether what goes with an image is looked for, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The image itself.
    Own,
    /// Referrers, signatures, SBOMs as well.
    WithAttached,
}

/// Reads every image of `references`. A missing one is an error that names it.
pub(crate) async fn read_all(
    content: &dyn Content,
    references: &[ImageRef],
    depth: Depth,
) -> Result<Vec<Image>, StepError> {
    // Collected, since a stream of borrowed futures is not general enough for an async trait.
    let reads: Vec<_> = references.iter().map(|reference| read(content, reference, depth)).collect();
    futures::stream::iter(reads).buffered(IMAGES_AT_ONCE).try_collect().await
}

/// Reads one image.
pub(crate) async fn read(
    content: &dyn Content,
    reference: &ImageRef,
    depth: Depth,
) -> Result<Image, StepError> {
    let missing = || {
        StepError::permanent(format!("image {reference} is not in {}", content.place()))
            .with_hint("push it there, or leave it out of `images`")
    };
    let top = async {
        Ok::<_, StepError>(match &reference.digest {
            // A digest says what is meant whatever the tag has become since.
            Some(digest) => {
                let (root, now) =
                    futures::try_join!(content.manifest(reference, digest), content.resolve(reference))?;
                match reference.tag.clone() {
                    Some(tag) if now.as_ref() != Some(digest) => (root, None, Some(MovedTag { tag, now })),
                    tag => (root, tag, None),
                }
            }
            None => (content.tagged(reference).await?, reference.tag.clone(), None),
        })
    };
    let expect = async {
        if depth == Depth::WithAttached {
            content.expect_attached(reference).await;
        }
        Ok(())
    };
    let ((root, tag, moved), ()) = futures::try_join!(top, expect)?;
    let root = root.ok_or_else(missing)?;
    let digest = root.digest.clone();
    let mut walk = Walk { content, reference, seen: HashSet::new(), manifests: Vec::new() };
    walk.add(root, 0).await?;
    let own = walk.manifests.len();
    let attached = match depth {
        Depth::Own => Vec::new(),
        Depth::WithAttached => walk.add_attached().await?,
    };
    Ok(Image {
        reference: reference.clone(),
        target: reference.repository.clone(),
        tag,
        moved,
        digest,
        manifests: walk.manifests,
        own,
        attached,
    })
}

async fn read_child(
    content: &dyn Content,
    reference: &ImageRef,
    child: &Descriptor,
) -> Result<Manifest, StepError> {
    content.manifest(reference, &child.digest).await?.ok_or_else(|| {
        let platform = child.platform.as_ref().map_or_else(String::new, |p| format!(" ({})", p.label()));
        StepError::permanent(format!(
            "image {reference} is incomplete in {}: manifest {}{platform} is missing",
            content.place(),
            child.digest
        ))
    })
}

struct Walk<'a> {
    content: &'a dyn Content,
    reference: &'a ImageRef,
    seen: HashSet<Digest>,
    manifests: Vec<Manifest>,
}

impl Walk<'_> {
    /// Adds `manifest` after everything below it.
    async fn add(&mut self, manifest: Manifest, depth: u32) -> Result<(), StepError> {
        if !self.seen.insert(manifest.digest.clone()) {
            return Ok(());
        }
        if depth > MAX_DEPTH || self.seen.len() > MAX_MANIFESTS {
            return Err(StepError::permanent(format!("image {} has too many manifests", self.reference)));
        }
        let fresh = manifest.parts.manifests.iter().filter(|child| !self.seen.contains(&child.digest));
        let (content, reference) = (self.content, self.reference);
        let reads: Vec<_> = fresh.map(|child| read_child(content, reference, child)).collect();
        let children: Vec<Manifest> =
            futures::stream::iter(reads).buffered(MANIFESTS_AT_ONCE).try_collect().await?;
        for child in children {
            Box::pin(self.add(child, depth + 1)).await?;
        }
        self.manifests.push(manifest);
        Ok(())
    }

    /// Adds what goes with the manifests so far, and what goes with that.
    async fn add_attached(&mut self) -> Result<Vec<Attached>, StepError> {
        let mut all: Vec<Attached> = Vec::new();
        let mut asked = 0;
        for _ in 0..MAX_ATTACHED_DEPTH {
            let fresh: Vec<Digest> = self.manifests[asked..].iter().map(|m| m.digest.clone()).collect();
            asked = self.manifests.len();
            if fresh.is_empty() {
                break;
            }
            for found in self.content.attached(self.reference, &fresh).await? {
                if all.contains(&found) {
                    continue;
                }
                if !self.seen.contains(&found.digest)
                    && let Some(manifest) = self.content.manifest(self.reference, &found.digest).await?
                {
                    self.add(manifest, 0).await?;
                }
                // A list may name what is gone; then there is nothing to bring along.
                if self.seen.contains(&found.digest) {
                    all.push(found);
                }
            }
        }
        Ok(all)
    }
}
