//! Brings images into a registry, from wherever they are.
//!
//! The order is what makes it safe: every conflict is found before a byte moves; a blob crosses
//! once, and is mounted into further repositories; a manifest goes up when everything below it is
//! there; tags come last, and each is looked for once more right before. What the target has already
//! is not sent again, so a repeated attempt goes on where the first one stopped, and dropping it at
//! any point leaves nothing wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::StepError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};

use super::content::Content;
use super::cursor::Cursor;
use super::digest::Digest;
use super::graph::Image;
use super::manifest::{Descriptor, Index, Manifest, OCI_INDEX};
use super::meter::{Meter, Sent};
use super::needs::{Blob, Needs};
use super::registry::Registry;
use super::upload::{BlobSource, Mounted, Session};

/// Blobs on their way at once. Enough to fill a link with ACR's latency, few enough for memory:
/// each holds less than a megabyte.
const BLOBS_AT_ONCE: usize = 6;

/// Small requests at once; the registry's own pace may be slower.
pub(crate) const CHECKS_AT_ONCE: usize = 32;

/// Images whose mounts and manifests are under way at once. Each waits for others, seldom for the
/// registry.
const IMAGES_AT_ONCE: usize = 16;

/// What a delivery took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Traffic {
    /// Blobs that were sent.
    pub blobs_sent: u64,
    /// Blobs that the target linked from another of its repositories.
    pub blobs_mounted: u64,
    /// Blobs that the target had, of manifests that it had not.
    pub blobs_present: u64,
    /// Bytes of the blobs that were sent.
    pub bytes_sent: u64,
    /// Manifests that were written.
    pub manifests_written: u64,
    /// Blobs that the target was asked for again, by digest and size, after the manifests were in.
    #[serde(default)]
    pub blobs_proved: u64,
}

/// One delivery.
pub(crate) struct Delivery<'a> {
    pub source: Arc<dyn Content>,
    pub target: Arc<Registry>,
    pub images: &'a [Image],
    /// Whether a tag that points at something else may be moved.
    pub overwrite: bool,
    pub meter: &'a Meter,
    pub cursor: &'a Cursor,
}

/// A manifest or blob in a repository of the target.
pub(crate) type Place = (String, Digest);

/// What is at the target before anything is sent.
#[derive(Default)]
pub(crate) struct Found {
    /// Where each tag of ours points, if it is there.
    pub tags: HashMap<(String, String), Option<Digest>>,
    pub manifests: HashSet<Place>,
}

impl Found {
    /// Whether the own manifest of `image` is there, under its tag.
    pub(crate) fn has(&self, image: &Image) -> bool {
        let tagged = image.tag.as_ref().is_none_or(|tag| {
            let at = self.tags.get(&(image.target.clone(), tag.clone()));
            at.is_some_and(|at| at.as_ref() == Some(&image.digest))
        });
        tagged && self.manifests.contains(&(image.target.clone(), image.digest.clone()))
    }
}

/// What the parts of a delivery share.
struct Job<'a> {
    needs: Needs,
    found: &'a Found,
    traffic: Mutex<Traffic>,
    sending: Semaphore,
    /// Held while a list of referrers is read and written: two images may have one subject.
    listing: Mutex<()>,
}

