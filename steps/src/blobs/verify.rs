//! Whether the container holds what the bucket held.
//!
//! Quick compares the two listings: names, sizes, the recorded source ETag, and whether a blob was
//! written again since. Deep reads every blob and compares its CRC64 with what S3 knows of the
//! object, or with the object read again where S3 knows none.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use migrate_plugin_api::{Check, CheckStatus, Evidence, Progress, StepContext, StepError, VerifyDepth};

use super::checksum::{Crc64, Layout, STREAM_BLOCK_BYTES};
use super::config::{CopyConfig, CopyOutputs, Order};
use super::merge::{Pair, Standing, standing};
use super::names::{Phase, everything};
use super::pass::concurrency;
use super::source::{Object, Source};
use super::target::{Blob, Target};
use super::walk::{next_pairs, walk_all};

/// Failed checks that are shown one by one.
const MAX_SHOWN: usize = 50;

/// Blocks read at the same time, over all objects; each is [`STREAM_BLOCK_BYTES`] of memory.
const READS_AT_ONCE: usize = 8;
/// Objects that are read between two looks at the listing.
const BATCH: usize = 16;

#[derive(Default)]
struct Tally {
    source_objects: u64,
    source_bytes: u64,
    target_objects: u64,
    target_bytes: u64,
    later: u64,
    failed: Vec<Check>,
    more: u64,
}

impl Tally {
    fn fail(&mut self, check: Check) {
        if self.failed.len() < MAX_SHOWN { self.failed.push(check) } else { self.more += 1 }
    }

    fn into_evidence(mut self, deep: Option<(u64, u64)>) -> Evidence {
        let mut checks = std::mem::take(&mut self.failed);
        if self.more > 0 {
            checks.push(Check::equal("blobs", "further differences", "0", self.more.to_string()));
        }
        let (source, target) = (self.source_objects.to_string(), self.target_objects.to_string());
        checks.push(Check::equal("container", "objects", source, target));
        let (source, target) = (self.source_bytes.to_string(), self.target_bytes.to_string());
        checks.push(Check::equal("container", "bytes", source, target));
        if let Some((all, equal)) = deep {
            checks.push(Check::equal(
                "container",
                "objects equal by crc64",
                all.to_string(),
                equal.to_string(),
            ));
        }
        if self.later > 0 {
            checks.push(Check {
                subject: "bucket".to_owned(),
                what: "objects changed since the copy".to_owned(),
                source: self.later.to_string(),
                target: "0".to_owned(),
                status: CheckStatus::Warning,
                note: Some("they are not part of this copy; another run brings them over".to_owned()),
            });
        }
        checks.into_iter().collect()
    }
}

pub(super) async fn verify(
    ctx: &StepContext,
    config: &CopyConfig,
    outputs: &CopyOutputs,
    depth: VerifyDepth,
) -> Result<Evidence, StepError> {
    let source = Arc::new(Source::new(ctx, &config.aws, &config.from, concurrency(config)).await?);
    let target = Arc::new(Target::new(ctx, &config.to, concurrency(config)).await?);
    let everything = everything(config);
    let mut looking = Looking {
        config,
        outputs,
        deep: depth == VerifyDepth::Deep,
        tally: Tally::default(),
        barren: everything.scopes.clone(),
        batch: Vec::new(),
        read: Read {
            ctx,
            source: &source,
            target: &target,
            all: 0,
            equal: 0,
            bytes: 0,
            total: outputs.bytes,
        },
    };
    for prefix in &everything.scopes {
        let mut events = walk_all(&source, &target, prefix, config.delete_extra, true);
        while let Some(pairs) = next_pairs(&mut events, ctx).await? {
            for pair in pairs {
                looking.pair(&everything, pair).await?;
            }
        }
        looking.read_batch().await?;
    }
    Ok(looking.into_evidence())
}

/// A verification under way.
struct Looking<'a> {
    config: &'a CopyConfig,
    outputs: &'a CopyOutputs,
    deep: bool,
    tally: Tally,
    /// Prefixes below which nothing was seen yet.
    barren: Vec<String>,
    /// To be read.
    batch: Vec<(Object, Blob)>,
    read: Read<'a>,
}

