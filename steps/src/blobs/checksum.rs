//! Checksums, block layouts and block IDs. Pure.
//!
//! CRC64 here is CRC64NVME: what S3 calls `CRC64NVME` and Azure `x-ms-content-crc64` are the same
//! function (reflected polynomial 0x9A6C9329AC4BC9B5, all ones in and out). S3 writes it
//! big-endian in base64, Azure little-endian. CRCs of neighbouring ranges combine without the
//! bytes, so an object moved in blocks is proven whole without reading it again.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

/// Bytes of a block before doubling: above 4 MiB Azure takes its high-throughput path, and a
/// block is what a resumed object may lose.
pub(super) const STREAM_BLOCK_BYTES: u64 = 8 << 20;
/// Larger where no byte passes this machine and a block costs only a request.
pub(super) const SERVER_BLOCK_BYTES: u64 = 64 << 20;
/// Azure's limit of blocks in a blob.
const MAX_BLOCKS: u64 = 50_000;
/// A block's ID before base64.
pub(super) const BLOCK_ID_BYTES: usize = 62;

/// A CRC64NVME. Shown and stored as S3 does it: big-endian, base64.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Crc64(u64);

impl Crc64 {
    /// Of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(Crc64Nvme, bytes))
    }

    /// Of bytes that are yet to come.
    pub(super) fn begin() -> Crc64Sum {
        Crc64Sum(crc_fast::Digest::new(Crc64Nvme))
    }

    /// Of what `self` covers followed by `bytes` bytes that `next` covers.
    pub(super) fn then(self, next: Self, bytes: u64) -> Self {
        Self(crc_fast::checksum_combine(Crc64Nvme, self.0, next.0, bytes))
    }

    /// From S3's header; `None` where it is no CRC64.
    pub(super) fn from_s3(text: &str) -> Option<Self> {
        let bytes: [u8; 8] = BASE64.decode(text).ok()?.try_into().ok()?;
        Some(Self(u64::from_be_bytes(bytes)))
    }

    /// From Azure's header, base64 already taken off.
    pub(super) fn from_azure(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(bytes.try_into().ok()?)))
    }

    /// For Azure's header, before base64.
    pub(super) fn to_azure(self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
}

/// A CRC that grows.
pub(super) struct Crc64Sum(crc_fast::Digest);

impl Crc64Sum {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn end(&self) -> Crc64 {
        Crc64(self.0.finalize())
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.to_be_bytes()))
    }
}

impl fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc64({self})")
    }
}

impl From<Crc64> for String {
    fn from(crc: Crc64) -> String {
        crc.to_string()
    }
}

impl TryFrom<String> for Crc64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_s3(&text).ok_or("not a CRC64 in base64")
    }
}

/// The MD5 of `bytes`.
#[cfg(test)]
pub(super) fn md5(bytes: &[u8]) -> Vec<u8> {
    Md5::digest(bytes).to_vec()
}

/// The MD5 of bytes that came in pieces.
pub(super) fn md5_of(pieces: &[Bytes]) -> Vec<u8> {
    let mut md5 = Md5::new();
    pieces.iter().for_each(|piece| md5.update(piece));
    md5.finalize().to_vec()
}

/// The MD5 that an S3 ETag is, if it has the form of one. ETags of multipart uploads and of
/// KMS-encrypted objects are none; the latter look like one, so the caller must know the encryption.
pub(super) fn md5_of_etag(etag: &str) -> Option<Vec<u8>> {
    if etag.len() == 32 { hex::decode(etag).ok() } else { None }
}

/// How an object is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of the object.
    pub(super) size: u64,
    /// Bytes of every block but the last.
    pub(super) block: u64,
}

impl Layout {
    /// `block` doubled until the object fits Azure's number of blocks.
    pub(super) fn new(size: u64, block: u64) -> Self {
        let mut block = block.max(1);
        while size.div_ceil(block) > MAX_BLOCKS {
            block *= 2;
        }
        Self { size, block }
    }

