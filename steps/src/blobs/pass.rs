//! A pass over the bucket: phases, many objects at once, a durable place.
//!
//! One task owns the place, the counts and the list of the failed; transfers only report to it. A
//! phase ends when every object of it is at the target; with a failed one the next never starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, Progress, StepContext, StepError};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::config::{CopyConfig, CopyOutputs};
use super::cursor::{Cursor, Failed, LowWater};
use super::errors::line;
use super::merge::{Merge, Pair, Standing, standing};
use super::names::{Phase, phases};
use super::source::{Object, Source};
use super::target::Target;
use super::transfer::Mover;

/// Enough to hide the latency of both services for small objects, few enough for two cores.
pub(super) const DEFAULT_CONCURRENCY: usize = 16;
/// What may be done twice after a kill: a moment of small objects.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// And for very many small ones.
const CHECKPOINT_OBJECTS: u64 = 1000;
/// Smooth enough to look at.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The list of the failed is stored with the place; where more fail, something else is wrong.
const MAX_FAILED: usize = 500;
/// Objects that fail one after the other by themselves: the service is away, not the objects.
const MAX_FAILED_IN_A_ROW: usize = 20;
/// Failed objects that are named in the error.
const NAMED: usize = 5;

/// The totals, counted by a listing of its own that runs ahead.
#[derive(Default)]
struct Totals {
    objects: AtomicU64,
    bytes: AtomicU64,
    known: AtomicBool,
}

/// What became of one object.
struct Ended {
    key: String,
    /// `None` for one of the list of the failed, which is behind the place already.
    ticket: Option<u64>,
    result: Result<CopyOutputs, StepError>,
}

struct Pass<'a> {
    ctx: &'a StepContext,
    source: Arc<Source>,
    target: Arc<Target>,
    mover: Arc<Mover>,
    phases: Vec<Phase>,
    concurrency: usize,
    cursor: Cursor,
    water: LowWater,
    running: JoinSet<Ended>,
    in_a_row: usize,
    checkpointed: u64,
    /// Bytes behind the place when this attempt began, and of skipped objects since.
    still: u64,
    ended: u64,
    totals: Arc<Totals>,
    beat: Interval,
    store: Interval,
}

/// Runs or continues the pass.
pub(super) async fn run(ctx: &StepContext, config: &CopyConfig) -> Result<CopyOutputs, StepError> {
    let source = Arc::new(Source::new(ctx, &config.aws, &config.from).await);
    let target = Arc::new(Target::new(ctx, &config.to).await?);
    let phases = phases(config.order, config.prefixes.as_deref());
    // After a finished pass somebody asks again because what it left is no longer so.
    let usable = |c: &Cursor| c.key == ctx.key.as_str() && c.phase < phases.len();
    let mut cursor = ctx.cursor::<Cursor>()?.filter(usable).unwrap_or_default();
    if cursor.key.is_empty() {
        ctx.key.as_str().clone_into(&mut cursor.key);
        cursor.counts.as_of_seconds = source.now().await?;
    } else {
        ctx.info(format!("going on behind {} objects", cursor.counts.objects));
    }
    let concurrency = config.concurrency.map_or(DEFAULT_CONCURRENCY, usize::from);
    let mover = Mover::new(
        Arc::clone(&source),
        Arc::clone(&target),
        (config.engine, config.overwrite),
        concurrency,
        std::mem::take(&mut cursor.partial),
    );
    let totals = Arc::new(Totals::default());
    let _counting = AbortOnDrop(
        tokio::spawn(count(Arc::clone(&source), phases.clone(), Arc::clone(&totals))).abort_handle(),
    );
    let still = cursor.counts.bytes;
    let ended = cursor.counts.objects;
    let mut pass = Pass {
        ctx,
        source,
        target,
        mover: Arc::new(mover),
        phases,
        concurrency,
        cursor,
        water: LowWater::default(),
        running: JoinSet::new(),
        in_a_row: 0,
        checkpointed: 0,
        still,
        ended,
        totals,
        beat: ticking(PROGRESS_EVERY),
        store: ticking(CHECKPOINT_EVERY),
    };
    let result = pass.all().await;
    // Dropping the transfers stops them at once; what they staged is found again.
    pass.running.abort_all();
    if result.is_err() {
        pass.checkpoint().await?;
    }
    pass.progress();
    result.map(|()| pass.cursor.counts)
}

