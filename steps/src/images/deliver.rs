//! Brings images into a registry, from wherever they are.
//!
//! The order is what makes it safe: every conflict is found before a byte moves; a blob crosses
//! once, and is mounted into further repositories; a manifest goes up when everything below it is
//! there; tags come last. What the target has already is not sent again, so a repeated attempt
//! goes on where the first one stopped, and dropping it at any point leaves nothing wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::StepError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::content::Content;
use super::digest::Digest;
use super::graph::Image;
use super::manifest::{Descriptor, Index, Manifest, OCI_INDEX};
use super::meter::{Meter, Sent};
use super::registry::Registry;
use super::upload::{BlobSource, Mounted};

/// Blobs on their way at once. Enough to fill a link with ACR's latency, few enough for memory
/// (each holds less than a megabyte) and for ACR Basic's 100 writes a minute.
const BLOBS_AT_ONCE: usize = 8;

/// Small requests at once. Registries announce 100 HTTP/2 streams; half is left to the blobs.
const CHECKS_AT_ONCE: usize = 32;

/// Images whose manifests are pushed at once.
const IMAGES_AT_ONCE: usize = 8;

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
}

/// One delivery.
pub(crate) struct Delivery<'a> {
    pub source: Arc<dyn Content>,
    pub target: Arc<Registry>,
    pub images: &'a [Image],
    /// Whether a tag that points at something else may be moved.
    pub overwrite: bool,
    pub meter: &'a Meter,
}

/// A manifest or blob in a repository of the target.
type Place = (String, Digest);

/// What is at the target before anything is sent.
#[derive(Default)]
struct Found {
    /// Where each tag of ours points, if it is there.
    tags: HashMap<(String, String), Option<Digest>>,
    manifests: HashSet<Place>,
}

/// One blob and where it has to be.
struct Need {
    image: usize,
    blob: Descriptor,
    repositories: BTreeSet<String>,
    /// A repository of the target that has it.
    home: Option<String>,
}

