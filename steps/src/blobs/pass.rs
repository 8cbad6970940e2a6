//! A pass over the bucket: phases, many objects at once, a durable place.
//!
//! One task owns the place, the counts and the list of the failed; transfers only report to it. A
//! phase ends when every object of it is at the target; with a failed one the next never starts, and
//! nothing is deleted. Velero's repositories are gone through until they hold still: see
//! [`repository`].

mod extras;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, Progress, StepContext, StepError};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::azcopy;
use super::config::{CopyConfig, CopyOutputs, Engine};
use super::cursor::{Cursor, Failed, LowWater};
use super::errors::line;
use super::merge::{Pages, Pair, Standing, standing};
use super::names::{Part, Phase, everything, phases};
use super::range::Range;
use super::repository::{self, MAX_ROUNDS};
use super::source::{Object, Source};
use super::target::{Blob, Target};
use super::totals::{Totals, count};
use super::transfer::Mover;
use super::walk::{DISORDER, Event, Scope, walk};

/// Requests to a service at once, unless the config says otherwise: with a round trip of 50 ms more
/// than a thousand small objects a second.
pub(super) const DEFAULT_CONCURRENCY: usize = 64;
/// What may be done twice after a kill: a moment of small objects.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// And for very many small ones.
const CHECKPOINT_OBJECTS: u64 = 1000;
/// Smooth enough to look at.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The list of the failed is stored with the place. Of what has no room in it, the place stays before
/// the first, and the next attempt lists it again.
const MAX_FAILED: usize = 500;
/// Objects that fail one after the other by themselves: the service is away, not the objects.
const MAX_FAILED_IN_A_ROW: usize = 20;
/// Objects that fail one after the other for whatever reason: it is not about the objects.
const MAX_HOPELESS_IN_A_ROW: usize = 1_000;
/// Failed objects that are named in the error.
const NAMED: usize = 5;
/// What became of one object.
struct Ended {
    key: String,
    /// Its range and its ticket there; `None` for one of the list of the failed, which is behind the
    /// place already.
    ticket: Option<(usize, u64)>,
    result: Result<CopyOutputs, StepError>,
}

/// A range of the scope that is under way.
struct Stretch {
    range: Range,
    water: LowWater,
    /// Its listing is over.
    listed: bool,
}

impl Stretch {
    fn new(range: Range) -> Self {
        Self { range, water: LowWater::default(), listed: false }
    }
}

struct Pass<'a> {
    ctx: &'a StepContext,
    config: &'a CopyConfig,
    source: Arc<Source>,
    target: Arc<Target>,
    mover: Arc<Mover>,
    phases: Vec<Phase>,
    /// Times that this attempt has gone through the repositories.
    rounds: u32,
    concurrency: usize,
    cursor: Cursor,
    /// The target's listing of the first scope, by its prefix, until it is walked.
    ahead: Option<(String, Pages<Blob>)>,
    /// Of the scope that is under way, if one is.
    stretches: Option<BTreeMap<usize, Stretch>>,
    /// Where this attempt began that scope, and the counts there.
    scope_began: (Vec<Range>, CopyOutputs),
    /// Failed objects that the list has no room for.
    unlisted: u64,
    running: JoinSet<Ended>,
    in_a_row: usize,
    /// Objects behind the places since the last checkpoint.
    since_checkpoint: u64,
    /// Bytes behind the place when this attempt began, and of skipped objects since.
    still: u64,
    ended: u64,
    /// Objects and bytes that this attempt has listed, if it lists all.
    listed: Option<(u64, u64)>,
    totals: Arc<Totals>,
    beat: Interval,
    store: Interval,
}

/// The most requests to a service at once.
pub(super) fn concurrency(config: &CopyConfig) -> usize {
    config.concurrency.map_or(DEFAULT_CONCURRENCY, usize::from)
}