impl Delivery<'_> {
    /// Does it. Everything is durable at the target when it returns.
    pub(crate) async fn run(&self) -> Result<Traffic, StepError> {
        let found = self.check().await?;
        let needs = Needs::of(self.images, &found);
        self.meter.expect(self.images.len() as u64, needs.bytes());
        let job = Job {
            needs,
            found: &found,
            traffic: Mutex::default(),
            sending: Semaphore::new(BLOBS_AT_ONCE),
            listing: Mutex::default(),
        };
        // Workers instead of one future each: what waits in line takes no memory.
        let (next_blob, next_image) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let lead = async || {
            while let Some(blob) = job.needs.blobs.get(next_blob.fetch_add(1, Ordering::Relaxed)) {
                self.lead(&job, blob).await?;
            }
            Ok::<_, StepError>(())
        };
        // In order: an image only ever waits for earlier ones, so the line always moves.
        let finish = async || {
            loop {
                let index = next_image.fetch_add(1, Ordering::Relaxed);
                let Some(image) = self.images.get(index) else { return Ok::<_, StepError>(()) };
                self.finish(&job, index, image).await?;
            }
        };
        futures::try_join!(
            try_join_all((0..BLOBS_AT_ONCE).map(|_| lead())),
            try_join_all((0..IMAGES_AT_ONCE).map(|_| finish())),
        )?;
        Ok(job.traffic.into_inner())
    }

    /// Only looks, and refuses what is in the way.
    pub(crate) async fn check(&self) -> Result<Found, StepError> {
        let found = self.look().await?;
        if !self.overwrite {
            self.refuse(&conflicts(self.images, &found.tags))?;
        }
        Ok(found)
    }

    /// Asks for every tag and manifest of ours at the target.
    pub(crate) async fn look(&self) -> Result<Found, StepError> {
        let mut tags: BTreeSet<(String, String)> = BTreeSet::new();
        let mut manifests: BTreeSet<Place> = BTreeSet::new();
        for image in self.images {
            tags.extend(tags_of(image).map(|(tag, _)| (image.target.clone(), tag.to_owned())));
            manifests.extend(image.manifests.iter().map(|m| (image.target.clone(), m.digest.clone())));
        }
        let heads: Vec<_> = tags
            .into_iter()
            .map(|(repository, tag)| async move {
                let head = self.target.head_manifest(&repository, &tag).await?;
                Ok::<_, StepError>(((repository, tag), head.map(|found| found.digest)))
            })
            .collect();
        let tags: HashMap<(String, String), Option<Digest>> =
            futures::stream::iter(heads).buffer_unordered(CHECKS_AT_ONCE).try_collect().await?;
        // What a tag points at needs no second look.
        let mut known: HashSet<Place> = tags
            .iter()
            .filter_map(|((repository, _), digest)| Some((repository.clone(), digest.clone()?)))
            .collect();
        manifests.retain(|place| !known.contains(place));
        let heads: Vec<_> = manifests
            .into_iter()
            .map(|(repository, digest)| async move {
                let head = self.target.head_manifest(&repository, &digest.to_string()).await?;
                Ok::<_, StepError>(head.map(|_| (repository, digest)))
            })
            .collect();
        let there: Vec<Option<Place>> =
            futures::stream::iter(heads).buffer_unordered(CHECKS_AT_ONCE).try_collect().await?;
        known.extend(there.into_iter().flatten());
        Ok(Found { tags, manifests: known })
    }

    /// A tag that points elsewhere stays, unless the person has said otherwise.
    pub(crate) fn refuse(&self, conflicts: &[Clash]) -> Result<(), StepError> {
        let Some((first, rest)) = conflicts.split_first() else { return Ok(()) };
        let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        Err(StepError::conflict(format!(
            "image {} exists in {} with digest {} instead of {}{more}",
            first.name, self.target.host, first.target, first.source
        ))
        .with_hint("remove that tag, choose another one, or set `overwrite = true`"))
    }

    /// Brings a blob to the first repository that needs it, unless the target has it elsewhere: then
    /// that is where it is mounted from.
    async fn lead(&self, job: &Job<'_>, blob: &Blob) -> Result<(), StepError> {
        if blob.home.is_some() {
            return Ok(());
        }
        let Some(first) = blob.places.first() else { return Ok(()) };
        self.send(job, blob, &first.repository, None).await?;
        first.done();
        Ok(())
    }

    /// Brings a blob to a further repository, once what it is mounted from is committed there: a
    /// registry may not know a blob before a manifest names it.
    async fn follow(&self, job: &Job<'_>, blob: &Blob, place: usize) -> Result<(), StepError> {
        let place = &blob.places[place];
        let from = match &blob.home {
            Some(home) => home,
            None => {
                job.needs.committed[blob.image].wait().await;
                &blob.places[0].repository
            }
        };
        let session = match self.target.mount(&place.repository, from, &blob.descriptor.digest).await? {
            Mounted::Yes => {
                job.traffic.lock().await.blobs_mounted += 1;
                None
            }
            Mounted::No(session) => Some(session),
        };
        if let Some(session) = session {
            self.send(job, blob, &place.repository, session).await?;
        } else if blob.home.is_some() && place.is_first {
            // It counts as there: what was expected is done without a byte.
            self.meter.bytes.fetch_add(blob.descriptor.size, Ordering::Relaxed);
        }
        place.done();
        Ok(())
    }

    async fn send(
        &self,
        job: &Job<'_>,
        blob: &Blob,
        repository: &str,
        session: Option<Session>,
    ) -> Result<(), StepError> {
        let _sending = job.sending.acquire().await;
        let size = blob.descriptor.size;
        if self.target.has_blob(repository, &blob.descriptor).await? {
            job.traffic.lock().await.blobs_present += 1;
            self.meter.bytes.fetch_add(size, Ordering::Relaxed);
            return Ok(());
        }
        let source = BlobSource {
            content: Arc::clone(&self.source),
            image: self.images[blob.image].reference.clone(),
            blob: blob.descriptor.clone(),
        };
        let sent = Sent::new(&self.meter.bytes);
        self.target.upload(repository, &source, session, &sent, self.cursor).await?;
        let mut traffic = job.traffic.lock().await;
        traffic.blobs_sent += 1;
        traffic.bytes_sent += size;
        Ok(())
    }

    /// Brings what an image still needs, then its manifests and tags.
    async fn finish(&self, job: &Job<'_>, index: usize, image: &Image) -> Result<(), StepError> {
        let follows = job.needs.of_image[index].iter().map(|need| async {
            let blob = &job.needs.blobs[need.blob];
            if need.follows {
                self.follow(job, blob, need.place).await
            } else {
                blob.places[need.place].wait().await;
                Ok(())
            }
        });
        try_join_all(follows).await?;
        self.bring_manifests(job, image).await?;
        job.needs.commit(index);
        self.prove(job, index, image).await
    }

    /// What was brought for an image is there, as the target itself says once it is committed.
    async fn prove(&self, job: &Job<'_>, index: usize, image: &Image) -> Result<(), StepError> {
        let needs = &job.needs.of_image[index];
        let asks = needs
            .iter()
            .map(|need| self.target.has_blob(&image.target, &job.needs.blobs[need.blob].descriptor));
        let there = try_join_all(asks).await?;
        if let Some((need, _)) = needs.iter().zip(&there).find(|(_, there)| !**there) {
            return Err(StepError::corrupt(format!(
                "registry {} took image {} and has not its blob {}",
                self.target.host,
                image.reference.short(),
                job.needs.blobs[need.blob].descriptor.digest
            )));
        }
        job.traffic.lock().await.blobs_proved += there.len() as u64;
        Ok(())
    }

    async fn bring_manifests(&self, job: &Job<'_>, image: &Image) -> Result<(), StepError> {
        let (repository, found) = (&image.target, job.found);
        let mut written = 0;
        let tags: Vec<_> = tags_of(image).filter(|(tag, digest)| is_due(image, found, tag, digest)).collect();
        for manifest in &image.manifests {
            // What gets a tag goes up under it, in one request.
            let is_tagged = tags.iter().any(|(_, digest)| **digest == manifest.digest);
            if !is_tagged && !found.manifests.contains(&(repository.clone(), manifest.digest.clone())) {
                self.target.put_manifest(repository, &manifest.digest.to_string(), manifest).await?;
                written += 1;
            }
        }
        for (tag, digest) in tags {
            let Some(manifest) = image.manifests.iter().find(|m| m.digest == *digest) else { continue };
            let _listing = if is_referrers_list(image, tag) { Some(job.listing.lock().await) } else { None };
            if let Some(reference) = self.still_free(image, tag, digest).await? {
                self.target.put_manifest(repository, &reference, manifest).await?;
                written += 1;
            }
        }
        written += self.list_referrers(job, image).await?;
        job.traffic.lock().await.manifests_written += written;
        self.meter.item();
        Ok(())
    }

    /// Under which name the manifest `digest` is to be written for `tag`, if at all. Hours may have passed
    /// since the first look, and whoever else pushes to the target has set the tag.
    async fn still_free(
        &self,
        image: &Image,
        tag: &str,
        digest: &Digest,
    ) -> Result<Option<String>, StepError> {
        let is_list = is_referrers_list(image, tag);
        if self.overwrite && !is_list {
            return Ok(Some(tag.to_owned()));
        }
        match self.target.head_manifest(&image.target, tag).await? {
            None => Ok(Some(tag.to_owned())),
            Some(there) if there.digest == *digest => Ok(None),
            // What is in ours is added to it afterwards.
            Some(_) if is_list => Ok(Some(digest.to_string())),
            Some(there) => {
                self.refuse(&[Clash::of(image, tag, digest, &there.digest)])?;
                Ok(None)
            }
        }
    }

    /// Where the target has no referrers API, the client keeps the list: an index under the tag
    /// `sha256-<hex>` of the subject (OCI distribution 1.1, "unavailable referrers API").
    async fn list_referrers(&self, job: &Job<'_>, image: &Image) -> Result<u64, StepError> {
        let repository = &image.target;
        let mut subjects: BTreeMap<&Digest, Vec<Descriptor>> = BTreeMap::new();
        for manifest in &image.manifests[image.own..] {
            if let Some(subject) = &manifest.parts.subject {
                subjects.entry(&subject.digest).or_default().push(manifest.as_referrer());
            }
        }
        let mut written = 0;
        for (subject, ours) in subjects {
            let listed: HashSet<Digest> =
                self.target.referrers(repository, subject).await?.into_iter().map(|d| d.digest).collect();
            if ours.iter().all(|descriptor| listed.contains(&descriptor.digest)) {
                continue;
            }
            let tag = subject.as_tag();
            let _listing = job.listing.lock().await;
            let mut list = match self.target.get_manifest(repository, &tag).await? {
                Some(existing) => existing.parts.manifests,
                None => Vec::new(),
            };
            let before = list.len();
            for descriptor in ours {
                if !list.iter().any(|known| known.digest == descriptor.digest) {
                    list.push(descriptor);
                }
            }
            if list.len() > before {
                let bytes = serde_json::to_vec(&Index::new(list)).map_err(|e| {
                    StepError::permanent(format!("failed to write the referrers of {subject}")).with_source(e)
                })?;
                let index = Manifest::read(&tag, OCI_INDEX, Bytes::from(bytes), None)?;
                self.target.put_manifest(repository, &tag, &index).await?;
                written += 1;
            }
        }
        Ok(written)
    }
}