fn ticking(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts what the pass will take. A failure leaves the totals unknown; the pass will meet it too.
async fn count(source: Arc<Source>, phases: Vec<Phase>, totals: Arc<Totals>) {
    for phase in &phases {
        for scope in &phase.scopes {
            let mut objects = source.list(scope, None);
            while let Some(object) = objects.recv().await {
                let Ok(object) = object else { return };
                if phase.takes(&object.key) && !object.is_folder_marker() {
                    totals.objects.fetch_add(1, Ordering::Relaxed);
                    totals.bytes.fetch_add(object.size, Ordering::Relaxed);
                }
            }
        }
    }
    totals.known.store(true, Ordering::Relaxed);
}

impl Pass<'_> {
    async fn all(&mut self) -> Result<(), StepError> {
        while let Some(phase) = self.phases.get(self.cursor.phase).cloned() {
            self.failed_before().await?;
            while let Some(scope) = phase.scopes.get(self.cursor.scope) {
                self.scope(&phase, scope).await?;
                self.cursor.scope += 1;
                self.cursor.after = None;
                self.water = LowWater::default();
            }
            if !self.cursor.failed.is_empty() {
                return Err(failed_objects(&phase, &self.cursor.failed));
            }
            self.cursor.phase += 1;
            self.cursor.scope = 0;
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// Another attempt at what failed before.
    async fn failed_before(&mut self) -> Result<(), StepError> {
        let failed: Vec<String> = self.cursor.failed.iter().map(|f| f.key.clone()).collect();
        for key in failed {
            let Some((object, _)) = self.source.head(&key).await? else {
                self.ctx.warn(format!("object `{key}` failed before and is gone from the source now"));
                self.cursor.failed.retain(|f| f.key != key);
                continue;
            };
            let blob = self.target.head(&key).await?;
            match &blob {
                Some(blob) if standing(&object, blob) == Standing::Equal => {
                    self.end(Ended { key, ticket: None, result: Ok(skipped(&object)) })?;
                }
                _ => self.start(object, blob.is_some(), None).await?,
            }
        }
        self.drain().await
    }

    async fn scope(&mut self, phase: &Phase, scope: &str) -> Result<(), StepError> {
        let objects = self.source.list(scope, self.cursor.after.as_deref());
        let mut merge = Merge::new(objects, self.target.list(scope));
        loop {
            let pair = tokio::select! {
                biased;
                () = self.ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                _ = self.beat.tick() => { self.progress(); continue }
                _ = self.store.tick() => { self.checkpoint().await?; continue }
                Some(ended) = self.running.join_next() => { self.joined(ended).await?; continue }
                pair = merge.next() => pair?,
            };
            let Some(Pair { object, blob }) = pair else { break };
            if !phase.takes(&object.key) {
                continue;
            }
            let ticket = self.water.begin(&object.key);
            if object.is_folder_marker() {
                let counts = CopyOutputs { folder_markers: 1, ..CopyOutputs::default() };
                self.end(Ended { key: object.key, ticket: Some(ticket), result: Ok(counts) })?;
                continue;
            }
            match blob.as_ref().map(|blob| standing(&object, blob)) {
                Some(Standing::Equal) => {
                    self.still += object.size;
                    let counts = skipped(&object);
                    self.end(Ended { key: object.key, ticket: Some(ticket), result: Ok(counts) })?;
                    self.checkpoint_if_due().await?;
                }
                standing => self.start(object, standing.is_some(), Some(ticket)).await?,
            }
        }
        self.drain().await
    }

    /// Starts a transfer, when there is a place for it.
    async fn start(&mut self, object: Object, replaces: bool, ticket: Option<u64>) -> Result<(), StepError> {
        while self.running.len() >= self.concurrency {
            self.wait().await?;
        }
        let mover = Arc::clone(&self.mover);
        self.running.spawn(async move {
            let key = object.key.clone();
            Ended { key, ticket, result: mover.copy(object, replaces).await }
        });
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), StepError> {
        while !self.running.is_empty() {
            self.wait().await?;
        }
        Ok(())
    }

    /// Until something happens.
    async fn wait(&mut self) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => Err(StepError::cancelled()),
            _ = self.beat.tick() => { self.progress(); Ok(()) }
            _ = self.store.tick() => self.checkpoint().await,
            Some(ended) = self.running.join_next() => self.joined(ended).await,
        }
    }

    async fn joined(&mut self, ended: Result<Ended, JoinError>) -> Result<(), StepError> {
        self.end(ended.map_err(|e| StepError::permanent("a transfer broke down").with_source(e))?)?;
        self.checkpoint_if_due().await
    }

    fn end(&mut self, ended: Ended) -> Result<(), StepError> {
        let Ended { key, ticket, result } = ended;
        let counts = match result {
            Ok(counts) => {
                self.in_a_row = 0;
                self.ended += counts.objects;
                self.cursor.failed.retain(|f| f.key != key);
                counts
            }
            Err(error) => {
                // These befall every object alike: the attempt ends here, with its place.
                if matches!(error.class, ErrorClass::Auth | ErrorClass::Cancelled) {
                    return Err(error);
                }
                self.in_a_row += 1;
                if error.class.is_retryable() && self.in_a_row >= MAX_FAILED_IN_A_ROW {
                    return Err(error);
                }
                self.ctx.warn(line(&error));
                self.cursor.failed.retain(|f| f.key != key);
                self.cursor.failed.push(Failed {
                    key: key.clone(),
                    reason: line(&error),
                    class: error.class,
                });
                if self.cursor.failed.len() > MAX_FAILED {
                    return Err(StepError::permanent(format!("more than {MAX_FAILED} objects failed"))
                        .with_source(error));
                }
                CopyOutputs::default()
            }
        };
        match ticket {
            Some(ticket) => self.water.end(ticket, key, counts, &mut self.cursor),
            None => self.cursor.counts.add(&counts),
        }
        Ok(())
    }

    async fn checkpoint_if_due(&mut self) -> Result<(), StepError> {
        if self.water.done() >= self.checkpointed + CHECKPOINT_OBJECTS {
            self.checkpoint().await
        } else {
            Ok(())
        }
    }

    async fn checkpoint(&mut self) -> Result<(), StepError> {
        self.checkpointed = self.water.done();
        self.store.reset();
        let partial: BTreeMap<_, _> = self.mover.partial();
        self.ctx.checkpoint(&Cursor { partial, ..self.cursor.clone() }).await
    }

    fn progress(&self) {
        let known = self.totals.known.load(Ordering::Relaxed);
        let total = |count: &AtomicU64| known.then(|| count.load(Ordering::Relaxed));
        let bytes = self.still + self.mover.moved.load(Ordering::Relaxed);
        let (all_bytes, all) = (total(&self.totals.bytes), total(&self.totals.objects));
        let bytes = all_bytes.map_or(bytes, |all| bytes.min(all));
        let phase = self.phases.get(self.cursor.phase).map_or("done", |phase| phase.name);
        self.ctx.progress(Progress::message(phase).bytes(bytes, all_bytes).items(self.ended, all));
    }
}