/// Runs or continues the pass.
pub(super) async fn run(ctx: &StepContext, config: &CopyConfig) -> Result<CopyOutputs, StepError> {
    let concurrency = concurrency(config);
    let phases = phases(config);
    // After a finished pass somebody asks again because what it left is no longer so.
    let left = |c: &Cursor| c.phase < phases.len() || (config.delete_extra && !c.deleted);
    let usable = |c: &Cursor| c.key == ctx.key.as_str() && left(c);
    let mut cursor = ctx.cursor::<Cursor>()?.filter(usable).unwrap_or_default();
    if cursor.key.is_empty() {
        ctx.key.as_str().clone_into(&mut cursor.key);
    } else {
        ctx.info(format!("going on behind {} objects", cursor.counts.objects));
    }
    let target = Arc::new(Target::new(ctx, &config.to, concurrency).await?);
    let listed = (cursor.phase == 0 && cursor.scope == 0 && cursor.ranges.is_none()).then_some((0, 0));
    // The first thing of all: its first page takes the longest, and with nothing to do all of the time.
    // Where the bucket decides what to list (see `narrowed`) it is asked first.
    let first = phases.first().filter(|phase| phase.part == Part::All).and_then(|phase| phase.scopes.first());
    let first = first.filter(|_| listed.is_some() && config.engine != Engine::Azcopy);
    let ahead = first.map(|prefix| (prefix.clone(), target.list(prefix, None)));
    let source = Arc::new(Source::new(ctx, &config.aws, &config.from, concurrency).await?);
    if config.engine == Engine::Azcopy {
        if cursor.counts.as_of_seconds == 0 {
            cursor.counts.as_of_seconds = source.asked().await?;
        }
        return azcopy::run(ctx, config, &source, &target, cursor).await;
    }
    let partial = std::mem::take(&mut cursor.partial);
    let mover = Mover::new(Arc::clone(&source), Arc::clone(&target), config, partial);
    let totals = Arc::new(Totals::default());
    let _counting = AbortOnDrop(
        tokio::spawn(count(Arc::clone(&source), everything(config), Arc::clone(&totals))).abort_handle(),
    );
    let still = cursor.counts.bytes;
    let ended = cursor.counts.objects;
    let mut pass = Pass {
        ctx,
        config,
        source,
        target,
        mover: Arc::new(mover),
        phases,
        rounds: 0,
        concurrency,
        cursor,
        ahead,
        stretches: None,
        scope_began: (Vec::new(), CopyOutputs::default()),
        unlisted: 0,
        running: JoinSet::new(),
        in_a_row: 0,
        since_checkpoint: 0,
        still,
        ended,
        listed,
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

impl Pass<'_> {
    async fn all(&mut self) -> Result<(), StepError> {
        self.copy(true).await?;
        while self.config.delete_extra && !self.delete_extras().await? {
            self.go_back().await?;
            self.copy(false).await?;
        }
        // There may have been nothing to list.
        self.begun();
        Ok(())
    }

    /// Goes through the phases that are left. `begun_before`: an earlier process may have begun the first.
    async fn copy(&mut self, mut begun_before: bool) -> Result<(), StepError> {
        while let Some(phase) = self.phases.get(self.cursor.phase).cloned() {
            let phase = self.narrowed(phase, begun_before).await?;
            let copied = self.cursor.counts.copied;
            self.failed_before(&phase).await?;
            while let Some(scope) = phase.scopes.get(self.cursor.scope) {
                self.scope(&phase, scope).await?;
                if self.unlisted > 0 {
                    break;
                }
                self.cursor.scope += 1;
                self.stretches = None;
            }
            if !self.cursor.failed.is_empty() {
                return Err(failed_objects(&phase, &self.cursor.failed, self.unlisted));
            }
            let copied = (!begun_before).then_some(self.cursor.counts.copied - copied);
            let cursor = &mut self.cursor;
            cursor.phase = repository::next(&self.phases, cursor.phase, &mut cursor.again, copied);
            let of_repositories = |phase: &Phase| phase.part.may_change();
            if cursor.settling && !self.phases.get(cursor.phase).is_some_and(of_repositories) {
                cursor.phase = self.phases.len();
            }
            (cursor.scope, cursor.before) = (0, None);
            self.rounds += u32::from(phase.part == Part::Packs);
            begun_before = false;
            self.checkpoint().await?;
            let next = self.phases.get(self.cursor.phase).map(|phase| phase.part);
            if next == Some(Part::Packs) && self.rounds >= MAX_ROUNDS {
                return Err(repository::restless());
            }
        }
        Ok(())
    }

    /// The phase with the scopes to list. What names others is listed from the start by every attempt:
    /// where an earlier one stopped, something may have come before it since, or have taken its place.
    async fn narrowed(&mut self, mut phase: Phase, begun_before: bool) -> Result<Phase, StepError> {
        phase.scopes = repository::scopes(&self.source, &phase).await?;
        if !phase.part.names_others() {
            return Ok(phase);
        }
        let cursor = &mut self.cursor;
        if begun_before {
            (cursor.scope, cursor.ranges) = (0, None);
            cursor.failed.clear();
            if let Some(before) = cursor.before.take() {
                cursor.counts = *before;
            }
        }
        // Later only what is copied counts, once.
        cursor.before = (!cursor.again).then(|| Box::new(cursor.counts.clone()));
        Ok(phase)
    }

    /// Another attempt at what failed before. What the listing has yet to come to, it will meet there.
    async fn failed_before(&mut self, phase: &Phase) -> Result<(), StepError> {
        if let Some(scope) = phase.scopes.get(self.cursor.scope) {
            let left = self.cursor.ranges.clone().unwrap_or_else(|| vec![Range::all()]);
            let ahead = |key: &str| key.starts_with(scope) && left.iter().any(|range| range.holds(key));
            self.cursor.failed.retain(|f| !ahead(&f.key));
        }
        let failed: Vec<String> = self.cursor.failed.iter().map(|f| f.key.clone()).collect();
        for key in failed {
            let Some((object, _)) = self.source.head(&key).await? else {
                self.ctx.warn(format!("object `{key}` failed before and is gone from the source now"));
                self.cursor.failed.retain(|f| f.key != key);
                continue;
            };
            let blob = self.target.head(&key).await?;
            self.meet(phase, object, blob, None).await?;
        }
        self.drain().await
    }

    async fn scope(&mut self, phase: &Phase, scope: &str) -> Result<(), StepError> {
        let left = self.cursor.ranges.take().unwrap_or_else(|| vec![Range::all()]);
        self.scope_began = (left.clone(), self.cursor.counts.clone());
        let ranges: Vec<(usize, Range)> = left.into_iter().enumerate().collect();
        self.stretches =
            Some(ranges.iter().cloned().map(|(number, range)| (number, Stretch::new(range))).collect());
        let ahead = self.ahead.take().filter(|(prefix, _)| prefix == scope).map(|(_, pages)| pages);
        let scope = Scope {
            source: Arc::clone(&self.source),
            target: Arc::clone(&self.target),
            prefix: scope.to_owned(),
            extras: false,
            cut: !self.cursor.disorder,
            ahead,
        };
        let mut events = walk(scope, ranges);
        loop {
            let event = tokio::select! {
                biased;
                () = self.ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                _ = self.beat.tick() => { self.progress(); continue }
                _ = self.store.tick() => { self.checkpoint().await?; continue }
                Some(ended) = self.running.join_next() => { self.joined(ended).await?; continue }
                event = events.recv() => event,
            };
            match event {
                None => break,
                Some(Ok(Event::Pairs { range, pairs })) => {
                    self.begun();
                    self.pairs(phase, range, pairs).await?;
                }
                Some(Ok(Event::Cut { of, at, new })) => {
                    let Some(stretches) = &mut self.stretches else { continue };
                    let Some(stretch) = stretches.get_mut(&of) else { continue };
                    let until = stretch.range.until.replace(at.clone());
                    stretches.insert(new, Stretch::new(Range { after: Some(at), until }));
                }
                Some(Ok(Event::Ended { range })) => {
                    self.begun();
                    if let Some(stretch) = self.stretch(range) {
                        stretch.listed = true;
                    }
                    self.forget(range);
                }
                Some(Err(error)) => {
                    if error.message == DISORDER {
                        // Keys may be missing: everything again, in one piece.
                        let as_of_seconds = self.cursor.counts.as_of_seconds;
                        let counts = CopyOutputs { as_of_seconds, ..CopyOutputs::default() };
                        let key = std::mem::take(&mut self.cursor.key);
                        self.stretches = None;
                        self.cursor = Cursor { key, disorder: true, counts, ..Cursor::default() };
                    }
                    return Err(error);
                }
            }
        }
        let last = self.cursor.phase + 1 == self.phases.len() && self.cursor.scope + 1 == phase.scopes.len();
        if let Some((objects, bytes)) = self.listed.filter(|_| last) {
            self.totals.tell(objects, bytes);
        }
        self.drain().await
    }

    /// The bucket has answered and nothing is copied yet: what is younger is no part of this pass.
    fn begun(&mut self) {
        if self.cursor.counts.as_of_seconds == 0 {
            self.cursor.counts.as_of_seconds = self.source.first_answer();
        }
    }

    /// A range that is listed and done is no longer part of the place.
    fn forget(&mut self, range: usize) {
        if let Some(stretches) = &mut self.stretches
            && stretches.get(&range).is_some_and(|s| s.listed && s.water.is_empty())
        {
            stretches.remove(&range);
        }
    }

    fn stretch(&mut self, range: usize) -> Option<&mut Stretch> {
        self.stretches.as_mut()?.get_mut(&range)
    }

    /// Whether what is under way was gone through before, and is counted.
    fn goes_again(&self) -> bool {
        let phase = self.phases.get(self.cursor.phase);
        self.cursor.again && phase.is_some_and(|phase| phase.part.may_change())
    }

    async fn pairs(&mut self, phase: &Phase, range: usize, pairs: Vec<Pair>) -> Result<(), StepError> {
        let goes_again = self.goes_again();
        for pair in pairs {
            let Pair::Object(object, blob) = pair else { continue };
            if !phase.takes(&object.key) || phase.leaves(&object, self.cursor.counts.as_of_seconds) {
                continue;
            }
            let Some(stretch) = self.stretch(range) else { continue };
            let ticket = Some((range, stretch.water.begin(&object.key)));
            if let Some((objects, bytes)) = &mut self.listed
                && !object.is_folder_marker()
                && !goes_again
            {
                *objects += 1;
                *bytes += object.size;
            }
            if object.is_folder_marker() {
                let folder_markers = u64::from(!goes_again);
                let counts = CopyOutputs { folder_markers, ..CopyOutputs::default() };
                self.end(Ended { key: object.key, ticket, result: Ok(counts) })?;
                continue;
            }
            self.meet(phase, object, blob, ticket).await?;
        }
        self.checkpoint_if_due().await
    }

    /// Skips, copies or refuses an object beside the blob of its name.
    async fn meet(
        &mut self,
        phase: &Phase,
        object: Object,
        blob: Option<Blob>,
        ticket: Option<(usize, u64)>,
    ) -> Result<(), StepError> {
        let blob = repository::beside(&self.target, phase, &object, blob).await?;
        let differs = match &blob {
            Some(blob) if standing(&object, blob) == Standing::Equal => {
                let counts = if self.goes_again() { CopyOutputs::default() } else { skipped(&object) };
                self.still += counts.bytes;
                return self.end(Ended { key: object.key, ticket, result: Ok(counts) });
            }
            differs => differs,
        };
        if let Some(blob) = differs
            && phase.part == Part::Formats
            && let Err(error) = repository::check_same(&self.source, &self.target, &object, blob).await
        {
            return self.end(Ended { key: object.key, ticket, result: Err(error) });
        }
        self.start(object, differs.is_some(), ticket).await
    }

    /// Starts a transfer, when there is a place for it.
    async fn start(
        &mut self,
        object: Object,
        replaces: bool,
        ticket: Option<(usize, u64)>,
    ) -> Result<(), StepError> {
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
            Ok(mut counts) => {
                if counts.replaced > 0 && self.goes_again() {
                    (counts.objects, counts.bytes) = (0, 0);
                }
                self.in_a_row = 0;
                self.ended += counts.objects;
                self.cursor.failed.retain(|f| f.key != key);
                counts
            }
            Err(error) => match self.failed(&key, error)? {
                Kept::Listed => CopyOutputs::default(),
                Kept::Unlisted => {
                    self.unlisted += 1;
                    if let Some((range, ticket)) = ticket
                        && let Some(stretch) = self.stretch(range)
                    {
                        stretch.water.stay(ticket);
                    }
                    return Ok(());
                }
            },
        };
        let Some((range, ticket)) = ticket else {
            self.cursor.counts.add(&counts);
            return Ok(());
        };
        if let Some(stretch) = self.stretches.as_mut().and_then(|s| s.get_mut(&range)) {
            let before = stretch.water.done();
            stretch.water.end(ticket, key, counts, &mut stretch.range, &mut self.cursor.counts);
            self.since_checkpoint += stretch.water.done() - before;
        }
        self.forget(range);
        Ok(())
    }

    /// Notes a failed object, or ends the attempt where it is not about the object.
    fn failed(&mut self, key: &str, error: StepError) -> Result<Kept, StepError> {
        // These befall every object alike: the attempt ends here, with its place.
        if matches!(error.class, ErrorClass::Auth | ErrorClass::Cancelled) {
            return Err(error);
        }
        self.in_a_row += 1;
        if error.class.is_retryable() && self.in_a_row >= MAX_FAILED_IN_A_ROW {
            return Err(error);
        }
        if self.in_a_row >= MAX_HOPELESS_IN_A_ROW {
            let message = format!("{MAX_HOPELESS_IN_A_ROW} objects failed one after the other");
            return Err(StepError::permanent(message).with_source(error));
        }
        self.ctx.warn(line(&error));
        let failed = Failed { key: key.to_owned(), reason: line(&error), class: error.class };
        match self.cursor.failed.iter().position(|f| f.key == key) {
            Some(at) => self.cursor.failed[at] = failed,
            None if self.cursor.failed.len() < MAX_FAILED => self.cursor.failed.push(failed),
            None => return Ok(Kept::Unlisted),
        }
        Ok(Kept::Listed)
    }

    async fn checkpoint_if_due(&mut self) -> Result<(), StepError> {
        if self.since_checkpoint >= CHECKPOINT_OBJECTS { self.checkpoint().await } else { Ok(()) }
    }

    async fn checkpoint(&mut self) -> Result<(), StepError> {
        self.since_checkpoint = 0;
        self.store.reset();
        let mut cursor = self.cursor.clone();
        cursor.partial = self.mover.partial();
        if let Some(stretches) = &self.stretches {
            cursor.ranges = Some(stretches.values().map(|s| s.range.clone()).collect());
            if stretches.values().any(|stretch| stretch.water.is_unordered()) {
                // There is no place inside: all of it is listed again, and counted then.
                let (ranges, counts) = self.scope_began.clone();
                let as_of_seconds = cursor.counts.as_of_seconds;
                (cursor.ranges, cursor.counts) = (Some(ranges), CopyOutputs { as_of_seconds, ..counts });
            }
        }
        self.ctx.checkpoint(&cursor).await
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

/// Where a failed object is remembered.
enum Kept {
    Listed,
    Unlisted,
}

pub(super) fn skipped(object: &Object) -> CopyOutputs {
    CopyOutputs { objects: 1, bytes: object.size, skipped: 1, ..CopyOutputs::default() }
}

/// The end of an attempt in which objects failed: `failed`, and `more` that have no place in the list.
/// Retryable only if all of them are.
pub(super) fn failed_objects(phase: &Phase, failed: &[Failed], more: u64) -> StepError {
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
    let all = failed.len() as u64 + more;
    let mut named: Vec<String> = failed.iter().take(NAMED).map(|f| f.reason.clone()).collect();
    if all > named.len() as u64 {
        named.push(format!("and {} more", all - named.len() as u64));
    }
    let message = format!("{all} of the {} could not be copied: {}", phase.name, named.join("; "));
    StepError::new(class, message).with_hint("the rest is copied; `migrate resume` tries only these again")
}