    /// Number of blocks.
    pub(super) fn count(self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Offset and length of block `index`.
    pub(super) fn range(self, index: u64) -> (u64, u64) {
        let offset = index * self.block;
        (offset, self.block.min(self.size - offset))
    }

    /// The block's ID before base64: which version (ETag), which range, and the CRC of its bytes,
    /// where it is known before the block is sent. So a block found uncommitted says by itself
    /// what it holds, and Azure has compared the CRC when it took it. Always of one length, as all
    /// IDs of a blob must be, and at most 64 bytes.
    pub(super) fn block_id(self, etag: &str, index: u64, crc64: Option<Crc64>) -> Vec<u8> {
        let crc64 = crc64.map_or_else(|| "x".repeat(16), |crc| format!("{:016x}", crc.0));
        format!("{}{crc64}", self.block_name(etag, index)).into_bytes()
    }

    /// The part of a block's ID that is known without its bytes.
    fn block_name(self, etag: &str, index: u64) -> String {
        let hash = digest::digest(&digest::SHA256, etag.as_bytes());
        let (offset, bytes) = self.range(index);
        format!("m1-{}-{offset:016x}-{bytes:08x}-", hex::encode(&hash.as_ref()[..8]))
    }

    /// What earlier attempts staged of this version in this layout: for each block the CRCs found,
    /// `None` standing for a block that Azure fetched. More than one means that two reads differed.
    pub(super) fn found(self, etag: &str, staged: &[(Vec<u8>, u64)]) -> HashMap<u64, Vec<Option<Crc64>>> {
        let mut found: HashMap<u64, Vec<Option<Crc64>>> = HashMap::new();
        for (id, bytes) in staged {
            let Some((name, crc64)) = std::str::from_utf8(id).ok().and_then(|id| id.split_at_checked(46))
            else {
                continue;
            };
            let offset = name.get(20..36).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let Some(index) = offset.map(|o| o / self.block).filter(|i| *i < self.count()) else { continue };
            if name == self.block_name(etag, index) && *bytes == self.range(index).1 && crc64.len() == 16 {
                let crc64 = u64::from_str_radix(crc64, 16).ok().map(Crc64);
                found.entry(index).or_default().push(crc64);
            }
        }
        found
    }
}

/// Neighbouring blocks whose CRC is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Span {
    first: u64,
    count: u64,
    bytes: u64,
    crc64: Crc64,
}

/// The blocks of one object that are staged and whose CRC is known, in order, neighbours merged: a
/// few entries however large the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Spans(Vec<Span>);

impl Spans {
    /// Whether block `index` is in.
    pub(super) fn contains(&self, index: u64) -> bool {
        self.0.iter().any(|s| (s.first..s.first + s.count).contains(&index))
    }

    /// Adds a block.
    pub(super) fn insert(&mut self, index: u64, bytes: u64, crc64: Crc64) {
        if self.contains(index) {
            return;
        }
        let at = self.0.partition_point(|s| s.first < index);
        self.0.insert(at, Span { first: index, count: 1, bytes, crc64 });
        if at + 1 < self.0.len() {
            self.merge(at);
        }
        if at > 0 {
            self.merge(at - 1);
        }
    }

