//! The two listings side by side, in key order, in bounded memory; and what counts as equal.
//!
//! Both services list in the order of the keys' bytes. A server that does not (S3 directory
//! buckets; emoji on Azurite) costs a second look at some blobs, never a skipped object: what the
//! merge calls missing is copied, and [`verify`](super::verify) asks for it by name.

use std::collections::VecDeque;

use migrate_plugin_api::StepError;
use tokio::sync::mpsc;

use super::checksum::md5_of_etag;
use super::source::Object;
use super::target::Blob;

/// What is known of one key: an object, the blob of its name, or both.
#[derive(Debug)]
pub(super) enum Pair {
    /// An object and, where there is one, its blob.
    Object(Object, Option<Blob>),
    /// A blob that no object stands for.
    Extra(Blob),
}

impl Pair {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Object(object, _) => &object.key,
            Self::Extra(blob) => &blob.key,
        }
    }
}

/// A listing that comes in pages.
pub(super) type Pages<T> = mpsc::Receiver<Result<Vec<T>, StepError>>;

/// One side: the page that is being read, and those to come.
struct Side<T> {
    page: VecDeque<T>,
    pages: Pages<T>,
}

impl<T> Side<T> {
    /// Until something is in the page; an empty one then means the end.
    async fn fill(&mut self) -> Result<(), StepError> {
        while self.page.is_empty() {
            match self.pages.recv().await {
                Some(page) => self.page = page?.into(),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Joins the two listings.
pub(super) struct Merge {
    objects: Side<Object>,
    blobs: Side<Blob>,
    extras: bool,
}

impl Merge {
    /// Of these listings, of the same scope. With `extras`, blobs without an object come too.
    pub(super) fn new(objects: Pages<Object>, blobs: Pages<Blob>, extras: bool) -> Self {
        let objects = Side { page: VecDeque::new(), pages: objects };
        Self { objects, blobs: Side { page: VecDeque::new(), pages: blobs }, extras }
    }

    /// The next pair, in the order of the keys.
    ///
    /// # Errors
    /// When one of the listings failed.
    pub(super) async fn next(&mut self) -> Result<Option<Pair>, StepError> {
        loop {
            self.objects.fill().await?;
            if self.objects.page.is_empty() && !self.extras {
                return Ok(None);
            }
            self.blobs.fill().await?;
            let (object, blob) = (self.objects.page.front(), self.blobs.page.front());
            let extra = match (object, blob) {
                (None, None) => return Ok(None),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(object), Some(blob)) => blob.key < object.key,
            };
            if extra {
                if let Some(blob) = self.blobs.page.pop_front().filter(|_| self.extras) {
                    return Ok(Some(Pair::Extra(blob)));
                }
                continue;
            }
            let same = object.map(|o| &o.key) == blob.map(|b| &b.key);
            let blob = if same { self.blobs.page.pop_front() } else { None };
            return Ok(self.objects.page.pop_front().map(|object| Pair::Object(object, blob)));
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

    /// In pages of two.
    fn listing<T: Clone>(items: &[T]) -> Pages<T> {
        let (sender, receiver) = mpsc::channel(items.len().max(1));
        for page in items.chunks(2) {
            sender.try_send(Ok(page.to_vec())).unwrap();
        }
        receiver
    }

    async fn merged(extras: bool) -> Vec<(String, Option<String>)> {
        let objects = listing(&["a", "b", "c", "d"].map(object));
        let blobs = listing(&["0", "b", "bb", "d", "e"].map(blob));
        let mut merge = Merge::new(objects, blobs, extras);
        let mut seen = Vec::new();
        while let Some(pair) = merge.next().await.unwrap() {
            seen.push(match pair {
                Pair::Object(object, blob) => (object.key, blob.map(|b| b.key)),
                Pair::Extra(blob) => (String::new(), Some(blob.key)),
            });
        }
        seen
    }

    #[tokio::test]
    async fn every_object_comes_once_with_its_blob() {
        let pair = |key: &str, blob: Option<&str>| (key.to_owned(), blob.map(str::to_owned));
        let objects = [pair("a", None), pair("b", Some("b")), pair("c", None), pair("d", Some("d"))];
        assert_eq!(merged(false).await, objects);
        let extra = |key: &str| pair("", Some(key));
        let [a, b, c, d] = objects;
        assert_eq!(merged(true).await, [extra("0"), a, b, extra("bb"), c, d, extra("e")]);
    }

    #[tokio::test]
    async fn a_failed_listing_is_no_end_of_one() {
        let (sender, blobs) = mpsc::channel(1);
        sender.try_send(Err(StepError::transient("broken"))).unwrap();
        let mut merge = Merge::new(listing(&[object("a")]), blobs, false);
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