impl Looking<'_> {
    async fn pair(&mut self, phase: &Phase, pair: Pair) -> Result<(), StepError> {
        if !phase.takes(pair.key()) {
            return Ok(());
        }
        let (object, blob) = match pair {
            Pair::Object(object, _) if object.is_folder_marker() => return Ok(()),
            Pair::Object(object, blob) => (object, blob),
            Pair::Extra(blob) => return self.extra(&blob).await,
        };
        self.barren.retain(|prefix| !object.key.starts_with(prefix.as_str()));
        let pair = match blob {
            Some(blob) => Some((object, blob)),
            None => by_name(self.read.target, &mut self.tally, object, self.outputs).await?,
        };
        let Some((object, blob)) = pair else { return Ok(()) };
        let equal = compare(&mut self.tally, &object, &blob, self.outputs);
        if self.deep && equal {
            self.batch.push((object, blob));
            if self.batch.len() >= BATCH {
                self.read_batch().await?;
            }
        }
        Ok(())
    }

    /// A blob that should have been deleted.
    async fn extra(&mut self, blob: &Blob) -> Result<(), StepError> {
        if self.read.source.head(&blob.key).await?.is_none() {
            let check = Check::equal(format!("blob {}", blob.key), "existence", "absent", "there");
            self.tally.fail(check.with_note("the bucket has no such object"));
        }
        Ok(())
    }

    async fn read_batch(&mut self) -> Result<(), StepError> {
        self.read.batch(&mut self.tally, std::mem::take(&mut self.batch)).await
    }

    fn into_evidence(self) -> Evidence {
        let deep = self.deep.then_some((self.read.all, self.read.equal));
        let mut evidence = self.tally.into_evidence(deep);
        let order = self.config.order;
        evidence.checks.extend(self.barren.iter().map(|prefix| nothing_below(prefix, order)));
        evidence.checks.extend(ways(self.outputs));
        evidence.checks.extend(self.outputs.lost.iter().map(|(what, count)| Check {
            subject: "container".to_owned(),
            what: what.clone(),
            source: count.to_string(),
            target: "0".to_owned(),
            status: CheckStatus::Warning,
            note: Some("these objects had it, and their blobs don't".to_owned()),
        }));
        evidence
    }
}

/// Which way the bytes of the copied objects went, and why not the other.
fn ways(outputs: &CopyOutputs) -> Option<Check> {
    if outputs.copied == 0 {
        return None;
    }
    let why = outputs.reasons.iter().map(|(why, count)| match outputs.streamed_objects.get(why) {
        Some(keys) if keys.len() as u64 == *count => format!("{count}: {why}: {}", keys.join(", ")),
        Some(keys) => format!("{count}: {why}: {}, …", keys.join(", ")),
        None => format!("{count}: {why}"),
    });
    let why = why.collect::<Vec<_>>();
    let all = outputs.copied.to_string();
    let gone = format!("{}", outputs.server_side + outputs.streamed);
    let ways = format!("{} server-side, {} streamed", outputs.server_side, outputs.streamed);
    let check = Check::equal("container", "objects copied, by the way they went", all, gone);
    Some(check.with_note(if why.is_empty() { ways } else { format!("{ways} ({})", why.join("; ")) }))
}

/// Nothing equals nothing, which proves nothing. What Velero is to find is never nothing: then the
/// backup lies elsewhere, most likely below another prefix of the bucket.
fn nothing_below(prefix: &str, order: Order) -> Check {
    let subject = if prefix.is_empty() { "bucket".to_owned() } else { format!("prefix {prefix}") };
    Check {
        subject,
        what: "objects".to_owned(),
        source: "none".to_owned(),
        target: "none".to_owned(),
        status: if order == Order::Velero { CheckStatus::Failed } else { CheckStatus::Warning },
        note: Some("the source has no such object, so nothing was copied: is its `prefix` right?".to_owned()),
    }
}