impl Delivery<'_> {
    /// Does it. Everything is durable at the target when it returns.
    pub(crate) async fn run(&self) -> Result<Traffic, StepError> {
        let found = self.look().await?;
        self.refuse_conflicts(&found)?;
        let needs = self.needs(&found);
        self.meter.expect(self.images.len() as u64, needs.iter().map(|need| need.blob.size).sum());
        let traffic = Mutex::new(Traffic::default());
        let sends: Vec<_> = needs.iter().map(|need| self.bring_blob(need, &traffic)).collect();
        futures::stream::iter(sends).buffer_unordered(BLOBS_AT_ONCE).try_collect::<()>().await?;
        let found = &found;
        let writes: Vec<_> =
            self.images.iter().map(|image| self.bring_manifests(image, found, &traffic)).collect();
        futures::stream::iter(writes).buffer_unordered(IMAGES_AT_ONCE).try_collect::<()>().await?;
        Ok(traffic.into_inner())
    }

    /// Only looks: finds conflicts, and says for each image whether its own manifest is there under
    /// its tag.
    pub(crate) async fn check(&self) -> Result<Vec<bool>, StepError> {
        let found = self.look().await?;
        self.refuse_conflicts(&found)?;
        let is_there = |image: &Image| {
            let repository = &image.reference.repository;
            let tagged = image.tag.as_ref().is_none_or(|tag| {
                found
                    .tags
                    .get(&(repository.clone(), tag.clone()))
                    .is_some_and(|at| at.as_ref() == Some(&image.digest))
            });
            tagged && found.manifests.contains(&(repository.clone(), image.digest.clone()))
        };
        Ok(self.images.iter().map(is_there).collect())
    }

    async fn look(&self) -> Result<Found, StepError> {
        let mut tags: BTreeSet<(String, String)> = BTreeSet::new();
        let mut manifests: BTreeSet<Place> = BTreeSet::new();
        for image in self.images {
            let repository = &image.reference.repository;
            tags.extend(tags_of(image).map(|(tag, _)| (repository.clone(), tag.to_owned())));
            manifests.extend(image.manifests.iter().map(|m| (repository.clone(), m.digest.clone())));
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
    fn refuse_conflicts(&self, found: &Found) -> Result<(), StepError> {
        let conflicts = if self.overwrite { Vec::new() } else { conflicts(self.images, &found.tags) };
        let Some((first, rest)) = conflicts.split_first() else { return Ok(()) };
        let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        Err(StepError::conflict(format!(
            "image {} exists in {} with digest {} instead of {}{more}",
            first.name, self.target.host, first.target, first.source
        ))
        .with_hint("remove that tag, choose another one, or set `overwrite = true`"))
    }

    /// The blobs of every manifest that is not there yet, largest first, so that none is left to
    /// go alone at the end.
    fn needs(&self, found: &Found) -> Vec<Need> {
        let mut needs: BTreeMap<Digest, Need> = BTreeMap::new();
        let mut homes: HashMap<&Digest, &str> = HashMap::new();
        for (index, image) in self.images.iter().enumerate() {
            let repository = &image.reference.repository;
            for manifest in &image.manifests {
                let there = found.manifests.contains(&(repository.clone(), manifest.digest.clone()));
                for blob in &manifest.parts.blobs {
                    if there {
                        homes.insert(&blob.digest, repository);
                        continue;
                    }
                    let need = needs.entry(blob.digest.clone()).or_insert_with(|| Need {
                        image: index,
                        blob: blob.clone(),
                        repositories: BTreeSet::new(),
                        home: None,
                    });
                    need.repositories.insert(repository.clone());
                }
            }
        }
        let mut needs: Vec<Need> = needs.into_values().collect();
        for need in &mut needs {
            need.home = homes.get(&need.blob.digest).map(|home| (*home).to_owned());
        }
        needs.sort_by_key(|need| std::cmp::Reverse(need.blob.size));
        needs
    }

    /// Brings one blob to every repository that needs it: sent once, mounted after that.
    async fn bring_blob(&self, need: &Need, traffic: &Mutex<Traffic>) -> Result<(), StepError> {
        let digest = &need.blob.digest;
        let mut home = need.home.clone();
        let mut sent = false;
        for repository in &need.repositories {
            if home.as_deref() == Some(repository) {
                continue;
            }
            if let Some(from) = &home
                && matches!(self.target.mount(repository, from, digest).await?, Mounted::Yes)
            {
                traffic.lock().await.blobs_mounted += 1;
                continue;
            }
            let size = self.target.head_blob(repository, digest).await?;
            if size == Some(need.blob.size) || size == Some(u64::MAX) {
                traffic.lock().await.blobs_present += 1;
            } else {
                let source = BlobSource {
                    content: Arc::clone(&self.source),
                    image: self.images[need.image].reference.clone(),
                    blob: need.blob.clone(),
                };
                self.target.upload(repository, &source, &Sent::new(&self.meter.bytes)).await?;
                sent = true;
                let mut traffic = traffic.lock().await;
                traffic.blobs_sent += 1;
                traffic.bytes_sent += need.blob.size;
            }
            home = Some(repository.clone());
        }
        if !sent {
            self.meter.bytes.fetch_add(need.blob.size, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    async fn bring_manifests(
        &self,
        image: &Image,
        found: &Found,
        traffic: &Mutex<Traffic>,
    ) -> Result<(), StepError> {
        let repository = &image.reference.repository;
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
            if let Some(manifest) = image.manifests.iter().find(|m| m.digest == *digest) {
                self.target.put_manifest(repository, tag, manifest).await?;
                written += 1;
            }
        }
        written += self.list_referrers(image).await?;
        traffic.lock().await.manifests_written += written;
        self.meter.item();
        Ok(())
    }

    /// Where the target has no referrers API, the client keeps the list: an index under the tag
    /// `sha256-<hex>` of the subject (OCI distribution 1.1, "unavailable referrers API").
    async fn list_referrers(&self, image: &Image) -> Result<u64, StepError> {
        let repository = &image.reference.repository;
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
    let at = found.tags.get(&(image.reference.repository.clone(), tag.to_owned()));
    match at.and_then(Option::as_ref) {
        None => true,
        // A list of referrers that the target has grew on its own there: it is merged.
        Some(there) => there != digest && !is_referrers_list(image, tag),
    }
}

/// Whether `tag` is the referrers tag schema's, not a person's.
fn is_referrers_list(image: &Image, tag: &str) -> bool {
    image.manifests.iter().any(|manifest| manifest.digest.as_tag() == tag)
}

/// A tag that points at something else.
struct Clash {
    name: String,
    source: Digest,
    target: Digest,
}

fn conflicts(images: &[Image], at: &HashMap<(String, String), Option<Digest>>) -> Vec<Clash> {
    let mut found = Vec::new();
    for image in images {
        for (tag, digest) in tags_of(image) {
            let key = (image.reference.repository.clone(), tag.to_owned());
            let Some(Some(there)) = at.get(&key) else { continue };
            if there != digest && !is_referrers_list(image, tag) {
                found.push(Clash {
                    name: format!("{}:{tag}", key.0),
                    source: digest.clone(),
                    target: there.clone(),
                });
            }
        }
    }
    found
}