fn skipped(object: &Object) -> CopyOutputs {
    CopyOutputs { objects: 1, bytes: object.size, skipped: 1, ..CopyOutputs::default() }
}

/// The end of an attempt in which objects failed. Retryable only if all of them are.
fn failed_objects(phase: &Phase, failed: &[Failed]) -> StepError {
    let worst = |class: ErrorClass| match class {
        ErrorClass::Corrupt => 3,
        ErrorClass::Permanent | ErrorClass::Auth | ErrorClass::Cancelled => 2,
        // A source that keeps changing may have come to rest by the next attempt.
        ErrorClass::Conflict | ErrorClass::Transient { .. } | ErrorClass::Throttled { .. } => 1,
    };
    let class = match failed.iter().map(|f| worst(f.class)).max() {
        Some(3) => ErrorClass::Corrupt,
        Some(2) => ErrorClass::Permanent,
        _ => ErrorClass::Transient { retry_after_ms: None },
    };
    let mut named: Vec<String> = failed.iter().take(NAMED).map(|f| f.reason.clone()).collect();
    if failed.len() > NAMED {
        named.push(format!("and {} more", failed.len() - NAMED));
    }
    let message = format!("{} of the {} could not be copied: {}", failed.len(), phase.name, named.join("; "));
    StepError::new(class, message).with_hint("the rest is copied; `migrate resume` tries only these again")
}
