//! One object, from the bucket to a whole blob.
//!
//! Every read is bound to the ETag of the version that is copied, and every block's ID holds it, so
//! versions are never mixed: a source that changes is noticed, and the object begins anew with the
//! version that is there now. What a transfer reads is compared with what S3 knows of the object
//! before the blob exists, and what is sent carries its checksum for Azure to check.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use migrate_plugin_api::{ErrorClass, StepError};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::blob_wire::Taken;
use super::checksum::{Crc64, Layout, SERVER_BLOCK_BYTES, STREAM_BLOCK_BYTES, Spans};
use super::config::{CopyConfig, CopyOutputs, Engine, Overwrite, Tags, Tier};
use super::cursor::Partial;
use super::dress::{Dress, META_CRC64, META_ETAG, META_MD5};
use super::errors::{changed, damaged, differs, same};
use super::merge::{Standing, standing};
use super::names::{invalid_name, metadata, tags};
use super::pace::Cap;
use super::passing::{NotPassed, Passing, passed};
use super::room::{Held, Room};
use super::source::{Object, Properties, Reading, Source};
use super::target::{Blob, FetchError, Refusal, Target};

/// Bytes held at once, over all objects: four blocks that are read or sent. On their way they take about
/// twice that. A block that awaits its answer takes none.
const MEMORY_BYTES: u64 = 32 << 20;
/// The same for blocks that are read again, because they were refused: one at a time.
const AGAIN_BYTES: u64 = STREAM_BLOCK_BYTES;
/// Objects up to this are at hand with their first piece, and their MD5 costs nothing.
const AT_HAND_BYTES: u64 = 64 << 10;
/// Objects that are passed on at the same time: each holds a few pieces of some 400 KiB.
const PASSED_AT_ONCE: usize = 16;
/// Times an object is begun, for a source that changes or a line that breaks. The clients have
/// their own repeats for single requests below this.
const OBJECT_ATTEMPTS: u32 = 3;
/// First pause before an object is begun again; doubled.
const OBJECT_PAUSE: Duration = Duration::from_millis(500);
/// Blocks of one object at the same time; most of them await their answer.
const BLOCKS_AT_ONCE: usize = 16;
/// Objects up to this go in one request when Azure fetches; above, a broken fetch costs too much.
const FETCH_WHOLE_BYTES: u64 = 256 << 20;
/// Azure's limit of the URL it fetches from.
const MAX_SOURCE_URL_BYTES: usize = 2048;
/// Refusals with no success between after which `auto` no longer asks Azure to fetch.
const REFUSALS_TO_STOP: u32 = 3;

/// Why an object counts as streamed whose bytes may not have gone this time.
const THERE: &str = "its blob was there when it was written";

/// What all transfers of a pass share.
pub(super) struct Mover {
    source: Arc<Source>,
    target: Arc<Target>,
    engine: Engine,
    overwrite: Overwrite,
    tags: Tags,
    tier: Option<Tier>,
    cap: Option<Cap>,
    memory: Room,
    /// Of its own, as who waits for it has been let through to the target, and who has `memory` may wait for that.
    again: Room,
    passing: Semaphore,
    refusals: AtomicU32,
    /// Bytes at the target, for the progress line; counts a block when it is there.
    pub(super) moved: AtomicU64,
    partial: Mutex<BTreeMap<String, Partial>>,
}

impl Mover {
    pub(super) fn new(
        source: Arc<Source>,
        target: Arc<Target>,
        config: &CopyConfig,
        partial: BTreeMap<String, Partial>,
    ) -> Self {
        Self {
            source,
            target,
            engine: config.engine,
            overwrite: config.overwrite,
            tags: config.tags,
            tier: config.tier,
            cap: config.bandwidth_mib.map(|mib| Cap::new(mib.get().saturating_mul(1 << 20))),
            memory: Room::new(MEMORY_BYTES),
            again: Room::new(AGAIN_BYTES),
            passing: Semaphore::new(PASSED_AT_ONCE),
            refusals: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            partial: Mutex::new(partial),
        }
    }

