//! The two listings side by side, in key order, in bounded memory; and what counts as equal.
//!
//! Both services list in the order of the keys' bytes. A server that does not (S3 directory
//! buckets; emoji on Azurite) costs a second look at some blobs, never a skipped object: what the
//! merge calls missing is copied, and [`verify`](super::verify) asks for it by name.

use migrate_plugin_api::StepError;
use tokio::sync::mpsc;

use super::checksum::md5_of_etag;
use super::source::Object;
use super::target::Blob;

/// An object and the blob of its name.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) object: Object,
    pub(super) blob: Option<Blob>,
}

/// Joins the two listings.
pub(super) struct Merge {
    objects: mpsc::Receiver<Result<Object, StepError>>,
    blobs: mpsc::Receiver<Result<Blob, StepError>>,
    object: Option<Object>,
    blob: Option<Blob>,
}

impl Merge {
    /// Of these listings, of the same scope.
    pub(super) fn new(
        objects: mpsc::Receiver<Result<Object, StepError>>,
        blobs: mpsc::Receiver<Result<Blob, StepError>>,
    ) -> Self {
        Self { objects, blobs, object: None, blob: None }
    }

    /// The next object with its blob. Blobs without an object are passed over. Loses nothing when
    /// it is dropped before it is ready.
    ///
    /// # Errors
    /// When one of the listings failed.
    pub(super) async fn next(&mut self) -> Result<Option<Pair>, StepError> {
        loop {
            if self.object.is_none() {
                self.object = self.objects.recv().await.transpose()?;
            }
            let Some(object) = &self.object else { return Ok(None) };
            if self.blob.is_none() {
                self.blob = self.blobs.recv().await.transpose()?;
            }
            let blob = match &self.blob {
                Some(blob) if blob.key < object.key => {
                    self.blob = None;
                    continue;
                }
                Some(blob) if blob.key == object.key => self.blob.take(),
                _ => None,
            };
            return Ok(self.object.take().map(|object| Pair { object, blob }));
        }
    }
}

/// How a blob stands to its object, by the listings alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The blob is this version of the object, as far as a listing can tell.
    Equal,
    /// The blob is something else.
    Differs(&'static str),
}

/// Compares by size, by the recorded source ETag or else the MD5, and by whether the blob was
/// written again after us.
pub(super) fn standing(object: &Object, blob: &Blob) -> Standing {
    if blob.size != object.size {
        return Standing::Differs("size");
    }
    match &blob.source_etag {
        Some(etag) if *etag != object.etag => return Standing::Differs("source-etag"),
        Some(_) => {}
        None => {
            let md5 = md5_of_etag(&object.etag);
            return if md5.is_some() && md5 == blob.md5 {
                Standing::Equal
            } else {
                Standing::Differs("source-etag")
            };
        }
    }
    match (&blob.written_md5, &blob.md5) {
        (Some(written), Some(md5)) if *written != hex::encode(md5) => Standing::Differs("md5"),
        _ => Standing::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Object {
        Object { key: key.to_owned(), etag: "e1".to_owned(), size: 3, modified: 0, archived: false }
    }

    fn blob(key: &str) -> Blob {
        Blob { key: key.to_owned(), size: 3, source_etag: Some("e1".to_owned()), ..Blob::default() }
    }

    fn listing<T: Send + 'static>(items: Vec<T>) -> mpsc::Receiver<Result<T, StepError>> {
        let (sender, receiver) = mpsc::channel(items.len().max(1));
        for item in items {
            sender.try_send(Ok(item)).unwrap();
        }
        receiver
    }

    #[tokio::test]
    async fn every_object_comes_once_with_its_blob() {
        let objects = listing(["a", "b", "c", "d"].map(object).into());
        let blobs = listing(["0", "b", "bb", "d", "e"].map(blob).into());
        let mut merge = Merge::new(objects, blobs);
        let mut seen = Vec::new();
        while let Some(pair) = merge.next().await.unwrap() {
            seen.push((pair.object.key, pair.blob.map(|b| b.key)));
        }
        let some = |key: &str| Some(key.to_owned());
        let expected = [("a", None), ("b", some("b")), ("c", None), ("d", some("d"))];
        assert_eq!(seen, expected.map(|(key, blob)| (key.to_owned(), blob)));
    }

    #[tokio::test]
    async fn a_failed_listing_is_no_end_of_one() {
        let (sender, blobs) = mpsc::channel(1);
        sender.try_send(Err(StepError::transient("broken"))).unwrap();
        let mut merge = Merge::new(listing(vec![object("a")]), blobs);
        assert!(merge.next().await.is_err());
    }

    #[test]
    fn equal_needs_proof() {
        let other = |change: fn(&mut Blob)| {
            let mut blob = blob("a");
            change(&mut blob);
            standing(&object("a"), &blob)
        };
        assert_eq!(other(|_| {}), Standing::Equal);
        assert_eq!(other(|b| b.size = 4), Standing::Differs("size"));
        assert_eq!(other(|b| b.source_etag = Some("e2".to_owned())), Standing::Differs("source-etag"));
        assert_eq!(other(|b| b.source_etag = None), Standing::Differs("source-etag"));
        let rewritten = other(|b| {
            b.written_md5 = Some("00".to_owned());
            b.md5 = Some(vec![1]);
        });
        assert_eq!(rewritten, Standing::Differs("md5"));
    }

    #[test]
    fn a_blob_that_others_copied_counts_by_its_md5() {
        let mut object = object("a");
        object.etag = "d41d8cd98f00b204e9800998ecf8427e".to_owned();
        let md5 = md5_of_etag(&object.etag);
        let blob = Blob { md5, source_etag: None, ..blob("a") };
        assert_eq!(standing(&object, &blob), Standing::Equal);
    }
}
