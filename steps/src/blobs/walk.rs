//! Both listings of a scope side by side, by ranges of keys at once, in bounded memory.
//!
//! A scope begins as one range. While its listing goes on for long, the range with the most behind
//! it is cut where the bucket says that keys go on, and both halves are listed at the same time;
//! within a range, pairs come in the order of the keys. A bucket that doesn't list in that order
//! (S3 directory buckets) is never cut. Where the target can't begin in the middle (before version
//! 2026-02-06, and Azurite) cutting stops, since each range would read all of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_plugin_api::{StepContext, StepError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::merge::{Merge, Pages, Pair};
use super::range::{LAST, Range, turned, turns};
use super::source::Source;
use super::target::{Blob, Start, Target};

/// Ranges that are listed at the same time: each costs two pages of memory on both sides.
const MAX_RANGES: usize = 4;
/// Cuts of a scope in all. Each is a range in the cursor; a few more than at once even out a bad cut.
const MAX_CUTS: usize = 60;
/// Pairs of a range before it may be cut, some pages of S3: what is shorter is over before a place to cut
/// at is found, which takes some questions.
const CUT_FROM: usize = 6_000;
/// Pairs that travel together.
const BATCH: usize = 256;
/// Batches on their way to a reader that is busy.
const AHEAD: usize = 4;

/// What a walk tells, in this order for each range.
#[derive(Debug)]
pub(super) enum Event {
    /// Objects of a range with their blobs, and blobs without an object.
    Pairs { range: usize, pairs: Vec<Pair> },
    /// Range `of` ends at `at`; `new` is what lay behind.
    Cut { of: usize, at: String, new: usize },
    /// A range came to its end.
    Ended { range: usize },
}

/// What is to be listed.
pub(super) struct Scope {
    pub(super) source: Arc<Source>,
    pub(super) target: Arc<Target>,
    pub(super) prefix: String,
    /// Whether blobs without an object are wanted too.
    pub(super) extras: bool,
    /// Whether ranges may be cut.
    pub(super) cut: bool,
    /// The target's listing from the scope's start on, where it was begun before.
    pub(super) ahead: Option<Pages<Blob>>,
}

/// Said of a bucket that was cut and turns out to list in an order of its own: then keys may be
/// missing, and it has to be listed again in one piece.
pub(super) const DISORDER: &str = "the bucket doesn't list its keys in their order";

/// Where a range is, shared between who walks it and who cuts it.
#[derive(Debug, Default)]
struct Place {
    range: Mutex<(Range, usize)>,
    disorder: AtomicBool,
}

impl Place {
    fn range(&self) -> MutexGuard<'_, (Range, usize)> {
        self.range.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the range at `at`, unless it is there already. What lay behind.
    fn cut(&self, at: &str) -> Option<Range> {
        let mut place = self.range();
        let (range, _) = &mut *place;
        if range.after.as_deref().is_none_or(|after| after >= at) || !range.reaches(at) {
            return None;
        }
        let until = range.until.replace(at.to_owned());
        Some(Range { after: Some(at.to_owned()), until })
    }
}

/// Walks all of `prefix`, from its start.
pub(super) fn walk_all(
    source: &Arc<Source>,
    target: &Arc<Target>,
    prefix: &str,
    extras: bool,
    cut: bool,
) -> mpsc::Receiver<Result<Event, StepError>> {
    let (source, target) = (Arc::clone(source), Arc::clone(target));
    let scope = Scope { source, target, prefix: prefix.to_owned(), extras, cut, ahead: None };
    walk(scope, vec![(0, Range::all())])
}

