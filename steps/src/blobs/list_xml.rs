//! A page of List Blobs, read in one pass and without a model of all that it may say: the client's own
//! takes several times the memory and the time of the rest of the listing. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::checksum::Crc64;
use super::dress::{META_CRC64, META_ETAG, META_MD5};
use super::target::Blob;

/// Of a page: the blobs, with their whole names, and where the next page begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) blobs: Vec<Blob>,
    pub(super) next: Option<String>,
}

/// What was being read when a page made no sense.
#[derive(Debug, thiserror::Error)]
#[error("a listing of blobs is no XML that makes sense at byte {0}")]
pub(super) struct NoSense(u64);

/// The elements that the reader is inside of: `EnumerationResults/Blobs/Blob/Name`.
#[derive(Default)]
struct Path {
    names: Vec<u8>,
    /// Where each name ends.
    ends: Vec<usize>,
}

impl Path {
    fn push(&mut self, name: &[u8]) {
        if !self.names.is_empty() {
            self.names.push(b'/');
        }
        self.names.extend_from_slice(name);
        self.ends.push(self.names.len());
    }

    fn pop(&mut self) {
        self.ends.pop();
        self.names.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// What is below the root.
    fn below(&self) -> &[u8] {
        self.ends.first().and_then(|end| self.names.get(end + 1..)).unwrap_or_default()
    }
}

/// What a folder says of itself beside its `ResourceType`, which comes since version 2020-10-02.
const META_FOLDER: &[u8] = b"hdi_isfolder";

/// Reads a page. An account with hierarchical namespace lists its folders too, as blobs of no bytes: they are
/// left out (List Blobs, learn.microsoft.com).
pub(super) fn page(xml: &[u8]) -> Result<Page, NoSense> {
    let mut reader = Reader::from_reader(xml);
    let mut page = Page::default();
    let mut path = Path::default();
    let mut text = String::new();
    let (mut folder, mut ended) = (false, false);
    loop {
        let event = reader.read_event().map_err(|_| NoSense(reader.error_position()))?;
        match event {
            Event::Start(start) => {
                path.push(start.name().as_ref());
                text.clear();
                if path.below() == b"Blobs/Blob" {
                    page.blobs.push(Blob::default());
                    folder = false;
                }
            }
            Event::Text(part) => match part.decode() {
                Ok(part) => text.push_str(&part),
                Err(_) => return Err(NoSense(reader.buffer_position())),
            },
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character),
                    _ => named(&reference),
                };
                text.push(character.ok_or(NoSense(reader.buffer_position()))?);
            }
            Event::End(_) => {
                let below = path.below();
                element(below, &text, &mut page);
                folder |= says_folder(below, &text);
                if folder && below == b"Blobs/Blob" {
                    page.blobs.pop_if(|blob| blob.size == 0);
                }
                path.pop();
                text.clear();
                ended = path.ends.is_empty();
            }
            Event::Eof if ended => return Ok(page),
            Event::Eof => return Err(NoSense(reader.buffer_position())),
            _ => {}
        }
    }
}

fn says_folder(path: &[u8], text: &str) -> bool {
    match path.strip_prefix(b"Blobs/Blob/") {
        Some(b"Properties/ResourceType") => text == "directory",
        Some(path) => path
            .strip_prefix(b"Metadata/")
            .is_some_and(|name| name.eq_ignore_ascii_case(META_FOLDER) && text.eq_ignore_ascii_case("true")),
        None => false,
    }
}

fn named(reference: &[u8]) -> Option<char> {
    Some(match reference {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        _ => return None,
    })
}