    /// Half-copied objects, for the cursor.
    pub(super) fn partial(&self) -> BTreeMap<String, Partial> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn partials<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Partial>) -> T) -> T {
        f(&mut self.partial.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies `object` and counts it. `replaces`: a blob of its name is there and differs.
    pub(super) async fn copy(
        self: &Arc<Self>,
        mut object: Object,
        replaces: bool,
    ) -> Result<CopyOutputs, StepError> {
        if let Some(why) = invalid_name(&self.target.name(&object.key)) {
            return Err(StepError::permanent(format!("Azure can't hold `{}`: {why}", object.key)));
        }
        if object.archived && !self.is_restored(&object.key).await? {
            return Err(StepError::permanent(format!("object `{}` is archived", object.key))
                .with_hint("restore it from Glacier first"));
        }
        if replaces && self.overwrite == Overwrite::Refuse {
            return Err(StepError::conflict(format!("blob `{}` is there and differs", object.key)));
        }
        let mut pause = OBJECT_PAUSE;
        for attempt in 1.. {
            let error = match self.copy_once(&object).await {
                Ok(mut counts) => {
                    self.partials(|p| p.remove(&object.key));
                    counts.objects = 1;
                    counts.copied = 1;
                    counts.bytes = object.size;
                    counts.copied_bytes = object.size;
                    counts.replaced = u64::from(replaces);
                    return Ok(counts);
                }
                Err(error) => error,
            };
            let again = error.class.is_retryable() || error.class == ErrorClass::Conflict;
            if !again || attempt >= OBJECT_ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(error.class.retry_after().unwrap_or(pause)).await;
            pause *= 2;
            match self.source.head(&object.key).await? {
                Some((now, _)) => object = now,
                None => {
                    return Err(StepError::conflict(format!(
                        "object `{}` is gone from the source",
                        object.key
                    )));
                }
            }
        }
        unreachable!("the loop returns at its last attempt")
    }

    /// What a copy that ended with `error` counts where the blob is this version of the object: by a request
    /// whose answer was lost, and that was refused when it was repeated; or before a listing in another order
    /// came to it.
    async fn is_there(&self, object: &Object, error: StepError) -> Result<CopyOutputs, StepError> {
        if error.class != ErrorClass::Conflict {
            return Err(error);
        }
        let blob = self.target.head(&object.key).await?;
        if blob.is_none_or(|blob| standing(object, &blob) != Standing::Equal) {
            return Err(error);
        }
        Ok(CopyOutputs { checksums: [("etag".to_owned(), 1)].into(), ..CopyOutputs::default() })
    }

    /// Whether a copy out of the archive is there to read.
    async fn is_restored(&self, key: &str) -> Result<bool, StepError> {
        Ok(self.source.head(key).await?.is_some_and(|(_, properties)| properties.restored))
    }

    async fn copy_once(self: &Arc<Self>, object: &Object) -> Result<CopyOutputs, StepError> {
        let ask_azure = match self.engine {
            Engine::Stream => false,
            // What AzCopy can't be told to copy.
            Engine::Azcopy => object.size > 0,
            Engine::ServerSide => true,
            Engine::Auto => object.size > 0 && self.refusals.load(Ordering::Relaxed) < REFUSALS_TO_STOP,
        };
        let mut reason = match self.engine {
            Engine::Stream => "as configured",
            _ if object.size == 0 => "empty objects",
            _ => "Azure refused the objects before",
        }
        .to_owned();
        if ask_azure {
            match Box::pin(self.fetch(object)).await {
                Ok(counts) => {
                    self.refusals.store(0, Ordering::Relaxed);
                    return Ok(counts);
                }
                Err(FetchError::Failed(error)) => {
                    let counts = Box::pin(self.is_there(object, error)).await?;
                    return Ok(CopyOutputs { server_side: 1, ..counts });
                }
                Err(FetchError::Refused(refusal, why)) if self.engine == Engine::ServerSide => {
                    let message = format!("object `{}` can't go server-side: {why}", object.key);
                    let error = if refusal == Refusal::Passing {
                        StepError::transient(message)
                    } else {
                        StepError::permanent(message)
                    };
                    return Err(error.with_hint("use `engine = \"auto\"`"));
                }
                Err(FetchError::Refused(refusal, why)) => {
                    if refusal != Refusal::Object {
                        self.refusals.fetch_add(1, Ordering::Relaxed);
                    }
                    reason = why;
                }
            }
        }
        // In boxes, or each of many small objects moves the room that a large one needs about.
        let streamed = if object.size <= STREAM_BLOCK_BYTES {
            self.stream_whole(object).await
        } else {
            Box::pin(self.stream_blocks(object)).await
        };
        let mut counts = match streamed {
            Ok(counts) => counts,
            Err(error) => {
                THERE.clone_into(&mut reason);
                Box::pin(self.is_there(object, error)).await?
            }
        };
        counts.streamed = 1;
        if ask_azure {
            counts.streamed_objects.insert(reason.clone(), vec![object.key.clone()]);
        }
        counts.reasons.insert(reason, 1);
        Ok(counts)
    }

    /// An object that goes in one request: one GET, one Put Blob.
    async fn stream_whole(&self, object: &Object) -> Result<CopyOutputs, StepError> {
        self.line(object.size).await;
        if object.size > AT_HAND_BYTES {
            // Never closed; were it, the pass would be over.
            let _one = self.passing.acquire().await.map_err(|_| StepError::cancelled())?;
            match Box::pin(self.pass_on(object)).await {
                Ok(Ok(counts)) => return Ok(counts),
                Ok(Err((properties, reading))) => return self.collect(object, properties, reading).await,
                // Azurite compares with the MD5 that the ETag claims to be, and says that it is none.
                Err(error) if damaged(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let (properties, reading) = self.source.open(object).await?;
        self.collect(object, properties, reading).await
    }

    /// Reads the whole object, compares it, and writes it.
    async fn collect(
        &self,
        object: &Object,
        properties: Properties,
        reading: Reading,
    ) -> Result<CopyOutputs, StepError> {
        let _memory = self.memory.take(object.size).await?;
        let blob = reading.all().await?;
        let (md5, kind) = match (properties.crc64, properties.md5.clone()) {
            (Some(known), claimed) => {
                same(object, known, blob.crc64)?;
                // Not computed where it is what the ETag claims and nobody compares with it beforehand.
                let claimed = claimed.filter(|_| !self.target.checks_md5());
                (claimed.unwrap_or_else(|| blob.md5()), "crc64nvme")
            }
            (None, Some(known)) => {
                let ours = blob.md5();
                if known != ours {
                    return Err(differs(object, "MD5", &hex::encode(known), &hex::encode(ours)));
                }
                (ours, "md5")
            }
            (None, None) => (blob.md5(), "crc64-computed"),
        };
        let (mut dress, mut counts) = self.dress(object, properties, Some(blob.crc64)).await?;
        dress.metadata.insert(META_MD5.to_owned(), hex::encode(&md5));
        let taken = self.target.put(&object.key, &blob, &md5, &dress).await?;
        self.taken(object, taken, &md5, dress).await?;
        counts.checksums.insert(kind.to_owned(), 1);
        Ok(counts)
    }

    /// Passes the bytes on as they come, where S3 has said beforehand what they are: Azure compares what
    /// arrives with S3's own CRC64, and so do we, before the last piece goes. What S3 says too little of
    /// is given back.
    async fn pass_on(
        &self,
        object: &Object,
    ) -> Result<Result<CopyOutputs, (Properties, Reading)>, StepError> {
        let put = self.target.put_passing(&object.key, || self.passing(object)).await?;
        let (taken, dress, mut counts, md5) = match put {
            Ok(taken) => taken,
            Err(NotPassed::Unknown(unknown)) => return Ok(Err(*unknown)),
            Err(NotPassed::Failed(error)) => return Err(error),
        };
        self.taken(object, taken, &md5, dress).await?;
        counts.checksums.insert("crc64nvme".to_owned(), 1);
        Ok(Ok(counts))
    }

    /// A whole blob is there. Blob Storage keeps the MD5 of what it got: where the ETag looks like one and is
    /// none, the blob is told so, or it would be called rewritten for ever.
    async fn taken(
        &self,
        object: &Object,
        taken: Taken,
        md5: &[u8],
        mut dress: Dress,
    ) -> Result<(), StepError> {
        if let Some(told) = taken.md5.filter(|told| told != md5) {
            dress.metadata.insert(META_MD5.to_owned(), hex::encode(told));
            let blob = Blob { key: object.key.clone(), etag: taken.etag, ..Blob::default() };
            self.target.mark(&blob, dress.metadata).await?;
        }
        self.moved.fetch_add(object.size, Ordering::Relaxed);
        Ok(())
    }

    /// Begins to read an object that is passed on.
    async fn passing(&self, object: &Object) -> Result<Passing, NotPassed> {
        let (properties, reading) = self.source.open(object).await?;
        let (Some(crc64), Some(md5)) = (properties.crc64, properties.md5.clone()) else {
            return Err(NotPassed::Unknown(Box::new((properties, reading))));
        };
        let (mut dress, counts) = self.dress(object, properties, Some(crc64)).await?;
        dress.metadata.insert(META_MD5.to_owned(), hex::encode(&md5));
        let broken = Arc::new(Mutex::new(None));
        let body = passed(object.clone(), reading, crc64, Arc::clone(&broken));
        Ok(Passing { body, bytes: object.size, crc64, md5, dress, counts, broken })
    }

    /// A large object: ranges to blocks, several at once, then the commit.
    async fn stream_blocks(self: &Arc<Self>, object: &Object) -> Result<CopyOutputs, StepError> {
        let properties = self.look(object).await?;
        let layout = Layout::new(object.size, STREAM_BLOCK_BYTES);
        let staged = self.target.staged(&object.key).await?;
        let found = layout.found(&object.etag, &staged);
        // A block that two reads disagree on, or that Azure fetched, is read again.
        let reusable = found.iter().filter_map(|(index, crcs)| match crcs.as_slice() {
            [Some(crc64)] => Some((*index, *crc64)),
            _ => None,
        });
        let mut crcs: Vec<Option<Crc64>> = vec![None; usize::try_from(layout.count()).unwrap_or(usize::MAX)];
        let mut reused = 0;
        for (index, crc64) in reusable {
            crcs[index as usize] = Some(crc64);
            reused += 1;
            self.moved.fetch_add(layout.range(index).1, Ordering::Relaxed);
        }
        let mut crc64 = self.stream_missing(object, layout, &found, &mut crcs).await?;
        if reused > 0 && properties.crc64.is_some_and(|known| known != crc64) {
            // One of the blocks found was read wrongly by the attempt that staged it.
            crcs.fill(None);
            reused = 0;
            crc64 = self.stream_missing(object, layout, &found, &mut crcs).await?;
        }
        let kind = match properties.crc64 {
            Some(known) => {
                same(object, known, crc64)?;
                "crc64nvme"
            }
            None => "crc64-computed",
        };
        let (dress, mut counts) = self.dress(object, properties, Some(crc64)).await?;
        let ids =
            (0..).zip(&crcs).map(|(index, crc64)| layout.block_id(&object.etag, index, *crc64)).collect();
        self.target.commit(&object.key, ids, dress).await?;
        counts.checksums.insert(kind.to_owned(), 1);
        counts.blocks_reused = reused;
        Ok(counts)
    }

    /// Streams the blocks without a CRC in `crcs`, fills it, and combines it.
    async fn stream_missing(
        self: &Arc<Self>,
        object: &Object,
        layout: Layout,
        found: &HashMap<u64, Vec<Option<Crc64>>>,
        crcs: &mut [Option<Crc64>],
    ) -> Result<Crc64, StepError> {
        let shared = Arc::new(object.clone());
        let missing: Vec<u64> =
            (0..).zip(&*crcs).filter(|(_, crc64)| crc64.is_none()).map(|(i, _)| i).collect();
        // Each is a task of its own, which drives its own connections: or all would be one processor's.
        let read: Vec<(u64, Crc64)> = stream::iter(missing)
            .map(|index| {
                let there = found.get(&index).cloned().unwrap_or_default();
                let (mover, object) = (Arc::clone(self), Arc::clone(&shared));
                let block =
                    tokio::spawn(async move { mover.stream_block(&object, layout, index, &there).await });
                let block = AbortOnDropHandle::new(block);
                async move {
                    let read = block.await;
                    let read =
                        read.map_err(|e| StepError::permanent("a transfer broke down").with_source(e))?;
                    read.map(|crc64| (index, crc64))
                }
            })
            .buffer_unordered(BLOCKS_AT_ONCE)
            .try_collect()
            .await?;
        for (index, crc64) in read {
            crcs[index as usize] = Some(crc64);
        }
        let blocks = (0..).zip(&*crcs).filter_map(|(index, crc64)| Some(((*crc64)?, layout.range(index).1)));
        Ok(blocks.fold(Crc64::of(b""), |whole, (crc64, bytes)| whole.then(crc64, bytes)))
    }

    async fn stream_block(
        &self,
        object: &Object,
        layout: Layout,
        index: u64,
        there: &[Option<Crc64>],
    ) -> Result<Crc64, StepError> {
        let (offset, length) = layout.range(index);
        let read = async |room: &Room| {
            let room = room.take(length).await?;
            self.line(length).await;
            Ok::<_, StepError>(Held { pieces: self.source.range(object, offset, length).await?, room })
        };
        let block = read(&self.memory).await?;
        let crc64 = block.pieces.crc64;
        if !there.contains(&Some(crc64)) {
            let id = layout.block_id(&object.etag, index, Some(crc64));
            let first = Mutex::new(Some(block));
            let block = || async {
                let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                let block = match first {
                    Some(block) => block,
                    None => read(&self.again).await?,
                };
                same(object, crc64, block.pieces.crc64)?;
                Ok(block)
            };
            self.target.stage(&object.key, &id, block).await?;
        }
        self.moved.fetch_add(length, Ordering::Relaxed);
        Ok(crc64)
    }

    /// Has Azure fetch the object: whole where its MD5 is known for Azure to check, in blocks
    /// otherwise, because only those tell their CRC.
    async fn fetch(&self, object: &Object) -> Result<CopyOutputs, FetchError> {
        let properties = self.look(object).await.map_err(FetchError::Failed)?;
        let mut counts = match properties.md5.clone() {
            Some(md5) if object.size <= FETCH_WHOLE_BYTES => {
                self.fetch_whole(object, properties, md5).await?
            }
            _ => self.fetch_blocks(object, properties).await?,
        };
        counts.server_side = 1;
        Ok(counts)
    }

    async fn fetch_whole(
        &self,
        object: &Object,
        properties: Properties,
        md5: Vec<u8>,
    ) -> Result<CopyOutputs, FetchError> {
        let url = self.url(object).await?;
        let crc64 = properties.crc64;
        let dressed = self.dress(object, properties, crc64).await;
        let (mut dress, mut counts) = dressed.map_err(FetchError::Failed)?;
        dress.metadata.insert(META_MD5.to_owned(), hex::encode(&md5));
        dress.md5 = Some(md5.clone());
        match self.target.put_from_url(&object.key, url, md5, dress).await {
            Err(FetchError::Failed(error)) if damaged(&error) => {
                let why = "Azure fetched other bytes than the ETag says".to_owned();
                return Err(FetchError::Refused(Refusal::Object, why));
            }
            fetched => fetched?,
        }
        self.moved.fetch_add(object.size, Ordering::Relaxed);
        counts.checksums.insert("md5".to_owned(), 1);
        Ok(counts)
    }

    async fn fetch_blocks(&self, object: &Object, properties: Properties) -> Result<CopyOutputs, FetchError> {
        let layout = Layout::new(object.size, SERVER_BLOCK_BYTES);
        let staged = self.target.staged(&object.key).await.map_err(FetchError::Failed)?;
        let written = properties.written.clone();
        let known = self.known(object, &written, layout, &layout.found(&object.etag, &staged));
        let reused = known.iter().filter(|known| **known).count() as u64;
        stream::iter((0..layout.count()).filter(|i| !known[*i as usize]).map(Ok))
            .try_for_each_concurrent(BLOCKS_AT_ONCE, |index| self.fetch_block(object, layout, index))
            .await?;
        // Azure's fetches were not bound to the version: it must still be the one, and not be it again.
        if self.look(object).await.map_err(FetchError::Failed)?.written != written {
            self.partials(|partials| drop(partials.remove(&object.key)));
            return Err(FetchError::Failed(changed(object)));
        }
        let crc64 = self.partials(|partials| partials.get(&object.key)?.spans.whole(layout.count()));
        let kind = match (properties.crc64, crc64) {
            (Some(known), Some(crc64)) => {
                // Blocks that don't add up must not be taken for good by the next attempt.
                same(object, known, crc64)
                    .inspect_err(|_| self.partials(|partials| drop(partials.remove(&object.key))))
                    .map_err(FetchError::Failed)?;
                "crc64nvme"
            }
            (None, Some(_)) => "crc64-computed",
            (_, None) => "etag",
        };
        let (dress, mut counts) = self.dress(object, properties, crc64).await.map_err(FetchError::Failed)?;
        let ids = (0..layout.count()).map(|index| layout.block_id(&object.etag, index, None)).collect();
        self.target.commit(&object.key, ids, dress).await.map_err(FetchError::Failed)?;
        counts.checksums.insert(kind.to_owned(), 1);
        counts.blocks_reused = reused;
        Ok(counts)
    }

    async fn fetch_block(&self, object: &Object, layout: Layout, index: u64) -> Result<(), FetchError> {
        // Signed anew for every block: the credentials may have changed meanwhile.
        let url = self.url(object).await?;
        let (offset, length) = layout.range(index);
        let id = layout.block_id(&object.etag, index, None);
        let crc64 = self.target.stage_from_url(&object.key, &id, url, offset, length).await?;
        self.moved.fetch_add(length, Ordering::Relaxed);
        if let Some(crc64) = crc64 {
            self.partials(|partials| {
                if let Some(partial) = partials.get_mut(&object.key) {
                    partial.spans.insert(index, length, crc64);
                }
            });
        }
        Ok(())
    }

    async fn url(&self, object: &Object) -> Result<String, FetchError> {
        let url = self.source.presigned(object).await.map_err(FetchError::Failed)?;
        if url.len() > MAX_SOURCE_URL_BYTES {
            let why = "the presigned URL is longer than 2 KiB".to_owned();
            return Err(FetchError::Refused(Refusal::Object, why));
        }
        Ok(url)
    }

    /// What the object carries, if it is still this version.
    async fn look(&self, object: &Object) -> Result<Properties, StepError> {
        match self.source.head(&object.key).await? {
            Some((now, properties)) if now.etag == object.etag && now.size == object.size => Ok(properties),
            _ => Err(changed(object)),
        }
    }

    /// Which fetched blocks are there with a CRC that Azure told. Forgets CRCs of blocks that are not.
    fn known(
        &self,
        object: &Object,
        written: &(i64, Option<String>),
        layout: Layout,
        found: &HashMap<u64, Vec<Option<Crc64>>>,
    ) -> Vec<bool> {
        let (etag, written) = (object.etag.clone(), written.clone());
        let fresh = Partial { etag, written, block: layout.block, spans: Spans::default() };
        let known = self.partials(|partials| {
            let partial = partials.entry(object.key.clone()).or_insert_with(|| fresh.clone());
            if (&partial.etag, &partial.written, partial.block) != (&fresh.etag, &fresh.written, fresh.block)
            {
                *partial = fresh;
            }
            partial.spans.retain(|index| found.get(&index).is_some_and(|crcs| crcs.contains(&None)));
            (0..layout.count()).map(|i| partial.spans.contains(i)).collect::<Vec<bool>>()
        });
        let bytes = (0..).zip(&known).filter(|(_, known)| **known).map(|(index, _)| layout.range(index).1);
        self.moved.fetch_add(bytes.sum(), Ordering::Relaxed);
        known
    }

    /// What the blob will carry, and what it can't.
    pub(super) async fn dress(
        &self,
        object: &Object,
        properties: Properties,
        crc64: Option<Crc64>,
    ) -> Result<(Dress, CopyOutputs), StepError> {
        let made = metadata(&properties.metadata).map_err(|(one, other)| {
            StepError::permanent(format!(
                "the metadata names `{one}` and `{other}` of object `{}` would be one on Azure",
                object.key
            ))
        })?;
        let mut counts = CopyOutputs::default();
        for (from, to) in &made.renamed {
            counts.renamed_metadata.insert(format!("{from} → {to}"), 1);
        }
        for what in &properties.lost {
            counts.lost.insert(what.clone(), 1);
        }
        let mut metadata: HashMap<String, String> = made.entries;
        metadata.insert(META_ETAG.to_owned(), object.etag.clone());
        if let Some(crc64) = crc64 {
            metadata.insert(META_CRC64.to_owned(), crc64.to_string());
        }
        let mut kept = None;
        match self.tags {
            _ if properties.tags == 0 => {}
            Tags::Report => drop(counts.lost.insert("tags".to_owned(), 1)),
            Tags::Keep => match tags(&self.source.tags(&object.key).await?) {
                Ok(tags) => kept = Some(tags),
                Err(why) => drop(counts.lost.insert(why.to_owned(), 1)),
            },
        }
        let only_if_absent = self.overwrite == Overwrite::Refuse;
        let dress = Dress { properties, metadata, md5: None, tags: kept, tier: self.tier, only_if_absent };
        Ok((dress, counts))
    }

    /// Until the cap lets `bytes` pass this machine.
    async fn line(&self, bytes: u64) {
        if let Some(cap) = &self.cap {
            cap.pass(bytes).await;
        }
    }
}