/// What the merge has no blob for is asked for by its name, in case the two list in another order.
async fn by_name(
    target: &Target,
    tally: &mut Tally,
    object: Object,
    outputs: &CopyOutputs,
) -> Result<Option<(Object, Blob)>, StepError> {
    if let Some(blob) = target.head(&object.key).await? {
        return Ok(Some((object, blob)));
    }
    if object.modified > outputs.as_of_seconds {
        tally.later += 1;
    } else {
        tally.source_objects += 1;
        tally.source_bytes += object.size;
        tally.fail(Check::equal(format!("blob {}", object.key), "existence", "there", "absent"));
    }
    Ok(None)
}

/// Counts the pair and reports what the listings show. `true` where they show nothing wrong.
fn compare(tally: &mut Tally, object: &Object, blob: &Blob, outputs: &CopyOutputs) -> bool {
    let standing = standing(object, blob);
    // Every blob of ours bears a mark: without one, or with the right one, it is not the source
    // that changed.
    let other_version = blob.source_etag.as_ref().is_some_and(|etag| *etag != object.etag);
    if standing != Standing::Equal && other_version && object.modified > outputs.as_of_seconds {
        tally.later += 1;
        return false;
    }
    tally.source_objects += 1;
    tally.source_bytes += object.size;
    tally.target_objects += 1;
    tally.target_bytes += blob.size;
    let Standing::Differs(what) = standing else { return true };
    let none = || "none recorded".to_owned();
    let (source, target) = match what {
        "size" => (object.size.to_string(), blob.size.to_string()),
        "md5" => {
            (blob.written_md5.clone().unwrap_or_else(none), blob.md5.as_ref().map_or_else(none, hex::encode))
        }
        _ => (object.etag.clone(), blob.source_etag.clone().unwrap_or_else(none)),
    };
    let check = Check::equal(format!("blob {}", object.key), what, source, target);
    let rewritten = blob.source_etag.is_none() || what == "md5";
    tally.fail(if rewritten {
        check.with_note("the blob was written by something else since")
    } else {
        check
    });
    false
}

/// Reading both sides.
struct Read<'a> {
    ctx: &'a StepContext,
    source: &'a Source,
    target: &'a Target,
    all: u64,
    equal: u64,
    bytes: u64,
    total: u64,
}

impl Read<'_> {
    async fn batch(&mut self, tally: &mut Tally, batch: Vec<(Object, Blob)>) -> Result<(), StepError> {
        let (ctx, source, target) = (self.ctx, self.source, self.target);
        let mut reads = stream::iter(batch)
            .map(|(object, blob)| async move {
                ctx.check_cancelled()?;
                let read = one(source, target, &object, &blob).await?;
                Ok::<_, StepError>((object, read))
            })
            .buffer_unordered(READS_AT_ONCE);
        loop {
            let next = tokio::select! {
                () = ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                next = reads.next() => next,
            };
            let Some(read) = next else { return Ok(()) };
            let (object, (expected, found)) = read?;
            self.all += 1;
            self.bytes += object.size;
            ctx.progress(
                Progress::message("reading blobs").bytes(self.bytes, self.total).items(self.all, None),
            );
            if expected == found {
                self.equal += 1;
            } else {
                let subject = format!("blob {}", object.key);
                tally.fail(Check::equal(subject, "crc64", expected.to_string(), found.to_string()));
            }
        }
    }
}

/// The CRC of the object and that of the blob's bytes.
async fn one(
    source: &Source,
    target: &Target,
    object: &Object,
    blob: &Blob,
) -> Result<(Crc64, Crc64), StepError> {
    let layout = Layout::new(object.size, STREAM_BLOCK_BYTES);
    let known = match source.head(&object.key).await? {
        Some((now, properties)) if now.etag == object.etag => properties.crc64,
        _ => {
            return Err(StepError::conflict(format!(
                "object `{}` changed while it was verified",
                object.key
            )));
        }
    };
    let mut found = Crc64::of(b"");
    let mut expected = found;
    for index in 0..layout.count() {
        let (offset, bytes) = layout.range(index);
        found = found.then(Crc64::of(&target.range(blob, offset, bytes).await?), bytes);
        if known.is_none() {
            expected = expected.then(source.range(object, offset, bytes).await?.crc64, bytes);
        }
    }
    Ok((known.unwrap_or(expected), found))
}