fn element(path: &[u8], text: &str, page: &mut Page) {
    if path == b"NextMarker" {
        page.next = Some(text.to_owned()).filter(|marker| !marker.is_empty());
        return;
    }
    let (Some(blob), Some(of_blob)) = (page.blobs.last_mut(), path.strip_prefix(b"Blobs/Blob/")) else {
        return;
    };
    match of_blob {
        b"Name" => text.clone_into(&mut blob.key),
        b"Properties/Content-Length" => blob.size = text.parse().unwrap_or(0),
        b"Properties/Etag" => text.clone_into(&mut blob.etag),
        b"Properties/Content-MD5" => blob.md5 = BASE64.decode(text).ok().filter(|md5| !md5.is_empty()),
        _ => {
            let Some(name) = of_blob.strip_prefix(b"Metadata/") else { return };
            let is = |ours: &str| name.eq_ignore_ascii_case(ours.as_bytes());
            if is(META_ETAG) {
                blob.source_etag = Some(text.to_owned());
            } else if is(META_CRC64) {
                blob.crc64 = Crc64::from_s3(text);
            } else if is(META_MD5) {
                blob.written_md5 = Some(text.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"x\">\
        <Prefix>p</Prefix><Blobs><Blob><Name>a&amp;b &#228;/\u{1F600}&lt;</Name><Properties><Etag>0x1</Etag>\
        <Content-Length>7</Content-Length><Content-MD5>1B2M2Y8AsgTpgAmY7PhCfg==</Content-MD5><Content-Encoding/>\
        </Properties><Metadata><Migrate_Source_Etag>e1</Migrate_Source_Etag><other>Name</other></Metadata>\
        <OrMetadata/></Blob><Blob><Name>c</Name><Properties><Content-MD5/></Properties></Blob></Blobs>\
        <NextMarker>2!8!x</NextMarker></EnumerationResults>";

    #[test]
    fn a_page_is_read_with_all_that_a_comparison_needs() {
        let read = page(TWO.as_bytes()).unwrap();
        assert_eq!(read.next.as_deref(), Some("2!8!x"));
        let [first, second] = &read.blobs[..] else { panic!("{read:?}") };
        assert_eq!((first.key.as_str(), first.size, first.etag.as_str()), ("a&b ä/\u{1F600}<", 7, "0x1"));
        assert_eq!(first.source_etag.as_deref(), Some("e1"));
        assert_eq!(
            first.md5.as_deref().map(hex::encode).as_deref(),
            Some("d41d8cd98f00b204e9800998ecf8427e")
        );
        assert_eq!((second.key.as_str(), &second.md5, &second.source_etag), ("c", &None, &None));
    }

    #[test]
    fn a_folder_is_no_blob() {
        let blob = |name: &str, size: u64, kind: &str, metadata: &str| {
            format!(
                "<Blob><Name>{name}</Name><Properties><ResourceType>{kind}</ResourceType><Content-Length>{size}\
                 </Content-Length></Properties><Metadata>{metadata}</Metadata></Blob>"
            )
        };
        let folder = "<hdi_isfolder>true</hdi_isfolder>";
        let blobs = [
            blob("a", 0, "", folder),
            blob("a/1", 0, "file", ""),
            blob("a/b", 0, "directory", ""),
            blob("a/b/1", 7, "file", folder),
            blob("a/c", 0, "file", "<hdi_isfolder>false</hdi_isfolder>"),
            blob("d", 0, "", "<x>y</x><Hdi_IsFolder>true</Hdi_IsFolder>"),
        ];
        let text = format!("<EnumerationResults><Blobs>{}</Blobs></EnumerationResults>", blobs.concat());
        let read = page(text.as_bytes()).unwrap();
        let keys: Vec<&str> = read.blobs.iter().map(|blob| blob.key.as_str()).collect();
        assert_eq!(keys, ["a/1", "a/b/1", "a/c"]);
    }

    #[test]
    fn a_page_that_breaks_off_is_no_end_of_a_listing() {
        for cut in 1..TWO.len() {
            if TWO.is_char_boundary(cut) {
                assert!(page(&TWO.as_bytes()[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert!(page(b"").is_err() && page(b"{}").is_err() && page(b"<a>&unknown;</a>").is_err());
    }

    #[test]
    fn an_empty_page_ends_the_listing() {
        let empty = "<EnumerationResults ContainerName=\"c\"><Blobs/><NextMarker/></EnumerationResults>";
        assert_eq!(page(empty.as_bytes()).unwrap(), Page::default());
    }
}
