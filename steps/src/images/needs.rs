//! Which blobs the target lacks, and who brings them: pure.
//!
//! The first image that needs a blob leads: the blob is sent to its repository. Every other
//! repository follows by a mount, after the leader's manifest is committed. An image follows earlier
//! images only, so nobody waits in a circle.

use std::collections::HashMap;

use tokio::sync::SetOnce;

use super::deliver::Found;
use super::digest::Digest;
use super::graph::Image;
use super::manifest::Descriptor;

/// One repository that has to get a blob.
pub(crate) struct Destination {
    pub repository: String,
    /// It is the first of its blob.
    pub is_first: bool,
    there: SetOnce<()>,
}

impl Destination {
    /// The blob is in it.
    pub(crate) fn done(&self) {
        // Only one task brings it; a second word changes nothing.
        let _ = self.there.set(());
    }

    /// Waits until the blob is in it.
    pub(crate) async fn wait(&self) {
        self.there.wait().await;
    }
}

/// One blob and where it has to be.
pub(crate) struct Blob {
    pub descriptor: Descriptor,
    /// The image that leads, by index.
    pub image: usize,
    /// A repository of the target that has it, where one is known.
    pub home: Option<String>,
    pub places: Vec<Destination>,
}

/// One blob that an image waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub blob: usize,
    pub place: usize,
    /// This image brings it there; otherwise the leader or an earlier image does.
    pub follows: bool,
}

/// All of a delivery.
pub(crate) struct Needs {
    /// Largest first, so that none is left to go alone at the end.
    pub blobs: Vec<Blob>,
    /// By image.
    pub of_image: Vec<Vec<Need>>,
    /// By image: everything of it is at the target.
    pub committed: Vec<SetOnce<()>>,
}

impl Needs {
    /// What is needed for every manifest that is not there yet.
    pub(crate) fn of(images: &[Image], found: &Found) -> Self {
        let mut blobs: Vec<Blob> = Vec::new();
        let mut known: HashMap<Digest, usize> = HashMap::new();
        let homes = homes(images, found);
        let mut of_image: Vec<Vec<Need>> = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            let mut needs: Vec<Need> = Vec::new();
            for manifest in &image.manifests {
                if found.manifests.contains(&(image.target.clone(), manifest.digest.clone())) {
                    continue;
                }
                for descriptor in &manifest.parts.blobs {
                    let at = *known.entry(descriptor.digest.clone()).or_insert_with(|| {
                        let home = homes.get(&descriptor.digest).map(|home| (*home).to_owned());
                        blobs.push(Blob {
                            descriptor: descriptor.clone(),
                            image: index,
                            home,
                            places: Vec::new(),
                        });
                        blobs.len() - 1
                    });
                    let need = blobs[at].need(at, &image.target);
                    if needs.iter().all(|known| known.blob != at) {
                        needs.push(need);
                    }
                }
            }
            of_image.push(needs);
        }
        let committed = images.iter().map(|_| SetOnce::new()).collect();
        Self { blobs, of_image, committed }.largest_first()
    }

    /// Bytes of every blob, once.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.descriptor.size).sum()
    }

    /// Everything of an image is at the target.
    pub(crate) fn commit(&self, image: usize) {
        // Only one task finishes an image; a second word changes nothing.
        let _ = self.committed[image].set(());
    }

    fn largest_first(mut self) -> Self {
        let mut order: Vec<usize> = (0..self.blobs.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.blobs[*at].descriptor.size));
        let mut rank = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            rank[*old] = new;
        }
        self.of_image.iter_mut().flatten().for_each(|need| need.blob = rank[need.blob]);
        self.blobs.sort_by_key(|blob| std::cmp::Reverse(blob.descriptor.size));
        self
    }
}

impl Blob {
    /// What it takes to have it in `repository`.
    fn need(&mut self, at: usize, repository: &str) -> Need {
        if let Some(place) = self.places.iter().position(|place| place.repository == repository) {
            return Need { blob: at, place, follows: false };
        }
        let is_first = self.places.is_empty();
        self.places.push(Destination { repository: repository.to_owned(), is_first, there: SetOnce::new() });
        Need { blob: at, place: self.places.len() - 1, follows: !is_first || self.home.is_some() }
    }
}

/// Where the target has blobs already, by the manifests that it has.
fn homes<'a>(images: &'a [Image], found: &Found) -> HashMap<&'a Digest, &'a str> {
    let mut homes = HashMap::new();
    for image in images {
        for manifest in &image.manifests {
            if found.manifests.contains(&(image.target.clone(), manifest.digest.clone())) {
                homes.extend(manifest.parts.blobs.iter().map(|blob| (&blob.digest, image.target.as_str())));
            }
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Manifest;
    use super::super::reference::ImageRef;
    use super::*;

    fn image(target: &str, blobs: &[(&str, u64)]) -> Image {
        let layers: Vec<_> = blobs
            .iter()
            .map(|(name, size)| serde_json::json!({ "digest": Digest::of(name.as_bytes()), "size": size }))
            .collect();
        let text =
            serde_json::json!({ "schemaVersion": 2, "layers": layers, "annotations": { "of": target } });
        let manifest = Manifest::read(target, "", text.to_string().into_bytes().into(), None).unwrap();
        Image {
            reference: ImageRef::parse(&format!("r.example/{target}:1")).unwrap(),
            target: target.to_owned(),
            tag: Some("1".to_owned()),
            moved: None,
            digest: manifest.digest.clone(),
            manifests: vec![manifest],
            own: 1,
            attached: Vec::new(),
        }
    }

    fn names(needs: &Needs, image: usize) -> Vec<(u64, &str, bool)> {
        let mut named: Vec<_> = needs.of_image[image]
            .iter()
            .map(|need| {
                let blob = &needs.blobs[need.blob];
                (blob.descriptor.size, blob.places[need.place].repository.as_str(), need.follows)
            })
            .collect();
        named.sort_unstable();
        named
    }

    #[test]
    fn the_first_leads_and_other_repositories_follow() {
        let images = [
            image("a", &[("base", 60), ("a", 5)]),
            image("b", &[("base", 60), ("b", 7)]),
            image("a", &[("base", 60)]),
        ];
        let needs = Needs::of(&images, &Found::default());
        assert_eq!(needs.blobs.iter().map(|b| b.descriptor.size).collect::<Vec<_>>(), [60, 7, 5]);
        assert_eq!(names(&needs, 0), [(5, "a", false), (60, "a", false)]);
        assert_eq!(names(&needs, 1), [(7, "b", false), (60, "b", true)]);
        assert_eq!(names(&needs, 2), [(60, "a", false)], "another image brings it to this repository");
        assert_eq!(needs.blobs[0].image, 0);
        assert_eq!(needs.bytes(), 72);
    }

    #[test]
    fn what_the_target_has_under_another_manifest_is_mounted_from_there() {
        let images = [image("a", &[("base", 60)]), image("b", &[("base", 60), ("b", 7)])];
        let mut found = Found::default();
        found.manifests.insert(("a".to_owned(), images[0].digest.clone()));
        let needs = Needs::of(&images, &found);
        assert!(needs.of_image[0].is_empty());
        assert_eq!(names(&needs, 1), [(7, "b", false), (60, "b", true)]);
        assert_eq!(needs.blobs[0].home.as_deref(), Some("a"));
    }
}
