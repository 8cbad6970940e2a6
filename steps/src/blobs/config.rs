//! What `blob.copy` is given and what it gives.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::site::{AwsAccess, BucketRef, ContainerRef};

/// The order in which objects are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As the bucket lists them.
    #[default]
    Listing,
    /// Volume data first, then the backups' files, `velero-backup.json` last, each only when all
    /// before it is there: Velero reads a backup once, the moment that file appears.
    Velero,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Server-side where it works, through this machine otherwise, decided for each object.
    #[default]
    Auto,
    /// Azure fetches from S3 by presigned URLs. What it can't fetch fails.
    ServerSide,
    /// Through this machine.
    Stream,
    /// By the `azcopy` program on this machine, server-side. It begins half-copied objects again, and of
    /// their bytes only the length is proven (the MD5 where both sides know one) until `verify --deep`.
    Azcopy,
}

/// What becomes of S3's tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tags {
    /// They stay behind, and `lost` says on how many objects.
    #[default]
    Report,
    /// They become the blob's tags. Needs `s3:GetObjectTagging` and, on Azure, the permission to write
    /// tags (`t` in a SAS, Storage Blob Data Owner with Entra). What Azure can't hold is in `lost`.
    Keep,
}

/// The access tier of the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Hot.
    Hot,
    /// Cool.
    Cool,
    /// Cold.
    Cold,
}

/// What to do with a blob that differs from the object of its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// Replace it, and count it in `replaced`.
    #[default]
    ReplaceChanged,
    /// Leave it, and fail that object.
    Refuse,
}

/// `with` of `blob.copy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CopyConfig {
    /// The source bucket.
    pub from: BucketRef,
    /// How AWS is reached.
    pub aws: AwsAccess,
    /// The target container.
    pub to: ContainerRef,
    /// Only keys that start with one of these, below the bucket's own prefix; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<String>>,
    /// Only keys that match one of these: `*` is anything but `/`, `**` anything, `?` one character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<String>>,
    /// No key that matches one of these, whatever `include` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Delete blobs that the bucket has no object for, once everything is copied. Only what the
    /// prefixes and filters take, and nothing where the bucket has no object at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete_extra: bool,
    /// The order of copying.
    #[serde(default)]
    pub order: Order,
    /// Which way bytes go.
    #[serde(default)]
    pub engine: Engine,
    /// The most requests to a service at the same time; default 64. It begins with fewer, and gives way
    /// when a service says that it has too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroUsize>,
    /// The most MiB a second that pass this machine; default: what the line gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_mib: Option<NonZeroU64>,
    /// The program of `engine = "azcopy"`; default: `azcopy` on the PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azcopy: Option<PathBuf>,
    /// What becomes of tags.
    #[serde(default)]
    pub tags: Tags,
    /// The blobs' access tier; default: the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// What to do with a blob that differs.
    #[serde(default)]
    pub overwrite: Overwrite,
}

/// Objects that are named for each reason: enough to look into it, few enough for the store.
const MAX_NAMED: usize = 20;

/// What `blob.copy` did. Counts are of the whole node, over all its attempts; an object that was
/// copied just before an interruption may count as skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CopyOutputs {
    /// Objects in the bucket that the pass took.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects copied.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Objects that were there already, equal.
    pub skipped: u64,
    /// Copied ones that took the place of a blob that differed.
    pub replaced: u64,
    /// Copied ones that Azure fetched itself.
    pub server_side: u64,
    /// Copied ones that went through this machine.
    pub streamed: u64,
    /// Why objects were streamed, with how many.
    pub reasons: BTreeMap<String, u64>,
    /// Which objects were streamed though Azure was to fetch them, by reason; the first 20 of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streamed_objects: BTreeMap<String, Vec<String>>,
    /// What proved the copied ones whole, with how many: `crc64nvme` and `md5` are the source's own
    /// checksums; `crc64-computed` was taken while the bytes passed (or by Azure as it fetched
    /// them), for want of one; `etag` says only that size and ETag stayed the same.
    pub checksums: BTreeMap<String, u64>,
    /// Blocks of half-copied objects that an earlier attempt had sent and this one did not.
    pub blocks_reused: u64,
    /// Folder markers (empty keys ending in `/`), which Blob has no use for: not copied.
    pub folder_markers: u64,
    /// Metadata names that Azure can't hold and what they became, with how many objects.
    pub renamed_metadata: BTreeMap<String, u64>,
    /// What objects had that their blobs don't have, with how many objects.
    #[serde(default)]
    pub lost: BTreeMap<String, u64>,
    /// Blobs deleted because the bucket has no object for them.
    #[serde(default)]
    pub deleted: u64,
    /// When the first attempt began, by the bucket's clock, in seconds since 1970, or up to two seconds
    /// later. What changed at the source later belongs to the next pass.
    pub as_of_seconds: i64,
}

impl CopyOutputs {
    /// Adds the counts of a part.
    pub(super) fn add(&mut self, part: &Self) {
        self.objects += part.objects;
        self.bytes += part.bytes;
        self.copied += part.copied;
        self.copied_bytes += part.copied_bytes;
        self.skipped += part.skipped;
        self.replaced += part.replaced;
        self.server_side += part.server_side;
        self.streamed += part.streamed;
        self.blocks_reused += part.blocks_reused;
        self.folder_markers += part.folder_markers;
        self.deleted += part.deleted;
        for (reason, keys) in &part.streamed_objects {
            let named = self.streamed_objects.entry(reason.clone()).or_default();
            let room = MAX_NAMED.saturating_sub(named.len());
            named.extend(keys.iter().take(room).cloned());
        }
        let pairs = [
            (&mut self.lost, &part.lost),
            (&mut self.reasons, &part.reasons),
            (&mut self.checksums, &part.checksums),
            (&mut self.renamed_metadata, &part.renamed_metadata),
        ];
        for (whole, part) in pairs {
            for (name, count) in part {
                // Objects end by the million, and the names are the same few: they are not copied each time.
                match whole.get_mut(name) {
                    Some(sum) => *sum += count,
                    None => _ = whole.insert(name.clone(), *count),
                }
            }
        }
    }
}