/// The next pairs of a walk; `None` at its end.
///
/// # Errors
/// As the walk's; `Cancelled` when `ctx` is.
pub(super) async fn next_pairs(
    events: &mut mpsc::Receiver<Result<Event, StepError>>,
    ctx: &StepContext,
) -> Result<Option<Vec<Pair>>, StepError> {
    loop {
        let event = tokio::select! {
            () = ctx.cancel.cancelled() => return Err(StepError::cancelled()),
            event = events.recv() => event,
        };
        match event.transpose()? {
            Some(Event::Pairs { pairs, .. }) => return Ok(Some(pairs)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// Walks `ranges` of `scope`, which keep their numbers. Ends with its reader.
pub(super) fn walk(
    mut scope: Scope,
    ranges: Vec<(usize, Range)>,
) -> mpsc::Receiver<Result<Event, StepError>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut walk = Walk {
            next: ranges.iter().map(|(number, _)| number + 1).max().unwrap_or(0),
            ahead: scope.ahead.take(),
            scope: Arc::new(scope),
            sender: sender.clone(),
            waiting: ranges,
            active: Vec::new(),
            cuts: 0,
            tasks: JoinSet::new(),
        };
        tokio::select! {
            () = sender.closed() => {}
            ended = walk.run() => if let Err(error) = ended {
                // The reader may have gone; then nobody wants to know.
                let _ = sender.send(Err(error)).await;
            }
        }
    });
    receiver
}

struct Walk {
    scope: Arc<Scope>,
    ahead: Option<Pages<Blob>>,
    sender: mpsc::Sender<Result<Event, StepError>>,
    waiting: Vec<(usize, Range)>,
    active: Vec<(usize, Arc<Place>)>,
    next: usize,
    cuts: usize,
    tasks: JoinSet<Result<Ending, StepError>>,
}

/// Why a task of the walk is over.
enum Ending {
    Range(usize),
    /// A range may have grown long enough to be cut.
    Long,
    Probed(Option<(usize, String)>),
}

impl Walk {
    async fn run(&mut self) -> Result<(), StepError> {
        let (long, mut longer) = mpsc::channel::<()>(1);
        let mut probing = false;
        loop {
            while self.active.len() < MAX_RANGES && !self.waiting.is_empty() {
                let (number, range) = self.waiting.remove(0);
                self.start(number, range, long.clone());
            }
            if !probing && let Some((number, place)) = self.longest() {
                probing = true;
                let scope = Arc::clone(&self.scope);
                self.tasks.spawn(async move {
                    let at = probe(&scope, &place).await?;
                    Ok(Ending::Probed(at.map(|at| (number, at))))
                });
            }
            let ended = tokio::select! {
                ended = self.tasks.join_next() => ended,
                Some(()) = longer.recv() => Some(Ok(Ok(Ending::Long))),
            };
            let Some(ended) = ended else { return Ok(()) };
            match ended.map_err(|e| StepError::permanent("a listing broke down").with_source(e))?? {
                Ending::Long => {}
                Ending::Range(number) => {
                    self.active.retain(|(active, _)| *active != number);
                    self.tell(Event::Ended { range: number }).await?;
                    if self.active.is_empty() && self.waiting.is_empty() {
                        return Ok(());
                    }
                }
                Ending::Probed(at) => {
                    probing = false;
                    match at {
                        Some((of, at)) => self.cut(of, at).await?,
                        // Nothing to cut: not asked again, or it would be for ever.
                        None => self.cuts = MAX_CUTS,
                    }
                }
            }
        }
    }

    fn start(&mut self, number: usize, range: Range, long: mpsc::Sender<()>) {
        let place = Arc::new(Place { range: Mutex::new((range.clone(), 0)), ..Place::default() });
        self.active.push((number, Arc::clone(&place)));
        let walker =
            Walker { number, place, scope: Arc::clone(&self.scope), sender: self.sender.clone(), long };
        let ahead = if range.after.is_none() { self.ahead.take() } else { None };
        self.tasks.spawn(async move { walker.run(range, ahead).await.map(|()| Ending::Range(number)) });
    }

    /// The range to cut next, if one may be.
    fn longest(&self) -> Option<(usize, Arc<Place>)> {
        let start = self.scope.target.start();
        // Of a target that was never asked to begin in the middle, one answer is awaited.
        let may = match start {
            Start::Works => true,
            Start::Unknown => self.active.len() == 1,
            Start::Ignored => false,
        };
        let disorder = self.active.iter().any(|(_, place)| place.disorder.load(Ordering::Relaxed));
        if !self.scope.cut || !may || disorder || self.cuts >= MAX_CUTS || self.active.len() >= MAX_RANGES {
            return None;
        }
        let longest = self.active.iter().max_by_key(|(_, place)| place.range().1)?;
        (longest.1.range().1 >= CUT_FROM).then(|| (longest.0, Arc::clone(&longest.1)))
    }

    async fn cut(&mut self, of: usize, at: String) -> Result<(), StepError> {
        let place = self.active.iter().find(|(number, _)| *number == of).map(|(_, place)| Arc::clone(place));
        let Some(behind) = place.and_then(|place| place.cut(&at)) else { return Ok(()) };
        self.cuts += 1;
        let new = self.next;
        self.next += 1;
        // Told before anything of the new range.
        self.tell(Event::Cut { of, at, new }).await?;
        self.waiting.push((new, behind));
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), StepError> {
        self.sender.send(Ok(event)).await.map_err(|_| StepError::cancelled())
    }
}

/// A place to cut a range at, with keys behind it: first how early in the key a greater character still
/// has keys behind it, then the greatest such character that halving finds.
async fn probe(scope: &Scope, place: &Place) -> Result<Option<String>, StepError> {
    let (range, _) = place.range().clone();
    let Some(low) = range.after.clone() else { return Ok(None) };
    let (low, range) = (low.as_str(), &range);
    let goes_on = |at: String| async move {
        let next = scope.source.next_key(&scope.prefix, &at).await?;
        Ok::<_, StepError>(next.is_some_and(|key| range.reaches(&key)).then_some(at))
    };
    let turns = turns(&scope.prefix, low);
    let (mut first, mut end, mut found) = (0, turns.len(), None);
    while first < end {
        let middle = usize::midpoint(first, end);
        let turn = turns[middle];
        match goes_on(turned(low, turn, low.as_bytes()[turn] + 1)).await? {
            Some(at) => (end, found) = (middle, Some((turn, at))),
            None => first = middle + 1,
        }
    }
    let Some((turn, mut at)) = found else { return Ok(None) };
    let (mut least, mut most) = (low.as_bytes()[turn] + 1, LAST);
    while most - least > 1 {
        let middle = u8::midpoint(least, most);
        match goes_on(turned(low, turn, middle)).await? {
            // About half of what the character may be: good enough.
            Some(further) => {
                at = further;
                least = most;
            }
            None => most = middle,
        }
        if least == most {
            break;
        }
    }
    Ok(Some(at))
}

/// Walks one range.
struct Walker {
    number: usize,
    place: Arc<Place>,
    scope: Arc<Scope>,
    sender: mpsc::Sender<Result<Event, StepError>>,
    long: mpsc::Sender<()>,
}

impl Walker {
    async fn run(&self, range: Range, ahead: Option<Pages<Blob>>) -> Result<(), StepError> {
        let after = range.after.as_deref();
        let objects = self.scope.source.list(&self.scope.prefix, after);
        let blobs = ahead.unwrap_or_else(|| self.scope.target.list(&self.scope.prefix, after));
        let mut merge = Merge::new(objects, blobs, self.scope.extras);
        let mut batch = Vec::new();
        let mut more = true;
        while more {
            match merge.next().await? {
                Some(pair) if self.moves_on(&pair)? => batch.push(pair),
                _ => more = false,
            }
            if batch.len() >= BATCH || (!more && !batch.is_empty()) {
                let pairs = std::mem::take(&mut batch);
                let event = Event::Pairs { range: self.number, pairs };
                self.sender.send(Ok(event)).await.map_err(|_| StepError::cancelled())?;
            }
        }
        Ok(())
    }

    /// Takes the pair's key as the range's place; `false` behind its end.
    fn moves_on(&self, pair: &Pair) -> Result<bool, StepError> {
        let key = pair.key();
        let mut place = self.place.range();
        let (range, count) = &mut *place;
        if range.after.as_deref().is_some_and(|after| key <= after) {
            if let Pair::Extra(_) = pair {
                // The target's own order; who wants to know asks the bucket for it by name.
                return Ok(true);
            }
            if self.scope.cut && (range.until.is_some() || *count == 0) {
                return Err(StepError::transient(DISORDER));
            }
            self.place.disorder.store(true, Ordering::Relaxed);
        }
        if !range.reaches(key) {
            return Ok(false);
        }
        range.after = Some(key.to_owned());
        *count += 1;
        if *count % CUT_FROM == 0 {
            // Full means that it is told already.
            let _ = self.long.try_send(());
        }
        Ok(true)
    }
}