    /// Keeps only the blocks that `keep` accepts; a span with one refused goes wholly, since a CRC
    /// can't be taken apart.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.0.retain(|s| (s.first..s.first + s.count).all(&keep));
    }

    /// The CRC of all of `count` blocks, once every one is in.
    pub(super) fn whole(&self, count: u64) -> Option<Crc64> {
        match self.0.as_slice() {
            [one] if one.first == 0 && one.count == count => Some(one.crc64),
            [] if count == 0 => Some(Crc64::of(b"")),
            _ => None,
        }
    }

    fn merge(&mut self, at: usize) {
        let (left, right) = (self.0[at], self.0[at + 1]);
        if left.first + left.count == right.first {
            self.0[at] = Span {
                first: left.first,
                count: left.count + right.count,
                bytes: left.bytes + right.bytes,
                crc64: left.crc64.then(right.crc64, right.bytes),
            };
            self.0.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_is_written_as_each_side_writes_it() {
        let crc = Crc64::of(b"123456789");
        assert_eq!(crc.0, 0xAE8B_1486_0A79_9888);
        assert_eq!(crc.to_string(), "rosUhgp5mIg=");
        assert_eq!(BASE64.encode(crc.to_azure()), "iJh5CoYUi64=");
        assert_eq!(Crc64::from_s3("rosUhgp5mIg="), Some(crc));
        assert_eq!(Crc64::from_azure(&crc.to_azure()), Some(crc));
        assert_eq!(Crc64::from_s3("AAAA"), None);
    }

    #[test]
    fn blocks_in_any_order_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..10_007_u32).map(|i| (i * 31 % 251) as u8).collect();
        let layout = Layout::new(bytes.len() as u64, 1000);
        assert_eq!(layout.count(), 11);
        let mut spans = Spans::default();
        for index in [3, 10, 0, 1, 2, 7, 5, 6, 4, 9] {
            let (offset, length) = layout.range(index);
            let block = &bytes[offset as usize..(offset + length) as usize];
            spans.insert(index, length, Crc64::of(block));
            assert_eq!(spans.whole(layout.count()), None);
        }
        let (offset, length) = layout.range(8);
        spans.insert(8, length, Crc64::of(&bytes[offset as usize..][..length as usize]));
        assert_eq!(spans.0.len(), 1);
        assert_eq!(spans.whole(layout.count()), Some(Crc64::of(&bytes)));
        spans.retain(|index| index != 4);
        assert_eq!(spans, Spans::default());
    }

    #[test]
    fn a_layout_fits_fifty_thousand_blocks() {
        assert_eq!(Layout::new(5 << 40, STREAM_BLOCK_BYTES).block, 128 << 20);
        for size in [1, STREAM_BLOCK_BYTES, STREAM_BLOCK_BYTES + 1, 400 << 30, 50 << 40] {
            let layout = Layout::new(size, STREAM_BLOCK_BYTES);
            assert!(layout.count() <= MAX_BLOCKS && layout.block <= 4000 << 20, "{layout:?}");
            let (offset, length) = layout.range(layout.count() - 1);
            assert_eq!(offset + length, size);
        }
    }

    #[test]
    fn block_ids_say_what_the_block_holds() {
        let layout = Layout::new(30 << 20, STREAM_BLOCK_BYTES);
        let crc = Some(Crc64::of(b"x"));
        let id = |etag: &str, index| layout.block_id(etag, index, crc);
        assert_eq!(id("a", 1), id("a", 1));
        assert_ne!(id("a", 1), id("b", 1));
        for index in 0..layout.count() {
            let lengths = (id("a", index).len(), layout.block_id("a", index, None).len());
            assert_eq!(lengths, (BLOCK_ID_BYTES, BLOCK_ID_BYTES));
        }
        let staged = [
            (id("a", 1), STREAM_BLOCK_BYTES),
            (id("a", 3), layout.range(3).1),
            (id("a", 2), 5),                                                 // cut short
            (id("b", 0), STREAM_BLOCK_BYTES),                                // another version
            (Layout::new(30 << 20, 1 << 20).block_id("a", 8, crc), 1 << 20), // another layout
            (layout.block_id("a", 0, None), STREAM_BLOCK_BYTES),             // fetched by Azure
            (b"somebody else's".to_vec(), STREAM_BLOCK_BYTES),
        ];
        let found = layout.found("a", &staged);
        assert_eq!(found, HashMap::from([(0, vec![None]), (1, vec![crc]), (3, vec![crc])]));
    }

    #[test]
    fn only_plain_etags_are_md5s() {
        assert!(md5_of_etag("d41d8cd98f00b204e9800998ecf8427e").is_some());
        assert_eq!(md5_of_etag("d41d8cd98f00b204e9800998ecf8427e-2"), None);
        assert_eq!(md5_of_etag("zz1d8cd98f00b204e9800998ecf8427e"), None);
        assert_eq!(md5_of_etag("d41d8cd98f00b204e9800998ecf8427e"), Some(md5(b"")));
    }
}