/// Every tag that `image` brings along, its own last.
pub(crate) fn tags_of(image: &Image) -> impl Iterator<Item = (&str, &Digest)> {
    let attached = image.attached.iter().filter_map(|a| Some((a.tag.as_deref()?, &a.digest)));
    attached.chain(image.tag.as_deref().map(|tag| (tag, &image.digest)))
}

/// Whether `tag` has to be written.
fn is_due(image: &Image, found: &Found, tag: &str, digest: &Digest) -> bool {
    let at = found.tags.get(&(image.target.clone(), tag.to_owned()));
    match at.and_then(Option::as_ref) {
        None => true,
        // A list of referrers that the target has grew on its own there: it is merged.
        Some(there) => there != digest && !is_referrers_list(image, tag),
    }
}

/// Whether `tag` is the referrers tag schema's, not a person's.
pub(crate) fn is_referrers_list(image: &Image, tag: &str) -> bool {
    image.manifests.iter().any(|manifest| manifest.digest.as_tag() == tag)
}

/// A tag that points at something else.
pub(crate) struct Clash {
    pub name: String,
    source: Digest,
    pub target: Digest,
}

impl Clash {
    fn of(image: &Image, tag: &str, source: &Digest, target: &Digest) -> Self {
        Self { name: format!("{}:{tag}", image.target), source: source.clone(), target: target.clone() }
    }
}

/// Every tag of `images` that points at something else at the target.
pub(crate) fn conflicts(images: &[Image], at: &HashMap<(String, String), Option<Digest>>) -> Vec<Clash> {
    let mut found = Vec::new();
    for image in images {
        for (tag, digest) in tags_of(image) {
            let key = (image.target.clone(), tag.to_owned());
            let Some(Some(there)) = at.get(&key) else { continue };
            if there != digest && !is_referrers_list(image, tag) {
                found.push(Clash::of(image, tag, digest, there));
            }
        }
    }
    found
}
